"""Running workers: one call and the check of its answer, a host's own pool, and runners with time limits."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import attrs
import numpy as np

from tsm_training.arrays import Image, frozen_copy, image_fault
from tsm_training.errors import ExecutorError, WorkerPoolError
from tsm_training.images import ColorTable
from tsm_training.workers.records import (
    WorkerFailure,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    WorkerResultLike,
)
from tsm_training.workers.worker import (
    NOT_FINITE,
    UnusableOutputError,
    Worker,
    check_worker_id,
    time_limit_of,
    valid_time_limit,
)

T = TypeVar("T")

LOOK_AROUND_SECONDS: Final = 0.1
"""How often a thread that waits for a worker checks whether waiting still makes sense."""

_MAX_MESSAGE_LENGTH: Final = 500
_ROUNDING: Final = 1e-6
"""By how much a sum of shares may exceed 1."""


# --- one call and the check of its answer ---------------------------------------------------------------------------

_Answer: TypeAlias = tuple[Image | ColorTable, float, float | None, Mapping[str, float] | None]
"""A picture, or the table that makes it of the target; the confidence in it, how familiar its look is, and which
examples are behind it."""


class _UnusableError(Exception):
    """An answer cannot be used; the arguments are kind, type and message of the failure to record."""


def run_worker(worker: Worker, request: WorkerRequest) -> WorkerResult:
    """Run one worker on one request and check its answer; whatever it does becomes a result.

    The worker gets writable copies of its own unless it promises to read only. A picture that is not ``uint8`` H×W×3 of
    the target's size and a confidence outside [0, 1] are failures: a worker's wrong output should lose, not be mended.

    Raises:
        KeyboardInterrupt: only when this runs in the main thread, where it is the user's Ctrl-C.
    """

    def answer() -> _Answer:
        data: Mapping[str, Image] = request
        if not worker.reads_only:
            data = {**request, "source": request["source"].copy(), "target": request["target"].copy()}
        table = worker.get_color_table(data) if request.is_prediction and _speaks_for_process(worker) else None
        output = request["target"] if table is not None else worker.process(data)
        # A picture is copied before the worker sees its output again.
        made = _picture(output, request["target"]) if table is None else _table(table)
        confidence = _confidence(worker.get_confidence(data, output))
        influence = worker.get_influence(data, output) if request.is_prediction else None
        return made, confidence, _familiarity(worker.get_familiarity(data, output)), _influence(influence)

    # Once NaN is cast to bytes it looks like any other picture.
    with np.errstate(invalid="log", call=_CastWatch(np.geterr()["invalid"])):
        return _outcome(worker.worker_id, answer, request["target"])


def _speaks_for_process(worker: Worker) -> bool:
    """Tell whether a worker's tables were written together with its `process`, or after it: not inherited around it."""
    classes = type(worker).__mro__
    table, process = (next(c for c in classes if name in vars(c)) for name in ("get_color_table", "process"))
    return issubclass(table, process)


