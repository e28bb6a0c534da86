"""Are these weights worth shipping? What the trained ensemble has to show, and against whom.

The rule stands in `judge`. Why it is so: to change what is in use there must be a gain, and an answer that is no nearer
to what is wanted than the image as it came is no answer, so a gain is asked of the trained ensemble over these two.
Of the other baselines it is only asked that none of them makes training pointless: the trained ensemble may equal the
best single worker. A gain is one that holds over a whole sequence of looks, such as those that the verdict itself asks
for (`Posterior.shows`). More examples are asked for only where they may change the answer: where the difference that
was seen speaks for the trained ensemble.

The relation between images and truths is checked first, since without it every other comparison can be won for the
wrong reason: smooth images, say, are closer to any truth than others. Each truth counts once on both sides of that
comparison, so what makes a truth easy cancels in the mean but not in the standard deviation: the check errs on the side
of caution.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, Self, TypeAlias, TypedDict, cast

import attrs

from tsm_training.analysis.baselines import COMPARED, Baseline
from tsm_training.analysis.paired import (
    BEYOND_DOUBT,
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    Comparison,
    ComparisonDocument,
    check_rope,
    compare,
    figures_text,
    sentence_between,
)
from tsm_training.analysis.posterior import MIN_TO_SHOW, Posterior
from tsm_training.analysis.table import ScoreTable
from tsm_training.arguments import check_whole_number
from tsm_training.errors import InvalidArgumentError
from tsm_training.learning import INTERVAL_MASS, student
from tsm_training.text import counted, listed, probability_text

Decision: TypeAlias = Literal["ship", "don't ship", "no gain", "collect more"]
"""What to do with trained weights; with "no gain" leave images as they are."""

RELATED: Final = 0.975
"""How probable it must be that the ensemble's images agree better with their own ground truth than with another's."""

_US: Final = Baseline.TRAINED.phrase
_WHAT_HELPS: Final = (
    "What may help: more examples per look, group_by where looks have names, another metric (ColorDifference), or "
    "other workers"
)


class ExampleScores(TypedDict):
    """One row of a verdict's table."""

    example_id: str
    group: str
    scores: dict[str, float | None]
    """By column, in [0, 1]; None where there was no image."""


