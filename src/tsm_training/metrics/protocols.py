"""What a metric must look like, and what it may offer besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

import numpy as np

from tsm_training.arrays import Image

__all__ = [
    "ALLOWANCE",
    "Metric",
    "MetricThatStatesMemory",
    "PreparableMetric",
    "prepare_metric",
    "similarity_or_none",
    "stated_memory",
]

ALLOWANCE: Final = 3 + 2 * 8 * 3
"""Bytes per pixel for a metric that states nothing: the ground truth, and two pictures in float64."""

_ROUNDING: Final = 1e-9
"""A metric's own rounding may carry it past the ends by a few units in the last place."""


@runtime_checkable
class Metric(Protocol):
    """Judges a picture: called positionally as ``metric(output, ground_truth)``, both uint8, H×W×3, BGR, of one size.

    It must return a finite number in [0, 1], 1 for the best, and may raise anything: either fault ends the training
    with `MetricError`. Several threads call it at once.
    """

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of a worker's output to the ground truth, in [0, 1]."""
        ...


@runtime_checkable
class PreparableMetric(Metric, Protocol):
    """A metric that can do its work on the ground truth once, for all the outputs that are compared with it."""

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function of an output that gives exactly what ``metric(output, ground_truth)`` gives."""
        ...


@runtime_checkable
class MetricThatStatesMemory(Protocol):
    """A metric that knows how much memory it takes, so that more examples may be in flight than on suspicion."""

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes at most besides an output: what it prepares and keeps, the truth included."""
        ...


def prepare_metric(metric: Metric, ground_truth: Image) -> Callable[[Image], float]:
    """Return a function that scores outputs (uint8, H×W×3, BGR) against one ground truth of the same size."""
    if isinstance(metric, PreparableMetric):
        return metric.prepare(ground_truth)
    return lambda output: metric(output, ground_truth)


def stated_memory(metric: object, pixels: int) -> int | None:
    """Return how many bytes a metric says that it takes for pictures of so many pixels; None where it says nothing.

    A statement that raises, or is no whole number of at least 0, is none.
    """
    if not isinstance(metric, MetricThatStatesMemory):
        return None
    try:
        stated: object = metric.working_memory(pixels)
    except Exception:
        return None
    return stated if isinstance(stated, int) and stated >= 0 else None


def similarity_or_none(value: object) -> float | None:
    """Return what a metric gave as a float in [0, 1], or None if it is no finite number there."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return None
    if not -_ROUNDING <= value <= 1.0 + _ROUNDING:  # before it becomes a float: a whole number may be too large
        return None
    return min(1.0, max(0.0, float(value)))
