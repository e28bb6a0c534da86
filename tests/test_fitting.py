"""Fitting the ensemble's blend when it is trained: on which examples, how far it is followed, and what it costs."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import pytest

from levels import Level, closeness, level_manager, level_pool
from support import (
    HostPool,
    brighter,
    learned_by,
    manager_with,
    members,
    picture,
    pool_of,
    save,
    save_triple,
    usual_pool,
)
from tsm_training import (
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    Progress,
    TrainingEngine,
    TrainingManager,
)
from tsm_training.data import Preview, TrainingExample
from tsm_training.ensemble import (
    COMPARED_SOLVERS,
    BlendProblem,
    BlendSolver,
    EqualWeights,
    decode_preview,
    encode_preview,
)
from tsm_training.errors import (
    BlendSolverError,
    ImageFormatError,
    InvalidArgumentError,
    MetricError,
    TrainingStoppedError,
)
from tsm_training.evaluation.evaluated import EvaluatedExample, Pictures, Previews, preview_rank
from tsm_training.evaluation.fitting import MOST_FITTED_EXAMPLES, Fitter, group_label
from tsm_training.evaluation.scoring import Judge
from tsm_training.learning import FittedBlend, LearnedState
from tsm_training.testing import make_example


def state_of(manager: TrainingManager) -> LearnedState:
    return learned_by(manager)


def fitted_of(manager: TrainingManager) -> FittedBlend:
    fitted = state_of(manager).fitted
    assert fitted is not None
    return fitted


def digests_of(examples: Sequence[TrainingExample]) -> tuple[str, ...]:
    return tuple(sorted(example.known_files.digest for example in examples))


def all_examples(manager: TrainingManager) -> list[TrainingExample]:
    return manager.data_manager.get_all_examples()


def examples_by_id(manager: TrainingManager, ids: Sequence[str]) -> list[TrainingExample]:
    return [manager.data_manager.get_example(example_id) for example_id in ids]


def train_all(manager: TrainingManager, **settings: Any) -> Any:
    return manager.train(validation_split=0.0, verbose=False, **settings)


# --- which examples -------------------------------------------------------------------------------------------------


def test_the_blend_is_fitted_on_what_is_learned_from_and_nothing_else(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=8, blend_solver="auto")
    manager.train(validation_split=0.25, verbose=False)
    [session] = manager.data_manager.get_all_sessions()
    assert len(session.training_ids) == 6
    assert fitted_of(manager).digests == digests_of(examples_by_id(manager, session.training_ids))
    assert fitted_of(manager).shares["below"] > 0.3 < fitted_of(manager).shares["above"]


def test_examples_of_earlier_trainings_count_too_but_none_that_is_held_out_now(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=8)
    examples = all_examples(manager)
    engine = manager.training_engine
    engine.train_batch(examples[:4], verbose=False, validation_examples=examples[6:])
    assert fitted_of(manager).digests == digests_of(examples[:4])
    engine.train_batch(examples[4:6], verbose=False, validation_examples=[examples[0], examples[7]])
    assert fitted_of(manager).digests == digests_of(examples[1:6])


def test_training_in_batches_ends_with_a_blend_of_all(tmp_path: Path) -> None:
    """The guide's second example."""
    calls: list[str] = []
    manager = level_manager(tmp_path, examples=7, blend_solver="auto", pool=level_pool(calls))
    every = all_examples(manager)
    for start in range(0, len(every), 3):
        session = manager.training_engine.train_batch(every[start : start + 3], epochs=1, verbose=False)
        assert session.num_examples == len(every[start : start + 3])
    assert fitted_of(manager).digests == digests_of(every)
    assert len(calls) == 21
    at_once = level_manager(tmp_path, examples=7, blend_solver="auto")
    train_all(at_once)
    assert state_of(manager) == state_of(at_once)


