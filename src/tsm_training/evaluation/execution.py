"""Evaluating many examples: on any executor, within a budget of memory, until somebody says stop."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from tsm_training.errors import ExecutorError
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.evaluation.scoring import EvaluationContext, ExampleInput, ScoredExample, evaluate

_MAX_THREADS: Final = 8
_MAX_IN_FLIGHT: Final = 64
_POLL_SECONDS: Final = 0.1
_SAMPLE_BYTES: Final = 4 * 1024**2  # what an example takes as samples, its fitted worker not counted
_PICKLING_ERRORS: Final = (pickle.PicklingError, AttributeError, TypeError)  # what Python says of what it cannot pickle
_IMPORTABLE: Final = "Workers and metrics must be importable there"


@contextmanager
def executor_or_threads(executor: Executor | None) -> Generator[Executor]:
    """Give the executor to use: the host's own, which stays open, or threads for this one call."""
    if executor is not None:
        yield executor
        return
    threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "tsm-evaluate")
    try:
        yield threads
    except BaseException:
        # Do not wait for running examples: whoever pressed Ctrl-C wants to go on now.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()


# --- in a process of a pool -----------------------------------------------------------------------------------------

_arrived: dict[str, EvaluationContext] = {}
"""The context that was used last in this process, by its digest."""


def _evaluate_there(digest: str, pickled: bytes | None, example: ExampleInput) -> ScoredExample | None:
    """Evaluate an example in the context of that digest; None asks for the context, which is not here yet."""
    if digest not in _arrived:
        if pickled is None:
            return None
        _arrived.clear()
        try:
            _arrived[digest] = pickle.loads(pickled)  # noqa: S301 - the host made these bytes
        except Exception as error:  # importing a worker's module may do anything
            reason = f"cannot load what it was sent: {type(error).__name__}: {error}. {_IMPORTABLE}"
            raise ExecutorError("ProcessPoolExecutor", reason) from error
    return evaluate(_arrived[digest], example)


# --- in the calling process -----------------------------------------------------------------------------------------


_Item: TypeAlias = tuple[ExampleInput, int]
"""An example, and how many bytes it takes."""


def _sized(context: EvaluationContext, example: ExampleInput) -> _Item:  # no method: an execution would hold itself
    if example.samples:
        return example, _SAMPLE_BYTES
    workers = [context.workers[worker_id] for worker_id in example.worker_ids]
    return example, bytes_to_evaluate(example.files, workers, context.judge.metric, context.runner)


class Execution:
    """Evaluates examples on an executor, and knows which of them are in flight.

    Examples are handed out in order, and only while those in flight fit in a budget of bytes together. One at least is
    always in flight: an example that needs more than the whole budget waits until it is alone, and runs then. None
    overtakes another, so that large pictures get their turn among many small ones.

    Threads share the context as it is. For a process pool it is pickled once; it travels along until the first example
    has come back, and after that only to processes that ask for it. Other executors get it with each example.

    Args:
        context: What the examples share.
        examples: Any number; each is taken only when the one before has been handed out.
        executor: Where to run them.
        memory_budget: Bytes.
    """

    def __init__(
        self, context: EvaluationContext, examples: Iterable[ExampleInput], executor: Executor, memory_budget: int
    ) -> None:
        self._context = context
        self._items: Iterator[_Item] = map(functools.partial(_sized, context), examples)
        self._next: _Item | None = None
        self._in_flight: dict[Future[ScoredExample | None], _Item] = {}
        self._executor = executor
        self._memory_budget = memory_budget
        self._pickled: tuple[str, bytes] | None = None
        self._has_arrived = False

    def results(self, poll: Callable[[], None]) -> Iterator[ScoredExample]:
        """Yield results as they come; `poll` is called several times a second, and what it raises ends the work.

        Raises:
            MetricError: see `evaluate`.
            ExecutorError: the executor takes no work, has broken down, or cannot carry an example.
        """
        self._next = next(self._items, None)
        while self._next is not None or self._in_flight:
            poll()
            while self._next is not None and self._fits(self._next):
                self._submit(self._next, is_repeated=False)
                self._next = next(self._items, None)
            done, _running = wait(self._in_flight, _POLL_SECONDS, FIRST_COMPLETED)
            yield from filter(None, map(self._taken, done))

    def call_off(self, finish: bool) -> Iterator[ScoredExample]:
        """Begin no further example, and return what was still made: by those done, and if `finish` by those running.

        An example that failed gives nothing: something else has already ended the work.
        """
        self._items, self._next = iter(()), None
        begun = [future for future in self._in_flight if not future.cancel()]
        ended = as_completed(begun) if finish else [future for future in begun if future.done()]
        return (result for future in ended if future.exception() is None and (result := future.result()) is not None)

    def _fits(self, item: _Item) -> bool:
        total = item[1] + sum(num_bytes for _example, num_bytes in self._in_flight.values())
        return not self._in_flight or (len(self._in_flight) < _MAX_IN_FLIGHT and total <= self._memory_budget)

    def _submit(self, item: _Item, *, is_repeated: bool) -> None:
        call: tuple[Any, ...] = evaluate, self._context, item[0]
        # Who has such an executor has loaded its module; loading it here would need multiprocessing, even at exit.
        processes = sys.modules.get("concurrent.futures.process")
        if processes is not None and isinstance(self._executor, processes.ProcessPoolExecutor):
            digest, pickled = self._packed()
            call = _evaluate_there, digest, pickled if is_repeated or not self._has_arrived else None, item[0]
        try:
            future = self._executor.submit(*call)
        except RuntimeError as error:  # it was shut down, is broken, or the interpreter is about to exit
            raise self._fault(f"takes no work: {error}") from error
        except _PICKLING_ERRORS as error:
            self._explain(error)
            raise
        self._in_flight[future] = item

    def _packed(self) -> tuple[str, bytes]:
        """Return the pickled context and its digest."""
        if self._pickled is None:
            try:
                data = pickle.dumps(self._context)
            except Exception as error:  # a foreign __reduce__ may do anything
                self._explain(error)
                raise
            self._pickled = hashlib.sha256(data).hexdigest(), data
        return self._pickled

    def _taken(self, future: Future[ScoredExample | None]) -> ScoredExample | None:
        """Return an example's result; None where it has to be sent once more."""
        item = self._in_flight.pop(future)
        try:
            result = future.result()
        except BrokenExecutor as error:
            raise self._fault(f"has broken down: {error}. {_IMPORTABLE}") from error
        except CancelledError as error:
            raise self._fault("has dropped an example that it had accepted") from error
        except _PICKLING_ERRORS as error:
            self._explain(error)
            raise
        self._has_arrived = True
        if result is None:
            self._submit(item, is_repeated=True)
        return result

    def _explain(self, error: Exception) -> None:
        """Raise ExecutorError naming what cannot be pickled; where all can, the error is left to the caller."""
        if isinstance(self._executor, ThreadPoolExecutor):
            return
        parts: dict[str, Any] = {f"worker {worker_id!r}": w for worker_id, w in self._context.workers.items()}
        parts |= {"the judge": self._context.judge, "the pool's runner": self._context.runner}
        for name, part in parts.items():
            try:
                pickle.dumps(part)
            except Exception:  # a foreign __reduce__ may do anything
                raise self._fault(f"cannot be sent {name}: {error}") from error

    def _fault(self, reason: str) -> ExecutorError:
        return ExecutorError(type(self._executor).__qualname__, reason)
