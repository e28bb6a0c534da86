"""Which worker is the best? The probability of it for each, over all workers at once.

A score is taken to be a common effect of the example, the worker's own mean, and an error that is independent of the
other workers' errors. The common effect falls out when every score is taken relative to the mean of all workers on the
same example. What then remains about each worker's mean is Wricke's ecovalence W; ``k / (k − 1) · W / (n − 1)``, for
k workers and n groups, estimates the variance of its error. In expectation that is a mean of its own variance, with
weight ``(k − 2) / (k − 1)``, and of the average variance of all: the stability variance of Shukla ("Some statistical
aspects of partitioning genotype-environmental components of variability", Heredity 29, 1972), drawn towards the common
one. It is never negative, as Shukla's can be, and for two workers, whose errors cannot be told apart, it is half the
variance of their difference: that of the paired model.

The posterior of a mean would be Student's t with n − 1 degrees of freedom; it is replaced by the normal distribution
with its mean and variance, ``(n − 1) / (n − 3)`` times the squared standard error, so that
`tsm_training.weights.probability_best` gives the answer by quadrature. No random numbers are used: equal workers have
equal probabilities, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

import attrs

from tsm_training.analysis.paired import MIN_EXAMPLES
from tsm_training.analysis.table import ScoreTable
from tsm_training.learning import probability_best as greatest_of
from tsm_training.text import counted, listed, probability_text

__all__ = ["BestDocument", "BestWorker", "probability_best"]

_SMALLEST_STD: Final = 1e-12


class BestDocument(TypedDict):
    """Who is the best, ready for JSON; see `BestWorker` for the entries."""

    probabilities: dict[str, float | None]
    n: int
    num_examples: int
    failures: dict[str, int]
    left_out: list[str]
    sentence: str


@attrs.frozen
class BestWorker:
    """The probability of each worker that it is the best on average."""

    probabilities: Mapping[str, float | None]
    """By worker id, sum 1; None for each that was left out, and for all where `n` is below `MIN_EXAMPLES`."""
    n: int
    """Number of groups (different targets) with an example on which all compared workers gave an image."""
    num_examples: int
    """Number of examples on which all compared workers gave an image; only these are used."""
    failures: Mapping[str, int]
    """On how many examples each worker gave no image."""
    left_out: tuple[str, ...]
    """Workers without an image on more than half of the examples: they would leave too little to compare the others
    on."""

    @property
    def sentence(self) -> str:
        """Who is most probably the best, and who was left out, in one plain sentence."""
        known = {name: value for name, value in self.probabilities.items() if value is not None}
        left_out = f"; {listed(self.left_out)} left out for failing on more than half" if self.left_out else ""
        targets = counted(self.n, "target")
        if not known:
            needed = f"{targets} with pictures of all workers, at least {MIN_EXAMPLES} are needed"
            return f"not enough data to say which worker is the best: {needed}{left_out}"
        greatest = max(known.values())
        names = listed([name for name, value in known.items() if value == greatest], "or")
        sure = f"{probability_text(greatest, 'P')}{' each' if list(known.values()).count(greatest) > 1 else ''}"
        return f"the best worker is most probably {names} ({sure}; {targets}){left_out}"

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """Show the probabilities in a notebook, the greatest first."""
        from tsm_training.report.notebook import best_card  # noqa: PLC0415 - where HTML is made

        return best_card(self)

    def to_dict(self) -> BestDocument:
        """Return everything as plain values that JSON can hold."""
        return {
            "probabilities": dict(self.probabilities),
            "n": self.n,
            "num_examples": self.num_examples,
            "failures": dict(self.failures),
            "left_out": list(self.left_out),
            "sentence": self.sentence,
        }


def probability_best(table: ScoreTable) -> BestWorker:
    """Return for each worker of a table the probability that it is the best on average.

    Workers that fail on more than half of the examples are left out. The others are compared on the examples where
    every one of them gave an image, each target counting once. Errors of different workers are taken to be
    independent: between two that err alike (variants of one method) `compare` is surer than this.

    Args:
        table: Scores of all workers on the same examples.
    """
    failures = {name: table.failures(name) for name in sorted(table.scores)}
    total = len(table.example_ids)
    compared = [name for name, failed in failures.items() if 2 * failed <= total]
    rows = list(zip(*(table.column(name) for name in compared), strict=True))
    complete = [None not in row for row in rows]
    scores = [
        table.group_means([score if used else None for score, used in zip(table.column(name), complete, strict=True)])
        for name in compared
    ]
    n = len(scores[0]) if scores else 0
    known = dict(zip(compared, _probabilities(scores), strict=True)) if n >= MIN_EXAMPLES else {}
    return BestWorker(
        probabilities={name: known.get(name) for name in failures},
        n=n,
        num_examples=sum(complete),
        failures=failures,
        left_out=tuple(name for name in failures if name not in compared),
    )


def _probabilities(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the probability of each worker, given one score per group of each; sums are exact in any order."""
    k, n = len(scores), len(scores[0])
    common = [math.fsum(group) / k for group in zip(*scores, strict=True)]
    means, stds = [], []
    for row in scores:
        relative = [score - center for score, center in zip(row, common, strict=True)]
        mean = math.fsum(relative) / n
        ecovalence = math.fsum((value - mean) ** 2 for value in relative)
        # k / (k − 1) · W / (n − 1) / n, times (n − 1) / (n − 3)
        variance = k / max(1, k - 1) * ecovalence / n / (n - 3)
        means.append(mean)
        stds.append(max(_SMALLEST_STD, math.sqrt(variance)))
    return greatest_of(means, stds)
