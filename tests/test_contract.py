"""The contract catches stores that are wrong: each of those below is named with the test that notices."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tsm_training.data import (
    PREVIEW_BYTES,
    Evaluation,
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
from tsm_training.errors import TsmTrainingError
from tsm_training.storage import InMemoryStore
from tsm_training.testing import DurableTrainingStoreContract

Finish = Callable[[HeldState], SessionCommit]
Committed = tuple[TrainingSession, StateDocuments]

# --- examples -------------------------------------------------------------------------------------------------------


class DropsTheLast(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples[:-1] if len(examples) > 1 else examples)


class GivesLiveRecords(InMemoryStore):
    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        return [self._stored_example(example_id) for example_id in example_ids]


class KeepsLiveRecords(InMemoryStore):
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples)
        self._contents.examples.update({example.example_id: example for example in examples})


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


class ForgetsEmptyResults(InMemoryStore):
    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        return [attrs.evolve(e, worker_results=e.worker_results or None) for e in super().get_examples(example_ids)]


class AnswersInOrderOfAddition(InMemoryStore):
    """Gives examples as they are stored, not as they were asked for."""

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        return [example for example in self.iterate_examples() if example.example_id in example_ids]


class FindsOneOfEach(InMemoryStore):
    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        return list({example.known_files.digest: example for example in super().find_examples(digests)}.values())


class KnowsWhatItNeverHad(InMemoryStore):
    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        return set(digests)


class RaisesKeyErrors(InMemoryStore):
    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        return [copy.deepcopy(self._open().examples[example_id]) for example_id in example_ids]


class ReusesPlaces(InMemoryStore):
    """Numbers its examples, and gives the number of one that is gone to the next, as plain row ids do."""

    @property
    def numbers(self) -> dict[str, int]:
        numbers: dict[str, int] = self.__dict__.setdefault("numbers", {})
        return numbers

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples)
        for example in examples:
            taken = set(self.numbers.values())
            self.numbers[example.example_id] = next(n for n in range(len(taken) + 1) if n not in taken)

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        examples = sorted(super().iterate_examples(), key=lambda example: self.numbers[example.example_id])
        yield from examples[-newest:] if newest else examples

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        documents = super().remove_example(example_id, change)
        del self.numbers[example_id]
        return documents


class LendsResults(InMemoryStore):
    """Forgets to tidy up behind an example that is removed: the next of that name finds its results."""

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        left: dict[str, Any] = self.__dict__.setdefault("left", {})
        super().add_examples(
            [attrs.evolve(e, worker_results=e.worker_results or left.get(e.example_id)) for e in examples]
        )

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        if example_id in self._open().examples:
            self.__dict__.setdefault("left", {})[example_id] = self.get_example(example_id).worker_results
        return super().remove_example(example_id, change)


class CountsEverythingAsProcessed(InMemoryStore):
    def get_dataset_stats(self) -> Any:
        stats = super().get_dataset_stats()
        return {**stats, "processed_examples": stats["total_examples"], "unprocessed_examples": 0}


class HasTheSameIdAsOthers(InMemoryStore):
    @property
    def store_id(self) -> str:
        return "store"


# --- edits and removals -----------------------------------------------------------------------------------------------


class Editing(InMemoryStore):
    """Calls `edited` for every edit, and `removed` for every removal."""

    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        return super().edit_examples(edits, change, skip_missing=skip_missing)

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        self._open()
        documents: StateDocuments | None = self.edited(edits, change, skip_missing=skip_missing)
        return documents


class EditsOneByOne(Editing):
    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        for example_id, edit in edits.items():
            super().edited({example_id: edit}, None, skip_missing=skip_missing)
        return None if change is None else self.update_state(change)


class MovesEditedToTheEnd(Editing):
    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        documents = super().edited(edits, change, skip_missing=skip_missing)
        for example_id in edits:
            self._contents.examples[example_id] = self._contents.examples.pop(example_id)
        return documents


class NeverSkips(Editing):
    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        return super().edited(edits, change, skip_missing=False)


class ReadsBeforeItLocks(Editing):
    """Hands an edit what it read a moment ago: the last of two writers wins."""

    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        known = self._open().examples
        ready = {i: edit(self.get_example(i)) for i, edit in edits.items() if i in known or not skip_missing}
        time.sleep(0.001)
        return super().edited(
            {i: lambda _stored, e=e: e for i, e in ready.items()},  # type: ignore[misc]
            change,
            skip_missing=skip_missing,
        )


class LeaksFailedChanges(Editing):
    """Undoes a change that fails by putting everything back as it was, over the heads of others."""

    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        before = [dict(self._open().head), dict(self._open().rows)]
        time.sleep(0.001)
        try:
            return super().edited(edits, change, skip_missing=skip_missing)
        except Exception:
            self._contents.head, self._contents.rows = before
            raise


class ForgetsEditByEdit(Editing):
    """Looks after each edit who has the old contents, and not after all of them."""

    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        before = copy.copy(self._contents.examples)
        documents = super().edited(edits, change, skip_missing=skip_missing)
        after = {i: self._contents.examples[i] for i in edits if i in before}
        self._contents.examples = before
        for example_id, example in after.items():
            self._replaced({**self._contents.examples, example_id: example}, [example_id], None)
        return documents


class KeepsContentsThatAreReplaced(Editing):
    """Thinks of what belongs to contents when an example is removed, and not when its files are replaced."""

    def edited(self, edits: Mapping[str, ExampleEdit], change: StateChange | None, *, skip_missing: bool) -> Any:
        held = dict(self._contents.observations)
        documents = super().edited(edits, change, skip_missing=skip_missing)
        self._contents.observations = held
        return documents


class RemovesBeforeTheChange(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        super().remove_example(example_id)
        return None if change is None else self.update_state(change)


class RemovesEvaluationsToo(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        self._open().evaluations.clear()
        return super().remove_example(example_id, change)


class SaysThatNothingIsGone(InMemoryStore):
    def _changed(self, change: StateChange, gone: frozenset[str]) -> StateDocuments:
        return super()._changed(change, frozenset())


class SaysThatSharedContentsAreGone(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        files = self._stored_example(example_id).files
        gone = frozenset() if files is None else frozenset([files.digest])
        return super().remove_example(example_id, change and (lambda held: change(attrs.evolve(held, gone=gone))))


class KnowsWhatIsBeingRemoved(InMemoryStore):
    """Answers what is known as it was before the transaction."""

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        every = [e.files.digest for e in self._open().examples.values() if e.files is not None]

        def known(digests: Iterable[str]) -> set[str]:
            return set(digests) & set(every)

        return super().remove_example(example_id, change and (lambda held: change(attrs.evolve(held, known=known))))


class Replacing(InMemoryStore):
    """Does something else with what is kept of contents that nobody has any more."""

    def kept(self, before: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _replaced(self, *changes: Any) -> StateDocuments | None:
        before = {name: dict(getattr(self._contents, name)) for name in ("evaluations", "previews", "observations")}
        documents = super()._replaced(*changes)
        for name, held in self.kept(before).items():
            setattr(self._contents, name, held)
        return documents


class KeepsObservationsOfNothing(Replacing):
    def kept(self, before: dict[str, Any]) -> dict[str, Any]:
        return {"observations": before["observations"]}


class KeepsPicturesOfNothing(Replacing):
    def kept(self, before: dict[str, Any]) -> dict[str, Any]:
        return {"previews": before["previews"]}


class ForgetsSharedContents(InMemoryStore):
    """Does not look whether another example has the same contents."""

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        files = self._stored_example(example_id).files
        documents = super().remove_example(example_id, change)
        for held in (self._contents.previews, self._contents.observations):
            for key in [key for key in held if files is not None and key[0] == files.digest]:
                held.pop(key)
        return documents


class KeepsContentsOfTheSameTarget(InMemoryStore):
    """Takes contents for the same where the targets are."""

    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        files = self._stored_example(example_id).files
        held = dict(self._contents.previews)
        documents = super().remove_example(example_id, change)
        if files is not None and any(e.files and e.files.target == files.target for e in self.iterate_examples()):
            self._contents.previews = held
        return documents


class ForgetsBeforeTheChange(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        examples = dict(self._open().examples)
        super().remove_example(example_id)
        self._contents.examples = examples
        return super().remove_example(example_id, change)


# --- evaluations, previews, observations ------------------------------------------------------------------------------


class Saving(InMemoryStore):
    """Gives subclasses what is saved, and what was there, as plain attributes."""

    def before(self, records: list[list[Any]], superseding: Collection[str]) -> Collection[str] | None:
        """Change the records; what is returned supersedes."""
        return superseding

    def after(self, held: dict[str, dict[Any, Any]], records: list[list[Any]], superseding: Collection[str]) -> None:
        """Spoil what was saved, with copies of what was held."""

    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        names = ("evaluations", "previews", "observations")
        held = {name: dict(getattr(self._open(), name)) for name in names}
        records: list[list[Any]] = [list(evaluations), list(previews), list(observations)]
        chosen = self.before(records, superseding)
        super().save_evaluations(*records, superseding=superseding if chosen is None else chosen)
        self.after(held, records, superseding)


class KeepsTheFirstEvaluation(Saving):
    def after(self, held: dict[str, dict[Any, Any]], *_others: Any) -> None:
        self._contents.evaluations.update(held["evaluations"])


class IgnoresTheReader(Saving):
    """Takes evaluations for the same that were made with another reader of pictures."""

    def before(self, records: list[list[Any]], _superseding: Collection[str]) -> None:
        new = {e.key[:4] for e in records[0]}
        for key in [key for key in self._contents.evaluations if key[:4] in new]:
            del self._contents.evaluations[key]
        records[0][:] = {e.key[:4]: e for e in records[0]}.values()


class HoardsPreviews(Saving):
    def after(self, held: dict[str, dict[Any, Any]], *_others: Any) -> None:
        self._contents.previews.update(held["previews"])


class DropsTheOldestPreviews(Saving):
    """Keeps what came last, so that a change of threads changes what is kept."""

    def after(self, held: dict[str, dict[Any, Any]], records: list[list[Any]], _superseding: Collection[str]) -> None:
        kept = held["previews"]
        for preview in records[1]:
            kept.pop((preview.example_digest, preview.name), None)
            kept[preview.example_digest, preview.name] = preview
        while sum(len(preview.png) for preview in kept.values()) > PREVIEW_BYTES:
            del kept[next(iter(kept))]
        self._contents.previews = kept


class LeavesNoPreviewHalfInside(Saving):
    """Leaves out a preview that is too large for the room that is left, so that one behind it may find room."""

    def after(self, *_changes: Any) -> None:
        used = 0
        for key in sorted(self._contents.previews):
            used += len(self._contents.previews[key].png)
            if used > PREVIEW_BYTES:
                del self._contents.previews[key]


class IgnoresRanks(Saving):
    def before(self, records: list[list[Any]], _superseding: Collection[str]) -> None:
        records[1][:] = [preview if preview.rank is None else attrs.evolve(preview, rank=0.0) for preview in records[1]]


class RanksWhatHasNone(Saving):
    def before(self, records: list[list[Any]], _superseding: Collection[str]) -> None:
        records[1][:] = [attrs.evolve(preview, rank=9e9) if preview.rank is None else preview for preview in records[1]]


class CountsPreviewsWithoutARank(Saving):
    """Never drops them, but leaves less room for the others."""

    def after(self, *_changes: Any) -> None:
        held = self._contents.previews
        used = sum(len(preview.png) for preview in held.values() if preview.rank is None)
        for key in sorted(key for key, preview in held.items() if preview.rank is not None):
            used += len(held[key].png)
            if used > PREVIEW_BYTES:
                del held[key]


class KeepsTheFirstRank(Saving):
    def before(self, records: list[list[Any]], _superseding: Collection[str]) -> None:
        held = dict(self._contents.previews)
        records[1][:] = [
            attrs.evolve(preview, rank=held.get((preview.example_digest, preview.name), preview).rank)
            for preview in records[1]
        ]


class ListsDigestsByName(InMemoryStore):
    def ranked_digests(self) -> list[str]:
        return sorted(super().ranked_digests())


class CutsOffTooEarly(InMemoryStore):
    def preview_cutoff(self) -> tuple[float, str] | None:
        ranked = self._ranked()
        return super().preview_cutoff() and ranked[0][:2]


class LoadsOneExampleOfPreviews(InMemoryStore):
    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        return super().load_previews(list(example_digests)[:1])


class ForgetsEmptyObservations(InMemoryStore):
    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        found = super().load_observations(name, example_digests)
        return {digest: content for digest, content in found.items() if content}


class KeepsTheFirstObservation(Saving):
    def after(self, held: dict[str, dict[Any, Any]], *_others: Any) -> None:
        self._contents.observations.update(held["observations"])


class MixesUpNames(InMemoryStore):
    """Takes names that differ in capital letters for the same, as some databases do."""

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        names = {held for _digest, held in self._open().observations if held.lower() == name.lower()}
        digests = list(example_digests)
        return {d: c for held in names for d, c in super(MixesUpNames, self).load_observations(held, digests).items()}


class FindsWhatHasAnotherName(InMemoryStore):
    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        return {digest for digest, _name in self._open().observations} & set(example_digests)


class ReadsDigestsTwice(InMemoryStore):
    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        return super().find_observations(name, example_digests) & set(example_digests)


class NeverSupersedes(Saving):
    def before(self, *_records: Any) -> Collection[str]:
        return ()


class SupersedesEvaluationsOnly(Saving):
    def after(self, held: dict[str, dict[Any, Any]], *_others: Any) -> None:
        self._contents.previews = {**held["previews"], **self._contents.previews}


class SupersedesWhatItStores(Saving):
    """Drops the old ones last, and of the new ones all but one with them."""

    def after(self, _held: dict[str, Any], records: list[list[Any]], superseding: Collection[str]) -> None:
        if superseding:
            InMemoryStore.save_evaluations(self, records[0][-1:], *records[1:], superseding=superseding)


class SupersedesByPrefix(Saving):
    """Drops the previews of workers whose ids begin with that of the one that was fitted anew, and an @."""

    def before(self, records: list[list[Any]], superseding: Collection[str]) -> None:
        digests = {evaluation.key.example_digest for evaluation in records[0]}
        for digest, name in list(self._contents.previews):
            if digest in digests and name.startswith(tuple(f"{worker_id}@" for worker_id in superseding) or "\0"):
                del self._contents.previews[digest, name]


class SupersedesEverywhere(Saving):
    """Forgets the worker's evaluations on all examples and under all metrics."""

    def before(self, records: list[list[Any]], superseding: Collection[str]) -> None:
        fitted = {e.key.worker_id for e in records[0]} & set(superseding)
        for key in [key for key in self._contents.evaluations if key.worker_id in fitted]:
            del self._contents.evaluations[key]


