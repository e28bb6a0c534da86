"""A learner with a state of its own, written against the public doors only, does all that ours does, on both stores."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import manager_with, picture, save_triple, usual_pool
from tsm_training import (
    BayesianWeightLearner,
    ExampleEvidence,
    InMemoryStore,
    Outcome,
    Progress,
    TrainingDataManager,
    TrainingManager,
    TrainingStore,
)
from tsm_training.data import StateDelta
from tsm_training.errors import (
    InvalidArgumentError,
    LearnerConflictError,
    LearnerFaultError,
    LearnerMismatchError,
    StorageCorruptError,
    WeightsFileError,
)
from tsm_training.weights import LearnerCell, LearnerStatistics, WeightLearner

# --- the learner ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Losses:
    """The state: what each worker lost, in millionths, so that it can be taken away again exactly."""

    start: Mapping[str, float]
    total: Mapping[str, int]
    rows: Mapping[str, Mapping[str, int]]
    """By example: the loss of each worker in one pass, and under the empty id the number of passes."""


@attrs.frozen(eq=False)
class ExponentialWeights(WeightLearner):
    """Lets each worker's weight fall by ``exp(−alpha · loss)``."""

    alpha: float = 0.1
    cell: LearnerCell = attrs.field(factory=LearnerCell, repr=False)
    name = "exponential-weights-1"

    def with_alpha(self, alpha: float) -> ExponentialWeights:
        return attrs.evolve(self, alpha=alpha)

    def with_cell(self, cell: LearnerCell) -> ExponentialWeights:
        return attrs.evolve(self, cell=cell)

    def head_of(self, state: Losses) -> str:
        return json.dumps([state.start, state.total], sort_keys=True)

    def rows_of(self, state: Losses) -> Mapping[str, str]:
        return {digest: json.dumps(row, sort_keys=True) for digest, row in state.rows.items()}

    def decoded(self, head: str, rows: Mapping[str, str]) -> Losses:
        start, total = json.loads(head)
        return Losses(start, total, {digest: json.loads(row) for digest, row in rows.items()})

    def started(self, weights: Mapping[str, float]) -> Losses:
        return Losses(weights, {}, {})

    def with_workers(self, state: Losses, worker_ids: Iterable[str]) -> Losses:
        return attrs.evolve(state, start={**dict.fromkeys(worker_ids, self.prior_weight), **state.start})

    def absorb(self, state: Losses, evidence: Iterable[ExampleEvidence], passes: int = 1) -> Losses:
        for item in evidence:
            row = dict(state.rows.get(item.digest, {"": 0}))
            row |= {worker_id: round(1e6 * (1.0 - (o.accuracy or 0.0))) for worker_id, o in item.outcomes.items()}
            row[""] += passes
            state = self.with_workers(self._changed(state, item.digest, row), item.outcomes)
        return state

    def forget(self, state: Losses, digests: Set[str]) -> Losses:
        for digest in digests:
            state = self._changed(state, digest, None)
        return state

    def _changed(self, state: Losses, digest: str, row: Mapping[str, int] | None) -> Losses:
        total, rows = dict(state.total), dict(state.rows)
        for each, sign in ((rows.pop(digest, None), -1), (row, 1)):
            for worker_id, loss in (each or {}).items():
                total[worker_id] = total.get(worker_id, 0) + sign * (loss * each[""] if worker_id else 1)  # type: ignore[index]
        kept = {worker_id: loss for worker_id, loss in total.items() if loss}
        return attrs.evolve(state, total=kept, rows=rows if row is None else {**rows, digest: row})

    def statistics(self, state: Losses) -> Mapping[str, LearnerStatistics]:
        mean = math.fsum(state.total.get(w, 0) for w in state.start) / max(1, len(state.start))
        return {w: self._known(state, w, mean) for w in state.start}

    def _known(self, state: Losses, worker_id: str, mean: float) -> LearnerStatistics:
        prior, count = state.start[worker_id], state.total.get("", 0)
        weight = prior * math.exp(self.alpha * (mean - state.total.get(worker_id, 0)) / 1e6)
        return LearnerStatistics(
            mean_accuracy=None,
            update_count=count,
            weight=weight,
            weight_std=0.0,
            credible_interval=(weight, weight),
            evidence=float(count),
            failure_count=0,
            prior_weight=prior,
        )

    def shares(self, state: Losses, worker_ids: Sequence[str], group: str | None = None) -> dict[str, float]:
        known = self.statistics(self.with_workers(state, worker_ids))
        total = math.fsum(known[worker_id]["weight"] for worker_id in worker_ids)
        return {worker_id: known[worker_id]["weight"] / total for worker_id in worker_ids}


# --- what it does ---------------------------------------------------------------------------------------------------


