"""Looking at every value of a database, and putting aside the rows that cannot be used."""

# ruff: noqa: S608 - only our own names are put into statements, values never

from __future__ import annotations

import base64
import contextlib
import math
import re
import sqlite3
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from tsm_training.errors import StorageCorruptError
from tsm_training.storage.sqlite.connection import REPAIR, FaultyRowError, primary_code
from tsm_training.storage.sqlite.lease import is_lost
from tsm_training.storage.sqlite.rows import (
    dump,
    evaluation_of,
    example_of,
    insertion,
    metric_of,
    session_of,
)
from tsm_training.storage.sqlite.schema import COLUMNS, GUIDE_SCHEMA, OWN_SCHEMA

_QUARANTINE: Final = "quarantine() puts the row aside"
_INTERRUPT: Final = "if no program runs it, quarantine() marks it as interrupted"
_REOPEN: Final = "opening the store for writing mends it"


@attrs.frozen
class StorageFault:
    """Something that is wrong with a stored value, row or file."""

    table: str
    """Empty where the file as a whole is damaged."""
    row: str | None
    """The value that names the row; None where it is about more than one row."""
    rowid: int | None
    """SQLite's number of the row; a server has none."""
    column: str | None
    """None where it is about the whole row."""
    problem: str
    """What is wrong, for people."""
    remedy: str
    """What can be done about it."""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.row, self.column) if part)
        return f"{place or 'the file'}: {self.problem}; {self.remedy}"


def storage_faults(connection: sqlite3.Connection) -> list[StorageFault]:
    """Return everything that is wrong with a database, looked at in one transaction; nothing is changed."""
    if damages := _damages(connection):
        return damages  # what rows of damaged pages hold says little
    return row_faults(connection.execute, datetime.now(UTC))


Execute: TypeAlias = Callable[[str], Iterable[Sequence[Any]]]
"""Runs a query and returns its rows."""


def row_faults(execute: Execute, now: datetime, *, is_sqlite: bool = True) -> list[StorageFault]:
    """Return what is wrong with rows, in any database that has the tables of the schema.

    Args:
        execute: Runs queries that all see the same moment.
        now: By the clock that leases are given by.
        is_sqlite: False for a server, where rows have no numbers and always belong to one of the table above.
    """
    number = "s.rowid" if is_sqlite else "NULL"
    return [
        *_faulty_rows(execute, is_sqlite=is_sqlite),
        *_lonely_rows(execute, number),
        *_stray_sessions(execute, now, number),
    ]


def _damages(connection: sqlite3.Connection) -> list[StorageFault]:
    try:
        lines = [str(line) for (line,) in connection.execute("PRAGMA integrity_check")]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        (count,) = connection.execute("SELECT COUNT(*) FROM store_identity").fetchone()
    except sqlite3.DatabaseError as error:
        if primary_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
            raise
        return [StorageFault("", None, None, None, str(error), REPAIR)]
    # What is wrong with single values is found again, with the row that holds it.
    lines = [
        line for line in lines if line != "ok" and not re.match(r"NULL value in|CHECK constraint|\S+ value in", line)
    ]
    lines += [f"the table {name} is missing" for name in sorted(COLUMNS.keys() - tables)]
    if count != 1:
        lines.append(f"store_identity has {count} rows instead of one")
    return [StorageFault("", None, None, None, line, REPAIR) for line in lines]


# --- rows -----------------------------------------------------------------------------------------------------------

_FINITE: Final = "{0} > -9e999 AND {0} < 9e999"
_UNIT: Final = "{0} BETWEEN 0.0 AND 1.0"
_JSON: Final = "{0} IS NULL OR json_valid({0})"
_GUIDE_RULES: Final = {
    "metadata": _JSON,
    "worker_results": _JSON,
    "validation_scores": _JSON,
    "num_examples": "{0} >= 0",
    "epochs": "{0} >= 0",
    "learning_rate": _FINITE,
    "initial_weights": _JSON,
    "final_weights": _JSON,
    "metrics_history": _JSON,
    "status": "{0} IN ('running', 'completed', 'failed', 'interrupted')",
    "accuracy": _UNIT,
    "confidence": _UNIT,
    "loss": _FINITE,
}
"""What columns of the guide's tables may hold, which they do not say themselves."""


