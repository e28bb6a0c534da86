"""What training learns of looks, on real photographs and film looks; exits with 1 if a figure is out of bounds.

160 triples of 256 pixels (PNG), the default pool, ``alpha`` 0.15 and five epochs; whole pictures of held-out examples
are predicted and scored. *Best* is the best fixed worker on the training part. Splits come from fixed seeds.

    python benchmarks/looks.py [--full] [--jpeg]

TSM_TRAINING_REAL_DATA names the folder of photographs and looks; without it there is nothing to measure. ``--full``
takes four splits of every row and the bounds as they are demanded, which may last half an hour. Otherwise one
split of most rows stands for them, and bounds are looser by what single splits differ: 0.02 in similarity, 10 % in ΔE.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training import (
    BayesianWeightLearner,
    Image,
    Observation,
    TrainableWorker,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
    guide_similarity,
)
from tsm_training.images import read_image
from tsm_training.metrics import ColorDifference, GuideSimilarity, color_difference

EXAMPLES, SIZE, SEED = 160, 256, 777
ALPHA, EPOCHS = 0.15, 5
LEARNED = "learned_look"
HELD_OUT = 48
"""Of 160 examples, where they are divided at random: the same ones for every number of examples to learn from."""

FEW_SPLITS = 0.02
"""By how much the similarity of one split may differ from the mean of four."""

FOLDS = 5
MEGABYTES = 500

Indices = npt.NDArray[np.int64]


# --- what is divided, and how ---------------------------------------------------------------------------------------


@attrs.frozen(eq=False, slots=False)
class Data:
    """The triples: which photographs and which look each was made of."""

    folder: Path
    rows: Sequence[Mapping[str, str]]

    @cached_property
    def source(self) -> npt.NDArray[np.str_]:
        return np.array([row["source_photo"] for row in self.rows])

    @cached_property
    def target(self) -> npt.NDArray[np.str_]:
        return np.array([row["target_photo"] for row in self.rows])

    @cached_property
    def style(self) -> npt.NDArray[np.str_]:
        return np.array([row["style"] for row in self.rows])

    @cached_property
    def photographs(self) -> npt.NDArray[np.str_]:
        return np.unique(np.concatenate([self.source, self.target]))

    def paths(self, index: int) -> tuple[Path, Path, Path]:
        row = self.rows[index]
        source, target, truth = (self.folder / row[f"{role}_path"] for role in ("source", "target", "ground_truth"))
        return source, target, truth

    @cache  # noqa: B019 - there is one of these
    def pictures(self, index: int) -> tuple[Image, Image, Image]:
        source, target, truth = map(read_image, self.paths(index))
        return source, target, truth


@attrs.frozen
class Split:
    training: Sequence[int]
    held_out: Sequence[int]

    @classmethod
    def of(cls, training: npt.NDArray[np.bool_], held_out: npt.NDArray[np.bool_]) -> Split:
        return cls(np.flatnonzero(training).tolist(), np.flatnonzero(held_out).tolist())


Divide = Callable[[Data], Iterator[Split]]


def at_random(examples: int) -> Divide:
    """Learn from so many of the examples that are not among the held-out 30 %."""

    def divide(data: Data) -> Iterator[Split]:
        rng = np.random.default_rng(0)
        while True:
            order = rng.permutation(len(data.rows))
            yield Split(sorted(order[HELD_OUT : HELD_OUT + examples].tolist()), sorted(order[:HELD_OUT].tolist()))

    return divide


def by(role: str) -> Divide:
    """Hold out 30 % of the photographs in one role."""

    def divide(data: Data) -> Iterator[Split]:
        names = getattr(data, role)
        choices = np.unique(names)
        rng = np.random.default_rng(1)
        while True:
            is_held_out = np.isin(names, rng.permutation(choices)[: round(0.3 * len(choices))])
            yield Split.of(~is_held_out, is_held_out)

    return divide


def by_photograph(data: Data) -> Iterator[Split]:
    """Hold out 40 % of the photographs: none of a held-out example is in any role of a training example."""
    rng = np.random.default_rng(2)
    while True:
        chosen = rng.permutation(data.photographs)[: round(0.4 * len(data.photographs))]
        source, target = np.isin(data.source, chosen), np.isin(data.target, chosen)
        yield Split.of(~source & ~target, source & target)


def by_look(data: Data) -> Iterator[Split]:
    """Hold out a quarter of the looks, each look once in four splits."""
    rng = np.random.default_rng(3)
    while True:
        for looks in np.array_split(rng.permutation(np.unique(data.style)), 4):
            is_held_out = np.isin(data.style, looks)
            yield Split.of(~is_held_out, is_held_out)


def by_look_and_photograph(data: Data) -> Iterator[Split]:
    """Learn from 20 examples; neither look nor photographs of the held-out ones are among them."""
    rng = np.random.default_rng(4)
    looks = np.unique(data.style)
    while True:
        chosen = rng.permutation(data.photographs)[: len(data.photographs) // 2]
        is_new = np.isin(data.style, rng.permutation(looks)[: round(0.4 * len(looks))])
        source, target = np.isin(data.source, chosen), np.isin(data.target, chosen)
        split = Split.of(~source & ~target & ~is_new, source & target & is_new)
        if len(split.training) >= 20 and len(split.held_out) >= 8:
            yield attrs.evolve(split, training=sorted(rng.permutation(split.training)[:20].tolist()))


def told(pairs: int) -> Divide:
    """Learn from so many examples of each of three looks, and from all of the others; hold out other photographs.

    Three looks at once, each look once in four splits: whoever names a look is answered by that look's own examples.
    """

    def divide(data: Data) -> Iterator[Split]:
        rng = np.random.default_rng(5)
        while True:
            for looks in np.array_split(rng.permutation(np.unique(data.style)), 4):
                training, held_out = ~np.isin(data.style, looks), np.zeros(len(data.rows), bool)
                for is_look in (data.style == look for look in looks):
                    # The first ones are the same, whatever the number of pairs.
                    shown = rng.permutation(np.flatnonzero(is_look))[:4][:pairs]
                    used = np.concatenate([data.source[shown], data.target[shown]])
                    training[shown] = True
                    held_out |= is_look & ~np.isin(data.target, used)
                yield Split.of(training, held_out)

    return divide


# --- training and predicting ----------------------------------------------------------------------------------------


@attrs.frozen
class Result:
    """Means over the held-out examples of one split."""

    similarity: float
    difference: float
    """Mean ΔE00."""
    best_similarity: float
    best_difference: float
    best: str
    share: float
    """Of the learned look."""


def default_pool() -> WorkerPool:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    return pool


@attrs.frozen(eq=False, slots=False)
class Bench:
    """Trains on a part of the examples and scores the answers to the others.

    Workers run once per example: the evaluations of all are in one database, of which every training gets a copy. A
    small training gets an empty one, for previews have room for some sixty examples, and a user who has ten has all.
    """

    data: Data
    folder: Path
    pool: WorkerPool = attrs.field(factory=default_pool)

    @cached_property
    def evaluated(self) -> Path:
        """A database in which every worker's answers to all examples are scored, by the guide's metric."""
        path = self.folder / "evaluated.db"
        with self.manager(path) as manager:
            self.add(manager, range(len(self.data.rows)))
            manager.validate()
        return path

    @cached_property
    def accuracies(self) -> Sequence[Mapping[str, float]]:
        """The fixed workers' scores by the guide's metric, example by example."""
        with self.manager(self.evaluated) as manager:
            found = manager.data_manager.get_all_examples()
        return [
            {
                worker_id: outcome["accuracy"] or 0.0
                for worker_id, outcome in (example.worker_results or {}).items()
                if worker_id != LEARNED
            }
            for example in found
        ]

    def manager(self, path: Path, metric: Any = None) -> TrainingManager:
        engine = TrainingEngine.using(GuideSimilarity() if metric is None else metric)
        return TrainingManager(self.pool, BayesianWeightLearner(alpha=ALPHA), path, engine_factory=engine)

    def add(self, manager: TrainingManager, indices: Sequence[int]) -> list[TrainingExample]:
        return manager.add_training_examples(
            [(*self.data.paths(index), {"style": self.data.rows[index]["style"]}) for index in indices]
        )

    def result(self, split: Split, *, metric: Any = None, is_told: bool = False) -> Result:
        """Train, and return how well the held-out examples are answered."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            path = Path(name) / "training.db"
            is_small = len(split.training) <= 20 or metric is not None
            if not is_small:
                shutil.copy(self.evaluated, path)
            with self.manager(path, metric) as manager:
                if is_small:
                    training = self.add(manager, split.training)
                else:
                    every = manager.data_manager.get_all_examples()
                    training = [every[index] for index in split.training]
                group_by = "style" if is_told else None
                manager.training_engine.train_batch(training, EPOCHS, verbose=False, group_by=group_by)
                return self._scored(manager, split, is_told=is_told)

    def _scored(self, manager: TrainingManager, split: Split, *, is_told: bool) -> Result:
        best = self.best_fixed(split.training)
        answers, rivals, shares = [], [], []
        for index in split.held_out:
            source, target, _truth = self.data.pictures(index)
            group = self.data.rows[index]["style"] if is_told else None
            prediction = manager.predict(source, target, group=group)
            answers.append(self.judged(index, prediction.image))
            rivals.append(self.fixed(index, best))
            shares.append(prediction.blend_weights.get(LEARNED, 0.0))
        similarity, difference = map(fmean, zip(*answers, strict=True))
        best_similarity, best_difference = map(fmean, zip(*rivals, strict=True))
        return Result(similarity, difference, best_similarity, best_difference, best, fmean(shares))

    def best_fixed(self, training: Sequence[int]) -> str:
        """Return the fixed worker with the greatest mean score on examples."""
        names = sorted(self.accuracies[0])
        return max(names, key=lambda name: fmean(self.accuracies[index][name] for index in training))

    @cache  # noqa: B019 - there is one of these
    def fixed(self, index: int, worker_id: str) -> tuple[float, float]:
        """Return similarity and mean ΔE00 of a fixed worker's answer."""
        [worker] = [each for each in self.pool.workers if each.worker_id == worker_id]
        source, target, _truth = self.data.pictures(index)
        return self.judged(index, worker.process({"source": source, "target": target}))

    @cache  # noqa: B019 - there is one of these
    def untrained(self, index: int) -> float:
        """Return the similarity of the equal blend of all fixed workers."""
        source, target, truth = self.data.pictures(index)
        fixed = [worker for worker in self.pool.workers if worker.worker_id != LEARNED]
        total = sum(worker.process({"source": source, "target": target}).astype(np.float32) for worker in fixed)
        return guide_similarity(np.rint(total / len(fixed)).astype(np.uint8), truth)

    def judged(self, index: int, picture: Image) -> tuple[float, float]:
        truth = self.data.pictures(index)[2]
        return guide_similarity(picture, truth), color_difference(picture, truth)


