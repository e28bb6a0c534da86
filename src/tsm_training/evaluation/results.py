"""What validation found: typed records, and the guide's documents that they are turned into."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypedDict, cast

import attrs

from tsm_training.analysis import DEFAULT_ROPE, SHOWN, Baseline, ScoreTable, VerdictDocument, judge
from tsm_training.data import WorkerAccuracy
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.evaluated import EvaluatedExample, mean

_KEYS: Final = {"baselines": "contenders"}
"""The keys of documents, where they are not the names of the records' fields."""

_MOSTLY: Final = 0.5
"""With less than this absorbed, what was learned hardly shows in the ensemble's answer."""


# --- documents ------------------------------------------------------------------------------------------------------


class ShownDocument(dict[str, Any]):
    """A document of results that shows itself: ``print`` gives a summary, and a notebook a table.

    It is a dictionary in all else: equal to a plain one, and the same as JSON and when pickled.
    """

    def __str__(self) -> str:
        from tsm_training.report import show  # noqa: PLC0415 - where results become text

        return str(show(cast("Any", self)))

    def _repr_html_(self) -> str:
        from tsm_training.report import show  # noqa: PLC0415 - where results become HTML

        return show(cast("Any", self)).to_html()


class ExampleJudgement(TypedDict):
    """What every baseline's picture of one example scored."""

    example_id: str
    group: str | None
    """The group that the training put it in; None without groups."""
    is_unseen: bool
    """True where nothing was ever learned from it."""
    scores: dict[str, float]
    """Similarity to the ground truth by baseline, in [0, 1]; ``control`` is the trained ensemble's picture beside
    another example's ground truth. Who has no picture is missing: it failed, or small pictures of its workers are no
    longer kept."""
    delta_e: dict[str, float]
    """Mean colour difference ΔE00 from the ground truth by baseline, whatever the metric."""


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
    unrepeatable: dict[str, float]
    """Workers that gave other scores than before on the same pictures, and by how much the accuracy changed at most (1
    where there was a picture once only); found by ``validate(..., reevaluate=True)`` where results were stored."""
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
    """By baseline; in documents they are called contenders."""
    verdict: VerdictDocument = attrs.field(factory=lambda: verdict_on([], [], DEFAULT_ROPE))
    per_example: Sequence[ExampleJudgement] = attrs.field(factory=list)
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

    @property
    def headline(self) -> float | None:
        """The similarity of the picture that the trained ensemble gives, in [0, 1], as it is told first everywhere.

        It is the mean over the unseen examples, each target counting once; over all where none is unseen.
        """
        known = self.baselines.get(Baseline.TRAINED)
        return self.ensemble_accuracy if known is None or known["mean"] is None else known["mean"]

    @property
    def shown_baselines(self) -> list[Baseline]:
        """The baselines in the order of tables.

        What was in use before is left out where it had equal shares, as before a first training: it stands there once.
        """
        known = (self.baselines.get(each) for each in (Baseline.PREVIOUS, Baseline.EQUAL_WEIGHTS))
        before, equal = (dict(each["blend_weights"] or {}) if each else {} for each in known)
        is_equal = before.keys() == equal.keys() and all(math.isclose(before[w], equal[w]) for w in before)
        return [each for each in SHOWN if each is not Baseline.PREVIOUS or not is_equal]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return what a document holds.

        Raises:
            InvalidArgumentError: an entry is missing: it is another kind of document.
        """
        keys: dict[str, str] = {field.name: field.name for field in attrs.fields(cls)} | _KEYS
        if missing := [key for key in keys.values() if key not in document]:
            raise InvalidArgumentError("results", sorted(document), f"a document with {', '.join(missing)}")
        return cls(**{name: document[key] for name, key in keys.items()})

    def _document(self, kind: type) -> Any:
        """Return what `from_document` reads: the record's values under the keys of that kind of document."""
        names = {key: name for name, key in _KEYS.items()}
        return ShownDocument({key: getattr(self, names.get(key, key)) for key in kind.__annotations__})


@attrs.frozen(kw_only=True)
class Validation(Judged):
    """How trained weights do on some examples; without any, every mean is None."""

    worker_accuracies: Mapping[str, WorkerAccuracy] = attrs.field(factory=dict)
    blend_weights: Mapping[str, float] = attrs.field(factory=dict)
    failures: Mapping[str, int] = attrs.field(factory=dict)
    """On how many examples each worker gave no usable picture."""
    unrepeatable: Mapping[str, float] = attrs.field(factory=dict)
    """By how much the accuracy of a worker changed at most on the same pictures; without those that are repeatable."""

    def to_document(self) -> ValidationResults:
        """Return the guide's document."""
        return cast("ValidationResults", self._document(ValidationResults))


@attrs.frozen(kw_only=True)
class CrossValidation(Judged):
    """How training does on examples that it has not seen: each example is held out once."""

    folds: int
    blend_weights: Sequence[dict[str, float]]
    """The shares that were learned, fold by fold."""

    def to_document(self) -> CrossValidationResults:
        """Return the document that `TrainingManager.cross_validate` promises."""
        return cast("CrossValidationResults", self._document(CrossValidationResults))


# --- what they are made of ------------------------------------------------------------------------------------------


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
    rows = [item.accuracies for item in items]
    return _table(items, {worker_id: [row.get(worker_id) for row in rows] for worker_id in worker_ids})


def _table(items: Sequence[EvaluatedExample], scores: Mapping[str, Sequence[float | None]]) -> ScoreTable:
    return ScoreTable(
        example_ids=[item.example.example_id for item in items],
        groups=[item.target for item in items],
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
    sentences = [verdict["sentence"]]
    untouched = verdict["comparisons"].get(Baseline.UNTOUCHED)
    compared, beside = verdict["num_examples"], ""
    if verdict["decision"] == "no gain" and untouched is not None:
        compared = untouched["num_examples"]
    elif untouched is not None and untouched["num_examples"] > compared:
        beside = f", and beside the untouched target on {untouched['num_examples']}"
    if compared < len(unseen):
        sentences.append(
            f"Judged on {compared} of {len(unseen)} held-out examples{beside}: of the others not all pictures are "
            "kept; validate(…, full=True) makes them again."
        )
    if judged and not unseen:
        learned = "example was" if len(judged) == 1 else "examples were all"
        sentences.append(f"The {len(judged)} {learned} learned from already; only others can judge.")
    if verdict["decision"] != "ship" and followed < _MOSTLY:
        sentences.append(
            f"Only {followed:.0%} of what the training examples say is absorbed yet: train with more epochs first."
        )
    return {**verdict, "sentence": " ".join(sentences)}
