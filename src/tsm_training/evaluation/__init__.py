"""Evaluating examples, learning from them, and validating."""

from tsm_training.evaluation.adding import ExampleRow, absolute_path, examples_of
from tsm_training.evaluation.baselines import best_single_worker
from tsm_training.evaluation.evaluator import CacheEntry, Evaluator, describe_files, own_workers
from tsm_training.evaluation.explaining import Explanation, SubsetAdvice, WorkerExplanation
from tsm_training.evaluation.fits import without
from tsm_training.evaluation.fitting import check_group_by
from tsm_training.evaluation.judging import ExampleJudgement
from tsm_training.evaluation.previews import preview_name
from tsm_training.evaluation.results import (
    BaselineMean,
    CrossValidation,
    CrossValidationResults,
    Judged,
    Validation,
    ValidationDocument,
    ValidationResults,
)
from tsm_training.evaluation.scoring import SOURCE, TARGET, TRUTH, checked_similarity, load_triple
from tsm_training.evaluation.split import Split, split_examples
from tsm_training.evaluation.training import TrainingOptions
from tsm_training.progress import StopRequest

__all__ = [
    "SOURCE",
    "TARGET",
    "TRUTH",
    "BaselineMean",
    "CacheEntry",
    "CrossValidation",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "ExampleRow",
    "Explanation",
    "Judged",
    "Split",
    "StopRequest",
    "SubsetAdvice",
    "TrainingOptions",
    "Validation",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "absolute_path",
    "best_single_worker",
    "check_group_by",
    "checked_similarity",
    "describe_files",
    "examples_of",
    "load_triple",
    "own_workers",
    "preview_name",
    "split_examples",
    "without",
]
