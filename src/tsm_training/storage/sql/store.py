"""The store for several machines: everything in one database of a PostgreSQL server."""

# ruff: noqa: D102 - methods are described in TrainingStore

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from tsm_training.arguments import is_number
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
from tsm_training.storage.sql.database import TABLES, Database, checked_url, location_of
from tsm_training.storage.sqlite.connection import MOMENT
from tsm_training.storage.sqlite.integrity import StorageFault, row_faults
from tsm_training.storage.sqlite.lease import ABANDONED, LEASE_SECONDS, Renewals, is_lost, lease_row, log_interruption
from tsm_training.storage.sqlite.manager import Memory, as_choice, as_timeout
from tsm_training.storage.sqlite.rows import (
    details_json,
    evaluation_of,
    evaluation_row,
    example_of,
    files_row,
    guide_row,
    metric_of,
    session_of,
    sound,
)
from tsm_training.storage.sqlite.schema import COLUMNS

T = TypeVar("T")
Query: TypeAlias = "sa.Select[*tuple[Any, ...]]"

_PAGE: Final = 256  # rows read at a time
_PAGE_WRITTEN: Final = 5_000
_SESSION_PAGE: Final = 8  # a session can hold the scores of thousands of examples
_NO_MORE: Final = 2**63 - 1
_BY_HAND: Final = "mend it with SQL, or restore a backup"


def _columns(name: str) -> list[sa.ColumnElement[Any]]:
    return [TABLES[name].c[column] for column in COLUMNS[name]]


_identity: Final = TABLES["store_identity"]
_examples: Final = TABLES["training_examples"]
_files: Final = TABLES["example_files"]
_sessions: Final = TABLES["training_sessions"]
_details: Final = TABLES["session_details"]
_leases: Final = TABLES["running_sessions"]
_metrics: Final = TABLES["training_metrics"]
_evaluations: Final = TABLES["evaluations"]
_previews: Final = TABLES["previews"]
_observations: Final = TABLES["observations"]
_head: Final = TABLES["learned_head"]
_rows: Final = TABLES["learned_rows"]

_EXAMPLES: Final = sa.select(*_columns("training_examples"), _files.c.files, _files.c.sequence).join_from(
    _examples, _files, _examples.c.example_id == _files.c.example_id
)
_SESSIONS: Final = sa.select(*_columns("training_sessions"), _details.c.details, _details.c.sequence).join_from(
    _sessions, _details, _sessions.c.session_id == _details.c.session_id
)


def _as_lease(value: float) -> float:
    if not is_number(value) or not 1 <= value < math.inf:
        raise InvalidArgumentError("lease", value, "a finite number of seconds, at least 1")
    return float(value)


def _remedy(fault: StorageFault) -> str:
    """Return what helps on a server, where rows are not put aside nor taken in from other applications."""
    return fault.remedy if fault.column == "status" and "opening" in fault.remedy else _BY_HAND


