"""The store that applications use: everything in one SQLite file."""

# ruff: noqa: D102, S608 - methods are described in TrainingStore; only our own names are put into statements

from __future__ import annotations

import contextlib
import functools
import math
import os
import sqlite3
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from tsm_training.arguments import check_path, is_number
from tsm_training.data import (
    PREVIEW_BYTES,
    DatasetStatistics,
    Evaluation,
    ExampleEdit,
    HeldState,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateChange,
    StateDelta,
    StateDocuments,
    TrainingExample,
    TrainingSession,
    TrainingStore,
)
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
)
from tsm_training.storage.sqlite.backup import checked_destination, copy_database
from tsm_training.storage.sqlite.connection import MEMORY, REPAIR, Database, FaultyRowError
from tsm_training.storage.sqlite.integrity import StorageFault, quarantine_faults, storage_faults
from tsm_training.storage.sqlite.lease import (
    LEASE_SECONDS,
    Renewals,
    begin_lease,
    end_lost_sessions,
    give_up_leases,
    renew_leases,
)
from tsm_training.storage.sqlite.opening import prepare, recognise
from tsm_training.storage.sqlite.rows import (
    AMONG,
    EVALUATION_COLUMNS,
    EXAMPLES,
    METRIC_COLUMNS,
    SESSIONS,
    details_json,
    evaluation_of,
    evaluation_row,
    example_of,
    files_row,
    guide_row,
    insertion,
    json_list,
    metric_of,
    session_of,
    sound,
    update,
)

T = TypeVar("T")

_PAGE: Final = 256  # rows read at a time, so that a long loop over examples holds no lock
_SESSION_PAGE: Final = 8  # a session can hold the scores of thousands of examples

_IS_SESSION: Final = "SELECT 1 FROM session_details WHERE session_id = ?"
_SESSION: Final = f"{SESSIONS} WHERE s.session_id = ?"
_KNOWN_DIGESTS: Final = (
    f"SELECT DISTINCT f.digest FROM example_files f JOIN training_examples e USING (example_id) WHERE f.digest {AMONG}"
)


class Memory:
    """What a store remembers of its database, where a lease lasts for so many `seconds`."""

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self.state: StateDocuments | None = None
        """The head as last read or committed, so that it is read again only when its token has changed."""
        self.reported: set[str] = set()
        """The rows that were passed over and reported in the log."""
        self.renewals: Renewals = Renewals(seconds)


def _absolute(path: str | os.PathLike[str]) -> str:
    text = check_path("db_path", path)
    if text == MEMORY:
        return text
    if text.startswith("file:"):
        raise InvalidArgumentError("db_path", text, "a plain path (no file: address)")
    # Resolved once: a host that changes its working directory later still has the same database.
    return str(Path(text).expanduser().absolute())


