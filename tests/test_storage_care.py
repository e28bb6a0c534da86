"""Checking a database, putting faulty rows aside, and copying it while it is used."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import manager_with
from tsm_training import TrainingDataManager
from tsm_training.data import ObservationRecord, Preview
from tsm_training.errors import (
    InvalidArgumentError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageReadOnlyError,
)
from tsm_training.storage import StorageFault
from tsm_training.storage.sqlite import backup, copying, network
from tsm_training.testing import make_evaluation, make_example, make_session


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database that was trained in twice, the second time by style."""
    folder = tmp_path_factory.mktemp("trained")
    with manager_with(folder / "pictures", 6, db_path=folder / "training.db") as manager:
        store = manager.data_manager
        styled = zip(store.get_all_examples(), ["warm", "cold"] * 3, strict=True)
        store.update_examples([attrs.evolve(example, metadata={"style": style}) for example, style in styled])
        manager.train(verbose=False)
        manager.train(verbose=False, group_by="style")
        digest = store.get_all_examples()[0].known_files.digest
        noted = [ObservationRecord(digest, name, b"x") for name in ("noting@1", "other@1")]
        store.save_evaluations([], (), noted)
        store.update_learning(lambda held: attrs.evolve(held, fits={"noting": b"\0", "other": b"{}"}))
    return (folder / "training.db").read_bytes()


@pytest.fixture
def path(tmp_path: Path, trained: bytes) -> Path:
    path = tmp_path / "training.db"
    path.write_bytes(trained)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        yield store


@contextlib.contextmanager
def plain(path: str | Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path: str | Path, *statements: str) -> None:
    with plain(path) as connection:
        for statement in statements:
            connection.execute(statement)


def quarantined(path: str | Path) -> list[tuple[str, dict[str, Any], str]]:
    with plain(path) as connection:
        rows = connection.execute("SELECT table_name, content, reason FROM quarantined_rows ORDER BY sequence")
        return [(table, json.loads(content), reason) for table, content, reason in rows]


