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
    group_of,
    shared,
)
from tsm_training.workers.runners import ThreadRunner, WorkerRunner
from tsm_training.workers.running import ask_pool, checked_result, run_worker, shown
from tsm_training.workers.trainable import (
    MOST_OBSERVATION_BYTES,
    MOST_OBSERVATIONS,
    Observation,
    TrainableWorker,
    learned_version,
)
from tsm_training.workers.worker import FunctionWorker, Worker

__all__ = [
    "MOST_OBSERVATIONS",
    "MOST_OBSERVATION_BYTES",
    "PASSING_FAILURES",
    "FailureKind",
    "FunctionWorker",
    "Observation",
    "ThreadRunner",
    "TrainableWorker",
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
    "group_of",
    "learned_version",
    "run_worker",
    "shared",
    "shown",
]
