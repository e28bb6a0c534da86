"""Evaluating many examples: on any executor, within a budget of memory, until somebody says stop."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import itertools
import os
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import attrs

from tsm_training.errors import ExecutorError, TsmTrainingError
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.evaluation.scoring import EvaluationContext, ExampleInput, ScoredExample, evaluate
from tsm_training.forking import guard_forks

_MAX_THREADS: Final = 8
_MAX_IN_FLIGHT: Final = 64  # of each process
_BATCHES_IN_FLIGHT: Final = 4  # at least so many for each that is run: one is under way while another is fetched
_BATCH_WORK: Final = (
    16 * 1024**2
)  # pixels times workers, half a second of built-in ones: who stops a call waits as long
_MAX_ATTEMPTS: Final = 3
_POLL_SECONDS: Final = 0.1
_CLUSTER_SECONDS: Final = 1.0  # a cluster may grow and shrink
_SAMPLE_BYTES: Final = 4 * 1024**2  # what an example takes as samples, its fitted worker not counted
_PICKLING_ERRORS: Final = (pickle.PicklingError, AttributeError, TypeError)  # what Python says of what it cannot pickle
_IMPORTABLE: Final = "Workers and metrics must be importable there"


@runtime_checkable
class ClusterClient(Protocol):
    """A ``distributed.Client`` of Dask, or what has these methods of one."""

    def get_executor(self, *args: Any, **kwargs: Any) -> Any:
        """Return an executor whose `submit` takes what `scatter` returned in the place of what was scattered."""
        ...

    def scatter(self, *args: Any, **kwargs: Any) -> Any:
        """Send an object to all processes, once."""
        ...

    def nthreads(self, *args: Any, **kwargs: Any) -> Any:
        """Return how many threads each process of the cluster has, by its address."""
        ...


@contextlib.contextmanager
def executor_or_threads(executor: Executor | ClusterClient | None) -> Generator[Executor]:
    """Give the executor to use: the host's own, which stays open, or threads for this one call."""
    if executor is not None:
        # What evaluates an example is no function of its arguments only: files change.
        yield executor.get_executor(pure=False) if isinstance(executor, ClusterClient) else executor
        return
    threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "tsm-evaluate")
    try:
        yield threads
    except BaseException:
        # Do not wait for running examples: whoever pressed Ctrl-C wants to go on now.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()


# --- where examples are evaluated -----------------------------------------------------------------------------------

_opened: Final[dict[str, EvaluationContext]] = {}
"""The contexts that were sent to this process last, by digest: two, as two calls may share a cluster."""

_evaluating: Final[list[int]] = []
"""How many bytes each of the examples takes that are evaluated in this process for another."""

_change: Final = threading.Condition(guard_forks(threading.RLock()))
"""Guards both."""


@attrs.frozen(eq=False)
class _Sent:
    """What the examples of a call share, in another process: pickled, or only its digest."""

    digest: str
    pickled: bytes | None = attrs.field(default=None, repr=False)

    def opened(self) -> EvaluationContext | None:
        """Return it, unpickled once in this process; None where it is not here and only the digest was sent."""
        with _change:
            if self.digest not in _opened:
                if self.pickled is None:
                    return None
                try:
                    context = pickle.loads(self.pickled)  # noqa: S301 - the host made these bytes
                except Exception as error:  # importing a worker's module may do anything
                    reason = f"cannot load what it was sent: {type(error).__name__}: {error}. {_IMPORTABLE}"
                    raise ExecutorError("elsewhere", reason) from error  # who sent it knows its name
                for digest in list(_opened)[:-1]:
                    del _opened[digest]
                _opened[self.digest] = context
            return _opened[self.digest]

    @contextlib.contextmanager
    def room_for(self, num_bytes: int, budget: int) -> Generator[None]:
        """Wait until an example fits beside those that are evaluated in this process, or is alone."""
        with _change:
            _change.wait_for(lambda: not _evaluating or sum(_evaluating) + num_bytes <= budget)
            _evaluating.append(num_bytes)
        try:
            yield
        finally:
            with _change:
                _evaluating.remove(num_bytes)
                _change.notify_all()


@attrs.frozen(eq=False, slots=False)
class _Shared:
    """What the examples of a call share, in its own process; pickled, it becomes `_Sent`.

    So an executor that does not pickle passes it as it is, and for any other it is pickled once.
    """

    _context: EvaluationContext
    dumps: Callable[[Any], bytes]

    @functools.cached_property
    def sent(self) -> _Sent:
        try:
            data = self.dumps(self._context)
        except Exception as error:  # a foreign __reduce__ may do anything
            raise pickle.PicklingError(f"{type(error).__name__}: {error}") from error
        return _Sent(hashlib.sha256(data).hexdigest(), data)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Sent, (self.sent.digest, self.sent.pickled)

    def opened(self) -> EvaluationContext:
        return self._context

    def room_for(self, _num_bytes: int, _budget: int) -> contextlib.AbstractContextManager[None]:
        """Wait for nothing: in its own process, what is handed out fits."""
        return contextlib.nullcontext()


