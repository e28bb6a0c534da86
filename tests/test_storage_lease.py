"""Sessions that have lost their process are found, and those that run elsewhere are never robbed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from database_support import answer, execute, plain, started, tell
from tsm_training.data import SessionCommit, TrainingSession
from tsm_training.errors import StorageError
from tsm_training.storage import TrainingDataManager
from tsm_training.storage.sqlite import lease
from tsm_training.testing import MOMENT, make_evaluation, make_session

ENDED = make_session(status="completed", end_time=MOMENT)
FOREVER = datetime.max.replace(tzinfo=UTC).isoformat()

CHILD = """
import os, signal, sys
from tsm_training.data import SessionCommit
from tsm_training.storage import TrainingDataManager
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


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.begin_session(make_session())
        yield store


def session(path: Path) -> TrainingSession:
    with contextlib.closing(TrainingDataManager(path)) as store:
        return store.get_session("session")


def expiry(path: Path) -> timedelta | None:
    """Return for how long the lease goes on; None where there is none."""
    with plain(path) as connection:
        rows = connection.execute("SELECT expires_at FROM running_sessions").fetchall()
    return datetime.fromisoformat(rows[0][0]) - datetime.now(UTC) if rows else None


def expire(path: Path, seconds: float = 1) -> None:
    execute(path, f"UPDATE running_sessions SET expires_at = '{datetime.now(UTC) - timedelta(seconds=seconds)}'")


# --- a process dies -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_session_of_a_killed_process_is_interrupted_at_the_next_opening(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with started(CHILD, path) as process:
        assert answer(process) == "begun"
        assert session(path).status == "running"
        tell(process, "die")
        assert process.wait(60) == -signal.SIGKILL
    with caplog.at_level(logging.WARNING, "tsm_training"), contextlib.closing(TrainingDataManager(path)) as store:
        found = store.get_session("session")
        assert (found.status, found.end_time, found.error) == ("interrupted", None, lease.ABANDONED)
        assert store.load_evaluations(["digest"]) == [make_evaluation()]
        assert store.check() == []
    assert len(caplog.messages) == 1
    assert "session session was interrupted" in caplog.text
    assert expiry(path) is None
    assert list(path.parent.iterdir()) == [path]
    caplog.clear()
    assert session(path).status == "interrupted"
    assert caplog.messages == []


@pytest.mark.slow
def test_a_session_that_another_process_runs_is_left_alone(path: Path) -> None:
    with started(CHILD, path) as process:
        assert answer(process) == "begun"
        assert [session(path).status for _ in range(2)] == ["running"] * 2
        tell(process, "finish")
        assert process.wait(60) == 0
    assert session(path) == ENDED
    assert expiry(path) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_fork_does_not_end_its_parents_session_nor_renew_it(
    path: Path, store: TrainingDataManager
) -> None:
    expire(path, -10)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            store.save_evaluations([make_evaluation()])
            code = 0 if session(path).status == "running" else 2
            store.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = expiry(path)
    assert left is not None
    assert left < timedelta(seconds=11)
    assert session(path).status == "running"


OWNERS = {
    "another process with the same number": "process_start = 'another'",
    "a process that is not there": "process_id = 4194304999",
}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_a_process_of_this_machine_that_lives_no_longer_has_lost_its_session(
    path: Path, store: TrainingDataManager, owner: str
) -> None:
    execute(path, f"UPDATE running_sessions SET {owner}")
    (fault,) = store.check()
    assert (fault.row, fault.column) == ("'session'", "status")
    assert session(path).status == "interrupted"


@pytest.mark.parametrize("elsewhere", ["host = 'another'", "boot_id = 'another'"])
def test_of_a_process_elsewhere_only_the_lease_tells(path: Path, store: TrainingDataManager, elsewhere: str) -> None:
    execute(path, f"UPDATE running_sessions SET process_id = 4194304999, {elsewhere}")
    assert session(path).status == "running"
    expire(path)
    assert session(path).status == "interrupted"


@pytest.mark.parametrize("status", ["1 (python) Z 0 0", "1 (a ) b) X 0 0"])
def test_a_process_that_waits_to_be_buried_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stat").write_text(status)
    monkeypatch.setattr(lease, "_PROC", tmp_path)
    assert lease.is_lost((*lease._machine(), 1, "0", FOREVER), datetime.now(UTC))


def no_such_process(_process_id: int, _signal: int) -> None:
    raise ProcessLookupError


def somebody_elses(_process_id: int, _signal: int) -> None:
    raise PermissionError


@pytest.mark.parametrize(
    ("platform", "kill", "is_lost"),
    [
        ("win32", no_such_process, False),  # it is not asked: signal 0 is Ctrl-C there
        ("darwin", no_such_process, True),
        ("darwin", somebody_elses, False),
        ("darwin", lambda _process_id, _signal: None, False),
    ],
)
def test_a_system_without_proc_is_asked_otherwise_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, kill: Callable[[int, int], None], is_lost: bool
) -> None:
    monkeypatch.setattr(lease, "_PROC", tmp_path)
    monkeypatch.setattr(lease.sys, "platform", platform)
    monkeypatch.setattr(lease.os, "kill", kill)
    lease._machine.cache_clear()
    try:
        host, boot_id = lease._machine()
        assert boot_id == ""
        assert lease.is_lost((host, boot_id, 7, "", FOREVER), datetime.now(UTC)) == is_lost
    finally:
        lease._machine.cache_clear()


