"""Evaluating many examples: no more is begun than fits, and one way of running them is as good as another."""

from __future__ import annotations

import functools
import json
import pickle
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from support import ByBrightness, Inline, Scaled, brightening, manager_with, picture, pool_of, save, usual_pool
from tsm_training import (
    BayesianWeightLearner,
    ColorDifference,
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    Progress,
    TrainingEngine,
    TrainingManager,
    Worker,
    WorkerPool,
)
from tsm_training.color_transfer import create_color_transfer_workers
from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.errors import ExecutorError, MetricError, StorageError
from tsm_training.evaluation.execution import Execution
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.evaluation.scoring import EvaluationContext, ExampleInput, Judge, ScoredExample
from tsm_training.images import ImageLimits
from tsm_training.workers import ThreadRunner, TrainableWorker

BUILT_IN = {w.worker_id: w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker)}
GUIDE = GuideSimilarity()
CONTEXT = EvaluationContext(BUILT_IN, Judge("guide", GUIDE, GUIDE), ImageLimits(), None, ThreadRunner())


def sized(megapixels: int) -> ExampleInput:
    """Return an example with pictures of that size, which nobody reads."""
    files = ExampleFiles(*[PictureFile("0" * 64, 0, megapixels * 1000, 1000)] * 3)
    return ExampleInput(f"{megapixels}", (("s", "t", "g"),), files, tuple(BUILT_IN))


def need(example: ExampleInput) -> int:
    return bytes_to_evaluate(example.files, [BUILT_IN[name] for name in example.worker_ids], GUIDE, CONTEXT.runner)


# --- how many are begun ---------------------------------------------------------------------------------------------


class Gate(Executor):
    """Takes whatever is begun, and ends nothing by itself."""

    def __init__(self) -> None:
        self.begun: list[tuple[Future[list[ScoredExample]], list[ExampleInput]]] = []
        self.together: list[list[str]] = []
        self.batches: list[int] = []

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.begun.append((future, [item.example for item in arguments[1]]))
        self.batches.append(len(arguments[1]))
        return future

    def end_all(self) -> None:
        """End what has been begun; called between rounds of handing out."""
        self.together.append([example.digest for _future, examples in self.begun for example in examples])
        for future, examples in self.begun:
            future.set_result([ScoredExample(example.digest) for example in examples])
        self.begun.clear()


def run_all(examples: list[ExampleInput], budget: int, gate: Gate | None = None) -> list[list[str]]:
    """Run examples through a gate; return the sizes of those that were in flight together, round by round."""
    gate = gate or Gate()

    def poll() -> None:
        if gate.begun:
            gate.end_all()

    results = list(Execution(CONTEXT, examples, gate, budget).results(poll))
    assert [r.digest for r in results] == [e.digest for e in examples]
    return gate.together


def test_as_many_are_begun_as_fit_and_no_more() -> None:
    one = sized(24)
    assert [len(r) for r in run_all([one] * 6, 1024**3)] == [2, 2, 2]
    assert [len(r) for r in run_all([one] * 6, 3 * need(one))] == [3, 3]
    assert [len(r) for r in run_all([one] * 3, 3 * need(one) - 1)] == [2, 1]


def test_an_example_that_needs_more_than_the_budget_runs_alone() -> None:
    small, huge = sized(1), sized(64)
    budget = 10 * need(small)
    assert need(huge) > budget
    assert run_all([small, small, huge, huge, small], budget) == [["1", "1"], ["64"], ["64"], ["1"]]


def test_a_large_example_gets_its_turn_among_many_small_ones() -> None:
    small, large = sized(1), sized(24)
    budget = need(large) + need(small)
    rounds = run_all([*[small] * 5, large, *[small] * 20], budget)
    assert "24" in rounds[1]
    assert all(sum(need(sized(int(size))) for size in each) <= budget for each in rounds)


def test_whether_previews_are_wanted_is_asked_when_an_example_is_handed_out() -> None:
    """What is wanted of an example may depend on what has come of those before it."""
    asked: list[str] = []

    def has_room(example: ExampleInput) -> bool:
        asked.append(example.digest)
        return True

    gate = Gate()
    results = Execution(CONTEXT, [sized(1)] * 9, gate, 2 * need(sized(1)), has_room).results(gate.end_all)
    next(results)
    assert len(asked) == 2


