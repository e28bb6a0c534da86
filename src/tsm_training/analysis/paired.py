"""Is one worker better than another? A Bayesian model of paired differences.

The difference of two workers on one example takes away what makes the example easy or hard for both. Examples with the
same target are not independent, so the differences of a group are averaged: n is the number of groups. What is believed
of the mean difference then is a `Posterior`: Student's t, corrected for skewness. Without that correction and its prior
it would be the correlated t test of Benavoli, Corani, Demšar and Zaffalon ("Time for a change: a tutorial for comparing
multiple classifiers through Bayesian analysis", Journal of Machine Learning Research 18(77), 2017, section 3) with
correlation 0, since every example is evaluated once and none is trained on. The region of practical equivalence is
theirs too, after Kruschke ("Bayesian estimation supersedes the t test", Journal of Experimental Psychology: General
142(2), 2013; "Rejecting or accepting parameter values in Bayesian estimation", Advances in Methods and Practices in
Psychological Science 1(2), 2018).
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias, TypedDict, cast

import attrs

from tsm_training.analysis.posterior import Posterior
from tsm_training.analysis.table import ScoreTable
from tsm_training.arguments import is_number
from tsm_training.errors import InvalidArgumentError
from tsm_training.text import counted, difference_text, probability_text

Conclusion: TypeAlias = Literal["better", "worse", "practically equal", "undecided", "not enough data"]
"""What can be said of the first of two workers, compared with the second."""

DEFAULT_ROPE: Final = 0.005
"""Half the width of the region of practical equivalence: a smaller difference in accuracy does not matter."""

BEYOND_DOUBT: Final = 0.95
"""The probability from which on something is taken to be so."""

MIN_EXAMPLES: Final = 8
"""Number of groups below which nothing is said.

