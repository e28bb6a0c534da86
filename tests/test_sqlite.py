import contextlib
import gc
import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tsm_training.data import ObservationRecord, Preview, SessionCommit, TrainingExample
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    SchemaTooNewError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
)
from tsm_training.learning import Absorbed, FittedBlend, Group, LearnedState, WorkerBase
from tsm_training.storage import APPLICATION_ID, SCHEMA_VERSION, TrainingDataManager
from tsm_training.storage.sqlite.connection import Database
from tsm_training.testing import (
    MOMENT,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_files,
    make_learned_state,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)

GUIDE = """
CREATE TABLE training_examples (
    example_id TEXT PRIMARY KEY,
    source_path TEXT NOT NULL,
    target_path TEXT NOT NULL,
    ground_truth_path TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,  -- JSON
    worker_results TEXT,  -- JSON
    validation_scores TEXT  -- JSON
);
CREATE TABLE training_sessions (
    session_id TEXT PRIMARY KEY,
    start_time TEXT NOT NULL,
    end_time TEXT,
    num_examples INTEGER,
    epochs INTEGER,
    learning_rate REAL,
    initial_weights TEXT,  -- JSON
    final_weights TEXT,  -- JSON
    metrics_history TEXT,  -- JSON
    status TEXT
);
CREATE TABLE training_metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    epoch INTEGER,
    example_id TEXT,
    worker_id TEXT,
    accuracy REAL,
    confidence REAL,
    loss REAL,
    timestamp TEXT,
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
);
"""
"""The user guide's schema, copied from there."""

GUIDE_TABLES = ("training_examples", "training_sessions", "training_metrics")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        yield store


