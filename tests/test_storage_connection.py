"""The one connection to a file: how long it waits, what it says, and what happens when the file is exchanged."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from database_support import count_up, counted, execute, fill, ids, learn, open_files, plain, run
from tsm_training import TrainingDataManager
from tsm_training.data import HeldState, SessionCommit, StateDelta
from tsm_training.errors import (
    DatabaseNotOursError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageMovedError,
    StorageReadOnlyError,
)
from tsm_training.storage import APPLICATION_ID
from tsm_training.storage.sqlite import connection as connection_module
from tsm_training.storage.sqlite.connection import Database, OpenMode, storage_error
from tsm_training.testing import make_evaluation, make_example, make_session

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("before")])
        yield store


def sqlite_error(code: int, text: str = "what SQLite says") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


BUSY = sqlite_error(sqlite3.SQLITE_BUSY, "database is locked")
FULL = sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
BROKEN = sqlite_error(sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error")


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_every_connection_is_durable_and_never_waits_by_itself(path: Path, mode: OpenMode) -> None:
    TrainingDataManager(path).close()
    database = Database(str(path), 30.0, read_only=mode == "ro")
    database.open()
    with contextlib.closing(database), database.snapshot() as connection:
        names = ("foreign_keys", "synchronous", "busy_timeout", "journal_mode")
        settings = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
        assert settings == {"foreign_keys": 1, "synchronous": 2, "busy_timeout": 0, "journal_mode": "delete"}
        assert connection.isolation_level is None


# --- how long it waits ----------------------------------------------------------------------------------------------


@attrs.define
class Clock:
    """A clock that goes on only while somebody sleeps."""

    now: float = 0.0
    naps: list[float] = attrs.field(factory=list)

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return time.time_ns()

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("timeout", "is_hurried", "expected"),
    [(0.0, False, 0.0), (0.07, False, 0.07), (3.0, True, 0.2), (0.1, True, 0.1)],
)
def test_a_locked_file_is_waited_for_in_short_steps_as_long_as_was_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, timeout: float, is_hurried: bool, expected: float
) -> None:
    database = Database(str(path), timeout)
    database.open()
    clock = Clock()
    with contextlib.closing(database), plain(path) as other:
        database.fetch("SELECT 1")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(connection_module, "time", clock)
        with pytest.raises(StorageBusyError), (database.hurried if is_hurried else database).writing():
            pass
        assert expected <= clock.now < expected + 0.05 + 1e-9
        assert set(clock.naps) <= {0.05}


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_examples([make_example("new")]),
        lambda store: store.edit_examples({"example": lambda stored: attrs.evolve(stored, metadata={})}, count_up),
        lambda store: store.remove_example("example", count_up),
        lambda store: store.save_evaluations([make_evaluation("new")]),
        lambda store: store.begin_session(make_session("new")),
        lambda store: store.commit_session("session", lambda held: SessionCommit(make_session(), (), count_up(held))),
        lambda store: store.update_state(count_up),
    ],
    ids=["add", "edit", "remove", "save", "begin", "commit", "learn"],
)
def test_a_locked_file_is_an_error_and_nothing_is_half_done(
    path: Path, write: Callable[[TrainingDataManager], object]
) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.06)) as store:
        fill(store)
        with plain(path) as other:
            other.execute("BEGIN IMMEDIATE")
            before = list(other.iterdump())
            with pytest.raises(StorageBusyError) as caught:
                write(store)
            assert caught.value.reason == "another process kept it locked for more than 0.06 seconds"
            assert list(other.iterdump()) == before
            other.execute("ROLLBACK")
        write(store)


def test_reading_goes_on_while_somebody_is_about_to_write(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.0)) as store, plain(path) as other:
        fill(store)
        other.execute("BEGIN IMMEDIATE")
        assert len(store.get_all_examples()) == 1
        assert store.load_state(None).rows


def test_a_file_that_is_locked_altogether_cannot_be_read_or_opened(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.0)) as store, plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        uses: list[Callable[[], object]] = [
            store.get_all_examples,
            store.load_state,
            store.check,
            lambda: TrainingDataManager(path, busy_timeout=0.0),
        ]
        for use in uses:
            with pytest.raises(StorageBusyError):
                use()
        other.execute("ROLLBACK")
        assert store.get_all_examples() == []


def test_a_commit_that_a_reader_holds_up_is_rolled_back(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, busy_timeout=0.06)) as store, plain(path) as reader:
        fill(store)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM training_examples").fetchall()
        with pytest.raises(StorageBusyError):
            store.add_examples([make_example("new")])
        reader.execute("ROLLBACK")
        assert ids(store) == ["example"]
        store.add_examples([make_example("new")])


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_lock_that_goes_away_in_time_is_waited_for(path: Path, store: TrainingDataManager, lock: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"BEGIN {lock}")
        release = threading.Timer(0.12, other.execute, ["ROLLBACK"])
        release.start()
        store.add_examples([make_example("a")])
        release.join()
    assert ids(store) == ["before", "a"]


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Let Ctrl-C be an exception also where the tests run in the background, with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_is_heard_while_waiting_for_a_lock(path: Path, store: TrainingDataManager) -> None:
    with plain(path) as other:
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
    assert ids(store) == ["before", "after"]


def test_who_keeps_something_after_ctrl_c_waits_for_a_moment_only(path: Path, store: TrainingDataManager) -> None:
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            with pytest.raises(StorageBusyError):
                store.save_evaluations([make_evaluation()])
        assert time.monotonic() - started < 10  # of 30
        other.execute("ROLLBACK")
    store.save_evaluations([make_evaluation()])


# --- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_READONLY, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StorageReadOnlyError),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageMovedError),
        (sqlite3.SQLITE_READONLY_ROLLBACK, StorageReadOnlyError),
        (sqlite3.SQLITE_FULL, StorageFullError),
        (sqlite3.SQLITE_CORRUPT_INDEX, StorageCorruptError),
        (sqlite3.SQLITE_NOTADB, DatabaseNotOursError),
        (sqlite3.SQLITE_ERROR, StorageError),
        (sqlite3.SQLITE_IOERR_READ, StorageError),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageError),
        (sqlite3.SQLITE_IOERR_WRITE, StorageFullError),  # where it is the disk itself, SQLite says SQLITE_FULL
        (sqlite3.SQLITE_CANTOPEN, StorageError),
    ],
)
def test_every_error_of_sqlite_has_a_name(path: Path, code: int, kind: type[StorageError]) -> None:
    error = storage_error(str(path), sqlite_error(code))
    assert (type(error), error.location) == (kind, str(path))
    in_memory = StorageError if code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) else kind
    assert type(storage_error(":memory:", sqlite_error(code))) is in_memory


@pytest.mark.parametrize("lack", ["no such table: evaluations", "no such column: seconds"])
def test_a_table_or_column_that_is_not_there_is_damage(path: Path, lack: str) -> None:
    error = storage_error(str(path), sqlite_error(sqlite3.SQLITE_ERROR, lack))
    assert (type(error), error.location) == (StorageCorruptError, str(path))
    assert lack in error.reason


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_FSYNC])
def test_a_disk_without_room_is_told_whatever_sqlite_makes_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert type(storage_error(str(path), sqlite_error(code))) is StorageFullError


def test_a_folder_that_is_gone_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    error = storage_error(str(tmp_path / "gone" / "x.db"), sqlite_error(sqlite3.SQLITE_CANTOPEN))
    assert (type(error), error.reason) == (StorageError, "No such file or directory")


def test_a_place_that_the_system_does_not_let_us_see_is_an_error_by_name(
    store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(connection_module.os, "stat", refuse)
        with pytest.raises(StorageError) as caught:
            store.get_all_examples()
    assert caught.value.reason == "the system does not let us look at it: Permission denied"
    assert ids(store) == ["before"]


def test_a_change_cannot_use_the_store_that_applies_it(store: TrainingDataManager) -> None:
    for use in (lambda: store.add_examples([make_example("a")]), store.get_all_examples, store.load_state):
        with pytest.raises(StorageError, match="must not use the store"):
            store.update_state(lambda held, use=use: use() or count_up(held))  # type: ignore[misc]
    assert ids(store) == ["before"]
    assert counted(store) == 0


def test_a_store_that_is_closed_in_the_middle_of_a_call_says_so(store: TrainingDataManager) -> None:
    def change(held: HeldState) -> StateDelta:
        store.close()
        return count_up(held)

    with pytest.raises(StorageClosedError):
        store.update_state(change)
    with contextlib.closing(TrainingDataManager(store.location)) as again:
        assert counted(again) == 0


def test_an_iterator_over_a_store_that_is_closed_meanwhile_says_so(store: TrainingDataManager) -> None:
    store.add_examples([make_example(f"e{number}") for number in range(300)])
    iterator = store.iterate_examples()
    next(iterator)
    store.close()
    with pytest.raises(StorageClosedError):
        list(iterator)


# --- the file is no longer what it was --------------------------------------------------------------------------------

USES: dict[str, Callable[[TrainingDataManager], object]] = {
    "read one": lambda store: store.get_example("before"),
    "read all": lambda store: store.get_all_examples(),
    "learned": lambda store: store.load_state(),
    "add": lambda store: store.add_examples([make_example("after")]),
    "learn": lambda store: store.update_state(learn),
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


def copy_another_over(path: Path) -> None:
    other = path.with_name("other.db")
    with contextlib.closing(TrainingDataManager(other)) as store:
        fill(store)
    path.write_bytes(other.read_bytes())


def restore_another(path: Path) -> None:
    other = path.with_name("other.db")
    TrainingDataManager(other).close()
    with plain(other) as source, plain(path) as target:
        source.backup(target)


def make_a_folder_of_it(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("loss", [delete, move, replace, copy_another_over, restore_another, make_a_folder_of_it])
def test_a_file_that_is_gone_is_an_error_by_name_and_nothing_is_written_or_made(
    path: Path, store: TrainingDataManager, loss: Callable[[Path], None]
) -> None:
    store.get_all_examples()
    loss(path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    for use in USES.values():
        with pytest.raises(StorageMovedError) as caught:
            use(store)
        assert caught.value.location == str(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("size", [0, 100, 3 * 4096])
def test_a_file_that_was_cut_off_is_an_error_by_name(path: Path, store: TrainingDataManager, size: int) -> None:
    os.truncate(path, size)
    assert store.check()
    for name in USES.keys() - {"check"}:
        with pytest.raises((StorageCorruptError, DatabaseNotOursError)):
            USES[name](store)
    assert path.stat().st_size == size


def keep_the_time(path: Path, content: bytes) -> None:
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("write", [Path.write_bytes, keep_the_time], ids=["copied", "copied with its time"])
@pytest.mark.parametrize("pause", [0.0, 0.15])
def test_a_backup_that_is_copied_over_an_open_file_is_what_every_handle_sees(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], object], pause: float
) -> None:
    """Both have come as far by SQLite's own count of changes: it would go on with the pages that it remembers."""
    monkeypatch.setattr(connection_module, "_QUIET_NS", 100_000_000)
    copy = tmp_path / "copy.db"
    with contextlib.closing(TrainingDataManager(path)) as store, contextlib.closing(TrainingDataManager(path)) as other:
        store.add_examples([make_example("both")])
        store.update_state(lambda _held: StateDelta({"who": '"both"'}, {"row": '"both"'}))
        store.backup(copy)
        for file, who in ((path, "live"), (copy, "copy")):
            with contextlib.closing(TrainingDataManager(file)) as each:
                each.add_examples([make_example(who)])
                each.update_state(lambda _held, who=who: StateDelta({"who": f'"{who}"'}, {"row": f'"{who}"'}))  # type: ignore[misc]
        for handle in (store, other):
            assert (ids(handle), handle.load_state(None).head) == (["both", "live"], {"who": '"live"'})
        time.sleep(pause)
        for handle in (store, other):
            assert (ids(handle), handle.load_state(None).rows) == (["both", "live"], {"row": '"live"'})
        write(path, copy.read_bytes())
        for handle in (store, other):
            assert handle.load_state().head == {"who": '"copy"'}
            assert (ids(handle), handle.load_state(None).rows) == (["both", "copy"], {"row": '"copy"'})
        store.update_state(count_up)
        assert counted(other) == 1
        assert store.check() == []