@attrs.frozen(eq=False)
class SQLStore(TrainingStore):
    """Keeps everything in one database of a PostgreSQL server; what its methods do is said in `TrainingStore`.

    Processes on several machines may use one database. The tables are those of an SQLite file
    (`tsm_training.storage.GUIDE_SCHEMA` and `tsm_training.storage.OWN_SCHEMA`) with the server's types, in the schema
    that comes first in the connection's ``search_path``; they are made at the first opening.

    Who writes locks the one row of ``store_identity`` first: writers come one after the other, readers wait for nobody.
    Leases are given by the server's clock.

    Args:
        url: Where the database is, as SQLAlchemy writes it: ``"postgresql+psycopg://user:password@host/database"``.
            ``"sqlite:///path"`` is a file, the same as `TrainingDataManager` keeps, and ``"sqlite://"`` one in memory:
            for trying things out. No message and no representation of the store shows the password.
        busy_timeout: For how many seconds a call waits for the lock, and for one of the store's connections to be free;
            the server has as long to let somebody in, and at least 10 seconds.
        lease: For how many seconds a session is believed to run after its process was last heard of; at least 1.
        read_only: For viewers: nothing is written, and every method that writes raises `StorageReadOnlyError`.

    Raises:
        InvalidArgumentError: an argument cannot be used.
        MissingExtraError: the driver of the database is not installed.
        StorageUnreachableError: no server answers, or it lets nobody in under that name.
        DatabaseNotOursError: tables of these names belong to something else; they were left as they were.
        SchemaTooNewError: a newer version of this library has made the tables; they were left as they were.
        StorageError: the database cannot be used.
    """

    url: str | sa.URL = attrs.field(converter=checked_url, repr=location_of)
    busy_timeout: float = attrs.field(default=30.0, kw_only=True, converter=as_timeout)
    lease: float = attrs.field(default=LEASE_SECONDS, kw_only=True, converter=_as_lease)
    read_only: bool = attrs.field(default=False, kw_only=True, converter=as_choice)
    _database: Database = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._new_database(), takes_self=True)
    )
    _memory: Memory = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: Memory(self.lease), takes_self=True)
    )
    _store_id: str = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._open(), takes_self=True)
    )

    def _new_database(self) -> Database:
        return Database(checked_url(self.url), self.busy_timeout, self.read_only)

    def _open(self) -> str:
        """Open the database, end sessions that have lost their process, and return the store's id."""
        try:
            self._database.open()
            with self._database.reading() as connection:
                store_id = str(connection.execute(sa.select(_identity.c.store_id)).scalar_one())
                has_lost = not self.read_only and any(self._lost(connection))
            if has_lost:
                self._database.write(self._end_lost_sessions)
        except BaseException:
            self._database.close()
            raise
        return store_id

    @property
    def location(self) -> str:
        """The address of the database, without the password."""
        return self._database.location

    @property
    def store_id(self) -> str:
        """A text written into the database when its tables were made."""
        return self._store_id

    @property
    def is_read_only(self) -> bool:
        """True where the store was opened for reading only."""
        return self.read_only

    def _all(self, statement: Query) -> Sequence[Any]:
        with self._database.reading() as connection:
            return connection.execute(statement).all()

    def _sound(self, rows: Iterable[Sequence[Any]], make: Callable[[Sequence[Any]], T]) -> Iterator[T]:
        return sound(rows, make, self._memory.reported, self.location, "check()")

    # --- examples ---

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        def add(connection: sa.Connection) -> None:
            among = self._database.among(_examples.c.example_id, [example.example_id for example in examples])
            taken = set(connection.scalars(sa.select(_examples.c.example_id).where(among)))
            for example in examples:
                if example.example_id in taken:
                    raise DuplicateExampleError(example.example_id)
                taken.add(example.example_id)
            _insert(connection, "training_examples", map(guide_row, examples))
            _insert(connection, "example_files", [(e.example_id, *files_row(e.files)) for e in examples])

        self._database.write(add)

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        rows = self._all(_EXAMPLES.where(self._database.among(_examples.c.example_id, example_ids)))
        found = {row[0]: row for row in rows}
        for example_id in example_ids:
            if example_id not in found:
                raise ExampleNotFoundError(example_id)
        with self._database.naming_errors():
            return [example_of(found[example_id]) for example_id in example_ids]

    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        among = self._database.among(_files.c.digest, digests)
        return list(self._sound(self._all(_EXAMPLES.where(among).order_by(_files.c.sequence)), example_of))

    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        with self._database.reading() as connection:
            return self._known(connection, digests)

    def _known(self, connection: sa.Connection, digests: Iterable[str]) -> set[str]:
        return set(connection.scalars(sa.select(_files.c.digest).where(self._database.among(_files.c.digest, digests))))

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        start = 0
        if newest:
            offset = sa.literal(min(newest, _NO_MORE), sa.BigInteger())
            rows = self._all(sa.select(_files.c.sequence).order_by(_files.c.sequence.desc()).limit(1).offset(offset))
            start = rows[0][0] if rows else 0
        yield from self._paged(example_of, _EXAMPLES, _files.c.sequence, start)

    def _paged(
        self,
        make: Callable[[Sequence[Any]], T],
        query: Query,
        place: sa.ColumnElement[int],
        start: int = 0,
        *,
        page: int = _PAGE,
        backwards: bool = False,
    ) -> Iterator[T]:
        """Yield records page by page, each read at a moment of its own; a row's last column is its place."""
        query = query.order_by(place.desc() if backwards else place).limit(page)
        while rows := self._all(query.where(place < start if backwards else place > start)):
            yield from self._sound(rows, make)
            start = rows[-1][-1]

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        def edit(connection: sa.Connection) -> StateDocuments | None:
            among = self._database.among(_examples.c.example_id, edits)
            stored = {row[0]: row for row in connection.execute(_EXAMPLES.where(among))}
            new, replaced = [], set()
            for example_id, make in edits.items():
                if example_id in stored:
                    old = example_of(stored[example_id])
                    new.append(make(old))
                    if old.files is not None and old.files != new[-1].files:
                        replaced.add(old.files.digest)
                elif not skip_missing:
                    raise ExampleNotFoundError(example_id)
            _update(connection, "training_examples", map(guide_row, new))
            _update(connection, "example_files", [(e.example_id, *files_row(e.files)) for e in new])
            return self._contents_gone(connection, replaced, change)

        return self._remembered(self._database.write(edit))

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        def remove(connection: sa.Connection) -> StateDocuments | None:
            among = functools.partial(self._database.among, texts=[example_id])
            digests = set(connection.scalars(sa.select(_files.c.digest).where(among(_files.c.example_id))))
            if connection.execute(sa.delete(_examples).where(among(_examples.c.example_id))).rowcount == 0:
                raise ExampleNotFoundError(example_id)
            return self._contents_gone(connection, digests - {None}, change)

        return self._remembered(self._database.write(remove))

    def _contents_gone(
        self, connection: sa.Connection, digests: set[str], change: StateChange | None
    ) -> StateDocuments | None:
        """Drop what is kept of contents that no example has any more, and change learned state."""
        if gone := frozenset(digests - self._known(connection, digests) if digests else ()):
            for table in (_observations, _previews):
                connection.execute(sa.delete(table).where(self._database.among(table.c.example_digest, gone)))
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

        def save(connection: sa.Connection) -> None:
            self._renew(connection, running)
            _drop_superseded(connection, evaluations, superseding)
            _replace(connection, "evaluations", 5, map(evaluation_row, evaluations))
            _insert_previews(connection, previews)
            _replace(connection, "observations", 2, [(r.example_digest, r.name, r.content) for r in observations])

        self._database.write(save)
        self._memory.renewals.renew_all(running)

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        among = self._database.among(_evaluations.c.example_digest, example_digests)
        rows = self._all(sa.select(*_columns("evaluations")).where(among).order_by(_evaluations.c.sequence))
        return list(self._sound(rows, evaluation_of))

    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        c = _previews.c
        among = self._database.among(c.example_digest, example_digests)
        found: dict[str, dict[str, bytes]] = {}
        for digest, name, png in self._all(
            sa.select(c.example_digest, c.name, c.png).where(among).order_by(c.sequence)
        ):
            found.setdefault(digest, {})[name] = png
        return found

    def ranked_digests(self) -> list[str]:
        c = _previews.c
        query = sa.select(c.example_digest).where(c.rank.is_not(None)).group_by(c.example_digest)
        return [row[0] for row in self._all(query.order_by(sa.func.min(c.rank), c.example_digest))]

    def preview_cutoff(self) -> tuple[float, str] | None:
        c = _previews.c
        ranked = c.rank.is_not(None)
        used = sa.select(sa.func.sum(c.num_bytes)).where(ranked).scalar_subquery()
        last = sa.select(used, c.rank, c.example_digest).where(ranked)
        rows = self._all(last.order_by(c.rank.desc(), c.example_digest.desc()).limit(1))
        return (rows[0][1], rows[0][2]) if rows and rows[0][0] >= PREVIEW_BYTES else None

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        c = _observations.c
        among = self._database.among(c.example_digest, example_digests)
        query = sa.select(c.example_digest, c.content).where(among, self._database.among(c.name, [name]))
        return _pairs(self._all(query.order_by(c.example_digest)))

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        c = _observations.c
        among = self._database.among(c.example_digest, example_digests)
        return {
            row[0] for row in self._all(sa.select(c.example_digest).where(among, self._database.among(c.name, [name])))
        }

    # --- sessions ---

    def begin_session(self, session: TrainingSession, /) -> None:
        def begin(connection: sa.Connection) -> list[str]:
            ended = self._end_lost_sessions(connection)
            if self._has_session(connection, session.session_id):
                raise StorageError(self.location, f"a session with the id {session.session_id!r} is already stored")
            _insert(connection, "training_sessions", [guide_row(session)])
            _insert(connection, "session_details", [(session.session_id, details_json(session))])
            self._begin_lease(connection, session.session_id)
            return ended

        self._memory.renewals.begin(session.session_id, self._database.write(begin))

    def renew_session(self, session_id: str, /) -> None:
        if not self._memory.renewals.is_due(session_id):
            return
        try:
            # Its row alone is enough as a rule: whoever stores much elsewhere is not waited for.
            if not self._database.write(lambda connection: self._extend(connection, session_id), MOMENT, alone=False):
                self._database.write(lambda connection: self._renew(connection, [session_id]), MOMENT)
        except StorageBusyError:
            return  # the lease lasts for some more attempts
        self._memory.renewals.renew(session_id)

    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        def commit(connection: sa.Connection) -> tuple[TrainingSession, StateDocuments]:
            if not self._has_session(connection, session_id):
                raise SessionNotFoundError(session_id)
            held = self._held(connection)
            commit = finish(held)
            _update(connection, "training_sessions", [(session_id, *guide_row(commit.session)[1:])])
            _update(connection, "session_details", [(session_id, details_json(commit.session))])
            if commit.session.status == "running":
                self._begin_lease(connection, session_id)
            else:
                connection.execute(sa.delete(_leases).where(_leases.c.session_id == session_id))
            _insert(connection, "training_metrics", commit.metrics)
            documents = _apply(connection, held, commit.delta)
            stored = connection.execute(_SESSIONS.where(_sessions.c.session_id == session_id)).one()
            return session_of(stored), documents

        session, documents = self._database.write(commit)
        if session.status != "running":
            self._memory.renewals.end(session_id)
        self._memory.state = documents
        return session, documents

    def _has_session(self, connection: sa.Connection, session_id: str) -> bool:
        among = self._database.among(_sessions.c.session_id, [session_id])
        return connection.execute(sa.select(_sessions.c.session_id).where(among)).first() is not None

    def get_session(self, session_id: str, /) -> TrainingSession:
        rows = self._all(_SESSIONS.where(self._database.among(_sessions.c.session_id, [session_id])))
        if not rows:
            raise SessionNotFoundError(session_id)
        with self._database.naming_errors():
            return session_of(rows[0])

    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        start = _NO_MORE if newest_first else 0
        place = _details.c.sequence
        yield from self._paged(session_of, _SESSIONS, place, start, page=_SESSION_PAGE, backwards=newest_first)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session; see `TrainingStore`.

        On a server they come from a cursor there, all as of one moment: the iterator holds a connection until it has
        come to its end, or is closed.
        """
        with self._database.reading() as connection:
            if not self._has_session(connection, session_id):
                raise SessionNotFoundError(session_id)
        query = sa.select(*_columns("training_metrics"), _metrics.c.id).where(_metrics.c.session_id == session_id)
        if self._database.is_server:
            return self._streamed(lambda row: metric_of(row[:-1]), query.order_by(_metrics.c.id))
        return self._paged(lambda row: metric_of(row[:-1]), query, _metrics.c.id)

    def _streamed(self, make: Callable[[Sequence[Any]], T], query: Query) -> Iterator[T]:
        with (
            self._database.reading() as connection,
            contextlib.closing(connection.execute(query, execution_options={"yield_per": _PAGE})) as rows,
        ):
            yield from self._sound(rows, make)

    # --- which sessions run ---

    def _now(self, connection: sa.Connection) -> datetime:
        """Return the time by the clock that all who use the database share."""
        if not self._database.is_server:
            return datetime.now(UTC)
        now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)

    def _lost(self, connection: sa.Connection) -> Iterator[str]:
        """Yield the ids of sessions that have lost their process."""
        rows = connection.execute(sa.select(*_columns("running_sessions")).order_by(_leases.c.session_id)).all()
        if rows:
            now = self._now(connection)
            yield from (session_id for session_id, *row in rows if is_lost(row, now))

    def _end_lost_sessions(self, connection: sa.Connection) -> list[str]:
        ended = list(self._lost(connection))
        for session_id in ended:
            is_this = _sessions.c.session_id == session_id
            interrupted = sa.update(_sessions).where(is_this, _sessions.c.status == "running")
            connection.execute(interrupted.values(status="interrupted"))
            self._note_error(connection, session_id, ABANDONED)
            connection.execute(sa.delete(_leases).where(_leases.c.session_id == session_id))
            log_interruption(self.location, session_id)
        return ended

    def _begin_lease(self, connection: sa.Connection, session_id: str) -> None:
        _replace(connection, "running_sessions", 1, [lease_row(session_id, self._now(connection), self.lease)])

    def _renew(self, connection: sa.Connection, session_ids: list[str]) -> None:
        """Have leases begin anew; a session that was taken for dead runs again, one that has ended stays as it is."""
        for session_id in session_ids:
            if self._extend(connection, session_id):
                continue
            row = connection.execute(
                _SESSIONS.where(self._database.among(_sessions.c.session_id, [session_id]))
            ).first()
            if row is not None and row.status == "interrupted" and session_of(row).error == ABANDONED:
                is_this = _sessions.c.session_id == session_id
                connection.execute(sa.update(_sessions).where(is_this).values(status="running"))
                self._note_error(connection, session_id, None)
                self._begin_lease(connection, session_id)

    def _extend(self, connection: sa.Connection, session_id: str) -> bool:
        """Have a lease begin anew, and tell whether there is one."""
        expires_at = (self._now(connection) + timedelta(seconds=self.lease)).isoformat()
        among = self._database.among(_leases.c.session_id, [session_id])
        return connection.execute(sa.update(_leases).where(among).values(expires_at=expires_at)).rowcount > 0

    def _note_error(self, connection: sa.Connection, session_id: str, error: str | None) -> None:
        is_this = _details.c.session_id == session_id
        details = json.loads(connection.execute(sa.select(_details.c.details).where(is_this)).scalar_one())
        noted = json.dumps({**details, "error": error}, ensure_ascii=False)
        connection.execute(sa.update(_details).where(is_this).values(details=noted))

    # --- learned state ---

    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        keys = keys if keys is None else list(keys)
        with self._database.reading() as connection:
            held = self._held(connection)
            rows = held.rows(keys) if keys != [] else {}
        self._memory.state = StateDocuments(held.token, held.head)
        return attrs.evolve(self._memory.state, rows=rows)

    def update_state(self, change: StateChange, /) -> StateDocuments:
        documents = self._database.write(lambda connection: self._changed(connection, change))
        self._memory.state = documents
        return documents

    def _held(self, connection: sa.Connection, gone: frozenset[str] = frozenset()) -> HeldState:
        token = connection.execute(sa.select(_identity.c.token)).scalar_one()
        cached = self._memory.state
        if cached is not None and cached.token == token:
            head = cached.head
        else:
            head = _pairs(connection.execute(sa.select(_head.c.name, _head.c.document)))

        def rows(keys: Iterable[str] | None) -> dict[str, str]:
            query = sa.select(_rows.c.key, _rows.c.document)
            wanted = query if keys is None else query.where(self._database.among(_rows.c.key, keys))
            return _pairs(connection.execute(wanted))

        return HeldState(token, head, rows, functools.partial(self._known, connection), gone)

    def _changed(
        self, connection: sa.Connection, change: StateChange, gone: frozenset[str] = frozenset()
    ) -> StateDocuments:
        held = self._held(connection, gone)
        return _apply(connection, held, change(held))

    def _remembered(self, documents: StateDocuments | None) -> StateDocuments | None:
        self._memory.state = documents or self._memory.state
        return documents

    # --- the rest ---

    def get_dataset_stats(self) -> DatasetStatistics:
        sessions = sa.select(sa.func.count()).select_from(_sessions).scalar_subquery()
        query = sa.select(sa.func.count(), sa.func.count(_examples.c.worker_results), sessions)
        ((total, processed, num_sessions),) = self._all(query.select_from(_examples))
        return {
            "total_examples": total,
            "processed_examples": processed,
            "unprocessed_examples": total - processed,
            "total_sessions": num_sessions,
        }

    def check(self) -> list[StorageFault]:
        """Look at every value of the database, as of one moment; nothing is changed. An empty list means all is well.

        On a server, others go on meanwhile. Whether the server's own files are sound is for its tools to say
        (``pg_amcheck``).

        Returns:
            What is wrong, where, and what helps.
        """
        is_sqlite = not self._database.is_server
        try:
            with self._database.reading() as connection:
                read = functools.partial(connection.exec_driver_sql, execution_options={"yield_per": _PAGE})
                faults = row_faults(read, self._now(connection), is_sqlite=is_sqlite)
        except StorageCorruptError as error:
            return [StorageFault("", None, None, None, error.reason, _BY_HAND)]
        return faults if is_sqlite else [attrs.evolve(f, remedy=_remedy(f)) for f in faults]

    def close(self) -> None:
        """Give all connections back; closing twice is fine. Sessions that this store runs are given up."""
        if running := self._memory.renewals.running():
            with contextlib.suppress(StorageError):
                self._database.write(functools.partial(self._give_up, running), MOMENT)
        self._memory.renewals = Renewals(self.lease)
        self._database.close()

    def _give_up(self, session_ids: list[str], connection: sa.Connection) -> None:
        over = self._now(connection).isoformat()
        among = self._database.among(_leases.c.session_id, session_ids)
        connection.execute(sa.update(_leases).where(among).values(expires_at=over))


# --- what happens inside a transaction --------------------------------------------------------------------------------


def _pairs(rows: Iterable[Any]) -> dict[str, Any]:
    return {row[0]: row[1] for row in rows}


def _insert(connection: sa.Connection, name: str, rows: Iterable[Iterable[object]]) -> None:
    columns, insert = COLUMNS[name], sa.insert(TABLES[name])
    waiting = iter(rows)
    while page := list(itertools.islice(waiting, _PAGE_WRITTEN)):
        if connection.dialect.name == "sqlite":
            connection.execute(insert, [dict(zip(columns, row, strict=True)) for row in page])
            continue
        # To a server, rows travel as one array per column: one by one takes twice as long.
        kinds = [ARRAY(kind) for kind in (TABLES[name].c[column].type for column in columns)]
        arrays = [sa.literal(list(values), kind) for values, kind in zip(zip(*page, strict=True), kinds, strict=True)]
        given = sa.func.unnest(*arrays).table_valued(*columns).render_derived()
        connection.execute(insert.from_select(columns, sa.select(*given.c)))


def _update(connection: sa.Connection, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Change rows, which are found by their first column."""
    key, names = COLUMNS[name][0], COLUMNS[name][1:]
    if values := [dict(zip(names, row[1:], strict=True), found=row[0]) for row in rows]:
        connection.execute(sa.update(TABLES[name]).where(TABLES[name].c[key] == sa.bindparam("found")), values)