def test_an_example_that_the_store_has_no_more_is_not_fitted_again(tmp_path: Path) -> None:
    """Removed behind the learner's back, it is still absorbed."""
    manager = level_manager(tmp_path)
    train_all(manager)
    removed, *others = all_examples(manager)
    manager.data_manager.remove_example(removed.example_id)
    manager.training_engine.train_batch(others[:2], verbose=False)
    assert fitted_of(manager).digests == digests_of(others)


@pytest.mark.parametrize("phase", ["evaluating", "learning"])
def test_what_was_fitted_on_an_example_that_is_removed_meanwhile_is_not_kept(tmp_path: Path, phase: str) -> None:
    manager = level_manager(tmp_path)
    removed, *others = all_examples(manager)

    def meanwhile(progress: Progress) -> None:
        if progress.phase == phase and progress.done == 1:
            manager.remove_training_example(removed.example_id)

    train_all(manager, on_progress=meanwhile)
    assert tuple(sorted(state_of(manager).rows)) == digests_of(others)
    assert state_of(manager).fitted is None


def test_a_group_that_has_lost_an_example_meanwhile_is_what_is_left_of_it(tmp_path: Path) -> None:
    manager = styled(tmp_path, {"high": (4, 50), "low": (3, 0)})
    removed, *others = all_examples(manager)

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "learning":
            manager.remove_training_example(removed.example_id)

    train_all(manager, on_progress=meanwhile, group_by="style")
    high, low = state_of(manager).groups["high"], state_of(manager).groups["low"]
    assert tuple(sorted(members(state_of(manager), "high"))) == digests_of(others[:3])
    assert high.fitted is None
    assert low.fitted is not None
    assert low.fitted.absorbed == 0.5


def test_a_group_that_has_lost_all_its_examples_meanwhile_is_gone(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=4)
    lonely = manager.add_training_example(*save_triple(tmp_path, 9), {"style": "rare"})

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "learning":
            manager.remove_training_example(lonely.example_id)

    train_all(manager, on_progress=meanwhile, group_by="style")
    assert state_of(manager).groups == {}
    assert state_of(manager).group_by is None


def test_examples_whose_results_are_out_of_date_are_not_fitted(tmp_path: Path) -> None:
    store = InMemoryStore()
    manager = level_manager(tmp_path, examples=7, storage=store)
    examples = all_examples(manager)
    manager.training_engine.train_batch(examples[:4], verbose=False)
    changed = level_pool(above=49, below=0, far=-60)
    later = level_manager(tmp_path, examples=0, storage=store, pool=changed)
    later.training_engine.train_batch(examples[4:], verbose=False)
    assert fitted_of(later).digests == digests_of(examples[4:])


def test_examples_that_a_new_worker_has_not_seen_are_not_fitted(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=7)
    examples = all_examples(manager)
    manager.training_engine.train_batch(examples[:4], verbose=False)
    manager.worker_pool.register_worker(Level("new", 20))  # type: ignore[attr-defined]
    manager.training_engine.train_batch(examples[4:], verbose=False)
    assert fitted_of(manager).digests == digests_of(examples[4:])
    assert fitted_of(manager).shares["new"] > 0.5


def test_an_earlier_blend_stays_where_nothing_can_be_fitted(tmp_path: Path) -> None:
    manager = level_manager(tmp_path)
    train_all(manager)
    before = fitted_of(manager)
    manager.worker_pool.register_worker(Level("new", 20))  # type: ignore[attr-defined]
    manager.training_engine.train_batch(all_examples(manager)[:2], verbose=False)
    assert fitted_of(manager) == before


def test_examples_with_one_target_are_no_more_than_one(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=2)
    for example in all_examples(manager):
        other = save(tmp_path / f"other {example.example_id}.png", picture(50))
        manager.add_training_example(other, example.target_path, example.ground_truth_path)
    train_all(manager)
    assert len(state_of(manager).rows) == 4
    assert state_of(manager).fitted is None


