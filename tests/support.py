"""Small pictures, workers and pools that the tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import attrs
import cv2
import numpy as np

from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    Image,
    InMemoryStore,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    TrainingStore,
    Worker,
    WorkerPool,
)
from tsm_training.learning import LearnedState


def picture(seed: int, height: int = 12, width: int = 16) -> Image:
    """Return a smooth picture with colours of its own, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def brighter(image: Image, levels: int) -> Image:
    return np.clip(image.astype(np.int32) + levels, 0, 255).astype(np.uint8)


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(encoded.tobytes())
    return path


def save_triple(
    folder: Path, seed: int, *, levels: int = 20, size: tuple[int, int] = (12, 16)
) -> tuple[Path, Path, Path]:
    """Write a source, a target, and the target made brighter as ground truth."""
    target = picture(2 * seed + 1, *size)
    return (
        save(folder / f"source_{seed}.png", picture(2 * seed)),
        save(folder / f"target_{seed}.png", target),
        save(folder / f"ground_truth_{seed}.png", brighter(target, levels)),
    )


@attrs.frozen
class Brightening(Worker):
    """Makes the target brighter, and notes its calls where a list is given (privately: it is no setting)."""

    worker_id: str
    levels: int
    _calls: list[str] | None = None

    def process(self, data: Mapping[str, Image]) -> Image:
        if self._calls is not None:
            self._calls.append(self.worker_id)
        return brighter(data["target"], self.levels)


def brightening(name: str, levels: int, calls: list[str] | None = None) -> Worker:
    return Brightening(name, levels, calls)


def failing(name: str, error: BaseException | None = None) -> Worker:
    def process(_source: Image, _target: Image) -> Image:
        raise error or RuntimeError("this worker always fails")

    return FunctionWorker(name, process, version="1")


def pool_of(*workers: Worker) -> WorkerPool:
    pool = WorkerPool(max_workers=4)
    for worker in workers:
        pool.register_worker(worker)
    return pool


def usual_pool(calls: list[str] | None = None) -> WorkerPool:
    """Return three workers of which ``near`` comes nearest to a ground truth that is 20 levels brighter."""
    return pool_of(*(brightening(name, levels, calls) for name, levels in (("far", -60), ("mid", 60), ("near", 22))))


def manager_with(folder: Path, examples: int = 6, solver: str = "best_single", **settings: Any) -> TrainingManager:
    """Return a manager of the usual pool, an in-memory store and some examples, unless `settings` say otherwise.

    The quickest of solvers fits its blends: ``"auto"``, the default of engines, takes more time than all the rest.
    """
    settings.setdefault("engine_factory", functools.partial(TrainingEngine, blend_solver=solver))
    pool = settings.pop("pool", None) or usual_pool()
    learner = settings.pop("learner", None) or BayesianWeightLearner(alpha=0.15)
    if "db_path" not in settings:
        settings.setdefault("storage", InMemoryStore())
    manager = TrainingManager(pool, learner, **settings)
    if examples:
        manager.add_training_examples([save_triple(folder, seed) for seed in range(examples)])
    return manager


class ByBrightness(TrainingEngine):
    """A metric in the guide's way: an undecorated subclass that overrides the hook."""

    def calculate_similarity(self, img1: Image, img2: Image) -> float:
        return 1.0 - abs(float(img1.mean()) - float(img2.mean())) / 255.0


@attrs.frozen(eq=False)
class Scaled(TrainingEngine):
    """A metric with a setting of its own, on top of the engine's."""

    scale: float = attrs.field(default=1.0, kw_only=True)

    def calculate_similarity(self, img1: Image, img2: Image) -> float:
        return self.scale * super().calculate_similarity(img1, img2)


@attrs.frozen(eq=False)
class HostResult:
    """What a host's own pool returns: nothing of ours."""

    worker_id: str
    value: Any
    confidence: float = 1.0
    valid: bool = True

    def is_valid(self) -> bool:
        return self.valid


class HostPool:
    """A pool that is not ours: one method, and results of its own, in no particular order."""

    def __init__(self, workers: Mapping[str, Callable[[Image, Image], Any]]) -> None:
        self.workers_by_name = dict(workers)
        self.requests: list[dict[str, Image]] = []

    def execute_parallel(self, data: dict[str, Image]) -> Sequence[HostResult]:
        self.requests.append(data)
        return [
            HostResult(name, function(data["source"], data["target"]))
            for name, function in sorted(self.workers_by_name.items(), reverse=True)
        ]


def learned_by(manager: TrainingManager) -> LearnedState:
    """Return all that a manager's learner has learned, rows of examples included."""
    state: LearnedState = manager.weight_learner.cell.whole().state
    return state


def members(state: LearnedState, label: str | None) -> set[str]:
    """Return the digests of the examples of a group."""
    return {digest for digest, row in state.rows.items() if row.group == label}


def put_examples(store: TrainingStore, *examples: TrainingExample) -> None:
    """Put these in the place of the stored examples with their ids."""
    new = {example.example_id: example for example in examples}
    store.edit_examples(dict.fromkeys(new, lambda stored: new[stored.example_id]))


class Inline(Executor):
    """Runs everything at once, in the calling thread, and pickles nothing; or raises whatever is asked."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        if self.fault is not None:
            raise self.fault
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future
