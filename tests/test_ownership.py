"""Sessions whose process has died are found, and those that run elsewhere are never robbed."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tsm_training.data import SessionCommit
from tsm_training.errors import StorageBusyError, StorageError
from tsm_training.storage import TrainingDataManager
from tsm_training.storage.sqlite import ownership
from tsm_training.testing import MOMENT, make_evaluation, make_session

ENDED = make_session(status="completed", end_time=MOMENT)

CHILD = """
import os, signal, sys
from tsm_training.data import (SessionCommit)
from tsm_training.storage import (TrainingDataManager)
from tsm_training.testing import MOMENT, make_evaluation, make_session
store = TrainingDataManager(sys.argv[1])
store.begin_session(make_session())
store.save_evaluations([make_evaluation()])
print("begun", flush=True)
if sys.stdin.readline() == "die\\n":
    os.kill(os.getpid(), signal.SIGKILL)
ended = make_session(status="completed", end_time=MOMENT)
store.commit_session("session", lambda held: SessionCommit(ended))
store.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@contextlib.contextmanager
def a_process_with_a_session(path: Path) -> Iterator[Callable[[str], int]]:
    """Start a process that begins a session; it ends when it is told how: ``die`` or ``finish``."""
    arguments = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"

        def tell(word: str) -> int:
            process.communicate(f"{word}\n", timeout=60)
            return process.returncode

        yield tell
        if process.poll() is None:
            process.kill()


def status(path: Path) -> str:
    with contextlib.closing(TrainingDataManager(path)) as store:
        return store.get_session("session").status


def marks(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p.name.endswith(".running"))


def running_rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM running_sessions").fetchone()[0])


def begin_and_drop(path: Path) -> None:
    """Leave a session as a process leaves it that dies: begun, its mark there and held by nobody."""
    store = TrainingDataManager(path)
    store.begin_session(make_session())
    store.close()


# --- a process dies -------------------------------------------------------------------------------------------------


def test_the_session_of_a_killed_process_is_found_interrupted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with a_process_with_a_session(path) as tell:
        assert tell("die") == -signal.SIGKILL
    assert len(marks(path)) == 1
    with caplog.at_level(logging.WARNING, "tsm_training"), contextlib.closing(TrainingDataManager(path)) as store:
        session = store.get_session("session")
        assert (session.status, session.end_time) == ("interrupted", None)
        assert session.error == "no process runs it any more"
        assert store.load_evaluations(["digest"]) == [make_evaluation()]
    assert "session was interrupted" in caplog.text
    assert "call train() again to go on" in caplog.text
    assert (marks(path), running_rows(path)) == ([], 0)


def test_a_file_of_the_present_schema_is_tidied_up_without_a_copy(path: Path) -> None:
    begin_and_drop(path)
    TrainingDataManager(path).close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_interrupted_session_is_marked_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begin_and_drop(path)
    assert status(path) == "interrupted"
    caplog.clear()
    assert status(path) == "interrupted"
    assert not caplog.records


def test_a_session_that_another_process_runs_is_left_alone(path: Path) -> None:
    with a_process_with_a_session(path) as tell:
        assert status(path) == "running"
        assert status(path) == "running"
        assert tell("finish") == 0
    assert status(path) == "completed"
    assert (marks(path), running_rows(path)) == ([], 0)


