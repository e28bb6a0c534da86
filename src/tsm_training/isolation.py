"""Workers in processes of their own: one that hangs, crashes or eats the memory costs one recorded failure.

It needs the extra ``isolation``: loky starts processes without importing the host's script again, and cloudpickle
carries workers that were made in a script or a notebook. Isolation protects from accidents, not from malice: what a
process answers is unpickled here, and it has the rights of its host.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import multiprocessing.process
import multiprocessing.util
import os
import pickle
import queue
import signal
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from tsm_training.arguments import check_limit
from tsm_training.arrays import Image
from tsm_training.errors import ExecutorError, InvalidArgumentError, MissingExtraError, WorkerNotIsolatableError
from tsm_training.forking import guard_forks
from tsm_training.workers import (
    LOOK_AROUND_SECONDS,
    BackgroundCall,
    Worker,
    WorkerFailure,
    WorkerRequest,
    WorkerResult,
    check_not_leaving,
    checked_result,
    group_of,
    run_worker,
    shown,
    time_limit_of,
    timed_out,
    valid_time_limit,
)

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["IsolatedRunner"]

_START_SECONDS: Final = 60.0
"""How long a process may take to start, or to unpickle a worker; what takes longer will never answer."""
_GRACE_SECONDS: Final = 0.3
"""How long a process that has closed its connection may take to end."""
_WATCH_SECONDS: Final = 1.0
_LEAST_MEMORY: Final = 16 << 20
"""With less, a process cannot even answer."""
_MOST_MEMORY: Final = 1 << 60
_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the latter only, and it is as final there
_PROTOCOL: Final = 5  # pictures that are read-only here are read-only, and not copied again, where they arrive


# --- in the child ---------------------------------------------------------------------------------------------------

_workers: dict[str, Worker] = {}
"""The workers that this process has unpickled, by worker id."""


def _serve(connection: Connection, memory_limit: int | None) -> None:
    """Do what the host asks until the host is gone."""
    host, process_id = os.getppid(), os.getpid()
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:  # also while a worker is busy: the host may be killed meanwhile
        try:
            while os.getppid() == host:  # the connection tells at once, unless a fork of the host holds it open
                if connection.poll(_WATCH_SECONDS):
                    requests.put(connection.recv_bytes())
        finally:
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the host
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # one that hangs in C code would never get to a handler of Python's
    threading.Thread(target=listen, daemon=True).start()
    if memory_limit is not None:
        resource = importlib.import_module("resource")  # not on every system
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_limit,) * 2)
    with contextlib.suppress(OSError):  # a worker has closed the connection
        while True:
            answer = _answer(requests.get())
            if os.getpid() != process_id:  # a worker has forked, and both come back: only one of them may answer
                os._exit(0)  # pragma: no cover - in a child that the tests' process never sees
            connection.send_bytes(answer)
    os._exit(1)


def _answer(request: bytes) -> bytes:
    """Call what the host wants called; return what that returns, or the failure if it raises."""
    try:
        function, arguments = pickle.loads(request)  # noqa: S301 - the host made these bytes
        return pickle.dumps(function(*arguments), _PROTOCOL)
    except BaseException as error:  # an interrupt here is no user's
        return pickle.dumps(WorkerFailure("raised", type(error).__name__, shown(error)))


def _load(worker_id: str, data: bytes) -> None:
    _workers.pop(worker_id, None)
    worker = pickle.loads(data)  # noqa: S301 - the host made these bytes too
    if not isinstance(worker, Worker):
        raise TypeError(f"it becomes a {type(worker).__name__} there")
    _workers[worker_id] = worker


def _call(worker_id: str, source: Image, target: Image, group: str | None, is_prediction: bool) -> WorkerResult:
    result = run_worker(_workers[worker_id], WorkerRequest(source, target, group, is_prediction=is_prediction))
    return attrs.evolve(result, target=None)  # whoever asked has it


# --- one process, seen from the host --------------------------------------------------------------------------------


@attrs.define(eq=False, repr=False)
class _Pickled:
    """A worker as it travels."""

    worker: Worker
    data: bytes
    is_proven: bool = False
    """True where a process has unpickled it."""


class _Lane:
    """A process that runs one worker at a time. It is replaced when it has come to harm."""

    def __init__(self, memory_limit: int | None) -> None:
        self._memory_limit = memory_limit
        self._owner = os.getpid()
        self._process: Any = None
        self._connection: Any = None
        self.guests: dict[str, _Pickled | None] = {}
        """The workers that have been in the process, by worker id; None for one that could not be unpickled."""

    def __del__(self) -> None:
        self.end()

    def load(self, pickled: _Pickled) -> WorkerFailure | None:
        """Have the process, which is started if need be, unpickle a worker; return why that fails, or None."""
        self._start()
        worker_id = pickled.worker.worker_id
        if self.guests.get(worker_id) is pickled:
            return None
        self.guests[worker_id] = None
        failure: WorkerFailure | None = self._ask(_load, worker_id, pickled.data, limit=_START_SECONDS)
        if failure is None:
            self.guests[worker_id] = pickled
            return None
        return WorkerFailure(failure.kind, "not unpickled", f"its process could not unpickle it ({failure})")

    def run(self, pickled: _Pickled, request: WorkerRequest, limit: float | None) -> tuple[WorkerResult, bool]:
        """Run a worker; say also whether others, which were in the process before, may be to blame for its failure."""
        self._start()
        worker_id, target = pickled.worker.worker_id, request["target"]
        others = self.guests.keys() - {worker_id}
        answer: WorkerFailure | WorkerResult | None = self.load(pickled)
        started = time.monotonic()
        if answer is None:
            arguments = request["source"], target, group_of(request), request.is_prediction
            answer = self._ask(_call, worker_id, *arguments, limit=limit)
        if isinstance(answer, WorkerResult):
            result = checked_result(attrs.evolve(answer, worker_id=worker_id), target)
        else:
            result = WorkerResult(worker_id, None, 0.0, answer, time.monotonic() - started)
        failure = result.failure
        # NumPy and OpenCV have errors of their own for memory that has run out; others could not use the rest either.
        is_harmed = failure is not None and (
            failure.kind == "died"
            or failure.error_type.endswith("MemoryError")
            or "Insufficient memory" in failure.message
        )
        if is_harmed:
            self.end()
        return result, is_harmed and bool(others)

    def _start(self) -> None:
        if self._process is not None and self._process.exitcode is None:
            return
        self.end()
        self._owner = os.getpid()
        _end_all_at_exit(self._owner)
        context = importlib.import_module("loky.backend").get_context("loky")
        try:
            self._connection, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._memory_limit), daemon=True)
            with _streams_to_flush():
                process.start()
        except Exception as error:  # a daemonic process, for one, may have no children
            raise ExecutorError("of workers", f"cannot start a process: {error}") from error
        theirs.close()
        self._process = process
        # Nobody else should end it or wait for it: neither multiprocessing at exit, nor a fork of this process.
        getattr(multiprocessing.process, "_children", set()).discard(process)
        if isinstance(failure := self._ask(os.getpid, limit=_START_SECONDS), WorkerFailure):
            raise ExecutorError("of workers", f"cannot start a process: {failure}")

    def _ask(self, function: Callable[..., Any], *arguments: object, limit: float | None) -> Any:
        """Return what a function returns in the process, or the failure; where nothing comes, the process is ended.

        The connection is used in another thread: a process may stop in the middle of a request or an answer.
        """
        connection, process = self._connection, self._process
        request = pickle.dumps((function, arguments), _PROTOCOL)

        def exchange() -> bytes:
            connection.send_bytes(request)
            answer: bytes = connection.recv_bytes()
            return answer

        def look_around() -> None:
            check_not_leaving()
            if process.exitcode is not None:  # a child that the worker has forked may hold the connection open
                raise EOFError("the process has ended")

        try:
            answer = BackgroundCall(exchange).wait(limit, look_around)
            if answer is not None:
                return pickle.loads(answer)  # noqa: S301 - said in the module's docstring
            failure = timed_out(limit or 0.0)  # there is an answer where there is no limit
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            failure = _death(process, error)
        except BaseException:  # Ctrl-C: whoever pressed it wants to go on now
            self.end()
            raise
        self.end()
        return failure

    def end(self) -> None:
        """End the process, whatever it is doing; the next use starts another."""
        process, self._process, self.guests = self._process, None, {}
        if process is None:
            return
        if self._owner != os.getpid():  # in a fork: the process is the other one's, and must notice if that is killed
            self._connection.close()
            return
        if process.exitcode is None:
            with contextlib.suppress(OSError):  # it may just have ended
                os.kill(process.pid, _KILL)
        process.join()


def _death(process: Any, error: Exception) -> WorkerFailure:
    """Say how a process came to its end."""
    check_not_leaving()  # or else it was ended because the interpreter exits
    deadline = time.monotonic() + _GRACE_SECONDS
    while (code := process.exitcode) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    if code is None:
        return WorkerFailure("died", type(error).__name__, f"its process could not be used any more: {error}")
    if code >= 0:
        return WorkerFailure("died", f"exit code {code}", f"its process ended itself with exit code {code}")
    name = f"signal {-code}"
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return WorkerFailure("died", name, f"its process was ended by {name}{hint}")


@contextlib.contextmanager
def _streams_to_flush() -> Generator[None]:
    """Lend loky, which flushes the standard streams before it starts a process, a stream where there is none."""
    with contextlib.ExitStack() as lent:
        for stream, redirect in ((sys.stdout, contextlib.redirect_stdout), (sys.stderr, contextlib.redirect_stderr)):
            if getattr(stream, "closed", True):
                lent.enter_context(redirect(io.StringIO()))
        yield


# --- the runner -----------------------------------------------------------------------------------------------------

_runners: weakref.WeakValueDictionary[str, IsolatedRunner] = weakref.WeakValueDictionary()


@attrs.frozen(eq=False)
class IsolatedRunner:
    """Runs workers in processes of their own, which may come to harm.

    >>> from tsm_training import WorkerPool
    >>> pool = WorkerPool(runner=IsolatedRunner(time_limit=20.0))

    A worker that takes too long is killed with its process (``timed_out``). One that crashes the interpreter, ends it,
    or is killed by the system costs its process (``died``). Either is this worker's failure on this example and nothing
    else. Results are those of threads, to the last bit.

    Processes are started when they are first needed and used again; `close` or leaving a ``with`` block ends them, and
    so does the end of the program. A process may run several workers, one after the other. Where one dies or runs out
    of memory after others were its guests, the call is repeated once in a new process, so that nobody pays for what
    another left behind.

    A worker is sent as it is when the pool is asked or a training begins, so it must be possible to pickle it; with
    cloudpickle, that includes functions and classes of scripts and notebooks.

    Args:
        time_limit: How many seconds one call may take, unless the worker has a limit of its own; None for any. Starting
            a process and unpickling a worker do not count.
        memory_limit: How many bytes (of address space) a process may take beyond those it has when it starts, at least
            16 MiB; a worker that needs more gets a ``MemoryError``. On Linux only.
        max_processes: How many there may be at a time; None for as many as the machine has processors.

    Raises:
        InvalidArgumentError: an argument is not a number as described.
        MissingExtraError: the extra ``isolation`` is not installed.
    """

    time_limit: float | None = attrs.field(default=None, validator=valid_time_limit)
    memory_limit: int | None = None
    max_processes: int | None = None
    _token: str = attrs.field(factory=lambda: uuid.uuid4().hex, init=False, repr=False)
    _changed: threading.Condition = attrs.field(
        factory=lambda: threading.Condition(guard_forks(threading.Lock())), init=False, repr=False
    )
    _lanes: list[_Lane] = attrs.field(factory=list, init=False, repr=False)
    _idle: list[_Lane] = attrs.field(factory=list, init=False, repr=False)  # the one used last stands last
    _pickled: dict[str, _Pickled] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_limit("max_processes", self.max_processes)
        limit = check_limit("memory_limit", self.memory_limit)
        if limit is not None and not _LEAST_MEMORY <= limit <= _MOST_MEMORY:
            raise InvalidArgumentError("memory_limit", limit, f"{_LEAST_MEMORY} to {_MOST_MEMORY} bytes, or None")
        if limit is not None and not sys.platform.startswith("linux"):
            raise InvalidArgumentError("memory_limit", limit, f"None on {sys.platform}, which knows no such limit")
        if any(importlib.util.find_spec(library) is None for library in ("cloudpickle", "loky")):
            raise MissingExtraError("isolation", "IsolatedRunner")
        _runners[self._token] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._token, self.time_limit, self.memory_limit, self.max_processes)

    def __enter__(self) -> IsolatedRunner:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; those at work when their work is done. The runner can go on being used."""
        with self._changed:
            idle = list(self._idle)
            self._idle.clear()
            self._lanes.clear()
        for lane in idle:
            lane.end()

    def check(self, workers: Sequence[Worker], /) -> None:
        """Make sure, before any work begins, that a process can be given these workers.

        Raises:
            WorkerNotIsolatableError: one cannot be pickled here or unpickled there.
            InvalidArgumentError: a worker's own time limit is not a finite number above 0.
            ExecutorError: no process can be started.
        """
        for worker in workers:
            time_limit_of(worker, self.time_limit)
            pickled = self._send(worker)
            if not pickled.is_proven:
                with self._lane(worker.worker_id) as lane:
                    failure = lane.load(pickled)
                if failure is not None:
                    raise WorkerNotIsolatableError(worker.worker_id, type(worker).__qualname__, failure.message)
                pickled.is_proven = True

    def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
        """Run a worker in a process.

        Raises:
            WorkerNotIsolatableError: it cannot be pickled.
            InvalidArgumentError: the worker's own time limit is not a finite number above 0.
            ExecutorError: no process can be started, or the interpreter is about to exit.
        """
        limit = time_limit_of(worker, self.time_limit)
        pickled = self._pickled.get(worker.worker_id)
        if pickled is None or pickled.worker is not worker:
            pickled = self._send(worker)
        with self._lane(worker.worker_id) as lane:
            result, others_may_be_to_blame = lane.run(pickled, request, limit)
            if others_may_be_to_blame:
                result, _ = lane.run(pickled, request, limit)
        return result

    def _send(self, worker: Worker) -> _Pickled:
        """Return a worker as it travels now; the same as before where nothing has changed."""
        try:
            data: bytes = importlib.import_module("cloudpickle").dumps(worker)
        except (Exception, SystemExit, GeneratorExit) as error:  # a foreign __reduce__ may do anything
            reason = f"{type(error).__name__}: {shown(error)}"
            raise WorkerNotIsolatableError(worker.worker_id, type(worker).__qualname__, reason) from error
        pickled = self._pickled.get(worker.worker_id)
        if pickled is None or pickled.data != data:
            self._pickled[worker.worker_id] = pickled = _Pickled(worker, data)
        pickled.worker = worker
        return pickled

    @contextlib.contextmanager
    def _lane(self, worker_id: str) -> Generator[_Lane]:
        """Give a process for one call, if possible one that knows the worker; wait where all are busy."""
        most = self.max_processes or os.cpu_count() or 1
        with self._changed:
            while not self._idle and len(self._lanes) >= most:
                self._changed.wait(LOOK_AROUND_SECONDS)
                check_not_leaving()
            fitness = {lane: 2 if worker_id in lane.guests else int(not lane.guests) for lane in self._idle}
            lane = max(fitness, key=fitness.__getitem__, default=None)  # of equals, the oldest
            if lane is None or (not fitness[lane] and len(self._lanes) < most):
                self._lanes.append(lane := _Lane(self.memory_limit))
            else:
                self._idle.remove(lane)
        try:
            yield lane
        finally:
            with self._changed:
                is_wanted = lane in self._lanes  # unless the runner was closed meanwhile
                if is_wanted:
                    self._idle.append(lane)
                    self._changed.notify()
            if not is_wanted:
                lane.end()

    def _abandon(self) -> None:
        lanes = list(self._lanes)
        self._lanes.clear()
        self._idle.clear()
        for lane in lanes:
            lane.end()


def _end_all() -> None:
    """End all processes at once, whatever they do; in a fork, let go of those of the other process."""
    for runner in list(_runners.values()):
        runner._abandon()  # pyright: ignore[reportPrivateUsage]  # it is this module's own


getattr(os, "register_at_fork", dict)(after_in_child=_end_all)  # Windows has no forks, and nothing to register


@functools.cache
def _end_all_at_exit(_process_id: int) -> None:
    """Have this process end its processes when it exits, even if it is an executor's, where atexit does nothing."""
    multiprocessing.util.Finalize(None, _end_all, exitpriority=100)


@functools.lru_cache(maxsize=1)
def _arrived(token: str, *settings: Any) -> IsolatedRunner:
    """Return this process's one copy of a runner that came with a task; it waits here for the next task."""
    return _runners.get(token) or IsolatedRunner(*settings)
