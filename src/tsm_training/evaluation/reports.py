"""Figures over evaluated examples: pure functions of the workers' accuracies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from tsm_training.data import EpochMetrics, Evaluation, TrainingExample, WorkerAccuracy
from tsm_training.ensemble import renormalised
from tsm_training.learning import ExampleEvidence, Outcome

__all__ = [
    "EvaluatedExample",
    "blend_accuracy",
    "epoch_metrics",
    "equal_shares",
    "mean",
    "mean_blend_accuracy",
    "worker_accuracies",
    "worker_means",
]


@attrs.frozen
class EvaluatedExample:
    """An example and what every worker did on it."""

    example: TrainingExample
    digest: str
    evaluations: Mapping[str, Evaluation]
    """By worker id."""

    @property
    def accuracies(self) -> dict[str, float | None]:
        """The accuracy of each worker, in [0, 1]; None where it failed."""
        return {worker_id: evaluation.accuracy for worker_id, evaluation in self.evaluations.items()}

    def to_evidence(self) -> ExampleEvidence:
        """Return what a learner observes."""
        return ExampleEvidence(self.digest, {w: Outcome(e.accuracy, e.confidence) for w, e in self.evaluations.items()})


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none; exact whatever their order."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def equal_shares(worker_ids: Iterable[str]) -> dict[str, float]:
    """Return the same share for each of some workers."""
    return renormalised({}, worker_ids)


def blend_accuracy(accuracies: Mapping[str, float | None], shares: Mapping[str, float]) -> float | None:
    """Return the share-weighted mean accuracy of the workers that did not fail, or None if all of them did."""
    valid = {worker_id: accuracy for worker_id, accuracy in accuracies.items() if accuracy is not None}
    if not valid:
        return None
    weights = renormalised(shares, valid)
    return math.fsum(weights[worker_id] * accuracy for worker_id, accuracy in valid.items())


def mean_blend_accuracy(
    examples: Iterable[EvaluatedExample], shares_of: Callable[[EvaluatedExample], Mapping[str, float]]
) -> float | None:
    """Return the mean of `blend_accuracy` over examples, or None without any."""
    return mean(blend_accuracy(example.accuracies, shares_of(example)) for example in examples)


def worker_means(examples: Sequence[EvaluatedExample]) -> dict[str, float | None]:
    """Return each worker's mean accuracy over the examples where it gave a picture."""
    return {w: mean(values) for w, values in _by_worker(examples).items()}


def worker_accuracies(examples: Sequence[EvaluatedExample]) -> dict[str, WorkerAccuracy]:
    """Return mean, standard deviation (of the population), least and greatest accuracy of each worker."""
    return {worker_id: _described(values) for worker_id, values in _by_worker(examples).items()}


def _by_worker(examples: Sequence[EvaluatedExample]) -> dict[str, list[float]]:
    worker_ids = sorted({worker_id for example in examples for worker_id in example.evaluations})
    return {
        worker_id: [a for example in examples if (a := example.accuracies.get(worker_id)) is not None]
        for worker_id in worker_ids
    }


def _described(values: Sequence[float]) -> WorkerAccuracy:
    average = mean(values)
    if average is None:
        return {"mean": None, "std": None, "min": None, "max": None}
    variance = math.fsum((value - average) ** 2 for value in values) / len(values)
    return {"mean": average, "std": math.sqrt(variance), "min": min(values), "max": max(values)}


def epoch_metrics(
    epoch: int,
    examples: Sequence[EvaluatedExample],
    shares: Mapping[str, float],
    shares_of: Callable[[EvaluatedExample], Mapping[str, float]],
    *,
    equal: Mapping[str, float],
    weights: Mapping[str, float],
    weights_before: Mapping[str, float],
    weight_stds: Mapping[str, float] | None = None,
) -> EpochMetrics:
    """Describe one epoch.

    Args:
        epoch: From 1.
        examples: At least one on which some worker gave a picture, or the means are 0.
        shares: Those of the ensemble after this epoch.
        shares_of: Those that it uses for an example, which may belong to a group.
        equal: Those of an untrained ensemble.
        weights: After this epoch, per worker.
        weights_before: Before it.
        weight_stds: How uncertain they are, per worker; None where that is not known.
    """
    means = worker_means(examples)
    changes = [abs(weight - weights_before.get(worker_id, weight)) for worker_id, weight in weights.items()]
    return {
        "epoch": epoch,
        "avg_accuracy": mean_blend_accuracy(examples, shares_of) or 0.0,
        "equal_weights_accuracy": mean_blend_accuracy(examples, lambda _example: equal) or 0.0,
        "worker_accuracies": means,
        "weights": dict(weights),
        "weight_stds": dict(weight_stds or {}),
        "blend_weights": dict(shares),
        "max_weight_change": max(changes, default=0.0),
    }
