"""Are these weights worth shipping? What the trained ensemble has to show, and against whom.

The rule stands in `judge`. Why it is so: to change what is in use there must be a gain, so a gain is asked of the
trained ensemble there. Of the other contenders it is only asked that none of them makes training pointless: the trained
ensemble may equal the best single worker or the untouched target. For the same reason it takes a practical loss beyond
doubt against one of them to forbid shipping, so that for each contender the regions of "ship", "don't ship" and
"collect more" exclude each other and leave nothing out.

The relation between pictures and truths is looked at first, since without it every other comparison can be won for the
wrong reason: smooth pictures, say, are closer to any truth than others. Each truth counts once on both sides of that
comparison, so what makes a truth easy cancels in the mean but not in the standard deviation: the check errs on the side
of caution.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final, Literal, Self, TypeAlias, TypedDict

import attrs

from tsm_training.analysis import student
from tsm_training.analysis.paired import (
    BEYOND_DOUBT,
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    Comparison,
    ComparisonDocument,
    check_rope,
    compare,
    sentence_between,
)
from tsm_training.analysis.posterior import INTERVAL_MASS
from tsm_training.analysis.table import ScoreTable
from tsm_training.analysis.words import figures_text, probability_text
from tsm_training.arguments import check_whole_number
from tsm_training.errors import InvalidArgumentError
from tsm_training.markup import card, counted, figure_text, interval_text, listed, small_table, tag

__all__ = [
    "CONTENDERS",
    "CONTROL",
    "RELATED",
    "TRAINED",
    "Decision",
    "ExampleScores",
    "Verdict",
    "VerdictDocument",
    "examples_for_half_width",
    "judge",
]

Decision: TypeAlias = Literal["ship", "don't ship", "collect more"]
"""What to do with trained weights."""

TRAINED: Final = "trained"
"""The column of the trained ensemble's scores."""

CONTROL: Final = "control"
"""The column of the scores of the trained ensemble's pictures against *another* example's ground truth."""

CONTENDERS: Final[Mapping[str, str]] = {
    "previous": "the ensemble in use",
    "equal_weights": "the ensemble with equal weights",
    "best_single": "the best single worker",
    "untouched": "the untouched target",
}
"""The columns of those that the trained ensemble is compared with, and what sentences call them.

The best single worker is the one that was best on the examples trained on.
"""

RELATED: Final = 0.975
"""How probable it must be that the ensemble's pictures agree better with their own ground truth than with another's."""

_US: Final = "the trained ensemble"
_IN_USE: Final = ("previous", "equal_weights")


class ExampleScores(TypedDict):
    """One row of a verdict's table."""

    example_id: str
    group: str
    scores: dict[str, float | None]
    """By column, in [0, 1]; None where there was no picture."""


class VerdictDocument(TypedDict):
    """A verdict, ready for JSON; see `Verdict` for the entries."""

    decision: Decision
    """What to do."""
    sentence: str
    more: int | None
    in_use: str
    comparisons: dict[str, ComparisonDocument]
    relation: ComparisonDocument | None
    n: int
    num_examples: int
    rope: float