def test_a_file_that_comes_back_is_used_again(tmp_path: Path) -> None:
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

    def change(held: HeldState) -> StateDelta:
        path.rename(elsewhere)
        return count_up(held)

    with pytest.raises(StorageMovedError):
        store.update_state(change)
    elsewhere.rename(path)
    assert counted(store) == 0
    store.update_state(count_up)


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


def test_a_connection_is_kept_only_while_the_file_was_left_alone(
    path: Path, store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within one step of the file system's clock look alike."""
    made = []
    real = connection_module.connect

    def connect(name: str, mode: OpenMode = "rwc") -> sqlite3.Connection:
        made.append(name)
        return real(name, mode)

    monkeypatch.setattr(connection_module, "connect", connect)
    changed = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    for later, expected in ((1_000_000_000, 3), (3_000_000_000, 1)):
        monkeypatch.setattr(connection_module.time, "time_ns", lambda later=later: changed + later)
        made.clear()
        for _ in range(3):
            assert store.get_example("before") == make_example("before")
        assert len(made) == expected


# --- no room, and nobody may write ------------------------------------------------------------------------------------

FILLING = """
import contextlib, os, resource, sys
from tsm_training.data import ObservationRecord, Preview, StateDelta
from tsm_training.storage import TrainingDataManager
from tsm_training.errors import StorageFullError
from tsm_training.testing import make_evaluation, make_example, make_session

path, step = sys.argv[1], int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in (0, 40_000, 74_240):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        TrainingDataManager(path)
    except StorageFullError:
        continue
    raise AssertionError("a new file found room")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
store = TrainingDataManager(path)
size = os.path.getsize(path)
kept, refused, number = [], 0, 0

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
    attempt(f"r{number}", lambda: store.update_state(lambda held: StateDelta(rows={f"r{number}": '"' + text + '"'})))
    with contextlib.suppress(StorageFullError):  # undoing a change that found no room may need room itself
        assert len(store.get_all_examples()) == sum(name[0] == "e" for name in kept)
        assert len(store.load_state(None).rows) == sum(name[0] == "r" for name in kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
attempt("e0", lambda: store.add_examples([make_example("e0")]))
assert kept[-1] == "e0" and refused > 20, (kept, refused)
faults = [fault for fault in store.check() if fault.table != "previews"]  # these are no pictures
assert faults == [], [str(fault) for fault in faults][:5]
store.close()
print(*kept, sep="\\n")
"""


@pytest.mark.slow
def test_each_call_without_room_is_durable_or_an_error_by_name_and_all_goes_on_afterwards(path: Path) -> None:
    pytest.importorskip("resource", reason="a limit on file sizes is a matter of Unix")
    kept = run(FILLING, path, 1024).split("\n")
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert [fault for fault in store.check() if fault.table != "previews"] == []
        assert ids(store) == [name for name in kept if name[:1] == "e"]
        assert [session.session_id for session in store.iterate_sessions()] == [n for n in kept if n[:1] == "s"]
        assert list(store.load_state(None).rows) == sorted(name for name in kept if name[:1] == "r")
        for name in [n for n in kept if n[:1] == "v"]:
            assert len(store.load_evaluations([name])) == len(store.load_previews([name])) == 1
            assert store.find_observations("w@1", [name]) == {name}


def test_a_full_database_is_told_and_goes_on_when_there_is_room(store: TrainingDataManager) -> None:
    large = make_example("large", metadata={"text": "x" * 50_000})
    fits = large.metadata["text"]

    def leave_no_room() -> None:
        with store._database.writing() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            connection.execute("INSERT INTO quarantined_rows VALUES (1, 'x', ?, 'x', 'x')", (f'"{fits}"',))

    with pytest.raises(StorageFullError):
        leave_no_room()
    assert ids(store) == ["before"]
    store.add_examples([large])


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


@needs_fork
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
            assert ids(store) == ["before"]
            (path if what == "file" else folder).chmod(0o700)
        with contextlib.closing(TrainingDataManager(path)) as store:
            store.add_examples([make_example("after")])

    as_an_ordinary_user(work)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_new_file_in_a_write_protected_folder_is_an_error_by_name() -> None:
    def work(folder: Path) -> None:
        folder.chmod(0o500)
        with pytest.raises(StorageReadOnlyError):
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
        ({"BEGIN IMMEDIATE": [(False, BUSY), (False, BUSY)], "COMMIT": [(False, FULL)]}, StorageFullError),
    ],
)
@pytest.mark.parametrize("name", ["training.db", ":memory:"])
def test_a_change_that_fails_stores_nothing_remembers_nothing_and_the_next_one_succeeds(
    tmp_path: Path,
    plan: dict[str, list[tuple[bool, BaseException]]],
    faults: dict[str, list[tuple[bool, BaseException]]],
    kind: type[BaseException],
    name: str,
) -> None:
    path = name if name == ":memory:" else tmp_path / name
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.add_examples([make_example("before")])
        store.begin_session(make_session())
        before = store.update_state(count_up)
        commit = SessionCommit(make_session(), (), StateDelta({"lost": "1"}))
        writes: list[Callable[[], object]] = [
            lambda: store.add_examples([make_example("lost")]),
            lambda: store.update_state(learn),
            lambda: store.edit_examples({"before": lambda stored: stored}, learn),
            lambda: store.remove_example("before", learn),
            lambda: store.commit_session("session", lambda _held: commit),
        ]
        for write in writes:
            plan.update({sql: list(errors) for sql, errors in faults.items()})
            with pytest.raises(kind):
                write()
            assert not any(plan.values())
            assert store.load_state() == before
        store.add_examples([make_example("after")])
        assert ids(store) == ["before", "after"]
        assert store.check() == []
        with contextlib.closing(TrainingDataManager(path)) as again:
            assert ids(again) == (["before", "after"] if name != ":memory:" else [])


