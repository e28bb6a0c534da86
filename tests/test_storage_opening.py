"""Recognising a database file: a new one, one that an application made by the guide, and all that is refused."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from database_support import (
    GUIDE,
    GUIDE_TABLES,
    answer,
    contents,
    count_up,
    counted,
    execute,
    fill,
    ids,
    plain,
    started,
    tell,
)
from tsm_training import TrainingDataManager
from tsm_training.data import EpochMetrics, WorkerOutcome
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    SchemaTooNewError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageReadOnlyError,
)
from tsm_training.storage import APPLICATION_ID, SCHEMA_VERSION
from tsm_training.storage.sqlite import backup
from tsm_training.storage.sqlite.connection import Database
from tsm_training.testing import make_example, make_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


# --- a new file -----------------------------------------------------------------------------------------------------


def test_the_guides_tables_are_there_to_the_letter(path: Path, tmp_path: Path) -> None:
    TrainingDataManager(path).close()
    with plain(tmp_path / "guide.db") as guide, plain(path) as ours:
        guide.executescript(GUIDE)
        for table, pragma in itertools.product(GUIDE_TABLES, ("table_info", "foreign_key_list")):
            expected = guide.execute(f"PRAGMA {pragma}({table})").fetchall()
            assert ours.execute(f"PRAGMA {pragma}({table})").fetchall() == expected
            assert expected or pragma == "foreign_key_list"
        (sql,) = ours.execute("SELECT sql FROM sqlite_schema WHERE name = 'training_metrics'").fetchone()
    assert "id INTEGER PRIMARY KEY AUTOINCREMENT" in sql


def test_our_own_tables_are_strict_and_the_file_says_whose_it_is(path: Path) -> None:
    TrainingDataManager(path).close()
    with plain(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").fetchall()
    loose = {name for name, strict in tables if not strict and not name.startswith("sqlite_")}
    assert loose == set(GUIDE_TABLES)
    assert APPLICATION_ID.to_bytes(4, "big") == b"TSM1"


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.get_all_examples() == []
    TrainingDataManager(path).close()
    assert list(path.parent.iterdir()) == [path]


def test_a_database_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        fill(store)
        assert store.location == ":memory:"
        assert store.check() == []
    assert list(tmp_path.iterdir()) == []


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(path: Path, error: type[StorageError], **arguments: Any) -> StorageError:
    """Open a file that cannot be used, and see that nothing happens to it."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(error) as caught:
        TrainingDataManager(path, **arguments)
    assert type(caught.value) is error
    assert caught.value.location == str(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before
    return caught.value


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_with_both_versions(path: Path, read_only: bool) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
    execute(path, "PRAGMA user_version = 99")
    assert refused(path, SchemaTooNewError, read_only=read_only).reason.startswith("it has schema version 99")


@pytest.mark.parametrize("read_only", [False, True])
def test_an_earlier_version_of_ours_is_refused(path: Path, read_only: bool) -> None:
    TrainingDataManager(path).close()
    for version in range(-1, SCHEMA_VERSION):
        execute(path, f"PRAGMA user_version = {version}")
        assert f"schema version {version}," in refused(path, DatabaseNotOursError, read_only=read_only).reason


FIRST = GUIDE.split(";\n")


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE customers (id INTEGER)", "INSERT INTO customers VALUES (1)"],
        ["CREATE TABLE sqlitehouse (id INTEGER)"],
        ["CREATE TABLE training_examples (example_id TEXT PRIMARY KEY, picture BLOB)"],
        ["CREATE TABLE training_sessions (session_id TEXT PRIMARY KEY)"],
        [*FIRST[:3], "CREATE TABLE customers (id INTEGER)"],
        ["PRAGMA application_id = 7"],
        ["PRAGMA user_version = 7"],
        [FIRST[0], "PRAGMA user_version = 7"],
        [*FIRST[:3], "CREATE TRIGGER t AFTER INSERT ON training_examples BEGIN DELETE FROM training_examples; END"],
        ["CREATE VIEW TRAINING_EXAMPLES AS SELECT 1"],
        [FIRST[0].replace("metadata TEXT", "metadata TEXT AS ('{}')")],
    ],
)
def test_another_applications_database_is_refused(path: Path, statements: list[str]) -> None:
    execute(path, *statements)
    refused(path, DatabaseNotOursError)
    refused(path, DatabaseNotOursError, read_only=True)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
        "ALTER TABLE previews ADD COLUMN twice INTEGER AS (num_bytes * 2)",
    ],
)
def test_our_own_file_is_refused_where_its_tables_would_do_more_than_keep_values(path: Path, change: str) -> None:
    TrainingDataManager(path).close()
    execute(path, change)
    assert "which the library never makes" in refused(path, DatabaseNotOursError).reason


