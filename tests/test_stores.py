import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tsm_training import testing
from tsm_training.data import (
    ROLES,
    Evaluation,
    EvaluationKey,
    ExampleEdit,
    InMemoryStore,
    Learning,
    MetricRow,
    Preview,
    SessionCommit,
    StateChange,
    TrainingDataManager,
    TrainingExample,
    TrainingSession,
    TrainingStore,
)
from tsm_training.data.ownership import ABANDONED
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    SessionNotFoundError,
    StorageClosedError,
    StorageError,
    TsmTrainingError,
)
from tsm_training.evidence import LearnedState, WorkerBase
from tsm_training.testing import (
    MOMENT,
    DurableTrainingStoreContract,
    TrainingStoreContract,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_files,
    make_learned_state,
    make_metric_row,
    make_outcome,
    make_session,
)

# --- the contract ---------------------------------------------------------------------------------------------------


class TestInMemoryStore(TrainingStoreContract):
    def make_store(self, folder: Path) -> InMemoryStore:
        return InMemoryStore()


class TestDatabaseFile(DurableTrainingStoreContract):
    def make_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(folder / "training.db")

    def reopen(self, store: TrainingStore) -> TrainingDataManager:
        return TrainingDataManager(store.location)


class TestDatabaseInMemory(TrainingStoreContract):
    def make_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(":memory:")


def test_a_contract_without_a_store_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="make_store"):
        TrainingStoreContract()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="reopen"):
        DurableTrainingStoreContract()  # type: ignore[abstract]


