"""Looking at every value of a database, and putting aside the rows that cannot be used."""

from __future__ import annotations

import base64
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast

import attrs

from tsm_training.errors import StorageCorruptError
from tsm_training.storage.sqlite.connection import MEMORY, SALVAGE
from tsm_training.storage.sqlite.ownership import is_abandoned
from tsm_training.storage.sqlite.rules import TABLES, Table, dump, faults

__all__ = ["StorageFault", "insert_row", "quarantine_faults", "storage_faults"]

_QUARANTINE: Final = "quarantine() puts the row aside"
_INTERRUPT: Final = "if no program runs it, quarantine() marks it as interrupted"
_REOPEN: Final = "opening the file for writing mends it"


@attrs.frozen
class StorageFault:
    """Something that is wrong with a stored value, row or file."""

    table: str
    """Empty where the file as a whole is damaged."""
    row: str | None
    """The values that name the row; None where it is about more than one row."""
    rowid: int | None
    """SQLite's number of the row; None where it has none."""
    column: str | None
    """None where it is about the whole row."""
    problem: str
    """What is wrong, for people."""
    remedy: str
    """What can be done about it."""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.row, self.column) if part)
        return f"{place or 'the file'}: {self.problem}; {self.remedy}"


@attrs.frozen
class _Row:
    """A row with all its columns, and what is wrong with it."""

    table: Table
    key: tuple[object, ...]
    """What finds it again: its number, or the values of its primary key."""
    values: Mapping[str, object]
    problems: tuple[tuple[str | None, str], ...] = ()

    def faults(self) -> Iterator[StorageFault]:
        name = self.table.row_name([self.values[column] for column in self.table.columns])
        rowid = self.key[0] if self.table.has_rowid else None
        remedy = SALVAGE if self.table.name == "learning_version" else _QUARANTINE
        for column, problem in self.problems:
            yield StorageFault(
                self.table.name, name, rowid if isinstance(rowid, int) else None, column, problem, remedy
            )


def storage_faults(connection: sqlite3.Connection, path: str) -> list[StorageFault]:
    """Return everything that is wrong with a database, looked at in one transaction; nothing is changed."""
    if damages := _damages(connection):
        return damages  # what rows of damaged pages hold says little
    found = [fault for row in _faulty_rows(connection) for fault in row.faults()]
    return [*found, *_lonely_rows(connection), *_abandoned_sessions(connection, path), *_identity(connection)]


def _damages(connection: sqlite3.Connection) -> list[StorageFault]:
    try:
        lines = [str(line) for (line,) in connection.execute("PRAGMA integrity_check")]
        found = {table: _column_names(connection, table) for table in TABLES}
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return [StorageFault("", None, None, None, str(error), SALVAGE)]
    return [
        *(
            StorageFault("", None, None, None, line, SALVAGE)
            for line in lines
            # A missing value is found again as what is wrong with its row.
            if line != "ok" and not line.startswith("NULL value in ")
        ),
        *(
            StorageFault(name, None, None, None, "the table or one of its columns is missing", SALVAGE)
            for name, table in TABLES.items()
            if not table.columns.keys() <= found[name]
        ),
    ]