class VerdictDocument(TypedDict):
    """A verdict, ready for JSON; see `Verdict` for the entries."""

    decision: Decision
    """What to do."""
    sentence: str
    more: int | None
    detectable: float | None
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
    """About how many more examples to judge by, each with a different target image, are wanted; None if none are."""
    detectable: float | None
    """The smallest true gain over what is in use that would be shown with a probability of about 0.8 by as many targets
    (at least 20) that vary like these; None with too few targets for a comparison, or where nothing differs."""
    in_use: str
    """What would be replaced: "previous", or "equal_weights" where nothing had been learned before."""
    best_single: str | None
    """Id of the worker that was best on what was learned from; None where that is not known."""
    best_fixed: str | None
    """Id of the best of those workers that are not fitted on ground truths; None where that is not known."""
    comparisons: Mapping[str, Comparison]
    """The trained ensemble compared with each baseline, by its column."""
    relation: Comparison | None
    """The agreement of its images with their own ground truth compared with that with another example's."""
    n: int
    """Number of groups (different targets) on which it was compared with what is in use."""
    num_examples: int
    """Number of examples on which both gave an image."""
    rope: float
    """A difference up to this one, either way, is practically none."""
    per_example: tuple[ExampleScores, ...] = attrs.field(repr=False)
    """All scores that were used, in the order of the table."""

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook, with the comparisons behind it."""
        from tsm_training.report.notebook import verdict_card  # noqa: PLC0415 - where HTML is made

        return verdict_card(self)

    def phrase(self, baseline: Baseline) -> str:
        """Return what sentences call a baseline: single workers by their ids, where these are known."""
        return _phrases(self.best_single, self.best_fixed)[baseline]

    def to_dict(self) -> VerdictDocument:
        """Return everything but the scores of each example as plain values that JSON can hold."""
        document = {name: getattr(self, name) for name in VerdictDocument.__annotations__}
        comparisons = {name: comparison.to_dict() for name, comparison in self.comparisons.items()}
        relation = None if self.relation is None else self.relation.to_dict()
        return cast("VerdictDocument", document | {"comparisons": comparisons, "relation": relation})


def judge(
    table: ScoreTable, *, rope: float = DEFAULT_ROPE, best_single: str | None = None, best_fixed: str | None = None
) -> Verdict:
    """Decide whether trained weights are worth shipping.

    All baselines are compared with the trained ensemble by paired differences, see `compare`. In use is "previous", or
    "equal_weights" where the table has no such column. The first of these that applies decides:

    1. Its images agree better with their own ground truth than with another example's, but P < `RELATED`: don't ship.
    2. It is not better than the untouched target: it scores exactly like it, or is better by more than `rope` with a
       probability of at most 1 − `BEYOND_DOUBT`, or the mean difference speaks against it: no gain.
    3. Fewer than `MIN_EXAMPLES` groups: collect as many as are missing. No part of the rule looks at a comparison with
       fewer.
    4. It fails on more examples than what is in use, or has exactly the same scores: don't ship.
    5. It is worse than a baseline by more than `rope`, P ≥ `BEYOND_DOUBT`: don't ship.
    6. It is practically equal to what is in use, or worse, P ≥ `BEYOND_DOUBT`: don't ship.
    7. It is better than what is in use and than the untouched target, however often one looks (`Posterior.shows`; below
       `MIN_TO_SHOW` groups by so much that hidden losses would not undo it), and not worse than any other baseline by
       more than `rope`, P ≥ `BEYOND_DOUBT`: ship.
    8. It is not shown to be so, and the mean difference from what is in use is not above 0, or that from another
       baseline is below −`rope`, so that more examples would hardly help: don't ship.
    9. Collect more: as many as should decide if the differences go on like those seen, at most three times as many as
       there are (and as many as `MIN_TO_SHOW` asks for).

    A baseline other than what is in use that has too few images for a comparison decides nothing.

    Args:
        table: Scores on examples that were never trained on, of one metric on the same pixels, with the values of
            `Baseline` as columns: "trained", at least one of "previous" and "equal_weights", and any of "best_single",
            "best_fixed", "untouched" and "control". The last holds the scores of the trained ensemble's images
            against the ground truth of an example of another group, best each truth once, or None where none has the
            same size; without it the relation between images and truths is not checked.
        rope: Half the width of the region of practical equivalence, in accuracy, at least 0 and below 1.
        best_single: Id of the best single worker, to name it.
        best_fixed: Id of the best of the workers that are not fitted on ground truths, to name it.

    Raises:
        InvalidArgumentError: a column is missing or unknown, or `rope` is out of range.
    """
    case = _Case.of(table, check_rope(rope), best_single, best_fixed)
    decision, sentence, more = next(itertools.chain(_before_comparing(case), _comparing(case)))
    rows = zip(*table.scores.values(), strict=True)
    return Verdict(
        decision=decision,
        sentence=f"{sentence}.",
        more=more,
        detectable=None if case.main.posterior is None else case.main.posterior.detectable or None,
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


def _phrases(best_single: str | None, best_fixed: str | None) -> dict[str, str]:
    ids = {Baseline.BEST_SINGLE: best_single, Baseline.BEST_FIXED: best_fixed}
    return {each: each.phrase if ids.get(each) is None else f"{each.phrase} ({ids[each]})" for each in COMPARED}


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


_Ruling: TypeAlias = tuple[Decision, str, int | None]
"""The decision, the sentence without its full stop, and how many more examples are wanted."""


def _in_use(table: ScoreTable) -> str:
    found = [str(name) for name in COMPARED[:2] if name in table.scores]
    known = {Baseline.TRAINED, Baseline.CONTROL, *COMPARED}
    if not found or Baseline.TRAINED not in table.scores or table.scores.keys() - known:
        rest = "nothing else but 'best_single', 'best_fixed', 'untouched' and 'control'"
        expected = f"columns with the names 'trained', at least one of 'previous' and 'equal_weights', and {rest}"
        raise InvalidArgumentError("scores", sorted(table.scores), expected)
    return found[0]


def _before_comparing(case: _Case) -> Iterator[_Ruling]:
    """Yield what can be said before the comparisons decide; the first ruling decides."""
    main, relation = case.main, None if case.relation is None else case.relation.posterior
    if relation is not None and not case.idle and relation.probability_positive < RELATED:
        reason = "nothing shows that a picture agrees better with its own ground truth than with another example's"
        figures = figures_text(relation, f"{probability_text(relation.probability_positive, 'P')} for its own")
        yield "don't ship", f"Don't ship: {reason}, the difference is {figures}", None
    if case.untouched is not None and (case.idle or _is_hopeless(case.untouched)):
        yield "no gain", f"Leave pictures as they are: {case.described(Baseline.UNTOUCHED)}. {_WHAT_HELPS}", None
    if main.posterior is None:
        more = MIN_EXAMPLES - main.n
        yield "collect more", f"Collect at least {_wanted(more)}: {case.described(case.in_use)}", more
    if main.failures_a > main.failures_b:
        ours, theirs = counted(main.failures_a, "example"), main.failures_b or "none"
        in_use = case.names[case.in_use]
        yield "don't ship", f"Don't ship: {_US} gave no picture on {ours}, {in_use} on {theirs}", None
    if case.is_unchanged:
        same = f"{_US} scores as {case.names[case.in_use]} on all {counted(main.n, 'target')}"
        yield "don't ship", f"Don't ship: nothing has changed, {same}", None


def _comparing(case: _Case) -> Iterator[_Ruling]:
    """Yield what the comparisons say; the first ruling decides, the last one always can."""
    main, untouched, others = case.main, case.untouched, case.others
    if winners := [name for name, each in others.items() if _risk(each) >= BEYOND_DOUBT]:
        best = min(winners, key=lambda name: _difference(others[name]))
        yield "don't ship", f"Don't ship: {case.described(best)}", None
    if main.conclusion in {"practically equal", "worse"}:
        yield "don't ship", f"Don't ship: {case.described(case.in_use)}", None
    risky = [name for name, each in others.items() if 1.0 - _risk(each) < BEYOND_DOUBT]
    gains = [main] if untouched is None else [main, untouched]
    if not risky and all(_is_shown(each) for each in gains):
        yield "ship", f"Ship: {listed([case.described(case.in_use), *case.also()])}", None
    against = [case.in_use] if _difference(main) <= 0.0 else []
    against += [name for name in risky if _difference(others[name]) < -main.rope]
    if against:
        yield "don't ship", f"Don't ship: {case.described(against[0])}. More examples would hardly help", None
    reason = case.described(case.in_use)
    if main.conclusion != "better":
        pass
    elif untouched is not None and untouched.conclusion != "better":
        reason += f", but {case.described(Baseline.UNTOUCHED)}"
    elif risky:
        riskiest = max(others, key=lambda name: _risk(others[name]))
        sure = probability_text(1.0 - _risk(others[riskiest]), "P")
        reason += f", but may be practically worse than {case.names[riskiest]} ({sure} that it is not)"
    else:
        doubtful = untouched if untouched is not None and _is_shown(main) else main
        reason = case.described(case.in_use if doubtful is main else Baseline.UNTOUCHED)
        if doubtful.n < MIN_TO_SHOW:
            reason += f", but fewer than {MIN_TO_SHOW} targets may hide rare and great losses"
        else:
            reason += ", but that is not enough to hold however often you look"
    missing = [_missing(each, lambda after: after.shows(0.0)) for each in gains]
    missing += [_missing(others[name], lambda after: after.below(-main.rope) <= 1.0 - BEYOND_DOUBT) for name in risky]
    yield "collect more", f"Collect about {_wanted(max(missing))}: {reason}", max(missing)


def _is_shown(comparison: Comparison) -> bool:
    return comparison.posterior is not None and comparison.posterior.shows(0.0)


def _missing(comparison: Comparison, is_enough: Callable[[Posterior], bool]) -> int:
    """Return how many more groups should be enough if they are like those seen, at most three times as many."""
    posterior, n = comparison.posterior, comparison.n
    if posterior is None or is_enough(posterior):
        return 0
    most = max(4 * n, MIN_TO_SHOW)
    return next((m for m in range(n + 1, most) if is_enough(posterior.after(m))), most) - n


def _is_hopeless(comparison: Comparison) -> bool:
    """Whether there is no practical gain, beyond doubt or as far as the mean difference tells."""
    gains = comparison.probability_practically_better or 0.0
    return 1.0 - gains >= BEYOND_DOUBT or _difference(comparison) <= 0.0


def _risk(comparison: Comparison) -> float:
    return comparison.probability_practically_worse or 0.0


def _difference(comparison: Comparison) -> float:
    return comparison.mean_difference or 0.0


def _wanted(more: int) -> str:
    return f"{counted(more, 'more example')} to judge by, {'each ' if more > 1 else ''}with a different target image"


class _Case(NamedTuple):
    """What the rule looks at."""

    in_use: str
    names: Mapping[str, str]
    """What the baselines are called."""
    comparisons: Mapping[str, Comparison]
    relation: Comparison | None
    is_unchanged: bool
    """Whether the trained ensemble scores as what is in use on every single example."""
    idle: bool
    """Whether it scores as the untouched target on every single example."""
    others: Mapping[str, Comparison]
    """The comparisons with baselines that differ from what is in use and have enough images to be compared."""

    @classmethod
    def of(cls, table: ScoreTable, rope: float, best_single: str | None, best_fixed: str | None) -> Self:
        in_use = _in_use(table)
        trained, control = str(Baseline.TRAINED), str(Baseline.CONTROL)
        names = [str(name) for name in COMPARED if name in table.scores]
        comparisons = {name: compare(table, trained, name, rope=rope) for name in names}
        return cls(
            in_use=in_use,
            names=_phrases(best_single, best_fixed),
            comparisons=comparisons,
            relation=compare(table, trained, control, rope=rope) if control in table.scores else None,
            is_unchanged=table.column(trained) == table.column(in_use),
            idle=table.column(trained) == table.scores.get(Baseline.UNTOUCHED),
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
        """The comparison with the untouched target, where there are enough images for one."""
        found = self.comparisons.get(Baseline.UNTOUCHED)
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
