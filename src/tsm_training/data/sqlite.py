"""The store that applications use: everything in one SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import attrs

from tsm_training.data.connection import MEMORY, Database
from tsm_training.data.records import (
    DatasetStatistics,
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    ExampleScores,
    Learning,
    MetricRow,
    PictureFile,
    Preview,
    SessionCommit,
    TrainingExample,
    TrainingSession,
)
from tsm_training.data.schema import APPLICATION_ID, GUIDE_SCHEMA, GUIDE_TABLES, OWN_SCHEMA, SCHEMA_VERSION
from tsm_training.data.store import PREVIEW_BYTES, ExampleEdit, StateChange, TrainingStore
from tsm_training.errors import (
    DatabaseNotOursError,
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SchemaTooNewError,
    SessionNotFoundError,
    StorageCorruptError,
    StorageError,
)
from tsm_training.evidence import Absorbed, LearnedState, WorkerBase

__all__ = ["TrainingDataManager"]

_PAGE: Final = 256  # rows read at a time, so that a long loop over examples holds no lock

_EXAMPLE_COLUMNS: Final = (
    "e.example_id, e.source_path, e.target_path, e.ground_truth_path, e.created_at, e.metadata, e.worker_results, "
    "e.validation_scores, f.files, f.sequence FROM training_examples e JOIN example_files f USING (example_id)"
)
_SESSION_COLUMNS: Final = (
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
    "validation",
)


@attrs.define(eq=False)
class _LearningCache:
    """The learned state as last read or written, so that it is read again only when its version has changed."""

    learning: Learning | None = None


def _absolute(path: str | os.PathLike[str]) -> str:
    if not os.fspath(path):
        raise InvalidArgumentError("db_path", path, "the path of a database file")
    text = os.fspath(path)
    if text == MEMORY:
        return text
    if text.startswith("file:") or "\0" in text:
        raise InvalidArgumentError("db_path", text, "a plain path (no file: address, no NUL)")
    # Resolved once: a host that changes its working directory later still has the same database.
    return str(Path(text).expanduser().absolute())


@attrs.frozen(eq=False)
class TrainingDataManager(TrainingStore):
    """Keeps everything in one SQLite database.

    The guide's three tables are in it to the letter, with others beside them. A database that an application wrote by
    the guide's schema opens as it is. The file uses SQLite's rollback journal with full synchronisation: a call that
    returns has its data on the disk.

    Args:
        db_path: The file, made if it does not exist (its folder must), or ``":memory:"``.
        busy_timeout: For how many seconds a call waits while another process holds the file.

    Raises:
        InvalidArgumentError: `db_path` is no usable path.
        DatabaseNotOursError: the file is something else; it was left as it was.
        SchemaTooNewError: a newer version of this library wrote the file; it was left as it was.
        StorageError: the file cannot be opened.
    """

    db_path: str = attrs.field(default="tsm_training.db", converter=_absolute)
    busy_timeout: float = attrs.field(default=30.0, kw_only=True)
    _database: Database = attrs.field(init=False, repr=False)
    _store_id: str = attrs.field(init=False, repr=False)
    _cache: _LearningCache = attrs.field(factory=_LearningCache, init=False, repr=False)

    @_database.default
    def _open_database(self) -> Database:
        database = Database(self.db_path, self.busy_timeout)
        database.open()
        try:
            _prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    @_store_id.default
    def _read_store_id(self) -> str:
        try:
            rows = self._database.fetch("SELECT store_id FROM learning_version")
            if len(rows) != 1:
                raise StorageCorruptError(self.db_path, f"learning_version has {len(rows)} rows instead of one")
        except BaseException:
            self._database.close()
            raise
        return cast("str", rows[0][0])

    @property
    def location(self) -> str:
        """The absolute path of the file."""
        return self.db_path

    @property
    def store_id(self) -> str:
        """A text written into the file when it was made."""
        return self._store_id

    # --- examples ---

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        """Add examples behind those already there: all of them or none; see `TrainingStore`."""
        with self._database.writing() as connection:
            for example in examples:
                try:
                    connection.execute(
                        "INSERT INTO training_examples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _example_row(example)
                    )
                except sqlite3.IntegrityError as error:
                    raise DuplicateExampleError(example.example_id) from error
                connection.execute(
                    "INSERT INTO example_files (example_id, files) VALUES (?, ?)",
                    (example.example_id, _files_json(example.files)),
                )

    def get_example(self, example_id: str, /) -> TrainingExample:
        """Return one example; see `TrainingStore`."""
        rows = self._database.fetch(f"SELECT {_EXAMPLE_COLUMNS} WHERE e.example_id = ?", (example_id,))
        if not rows:
            raise ExampleNotFoundError(example_id)
        return self._example(rows[0])

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        """Yield examples in order of addition; see `TrainingStore`."""
        behind = self._sequence_before(newest) if newest else 0
        while rows := self._database.fetch(
            f"SELECT {_EXAMPLE_COLUMNS} WHERE f.sequence > ? ORDER BY f.sequence LIMIT ?", (behind, _PAGE)
        ):
            for row in rows:
                yield self._example(row)
            behind = cast("int", rows[-1][-1])

    def _sequence_before(self, newest: int) -> int:
        rows = self._database.fetch(
            "SELECT sequence FROM example_files ORDER BY sequence DESC LIMIT 1 OFFSET ?", (min(newest, sys.maxsize),)
        )
        return cast("int", rows[0][0]) if rows else 0

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        """Change stored examples, and learned state with them; see `TrainingStore`."""
        with self._database.writing() as connection:
            for example_id, edit in edits.items():
                row = connection.execute(f"SELECT {_EXAMPLE_COLUMNS} WHERE e.example_id = ?", (example_id,)).fetchone()
                if row is not None:
                    self._replace_example(connection, edit(self._example(row)))
                elif not skip_missing:
                    raise ExampleNotFoundError(example_id)
            learning = self._change_learning(connection, change)
        return self._remember(learning)

    def _replace_example(self, connection: sqlite3.Connection, example: TrainingExample) -> None:
        example_id, *values = _example_row(example)
        connection.execute(
            "UPDATE training_examples SET source_path = ?, target_path = ?, ground_truth_path = ?, "
            "created_at = ?, metadata = ?, worker_results = ?, validation_scores = ? WHERE example_id = ?",
            (*values, example_id),
        )
        connection.execute(
            "UPDATE example_files SET files = ? WHERE example_id = ?", (_files_json(example.files), example_id)
        )

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        """Remove an example, and change learned state with it; see `TrainingStore`."""
        with self._database.writing() as connection:
            cursor = connection.execute("DELETE FROM training_examples WHERE example_id = ?", (example_id,))
            if cursor.rowcount == 0:
                raise ExampleNotFoundError(example_id)
            learning = self._change_learning(connection, change)
        return self._remember(learning)

    def _example(self, row: tuple[object, ...]) -> TrainingExample:
        example_id, source, target, truth, created, metadata, results, scores, files, _sequence = cast(
            "tuple[str, str, str, str, str, str | None, str | None, str | None, str | None, int]", row
        )
        with self._damage_named(f"training_examples, {example_id!r}"):
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

    # --- evaluations ---

    def save_evaluations(self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = ()) -> None:
        """Keep evaluations and previews; see `TrainingStore`."""
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO evaluations (example_digest, worker_id, worker_fingerprint, "
                "metric_fingerprint, accuracy, confidence, failure_kind, failure_type, failure_message, seconds, "
                "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_evaluation_row, evaluations),
            )
            if previews:
                connection.executemany(
                    "INSERT OR REPLACE INTO previews (example_digest, name, png) VALUES (?, ?, ?)",
                    [(preview.example_digest, preview.name, preview.png) for preview in previews],
                )
                _drop_oldest_previews(connection)

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        """Return all evaluations of these examples, the oldest first; see `TrainingStore`."""
        rows = self._database.fetch(
            "SELECT example_digest, worker_id, worker_fingerprint, metric_fingerprint, accuracy, confidence, "
            "failure_kind, failure_type, failure_message, seconds, created_at FROM evaluations "
            "WHERE example_digest IN (SELECT value FROM json_each(?)) ORDER BY sequence",
            (_dump(sorted(set(example_digests))),),
        )
        return [self._evaluation(row) for row in rows]

    def _evaluation(self, row: tuple[object, ...]) -> Evaluation:
        key = EvaluationKey(*cast("tuple[str, str, str, str]", row[:4]))
        accuracy, confidence, kind, error_type, message, seconds, created = cast("tuple[Any, ...]", row[4:])
        with self._damage_named(f"evaluations, {key.example_digest!r}, {key.worker_id!r}"):
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

    def load_previews(self, example_digest: str, /) -> dict[str, bytes]:
        """Return the PNG bytes of an example's previews, by name; see `TrainingStore`."""
        rows = self._database.fetch(
            "SELECT name, png FROM previews WHERE example_digest = ? ORDER BY sequence", (example_digest,)
        )
        return {cast("str", name): cast("bytes", png) for name, png in rows}

    # --- sessions ---

    def begin_session(self, session: TrainingSession, /) -> None:
        """Keep a session whose status is ``running``; see `TrainingStore`."""
        with self._database.writing() as connection:
            try:
                connection.execute(
                    "INSERT INTO training_sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _session_row(session)
                )
            except sqlite3.IntegrityError as error:
                reason = f"a session with the id {session.session_id!r} is already stored"
                raise StorageError(self.db_path, reason) from error
            connection.execute(
                "INSERT INTO session_details (session_id, details) VALUES (?, ?)",
                (session.session_id, _details_json(session)),
            )

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        """End a session, its metric rows and learned state with it; see `TrainingStore`."""
        with self._database.writing() as connection:
            if not self._database.fetch("SELECT 1 FROM training_sessions WHERE session_id = ?", (session_id,)):
                raise SessionNotFoundError(session_id)
            learning = self._held_learning(connection)
            commit = finish(learning.state)
            _identifier, *values = _session_row(commit.session)
            connection.execute(
                "UPDATE training_sessions SET start_time = ?, end_time = ?, num_examples = ?, epochs = ?, "
                "learning_rate = ?, initial_weights = ?, final_weights = ?, metrics_history = ?, status = ? "
                "WHERE session_id = ?",
                (*values, session_id),
            )
            connection.execute(
                "UPDATE session_details SET details = ? WHERE session_id = ?",
                (_details_json(commit.session), session_id),
            )
            connection.executemany(
                "INSERT INTO training_metrics (session_id, epoch, example_id, worker_id, accuracy, confidence, loss, "
                "timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                commit.metrics,
            )
            if (state := commit.state) is not None:
                learning = cast("Learning", self._change_learning(connection, lambda _held: state))
            stored = self.get_session(session_id)
        self._remember(learning)
        return stored, learning

    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session; see `TrainingStore`."""
        rows = self._database.fetch(f"SELECT {_SESSION_COLUMNS} WHERE s.session_id = ?", (session_id,))
        if not rows:
            raise SessionNotFoundError(session_id)
        return self._session(rows[0])

    def iterate_sessions(self) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first; see `TrainingStore`."""
        for row in self._database.fetch(f"SELECT {_SESSION_COLUMNS} ORDER BY d.sequence"):
            yield self._session(row)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session; see `TrainingStore`."""
        if not self._database.fetch("SELECT 1 FROM training_sessions WHERE session_id = ?", (session_id,)):
            raise SessionNotFoundError(session_id)
        rows = self._database.fetch(
            "SELECT session_id, epoch, example_id, worker_id, accuracy, confidence, loss, timestamp "
            "FROM training_metrics WHERE session_id = ? ORDER BY id",
            (session_id,),
        )
        return iter([MetricRow(*cast("tuple[Any, ...]", row)) for row in rows])

    def _session(self, row: tuple[object, ...]) -> TrainingSession:
        values = cast("tuple[Any, ...]", row)
        session_id, start, end, num_examples, epochs, rate, initial, final, history, status, details = values
        with self._damage_named(f"training_sessions, {session_id!r}"):
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

    # --- learning ---

    def load_learning(self) -> Learning:
        """Return the learned state; see `TrainingStore`."""
        with self._database.snapshot() as connection:
            learning = self._held_learning(connection)
        self._cache.learning = learning
        return learning

    def update_learning(self, change: StateChange, /) -> Learning:
        """Replace the learned state by what `change` makes of it; see `TrainingStore`."""
        with self._database.writing() as connection:
            learning = cast("Learning", self._change_learning(connection, change))
        self._remember(learning)
        return learning

    def _held_learning(self, connection: sqlite3.Connection) -> Learning:
        version = connection.execute("SELECT version FROM learning_version").fetchone()[0]
        cached = self._cache.learning
        return cached if cached is not None and cached.version == version else _read_learning(connection, version)

    def _change_learning(self, connection: sqlite3.Connection, change: StateChange | None) -> Learning | None:
        if change is None:
            return None
        held = self._held_learning(connection)
        new = Learning(held.version + 1, change(held.state))
        _write_changes(connection, held.state, new.state)
        connection.execute("UPDATE learning_version SET version = ?", (new.version,))
        return new

    def _remember(self, learning: Learning | None) -> Learning | None:
        """Keep what was committed for the next reader; called only after the transaction has ended well."""
        self._cache.learning = learning or self._cache.learning
        return learning

    # --- the rest ---

    def get_dataset_stats(self) -> DatasetStatistics:
        """Count examples and sessions; see `TrainingStore`."""
        row = self._database.fetch(
            "SELECT COUNT(*), COUNT(worker_results), (SELECT COUNT(*) FROM training_sessions) FROM training_examples"
        )[0]
        total, processed, sessions = cast("tuple[int, int, int]", row)
        return {
            "total_examples": total,
            "processed_examples": processed,
            "unprocessed_examples": total - processed,
            "total_sessions": sessions,
        }

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._database.close()

    @contextlib.contextmanager
    def _damage_named(self, place: str) -> Iterator[None]:
        """Name the row in which a value is not what the library or an application by the guide writes."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise StorageCorruptError(self.db_path, f"{place}: {error}") from error


