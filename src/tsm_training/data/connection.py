"""One SQLite connection: opened carefully, written to in immediate transactions, its errors named."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
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


@attrs.frozen(eq=False)
class Database:
    """A SQLite file that several threads, and the children of a fork, may use.

    Args:
        path: Absolute, or ``":memory:"``.
        busy_timeout: For how many seconds to wait while another process holds the file.
    """

    path: str
    busy_timeout: float
    _handles: dict[int, _Handle] = attrs.field(factory=dict, init=False, repr=False)

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
            self._handles[os.getpid()] = _Handle(self._connect())

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
        handle = self._handles.get(os.getpid())
        if handle is not None:
            return handle
        if not self._handles:
            raise StorageClosedError(self.path, "it was closed")
        if self.path == MEMORY:
            raise StorageError(MEMORY, "a database in memory stays with the process that made it")
        # After a fork: a connection of our own. The parent's is kept and left alone, as SQLite asks.
        handle = self._handles[os.getpid()] = _Handle(self._connect())
        return handle

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for single reads (each its own snapshot)."""
        with self._named_errors():
            handle = self._handle()
            with handle.lock:
                yield handle.connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one transaction: all of it is stored when the block is left, or nothing."""
        with self._named_errors():
            handle = self._handle()
            with handle.lock:
                connection = handle.connection
                # IMMEDIATE takes the write lock at once: a transaction that reads first could not be retried later.
                self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
                try:
                    yield connection
                    self._patiently(lambda: connection.execute("COMMIT"))
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    def fetch(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Return all rows of one query."""
        with self.reading() as connection:
            return self._patiently(lambda: connection.execute(sql, parameters).fetchall())

    def close(self) -> None:
        """Close this process's connection; closing twice is fine."""
        handle = self._handles.pop(os.getpid(), None)
        self._handles.clear()
        if handle is not None:
            with handle.lock:
                handle.connection.close()

    def _patiently(self, action: Callable[[], T]) -> T:
        """Repeat an action while another process holds the file, up to the stated wait."""
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
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
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code in _BUSY_CODES:
            return StorageBusyError(
                self.path, f"another process kept it locked for more than {self.busy_timeout:g} seconds"
            )
        if code == sqlite3.SQLITE_NOTADB:
            return DatabaseNotOursError(self.path, "it is not an SQLite database; it was left as it was")
        if code == sqlite3.SQLITE_CORRUPT:
            return StorageCorruptError(self.path, f"the file is damaged ({error}); restore a backup, do not delete it")
        return StorageError(self.path, str(error))


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & _PRIMARY_CODE in _BUSY_CODES
