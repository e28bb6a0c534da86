"""Workers in processes of their own: what comes to harm there, and what never may."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

from support import manager_with, picture
from tsm_training import FunctionWorker, Image, TrainableWorker, Worker, WorkerPool, WorkerRunner, isolation
from tsm_training import create_color_transfer_workers as built_in_workers
from tsm_training.engine import TrainingEngine
from tsm_training.errors import ExecutorError, InvalidArgumentError, MissingExtraError, WorkerNotIsolatableError
from tsm_training.isolation import IsolatedRunner
from tsm_training.metrics import GuideSimilarity
from tsm_training.workers import WorkerFailure, WorkerRequest, WorkerResult, run_worker

cloudpickle.register_pickle_by_value(sys.modules[__name__])

REQUEST = WorkerRequest(picture(1), picture(2))
PATIENT = 60.0
"""Seconds after which a test gives up; what it waits for takes a fraction of one."""


def worker(function: Callable[[Image, Image], Any], name: str = "tried", limit: float | None = None) -> Worker:
    return FunctionWorker(name, function, time_limit=limit)


def failure_of(result: WorkerResult) -> WorkerFailure:
    assert result.value is None
    assert result.failure is not None
    return result.failure


def process_id(_source: Image, target: Image) -> Image:
    return np.full_like(target, 0) + np.frombuffer(os.getpid().to_bytes(3, "little"), np.uint8)


def told_id(result: WorkerResult) -> int:
    assert result.value is not None
    return int.from_bytes(result.value[0, 0].tobytes(), "little")


def until(condition: Callable[[], bool]) -> bool:
    """Wait until something is so; False if it never comes."""
    ended = time.monotonic() + PATIENT
    while not condition():
        if time.monotonic() > ended:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def script(code: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *(arguments or ("-c", code))],
        capture_output=True,
        text=True,
        timeout=PATIENT,
        check=False,
        **settings,
    )


@pytest.fixture(scope="module")
def runner() -> Iterator[IsolatedRunner]:
    with IsolatedRunner(max_processes=1) as isolated:
        yield isolated


# --- the same results -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_are_those_of_threads_to_the_last_bit(runner: IsolatedRunner) -> None:
    workers = [w for w in built_in_workers() if not isinstance(w, TrainableWorker)]
    runner.check(workers)
    for one in workers:
        here, there = run_worker(one, REQUEST), runner.run(one, REQUEST)
        assert (there.worker_id, there.confidence, there.failure) == (here.worker_id, here.confidence, None)
        assert np.array_equal(there.value, here.value)  # type: ignore[arg-type]
        assert there.value.flags.writeable  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_function_of_another_form_runs_isolated_and_its_nan_is_a_failure_there_too(runner: IsolatedRunner) -> None:
    divisors = {"whole": 2.0, "nothing": 0.0}
    workers = {
        name: FunctionWorker(name, lambda _s, t, by=by: (t - t) / by + t / 2, color="rgb", dtype="float32")
        for name, by in divisors.items()
    }
    runner.check([*workers.values()])
    with np.errstate(invalid="ignore"):
        there = runner.run(workers["whole"], REQUEST).value
        here = run_worker(workers["whole"], REQUEST).value
    assert np.array_equal(there, here)  # type: ignore[arg-type]
    failure = failure_of(runner.run(workers["nothing"], REQUEST))
    assert (failure.kind, failure.error_type) == ("bad_output", "not finite")


@pytest.mark.slow
def test_training_validation_and_prediction_run_isolated_and_agree_with_threads(
    tmp_path: Path, runner: IsolatedRunner
) -> None:
    def odd(source: Image, target: Image) -> Image:
        if target[0, 0, 0] % 2:
            raise ValueError("an odd picture")
        return 255 - target

    seen = []
    for settings in ({}, {"runner": runner}):
        pool = WorkerPool(**settings)
        for one in (worker(odd, "odd"), *built_in_workers()[:2]):
            pool.register_worker(one)
        manager = manager_with(tmp_path, examples=3, pool=pool)
        manager.train(epochs=2, verbose=False)
        answer = manager.predict(picture(7), picture(8), run_all=True)
        report = manager.validate(full=True)
        for number, row in enumerate(report["per_example"]):
            row["example_id"] = str(number)  # ids are drawn anew for each manager
        seen.append((manager.weight_learner.get_all_weights(), answer.image.tobytes(), report))
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_process_is_used_again_and_remembers_what_it_has_unpickled(runner: IsolatedRunner) -> None:
    calls: list[int] = []

    def counting(_source: Image, target: Image) -> Image:
        calls.append(0)
        return np.full_like(target, len(calls))

    one = worker(counting)
    runner.check([one])
    values = [runner.run(one, REQUEST).value for _ in range(3)]
    assert [int(value[0, 0, 0]) for value in values if value is not None] == [1, 2, 3]
    assert calls == []


@pytest.mark.slow
def test_a_worker_that_has_changed_is_sent_anew_when_it_is_checked_again(runner: IsolatedRunner) -> None:
    levels = [1]
    one = worker(lambda _s, t: np.full_like(t, levels[0]))
    seen = []
    for level in (1, 2):
        levels[0] = level
        runner.check([one])
        seen.append(int(runner.run(one, REQUEST).value[0, 0, 0]))  # type: ignore[index]
    assert seen == [1, 2]


# --- settings -------------------------------------------------------------------------------------------------------


NO_LIMITS = [0, -1, 1.5, "5", True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("time_limit", value) for value in (0, -1, math.nan, math.inf, "5", True, 10**400)),
        *(("memory_limit", value) for value in (*NO_LIMITS, 1, (16 << 20) - 1, 10**30)),
        *(("max_processes", value) for value in NO_LIMITS),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        IsolatedRunner(**{name: value})
    assert (caught.value.argument, caught.value.seen) == (name, value) or math.isnan(value)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_a_worker_forks_takes_no_part(runner: IsolatedRunner) -> None:
    def fork(_source: Image, target: Image) -> Image:
        os.fork()
        return target

    forker, good = worker(fork, "forker"), worker(lambda _s, t: 255 - t, "good")
    for _ in range(4):
        assert np.array_equal(runner.run(forker, REQUEST).value, REQUEST["target"])  # type: ignore[arg-type]
        assert np.array_equal(runner.run(good, REQUEST).value, 255 - REQUEST["target"])  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_host_without_streams_can_isolate_its_workers(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    if stream is not None:
        stream.close()
    with IsolatedRunner(max_processes=1) as isolated, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        result = isolated.run(worker(lambda _s, t: 255 - t), REQUEST)
        assert sys.stdout is sys.stderr is stream
    assert result.is_valid()


def test_memory_is_limited_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert IsolatedRunner().memory_limit is None
    with pytest.raises(InvalidArgumentError, match="None on darwin"):
        IsolatedRunner(memory_limit=1 << 30)


@pytest.mark.parametrize("missing", ["cloudpickle", "loky"])
def test_a_missing_extra_is_named_with_how_to_install_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(MissingExtraError, match=r'pip install "tsm_training\[isolation\]"') as caught:
        IsolatedRunner()
    assert isinstance(caught.value, ImportError)


def test_a_runner_is_one() -> None:
    isolated = IsolatedRunner(time_limit=2.5, max_processes=3)
    assert isinstance(isolated, WorkerRunner)
    assert repr(isolated) == "IsolatedRunner(time_limit=2.5, memory_limit=None, max_processes=3)"
    assert WorkerPool(runner=isolated).runner is isolated
    assert isolated != IsolatedRunner(time_limit=2.5, max_processes=3)


# --- workers that cannot be sent ------------------------------------------------------------------------------------


class Rebuilt(Worker):
    """Does something when it is unpickled."""

    worker_id = "rebuilt"

    def __init__(self, rebuild: Callable[[], Any]) -> None:
        self._rebuild = rebuild

    def __reduce__(self) -> tuple[Any, ...]:
        return self._rebuild, ()

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"]


class Refusing(Rebuilt):
    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit("not me")


def holding(thing: object) -> Callable[[Image, Image], Any]:
    return lambda _source, _target: thing


def no_module() -> Any:
    return importlib.import_module("a_module_that_is_nowhere")


UNSENDABLE: dict[str, tuple[Worker, str, str]] = {
    "holds a lock": (worker(holding(threading.Lock())), "FunctionWorker", "TypeError: cannot pickle"),
    "refuses": (Refusing(int), "Refusing", "SystemExit: not me"),
    "needs a module": (Rebuilt(no_module), "Rebuilt", "ModuleNotFoundError: No module named"),
    "exits": (Rebuilt(sys.exit), "Rebuilt", "SystemExit: "),
    "becomes a number": (Rebuilt(int), "Rebuilt", "it becomes a int there"),
    "ends the process": (Rebuilt(lambda: os._exit(4)), "Rebuilt", "died: exit code 4"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSENDABLE)
def test_a_worker_that_cannot_be_sent_is_named_before_any_work(
    name: str, tmp_path: Path, runner: IsolatedRunner
) -> None:
    bad, kind, reason = UNSENDABLE[name]
    calls: list[str] = []
    pool = WorkerPool(runner=runner)
    pool.register_worker(worker(lambda _s, t: calls.append("called") or t, "good"))  # type: ignore[func-returns-value]
    pool.register_worker(bad)
    manager = manager_with(tmp_path, examples=1, pool=pool)
    for act in (
        lambda: manager.train(verbose=False),
        lambda: manager.predict(picture(1), picture(2)),
        lambda: pool.execute_parallel(REQUEST),
    ):
        with pytest.raises(WorkerNotIsolatableError, match=reason) as caught:
            act()
        assert (caught.value.worker_id, caught.value.worker) == (bad.worker_id, kind)
    (session,) = manager.data_manager.get_all_sessions()
    assert session.status == "failed"
    assert manager.data_manager.get_all_examples()[0].worker_results is None


@pytest.mark.slow
def test_a_worker_that_never_comes_to_life_is_given_up(runner: IsolatedRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.check([worker(lambda _s, t: t)])
    monkeypatch.setattr(isolation, "_START_SECONDS", 0.2)
    with pytest.raises(WorkerNotIsolatableError, match=r"timed_out: time limit: gave no answer within 0\.2 s"):
        runner.check([Rebuilt(lambda: time.sleep(PATIENT))])


@pytest.mark.slow
def test_a_worker_that_calls_its_pool_cannot_be_sent_because_pools_stay_here(runner: IsolatedRunner) -> None:
    pool = WorkerPool(runner=runner)
    pool.register_worker(worker(lambda _s, _t: pool.execute_parallel(REQUEST)))
    with pytest.raises(WorkerNotIsolatableError, match="cannot pickle"):
        pool.execute_parallel(REQUEST)


# --- coming to harm -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_end_of_a_process_is_told_by_name(runner: IsolatedRunner) -> None:
    ends: dict[str, tuple[Callable[[Image, Image], Any], str]] = {
        "SIGSEGV": (lambda _s, _t: ctypes.string_at(0), "its process was ended by SIGSEGV"),
        "SIGKILL": (
            lambda _s, _t: os.kill(os.getpid(), 9),
            "its process was ended by SIGKILL, as the system does when",
        ),
        "signal 40": (lambda _s, _t: os.kill(os.getpid(), 40), "its process was ended by signal 40"),
        "exit code 3": (lambda _s, _t: os._exit(3), "its process ended itself with exit code 3"),
        "exit code 0": (lambda _s, _t: os._exit(0), "its process ended itself with exit code 0"),
    }
    for name, (act, message) in ends.items():
        failure = failure_of(runner.run(worker(act), REQUEST))
        assert (failure.kind, failure.error_type) == ("died", name)
        assert failure.message.startswith(message)
    assert runner.run(worker(lambda _s, t: t), REQUEST).is_valid()


@pytest.mark.slow
def test_a_workers_own_time_limit_outranks_that_of_the_runner() -> None:
    def slow(_source: Image, target: Image) -> Image:
        time.sleep(0.4)
        return target

    with IsolatedRunner(time_limit=0.1, max_processes=1) as isolated:
        assert failure_of(isolated.run(worker(slow), REQUEST)).message == "gave no answer within 0.1 s"
        assert isolated.run(worker(slow, limit=PATIENT), REQUEST).is_valid()


@pytest.mark.slow
def test_nobody_pays_for_what_another_left_behind_in_the_process(runner: IsolatedRunner) -> None:
    def leaving_a_bomb(_source: Image, target: Image) -> Image:
        threading.Thread(target=lambda: (time.sleep(0.2), os._exit(7))).start()
        return target

    def slow(_source: Image, target: Image) -> Image:
        time.sleep(0.6)
        return target

    bomber, victim = worker(leaving_a_bomb, "bomber"), worker(slow, "victim")
    runner.check([bomber, victim])
    assert runner.run(bomber, REQUEST).is_valid()
    assert runner.run(victim, REQUEST).is_valid()


@pytest.mark.slow
def test_memory_beyond_the_limit_is_an_error_of_that_worker_only() -> None:
    kept: list[Any] = []

    def hoarding(_source: Image, target: Image) -> Image:
        kept.append(np.empty(200 << 20, np.uint8))
        return target

    def eating(_source: Image, target: Image) -> Image:
        np.empty(4 << 30, np.uint8)
        return target

    def using(_source: Image, target: Image) -> Image:
        np.empty(200 << 20, np.uint8)
        return target

    with IsolatedRunner(memory_limit=300 << 20, max_processes=1) as isolated:
        hoarder, user = worker(hoarding, "hoarder"), worker(using, "user")
        isolated.check([hoarder, user])
        assert isolated.run(hoarder, REQUEST).is_valid()
        assert isolated.run(user, REQUEST).is_valid()  # in a new process: the old one has no room for it
        failure = failure_of(isolated.run(worker(eating), REQUEST))
        assert failure.kind == "raised"
        assert failure.error_type.endswith("MemoryError")  # NumPy has one of its own
        assert isolated.run(user, REQUEST).is_valid()


@pytest.mark.slow
def test_a_process_that_is_killed_while_nothing_runs_is_replaced(runner: IsolatedRunner) -> None:
    one = worker(process_id)
    first = told_id(runner.run(one, REQUEST))
    os.kill(first, signal.SIGKILL)
    assert until(lambda: not is_running(first))
    result = runner.run(one, REQUEST)
    if result.is_valid():  # else the end was seen only when the call had begun
        assert told_id(result) != first
    assert told_id(runner.run(one, REQUEST)) != first


@pytest.mark.slow
def test_a_worker_that_can_be_unpickled_only_once_fails_where_it_cannot(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def once() -> Any:
        if mark.exists():
            raise FileExistsError("a second time")
        mark.touch()
        return FunctionWorker("rebuilt", lambda _s, _t: os._exit(1))

    def never_again() -> Any:
        if mark.exists():
            os._exit(9)
        mark.touch()
        return FunctionWorker("rebuilt", lambda _s, _t: os._exit(1))

    with IsolatedRunner(max_processes=1) as isolated:
        for rebuild, kind, message in (
            (once, "raised", "raised: FileExistsError: a second time"),
            (never_again, "died", "died: exit code 9: its process ended itself with exit code 9"),
        ):
            one = Rebuilt(rebuild)
            isolated.check([one])
            assert failure_of(isolated.run(one, REQUEST)).error_type == "exit code 1"
            failure = failure_of(isolated.run(one, REQUEST))
            assert (failure.kind, failure.error_type) == (kind, "not unpickled")
            assert failure.message == f"its process could not unpickle it ({message})"
            mark.unlink()


@pytest.mark.slow
def test_what_a_process_answers_is_checked_again_here() -> None:
    def lying(source: Image, target: Image) -> Image:
        lies = iter([WorkerResult("else", source[:3], 1.0), WorkerResult("else", target, 7.0)])
        vars(isolation)["run_worker"] = lambda _worker, _request: next(lies)  # in its own process
        return target

    with IsolatedRunner(max_processes=1) as isolated:
        one = worker(lying)
        assert isolated.run(one, REQUEST).is_valid()
        for kind in ("bad_output", "bad_confidence"):
            result = isolated.run(one, REQUEST)
            assert (result.worker_id, failure_of(result).kind) == ("tried", kind)
    assert vars(isolation)["run_worker"] is run_worker


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_end_of_a_process_is_noticed_though_a_child_of_it_lives_on(runner: IsolatedRunner) -> None:
    def leaving_a_child(_source: Image, _target: Image) -> Image:
        if os.fork() == 0:
            time.sleep(5.0)
            os._exit(0)
        os._exit(3)

    started = time.monotonic()
    assert failure_of(runner.run(worker(leaving_a_child), REQUEST)).error_type == "exit code 3"
    assert time.monotonic() - started < 4.0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals")
def test_a_time_limit_is_kept_where_a_process_takes_no_request(runner: IsolatedRunner) -> None:
    one = worker(process_id, limit=0.3)
    stopped = told_id(runner.run(one, REQUEST))
    os.kill(stopped, signal.SIGSTOP)
    large = WorkerRequest(picture(1, 600, 800), picture(2, 600, 800))  # more than a pipe holds
    assert failure_of(runner.run(one, large)).kind == "timed_out"
    assert not is_running(stopped)
    assert told_id(runner.run(one, large)) != stopped


# --- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_closing_ends_the_processes_and_the_next_use_starts_others() -> None:
    one = worker(process_id)
    with IsolatedRunner(max_processes=1) as isolated:
        first = told_id(isolated.run(one, REQUEST))
        assert told_id(isolated.run(one, REQUEST)) == first
        isolated.close()
        assert not is_running(first)
        second = told_id(isolated.run(one, REQUEST))
        assert second != first
    assert not is_running(second)
    isolated.close()


@pytest.mark.slow
def test_a_runner_that_is_closed_at_work_finishes_what_it_has_begun(tmp_path: Path) -> None:
    mark = tmp_path / "begun"

    def slow(source: Image, target: Image) -> Image:
        mark.touch()
        time.sleep(0.3)
        return process_id(source, target)

    isolated = IsolatedRunner(max_processes=1)
    one = worker(slow)
    isolated.check([one])
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(isolated.run, one, REQUEST)
        assert until(mark.exists)
        isolated.close()
        pid = told_id(result.result(PATIENT))
    assert until(lambda: not is_running(pid))


@pytest.mark.slow
def test_a_runner_that_nobody_needs_any_more_ends_its_processes() -> None:
    isolated = IsolatedRunner(max_processes=1)
    pid = told_id(isolated.run(worker(process_id), REQUEST))
    del isolated
    assert until(lambda: not is_running(pid))


@pytest.mark.slow
def test_there_are_never_more_processes_than_allowed_and_calls_wait_for_one() -> None:
    with IsolatedRunner(max_processes=2) as isolated, ThreadPoolExecutor(6) as threads:
        one = worker(process_id)
        results = threads.map(lambda _: isolated.run(one, REQUEST), range(30))
        assert len({told_id(result) for result in results}) <= 2


@pytest.mark.slow
def test_an_error_in_the_host_while_it_waits_ends_the_process(
    runner: IsolatedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    one = worker(process_id)
    first = told_id(runner.run(one, REQUEST))
    with monkeypatch.context() as patch:
        patch.setattr(isolation, "check_not_leaving", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runner.run(worker(lambda _s, _t: time.sleep(PATIENT)), REQUEST)
    assert until(lambda: not is_running(first))
    assert runner.run(one, REQUEST).is_valid()


@pytest.mark.slow
def test_a_process_that_does_not_come_up_in_time_is_no_fault_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_START_SECONDS", 0.01)
    with pytest.raises(ExecutorError, match=r"cannot start a process: timed_out: .* within 0\.01 s"):
        IsolatedRunner().check([worker(lambda _s, t: t)])


def run_in_daemon(sender: Any) -> None:
    try:
        IsolatedRunner().check([FunctionWorker("w", lambda _s, t: t)])
    except ExecutorError as error:
        sender.send(str(error))


@pytest.mark.slow
def test_a_process_that_may_have_no_children_says_so() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=run_in_daemon, args=(sender,), daemon=True)
    child.start()
    assert receiver.poll(PATIENT)
    assert "daemonic processes are not allowed to have children" in receiver.recv()
    child.join(PATIENT)
    assert child.exitcode == 0


# --- copies, executors, forks, exits --------------------------------------------------------------------------------


def test_a_copy_in_the_same_process_is_the_runner_itself(runner: IsolatedRunner) -> None:
    assert pickle.loads(pickle.dumps(runner)) is runner


def test_elsewhere_there_is_one_copy_of_a_runner_however_often_it_arrives() -> None:
    settings = ("another token", 1.5, None, 2)
    first = isolation._arrived(*settings)
    assert (first.time_limit, first.max_processes) == (1.5, 2)
    assert isolation._arrived(*settings) is first
    assert pickle.loads(pickle.dumps(first)) is first
    assert isolation._arrived("a third token", None, None, 1) is not first


@pytest.mark.slow
def test_examples_evaluated_in_processes_isolate_their_workers_there(tmp_path: Path) -> None:
    seen = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for settings, factory in (
            ({}, TrainingEngine),
            (
                {"runner": IsolatedRunner(max_processes=1)},
                TrainingEngine.using(GuideSimilarity(), executor=executor),
            ),
        ):
            pool = WorkerPool(**settings)
            for one in built_in_workers()[:2]:
                pool.register_worker(one)
            manager = manager_with(tmp_path, examples=2, pool=pool, engine_factory=factory)
            manager.train(validation_split=0.0, verbose=False)
            seen.append(manager.weight_learner.get_all_weights())
    assert seen[0] == seen[1]  # and the executor's process has not waited for its own children for ever


HOST = """
import os, sys, threading, time
import numpy as np
from tsm_training import FunctionWorker, ThreadRunner, Worker, WorkerPool
from tsm_training.isolation import IsolatedRunner
PICTURES = {"source": np.zeros((4, 5, 3), np.uint8), "target": np.ones((4, 5, 3), np.uint8)}
def pid(source, target):
    return np.zeros_like(target) + np.frombuffer(os.getpid().to_bytes(3, "little"), np.uint8)
