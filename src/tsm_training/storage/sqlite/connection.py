"""One SQLite connection: opened carefully, written to in immediate transactions, its errors named."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs

from tsm_training.errors import (
    DatabaseNotOursError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageMovedError,
    StorageReadOnlyError,
)
from tsm_training.files import system_reason
from tsm_training.forking import guard_forks

OpenMode: TypeAlias = Literal["rwc", "rw", "ro"]
"""SQLite's words: ``rwc`` makes a missing file, ``rw`` does not, ``ro`` cannot write."""

MEMORY: Final = ":memory:"
REPAIR: Final = "restore a backup, or save what can still be read with the command sqlite3 and its .recover"
_CLOSED: Final = "it was closed; open it again"
MOMENT: Final = 0.2  # seconds to wait where waiting is not worth much
_WAIT_SLICE: Final = 0.05  # seconds; short, so that Ctrl-C is heard while waiting
_QUIET_NS = 2_500_000_000  # some file systems stamp times in steps of two seconds
_PRIMARY_CODE: Final = 0xFF
_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class UnstorableValueError(ValueError):
    """A value that was to be stored is none that could be read again."""


class FaultyRowError(ValueError):
    """A stored row is none that the library, or an application by the guide, writes."""

    def __init__(self, table: str, row: str, problem: str) -> None:
        super().__init__(table, row, problem)
        self.problem = problem

    def __str__(self) -> str:
        return ": ".join((", ".join(self.args[:2]), self.problem))


