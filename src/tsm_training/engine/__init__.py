"""Evaluating examples, learning from them, validating, and answering requests."""

from tsm_training.engine.engine import TrainingEngine
from tsm_training.engine.evaluator import CacheEntry, Evaluator, describe_files, own_workers
from tsm_training.engine.fitting import check_group_by
from tsm_training.engine.listener import StopRequest
from tsm_training.engine.results import ValidationDocument, ValidationResults, nothing_validated

__all__ = [
    "CacheEntry",
    "Evaluator",
    "StopRequest",
    "TrainingEngine",
    "ValidationDocument",
    "ValidationResults",
    "check_group_by",
    "describe_files",
    "nothing_validated",
    "own_workers",
]
