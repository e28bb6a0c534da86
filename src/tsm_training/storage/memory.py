"""A store that lives as long as its object: for tests, trials and notebooks."""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from tsm_training.data import (
    PREVIEW_BYTES,
    DatasetStatistics,
    Evaluation,
    EvaluationKey,
    ExampleEdit,
    HeldState,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateChange,
    StateDelta,
    StateDocuments,
    TrainingExample,
    TrainingSession,
    TrainingStore,
)
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    SessionNotFoundError,
    StorageClosedError,
    StorageError,
)
from tsm_training.forking import guard_forks

__all__ = ["InMemoryStore"]

_LOCATION: Final = "memory"


@attrs.define(eq=False, repr=False)
class _Contents:
    """Everything that the store holds, in order of addition (dictionaries keep it)."""

    examples: dict[str, TrainingExample] = attrs.field(factory=dict)
    evaluations: dict[EvaluationKey, Evaluation] = attrs.field(factory=dict)
    previews: dict[tuple[str, str], Preview] = attrs.field(factory=dict)
    observations: dict[tuple[str, str], bytes] = attrs.field(factory=dict)
    sessions: dict[str, TrainingSession] = attrs.field(factory=dict)
    metrics: dict[str, list[MetricRow]] = attrs.field(factory=dict)
    token: str = ""
    head: dict[str, str] = attrs.field(factory=dict)
    rows: dict[str, str] = attrs.field(factory=dict)
    closed: bool = False


