"""Workers, their results, ways to run them, and the pool that runs all of them on one request."""

from tsm_training.workers.pool import WorkerPool
from tsm_training.workers.records import (
    PASSING_FAILURES,
    FailureKind,
    WorkerFailure,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    WorkerResultLike,
    shared,
)
from tsm_training.workers.runners import ThreadRunner, WorkerRunner
from tsm_training.workers.running import ask_pool, checked_result, run_worker
from tsm_training.workers.worker import FunctionWorker, Worker

__all__ = [
    "PASSING_FAILURES",
    "FailureKind",
    "FunctionWorker",
    "ThreadRunner",
    "Worker",
    "WorkerFailure",
    "WorkerPool",
    "WorkerPoolLike",
    "WorkerRequest",
    "WorkerResult",
    "WorkerResultLike",
    "WorkerRunner",
    "ask_pool",
    "checked_result",
    "run_worker",
    "shared",
]
