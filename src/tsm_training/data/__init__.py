"""What is stored and where: records, the store protocol, and two stores."""

from tsm_training.data.checking import StorageFault
from tsm_training.data.memory import InMemoryStore
from tsm_training.data.metadata import check_metadata
from tsm_training.data.records import (
    ROLES,
    DatasetStatistics,
    EpochMetrics,
    Evaluation,
    EvaluationKey,
    ExampleDocument,
    ExampleFiles,
    ExampleList,
    ExampleReference,
    ExampleScores,
    ExampleSummary,
    Learning,
    MetricRow,
    PictureFile,
    Preview,
    SessionCommit,
    SessionDocument,
    SessionStatus,
    SessionSummary,
    TrainingExample,
    TrainingSession,
    WorkerAccuracy,
    WorkerOutcome,
)
from tsm_training.data.salvage import SalvageReport, salvage
from tsm_training.data.schema import APPLICATION_ID, GUIDE_SCHEMA, OWN_SCHEMA, SCHEMA_VERSION
from tsm_training.data.sqlite import TrainingDataManager
from tsm_training.data.store import PREVIEW_BYTES, ExampleEdit, StateChange, TrainingStore

__all__ = [
    "APPLICATION_ID",
    "GUIDE_SCHEMA",
    "OWN_SCHEMA",
    "PREVIEW_BYTES",
    "ROLES",
    "SCHEMA_VERSION",
    "DatasetStatistics",
    "EpochMetrics",
    "Evaluation",
    "EvaluationKey",
    "ExampleDocument",
    "ExampleEdit",
    "ExampleFiles",
    "ExampleList",
    "ExampleReference",
    "ExampleScores",
    "ExampleSummary",
    "InMemoryStore",
    "Learning",
    "MetricRow",
    "PictureFile",
    "Preview",
    "SalvageReport",
    "SessionCommit",
    "SessionDocument",
    "SessionStatus",
    "SessionSummary",
    "StateChange",
    "StorageFault",
    "TrainingDataManager",
    "TrainingExample",
    "TrainingSession",
    "TrainingStore",
    "WorkerAccuracy",
    "WorkerOutcome",
    "check_metadata",
    "salvage",
]
