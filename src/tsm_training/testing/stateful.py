"""A machine that drives a store through random histories, beside a plain model that cannot go wrong.

The contract tests of `tsm_training.testing` look at one promise each; this finds what only a sequence of calls brings
to light. It needs Hypothesis, and nothing else in the package imports it. Say how a store is made, and let pytest or
unittest run the machine's ``TestCase``::

    from hypothesis import settings

    from tsm_training.testing.stateful import TrainingStoreMachine

    class MyStoreMachine(TrainingStoreMachine):
        def open_store(self, folder: Path) -> MyStore:
            return MyStore(folder / "data")

    TestMyStore = MyStoreMachine.TestCase
    TestMyStore.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

A store that keeps its contents inherits from `DurableTrainingStoreMachine`: then handles are also closed and opened
again, second handles take turns on the same contents, and crashes are played.
"""

# ruff: noqa: D102, S101 - these are tests: their names state the behaviour, and they assert

from __future__ import annotations

import copy
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tsm_training.data import (
    PREVIEW_BYTES,
    DatasetStatistics,
    Evaluation,
    EvaluationKey,
    ExampleEdit,
    ExampleScores,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    SessionStatus,
    StateChange,
    TrainingExample,
    TrainingSession,
    TrainingStore,
    WorkerOutcome,
)
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
    StorageClosedError,
    StorageError,
    TsmTrainingError,
)
from tsm_training.learning import LearnedState, WorkerBase
from tsm_training.testing.records import (
    MOMENT,
    make_evaluation,
    make_example,
    make_files,
    make_learned_state,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)
from tsm_training.weights import with_fits

__all__ = ["DurableTrainingStoreMachine", "TrainingStoreMachine"]

T = TypeVar("T")

_EXAMPLE_IDS: Final = st.sampled_from(["a", "b", "c", "d", "Ü 🎨"])
_FILES: Final = (make_files("p"), make_files("q"))
_DIGESTS: Final = (*(files.digest for files in _FILES), "Ü 🎨")
"""Those of contents that several examples may have, and one that is of none."""
_WORKERS: Final = ("v", "v@w", "vw")
_NAMES: Final = ("v@1", "v@2", "v@w@1", "vw@1")
_SESSION_IDS: Final = st.sampled_from(["s", "t", "Ü 🎨"])
_TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
_SHARES: Final = st.floats(0, 1)
_JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)
_METADATA: Final = st.dictionaries(_TEXTS, _JSON, max_size=2)
_RESULTS: Final = st.dictionaries(_TEXTS, st.builds(make_outcome, st.none() | _SHARES), max_size=2)
_EXAMPLES: Final = st.builds(
    make_example,
    _EXAMPLE_IDS,
    metadata=_METADATA,
    worker_results=st.none() | _RESULTS,
    created_at=st.integers(-3, 3).map(lambda days: MOMENT + timedelta(days=days)),
    files=st.none() | st.sampled_from(_FILES),
)


def _partly(state: LearnedState, *, is_fitted: bool, is_grouped: bool) -> LearnedState:
    """Return a state as it is, or without its fitted blend and the workers' fits, or without its groups."""
    if not is_fitted:
        state = attrs.evolve(state, fitted=None, fits={})
    return with_fits(state, state.fitted, state.group_by, state.groups if is_grouped else None)


_STATES: Final = st.sampled_from(
    [LearnedState()]
    + [
        _partly(make_learned_state(number), is_fitted=is_fitted, is_grouped=is_grouped)
        for number in range(1, 6)
        for is_fitted in (True, False)
        for is_grouped in (True, False)
    ]
)
_KEYS: Final = st.builds(
    EvaluationKey,
    st.sampled_from(_DIGESTS),
    st.sampled_from(_WORKERS),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["metric", "metric", "another"]),
)
_EVALUATIONS: Final = st.builds(make_evaluation, key=_KEYS, accuracy=_SHARES) | st.builds(
    make_evaluation,
    key=_KEYS,
    accuracy=st.none(),
    failure_kind=st.just("raised"),
    failure_type=_TEXTS,
    failure_message=_TEXTS,
)
_RANKS: Final = st.sampled_from([None, -1.0, 0.0, 0.5, 0.5])
_PREVIEWS: Final = st.builds(
    Preview, st.sampled_from(_DIGESTS), st.sampled_from(["truth", *_NAMES]), st.binary(max_size=20), _RANKS
)
_OBSERVATIONS: Final = st.builds(
    ObservationRecord, st.sampled_from(_DIGESTS), st.sampled_from(_NAMES), st.binary(max_size=20)
)
_WHICH: Final = st.integers(0, 3)
"""Picks one of the handles that are open."""


