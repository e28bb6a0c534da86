"""An application of somebody else's: type-checked against the installed wheel, and run there.

It stands for every user: it sees what the wheel holds and nothing else of this repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import assert_type

import attrs
import numpy as np

import tsm_training
from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    Image,
    InMemoryStore,
    Prediction,
    Progress,
    TrainingEngine,
    TrainingManager,
    TrainingResults,
    TrainingSession,
    TrainingStore,
    ValidationResults,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.data import HeldState, SessionCommit, StateDocuments
from tsm_training.errors import ImageNotFoundError, TsmTrainingError
from tsm_training.images import read_image, write_image


# A worker with settings, one with a plain name, and one that is a function.
@attrs.frozen
class Faded(Worker):
    worker_id: str = "faded"
    strength: float = 0.3
    version: str = "1"
    time_limit: float | None = 20.0

    def process(self, data: Mapping[str, Image]) -> Image:
        colour = data["source"].mean(axis=(0, 1))
        mixed: Image = ((1 - self.strength) * data["target"] + self.strength * colour).astype(np.uint8)
        return mixed

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        return 0.5 if data["source"].std() < 5 else 1.0


class Negative(Worker):
    worker_id = "negative"
    reads_only = True

    def process(self, data: Mapping[str, Image]) -> Image:
        return 255 - data["target"]


def shifted(source: Image, target: Image) -> Image:
    moved: Image = np.clip(target + source.mean(axis=(0, 1)) - target.mean(axis=(0, 1)), 0, 255).astype(np.uint8)
    return moved


# A metric with settings that looks at the ground truth once.
@attrs.frozen
class Closeness:
    power: float = 0.5
    version: str = "1"

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        return self.prepare(ground_truth)(output)

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        truth = ground_truth.astype(np.float64)
        return lambda output: float((1.0 - np.abs(output - truth).mean() / 255.0) ** self.power)


# The one hook of the engine, in a frozen subclass with a setting of its own.
@attrs.frozen(eq=False, slots=False)
class StrictEngine(TrainingEngine):
    power: float = attrs.field(default=2.0, kw_only=True)

    def calculate_similarity(self, img1: Image, img2: Image) -> float:
        closeness: float = (1.0 - float(np.abs(img1.astype(int) - img2).mean()) / 255.0) ** self.power
        return closeness


# A store that changes one thing, and a function that takes any.
class CountingStore(InMemoryStore):
    committed = 0

    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        type(self).committed += 1
        return super().commit_session(session_id, finish)


def newest(store: TrainingStore) -> TrainingSession:
    return store.get_all_sessions()[-1]


# A pool that the application had before.
@attrs.frozen
class HostResult:
    worker_id: str
    value: Image | None
    confidence: float = 1.0

    def is_valid(self) -> bool:
        return self.value is not None


class HostPool:
    def execute_parallel(self, data: dict[str, Image]) -> Sequence[HostResult]:
        return [HostResult("same", data["target"]), HostResult("shifted", shifted(data["source"], data["target"]))]


def write_pictures(folder: Path, count: int) -> None:
    rows, columns = np.mgrid[0:24, 0:32]
    for number in range(count):
        generator = np.random.default_rng(number)
        source, target = (
            (generator.uniform(60, 190, 3) + 30 * np.sin((rows + columns)[..., None] / generator.uniform(3, 9, 3)))
            .clip(0, 255)
            .astype(np.uint8)
            for _ in range(2)
        )
        for role, picture in (("sources", source), ("targets", target), ("truths", shifted(source, target))):
            (folder / role).mkdir(parents=True, exist_ok=True)
            write_image(folder / role / f"{number}.png", picture)


def show(progress: Progress) -> None:
    assert progress.done <= progress.total


def line(results: TrainingResults) -> str:
    session, validation = results["session"], results["validation"]
    assert_type(session["final_weights"], dict[str, float])
    accuracy = validation["avg_accuracy"]
    assert_type(accuracy, float | None)
    reached = "nothing was held out" if accuracy is None else f"{accuracy:.4f}"
    best = max(session["final_weights"], key=lambda worker_id: session["final_weights"][worker_id])
    return f"{session['num_examples']} examples, {session['epochs']} epochs: {best} leads; held out: {reached}"


def best_of(validation: ValidationResults) -> str:
    means = {worker_id: stats["mean"] for worker_id, stats in validation["worker_accuracies"].items()}
    return max(means, key=lambda worker_id: means[worker_id] or 0.0)


def trained(folder: Path) -> None:
    pool = WorkerPool(max_workers=2)
    for worker in create_color_transfer_workers()[:3]:
        pool.register_worker(worker)
    pool.register_worker(Faded())
    pool.register_worker(Faded("faded_more", strength=0.6))
    pool.register_worker(Negative())
    pool.register_worker(FunctionWorker("shifted", shifted))
    learner = BayesianWeightLearner(alpha=0.15)
    judged = TrainingEngine.using(Closeness(power=1.5))
    with TrainingManager(pool, learner, folder / "training.db", engine_factory=judged) as manager:
        manager.add_folder(folder / "pictures")
        results = manager.train(epochs=3, validation_split=0.25, verbose=False, on_progress=show)
        print(line(results))
        assert best_of(manager.validate()) == "shifted"
        assert_type(learner.get_statistics("shifted")["credible_interval"], tuple[float, float])
        prediction = manager.predict(folder / "pictures/sources/0.png", read_image(folder / "pictures/targets/0.png"))
        assert_type(prediction, Prediction)
        prediction.save(folder / "answer.png")
        manager.export_weights(folder / "weights.json")
    fresh = BayesianWeightLearner()
    with TrainingManager(pool, fresh, storage=CountingStore(), engine_factory=StrictEngine) as other:
        imported = other.import_weights(folder / "weights.json")
        assert imported.missing == ()
        assert fresh.get_all_weights() == learner.get_all_weights()
        other.add_folder(folder / "pictures")
        other.train(verbose=False)
        assert newest(other.data_manager).status == "completed"
        assert CountingStore.committed == 1


def refusal(manager: TrainingManager) -> str | None:
    try:
        manager.predict("nowhere.png", "nowhere.png")
    except ImageNotFoundError as error:
        assert_type(error.path, str)
        return error.path
    except TsmTrainingError:
        return None
    return ""


def hosted(folder: Path) -> None:
    with TrainingManager(HostPool(), BayesianWeightLearner(), storage=InMemoryStore()) as manager:
        manager.add_folder(folder / "pictures")
        assert manager.train(verbose=False)["session"]["final_weights"].keys() == {"same", "shifted"}
        assert refusal(manager) == "nowhere.png"


def main() -> None:
    folder = Path.cwd()
    write_pictures(folder / "pictures", 8)
    trained(folder)
    hosted(folder)
    optional = {"tqdm", "loky", "cloudpickle", "matplotlib"} & sys.modules.keys()
    assert not optional, f"{optional} came along"
    print(f"tsm_training {tsm_training.__version__} works from {Path(tsm_training.__file__).parent}")


if __name__ == "__main__":
    main()