# --- a lease --------------------------------------------------------------------------------------------------------


def test_a_session_has_a_lease_of_a_minute_that_ends_with_it(path: Path, store: TrainingDataManager) -> None:
    left = expiry(path)
    assert left is not None
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    store.commit_session("session", lambda _held: SessionCommit(make_session(num_examples=1)))
    assert session(path).status == "running"
    assert expiry(path) is not None
    store.commit_session("session", lambda _held: SessionCommit(ENDED))
    assert expiry(path) is None


def test_a_lease_that_is_over_ends_its_session_also_where_the_process_lives(
    path: Path, store: TrainingDataManager
) -> None:
    expire(path)
    store.begin_session(make_session("another"))
    assert store.get_session("session").status == "interrupted"
    assert store.get_session("another").status == "running"


def test_keeping_evaluations_renews_the_leases_of_ones_own_sessions(path: Path, store: TrainingDataManager) -> None:
    expire(path, -10)
    with contextlib.closing(TrainingDataManager(path)) as other:
        other.save_evaluations([make_evaluation()])
    left = expiry(path)
    assert left is not None
    assert left < timedelta(seconds=11)
    store.save_evaluations([make_evaluation()])
    left = expiry(path)
    assert left is not None
    assert left > timedelta(seconds=50)


def test_renewing_writes_once_in_ten_seconds(
    path: Path, store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = lease.time.monotonic()
    for seconds, renews in ((0, False), (9.5, False), (10.5, True), (11, False), (21, True)):
        monkeypatch.setattr(lease.time, "monotonic", lambda seconds=seconds: now + seconds)
        expire(path, -10)
        store.renew_session("session")
        left = expiry(path)
        assert left is not None
        assert (left > timedelta(seconds=50)) == renews


def test_renewing_waits_for_nobody(path: Path, store: TrainingDataManager, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain(path) as other, contextlib.closing(TrainingDataManager(path)) as handle:
        expire(path, -10)
        other.execute("BEGIN IMMEDIATE")
        started_at = lease.time.monotonic()
        handle.renew_session("session")
        assert lease.time.monotonic() - started_at < 5  # of 30
        other.execute("ROLLBACK")
        handle.renew_session("session")  # it was not renewed, so the next call is not too early
        left = expiry(path)
        assert left is not None
        assert left > timedelta(seconds=50)


@pytest.mark.parametrize("how", ["renew", "save", "commit"])
def test_a_session_that_was_taken_for_dead_goes_on(path: Path, store: TrainingDataManager, how: str) -> None:
    expire(path)
    assert session(path).status == "interrupted"
    if how == "renew":
        with contextlib.closing(TrainingDataManager(path)) as handle:
            handle.renew_session("session")
    elif how == "save":
        store.save_evaluations([make_evaluation()])
    else:
        store.commit_session("session", lambda _held: SessionCommit(ENDED))
    assert session(path) == (ENDED if how == "commit" else make_session())
    assert (expiry(path) is None) == (how == "commit")


@pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
def test_a_session_that_has_ended_is_not_renewed(path: Path, store: TrainingDataManager, status: str) -> None:
    ended = make_session(status=status, end_time=MOMENT, error="as it was told")
    store.commit_session("session", lambda _held: SessionCommit(ended))
    with contextlib.closing(TrainingDataManager(path)) as handle:
        handle.renew_session("session")
        handle.renew_session("nobody")
        store.save_evaluations([make_evaluation()])
        assert handle.get_session("session") == ended


def test_a_store_that_is_closed_gives_its_sessions_up(path: Path, store: TrainingDataManager) -> None:
    with contextlib.closing(TrainingDataManager(path)) as other:
        other.begin_session(make_session("other"))
        store.close()
        assert session(path).status == "interrupted"
        assert other.get_session("other").status == "running"


def test_a_store_is_closed_at_once_also_where_it_cannot_give_its_sessions_up(
    path: Path, store: TrainingDataManager
) -> None:
    with plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        started_at = lease.time.monotonic()
        store.close()
        assert lease.time.monotonic() - started_at < 5  # of 30
        other.execute("ROLLBACK")
    assert session(path).status == "running"


def test_a_session_that_could_not_begin_has_no_lease(path: Path, store: TrainingDataManager) -> None:
    with pytest.raises(StorageError):
        store.begin_session(make_session())
    with pytest.raises(StorageError):
        store.begin_session(make_session("\ud800"))
    with plain(path) as connection:
        assert connection.execute("SELECT session_id FROM running_sessions").fetchall() == [("session",)]
