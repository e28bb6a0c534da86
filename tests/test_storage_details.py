"""What the stores' errors say, to whom they point, and other things that only the last detail shows."""

from __future__ import annotations

import contextlib
import platform
import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training import InMemoryStore, TrainingDataManager
from tsm_training.data import SessionCommit, TrainingExample, TrainingStore
from tsm_training.errors import (
    DatabaseNotOursError,
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageMovedError,
    StorageReadOnlyError,
)
from tsm_training.storage.sqlite.connection import storage_error
from tsm_training.storage.sqlite.ownership import ABANDONED, is_abandoned
from tsm_training.testing import make_example, make_learned_state, make_metric_row, make_session

LOOK_ONLY = "to look at it only, give a TrainingManager storage=TrainingDataManager(path, read_only=True)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[TrainingStore]:
    opened: TrainingStore = InMemoryStore() if request.param == "memory" else TrainingDataManager(path)
    yield opened
    opened.close()


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


# --- errors of the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (
            sqlite3.SQLITE_READONLY,
            StorageReadOnlyError,
            f"what SQLite says; {LOOK_ONLY}",
        ),
        (
            sqlite3.SQLITE_READONLY_DBMOVED,
            StorageMovedError,
            "it was moved, deleted or replaced since it was opened; open it again",
        ),
        (
            sqlite3.SQLITE_READONLY_ROLLBACK,
            StorageReadOnlyError,
            "a change was cut short by a crash: open it once for writing, to undo that",
        ),
        (sqlite3.SQLITE_FULL, StorageFullError, "what SQLite says; make room and call again"),
        (sqlite3.SQLITE_NOTADB, DatabaseNotOursError, "it is not an SQLite database; it was left as it was"),
        (sqlite3.SQLITE_ERROR, StorageError, "what SQLite says"),
        (sqlite3.SQLITE_IOERR_READ, StorageError, "what SQLite says"),
    ],
)
def test_an_error_of_sqlite_is_told_with_the_file_and_what_to_do(
    path: Path, code: int, kind: type[StorageError], reason: str
) -> None:
    error = storage_error(str(path), sqlite_error(code))
    assert (type(error), error.location, error.reason) == (kind, str(path), reason)


def test_damage_is_told_with_the_file_and_what_sqlite_found(path: Path) -> None:
    error = storage_error(str(path), sqlite_error(sqlite3.SQLITE_CORRUPT))
    assert (type(error), error.location) == (StorageCorruptError, str(path))
    assert error.reason.startswith("the file is damaged (what SQLite says); ")


@pytest.mark.parametrize("lack", ["no such table: evaluations", "no such column: seconds"])
def test_a_table_or_column_that_is_not_there_is_damage(path: Path, lack: str) -> None:
    found = sqlite3.OperationalError(lack)
    found.sqlite_errorcode = sqlite3.SQLITE_ERROR
    error = storage_error(str(path), found)
    assert (type(error), error.location) == (StorageCorruptError, str(path))
    assert error.reason == (
        f"the file is damaged ({lack}); restore a backup, or save what can still be read with "
        "tsm_training.storage.salvage(); do not delete the file"
    )


@pytest.mark.parametrize(
    ("refusal", "kind", "reason"),
    [
        (OSError(28, "No room"), StorageFullError, "No room; make room and call again"),
        (
            OSError(30, "Read-only"),
            StorageReadOnlyError,
            f"Read-only; {LOOK_ONLY}",
        ),
        (OSError(5, "Broken"), StorageError, "Broken"),
    ],
)
def test_the_systems_own_reason_is_asked_for_in_the_folder_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError, kind: type[StorageError], reason: str
) -> None:
    asked = []

    def probe(**arguments: Any) -> Any:
        asked.append(Path(arguments["dir"]))
        raise refusal

    monkeypatch.setattr(tempfile, "TemporaryFile", probe)
    error = storage_error(str(path), sqlite_error(sqlite3.SQLITE_IOERR_FSYNC))
    assert (type(error), error.location, error.reason) == (kind, str(path), reason)
    assert asked == [path.parent]
    error = storage_error(":memory:", sqlite_error(sqlite3.SQLITE_IOERR_FSYNC))
    assert (type(error), error.location, error.reason) == (StorageError, ":memory:", "what SQLite says")
    assert asked == [path.parent]  # memory has no folder


