"""Evaluating examples, learning from them, and validating."""

from tsm_training.evaluation.baselines import best_single_worker
from tsm_training.evaluation.evaluated import preview_name
from tsm_training.evaluation.evaluator import CacheEntry, Evaluator, own_workers
from tsm_training.evaluation.execution import ClusterClient
from tsm_training.evaluation.explaining import Explanation, SubsetAdvice, WorkerExplanation
from tsm_training.evaluation.fits import without
from tsm_training.evaluation.fitting import check_group_by
from tsm_training.evaluation.leaderboard import Leaderboard, LeaderboardRow
from tsm_training.evaluation.looks import FoundLook, FoundLooks
from tsm_training.evaluation.results import (
    BaselineMean,
    CrossValidation,
    CrossValidationResults,
    ExampleJudgement,
    Judged,
    ShownDocument,
    Validation,
    ValidationDocument,
    ValidationResults,
)
from tsm_training.evaluation.scoring import SOURCE, TARGET, TRUTH, load_triple
from tsm_training.evaluation.split import Split, split_examples
from tsm_training.evaluation.training import TrainingOptions
from tsm_training.evaluation.validation import newest_session

__all__ = [
    "SOURCE",
    "TARGET",
    "TRUTH",
    "BaselineMean",
    "CacheEntry",
    "ClusterClient",
    "CrossValidation",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "Explanation",
    "FoundLook",
    "FoundLooks",
    "Judged",
    "Leaderboard",
    "LeaderboardRow",
    "ShownDocument",
    "Split",
    "SubsetAdvice",
    "TrainingOptions",
    "Validation",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "best_single_worker",
    "check_group_by",
    "load_triple",
    "newest_session",
    "own_workers",
    "preview_name",
    "split_examples",
    "without",
]
