"""The gauntlet: whatever one worker does, the others' results are those of a run without it, to the last bit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import cloudpickle  # type: ignore[import-untyped]
import cv2
import numpy as np
import pytest

from support import save_triple
from tsm_training import (
    BayesianWeightLearner,
    Image,
    InMemoryStore,
    ThreadRunner,
    TrainingManager,
    Worker,
    WorkerPool,
    WorkerRunner,
)
from tsm_training.isolation import IsolatedRunner

# The processes of isolated workers then need not import this file, which takes them longer than what it tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LIMIT = 0.3
"""Seconds for workers that never answer; the others have all the time that a busy machine may need."""


@attrs.frozen
class Good(Worker):
    worker_id: str
    levels: int
    time_limit = 60.0

    def process(self, data: Mapping[str, Image]) -> Image:
        return np.clip(data["target"].astype(np.int32) + self.levels, 0, 255).astype(np.uint8)

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        return 0.9


@attrs.frozen
class Bad(Worker):
    worker_id: str
    act: Callable[[Image, Image], Any]
    confidence: Callable[[], Any] = lambda: 1.0
    time_limit: float | None = 60.0

    def process(self, data: Mapping[str, Image]) -> Image:
        picture: Image = self.act(data["source"], data["target"])
        return picture

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        number: float = self.confidence()
        return number


class Shy(Worker):
    worker_id = "bad"
    time_limit = 60.0

    @property
    def reads_only(self) -> bool:
        raise OSError("never asked for that")

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"]


def good_workers() -> list[Worker]:
    return [Good("far", -60), Good("mid", 60), Good("near", 22)]


def several_errors(_source: Image, _target: Image) -> Image:
    # Made there: libraries that a process may have loaded change how groups are pickled, and not for the better.
    raise BaseExceptionGroup("several", [SystemExit(), OwnError()])


def raising(error: BaseException | type[BaseException]) -> Callable[[Image, Image], Image]:
    def act(_source: Image, _target: Image) -> Image:
        raise error

    return act


def confident(value: Any) -> Worker:
    def say() -> Any:
        if isinstance(value, type) and issubclass(value, BaseException):
            raise value
        return value

    return Bad("bad", negative, say)


def negative(_source: Image, target: Image) -> Image:
    return 255 - target


class OwnError(Exception):
    pass


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class InterruptingError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Odd:
    def __float__(self) -> float:
        raise SystemExit

    def __repr__(self) -> str:
        raise GeneratorExit


class LookAlike:
    dtype, ndim, shape = np.dtype(np.uint8), 3, (12, 16, 3)


class Sly(np.ndarray[Any, Any]):
    @property
    def shape(self) -> Any:
        raise KeyboardInterrupt


def endless(source: Image, target: Image) -> Image:
    return endless(source, target)


def forgetful(source: Image, target: Image) -> Image:
    del target
    return target  # type: ignore[name-defined]  # noqa: F821 - the fault that is tried


def nested_generator(source: Image, target: Image) -> Any:
    yield target


FAILING: dict[str, tuple[str, Worker | Callable[[Image, Image], Any]]] = {
    "raises": ("raised", raising(ValueError("no"))),
    "raises an error of its own": ("raised", raising(OwnError("no"))),
    "raises an error that cannot be pickled": ("raised", lambda _s, _t: (_ for _ in ()).throw(UnpicklableError())),
    "raises an error whose text exits": ("raised", raising(MuteError())),
    "raises an error whose text interrupts": ("raised", raising(InterruptingError())),
    "raises a very long error": ("raised", raising(OwnError("x" * 10**6))),
    "raises text that no file can hold": ("raised", raising(OwnError("\udce9\0\n"))),
    "raises several errors": ("raised", several_errors),
    "exits": ("raised", lambda _s, _t: sys.exit(1)),
    "interrupts": ("raised", raising(KeyboardInterrupt)),
    "raises GeneratorExit": ("raised", raising(GeneratorExit)),
    "raises StopIteration": ("raised", raising(StopIteration)),
    "raises BaseException": ("raised", raising(BaseException("bare"))),
    "says that memory has run out": ("raised", raising(MemoryError)),
    "asks for more memory than there is": ("raised", lambda _s, _t: np.ones((1 << 20, 1 << 20, 1 << 10), np.uint8)),
    "never ends its recursion": ("raised", endless),
    "uses a name that is gone": ("raised", forgetful),
    "wants other arguments": ("raised", lambda: 0),
    "makes a warning an error": ("raised", raising(UserWarning("stop"))),
    "raises when asked whether it only reads": ("raised", Shy()),
    "exits while it tells its confidence": ("raised", confident(SystemExit)),
    "interrupts while it tells its confidence": ("raised", confident(KeyboardInterrupt)),
    "returns an array that interrupts when it is looked at": ("raised", lambda _s, t: t.view(Sly)),
    "returns nothing": ("bad_output", lambda _s, _t: None),
    "returns text": ("bad_output", lambda _s, _t: "picture.png"),
    "returns a list": ("bad_output", lambda _s, t: t.tolist()),
    "returns a generator": ("bad_output", nested_generator),
    "returns a function": ("bad_output", lambda _s, _t: lambda: 0),
    "returns something that looks like a picture": ("bad_output", lambda _s, _t: LookAlike()),
    "returns floats": ("bad_output", lambda _s, t: t / 255),
    "returns NaN": ("bad_output", lambda _s, t: np.full(t.shape, np.nan)),
    "returns objects": ("bad_output", lambda _s, t: t.astype(object)),
    "returns a mask": ("bad_output", lambda _s, t: t > 3),
    "returns 16 bits": ("bad_output", lambda _s, t: t.astype(np.uint16)),
    "returns grey": ("bad_output", lambda _s, t: t[:, :, 0]),
    "returns four channels": ("bad_output", lambda _s, t: np.dstack([t, t[:, :, 0]])),
    "returns a batch": ("bad_output", lambda _s, t: t[None]),
    "returns an empty picture": ("bad_output", lambda _s, t: t[:0]),
    "returns too small a picture": ("bad_output", lambda _s, t: t[::2]),
    "returns too large a picture": ("bad_output", lambda _s, t: np.repeat(t, 2, axis=0)),
    "returns a picture on its side": ("bad_output", lambda _s, t: t.transpose(1, 0, 2)),
    "is sure by NaN": ("bad_confidence", confident(float("nan"))),
    "is sure by 2": ("bad_confidence", confident(2)),
    "is sure by -1": ("bad_confidence", confident(-1)),
    "is sure by None": ("bad_confidence", confident(None)),
    "is sure by text": ("bad_confidence", confident("0.5")),
    "is sure by an array": ("bad_confidence", confident(np.array([0.5]))),
    "is sure by something that exits": ("raised", confident(Odd())),
}


STOP: list[bool] = []
"""Filled when a test is over, so that no abandoned thread outlives it."""


def busy(_source: Image, target: Image) -> Image:
    while not STOP:
        pass
    return target


def sleepy(_source: Image, target: Image) -> Image:
    while not STOP:
        time.sleep(0.01)
    return target


def locked_out(_source: Image, target: Image) -> Image:
    lock = threading.Lock()
    lock.acquire()
    while not STOP:
        lock.acquire(timeout=0.01)
    return target


def waiting_for_a_child(_source: Image, target: Image) -> Image:
    subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(1.5)"], check=False)
    return target


def drowsy() -> float:
    while not STOP:
        time.sleep(0.01)
    return 1.0


HANGING: dict[str, Worker | Callable[[Image, Image], Any]] = {
    "sleeps": sleepy,
    "is busy for ever": busy,
    "waits for a lock for ever": locked_out,
    "waits for a child process": waiting_for_a_child,
    "never tells its confidence": Bad("bad", negative, drowsy),
}


def stubborn(_source: Image, target: Image) -> Image:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(30.0)
    return target


def holding_the_lock(_source: Image, target: Image) -> Image:
    ctypes.PyDLL(None).sleep(30)  # C code that keeps Python's global lock
    return target


def eating(_source: Image, target: Image) -> Image:
    eaten = []
    while True:
        eaten.append(np.empty(1 << 24, np.uint8))


def bombing(_source: Image, target: Image) -> Image:
    threading.Thread(target=lambda: os._exit(5)).start()
    time.sleep(30.0)
    return target


ONLY_ISOLATED: dict[str, tuple[str, Callable[[Image, Image], Any]]] = {
    # In threads, these would end the interpreter that runs the tests, or stop it with everything else in it.
    "ignores the signal to end": ("timed_out", stubborn),
    "holds Python's global lock": ("timed_out", holding_the_lock),
    "eats all memory": ("raised", eating),
    "reads at address 0": ("died", lambda _s, _t: ctypes.string_at(0)),
    "aborts": ("died", lambda _s, _t: os.abort()),
    "ends the process": ("died", lambda _s, _t: os._exit(3)),
    "ends the process as if all were well": ("died", lambda _s, _t: os._exit(0)),
    "kills itself": ("died", lambda _s, _t: os.kill(os.getpid(), signal.SIGKILL)),
    "asks itself to end": ("died", lambda _s, _t: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(30.0))),
    "closes all files": ("died", lambda _s, t: (os.closerange(3, 1024), t)[1]),
    "ends the process from a thread": ("died", bombing),
}


KEPT: list[Any] = []


def vandal(source: Image, target: Image) -> Image:
    answer = negative(source, target)
    source[...] = 0
    target[...] = 0
    return answer


def late_vandal(source: Image, target: Image) -> Image:
    for picture in KEPT:
        picture[...] = 77
    KEPT.extend([source, target])
    return negative(source, target)


BUFFERS: dict[int, Image] = {}


def in_one_buffer(source: Image, target: Image) -> Image:
    # One for each thread: two at once would spoil each other's picture before anybody has seen it.
    buffer = BUFFERS.setdefault(threading.get_ident(), np.empty_like(target))
    buffer[...] = negative(source, target)
    return buffer


def mover(source: Image, target: Image) -> Image:
    os.chdir("/")
    os.environ["TMPDIR"] = "/nowhere"
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = "1"
    return negative(source, target)


def sower(source: Image, target: Image) -> Image:
    random.seed(1)
    np.random.seed(1)
    cv2.setRNGSeed(1)
    return negative(source, target)


def tuner(source: Image, target: Image) -> Image:
    cv2.setNumThreads(1)
    cv2.setUseOptimized(False)
    np.seterr(all="raise")
    warnings.simplefilter("error")
    gc.disable()
    sys.setswitchinterval(0.1)
    return negative(source, target)


def noisy(source: Image, target: Image) -> Image:
    sys.stdout.write("x" * 100_000)
    sys.stderr.write("y" * 100_000)
    return negative(source, target)


def leaving_a_thread(source: Image, target: Image) -> Image:
    threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()
    return negative(source, target)


def leaving_a_child(source: Image, target: Image) -> Image:
    KEPT.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"]))
    return negative(source, target)


def closing_stdout(source: Image, target: Image) -> Image:
    for stream in (1, 2):
        with contextlib.suppress(OSError):  # it was closed by the call before
            os.close(stream)
    return negative(source, target)


SPOILING: dict[str, Callable[[Image, Image], Image]] = {
    "writes into its inputs": vandal,
    "writes into its inputs later": late_vandal,
    "returns one buffer again and again": in_one_buffer,
    "changes directory and environment": mover,
    "seeds the random numbers": sower,
    "changes everybody's settings": tuner,
    "prints a lot": noisy,
    "leaves a thread behind": leaving_a_thread,
    "leaves a child process behind": leaving_a_child,
}


def bad_worker(act: Worker | Callable[..., Any], kind: str) -> Worker:
    worker = act if isinstance(act, Worker) else Bad("bad", act)
    return attrs.evolve(worker, time_limit=LIMIT) if kind == "timed_out" else worker  # type: ignore[misc]


class Case(NamedTuple):
    name: str
    kind: str
    act: Worker | Callable[..., Any]
    mode: str


_SLOW = [pytest.mark.slow]
CASES = [
    *(Case(name, kind, act, mode) for mode in ("threads", "isolated") for name, (kind, act) in FAILING.items()),
    *(Case(name, "timed_out", act, mode) for mode in ("threads", "isolated") for name, act in HANGING.items()),
    *(Case(name, kind, act, "isolated") for name, (kind, act) in ONLY_ISOLATED.items()),
]
POSITIONS = {"first": 0, "middle": 1, "last": 3}
RUNS = [
    pytest.param(case, position, id=f"{case.mode}-{case.name}", marks=_SLOW if case.mode == "isolated" else [])
    for case, position in zip(CASES, itertools.cycle(POSITIONS.values()), strict=False)  # they take turns
]


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedRunner]:
    # As many processes as workers: where one dies in which others were before, its last call is repeated in a new one.
    with IsolatedRunner(memory_limit=1 << 29, max_processes=4) as runner:
        yield runner


@pytest.fixture(scope="module")
def triples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path, Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    return [save_triple(folder, seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def _everything_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a worker in a thread has changed in this process."""
    monkeypatch.chdir(Path.cwd())
    for name in ("TMPDIR", "OPENCV_IO_MAX_IMAGE_PIXELS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    threads, floats, interval = cv2.getNumThreads(), np.geterr(), sys.getswitchinterval()
    with warnings.catch_warnings():
        yield
    STOP.append(True)
    for thread in threading.enumerate():
        if thread.name == "tsm-worker":
            thread.join(30.0)
    STOP.clear()
    cv2.setNumThreads(threads)
    cv2.setUseOptimized(True)
    np.seterr(**floats)
    gc.enable()
    sys.setswitchinterval(interval)
    for left in KEPT:
        if isinstance(left, subprocess.Popen):
            left.wait()
    KEPT.clear()


Triples = list[tuple[Path, Path, Path]]


def trained(runner: WorkerRunner, workers: list[Worker], triples: Triples) -> TrainingManager:
    pool = WorkerPool(runner=runner)
    for worker in workers:
        pool.register_worker(worker)
    manager = TrainingManager(pool, BayesianWeightLearner(alpha=0.15), storage=InMemoryStore())
    manager.add_training_examples(triples)
    manager.train(epochs=2, validation_split=0.0, verbose=False)
    return manager


def learned(manager: TrainingManager, *, without: str = "") -> dict[str, Any]:
    """Everything that was learned and noted, exactly, but times and what concerns one worker."""
    examples = manager.data_manager.get_all_examples()
    number = {example.example_id: position for position, example in enumerate(examples)}
    (session,) = manager.data_manager.get_all_sessions()
    outcomes = [
        {w: {**outcome, "seconds": 0.0} for w, outcome in (example.worker_results or {}).items() if w != without}
        for example in examples
    ]
    rows = sorted(
        (number[row.example_id], row.worker_id, row.epoch, row.accuracy, row.confidence, row.loss)
        for row in manager.data_manager.iterate_metrics(session.session_id)
        if row.worker_id != without
    )
    weights = {w: weight for w, weight in manager.weight_learner.get_all_weights().items() if w != without}
    return {"weights": weights, "outcomes": outcomes, "rows": rows}


@pytest.fixture(scope="module")
def undisturbed(triples: Triples) -> dict[int, dict[str, Any]]:
    """What the good workers learn among themselves, by the number of examples."""
    return {n: learned(trained(ThreadRunner(), good_workers(), triples[:n])) for n in (1, 2)}


def with_bad(act: Callable[[Image, Image], Image], position: str) -> list[Worker]:
    workers = good_workers()
    workers.insert(POSITIONS[position], Bad("bad", act))
    return workers


@pytest.fixture(scope="module")
def honest(triples: Triples) -> dict[str, dict[str, Any]]:
    """What is learned where the bad worker gives its picture and does nothing else."""
    return {position: learned(trained(ThreadRunner(), with_bad(negative, position), triples)) for position in POSITIONS}


def test_the_gauntlet_is_long_enough() -> None:
    assert len({name for name, *_rest in CASES} | set(SPOILING)) >= 60


@pytest.mark.parametrize(("case", "position"), RUNS)
def test_a_worker_that_fails_changes_nothing_for_the_others(
    case: Case, position: int, triples: Triples, isolated: IsolatedRunner, undisturbed: dict[int, dict[str, Any]]
) -> None:
    if case.mode == "isolated":
        triples = triples[:1]
    workers = good_workers()
    workers.insert(position, bad_worker(case.act, case.kind))
    runner = isolated if case.mode == "isolated" else ThreadRunner(60.0)
    manager = trained(runner, workers, triples)
    assert learned(manager, without="bad") == undisturbed[len(triples)]
    for example in manager.data_manager.get_all_examples():
        outcome = (example.worker_results or {})["bad"]
        assert (outcome["accuracy"], outcome["is_valid"]) == (None, False)
        assert str(outcome["error"]).startswith(f"{case.kind}: ")
    assert manager.weight_learner.get_weight("bad") < 1.0


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", SPOILING)
def test_a_worker_that_spoils_what_all_share_is_judged_by_its_pictures_alone(
    name: str, position: str, triples: Triples, honest: dict[str, dict[str, Any]]
) -> None:
    assert learned(trained(ThreadRunner(60.0), with_bad(SPOILING[name], position), triples)) == honest[position]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SPOILING, "closes the standard streams"])
