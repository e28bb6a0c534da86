"""Evaluating examples, learning from them, validating, and answering requests."""

from tsm_training.engine.crossvalidation import CrossValidationResults
from tsm_training.engine.engine import TrainingEngine
from tsm_training.engine.evaluator import CacheEntry, Evaluator, describe_files, own_workers
from tsm_training.engine.explaining import Explanation, SubsetAdvice, WorkerExplanation
from tsm_training.engine.fitting import check_group_by
from tsm_training.engine.judging import ExampleJudgement
from tsm_training.engine.listener import StopRequest
from tsm_training.engine.results import ContenderMean, ValidationDocument, ValidationResults, nothing_validated
from tsm_training.engine.trainables import forgotten

__all__ = [
    "CacheEntry",
    "ContenderMean",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "Explanation",
    "StopRequest",
    "SubsetAdvice",
    "TrainingEngine",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "check_group_by",
    "describe_files",
    "forgotten",
    "nothing_validated",
    "own_workers",
]