@pytest.mark.parametrize(
    ("code", "size", "journal", "limit", "is_full"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, 100_000, 0, 150_000, True),  # a change may need some more pages
        (sqlite3.SQLITE_IOERR_FSYNC, 0, 100_000, 150_000, True),
        (sqlite3.SQLITE_IOERR_FSYNC, 100_000, 10, 100_000 + 64 * 1024 - 1, True),
        (sqlite3.SQLITE_IOERR_FSYNC, 100_000, 10, 100_000 + 64 * 1024, False),
        (sqlite3.SQLITE_IOERR_FSYNC, 100_000, 100_000, 10**9, False),
        (sqlite3.SQLITE_IOERR_FSYNC, 0, 0, 64 * 1024, False),
        (sqlite3.SQLITE_IOERR_FSYNC, 10**6, 0, resource.RLIM_INFINITY, False),
        (sqlite3.SQLITE_IOERR_WRITE, 0, 0, 10**9, True),  # the file has shrunk again
        (sqlite3.SQLITE_IOERR_WRITE, 0, 0, resource.RLIM_INFINITY, False),
    ],
)
def test_a_limit_on_the_size_of_files_is_the_reason_where_the_file_comes_near_it(  # noqa: PLR0917
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, size: int, journal: int, limit: int, is_full: bool
) -> None:
    path.write_bytes(bytes(size))
    path.with_name("training.db-journal").write_bytes(bytes(journal))
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    error = storage_error(str(path), sqlite_error(code))
    told = f"no file may be larger than {limit} bytes here (what SQLite says); make room, call again"
    expected = (StorageFullError, told) if is_full else (StorageError, "what SQLite says")
    assert (type(error), error.reason) == expected
    assert error.location == str(path)


def test_a_file_that_stays_locked_is_named_with_the_time_that_was_waited(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.05)) as waiting:
        locking = sqlite3.connect(path)
        locking.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageBusyError) as caught:
            waiting.add_examples([make_example()])
        locking.close()
    assert caught.value.location == waiting.location
    assert caught.value.reason == "another process kept it locked for more than 0.05 seconds"


def test_a_store_for_reading_says_so_when_it_is_written(path: Path) -> None:
    TrainingDataManager(path).close()
    viewed = TrainingDataManager(path, read_only=True)
    with contextlib.closing(viewed), pytest.raises(StorageReadOnlyError) as caught:
        viewed.require_writable()
    assert (caught.value.location, caught.value.reason) == (viewed.location, "it was opened for reading only")


# --- files of an older version --------------------------------------------------------------------------------------


def make_older(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "databases/schema_1.sql").read_text(encoding="utf-8"))


