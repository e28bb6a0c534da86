"""Fitting the ensemble's blend when it is trained: on which examples, how far it is followed, and what it costs."""

from __future__ import annotations

import pickle
import struct
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from tests.support import (
    brightening,
    manager_with,
    picture,
    pool_of,
)

from tsm_training import BayesianWeightLearner, Image, TrainingEngine, TrainingManager
from tsm_training.data import Preview, TrainingExample
from tsm_training.ensemble import (
    BlendProblem,
    BlendSolver,
    decode_preview,
    encode_preview,
)
from tsm_training.errors import (
    ImageFormatError,
    TrainingStoppedError,
)
from tsm_training.evidence import FittedBlend, LearnedState


def by_level(output: Image, truth: Image) -> float:
    """Return how near two pictures are on average; cheap, and blending helps."""
    return 1.0 - abs(float(output.mean()) - float(truth.mean())) / 255.0


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


def two_sided_pool(calls: list[str] | None = None) -> Any:
    """Return workers on both sides of the ground truth, 20 levels up: a blend is better than each of them."""
    return pool_of(brightening("above", 50, calls), brightening("below", 0, calls), brightening("far", -60, calls))


def blending_manager(folder: Path, examples: int = 6, *, alpha: float = 0.5, **settings: Any) -> TrainingManager:
    metric = settings.pop("metric", closeness)
    engine = {name: settings.pop(name) for name in ("blend_solver", "executor", "memory_budget") if name in settings}
    settings.setdefault("pool", two_sided_pool())
    return manager_with(
        folder,
        examples,
        learner=BayesianWeightLearner(alpha=alpha),
        engine_factory=TrainingEngine.using(metric, **engine),
        **settings,
    )


def state_of(manager: TrainingManager) -> LearnedState:
    return manager.weight_learner.cell.state


def fitted_of(manager: TrainingManager) -> FittedBlend:
    fitted = state_of(manager).fitted
    assert fitted is not None
    return fitted


def digests_of(examples: Sequence[TrainingExample]) -> tuple[str, ...]:
    return tuple(sorted(example.known_files.digest for example in examples))


def all_examples(manager: TrainingManager) -> list[TrainingExample]:
    return manager.data_manager.get_all_examples()


def examples_by_id(manager: TrainingManager, ids: Sequence[str]) -> list[TrainingExample]:
    return [manager.data_manager.get_example(example_id) for example_id in ids]


def train_all(manager: TrainingManager, **settings: Any) -> Any:
    return manager.train(validation_split=0.0, verbose=False, **settings)


# --- previews that cannot be used -----------------------------------------------------------------------------------


def oversized() -> bytes:
    """Return a preview whose header says that it has 100,000 × 100,000 pixels, with the right checksum."""
    png = encode_preview(picture(0))
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize(
    "damaged",
    [b"", encode_preview(picture(0))[:12], encode_preview(picture(0))[:40], b"no picture", oversized()],
    ids=["empty", "header cut off", "picture cut off", "something else", "beyond all bounds"],
)
def test_damaged_bytes_are_no_preview(damaged: bytes) -> None:
    with pytest.raises(ImageFormatError, match="preview"):
        decode_preview(damaged)


@pytest.mark.parametrize("damaged", [b"no picture", encode_preview(picture(0, 5, 7))], ids=["junk", "another size"])
@pytest.mark.parametrize("name", ["target", "ground_truth", "a worker's"])
def test_an_example_whose_preview_is_damaged_is_left_out(tmp_path: Path, name: str, damaged: bytes) -> None:
    manager = blending_manager(tmp_path, examples=4)
    manager.validate()
    spoiled, *others = sorted(all_examples(manager), key=lambda example: example.known_files.digest)
    store, digest = manager.data_manager, spoiled.known_files.digest
    previews = store.load_previews(digest)
    name = next(each for each in previews if each.startswith("above@")) if name == "a worker's" else name
    store.save_evaluations([], [Preview(digest, name, damaged)])
    train_all(manager)
    assert fitted_of(manager).digests == digests_of(others)
    assert manager.validate()["ensemble_examples"] == 3


# --- where things run, and when they stop ---------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Attached(BlendSolver):
    """A solver that holds on to something that stays in this process."""

    name: str = "attached"
    lock: Any = attrs.field(factory=threading.Lock)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        return {problem.worker_ids[0]: 1.0}


def test_an_engine_travels_without_its_solver(tmp_path: Path) -> None:
    manager = blending_manager(tmp_path, examples=0, blend_solver=Attached())
    travelled = pickle.loads(pickle.dumps(manager.training_engine))
    assert travelled.calculate_similarity(picture(1), picture(1)) == 1.0


def test_a_search_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    """With a slow metric it may take long, so it is asked between any two pictures."""
    judged: list[int] = []

    def counted(output: Image, truth: Image) -> float:
        judged.append(1)
        return closeness(output, truth)

    manager = blending_manager(tmp_path, metric=counted)
    before = state_of(manager)
    whole_pictures = 18
    with pytest.raises(TrainingStoppedError):
        train_all(manager, should_stop=lambda: len(judged) >= whole_pictures + 3)
    assert len(judged) == whole_pictures + 3
    assert state_of(manager) == before
    assert manager.data_manager.get_all_sessions()[-1].status == "interrupted"
