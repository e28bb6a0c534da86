"""One SQLite connection: opened carefully, written to in immediate transactions, its errors named."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

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
from tsm_training.storage.sqlite.rules import FaultyValueError, UnstorableValueError, corrupt

__all__ = ["MEMORY", "SALVAGE", "Database", "OpenMode", "connect", "decoded", "storage_error", "system_error"]

T = TypeVar("T")

OpenMode: TypeAlias = Literal["rwc", "rw", "ro"]
"""SQLite's words: ``rwc`` makes a missing file, ``rw`` does not, ``ro`` cannot write."""

MEMORY: Final = ":memory:"
_WAIT_SLICE: Final = 0.05  # seconds; short, so that Ctrl-C is heard while waiting
_HURRY_SECONDS: Final = 0.1
_PRIMARY_CODE: Final = 0xFF
_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
SALVAGE: Final = "restore a backup, or save what can still be read with tsm_training.storage.salvage()"
_ADVICE: Final = f"{SALVAGE}; do not delete the file"


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


@attrs.define(eq=False)
class _Handle:
    """A connection and the lock that keeps two threads from using it at once; one per process."""

    connection: sqlite3.Connection | None
    """None after an error that left it in no known state: the next call makes another."""
    lock: threading.RLock = attrs.field(factory=lambda: guard_forks(threading.RLock()))
    is_in_transaction: bool = False


@attrs.define(eq=False)
class _Handles:
    """The connections by process id: after a fork there is one of the parent's too, which only keeps it alive."""

    by_process: dict[int, _Handle] = attrs.field(factory=dict)
    is_closed: bool = False
    identity: tuple[int, int] | None = None
    """Device and inode of the file that was opened; None for a database in memory."""


