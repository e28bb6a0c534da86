"""Between rows of the database and records, in both directions."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import attrs

from tsm_training.data.records import (
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    ExampleScores,
    Learning,
    PictureFile,
    TrainingExample,
    TrainingSession,
)
from tsm_training.errors import (
    StorageCorruptError,
)
from tsm_training.evidence import Absorbed, LearnedState, WorkerBase

__all__ = [
    "EXAMPLE_COLUMNS",
    "SESSION_COLUMNS",
    "details_json",
    "dump",
    "evaluation_of",
    "evaluation_row",
    "example_of",
    "example_row",
    "files_json",
    "read_learning",
    "session_of",
    "session_row",
    "write_changes",
]

EXAMPLE_COLUMNS: Final = (
    "e.example_id, e.source_path, e.target_path, e.ground_truth_path, e.created_at, e.metadata, e.worker_results, "
    "e.validation_scores, f.files, f.sequence FROM training_examples e JOIN example_files f USING (example_id)"
)
SESSION_COLUMNS: Final = (
    "s.session_id, s.start_time, s.end_time, s.num_examples, s.epochs, s.learning_rate, s.initial_weights, "
    "s.final_weights, s.metrics_history, s.status, d.details "
    "FROM training_sessions s JOIN session_details d USING (session_id)"
)
_DETAIL_FIELDS: Final = (
    "seed",
    "validation_split",
    "training_ids",
    "validation_ids",
    "skipped",
    "error",
    "is_trial",
    "validation",
)


def dump(value: object) -> str:
    """Return a value as strict JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json(column: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{column} holds no JSON ({error})") from error


def _json_object(column: str, text: str | None) -> dict[str, Any] | None:
    value = _json(column, text)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{column} holds no JSON object")
    return value


def _json_list(column: str, text: str | None) -> list[Any]:
    value = _json(column, text)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{column} holds no JSON list")
    return value or []


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
        example.created_at.isoformat(),
        dump(example.metadata),
        None if example.worker_results is None else dump(example.worker_results),
        None if example.validation_scores is None else dump(example.validation_scores),
    )


def example_of(row: tuple[object, ...], location: str) -> TrainingExample:
    """Return the example of a row of `EXAMPLE_COLUMNS`; StorageCorruptError names a damaged one."""
    example_id, source, target, truth, created, metadata, results, scores, files, _sequence = cast(
        "tuple[str, str, str, str, str, str | None, str | None, str | None, str | None, int]", row
    )
    with _damage_named(location, f"training_examples, {example_id!r}"):
        return TrainingExample(
            example_id=example_id,
            source_path=source,
            target_path=target,
            ground_truth_path=truth,
            created_at=_time(created),
            metadata=_json_object("metadata", metadata) or {},
            worker_results=_json_object("worker_results", results),
            validation_scores=cast("ExampleScores | None", _json_object("validation_scores", scores)),
            files=_files(_json_object("files", files)),
        )


def files_json(files: ExampleFiles | None) -> str | None:
    """Return the contents of an example's files as JSON."""
    return None if files is None else dump(attrs.asdict(files))


def _files(document: Mapping[str, Any] | None) -> ExampleFiles | None:
    return None if document is None else ExampleFiles(**{role: PictureFile(**d) for role, d in document.items()})


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
        evaluation.created_at.isoformat(),
    )


def session_row(session: TrainingSession) -> tuple[object, ...]:
    """Return the guide's columns of a session."""
    return (
        session.session_id,
        session.start_time.isoformat(),
        None if session.end_time is None else session.end_time.isoformat(),
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
    return dump({name: getattr(session, name) for name in _DETAIL_FIELDS})


def read_learning(connection: sqlite3.Connection, version: int) -> Learning:
    """Return the learned state that the tables hold."""
    bases = {row[0]: WorkerBase(*row[1:]) for row in connection.execute("SELECT * FROM learned_bases")}
    absorbed: dict[str, dict[str, Absorbed]] = {}
    for digest, worker_id, *values in connection.execute(
        "SELECT example_digest, worker_id, accuracy, confidence, residual FROM absorbed_evidence"
    ):
        absorbed.setdefault(digest, {})[worker_id] = Absorbed(*values)
    return Learning(version, LearnedState(bases, absorbed))


def write_changes(connection: sqlite3.Connection, old: LearnedState, new: LearnedState) -> None:
    """Write only what differs: a session changes the rows of its own examples."""
    connection.executemany(
        "DELETE FROM learned_bases WHERE worker_id = ?", [(w,) for w in old.bases.keys() - new.bases.keys()]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO learned_bases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(w, *attrs.astuple(base)) for w, base in sorted(new.bases.items()) if old.bases.get(w) != base],
    )
    changed = [d for d in sorted(new.absorbed) if old.absorbed.get(d) != new.absorbed[d]]
    gone = sorted(old.absorbed.keys() - new.absorbed.keys())
    connection.executemany("DELETE FROM absorbed_evidence WHERE example_digest = ?", [(d,) for d in [*gone, *changed]])
    connection.executemany(
        "INSERT INTO absorbed_evidence VALUES (?, ?, ?, ?, ?)",
        [(d, w, *attrs.astuple(a)) for d in changed for w, a in sorted(new.absorbed[d].items())],
    )


def evaluation_of(row: tuple[object, ...], location: str) -> Evaluation:
    """Return the evaluation of a row; StorageCorruptError names a damaged one."""
    key = EvaluationKey(*cast("tuple[str, str, str, str]", row[:4]))
    accuracy, confidence, kind, error_type, message, seconds, created = cast("tuple[Any, ...]", row[4:])
    with _damage_named(location, f"evaluations, {key.example_digest!r}, {key.worker_id!r}"):
        return Evaluation(
            key=key,
            accuracy=accuracy,
            confidence=confidence,
            failure_kind=kind,
            failure_type=error_type,
            failure_message=message,
            seconds=seconds,
            created_at=_time(created),
        )


def session_of(row: tuple[object, ...], location: str) -> TrainingSession:
    """Return the session of a row of `SESSION_COLUMNS`; StorageCorruptError names a damaged one."""
    values = cast("tuple[Any, ...]", row)
    session_id, start, end, num_examples, epochs, rate, initial, final, history, status, details = values
    with _damage_named(location, f"training_sessions, {session_id!r}"):
        return TrainingSession(
            session_id=session_id,
            start_time=_time(start),
            end_time=None if end is None else _time(end),
            num_examples=num_examples or 0,
            epochs=epochs or 0,
            learning_rate=rate or 0.0,
            initial_weights=_json_object("initial_weights", initial) or {},
            final_weights=_json_object("final_weights", final) or {},
            metrics_history=_json_list("metrics_history", history),
            status=status or "completed",
            **(_json_object("details", details) or {}),
        )


@contextlib.contextmanager
def _damage_named(location: str, place: str) -> Iterator[None]:
    """Name the row in which a value is not what the library or an application by the guide writes."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise StorageCorruptError(location, f"{place}: {error}") from error
