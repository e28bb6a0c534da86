from __future__ import annotations

import dataclasses
import decimal
import fractions
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

from support import brightening, brighter, failing, manager_with, save_triple
from tsm_training import Progress, TrainingEngine
from tsm_training.arrays import Image
from tsm_training.errors import (
    DuplicateWorkerError,
    ExecutorError,
    InvalidArgumentError,
    NoWorkersError,
    TrainingStoppedError,
    WorkerNotFoundError,
    WorkerPoolError,
)
from tsm_training.fingerprints import describe_object
from tsm_training.metrics import GuideSimilarity
from tsm_training.workers import (
    FunctionWorker,
    ThreadRunner,
    Worker,
    WorkerFailure,
    WorkerPool,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    WorkerResultLike,
    WorkerRunner,
    ask_pool,
    checked_result,
    group_of,
    run_worker,
    shared,
)

PATIENT = 60.0
"""Seconds after which a test gives up; what it waits for takes a fraction of one."""

RNG = np.random.default_rng(1)
SOURCE: Image = RNG.integers(0, 256, (5, 9, 3), np.uint8)
TARGET: Image = RNG.integers(0, 256, (6, 8, 3), np.uint8)
TARGET_BEFORE = TARGET.copy()
DATA = {"source": SOURCE, "target": TARGET}


class Negative(Worker):
    worker_id = "negative"

    def process(self, data: Mapping[str, Image]) -> Image:
        return 255 - data["target"]


@attrs.frozen
class Brighter(Worker):
    """As a host would write it: settings in attrs fields, a confidence of its own."""

    worker_id: str
    levels: int = 10
    confidence: Any = 0.5

    def process(self, data: Mapping[str, Image]) -> Image:
        return np.minimum(data["target"], 255 - self.levels).astype(np.uint8) + np.uint8(self.levels)

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        confidence: float = self.confidence() if callable(self.confidence) else self.confidence
        return confidence


def unchanged(source: Image, target: Image) -> Image:
    return target


def pool_of(*workers: Worker, max_workers: int = 10) -> WorkerPool:
    pool = WorkerPool(max_workers)
    for worker in workers:
        pool.register_worker(worker)
    return pool


def outcome_of(function: Callable[[Image, Image], Any], *others: Worker) -> WorkerResult:
    """Run a function as the first worker of a pool."""
    return pool_of(FunctionWorker("tried", function), *others).execute_parallel(DATA)[0]


def facts(result: WorkerResult) -> tuple[object, ...]:
    """Everything about a result but the time it took."""
    value = None if result.value is None else (result.value.tobytes(), result.value.shape)
    return (result.worker_id, value, result.confidence, result.failure)


def failure_of(result: WorkerResult) -> WorkerFailure:
    assert not result.is_valid()
    assert result.value is None
    assert result.failure is not None
    return result.failure


# --- ways to write a worker -----------------------------------------------------------------------------------------


def test_a_five_line_subclass_is_a_worker() -> None:
    worker = Negative()
    assert (worker.worker_id, worker.version, worker.reads_only) == ("negative", "", False)
    (result,) = pool_of(worker).execute_parallel(DATA)
    assert result.is_valid()
    assert result.confidence == 1.0
    assert result.seconds >= 0.0
    assert np.array_equal(result.value, 255 - TARGET)  # type: ignore[arg-type]


class Answering(Worker):
    def process(self, data: Mapping[str, Image]) -> Image:
        return 255 - data["target"]


class Assigned(Answering):
    """What every newcomer writes first."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id


class AllAssigned(Answering):
    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.version = "2"
        self.reads_only = True
        self.time_limit = 50.0


class ByClass(Answering):
    worker_id = "w"
    version = "2"
    reads_only = True
    time_limit = 50.0


class ByProperty(Answering):
    @property
    def worker_id(self) -> str:  # type: ignore[override]
        return "w"

    @property
    def version(self) -> str:  # type: ignore[override]
        return "2"


class Partly(Assigned):
    """Class attributes and assigned ones, over several classes."""

    version = "2"

    def __init__(self) -> None:
        super().__init__("w")


@attrs.frozen
class Slotted(Answering):
    worker_id: str
    version: str = "2"
    reads_only: bool = True
    time_limit: float | None = 50.0


@attrs.define(slots=False)
class Unslotted(Answering):
    worker_id: str
    version: str = "2"
    reads_only: bool = True
    time_limit: float | None = 50.0


@attrs.frozen
class Inheriting(Slotted):
    levels: int = 3


@dataclasses.dataclass
class Data(Answering):
    worker_id: str
    version: str = "2"


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedData(Answering):
    worker_id: str
    version: str = "2"
    reads_only: bool = True
    time_limit: float | None = 50.0


PLAIN, VERSION, ALL = ("", False, None), ("2", False, None), ("2", True, 50.0)
WAYS: list[tuple[Worker, tuple[str, bool, float | None]]] = [
    (Assigned("w"), PLAIN),
    (AllAssigned("w"), ALL),
    (ByClass(), ALL),
    (ByProperty(), VERSION),
    (Partly(), VERSION),
    (Slotted("w"), ALL),
    (Unslotted("w"), ALL),
    (Inheriting("w"), ALL),
    (Data("w"), VERSION),
    (SlottedData("w"), ALL),
    (FunctionWorker("w", unchanged, "2", time_limit=50.0), ("2", False, 50.0)),
]
"""Every way to write a worker, with its version, whether it only reads, and its time limit."""


def attributes_of(worker: Worker) -> tuple[str, bool, float | None]:
    assert worker.worker_id == "w"
    return worker.version, worker.reads_only, worker.time_limit


@pytest.mark.parametrize(("worker", "told"), WAYS)
def test_a_worker_may_be_written_in_any_way_and_survives_pickling(worker: Worker, told: tuple[Any, ...]) -> None:
    again = pickle.loads(pickle.dumps(worker))
    assert type(again) is type(worker)
    assert attributes_of(worker) == attributes_of(again) == told
    assert describe_object(again) == describe_object(worker)
    (result,), (copied,) = (pool_of(each).execute_parallel(DATA) for each in (worker, again))
    assert result.is_valid()
    assert facts(result) == facts(copied)


@pytest.mark.slow
def test_workers_of_a_notebook_survive_cloudpickle(tmp_path: Path) -> None:
    """Their classes travel by value, and are built anew where they arrive."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        (tmp_path / "workers").write_bytes(cloudpickle.dumps([worker for worker, _told in WAYS]))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    code = """
import pickle, sys, numpy as np
from tsm_training.workers import WorkerRequest, run_worker
request = WorkerRequest(*[np.full((3, 4, 3), 9, np.uint8)] * 2)
with open(sys.argv[1], "rb") as file:
    for worker in pickle.load(file):
        told = type(worker).__name__, worker.worker_id, worker.version, worker.reads_only, worker.time_limit
        print(*told, run_worker(worker, request).is_valid())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "workers")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=PATIENT,
    )
    assert done.stdout.splitlines() == [f"{type(w).__name__} w {v} {r} {t} True" for w, (v, r, t) in WAYS]