def test_every_upgrade_leaves_a_copy_with_the_next_free_name_and_says_where(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tsm_training")
    for ending in ("backup", "backup-2", "backup-3"):
        path.unlink(missing_ok=True)
        make_older(path)
        older = path.read_bytes()
        caplog.clear()
        store = TrainingDataManager(path)
        copy = path.with_name(f"training.db.schema-1.{ending}")
        assert copy.is_file()
        assert len(copy.read_bytes()) == len(older)
        said = f"{store.location} was upgraded from schema version 1 to "
        assert any(m.startswith(said) and m.endswith(f"; as it was: {copy}") for m in caplog.messages)
        store.close()


@pytest.mark.parametrize(
    ("fault", "kind"), [(OSError(28, "No room"), StorageFullError), (OSError(5, "Broken"), StorageError)]
)
def test_without_a_copy_there_is_no_upgrade(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError, kind: type[StorageError]
) -> None:
    make_older(path)
    before = path.read_bytes()

    def broken(*_arguments: object) -> None:
        raise fault

    monkeypatch.setattr("tsm_training.storage.sqlite.opening.copy_database", broken)
    with pytest.raises(StorageError) as caught:
        TrainingDataManager(path)
    assert (type(caught.value), caught.value.location) == (kind, str(path))
    assert caught.value.reason == f"no copy could be made of it before upgrading it: {fault.strerror}"
    assert path.read_bytes() == before


def test_an_older_file_that_is_opened_for_reading_is_named(path: Path) -> None:
    make_older(path)
    with pytest.raises(StorageReadOnlyError, match="open it once for writing, which makes it ready") as caught:
        TrainingDataManager(path, read_only=True)
    assert caught.value.location == str(path)


# --- where a backup may go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (":memory:", "a plain path of a file"),
        ("file:copy.db", "a plain path of a file"),
        ("training.db", "another file than the database itself or its journal"),
        ("training.db-journal", "another file than the database itself or its journal"),
    ],
)
def test_a_backup_that_would_replace_the_database_or_is_no_file_is_refused_by_its_argument(
    path: Path, name: str, expected: str
) -> None:
    destination = str(path.with_name(name)) if name.startswith("training") else name
    with contextlib.closing(TrainingDataManager(path)) as store, pytest.raises(InvalidArgumentError) as caught:
        store.backup(destination)
    assert (caught.value.argument, caught.value.seen, caught.value.expected) == ("path", destination, expected)


@pytest.mark.parametrize("value", [1, b"copy.db", None])
def test_a_backup_goes_to_a_path(path: Path, value: Any) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store, pytest.raises(InvalidArgumentError) as caught:
        store.backup(value)
    assert caught.value.argument == "path"


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("missing/copy.db", StorageError, "the folder '{folder}/missing' does not exist"),
        ("folder", StorageError, "it is no regular file"),
        ("present.db", StorageExistsError, "there is a file already; pass overwrite=True to replace it"),
        ("x.db", StorageError, "'x.db-wal' lies beside it, left by another database; remove it first"),
        ("y" * 300, StorageError, "File name too long"),
    ],
)
def test_a_backup_that_cannot_go_where_it_should_names_the_place(
    path: Path, name: str, kind: type[StorageError], reason: str
) -> None:
    folder = path.parent.resolve()
    (folder / "folder").mkdir()
    for present in ("present.db", "x.db-wal"):
        (folder / present).write_bytes(b"of somebody else")
    with contextlib.closing(TrainingDataManager(path)) as store, pytest.raises(StorageError) as caught:
        store.backup(folder / name)
    assert (type(caught.value), caught.value.location) == (kind, str(folder / name))
    assert caught.value.reason == reason.format(folder=folder)
    assert (folder / "present.db").read_bytes() == b"of somebody else"


# --- sessions whose process has died --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [True, None, False])
@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_a_session_counts_as_abandoned_only_where_its_mark_can_be_trusted(
    path: Path, monkeypatch: pytest.MonkeyPatch, host: str, network: bool | None
) -> None:
    asked = []

    def is_on_network(database: str) -> bool | None:
        asked.append(database)
        return network

    store = TrainingDataManager(path)
    store.begin_session(make_session())
    monkeypatch.setattr("tsm_training.storage.sqlite.ownership.is_on_network", is_on_network)
    assert not is_abandoned(store.location, "session", host)
    store.abandon_session("session")
    assert is_abandoned(store.location, "session", host) == (host == platform.node() or network is False)
    assert set(asked) <= {store.location}
    store.close()


