"""Evaluating examples, learning from them, and validating."""

from tsm_training.evaluation.crossvalidation import CrossValidationResults
from tsm_training.evaluation.evaluator import CacheEntry, Evaluator, describe_files, own_workers
from tsm_training.evaluation.explaining import Explanation, SubsetAdvice, WorkerExplanation
from tsm_training.evaluation.fitting import check_group_by
from tsm_training.evaluation.judging import ExampleJudgement
from tsm_training.evaluation.listener import StopRequest
from tsm_training.evaluation.results import ContenderMean, ValidationDocument, ValidationResults, nothing_validated
from tsm_training.evaluation.trainables import forgotten

__all__ = [
    "CacheEntry",
    "ContenderMean",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "Explanation",
    "StopRequest",
    "SubsetAdvice",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "check_group_by",
    "describe_files",
    "forgotten",
    "nothing_validated",
    "own_workers",
]
