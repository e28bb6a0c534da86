"""Random histories of every store beside a plain model, with closed handles, second handles, and real crashes."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tsm_training.data import ExampleEdit, Preview, StateChange, StateDocuments, TrainingStore
from tsm_training.errors import SessionNotFoundError
from tsm_training.storage import InMemoryStore, TrainingDataManager
from tsm_training.testing import make_example, make_session
from tsm_training.testing.stateful import DurableTrainingStoreMachine, TrainingStoreMachine


class DatabaseInMemoryMachine(TrainingStoreMachine):
    def open_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(":memory:")


class DatabaseFileMachine(DurableTrainingStoreMachine):
    def open_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(folder / "training.db")

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(number=st.integers(1, 5), is_writing=st.booleans())
    def kill_another_process(self, number: int, is_writing: bool) -> None:
        """Let a process of its own write, say what is stored, and be killed in a transaction or right behind it."""
        names = [f"child {number}", f"session {number}"]
        if names[0] in {example.example_id for example in self.model.iterate_examples()}:
            return
        self.kill(names, is_writing=is_writing)
        self.expect_abandoned_sessions_to_be_ended(self.handles[0])  # that of an earlier child, by this one
        self.model.add_examples([make_example(names[0])])
        self.model.begin_session(make_session(names[1]))
        self.owners[names[1]] = InMemoryStore()  # nobody who is still there
        for handle in self.handles:
            self.compare(handle)  # whoever was open goes on; whoever opens next finds the session's end

    def kill(self, names: Sequence[str], *, is_writing: bool) -> None:
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside other tests' threads
            child = os.fork()
        if child == 0:
            os.close(ours)
            _write_and_die(self.folder / "training.db", names, theirs, is_writing=is_writing)
        os.close(theirs)
        with os.fdopen(ours) as acknowledged:
            done = acknowledged.read()
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert done == "examples session "


def _write_and_die(path: Path, names: Sequence[str], report: int, *, is_writing: bool) -> None:
    def die(_held: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    try:
        store = TrainingDataManager(path)
        store.add_examples([make_example(names[0])])
        os.write(report, b"examples ")
        store.begin_session(make_session(names[1]))
        os.write(report, b"session ")
        if is_writing:
            store.edit_examples({names[0]: lambda stored: attrs.evolve(stored, metadata={"lost": True})}, die)
        die(None)
    finally:
        os._exit(1)


ORDINARY = settings(
    stateful_step_count=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestDatabaseInMemory = DatabaseInMemoryMachine.TestCase
TestDatabaseInMemory.settings = settings(ORDINARY, max_examples=settings.default.max_examples // 2)

TestDatabaseFile = pytest.mark.slow(DatabaseFileMachine.TestCase)
TestDatabaseFile.settings = settings(ORDINARY, max_examples=settings.default.max_examples // 2)


# --- the machine catches stores that are wrong -----------------------------------------------------------------------


class Forgets(InMemoryStore):
    """Keeps nothing that could be opened again."""

    @property
    def store_id(self) -> str:
        return "forgets"


class MovesEditedToTheEnd(InMemoryStore):
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        documents = super().edit_examples(edits, change, skip_missing=skip_missing)
        for example_id in edits.keys() & self._contents.examples.keys():
            self._contents.examples[example_id] = self._contents.examples.pop(example_id)
        return documents


class LearnsBeforeItRemoves(InMemoryStore):
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        documents = None if change is None else self.update_state(change)
        super().remove_example(example_id)
        return documents


class DropsOneWriteInThree(InMemoryStore):
    def save_evaluations(self, evaluations: Sequence[Any], *more: Any, **others: Any) -> None:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        super().save_evaluations(evaluations if calls % 3 else (), *more, **others)


class IgnoresRanks(InMemoryStore):
    def save_evaluations(
        self, evaluations: Sequence[Any], previews: Sequence[Preview] = (), *more: Any, **others: Any
    ) -> None:
        super().save_evaluations(evaluations, [attrs.evolve(p, rank=0.0) for p in previews], *more, **others)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store_class", "machine"),
    [
        (Forgets, DurableTrainingStoreMachine),
        (MovesEditedToTheEnd, TrainingStoreMachine),
        (LearnsBeforeItRemoves, TrainingStoreMachine),
        (DropsOneWriteInThree, TrainingStoreMachine),
        (IgnoresRanks, TrainingStoreMachine),
    ],
    ids=lambda value: value.__name__,
)
def test_the_machine_catches_a_store_that_is_wrong(
    store_class: type[InMemoryStore], machine: type[TrainingStoreMachine]
) -> None:
    class Machine(machine):  # type: ignore[misc, valid-type]
        def open_store(self, folder: Path) -> TrainingStore:
            return store_class()

    found_only = settings(ORDINARY, max_examples=200, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, SessionNotFoundError)):
        run_state_machine_as_test(Machine, settings=found_only)


def test_a_machine_without_a_store_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError):
        TrainingStoreMachine().open_store(Path())  # type: ignore[abstract]


def test_a_store_that_cannot_play_crashes_is_spared_them() -> None:
    class Uncrashable(DatabaseFileMachine):
        def crash(self, folder: Path, another: Path) -> None:
            """Do nothing: there is no folder to copy, say."""

    machine = Uncrashable()
    machine.begin()
    handle = machine.handles[0]
    machine.crash_and_reopen(which=0, examples=[], example_id="a")
    assert machine.handles == [handle]
    machine.agree()
    machine.teardown()
