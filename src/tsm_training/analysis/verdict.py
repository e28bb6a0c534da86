"""Are these weights worth shipping? What the trained ensemble has to show, and against whom.

The rule stands in `judge`. Why it is so: to change what is in use there must be a gain, and an answer that is no nearer
to what is wanted than the picture as it came is no answer, so a gain is asked of the trained ensemble over these two.
Of the other contenders it is only asked that none of them makes training pointless: the trained ensemble may equal the
best single worker. More examples are asked for only where they may change the answer: where the difference that was
seen speaks for the trained ensemble.

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
    "called",
    "examples_for_half_width",
    "judge",
]

Decision: TypeAlias = Literal["ship", "don't ship", "no gain", "collect more"]
"""What to do with trained weights; with "no gain" leave pictures as they are."""

TRAINED: Final = "trained"
"""The column of the trained ensemble's scores."""

CONTROL: Final = "control"
"""The column of the scores of the trained ensemble's pictures against *another* example's ground truth."""

CONTENDERS: Final[Mapping[str, str]] = {
    "previous": "the ensemble in use",
    "equal_weights": "the ensemble with equal weights",
    "best_single": "the best single worker",
    "best_fixed": "the best fixed worker",
    "untouched": "the untouched target",
}
"""The columns of those that the trained ensemble is compared with, and what sentences call them.

The best single worker is the one that was best on the examples trained on; the best fixed worker is the best of those
that are not fitted on ground truths themselves, and stands there where it is another one.
"""

RELATED: Final = 0.975
"""How probable it must be that the ensemble's pictures agree better with their own ground truth than with another's."""

_US: Final = "the trained ensemble"
_UNTOUCHED: Final = "untouched"
_IN_USE: Final = ("previous", "equal_weights")
_WHAT_HELPS: Final = (
    "What may help: more examples per look, group_by where looks have names, another metric (ColorDifference), or "
    "other workers"
)


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
    best_single: str | None
    best_fixed: str | None
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
    best_single: str | None
    """Id of the worker that was best on what was learned from; None where that is not known."""
    best_fixed: str | None
    """Id of the best of those workers that are not fitted on ground truths; None where that is not known."""
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
                called(name, self.best_single, self.best_fixed),
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
            "best_single": self.best_single,
            "best_fixed": self.best_fixed,
            "comparisons": {name: comparison.to_dict() for name, comparison in self.comparisons.items()},
            "relation": None if self.relation is None else self.relation.to_dict(),
            "n": self.n,
            "num_examples": self.num_examples,
            "rope": self.rope,
        }


