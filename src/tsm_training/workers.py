"""Workers, their results, and the pool that runs all of them on one request."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import attrs
import numpy as np

from tsm_training.arguments import at_least, check_callable
from tsm_training.arrays import Image, check_image, frozen_copy, image_fault
from tsm_training.errors import (
    DuplicateWorkerError,
    InvalidArgumentError,
    NoWorkersError,
    WorkerNotFoundError,
    WorkerPoolError,
)

__all__ = [
    "FailureKind",
    "FunctionWorker",
    "Worker",
    "WorkerFailure",
    "WorkerPool",
    "WorkerPoolLike",
    "WorkerRequest",
    "WorkerResult",
    "WorkerResultLike",
    "ask_pool",
    "checked_result",
    "run_worker",
    "shared",
]

T = TypeVar("T")

FailureKind: TypeAlias = Literal["raised", "bad_output", "bad_confidence"]
"""How a worker failed: it raised, or its picture or its confidence cannot be used."""

_MAX_ID_LENGTH: Final = 128
_MAX_MESSAGE_LENGTH: Final = 500


# --- what one request is and what comes back ------------------------------------------------------------------------


class WorkerRequest(dict[str, Image]):
    """The two pictures of one request under ``'source'`` and ``'target'``, with a memo that workers may share.

    Both pictures are ``uint8``, H×W×3, BGR, and read-only for good. Several workers start from the same conversions of
    the same pictures (Lab, say); `shared` computes each of them once per request, whichever thread asks first.
    """

    def __init__(self, source: Image, target: Image) -> None:
        super().__init__(source=frozen_copy(source), target=frozen_copy(target))
        self._memo: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value under `key`, computing it on the first call; it must never be changed afterwards."""
        with self._lock:
            if key not in self._memo:
                self._memo[key] = compute()
            return cast("T", self._memo[key])


def shared(data: Mapping[str, Image], key: Hashable, compute: Callable[[], T]) -> T:
    """Return what `compute` gives, once per request where `data` can remember it, anew where it is a plain mapping."""
    return data.shared(key, compute) if isinstance(data, WorkerRequest) else compute()