def test_reading_goes_on_after_a_snapshot_that_could_not_be_ended(
    path: Path, plan: dict[str, list[tuple[bool, BaseException]]]
) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        plan["ROLLBACK"] = [(False, BROKEN), (False, BROKEN)]
        with pytest.raises(StorageError, match="disk I/O error"):
            store.load_state()
        assert store.load_state().token == ""
        plan["PRAGMA integrity_check"] = [(False, sqlite_error(sqlite3.SQLITE_IOERR_READ))]
        with pytest.raises(StorageError, match="what SQLite says"):  # which is not called damage
            store.check()
        assert store.check() == []


def test_a_connection_that_cannot_be_set_up_is_closed(
    path: Path, plan: dict[str, list[tuple[bool, BaseException]]]
) -> None:
    plan["PRAGMA foreign_keys = ON"] = [(False, BROKEN)]
    with pytest.raises(StorageError, match="disk I/O error"):
        TrainingDataManager(path)
    TrainingDataManager(path).close()


KILLED = """
import os, sys
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import make_example
store = TrainingDataManager(sys.argv[1])
store.add_examples([make_example("acknowledged")])
print("acknowledged", flush=True)
store.remove_example("acknowledged", lambda held: os.kill(os.getpid(), 9))
"""


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_a_change_leaves_nothing_half_done(path: Path) -> None:
    with pytest.raises(AssertionError):
        run(KILLED, path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert ids(store) == ["acknowledged"]


# --- forks, and giving everything back --------------------------------------------------------------------------------

FORKING = """
import os, sys
from pathlib import Path
from tsm_training.data import StateDelta
from tsm_training.storage import TrainingDataManager
from tsm_training.errors import StorageClosedError, StorageError, StorageMovedError
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
    return [example.example_id for example in store.iterate_examples()]

def refused(store, error):
    for use in (store.get_all_examples, lambda: store.add_examples([make_example("x")])):
        try:
            use()
        except error:
            continue
        raise AssertionError("not refused")

def use():
    assert ids() == ["parent"]
    store.add_examples([make_example("child")])
    in_a_child(lambda: store.add_examples([make_example("grandchild")]))
    store.close()
    refused(store, StorageClosedError)

path = Path(sys.argv[1])
store = TrainingDataManager(path)
store.add_examples([make_example("parent")])
in_a_child(use)
assert ids() == ["parent", "child", "grandchild"]
store.add_examples([make_example("parent again")])

# A child that closes its copy while the parent is writing must not undo what the parent writes.
delta = StateDelta({"text": '"' + "x" * 100_000 + '"'})
store.update_state(lambda held: in_a_child(store.close) or delta)
assert store.load_state().head == delta.head

def exchanged():
    path.rename(path.with_name("moved.db"))
    refused(store, StorageMovedError)
    path.with_name("moved.db").rename(path)

in_a_child(exchanged)
assert len(ids()) == 4
store.close()
in_a_child(lambda: refused(store, StorageClosedError))
memory = TrainingDataManager(":memory:")
in_a_child(lambda: refused(memory, StorageError))
memory.close()
"""


@needs_fork
@pytest.mark.slow
def test_a_child_of_a_fork_has_a_connection_of_its_own(path: Path) -> None:
    run(FORKING, path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert ids(store) == ["parent", "child", "grandchild", "parent again"]


@needs_proc
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_has_its_file_open_once_and_gives_it_back(path: Path, read_only: bool) -> None:
    TrainingDataManager(path).close()
    store = TrainingDataManager(path, read_only=read_only)
    for _ in range(3):
        store.get_all_examples()
        assert open_files(path) == 1
    store.close()
    assert open_files(path) == 0
    dropped = TrainingDataManager(path, read_only=read_only)
    assert open_files(path) == 1
    del dropped
    gc.collect()
    assert open_files(path) == 0
    path.unlink()
    assert list(path.parent.iterdir()) == []


@needs_proc
@pytest.mark.parametrize("content", [b"hello", b""], ids=["no database", "newer"])
def test_a_store_that_could_not_be_opened_holds_no_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if not content:
        execute(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 99")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for read_only in (False, True):
            with pytest.raises(StorageError):
                TrainingDataManager(path, read_only=read_only)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert open_files(path) == 0


def test_a_store_shows_its_path_and_compares_by_identity(store: TrainingDataManager) -> None:
    assert store.location in repr(store)
    with contextlib.closing(TrainingDataManager(store.location)) as other:
        assert store != other
    store.close()
    store.close()
    with pytest.raises(StorageClosedError):
        store.get_all_examples()