@attrs.frozen
class _CastWatch:
    """What NumPy tells of invalid operations: casting what is not finite to whole numbers is a failure.

    All else goes on as the host has set it up.
    """

    usual: str
    """What NumPy would do."""

    def write(self, message: str) -> None:
        """Raise UnusableOutputError for a cast; warn, or raise, of other operations where NumPy would have done so."""
        text = message.removeprefix("Warning: ").strip()
        if text.endswith("in cast"):
            raise UnusableOutputError("not finite", f"it cast to whole numbers {NOT_FINITE}")
        if self.usual == "raise":
            raise FloatingPointError(text)
        if self.usual == "warn":
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def checked_result(result: WorkerResultLike, target: Image) -> WorkerResult:
    """Turn what a foreign pool or another process answered into a result, held to the rules of `run_worker`.

    A result that calls itself invalid or has no picture is a failure, for the reason under ``error``, ``failure`` or
    ``metadata["error"]``. Some hosts call a picture invalid because its confidence is 0; without a reason it counts as
    a valid picture with confidence 0, which adds no evidence.

    Args:
        result: What was answered for one worker.
        target: The picture that was to be changed: uint8, H×W×3, BGR.

    Raises:
        InvalidArgumentError: its worker id is empty, too long or holds control characters.
    """
    worker_id = str(result.worker_id)
    check_worker_id(worker_id)

    def answer() -> _Answer:
        is_valid = result.is_valid()
        has_table = isinstance(result, WorkerResult) and result.table is not None
        if not is_valid or (not has_table and result.value is None):
            metadata: object = getattr(result, "metadata", None)
            told = metadata.get("error") if isinstance(metadata, Mapping) else None
            reason: object = getattr(result, "error", None) or getattr(result, "failure", None) or told
            if isinstance(reason, WorkerFailure):
                raise _UnusableError(reason.kind, reason.error_type, reason.message)
            if reason or (not is_valid and (result.value is None or result.confidence != 0)):
                raise _UnusableError("raised", "invalid result", reason or "its pool called it invalid")
        table = result.table if isinstance(result, WorkerResult) else None
        made = _picture(result.value, target) if table is None else _table(table)
        confidence = _confidence(result.confidence)
        familiarity, influence = (getattr(result, name, None) for name in ("familiarity", "influence"))
        return made, confidence, _familiarity(familiarity), _influence(influence)

    seconds = result.seconds if isinstance(result, WorkerResult) else 0.0
    return attrs.evolve(_outcome(worker_id, answer, target), seconds=seconds)


def _outcome(worker_id: str, answer: Callable[[], _Answer], target: Image) -> WorkerResult:
    started = time.perf_counter()
    try:
        made, confidence, familiarity, influence = answer()
        seconds = time.perf_counter() - started
        result = WorkerResult(worker_id, None, confidence, None, seconds, familiarity, influence)
        if isinstance(made, ColorTable):
            return attrs.evolve(result, table=made, target=target)
        return attrs.evolve(result, value=made)
    except _UnusableError as error:
        kind, error_type, message = error.args
        failure = WorkerFailure(kind, error_type, shown(message))
    except UnusableOutputError as error:
        failure = WorkerFailure("bad_output", error.error_type, shown(error))
    except BaseException as error:  # SystemExit from a worker must not end the host
        if _is_the_users(error):
            raise
        failure = WorkerFailure("raised", type(error).__name__, shown(error))
    return WorkerResult(worker_id, None, 0.0, failure, time.perf_counter() - started)


def _table(table: object) -> ColorTable:
    if not isinstance(table, ColorTable):
        raise _UnusableError("bad_output", "wrong type", f"expected a ColorTable or None, got {type(table).__name__}")
    return table


def _picture(output: object, target: Image) -> Image:
    """Return a contiguous copy; a subclass of array (masked, memory-mapped) becomes an ordinary one."""
    fault = image_fault(output)
    if fault is not None:
        is_float = isinstance(output, np.ndarray) and output.dtype.kind == "f"
        cure = "; for a function that works with floats from 0 to 1: FunctionWorker(…, dtype='float32')"
        expected = f"expected a uint8 array of shape (H, W, 3), got {fault}{cure if is_float else ''}"
        raise _UnusableError("bad_output", "wrong type", expected)
    picture = cast("Image", output)
    if picture.shape != target.shape:
        expected, seen = (f"{shape[1]}×{shape[0]}" for shape in (target.shape, picture.shape))
        raise _UnusableError("bad_output", "wrong size", f"expected the target's {expected}, got {seen} (width×height)")
    return np.array(picture, np.uint8, order="C")


def _confidence(value: object) -> float:
    number = math.nan
    # float() takes text, and arrays of one element with a warning.
    if not isinstance(value, (str, bytes, bytearray, bool, np.bool_, np.ndarray)):
        with contextlib.suppress(Exception):  # a foreign __float__ may do anything
            number = float(cast("Any", value))  # whether it has a value is what is being found out
    if not 0.0 <= number <= 1.0:
        seen = shown(value, repr)
        raise _UnusableError("bad_confidence", "out of range", f"expected a number in [0, 1], got {seen}")
    return number + 0.0  # not −0.0, whose sign a database does not keep


