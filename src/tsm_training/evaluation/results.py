"""What validation found: typed records, and the guide's documents that they are turned into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypedDict

import attrs

from tsm_training.analysis import DEFAULT_ROPE, Baseline, ScoreTable, VerdictDocument, judge
from tsm_training.data import WorkerAccuracy
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.evaluator import EvaluationRun
from tsm_training.evaluation.judging import ExampleJudgement
from tsm_training.evaluation.reports import EvaluatedExample, mean, mean_blend_accuracy, worker_accuracies

__all__ = [
    "BaselineMean",
    "CrossValidation",
    "CrossValidationResults",
    "Judged",
    "Validation",
    "ValidationDocument",
    "ValidationResults",
    "accuracy_table",
    "baseline_means",
    "validation_of",
    "verdict_on",
]


_MOSTLY: Final = 0.5
"""With less than this absorbed, what was learned hardly shows in the ensemble's answer."""


# --- documents ------------------------------------------------------------------------------------------------------


class BaselineMean(TypedDict):
    """How one baseline did on the unseen examples on which its picture could be judged."""

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
    contenders: dict[str, BaselineMean]
    """The trained ensemble and its baselines, on the same pixels of the examples that are unseen; fewer of them where
    small pictures of its workers are no longer kept."""
    verdict: VerdictDocument
    """Whether the trained weights are worth shipping, judged on the unseen examples that have pictures."""
    per_example: list[ExampleJudgement]
    """What each baseline's picture scored on each example."""


class CrossValidationResults(TypedDict):
    """How training does on examples that it has not seen: each example is held out once."""

    folds: int
    """How many there really were."""
    num_examples: int
    avg_accuracy: float | None
    """Blend-weighted mean of the workers' accuracies, each example judged by the shares learned without it."""
    equal_weights_accuracy: float | None
    ensemble_accuracy: float | None
    """Mean similarity of the blended pictures; None where no pictures could be compared."""
    ensemble_examples: int
    mean_delta_e: float | None
    """Mean colour difference ΔE00 of the same pictures, whatever the metric."""
    blend_weights: list[dict[str, float]]
    """The shares that were learned, fold by fold: where they differ much, there is not enough to learn from."""
    contenders: dict[str, BaselineMean]
    verdict: VerdictDocument
    """A verdict on training as such, where equal weights are taken to be in use."""
    per_example: list[ExampleJudgement]
    skipped: dict[str, str]


# --- records --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Judged:
    """What the trained ensemble and its baselines scored, example by example, and what follows from it."""

    avg_accuracy: float | None = None
    equal_weights_accuracy: float | None = None
    baselines: Mapping[str, BaselineMean] = attrs.field(factory=dict)
    """By baseline."""
    verdict: VerdictDocument = attrs.field(factory=lambda: verdict_on([], [], DEFAULT_ROPE))
    per_example: Sequence[ExampleJudgement] = ()
    skipped: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def num_examples(self) -> int:
        """How many examples were evaluated."""
        return len(self.per_example)

    @property
    def unseen_examples(self) -> int:
        """How many of them the learner has never absorbed."""
        return sum(each["is_unseen"] for each in self.per_example)

    @property
    def ensemble_accuracy(self) -> float | None:
        """Mean similarity of the trained ensemble's pictures."""
        return mean(each["scores"].get(Baseline.TRAINED) for each in self.per_example)

    @property
    def ensemble_examples(self) -> int:
        """On how many examples it has one that was judged."""
        return sum(Baseline.TRAINED in each["scores"] for each in self.per_example)

    @property
    def mean_delta_e(self) -> float | None:
        """Mean ΔE00 of these pictures."""
        return mean(each["delta_e"].get(Baseline.TRAINED) for each in self.per_example)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return what a document holds.

        Raises:
            InvalidArgumentError: an entry is missing: it is another kind of document.
        """
        keys: dict[str, str] = {field.name: field.name for field in attrs.fields(cls)} | {"baselines": "contenders"}
        if missing := [key for key in keys.values() if key not in document]:
            raise InvalidArgumentError("results", sorted(document), f"a document with {', '.join(missing)}")
        return cls(**{name: document[key] for name, key in keys.items()})


@attrs.frozen(kw_only=True)
class Validation(Judged):
    """How trained weights do on some examples; without any, every mean is None."""

    worker_accuracies: Mapping[str, WorkerAccuracy] = attrs.field(factory=dict)
    blend_weights: Mapping[str, float] = attrs.field(factory=dict)
    failures: Mapping[str, int] = attrs.field(factory=dict)
    """On how many examples each worker gave no usable picture."""

    def to_document(self) -> ValidationResults:
        """Return the guide's document."""
        return {
            "num_examples": self.num_examples,
            "avg_accuracy": self.avg_accuracy,
            "worker_accuracies": dict(self.worker_accuracies),
            "equal_weights_accuracy": self.equal_weights_accuracy,
            "ensemble_accuracy": self.ensemble_accuracy,
            "ensemble_examples": self.ensemble_examples,
            "mean_delta_e": self.mean_delta_e,
            "unseen_examples": self.unseen_examples,
            "blend_weights": dict(self.blend_weights),
            "failures": dict(self.failures),
            "skipped": dict(self.skipped),
            "contenders": dict(self.baselines),
            "verdict": self.verdict,
            "per_example": list(self.per_example),
        }


