"""Recognising a database file, and making the tables of a new one."""

from __future__ import annotations

import sqlite3
import uuid
from typing import Final

from tsm_training.data.connection import Database
from tsm_training.data.schema import APPLICATION_ID, GUIDE_SCHEMA, GUIDE_TABLES, OWN_SCHEMA, SCHEMA_VERSION
from tsm_training.errors import (
    DatabaseNotOursError,
    SchemaTooNewError,
)

__all__ = ["prepare"]


def prepare(database: Database) -> None:
    """Recognise the file and make what is missing, in one transaction.

    Several processes may open a new path together: whoever comes second finds the work done.
    """
    with database.snapshot() as connection:
        if _is_ready(connection, database.path) and not _has_rows_of_others(connection):
            return
    with database.writing() as connection:
        if not _is_ready(connection, database.path):
            _create_tables(connection)
        _adopt_rows_of_others(connection)


def _is_ready(connection: sqlite3.Connection, path: str) -> bool:
    """Tell whether the file has all tables; False if it is new, or an application's that followed the guide."""
    # Read first, while the lock is held: it makes this connection see tables that another process has just made.
    tables = _tables(connection)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID and version == SCHEMA_VERSION:
        return True
    if application_id == APPLICATION_ID:
        raise SchemaTooNewError(
            path, f"it has schema version {version}, this library knows {SCHEMA_VERSION}; upgrade the library"
        )
    if application_id != 0 or version != 0 or not _is_new_or_by_the_guide(connection, tables):
        raise DatabaseNotOursError(path, "it belongs to another application; it was left as it was")
    return False


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


def _create_tables(connection: sqlite3.Connection) -> None:
    # One statement at a time: executescript() would end the transaction first.
    for statement in (GUIDE_SCHEMA + OWN_SCHEMA).split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO learning_version VALUES (?, 0)", (uuid.uuid4().hex,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
