"""Saving what can still be read of a damaged database."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias, cast

import attrs

from tsm_training.arguments import check_path
from tsm_training.errors import StorageCorruptError, StorageError, StorageExistsError
from tsm_training.files import sync_folder
from tsm_training.storage.sqlite.backup import checked_destination
from tsm_training.storage.sqlite.checking import StorageFault, insert_row, quarantine_faults
from tsm_training.storage.sqlite.connection import Database, OpenMode, connect, decoded, storage_error, system_error
from tsm_training.storage.sqlite.opening import prepare, recognised_version
from tsm_training.storage.sqlite.rules import TABLES, Table, faults

__all__ = ["SalvageReport", "salvage"]

_Row: TypeAlias = dict[str, object]

_UNREADABLE: Final = (sqlite3.Error, MemoryError)  # a damaged length may ask for any amount of memory
_PATIENCE: Final = 30.0
_HEADER: Final = 100
_PAGE: Final = 256
_SINGLE_STEPS: Final = 512  # more than the rows of any one page
_FIRST_ROW: Final = -(2**63)
_LAST_ROW: Final = 2**63 - 1


@attrs.frozen
class SalvageReport:
    """What came of saving a damaged database."""

    source: str
    """The damaged file, which is as it was."""
    destination: str
    """The new database."""
    saved: Mapping[str, int]
    """How many rows can be used again, by table."""
    put_aside: tuple[StorageFault, ...]
    """What was wrong with rows that could be read but not be used; they are in the table ``quarantined_rows``."""
    losses: tuple[str, ...]
    """What could not be read, in words; empty where everything was saved."""


def salvage(damaged_path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> SalvageReport:
    """Write everything that can still be read of a damaged database into a new one.

    The damaged file is only read. Rows on damaged pages are left out; rows whose values cannot be right are put aside
    in the table ``quarantined_rows`` of the new database. A learner that is kept in the old database is kept in the new
    one, which has the same `store_id`.

    Args:
        damaged_path: A database of this library, or of an application by the guide, that nobody uses at the moment.
        new_path: The file to make; there must be none yet.

    Raises:
        InvalidArgumentError: a path is none.
        DatabaseNotOursError: the file belongs to another application.
        SchemaTooNewError: a newer version of this library wrote the file.
        StorageCorruptError: nothing at all can be read.
        StorageFullError: there is no room for the new file.
        StorageExistsError: the new file is already there.
        StorageError: the damaged file is not there, or the new one cannot be written.
    """
    source = Path(check_path("damaged_path", damaged_path)).expanduser().absolute()
    destination = checked_destination(check_path("new_path", new_path), str(source), overwrite=True)
    if not source.is_file():
        raise StorageError(str(source), "there is no such file")
    if os.path.lexists(destination):
        raise StorageExistsError(str(destination), "there is a file already; it is not replaced")
    try:
        with tempfile.TemporaryDirectory(prefix=".salvage-", dir=destination.parent) as folder:
            made = Path(folder, "new.db")
            with _reading(source, Path(folder)) as connection:
                report = _saved(connection, source, destination, made)
            with made.open("rb+") as file:
                os.fsync(file.fileno())
            made.rename(destination)
    except OSError as error:
        raise system_error(str(destination), error) from error
    except sqlite3.Error as error:  # of the new file: those of the damaged one are expected
        raise storage_error(str(destination), error) from error
    sync_folder(destination.parent)
    return report


# --- opening --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(source: Path, folder: Path) -> Generator[sqlite3.Connection]:
    """Open the damaged file or, where that is not possible, a copy of it whose beginning is mended."""
    try:
        connection = _opened(source, "ro", str(source))
    except sqlite3.Error as error:
        copy = folder / "copy.db"
        shutil.copyfile(source, copy)
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
            shutil.copyfile(f"{source}-journal", f"{copy}-journal")  # SQLite undoes what a crash cut short
        else:
            _replace_list_of_tables(copy, folder / "pattern.db")
        try:
            connection = _opened(copy, "rw", str(source))
        except sqlite3.Error:
            raise storage_error(str(source), error) from error
    with contextlib.closing(connection):
        yield connection


def _opened(file: Path, mode: OpenMode, name: str) -> sqlite3.Connection:
    connection = connect(str(file), mode)
    try:
        connection.text_factory = decoded
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        recognised_version(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _replace_list_of_tables(file: Path, pattern: Path) -> None:
    """Give a file the list of tables that a new database has: its tables begin on the same pages.

    Should they not, then what is read makes no sense as rows of these tables, and the rules put it aside.
    """
    database = Database(str(pattern), 0.0)
    database.open()
    prepare(database)
    database.close()
    content = bytearray(pattern.read_bytes())
    size = int.from_bytes(content[16:18])
    content[28:40] = (file.stat().st_size // size).to_bytes(4) + bytes(8)  # pages in all, and none that are free
    # The list is too long for the first page, which therefore leads to others: one number per cell, and a last one.
    count = int.from_bytes(content[_HEADER + 3 : _HEADER + 5])
    cells = [_HEADER + 12 + 2 * number for number in range(count)]
    places = [_HEADER + 8, *(int.from_bytes(content[cell : cell + 2]) for cell in cells)]
    with file.open("rb+") as damaged:
        for page in (1, *(int.from_bytes(content[place : place + 4]) for place in places)):
            damaged.seek((page - 1) * size)
            damaged.write(content[(page - 1) * size : page * size])


# --- reading --------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Reader:
    """Reads one table around the places where it is damaged."""

    connection: sqlite3.Connection
    table: Table
    columns: Sequence[str]
    losses: list[str]

    def rows(self) -> Iterator[_Row]:
        yield from (self._by_number() if self.table.has_rowid else self._by_key())

    def _row(self, values: Sequence[object]) -> _Row:
        return dict(zip(self.columns, values, strict=True))

    # Rows with a number

    def _page(self, low: int, limit: int) -> list[tuple[int, _Row]] | None:
        """Return the rows from a number on; None if they cannot be read."""
        query = f"SELECT rowid, {', '.join(self.columns)} FROM {self.table.name} NOT INDEXED "  # noqa: S608 - ours
        try:
            found = self.connection.execute(f"{query}WHERE rowid >= ? ORDER BY rowid LIMIT ?", (low, limit)).fetchall()
        except _UNREADABLE:
            return None
        # On a damaged page the order may be wrong: whoever went on from there might come by again without end.
        numbers = [row[0] for row in found]
        is_in_order = all(low <= number for number in numbers) and numbers == sorted(set(numbers))
        return [(row[0], self._row(row[1:])) for row in found] if is_in_order else None

    def _by_number(self) -> Iterator[_Row]:
        low: int | None = _FIRST_ROW
        limit = _PAGE
        while low is not None and low <= _LAST_ROW:
            page = self._page(low, limit)
            if page is None and limit > 1:
                limit //= 2
            elif page is None:
                low = self._next_readable(low)
            else:
                yield from (row for _number, row in page)
                if len(page) < limit:
                    return
                low = page[-1][0] + 1
                limit = min(2 * limit, _PAGE)

    def _next_readable(self, low: int) -> int | None:
        """Return the number from which on rows can be read again, and note what lies before it as lost."""
        base = max(low, 0)  # numbers begin with 1, unless somebody else gives them
        step, good = 0, None
        while good is None and base + step < _LAST_ROW:
            step = step + 1 if step < _SINGLE_STEPS else min(2 * step, _LAST_ROW - base)
            good = base + step if self._page(base + step, 1) is not None else None
        bad = base + (step - 1 if step <= _SINGLE_STEPS else step // 2)
        while good is not None and good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if self._page(middle, 1) is not None else (middle, good)
        start = "the first one" if low == _FIRST_ROW else f"number {low}"
        self.losses.append(f"{self.table.name}: rows from {start} {f'to {good - 1}' if good else 'on'} cannot be read")
        return good

    # Rows without one

    def _by_key(self) -> Iterator[_Row]:
        found: dict[tuple[object, ...], _Row] = {}
        if not self._drain(found, ""):
            self.losses.append(f"{self.table.name}: some rows cannot be read")
            self._drain(found, "DESC")
            for prefix in range(256):
                self._drain(found, "", f"{prefix:02x}")
        yield from found.values()

    def _drain(self, found: dict[tuple[object, ...], _Row], direction: str, prefix: str | None = None) -> bool:
        """Read on until the end or the first damage; tell whether the end was reached."""
        key = ", ".join(f"{column} {direction}" for column in self.table.key)
        first = self.table.key[0]
        where = "" if prefix is None else f"WHERE {first} >= ? AND {first} < ?"
        parameters = () if prefix is None else (prefix, f"{prefix}~")
        query = f"SELECT {', '.join(self.columns)} FROM {self.table.name} {where} ORDER BY {key}"  # noqa: S608 - ours
        try:
            for values in self.connection.execute(query, parameters):
                row = self._row(values)
                found[tuple(row[column] for column in self.table.key)] = row
        except _UNREADABLE:
            return False
        return True


# --- writing --------------------------------------------------------------------------------------------------------


def _saved(connection: sqlite3.Connection, source: Path, destination: Path, made: Path) -> SalvageReport:
    losses: list[str] = []
    database = Database(str(made), _PATIENCE)
    database.open()
    try:
        prepare(database)
        with contextlib.closing(connect(str(made), "rw")) as target:  # foreign keys are off: halves may have been lost
            target.execute("BEGIN IMMEDIATE")
            count = sum(_copy_table(connection, target, table, losses) for table in TABLES.values())
            if not count:
                raise StorageCorruptError(str(source), "nothing of it can be read; restore a backup")
            target.execute("COMMIT")
        with database.writing() as target:
            put_aside = quarantine_faults(target, str(made), datetime.now(UTC))
        prepare(database)  # takes in the examples and sessions whose other halves were lost
        with database.reading() as target:
            saved = {name: target.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in TABLES}  # noqa: S608
    finally:
        database.close()
    return SalvageReport(str(source), str(destination), saved, tuple(put_aside), tuple(losses))


def _copy_table(source: sqlite3.Connection, target: sqlite3.Connection, table: Table, losses: list[str]) -> int:
    """Copy what can be read of a table, and return how many rows that are."""
    wanted = _columns(target, table.name)
    columns = [column for column in _columns(source, table.name) if column in wanted]
    if not columns:
        # Files of an older schema, and those of an application by the guide, have fewer tables.
        if table.name == "training_examples":
            losses.append(f"{table.name}: the table cannot be found")
        return 0
    count = 0
    versions = []
    for row in _Reader(source, table, columns, losses).rows():
        count += 1
        if table.name == "learning_version":
            versions.append(row)
        else:
            insert_row(target, table.name, row)
    if table.name == "learning_version":
        _keep_identity(target, versions)
    return count


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()]


def _keep_identity(target: sqlite3.Connection, versions: Sequence[_Row]) -> None:
    """Let the new database be the same store, and let learners see that something may have changed."""
    table = TABLES["learning_version"]
    sound = [
        row for row in versions if table.columns.keys() <= row.keys() and not any(faults(table, tuple(row.values())))
    ]
    for row in sorted(sound, key=lambda row: cast("int", row["version"]))[-1:]:
        target.execute("UPDATE learning_version SET store_id = ?, version = ?", (row["store_id"], row["version"]))
    target.execute("UPDATE learning_version SET version = version + 1")
