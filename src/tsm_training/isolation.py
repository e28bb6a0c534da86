"""Workers in processes of their own: one that hangs, crashes or eats the memory costs one recorded failure.

It needs the extra ``isolation``: Pebble runs the processes and notices their end, loky starts them without importing
the host's script again, and cloudpickle carries workers that were made in a script or a notebook. Isolation protects
from accidents, not from malice: what a process answers is unpickled here, and it has the rights of its host.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import io
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, cast

import attrs

from tsm_training.arguments import check_limit
from tsm_training.arrays import Image
from tsm_training.errors import ExecutorError, InvalidArgumentError, MissingExtraError, WorkerNotIsolatableError
from tsm_training.workers import Worker, WorkerRequest, WorkerResult, group_of, run_worker
from tsm_training.workers.runners import LOOK_AROUND_SECONDS, check_not_leaving, timed_out
from tsm_training.workers.running import check_again, failed, shown
from tsm_training.workers.worker import time_limit_of, valid_time_limit

__all__ = ["IsolatedRunner"]

T = TypeVar("T")

_LIBRARIES: Final = ("cloudpickle", "loky", "pebble")
_START_SECONDS: Final = 60.0
"""How long a process may take to start, or to unpickle a worker; what takes longer will never answer."""
_GRACE_SECONDS: Final = 0.3
"""How long after the end of a process its last answer may still be on the way."""
_WATCH_SECONDS: Final = 1.0
_LEAST_MEMORY: Final = 16 << 20
"""With less, a process cannot even answer."""
_MOST_MEMORY: Final = 1 << 60
_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has the latter only, and it is as final there
_EXECUTOR: Final = "of workers"


# --- in the child ---------------------------------------------------------------------------------------------------

_own_pid = 0
"""The id that this process gave when it was greeted, 0 before that; a child that a worker forks has another."""

_loaded: dict[str, tuple[str, Worker]] = {}
"""The workers that this process has unpickled, with the digests of what they were made of, by worker id."""


def _greet(memory_limit: int | None) -> int:
    """Prepare a new process, and say which one it is."""
    global _own_pid  # noqa: PLW0603 - a process has one
    _own_pid = os.getpid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # one that hangs in C code would never get to a handler of Python's
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    if memory_limit is not None:
        _limit_memory(memory_limit)
    return os.getpid()


def _leave_with(parent: int) -> None:
    """End this process when the host is gone, which may have been killed without a chance to end it."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _limit_memory(memory_limit: int) -> None:
    """Let this process have so many bytes more than it has now."""
    resource = importlib.import_module("resource")  # not on every system
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + memory_limit
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _load(worker_id: str, digest: str, pickled: bytes) -> str | None:
    """Unpickle a worker; return why that is impossible, or None."""
    _loaded.pop(worker_id, None)
    try:
        worker = pickle.loads(pickled)  # noqa: S301 - the host made these bytes
        if not isinstance(worker, Worker):
            return f"it becomes a {type(worker).__name__} there"
    except BaseException as error:
        return f"{type(error).__name__}: {shown(error)}"
    _loaded[worker_id] = (digest, worker)
    return None


def _call(worker_id: str, source: Image, target: Image, group: str | None) -> WorkerResult:
    """Run a worker that has been loaded."""
    started = time.perf_counter()
    try:
        return run_worker(_loaded[worker_id][1], WorkerRequest(source, target, group))
    except BaseException as error:  # an interrupt here is no user's: Ctrl-C does not reach this process
        return failed(worker_id, "raised", type(error).__name__, error, time.perf_counter() - started)
    finally:
        if _own_pid not in (0, os.getpid()):
            # A worker has forked, and both come back: only one of them may answer and take the next task.
            os._exit(0)  # pragma: no cover - in a child that the tests' process never sees


@contextmanager
def _streams_to_flush() -> Generator[None]:
    """Lend loky, which flushes the standard streams before it starts a process, a stream where there is none."""
    found = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    missing = [name for name, stream in found.items() if stream is None or getattr(stream, "closed", False)]
    for name in missing:
        setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        for name in missing:
            setattr(sys, name, found[name])