FAULTS = [
    ("training_examples", "metadata", "UPDATE training_examples SET metadata = '{' WHERE rowid = 2"),
    (
        "training_examples",
        "source_path",
        "UPDATE training_examples SET source_path = CAST(x'ff' AS TEXT) WHERE rowid=2",
    ),
    ("training_examples", "target_path", "UPDATE training_examples SET target_path = x'2fff' WHERE rowid = 2"),
    ("training_examples", "example_id", "UPDATE training_examples SET example_id = NULL WHERE rowid = 2"),
    ("training_examples", "created_at", "UPDATE training_examples SET created_at = 'soon' WHERE rowid = 2"),
    ("example_files", "files", "UPDATE example_files SET files = '[]' WHERE sequence = 2"),
    (
        "training_sessions",
        "final_weights",
        """UPDATE training_sessions SET final_weights = '{"a": "b"}' WHERE rowid=1""",
    ),
    ("training_sessions", "end_time", "UPDATE training_sessions SET end_time = 5 WHERE rowid = 1"),
    ("session_details", "details", "UPDATE session_details SET details = 'x' WHERE sequence = 1"),
    ("training_metrics", "accuracy", "UPDATE training_metrics SET accuracy = 7 WHERE id = 1"),
    ("training_metrics", "loss", "UPDATE training_metrics SET loss = 9e999 WHERE id = 1"),
    ("training_metrics", None, "INSERT INTO training_metrics (session_id) VALUES ('none')"),
    ("example_files", None, "INSERT INTO example_files (example_id) VALUES ('none')"),
    ("session_details", None, "INSERT INTO session_details (session_id, details) VALUES ('none', '{}')"),
    ("running_sessions", None, "INSERT INTO running_sessions VALUES ('none', 'host', 1)"),
    ("evaluations", "accuracy", "UPDATE evaluations SET accuracy = NULL WHERE sequence = 1"),
    ("evaluations", "worker_id", "UPDATE evaluations SET worker_id = x'00' WHERE sequence = 1"),
    ("previews", "png", "UPDATE previews SET png = x'00' WHERE sequence = 1"),
    ("previews", "png", "UPDATE previews SET png = SUBSTR(png, 1, LENGTH(png) - 12) WHERE sequence = 1"),
    (
        "previews",
        "png",
        "UPDATE previews SET png = CAST(SUBSTR(png, 1, 50) || x'7f7f' || SUBSTR(png, 53) AS BLOB) WHERE sequence = 1",
    ),
    ("previews", "rank", "UPDATE previews SET rank = 9e999 WHERE sequence = 1"),
    ("previews", "rank", "UPDATE previews SET rank = 'first' WHERE sequence = 1"),
    ("observations", "content", "UPDATE observations SET content = 'text' WHERE name = 'noting@1'"),
    ("observations", "name", "UPDATE observations SET name = CAST(x'ff' AS TEXT) WHERE name = 'noting@1'"),
    ("observations", "example_digest", "UPDATE observations SET example_digest = x'00' WHERE name = 'noting@1'"),
    ("learned_fits", "document", "UPDATE learned_fits SET document = 'text' WHERE worker_id = 'noting'"),
    ("learned_fits", "worker_id", "UPDATE learned_fits SET worker_id = CAST(x'ff' AS TEXT) WHERE worker_id = 'noting'"),
    ("learned_bases", "prior", "UPDATE learned_bases SET prior = -1 WHERE worker_id = 'near'"),
    ("absorbed_evidence", "residual", "UPDATE absorbed_evidence SET residual = 2 WHERE worker_id = 'near'"),
    (
        "absorbed_evidence",
        "worker_id",
        "UPDATE absorbed_evidence SET worker_id = CAST(x'ff' AS TEXT) WHERE worker_id = 'near'",
    ),
    (
        "absorbed_evidence",
        "example_digest",
        "UPDATE absorbed_evidence SET example_digest = CAST(x'ff' AS TEXT) WHERE worker_id = 'near' "
        "AND example_digest = (SELECT MIN(example_digest) FROM absorbed_evidence)",
    ),
    ("learned_blends", "group_by", "UPDATE learned_blends SET group_by = x'00' WHERE group_label = 'warm'"),
    (
        "learned_blends",
        "group_label",
        "UPDATE learned_blends SET group_label = CAST(x'ff' AS TEXT) WHERE group_label = 'warm'",
    ),
    ("learned_blends", "group_label", "UPDATE learned_blends SET group_label = 'warm' WHERE group_by = ''"),
    ("learned_blends", "members", "UPDATE learned_blends SET members = '[1]' WHERE group_label = 'cold'"),
    ("learned_blends", "bases", """UPDATE learned_blends SET bases = '{"near": {}}' WHERE group_label = 'cold'"""),
    ("learned_blends", "fitted", "UPDATE learned_blends SET fitted = NULL WHERE group_by = ''"),
    ("learned_blends", "fitted", "UPDATE learned_blends SET fitted = REPLACE(fitted, '0.', '2.') WHERE group_by = ''"),
    ("quarantined_rows", "content", "INSERT INTO quarantined_rows VALUES (1, 'x', 'no json', 'reason', 'never')"),
]
"""A table, a column (None for the row as a whole), and a statement that spoils it."""


def test_a_sound_file_has_no_faults(path: Path, store: TrainingDataManager) -> None:
    before = path.read_bytes()
    assert store.check() == []
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        assert viewer.check() == []
    assert store.quarantine() == []
    assert path.read_bytes()[100:] == before[100:]
    assert quarantined(path) == []


def test_a_database_in_memory_can_be_checked() -> None:
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        store.begin_session(make_session())
        assert [fault.column for fault in store.check()] in ([], ["status"])