def test_a_session_that_was_given_up_is_found_interrupted_by_the_next_opening(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TrainingDataManager(path)
    for name in ("first", "second"):
        store.begin_session(make_session(name))
    store.abandon_session("first")
    store.abandon_session("never begun")
    other = TrainingDataManager(path)
    assert [session.status for session in other.iterate_sessions()] == ["interrupted", "running"]
    assert other.get_session("first").error == ABANDONED
    assert other.get_session("second").error is None
    assert caplog.messages == [
        f"training session first was interrupted: {ABANDONED}; its evaluations are kept: call train() again to go on"
    ]
    other.close()
    store.close()


def test_nothing_is_left_of_a_session_whose_database_is_gone_when_it_is_given_up(path: Path) -> None:
    store = TrainingDataManager(path)
    store.begin_session(make_session())
    path.unlink()
    store.abandon_session("session")
    store.close()
    assert list(path.parent.iterdir()) == []


# --- errors of any store --------------------------------------------------------------------------------------------

LOOK_UPS: dict[str, tuple[Callable[[TrainingStore], Any], type[LookupError]]] = {
    "get_example": (lambda store: store.get_example("absent"), ExampleNotFoundError),
    "remove_example": (lambda store: store.remove_example("absent"), ExampleNotFoundError),
    "edit_examples": (lambda store: store.edit_examples({"absent": lambda example: example}), ExampleNotFoundError),
    "get_session": (lambda store: store.get_session("absent"), SessionNotFoundError),
    "iterate_metrics": (lambda store: list(store.iterate_metrics("absent")), SessionNotFoundError),
    "commit_session": (
        lambda store: store.commit_session("absent", lambda _state: SessionCommit(make_session("absent"))),
        SessionNotFoundError,
    ),
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_an_id_that_is_not_stored_is_named(store: TrainingStore, name: str) -> None:
    look_up, kind = LOOK_UPS[name]
    with pytest.raises(kind) as caught:
        look_up(store)
    assert vars(caught.value)["identifier"] == "absent"


def test_an_id_that_is_stored_already_is_named(store: TrainingStore) -> None:
    store.add_examples([make_example("present")])
    with pytest.raises(DuplicateExampleError, match="'present'"):
        store.add_examples([make_example("present")])
    store.begin_session(make_session("present"))
    with pytest.raises(StorageError) as caught:
        store.begin_session(make_session("present"))
    assert caught.value.location == store.location
    assert caught.value.reason == "a session with the id 'present' is already stored"


def test_a_closed_store_says_so_and_which_it_is(store: TrainingStore) -> None:
    where = store.location
    store.close()
    for call in (store.load_learning, store.get_dataset_stats, lambda: store.add_examples([make_example()])):
        with pytest.raises(StorageClosedError) as caught:
            call()
        assert caught.value.location == where
        assert caught.value.reason.startswith("it was closed")


# --- other things that must be right to the last --------------------------------------------------------------------


def test_examples_with_and_without_results_are_counted_apart(store: TrainingStore) -> None:
    store.add_examples([make_example(name) for name in "abc"])
    store.edit_examples({"b": lambda example: attrs.evolve(example, worker_results={})})
    store.begin_session(make_session())
    assert store.get_dataset_stats() == {
        "total_examples": 3,
        "processed_examples": 1,
        "unprocessed_examples": 2,
        "total_sessions": 1,
    }


def test_an_edit_that_spoils_what_it_is_given_and_then_fails_changes_nothing(store: TrainingStore) -> None:
    store.add_examples([make_example("a", metadata={"tags": ["old"]})])

    def spoil(example: TrainingExample) -> TrainingExample:
        example.metadata["tags"].append("new")
        raise ValueError("not like this")

    with pytest.raises(ValueError, match="not like this"):
        store.edit_examples({"a": spoil})
    assert store.get_example("a").metadata == {"tags": ["old"]}


def test_the_version_of_what_was_learned_grows_with_every_change_and_with_nothing_else(store: TrainingStore) -> None:
    versions = [store.load_learning().version]
    versions.append(store.update_learning(lambda _state: make_learned_state()).version)
    store.begin_session(make_session())
    _, learning = store.commit_session(
        "session", lambda _state: SessionCommit(make_session(status="completed"), [make_metric_row()], None)
    )
    assert learning == store.load_learning()
    assert learning.version == versions[-1]
    store.begin_session(make_session("other"))
    _, learning = store.commit_session(
        "other", lambda state: SessionCommit(make_session("other", status="completed"), [], state)
    )
    versions.append(learning.version)
    store.add_examples([make_example("a")])
    changed = store.remove_example("a", lambda state: state)
    assert changed is not None
    versions.append(changed.version)
    assert versions == sorted(set(versions))
    assert store.load_learning().version == versions[-1]