@attrs.frozen
class Verdict:
    """Whether trained weights are worth shipping, and why."""

    decision: Decision
    """What to do with the trained weights."""
    sentence: str
    """The decision and its reason, with the figures, in one plain sentence."""
    more: int | None
    """About how many more examples to judge by, each with a target of its own, are wanted; None if none are."""
    in_use: str
    """What would be replaced: "previous", or "equal_weights" where nothing had been learned before."""
    comparisons: Mapping[str, Comparison]
    """The trained ensemble compared with each contender, by its column."""
    relation: Comparison | None
    """The agreement of its pictures with their own ground truth compared with that with another example's."""
    n: int
    """Number of groups (different targets) on which it was compared with what is in use."""
    num_examples: int
    """Number of examples on which both gave a picture."""
    rope: float
    """A difference up to this one, either way, is practically none."""
    per_example: tuple[ExampleScores, ...] = attrs.field(repr=False)
    """All scores that were looked at, in the order of the table."""

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook, with the comparisons behind it."""
        rows = [
            [
                CONTENDERS[name],
                figure_text(each.mean_difference, signed=True) + interval_text(each.interval, signed=True),
            ]
            for name, each in self.comparisons.items()
        ]
        table = small_table(["contender", "gain of the trained ensemble, 90 % interval"], rows)
        return card(f"Verdict: {self.decision}", tag("div", self.sentence), table)

    def to_dict(self) -> VerdictDocument:
        """Return everything but the scores of each example as plain values that JSON can hold."""
        return {
            "decision": self.decision,
            "sentence": self.sentence,
            "more": self.more,
            "in_use": self.in_use,
            "comparisons": {name: comparison.to_dict() for name, comparison in self.comparisons.items()},
            "relation": None if self.relation is None else self.relation.to_dict(),
            "n": self.n,
            "num_examples": self.num_examples,
            "rope": self.rope,
        }


def judge(table: ScoreTable, *, rope: float = DEFAULT_ROPE) -> Verdict:
    """Decide whether trained weights are worth shipping.

    All contenders are compared with the trained ensemble by paired differences, see `compare`. In use is "previous", or
    "equal_weights" where the table has no such column. The first of these that applies decides:

    1. Fewer than `MIN_EXAMPLES` groups: collect as many as are missing.
    2. Its pictures agree better with their own ground truth than with another example's, but P < `RELATED`: don't ship.
    3. It fails on more examples than what is in use, or has exactly the same scores: don't ship.
    4. It is worse than a contender by more than `rope`, P ≥ `BEYOND_DOUBT`: don't ship.
    5. It is practically equal to what is in use, or worse, P ≥ `BEYOND_DOUBT`: don't ship.
    6. It is better than what is in use, and as surely not worse than any other contender by more than `rope`: ship.
    7. Collect more: as many as should make the interval half as wide, see `examples_for_half_width`.

    A contender other than what is in use that has too few pictures for a comparison decides nothing.

    Args:
        table: Scores on examples that were never trained on, of one metric on the same pixels: a column "trained", at
            least one of "previous" and "equal_weights", and any of "best_single", "untouched" and "control". The last
            holds the scores of the trained ensemble's pictures against the ground truth of an example of another
            group, best each truth once, or None where none has the same size; without it the relation between pictures
            and truths is not checked.
        rope: Half the width of the region of practical equivalence, in accuracy, at least 0 and below 1.

    Raises:
        InvalidArgumentError: a column is missing or unknown, or `rope` is out of range.
    """
    case = _Case.of(table, check_rope(rope))
    ruling = next(ruling for rule in _RULES if (ruling := rule(case)) is not None)
    rows = zip(*table.scores.values(), strict=True)
    return Verdict(
        decision=ruling.decision,
        sentence=f"{ruling.reason}.",
        more=ruling.more,
        in_use=case.in_use,
        comparisons=case.comparisons,
        relation=case.relation,
        n=case.main.n,
        num_examples=case.main.num_examples,
        rope=case.main.rope,
        per_example=tuple(
            ExampleScores(example_id=example_id, group=group, scores=dict(zip(table.scores, row, strict=True)))
            for example_id, group, row in zip(table.example_ids, table.groups, rows, strict=True)
        ),
    )


def examples_for_half_width(n: int) -> int:
    """Return the smallest number of groups that should give an interval at most half as wide as `n` groups do.

    It depends on `n` alone: intervals are as wide as ``t / √n``, with t the quantile of Student's t distribution with
    n − 1 degrees of freedom, where the differences vary as much as they do today.

    Raises:
        InvalidArgumentError: `n` is no whole number of at least 2.
    """
    n = check_whole_number("n", n, 2)
    # Four times as many always do, since quantiles fall with the degrees of freedom.
    candidates = range(n, 4 * n + 1)
    return candidates[bisect_left(candidates, -_relative_width(n) / 2.0, key=lambda m: -_relative_width(m))]


def _relative_width(n: int) -> float:
    return student.quantile(0.5 + INTERVAL_MASS / 2.0, n - 1) / math.sqrt(n)


# --- the rule -------------------------------------------------------------------------------------------------------


def _in_use(table: ScoreTable) -> str:
    found = [name for name in _IN_USE if name in table.scores]
    if not found or TRAINED not in table.scores or table.scores.keys() - {TRAINED, CONTROL, *CONTENDERS}:
        rest = "nothing else but 'best_single', 'untouched' and 'control'"
        expected = f"columns with the names 'trained', at least one of 'previous' and 'equal_weights', and {rest}"
        raise InvalidArgumentError("scores", sorted(table.scores), expected)
    return found[0]


@attrs.frozen
class _Ruling:
    decision: Decision
    reason: str
    more: int | None = None


@attrs.frozen
class _Case:
    """What the parts of the rule look at."""

    in_use: str
    comparisons: Mapping[str, Comparison]
    relation: Comparison | None
    unchanged: bool
    """Whether the trained ensemble scores as what is in use on every single example."""
    others: Mapping[str, Comparison]
    """The comparisons with contenders that differ from what is in use and have enough pictures to be compared."""

    @classmethod
    def of(cls, table: ScoreTable, rope: float) -> Self:
        in_use = _in_use(table)
        comparisons = {name: compare(table, TRAINED, name, rope=rope) for name in CONTENDERS if name in table.scores}
        return cls(
            in_use=in_use,
            comparisons=comparisons,
            relation=compare(table, TRAINED, CONTROL, rope=rope) if CONTROL in table.scores else None,
            unchanged=table.column(TRAINED) == table.column(in_use),
            others={
                name: comparison
                for name, comparison in comparisons.items()
                if comparison.posterior is not None and table.column(name) != table.column(in_use)
            },
        )

    @property
    def main(self) -> Comparison:
        """The comparison with what is in use."""
        return self.comparisons[self.in_use]

    def also(self) -> list[str]:
        """How the trained ensemble stands to the others, none of which it is practically worse than, in words."""
        found: dict[str, list[str]] = {"better than": [], "practically equal to": [], "not practically worse than": []}
        for name, comparison in self.others.items():
            words = {"better": "better than", "practically equal": "practically equal to"}
            found[words.get(comparison.conclusion, "not practically worse than")].append(CONTENDERS[name])
        return [
            f"{words} {listed(names, 'or' if 'worse' in words else 'and')}" for words, names in found.items() if names
        ]

    def doing_nothing(self) -> str:
        """A warning where the ensemble may ship, but shows no gain over leaving targets as they are."""
        conclusion = self.others["untouched"].conclusion if "untouched" in self.others else None
        if conclusion == "practically equal":
            return ". But on these pictures doing nothing is as good: the target as it was is as near to what is wanted"
        if conclusion in {"undecided", "worse"}:
            return ". But nothing shows that this is better than doing nothing, which leaves the target as it was"
        return ""

    def described(self, name: str) -> str:
        return sentence_between(self.comparisons[name], _US, CONTENDERS[name])


def _too_few(case: _Case) -> _Ruling | None:
    if case.main.posterior is not None:
        return None
    more = MIN_EXAMPLES - case.main.n
    return _Ruling("collect more", f"Collect at least {_wanted(more)}: {case.described(case.in_use)}", more)


def _unrelated(case: _Case) -> _Ruling | None:
    posterior = None if case.relation is None else case.relation.posterior
    if posterior is None or posterior.probability_positive >= RELATED:
        return None
    sure = f"{probability_text(posterior.probability_positive)} for its own"
    reason = "nothing shows that a picture agrees better with its own ground truth than with another example's"
    return _Ruling("don't ship", f"Don't ship: {reason}, the difference is {figures_text(posterior, sure)}")


def _fails(case: _Case) -> _Ruling | None:
    ours, theirs = case.main.failures_a, case.main.failures_b
    if ours <= theirs:
        return None
    reason = f"{_US} gave no picture on {counted(ours, 'example')}, {CONTENDERS[case.in_use]} on {theirs or 'none'}"
    return _Ruling("don't ship", f"Don't ship: {reason}")


def _unchanged(case: _Case) -> _Ruling | None:
    if not case.unchanged:
        return None
    targets = f"all {counted(case.main.n, 'target')}"
    return _Ruling(
        "don't ship", f"Don't ship: nothing has changed, {_US} scores as {CONTENDERS[case.in_use]} on {targets}"
    )


def _loses(case: _Case) -> _Ruling | None:
    winners = [name for name, comparison in case.others.items() if _risk(comparison) >= BEYOND_DOUBT]
    if not winners:
        return None
    best = min(winners, key=lambda name: case.others[name].mean_difference or 0.0)
    return _Ruling("don't ship", f"Don't ship: {case.described(best)}")


def _gains_nothing(case: _Case) -> _Ruling | None:
    if case.main.conclusion not in {"practically equal", "worse"}:
        return None
    return _Ruling("don't ship", f"Don't ship: {case.described(case.in_use)}")


def _ships(case: _Case) -> _Ruling | None:
    if case.main.conclusion != "better" or any(1.0 - _risk(other) < BEYOND_DOUBT for other in case.others.values()):
        return None
    return _Ruling("ship", f"Ship: {listed([case.described(case.in_use), *case.also()])}{case.doing_nothing()}")


def _undecided(case: _Case) -> _Ruling:
    more = examples_for_half_width(case.main.n) - case.main.n
    reason = case.described(case.in_use)
    if case.main.conclusion == "better":
        riskiest = max(case.others, key=lambda name: _risk(case.others[name]))
        sure = probability_text(1.0 - _risk(case.others[riskiest]))
        reason += f", but may be practically worse than {CONTENDERS[riskiest]} ({sure} that it is not)"
    return _Ruling("collect more", f"Collect about {_wanted(more)}: {reason}", more)


_RULES: Final[tuple[Callable[[_Case], _Ruling | None], ...]] = (
    _too_few,
    _unrelated,
    _fails,
    _unchanged,
    _loses,
    _gains_nothing,
    _ships,
    _undecided,
)
"""In this order; the last decides whatever the others leave open."""


def _risk(comparison: Comparison) -> float:
    return comparison.probability_practically_worse or 0.0


def _wanted(more: int) -> str:
    return f"{counted(more, 'more example')} to judge by, {'each ' if more > 1 else ''}with a target of its own"
