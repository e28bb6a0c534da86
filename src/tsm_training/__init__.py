"""Learn from ground truth how far each worker of an image ensemble can be trusted."""

from tsm_training._version import __version__
from tsm_training.arrays import Image
from tsm_training.color_transfer import LearnedLook, create_color_transfer_workers
from tsm_training.data import TrainingExample, TrainingSession, TrainingStore
from tsm_training.documents import TrainingProgress, TrainingResults, WeightsImport
from tsm_training.engine import TrainingEngine, ValidationResults
from tsm_training.ensemble import Prediction
from tsm_training.errors import TsmTrainingError
from tsm_training.learning import ExampleEvidence, Outcome
from tsm_training.lint import LintFinding, LintReport
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

__all__ = [
    "BayesianWeightLearner",
    "ColorDifference",
    "CombinedMetric",
    "ExampleEvidence",
    "FunctionWorker",
    "GuideSimilarity",
    "HistogramDistance",
    "Image",
    "InMemoryStore",
    "LearnedLook",
    "LintFinding",
    "LintReport",
    "Metric",
    "Observation",
    "Outcome",
    "PeakSignalToNoise",
    "Prediction",
    "Progress",
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