class SupersedesWhateverIsNamed(Saving):
    """Forgets what is stored of the named workers, whether they were evaluated again or not."""

    def before(self, _records: list[list[Any]], superseding: Collection[str]) -> None:
        for key in [key for key in self._contents.evaluations if key.worker_id in superseding]:
            del self._contents.evaluations[key]


class SupersedesAlways(Saving):
    def before(self, records: list[list[Any]], _superseding: Collection[str]) -> Collection[str]:
        return {evaluation.key.worker_id for evaluation in records[0]}


class SupersedesObservationsToo(Saving):
    def before(self, _records: list[list[Any]], superseding: Collection[str]) -> None:
        for key in [key for key in self._contents.observations if key[1].rpartition("@")[0] in superseding]:
            del self._contents.observations[key]


# --- sessions ---------------------------------------------------------------------------------------------------------


class Committing(InMemoryStore):
    """Ends sessions otherwise."""

    def ended(self, commit: SessionCommit) -> SessionCommit:
        return commit

    def commit_session(self, session_id: str, finish: Finish, /) -> Committed:
        return super().commit_session(session_id, lambda held: self.ended(finish(held)))


class EndsSessionsWithoutLearning(Committing):
    def ended(self, commit: SessionCommit) -> SessionCommit:
        return attrs.evolve(commit, delta=None)