# --- recognising and making the file --------------------------------------------------------------------------------


def _prepare(database: Database) -> None:
    """Recognise the file and make what is missing, in one transaction.

    Several processes may open a new path together: whoever comes second finds the work done.
    """
    with database.snapshot() as connection:
        if _is_ready(connection, database.path):
            return
    with database.writing() as connection:
        if not _is_ready(connection, database.path):
            _create_tables(connection)


def _is_ready(connection: sqlite3.Connection, path: str) -> bool:
    """Tell whether the file has all tables; False if it is new, or an application's that followed the guide."""
    # Read first, while the lock is held: it makes this connection see tables that another process has just made.
    tables = _tables(connection)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID and version == SCHEMA_VERSION:
        return True
    if application_id == APPLICATION_ID:
        raise SchemaTooNewError(
            path, f"it has schema version {version}, this library knows {SCHEMA_VERSION}; upgrade the library"
        )
    if application_id != 0 or version != 0 or not _is_new_or_by_the_guide(connection, tables):
        raise DatabaseNotOursError(path, "it belongs to another application; it was left as it was")
    return False


def _tables(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND SUBSTR(name, 1, 7) <> 'sqlite_'"
    )
    return {name for (name,) in names}


def _is_new_or_by_the_guide(connection: sqlite3.Connection, tables: set[str]) -> bool:
    if not tables:
        return True
    if "training_examples" not in tables or not tables <= GUIDE_TABLES.keys():
        return False
    return all(_columns(connection, table) == GUIDE_TABLES[table] for table in tables)


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    return tuple(name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)))


