"""Copying a database while others use it."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
from pathlib import Path

from tsm_training.files import sync_folder
from tsm_training.storage.sqlite.connection import connect

__all__ = ["copy_database"]


def copy_database(connection: sqlite3.Connection, destination: Path) -> None:
    """Write what a connection sees to a file of its own: whole and on the disk, or not at all.

    The connection has an open transaction that has read and not written: it holds the lock that SQLite's backup would
    otherwise wait for without end. The copy is made beside `destination` and then takes its name; a file that is there
    already is replaced.

    Raises:
        sqlite3.Error: the database cannot be read, or the copy not be written.
        OSError: the copy cannot be given its name.
    """
    temporary = destination.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with contextlib.closing(connect(str(temporary))) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # it is thrown away if anything fails
            connection.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if (mode := _mode(destination)) is not None:
            temporary.chmod(mode)
        temporary.replace(destination)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(destination.parent)


def _mode(path: Path) -> int | None:
    """Return the permissions of the file that will be replaced; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    return None
