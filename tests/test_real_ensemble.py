"""Training pays on real photographs and film looks: held-out pictures of full size, under two metrics."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import attrs
import numpy as np
import pytest

from tsm_training import (
    BayesianWeightLearner,
    GuideSimilarity,
    Image,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.metrics import ColorDifference

REAL_DATA = os.environ.get("TSM_TRAINING_REAL_DATA", "")

pytestmark = pytest.mark.skipif(not REAL_DATA, reason="TSM_TRAINING_REAL_DATA names no folder of real photographs")

EXAMPLES, SPLITS = 160, 5


@attrs.frozen
class Remembering(Worker):
    """Answers as another worker does, and does not work twice for the same pictures."""

    worker: Worker
    worker_id: str = attrs.field(default=attrs.Factory(lambda self: self.worker.worker_id, takes_self=True))
    _answers: dict[str, Image] = attrs.field(factory=dict, init=False)

    def process(self, data: Mapping[str, Image]) -> Image:
        request = hashlib.sha256(data["source"].tobytes() + data["target"].tobytes()).hexdigest()
        if request not in self._answers:
            self._answers[request] = self.worker.process(data)
        return self._answers[request]


@pytest.fixture(scope="module")
def pool() -> WorkerPool:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(Remembering(worker))
    return pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    builder = Path(REAL_DATA) / "build_examples.py"
    command = [sys.executable, str(builder), str(folder), "--count", str(EXAMPLES), "--size", "160"]
    subprocess.run(command, check=True)
    return folder


def held_out_means(folder: Path, pool: WorkerPool, metric: Any) -> list[Mapping[str, float]]:
    """Return what every contender's pictures score on examples that were held out, for five random divisions."""
    path = folder / f"{type(metric).__name__}.db"
    settings = {"engine_factory": TrainingEngine.using(metric)}
    means = []
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.2), path, **settings) as manager:
        manager.add_manifest(folder / "manifest.csv")
        examples = manager.data_manager.get_all_examples()
        for seed in range(SPLITS):
            order = np.random.default_rng(seed).permutation(EXAMPLES)
            training, held_out = np.split(order, [EXAMPLES * 7 // 10])
            trial = manager.with_learner(BayesianWeightLearner(alpha=0.2).fork())
            trial.training_engine.train_batch([examples[i] for i in sorted(training)], epochs=20, verbose=False)
            report = trial.training_engine.validate([examples[i] for i in sorted(held_out)], full=True)
            assert report["ensemble_examples"] == len(held_out)
            means.append({name: cast("float", each["mean"]) for name, each in report["contenders"].items()})
    return means


def averaged(means: list[Mapping[str, float]], name: str) -> float:
    return fmean(each[name] for each in means)


def test_under_the_guides_metric_the_ensemble_is_as_good_as_the_best_worker(folder: Path, pool: WorkerPool) -> None:
    means = held_out_means(folder, pool, GuideSimilarity())
    trained = averaged(means, "trained")
    assert trained >= averaged(means, "best_single") - 0.002
    assert trained >= averaged(means, "equal_weights") + 0.02


def test_under_ciede2000_the_ensemble_is_as_near_as_anything_and_much_nearer_than_equal_weights(
    folder: Path, pool: WorkerPool
) -> None:
    means = held_out_means(folder, pool, ColorDifference())
    trained, best_single, equal, untouched = (
        100.0 * (1.0 - averaged(means, name)) for name in ("trained", "best_single", "equal_weights", "untouched")
    )
    assert trained <= 1.005 * min(best_single, equal, untouched)
    assert trained <= 0.92 * equal
