"""Workers, their results, ways to run them, and the pool that runs all of them on one request."""

from tsm_training.learning import Observation
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
from tsm_training.workers.running import (
    LOOK_AROUND_SECONDS,
    BackgroundCall,
    ThreadRunner,
    WorkerRunner,
    ask_pool,
    check_not_leaving,
    checked_result,
    run_worker,
    shown,
    timed_out,
)
from tsm_training.workers.worker import (
    MOST_OBSERVATION_BYTES,
    MOST_OBSERVATIONS,
    FunctionWorker,
    TrainableWorker,
    Worker,
    learned_version,
    time_limit_of,
    valid_time_limit,
)

__all__ = [
    "LOOK_AROUND_SECONDS",
    "MOST_OBSERVATIONS",
    "MOST_OBSERVATION_BYTES",
    "PASSING_FAILURES",
    "BackgroundCall",
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
    "check_not_leaving",
    "checked_result",
    "group_of",
    "learned_version",
    "run_worker",
    "shared",
    "shown",
    "time_limit_of",
    "timed_out",
    "valid_time_limit",
]
