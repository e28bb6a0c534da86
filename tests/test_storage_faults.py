"""What the system does to an open database: files moved away, full disks, files that nobody may write, torn commits."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tsm_training import TrainingDataManager
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageMovedError,
    StorageReadOnlyError,
)
from tsm_training.learning import LearnedState
from tsm_training.storage.sqlite import connection as connection_module
from tsm_training.storage.sqlite.connection import Database, OpenMode, storage_error
from tsm_training.testing import make_evaluation, make_example, make_learned_state, make_session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("before")])
        yield store


def learn(held: LearnedState) -> LearnedState:
    return make_learned_state()


# --- the file is no longer where it was -----------------------------------------------------------------------------

USES: dict[str, Callable[[TrainingDataManager], object]] = {
    "read one": lambda store: store.get_example("before"),
    "read all": lambda store: store.get_all_examples(),
    "count": lambda store: store.get_dataset_stats(),
    "learning": lambda store: store.load_learning(),
    "add": lambda store: store.add_examples([make_example("after")]),
    "evaluate": lambda store: store.save_evaluations([make_evaluation()]),
    "learn": lambda store: store.update_learning(learn),
    "begin": lambda store: store.begin_session(make_session()),
    "check": lambda store: store.check(),
}


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    TrainingDataManager(other).close()
    other.replace(path)


def make_a_folder_of_it(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("loss", [delete, move, replace, make_a_folder_of_it])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_file_that_is_gone_is_an_error_by_name_and_nothing_is_written_or_made(
    path: Path,
    store: TrainingDataManager,
    loss: Callable[[Path], None],
    use: Callable[[TrainingDataManager], object],
) -> None:
    loss(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(StorageMovedError, match=r"moved, deleted or replaced .*open it again") as caught:
        use(store)
    assert caught.value.location == str(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before


def test_a_folder_that_was_moved_away_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with contextlib.closing(TrainingDataManager(folder / "training.db")) as store:
        folder.rename(tmp_path / "moved")
        with pytest.raises(StorageMovedError):
            store.get_all_examples()
        (tmp_path / "folder").write_text("a file now")
        with pytest.raises(StorageMovedError):
            store.get_all_examples()
        (tmp_path / "folder").unlink()
        (tmp_path / "moved").rename(folder)
        assert store.get_all_examples() == []


def test_a_file_that_goes_in_the_middle_of_a_change_gets_nothing_of_it(path: Path, store: TrainingDataManager) -> None:
    elsewhere = path.with_name("elsewhere.db")

    def change(held: LearnedState) -> LearnedState:
        path.rename(elsewhere)
        return learn(held)

    with pytest.raises(StorageMovedError):
        store.update_learning(change)
    elsewhere.rename(path)
    assert store.load_learning().version == 0
    store.update_learning(learn)


def test_what_sqlite_notices_itself_has_the_same_name(
    path: Path, store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = store._database._handles.identity
    monkeypatch.setattr(Database, "_present_identity", lambda _database: identity)
    path.unlink()
    with pytest.raises(StorageMovedError, match="open it again"):
        store.add_examples([make_example("after")])
    assert not path.exists()


@pytest.mark.parametrize("loss", [replace, delete])
def test_a_file_that_is_exchanged_while_it_is_opened_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch, loss: Callable[[Path], None]
) -> None:
    TrainingDataManager(path).close()
    real = connection_module.connect

    def overtaken(name: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
        opened = real(name, mode)
        monkeypatch.undo()
        loss(path)
        return opened

    monkeypatch.setattr(connection_module, "connect", overtaken)
    with pytest.raises(StorageMovedError, match="while it was being opened"):
        TrainingDataManager(path)


def test_a_place_that_the_system_does_not_let_us_see_is_an_error_by_name(
    path: Path, store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(connection_module.os, "stat", refuse)
        with pytest.raises(StorageError, match="does not let us look at it: Permission denied"):
            store.get_all_examples()
    assert store.get_all_examples() == [make_example("before")]


AFTER_A_FORK = """
import os, sys
from pathlib import Path
from tsm_training.storage import (TrainingDataManager)
from tsm_training.errors import StorageMovedError
from tsm_training.testing import make_example
path = Path(sys.argv[1])
store = TrainingDataManager(path)
if sys.argv[2] == "replaced":
    TrainingDataManager(path.with_name("other.db")).close()