def as_timeout(value: float) -> float:
    """Return `busy_timeout` as float; InvalidArgumentError if it cannot be used."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise InvalidArgumentError("busy_timeout", value, "a finite number of seconds, at least 0")
    return float(value)


def as_choice(value: bool) -> bool:
    """Return `read_only`; InvalidArgumentError if it is no bool."""
    if type(value) is not bool:
        raise InvalidArgumentError("read_only", value, "True or False")
    return value


@attrs.frozen(eq=False)
class TrainingDataManager(TrainingStore):
    """Keeps everything in one SQLite database; what its methods do is said in `TrainingStore`.

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
    busy_timeout: float = attrs.field(default=30.0, kw_only=True, converter=as_timeout)
    read_only: bool = attrs.field(default=False, kw_only=True, converter=as_choice)
    _database: Database = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._open_database(), takes_self=True)
    )
    _memory: Memory = attrs.field(factory=Memory, init=False, repr=False)

    def _open_database(self) -> Database:
        if self.read_only and self.db_path == MEMORY:
            raise InvalidArgumentError("db_path", MEMORY, "a file, where read_only is True")
        database = Database(self.db_path, self.busy_timeout, self.read_only)
        database.open()
        try:
            (recognise if self.read_only else prepare)(database)
            database.identify()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def location(self) -> str:
        """The absolute path of the file."""
        return self.db_path

    @property
    def store_id(self) -> str:
        """A text written into the file when it was made."""
        return self._database.store_id

    @property
    def is_read_only(self) -> bool:
        """True where the file was opened for reading only."""
        return self.read_only

    def _sound(self, rows: Iterable[Sequence[Any]], make: Callable[[Sequence[Any]], T]) -> Iterator[T]:
        return sound(rows, make, self._memory.reported, self.db_path, "check() and quarantine()")

    # --- examples ---

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        with self._database.writing() as connection:
            for example in examples:
                try:
                    connection.execute(insertion("training_examples"), guide_row(example))
                except sqlite3.IntegrityError as error:
                    raise DuplicateExampleError(example.example_id) from error
                connection.execute(  # another application may have left an orphan of that id
                    insertion("example_files", "INSERT OR REPLACE"),
                    (example.example_id, *files_row(example.files)),
                )

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        rows = self._database.fetch(f"{EXAMPLES} WHERE e.example_id {AMONG}", json_list(example_ids))
        found = {row[0]: row for row in rows}
        for example_id in example_ids:
            if example_id not in found:
                raise ExampleNotFoundError(example_id)
        with self._database.naming_errors():
            return [example_of(found[example_id]) for example_id in example_ids]

    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        rows = self._database.fetch(f"{EXAMPLES} WHERE f.digest {AMONG} ORDER BY f.sequence", json_list(digests))
        return list(self._sound(rows, example_of))

    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        return {digest for (digest,) in self._database.fetch(_KNOWN_DIGESTS, json_list(digests))}

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        start = 0
        if newest:
            rows = self._database.fetch(
                "SELECT sequence FROM example_files ORDER BY sequence DESC LIMIT 1 OFFSET ?", min(newest, sys.maxsize)
            )
            start = rows[0][0] if rows else 0
        query = f"{EXAMPLES} WHERE f.sequence > ? ORDER BY f.sequence LIMIT {_PAGE}"
        yield from self._paged(example_of, start, query)

    def _paged(self, make: Callable[[Sequence[Any]], T], start: int, query: str, *parameters: object) -> Iterator[T]:
        """Yield records page by page; the last column of a row says where the next page begins."""
        while rows := self._database.fetch(query, start, *parameters):
            yield from self._sound(rows, make)
            start = rows[-1][-1]

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        replaced = set()
        with self._database.writing() as connection:
            for example_id, edit in edits.items():
                row = connection.execute(f"{EXAMPLES} WHERE e.example_id = ?", (example_id,)).fetchone()
                if row is None and skip_missing:
                    continue
                if row is None:
                    raise ExampleNotFoundError(example_id)
                old = example_of(row)
                new = edit(old)
                _identifier, *values = guide_row(new)
                connection.execute(update("training_examples"), (*values, example_id))
                connection.execute(update("example_files"), (*files_row(new.files), example_id))
                if old.files is not None and old.files != new.files:
                    replaced.add(old.files.digest)
            documents = self._contents_gone(connection, replaced, change)
        self._memory.state = documents or self._memory.state
        return documents

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        with self._database.writing() as connection:
            rows = connection.execute("SELECT digest FROM example_files WHERE example_id = ?", (example_id,)).fetchall()
            cursor = connection.execute("DELETE FROM training_examples WHERE example_id = ?", (example_id,))
            if cursor.rowcount == 0:
                raise ExampleNotFoundError(example_id)
            documents = self._contents_gone(connection, {digest for (digest,) in rows if digest is not None}, change)
        self._memory.state = documents or self._memory.state
        return documents

    def _contents_gone(
        self, connection: sqlite3.Connection, digests: set[str], change: StateChange | None
    ) -> StateDocuments | None:
        """Drop what is kept of contents that no example has any more, and change learned state."""
        gone = frozenset(digests - _known(connection, digests))
        for table in ("observations", "previews"):
            connection.execute(f"DELETE FROM {table} WHERE example_digest {AMONG}", (json_list(gone),))
        return None if change is None else self._changed(connection, change, gone)

    # --- evaluations ---

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        running = self._memory.renewals.running()
        with self._database.writing() as connection:
            renew_leases(connection, running)
            if superseding:
                _drop_superseded(connection, evaluations, superseding)
            connection.executemany(
                insertion("evaluations", "INSERT OR REPLACE"),
                map(evaluation_row, evaluations),
            )
            _insert_previews(connection, previews)
            connection.executemany(
                insertion("observations", "INSERT OR REPLACE"),
                [(record.example_digest, record.name, record.content) for record in observations],
            )
        self._memory.renewals.renew_all(running)

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        rows = self._database.fetch(
            f"SELECT {EVALUATION_COLUMNS} FROM evaluations WHERE example_digest {AMONG} ORDER BY sequence",
            json_list(example_digests),
        )
        return list(self._sound(rows, evaluation_of))

    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        rows = self._database.fetch(
            f"SELECT example_digest, name, png FROM previews WHERE example_digest {AMONG} ORDER BY sequence",
            json_list(example_digests),
        )
        found: dict[str, dict[str, bytes]] = {}
        for digest, name, png in rows:
            found.setdefault(digest, {})[name] = png
        return found

    def ranked_digests(self) -> list[str]:
        rows = self._database.fetch(
            "SELECT example_digest FROM previews WHERE rank IS NOT NULL "
            "GROUP BY example_digest ORDER BY MIN(rank), example_digest"
        )
        return [digest for (digest,) in rows]

    def preview_cutoff(self) -> tuple[float, str] | None:
        ((used, rank, digest),) = self._database.fetch(
            "SELECT (SELECT SUM(num_bytes) FROM previews WHERE rank IS NOT NULL), rank, example_digest FROM (SELECT "
            "rank, example_digest FROM previews WHERE rank IS NOT NULL ORDER BY rank DESC, example_digest DESC LIMIT 1)"
        ) or [(0, 0.0, "")]
        return None if used < PREVIEW_BYTES else (rank, digest)

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        rows = self._database.fetch(
            "SELECT example_digest, content FROM observations "
            f"WHERE example_digest {AMONG} AND name = ? ORDER BY example_digest",
            json_list(example_digests),
            name,
        )
        return dict(rows)

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        rows = self._database.fetch(
            f"SELECT example_digest FROM observations WHERE example_digest {AMONG} AND name = ?",
            json_list(example_digests),
            name,
        )
        return {digest for (digest,) in rows}

    # --- sessions ---

    def begin_session(self, session: TrainingSession, /) -> None:
        with self._database.writing() as connection:
            ended = end_lost_sessions(connection, self.db_path)
            try:
                connection.execute(insertion("training_sessions"), guide_row(session))
            except sqlite3.IntegrityError as error:
                reason = f"a session with the id {session.session_id!r} is already stored"
                raise StorageError(self.db_path, reason) from error
            connection.execute(
                insertion("session_details"),
                (session.session_id, details_json(session)),
            )
            begin_lease(connection, session.session_id)
        self._memory.renewals.begin(session.session_id, ended)

    def renew_session(self, session_id: str, /) -> None:
        if not self._memory.renewals.is_due(session_id):
            return
        try:
            with self._database.hurried.writing() as connection:
                renew_leases(connection, [session_id])
        except StorageBusyError:
            return  # the lease lasts for some more attempts
        self._memory.renewals.renew(session_id)

    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        with self._database.writing() as connection:
            if connection.execute(_IS_SESSION, (session_id,)).fetchone() is None:
                raise SessionNotFoundError(session_id)
            held = self._held(connection)
            commit = finish(held)
            _identifier, *values = guide_row(commit.session)
            connection.execute(update("training_sessions"), (*values, session_id))
            connection.execute(update("session_details"), (details_json(commit.session), session_id))
            has_ended = commit.session.status != "running"
            if has_ended:
                connection.execute("DELETE FROM running_sessions WHERE session_id = ?", (session_id,))
            else:
                begin_lease(connection, session_id)
            connection.executemany(insertion("training_metrics"), commit.metrics)
            documents = _apply(connection, held, commit.delta)
            session = session_of(connection.execute(_SESSION, (session_id,)).fetchone())
        if has_ended:
            self._memory.renewals.end(session_id)
        self._memory.state = documents
        return session, documents

    def get_session(self, session_id: str, /) -> TrainingSession:
        rows = self._database.fetch(_SESSION, session_id)
        if not rows:
            raise SessionNotFoundError(session_id)
        with self._database.naming_errors():
            return session_of(rows[0])

    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        start, sign, order = (sys.maxsize, "<", "DESC") if newest_first else (0, ">", "ASC")
        query = f"{SESSIONS} WHERE d.sequence {sign} ? ORDER BY d.sequence {order} LIMIT {_SESSION_PAGE}"
        yield from self._paged(session_of, start, query)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        if not self._database.fetch(_IS_SESSION, session_id):
            raise SessionNotFoundError(session_id)
        condition = f"WHERE id > ? AND session_id = ? ORDER BY id LIMIT {_PAGE}"
        query = f"SELECT {METRIC_COLUMNS}, id FROM training_metrics {condition}"
        return self._paged(lambda row: metric_of(row[:-1]), 0, query, session_id)

    # --- learned state ---

    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        """Return the head of the learned state, and the rows under these keys; see `TrainingStore`.

        Where others keep the file locked, the head that this store last saw is good enough: what they are about to
        commit is not there yet.
        """
        keys = keys if keys is None else list(keys)
        cached = self._memory.state if keys == [] else None
        database = self._database if cached is None else self._database.hurried
        try:
            if cached is not None and database.fetch("SELECT token FROM store_identity") == [(cached.token,)]:
                return cached
            with database.snapshot() as connection:
                held = self._held(connection)
                rows = held.rows(keys)
        except StorageBusyError:
            if cached is None:
                raise
            return cached
        self._memory.state = StateDocuments(held.token, held.head)
        return attrs.evolve(self._memory.state, rows=rows)

    def update_state(self, change: StateChange, /) -> StateDocuments:
        with self._database.writing() as connection:
            documents = self._changed(connection, change)
        self._memory.state = documents
        return documents

    def _held(self, connection: sqlite3.Connection, gone: frozenset[str] = frozenset()) -> HeldState:
        (token,) = connection.execute("SELECT token FROM store_identity").fetchone()
        cached = self._memory.state
        if cached is not None and cached.token == token:
            head = cached.head
        else:
            head = _documents(
                "learned_head", connection.execute("SELECT name, document FROM learned_head ORDER BY name")
            )
        return HeldState(token, head, functools.partial(_rows, connection), functools.partial(_known, connection), gone)

    def _changed(
        self, connection: sqlite3.Connection, change: StateChange, gone: frozenset[str] = frozenset()
    ) -> StateDocuments:
        held = self._held(connection, gone)
        return _apply(connection, held, change(held))

    # --- the rest ---

    def get_dataset_stats(self) -> DatasetStatistics:
        ((total, processed, sessions),) = self._database.fetch(
            "SELECT COUNT(*), COUNT(worker_results), (SELECT COUNT(*) FROM training_sessions) FROM training_examples"
        )
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
                return storage_faults(connection)
        except StorageCorruptError as error:
            return [StorageFault("", None, None, None, error.reason, REPAIR)]

    def quarantine(self) -> list[StorageFault]:
        """Move the rows that `check` finds faulty to the table ``quarantined_rows``, so that the others can be used.

        Nothing is lost: each row is kept there as JSON, with the reason. What makes no sense without a faulty row goes
        with it: an example with the contents of its files, a session with its metrics, and all that was learned where
        any of it is faulty; training again learns it anew. A session of which nothing says who runs it is marked as
        interrupted.

        Returns:
            What was wrong.

        Raises:
            StorageReadOnlyError: the store is for reading only.
            StorageCorruptError: the file is damaged in a way that this does not mend.
        """
        with self._database.writing() as connection:
            return quarantine_faults(connection, self.db_path, datetime.now(UTC))

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
            copy_database(connection, destination)

    def close(self) -> None:
        """Close the file; closing twice is fine. Sessions that this store runs are given up."""
        if running := self._memory.renewals.running():
            with contextlib.suppress(StorageError), self._database.hurried.writing() as connection:
                give_up_leases(connection, running)
        self._memory.renewals = Renewals()
        self._database.close()


