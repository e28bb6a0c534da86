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
    ExampleFiles,
    Learning,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateChange,
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
from tsm_training.learning import LearnedState

__all__ = ["InMemoryStore"]

_LOCATION: Final = "memory"


@attrs.define(eq=False)
class _Contents:
    """Everything that the store holds, in order of addition (dictionaries keep it)."""

    examples: dict[str, TrainingExample] = attrs.field(factory=dict)
    evaluations: dict[EvaluationKey, Evaluation] = attrs.field(factory=dict)
    previews: dict[tuple[str, str], Preview] = attrs.field(factory=dict)
    observations: dict[tuple[str, str], bytes] = attrs.field(factory=dict)
    sessions: dict[str, TrainingSession] = attrs.field(factory=dict)
    metrics: dict[str, list[MetricRow]] = attrs.field(factory=dict)
    learning: Learning = attrs.field(factory=lambda: Learning(0, LearnedState()))
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

    def get_example(self, example_id: str, /) -> TrainingExample:
        """Return one example; see `TrainingStore`."""
        with self._lock:
            return copy.deepcopy(self._stored_example(example_id))

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
    ) -> Learning | None:
        """Change stored examples, and learned state with them; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            new = {}
            for example_id, edit in edits.items():
                if example_id in contents.examples or not skip_missing:
                    new[example_id] = copy.deepcopy(edit(copy.deepcopy(self._stored_example(example_id))))
            learning = self._changed(change)
            old = [(contents.examples[example_id].files, example.files) for example_id, example in new.items()]
            contents.examples.update(new)
            for before, after in old:
                if before != after:
                    self._forget_contents(before)
            return learning

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        """Remove an example, and change learned state with it; see `TrainingStore`."""
        with self._lock:
            example = self._stored_example(example_id)
            learning = self._changed(change)
            del self._contents.examples[example_id]
            self._forget_contents(example.files)
            return learning

    def _forget_contents(self, files: ExampleFiles | None) -> None:
        """Drop observations and previews of contents that no example has any more."""
        contents = self._contents
        if files is None or any(example.files == files for example in contents.examples.values()):
            return
        digest = files.digest
        contents.observations = {key: data for key, data in contents.observations.items() if key[0] != digest}
        contents.previews = {key: preview for key, preview in contents.previews.items() if key[0] != digest}

    def _changed(self, change: StateChange | None) -> Learning | None:
        return None if change is None else self.update_learning(change)

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
            ranked = [(p.rank, *key) for key, p in contents.previews.items() if p.rank is not None]
            for _rank, *key in sorted(ranked):
                size = len(contents.previews[key[0], key[1]].png)
                if used >= PREVIEW_BYTES:
                    del contents.previews[key[0], key[1]]
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

    def load_previews(self, example_digest: str, /) -> dict[str, bytes]:
        """Return the PNG bytes of an example's previews, by name; see `TrainingStore`."""
        with self._lock:
            stored = self._open().previews
            return {name: preview.png for (digest, name), preview in stored.items() if digest == example_digest}

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
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        """End a session, its metric rows and learned state with it; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            if session_id not in contents.sessions:
                raise SessionNotFoundError(session_id)
            commit = finish(contents.learning.state)
            session = copy.deepcopy(commit.session)
            contents.metrics[session_id].extend(list(commit.metrics))
            contents.sessions[session_id] = session
            if commit.state is not None:
                contents.learning = Learning(contents.learning.version + 1, commit.state)
            return copy.deepcopy(session), contents.learning

    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session; see `TrainingStore`."""
        with self._lock:
            sessions = self._open().sessions
            if session_id not in sessions:
                raise SessionNotFoundError(session_id)
            return copy.deepcopy(sessions[session_id])

    def iterate_sessions(self) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first; see `TrainingStore`."""
        with self._lock:
            sessions = list(self._open().sessions.values())
        for session in sessions:
            yield copy.deepcopy(session)

    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session; see `TrainingStore`."""
        with self._lock:
            metrics = self._open().metrics
            if session_id not in metrics:
                raise SessionNotFoundError(session_id)
            rows = list(metrics[session_id])
        return iter(rows)

    def load_learning(self) -> Learning:
        """Return the learned state; see `TrainingStore`."""
        with self._lock:
            return self._open().learning

    def update_learning(self, change: StateChange, /) -> Learning:
        """Replace the learned state by what `change` makes of it; see `TrainingStore`."""
        with self._lock:
            contents = self._open()
            contents.learning = Learning(contents.learning.version + 1, change(contents.learning.state))
            return contents.learning

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
            for held in (
                contents.examples,
                contents.evaluations,
                contents.previews,
                contents.observations,
                contents.sessions,
                contents.metrics,
            ):
                held.clear()
