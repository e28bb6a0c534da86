"""One SQLite connection: opened carefully, written to in immediate transactions, its errors named."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import attrs

from tsm_training.errors import (
    DatabaseNotOursError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
)

__all__ = ["MEMORY", "Database"]

T = TypeVar("T")

MEMORY: Final = ":memory:"
_WAIT_SLICE: Final = 0.05  # seconds; short, so that Ctrl-C is heard while waiting
_PRIMARY_CODE: Final = 0xFF
_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@attrs.define(eq=False)
class _Handle:
    """A connection and the lock that keeps two threads from using it at once; one per process."""

    connection: sqlite3.Connection
    lock: threading.RLock = attrs.field(factory=threading.RLock)


@attrs.define(eq=False)
class _Handles:
    """The connections by process id: after a fork there is one of the parent's too, which only keeps it alive."""

    by_process: dict[int, _Handle] = attrs.field(factory=dict)
    is_closed: bool = False


@attrs.frozen(eq=False)
class Database:
    """A SQLite file that several threads, and the children of a fork, may use.

    Args:
        path: Absolute, or ``":memory:"``.
        busy_timeout: For how many seconds to wait while another process holds the file.
    """

    path: str
    busy_timeout: float
    _handles: _Handles = attrs.field(factory=_Handles, init=False, repr=False)

    def open(self) -> None:
        """Connect now, so that a wrong path is told at once.

        Raises:
            StorageError: the folder is missing, or the file cannot be opened.
        """
        if self.path != MEMORY:
            file = Path(self.path)
            if not file.parent.is_dir():
                raise StorageError(self.path, f"the folder {str(file.parent)!r} does not exist")
            if file.is_dir():
                raise StorageError(self.path, "it is a folder")
        with self._named_errors():
            self._handles.by_process[os.getpid()] = _Handle(self._connect())
        # Whoever forgets to close gets no warning about a connection that he never saw.
        weakref.finalize(self, _close_own, self._handles)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF"):
                self._patiently(lambda pragma=pragma: connection.execute(f"PRAGMA {pragma}"))  # type: ignore[misc]
        except BaseException:
            connection.close()
            raise
        return connection

    def _handle(self) -> _Handle:
        if self._handles.is_closed:
            raise StorageClosedError(self.path, "it was closed")
        handle = self._handles.by_process.get(os.getpid())
        if handle is not None:
            return handle
        if self.path == MEMORY:
            raise StorageError(MEMORY, "a database in memory stays with the process that made it")
        # After a fork: a connection of our own. The parent's is kept and left alone, as SQLite asks.
        handle = self._handles.by_process[os.getpid()] = _Handle(self._connect())
        return handle

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for single reads (each its own snapshot)."""
        with self._named_errors():
            handle = self._handle()
            with handle.lock:
                yield handle.connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for several reads that all see the same moment; writers elsewhere wait meanwhile."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            # The first read takes the lock; those that follow cannot find the file busy.
            self._patiently(lambda: connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall())
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one transaction: all of it is stored when the block is left, or nothing."""
        # IMMEDIATE takes the write lock at once: a transaction that reads first could not be retried later.
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[sqlite3.Connection]:
        with self.reading() as connection:
            if connection.in_transaction:
                raise StorageError(self.path, "a change must not use the store that applies it")
            try:
                # Inside the try block, so that a Ctrl-C right behind it leaves no transaction open.
                self._patiently(lambda: connection.execute(begin))
                yield connection
                self._patiently(lambda: connection.execute(end))
            except BaseException:
                _roll_back(connection)
                raise

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
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if _primary_code(error) not in _BUSY_CODES or time.monotonic() >= deadline:
                    raise
                time.sleep(_WAIT_SLICE)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._named(error) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise StorageError(self.path, f"a value cannot be stored: {error}") from error

    def _named(self, error: sqlite3.Error) -> StorageError:
        code = _primary_code(error)
        if code in _BUSY_CODES:
            return StorageBusyError(
                self.path, f"another process kept it locked for more than {self.busy_timeout:g} seconds"
            )
        if code == sqlite3.SQLITE_NOTADB:
            return DatabaseNotOursError(self.path, "it is not an SQLite database; it was left as it was")
        if code == sqlite3.SQLITE_CORRUPT:
            return StorageCorruptError(self.path, f"the file is damaged ({error}); restore a backup, do not delete it")
        if isinstance(error, sqlite3.ProgrammingError) and self._handles.is_closed:  # by another thread, meanwhile
            return StorageClosedError(self.path, "it was closed")
        if isinstance(error, sqlite3.OperationalError) and code == 0:  # Python's own: text that is not UTF-8
            return StorageCorruptError(self.path, f"a text is damaged ({error})")
        return StorageError(self.path, str(error))


def _close_own(handles: _Handles) -> None:
    """Close this process's connection; a parent's is left alone in the child of a fork."""
    handles.is_closed = True
    handle = handles.by_process.pop(os.getpid(), None)
    if handle is not None:
        with handle.lock:
            handle.connection.close()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # some errors have ended it already
        connection.execute("ROLLBACK")


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code; 0 where the error is Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
