"""What epochs cost, and what a comparison costs: ratios measured side by side; exits with 1 if one is out of bounds.

python benchmarks/training.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from tsm_training import (
    BayesianWeightLearner,
    GuideSimilarity,
    Image,
    InMemoryStore,
    TrainingManager,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.images import write_image
from tsm_training.metrics import lab_histograms, mean_squared_error

EXAMPLES = 8
ROUNDS = 3


def photograph(seed: int, height: int, width: int) -> Image:
    """Return smooth colours with grain: as much work for histograms and encoders as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int32)
    return np.asarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255), np.uint8)


def manager(folder: Path) -> TrainingManager:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    result = TrainingManager(pool, BayesianWeightLearner(alpha=0.15), storage=InMemoryStore())
    for seed in range(EXAMPLES):
        paths = [folder / f"{role}_{seed}.png" for role in ("source", "target", "truth")]
        for offset, path in enumerate(paths):
            if not path.exists():
                write_image(path, photograph(3 * seed + offset, 240, 320))
        result.add_training_example(paths[0], paths[1], paths[2])
    return result


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def ratio(numerator: Callable[[], Callable[[], object]], denominator: Callable[[], Callable[[], object]]) -> float:
    """Return the median of the ratios of neighbouring runs; each is prepared outside the clock."""
    return median(timed(numerator()) / timed(denominator()) for _ in range(ROUNDS))


def five_epochs_against_one(folder: Path) -> float:
    def training(epochs: int) -> Callable[[], object]:
        fresh = manager(folder)
        return lambda: fresh.train(epochs=epochs, verbose=False)

    return ratio(lambda: training(5), lambda: training(1))


def second_training_against_first(folder: Path) -> float:
    def first() -> Callable[[], object]:
        fresh = manager(folder)
        return lambda: fresh.train(verbose=False)

    def second() -> Callable[[], object]:
        fresh = manager(folder)
        fresh.train(verbose=False)
        return lambda: fresh.train(verbose=False)

    return ratio(second, first)


def similarity_against_its_primitives() -> float:
    truth, output = photograph(1, 1000, 1000), photograph(2, 1000, 1000)
    score = GuideSimilarity().prepare(truth)
    lab_truth = np.asarray(cv2.cvtColor(truth, cv2.COLOR_BGR2LAB), np.uint8)

    def primitives() -> object:
        lab = np.asarray(cv2.cvtColor(output, cv2.COLOR_BGR2LAB), np.uint8)
        return mean_squared_error(lab, lab_truth), lab_histograms(lab)

    return ratio(lambda: lambda: [score(output) for _ in range(10)], lambda: lambda: [primitives() for _ in range(10)])


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        figures = {
            "five epochs / one epoch": (five_epochs_against_one(Path(name)), 1.5),
            "second training / first": (second_training_against_first(Path(name)), 0.5),
            "similarity / its primitives": (similarity_against_its_primitives(), 1.3),
        }
    for what, (value, bound) in figures.items():
        print(f"{what:30} {value:5.2f}   (at most {bound})")
    return int(any(value > bound for value, bound in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
