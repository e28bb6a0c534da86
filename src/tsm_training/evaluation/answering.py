"""Answering requests: workers run, and their pictures are blended by what was learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tsm_training.arrays import Image
from tsm_training.data import TrainingExample, TrainingStore
from tsm_training.ensemble import (
    MOST_NAMED,
    NEGLIGIBLE_SHARE,
    Because,
    Prediction,
    blend_results,
    color_strip,
    renormalised,
)
from tsm_training.errors import InvalidArgumentError, PredictionError, WorkerNotFittedError
from tsm_training.evaluation.baselines import shares_for
from tsm_training.evaluation.evaluator import own_pool
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.trainables import Trainables
from tsm_training.text import nearest_name
from tsm_training.weights import WeightLearner
from tsm_training.workers import TrainableWorker, Worker, WorkerPoolLike, WorkerRequest, WorkerResult, ask_pool


def results_of(
    pool: WorkerPoolLike,
    request: WorkerRequest,
    worker_ids: Iterable[str],
    fitted: Mapping[str, Callable[[], Worker]],
) -> dict[str, WorkerResult]:
    """Return what workers of a pool make of a request, by worker id; one that is not ours runs all of them.

    Args:
        pool: The ensemble.
        request: The pictures, and perhaps a group.
        worker_ids: The workers to run.
        fitted: What gives the fitted workers that may answer.

    Raises:
        WorkerPoolError: a pool that is not ours raised, or returned no results.
    """
    own = own_pool(pool)
    if own is None:
        results = ask_pool(pool, request["source"], request["target"])
    else:
        results = own.execute(request, worker_ids, fitted=fitted)
    return {result.worker_id: result for result in results}


def answer(
    trainables: Trainables,
    learner: WeightLearner,
    source: Image,
    target: Image,
    group: object = None,
    *,
    run_all: bool = False,
    example: TrainingExample | None = None,
) -> Prediction:
    """Return the ensemble's answer by the shares that a learner gives; see `TrainingEngine.predict`.

    With an `example`, which the pictures are of, no worker answers that was fitted on its target.
    """
    pool = trainables.evaluator.pool
    fits = trainables.current(learner.cell.snapshot.fits)
    fitted = trainables.ready(fits, example)
    ids, own = None, own_pool(pool)
    if own is not None:
        ids = [w.worker_id for w in own.workers if w.worker_id in fitted or not isinstance(w, TrainableWorker)]
        if not ids:
            raise WorkerNotFittedError(own.workers[0].worker_id)
    label = _label(learner, group)
    shares = shares_for(learner, ids, label)
    request = WorkerRequest(source, target, label, is_prediction=True)
    wanted = [w for w, share in shares.items() if run_all or share >= NEGLIGIBLE_SHARE]
    results = results_of(pool, request, wanted, fitted)
    if not any(result.is_valid() for result in results.values()) and len(results) < len(shares):
        # Everyone with a share failed: better an answer from the others than none.
        results |= results_of(pool, request, [w for w in shares if w not in results], fitted)
    answered = [w for w, result in results.items() if result.is_valid()]
    if not answered:
        raise PredictionError({w: str(result.failure) for w, result in results.items()})
    weights = renormalised(shares or learner.get_blend_weights(worker_ids=answered), answered)
    learned = [w for w in weights if results[w].familiarity is not None]
    familiarity = results[max(learned, key=lambda w: weights[w])].familiarity if learned else None
    is_known, nearest = None, None
    if label is not None:
        known = {*learner.groups_of(learner.state), *(group for fit in fits.values() for group in fit.groups)}
        is_known = label in known
        nearest = None if is_known else nearest_name(label, known)
    image, because = blend_results(results, weights, request["target"]), None
    if any(weights[w] and result.has_learned for w, result in results.items() if w in weights):
        examples, total = _leaned_on(trainables.evaluator.store, weights, results)
        because = Because(examples, total, familiarity, *color_strip(target, image))
    return Prediction(image, weights, results, familiarity, label, is_known, because, nearest_group=nearest)


def _leaned_on(
    store: TrainingStore, weights: Mapping[str, float], results: Mapping[str, WorkerResult]
) -> tuple[dict[str, float], float]:
    """Return the weights of the foremost examples that are still stored, by id, and the sum over all examples."""
    influence: dict[str, float] = {}
    for worker_id, share in weights.items():
        for digest, part in (results[worker_id].influence or {}).items():
            influence[digest] = influence.get(digest, 0.0) + share * part
    known = store.known_digests(influence)
    foremost = sorted(known, key=lambda digest: (-influence[digest], digest))[:MOST_NAMED]
    ids: dict[str, str] = {}
    for example in store.find_examples(foremost):
        ids.setdefault(example.known_files.digest, example.example_id)
    named = {ids[digest]: influence[digest] for digest in foremost if digest in ids and influence[digest] > 0.0}
    return named, min(1.0, math.fsum(influence.values()))


def _label(learner: WeightLearner, group: object) -> str | None:
    if group is None:
        return None
    if learner.group_by_of(learner.state) is None:
        raise InvalidArgumentError("group", group, "None, for nothing was learned by group: train(group_by=…)")
    label = group_label({"group": group.item() if isinstance(group, np.generic) else group}, "group")
    if label is None:
        raise InvalidArgumentError("group", group, "text, a finite number, True or False")
    return label
