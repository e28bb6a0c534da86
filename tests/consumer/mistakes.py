"""Mistakes that a type checker must find: every line marked below, and no other. Nothing runs this file.

Those that `tests/typing/api.py` shows to be found are not repeated, but for one of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from tsm_training import (
    BayesianWeightLearner,
    Image,
    InMemoryStore,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    TrainingResults,
    Worker,
    WorkerPool,
)


def misread(results: TrainingResults, example: TrainingExample) -> None:
    print(results["session"]["inital_weights"])  # mistake: misspelt
    print(results["session"].final_weights)  # mistake: a summary is a dictionary
    print(example["source_path"])  # mistake: a record has attributes
    example.source_path = "elsewhere.jpg"  # mistake: frozen


def misused(manager: TrainingManager, pool: WorkerPool, learner: BayesianWeightLearner) -> None:
    manager.train(epoch=3)  # mistake: no such argument
    manager.predict(1, 2)  # mistake: neither path nor picture
    manager.add_training_example("source.jpg", "target.jpg")  # mistake: no ground truth
    manager.trian()  # mistake: misspelt
    TrainingManager(pool, learner, engine_factory=InMemoryStore)  # mistake: makes no engine
    TrainingEngine.using(one_picture)  # mistake: a metric compares two pictures


def one_picture(target: Image) -> Image:
    return target


class Hasty(Worker):
    worker_id = 7  # mistake: an id is text

    def process(self, data: Mapping[str, Image]) -> None:  # mistake: a worker gives a picture
        print(data)