def test_few_are_in_flight_at_a_time_however_small_they_are() -> None:
    small = sized(1)._replace(samples={"target": b""})
    assert [len(r) for r in run_all([small] * 130, 1024**4)] == [64, 64, 2]


class Processes(Gate):
    """Says how many processes it has, as pools of the standard library and of others do."""

    _max_workers = 3


def test_memory_and_number_in_flight_are_bounded_for_each_process() -> None:
    large = sized(24)
    assert [len(r) for r in run_all([large] * 7, 2 * need(large), Processes())] == [6, 1]
    small = sized(1)._replace(samples={"target": b""})
    assert [len(r) for r in run_all([small] * 200, 1024**4, Processes())] == [192, 8]


def test_small_examples_go_in_batches_and_large_ones_alone() -> None:
    """No batch is so large that a process would be without work while another has much left."""
    tiny, large = sized(1)._replace(worker_ids=("unchanged",)), sized(24)
    for examples, expected in (
        ([tiny] * 120, [8] * 15),  # a batch is half a second's work at most
        ([tiny] * 24, [2] * 12),  # each of the three gets four at least
        ([tiny] * 5, [1] * 5),
        ([large] * 24, [1] * 24),
        ([tiny, tiny, *[large] * 20, tiny, tiny], [2, *[1] * 20, 2]),
    ):
        gate = Processes()
        run_all(examples, 1024**4, gate)
        assert gate.batches == expected


def test_threads_get_examples_one_by_one() -> None:
    class Threads(Gate, ThreadPoolExecutor):
        def __init__(self) -> None:
            ThreadPoolExecutor.__init__(self, 2)
            Gate.__init__(self)

    gate = Threads()
    run_all([sized(1)] * 30, 1024**4, gate)
    assert gate.batches == [1] * 30


def test_a_batch_takes_as_much_memory_as_its_largest_example() -> None:
    tiny = [sized(1)._replace(worker_ids=(name,)) for name in ("unchanged", "standard_transfer")] * 24
    gate = Processes()
    assert [len(r) for r in run_all(tiny, max(map(need, tiny)), gate)] == [12, 12, 12, 12]
    assert gate.batches == [4] * 12


def test_an_example_that_waits_for_others_to_come_back_does_not_go_with_them() -> None:
    """What is wanted of it is known when they have."""
    answers = iter([True, True, None, True])
    gate = Processes()
    results = Execution(CONTEXT, [sized(1)] * 3, gate, 1024**4, lambda _example: next(answers))
    ended = list(results.results(lambda: gate.begun and gate.end_all()))
    assert (len(ended), gate.together) == (3, [["1", "1"], ["1"]])


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
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor, memory_budget=budget)
    pool = pool_of(Meeting("meeting", crowd, patience))
    manager = manager_with(folder, examples=0, pool=pool, engine_factory=factory)
    for seed in range(4):
        paths = [save(folder / f"{role}_{seed}.png", picture(10 * seed + i, 300, 400)) for i, role in enumerate("stg")]
        manager.add_training_example(*paths)
    return manager, crowd


def test_a_training_begins_no_more_examples_than_its_budget_holds(tmp_path: Path) -> None:
    files = ExampleFiles(*[PictureFile("0" * 64, 0, 400, 300)] * 3)
    one = bytes_to_evaluate(files, [brightening("any", 1)], GUIDE, ThreadRunner())
    with ThreadPoolExecutor(8) as threads:
        tight, crowd = meeting(tmp_path / "tight", threads, 2 * one - 1, patience=0.05)
        tight.train(validation_split=0.0, verbose=False)
        assert crowd.most == 1
        wide, crowd = meeting(tmp_path / "wide", threads, 4 * one, patience=60.0)
        wide.train(validation_split=0.0, verbose=False)
        assert crowd.most >= 2


class Batching(Inline):
    """Runs batches of several examples."""

    _max_workers = 2


# --- where they run -------------------------------------------------------------------------------------------------