def test_a_worker_that_spoils_its_process_is_judged_by_its_pictures_alone(
    name: str, triples: Triples, isolated: IsolatedRunner, honest: dict[str, dict[str, Any]]
) -> None:
    # In threads, closing the standard streams would close those of the tests.
    assert (
        learned(trained(isolated, with_bad(SPOILING.get(name, closing_stdout), "middle"), triples)) == honest["middle"]
    )


@pytest.mark.parametrize("mode", ["without a limit", "with a limit"])
def test_a_worker_that_asks_its_own_manager_disturbs_nobody(mode: str, triples: Triples) -> None:
    # In a process of its own it has no manager: see the tests of isolation.
    managers: list[TrainingManager] = []

    def asking(source: Image, target: Image) -> Image:
        for manager in managers:
            manager.worker_pool.execute({"source": source, "target": target}, ["near"])  # type: ignore[attr-defined]
        return negative(source, target)

    runner = ThreadRunner(60.0 if mode == "with a limit" else None)
    seen = []
    for act in (asking, negative):
        pool = WorkerPool(runner=runner)
        for worker in [*good_workers(), Bad("bad", act)]:
            pool.register_worker(worker)
        manager = TrainingManager(pool, BayesianWeightLearner(alpha=0.15), storage=InMemoryStore())
        manager.add_training_examples(triples)
        managers[:] = [manager]
        manager.train(epochs=2, validation_split=0.0, verbose=False)
        seen.append(learned(manager))
    assert seen[0] == seen[1]