def _delete(
    connection: sa.Connection, name: str, keys: Iterable[Sequence[object]], columns: Sequence[str] | None = None
) -> None:
    """Delete the rows that have these keys in some columns, the first ones unless told otherwise."""
    if values := [{f"k{number}": value for number, value in enumerate(key)} for key in keys]:
        own = (TABLES[name].c[column] for column in columns or COLUMNS[name][: len(values[0])])
        same = (column == sa.bindparam(f"k{number}") for number, column in enumerate(own))
        connection.execute(sa.delete(TABLES[name]).where(*same), values)


def _replace(connection: sa.Connection, name: str, num_keys: int, rows: Iterable[Sequence[object]]) -> None:
    """Delete the rows whose first columns are the same, and insert these behind all others; the last of equals wins."""
    new: dict[tuple[object, ...], Sequence[object]] = {}
    for row in rows:
        new.pop(key := tuple(row[:num_keys]), None)
        new[key] = row
    _delete(connection, name, new)
    _insert(connection, name, new.values())


def _apply(connection: sa.Connection, held: HeldState, delta: StateDelta | None) -> StateDocuments:
    if delta is None:
        return StateDocuments(held.token, held.head)
    if delta.drops_rows:
        connection.execute(sa.delete(_rows))
    for name, changes in (("learned_head", delta.head), ("learned_rows", delta.rows)):
        _delete(connection, name, [(key,) for key in changes])
        _insert(connection, name, [item for item in changes.items() if item[1] is not None])
    token = uuid.uuid4().hex
    connection.execute(sa.update(_identity).values(token=token))
    head = {**held.head, **delta.head}
    return StateDocuments(token, {name: document for name, document in head.items() if document is not None})


