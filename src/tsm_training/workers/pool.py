"""The pool: the registered workers, and a way to run all of them on one request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import attrs

from tsm_training.arguments import at_least, check_whole_number
from tsm_training.arrays import Image, check_image
from tsm_training.errors import (
    DuplicateWorkerError,
    ExecutorError,
    InvalidArgumentError,
    NoWorkersError,
    WorkerNotFittedError,
    WorkerNotFoundError,
)
from tsm_training.forking import guard_forks
from tsm_training.text import did_you_mean
from tsm_training.workers.records import WorkerRequest, WorkerResult
from tsm_training.workers.running import ThreadRunner, WorkerRunner
from tsm_training.workers.worker import TrainableWorker, Worker, check_worker_id, time_limit_of


def _check_runner(_pool: object, _attribute: object, value: object) -> None:
    if not isinstance(value, WorkerRunner) or isinstance(value, type):
        raise InvalidArgumentError("runner", value, "a WorkerRunner, such as ThreadRunner(time_limit=10)")


@attrs.frozen(eq=False)
class WorkerPool:
    """The registered workers, and a way to run all of them on one request.

    Args:
        max_workers: How many workers `execute_parallel` runs at the same time, at least 1.
        runner: How each of them is run: a `ThreadRunner`, which may set a time limit, or a
            `tsm_training.isolation.IsolatedRunner`, which gives them processes that may come to harm.

    Raises:
        InvalidArgumentError: `max_workers` is not a whole number of at least 1, or `runner` is no `WorkerRunner`.
    """

    max_workers: int = attrs.field(default=10, validator=at_least(1))
    runner: WorkerRunner = attrs.field(factory=ThreadRunner, kw_only=True, validator=_check_runner)
    _fitted: dict[str, Callable[[], Worker]] = attrs.field(factory=dict, init=False, repr=False)
    _registry: dict[str, Worker] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=lambda: guard_forks(threading.Lock()), init=False, repr=False)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The registered workers, in order of registration."""
        with self._lock:
            return tuple(self._registry.values())

    def register_worker(self, worker: Worker) -> None:
        """Add a worker.

        Raises:
            InvalidArgumentError: it is no `Worker`, it has no id or one that is empty, too long or holds control
                characters, or its time limit is no finite number above 0.
            DuplicateWorkerError: its id is taken.
        """
        if not isinstance(worker, Worker):
            raise InvalidArgumentError(
                "worker", worker, 'a Worker (wrap a function with FunctionWorker("id", function))'
            )
        check_worker_id(getattr(worker, "worker_id", None))
        time_limit_of(worker, None)
        if isinstance(worker, TrainableWorker):
            check_whole_number(f"min_observations of worker {worker.worker_id!r}", worker.min_observations)
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
                raise WorkerNotFoundError(worker_id, did_you_mean(worker_id, self._registry))
            return self._registry.pop(worker_id)

    def get_worker(self, worker_id: str) -> Worker:
        """Return the worker with that id.

        Raises:
            WorkerNotFoundError: no registered worker has that id.
        """
        with self._lock:
            if worker_id not in self._registry:
                raise WorkerNotFoundError(worker_id, did_you_mean(worker_id, self._registry))
            return self._registry[worker_id]

    def set_fitted(self, fitted: Mapping[str, Callable[[], Worker]]) -> None:
        """Say what the trainable workers are fitted to: by worker id, what gives the fitted worker when it is needed.

        A manager calls this when it has trained, imported or forgotten something. Those that are not named are not
        asked.
        """
        with self._lock:
            self._fitted.clear()
            self._fitted.update(fitted)

    def execute_parallel(self, data: Mapping[str, Image], /) -> list[WorkerResult]:
        """Run every worker on one request and return their results in order of registration.

        A `TrainableWorker` answers once a manager of this pool has fitted it; until then it is left out.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each uint8, H×W×3, BGR; also ``data["group"]``, a text,
                where the request belongs to a group of examples.

        Raises:
            NoWorkersError: no worker is registered.
            WorkerNotFittedError: all of them are trainable, and none is fitted.
            InvalidArgumentError: a picture is missing or is none.
            WorkerNotIsolatableError: a worker cannot be run in the way that the pool's runner wants.
            ExecutorError: no thread or process can be started, or the interpreter is about to exit.
        """
        return self.execute(data)

    def execute(
        self,
        data: Mapping[str, Image],
        /,
        worker_ids: Iterable[str] | None = None,
        *,
        fitted: Mapping[str, Callable[[], Worker]] | None = None,
    ) -> list[WorkerResult]:
        """Do what `execute_parallel` does, for some of the workers only.

        Args:
            data: As for `execute_parallel`: two pictures, uint8, H×W×3, BGR, and perhaps a group.
            worker_ids: Which ones; unknown ids are passed over. None for all.
            fitted: What the trainable workers are fitted to, for this call; None for what `set_fitted` said.

        Raises:
            NoWorkersError: none of them is registered.
            WorkerNotFittedError: all of them are trainable, and none is fitted.
            TsmTrainingError: as for `execute_parallel`.
        """
        wanted = None if worker_ids is None else frozenset(worker_ids)
        workers = [w for w in self.workers if wanted is None or w.worker_id in wanted]
        if not workers:
            raise NoWorkersError
        with self._lock:
            fitted = dict(self._fitted) if fitted is None else fitted
        unfitted = workers[0].worker_id
        workers = [
            fitted[w.worker_id]() if isinstance(w, TrainableWorker) else w
            for w in workers
            if not isinstance(w, TrainableWorker) or w.worker_id in fitted
        ]
        if not workers:
            raise WorkerNotFittedError(unfitted)
        request = _as_request(data)
        self.runner.check(workers)
        # A pool of threads per request: it costs a fraction of a millisecond, leaves nothing behind for a fork or for
        # the interpreter's exit, and lets a worker call the pool again without waiting for itself.
        threads = ThreadPoolExecutor(min(self.max_workers, len(workers)), "tsm-worker")
        try:
            try:
                calls = [threads.submit(self.runner.run, worker, request) for worker in workers]
            except RuntimeError as error:  # too many threads, or the interpreter is about to exit
                raise ExecutorError("of the worker pool", f"cannot start a worker: {error}") from error
            results = [call.result() for call in calls]
        except BaseException:
            # Do not wait for running workers: whoever pressed Ctrl-C wants to go on now.
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        threads.shutdown()
        return results


def _as_request(data: object) -> WorkerRequest:
    if isinstance(data, WorkerRequest):
        return data
    if not isinstance(data, Mapping) or not data.keys() >= {"source", "target"}:
        seen = list(data) if isinstance(data, Mapping) else data
        raise InvalidArgumentError("data", seen, "a mapping with the keys 'source' and 'target'")
    group = data.get("group")
    if group is not None and not isinstance(group, str):
        raise InvalidArgumentError("data['group']", group, "text, or None")
    source, target = (check_image(data[role], f"data[{role!r}]") for role in ("source", "target"))
    return WorkerRequest(source, target, group)