def _strict_guide_schema() -> str:
    def ruled(column: re.Match[str]) -> str:
        rule = _GUIDE_RULES.get(column[1])
        return f"{column[0]} CHECK ({rule.format(column[1])})" if rule else column[0]

    return re.sub(r"(\w+) (?:TEXT|INTEGER|REAL)\b", ruled, GUIDE_SCHEMA).replace("\n);", "\n) STRICT;")


class _Rules:
    """Tries rows in empty tables that are as strict as they can be: what those do not take is wrong."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.executescript(_strict_guide_schema() + OWN_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def fault(self, table: str, values: Mapping[str, Any]) -> tuple[str | None, str] | None:
        """Return the column, where it is known, and the problem; None for a sound row."""
        marks = ", ".join("?" * len(values))
        try:
            self._connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()])
        except (sqlite3.Error, UnicodeEncodeError) as error:
            problem = str(error)
            column = next((word for word in re.findall(r"\w+", problem) if word in values), None)
            return column, f"{problem} (it holds {_shown(values[column])})" if column else problem
        finally:
            self._connection.execute(f"DELETE FROM {table}")
        return None


def _shown(value: object) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - of a line


class _Table(NamedTuple):
    """How a table is looked at: the column that names a row there, and where it belongs."""

    key: str
    parent: str | None = None
    """The table that has a row of the same key for each row here."""
    make: Callable[[Sequence[Any]], object] | None = None
    """Makes the record of a row's columns in the order of the schema, as reading does."""


def _png(row: Sequence[Any]) -> None:
    """Look whether a preview is the bytes of a PNG file, whole as its checksums say."""
    png = row[2]
    place = 8
    while png[:8] == b"\x89PNG\r\n\x1a\n" and place + 12 <= len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])
        if zlib.crc32(png[place + 4 : end - 4]) != int.from_bytes(png[end - 4 : end]):
            break
        if png[place + 4 : place + 8] == b"IEND":
            return
        place = end
    raise FaultyRowError("previews", row[1], "it holds no whole PNG picture")


_LOOKED_AT: Final = {
    "training_examples": _Table("example_id", make=lambda row: example_of((*row, None, None))),
    "training_sessions": _Table("session_id", make=lambda row: session_of((*row, "{}", None))),
    "training_metrics": _Table("session_id", "training_sessions", metric_of),
    "example_files": _Table(
        "example_id",
        "training_examples",
        lambda row: example_of(("", "", "", "", "2000-01-01", *[None] * 3, row[2], 0)),
    ),
    "session_details": _Table(
        "session_id", "training_sessions", lambda row: session_of((row[0], "2000-01-01", *[None] * 8, row[1], 0))
    ),
    "running_sessions": _Table("session_id", "training_sessions", lambda row: datetime.fromisoformat(row[5])),
    "evaluations": _Table("example_digest", make=evaluation_of),
    "previews": _Table("example_digest", make=_png),
    "observations": _Table("example_digest"),
    "learned_head": _Table("name"),
    "learned_rows": _Table("key"),
    "quarantined_rows": _Table("table_name"),
}


def _faulty_rows(execute: Execute, *, is_sqlite: bool = True) -> Iterator[StorageFault]:
    with contextlib.closing(_Rules()) as rules:
        for name, table in _LOOKED_AT.items():
            # Not by an index: what is damaged there must not hide a row of a file.
            number, source = ("rowid", f"{name} NOT INDEXED") if is_sqlite else ("NULL", name)
            known = f"(SELECT {table.key} FROM {table.parent} WHERE {table.key} IS NOT NULL)"
            orphan = f"{table.key} NOT IN {known}" if table.parent and is_sqlite else "0"
            for rowid, is_orphan, *row in execute(
                f"SELECT {number}, {orphan}, {', '.join(COLUMNS[name])} FROM {source}"
            ):
                values = dict(zip(COLUMNS[name], row, strict=True))
                fault = rules.fault(name, values) or _unreadable(table, row)
                if fault is None and is_orphan:
                    fault = None, f"it belongs to a row of {table.parent} that is not there"
                if fault is not None:
                    yield StorageFault(name, _shown(values[table.key]), rowid, *fault, _QUARANTINE)


def _unreadable(table: _Table, row: Sequence[Any]) -> tuple[None, str] | None:
    try:
        if table.make is not None:
            table.make(row)
    except FaultyRowError as error:
        return None, error.problem
    except ValueError as error:
        return None, str(error)
    return None


# --- what is right in itself, but does not go together ----------------------------------------------------------------


