"""A learner and a store: who takes what from whom, and when somebody must decide."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training import BayesianWeightLearner, InMemoryStore, TrainingDataManager, TrainingStore
from tsm_training.core import Totals, fixed
from tsm_training.data import HeldState, SessionCommit, StateChange, StateDelta, StateDocuments, TrainingSession
from tsm_training.errors import LearnerConflictError, LearnerMismatchError, StorageClosedError, StorageCorruptError
from tsm_training.learning import BlendFits, ExampleEvidence, FittedBlend, LearnedState, Outcome
from tsm_training.persistence import LearnerStorage
from tsm_training.weights import LearnerCell, Snapshot


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
    """Let another process train on these examples: it has a learner of its own."""
    learn(LearnerStorage(BayesianWeightLearner(0.5), store), *digests)


def put(store: InMemoryStore, state: LearnedState) -> None:
    """Let another process put this in the place of what the store holds."""
    LearnerStorage(BayesianWeightLearner(), store).change(lambda _before, _held: Snapshot(state), None)


def kept(learner: BayesianWeightLearner, store: TrainingStore) -> LearnerStorage:
    """Tie a learner to a store that is its home from now on."""
    tie = LearnerStorage(learner, store)
    tie.attach(claim=True)
    assert tie.is_kept
    return tie


def at_home() -> tuple[BayesianWeightLearner, InMemoryStore, LearnerStorage]:
    """Return a new learner, a new store, and their tie."""
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    return learner, store, kept(learner, store)


def changing(
    tie: LearnerStorage, change: Callable[[LearnedState], LearnedState], keys: Iterable[str] | None = ()
) -> None:
    def changed(before: Snapshot, _held: object) -> Snapshot:
        return attrs.evolve(before, state=change(tie.learner.blank() if before.state is None else before.state))

    tie.change(changed, keys)


def learn(tie: LearnerStorage, *digests: str) -> None:
    changing(tie, lambda state: tie.learner.absorb(state, list(map(seen, digests))), digests)


def digests_in(where: BayesianWeightLearner | InMemoryStore) -> list[str]:
    if isinstance(where, BayesianWeightLearner):
        return sorted(where.known(where.cell.whole().state or where.blank()))
    return sorted(key for key in where.load_state(None).rows if not key.startswith("target/"))


def held_in(store: InMemoryStore) -> LearnedState:
    """Return what a store holds, as a learner reads it that comes new to it."""
    learner = BayesianWeightLearner()
    LearnerStorage(learner, store).attach(restore=True)
    state: LearnedState = learner.cell.whole().state
    return state


# --- the first meeting ----------------------------------------------------------------------------------------------


def test_a_look_at_an_empty_store_makes_it_nobodys_home_but_a_training_does() -> None:
    learner, store = BayesianWeightLearner(), InMemoryStore()
    tie = LearnerStorage(learner, store)
    tie.attach()
    assert learner.cell.home is None
    assert not tie.is_kept
    tie.attach(claim=True)
    home = learner.cell.home
    assert home is not None
    assert (home.store_id, home.location) == (store.store_id, store.location)
    assert tie.is_kept
    assert store.load_state().token == ""  # nothing was stored yet


@pytest.mark.parametrize("restore", [None, True, False])
def test_a_learner_that_knows_nothing_takes_what_the_store_holds(restore: bool | None) -> None:
    learner, store = BayesianWeightLearner(), holding("old")
    learner.add_workers(["new"])
    LearnerStorage(learner, store).attach(restore)
    assert learner.cell.whole().state == learner.with_workers(held_in(store), ["new"])
    assert learner.cell.home is not None
    assert learner.cell.home.token == store.load_state().token


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
    assert digests_in(learner) == digests_in(store) == ["new", "own"]


def test_workers_at_the_learners_prior_are_nothing_that_a_store_knows() -> None:
    learner, store = knowing("own", prior_weight=2.0), InMemoryStore()
    put(store, learner.started({"a": 2.0, "b": 2.0}))
    LearnerStorage(learner, store).attach(claim=True)
    assert digests_in(learner) == ["own"]
    put(store, learner.started({"a": 1.0}))
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
    assert digests_in(learner) == digests_in(store) == ["new", "old"]


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
    assert digests_in(learner) == digests_in(store) == ["new", "own"]


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
    assert digests_in(learner) == digests_in(store) == ["ours", "theirs"]
    assert held_in(store).priors.keys() == {"a", "b", "new"}


def test_what_the_host_observes_itself_stays_and_is_stored_with_the_next_training() -> None:
    learner, store, tie = at_home()
    learn(tie, "trained")
    learner.observe([seen("observed")])
    tie.attach()
    assert digests_in(learner) == ["observed", "trained"]
    assert digests_in(store) == ["trained"]
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["new", "observed", "trained"]


def test_what_the_host_observed_is_no_conflict_where_the_store_has_moved_on() -> None:
    learner, store, tie = at_home()
    learner.observe([seen("observed")])
    trained_elsewhere(store, "theirs")
    tie.attach()
    assert digests_in(learner) == ["observed", "theirs"]
    assert digests_in(store) == ["theirs"]
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["new", "observed", "theirs"]
    assert learner.cell.unsaved == ()
    everything = BayesianWeightLearner(0.5)
    for digest in ("theirs", "observed", "new"):
        everything.observe([seen(digest)])
    assert learner.cell.whole() == everything.cell.snapshot


def test_an_example_that_both_have_seen_is_absorbed_by_both() -> None:
    learner, store, tie = at_home()
    learner.observe([seen("x")])
    trained_elsewhere(store, "x")
    learn(tie, "x")
    assert held_in(store).rows["x"].outcomes["a"].remaining == 0.125


@pytest.mark.parametrize(("restore", "expected"), [(True, ["theirs"]), (False, [])])
def test_a_reset_by_the_host_is_committed_with_the_next_change_and_a_decision_can_be_taken_against_it(
    restore: bool, expected: list[str]
) -> None:
    learner, store, tie = at_home()
    learn(tie, "ours")
    learner.reset()
    assert (digests_in(learner), digests_in(store)) == ([], ["ours"])
    put(store, knowing("theirs").state)
    tie.attach(restore)
    assert digests_in(learner) == expected
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["new", *expected]


def test_what_replaces_a_stores_state_is_refused_where_that_has_changed_meanwhile() -> None:
    learner, store = knowing("own"), holding("old")
    tie = LearnerStorage(learner, store)
    tie.attach(restore=False)
    trained_elsewhere(store, "theirs")
    with pytest.raises(LearnerConflictError):
        learn(tie, "new")
    assert (digests_in(learner), digests_in(store)) == (["own"], ["old", "theirs"])
    tie.attach(restore=False)
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["new", "own"]


def test_the_stores_state_can_be_taken_back_after_a_change_that_was_not_wanted() -> None:
    learner, _store, tie = at_home()
    learn(tie, "trained")
    learner.observe([seen("a mistake")])
    tie.attach(restore=True)
    assert digests_in(learner) == ["trained"]


@pytest.mark.parametrize("restore", [True, False])
def test_a_decision_that_is_not_needed_does_no_harm(restore: bool) -> None:
    learner, store, tie = at_home()
    learn(tie, "ours")
    trained_elsewhere(store, "theirs")
    tie.attach(restore)
    assert digests_in(learner) == ["ours", "theirs"]


# --- what was fitted ------------------------------------------------------------------------------------------------


def fit(tie: LearnerStorage, *digests: str, **labels: str) -> FittedBlend:
    """Fit a blend on examples, in these groups, as a training does; return it as it is followed."""
    blends = BlendFits(FittedBlend({"a": 1.0}, "greedy", 0.0, digests), "style", labels)
    changing(tie, lambda state: tie.learner.with_blends(state, blends), digests)
    fitted: FittedBlend = tie.learner.state.fitted
    return fitted


def test_a_fit_is_stored_and_taken_by_whoever_looks_again() -> None:
    store = InMemoryStore()
    ours, theirs = (kept(BayesianWeightLearner(0.5), store) for _ in range(2))
    learn(ours, "old")
    fitted = fit(ours, "old", old="warm")
    assert fitted == FittedBlend({"a": 1.0}, "greedy", 0.5, ("old",))
    for look in (theirs.refresh, theirs.attach):
        look()
        state = theirs.learner.cell.whole().state
        assert state == held_in(store)
        assert (state.fitted, state.rows["old"].group) == (fitted, "warm")
    learn(theirs, "new")
    state = held_in(store)
    assert (sorted(state.rows), state.fitted) == (["new", "old"], fitted)
    assert state.groups["warm"].num_examples == 1


@pytest.mark.parametrize(
    "state",
    [
        LearnedState(fitted=FittedBlend({"a": 1.0}, "greedy", 0.5)),
        LearnedState({"a": 1.0}, {"a": Totals(fixed(1.0))}),
    ],
    ids=["fit", "imported sums"],
)
def test_a_learner_that_knows_nothing_but_a_fit_or_sums_needs_a_decision(state: LearnedState) -> None:
    learner, store = BayesianWeightLearner(cell=LearnerCell(state)), holding("old")
    with pytest.raises(LearnerConflictError):
        LearnerStorage(learner, store).attach()
    LearnerStorage(learner, store).refresh()
    assert learner.cell.state is state


def test_a_fit_that_the_host_has_put_into_its_learner_is_stored_with_the_next_training() -> None:
    learner, store, tie = at_home()
    learn(tie, "old")
    fitted = FittedBlend({"b": 1.0}, "by hand", 1.0)
    learner.cell.update(lambda before: attrs.evolve(before, state=attrs.evolve(before.state, fitted=fitted)))
    trained_elsewhere(store, "theirs")
    tie.refresh()
    assert learner.state.fitted == fitted
    learn(tie, "new")
    assert held_in(store).fitted == fitted
    assert digests_in(store) == ["new", "old", "theirs"]


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
    assert digests_in(learner) == digests_in(elsewhere) == ["new", "own"]
    assert digests_in(home) == ["own"]
    at_home.attach(restore=True)
    assert digests_in(learner) == ["own"]
    assert at_home.is_kept


@pytest.mark.parametrize("look", [LearnerStorage.attach, LearnerStorage.refresh])
def test_a_store_that_was_closed_and_opened_anew_serves_the_same_learner(
    tmp_path: Path, look: Callable[[LearnerStorage], None]
) -> None:
    learner, path = BayesianWeightLearner(0.5), tmp_path / "training.db"
    with contextlib.closing(TrainingDataManager(path)) as store:
        learn(kept(learner, store), "x")
    with contextlib.closing(TrainingDataManager(path)) as store:
        tie = LearnerStorage(learner, store)
        look(tie)
        learner.observe([seen("y")])
        assert digests_in(learner.fork()) == ["x", "y"]
        learn(tie, "z")
        assert digests_in(learner) == ["x", "y", "z"]


def test_who_leaves_a_closed_store_for_what_another_holds_needs_nothing_of_it(tmp_path: Path) -> None:
    learner = BayesianWeightLearner(0.5)
    with contextlib.closing(TrainingDataManager(tmp_path / "training.db")) as store:
        learn(kept(learner, store), "x")
    tie = LearnerStorage(learner, holding("old"))
    with pytest.raises(StorageClosedError):  # the rows of examples are there
        tie.attach(restore=False)
    tie.attach(restore=True)
    assert digests_in(learner) == ["old"]


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
    assert digests_in(store) == ["theirs", "trained"]
    assert not trial.is_kept


def test_a_pickled_learner_is_kept_nowhere() -> None:
    learner, store = BayesianWeightLearner(0.5), InMemoryStore()
    learn(kept(learner, store), "trained")
    copy = pickle.loads(pickle.dumps(learner))
    tie = LearnerStorage(copy, store)
    assert not tie.is_kept
    tie.attach()  # both know the same
    assert tie.is_kept
    learn(tie, "new")
    assert digests_in(copy) == digests_in(store) == ["new", "trained"]


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
    assert digests_in(learner) == ["more", "theirs"]
    learn(tie, "ours")
    before = learner.cell.snapshot
    tie.refresh()
    assert learner.cell.snapshot is before


def test_a_look_notices_that_another_process_has_forgotten_everything() -> None:
    learner, store, tie = at_home()
    learn(tie, "ours")
    put(store, LearnedState())
    tie.refresh()
    assert digests_in(learner) == []


def test_a_look_leaves_alone_what_was_learned_elsewhere() -> None:
    learner = knowing("own")
    before = learner.cell.snapshot
    LearnerStorage(learner, holding("theirs")).refresh()
    assert learner.cell.snapshot is before
    assert learner.cell.home is None


def test_a_look_adds_what_was_observed_here_to_what_others_have_stored() -> None:
    learner, store = BayesianWeightLearner(0.5), holding("theirs")
    tie = kept(learner, store)
    learner.observe([seen("own")])
    trained_elsewhere(store, "more")
    tie.refresh()
    assert digests_in(learner) == ["more", "own", "theirs"]
    assert learner.state.num_examples == 3


def test_a_look_at_a_store_that_is_not_the_learners_home_takes_nothing() -> None:
    learner = BayesianWeightLearner()
    kept(learner, InMemoryStore())
    LearnerStorage(learner, holding("old")).refresh()
    assert digests_in(learner) == []


def test_a_look_knows_the_learners_own_prior() -> None:
    learner, store = BayesianWeightLearner(prior_weight=2.0), InMemoryStore()
    learner.add_workers(["a"])
    put(store, learner.started({"b": 2.0}))
    tie = LearnerStorage(learner, store)
    tie.refresh()
    assert learner.cell.home is None
    trained_elsewhere(store, "theirs")
    tie.refresh()
    assert digests_in(learner) == ["theirs"]


# --- the moment of the commit ---------------------------------------------------------------------------------------


def committed(tie: LearnerStorage, digest: str, meanwhile: Callable[[], None] = lambda: None) -> TrainingSession:
    """Commit a session that learns from one example; `meanwhile` is called before the store is asked."""
    session = TrainingSession("session", datetime.now(UTC), 1, 0.5, {})
    tie.store.begin_session(session)
    meanwhile()

    def change(before: Snapshot, _held: object) -> Snapshot:
        state = tie.learner.blank() if before.state is None else before.state
        return attrs.evolve(before, state=tie.learner.absorb(state, [seen(digest)]))

    def finish(after: Snapshot) -> SessionCommit:
        weights = tie.learner.trial(after).get_all_weights()
        return SessionCommit(attrs.evolve(session, status="completed", final_weights=weights))

    return tie.commit_session(session.session_id, finish, change, lambda _held: [digest])


def test_a_session_is_applied_to_what_the_store_holds_when_it_is_committed() -> None:
    learner, store, tie = at_home()
    learner.add_workers(["new"])
    learner.observe([seen("observed")])
    session = committed(tie, "ours", lambda: trained_elsewhere(store, "theirs"))
    assert digests_in(learner) == digests_in(store) == ["observed", "ours", "theirs"]
    assert held_in(store).priors.keys() == {"a", "b", "new"}
    assert store.get_session(session.session_id).final_weights == learner.get_all_weights()
    tie.attach()  # both agree: nothing is left to decide
    assert learner.cell.home is not None
    assert learner.cell.home.token == store.load_state().token


def test_a_session_of_a_learner_that_is_kept_nowhere_changes_the_learner_alone() -> None:
    store = holding("theirs")
    learner = knowing("own").fork()
    session = committed(LearnerStorage(learner, store), "tried")
    assert (digests_in(learner), digests_in(store)) == (["own", "tried"], ["theirs"])
    assert session.final_weights == learner.get_all_weights()


def test_workers_made_known_here_are_no_change_that_somebody_must_decide_on() -> None:
    learner, store = BayesianWeightLearner(0.5, prior_weight=2.0), InMemoryStore()
    tie = kept(learner, store)
    learn(tie, "ours")
    learner.add_workers(["z", "new"])
    trained_elsewhere(store, "theirs")
    tie.attach()
    assert digests_in(learner) == ["ours", "theirs"]
    assert learner.get_statistics("new")["prior_weight"] == 2.0


@attrs.frozen(eq=False)
class Watched(InMemoryStore):
    """Notes what changes in learned state."""

    deltas: list[StateDelta | None] = attrs.field(factory=list)

    def update_state(self, change: StateChange, /) -> StateDocuments:
        def watched(held: HeldState) -> StateDelta | None:
            self.deltas.append(change(held))
            return self.deltas[-1]

        return super().update_state(watched)


def test_only_what_changes_is_written() -> None:
    learner, store = BayesianWeightLearner(0.5), Watched()
    trained_elsewhere(store, "x", "y")
    learn(kept(learner, store), "x")
    delta = store.deltas[-1]
    assert delta is not None
    assert (delta.head.keys(), delta.rows.keys(), delta.drops_rows) == ({"state"}, {"x", "target/x"}, False)
    assert digests_in(learner) == ["x", "y"]


# --- documents ------------------------------------------------------------------------------------------------------


def rewritten(store: InMemoryStore, head: Mapping[str, str]) -> None:
    store.update_state(lambda _held: StateDelta(head))


def test_what_another_kind_of_learner_has_stored_is_not_read() -> None:
    store = holding("old")
    rewritten(store, {"learner": json.dumps("another-1")})
    learner = BayesianWeightLearner()
    tie = LearnerStorage(learner, store)
    for ask in (tie.attach, tie.refresh):
        with pytest.raises(LearnerMismatchError):
            ask()
    tie.attach(restore=False)  # though the learner is new: it cannot take what it cannot read
    learn(tie, "new")
    assert digests_in(learner) == digests_in(store) == ["new"]


@pytest.mark.parametrize("head", [{"state": ""}, {"state": "{}"}, {"state": "[]"}, {"learner": "nothing"}])
def test_documents_that_cannot_be_read_are_named_with_their_store(head: dict[str, str]) -> None:
    store = holding("old")
    rewritten(store, head)
    with pytest.raises(StorageCorruptError) as caught:
        LearnerStorage(BayesianWeightLearner(), store).attach()
    assert caught.value.location == store.location


def test_documents_of_fitted_workers_are_kept_beside_the_state() -> None:
    _learner, store, tie = at_home()
    tie.change(lambda before, _held: attrs.evolve(before, fits={"look": "a document"}))
    again = BayesianWeightLearner()
    LearnerStorage(again, store).attach()
    assert again.cell.snapshot.fits == {"look": "a document"}
    tie.change(lambda before, _held: attrs.evolve(before, fits={}))
    assert "fit/look" not in store.load_state().head
