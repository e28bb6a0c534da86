"""What validation found: the guide's document, and what stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

from tsm_training.analysis import CONTENDERS as COMPARED
from tsm_training.analysis import CONTROL, DEFAULT_ROPE, TRAINED, ScoreTable, VerdictDocument, judge
from tsm_training.data import WorkerAccuracy
from tsm_training.evaluation.contenders import CONTENDERS, Contenders
from tsm_training.evaluation.evaluator import EvaluationRun
from tsm_training.evaluation.judging import ExampleJudgement
from tsm_training.evaluation.reports import EvaluatedExample, mean, mean_blend_accuracy, worker_accuracies

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
    """How one answer did on the unseen examples on which its picture could be judged."""

    mean: float | None
    """Mean similarity of its pictures to the ground truth, in [0, 1], each target counting once as in the verdict; None
    where no example could be judged."""
    mean_delta_e: float | None
    """Mean colour difference ΔE00 of the same pictures, each target counting once."""
    num_examples: int
    """How many examples these are."""
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
    mean_delta_e: float | None
    """Mean colour difference ΔE00 of the same pictures, whatever the metric; about 1 is just noticeable."""
    unseen_examples: int
    """How many of the examples the learner has never absorbed; the others flatter it."""
    blend_weights: dict[str, float]
    failures: dict[str, int]
    """On how many examples each worker gave no usable picture."""
    skipped: dict[str, str]
    """Why an example could not be used, by example id."""
    contenders: dict[str, ContenderMean]
    """Every answer that the trained ensemble competes with, on the same pixels of the examples that are unseen; fewer
    of them where small pictures of its workers are no longer kept."""
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
        "mean_delta_e": None,
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
        mean_delta_e=mean(each["delta_e"].get("trained") for each in judged),
        unseen_examples=sum(each["is_unseen"] for each in judged),
        blend_weights=shares["trained"],
        failures={
            worker_id: sum(worker_id in e.evaluations and e.accuracies[worker_id] is None for e in evaluated)
            for worker_id in shares["trained"]
        },
        skipped=dict(run.skipped),
        contenders=contender_means(evaluated, judged, contenders),
        verdict=verdict_on(evaluated, judged, rope, contenders.followed, contenders.bests),
        per_example=list(judged),
    )


def contender_means(
    items: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], contenders: Contenders
) -> dict[str, ContenderMean]:
    """Return each contender's means over the unseen examples on which it was judged, each target counting once.

    Args:
        items: The examples.
        judged: What every contender's picture scored on each of them.
        contenders: Who competes.
    """
    shares: dict[str, dict[str, float]] = {str(name): each for name, each in contenders.shares().items()}
    unseen = [(item, each) for item, each in zip(items, judged, strict=True) if each["is_unseen"]]
    names = [n for n in CONTENDERS if n in shares or n == "untouched" or any(n in each["scores"] for _, each in unseen)]
    table = _table([item for item, _each in unseen], {})

    def average(values: Sequence[float | None]) -> float | None:
        return mean(table.group_means(values))

    return {
        name: {
            "mean": average([each["scores"].get(name) for _item, each in unseen]),
            "mean_delta_e": average([each["delta_e"].get(name) for _item, each in unseen]),
            "num_examples": sum(name in each["scores"] for _item, each in unseen),
            "blend_weights": shares.get(name),
        }
        for name in names
    }


def accuracy_table(items: Sequence[EvaluatedExample]) -> ScoreTable:
    """Return the accuracies of all workers on evaluated examples."""
    worker_ids = sorted({worker_id for item in items for worker_id in item.evaluations})
    return _table(items, {worker_id: [item.accuracies.get(worker_id) for item in items] for worker_id in worker_ids})


def _table(items: Sequence[EvaluatedExample], scores: Mapping[str, Sequence[float | None]]) -> ScoreTable:
    return ScoreTable(
        example_ids=[item.example.example_id for item in items],
        groups=[item.example.known_files.target.sha256 for item in items],
        scores=scores,
    )


def verdict_on(
    items: Sequence[EvaluatedExample],
    judged: Sequence[ExampleJudgement],
    rope: float,
    followed: float = 1.0,
    bests: Mapping[str, str | None] | None = None,
) -> VerdictDocument:
    """Return whether the trained ensemble is worth shipping, judged on examples that were never learned from.

    Args:
        items: The examples.
        judged: What every contender's picture scored on each of them.
        rope: Which difference in accuracy is practically none.
        followed: How far the ensemble follows the blend that was fitted, in [0, 1]; where that is little, a verdict
            other than "ship" says that more epochs would follow it further.
        bests: The ids of the workers called "best_single" and "best_fixed", where they are known.
    """
    unseen = [(item, each["scores"]) for item, each in zip(items, judged, strict=True) if each["is_unseen"]]
    rows = [(item, scores) for item, scores in unseen if TRAINED in scores]
    names = [name for name in (TRAINED, *COMPARED, CONTROL) if any(name in scores for _item, scores in rows)]
    if not {"previous", "equal_weights"} & set(names):
        names = [TRAINED, "equal_weights", *names[1:]]
    table = _table([item for item, _scores in rows], {n: [scores.get(n) for _item, scores in rows] for n in names})
    verdict = judge(table, rope=rope, **(bests or {})).to_dict()
    verdict["sentence"] += _how_many(verdict, len(unseen))
    if judged and not unseen:
        learned = "example was" if len(judged) == 1 else "examples were all"
        verdict["sentence"] += f" The {len(judged)} {learned} learned from already; only others can judge."
    if verdict["decision"] != "ship" and followed < _MOSTLY:
        verdict["sentence"] += (
            f" Only {followed:.0%} of what the training examples say is absorbed yet: train with more epochs first."
        )
    return verdict


def _how_many(verdict: VerdictDocument, total: int) -> str:
    """Say on how many of the held-out examples the decision rests, if not on all of them."""
    untouched = verdict["comparisons"].get("untouched")
    compared, beside = verdict["num_examples"], ""
    if verdict["decision"] == "no gain" and untouched is not None:
        compared = untouched["num_examples"]
    elif untouched is not None and untouched["num_examples"] > compared:
        beside = f", and beside the untouched target on {untouched['num_examples']}"
    if compared >= total:
        return ""
    reason = "of the others not all pictures are kept; validate(…, full=True) makes them again"
    return f" Judged on {compared} of {total} held-out examples{beside}: {reason}."
