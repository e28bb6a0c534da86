"""What feedback, opening, predicting, removing and training cost when much was learned before.

Databases with 1,000, 2,000 and 6,000 learned examples of 20 workers (20,000 with --full) are made of records, without
pictures. Times are CPU seconds of this process, medians; peak memory is that of a process of its own that makes each
call once.
"""

from __future__ import annotations

import functools
import hashlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tsm_training import BayesianWeightLearner, FunctionWorker, TrainingExample, TrainingManager
from tsm_training.data import Evaluation, EvaluationKey, ExampleFiles, PictureFile
from tsm_training.fingerprints import describe_object
from tsm_training.images import READER_VERSION
from tsm_training.workers import WorkerPool

WORKERS = 20
RUNS = 9
SMALL, MIDDLE = 1_000, 2_000
LARGE = 20_000 if "--full" in sys.argv else 6_000
MOST_SECONDS = {"feedback": 0.040, "opening": 0.5, "news": 0.050, "removal": 0.020}
MOST_GROWTH = 1.5
MOST_MEMORY_GROWTH = 1.3
ROOM = 0.004
"""Seconds that are measured in one growth or another whatever the code: the clock's grain and the machine's noise."""


def same(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return target


def pool() -> WorkerPool:
    found = WorkerPool()
    for number in range(WORKERS):
        found.register_worker(FunctionWorker(f"w{number:02d}", same, version="1"))
    return found


def manager_on(path: Path) -> TrainingManager:
    return TrainingManager(pool(), BayesianWeightLearner(), path)


def build(path: Path, count: int) -> None:
    """Make a database in which `count` examples were learned."""
    manager = manager_on(path)
    store = manager.data_manager
    metric = manager.training_engine.judge.fingerprint
    workers = {worker.worker_id: describe_object(worker) for worker in pool().workers}
    now = datetime.now(UTC)
    rng = np.random.default_rng(1)
    for start in range(0, count, 1_000):
        examples, evaluations = [], []
        for number in range(start, start + 1_000):
            files = [PictureFile(hashlib.sha256(f"{role} {number}".encode()).hexdigest(), 1, 8, 8) for role in range(3)]
            example = TrainingExample(
                f"{number:06d}", "/s.png", "/t.png", "/g.png", now, {}, files=ExampleFiles(*files)
            )
            examples.append(example)
            for worker_id, fingerprint in workers.items():
                key = EvaluationKey(example.known_files.digest, worker_id, fingerprint, metric, READER_VERSION)
                accuracy = float(rng.uniform(0.3, 0.9))
                evaluations.append(Evaluation(key, accuracy, 1.0, None, None, None, 0.001, now))
        store.add_examples(examples)
        store.save_evaluations(evaluations)
    manager.train(validation_split=0.0, verbose=False)
    manager.close()


def cpu(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def calls(path: Path, runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each call."""
    found: dict[str, list[float]] = {}

    def opened() -> None:
        with manager_on(path) as each:
            each.weight_learner.get_all_weights()

    for _ in range(max(1, runs // 3)):
        found.setdefault("opening", []).append(cpu(opened))
    with manager_on(path) as manager, manager_on(path) as other:
        picture = np.zeros((8, 8, 3), np.uint8)
        examples = manager.data_manager.get_all_examples(2 * runs)

        def feedback(example: TrainingExample) -> None:
            manager.training_engine.train_on_example(example)
            manager.weight_learner.get_all_weights()

        other.predict(picture, picture)
        for number in range(runs):
            quiet = cpu(lambda: other.predict(picture, picture))
            found.setdefault("feedback", []).append(cpu(functools.partial(feedback, examples[number])))
            found.setdefault("news", []).append(cpu(lambda: other.predict(picture, picture)) - quiet)
        for example in examples[runs:]:
            remove = functools.partial(manager.remove_training_example, example.example_id)
            found.setdefault("removal", []).append(cpu(remove))
        for _ in range(max(1, runs // 5)):
            found.setdefault("train(100)", []).append(cpu(lambda: manager.train(100, verbose=False)))
    return {name: statistics.median(times) for name, times in found.items()}


def peak_memory(path: Path) -> float:
    """Return the peak memory in MB of a process that makes each call once."""
    command = [sys.executable, __file__, "--once", str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    if "--once" in sys.argv:
        calls(Path(sys.argv[-1]), 1)
        status = Path("/proc/self/status")
        if status.exists():  # elsewhere what a parent used counts too
            print(next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if "VmHWM" in line))
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.db" for count in (SMALL, MIDDLE, LARGE)}
        for count, path in paths.items():
            build(path, count)
        small, large = calls(paths[SMALL], RUNS), calls(paths[LARGE], RUNS)
        memory = {count: peak_memory(paths[count]) for count in (MIDDLE, LARGE)}
    failed = []
    print(f"CPU milliseconds (medians), {WORKERS} workers: {SMALL:,} and {LARGE:,} learned examples")
    for name, seconds in large.items():
        growth = (seconds - ROOM) / max(small[name], ROOM)
        print(f"  {name:12} {1000 * small[name]:8.1f} {1000 * seconds:8.1f}   x {seconds / small[name]:.2f}")
        if growth > MOST_GROWTH or seconds > MOST_SECONDS.get(name, float("inf")):
            failed.append(name)
    growth = memory[LARGE] / memory[MIDDLE]
    print(f"  peak memory  {memory[MIDDLE]:8.0f} {memory[LARGE]:8.0f} MB x {growth:.2f} (from {MIDDLE:,} examples)")
    if growth > MOST_MEMORY_GROWTH:
        failed.append("memory")
    print("above its bound:", ", ".join(failed)) if failed else print("all within their bounds")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