@pytest.mark.parametrize(("table", "column", "statement"), FAULTS)
def test_every_fault_is_found_with_its_place_and_remedy_and_can_be_put_aside(
    path: Path, store: TrainingDataManager, table: str, column: str | None, statement: str
) -> None:
    execute(path, statement)
    before = path.read_bytes()
    faults = store.check()
    assert path.read_bytes() == before
    found = [fault for fault in faults if (fault.table, fault.column) == (table, column)]
    assert found
    assert all("quarantine()" in fault.remedy and fault.row and fault.problem for fault in found)
    has_rowid = table not in (
        "absorbed_evidence",
        "learned_blends",
        "learned_fits",
        "observations",
        "running_sessions",
    )
    assert all((fault.rowid is not None) == has_rowid for fault in found)
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        assert viewer.check() == faults
    mended = store.quarantine()
    assert set(mended) <= set(faults)
    assert {(fault.table, fault.column) for fault in mended} >= {(table, column)}
    moved = quarantined(path)
    assert table in {name for name, _content, _reason in moved}
    assert all(reason for _name, _content, reason in moved)
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.check() == []
        again.load_learning()


def test_nothing_is_lost_of_a_row_that_is_put_aside(path: Path, store: TrainingDataManager) -> None:
    execute(
        path,
        "UPDATE training_examples SET metadata = '{', source_path = CAST(x'2fff' AS TEXT), target_path = x'00ff' "
        "WHERE rowid = 2",
        "UPDATE training_metrics SET loss = -9e999, confidence = 0.25 WHERE id = 1",
    )
    with plain(path) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(training_examples)")]
        ours = connection.execute("SELECT rowid, example_id, ground_truth_path FROM training_examples WHERE rowid = 2")
        _rowid, example_id, truth = ours.fetchone()
        files = connection.execute("SELECT sequence, files FROM example_files WHERE example_id = ?", (example_id,))
        sequence, document = files.fetchone()
    faults = store.quarantine()
    assert {(fault.table, fault.rowid, fault.column) for fault in faults} == {
        ("training_examples", 2, "metadata"),
        ("training_examples", 2, "source_path"),
        ("training_examples", 2, "target_path"),
        ("training_metrics", 1, "loss"),
    }
    moved = {name: (content, reason) for name, content, reason in quarantined(path)}
    example, reason = moved["training_examples"]
    assert list(example) == names
    assert example["source_path"] == {"base64": base64.b64encode(b"/\xff").decode(), "type": "text"}
    assert example["target_path"] == {"base64": base64.b64encode(b"\x00\xff").decode()}
    assert (example["metadata"], example["ground_truth_path"]) == ("{", truth)
    assert all(column in reason for column in ("metadata", "source_path", "target_path"))
    partner, why = moved["example_files"]
    assert partner == {"sequence": sequence, "example_id": example_id, "files": document}
    assert why == "it belongs to a row of training_examples"
    assert moved["training_metrics"][0]["loss"] == {"real": "-inf"}
    assert moved["training_metrics"][0]["confidence"] == 0.25
    assert len(store.get_all_examples()) == 5


def test_a_session_goes_with_all_that_belongs_to_it(path: Path, store: TrainingDataManager) -> None:
    first, second = store.get_all_sessions()
    rows = store.get_metrics(second.session_id)
    execute(path, f"UPDATE session_details SET details = '' WHERE session_id = '{first.session_id}'")
    store.quarantine()
    assert store.get_all_sessions() == [second]
    assert store.get_metrics(second.session_id) == rows
    moved = [name for name, _content, _reason in quarantined(path)]
    assert moved.count("training_metrics") == len(rows)
    assert {"training_sessions", "session_details"} <= set(moved)


def test_forgetting_a_faulty_row_forgets_the_whole_example_and_is_news_for_learners(
    path: Path, store: TrainingDataManager
) -> None:
    before = store.load_learning()
    digest = sorted(before.state.absorbed)[0]
    execute(
        path, f"UPDATE absorbed_evidence SET residual = -1 WHERE example_digest = '{digest}' AND worker_id = 'near'"
    )
    assert store.load_learning() == before  # as it was read last
    store.quarantine()
    after = store.load_learning()
    assert after.version == before.version + 1
    assert after.state.absorbed == {d: outcomes for d, outcomes in before.state.absorbed.items() if d != digest}
    assert after.state.bases == before.state.bases


