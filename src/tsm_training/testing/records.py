"""Records to test stores with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from tsm_training.data import (
    EpochMetrics,
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    ExampleScores,
    MetricRow,
    PictureFile,
    StateDelta,
    TrainingExample,
    TrainingSession,
    WorkerOutcome,
)

MOMENT: Final = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
"""The time in the records made here."""

ODD_TEXT: Final = "Ünïcödé 🎨 'quoted\" \\ back\nline\ttab; DROP TABLE x; --"
"""What a careless store spoils."""

_METADATA: Final = {
    "camera": "Ünïcödé 🎨",
    "nested": {"list": [1, -2.5, None, True, False, "", []], "empty": {}, "deep": {"er": {"yet": ["x"]}}},
    "large": 2**63 - 1,
    "small": 5e-324,
    "": "an empty key",
}
"""One of everything that JSON can hold."""

_ODD_FLOATS: Final = (0.1, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -0.1 - 0.2, 1e-17)


def make_files(name: str = "a", *, target: str | None = None) -> ExampleFiles:
    """Return file contents that differ with `name`; those of the target differ with `target` instead, if given."""
    return ExampleFiles(_picture(f"source {name}"), _picture(f"target {target or name}"), _picture(f"truth {name}"))


def _picture(name: str) -> PictureFile:
    return PictureFile(sha256=name.encode().hex().ljust(64, "0")[:64], num_bytes=1000 + len(name), width=64, height=48)


def make_example(example_id: str = "example", **changes: Any) -> TrainingExample:
    """Return an example; `changes` replace any of its fields."""
    example = TrainingExample(
        example_id=example_id,
        source_path=f"/pictures/{example_id}/source.png",
        target_path=f"/pictures/{example_id}/target.png",
        ground_truth_path=f"/pictures/{example_id}/truth.png",
        created_at=MOMENT,
        metadata={"name": example_id},
        files=make_files(example_id),
    )
    return attrs.evolve(example, **changes)


def make_outcome(accuracy: float | None = 0.75) -> WorkerOutcome:
    """Return an entry of an example's ``worker_results``; without accuracy that of a failure."""
    failed = accuracy is None
    error = "raised: ValueError: no" if failed else None
    return {"accuracy": accuracy, "confidence": 1.0, "is_valid": not failed, "error": error, "seconds": 0.125}


def make_scores(accuracy: float = 0.75) -> ExampleScores:
    """Return ``validation_scores`` of an example."""
    return {
        "avg_accuracy": accuracy,
        "equal_weights_accuracy": accuracy / 3,
        "ensemble_accuracy": None,
        "validated_at": MOMENT.isoformat(),
    }


def make_evaluation(digest: str = "digest", worker_id: str = "worker", **changes: Any) -> Evaluation:
    """Return an evaluation; `changes` replace any of its fields."""
    evaluation = Evaluation(
        key=EvaluationKey(digest, worker_id, "worker-fingerprint", "metric-fingerprint", "reader"),
        accuracy=1 / 3,
        confidence=0.9,
        failure_kind=None,
        failure_type=None,
        failure_message=None,
        seconds=0.125,
        created_at=MOMENT,
    )
    return attrs.evolve(evaluation, **changes)


def make_epoch_metrics(epoch: int = 1) -> EpochMetrics:
    """Return an entry of a session's ``metrics_history``."""
    return {
        "epoch": epoch,
        "avg_accuracy": 0.1 + 0.2,
        "equal_weights_accuracy": 1 / 3,
        "worker_accuracies": {"bad": None, "good": 0.7},
        "weights": {"bad": 0.9, "good": 1.1},
        "weight_stds": {"bad": 0.02, "good": 0.01},
        "blend_weights": {"bad": 0.25, "good": 0.75},
        "max_weight_change": 1e-17,
    }


def make_session(session_id: str = "session", **changes: Any) -> TrainingSession:
    """Return a session that is running; `changes` replace any of its fields."""
    session = TrainingSession(
        session_id=session_id,
        start_time=MOMENT,
        epochs=3,
        learning_rate=0.15,
        initial_weights={"bad": 1.0, "good": 1.0},
    )
    return attrs.evolve(session, **changes)


def make_metric_row(session_id: str = "session", worker_id: str = "good", **changes: Any) -> MetricRow:
    """Return a metric row; `changes` replace any of its fields."""
    row = MetricRow(session_id, 3, "example", worker_id, 0.7, 1.0, 1 - 0.7, MOMENT.isoformat())
    return row._replace(**changes)


def make_delta(number: int = 1) -> StateDelta:
    """Return documents of learned state that differ with `number`, as texts that only an exact store gives back."""
    numbers = [value / number for value in _ODD_FLOATS]
    document = json.dumps({"name": ODD_TEXT, "numbers": numbers, "exact": 10**40 + number}, ensure_ascii=False)
    head = {"sums": document, ODD_TEXT: " [1.0,1e0 ]", "empty": "{}"}
    return StateDelta(head, {"digest": document, f"digest {number}": "null", ODD_TEXT: str(number), "": '""'})


def complete_example(example_id: str) -> TrainingExample:
    """Return an example with something odd in every field."""
    return make_example(
        example_id,
        source_path=f"/{ODD_TEXT}",
        metadata=_METADATA,
        worker_results={"good": make_outcome(), ODD_TEXT: make_outcome(None)},
        validation_scores=make_scores(),
    )


def complete_session(session_id: str) -> TrainingSession:
    """Return a completed session with something in every field."""
    return make_session(
        session_id,
        end_time=MOMENT + timedelta(microseconds=1),
        num_examples=2,
        final_weights={"bad": 0.1 + 0.2, "good": 1 / 3, ODD_TEXT: 5e-324},
        metrics_history=[make_epoch_metrics(1), make_epoch_metrics(2)],
        status="completed",
        seed=2**62,
        validation_split=1 / 3,
        training_ids=["b", "a"],
        validation_ids=["c"],
        skipped={"d": ODD_TEXT},
        is_trial=True,
        validation={"num_examples": 1, "nested": _METADATA},
        group_by=ODD_TEXT,
    )