@contextlib.contextmanager
def plain(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Use the file without the library; every statement is committed at once."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path: str | Path, *statements: str) -> None:
    with plain(path) as connection:
        for statement in statements:
            connection.execute(statement)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(store: TrainingDataManager) -> None:
    """Put something into every table and every column."""
    store.add_examples(
        [make_example("example", worker_results={"good": make_outcome()}, validation_scores=make_scores())]
    )
    failure = make_evaluation(
        worker_id="bad", accuracy=None, failure_kind="raised", failure_type="X", failure_message="no"
    )
    store.save_evaluations(
        [make_evaluation(accuracy=1.0), failure],
        [Preview("digest", "good", b"png", 1), Preview("digest", "target", b"png", None)],
        [ObservationRecord("digest", "good", b"noted"), ObservationRecord("digest", "bad", b"")],
    )
    store.begin_session(make_session())
    session = make_session(
        end_time=MOMENT, status="completed", final_weights={"good": 1.1}, metrics_history=[make_epoch_metrics()]
    )
    commit = SessionCommit(session, [make_metric_row(accuracy=1.0, loss=0.0)], make_learned_state())
    store.commit_session("session", lambda _held: commit)


def count_up(held: LearnedState) -> LearnedState:
    base = held.bases.get("counter", WorkerBase(1.0))
    return LearnedState({"counter": WorkerBase(1.0, update_count=base.update_count + 1)})


# --- the schema -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", GUIDE_TABLES)
@pytest.mark.parametrize("pragma", ["table_info", "foreign_key_list"])
def test_the_guides_tables_are_there_to_the_letter(
    store: TrainingDataManager, tmp_path: Path, table: str, pragma: str
) -> None:
    with plain(tmp_path / "guide.db") as guide, plain(store.location) as ours:
        guide.executescript(GUIDE)
        expected = guide.execute(f"PRAGMA {pragma}({table})").fetchall()
        assert ours.execute(f"PRAGMA {pragma}({table})").fetchall() == expected
        assert expected or pragma == "foreign_key_list"


def test_the_metric_rows_number_themselves_as_in_the_guide(store: TrainingDataManager) -> None:
    with plain(store.location) as connection:
        (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'training_metrics'").fetchone()
    assert "id INTEGER PRIMARY KEY AUTOINCREMENT" in sql


def test_the_file_says_whose_it_is_and_of_which_version(store: TrainingDataManager) -> None:
    with plain(store.location) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert APPLICATION_ID.to_bytes(4, "big") == b"TSM1"


def test_every_stored_value_has_the_type_that_its_column_declares(store: TrainingDataManager) -> None:
    fill(store)
    store.begin_session(make_session("running"))
    with plain(store.location) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        connection.execute("INSERT INTO quarantined_rows VALUES (NULL, 'previews', '{}', 'a test', '2026-01-01')")
        for table in [name for name in tables if not name.startswith("sqlite_")]:
            assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] > 0, table
            for _id, column, declared, not_null, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                found = {kind for (kind,) in connection.execute(f"SELECT DISTINCT typeof({column}) FROM {table}")}
                assert found <= {declared.lower()} | (set() if not_null else {"null"}), (table, column)


def test_json_columns_hold_what_other_tools_can_read(store: TrainingDataManager) -> None:
    store.add_examples([make_example("a", metadata={"camera": "Ünïcödé"})])
    with plain(store.location) as connection:
        (metadata,) = connection.execute("SELECT metadata FROM training_examples").fetchone()
        (name,) = connection.execute("SELECT metadata ->> 'camera' FROM training_examples").fetchone()
    assert json.loads(metadata) == {"camera": "Ünïcödé"}
    assert name == "Ünïcödé"


def test_metric_rows_of_an_unknown_session_are_refused(store: TrainingDataManager) -> None:
    store.begin_session(make_session())
    commit = SessionCommit(make_session(status="completed"), [make_metric_row("orphan")], make_learned_state())
    with pytest.raises(StorageError, match="FOREIGN KEY"):
        store.commit_session("session", lambda _held: commit)
    assert store.get_session("session") == make_session()
    assert store.load_learning().version == 0


def test_a_value_that_cannot_be_stored_is_named_and_nothing_is_half_done(store: TrainingDataManager) -> None:
    for changes in ({"source_path": "\ud800"}, {"metadata": {"x": "\ud800"}}):
        with pytest.raises(StorageError, match="cannot be stored"):
            store.add_examples([make_example("a"), make_example("b", **changes)])
    store.begin_session(make_session())
    too_large = SessionCommit(make_session(num_examples=2**63))
    with pytest.raises(StorageError, match="cannot be stored"):
        store.commit_session("session", lambda _held: too_large)
    assert store.get_all_examples() == []


# --- a path that cannot be used -------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_as_it_was(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
    execute(path, "PRAGMA user_version = 99")
    before = digest(path)
    with pytest.raises(SchemaTooNewError, match="version 99"):
        TrainingDataManager(path)
    assert digest(path) == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE customers (id INTEGER)", "INSERT INTO customers VALUES (1)"],
        ["CREATE TABLE sqlitehouse (id INTEGER)"],
        ["CREATE TABLE training_examples (example_id TEXT PRIMARY KEY, picture BLOB)"],
        ["CREATE TABLE training_sessions (session_id TEXT PRIMARY KEY)"],
        [*GUIDE.split(";\n")[:3], "CREATE TABLE customers (id INTEGER)"],
        ["PRAGMA application_id = 7"],
        ["PRAGMA user_version = 7"],
        [GUIDE.split(";\n", maxsplit=1)[0], "PRAGMA user_version = 7"],
    ],
    ids=[
        "table",
        "like an internal name",
        "columns",
        "no examples",
        "one table more",
        "id",
        "version",
        "guide's version",
    ],
)
def test_another_applications_database_is_refused_and_left_as_it_was(path: Path, statements: list[str]) -> None:
    execute(path, *statements)
    before = digest(path)
    with pytest.raises(DatabaseNotOursError, match="another application") as caught:
        TrainingDataManager(path)
    assert caught.value.location == str(path)
    assert digest(path) == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [b"hello", b"\x89PNG\r\n\x1a\n" * 500, b"SQLite format 2\0" * 100, bytes(range(256)) * 16]
)
def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DatabaseNotOursError, match="not an SQLite database"):
        TrainingDataManager(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.get_all_examples() == []


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder") as caught:
        TrainingDataManager(tmp_path)
    assert caught.value.location == str(tmp_path)


def test_a_missing_folder_is_refused_by_name_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing' does not exist"):
        TrainingDataManager(tmp_path / "missing" / "training.db")
    assert list(tmp_path.iterdir()) == []


def test_a_socket_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(StorageError, match="it is no regular file"):
            TrainingDataManager(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_pipe_is_refused_without_waiting(path: Path, read_only: bool) -> None:
    os.mkfifo(path)
    with pytest.raises(StorageError, match="it is no regular file"):
        TrainingDataManager(path, read_only=read_only)


def test_columns_that_somebody_has_added_disturb_nothing(path: Path) -> None:
    TrainingDataManager(path).close()
    execute(path, *(f"ALTER TABLE {table} ADD COLUMN note TEXT DEFAULT 'mine'" for table in GUIDE_TABLES))
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        assert {fault.table for fault in store.check()} == {"previews"}  # no picture was put there
        assert store.get_example("example").example_id == "example"
        assert store.get_session("session").status == "completed"


@pytest.mark.parametrize("version", ["'many'", -1, 2**63 - 1])
def test_a_damaged_version_names_the_only_remedy(path: Path, version: object) -> None:
    TrainingDataManager(path).close()
    execute(path, f"UPDATE learning_version SET version = {version}")
    with pytest.raises(StorageCorruptError, match=r"learning_version.*tsm_training\.data\.salvage"):
        TrainingDataManager(path)


@pytest.mark.parametrize("bad", ["", "file:training.db", "a\0b", None, 3, b"training.db"])
def test_a_path_that_is_no_plain_path_is_refused(bad: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(bad)  # type: ignore[arg-type]
    assert caught.value.argument == "db_path"


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


def test_a_database_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        fill(store)
        assert store.location == ":memory:"
    assert list(tmp_path.iterdir()) == []


# --- an application's own file --------------------------------------------------------------------------------------


def legacy(path: Path) -> None:
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
        connection.execute(
            "INSERT INTO training_sessions VALUES ('b', '2024-01-01T00:00:00', NULL, NULL, NULL, NULL, NULL, NULL, "
            "NULL, NULL)"
        )
        connection.execute(
            "INSERT INTO training_metrics (session_id, epoch, example_id, worker_id, accuracy, confidence, loss, "
            "timestamp) VALUES ('y', 1, 'z', 'w', 0.5, 1.0, 0.5, '2024-01-02T00:00:00')"
        )


def test_an_applications_examples_are_kept_in_order(path: Path) -> None:
    legacy(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        examples = store.get_all_examples()
        assert [example.example_id for example in examples] == ["z", "a", "m"]
        assert examples[0].created_at == datetime(2024, 1, 3, 10, 0, 0, 500_000, tzinfo=UTC)
        assert [example.metadata for example in examples] == [{"tag": "x"}, {}, {}]
        assert all(example.files is None and example.worker_results is None for example in examples)
        assert store.get_dataset_stats()["total_examples"] == 3


def test_what_an_application_writes_later_is_found_at_the_next_opening(path: Path) -> None:
    legacy(path)
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO training_examples VALUES ('late', 's', 't', 'g', '2024-01-04T00:00:00', NULL, NULL, NULL)"
        )
        connection.execute(
            "INSERT INTO training_sessions VALUES ('later', '2024-01-05T00:00:00', NULL, 1, 1, 0.1, NULL, NULL, NULL, "
            "NULL)"
        )
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert [example.example_id for example in store.get_all_examples()] == ["z", "a", "m", "late"]
        assert [session.session_id for session in store.get_all_sessions()][-1] == "later"


def test_an_applications_sessions_and_metrics_are_kept(path: Path) -> None:
    legacy(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        full, bare = store.get_all_sessions()
        assert full.to_dict() == {
            "session_id": "y",
            "start_time": "2024-01-02T00:00:00+00:00",
            "end_time": "2024-01-02T00:00:01+00:00",
            "num_examples": 3,
            "epochs": 2,
            "learning_rate": 0.15,
            "initial_weights": {"w": 1.0},
            "final_weights": {"w": 1.25},
            "metrics_history": [{"epoch": 1, "avg_accuracy": 0.5}],
            "status": "completed",
            "seed": None,
            "validation_split": None,
            "training_ids": [],
            "validation_ids": [],
            "skipped": {},
            "error": None,
            "is_trial": False,
            "validation": None,
            "group_by": None,
        }
        assert (bare.session_id, bare.end_time, bare.status, bare.metrics_history) == ("b", None, "completed", ())
        assert [(row.worker_id, row.accuracy) for row in store.get_metrics("y")] == [("w", 0.5)]
        assert store.get_metrics("b") == []
        assert store.load_learning().state == LearnedState()


def test_an_applications_file_can_be_used_like_any_other_from_then_on(path: Path) -> None:
    legacy(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("new")])
        store.update_examples([make_example("a", files=make_files("a"))])
        store.remove_example("z")
        store.update_learning(count_up)
        identity = store.store_id
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.store_id == identity
        assert [example.example_id for example in again.get_all_examples()] == ["a", "m", "new"]
        assert again.get_example("a").files == make_files("a")
        assert again.load_learning().state == count_up(LearnedState())


def test_an_applications_file_with_only_some_of_the_tables_gets_the_others(path: Path) -> None:
    execute(path, GUIDE.split(";\n", maxsplit=1)[0])
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        assert store.get_dataset_stats()["total_sessions"] == 1


# --- while another process holds the file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_examples([make_example("new")]),
        lambda store: store.update_examples([make_example("example", metadata={})], count_up),
        lambda store: store.remove_example("example", count_up),
        lambda store: store.save_evaluations([make_evaluation("new")]),
        lambda store: store.begin_session(make_session("new")),
        lambda store: store.commit_session("session", lambda held: SessionCommit(make_session(), (), count_up(held))),
        lambda store: store.update_learning(count_up),
    ],
    ids=["add", "update", "remove", "save", "begin", "commit", "learn"],
)
def test_a_locked_file_is_an_error_and_nothing_is_half_done(
    path: Path, write: Callable[[TrainingDataManager], object]
) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.06)) as store:
        fill(store)
        with plain(path) as other:
            other.execute("BEGIN IMMEDIATE")
            before = list(other.iterdump())
            with pytest.raises(StorageBusyError, match=r"0\.06 seconds"):
                write(store)
            assert list(other.iterdump()) == before
            other.execute("ROLLBACK")
        write(store)