def test_a_fit_that_is_put_aside_takes_nothing_else_with_it(path: Path, store: TrainingDataManager) -> None:
    before = store.load_learning()
    assert before.state.fitted is not None
    assert list(before.state.groups) == ["cold", "warm"]
    execute(path, "UPDATE learned_blends SET fitted = '{' WHERE group_by = ''")
    with contextlib.closing(TrainingDataManager(path)) as again:
        with pytest.raises(StorageCorruptError, match=r"learned_blends, '', '', fitted: it holds no JSON.*quarantine"):
            again.load_learning()
        again.quarantine()
    after = store.load_learning()
    assert after.version == before.version + 1
    assert after.state == attrs.evolve(before.state, fitted=None)
    execute(path, "UPDATE learned_blends SET members = 'x' WHERE group_label = 'warm'")
    store.quarantine()
    without = attrs.evolve(after.state, groups={"cold": before.state.groups["cold"]})
    assert store.load_learning().state == without
    assert [content["group_label"] for _table, content, _reason in quarantined(path)] == ["", "warm"]


def test_a_workers_fit_that_is_put_aside_takes_nothing_else_with_it_and_is_news_for_learners(
    path: Path, store: TrainingDataManager
) -> None:
    before = store.load_learning()
    execute(path, "UPDATE learned_fits SET document = 'text' WHERE worker_id = 'noting'")
    (fault,) = store.quarantine()
    assert str(fault) == (
        "learned_fits, 'noting', document: bytes are expected, not 'text'; quarantine() puts the row aside"
    )
    after = store.load_learning()
    assert after.version == before.version + 1
    assert after.state == attrs.evolve(before.state, fits={"other": b"{}"})
    assert quarantined(path) == [
        ("learned_fits", {"worker_id": "noting", "document": "text"}, "document: bytes are expected, not 'text'")
    ]


def test_what_was_noted_can_be_put_aside_and_is_no_news_for_learners(path: Path, store: TrainingDataManager) -> None:
    before = store.load_learning()
    (digest,) = store.find_observations("other@1", [e.known_files.digest for e in store.get_all_examples()])
    execute(
        path,
        "UPDATE observations SET name = x'ff' WHERE name = 'noting@1'",
        "UPDATE previews SET rank = -9e999 WHERE sequence = 1",
    )
    assert len(store.quarantine()) == 2
    assert store.load_learning().version == before.version
    assert store.load_observations("other@1", [digest]) == {digest: b"x"}
    preview, observation = sorted(quarantined(path), reverse=True)
    assert preview[1]["rank"] == {"real": "-inf"}
    content = {"base64": base64.b64encode(b"x").decode()}
    name = {"base64": base64.b64encode(b"\xff").decode()}
    assert observation[:2] == ("observations", {"example_digest": digest, "name": name, "content": content})


def test_a_copy_holds_what_was_noted_and_fitted(path: Path, store: TrainingDataManager, tmp_path: Path) -> None:
    digests = [example.known_files.digest for example in store.get_all_examples()]
    store.backup(tmp_path / "copy.db")
    with contextlib.closing(TrainingDataManager(tmp_path / "copy.db")) as copy:
        assert copy.load_learning() == store.load_learning()
        assert copy.load_learning().state.fits == {"noting": b"\0", "other": b"{}"}
        assert len(copy.load_observations("noting@1", digests)) == 1
        assert copy.check() == []


def test_training_again_fits_what_was_put_aside(path: Path, tmp_path: Path) -> None:
    execute(path, "UPDATE learned_blends SET fitted = ''")
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.quarantine()
        assert (store.load_learning().state.fitted, store.load_learning().state.group_by) == (None, None)
    with manager_with(tmp_path, 0, db_path=path) as manager:
        manager.train(verbose=False, group_by="style")
        state = manager.data_manager.load_learning().state
    assert state.fitted is not None
    assert (state.group_by, list(state.groups)) == ("style", ["cold", "warm"])


