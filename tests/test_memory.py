"""The memory of pictures in flight: how much an example is said to take, and that no more is begun than fits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from support import brightening, manager_with, picture, save
from tsm_training import FunctionWorker, GuideSimilarity, Image, TrainingEngine, TrainingManager, Worker, WorkerPool
from tsm_training.arrays import frozen_copy
from tsm_training.color_transfer import ColorTransferWorker, create_color_transfer_workers
from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.ensemble import blend
from tsm_training.evaluation.footprint import bytes_to_evaluate
from tsm_training.evaluation.tasks import ScoredExample, Task, TaskRun
from tsm_training.images import ImageLimits
from tsm_training.metrics import Metric
from tsm_training.workers import ThreadRunner, TrainableWorker, WorkerRequest, WorkerResult

MEGAPIXEL = 1_000_000
GUIDE = GuideSimilarity()
BUILT_IN = tuple(w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker))
FIXED = 20 * 1024**2
"""Bytes that may be added for what does not grow with the pictures."""


def files(source: int, target: int, num_bytes: int = 0) -> ExampleFiles:
    """Return records of pictures of so many megapixels."""
    known = [PictureFile("0" * 64, num_bytes, size * 1000, 1000) for size in (source, target, target)]
    return ExampleFiles(*known)


def footprint(sizes: ExampleFiles, *workers: Worker, metric: Metric | None = GUIDE, runner: Any = None) -> int:
    return bytes_to_evaluate(sizes, workers, metric, runner or ThreadRunner())


def nothing(_source: Image, target: Image) -> Image:
    return target


def function_worker() -> Worker:
    return FunctionWorker("nothing", nothing)


# --- how much an example takes --------------------------------------------------------------------------------------


def test_the_built_in_workers_take_five_pictures() -> None:
    five = 5 * 3 * 24 * MEGAPIXEL
    assert five <= footprint(files(24, 24), *BUILT_IN) <= five + FIXED


def test_the_bytes_of_a_file_count_while_it_is_decoded() -> None:
    small = footprint(files(24, 24), *BUILT_IN)
    assert footprint(files(24, 24, 70 * MEGAPIXEL), *BUILT_IN) == 5 * 3 * 24 * MEGAPIXEL + 70 * MEGAPIXEL > small


def test_a_large_source_counts_once_while_workers_run_and_three_times_while_it_is_decoded() -> None:
    assert footprint(files(64, 1), *BUILT_IN) == 3 * 3 * 64 * MEGAPIXEL
    pictures = 3 * (40 + 4 * 24) * MEGAPIXEL
    assert pictures <= footprint(files(40, 24), *BUILT_IN) <= pictures + FIXED


def test_a_worker_that_states_nothing_is_allowed_two_pictures_of_doubles_beside_copies_of_its_own() -> None:
    expected = 3 * (5 + 16) * 6 * MEGAPIXEL
    assert expected <= footprint(files(6, 6), function_worker()) <= expected + FIXED
    assert footprint(files(6, 6), *BUILT_IN, function_worker()) == footprint(files(6, 6), function_worker())


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(abs(output.astype(float) - truth).mean()) / 255.0


@attrs.frozen
class Prepared:
    def __call__(self, output: Image, truth: Image, /) -> float:
        return closeness(output, truth)

    def prepare(self, truth: Image, /) -> Callable[[Image], float]:
        doubles = truth.astype(float)
        return lambda output: 1.0 - float(abs(output - doubles).mean()) / 255.0


def test_a_metric_that_states_nothing_is_allowed_as_much() -> None:
    plain, hook = (footprint(files(6, 6), *BUILT_IN, metric=metric) for metric in (closeness, None))
    assert plain == hook
    assert plain >= 3 * (4 + 16) * 6 * MEGAPIXEL > footprint(files(6, 6), *BUILT_IN)
    # what a metric prepares is there while workers run
    both = footprint(files(6, 6), function_worker(), metric=Prepared())
    assert both >= 3 * (5 + 16 + 16) * 6 * MEGAPIXEL > footprint(files(6, 6), function_worker(), metric=closeness)


@attrs.frozen
class Stating(Worker):
    """States what it is told to; what it states cannot always be used."""

    worker_id: str
    stated: Any

    @property
    def reads_only(self) -> bool:
        return True

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"].copy()

    def working_memory(self, source_pixels: int, target_pixels: int, /) -> int:
        if isinstance(self.stated, Exception):
            raise self.stated
        return self.stated  # type: ignore[no-any-return]


def test_a_worker_of_anybodys_can_state_what_it_takes() -> None:
    frugal, greedy = (footprint(files(6, 6), Stating("s", stated)) for stated in (0, 10**9))
    assert frugal == footprint(files(6, 6), ColorTransferWorker("median", BUILT_IN[0].color_map, 0.0))  # type: ignore[attr-defined]
    assert 10**9 < greedy < 10**9 + 3 * 3 * 6 * MEGAPIXEL + FIXED


@pytest.mark.parametrize("stated", [-1, "much", None, RuntimeError("who knows")])
def test_a_statement_that_cannot_be_used_counts_as_none(stated: Any) -> None:
    unstated = footprint(files(6, 6), function_worker())
    assert footprint(files(6, 6), Stating("s", stated)) == unstated - 2 * 3 * 6 * MEGAPIXEL  # no copies for a reader


def test_pictures_that_travel_to_other_processes_count_there_too() -> None:
    @attrs.frozen
    class Elsewhere:
        def check(self, workers: Any, /) -> None: ...

        def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
            raise NotImplementedError

    here = footprint(files(6, 6), *BUILT_IN)
    assert footprint(files(6, 6), *BUILT_IN, runner=Elsewhere()) == here + 3 * 10 * 6 * MEGAPIXEL


def test_what_is_frozen_is_not_copied_again() -> None:
    frozen = frozen_copy(picture(1))
    assert WorkerRequest(frozen, frozen)["target"] is frozen
    view = picture(2)
    view.flags.writeable = False  # its owner can take that back
    request = WorkerRequest(view, np.ascontiguousarray(view[:, ::-1]))
    assert request["source"] is not view
    assert frozen_copy(frozen[:, ::-1]).flags.c_contiguous


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (97, 103)])
def test_blending_in_parts_gives_the_bytes_of_blending_at_once(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {name: picture(seed, *size) for seed, name in enumerate("abcd")}
    shares = {"a": 0.1, "b": 0.37, "c": 0.0, "d": 0.53}
    whole = blend(pictures, shares)
    monkeypatch.setattr("tsm_training.ensemble.blending._BLENDED_AT_ONCE", 192)
    assert np.array_equal(blend(pictures, shares), whole)
    exact = sum(shares[name] * image.astype(float) for name, image in pictures.items())
    assert np.abs(whole - exact).max() <= 0.5 + 1e-4
    turned = {name: image[:, ::-1] for name, image in pictures.items()}
    assert np.array_equal(blend(turned, shares), whole[:, ::-1])


# --- how many are begun ---------------------------------------------------------------------------------------------


class Gate(Executor):
    """Notes what is begun together, and lets nothing end before no more is begun."""

    def __init__(self) -> None:
        self.begun: list[tuple[Future[ScoredExample], Task]] = []
        self.together: list[list[int]] = []

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.begun.append((future, arguments[0]))
        return future

    def end_all(self) -> None:
        """End what has been begun; called between rounds of handing out."""
        self.together.append([task.bytes_in_flight for _future, task in self.begun])
        for future, task in self.begun:
            future.set_result(ScoredExample(task.example_id))
        self.begun.clear()


def run_all(tasks: list[Task], budget: int) -> list[list[int]]:
    """Run tasks through a gate; return the bytes of those that were in flight together, round by round."""
    gate = Gate()
    run = TaskRun(tasks, gate, budget)
    ended = 0

    def poll() -> None:
        if gate.begun:
            gate.end_all()

    for _result in run.results(poll):
        ended += 1
    assert ended == len(tasks)
    return gate.together


def task(engine: TrainingEngine, sizes: ExampleFiles, *workers: Worker) -> Task:
    return Task("id", "s", "t", "g", sizes, workers or BUILT_IN, engine, ImageLimits())


@pytest.fixture
def engine(tmp_path: Path) -> TrainingEngine:
    return manager_with(tmp_path, examples=0).training_engine


def test_as_many_are_begun_as_fit_and_no_more(engine: TrainingEngine) -> None:
    one = task(engine, files(24, 24))
    need = one.bytes_in_flight
    assert [len(r) for r in run_all([one] * 6, 1024**3)] == [2, 2, 2]
    assert [len(r) for r in run_all([one] * 6, 3 * need)] == [3, 3]
    assert [len(r) for r in run_all([one] * 3, 3 * need - 1)] == [2, 1]


def test_an_example_that_needs_more_than_the_budget_runs_alone(engine: TrainingEngine) -> None:
    small, huge = task(engine, files(1, 1)), task(engine, files(64, 64))
    budget = 10 * small.bytes_in_flight
    assert huge.bytes_in_flight > budget
    rounds = run_all([small, small, huge, huge, small], budget)
    assert rounds == [[small.bytes_in_flight] * 2, *[[huge.bytes_in_flight]] * 2, [small.bytes_in_flight]]


def test_a_large_example_gets_its_turn_among_many_small_ones(engine: TrainingEngine) -> None:
    small, large = task(engine, files(1, 1)), task(engine, files(24, 24))
    budget = large.bytes_in_flight + small.bytes_in_flight
    rounds = run_all([*[small] * 5, large, *[small] * 20], budget)
    assert large.bytes_in_flight in rounds[1]
    assert all(sum(r) <= budget for r in rounds)


@attrs.define
class Crowd:
    """Counts how many calls of a worker there are at once."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    present: int = 0
    most: int = 0
    together: threading.Event = attrs.field(factory=threading.Event)


