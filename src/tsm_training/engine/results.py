"""What validation found: the guide's document, and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from tsm_training.data import WorkerAccuracy
from tsm_training.engine.contenders import Contender, Contenders
from tsm_training.engine.evaluator import EvaluationRun
from tsm_training.engine.judging import ExampleJudgement, contender_means
from tsm_training.engine.reports import mean, mean_blend_accuracy, worker_accuracies

__all__ = ["ValidationDocument", "ValidationResults", "nothing_validated", "validation_results"]


class ValidationDocument(TypedDict):
    """The guide's validation results."""

    num_examples: int
    """How many examples were really evaluated."""
    avg_accuracy: float | None
    """Accuracy of the trained model: the blend-weighted mean of the workers' accuracies; None without examples."""
    worker_accuracies: dict[str, WorkerAccuracy]


class ValidationResults(ValidationDocument):
    """What validation found."""

    equal_weights_accuracy: float | None
    """The same mean with equal shares: what an untrained ensemble reaches."""
    ensemble_accuracy: float | None
    """Mean similarity of the blended picture itself; None where no pictures could be compared."""
    ensemble_examples: int
    """Over how many examples that mean is taken."""
    unseen_examples: int
    """How many of the examples the learner has never absorbed; the others flatter it."""
    blend_weights: dict[str, float]
    failures: dict[str, int]
    """On how many examples each worker gave no usable picture."""
    skipped: dict[str, str]
    """Why an example could not be used, by example id."""
    contenders: dict[str, Contender]
    """Every answer that the trained ensemble competes with, judged on the same pixels."""
    per_example: list[ExampleJudgement]
    """What each contender's picture scored on each example."""


def nothing_validated() -> ValidationResults:
    """Return the report on no examples: every mean is None."""
    return {
        "num_examples": 0,
        "avg_accuracy": None,
        "worker_accuracies": {},
        "equal_weights_accuracy": None,
        "ensemble_accuracy": None,
        "ensemble_examples": 0,
        "unseen_examples": 0,
        "blend_weights": {},
        "failures": {},
        "skipped": {},
        "contenders": {},
        "per_example": [],
    }


def validation_results(
    run: EvaluationRun, judged: Sequence[ExampleJudgement], contenders: Contenders
) -> ValidationResults:
    """Return the report on evaluated examples whose pictures were judged."""
    evaluated = run.evaluated
    shares = contenders.shares()
    pictures = [each["scores"].get("trained") for each in judged]
    return ValidationResults(
        num_examples=len(evaluated),
        avg_accuracy=mean_blend_accuracy(evaluated, contenders.trained_shares),
        worker_accuracies=worker_accuracies(evaluated),
        equal_weights_accuracy=mean_blend_accuracy(evaluated, lambda _item: shares["equal_weights"]),
        ensemble_accuracy=mean(pictures),
        ensemble_examples=sum(score is not None for score in pictures),
        unseen_examples=sum(each["is_unseen"] for each in judged),
        blend_weights=shares["trained"],
        failures={
            worker_id: sum(worker_id in e.evaluations and e.accuracies[worker_id] is None for e in evaluated)
            for worker_id in shares["trained"]
        },
        skipped=dict(run.skipped),
        contenders=contender_means(judged, contenders),
        per_example=list(judged),
    )
