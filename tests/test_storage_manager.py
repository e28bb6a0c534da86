"""The store in an SQLite file: what lies in it, what a damaged row does, what is remembered, and what calls cost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from database_support import PNG, count_up, counted, execute, fill, ids, learn, plain, run
from tsm_training import TrainingDataManager
from tsm_training.data import PREVIEW_BYTES, ObservationRecord, Preview, SessionCommit, StateDelta
from tsm_training.errors import StorageBusyError, StorageCorruptError, StorageError, StorageReadOnlyError
from tsm_training.storage.sqlite import connection as connection_module
from tsm_training.storage.sqlite.connection import OpenMode
from tsm_training.testing import (
    make_delta,
    make_evaluation,
    make_example,
    make_files,
    make_metric_row,
    make_session,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        yield store


# --- what lies in the file ------------------------------------------------------------------------------------------


def test_every_stored_value_has_the_type_that_its_column_declares(store: TrainingDataManager) -> None:
    fill(store)
    store.begin_session(make_session("running"))
    execute(store.location, "INSERT INTO quarantined_rows VALUES (NULL, 'previews', '{}', 'a test', '2026-01-01')")
    with plain(store.location) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
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
    commit = SessionCommit(make_session(status="completed"), [make_metric_row("orphan")], make_delta())
    with pytest.raises(StorageError, match="FOREIGN KEY"):
        store.commit_session("session", lambda _held: commit)
    assert store.get_session("session") == make_session()
    assert store.load_state().token == ""


# --- damaged rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "metadata = '{'",
        "metadata = '[1]'",
        "metadata = x'7b7d'",
        """metadata = '{"a": NaN}'""",
        "worker_results = '5'",
        "created_at = 'yesterday'",
        "source_path = CAST(x'ff' AS TEXT)",
        "metadata = (SELECT '{\"a\":' || printf('%.*c', 100000, '['))",
    ],
)
def test_a_damaged_example_is_named_and_keeps_no_other_from_being_used(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    fill(store)
    store.add_examples([make_example("sound")])
    execute(store.location, f"UPDATE training_examples SET {change} WHERE example_id = 'example'")
    edits: dict[str, Callable[[Any], Any]] = {"example": lambda stored: stored}
    for use in (lambda: store.get_example("example"), lambda: store.edit_examples(edits)):
        with pytest.raises(StorageCorruptError, match=r"training_examples, 'example': .*quarantine\(\)") as caught:
            use()
        assert caught.value.location == store.location
    for _ in range(2):
        assert store.get_all_examples() == [make_example("sound")]
    (message,) = caplog.messages
    assert "training_examples, 'example'" in message
    assert store.location in message
    store.edit_examples({"sound": lambda stored: attrs.evolve(stored, metadata={})})
    store.remove_example("example")
    assert store.check() == []


def test_an_example_without_its_other_half_can_be_removed(store: TrainingDataManager) -> None:
    fill(store)
    execute(store.location, "DELETE FROM example_files")
    store.remove_example("example")
    assert store.get_dataset_stats()["total_examples"] == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE training_sessions SET initial_weights = '{'",
        "UPDATE training_sessions SET metrics_history = '{'",
        "UPDATE training_sessions SET start_time = 'x'",
        "UPDATE training_sessions SET end_time = x'00'",
        "UPDATE session_details SET details = '[]'",
        """UPDATE session_details SET details = '{"unknown": 1}'""",
    ],
)
def test_a_damaged_session_is_named_and_keeps_no_other_from_being_read(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    fill(store)
    execute(store.location, statement)
    store.begin_session(make_session("sound"))
    with pytest.raises(StorageCorruptError, match="training_sessions, 'session'"):
        store.get_session("session")
    for newest_first in (False, True):
        assert list(store.iterate_sessions(newest_first=newest_first)) == [make_session("sound")]
    assert len(caplog.messages) == 1


def test_a_damaged_evaluation_counts_as_missing_and_can_be_replaced(
    store: TrainingDataManager, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store)
    execute(store.location, "UPDATE evaluations SET created_at = 'x' WHERE worker_id = 'bad'")
    assert [evaluation.key.worker_id for evaluation in store.load_evaluations(["digest"])] == ["worker"]
    assert ["evaluations, 'digest'" in message for message in caplog.messages] == [True]
    store.save_evaluations([make_evaluation(worker_id="bad")])
    assert [evaluation.key.worker_id for evaluation in store.load_evaluations(["digest"])] == ["worker", "bad"]


@pytest.mark.parametrize("table", ["learned_head", "learned_rows"])
def test_damaged_learned_state_is_refused_since_weights_must_not_change_silently(
    path: Path, store: TrainingDataManager, table: str
) -> None:
    fill(store)
    execute(path, f"UPDATE {table} SET document = CAST(x'ff' AS TEXT)")
    with contextlib.closing(TrainingDataManager(path)) as again:
        for use in (lambda: again.load_state(None), lambda: again.update_state(lambda held: held.rows(None) and None)):
            with pytest.raises(StorageCorruptError, match=rf"{table}, .*quarantine\(\)"):
                use()
        assert ids(again) == ["example"]


def test_an_orphan_is_no_example(path: Path, store: TrainingDataManager) -> None:
    fill(store)
    execute(path, "DELETE FROM training_examples")  # by an application that does not know our tables
    digest = make_files("example").digest
    assert store.known_digests([digest]) == set()
    assert store.find_examples([digest]) == []
    assert store.get_all_examples() == []
    store.add_examples([make_example("example")])
    assert store.find_examples([digest]) == [make_example("example")]
    assert store.check() == []


# --- what is remembered of learned state ------------------------------------------------------------------------------


def test_the_learned_head_is_there_at_once_while_others_keep_the_file_locked(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store, plain(path) as other:
        fill(store)
        before = store.load_state()
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert store.load_state() == before
        assert time.monotonic() - started < 5  # of 30
        other.execute("ROLLBACK")
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.05)) as store, plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusyError):
            store.load_state()  # it never saw one
        other.execute("ROLLBACK")
        store.load_state()
        other.execute("BEGIN EXCLUSIVE")
        for keys in (["digest"], None):
            with pytest.raises(StorageBusyError):
                store.load_state(keys)


def test_the_learned_head_is_there_at_once_while_another_thread_waits_to_write(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store, plain(path) as other:
        before = store.update_state(count_up)
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=lambda: store.update_state(count_up))
        writer.start()
        started = time.monotonic()
        assert store.load_state() == before
        assert time.monotonic() - started < 5  # of 30
        other.execute("ROLLBACK")
        writer.join()
        assert counted(store) == 2


def test_a_change_that_could_not_be_committed_is_not_remembered(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.06)) as store, plain(path) as other:
        fill(store)
        before = store.load_state()
        commit = SessionCommit(make_session(), (), StateDelta({"lost": "1"}))
        writes: list[Callable[[], object]] = [
            lambda: store.update_state(count_up),
            lambda: store.remove_example("example", count_up),
            lambda: store.edit_examples({"example": lambda stored: stored}, count_up),
            lambda: store.commit_session("session", lambda _held: commit),
        ]
        for write in writes:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM training_examples").fetchall()  # who reads keeps others from committing
            with pytest.raises(StorageBusyError):
                write()
            other.execute("ROLLBACK")
            other.execute("BEGIN EXCLUSIVE")
            assert store.load_state() == before
            other.execute("ROLLBACK")


def test_an_unchanged_state_is_read_as_one_small_row(store: TrainingDataManager) -> None:
    store.update_state(lambda _held: StateDelta({"large": json.dumps("x" * 100_000)}))
    with plain(store.location) as connection:
        connection.execute("UPDATE learned_head SET document = '\"not read\"'")
    assert len(store.load_state().head["large"]) > 100_000
    execute(store.location, "UPDATE store_identity SET token = 'another'")
    assert store.load_state().head["large"] == '"not read"'


COUNTER = """
import sys
from tsm_training.data import StateDelta
from tsm_training.storage import TrainingDataManager
store = TrainingDataManager(sys.argv[1])
for _ in range(40):
    store.update_state(lambda held: StateDelta({"counter": str(int(held.head.get("counter", "0")) + 1)}))
