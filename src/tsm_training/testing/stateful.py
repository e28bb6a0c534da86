"""A machine that drives a store through random histories, beside an `InMemoryStore` that is taken for right.

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

import functools
import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tsm_training.data import (
    PREVIEW_BYTES,
    EvaluationKey,
    ExampleEdit,
    HeldState,
    ObservationRecord,
    Preview,
    SessionCommit,
    SessionStatus,
    StateChange,
    StateDelta,
    TrainingExample,
    TrainingStore,
)
from tsm_training.errors import StorageClosedError, TsmTrainingError
from tsm_training.storage import InMemoryStore
from tsm_training.testing.records import (
    MOMENT,
    make_evaluation,
    make_example,
    make_files,
    make_metric_row,
    make_outcome,
    make_session,
)
from tsm_training.testing.twins import OnPurposeError, Refused, Twin, noting, outcome

__all__ = ["DurableTrainingStoreMachine", "TrainingStoreMachine"]

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
_RESULTS: Final = st.dictionaries(_TEXTS, st.builds(make_outcome, st.none() | _SHARES), max_size=2)
_EXAMPLES: Final = st.builds(
    make_example,
    _EXAMPLE_IDS,
    metadata=st.dictionaries(_TEXTS, _JSON, max_size=2),
    worker_results=st.none() | _RESULTS,
    created_at=st.integers(-3, 3).map(lambda days: MOMENT + timedelta(days=days)),
    files=st.none() | st.sampled_from(_FILES),
)
_KEYS: Final = st.builds(
    EvaluationKey,
    st.sampled_from(_DIGESTS),
    st.sampled_from(_WORKERS),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["metric", "metric", "another"]),
    st.just("reader"),
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
_DOCUMENTS: Final = st.dictionaries(
    st.sampled_from(["k", "l", *_DIGESTS]), st.none() | _JSON.map(json.dumps), max_size=2
)
_DELTAS: Final = st.builds(StateDelta, _DOCUMENTS, _DOCUMENTS, st.sampled_from([False, False, True]))
_WHICH: Final = st.integers(0, 3)
"""Picks one of the handles that are open."""


class _CrashError(TsmTrainingError):
    """Ends a transaction that was watched from outside."""


_CHANGES: Final = st.one_of(_DELTAS, _DELTAS, st.none()).map(functools.partial(noting, digests=_DIGESTS))


def _tagging(tag: str, *, fails: bool = False) -> ExampleEdit:
    def edit(stored: TrainingExample) -> TrainingExample:
        if fails:
            raise OnPurposeError
        return attrs.evolve(stored, metadata={**stored.metadata, tag: len(stored.metadata)})

    return edit


class TrainingStoreMachine(RuleBasedStateMachine):
    """Drives one store and an `InMemoryStore` alike, and compares everything after each step.

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
        self.owners: dict[str, TrainingStore | None] = {}
        """The handle on which each session that is running was begun; None where its process lives, but not for it."""
        self.both: Twin = Twin(self.handles[0], _DIGESTS, _NAMES)
        self.model: InMemoryStore = self.both.model
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
        """Do the same to the model and to the store, and compare what comes of it."""
        return self.both.call(self.handle(which), method, *args, **more)

    # --- changing ---

    @rule(which=_WHICH, examples=st.lists(_EXAMPLES, max_size=3))
    def add(self, which: int, examples: list[TrainingExample]) -> None:
        self._both(which, "add_examples", examples)

    @rule(which=_WHICH, examples=st.lists(_EXAMPLES, max_size=2), change=st.none() | _CHANGES)
    def replace(self, which: int, examples: list[TrainingExample], change: StateChange | None) -> None:
        edits = {example.example_id: lambda _stored, new=example: new for example in examples}
        self._both(which, "edit_examples", edits, change)

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

    @rule(which=_WHICH, example_id=_EXAMPLE_IDS, change=st.none() | _CHANGES)
    def remove(self, which: int, example_id: str, change: StateChange | None) -> None:
        self._both(which, "remove_example", example_id, change)

    @rule(which=_WHICH, change=_CHANGES)
    def learn(self, which: int, change: StateChange) -> None:
        self._both(which, "update_state", change)

    @rule(
        which=_WHICH,
        evaluations=st.lists(_EVALUATIONS, max_size=3),
        previews=st.lists(_PREVIEWS, max_size=2),
        observations=st.lists(_OBSERVATIONS, max_size=2),
        superseding=st.just(()) | st.sets(st.sampled_from(_WORKERS)),
    )
    def evaluate(self, which: int, superseding: Collection[str], **records: list[Any]) -> None:
        self._both(which, "save_evaluations", superseding=superseding, **records)

    @precondition(lambda self: not self.was_full)
    @rule(which=_WHICH, rank=_RANKS, digest=st.sampled_from(_DIGESTS))
    def fill_up(self, which: int, rank: float | None, digest: str) -> None:
        """Keep a preview that leaves no room for those behind it, and make room again: once, since it takes a while."""
        self.was_full = True
        for size in (PREVIEW_BYTES, 0):
            self._both(which, "save_evaluations", [], [Preview(digest, "full@1", bytes(size), rank)])
            for method in ("preview_cutoff", "ranked_digests"):
                self._both(which, method)

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
        change=st.none() | _CHANGES,
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
        change: StateChange | None,
        status: SessionStatus,
        error: str | None,
        fails: bool,
    ) -> None:
        session = make_session(session_id, status=status, num_examples=number, error=error, end_time=MOMENT)
        rows = [make_metric_row(session_id, f"w{n}") for n in range(number)]

        def finish(held: HeldState) -> SessionCommit:
            if fails:
                raise OnPurposeError
            return SessionCommit(session, rows, None if change is None else change(held))

        if isinstance(self._both(which, "commit_session", session_id, finish), tuple):
            self.owners.pop(session_id, None)

    # --- reading ---

    @rule(which=_WHICH, newest=st.integers(1, 6))
    def read_the_newest(self, which: int, newest: int) -> None:
        self._both(which, "get_all_examples", newest)

    @rule(which=_WHICH, example_ids=st.lists(_EXAMPLE_IDS, max_size=3))
    def read_some(self, which: int, example_ids: list[str]) -> None:
        self._both(which, "get_examples", example_ids)

    @rule(which=_WHICH, other=_WHICH, example_id=_EXAMPLE_IDS)
    def change_what_is_being_read(self, which: int, other: int, example_id: str) -> None:
        reader = self.handle(which).iterate_examples()
        seen = [example.example_id for example in [next(reader, None)] if example is not None]
        staying = [e.example_id for e in self.model.iterate_examples() if e.example_id != example_id]
        self._both(other, "remove_example", example_id)
        self._both(other, "add_examples", [make_example(example_id)])
        seen += [example.example_id for example in reader]
        assert [i for i in seen if i in staying] == staying
        assert seen.count(example_id) <= 2  # noqa: PLR2004 - the removed one, and the new one of the same name

    @rule(which=_WHICH)
    def ask_for_what_is_not_there(self, which: int) -> None:
        for method in ("get_example", "get_session", "iterate_metrics", "renew_session"):
            self._both(which, method, "nobody")
        for method in ("load_evaluations", "load_previews", "find_examples"):
            self._both(which, method, ["nothing"])

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "model"):
            for handle in self.handles:
                self.compare(handle)

    def compare(self, store: TrainingStore) -> None:
        """Compare everything that a store holds with the model."""
        self.both.agree(store)


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
        for session_id, owner in self.owners.items():
            assert owner is None or owner in self.handles, f"the abandoned session {session_id!r} goes on running"

    def notice_abandoned_sessions(self, handle: TrainingStore) -> None:
        """Take over in the model which sessions without an owner the store has ended."""
        for session_id in [i for i, owner in self.owners.items() if owner not in self.handles]:
            stored = handle.get_session(session_id)
            if stored.status == "interrupted":
                del self.owners[session_id]
                assert stored.error
                ended = attrs.evolve(self.model.get_session(session_id), status="interrupted", error=stored.error)
                self.model.commit_session(session_id, lambda _held, ended=ended: SessionCommit(ended))  # type: ignore[misc]

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
        assert outcome(handle.load_state) == Refused(StorageClosedError)
        assert outcome(lambda: handle.add_examples([make_example("late")])) == Refused(StorageClosedError)

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

        def crash(_held: HeldState) -> StateDelta:
            self.crash(self.folder, another)
            raise _CrashError

        store = self.handle(which)
        present = [example.example_id for example in self.model.iterate_examples()]
        if example_id in present:
            result = outcome(lambda: store.remove_example(example_id, crash))
        else:
            result = outcome(lambda: store.edit_examples(dict.fromkeys(present, _tagging("crashed")), crash))
        assert result == Refused(_CrashError)
        if not another.exists():
            return
        for handle in list(self.handles):  # they go on as if nothing had been: only the copy is looked at from now on
            self.compare(handle)
            self._close(handle)
        self.folder = another
        self.owners.update(dict.fromkeys(self.owners))
        self.handles.append(self._open_another())
        self._both(0, "add_examples", examples)
