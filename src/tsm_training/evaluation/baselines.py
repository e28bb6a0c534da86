"""The baselines that a trained ensemble is compared with, judged on the same pixels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Self, TypeAlias

import attrs
import numpy as np

from tsm_training.analysis import Baseline
from tsm_training.arrays import Image
from tsm_training.ensemble import NEGLIGIBLE_SHARE, blend, renormalised
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.reports import EvaluatedExample, equal_shares
from tsm_training.weights import LearnerStatistics, WeightLearner

__all__ = ["Baselines", "Shares", "best_single_worker", "resampled", "shares_for"]

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

    @functools.cached_property
    def _cache(self) -> dict[tuple[Baseline, str | None], dict[str, float]]:
        return {}

    def shares(self, metadata: Mapping[str, object] | None = None) -> dict[Baseline, dict[str, float]]:
        """Return each baseline's shares for requests with this metadata; without any, those for all requests."""
        metadata = metadata or {}
        named = {Baseline.TRAINED: self._trained(self.label_of(metadata))}
        if self.learner.groups_of(self.learner.state):
            named[Baseline.WITHOUT_GROUPS] = self._trained(None)
        named[Baseline.EQUAL_WEIGHTS] = self._equal(self.trainable)
        if self.best_single is not None:
            named[Baseline.BEST_SINGLE] = self._all_of(self.best_single)
        if self.best_fixed not in {None, self.best_single}:
            named[Baseline.BEST_FIXED] = self._all_of(self.best_fixed)
        if self.previous is not None:
            named[Baseline.PREVIOUS] = self._previous(metadata)
        return named

    def trained_shares(self, item: EvaluatedExample) -> dict[str, float]:
        """Return the trained ensemble's shares for an example."""
        return self._trained(self.label_of(item.example.metadata))

    def _all_of(self, best: str | None) -> dict[str, float]:
        return {worker_id: float(worker_id == best) for worker_id in self.worker_ids}

    def _equal(self, without: Set[str]) -> dict[str, float]:
        """Return the same share for each worker but some; for all where those are all."""
        equal = equal_shares(set(self.worker_ids) - without or self.worker_ids)
        return {worker_id: equal.get(worker_id, 0.0) for worker_id in self.worker_ids}

    def _trained(self, label: str | None) -> dict[str, float]:
        return self._cached(Baseline.TRAINED, label, self.learner)

    def _previous(self, metadata: Mapping[str, object]) -> dict[str, float]:
        if isinstance(self.previous, WeightLearner):
            # It was perhaps grouped by another key, or not at all.
            label = group_label(metadata, self.previous.group_by_of(self.previous.state))
            shares = self._cached(Baseline.PREVIOUS, label, self.previous)
            if not self._new:
                return shares
            return renormalised({w: share for w, share in shares.items() if w not in self._new}, self.worker_ids)
        return renormalised(self.previous or {}, self.worker_ids)

    @functools.cached_property
    def _new(self) -> Set[str]:
        """Trainable workers that the previous learner did not know: they answered no request."""
        if not self.trainable or not isinstance(self.previous, WeightLearner):
            return frozenset()
        known = self.previous.get_all_statistics()
        tried = {worker_id for worker_id, each in known.items() if each["update_count"] > 0}
        return self.trainable - tried

    def _cached(self, name: Baseline, label: str | None, learner: WeightLearner) -> dict[str, float]:
        if (name, label) not in self._cache:
            self._cache[name, label] = shares_for(learner, self.worker_ids, label)
        return self._cache[name, label]

    def pictures(
        self,
        outputs: Mapping[str, Image],
        target: Image,
        metadata: Mapping[str, object],
        *,
        valid: Iterable[str] | None = None,
        earlier: Mapping[str, Image] | None = None,
        ungrouped: Mapping[str, Image] | None = None,
    ) -> Iterator[tuple[Baseline, Image]]:
        """Yield each baseline's picture (uint8, H×W×3, BGR), one at a time, as far as its workers' pictures are there.

        Args:
            outputs: The workers' pictures by worker id; those of failed workers are missing, perhaps others too.
            target: The untouched target, of the same size.
            metadata: Metadata of the request, which may belong to a group.
            valid: Ids of all workers that did not fail, at least one; None for those in `outputs`.
            earlier: What trainable workers gave with the fits that were in use before, by worker id.
            ungrouped: What they give where they are not told the group.
        """
        valid = set(outputs if valid is None else valid)
        for name, shares in self.shares(metadata).items():
            if name in self.bests and self.bests[name] not in valid:
                continue  # it failed here, so it has no picture
            others = {Baseline.PREVIOUS: earlier, Baseline.WITHOUT_GROUPS: ungrouped}.get(name)
            pictures = {**outputs, **(others or {})}
            wanted = renormalised(shares, valid)
            used = {worker_id: picture for worker_id, picture in pictures.items() if worker_id in wanted}
            missing = [share for worker_id, share in wanted.items() if worker_id not in used]
            if used and max(missing, default=0.0) < NEGLIGIBLE_SHARE:  # a prediction would do without these, too
                yield name, blend(used, renormalised(wanted, used) if missing else wanted)
        yield Baseline.UNTOUCHED, target


def shares_for(learner: WeightLearner, worker_ids: Sequence[str] | None, label: str | None) -> dict[str, float]:
    """Return a learner's shares for requests of a group, or those for all requests.

    Args:
        learner: What was trained.
        worker_ids: The workers to share among; None for all that the learner knows.
        label: Label of the group.
    """
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


def resampled(image: Image, shape: tuple[int, ...]) -> Image:
    """Return a picture in another size, made of its own pixels (uint8, H×W×3, BGR)."""
    rows, columns = ((np.arange(side) * have // side) for side, have in zip(shape[:2], image.shape[:2], strict=True))
    return np.ascontiguousarray(image[np.ix_(rows, columns)])