def _lonely_rows(execute: Execute, number: str) -> Iterator[StorageFault]:
    """Yield examples and sessions that another application has written: they are taken in by the next opening."""
    for name, partner, column in (
        ("training_examples", "example_files", "example_id"),
        ("training_sessions", "session_details", "session_id"),
    ):
        rows = execute(
            f"SELECT {number}, s.{column} FROM {name} s LEFT JOIN {partner} p ON p.{column} = s.{column} "
            f"WHERE p.{column} IS NULL AND s.{column} IS NOT NULL"
        )
        for rowid, identifier in rows:
            yield StorageFault(name, repr(identifier), rowid, None, f"it has no row in {partner}", _REOPEN)


def _stray_sessions(execute: Execute, now: datetime, number: str = "s.rowid") -> Iterator[StorageFault]:
    rows = execute(
        f"SELECT {number}, s.session_id, r.host, r.boot_id, r.process_id, r.process_start, r.expires_at "
        "FROM training_sessions s LEFT JOIN running_sessions r ON r.session_id = s.session_id "
        "WHERE s.status = 'running'"
    )
    for rowid, session_id, *lease in rows:
        if lease[0] is None:
            problem, remedy = "it is 'running', and nothing says in which process", _INTERRUPT
        elif is_lost(lease, now):
            problem, remedy = "it is 'running', but its process has ended", _REOPEN
        else:
            continue
        yield StorageFault("training_sessions", repr(session_id), rowid, "status", problem, remedy)


# --- putting aside --------------------------------------------------------------------------------------------------

_TOGETHER: Final = (
    ("training_examples", "example_files"),
    ("training_sessions", "session_details", "running_sessions", "training_metrics"),
)
"""What stands or falls together, by key; the rows of metrics each for themselves."""

_LEARNED: Final = ("learned_head", "learned_rows")
"""Only the learner knows how these go together, so all of them go."""


def quarantine_faults(connection: sqlite3.Connection, path: str, now: datetime) -> list[StorageFault]:
    """Move faulty rows to ``quarantined_rows``, within a transaction, and return what was wrong with them.

    Raises:
        StorageCorruptError: the file is damaged in a way that moving rows does not mend.
    """
    if damages := _damages(connection):
        raise StorageCorruptError(path, str(damages[0]))
    faults = list(_faulty_rows(connection.execute))
    moving: dict[tuple[str, int | None], str] = {
        (fault.table, fault.rowid): f"{fault.column or 'the row'}: {fault.problem}" for fault in faults
    }
    for fault in faults:
        for key in _belonging(connection, fault):
            moving.setdefault(key, f"it belongs to a row of {fault.table}")
    connection.execute("PRAGMA defer_foreign_keys = ON")
    for (name, rowid), reason in moving.items():
        cursor = connection.execute(f"SELECT * FROM {name} WHERE rowid = ?", (rowid,))
        names = [description[0] for description in cursor.description]
        content = dump({column: _plain(value) for column, value in zip(names, cursor.fetchone(), strict=True)})
        connection.execute(
            insertion("quarantined_rows"),
            (name, content, reason, now.isoformat()),
        )
    for name, rowid in moving:
        connection.execute(f"DELETE FROM {name} WHERE rowid = ?", (rowid,))
    if any(name in _LEARNED for name, _rowid in moving):
        connection.execute("UPDATE store_identity SET token = ?", (uuid.uuid4().hex,))
    stray = [fault for fault in _stray_sessions(connection.execute, now) if fault.remedy == _INTERRUPT]
    for fault in stray:
        connection.execute("UPDATE training_sessions SET status = 'interrupted' WHERE rowid = ?", (fault.rowid,))
    return [*faults, *stray]


def _belonging(connection: sqlite3.Connection, fault: StorageFault) -> Iterator[tuple[str, int | None]]:
    if fault.table in _LEARNED:
        for name in _LEARNED:
            yield from ((name, rowid) for (rowid,) in connection.execute(f"SELECT rowid FROM {name}"))
    for tables in _TOGETHER:
        if fault.table in tables and fault.table != "training_metrics":
            key = _LOOKED_AT[fault.table].key
            for name in tables:
                rows = connection.execute(
                    f"SELECT o.rowid FROM {name} o JOIN {fault.table} f ON o.{key} = f.{key} WHERE f.rowid = ?",
                    (fault.rowid,),
                )
                yield from ((name, rowid) for (rowid,) in rows)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"real": repr(value)} if isinstance(value, float) and math.isinf(value) else value
