"""What is stored: frozen records, and the plain documents that describe them to a web client or a notebook."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict

import attrs

from tsm_training.evidence import LearnedState
from tsm_training.markup import Markup, card, counted, facts_table, figure_text, joined, seconds_text, small_table, tag

__all__ = [
    "ROLES",
    "DatasetStatistics",
    "EpochMetrics",
    "Evaluation",
    "EvaluationKey",
    "ExampleDocument",
    "ExampleFiles",
    "ExampleList",
    "ExampleReference",
    "ExampleScores",
    "ExampleSummary",
    "Learning",
    "MetricRow",
    "PictureFile",
    "Preview",
    "SessionCommit",
    "SessionDocument",
    "SessionStatus",
    "SessionSummary",
    "TrainingExample",
    "TrainingSession",
    "WorkerAccuracy",
    "WorkerOutcome",
]

_LONGEST_REPR: Final = 120
_MOST_SHOWN: Final = 8

SessionStatus: TypeAlias = Literal["running", "completed", "failed", "interrupted"]
"""How far a session has come; only a completed one has changed what is learned."""


# --- documents ------------------------------------------------------------------------------------------------------


class ExampleReference(TypedDict):
    """What the guide answers when an example was added."""

    example_id: str


class ExampleSummary(ExampleReference):
    """One example in the guide's list of examples."""

    created_at: str
    metadata: dict[str, Any]
    has_results: bool
    """True where it was evaluated at least once."""


class ExampleDocument(ExampleSummary):
    """Everything about one example."""

    source_path: str
    target_path: str
    ground_truth_path: str
    worker_results: dict[str, WorkerOutcome] | None
    validation_scores: ExampleScores | None


class ExampleList(TypedDict):
    """The guide's list of examples."""

    examples: list[ExampleSummary]
    total: int
    """How many examples are stored, which may be more than are listed."""


class WorkerOutcome(TypedDict):
    """What a worker did on an example: an entry of ``worker_results``."""

    accuracy: float | None
    """Similarity to the ground truth, in [0, 1]; None where the worker failed."""
    confidence: float
    is_valid: bool
    """True where there was a usable picture."""
    error: str | None
    seconds: float


class ExampleScores(TypedDict):
    """How the ensemble did on an example when it was last validated: ``validation_scores``."""

    avg_accuracy: float | None
    equal_weights_accuracy: float | None
    ensemble_accuracy: float | None
    validated_at: str
    """Aware UTC, ISO 8601."""


class EpochMetrics(TypedDict):
    """One entry of a session's ``metrics_history``."""

    epoch: int
    """From 1."""
    avg_accuracy: float
    """Blend-weighted mean accuracy of the workers over the training examples, with the weights after this epoch."""
    equal_weights_accuracy: float
    worker_accuracies: dict[str, float | None]
    """Mean accuracy per worker over the training examples where it gave a picture."""
    weights: dict[str, float]
    weight_stds: dict[str, float]
    """Posterior standard deviation of each weight after this epoch."""
    blend_weights: dict[str, float]
    max_weight_change: float
    """The largest change of any weight in this epoch: near 0 means that more epochs would change nothing."""


class WorkerAccuracy(TypedDict):
    """A worker's accuracies over several examples: `mean`, standard deviation `std`, `min` and `max`, all in [0, 1].

    They are None where it gave no picture at all.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None


class SessionDocument(TypedDict):
    """The session as the guide's training response shows it."""

    session_id: str
    num_examples: int
    epochs: int
    initial_weights: dict[str, float]
    """Per worker id, before the session; 1.0 is the average worker."""
    final_weights: dict[str, float]
    """Per worker id, after it."""
    metrics_history: list[EpochMetrics]


class SessionSummary(SessionDocument):
    """Everything about one session."""

    start_time: str
    end_time: str | None
    learning_rate: float
    status: SessionStatus
    seed: int | None
    validation_split: float | None
    training_ids: list[str]
    validation_ids: list[str]
    skipped: dict[str, str]
    error: str | None
    is_trial: bool
    validation: dict[str, Any] | None
    group_by: str | None


class DatasetStatistics(TypedDict):
    """The guide's counts."""

    total_examples: int
    """Examples that are stored."""
    processed_examples: int
    """Examples that were evaluated at least once."""
    unprocessed_examples: int
    """The others."""
    total_sessions: int
    """Sessions of every status."""


# --- examples -------------------------------------------------------------------------------------------------------


@attrs.frozen
class PictureFile:
    """What is known of a picture file since it was added."""

    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""
    num_bytes: int
    width: int
    """In pixels, after the file's orientation is applied."""
    height: int