def test_reading_goes_on_while_somebody_is_about_to_write(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.0)) as store, plain(path) as other:
        fill(store)
        other.execute("BEGIN IMMEDIATE")
        assert store.load_learning().state == make_learned_state()
        assert len(store.get_all_examples()) == 1


def test_a_file_that_is_locked_altogether_cannot_be_read_or_opened(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.0)) as store, plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (store.get_all_examples, store.load_learning, lambda: TrainingDataManager(path, busy_timeout=0.0)):
            with pytest.raises(StorageBusyError):
                use()
        other.execute("ROLLBACK")
        assert store.load_learning().version == 0


def test_a_commit_that_a_reader_holds_up_is_rolled_back(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.06)) as store, plain(path) as reader:
        fill(store)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM training_examples").fetchall()
        with pytest.raises(StorageBusyError):
            store.add_examples([make_example("new")])
        reader.execute("ROLLBACK")
        assert [example.example_id for example in store.get_all_examples()] == ["example"]
        store.add_examples([make_example("new")])


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_lock_that_goes_away_in_time_is_waited_for(path: Path, lock: str) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=30)) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute(f"BEGIN {lock}")
            release = threading.Timer(0.12, other.execute, ["ROLLBACK"])
            release.start()
            store.add_examples([make_example("a")])
            release.join()
        assert store.get_all_examples() == [make_example("a")]