def test_an_example_on_which_a_worker_fails_is_fitted_with_the_others(tmp_path: Path) -> None:
    refused = picture(1).tobytes()

    def process(_source: Image, target: Image) -> Image:
        if target.tobytes() == refused:
            raise RuntimeError("not this one")
        return brighter(target, 50)

    pool = pool_of(FunctionWorker("above", process, version="1"), Level("below", 0))
    manager = level_manager(tmp_path, 4, pool=pool, blend_solver="auto")
    train_all(manager)
    assert fitted_of(manager).digests == digests_of(all_examples(manager))
    assert fitted_of(manager).shares["above"] > 0.3


@pytest.mark.parametrize("examples", [1, 2])
def test_with_too_few_examples_the_posterior_alone_decides(tmp_path: Path, examples: int) -> None:
    manager = level_manager(tmp_path, examples=examples)
    train_all(manager)
    assert state_of(manager).fitted is None


def test_a_single_lesson_leaves_the_blend_alone(tmp_path: Path) -> None:
    manager = level_manager(tmp_path)
    train_all(manager)
    before = fitted_of(manager)
    manager.training_engine.train_on_example(all_examples(manager)[0])
    assert fitted_of(manager) == before


def test_only_a_forced_evaluation_fits_the_same_blend_again(tmp_path: Path) -> None:
    calls: list[str] = []
    solved: list[int] = []

    class Counted:
        name = "counted"

        def solve(self, problem: BlendProblem, /) -> dict[str, float]:
            solved.append(1)
            return {"above": 1.0}

    manager = level_manager(tmp_path, examples=4, pool=level_pool(calls), blend_solver=Counted())
    train_all(manager)
    before, times = fitted_of(manager), len(solved)
    train_all(manager)
    assert (len(calls), len(solved)) == (12, times)
    train_all(manager, reevaluate=True)
    assert (len(calls), len(solved)) == (24, 2 * times)
    assert (fitted_of(manager).shares, fitted_of(manager).digests) == (before.shares, before.digests)


# --- pools of a host's own ------------------------------------------------------------------------------------------


class VersionedPool(HostPool):
    version = "1"


@pytest.mark.parametrize(("kind", "fitted", "requests"), [(HostPool, 3, 7), (VersionedPool, 7, 7)])
def test_results_of_a_foreign_pool_serve_later_trainings_only_where_they_are_stored(
    tmp_path: Path, kind: type[HostPool], fitted: int, requests: int
) -> None:
    pool = kind({"above": lambda _s, target: brighter(target, 50), "below": lambda _s, target: target})
    manager = level_manager(tmp_path, examples=7, pool=pool)
    examples = all_examples(manager)
    manager.training_engine.train_batch(examples[:4], verbose=False)
    assert fitted_of(manager).digests == digests_of(examples[:4])
    manager.training_engine.train_batch(examples[4:], verbose=False)
    assert fitted_of(manager).digests == digests_of(examples[-fitted:])
    assert len(pool.requests) == requests


# --- how far it is followed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "epochs"), [(0.1, 1), (0.1, 5), (0.5, 2), (1.0, 1)])
def test_rate_and_epochs_decide_how_far_the_blend_is_followed(tmp_path: Path, alpha: float, epochs: int) -> None:
    manager = level_manager(tmp_path, examples=4, alpha=alpha, blend_solver="auto")
    train_all(manager, epochs=epochs)
    absorbed = 1.0 - (1.0 - alpha) ** epochs
    assert fitted_of(manager).absorbed == pytest.approx(absorbed)
    assert fitted_of(manager).safe == {"below": 1.0}
    fitted = fitted_of(manager).shares
    assert fitted["above"] > 0.3
    expected = {worker_id: absorbed * fitted.get(worker_id, 0.0) for worker_id in ("above", "below", "far")}
    expected["below"] += 1.0 - absorbed
    assert manager.weight_learner.get_blend_weights() == pytest.approx(expected)


