"""What validation found: the guide's document, and what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from tsm_training.analysis import CONTENDERS as COMPARED
from tsm_training.analysis import CONTROL, DEFAULT_ROPE, TRAINED, ScoreTable, VerdictDocument, judge
from tsm_training.data import WorkerAccuracy
from tsm_training.engine.contenders import CONTENDERS, Contenders
from tsm_training.engine.evaluator import EvaluationRun
from tsm_training.engine.judging import ExampleJudgement
from tsm_training.engine.reports import EvaluatedExample, mean, mean_blend_accuracy, worker_accuracies

__all__ = [
    "ContenderMean",
    "ValidationDocument",
    "ValidationResults",
    "VerdictDocument",
    "accuracy_table",
    "contender_means",
    "nothing_validated",
    "validation_results",
    "verdict_on",
]


_MOSTLY: Final = 0.5
"""With less than this absorbed, what was learned hardly shows in the ensemble's answer."""


class ContenderMean(TypedDict):
    """How one answer did on the examples on which all were judged."""

    mean: float | None
    """Mean similarity of its pictures to the ground truth, in [0, 1], each target counting once as in the verdict; None
    where no example could be judged."""
    blend_weights: dict[str, float] | None
    """The shares of the workers; None for the untouched target."""


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
    contenders: dict[str, ContenderMean]
    """Every answer that the trained ensemble competes with, on the same pixels of the examples that are unseen."""
    verdict: VerdictDocument
    """Whether the trained weights are worth shipping, judged on the unseen examples that have pictures."""
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
        "verdict": verdict_on([], [], DEFAULT_ROPE),
        "per_example": [],
    }


def validation_results(
    run: EvaluationRun, judged: Sequence[ExampleJudgement], contenders: Contenders, rope: float = DEFAULT_ROPE
) -> ValidationResults:
    """Return the report on evaluated examples whose pictures were judged.

    Args:
        run: What every worker did.
        judged: What every contender's picture scored, per evaluated example.
        contenders: Who competes.
        rope: Which difference in accuracy is practically none.
    """
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
        contenders=contender_means(evaluated, judged, contenders),
        verdict=verdict_on(evaluated, judged, rope, contenders.followed),
        per_example=list(judged),
    )


def contender_means(
    items: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], contenders: Contenders
) -> dict[str, ContenderMean]:
    """Return each contender's mean over the unseen examples on which all were judged, each target counting once.

    Args:
        items: The examples.
        judged: What every contender's picture scored on each of them.
        contenders: Who competes.
    """
    shares: dict[str, dict[str, float]] = {str(name): each for name, each in contenders.shares().items()}
    names = [name for name in CONTENDERS if name in shares or name == "untouched"]
    unseen = {
        each["example_id"]: (item.example.known_files.target.sha256, each["scores"])
        for item, each in zip(items, judged, strict=True)
        if each["is_unseen"] and all(name in each["scores"] for name in names)
    }
    table = ScoreTable(
        example_ids=tuple(unseen),
        groups=[target for target, _scores in unseen.values()],
        scores={name: [scores[name] for _target, scores in unseen.values()] for name in names},
    )
    return {
        name: {"mean": mean(table.group_means(table.column(name))), "blend_weights": shares.get(name)} for name in names
    }


def accuracy_table(items: Sequence[EvaluatedExample]) -> ScoreTable:
    """Return the accuracies of all workers on evaluated examples."""
    worker_ids = sorted({worker_id for item in items for worker_id in item.evaluations})
    return ScoreTable(
        example_ids=[item.example.example_id for item in items],
        groups=[item.example.known_files.target.sha256 for item in items],
        scores={worker_id: [item.accuracies.get(worker_id) for item in items] for worker_id in worker_ids},
    )


def verdict_on(
    items: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], rope: float, followed: float = 1.0
) -> VerdictDocument:
    """Return whether the trained ensemble is worth shipping, judged on examples that were never learned from.

    Args:
        items: The examples.
        judged: What every contender's picture scored on each of them.
        rope: Which difference in accuracy is practically none.
        followed: How far the ensemble follows the blend that was fitted, in [0, 1]; where that is little, a verdict
            other than "ship" says that more epochs would follow it further.
    """
    rows = [
        (item.example, each["scores"])
        for item, each in zip(items, judged, strict=True)
        if each["is_unseen"] and each["scores"]
    ]
    names = [name for name in (TRAINED, *COMPARED, CONTROL) if any(name in scores for _example, scores in rows)]
    names = names or [TRAINED, "equal_weights"]
    table = ScoreTable(
        example_ids=[example.example_id for example, _scores in rows],
        groups=[example.known_files.target.sha256 for example, _scores in rows],
        scores={name: [scores.get(name) for _example, scores in rows] for name in names},
    )
    verdict = judge(table, rope=rope).to_dict()
    if judged and not any(each["is_unseen"] for each in judged):
        learned = "example was" if len(judged) == 1 else "examples were all"
        verdict["sentence"] += f" The {len(judged)} {learned} learned from already; only others can judge."
    if verdict["decision"] != "ship" and followed < _MOSTLY:
        verdict["sentence"] += (
            f" Only {followed:.0%} of what the training examples say is absorbed yet: train with more epochs first."
        )
    return verdict
