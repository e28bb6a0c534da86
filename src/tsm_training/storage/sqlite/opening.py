"""Recognising a database file, and making the tables of a new one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
import sqlite3
import uuid
from pathlib import Path
from typing import Final

from tsm_training.errors import (
    DatabaseNotOursError,
    SchemaTooNewError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)
from tsm_training.files import system_reason
from tsm_training.storage.sqlite.connection import SALVAGE, Database, connect
from tsm_training.storage.sqlite.copying import copy_database
from tsm_training.storage.sqlite.ownership import end_abandoned_sessions, has_leftovers
from tsm_training.storage.sqlite.refusing import refuse_odd_tables
from tsm_training.storage.sqlite.schema import (
    APPLICATION_ID,
    GUIDE_SCHEMA,
    GUIDE_TABLES,
    OWN_SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
)

__all__ = ["prepare", "recognise", "recognised_version"]


_ADDED_COLUMN: Final = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (\w+)")
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger("tsm_training")


def prepare(database: Database) -> None:
    """Recognise the file, make or upgrade its tables, and take in what others have left, in one transaction.

    Several processes may open a new path together: whoever comes second finds the work done.
    """
    with database.snapshot() as connection:
        version = recognised_version(connection, database.path)
        if version == SCHEMA_VERSION and not _has_news(connection, database.path):
            return
    with database.writing() as connection:
        version = recognised_version(connection, database.path)
        if version is None:
            _run(connection, GUIDE_SCHEMA + OWN_SCHEMA)
            _finish_tables(connection)
        elif version < SCHEMA_VERSION:
            _upgrade(connection, database.path, version)
        _adopt_rows_of_others(connection)
        end_abandoned_sessions(connection, database.path)


def recognise(database: Database) -> None:
    """Make sure, without changing anything, that the file can be used as it is.

    Raises:
        StorageReadOnlyError: its tables must be made or upgraded first.
        DatabaseNotOursError: it is something else.
        SchemaTooNewError: a newer version of this library wrote it.
    """
    with database.snapshot() as connection:
        version = recognised_version(connection, database.path)
    if version != SCHEMA_VERSION:
        found = "it is empty" if version is None else f"it has schema version {version}, not {SCHEMA_VERSION}"
        raise StorageReadOnlyError(database.path, f"{found}: open it once for writing, which makes it ready")


def recognised_version(connection: sqlite3.Connection, path: str) -> int | None:
    """Return the schema version of a file: None if it is new, 0 if an application that followed the guide made it.

    Raises:
        SchemaTooNewError: a newer version of this library wrote it.
        DatabaseNotOursError: it is something else.
    """
    # Read first, while the lock is held: it makes this connection see tables that another process has just made.
    tables = _tables(connection)
    refuse_odd_tables(connection, path)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID and 1 <= version <= SCHEMA_VERSION:
        return version
    if application_id == APPLICATION_ID and version < 1:
        raise StorageCorruptError(path, f"it has schema version {version}, which the library never writes; {SALVAGE}")
    if application_id == APPLICATION_ID:
        raise SchemaTooNewError(
            path, f"it has schema version {version}, this library knows {SCHEMA_VERSION}; upgrade the library"
        )
    if application_id != 0 or version != 0 or not _is_new_or_by_the_guide(connection, tables):
        raise DatabaseNotOursError(path, "it belongs to another application; it was left as it was")
    return 0 if tables else None


def _has_news(connection: sqlite3.Connection, path: str) -> bool:
    return _has_rows_of_others(connection) or has_leftovers(connection, path)


def _upgrade(connection: sqlite3.Connection, path: str, version: int) -> None:
    """Bring an older file to the present schema, step by step, after a copy of it was put beside it."""
    copy = _copy_beside(path, version)
    if version == 0:
        _run(connection, GUIDE_SCHEMA + OWN_SCHEMA)  # an application may have made some of the guide's tables only
    else:
        for step in range(version, SCHEMA_VERSION):
            _run(connection, UPGRADES[step])
    _finish_tables(connection, is_new=version == 0)
    _log.info("%s was upgraded from schema version %s to %s; as it was: %s", path, version, SCHEMA_VERSION, copy)


def _copy_beside(path: str, version: int) -> Path:
    """Write a copy of the database as it is, whole or not at all; an earlier copy is never replaced."""
    stem = f"{path}.schema-{version}"
    names = itertools.chain([f"{stem}.backup"], (f"{stem}.backup-{number}" for number in itertools.count(2)))
    final = next(Path(name) for name in names if not os.path.lexists(name))
    # A connection that is about to write cannot be copied from; one that only reads can, beside it.
    try:
        with contextlib.closing(connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM sqlite_schema").fetchall()
            copy_database(reader, final)
    except OSError as error:
        fault = StorageFullError if error.errno in _NO_ROOM else StorageError
        raise fault(path, f"no copy could be made of it before upgrading it: {system_reason(error)}") from error
    return final


def _tables(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND SUBSTR(name, 1, 7) <> 'sqlite_'"
    )
    return {name for (name,) in names}


def _is_new_or_by_the_guide(connection: sqlite3.Connection, tables: set[str]) -> bool:
    if not tables:
        return True
    if "training_examples" not in tables or not tables <= GUIDE_TABLES.keys():
        return False
    return all(_columns(connection, table) == GUIDE_TABLES[table] for table in tables)


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    return tuple(name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)))


_FOREIGN_EXAMPLES: Final = "FROM training_examples WHERE example_id NOT IN (SELECT example_id FROM example_files)"
_FOREIGN_SESSIONS: Final = "FROM training_sessions WHERE session_id NOT IN (SELECT session_id FROM session_details)"


def _has_rows_of_others(connection: sqlite3.Connection) -> bool:
    """Tell whether an application that knows the guide's tables only has written into them since."""
    queries = (f"SELECT EXISTS (SELECT 1 {rows})" for rows in (_FOREIGN_EXAMPLES, _FOREIGN_SESSIONS))
    return any(connection.execute(query).fetchone()[0] for query in queries)


def _adopt_rows_of_others(connection: sqlite3.Connection) -> None:
    """Give rows that only the guide's tables know their place behind ours, in the order in which they were written."""
    connection.execute(f"INSERT INTO example_files (example_id) SELECT example_id {_FOREIGN_EXAMPLES} ORDER BY rowid")
    connection.execute(
        "INSERT INTO session_details (session_id, details) "
        f"SELECT session_id, '{{}}' {_FOREIGN_SESSIONS} ORDER BY rowid"
    )


def _run(connection: sqlite3.Connection, schema: str) -> None:
    # One statement at a time: executescript() would end the transaction first.
    for statement in schema.split(";\n"):
        added = _ADDED_COLUMN.search(statement)
        is_done = added is not None and added[2] in _columns(connection, added[1])
        if statement.strip() and not is_done:
            connection.execute(statement)


def _finish_tables(connection: sqlite3.Connection, *, is_new: bool = True) -> None:
    if is_new:
        connection.execute("INSERT INTO learning_version VALUES (?, 0)", (uuid.uuid4().hex,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