# --- the table ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Demand:
    """What a row's figures have to be."""

    similarity: float = 0.0
    """At least."""
    above_best: float | None = None
    """At least so much above the best fixed worker's."""
    difference: float | None = None
    """ΔE00, at most."""
    of_best: float | None = None
    """ΔE00, at most so much of the best fixed worker's."""

    def __str__(self) -> str:
        words = []
        if self.similarity:
            words.append(f"≥ {self.similarity:.3f}")
        if self.above_best is not None:
            words.append(f"≥ best {self.above_best:+.3f}")
        if self.difference is not None:
            words.append(f"ΔE ≤ {self.difference:.1f}")
        if self.of_best is not None:
            words.append(f"ΔE ≤ {self.of_best:.2f} best's")
        return ", ".join(words)

    def loosened(self) -> Demand:
        """Return what one or two splits have to reach."""
        above, most, part = self.above_best, self.difference, self.of_best
        return Demand(
            max(0.0, self.similarity - FEW_SPLITS),
            None if above is None else above - FEW_SPLITS,
            None if most is None else 1.1 * most,
            None if part is None else 1.1 * part,
        )

    def misses(self, row: Mean) -> list[str]:
        above_best, of_best = row.similarity - row.best_similarity, row.difference / row.best_difference
        least = [
            ("similarity", row.similarity, self.similarity),
            ("similarity above best", above_best, self.above_best),
        ]
        most = [("ΔE00", row.difference, self.difference), ("ΔE00 / best's", of_best, self.of_best)]
        return [
            *(f"{what} {value:.4f} < {bound}" for what, value, bound in least if bound is not None and value < bound),
            *(f"{what} {value:.4f} > {bound}" for what, value, bound in most if bound is not None and value > bound),
        ]


