import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training import testing
from tsm_training.data import (
    PREVIEW_BYTES,
    ROLES,
    Evaluation,
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
from tsm_training.learning import LearnedState
from tsm_training.storage import InMemoryStore, TrainingDataManager
from tsm_training.testing import (
    MOMENT,
    DurableTrainingStoreContract,
    TrainingStoreContract,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_files,
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
    store.save_evaluations(
        [make_evaluation()], [Preview("digest", "good", b"png")], [ObservationRecord("digest", "good", b"x")]
    )
    store.close()
    assert store._contents.examples == {}
    assert store._contents.previews == {}
    assert store._contents.observations == {}


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
        "group_by": None,
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
    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        held = self._open().evaluations
        super().save_evaluations([e for e in evaluations if e.key not in held], *more, **others)


class HoardsPreviews(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        held = dict(self._open().previews)
        super().save_evaluations(evaluations, *more, **others)
        self._contents.previews.update(held)


class DropsTheOldestPreviews(InMemoryStore):
    """Keeps what came last, so that a change of threads changes what is kept."""

    def save_evaluations(
        self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        held = dict(self._open().previews)
        for preview in previews:
            held.pop((preview.example_digest, preview.name), None)
            held[preview.example_digest, preview.name] = preview
        while sum(len(preview.png) for preview in held.values()) > PREVIEW_BYTES:
            del held[next(iter(held))]
        super().save_evaluations(evaluations, (), *more, **others)
        self._contents.previews.clear()
        self._contents.previews.update(held)


class FillsUpWithSmallPreviews(InMemoryStore):
    """Leaves out a preview that is too large for the room that is left, so that one behind it may find room."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        super().save_evaluations(evaluations, *more, **others)
        used = 0
        for key in sorted(self._contents.previews):
            used += len(self._contents.previews[key].png)
            if used > PREVIEW_BYTES:
                del self._contents.previews[key]


class IgnoresRanks(InMemoryStore):
    """Keeps previews in order of digest and name, as if ranks said nothing."""

    def save_evaluations(
        self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        ranked = [preview if preview.rank is None else attrs.evolve(preview, rank=0.0) for preview in previews]
        super().save_evaluations(evaluations, ranked, *more, **others)


class CountsPreviewsWithoutARank(InMemoryStore):
    """Never drops them, but leaves less room for the others."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        super().save_evaluations(evaluations, *more, **others)
        held = self._contents.previews
        used = sum(len(preview.png) for preview in held.values() if preview.rank is None)
        for key in sorted(key for key, preview in held.items() if preview.rank is not None):
            used += len(held[key].png)
            if used > PREVIEW_BYTES:
                del held[key]


class RanksWhatHasNone(InMemoryStore):
    """Takes previews without a rank for the last of all."""

    def save_evaluations(
        self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        ranked = [attrs.evolve(preview, rank=9e9) if preview.rank is None else preview for preview in previews]
        super().save_evaluations(evaluations, ranked, *more, **others)


class KeepsTheFirstRank(InMemoryStore):
    """Replaces the picture of a preview, but not its rank."""

    def save_evaluations(
        self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        held = dict(self._open().previews)
        ranked = [attrs.evolve(p, rank=held.get((p.example_digest, p.name), p).rank) for p in previews]
        super().save_evaluations(evaluations, ranked, *more, **others)


class ForgetsEmptyObservations(InMemoryStore):
    """Takes an observation without contents for none."""

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        found = super().load_observations(name, example_digests)
        return {digest: content for digest, content in found.items() if content}


class KeepsTheFirstObservation(InMemoryStore):
    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        **others: Any,
    ) -> None:
        held = dict(self._open().observations)
        super().save_evaluations(evaluations, previews, observations, **others)
        self._contents.observations.update(held)


class MixesUpNames(InMemoryStore):
    """Takes names that differ in capital letters for the same, as some databases do."""

    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        names = {held for _digest, held in self._open().observations if held.lower() == name.lower()}
        digests = list(example_digests)
        return {d: c for held in names for d, c in super(MixesUpNames, self).load_observations(held, digests).items()}


class FindsWhatHasAnotherName(InMemoryStore):
    """Looks for any observation of the examples."""

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        held = {digest for digest, _name in self._open().observations}
        return held & set(example_digests)


class ReadsDigestsTwice(InMemoryStore):
    """Takes whatever digests come in for a list."""

    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        return super().find_observations(name, example_digests) & set(example_digests)


class NeverSupersedes(InMemoryStore):
    def save_evaluations(self, *records: Any, superseding: Collection[str] = ()) -> None:
        super().save_evaluations(*records)


class SupersedesEvaluationsOnly(InMemoryStore):
    def save_evaluations(
        self, evaluations: Sequence[Evaluation], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        held = dict(self._open().previews)
        super().save_evaluations(evaluations, previews, *more, **others)
        self._contents.previews = {**held, **self._contents.previews}


class SupersedesWhatItStores(InMemoryStore):
    """Drops the old ones last, and of the new ones all but one with them."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        super().save_evaluations(evaluations, *more, **others)
        if others.get("superseding"):
            super().save_evaluations(evaluations[-1:], *more, **others)


class SupersedesByPrefix(InMemoryStore):
    """Drops the previews of workers whose ids begin with that of the one that was fitted anew, and an @."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        fitted = tuple(f"{worker_id}@" for worker_id in others.get("superseding", ()))
        digests = {evaluation.key.example_digest for evaluation in evaluations}
        held = self._open().previews
        for digest, name in list(held):
            if digest in digests and fitted and name.startswith(fitted):
                del held[digest, name]
        super().save_evaluations(evaluations, *more, **others)


class SupersedesEverywhere(InMemoryStore):
    """Forgets the worker's evaluations on all examples, though only some were evaluated anew."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        fitted = {e.key.worker_id for e in evaluations} & set(others.get("superseding", ()))
        held = self._open().evaluations
        for key in [key for key in held if key.worker_id in fitted]:
            del held[key]
        super().save_evaluations(evaluations, *more, **others)


class SupersedesForEveryMetric(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        fitted = {(e.key.example_digest, e.key.worker_id) for e in evaluations}
        held = self._open().evaluations
        for key in list(held):
            if key.worker_id in others.get("superseding", ()) and key[:2] in fitted:
                del held[key]
        super().save_evaluations(evaluations, *more, **others)


class SupersedesWhateverIsNamed(InMemoryStore):
    """Forgets what is stored of the named workers, whether they were evaluated again or not."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        held = self._open().evaluations
        for key in [key for key in held if key.worker_id in others.get("superseding", ())]:
            del held[key]
        super().save_evaluations(evaluations, *more, **others)


class SupersedesAlways(InMemoryStore):
    """Takes every worker for one that was fitted anew."""

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        workers = {evaluation.key.worker_id for evaluation in evaluations}
        super().save_evaluations(evaluations, *more, **{**others, "superseding": workers})


class SupersedesObservationsToo(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        held = self._open().observations
        for digest, name in list(held):
            if name.rpartition("@")[0] in others.get("superseding", ()):
                del held[digest, name]
        super().save_evaluations(evaluations, *more, **others)


class KeepsWhatBelongsToNothing(InMemoryStore):
    """Leaves observations where they are when the last example of their contents goes."""

    def _forget_contents(self, files: ExampleFiles | None) -> None:
        held = dict(self._contents.observations)
        super()._forget_contents(files)
        self._contents.observations = held


class KeepsPicturesOfNothing(InMemoryStore):
    def _forget_contents(self, files: ExampleFiles | None) -> None:
        held = dict(self._contents.previews)
        super()._forget_contents(files)
        self._contents.previews = held


class ForgetsSharedContents(InMemoryStore):
    """Does not look whether another example has the same contents."""

    def _forget_contents(self, files: ExampleFiles | None) -> None:
        held = dict(self._contents.examples)
        self._contents.examples.clear()
        super()._forget_contents(files)
        self._contents.examples.update(held)


class ForgetsContentsOfTheSameTarget(InMemoryStore):
    """Takes contents for the same where the targets are."""

    def _forget_contents(self, files: ExampleFiles | None) -> None:
        held = [example.files for example in self._contents.examples.values()]
        if files is None or all(other is None or other.target != files.target for other in held):
            super()._forget_contents(files)


class ForgetsEvaluationsToo(InMemoryStore):
    def _forget_contents(self, files: ExampleFiles | None) -> None:
        super()._forget_contents(files)
        if files is not None:
            held = self._contents.evaluations
            for key in [key for key in held if key.example_digest == files.digest]:
                del held[key]


class ForgetsBeforeTheChange(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        example = self._open().examples.pop(example_id, None)
        if example is not None:
            self._forget_contents(example.files)
            self._contents.examples[example_id] = example
        return super().remove_example(example_id, change)


class ForgetsEditByEdit(InMemoryStore):
    """Looks after each edit who has the old contents, and not after all of them."""

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        held = dict(self._open().examples)
        learning = super().edit_examples(edits, change, skip_missing=skip_missing)
        edited = {i: self._contents.examples[i] for i in edits if i in held}
        self._contents.examples.update(held)
        for example_id, example in edited.items():
            self._contents.examples[example_id] = example
            self._forget_contents(held[example_id].files)
        return learning


class ForgetsBeforeTheEdit(InMemoryStore):
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        examples = self._open().examples
        for example_id, edit in edits.items():
            try:
                stored = self.get_example(example_id)
                edited = edit(stored)
            except Exception:
                break
            if edited.files != stored.files:
                examples[example_id] = edited
                self._forget_contents(stored.files)
                examples[example_id] = stored
        return super().edit_examples(edits, change, skip_missing=skip_missing)


class KeepsContentsThatAreReplaced(InMemoryStore):
    """Thinks of what belongs to contents when an example is removed, and not when its files are replaced."""

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        held = dict(self._open().observations)
        learning = super().edit_examples(edits, change, skip_missing=skip_missing)
        self._contents.observations = held
        return learning


class ForgetsTheFitsOfWorkers(InMemoryStore):
    def load_learning(self) -> Learning:
        held = super().load_learning()
        return attrs.evolve(held, state=attrs.evolve(held.state, fits={}))


class AddsFitsOfWorkersToOldOnes(InMemoryStore):
    def update_learning(self, change: StateChange, /) -> Learning:
        def joined(held: LearnedState) -> LearnedState:
            state = change(held)
            return attrs.evolve(state, fits={**held.fits, **state.fits})

        return super().update_learning(joined)


class ForgetsTheFit(InMemoryStore):
    def load_learning(self) -> Learning:
        held = super().load_learning()
        return attrs.evolve(held, state=attrs.evolve(held.state, fitted=None))


class ForgetsGroups(InMemoryStore):
    def load_learning(self) -> Learning:
        held = super().load_learning()
        return attrs.evolve(held, state=attrs.evolve(held.state, group_by=None, groups={}))


class ForgetsTheFitsOfGroups(InMemoryStore):
    def load_learning(self) -> Learning:
        held = super().load_learning()
        groups = {label: attrs.evolve(group, fitted=None) for label, group in held.state.groups.items()}
        return attrs.evolve(held, state=attrs.evolve(held.state, groups=groups))


class FitsOnlyWithNewEvidence(InMemoryStore):
    """Writes what was fitted only where the evidence has changed."""

    def update_learning(self, change: StateChange, /) -> Learning:
        def fitted(held: LearnedState) -> LearnedState:
            state = change(held)
            is_new = (state.bases, state.absorbed) != (held.bases, held.absorbed)
            return state if is_new else attrs.evolve(state, fitted=held.fitted)

        return super().update_learning(fitted)


class AddsGroupsToOldOnes(InMemoryStore):
    """Never takes a group away, nor the key by which another training was grouped."""

    def update_learning(self, change: StateChange, /) -> Learning:
        def joined(held: LearnedState) -> LearnedState:
            state = change(held)
            return attrs.evolve(state, group_by=state.group_by or held.group_by, groups={**held.groups, **state.groups})

        return super().update_learning(joined)


class EndsSessionsWithoutTheFit(InMemoryStore):
    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        def unfitted(held: LearnedState) -> SessionCommit:
            commit = finish(held)
            state = commit.state
            return attrs.evolve(commit, state=None if state is None else attrs.evolve(state, fitted=None))

        return super().commit_session(session_id, unfitted)


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


class DropsOneWriteIn200(InMemoryStore):
    """Says that all is well, and forgets one call in two hundred, of whatever kind."""

    def _is_kept(self) -> bool:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return bool(calls % 200)

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        if self._is_kept():
            super().add_examples(examples)

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        return super().edit_examples(edits, change, skip_missing=skip_missing) if self._is_kept() else None

    def save_evaluations(self, evaluations: Sequence[Evaluation], *more: Any, **others: Any) -> None:
        if self._is_kept():
            super().save_evaluations(evaluations, *more, **others)

    def update_learning(self, change: StateChange, /) -> Learning:
        if self._is_kept():
            return super().update_learning(change)
        held = self.load_learning()
        return Learning(held.version + 1, change(held.state))


class DropsOneAdditionIn200(DropsOneWriteIn200):
    """Forgets only examples: they are kept by a lock of their own, perhaps."""

    edit_examples = InMemoryStore.edit_examples
    save_evaluations = InMemoryStore.save_evaluations
    update_learning = InMemoryStore.update_learning


class ReusesIds(InMemoryStore):
    """Numbers its examples, and gives the number of one that is gone to the next, as plain row ids do."""

    @property
    def numbers(self) -> dict[str, int]:
        return self.__dict__.setdefault("numbers", {})

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        super().add_examples(examples)
        for example in examples:
            taken = set(self.numbers.values())
            self.numbers[example.example_id] = next(n for n in range(len(taken) + 1) if n not in taken)

    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        examples = sorted(super().iterate_examples(), key=lambda example: self.numbers[example.example_id])
        yield from examples[-newest:] if newest else examples

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        learning = super().remove_example(example_id, change)
        del self.numbers[example_id]
        return learning


class LendsResults(InMemoryStore):
    """Forgets to tidy up behind an example that is removed: the next of that name finds its results."""

    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        left: dict[str, Any] = self.__dict__.setdefault("left", {})
        found = [attrs.evolve(e, worker_results=e.worker_results or left.get(e.example_id)) for e in examples]
        super().add_examples(found)

    def remove_example(self, example_id: str, change: StateChange | None = None) -> Learning | None:
        self.__dict__.setdefault("left", {})[example_id] = self.get_example(example_id).worker_results
        return super().remove_example(example_id, change)


class ReadsBeforeItLocks(InMemoryStore):
    """Hands an edit what it read a moment ago: the last of two writers wins."""

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        known = self._open().examples
        ready = {i: edit(self.get_example(i)) for i, edit in edits.items() if i in known or not skip_missing}
        time.sleep(0.001)
        made: dict[str, ExampleEdit] = {i: lambda _stored, e=e: e for i, e in ready.items()}  # type: ignore[misc]
        return super().edit_examples(made, change, skip_missing=skip_missing)


class FinishesBeforeItLocks(InMemoryStore):
    """Ends a session with what was learned a moment ago: what others learned meanwhile is lost."""

    def commit_session(
        self, session_id: str, finish: Callable[[LearnedState], SessionCommit], /
    ) -> tuple[TrainingSession, Learning]:
        commit = finish(self.load_learning().state)
        time.sleep(0.001)
        return super().commit_session(session_id, lambda _held: commit)


class LeaksFailedChanges(InMemoryStore):
    """Undoes a change that fails by putting everything back as it was, over the heads of others."""

    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> Learning | None:
        before = self._open().learning
        time.sleep(0.001)
        try:
            return super().edit_examples(edits, change, skip_missing=skip_missing)
        except Exception:
            self._contents.learning = before
            raise


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
    HoardsPreviews: "test_previews_are_kept_up_to_the_limit_in_order_of_digest_and_name",
    DropsTheOldestPreviews: "test_previews_are_kept_up_to_the_limit_in_order_of_digest_and_name",
    FillsUpWithSmallPreviews: "test_which_previews_are_kept_does_not_depend_on_who_came_first",
    IgnoresRanks: "test_previews_of_the_lowest_rank_stay_whatever_their_names",
    CountsPreviewsWithoutARank: "test_previews_without_a_rank_are_all_kept_and_count_nothing",
    RanksWhatHasNone: "test_previews_without_a_rank_are_all_kept_and_count_nothing",
    KeepsTheFirstRank: "test_a_replaced_preview_has_its_new_rank",
    ForgetsEmptyObservations: "test_observations_come_back_by_digest_and_byte_for_byte",
    KeepsTheFirstObservation: "test_an_observation_with_the_same_digest_and_name_replaces_the_old_one",
    MixesUpNames: "test_observations_come_back_for_the_wanted_name_and_examples_only",
    FindsWhatHasAnotherName: "test_observations_come_back_for_the_wanted_name_and_examples_only",
    ReadsDigestsTwice: "test_observations_may_be_asked_for_by_many_digests_and_by_any_iterable",
    NeverSupersedes: "test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it",
    SupersedesEvaluationsOnly: "test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it",
    SupersedesWhatItStores: "test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it",
    SupersedesByPrefix: "test_workers_whose_ids_begin_alike_are_superseded_each_for_itself",
    SupersedesEverywhere: "test_nothing_of_other_workers_metrics_and_examples_is_superseded",
    SupersedesForEveryMetric: "test_nothing_of_other_workers_metrics_and_examples_is_superseded",
    SupersedesObservationsToo: "test_nothing_of_other_workers_metrics_and_examples_is_superseded",
    SupersedesWhateverIsNamed: "test_only_evaluations_of_the_named_workers_supersede_anything",
    SupersedesAlways: "test_only_evaluations_of_the_named_workers_supersede_anything",
    KeepsWhatBelongsToNothing: "test_observations_and_previews_go_with_the_last_example_of_their_contents",
    KeepsPicturesOfNothing: "test_observations_and_previews_go_with_the_last_example_of_their_contents",
    ForgetsSharedContents: "test_observations_and_previews_go_with_the_last_example_of_their_contents",
    ForgetsContentsOfTheSameTarget: "test_contents_that_differ_in_one_file_are_different",
    ForgetsEvaluationsToo: "test_evaluations_sessions_and_metrics_outlive_an_example",
    ForgetsBeforeTheChange: "test_observations_and_previews_stay_where_a_removal_fails",
    ForgetsBeforeTheEdit: "test_observations_and_previews_stay_where_an_update_fails",
    ForgetsEditByEdit: "test_contents_that_change_hands_in_one_call_lose_nothing",
    KeepsContentsThatAreReplaced: "test_observations_and_previews_go_with_contents_that_are_replaced",
    ForgetsTheFitsOfWorkers: "test_what_was_fitted_and_learned_by_group_comes_back_in_every_field",
    AddsFitsOfWorkersToOldOnes: "test_a_fit_and_groups_change_though_the_evidence_stays",
    ForgetsTheFit: "test_what_was_fitted_and_learned_by_group_comes_back_in_every_field",
    ForgetsGroups: "test_what_was_fitted_and_learned_by_group_comes_back_in_every_field",
    ForgetsTheFitsOfGroups: "test_what_was_fitted_and_learned_by_group_comes_back_in_every_field",
    FitsOnlyWithNewEvidence: "test_a_fit_and_groups_change_though_the_evidence_stays",
    AddsGroupsToOldOnes: "test_what_the_new_state_lacks_is_gone",
    EndsSessionsWithoutTheFit: "test_a_commit_stores_session_metrics_and_learned_state",
    RaisesKeyErrors: "test_an_unknown_example_is_a_lookup_error",
    StaysOpen: "test_a_closed_store_refuses_to_be_read",
    CountsEverythingAsProcessed: "test_statistics_count_examples_and_sessions",
    HasTheSameIdAsOthers: "test_has_an_id_that_no_other_store_has",
    ForgetsWhenClosed: "test_examples_survive_reopening",
    DropsOneWriteIn200: "test_of_many_small_writes_none_is_lost",
    DropsOneAdditionIn200: "test_of_many_small_writes_none_is_lost",
    ReusesIds: "test_what_is_added_after_a_removal_comes_last",
    LendsResults: "test_an_example_added_again_has_nothing_of_the_removed_one",
    ReadsBeforeItLocks: "test_different_changes_by_several_threads_all_count",
    FinishesBeforeItLocks: "test_sessions_committed_by_several_threads_all_count",
    LeaksFailedChanges: "test_a_change_that_fails_in_one_thread_takes_nothing_of_the_others_with_it",
}

CLASSIC_FAULTS = {
    "drops one write in 200": DropsOneWriteIn200,
    "returns live references": GivesLiveRecords,
    "reorders": OrdersById,
    "forgets on reopen": ForgetsWhenClosed,
    "non-atomic update": UpdatesOneByOne,
    "re-uses ids": ReusesIds,
}


def contract_of(store_class: type[InMemoryStore]) -> DurableTrainingStoreContract:
    class Contract(DurableTrainingStoreContract):
        def make_store(self, folder: Path) -> TrainingStore:
            return store_class()

        def reopen(self, store: TrainingStore) -> TrainingStore:
            return store_class()

    return Contract()


def judge(contract: DurableTrainingStoreContract, test_name: str, folder: Path) -> None:
    """Run one test of a contract on a new store."""
    test = getattr(contract, test_name)
    more = {"tmp_path": folder} if "tmp_path" in inspect.signature(test).parameters else {}
    test(contract.make_store(folder), **more)


@pytest.mark.parametrize(("store_class", "test_name"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_contract_catches_a_store_that_is_wrong(
    store_class: type[InMemoryStore], test_name: str, tmp_path: Path
) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        judge(contract_of(store_class), test_name, tmp_path)


@pytest.mark.parametrize("test_name", sorted(set(BROKEN.values()) - {BROKEN[ForgetsWhenClosed]}))
def test_a_store_that_is_right_passes_where_the_wrong_ones_are_caught(test_name: str, tmp_path: Path) -> None:
    judge(contract_of(InMemoryStore), test_name, tmp_path)


@pytest.mark.parametrize("fault", CLASSIC_FAULTS)
def test_each_classic_fault_is_among_the_broken_stores(fault: str) -> None:
    assert CLASSIC_FAULTS[fault] in BROKEN