class _OnPurposeError(TsmTrainingError):
    """Raised by a change that is meant to fail."""


class _CrashError(TsmTrainingError):
    """Ends a transaction that was watched from outside."""


def _changing(state: LearnedState | None) -> StateChange:
    """Return a change that becomes `state`, with a trace of what was held; or one that fails."""

    def change(held: LearnedState) -> LearnedState:
        if state is None:
            raise _OnPurposeError
        return attrs.evolve(state, bases={**state.bases, "held": WorkerBase(float(1 + len(held.bases)))})

    return change


def _refitting(state: LearnedState) -> StateChange:
    """Return a change that takes fits and groups of `state`, and leaves the evidence as it is."""
    return lambda held: with_fits(held, state.fitted, state.group_by, state.groups)


def _tagging(tag: str, *, fails: bool) -> ExampleEdit:
    def edit(stored: TrainingExample) -> TrainingExample:
        if fails:
            raise _OnPurposeError
        return attrs.evolve(stored, metadata={**stored.metadata, tag: len(stored.metadata)})

    return edit


_CHANGES: Final = st.one_of(st.one_of(_STATES, st.none()).map(_changing), _STATES.map(_refitting))


@attrs.define(eq=False)
class _Model:
    """What a store does, in the plainest words; a method changes all that it should, or raises and changes nothing."""

    examples: dict[str, TrainingExample] = attrs.field(factory=dict)
    evaluations: dict[EvaluationKey, Evaluation] = attrs.field(factory=dict)
    previews: dict[tuple[str, str], Preview] = attrs.field(factory=dict)
    observations: dict[tuple[str, str], bytes] = attrs.field(factory=dict)
    sessions: dict[str, TrainingSession] = attrs.field(factory=dict)
    metrics: dict[str, list[MetricRow]] = attrs.field(factory=dict)
    state: LearnedState = attrs.field(factory=LearnedState)
    changes: int = 0
    """How often learned state was changed."""

    def add_examples(self, examples: Sequence[TrainingExample]) -> None:
        ids = [*self.examples, *(example.example_id for example in examples)]
        if len(ids) != len(set(ids)):
            raise DuplicateExampleError("")
        self.examples |= {example.example_id: example for example in examples}

    def get_example(self, example_id: str) -> TrainingExample:
        if example_id not in self.examples:
            raise ExampleNotFoundError(example_id)
        return self.examples[example_id]

    def edit_examples(
        self, edits: dict[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> LearnedState | None:
        present = {i: edit for i, edit in edits.items() if i in self.examples or not skip_missing}
        new = {example_id: edit(self.get_example(example_id)) for example_id, edit in present.items()}
        state = self._changed(change)
        self._hold(self.examples | new)
        return state

    def update_examples(
        self, examples: Sequence[TrainingExample], change: StateChange | None = None
    ) -> LearnedState | None:
        return self.edit_examples({e.example_id: lambda _stored, e=e: e for e in examples}, change)  # type: ignore[misc]

    def update_example_results(
        self,
        example_id: str,
        worker_results: dict[str, WorkerOutcome] | None = None,
        validation_scores: ExampleScores | None = None,
    ) -> None:
        stored = self.get_example(example_id)
        self.examples[example_id] = attrs.evolve(
            stored,
            worker_results=stored.worker_results if worker_results is None else worker_results,
            validation_scores=stored.validation_scores if validation_scores is None else validation_scores,
        )

    def remove_example(self, example_id: str, change: StateChange | None = None) -> LearnedState | None:
        self.get_example(example_id)
        state = self._changed(change)
        self._hold({i: example for i, example in self.examples.items() if i != example_id})
        return state

    def _hold(self, examples: dict[str, TrainingExample]) -> None:
        """Take these examples for the old ones, and let go of what belongs to contents that none of them has."""
        before, after = (
            {example.files.digest for example in held.values() if example.files is not None}
            for held in (self.examples, examples)
        )
        gone = before - after
        self.examples = examples
        self.observations = {key: content for key, content in self.observations.items() if key[0] not in gone}
        self.previews = {key: preview for key, preview in self.previews.items() if key[0] not in gone}

    def _changed(self, change: StateChange | None) -> LearnedState | None:
        return None if change is None else self.update_learning(change)

    def update_learning(self, change: StateChange) -> LearnedState:
        self.state = change(self.state)
        self.changes += 1
        return self.state

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        for digest, worker_id, _fingerprint, metric in [e.key for e in evaluations if e.key.worker_id in superseding]:
            for key in [k for k in self.evaluations if (k[0], k[1], k[3]) == (digest, worker_id, metric)]:
                del self.evaluations[key]
            for owner, name in [k for k in self.previews if k[0] == digest]:
                if "@" in name and name[: name.rindex("@")] == worker_id:
                    del self.previews[owner, name]
        for evaluation in evaluations:
            self.evaluations.pop(evaluation.key, None)
            self.evaluations[evaluation.key] = evaluation
        self.observations |= {(record.example_digest, record.name): record.content for record in observations}
        self.previews |= {(preview.example_digest, preview.name): preview for preview in previews}
        used = 0
        ranked = [preview for preview in self.previews.values() if preview.rank is not None]
        for preview in sorted(ranked, key=lambda p: (p.rank, p.example_digest, p.name)):
            if used >= PREVIEW_BYTES:
                del self.previews[preview.example_digest, preview.name]
            used += len(preview.png)

    def begin_session(self, session: TrainingSession) -> None:
        if session.session_id in self.sessions:
            raise StorageError("", "")
        self.sessions[session.session_id] = session
        self.metrics[session.session_id] = []

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit]
    ) -> tuple[TrainingSession, LearnedState]:
        if session_id not in self.sessions:
            raise SessionNotFoundError(session_id)
        commit = finish(self.state)
        if (state := commit.state) is not None:
            self.update_learning(lambda _held: state)
        self.sessions[session_id] = commit.session
        self.metrics[session_id] += commit.metrics
        return commit.session, self.state

    def get_dataset_stats(self) -> DatasetStatistics:
        processed = sum(example.worker_results is not None for example in self.examples.values())
        return {
            "total_examples": len(self.examples),
            "processed_examples": processed,
            "unprocessed_examples": len(self.examples) - processed,
            "total_sessions": len(self.sessions),
        }


