"""The contract of a store, as tests."""

# ruff: noqa: C901, D102, PLR2004, S101 - these are tests: their names state the behaviour, and they assert

from __future__ import annotations

import contextlib
import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs
import pytest

from tsm_training.data import (
    PREVIEW_BYTES,
    Evaluation,
    EvaluationKey,
    ExampleEdit,
    HeldState,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateChange,
    StateDelta,
    StateDocuments,
    TrainingExample,
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
from tsm_training.testing.records import (
    MOMENT,
    ODD_TEXT,
    complete_example,
    complete_session,
    make_delta,
    make_evaluation,
    make_example,
    make_files,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)
from tsm_training.testing.twins import OnPurposeError, Refused, Twin, fails, noting

T = TypeVar("T")


_DIGESTS: Final = ("d0", "d1", "d2", "digest", ODD_TEXT, *(make_files(name).digest for name in "pqrs"))
_NAMES: Final = ("w@1", "a@1", "a@2", ODD_TEXT, "")
_SEE: Final = noting(StateDelta(), _DIGESTS)
"""A change that stores a document of all that it was given."""


def _twin(store: TrainingStore) -> Twin:
    return Twin(store, _DIGESTS, _NAMES)


def _moved(stored: TrainingExample) -> TrainingExample:
    return attrs.evolve(stored, source_path="/elsewhere")


def _replacing(*examples: TrainingExample) -> dict[str, ExampleEdit]:
    """Return edits that put these records in the place of what is stored."""
    return {example.example_id: lambda _stored, new=example: new for example in examples}  # type: ignore[misc]


def _becomes(delta: StateDelta) -> StateChange:
    return lambda _held: delta


def _add(both: Twin, *example_ids: str) -> None:
    both.add_examples([make_example(example_id) for example_id in example_ids])


def _share(both: Twin, **contents: str | None) -> None:
    """Add examples that have the contents of these names."""
    both.add_examples(
        [make_example(i, files=None if name is None else make_files(name)) for i, name in contents.items()]
    )


def _note(both: Twin, *names: str) -> None:
    """Store an observation and two previews of the contents of each name."""
    digests = [make_files(name).digest for name in names]
    previews = [Preview(d, name, b"png", rank) for d in digests for name, rank in (("target", None), ("w@1", 0.0))]
    both.save_evaluations([], previews, [ObservationRecord(digest, "w@1", b"noted") for digest in digests])


def _commit(both: Twin | TrainingStore, session_id: str = "session", **parts: Any) -> None:
    both.commit_session(session_id, lambda _held: SessionCommit(complete_session(session_id), **parts))


def _kept(both: Twin) -> list[tuple[str, str]]:
    """Return the digests and names of the previews of three examples, the same in both stores."""
    ours, theirs = (store.load_previews(["d0", "d1", "d2"]) for store in (both.store, both.model))
    assert {digest: set(names) for digest, names in ours.items()} == {d: set(names) for d, names in theirs.items()}
    return [(digest, name) for digest in sorted(ours) for name in sorted(ours[digest])]


def _keyed(worker_id: str, fingerprint: str = "1", metric: str = "m", digest: str = "d0") -> Evaluation:
    """Return an evaluation under that key."""
    return make_evaluation(key=EvaluationKey(digest, worker_id, fingerprint, metric, "reader"))


def _pictured(*names: str, digest: str = "d0") -> list[Preview]:
    return [Preview(digest, name, name.encode()) for name in names]


def _count_up(held: HeldState) -> StateDelta:
    """Add 1 to a document of the head and to a row: changes that are lost are missed in the sum."""
    row = held.rows(["counter"]).get("counter", "0")
    assert held.head.get("counter", "0") == row
    return StateDelta({"counter": str(int(row) + 1)}, {"counter": str(int(row) + 1)})


def _counted(store: TrainingStore) -> int:
    documents = store.load_state(["counter"])
    assert documents.head.get("counter", "0") == documents.rows.get("counter", "0")
    return int(documents.rows.get("counter", "0"))


def _at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run all actions in threads that start together."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        barrier.wait(timeout=30)
        return action()

    with ThreadPoolExecutor(len(actions)) as executor:
        return list(executor.map(run, actions))


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

    # --- a new store ---

    def test_a_new_store_is_empty(self, store: TrainingStore) -> None:
        assert isinstance(store, TrainingStore)
        assert store.location
        assert store.load_state() == store.load_state(None) == StateDocuments()
        both = _twin(store)
        both.agree(store)
        assert (both.ranked_digests(), both.preview_cutoff()) == ([], None)

    def test_two_stores_have_different_ids_and_do_not_share_contents(
        self, store: TrainingStore, tmp_path: Path
    ) -> None:
        folder = tmp_path / "another"
        folder.mkdir()
        store.add_examples([make_example("a")])
        with contextlib.closing(self.make_store(folder)) as other:
            assert store.store_id
            assert store.store_id != other.store_id
            assert other.get_all_examples() == []

    # --- examples in and out ---

    def test_examples_come_back_equal_in_every_field(self, store: TrainingStore) -> None:
        examples = [
            complete_example(ODD_TEXT),
            make_example("bare", metadata=None, files=None),
            make_example("empty", worker_results={}, created_at=MOMENT.replace(microsecond=0)),
            make_example("types", metadata={"z": 1, "a": 1.0, "m": True, "n": None, "t": "1"}),
        ]
        store.add_examples(examples)
        for found in (store.get_all_examples(), store.get_examples([e.example_id for e in examples])):
            assert found == examples
            assert [type(value) for value in found[3].metadata.values()] == [int, float, bool, type(None), str]
            assert list(found[3].metadata) == ["z", "a", "m", "n", "t"]
            assert found[2].worker_results == {}
            assert (found[1].metadata, found[1].worker_results, found[1].files) == ({}, None, None)
            assert all(example.created_at.utcoffset() == timedelta(0) for example in found)

    def test_examples_come_back_in_order_of_addition_whatever_their_ids_and_times_say(
        self, store: TrainingStore
    ) -> None:
        expected = [f"e{number * 7919 % 600}" for number in range(600)]
        hours = (5, 5, -3, 0)
        store.add_examples(
            [make_example(i, created_at=MOMENT + timedelta(hours=hours[n % 4])) for n, i in enumerate(expected)]
        )
        for newest in (1, 599, 600, 601, 10**30, None):
            found = [example.example_id for example in store.iterate_examples(newest)]
            assert found == expected[-newest if newest and newest < 600 else 0 :]

    def test_a_duplicate_id_refuses_the_whole_batch(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.add_examples([])
        _add(both, "b")
        for batch in ("b", "abc", "aca"):
            refusal = both.add_examples([make_example(example_id, metadata={"new": True}) for example_id in batch])
            assert refusal.kind is DuplicateExampleError
        _add(both, "a", "c")

    def test_ids_that_differ_only_a_little_are_different(self, store: TrainingStore) -> None:
        both, example_ids = _twin(store), ["a", "A", "a ", "á", "a\u0301", "1", "01", "1.0"]
        _add(both, *example_ids)
        both.get_examples(example_ids)

    def test_examples_are_found_by_ids_in_the_order_of_the_ids(self, store: TrainingStore) -> None:
        both = _twin(store)
        _add(both, "a", "b", "c")
        assert [example.example_id for example in both.get_examples(["c", "a", "c"])] == ["c", "a", "c"]
        found = store.get_examples(["c", "c"])
        assert found[0].metadata is not found[1].metadata
        both.get_examples([])
        assert both.get_examples(["a", "nobody", "c", "nothing"]) == Refused(ExampleNotFoundError, "nobody")

    def test_examples_are_found_by_their_contents(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, d="p", c="q", b="p", a=None)
        digests = [make_files(name).digest for name in "pqx"]
        many = [*(f"digest {number}" for number in range(40_000)), digests[0]]
        for asked in (digests, digests[1:], many, []):
            both.find_examples(iter(asked))
            both.known_digests(iter(asked))

    def test_records_are_not_shared_with_the_caller(self, store: TrainingStore) -> None:
        metadata: dict[str, Any] = {"list": [1]}
        results = {"good": make_outcome(0.5)}
        example = make_example("a", metadata=metadata, worker_results=results, validation_scores=make_scores())
        store.add_examples([example, make_example("b")])
        store.edit_examples({"b": lambda stored: attrs.evolve(stored, metadata=metadata)})
        metadata["list"].append(2)
        results["good"]["accuracy"] = 0.0
        cast("dict[str, Any]", example.metadata)["new"] = 1
        reads: list[Callable[[], Iterable[TrainingExample]]] = [
            lambda: store.get_examples(["a", "b"]),
            lambda: store.find_examples([make_files("a").digest, make_files("b").digest]),
            store.iterate_examples,
        ]
        for read in [*reads, *reads]:
            first, second = read()
            assert first.metadata == second.metadata == {"list": [1]}
            assert first.worker_results == {"good": make_outcome(0.5)}
            assert first.validation_scores == make_scores()
            for found in (first, second):
                cast("dict[str, Any]", found.metadata)["new"] = found.metadata["list"].append(2)
            cast("dict[str, Any]", first.validation_scores)["avg_accuracy"] = 0.0

    def test_examples_may_be_added_and_removed_while_others_are_read(self, store: TrainingStore) -> None:
        store.add_examples([make_example(f"e{number}") for number in range(300)])
        seen = []
        for example in store.iterate_examples():
            seen.append(example.example_id)
            if example.example_id in {"e1", "e2", "e20"}:
                store.add_examples([make_example(f"late {example.example_id}")])
                store.remove_example(f"{example.example_id}9")
        assert len(seen) == len(set(seen))
        staying = [f"e{number}" for number in range(300) if number not in {19, 29, 209}]
        assert [example_id for example_id in seen if example_id in staying] == staying

    # --- editing and removing ---

    def test_an_edit_replaces_every_field_and_keeps_the_place(self, store: TrainingStore) -> None:
        both = _twin(store)
        _add(both, "a", "b", "c")
        new = attrs.evolve(complete_example("b"), created_at=MOMENT - timedelta(days=1), files=make_files("other"))
        both.edit_examples(_replacing(new))
        assert store.get_all_examples() == [make_example("a"), new, make_example("c")]
        both.edit_examples({"b": _moved})  # it gets the stored record
        both.edit_examples(_replacing(make_example("b", metadata={}, files=None)))

    def test_an_edit_passes_over_missing_examples_where_asked(self, store: TrainingStore) -> None:
        both = _twin(store)
        _add(both, "b")
        edits: dict[str, ExampleEdit] = dict.fromkeys("abc", _moved)
        assert both.edit_examples(edits, _SEE) == Refused(ExampleNotFoundError, "a")
        both.edit_examples(edits, _SEE, skip_missing=True)
        assert store.get_example("b").source_path == "/elsewhere"

    def test_a_removed_example_is_gone_and_the_others_keep_their_order(self, store: TrainingStore) -> None:
        both = _twin(store)
        _add(both, "a", "b", "c", "d")
        both.remove_example("b")
        assert both.get_example("b") == both.remove_example("b", _SEE) == Refused(ExampleNotFoundError, "b")
        both.remove_example("d")
        _add(both, "e")
        both.remove_example("a")
        _add(both, "a")
        both.iterate_examples(2)

    def test_nothing_that_is_gone_lends_its_place_to_something_else(self, store: TrainingStore) -> None:
        both = _twin(store)
        for number in range(3):
            both.add_examples([make_example("goes", files=None)])
            both.edit_examples(_replacing(complete_example("goes")))
            _add(both, f"stays {number}")
            both.remove_example("goes")

    def test_evaluations_sessions_and_metrics_outlive_an_example(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, example="p")
        digest = make_files("p").digest
        both.save_evaluations([make_evaluation(digest)], [Preview("digest", "good", b"png")])
        both.begin_session(make_session())
        _commit(both, metrics=[make_metric_row()])
        both.remove_example("example")
        assert store.load_evaluations([digest]) == [make_evaluation(digest)]

    def test_a_change_that_fails_undoes_everything(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, one="p", two="q")
        _note(both, "p", "q")
        both.begin_session(make_session())
        both.update_state(_becomes(make_delta()))
        replaced = _replacing(make_example("one", files=make_files("s")))
        failures = [
            both.edit_examples(replaced, fails),
            both.edit_examples({**replaced, "two": fails}),
            both.edit_examples({**replaced, "nobody": _moved}),
            both.remove_example("one", fails),
            both.update_state(fails),
            both.commit_session("session", fails),
        ]
        assert {failure.kind for failure in failures} == {OnPurposeError, ExampleNotFoundError}
        both.update_state(_SEE)

    # --- what goes with the contents of an example ---

    def test_what_belongs_to_contents_goes_with_their_last_example(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, one="p", two="p", three="q", four=None)
        _note(both, "p", "q", "r")
        for example_id in ("one", "four", "two"):
            both.remove_example(example_id, _SEE)
        assert len(store.load_previews([make_files(name).digest for name in "pqr"])) == 2
        _share(both, one="p")

    def test_contents_that_differ_in_one_file_are_different(self, store: TrainingStore) -> None:
        both, files, other = _twin(store), make_files("p"), make_files("q")
        for number, role in enumerate(("source", "target", "ground_truth")):
            both.add_examples([make_example(str(number), files=attrs.evolve(files, **{role: getattr(other, role)}))])
        _share(both, one="p")
        _note(both, "p")
        both.remove_example("one")

    def test_what_belongs_to_contents_goes_when_they_are_replaced(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, one="p", two="p", three="q", four="r", five=None)
        _note(both, "p", "q", "r", "s")
        both.edit_examples(_replacing(make_example("one", files=make_files("s"))), _SEE)
        new = _replacing(
            make_example("two", files=make_files("s")),
            make_example("three", files=None),
            make_example("four", files=make_files("r"), metadata={"new": True}),
            make_example("five", files=make_files("r")),
        )
        both.edit_examples(new, _SEE)

    def test_contents_that_change_hands_in_one_call_lose_nothing(self, store: TrainingStore) -> None:
        both = _twin(store)
        _share(both, one="p", two="q")
        _note(both, "p", "q")
        swapped = _replacing(make_example("one", files=make_files("q")), make_example("two", files=make_files("p")))
        both.edit_examples(swapped, _SEE)

    # --- evaluations and previews ---

    def test_evaluations_come_back_equal_in_every_field_and_the_oldest_first(self, store: TrainingStore) -> None:
        both = _twin(store)
        failed = {"accuracy": None, "failure_kind": "raised", "failure_type": "X", "failure_message": ODD_TEXT}
        evaluations = [
            make_evaluation("d1", "z", accuracy=0.1 + 0.2, confidence=5e-324, seconds=1e-17),
            make_evaluation("d0", ODD_TEXT, **failed),
            make_evaluation("d2", "z", accuracy=1.0, confidence=0.0, seconds=0.0),
            make_evaluation("d1", "a", accuracy=0.0),
        ]
        both.save_evaluations(evaluations[:2])
        both.save_evaluations(evaluations[2:])
        assert store.load_evaluations(["d0", "d1", "d2"]) == evaluations
        for asked in (["d2", "d1"], ["d1", "d1"], [], ["nothing"], [*map(str, range(40_000)), "d2"]):
            both.load_evaluations(iter(asked))

    def test_an_evaluation_with_the_same_key_replaces_the_old_one_and_counts_as_new(self, store: TrainingStore) -> None:
        both = _twin(store)
        failure = make_evaluation(accuracy=None, failure_kind="raised", failure_type="X", failure_message="no")
        others = [make_evaluation(key=failure.key._replace(**{field: "d0"})) for field in failure.key._fields]
        both.save_evaluations([failure, *others])
        both.save_evaluations([make_evaluation(accuracy=0.5), make_evaluation(accuracy=0.25)])
        assert store.load_evaluations(["digest", "d0"]) == [*others, make_evaluation(accuracy=0.25)]

    def test_previews_come_back_by_digest_and_name_byte_for_byte(self, store: TrainingStore) -> None:
        both, every_byte = _twin(store), bytes(range(256)) * 3
        both.save_evaluations([], [Preview("d0", "good", b"old"), Preview("d0", ODD_TEXT, b"")])
        both.save_evaluations([], [Preview("d0", "good", every_byte), Preview("d1", "good", b"other")])
        assert store.load_previews(["d0"]) == {"d0": {"good": every_byte, ODD_TEXT: b""}}
        for asked in (["d0", "d1", "nothing"], ["d1"], []):
            both.load_previews(iter(asked))

    def test_previews_are_kept_up_to_the_limit_in_order_of_digest_and_name(self, store: TrainingStore) -> None:
        both, quarter = Twin(store, (), ()), bytes(PREVIEW_BYTES // 4)
        keys = [("d0", "a"), ("d0", "b"), ("d1", "a"), ("d2", "")]
        both.save_evaluations([make_evaluation("d2")], [Preview(*key, quarter) for key in reversed(keys)])
        both.save_evaluations([], [Preview("d2", "b", b"x")])  # the newest, but the limit is reached before it
        _kept(both)
        both.save_evaluations([], [Preview("d1", "A", b"x")])
        assert _kept(both) == [*keys[:2], ("d1", "A"), *keys[2:]]
        both.save_evaluations([], [Preview("d0", "", quarter)])
        assert _kept(both) == [("d0", ""), *keys[:2], ("d1", "A"), keys[2]]

    def test_the_last_preview_that_is_kept_may_reach_beyond_the_limit_whoever_came_first(
        self, store: TrainingStore
    ) -> None:
        both, eighth = Twin(store, (), ()), PREVIEW_BYTES // 8
        small, middle, first = (Preview(f"d{n}", "p", bytes(size * eighth)) for n, size in ((2, 1), (1, 5), (0, 5)))
        for preview in (small, middle, first, small):
            both.save_evaluations([], [preview])
        assert _kept(both) == [("d0", "p"), ("d1", "p")]
        both.save_evaluations([], [attrs.evolve(first, png=bytes(PREVIEW_BYTES - 5 * eighth - 1)), small])
        assert _kept(both) == [("d0", "p"), ("d1", "p"), ("d2", "p")]  # a byte was left before it

    def test_previews_of_the_lowest_rank_stay_whatever_their_names(self, store: TrainingStore) -> None:
        both, half = Twin(store, (), ()), bytes(PREVIEW_BYTES // 2)
        kept = [Preview("d2", "z", half, -1.5), Preview("d1", "z", half, 0.25)]
        both.save_evaluations([], [Preview("d0", "a", b"x", 0.5), *kept, Preview("d0", "b", b"x", 1 / 3)])
        _kept(both)
        both.save_evaluations([], [Preview("d0", "c", b"x", 0.25)])  # the same rank, and an earlier digest
        assert _kept(both) == [("d0", "c"), ("d1", "z"), ("d2", "z")]
        both.ranked_digests()
        both.save_evaluations([], [Preview("d0", "d", half, 0.0)])
        _kept(both)

    def test_previews_without_a_rank_are_all_kept_and_count_nothing(self, store: TrainingStore) -> None:
        both, half = Twin(store, (), ()), bytes(PREVIEW_BYTES // 2)
        both.save_evaluations([], [Preview("d0", "a", bytes(PREVIEW_BYTES), None), Preview("d0", "b", b"x", None)])
        assert (both.ranked_digests(), both.preview_cutoff()) == ([], None)
        both.save_evaluations([], [Preview("d1", name, half, 0.5) for name in "abc"])
        both.save_evaluations([], [Preview("d2", "z", b"x", None), Preview("d2", "a", b"x", 0.75)])
        assert _kept(both) == [("d0", "a"), ("d0", "b"), ("d1", "a"), ("d1", "b"), ("d2", "z")]
        both.save_evaluations([], [Preview("d0", "a", half, 0.25), Preview("d1", "a", b"x", None)])
        both.ranked_digests()
        _kept(both)

    def test_the_cutoff_of_previews_says_from_where_on_none_is_kept(self, store: TrainingStore) -> None:
        both, half = Twin(store, (), ()), PREVIEW_BYTES // 2
        both.save_evaluations([], [Preview("d1", "p", bytes(half), 0.5), Preview("d0", "p", bytes(half - 1), 0.5)])
        assert both.preview_cutoff() is None
        both.save_evaluations([], [Preview("d2", "p", b"xy", 0.75)])
        assert both.preview_cutoff() == (0.75, "d2")
        both.save_evaluations([], [Preview("d2", "q", b"x", 0.75), Preview("d0", "q", b"x", 0.8)])
        _kept(both)
        both.ranked_digests()
        both.save_evaluations([], [Preview("d2", "q", bytes(half), 0.25)])
        assert both.preview_cutoff() == (0.5, "d1")
        both.ranked_digests()

    # --- observations ---

    def test_observations_come_back_by_name_and_digest_byte_for_byte(self, store: TrainingStore) -> None:
        both = _twin(store)
        contents = {"d0": bytes(range(256)) * 3, "d1": b"", "d2": b"\0", ODD_TEXT: b"{}"}
        for name in ("worker@1", ODD_TEXT, ""):
            both.save_evaluations([], (), [ObservationRecord(digest, name, b"old") for digest in contents])
            both.save_evaluations([], (), [ObservationRecord(digest, name, c) for digest, c in contents.items()])
            assert both.load_observations(name, iter(contents)) == contents
            both.find_observations(name, iter(contents))
        both.load_observations("worker@1", [*map(str, range(40_000)), "d2", "d2"])

    def test_observations_come_back_for_the_wanted_name_and_examples_only(self, store: TrainingStore) -> None:
        both, names = _twin(store), ["a", "A", "a ", "a@1", "ab", "á"]
        records = [ObservationRecord(d, n, f"{d} {n}".encode()) for d in ("d0", "d1", "D0") for n in names]
        both.save_evaluations([], (), records)
        for name, digests in [*((n, ["d1", "nothing"]) for n in names), ("", ["d0"]), ("a%", ["d0"]), ("a", [])]:
            both.load_observations(name, digests)
            both.find_observations(name, digests)

    # --- workers that were fitted anew ---

    def test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.save_evaluations([_keyed("a", "1"), _keyed("a", "2"), _keyed("a", "new")], _pictured("a@1", "a@2"))
        new = [attrs.evolve(_keyed("a", "new"), accuracy=0.5), _keyed("a", "newer")]
        noted = [ObservationRecord("d0", "a@1", b"x")]
        both.save_evaluations(new, _pictured("a@new", "a@newer"), noted, superseding=["a"])
        assert store.load_evaluations(["d0"]) == new
        both.save_evaluations([_keyed("a", "3")], superseding={"a"})

    def test_nothing_of_other_workers_metrics_and_examples_is_superseded(self, store: TrainingStore) -> None:
        both, others = _twin(store), ["a@", "a@b", "ab", "b", "A", "@a", "", "a%", "_"]
        evaluations = [_keyed(worker_id, "1") for worker_id in others]
        evaluations += [_keyed("a", "1", "another metric"), _keyed("a", "1", digest="d1")]
        pictures = [*(f"{worker_id}@1" for worker_id in others), "a", "target", "ground_truth", ODD_TEXT]
        noted = [ObservationRecord("d0", "a@1", b"1"), ObservationRecord("d0", "a@2", b"2")]
        both.save_evaluations(evaluations, _pictured(*pictures) + _pictured("a@1", digest="d1"), noted)
        both.save_evaluations([_keyed("a", "old")], _pictured("a@old"))
        both.save_evaluations([_keyed("a", "new")], superseding=("a",))
        assert store.load_evaluations(["d0", "d1"]) == [*evaluations, _keyed("a", "new")]

    def test_only_evaluations_of_the_named_workers_supersede_anything(self, store: TrainingStore) -> None:
        both = _twin(store)
        before = [_keyed("a", "1"), _keyed("a@b", "1"), _keyed("c", "1")]
        both.save_evaluations(before, _pictured("a@1", "a@b@1", "c@1"))
        both.save_evaluations([_keyed("a", "2")], _pictured("a@2", "a@b@2"))
        both.save_evaluations([_keyed("a", "3")], superseding=())
        both.save_evaluations([_keyed("a@b", "3")], _pictured("c@3"), superseding=["c", "nobody"])
        assert len(store.load_evaluations(["d0"])) == 6

    # --- sessions and metrics ---

    def test_a_session_comes_back_equal_in_every_field(self, store: TrainingStore) -> None:
        both = _twin(store)
        session = make_session(ODD_TEXT, seed=0, validation_split=0.0, training_ids=["a"], validation={})
        both.begin_session(session)
        both.begin_session(make_session())
        assert store.get_session(ODD_TEXT) == session
        _commit(both)
        assert store.get_session("session") == complete_session("session")
        failed = make_session(ODD_TEXT, status="failed", end_time=MOMENT, error=ODD_TEXT)
        both.commit_session(ODD_TEXT, lambda _held: SessionCommit(failed))

    def test_sessions_come_back_in_order_of_addition_whatever_their_times_say(self, store: TrainingStore) -> None:
        both = _twin(store)
        for number in range(6):
            both.begin_session(make_session(f"s{number * 5 % 6}", start_time=MOMENT + timedelta(hours=number % 4)))
        _commit(both, "s4")
        both.iterate_sessions(newest_first=True)

    def test_a_session_id_that_is_stored_already_is_refused(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.begin_session(make_session())
        _commit(both, metrics=[make_metric_row()])
        assert issubclass(both.begin_session(make_session()).kind, StorageError)

    def test_an_unknown_session_is_a_lookup_error(self, store: TrainingStore) -> None:
        both, commit = _twin(store), SessionCommit(make_session("nobody"), delta=make_delta())
        refused = Refused(SessionNotFoundError, "nobody")
        assert both.get_session("nobody") == both.iterate_metrics("nobody") == refused
        assert both.commit_session("nobody", lambda _held: commit) == refused

    def test_renewing_changes_no_record(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.begin_session(make_session("running"))
        both.begin_session(make_session("ended"))
        _commit(both, "ended")
        for session_id in ("running", "ended", "nobody"):
            both.renew_session(session_id)

    def test_a_commit_stores_session_metrics_and_learned_state(self, store: TrainingStore) -> None:
        both = _twin(store)
        for session_id in ("session", "another"):
            both.begin_session(make_session(session_id))
        both.update_state(_becomes(make_delta(2)))
        _share(both, one="p")
        rows = [make_metric_row(worker_id="good"), make_metric_row(worker_id="bad", accuracy=None, loss=None)]
        learns = noting(StateDelta({"counter": "1"}, {"counter": "1"}), _DIGESTS)
        both.commit_session("session", lambda held: SessionCommit(complete_session("session"), rows, learns(held)))
        assert list(store.iterate_metrics("session")) == rows
        assert store.load_state(["counter"]).rows == {"counter": "1"}
        _commit(both, "another")

    def test_session_records_are_not_shared_with_the_caller(self, store: TrainingStore) -> None:
        session = complete_session("session")
        weights = {"good": 1.0}
        store.begin_session(make_session("session", initial_weights=weights))
        store.begin_session(make_session("other", initial_weights=weights))
        store.commit_session("other", lambda _held: SessionCommit(make_session("other", initial_weights=weights)))
        weights["good"] = 99.0
        assert [each.initial_weights for each in store.iterate_sessions()] == [{"good": 1.0}, {"good": 1.0}]
        stored = store.commit_session("session", lambda _held: SessionCommit(session))[0]
        session = complete_session("session")
        for record in (stored, store.get_session("session"), next(store.iterate_sessions())):
            record.metrics_history[0]["weights"]["good"] = 99.0
            cast("dict[str, float]", record.final_weights)["new"] = 1.0
            cast("dict[str, Any]", record.validation)["nested"]["large"] = 0
        assert store.get_session("session") == session

    def test_metrics_come_back_equal_by_session_and_in_the_order_of_their_commits(self, store: TrainingStore) -> None:
        both = _twin(store)
        for session_id in ("b", "a"):
            both.begin_session(make_session(session_id))
        for part in range(2):
            for session_id in ("b", "a"):
                rows = [
                    make_metric_row(session_id, worker_id, accuracy=value, confidence=5e-324, epoch=number)
                    for number in range(part * 150, part * 150 + 150)
                    for worker_id, value in (("z", 0.1 + 0.2), (ODD_TEXT, None), ("a", 1 / 3))
                ]
                _commit(both, session_id, metrics=rows)
                both.iterate_metrics(session_id)

    # --- learned state ---

    def test_documents_of_learned_state_come_back_to_the_last_character(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.update_state(_becomes(make_delta()))
        documents = store.load_state(None)
        assert (dict(documents.head), dict(documents.rows)) == (make_delta().head, make_delta().rows)
        many = {f"key {number}": str(number) for number in range(1_000)}
        both.update_state(_becomes(StateDelta(rows=many)))
        for keys in ((), [ODD_TEXT, "", "nothing", ODD_TEXT], many, None):
            both.load_state(keys if keys is None else iter(keys))

    def test_a_delta_changes_what_it_names_and_leaves_the_rest(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.update_state(_becomes(make_delta()))
        for delta in (
            StateDelta({"sums": "1", "new": "2"}),
            StateDelta(rows={"digest": "[]", "new": "{}"}),
            StateDelta({ODD_TEXT: None, "nothing": None}, {"": None, "nothing": None}),
            StateDelta({"sums": "3"}, {"another": "4"}, drops_rows=True),
            StateDelta(drops_rows=True),
            StateDelta(rows={"digest": "5"}),
        ):
            both.update_state(_becomes(delta))
        documents = store.load_state(None)
        assert (documents.head["sums"], documents.rows) == ("3", {"digest": "5"})

    def test_every_change_has_a_token_and_no_other_does(self, store: TrainingStore) -> None:
        both = _twin(store)  # it looks at the tokens before and after each call
        _add(both, "a")
        both.begin_session(make_session())
        seen: list[str] = []

        def see(held: HeldState) -> StateDelta:
            seen.append(held.token)
            return _count_up(held)

        documents = [
            store.load_state(),
            store.update_state(see),
            store.update_state(see),
            store.edit_examples({"a": _moved}, see),
            store.commit_session("session", lambda held: SessionCommit(complete_session("session"), (), see(held)))[1],
            store.remove_example("a", see),
        ]
        tokens = [each.token for each in documents if each is not None]
        assert tokens[0] == ""
        assert seen == tokens[:5]
        assert len(set(tokens)) == 6
        assert store.update_state(lambda _held: None) == documents[-1]
        store.save_evaluations([make_evaluation()])
        assert store.load_state() == store.load_state() == documents[-1]

    # --- counts and limits ---

    def test_statistics_count_examples_and_sessions(self, store: TrainingStore) -> None:
        both = _twin(store)
        both.add_examples([make_example("a"), make_example("b", worker_results={}), make_example("c")])
        both.edit_examples(_replacing(make_example("c", worker_results={"good": make_outcome()})))
        both.remove_example("a")
        _add(both, "d", "e")
        both.begin_session(make_session())
        assert list(store.get_dataset_stats().values()) == [4, 2, 2, 1]

    def test_a_limit_that_is_no_whole_number_of_at_least_one_is_refused(self, store: TrainingStore) -> None:
        for limit in (0, -1, True, 1.0, "1", "1; DROP TABLE training_examples", [1]):
            with pytest.raises(InvalidArgumentError) as caught:
                store.get_all_examples(cast("int", limit))
            assert caught.value.argument == "limit"

    # --- several threads ---

    def test_additions_by_several_threads_are_all_kept(self, store: TrainingStore) -> None:
        def add(thread: int) -> bool:
            store.add_examples([make_example(f"{thread}-{number}") for number in range(8)])
            try:
                store.add_examples([make_example("same", metadata={"thread": thread})])
            except DuplicateExampleError:
                return False
            return True

        added = _at_once([functools.partial(add, thread) for thread in range(4)])
        assert added.count(True) == 1
        assert store.get_example("same").metadata == {"thread": added.index(True)}
        for thread in range(4):
            own = [e.example_id for e in store.iterate_examples() if e.example_id.startswith(f"{thread}-")]
            assert own == [f"{thread}-{number}" for number in range(8)]

    def test_different_changes_by_several_threads_all_count(self, store: TrainingStore) -> None:
        store.add_examples([make_example(name) for name in ("kept", *(f"gone {number}" for number in range(6)))])

        def count_in(stored: TrainingExample) -> TrainingExample:
            return attrs.evolve(stored, metadata={"count": stored.metadata.get("count", 0) + 1})

        def finish(session_id: str, held: HeldState) -> SessionCommit:
            return SessionCommit(complete_session(session_id), [make_metric_row(session_id)], _count_up(held))

        def edit() -> None:
            for _ in range(6):
                store.edit_examples({"kept": count_in}, _count_up)

        def remove() -> None:
            for number in range(6):
                store.remove_example(f"gone {number}", _count_up)

        def learn() -> None:
            for _ in range(12):
                before = _counted(store)
                store.update_state(_count_up)
                assert _counted(store) > before
                time.sleep(0.0005)  # so that others come in between, however quick the store is

        def fail() -> None:
            for _ in range(8):
                with pytest.raises(OnPurposeError):
                    store.edit_examples({"kept": lambda stored: attrs.evolve(stored, metadata={})}, fails)

        def train() -> None:
            for number in range(6):
                store.begin_session(make_session(f"s{number}"))
                store.commit_session(f"s{number}", functools.partial(finish, f"s{number}"))

        def keep_results() -> None:
            for number in range(6):
                digest = f"digest {number}"
                noted = [ObservationRecord(digest, "w@1", str(number).encode())]
                store.save_evaluations([make_evaluation(digest)], (), noted, superseding=["w"])

        _at_once([edit, edit, remove, learn, learn, fail, train, keep_results])
        assert _counted(store) == 48
        assert [(e.example_id, e.metadata) for e in store.get_all_examples()] == [("kept", {"count": 12})]
        digests = [f"digest {number}" for number in range(6)]
        assert len(store.load_evaluations(digests)) == 6
        assert store.load_observations("w@1", digests) == {digest: digest[-1].encode() for digest in digests}
        assert store.get_all_sessions() == [complete_session(f"s{number}") for number in range(6)]
        for number in range(6):
            assert list(store.iterate_metrics(f"s{number}")) == [make_metric_row(f"s{number}")]

    # --- many small writes ---

    def test_of_many_small_writes_none_is_lost(self, store: TrainingStore) -> None:
        names = [str(number) for number in range(100, 310)]
        for name in names:
            store.add_examples([make_example(name), make_example(f"gone {name}")])
            noted = [ObservationRecord(name, "w@1", name.encode())]
            store.save_evaluations([make_evaluation(name)], [Preview(name, "w@1", name.encode())], noted)
            store.edit_examples({name: _moved})
            store.remove_example(f"gone {name}")
            store.update_state(_becomes(StateDelta({f"h{name}": name}, {name: name, f"gone {name}": name})))
            store.update_state(_becomes(StateDelta(rows={f"gone {name}": None})))
            store.begin_session(make_session(name))
            _commit(store, name, metrics=[make_metric_row(name)])
        self._all_kept(store, names)

    def test_of_many_writes_in_few_calls_none_is_lost(self, store: TrainingStore) -> None:
        names = [str(number) for number in range(100, 310)]
        store.add_examples([make_example(name) for name in names])
        store.save_evaluations(
            [make_evaluation(name) for name in names],
            [Preview(name, "w@1", name.encode()) for name in names],
            [ObservationRecord(name, "w@1", name.encode()) for name in names],
        )
        store.edit_examples(dict.fromkeys(names, _moved))
        gone: Mapping[str, str] = {f"gone {name}": name for name in names}
        store.update_state(_becomes(StateDelta({f"h{n}": n for n in names}, {**gone, **{n: n for n in names}})))
        store.update_state(_becomes(StateDelta(rows=dict.fromkeys(gone))))
        store.begin_session(make_session("100"))
        rows = [make_metric_row("100", name) for name in names]
        _commit(store, "100", metrics=rows)
        assert list(store.iterate_metrics("100")) == rows
        self._all_kept(store, names, sessions=names[:0])

    def _all_kept(self, store: TrainingStore, names: list[str], sessions: list[str] | None = None) -> None:
        assert store.get_all_examples() == [_moved(make_example(name)) for name in names]
        assert store.load_evaluations(names) == [make_evaluation(name) for name in names]
        assert store.load_previews(names) == {name: {"w@1": name.encode()} for name in names}
        assert store.load_observations("w@1", names) == {name: name.encode() for name in names}
        documents = store.load_state(None)
        assert documents.head == {f"h{name}": name for name in names}
        assert documents.rows == {name: name for name in names}
        for session_id in names if sessions is None else sessions:
            assert store.get_session(session_id) == complete_session(session_id)
            assert list(store.iterate_metrics(session_id)) == [make_metric_row(session_id)]

    # --- closing ---

    def test_a_closed_store_refuses_everything(self, store: TrainingStore) -> None:
        store.add_examples([make_example("a")])
        store.begin_session(make_session())
        store.close()
        store.close()
        commit = SessionCommit(complete_session("session"))
        calls: list[Callable[[], object]] = [
            lambda: store.get_example("a"),
            lambda: store.get_examples(["nobody"]),
            lambda: store.find_examples(["digest"]),
            lambda: store.known_digests([]),
            lambda: list(store.iterate_examples()),
            lambda: store.load_evaluations(["digest"]),
            lambda: store.load_previews(["digest"]),
            store.ranked_digests,
            store.preview_cutoff,
            lambda: store.load_observations("worker@1", []),
            lambda: store.find_observations("worker@1", ["digest"]),
            lambda: store.get_session("session"),
            lambda: list(store.iterate_sessions()),
            lambda: list(store.iterate_metrics("session")),
            store.load_state,
            store.get_dataset_stats,
            lambda: store.add_examples([]),
            lambda: store.edit_examples({}),
            lambda: store.edit_examples({"a": _moved}),
            lambda: store.remove_example("a"),
            lambda: store.save_evaluations([make_evaluation()], superseding=["worker"]),
            lambda: store.begin_session(make_session("b")),
            lambda: store.commit_session("session", lambda _held: commit),
            lambda: store.update_state(_count_up),
        ]
        for call in calls:
            with pytest.raises(StorageClosedError) as caught:
                call()
            assert isinstance(caught.value, StorageError)


class DurableTrainingStoreContract(TrainingStoreContract):
    """Tests that every store passes which keeps its contents: inherit, and implement `make_store` and `reopen`."""

    @abstractmethod
    def reopen(self, store: TrainingStore) -> TrainingStore:
        """Return another handle on what `store` keeps; `store` may be open still, or closed."""

    def _reopened(self, store: TrainingStore) -> contextlib.closing[TrainingStore]:
        return contextlib.closing(self.reopen(store))

    def test_everything_survives_reopening(self, store: TrainingStore) -> None:
        examples = [complete_example("c"), make_example("a", files=None), make_example("b")]
        store.add_examples([*examples, make_example("gone")])
        store.edit_examples({"b": _moved})
        store.remove_example("gone")
        noted = {"digest": bytes(range(256)), "empty": b""}
        store.save_evaluations(
            [make_evaluation()], _pictured("a@1"), [ObservationRecord(d, ODD_TEXT, c) for d, c in noted.items()]
        )
        store.begin_session(make_session("done"))
        store.begin_session(make_session("open"))
        _commit(store, "done", metrics=[make_metric_row("done")], delta=make_delta())
        before = store.load_state(None)
        store.close()
        with self._reopened(store) as again:
            assert again.store_id == store.store_id
            assert again.get_all_examples() == [*examples[:2], _moved(examples[2])]
            assert again.load_evaluations(["digest"]) == [make_evaluation()]
            assert again.load_previews(["d0"]) == {"d0": {"a@1": b"a@1"}}
            assert again.load_observations(ODD_TEXT, noted) == noted
            assert list(again.iterate_metrics("done")) == [make_metric_row("done")]
            assert again.load_state(None) == before
            done, left_open = again.get_all_sessions()
            assert done == complete_session("done")
            assert left_open.error  # whoever ran it has closed the store
            assert left_open == make_session("open", status="interrupted", error=left_open.error)
            again.add_examples([make_example("d")])
            assert [example.example_id for example in again.iterate_examples()] == ["c", "a", "b", "d"]
            assert again.update_state(_count_up).token != before.token

    def test_the_ranks_of_previews_survive_reopening(self, store: TrainingStore) -> None:
        both, half = Twin(store, (), ()), bytes(PREVIEW_BYTES // 2)
        both.save_evaluations([], [Preview("d0", "a", half, 0.5), Preview("d1", "a", half, -1.0)])
        both.save_evaluations([], [Preview("d0", "b", half, None)])
        store.close()
        with self._reopened(store) as both.store:
            both.save_evaluations([], [Preview("d2", "a", half, 0.25)])
            assert _kept(both) == [("d0", "b"), ("d1", "a"), ("d2", "a")]
            both.ranked_digests()