def _familiarity(value: object) -> float | None:
    """Return a number in [0, 1] as it is, and None for anything else: nothing depends on it."""
    try:
        return _confidence(value)
    except _UnusableError:
        return None


def _influence(value: object) -> dict[str, float] | None:
    """Return numbers of at least 0 with a sum of at most 1 by text; None for anything else: nothing depends on it."""
    if not isinstance(value, Mapping) or not all(isinstance(digest, str) for digest in value):
        return None
    parts = {digest: _familiarity(part) for digest, part in value.items()}
    known = {digest: part for digest, part in parts.items() if part is not None}
    return known if len(known) == len(parts) and math.fsum(known.values()) <= 1.0 + _ROUNDING else None


def _is_the_users(error: BaseException) -> bool:
    """Tell a Ctrl-C, which Python raises in the main thread only, from an interrupt that a worker raised."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def timed_out(limit: float) -> WorkerFailure:
    """Return the failure of a worker that gave no answer within `limit` seconds."""
    return WorkerFailure("timed_out", "time limit", f"gave no answer within {limit:g} s")


def shown(value: object, show: Callable[[object], str] = str) -> str:
    """Return a text that any store can hold, whatever a worker raised or returned."""
    try:
        text = show(value)
    except BaseException as error:  # a foreign __str__ may do anything
        if _is_the_users(error):
            raise
        text = f"(it could not be shown: {type(error).__name__})"
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates cannot be stored
    text = text.replace("\0", "\\x00")  # nor can this, on a database server
    return text if len(text) <= _MAX_MESSAGE_LENGTH else text[: _MAX_MESSAGE_LENGTH - 1] + "…"


# --- a host's own pool ----------------------------------------------------------------------------------------------


def ask_pool(pool: WorkerPoolLike, source: Image, target: Image) -> list[WorkerResult]:
    """Ask a pool that is not ours to run all its workers on two pictures, read-only; results come by worker id.

    Args:
        pool: The host's own.
        source: Gives the colours: uint8, H×W×3, BGR.
        target: Is changed: uint8, H×W×3, BGR.

    Raises:
        WorkerPoolError: it raises, or returns something else than one result per worker.
    """
    name = type(pool).__qualname__
    try:
        answers = list(pool.execute_parallel({"source": frozen_copy(source), "target": frozen_copy(target)}))
        results = sorted((checked_result(answer, target) for answer in answers), key=lambda r: r.worker_id)
    except (Exception, SystemExit, GeneratorExit) as error:  # the last two must not end the host
        raise WorkerPoolError(name, f"failed ({type(error).__name__}: {shown(error)})") from error
    if not results:
        raise WorkerPoolError(name, "returned no results")
    repeated = [r.worker_id for r, after in itertools.pairwise(results) if r.worker_id == after.worker_id]
    if repeated:
        raise WorkerPoolError(name, f"returned several results of worker {repeated[0]!r}")
    return results


# --- runners --------------------------------------------------------------------------------------------------------


@runtime_checkable
class WorkerRunner(Protocol):
    """A way of running one worker on one request; it is called from several threads at once."""

    def check(self, workers: Sequence[Worker], /) -> None:
        """Make sure, before any work begins, that these workers can be run in this way.

        Raises:
            TsmTrainingError: one cannot.
        """
        ...

    def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
        """Run a worker and return what came of it; whatever the worker does becomes a result, never an exception."""
        ...


def check_not_leaving() -> None:
    """Raise ExecutorError if the interpreter is about to exit.

    It then waits for all threads of pools, which must not wait for hanging workers in their turn.
    """
    # There is no public way to tell as long as the pools' threads are waited for. Without the flag, that waiting lasts.
    if getattr(threading, "_SHUTTING_DOWN", False) or not threading.main_thread().is_alive():
        raise ExecutorError("of workers", "has ended, because the interpreter is about to exit")


class BackgroundCall(Generic[T]):
    """A function call in a thread of its own that does not keep the interpreter from exiting.

    Args:
        function: What is called; it must not return None.
        arguments: What it is called with.

    Raises:
        ExecutorError: no thread can be started.
    """

    def __init__(self, function: Callable[..., T], *arguments: object) -> None:
        self._future: Future[T] = Future()
        self.thread: threading.Thread = threading.Thread(
            target=self._work, args=(function, arguments), name="tsm-worker", daemon=True
        )
        """The thread that it runs in."""
        try:
            self.thread.start()
        except RuntimeError as error:
            raise ExecutorError("of workers", f"cannot start a thread: {error}") from error

    def _work(self, function: Callable[..., T], arguments: tuple[object, ...]) -> None:
        try:
            self._future.set_result(function(*arguments))
        except BaseException as error:
            self._future.set_exception(error)

    def wait(self, limit: float | None, look_around: Callable[[], None] = check_not_leaving) -> T | None:
        """Return what the function returns, or None if it has not within `limit` seconds.

        Args:
            limit: None to wait for ever.
            look_around: Called ten times a second; what it raises ends the waiting.

        Raises:
            BaseException: what the function raises, or `look_around`.
        """
        deadline = math.inf if limit is None else time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0.0:
            wait([self._future], min(left, LOOK_AROUND_SECONDS))
            if self._future.done():
                return self._future.result()
            look_around()
        return None


@attrs.frozen(eq=False)
class ThreadRunner:
    """Runs workers in threads of this process.

    Without a limit a worker is run in the thread that asks for it. With one it runs in a thread of its own; when its
    time is over it is given up: the failure is recorded, and what it may still return is dropped. Python cannot end a
    thread, so the call goes on in the background. Until it has come back, this worker is not started again here: its
    further examples are recorded as ``timed_out`` at once. Such a thread does not keep the interpreter from exiting.

    A worker that never lets go of Python's global lock (C code in an endless loop) stops everything, this runner too.
    To be safe from that, run workers with `tsm_training.isolation.IsolatedRunner`.

    Args:
        time_limit: How many seconds one call may take, unless the worker has a limit of its own; None for any.

    Raises:
        InvalidArgumentError: `time_limit` is not a finite number above 0.
    """

    time_limit: float | None = attrs.field(default=None, validator=valid_time_limit)
    _given_up: list[tuple[Worker, threading.Thread]] = attrs.field(factory=list, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ThreadRunner, (self.time_limit,)  # calls of this process concern nobody elsewhere

    def check(self, workers: Sequence[Worker], /) -> None:
        """Make sure that the workers' own time limits can be used.

        Raises:
            InvalidArgumentError: one is not a finite number above 0.
        """
        for worker in workers:
            time_limit_of(worker, self.time_limit)

    def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
        """Run a worker, in a thread of its own if there is a limit to its time.

        Raises:
            InvalidArgumentError: the worker's own time limit is not a finite number above 0.
            ExecutorError: no thread can be started, or the interpreter is about to exit.
        """
        limit = time_limit_of(worker, self.time_limit)
        if limit is None:
            return run_worker(worker, request)
        with self._lock:
            self._given_up[:] = [(each, thread) for each, thread in self._given_up if thread.is_alive()]
            is_benched = any(each is worker for each, _thread in self._given_up)
        if is_benched:
            message = f"not started: an earlier call was given up after {limit:g} s and has not come back yet"
            return WorkerResult(worker.worker_id, None, 0.0, WorkerFailure("timed_out", "time limit", message))
        started = time.monotonic()
        call = BackgroundCall(run_worker, worker, request)
        result = None
        try:
            result = call.wait(limit)
        finally:  # also after a Ctrl-C: whoever pressed it wants to go on now
            if result is None:
                with self._lock:
                    self._given_up.append((worker, call.thread))
        return result or WorkerResult(worker.worker_id, None, 0.0, timed_out(limit), time.monotonic() - started)