def _drop_superseded(connection: sa.Connection, evaluations: Sequence[Evaluation], worker_ids: Collection[str]) -> None:
    keys = [evaluation.key for evaluation in evaluations if evaluation.key.worker_id in worker_ids]
    scored = {(key.example_digest, key.worker_id, key.metric_fingerprint) for key in keys}
    _delete(connection, "evaluations", scored, ("example_digest", "worker_id", "metric_fingerprint"))
    pictured = {(key.example_digest, key.worker_id) for key in keys}
    for digest in sorted({digest for digest, _worker_id in pictured}):
        names = connection.scalars(sa.select(_previews.c.name).where(_previews.c.example_digest == digest)).all()
        # The last @ counts: a worker's id may hold others, a fingerprint has none.
        _delete(connection, "previews", [(digest, n) for n in names if (digest, n.rpartition("@")[0]) in pictured])


def _insert_previews(connection: sa.Connection, previews: Sequence[Preview]) -> None:
    """Insert the previews for which there is room, and drop those that have to make room for them."""
    new = {(preview.example_digest, preview.name): preview for preview in previews}
    if not new:
        return
    _delete(connection, "previews", new)
    c = _previews.c
    ranked = [preview for preview in new.values() if preview.rank is not None]
    used = connection.execute(sa.select(sa.func.sum(c.num_bytes)).where(c.rank.is_not(None))).scalar_one() or 0
    if used + sum(len(preview.png) for preview in ranked) >= PREVIEW_BYTES:
        order = [(p.rank, p.example_digest, p.name, len(p.png)) for p in ranked]
        stored = sa.select(c.rank, c.example_digest, c.name, c.num_bytes).where(c.rank.is_not(None))
        order += map(tuple, connection.execute(stored))
        bytes_before, behind = 0, []
        for _rank, digest, name, size in sorted(order):
            if bytes_before >= PREVIEW_BYTES and new.pop((digest, name), None) is None:
                behind.append((digest, name))
            bytes_before += size
        _delete(connection, "previews", behind)
    _insert(connection, "previews", [(p.example_digest, p.name, p.png, len(p.png), p.rank) for p in new.values()])
