"""The one connection to a file: how it is set up, how long it waits, what it says, and that it is given back."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training import TrainingDataManager
from tsm_training.errors import StorageClosedError, StorageError, StorageMovedError
from tsm_training.storage.sqlite import connection as connection_module
from tsm_training.storage.sqlite.connection import Database, OpenMode
from tsm_training.testing import make_example

DESCRIPTORS = Path("/proc/self/fd")
MOVED = (
    "it was moved, deleted or replaced since it was opened; nothing was written. See where it went before you open it "
    "again: where there is no file, a new one is made"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    made = Database(str(path), 30.0)
    made.open()
    with contextlib.closing(made):
        yield made


def busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


# --- how it is set up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rwc", "ro"])
def test_every_connection_is_durable_and_careful_and_never_waits_by_itself(path: Path, mode: OpenMode) -> None:
    TrainingDataManager(path).close()
    database = Database(str(path), 30.0, read_only=mode == "ro")
    database.open()
    with contextlib.closing(database), database.reading() as connection:
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("foreign_keys", "synchronous", "trusted_schema", "busy_timeout")
        }
        assert settings == {"foreign_keys": 1, "synchronous": 2, "trusted_schema": 0, "busy_timeout": 0}
        assert connection.isolation_level is None
        assert connection.execute("SELECT CAST(x'78ff' AS TEXT)").fetchone() == ("x\udcff",)


def test_a_name_that_looks_like_an_address_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=ro#b%20c.db"
    for _ in range(2):
        with contextlib.closing(TrainingDataManager(path)) as store:
            store.load_learning()
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        assert viewer.load_learning().version == 0
    assert list(tmp_path.iterdir()) == [path]


# --- how long it waits ----------------------------------------------------------------------------------------------


@attrs.define
class Clock:
    """A clock that goes on only while somebody sleeps."""

    now: float = 0.0
    naps: list[float] = attrs.field(factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(connection_module, "time", clock)
    return clock


def waited(database: Database, clock: Clock) -> float:
    """Return for how long an action that never succeeds is repeated."""

    def action() -> None:
        raise busy()

    start = clock.now
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        database._patiently(action)
    return clock.now - start


@pytest.mark.parametrize("timeout", [0.0, 0.07, 3.0])
def test_an_action_is_repeated_in_short_steps_for_as_long_as_was_said(path: Path, clock: Clock, timeout: float) -> None:
    database = Database(str(path), timeout)
    assert timeout <= waited(database, clock) < timeout + 0.05 + 1e-9
    assert set(clock.naps) <= {0.05}
    assert bool(clock.naps) == bool(timeout)


@pytest.mark.parametrize(("timeout", "expected"), [(30.0, 0.1), (0.05, 0.05)])
def test_whoever_hurries_waits_a_moment_at_most(path: Path, clock: Clock, timeout: float, expected: float) -> None:
    database = Database(str(path), timeout)
    with database.hurrying():
        assert expected <= waited(database, clock) < expected + 0.05 + 1e-9
        with database.hurrying():
            pass
        assert waited(database, clock) < expected + 0.05 + 1e-9
    assert waited(database, clock) >= timeout


def test_an_action_that_succeeds_in_the_end_was_worth_the_wait(path: Path, clock: Clock) -> None:
    answers: list[Exception | str] = [busy(), busy(), "done"]

    def action() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Database(str(path), 30.0)._patiently(action) == "done"
    assert clock.naps == [0.05, 0.05]


def test_an_error_that_waiting_does_not_mend_is_told_at_once(path: Path, clock: Clock) -> None:
    def action() -> None:
        raise sqlite3.OperationalError("Python's own, without a code")

    with pytest.raises(sqlite3.OperationalError, match="own"):
        Database(str(path), 30.0)._patiently(action)
    assert clock.naps == []


# --- what it says ---------------------------------------------------------------------------------------------------


def said(use: Callable[[], object]) -> tuple[type[StorageError], str, str]:
    with pytest.raises(StorageError) as caught:
        use()
    return type(caught.value), caught.value.location, caught.value.reason


def test_a_store_that_was_closed_says_what_to_do(database: Database, path: Path) -> None:
    database.close()
    expected = (StorageClosedError, str(path), "it was closed; open it again")
    assert said(lambda: database.fetch("SELECT 1")) == expected


def test_a_store_that_is_closed_by_another_thread_meanwhile_says_the_same(database: Database, path: Path) -> None:
    def use() -> None:
        with database.reading() as connection:
            database.close()
            connection.execute("SELECT 1")

    assert said(use) == (StorageClosedError, str(path), "it was closed; open it again")


def test_a_value_that_sqlite_does_not_know_is_an_error_of_the_store(database: Database, path: Path) -> None:
    kind, location, reason = said(lambda: database.fetch("SELECT ?", ([],)))
    assert (kind, location) == (StorageError, str(path))
    assert "list" in reason


def test_a_database_in_memory_stays_where_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(TrainingDataManager(":memory:")) as memory:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        expected = (StorageError, ":memory:", "a database in memory stays with the process that made it")
        assert said(memory.load_learning) == expected
        monkeypatch.undo()


def test_a_file_that_was_moved_is_told_with_what_to_do(database: Database, path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))
    assert said(lambda: database.fetch("SELECT 1")) == (StorageMovedError, str(path), MOVED)


def test_a_file_that_goes_while_it_is_opened_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = connection_module.connect

    def overtaken(name: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
        opened = real(name, mode)
        opened.execute("PRAGMA user_version").fetchone()
        path.unlink()
        return opened

    monkeypatch.setattr(connection_module, "connect", overtaken)
    reason = "it was moved, deleted or replaced while it was being opened"
    assert said(Database(str(path), 0.0).open) == (StorageMovedError, str(path), reason)


def test_a_place_that_cannot_be_looked_at_is_told_with_the_systems_reason(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(connection_module.os, "stat", refuse)
        found = said(lambda: database.fetch("SELECT 1"))
    assert found == (StorageError, str(path), "the system does not let us look at it: Permission denied")


# --- and is given back ----------------------------------------------------------------------------------------------


def descriptors(path: Path) -> int:
    """Return how often this process has a file open."""
    names = []
    for descriptor in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself is gone by now
            names.append(str(descriptor.readlink()))
    return names.count(str(path))


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="open files can be counted on Linux only")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_has_its_file_open_once_and_gives_it_back(path: Path, read_only: bool) -> None:
    TrainingDataManager(path).close()
    store = TrainingDataManager(path, read_only=read_only)
    store.get_all_examples()
    assert descriptors(path) == 1
    store.close()
    assert descriptors(path) == 0
    dropped = TrainingDataManager(path, read_only=read_only)
    assert descriptors(path) == 1
    del dropped
    gc.collect()
    assert descriptors(path) == 0


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="open files can be counted on Linux only")
def test_an_opening_that_fails_leaves_nothing_open(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be looked at " * 20)
    for read_only in (False, True):
        with pytest.raises(StorageError):
            TrainingDataManager(path, read_only=read_only)
        gc.collect()
        assert descriptors(path) == 0


def test_a_change_that_fails_leaves_no_transaction_open(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        with pytest.raises(RuntimeError), store._database.writing() as connection:
            raise RuntimeError
        with store._database.reading() as connection:
            assert not connection.in_transaction
        store.add_examples([make_example("after")])