def test_a_worker_without_an_answer_cannot_be_made_and_one_without_a_name_not_registered() -> None:
    with pytest.raises(TypeError, match="process"):
        type("Incomplete", (Worker,), {"worker_id": "w"})()
    with pytest.raises(InvalidArgumentError) as caught:
        WorkerPool().register_worker(Answering())
    assert (caught.value.argument, caught.value.seen) == ("worker_id", None)


# --- the registry ---------------------------------------------------------------------------------------------------


def test_workers_are_kept_in_order_of_registration() -> None:
    workers = [Brighter(name) for name in "cab"]
    pool = pool_of(*workers)
    assert pool.workers == tuple(workers)
    assert [result.worker_id for result in pool.execute_parallel(DATA)] == ["c", "a", "b"]
    assert pool.get_worker("a") is workers[1]
    assert pool.unregister_worker("a") is workers[1]
    assert pool.workers == (workers[0], workers[2])
    pool.register_worker(workers[1])
    assert [worker.worker_id for worker in pool.workers] == ["c", "b", "a"]


def test_a_second_worker_of_the_same_id_is_refused() -> None:
    pool = pool_of(Brighter("w", 1))
    with pytest.raises(DuplicateWorkerError, match="'w' is already registered"):
        pool.register_worker(Brighter("w", 2))
    assert pool.workers == (Brighter("w", 1),)


def test_an_unknown_worker_is_not_found() -> None:
    pool = pool_of(Brighter("w"))
    for look_up in (pool.get_worker, pool.unregister_worker):
        with pytest.raises(WorkerNotFoundError, match=r"no registered worker has the id 'v'$"):
            look_up("v")
        with pytest.raises(WorkerNotFoundError, match="has the id 'w2'; did you mean 'w'"):
            look_up("w2")


@pytest.mark.parametrize("worker_id", ["a", "0", "größer als 5", "a" * 128, "x;--", "<b>"])
def test_ids_of_1_to_128_printable_characters_are_taken(worker_id: str) -> None:
    assert pool_of(Brighter(worker_id)).get_worker(worker_id).worker_id == worker_id


@pytest.mark.parametrize(
    "worker_id",
    ["", " ", " a", "a ", "a\n", "a\x00b", "\x1b[2J", "\u202e", "\ud800", "a\u00a0b", "a" * 129, "a" * 10**7, None, 7],
    ids=lambda value: repr(value)[:20],
)
def test_an_id_that_no_file_could_keep_is_refused(worker_id: Any) -> None:
    pool = WorkerPool()
    with pytest.raises(InvalidArgumentError, match="worker_id must be 1 to 128 printable characters") as caught:
        pool.register_worker(Brighter(worker_id))
    assert len(str(caught.value)) < 500
    assert pool.workers == ()


@pytest.mark.parametrize("worker", [None, "negative", unchanged, Negative, SimpleNamespace(worker_id="w")])
def test_what_is_no_worker_is_refused_with_advice(worker: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="wrap a function with FunctionWorker"):
        WorkerPool().register_worker(worker)


@pytest.mark.parametrize("value", [0, -1, True, False, 1.5, 2.0, "2", None, math.nan, math.inf])
def test_the_number_of_threads_is_a_whole_number_of_at_least_one(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_workers must be a whole number of at least 1, got"):
        WorkerPool(value)


def test_a_pool_is_frozen_and_compared_by_identity() -> None:
    pool = WorkerPool(max_workers=3)
    assert (pool.max_workers, WorkerPool().max_workers) == (3, 10)
    assert pool != WorkerPool(max_workers=3)
    assert repr(pool) == "WorkerPool(max_workers=3, runner=ThreadRunner(time_limit=None))"
    assert isinstance(pool, WorkerPoolLike)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        pool.max_workers = 4  # type: ignore[misc]


# --- running --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_workers", [1, 3, 20])
def test_results_stand_in_order_of_registration_whatever_finishes_first(max_workers: int) -> None:
    def waiting(number: int) -> Worker:
        def work(source: Image, target: Image) -> Image:
            time.sleep(0.003 * (5 - number))
            return np.full_like(target, number)

        return FunctionWorker(f"worker {number}", work)

    results = pool_of(*map(waiting, range(6)), max_workers=max_workers).execute_parallel(DATA)
    assert [result.worker_id for result in results] == [f"worker {number}" for number in range(6)]
    assert [int(result.value[0, 0, 0]) for result in results if result.value is not None] == list(range(6))


def test_workers_run_at_the_same_time_up_to_the_limit() -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(source: Image, target: Image) -> Image:
        together.wait()
        return target

    results = pool_of(*(FunctionWorker(name, meet) for name in "abc"), max_workers=3).execute_parallel(DATA)
    assert all(result.is_valid() for result in results)


def test_some_of_the_workers_can_be_run() -> None:
    pool = pool_of(*(Brighter(name) for name in "abc"))
    assert [r.worker_id for r in pool.execute(DATA, ["c", "a", "unknown"])] == ["a", "c"]
    with pytest.raises(NoWorkersError):
        pool.execute(DATA, ["unknown"])


def test_an_empty_pool_is_an_error() -> None:
    with pytest.raises(NoWorkersError, match="register at least one worker"):
        WorkerPool().execute_parallel(DATA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"data must be a mapping with the keys 'source' and 'target', got \[\]"),
        ({"source": SOURCE}, r"got \['source'\]"),
        ({1: SOURCE, "target": TARGET}, r"got \[1, 'target'\]"),
        (None, "got None"),
        ([SOURCE, TARGET], "data must be a mapping"),
        ({"source": None, "target": TARGET}, r"data\['source'\] must be a uint8 array of shape \(H, W, 3\), BGR, got"),
        ({"source": SOURCE, "target": TARGET / 255}, r"data\['target'\] must be .* got 'an array of dtype float64'"),
        (
            {"source": SOURCE, "target": TARGET[:, :, 0]},
            r"data\['target'\] must be .* got 'an array of shape \(6, 8\)'",
        ),
    ],
)
def test_a_request_without_two_pictures_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pool_of(Negative()).execute_parallel(data)


def test_a_worker_may_call_the_pool_again() -> None:
    pool = WorkerPool(max_workers=1)

    def nested(source: Image, target: Image) -> Image:
        inner = WorkerRequest(source, target)
        results = pool.execute(inner, ["negative"])
        assert results[0].value is not None
        return 255 - results[0].value

    pool.register_worker(FunctionWorker("nested", nested))
    pool.register_worker(Negative())
    first, second = pool.execute_parallel(DATA)
    assert np.array_equal(first.value, TARGET)  # type: ignore[arg-type]
    assert second.is_valid()


# --- bad outputs (W2 to W4) -----------------------------------------------------------------------------------------


class _Liar:
    """Looks like an array and is none."""

    dtype, ndim, shape = np.dtype(np.uint8), 3, TARGET.shape

    def copy(self) -> Image:
        return TARGET