@attrs.frozen
class WorkerFailure:
    """Why a worker gave no usable picture."""

    kind: FailureKind
    error_type: str
    """The exception's class name, or the name of the check that failed."""
    message: str
    """At most 500 characters."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.error_type}: {self.message}"


@attrs.frozen(eq=False)
class WorkerResult:
    """What one worker made of one request."""

    worker_id: str
    value: Image | None
    """The picture (uint8, H×W×3, BGR, the target's size), or None where the worker failed."""
    confidence: float = 1.0
    """The worker's own confidence in this picture, in [0, 1]."""
    failure: WorkerFailure | None = None
    seconds: float = 0.0
    """Wall-clock time that the worker took."""

    def is_valid(self) -> bool:
        """Tell whether there is a picture to use."""
        return self.value is not None and self.failure is None


@runtime_checkable
class WorkerResultLike(Protocol):
    """What the library needs of a result, so that a host's own pool may return its own objects."""

    @property
    def worker_id(self) -> str:
        """The id of the worker that answered."""
        ...

    @property
    def value(self) -> Any:
        """The picture: uint8, H×W×3, BGR, the target's size; checked before use."""
        ...

    @property
    def confidence(self) -> float:
        """The worker's own confidence, in [0, 1]."""
        ...

    def is_valid(self) -> bool:
        """Tell whether the worker succeeded."""
        ...


@runtime_checkable
class WorkerPoolLike(Protocol):
    """What the library needs of a pool: one method.

    `execute_parallel` gets a dictionary with the keys ``'source'`` and ``'target'`` (uint8, H×W×3, BGR) and returns one
    result per worker, in any order. It is called from one thread at a time.
    """

    def execute_parallel(self, data: dict[str, Image], /) -> Sequence[WorkerResultLike]:
        """Run every worker on one request and return their results."""
        ...


# --- workers --------------------------------------------------------------------------------------------------------


class Worker(ABC):
    """An image algorithm of the ensemble. Subclass it, name it, and implement `process`.

    >>> class Negative(Worker):
    ...     worker_id = "negative"
    ...     def process(self, data):
    ...         return 255 - data["target"]

    Settings belong in attrs fields (decorate the subclass with ``@attrs.frozen``): they become part of the worker's
    fingerprint, so that changing one makes old evaluations of this worker invalid. Examples are evaluated in several
    threads at once, so `process` and `get_confidence` must not keep state between calls without a lock.
    """

    @property
    @abstractmethod
    def worker_id(self) -> str:
        """The name under which weights, metrics and evaluations of this worker are kept; a class attribute will do."""

    @property
    def version(self) -> str:
        """Change this (a class attribute will do) when the worker's results change, to have it evaluated afresh."""
        return ""

    @property
    def reads_only(self) -> bool:
        """True promises that `process` never writes into its inputs; it then gets them without a copy, read-only."""
        return False

    @abstractmethod
    def process(self, data: Mapping[str, Image]) -> Image:
        """Answer one request.

        Args:
            data: ``data["source"]`` gives the colours, ``data["target"]`` is the picture to change; both ``uint8``,
                H×W×3, BGR. Their sizes may differ.

        Returns:
            A new picture, ``uint8``, BGR, of exactly the target's height and width.

        Raises:
            Exception: anything; it is recorded as this worker's failure on this example and disturbs nobody else.
        """

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        """Say how sure the worker is of `result`, in [0, 1]. Low confidence makes evidence count less."""
        return 1.0


@attrs.frozen
class FunctionWorker(Worker):
    """Makes a worker of a function ``f(source, target) -> picture`` (all uint8, H×W×3, BGR).

    Args:
        worker_id: The worker's name.
        function: Called with two writable pictures of its own; several threads may call it at once.
        version: Change it when the function's results change for a reason that its own source does not show.
    """

    worker_id: str
    function: Callable[[Image, Image], Image] = attrs.field()
    version: str = ""

    @function.validator
    def _check_function(self, _attribute: object, value: object) -> None:
        check_callable("function", value, "a function (source, target) -> picture")

    def process(self, data: Mapping[str, Image]) -> Image:
        """Call the function with source and target (uint8, H×W×3, BGR); whatever it raises is passed on."""
        return self.function(data["source"], data["target"])


def run_worker(worker: Worker, request: WorkerRequest) -> WorkerResult:
    """Run one worker on one request and check its answer; whatever it does becomes a result.

    The worker gets writable copies of its own unless it promises to read only. A picture that is not ``uint8`` H×W×3 of
    the target's size and a confidence outside [0, 1] are failures: a worker's wrong output should lose, not be mended.

    Raises:
        KeyboardInterrupt: only when this runs in the main thread, where it is the user's Ctrl-C.
    """
    started = time.perf_counter()
    value: Image | None = None
    confidence = 0.0
    failure: WorkerFailure | None = None
    data: Mapping[str, Image] = request
    if not worker.reads_only:
        data = {name: picture.copy() for name, picture in request.items()}
    try:
        output = worker.process(data)
        failure = _output_fault(output, request["target"])
        if failure is None:
            value = _plain_copy(output)
            confidence, failure = _checked_confidence(worker.get_confidence(data, output))
    except BaseException as error:
        # SystemExit from a worker must not end the host. A KeyboardInterrupt in the main thread is the user's.
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        failure = WorkerFailure("raised", type(error).__name__, _capped(error))
    seconds = time.perf_counter() - started
    if failure is not None:
        return WorkerResult(worker.worker_id, None, 0.0, failure, seconds)
    return WorkerResult(worker.worker_id, value, confidence, None, seconds)


def ask_pool(pool: WorkerPoolLike, source: Image, target: Image) -> list[WorkerResult]:
    """Ask a pool that is not ours to run all its workers on copies of two pictures; results come by worker id.

    Raises:
        WorkerPoolError: it raises, or returns something else than one result per worker.
    """
    name = type(pool).__qualname__
    try:
        answers = list(pool.execute_parallel({"source": source.copy(), "target": target.copy()}))
        results = sorted((checked_result(answer, target) for answer in answers), key=lambda r: r.worker_id)
    except Exception as error:
        raise WorkerPoolError(name, f"failed ({type(error).__name__}: {_capped(error)})") from error
    if not results:
        raise WorkerPoolError(name, "returned no results")
    repeated = [r.worker_id for r, after in itertools.pairwise(results) if r.worker_id == after.worker_id]
    if repeated:
        raise WorkerPoolError(name, f"returned several results of worker {repeated[0]!r}")
    return results


def checked_result(result: WorkerResultLike, target: Image) -> WorkerResult:
    """Turn a foreign pool's result into one of ours, holding its picture and confidence to the same rules.

    Raises:
        InvalidArgumentError: its worker id is empty, too long or holds control characters.
    """
    worker_id = str(result.worker_id)
    _check_worker_id(worker_id)
    try:
        value, confidence, fault = _checked_answer(result, target)
    except Exception as error:
        value, confidence, fault = None, 0.0, WorkerFailure("raised", type(error).__name__, _capped(error))
    return WorkerResult(worker_id, value, confidence, fault)


def _checked_answer(result: WorkerResultLike, target: Image) -> tuple[Image | None, float, WorkerFailure | None]:
    if not result.is_valid():
        reason = getattr(result, "error", None) or getattr(result, "failure", None) or "its pool called it invalid"
        return None, 0.0, WorkerFailure("raised", "invalid result", _capped(reason))
    output = result.value
    confidence, confidence_fault = _checked_confidence(result.confidence)
    fault = _output_fault(output, target) or confidence_fault
    return (None, 0.0, fault) if fault is not None else (_plain_copy(output), confidence, None)


def _plain_copy(output: Image) -> Image:
    """Return a contiguous copy; a subclass of array (masked, memory-mapped) becomes an ordinary one."""
    return np.array(output, np.uint8, order="C")


def _output_fault(output: object, target: Image) -> WorkerFailure | None:
    fault = image_fault(output)
    if fault is not None:
        return WorkerFailure("bad_output", "wrong type", f"expected a uint8 array of shape (H, W, 3), got {fault}")
    shape = cast("Image", output).shape
    if shape != target.shape:
        expected, seen = (f"{s[1]}×{s[0]}" for s in (target.shape, shape))
        return WorkerFailure("bad_output", "wrong size", f"expected the target's {expected}, got {seen} (width×height)")
    return None


def _checked_confidence(value: object) -> tuple[float, WorkerFailure | None]:
    number = math.nan
    # float() takes text, and arrays of one element with a warning.
    if not isinstance(value, (str, bytes, bytearray, bool, np.bool_, np.ndarray)):
        with contextlib.suppress(Exception):  # a foreign __float__ may do anything
            number = float(value)  # type: ignore[arg-type]  # that is what is being found out
    if 0.0 <= number <= 1.0:
        return number, None
    seen = _capped(value, repr)
    return 0.0, WorkerFailure("bad_confidence", "out of range", f"expected a number in [0, 1], got {seen}")


def _capped(value: object, shown: Callable[[object], str] = str) -> str:
    """Return a text that any store can hold, whatever a worker raised or returned."""
    try:
        text = shown(value)
    except Exception as error:  # a foreign __str__ may do anything
        text = f"(it could not be shown: {type(error).__name__})"
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates cannot be stored
    return text if len(text) <= _MAX_MESSAGE_LENGTH else text[: _MAX_MESSAGE_LENGTH - 1] + "…"


# --- the pool -------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class WorkerPool:
    """The registered workers, and a way to run all of them on one request.

    Args:
        max_workers: How many workers `execute_parallel` runs at the same time, at least 1.

    Raises:
        InvalidArgumentError: `max_workers` is not a whole number of at least 1.
    """

    max_workers: int = attrs.field(default=10, validator=at_least(1))
    _registry: dict[str, Worker] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The registered workers, in order of registration."""
        with self._lock:
            return tuple(self._registry.values())

    def register_worker(self, worker: Worker) -> None:
        """Add a worker.

        Raises:
            InvalidArgumentError: it is no `Worker`, or its id is empty, too long or holds control characters.
            DuplicateWorkerError: its id is taken.
        """
        if not isinstance(worker, Worker):
            raise InvalidArgumentError(
                "worker", worker, 'a Worker (wrap a function with FunctionWorker("id", function))'
            )
        _check_worker_id(worker.worker_id)
        with self._lock:
            if worker.worker_id in self._registry:
                raise DuplicateWorkerError(worker.worker_id)
            self._registry[worker.worker_id] = worker

    def unregister_worker(self, worker_id: str) -> Worker:
        """Take a worker out and return it; what was learned about it stays where it is.

        Raises:
            WorkerNotFoundError: no registered worker has that id.
        """
        with self._lock:
            if worker_id not in self._registry:
                raise WorkerNotFoundError(worker_id)
            return self._registry.pop(worker_id)

    def get_worker(self, worker_id: str) -> Worker:
        """Return the worker with that id.

        Raises:
            WorkerNotFoundError: no registered worker has that id.
        """
        with self._lock:
            if worker_id not in self._registry:
                raise WorkerNotFoundError(worker_id)
            return self._registry[worker_id]

    def execute_parallel(self, data: Mapping[str, Image], /) -> list[WorkerResult]:
        """Run every worker on one request and return their results in order of registration.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each uint8, H×W×3, BGR.

        Raises:
            NoWorkersError: no worker is registered.
            InvalidArgumentError: a picture is missing or is none.
        """
        return self.execute(data)

    def execute(self, data: Mapping[str, Image], /, worker_ids: Iterable[str] | None = None) -> list[WorkerResult]:
        """Do what `execute_parallel` does for some of the workers only (all of them if `worker_ids` is None)."""
        wanted = None if worker_ids is None else frozenset(worker_ids)
        workers = [w for w in self.workers if wanted is None or w.worker_id in wanted]
        if not workers:
            raise NoWorkersError
        request = _as_request(data)
        # A pool of threads per request: it costs a fraction of a millisecond, leaves nothing behind for a fork or for
        # the interpreter's exit, and lets a worker call the pool again without waiting for itself.
        with ThreadPoolExecutor(min(self.max_workers, len(workers)), "tsm-worker") as threads:
            return list(threads.map(lambda worker: run_worker(worker, request), workers))


def _as_request(data: object) -> WorkerRequest:
    if isinstance(data, WorkerRequest):
        return data
    if not isinstance(data, Mapping) or not data.keys() >= {"source", "target"}:
        seen = list(data) if isinstance(data, Mapping) else data
        raise InvalidArgumentError("data", seen, "a mapping with the keys 'source' and 'target'")
    return WorkerRequest(check_image(data["source"], "data['source']"), check_image(data["target"], "data['target']"))


def _check_worker_id(worker_id: object) -> None:
    usable = (
        isinstance(worker_id, str)
        and 0 < len(worker_id) <= _MAX_ID_LENGTH
        and worker_id.isprintable()
        and worker_id.strip() == worker_id
    )
    if not usable:
        raise InvalidArgumentError(
            "worker_id", worker_id, f"1 to {_MAX_ID_LENGTH} printable characters without spaces at the ends"
        )
