"""The baselines that a trained ensemble is compared with, judged on the same pixels."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Self, TypeAlias

import attrs

from tsm_training.analysis import Baseline
from tsm_training.arrays import Image
from tsm_training.ensemble import NEGLIGIBLE_SHARE, blend, renormalised
from tsm_training.evaluation.evaluated import EvaluatedExample, Pictures
from tsm_training.evaluation.fitting import group_label
from tsm_training.weights import LearnerStatistics, WeightLearner

Shares: TypeAlias = Mapping[str, float]


@attrs.frozen(eq=False, repr=False, slots=False)
class Baselines:
    """The shares of the trained ensemble and of each of its baselines, and the pictures that they make."""

    learner: WeightLearner
    """What was trained."""
    worker_ids: tuple[str, ...]
    previous: WeightLearner | Shares | None = None
    """What was in use before; None where that is not known."""
    best_single: str | None = None
    """Chosen on what was learned from; None while nothing was."""
    best_fixed: str | None = None
    """Chosen in the same way among the workers that are not trainable. It is a baseline where it is another one."""
    trainable: Set[str] = frozenset()
    """Ids of workers that are fitted on ground truths: untrained, the ensemble is made of the others."""
    _known: dict[tuple[bool, str | None], dict[str, float]] = attrs.field(factory=dict, init=False)
    """Shares by whether they are today's, and by group."""

    @classmethod
    def of(
        cls,
        learner: WeightLearner,
        worker_ids: Sequence[str],
        previous: WeightLearner | Shares | None = None,
        trainable: Set[str] = frozenset(),
    ) -> Self:
        """Return the baselines of a trained ensemble; the best workers are chosen by what it has learned."""
        statistics = learner.get_all_statistics()
        fixed = [worker_id for worker_id in worker_ids if worker_id not in trainable]
        best_single, best_fixed = (best_single_worker(statistics, ids) for ids in (worker_ids, fixed))
        return cls(learner, tuple(worker_ids), previous, best_single, best_fixed, trainable)

    @property
    def bests(self) -> dict[str, str | None]:
        """The ids of the best single and the best fixed worker, by baseline."""
        return {"best_single": self.best_single, "best_fixed": self.best_fixed}

    @property
    def followed(self) -> float:
        """How far the trained ensemble follows the blend that was fitted, in [0, 1]; 1 where nothing was fitted."""
        fitted = self.learner.blend_of(self.learner.state)
        return 1.0 if fitted is None else fitted.absorbed

    def label_of(self, metadata: Mapping[str, object]) -> str | None:
        """Return the group of an example, if the training was grouped."""
        return group_label(metadata, self.learner.group_by_of(self.learner.state))

    def shares(self, metadata: Mapping[str, object] | None = None) -> dict[Baseline, dict[str, float]]:
        """Return each baseline's shares for requests with this metadata; without any, those for all requests."""
        metadata = metadata or {}
        named = {Baseline.TRAINED: self._learned(self.learner, metadata)}
        if self.learner.groups_of(self.learner.state):
            named[Baseline.WITHOUT_GROUPS] = self._learned(self.learner, {})
        # Untrained, the ensemble is made of the workers that need no training, if there are any.
        equal = renormalised({}, set(self.worker_ids) - self.trainable or self.worker_ids)
        named[Baseline.EQUAL_WEIGHTS] = {worker_id: equal.get(worker_id, 0.0) for worker_id in self.worker_ids}
        best_fixed = None if self.best_fixed == self.best_single else self.best_fixed
        for name, best in ((Baseline.BEST_SINGLE, self.best_single), (Baseline.BEST_FIXED, best_fixed)):
            if best is not None:
                named[name] = {worker_id: float(worker_id == best) for worker_id in self.worker_ids}
        if isinstance(self.previous, WeightLearner):
            # It was perhaps grouped by another key, or not at all.
            shares = self._learned(self.previous, metadata)
            if self._new:
                old = {w: share for w, share in shares.items() if w not in self._new}
                shares = renormalised(old, self.worker_ids)
            named[Baseline.PREVIOUS] = shares
        elif self.previous is not None:
            named[Baseline.PREVIOUS] = renormalised(self.previous, self.worker_ids)
        return named

    def trained_shares(self, item: EvaluatedExample) -> dict[str, float]:
        """Return the trained ensemble's shares for an example."""
        return self._learned(self.learner, item.example.metadata)

    def _learned(self, learner: WeightLearner, metadata: Mapping[str, object]) -> dict[str, float]:
        label = group_label(metadata, learner.group_by_of(learner.state))
        key = learner is self.learner, label
        if key not in self._known:
            self._known[key] = shares_for(learner, self.worker_ids, label)
        return self._known[key]

    @functools.cached_property
    def _new(self) -> Set[str]:
        """Trainable workers that the previous learner did not know: they answered no request."""
        if not self.trainable or not isinstance(self.previous, WeightLearner):
            return frozenset()
        known = self.previous.get_all_statistics()
        tried = {worker_id for worker_id, each in known.items() if each["update_count"] > 0}
        return self.trainable - tried

    def pictures(
        self,
        made: Pictures,
        metadata: Mapping[str, object],
        others: Mapping[Baseline, Mapping[str, Image]],
    ) -> Iterator[tuple[Baseline, Image]]:
        """Yield each baseline's picture (uint8, H×W×3, BGR), one at a time, as far as its workers' pictures are there.

        Args:
            made: What the workers made of a request.
            metadata: Metadata of the request, which may belong to a group.
            others: Pictures of trainable workers that a baseline has in the place of those in `made`, by worker id.
        """
        for name, shares in self.shares(metadata).items():
            if name in self.bests and self.bests[name] not in made.valid:
                continue  # it failed here, so it has no picture
            wanted = renormalised(shares, made.valid)
            outputs = {**made.outputs, **others.get(name, {})}
            used = {worker_id: picture for worker_id, picture in outputs.items() if worker_id in wanted}
            missing = [share for worker_id, share in wanted.items() if worker_id not in used]
            if used and max(missing, default=0.0) < NEGLIGIBLE_SHARE:  # a prediction would do without these, too
                yield name, blend(used, renormalised(wanted, used) if missing else wanted)
        yield Baseline.UNTOUCHED, made.target


def shares_for(learner: WeightLearner, worker_ids: Sequence[str] | None, label: str | None) -> dict[str, float]:
    """Return a learner's shares, among these workers or all that it knows, for requests of a group, or for all."""
    if label is None:
        return learner.get_blend_weights(worker_ids=worker_ids)
    state = learner.state
    ids = sorted(learner.statistics(state) if worker_ids is None else worker_ids)
    return learner.shares(state, ids, label) if ids else {}


def best_single_worker(statistics: Mapping[str, LearnerStatistics], worker_ids: Sequence[str]) -> str | None:
    """Return the worker with the greatest mean accuracy over what was absorbed, a failure counting 0."""

    def accuracy(worker_id: str) -> float:
        known = statistics[worker_id]
        return (known["mean_accuracy"] or 0.0) * (1.0 - known["failure_count"] / known["update_count"])

    tried = [w for w in sorted(worker_ids) if w in statistics and statistics[w]["update_count"] > 0]
    return max(tried, key=accuracy) if tried else None