def managed(
    folder: Path, store: TrainingStore | None = None, examples: int = 6, alpha: float = 0.5, **settings: Any
) -> TrainingManager:
    return manager_with(
        folder, examples, learner=ExponentialWeights(alpha), storage=store or InMemoryStore(), **settings
    )


def train(manager: TrainingManager, **settings: Any) -> dict[str, Any]:
    return dict(manager.train(**{"validation_split": 0.0, "verbose": False, **settings}))


def learned(manager: TrainingManager) -> tuple[str, Mapping[str, str]]:
    """Return all that was learned, as the store keeps it."""
    learner = manager.weight_learner
    state = learner.cell.whole().state
    return learner.head_of(state), learner.rows_of(state)


def test_it_is_trained_validated_and_asked(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    with managed(tmp_path, open_store()) as manager:
        results = train(manager, validation_split=0.4, epochs=3)
        weights = results["session"]["final_weights"]
        assert max(weights, key=weights.__getitem__) == "near"
        assert [entry["epoch"] for entry in results["session"]["metrics_history"]] == [1, 2, 3]
        validation = manager.validate()
        assert validation["contenders"]["trained"]["blend_weights"] == manager.weight_learner.get_blend_weights()
        assert results["validation"]["avg_accuracy"] > results["validation"]["equal_weights_accuracy"]
        shares = manager.predict(picture(1), picture(2)).blend_weights
        assert max(shares, key=shares.__getitem__) == "near"
        assert manager.get_training_progress()["current_weights"] == weights
        assert manager.cross_validate(k=2, epochs=2)["folds"] == 2


def test_it_is_found_again(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager = managed(tmp_path, open_store())
    train(manager, num_examples=3)
    before = learned(manager)
    assert open_store().load_state().head["state"] == before[0]
    assert open_store().load_state(None).rows == before[1]
    if isinstance(manager.data_manager, TrainingDataManager):
        manager.close()
    with managed(tmp_path, open_store(), 0) as again:
        assert learned(again) == before
        train(again)
        assert len(learned(again)[1]) == 6


def test_two_managers_on_one_store_learn_from_each_other(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    first = managed(tmp_path, open_store())
    second = managed(tmp_path, open_store(), 0)
    train(first)
    second.predict(picture(1), picture(2))
    assert learned(second) == learned(first)
    train(second)
    train(first)
    alone = managed(tmp_path)
    train(alone, epochs=3)
    assert learned(first) == learned(alone)


def test_what_is_removed_or_replaced_is_forgotten(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager, never = managed(tmp_path, open_store()), managed(tmp_path)
    train(manager, epochs=2)
    (first, second), (own_first, own_second) = (each.data_manager.get_all_examples()[:2] for each in (manager, never))
    for each, example in ((manager, first), (never, own_first)):
        each.remove_training_example(example.example_id)
    truth = save_triple(tmp_path / "other", 1, levels=40)[2]
    manager.replace_ground_truth(second.example_id, truth)
    held_out = {own_second.example_id}
    others = [e for e in never.data_manager.get_all_examples() if e.example_id not in held_out]
    never.training_engine.train_batch(others, epochs=2, verbose=False)
    assert learned(manager) == learned(never)
    never.replace_ground_truth(own_second.example_id, truth)
    for each in (manager, never):
        train(each)
    assert learned(manager) == learned(never)


def test_what_is_removed_while_it_trains_is_not_learned(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    manager, other = managed(tmp_path, open_store()), managed(tmp_path, open_store(), 0)
    gone = manager.data_manager.get_all_examples()[0]

    def meanwhile(progress: Progress) -> None:
        if progress.phase == "learning":
            other.remove_training_example(gone.example_id)

    assert train(manager, on_progress=meanwhile)["session"]["num_examples"] == 6
    never = managed(tmp_path)
    never.remove_training_example(never.data_manager.get_all_examples()[0].example_id)
    train(never)
    assert learned(manager) == learned(never)


def test_feedback_and_what_the_host_observes_are_stored(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    manager, other = managed(tmp_path, open_store()), managed(tmp_path, open_store(), 0)
    example = manager.data_manager.get_all_examples()[0]
    assert manager.training_engine.train_on_example(example)["near"]["is_valid"]
    manager.weight_learner.observe([ExampleEvidence("observed", {"near": Outcome(0.5), "new": Outcome(None)})])
    train(other)
    train(manager)
    alone = managed(tmp_path)
    alone.training_engine.train_on_example(alone.data_manager.get_all_examples()[0])
    train(alone, epochs=2)
    alone.weight_learner.observe([ExampleEvidence("observed", {"near": Outcome(0.5), "new": Outcome(None)})])
    assert learned(manager) == learned(alone)
    assert open_store().load_state(None).rows == learned(alone)[1]


def test_it_is_exported_and_imported(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    path = tmp_path / "weights.json"
    source, manager = managed(tmp_path), managed(tmp_path, open_store())
    train(source, epochs=2)
    source.export_weights(path)
    train(manager)
    manager.import_weights(path)
    assert learned(manager) == (learned(source)[0], {})
    assert manager.weight_learner.get_all_weights() == source.weight_learner.get_all_weights()
    train(manager)
    assert len(learned(manager)[1]) == 6


def test_between_learners_a_weights_file_carries_weights(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    path = tmp_path / "weights.json"
    own, ours = managed(tmp_path, open_store()), manager_with(tmp_path)
    for one, other in ((own, ours), (ours, own)):
        train(one)
        one.export_weights(path)
        other.import_weights(path)
        assert other.weight_learner.get_all_weights() == one.weight_learner.get_all_weights()
        assert other.weight_learner.get_statistics("near")["update_count"] == 0


def test_a_weights_file_that_it_cannot_read_changes_nothing(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    path = tmp_path / "weights.json"
    manager = managed(tmp_path, open_store())
    train(manager)
    before = learned(manager)
    manager.export_weights(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    for head in ("", "[1]", "{}", "null"):
        document["learner"]["head"] = head
        path.write_text(json.dumps(document), encoding="utf-8")
        with pytest.raises(WeightsFileError) as caught:
            manager.import_weights(path)
        assert caught.value.key == "learner"
    assert learned(manager) == before


def test_it_is_reset(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager = managed(tmp_path, open_store())
    train(manager)
    manager.reset_weights(2.0)
    assert manager.weight_learner.get_all_weights() == {"far": 2.0, "mid": 2.0, "near": 2.0}
    assert open_store().load_state(None).rows == {}
    train(manager)
    assert manager.weight_learner.get_weight("near") > 2.0


def test_a_fork_is_tried_and_adopted(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager = managed(tmp_path, open_store())
    train(manager, num_examples=3)
    before = learned(manager)
    trial = manager.with_learner(manager.weight_learner.with_alpha(0.9).fork())
    train(trial, epochs=4)
    assert learned(manager) == before != learned(trial)
    manager.remove_training_example(manager.data_manager.get_all_examples()[0].example_id)
    adopted = manager.adopt(trial.weight_learner)
    assert (adopted.weight_learner.alpha, adopted.weight_learner.cell) == (0.9, manager.weight_learner.cell)
    assert len(learned(manager)[1]) == 5  # what was removed since the fork was made does not come back
    assert open_store().load_state().head["state"] == learned(manager)[0]


def test_it_has_no_groups_and_says_so(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager = managed(tmp_path, open_store(), 0)
    manager.add_training_examples([(*save_triple(tmp_path, seed), {"style": str(seed % 2)}) for seed in range(6)])
    train(manager, group_by="style")
    assert len(learned(manager)[1]) == 6
    with pytest.raises(InvalidArgumentError, match="nothing was learned by group"):
        manager.predict(picture(1), picture(2), group="1")


def test_another_learner_does_not_read_what_it_has_stored(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    train(managed(tmp_path, open_store()))
    with pytest.raises(LearnerMismatchError):
        TrainingManager(manager_with(tmp_path, 0).worker_pool, BayesianWeightLearner(), storage=open_store())
    ours = manager_with(tmp_path, 0, storage=open_store(), restore=False)
    train(ours)
    with pytest.raises(LearnerMismatchError):
        managed(tmp_path, open_store(), 0)


def test_two_that_know_different_things_need_a_decision(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    train(managed(tmp_path, open_store()))
    other = managed(tmp_path)
    train(other, epochs=2)
    learner = ExponentialWeights(0.5, LearnerCell(other.weight_learner.cell.whole().state))
    with pytest.raises(LearnerConflictError):
        manager_with(tmp_path, 0, learner=learner, storage=open_store())
    kept = manager_with(tmp_path, 0, learner=learner, storage=open_store(), restore=False)
    train(kept)
    alone = managed(tmp_path)
    train(alone, epochs=3)
    assert learned(kept) == learned(alone)


KILLED = """
import os, signal, sys
from pathlib import Path
from test_own_learner import managed, train
from tsm_training import TrainingDataManager

def kill(progress):
    if progress.phase == "learning":
        os.kill(os.getpid(), signal.SIGKILL)

manager = managed(Path(sys.argv[1]), TrainingDataManager(sys.argv[2]))
train(manager)
train(manager, on_progress=kill)
"""


@pytest.mark.slow
def test_a_killed_training_leaves_what_was_learned_before(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    alone = managed(tmp_path)
    train(alone)
    with managed(tmp_path, TrainingDataManager(path), 0) as again:
        assert learned(again) == learned(alone)
        train(again)
        train(alone)
        assert learned(again) == learned(alone)


# --- learners that do not do what they should ------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Silent(ExponentialWeights):
    """Forgets to return something, or returns what is no JSON."""

    fault: str = attrs.field(default="", kw_only=True)

    def absorb(self, state: Losses, evidence: Iterable[ExampleEvidence], passes: int = 1) -> Any:
        return None if self.fault == "absorb" else super().absorb(state, evidence, passes)

    def forget(self, state: Losses, digests: Set[str]) -> Any:
        return None if self.fault == "forget" else super().forget(state, digests)

    def head_of(self, state: Losses) -> Any:
        return {"absorb": super().head_of(state), "head": "no JSON"}.get(self.fault, super().head_of(state))


class Bare(ExponentialWeights):
    """Has an `__init__` of its own, which forgets the cell."""

    def __init__(self) -> None:
        pass


def test_a_learner_without_a_cell_is_named(open_store: Callable[[], TrainingStore]) -> None:
    with pytest.raises(LearnerFaultError) as caught:
        TrainingManager(usual_pool(), Bare(), storage=open_store())
    assert caught.value.learner == Bare.name


@pytest.mark.parametrize("fault", ["absorb", "head"])
def test_a_training_with_a_faulty_learner_says_so_and_stores_nothing(
    tmp_path: Path, open_store: Callable[[], TrainingStore], fault: str
) -> None:
    manager = manager_with(tmp_path, learner=Silent(fault=fault), storage=open_store())
    with pytest.raises(LearnerFaultError):
        manager.train(verbose=False)
    assert manager.data_manager.load_state(None).head == {}
    assert manager.data_manager.get_all_sessions()[-1].status == "failed"


def test_forgetting_nothing_at_all_loses_nothing(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    manager = manager_with(tmp_path, learner=Silent(), storage=open_store())
    manager.train(verbose=False)
    before = manager.data_manager.load_state(None)
    faulty = manager.with_learner(attrs.evolve(manager.weight_learner, fault="forget"))
    with pytest.raises(LearnerFaultError):
        faulty.remove_training_example(manager.data_manager.get_all_examples()[0].example_id)
    assert manager.data_manager.load_state(None) == before
    assert len(manager.data_manager.get_all_examples()) == 6


def test_an_imported_head_that_means_nothing_changes_nothing(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    manager = manager_with(tmp_path, learner=ExponentialWeights(), storage=open_store())
    manager.train(verbose=False)
    path = tmp_path / "weights.json"
    manager.export_weights(path)
    document = json.loads(path.read_text())
    document["learner"]["head"] = json.dumps([{"near": "much"}, {}])
    path.write_text(json.dumps(document))
    before = manager.data_manager.load_state(None)
    with pytest.raises(WeightsFileError, match="cannot use"):
        manager.import_weights(path)
    assert manager.data_manager.load_state(None) == before


def test_what_cannot_be_read_need_not_be_restored(tmp_path: Path, open_store: Callable[[], TrainingStore]) -> None:
    store = open_store()
    manager_with(tmp_path, learner=ExponentialWeights(), storage=store).train(verbose=False)
    store.update_state(lambda _held: StateDelta({"state": "[]"}))
    with pytest.raises(StorageCorruptError):
        TrainingManager(usual_pool(), ExponentialWeights(), storage=store)
    manager = TrainingManager(usual_pool(), ExponentialWeights(), storage=store, restore=False)
    manager.train(verbose=False)
    assert len(TrainingManager(usual_pool(), ExponentialWeights(), storage=store).weight_learner.get_all_weights()) == 3


def test_an_export_has_what_another_process_has_learned(
    tmp_path: Path, open_store: Callable[[], TrainingStore]
) -> None:
    store = open_store()
    first = manager_with(tmp_path, storage=store)
    second = TrainingManager(usual_pool(), BayesianWeightLearner(), storage=store)
    first.train(verbose=False)
    second.export_weights(tmp_path / "weights.json")
    assert json.loads((tmp_path / "weights.json").read_text())["weights"] == first.weight_learner.get_all_weights()


def test_only_a_learner_of_the_same_kind_is_adopted(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    with pytest.raises(LearnerMismatchError):
        manager.adopt(ExponentialWeights())
    with pytest.raises(InvalidArgumentError):
        manager.adopt(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("digest", ["", "h\ud800", "a\nb", None])
def test_only_what_can_be_stored_is_observed(digest: Any) -> None:
    learner = BayesianWeightLearner()
    with pytest.raises(InvalidArgumentError):
        learner.observe([ExampleEvidence(digest, {"near": Outcome(0.5)})])
    assert learner.get_all_weights() == {}