def test_a_session_that_runs_here_is_left_alone(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        assert status(path) == "running"
        store.commit_session("session", lambda _held: SessionCommit(ENDED))
        assert (marks(path), running_rows(path)) == ([], 0)
    assert status(path) == "completed"


def test_a_session_goes_on_running_when_a_commit_does_not_end_it(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        store.commit_session("session", lambda _held: SessionCommit(make_session(num_examples=1)))
        assert status(path) == "running"
        assert len(marks(path)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_does_not_end_its_parents_session(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if status(path) == "running" else 2
                store.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert status(path) == "running"


def test_a_store_that_is_dropped_lets_go_of_its_sessions(path: Path) -> None:
    store = TrainingDataManager(path)
    store.begin_session(make_session())
    del store
    gc.collect()
    assert status(path) == "interrupted"


def test_two_running_sessions_of_one_store_have_a_mark_each(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        store.begin_session(make_session("second"))
        assert len(marks(path)) == 2
        store.commit_session("session", lambda _held: SessionCommit(ENDED))
        with contextlib.closing(TrainingDataManager(path)) as other:
            assert other.get_session("second").status == "running"
    with contextlib.closing(TrainingDataManager(path)) as later:
        assert later.get_session("second").status == "interrupted"


def test_a_session_in_memory_has_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        store.begin_session(make_session())
        store.commit_session("session", lambda _held: SessionCommit(ENDED))
        assert store.get_session("session").status == "completed"
    assert list(tmp_path.iterdir()) == []


def test_details_that_are_no_json_do_not_hide_a_dead_session(path: Path) -> None:
    begin_and_drop(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE session_details SET details = '{'")
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT status FROM training_sessions").fetchone() == ("interrupted",)


# --- another host ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_on_network", "host", "expected"),
    [
        (False, "elsewhere", "interrupted"),  # a container of this machine, say: its locks are ours too
        (None, "elsewhere", "running"),
        (True, "elsewhere", "running"),
        (True, "here", "interrupted"),
        (None, "here", "interrupted"),
    ],
)
def test_sessions_of_other_hosts_are_judged_only_on_a_local_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_on_network: bool | None, host: str, expected: str
) -> None:
    monkeypatch.setattr(ownership.platform, "node", lambda: host)
    begin_and_drop(path)
    monkeypatch.setattr(ownership.platform, "node", lambda: "here")
    monkeypatch.setattr(ownership, "is_on_network", lambda _path: is_on_network)
    assert status(path) == expected
    assert len(marks(path)) == (expected == "running")


# --- marks ----------------------------------------------------------------------------------------------------------


def test_a_mark_without_a_session_is_tidied_up(path: Path) -> None:
    TrainingDataManager(path).close()
    stray = path.with_name("training.db-0123456789abcdef.running")
    stray.touch()
    TrainingDataManager(path).close()
    assert not stray.exists()


def test_a_folder_that_cannot_be_listed_does_not_hide_a_dead_session(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_and_drop(path)

    def refuse(_folder: str) -> None:
        raise PermissionError

    monkeypatch.setattr(ownership.os, "scandir", refuse)
    assert status(path) == "interrupted"


def test_a_session_whose_mark_is_gone_counts_as_abandoned(path: Path) -> None:
    begin_and_drop(path)
    path.with_name(marks(path)[0]).unlink()
    assert status(path) == "interrupted"


def test_a_mark_that_cannot_be_removed_does_not_keep_a_file_from_being_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_and_drop(path)

    def refuse(_path: Path) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert status(path) == "interrupted"
    assert len(marks(path)) == 1
    TrainingDataManager(path).close()
    assert marks(path) == []


def test_a_mark_that_somebody_else_has_removed_is_no_trouble_at_the_end(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        path.with_name(marks(path)[0]).unlink()
        store.commit_session("session", lambda _held: SessionCommit(ENDED))
        assert store.get_session("session").status == "completed"


def test_a_file_without_leftovers_is_opened_while_somebody_else_writes(path: Path) -> None:
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        TrainingDataManager(path, busy_timeout=0).close()
        other.execute("ROLLBACK")
    begin_and_drop(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError):
            TrainingDataManager(path, busy_timeout=0)
        other.execute("ROLLBACK")


@pytest.mark.parametrize("name", ["training.db-notes.running", "other.db-0123456789abcdef.running", "training.db-copy"])
def test_files_of_similar_names_are_left_alone(path: Path, name: str) -> None:
    neighbour = path.with_name(name)
    neighbour.write_text("mine", encoding="utf-8")
    begin_and_drop(path)
    assert status(path) == "interrupted"
    assert neighbour.read_text(encoding="utf-8") == "mine"


def test_a_session_id_may_be_anything(path: Path) -> None:
    identifier = "../a/b:*?\n" * 50
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session(identifier))
        assert len(marks(path)) == 1


def test_a_refused_session_leaves_the_running_one_its_mark(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        with pytest.raises(StorageError, match="already stored"):
            store.begin_session(make_session())
        assert status(path) == "running"


def test_a_session_whose_mark_cannot_be_made_does_not_begin(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        (name,) = marks(path)
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("session_details", "training_sessions"):
            connection.execute(f"DELETE FROM {table}")
    path.with_name(name).mkdir()
    with contextlib.closing(TrainingDataManager(path)) as store:
        with pytest.raises(StorageError, match=f"the file '{name}' cannot be locked"):
            store.begin_session(make_session())
        assert store.get_all_sessions() == []


def test_a_session_that_could_not_be_stored_leaves_no_mark(path: Path) -> None:
    TrainingDataManager(path).close()
    own = ownership.SessionOwnership(str(path))

    def begin_in_vain(connection: sqlite3.Connection) -> None:
        with own.beginning("session") as mark:
            mark(connection)
            assert len(marks(path)) == 1
            raise RuntimeError("no room")

    connection = sqlite3.connect(path, isolation_level=None)
    with contextlib.closing(connection), pytest.raises(RuntimeError, match="no room"):
        begin_in_vain(connection)
    assert marks(path) == []


def test_a_session_whose_database_is_gone_leaves_no_mark(path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        path.unlink()
        store.abandon_session("session")
        assert marks(path) == []
        store.abandon_session("session")
