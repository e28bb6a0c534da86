"""Between rows of the database and records, in both directions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import attrs

from tsm_training.data import (
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    Learning,
    MetricRow,
    ObservationRecord,
    Preview,
    TrainingExample,
    TrainingSession,
)
from tsm_training.learning import Absorbed, FittedBlend, Group, LearnedState, WorkerBase
from tsm_training.storage.sqlite.rules import TABLES, UnstorableValueError, dump, faults, loaded, storable

__all__ = [
    "EVALUATIONS_QUERY",
    "EXAMPLE_COLUMNS",
    "SESSION_COLUMNS",
    "details_json",
    "evaluation_of",
    "evaluation_row",
    "example_of",
    "example_row",
    "files_json",
    "metric_of",
    "metric_row",
    "observation_row",
    "preview_row",
    "read_learning",
    "session_of",
    "session_row",
    "write_changes",
]

EVALUATIONS_QUERY: Final = (
    "SELECT example_digest, worker_id, worker_fingerprint, metric_fingerprint, accuracy, confidence, failure_kind, "
    "failure_type, failure_message, seconds, created_at FROM evaluations "
    "WHERE example_digest IN (SELECT value FROM json_each(?)) ORDER BY sequence"
)
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
    "group_by",
)


def _time_text(time: datetime) -> str:
    if time.tzinfo is None:
        raise UnstorableValueError(f"the time {time} has no time zone")
    return time.isoformat()


def example_row(example: TrainingExample) -> Sequence[object]:
    """Return the guide's columns of an example; UnstorableValueError where they could not be read again."""
    row = (
        example.example_id,
        example.source_path,
        example.target_path,
        example.ground_truth_path,
        _time_text(example.created_at),
        dump(example.metadata),
        None if example.worker_results is None else dump(example.worker_results),
        None if example.validation_scores is None else dump(example.validation_scores),
    )
    storable("example_files", (example.example_id, files_json(example.files)))
    return storable("training_examples", row)


def example_of(row: tuple[object, ...]) -> TrainingExample:
    """Return the example of a row of `EXAMPLE_COLUMNS`; FaultyValueError names a damaged one."""
    files = loaded("example_files", (row[0], row[8]))["files"]
    return TrainingExample(**loaded("training_examples", row[:8]), files=files)


def files_json(files: ExampleFiles | None) -> str | None:
    """Return the contents of an example's files as JSON."""
    return None if files is None else dump(attrs.asdict(files))


def evaluation_row(evaluation: Evaluation) -> Sequence[object]:
    """Return the columns of an evaluation; UnstorableValueError where SQLite would keep something else."""
    row = (
        *evaluation.key,
        evaluation.accuracy,
        evaluation.confidence,
        evaluation.failure_kind,
        evaluation.failure_type,
        evaluation.failure_message,
        evaluation.seconds,
        _time_text(evaluation.created_at),
    )
    return storable("evaluations", row)


def preview_row(preview: Preview) -> Sequence[object]:
    """Return the columns of a preview; UnstorableValueError where SQLite would keep something else."""
    row = (preview.example_digest, preview.name, preview.png, preview.rank)
    for column, problem in faults(TABLES["previews"], row):
        if column != "png":  # whether it is a picture matters to whoever looks at it
            raise UnstorableValueError(f"previews, {column}: {problem}")
    return row


def observation_row(record: ObservationRecord) -> Sequence[object]:
    """Return the columns of an observation; UnstorableValueError where SQLite would keep something else."""
    return storable("observations", (record.example_digest, record.name, record.content))


