"""Checking a database down to every value, and putting faulty rows aside."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from database_support import count_up, execute, fill, plain
from tsm_training import TrainingDataManager
from tsm_training.data import Preview, SessionCommit, StateDelta
from tsm_training.errors import StorageCorruptError
from tsm_training.storage import StorageFault
from tsm_training.storage.sqlite import lease
from tsm_training.testing import make_example, make_metric_row, make_session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        store.add_examples([make_example(f"e{number}") for number in range(3)])
        store.begin_session(make_session("second"))
        commit = SessionCommit(make_session("second", status="completed"), [make_metric_row("second")])
        store.commit_session("second", lambda _held: commit)
        yield store


def quarantined(path: str | Path) -> list[tuple[str, dict[str, Any], str]]:
    with plain(path) as connection:
        rows = connection.execute("SELECT table_name, content, reason FROM quarantined_rows ORDER BY sequence")
        return [(table, json.loads(content), reason) for table, content, reason in rows]


FAULTS = [
    ("training_examples", "metadata", "UPDATE training_examples SET metadata = '{' WHERE rowid = 2"),
    ("training_examples", None, "UPDATE training_examples SET metadata = '[1]' WHERE rowid = 2"),
    ("training_examples", "metadata", """UPDATE training_examples SET metadata = '{"a": NaN}' WHERE rowid = 2"""),
    (
        "training_examples",
        "source_path",
        "UPDATE training_examples SET source_path = CAST(x'ff' AS TEXT) WHERE rowid = 2",
    ),
    ("training_examples", "target_path", "UPDATE training_examples SET target_path = x'2fff' WHERE rowid = 2"),
    ("training_examples", "example_id", "UPDATE training_examples SET example_id = NULL WHERE rowid = 2"),
    ("training_examples", None, "UPDATE training_examples SET created_at = 'soon' WHERE rowid = 2"),
    ("example_files", None, "UPDATE example_files SET files = '[]' WHERE sequence = 2"),
    ("example_files", "digest", "UPDATE example_files SET digest = NULL WHERE sequence = 2"),
    ("example_files", None, """UPDATE example_files SET files = '{"source": 1}' WHERE sequence = 2"""),
    ("training_sessions", None, "UPDATE training_sessions SET final_weights = '[]' WHERE rowid = 1"),
    ("training_sessions", "status", "UPDATE training_sessions SET status = 'done' WHERE rowid = 1"),
    ("training_sessions", "num_examples", "UPDATE training_sessions SET num_examples = -1 WHERE rowid = 1"),
    ("training_sessions", "epochs", "UPDATE training_sessions SET epochs = 1.5 WHERE rowid = 1"),
    ("training_sessions", "learning_rate", "UPDATE training_sessions SET learning_rate = 'fast' WHERE rowid = 1"),
    ("training_sessions", None, "UPDATE training_sessions SET end_time = 5 WHERE rowid = 1"),
    ("session_details", None, "UPDATE session_details SET details = '[]' WHERE sequence = 1"),
    ("session_details", None, """UPDATE session_details SET details = '{"unknown": 1}' WHERE sequence = 1"""),
    ("training_metrics", "accuracy", "UPDATE training_metrics SET accuracy = 7 WHERE id = 1"),
    ("training_metrics", "confidence", "UPDATE training_metrics SET confidence = 'high' WHERE id = 1"),
    ("training_metrics", "loss", "UPDATE training_metrics SET loss = 9e999 WHERE id = 1"),
    ("training_metrics", None, "INSERT INTO training_metrics (session_id) VALUES ('none')"),
    ("example_files", None, "INSERT INTO example_files (example_id) VALUES ('none')"),
    ("session_details", None, "INSERT INTO session_details (session_id, details) VALUES ('none', '{}')"),
    ("running_sessions", None, "INSERT INTO running_sessions VALUES ('none', 'host', '', 1, '', '2024-01-01')"),
    (
        "running_sessions",
        "process_id",
        "INSERT INTO running_sessions VALUES ('second', 'host', '', 0, '', '2024-01-01')",
    ),
    ("evaluations", "failure_kind", "UPDATE evaluations SET accuracy = NULL WHERE sequence = 1"),
    ("evaluations", "accuracy", "UPDATE evaluations SET accuracy = 1.5 WHERE sequence = 1"),
    ("evaluations", "confidence", "UPDATE evaluations SET confidence = -0.5 WHERE sequence = 1"),
    ("evaluations", "seconds", "UPDATE evaluations SET seconds = 9e999 WHERE sequence = 1"),
    ("evaluations", "worker_id", "UPDATE evaluations SET worker_id = CAST(x'ff' AS TEXT) WHERE sequence = 1"),
    ("evaluations", None, "UPDATE evaluations SET created_at = 'x' WHERE sequence = 1"),
    ("previews", None, "UPDATE previews SET png = x'00', num_bytes = 1 WHERE sequence = 1"),
    ("previews", None, "UPDATE previews SET png = SUBSTR(png, 1, 50), num_bytes = 50 WHERE sequence = 1"),
    (
        "previews",
        None,
        "UPDATE previews SET png = CAST(SUBSTR(png, 1, 40) || x'7f7f' || SUBSTR(png, 43) AS BLOB) WHERE sequence = 1",
    ),
    ("previews", "num_bytes", "UPDATE previews SET num_bytes = 1 WHERE sequence = 1"),
    ("previews", "rank", "UPDATE previews SET rank = 9e999 WHERE sequence = 1"),
    ("observations", "name", "UPDATE observations SET name = CAST(x'ff' AS TEXT) WHERE name = 'good'"),
    ("learned_head", "document", "UPDATE learned_head SET document = '{' WHERE name = 'sums'"),
    ("learned_rows", "document", "UPDATE learned_rows SET document = CAST(x'ff' AS TEXT) WHERE key = 'digest'"),
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
    assert all("quarantine()" in fault.remedy and fault.row and fault.rowid and fault.problem for fault in found)
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
        again.load_state(None)


def test_nothing_is_lost_of_a_row_that_is_put_aside(path: Path, store: TrainingDataManager) -> None:
    execute(
        path,
        "UPDATE training_examples SET metadata = '{', source_path = CAST(x'2fff' AS TEXT), target_path = x'00ff' "
        "WHERE rowid = 2",
        "UPDATE training_metrics SET loss = -9e999, confidence = 0.25 WHERE id = 1",
    )
    with plain(path) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(training_examples)")]
        (partner,) = connection.execute("SELECT * FROM example_files WHERE sequence = 2").fetchall()
    faults = store.quarantine()
    assert {(fault.table, fault.rowid) for fault in faults} == {("training_examples", 2), ("training_metrics", 1)}
    moved = {name: (content, reason) for name, content, reason in quarantined(path)}
    example, _reason = moved["training_examples"]
    assert list(example) == names
    assert example["source_path"] == {"base64": base64.b64encode(b"/\xff").decode()}
    assert example["target_path"] == {"base64": base64.b64encode(b"\x00\xff").decode()}
    assert (example["example_id"], example["metadata"]) == ("e0", "{")
    assert tuple(moved["example_files"][0].values()) == partner
    assert moved["example_files"][1] == "it belongs to a row of training_examples"
    assert moved["training_metrics"][0]["loss"] == {"real": "-inf"}
    assert moved["training_metrics"][0]["confidence"] == 0.25
    assert [example.example_id for example in store.iterate_examples()] == ["example", "e1", "e2"]


def test_a_session_goes_with_all_that_belongs_to_it(path: Path, store: TrainingDataManager) -> None:
    second = store.get_session("second")
    execute(path, "UPDATE session_details SET details = '' WHERE session_id = 'session'")
    store.quarantine()
    assert store.get_all_sessions() == [second]
    assert list(store.iterate_metrics("second")) == [make_metric_row("second")]
    moved = [name for name, _content, _reason in quarantined(path)]
    assert sorted(moved) == ["session_details", "training_metrics", "training_sessions"]


def test_a_faulty_metric_row_goes_alone(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE training_metrics SET accuracy = 7 WHERE id = 1")
    store.quarantine()
    assert [name for name, _content, _reason in quarantined(path)] == ["training_metrics"]
    assert store.get_session("session").status == "completed"


@pytest.mark.parametrize("statement", [fault[2] for fault in FAULTS if fault[0].startswith("learned")])
def test_learned_state_goes_as_a_whole_and_that_is_news_for_learners(
    path: Path, store: TrainingDataManager, statement: str
) -> None:
    before = store.load_state(None)
    execute(path, statement)
    store.quarantine()
    after = store.load_state(None)
    assert after.token not in ("", before.token)
    assert (dict(after.head), dict(after.rows)) == ({}, {})
    assert len(quarantined(path)) == len(before.head) + len(before.rows)
    with contextlib.closing(TrainingDataManager(path)) as again:
        again.update_state(lambda _held: StateDelta(before.head, before.rows))
        assert store.load_state(None).rows == before.rows


def test_what_has_nothing_to_do_with_learning_is_no_news_for_learners(path: Path, store: TrainingDataManager) -> None:
    before = store.load_state(None)
    execute(path, "UPDATE previews SET rank = -9e999 WHERE sequence = 1")
    assert len(store.quarantine()) == 1
    assert store.load_state(None) == before
    assert quarantined(path)[0][1]["rank"] == {"real": "-inf"}


def test_a_session_that_nobody_runs_is_found_and_marked(path: Path, store: TrainingDataManager) -> None:
    store.begin_session(make_session("mine"))
    store.begin_session(make_session("stray"))
    execute(path, "DELETE FROM running_sessions WHERE session_id = 'stray'")
    (fault,) = store.check()
    assert (fault.table, fault.row, fault.column) == ("training_sessions", "'stray'", "status")
    assert store.quarantine() == [fault]
    assert store.get_session("stray").status == "interrupted"
    assert store.get_session("mine").status == "running"
    assert quarantined(path) == []


def test_what_the_next_opening_mends_is_told_and_left_to_it(path: Path, store: TrainingDataManager) -> None:
    execute(
        path,
        "INSERT INTO training_examples VALUES ('late', 's', 't', 'g', '2024-01-04T00:00:00', NULL, NULL, NULL)",
        "INSERT INTO training_sessions (session_id, start_time) VALUES ('later', '2024-01-05')",
    )
    store.begin_session(make_session("left"))
    execute(path, "UPDATE running_sessions SET expires_at = '2024-01-01T00:00:00+00:00'")
    assert {(f.table, f.row, "opening" in f.remedy) for f in store.check()} == {
        ("training_examples", "'late'", True),
        ("training_sessions", "'later'", True),
        ("training_sessions", "'left'", True),
    }
    assert store.quarantine() == []
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.check() == []
        assert again.get_session("left").error == lease.ABANDONED


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM store_identity", "0 rows instead of one"),
        ("DROP TABLE quarantined_rows", "quarantined_rows is missing"),
        ("ALTER TABLE evaluations DROP COLUMN seconds", "no such column"),
    ],
)
def test_what_moving_rows_does_not_mend_is_told_and_left_alone(path: Path, statement: str, words: str) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        execute(path, statement)
        if "store_identity" not in statement:
            (fault,) = store.check()
            assert fault.table == ""
            assert words in fault.problem
            assert ".recover" in fault.remedy
        with pytest.raises(StorageCorruptError, match=words):
            store.quarantine()


def test_damaged_pages_are_told(path: Path, store: TrainingDataManager) -> None:
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    faults = store.check()
    assert faults
    assert {(fault.table, fault.row, fault.column) for fault in faults} == {("", None, None)}
    assert all(".recover" in fault.remedy for fault in faults)
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    (fault,) = store.check()
    assert fault.table == ""


def test_a_long_value_is_cut_and_a_fault_says_in_words_where_it_is(path: Path, store: TrainingDataManager) -> None:
    store.save_evaluations([], [Preview("x" * 500, "a", b"")])
    (fault,) = store.check()
    assert fault.row is not None
    assert len(fault.row) < 70
    fault = StorageFault("evaluations", "'d'", 3, "seconds", "it is odd", "do this")
    assert str(fault) == "evaluations, 'd', seconds: it is odd; do this"
    assert str(StorageFault("", None, None, None, "it is odd", "do this")) == "the file: it is odd; do this"
    store.update_state(count_up)
