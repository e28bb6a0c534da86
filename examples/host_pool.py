"""A host that has a worker pool of its own: the library asks it for one method, and learns whom of it to trust.

    python examples/host_pool.py FOLDER

FOLDER holds ``sources/``, ``targets/`` and ``truths/`` with files of equal names. Nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from tsm_training import BayesianWeightLearner, Image, InMemoryStore, TrainingManager

Transfer = Callable[[Image, Image], Image]


class HostResult(NamedTuple):
    """What the host's workers have always returned."""

    worker_id: str
    value: Image
    confidence: float = 1.0

    def is_valid(self) -> bool:
        """Tell whether there is a picture."""
        return self.value.size > 0


class HostPool:
    """What the host had all along: functions, and threads that stay."""

    version = "1"  # lets results be kept from one training to the next

    def __init__(self, workers: dict[str, Transfer]) -> None:
        self._workers = workers
        self._threads = ThreadPoolExecutor(4)

    def execute_parallel(self, data: dict[str, Image]) -> list[HostResult]:
        """Run every worker on one request: ``source`` gives the colours of ``target``; both uint8, H×W×3, BGR."""
        calls = {name: self._threads.submit(run, data["source"], data["target"]) for name, run in self._workers.items()}
        return [HostResult(name, call.result()) for name, call in calls.items()]


def moved(source: Image, target: Image) -> Image:
    """Move the target's mean colour to the source's."""
    shift = source.mean(axis=(0, 1)) - target.mean(axis=(0, 1))
    result: Image = (target + shift).clip(0, 255).astype(np.uint8)
    return result


def main(folder: str) -> None:
    """Train on the host's pool, and print what was learned."""
    learner = BayesianWeightLearner()
    pool = HostPool({"moved": moved, "same": lambda _source, target: target})
    with TrainingManager(pool, learner, storage=InMemoryStore()) as manager:
        manager.add_folder(folder)
        manager.train(epochs=3, verbose=False)
    for worker_id, weight in learner.get_all_weights().items():
        print(f"{worker_id}: {weight:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