# --- one process, seen from the host --------------------------------------------------------------------------------


class _OverdueError(Exception):
    """The process has not answered in time, and was ended."""


class _DeadError(Exception):
    """The process came to an end; the arguments are a short name and a sentence."""


@attrs.frozen
class _Pickled:
    """A worker as it travels."""

    worker: Worker
    digest: str
    data: bytes = attrs.field(repr=False)


class _Lane:
    """A process that runs one worker at a time. It is replaced when it has come to harm.

    Each has a pool of one to itself: processes of a common pool share pipes and locks, and one that is killed while it
    holds a lock takes the others with it.
    """

    def __init__(self, memory_limit: int | None) -> None:
        self._memory_limit = memory_limit
        self._pool: Any = None
        self._process: BaseProcess | None = None
        self._digests: dict[str, str] = {}
        self.guests: set[str] = set()
        """The workers that have run in this process."""

    @property
    def is_running(self) -> bool:
        """Tell whether there is a process."""
        return self._pool is not None

    def holds(self, pickled: _Pickled) -> bool:
        """Tell whether the process has this worker unpickled already."""
        return self._digests.get(pickled.worker.worker_id) == pickled.digest

    def fitness(self, pickled: _Pickled) -> int:
        """Say how well this process suits a worker; 0 if only other workers have been its guests."""
        if self.holds(pickled):
            return 3
        return 2 if pickled.worker.worker_id in self.guests else int(not self.guests)

    def start(self) -> None:
        """Make sure that there is a process.

        Raises:
            ExecutorError: none can be started.
        """
        if self._process is not None and self._process.exitcode is None:
            return
        self.end()
        _prepare_for_exit()
        pebble, loky = importlib.import_module("pebble"), importlib.import_module("loky.backend")
        self._pool = pebble.ProcessPool(max_workers=1, context=loky.get_context("loky"))
        try:
            with _streams_to_flush():
                pid = self._ask(_greet, self._memory_limit, limit=_START_SECONDS)
        except (_DeadError, _OverdueError) as error:  # a daemonic process, for one, may have no children
            reason = error.args[1] if isinstance(error, _DeadError) else f"none came up within {_START_SECONDS:g} s"
            raise ExecutorError(_EXECUTOR, f"cannot start a process: {reason}") from error
        self._process = next((child for child in multiprocessing.active_children() if child.pid == pid), None)

    def load(self, pickled: _Pickled) -> str | None:
        """Have the process unpickle a worker; return why it cannot, or None.

        Raises:
            ExecutorError: there is no process, and none can be started.
        """
        self.start()
        worker_id = pickled.worker.worker_id
        if self.holds(pickled):
            return None
        self.guests.add(worker_id)
        try:
            reason = self._ask(_load, worker_id, pickled.digest, pickled.data, limit=_START_SECONDS)
        except _OverdueError:
            return f"unpickling it takes longer than {_START_SECONDS:g} s"
        except _DeadError as error:
            return f"unpickling it ended the process: {error.args[1]}"
        if reason is None:
            self._digests[worker_id] = pickled.digest
        return reason

    def call(self, worker_id: str, request: WorkerRequest, limit: float | None) -> WorkerResult:
        """Have the process run a worker that it has loaded.

        Raises:
            ExecutorError: the interpreter is about to exit.
        """
        started = time.monotonic()
        try:
            reply = self._ask(_call, worker_id, request["source"], request["target"], group_of(request), limit=limit)
        except _OverdueError:
            return timed_out(worker_id, cast("float", limit), time.monotonic() - started)
        except _DeadError as error:
            return failed(worker_id, "died", error.args[0], error.args[1], time.monotonic() - started)
        return check_again(attrs.evolve(reply, worker_id=worker_id), request["target"])

    def _ask(self, function: Callable[..., T], *arguments: object, limit: float | None) -> T:
        """Return what a function gives in the process; if it gives nothing, that was the end of the process."""
        try:
            return self._answer(cast("Future[T]", self._pool.schedule(function, args=arguments)), limit)
        except (_OverdueError, ExecutorError):
            self.end()
            raise
        except Exception as error:
            death = self._death(error)
            self.end()
            raise death from error
        except BaseException:  # Ctrl-C: whoever pressed it wants to go on now
            self.end()
            raise

    def _answer(self, future: Future[T], limit: float | None) -> T:
        started = time.monotonic()
        end_seen: float | None = None
        while True:
            now = time.monotonic()
            left = LOOK_AROUND_SECONDS if limit is None else limit - (now - started)
            if left <= 0.0:
                raise _OverdueError
            with contextlib.suppress(FutureTimeoutError):
                return future.result(min(left, LOOK_AROUND_SECONDS))
            check_not_leaving()
            # The pool says nothing of a process that ends with exit code 0, nor of one that ends between two tasks.
            if not self._is_at_work():
                end_seen = end_seen or now
                if now - end_seen > _GRACE_SECONDS:
                    raise BrokenExecutor("the process has ended")

    def _is_at_work(self) -> bool:
        return bool(self._pool.active) and (self._process is None or self._process.exitcode is None)

    def _death(self, error: Exception) -> _DeadError:
        """Say how the process came to its end."""
        code = getattr(error, "exitcode", None)
        if code is None and self._process is not None:
            self._process.join(_GRACE_SECONDS)
            code = self._process.exitcode
        if code is None:
            return _DeadError(type(error).__name__, f"its process could not be used any more: {error}")
        if code >= 0:
            return _DeadError(f"exit code {code}", f"its process ended itself with exit code {code}")
        with contextlib.suppress(ValueError):  # a real-time signal has no name
            name = signal.Signals(-code).name
            hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return _DeadError(name, f"its process was ended by {name}{hint}")
        return _DeadError(f"signal {-code}", f"its process was ended by signal {-code}")

    def end(self) -> threading.Thread | None:
        """End the process, whatever it is doing, and return the thread that clears up; the next use starts another."""
        pool, process = self._pool, self._process
        self._pool, self._process, self._digests, self.guests = None, None, {}, set()
        if pool is None:
            return None
        pool.stop()
        if process is not None and process.exitcode is None:
            with contextlib.suppress(OSError):  # it may just have ended
                os.kill(cast("int", process.pid), _KILL)
        clearing = threading.Thread(target=_join, args=(pool,), name="tsm-isolation", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started any more while the interpreter exits
            clearing.start()
            return clearing
        return None

    def forget(self) -> None:
        """Let go of a process that belongs to the process which this one was forked from."""
        children: set[BaseProcess] = getattr(multiprocessing.process, "_children", set())
        if self._process is not None:
            children.discard(self._process)  # or this process, when it exits, would end or wait for it
        self._pool, self._process, self._digests, self.guests = None, None, {}, set()


def _join(pool: Any) -> None:
    with contextlib.suppress(Exception):  # of a pool that is thrown away, faults are of no interest
        pool.join()


# --- all processes of a runner --------------------------------------------------------------------------------------


class _Crew:
    """The processes of one runner, and the workers as they were sent to them."""

    def __init__(self, max_processes: int, memory_limit: int | None) -> None:
        self._max_processes = max_processes
        self._memory_limit = memory_limit
        self.token = uuid.uuid4().hex
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()
        self._lanes: list[_Lane] = []
        self._idle: list[_Lane] = []  # the one used last stands last
        self._pickled: dict[str, _Pickled] = {}
        self._proven: dict[str, str] = {}

    def pickled(self, worker: Worker, *, again: bool = False) -> _Pickled:
        """Return a worker as it travels; `again` if it may have changed since it was pickled last.

        Raises:
            WorkerNotIsolatableError: it cannot be pickled.
        """
        kept = self._pickled.get(worker.worker_id)
        if kept is None or kept.worker is not worker or again:
            try:
                data: bytes = importlib.import_module("cloudpickle").dumps(worker)
            except (Exception, SystemExit, GeneratorExit) as error:  # a foreign __reduce__ may do anything
                raise _not_isolatable(worker, f"{type(error).__name__}: {shown(error)}") from error
            kept = _Pickled(worker, hashlib.sha256(data).hexdigest(), data)
            self._pickled[worker.worker_id] = kept
        return kept

    def prove(self, pickled: _Pickled) -> None:
        """Make sure that a process can unpickle a worker.

        Raises:
            WorkerNotIsolatableError: it cannot.
        """
        worker_id = pickled.worker.worker_id
        if self._proven.get(worker_id) == pickled.digest:
            return
        with self.lane(pickled) as lane:
            reason = lane.load(pickled)
        if reason is not None:
            raise _not_isolatable(pickled.worker, reason)
        self._proven[worker_id] = pickled.digest

    @contextmanager
    def lane(self, pickled: _Pickled) -> Generator[_Lane]:
        """Give a process for one call, if possible one that knows the worker; wait where all are busy."""
        lane = self._taken(pickled)
        try:
            yield lane
        finally:
            with self._changed:
                if lane in self._lanes:
                    self._idle.append(lane)
                    self._changed.notify()
                else:  # the runner was closed meanwhile
                    lane.end()

    def _taken(self, pickled: _Pickled) -> _Lane:
        with self._changed:
            while True:
                lane = max(self._idle, key=lambda lane: lane.fitness(pickled), default=None)  # of equals, the oldest
                if (lane is None or not lane.fitness(pickled)) and len(self._lanes) < self._max_processes:
                    self._lanes.append(lane := _Lane(self._memory_limit))
                    return lane
                if lane is not None:
                    self._idle.remove(lane)
                    return lane
                self._changed.wait(LOOK_AROUND_SECONDS)
                check_not_leaving()

    def close(self) -> None:
        """End all processes; those that are at work when their work is done."""
        with self._changed:
            idle, self._idle, self._lanes = self._idle, [], []
        for clearing in [lane.end() for lane in idle]:
            if clearing is not None:
                clearing.join()

    def abandon(self) -> None:
        """End all processes at once, because the interpreter exits."""
        for lane in self._lanes:
            lane.end()

    def forget(self) -> None:
        """Start with nothing in a process that was forked; the processes belong to the other one."""
        for lane in self._lanes:
            lane.forget()
        self._start_afresh()


def _not_isolatable(worker: Worker, reason: str) -> WorkerNotIsolatableError:
    return WorkerNotIsolatableError(worker.worker_id, type(worker).__qualname__, reason)


# --- the runner -----------------------------------------------------------------------------------------------------


def _check_memory_limit(_runner: object, _attribute: object, value: Any) -> None:
    limit = check_limit("memory_limit", value)
    if limit is not None and not _LEAST_MEMORY <= limit <= _MOST_MEMORY:
        raise InvalidArgumentError("memory_limit", value, f"{_LEAST_MEMORY} to {_MOST_MEMORY} bytes, or None")
    if limit is not None and not sys.platform.startswith("linux"):
        raise InvalidArgumentError("memory_limit", value, f"None on {sys.platform}, which knows no such limit")


def _check_max_processes(_runner: object, _attribute: object, value: Any) -> None:
    check_limit("max_processes", value)


def _new_crew(runner: IsolatedRunner) -> _Crew:
    return _Crew(runner.max_processes or os.cpu_count() or 1, runner.memory_limit)


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
    memory_limit: int | None = attrs.field(default=None, validator=_check_memory_limit)
    max_processes: int | None = attrs.field(default=None, validator=_check_max_processes)
    _crew: _Crew = attrs.field(init=False, repr=False, default=attrs.Factory(_new_crew, takes_self=True))

    def __attrs_post_init__(self) -> None:
        if any(importlib.util.find_spec(library) is None for library in _LIBRARIES):
            raise MissingExtraError("isolation", "IsolatedRunner")
        _crews.add(self._crew)
        _runners[self._crew.token] = self
        weakref.finalize(self, self._crew.abandon).atexit = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._crew.token, self.time_limit, self.memory_limit, self.max_processes)

    def __enter__(self) -> IsolatedRunner:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; those at work when their work is done. The runner can go on being used."""
        self._crew.close()

    def check(self, workers: Sequence[Worker], /) -> None:
        """Make sure, before any work begins, that a process can be given these workers.

        Raises:
            WorkerNotIsolatableError: one cannot be pickled here or unpickled there.
            InvalidArgumentError: a worker's own time limit is not a finite number above 0.
            ExecutorError: no process can be started.
        """
        for worker in workers:
            time_limit_of(worker, self.time_limit)
            self._crew.prove(self._crew.pickled(worker, again=True))

    def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
        """Run a worker in a process.

        Raises:
            WorkerNotIsolatableError: it cannot be pickled.
            InvalidArgumentError: the worker's own time limit is not a finite number above 0.
            ExecutorError: no process can be started, or the interpreter is about to exit.
        """
        limit = time_limit_of(worker, self.time_limit)
        pickled = self._crew.pickled(worker)
        with self._crew.lane(pickled) as lane:
            result, others = _attempt(lane, pickled, request, limit)
            if others and _came_to_harm(result):
                result, _nobody = _attempt(lane, pickled, request, limit)
        return result


def _attempt(
    lane: _Lane, pickled: _Pickled, request: WorkerRequest, limit: float | None
) -> tuple[WorkerResult, frozenset[str]]:
    """Run a worker, and tell which others had been in the process before."""
    worker_id = pickled.worker.worker_id
    lane.start()
    others = frozenset(lane.guests - {worker_id})
    reason = lane.load(pickled)
    if reason is None:
        result = lane.call(worker_id, request, limit)
    else:
        result = failed(worker_id, "raised" if lane.is_running else "died", "not unpickled", reason, 0.0)
    if _came_to_harm(result):
        lane.end()
    return result, others


def _came_to_harm(result: WorkerResult) -> bool:
    """Tell whether a process has died, or has no memory left that others could use."""
    failure = result.failure
    if failure is None:
        return False
    # NumPy and OpenCV have errors of their own for it.
    is_out_of_memory = failure.error_type.endswith("MemoryError") or "Insufficient memory" in failure.message
    return failure.kind == "died" or is_out_of_memory


# --- what a fork, the end of the interpreter, and a copy of a runner have to find -------------------------------------

_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()
_runners: weakref.WeakValueDictionary[str, IsolatedRunner] = weakref.WeakValueDictionary()
_visitors: list[IsolatedRunner] = []
"""The runner that came to this process with the last task of an executor; it waits here for the next task."""


def _abandon_all() -> None:
    for crew in list(_crews):
        crew.abandon()


def _forget_all() -> None:
    for crew in list(_crews):
        crew.forget()


getattr(os, "register_at_fork", dict)(after_in_child=_forget_all)  # Windows has no forks, and nothing to register


@functools.cache
def _prepare_for_exit() -> None:
    """Have all processes ended before anybody waits for them; what exits last was registered first."""
    importlib.import_module("pebble")  # has an exit function of its own, which is gentle and slow
    atexit.register(_abandon_all)
    # A process of an executor ends without atexit, but with this, and then waits for its children.
    multiprocessing.util.Finalize(None, _abandon_all, exitpriority=100)


def _arrived(token: str, *settings: Any) -> IsolatedRunner:
    """Return this process's one copy of a runner."""
    runner = _runners.get(token)
    if runner is None:
        runner = IsolatedRunner(*settings)
        runner._crew.token = token  # pyright: ignore[reportPrivateUsage]  # it is this module's own
        _runners[token] = runner
    _visitors[:] = [runner]
    return runner