child = os.fork()
if child == 0:
    if sys.argv[2] == "replaced":
        path.with_name("other.db").replace(path)
    else:
        path.unlink()
    for use in (store.get_all_examples, lambda: store.add_examples([make_example("x")])):
        try:
            use()
        except StorageMovedError:
            continue
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert path.exists() == (sys.argv[2] == "replaced")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_the_child_of_a_fork_connects_to_the_same_file_or_not_at_all(path: Path, how: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", AFTER_A_FORK, str(path), how]
    subprocess.run(command, check=True)


# --- no room --------------------------------------------------------------------------------------------------------

FILLING = """
import contextlib, resource, sys
from tsm_training.data import (ObservationRecord, Preview)
from tsm_training.storage import (TrainingDataManager)
from tsm_training.errors import StorageFullError
from tsm_training.testing import make_evaluation, make_example, make_learned_state, make_session

path, step = sys.argv[1], int(sys.argv[2])
store = TrainingDataManager(path)
store.update_learning(lambda held: make_learned_state(1))
size = __import__("os").path.getsize(path)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
kept, refused, number = ["learned 1"], 0, 0

def attempt(name, call):
    global refused
    try:
        call()
    except StorageFullError:
        refused += 1
    else:
        kept.append(name)

for limit in range(512, size + 24 * 1024, step):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    number += 1
    text = "x" * (number * 97 % 5000)
    attempt(f"e{number}", lambda: store.add_examples([make_example(f"e{number}", metadata={"text": text})]))
    attempt(f"v{number}", lambda: store.save_evaluations(
        [make_evaluation(f"v{number}")],
        [Preview(f"v{number}", "p", bytes(number * 61 % 3000))],
        [ObservationRecord(f"v{number}", "w@1", bytes(number * 31 % 3000))],
    ))
    attempt(f"s{number}", lambda: store.begin_session(make_session(f"s{number}")))
    with contextlib.suppress(StorageFullError):  # undoing a change that found no room may need room itself
        assert len(store.get_all_examples()) == sum(name[0] == "e" for name in kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
attempt("e0", lambda: store.add_examples([make_example("e0")]))
assert kept[-1] == "e0" and refused > 20, (kept, refused)
faults = [fault for fault in store.check() if fault.table != "previews"]  # these are no pictures
assert faults == [], [str(fault) for fault in faults][:5]
store.close()
print(*kept, sep="\\n")
"""


def test_each_call_without_room_is_durable_or_an_error_by_name_and_all_goes_on_afterwards(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLING, str(path), "512"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kept = done.stdout.split("\n")
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert [fault for fault in store.check() if fault.table != "previews"] == []
        assert [example.example_id for example in store.get_all_examples()] == [n for n in kept if n[:1] == "e"]
        assert [session.session_id for session in store.get_all_sessions()] == [n for n in kept if n[:1] == "s"]
        for name in [n for n in kept if n[:1] == "v"]:
            assert len(store.load_evaluations([name])) == len(store.load_previews(name)) == 1
            assert store.find_observations("w@1", [name]) == {name}


def test_a_full_database_is_told_and_goes_on_when_there_is_room(path: Path, store: TrainingDataManager) -> None:
    with store._database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFullError, match="full; make room and call again"):
            store.add_examples([make_example("large", metadata={"text": "x" * 50_000})])
        connection.execute("PRAGMA max_page_count = 1000000")
    assert store.get_all_examples() == [make_example("before")]
    store.add_examples([make_example("after")])


def sqlite_error(code: int, text: str = "no") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


FULL = sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
BROKEN = sqlite_error(sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (OSError(28, "No space left on device"), StorageFullError),
        (OSError(122, "Disk quota exceeded"), StorageFullError),
        (OSError(30, "Read-only file system"), StorageReadOnlyError),
        (PermissionError(13, "Permission denied"), StorageReadOnlyError),
        (OSError(5, "Input/output error"), StorageError),
        (None, StorageError),
    ],
)
def test_the_reason_of_a_failed_write_is_found_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None, kind: type[StorageError]
) -> None:
    real = tempfile.TemporaryFile

    def probe(**arguments: Any) -> Any:
        if refusal is not None:
            raise refusal
        return real(**arguments)

    monkeypatch.setattr(tempfile, "TemporaryFile", probe)
    error = storage_error(str(path), sqlite_error(sqlite3.SQLITE_IOERR_WRITE, "disk I/O error"))
    assert type(error) is kind
    assert (refusal.strerror if refusal else "disk I/O error") in str(error)
    assert list(path.parent.iterdir()) == []