@attrs.frozen
class ExampleFiles:
    """The contents of an example's three files: `source`, `target` and `ground_truth`."""

    source: PictureFile
    target: PictureFile
    ground_truth: PictureFile

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that name the contents of all three."""
        joined = "\n".join((self.source.sha256, self.target.sha256, self.ground_truth.sha256))
        return hashlib.sha256(joined.encode()).hexdigest()


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}…"


def _metadata(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return dict(value or {})


@attrs.frozen
class TrainingExample:
    """A triple of picture files: source gives the colours, target is changed, ground truth is the wanted result."""

    example_id: str
    source_path: str
    """Absolute, as are the other two."""
    target_path: str
    ground_truth_path: str
    created_at: datetime
    """Aware, UTC."""
    metadata: Mapping[str, Any] = attrs.field(factory=dict, converter=_metadata, repr=_cut)
    """Anything that JSON can hold."""
    worker_results: Mapping[str, WorkerOutcome] | None = attrs.field(default=None, repr=False)
    """What each worker did when the example was last evaluated; None until then."""
    validation_scores: ExampleScores | None = attrs.field(default=None, repr=False)
    """How the ensemble did when the example was last validated; None until then."""
    files: ExampleFiles | None = attrs.field(default=None, repr=False)
    """Contents of the files; None for an example from a database that did not keep them, until it is first used."""

    @property
    def known_files(self) -> ExampleFiles:
        """The contents of the files; ValueError while they are not known."""
        if self.files is None:
            raise ValueError(f"the files of example {self.example_id!r} were not looked at yet")
        return self.files

    def to_reference(self) -> ExampleReference:
        """Return the guide's answer to adding this example."""
        return {"example_id": self.example_id}

    def to_summary(self) -> ExampleSummary:
        """Return this example as the guide lists it."""
        return {
            "example_id": self.example_id,
            "created_at": self.created_at.isoformat(),
            "metadata": dict(self.metadata),
            "has_results": self.worker_results is not None,
        }

    def to_dict(self) -> ExampleDocument:
        """Return everything about this example, ready for JSON."""
        return {
            **self.to_summary(),
            "source_path": self.source_path,
            "target_path": self.target_path,
            "ground_truth_path": self.ground_truth_path,
            "worker_results": None if self.worker_results is None else dict(self.worker_results),
            "validation_scores": self.validation_scores,
        }


# --- evaluations ----------------------------------------------------------------------------------------------------


class EvaluationKey(NamedTuple):
    """What an evaluation depends on: the same key means the same result."""

    example_digest: str
    worker_id: str
    worker_fingerprint: str
    metric_fingerprint: str


@attrs.frozen
class Evaluation:
    """One worker's result on one example under one metric."""

    key: EvaluationKey
    accuracy: float | None
    """In [0, 1]; None where the worker failed."""
    confidence: float
    failure_kind: str | None
    """How the worker failed, as `WorkerFailure.kind` says it; None where it gave a usable picture, as the next two."""
    failure_type: str | None
    """The exception's class name, or the name of the check that failed."""
    failure_message: str | None
    """At most 500 characters."""
    seconds: float
    """Wall-clock time of the worker."""
    created_at: datetime
    """Aware, UTC."""

    def to_outcome(self) -> WorkerOutcome:
        """Return this evaluation as an entry of an example's ``worker_results``."""
        failed = self.accuracy is None
        return {
            "accuracy": self.accuracy,
            "confidence": self.confidence,
            "is_valid": not failed,
            "error": f"{self.failure_kind}: {self.failure_type}: {self.failure_message}" if failed else None,
            "seconds": self.seconds,
        }


@attrs.frozen
class Preview:
    """A small sample of one picture of an example, kept so that blends can be compared without running a worker."""

    example_digest: str
    """Names the contents of the example's files; see `ExampleFiles.digest`."""
    name: str
    """The worker's id and fingerprint with an @ between them, or the role of an input picture."""
    png: bytes
    """The sampled pixels as a PNG file."""
    rank: float | None = 0.0
    """Which previews stay where there is no room for all: those of the lowest rank. None stays as long as the
    example."""


@attrs.frozen
class ObservationRecord:
    """What a trainable worker noted of an example: a document that no store needs to understand."""

    example_digest: str
    """Names the contents of the example's files; see `ExampleFiles.digest`."""
    name: str
    """The worker's id and fingerprint."""
    content: bytes
    """What the worker noted."""


class MetricRow(NamedTuple):
    """A row of the guide's ``training_metrics`` table: one per session, example and worker."""

    session_id: str
    epoch: int
    """The session's last epoch; figures of single epochs are in the session's ``metrics_history``."""
    example_id: str
    worker_id: str
    accuracy: float | None
    """None where the worker failed."""
    confidence: float
    loss: float | None
    """1 − accuracy."""
    timestamp: str


# --- sessions and learning ------------------------------------------------------------------------------------------