class ForgetsRowsAtTheEnd(Committing):
    def ended(self, commit: SessionCommit) -> SessionCommit:
        return attrs.evolve(commit, delta=commit.delta and attrs.evolve(commit.delta, rows={}))


class SharesSessions(InMemoryStore):
    def get_session(self, session_id: str, /) -> TrainingSession:
        return self._open().sessions.get(session_id) or super().get_session(session_id)


class ReplacesSessions(InMemoryStore):
    def begin_session(self, session: TrainingSession, /) -> None:
        self._open().sessions.pop(session.session_id, None)
        super().begin_session(session)


class FinishesTooEarly(InMemoryStore):
    """Asks for the end of the session with nothing, not with what is held."""

    def commit_session(self, session_id: str, finish: Finish, /) -> Committed:
        empty = HeldState("", {}, lambda _keys: {}, lambda _digests: set())
        return super().commit_session(session_id, lambda _held: finish(empty))


class FinishesBeforeItLocks(InMemoryStore):
    """Ends a session with what was learned a moment ago: what others learned meanwhile is lost."""

    def commit_session(self, session_id: str, finish: Finish, /) -> Committed:
        commit = finish(self._held())
        time.sleep(0.001)
        return super().commit_session(session_id, lambda _held: commit)


class CommitsInSteps(InMemoryStore):
    def commit_session(self, session_id: str, finish: Finish, /) -> Committed:
        ended = attrs.evolve(self.get_session(session_id), status="completed")
        super().commit_session(session_id, lambda _held: SessionCommit(ended))
        return super().commit_session(session_id, finish)


