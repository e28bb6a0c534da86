"""Mistakes that a type checker must find: every line marked below, and no other. Nothing runs this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    Image,
    InMemoryStore,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    TrainingResults,
    Worker,
    WorkerPool,
)


def misread(results: TrainingResults) -> None:
    print(results["session"]["inital_weights"])  # mistake: misspelt
    print(results["validation"]["avg_acuracy"])  # mistake: misspelt
    print(results["validation"]["avg_accuracy"] + 0.1)  # mistake: None where nothing was held out
    print(results["session"].final_weights)  # mistake: a summary is a dictionary


def misused(manager: TrainingManager, learner: BayesianWeightLearner, example: TrainingExample) -> None:
    manager.train(epochs="3")  # mistake: text
    manager.train(epoch=3)  # mistake: no such argument
    manager.train(None, 1, 0.2, False, 7)  # mistake: the seed goes by name
    manager.predict(1, 2)  # mistake: neither path nor picture
    manager.add_training_example("source.jpg", "target.jpg")  # mistake: no ground truth
    manager.trian()  # mistake: misspelt
    learner.alpha = 0.1  # mistake: frozen
    example.source_path = "elsewhere.jpg"  # mistake: frozen
    print(example["source_path"])  # mistake: a record has attributes


def misbuilt(pool: WorkerPool, learner: BayesianWeightLearner) -> None:
    TrainingManager(object(), learner)  # mistake: no pool
    TrainingManager(pool, learner, storage="training.db")  # mistake: a path is no store
    TrainingManager(pool, learner, engine_factory=InMemoryStore)  # mistake: makes no engine
    pool.register_worker(misread)  # mistake: a function is no worker
    FunctionWorker("one", one_picture)  # mistake: a worker's function takes two pictures
    TrainingEngine.using(one_picture)  # mistake: a metric compares two pictures


def one_picture(target: Image) -> Image:
    return target


class Hasty(Worker):
    worker_id = 7  # mistake: an id is text

    def process(self, data: Mapping[str, Image]) -> None:  # mistake: a worker gives a picture
        print(data)


class TwoHooks(TrainingEngine):
    def validate(self, examples: Sequence[TrainingExample]) -> None:  # mistake: there is one hook only
        print(examples)
