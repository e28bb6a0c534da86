"""Knowing which sessions are running: their process holds a lock that the system lets go of when the process dies."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
import sqlite3
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import attrs

from tsm_training.storage.sqlite.connection import MEMORY, connect
from tsm_training.storage.sqlite.network import is_on_network

__all__ = ["ABANDONED", "SessionOwnership", "end_abandoned_sessions", "has_leftovers", "is_abandoned"]

_log = logging.getLogger("tsm_training")

ABANDONED: Final = "no process runs it any more"
"""What is noted as the error of a session that was found without its process."""

_ENDING: Final = ".running"
_DIGITS: Final = 16


# Beside the database there is a small file per running session, locked by a SQLite connection of its own. A process id
# would not do: ids are given out again, and the processes of a container have others than those of its host. A lock by
# other means would not do either: SQLite's work on every system, are not inherited by the children of a fork, and do
# not disturb each other within one process.


@attrs.frozen
class _Mark:
    """The locked file of one session."""

    path: Path
    connection: sqlite3.Connection

    def give_back(self) -> None:
        self.connection.close()
        with contextlib.suppress(OSError):  # somebody has tidied up already, or holds it open (Windows)
            self.path.unlink()


def _mark_path(database: str, session_id: str) -> Path:
    """Return where a session's mark is; ids may hold characters that file names must not."""
    return Path(f"{database}-{hashlib.sha256(session_id.encode()).hexdigest()[:_DIGITS]}{_ENDING}")


def _lock(path: Path) -> _Mark | None:
    """Lock a mark, making it if there is none; None if somebody holds it, or something else has its name."""
    try:
        with contextlib.ExitStack() as undo:
            connection = connect(str(path))
            undo.callback(connection.close)
            connection.execute("BEGIN EXCLUSIVE")
            undo.pop_all()
            return _Mark(path, connection)
    except sqlite3.DatabaseError:
        return None


def _made(path: Path) -> _Mark:
    mark = _lock(path)
    if mark is None:
        raise sqlite3.OperationalError(f"the file {path.name!r} cannot be locked")
    return mark


@attrs.frozen(eq=False)
class SessionOwnership:
    """The marks of the sessions that this process runs in one database.

    A mark is made and judged only by whoever holds the database's write lock, and removed only after the session's end
    is committed: nobody can take a session that is just beginning or ending for one whose process has died.

    Args:
        database: The absolute path of the database, or ``":memory:"``, where no other process can look.
    """

    database: str
    _marks: dict[tuple[int, str], _Mark] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        weakref.finalize(self, _let_go, self._marks)

    @contextlib.contextmanager
    def beginning(self, session_id: str) -> Generator[Callable[[sqlite3.Connection], None]]:
        """Give a function that notes, in a transaction within this block, that this process runs a session.

        Where the block ends with an error, the session never began.

        Raises (when the function is called):
            sqlite3.Error: the mark cannot be made.
        """
        is_marked = False

        def mark(connection: sqlite3.Connection) -> None:
            nonlocal is_marked
            if self.database != MEMORY:
                self._marks[os.getpid(), session_id] = _made(_mark_path(self.database, session_id))
                is_marked = True
                row = (session_id, platform.node(), os.getpid())
                connection.execute("INSERT INTO running_sessions VALUES (?, ?, ?)", row)

        try:
            yield mark
        except BaseException:
            if is_marked:
                self.release(session_id)
            raise

    def release(self, session_id: str) -> None:
        """Remove the mark of a session that has ended, or never began."""
        mark = self._marks.pop((os.getpid(), session_id), None)
        if mark is not None:
            mark.give_back()

    def abandon(self, session_id: str) -> None:
        """Let go of the mark of a session that still says "running", for whoever looks next to find."""
        mark = self._marks.pop((os.getpid(), session_id), None)
        if mark is not None and Path(self.database).exists():
            mark.connection.close()
        elif mark is not None:  # the database was deleted or moved: nobody will look
            mark.give_back()

    def release_all(self) -> None:
        """Let go of everything that this process holds; its sessions that have not ended are then found abandoned."""
        _let_go(self._marks)


def _let_go(marks: dict[tuple[int, str], _Mark]) -> None:
    """Close this process's marks; their files stay for the next opening to find. A parent's are left alone."""
    for key in [key for key in marks if key[0] == os.getpid()]:
        marks.pop(key).connection.close()


def has_leftovers(connection: sqlite3.Connection, database: str | None = None) -> bool:
    """Tell whether there is anything that `end_abandoned_sessions` should look at.

    Marks without a session are looked for only where the path of the database is given.
    """
    rows = connection.execute("SELECT EXISTS (SELECT 1 FROM running_sessions)").fetchone()
    return bool(rows[0]) or (database is not None and bool(_mark_files(database)))


def end_abandoned_sessions(connection: sqlite3.Connection, database: str) -> None:
    """Mark the sessions whose process has died as interrupted, within a transaction.

    A session that runs elsewhere is left alone: its process holds its mark. Where the folder may be on a network, whose
    locks cannot be relied on, sessions of other hosts are never judged.

    Their marks are removed at once: were the transaction rolled back, the next one would find sessions without a mark,
    which have no process either.
    """
    judges_all = is_on_network(database) is False
    sessions: list[tuple[str, str]] = connection.execute("SELECT session_id, host FROM running_sessions").fetchall()
    spared = set()
    for session_id, host in sessions:
        path = _mark_path(database, session_id)
        if (judges_all or host == platform.node()) and not _is_held(path):
            _mark_as_interrupted(connection, session_id)
        else:
            spared.add(path)
    # Besides, a process that was killed while it began a session has left a mark without one.
    for path in _mark_files(database):
        if path not in spared and not _is_held(path):
            with contextlib.suppress(OSError):  # somebody has something of that name open (Windows)
                path.unlink()


def is_abandoned(database: str, session_id: str, host: str) -> bool:
    """Tell, without changing anything, whether the process that ran a session has died."""
    may_judge = host == platform.node() or is_on_network(database) is False
    return may_judge and not _is_held(_mark_path(database, session_id))


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    mark = _lock(path)
    if mark is None:
        return True
    mark.connection.close()
    return False


def _mark_as_interrupted(connection: sqlite3.Connection, session_id: str) -> None:
    connection.execute(
        "UPDATE training_sessions SET status = 'interrupted' WHERE session_id = ? AND status = 'running'", (session_id,)
    )
    connection.execute(
        "UPDATE session_details SET details = json_set(details, '$.error', ?) "
        "WHERE session_id = ? AND json_valid(details)",
        (ABANDONED, session_id),
    )
    connection.execute("DELETE FROM running_sessions WHERE session_id = ?", (session_id,))
    _log.warning(
        "training session %s was interrupted: %s; its evaluations are kept: call train() again to go on",
        session_id,
        ABANDONED,
    )


def _mark_files(database: str) -> list[Path]:
    folder, name = os.path.split(database)
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{_DIGITS}}}{re.escape(_ENDING)}")
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:
        return []
