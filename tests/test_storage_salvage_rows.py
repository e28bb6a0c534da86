"""Which rows are saved around damaged ones: all that can be, each once, and what is lost is named to the number."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsm_training.storage.sqlite.rules import TABLES
from tsm_training.storage.sqlite.salvage import _Reader

DAMAGED = b"damaged"
FIRST, LAST = -(2**63), 2**63 - 1


def read(text: bytes) -> str:
    """Return a text as SQLite's connection would, or fail as if it stood on a damaged page."""
    if text == DAMAGED:
        raise sqlite3.DatabaseError("database disk image is malformed")
    return text.decode()


@contextlib.contextmanager
def reader(name: str, schema: str, rows: Iterable[Sequence[object]]) -> Iterator[_Reader]:
    """Give a reader of a table of which each row that holds the word "damaged" cannot be read."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(schema)
        connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", rows)
        connection.text_factory = read
        columns = [column for column, *_ in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
        yield _Reader(connection, TABLES[name], columns, [])


# --- rows with a number ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def previews(sound: Iterable[int], damaged: Iterable[int]) -> Iterator[_Reader]:
    schema = "CREATE TABLE previews (sequence INTEGER PRIMARY KEY, example_digest TEXT, name TEXT)"
    rows = [(n, f"row {n}", "sound") for n in sound] + [(n, f"row {n}", "damaged") for n in damaged]
    with reader("previews", schema, rows) as made:
        yield made


def saved(made: _Reader) -> list[int]:
    """Return the numbers of the rows that are read, having looked at the rest of each."""
    rows = list(made.rows())
    for row in rows:
        assert row == {"sequence": row["sequence"], "example_digest": f"row {row['sequence']}", "name": "sound"}
    return [int(str(row["sequence"])) for row in rows]


def lost(first: int | None, last: int) -> str:
    start = "the first one" if first is None else f"number {first}"
    return f"previews: rows from {start} to {last} cannot be read"


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(1, 400), st.booleans(), max_size=80))
@example(dict.fromkeys(range(1, 601), True))
@example({number: number % 2 == 0 for number in range(1, 20)})
def test_every_row_between_damaged_ones_is_saved_in_order_and_once(is_sound: dict[int, bool]) -> None:
    sound = sorted(number for number, fine in is_sound.items() if fine)
    damaged = is_sound.keys() - sound
    with previews(sound, damaged) as made:
        assert saved(made) == sound
    assert bool(made.losses) == bool(damaged)


@pytest.mark.parametrize(
    ("damaged", "losses"),
    [
        ([], []),
        ([300], [lost(300, 300)]),
        ([1], [lost(None, 1)]),
        ([1, 2], [lost(None, 2)]),
        ([600], [lost(600, 600)]),
        ([5, 7], [lost(5, 5), lost(7, 7)]),
        ([256], [lost(256, 256)]),
        ([257], [lost(257, 257)]),
        (range(20, 500), [lost(20, 499)]),
        (range(1, 600), [lost(None, 599)]),
    ],
    ids=str,
)
def test_what_is_lost_is_named_to_the_number(damaged: Sequence[int], losses: list[str]) -> None:
    sound = [number for number in range(1, 601) if number not in damaged]
    with previews(sound, damaged) as made:
        assert saved(made) == sound
    assert made.losses == losses


@pytest.mark.parametrize("length", [510, 511, 512, 513, 514, 1023, 1024, 1025, 1026, 3000])
def test_a_long_stretch_of_damage_ends_where_the_next_sound_row_is(length: int) -> None:
    with previews([9, 10 + length, 11 + length], range(10, 10 + length)) as made:
        assert saved(made) == [9, 10 + length, 11 + length]
    assert made.losses == [lost(10, 9 + length)]


def test_rows_at_the_ends_of_all_numbers_are_saved_too() -> None:
    with previews([FIRST, 5, LAST], [6]) as made:
        assert saved(made) == [FIRST, 5, LAST]
    assert made.losses == [lost(6, 6)]


def test_the_last_number_of_all_is_read_behind_damage() -> None:
    with previews([5, LAST], [LAST - 1]) as made:
        assert saved(made) == [5, LAST]
    assert made.losses == [lost(6, LAST - 1)]


def test_damage_up_to_the_last_number_has_no_end() -> None:
    with previews([5], [LAST]) as made:
        assert saved(made) == [5]
    assert made.losses == ["previews: rows from number 6 on cannot be read"]


class OutOfOrder:
    """A connection that finds rows in an order that only a damaged page has."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def execute(self, _query: str, parameters: tuple[int, int]) -> OutOfOrder:
        low, limit = parameters
        return OutOfOrder(self._numbers[:limit] if low <= 10 else [])

    def fetchall(self) -> list[tuple[int, str]]:
        return [(number, f"row {number}") for number in self._numbers]


@pytest.mark.parametrize("numbers", [[5, 4], [5, 5], [-3, 5]])
def test_rows_that_come_out_of_order_are_not_trusted(numbers: list[int]) -> None:
    broken: Any = OutOfOrder(numbers)
    made = _Reader(broken, TABLES["previews"], ["name"], [])
    assert made._page(0, 2) is None
    assert made._page(11, 2) == []


# --- rows without one -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def evidence(rows: Iterable[tuple[str, str, str]]) -> Iterator[_Reader]:
    schema = (
        "CREATE TABLE absorbed_evidence (example_digest TEXT, worker_id TEXT, accuracy TEXT, "
        "PRIMARY KEY (example_digest, worker_id)) WITHOUT ROWID"
    )
    with reader("absorbed_evidence", schema, rows) as made:
        yield made


def digest(number: int) -> str:
    """Return a digest of one of three kinds of beginning."""
    return f"{('0a', '7f', 'ff')[number // 4]}{number:02}"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
@example([True] * 12)
@example([False] * 12)
@example([True, False, True, False, True, True, False, True, False, True, True, True])
def test_rows_without_a_number_are_read_from_both_ends_and_from_every_beginning_of_a_key(is_sound: list[bool]) -> None:
    rows = [(digest(n), "w", "sound" if fine else "damaged") for n, fine in enumerate(is_sound)]
    before = next((n for n, fine in enumerate(is_sound) if not fine), 12)
    behind = next((n for n in range(11, -1, -1) if not is_sound[n]), -1)
    reached = {n for n in range(12) if n < before or n > behind or all(is_sound[4 * (n // 4) : n + 1])}
    with evidence(rows) as made:
        found = {row["example_digest"] for row in made.rows()}
    assert found == {digest(number) for number in reached}
    assert made.losses == ([] if all(is_sound) else ["absorbed_evidence: some rows cannot be read"])


def test_of_rows_without_a_number_each_is_given_once() -> None:
    rows = [("00", "a", "sound"), ("00", "b", "sound"), ("01", "a", "damaged"), ("01", "b", "sound")]
    with evidence(rows) as made:
        found = [(row["example_digest"], row["worker_id"], row["accuracy"]) for row in made.rows()]
    assert sorted(found) == [("00", "a", "sound"), ("00", "b", "sound"), ("01", "b", "sound")]
