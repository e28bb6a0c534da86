"""Ensembles whose workers make pictures brighter by so many levels, and a metric that sees nothing else.

A small module, for the source text of workers and metrics is read again and again for their fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from support import brighter, manager_with, pool_of
from tsm_training import BayesianWeightLearner, Image, TrainingEngine, TrainingManager, Worker, WorkerPool

LEVELS: Final[Mapping[str, int]] = {"above": 50, "below": 0, "far": -60}
"""Around ground truths that are 20 levels up: ``below`` is the best worker, and a blend of two is better."""


@attrs.frozen
class Level(Worker):
    """Makes the target brighter, and notes its calls where a list is given (privately: it is no setting)."""

    worker_id: str
    levels: int
    _calls: list[str] | None = None

    def process(self, data: Mapping[str, Image]) -> Image:
        if self._calls is not None:
            self._calls.append(self.worker_id)
        return brighter(data["target"], self.levels)


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


def level_pool(calls: list[str] | None = None, **levels: int) -> WorkerPool:
    return pool_of(*(Level(name, level, calls) for name, level in (levels or LEVELS).items()))


def level_manager(
    folder: Path, examples: int = 6, calls: list[str] | None = None, *, alpha: float = 0.5, **settings: Any
) -> TrainingManager:
    """Return a manager in memory, with the quickest of solvers unless settings of manager or engine say otherwise."""
    engine: dict[str, Any] = {"metric": closeness, "blend_solver": "best_single"}
    for name in ("metric", "blend_solver", "rope", "executor", "memory_budget"):
        if name in settings:
            engine[name] = settings.pop(name)
    settings.setdefault("pool", level_pool(calls))
    learner = BayesianWeightLearner(alpha=alpha)
    return manager_with(folder, examples, learner=learner, engine_factory=TrainingEngine.using(**engine), **settings)