@attrs.frozen
class Meeting(Worker):
    """Waits a while for others to be there as well."""

    worker_id: str
    _crowd: Crowd
    _patience: float

    def process(self, data: Mapping[str, Image]) -> Image:
        crowd = self._crowd
        with crowd.lock:
            crowd.present += 1
            crowd.most = max(crowd.most, crowd.present)
            if crowd.present > 1:
                crowd.together.set()
        crowd.together.wait(self._patience)
        with crowd.lock:
            crowd.present -= 1
        return data["target"].copy()


def meeting(folder: Path, executor: Executor, budget: int, patience: float) -> tuple[TrainingManager, Crowd]:
    crowd = Crowd()
    pool = WorkerPool()
    pool.register_worker(Meeting("meeting", crowd, patience))
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor, memory_budget=budget)
    manager = manager_with(folder, examples=0, pool=pool, engine_factory=factory)
    for seed in range(4):
        paths = [save(folder / f"{role}_{seed}.png", picture(10 * seed + i, 300, 400)) for i, role in enumerate("stg")]
        manager.add_training_example(*paths)
    return manager, crowd


def test_a_training_begins_no_more_examples_than_its_budget_holds(tmp_path: Path) -> None:
    one = bytes_to_evaluate(
        ExampleFiles(*[PictureFile("0" * 64, 0, 400, 300)] * 3),
        (brightening("any", 1),),
        GuideSimilarity(),
        ThreadRunner(),
    )
    with ThreadPoolExecutor(8) as threads:
        tight, crowd = meeting(tmp_path / "tight", threads, 2 * one - 1, patience=0.05)
        tight.train(validation_split=0.0, verbose=False)
        assert crowd.most == 1
        wide, crowd = meeting(tmp_path / "wide", threads, 4 * one, patience=60.0)
        wide.train(validation_split=0.0, verbose=False)
        assert crowd.most >= 2