def test_the_package_itself_never_imports_pytest() -> None:
    script = (
        "import sys, tsm_training; raise SystemExit('pytest' in sys.modules or 'tsm_training.testing' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_everything_that_the_contract_module_offers_is_there() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)


def test_a_closed_store_in_memory_lets_go_of_its_contents() -> None:
    store = InMemoryStore()
    store.add_examples([make_example()])
    store.save_evaluations([make_evaluation()], [Preview("digest", "good", b"png")])
    store.close()
    assert store._contents.examples == {}
    assert store._contents.previews == {}


# --- records as documents --------------------------------------------------------------------------------------------


def test_an_example_describes_itself_as_the_guide_does() -> None:
    example = make_example("a", metadata={"tag": 1}, worker_results={"w": make_outcome()})
    summary = {
        "example_id": "a",
        "created_at": "2024-02-29T12:30:15.123456+00:00",
        "metadata": {"tag": 1},
        "has_results": True,
    }
    assert example.to_reference() == {"example_id": "a"}
    assert example.to_summary() == summary
    assert example.to_dict() == {
        **summary,
        "source_path": "/pictures/a/source.png",
        "target_path": "/pictures/a/target.png",
        "ground_truth_path": "/pictures/a/truth.png",
        "worker_results": {"w": make_outcome()},
        "validation_scores": None,
    }
    assert make_example("b").to_dict()["worker_results"] is None
    assert not make_example("b").to_summary()["has_results"]


def test_an_evaluation_becomes_a_workers_outcome() -> None:
    assert make_evaluation(accuracy=0.75, confidence=1.0).to_outcome() == make_outcome(0.75)
    failure = make_evaluation(
        accuracy=None, confidence=1.0, failure_kind="raised", failure_type="ValueError", failure_message="no"
    )
    assert failure.to_outcome() == make_outcome(None)


def test_a_session_describes_itself_as_the_guide_does() -> None:
    session = make_session("s", metrics_history=[make_epoch_metrics()], num_examples=2)
    summary = {
        "session_id": "s",
        "num_examples": 2,
        "epochs": 3,
        "initial_weights": {"bad": 1.0, "good": 1.0},
        "final_weights": {},
        "metrics_history": [make_epoch_metrics()],
    }
    assert session.to_summary() == summary
    assert json.loads(json.dumps(session.to_dict())) == {
        **summary,
        "start_time": MOMENT.isoformat(),
        "end_time": None,
        "learning_rate": 0.15,
        "status": "running",
        "seed": None,
        "validation_split": None,
        "training_ids": [],
        "validation_ids": [],
        "skipped": {},
        "error": None,
        "is_trial": False,
        "validation": None,
    }
    ended = attrs.evolve(session, end_time=MOMENT, validation={"num_examples": 1}).to_dict()
    assert (ended["end_time"], ended["validation"]) == (MOMENT.isoformat(), {"num_examples": 1})


def test_the_digest_of_an_example_depends_on_each_of_its_files() -> None:
    files, other = make_files("a"), make_files("b")
    variants = [files, *(attrs.evolve(files, **{role: getattr(other, role)}) for role in ROLES)]
    assert len({each.digest for each in variants}) == 4
    assert files.digest == make_files("a").digest
    assert len(files.digest) == 64
    moved = attrs.evolve(files, source=files.target, target=files.source)
    assert moved.digest != files.digest


# --- the contract catches stores that are wrong ---------------------------------------------------------------------


class DropsTheLast(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples[:-1] if len(examples) > 1 else examples)


class GivesLiveRecords(InMemoryStore):
    def get_example(self, example_id: str, /) -> TrainingExample:
        return self._stored_example(example_id)


class KeepsLiveRecords(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples)
        self._contents.examples.update({example.example_id: example for example in examples})


class SharesSessions(InMemoryStore):
    def get_session(self, session_id: str, /) -> TrainingSession:
        return self._open().sessions.get(session_id) or super().get_session(session_id)


class OrdersByTime(InMemoryStore):
    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        examples = sorted(super().iterate_examples(), key=lambda example: example.created_at)
        yield from examples[-newest:] if newest else examples


class OrdersById(InMemoryStore):
    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        examples = sorted(super().iterate_examples(), key=lambda example: example.example_id)
        yield from examples[-newest:] if newest else examples


class KeepsTheOldest(InMemoryStore):
    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        yield from list(super().iterate_examples())[:newest]


class OverwritesDuplicates(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        for example in examples:
            self._open().examples.pop(example.example_id, None)
            super().add_examples([example])


class AddsOneByOne(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        self._open()
        for example in examples:
            super().add_examples([example])


class UpdatesOneByOne(InMemoryStore):
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        self._open()
        for example_id, edit in edits.items():
            super().edit_examples({example_id: edit}, skip_missing=skip_missing)
        return None if change is None else self.update_learning(change)


class MovesUpdatedToTheEnd(InMemoryStore):
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        learning = super().edit_examples(edits, change, skip_missing=skip_missing)
        for example_id in edits:
            self._contents.examples[example_id] = self._contents.examples.pop(example_id)
        return learning


class NeverSkips(InMemoryStore):
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        return super().edit_examples(edits, change)


class RemovesBeforeTheChange(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        super().remove_example(example_id)
        return None if change is None else self.update_learning(change)


class RemovesEvaluationsToo(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        self._open().evaluations.clear()
        return super().remove_example(example_id, change)


class ForgetsEmptyResults(InMemoryStore):
    def get_example(self, example_id: str, /) -> TrainingExample:
        example = super().get_example(example_id)
        return attrs.evolve(example, worker_results=example.worker_results or None)


class RoundsFloats(InMemoryStore):
    def update_learning(self, change: StateChange, /) -> Learning:
        def rounded(held: LearnedState) -> LearnedState:
            state = change(held)
            bases = {w: attrs.evolve(base, evidence=float(f"{base.evidence:.15g}")) for w, base in state.bases.items()}
            return attrs.evolve(state, bases=bases)

        return super().update_learning(rounded)


class LosesUpdates(InMemoryStore):
    def update_learning(self, change: StateChange, /) -> Learning:
        held = self.load_learning()
        time.sleep(0.001)
        self._contents.learning = Learning(held.version + 1, change(held.state))
        return self._contents.learning


class KeepsItsVersion(InMemoryStore):
    def load_learning(self) -> Learning:
        return attrs.evolve(super().load_learning(), version=0)


class FinishesTooEarly(InMemoryStore):
    """Asks for the end of the session with what was learned before, not with what is held."""

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        commit = finish(LearnedState())
        return super().commit_session(session_id, lambda _held: commit)


class CommitsInSteps(InMemoryStore):
    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        ended = attrs.evolve(self.get_session(session_id), status="completed")
        super().commit_session(session_id, lambda _held: SessionCommit(ended))
        return super().commit_session(session_id, finish)


class ReplacesSessions(InMemoryStore):
    def begin_session(self, session: TrainingSession, /) -> None:
        self._open().sessions.pop(session.session_id, None)
        super().begin_session(session)


class ReversesMetrics(InMemoryStore):
    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        return reversed(list(super().iterate_metrics(session_id)))


class KeepsTheFirstEvaluation(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = ()) -> None:
        held = self._open().evaluations
        super().save_evaluations([e for e in evaluations if e.key not in held], previews)


class HoardsPreviews(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = ()) -> None:
        held = dict(self._open().previews)
        super().save_evaluations(evaluations, previews)
        self._contents.previews.update(held)


class RaisesKeyErrors(InMemoryStore):
    def get_example(self, example_id: str, /) -> TrainingExample:
        return self._open().examples[example_id]


class StaysOpen(InMemoryStore):
    def close(self) -> None:
        pass


class CountsEverythingAsProcessed(InMemoryStore):
    def get_dataset_stats(self) -> Any:
        stats = super().get_dataset_stats()
        return {**stats, "processed_examples": stats["total_examples"], "unprocessed_examples": 0}


class HasTheSameIdAsOthers(InMemoryStore):
    @property
    def store_id(self) -> str:
        return "store"


class ForgetsWhenClosed(InMemoryStore):
    pass


BROKEN = {
    DropsTheLast: "test_many_examples_added_at_once_keep_their_order",
    GivesLiveRecords: "test_changing_what_came_back_changes_nothing_in_the_store",
    KeepsLiveRecords: "test_changing_what_was_put_in_changes_nothing_in_the_store",
    SharesSessions: "test_changing_session_records_changes_nothing_in_the_store",
    OrdersByTime: "test_order_of_addition_counts_whatever_the_times_say",
    OrdersById: "test_examples_come_back_in_order_of_addition",
    KeepsTheOldest: "test_a_limit_keeps_the_newest_in_order",
    OverwritesDuplicates: "test_an_id_that_is_stored_already_is_refused_and_nothing_changes",
    AddsOneByOne: "test_a_stored_id_in_the_middle_refuses_the_whole_batch",
    UpdatesOneByOne: "test_an_update_whose_change_fails_changes_nothing",
    NeverSkips: "test_an_edit_passes_over_missing_examples_where_asked",
    MovesUpdatedToTheEnd: "test_an_update_replaces_every_field_and_keeps_the_place",
    RemovesBeforeTheChange: "test_a_removal_whose_change_fails_changes_nothing",
    RemovesEvaluationsToo: "test_evaluations_sessions_and_metrics_outlive_an_example",
    ForgetsEmptyResults: "test_no_results_and_empty_results_are_different",
    RoundsFloats: "test_learned_state_comes_back_to_the_last_bit",
    LosesUpdates: "test_changes_of_learned_state_by_several_threads_all_count",
    KeepsItsVersion: "test_versions_grow_with_every_change",
    FinishesTooEarly: "test_a_commit_finishes_with_the_state_held_at_that_moment",
    CommitsInSteps: "test_a_commit_that_fails_to_finish_changes_nothing",
    ReplacesSessions: "test_a_session_id_that_is_stored_already_is_refused",
    ReversesMetrics: "test_metrics_come_back_equal_and_in_the_order_of_their_commit",
    KeepsTheFirstEvaluation: "test_an_evaluation_with_the_same_key_replaces_the_old_one",
    HoardsPreviews: "test_previews_beyond_the_limit_push_out_the_oldest",
    RaisesKeyErrors: "test_an_unknown_example_is_a_lookup_error",
    StaysOpen: "test_a_closed_store_refuses_to_be_read",
    CountsEverythingAsProcessed: "test_statistics_count_examples_and_sessions",
    HasTheSameIdAsOthers: "test_has_an_id_that_no_other_store_has",
    ForgetsWhenClosed: "test_examples_survive_reopening",
}


@pytest.mark.parametrize(("store_class", "test_name"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_contract_catches_a_store_that_is_wrong(
    store_class: type[InMemoryStore], test_name: str, tmp_path: Path
) -> None:
    class Contract(DurableTrainingStoreContract):
        def make_store(self, folder: Path) -> TrainingStore:
            return store_class()

        def reopen(self, store: TrainingStore) -> TrainingStore:
            return store_class()

    test = getattr(Contract(), test_name)
    more = {"tmp_path": tmp_path} if "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount] else {}
    with pytest.raises((Exception, pytest.fail.Exception)):
        test(store_class(), **more)


# --- both stores and a plain model, step by step ---------------------------------------------------------------------

EXAMPLE_IDS = st.sampled_from(["a", "b", "c", "d", "e"])
SESSION_IDS = st.sampled_from(["s", "t", "u"])
NUMBERS = st.integers(0, 3)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
FLOATS = st.floats(0, 1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(TEXTS, JSON, max_size=2)
RESULTS = st.none() | st.dictionaries(TEXTS, st.builds(make_outcome, st.none() | FLOATS), max_size=2)
EXAMPLES = st.builds(
    make_example,
    EXAMPLE_IDS,
    metadata=METADATA,
    worker_results=RESULTS,
    created_at=st.integers(-3, 3).map(lambda days: MOMENT + timedelta(days=days)),
)
STATES = st.builds(make_learned_state, st.integers(1, 5)) | st.just(LearnedState())
EVALUATIONS = st.builds(make_evaluation, EXAMPLE_IDS, st.sampled_from(["v", "w"]), accuracy=st.none() | FLOATS)


class OnPurposeError(TsmTrainingError):
    pass


def changing(state: LearnedState | None) -> StateChange:
    """Return a change that becomes `state`, with a trace of what was held; or one that fails."""

    def change(held: LearnedState) -> LearnedState:
        if state is None:
            raise OnPurposeError
        return attrs.evolve(state, bases={**state.bases, "held": WorkerBase(float(len(held.bases)))})

    return change


CHANGES = st.one_of(STATES, st.none()).map(changing)


class Model:
    """What a store does, in the plainest words: one value that is replaced whole, or not at all."""

    def __init__(self) -> None:
        self.examples: dict[str, TrainingExample] = {}
        self.evaluations: dict[EvaluationKey, Evaluation] = {}
        self.sessions: dict[str, TrainingSession] = {}
        self.metrics: dict[str, list[MetricRow]] = {}
        self.learning = Learning(0, LearnedState())

    def add_examples(self, examples: Sequence[TrainingExample]) -> None:
        ids = [*self.examples, *(example.example_id for example in examples)]
        if len(ids) != len(set(ids)):
            raise DuplicateExampleError("")
        self.examples |= {example.example_id: example for example in examples}

    def update_examples(
        self, examples: Sequence[TrainingExample], change: StateChange | None = None
    ) -> Learning | None:
        if any(example.example_id not in self.examples for example in examples):
            raise ExampleNotFoundError("")
        learning = self.update_learning(change) if change else None
        self.examples |= {example.example_id: example for example in examples}
        return learning

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        if example_id not in self.examples:
            raise ExampleNotFoundError("")
        learning = self.update_learning(change) if change else None
        del self.examples[example_id]
        return learning

    def update_learning(self, change: StateChange) -> Learning:
        self.learning = Learning(self.learning.version + 1, change(self.learning.state))
        return self.learning

    def save_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            self.evaluations.pop(evaluation.key, None)
            self.evaluations[evaluation.key] = evaluation

    def begin_session(self, session: TrainingSession) -> None:
        if session.session_id in self.sessions:
            raise StorageError("", "")
        self.sessions[session.session_id] = session
        self.metrics[session.session_id] = []

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit]
    ) -> tuple[TrainingSession, Learning]:
        if session_id not in self.sessions:
            raise SessionNotFoundError("")
        commit = finish(self.learning.state)
        if (state := commit.state) is not None:
            self.update_learning(lambda _held: state)
        self.sessions[session_id] = commit.session
        self.metrics[session_id] += commit.metrics
        return commit.session, self.learning


def outcome(action: Callable[[], object]) -> object:
    try:
        return action()
    except TsmTrainingError as error:
        return type(error)


class StoresAgree(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "training.db")
        self.database = TrainingDataManager(self.path)
        self.memory = InMemoryStore()
        self.model = Model()

    def everywhere(self, method: str, *args: object) -> None:
        expected = outcome(lambda: getattr(self.model, method)(*args))
        for store in (self.memory, self.database):
            assert outcome(lambda store=store: getattr(store, method)(*args)) == expected  # type: ignore[misc]

    @rule(examples=st.lists(EXAMPLES, max_size=3))
    def add(self, examples: list[TrainingExample]) -> None:
        self.everywhere("add_examples", examples)

    @rule(examples=st.lists(EXAMPLES, max_size=2), change=st.none() | CHANGES)
    def update(self, examples: list[TrainingExample], change: StateChange | None) -> None:
        self.everywhere("update_examples", examples, change)

    @rule(example_id=EXAMPLE_IDS, change=st.none() | CHANGES)
    def remove(self, example_id: str, change: StateChange | None) -> None:
        self.everywhere("remove_example", example_id, change)

    @rule(change=CHANGES)
    def learn(self, change: StateChange) -> None:
        self.everywhere("update_learning", change)

    @rule(evaluations=st.lists(EVALUATIONS, max_size=3))
    def evaluate(self, evaluations: list[Evaluation]) -> None:
        self.everywhere("save_evaluations", evaluations)

    @rule(session_id=SESSION_IDS)
    def begin(self, session_id: str) -> None:
        self.everywhere("begin_session", make_session(session_id))

    @rule(
        session_id=SESSION_IDS, number=NUMBERS, state=st.none() | STATES, error=st.none() | TEXTS, fails=st.booleans()
    )
    def commit(self, session_id: str, number: int, state: LearnedState | None, error: str | None, fails: bool) -> None:
        session = make_session(session_id, status="completed", num_examples=number, error=error)
        rows = [make_metric_row(session_id, f"w{n}") for n in range(number)]

        def finish(held: LearnedState) -> SessionCommit:
            if fails:
                raise OnPurposeError
            return SessionCommit(session, rows, None if state is None else changing(state)(held))

        self.everywhere("commit_session", session_id, finish)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.database = TrainingDataManager(self.path)
        for session_id, session in self.model.sessions.items():
            if session.status == "running":
                ended = attrs.evolve(session, status="interrupted", error=ABANDONED)
                self.memory.commit_session(session_id, lambda _held, ended=ended: SessionCommit(ended))  # type: ignore[misc]
                self.model.sessions[session_id] = ended

    @rule(newest=st.integers(1, 4))
    def read_the_newest(self, newest: int) -> None:
        expected = list(self.model.examples.values())[-newest:]
        assert self.memory.get_all_examples(newest) == self.database.get_all_examples(newest) == expected

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        for store in (self.memory, self.database):
            assert store.get_all_examples() == list(self.model.examples.values())
            assert store.get_all_sessions() == list(self.model.sessions.values())
            assert {s: store.get_metrics(s) for s in self.model.sessions} == self.model.metrics
            assert store.load_evaluations("abcde") == list(self.model.evaluations.values())
            assert store.load_learning() == self.model.learning
            assert store.get_dataset_stats() == self._counts()

    def _counts(self) -> Mapping[str, int]:
        processed = sum(example.worker_results is not None for example in self.model.examples.values())
        return {
            "total_examples": len(self.model.examples),
            "processed_examples": processed,
            "unprocessed_examples": len(self.model.examples) - processed,
            "total_sessions": len(self.model.sessions),
        }

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=80,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_model_knows_when_a_store_was_closed() -> None:
    store = InMemoryStore()
    store.close()
    assert outcome(store.load_learning) is StorageClosedError