@attrs.frozen
class Row:
    name: str
    divide: Divide
    demand: Demand
    splits: int
    """Without ``--full``, where 0 leaves the row out; with it there are four."""
    is_told: bool = False


@attrs.frozen
class Mean:
    """The figures of a row, averaged over splits."""

    similarity: float
    difference: float
    best_similarity: float
    best_difference: float
    share: float
    spread: float
    """The standard deviation of the similarity over splits."""
    examples: tuple[int, int]
    """To learn from, and held out, in the first split."""
    splits: int
    seconds: float
    """Processor time."""

    @classmethod
    def of(cls, results: Sequence[Result], split: Split, seconds: float) -> Mean:
        means = {
            name: fmean(getattr(result, name) for result in results)
            for name in ("similarity", "difference", "best_similarity", "best_difference", "share")
        }
        spread = float(np.std([result.similarity for result in results]))
        sizes = len(split.training), len(split.held_out)
        return cls(**means, spread=spread, examples=sizes, splits=len(results), seconds=seconds)

    def __str__(self) -> str:
        sizes = f"{self.examples[0]}/{self.examples[1]}"
        ours = f"{self.similarity:.4f} ± {self.spread:.3f} / {self.difference:5.2f}"
        best = f"{self.best_similarity:.4f} / {self.best_difference:5.2f}"
        return f"{sizes:>7} ×{self.splits:<2} {ours}   {best}   {self.share:4.2f} {self.seconds:6.1f} s"