def connect(path: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
    """Connect to a database file; every connection of a store is made here.

    Args:
        path: Absolute, or ``":memory:"``.
        mode: What may happen to the file.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    is_plain = path == MEMORY or mode == "rwc"
    return sqlite3.connect(
        path if is_plain else f"{Path(path).as_uri()}?mode={mode}",
        uri=not is_plain,
        timeout=0.0,
        isolation_level=None,
        check_same_thread=False,
    )


_Status: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size and the times of the last change of a file's contents and of the file (in nanoseconds)."""


class _Handle:
    """A connection and the lock that keeps two threads from using it at once; one per process."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        self.connection = connection
        """None after an error that left it in no known state: the next call makes another."""
        self.lock = guard_forks(threading.RLock())
        self.is_in_transaction = False
        self.trusted: _Status | None = None
        """How the file looked when the connection last read it, if it had been left alone for a while by then."""


class _Handles:
    """The connections by process id: after a fork there is one of the parent's too, which only keeps it alive."""

    def __init__(self) -> None:
        self.by_process: dict[int, _Handle] = {}
        self.is_closed = False
        self.identity: tuple[int, int] | None = None
        """Device and inode of the file that was opened; None for a database in memory."""
        self.store_id: str | None = None
        """What the file says that it is; None until it has its tables."""


@attrs.frozen(eq=False, repr=False)
class Database:
    """A SQLite file that several threads, and the children of a fork, may use.

    SQLite keeps pages in memory and trusts a counter in the file to tell whether they are still right. That fails where
    somebody copies another file over this one, so a connection is used again only while the file looks untouched.

    Args:
        path: Absolute, or ``":memory:"``.
        busy_timeout: For how many seconds to wait while another process holds the file.
        read_only: Open the file in a way that cannot change it, nor make it.
        is_hurried: Wait no longer for another thread of this process either.
    """

    path: str
    busy_timeout: float
    read_only: bool = False
    is_hurried: bool = False
    _handles: _Handles = attrs.field(factory=_Handles)

    @property
    def hurried(self) -> Database:
        """The same database, for calls that fail rather than wait for more than a moment."""
        return attrs.evolve(self, busy_timeout=min(self.busy_timeout, MOMENT), is_hurried=True)

    def open(self) -> None:
        """Connect now, so that a wrong path is told at once.

        Raises:
            StorageError: the folder is missing, or the file cannot be opened.
        """
        before = None
        if self.path != MEMORY:
            file = Path(self.path)
            if not file.parent.is_dir():
                raise StorageError(self.path, f"the folder {str(file.parent)!r} does not exist")
            before = self._status()
            if before is None and self.read_only:
                raise StorageError(self.path, "there is no such file; a store opened for reading only makes none")
            if before is not None and not file.is_file():  # a pipe would make us wait for ever
                raise StorageError(self.path, "it is a folder" if file.is_dir() else "it is no regular file")
        with self.naming_errors():
            connection = self._connect("ro" if self.read_only else "rwc")
        after = self._status()
        if self.path != MEMORY and (after is None or (before is not None and before[:2] != after[:2])):
            connection.close()
            raise StorageMovedError(self.path, "it was moved, deleted or replaced while it was being opened")
        self._handles.identity = after and after[:2]
        self._handles.by_process[os.getpid()] = _Handle(connection)
        # A host that forgets to close gets no warning about a connection that it never saw.
        weakref.finalize(self, _close_own, self._handles)

    @property
    def store_id(self) -> str:
        """What the file says that it is; known once `identify` was called."""
        return self._handles.store_id or ""

    def identify(self) -> None:
        """Read the store's id; from now on no file with another one is taken for this store."""
        self._handles.store_id = self._store_id_in(self.fetch("SELECT store_id FROM store_identity"))

    def _store_id_in(self, rows: list[tuple[Any, ...]]) -> str:
        if len(rows) != 1:
            raise StorageCorruptError(self.path, f"store_identity has {len(rows)} rows instead of one; {REPAIR}")
        return str(rows[0][0])

    def _status(self) -> _Status | None:
        """Return how the file that has the name now looks; None if there is none, or for memory."""
        if self.path == MEMORY:
            return None
        try:
            status = os.stat(self.path)  # noqa: PTH116 - called before every use: no Path is made for it
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(self.path, f"the system does not let us look at it: {system_reason(error)}") from error
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _checked_status(self) -> _Status | None:
        """Make sure that the name still leads to what was opened: nobody would find what is written elsewhere."""
        status = self._status()
        opened = self._handles.identity
        if opened is not None and (status is None or status[:2] != opened):
            raise StorageMovedError(
                self.path,
                "it was moved, deleted or replaced since it was opened; nothing was written. See where it went before "
                "you open it again: where there is no file, a new one is made",
            )
        return status

    def _connect(self, mode: OpenMode) -> sqlite3.Connection:
        connection = connect(self.path, mode)
        try:
            connection.text_factory = decoded
            for pragma in ("foreign_keys = ON", "synchronous = FULL"):
                self._patiently(connection, f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _handle(self) -> _Handle:
        if self._handles.is_closed:
            raise StorageClosedError(self.path, _CLOSED)
        handle = self._handles.by_process.get(os.getpid())
        if handle is not None:
            return handle
        if self.path == MEMORY:
            raise StorageError(MEMORY, "a database in memory stays with the process that made it")
        # After a fork: a connection of our own. The parent's is kept and left alone, as SQLite asks.
        return self._handles.by_process.setdefault(os.getpid(), _Handle())

    @contextlib.contextmanager
    def _using(self, *, writes: bool) -> Generator[tuple[_Handle, sqlite3.Connection]]:
        with self.naming_errors(), self._locked() as handle:
            status = self._checked_status()
            # What changes twice within one step of the clock looks the same after both.
            is_quiet = status is not None and max(status[3:]) + _QUIET_NS < time.time_ns()
            connection = self._current_connection(handle, status)
            handle.trusted = None
            yield handle, connection
            if is_quiet and not writes:
                handle.trusted = status

    @contextlib.contextmanager
    def _locked(self) -> Generator[_Handle]:
        handle = self._handle()
        if not self.is_hurried:
            with handle.lock:  # not by acquire(): a Ctrl-C just behind it would leave the lock taken
                yield handle
        elif not handle.lock.acquire(timeout=MOMENT):
            raise StorageBusyError(self.path, "another thread is using it")
        else:
            try:
                yield handle
            finally:
                handle.lock.release()

    def _current_connection(self, handle: _Handle, status: _Status | None) -> sqlite3.Connection:
        if handle.is_in_transaction:
            raise StorageError(self.path, "a change must not use the store that applies it")
        if handle.connection is not None and (self.path == MEMORY or status == handle.trusted):
            if handle.connection.in_transaction:  # an earlier call was kept from tidying up
                handle.connection.execute("ROLLBACK")
            return handle.connection
        old, handle.connection, handle.trusted = handle.connection, None, None
        if old is not None:
            old.close()
        connection = handle.connection = self._connect("ro" if self.read_only else "rw")
        self._checked_status()
        if self._handles.store_id is not None:
            rows = self._patiently(connection, "SELECT store_id FROM store_identity")
            if self._store_id_in(rows) != self._handles.store_id:
                raise StorageMovedError(self.path, "another store was put in its place; open it again to use that one")
        return connection

    @contextlib.contextmanager
    def snapshot(self) -> Generator[sqlite3.Connection]:
        """Hold the connection for several reads that all see the same moment; writers elsewhere wait meanwhile."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            # The first read takes the lock; those that follow cannot find the file busy.
            self._patiently(connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """Run a block as one transaction: all of it is stored when the block is left, or nothing."""
        if self.read_only:
            raise StorageReadOnlyError(self.path, "it was opened for reading only")
        # IMMEDIATE takes the write lock at once: a transaction that reads first could not be retried later.
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str, end: str) -> Generator[sqlite3.Connection]:
        with self._using(writes=end == "COMMIT") as (handle, connection):
            try:
                # Inside the try block, so that a Ctrl-C right behind it leaves no transaction open.
                handle.is_in_transaction = True
                self._patiently(connection, begin)
                yield connection
                self._checked_status()
                self._patiently(connection, end)
            except BaseException:
                self._roll_back(handle, connection)
                raise
            finally:
                handle.is_in_transaction = False

    def _roll_back(self, handle: _Handle, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:  # some errors have ended it already
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # The first error is the one to tell. Closing gives up the transaction; whoever connects next rolls back
            # what may have been written of it. What is in memory only would be lost: there, the next call tries again.
            if self.path != MEMORY:
                handle.connection = None
                connection.close()

    def fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return all rows of one query; `parameters` stand for its question marks."""
        with self._using(writes=False) as (_handle, connection):
            return self._patiently(connection, sql, parameters)

    def close(self) -> None:
        """Close this process's connection; closing twice is fine.

        A parent's connection is never closed in a child of a fork: that would roll back what the parent is writing.
        """
        _close_own(self._handles)

    def _patiently(
        self, connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...] = ()
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, repeated while another process holds the file, up to the stated wait.

        What is still to be kept while Ctrl-C is on its way out waits for a moment only.
        """
        is_leaving = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        wait = min(self.busy_timeout, MOMENT) if is_leaving else self.busy_timeout
        deadline = time.monotonic() + wait
        while True:
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if primary_code(error) not in _BUSY_CODES:
                    raise
                if time.monotonic() >= deadline:
                    reason = f"another process kept it locked for more than {wait:g} seconds"
                    raise StorageBusyError(self.path, reason) from error
                time.sleep(_WAIT_SLICE)

    @contextlib.contextmanager
    def naming_errors(self) -> Generator[None]:
        """Raise the library's errors for those of SQLite, and for values and rows that cannot be used."""
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.ProgrammingError) and self._handles.is_closed:  # by another thread, meanwhile
                raise StorageClosedError(self.path, _CLOSED) from error
            raise storage_error(self.path, error) from error
        except FaultyRowError as error:
            advice = "quarantine() puts such rows aside, check() lists them all"
            raise StorageCorruptError(self.path, f"{error}; {advice}") from error
        except (OverflowError, UnicodeEncodeError, UnstorableValueError) as error:
            raise StorageError(self.path, f"a value cannot be stored: {error}") from error


_LOOK_ONLY: Final = "to look at it only, give a TrainingManager storage=TrainingDataManager(path, read_only=True)"


_REASONS: Final[dict[int, tuple[type[StorageError], str]]] = {
    sqlite3.SQLITE_BUSY: (StorageBusyError, "another process keeps it locked ({})"),
    sqlite3.SQLITE_LOCKED: (StorageBusyError, "another process keeps it locked ({})"),
    sqlite3.SQLITE_CONSTRAINT: (StorageError, "a value cannot be stored: {}"),
    sqlite3.SQLITE_CORRUPT: (StorageCorruptError, f"the file is damaged ({{}}); {REPAIR}; do not delete the file"),
    sqlite3.SQLITE_FULL: (StorageFullError, "{}; make room and call again"),
    sqlite3.SQLITE_NOTADB: (DatabaseNotOursError, "it is not an SQLite database; it was left as it was"),
    sqlite3.SQLITE_READONLY: (StorageReadOnlyError, f"{{}}; {_LOOK_ONLY}"),
    sqlite3.SQLITE_READONLY_DBMOVED: (
        StorageMovedError,
        "it was moved, deleted or replaced since it was opened; open it again",
    ),
    sqlite3.SQLITE_READONLY_ROLLBACK: (
        StorageReadOnlyError,
        "a change was cut short by a crash: open it once for writing, to undo that",
    ),
}
"""By result code: what an error of SQLite is for the library, and what it says of it ({} is what SQLite says)."""


def storage_error(path: str, error: sqlite3.Error) -> StorageError:
    """Return the library's error for an error of SQLite's."""
    code, primary = getattr(error, "sqlite_errorcode", 0), primary_code(error)
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and path != MEMORY:
        return _likely_reason(path, code, error)
    if primary == sqlite3.SQLITE_ERROR and str(error).startswith(("no such table", "no such column")):
        code = sqlite3.SQLITE_CORRUPT
    kind, reason = _REASONS.get(code) or _REASONS.get(primary) or (StorageError, "{}")
    return kind(path, reason.format(error))


_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))  # Windows has no quota
_REFUSED_ERRNOS: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_LITTLE: Final = 1024 * 1024  # bytes: a change that was rolled back has made some room again