store.close()
"""


@pytest.mark.slow
def test_changes_of_learned_state_by_several_processes_all_count(path: Path, store: TrainingDataManager) -> None:
    threads = [threading.Thread(target=run, args=(COUNTER, path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        store.update_state(count_up)
    for thread in threads:
        thread.join()
    assert counted(store) == 120


# --- what calls cost --------------------------------------------------------------------------------------------------


@attrs.define
class Work:
    """Counts the steps of SQLite's own machine."""

    steps: int = 0

    def step(self) -> int:
        self.steps += 1
        return 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    real = connection_module.connect

    def connect(path: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
        connection = real(path, mode)
        connection.set_progress_handler(work.step, 1)
        return connection

    monkeypatch.setattr(connection_module, "connect", connect)
    return work


CALLS: dict[str, Callable[[TrainingDataManager], object]] = {
    "remove": lambda store: store.remove_example("e5", lambda held: StateDelta(rows=dict.fromkeys(held.gone))),
    "replace": lambda store: store.edit_examples(
        {"e6": lambda stored: attrs.evolve(stored, files=make_files("new"))},
        lambda held: StateDelta(rows=dict.fromkeys(held.gone)),
    ),
    "learn": lambda store: store.update_state(
        lambda held: StateDelta(
            rows={key: document for key, document in held.rows(["r7"]).items() if held.known([key])}
        )
    ),
    "get": lambda store: store.get_examples(["e8", "e9"]),
    "find": lambda store: store.find_examples([make_files("e10").digest]),
    "load": lambda store: store.load_state(["r11"]),
    "evaluate": lambda store: store.save_evaluations([make_evaluation("new")], [Preview("new", "w@1", PNG, 0.5)]),
    "newest session": lambda store: next(store.iterate_sessions(newest_first=True)),
}


def steps(work: Work, number: int) -> dict[str, int]:
    """Return how many steps each call takes in a store with so many of everything."""
    found = {}
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        names = [str(n) for n in range(number)]
        store.add_examples([make_example(f"e{name}") for name in names])
        store.save_evaluations([make_evaluation(name) for name in names])
        store.update_state(lambda _held: StateDelta(rows={f"r{name}": name for name in names}))
        for name in names[: number // 10]:
            store.begin_session(make_session(name))
            store.commit_session(
                name,
                lambda _held, name=name: SessionCommit(make_session(name, status="completed")),  # type: ignore[misc]
            )
        for name, call in CALLS.items():
            before = work.steps
            call(store)
            found[name] = work.steps - before
    return found


def test_a_call_costs_what_it_is_about_and_not_what_there_is(work: Work) -> None:
    few, many = steps(work, 50), steps(work, 1000)
    for name in CALLS:
        assert few[name] > 5
        assert many[name] <= 1.5 * few[name] + 20, name


def test_metrics_and_sessions_are_read_page_by_page(store: TrainingDataManager) -> None:
    store.begin_session(make_session())
    rows = [make_metric_row(epoch=number) for number in range(1000)]
    store.commit_session("session", lambda _held: SessionCommit(make_session(status="completed"), rows))
    found = store.iterate_metrics("session")
    assert next(found) == rows[0]
    execute(store.location, "UPDATE training_metrics SET epoch = 5000 WHERE epoch > 500")
    assert [row.epoch for row in found].count(5000) == 499
    for number in range(30):
        store.begin_session(make_session(str(number)))
    sessions = store.iterate_sessions(newest_first=True)
    assert next(sessions).session_id == "29"
    execute(store.location, "UPDATE training_sessions SET epochs = 5000")
    assert [session.epochs for session in sessions].count(5000) > 15


def test_previews_for_which_there_is_no_room_are_never_written(path: Path, store: TrainingDataManager) -> None:
    quarter = bytes(PREVIEW_BYTES // 4)
    store.save_evaluations([], [Preview(f"d{number}", "w@1", quarter, float(number)) for number in range(4)])
    with plain(path) as connection:
        connection.execute("CREATE TABLE written (name TEXT)")
        connection.execute(
            "CREATE TRIGGER watch AFTER INSERT ON previews BEGIN INSERT INTO written VALUES (NEW.name); END"
        )
        store.save_evaluations([], [Preview("d5", "late", quarter, 5.0), Preview("d0", "early", b"x", -1.0)])
        assert connection.execute("SELECT name FROM written").fetchall() == [("early",)]
        assert connection.execute("SELECT SUM(num_bytes) FROM previews").fetchone() == (PREVIEW_BYTES + 1,)


# --- a store for viewing ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_a_viewer_reads_everything_and_changes_nothing(path: Path, store: TrainingDataManager) -> None:
    fill(store)
    before = contents(path.parent)
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        assert viewer.is_read_only
        assert not store.is_read_only
        assert viewer.store_id == store.store_id
        reads: list[Callable[[TrainingDataManager], object]] = [
            lambda each: each.get_all_examples(),
            lambda each: each.get_all_sessions(),
            lambda each: each.load_state(None),
            lambda each: each.get_dataset_stats(),
            lambda each: list(each.iterate_metrics("session")),
            lambda each: each.load_evaluations(["digest"]),
            lambda each: each.load_previews(["digest"]),
            lambda each: each.load_observations("good", ["digest"]),
        ]
        for read in reads:
            assert read(viewer) == read(store)
        assert contents(path.parent) == before
        store.add_examples([make_example("new")])
        assert viewer.get_example("new") == make_example("new")
        with contextlib.closing(attrs.evolve(viewer, read_only=False)) as writer:
            writer.update_state(count_up)
        assert counted(viewer) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_examples([make_example("new")]),
        lambda store: store.edit_examples({}),
        lambda store: store.remove_example("unknown"),
        lambda store: store.save_evaluations([], (), [ObservationRecord("d", "n", b"")]),
        lambda store: store.begin_session(make_session()),
        lambda store: store.renew_session("session"),
        lambda store: store.commit_session("unknown", lambda _held: SessionCommit(make_session())),
        lambda store: store.update_state(learn),
        lambda store: store.quarantine(),
        lambda store: store.require_writable(),
    ],
)
def test_every_method_that_writes_refuses_to_for_a_viewer(
    path: Path, store: TrainingDataManager, write: Callable[[TrainingDataManager], object]
) -> None:
    fill(store)
    before = contents(path.parent)
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        with pytest.raises(StorageReadOnlyError) as caught:
            write(viewer)
        assert (caught.value.location, caught.value.reason) == (str(path), "it was opened for reading only")
    assert contents(path.parent) == before


def test_a_change_that_a_crash_cut_short_must_be_undone_by_a_writer(path: Path, store: TrainingDataManager) -> None:
    fill(store)
    store.save_evaluations([], [Preview(f"d{number}", "p", bytes(20_000)) for number in range(10)])
    store.close()
    journal = Path(f"{path}-journal")
    with plain(path) as connection:
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE previews SET png = zeroblob(LENGTH(png))")
        torn, undo = path.read_bytes(), journal.read_bytes()
        connection.execute("ROLLBACK")
    path.write_bytes(torn)
    journal.write_bytes(undo)
    with pytest.raises(StorageReadOnlyError, match="cut short by a crash"):
        TrainingDataManager(path, read_only=True)
    TrainingDataManager(path).close()
    TrainingDataManager(path, read_only=True).close()
