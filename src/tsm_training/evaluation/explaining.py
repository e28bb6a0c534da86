"""Why an ensemble answers as it does: what each worker brings, what it costs, and which workers could be spared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

import numpy as np

from tsm_training.ensemble import NEGLIGIBLE_SHARE, BlendExample, BlendProblem, renormalised
from tsm_training.evaluation.evaluated import EvaluatedExample, worker_means

_TRIED_AT_ONCE: Final = 4
"""In each step of the search for a subset only the workers with the smallest shares are candidates for leaving."""


class WorkerExplanation(TypedDict):
    """What is known of one worker's part in the ensemble."""

    solo_accuracy: float | None
    """Mean similarity of its own pictures where it gave one, in [0, 1]; None where it never did."""
    share: float
    """Its part in the ensemble's picture, in [0, 1]."""
    gain: float | None
    """How much less similar the ensemble's pictures are when it is left out; below 0 if they are better without it."""
    redundancy: float | None
    """The largest correlation of its errors with another worker's, in [−1, 1]: near 1, the other one can stand in."""
    most_similar_to: str | None
    """That other worker."""
    failure_rate: float
    """On which part of the examples it gave no usable picture, in [0, 1]."""
    mean_seconds: float | None
    """Wall-clock time per picture; None where it is not known (a foreign pool's)."""


class SubsetAdvice(TypedDict):
    """The smallest ensemble that was found to be nearly as good."""

    workers: list[str]
    """Their ids."""
    accuracy: float
    """Mean similarity of its blended pictures, in [0, 1]."""
    loss: float
    """How much less that is than with all workers; below 0 where fewer are better."""
    seconds: float | None
    """Mean time of its workers for one picture, one after the other; None where times are not known."""
    seconds_saved: float | None
    """How much less that is than with all workers that a prediction runs."""


class Explanation(TypedDict):
    """What each worker brings to the ensemble and what it costs."""

    num_examples: int
    picture_examples: int
    """On how many of the examples pictures could be compared; without any, what needs them is None."""
    ensemble_accuracy: float | None
    tolerance: float
    """Which loss the subset may have."""
    workers: dict[str, WorkerExplanation]
    """By worker id."""
    subset: SubsetAdvice | None
    """None where no pictures could be compared."""


def explanation(
    items: Sequence[EvaluatedExample],
    examples: Sequence[BlendExample],
    shares: Mapping[str, float],
    tolerance: float,
) -> Explanation:
    """Explain an ensemble.

    Args:
        items: Evaluated examples, at least one.
        examples: Those of them whose pictures can be compared.
        shares: Shares of the ensemble, per worker id.
        tolerance: How much accuracy a smaller ensemble may lose.
    """
    problem = BlendProblem(tuple(examples), tuple(sorted(shares))) if examples else None
    accuracies, alike = worker_means(items), _most_alike(problem)
    seconds: dict[str, float] = {}
    workers: dict[str, WorkerExplanation] = {}
    for worker_id, share in sorted(shares.items()):
        done = [item.evaluations[worker_id] for item in items if worker_id in item.evaluations]
        if (taken := math.fsum(each.seconds for each in done)) > 0.0:
            seconds[worker_id] = taken / len(done)
        similar, correlation = alike.get(worker_id, (None, None))
        workers[worker_id] = {
            "solo_accuracy": accuracies.get(worker_id),
            "share": share,
            "gain": _gain(problem, shares, worker_id),
            "redundancy": correlation,
            "most_similar_to": similar,
            "failure_rate": sum(each.accuracy is None for each in done) / max(1, len(done)),
            "mean_seconds": seconds.get(worker_id),
        }
    return {
        "num_examples": len(items),
        "picture_examples": len(examples),
        "ensemble_accuracy": None if problem is None else problem.score(shares),
        "tolerance": tolerance,
        "workers": workers,
        "subset": None if problem is None else _smallest_subset(problem, shares, tolerance, seconds),
    }


def _gain(problem: BlendProblem | None, shares: Mapping[str, float], worker_id: str) -> float | None:
    if problem is None:
        return None
    if shares[worker_id] == 0.0:
        return 0.0
    others = [other for other in shares if other != worker_id]
    if not any(shares[other] for other in others):
        return None  # without it there is no ensemble
    return problem.score(shares) - problem.score(renormalised(shares, others))


def _most_alike(problem: BlendProblem | None) -> dict[str, tuple[str, float]]:
    """Return for each worker the one whose errors are most like its own, and their correlation.

    For two workers those examples count on which both gave a picture; without any they are not compared.
    """
    if problem is None:
        return {}
    ids = problem.worker_ids
    gave = np.array([[worker_id in example.outputs for worker_id in ids] for example in problem.examples])
    both = gave[:, :, None] & gave[:, None, :]
    products = np.where(both, np.stack([example.error_products(ids) for example in problem.examples]), 0.0)
    own = np.where(both, np.diagonal(products, axis1=1, axis2=2)[:, :, None], 0.0).sum(axis=0)
    scale = np.sqrt(own * own.T)
    # Two workers without any error are alike in every way; one without is not like one with.
    alike = np.where(own == own.T, 1.0, 0.0)
    correlations = np.divide(products.sum(axis=0), scale, out=alike, where=scale > 0.0)
    correlations[~both.any(axis=0) | np.eye(len(ids), dtype=bool)] = -np.inf
    best = {w: (ids[int(row.argmax())], float(row.max())) for w, row in zip(ids, correlations, strict=True)}
    return {w: (other, min(1.0, max(-1.0, found))) for w, (other, found) in best.items() if found > -math.inf}


def _smallest_subset(
    problem: BlendProblem, shares: Mapping[str, float], tolerance: float, seconds: Mapping[str, float]
) -> SubsetAdvice:
    """Leave out one worker after the other, each time the one that is missed least, while the loss is tolerable."""
    used = {worker_id: share for worker_id, share in shares.items() if share >= NEGLIGIBLE_SHARE}
    whole = accuracy = problem.score(shares)
    kept = dict(used)
    while len(kept) > 1:
        smallest = sorted(kept, key=lambda worker_id: (kept[worker_id], worker_id))[:_TRIED_AT_ONCE]
        options = [renormalised(kept, [w for w in kept if w != leaving]) for leaving in smallest]
        scores = [problem.score(option) for option in options]
        if whole - max(scores) > tolerance:
            break
        accuracy = max(scores)
        kept = options[scores.index(accuracy)]
    cost, whole_cost = (
        math.fsum(seconds[w] for w in workers) if seconds.keys() >= workers.keys() else None for workers in (kept, used)
    )
    return {
        "workers": sorted(kept),
        "accuracy": accuracy,
        "loss": whole - accuracy,
        "seconds": cost,
        "seconds_saved": None if cost is None or whole_cost is None else whole_cost - cost,
    }