@attrs.frozen(kw_only=True)
class CrossValidation(Judged):
    """How training does on examples that it has not seen: each example is held out once."""

    folds: int
    blend_weights: Sequence[dict[str, float]]
    """The shares that were learned, fold by fold."""

    def to_document(self) -> CrossValidationResults:
        """Return the document that `TrainingManager.cross_validate` promises."""
        return {
            "folds": self.folds,
            "num_examples": self.num_examples,
            "avg_accuracy": self.avg_accuracy,
            "equal_weights_accuracy": self.equal_weights_accuracy,
            "ensemble_accuracy": self.ensemble_accuracy,
            "ensemble_examples": self.ensemble_examples,
            "mean_delta_e": self.mean_delta_e,
            "blend_weights": list(self.blend_weights),
            "contenders": dict(self.baselines),
            "verdict": self.verdict,
            "per_example": list(self.per_example),
            "skipped": dict(self.skipped),
        }


# --- what they are made of ------------------------------------------------------------------------------------------


def validation_of(
    run: EvaluationRun, judged: Sequence[ExampleJudgement], baselines: Baselines, rope: float = DEFAULT_ROPE
) -> Validation:
    """Return what validation found on evaluated examples whose pictures were judged.

    Args:
        run: What every worker did.
        judged: What every baseline's picture scored, per evaluated example.
        baselines: The trained ensemble and what it is compared with.
        rope: Which difference in accuracy is practically none.
    """
    evaluated = run.evaluated
    shares = baselines.shares()
    return Validation(
        avg_accuracy=mean_blend_accuracy(evaluated, baselines.trained_shares),
        equal_weights_accuracy=mean_blend_accuracy(evaluated, lambda _item: shares[Baseline.EQUAL_WEIGHTS]),
        worker_accuracies=worker_accuracies(evaluated),
        blend_weights=shares[Baseline.TRAINED],
        failures={
            worker_id: sum(worker_id in e.evaluations and e.accuracies[worker_id] is None for e in evaluated)
            for worker_id in shares[Baseline.TRAINED]
        },
        skipped=run.skipped,
        baselines=baseline_means(evaluated, judged, shares),
        verdict=verdict_on(evaluated, judged, rope, baselines.followed, baselines.bests),
        per_example=judged,
    )


def baseline_means(
    items: Sequence[EvaluatedExample],
    judged: Sequence[ExampleJudgement],
    shares: Mapping[Baseline, dict[str, float]],
    shown: Iterable[Baseline] = Baseline,
) -> dict[str, BaselineMean]:
    """Return each baseline's means over the unseen examples on which it was judged, each target counting once.

    Args:
        items: The examples.
        judged: What every baseline's picture scored on each of them.
        shares: Those of the baselines that are made of workers.
        shown: The baselines whose shares to give.
    """
    unseen = [(item, each) for item, each in zip(items, judged, strict=True) if each["is_unseen"]]
    known = {*shares, Baseline.UNTOUCHED, *(name for _item, each in unseen for name in each["scores"])}
    table = _table([item for item, _each in unseen], {})

    def average(values: Sequence[float | None]) -> float | None:
        return mean(table.group_means(values))

    return {
        str(name): {
            "mean": average([each["scores"].get(name) for _item, each in unseen]),
            "mean_delta_e": average([each["delta_e"].get(name) for _item, each in unseen]),
            "num_examples": sum(name in each["scores"] for _item, each in unseen),
            "blend_weights": shares.get(name) if name in shown else None,
        }
        for name in Baseline
        if name in known and name is not Baseline.CONTROL
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
        judged: What every baseline's picture scored on each of them.
        rope: Which difference in accuracy is practically none.
        followed: How far the ensemble follows the blend that was fitted, in [0, 1]; where that is little, a verdict
            other than "ship" says that more epochs would follow it further.
        bests: The ids of the best single and the best fixed worker, where they are known.
    """
    unseen = [(item, each["scores"]) for item, each in zip(items, judged, strict=True) if each["is_unseen"]]
    rows = [(item, scores) for item, scores in unseen if Baseline.TRAINED in scores]
    names = {str(Baseline.TRAINED), *(name for _item, scores in rows for name in scores)} - {Baseline.WITHOUT_GROUPS}
    if Baseline.PREVIOUS not in names:
        names.add(str(Baseline.EQUAL_WEIGHTS))
    columns = {name: [scores.get(name) for _item, scores in rows] for name in sorted(names)}
    table = _table([item for item, _scores in rows], columns)
    verdict = judge(table, rope=rope, **(bests or {})).to_dict()
    sentences = [verdict["sentence"], *_how_many(verdict, len(unseen))]
    if judged and not unseen:
        learned = "example was" if len(judged) == 1 else "examples were all"
        sentences.append(f"The {len(judged)} {learned} learned from already; only others can judge.")
    if verdict["decision"] != "ship" and followed < _MOSTLY:
        sentences.append(
            f"Only {followed:.0%} of what the training examples say is absorbed yet: train with more epochs first."
        )
    return {**verdict, "sentence": " ".join(sentences)}


def _how_many(verdict: VerdictDocument, total: int) -> list[str]:
    """Say on how many of the held-out examples the decision rests, if not on all of them."""
    untouched = verdict["comparisons"].get(Baseline.UNTOUCHED)
    compared, beside = verdict["num_examples"], ""
    if verdict["decision"] == "no gain" and untouched is not None:
        compared = untouched["num_examples"]
    elif untouched is not None and untouched["num_examples"] > compared:
        beside = f", and beside the untouched target on {untouched['num_examples']}"
    reason = "of the others not all pictures are kept; validate(…, full=True) makes them again"
    said = f"Judged on {compared} of {total} held-out examples{beside}: {reason}."
    return [said] if compared < total else []
