"""One application's day, written out as text: the same text, byte for byte, however it was executed.

It is run by `python -m tests.soak.repeat '{"folder": "…", "mode": "threads", "threads": 8}'`. Example ids and times are
new in each run, so ids are replaced by numbers and times are left out; everything else must be the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs
from tests.support import brighter, picture, save, save_triple

from tsm_training import (
    BayesianWeightLearner,
    Image,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.metrics import GuideSimilarity

EXAMPLES: Final = 10

_TIMES: Final = {"created_at", "start_time", "end_time", "timestamp", "validated_at", "exported_at", "seconds"}
_BUILT_IN: Final = {"histogram_matching", "linear_map_lab", "sliced_transport", "standard_transfer"}


@attrs.frozen
class Dawdling(Worker):
    """Takes a time of its own for each call, so that examples and workers end in another order in each run."""

    worker_id: str
    levels: int
    confidence: float = 1.0
    fails: bool = False

    def process(self, data: Mapping[str, Image]) -> Image:
        time.sleep(int.from_bytes(os.urandom(2)) / 65536 * 0.02)
        if self.fails and int(data["target"][0, 0, 0]) % 3 == 0:
            raise ValueError(f"this worker does not like {int(data['target'][0, 0, 0])}")
        return brighter(data["target"], self.levels)

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        return self.confidence


def make_pool(*, is_reversed: bool = False, **settings: Any) -> WorkerPool:
    workers: list[Worker] = [
        Dawdling("far", -60),
        Dawdling("near", 22),
        Dawdling("unsure", 40, 0.3),
        Dawdling("fails", 15, 1.0, True),
        *(worker for worker in create_color_transfer_workers() if worker.worker_id in _BUILT_IN),
    ]
    pool = WorkerPool(**settings)
    for worker in reversed(workers) if is_reversed else workers:
        pool.register_worker(worker)
    return pool


@contextlib.contextmanager
def execution(mode: str, threads: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give the settings of the pool and of the engine for a mode of execution."""
    if mode == "isolated":
        from tsm_training.isolation import IsolatedRunner  # noqa: PLC0415 - an extra

        with IsolatedRunner(max_processes=threads) as runner:
            yield {"runner": runner}, {}
        return
    executor: Executor
    if mode == "threads":
        executor = ThreadPoolExecutor(threads)
    else:
        executor = ProcessPoolExecutor(threads, multiprocessing.get_context(mode))
    with executor:
        yield {"max_workers": threads}, {"executor": executor}


def make_pictures(folder: Path) -> list[tuple[Path, ...]]:
    triples = [save_triple(folder, seed, size=(40, 48)) for seed in range(EXAMPLES - 2)]
    # Two examples share the target of the first, so that examples must stay together in the split.
    for seed in range(EXAMPLES - 2, EXAMPLES):
        truth = save(folder / f"ground_truth_{seed}.png", brighter(picture(1, 40, 48), 5 * seed))
        triples.append((save(folder / f"source_{seed}.png", picture(2 * seed, 40, 48)), triples[0][1], truth))
    return triples


def perform(folder: Path, *, mode: str = "threads", threads: int = 2, is_reversed: bool = False) -> str:
    """Do everything that leaves something behind, and return all of it as text."""
    triples = make_pictures(folder)
    numbers = itertools.count(1)
    with execution(mode, threads) as (pool_settings, engine_settings):
        factory = TrainingEngine.using(GuideSimilarity(), new_id=lambda: f"session {next(numbers)}", **engine_settings)
        learner = BayesianWeightLearner(alpha=0.15)
        pool = make_pool(is_reversed=is_reversed, **pool_settings)
        with TrainingManager(pool, learner, folder / "training.db", engine_factory=factory) as manager:
            added = manager.add_training_examples([(*row, {"number": n}) for n, row in enumerate(triples)])  # type: ignore[misc]
            results = [manager.train(epochs=3, validation_split=0.3, verbose=False)]
            manager.replace_ground_truth(added[3].example_id, triples[4][2])
            manager.remove_training_example(added[5].example_id)
            results.append(manager.train(num_examples=7, epochs=2, seed=4, verbose=False))
            validated = [manager.validate(), manager.validate(full=True)]
            manager.export_weights(folder / "weights.json")
            prediction = manager.predict(*triples[0][:2], run_all=True)
            store = manager.data_manager
            examples = store.get_all_examples()
            document = {
                "results": results,
                "validated": validated,
                "sessions": [session.to_dict() for session in store.get_all_sessions()],
                "metrics": [
                    row._asdict() for s in store.get_all_sessions() for row in store.iterate_metrics(s.session_id)
                ],
                "examples": [example.to_dict() for example in examples],
                # In the store they stand in the order in which they were finished, which is nobody's business.
                "evaluations": sorted(
                    [*e.key, repr(e.accuracy), e.confidence, str(e.failure_message)]
                    for e in store.load_evaluations(example.known_files.digest for example in examples)
                ),
                "previews": {
                    f"{example.example_id} {name}": hashlib.sha256(png).hexdigest()
                    for example in examples
                    for previews in store.load_previews([example.known_files.digest]).values()
                    for name, png in sorted(previews.items())
                },
                "export": json.loads((folder / "weights.json").read_text(encoding="utf-8")),
                "statistics": learner.get_all_statistics(),
                "prediction": [hashlib.sha256(prediction.image.tobytes()).hexdigest(), prediction.blend_weights],
            }
    names = {example.example_id: f"example {number}" for number, example in enumerate(added)}
    text = json.dumps(_without_times(document), indent=1)
    for example_id, name in names.items():
        text = text.replace(example_id, name)
    return text.replace(str(folder), "folder")


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in _TIMES}
    if isinstance(value, (list, tuple)):
        return [_without_times(inner) for inner in value]
    return value


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    print(perform(Path(options.pop("folder")), **options))