def _column_names(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


# --- rows -----------------------------------------------------------------------------------------------------------


def _rows(
    connection: sqlite3.Connection, table: Table, column: str | None = None, value: object = None
) -> Iterator[_Row]:
    """Yield a table's rows: all of them, or those that hold a value in a column."""
    keys = ("rowid",) if table.has_rowid else table.key
    where, parameters = ("", ()) if column is None else _condition((column,), (value,))
    # Not by an index: what is damaged there must not hide a row.
    cursor = connection.execute(f"SELECT {', '.join(keys)}, * FROM {table.name} NOT INDEXED {where}", parameters)  # noqa: S608
    names = [description[0] for description in cursor.description][len(keys) :]
    for row in cursor:
        yield _Row(table, row[: len(keys)], dict(zip(names, row[len(keys) :], strict=True)))


def _condition(columns: Sequence[str], values: Sequence[object]) -> tuple[str, tuple[object, ...]]:
    """Return a WHERE clause for exactly these values, which may be texts that are damaged."""
    terms, parameters = [], []
    for column, value in zip(columns, values, strict=True):
        damaged = _damaged_bytes(value)
        terms.append(f"{column} IS ?" if damaged is None else f"{column} IS CAST(? AS TEXT)")
        parameters.append(value if damaged is None else damaged)
    return f"WHERE {' AND '.join(terms)}", tuple(parameters)


def _damaged_bytes(value: object) -> bytes | None:
    """Return the bytes of a stored text that is not UTF-8; None for any other value."""
    try:
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return cast("str", value).encode("utf-8", "surrogateescape")
    return None


def _faulty_rows(connection: sqlite3.Connection) -> Iterator[_Row]:
    orphans = _orphans(connection)
    for table in TABLES.values():
        for row in _rows(connection, table):
            problems: list[tuple[str | None, str]] = list(
                faults(table, [row.values[column] for column in table.columns])
            )
            if (parent := orphans.get((table.name, row.key))) is not None:
                problems.append((None, f"it belongs to a row of {parent} that is not there"))
            if problems:
                yield attrs.evolve(row, problems=tuple(problems))


_PARENTS: Final = {
    "training_metrics": ("training_sessions", "session_id"),
    "example_files": ("training_examples", "example_id"),
    "session_details": ("training_sessions", "session_id"),
    "running_sessions": ("training_sessions", "session_id"),
}
"""What the foreign keys say: the table that a row belongs to, and the column that names the row there."""


def _orphans(connection: sqlite3.Connection) -> dict[tuple[str, tuple[object, ...]], str]:
    """Return, by table and key, to which table the rows belong that have lost their other half."""
    found = {}
    for name, (parent, column) in _PARENTS.items():
        key = "rowid" if TABLES[name].has_rowid else ", ".join(TABLES[name].key)
        rows = connection.execute(
            f"SELECT {key} FROM {name} WHERE {column} NOT IN "  # noqa: S608 - our own names
            f"(SELECT {column} FROM {parent} WHERE {column} IS NOT NULL)"
        )
        found.update({(name, tuple(row)): parent for row in rows})
    return found


# --- what is right in itself, but does not go together ----------------------------------------------------------------


def _lonely_rows(connection: sqlite3.Connection) -> Iterator[StorageFault]:
    """Yield examples and sessions that another application has written: they are taken in by the next opening."""
    for name, partner, column in (
        ("training_examples", "example_files", "example_id"),
        ("training_sessions", "session_details", "session_id"),
    ):
        rows = connection.execute(
            f"SELECT rowid, {column} FROM {name} WHERE {column} NOT IN (SELECT {column} FROM {partner})"  # noqa: S608
        )
        for rowid, identifier in rows:
            yield StorageFault(name, repr(identifier), rowid, None, f"it has no row in {partner}", _REOPEN)


def _abandoned_sessions(connection: sqlite3.Connection, path: str) -> Iterator[StorageFault]:
    rows = connection.execute(
        "SELECT s.rowid, s.session_id, r.host FROM training_sessions s LEFT JOIN running_sessions r USING (session_id) "
        "WHERE s.status = 'running'"
    ).fetchall()
    for rowid, session_id, host in rows:
        if host is None:
            problem, remedy = "it is 'running', and nothing says in which process", _INTERRUPT
        elif path != MEMORY and is_abandoned(path, session_id, host):
            problem, remedy = "it is 'running', but its process has ended", _REOPEN
        else:
            continue
        yield StorageFault("training_sessions", repr(session_id), rowid, "status", problem, remedy)


def _identity(connection: sqlite3.Connection) -> Iterator[StorageFault]:
    (count,) = connection.execute("SELECT COUNT(*) FROM learning_version").fetchone()
    if count != 1:
        yield StorageFault("learning_version", None, None, None, f"it has {count} rows instead of one", SALVAGE)


# --- putting aside --------------------------------------------------------------------------------------------------

_TOGETHER: Final = (
    ("example_id", ("example_files", "training_examples")),
    ("session_id", ("training_metrics", "running_sessions", "session_details", "training_sessions")),
    # The advantage of every worker on an example is told by the accuracies of them all.
    ("example_digest", ("absorbed_evidence",)),
)
"""What stands or falls together: by which column, and in which tables, those that refer to others first."""

_WHOLE: Final = frozenset(
    {"example_files", "training_examples", "session_details", "training_sessions", "absorbed_evidence"}
)
"""Where a faulty row makes everything faulty that belongs together."""


def quarantine_faults(connection: sqlite3.Connection, path: str, now: datetime) -> list[StorageFault]:
    """Move faulty rows to ``quarantined_rows``, within a transaction, and return what was wrong with them.

    Raises:
        StorageCorruptError: the file is damaged in a way that moving rows does not mend.
    """
    if damages := [*_damages(connection), *_identity(connection)]:
        raise StorageCorruptError(path, str(damages[0]))
    faulty = [row for row in _faulty_rows(connection) if row.table.name != "learning_version"]
    moving: dict[tuple[str, tuple[object, ...]], tuple[_Row, str]] = {}
    for row in faulty:
        reason = "; ".join(f"{column}: {problem}" if column else problem for column, problem in row.problems)
        moving[row.table.name, row.key] = row, reason
    for row in faulty:
        for other in _belonging(connection, row):
            moving.setdefault((other.table.name, other.key), (other, f"it belongs to a row of {row.table.name}"))
    order = {name: number for number, name in enumerate(name for _column, names in _TOGETHER for name in names)}
    for (name, key), (row, reason) in sorted(moving.items(), key=lambda item: order.get(item[0][0], -1)):
        _put_aside(connection, name, row.values, reason, now)
        where, parameters = _condition(("rowid",) if row.table.has_rowid else row.table.key, key)
        connection.execute(f"DELETE FROM {name} {where}", parameters)  # noqa: S608 - our own names
    if any(name in ("learned_bases", "absorbed_evidence", "learned_blends", "learned_fits") for name, _key in moving):
        connection.execute("UPDATE learning_version SET version = version + 1")
    stray = [fault for fault in _abandoned_sessions(connection, path) if fault.remedy == _INTERRUPT]
    for fault in stray:
        connection.execute("UPDATE training_sessions SET status = 'interrupted' WHERE rowid = ?", (fault.rowid,))
    return [*(fault for row in faulty for fault in row.faults()), *stray]


def _belonging(connection: sqlite3.Connection, row: _Row) -> Iterator[_Row]:
    for column, names in _TOGETHER:
        if row.table.name in _WHOLE and row.table.name in names and row.values[column] is not None:
            for name in names:
                yield from _rows(connection, TABLES[name], column, row.values[column])


def _put_aside(
    connection: sqlite3.Connection, table: str, values: Mapping[str, object], reason: str, now: datetime
) -> None:
    connection.execute(
        "INSERT INTO quarantined_rows (table_name, content, reason, quarantined_at) VALUES (?, ?, ?, ?)",
        (table, _content(values), reason, now.isoformat()),
    )


def insert_row(connection: sqlite3.Connection, table: str, values: Mapping[str, object]) -> None:
    """Insert a row as it was read, whatever it holds; where the table does not take it, put it aside."""
    marks = ["CAST(? AS TEXT)" if _damaged_bytes(value) is not None else "?" for value in values.values()]
    parameters = [damaged if (damaged := _damaged_bytes(value)) is not None else value for value in values.values()]
    try:
        connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(marks)})",  # noqa: S608 - our own names
            parameters,
        )
    except sqlite3.IntegrityError as error:
        _put_aside(connection, table, values, str(error), datetime.now(UTC))


def _content(values: Mapping[str, object]) -> str:
    """Return a row as JSON from which every value can be made again."""
    return dump({column: _plain(value) for column, value in values.items()})


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if (damaged := _damaged_bytes(value)) is not None:
        return {"base64": base64.b64encode(damaged).decode(), "type": "text"}
    if isinstance(value, float) and math.isinf(value):
        return {"real": repr(value)}
    return value