def told(results):
    assert results[0].is_valid(), results[0].failure
    return int.from_bytes(results[0].value[0, 0].tobytes(), "little")
def hang(source, target):
    while True:
        time.sleep(1)
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_isolates_classes_and_functions_of_its_own() -> None:
    code = (
        HOST
        + """
import attrs
print("main runs once")
@attrs.frozen
class Mine(Worker):
    worker_id: str
    levels: int = 3
    def process(self, data):
        return data["target"] + np.uint8(self.levels)
pool = WorkerPool(runner=IsolatedRunner(max_processes=1))
pool.register_worker(Mine("mine", 5))
pool.register_worker(FunctionWorker("lambda", lambda source, target: target + np.uint8(6)))
print([int(result.value.max()) for result in pool.execute_parallel(PICTURES)])
"""
    )
    done = script("", "-", input=code)
    assert (done.stdout, done.stderr, done.returncode) == ("main runs once\n[6, 7]\n", "", 0)


@pytest.mark.slow
def test_a_fork_has_processes_of_its_own_and_leaves_its_parents_alone() -> None:
    done = script(
        HOST
        + """
import warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # Python 3.12 warns of forks beside threads
pool = WorkerPool(runner=IsolatedRunner(max_processes=1))
pool.register_worker(FunctionWorker("pid", pid))
first = told(pool.execute_parallel(PICTURES))
child = os.fork()
if child == 0:
    mine = told(pool.execute_parallel(PICTURES))
    print("child", mine != first, flush=True)
    sys.exit(0)
print("status", os.waitpid(child, 0)[1])
print("parent", told(pool.execute_parallel(PICTURES)) == first)
child = os.fork()
if child == 0:
    sys.exit(0)  # without having used it: what runs at exit must not end the parent's processes either
print("status", os.waitpid(child, 0)[1])
print("parent", told(pool.execute_parallel(PICTURES)) == first)
"""
    )
    assert done.stdout.split() == ["child", "True", "status", "0", "parent", "True", "status", "0", "parent", "True"]
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.slow
@pytest.mark.parametrize("asks", ["the main thread", "another thread", "a daemon thread"])
def test_the_interpreter_exits_while_workers_hang_and_leaves_no_process(asks: str) -> None:
    done = script(
        HOST
        + f"""
pool = WorkerPool(runner=IsolatedRunner({"time_limit=0.2, " if asks == "the main thread" else ""}max_processes=2))
pool.register_worker(FunctionWorker("pid", pid))
print(told(pool.execute_parallel(PICTURES)), flush=True)
pool.register_worker(FunctionWorker("hang", hang))
def ask():
    try:
        pool.execute_parallel(PICTURES)
    except Exception as error:
        print(type(error).__name__, flush=True)
if {asks == "the main thread"}:
    ask()
else:
    threading.Thread(target=ask, daemon={asks == "a daemon thread"}).start()
    time.sleep(1.5)
"""
    )
    assert done.returncode == 0
    assert not done.stderr
    pid, *errors = done.stdout.split()
    expected = [] if asks == "the main thread" else ["ExecutorError"]
    assert errors == expected or (asks == "a daemon thread" and not errors)  # which may not come to print it any more
    assert until(lambda: not is_running(int(pid)))