def test_a_system_without_limits_on_files_has_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    error = storage_error(str(path), sqlite_error(sqlite3.SQLITE_IOERR_WRITE, "disk I/O error"))
    assert (type(error), error.reason) == (StorageError, "disk I/O error")


def test_a_limit_that_is_far_away_is_not_the_reason(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, limits[1]))
    try:
        error = storage_error(str(path), BROKEN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert type(error) is StorageError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_READONLY, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_CANTINIT, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageMovedError),
        (sqlite3.SQLITE_READONLY_ROLLBACK, StorageReadOnlyError),
        (sqlite3.SQLITE_FULL, StorageFullError),
        (sqlite3.SQLITE_CORRUPT, StorageCorruptError),
        (sqlite3.SQLITE_CORRUPT_INDEX, StorageCorruptError),
        (sqlite3.SQLITE_NOTADB, DatabaseNotOursError),
        (sqlite3.SQLITE_ERROR, StorageError),
        (sqlite3.SQLITE_IOERR_READ, StorageError),
    ],
)
def test_every_error_of_sqlite_has_a_name(code: int, kind: type[StorageError]) -> None:
    assert type(storage_error(":memory:", sqlite_error(code))) is kind


# --- nobody may write -----------------------------------------------------------------------------------------------

NOBODY = 65534