At 8 an interval reaches two thirds of the standard deviation of the differences to either side, and it still holds the
truth in 83 % of all cases instead of 90 % where differences are as skewed as a lognormal distribution with sigma 1.
"""


class ComparisonDocument(TypedDict):
    """A comparison, ready for JSON; see `Comparison` for the entries."""

    a: str
    b: str
    n: int
    num_examples: int
    failures_a: int
    failures_b: int
    rope: float
    mean_difference: float | None
    interval: list[float] | None
    """Lower and upper end; None, as the probabilities, where there is not enough data."""
    probability_better: float | None
    """All probabilities are in [0, 1]."""
    probability_worse: float | None
    """Those of better and worse add up to 1."""
    probability_practically_better: float | None
    """Better by more than `rope`; this one and the next two add up to 1."""
    probability_practically_equal: float | None
    """Neither better nor worse by more than `rope`."""
    probability_practically_worse: float | None
    """Worse by more than `rope`."""
    conclusion: Conclusion
    """What is so beyond doubt, if anything is."""
    sentence: str


@attrs.frozen
class Comparison:
    """What is known of the difference in accuracy between two workers; positive where the first is better."""

    a: str
    b: str
    n: int
    """Number of groups (different targets) with an example on which both gave an image."""
    num_examples: int
    """Number of examples on which both gave an image; only these are compared."""
    failures_a: int
    """On how many examples the first gave no image."""
    failures_b: int
    """On how many examples the second gave no image."""
    rope: float
    """A difference up to this one, either way, is practically none."""
    mean_difference: float | None
    """Accuracy of the first less that of the second, each target counting once; None without a common example."""
    posterior: Posterior | None
    """Of the true mean difference; None, as all that follows from it, where `n` is below `MIN_EXAMPLES`."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the central 90 % interval of the true mean difference."""
        return None if self.posterior is None else self.posterior.interval()

    @property
    def probability_better(self) -> float | None:
        """Probability that the first is better, by however little; one half for two that never differed."""
        return None if self.posterior is None else self.posterior.probability_positive

    @property
    def probability_worse(self) -> float | None:
        """Probability that the first is worse, by however little; one half for two that never differed."""
        return None if self.posterior is None else self.posterior.probability_negative

    @property
    def probability_practically_better(self) -> float | None:
        """Probability that the first is better by more than `rope`."""
        return None if self.posterior is None else self.posterior.above(self.rope)

    @property
    def probability_practically_equal(self) -> float | None:
        """Probability that neither is better than the other by more than `rope`."""
        return None if self.posterior is None else self.posterior.within(self.rope)

    @property
    def probability_practically_worse(self) -> float | None:
        """Probability that the first is worse by more than `rope`."""
        return None if self.posterior is None else self.posterior.below(-self.rope)

    @property
    def conclusion(self) -> Conclusion:
        """What is so with a probability of at least `BEYOND_DOUBT`; "undecided" if nothing is.

        A difference that certainly exists, but is certainly too small to matter, is "practically equal".
        """
        if self.posterior is None:
            return "not enough data"
        if self.posterior.within(self.rope) >= BEYOND_DOUBT:
            return "practically equal"
        if self.posterior.probability_positive >= BEYOND_DOUBT:
            return "better"
        return "worse" if self.posterior.probability_negative >= BEYOND_DOUBT else "undecided"

    @property
    def sentence(self) -> str:
        """The conclusion with its figures, and who failed how often, in one plain sentence."""
        failed = [
            f"{name} gave no picture on {counted(number, 'example')}"
            for name, number in ((self.a, self.failures_a), (self.b, self.failures_b))
            if number
        ]
        return "; ".join([sentence_between(self, self.a, self.b), *failed])

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook: what it says, and the difference with its interval."""
        from tsm_training.report.notebook import comparison_card  # noqa: PLC0415 - where HTML is made

        return comparison_card(self)

    def to_dict(self) -> ComparisonDocument:
        """Return everything as plain values that JSON can hold."""
        document = {name: getattr(self, name) for name in ComparisonDocument.__annotations__}
        interval = None if self.interval is None else list(self.interval)
        return cast("ComparisonDocument", document | {"interval": interval})


def compare(table: ScoreTable, a: str, b: str, *, rope: float = DEFAULT_ROPE) -> Comparison:
    """Compare two workers, or baselines, on the examples where both gave an image.

    Failures are counted, not averaged in: how much worse no image is than a bad one is for the reader to say.

    Args:
        table: Scores of both on the same examples.
        a: The first of them; a positive difference speaks for it.
        b: The second.
        rope: Half the width of the region of practical equivalence, in accuracy, at least 0 and below 1.

    Raises:
        InvalidArgumentError: the table does not have them, they are one and the same, or `rope` is out of range.
    """
    rope = check_rope(rope)
    if a == b:
        raise InvalidArgumentError("b", b, "another one than a")
    pairs = zip(table.column(a), table.column(b), strict=True)
    differences = [None if first is None or second is None else first - second for first, second in pairs]
    means = table.group_means(differences)
    return Comparison(
        a=a,
        b=b,
        n=len(means),
        num_examples=len(differences) - differences.count(None),
        failures_a=table.failures(a),
        failures_b=table.failures(b),
        rope=rope,
        mean_difference=math.fsum(means) / len(means) if means else None,
        posterior=Posterior.of(means) if len(means) >= MIN_EXAMPLES else None,
    )


def check_rope(rope: object, name: str = "rope") -> float:
    """Return `rope` as float; InvalidArgumentError unless it is a number of at least 0 and below 1."""
    if not is_number(rope) or not 0.0 <= rope < 1.0:
        raise InvalidArgumentError(name, rope, "a number of at least 0 and below 1")
    return float(rope)


# --- in words -------------------------------------------------------------------------------------------------------


def sentence_between(comparison: Comparison, a: str, b: str) -> str:
    """Return the conclusion with its figures, but not the failures, calling the two compared `a` and `b`."""
    posterior, conclusion = comparison.posterior, comparison.conclusion
    targets = counted(comparison.n, "target")
    if posterior is None:
        needed = f"{targets} with pictures of both, at least {MIN_EXAMPLES} are needed"
        return f"not enough data to compare {a} with {b}: {needed}"
    if posterior.scale == 0.0:
        return f"{a} and {b} score alike on all {targets}"
    if conclusion == "practically equal":
        sure = f"{probability_text(posterior.within(comparison.rope), 'P')} for at most {comparison.rope:g}"
        return f"{a} and {b} are practically equal, the difference is {figures_text(posterior, sure)}"
    if conclusion == "undecided":
        sure = f"{probability_text(posterior.probability_positive, 'P')} that it is {a}"
        return f"it is undecided whether {a} or {b} is better, the difference is {figures_text(posterior, sure)}"
    if conclusion == "worse":
        posterior = posterior.mirrored()
    sure = probability_text(posterior.probability_positive, "P")
    return f"{a} is {conclusion} than {b} by {figures_text(posterior, sure)}"


def figures_text(posterior: Posterior, sure: str) -> str:
    """Return a mean difference, its interval, the number of targets behind it, and how sure something is."""
    low, high = posterior.interval()
    mean, lower, upper = (difference_text(value, (high - low) / 2.0) for value in (posterior.mean, low, high))
    return f"{mean} (90 % interval {lower} to {upper}, {counted(posterior.df + 1, 'target')}; {sure})"