def test_how_far_it_is_followed_is_the_mean_over_all_that_is_learned_from(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=4)
    first, *others = all_examples(manager)
    for _ in range(2):
        manager.training_engine.train_on_example(first)
    manager.data_manager.save_evaluations([], [Preview(first.known_files.digest, "target", b"no picture")])
    train_all(manager)
    assert fitted_of(manager).digests == digests_of(others)
    assert fitted_of(manager).absorbed == (0.875 + 3 * 0.5) / 4


def test_every_epoch_of_the_history_has_the_shares_that_a_training_of_as_many_epochs_ends_with(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, examples=4, alpha=0.3, blend_solver="auto")
    train_all(manager, epochs=3)
    [session] = manager.data_manager.get_all_sessions()
    history = [epoch["blend_weights"] for epoch in session.metrics_history]
    for epochs, shares in enumerate(history, 1):
        shorter = level_manager(tmp_path, examples=4, alpha=0.3, blend_solver="auto")
        train_all(shorter, epochs=epochs)
        assert shares == shorter.weight_learner.get_blend_weights()
    assert history[0] != history[1] != history[2]


# --- previews that are not there ------------------------------------------------------------------------------------


def test_where_the_store_keeps_few_previews_the_blend_is_fitted_on_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = level_manager(tmp_path)
    examples = sorted(all_examples(manager), key=lambda example: preview_rank(example.known_files.target.sha256))
    manager.validate()
    digests = [example.known_files.digest for example in examples]
    previews = manager.data_manager.load_previews(digests)
    sizes = [sum(len(png) for name, png in previews[digest].items() if "@" in name) for digest in digests]
    # The fourth example keeps a part of its previews only, which is as good as none.
    monkeypatch.setattr("tsm_training.storage.memory.PREVIEW_BYTES", sum(sizes[:3]) + sizes[3] // 2)
    manager.data_manager.save_evaluations([])
    previews = manager.data_manager.load_previews(digests)
    assert 2 < len(previews[digests[3]]) < 5
    assert previews[digests[-1]].keys() == {"target", "ground_truth"}
    train_all(manager)
    assert fitted_of(manager).digests == tuple(sorted(digests_of(examples[:3])))
    # What the fourth one keeps is enough to judge the blend by, for it is the picture of one worker.
    assert manager.validate()["ensemble_examples"] == 4


# --- previews that cannot be used -----------------------------------------------------------------------------------


def oversized() -> bytes:
    """Return a preview whose header says that it has 100,000 × 100,000 pixels, with the right checksum."""
    png = encode_preview(picture(0))
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize(
    "damaged",
    [b"", encode_preview(picture(0))[:12], encode_preview(picture(0))[:40], b"no picture", oversized()],
    ids=["empty", "header cut off", "picture cut off", "something else", "beyond all bounds"],
)
def test_damaged_bytes_are_no_preview(damaged: bytes) -> None:
    with pytest.raises(ImageFormatError, match="preview"):
        decode_preview(damaged)


@pytest.mark.parametrize("damaged", [b"no picture", encode_preview(picture(0, 5, 7))], ids=["junk", "another size"])
@pytest.mark.parametrize("name", ["target", "ground_truth", "a worker's"])
def test_an_example_whose_preview_is_damaged_is_left_out(tmp_path: Path, name: str, damaged: bytes) -> None:
    manager = level_manager(tmp_path, examples=4)
    manager.validate()
    spoiled, *others = sorted(all_examples(manager), key=lambda example: example.known_files.digest)
    store, digest = manager.data_manager, spoiled.known_files.digest
    previews = store.load_previews([digest])[digest]
    name = next(each for each in previews if each.startswith("above@")) if name == "a worker's" else name
    store.save_evaluations([], [Preview(digest, name, damaged)])
    train_all(manager)
    assert fitted_of(manager).digests == digests_of(others)
    # The blend can be judged without the picture of a worker that has no share in it.
    is_without_share = name.startswith("above@") and manager.weight_learner.get_blend_weights()["above"] == 0.0
    assert manager.validate()["ensemble_examples"] == (4 if is_without_share else 3)


# --- where things run, and when they stop ---------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Attached(BlendSolver):
    """A solver that holds on to something that stays in this process."""

    name: str = "attached"
    lock: Any = attrs.field(factory=threading.Lock)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        return {problem.worker_ids[0]: 1.0}


def test_a_search_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    """With a slow metric it may take long, so it is asked between any two pictures."""
    judged: list[int] = []

    def counted(output: Image, truth: Image) -> float:
        judged.append(1)
        return closeness(output, truth)

    manager = level_manager(tmp_path, blend_solver="auto", metric=counted)
    before = state_of(manager)
    whole_pictures = 18
    with pytest.raises(TrainingStoppedError):
        train_all(manager, should_stop=lambda: len(judged) >= whole_pictures + 3)
    assert len(judged) == whole_pictures + 3
    assert state_of(manager) == before
    assert manager.data_manager.get_all_sessions()[-1].status == "interrupted"


@pytest.mark.slow
def test_an_engine_with_a_solver_of_a_hosts_own_evaluates_in_other_processes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        manager = level_manager(tmp_path, examples=3, executor=processes, blend_solver=Attached())
        train_all(manager)
        apart = level_manager(tmp_path, executor=processes, blend_solver="auto")
        train_all(apart)
    assert fitted_of(manager).shares == {"above": 1.0}
    here = level_manager(tmp_path, blend_solver="auto")
    train_all(here)
    assert state_of(apart) == state_of(here)


def test_neither_threads_nor_memory_change_a_bit(tmp_path: Path) -> None:
    states = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(8) as eight:
        for settings in ({"executor": one}, {"executor": eight}, {"executor": eight, "memory_budget": 1}):
            manager = level_manager(tmp_path, blend_solver="auto", **settings)
            train_all(manager, epochs=2)
            states.append(state_of(manager))
    assert states[0] == states[1] == states[2]
    assert states[0].fitted is not None


def test_the_order_in_which_examples_were_added_changes_no_bit(tmp_path: Path) -> None:
    states = []
    for order in (range(5), [3, 1, 4, 0, 2]):
        manager = level_manager(tmp_path, examples=0, blend_solver="auto")
        manager.add_training_examples([save_triple(tmp_path, seed) for seed in order])
        train_all(manager)
        states.append(state_of(manager))
    assert states[0] == states[1]


@pytest.mark.parametrize("phase", ["evaluating", "learning", "validating"])
def test_a_training_that_goes_on_after_an_interruption_fits_the_same_blend(tmp_path: Path, phase: str) -> None:
    interrupted, whole = level_manager(tmp_path, blend_solver="auto"), level_manager(tmp_path, blend_solver="auto")

    def interrupt(progress: Progress) -> None:
        if progress.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.train(verbose=False, on_progress=interrupt)
    assert state_of(interrupted).fitted is None
    one, other = (manager.train(verbose=False)["validation"] for manager in (interrupted, whole))
    assert one["contenders"] == other["contenders"]
    assert state_of(interrupted) == state_of(whole)


# --- what fits it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPARED_SOLVERS)
def test_a_solver_can_be_chosen_by_name(tmp_path: Path, name: str) -> None:
    manager = level_manager(tmp_path, examples=3, blend_solver=name)
    train_all(manager)
    assert fitted_of(manager).solver == name


def test_a_solver_can_be_an_object_of_the_hosts_own(tmp_path: Path) -> None:
    class OnlyFar:
        name = "only far"

        def solve(self, problem: BlendProblem, /) -> dict[str, float]:
            return {"far": 2.0}

    manager = level_manager(tmp_path, examples=3, blend_solver=OnlyFar(), alpha=1.0)
    train_all(manager)
    assert (fitted_of(manager).shares, fitted_of(manager).solver) == ({"far": 1.0}, "only far")
    assert manager.weight_learner.get_blend_weights() == {"above": 0.0, "below": 0.0, "far": 1.0}


@pytest.mark.parametrize("choice", ["best", None, EqualWeights, 3])
def test_an_engine_refuses_what_is_no_solver(tmp_path: Path, choice: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="blend_solver must be one of 'auto'"):
        level_manager(tmp_path, examples=0, blend_solver=choice)


def test_a_faulty_solver_ends_the_session_and_leaves_the_learner_alone(tmp_path: Path) -> None:
    class Faulty:
        name = "faulty"

        def solve(self, problem: BlendProblem, /) -> dict[str, float]:
            return {"above": -1.0}

    manager = level_manager(tmp_path, examples=3, blend_solver=Faulty())
    before = state_of(manager)
    with pytest.raises(BlendSolverError, match="'faulty' gave 'above' the share -1") as caught:
        train_all(manager)
    assert "faulty" not in caught.value.public_message
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.status == "failed"
    assert session.error is not None
    assert "'faulty' gave 'above'" in session.error
    assert state_of(manager) == before


def test_a_metric_that_breaks_on_a_blended_picture_ends_the_session(tmp_path: Path) -> None:
    outputs = {brighter(picture(2 * seed + 1), levels).tobytes() for seed in range(3) for levels in (50, 0, -60)}

    def picky(output: Image, truth: Image) -> float:
        if output.tobytes() not in outputs:
            raise ValueError("never seen before")
        return closeness(output, truth)

    manager = level_manager(tmp_path, examples=3, blend_solver="auto", metric=picky)
    with pytest.raises(MetricError, match="never seen before") as caught:
        train_all(manager)
    assert caught.value.worker_id == "(the blended picture)"
    assert manager.data_manager.get_all_sessions()[-1].status == "failed"
    assert state_of(manager).fitted is None


# --- how much it takes ----------------------------------------------------------------------------------------------


@attrs.frozen
class SmallPreviews:
    """Has pictures of 24 bytes per example, but for some."""

    is_missing: Callable[[int], bool]

    def get(self, item: EvaluatedExample) -> Pictures | None:
        truth = np.zeros((2, 2, 3), np.uint8)
        return None if self.is_missing(int(item.digest)) else Pictures({"a": truth}, truth, truth, ["a"])


def items_of(count: int) -> list[EvaluatedExample]:
    """Return examples whose digests are in order of rank."""
    examples = [make_example(str(number)) for number in range(count)]
    examples.sort(key=lambda example: preview_rank(example.known_files.target.sha256), reverse=True)
    return [EvaluatedExample(example, f"{count - 1 - n:03}", {}) for n, example in enumerate(examples)]


def taken(
    items: Sequence[EvaluatedExample],
    most: int = 1000,
    most_bytes: int = 10**6,
    gaps: Callable[[int], bool] = lambda _number: False,
) -> str:
    """Return which items are taken, as text."""
    fitter = Fitter(cast("Previews", SmallPreviews(gaps)), Judge("closeness", closeness, None), None, lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsm_training.evaluation.fitting.MOST_FITTED_EXAMPLES", most)
        patch.setattr("tsm_training.evaluation.fitting._MOST_BYTES", most_bytes)
        return " ".join(str(int(example.digest)) for example in fitter.examples(items))


def test_the_first_examples_in_order_of_rank_are_taken() -> None:
    assert taken(items_of(4)) == "0 1 2 3"
    assert taken(items_of(9), most=3) == "0 1 2"
    assert taken(items_of(9), most=3, gaps=lambda number: number in {0, 2}) == "1 3 4"
    assert taken(items_of(0)) == ""


def test_examples_are_taken_while_they_fit_in_memory_and_one_always_is() -> None:
    assert taken(items_of(9), most_bytes=72) == "0 1 2"
    assert taken(items_of(9), most_bytes=71) == "0 1"
    assert taken(items_of(9), most_bytes=1) == "0"


def test_an_example_that_is_there_twice_is_taken_once() -> None:
    assert taken([*items_of(3), *items_of(3)]) == "0 1 2"


def test_behind_many_examples_without_previews_none_is_looked_for() -> None:
    assert taken(items_of(100), gaps=lambda number: 1 <= number < 64) == "0 " + " ".join(map(str, range(64, 100)))
    assert taken(items_of(100), gaps=lambda number: 1 <= number < 65) == "0"
    assert taken(items_of(200), gaps=lambda number: number % 2 == 1) == " ".join(map(str, range(0, 200, 2)))


def test_no_more_examples_are_fitted_than_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_FITTED_EXAMPLES == 64
    monkeypatch.setattr("tsm_training.evaluation.fitting.MOST_FITTED_EXAMPLES", 4)
    manager = level_manager(tmp_path)
    train_all(manager)
    ranked = sorted(all_examples(manager), key=lambda example: preview_rank(example.known_files.target.sha256))
    assert fitted_of(manager).digests == tuple(sorted(digests_of(ranked[:4])))
    assert len(state_of(manager).rows) == 6


def test_previews_are_read_once_for_all_groups_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = level_manager(tmp_path)
    engine = manager.training_engine
    run = engine.evaluator.evaluate(all_examples(manager))
    fitter = Fitter.of(engine.evaluator, run, "auto")
    each = 4 * 12 * 16 * 3  # three pictures and a ground truth
    monkeypatch.setattr("tsm_training.evaluation.fitting._MOST_BYTES", 4 * each)

    def kept(items: Sequence[EvaluatedExample]) -> int:
        first, again = fitter.examples(items), fitter.examples(items)
        assert len(first) == len(again) == 3
        return sum(one is other for one, other in zip(first, again, strict=True))

    assert kept(run.evaluated[:3]) == 3
    assert kept(run.evaluated[3:]) == 1
    assert kept(run.evaluated[:3]) == 3


# --- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("warm", "warm"),
        ("", ""),
        ("x" * 300, "x" * 200),
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (2.0**53, "9007199254740992.0"),
        (2**53, "9007199254740992"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (True, "true"),
        (False, "false"),
        ("true", "true"),
        (None, None),
        ([1], None),
        ({"a": 1}, None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_text_numbers_and_truth_values_make_a_group(value: Any, label: str | None) -> None:
    assert group_label({"style": value}, "style") == label
    assert group_label({"style": value}, "season") is None
    assert group_label({"style": value}, None) is None


@pytest.mark.parametrize("key", ["", 3, b"style", ["style"], True])
def test_a_key_to_group_by_is_text(tmp_path: Path, key: Any) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, examples=2, pool=usual_pool(calls))
    for train in (
        manager.train,
        manager.cross_validate,
        lambda **settings: manager.training_engine.train_batch(all_examples(manager), **settings),
    ):
        with pytest.raises(InvalidArgumentError, match="group_by must be a metadata key"):
            train(group_by=key)  # type: ignore[operator]
    assert calls == []


def styled(folder: Path, styles: Mapping[str, tuple[int, int]], **settings: Any) -> TrainingManager:
    """Return a manager with examples of each style: how many, and how many levels up their truth is."""
    manager = level_manager(folder, examples=0, blend_solver="auto", **settings)
    rows = []
    for style, (count, levels) in styles.items():
        for number in range(count):
            triple = save_triple(folder / style, 100 * len(rows) + number, levels=levels)
            rows.append((*triple, {"style": style} if style else {}))
    manager.add_training_examples(rows)
    return manager


def test_every_group_gets_a_blend_of_its_own(tmp_path: Path) -> None:
    manager = styled(tmp_path, {"high": (4, 50), "low": (3, 0), "few": (2, 20), "": (1, 20)})
    train_all(manager, epochs=3, group_by="style")
    state = state_of(manager)
    assert state.group_by == "style"
    of_style = {
        style: digests_of([e for e in all_examples(manager) if e.metadata == {"style": style}])
        for style in ("few", "high", "low")
    }
    assert {label: tuple(sorted(members(state, label))) for label in state.groups} == of_style
    assert state.groups["few"].fitted is None
    for label, worker_id in (("high", "above"), ("low", "below")):
        fitted = state.groups[label].fitted
        assert fitted is not None
        assert fitted.shares == {worker_id: 1.0}
        assert fitted.digests == of_style[label]
        assert fitted.absorbed == fitted_of(manager).absorbed


def test_accuracy_in_the_history_is_that_of_each_groups_own_shares(tmp_path: Path) -> None:
    accuracies = []
    for group_by in ("style", None):
        manager = styled(tmp_path, {"high": (3, 50), "low": (3, 0)})
        train_all(manager, epochs=4, group_by=group_by)
        accuracies.append(manager.data_manager.get_all_sessions()[-1].metrics_history[-1]["avg_accuracy"])
    assert accuracies[0] > accuracies[1] + 0.01


def test_a_group_that_is_like_the_others_keeps_the_blend_of_all(tmp_path: Path) -> None:
    manager = styled(tmp_path, {"one": (4, 20), "two": (4, 20)})
    train_all(manager, group_by="style")
    for group in state_of(manager).groups.values():
        assert group.fitted is not None
        assert group.fitted.shares == fitted_of(manager).shares


def test_a_training_without_a_key_forgets_the_groups(tmp_path: Path) -> None:
    manager = styled(tmp_path, {"high": (3, 50), "low": (3, 0)})
    train_all(manager, group_by="style")
    train_all(manager)
    assert (state_of(manager).group_by, state_of(manager).groups) == (None, {})


def test_a_key_that_only_earlier_examples_have_is_right(tmp_path: Path) -> None:
    manager = styled(tmp_path, {"high": (3, 50)})
    train_all(manager)
    manager.add_training_example(*save_triple(tmp_path / "plain", 90))
    manager.training_engine.train_batch(manager.data_manager.get_all_examples(1), verbose=False, group_by="style")
    assert state_of(manager).group_by == "style"


# --- fitting again --------------------------------------------------------------------------------------------------


class Counted:
    """A solver that counts how often it is asked."""

    name = "counted"

    def __init__(self) -> None:
        self._calls: list[int] = []

    @property
    def asked(self) -> int:
        return len(self._calls)

    def solve(self, problem: BlendProblem, /) -> dict[str, float]:
        self._calls.append(1)
        return dict.fromkeys(problem.worker_ids, 1.0 / len(problem.worker_ids))


def test_a_blend_is_not_fitted_again_on_the_same_evaluations(tmp_path: Path) -> None:
    solver = Counted()
    factory = TrainingEngine.using(GuideSimilarity(), blend_solver=solver)
    manager = manager_with(tmp_path, examples=8, engine_factory=factory)
    manager.train(verbose=False)
    asked, first = solver.asked, manager.weight_learner.blend_of(manager.weight_learner.state)
    assert asked > 0
    assert first is not None
    manager.train(verbose=False)
    second = manager.weight_learner.blend_of(manager.weight_learner.state)
    assert solver.asked == asked
    assert second is not None
    assert (second.shares, second.digests, second.safe) == (first.shares, first.digests, first.safe)
    assert second.absorbed > first.absorbed
    manager.train(reevaluate=True, verbose=False)
    assert solver.asked == 2 * asked
    manager.add_training_example(*save_triple(tmp_path, 99))
    manager.train(verbose=False)
    assert solver.asked > 2 * asked
