"""Evaluating large pictures at a smaller size: cheaper, told apart in the store, and never a prediction's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from support import manager_with, picture, pool_of
from tsm_training import FunctionWorker, GuideSimilarity, Image, InMemoryStore, TrainingEngine, TrainingManager
from tsm_training.color_transfer import LearnedLook
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.images import read_image, write_image
from tsm_training.workers import ThreadRunner

SIZES: list[tuple[int, int]] = []


def noting(_source: Image, target: Image) -> Image:
    SIZES.append(target.shape[:2])
    return target


def triples(folder: Path, count: int, size: tuple[int, int] = (150, 300), ending: str = ".png") -> list[Any]:
    rows = []
    for number in range(count):
        row = tuple(folder / f"{role}_{number}{ending}" for role in ("source", "target", "truth"))
        for offset, path in enumerate(row):
            write_image(path, picture(3 * number + offset, *size))
        rows.append(row)
    return rows


def manager_on(store: InMemoryStore, side: int | None, *workers: Any) -> TrainingManager:
    factory = TrainingEngine.using(GuideSimilarity(), evaluation_side=side, blend_solver="best_single")
    pool = pool_of(*workers) if workers else pool_of(FunctionWorker("noting", noting, version="1"))
    return manager_with(Path(), 0, pool=pool, storage=store, engine_factory=factory)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_pictures_are_averaged_down(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"large{ending}"
    write_image(path, cv2.resize(picture(1, 20, 40), (1000, 500), interpolation=cv2.INTER_CUBIC))
    whole = read_image(path)
    for side, size in ((100, (50, 100)), (333, (166, 333)), (1000, (500, 1000)), (5000, (500, 1000))):
        reduced = read_image(path, longest_side=side)
        assert reduced.shape[:2] == size
        expected = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - expected).mean() < 1.5
    with pytest.raises(InvalidArgumentError, match="longest_side"):
        read_image(path, longest_side=0)


def test_workers_and_judge_get_the_small_pictures_and_predictions_the_large_ones(tmp_path: Path) -> None:
    SIZES.clear()
    manager = manager_on(InMemoryStore(), 100)
    manager.add_training_examples(triples(tmp_path, 3))
    manager.train(verbose=False, validation_split=0.0)
    assert set(SIZES) == {(50, 100)}
    row = triples(tmp_path, 1)[0]
    assert manager.predict(row[0], row[1]).image.shape == (150, 300, 3)


def test_another_size_is_another_result(tmp_path: Path) -> None:
    store = InMemoryStore()
    manager_on(store, None).add_training_examples(triples(tmp_path, 2))
    for side, runs in ((None, 2), (100, 2), (100, 0), (200, 2), (None, 0)):
        SIZES.clear()
        manager = manager_on(store, side)
        stored = {entry["is_stored"] for entry in manager.training_engine.explain_cache()}
        assert stored == {runs == 0}
        manager.validate()
        assert len(SIZES) == runs


def test_workers_that_learn_note_what_they_see(tmp_path: Path) -> None:
    store = InMemoryStore()
    manager_on(store, None, LearnedLook()).add_training_examples(triples(tmp_path, 4))
    versions = set()
    for side in (None, 100):
        manager = manager_on(store, side, LearnedLook(), FunctionWorker("noting", noting, version="1"))
        manager.train(verbose=False, validation_split=0.0)
        versions.add(manager.weight_learner.cell.snapshot.fits["learned_look"])
        assert len(manager.looks().alone) == 4
    assert len(versions) == 2


def test_less_memory_is_taken(tmp_path: Path) -> None:
    manager = manager_on(InMemoryStore(), None)
    files = manager.add_training_examples(triples(tmp_path, 1, (1500, 3000), ".jpg"))[0].known_files
    workers = manager.training_engine.worker_pool.workers  # type: ignore[attr-defined]
    whole, reduced = (
        bytes_to_evaluate(files, workers, GuideSimilarity(), ThreadRunner(), side) for side in (None, 300)
    )
    assert reduced < whole / 3


@pytest.mark.parametrize("side", [0, 63, 1.5, True, "1024"])
def test_another_size_than_a_number_of_pixels_is_refused(side: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="evaluation_side"):
        manager_on(InMemoryStore(), side)