# --- what happens inside a transaction --------------------------------------------------------------------------------


def _known(connection: sqlite3.Connection, digests: Iterable[str]) -> set[str]:
    return {digest for (digest,) in connection.execute(_KNOWN_DIGESTS, (json_list(digests),))}


def _documents(table: str, rows: Iterable[Any]) -> dict[str, str]:
    found = dict(rows)
    for name, document in found.items():
        if bytes in (type(name), type(document)):
            raise FaultyRowError(table, repr(name), "the text is damaged: it is not UTF-8")
    return found


def _rows(connection: sqlite3.Connection, keys: Iterable[str] | None) -> dict[str, str]:
    if keys is None:
        return _documents("learned_rows", connection.execute("SELECT key, document FROM learned_rows"))
    query = f"SELECT key, document FROM learned_rows WHERE key {AMONG}"
    return _documents("learned_rows", connection.execute(query, (json_list(keys),)))


def _apply(connection: sqlite3.Connection, held: HeldState, delta: StateDelta | None) -> StateDocuments:
    if delta is None:
        return StateDocuments(held.token, held.head)
    if delta.drops_rows:
        connection.execute("DELETE FROM learned_rows")
    for table, key, changes in (("learned_head", "name", delta.head), ("learned_rows", "key", delta.rows)):
        dropped = [(name,) for name, document in changes.items() if document is None]
        kept = [(name, document) for name, document in changes.items() if document is not None]
        connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", dropped)
        connection.executemany(f"INSERT OR REPLACE INTO {table} ({key}, document) VALUES (?, ?)", kept)
    token = uuid.uuid4().hex
    connection.execute("UPDATE store_identity SET token = ?", (token,))
    head = {**held.head, **delta.head}
    return StateDocuments(token, {name: document for name, document in head.items() if document is not None})


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