NEVER_BELOW: Final = -0.003
CURVE: Final = {10: 0.845, 20: 0.865, 40: 0.895, 80: 0.915}

ROWS: Final = (
    Row("random 70/30", at_random(112), Demand(0.910, 0.06, 3.6), 1),
    Row("by photograph", by_photograph, Demand(0.875, 0.035, 6.0), 1),
    Row("by target", by("target"), Demand(0.91), 0),
    Row("by source", by("source"), Demand(0.895), 0),
    Row("by look (unseen)", by_look, Demand(0.0, -0.002, None, 0.95), 1),
    *(
        Row(f"{number} examples", at_random(number), Demand(least, NEVER_BELOW), int(number in {10, 40}))
        for number, least in CURVE.items()
    ),
    Row("style known, target held out", by("target"), Demand(0.960, None, 1.6), 1, is_told=True),
    Row("look and photographs unseen", by_look_and_photograph, Demand(0.0, -0.015), 0),
    Row("look told, 1 pair", told(1), Demand(0.92, None, 3.6), 1, is_told=True),
    Row("look told, 4 pairs", told(4), Demand(0.955, None, 2.7), 0, is_told=True),
)


def first(divide: Divide, data: Data, count: int) -> list[Split]:
    splits = divide(data)
    return [next(splits) for _ in range(count)]


def measured(bench: Bench, row: Row, *, is_full: bool) -> Mean:
    splits = first(row.divide, bench.data, 4 if is_full else row.splits)
    started = time.process_time()
    results = [bench.result(split, is_told=row.is_told) for split in splits]
    return Mean.of(results, splits[0], time.process_time() - started)


def table(bench: Bench, misses: list[str], *, is_full: bool) -> dict[str, Mean]:
    print("similarity / mean ΔE00 of whole held-out pictures; share: of the learned look")
    print(f"{'':30}   train/test        ensemble              best fixed      share     time   demand")
    means = {}
    for row in (row for row in ROWS if is_full or row.splits):
        means[row.name] = mean = measured(bench, row, is_full=is_full)
        missed = (row.demand if is_full else row.demand.loosened()).misses(mean)
        misses += [f"{row.name}: {each}" for each in missed]
        print(f"{row.name:30} {mean}   {row.demand}   {'MISSED' if missed else 'ok'}", flush=True)
    return means