BAD_OUTPUTS: dict[str, tuple[Any, str]] = {
    "None": (None, "a NoneType"),
    "text": ("picture.png", "a str"),
    "bytes": (TARGET.tobytes(), "a bytes"),
    "number": (1, "a int"),
    "list": (TARGET.tolist(), "a list"),
    "tuple": ((TARGET, 1.0), "a tuple"),
    "dictionary": ({"image": TARGET}, "a dict"),
    "generator": ((row for row in TARGET), "a generator"),
    "look-alike": (_Liar(), "a _Liar"),
    "scalar": (np.uint8(3), "a uint8"),
    "memory": (memoryview(TARGET.tobytes()), "a memoryview"),
    "object": (TARGET.astype(object), "dtype object"),
    "bool": (TARGET > 128, "dtype bool"),
    "int8": (TARGET.astype(np.int8), "dtype int8"),
    "uint16": (TARGET.astype(np.uint16), "dtype uint16"),
    "int32": (TARGET.astype(np.int32), "dtype int32"),
    "int64": (TARGET.astype(np.int64), "dtype int64"),
    "float 0 to 1": (TARGET / 255, "dtype float64"),
    "float 0 to 255": (TARGET.astype(np.float32), "dtype float32"),
    "NaN": (np.full(TARGET.shape, np.nan), "dtype float64"),
    "infinity": (np.full(TARGET.shape, np.inf, np.float32), "dtype float32"),
    "complex": (TARGET.astype(complex), "dtype complex128"),
    "grey": (TARGET[:, :, 0], "shape (6, 8)"),
    "one channel": (TARGET[:, :, :1], "shape (6, 8, 1)"),
    "two channels": (TARGET[:, :, :2], "shape (6, 8, 2)"),
    "BGRA": (np.dstack([TARGET, TARGET[:, :, 0]]), "shape (6, 8, 4)"),
    "channels first": (TARGET.transpose(2, 0, 1), "shape (3, 6, 8)"),
    "batch": (TARGET[None], "shape (1, 6, 8, 3)"),
    "empty": (TARGET[:0], "shape (0, 8, 3)"),
    "no dimensions": (np.array(3, np.uint8), "shape ()"),
    "too small": (TARGET[:3, :2], "expected the target's 8×6, got 2×3"),
    "too large": (np.zeros((60, 80, 3), np.uint8), "expected the target's 8×6, got 80×60"),
    "turned": (TARGET.transpose(1, 0, 2), "expected the target's 8×6, got 6×8"),
    "the source": (SOURCE, "expected the target's 8×6, got 9×5"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_a_bad_output_fails_that_worker_and_no_other(name: str) -> None:
    output, described = BAD_OUTPUTS[name]
    good = Brighter("good", 7)
    result, beside = pool_of(FunctionWorker("bad", lambda _s, _t: output), good).execute_parallel(DATA)
    failure = failure_of(result)
    assert failure.kind == "bad_output"
    assert described in failure.message
    assert result.confidence == 0.0
    assert failure_of(checked_result(TheirResult(output), TARGET)) == failure
    assert facts(beside) == facts(pool_of(good).execute_parallel(DATA)[0])


@pytest.mark.parametrize(
    "output",
    [
        np.repeat(TARGET, 2, axis=1)[:, ::2],
        TARGET[::-1, ::-1],
        np.asfortranarray(TARGET),
        np.broadcast_to(TARGET[:1, :1], TARGET.shape),
        np.ma.MaskedArray(TARGET, mask=TARGET > 128),
        np.frombuffer(TARGET.tobytes(), np.uint8).reshape(TARGET.shape),
    ],
)
def test_any_layout_in_memory_is_accepted_and_becomes_an_ordinary_array(output: Any) -> None:
    value = outcome_of(lambda _s, _t: output).value
    assert type(value) is np.ndarray
    assert value.flags.c_contiguous
    assert value.flags.writeable
    assert np.array_equal(value, np.asarray(output))
    assert not np.shares_memory(value, output)


# --- confidences (W5) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "number"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (np.float32(0.25), 0.25),
        (np.float64(0.25), 0.25),
        (np.int64(1), 1.0),
        (fractions.Fraction(1, 4), 0.25),
        (decimal.Decimal("0.25"), 0.25),
    ],
)
def test_a_real_number_from_0_to_1_is_a_confidence(confidence: Any, number: float) -> None:
    (result,) = pool_of(Brighter("w", confidence=confidence)).execute_parallel(DATA)
    assert result.is_valid()
    assert type(result.confidence) is float
    assert result.confidence == number


class _Odd:
    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


BAD_CONFIDENCES = [
    math.nan,
    math.inf,
    -math.inf,
    2,
    -1,
    -1e-9,
    1.0000001,
    10**400,
    None,
    "0.5",
    b"1",
    bytearray(b"1"),
    True,
    False,
    np.True_,
    np.float32(np.nan),
    np.float64(1.5),
    np.int64(-1),
    np.array(0.5),
    np.array([0.5]),
    np.array([0.5, 0.5]),
    1j,
    [0.5],
    {},
    object(),
    _Odd(),
    decimal.Decimal("NaN"),
]


@pytest.mark.parametrize("confidence", BAD_CONFIDENCES, ids=lambda value: type(value).__name__)
def test_anything_else_is_a_bad_confidence_of_that_worker_only(confidence: Any) -> None:
    good = Brighter("good", 7)
    result, beside = pool_of(Brighter("bad", confidence=confidence), good).execute_parallel(DATA)
    failure = failure_of(result)
    assert failure.kind == "bad_confidence"
    assert failure.message.startswith("expected a number in [0, 1], got ")
    assert len(failure.message) < 600
    assert failure_of(checked_result(TheirResult(confidence=confidence), TARGET)) == failure
    assert facts(beside) == facts(pool_of(good).execute_parallel(DATA)[0])


# --- raising (W1, W6) -----------------------------------------------------------------------------------------------


class OwnError(Exception):
    pass


def endless() -> Any:
    return endless()


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def work(*_arguments: object) -> Any:
        raise error

    return work


WORST = [
    ValueError,
    OwnError,
    AssertionError,
    StopIteration,
    SystemExit,
    GeneratorExit,
    KeyboardInterrupt,
    MemoryError,
    BaseException,
    BaseExceptionGroup("several", [SystemExit()]),
]


@pytest.mark.parametrize("where", ["process", "get_confidence"])
@pytest.mark.parametrize("error", WORST)
def test_whatever_a_worker_raises_is_its_own_failure(error: Any, where: str) -> None:
    bad = FunctionWorker("bad", raising(error)) if where == "process" else Brighter("bad", confidence=raising(error))
    good = Brighter("good", 7)
    result, beside = pool_of(bad, good, max_workers=1).execute_parallel(DATA)
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    assert (failure_of(result).kind, failure_of(result).error_type) == ("raised", name)
    assert facts(beside) == facts(pool_of(good).execute_parallel(DATA)[0])


def test_endless_recursion_is_a_failure() -> None:
    assert failure_of(outcome_of(lambda _s, _t: endless())).error_type == "RecursionError"


def test_the_users_own_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_worker(FunctionWorker("w", raising(KeyboardInterrupt)), WorkerRequest(SOURCE, TARGET))
    result = run_worker(FunctionWorker("w", raising(SystemExit)), WorkerRequest(SOURCE, TARGET))
    assert failure_of(result).error_type == "SystemExit"


class InterruptingError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_the_users_interrupt_passes_through_even_while_an_error_is_put_into_words() -> None:
    bad = FunctionWorker("w", raising(InterruptingError()))
    with pytest.raises(KeyboardInterrupt):
        run_worker(bad, WorkerRequest(SOURCE, TARGET))
    (result,) = pool_of(bad).execute_parallel(DATA)  # elsewhere than in the main thread it is the worker's own
    assert failure_of(result).message == "(it could not be shown: KeyboardInterrupt)"