def session_row(session: TrainingSession) -> Sequence[object]:
    """Return the guide's columns of a session; UnstorableValueError where they could not be read again."""
    row = (
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
    storable("session_details", (session.session_id, details_json(session)))
    return storable("training_sessions", row)


def details_json(session: TrainingSession) -> str:
    """Return what the guide's columns of a session have no place for, as JSON."""
    return dump({name: getattr(session, name) for name in _DETAIL_FIELDS})


def read_learning(connection: sqlite3.Connection, version: int) -> Learning:
    """Return the learned state that the tables hold; FaultyValueError names a row that cannot be trusted."""
    bases = {}
    for row in connection.execute(
        "SELECT worker_id, prior, evidence, advantage, squared_advantage, accuracy_sum, valid_count, update_count, "
        "failed_evidence FROM learned_bases"
    ):
        values = loaded("learned_bases", row)
        worker_id = values.pop("worker_id")
        bases[worker_id] = WorkerBase(**values)
    absorbed: dict[str, dict[str, Absorbed]] = {}
    for row in connection.execute(
        "SELECT example_digest, worker_id, accuracy, confidence, residual FROM absorbed_evidence"
    ):
        values = loaded("absorbed_evidence", row)
        outcomes = absorbed.setdefault(values["example_digest"], {})
        outcomes[values["worker_id"]] = Absorbed(values["accuracy"], values["confidence"], values["residual"])
    fits = {}
    for row in connection.execute("SELECT worker_id, document FROM learned_fits"):
        values = loaded("learned_fits", row)
        fits[values["worker_id"]] = values["document"]
    return Learning(version, _with_blends(LearnedState(bases, absorbed, fits=fits), connection))


def _with_blends(state: LearnedState, connection: sqlite3.Connection) -> LearnedState:
    fitted, group_by, groups = None, None, {}
    for row in connection.execute("SELECT group_by, group_label, members, bases, fitted FROM learned_blends"):
        values = loaded("learned_blends", row)
        if values["group_by"]:
            group_by = values["group_by"]
            groups[values["group_label"]] = Group(values["members"], values["bases"], values["fitted"])
        else:
            fitted = values["fitted"]
    return attrs.evolve(state, fitted=fitted, group_by=group_by, groups=groups)


def _blend_rows(state: LearnedState) -> dict[tuple[str, str], Sequence[object]]:
    rows: dict[tuple[str, str], Sequence[object]] = {}
    if state.fitted is not None:
        rows["", ""] = "", "", dump([]), dump({}), _fitted_json(state.fitted)
    for label, group in state.groups.items():
        key = state.group_by or "", label
        bases = {worker_id: attrs.asdict(base) for worker_id, base in group.bases.items()}
        rows[key] = *key, dump(sorted(group.members)), dump(bases), _fitted_json(group.fitted)
    return rows


def _fitted_json(fitted: FittedBlend | None) -> str | None:
    return None if fitted is None else dump(attrs.asdict(fitted))


def write_changes(connection: sqlite3.Connection, old: LearnedState, new: LearnedState) -> None:
    """Write only what differs: a session changes the rows of its own examples.

    Raises:
        UnstorableValueError: a value could not be read again.
    """
    connection.executemany(
        "DELETE FROM learned_bases WHERE worker_id = ?", [(w,) for w in old.bases.keys() - new.bases.keys()]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO learned_bases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            storable("learned_bases", (w, *attrs.astuple(base)))
            for w, base in sorted(new.bases.items())
            if old.bases.get(w) != base
        ],
    )
    changed = [d for d in sorted(new.absorbed) if old.absorbed.get(d) != new.absorbed[d]]
    gone = sorted(old.absorbed.keys() - new.absorbed.keys())
    connection.executemany("DELETE FROM absorbed_evidence WHERE example_digest = ?", [(d,) for d in [*gone, *changed]])
    connection.executemany(
        "INSERT INTO absorbed_evidence VALUES (?, ?, ?, ?, ?)",
        [
            storable("absorbed_evidence", (d, w, *attrs.astuple(a)))
            for d in changed
            for w, a in sorted(new.absorbed[d].items())
        ],
    )
    _write_blends(connection, old, new)
    connection.executemany(
        "DELETE FROM learned_fits WHERE worker_id = ?", [(w,) for w in old.fits.keys() - new.fits.keys()]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO learned_fits VALUES (?, ?)",
        [
            storable("learned_fits", (w, document))
            for w, document in sorted(new.fits.items())
            if old.fits.get(w) != document
        ],
    )


def _write_blends(connection: sqlite3.Connection, old: LearnedState, new: LearnedState) -> None:
    before, after = _blend_rows(old), _blend_rows(new)
    connection.executemany(
        "DELETE FROM learned_blends WHERE group_by = ? AND group_label = ?", sorted(before.keys() - after.keys())
    )
    connection.executemany(
        "INSERT OR REPLACE INTO learned_blends VALUES (?, ?, ?, ?, ?)",
        [storable("learned_blends", row) for key, row in sorted(after.items()) if before.get(key) != row],
    )


def evaluation_of(row: tuple[object, ...]) -> Evaluation:
    """Return the evaluation of a row of `EVALUATIONS_QUERY`; FaultyValueError names a damaged one."""
    values = loaded("evaluations", row)
    return Evaluation(EvaluationKey(*(values.pop(name) for name in EvaluationKey._fields)), **values)


def session_of(row: tuple[object, ...]) -> TrainingSession:
    """Return the session of a row of `SESSION_COLUMNS`; FaultyValueError names a damaged one."""
    details = loaded("session_details", (row[0], row[10]))["details"]
    return TrainingSession(**loaded("training_sessions", row[:10]), **details)


def metric_row(row: MetricRow) -> MetricRow:
    """Return a row of metrics; UnstorableValueError where SQLite would keep something else."""
    storable("training_metrics", row)
    return row


def metric_of(row: tuple[object, ...]) -> MetricRow:
    """Return the metrics of a row; FaultyValueError names a damaged one."""
    return MetricRow(**loaded("training_metrics", row))
