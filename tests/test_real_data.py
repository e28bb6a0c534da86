"""What must hold on real photographs and film looks; read from the folder that TSM_TRAINING_REAL_DATA names."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsm_training import (
    BayesianWeightLearner,
    TrainingManager,
    TrainingResults,
    WorkerPool,
    create_color_transfer_workers,
)

REAL_DATA = os.environ.get("TSM_TRAINING_REAL_DATA", "")
COUNT = 64

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL_DATA, reason="TSM_TRAINING_REAL_DATA names no folder of real photographs"),
]


@pytest.fixture(scope="module")
def pool() -> WorkerPool:
    pool = WorkerPool(max_workers=10)
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    return pool


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, pool: WorkerPool) -> Path:
    """A database of real triples whose workers were all run once."""
    folder = tmp_path_factory.mktemp("real")
    builder = Path(REAL_DATA) / "build_examples.py"
    subprocess.run([sys.executable, str(builder), str(folder), "--count", str(COUNT), "--size", "128"], check=True)
    with TrainingManager(pool, BayesianWeightLearner(), folder / "tsm_training.db") as manager:
        assert len(manager.add_manifest(folder / "manifest.csv")) == COUNT
        manager.validate()
    return folder / "tsm_training.db"


def trained(database: Path, pool: WorkerPool, examples: int, epochs: int) -> TrainingResults:
    """Train a fork that starts from nothing, with the rate of the guide's example, on the newest so many examples."""
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.15), database) as manager:
        trial = manager.with_learner(manager.weight_learner.fork())
        trial.reset_weights()
        return trial.train(num_examples=examples, epochs=epochs, validation_split=0.0, verbose=False)


def test_weights_stay_in_the_guides_ranges_and_spread_with_evidence(database: Path, pool: WorkerPool) -> None:
    spreads = []
    for examples, epochs, low, high in ((10, 1, 0.9, 1.1), (30, 3, 0.85, 1.15), (COUNT, 5, 0.75, 1.25)):
        session = trained(database, pool, examples, epochs)["session"]
        assert set(session["initial_weights"].values()) == {1.0}
        assert len(session["initial_weights"]) == len(pool.workers)
        weights = session["final_weights"].values()
        assert low <= min(weights) < max(weights) <= high
        assert sum(weights) / len(weights) == pytest.approx(1.0, abs=1e-12)
        spreads.append(max(weights) - min(weights))
    assert spreads == sorted(spreads)


def test_accuracy_rises_over_epochs_and_reaches_the_best_worker(database: Path, pool: WorkerPool) -> None:
    history = trained(database, pool, COUNT, 5)["session"]["metrics_history"]
    accuracies = [entry["avg_accuracy"] for entry in history]
    assert all(after >= before - 0.001 for before, after in itertools.pairwise(accuracies))
    assert accuracies[-1] >= accuracies[0]  # a simple answer is followed in full from the first epoch on
    best = max(mean for mean in history[-1]["worker_accuracies"].values() if mean is not None)
    assert accuracies[-1] >= best - 0.005
    assert accuracies[-1] > history[-1]["equal_weights_accuracy"] + 0.02


def test_one_training_fills_the_store_and_survives_a_restart(database: Path, pool: WorkerPool) -> None:
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.15), database) as manager:
        results = manager.train(epochs=3, verbose=False)
        assert json.dumps(results, allow_nan=False)
        assert manager.data_manager.get_dataset_stats()["processed_examples"] == COUNT
        weights = manager.weight_learner.get_all_weights()
        validation = results["validation"]
        assert validation["avg_accuracy"] is not None
        assert validation["equal_weights_accuracy"] is not None
        assert validation["avg_accuracy"] > validation["equal_weights_accuracy"]
    with TrainingManager(pool, BayesianWeightLearner(), database) as manager:
        assert manager.weight_learner.get_all_weights() == weights
        assert all(entry["is_stored"] for entry in manager.training_engine.explain_cache())


def test_previews_judge_the_blend_like_the_real_pictures(database: Path, pool: WorkerPool) -> None:
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.15), database) as manager:
        manager.train(epochs=3, verbose=False)
        ids = [example.example_id for example in manager.data_manager.get_all_examples(limit=12)]
        quick, full = manager.validate(ids), manager.validate(ids, full=True)
    real = {each["example_id"]: each["scores"]["trained"] for each in full["per_example"]}
    # These examples have more previews than a store keeps.
    small = {each["example_id"]: each["scores"]["trained"] for each in quick["per_example"] if each["scores"]}
    assert len(real) == 12
    assert quick["ensemble_examples"] == len(small) > 4
    assert quick["ensemble_accuracy"] == pytest.approx(sum(real[i] for i in small) / len(small), abs=0.01)
