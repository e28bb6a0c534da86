"""What a store says of faults and of its arguments, to the letter; what it moves, and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training import TrainingDataManager
from tsm_training.data import SessionCommit
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    SchemaTooNewError,
    StorageCorruptError,
    StorageError,
    StorageReadOnlyError,
)
from tsm_training.storage import GUIDE_SCHEMA, SCHEMA_VERSION, StorageFault
from tsm_training.storage.sqlite.checking import insert_row, storage_faults
from tsm_training.storage.sqlite.connection import Database
from tsm_training.testing import (
    MOMENT,
    make_evaluation,
    make_example,
    make_files,
    make_learned_state,
    make_metric_row,
    make_session,
)

QUARANTINE = "quarantine() puts the row aside"
INTERRUPT = "if no program runs it, quarantine() marks it as interrupted"
REOPEN = "opening the file for writing mends it"
SALVAGE = "restore a backup, or save what can still be read with tsm_training.storage.salvage()"

Moved = tuple[str, dict[str, Any], str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    """Give a store with two of everything."""
    with contextlib.closing(TrainingDataManager(path)) as made:
        made.add_examples([make_example("one"), make_example("two")])
        for name in ("first", "second"):
            made.begin_session(make_session(name))
            ended = SessionCommit(make_session(name, status="completed", end_time=MOMENT), [make_metric_row(name)])
            made.commit_session(name, lambda _held, ended=ended: ended)  # type: ignore[misc]
        made.save_evaluations([make_evaluation("one"), make_evaluation("two")])
        made.update_learning(lambda _held: make_learned_state())
        yield made


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def counts(path: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
    return {name: count for name, count in found.items() if name != "sqlite_sequence"}


def moved(path: Path) -> list[Moved]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT table_name, content, reason FROM quarantined_rows ORDER BY sequence")
        return [(table, json.loads(content), reason) for table, content, reason in rows]


ONE_ROW: dict[str, tuple[str, StorageFault, str]] = {
    "a value": (
        "UPDATE training_metrics SET accuracy = 7 WHERE session_id = 'second'",
        StorageFault(
            "training_metrics",
            "'second', 'example', 'good'",
            2,
            "accuracy",
            "a number from 0 to 1 is expected, not 7.0",
            QUARANTINE,
        ),
        "accuracy: a number from 0 to 1 is expected, not 7.0",
    ),
    "values that contradict each other": (
        "UPDATE evaluations SET accuracy = NULL WHERE example_digest = 'two'",
        StorageFault(
            "evaluations",
            "'two', 'worker'",
            2,
            "accuracy",
            "it is missing, and the row tells of no failure",
            QUARANTINE,
        ),
        "accuracy: it is missing, and the row tells of no failure",
    ),
    "metrics without a session": (
        "INSERT INTO training_metrics (session_id) VALUES ('none')",
        StorageFault(
            "training_metrics",
            "'none', None, None",
            3,
            None,
            "it belongs to a row of training_sessions that is not there",
            QUARANTINE,
        ),
        "it belongs to a row of training_sessions that is not there",
    ),
    "files without an example": (
        "INSERT INTO example_files (example_id) VALUES ('none')",
        StorageFault(
            "example_files",
            "'none'",
            3,
            None,
            "it belongs to a row of training_examples that is not there",
            QUARANTINE,
        ),
        "it belongs to a row of training_examples that is not there",
    ),
    "details without a session": (
        "INSERT INTO session_details (session_id, details) VALUES ('none', '{}')",
        StorageFault(
            "session_details",
            "'none'",
            3,
            None,
            "it belongs to a row of training_sessions that is not there",
            QUARANTINE,
        ),
        "it belongs to a row of training_sessions that is not there",
    ),
    "an owner without a session": (
        "INSERT INTO running_sessions VALUES ('none', 'host', 1)",
        StorageFault(
            "running_sessions",
            "'none'",
            None,
            None,
            "it belongs to a row of training_sessions that is not there",
            QUARANTINE,
        ),
        "it belongs to a row of training_sessions that is not there",
    ),
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_a_row_that_is_faulty_by_itself_is_told_and_moved_and_nothing_else_is(
    path: Path, store: TrainingDataManager, name: str
) -> None:
    statement, fault, reason = ONE_ROW[name]
    execute(path, "PRAGMA foreign_keys = OFF", statement)
    before = counts(path)
    assert store.check() == [fault]
    assert store.quarantine() == [fault]
    assert [(table, why) for table, _content, why in moved(path)] == [(fault.table, reason)]
    assert counts(path) == {**before, fault.table: before[fault.table] - 1, "quarantined_rows": 1}
    assert store.load_learning().version == 1
    assert store.check() == []


def test_all_that_is_wrong_with_a_row_is_told_and_kept_as_its_reason(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE evaluations SET confidence = 2, seconds = -1 WHERE example_digest = 'one'")
    before = datetime.now(UTC)
    assert [(fault.column, fault.problem) for fault in store.quarantine()] == [
        ("confidence", "a number from 0 to 1 is expected, not 2.0"),
        ("seconds", "a finite number of at least 0 is expected, not -1.0"),
    ]
    ((_table, content, reason),) = moved(path)
    assert reason == (
        "confidence: a number from 0 to 1 is expected, not 2.0; "
        "seconds: a finite number of at least 0 is expected, not -1.0"
    )
    assert content == {
        "sequence": 1,
        "example_digest": "one",
        "worker_id": "worker",
        "worker_fingerprint": "worker-fingerprint",
        "metric_fingerprint": "metric-fingerprint",
        "accuracy": 1 / 3,
        "confidence": 2.0,
        "failure_kind": None,
        "failure_type": None,
        "failure_message": None,
        "seconds": -1.0,
        "created_at": MOMENT.isoformat(),
    }
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (time,) = connection.execute("SELECT quarantined_at FROM quarantined_rows").fetchone()
    assert before <= datetime.fromisoformat(time) <= datetime.now(UTC)


def test_an_example_goes_with_its_files_the_files_first(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE training_examples SET metadata = '[]' WHERE example_id = 'one'")
    before = counts(path)
    assert store.quarantine() == [
        StorageFault("training_examples", "'one'", 1, "metadata", "it holds no JSON object", QUARANTINE)
    ]
    assert [(table, content["example_id"], reason) for table, content, reason in moved(path)] == [
        ("example_files", "one", "it belongs to a row of training_examples"),
        ("training_examples", "one", "metadata: it holds no JSON object"),
    ]
    assert counts(path) == {**before, "training_examples": 1, "example_files": 1, "quarantined_rows": 2}
    assert [example.example_id for example in store.get_all_examples()] == ["two"]


def test_a_session_goes_with_all_that_is_its_own_in_the_order_in_which_rows_refer_to_each_other(
    path: Path, store: TrainingDataManager
) -> None:
    execute(
        path,
        "UPDATE session_details SET details = '[]' WHERE session_id = 'second'",
        "INSERT INTO running_sessions VALUES ('second', 'host', 1)",
        "INSERT INTO training_metrics (session_id) VALUES ('second')",
    )
    before = counts(path)
    assert [(fault.table, fault.row) for fault in store.quarantine()] == [("session_details", "'second'")]
    why = "it belongs to a row of session_details"
    assert [(table, content["session_id"], reason) for table, content, reason in moved(path)] == [
        ("training_metrics", "second", why),
        ("training_metrics", "second", why),
        ("running_sessions", "second", why),
        ("session_details", "second", "details: it holds no JSON object"),
        ("training_sessions", "second", why),
    ]
    assert counts(path) == {
        **before,
        "training_metrics": 1,
        "running_sessions": 0,
        "session_details": 1,
        "training_sessions": 1,
        "quarantined_rows": 5,
    }
    assert len(store.get_metrics("first")) == 1


def test_what_was_learned_on_an_example_goes_as_a_whole_and_the_version_grows_once(
    path: Path, store: TrainingDataManager
) -> None:
    execute(path, "UPDATE absorbed_evidence SET residual = 2 WHERE example_digest = 'digest' AND worker_id = 'good'")
    before = counts(path)
    assert store.quarantine() == [
        StorageFault(
            "absorbed_evidence",
            "'digest', 'good'",
            None,
            "residual",
            "a number from 0 to 1 is expected, not 2.0",
            QUARANTINE,
        )
    ]
    found = [(content["example_digest"], reason) for _table, content, reason in moved(path)]
    assert sorted(found) == [
        ("digest", "it belongs to a row of absorbed_evidence"),
        ("digest", "residual: a number from 0 to 1 is expected, not 2.0"),
    ]
    assert counts(path) == {**before, "absorbed_evidence": 2, "quarantined_rows": 2}
    held = store.load_learning()
    assert held.version == 2
    assert held.state == attrs.evolve(
        make_learned_state(), absorbed={"digest 1": make_learned_state().absorbed["digest 1"]}
    )


def test_a_worker_whose_base_is_faulty_goes_alone_and_the_version_grows(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE learned_bases SET prior = 0 WHERE worker_id = 'good'")
    before = counts(path)
    assert [(fault.table, fault.rowid, fault.problem) for fault in store.quarantine()] == [
        ("learned_bases", 1, "a finite number above 0 is expected, not 0.0")
    ]
    assert counts(path) == {**before, "learned_bases": 1, "quarantined_rows": 1}
    assert store.load_learning().version == 2


def test_halves_that_another_application_wrote_are_told_one_by_one(path: Path, store: TrainingDataManager) -> None:
    execute(
        path,
        "PRAGMA foreign_keys = OFF",
        "DELETE FROM example_files WHERE example_id = 'two'",
        "DELETE FROM session_details WHERE session_id = 'second'",
    )
    assert store.check() == [
        StorageFault("training_examples", "'two'", 2, None, "it has no row in example_files", REOPEN),
        StorageFault("training_sessions", "'second'", 2, None, "it has no row in session_details", REOPEN),
    ]


def test_running_sessions_are_told_apart_by_what_is_known_of_who_runs_them(
    path: Path, store: TrainingDataManager
) -> None:
    for name in ("here", "left", "stray"):
        store.begin_session(make_session(name))
    store.abandon_session("left")
    execute(path, "DELETE FROM running_sessions WHERE session_id = 'stray'")
    left = StorageFault(
        "training_sessions", "'left'", 4, "status", "it is 'running', but its process has ended", REOPEN
    )
    stray = StorageFault(
        "training_sessions", "'stray'", 5, "status", "it is 'running', and nothing says in which process", INTERRUPT
    )
    assert store.check() == [left, stray]
    assert store.quarantine() == [stray]
    statuses = {session.session_id: session.status for session in store.get_all_sessions()}
    assert statuses == {
        "first": "completed",
        "second": "completed",
        "here": "running",
        "left": "running",
        "stray": "interrupted",
    }


def test_a_session_that_was_left_here_is_told_also_where_the_file_may_be_far_away(
    store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsm_training.storage.sqlite.ownership.is_on_network", lambda _path: None)
    store.begin_session(make_session("left"))
    store.abandon_session("left")
    assert [(fault.row, fault.remedy) for fault in store.check()] == [("'left'", REOPEN)]


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        (
            "INSERT INTO learning_version VALUES ('other', 5)",
            StorageFault("learning_version", None, None, None, "it has 2 rows instead of one", SALVAGE),
        ),
        (
            "DROP TABLE previews",
            StorageFault("previews", None, None, None, "the table or one of its columns is missing", SALVAGE),
        ),
        (
            "ALTER TABLE evaluations DROP COLUMN seconds",
            StorageFault("evaluations", None, None, None, "the table or one of its columns is missing", SALVAGE),
        ),
    ],
)
def test_what_moving_rows_does_not_mend_is_told_of_the_table_and_moves_nothing(
    path: Path, store: TrainingDataManager, statement: str, fault: StorageFault
) -> None:
    execute(path, statement, "UPDATE training_metrics SET accuracy = 7")
    before = counts(path)
    faults = store.check()
    assert fault in faults
    assert (len(faults) == 1) == (fault.table != "learning_version")  # of damaged tables the rows say little
    with pytest.raises(StorageCorruptError) as caught:
        store.quarantine()
    assert (caught.value.location, caught.value.reason) == (store.location, str(fault))
    assert counts(path) == before


def test_an_identity_that_is_faulty_is_told_with_its_row(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE learning_version SET version = -1, store_id = 'me'")
    problem = "a whole number of at least 0 is expected, not -1"
    fault = StorageFault("learning_version", "'me'", 1, "version", problem, SALVAGE)
    assert store.check() == [fault]
    with pytest.raises(StorageCorruptError) as caught:
        store.load_learning()
    assert (caught.value.location, caught.value.reason) == (
        store.location,
        f"learning_version, 'me', version: {problem}; {SALVAGE}",
    )


def test_an_identity_that_is_faulty_is_never_put_aside(path: Path, store: TrainingDataManager) -> None:
    execute(path, "UPDATE learning_version SET version = -1")
    before = counts(path)
    assert store.quarantine() == []
    assert counts(path) == before
    assert [fault.table for fault in store.check()] == ["learning_version"]


def test_an_index_that_lacks_rows_is_told_as_sqlite_says_it(path: Path, store: TrainingDataManager) -> None:
    store.close()
    execute(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX training_metrics_by_session ON training_metrics(epoch)' "
        "WHERE name = 'training_metrics_by_session'",
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        lines = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    assert lines != ["ok"]
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.check() == [StorageFault("", None, None, None, line, SALVAGE) for line in lines]


def alter(path: Path, old: str, new: str) -> None:
    """Exchange a few words in what the file says of its tables."""
    execute(path, "PRAGMA writable_schema = ON", f"UPDATE sqlite_schema SET sql = REPLACE(sql, '{old}', '{new}')")


def test_a_value_that_is_missing_where_there_must_be_one_is_a_fault_of_its_row(
    path: Path, store: TrainingDataManager
) -> None:
    store.close()
    alter(path, "source_path TEXT NOT NULL", "source_path TEXT")
    execute(path, "UPDATE training_examples SET source_path = NULL WHERE example_id = 'one'")
    alter(path, "source_path TEXT", "source_path TEXT NOT NULL")
    fault = StorageFault("training_examples", "'one'", 1, "source_path", "text is expected, not None", QUARANTINE)
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.check() == [fault]
        assert again.quarantine() == [fault]
        assert again.check() == []


def test_faults_of_several_tables_are_mended_at_once(path: Path, store: TrainingDataManager) -> None:
    execute(
        path,
        "UPDATE evaluations SET seconds = -1 WHERE example_digest = 'one'",
        "UPDATE training_examples SET metadata = '[]' WHERE example_id = 'one'",
        "UPDATE learned_bases SET prior = 0 WHERE worker_id = 'good'",
    )
    assert {fault.table for fault in store.quarantine()} == {"evaluations", "training_examples", "learned_bases"}
    assert sorted(table for table, _content, _reason in moved(path)) == [
        "evaluations",
        "example_files",
        "learned_bases",
        "training_examples",
    ]
    assert store.check() == []


class Failing:
    """A connection of which every statement fails."""

    def __init__(self, code: int) -> None:
        self._error = sqlite3.DatabaseError("what SQLite says")
        self._error.sqlite_errorcode = code

    def execute(self, *_arguments: object) -> None:
        raise self._error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CORRUPT_INDEX])
def test_damage_that_ends_the_check_is_told_as_sqlite_says_it(code: int) -> None:
    broken: Any = Failing(code)
    assert storage_faults(broken, "path") == [StorageFault("", None, None, None, "what SQLite says", SALVAGE)]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_ERROR])
def test_what_is_no_damage_ends_the_check_with_its_own_error(code: int) -> None:
    broken: Any = Failing(code)
    with pytest.raises(sqlite3.DatabaseError, match="what SQLite says"):
        storage_faults(broken, "path")


def test_damage_that_is_found_before_the_check_is_its_only_fault(
    store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_database: Database) -> None:
        raise StorageCorruptError("the file", "it is damaged")

    monkeypatch.setattr(Database, "snapshot", refuse)
    assert store.check() == [StorageFault("", None, None, None, "it is damaged", SALVAGE)]


# --- rows that are copied -------------------------------------------------------------------------------------------


@pytest.fixture
def connection(store: TrainingDataManager) -> Iterator[sqlite3.Connection]:
    with store._database.writing() as writing:
        yield writing


def test_a_row_is_copied_with_whatever_it_holds(connection: sqlite3.Connection) -> None:
    row: dict[str, object] = {
        "example_id": "x\udcff",
        "source_path": b"\x00\xff",
        "target_path": "text",
        "ground_truth_path": 1.5,
        "created_at": 7,
        "metadata": None,
    }
    insert_row(connection, "training_examples", row)
    columns = ", ".join(f"CAST({name} AS BLOB), TYPEOF({name})" for name in row)
    (found,) = connection.execute(f"SELECT {columns} FROM training_examples WHERE rowid = 3").fetchall()
    assert found[::2] == (b"x\xff", b"\x00\xff", b"text", b"1.5", b"7", None)
    assert found[1::2] == ("text", "blob", "text", "text", "text", "null")
    assert connection.execute("SELECT COUNT(*) FROM quarantined_rows").fetchone() == (0,)


def test_a_row_that_is_not_taken_is_kept_with_sqlites_reason_and_the_time(connection: sqlite3.Connection) -> None:
    before = datetime.now(UTC)
    insert_row(connection, "learned_bases", {"worker_id": "x\udcff", "prior": None})
    (found,) = connection.execute("SELECT table_name, content, reason, quarantined_at FROM quarantined_rows")
    assert found[0] == "learned_bases"
    assert json.loads(found[1]) == {"worker_id": {"base64": "eP8=", "type": "text"}, "prior": None}
    assert found[2] == "NOT NULL constraint failed: learned_bases.prior"
    assert before <= datetime.fromisoformat(found[3]) <= datetime.now(UTC)


# --- what a store says of its arguments and of its file ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "argument", "seen", "expected"),
    [
        ({"db_path": "file:a.db"}, "db_path", "file:a.db", "a plain path (no file: address)"),
        ({"db_path": ":memory:", "read_only": True}, "db_path", ":memory:", "a file, where read_only is True"),
        ({"busy_timeout": -0.5}, "busy_timeout", -0.5, "a finite number of seconds, at least 0"),
        ({"busy_timeout": math.inf}, "busy_timeout", math.inf, "a finite number of seconds, at least 0"),
        ({"busy_timeout": "1"}, "busy_timeout", "1", "a finite number of seconds, at least 0"),
        ({"busy_timeout": True}, "busy_timeout", True, "a finite number of seconds, at least 0"),
        ({"read_only": 1}, "read_only", 1, "True or False"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_with_what_was_expected(
    path: Path, arguments: dict[str, Any], argument: str, seen: object, expected: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(**{"db_path": path, **arguments})
    assert (caught.value.argument, caught.value.seen, caught.value.expected) == (argument, seen, expected)
    assert not path.exists()


@pytest.mark.parametrize("value", ["", 5, None])
def test_a_path_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(value)
    assert caught.value.argument == "db_path"


def test_a_place_is_absolute_and_knows_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with contextlib.closing(TrainingDataManager("~/a.db", busy_timeout=0)) as store:
        assert (store.location, store.db_path) == (str(tmp_path / "a.db"),) * 2
        assert repr(store.busy_timeout) == "0.0"
        assert not store.is_read_only
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrainingDataManager("a.db", read_only=True)) as viewer:
        assert viewer.location == str(tmp_path / "a.db")
        assert viewer.is_read_only


def test_a_row_that_is_passed_over_is_told_once_with_where_and_what_helps(
    path: Path, store: TrainingDataManager, caplog: pytest.LogCaptureFixture
) -> None:
    execute(path, "UPDATE evaluations SET seconds = -1 WHERE example_digest = 'one'")
    for _ in range(2):
        assert store.load_evaluations(["one", "two"]) == [make_evaluation("two")]
    assert caplog.messages == [
        f"{path}: passed over a row: evaluations, 'one', 'worker', seconds: a finite number of at least 0 is expected, "
        "not -1.0; see check() and quarantine()"
    ]


@pytest.mark.parametrize("count", [0, 2])
def test_an_identity_that_is_not_one_is_told_by_whoever_needs_it(
    path: Path, store: TrainingDataManager, count: int
) -> None:
    statement = "INSERT INTO learning_version VALUES ('other', 1)" if count else "DELETE FROM learning_version"
    execute(path, statement)
    for use in (store.load_learning, lambda: TrainingDataManager(path)):
        with pytest.raises(StorageCorruptError) as caught:
            use()
        assert caught.value.location == str(path)
        assert caught.value.reason == f"learning_version has {count} rows instead of one; {SALVAGE}"


def test_what_was_learned_is_read_again_only_when_it_has_changed(path: Path, store: TrainingDataManager) -> None:
    held = store.update_learning(lambda state: state)
    assert store.load_learning() is held
    store.remove_example("one")
    assert store.load_learning() is held
    store.begin_session(make_session("third"))
    _session, committed = store.commit_session("third", lambda _held: SessionCommit(make_session("third"), [], None))
    assert committed is held
    with contextlib.closing(TrainingDataManager(path)) as other:
        changed = other.update_learning(lambda _held: make_learned_state(2))
    assert store.load_learning() == changed
    assert store.load_learning() is store.load_learning()


def test_a_database_on_another_machine_is_told_with_what_helps(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def is_on_network(name: str) -> bool:
        asked.append(name)
        return True

    monkeypatch.setattr("tsm_training.storage.sqlite.manager.is_on_network", is_on_network)
    TrainingDataManager(path).close()
    TrainingDataManager(":memory:").close()
    assert asked == [str(path)]
    assert caplog.messages == [
        f"{path} lies on another machine, where locks cannot be relied on: let only one process at a time use it, "
        "or keep the database on a disk of this machine"
    ]


HELP = "quarantine() puts such rows aside, check() lists them all"


@pytest.mark.parametrize(
    ("statement", "use", "place"),
    [
        (
            "UPDATE example_files SET files = '[]' WHERE example_id = 'two'",
            lambda store: store.get_example("two"),
            "example_files, 'two', files: it holds no JSON object",
        ),
        (
            "UPDATE training_examples SET metadata = '[]' WHERE example_id = 'two'",
            lambda store: store.edit_examples({"two": lambda stored: stored}),
            "training_examples, 'two', metadata: it holds no JSON object",
        ),
        (
            "UPDATE session_details SET details = '[]' WHERE session_id = 'second'",
            lambda store: store.get_session("second"),
            "session_details, 'second', details: it holds no JSON object",
        ),
        (
            "UPDATE learned_bases SET prior = 0 WHERE worker_id = 'good'",
            lambda store: store.load_learning(),
            "learned_bases, 'good', prior: a finite number above 0 is expected, not 0.0",
        ),
        (
            "UPDATE absorbed_evidence SET residual = 2 WHERE example_digest = 'digest' AND worker_id = 'good'",
            lambda store: store.update_learning(lambda held: held),
            "absorbed_evidence, 'digest', 'good', residual: a number from 0 to 1 is expected, not 2.0",
        ),
    ],
)
def test_whoever_asks_for_a_row_that_is_faulty_is_told_which_and_what_helps(
    path: Path, store: TrainingDataManager, statement: str, use: Callable[[TrainingDataManager], object], place: str
) -> None:
    store.close()
    execute(path, statement)
    with contextlib.closing(TrainingDataManager(path)) as again, pytest.raises(StorageCorruptError) as caught:
        use(again)
    assert (caught.value.location, caught.value.reason) == (str(path), f"{place}; {HELP}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"created_at": datetime(2024, 1, 2, 3)}, "the time 2024-01-02 03:00:00 has no time zone"),
        (
            {"files": attrs.evolve(make_files(), target=attrs.evolve(make_files().target, sha256="x"))},
            "example_files, files: at 'target': at 'sha256': 64 hexadecimal digits are expected, not 'x'",
        ),
        ({"source_path": "a\ud800"}, "training_examples, source_path: the text is damaged: it is not UTF-8"),
    ],
)
def test_an_example_that_could_not_be_read_again_is_not_stored(
    store: TrainingDataManager, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StorageError) as caught:
        store.add_examples([make_example("three", **changes)])
    assert (caught.value.location, caught.value.reason) == (store.location, f"a value cannot be stored: {reason}")
    assert len(store.get_all_examples()) == 2


# --- what is said of files that cannot be opened ----------------------------------------------------------------------


def refusal(path: Path, **settings: Any) -> tuple[type[StorageError], str]:
    with pytest.raises(StorageError) as caught:
        TrainingDataManager(path, **settings)
    assert caught.value.location == str(path)
    return type(caught.value), caught.value.reason


def test_a_place_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(missing / "a.db") == (StorageError, f"the folder '{missing}' does not exist")
    assert refusal(tmp_path) == (StorageError, "it is a folder")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == (StorageError, "it is no regular file")
    assert refusal(missing.with_name("b.db"), read_only=True) == (
        StorageError,
        "there is no such file; a store opened for reading only makes none",
    )
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("content", [b"x", b"not a database, but long enough to be looked at" * 10])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_told_and_left(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    reason = "it is not an SQLite database; it was left as it was"
    assert refusal(path, read_only=read_only) == (DatabaseNotOursError, reason)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("statement", "kind", "reason"),
    [
        (
            f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
            SchemaTooNewError,
            f"it has schema version {SCHEMA_VERSION + 1}, this library knows {SCHEMA_VERSION}; upgrade the library",
        ),
        (
            "PRAGMA user_version = 0",
            StorageCorruptError,
            f"it has schema version 0, which the library never writes; {SALVAGE}",
        ),
        (
            "PRAGMA application_id = 5",
            DatabaseNotOursError,
            "it belongs to another application; it was left as it was",
        ),
        (
            "PRAGMA application_id = 0",
            DatabaseNotOursError,
            "it belongs to another application; it was left as it was",
        ),
    ],
)
def test_a_file_of_another_version_or_application_is_told_and_left(
    path: Path, statement: str, kind: type[StorageError], reason: str, read_only: bool
) -> None:
    TrainingDataManager(path).close()
    execute(path, statement)
    before = path.read_bytes()
    assert refusal(path, read_only=read_only) == (kind, reason)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mark", ["user_version = 7", "application_id = 5"])
def test_a_file_by_the_guide_that_another_application_has_marked_is_told_and_left(path: Path, mark: str) -> None:
    execute(path, *(statement for statement in GUIDE_SCHEMA.split(";\n") if statement.strip()), f"PRAGMA {mark}")
    before = path.read_bytes()
    assert refusal(path) == (DatabaseNotOursError, "it belongs to another application; it was left as it was")
    assert path.read_bytes() == before


def test_a_file_that_is_not_ready_cannot_be_opened_for_reading_only(path: Path) -> None:
    path.touch()
    advice = "open it once for writing, which makes it ready"
    assert refusal(path, read_only=True) == (StorageReadOnlyError, f"it is empty: {advice}")
    TrainingDataManager(path).close()
    execute(path, "PRAGMA user_version = 1")
    assert refusal(path, read_only=True) == (
        StorageReadOnlyError,
        f"it has schema version 1, not {SCHEMA_VERSION}: {advice}",
    )


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (
            ["CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN SELECT 1; END"],
            "the table evaluations has a trigger (t)",
        ),
        (
            ["ALTER TABLE learned_bases ADD COLUMN more AS (prior * 2)"],
            "the table learned_bases has computed columns",
        ),
        (["DROP TABLE previews", "CREATE VIEW Previews AS SELECT 1 AS name"], "Previews is no ordinary table"),
        (
            ["DROP TABLE previews", "create virtual table Previews using fts5(name)"],
            "Previews is no ordinary table",
        ),
    ],
)
def test_a_table_that_does_more_than_keep_values_is_told(path: Path, statements: list[str], problem: str) -> None:
    TrainingDataManager(path).close()
    execute(path, *statements)
    assert refusal(path) == (
        DatabaseNotOursError,
        f"{problem}, which the library never makes; it was left as it was",
    )