def test_a_change_cannot_use_the_store_that_applies_it(store: TrainingDataManager) -> None:
    def change(held: LearnedState) -> LearnedState:
        store.add_examples([make_example("a")])
        return held

    with pytest.raises(StorageError, match="must not use the store"):
        store.update_learning(change)
    assert store.get_all_examples() == []
    assert store.load_learning().version == 0


def test_a_store_that_is_closed_in_the_middle_of_a_call_says_so(store: TrainingDataManager) -> None:
    def change(held: LearnedState) -> LearnedState:
        store.close()
        return held

    with pytest.raises(StorageClosedError):
        store.update_learning(change)
    with contextlib.closing(TrainingDataManager(store.location)) as again:
        assert again.load_learning().version == 0


def test_an_iterator_over_a_store_that_is_closed_meanwhile_says_so(store: TrainingDataManager) -> None:
    store.add_examples([make_example(f"e{number}") for number in range(300)])
    iterator = store.iterate_examples()
    next(iterator)
    store.close()
    with pytest.raises(StorageClosedError):
        list(iterator)


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "table", "column"),
    [
        ("UPDATE training_examples SET metadata = '{'", "training_examples", "metadata"),
        ("UPDATE training_examples SET metadata = '[1]'", "training_examples", "metadata"),
        ("UPDATE training_examples SET metadata = ''", "training_examples", "metadata"),
        ("UPDATE training_examples SET metadata = x'7b7d'", "training_examples", "metadata"),
        ("""UPDATE training_examples SET metadata = '{"a": NaN}'""", "training_examples", "metadata"),
        ("""UPDATE training_examples SET metadata = '{"a": -1e999}'""", "training_examples", "metadata"),
        (r"""UPDATE training_examples SET metadata = '{"a": "\ud800"}'""", "training_examples", "metadata"),
        ("UPDATE training_examples SET worker_results = '5'", "training_examples", "worker_results"),
        ("UPDATE training_examples SET validation_scores = 'x'", "training_examples", "validation_scores"),
        ("UPDATE training_examples SET created_at = 'yesterday'", "training_examples", "created_at"),
        ("UPDATE training_examples SET created_at = x'00'", "training_examples", "created_at"),
        ("UPDATE training_examples SET source_path = CAST(x'ff' AS TEXT)", "training_examples", "source_path"),
        ("UPDATE training_examples SET target_path = x'00'", "training_examples", "target_path"),
        ("UPDATE example_files SET files = '{}'", "example_files", "files"),
        ("""UPDATE example_files SET files = '{"source": 1}'""", "example_files", "files"),
        ("UPDATE example_files SET files = json_set(files, '$.source.sha256', 'abc')", "example_files", "files"),
        ("UPDATE example_files SET files = json_set(files, '$.target.width', 0)", "example_files", "files"),
        ("UPDATE example_files SET files = json_set(files, '$.target.width', 1.5)", "example_files", "files"),
        ("UPDATE example_files SET files = json_set(files, '$.target.depth', 1)", "example_files", "files"),
    ],
)
def test_a_damaged_example_is_named_with_table_and_row_and_keeps_no_other_from_being_used(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture, statement: str, table: str, column: str
) -> None:
    fill(store)
    store.add_examples([make_example("sound")])
    execute(store.location, f"{statement} WHERE example_id = 'example'")
    with pytest.raises(StorageCorruptError, match=f"{table}, 'example', {column}: .*quarantine") as caught:
        store.get_example("example")
    assert caught.value.location == store.location
    for _ in range(2):
        assert store.get_all_examples() == [make_example("sound")]
    (message,) = caplog.messages
    assert f"{table}, 'example', {column}" in message
    assert store.location in message
    with pytest.raises(StorageCorruptError, match=column):
        store.update_example_results("example", worker_results={})
    store.update_example_results("sound", worker_results={})


def test_json_nested_beyond_reason_is_damage(store: TrainingDataManager) -> None:
    fill(store)
    with plain(store.location) as connection:
        connection.execute("UPDATE training_examples SET metadata = ?", ('{"a":' + "[" * 100_000,))
    with pytest.raises(StorageCorruptError, match="metadata"):
        store.get_example("example")


