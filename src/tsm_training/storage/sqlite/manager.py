"""The store that applications use: everything in one SQLite file."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, cast

import attrs

from tsm_training.arguments import check_path, is_number
from tsm_training.data import (
    PREVIEW_BYTES,
    DatasetStatistics,
    Evaluation,
    ExampleEdit,
    ExampleFiles,
    Learning,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateChange,
    TrainingExample,
    TrainingSession,
    TrainingStore,
)
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
    StorageCorruptError,
    StorageError,
)
from tsm_training.learning import LearnedState
from tsm_training.storage.sqlite.backup import checked_destination, write_copy
from tsm_training.storage.sqlite.checking import StorageFault, quarantine_faults, storage_faults
from tsm_training.storage.sqlite.connection import MEMORY, SALVAGE, Database
from tsm_training.storage.sqlite.network import is_on_network
from tsm_training.storage.sqlite.opening import prepare, recognise
from tsm_training.storage.sqlite.ownership import SessionOwnership, end_abandoned_sessions, has_leftovers
from tsm_training.storage.sqlite.rows import (
    EVALUATIONS_QUERY,
    EXAMPLE_COLUMNS,
    SESSION_COLUMNS,
    details_json,
    evaluation_of,
    evaluation_row,
    example_of,
    example_row,
    files_json,
    metric_of,
    metric_row,
    observation_row,
    preview_row,
    read_learning,
    session_of,
    session_row,
    write_changes,
)
from tsm_training.storage.sqlite.rules import FaultyValueError, corrupt, dump, loaded

__all__ = ["TrainingDataManager"]

_log = logging.getLogger("tsm_training")

T = TypeVar("T")

_PAGE: Final = 256  # rows read at a time, so that a long loop over examples holds no lock


@attrs.define(eq=False)
class _Memory:
    """What a store remembers of its file."""

    learning: Learning | None = None
    """As last read or written, so that it is read again only when its version has changed."""
    reported: set[str] = attrs.field(factory=set)
    """The rows of which the log was told that they were passed over."""


# With the columns by name: somebody may have added some of his own.
_INSERT_EXAMPLE: Final = (
    "INSERT INTO training_examples (example_id, source_path, target_path, ground_truth_path, created_at, metadata, "
    "worker_results, validation_scores) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_SESSION: Final = (
    "INSERT INTO training_sessions (session_id, start_time, end_time, num_examples, epochs, learning_rate, "
    "initial_weights, final_weights, metrics_history, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _absolute(path: str | os.PathLike[str]) -> str:
    text = check_path("db_path", path)
    if text == MEMORY:
        return text
    if text.startswith("file:"):
        raise InvalidArgumentError("db_path", text, "a plain path (no file: address)")
    # Resolved once: a host that changes its working directory later still has the same database.
    return str(Path(text).expanduser().absolute())


def _seconds(value: float) -> float:
    if not is_number(value) or not 0 <= value < math.inf:
        raise InvalidArgumentError("busy_timeout", value, "a finite number of seconds, at least 0")
    return float(value)


def _choice(value: bool) -> bool:
    if type(value) is not bool:
        raise InvalidArgumentError("read_only", value, "True or False")
    return value


@attrs.frozen(eq=False)
class TrainingDataManager(TrainingStore):
    """Keeps everything in one SQLite database.

    The guide's three tables are in it to the letter, with others beside them. A database that an application wrote by
    the guide's schema opens as it is. The file uses SQLite's rollback journal with full synchronisation: a call that
    returns has its data on the disk.

    Args:
        db_path: The file, made if it does not exist (its folder must), or ``":memory:"``.
        busy_timeout: For how many seconds a call waits while another process holds the file.
        read_only: For viewers: the file must be there, and neither it nor its folder is changed; every method that
            writes raises `StorageReadOnlyError`.

    Raises:
        InvalidArgumentError: an argument cannot be used.
        DatabaseNotOursError: the file is something else; it was left as it was.
        SchemaTooNewError: a newer version of this library wrote the file; it was left as it was.
        StorageCorruptError: the file is damaged; it was left as it was.
        StorageError: the file cannot be opened.
    """

    db_path: str = attrs.field(default="tsm_training.db", converter=_absolute)
    busy_timeout: float = attrs.field(default=30.0, kw_only=True, converter=_seconds)
    read_only: bool = attrs.field(default=False, kw_only=True, converter=_choice)
    _database: Database = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._open_database(), takes_self=True)
    )
    _store_id: str = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._read_store_id(), takes_self=True)
    )
    _ownership: SessionOwnership = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: SessionOwnership(self.db_path), takes_self=True)
    )
    _cache: _Memory = attrs.field(factory=_Memory, init=False, repr=False)

    def _open_database(self) -> Database:
        if self.read_only and self.db_path == MEMORY:
            raise InvalidArgumentError("db_path", MEMORY, "a file, where read_only is True")
        database = Database(self.db_path, self.busy_timeout, self.read_only)
        database.open()
        try:
            if self.read_only:
                recognise(database)
            else:
                prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _read_store_id(self) -> str:
        try:
            with self._database.snapshot() as connection:
                store_id, _version = self._held_version(connection)
        except BaseException:
            self._database.close()
            raise
        if self.db_path != MEMORY and is_on_network(self.db_path):
            _log.warning(
                "%s lies on another machine, where locks cannot be relied on: let only one process at a time use it, "
                "or keep the database on a disk of this machine",
                self.db_path,
            )
        return store_id

    @property
    def location(self) -> str:
        """The absolute path of the file."""
        return self.db_path

    @property
    def store_id(self) -> str:
        """A text written into the file when it was made."""
        return self._store_id

    @property
    def is_read_only(self) -> bool:
        """True where the file was opened for reading only."""
        return self.read_only

    def _passable(self, rows: Iterable[tuple[object, ...]], make: Callable[[tuple[object, ...]], T]) -> Iterator[T]:
        """Yield what sound rows stand for; the others are passed over, and the log is told of each once."""
        for row in rows:
            try:
                record = make(row)
            except FaultyValueError as error:
                if (fault := str(error)) not in self._cache.reported:
                    self._cache.reported.add(fault)
                    _log.warning("%s: passed over a row: %s; see check() and quarantine()", self.db_path, fault)
            else:
                yield record

    # --- examples ---

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        """Add examples behind those already there: all of them or none; see `TrainingStore`."""
        with self._database.writing() as connection:
            for example in examples:
                try:
                    connection.execute(_INSERT_EXAMPLE, example_row(example))
                except sqlite3.IntegrityError as error:
                    raise DuplicateExampleError(example.example_id) from error
                connection.execute(
                    "INSERT INTO example_files (example_id, files) VALUES (?, ?)",
                    (example.example_id, files_json(example.files)),
                )

    def get_example(self, example_id: str, /) -> TrainingExample:
        """Return one example; see `TrainingStore`."""
        rows = self._database.fetch(f"SELECT {EXAMPLE_COLUMNS} WHERE e.example_id = ?", (example_id,))
        if not rows:
            raise ExampleNotFoundError(example_id)
        with self._faults_named():
            return example_of(rows[0])

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        """Yield examples in order of addition; see `TrainingStore`."""
        behind = self._sequence_before(newest) if newest else 0
        while rows := self._database.fetch(
            f"SELECT {EXAMPLE_COLUMNS} WHERE f.sequence > ? ORDER BY f.sequence LIMIT ?", (behind, _PAGE)
        ):
            yield from self._passable(rows, example_of)
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
        replaced = []
        with self._database.writing() as connection:
            for example_id, edit in edits.items():
                row = connection.execute(f"SELECT {EXAMPLE_COLUMNS} WHERE e.example_id = ?", (example_id,)).fetchone()
                if row is not None:
                    old = example_of(row)
                    new = edit(old)
                    self._replace_example(connection, new)
                    if old.files != new.files:
                        replaced.append(old.files)
                elif not skip_missing:
                    raise ExampleNotFoundError(example_id)
            for files in replaced:  # not before all are edited: one may take over what another had
                _forget_contents(connection, files)
            learning = self._change_learning(connection, change)
        return self._remember(learning)

    def _replace_example(self, connection: sqlite3.Connection, example: TrainingExample) -> None:
        example_id, *values = example_row(example)
        connection.execute(
            "UPDATE training_examples SET source_path = ?, target_path = ?, ground_truth_path = ?, "
            "created_at = ?, metadata = ?, worker_results = ?, validation_scores = ? WHERE example_id = ?",
            (*values, example_id),
        )
        connection.execute(
            "UPDATE example_files SET files = ? WHERE example_id = ?", (files_json(example.files), example_id)
        )

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        """Remove an example, and change learned state with it; see `TrainingStore`."""
        with self._database.writing() as connection:
            held = connection.execute("SELECT files FROM example_files WHERE example_id = ?", (example_id,)).fetchone()
            cursor = connection.execute("DELETE FROM training_examples WHERE example_id = ?", (example_id,))
            if cursor.rowcount == 0:
                raise ExampleNotFoundError(example_id)
            with contextlib.suppress(FaultyValueError):  # what cannot be read names no contents
                _forget_contents(connection, loaded("example_files", (example_id, *(held or (None,))))["files"])
            learning = self._change_learning(connection, change)
        return self._remember(learning)

    # --- evaluations ---

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        """Keep evaluations, previews and observations; see `TrainingStore`."""
        with self._database.writing() as connection:
            if superseding:
                _drop_superseded(connection, evaluations, superseding)
            connection.executemany(
                "INSERT OR REPLACE INTO evaluations (example_digest, worker_id, worker_fingerprint, "
                "metric_fingerprint, accuracy, confidence, failure_kind, failure_type, failure_message, seconds, "
                "created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(evaluation_row, evaluations),
            )
            if previews:
                connection.executemany(
                    "INSERT OR REPLACE INTO previews (example_digest, name, png, rank) VALUES (?, ?, ?, ?)",
                    map(preview_row, previews),
                )
                if any(preview.rank is not None for preview in previews):
                    _drop_surplus_previews(connection)
            connection.executemany(
                "INSERT OR REPLACE INTO observations (example_digest, name, content) VALUES (?, ?, ?)",
                map(observation_row, observations),
            )

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        """Return all evaluations of these examples, the oldest first; see `TrainingStore`."""
        rows = self._database.fetch(EVALUATIONS_QUERY, (dump(sorted(set(example_digests))),))
        return list(self._passable(rows, evaluation_of))

    def load_previews(self, example_digest: str, /) -> dict[str, bytes]:
        """Return the PNG bytes of an example's previews, by name; see `TrainingStore`."""
        rows = self._database.fetch(
            "SELECT name, png FROM previews WHERE example_digest = ? ORDER BY sequence", (example_digest,)
        )
        return {name: png for name, png in rows if isinstance(name, str) and isinstance(png, bytes)}

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        """Return the contents of the observations of that name on these examples; see `TrainingStore`."""
        rows = self._database.fetch(
            "SELECT example_digest, content FROM observations "
            "WHERE example_digest IN (SELECT value FROM json_each(?)) AND name = ? ORDER BY example_digest",
            (dump(sorted(set(example_digests))), name),
        )
        return {digest: content for digest, content in rows if isinstance(digest, str) and isinstance(content, bytes)}

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        """Return on which of these examples there is an observation of that name; see `TrainingStore`."""
        rows = self._database.fetch(
            "SELECT example_digest FROM observations WHERE example_digest IN (SELECT value FROM json_each(?)) "
            "AND name = ? AND typeof(content) = 'blob'",
            (dump(sorted(set(example_digests))), name),
        )
        return {cast("str", digest) for (digest,) in rows}

    # --- sessions ---

    def begin_session(self, session: TrainingSession, /) -> None:
        """Keep a session whose status is ``running``; see `TrainingStore`."""
        with self._ownership.beginning(session.session_id) as mark, self._database.writing() as connection:
            if has_leftovers(connection):
                end_abandoned_sessions(connection, self.db_path)
            try:
                connection.execute(_INSERT_SESSION, session_row(session))
            except sqlite3.IntegrityError as error:
                reason = f"a session with the id {session.session_id!r} is already stored"
                raise StorageError(self.db_path, reason) from error
            connection.execute(
                "INSERT INTO session_details (session_id, details) VALUES (?, ?)",
                (session.session_id, details_json(session)),
            )
            mark(connection)

    def abandon_session(self, session_id: str, /) -> None:
        """Let go of a running session whose end cannot be stored; see `TrainingStore`."""
        self._ownership.abandon(session_id)

    def hurrying(self) -> AbstractContextManager[None]:
        """Have this thread's calls within a block wait for others a moment only; see `TrainingStore`."""
        return self._database.hurrying()

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        """End a session, its metric rows and learned state with it; see `TrainingStore`."""
        with self._database.writing() as connection:
            if not self._database.fetch("SELECT 1 FROM training_sessions WHERE session_id = ?", (session_id,)):
                raise SessionNotFoundError(session_id)
            learning = self._held_learning(connection)
            commit = finish(learning.state)
            _identifier, *values = session_row(commit.session)
            connection.execute(
                "UPDATE training_sessions SET start_time = ?, end_time = ?, num_examples = ?, epochs = ?, "
                "learning_rate = ?, initial_weights = ?, final_weights = ?, metrics_history = ?, status = ? "
                "WHERE session_id = ?",
                (*values, session_id),
            )
            connection.execute(
                "UPDATE session_details SET details = ? WHERE session_id = ?",
                (details_json(commit.session), session_id),
            )
            has_ended = commit.session.status != "running"
            if has_ended:
                connection.execute("DELETE FROM running_sessions WHERE session_id = ?", (session_id,))
            connection.executemany(
                "INSERT INTO training_metrics (session_id, epoch, example_id, worker_id, accuracy, confidence, loss, "
                "timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                map(metric_row, commit.metrics),
            )
            if (state := commit.state) is not None:
                learning = cast("Learning", self._change_learning(connection, lambda _held: state))
            stored = self.get_session(session_id)
        if has_ended:
            self._ownership.release(session_id)
        self._remember(learning)
        return stored, learning

    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session; see `TrainingStore`."""
        rows = self._database.fetch(f"SELECT {SESSION_COLUMNS} WHERE s.session_id = ?", (session_id,))
        if not rows:
            raise SessionNotFoundError(session_id)
        with self._faults_named():
            return session_of(rows[0])

    def iterate_sessions(self) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first; see `TrainingStore`."""
        yield from self._passable(self._database.fetch(f"SELECT {SESSION_COLUMNS} ORDER BY d.sequence"), session_of)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session; see `TrainingStore`."""
        if not self._database.fetch("SELECT 1 FROM training_sessions WHERE session_id = ?", (session_id,)):
            raise SessionNotFoundError(session_id)
        rows = self._database.fetch(
            "SELECT session_id, epoch, example_id, worker_id, accuracy, confidence, loss, timestamp "
            "FROM training_metrics WHERE session_id = ? ORDER BY id",
            (session_id,),
        )
        return iter(list(self._passable(rows, metric_of)))

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
        _store_id, version = self._held_version(connection)
        cached = self._cache.learning
        return cached if cached is not None and cached.version == version else read_learning(connection, version)

    def _held_version(self, connection: sqlite3.Connection) -> tuple[str, int]:
        rows = connection.execute("SELECT store_id, version FROM learning_version").fetchall()
        if len(rows) != 1:
            raise StorageCorruptError(self.db_path, f"learning_version has {len(rows)} rows instead of one; {SALVAGE}")
        try:
            held = loaded("learning_version", rows[0])
        except FaultyValueError as error:  # without it the file cannot be opened, so that nothing could put it aside
            raise StorageCorruptError(self.db_path, f"{error}; {SALVAGE}") from error
        return held["store_id"], held["version"]

    def _change_learning(self, connection: sqlite3.Connection, change: StateChange | None) -> Learning | None:
        if change is None:
            return None
        held = self._held_learning(connection)
        new = Learning(held.version + 1, change(held.state))
        write_changes(connection, held.state, new.state)
        connection.execute("UPDATE learning_version SET version = ?", (new.version,))
        return new

    @contextlib.contextmanager
    def _faults_named(self) -> Generator[None]:
        try:
            yield
        except FaultyValueError as error:
            raise corrupt(self.db_path, error) from error

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

    # --- care ---

    def check(self) -> list[StorageFault]:
        """Look at the whole file, down to every value; nothing is changed. An empty list means that all is well.

        It takes seconds for a large file, and keeps writers waiting meanwhile.

        Returns:
            What is wrong, where, and what helps.
        """
        try:
            with self._database.snapshot() as connection:
                return storage_faults(connection, self.db_path)
        except StorageCorruptError as error:
            return [StorageFault("", None, None, None, error.reason, SALVAGE)]

    def quarantine(self) -> list[StorageFault]:
        """Move the rows that `check` finds faulty to the table ``quarantined_rows``, so that the others can be used.

        Nothing is lost: each row is kept there as JSON, with the reason. What makes no sense without a faulty row goes
        with it: an example with the contents of its files, a session with its metrics, and what was learned on an
        example as a whole. What was learned from rows that go is forgotten; training again learns it anew. A session
        of which nothing says who runs it is marked as interrupted.

        Returns:
            What was wrong.

        Raises:
            StorageReadOnlyError: the store is for reading only.
            StorageCorruptError: the file is damaged in a way that this does not mend; see `salvage`.
        """
        with self._database.writing() as connection:
            mended = quarantine_faults(connection, self.db_path, datetime.now(UTC))
        self._cache.learning = None
        return mended

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a copy of the database as it is at one moment; others may go on using it, writers wait a little.

        The copy is written beside its final name and takes it when it is whole and on the disk. It has the same
        `store_id`: for a learner it is the same store at an earlier moment. Use it in the place of the original, not
        beside it.

        Args:
            path: The file to write; its folder must exist.
            overwrite: Replace a file of that name, such as yesterday's backup.

        Raises:
            InvalidArgumentError: `path` is no path, or leads to the database itself.
            StorageExistsError: there is a file already, and `overwrite` does not say that it may go.
            StorageFullError: there is no room for the copy; what was there before is untouched.
            StorageError: the copy cannot be written.
        """
        destination = checked_destination(check_path("path", path), self.db_path, overwrite=overwrite)
        with self._database.snapshot() as connection:
            write_copy(connection, destination)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._database.close()
        self._ownership.release_all()