class ReversesMetrics(InMemoryStore):
    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        return reversed(list(super().iterate_metrics(session_id)))


class GivesThePageTwice(InMemoryStore):
    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        rows = list(super().iterate_metrics(session_id))
        return iter(rows[:256] + rows[:-1][255:] if len(rows) > 256 else rows)


class KnowsNoNewestSession(InMemoryStore):
    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        return super().iterate_sessions()


class RevivesWhatHasEnded(InMemoryStore):
    def renew_session(self, session_id: str, /) -> None:
        if session_id in self._open().sessions:
            self._contents.sessions[session_id] = attrs.evolve(self._contents.sessions[session_id], status="running")


# --- learned state ----------------------------------------------------------------------------------------------------


def taking(name: str, taken: Callable[[InMemoryStore, StateDelta], StateDelta]) -> type[InMemoryStore]:
    """Return a store that takes another delta than it was given."""

    def apply(self: InMemoryStore, delta: StateDelta) -> None:
        InMemoryStore._apply(self, taken(self, delta))

    return type(name, (InMemoryStore,), {"_apply": apply})


NeverDropsDocuments = taking(
    "NeverDropsDocuments",
    lambda _store, delta: attrs.evolve(delta, head={key: text for key, text in delta.head.items() if text is not None}),
)
NeverDropsAllRows = taking("NeverDropsAllRows", lambda _store, delta: attrs.evolve(delta, drops_rows=False))
DropsRowsLast = taking("DropsRowsLast", lambda _store, d: attrs.evolve(d, rows={}) if d.drops_rows else d)
ReplacesTheHead = taking(
    "ReplacesTheHead",
    lambda store, delta: attrs.evolve(delta, head={**dict.fromkeys(store._contents.head), **delta.head}),
)
RewritesDocuments = taking(  # it keeps what JSON means, not the text
    "RewritesDocuments",
    lambda _store, d: attrs.evolve(d, head={key: text and text.replace(" ", "") for key, text in d.head.items()}),
)


