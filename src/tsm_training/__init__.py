"""Learn from ground truth how far each worker of an image ensemble can be trusted."""

import importlib
from typing import TYPE_CHECKING, Any

from tsm_training._version import __version__
from tsm_training.arrays import Image
from tsm_training.data import TrainingExample, TrainingSession, TrainingStore
from tsm_training.documents import TrainingProgress, TrainingResults, WeightsImport
from tsm_training.engine import Leaderboard, LeaderboardRow, TrainingEngine, ValidationResults
from tsm_training.ensemble import Because, Prediction
from tsm_training.errors import TsmTrainingError
from tsm_training.learning import ExampleEvidence, Outcome
from tsm_training.manager import TrainingManager
from tsm_training.metrics import (
    ColorDifference,
    CombinedMetric,
    GuideSimilarity,
    HistogramDistance,
    Metric,
    PeakSignalToNoise,
    StructuralSimilarity,
    guide_similarity,
)
from tsm_training.progress import Progress
from tsm_training.storage import InMemoryStore, TrainingDataManager
from tsm_training.weights import BayesianWeightLearner, WeightLearner
from tsm_training.workers import (
    FunctionWorker,
    Observation,
    ThreadRunner,
    TrainableWorker,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerResult,
    WorkerResultLike,
    WorkerRunner,
)

if TYPE_CHECKING:
    from tsm_training.color_transfer import LearnedLook, create_color_transfer_workers
    from tsm_training.grading import FolderPrediction, SkippedPicture
    from tsm_training.lint import LintFinding, LintReport

__all__ = [
    "BayesianWeightLearner",
    "Because",
    "ColorDifference",
    "CombinedMetric",
    "ExampleEvidence",
    "FolderPrediction",
    "FunctionWorker",
    "GuideSimilarity",
    "HistogramDistance",
    "Image",
    "InMemoryStore",
    "Leaderboard",
    "LeaderboardRow",
    "LearnedLook",
    "LintFinding",
    "LintReport",
    "Metric",
    "Observation",
    "Outcome",
    "PeakSignalToNoise",
    "Prediction",
    "Progress",
    "SkippedPicture",
    "StructuralSimilarity",
    "ThreadRunner",
    "TrainableWorker",
    "TrainingDataManager",
    "TrainingEngine",
    "TrainingExample",
    "TrainingManager",
    "TrainingProgress",
    "TrainingResults",
    "TrainingSession",
    "TrainingStore",
    "TsmTrainingError",
    "ValidationResults",
    "WeightLearner",
    "WeightsImport",
    "Worker",
    "WorkerPool",
    "WorkerPoolLike",
    "WorkerResult",
    "WorkerResultLike",
    "WorkerRunner",
    "__version__",
    "create_color_transfer_workers",
    "guide_similarity",
]

_LATER = {
    "color_transfer": ("LearnedLook", "create_color_transfer_workers"),
    "grading": ("FolderPrediction", "SkippedPicture"),
    "lint": ("LintFinding", "LintReport"),
}
"""Rooms that many programs do not need, and their names in this one: they are loaded when somebody asks."""


def __getattr__(name: str) -> Any:
    for room, names in _LATER.items():
        if name == room or name in names:
            module = importlib.import_module(f"{__name__}.{room}")
            return module if name == room else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LATER})
