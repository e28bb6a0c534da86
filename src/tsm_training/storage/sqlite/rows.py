"""Between rows of the database and records, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import attrs

from tsm_training.data import (
    ROLES,
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    MetricRow,
    PictureFile,
    TrainingExample,
    TrainingSession,
)
from tsm_training.storage.sqlite.connection import FaultyRowError, UnstorableValueError

T = TypeVar("T")

EXAMPLE_COLUMNS: Final = (
    "e.example_id, e.source_path, e.target_path, e.ground_truth_path, e.created_at, e.metadata, e.worker_results, "
    "e.validation_scores, f.files, f.sequence FROM training_examples e JOIN example_files f USING (example_id)"
)
SESSION_COLUMNS: Final = (
    "s.session_id, s.start_time, s.end_time, s.num_examples, s.epochs, s.learning_rate, s.initial_weights, "
    "s.final_weights, s.metrics_history, s.status, d.details, d.sequence "
    "FROM training_sessions s JOIN session_details d USING (session_id)"
)
EVALUATION_COLUMNS: Final = (
    "example_digest, worker_id, worker_fingerprint, metric_fingerprint, reader_version, accuracy, confidence, "
    "failure_kind, failure_type, failure_message, seconds, created_at"
)
METRIC_COLUMNS: Final = "session_id, epoch, example_id, worker_id, accuracy, confidence, loss, timestamp"
_DETAILS: Final = (
    "seed",
    "validation_split",
    "training_ids",
    "validation_ids",
    "skipped",
    "error",
    "is_trial",
    "validation",
    "group_by",
)


def _made(table: str, row: Sequence[Any], make: Callable[..., T]) -> T:
    """Return the record of a row; FaultyRowError names one of which there is none."""
    try:
        for value in row:
            if isinstance(value, bytes):
                raise TypeError(f"text is expected, not {len(value)} bytes")
        return make(*row)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise FaultyRowError(table, repr(row[0]), f"{type(error).__name__}: {error}") from error


def dump(value: object) -> str:
    """Return a value as strict JSON; UnstorableValueError where JSON cannot hold it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnstorableValueError(str(error)) from error


def json_list(texts: Iterable[str]) -> str:
    """Return texts as a parameter for ``json_each``, each once; half of a surrogate pair is found nowhere."""
    return json.dumps(sorted(set(texts)))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _mapping(text: str | None) -> Any:
    value = None if text is None else json.loads(text, parse_constant=_no_number)
    if not isinstance(value, dict | None):
        raise TypeError(f"a JSON object is expected, not {text:.60}")
    return value


def _time_text(time: datetime) -> str:
    if time.tzinfo is None:
        raise UnstorableValueError(f"the time {time} has no time zone")
    return time.isoformat()


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    # Applications that followed the guide wrote UTC without saying so.
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def example_row(example: TrainingExample) -> tuple[object, ...]:
    """Return the guide's columns of an example."""
    return (
        example.example_id,
        example.source_path,
        example.target_path,
        example.ground_truth_path,
        _time_text(example.created_at),
        dump(example.metadata),
        None if example.worker_results is None else dump(example.worker_results),
        None if example.validation_scores is None else dump(example.validation_scores),
    )


def files_row(files: ExampleFiles | None) -> tuple[str | None, str | None]:
    """Return the digest of an example's files, and their contents as JSON."""
    return (None, None) if files is None else (files.digest, dump(attrs.asdict(files)))


def example_of(row: Sequence[Any]) -> TrainingExample:
    """Return the example of a row of `EXAMPLE_COLUMNS`."""
    return _made("training_examples", row, _example)


def _example(*row: Any) -> TrainingExample:
    example_id, source, target, truth, created_at, metadata, results, scores, files, _sequence = row
    pictures = _mapping(files)
    return TrainingExample(
        example_id,
        source,
        target,
        truth,
        _time(created_at),
        _mapping(metadata),
        worker_results=_mapping(results),
        validation_scores=_mapping(scores),
        files=None if pictures is None else ExampleFiles(*(PictureFile(**pictures[role]) for role in ROLES)),
    )


def session_row(session: TrainingSession) -> tuple[object, ...]:
    """Return the guide's columns of a session."""
    return (
        session.session_id,
        _time_text(session.start_time),
        None if session.end_time is None else _time_text(session.end_time),
        session.num_examples,
        session.epochs,
        session.learning_rate,
        dump(session.initial_weights),
        dump(session.final_weights),
        dump(session.metrics_history),
        session.status,
    )


def details_json(session: TrainingSession) -> str:
    """Return what the guide's columns of a session have no place for, as JSON."""
    return dump({name: getattr(session, name) for name in _DETAILS})


def session_of(row: Sequence[Any]) -> TrainingSession:
    """Return the session of a row of `SESSION_COLUMNS`; an application may have left most of the guide's empty."""
    return _made("training_sessions", row, _session)


def _session(*row: Any) -> TrainingSession:
    session_id, start, end, num_examples, epochs, rate, initial, final, history, status, details, _sequence = row
    return TrainingSession(
        session_id,
        _time(start),
        epochs or 0,
        rate or 0.0,
        _mapping(initial) or {},
        end_time=None if end is None else _time(end),
        num_examples=num_examples or 0,
        final_weights=_mapping(final) or {},
        metrics_history=() if history is None else json.loads(history, parse_constant=_no_number),
        status=status or "completed",
        **(_mapping(details) or {}),
    )


def evaluation_row(evaluation: Evaluation) -> tuple[object, ...]:
    """Return the columns of an evaluation."""
    return (
        *evaluation.key,
        evaluation.accuracy,
        evaluation.confidence,
        evaluation.failure_kind,
        evaluation.failure_type,
        evaluation.failure_message,
        evaluation.seconds,
        _time_text(evaluation.created_at),
    )


def evaluation_of(row: Sequence[Any]) -> Evaluation:
    """Return the evaluation of a row of `EVALUATION_COLUMNS`."""
    return _made("evaluations", row, _evaluation)


def _evaluation(*row: Any) -> Evaluation:
    accuracy, confidence, kind, name, message, seconds, created_at = row[5:]
    return Evaluation(
        EvaluationKey(*row[:5]), accuracy, confidence, kind, name, message, seconds, created_at=_time(created_at)
    )


def metric_of(row: Sequence[Any]) -> MetricRow:
    """Return the metrics of a row of `METRIC_COLUMNS`."""
    return _made("training_metrics", row, MetricRow)
