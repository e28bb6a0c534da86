"""Recognising a database file, making the tables of a new one, and taking in what others have left."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Final

from tsm_training.errors import DatabaseNotOursError, SchemaTooNewError, StorageError, StorageReadOnlyError
from tsm_training.storage.sqlite.backup import copy_database
from tsm_training.storage.sqlite.connection import Database, connect
from tsm_training.storage.sqlite.lease import end_lost_sessions, has_lost_sessions
from tsm_training.storage.sqlite.schema import (
    APPLICATION_ID,
    COLUMNS,
    GUIDE_SCHEMA,
    OWN_SCHEMA,
    SCHEMA_VERSION,
    UPGRADES,
)

_log = logging.getLogger("tsm_training")


def prepare(database: Database) -> None:
    """Recognise the file, make or upgrade its tables, and take in what others have left, in one transaction.

    Several processes may open a new path together: the second one finds the work done.
    """
    with database.snapshot() as connection:
        if is_ready(connection, database.path):
            return
    with database.writing() as connection:
        make_ready(connection, database.path)


def is_ready(connection: sqlite3.Connection, path: str) -> bool:
    """Tell whether there is nothing that `make_ready` would change; errors are those of `recognise`."""
    is_current = _recognised_version(connection, path) == SCHEMA_VERSION
    return is_current and not _has_rows_of_others(connection) and not has_lost_sessions(connection)


def make_ready(connection: sqlite3.Connection, path: str) -> None:
    """Do, within a transaction, what `prepare` says."""
    version = _recognised_version(connection, path)
    if version is None:
        _run(connection, GUIDE_SCHEMA + OWN_SCHEMA)
    elif version < SCHEMA_VERSION:
        copy = _copy_beside(path, version)
        _run(connection, UPGRADES[version])
        _log.info("%s was upgraded to schema version %s; as it was: %s", path, SCHEMA_VERSION, copy)
    if version != SCHEMA_VERSION:
        connection.execute("INSERT OR IGNORE INTO store_identity VALUES (1, ?, '')", (uuid.uuid4().hex,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    _adopt_rows_of_others(connection)
    end_lost_sessions(connection, path)


def recognise(database: Database) -> None:
    """Make sure, without changing anything, that the file can be used as it is.

    Raises:
        StorageReadOnlyError: its tables must be made or upgraded first.
        DatabaseNotOursError: it is something else.
        SchemaTooNewError: a newer version of this library wrote it.
    """
    with database.snapshot() as connection:
        require_ready(connection, database.path)


def require_ready(connection: sqlite3.Connection, path: str) -> None:
    """Do what `recognise` says."""
    version = _recognised_version(connection, path)
    if version != SCHEMA_VERSION:
        found = "it is empty" if version is None else "an application made it by the guide"
        raise StorageReadOnlyError(path, f"{found}: open it once for writing, which makes it ready")


def _recognised_version(connection: sqlite3.Connection, path: str) -> int | None:
    """Return the schema version of a file: None if it is new, 0 if an application that followed the guide made it.

    Raises:
        SchemaTooNewError: a newer version of this library wrote it.
        DatabaseNotOursError: it is something else, or an earlier version of ours, none of which was ever released.
    """
    # Read first, while the lock is held: it makes this connection see tables that another process has just made.
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND SUBSTR(name, 1, 7) <> 'sqlite_'"
    )
    tables = {name for (name,) in names}
    _refuse_odd_tables(connection, path)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID and version == SCHEMA_VERSION:
        return version
    versions = f"it has schema version {version}, this library knows {SCHEMA_VERSION}"
    if application_id == APPLICATION_ID and version > SCHEMA_VERSION:
        raise SchemaTooNewError(path, f"{versions}; upgrade the library")
    if application_id == APPLICATION_ID:
        raise DatabaseNotOursError(path, f"{versions}; earlier ones were never released; it was left as it was")
    if application_id != 0 or version != 0 or not _is_new_or_by_the_guide(connection, tables):
        raise DatabaseNotOursError(path, "it belongs to another application; it was left as it was")
    return 0 if tables else None


def _is_new_or_by_the_guide(connection: sqlite3.Connection, tables: set[str]) -> bool:
    if not tables:
        return True
    if "training_examples" not in tables:
        return False
    with contextlib.closing(sqlite3.connect(":memory:")) as guide:
        guide.executescript(GUIDE_SCHEMA)
        return all(_columns(connection, table) == _columns(guide, table) for table in tables)


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[str]]:
    return connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()


def _refuse_odd_tables(connection: sqlite3.Connection, path: str) -> None:
    """Look at what stands where the library's tables belong; other tables, views and indexes may be there too.

    Raises:
        DatabaseNotOursError: a table has a trigger or computed columns, or something else has its name: it would do
            other things with values than keep them.
    """
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall():
        # Names of tables mean the same in capitals and in small letters.
        if str(table).lower() not in COLUMNS:
            continue
        problem = None
        if kind == "trigger":
            problem = f"the table {table} has a trigger ({name})"
        elif kind == "view" or (kind == "table" and str(sql).upper().startswith("CREATE VIRTUAL")):
            problem = f"{table} is no ordinary table"
        elif (
            kind == "table"
            and connection.execute("SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden <> 0", (table,)).fetchone()
        ):
            problem = f"the table {table} has computed columns"
        if problem is not None:
            raise DatabaseNotOursError(path, f"{problem}, which the library never makes; it was left as it was")


def _copy_beside(path: str, version: int) -> Path:
    """Write a copy of the database as it is, whole or not at all; an earlier copy is never replaced."""
    stem = f"{path}.schema-{version}"
    names = itertools.chain([f"{stem}.backup"], (f"{stem}.backup-{number}" for number in itertools.count(2)))
    final = next(Path(name) for name in names if not os.path.lexists(name))
    # A connection that is about to write cannot be copied from; one that only reads can, beside it.
    with contextlib.closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM sqlite_schema").fetchall()
        try:
            copy_database(reader, final)
        except StorageError as error:
            reason = f"no copy could be made of it before upgrading it: {error.reason}"
            raise type(error)(path, reason) from error
    return final


_FOREIGN_EXAMPLES: Final = (
    "FROM training_examples WHERE TYPEOF(example_id) = 'text' "
    "AND example_id NOT IN (SELECT example_id FROM example_files)"
)
_FOREIGN_SESSIONS: Final = (
    "FROM training_sessions WHERE TYPEOF(session_id) = 'text' "
    "AND session_id NOT IN (SELECT session_id FROM session_details)"
)


def _has_rows_of_others(connection: sqlite3.Connection) -> bool:
    """Tell whether an application that knows the guide's tables only has written into them since."""
    for table, ours, rows in (
        ("training_examples", "example_files", _FOREIGN_EXAMPLES),
        ("training_sessions", "session_details", _FOREIGN_SESSIONS),
    ):
        # Such an application adds rows but removes none, so counting tells; comparing would take longer.
        counts = [connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone() for name in (table, ours)]  # noqa: S608
        if counts[0] != counts[1] and connection.execute(f"SELECT 1 {rows} LIMIT 1").fetchone():
            return True
    return False


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
        if statement.strip():
            connection.execute(statement)
