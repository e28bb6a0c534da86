"""What a report of a 60-example session costs; exits with 1 if it is too large or takes too long.

python benchmarks/report.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from photographs import make_triples, packaged_photographs, read_photographs, write_triples
from tsm_training import (
    BayesianWeightLearner,
    InMemoryStore,
    TrainingManager,
    WorkerPool,
    create_color_transfer_workers,
)

EXAMPLES = 60


def trained(folder: Path) -> TrainingManager:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    manager = TrainingManager(pool, BayesianWeightLearner(alpha=0.15), storage=InMemoryStore())
    triples = make_triples(list(read_photographs(packaged_photographs())), EXAMPLES)
    manager.add_training_examples(write_triples(triples, folder))
    manager.train(epochs=3, validation_split=0.3, verbose=False)
    return manager


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        manager = trained(Path(name))
        started = time.perf_counter()
        page = manager.report(Path(name) / "report.html")
        seconds = time.perf_counter() - started
        megabytes = page.stat().st_size / 1e6
    print(f"report of {EXAMPLES} examples, 20 workers: {seconds:5.1f} s   (at most 10)")
    print(f"report of {EXAMPLES} examples, 20 workers: {megabytes:5.2f} MB  (at most 3)")
    return int(seconds > 10 or megabytes > 3)


if __name__ == "__main__":
    sys.exit(main())
