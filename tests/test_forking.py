"""A fork in the middle of a transaction must not lock the child out of the database."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tsm_training import forking
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import make_example

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

IN_THE_MIDDLE = """
import os, sys, threading
from tsm_training.data import StateDelta
from tsm_training.storage import (TrainingDataManager)
from tsm_training.testing import make_example

store = TrainingDataManager(sys.argv[1], busy_timeout=5.0)
inside, go_on = threading.Event(), threading.Event()

def change(held):
    inside.set()
    go_on.wait(60)
    return StateDelta({"learned": "1"})

thread = threading.Thread(target=store.update_state, args=(change,))
thread.start()
inside.wait(60)
threading.Timer(0.3, go_on.set).start()
child = os.fork()
if child == 0:
    code = 1
    try:
        store.add_examples([make_example("of the child")])
        code = 0
    finally:
        os._exit(code)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
thread.join()
store.add_examples([make_example("of the parent")])
store.close()
sys.exit(code)
"""


@pytest.mark.slow
def test_a_fork_waits_for_a_transaction_of_another_thread(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_MIDDLE, str(path)], check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert [e.example_id for e in store.get_all_examples()] == ["of the child", "of the parent"]
        assert store.load_state().head == {"learned": "1"}


def test_a_fork_within_a_transaction_of_its_own_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(tmp_path / "training.db")) as store:
        store.add_examples([make_example("a")])

        def fork_and_end(example: object) -> object:
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            return example

        store.edit_examples({"a": fork_and_end})  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("thing", ["InMemoryStore()", "WorkerPool()"])
def test_a_fork_waits_for_whoever_holds_a_lock_in_memory(thing: str) -> None:
    code = f"""
import os, sys, threading
from tsm_training import InMemoryStore, WorkerPool
thing = {thing}
is_held, go_on = threading.Event(), threading.Event()
def hold():
    with thing._lock:
        is_held.set()
        go_on.wait(60)
thread = threading.Thread(target=hold)
thread.start()
is_held.wait(60)
threading.Timer(0.2, go_on.set).start()
child = os.fork()
if child == 0:
    os._exit(0 if thing._lock.acquire(timeout=10) else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_PATIENCE", 0.01)
    guard = forking._Guard()
    lock, other = threading.RLock(), threading.RLock()
    guard.add(lock)
    guard.add(other)
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            is_over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(60)
    guard._hold()
    assert guard._held == [other]
    guard._let_go()
    is_over.set()
    thread.join()
    assert guard._held == []
    guard._hold()
    assert len(guard._held) == 2
    guard._let_go()


FIRST_CONVERSION = """
import os, signal, sys, threading, time
import numpy as np
from tsm_training.metrics import GuideSimilarity

picture = np.zeros((8, 8, 3), np.uint8)
thread = threading.Thread(target=GuideSimilarity().prepare, args=(picture,))
thread.start()
time.sleep(0.01)  # the first conversion to Lab takes a tenth of a second, for OpenCV makes its tables
child = os.fork()
if child == 0:
    signal.alarm(20)
    GuideSimilarity().prepare(picture)
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_fork_during_the_first_conversion_of_colours_does_not_hang_the_child() -> None:
    assert subprocess.run([sys.executable, "-c", FIRST_CONVERSION], check=False, timeout=120).returncode == 0


def test_what_fails_at_first_is_guarded_again() -> None:
    with contextlib.suppress(LookupError), forking.alone_at_first("a failure"):
        raise LookupError
    assert "a failure" not in forking._done


def test_without_fork_there_is_nothing_to_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    guard = forking._Guard()
    guard.add(threading.RLock())
    assert not guard._is_hooked
