"""Knowing which sessions are running: their process renews a lease, and a process of this machine can be looked for."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from tsm_training.storage.sqlite.rows import insertion

_log = logging.getLogger("tsm_training")

ABANDONED: Final = "no process runs it any more"
"""What is noted as the error of a session that was found without its process."""

_LEASE: Final = timedelta(seconds=60)
_PROC: Final = Path("/proc")
_START_FIELD: Final = 19  # of what follows the process's name in /proc/<id>/stat


def _expiry() -> str:
    return (datetime.now(UTC) + _LEASE).isoformat()


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


def is_lost(row: Sequence[Any]) -> bool:
    """Tell whether a session has lost its process.

    Args:
        row: What `running_sessions` holds of it: host, boot_id, process_id, process_start, expires_at.
    """
    host, boot_id, process_id, start, expires_at = row
    if datetime.fromisoformat(expires_at) <= datetime.now(UTC):
        return True
    return (host, boot_id) == _machine() and _process_start(process_id) != start


_LEASES: Final = (
    "SELECT session_id, host, boot_id, process_id, process_start, expires_at FROM running_sessions ORDER BY session_id"
)


def has_lost_sessions(connection: sqlite3.Connection) -> bool:
    """Tell whether there is anything that `end_lost_sessions` would change."""
    return any(is_lost(row) for _session_id, *row in connection.execute(_LEASES).fetchall())


def end_lost_sessions(connection: sqlite3.Connection, path: str) -> list[str]:
    """Mark the sessions that have lost their process as interrupted, within a transaction, and return their ids."""
    ended = []
    for session_id, *row in connection.execute(_LEASES).fetchall():
        if not is_lost(row):
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
        _log.warning(
            "%s: training session %s was interrupted: %s; its evaluations are kept: call train() again to go on",
            path,
            session_id,
            ABANDONED,
        )
    return ended


def begin_lease(connection: sqlite3.Connection, session_id: str) -> None:
    """Note, within a transaction, that this process runs a session."""
    host, boot_id = _machine()
    connection.execute(
        insertion("running_sessions", "INSERT OR REPLACE"),
        (session_id, host, boot_id, os.getpid(), _process_start(os.getpid()) or "", _expiry()),
    )


def renew_leases(connection: sqlite3.Connection, session_ids: list[str]) -> None:
    """Have the leases of sessions that this process runs begin anew, within a transaction.

    A session that was taken for dead runs again; one that has ended stays as it is.
    """
    for session_id in session_ids:
        cursor = connection.execute(
            "UPDATE running_sessions SET expires_at = ? WHERE session_id = ?", (_expiry(), session_id)
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
