"""The contract of a store, as tests."""

# ruff: noqa: D102, PLR2004, S101 - these are tests: their names state the behaviour, and they assert

from __future__ import annotations

import contextlib
import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import attrs
import pytest

from tsm_training.data import (
    PREVIEW_BYTES,
    Evaluation,
    EvaluationKey,
    ExampleScores,
    ObservationRecord,
    Preview,
    SessionCommit,
    TrainingExample,
    TrainingSession,
    TrainingStore,
)
from tsm_training.errors import (
    DuplicateExampleError,
    ExampleNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
    StorageClosedError,
    StorageError,
)
from tsm_training.learning import Absorbed, LearnedState, WorkerBase
from tsm_training.testing.records import (
    MOMENT,
    ODD_TEXT,
    complete_example,
    complete_session,
    make_evaluation,
    make_example,
    make_files,
    make_learned_state,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)

__all__ = ["DurableTrainingStoreContract", "TrainingStoreContract"]

T = TypeVar("T")


class _FailureError(Exception):
    """Raised on purpose by a change."""


def _fail(_held: LearnedState) -> NoReturn:
    raise _FailureError


def _fail_to_edit(_stored: TrainingExample) -> NoReturn:
    raise _FailureError


def _moved(stored: TrainingExample) -> TrainingExample:
    return attrs.evolve(stored, source_path="/elsewhere")


def _becomes(state: LearnedState) -> Callable[[LearnedState], LearnedState]:
    return lambda _held: state


def _count_up(held: LearnedState) -> LearnedState:
    """Add one update of one worker: changes that are lost are missed in the sum."""
    base = held.bases.get("counter", WorkerBase(1.0))
    counted = attrs.evolve(base, update_count=base.update_count + 1)
    return attrs.evolve(held, bases={**held.bases, "counter": counted})


def _hex(state: LearnedState) -> list[str]:
    """Return all floats of a state in a form that shows every bit."""
    groups = [state.groups[label] for label in sorted(state.groups)]
    records: list[WorkerBase | Absorbed] = []
    for by_worker in (state.bases, *(group.bases for group in groups)):
        records += [by_worker[worker_id] for worker_id in sorted(by_worker)]
    for digest in sorted(state.absorbed):
        records += [state.absorbed[digest][worker_id] for worker_id in sorted(state.absorbed[digest])]
    values = [value for record in records for value in attrs.astuple(record)]
    for fitted in (state.fitted, *(group.fitted for group in groups)):
        if fitted is not None:
            values += [fitted.absorbed, *(fitted.shares[worker_id] for worker_id in sorted(fitted.shares))]
    return [value.hex() if isinstance(value, float) else repr(value) for value in values]


def _at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run all actions in threads of their own that start together."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        barrier.wait(timeout=30)
        return action()

    with ThreadPoolExecutor(len(actions)) as executor:
        return list(executor.map(run, actions))


def _fits_that_change() -> list[LearnedState]:
    """Return states whose fitted blend, groups and workers' fits come, change and go while the evidence stays."""
    first, second = make_learned_state(1), make_learned_state(2)
    label, *_others = first.groups
    return [
        first,
        attrs.evolve(first, fitted=None),
        attrs.evolve(first, fitted=second.fitted),
        attrs.evolve(first, groups={**first.groups, label: attrs.evolve(first.groups[label], fitted=None)}),
        attrs.evolve(first, groups={label: first.groups[label]}),
        attrs.evolve(first, group_by=second.group_by, groups=second.groups),
        attrs.evolve(first, group_by=None, groups={}),
        attrs.evolve(first, fits={}),
        attrs.evolve(first, fits=second.fits),
        attrs.evolve(first, fits={**first.fits, "another": b"{}"}),
        attrs.evolve(first, fits={"good": b""}),
        first,
    ]


def _keyed(worker_id: str, fingerprint: str = "1", metric: str = "m", digest: str = "d0") -> Evaluation:
    """Return an evaluation under that key."""
    return make_evaluation(key=EvaluationKey(digest, worker_id, fingerprint, metric))


def _pictured(*names: str, digest: str = "d0") -> list[Preview]:
    return [Preview(digest, name, name.encode()) for name in names]


# --- the contract ---------------------------------------------------------------------------------------------------