def _plain(result: Any) -> Any:
    """Return a result with learned state in the place of learning: versions are not the model's business."""
    if isinstance(result, tuple):
        return tuple(map(_plain, result))
    return getattr(result, "state", result)


def _outcome(action: Callable[[], object]) -> object:
    """Return what an action gives, or the kind of error that it ends with."""
    try:
        return action()
    except TsmTrainingError as error:
        return type(error)


class TrainingStoreMachine(RuleBasedStateMachine):
    """Drives one store and a model of it alike, and compares everything after each step.

    Inherit, and implement `open_store`.
    """

    @abstractmethod
    def open_store(self, folder: Path) -> TrainingStore:
        """Return a handle on the store in a folder; a new store where the folder is empty."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self._folders = tempfile.TemporaryDirectory(prefix="tsm-machine-")
        self.folder: Path = Path(self._folders.name, "0")
        self.folder.mkdir()
        self.handles: list[TrainingStore] = [self.open_store(self.folder)]
        self.owners: dict[str, TrainingStore] = {}
        """The handle on which each session that is running was begun."""
        self.model: _Model = _Model()
        self.version: int = 0
        self.was_full: bool = False

    def teardown(self) -> None:
        if hasattr(self, "model"):
            for handle in self.handles:
                handle.close()
            self._folders.cleanup()

    def handle(self, which: int) -> TrainingStore:
        """Return one of the open handles."""
        return self.handles[which % len(self.handles)]

    def _both(self, which: int, method: str, *args: Any, **more: Any) -> object:
        """Do the same to the model and to the store, and compare what comes of it; records must not be shared."""
        changes = self.model.changes
        expected = _outcome(lambda: getattr(self.model, method)(*copy.deepcopy(args), **more))
        result = _outcome(lambda: getattr(self.handle(which), method)(*args, **more))
        assert _plain(result) == expected, f"{method} gave {result!r}, expected {expected!r}"
        self._see_version(is_new=self.model.changes != changes)
        return expected

    def _see_version(self, *, is_new: bool) -> None:
        version = self.handles[0].load_learning().version
        assert version > self.version if is_new else version == self.version
        self.version = version

    # --- changing ---

    @rule(which=_WHICH, examples=st.lists(_EXAMPLES, max_size=3))
    def add(self, which: int, examples: list[TrainingExample]) -> None:
        self._both(which, "add_examples", examples)

    @rule(which=_WHICH, examples=st.lists(_EXAMPLES, max_size=2), change=st.none() | _CHANGES)
    def update(self, which: int, examples: list[TrainingExample], change: StateChange | None) -> None:
        self._both(which, "update_examples", examples, change)

    @rule(
        which=_WHICH,
        example_ids=st.lists(_EXAMPLE_IDS, max_size=3, unique=True),
        tag=_TEXTS,
        fails=st.sampled_from([False, False, True]),
        change=st.none() | _CHANGES,
        skip_missing=st.booleans(),
    )
    def edit(
        self,
        *,
        which: int,
        example_ids: list[str],
        tag: str,
        fails: bool,
        change: StateChange | None,
        skip_missing: bool,
    ) -> None:
        last = example_ids[-1:]
        edits = {example_id: _tagging(tag, fails=fails and [example_id] == last) for example_id in example_ids}
        self._both(which, "edit_examples", edits, change, skip_missing=skip_missing)

    @rule(
        which=_WHICH,
        example_id=_EXAMPLE_IDS,
        results=st.none() | _RESULTS,
        scores=st.none() | st.builds(make_scores, _SHARES),
    )
    def note_results(
        self, which: int, example_id: str, results: dict[str, WorkerOutcome] | None, scores: ExampleScores | None
    ) -> None:
        self._both(which, "update_example_results", example_id, results, scores)

    @rule(which=_WHICH, example_id=_EXAMPLE_IDS, change=st.none() | _CHANGES)
    def remove(self, which: int, example_id: str, change: StateChange | None) -> None:
        self._both(which, "remove_example", example_id, change)

    @rule(which=_WHICH, change=_CHANGES)
    def learn(self, which: int, change: StateChange) -> None:
        self._both(which, "update_learning", change)

    @rule(
        which=_WHICH,
        evaluations=st.lists(_EVALUATIONS, max_size=3),
        previews=st.lists(_PREVIEWS, max_size=2),
        observations=st.lists(_OBSERVATIONS, max_size=2),
        superseding=st.just(()) | st.sets(st.sampled_from(_WORKERS)),
    )
    def evaluate(
        self,
        which: int,
        evaluations: list[Evaluation],
        previews: list[Preview],
        observations: list[ObservationRecord],
        superseding: Collection[str],
    ) -> None:
        self._both(which, "save_evaluations", evaluations, previews, observations, superseding=superseding)

    @precondition(lambda self: not self.was_full)
    @rule(which=_WHICH, rank=_RANKS, digest=st.sampled_from(_DIGESTS))
    def fill_up(self, which: int, rank: float | None, digest: str) -> None:
        """Keep a preview that leaves no room for those behind it, and make room again: once, since it takes a while."""
        self.was_full = True
        for size in (PREVIEW_BYTES, 0):
            self._both(which, "save_evaluations", [], [Preview(digest, "full@1", bytes(size), rank)])
            stored = {d: self.handle(which).load_previews(d) for d in _DIGESTS}
            sizes = {(d, name): len(png) for d, previews in stored.items() for name, png in previews.items()}
            assert sizes == {key: len(preview.png) for key, preview in self.model.previews.items()}

    @rule(which=_WHICH, session_id=_SESSION_IDS)
    def begin_session(self, which: int, session_id: str) -> None:
        if self._both(which, "begin_session", make_session(session_id)) is None:
            self.owners[session_id] = self.handle(which)
            self.notice_abandoned_sessions(self.handle(which))

    def notice_abandoned_sessions(self, handle: TrainingStore) -> None:
        """Called when a session has begun: a durable store may have ended those whose owner is gone."""

    @rule(
        which=_WHICH,
        session_id=_SESSION_IDS,
        number=st.integers(0, 3),
        state=st.none() | _STATES,
        status=st.sampled_from(["completed", "failed", "interrupted"]),
        error=st.none() | _TEXTS,
        fails=st.sampled_from([False, False, True]),
    )
    def commit_session(
        self,
        *,
        which: int,
        session_id: str,
        number: int,
        state: LearnedState | None,
        status: SessionStatus,
        error: str | None,
        fails: bool,
    ) -> None:
        session = make_session(session_id, status=status, num_examples=number, error=error, end_time=MOMENT)
        rows = [make_metric_row(session_id, f"w{n}") for n in range(number)]

        def finish(held: LearnedState) -> SessionCommit:
            if fails:
                raise _OnPurposeError
            return SessionCommit(session, rows, None if state is None else _changing(state)(held))

        if isinstance(self._both(which, "commit_session", session_id, finish), tuple):
            self.owners.pop(session_id, None)

    # --- reading ---

    @rule(which=_WHICH, newest=st.integers(1, 6))
    def read_the_newest(self, which: int, newest: int) -> None:
        assert self.handle(which).get_all_examples(newest) == list(self.model.examples.values())[-newest:]

    @rule(which=_WHICH, other=_WHICH, example_id=_EXAMPLE_IDS)
    def change_what_is_being_read(self, which: int, other: int, example_id: str) -> None:
        reader = self.handle(which).iterate_examples()
        seen = [example.example_id for example in [next(reader, None)] if example is not None]
        staying = [i for i in self.model.examples if i != example_id]
        self._both(other, "remove_example", example_id)
        self._both(other, "add_examples", [make_example(example_id)])
        seen += [example.example_id for example in reader]
        assert [i for i in seen if i in staying] == staying
        assert seen.count(example_id) <= 2  # noqa: PLR2004 - the removed one, and the new one of the same name

    @rule(which=_WHICH, limit=st.sampled_from([0, -1, True, 1.5, "1", "1; DROP TABLE training_examples"]))
    def read_with_a_bad_limit(self, which: int, limit: Any) -> None:
        assert _outcome(lambda: self.handle(which).get_all_examples(limit)) is InvalidArgumentError

    @rule(which=_WHICH)
    def ask_for_what_is_not_there(self, which: int) -> None:
        store = self.handle(which)
        assert _outcome(lambda: store.get_example("nobody")) is ExampleNotFoundError
        for ask in (store.get_session, store.get_metrics):
            assert _outcome(lambda ask=ask: ask("nobody")) is SessionNotFoundError  # type: ignore[misc]
        assert store.load_evaluations(["nothing"]) == []
        assert store.load_previews("nothing") == {}
        assert store.load_observations("v@1", ["nothing"]) == {}
        assert store.find_observations("nothing", _DIGESTS) == set()

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "model"):
            for handle in self.handles:
                self.compare(handle, self.model)
                assert handle.load_learning().version == self.version

    def compare(self, store: TrainingStore, model: _Model) -> None:
        """Compare everything that a store holds with a model."""
        assert store.get_all_examples() == list(model.examples.values())
        assert store.get_all_sessions() == list(model.sessions.values())
        assert {s: store.get_metrics(s) for s in model.sessions} == model.metrics
        assert store.load_evaluations(_DIGESTS) == list(model.evaluations.values())
        for digest in _DIGESTS:
            expected = {name: preview.png for (owner, name), preview in model.previews.items() if owner == digest}
            assert store.load_previews(digest) == expected
        for name in _NAMES:
            contents = {digest: content for (digest, noted), content in model.observations.items() if noted == name}
            assert store.load_observations(name, _DIGESTS) == contents
            assert store.find_observations(name, _DIGESTS) == set(contents)
        assert store.load_learning().state == model.state
        assert store.get_dataset_stats() == model.get_dataset_stats()


class DurableTrainingStoreMachine(TrainingStoreMachine):
    """Besides, opens further handles, closes them, and plays crashes.

    Inherit, and implement `open_store`; a store that is not made of files below its folder also overrides `crash`.
    """

    max_handles: int = 3
    """How many handles are open at once."""

    def crash(self, folder: Path, another: Path) -> None:
        """Make in `another` folder what would be found if the power failed now; `another` does not exist yet.

        It is called while a transaction is under way. A store that cannot do this returns without making the folder.
        """
        shutil.copytree(folder, another)

    def _open_another(self) -> TrainingStore:
        """Open one more handle, which notices sessions whose handle is gone."""
        handle = self.open_store(self.folder)
        self.expect_abandoned_sessions_to_be_ended(handle)
        return handle

    def expect_abandoned_sessions_to_be_ended(self, handle: TrainingStore) -> None:
        """Call this when somebody has opened the store anew: sessions whose owner is gone are interrupted then."""
        self.notice_abandoned_sessions(handle)
        assert all(owner in self.handles for owner in self.owners.values()), "an abandoned session goes on running"

    def notice_abandoned_sessions(self, handle: TrainingStore) -> None:
        """Take over in the model which sessions without an owner the store has ended."""
        for session_id in [i for i, owner in self.owners.items() if owner not in self.handles]:
            stored = handle.get_session(session_id)
            if stored.status == "interrupted":
                del self.owners[session_id]
                assert stored.error
                ended = attrs.evolve(self.model.sessions[session_id], status="interrupted", error=stored.error)
                self.model.sessions[session_id] = ended

    @precondition(lambda self: len(self.handles) < self.max_handles)
    @rule()
    def open_a_second_handle(self) -> None:
        self.handles.append(self._open_another())

    @precondition(lambda self: len(self.handles) > 1)
    @rule(which=_WHICH)
    def close_one_of_several_handles(self, which: int) -> None:
        self._close(self.handle(which))

    def _close(self, handle: TrainingStore) -> None:
        handle.close()
        handle.close()
        self.handles.remove(handle)
        assert _outcome(handle.load_learning) is StorageClosedError
        assert _outcome(lambda: handle.add_examples([make_example("late")])) is StorageClosedError

    @rule()
    def close_and_reopen(self) -> None:
        store_id = self.handles[0].store_id
        for handle in list(self.handles):
            self._close(handle)
        self.handles.append(self._open_another())
        assert self.handles[0].store_id == store_id

    @rule(which=_WHICH, examples=st.lists(_EXAMPLES, max_size=3), example_id=_EXAMPLE_IDS)
    def crash_and_reopen(self, which: int, examples: list[TrainingExample], example_id: str) -> None:
        another = Path(self._folders.name, str(int(self.folder.name) + 1))

        def crash(_held: LearnedState) -> LearnedState:
            self.crash(self.folder, another)
            raise _CrashError

        store = self.handle(which)
        edits: dict[str, ExampleEdit] = {i: _tagging("crashed", fails=False) for i in self.model.examples}
        if example_id in self.model.examples:
            result = _outcome(lambda: store.remove_example(example_id, crash))
        else:
            result = _outcome(lambda: store.edit_examples(edits, crash))
        assert result is _CrashError
        if not another.exists():
            return
        for handle in list(self.handles):  # they go on as if nothing had been: only the copy is looked at from now on
            self.compare(handle, self.model)
            self._close(handle)
        self.folder = another
        self.handles.append(self._open_another())
        self._both(0, "add_examples", examples)
