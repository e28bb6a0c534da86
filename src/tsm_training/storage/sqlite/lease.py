"""Knowing which sessions are running: their process renews a lease, and a process of this machine can be looked for."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from tsm_training.storage.sqlite.rows import insertion

_log = logging.getLogger("tsm_training")

ABANDONED: Final = "no process runs it any more"
"""What is noted as the error of a session that was found without its process."""

LEASE_SECONDS: Final = 60.0
_PROC: Final = Path("/proc")
_START_FIELD: Final = 19  # of what follows the process's name in /proc/<id>/stat


@cache
def _machine() -> tuple[str, str]:
    """Return this host's name, and what tells its present run, and a container in it, from others; empty if unknown."""
    with contextlib.suppress(OSError):
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return platform.node(), f"{boot_id} {(_PROC / 'self/ns/pid').readlink()}"
    return platform.node(), ""


def _process_start(process_id: int) -> str | None:
    """Return what tells a living process from a later one of the same number: empty if unknown, None for a dead one."""
    try:
        state, *fields = (_PROC / str(process_id) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None if (_PROC / "self/stat").exists() else _start_without_proc(process_id)
    return None if state in "ZX" else fields[_START_FIELD - 1]


def _start_without_proc(process_id: int) -> str | None:
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        return ""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return None
    except OSError:  # somebody else's
        return ""
    return ""


def lease_row(session_id: str, now: datetime, seconds: float = LEASE_SECONDS) -> tuple[object, ...]:
    """Return what `running_sessions` holds of a session that this process runs: a lease for so many seconds."""
    own = (*_machine(), os.getpid(), _process_start(os.getpid()) or "")
    return (session_id, *own, (now + timedelta(seconds=seconds)).isoformat())


def is_lost(row: Sequence[Any], now: datetime) -> bool:
    """Tell whether a session has lost its process.

    Args:
        row: What `running_sessions` holds of it: host, boot_id, process_id, process_start, expires_at.
        now: By the clock that the lease was given by.
    """
    host, boot_id, process_id, start, expires_at = row
    if datetime.fromisoformat(expires_at) <= now:
        return True
    return (host, boot_id) == _machine() and _process_start(process_id) != start


_LEASES: Final = (
    "SELECT session_id, host, boot_id, process_id, process_start, expires_at FROM running_sessions ORDER BY session_id"
)


def has_lost_sessions(connection: sqlite3.Connection) -> bool:
    """Tell whether there is anything that `end_lost_sessions` would change."""
    now = datetime.now(UTC)
    return any(is_lost(row, now) for _session_id, *row in connection.execute(_LEASES).fetchall())


def end_lost_sessions(connection: sqlite3.Connection, path: str) -> list[str]:
    """Mark the sessions that have lost their process as interrupted, within a transaction, and return their ids."""
    ended = []
    for session_id, *row in connection.execute(_LEASES).fetchall():
        if not is_lost(row, datetime.now(UTC)):
            continue
        connection.execute(
            "UPDATE training_sessions SET status = 'interrupted' WHERE session_id = ? AND status = 'running'",
            (session_id,),
        )
        connection.execute(
            "UPDATE session_details SET details = json_set(details, '$.error', ?) WHERE session_id = ?",
            (ABANDONED, session_id),
        )
        connection.execute("DELETE FROM running_sessions WHERE session_id = ?", (session_id,))
        ended.append(session_id)
        log_interruption(path, session_id)
    return ended


def log_interruption(location: str, session_id: str) -> None:
    """Say that a session was found without its process."""
    _log.warning(
        "%s: training session %s was interrupted: %s; its evaluations are kept: call train() again to go on",
        location,
        session_id,
        ABANDONED,
    )


def begin_lease(connection: sqlite3.Connection, session_id: str) -> None:
    """Note, within a transaction, that this process runs a session."""
    connection.execute(insertion("running_sessions", "INSERT OR REPLACE"), lease_row(session_id, datetime.now(UTC)))


def renew_leases(connection: sqlite3.Connection, session_ids: list[str]) -> None:
    """Have the leases of sessions that this process runs begin anew, within a transaction.

    A session that was taken for dead runs again; one that has ended stays as it is.
    """
    for session_id in session_ids:
        expires_at = lease_row(session_id, datetime.now(UTC))[-1]
        cursor = connection.execute(
            "UPDATE running_sessions SET expires_at = ? WHERE session_id = ?", (expires_at, session_id)
        )
        if cursor.rowcount == 1:
            continue
        cursor = connection.execute(
            "UPDATE training_sessions SET status = 'running' WHERE session_id = ? AND status = 'interrupted' AND "
            "(SELECT json_extract(details, '$.error') FROM session_details d WHERE d.session_id = ?) = ?",
            (session_id, session_id, ABANDONED),
        )
        if cursor.rowcount == 1:
            connection.execute(
                "UPDATE session_details SET details = json_set(details, '$.error', NULL) WHERE session_id = ?",
                (session_id,),
            )
            begin_lease(connection, session_id)


def give_up_leases(connection: sqlite3.Connection, session_ids: list[str]) -> None:
    """Say, within a transaction, that nobody runs these sessions any more."""
    connection.executemany(
        "UPDATE running_sessions SET expires_at = ? WHERE session_id = ?",
        [(datetime.now(UTC).isoformat(), session_id) for session_id in session_ids],
    )


class Renewals:
    """The sessions that a store runs, by id: the process that does, and when (monotonic seconds) a lease was renewed.

    Args:
        seconds: How long a lease lasts.
    """

    def __init__(self, seconds: float = LEASE_SECONDS) -> None:
        self._interval = seconds / 6
        self._silence = seconds / 2
        self._known: dict[str, tuple[int, float, float]] = {}
        """The last figure is when the lease was to be renewed, whether that was necessary or not."""

    def begin(self, session_id: str, ended: Collection[str]) -> None:
        """Note that a session has begun, and which ones were taken for dead then: who still runs one asks to renew."""
        self._known[session_id] = os.getpid(), time.monotonic(), time.monotonic()
        for lost in self._known.keys() & set(ended):
            self._known[lost] = os.getpid(), 0.0, -self._silence

    def is_due(self, session_id: str) -> bool:
        """Note that a lease is to be renewed, and tell whether it is time to."""
        process_id, renewed, _asked = self._known.get(session_id, (0, 0.0, 0.0))
        if process_id != os.getpid() or time.monotonic() - renewed >= self._interval:
            return True
        self._known[session_id] = process_id, renewed, time.monotonic()
        return False

    def renew(self, session_id: str) -> None:
        """Note that the lease of a session that this store runs was renewed because somebody asked for it."""
        if session_id in self._known:
            self._known[session_id] = os.getpid(), time.monotonic(), time.monotonic()

    def renew_all(self, session_ids: Collection[str]) -> None:
        """Note that leases were renewed beside something else."""
        for session_id in session_ids:
            if (known := self._known.get(session_id)) is not None:  # it may have ended in another thread
                self._known[session_id] = os.getpid(), time.monotonic(), known[-1]

    def end(self, session_id: str) -> None:
        """Forget a session."""
        self._known.pop(session_id, None)

    def running(self) -> list[str]:
        """Return which sessions this store runs, in this process: not those of the parent of a fork.

        One that nobody has asked to renew for a while has ended, and its end could not be stored.
        """
        now, own, known = time.monotonic(), os.getpid(), list(self._known.items())
        return [name for name, (process_id, _, asked) in known if process_id == own and now - asked < self._silence]
