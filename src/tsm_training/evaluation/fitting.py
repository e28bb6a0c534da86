"""Fitting the ensemble's blend on what is learned from: for all requests, and group by group."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

import attrs

from tsm_training._version import __version__
from tsm_training.arrays import Image
from tsm_training.data import TrainingExample
from tsm_training.ensemble import BlendExample, BlendSolver, FixedShares, fit_blend, solver_named
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.evaluated import EvaluatedExample, EvaluationRun, Previews, preview_rank
from tsm_training.evaluation.evaluator import Evaluator
from tsm_training.evaluation.scoring import Judge, Scorer
from tsm_training.fingerprints import describe_object
from tsm_training.learning import BlendFits, FittedBlend, label_of
from tsm_training.text import did_you_mean

MOST_FITTED_EXAMPLES: Final = 64
"""A blend is fitted on no more examples than this: those with previews, the first in order of rank."""

_PATIENCE: Final = 64
"""After so many examples without previews none is expected of those behind: stores keep the first ones in order."""

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
    expected = f"a metadata key that some example has; they have {known}{did_you_mean(group_by, keys)}"
    raise InvalidArgumentError("group_by", group_by, expected)


def check_group_by(value: object) -> None:
    """Raise InvalidArgumentError unless `value` can be a metadata key to group by, or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidArgumentError("group_by", value, "a metadata key (text that is not empty), or None")


@attrs.frozen(eq=False, repr=False)
class Fitter:
    """Fits blends with one metric and one solver, on the previews that belong to a run."""

    previews: Previews
    judge: Judge
    solver: BlendSolver | None
    """None compares all of ours."""
    poll: Callable[[], None]
    """Called before each picture is judged; what it raises ends the search."""
    _known: dict[str, BlendExample] = attrs.field(factory=dict, init=False, repr=False)
    """What was read and judged once, by digest: it serves for groups and folds too, as far as there is room for it."""

    @classmethod
    def of(cls, evaluator: Evaluator, run: EvaluationRun, solver: str | BlendSolver) -> Self:
        """Return what fits blends on the previews that belong to a run."""
        return cls(run.previews, evaluator.judge, solver_named(solver), evaluator.reporter.poll)

    def fit(
        self,
        items: Sequence[EvaluatedExample],
        group_by: str | None = None,
        known: Callable[[str | None], FittedBlend | None] = lambda _group: None,
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

        `before` is what was fitted before, and `general` the blend of all examples, where this is that of a group.
        """
        # What is hashed changes with the evaluations behind a blend, and with what fits it.
        facts = sorted([[*e.key, e.accuracy or -1.0] for item in items for e in item.evaluations.values()])
        solver = "auto" if self.solver is None else describe_object(self.solver)
        text = json.dumps([__version__, solver, None if general is None else general.inputs, facts])
        inputs = hashlib.sha256(text.encode()).hexdigest()
        if before is not None and before.inputs == inputs:
            return before
        examples = self.examples(items)
        rivals = [] if general is None else [FixedShares("all_groups", general.shares)]
        found = fit_blend(examples, self.solver, rivals, None if general is None else general.safe)
        if found is None:
            return None
        digests = tuple(example.digest for example in examples)
        return FittedBlend(found.shares, found.solver, 0.0, digests, found.safe, inputs)

    def examples(self, items: Iterable[EvaluatedExample]) -> list[BlendExample]:
        """Return those of the examples whose blended pictures can be judged, each content once, in order of digest.

        They are the first in order of rank that have previews, as far as there is room for their pictures. Which ones
        that are depends on the examples only, not on the order in which they were evaluated.
        """
        found: list[BlendExample] = []
        missed = used = 0
        each_once = {item.digest: item for item in items}
        for item in sorted(each_once.values(), key=lambda item: (preview_rank(item.target), item.digest)):
            example = self._example(item)
            if example is None:
                missed += 1
            else:
                missed, used = 0, used + _picture_bytes(example)
                if found and used > _MOST_BYTES:
                    break
                found.append(example)
            if len(found) == MOST_FITTED_EXAMPLES or missed == _PATIENCE:
                break
        return sorted(found, key=lambda example: example.digest)

    def _example(self, item: EvaluatedExample) -> BlendExample | None:
        if (known := self._known.get(item.digest)) is not None:
            return known
        pictures = self.previews.get(item)
        if pictures is None or not pictures.is_complete:
            return None
        example = BlendExample(
            digest=item.digest,
            group=item.target,
            outputs=pictures.outputs,
            ground_truth=pictures.ground_truth,
            accuracies=item.valid,
            score=functools.partial(_judged, self.poll, self.judge.scorer(pictures.ground_truth)),
        )
        if sum(map(_picture_bytes, self._known.values())) + _picture_bytes(example) <= _MOST_BYTES:
            self._known[item.digest] = example
        return example


def _judged(
    poll: Callable[[], None], score: Scorer, picture: Image
) -> float:  # no method: its fitter would hold itself
    poll()
    return score(picture)


def _picture_bytes(example: BlendExample) -> int:
    """Return how much memory the pictures of an example take."""
    return example.ground_truth.size * (1 + len(example.outputs))
