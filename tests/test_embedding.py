"""The library inside other people's programs: threads, forks, pools, odd interpreters, and callbacks that raise."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import learned_by, manager_with, picture, save_triple, usual_pool
from tsm_training import (
    Image,
    Progress,
    TrainingEngine,
    TrainingManager,
    Worker,
)
from tsm_training.errors import MetricError, StorageClosedError, TrainingInProgressError, TrainingStoppedError

PATIENCE = 60.0
"""Seconds before a test calls something hung; nothing is measured with it."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")

PREAMBLE = f"""
import json, os, signal, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from support import *
from tsm_training import *

def results_of(manager):
    return json.dumps([manager.weight_learner.get_all_weights(), manager.data_manager.get_dataset_stats()])
"""


def host(
    folder: Path,
    script: str,
    *flags: str,
    way: str = "file",
    **settings: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program that embeds the library, in a folder of its own, and return what it printed."""
    program = PREAMBLE + textwrap.dedent(script)
    arguments = {"file": ["host.py"], "-c": ["-c", program], "-": ["-"]}[way]
    if way == "file":
        (folder / "host.py").write_text(program, encoding="utf-8")
    settings.setdefault("env", {**os.environ, **settings.pop("environment", {})})
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        cwd=settings.pop("cwd", folder),
        input=program if way == "-" else "",
        text=True,
        capture_output="stderr" not in settings,
        timeout=PATIENCE,
        check=False,
        **settings,
    )


def printed(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@attrs.frozen
class Gate(Worker):
    """Waits for a sign before it answers, so that a training is certainly under way."""

    worker_id: str = "gate"
    _begun: threading.Event = attrs.field(factory=threading.Event)
    _open: threading.Event = attrs.field(factory=threading.Event)

    def process(self, data: Any) -> Image:
        self._begun.set()
        assert self._open.wait(PATIENCE)
        return data["target"]


@attrs.frozen
class Training:
    """A training in another thread, held up by a gate."""

    manager: TrainingManager
    gate: Gate
    thread: threading.Thread

    def end(self) -> None:
        self.gate._open.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    gate = Gate()
    pool = usual_pool()
    with manager_with(tmp_path, pool=pool, db_path=tmp_path / "training.db") as manager:
        manager.train(verbose=False)
        pool.register_worker(gate)
        thread = threading.Thread(target=manager.train, kwargs={"verbose": False})
        thread.start()
        try:
            assert gate._begun.wait(PATIENCE)
            yield Training(manager, gate, thread)
        finally:
            gate._open.set()
            thread.join(PATIENCE)


# --- threads --------------------------------------------------------------------------------------------------------


def test_a_second_training_of_the_same_learner_is_refused_at_once(training: Training) -> None:
    with pytest.raises(TrainingInProgressError):
        training.manager.train(verbose=False)
    with pytest.raises(TrainingInProgressError):
        training.manager.reset_weights()
    training.end()
    assert [s.status for s in training.manager.data_manager.get_all_sessions()] == ["completed", "completed"]
    assert training.manager.train(verbose=False)["session"]["num_examples"] == 5


def test_everything_else_goes_on_beside_a_training(training: Training, tmp_path: Path) -> None:
    manager = training.manager
    before = manager.weight_learner.get_all_weights()
    training.manager.worker_pool.unregister_worker("gate")  # type: ignore[attr-defined]  # requests need not wait
    added = manager.add_training_example(*save_triple(tmp_path, 60))
    assert manager.predict(picture(1), picture(2)).image.shape == (12, 16, 3)
    assert manager.validate([added.example_id])["num_examples"] == 1
    manager.export_weights(tmp_path / "weights.json")
    assert manager.get_training_progress()["dataset_stats"]["total_examples"] == 7
    assert manager.weight_learner.get_all_weights() == before
    training.end()
    assert manager.weight_learner.get_all_weights() != before
    assert "gate" in manager.weight_learner.get_all_weights()


@pytest.mark.slow
def test_several_threads_on_one_manager_count_exactly(tmp_path: Path) -> None:
    triples = [save_triple(tmp_path / str(number), number) for number in range(16)]
    with manager_with(tmp_path, examples=2, db_path=tmp_path / "training.db") as manager:
        manager.train(verbose=False)

        def add(number: int) -> None:
            manager.add_training_example(*triples[number], {"number": number})

        def train(_number: int) -> int:
            try:
                manager.train(verbose=False)
            except TrainingInProgressError:
                return 0
            return 1

        def answer(number: int) -> int:
            return manager.predict(picture(number), picture(number + 1)).image.shape[2]

        with ThreadPoolExecutor(8) as threads:
            added = [threads.submit(add, number) for number in range(16)]
            trained = [threads.submit(train, number) for number in range(6)]
            answers = [threads.submit(answer, number) for number in range(6)]
            judged = [threads.submit(manager.validate) for _ in range(4)]
            for future in (*added, *judged):
                future.result(PATIENCE)
            assert [future.result(PATIENCE) for future in answers] == [3] * 6
            completed = sum(future.result(PATIENCE) for future in trained)
        stats = manager.data_manager.get_dataset_stats()
        assert (stats["total_examples"], stats["total_sessions"]) == (18, 1 + completed)
        numbers = [e.metadata.get("number") for e in manager.data_manager.get_all_examples()]
        assert sorted(number for number in numbers if number is not None) == list(range(16))
        assert {s.status for s in manager.data_manager.get_all_sessions()} == {"completed"}


def test_two_learners_on_one_file_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    managers = [manager_with(tmp_path, examples=0, db_path=path) for _ in range(2)]
    together = manager_with(tmp_path, examples=0, db_path=tmp_path / "together.db")
    for seed, manager in enumerate(managers * 2):
        for each in (manager, together):
            each.add_training_example(*save_triple(tmp_path / str(seed), seed, levels=10 * seed))
            each.train(num_examples=1, validation_split=0.0, verbose=False)
    for manager in managers:
        manager.get_training_progress()  # takes what the other has stored since
        assert manager.weight_learner.get_all_weights() == together.weight_learner.get_all_weights()
    for manager in (*managers, together):
        manager.close()


# --- what callbacks do ----------------------------------------------------------------------------------------------


class OnPurposeError(Exception):
    pass


def raising_in(phase: str, error: BaseException) -> Callable[[Progress], None]:
    def callback(progress: Progress) -> None:
        if progress.phase == phase:
            raise error

    return callback


@pytest.mark.parametrize("phase", ["evaluating", "learning", "validating"])
@pytest.mark.parametrize(
    ("error", "status"),
    [(OnPurposeError("no"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(3), "interrupted")],
    ids=["an error", "Ctrl-C", "exit"],
)
def test_what_a_progress_callback_raises_ends_the_training_and_is_passed_on(
    tmp_path: Path, phase: str, error: BaseException, status: str
) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, pool=usual_pool(calls), db_path=tmp_path / "training.db")
    with pytest.raises(type(error)) as caught:
        manager.train(validation_split=0.34, verbose=False, on_progress=raising_in(phase, error))
    assert caught.value is error
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.status == status
    assert session.error is not None
    assert session.error.startswith(type(error).__name__)
    assert learned_by(manager).rows == {}
    assert manager.data_manager.load_state().token == ""
    kept = manager.data_manager.load_evaluations(e.known_files.digest for e in manager.data_manager.iterate_examples())
    assert len(kept) == len(calls) if phase != "evaluating" else 3 <= len(kept) <= len(calls)
    stored_before = len(kept)
    manager.train(validation_split=0.34, verbose=False)
    assert len(calls) <= 18 + len(calls) - stored_before
    assert manager.data_manager.get_all_sessions()[-1].status == "completed"
    manager.close()


def test_what_should_stop_raises_ends_the_training_and_is_passed_on(tmp_path: Path) -> None:
    def ask() -> bool:
        raise OnPurposeError("no")

    manager = manager_with(tmp_path)
    with pytest.raises(OnPurposeError):
        manager.train(verbose=False, should_stop=ask)
    assert [s.status for s in manager.data_manager.get_all_sessions()] == ["failed"]
    assert manager.train(verbose=False)["session"]["num_examples"] == 5


@pytest.mark.parametrize("error", [StopIteration("no"), GeneratorExit("no"), StopAsyncIteration("no")], ids=repr)
def test_not_even_the_signals_of_generators_are_lost(tmp_path: Path, error: BaseException) -> None:
    manager = manager_with(tmp_path)
    for phase in ("evaluating", "learning", "validating"):
        with pytest.raises(type(error)) as caught:
            manager.train(verbose=False, on_progress=raising_in(phase, error))
        assert caught.value is error
    assert "running" not in {s.status for s in manager.data_manager.get_all_sessions()}
    assert learned_by(manager).rows == {}


def test_a_metric_that_raises_ends_the_session_as_failed(tmp_path: Path) -> None:
    def judge(_output: Image, _truth: Image) -> float:
        raise OnPurposeError("no")

    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(judge))
    with pytest.raises(MetricError) as caught:
        manager.train(verbose=False)
    assert isinstance(caught.value.__cause__, OnPurposeError)
    assert [s.status for s in manager.data_manager.get_all_sessions()] == ["failed"]
    assert learned_by(manager).rows == {}


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OnPurposeError(record.getMessage())


@pytest.fixture
def raising_log() -> Iterator[None]:
    logger = logging.getLogger("tsm_training")
    handler, level = Raising(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.usefixtures("raising_log")
def test_a_log_that_raises_costs_no_training_and_never_hides_why_one_ended(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=1)  # nothing can be held out, which is worth a line
    with pytest.raises(TrainingStoppedError):
        manager.train(verbose=False, should_stop=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False, on_progress=raising_in("learning", KeyboardInterrupt()))
    assert manager.train(verbose=False)["session"]["num_examples"] == 1
    statuses = [s.status for s in manager.data_manager.get_all_sessions()]
    assert statuses == ["interrupted", "interrupted", "completed"]


def test_a_callback_may_use_the_manager(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, db_path=tmp_path / "training.db")
    seen: list[object] = []

    def look(progress: Progress) -> None:
        seen.append(manager.predict(picture(1), picture(2)).image.shape)
        seen.append(manager.data_manager.get_dataset_stats()["total_examples"])
        with pytest.raises(TrainingInProgressError):
            manager.train(verbose=False)

    manager.train(verbose=False, on_progress=look)
    assert set(seen) == {(12, 16, 3), 6}
    assert [s.status for s in manager.data_manager.get_all_sessions()] == ["completed"]
    manager.close()


@pytest.mark.parametrize("phase", ["evaluating", "learning", "validating"])
def test_a_manager_closed_in_a_callback_ends_the_training_by_name(tmp_path: Path, phase: str) -> None:
    path = tmp_path / "training.db"
    manager = manager_with(tmp_path, db_path=path)

    def shut(progress: Progress) -> None:
        if progress.phase == phase:
            manager.close()

    with pytest.raises(StorageClosedError):
        manager.train(validation_split=0.34, verbose=False, on_progress=shut)
    with manager_with(tmp_path, examples=0, db_path=path) as again:
        assert [s.status for s in again.data_manager.get_all_sessions()] == ["interrupted"]
        assert again.train(verbose=False)["session"]["num_examples"] == 5


# --- working directory, umask, copies --------------------------------------------------------------------------------


def test_a_changed_working_directory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    triple = [path.relative_to(Path.cwd()) for path in save_triple(tmp_path / "first", 1)]
    with manager_with(tmp_path, examples=0, db_path="training.db") as manager:
        manager.add_training_example(*triple)
        monkeypatch.chdir(tmp_path / "second")
        manager.train(verbose=False)
        manager.validate(full=True)
        monkeypatch.chdir(tmp_path)
        assert manager.data_manager.location == str(tmp_path / "first" / "training.db")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.suffix != ".png") == [
        "first",
        "second",
        "training.db",
    ]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has a umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)], ids=oct)
def test_files_have_the_permissions_that_the_host_wants(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with manager_with(tmp_path, examples=2, db_path=tmp_path / "training.db") as manager:
            manager.train(verbose=False)
            manager.export_weights(tmp_path / "weights.json")
            manager.predict(picture(1), picture(2)).save(tmp_path / "answer.png")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    for name in ("training.db", "weights.json", "answer.png"):
        assert (name, oct(stat.S_IMODE((tmp_path / name).stat().st_mode))) == (name, oct(mode))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda learner: pickle.loads(pickle.dumps(learner))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_a_learner_knows_the_same_and_goes_its_own_way(tmp_path: Path, copied: Callable[[Any], Any]) -> None:
    with manager_with(tmp_path, db_path=tmp_path / "training.db") as manager:
        manager.train(verbose=False)
        learner = manager.weight_learner
        twin = copied(learner)
        assert twin.get_all_statistics() == learner.get_all_statistics()
        assert (twin.alpha, twin.cell.home, twin.cell.is_trial) == (learner.alpha, None, False)
        before = learner.get_all_weights()
        with learner.cell:  # the original is being trained: that is none of the copy's business
            manager.with_learner(twin).train(epochs=3, verbose=False)
        assert learner.get_all_weights() == before
        assert twin.get_all_weights() != before
        manager.get_training_progress()
        assert learner.get_all_weights() == twin.get_all_weights()  # as if another process had trained
        assert copied(learner.fork()).cell.is_trial


def test_a_shallow_copy_of_a_learner_shares_what_is_learned() -> None:
    learner = manager_with(Path(), examples=0).weight_learner
    twin = copy.copy(learner)
    twin.add_workers(["new"])
    assert learner.get_all_weights() == twin.get_all_weights()
    assert "new" in learner.get_all_weights()


# --- forks and other processes --------------------------------------------------------------------------------------

CHILD = """
    def in_child(manager, gate=None):
        signal.alarm(40)  # a hang guard that needs no thread
        assert manager.data_manager.get_dataset_stats()["total_examples"] == 6
        assert manager.predict(picture(1), picture(2)).image.shape == (12, 16, 3)
        assert manager.train(verbose=False)["session"]["num_examples"] == 5
        manager.close()

    def fork(manager):
        child = os.fork()
        if child == 0:
            try:
                in_child(manager)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

FORKS = {
    "a parent that has trained": """
        manager = manager_with(Path(), db_path="training.db")
        manager.train(verbose=False)
        print(fork(manager), fork(manager))
        sessions = 3
    """,
    "a parent in the middle of a transaction": """
        manager = manager_with(Path(), db_path="training.db")
        manager.train(verbose=False)
        begun = threading.Event()

        def hold(_held):
            begun.set()
            time.sleep(0.5)  # the fork waits for the end of this

        thread = threading.Thread(target=manager.data_manager.update_state, args=[hold])
        thread.start()
        assert begun.wait(40)
        print(fork(manager), fork(manager))
        thread.join()
        sessions = 3
    """,
    "a parent in the middle of a training": """
        begun, go_on = threading.Event(), threading.Event()
        parent = os.getpid()

        def wait(source, target):
            if os.getpid() == parent:
                begun.set()
                assert go_on.wait(40)
            return target

        pool = usual_pool()
        manager = manager_with(Path(), pool=pool, db_path="training.db")
        manager.train(verbose=False)
        pool.register_worker(FunctionWorker("waiting", wait, version="1"))
        thread = threading.Thread(target=manager.train, kwargs={"verbose": False})
        thread.start()
        assert begun.wait(40)
        print(fork(manager), fork(manager))
        go_on.set()
        thread.join()
        sessions = 4
    """,
}


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("state", FORKS)
def test_children_of_a_fork_can_do_everything_and_leave_the_parent_alone(tmp_path: Path, state: str) -> None:
    ending = """
        assert manager.train(verbose=False)["session"]["num_examples"] == 5
        stored = manager.data_manager.get_all_sessions()
        print(len(stored) - sessions, {s.status for s in stored})
        manager.close()
    """
    script = textwrap.dedent(CHILD) + textwrap.dedent(FORKS[state]) + textwrap.dedent(ending)
    done = host(tmp_path, script, "-W", "ignore::DeprecationWarning")  # 3.12 warns of forks beside threads
    assert printed(done) == ["0 0", "1 {'completed'}"]


POOLED = """
    import multiprocessing

    def train(path):
        import multiprocessing
        with manager_with(Path(), examples=0, db_path=path) as manager:
            manager.train(verbose=False)
            return multiprocessing.current_process().daemon, results_of(manager)

    if __name__ == "__main__":
        with manager_with(Path(), db_path="training.db") as manager:
            manager.train(verbose=False)
            for method in multiprocessing.get_all_start_methods():
                with multiprocessing.get_context(method).Pool(1) as pool:
                    is_daemon, results = pool.apply_async(train, ["training.db"]).get(50)
                manager.get_training_progress()
                print(method, is_daemon, results == results_of(manager))
"""


@pytest.mark.slow
def test_daemonic_workers_of_a_process_pool_can_train_however_they_are_started(tmp_path: Path) -> None:
    done = host(tmp_path, POOLED, "-W", "ignore::DeprecationWarning")
    assert printed(done) == ["fork True True", "spawn True True", "forkserver True True"]


ISOLATED = """
    import multiprocessing

    def train(path):
        from tsm_training.isolation import IsolatedRunner
        with IsolatedRunner(max_processes=1) as runner:
            pool = WorkerPool(runner=runner)
            for worker in (brightening("far", -60), brightening("near", 22)):
                pool.register_worker(worker)
            with manager_with(Path(), examples=0, pool=pool, db_path=path) as manager:
                try:
                    manager.train(verbose=False)
                except TsmTrainingError as error:
                    return multiprocessing.current_process().daemon, type(error).__name__

    if __name__ == "__main__":
        with manager_with(Path(), 3, db_path="training.db"):
            pass
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(*pool.apply_async(train, ["training.db"]).get(50))
        with manager_with(Path(), 0, db_path="training.db") as manager:
            print(*[s.status for s in manager.data_manager.get_all_sessions()])
            print(manager.train(verbose=False)["session"]["num_examples"])
"""


@pytest.mark.slow
def test_daemonic_workers_are_told_that_they_cannot_isolate_theirs(tmp_path: Path) -> None:
    assert printed(host(tmp_path, ISOLATED)) == ["True ExecutorError", "failed", "2"]


@pytest.mark.slow
def test_several_processes_on_one_file_lose_nothing(tmp_path: Path) -> None:
    script = """
        number = int(sys.argv[1]) if len(sys.argv) > 1 else 0
        with manager_with(Path(), examples=0, db_path="training.db") as manager:
            for n in range(4):
                seed = 10 * number + n
                manager.add_training_example(*save_triple(Path(str(number)), seed), {"number": seed})
                manager.train(validation_split=0.0, verbose=False)
            print(manager.weight_learner.get_all_statistics()["near"]["update_count"] >= 4)
    """
    (tmp_path / "host.py").write_text(PREAMBLE + textwrap.dedent(script), encoding="utf-8")
    processes = [
        subprocess.Popen([sys.executable, "host.py", str(number)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    assert [process.communicate(timeout=PATIENCE)[0] for process in processes] == ["True\n"] * 3
    with manager_with(tmp_path, examples=0, db_path=tmp_path / "training.db") as manager:
        numbers = [e.metadata["number"] for e in manager.data_manager.get_all_examples()]
        assert sorted(numbers) == [10 * number + n for number in range(3) for n in range(4)]
        sessions = manager.data_manager.get_all_sessions()
        assert [s.status for s in sessions] == ["completed"] * 12
        assert manager.weight_learner.get_all_statistics()["near"]["update_count"] == 12


# --- the end of the interpreter --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_at_exit_is_refused_by_name_with_nothing_half_written(tmp_path: Path) -> None:
    script = """
        import atexit

        manager = manager_with(Path(), db_path="training.db")

        def train():
            before = manager.weight_learner.cell.whole()
            for call in (lambda: manager.train(verbose=False), lambda: manager.predict(picture(1), picture(2))):
                try:
                    call()
                    print("done")
                except TsmTrainingError as error:
                    print(type(error).__name__)
            sessions = manager.data_manager.get_all_sessions()
            token = manager.data_manager.load_state().token
            print({s.status for s in sessions} <= {"completed", "failed"}, repr(token))
            print(manager.weight_learner.cell.whole() == before)
            manager.close()

        atexit.register(train)
    """
    refused = ["ExecutorError", "ExecutorError", "True ''", "True"]
    assert printed(host(tmp_path, script, "-W", "error")) == refused
    with manager_with(tmp_path, examples=0, db_path=tmp_path / "training.db") as manager:
        assert manager.train(verbose=False)["session"]["num_examples"] == 5


@pytest.mark.slow
def test_the_program_ends_although_a_worker_hangs_if_there_is_a_time_limit(tmp_path: Path) -> None:
    script = """
        import time
        from tsm_training.workers import ThreadRunner

        def hang(source, target):
            time.sleep(3600)

        pool = WorkerPool(runner=ThreadRunner(time_limit=0.2))
        pool.register_worker(FunctionWorker("hangs", hang))
        pool.register_worker(brightening("near", 22))
        with manager_with(Path(), 2, pool=pool, db_path="training.db") as manager:
            results = manager.train(validation_split=0.0, verbose=False)
            outcomes = manager.data_manager.get_all_examples()[0].worker_results
            print(results["session"]["num_examples"], outcomes["hangs"]["is_valid"], outcomes["near"]["is_valid"])
    """
    assert printed(host(tmp_path, script)) == ["2 False True"]  # and within the patience of these tests


# --- interpreters ---------------------------------------------------------------------------------------------------

PLAIN = """
    with manager_with(Path({folder!r}), db_path=Path({folder!r}) / "training.db") as manager:
        results = manager.train(epochs=2, verbose=False)
        manager.export_weights(Path({folder!r}) / "weights.json")
        exported = json.loads(Path({folder!r}, "weights.json").read_text())
        del exported["exported_at"]
        answer = manager.predict(picture(1), picture(2)).image.tolist()
        for number, row in enumerate(results["validation"]["per_example"]):
            row["example_id"] = number  # ids are drawn anew in every program
        print(json.dumps([results["validation"], results["session"]["metrics_history"], exported, answer]))
"""


@pytest.fixture(scope="module")
def plain_results(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain")
    (line,) = printed(host(folder, PLAIN.format(folder=str(folder))))
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "way"),
    [
        (["-OO"], "file"),
        (["-X", "dev", "-W", "error"], "file"),
        (["-I"], "file"),
        (["-B", "-E", "-s"], "-c"),
        ([], "-"),
        (["-i"], "-"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_every_way_of_starting_python_gives_the_same_results(
    tmp_path: Path, plain_results: str, flags: list[str], way: str
) -> None:
    done = host(tmp_path, PLAIN.format(folder=str(tmp_path)), *flags, way=way)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [plain_results]
    assert "-i" in flags or done.stderr == ""


@pytest.mark.slow
def test_nothing_is_written_into_the_working_directory(tmp_path: Path, plain_results: str) -> None:
    bare, data = tmp_path / "bare", tmp_path / "data"
    bare.mkdir()
    data.mkdir()
    bare.chmod(0o555)
    done = host(data, PLAIN.format(folder=str(data)), cwd=bare, way="-c")
    bare.chmod(0o755)
    assert printed(done) == [plain_results]
    assert list(bare.iterdir()) == []


@pytest.mark.slow
def test_workers_written_in_a_notebook_are_run_afresh_in_each_session_of_it(tmp_path: Path) -> None:
    # A notebook runs its cells with exec: the functions have no file, and the class no module that could be imported.
    script = '''
        cell = """
        calls = []
        def half(source, target):
            calls.append(1)
            return target // 2 + 10
        class Own(Worker):
            worker_id = "own"
            def process(self, data):
                return data["target"]
        pool = pool_of(FunctionWorker("half", half), Own())
        with manager_with(Path("."), {examples}, pool=pool, db_path="training.db") as manager:
            manager.train(verbose=False)
            manager.train(verbose=False)
            print(len(calls), sorted(manager.weight_learner.get_all_weights()))
        """
        namespace = {**globals(), "__name__": "__main__"}
        exec(compile(cell.format(examples=sys.argv[1:] and 0 or 6), "<string>", "exec"), namespace)
    '''
    expected = ["6 ['half', 'own']"]
    assert printed(host(tmp_path, script)) == expected
    again = subprocess.run(
        [sys.executable, "host.py", "again"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert again.stdout.splitlines() == expected  # a new kernel may hold other code: nothing is matched


# --- standard streams -----------------------------------------------------------------------------------------------

VERBOSE = """
    with manager_with(Path(), db_path="training.db") as manager:
        manager.train(epochs=2, verbose=True)
        manager.validate(verbose=True)
        Path("results").write_text(results_of(manager))
"""

STREAMS = {
    "standard error is None": "sys.stderr = None",
    "standard output is None": "sys.stdout = None",
    "standard error is closed": "sys.stderr.close()",
    "both are closed below": "os.close(1); os.close(2)",
    "a broken pipe": "ends = os.pipe(); os.dup2(ends[1], 2); os.close(ends[0]); os.close(ends[1])",
    "an object that raises": "sys.stderr = type('Gone', (), {'write': lambda *a: 1 / 0, 'flush': lambda *a: 1 / 0})()",
    "an object without methods": "sys.stderr = object()",
    "only ASCII": "sys.stderr.reconfigure(encoding='ascii', errors='strict')",
}


@pytest.mark.slow
def test_training_does_not_mind_what_has_become_of_the_standard_streams(tmp_path: Path) -> None:
    script = f"""
        kept, sessions = (os.dup(1), os.dup(2)), []
        for change in {list(STREAMS.values())!r}:
            exec(change)
            {textwrap.indent(VERBOSE, " " * 8).strip()}
            sessions.append(json.loads(Path("results").read_text())[1]["total_sessions"])
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(kept[number - 1], number)
                setattr(sys, name, open(number, "w", closefd=False))
        print(sessions)
    """
    done = host(tmp_path, script)
    assert done.stdout == f"{list(range(1, len(STREAMS) + 1))}\n", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [(1,), (0, 1, 2)], ids=str)
def test_programs_started_without_standard_streams_can_train(tmp_path: Path, descriptors: tuple[int, ...]) -> None:
    closing = " ".join(f"{number}>&-" for number in descriptors)
    (tmp_path / "host.py").write_text(PREAMBLE + textwrap.dedent(VERBOSE), encoding="utf-8")
    subprocess.run(f'"{sys.executable}" host.py {closing}', shell=True, cwd=tmp_path, timeout=PATIENCE, check=True)
    assert json.loads((tmp_path / "results").read_text())[1]["total_sessions"] == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_a_bar_on_a_terminal_leaves_no_thread_and_no_process_behind(tmp_path: Path) -> None:
    script = """
        with manager_with(Path(), db_path="training.db") as manager:
            manager.train(verbose=True)
        Path("threads").write_text(str(threading.active_count()))
        import tqdm
        Path("monitor").write_text(str(tqdm.tqdm.monitor_interval))
    """
    import termios  # noqa: PLC0415 - not on every system

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    try:
        done = host(tmp_path, script, stdout=subprocess.PIPE, stderr=theirs)
        assert done.returncode == 0
        assert b"evaluating" in os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (tmp_path / "threads").read_text() == "1"
    assert (tmp_path / "monitor").read_text() == "10"  # the host's own bars are as they were


# --- nothing of the host's is touched -------------------------------------------------------------------------------

SNAPSHOT = f"""
import gc, json, locale, logging, os, random, signal, sys, threading, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
import cv2
import numpy as np
cv2.setNumThreads(3)
random.seed(1)
np.random.seed(1)
from pathlib import Path

def snapshot():
    return {{
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "wakeup": signal.set_wakeup_fd(-1),
        "random": str(random.getstate()),
        "numpy": str(np.random.get_state()),
        "cv2": [cv2.getNumThreads(), cv2.useOptimized(), cv2.ocl.useOpenCL()],
        "errors": str(np.geterr()),
        "logging": [logging.root.level, str(logging.root.handlers), logging.raiseExceptions],
        "handlers": str(logging.getLogger("tsm_training").handlers),
        "warnings": str(warnings.filters),
        "locale": str(locale.setlocale(locale.LC_ALL)),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "hooks": str([sys.excepthook, threading.excepthook, sys.unraisablehook, sys.gettrace(), sys.getprofile()]),
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold(), gc.isenabled()],
        "streams": str([sys.stdin, sys.stdout, sys.stderr]),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
        "folder": os.getcwd(),
        "umask": [os.umask(0o022), os.umask(0o022)][0],
    }}

before = snapshot()
import tsm_training
imported = snapshot()
del imported["descriptors"], imported["umask"]
print([name for name in imported if imported[name] != before[name]])
"""


@pytest.mark.slow
def test_neither_importing_nor_using_the_library_touches_anything_global(tmp_path: Path) -> None:
    script = f"""{SNAPSHOT}
from support import *
before = snapshot()
manager = manager_with(Path("data"), db_path="training.db")
manager.train(epochs=2, verbose=True)
manager.validate(full=True)
manager.predict(picture(1), picture(2)).save("answer.png")
manager.export_weights("weights.json")
manager.import_weights("weights.json")
manager.reset_weights()
for fault in ("nothing.png", "."):
    try:
        manager.add_training_example(fault, fault, fault)
    except tsm_training.TsmTrainingError:
        pass
try:
    manager.train(verbose=False, should_stop=lambda: True)
except tsm_training.TsmTrainingError:
    pass
manager.close()
del manager
after = snapshot()
print([(name, before[name], after[name]) for name in after if after[name] != before[name]])
print(sorted(os.listdir()))
"""
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]", "['answer.png', 'data', 'training.db', 'weights.json']"]


def test_a_manager_that_is_forgotten_gives_everything_back(tmp_path: Path) -> None:
    def use() -> None:
        manager = manager_with(tmp_path, examples=2, db_path=tmp_path / "training.db")
        manager.train(verbose=False)

    gc.collect()  # what the tests before this one have left
    use()  # whatever is made once is made now
    before = (threading.active_count(), _descriptors())
    for _ in range(5):
        use()
    assert (threading.active_count(), _descriptors()) == before


def _descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
