"""What evaluating elsewhere costs, and what a cluster of two processes gains; exits with 1 if one is out of bounds.

python benchmarks/executors.py [--full]
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from training import photograph
from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    TrainingDataManager,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.data import ExampleFiles, TrainingExample
from tsm_training.evaluation.scoring import ScoredExample
from tsm_training.images import write_image

distributed: Any = importlib.import_module("distributed")  # its functions have no types

SEVEN = {
    "standard_transfer",
    "adaptive_transfer",
    "histogram_matching",
    "linear_map_rgb",
    "sliced_transport",
    "white_balance",
    "median_filtered",
}
FULL = "--full" in sys.argv
RESULTS, EXAMPLES = (2000, 64) if FULL else (600, 12)
SIDE = 1024


def built_in(*, seven: bool = False) -> list[Worker]:
    workers = [worker for worker in create_color_transfer_workers() if not hasattr(worker, "fit")]
    return [worker for worker in workers if worker.worker_id in SEVEN] if seven else workers


def shifted(levels: int, _source: Image, target: Image) -> Image:
    return np.asarray(target + np.uint8(levels), np.uint8)


def cheap() -> list[Worker]:
    """Return twenty workers that cost nothing."""
    return [FunctionWorker(f"shifted_{n}", functools.partial(shifted, n), version="1") for n in range(20)]


def manager(folder: Path, side: int, num_examples: int, workers: list[Worker], **settings: Any) -> TrainingManager:
    """Return a manager of examples with grainy pictures; `settings` are its store and its executor."""
    pool = WorkerPool()
    for worker in workers:
        pool.register_worker(worker)
    factory = TrainingEngine.using(GuideSimilarity(), executor=settings["executor"])
    result = TrainingManager(pool, BayesianWeightLearner(), storage=settings["store"], engine_factory=factory)
    for number in range(num_examples):
        paths = [folder / f"{role}_{side}_{number}.jpg" for role in ("source", "target", "truth")]
        for offset, path in enumerate(paths):
            if not path.exists():
                write_image(path, photograph(3 * number + offset, side, side))
        result.add_training_example(paths[0], paths[1], paths[2])
    return result


class Elsewhere(Executor):
    """Evaluates in this process, and passes everything on as bytes, as other processes would get and give it."""

    def __init__(self) -> None:
        self.results: list[ScoredExample] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        results = pickle.dumps(function(*pickle.loads(pickle.dumps(arguments))))
        future.set_result(pickle.loads(results))
        self.results += future.result()
        return future


class Canned(Executor):
    """Gives everybody the same results, and counts what that takes where the work would be done."""

    def __init__(self, pictured: ScoredExample) -> None:
        self.pictured, self.plain, self.seconds = pictured, without_previews(pictured), 0.0

    def submit(self, _function: Callable[..., Any], /, *arguments: Any, **_keywords: Any) -> Future[Any]:
        message, begun = pickle.dumps(arguments), time.process_time()
        examples = [item.example for item in pickle.loads(message)[1]]
        results = [(self.pictured if e.is_pictured else self.plain)._replace(digest=e.digest) for e in examples]
        answer = pickle.dumps(results)
        self.seconds += time.process_time() - begun
        future: Future[Any] = Future()
        future.set_result(pickle.loads(answer))
        return future


def without_previews(result: ScoredExample) -> ScoredExample:
    """Return a result with the previews of its inputs only."""
    return result._replace(scores=tuple(score._replace(preview=None) for score in result.scores))


def bytes_of_a_result(folder: Path) -> float:
    """Return how many bytes a result takes beside previews and observations: all built-in workers, 1 megapixel."""
    there = Elsewhere()
    manager(folder, SIDE, 1, built_in(), executor=there, store=InMemoryStore()).validate()
    [result] = there.results
    return len(pickle.dumps(without_previews(result)._replace(input_previews={}, observations={})))


def previews_in_vain(folder: Path) -> float:
    """Return how many bytes of previews of outputs travelled of which none was kept, per byte that was."""
    there, store = Elsewhere(), InMemoryStore()
    manager(folder, 96, 100, cheap(), executor=there, store=store).training_engine.evaluator.evaluate(
        store.get_all_examples()
    )
    sent = sum(len(score.preview or b"") for result in there.results for score in result.scores)
    kept = store.load_previews([result.digest for result in there.results])
    stored = sum(len(png) for names in kept.values() for name, png in names.items() if "@" in name)
    return (sent - stored) / stored


def results_per_second(folder: Path) -> float:
    """Return how many results the calling process takes per second of its processor, storing them in a file."""
    store = TrainingDataManager(folder / f"head_{time.monotonic_ns()}.db")
    there = Elsewhere()
    subject = manager(folder, SIDE, 1, built_in(), executor=there, store=store)
    evaluator = subject.training_engine.evaluator
    [example] = store.get_all_examples()
    evaluator.evaluate([example])
    canned = Canned(there.results[0])
    evaluator = attrs.evolve(evaluator, executor=canned)
    examples = [renamed(example, number) for number in range(RESULTS)]
    begun = time.process_time()
    evaluator.evaluate(examples)
    return RESULTS / (time.process_time() - begun - canned.seconds)


def renamed(example: TrainingExample, number: int) -> TrainingExample:
    """Return an example with other contents, which nobody reads."""
    files = example.known_files
    pictures = (files.source, files.target, files.ground_truth)
    other = (attrs.evolve(file, sha256=f"{place}{number:063d}") for place, file in enumerate(pictures))
    return attrs.evolve(example, example_id=f"{number}", files=ExampleFiles(*other))


@contextmanager
def client_of(num_processes: int) -> Iterator[Any]:
    with (
        distributed.LocalCluster(num_processes, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(create_color_transfer_workers)  # what is loaded once is loaded before the clock starts
        yield client


def evaluated(folder: Path, executor: Any) -> tuple[float, float, list[tuple[str, str, float | None]]]:
    """Return how long the evaluation of all examples takes, also on the processor of this process, and the scores."""
    store = InMemoryStore()
    subject = manager(folder, SIDE, EXAMPLES, built_in(seven=True), executor=executor, store=store)
    begun, processor = time.perf_counter(), time.process_time()
    subject.training_engine.evaluator.evaluate(store.get_all_examples())
    passed = time.perf_counter() - begun, time.process_time() - processor
    digests = sorted(example.known_files.digest for example in store.iterate_examples())
    scores = [(e.key.example_digest, e.key.worker_id, e.accuracy) for e in store.load_evaluations(digests)]
    return (*passed, sorted(scores))


def spin(_number: int) -> float:
    begun, value = time.perf_counter(), 0
    for number in range(20_000_000):
        value ^= number
    return time.perf_counter() - begun


def free_cores() -> float:
    """Return how much two processes that share nothing get done, measured by one alone."""
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        list(processes.map(spin, range(2)))
        [alone] = processes.map(spin, range(1))
        return 2 * alone / max(processes.map(spin, range(2)))


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = [
            ("bytes of a result without previews", bytes_of_a_result(folder), "at most", 4096.0),
            ("previews sent in vain / kept", previews_in_vain(folder), "at most", 0.02),
            (
                "results per CPU second of the caller",
                max(results_per_second(folder) for _round in range(3)),  # others can only make it slower
                "at least",
                1000.0 if FULL else 400.0,
            ),
        ]
        *_threads, expected = evaluated(folder, None)
        before = free_cores()
        walls, same = [], True
        for num_processes in (1, 2):
            with client_of(num_processes) as client:
                wall, processor, scores = evaluated(folder, client)
            walls.append(wall)
            same &= scores == expected
            print(f"Dask, {num_processes} process(es): {EXAMPLES / wall:.1f} examples a second, {processor:.2f} s here")
        cores = min(before, free_cores())
    figures.append(("scores as those of threads", float(same), "at least", 1.0))
    if not FULL:
        print("not measured without --full: Dask, two processes / one")
    elif cores >= 1.8:
        figures.append(("Dask: two processes / one", walls[0] / walls[1], "at least", 1.5))
    else:
        print(f"not measurable: Dask, two processes / one (two processes that share nothing get {cores:.2f} cores)")
    for what, value, side, bound in figures:
        print(f"{what:38} {value:9.2f}   ({side} {bound:g})")
    return int(any(value > bound if side == "at most" else value < bound for _what, value, side, bound in figures))


if __name__ == "__main__":
    sys.exit(main())