def judge(
    table: ScoreTable, *, rope: float = DEFAULT_ROPE, best_single: str | None = None, best_fixed: str | None = None
) -> Verdict:
    """Decide whether trained weights are worth shipping.

    All contenders are compared with the trained ensemble by paired differences, see `compare`. In use is "previous", or
    "equal_weights" where the table has no such column. The first of these that applies decides:

    1. Its pictures agree better with their own ground truth than with another example's, but P < `RELATED`: don't ship.
    2. It is not better than the untouched target: it scores exactly like it, or is better by more than `rope` with a
       probability of at most 1 − `BEYOND_DOUBT`, or the mean difference speaks against it: no gain.
    3. Fewer than `MIN_EXAMPLES` groups: collect as many as are missing. No part of the rule looks at a comparison with
       fewer.
    4. It fails on more examples than what is in use, or has exactly the same scores: don't ship.
    5. It is worse than a contender by more than `rope`, P ≥ `BEYOND_DOUBT`: don't ship.
    6. It is practically equal to what is in use, or worse, P ≥ `BEYOND_DOUBT`: don't ship.
    7. It is better than what is in use and than the untouched target, and as surely not worse than any other contender
       by more than `rope`: ship.
    8. It is not shown to be so, and the mean difference from what is in use is not above 0, or that from another
       contender is below −`rope`, so that more examples would hardly help: don't ship.
    9. Collect more: as many as should make the interval half as wide, see `examples_for_half_width`.

    A contender other than what is in use that has too few pictures for a comparison decides nothing.

    Args:
        table: Scores on examples that were never trained on, of one metric on the same pixels: a column "trained", at
            least one of "previous" and "equal_weights", and any of "best_single", "best_fixed", "untouched" and
            "control". The last holds the scores of the trained ensemble's pictures against the ground truth of an
            example of another group, best each truth once, or None where none has the same size; without it the
            relation between pictures and truths is not checked.
        rope: Half the width of the region of practical equivalence, in accuracy, at least 0 and below 1.
        best_single: Id of the best single worker, to name it.
        best_fixed: Id of the best of the workers that are not fitted on ground truths, to name it.

    Raises:
        InvalidArgumentError: a column is missing or unknown, or `rope` is out of range.
    """
    case = _Case.of(table, check_rope(rope), best_single, best_fixed)
    ruling = next(ruling for rule in _RULES if (ruling := rule(case)) is not None)
    rows = zip(*table.scores.values(), strict=True)
    return Verdict(
        decision=ruling.decision,
        sentence=f"{ruling.reason}.",
        more=ruling.more,
        in_use=case.in_use,
        best_single=best_single,
        best_fixed=best_fixed,
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


def called(name: str, best_single: str | None, best_fixed: str | None) -> str:
    """Return what sentences call a contender: single workers by their ids, where these are known."""
    worker_id = {"best_single": best_single, "best_fixed": best_fixed}.get(name)
    return CONTENDERS[name] if worker_id is None else f"{CONTENDERS[name]} ({worker_id})"


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
        rest = "nothing else but 'best_single', 'best_fixed', 'untouched' and 'control'"
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
    names: Mapping[str, str]
    """What the contenders are called."""
    comparisons: Mapping[str, Comparison]
    relation: Comparison | None
    unchanged: bool
    """Whether the trained ensemble scores as what is in use on every single example."""
    idle: bool
    """Whether it scores as the untouched target on every single example."""
    others: Mapping[str, Comparison]
    """The comparisons with contenders that differ from what is in use and have enough pictures to be compared."""

    @classmethod
    def of(cls, table: ScoreTable, rope: float, best_single: str | None, best_fixed: str | None) -> Self:
        in_use = _in_use(table)
        comparisons = {name: compare(table, TRAINED, name, rope=rope) for name in CONTENDERS if name in table.scores}
        return cls(
            in_use=in_use,
            names={name: called(name, best_single, best_fixed) for name in CONTENDERS},
            comparisons=comparisons,
            relation=compare(table, TRAINED, CONTROL, rope=rope) if CONTROL in table.scores else None,
            unchanged=table.column(TRAINED) == table.column(in_use),
            idle=table.column(TRAINED) == table.scores.get(_UNTOUCHED),
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

    @property
    def untouched(self) -> Comparison | None:
        """The comparison with the untouched target, where there are enough pictures for one."""
        found = self.comparisons.get(_UNTOUCHED)
        return None if found is None or found.posterior is None else found

    def also(self) -> list[str]:
        """How the trained ensemble stands to the others, none of which it is practically worse than, in words."""
        found: dict[str, list[str]] = {"better than": [], "practically equal to": [], "not practically worse than": []}
        for name, comparison in self.others.items():
            words = {"better": "better than", "practically equal": "practically equal to"}
            found[words.get(comparison.conclusion, "not practically worse than")].append(self.names[name])
        return [
            f"{words} {listed(names, 'or' if 'worse' in words else 'and')}" for words, names in found.items() if names
        ]

    def described(self, name: str) -> str:
        return sentence_between(self.comparisons[name], _US, self.names[name])


def _too_few(case: _Case) -> _Ruling | None:
    if case.main.posterior is not None:
        return None
    more = MIN_EXAMPLES - case.main.n
    return _Ruling("collect more", f"Collect at least {_wanted(more)}: {case.described(case.in_use)}", more)


def _unrelated(case: _Case) -> _Ruling | None:
    posterior = None if case.relation is None else case.relation.posterior
    if case.idle or posterior is None or posterior.probability_positive >= RELATED:
        return None
    sure = f"{probability_text(posterior.probability_positive)} for its own"
    reason = "nothing shows that a picture agrees better with its own ground truth than with another example's"
    return _Ruling("don't ship", f"Don't ship: {reason}, the difference is {figures_text(posterior, sure)}")


def _no_gain(case: _Case) -> _Ruling | None:
    found = case.untouched
    if found is None or not (case.idle or _hopeless(found)):
        return None
    reason = f"Leave pictures as they are: {case.described(_UNTOUCHED)}"
    return _Ruling("no gain", f"{reason}. {_WHAT_HELPS}")


def _hopeless(comparison: Comparison) -> bool:
    """Whether there is no practical gain, beyond doubt or as far as the mean difference tells."""
    gains = comparison.probability_practically_better or 0.0
    return 1.0 - gains >= BEYOND_DOUBT or _difference(comparison) <= 0.0


def _fails(case: _Case) -> _Ruling | None:
    ours, theirs = case.main.failures_a, case.main.failures_b
    if ours <= theirs:
        return None
    reason = f"{_US} gave no picture on {counted(ours, 'example')}, {case.names[case.in_use]} on {theirs or 'none'}"
    return _Ruling("don't ship", f"Don't ship: {reason}")


def _unchanged(case: _Case) -> _Ruling | None:
    if not case.unchanged:
        return None
    targets = f"all {counted(case.main.n, 'target')}"
    return _Ruling(
        "don't ship", f"Don't ship: nothing has changed, {_US} scores as {case.names[case.in_use]} on {targets}"
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
    asked = [each for each in (case.main, case.untouched) if each is not None]
    if any(each.conclusion != "better" for each in asked) or any(map(_is_risky, case.others.values())):
        return None
    return _Ruling("ship", f"Ship: {listed([case.described(case.in_use), *case.also()])}")


def _hardly_helped(case: _Case) -> _Ruling | None:
    against = [name for name, each in case.others.items() if _is_risky(each) and _difference(each) < -each.rope]
    if case.main.conclusion != "better" and _difference(case.main) <= 0.0:
        against.insert(0, case.in_use)
    if not against:
        return None
    return _Ruling("don't ship", f"Don't ship: {case.described(against[0])}. More examples would hardly help")


def _undecided(case: _Case) -> _Ruling:
    more = examples_for_half_width(case.main.n) - case.main.n
    reason = case.described(case.in_use)
    if case.main.conclusion == "better":
        if case.untouched is not None and case.untouched.conclusion != "better":
            reason += f", but {case.described(_UNTOUCHED)}"
        else:
            riskiest = max(case.others, key=lambda name: _risk(case.others[name]))
            sure = probability_text(1.0 - _risk(case.others[riskiest]))
            reason += f", but may be practically worse than {case.names[riskiest]} ({sure} that it is not)"
    return _Ruling("collect more", f"Collect about {_wanted(more)}: {reason}", more)


_RULES: Final[tuple[Callable[[_Case], _Ruling | None], ...]] = (
    _unrelated,
    _no_gain,
    _too_few,
    _fails,
    _unchanged,
    _loses,
    _gains_nothing,
    _ships,
    _hardly_helped,
    _undecided,
)
"""In this order; the last decides whatever the others leave open."""


def _risk(comparison: Comparison) -> float:
    return comparison.probability_practically_worse or 0.0


def _is_risky(comparison: Comparison) -> bool:
    return 1.0 - _risk(comparison) < BEYOND_DOUBT


def _difference(comparison: Comparison) -> float:
    return comparison.mean_difference or 0.0


def _wanted(more: int) -> str:
    return f"{counted(more, 'more example')} to judge by, {'each ' if more > 1 else ''}with a target of its own"
