"""Evaluating large pictures stays within the memory budget: `python -m tests.soak.memory [--quick]`.

Triples of 24 megapixels are evaluated on 2 and on 8 threads, with the default budget and with a larger one, each in a
process of its own. By how much its resident memory grows at most is compared with the budget.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs
import cv2
import numpy as np
from tests.soak.support import Verdict, parse, scratch
from tests.support import brighter, picture, save, save_triple

from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.evaluation.memory import bytes_to_evaluate

KINDS: Final = (
    "unchanged",
    "standard_transfer",
    "median_filtered",
    "adaptive_transfer",
    "histogram_matching",
    "linear_map_rgb",
    "sliced_transport",
    "white_balance",
)
"""One worker for each way in which the built-in ones take memory."""

GIB: Final = 1024**3
ASPECT: Final = 1.5


@attrs.frozen
class Case:
    """A training to measure."""

    threads: int
    budget: int
    workers: tuple[str, ...]


@attrs.frozen
class Measured:
    """What came of a case: the growth in bytes, what one example is said to need, and how many were evaluated."""

    growth: int
    one_example: int
    evaluated: int


def halfway(source: Image, target: Image) -> Image:
    """Take much memory, as numpy makes it easy to: two pictures of doubles at the same time."""
    return (target / 2 + source.mean(axis=(0, 1)) / 2).astype(np.uint8)


def resident_bytes(name: str) -> int:
    """Return the present (VmRSS) or the highest (VmHWM) resident memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():  # only what was highest is known elsewhere, which a process that was just begun has now
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def trained(triples: Sequence[tuple[Path, Path, Path]], case: Case) -> tuple[int, int]:
    """Train in a store that is forgotten; return what the first example needs, and how many were evaluated."""
    made: dict[str, Worker] = {worker.worker_id: worker for worker in create_color_transfer_workers()}
    made["halfway"] = FunctionWorker("halfway", halfway)
    pool = WorkerPool()
    for name in case.workers:
        pool.register_worker(made[name])
    with ThreadPoolExecutor(case.threads) as threads:
        factory = TrainingEngine.using(GuideSimilarity(), executor=threads, memory_budget=case.budget)
        manager = TrainingManager(pool, BayesianWeightLearner(), storage=InMemoryStore(), engine_factory=factory)
        manager.add_training_examples(triples)
        manager.train(validation_split=0.0, verbose=False)
        examples = manager.data_manager.get_all_examples()
        needed = bytes_to_evaluate(examples[0].known_files, pool.workers, GuideSimilarity(), pool.runner)
        done = sum(set(example.worker_results or ()) == set(case.workers) for example in examples)
    return needed, done


def measure(folder: Path, large: Sequence[tuple[Path, Path, Path]], case: Case) -> Measured:
    small = [save_triple(folder / "small", seed, size=(200, 300)) for seed in range(3)]
    trained(small, case)
    before = resident_bytes("VmRSS")
    needed, done = trained(large, case)
    return Measured(resident_bytes("VmHWM") - before, needed, done)


def make_triples(folder: Path, megapixels: float, count: int) -> list[tuple[Path, Path, Path]]:
    """Write triples that differ in their targets; the source is a PNG, which holds more bytes while it is decoded."""
    height = round((megapixels * 1e6 / ASPECT) ** 0.5)
    size = height, round(height * ASPECT)
    source, base = (cv2.blur(picture(seed, *size), (3, 3)).astype(np.uint8) for seed in (1, 2))
    shared = save(folder / "source.png", source), save(folder / "truth.jpg", brighter(base, 20))
    targets = [save(folder / f"target_{number}.jpg", brighter(base, -3 * number)) for number in range(count)]
    return [(shared[0], target, shared[1]) for target in targets]


def main() -> int:
    options = parse(
        __doc__,
        megapixels=(24.0, 3.0, "the size of each picture"),
        examples=(8, 4, "how many are evaluated in each case"),
    )
    default = round(GIB * options.megapixels / 24)
    workers = (KINDS[2], KINDS[6]) if options.quick else KINDS
    budgets = (default,) if options.quick else (default, 3 * default)
    cases = [Case(threads, budget, workers) for budget in budgets for threads in (2, 8)]
    cases.append(Case(8, 3 * default, ("unchanged", "halfway")))
    verdict = Verdict("memory", options.seed)
    lines = [f"{'threads':>7} {'workers':>9} {'budget':>9} {'one example':>12} {'peak growth':>12} {'of budget':>10}"]
    with scratch(verdict) as folder:
        triples = make_triples(folder, options.megapixels, options.examples)
        for case in cases:
            # a process of its own for each case, as the highest memory of a process can only rise
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                seen = fresh.submit(measure, folder, triples, case).result()
            kind = "functions" if "halfway" in case.workers else "built-in"
            share = seen.growth / case.budget
            lines.append(
                f"{case.threads:>7} {kind:>9} {case.budget / 1e6:>6.0f} MB {seen.one_example / 1e6:>9.0f} MB"
                f" {seen.growth / 1e6:>9.0f} MB {share:>10.0%}"
            )
            where = f"{case.threads} threads, {kind}, {case.budget / 1e6:.0f} MB"
            verdict.expect(seen.evaluated == len(triples), f"{where}: only {seen.evaluated} examples were evaluated")
            verdict.expect(seen.one_example <= case.budget, f"{where}: not even one example fits")
            verdict.expect(seen.growth <= case.budget, f"{where}: grew by {seen.growth / 1e6:.0f} MB")
            verdict.expect(seen.growth >= 0.5 * seen.one_example, f"{where}: {seen.growth} bytes cannot be all")
    return verdict.close(*lines)


if __name__ == "__main__":
    sys.exit(main())