class LosesUpdates(InMemoryStore):
    def update_state(self, change: StateChange, /) -> StateDocuments:
        delta = change(self._held())
        time.sleep(0.001)
        return super().update_state(lambda _held: delta)


class CountsVersions(InMemoryStore):
    """Has a number in the place of a token, and forgets to count."""

    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        return attrs.evolve(super().load_state(keys), token="1" if self._open().token else "")


class ChangesItsTokenForNothing(InMemoryStore):
    def update_state(self, change: StateChange, /) -> StateDocuments:
        return super().update_state(lambda held: change(held) or StateDelta())


class GivesAllRows(InMemoryStore):
    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        return super().load_state(None)


class StaysOpen(InMemoryStore):
    def close(self) -> None:
        pass


class ForgetsWhenClosed(InMemoryStore):
    pass


# --- one in two hundred -----------------------------------------------------------------------------------------------


def loses_calls(method: str) -> type[InMemoryStore]:
    """Return a store that forgets what one call in two hundred of a method did, and answers as if all were well."""

    def call(self: InMemoryStore, *args: Any, **more: Any) -> object:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        before = {
            field.name: copy.copy(getattr(self._contents, field.name)) for field in attrs.fields(type(self._contents))
        }
        result = getattr(InMemoryStore, method)(self, *args, **more)
        if calls % 200 == 0:
            for name, value in before.items():
                setattr(self._contents, name, value)
        return result

    return type(f"LosesOneCallOf_{method}_In200", (InMemoryStore,), {method: call})


