"""Fitting the ensemble's blend on what is learned from: for all requests, and group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Final

import attrs

from tsm_training.data import TrainingExample
from tsm_training.ensemble import BlendExample, BlendFit, BlendSolver, FixedShares, fit_blend
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.previews import Previews, ScorerFactory, blend_example, first_of, picture_bytes
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.learning import FittedBlend, Group, LearnedState, label_of
from tsm_training.weights import with_fits

__all__ = ["MOST_FITTED_EXAMPLES", "Fits", "Fitter", "check_group_by", "check_groups", "group_label"]

MOST_FITTED_EXAMPLES: Final = 64
"""A blend is fitted on no more examples than this: those with previews, the first in order of digest."""

_MOST_BYTES: Final = 128 * 1024**2
_MOST_KEYS: Final = 10


def group_label(metadata: Mapping[str, Any], group_by: str | None) -> str | None:
    """Return the group of an example: its metadata's value under a key, as text; None where it has none.

    What makes a group of a value is said by `tsm_training.learning.label_of`.
    """
    return None if group_by is None else label_of(metadata.get(group_by))


def check_groups(examples: Iterable[TrainingExample], group_by: str | None) -> None:
    """Make sure that some example belongs to a group, if there shall be groups.

    Raises:
        InvalidArgumentError: no example has a value under the key that makes a group.
    """
    if group_by is None:
        return
    keys: set[str] = set()
    for example in examples:
        if group_label(example.metadata, group_by) is not None:
            return
        keys |= example.metadata.keys()
    known = ", ".join(sorted(map(repr, keys))[:_MOST_KEYS]) or "none"
    raise InvalidArgumentError("group_by", group_by, f"a metadata key that some example has; they have {known}")


def check_group_by(value: object) -> None:
    """Raise InvalidArgumentError unless `value` can be a metadata key to group by, or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidArgumentError("group_by", value, "a metadata key (text that is not empty), or None")


@attrs.frozen
class Fits:
    """What was fitted, and on which examples."""

    learned: frozenset[str]
    """The digests of all examples that are learned from."""
    blend: BlendFit | None
    digests: tuple[str, ...]
    """The digests of those that the blend was fitted on."""
    group_by: str | None
    groups: Mapping[str, tuple[frozenset[str], BlendFit | None, tuple[str, ...]]]
    """Per label: all members, the blend that was fitted on some of them, and on which."""

    def applied_to(self, state: LearnedState, gone: Set[str] = frozenset()) -> LearnedState:
        """Return a learned state with these fits in the place of its own.

        Args:
            state: It has absorbed the examples.
            gone: Digests of examples that were removed meanwhile: a blend that was fitted on one goes too.
        """
        followed = state.absorbed_share(self.learned - gone)
        groups = {
            label: Group(members - gone, fitted=_fitted(blend, digests, followed, gone))
            for label, (members, blend, digests) in self.groups.items()
            if members - gone
        }
        fitted = _fitted(self.blend, self.digests, followed, gone) if self.blend is not None else state.fitted
        return with_fits(state, fitted, self.group_by, groups)


def _fitted(blend: BlendFit | None, digests: tuple[str, ...], followed: float, gone: Set[str]) -> FittedBlend | None:
    if blend is None or not gone.isdisjoint(digests):
        return None
    return FittedBlend(blend.shares, blend.solver, followed, digests, blend.safe)


@attrs.define
class _Known:
    """What was read and judged once serves for groups and folds too, as far as there is room for it."""

    examples: dict[str, BlendExample] = attrs.field(factory=dict)
    """By digest."""
    num_bytes: int = 0

    def add(self, example: BlendExample) -> None:
        if self.num_bytes + picture_bytes(example) <= _MOST_BYTES:
            self.examples[example.digest] = example
            self.num_bytes += picture_bytes(example)


@attrs.frozen(eq=False)
class Fitter:
    """Fits blends with one metric and one solver."""

    previews: Previews
    scorer: ScorerFactory
    metric_name: str
    solver: BlendSolver | None
    """None compares all of ours."""
    poll: Callable[[], None]
    """Called before each picture is judged; what it raises ends the search."""
    _known: _Known = attrs.field(factory=_Known, init=False, repr=False)

    def fit(self, items: Sequence[EvaluatedExample], group_by: str | None = None) -> Fits:
        """Return what fits the previews of these examples, of which nothing is held out.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
            BlendSolverError: a solver raised, or gave something that is no shares.
        """
        examples = self.examples(items)
        labels = {item.digest: group_label(item.example.metadata, group_by) for item in items}
        blend = fit_blend(examples, self.solver)
        groups = {}
        for label in sorted({label for label in labels.values() if label is not None}):
            members = frozenset(digest for digest, each in labels.items() if each == label)
            own = self.examples([item for item in items if item.digest in members])
            rivals = [] if blend is None else [FixedShares("all_groups", blend.shares)]
            safe = None if blend is None else blend.safe
            groups[label] = members, fit_blend(own, self.solver, rivals, safe), _digests(own)
        return Fits(frozenset(labels), blend, _digests(examples), group_by, groups)

    def examples(self, items: Sequence[EvaluatedExample]) -> list[BlendExample]:
        """Return those of the examples whose blended pictures can be judged: the first ones that have previews."""
        found = first_of(items, self._example, MOST_FITTED_EXAMPLES, _MOST_BYTES)
        return sorted(found, key=lambda example: example.digest)

    def _example(self, item: EvaluatedExample) -> BlendExample | None:
        if (known := self._known.examples.get(item.digest)) is not None:
            return known
        previewed = self.previews.get(item)
        if previewed is None or not previewed.is_complete:
            return None
        example = blend_example(previewed, self.scorer, self.metric_name, self.poll)
        self._known.add(example)
        return example


def _digests(examples: Sequence[BlendExample]) -> tuple[str, ...]:
    return tuple(example.digest for example in examples)