def under_color_difference(bench: Bench, misses: list[str], *, is_full: bool) -> None:
    """Compare two trainings on the same examples, one for each metric; a small one where time is short."""
    examples, splits = (112, 4) if is_full else (40, 1)
    chosen = first(at_random(examples), bench.data, splits)
    started = time.process_time()
    colour = [bench.result(split, metric=ColorDifference()) for split in chosen]
    seconds = time.process_time() - started
    guide = [bench.result(split) for split in chosen]
    # Under this metric, the best worker is the one with the least ΔE00 on the training part.
    names = sorted(bench.accuracies[0])
    best = []
    for split in chosen:
        nearest = min(names, key=lambda name: fmean(bench.fixed(index, name)[1] for index in split.training))
        best.append(fmean(bench.fixed(index, nearest)[1] for index in split.held_out))
    ours, theirs, rival = fmean(r.difference for r in colour), fmean(r.difference for r in guide), fmean(best)
    is_missed = ours > theirs or ours > 1.01 * rival
    print(
        f"{'under ColorDifference':30} {examples:>3}/{HELD_OUT} ×{splits}  ΔE00 {ours:.3f}; by the guide's metric"
        f" {theirs:.3f}; best fixed {rival:.3f}; {seconds:.1f} s   at most both, best + 1 %   "
        f"{'MISSED' if is_missed else 'ok'}"
    )
    if is_missed:
        misses.append(f"under ColorDifference: ΔE00 is {ours:.4f}, {theirs:.4f} and 1.01 · {rival:.4f} are demanded")


def beside_the_guide(bench: Bench, means: Mapping[str, Mean]) -> None:
    held_out = first(at_random(112), bench.data, 1)[0].held_out
    ours = {"0": fmean(bench.untrained(index) for index in held_out)}
    ours |= {str(n): means[f"{n} examples"].similarity for n in CURVE if f"{n} examples" in means}
    ours["112"] = means["random 70/30"].similarity
    expected = {"0": "0.75-0.80", "10": "0.80-0.85", "20": "0.80-0.85", "40": "0.85-0.90", "112": "0.90-0.95"}
    print("\nwhat the guide expects, beside what was measured on held-out examples (five epochs each)")
    for number, similarity in ours.items():
        print(f"{number:>5} examples   {expected.get(number, ''):10} {similarity:.3f}")


# --- what it costs --------------------------------------------------------------------------------------------------


def processor_seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def costs(bench: Bench, misses: list[str], *, is_full: bool) -> None:
    """Print processor time and memory of fits and predictions of the learned look."""
    trainable = next((worker for worker in bench.pool.workers if worker.worker_id == LEARNED), None)
    if not isinstance(trainable, TrainableWorker):
        misses.append(f"the default pool has no worker {LEARNED!r}")
        return
    observations = observed(trainable, bench.data, 1_000 if is_full else EXAMPLES)
    of_112 = observations[:112]
    bounds = {
        "full fit on 112 examples, s": (processor_seconds(lambda: trainable.fit(of_112)), 5.0),
        "fits of all folds on 112 examples, s": (processor_seconds(lambda: fit_folds(trainable, of_112)), 20.0),
        "prediction, beside three map workers": (prediction_ratio(bench, trainable.fit(of_112)), 1.0),
    }
    if is_full:
        seconds, megabytes = fit_apart(trainable, observations)
        bounds["full fit on 1,000 examples, s"] = seconds, 40.0
        bounds["full fit on 1,000 examples, MB"] = megabytes, float(MEGABYTES)
    print()
    for what, (value, bound) in bounds.items():
        print(f"{what:40} {value:7.2f}   (at most {bound:g})   {'MISSED' if value > bound else 'ok'}", flush=True)
        if value > bound:
            misses.append(f"{what}: {value:.2f}, and {bound:g} is demanded")


