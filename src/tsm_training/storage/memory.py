"""A store that lives as long as its object: for tests, trials and notebooks."""

# ruff: noqa: D102 - what each method does is said in TrainingStore

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


def _digests_of(examples: Iterable[TrainingExample]) -> set[str]:
    return {files.digest for example in examples if (files := example.files) is not None}


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
        with self._lock:
            stored = self._open().examples
            new: dict[str, TrainingExample] = {}
            for example in examples:
                if example.example_id in stored or example.example_id in new:
                    raise DuplicateExampleError(example.example_id)
                new[example.example_id] = copy.deepcopy(example)
            stored.update(new)

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        with self._lock:
            return [copy.deepcopy(self._stored_example(example_id)) for example_id in example_ids]

    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        wanted = frozenset(digests)
        with self._lock:
            found = [e for e in self._open().examples.values() if e.files is not None and e.files.digest in wanted]
            return copy.deepcopy(found)

    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        wanted = frozenset(digests)
        with self._lock:
            return _digests_of(self._open().examples.values()) & wanted

    def _stored_example(self, example_id: str) -> TrainingExample:
        examples = self._open().examples
        if example_id not in examples:
            raise ExampleNotFoundError(example_id)
        return examples[example_id]

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        with self._lock:
            examples = list(self._open().examples.values())
        for example in examples[-newest:] if newest else examples:
            yield copy.deepcopy(example)

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        with self._lock:
            new = {}
            for example_id, edit in edits.items():
                if example_id in self._open().examples or not skip_missing:
                    new[example_id] = copy.deepcopy(edit(copy.deepcopy(self._stored_example(example_id))))
            return self._replaced({**self._open().examples, **new}, new, change)

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        with self._lock:
            self._stored_example(example_id)
            remaining = {key: example for key, example in self._contents.examples.items() if key != example_id}
            return self._replaced(remaining, [example_id], change)

    def _replaced(
        self, examples: dict[str, TrainingExample], changed: Iterable[str], change: StateChange | None
    ) -> StateDocuments | None:
        """Put `examples` in the place of the stored ones, unless `change` raises."""
        contents = self._contents
        before = _digests_of(contents.examples[key] for key in changed)
        gone = frozenset(before - _digests_of(examples.values()))
        stored, contents.examples = contents.examples, examples
        try:
            documents = None if change is None else self._changed(change, gone)
        except BaseException:
            contents.examples = stored
            raise
        for held in (contents.observations, contents.previews):
            for key in [key for key in held if key[0] in gone]:
                del held[key]
        return documents

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
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
        keys = [evaluation.key for evaluation in evaluations if evaluation.key.worker_id in worker_ids]
        scored = {(key.example_digest, key.worker_id, key.metric_fingerprint) for key in keys}
        for key in list(contents.evaluations):
            if (key.example_digest, key.worker_id, key.metric_fingerprint) in scored:
                del contents.evaluations[key]
        pictured = {(key.example_digest, key.worker_id) for key in keys}
        for digest, name in list(contents.previews):
            if (digest, name.rpartition("@")[0]) in pictured:
                del contents.previews[digest, name]

    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        wanted = frozenset(example_digests)
        with self._lock:
            return [e for e in self._open().evaluations.values() if e.key.example_digest in wanted]

    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        wanted = frozenset(example_digests)
        found: dict[str, dict[str, bytes]] = {}
        with self._lock:
            for (digest, name), preview in self._open().previews.items():
                if digest in wanted:
                    found.setdefault(digest, {})[name] = preview.png
        return found

    def ranked_digests(self) -> list[str]:
        with self._lock:
            return list(dict.fromkeys(digest for _rank, digest, _name in self._ranked()))

    def _ranked(self) -> list[tuple[float, str, str]]:
        previews = self._open().previews
        return sorted((p.rank, *key) for key, p in previews.items() if p.rank is not None)

    def preview_cutoff(self) -> tuple[float, str] | None:
        with self._lock:
            ranked = self._ranked()
            if sum(len(self._contents.previews[digest, name].png) for _rank, digest, name in ranked) < PREVIEW_BYTES:
                return None
            return ranked[-1][:2]

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        with self._lock:
            held = self._open().observations
            return {digest: held[digest, name] for digest in sorted(set(example_digests)) if (digest, name) in held}

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        with self._lock:
            held = self._open().observations
            return {digest for digest in example_digests if (digest, name) in held}

    def begin_session(self, session: TrainingSession, /) -> None:
        with self._lock:
            contents = self._open()
            if session.session_id in contents.sessions:
                raise StorageError(_LOCATION, f"a session with the id {session.session_id!r} is already stored")
            contents.sessions[session.session_id] = copy.deepcopy(session)
            contents.metrics[session.session_id] = []

    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        with self._lock:
            contents = self._open()
            if session_id not in contents.sessions:
                raise SessionNotFoundError(session_id)
            commit = finish(self._held())
            session, metrics = copy.deepcopy(commit.session), list(commit.metrics)
            contents.metrics[session_id] += metrics
            contents.sessions[session_id] = session
            if commit.delta is not None:
                self._apply(commit.delta)
            return copy.deepcopy(session), self.load_state()

    def get_session(self, session_id: str, /) -> TrainingSession:
        with self._lock:
            sessions = self._open().sessions
            if session_id not in sessions:
                raise SessionNotFoundError(session_id)
            return copy.deepcopy(sessions[session_id])

    def renew_session(self, session_id: str, /) -> None:
        """Do nothing: these sessions end with their process."""

    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        with self._lock:
            sessions = list(self._open().sessions.values())
        for session in reversed(sessions) if newest_first else sessions:
            yield copy.deepcopy(session)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        with self._lock:
            metrics = self._open().metrics
            if session_id not in metrics:
                raise SessionNotFoundError(session_id)
            rows = list(metrics[session_id])
        return iter(rows)

    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        with self._lock:
            contents = self._open()
            return StateDocuments(contents.token, dict(contents.head), self._rows(keys))

    def _rows(self, keys: Iterable[str] | None) -> dict[str, str]:
        rows = self._contents.rows
        return dict(rows) if keys is None else {key: rows[key] for key in keys if key in rows}

    def update_state(self, change: StateChange, /) -> StateDocuments:
        with self._lock:
            return self._changed(change, frozenset())

    def _held(self, gone: frozenset[str] = frozenset()) -> HeldState:
        contents = self._open()
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