def test_a_failure_says_what_happened_on_one_line() -> None:
    failure = failure_of(outcome_of(raising(OwnError("no luck"))))
    assert failure == WorkerFailure("raised", "OwnError", "no luck")
    assert str(failure) == "raised: OwnError: no luck"


@pytest.mark.parametrize(("length", "kept"), [(500, "x" * 500), (501, "x" * 499 + "…"), (10**7, "x" * 499 + "…")])
def test_a_message_is_capped_at_500_characters(length: int, kept: str) -> None:
    assert failure_of(outcome_of(raising(OwnError("x" * length)))).message == kept


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise OwnError


class NumbError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - the fault that is tried


@pytest.mark.parametrize(("error", "reason"), [(UnspeakableError, "OwnError"), (NumbError, "TypeError")])
def test_an_error_whose_message_cannot_be_read_is_a_failure_all_the_same(error: Any, reason: str) -> None:
    failure = failure_of(outcome_of(raising(error)))
    assert failure.error_type == error.__name__
    assert failure.message == f"(it could not be shown: {reason})"


def test_a_message_can_be_stored_as_text_whatever_is_in_it() -> None:
    message = failure_of(outcome_of(raising(OwnError("file \udce9.png")))).message
    assert message == "file \\udce9.png"
    assert message.encode()


# --- pictures belong to one worker each (W9, W10) -------------------------------------------------------------------


def everything_under(array: Any) -> list[Any]:
    found = []
    while isinstance(array, np.ndarray):
        found.append(array)
        array = array.base
    return found


def test_a_worker_that_writes_into_its_inputs_changes_nobody_elses() -> None:
    kept: list[Image] = []
    before = (SOURCE.copy(), TARGET.copy())

    def vandal(source: Image, target: Image) -> Image:
        for array in [*everything_under(source), *everything_under(target)]:
            array[...] = 0
            kept.append(array)
        return target

    def late(source: Image, target: Image) -> Image:
        for array in kept:
            array[...] = 77
        return target

    workers = [Negative(), FunctionWorker("vandal", vandal), FunctionWorker("late", late), Brighter("last")]
    results = pool_of(*workers, max_workers=1).execute_parallel(DATA)
    for array in kept:
        array[...] = 99
    assert np.array_equal(results[0].value, 255 - TARGET)  # type: ignore[arg-type]
    assert not results[1].value.any()  # type: ignore[union-attr]
    assert np.array_equal(results[2].value, TARGET)  # type: ignore[arg-type]
    assert facts(results[3]) == facts(pool_of(Brighter("last")).execute_parallel(DATA)[0])
    assert np.array_equal(SOURCE, before[0])
    assert np.array_equal(TARGET, before[1])


def test_an_input_that_is_returned_and_a_buffer_that_is_used_again_are_copied() -> None:
    buffer = np.zeros(TARGET.shape, np.uint8)
    seen: list[Image] = []

    def same_buffer(source: Image, target: Image) -> Image:
        buffer[...] = target[0, 0, 0]
        return buffer

    def its_input(source: Image, target: Image) -> Image:
        seen.append(target)
        return target

    pool = pool_of(FunctionWorker("buffer", same_buffer), FunctionWorker("input", its_input), max_workers=1)
    first = pool.execute_parallel({"source": SOURCE, "target": np.full_like(TARGET, 1)})
    second = pool.execute_parallel({"source": SOURCE, "target": np.full_like(TARGET, 2)})
    for target in seen:
        target[...] = 0
    assert [int(r.value.max()) for r in (*first, *second) if r.value is not None] == [1, 1, 2, 2]


def test_a_confidence_that_is_measured_destructively_does_not_change_the_picture() -> None:
    class Destructive(Negative):
        def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
            result[...] = 0
            return 1.0

    (result,) = pool_of(Destructive()).execute_parallel(DATA)
    assert np.array_equal(result.value, 255 - TARGET)  # type: ignore[arg-type]


class ReadsOnly(Worker):
    worker_id = "reads only"
    reads_only = True

    def __init__(self, process: Callable[[Mapping[str, Image]], Image]) -> None:
        self._process = process

    def process(self, data: Mapping[str, Image]) -> Image:
        return self._process(data)


def test_a_worker_that_promises_to_read_only_is_held_to_it() -> None:
    def breaks_its_promise(data: Mapping[str, Image]) -> Image:
        target = data["target"]
        target[...] = 0
        return target

    def tries_harder(data: Mapping[str, Image]) -> Image:
        for array in everything_under(data["target"]):
            array.setflags(write=True)
        return data["target"]

    def puts_another_in_its_place(data: Mapping[str, Image]) -> Image:
        data["target"] = 0 * data["target"]  # type: ignore[index]
        return data["target"]

    attempts = {breaks_its_promise: "ValueError", tries_harder: "ValueError", puts_another_in_its_place: "TypeError"}
    for attempt, error_type in attempts.items():
        result, other = pool_of(ReadsOnly(attempt), Negative(), max_workers=1).execute_parallel(DATA)
        assert failure_of(result).error_type == error_type
        assert np.array_equal(other.value, 255 - TARGET)  # type: ignore[arg-type]


def test_a_picture_that_the_host_changes_afterwards_is_not_changed_in_the_request() -> None:
    target = TARGET.copy()
    request = WorkerRequest(SOURCE, target, "a group")
    target[...] = 0
    assert np.array_equal(request["target"], TARGET)
    assert (list(request), len(request), group_of(request)) == (["source", "target", "group"], 3, "a group")
    assert group_of(WorkerRequest(SOURCE, TARGET)) is None


def test_what_workers_share_is_computed_once_per_request() -> None:
    calls: list[str] = []

    def lab() -> int:
        calls.append("lab")
        time.sleep(0.02)
        return len(calls)

    request = WorkerRequest(SOURCE, TARGET)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: shared(request, "lab", lab), range(8))) == {1}
    assert shared(request, "other", lambda: None) is None
    with pytest.raises(ValueError, match="read-only"):
        shared(request, "array", lambda: np.zeros(3))[0] = 1.0
    assert shared(request, "nested", lambda: shared(request, "lab", lab)) == 1
    assert shared(WorkerRequest(SOURCE, TARGET), "lab", lab) == 2
    assert [shared(DATA, "lab", lab), shared(DATA, "lab", lab)] == [3, 4]  # a plain mapping remembers nothing


# --- results of a host's own pool -----------------------------------------------------------------------------------


class TheirResult:
    def __init__(self, value: Any = TARGET, confidence: Any = 0.5, worker_id: Any = "theirs", **more: Any) -> None:
        self.value, self.confidence, self.worker_id = value, confidence, worker_id
        vars(self).update(more)

    def is_valid(self) -> bool:
        return not hasattr(self, "error") and not hasattr(self, "failure") and not hasattr(self, "silent")


def test_a_foreign_result_becomes_one_of_ours_with_a_copy_of_its_picture() -> None:
    theirs = TheirResult(TARGET[::-1], np.float32(0.25))
    assert isinstance(theirs, WorkerResultLike)
    ours = checked_result(theirs, TARGET)
    assert ours.is_valid()
    assert (ours.worker_id, ours.confidence, ours.seconds) == ("theirs", 0.25, 0.0)
    assert np.array_equal(ours.value, TARGET[::-1])  # type: ignore[arg-type]
    assert not np.shares_memory(ours.value, TARGET)