def color_manager(folder: Path, executor: Executor | None = None, **settings: Any) -> TrainingManager:
    settings.setdefault("blend_solver", "best_single")  # a search would ask the metric a thousand times
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor, **settings)
    return manager_with(folder, pool=pool, engine_factory=factory)


def facts(manager: TrainingManager) -> str:
    """Return all that a training leaves, but for ids and times."""
    results = manager.train(epochs=3, validation_split=0.3, verbose=False)
    session = {key: value for key, value in results["session"].items() if key != "session_id"}
    rows = [
        (row.epoch, row.worker_id, row.accuracy, row.confidence, row.loss)
        for row in manager.data_manager.iterate_metrics(results["session"]["session_id"])
    ]
    text = json.dumps([session, results["validation"], rows])
    for number, example in enumerate(manager.data_manager.iterate_examples()):
        text = text.replace(example.example_id, f"example {number}")
    return text


class Strange(Executor):
    """Knows nothing but `submit`, and passes everything on as bytes, to threads that stand for one process."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = ThreadPoolExecutor(threads)
        self.sent: list[bytes] = []
        self.answers: list[bytes] = []

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        self.sent.append(pickle.dumps(arguments))
        ended: Future[Any] = Future()

        def pass_on(future: Future[bytes]) -> None:
            if future.exception() is not None:
                ended.set_exception(future.exception())
                return
            self.answers.append(future.result())
            ended.set_result(pickle.loads(future.result()))

        there = self.threads.submit(lambda sent: pickle.dumps(function(*pickle.loads(sent))), self.sent[-1])
        there.add_done_callback(pass_on)
        return ended

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.threads.shutdown(wait, cancel_futures=cancel_futures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_one_thread_many_threads_and_processes_agree_to_the_last_bit(tmp_path: Path) -> None:
    own = facts(color_manager(tmp_path))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(8) as eight, Strange() as strange:
        assert facts(color_manager(tmp_path, one)) == own
        assert facts(color_manager(tmp_path, eight)) == own
        assert facts(color_manager(tmp_path, strange)) == own
    assert facts(color_manager(tmp_path, Inline(), memory_budget=1)) == own
    for way in {"fork", "spawn"} & set(get_all_start_methods()):
        with ProcessPoolExecutor(2, mp_context=get_context(way)) as processes:
            assert facts(color_manager(tmp_path, processes)) == own


@pytest.mark.slow
def test_an_overridden_hook_judges_in_processes_as_it_does_here(tmp_path: Path) -> None:
    hooks: list[Any] = [ByBrightness, functools.partial(Scaled, metric=ColorDifference(), scale=0.5)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        for hook in hooks:
            own, there = (
                manager_with(tmp_path, examples=2, engine_factory=factory).validate()["worker_accuracies"]
                for factory in (hook, functools.partial(hook, executor=processes))
            )
            assert own == there


def test_a_hook_travels_without_what_belongs_to_this_process() -> None:
    """Stores, pools and executors cannot be pickled, and nobody needs them elsewhere."""
    store = InMemoryStore()
    engine = Scaled(usual_pool(), BayesianWeightLearner(), store, scale=0.25, memory_budget=7, new_id=lambda: "id")
    travelled = pickle.loads(pickle.dumps(engine.judge))
    assert travelled.name == "Scaled"
    assert travelled.metric(picture(1), picture(1)) == travelled.scorer(picture(1))(picture(1)) == 0.25
    assert travelled.metric.engine.memory_budget == 7
    assert not hasattr(travelled.metric.engine, "store")


class Measured(ProcessPoolExecutor):
    """A pool whose one process is this one; it notes how many bytes are sent with each call."""

    def __init__(self) -> None:
        super().__init__(1)  # which starts no process before it is asked to
        self.sent: list[int] = []

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        pickled = pickle.dumps(arguments)
        self.sent.append(len(pickled))
        return Inline().submit(function, *pickle.loads(pickled))


LARGE = 100_000


@attrs.frozen
class Heavy(Worker):
    """Travels with a large model unlike any other, and notes when that is loaded."""

    worker_id: str = "heavy"
    model: bytes = attrs.field(factory=lambda: secrets.token_bytes(LARGE), repr=False)
    loaded: ClassVar[list[bytes]] = []

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"]

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.model,)


def load(model: bytes) -> Heavy:
    Heavy.loaded.append(model)
    return Heavy(model=model)


def heavy_manager(folder: Path, executor: Executor) -> TrainingManager:
    Heavy.loaded.clear()
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor, memory_budget=1)  # one after the other
    return manager_with(folder, examples=4, pool=pool_of(Heavy()), engine_factory=factory)


def test_what_examples_share_is_sent_and_loaded_once(tmp_path: Path) -> None:
    processes = Measured()
    assert heavy_manager(tmp_path, processes).validate()["num_examples"] == 4
    assert [num_bytes > LARGE for num_bytes in processes.sent] == [True, False, False, False]
    assert len(Heavy.loaded) == 1


def test_a_process_that_does_not_have_what_examples_share_asks_for_it(tmp_path: Path) -> None:
    """It came later, or has worked for somebody else."""
    processes = Measured()
    manager = heavy_manager(tmp_path, processes)
    factory = TrainingEngine.using(GUIDE, executor=Measured())
    pools = [pool_of(brightening(name, 9)) for name in ("one", "two")]
    others = [manager_with(tmp_path / "other", 1, pool=pool, engine_factory=factory) for pool in pools]

    def work_for_others(progress: Progress) -> None:
        if progress.phase == "evaluating" and progress.done == 2:
            for other in others:
                other.validate()

    assert manager.validate(on_progress=work_for_others)["failures"] == {"heavy": 0}
    assert [num_bytes > LARGE for num_bytes in processes.sent] == [True, False, False, True, False]
    assert len(Heavy.loaded) == 2


class Homebound(Heavy):
    """Can be pickled, and cannot be loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> Worker:
    raise ImportError("no module named 'notebook'")