def test_training_again_learns_what_was_put_aside(path: Path, tmp_path: Path) -> None:
    with manager_with(tmp_path, 0, db_path=path) as manager:
        examples = manager.data_manager.get_all_examples()
        execute(path, "UPDATE absorbed_evidence SET confidence = 'x' WHERE worker_id = 'near'")
        with contextlib.closing(TrainingDataManager(path)) as store:
            with pytest.raises(StorageCorruptError, match=r"absorbed_evidence.*confidence.*quarantine\(\)"):
                store.load_learning()
            store.quarantine()
        assert manager.get_training_progress()["current_weights"] == dict.fromkeys(("far", "mid", "near"), 1.0)
        manager.train(verbose=False, validation_split=0.0)
        assert manager.weight_learner.get_weight("near") > 1.0
        assert len(manager.data_manager.load_learning().state.absorbed) == len(examples)


def test_a_session_that_nobody_runs_is_found_and_marked(path: Path, store: TrainingDataManager) -> None:
    store.begin_session(make_session("mine"))
    store.begin_session(make_session("stray"))
    execute(path, "DELETE FROM running_sessions WHERE session_id = 'stray'")
    (fault,) = store.check()
    assert (fault.table, fault.row, fault.column) == ("training_sessions", "'stray'", "status")
    assert "interrupted" in fault.remedy
    assert store.quarantine() == [fault]
    assert store.get_session("stray").status == "interrupted"
    assert store.get_session("mine").status == "running"
    assert quarantined(path) == []
    assert store.check() == []


def test_a_session_that_was_left_behind_is_mended_by_the_next_opening(path: Path) -> None:
    dead = TrainingDataManager(path)
    dead.begin_session(make_session("left"))
    dead.close()
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        (fault,) = viewer.check()
        assert fault.row == "'left'"
        assert "opening" in fault.remedy
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.check() == []
        assert store.get_session("left").status == "interrupted"


def test_rows_that_another_application_wrote_are_taken_in_by_the_next_opening(
    path: Path, store: TrainingDataManager
) -> None:
    execute(
        path,
        "INSERT INTO training_examples VALUES ('late', 's', 't', 'g', '2024-01-04T00:00:00', NULL, NULL, NULL)",
        "INSERT INTO training_sessions (session_id, start_time) VALUES ('later', '2024-01-05')",
    )
    assert [(f.table, f.row, "opening" in f.remedy) for f in store.check()] == [
        ("training_examples", "'late'", True),
        ("training_sessions", "'later'", True),
    ]
    assert store.quarantine() == []
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.check() == []


@pytest.mark.parametrize(
    ("statement", "table", "words"),
    [
        ("INSERT INTO learning_version VALUES ('other', 5)", "learning_version", "2 rows instead of one"),
        ("DELETE FROM learning_version", "learning_version", "0 rows instead of one"),
        ("DROP TABLE quarantined_rows", "quarantined_rows", "missing"),
        ("ALTER TABLE evaluations DROP COLUMN seconds", "evaluations", "missing"),
    ],
)
def test_what_moving_rows_does_not_mend_is_told_and_left_alone(
    path: Path, store: TrainingDataManager, statement: str, table: str, words: str
) -> None:
    execute(path, statement)
    (fault,) = store.check()
    assert fault.table == table
    assert words in fault.problem
    assert "salvage()" in fault.remedy
    with pytest.raises(StorageCorruptError, match=words):
        store.quarantine()


