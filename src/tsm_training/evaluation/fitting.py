"""Fitting the ensemble's blend on what is learned from: for all requests, and group by group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

import attrs

from tsm_training._version import __version__
from tsm_training.data import TrainingExample
from tsm_training.ensemble import BlendExample, BlendSolver, FixedShares, fit_blend, solver_named
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.evaluator import EvaluationRun, Evaluator
from tsm_training.evaluation.previews import Previews, ScorerFactory, blend_example, first_of, picture_bytes
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.fingerprints import describe_object
from tsm_training.learning import BlendFits, FittedBlend, label_of
from tsm_training.progress import ProgressReporter

__all__ = ["MOST_FITTED_EXAMPLES", "Fitter", "check_group_by", "check_groups", "group_label"]

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


def _nothing(_group: str | None) -> None:
    """Know no blend that was fitted before."""


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


@attrs.frozen(eq=False, repr=False)
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

    @classmethod
    def of(
        cls, evaluator: Evaluator, run: EvaluationRun, solver: str | BlendSolver, listener: ProgressReporter
    ) -> Self:
        """Return what fits blends on the previews that belong to a run."""
        judge, previews = evaluator.judge, Previews(evaluator.store, run.previews)
        return cls(previews, judge.scorer, judge.name, solver_named(solver), listener.poll)

    def fit(
        self,
        items: Sequence[EvaluatedExample],
        group_by: str | None = None,
        known: Callable[[str | None], FittedBlend | None] = _nothing,
    ) -> BlendFits:
        """Return what fits the previews of these examples, of which nothing is held out.

        Args:
            items: What is learned from.
            group_by: The metadata key that makes the groups.
            known: Gives the blend of a group, or of all for None, that was fitted before: on the same evaluations it is
                not fitted again.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
            BlendSolverError: a solver raised, or gave something that is no shares.
        """
        labels = {item.digest: group_label(item.example.metadata, group_by) for item in items}
        blend = self._fitted(items, known(None))
        groups = {}
        for label in sorted({label for label in labels.values() if label is not None}):
            own = [item for item in items if labels[item.digest] == label]
            groups[label] = self._fitted(own, known(label), blend)
        return BlendFits(blend, group_by, labels, groups)

    def _fitted(
        self, items: Sequence[EvaluatedExample], before: FittedBlend | None, general: FittedBlend | None = None
    ) -> FittedBlend | None:
        """Return a blend as a learner keeps it; how far it is absorbed is for the learner to say.

        Args:
            items: What it is fitted on.
            before: What was fitted before.
            general: The blend of all examples, where this is that of a group.
        """
        inputs = self._inputs(items, general)
        if before is not None and before.inputs == inputs:
            return before
        examples = self.examples(items)
        rivals = [] if general is None else [FixedShares("all_groups", general.shares)]
        found = fit_blend(examples, self.solver, rivals, None if general is None else general.safe)
        if found is None:
            return None
        digests = tuple(example.digest for example in examples)
        return FittedBlend(found.shares, found.solver, 0.0, digests, found.safe, inputs)

    def _inputs(self, items: Iterable[EvaluatedExample], general: FittedBlend | None) -> str:
        """Return what changes with the evaluations behind a blend, and with what fits it."""
        facts = sorted([[*e.key, e.accuracy or -1.0] for item in items for e in item.evaluations.values()])
        solver = "auto" if self.solver is None else describe_object(self.solver)
        text = json.dumps([__version__, solver, None if general is None else general.inputs, facts])
        return hashlib.sha256(text.encode()).hexdigest()

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
