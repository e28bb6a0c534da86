"""Training pays on real photographs and film looks: whole held-out pictures, under two metrics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from real_ensembles import averaged, build_examples, held_out_means, remembering_pool
from tsm_training import GuideSimilarity, WorkerPool
from tsm_training.metrics import ColorDifference

REAL_DATA = os.environ.get("TSM_TRAINING_REAL_DATA", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL_DATA, reason="TSM_TRAINING_REAL_DATA names no folder of real photographs"),
]

SIZE, COUNT, SPLITS = 96, 80, 2
"""Small and few, for the sake of time: ``python -m tests.real_ensembles`` measures more and larger ones."""


@pytest.fixture(scope="module")
def pool() -> WorkerPool:
    return remembering_pool()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    build_examples(Path(REAL_DATA), folder, SIZE, COUNT)
    return folder


def test_under_the_guides_metric_the_ensemble_is_as_good_as_the_best_worker(folder: Path, pool: WorkerPool) -> None:
    means = held_out_means(folder, pool, GuideSimilarity(), SPLITS)
    trained = averaged(means, "trained")
    assert trained >= averaged(means, "best_single") - 0.002
    assert trained >= averaged(means, "equal_weights") + 0.02


def test_under_ciede2000_the_ensemble_is_as_near_as_anything_and_much_nearer_than_equal_weights(
    folder: Path, pool: WorkerPool
) -> None:
    means = held_out_means(folder, pool, ColorDifference(), SPLITS)
    trained, best_single, equal, untouched = (
        100.0 * (1.0 - averaged(means, name)) for name in ("trained", "best_single", "equal_weights", "untouched")
    )
    assert trained <= 1.005 * min(best_single, equal, untouched)
    assert trained <= 0.92 * equal