class LosesItems(Saving):
    """Forgets one record in two hundred of a kind, in whichever call it comes."""

    kind = ""

    def thin(self, kind: str, items: Iterable[Any]) -> list[Any]:
        counts = self.__dict__.setdefault("counts", {})
        kept = []
        for item in items:
            counts[kind] = counts.get(kind, 0) + 1
            if kind != self.kind or counts[kind] % 200:
                kept.append(item)
        return kept

    def before(self, records: list[list[Any]], superseding: Collection[str]) -> Collection[str]:
        for kind, items in zip(("evaluations", "previews", "observations"), records, strict=True):
            items[:] = self.thin(kind, items)
        return superseding

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(self.thin("examples", examples))

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        return super().edit_examples(dict(self.thin("edits", edits.items())), change, skip_missing=skip_missing)

    def commit_session(self, session_id: str, finish: Finish, /) -> Committed:
        def thinned(held: HeldState) -> SessionCommit:
            commit = finish(held)
            return attrs.evolve(commit, metrics=self.thin("metrics", commit.metrics))

        return super().commit_session(session_id, thinned)

    def _apply(self, delta: StateDelta) -> None:
        dropped = [item for item in delta.rows.items() if item[1] is None]
        stored = [item for item in delta.rows.items() if item[1] is not None]
        rows = dict(self.thin("rows", stored) + self.thin("drops", dropped))
        super()._apply(attrs.evolve(delta, head=dict(self.thin("heads", delta.head.items())), rows=rows))


METHODS: Final = (
    "add_examples",
    "edit_examples",
    "remove_example",
    "save_evaluations",
    "update_state",
    "begin_session",
    "commit_session",
)
KINDS: Final = ("examples", "edits", "evaluations", "previews", "observations", "metrics", "heads", "rows", "drops")

SMALL, BATCH = "test_of_many_small_writes_none_is_lost", "test_of_many_writes_in_few_calls_none_is_lost"

CAUGHT_BY: Final[dict[str, list[type[InMemoryStore]]]] = {
    "test_examples_come_back_in_order_of_addition_whatever_their_ids_and_times_say": [
        DropsTheLast,
        OrdersByTime,
        OrdersById,
        KeepsTheOldest,
    ],
    "test_records_are_not_shared_with_the_caller": [GivesLiveRecords, KeepsLiveRecords],
    "test_a_duplicate_id_refuses_the_whole_batch": [OverwritesDuplicates, AddsOneByOne],
    "test_examples_come_back_equal_in_every_field": [ForgetsEmptyResults],
    "test_examples_are_found_by_ids_in_the_order_of_the_ids": [AnswersInOrderOfAddition, RaisesKeyErrors],
    "test_examples_are_found_by_their_contents": [FindsOneOfEach, KnowsWhatItNeverHad],
    "test_a_removed_example_is_gone_and_the_others_keep_their_order": [ReusesPlaces],
    "test_nothing_that_is_gone_lends_its_place_to_something_else": [LendsResults],
    "test_statistics_count_examples_and_sessions": [CountsEverythingAsProcessed],
    "test_two_stores_have_different_ids_and_do_not_share_contents": [HasTheSameIdAsOthers],
    "test_a_change_that_fails_undoes_everything": [
        EditsOneByOne,
        RemovesBeforeTheChange,
        ForgetsBeforeTheChange,
        CommitsInSteps,
    ],
    "test_an_edit_replaces_every_field_and_keeps_the_place": [MovesEditedToTheEnd],
    "test_an_edit_passes_over_missing_examples_where_asked": [NeverSkips],
    "test_different_changes_by_several_threads_all_count": [
        ReadsBeforeItLocks,
        LeaksFailedChanges,
        FinishesBeforeItLocks,
        LosesUpdates,
    ],
    "test_contents_that_change_hands_in_one_call_lose_nothing": [ForgetsEditByEdit],
    "test_what_belongs_to_contents_goes_when_they_are_replaced": [KeepsContentsThatAreReplaced],
    "test_evaluations_sessions_and_metrics_outlive_an_example": [RemovesEvaluationsToo],
    "test_what_belongs_to_contents_goes_with_their_last_example": [
        SaysThatNothingIsGone,
        SaysThatSharedContentsAreGone,
        KnowsWhatIsBeingRemoved,
        KeepsObservationsOfNothing,
        KeepsPicturesOfNothing,
        ForgetsSharedContents,
    ],
    "test_contents_that_differ_in_one_file_are_different": [KeepsContentsOfTheSameTarget],
    "test_an_evaluation_with_the_same_key_replaces_the_old_one_and_counts_as_new": [
        KeepsTheFirstEvaluation,
        IgnoresTheReader,
    ],
    "test_previews_are_kept_up_to_the_limit_in_order_of_digest_and_name": [HoardsPreviews, DropsTheOldestPreviews],
    "test_the_last_preview_that_is_kept_may_reach_beyond_the_limit_whoever_came_first": [LeavesNoPreviewHalfInside],
    "test_previews_of_the_lowest_rank_stay_whatever_their_names": [IgnoresRanks, ListsDigestsByName],
    "test_previews_without_a_rank_are_all_kept_and_count_nothing": [
        RanksWhatHasNone,
        CountsPreviewsWithoutARank,
        KeepsTheFirstRank,
    ],
    "test_the_cutoff_of_previews_says_from_where_on_none_is_kept": [CutsOffTooEarly],
    "test_previews_come_back_by_digest_and_name_byte_for_byte": [LoadsOneExampleOfPreviews],
    "test_observations_come_back_by_name_and_digest_byte_for_byte": [
        ForgetsEmptyObservations,
        KeepsTheFirstObservation,
        ReadsDigestsTwice,
    ],
    "test_observations_come_back_for_the_wanted_name_and_examples_only": [MixesUpNames, FindsWhatHasAnotherName],
    "test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it": [
        NeverSupersedes,
        SupersedesEvaluationsOnly,
        SupersedesWhatItStores,
    ],
    "test_nothing_of_other_workers_metrics_and_examples_is_superseded": [
        SupersedesByPrefix,
        SupersedesEverywhere,
        SupersedesObservationsToo,
    ],
    "test_only_evaluations_of_the_named_workers_supersede_anything": [SupersedesWhateverIsNamed, SupersedesAlways],
    "test_a_commit_stores_session_metrics_and_learned_state": [
        EndsSessionsWithoutLearning,
        ForgetsRowsAtTheEnd,
        FinishesTooEarly,
    ],
    "test_session_records_are_not_shared_with_the_caller": [SharesSessions],
    "test_a_session_id_that_is_stored_already_is_refused": [ReplacesSessions],
    "test_metrics_come_back_equal_by_session_and_in_the_order_of_their_commits": [ReversesMetrics, GivesThePageTwice],
    "test_sessions_come_back_in_order_of_addition_whatever_their_times_say": [KnowsNoNewestSession],
    "test_renewing_changes_no_record": [RevivesWhatHasEnded],
    "test_a_delta_changes_what_it_names_and_leaves_the_rest": [
        NeverDropsDocuments,
        NeverDropsAllRows,
        DropsRowsLast,
        ReplacesTheHead,
    ],
    "test_documents_of_learned_state_come_back_to_the_last_character": [RewritesDocuments, GivesAllRows],
    "test_every_change_has_a_token_and_no_other_does": [CountsVersions, ChangesItsTokenForNothing],
    "test_a_closed_store_refuses_everything": [StaysOpen],
    "test_everything_survives_reopening": [ForgetsWhenClosed],
    SMALL: [loses_calls(method) for method in METHODS],
    BATCH: [type(f"LosesOneOf_{kind}_In200", (LosesItems,), {"kind": kind}) for kind in KINDS],
}