@attrs.frozen(eq=False)
class InMemoryStore(TrainingStore):
    """Keeps everything in memory; nothing outlives the object. Otherwise it does what every store does."""

    _contents: _Contents = attrs.field(factory=_Contents, init=False, repr=False)
    _lock: threading.RLock = attrs.field(factory=lambda: guard_forks(threading.RLock()), init=False, repr=False)
    _store_id: str = attrs.field(factory=lambda: uuid.uuid4().hex, init=False, repr=False)

    @property
    def location(self) -> str:
        """The word ``memory``."""
        return _LOCATION

    @property
    def store_id(self) -> str:
        """A text that no other store has."""
        return self._store_id

    def _open(self) -> _Contents:
        if self._contents.closed:
            raise StorageClosedError(_LOCATION, "it was closed")
        return self._contents

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        """Add examples behind those already there: all of them or none; see `TrainingStore`."""
        with self._lock:
            stored = self._open().examples
            new: dict[str, TrainingExample] = {}
            for example in examples:
                if example.example_id in stored or example.example_id in new:
                    raise DuplicateExampleError(example.example_id)
                new[example.example_id] = copy.deepcopy(example)
            stored.update(new)

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        """Return the examples with these ids, in the order of the ids; see `TrainingStore`."""
        with self._lock:
            return [copy.deepcopy(self._stored_example(example_id)) for example_id in example_ids]

    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        """Return the examples that have one of these contents, in order of addition; see `TrainingStore`."""
        wanted = frozenset(digests)
        with self._lock:
            found = [e for e in self._open().examples.values() if e.files is not None and e.files.digest in wanted]
            return copy.deepcopy(found)

    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        """Return which of these digests are contents of stored examples; see `TrainingStore`."""
        wanted = frozenset(digests)
        with self._lock:
            return {
                files.digest
                for example in self._open().examples.values()
                if (files := example.files) is not None and files.digest in wanted
            }

    def _stored_example(self, example_id: str) -> TrainingExample:
        examples = self._open().examples
        if example_id not in examples:
            raise ExampleNotFoundError(example_id)
        return examples[example_id]

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        """Yield examples in order of addition; see `TrainingStore`."""
        with self._lock:
            examples = list(self._open().examples.values())
        for example in examples[-newest:] if newest else examples:
            yield copy.deepcopy(example)

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        """Change stored examples, and learned state with them; see `TrainingStore`."""
        with self._lock:
            new = {}
            for example_id, edit in edits.items():
                if example_id in self._open().examples or not skip_missing:
                    new[example_id] = copy.deepcopy(edit(copy.deepcopy(self._stored_example(example_id))))
            return self._replaced({**self._open().examples, **new}, new, change)

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        """Remove an example, and change learned state with it; see `TrainingStore`."""
        with self._lock:
            self._stored_example(example_id)
            remaining = {key: example for key, example in self._contents.examples.items() if key != example_id}
            return self._replaced(remaining, [example_id], change)

    def _replaced(
        self, examples: dict[str, TrainingExample], changed: Iterable[str], change: StateChange | None
    ) -> StateDocuments | None:
        """Put `examples` in the place of the stored ones, unless `change` raises."""
        contents = self._contents
        before = {files.digest for key in changed if (files := contents.examples[key].files) is not None}
        gone = frozenset(before - {example.files.digest for example in examples.values() if example.files is not None})
        stored, contents.examples = contents.examples, examples
        try:
            documents = None if change is None else self._changed(change, gone)
        except BaseException:
            contents.examples = stored
            raise
        if gone:
            contents.observations = {key: data for key, data in contents.observations.items() if key[0] not in gone}
            contents.previews = {key: preview for key, preview in contents.previews.items() if key[0] not in gone}
        return documents

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        """Keep evaluations, previews and observations; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            if superseding:
                self._drop_superseded(evaluations, superseding)
            for evaluation in evaluations:
                contents.evaluations.pop(evaluation.key, None)
                contents.evaluations[evaluation.key] = evaluation
            for record in observations:
                contents.observations[record.example_digest, record.name] = record.content
            for preview in previews:
                contents.previews[preview.example_digest, preview.name] = preview
            used = 0
            for _rank, digest, name in self._ranked():
                size = len(contents.previews[digest, name].png)
                if used >= PREVIEW_BYTES:
                    del contents.previews[digest, name]
                used += size

    def _drop_superseded(self, evaluations: Sequence[Evaluation], worker_ids: Collection[str]) -> None:
        contents = self._contents
        new = {(e.key.example_digest, e.key.worker_id, e.key.metric_fingerprint) for e in evaluations}
        new = {key for key in new if key[1] in worker_ids}
        contents.evaluations = {
            key: evaluation
            for key, evaluation in contents.evaluations.items()
            if (key.example_digest, key.worker_id, key.metric_fingerprint) not in new
        }
        pictured = {(digest, worker_id) for digest, worker_id, _metric in new}
        contents.previews = {
            (digest, name): preview
            for (digest, name), preview in contents.previews.items()
            if (digest, name.rpartition("@")[0]) not in pictured
        }

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        """Return all evaluations of these examples; see `TrainingStore`."""
        wanted = frozenset(example_digests)
        with self._lock:
            return [e for e in self._open().evaluations.values() if e.key.example_digest in wanted]

    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        """Return the PNG bytes of the previews of these examples; see `TrainingStore`."""
        wanted = frozenset(example_digests)
        found: dict[str, dict[str, bytes]] = {}
        with self._lock:
            for (digest, name), preview in self._open().previews.items():
                if digest in wanted:
                    found.setdefault(digest, {})[name] = preview.png
        return found

    def ranked_digests(self) -> list[str]:
        """Return the digests of the examples that have previews with a rank, in order; see `TrainingStore`."""
        with self._lock:
            return list(dict.fromkeys(digest for _rank, digest, _name in self._ranked()))

    def _ranked(self) -> list[tuple[float, str, str]]:
        previews = self._open().previews
        return sorted((p.rank, *key) for key, p in previews.items() if p.rank is not None)

    def preview_cutoff(self) -> tuple[float, str] | None:
        """Return from which rank and digest on previews are not kept; see `TrainingStore`."""
        with self._lock:
            ranked = self._ranked()
            if sum(len(self._contents.previews[digest, name].png) for _rank, digest, name in ranked) < PREVIEW_BYTES:
                return None
            return ranked[-1][:2]

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        """Return the contents of the observations of that name on these examples; see `TrainingStore`."""
        with self._lock:
            held = self._open().observations
            return {digest: held[digest, name] for digest in sorted(set(example_digests)) if (digest, name) in held}

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        """Return on which of these examples there is an observation of that name; see `TrainingStore`."""
        with self._lock:
            held = self._open().observations
            return {digest for digest in example_digests if (digest, name) in held}

    def begin_session(self, session: TrainingSession, /) -> None:
        """Keep a session whose status is ``running``; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            if session.session_id in contents.sessions:
                raise StorageError(_LOCATION, f"a session with the id {session.session_id!r} is already stored")
            contents.sessions[session.session_id] = copy.deepcopy(session)
            contents.metrics[session.session_id] = []

    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        """End a session, its metric rows and learned state with it; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            if session_id not in contents.sessions:
                raise SessionNotFoundError(session_id)
            commit = finish(self._held())
            session = copy.deepcopy(commit.session)
            contents.metrics[session_id].extend(list(commit.metrics))
            contents.sessions[session_id] = session
            if commit.delta is not None:
                self._apply(commit.delta)
            return copy.deepcopy(session), self.load_state()

    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session; see `TrainingStore`."""
        with self._lock:
            sessions = self._open().sessions
            if session_id not in sessions:
                raise SessionNotFoundError(session_id)
            return copy.deepcopy(sessions[session_id])

    def renew_session(self, session_id: str, /) -> None:
        """Do nothing: these sessions end with their process; see `TrainingStore`."""

    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first; see `TrainingStore`."""
        with self._lock:
            sessions = list(self._open().sessions.values())
        for session in reversed(sessions) if newest_first else sessions:
            yield copy.deepcopy(session)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session; see `TrainingStore`."""
        with self._lock:
            metrics = self._open().metrics
            if session_id not in metrics:
                raise SessionNotFoundError(session_id)
            rows = list(metrics[session_id])
        return iter(rows)

    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        """Return the head of the learned state, and the rows under these keys; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            return StateDocuments(contents.token, dict(contents.head), self._rows(keys))

    def _rows(self, keys: Iterable[str] | None) -> dict[str, str]:
        rows = self._contents.rows
        return dict(rows) if keys is None else {key: rows[key] for key in keys if key in rows}

    def update_state(self, change: StateChange, /) -> StateDocuments:
        """Change the learned state as `change` says; see `TrainingStore`."""
        with self._lock:
            self._open()
            return self._changed(change, frozenset())

    def _held(self, gone: frozenset[str] = frozenset()) -> HeldState:
        contents = self._contents
        return HeldState(contents.token, dict(contents.head), self._rows, self.known_digests, gone)

    def _changed(self, change: StateChange, gone: frozenset[str]) -> StateDocuments:
        delta = change(self._held(gone))
        if delta is not None:
            self._apply(delta)
        return self.load_state()

    def _apply(self, delta: StateDelta) -> None:
        contents = self._contents
        rows = {} if delta.drops_rows else contents.rows
        for held, changes in ((contents.head, delta.head), (rows, delta.rows)):
            for key, document in changes.items():
                if document is None:
                    held.pop(key, None)
                else:
                    held[key] = document
        contents.rows, contents.token = rows, uuid.uuid4().hex

    def get_dataset_stats(self) -> DatasetStatistics:
        """Count examples and sessions; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            total = len(contents.examples)
            processed = sum(example.worker_results is not None for example in contents.examples.values())
            return {
                "total_examples": total,
                "processed_examples": processed,
                "unprocessed_examples": total - processed,
                "total_sessions": len(contents.sessions),
            }

    def close(self) -> None:
        """Let go of everything; closing twice is fine."""
        with self._lock:
            contents = self._contents
            contents.closed = True
            for held in attrs.astuple(contents, recurse=False):
                if isinstance(held, dict):
                    held.clear()
