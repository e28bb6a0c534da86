"""Copies of a database that a user asks for: where they may go, and what can go wrong."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from tsm_training.errors import InvalidArgumentError, StorageError, StorageExistsError
from tsm_training.storage.sqlite.connection import MEMORY, storage_error, system_error
from tsm_training.storage.sqlite.copying import copy_database

__all__ = ["checked_destination", "write_copy"]

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
    _require_free(final, overwrite=overwrite)
    for companion in (Path(f"{final}{ending}") for ending in _COMPANIONS):
        if os.path.lexists(companion):
            # SQLite would take it for the journal of the copy, and apply it.
            raise StorageError(
                str(final), f"{companion.name!r} lies beside it, left by another database; remove it first"
            )
    return final


def _require_free(path: Path, *, overwrite: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long, say
        raise system_error(str(path), error) from error
    if not stat.S_ISREG(mode):
        raise StorageError(str(path), "it is no regular file")
    if not overwrite:
        raise StorageExistsError(str(path), "there is a file already; pass overwrite=True to replace it")


def _is_part_of(path: Path, database: str) -> bool:
    own = os.path.realpath(database)
    if str(path) in {own, *(f"{own}{ending}" for ending in _COMPANIONS)}:
        return True
    with contextlib.suppress(OSError):
        return path.samefile(own)  # by another hard link
    return False


def write_copy(connection: sqlite3.Connection, destination: Path) -> None:
    """Write what a connection sees to a file, whole or not at all; see `copy_database`.

    Raises:
        StorageError: the copy cannot be written; what was there before is untouched.
        sqlite3.Error: the database cannot be read.
    """
    try:
        copy_database(connection, destination)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_SOURCE:
            raise
        raise storage_error(str(destination), error) from error
    except OSError as error:
        raise system_error(str(destination), error) from error