def judge(store_class: type[InMemoryStore], test_name: str, folder: Path) -> None:
    """Run one test of the contract on a new store."""

    class Contract(DurableTrainingStoreContract):
        def make_store(self, folder: Path) -> TrainingStore:
            return store_class()

        def reopen(self, store: TrainingStore) -> TrainingStore:
            return store_class()

    contract = Contract()
    test = getattr(contract, test_name)
    more = {"tmp_path": folder} if "tmp_path" in inspect.signature(test).parameters else {}
    test(contract.make_store(folder), **more)


@pytest.mark.parametrize(
    ("store_class", "test_name"),
    [(store_class, test_name) for test_name, classes in CAUGHT_BY.items() for store_class in classes],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_contract_catches_a_store_that_is_wrong(
    store_class: type[InMemoryStore], test_name: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, LookupError, TsmTrainingError, pytest.fail.Exception)):
        judge(store_class, test_name, tmp_path)


@pytest.mark.parametrize("test_name", [name for name in CAUGHT_BY if name != "test_everything_survives_reopening"])
def test_a_store_that_is_right_passes_where_the_wrong_ones_are_caught(test_name: str, tmp_path: Path) -> None:
    judge(InMemoryStore, test_name, tmp_path)


@pytest.mark.parametrize("store_class", [Editing, LosesItems], ids=lambda value: value.__name__)
def test_what_the_wrong_ones_are_made_of_is_right(store_class: type[InMemoryStore], tmp_path: Path) -> None:
    judge(store_class, BATCH, tmp_path)
