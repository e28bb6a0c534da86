"""What happens while a training runs: what others remove, replace or group otherwise meanwhile is never learned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import learned_by, manager_with, members, picture, save_triple
from tsm_training import Image, InMemoryStore, Progress, TrainingEngine, TrainingManager, TrainingStore
from tsm_training.data import TrainingExample
from tsm_training.learning import LearnedState

pytestmark = pytest.mark.slow

Open = Callable[[], TrainingStore]
STYLES = ("warm", "cold")


def styled(folder: Path, store: TrainingStore | None = None, examples: int = 6, **settings: Any) -> TrainingManager:
    manager = manager_with(folder, 0, **({} if store is None else {"storage": store}), **settings)
    rows = [(*save_triple(folder, seed), {"style": STYLES[seed % 2]}) for seed in range(examples)]
    manager.add_training_examples(rows)
    return manager


def train(manager: TrainingManager, **settings: Any) -> dict[str, Any]:
    return dict(manager.train(**{"validation_split": 0.0, "verbose": False, "group_by": "style", **settings}))


def digest(example: TrainingExample) -> str:
    return example.known_files.digest


def evidence_of(manager: TrainingManager) -> LearnedState:
    """Return what was learned, without blends: those that were fitted on what is gone go as a whole."""
    state = learned_by(manager)
    groups = {label: attrs.evolve(group, fitted=None) for label, group in state.groups.items()}
    return attrs.evolve(state, fitted=None, groups=groups)


def check_that_nothing_stays(manager: TrainingManager, never: TrainingManager, gone: set[str]) -> None:
    """Compare a manager that trained with one that never saw what is gone."""
    state = learned_by(manager)
    assert gone.isdisjoint(state.rows)
    assert all(
        blend is None or gone.isdisjoint(blend.digests)
        for blend in (state.fitted, *(group.fitted for group in state.groups.values()))
    )
    assert evidence_of(manager) == evidence_of(never)
    for each in (manager, never):
        train(each)
    assert learned_by(manager) == learned_by(never)


@pytest.mark.parametrize("how", ["remove", "replace"])
@pytest.mark.parametrize("phase", ["evaluating", "learning", "validating"])
def test_what_another_manager_takes_away_while_one_trains_is_not_learned(
    tmp_path: Path, open_store: Open, phase: str, how: str
) -> None:
    manager, other = styled(tmp_path, open_store()), manager_with(tmp_path, 0, storage=open_store())
    examples = manager.data_manager.get_all_examples()
    taken, done = examples[1:3], list[int]()

    def meanwhile(progress: Progress) -> None:
        if progress.phase == phase and not done:
            done.append(1)
            for number, example in enumerate(taken):
                if how == "remove":
                    other.remove_training_example(example.example_id)
                else:
                    truth = save_triple(tmp_path / "other", number, size=(12, 16), levels=40)[2]
                    other.replace_ground_truth(example.example_id, truth)

    def batch(each: TrainingManager, training: list[TrainingExample], **settings: Any) -> str:
        return each.training_engine.train_batch(
            training, 2, verbose=False, validation_examples=examples[-1:], group_by="style", **settings
        ).status

    assert batch(manager, examples[:-1], on_progress=meanwhile) == "completed"
    assert done
    never = styled(tmp_path)
    for example in never.data_manager.get_all_examples()[1:3]:
        never.remove_training_example(example.example_id)
    batch(never, never.data_manager.get_all_examples()[:-1])
    if how == "replace":
        for example in taken:
            other.remove_training_example(example.example_id)
    check_that_nothing_stays(manager, never, set(map(digest, taken)))


def test_whatever_moment_is_chosen(tmp_path: Path) -> None:
    moments: list[Progress] = []
    train(styled(tmp_path, examples=3), epochs=2, on_progress=moments.append)
    assert len(moments) >= 5
    never = styled(tmp_path, examples=3)
    never.remove_training_example(never.data_manager.get_all_examples()[0].example_id)
    train(never, epochs=2)

    def removing_at(number: int) -> TrainingManager:
        store, seen = InMemoryStore(), list[Progress]()
        manager, other = styled(tmp_path, store, 3), manager_with(tmp_path, 0, storage=store)

        def meanwhile(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == number:
                other.remove_training_example(store.get_all_examples()[0].example_id)

        train(manager, epochs=2, on_progress=meanwhile)
        assert len(store.get_all_examples()) == 2
        return manager

    for number in range(1, len(moments) + 1):
        assert evidence_of(removing_at(number)) == evidence_of(never)


def test_what_is_removed_while_a_metric_judges_is_not_learned(tmp_path: Path, open_store: Open) -> None:
    other = manager_with(tmp_path, 0, storage=open_store())
    removing, ids = threading.Lock(), list[str]()

    def judge(output: Image, truth: Image) -> float:
        with removing:  # in a thread of the training's own
            while ids:
                other.remove_training_example(ids.pop())
        return 1.0 - abs(float(output.mean()) - float(truth.mean())) / 255.0

    factory = TrainingEngine.using(judge)
    manager = styled(tmp_path, open_store(), engine_factory=factory)
    taken = manager.data_manager.get_all_examples()[::2]
    ids += [example.example_id for example in taken]
    assert train(manager)["session"]["num_examples"] == 6
    never = styled(tmp_path, engine_factory=factory)
    for example in never.data_manager.get_all_examples()[::2]:
        never.remove_training_example(example.example_id)
    train(never)
    check_that_nothing_stays(manager, never, set(map(digest, taken)))


def test_equal_examples_that_two_managers_remove_at_once_leave_nothing(tmp_path: Path, open_store: Open) -> None:
    managers = [styled(tmp_path, open_store(), 3), manager_with(tmp_path, 0, storage=open_store())]
    twin = managers[0].add_training_example(*save_triple(tmp_path, 0), {"style": "warm"})
    train(managers[0])
    first = managers[0].data_manager.get_all_examples()[0]
    start = threading.Barrier(2)

    def remove(manager: TrainingManager, example: TrainingExample) -> None:
        start.wait()
        manager.remove_training_example(example.example_id)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(remove, managers, (first, twin)))
    never = styled(tmp_path, examples=3)
    never.remove_training_example(never.data_manager.get_all_examples()[0].example_id)
    train(never)
    managers[0].predict(picture(1), picture(2))
    check_that_nothing_stays(managers[0], never, {digest(first)})


@pytest.mark.parametrize("theirs", [None, "camera", "style"])
def test_of_two_trainings_at_once_that_group_differently_the_last_one_decides(
    tmp_path: Path, open_store: Open, theirs: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("memory", "sqlite.manager"):  # with one preview, a training needs few rows but its own
        monkeypatch.setattr(f"tsm_training.storage.{room}.PREVIEW_BYTES", 1)
    manager, other = styled(tmp_path, open_store()), manager_with(tmp_path, 0, storage=open_store())
    manager.add_training_example(*save_triple(tmp_path, 8), {"camera": "new"})
    train(manager)
    every = manager.data_manager.get_all_examples()
    done: list[int] = []

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "learning" and not done:
            done.append(1)
            other.training_engine.train_batch(every[:2], verbose=False, group_by=theirs)

    manager.training_engine.train_batch(every[:2], verbose=False, group_by="style", on_progress=meanwhile)
    state = learned_by(manager)
    assert state.group_by == "style"
    assert {label: group.num_examples for label, group in state.groups.items()} == {
        label: len(members(state, label)) for label in state.groups
    }
    for example in every:
        manager.remove_training_example(example.example_id)
    empty = learned_by(manager)
    assert (empty.totals, empty.num_examples, empty.exposure, empty.groups, empty.rows) == ({}, 0, 0, {}, {})