@attrs.frozen(eq=False)
class Database:
    """A SQLite file that several threads, and the children of a fork, may use.

    Args:
        path: Absolute, or ``":memory:"``.
        busy_timeout: For how many seconds to wait while another process holds the file.
        read_only: Open the file in a way that cannot change it, nor make it.
    """

    path: str
    busy_timeout: float
    read_only: bool = False
    _handles: _Handles = attrs.field(factory=_Handles, init=False, repr=False)
    _hurry: threading.local = attrs.field(factory=threading.local, init=False, repr=False)

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
            if file.is_dir():
                raise StorageError(self.path, "it is a folder")
            before = self._present_identity()
            if before is None and self.read_only:
                raise StorageError(self.path, "there is no such file; a store opened for reading only makes none")
            if before is not None and not file.is_file():
                raise StorageError(self.path, "it is no regular file")  # a pipe would make us wait for ever
            if before is not None and file.stat().st_size == 1:  # SQLite would take one byte for none, and overwrite it
                raise DatabaseNotOursError(self.path, "it is not an SQLite database; it was left as it was")
        with self._named_errors():
            connection = self._connect("ro" if self.read_only else "rwc")
        after = self._present_identity()
        if self.path != MEMORY and (after is None or before not in (None, after)):
            connection.close()
            raise StorageMovedError(self.path, "it was moved, deleted or replaced while it was being opened")
        self._handles.identity = after
        self._handles.by_process[os.getpid()] = _Handle(connection)
        # Whoever forgets to close gets no warning about a connection that he never saw.
        weakref.finalize(self, _close_own, self._handles)

    def _present_identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file that has the name now; None if there is none, or for memory."""
        if self.path == MEMORY:
            return None
        try:
            status = os.stat(self.path)  # noqa: PTH116 - called before every use: no Path is made for it
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(self.path, f"the system does not let us look at it: {system_reason(error)}") from error
        return status.st_dev, status.st_ino

    def _require_same_file(self) -> None:
        """Make sure that the name still leads to what was opened: nobody would find what is written elsewhere."""
        opened = self._handles.identity
        if opened is not None and self._present_identity() != opened:
            raise StorageMovedError(
                self.path,
                "it was moved, deleted or replaced since it was opened; nothing was written. See where it went before "
                "you open it again: where there is no file, a new one is made",
            )

    def _connect(self, mode: OpenMode) -> sqlite3.Connection:
        connection = connect(self.path, mode)
        try:
            connection.text_factory = decoded
            for pragma in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF"):
                self._patiently(lambda pragma=pragma: connection.execute(f"PRAGMA {pragma}"))  # type: ignore[misc]
        except BaseException:
            connection.close()
            raise
        return connection

    def _handle(self) -> _Handle:
        if self._handles.is_closed:
            raise StorageClosedError(self.path, "it was closed; open it again")
        handle = self._handles.by_process.get(os.getpid())
        if handle is not None:
            return handle
        if self.path == MEMORY:
            raise StorageError(MEMORY, "a database in memory stays with the process that made it")
        # After a fork: a connection of our own. The parent's is kept and left alone, as SQLite asks.
        return self._handles.by_process.setdefault(os.getpid(), _Handle(None))

    @contextlib.contextmanager
    def _using(self) -> Generator[tuple[_Handle, sqlite3.Connection]]:
        with self._named_errors():
            handle = self._handle()
            with handle.lock:
                self._require_same_file()
                if handle.connection is None:
                    handle.connection = self._connect("ro" if self.read_only else "rw")
                    self._require_same_file()
                yield handle, handle.connection

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Hold the connection for single reads (each its own snapshot)."""
        with self._using() as (_handle, connection):
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Generator[sqlite3.Connection]:
        """Hold the connection for several reads that all see the same moment; writers elsewhere wait meanwhile."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            # The first read takes the lock; those that follow cannot find the file busy.
            self._patiently(lambda: connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall())
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """Run a block as one transaction: all of it is stored when the block is left, or nothing."""
        self.require_writable()
        # IMMEDIATE takes the write lock at once: a transaction that reads first could not be retried later.
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    def require_writable(self) -> None:
        """Raise StorageReadOnlyError if the file was opened for reading only."""
        if self.read_only:
            raise StorageReadOnlyError(self.path, "it was opened for reading only")

    @contextlib.contextmanager
    def _transaction(self, begin: str, end: str) -> Generator[sqlite3.Connection]:
        with self._using() as (handle, connection):
            if handle.is_in_transaction:
                raise StorageError(self.path, "a change must not use the store that applies it")
            try:
                # Inside the try block, so that a Ctrl-C right behind it leaves no transaction open.
                handle.is_in_transaction = True
                if connection.in_transaction:  # a second Ctrl-C kept an earlier call from tidying up
                    connection.execute("ROLLBACK")
                self._patiently(lambda: connection.execute(begin))
                yield connection
                self._require_same_file()
                self._patiently(lambda: connection.execute(end))
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

    def fetch(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Return all rows of one query."""
        with self.reading() as connection:
            return self._patiently(lambda: connection.execute(sql, parameters).fetchall())

    def close(self) -> None:
        """Close this process's connection; closing twice is fine.

        A parent's connection is never closed in a child of a fork: that would roll back what the parent is writing.
        """
        _close_own(self._handles)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Repeat an action while another process holds the file, up to the stated wait."""
        is_hurrying = getattr(self._hurry, "is_on", False)
        deadline = time.monotonic() + (min(_HURRY_SECONDS, self.busy_timeout) if is_hurrying else self.busy_timeout)
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if _primary_code(error) not in _BUSY_CODES or time.monotonic() >= deadline:
                    raise
                time.sleep(_WAIT_SLICE)

    @contextlib.contextmanager
    def hurrying(self) -> Generator[None]:
        """Have this thread wait for other processes only a moment, within the block."""
        was_hurrying = getattr(self._hurry, "is_on", False)
        self._hurry.is_on = True
        try:
            yield
        finally:
            self._hurry.is_on = was_hurrying

    @contextlib.contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._named(error) from error
        except FaultyValueError as error:
            raise corrupt(self.path, error) from error
        except (OverflowError, UnicodeEncodeError, UnstorableValueError) as error:
            raise StorageError(self.path, f"a value cannot be stored: {error}") from error

    def _named(self, error: sqlite3.Error) -> StorageError:
        if isinstance(error, sqlite3.ProgrammingError) and self._handles.is_closed:  # by another thread, meanwhile
            return StorageClosedError(self.path, "it was closed; open it again")
        if _primary_code(error) in _BUSY_CODES:
            return StorageBusyError(
                self.path, f"another process kept it locked for more than {self.busy_timeout:g} seconds"
            )
        return storage_error(self.path, error)


def storage_error(path: str, error: sqlite3.Error) -> StorageError:
    """Return the library's error for an error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & _PRIMARY_CODE
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StorageMovedError(path, "it was moved, deleted or replaced since it was opened; open it again")
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return StorageReadOnlyError(path, "a change was cut short by a crash: open it once for writing, to undo that")
    if primary == sqlite3.SQLITE_READONLY:
        return StorageReadOnlyError(path, f"{error}; {_LOOK_ONLY}")
    if primary == sqlite3.SQLITE_FULL:
        return StorageFullError(path, f"{error}; make room and call again")
    if primary == sqlite3.SQLITE_NOTADB:
        return DatabaseNotOursError(path, "it is not an SQLite database; it was left as it was")
    is_lacking = primary == sqlite3.SQLITE_ERROR and str(error).startswith(("no such table", "no such column"))
    if primary == sqlite3.SQLITE_CORRUPT or is_lacking:
        return StorageCorruptError(path, f"the file is damaged ({error}); {_ADVICE}")
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and path != MEMORY:
        return _reason_of_the_system(path, error)
    return StorageError(path, str(error))