def test_a_faulty_identity_is_told_and_never_moved(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE learning_version SET version = 'x'")
    (fault,) = store.check()
    assert (fault.table, fault.column, "salvage()" in fault.remedy) == ("learning_version", "version", True)
    with pytest.raises(StorageCorruptError, match="learning_version"):
        store.load_learning()


def test_damaged_pages_are_told(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        content = bytearray(path.read_bytes())
        content[3 * 4096 : 4 * 4096] = b"\xff" * 4096
        path.write_bytes(content)
        faults = store.check()
        assert faults
        assert {(fault.table, fault.row, fault.column) for fault in faults} == {("", None, None)}
        assert all("salvage()" in fault.remedy for fault in faults)
        assert str(faults[0]).startswith("the file: ")


def test_a_file_whose_beginning_is_damaged_while_it_is_open_is_told(path: Path, store: TrainingDataManager) -> None:
    content = bytearray(path.read_bytes())
    content[24:28] = b"\xff\xff\xff\xff"  # "it was changed": SQLite must look at it again
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    (fault,) = store.check()
    assert (fault.table, "salvage()" in fault.problem) == ("", True)


def test_a_busy_file_cannot_be_checked(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0)) as store, plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusyError):
            store.check()


def test_a_fault_says_in_words_where_it_is() -> None:
    fault = StorageFault("evaluations", "'d', 'w'", 3, "seconds", "it is odd", "do this")
    assert str(fault) == "evaluations, 'd', 'w', seconds: it is odd; do this"


# --- copies ---------------------------------------------------------------------------------------------------------


def dump(path: Path) -> list[str]:
    with plain(path) as connection:
        return list(connection.iterdump())


