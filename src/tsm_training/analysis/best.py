"""Which worker is the best? The probability of it for each, over all workers at once.

A score is taken to be a common effect of the example, the worker's own mean, and an error that is independent of the
other workers' errors. The common effect falls out when every score is taken relative to the mean of all workers on the
same example. What then remains about each worker's mean is Wricke's ecovalence W; ``k / (k − 1) · W / (n − 1)``, for
k workers and n groups, estimates the variance of its error. In expectation that is a mean of its own variance, with
weight ``(k − 2) / (k − 1)``, and of the average variance of all: the stability variance of Shukla ("Some statistical
aspects of partitioning genotype-environmental components of variability", Heredity 29, 1972), drawn towards the common
one. It is never negative, as Shukla's can be, and for two workers, whose errors cannot be told apart, it is half the
variance of their difference: that of the paired model.

As in `compare`, the variance is taken to be known beforehand as well as one difference of `PRIOR_SPREAD` would tell it.
The posterior of a mean is Student's t with n − 1 degrees of freedom; it is replaced by the normal distribution with its
mean and variance. The winner of a sample was lucky, too: the less the workers' means differ beside their
errors, the more of the lead is luck. The means are therefore drawn towards each other as far as their spread suggests:
it is unknown and has a half-Cauchy prior (Gelman, "Prior distributions for variance parameters in hierarchical models",
Bayesian Analysis 1(3), 2006), in the quantiles of which it is summed over. `tsm_training.core.probability_best` then
gives the answer by quadrature. No random numbers are used: equal workers have equal probabilities, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, cast

import attrs

from tsm_training.analysis.paired import MIN_EXAMPLES
from tsm_training.analysis.posterior import PRIOR_SPREAD
from tsm_training.analysis.table import ScoreTable
from tsm_training.learning import probability_best as greatest_of
from tsm_training.text import counted, listed, probability_text

_SPREADS: Final = tuple(PRIOR_SPREAD * math.tan(math.pi / 4.0 * (number + 0.5) / 8.0) for number in range(16))
"""What the spread of the workers' means may be: sixteen quantiles of its prior, whose median is `PRIOR_SPREAD`."""


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
        document = {name: getattr(self, name) for name in BestDocument.__annotations__}
        own = {"probabilities": {**self.probabilities}, "failures": {**self.failures}, "left_out": [*self.left_out]}
        return cast("BestDocument", document | own)


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
    means, variances = [], []
    for row in scores:
        relative = [score - center for score, center in zip(row, common, strict=True)]
        mean = math.fsum(relative) / n
        ecovalence = math.fsum((value - mean) ** 2 for value in relative)
        means.append(mean)
        # (n − 1) / (n − 3) times the squared standard error
        variances.append((k / max(1, k - 1) * ecovalence + PRIOR_SPREAD**2) / n**2 * (n - 1) / (n - 3))
    kept = _kept(means, variances)
    shrunk = [part * mean for part, mean in zip(kept, means, strict=True)]
    return greatest_of(shrunk, [math.sqrt(part * variance) for part, variance in zip(kept, variances, strict=True)])


def _kept(means: Sequence[float], variances: Sequence[float]) -> list[float]:
    """Return the part of each worker's lead that is not luck, in (0, 1)."""
    logs = []
    for spread in _SPREADS:
        totals = [spread**2 + variance for variance in variances]
        misfit = math.fsum(math.log(total) + mean**2 / total for mean, total in zip(means, totals, strict=True))
        logs.append(-misfit / 2.0)
    weights = [math.exp(log - max(logs)) for log in logs]
    whole = math.fsum(weights)
    parts = [[spread**2 / (spread**2 + variance) for spread in _SPREADS] for variance in variances]
    return [math.fsum(w * part for w, part in zip(weights, row, strict=True)) / whole for row in parts]
