"""Evaluating each example once: from any copy of its pictures, and kept at once, with previews where there is room."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import (
    HostPool,
    Inline,
    brightening,
    brighter,
    manager_with,
    pool_of,
    put_examples,
    save_triple,
    usual_pool,
)
from tsm_training import (
    GuideSimilarity,
    Image,
    InMemoryStore,
    Observation,
    Progress,
    TrainableWorker,
    TrainingEngine,
    TrainingManager,
    Worker,
)
from tsm_training.data import Preview, TrainingExample
from tsm_training.evaluation.evaluator import Evaluator
from tsm_training.progress import ProgressReporter


class InTurn(Executor):
    """Evaluates at once, in the calling thread, and hands results over one after the other when it is told."""

    def __init__(self) -> None:
        self.held: list[tuple[Future[Any], Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        self.held.append((Future(), function(*arguments)))
        return self.held[-1][0]

    def hand_over(self) -> Any:
        future, result = self.held.pop(0)
        future.set_result(result)
        return result


def host_pool() -> HostPool:
    return HostPool({"near": lambda _source, target: brighter(target, 22)})


# --- several examples with the same contents ------------------------------------------------------------------------


def with_a_copy(folder: Path, **settings: Any) -> tuple[TrainingManager, TrainingExample, TrainingExample]:
    """Return a manager of two triples, of which the first stands under two paths, and the two examples of it."""
    manager = manager_with(folder, examples=2, **settings)
    copy = manager.add_training_example(*save_triple(folder / "copy", 0))
    original = manager.data_manager.get_all_examples()[0]
    assert original.known_files.digest == copy.known_files.digest
    return manager, original, copy


def skipped(manager: TrainingManager) -> Mapping[str, str]:
    return manager.validate()["skipped"]


@pytest.mark.parametrize("pool", [usual_pool, host_pool])
@pytest.mark.parametrize("gone", ["original", "copy", "a part of each"])
def test_any_readable_copy_of_a_picture_will_do(tmp_path: Path, gone: str, pool: Callable[[], Any]) -> None:
    manager, original, copy = with_a_copy(tmp_path, pool=pool())
    if gone == "a part of each":
        Path(original.source_path).unlink()
        Path(copy.target_path).unlink()
    else:
        Path((original if gone == "original" else copy).ground_truth_path).unlink()
    report = manager.train(validation_split=0.0, verbose=False)["session"]
    assert report["num_examples"] == 3
    whole = manager_with(tmp_path / "whole", examples=2, pool=pool())
    whole.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_all_weights() == whole.weight_learner.get_all_weights()


@pytest.mark.parametrize("pool", [usual_pool, host_pool])
def test_an_example_without_a_readable_copy_is_skipped_by_its_own_reason(
    tmp_path: Path, pool: Callable[[], Any]
) -> None:
    manager, original, copy = with_a_copy(tmp_path, pool=pool())
    for example in (original, copy):
        Path(example.target_path).unlink()
    reasons = skipped(manager)
    assert list(reasons) == [original.example_id, copy.example_id]
    assert all(example.target_path in reasons[example.example_id] for example in (original, copy))


def test_a_full_validation_reads_any_copy_too(tmp_path: Path) -> None:
    manager, _original, copy = with_a_copy(tmp_path)
    manager.validate()
    Path(copy.source_path).unlink()
    assert manager.validate(full=True)["ensemble_examples"] == 3


@attrs.frozen
class Learned(TrainableWorker):
    """Learns nothing, and gives the target brighter."""

    worker_id: str = "learned"
    min_observations: int = 1
    is_color_map: bool = False

    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        return b"seen"

    def fit(self, observations: Sequence[Observation]) -> Worker:
        return brightening(self.worker_id, 21)


def test_fitted_workers_are_scored_on_any_copy_too(tmp_path: Path) -> None:
    manager, _original, copy = with_a_copy(tmp_path, pool=pool_of(brightening("near", 22), Learned()))
    Path(copy.source_path).unlink()
    manager.train(validation_split=0.0, verbose=False)
    for example in manager.data_manager.get_all_examples():
        assert example.worker_results is not None
        assert example.worker_results["learned"]["is_valid"]


# --- kept at once ---------------------------------------------------------------------------------------------------


def test_results_are_stored_within_a_second(tmp_path: Path) -> None:
    """Time goes on by 0.3 seconds with each example that is ready; whatever happens then, others see it soon."""
    manager = manager_with(tmp_path, examples=20, db_path=tmp_path / "training.db")
    executor, now, ready = InTurn(), 0.0, list[tuple[float, str]]()
    with manager_with(tmp_path, examples=0, db_path=tmp_path / "training.db") as other:

        def look() -> bool:
            nonlocal now
            old = {digest for time, digest in ready if time <= now - 1.0}
            stored = other.data_manager.load_evaluations(digest for _time, digest in ready)
            assert old <= {evaluation.key.example_digest for evaluation in stored}
            now += 0.3
            if executor.held:
                ready.extend((now, result.digest) for result in executor.hand_over())
            return False

        settings = {"executor": executor, "timer": lambda: now, "reporter": ProgressReporter(should_stop=look)}
        evaluator = attrs.evolve(manager.training_engine.evaluator, **settings)
        evaluator.evaluate(manager.data_manager.get_all_examples())
    assert len(ready) == 20
    manager.close()


@pytest.mark.parametrize("pool", [usual_pool, host_pool])
def test_progress_tells_the_mean_accuracy_so_far(tmp_path: Path, pool: Callable[[], Any]) -> None:
    manager = manager_with(tmp_path, examples=3, pool=pool())
    heard: list[Progress] = []
    manager.validate(on_progress=heard.append)
    results = [e.worker_results or {} for e in manager.data_manager.get_all_examples()]
    accuracies = [outcome["accuracy"] or 0.0 for each in results for outcome in each.values()]
    last = [event for event in heard if event.phase == "evaluating"][-1]
    assert (last.done, last.total, last.accuracy) == (3, 3, pytest.approx(sum(accuracies) / len(accuracies)))


# --- previews for which there is room -------------------------------------------------------------------------------


@attrs.define(eq=False)
class Offered:
    """The previews with a rank that a store was given."""

    previews: list[Preview] = attrs.field(factory=list)
    num_calls: int = 0


@attrs.frozen(eq=False)
class Small(InMemoryStore):
    """Has room for few previews, notes those that it is given, and tells where its room ends if it is one that does."""

    room: int = attrs.field(default=0, kw_only=True)
    tells: bool = attrs.field(default=True, kw_only=True)
    offered: Offered = attrs.field(factory=Offered, init=False)

    def save_evaluations(self, evaluations: Any, previews: Any = (), observations: Any = (), **settings: Any) -> None:
        super().save_evaluations(evaluations, previews, observations, **settings)
        self.offered.num_calls += 1
        self.offered.previews += [preview for preview in previews if preview.rank is not None]

    def preview_cutoff(self) -> tuple[float, str] | None:
        used, last = 0, None
        for preview in sorted(self.offered.previews, key=lambda p: (p.rank, p.example_digest, p.name)):
            if used >= self.room:
                break
            used += len(preview.png)
            last = preview.rank or 0.0, preview.example_digest
        return last if self.tells and used >= self.room else None


def evaluate(manager: TrainingManager, *digests: str) -> None:
    """Evaluate the examples with these contents, or all, and store what comes of each at once."""
    examples = manager.data_manager.get_all_examples()
    evaluator: Evaluator = manager.training_engine.evaluator
    seconds = itertools.count()
    impatient = attrs.evolve(evaluator, executor=Inline(), timer=lambda: float(next(seconds)))
    impatient.evaluate([e for e in examples if not digests or e.known_files.digest in digests])


def small_manager(folder: Path, examples: int, monkeypatch: pytest.MonkeyPatch, *, tells: bool) -> TrainingManager:
    room = 3 * 3 * 500  # of some three examples
    monkeypatch.setattr("tsm_training.storage.memory.PREVIEW_BYTES", room)
    factory = TrainingEngine.using(GuideSimilarity(), memory_budget=1)  # one after the other
    return manager_with(folder, examples, storage=Small(room=room, tells=tells), engine_factory=factory)


def offered(manager: TrainingManager) -> list[Preview]:
    store = manager.data_manager
    assert isinstance(store, Small)
    return store.offered.previews


def kept(manager: TrainingManager) -> dict[str, dict[str, bytes]]:
    store = manager.data_manager
    return {
        e.known_files.digest: store.load_previews([e.known_files.digest]).get(e.known_files.digest, {})
        for e in store.iterate_examples()
    }


def test_previews_without_room_are_not_made_and_the_same_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, untold = (small_manager(tmp_path, 14, monkeypatch, tells=tells) for tells in (True, False))
    for manager in (told, untold):
        evaluate(manager)
    assert kept(told) == kept(untold)
    outputs = [name for names in kept(told).values() for name in names if "@" in name]
    assert len(offered(untold)) == 3 * 14
    assert 6 <= len(outputs) <= len(offered(told)) <= len(outputs) + 6
    for manager in (told, untold):  # new examples, of which some belong to the first ones
        manager.add_training_examples([save_triple(tmp_path, seed) for seed in range(14, 28)])
        evaluate(manager)
    assert kept(told) == kept(untold)
    assert len(offered(told)) < len(offered(untold)) - 3 * 14


def test_a_worker_that_is_new_gets_its_previews_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, untold = (small_manager(tmp_path, 14, monkeypatch, tells=tells) for tells in (True, False))
    evaluate(told)
    cutoff = told.data_manager.preview_cutoff()
    assert cutoff is not None
    evaluate(untold)
    for manager in (told, untold):
        manager.worker_pool.register_worker(brightening("another", 10))  # type: ignore[attr-defined]
        evaluate(manager, cutoff[1])
    assert any(name.startswith("another@") for name in kept(untold)[cutoff[1]])
    assert kept(told) == kept(untold)
    for manager in (told, untold):
        manager.worker_pool.register_worker(brightening("one more", 10))  # type: ignore[attr-defined]
        evaluate(manager)
    assert kept(told) == kept(untold)


@pytest.mark.parametrize("tells", [True, False])
def test_no_previews_travel_but_those_that_are_kept_however_many_examples_are_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    """The last example that has room at all may have room for some only."""
    one_by_one, many = (small_manager(tmp_path, 20, monkeypatch, tells=told) for told in (True, tells))
    monkeypatch.setattr("tsm_training.evaluation.keeping.PREVIEW_BYTES", 3 * 3 * 500)
    examples = many.data_manager.get_all_examples()
    one_by_one.training_engine.evaluator.evaluate(one_by_one.data_manager.get_all_examples())
    evaluator = many.training_engine.evaluator
    attrs.evolve(evaluator, executor=Inline(), memory_budget=1024**3, timer=lambda: 0.0).evaluate(examples)
    assert kept(many) == kept(one_by_one)
    outputs = [name for names in kept(many).values() for name in names if "@" in name]
    if tells:
        assert 6 <= len(outputs) <= len(offered(many)) < len(outputs) + 3
    else:  # a store with room is not asked again for each example
        assert len(offered(many)) == 3 * 20
        assert many.data_manager.offered.num_calls < 15  # type: ignore[attr-defined]


@pytest.mark.parametrize("pictured", [10_000, 10**6])
def test_which_previews_are_kept_for_one_call_does_not_depend_on_how_many_examples_are_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictured: int
) -> None:
    monkeypatch.setattr("tsm_training.evaluation.keeping.PREVIEW_BYTES", pictured)
    manager = manager_with(tmp_path, 20)
    evaluator = attrs.evolve(manager.training_engine.evaluator, is_storing=False)
    runs = [
        attrs.evolve(evaluator, executor=Inline(), memory_budget=budget).evaluate(
            manager.data_manager.get_all_examples()
        )
        for budget in (1, 1024**3)
    ]
    assert runs[0].previews.kept == runs[1].previews.kept
    assert (len(runs[0].previews.kept) < 20) is (pictured < 10**6)


# --- an error of our own making is no reason to skip an example -----------------------------------------------------


def broken(*_arguments: Any, **_settings: Any) -> Any:
    raise RuntimeError("a slip")


@pytest.mark.parametrize("pool", [usual_pool, host_pool])
def test_a_slip_while_pictures_are_read_skips_nothing(
    tmp_path: Path, pool: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_with(tmp_path, examples=2, pool=pool())
    monkeypatch.setattr("tsm_training.evaluation.scoring.read_image", broken)
    with pytest.raises(RuntimeError, match="a slip"):
        manager.train(verbose=False)
    assert [session.status for session in manager.data_manager.iterate_sessions()] == ["failed"]


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_stored_path_that_can_be_none_is_skipped_and_listed(tmp_path: Path, path: str) -> None:
    manager = manager_with(tmp_path, examples=3)
    first = manager.data_manager.get_all_examples()[0]
    put_examples(manager.data_manager, attrs.evolve(first, target_path=path, files=None))
    results = manager.validate()
    assert results["num_examples"] == 2
    assert "path must be" in results["skipped"][first.example_id]


def test_a_slip_while_files_are_looked_at_skips_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_with(tmp_path, examples=2)
    example = attrs.evolve(manager.data_manager.get_all_examples()[0], files=None)
    monkeypatch.setattr("tsm_training.ingest.inspect_image", broken)
    with pytest.raises(RuntimeError, match="a slip"):
        manager.training_engine.validate([example])


@pytest.mark.parametrize(("place", "full"), [("scoring.read_image", True), ("evaluated.decode_preview", False)])
def test_a_slip_while_pictures_are_judged_passes_for_no_missing_picture(
    tmp_path: Path, place: str, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_with(tmp_path, examples=2)
    manager.validate()
    monkeypatch.setattr(f"tsm_training.evaluation.{place}", broken)
    with pytest.raises(RuntimeError, match="a slip"):
        manager.validate(full=full)


def test_a_slip_while_samples_are_looked_at_passes_for_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_with(tmp_path, examples=3, pool=pool_of(brightening("near", 22), Learned(is_color_map=True)))
    monkeypatch.setattr("tsm_training.evaluation.scoring.decode_preview", broken)
    with pytest.raises(RuntimeError, match="a slip"):
        manager.train(validation_split=0.0, verbose=False)


def test_what_was_noted_of_pictures_that_are_read_in_another_way_now_is_noted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[int] = []

    class Noting(TrainableWorker):
        worker_id = "noting"
        version = "1"

        def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
            observed.append(1)
            return b"noted"

        def fit(self, observations: Sequence[Observation]) -> Worker:
            return brightening("noting", 10)

        def process(self, data: Mapping[str, Image]) -> Image:
            return data["target"]

    manager = manager_with(tmp_path, pool=pool_of(Noting(), brightening("other", 20)))
    for expected in (6, 6):
        manager.train(verbose=False)
        assert len(observed) == expected
    monkeypatch.setattr("tsm_training.evaluation.evaluator.READER_VERSION", "another")
    manager.train(verbose=False)
    assert len(observed) == 12