def observed(trainable: TrainableWorker, data: Data, count: int) -> list[Observation]:
    """Return observations of the triples, and as many more as are wanted of other tone curves over their looks."""
    made = []
    for number in range(count):
        index, again = number % EXAMPLES, number // EXAMPLES
        source, target, truth = data.pictures(index)
        if again:
            gamma = np.random.default_rng(again).uniform(0.6, 1.6, 3)
            levels = np.arange(256)[:, None] / 255.0
            curve = np.rint(255.0 * levels**gamma).astype(np.uint8)[None]
            source, truth = (np.asarray(cv2.LUT(picture, curve), np.uint8) for picture in (source, truth))
        seen = data.rows[index]
        made.append(
            Observation(
                digest=f"{number:064x}",
                source_digest=f"{seen['source_photo']} {seen['style']} {again}",
                target_digest=seen["target_photo"],
                group=None,
                data=trainable.observe(source, target, truth),
            )
        )
    return made


def fit_folds(trainable: TrainableWorker, observations: Sequence[Observation]) -> None:
    """Fit as a training does for out-of-fold scores: without a fifth of the targets, five times."""
    fold_of = {target: number % FOLDS for number, target in enumerate(sorted({o.target_digest for o in observations}))}
    for fold in range(FOLDS):
        trainable.fit([o for o in observations if fold_of[o.target_digest] != fold])


def _fit_and_tell(trainable: TrainableWorker, observations: Sequence[Observation], pipe: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = processor_seconds(lambda: trainable.fit(observations))
    pipe.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0))


def fit_apart(trainable: TrainableWorker, observations: Sequence[Observation]) -> tuple[float, float]:
    """Return processor time, and by how much memory grew (MB), of a fit in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_fit_and_tell, args=(trainable, observations, sender))
    process.start()
    seconds, megabytes = receiver.recv()
    process.join()
    return seconds, megabytes


def prediction_ratio(bench: Bench, fitted: Worker) -> float:
    """Return what the fitted worker takes for a picture of one megapixel, as a part of what three map workers take."""
    source, target, _truth = (cv2.resize(picture, (1000, 1000)) for picture in bench.data.pictures(0))
    data = {"source": np.asarray(source, np.uint8), "target": np.asarray(target, np.uint8)}
    maps = [worker for worker in bench.pool.workers if worker.worker_id.startswith("linear_map_rgb")]

    def seconds(worker: Worker) -> float:
        return median(processor_seconds(lambda: worker.process(data)) for _ in range(7))

    return seconds(fitted) / sum(map(seconds, maps))


# --- from data to an exit status ------------------------------------------------------------------------------------


def built(data: Path, folder: Path, file_format: str) -> Data:
    """Write the triples, and return what they were made of."""
    options = ["--count", str(EXAMPLES), "--size", str(SIZE), "--seed", str(SEED), "--format", file_format]
    subprocess.run([sys.executable, str(data / "build_examples.py"), str(folder), *options], check=True)
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return Data(folder, list(csv.DictReader(file)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="take all splits")
    parser.add_argument(
        "--jpeg", action="store_true", help="from JPEG files (quality 95), whose noise alone costs a ΔE00 of 1 to 1.7"
    )
    arguments = parser.parse_args()
    is_full = arguments.full
    source = os.environ.get("TSM_TRAINING_REAL_DATA", "")
    if not source:
        print("skipped: TSM_TRAINING_REAL_DATA names no folder of real photographs")
        return 0
    misses: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(built(Path(source), Path(name), "jpg" if arguments.jpeg else "png"), Path(name))
        print(f"evaluating {EXAMPLES} examples: {processor_seconds(lambda: bench.evaluated):.1f} s\n", flush=True)
        means = table(bench, misses, is_full=is_full)
        under_color_difference(bench, misses, is_full=is_full)
        beside_the_guide(bench, means)
        costs(bench, misses, is_full=is_full)
    print(f"\nprocessor time: {time.process_time():.0f} s")
    print("\n".join(["not reached:", *misses]) if misses else "all reached")
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
