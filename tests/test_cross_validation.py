"""Judging training on few examples: each held out once, no worker run again, and nothing of it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.support import brightening, manager_with, pool_of

from tsm_training import BayesianWeightLearner, Image, TrainingEngine, TrainingManager


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


def manager_of(folder: Path, examples: int = 8, **settings: Any) -> TrainingManager:
    workers = (("above", 50), ("below", 0), ("far", -60))
    pool = settings.pop("pool", None) or pool_of(*(brightening(name, levels) for name, levels in workers))
    engine = TrainingEngine.using(settings.pop("metric", closeness))
    learner = settings.pop("learner", None) or BayesianWeightLearner(alpha=0.5)
    return manager_with(folder, examples, pool=pool, learner=learner, engine_factory=engine, **settings)


def test_with_each_example_in_a_fold_of_its_own_there_is_a_control_too(tmp_path: Path) -> None:
    results = manager_of(tmp_path, 5).cross_validate(5)
    assert results["folds"] == 5
    assert all("control" in each["scores"] for each in results["per_example"])
    assert results["verdict"] is not None
    assert results["verdict"]["relation"] is not None
