"""What training gains on real photographs and film looks, held-out pictures of full size.

    python -m tests.real_ensembles FOLDER --size 512

writes the figures that ``docs/explanation/gain.md`` shows; FOLDER is that which TSM_TRAINING_REAL_DATA names. The tests
ask for the same figures of small pictures. All random numbers come from fixed seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import attrs
import numpy as np

from tsm_training import (
    BayesianWeightLearner,
    GuideSimilarity,
    Image,
    TrainableWorker,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.metrics import ColorDifference

__all__ = ["averaged", "build_examples", "held_out_means", "remembering_pool"]

EXAMPLES = 160


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


def remembering_pool() -> WorkerPool:
    """Return the built-in workers that learn nothing, each of which remembers its answers."""
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        if not isinstance(worker, TrainableWorker):
            pool.register_worker(Remembering(worker))
    return pool


def build_examples(data: Path, folder: Path, size: int, count: int = EXAMPLES) -> None:
    """Write the triples and their manifest; the longest side of a picture has `size` pixels."""
    options = ["--count", str(count), "--size", str(size)]
    subprocess.run([sys.executable, str(data / "build_examples.py"), str(folder), *options], check=True)


def held_out_means(folder: Path, pool: WorkerPool, metric: Any, splits: int = 5) -> list[Mapping[str, float]]:
    """Return what every baseline's pictures score on examples that were held out, for some random divisions."""
    path = folder / f"{type(metric).__name__}.db"
    factory = TrainingEngine.using(metric)
    means: list[Mapping[str, float]] = []
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.2), path, engine_factory=factory) as manager:
        manager.add_manifest(folder / "manifest.csv")
        examples = manager.data_manager.get_all_examples()
        for seed in range(splits):
            order = np.random.default_rng(seed).permutation(len(examples))
            training, held_out = np.split(order, [len(examples) * 7 // 10])
            trial = manager.with_learner(BayesianWeightLearner(alpha=0.2).fork())
            trial.training_engine.train_batch([examples[i] for i in sorted(training)], epochs=20, verbose=False)
            report = trial.training_engine.validate([examples[i] for i in sorted(held_out)], full=True)
            assert report["ensemble_examples"] == len(held_out)
            means.append({name: cast("float", each["mean"]) for name, each in report["contenders"].items()})
    return means


def averaged(means: list[Mapping[str, float]], name: str) -> float:
    return fmean(each[name] for each in means)


def main() -> None:
    """Write a line for each baseline."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_ensembles", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of photographs and looks")
    parser.add_argument("--size", type=int, default=512, help="the longest side of a picture, in pixels")
    options = parser.parse_args()
    pool = remembering_pool()
    with tempfile.TemporaryDirectory() as name:
        build_examples(options.data, Path(name), options.size)
        guide, color = (held_out_means(Path(name), pool, metric) for metric in (GuideSimilarity(), ColorDifference()))
    for name in guide[0]:
        error = 100.0 * (1.0 - averaged(color, name))
        print(f"{name:14} {averaged(guide, name):.4f}   dE {error:.2f}", flush=True)


if __name__ == "__main__":
    main()
