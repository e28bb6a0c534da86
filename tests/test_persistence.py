"""A learner and a store: who takes what from whom, and when somebody must decide."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tsm_training import BayesianWeightLearner, InMemoryStore
from tsm_training.errors import LearnerConflictError
from tsm_training.learning import ExampleEvidence, FittedBlend, Group, LearnedState, Outcome, WorkerBase
from tsm_training.persistence import LearnerStorage
from tsm_training.weights import CellHome, LearnerCell, absorb, with_fits, with_workers


def seen(digest: str, a: float = 0.9, b: float = 0.5) -> ExampleEvidence:
    return ExampleEvidence(digest, {"a": Outcome(a), "b": Outcome(b)})


def knowing(*digests: str, **settings: Any) -> BayesianWeightLearner:
    """Return a learner that has seen these examples on its own."""
    learner = BayesianWeightLearner(0.5, **settings)
    learner.observe(map(seen, digests))
    return learner


def holding(*digests: str) -> InMemoryStore:
    """Return a store into which a training on these examples was committed."""
    store = InMemoryStore()
    trained_elsewhere(store, *digests)
    return store


def trained_elsewhere(store: InMemoryStore, *digests: str) -> None:
    store.update_learning(lambda state: absorb(state, map(seen, digests), 0.5, 1.0))


def kept(learner: BayesianWeightLearner, store: InMemoryStore) -> LearnerStorage:
    """Tie a learner to a store that is its home from now on."""
    tie = LearnerStorage(learner, store)
    tie.attach(claim=True)
    assert tie.is_kept
    return tie


def learn(tie: LearnerStorage, *digests: str) -> None:
    tie.change(lambda state: tie.learner.absorb(state, list(map(seen, digests))))


def digests_in(where: BayesianWeightLearner | InMemoryStore) -> list[str]:
    state = where.cell.state if isinstance(where, BayesianWeightLearner) else where.load_learning().state
    return list(state.absorbed)


# --- the first meeting ----------------------------------------------------------------------------------------------


def test_a_look_at_an_empty_store_makes_it_nobodys_home_but_a_training_does() -> None:
    learner, store = BayesianWeightLearner(), InMemoryStore()
    tie = LearnerStorage(learner, store)
    tie.attach()
    assert learner.cell.home is None
    assert not tie.is_kept
    tie.attach(claim=True)
    assert learner.cell.home == CellHome(store.store_id, store.location, 0, LearnedState())
    assert tie.is_kept


@pytest.mark.parametrize("restore", [None, True, False])
def test_a_learner_that_knows_nothing_takes_what_the_store_holds(restore: bool | None) -> None:
    learner, store = BayesianWeightLearner(), holding("old")
    learner.add_workers(["new"])
    LearnerStorage(learner, store).attach(restore)
    held = store.load_learning()
    assert learner.cell.state == with_workers(held.state, ["new"], 1.0)
    assert learner.cell.home == CellHome(store.store_id, store.location, held.version, held.state)


def test_a_learner_with_another_prior_that_knows_nothing_takes_what_the_store_holds_too() -> None:
    learner, store = BayesianWeightLearner(prior_weight=2.0), holding("old")
    learner.add_workers(["new"])
    LearnerStorage(learner, store).attach()
    assert digests_in(learner) == ["old"]
    assert learner.get_statistics("new")["prior_weight"] == 2.0


def test_what_a_learner_knows_goes_into_an_empty_store_with_its_first_training_there() -> None:
    learner, store = knowing("own"), InMemoryStore()
    tie = LearnerStorage(learner, store)
    tie.attach()
    assert not tie.is_kept
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["own", "new"]


def test_workers_at_the_learners_prior_are_nothing_that_a_store_knows() -> None:
    learner, store = knowing("own", prior_weight=2.0), InMemoryStore()
    store.update_learning(lambda state: with_workers(state, ["a", "b"], 2.0))
    LearnerStorage(learner, store).attach(claim=True)
    assert digests_in(learner) == ["own"]
    store.update_learning(lambda _state: LearnedState({"a": WorkerBase(1.0)}))
    with pytest.raises(LearnerConflictError):
        LearnerStorage(knowing("own", prior_weight=2.0), store).attach()


def test_a_learner_and_a_store_that_know_different_things_need_a_decision() -> None:
    learner, store = knowing("own"), holding("old")
    before = learner.cell.state
    with pytest.raises(LearnerConflictError, match="has evidence of its own, and memory holds other learned state"):
        LearnerStorage(learner, store).attach(claim=True)
    assert learner.cell.state is before
    assert learner.cell.home is None


def test_a_learner_and_a_store_that_know_the_same_need_none() -> None:
    learner, store = knowing("old"), holding("old")
    tie = LearnerStorage(learner, store)
    tie.attach()
    assert tie.is_kept
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["old", "new"]


def test_the_stores_state_is_taken_where_the_caller_says_so_even_an_empty_one() -> None:
    for store, expected in ((holding("old"), ["old"]), (InMemoryStore(), [])):
        learner = knowing("own")
        tie = LearnerStorage(learner, store)
        tie.attach(restore=True)
        assert digests_in(learner) == expected
        assert learner.get_all_weights().keys() == {"a", "b"}  # who was known stays known
        assert tie.is_kept


def test_the_learners_state_is_kept_where_the_caller_says_so_and_stored_with_the_next_training() -> None:
    learner, store = knowing("own"), holding("old")
    tie = LearnerStorage(learner, store)
    tie.attach(restore=False)
    assert digests_in(learner) == ["own"]
    assert digests_in(store) == ["old"]
    assert tie.is_kept
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["own", "new"]


# --- at home --------------------------------------------------------------------------------------------------------


def test_what_another_process_has_stored_is_taken_with_the_workers_that_are_known_here() -> None:
    learner, store = BayesianWeightLearner(), InMemoryStore()
    tie = kept(learner, store)
    learner.add_workers(["new"])
    trained_elsewhere(store, "theirs")
    tie.attach()
    assert digests_in(learner) == ["theirs"]
    assert learner.get_all_weights().keys() == {"a", "b", "new"}
    learn(tie, "ours")
    assert digests_in(learner) == digests_in(store) == ["theirs", "ours"]
    assert store.load_learning().state.bases.keys() == {"a", "b", "new"}


def test_what_the_host_observes_itself_stays_and_is_stored_with_the_next_training() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "trained")
    learner.observe([seen("observed")])
    tie.attach()
    assert digests_in(learner) == ["trained", "observed"]
    assert digests_in(store) == ["trained"]
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["trained", "observed", "new"]


def test_a_learner_and_a_store_that_both_moved_need_a_decision() -> None:
    for restore, expected in ((True, ["theirs"]), (False, ["observed"])):
        learner, store = BayesianWeightLearner(0.5), InMemoryStore()
        tie = kept(learner, store)
        learner.observe([seen("observed")])
        trained_elsewhere(store, "theirs")
        with pytest.raises(LearnerConflictError, match="has evidence of its own, and memory holds other learned state"):
            tie.attach()
        assert digests_in(learner) == ["observed"]
        tie.attach(restore)
        assert digests_in(learner) == expected
        learn(tie, "new")
        assert digests_in(learner) == digests_in(store) == [*expected, "new"]


def test_the_stores_state_can_be_taken_back_after_a_change_that_was_not_wanted() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "trained")
    learner.observe([seen("a mistake")])
    tie.attach(restore=True)
    assert digests_in(learner) == ["trained"]


@pytest.mark.parametrize("restore", [True, False])
def test_a_decision_that_is_not_needed_does_no_harm(restore: bool) -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "ours")
    trained_elsewhere(store, "theirs")
    tie.attach(restore)
    assert digests_in(learner) == ["ours", "theirs"]


# --- what was fitted ------------------------------------------------------------------------------------------------


def fit(tie: LearnerStorage, *digests: str, **groups: Group) -> FittedBlend:
    """Fit a blend on examples, with these groups, as a training does."""
    fitted = FittedBlend({"a": 1.0}, "greedy", 0.5, digests)
    tie.change(lambda state: with_fits(state, fitted, "style", groups))
    return fitted


def test_a_fit_is_stored_and_taken_by_whoever_looks_again() -> None:
    store = InMemoryStore()
    ours, theirs = (kept(BayesianWeightLearner(0.5), store) for _ in range(2))
    learn(ours, "old")
    fitted = fit(ours, "old", warm=Group(["old"]))
    for look in (theirs.refresh, theirs.attach):
        look()
        state = theirs.learner.cell.state
        assert state == store.load_learning().state
        assert (state.fitted, state.groups) == (fitted, {"warm": Group(["old"])})
    learn(theirs, "new")
    state = store.load_learning().state
    assert (list(state.absorbed), state.fitted) == (["old", "new"], fitted)


@pytest.mark.parametrize(
    "fits", [(FittedBlend({"a": 1.0}, "greedy", 0.5),), (None, "style", {"warm": Group(["x"])})], ids=["fit", "groups"]
)
def test_a_learner_that_knows_nothing_but_a_fit_or_groups_needs_a_decision(fits: tuple[Any, ...]) -> None:
    learner, store = BayesianWeightLearner(), holding("old")
    learner.cell.update(lambda state: with_fits(state, *fits))
    before = learner.cell.state
    with pytest.raises(LearnerConflictError):
        LearnerStorage(learner, store).attach()
    LearnerStorage(learner, store).refresh()
    assert learner.cell.state is before


def test_a_fit_that_the_host_has_put_into_its_learner_is_stored_with_the_next_training() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "old")
    fitted = FittedBlend({"b": 1.0}, "by hand", 1.0)
    learner.cell.update(lambda state: with_fits(state, fitted))
    tie.refresh()
    assert learner.cell.state.fitted == fitted
    learn(tie, "new")
    assert store.load_learning().state.fitted == fitted


def test_a_learner_and_a_store_of_which_one_has_a_new_fit_need_a_decision() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "old")
    learner.cell.update(lambda state: with_fits(state, FittedBlend({"b": 1.0}, "by hand", 1.0)))
    trained_elsewhere(store, "theirs")
    with pytest.raises(LearnerConflictError):
        tie.attach()


# --- moving ---------------------------------------------------------------------------------------------------------


class Elsewhere(InMemoryStore):
    """A store with a place of its own."""

    @property
    def location(self) -> str:
        return "elsewhere"


@pytest.mark.parametrize("digests", [(), ("old",)])
def test_a_learner_that_is_kept_in_another_store_moves_only_when_it_is_told(digests: tuple[str, ...]) -> None:
    learner, home, elsewhere = knowing("own"), InMemoryStore(), Elsewhere()
    at_home = kept(learner, home)
    learn(at_home)
    if digests:
        trained_elsewhere(elsewhere, *digests)
    moved = LearnerStorage(learner, elsewhere)
    with pytest.raises(LearnerConflictError, match="the learner is kept in memory, not in elsewhere"):
        moved.attach()
    assert at_home.is_kept
    assert not moved.is_kept
    moved.attach(restore=False)
    assert moved.is_kept
    assert not at_home.is_kept
    learn(moved, "new")
    assert digests_in(learner) == digests_in(elsewhere) == ["own", "new"]
    assert digests_in(home) == ["own"]
    at_home.attach(restore=True)
    assert digests_in(learner) == ["own"]
    assert at_home.is_kept


# --- trials ---------------------------------------------------------------------------------------------------------


def test_a_fork_neither_takes_from_a_store_nor_gives_to_it() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    learn(kept(learner, store), "trained")
    fork = learner.fork()
    trial = LearnerStorage(fork, store)
    trained_elsewhere(store, "theirs")
    trial.attach(restore=True)
    trial.refresh()
    assert digests_in(fork) == ["trained"]
    learn(trial, "tried")
    assert digests_in(fork) == ["trained", "tried"]
    assert digests_in(store) == ["trained", "theirs"]
    assert not trial.is_kept


def test_a_trial_is_written_nowhere_even_if_its_cell_names_a_home() -> None:
    store = InMemoryStore()
    cell = LearnerCell(is_trial=True)
    cell.home = CellHome(store.store_id, store.location, 0, LearnedState())
    for learner in (BayesianWeightLearner(cell=cell), BayesianWeightLearner(cell=pickle.loads(pickle.dumps(cell)))):
        tie = LearnerStorage(learner, store)
        assert not tie.is_kept
        learn(tie, "tried")
        assert digests_in(learner) == ["tried"]
        assert store.load_learning().version == 0


# --- looking again --------------------------------------------------------------------------------------------------


def test_a_look_takes_what_another_process_has_stored() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = LearnerStorage(learner, store)
    tie.refresh()
    assert learner.cell.home is None  # there was nothing to take
    trained_elsewhere(store, "theirs")
    tie.refresh()
    assert digests_in(learner) == ["theirs"]
    assert tie.is_kept
    trained_elsewhere(store, "more")
    tie.refresh()
    assert digests_in(learner) == ["theirs", "more"]
    learn(tie, "ours")
    before = learner.cell.state
    tie.refresh()
    assert learner.cell.state is before


def test_a_look_notices_that_another_process_has_forgotten_everything() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "ours")
    store.update_learning(lambda _state: LearnedState())
    tie.refresh()
    assert digests_in(learner) == []


def test_a_look_leaves_alone_what_was_changed_here() -> None:
    store = holding("theirs")
    for learner in (knowing("own"), BayesianWeightLearner(0.5)):
        tie = LearnerStorage(learner, store)
        if not digests_in(learner):
            tie.attach()
            learner.observe([seen("own")])
            trained_elsewhere(store, "more")
        before = learner.cell.state
        tie.refresh()
        assert learner.cell.state is before


def test_a_look_at_a_store_that_is_not_the_learners_home_takes_nothing() -> None:
    learner = BayesianWeightLearner()
    kept(learner, InMemoryStore())
    LearnerStorage(learner, holding("old")).refresh()
    assert digests_in(learner) == []


def test_a_look_knows_the_learners_own_prior() -> None:
    learner, store = BayesianWeightLearner(prior_weight=2.0), InMemoryStore()
    learner.add_workers(["a"])
    store.update_learning(lambda state: with_workers(state, ["b"], 2.0))
    tie = LearnerStorage(learner, store)
    tie.refresh()
    assert learner.cell.home is None
    trained_elsewhere(store, "theirs")
    tie.refresh()
    assert digests_in(learner) == ["theirs"]


# --- the moment of the commit ---------------------------------------------------------------------------------------


def test_a_session_is_applied_to_what_the_store_holds_when_it_is_committed() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learner.add_workers(["new"])
    commit = tie.committed(lambda state: learner.absorb(state, [seen("ours")]))
    trained_elsewhere(store, "theirs")
    tie.agreed(store.update_learning(commit))
    assert digests_in(learner) == digests_in(store) == ["theirs", "ours"]
    assert "new" in store.load_learning().state.bases
    tie.attach()  # both agree: nothing is left to decide
    assert learner.cell.home == CellHome(store.store_id, store.location, 2, store.load_learning().state)


def test_a_session_of_a_learner_that_has_no_home_is_applied_to_what_the_store_holds() -> None:
    learner, store = BayesianWeightLearner(0.5, prior_weight=2.0), holding("theirs")
    learner.add_workers(["new"])
    commit = LearnerStorage(learner, store).committed(lambda state: learner.absorb(state, [seen("ours")]))
    state = store.update_learning(commit).state
    assert list(state.absorbed) == ["theirs", "ours"]
    assert state.bases["new"] == WorkerBase(2.0)


def test_a_commit_is_refused_if_the_store_has_moved_and_the_learner_was_changed_meanwhile() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "ours")
    learner.observe([seen("observed")])
    commit = tie.committed(lambda state: learner.absorb(state, [seen("new")]))
    trained_elsewhere(store, "theirs")
    with pytest.raises(LearnerConflictError, match="memory holds other learned state"):
        store.update_learning(commit)
    assert digests_in(store) == ["ours", "theirs"]
    assert digests_in(learner) == ["ours", "observed"]


def test_workers_made_known_here_are_no_change_that_somebody_must_decide_on() -> None:
    learner, store = BayesianWeightLearner(0.5, prior_weight=2.0), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "ours")
    learner.add_workers(["z", "new"])
    trained_elsewhere(store, "theirs")
    tie.attach()
    assert digests_in(learner) == ["ours", "theirs"]
    assert learner.get_statistics("new")["prior_weight"] == 2.0