@pytest.mark.parametrize(
    ("statement", "table", "column"),
    [
        ("UPDATE training_sessions SET initial_weights = '{'", "training_sessions", "initial_weights"),
        ("""UPDATE training_sessions SET initial_weights = '{"a": true}'""", "training_sessions", "initial_weights"),
        (
            f"""UPDATE training_sessions SET final_weights = '{{"a": {10**400}}}'""",
            "training_sessions",
            "final_weights",
        ),
        ("UPDATE training_sessions SET final_weights = '[]'", "training_sessions", "final_weights"),
        ("UPDATE training_sessions SET metrics_history = '{}'", "training_sessions", "metrics_history"),
        ("UPDATE training_sessions SET metrics_history = '[1]'", "training_sessions", "metrics_history"),
        ("UPDATE training_sessions SET start_time = 'x'", "training_sessions", "start_time"),
        ("UPDATE training_sessions SET end_time = 'x'", "training_sessions", "end_time"),
        ("UPDATE training_sessions SET num_examples = -1", "training_sessions", "num_examples"),
        ("UPDATE training_sessions SET epochs = 1.5", "training_sessions", "epochs"),
        ("UPDATE training_sessions SET learning_rate = 'fast'", "training_sessions", "learning_rate"),
        ("UPDATE training_sessions SET learning_rate = 9e999", "training_sessions", "learning_rate"),
        ("UPDATE training_sessions SET status = 'done'", "training_sessions", "status"),
        ("UPDATE session_details SET details = '[]'", "session_details", "details"),
        ("""UPDATE session_details SET details = '{"unknown": 1}'""", "session_details", "details"),
        ("""UPDATE session_details SET details = '{"is_trial": 1}'""", "session_details", "details"),
        ("""UPDATE session_details SET details = '{"training_ids": [1]}'""", "session_details", "details"),
        ("""UPDATE session_details SET details = '{"skipped": {"a": 1}}'""", "session_details", "details"),
    ],
)
def test_a_damaged_session_is_named_with_table_and_row_and_keeps_no_other_from_being_read(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture, statement: str, table: str, column: str
) -> None:
    fill(store)
    execute(store.location, statement)
    store.begin_session(make_session("sound"))
    with pytest.raises(StorageCorruptError, match=f"{table}, 'session', {column}"):
        store.get_session("session")
    assert store.get_all_sessions() == [make_session("sound")]
    assert [f"{table}, 'session', {column}" in message for message in caplog.messages] == [True]


def test_damaged_metrics_are_passed_over(store: TrainingDataManager, caplog: pytest.LogCaptureFixture) -> None:
    fill(store)
    commit = SessionCommit(make_session(status="completed"), [make_metric_row(worker_id="sound")])
    store.commit_session("session", lambda _held: commit)
    execute(store.location, "UPDATE training_metrics SET accuracy = 2 WHERE worker_id = 'good'")
    assert [row.worker_id for row in store.get_metrics("session")] == ["sound"]
    assert ["training_metrics" in message and "accuracy" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("created_at = 'x'", "created_at"),
        ("accuracy = 1.5, failure_kind = NULL", "accuracy"),
        ("accuracy = 0.5", "failure_kind"),
        ("failure_kind = NULL", "accuracy"),
        ("confidence = -0.5", "confidence"),
        ("confidence = 'high'", "confidence"),
        ("seconds = -1", "seconds"),
        ("seconds = 9e999", "seconds"),
        ("worker_fingerprint = x'00'", "worker_fingerprint"),
    ],
)
def test_a_damaged_evaluation_counts_as_missing_and_can_be_replaced(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture, change: str, column: str
) -> None:
    fill(store)
    execute(store.location, f"UPDATE evaluations SET {change} WHERE worker_id = 'bad'")
    assert [evaluation.key.worker_id for evaluation in store.load_evaluations(["digest"])] == ["worker"]
    assert [f"evaluations, 'digest', 'bad', {column}" in message for message in caplog.messages] == [True]
    store.save_evaluations([make_evaluation(worker_id="bad")])
    assert [evaluation.key.worker_id for evaluation in store.load_evaluations(["digest"])] == ["worker", "bad"]


@pytest.mark.parametrize(
    ("statement", "table", "column"),
    [
        ("UPDATE learned_bases SET prior = 0 WHERE worker_id = 'good'", "learned_bases", "prior"),
        ("UPDATE learned_bases SET prior = 9e999", "learned_bases", "prior"),
        ("UPDATE learned_bases SET evidence = -3", "learned_bases", "evidence"),
        ("UPDATE learned_bases SET advantage = 5", "learned_bases", "advantage"),
        ("UPDATE learned_bases SET failed_evidence = 5", "learned_bases", "failed_evidence"),
        ("UPDATE learned_bases SET squared_advantage = 5", "learned_bases", "squared_advantage"),
        ("UPDATE learned_bases SET accuracy_sum = 'x'", "learned_bases", "accuracy_sum"),
        ("UPDATE learned_bases SET valid_count = -1", "learned_bases", "valid_count"),
        ("UPDATE learned_bases SET update_count = x'00'", "learned_bases", "update_count"),
        ("UPDATE absorbed_evidence SET accuracy = -0.1", "absorbed_evidence", "accuracy"),
        ("UPDATE absorbed_evidence SET confidence = 1.1", "absorbed_evidence", "confidence"),
        ("UPDATE absorbed_evidence SET residual = 'x'", "absorbed_evidence", "residual"),
        ("UPDATE absorbed_evidence SET worker_id = x'ff' WHERE worker_id = 'good'", "absorbed_evidence", "worker_id"),
        ("UPDATE learned_blends SET group_by = x'ff' WHERE group_label = 'imported'", "learned_blends", "group_by"),
        ("UPDATE learned_blends SET group_label = x'' WHERE group_label = ''", "learned_blends", "group_label"),
        ("UPDATE learned_blends SET group_label = 'x' WHERE group_by = ''", "learned_blends", "group_label"),
        ("UPDATE learned_blends SET members = '{}'", "learned_blends", "members"),
        ("""UPDATE learned_blends SET bases = '{"good": 1}'""", "learned_blends", "bases"),
        ("UPDATE learned_blends SET fitted = ''", "learned_blends", "fitted"),
        ("UPDATE learned_blends SET fitted = NULL", "learned_blends", "fitted"),
    ],
)
def test_damaged_learned_state_is_refused_since_weights_must_not_change_silently(
    path: Path, store: TrainingDataManager, statement: str, table: str, column: str
) -> None:
    fill(store)
    execute(store.location, statement)
    with contextlib.closing(TrainingDataManager(path)) as again:
        for use in (again.load_learning, lambda: again.update_learning(count_up)):
            with pytest.raises(StorageCorruptError, match=f"{table}, .*, {column}: .*quarantine"):
                use()
        assert len(again.get_all_examples()) == 1