def _create_tables(connection: sqlite3.Connection) -> None:
    # One statement at a time: executescript() would end the transaction first.
    for statement in (GUIDE_SCHEMA + OWN_SCHEMA).split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO learning_version VALUES (?, 0)", (uuid.uuid4().hex,))
    connection.execute("INSERT INTO example_files (example_id) SELECT example_id FROM training_examples ORDER BY rowid")
    connection.execute(
        "INSERT INTO session_details (session_id, details) "
        "SELECT session_id, '{}' FROM training_sessions ORDER BY rowid"
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


# --- rows and records -----------------------------------------------------------------------------------------------


def _dump(value: object) -> str:
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


def _example_row(example: TrainingExample) -> tuple[object, ...]:
    return (
        example.example_id,
        example.source_path,
        example.target_path,
        example.ground_truth_path,
        example.created_at.isoformat(),
        _dump(example.metadata),
        None if example.worker_results is None else _dump(example.worker_results),
        None if example.validation_scores is None else _dump(example.validation_scores),
    )


def _files_json(files: ExampleFiles | None) -> str | None:
    return None if files is None else _dump(attrs.asdict(files))


def _files(document: Mapping[str, Any] | None) -> ExampleFiles | None:
    return None if document is None else ExampleFiles(**{role: PictureFile(**d) for role, d in document.items()})


def _evaluation_row(evaluation: Evaluation) -> tuple[object, ...]:
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


def _drop_oldest_previews(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM previews WHERE sequence IN (SELECT sequence FROM "
        "(SELECT sequence, SUM(LENGTH(png)) OVER (ORDER BY sequence DESC) AS newer FROM previews) WHERE newer > ?)",
        (PREVIEW_BYTES,),
    )


def _session_row(session: TrainingSession) -> tuple[object, ...]:
    return (
        session.session_id,
        session.start_time.isoformat(),
        None if session.end_time is None else session.end_time.isoformat(),
        session.num_examples,
        session.epochs,
        session.learning_rate,
        _dump(session.initial_weights),
        _dump(session.final_weights),
        _dump(session.metrics_history),
        session.status,
    )


def _details_json(session: TrainingSession) -> str:
    return _dump({name: getattr(session, name) for name in _DETAIL_FIELDS})


def _read_learning(connection: sqlite3.Connection, version: int) -> Learning:
    bases = {row[0]: WorkerBase(*row[1:]) for row in connection.execute("SELECT * FROM learned_bases")}
    absorbed: dict[str, dict[str, Absorbed]] = {}
    for digest, worker_id, *values in connection.execute(
        "SELECT example_digest, worker_id, accuracy, confidence, residual FROM absorbed_evidence"
    ):
        absorbed.setdefault(digest, {})[worker_id] = Absorbed(*values)
    return Learning(version, LearnedState(bases, absorbed))


def _write_changes(connection: sqlite3.Connection, old: LearnedState, new: LearnedState) -> None:
    """Write only what differs: a session changes the rows of its own examples."""
    connection.executemany(
        "DELETE FROM learned_bases WHERE worker_id = ?", [(w,) for w in old.bases.keys() - new.bases.keys()]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO learned_bases VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(w, *attrs.astuple(base)) for w, base in sorted(new.bases.items()) if old.bases.get(w) != base],
    )
    changed = [d for d in sorted(new.absorbed) if old.absorbed.get(d) != new.absorbed[d]]
    gone = sorted(old.absorbed.keys() - new.absorbed.keys())
    connection.executemany("DELETE FROM absorbed_evidence WHERE example_digest = ?", [(d,) for d in [*gone, *changed]])
    connection.executemany(
        "INSERT INTO absorbed_evidence VALUES (?, ?, ?, ?, ?)",
        [(d, w, *attrs.astuple(a)) for d in changed for w, a in sorted(new.absorbed[d].items())],
    )
