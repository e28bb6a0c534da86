"""What the facade takes and gives: the documents of the guide's REST chapter, for applications that pass them on."""

from __future__ import annotations

from typing import TypedDict

import attrs

from tsm_training.data import DatasetStatistics, SessionDocument
from tsm_training.engine import ValidationResults
from tsm_training.weights import LearnerStatistics

__all__ = [
    "ResetRequest",
    "TrainRequest",
    "TrainingProgress",
    "TrainingResults",
    "ValidateRequest",
    "WeightsImport",
    "WorkerProgress",
]


class TrainRequest(TypedDict, total=False):
    """The guide's request to train; ``manager.train(**request)`` takes it."""

    num_examples: int | None
    epochs: int
    validation_split: float
    verbose: bool


class ValidateRequest(TypedDict, total=False):
    """The guide's request to validate; ``manager.validate(**request)`` takes it."""

    example_ids: list[str] | None


class ResetRequest(TypedDict, total=False):
    """The guide's request to reset; ``manager.reset_weights(**request)`` takes it."""

    default_weight: float
    """The weight that every known worker gets, above 0."""


class TrainingResults(TypedDict):
    """What a training gave: the guide's document."""

    session: SessionDocument
    """The session as the guide shows it."""
    validation: ValidationResults
    """How the trained weights did on the examples held out; its means are None where there were none."""


class WorkerProgress(TypedDict):
    """A worker in the guide's progress document."""

    current_weight: float
    """1.0 is the average worker."""
    stats: LearnerStatistics
    """What is known about the worker."""


class TrainingProgress(TypedDict):
    """The guide's progress document."""

    dataset_stats: DatasetStatistics
    """How many examples and sessions there are."""
    worker_stats: dict[str, WorkerProgress]
    """Per worker id."""
    current_weights: dict[str, float]
    """Per worker id; 1.0 is the average worker."""


@attrs.frozen
class WeightsImport:
    """What an imported weights file held."""

    path: str
    alpha: float | None
    """The rate that the weights were learned with; the learner keeps its own."""
    imported: tuple[str, ...]
    """Workers of the pool that now start from the file."""
    dormant: tuple[str, ...]
    """Workers that the pool does not have; their weights are kept until it does."""
    missing: tuple[str, ...]
    """Workers of the pool that the file does not name; they are back at the prior."""
    scale: float = 1.0
    """What the weights in the file were multiplied by. A file of weights alone that all lie below 1 holds accuracies
    or the like; beside the weights here, of which 1 is the average, they are brought to a mean of 1."""
