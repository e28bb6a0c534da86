"""Ensembles whose truth is known: pictures made so that the best answer can be worked out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from support import picture, pool_of, save
from tsm_training import BayesianWeightLearner, FunctionWorker, Image, InMemoryStore, TrainingEngine, TrainingManager
from tsm_training.images import read_image
from tsm_training.metrics import ColorDifference, color_difference

SIZE = (24, 32)


def rng_of(image: Image, name: str) -> np.random.Generator:
    """Return random numbers that depend on a picture and a name only: a worker's luck on this example."""
    digest = hashlib.sha256(image.tobytes() + name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def shifted(image: Image, error: Any) -> Image:
    return np.clip(np.rint(image.astype(np.float64) + error), 0, 255).astype(np.uint8)


def middling(seed: int, size: tuple[int, int] = SIZE) -> Image:
    """Return a picture whose colours keep away from the ends, so that errors are not clipped."""
    return (64 + picture(seed, *size).astype(np.float64) / 2).astype(np.uint8)


def erring(name: str, error: Callable[[Image, np.random.Generator], Any]) -> FunctionWorker:
    """Return a worker that gives the source with an error of its own; the source plays the wanted picture's part."""
    return FunctionWorker(
        name, lambda source, _target: shifted(source, error(source, rng_of(source, name))), version="1"
    )


def manager_of(
    folder: Path,
    workers: Sequence[FunctionWorker],
    truth: Callable[[Image], Image],
    examples: int,
    *,
    metadata: Callable[[int], Mapping[str, Any]] = lambda _number: {},
    metric: Any = None,
    **settings: Any,
) -> TrainingManager:
    """Return a manager with examples whose ground truth is a function of the source."""
    factory = TrainingEngine.using(metric or ColorDifference(), **settings)
    learner = BayesianWeightLearner(alpha=0.2)
    manager = TrainingManager(pool_of(*workers), learner, storage=InMemoryStore(), engine_factory=factory)
    rows = []
    for number in range(examples):
        source = middling(2 * number)
        rows.append(
            (
                save(folder / f"source_{number}.png", source),
                save(folder / f"target_{number}.png", middling(2 * number + 1)),
                save(folder / f"truth_{number}.png", truth(source)),
                metadata(number),
            )
        )
    manager.add_training_examples(rows)
    return manager


def held_out_pictures(
    manager: TrainingManager, example_ids: Sequence[str], group_by: str | None = None
) -> list[tuple[Image, Image, dict[str, Image]]]:
    """Return the ensemble's picture, the ground truth, and every worker's picture of some examples."""
    found = []
    for example_id in example_ids:
        example = manager.data_manager.get_example(example_id)
        group = None if group_by is None else example.metadata[group_by]
        answer = manager.predict(example.source_path, example.target_path, run_all=True, group=group)
        outputs = {w: r.value for w, r in answer.results.items() if r.value is not None}
        found.append((answer.image, read_image(example.ground_truth_path), outputs))
    return found


def mean_color_difference(pictures: Sequence[tuple[Image, Image]]) -> float:
    return float(np.mean([color_difference(output, truth) for output, truth in pictures]))