def _insert_previews(connection: sqlite3.Connection, previews: Sequence[Preview]) -> None:
    """Insert the previews for which there is room, and drop those that have to make room for them."""
    new = {(preview.example_digest, preview.name): preview for preview in previews}
    if not new:
        return
    connection.executemany("DELETE FROM previews WHERE example_digest = ? AND name = ?", list(new))
    (used,) = connection.execute("SELECT TOTAL(num_bytes) FROM previews WHERE rank IS NOT NULL").fetchone()
    ranked = [preview for preview in new.values() if preview.rank is not None]
    if used + sum(len(preview.png) for preview in ranked) >= PREVIEW_BYTES:
        order = [(p.rank, p.example_digest, p.name, len(p.png)) for p in ranked]
        order += connection.execute(
            "SELECT rank, example_digest, name, num_bytes FROM previews WHERE rank IS NOT NULL"
        ).fetchall()
        bytes_before = 0
        for _rank, digest, name, size in sorted(order):
            if bytes_before >= PREVIEW_BYTES and new.pop((digest, name), None) is None:
                connection.execute("DELETE FROM previews WHERE example_digest = ? AND name = ?", (digest, name))
            bytes_before += size
    connection.executemany(
        insertion("previews"),
        [(p.example_digest, p.name, p.png, len(p.png), p.rank) for p in new.values()],
    )