class _Item(NamedTuple):
    """An example, and how many bytes its evaluation takes."""

    example: ExampleInput
    num_bytes: int


_Results: TypeAlias = list[ScoredExample | TsmTrainingError] | None


def _evaluate_all(shared: _Shared | _Sent, items: Sequence[_Item], memory_budget: int) -> _Results:
    """Evaluate examples, up to an error, which comes last; None asks for what they share, which is not here yet."""
    context = shared.opened()
    if context is None:
        return None
    results: list[ScoredExample | TsmTrainingError] = []
    for example, num_bytes in items:
        try:
            with shared.room_for(num_bytes, memory_budget):
                results.append(evaluate(context, example))
        except TsmTrainingError as error:
            return [*results, error]
    return results


# --- in the calling process -----------------------------------------------------------------------------------------


def _sized(context: EvaluationContext, example: ExampleInput) -> _Item:  # no method: an execution would hold itself
    if example.samples:
        return _Item(example, _SAMPLE_BYTES)
    workers = [context.workers[worker_id] for worker_id in example.worker_ids]
    return _Item(example, bytes_to_evaluate(example.files, workers, context.judge.metric, context.runner, context.side))


class _Batch(NamedTuple):
    """Examples that are evaluated one after the other by one task."""

    items: tuple[_Item, ...]
    num_bytes: int
    """What the largest of them takes."""
    attempts: int = 0


