"""What was observed of workers on examples.

A worker's *advantage* on one example is how much better than its peers it was there: with *b* the mean accuracy of the
workers that gave a usable image, ``d = clip(a / b − 1, −1, 1)``; 0.08 means 8 % more accurate. A failure has
``d = −1`` and full confidence and is outside *b*, so it can only lose and changes nobody else. An image that its worker
has no confidence in (0) adds no evidence and is outside *b* too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import attrs

__all__ = ["ExampleEvidence", "Outcome", "advantages"]


class _Scored(Protocol):
    """An outcome, or what is remembered of one."""

    @property
    def accuracy(self) -> float | None: ...

    @property
    def confidence(self) -> float: ...


@attrs.frozen
class Outcome:
    """What one worker did on one example."""

    accuracy: float | None
    """The similarity of its output to the ground truth, in [0, 1]; None where the worker failed."""
    confidence: float = 1.0
    """In [0, 1]; a failure always counts with confidence 1."""


def _outcomes(value: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
    return dict(value)


@attrs.frozen
class ExampleEvidence:
    """What all workers did on one example."""

    digest: str
    """Names the example's contents, so that the same pictures are never counted twice."""
    outcomes: Mapping[str, Outcome] = attrs.field(converter=_outcomes)
    """One outcome per worker id."""
    features: tuple[float, ...] | None = None
    """Numbers that describe the pictures, for learners whose weights depend on them."""


def advantages(outcomes: Mapping[str, _Scored]) -> dict[str, float]:
    """Return every worker's advantage over its peers on one example, in [−1, 1], by worker id."""
    valid = [o.accuracy for o in outcomes.values() if o.accuracy is not None and o.confidence > 0.0]
    mean = math.fsum(valid) / max(1, len(valid))

    def advantage(accuracy: float | None) -> float:
        if accuracy is None:
            return -1.0
        # Never below −1, for no accuracy is negative.
        return min(1.0, accuracy / mean - 1.0) if mean > 0.0 else 0.0

    return {worker_id: advantage(outcome.accuracy) for worker_id, outcome in outcomes.items()}