def _forget_contents(connection: sqlite3.Connection, files: ExampleFiles | None) -> None:
    """Drop observations and previews of contents that no example has any more."""
    if (
        files is None
        or connection.execute("SELECT 1 FROM example_files WHERE files = ? LIMIT 1", (files_json(files),)).fetchone()
    ):
        return
    for table in ("observations", "previews"):
        connection.execute(f"DELETE FROM {table} WHERE example_digest = ?", (files.digest,))  # noqa: S608 - our names


def _drop_superseded(
    connection: sqlite3.Connection, evaluations: Sequence[Evaluation], worker_ids: Collection[str]
) -> None:
    keys = [evaluation.key for evaluation in evaluations if evaluation.key.worker_id in worker_ids]
    connection.executemany(
        "DELETE FROM evaluations WHERE example_digest = ? AND worker_id = ? AND metric_fingerprint = ?",
        [(key.example_digest, key.worker_id, key.metric_fingerprint) for key in keys],
    )
    pictured = {(key.example_digest, key.worker_id) for key in keys}
    for digest in sorted({digest for digest, _worker_id in pictured}):
        rows = connection.execute("SELECT sequence, name FROM previews WHERE example_digest = ?", (digest,)).fetchall()
        # The last @ counts: a worker's id may hold others, a fingerprint has none.
        gone = [(sequence,) for sequence, name in rows if (digest, str(name).rpartition("@")[0]) in pictured]
        connection.executemany("DELETE FROM previews WHERE sequence = ?", gone)


def _drop_surplus_previews(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM previews WHERE sequence IN (SELECT sequence FROM (SELECT sequence, "
        "SUM(LENGTH(png)) OVER (ORDER BY rank, example_digest, name) - LENGTH(png) AS bytes_before "
        "FROM previews WHERE rank IS NOT NULL) WHERE bytes_before >= ?)",
        (PREVIEW_BYTES,),
    )