_LOOK_ONLY: Final = "to look at it only, give a TrainingManager storage=TrainingDataManager(path, read_only=True)"
_FULL_ERRNOS: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG")
    if hasattr(errno, name)  # Windows has no quota
)
_REFUSED_ERRNOS: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_PROBE_BYTES: Final = 64 * 1024


def _reason_of_the_system(path: str, error: sqlite3.Error) -> StorageError:
    """Find out why a file could not be opened, read or written: SQLite knows the system's reason, but keeps it."""
    # A change that was rolled back has left the file as small as it was: its size may tell nothing any more.
    is_write = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE
    if (limit := _file_size_limit()) is not None and (is_write or _size(path) + _PROBE_BYTES > limit):
        return StorageFullError(path, f"no file may be larger than {limit} bytes here ({error}); make room, call again")
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as refusal:
        return system_error(path, refusal)
    return StorageError(path, str(error))


def system_error(path: str, error: OSError) -> StorageError:
    """Return the library's error for the system's refusal to write a file."""
    reason = system_reason(error)
    if error.errno in _FULL_ERRNOS:
        return StorageFullError(path, f"{reason}; make room and call again")
    if error.errno in _REFUSED_ERRNOS:
        return StorageReadOnlyError(path, f"{reason}; {_LOOK_ONLY}")
    return StorageError(path, reason)


def _file_size_limit() -> int | None:
    try:
        import resource  # noqa: PLC0415 - Unix only
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _size(path: str) -> int:
    """Return the size that the file has, or its journal if that is larger; 0 where it cannot be seen."""
    sizes = [0]
    for name in (path, f"{path}-journal"):
        with contextlib.suppress(OSError):
            sizes.append(Path(name).stat().st_size)
    return max(sizes)


def decoded(text: bytes) -> str:
    """Return a stored text; a damaged one holds surrogates."""
    # A damaged text must not keep the sound rows around it from being read; the rules of the tables refuse it.
    return text.decode("utf-8", "surrogateescape")


def _close_own(handles: _Handles) -> None:
    """Close this process's connection; a parent's is left alone in the child of a fork."""
    handles.is_closed = True
    handle = handles.by_process.pop(os.getpid(), None)
    if handle is not None:
        with handle.lock:
            if handle.connection is not None:
                handle.connection.close()


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code; 0 where the error is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