def test_what_cannot_be_loaded_elsewhere_is_named(tmp_path: Path) -> None:
    factory = TrainingEngine.using(GuideSimilarity(), executor=Measured())
    manager = manager_with(tmp_path, examples=2, pool=pool_of(Homebound()), engine_factory=factory)
    with pytest.raises(ExecutorError, match="ImportError: no module named 'notebook'") as caught:
        manager.train(verbose=False)
    assert caught.value.executor == "Measured"


@attrs.frozen
class Counted(Worker):
    """Notes how many of its calls there are at once in this process."""

    worker_id: str = "counted"
    crowd: ClassVar[Crowd] = Crowd()

    def process(self, data: Mapping[str, Image]) -> Image:
        return Meeting("counted", Counted.crowd, 0.05).process(data)


def test_threads_of_one_process_begin_no_more_examples_than_its_budget_holds(tmp_path: Path) -> None:
    """Also where the calling process hands out more, because there are other processes."""
    files = ExampleFiles(*[PictureFile("0" * 64, 0, 16, 12)] * 3)
    one = bytes_to_evaluate(files, [Counted()], GUIDE, ThreadRunner())

    def most(budget: int, patience: int) -> int:
        Counted.crowd.most = 0
        with Strange(patience) as executor:
            executor._max_workers = 4  # type: ignore[attr-defined]
            factory = TrainingEngine.using(GUIDE, executor=executor, memory_budget=budget)
            manager_with(tmp_path, 6, pool=pool_of(Counted()), engine_factory=factory).validate()
        return Counted.crowd.most

    assert most(2 * one - 1, 4) == 1
    assert 2 <= most(2 * one, 4) <= 2 + 1  # files count while they are decoded


def test_a_result_travels_in_few_bytes_beside_its_previews(tmp_path: Path) -> None:
    with Strange() as executor:
        color_manager(tmp_path, executor).validate()
    results = [result for answer in executor.answers for result in pickle.loads(answer) or ()]
    assert len([result for result in results if len(result.scores) == len(BUILT_IN)]) == 6
    for result in results:
        scores = tuple(score._replace(preview=None) for score in result.scores)
        bare = result._replace(scores=scores, input_previews={}, observations={})
        assert len(pickle.dumps(bare)) <= 4096


