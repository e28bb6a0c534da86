"""Letting a process fork only while none of certain locks is held.

A lock that another thread holds at that moment stays locked in the child for ever. A connection in use is worse: SQLite
remembers in memory which locks the process holds on a file, and a child inherits that memory, but not the locks. Told
that somebody in its process is writing, it could never write itself; told that somebody is reading, it would read
without a lock. So a fork waits until everybody is done, which takes milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Generator
from typing import Final, Protocol, TypeVar

__all__ = ["alone_at_first", "guard_forks"]

_PATIENCE: Final = 10.0  # seconds; rather a fork too early than one that never comes


class _Lock(Protocol):
    """What `threading.Lock` and `threading.RLock` return."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...


L = TypeVar("L", bound=_Lock)


class _Guard:
    """The guarded locks of this process, and those that a fork in progress holds."""

    def __init__(self) -> None:
        self._locks: weakref.WeakSet[_Lock] = weakref.WeakSet()
        self._change = threading.Lock()
        self._held: list[_Lock] = []
        self._is_hooked = False

    def add(self, lock: _Lock) -> None:
        with self._change:
            self._locks.add(lock)
            if not self._is_hooked and hasattr(os, "register_at_fork"):  # Windows does not fork
                os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._let_go)
                self._is_hooked = True

    def _hold(self) -> None:
        self._change.acquire()
        self._held = [lock for lock in self._locks if lock.acquire(timeout=_PATIENCE)]

    def _let_go(self) -> None:
        # The thread that forks goes on in the child under the same name, so it may release there what it holds.
        for lock in self._held:
            lock.release()
        self._held = []
        self._change.release()


_GUARD: Final = _Guard()


def guard_forks(lock: L) -> L:
    """Have every fork of this process wait until nobody holds this lock, and return it; it is remembered weakly."""
    _GUARD.add(lock)
    return lock


_first: Final = guard_forks(threading.RLock())
_done: Final[set[str]] = set()


@contextlib.contextmanager
def alone_at_first(what: str) -> Generator[None]:
    """Have no fork happen while something is done for the first time in this process.

    OpenCV makes tables when a conversion is first asked for, under a lock of its own. A child that is forked in these
    100 ms inherits the lock, and its first conversion waits for ever.
    """
    if what in _done:
        yield
        return
    with _first:
        yield
    _done.add(what)
