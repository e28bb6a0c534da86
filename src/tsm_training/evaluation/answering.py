"""Answering requests: workers run, and their pictures are blended by what was learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs
import numpy as np

from tsm_training.arrays import Image
from tsm_training.data import TrainingExample
from tsm_training.ensemble import NEGLIGIBLE_SHARE, Prediction, blend, renormalised
from tsm_training.errors import InvalidArgumentError, PredictionError, WorkerNotFittedError
from tsm_training.evaluation.baselines import shares_for
from tsm_training.evaluation.evaluator import own_workers
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.trainables import Trainables
from tsm_training.weights import WeightLearner
from tsm_training.workers import (
    TrainableWorker,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    ask_pool,
)

__all__ = ["Answering", "results_of"]


def results_of(
    pool: WorkerPoolLike,
    request: WorkerRequest,
    worker_ids: Iterable[str],
    fitted: Mapping[str, Callable[[], Worker]],
) -> dict[str, WorkerResult]:
    """Return what workers make of a request, by worker id.

    Args:
        pool: One that is not ours runs all its workers.
        request: The pictures, and perhaps a group.
        worker_ids: Those to run.
        fitted: What gives the fitted workers that may answer.

    Raises:
        WorkerPoolError: a pool that is not ours raised, or returned no results.
    """
    if isinstance(pool, WorkerPool) and own_workers(pool) is not None:
        results = pool.execute(request, worker_ids, fitted=fitted)
    else:
        results = ask_pool(pool, request["source"], request["target"])
    return {result.worker_id: result for result in results}


@attrs.frozen(eq=False)
class Answering:
    """Answers requests with the workers of a pool, the trainable ones fitted, by the shares that a learner gives."""

    trainables: Trainables
    learner: WeightLearner

    def answer(
        self,
        source: Image,
        target: Image,
        group: object = None,
        *,
        run_all: bool = False,
        example: TrainingExample | None = None,
    ) -> Prediction:
        """Return the ensemble's answer; see `TrainingEngine.predict`.

        Args:
            source: Gives the colours: uint8, H×W×3, BGR.
            target: Is changed: uint8, H×W×3, BGR.
            group: The request's value under the metadata key by which the training was grouped.
            run_all: Run workers too whose share is below 0.001.
            example: The training example that the pictures are of: no worker answers that was fitted on its target.
        """
        pool = self.trainables.evaluator.pool
        fits = self.trainables.current(self.learner.cell.snapshot.fits)
        fitted = self.trainables.ready(fits) if example is None else self.trainables.ready_for(example, fits)
        ids, workers = None, own_workers(pool)
        if workers is not None:
            ids = [w.worker_id for w in workers if w.worker_id in fitted or not isinstance(w, TrainableWorker)]
            if not ids:
                raise WorkerNotFittedError(workers[0].worker_id)
        label = self._label(group)
        shares = shares_for(self.learner, ids, label)
        request = WorkerRequest(source, target, label)
        wanted = [w for w, share in shares.items() if run_all or share >= NEGLIGIBLE_SHARE]
        results = results_of(pool, request, wanted, fitted)
        if not any(result.is_valid() for result in results.values()) and len(results) < len(shares):
            # Everyone with a share failed: better an answer from the others than none.
            results |= results_of(pool, request, [w for w in shares if w not in results], fitted)
        prediction = self._blended(shares, results)
        if label is None:
            return prediction
        known = {label for fit in fits.values() for label in fit.groups}
        known |= self.learner.groups_of(self.learner.state)
        return attrs.evolve(prediction, group=label, is_known_group=label in known)

    def _label(self, group: object) -> str | None:
        if group is None:
            return None
        if self.learner.group_by_of(self.learner.state) is None:
            raise InvalidArgumentError("group", group, "None, for nothing was learned by group: train(group_by=…)")
        label = group_label({"group": group.item() if isinstance(group, np.generic) else group}, "group")
        if label is None:
            raise InvalidArgumentError("group", group, "text, a finite number, True or False")
        return label

    def _blended(self, shares: Mapping[str, float], results: Mapping[str, WorkerResult]) -> Prediction:
        pictures = {w: result.value for w, result in results.items() if result.value is not None}
        if not pictures:
            raise PredictionError({w: str(result.failure) for w, result in results.items()})
        weights = renormalised(shares or self.learner.get_blend_weights(worker_ids=pictures), pictures)
        learned = [w for w in weights if results[w].familiarity is not None]
        familiarity = results[max(learned, key=lambda w: weights[w])].familiarity if learned else None
        return Prediction(blend(pictures, weights), weights, results, familiarity)