class TrainingStoreContract(ABC):
    """Tests that every `TrainingStore` passes: inherit, and implement `make_store`."""

    @abstractmethod
    def make_store(self, folder: Path) -> TrainingStore:
        """Return a new, empty store; what it writes belongs below `folder`, which exists."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TrainingStore]:
        """Give each test an empty store, and close it afterwards."""
        with contextlib.closing(self.make_store(tmp_path)) as store:
            yield store

    def _add(self, store: TrainingStore, *example_ids: str) -> None:
        for example_id in example_ids:
            store.add_examples([make_example(example_id)])

    def _ids(self, store: TrainingStore, newest: int | None = None) -> list[str]:
        return [example.example_id for example in store.iterate_examples(newest)]

    def _commit(self, store: TrainingStore, session_id: str = "session", **parts: Any) -> TrainingSession:
        session = complete_session(session_id)
        return store.commit_session(session_id, lambda _held: SessionCommit(session, **parts))[0]

    # --- a new store ---

    def test_is_a_training_store(self, store: TrainingStore) -> None:
        assert isinstance(store, TrainingStore)

    def test_a_new_store_is_empty(self, store: TrainingStore) -> None:
        assert store.get_all_examples() == []
        assert store.get_all_sessions() == []
        assert store.load_evaluations(["digest"]) == []
        assert store.load_previews("digest") == {}
        assert store.load_observations("worker@1", ["digest"]) == {}
        assert store.find_observations("worker@1", ["digest"]) == set()

    def test_a_new_store_has_learned_nothing(self, store: TrainingStore) -> None:
        learning = store.load_learning()
        assert learning.version == 0
        assert learning.state == LearnedState()

    def test_says_where_it_is(self, store: TrainingStore) -> None:
        assert isinstance(store.location, str)
        assert store.location

    def test_has_an_id_that_no_other_store_has(self, store: TrainingStore, tmp_path: Path) -> None:
        folder = tmp_path / "another"
        folder.mkdir()
        with contextlib.closing(self.make_store(folder)) as other:
            assert isinstance(store.store_id, str)
            assert store.store_id
            assert store.store_id != other.store_id

    def test_two_stores_do_not_share_contents(self, store: TrainingStore, tmp_path: Path) -> None:
        folder = tmp_path / "another"
        folder.mkdir()
        self._add(store, "a")
        with contextlib.closing(self.make_store(folder)) as other:
            assert other.get_all_examples() == []

    # --- examples in and out ---

    def test_an_example_comes_back_equal_in_every_field(self, store: TrainingStore) -> None:
        example = complete_example(ODD_TEXT)
        store.add_examples([example])
        assert store.get_example(ODD_TEXT) == example
        assert store.get_all_examples() == [example]

    def test_an_example_with_nothing_optional_comes_back_equal(self, store: TrainingStore) -> None:
        example = make_example("a", metadata=None, files=None)
        store.add_examples([example])
        stored = store.get_example("a")
        assert stored == example
        assert stored.metadata == {}
        assert stored.worker_results is None
        assert stored.validation_scores is None
        assert stored.files is None

    def test_no_results_and_empty_results_are_different(self, store: TrainingStore) -> None:
        store.add_examples([make_example("none"), make_example("empty", worker_results={})])
        assert store.get_example("none").worker_results is None
        assert store.get_example("empty").worker_results == {}

    def test_metadata_keeps_its_types_and_order(self, store: TrainingStore) -> None:
        metadata = {"z": 1, "a": 1.0, "m": True, "n": None, "t": "1"}
        store.add_examples([make_example("a", metadata=metadata)])
        stored = store.get_example("a").metadata
        assert list(stored) == list(metadata)
        assert [type(value) for value in stored.values()] == [int, float, bool, type(None), str]

    def test_times_keep_their_microseconds_and_are_aware(self, store: TrainingStore) -> None:
        times = [MOMENT, MOMENT.replace(microsecond=0), MOMENT.replace(microsecond=1)]
        store.add_examples([make_example(str(number), created_at=time) for number, time in enumerate(times)])
        stored = [example.created_at for example in store.iterate_examples()]
        assert stored == times
        assert all(time.utcoffset() == timedelta(0) for time in stored)

    def test_examples_come_back_in_order_of_addition(self, store: TrainingStore) -> None:
        self._add(store, "c", "a", "d", "b")
        assert self._ids(store) == ["c", "a", "d", "b"]

    def test_order_of_addition_counts_whatever_the_times_say(self, store: TrainingStore) -> None:
        hours = (5, 5, -3, 0, 5)
        store.add_examples(
            [make_example(f"e{n}", created_at=MOMENT + timedelta(hours=hour)) for n, hour in enumerate(hours)]
        )
        assert self._ids(store) == ["e0", "e1", "e2", "e3", "e4"]

    def test_many_examples_added_at_once_keep_their_order(self, store: TrainingStore) -> None:
        expected = [f"e{number * 7919 % 600}" for number in range(600)]
        store.add_examples([make_example(example_id) for example_id in expected])
        assert self._ids(store) == expected
        assert self._ids(store, 599) == expected[1:]

    def test_a_limit_keeps_the_newest_in_order(self, store: TrainingStore) -> None:
        self._add(store, "c", "a", "d", "b")
        assert self._ids(store, 1) == ["b"]
        assert self._ids(store, 3) == ["a", "d", "b"]

    def test_a_limit_beyond_the_number_of_examples_gives_all(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        assert self._ids(store, 2) == ["a", "b"]
        assert self._ids(store, 3) == ["a", "b"]
        assert self._ids(store, 10**30) == ["a", "b"]

    def test_adding_nothing_is_fine(self, store: TrainingStore) -> None:
        store.add_examples([])
        assert store.get_all_examples() == []

    def test_an_id_that_is_stored_already_is_refused_and_nothing_changes(self, store: TrainingStore) -> None:
        self._add(store, "a")
        with pytest.raises(DuplicateExampleError) as caught:
            store.add_examples([make_example("a", metadata={"new": True})])
        assert caught.value.example_id == "a"
        assert store.get_all_examples() == [make_example("a")]

    def test_a_stored_id_in_the_middle_refuses_the_whole_batch(self, store: TrainingStore) -> None:
        self._add(store, "b")
        with pytest.raises(DuplicateExampleError):
            store.add_examples([make_example("a"), make_example("b"), make_example("c")])
        assert self._ids(store) == ["b"]

    def test_an_id_that_comes_twice_refuses_the_whole_batch(self, store: TrainingStore) -> None:
        with pytest.raises(DuplicateExampleError):
            store.add_examples([make_example("a"), make_example("b"), make_example("a")])
        assert store.get_all_examples() == []

    def test_a_refused_batch_can_be_added_once_it_is_mended(self, store: TrainingStore) -> None:
        self._add(store, "b")
        with pytest.raises(DuplicateExampleError):
            store.add_examples([make_example("a"), make_example("b")])
        store.add_examples([make_example("a"), make_example("c")])
        assert self._ids(store) == ["b", "a", "c"]

    def test_ids_that_differ_only_a_little_are_different(self, store: TrainingStore) -> None:
        example_ids = ["a", "A", "a ", "á", "a\u0301", "1", "01", "1.0"]
        self._add(store, *example_ids)
        assert self._ids(store) == example_ids
        assert [store.get_example(example_id).example_id for example_id in example_ids] == example_ids

    def test_an_unknown_example_is_a_lookup_error(self, store: TrainingStore) -> None:
        with pytest.raises(ExampleNotFoundError) as caught:
            store.get_example("nobody")
        assert isinstance(caught.value, LookupError)
        assert caught.value.identifier == "nobody"

    def test_changing_what_was_put_in_changes_nothing_in_the_store(self, store: TrainingStore) -> None:
        metadata: dict[str, Any] = {"list": [1]}
        results = {"good": make_outcome(0.5)}
        example = make_example("a", metadata=metadata, worker_results=results)
        store.add_examples([example])
        metadata["list"].append(2)
        results["good"]["accuracy"] = 0.0
        cast("dict[str, Any]", example.metadata)["new"] = 1
        stored = store.get_example("a")
        assert stored.metadata == {"list": [1]}
        assert stored.worker_results == {"good": make_outcome(0.5)}

    def test_changing_what_came_back_changes_nothing_in_the_store(self, store: TrainingStore) -> None:
        store.add_examples([make_example("a", metadata={"list": [1]}, validation_scores=make_scores())])
        for example in (store.get_example("a"), *store.iterate_examples(), *store.get_all_examples()):
            metadata = cast("dict[str, Any]", example.metadata)
            metadata["list"].append(2)
            metadata["new"] = 1
            cast("ExampleScores", example.validation_scores)["avg_accuracy"] = 0.0
        assert store.get_example("a").metadata == {"list": [1]}
        assert store.get_example("a").validation_scores == make_scores()

    def test_examples_may_be_added_and_removed_while_others_are_read(self, store: TrainingStore) -> None:
        store.add_examples([make_example(f"e{number}") for number in range(300)])
        seen = []
        for example in store.iterate_examples():
            seen.append(example.example_id)
            if example.example_id in {"e1", "e2", "e20"}:
                self._add(store, f"late {example.example_id}")
                store.remove_example(f"{example.example_id}9")
        assert len(seen) == len(set(seen))
        staying = [f"e{number}" for number in range(300) if number not in {19, 29, 209}]
        assert [example_id for example_id in seen if example_id in staying] == staying

    # --- updating examples ---

    def test_an_update_replaces_every_field_and_keeps_the_place(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        new = attrs.evolve(complete_example("b"), created_at=MOMENT - timedelta(days=1), files=make_files("other"))
        assert store.update_examples([new]) is None
        assert store.get_all_examples() == [make_example("a"), new, make_example("c")]

    def test_an_edit_gets_the_stored_record(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        store.update_example_results("a", worker_results={"w": make_outcome()})
        store.edit_examples({"a": _moved})
        edited = store.get_example("a")
        assert edited.source_path == "/elsewhere"
        assert edited.worker_results == {"w": make_outcome()}
        assert store.get_example("b") == make_example("b")

    def test_an_edit_that_fails_changes_nothing(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        with pytest.raises(_FailureError):
            store.edit_examples({"a": _moved, "b": _fail_to_edit})
        assert store.get_all_examples() == [make_example("a"), make_example("b")]

    def test_an_edit_passes_over_missing_examples_where_asked(self, store: TrainingStore) -> None:
        self._add(store, "b")
        moved = dict.fromkeys("abc", _moved)
        with pytest.raises(ExampleNotFoundError):
            store.edit_examples(moved)
        assert store.get_all_examples() == [make_example("b")]
        store.edit_examples(moved, skip_missing=True)
        assert [example.source_path for example in store.get_all_examples()] == ["/elsewhere"]

    def test_edits_from_several_threads_lose_nothing(self, store: TrainingStore) -> None:
        self._add(store, "a")

        def count(stored: TrainingExample) -> TrainingExample:
            return attrs.evolve(stored, metadata={"count": stored.metadata.get("count", 0) + 1})

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: store.edit_examples({"a": count}), range(20)))
        assert store.get_example("a").metadata["count"] == 20

    def test_an_update_can_take_results_away_again(self, store: TrainingStore) -> None:
        store.add_examples([complete_example("a")])
        store.update_examples([make_example("a", metadata={}, files=None)])
        assert store.get_example("a") == make_example("a", metadata={}, files=None)

    def test_an_update_with_a_change_does_both(self, store: TrainingStore) -> None:
        self._add(store, "a")
        new = make_example("a", metadata={"new": True})
        learning = store.update_examples([new], _becomes(make_learned_state()))
        assert learning == store.load_learning()
        assert learning is not None
        assert learning.state == make_learned_state()
        assert store.get_example("a") == new

    def test_an_update_gives_its_change_the_state_that_is_held(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.update_learning(_becomes(make_learned_state(2)))
        seen: list[LearnedState] = []

        def change(held: LearnedState) -> LearnedState:
            seen.append(held)
            return held

        store.update_examples([make_example("a")], change)
        assert seen == [make_learned_state(2)]

    def test_an_update_of_an_unknown_example_changes_nothing(self, store: TrainingStore) -> None:
        self._add(store, "a", "c")
        changed = [make_example(example_id, metadata={"new": True}) for example_id in "abc"]
        with pytest.raises(ExampleNotFoundError) as caught:
            store.update_examples(changed, _count_up)
        assert caught.value.identifier == "b"
        assert store.get_all_examples() == [make_example("a"), make_example("c")]
        assert store.load_learning().version == 0

    def test_an_update_whose_change_fails_changes_nothing(self, store: TrainingStore) -> None:
        self._add(store, "a")
        with pytest.raises(_FailureError):
            store.update_examples([make_example("a", metadata={"new": True})], _fail)
        assert store.get_example("a") == make_example("a")
        assert store.load_learning().version == 0

    def test_changing_an_updated_record_changes_nothing_in_the_store(self, store: TrainingStore) -> None:
        self._add(store, "a")
        metadata: dict[str, Any] = {"list": [1]}
        store.update_examples([make_example("a", metadata=metadata)])
        metadata["list"].append(2)
        assert store.get_example("a").metadata == {"list": [1]}

    def test_updating_results_leaves_the_rest_as_it_was(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        results = {"good": make_outcome()}
        store.update_example_results("a", worker_results=results)
        assert store.get_example("a") == make_example("a", worker_results=results)
        store.update_example_results("a", validation_scores=make_scores())
        assert store.get_example("a") == make_example("a", worker_results=results, validation_scores=make_scores())
        store.update_example_results("a")
        assert store.get_example("a") == make_example("a", worker_results=results, validation_scores=make_scores())
        assert store.get_example("b") == make_example("b")

    def test_updating_results_of_an_unknown_example_is_a_lookup_error(self, store: TrainingStore) -> None:
        with pytest.raises(ExampleNotFoundError):
            store.update_example_results("nobody", worker_results={})
        assert store.get_all_examples() == []

    # --- removing examples ---

    def test_a_removed_example_is_gone_and_the_others_keep_their_order(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c", "d")
        assert store.remove_example("b") is None
        assert self._ids(store) == ["a", "c", "d"]
        assert self._ids(store, 2) == ["c", "d"]
        with pytest.raises(ExampleNotFoundError):
            store.get_example("b")

    def test_removing_an_unknown_example_is_a_lookup_error(self, store: TrainingStore) -> None:
        self._add(store, "a")
        with pytest.raises(ExampleNotFoundError):
            store.remove_example("b", _count_up)
        assert self._ids(store) == ["a"]
        assert store.load_learning().version == 0

    def test_an_example_cannot_be_removed_twice(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.remove_example("a")
        with pytest.raises(ExampleNotFoundError):
            store.remove_example("a")

    def test_a_removal_with_a_change_does_both(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        learning = store.remove_example("a", _becomes(make_learned_state()))
        assert learning == store.load_learning()
        assert learning is not None
        assert learning.state == make_learned_state()
        assert self._ids(store) == ["b"]

    def test_a_removal_whose_change_fails_changes_nothing(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")
        with pytest.raises(_FailureError):
            store.remove_example("a", _fail)
        assert store.get_all_examples() == [make_example("a"), make_example("b")]
        assert store.load_learning().version == 0

    def test_what_is_added_after_a_removal_comes_last(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        store.remove_example("c")
        self._add(store, "d")
        store.remove_example("a")
        self._add(store, "a")
        assert self._ids(store) == ["b", "d", "a"]

    def test_an_example_added_again_has_nothing_of_the_removed_one(self, store: TrainingStore) -> None:
        store.add_examples([complete_example("a")])
        store.remove_example("a")
        store.add_examples([make_example("a", files=None)])
        assert store.get_all_examples() == [make_example("a", files=None)]

    def test_evaluations_sessions_and_metrics_outlive_an_example(self, store: TrainingStore) -> None:
        self._add(store, "example")
        digest = make_files("example").digest
        store.save_evaluations([make_evaluation(digest)], [Preview("digest", "good", b"png")])
        store.begin_session(make_session())
        session = self._commit(store, metrics=[make_metric_row()])
        store.remove_example("example")
        assert store.load_evaluations([digest]) == [make_evaluation(digest)]
        assert store.load_previews("digest") == {"good": b"png"}
        assert store.get_all_sessions() == [session]
        assert store.get_metrics("session") == [make_metric_row()]

    # --- what goes with the contents of an example ---

    def _note(self, store: TrainingStore, *names: str) -> None:
        """Store an observation and two previews of the contents of each name."""
        for name in names:
            digest = make_files(name).digest
            previews = [Preview(digest, "target", b"png", None), Preview(digest, "w@1", b"png")]
            store.save_evaluations([], previews, [ObservationRecord(digest, "w@1", name.encode())])

    def _noted(self, store: TrainingStore, *names: str) -> list[str]:
        """Return of which contents everything is there that `_note` stores; of the others nothing must be."""
        found = []
        for name in names:
            digest = make_files(name).digest
            previews = store.load_previews(digest)
            if previews:
                found.append(name)
            expected = {"target": b"png", "w@1": b"png"} if previews else {}
            assert previews == expected
            assert store.load_observations("w@1", [digest]) == ({digest: name.encode()} if previews else {})
            assert store.find_observations("w@1", [digest]) == ({digest} if previews else set())
        return found

    def _share(self, store: TrainingStore, **contents: str | None) -> None:
        """Add examples that have the contents of these names."""
        for example_id, name in contents.items():
            store.add_examples([make_example(example_id, files=None if name is None else make_files(name))])

    def test_observations_and_previews_go_with_the_last_example_of_their_contents(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="p", three="q", four=None)
        self._note(store, "p", "q", "r")
        for example_id in ("one", "four"):
            store.remove_example(example_id)
            assert self._noted(store, "p", "q", "r") == ["p", "q", "r"]
        store.remove_example("two", _count_up)
        assert self._noted(store, "p", "q", "r") == ["q", "r"]
        self._share(store, one="p")
        assert self._noted(store, "p") == []

    def test_contents_that_differ_in_one_file_are_different(self, store: TrainingStore) -> None:
        files, other = make_files("p"), make_files("q")
        for number, role in enumerate(("source", "target", "ground_truth")):
            store.add_examples([make_example(str(number), files=attrs.evolve(files, **{role: getattr(other, role)}))])
        self._share(store, one="p")
        self._note(store, "p")
        store.remove_example("one")
        assert self._noted(store, "p") == []

    def test_observations_and_previews_stay_where_a_removal_fails(self, store: TrainingStore) -> None:
        self._share(store, one="p")
        self._note(store, "p")
        with pytest.raises(_FailureError):
            store.remove_example("one", _fail)
        assert self._noted(store, "p") == ["p"]

    def test_observations_and_previews_go_with_contents_that_are_replaced(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="p", three="q", four="r", five=None)
        self._note(store, "p", "q", "r", "s")
        store.save_evaluations([make_evaluation(make_files("p").digest)])
        store.update_examples([make_example("one", files=make_files("s"))])
        assert self._noted(store, "p", "q", "r", "s") == ["p", "q", "r", "s"]
        store.update_examples(
            [
                make_example("two", files=make_files("s")),
                make_example("three", files=None),
                make_example("four", files=make_files("r"), metadata={"new": True}),
                make_example("five", files=make_files("r")),
            ],
            _count_up,
        )
        assert self._noted(store, "p", "q", "r", "s") == ["r", "s"]
        assert len(store.load_evaluations([make_files("p").digest])) == 1

    def test_contents_that_change_hands_in_one_call_lose_nothing(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="q")
        self._note(store, "p", "q")
        swapped = [make_example("one", files=make_files("q")), make_example("two", files=make_files("p"))]
        store.update_examples(swapped)
        assert self._noted(store, "p", "q") == ["p", "q"]

    def test_observations_and_previews_stay_where_an_update_fails(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="q")
        self._note(store, "p", "q")
        replaced = make_example("one", files=make_files("s"))
        with pytest.raises(_FailureError):
            store.update_examples([replaced], _fail)
        with pytest.raises(_FailureError):
            store.edit_examples({"one": lambda _stored: replaced, "two": _fail_to_edit})
        with pytest.raises(ExampleNotFoundError):
            store.update_examples([replaced, make_example("nobody")])
        assert self._noted(store, "p", "q") == ["p", "q"]

    # --- evaluations and previews ---

    def test_an_evaluation_comes_back_equal_in_every_field(self, store: TrainingStore) -> None:
        success = make_evaluation("digest", "good", accuracy=0.1 + 0.2, confidence=5e-324, seconds=1e-17)
        failure = make_evaluation(
            "digest", ODD_TEXT, accuracy=None, failure_kind="raised", failure_type="X", failure_message=ODD_TEXT
        )
        store.save_evaluations([success, failure])
        assert store.load_evaluations(["digest"]) == [success, failure]

    def test_evaluations_come_back_for_the_wanted_examples_only_and_the_oldest_first(
        self, store: TrainingStore
    ) -> None:
        evaluations = [make_evaluation(digest, worker_id) for worker_id in "zx" for digest in ("c", "a", "b")]
        store.save_evaluations(evaluations[:2])
        store.save_evaluations(evaluations[2:])
        assert store.load_evaluations(["a", "c"]) == [e for e in evaluations if e.key.example_digest != "b"]
        assert store.load_evaluations([]) == []
        assert store.load_evaluations(["nothing"]) == []

    def test_evaluations_may_be_asked_for_by_many_digests_and_by_any_iterable(self, store: TrainingStore) -> None:
        evaluations = [make_evaluation(f"digest {number}") for number in (3, 1_999, 40_000)]
        store.save_evaluations(evaluations)
        assert store.load_evaluations(f"digest {number}" for number in range(40_001)) == evaluations
        assert store.load_evaluations(["digest 3", "digest 3"]) == evaluations[:1]

    def test_an_evaluation_with_the_same_key_replaces_the_old_one(self, store: TrainingStore) -> None:
        failure = make_evaluation(accuracy=None, failure_kind="raised", failure_type="X", failure_message="no")
        store.save_evaluations([failure])
        store.save_evaluations([make_evaluation(accuracy=0.5), make_evaluation(accuracy=0.25)])
        assert store.load_evaluations(["digest"]) == [make_evaluation(accuracy=0.25)]

    def test_a_replaced_evaluation_counts_as_new(self, store: TrainingStore) -> None:
        store.save_evaluations([make_evaluation(worker_id="a"), make_evaluation(worker_id="b")])
        store.save_evaluations([make_evaluation(worker_id="a", accuracy=0.5)])
        assert [e.key.worker_id for e in store.load_evaluations(["digest"])] == ["b", "a"]

    def test_evaluations_whose_keys_differ_in_one_part_are_all_kept(self, store: TrainingStore) -> None:
        key = make_evaluation().key
        keys = [key, *(key._replace(**{field: "another"}) for field in key._fields)]
        store.save_evaluations([make_evaluation(key=each) for each in keys])
        assert [e.key for e in store.load_evaluations([key.example_digest, "another"])] == keys

    def test_previews_come_back_by_name_and_byte_for_byte(self, store: TrainingStore) -> None:
        every_byte = bytes(range(256)) * 3
        store.save_evaluations([], [Preview("digest", "good", every_byte), Preview("digest", ODD_TEXT, b"")])
        store.save_evaluations([], [Preview("another", "good", b"other")])
        assert store.load_previews("digest") == {"good": every_byte, ODD_TEXT: b""}
        assert store.load_previews("another") == {"good": b"other"}

    def test_a_preview_with_the_same_digest_and_name_replaces_the_old_one(self, store: TrainingStore) -> None:
        store.save_evaluations([], [Preview("digest", "good", b"old"), Preview("digest", "bad", b"kept")])
        store.save_evaluations([], [Preview("digest", "good", b"new")])
        assert store.load_previews("digest") == {"good": b"new", "bad": b"kept"}

    def test_previews_are_kept_up_to_the_limit_in_order_of_digest_and_name(self, store: TrainingStore) -> None:
        quarter = bytes(PREVIEW_BYTES // 4)
        keys = [("d0", "a"), ("d0", "b"), ("d1", "a"), ("d2", "")]
        store.save_evaluations([make_evaluation("d2")], [Preview(*key, quarter) for key in reversed(keys)])
        assert self._previews(store) == keys
        store.save_evaluations([], [Preview("d2", "b", b"x")])  # the newest, but the limit is reached before it
        assert self._previews(store) == keys
        store.save_evaluations([], [Preview("d1", "A", b"x")])
        assert self._previews(store) == [*keys[:2], ("d1", "A"), *keys[2:]]
        store.save_evaluations([], [Preview("d0", "", quarter)])
        assert self._previews(store) == [("d0", ""), *keys[:2], ("d1", "A"), keys[2]]
        assert store.load_evaluations(["d2"]) == [make_evaluation("d2")]

    def test_which_previews_are_kept_does_not_depend_on_who_came_first(self, store: TrainingStore) -> None:
        eighth = PREVIEW_BYTES // 8
        small, middle, first = (Preview(f"d{n}", "p", bytes(size * eighth)) for n, size in ((2, 1), (1, 5), (0, 5)))
        for preview in (small, middle, first):
            store.save_evaluations([], [preview])
        assert self._previews(store) == [("d0", "p"), ("d1", "p")]  # the last one may reach beyond the limit
        store.save_evaluations([], [small])
        assert self._previews(store) == [("d0", "p"), ("d1", "p")]

    def test_a_preview_is_kept_while_a_byte_is_left_before_it(self, store: TrainingStore) -> None:
        sizes = (PREVIEW_BYTES - 1, 3, 1)
        store.save_evaluations([], [Preview(f"d{number}", "p", bytes(size)) for number, size in enumerate(sizes)])
        assert self._previews(store) == [("d0", "p"), ("d1", "p")]

    def test_previews_of_the_lowest_rank_stay_whatever_their_names(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        kept = [Preview("d2", "z", half, -1.5), Preview("d1", "z", half, 0.25)]
        store.save_evaluations([], [Preview("d0", "a", b"x", 0.5), *kept, Preview("d0", "b", b"x", 1 / 3)])
        assert self._previews(store) == [("d1", "z"), ("d2", "z")]
        store.save_evaluations([], [Preview("d0", "c", b"x", 0.25)])  # the same rank, and an earlier digest
        assert self._previews(store) == [("d0", "c"), ("d1", "z"), ("d2", "z")]
        store.save_evaluations([], [Preview("d0", "d", half, 0.0)])
        assert self._previews(store) == [("d0", "d"), ("d2", "z")]

    def test_previews_without_a_rank_are_all_kept_and_count_nothing(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        store.save_evaluations([], [Preview("d0", name, half, None) for name in "abc"])
        store.save_evaluations([], [Preview("d1", name, half, 0.5) for name in "abc"])
        assert self._previews(store) == [("d0", "a"), ("d0", "b"), ("d0", "c"), ("d1", "a"), ("d1", "b")]
        store.save_evaluations([], [Preview("d2", "z", b"x", None), Preview("d2", "a", b"x", 0.75)])
        assert self._previews(store)[3:] == [("d1", "a"), ("d1", "b"), ("d2", "z")]

    def test_a_replaced_preview_has_its_new_rank(self, store: TrainingStore) -> None:
        whole = bytes(PREVIEW_BYTES)
        store.save_evaluations([], [Preview("d0", "a", whole, None), Preview("d1", "a", whole, 0.5)])
        store.save_evaluations([], [Preview("d0", "a", whole, 1.0)])
        assert self._previews(store) == [("d1", "a")]
        store.save_evaluations([], [Preview("d1", "a", whole, None), Preview("d2", "a", whole, 2.0)])
        assert self._previews(store) == [("d1", "a"), ("d2", "a")]

    def _previews(self, store: TrainingStore) -> list[tuple[str, str]]:
        return [(digest, name) for digest in ("d0", "d1", "d2") for name in sorted(store.load_previews(digest))]

    # --- observations ---

    def test_observations_come_back_by_digest_and_byte_for_byte(self, store: TrainingStore) -> None:
        contents = {"digest": bytes(range(256)) * 3, "empty": b"", "zero": b"\0", ODD_TEXT: b"{}"}
        for name in ("worker@1", ODD_TEXT, ""):
            store.save_evaluations([], (), [ObservationRecord(digest, name, c) for digest, c in contents.items()])
            assert store.load_observations(name, contents) == contents
            assert store.find_observations(name, contents) == set(contents)
            assert all(type(content) is bytes for content in store.load_observations(name, contents).values())

    def test_an_observation_with_the_same_digest_and_name_replaces_the_old_one(self, store: TrainingStore) -> None:
        store.save_evaluations([], (), [ObservationRecord("digest", name, b"old") for name in ("a@1", "a@2")])
        new = [ObservationRecord("digest", "a@1", content) for content in (b"newer", b"")]
        store.save_evaluations([], (), new)
        assert store.load_observations("a@1", ["digest"]) == {"digest": b""}
        assert store.load_observations("a@2", ["digest"]) == {"digest": b"old"}

    def test_observations_come_back_for_the_wanted_name_and_examples_only(self, store: TrainingStore) -> None:
        names = ["a", "A", "a ", "a@1", "ab", "á"]
        records = [ObservationRecord(d, n, f"{d} {n}".encode()) for d in ("d0", "d1", "D0") for n in names]
        store.save_evaluations([], (), records)
        for name in names:
            assert store.load_observations(name, ["d1", "nothing"]) == {"d1": f"d1 {name}".encode()}
            assert store.find_observations(name, ["d1", "nothing"]) == {"d1"}
            assert store.load_observations(name, []) == {}
            assert store.find_observations(name, []) == set()
        for name in ("", "b", "a@", "a%", "A@1"):
            assert store.load_observations(name, ["d0", "d1"]) == {}
            assert store.find_observations(name, ["d0", "d1"]) == set()

    def test_observations_may_be_asked_for_by_many_digests_and_by_any_iterable(self, store: TrainingStore) -> None:
        expected = {f"digest {number}": str(number).encode() for number in (3, 1_999, 40_000)}
        store.save_evaluations(
            [], (), [ObservationRecord(digest, "a", content) for digest, content in expected.items()]
        )
        assert store.load_observations("a", (f"digest {number}" for number in range(40_001))) == expected
        assert store.find_observations("a", (f"digest {number}" for number in range(40_001))) == set(expected)
        assert store.load_observations("a", ["digest 3", "digest 3"]) == {"digest 3": b"3"}

    def test_what_comes_in_one_call_is_all_there(self, store: TrainingStore) -> None:
        store.save_evaluations([make_evaluation()], _pictured("a@1"), [ObservationRecord("d0", "a@1", b"x")])
        assert store.load_evaluations(["digest"]) == [make_evaluation()]
        assert store.load_previews("d0") == {"a@1": b"a@1"}
        assert store.load_observations("a@1", ["d0"]) == {"d0": b"x"}

    # --- workers that were fitted anew ---

    def test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it(self, store: TrainingStore) -> None:
        store.save_evaluations([_keyed("a", "1"), _keyed("a", "2"), _keyed("a", "new")], _pictured("a@1", "a@2"))
        new = [attrs.evolve(_keyed("a", "new"), accuracy=0.5), _keyed("a", "newer")]
        store.save_evaluations(new, _pictured("a@new", "a@newer"), superseding=["a"])
        assert store.load_evaluations(["d0"]) == new
        assert store.load_previews("d0") == {"a@new": b"a@new", "a@newer": b"a@newer"}
        store.save_evaluations([_keyed("a", "3")], superseding={"a"})
        assert store.load_evaluations(["d0"]) == [_keyed("a", "3")]
        assert store.load_previews("d0") == {}

    def test_nothing_of_other_workers_metrics_and_examples_is_superseded(self, store: TrainingStore) -> None:
        others = ["a@", "a@b", "ab", "b", "A", "@a", "", "a%", "_"]
        evaluations = [_keyed(worker_id, "1") for worker_id in others]
        evaluations += [_keyed("a", "1", "another metric"), _keyed("a", "1", digest="d1")]
        pictures = [*(f"{worker_id}@1" for worker_id in others), "a", "target", "ground_truth", ODD_TEXT]
        noted = [ObservationRecord("d0", "a@1", b"1"), ObservationRecord("d0", "a@2", b"2")]
        store.save_evaluations(evaluations, _pictured(*pictures) + _pictured("a@1", digest="d1"), noted)
        store.save_evaluations([_keyed("a", "old")], _pictured("a@old"))
        store.save_evaluations([_keyed("a", "new")], superseding=("a",))
        assert store.load_evaluations(["d0", "d1"]) == [*evaluations, _keyed("a", "new")]
        assert store.load_previews("d0") == {name: name.encode() for name in pictures}
        assert store.load_previews("d1") == {"a@1": b"a@1"}
        assert store.load_observations("a@1", ["d0"]) == {"d0": b"1"}
        assert store.load_observations("a@2", ["d0"]) == {"d0": b"2"}

    def test_workers_whose_ids_begin_alike_are_superseded_each_for_itself(self, store: TrainingStore) -> None:
        workers = ["a", "a@b", "a@b@c", "ab"]
        for worker_id in workers:
            names = [f"{w}@1" for w in workers]
            store.save_evaluations([_keyed(w, "1") for w in workers], _pictured(*names), superseding=workers)
            store.save_evaluations([_keyed(worker_id, "2")], _pictured(f"{worker_id}@2"), superseding=[worker_id])
            expected = {f"{w}@{2 if w == worker_id else 1}" for w in workers}
            assert set(store.load_previews("d0")) == expected
            found = {f"{e.key.worker_id}@{e.key.worker_fingerprint}" for e in store.load_evaluations(["d0"])}
            assert found == expected

    def test_only_evaluations_of_the_named_workers_supersede_anything(self, store: TrainingStore) -> None:
        before = [_keyed("a", "1"), _keyed("b", "1"), _keyed("c", "1")]
        store.save_evaluations(before, _pictured("a@1", "b@1", "c@1"))
        store.save_evaluations([_keyed("a", "2")], _pictured("a@2", "b@2"))
        store.save_evaluations([_keyed("a", "3")], superseding=())
        store.save_evaluations([_keyed("b", "3")], _pictured("c@3"), superseding=["c", "nobody"])
        fingerprints = [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("a", "3"), ("b", "3")]
        assert [e.key[1:3] for e in store.load_evaluations(["d0"])] == fingerprints
        assert set(store.load_previews("d0")) == {"a@1", "b@1", "c@1", "a@2", "b@2", "c@3"}

    # --- sessions ---

    def test_a_session_that_began_is_running(self, store: TrainingStore) -> None:
        session = make_session(ODD_TEXT, seed=0, validation_split=0.0, training_ids=["a"])
        store.begin_session(session)
        assert store.get_session(ODD_TEXT) == session
        assert store.get_session(ODD_TEXT).status == "running"
        assert store.get_session(ODD_TEXT).end_time is None
        assert store.get_metrics(ODD_TEXT) == []

    def test_a_completed_session_comes_back_equal_in_every_field(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        assert self._commit(store) == complete_session("session")
        assert store.get_session("session") == complete_session("session")

    def test_a_session_can_fail(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        failed = make_session(status="failed", end_time=MOMENT, error=ODD_TEXT)
        stored, learning = store.commit_session("session", lambda _held: SessionCommit(failed))
        assert stored == store.get_session("session") == failed
        assert learning == store.load_learning()

    def test_no_validation_and_an_empty_validation_are_different(self, store: TrainingStore) -> None:
        store.begin_session(make_session("none"))
        store.begin_session(make_session("empty", validation={}))
        assert store.get_session("none").validation is None
        assert store.get_session("empty").validation == {}

    def test_sessions_come_back_in_order_of_addition_whatever_their_times_say(self, store: TrainingStore) -> None:
        for session_id, hours in (("c", 5), ("a", 5), ("b", -5)):
            store.begin_session(make_session(session_id, start_time=MOMENT + timedelta(hours=hours)))
        self._commit(store, "c")
        assert [session.session_id for session in store.iterate_sessions()] == ["c", "a", "b"]
        assert [session.session_id for session in store.get_all_sessions()] == ["c", "a", "b"]
        assert [session.status for session in store.iterate_sessions()] == ["completed", "running", "running"]

    def test_a_session_id_that_is_stored_already_is_refused(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        self._commit(store, metrics=[make_metric_row()])
        with pytest.raises(StorageError):
            store.begin_session(make_session())
        assert store.get_all_sessions() == [complete_session("session")]
        assert store.get_metrics("session") == [make_metric_row()]

    def test_an_unknown_session_is_a_lookup_error(self, store: TrainingStore) -> None:
        for ask in (store.get_session, store.iterate_metrics, store.get_metrics):
            with pytest.raises(SessionNotFoundError) as caught:
                ask("nobody")
            assert isinstance(caught.value, LookupError)
            assert caught.value.identifier == "nobody"

    def test_an_unknown_session_cannot_be_committed(self, store: TrainingStore) -> None:
        commit = SessionCommit(make_session("nobody"), state=make_learned_state())
        with pytest.raises(SessionNotFoundError):
            store.commit_session("nobody", lambda _held: commit)
        assert store.get_all_sessions() == []
        assert store.load_learning().version == 0

    def test_a_commit_stores_session_metrics_and_learned_state(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        rows = [make_metric_row(worker_id="good"), make_metric_row(worker_id="bad", accuracy=None, loss=None)]
        commit = SessionCommit(complete_session("session"), rows, make_learned_state())
        stored, learning = store.commit_session("session", lambda _held: commit)
        assert stored == complete_session("session")
        assert learning == store.load_learning()
        assert learning.state == make_learned_state()
        assert store.get_metrics("session") == rows

    def test_a_commit_finishes_with_the_state_held_at_that_moment(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        store.update_learning(_becomes(make_learned_state(2)))
        commit = SessionCommit(complete_session("session"))
        seen: list[LearnedState] = []

        def finish(held: LearnedState) -> SessionCommit:
            seen.append(held)
            return attrs.evolve(commit, state=_count_up(held))

        _stored, learning = store.commit_session("session", finish)
        assert seen == [make_learned_state(2)]
        assert learning.state == _count_up(make_learned_state(2))

    def test_a_commit_without_state_leaves_learning_as_it_is(self, store: TrainingStore) -> None:
        before = store.update_learning(_becomes(make_learned_state()))
        store.begin_session(make_session())
        commit = SessionCommit(complete_session("session"))
        assert store.commit_session("session", lambda _held: commit)[1] == before
        assert store.load_learning() == before

    def test_a_commit_that_fails_to_finish_changes_nothing(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        before = store.update_learning(_becomes(make_learned_state()))
        with pytest.raises(_FailureError):
            store.commit_session("session", _fail)
        assert store.get_session("session") == make_session()
        assert store.get_metrics("session") == []
        assert store.load_learning() == before

    def test_changing_session_records_changes_nothing_in_the_store(self, store: TrainingStore) -> None:
        session = complete_session("session")
        store.begin_session(attrs.evolve(session, status="running"))
        stored = self._commit(store)
        for record in (stored, store.get_session("session"), *store.iterate_sessions()):
            record.metrics_history[0]["weights"]["good"] = 99.0
            cast("dict[str, float]", record.final_weights)["new"] = 1.0
            cast("dict[str, Any]", record.validation)["nested"]["large"] = 0
        assert store.get_session("session") == session

    def test_changing_a_session_that_was_put_in_changes_nothing_in_the_store(self, store: TrainingStore) -> None:
        weights = {"good": 1.0}
        session = make_session("a", initial_weights=weights)
        store.begin_session(session)
        store.begin_session(make_session("b"))
        store.commit_session("b", lambda _held: SessionCommit(make_session("b", initial_weights=weights)))
        weights["good"] = 99.0
        assert store.get_session("a").initial_weights == {"good": 1.0}
        assert store.get_session("b").initial_weights == {"good": 1.0}

    # --- metrics ---

    def test_metrics_come_back_equal_and_in_the_order_of_their_commit(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        rows = [
            make_metric_row(worker_id=worker_id, accuracy=value, confidence=5e-324, epoch=epoch)
            for epoch in (3, 1, 2)
            for worker_id, value in (("z", 0.1 + 0.2), (ODD_TEXT, None), ("a", 1 / 3))
        ]
        self._commit(store, metrics=rows)
        assert list(store.iterate_metrics("session")) == rows
        assert store.get_metrics("session") == rows

    def test_metrics_belong_to_their_session(self, store: TrainingStore) -> None:
        for session_id in ("a", "b"):
            store.begin_session(make_session(session_id))
            self._commit(store, session_id, metrics=[make_metric_row(session_id)])
        assert store.get_metrics("a") == [make_metric_row("a")]
        assert store.get_metrics("b") == [make_metric_row("b")]

    def test_a_second_commit_adds_its_metrics_behind_the_first(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        self._commit(store, metrics=[make_metric_row(worker_id="z")])
        self._commit(store, metrics=[make_metric_row(worker_id="a")])
        assert [row.worker_id for row in store.iterate_metrics("session")] == ["z", "a"]

    # --- learned state ---

    def test_learned_state_comes_back_to_the_last_bit(self, store: TrainingStore) -> None:
        store.update_learning(_becomes(make_learned_state()))
        state = store.load_learning().state
        assert state == make_learned_state()
        assert _hex(state) == _hex(make_learned_state())

    def test_what_was_fitted_and_learned_by_group_comes_back_in_every_field(self, store: TrainingStore) -> None:
        expected = make_learned_state()
        store.update_learning(_becomes(expected))
        state = store.load_learning().state
        assert state.fitted == expected.fitted
        assert dict(state.fits) == dict(expected.fits)
        assert (state.group_by, list(state.groups)) == (expected.group_by, list(expected.groups))
        for label, group in expected.groups.items():
            assert state.groups[label] == group

    def test_a_fit_and_groups_change_though_the_evidence_stays(self, store: TrainingStore) -> None:
        for state in _fits_that_change():
            assert store.update_learning(_becomes(state)).state == state
            assert store.load_learning().state == state

    def test_a_change_is_given_what_is_held_and_what_it_makes_is_returned(self, store: TrainingStore) -> None:
        for count in (1, 2, 3):
            learning = store.update_learning(_count_up)
            assert learning.state.bases["counter"].update_count == count
            assert store.load_learning() == learning

    def test_versions_grow_with_every_change(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.begin_session(make_session())
        commit = SessionCommit(make_session(status="completed"), state=make_learned_state())
        learnings = [
            store.load_learning(),
            store.update_learning(_count_up),
            store.update_learning(lambda held: held),
            store.update_examples([make_example("a")], _count_up),
            store.commit_session("session", lambda _held: commit)[1],
            store.remove_example("a", _count_up),
        ]
        versions = [learning.version for learning in learnings if learning is not None]
        assert len(versions) == 6
        assert versions == sorted(set(versions))
        assert store.load_learning().version == versions[-1]

    def test_what_the_new_state_lacks_is_gone(self, store: TrainingStore) -> None:
        store.update_learning(_becomes(make_learned_state(1)))
        outcomes = {"digest": {"good": Absorbed(0.5, 1.0, 0.0)}}
        smaller = LearnedState({"good": WorkerBase(2.0)}, outcomes, fits={"good": b"2"})
        store.update_learning(_becomes(smaller))
        assert store.load_learning().state == smaller
        store.update_learning(_becomes(LearnedState()))
        assert store.load_learning().state == LearnedState()

    def test_a_change_that_fails_changes_nothing(self, store: TrainingStore) -> None:
        before = store.update_learning(_becomes(make_learned_state()))
        with pytest.raises(_FailureError):
            store.update_learning(_fail)
        assert store.load_learning() == before
        assert store.update_learning(_count_up).state == _count_up(make_learned_state())

    # --- counts and limits ---

    def test_statistics_count_examples_and_sessions(self, store: TrainingStore) -> None:
        assert set(store.get_dataset_stats().values()) == {0}
        store.add_examples([make_example("a"), make_example("b", worker_results={}), make_example("c")])
        store.update_example_results("c", worker_results={"good": make_outcome()})
        store.remove_example("a")
        self._add(store, "d", "e")
        store.begin_session(make_session())
        assert store.get_dataset_stats() == {
            "total_examples": 4,
            "processed_examples": 2,
            "unprocessed_examples": 2,
            "total_sessions": 1,
        }

    def test_get_all_examples_takes_a_limit(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        assert [e.example_id for e in store.get_all_examples()] == ["a", "b", "c"]
        assert [e.example_id for e in store.get_all_examples(limit=2)] == ["b", "c"]

    def test_a_limit_that_is_no_whole_number_of_at_least_one_is_refused(self, store: TrainingStore) -> None:
        self._add(store, "a")
        for limit in (0, -1, True, 1.0, "1", "1; DROP TABLE training_examples", [1]):
            with pytest.raises(InvalidArgumentError) as caught:
                store.get_all_examples(cast("int", limit))
            assert isinstance(caught.value, ValueError)
            assert caught.value.argument == "limit"
        assert self._ids(store) == ["a"]

    # --- several threads ---

    def test_examples_added_by_several_threads_are_all_kept(self, store: TrainingStore) -> None:
        def adding(thread: int) -> Callable[[], None]:
            return lambda: self._add(store, *(f"{thread}-{number}" for number in range(8)))

        _at_once([adding(thread) for thread in range(4)])
        stored = self._ids(store)
        assert sorted(stored) == sorted(f"{thread}-{number}" for thread in range(4) for number in range(8))
        for thread in range(4):
            own = [example_id for example_id in stored if example_id.startswith(f"{thread}-")]
            assert own == [f"{thread}-{number}" for number in range(8)]

    def test_of_several_threads_that_add_the_same_id_one_succeeds(self, store: TrainingStore) -> None:
        def add(thread: int) -> bool:
            try:
                store.add_examples([make_example("a", metadata={"thread": thread})])
            except DuplicateExampleError:
                return False
            return True

        added = _at_once([lambda thread=thread: add(thread) for thread in range(4)])  # type: ignore[misc]
        assert added.count(True) == 1
        assert store.get_example("a").metadata == {"thread": added.index(True)}

    def test_changes_of_learned_state_by_several_threads_all_count(self, store: TrainingStore) -> None:
        def count() -> list[int]:
            return [store.update_learning(_count_up).version for _ in range(8)]

        versions = [version for each in _at_once([count] * 4) for version in each]
        assert len(set(versions)) == 32
        assert store.load_learning().state.bases["counter"].update_count == 32

    def test_threads_may_read_while_others_write(self, store: TrainingStore) -> None:
        self._add(store, "a", "b")

        def write() -> None:
            for number in range(10):
                store.update_examples([make_example(i, metadata={"number": number}) for i in "ab"], _count_up)

        def read() -> None:
            for _ in range(20):
                assert self._ids(store) == ["a", "b"]
                learning = store.load_learning()
                counted = learning.state.bases.get("counter", WorkerBase(1.0)).update_count
                assert (counted == 0) == (learning.version == 0)

        _at_once([write, read, read])
        assert store.load_learning().state.bases["counter"].update_count == 10

    def test_sessions_committed_by_several_threads_all_count(self, store: TrainingStore) -> None:
        def train(thread: int) -> None:
            for number in range(4):
                session_id = f"{thread}-{number}"
                store.begin_session(make_session(session_id))
                commit = SessionCommit(complete_session(session_id), [make_metric_row(session_id)])
                store.commit_session(session_id, functools.partial(finish, commit))

        def finish(commit: SessionCommit, held: LearnedState) -> SessionCommit:
            return attrs.evolve(commit, state=_count_up(held))

        _at_once([functools.partial(train, thread) for thread in range(4)])
        assert store.load_learning().state.bases["counter"].update_count == 16
        stored = store.get_all_sessions()
        assert sorted(each.session_id for each in stored) == sorted(f"{t}-{n}" for t in range(4) for n in range(4))
        for each in stored:
            assert each == complete_session(each.session_id)
            assert store.get_metrics(each.session_id) == [make_metric_row(each.session_id)]

    def test_different_changes_by_several_threads_all_count(self, store: TrainingStore) -> None:
        self._add(store, "kept", *(f"gone {number}" for number in range(6)))

        def count_in(stored: TrainingExample) -> TrainingExample:
            return attrs.evolve(stored, metadata={"count": stored.metadata.get("count", 0) + 1})

        def edit() -> None:
            for _ in range(6):
                store.edit_examples({"kept": count_in}, _count_up)

        def remove() -> None:
            for number in range(6):
                store.remove_example(f"gone {number}", _count_up)

        def learn() -> None:
            for _ in range(6):
                store.update_learning(_count_up)

        def keep_results() -> None:
            for number in range(6):
                store.update_example_results("kept", worker_results={"w": make_outcome(number / 8)})
                observation = ObservationRecord(f"digest {number}", "w@1", str(number).encode())
                store.save_evaluations([make_evaluation(f"digest {number}")], (), [observation], superseding=["w"])

        _at_once([edit, edit, remove, learn, keep_results])
        assert store.load_learning().state.bases["counter"].update_count == 24
        kept = store.get_all_examples()
        assert [(e.example_id, e.metadata, e.worker_results) for e in kept] == [
            ("kept", {"count": 12}, {"w": make_outcome(5 / 8)})
        ]
        digests = [f"digest {number}" for number in range(6)]
        assert len(store.load_evaluations(digests)) == 6
        assert store.load_observations("w@1", digests) == {digest: digest[-1].encode() for digest in digests}

    def test_a_change_that_fails_in_one_thread_takes_nothing_of_the_others_with_it(self, store: TrainingStore) -> None:
        self._add(store, "a")

        def fail() -> None:
            for _ in range(8):
                with pytest.raises(_FailureError):
                    store.edit_examples({"a": lambda stored: attrs.evolve(stored, metadata={"failed": True})}, _fail)

        def learn() -> None:
            for _ in range(20):
                store.update_learning(_count_up)
                time.sleep(0.0005)  # so that failures come in between, however quick the store is

        _at_once([fail, learn, fail, learn])
        assert store.load_learning().state.bases["counter"].update_count == 40
        assert store.get_all_examples() == [make_example("a")]

    # --- many small writes ---

    def test_of_many_small_writes_none_is_lost(self, store: TrainingStore) -> None:
        names = [f"{number:03}" for number in range(205)]
        others = names[::3]
        for name in names:
            store.add_examples([make_example(name)])
            if name in others:
                store.save_evaluations([make_evaluation(name)], (), [ObservationRecord(name, "w@1", name.encode())])
                store.update_example_results(name, worker_results={})
                store.update_learning(_count_up)
        stored = store.get_all_examples()
        assert [example.example_id for example in stored] == names
        assert [example.example_id for example in stored if example.worker_results is not None] == others
        assert [evaluation.key.example_digest for evaluation in store.load_evaluations(names)] == others
        assert store.load_observations("w@1", names) == {name: name.encode() for name in others}
        assert store.load_learning().state.bases["counter"].update_count == len(others)

    def test_nothing_that_is_gone_lends_its_place_to_something_else(self, store: TrainingStore) -> None:
        for number in range(6):
            name = str(number)
            store.add_examples([make_example(name, files=None)])
            assert store.get_example(name) == make_example(name, files=None)
            store.update_examples([complete_example(name)])
            self._add(store, f"stays {name}")
            store.remove_example(name)
        assert self._ids(store) == [f"stays {number}" for number in range(6)]
        assert [store.get_example(f"stays {n}") for n in range(6)] == [make_example(f"stays {n}") for n in range(6)]

    # --- closing ---

    def test_closing_twice_is_fine(self, store: TrainingStore) -> None:
        store.close()
        store.close()

    def test_a_closed_store_refuses_to_be_read(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.begin_session(make_session())
        store.close()
        reads: list[Callable[[], object]] = [
            lambda: store.get_example("a"),
            lambda: store.get_example("nobody"),
            lambda: list(store.iterate_examples()),
            lambda: store.get_all_examples(1),
            lambda: store.load_evaluations(["digest"]),
            lambda: store.load_previews("digest"),
            lambda: store.load_observations("worker@1", ["digest"]),
            lambda: store.load_observations("worker@1", []),
            lambda: store.find_observations("worker@1", ["digest"]),
            lambda: store.find_observations("worker@1", []),
            lambda: store.get_session("session"),
            lambda: list(store.iterate_sessions()),
            store.get_all_sessions,
            lambda: store.get_metrics("session"),
            store.load_learning,
            store.get_dataset_stats,
        ]
        for read in reads:
            with pytest.raises(StorageClosedError) as caught:
                read()
            assert isinstance(caught.value, StorageError)

    def test_a_closed_store_refuses_to_be_written(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.begin_session(make_session())
        store.close()
        commit = SessionCommit(complete_session("session"))
        writes: list[Callable[[], object]] = [
            lambda: self._add(store, "b"),
            lambda: store.add_examples([]),
            lambda: store.update_examples([make_example("a")]),
            lambda: store.update_examples([]),
            lambda: store.update_example_results("a"),
            lambda: store.remove_example("a"),
            lambda: store.save_evaluations([make_evaluation()]),
            lambda: store.save_evaluations([], (), [ObservationRecord("digest", "worker@1", b"")]),
            lambda: store.save_evaluations([make_evaluation()], superseding=["worker"]),
            lambda: store.begin_session(make_session("b")),
            lambda: store.commit_session("session", lambda _held: commit),
            lambda: store.update_learning(_count_up),
        ]
        for write in writes:
            with pytest.raises(StorageClosedError):
                write()


class DurableTrainingStoreContract(TrainingStoreContract):
    """Tests that every store passes which keeps its contents: inherit, and implement `make_store` and `reopen`."""

    @abstractmethod
    def reopen(self, store: TrainingStore) -> TrainingStore:
        """Return another handle on what `store` keeps; `store` may be open still, or closed."""

    def _reopened(self, store: TrainingStore) -> contextlib.closing[TrainingStore]:
        return contextlib.closing(self.reopen(store))

    def test_examples_survive_reopening(self, store: TrainingStore) -> None:
        examples = [complete_example("c"), make_example("a", files=None), make_example("b")]
        store.add_examples(examples)
        store.close()
        with self._reopened(store) as again:
            assert again.get_all_examples() == examples

    def test_updates_and_removals_survive_reopening(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        store.update_examples([make_example("a", metadata={"new": True})])
        store.remove_example("c")
        store.close()
        with self._reopened(store) as again:
            self._add(again, "d")
            assert self._ids(again) == ["a", "b", "d"]
            assert again.get_example("a").metadata == {"new": True}

    def test_sessions_and_metrics_survive_reopening(self, store: TrainingStore) -> None:
        store.begin_session(make_session("done"))
        store.begin_session(make_session("open"))
        self._commit(store, "done", metrics=[make_metric_row("done")])
        store.close()
        with self._reopened(store) as again:
            done, left_open = again.get_all_sessions()
            assert done == complete_session("done")
            assert left_open == make_session("open", status="interrupted", error=left_open.error)
            assert left_open.error
            assert again.get_metrics("done") == [make_metric_row("done")]

    def test_evaluations_and_previews_survive_reopening(self, store: TrainingStore) -> None:
        store.save_evaluations([make_evaluation()], [Preview("digest", "good", b"png")])
        store.close()
        with self._reopened(store) as again:
            assert again.load_evaluations(["digest"]) == [make_evaluation()]
            assert again.load_previews("digest") == {"good": b"png"}

    def test_observations_survive_reopening_byte_for_byte(self, store: TrainingStore) -> None:
        contents = {"digest": bytes(range(256)), "empty": b""}
        store.save_evaluations([], (), [ObservationRecord(digest, ODD_TEXT, c) for digest, c in contents.items()])
        store.close()
        with self._reopened(store) as again:
            assert again.load_observations(ODD_TEXT, contents) == contents
            assert again.find_observations(ODD_TEXT, contents) == set(contents)

    def test_the_ranks_of_previews_survive_reopening(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        store.save_evaluations([], [Preview("d0", "a", half, 0.5), Preview("d1", "a", half, -1.0)])
        store.save_evaluations([], [Preview("d0", "b", half, None)])
        store.close()
        with self._reopened(store) as again:
            again.save_evaluations([], [Preview("d2", "a", half, 0.25)])
            assert self._previews(again) == [("d0", "b"), ("d1", "a"), ("d2", "a")]

    def test_what_went_with_an_example_or_was_superseded_is_not_there_after_reopening(
        self, store: TrainingStore
    ) -> None:
        self._share(store, one="p", two="q", three="r")
        self._note(store, "p", "q", "r")
        store.save_evaluations([_keyed("a", "1")], _pictured("a@1"))
        store.save_evaluations([_keyed("a", "2")], _pictured("a@2"), superseding=["a"])
        store.remove_example("one")
        store.update_examples([make_example("two", files=None)])
        with pytest.raises(_FailureError):
            store.remove_example("three", _fail)
        store.close()
        with self._reopened(store) as again:
            assert self._noted(again, "p", "q", "r") == ["r"]
            assert again.load_evaluations(["d0"]) == [_keyed("a", "2")]
            assert again.load_previews("d0") == {"a@2": b"a@2"}

    def test_learned_state_survives_reopening_to_the_last_bit(self, store: TrainingStore) -> None:
        before = store.update_learning(_becomes(make_learned_state()))
        store.close()
        with self._reopened(store) as again:
            after = again.load_learning()
            assert after == before
            assert _hex(after.state) == _hex(make_learned_state())
            assert again.update_learning(_count_up).version > before.version

    def test_what_failed_is_not_there_after_reopening(self, store: TrainingStore) -> None:
        self._add(store, "a")
        with pytest.raises(_FailureError):
            store.update_examples([make_example("a", metadata={"new": True})], _fail)
        with pytest.raises(DuplicateExampleError):
            store.add_examples([make_example("b"), make_example("a")])
        store.close()
        with self._reopened(store) as again:
            assert again.get_all_examples() == [make_example("a")]

    def test_the_id_of_the_store_survives_reopening(self, store: TrainingStore) -> None:
        before = store.store_id
        store.close()
        with self._reopened(store) as again:
            assert again.store_id == before

    def test_two_handles_see_what_the_other_writes(self, store: TrainingStore) -> None:
        with self._reopened(store) as other:
            self._add(store, "a")
            self._add(other, "b")
            store.begin_session(make_session())
            self._commit(other, metrics=[make_metric_row()])
            other.save_evaluations([make_evaluation()], (), [ObservationRecord("digest", "worker@1", b"x")])
            for handle in (store, other):
                assert self._ids(handle) == ["a", "b"]
                assert handle.get_session("session") == complete_session("session")
                assert handle.get_metrics("session") == [make_metric_row()]
                assert handle.load_evaluations(["digest"]) == [make_evaluation()]
                assert handle.load_observations("worker@1", ["digest"]) == {"digest": b"x"}

    def test_what_is_no_longer_learned_is_gone_for_other_handles_too(self, store: TrainingStore) -> None:
        with self._reopened(store) as other:
            for state in [*_fits_that_change(), LearnedState()]:
                store.update_learning(_becomes(state))
                assert other.load_learning().state == state

    def test_two_handles_change_the_same_learned_state(self, store: TrainingStore) -> None:
        with self._reopened(store) as other:
            for handle in (store, other, store, store, other):
                handle.update_learning(_count_up)
            assert store.load_learning() == other.load_learning()
            assert store.load_learning().state.bases["counter"].update_count == 5

    def test_closing_one_handle_leaves_the_other_open(self, store: TrainingStore) -> None:
        with self._reopened(store) as other:
            store.close()
            self._add(other, "a")
            assert self._ids(other) == ["a"]