def test_what_was_evaluated_before_an_error_is_kept_also_in_its_batch(tmp_path: Path) -> None:
    calls: list[int] = []

    def moody(_output: Image, _truth: Image) -> float:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("no more")
        return 0.5

    factory = TrainingEngine.using(moody, executor=Batching())
    manager = manager_with(tmp_path, 32, pool=pool_of(brightening("only", 9)), engine_factory=factory)
    with pytest.raises(MetricError, match="no more"):
        manager.validate()
    digests = [example.known_files.digest for example in manager.data_manager.iterate_examples()]
    assert len(manager.data_manager.load_evaluations(digests)) == 32 - 3  # the sixth, and two behind it in its batch


def test_what_has_come_back_with_others_is_kept_where_one_of_them_ends_the_work(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, 32, engine_factory=TrainingEngine.using(GUIDE, executor=Batching()))

    def end(progress: Progress) -> None:
        if progress.done == 2:
            raise LookupError("no such widget")

    with pytest.raises(LookupError):
        manager.validate(on_progress=end)
    digests = [example.known_files.digest for example in manager.data_manager.iterate_examples()]
    assert len({e.key.example_digest for e in manager.data_manager.load_evaluations(digests)}) == 32


class Reluctant(Heavy):
    """Raises what it likes when it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise LookupError("not without my file")


def test_what_cannot_be_pickled_is_named_whatever_it_raises(tmp_path: Path) -> None:
    for executor in (Measured(), Strange()):
        factory = TrainingEngine.using(GUIDE, executor=executor)
        manager = manager_with(tmp_path, 2, pool=pool_of(Reluctant()), engine_factory=factory)
        with pytest.raises(ExecutorError, match="cannot be sent worker 'heavy': LookupError: not without my file"):
            manager.validate()


# --- what is whose fault --------------------------------------------------------------------------------------------


def test_a_metric_that_fails_is_not_put_down_to_what_cannot_be_pickled(tmp_path: Path) -> None:
    pool = pool_of(FunctionWorker("lambda", lambda _source, target: target))
    factory = TrainingEngine.using(lambda _output, _truth: 2.0, executor=Inline())
    with pytest.raises(MetricError, match=r"returned 2\.0"):
        manager_with(tmp_path, examples=1, pool=pool, engine_factory=factory).validate()


@pytest.mark.parametrize("fault", [ValueError("a slip"), OSError("a slip")])
def test_an_executor_that_raises_something_of_its_own_is_not_said_to_take_no_work(
    tmp_path: Path, fault: Exception
) -> None:
    pool = pool_of(FunctionWorker("lambda", lambda _source, target: target))
    factory = TrainingEngine.using(GuideSimilarity(), executor=Inline(fault))
    with pytest.raises(type(fault), match="a slip") as caught:
        manager_with(tmp_path, examples=1, pool=pool, engine_factory=factory).validate()
    assert caught.value is fault


def test_an_error_as_pickling_raises_it_is_left_alone_where_everything_can_be_pickled(tmp_path: Path) -> None:
    fault = TypeError("a slip")
    factory = TrainingEngine.using(GuideSimilarity(), executor=Inline(fault))
    with pytest.raises(TypeError, match="a slip") as caught:
        manager_with(tmp_path, examples=1, engine_factory=factory).validate()
    assert caught.value is fault


# --- calling off ----------------------------------------------------------------------------------------------------


def test_after_an_error_a_hosts_executor_is_left_without_work(tmp_path: Path) -> None:
    """Also where what was evaluated before can no longer be stored."""
    over, begun = threading.Event(), []

    def patient(_source: Image, target: Image) -> Image:
        begun.append(1)
        assert len(begun) == 1 or over.wait(60)
        return target

    class Broken(InMemoryStore):
        def save_evaluations(self, *arguments: Any, **settings: Any) -> None:
            raise StorageError("memory", "broken")

    def end(_progress: Progress) -> None:
        raise LookupError("no such widget")

    with ThreadPoolExecutor(1) as threads:
        factory = TrainingEngine.using(GuideSimilarity(), executor=threads)
        pool = pool_of(FunctionWorker("patient", patient, version="1"))
        manager = manager_with(tmp_path, pool=pool, engine_factory=factory, storage=Broken())
        with pytest.raises(LookupError, match="no such widget"):
            manager.train(verbose=False, on_progress=end)
        over.set()
    assert len(begun) <= 2
