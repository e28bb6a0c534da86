"""Copying a database while others use it, and the copies that a user asks for."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import uuid
from pathlib import Path
from typing import Final

from tsm_training.errors import InvalidArgumentError, StorageError, StorageExistsError
from tsm_training.files import sync_folder
from tsm_training.storage.sqlite.connection import MEMORY, connect, primary_code, storage_error, system_error

_COMPANIONS: Final = ("-journal", "-wal", "-shm")
_OF_THE_SOURCE: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)


def checked_destination(path: str, database: str, *, overwrite: bool) -> Path:
    """Return where a copy of a database goes: an absolute path without links.

    Raises:
        InvalidArgumentError: this is the database itself, or one of the files that belong to it.
        StorageExistsError: there is a file already that must not be overwritten.
        StorageError: there is no such folder, or something else than a file.
    """
    if path == MEMORY or path.startswith("file:"):
        raise InvalidArgumentError("path", path, "a plain path of a file")
    final = Path(os.path.realpath(Path(path).expanduser()))
    if database != MEMORY and _is_part_of(final, database):
        raise InvalidArgumentError("path", path, "another file than the database itself or its journal")
    if not final.parent.is_dir():
        raise StorageError(str(final), f"the folder {str(final.parent)!r} does not exist")
    try:
        if (mode := _mode(final)) is not None and not stat.S_ISREG(mode):
            raise StorageError(str(final), "it is no regular file")
    except OSError as error:  # a name that is too long, say
        raise system_error(str(final), error) from error
    if mode is not None and not overwrite:
        raise StorageExistsError(str(final), "there is a file already; pass overwrite=True to replace it")
    for companion in (Path(f"{final}{ending}") for ending in _COMPANIONS):
        if os.path.lexists(companion):
            # SQLite would take it for the journal of the copy, and apply it.
            raise StorageError(
                str(final), f"{companion.name!r} lies beside it, left by another database; remove it first"
            )
    return final


def _is_part_of(path: Path, database: str) -> bool:
    own = os.path.realpath(database)
    if str(path) in {own, *(f"{own}{ending}" for ending in _COMPANIONS)}:
        return True
    with contextlib.suppress(OSError):
        return path.samefile(own)  # by another hard link
    return False


def _mode(path: Path) -> int | None:
    """Return the type and permissions of a file; None if there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def copy_database(connection: sqlite3.Connection, destination: Path) -> None:
    """Write what a connection sees to a file of its own: whole and on the disk, or not at all.

    The connection has an open transaction that has read and not written: it holds the lock that SQLite's backup would
    otherwise wait for without end. The copy is made beside `destination` and then takes its name; a file that is there
    already is replaced.

    Raises:
        StorageError: the copy cannot be written; what was there before is untouched.
        sqlite3.Error: the database cannot be read.
    """
    temporary = destination.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.closing(connect(str(temporary))) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # it is thrown away if anything fails
            connection.backup(copy)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if (mode := _mode(destination)) is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(destination)
        sync_folder(destination.parent)
    except sqlite3.Error as error:
        if primary_code(error) in _OF_THE_SOURCE:
            raise
        raise storage_error(str(destination), error) from error
    except OSError as error:
        raise system_error(str(destination), error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