def _history(value: Sequence[EpochMetrics]) -> tuple[EpochMetrics, ...]:
    return tuple(value)


def _ids(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen
class TrainingSession:
    """One training: what went in, what came out, and how it went epoch by epoch."""

    session_id: str
    """A text that no other session has."""
    start_time: datetime
    """Aware, UTC."""
    epochs: int
    learning_rate: float
    """The learner's alpha, in (0, 1]."""
    initial_weights: Mapping[str, float] = attrs.field(repr=False)
    end_time: datetime | None = None
    """None while it runs."""
    num_examples: int = 0
    """How many training examples were really used; skipped ones do not count."""
    final_weights: Mapping[str, float] = attrs.field(factory=dict, repr=False)
    metrics_history: tuple[EpochMetrics, ...] = attrs.field(default=(), converter=_history, repr=False)
    status: SessionStatus = "running"
    """``completed`` and all learned, or ``failed`` or ``interrupted`` and nothing learned, or still ``running``."""
    seed: int | None = None
    """What the split was drawn with; None where the caller chose the examples."""
    validation_split: float | None = None
    training_ids: tuple[str, ...] = attrs.field(default=(), converter=_ids, repr=False)
    """Ids of the examples to learn from, skipped ones included."""
    validation_ids: tuple[str, ...] = attrs.field(default=(), converter=_ids, repr=False)
    """Ids of the examples held out."""
    skipped: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Why an example could not be used, by example id."""
    error: str | None = None
    """Why the session failed or was interrupted."""
    is_trial: bool = False
    """True where a fork was trained: the stored weights were left alone."""
    validation: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    """The validation report; None where nothing was held out."""
    group_by: str | None = None
    """The metadata key by which weights were learned group by group."""

    def _repr_html_(self) -> str:
        """Show the session in a notebook."""
        validation = self.validation or {}
        seconds = None if self.end_time is None else (self.end_time - self.start_time).total_seconds()
        facts = {
            "examples": f"{self.num_examples}, held out {len(self.validation_ids)}",
            "epochs": f"{self.epochs}, learning rate {self.learning_rate:g}",
            "started": f"{self.start_time:%Y-%m-%d %H:%M} UTC",
            "took": None if seconds is None else seconds_text(seconds),
            "accuracy on held-out examples": figure_text(validation.get("avg_accuracy")),
            "verdict": (validation.get("verdict") or {}).get("sentence"),
            "skipped": counted(len(self.skipped), "example") if self.skipped else None,
            "error": self.error,
        }
        kind = "Trial training" if self.is_trial else "Training"
        return card(f"{kind} session, {self.status}", facts_table(facts), self._weights_table())

    def _weights_table(self) -> Markup | None:
        ranked = sorted(self.final_weights, key=lambda worker_id: (-self.final_weights[worker_id], worker_id))
        if not ranked:
            return None
        rows = [
            [name, figure_text(self.initial_weights.get(name)), figure_text(self.final_weights[name])]
            for name in ranked[:_MOST_SHOWN]
        ]
        left = len(ranked) - len(rows)
        return joined(
            small_table(["worker", "weight before", "after"], rows), tag("div", f"and {left} more") if left else None
        )

    def to_summary(self) -> SessionDocument:
        """Return the session as the guide's training response shows it."""
        return {
            "session_id": self.session_id,
            "num_examples": self.num_examples,
            "epochs": self.epochs,
            "initial_weights": dict(self.initial_weights),
            "final_weights": dict(self.final_weights),
            "metrics_history": list(self.metrics_history),
        }

    def to_dict(self) -> SessionSummary:
        """Return everything about the session, ready for JSON."""
        return {
            **self.to_summary(),
            "start_time": self.start_time.isoformat(),
            "end_time": None if self.end_time is None else self.end_time.isoformat(),
            "learning_rate": self.learning_rate,
            "status": self.status,
            "seed": self.seed,
            "validation_split": self.validation_split,
            "training_ids": list(self.training_ids),
            "validation_ids": list(self.validation_ids),
            "skipped": dict(self.skipped),
            "error": self.error,
            "is_trial": self.is_trial,
            "validation": None if self.validation is None else dict(self.validation),
            "group_by": self.group_by,
        }


@attrs.frozen
class Learning:
    """The learned state that a store holds, and a number that grows with every change of it."""

    version: int
    state: LearnedState


@attrs.frozen
class SessionCommit:
    """How a session ends: the final record `session`, its rows of `metrics`, and the learned `state` that it leaves."""

    session: TrainingSession
    metrics: Sequence[MetricRow] = ()
    state: LearnedState | None = None
    """None leaves the learned state as it is."""


ROLES: Final = ("source", "target", "ground_truth")
"""The pictures of an example: gives the colours, is changed, is the wanted result."""
