"""What evaluating smaller pictures saves, and how far it moves the weights: `TrainingEngine(evaluation_side=…)`.

python benchmarks/evaluation_side.py [--full]

The examples are those of the quick start, at 512 pixels (1024 with --full). Times are CPU seconds of this process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from photographs import make_triples, packaged_photographs, read_photographs
from tsm_training import GuideSimilarity, InMemoryStore, TrainingEngine, TrainingManager
from tsm_training.images import write_image

FULL = "--full" in sys.argv
SIDE, EXAMPLES = (1024, 24) if FULL else (512, 10)
MOST_CHANGE = 0.02
"""Of a weight."""


def trained(rows: list[tuple[Path, Path, Path]], side: int | None) -> tuple[float, Mapping[str, float]]:
    factory = TrainingEngine.using(GuideSimilarity(), evaluation_side=side)
    manager = TrainingManager(storage=InMemoryStore(), engine_factory=factory)
    manager.add_training_examples(rows)
    started = time.process_time()
    manager.train(epochs=5, validation_split=0.0, verbose=False)
    return time.process_time() - started, manager.weight_learner.get_all_weights()


def rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def main() -> int:
    cv2.setNumThreads(1)
    triples = make_triples(list(read_photographs(packaged_photographs())), EXAMPLES)
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for number, triple in enumerate(triples):
            row = [Path(name) / f"{role}_{number}.jpg" for role in ("source", "target", "truth")]
            for path, picture in zip(row, (triple.source, triple.target, triple.ground_truth), strict=True):
                scale = SIDE / max(picture.shape[:2])
                write_image(path, np.asarray(cv2.resize(picture, None, fx=scale, fy=scale), np.uint8))
            rows.append((row[0], row[1], row[2]))
        whole, weights = trained(rows, None)
        before = np.array([weights[worker_id] for worker_id in sorted(weights)])
        print(f"{len(rows)} examples of {SIDE} pixels, {whole:.1f} s; weights {before.min():.3f} to {before.max():.3f}")
        worst = 0.0
        for part in (2, 4):
            seconds, weights = trained(rows, SIDE // part)
            now = np.array([weights[worker_id] for worker_id in sorted(weights)])
            change, order = np.abs(now - before).max(), np.corrcoef(rank(now), rank(before))[0, 1]
            worst = max(worst, float(change))
            print(
                f"side {SIDE // part:4}: {whole / seconds:4.1f} × cheaper, a weight moves by {change:.4f} at most",
                end="",
            )
            print(f" (at most {MOST_CHANGE}), rank correlation {order:.3f}")
    return int(worst > MOST_CHANGE)


if __name__ == "__main__":
    sys.exit(main())
