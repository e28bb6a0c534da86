"""Refusing a database whose tables would do other things with values than keep them."""

from __future__ import annotations

import sqlite3

from tsm_training.errors import DatabaseNotOursError
from tsm_training.storage.sqlite.rules import TABLES

__all__ = ["refuse_odd_tables"]


def refuse_odd_tables(connection: sqlite3.Connection, path: str) -> None:
    """Look at what stands where the library's tables belong; other tables, views and indexes may be there too.

    Raises:
        DatabaseNotOursError: a table has a trigger or computed columns, or something else has its name.
    """
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        # Names of tables mean the same in capitals and in small letters.
        lowered = str(table).lower()
        if lowered not in TABLES:
            continue
        problem = None
        if kind == "trigger":
            problem = f"the table {table} has a trigger ({name})"
        elif kind == "view" or (kind == "table" and str(sql).upper().startswith("CREATE VIRTUAL")):
            problem = f"{table} is no ordinary table"
        elif kind == "table" and _has_hidden_columns(connection, lowered):
            problem = f"the table {table} has computed columns"
        if problem is not None:
            raise DatabaseNotOursError(path, f"{problem}, which the library never makes; it was left as it was")


def _has_hidden_columns(connection: sqlite3.Connection, table: str) -> bool:
    rows = connection.execute("SELECT EXISTS (SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden <> 0)", (table,))
    return bool(rows.fetchone()[0])