@pytest.mark.parametrize(
    ("change", "column"),
    [("document = 'text'", "document"), ("document = 5", "document"), ("worker_id = CAST(x'ff' AS TEXT)", "worker_id")],
)
def test_a_damaged_fit_of_a_worker_is_refused_like_all_that_was_learned(
    path: Path, store: TrainingDataManager, change: str, column: str
) -> None:
    fill(store)
    execute(path, f"UPDATE learned_fits SET {change} WHERE worker_id = 'good'")
    with contextlib.closing(TrainingDataManager(path)) as again:
        for use in (again.load_learning, lambda: again.update_learning(count_up)):
            with pytest.raises(StorageCorruptError, match=rf"learned_fits, .*, {column}: .*quarantine\(\)"):
                use()
        (fault,) = [fault for fault in again.check() if fault.table != "previews"]  # those are no pictures
        assert (fault.table, fault.column, fault.rowid) == ("learned_fits", column, None)


def test_a_damaged_observation_counts_as_missing_and_can_be_replaced(store: TrainingDataManager) -> None:
    records = [ObservationRecord(digest, "w@1", b"x") for digest in ("d0", "d1")]
    store.save_evaluations([], (), records)
    execute(store.location, "UPDATE observations SET content = 'text' WHERE example_digest = 'd0'")
    assert store.load_observations("w@1", ["d0", "d1"]) == {"d1": b"x"}
    assert store.find_observations("w@1", ["d0", "d1"]) == {"d1"}
    store.save_evaluations([], (), records[:1])
    assert store.find_observations("w@1", ["d0", "d1"]) == {"d0", "d1"}
    assert store.check() == []


def test_a_preview_with_a_damaged_name_is_left_alone_when_others_are_superseded(store: TrainingDataManager) -> None:
    store.save_evaluations([], [Preview("digest", f"worker@{number}", b"png") for number in range(3)])
    execute(
        store.location,
        "UPDATE previews SET name = 5 WHERE name = 'worker@0'",
        "UPDATE previews SET name = x'00' WHERE name = 'worker@1'",
    )
    store.save_evaluations([make_evaluation()], superseding=["worker"])
    with plain(store.location) as connection:
        assert sorted(map(repr, connection.execute("SELECT name FROM previews"))) == ["('5',)", "(b'\\x00',)"]


@pytest.mark.parametrize("files", ["'[]'", "x'00'", "CAST(x'ff' AS TEXT)"])
def test_an_example_whose_files_are_damaged_is_named_by_an_edit_and_can_be_removed(
    store: TrainingDataManager, files: str
) -> None:
    fill(store)
    digest = make_files("example").digest
    store.save_evaluations([], (), [ObservationRecord(digest, "w@1", b"x")])
    execute(store.location, f"UPDATE example_files SET files = {files} WHERE example_id = 'example'")
    edited: list[TrainingExample] = []

    def edit(stored: TrainingExample) -> TrainingExample:
        edited.append(stored)
        return stored

    with pytest.raises(StorageCorruptError, match=r"example_files, 'example', files: .*quarantine\(\)"):
        store.edit_examples({"example": edit})
    assert edited == []
    store.remove_example("example")
    assert store.get_all_examples() == []
    assert store.load_observations("w@1", [digest]) == {digest: b"x"}  # nothing says whose they were
    assert [fault for fault in store.check() if fault.table != "previews"] == []


def test_an_example_without_its_other_half_can_be_removed(store: TrainingDataManager) -> None:
    fill(store)
    execute(store.location, "DELETE FROM example_files")
    store.remove_example("example")
    assert store.get_dataset_stats()["total_examples"] == 0