def test_of_two_faults_the_picture_is_named() -> None:
    assert failure_of(checked_result(TheirResult(None, None), TARGET)).kind == "bad_output"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"error": "it broke"}, "it broke"),
        ({"error": OwnError("it broke")}, "it broke"),
        ({"error": "", "failure": "or so"}, "or so"),
        ({"error": None}, "its pool called it invalid"),
        ({"silent": True}, "its pool called it invalid"),
        ({"silent": True, "metadata": {"error": "no model"}}, "no model"),
        ({"error": None, "metadata": {"error": OwnError("no model")}}, "no model"),
        ({"error": "it broke", "metadata": {"error": "or so"}}, "it broke"),
        ({"silent": True, "metadata": {"seconds": 3}}, "its pool called it invalid"),
        ({"silent": True, "metadata": "error"}, "its pool called it invalid"),
        ({"silent": True, "metadata": None}, "its pool called it invalid"),
        ({"error": UnspeakableError()}, "(it could not be shown: OwnError)"),
        ({"error": "x" * 1000}, "x" * 499 + "…"),
    ],
)
def test_a_foreign_failure_keeps_the_reason_that_its_pool_gives(more: dict[str, Any], message: str) -> None:
    failure = failure_of(checked_result(TheirResult(**more), TARGET))
    assert (failure.kind, failure.error_type, failure.message) == ("raised", "invalid result", message)


def test_a_foreign_result_without_a_picture_keeps_its_reason_even_if_it_calls_itself_valid() -> None:
    failure = failure_of(checked_result(TheirResult(None, metadata={"error": "no model"}), TARGET))
    assert failure == WorkerFailure("raised", "invalid result", "no model")
    assert failure_of(checked_result(TheirResult(None, metadata={}), TARGET)).kind == "bad_output"


def test_our_own_results_pass_as_they_are() -> None:
    pool = pool_of(Negative(), FunctionWorker("bad", raising(OwnError("no luck"))))
    late = WorkerResult("late", None, 0.0, WorkerFailure("timed_out", "time limit", "too late"), 3.0)
    familiar = WorkerResult("familiar", TARGET, 0.5, None, 3.0, 0.25)
    for ours in (*pool.execute_parallel(DATA), late, familiar):
        again = checked_result(ours, TARGET)
        assert facts(again) == facts(ours)
        assert (again.seconds, again.familiarity) == (ours.seconds, ours.familiarity)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0)])
def test_a_foreign_picture_that_is_called_invalid_for_its_confidence_of_0_alone_is_valid(zero: Any) -> None:
    result = checked_result(TheirResult(confidence=zero, silent=True), TARGET)
    assert (result.is_valid(), str(result.confidence)) == (True, "0.0")
    for more in ({"error": "a reason"}, {"metadata": {"error": "a reason"}}):
        told = TheirResult(confidence=zero, silent=True, **more)
        assert failure_of(checked_result(told, TARGET)).message == "a reason"
    assert failure_of(checked_result(TheirResult(None, zero, silent=True), TARGET)).error_type == "invalid result"
    assert failure_of(checked_result(TheirResult("picture", zero, silent=True), TARGET)).kind == "bad_output"


def test_a_confidence_of_0_is_no_failure_in_a_training_whoever_runs_the_workers(tmp_path: Path) -> None:
    class HostPool:
        def execute_parallel(self, data: dict[str, Image]) -> list[Any]:
            unsure = TheirResult(brighter(data["target"], 30), 0.0, "unsure", silent=True)
            return [unsure, TheirResult(data["target"], worker_id="sure")]

    for pool in (HostPool(), pool_of(Brighter("unsure", 30, 0.0), Brighter("sure", 0))):
        manager = manager_with(tmp_path, examples=2, pool=pool)
        manager.train(validation_split=0.0, verbose=False)
        for example in manager.data_manager.get_all_examples():
            outcome = (example.worker_results or {})["unsure"]
            assert (outcome["is_valid"], outcome["confidence"], outcome["error"]) == (True, 0.0, None)
            assert outcome["accuracy"] is not None
        assert manager.weight_learner.get_statistics("unsure")["failure_count"] == 0


class VandalsPool:
    """A host's own pool, which hands one dictionary to workers of which some write into their inputs."""

    def __init__(self, vandals: str, *, is_threaded: bool) -> None:
        self.vandals, self.is_threaded = vandals, is_threaded

    def execute_parallel(self, data: dict[str, Image]) -> list[TheirResult]:
        with ThreadPoolExecutor(4 if self.is_threaded else 1) as threads:
            return list(threads.map(lambda name: self.answer(name, data), [*self.vandals, "honest", "also honest"]))

    def answer(self, name: str, data: dict[str, Image]) -> TheirResult:
        source, target = data["source"], data["target"]
        if name not in self.vandals:
            return TheirResult(brighter(target, len(name)), 1.0, name)
        try:
            for array in [*everything_under(source), *everything_under(target)]:
                array.setflags(write=True)
                array[...] = 0
        except ValueError as error:
            return TheirResult(None, 0.0, name, silent=True, metadata={"error": str(error)})
        return TheirResult(target, 1.0, name)


@pytest.mark.parametrize("is_threaded", [False, True])
def test_a_worker_of_a_foreign_pool_that_writes_into_its_inputs_fails_and_spoils_nothing(
    tmp_path: Path, *, is_threaded: bool
) -> None:
    seen = []
    for vandals in ("", "xyz"):
        manager = manager_with(tmp_path, examples=2, pool=VandalsPool(vandals, is_threaded=is_threaded))
        manager.train(validation_split=0.0, verbose=False)
        rows = [example.worker_results or {} for example in manager.data_manager.get_all_examples()]
        assert [row[name]["is_valid"] for row in rows for name in vandals] == [False] * 2 * len(vandals)
        assert all("WRITEABLE" in str(row[name]["error"]) for row in rows for name in vandals)
        answers = manager.predict(SOURCE, TARGET, run_all=True).results
        seen.append(
            [[row[name]["accuracy"] for row in rows] + [facts(answers[name])] for name in ("honest", "also honest")]
        )
    assert seen[0] == seen[1]
    assert np.array_equal(TARGET, TARGET_BEFORE)


def test_a_foreign_result_that_raises_when_looked_at_is_a_failure() -> None:
    class Broken(TheirResult):
        @property
        def value(self) -> Any:
            raise OwnError("gone")

        @value.setter
        def value(self, value: Any) -> None:
            pass

    assert failure_of(checked_result(Broken(), TARGET)) == WorkerFailure("raised", "OwnError", "gone")


@pytest.mark.parametrize("worker_id", ["", "a\n", "\ud800", "a" * 129])
def test_a_foreign_id_that_no_store_could_keep_is_an_error(worker_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match="worker_id must be 1 to 128 printable characters"):
        checked_result(TheirResult(worker_id=worker_id), TARGET)


def test_a_foreign_id_need_not_be_text() -> None:
    assert checked_result(TheirResult(worker_id=7), TARGET).worker_id == "7"


