"""Running one worker, and checking what it or a foreign pool gives."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from tsm_training.arrays import Image, image_fault
from tsm_training.errors import WorkerPoolError
from tsm_training.workers.records import (
    FailureKind,
    WorkerFailure,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    WorkerResultLike,
)
from tsm_training.workers.worker import Worker, check_worker_id

__all__ = ["ask_pool", "check_again", "checked_result", "failed", "run_worker", "shown"]

_MAX_MESSAGE_LENGTH: Final = 500


def run_worker(worker: Worker, request: WorkerRequest) -> WorkerResult:
    """Run one worker on one request and check its answer; whatever it does becomes a result.

    The worker gets writable copies of its own unless it promises to read only. A picture that is not ``uint8`` H×W×3 of
    the target's size and a confidence outside [0, 1] are failures: a worker's wrong output should lose, not be mended.

    Raises:
        KeyboardInterrupt: only when this runs in the main thread, where it is the user's Ctrl-C.
    """
    started = time.perf_counter()
    worker_id = worker.worker_id
    value: Image | None = None
    confidence = 0.0
    familiarity: float | None = None
    try:
        reads_only = worker.reads_only
        data = request if reads_only else _private_copies(request)
        output = worker.process(data)
        failure = _output_fault(output, request["target"])
        if failure is None:
            value = _plain_copy(output)
            confidence, failure = _checked_confidence(worker.get_confidence(data, output))
            familiarity = _checked_familiarity(worker.get_familiarity(data, output))
    except BaseException as error:  # SystemExit from a worker must not end the host
        if _is_the_users(error):
            raise
        failure = WorkerFailure("raised", type(error).__name__, shown(error))
    seconds = time.perf_counter() - started
    if failure is not None:
        return WorkerResult(worker_id, None, 0.0, failure, seconds)
    return WorkerResult(worker_id, value, confidence, None, seconds, familiarity)


def _private_copies(request: WorkerRequest) -> dict[str, Image]:
    pictures = {role: request[role].copy() for role in ("source", "target")}
    return {**request, **pictures}


def _checked_familiarity(value: object) -> float | None:
    """Return a number in [0, 1] as it is, and nothing for anything else: nothing depends on it."""
    number, fault = (0.0, True) if value is None else _checked_confidence(value)
    return None if fault else number


def _is_the_users(error: BaseException) -> bool:
    """Tell a Ctrl-C, which Python raises in the main thread only, from an interrupt that a worker raised."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def failed(worker_id: str, kind: FailureKind, error_type: str, message: object, seconds: float) -> WorkerResult:
    """Return the result of a worker that gave no usable picture."""
    return WorkerResult(worker_id, None, 0.0, WorkerFailure(kind, error_type, shown(message)), seconds)


def ask_pool(pool: WorkerPoolLike, source: Image, target: Image) -> list[WorkerResult]:
    """Ask a pool that is not ours to run all its workers on copies of two pictures; results come by worker id.

    Args:
        pool: The host's own.
        source: Gives the colours: uint8, H×W×3, BGR.
        target: Is changed: uint8, H×W×3, BGR.

    Raises:
        WorkerPoolError: it raises, or returns something else than one result per worker.
    """
    name = type(pool).__qualname__
    try:
        answers = list(pool.execute_parallel({"source": source.copy(), "target": target.copy()}))
        results = sorted((checked_result(answer, target) for answer in answers), key=lambda r: r.worker_id)
    except (Exception, SystemExit, GeneratorExit) as error:  # the last two must not end the host
        raise WorkerPoolError(name, f"failed ({type(error).__name__}: {shown(error)})") from error
    if not results:
        raise WorkerPoolError(name, "returned no results")
    repeated = [r.worker_id for r, after in itertools.pairwise(results) if r.worker_id == after.worker_id]
    if repeated:
        raise WorkerPoolError(name, f"returned several results of worker {repeated[0]!r}")
    return results


def checked_result(result: WorkerResultLike, target: Image) -> WorkerResult:
    """Turn a foreign pool's result into one of ours, holding its picture and confidence to the same rules.

    Args:
        result: What the pool returned for one worker.
        target: The picture that was to be changed: uint8, H×W×3, BGR.

    Raises:
        InvalidArgumentError: its worker id is empty, too long or holds control characters.
    """
    worker_id = str(result.worker_id)
    check_worker_id(worker_id)
    try:
        value, confidence, fault = _checked_answer(result, target)
    except Exception as error:
        value, confidence, fault = None, 0.0, WorkerFailure("raised", type(error).__name__, shown(error))
    return WorkerResult(worker_id, value, confidence, fault)


def _checked_answer(result: WorkerResultLike, target: Image) -> tuple[Image | None, float, WorkerFailure | None]:
    if not result.is_valid():
        reason = getattr(result, "error", None) or getattr(result, "failure", None) or "its pool called it invalid"
        return None, 0.0, WorkerFailure("raised", "invalid result", shown(reason))
    output = result.value
    confidence, confidence_fault = _checked_confidence(result.confidence)
    fault = _output_fault(output, target) or confidence_fault
    return (None, 0.0, fault) if fault is not None else (_plain_copy(output), confidence, None)


def check_again(result: WorkerResult, target: Image) -> WorkerResult:
    """Hold a result that other code may have had a hand in to the rules once more; what passes is not copied."""
    if result.failure is not None:
        return result
    confidence, confidence_fault = _checked_confidence(result.confidence)
    fault = _output_fault(result.value, target) or confidence_fault
    if fault is not None:
        return WorkerResult(result.worker_id, None, 0.0, fault, result.seconds)
    familiarity = _checked_familiarity(result.familiarity)
    return WorkerResult(result.worker_id, result.value, confidence, None, result.seconds, familiarity)


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
            number = float(cast("Any", value))  # whether it has a value is what is being found out
    if 0.0 <= number <= 1.0:
        return number + 0.0, None  # not −0.0, whose sign a database does not keep
    seen = shown(value, repr)
    return 0.0, WorkerFailure("bad_confidence", "out of range", f"expected a number in [0, 1], got {seen}")


def shown(value: object, show: Callable[[object], str] = str) -> str:
    """Return a text that any store can hold, whatever a worker raised or returned."""
    try:
        text = show(value)
    except BaseException as error:  # a foreign __str__ may do anything
        if _is_the_users(error):
            raise
        text = f"(it could not be shown: {type(error).__name__})"
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates cannot be stored
    return text if len(text) <= _MAX_MESSAGE_LENGTH else text[: _MAX_MESSAGE_LENGTH - 1] + "…"
