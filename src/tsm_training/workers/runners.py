"""How a worker is run: in threads, with a time limit if there is one; other ways follow the same protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from tsm_training.errors import ExecutorError
from tsm_training.workers.records import WorkerRequest, WorkerResult
from tsm_training.workers.running import failed, run_worker
from tsm_training.workers.worker import Worker, time_limit_of, valid_time_limit

__all__ = ["LOOK_AROUND_SECONDS", "ThreadRunner", "WorkerRunner", "check_not_leaving", "timed_out"]

LOOK_AROUND_SECONDS: Final = 0.1
"""How often someone who waits for a worker looks whether waiting still makes sense."""


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


def timed_out(worker_id: str, limit: float, seconds: float) -> WorkerResult:
    """Return the result of a worker that gave no answer in time."""
    return failed(worker_id, "timed_out", "time limit", f"gave no answer within {limit:g} s", seconds)


class _Call:
    """One call of a worker in a thread of its own, for which nobody waits at exit."""

    def __init__(self, worker: Worker, request: WorkerRequest) -> None:
        self._result: WorkerResult | None = None
        self._has_ended = threading.Event()
        self.thread = threading.Thread(target=self._work, args=(worker, request), name="tsm-worker", daemon=True)
        try:
            self.thread.start()
        except RuntimeError as error:
            raise ExecutorError("of workers", f"cannot start a thread: {error}") from error

    def _work(self, worker: Worker, request: WorkerRequest) -> None:
        self._result = run_worker(worker, request)
        self._has_ended.set()

    def wait(self, limit: float) -> WorkerResult | None:
        """Return the result, or None if there is none within `limit` seconds.

        Raises:
            ExecutorError: the interpreter is about to exit.
        """
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0.0:
            if self._has_ended.wait(min(left, LOOK_AROUND_SECONDS)):
                return self._result
            check_not_leaving()
        return None


class _Unreturned:
    """The calls that were given up and have not come back, by worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, tuple[Worker, list[threading.Thread]]] = {}

    def add(self, worker: Worker, thread: threading.Thread) -> None:
        with self._lock:
            self._calls.setdefault(id(worker), (worker, []))[1].append(thread)

    def include(self, worker: Worker) -> bool:
        with self._lock:
            _worker, threads = self._calls.get(id(worker), (worker, []))
            if any(thread.is_alive() for thread in threads):
                return True
            self._calls.pop(id(worker), None)
            return False


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
    _unreturned: _Unreturned = attrs.field(factory=_Unreturned, init=False, repr=False)

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
        if self._unreturned.include(worker):
            message = f"not started: an earlier call was given up after {limit:g} s and has not come back yet"
            return failed(worker.worker_id, "timed_out", "time limit", message, 0.0)
        call = _Call(worker, request)
        started = time.monotonic()
        try:
            result = call.wait(limit)
        except BaseException:  # Ctrl-C: whoever pressed it wants to go on now
            self._unreturned.add(worker, call.thread)
            raise
        if result is None:
            self._unreturned.add(worker, call.thread)
            return timed_out(worker.worker_id, limit, time.monotonic() - started)
        return result