@pytest.mark.parametrize("error", [OwnError, SystemExit, GeneratorExit])
def test_a_foreign_pool_that_raises_or_exits_is_named(error: type[BaseException]) -> None:
    with pytest.raises(WorkerPoolError, match=f"failed \\({error.__name__}"):
        ask_pool(SimpleNamespace(execute_parallel=raising(error)), SOURCE, TARGET)


# --- time limits ----------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Hanging(Worker):
    """Gives no answer until it is let go, on pictures whose first value is at most `most`."""

    worker_id: str = "hanging"
    time_limit: float | None = None
    most: int = 255
    _go: threading.Event = attrs.field(factory=threading.Event)
    _begun: list[int] = attrs.field(factory=list)

    def process(self, data: Mapping[str, Image]) -> Image:
        self._begun.append(1)
        if data["target"][0, 0, 0] <= self.most:
            self._go.wait(PATIENT)
        return brighter(data["target"], 30)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    worker = Hanging(time_limit=0.05)
    yield worker
    worker._go.set()
    for thread in threading.enumerate():
        if thread.name == "tsm-worker":
            thread.join(PATIENT)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True, b"1", 10**400])
def test_a_time_limit_is_a_finite_number_above_0(value: Any) -> None:
    message = "must be a finite number of seconds above 0, or None for no limit, got"
    with pytest.raises(InvalidArgumentError, match=f"time_limit {message}"):
        ThreadRunner(value)
    with pytest.raises(InvalidArgumentError, match=f"time_limit {message}"):
        FunctionWorker("w", unchanged, time_limit=value)
    with pytest.raises(InvalidArgumentError, match=f"time_limit of worker 'hanging' {message}"):
        pool_of(Hanging(time_limit=value))
    with pytest.raises(InvalidArgumentError, match="time_limit of worker 'hanging'"):
        ThreadRunner().check([Hanging(time_limit=value)])


@pytest.mark.parametrize("value", [None, 5, ThreadRunner, object()])
def test_a_runner_is_something_that_checks_and_runs(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="runner must be a WorkerRunner, such as ThreadRunner"):
        WorkerPool(runner=value)
    assert isinstance(ThreadRunner(), WorkerRunner)


def test_a_worker_that_takes_too_long_is_given_up_and_its_late_answer_dropped(hanging: Hanging) -> None:
    pool = pool_of(hanging, Negative())
    result, beside = pool.execute_parallel(DATA)
    assert failure_of(result) == WorkerFailure("timed_out", "time limit", "gave no answer within 0.05 s")
    assert result.seconds >= 0.05
    assert beside.is_valid()
    hanging._go.set()
    assert failure_of(result).kind == "timed_out"


def test_a_worker_that_was_given_up_is_not_started_again_before_it_has_come_back(hanging: Hanging) -> None:
    pool = pool_of(hanging, Negative())
    pool.execute_parallel(DATA)
    result, beside = pool.execute_parallel(DATA)
    assert failure_of(result).message == (
        "not started: an earlier call was given up after 0.05 s and has not come back yet"
    )
    assert (len(hanging._begun), result.seconds) == (1, 0.0)
    assert beside.is_valid()
    assert pool_of(Hanging(most=-1)).execute_parallel(DATA)[0].is_valid()  # another worker of that name
    hanging._go.set()
    for thread in threading.enumerate():
        if thread.name == "tsm-worker":
            thread.join(PATIENT)
    (result, _beside) = pool.execute_parallel(DATA)
    assert result.is_valid()


def test_a_worker_within_its_limit_does_what_it_does_without() -> None:
    workers = [Negative(), Brighter("w"), FunctionWorker("bad", raising(SystemExit(3)))]
    seen = []
    for limit in (None, PATIENT):
        pool = WorkerPool(runner=ThreadRunner(limit))
        for worker in workers:
            pool.register_worker(worker)
        seen.append([facts(result) for result in pool.execute_parallel(DATA)])
    assert seen[0] == seen[1]


def test_a_workers_own_limit_outranks_that_of_the_runner(hanging: Hanging) -> None:
    assert failure_of(ThreadRunner(PATIENT).run(hanging, WorkerRequest(SOURCE, TARGET))).kind == "timed_out"


def test_results_do_not_depend_on_a_time_limit_so_neither_do_fingerprints() -> None:
    assert describe_object(Hanging(time_limit=1.0)) == describe_object(Hanging(time_limit=None))
    assert describe_object(Hanging(most=1)) != describe_object(Hanging(most=2))
    with_limit, without = FunctionWorker("w", unchanged, time_limit=5.0), FunctionWorker("w", unchanged)
    assert describe_object(with_limit) == describe_object(without)


def test_an_error_while_waiting_leaves_the_worker_benched(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ThreadRunner(PATIENT)
    worker = attrs.evolve(hanging, time_limit=PATIENT)
    monkeypatch.setattr(threading, "_SHUTTING_DOWN", True)
    with pytest.raises(ExecutorError, match="has ended, because the interpreter is about to exit"):
        runner.run(worker, WorkerRequest(SOURCE, TARGET))
    assert "not started" in failure_of(runner.run(worker, WorkerRequest(SOURCE, TARGET))).message


def test_a_copy_of_a_runner_knows_nothing_of_calls_elsewhere(hanging: Hanging) -> None:
    runner = ThreadRunner(0.05)
    runner.run(hanging, WorkerRequest(SOURCE, TARGET))
    again = pickle.loads(pickle.dumps(runner))
    assert again.time_limit == 0.05
    assert failure_of(again.run(hanging, WorkerRequest(SOURCE, TARGET))).message == "gave no answer within 0.05 s"


def test_where_no_thread_can_be_started_nobody_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ExecutorError, match="cannot start a thread: can't start new thread"):
        ThreadRunner(1.0).run(Negative(), WorkerRequest(SOURCE, TARGET))
    with pytest.raises(ExecutorError, match="cannot start a worker: can't start new thread"):
        pool_of(Negative()).execute_parallel(DATA)


def test_what_took_too_long_counts_but_is_not_kept_so_that_the_next_training_tries_again(
    tmp_path: Path, hanging: Hanging
) -> None:
    pool = pool_of(brightening("near", 22), brightening("far", -60), failing("broken"), hanging)
    manager = manager_with(tmp_path, examples=2, pool=pool)
    for reevaluate in (False, True):
        manager.train(validation_split=0.0, verbose=False, reevaluate=reevaluate)
        assert manager.weight_learner.get_weight("hanging") < 1.0
        for example in manager.data_manager.get_all_examples():
            results = example.worker_results or {}
            assert str(results["hanging"]["error"]).startswith("timed_out: time limit: ")
            assert str(results["broken"]["error"]).startswith("raised: ")
        session = manager.data_manager.get_all_sessions()[0]
        rows = [row for row in manager.data_manager.iterate_metrics(session.session_id) if row.worker_id == "hanging"]
        assert [row.accuracy for row in rows] == [None, None]
        is_stored = {(e["worker_id"], e["is_stored"]) for e in manager.training_engine.explain_cache()}
        assert is_stored == {("near", True), ("far", True), ("broken", True), ("hanging", False)}
    hanging._go.set()
    for thread in threading.enumerate():
        if thread.name == "tsm-worker":
            thread.join(PATIENT)
    manager.train(validation_split=0.0, verbose=False)
    assert all(e["is_stored"] for e in manager.training_engine.explain_cache())
    outcome = (manager.data_manager.get_all_examples()[0].worker_results or {})["hanging"]
    assert outcome["is_valid"]
    assert manager.weight_learner.get_statistics("hanging")["failure_count"] == 0