def test_a_damaged_preview_counts_as_missing(store: TrainingDataManager) -> None:
    store.save_evaluations([], [Preview("digest", "bad", b"x"), Preview("digest", "good", b"png")])
    execute(store.location, "UPDATE previews SET png = 5 WHERE name = 'bad'")
    assert store.load_previews("digest") == {"good": b"png"}


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.save_evaluations([make_evaluation(accuracy=float("nan"))]),
        lambda store: store.save_evaluations([make_evaluation(accuracy=np.float32(0.5))]),
        lambda store: store.save_evaluations([make_evaluation(confidence=np.int64(1))]),
        lambda store: store.save_evaluations([make_evaluation(seconds=float("inf"))]),
        lambda store: store.save_evaluations([make_evaluation(seconds=10**5000)]),
        lambda store: store.add_examples([make_example("x", metadata={"a": float("nan")})]),
        lambda store: store.add_examples([make_example("x", metadata={"a": {1, 2}})]),
        lambda store: store.add_examples([make_example("x", worker_results={"a": b""})]),
        lambda store: store.begin_session(make_session("x", initial_weights={"a": float("inf")})),
        lambda store: store.update_learning(lambda _held: LearnedState({"a": WorkerBase(float("nan"))})),
        lambda store: store.update_learning(lambda _held: LearnedState({"a": WorkerBase(1.0, valid_count=2**63)})),
        lambda store: store.update_learning(lambda _held: LearnedState({}, {"a": {"b": Absorbed(0.5, 1.0, 2.0)}})),
        lambda store: store.update_learning(lambda _held: LearnedState(fitted=FittedBlend({"a": 0.5}, "greedy", 1.0))),
        lambda store: store.update_learning(lambda _held: LearnedState(fitted=FittedBlend({"a": 1.0}, "greedy", 1.5))),
        lambda store: store.update_learning(lambda _held: LearnedState(fitted=FittedBlend({"a": 1.0}, "\ud800", 1.0))),
        lambda store: store.update_learning(lambda _held: LearnedState(group_by="a", groups={"\udfff": Group()})),
        lambda store: store.update_learning(lambda _held: LearnedState(groups={"a": Group(["x"])})),
        lambda store: store.update_learning(
            lambda _held: LearnedState(group_by="a", groups={"b": Group(bases={"w": WorkerBase(0.0)})})
        ),
        lambda store: store.update_learning(lambda _held: LearnedState(fits={"w": "text"})),  # type: ignore[dict-item]
        lambda store: store.update_learning(lambda _held: LearnedState(fits={"\ud800": b""})),
        lambda store: store.save_evaluations([], [Preview("digest", "a", b"", float("nan"))]),
        lambda store: store.save_evaluations([], [Preview("digest", "a", b"", float("-inf"))]),
        lambda store: store.save_evaluations([], [Preview("digest", "a", b"", "first")]),  # type: ignore[arg-type]
        lambda store: store.save_evaluations([], [Preview("digest", "\ud800", b"")]),
        lambda store: store.save_evaluations(
            [make_evaluation()], [Preview("digest", "a", b"")], [ObservationRecord("digest", "\ud800", b"")]
        ),
        lambda store: store.save_evaluations(
            [make_evaluation()],
            (),
            [ObservationRecord("digest", "a", "text")],  # type: ignore[arg-type]
        ),
    ],
)
def test_what_could_not_be_read_again_is_not_stored(
    store: TrainingDataManager, write: Callable[[TrainingDataManager], object]
) -> None:
    with plain(store.location) as other:
        before = list(other.iterdump())
        with pytest.raises(StorageError, match="cannot be stored"):
            write(store)
        assert list(other.iterdump()) == before