class Execution:
    """Evaluates examples on an executor, and knows which of them are in flight.

    Examples are handed out in order, and only while those in flight fit in a budget of bytes for each process of the
    executor together. One at least is always in flight: an example that needs more than the whole budget waits until it
    is alone, and runs then. None overtakes another, so that large pictures get their turn among many small ones. To
    threads they are handed out one by one; to others, small ones in batches.

    What examples share is pickled once at most. To a cluster of Dask it is scattered. Otherwise it travels along until
    the first examples have come back, and after that only to processes that ask for it. Threads share it as it is.

    Args:
        context: What the examples share.
        examples: Those to evaluate, in order.
        executor: Where to run them. Of a pool of processes (which has ``_max_workers``) and of Dask it is known how
            many processes there are; of any other, one is assumed.
        memory_budget: Bytes, for each process.
        has_room: Tells when an example is handed out whether previews of it are wanted; None to wait until more
            examples have come back.
    """

    def __init__(
        self,
        context: EvaluationContext,
        examples: Sequence[ExampleInput],
        executor: Executor,
        memory_budget: int,
        has_room: Callable[[ExampleInput], bool | None] = lambda _example: True,
    ) -> None:
        self._context = context
        self._items: Iterator[_Item] = map(functools.partial(_sized, context), examples)
        self._next: _Item | None = None
        self._total = len(examples)
        self._executor = executor
        self._memory_budget = memory_budget
        self._has_room = has_room
        self._in_flight: dict[Future[_Results], _Batch] = {}
        self._done: queue.SimpleQueue[Future[_Results]] = queue.SimpleQueue()
        self._arrived: deque[ScoredExample | TsmTrainingError] = deque()
        client = getattr(executor, "_client", None)  # Dask's executors have one
        self._client = client if isinstance(client, ClusterClient) else None
        # Dask brings cloudpickle along, which carries what was defined in a script or a notebook.
        pickler = pickle if self._client is None else importlib.import_module("cloudpickle")
        self._shared = _Shared(context, pickler.dumps)
        self._has_arrived = False
        self._scattered: Any = None
        self._processes, self._lanes = 1, os.cpu_count() or 1
        workers = getattr(executor, "_max_workers", None)
        if isinstance(workers, int) and not isinstance(executor, ThreadPoolExecutor):
            self._processes = self._lanes = workers
        self._counted: float | None = None
        """When the processes of a cluster were counted."""

    def results(self, poll: Callable[[], None]) -> Iterator[ScoredExample]:
        """Yield results as they come; `poll` is called several times a second, and what it raises ends the work.

        Raises:
            MetricError: see `evaluate`.
            ExecutorError: the executor takes no work, has broken down, or cannot carry an example.
        """
        self._next = next(self._items, None)
        while self._next is not None or self._in_flight:
            poll()
            if self._client is not None:
                self._look_at_the_cluster(self._client)
            while (batch := self._next_batch()) is not None:
                self._submit(batch)
            with contextlib.suppress(queue.Empty):
                self._receive(self._done.get(timeout=_POLL_SECONDS))
                while True:
                    self._receive(self._done.get_nowait())
            while self._arrived:
                result = self._arrived.popleft()
                if isinstance(result, TsmTrainingError):
                    raise result
                yield result

    def call_off(self, finish: bool) -> Iterator[ScoredExample]:
        """Begin no further example, and return what was still made: by those done, and if `finish` by those running.

        An example that failed gives nothing: something else has already ended the work.
        """
        self._items, self._next = iter(()), None
        begun = [future for future in self._in_flight if not future.cancel()]
        ended = as_completed(begun) if finish else [future for future in begun if future.done()]
        late = (result for future in ended if future.exception() is None for result in future.result() or ())
        return (r for r in itertools.chain(self._arrived, late) if isinstance(r, ScoredExample))

    # --- handing out ---

    def _look_at_the_cluster(self, client: ClusterClient) -> None:
        """Find out from time to time how many processes there are; scatter what examples share to the first ones."""
        now, is_first = time.monotonic(), self._counted is None
        if self._counted is not None and now - self._counted < _CLUSTER_SECONDS:
            return
        self._counted = now
        try:
            threads = client.nthreads()
            if is_first and threads:
                self._shared.sent  # noqa: B018 - pickled here, where it is known what for
                self._scattered = client.scatter(self._shared, broadcast=True, hash=False)
        except Exception as error:  # it is closed, or nobody answers: Dask has many ways to say so
            if isinstance(error, pickle.PicklingError):
                self._explain(error)
            raise self._fault(f"cannot be reached: {type(error).__name__}: {error}") from error
        self._processes, self._lanes = max(1, len(threads)), max(1, sum(threads.values()))

    def _next_batch(self) -> _Batch | None:
        """Return what to hand out next; None where nothing is left, or nothing fits now."""
        most = 1
        if not isinstance(self._executor, ThreadPoolExecutor):
            most = max(1, min(self._total, _MAX_IN_FLIGHT * self._processes) // (_BATCHES_IN_FLIGHT * self._lanes))
        items: list[_Item] = []
        work = 0
        while self._next is not None and len(items) < most:
            example, num_bytes = self._next
            pixels = example.files.target.width * example.files.target.height
            work += pixels * (1 + len(example.worker_ids) + len(example.observers))
            if (items and work > _BATCH_WORK) or not self._fits([*items, self._next]):
                break
            is_pictured = self._has_room(example)
            if is_pictured is None:
                break
            items.append(_Item(example._replace(is_pictured=is_pictured), num_bytes))
            self._next = next(self._items, None)
        return _Batch(tuple(items), max(item.num_bytes for item in items)) if items else None

    def _fits(self, items: Sequence[_Item]) -> bool:
        num_bytes = max(item.num_bytes for item in items)
        if not self._in_flight:
            return len(items) == 1 or num_bytes <= self._memory_budget
        batches = self._in_flight.values()
        return (
            len(items) + sum(len(batch.items) for batch in batches) <= _MAX_IN_FLIGHT * self._processes
            and num_bytes + sum(batch.num_bytes for batch in batches) <= self._memory_budget * self._processes
        )

    def _submit(self, batch: _Batch, *, is_repeated: bool = False) -> None:
        passed = self._scattered
        if passed is None:
            is_known = self._has_arrived and not is_repeated and "sent" in vars(self._shared)  # who pickles, pickled it
            passed = _Sent(self._shared.sent.digest) if is_known else self._shared
        try:
            future = self._executor.submit(_evaluate_all, passed, batch.items, self._memory_budget)
        except RuntimeError as error:  # it was shut down, is broken, or the interpreter is about to exit
            raise self._fault(f"takes no work: {error}") from error
        except Exception as error:
            self._explain(error)
            raise
        self._in_flight[future] = batch
        future.add_done_callback(self._done.put)

    # --- taking back ---

    def _receive(self, future: Future[_Results]) -> None:
        """Take what a task gave, or send it once more."""
        batch = self._in_flight.pop(future)
        try:
            results = future.result()
        except BrokenExecutor as error:
            raise self._fault(f"has broken down: {error}. {_IMPORTABLE}") from error
        except CancelledError as error:
            # A cluster forgets tasks when all processes are gone that held what it cannot make again.
            if self._client is None or batch.attempts == _MAX_ATTEMPTS:
                raise self._fault("has dropped an example that it had accepted") from error
            self._scattered, self._has_arrived = None, False
            self._submit(batch._replace(attempts=batch.attempts + 1))
        except ExecutorError as error:
            raise self._fault(error.reason) from error
        except Exception as error:
            self._explain(error)
            raise
        else:
            if results is None:
                self._submit(batch, is_repeated=True)
            else:
                self._has_arrived = True
                self._arrived.extend(results)

    def _explain(self, error: Exception) -> None:
        """Raise ExecutorError where an error is a cluster's, or what cannot be pickled is to blame, and say so."""
        if type(error).__module__.startswith("distributed"):
            raise self._fault(f"has broken down: {error}") from error
        if isinstance(self._executor, ThreadPoolExecutor) or not isinstance(error, _PICKLING_ERRORS):
            return
        parts: dict[str, Any] = {f"worker {worker_id!r}": w for worker_id, w in self._context.workers.items()}
        parts |= {"the judge": self._context.judge, "the pool's runner": self._context.runner}
        for name, part in parts.items():
            try:
                self._shared.dumps(part)
            except Exception:  # a foreign __reduce__ may do anything
                raise self._fault(f"cannot be sent {name}: {error}") from error

    def _fault(self, reason: str) -> ExecutorError:
        return ExecutorError(type(self._executor).__qualname__, reason)