def _likely_reason(path: str, code: int, error: sqlite3.Error) -> StorageError:
    """Find out why a file could not be opened, read or written: SQLite knows the system's reason, but keeps it."""
    folder = Path(path).parent
    try:
        import shutil  # noqa: PLC0415 - loads every kind of compression

        free = shutil.disk_usage(folder).free
    except OSError as refusal:
        return system_error(path, refusal)
    # The system said that the disk is full in other ways too: a limit on file sizes, a quota.
    if free < _LITTLE or code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE):
        return StorageFullError(path, f"the system refused to write ({error}); make room and call again")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return StorageReadOnlyError(path, f"the system does not let us write there ({error}); {_LOOK_ONLY}")
    return StorageError(path, str(error))


def system_error(path: str, error: OSError) -> StorageError:
    """Return the library's error for the system's refusal to write a file."""
    reason = system_reason(error)
    if error.errno in _FULL_ERRNOS:
        return StorageFullError(path, f"{reason}; make room and call again")
    if error.errno in _REFUSED_ERRNOS:
        return StorageReadOnlyError(path, f"{reason}; {_LOOK_ONLY}")
    return StorageError(path, reason)


def decoded(text: bytes) -> str | bytes:
    """Return a stored text, or its bytes where they are not UTF-8: the sound rows around it can still be read."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return bytes(text)


def _close_own(handles: _Handles) -> None:
    """Close this process's connection; a parent's is left alone in the child of a fork."""
    handles.is_closed = True
    handle = handles.by_process.pop(os.getpid(), None)
    if handle is not None:
        with handle.lock:
            if handle.connection is not None:
                handle.connection.close()


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code; 0 where the error is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