def test_an_interrupted_training_with_a_hanging_worker_ends_like_one_that_was_not(
    tmp_path: Path, hanging: Hanging
) -> None:
    pool = pool_of(brightening("near", 22), brightening("far", -60), hanging)
    undisturbed = manager_with(tmp_path, examples=3, pool=pool)
    undisturbed.train(validation_split=0.0, verbose=False)
    manager = manager_with(tmp_path, examples=3, pool=pool)
    done: list[Progress] = []
    with pytest.raises(TrainingStoppedError):
        manager.train(validation_split=0.0, verbose=False, on_progress=done.append, should_stop=lambda: bool(done))
    manager.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_all_weights() == undisturbed.weight_learner.get_all_weights()


# --- leaving while workers hang -------------------------------------------------------------------------------------

HOST = """
import signal, sys, threading, time
import numpy as np
from tsm_training import BayesianWeightLearner, FunctionWorker, ThreadRunner, TrainingManager, WorkerPool
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us in the background
PICTURES = {"source": np.zeros((4, 5, 3), np.uint8), "target": np.ones((4, 5, 3), np.uint8)}
def hang(source, target):
    print("hanging", flush=True)
    while True:
        time.sleep(0.01)
"""


def host(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOST + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_fifty_hanging_workers_do_not_keep_the_interpreter_from_exiting() -> None:
    process = host(
        """
pool = WorkerPool(max_workers=50, runner=ThreadRunner(0.3))
for number in range(50):
    pool.register_worker(FunctionWorker(f"worker {number}", hang))
kinds = {result.failure.kind for result in pool.execute_parallel(PICTURES)}
print(kinds, threading.active_count() - 1, flush=True)
"""
    )
    output, errors = process.communicate(timeout=PATIENT)
    assert output.splitlines()[-1] == "{'timed_out'} 50"
    assert (errors, process.returncode) == ("", 0)


CTRL_C = {
    "asked": "pool.execute_parallel(PICTURES)",
    "predicting": "manager.predict(PICTURES['source'], PICTURES['target'])",
    "training": "manager.train(validation_split=0.0, verbose=False)",
}


@pytest.mark.slow
@pytest.mark.parametrize("act", CTRL_C)
def test_ctrl_c_does_not_wait_for_a_hanging_worker(act: str, tmp_path: Path) -> None:
    manager_with(tmp_path, examples=1, db_path=tmp_path / "x.db").close()
    process = host(
        f"""
pool = WorkerPool(runner=ThreadRunner({PATIENT}))
pool.register_worker(FunctionWorker("hanging", hang))
manager = TrainingManager(pool, BayesianWeightLearner(), sys.argv[1])
try:
    {CTRL_C[act]}
except KeyboardInterrupt:
    print("back", flush=True)
""",
        str(tmp_path / "x.db"),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENT)
    assert (output, process.returncode) == ("back\n", 0)
    assert time.monotonic() - pressed < 10.0
    assert "Error" not in errors  # a training says on its way out that it can go on


@pytest.mark.slow
def test_training_while_the_interpreter_exits_is_a_named_error_with_nothing_half_done(tmp_path: Path) -> None:
    manager_with(tmp_path, examples=1, db_path=tmp_path / "x.db").close()
    process = host(
        """
import atexit
pool = WorkerPool()
pool.register_worker(FunctionWorker("good", lambda source, target: target))
manager = TrainingManager(pool, BayesianWeightLearner(), sys.argv[1])
def late():
    for act in (lambda: manager.train(verbose=False), lambda: pool.execute_parallel(PICTURES)):
        try:
            act()
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
atexit.register(late)
""",
        str(tmp_path / "x.db"),
    )
    output, errors = process.communicate(timeout=PATIENT)
    assert (errors, process.returncode) == ("", 0)
    first, second = output.splitlines()
    assert first.startswith("ExecutorError: the executor ThreadPoolExecutor takes no work: cannot schedule new futures")
    assert second.startswith("ExecutorError: the executor of the worker pool cannot start a worker: cannot schedule")
    manager = manager_with(tmp_path, examples=0, db_path=tmp_path / "x.db")
    (session,) = manager.data_manager.get_all_sessions()
    assert session.status == "failed"
    assert str(session.error).startswith("ExecutorError: ")
    manager.close()


# --- executors that fail --------------------------------------------------------------------------------------------


class Odd(Executor):
    """Does something odd with what it is given."""

    def __init__(self, odd: Callable[[Future[Any]], None]) -> None:
        self.odd = odd

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.odd(future)
        return future


def fails_with(error: BaseException) -> Callable[[Future[Any]], None]:
    return lambda future: future.set_exception(error)


def test_an_executor_that_takes_no_work_ends_the_training_by_name(tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor)
    manager = manager_with(tmp_path, examples=2, engine_factory=factory)
    manager.validate()
    manager.add_training_example(*save_triple(tmp_path, 77))
    executor.shutdown()
    with pytest.raises(ExecutorError, match="ThreadPoolExecutor takes no work: cannot schedule new futures after shut"):
        manager.train(verbose=False)
    (session,) = manager.data_manager.get_all_sessions()
    assert (session.status, str(session.error)[:14]) == ("failed", "ExecutorError:")
    assert sum(entry["is_stored"] for entry in manager.training_engine.explain_cache()) == 6


def dying(_source: Image, _target: Image) -> Image:
    os._exit(3)


@pytest.mark.slow
def test_a_process_pool_that_breaks_down_ends_the_training_by_name(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        factory = TrainingEngine.using(GuideSimilarity(), executor=executor)
        manager = manager_with(tmp_path, pool=pool_of(FunctionWorker("dying", dying)), engine_factory=factory)
        with pytest.raises(ExecutorError, match=r"ProcessPoolExecutor has broken down: .*must be importable there"):
            manager.train(verbose=False)
        with pytest.raises(ExecutorError, match="ProcessPoolExecutor takes no work"):
            manager.train(verbose=False)
    assert [session.status for session in manager.data_manager.get_all_sessions()] == ["failed", "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["worker 'lambda'", "the judge", "the pool's runner"])
def test_what_cannot_travel_to_another_process_is_named(part: str, tmp_path: Path) -> None:
    class Local(ThreadRunner):
        def __reduce__(self) -> tuple[Any, ...]:
            raise TypeError("cannot pickle it")

    worker = FunctionWorker("lambda", (lambda _s, t: t) if part.startswith("worker") else unchanged)
    pool = WorkerPool(runner=Local() if "runner" in part else ThreadRunner())
    pool.register_worker(worker)
    metric = (lambda _a, _b: 0.5) if part == "the judge" else GuideSimilarity()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        factory = TrainingEngine.using(metric, executor=executor)
        manager = manager_with(tmp_path, examples=1, pool=pool, engine_factory=factory)
        with pytest.raises(ExecutorError, match=f"ProcessPoolExecutor cannot be sent {part}: "):
            manager.train(verbose=False)


def test_an_executor_may_refuse_what_it_cannot_pickle_at_once(tmp_path: Path) -> None:
    def refuse(_future: Future[Any]) -> None:
        raise TypeError("cannot pickle it")

    factory = TrainingEngine.using(GuideSimilarity(), executor=Odd(refuse))
    pool = pool_of(FunctionWorker("lambda", lambda _s, t: t))
    with pytest.raises(ExecutorError, match="executor Odd cannot be sent worker 'lambda': cannot pickle it"):
        manager_with(tmp_path, examples=1, pool=pool, engine_factory=factory).train(verbose=False)
    with pytest.raises(TypeError, match="cannot pickle it"):  # not a question of pickling, whatever it says
        manager_with(tmp_path, examples=1, engine_factory=factory).train(verbose=False)


def test_an_executor_that_drops_examples_is_named(tmp_path: Path) -> None:
    def cancel(future: Future[Any]) -> None:
        future.cancel()
        future.set_running_or_notify_cancel()

    factory = TrainingEngine.using(GuideSimilarity(), executor=Odd(cancel))
    with pytest.raises(ExecutorError, match="executor Odd has dropped an example that it had accepted"):
        manager_with(tmp_path, examples=1, engine_factory=factory).train(verbose=False)


@pytest.mark.parametrize("error", [TypeError("a slip"), AttributeError("a slip"), ZeroDivisionError("a slip")])
def test_an_error_of_our_own_making_is_not_put_down_to_the_executor(error: Exception, tmp_path: Path) -> None:
    factory = TrainingEngine.using(GuideSimilarity(), executor=Odd(fails_with(error)))
    with pytest.raises(type(error), match="a slip"):
        manager_with(tmp_path, examples=1, engine_factory=factory).train(verbose=False)


# --- functions that work in another form ------------------------------------------------------------------------------


def run_function(function: Callable[[Any, Any], Any], **form: Any) -> WorkerResult:
    return run_worker(FunctionWorker("tried", function, **form), WorkerRequest(SOURCE, TARGET))


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "float32"), (np.dtype("uint8"), "uint8")])
def test_a_form_may_be_named_by_a_type_of_numpy(dtype: Any, name: str) -> None:
    assert FunctionWorker("w", lambda s, t: t, dtype=dtype).dtype == name
    with pytest.raises(InvalidArgumentError, match="dtype"):
        FunctionWorker("w", lambda s, t: t, dtype=np.float64)  # type: ignore[arg-type]