def test_a_copy_is_whole_and_opens_like_any_store(path: Path, store: TrainingDataManager, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    store.backup(copy)
    assert dump(copy) == dump(path)
    assert list(copy.parent.iterdir()) == [copy]
    with contextlib.closing(TrainingDataManager(copy)) as opened:
        assert opened.check() == []
        assert opened.store_id == store.store_id
        opened.add_examples([make_example("only in the copy")])
    assert len(store.get_all_examples()) == 6


def test_a_viewer_may_copy_too_and_memory_can_be_kept(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        viewer.backup(tmp_path / "copy.db")
    assert dump(tmp_path / "copy.db") == dump(path)
    with contextlib.closing(TrainingDataManager(":memory:")) as memory:
        memory.add_examples([make_example("a")])
        memory.backup(str(tmp_path / "kept.db"))
    with contextlib.closing(TrainingDataManager(tmp_path / "kept.db")) as kept:
        assert kept.get_all_examples() == [make_example("a")]


def test_an_earlier_copy_is_replaced_and_keeps_its_permissions(store: TrainingDataManager, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"earlier")
    copy.chmod(0o640)
    (tmp_path / "link.db").symlink_to(copy)
    store.backup(tmp_path / "link.db", overwrite=True)
    assert (tmp_path / "link.db").is_symlink()
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640


@pytest.mark.parametrize("make", [lambda p: p.write_text("notes"), lambda p: TrainingDataManager(p).close()])
def test_a_file_is_not_replaced_by_a_slip_of_the_name(
    store: TrainingDataManager, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    precious = tmp_path / "precious.db"
    make(precious)
    before = precious.read_bytes()
    with pytest.raises(StorageExistsError, match="there is a file already; pass overwrite=True to replace it"):
        store.backup(precious)
    assert precious.read_bytes() == before


@pytest.mark.parametrize("destination", [":memory:", "file:copy.db"])
def test_what_names_no_file_is_no_place_for_a_copy(store: TrainingDataManager, destination: str) -> None:
    with pytest.raises(InvalidArgumentError, match="path must be a plain path of a file"):
        store.backup(destination)


def test_a_name_that_is_too_long_is_an_error_by_name(store: TrainingDataManager, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        store.backup(tmp_path / ("x" * 300))


def test_copies_under_load_are_each_one_moment(path: Path, tmp_path: Path) -> None:
    """A writer adds an example and an evaluation in turn; no copy may hold an evaluation too many."""
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(TrainingDataManager(path)) as writer:
            number = 0
            while not stop.is_set():
                writer.add_examples([make_example(f"n{number}")])
                writer.save_evaluations([make_evaluation(f"n{number}")], [Preview(f"n{number}", "x", bytes(9000))])
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with contextlib.closing(TrainingDataManager(path)) as store:
            for number in range(6):
                copy = tmp_path / f"copy{number}.db"
                store.backup(copy)
                with plain(copy) as connection:
                    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                    (examples,) = connection.execute("SELECT COUNT(*) FROM training_examples").fetchone()
                    (made,) = connection.execute("SELECT COUNT(*) FROM previews WHERE name = 'x'").fetchone()
                    assert examples - 6 - made in (0, 1)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", ["training.db", "link.db", "hard.db", "training.db-journal", "training.db-wal"])
def test_the_database_itself_is_never_overwritten(store: TrainingDataManager, path: Path, name: str) -> None:
    (path.parent / "link.db").symlink_to(path)
    os.link(path, path.parent / "hard.db")
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match="another file than the database itself"):
        store.backup(path.parent / name)
    assert path.read_bytes() == before


def test_a_copy_goes_nowhere_odd(store: TrainingDataManager, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing' does not exist"):
        store.backup(tmp_path / "missing" / "copy.db")
    with pytest.raises(StorageError, match="no regular file"):
        store.backup(tmp_path)
    with pytest.raises(InvalidArgumentError):
        store.backup("")
    (tmp_path / "copy.db-journal").write_bytes(b"of another database")
    with pytest.raises(StorageError, match=r"'copy\.db-journal' lies beside it"):
        store.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_copy_without_room_leaves_the_earlier_one(store: TrainingDataManager, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"earlier")
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(StorageFullError) as caught:
            store.backup(copy, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.location == str(copy)
    assert copy.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == before
    assert store.check() == []
    store.backup(copy, overwrite=True)


@pytest.mark.parametrize(
    ("error", "kind"), [(PermissionError(13, "no"), StorageReadOnlyError), (OSError(5, "io"), StorageError)]
)
def test_a_copy_that_cannot_take_its_name_is_an_error_of_its_own(
    store: TrainingDataManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    kind: type[StorageError],
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(kind) as caught:
        store.backup(tmp_path / "copy.db")
    assert caught.value.location == str(tmp_path / "copy.db")
    assert not list(tmp_path.glob(".*"))


def test_damage_that_is_found_while_copying_is_told_of_the_database(
    store: TrainingDataManager, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_connection: sqlite3.Connection, _destination: Path) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(backup, "copy_database", refuse)
    with pytest.raises(StorageCorruptError) as caught:
        store.backup(tmp_path / "copy.db")
    assert caught.value.location == str(path)


@pytest.mark.parametrize(
    "error", [sqlite3.ProgrammingError("Python says no"), sqlite3.OperationalError("unable to open database file")]
)
def test_a_copy_that_cannot_even_be_begun_is_told_of_the_copy(
    store: TrainingDataManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: sqlite3.Error
) -> None:
    def refuse(_path: str) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(copying, "connect", refuse)
    with pytest.raises(StorageError) as caught:
        store.backup(tmp_path / "copy.db")
    assert (caught.value.location, caught.value.reason) == (str(tmp_path / "copy.db"), str(error))


def test_a_damaged_database_cannot_be_copied_as_if_it_were_sound(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        os.truncate(path, 5 * 4096)
        with pytest.raises(StorageCorruptError) as caught:
            store.backup(tmp_path / "copy.db")
        assert caught.value.location == str(path)
    assert not (tmp_path / "copy.db").exists()


# --- where it lies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "warnings"), [("nfs4", 1), ("ext4", 0)])
def test_a_database_on_another_machine_is_warned_of_once_per_store(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, warnings: int
) -> None:
    mounts = path.parent / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - {kind} x rw\n")
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("a")])
        store.get_all_examples()
    assert sum("another machine" in message for message in caplog.messages) == warnings
