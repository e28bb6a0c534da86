"""What a store must do, written out for whoever writes another one."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

from tsm_training.arguments import check_limit
from tsm_training.data.records import (
    DatasetStatistics,
    Evaluation,
    ExampleScores,
    Learning,
    MetricRow,
    ObservationRecord,
    Preview,
    SessionCommit,
    TrainingExample,
    TrainingSession,
    WorkerOutcome,
)
from tsm_training.errors import StorageReadOnlyError
from tsm_training.evidence import LearnedState

__all__ = ["PREVIEW_BYTES", "ExampleEdit", "StateChange", "TrainingStore"]

ExampleEdit: TypeAlias = Callable[[TrainingExample], TrainingExample]
"""Makes the next record of the stored one, with the same id; quick, and without side effects."""

StateChange: TypeAlias = Callable[[LearnedState], LearnedState]
"""Makes the next learned state of the one that the store holds; quick, and without side effects."""

PREVIEW_BYTES = 32 * 1024 * 1024
"""How many bytes of ranked previews a store keeps: in order of rank, digest and name, those before which are fewer.

That order has nothing to do with when and in what order examples were evaluated, so what is kept is a fair sample, and
the same one whatever the number of threads. The last one may therefore reach beyond the limit: were it left out for
that, a smaller one behind it would be kept or not by who came first. Previews without a rank are all kept.
"""


@runtime_checkable
class TrainingStore(Protocol):
    """Keeps examples, evaluations, sessions, metrics and learned state.

    Inherit from this class, implement the methods of its first part, and get those of the second. Then let the contract
    tests of `tsm_training.testing` judge.

    Every store may assume that values were checked by the caller (paths are absolute, metadata is JSON, times are aware
    UTC, ids are text). Every store must see to it that:

    - a call that returns has stored what it was given, as durably as the store promises, and a call that raises has
      changed nothing: each method is one transaction;
    - records come back equal to what went in, and changing what came back (a metadata dictionary, say) changes nothing
      in the store; only learned state, which nobody changes, may be shared;
    - examples and sessions come back in the order in which they were added, whatever their times say;
    - ids are never given out again for something else;
    - methods may be called from several threads, one after the other or at once;
    - an error is one of `tsm_training.errors`: `StorageError` or a subclass where the store itself fails.
    """

    # --- the first part: what a store implements ---

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the store is, for messages."""
        ...

    @property
    @abstractmethod
    def store_id(self) -> str:
        """A text that no other store has; the same each time this one is opened."""
        ...

    @abstractmethod
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        """Add examples behind those already there: all of them or none.

        Raises:
            DuplicateExampleError: an id is already stored, or comes twice.
        """
        ...

    @abstractmethod
    def get_example(self, example_id: str, /) -> TrainingExample:
        """Return one example.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        ...

    @abstractmethod
    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        """Yield examples in order of addition: all, or the `newest` so many (at least 1).

        What is added or removed while the iterator is in use may or may not appear; nothing appears twice.
        """
        ...

    @abstractmethod
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        """Change stored examples, and learned state with them: all or nothing.

        Each edit is called with the record that the store holds at that moment, while nobody else can change it. The
        place in the order of addition stays. Returns the new learning where `change` is given.

        Where no example has the old contents of an edited one any more, their observations and previews go with it.

        Raises:
            ExampleNotFoundError: an id is not stored, unless `skip_missing` says to pass it over.
        """
        ...

    @abstractmethod
    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        """Remove an example, and change learned state with it. Evaluations, sessions and metrics stay.

        Where no other example has the same contents, their observations and previews go with it.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        ...

    @abstractmethod
    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        """Keep evaluations, previews and observations; those with the same key (or digest and name) are replaced.

        Of all previews with a rank, in order of rank, digest and name, those are kept before which there are fewer than
        `PREVIEW_BYTES` of them.

        Args:
            evaluations: Any number.
            previews: Any number.
            observations: Any number.
            superseding: Ids of workers that were fitted anew: what else is stored of them on the examples of these
                evaluations, evaluations under the same metric and previews, goes.
        """
        ...

    @abstractmethod
    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        """Return all evaluations of these examples, the oldest first."""
        ...

    @abstractmethod
    def load_previews(self, example_digest: str, /) -> dict[str, bytes]:
        """Return the PNG bytes of an example's previews, by name; empty where there are none."""
        ...

    @abstractmethod
    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        """Return the contents of the observations of that name on these examples, by example digest."""
        ...

    @abstractmethod
    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        """Return on which of these examples there is an observation of that name."""
        ...

    @abstractmethod
    def begin_session(self, session: TrainingSession, /) -> None:
        """Keep a session whose status is ``running``.

        A durable store finds out, when it is opened (and perhaps here), which of its running sessions have lost their
        process, and marks those ``interrupted``, with an `error` that says so; a session that still runs elsewhere is
        left alone.

        Raises:
            StorageError: a session with that id is already stored.
        """
        ...

    @abstractmethod
    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        """End a session: its final record, its metric rows and its learned state, together or not at all.

        `finish` is called with the learned state that the store holds at that moment (another process may have trained
        meanwhile), while nobody else can change it; it returns at once and has no side effects.

        Metric rows are added behind those that an earlier commit of the session left.

        Returns:
            The session as it was stored, and the learning that the store now holds.

        Raises:
            SessionNotFoundError: no session has that id.
        """
        ...

    @abstractmethod
    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session.

        Raises:
            SessionNotFoundError: no session has that id.
        """
        ...

    @abstractmethod
    def iterate_sessions(self) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first."""
        ...

    @abstractmethod
    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session in the order in which they were committed.

        Raises:
            SessionNotFoundError: no session has that id.
        """
        ...

    @abstractmethod
    def load_learning(self) -> Learning:
        """Return the learned state; version 0 and an empty state where nothing was ever learned."""
        ...

    @abstractmethod
    def update_learning(self, change: StateChange, /) -> Learning:
        """Replace the learned state by what `change` makes of it, while nobody else can; return what is now held."""
        ...

    @abstractmethod
    def get_dataset_stats(self) -> DatasetStatistics:
        """Count examples and sessions."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Give everything back; closing twice is fine. Any other call then raises `StorageClosedError`."""
        ...

    # --- the second part: made of the first ---

    @property
    def is_read_only(self) -> bool:
        """True where every method that writes raises `StorageReadOnlyError`; False unless a store says otherwise."""
        return False

    def require_writable(self) -> None:
        """Make sure, before any work, that what will come of it can be stored.

        Raises:
            StorageReadOnlyError: the store is for reading only.
        """
        if self.is_read_only:
            raise StorageReadOnlyError(self.location, "it was opened for reading only")

    def hurrying(self) -> AbstractContextManager[None]:
        """Have this thread's calls within a block wait for others a moment only: somebody has pressed Ctrl-C.

        A store that never waits for others has nothing to do.
        """
        return contextlib.nullcontext()

    def abandon_session(self, session_id: str, /) -> None:
        """Let go of a running session whose end cannot be stored; a durable store finds it ``interrupted`` later."""
        return  # a store that marks no sessions as its own has nothing to do

    def get_all_examples(self, limit: int | None = None) -> list[TrainingExample]:
        """Return examples in order of addition; with a limit, only the newest so many.

        Raises:
            InvalidArgumentError: `limit` is not None and not a whole number of at least 1.
        """
        return list(self.iterate_examples(check_limit("limit", limit)))

    def get_all_sessions(self) -> list[TrainingSession]:
        """Return all sessions, the oldest first."""
        return list(self.iterate_sessions())

    def get_metrics(self, session_id: str) -> list[MetricRow]:
        """Return the metric rows of one session.

        Raises:
            SessionNotFoundError: no session has that id.
        """
        return list(self.iterate_metrics(session_id))

    def update_example_results(
        self,
        example_id: str,
        worker_results: Mapping[str, WorkerOutcome] | None = None,
        validation_scores: ExampleScores | None = None,
    ) -> None:
        """Keep an example's latest results; what is None stays as it was.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        given: dict[str, Any] = {"worker_results": worker_results, "validation_scores": validation_scores}
        new = {name: value for name, value in given.items() if value is not None}
        self.edit_examples({example_id: lambda stored: attrs.evolve(stored, **new)})

    def update_examples(
        self, examples: Sequence[TrainingExample], change: StateChange | None = None
    ) -> Learning | None:
        """Replace stored examples by records with the same ids, and learned state with them: all or nothing.

        Raises:
            ExampleNotFoundError: an id is not stored.
        """

        def replacement(example: TrainingExample) -> ExampleEdit:
            return lambda _stored: example

        return self.edit_examples({example.example_id: replacement(example) for example in examples}, change)