@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_function_gets_its_pictures_in_the_form_it_wants_and_gives_them_back_in_it(color: Any, dtype: Any) -> None:
    seen = []

    def looking(source: Any, target: Any) -> Any:
        seen.extend([source, target])
        return target

    result = run_function(looking, color=color, dtype=dtype)
    assert np.array_equal(result.value, TARGET)  # type: ignore[arg-type]
    for picture, got in zip((SOURCE, TARGET), seen, strict=True):
        expected = picture[..., ::-1] if color == "rgb" else picture
        assert got.dtype == np.dtype(dtype)
        assert got.flags.writeable
        assert np.array_equal(got, expected if dtype == "uint8" else expected.astype(np.float32) / np.float32(255))


def test_every_level_survives_the_way_through_floats() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    worker = FunctionWorker("same", lambda _s, t: t, dtype="float32")
    assert np.array_equal(worker.process({"source": levels, "target": levels}), levels)


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_floats_of_any_precision_are_rounded_and_clipped(precision: type) -> None:
    def overshooting(_source: Any, target: Any) -> Any:
        answer = np.full(target.shape, 0.5, precision)
        answer[0, 0] = -0.2, 1.3, 0.299
        return answer

    value = run_function(overshooting, color="rgb", dtype="float32").value
    assert value is not None
    assert value[0, 0].tolist() == [76, 255, 0]
    assert (value[1:] == 128).all()


@pytest.mark.parametrize(
    ("answer", "error_type", "told"),
    [
        (np.full(TARGET.shape, np.nan), "not finite", "np.maximum"),
        (np.full(TARGET.shape, np.inf, np.float32), "not finite", "np.maximum"),
        (np.ma.masked_invalid(np.full(TARGET.shape, np.nan)), "not finite", "np.maximum"),
        (TARGET.astype(np.float32), "out of range", "divide by the value of white"),
        (TARGET, "wrong type", "got an array of dtype uint8"),
        (None, "wrong type", "got a NoneType"),
        (TARGET[:, :, 0] / 255, "wrong type", "shape (6, 8)"),
        (TARGET[:3] / 255, "wrong size", "expected the target's 8×6"),
    ],
)
def test_what_a_function_of_floats_may_not_return_is_a_bad_output_with_a_cure(
    answer: Any, error_type: str, told: str
) -> None:
    failure = failure_of(run_function(lambda _s, _t: answer, color="rgb", dtype="float32"))
    assert (failure.kind, failure.error_type) == ("bad_output", error_type)
    assert told in failure.message


def test_a_function_of_bytes_that_returns_floats_is_told_the_form_for_them() -> None:
    assert "FunctionWorker(…, dtype='float32')" in failure_of(run_function(lambda _s, t: t / 255)).message


def by_zero(_source: Any, target: Any) -> Any:
    spread = np.zeros(3)
    with np.errstate(divide="ignore", invalid="ignore"):
        changed = (target - target.astype(float)) / spread
    return changed.clip(0, 255).round().astype("uint8")


def test_bytes_that_were_cast_from_what_is_not_finite_are_no_answer() -> None:
    failure = failure_of(run_function(by_zero))
    assert (failure.kind, failure.error_type) == ("bad_output", "not finite")
    assert "np.maximum" in failure.message


@pytest.mark.parametrize("usual", ["warn", "ignore", "raise"])
def test_what_numpy_does_about_other_invalid_operations_stays_as_the_host_wants_it(usual: Any) -> None:
    def mended(_source: Any, target: Any) -> Any:
        return np.nan_to_num(target - target.astype(float) / np.zeros(1), nan=9.0, posinf=9.0, neginf=9.0).astype(
            "uint8"
        )

    zeros = np.zeros_like(TARGET)
    worker = FunctionWorker("mended", mended)
    with np.errstate(invalid=usual, divide="ignore"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run_worker(worker, WorkerRequest(zeros, zeros))
    assert [(str(each.message), each.filename) for each in caught] == (
        [("invalid value encountered in divide", __file__)] if usual == "warn" else []
    )
    if usual == "raise":
        assert failure_of(result).error_type == "FloatingPointError"
    else:
        assert (result.value == 9).all()


def test_the_form_belongs_to_a_workers_fingerprint() -> None:
    forms = [{}, {"color": "rgb"}, {"dtype": "float32"}, {"color": "rgb", "dtype": "float32"}]
    assert len({describe_object(FunctionWorker("w", unchanged, **form)) for form in forms}) == len(forms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "value"), [("color", "RGB"), ("color", None), ("dtype", "float64"), ("dtype", np.float64)]
)
def test_an_unknown_form_is_refused(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{argument} must be '"):
        FunctionWorker("w", unchanged, **{argument: value})


def test_a_worker_of_another_form_survives_pickling() -> None:
    worker = FunctionWorker("w", by_zero, color="rgb", dtype="float32")
    copy = pickle.loads(pickle.dumps(worker))
    assert (copy.color, copy.dtype) == ("rgb", "float32")
