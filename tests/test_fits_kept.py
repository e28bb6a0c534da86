"""A fitted blend and groups are kept with all else that was learned: in which store, how long, and who sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import learned_by, manager_with, members, picture, save_triple
from tsm_training import BayesianWeightLearner, InMemoryStore, TrainingDataManager, TrainingManager
from tsm_training.data import TrainingExample
from tsm_training.errors import InvalidArgumentError, LearnerConflictError, StorageReadOnlyError
from tsm_training.learning import LearnedState
from tsm_training.progress import Progress
from tsm_training.weights import Snapshot

STYLES = ("warm", "cold")


def styled(folder: Path, examples: int = 6, **settings: Any) -> TrainingManager:
    """Return a manager of examples of which every other one is warm."""
    manager = manager_with(folder, 0, "auto", **settings)
    rows = [(*save_triple(folder, seed), {"style": STYLES[seed % 2]}) for seed in range(examples)]
    manager.add_training_examples(rows)
    return manager


def train(manager: TrainingManager, **settings: Any) -> LearnedState:
    """Train on all examples, and return what was learned."""
    manager.train(**{"validation_split": 0.0, "verbose": False, "group_by": "style", **settings})
    return learned_by(manager)


def digest(example: TrainingExample) -> str:
    return example.known_files.digest


def shares(manager: TrainingManager) -> dict[str | None, dict[str, float]]:
    """Return with which shares each group's requests are answered."""
    return {
        group: dict(manager.predict(picture(1), picture(2), run_all=True, group=group).blend_weights)
        for group in (None, *STYLES, "unknown")
    }


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_training_fits_on_all_that_it_learned_and_group_by_group(tmp_path: Path) -> None:
    with styled(tmp_path) as manager:
        state = train(manager)
        digests: dict[str, set[str]] = {style: set() for style in STYLES}
        for example in manager.data_manager.get_all_examples():
            digests[example.metadata["style"]].add(digest(example))
    assert state.fitted is not None
    assert state.fitted.digests == tuple(sorted(state.rows))
    assert state.fitted.absorbed == pytest.approx(0.15)
    assert state.group_by == "style"
    assert {label: members(state, label) for label in state.groups} == digests
    assert all(
        group.fitted is not None and set(group.fitted.digests) == digests[label]
        for label, group in state.groups.items()
    )


def test_fits_and_groups_survive_reopening_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager:
        state, before = train(manager), shares(manager)
    with manager_with(tmp_path, 0, db_path=path) as again:
        assert learned_by(again) == state
        assert shares(again) == before
    assert len({tuple(each.items()) for each in before.values()}) > 1


def test_the_last_training_says_which_groups_there_are(tmp_path: Path) -> None:
    with styled(tmp_path) as manager:
        assert list(train(manager).groups) == ["cold", "warm"]
        state = train(manager, group_by=None)
        assert (state.group_by, state.groups) == (None, {})
        assert state.fitted is not None
        with pytest.raises(InvalidArgumentError, match="nothing was learned by group"):
            manager.predict(picture(1), picture(2), group="warm")


def test_a_training_that_is_stopped_leaves_fits_and_groups_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager:
        state = train(manager)

        def stop(progress: Progress) -> None:
            if progress.phase == "learning":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(manager, on_progress=stop, group_by=None)
        assert learned_by(manager) == state


# --- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_removing_an_example_drops_the_fits_that_it_was_in_until_the_next_training(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {} if kind == "memory" else {"db_path": tmp_path / "training.db"}
    with styled(tmp_path, **settings) as manager:
        before = train(manager)
        gone = manager.data_manager.get_all_examples()[0]
        manager.remove_training_example(gone.example_id)
        state = learned_by(manager)
        assert state.fitted is None
        assert state.groups["cold"] == before.groups["cold"]
        assert members(state, "warm") == members(before, "warm") - {digest(gone)}
        assert (state.groups["warm"].num_examples, state.groups["warm"].fitted) == (2, None)
        again = train(manager)
        assert again.fitted is not None
        assert digest(gone) not in again.fitted.digests


def test_removing_an_example_that_was_held_out_drops_nothing(tmp_path: Path) -> None:
    with styled(tmp_path, 9) as manager:
        manager.train(validation_split=0.3, verbose=False, group_by="style")
        state = learned_by(manager)
        assert state.fitted is not None
        (session,) = manager.data_manager.get_all_sessions()
        for example_id in session.validation_ids:
            manager.remove_training_example(example_id)
        assert learned_by(manager) == state


def test_another_ground_truth_drops_the_fits_too(tmp_path: Path) -> None:
    with styled(tmp_path) as manager:
        train(manager)
        example = manager.data_manager.get_all_examples()[0]
        manager.replace_ground_truth(example.example_id, save_triple(tmp_path / "other", 9)[1])
        assert learned_by(manager).fitted is None


