"""Ctrl-C at the moments that are hard to hit: around a beginning, and while the store is locked."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import manager_with, usual_pool
from tsm_training import (
    BayesianWeightLearner,
    InMemoryStore,
    Progress,
    TrainingDataManager,
    TrainingManager,
    TrainingSession,
)
from tsm_training.errors import StorageBusyError, StorageFullError


@attrs.frozen(eq=False)
class InterruptedStore(InMemoryStore):
    """Somebody presses Ctrl-C just before or just after a session's beginning is stored."""

    is_after: bool = attrs.field(default=True, kw_only=True)

    def begin_session(self, session: TrainingSession, /) -> None:
        if self.is_after:
            super().begin_session(session)
        raise KeyboardInterrupt


def test_a_session_that_was_interrupted_just_behind_its_beginning_does_not_go_on_running(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, storage=InterruptedStore())
    with pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False)
    assert [session.status for session in manager.data_manager.get_all_sessions()] == ["interrupted"]


def test_a_session_that_was_interrupted_before_its_beginning_was_never_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_with(tmp_path, storage=InterruptedStore(is_after=False))
    with caplog.at_level(logging.INFO, "tsm_training"), pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False)
    assert manager.data_manager.get_all_sessions() == []
    assert caplog.messages == []


@pytest.mark.parametrize("verbose", [False, True])
def test_ctrl_c_says_how_to_go_on_where_somebody_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, verbose: bool
) -> None:
    """Under the traceback for who called; in the log, as a warning unless that person watches already."""
    manager = manager_with(tmp_path)

    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with caplog.at_level(logging.INFO, "tsm_training"), pytest.raises(KeyboardInterrupt) as caught:
        manager.train(verbose=verbose, on_progress=interrupt)
    (session,) = manager.data_manager.get_all_sessions()
    assert (session.status, session.error) == ("interrupted", "KeyboardInterrupt")
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}
    words = "was interrupted; its evaluations are kept: call train() again to go on"
    assert caught.value.__notes__ == [f"Training session {session.session_id} {words}."]
    (record,) = caplog.records
    assert record.getMessage() == f"training session {session.session_id} {words}"
    assert record.levelno == (logging.INFO if verbose else logging.WARNING)


def test_the_bar_ends_before_what_is_written_about_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    class Bars(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Bars()
    monkeypatch.setattr(sys, "stderr", stream)

    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ended.append(stream.getvalue()[-1:] + record.getMessage())

    handler, log = Handler(), logging.getLogger("tsm_training")
    log.addHandler(handler)
    monkeypatch.setattr(log, "level", logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            manager_with(tmp_path).train(verbose=True, on_progress=interrupt)
    finally:
        log.removeHandler(handler)
    assert ended[-1].startswith("\ntraining session ")


def sessions_of(manager: TrainingManager) -> list[str]:
    return [session.status for session in manager.data_manager.get_all_sessions()]


@pytest.fixture
def locked() -> Iterator[Callable[[TrainingManager], sqlite3.Connection]]:
    """Give a function that locks a manager's database against it, until the connection is closed."""
    with contextlib.ExitStack() as stack:

        def lock(manager: TrainingManager) -> sqlite3.Connection:
            connection = sqlite3.connect(manager.data_manager.location, isolation_level=None)
            stack.callback(connection.close)
            connection.execute("BEGIN EXCLUSIVE")
            return connection

        yield lock


def test_ctrl_c_does_not_wait_for_a_locked_store_and_a_later_session_ends_the_one_that_could_not_be(
    tmp_path: Path, locked: Callable[[TrainingManager], sqlite3.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_with(tmp_path, db_path=tmp_path / "store.db")
    locks = []

    def lock_and_interrupt(_progress: Progress) -> None:
        locks.append(locked(manager))
        raise KeyboardInterrupt

    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "tsm_training"), pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False, on_progress=lock_and_interrupt)
    assert time.monotonic() - started < 20  # the store's own patience is 30 seconds for each call
    assert "could not note that training session" in caplog.text
    locks[0].close()
    assert sessions_of(manager) == ["running"]
    with contextlib.closing(sqlite3.connect(manager.data_manager.location, isolation_level=None)) as connection:
        connection.execute("UPDATE running_sessions SET expires_at = '2000-01-01T00:00:00+00:00'")  # a minute later
    manager.train(verbose=False)
    assert sessions_of(manager) == ["interrupted", "completed"]
    manager.close()


def test_a_session_that_could_not_be_ended_is_found_by_the_next_opening(
    tmp_path: Path, locked: Callable[[TrainingManager], sqlite3.Connection]
) -> None:
    path = tmp_path / "store.db"
    manager = manager_with(tmp_path, storage=TrainingDataManager(path, busy_timeout=0.0))
    locks = []

    def lock(progress: Progress) -> None:
        if progress.phase == "learning":
            locks.append(locked(manager))

    with pytest.raises(StorageBusyError):
        manager.train(verbose=False, on_progress=lock)
    locks[0].close()
    with TrainingManager(usual_pool(), BayesianWeightLearner(), path) as beside:
        assert sessions_of(beside) == ["running"]  # its process lives, and its lease may still be renewed
    manager.close()
    with TrainingManager(usual_pool(), BayesianWeightLearner(), path) as beside:
        assert sessions_of(beside) == ["interrupted"]


def test_ctrl_c_just_behind_the_creation_of_a_weights_file_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_with(tmp_path / "pictures")
    folder = tmp_path / "exports"
    folder.mkdir()
    honest = os.open

    def interrupted(*arguments: Any, **settings: Any) -> int:
        os.close(honest(*arguments, **settings))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.export_weights(folder / "weights.json")
    assert list(folder.iterdir()) == []


def test_a_session_that_cannot_begin_was_never_there(tmp_path: Path) -> None:
    class Full(InMemoryStore):
        def begin_session(self, session: TrainingSession, /) -> None:
            raise StorageBusyError("memory", "busy")

        def abandon_session(self, session_id: str, /) -> None:
            raise AssertionError("it had not begun")

    manager = manager_with(tmp_path, storage=Full())
    with pytest.raises(StorageBusyError):
        manager.train(verbose=False)
    assert manager.data_manager.get_all_sessions() == []


def test_a_full_disk_is_named_wherever_in_a_training_it_fills_up(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit on file sizes is a matter of Unix")
    path, whole = tmp_path / "store.db", manager_with(tmp_path)
    whole.train(verbose=False)
    manager = manager_with(tmp_path, db_path=path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.stat().st_size
    ends = set()
    for limit in (0, size // 2, size - 4096, size, size + 8192):  # at the beginning, and further and further on
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(StorageFullError, match="make room"):
                manager.train(verbose=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        ends.add(tuple(sessions_of(manager)))
        assert set(manager.weight_learner.get_all_weights().values()) == {1.0}
    assert len(ends) > 1
    manager.train(verbose=False)
    assert manager.weight_learner.get_all_weights() == whole.weight_learner.get_all_weights()
    manager.close()