@pytest.mark.parametrize(
    "content", [b"hello", b"\x89PNG\r\n\x1a\n" * 500, b"SQLite format 2\0" * 100, bytes(range(256)) * 16]
)
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, DatabaseNotOursError)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path, path: Path) -> None:
    assert refused(tmp_path, StorageError).reason == "it is a folder"
    assert "does not exist" in refused_new(tmp_path / "missing" / "training.db")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert refused(path, StorageError).reason == "it is no regular file"


def refused_new(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        TrainingDataManager(path)
    return caught.value.reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe_is_refused_without_waiting(path: Path, read_only: bool) -> None:
    os.mkfifo(path)
    refused(path, StorageError, read_only=read_only)


def test_a_file_whose_pages_are_damaged_is_refused(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the first page, behind the header: the list of tables
    path.write_bytes(content)
    assert ".recover" in refused(path, StorageCorruptError).reason


@pytest.mark.parametrize("statement", ["DELETE FROM store_identity", "DROP TABLE store_identity"])
def test_a_file_that_lost_its_identity_is_refused(path: Path, statement: str) -> None:
    TrainingDataManager(path).close()
    execute(path, statement)
    assert "store_identity" in refused(path, StorageCorruptError).reason


@pytest.mark.parametrize("bad", ["", "file:training.db", "a\0b", None, 3, b"training.db"])
def test_a_path_that_is_no_plain_path_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(bad)
    assert (caught.value.argument, caught.value.seen) == ("db_path", bad)


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        *(("busy_timeout", bad) for bad in (-1, -0.001, float("nan"), float("inf"), "30", None, True)),
        *(("read_only", bad) for bad in (1, None, "yes")),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(path: Path, argument: str, bad: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(path, **{argument: bad})
    assert caught.value.argument == argument
    assert not path.exists()


def test_a_viewer_makes_nothing(path: Path) -> None:
    assert "no such file" in refused(path, StorageError, read_only=True).reason
    path.touch()
    assert "it is empty" in refused(path, StorageReadOnlyError, read_only=True).reason
    make_guide(path)
    assert "by the guide" in refused(path, StorageReadOnlyError, read_only=True).reason
    with pytest.raises(InvalidArgumentError):
        TrainingDataManager(":memory:", read_only=True)


# --- where a file lies ----------------------------------------------------------------------------------------------


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with contextlib.closing(TrainingDataManager("~/training.db")) as store:
        assert store.location == str(tmp_path / "training.db")
    assert (tmp_path / "training.db").exists()


def test_a_later_change_of_the_working_folder_means_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrainingDataManager()) as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.add_examples([make_example("a")])
        assert store.location == str(tmp_path / "tsm_training.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with contextlib.closing(TrainingDataManager(tmp_path / "tsm_training.db")) as again:
        assert again.get_all_examples() == [make_example("a")]


def test_a_name_that_looks_like_an_address_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=ro#b%20c.db"
    for read_only in (False, False, True):
        with contextlib.closing(TrainingDataManager(path, read_only=read_only)) as store:
            assert store.load_state().token == ""
    assert list(tmp_path.iterdir()) == [path]


# --- an application's own file --------------------------------------------------------------------------------------


def make_guide(path: Path) -> None:
    """Write a file as an application does that followed the guide: naive times, and much that is NULL."""
    with plain(path) as connection:
        connection.executescript(GUIDE)
        for number, name in enumerate(["z", "a", "m"]):
            connection.execute(
                "INSERT INTO training_examples VALUES (?, '/s.png', '/t.png', '/g.png', ?, ?, NULL, NULL)",
                (name, f"2024-01-0{3 - number}T10:00:00.5", '{"tag": "x"}' if number == 0 else None),
            )
        connection.execute(
            "INSERT INTO training_sessions VALUES ('y', '2024-01-02T00:00:00', '2024-01-02T00:00:01', 3, 2, 0.15, "
            """'{"w": 1.0}', '{"w": 1.25}', '[{"epoch": 1, "avg_accuracy": 0.5}]', 'completed')"""
        )
        connection.execute("INSERT INTO training_sessions (session_id, start_time) VALUES ('b', '2024-01-01T00:00:00')")
        connection.execute(
            "INSERT INTO training_metrics (session_id, epoch, example_id, worker_id, accuracy, confidence, loss, "
            "timestamp) VALUES ('y', 1, 'z', 'w', 0.5, 1.0, 0.5, '2024-01-02T00:00:00')"
        )


def copies(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.schema"))


def test_an_applications_records_are_kept_in_order(path: Path) -> None:
    make_guide(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        examples = store.get_all_examples()
        assert ids(store) == ["z", "a", "m"]
        assert examples[0].created_at == datetime(2024, 1, 3, 10, 0, 0, 500_000, tzinfo=UTC)
        assert [example.metadata for example in examples] == [{"tag": "x"}, {}, {}]
        assert all(example.files is None and example.worker_results is None for example in examples)
        full, bare = store.get_all_sessions()
        assert (full.epochs, full.initial_weights, full.final_weights) == (2, {"w": 1.0}, {"w": 1.25})
        assert full.end_time == datetime(2024, 1, 2, 0, 0, 1, tzinfo=UTC)
        assert [(entry["epoch"], entry["avg_accuracy"]) for entry in full.metrics_history] == [(1, 0.5)]
        assert (full.seed, full.training_ids, full.error, full.is_trial) == (None, (), None, False)
        assert (bare.session_id, bare.end_time, bare.status, bare.metrics_history) == ("b", None, "completed", ())
        assert (bare.epochs, bare.num_examples, bare.learning_rate, bare.initial_weights) == (0, 0, 0.0, {})
        assert [(row.worker_id, row.accuracy) for row in store.iterate_metrics("y")] == [("w", 0.5)]
        assert list(store.iterate_metrics("b")) == []
        assert store.check() == []


HISTORY = [
    {"epoch": 0, "avg_accuracy": 0.7, "worker_accuracies": {"a": 0.8, "b": 0.4, "c": None}, "example_accuracies": [{}]},
    {"epoch": 1, "avg_accuracy": 0.75},
    {"epoch": 2, "worker_accuracies": [0.5]},
]


def test_what_the_guide_leaves_open_of_an_epoch_is_there_and_what_is_there_stays(path: Path) -> None:
    make_guide(path)
    with plain(path) as connection:
        connection.execute("UPDATE training_sessions SET metrics_history = ?", (json.dumps(HISTORY),))
    with contextlib.closing(TrainingDataManager(path)) as store:
        first, second, third = store.get_session("y").metrics_history
    for entry in (first, second, third):
        assert set(typing.get_type_hints(EpochMetrics)) <= set(entry)
    assert first.items() >= HISTORY[0].items()
    assert first["equal_weights_accuracy"] == pytest.approx(0.6)
    assert (second["avg_accuracy"], second["equal_weights_accuracy"], second["worker_accuracies"]) == (0.75, 0.75, {})
    assert (third["avg_accuracy"], third["worker_accuracies"], third["weights"]) == (0.0, {}, {})
    with plain(path) as connection:
        assert connection.execute("SELECT metrics_history FROM training_sessions").fetchone() == (json.dumps(HISTORY),)


@pytest.mark.parametrize(
    ("noted", "accuracy", "error"),
    [
        (0.75, 0.75, None),
        (1, 1.0, None),
        ({"accuracy": 0.75, "quality": "high"}, 0.75, None),
        ({"accuracy": None, "error": "too slow"}, None, "too slow"),
        ("failed", None, None),
        (7.5, None, None),
        (True, None, None),
    ],
)
def test_what_another_application_noted_of_a_worker_is_an_outcome(
    path: Path, noted: object, accuracy: float | None, error: str | None
) -> None:
    make_guide(path)
    with plain(path) as connection:
        connection.execute("UPDATE training_examples SET worker_results = ?", (json.dumps({"w": noted}),))
    with contextlib.closing(TrainingDataManager(path)) as store:
        results = store.get_example("a").worker_results
    assert results is not None
    assert set(typing.get_type_hints(WorkerOutcome)) <= set(results["w"])
    assert (results["w"]["accuracy"], results["w"]["is_valid"]) == (accuracy, accuracy is not None)
    assert results["w"]["error"] == error


def test_an_applications_file_can_be_used_like_any_other_from_then_on(path: Path) -> None:
    make_guide(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("new")])
        store.edit_examples({"a": lambda _stored: make_example("a", files=make_files("a"))})
        store.remove_example("z")
        store.update_state(count_up)
        identity = store.store_id
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.store_id == identity
        assert ids(again) == ["a", "m", "new"]
        assert again.get_example("a").files == make_files("a")
        assert counted(again) == 1


def test_a_file_with_only_some_of_the_guides_tables_gets_the_others(path: Path) -> None:
    execute(path, FIRST[0])
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        assert store.get_dataset_stats()["total_sessions"] == 1


def test_what_an_application_writes_later_is_found_at_the_next_opening(path: Path) -> None:
    make_guide(path)
    TrainingDataManager(path).close()
    execute(
        path,
        "INSERT INTO training_examples VALUES ('late', 's', 't', 'g', '2024-01-04T00:00:00', NULL, NULL, NULL)",
        "INSERT INTO training_examples VALUES (x'00', 's', 't', 'g', '2024-01-04T00:00:00', NULL, NULL, NULL)",
        "INSERT INTO training_sessions (session_id, start_time) VALUES ('later', '2024-01-05T00:00:00')",
    )
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert ids(store) == ["z", "a", "m", "late"]
        assert [session.session_id for session in store.get_all_sessions()] == ["y", "b", "later"]


def test_columns_that_somebody_has_added_disturb_nothing(path: Path) -> None:
    TrainingDataManager(path).close()
    execute(path, *(f"ALTER TABLE {table} ADD COLUMN note TEXT DEFAULT 'mine'" for table in GUIDE_TABLES))
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        assert store.check() == []
        assert store.get_example("example").example_id == "example"
        assert store.get_session("session").status == "completed"


# --- a copy is put beside it before -----------------------------------------------------------------------------------


def test_an_upgraded_file_loses_nothing_has_the_schema_of_a_new_one_and_leaves_a_copy(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_guide(path)
    before = contents(path)
    with caplog.at_level(logging.INFO, "tsm_training"):
        TrainingDataManager(path).close()
    TrainingDataManager(tmp_path / "new.db").close()
    after, new = contents(path), contents(tmp_path / "new.db")
    assert after.keys() == new.keys()
    assert after["version"] == [(SCHEMA_VERSION,)]
    assert all(after[table] == before[table] for table in GUIDE_TABLES)
    (copy,) = copies(path)
    assert copy.name == "training.db.schema-0.backup"
    assert contents(copy) == before
    assert str(copy) in caplog.text
    TrainingDataManager(path).close()
    assert copies(path) == [copy]


def test_an_earlier_copy_is_never_replaced(path: Path) -> None:
    earlier = path.with_name("training.db.schema-0.backup")
    earlier.write_text("precious", encoding="utf-8")
    path.with_name("training.db.schema-0.backup-2").symlink_to(path.with_name("nowhere"))
    make_guide(path)
    TrainingDataManager(path).close()
    assert earlier.read_text(encoding="utf-8") == "precious"
    assert [copy.name for copy in copies(path)][-1] == "training.db.schema-0.backup-3"


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, StorageError), (errno.ENOSPC, StorageFullError)])
def test_without_a_copy_there_is_no_upgrade(
    path: Path, number: int, kind: type[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_guide(path)

    def refuse(_descriptor: int) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(backup.os, "fsync", refuse)
        assert "before upgrading it" in refused(path, kind).reason
    assert list(path.parent.iterdir()) == [path]
    TrainingDataManager(path).close()


KILLED = """
import os, signal, sqlite3, sys
from tsm_training.storage import TrainingDataManager
steps = 0
def step():
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
def watch(event, arguments):
    if event in ("open", "os.rename", "os.remove", "sqlite3.connect"):
        step()
class Connection(sqlite3.Connection):
    def execute(self, *arguments):
        step()
        return super().execute(*arguments)
original = sqlite3.connect
sqlite3.connect = lambda *arguments, **settings: original(*arguments, **{**settings, "factory": Connection})
sys.addaudithook(watch)
TrainingDataManager(sys.argv[1]).close()
print(steps)
"""


def open_killed_at(path: Path, step: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-B", "-c", KILLED, str(path), str(step)]  # the first run writes no more files
    return subprocess.run(arguments, check=False, timeout=120, capture_output=True, text=True)


@pytest.mark.slow
def test_a_process_killed_while_it_upgrades_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    make_guide(whole)
    steps = int(open_killed_at(whole, 0).stdout)
    found_after_kill = set()
    for step in [*range(1, steps - 6, 23), *range(steps - 6, steps + 1)]:
        path = tmp_path / f"{step}.db"
        make_guide(path)
        before = contents(path)
        assert open_killed_at(path, step).returncode == -signal.SIGKILL
        with plain(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (found,) = connection.execute("PRAGMA user_version").fetchone()
        found_after_kill.add(found)
        assert contents(path if found == 0 else copies(path)[0]) == before
        TrainingDataManager(path).close()
        assert contents(path)["version"] == [(SCHEMA_VERSION,)]
    assert found_after_kill == {0, SCHEMA_VERSION}


# --- several processes ----------------------------------------------------------------------------------------------

OPENER = """
import sys
import typing
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import make_example
print("ready", flush=True)
for line in sys.stdin:
    store = TrainingDataManager(line.strip())
    store.add_examples([make_example(sys.argv[1])])
    store.close()
    print(store.store_id, flush=True)
"""


@pytest.mark.slow
def test_several_processes_open_a_new_file_together(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(OPENER, number)) for number in range(4)]
        assert [answer(process) for process in processes] == ["ready"] * 4
        for attempt in range(6):
            path = tmp_path / f"{attempt}.db"
            for process in processes:
                tell(process, str(path))
            identities = {answer(process) for process in processes}
            with contextlib.closing(TrainingDataManager(path)) as store:
                assert identities == {store.store_id}
                assert sorted(ids(store)) == [str(number) for number in range(4)]


def test_the_second_process_finds_the_tables_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[TrainingDataManager] = []
    writing = Database.writing

    def overtaken(database: Database) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        monkeypatch.undo()
        first.append(TrainingDataManager(path))
        return writing(database)

    monkeypatch.setattr(Database, "writing", overtaken)
    with contextlib.closing(TrainingDataManager(path)) as second, contextlib.closing(first[0]):
        assert second.store_id == first[0].store_id
        second.add_examples([make_example("a")])
        assert first[0].get_all_examples() == [make_example("a")]


def _open(path: str, barrier: Any) -> None:
    barrier.wait()
    TrainingDataManager(path).close()


@pytest.mark.slow
def test_processes_that_open_an_older_file_together_upgrade_it_once(path: Path) -> None:
    make_guide(path)
    before = contents(path)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_open, args=(str(path), barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3
    (copy,) = copies(path)
    assert contents(copy) == before