def test_a_reset_forgets_fits_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager:
        train(manager)
        manager.reset_weights(2.0)
        state = learned_by(manager)
        assert state == manager.weight_learner.started(dict.fromkeys(("far", "mid", "near"), 2.0))
        assert len(set(manager.weight_learner.get_blend_weights().values())) == 1
    with manager_with(tmp_path, 0, db_path=path) as again:
        assert learned_by(again) == state


# --- who sees them ----------------------------------------------------------------------------------------------------


def test_a_fork_has_its_own_fit_which_the_store_gets_when_it_is_adopted(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager:
        before = train(manager)
        fork = manager.weight_learner.fork()
        assert fork.cell.state == before
        trial = train(manager.with_learner(fork.with_alpha(1.0)), group_by=None)
        assert trial.fitted is not None
        assert trial.fitted.absorbed == 1.0
        assert learned_by(manager) == before
        manager.adopt(fork)
        assert learned_by(manager) == trial


@pytest.mark.parametrize("restore", [True, False])
def test_who_decides_between_learner_and_store_decides_about_fits_and_groups_too(tmp_path: Path, restore: bool) -> None:
    store = InMemoryStore()
    held = train(styled(tmp_path, storage=store))
    learner = BayesianWeightLearner(alpha=0.5)
    own = train(styled(tmp_path, learner=learner), group_by=None)
    learner = BayesianWeightLearner(alpha=0.5)
    learner.cell.update(lambda _before: Snapshot(own))
    with pytest.raises(LearnerConflictError):
        manager_with(tmp_path, 0, storage=store, learner=learner)
    manager_with(tmp_path, 0, storage=store, learner=learner, restore=restore)
    assert learner.cell.whole().state == held if restore else own


def test_a_fit_alone_is_knowledge_that_is_not_thrown_away(tmp_path: Path) -> None:
    store = InMemoryStore()
    held = train(styled(tmp_path, storage=store))
    learner = BayesianWeightLearner()
    learner.cell.update(lambda _before: Snapshot(LearnedState(fitted=held.fitted)))
    with pytest.raises(LearnerConflictError):
        manager_with(tmp_path, 0, storage=store, learner=learner)


def test_a_viewer_answers_with_fits_and_groups_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager:
        train(manager)
        before = shares(manager)
    content = path.read_bytes()
    viewer = TrainingDataManager(path, read_only=True)
    with manager_with(tmp_path, 0, storage=viewer) as manager:
        assert shares(manager) == before
        with pytest.raises(StorageReadOnlyError):
            train(manager)
        assert shares(manager) == before
    assert path.read_bytes() == content


def test_a_learner_elsewhere_takes_a_new_fit_at_its_next_look(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with styled(tmp_path, db_path=path) as manager, manager_with(tmp_path, 0, db_path=path) as other:
        train(manager)
        assert shares(other) == shares(manager)
        train(manager, epochs=5, group_by=None)
        ours, theirs = (each.predict(picture(1), picture(2), run_all=True) for each in (manager, other))
        assert ours.blend_weights == theirs.blend_weights
        assert learned_by(other).groups == {}


def test_of_two_trainings_at_once_no_evidence_is_lost_and_the_last_fit_counts(tmp_path: Path) -> None:
    """Two managers on one file are what two processes are: each has a learner and a connection of its own."""
    path = tmp_path / "training.db"
    with styled(tmp_path, 8, db_path=path) as ours, manager_with(tmp_path, 0, db_path=path) as theirs:
        examples = ours.data_manager.get_all_examples()
        inner: list[LearnedState] = []

        def train_meanwhile(progress: Progress) -> None:
            if progress.phase == "learning" and not inner:
                theirs.training_engine.train_batch(examples[4:], verbose=False, group_by="style")
                inner.append(learned_by(theirs))

        ours.training_engine.train_batch(examples[:4], verbose=False, on_progress=train_meanwhile)
        state = learned_by(ours)
        assert inner[0].fitted is not None
        assert set(inner[0].rows) == {digest(example) for example in examples[4:]}
        assert set(state.rows) == {digest(example) for example in examples}
        assert {d: state.rows[d].outcomes for d in inner[0].rows} == {d: r.outcomes for d, r in inner[0].rows.items()}
        assert state.fitted is not None
        assert set(state.fitted.digests) == {digest(example) for example in examples[:4]}
        assert (state.group_by, state.groups) == (None, {})  # those of the last training, which had none
        again = train(theirs)
        assert again.fitted is not None
        assert set(again.fitted.digests) == set(state.rows)