def as_an_ordinary_user(work: Callable[[Path], None]) -> None:
    """Do something in a folder in a child process that may not do everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                if os.geteuid() == 0:
                    os.chown(folder, NOBODY, NOBODY)
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                work(folder)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        folder.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_or_folder_that_is_write_protected_can_be_read_and_says_so_when_written(what: str) -> None:
    def work(folder: Path) -> None:
        path = folder / "training.db"
        with contextlib.closing(TrainingDataManager(path)) as store:
            store.add_examples([make_example("before")])
        (path if what == "file" else folder).chmod(0o400 if what == "file" else 0o500)
        with contextlib.closing(TrainingDataManager(path)) as store:
            with pytest.raises(StorageReadOnlyError, match="read_only=True"):
                store.add_examples([make_example("after")])
            assert store.get_all_examples() == [make_example("before")]
            (path if what == "file" else folder).chmod(0o700)
        with contextlib.closing(TrainingDataManager(path)) as store:
            store.add_examples([make_example("after")])

    as_an_ordinary_user(work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_new_file_in_a_write_protected_folder_is_an_error_by_name() -> None:
    def work(folder: Path) -> None:
        folder.chmod(0o500)
        with pytest.raises(StorageReadOnlyError, match="Permission denied"):
            TrainingDataManager(folder / "training.db")

    as_an_ordinary_user(work)


# --- a commit that does not succeed -----------------------------------------------------------------------------------


class Faulty(sqlite3.Connection):
    """Fails where it is told to, before or after the statement was run."""

    plan: dict[str, list[tuple[bool, BaseException]]]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        faults = self.plan.get(sql, [])
        if not faults:
            return super().execute(sql, *parameters)
        is_run, error = faults.pop(0)
        if is_run:
            super().execute(sql, *parameters)
        raise error


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[bool, BaseException]]]:
    """Return what the connections to come shall fail at."""
    plan: dict[str, list[tuple[bool, BaseException]]] = {}

    def connect(path: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
        name = path if path == ":memory:" else f"{Path(path).as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            name, uri=True, timeout=0.0, isolation_level=None, check_same_thread=False, factory=Faulty
        )
        connection.plan = plan
        return connection

    monkeypatch.setattr(connection_module, "connect", connect)
    return plan


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ({"COMMIT": [(False, FULL)]}, StorageFullError),
        ({"COMMIT": [(False, BROKEN)]}, StorageError),
        ({"COMMIT": [(False, FULL)], "ROLLBACK": [(False, BROKEN)]}, StorageFullError),
        ({"COMMIT": [(False, FULL)], "ROLLBACK": [(True, BROKEN)]}, StorageFullError),
        ({"COMMIT": [(False, KeyboardInterrupt())]}, KeyboardInterrupt),
        ({"COMMIT": [(False, KeyboardInterrupt())], "ROLLBACK": [(False, BROKEN)]}, KeyboardInterrupt),
        ({"COMMIT": [(False, FULL)], "ROLLBACK": [(False, KeyboardInterrupt())]}, KeyboardInterrupt),
        ({"BEGIN IMMEDIATE": [(True, KeyboardInterrupt())]}, KeyboardInterrupt),
        ({"BEGIN IMMEDIATE": [(False, BROKEN)]}, StorageError),
    ],
)
@pytest.mark.parametrize("name", ["training.db", ":memory:"])
def test_a_change_that_fails_stores_nothing_and_the_next_one_succeeds(
    tmp_path: Path,
    plan: dict[str, list[tuple[bool, BaseException]]],
    faults: dict[str, list[tuple[bool, BaseException]]],
    kind: type[BaseException],
    name: str,
) -> None:
    path = name if name == ":memory:" else tmp_path / name
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("before")])
        plan.update({sql: list(errors) for sql, errors in faults.items()})
        with pytest.raises(kind):
            store.add_examples([make_example("lost")])
        assert not any(plan.values())
        store.add_examples([make_example("after")])
        assert [example.example_id for example in store.get_all_examples()] == ["before", "after"]
        assert store.check() == []
    if name != ":memory:":
        with contextlib.closing(TrainingDataManager(path)) as again:
            assert [example.example_id for example in again.get_all_examples()] == ["before", "after"]


def test_reading_goes_on_after_a_snapshot_that_could_not_be_ended(
    path: Path, plan: dict[str, list[tuple[bool, BaseException]]]
) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        plan["ROLLBACK"] = [(False, BROKEN), (False, BROKEN)]
        with pytest.raises(StorageError, match="disk I/O error"):
            store.load_learning()
        assert store.load_learning().version == 0


def test_a_file_that_cannot_be_read_for_another_reason_than_damage_is_not_called_damaged(
    path: Path, plan: dict[str, list[tuple[bool, BaseException]]]
) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        plan["PRAGMA integrity_check"] = [(False, sqlite_error(sqlite3.SQLITE_IOERR_READ, "disk I/O error"))]
        with pytest.raises(StorageError, match="disk I/O error"):
            store.check()
        assert store.check() == []


def test_a_connection_that_cannot_be_set_up_is_closed(
    path: Path, plan: dict[str, list[tuple[bool, BaseException]]]
) -> None:
    plan["PRAGMA foreign_keys = ON"] = [(False, BROKEN)]
    with pytest.raises(StorageError, match="disk I/O error"):
        TrainingDataManager(path)
    TrainingDataManager(path).close()


def test_a_closed_store_advises_to_open_it_again(store: TrainingDataManager) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageClosedError, match="open it again"):
        store.get_all_examples()


# --- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), float("inf"), "30", None, True])
def test_the_time_to_wait_is_a_number_of_seconds(path: Path, bad: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(path, busy_timeout=bad)
    assert caught.value.argument == "busy_timeout"
    assert not path.exists()


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Let Ctrl-C be an exception also where the tests run in the background, with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_is_heard_while_waiting_for_a_lock(path: Path, store: TrainingDataManager) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        started = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            store.add_examples([make_example("never")])
        assert time.monotonic() - started < 10  # of 30
        timer.join()
        other.execute("ROLLBACK")
    store.add_examples([make_example("after")])
    assert [example.example_id for example in store.get_all_examples()] == ["before", "after"]


def test_a_store_closes_also_when_an_error_has_cost_it_its_connection(tmp_path: Path) -> None:
    store = TrainingDataManager(tmp_path / "training.db")
    handle = store._database._handles.by_process[os.getpid()]
    assert handle.connection is not None
    handle.connection.close()
    handle.connection = None
    store.close()
    with pytest.raises(StorageClosedError):
        store.get_all_examples()