def test_a_file_with_damaged_pages_is_named_and_left_as_it_was(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the first page, behind the header: the list of tables
    path.write_bytes(content)
    with pytest.raises(StorageCorruptError, match=r"restore a backup, or save .*salvage\(\); do not delete"):
        TrainingDataManager(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("statement", ["DELETE FROM learning_version", "INSERT INTO learning_version VALUES ('x', 1)"])
def test_a_file_that_lost_its_identity_is_refused(path: Path, statement: str) -> None:
    TrainingDataManager(path).close()
    execute(path, statement)
    with pytest.raises(StorageCorruptError, match="learning_version"):
        TrainingDataManager(path)


def test_a_file_that_lost_a_table_is_an_error_of_the_store(path: Path) -> None:
    TrainingDataManager(path).close()
    execute(path, "DROP TABLE learning_version")
    with pytest.raises(StorageError, match="no such table"):
        TrainingDataManager(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps an open file")
def test_nothing_is_written_to_a_file_that_was_deleted(path: Path, store: TrainingDataManager) -> None:
    fill(store)
    path.unlink()
    with pytest.raises(StorageError):
        store.add_examples([make_example("lost")])
    assert not path.exists()


# --- several processes ----------------------------------------------------------------------------------------------

OPENER = """
import sys
from pathlib import Path
from tsm_training.storage import (TrainingDataManager)
from tsm_training.testing import make_example
me = sys.argv[1]
print("ready", flush=True)
for line in sys.stdin:
    store = TrainingDataManager(line.strip())
    store.add_examples([make_example(me)])
    store.close()
    print(store.store_id, flush=True)
"""

COUNTER = """
import sys
from tsm_training.storage import (TrainingDataManager)
from tsm_training.learning import LearnedState, WorkerBase

def count_up(held):
    base = held.bases.get("counter", WorkerBase(1.0))
    return LearnedState({"counter": WorkerBase(1.0, update_count=base.update_count + 1)})

store = TrainingDataManager(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    store.update_learning(count_up)
store.close()
"""


@contextlib.contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process, and wait until it has said that it is ready."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_several_processes_open_a_new_file_together(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(OPENER, number)) for number in range(8)]
        assert [answer(process) for process in processes] == ["ready"] * 8
        for attempt in range(8):
            path = tmp_path / f"{attempt}.db"
            for process in processes:
                tell(process, str(path))
            identities = {answer(process) for process in processes}
            with contextlib.closing(TrainingDataManager(path)) as store:
                assert identities == {store.store_id}
                stored = [example.example_id for example in store.get_all_examples()]
                assert sorted(stored) == [str(number) for number in range(8)]


def test_whoever_comes_second_finds_the_tables_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_changes_of_learned_state_by_two_processes_all_count(path: Path) -> None:
    with started(COUNTER, path) as one, started(COUNTER, path) as other:
        assert [answer(one), answer(other)] == ["ready", "ready"]
        with contextlib.closing(TrainingDataManager(path)) as store:
            tell(one, "go")
            tell(other, "go")
            for _ in range(40):
                store.update_learning(count_up)
            assert [one.wait(60), other.wait(60)] == [0, 0]
            learning = store.load_learning()
    assert learning.version == 120
    assert learning.state.bases["counter"].update_count == 120


FORKING = """
import os, sys
from tsm_training.storage import (TrainingDataManager)
from tsm_training.errors import StorageClosedError, StorageError
from tsm_training.testing import make_example

def in_a_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def ids():
    return [example.example_id for example in store.get_all_examples()]

def use():
    assert ids() == ["parent"]
    store.add_examples([make_example("child")])
    in_a_child(lambda: store.add_examples([make_example("grandchild")]))
    store.close()
    try:
        ids()
    except StorageClosedError:
        return
    raise AssertionError("a child that closed the store could still use it")

def refused(store, error):
    try:
        store.get_all_examples()
    except error:
        return
    raise AssertionError("not refused")

store = TrainingDataManager(sys.argv[1])
store.add_examples([make_example("parent")])
in_a_child(use)
assert ids() == ["parent", "child", "grandchild"]
store.add_examples([make_example("parent again")])

# A child that closes its copy while the parent is writing must not undo what the parent writes.
changed = make_example("parent", metadata={"text": "x" * 100_000})
store.update_examples([changed], lambda held: in_a_child(store.close) or held)
assert store.get_example("parent") == changed
assert store.load_learning().version == 1

store.close()
in_a_child(lambda: refused(store, StorageClosedError))
memory = TrainingDataManager(":memory:")
in_a_child(lambda: refused(memory, StorageError))
memory.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_of_a_fork_has_a_connection_of_its_own(path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(path)], check=True)
    with contextlib.closing(TrainingDataManager(path)) as store:
        ids = [example.example_id for example in store.get_all_examples()]
    assert ids == ["parent", "child", "grandchild", "parent again"]


def test_another_pid_means_another_connection(store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_examples([make_example("a")])
    with monkeypatch.context() as patch, contextlib.closing(TrainingDataManager(":memory:")) as memory:
        patch.setattr(os, "getpid", lambda: -1)
        assert store.get_all_examples() == [make_example("a")]
        handles = store._database._handles.by_process
        assert len(handles) == 2
        handles.pop(-1).connection.close()
        with pytest.raises(StorageError, match="stays with the process that made it"):
            memory.get_all_examples()
        patch.undo()
    assert store.get_all_examples() == [make_example("a")]


KILLED = """
import os, sys
from tsm_training.storage import (TrainingDataManager)
from tsm_training.testing import make_example
store = TrainingDataManager(sys.argv[1])
store.add_examples([make_example("acknowledged")])
store.update_examples([make_example("acknowledged", metadata={})], lambda held: os.kill(os.getpid(), 9))
"""


def test_a_process_killed_in_the_middle_of_a_change_leaves_nothing_half_done(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode != 0
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.get_all_examples() == [make_example("acknowledged")]
        assert store.load_learning().version == 0


# --- giving everything back -----------------------------------------------------------------------------------------


def open_files(path: Path) -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(os.path.realpath(link) == str(path) for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
def test_a_closed_store_holds_no_file(path: Path) -> None:
    store = TrainingDataManager(path)
    fill(store)
    assert open_files(path) == 1
    store.close()
    assert open_files(path) == 0
    path.unlink()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"hello", b""], ids=["no database", "newer"])
def test_a_store_that_could_not_be_opened_holds_no_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if not content:
        execute(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 99")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            with pytest.raises(StorageError):
                TrainingDataManager(path)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    if Path("/proc/self/fd").exists():
        assert open_files(path) == 0


def test_only_changed_rows_of_learned_state_are_written(store: TrainingDataManager) -> None:
    outcomes = {f"d{number}": {"w": Absorbed(0.5, 1.0, 0.5)} for number in range(50)}
    store.update_learning(lambda _held: LearnedState({"w": WorkerBase(1.0)}, outcomes))
    changed = {**outcomes, "d7": {"w": Absorbed(0.25, 1.0, 0.5)}}
    with plain(store.location) as connection:
        connection.execute("CREATE TABLE written (digest TEXT)")
        connection.execute(
            "CREATE TRIGGER watch AFTER INSERT ON absorbed_evidence BEGIN "
            "INSERT INTO written VALUES (NEW.example_digest); END"
        )
        store.update_learning(lambda held: LearnedState(held.bases, changed))
        assert connection.execute("SELECT digest FROM written").fetchall() == [("d7",)]
    assert store.load_learning().state.absorbed == changed


def test_a_store_shows_its_path_and_compares_by_identity(store: TrainingDataManager) -> None:
    assert store.location in repr(store)
    with contextlib.closing(TrainingDataManager(store.location)) as other:
        assert store != other