@pytest.mark.slow
def test_processes_do_not_outlive_a_host_that_was_killed() -> None:
    host = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOST
            + """
isolated = IsolatedRunner(max_processes=1)
pool = WorkerPool(runner=isolated)
pool.register_worker(FunctionWorker("pid", pid))
print(told(pool.execute_parallel(PICTURES)), flush=True)
pool.unregister_worker("pid")
pool.register_worker(FunctionWorker("hang", hang))
pool.execute_parallel(PICTURES)
""",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert host.stdout is not None
    with host:
        pid = int(host.stdout.readline())
        host.kill()
    assert until(lambda: not is_running(pid))


@pytest.mark.slow
def test_a_process_ends_when_its_host_is_gone_though_the_connection_is_open(runner: IsolatedRunner) -> None:
    def orphaned(source: Image, target: Image) -> Image:
        vars(os)["getppid"] = lambda: 1  # as it would be told
        return process_id(source, target)

    pid = told_id(runner.run(worker(orphaned), REQUEST))
    assert until(lambda: not is_running(pid))


# --- what runs in the process, here where it can be watched ---------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory cannot be limited elsewhere")
def test_a_process_serves_its_host_until_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource  # noqa: PLC0415 - not on every system

    def leave(code: int) -> None:
        raise SystemExit(code)

    limits: list[tuple[int, int]] = []
    answers: list[Any] = []
    ours, theirs = multiprocessing.Pipe()

    def ask(function: Callable[..., Any], *arguments: Any) -> None:
        ours.send_bytes(pickle.dumps((function, arguments)))

    def host() -> None:
        ask(os.getpid)
        ask(isolation._load, "w", cloudpickle.dumps(worker(lambda _s, t: 255 - t, "w")))
        ask(isolation._call, "w", REQUEST["source"], REQUEST["target"], None, False)
        ask(isolation._load, "w", pickle.dumps(5))
        ask(isolation._call, "w", REQUEST["source"], REQUEST["target"], None, False)
        answers.extend(pickle.loads(ours.recv_bytes()) for _ in range(5))
        ask(os.getpid)
        ours.close()

    monkeypatch.setattr(resource, "setrlimit", lambda _which, limit: limits.append(limit))
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hosting = threading.Thread(target=host)
    hosting.start()
    try:
        with pytest.raises(SystemExit) as left:
            isolation._serve(theirs, 1 << 40)
        assert [signal.getsignal(number) for number in before] == [signal.SIG_IGN, signal.SIG_DFL]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for thread in (hosting, *(thread for thread in threading.enumerate() if "listen" in thread.name)):
            thread.join(PATIENT)
    assert left.value.code == 1
    pid, loaded, result, refused, gone = answers
    assert (pid, loaded, result.is_valid()) == (os.getpid(), None, True)
    assert np.array_equal(result.value, 255 - REQUEST["target"])
    assert refused == WorkerFailure("raised", "TypeError", "it becomes a int there")
    assert gone.error_type == "KeyError"
    ((soft, hard),) = limits  # beyond what the process has
    assert (1 << 40) < soft == hard < (1 << 41)


@pytest.mark.slow
def test_everything_ends_at_exit_and_a_fork_lets_go_of_what_is_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    isolated = IsolatedRunner(max_processes=1)
    one = worker(process_id)
    first = told_id(isolated.run(one, REQUEST))
    isolation._end_all()
    assert not is_running(first)
    second = told_id(isolated.run(one, REQUEST))
    assert second not in [child.pid for child in multiprocessing.active_children()]  # nobody else ends it or waits
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        patch.setattr(os, "kill", None)
        isolated._abandon()
    assert until(lambda: not is_running(second))  # it has lost its host
    assert told_id(isolated.run(one, REQUEST)) not in {first, second}
    isolated.close()
