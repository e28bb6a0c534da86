"""What fitting the blend costs beside evaluating the same examples once; exits with 1 if it is out of bounds.

At one megapixel, with twelve workers and the guide's metric. Both are measured in one run, as processor time: what a
fit does besides is waiting for nobody.

python benchmarks/blend.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import cv2
import numpy as np

from tsm_training import (
    BayesianWeightLearner,
    Image,
    InMemoryStore,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.evaluation.fitting import Fitter
from tsm_training.images import write_image

EXAMPLES, WORKERS, ROUNDS = 4, 12, 3
HEIGHT, WIDTH = 1000, 1000
MOST = 0.15


def photograph(seed: int) -> Image:
    """Return smooth colours with grain: as much work for histograms and encoders as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int32)
    return np.asarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255), np.uint8)


def engine_with_examples(folder: Path) -> TrainingEngine:
    pool = WorkerPool()
    for worker in create_color_transfer_workers()[:WORKERS]:
        pool.register_worker(worker)
    manager = TrainingManager(pool, BayesianWeightLearner(), storage=InMemoryStore())
    for number in range(EXAMPLES):
        paths = [folder / f"{role}_{number}.png" for role in ("source", "target", "truth")]
        for offset, path in enumerate(paths):
            write_image(path, photograph(3 * number + offset))
        manager.add_training_example(paths[0], paths[1], paths[2])
    return manager.training_engine


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


def measured(engine: TrainingEngine, examples: Sequence[TrainingExample]) -> tuple[float, int]:
    """Return the time of a fit, as a part of that of evaluating, and how often it asked the metric."""
    evaluating, _run = timed(lambda: attrs.evolve(engine.evaluator, reevaluate=True).evaluate(examples))
    run = engine.evaluator.evaluate(examples)
    calls = [0]

    def count() -> None:
        calls[0] += 1

    fitter = attrs.evolve(Fitter.of(engine.evaluator, run, engine.blend_solver), poll=count)
    fitting, fits = timed(lambda: fitter.fit(run.evaluated))
    assert fits.fitted is not None
    return fitting / evaluating, calls[0]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        engine = engine_with_examples(Path(name))
        examples = engine.store.get_all_examples()
        engine.evaluator.evaluate(examples)  # tables and caches of first calls are nobody's cost
        rounds = [measured(engine, examples) for _ in range(ROUNDS)]
    ratio, calls = median(ratio for ratio, _calls in rounds), rounds[0][1]
    print(f"fitting / evaluating      {ratio:5.3f}   (at most {MOST})")
    print(f"metric calls per example  {calls / EXAMPLES:5.1f}   (at most 150)")
    return int(ratio > MOST or calls > 150 * EXAMPLES)


if __name__ == "__main__":
    sys.exit(main())
