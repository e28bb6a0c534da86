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
from typing import Any, NoReturn, TypeVar, cast

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

__all__ = ["DurableTrainingStoreContract", "TrainingStoreContract"]

T = TypeVar("T")


class _FailureError(Exception):
    """Raised on purpose by a change."""


def _fail(_held: object) -> NoReturn:
    raise _FailureError


def _moved(stored: TrainingExample) -> TrainingExample:
    return attrs.evolve(stored, source_path="/elsewhere")


def _replacing(*examples: TrainingExample) -> dict[str, ExampleEdit]:
    """Return edits that put these records in the place of what is stored."""
    return {example.example_id: lambda _stored, new=example: new for example in examples}  # type: ignore[misc]


def _becomes(delta: StateDelta) -> StateChange:
    return lambda _held: delta


def _count_up(held: HeldState) -> StateDelta:
    """Add 1 to a document of the head and to a row: changes that are lost are missed in the sum."""
    row = held.rows(["counter"]).get("counter", "0")
    assert held.head.get("counter", "0") == row
    return StateDelta({"counter": str(int(row) + 1)}, {"counter": str(int(row) + 1)})


def _counted(store: TrainingStore) -> int:
    documents = store.load_state(["counter"])
    assert documents.head.get("counter", "0") == documents.rows.get("counter", "0")
    return int(documents.rows.get("counter", "0"))


def _contents(documents: StateDocuments) -> tuple[dict[str, str], dict[str, str]]:
    return dict(documents.head), dict(documents.rows)


def _at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run all actions in threads that start together."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        barrier.wait(timeout=30)
        return action()

    with ThreadPoolExecutor(len(actions)) as executor:
        return list(executor.map(run, actions))


def _keyed(worker_id: str, fingerprint: str = "1", metric: str = "m", digest: str = "d0") -> Evaluation:
    """Return an evaluation under that key."""
    return make_evaluation(key=EvaluationKey(digest, worker_id, fingerprint, metric, "reader"))


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

    def test_a_new_store_is_empty(self, store: TrainingStore) -> None:
        assert isinstance(store, TrainingStore)
        assert store.location
        assert store.get_all_examples() == []
        assert store.known_digests(["digest"]) == set()
        assert store.get_all_sessions() == []
        assert store.load_evaluations(["digest"]) == []
        assert store.load_previews(["digest"]) == {}
        assert (store.ranked_digests(), store.preview_cutoff()) == ([], None)
        assert store.find_observations("worker@1", ["digest"]) == set()
        assert store.load_state() == store.load_state(None) == StateDocuments()
        assert set(store.get_dataset_stats().values()) == {0}

    def test_two_stores_have_different_ids_and_do_not_share_contents(
        self, store: TrainingStore, tmp_path: Path
    ) -> None:
        folder = tmp_path / "another"
        folder.mkdir()
        self._add(store, "a")
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
        assert self._ids(store) == expected
        assert self._ids(store, 599) == expected[1:]
        assert self._ids(store, 1) == expected[-1:]
        for limit in (600, 601, 10**30):
            assert self._ids(store, limit) == expected

    def test_a_duplicate_id_refuses_the_whole_batch(self, store: TrainingStore) -> None:
        store.add_examples([])
        self._add(store, "b")
        for batch in ("b", "abc", "aca"):
            with pytest.raises(DuplicateExampleError) as caught:
                store.add_examples([make_example(example_id, metadata={"new": True}) for example_id in batch])
            assert caught.value.example_id in "ab"
            assert store.get_all_examples() == [make_example("b")]
        store.add_examples([make_example("a"), make_example("c")])
        assert self._ids(store) == ["b", "a", "c"]

    def test_ids_that_differ_only_a_little_are_different(self, store: TrainingStore) -> None:
        example_ids = ["a", "A", "a ", "á", "a\u0301", "1", "01", "1.0"]
        self._add(store, *example_ids)
        assert [store.get_example(example_id).example_id for example_id in example_ids] == example_ids

    def test_examples_are_found_by_ids_in_the_order_of_the_ids(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        found = store.get_examples(["c", "a", "c"])
        assert [example.example_id for example in found] == ["c", "a", "c"]
        assert found[0].metadata is not found[2].metadata
        assert store.get_examples([]) == []
        with pytest.raises(ExampleNotFoundError) as caught:
            store.get_examples(["a", "nobody", "c", "nothing"])
        assert isinstance(caught.value, LookupError)
        assert caught.value.identifier == "nobody"

    def test_examples_are_found_by_their_contents(self, store: TrainingStore) -> None:
        for example_id, name in (("d", "p"), ("c", "q"), ("b", "p"), ("a", None)):
            store.add_examples([make_example(example_id, files=None if name is None else make_files(name))])
        digests = [make_files(name).digest for name in "pqr"]
        assert [example.example_id for example in store.find_examples(digests)] == ["d", "c", "b"]
        assert store.find_examples(iter(digests[1:])) == store.get_examples(["c"])
        assert store.known_digests(iter(digests)) == set(digests[:2])
        many = [*(f"digest {number}" for number in range(40_000)), digests[0]]
        assert store.known_digests(many) == {digests[0]}
        assert (store.find_examples([]), store.known_digests([])) == ([], set())

    def test_records_are_not_shared_with_the_caller(self, store: TrainingStore) -> None:
        metadata: dict[str, Any] = {"list": [1]}
        results = {"good": make_outcome(0.5)}
        example = make_example("a", metadata=metadata, worker_results=results, validation_scores=make_scores())
        store.add_examples([example])
        self._add(store, "b")
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
                self._add(store, f"late {example.example_id}")
                store.remove_example(f"{example.example_id}9")
        assert len(seen) == len(set(seen))
        staying = [f"e{number}" for number in range(300) if number not in {19, 29, 209}]
        assert [example_id for example_id in seen if example_id in staying] == staying

    # --- editing and removing ---

    def test_an_edit_replaces_every_field_and_keeps_the_place(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        new = attrs.evolve(complete_example("b"), created_at=MOMENT - timedelta(days=1), files=make_files("other"))
        assert store.edit_examples(_replacing(new)) is None
        assert store.get_all_examples() == [make_example("a"), new, make_example("c")]
        store.edit_examples({"b": _moved})  # it gets the stored record
        assert store.get_example("b") == attrs.evolve(new, source_path="/elsewhere")
        bare = make_example("b", metadata={}, files=None)
        store.edit_examples(_replacing(bare))
        assert store.get_all_examples() == [make_example("a"), bare, make_example("c")]

    def test_an_edit_passes_over_missing_examples_where_asked(self, store: TrainingStore) -> None:
        self._add(store, "b")
        edits: dict[str, ExampleEdit] = dict.fromkeys("abc", _moved)
        with pytest.raises(ExampleNotFoundError) as caught:
            store.edit_examples(edits, _count_up)
        assert caught.value.identifier == "a"
        assert store.get_all_examples() == [make_example("b")]
        assert _counted(store) == 0
        store.edit_examples(edits, _count_up, skip_missing=True)
        assert [example.source_path for example in store.get_all_examples()] == ["/elsewhere"]
        assert _counted(store) == 1

    def test_a_removed_example_is_gone_and_the_others_keep_their_order(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c", "d")
        assert store.remove_example("b") is None
        assert self._ids(store) == ["a", "c", "d"]
        for ask in (store.get_example, functools.partial(store.remove_example, change=_count_up)):
            with pytest.raises(ExampleNotFoundError):
                ask("b")
        assert _counted(store) == 0
        store.remove_example("d")
        self._add(store, "e")
        store.remove_example("a")
        self._add(store, "a")
        assert self._ids(store) == ["c", "e", "a"]
        assert self._ids(store, 2) == ["e", "a"]

    def test_nothing_that_is_gone_lends_its_place_to_something_else(self, store: TrainingStore) -> None:
        for number in range(6):
            store.add_examples([make_example("goes", files=None)])
            assert store.get_example("goes") == make_example("goes", files=None)
            store.edit_examples(_replacing(complete_example("goes")))
            self._add(store, f"stays {number}")
            store.remove_example("goes")
        assert store.get_all_examples() == [make_example(f"stays {number}") for number in range(6)]

    def test_evaluations_sessions_and_metrics_outlive_an_example(self, store: TrainingStore) -> None:
        self._add(store, "example")
        digest = make_files("example").digest
        store.save_evaluations([make_evaluation(digest)], [Preview("digest", "good", b"png")])
        store.begin_session(make_session())
        session = self._commit(store, metrics=[make_metric_row()])
        store.remove_example("example")
        assert store.load_evaluations([digest]) == [make_evaluation(digest)]
        assert store.load_previews(["digest"]) == {"digest": {"good": b"png"}}
        assert store.get_all_sessions() == [session]
        assert list(store.iterate_metrics("session")) == [make_metric_row()]

    def test_a_change_that_fails_undoes_everything(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="q")
        self._note(store, "p", "q")
        store.begin_session(make_session())
        before = store.update_state(_becomes(make_delta()))
        examples = store.get_all_examples()
        replaced = _replacing(make_example("one", files=make_files("s")))
        failing: list[Callable[[], object]] = [
            lambda: store.edit_examples(replaced, _fail),
            lambda: store.edit_examples({**replaced, "two": _fail}),
            lambda: store.edit_examples({**replaced, "nobody": _moved}),
            lambda: store.remove_example("one", _fail),
            lambda: store.update_state(_fail),
            lambda: store.commit_session("session", _fail),
        ]
        for fail in failing:
            with pytest.raises((_FailureError, ExampleNotFoundError)):
                fail()
            assert store.get_all_examples() == examples
            assert self._noted(store, "p", "q", "s") == ["p", "q"]
            assert store.load_state() == before
            assert _contents(store.load_state(None)) == (make_delta().head, make_delta().rows)
            assert store.get_session("session") == make_session()
            assert list(store.iterate_metrics("session")) == []
        store.update_state(_count_up)
        assert _counted(store) == 1

    # --- what goes with the contents of an example ---

    def _note(self, store: TrainingStore, *names: str) -> None:
        """Store an observation and two previews of the contents of each name."""
        for name in names:
            digest = make_files(name).digest
            previews = [Preview(digest, "target", b"png", None), Preview(digest, "w@1", b"png")]
            store.save_evaluations([], previews, [ObservationRecord(digest, "w@1", name.encode())])

    def _noted(self, store: TrainingStore, *names: str) -> list[str]:
        """Return of which contents everything is there that `_note` stores; of the others nothing must be."""
        digests = {make_files(name).digest: name for name in names}
        previews = store.load_previews(digests)
        assert all(each == {"target": b"png", "w@1": b"png"} for each in previews.values())
        assert store.load_observations("w@1", digests) == {digest: digests[digest].encode() for digest in previews}
        assert store.find_observations("w@1", digests) == set(previews)
        return [name for digest, name in digests.items() if digest in previews]

    def _share(self, store: TrainingStore, **contents: str | None) -> None:
        """Add examples that have the contents of these names."""
        for example_id, name in contents.items():
            store.add_examples([make_example(example_id, files=None if name is None else make_files(name))])

    def _gone(self, seen: list[tuple[frozenset[str], set[str]]]) -> StateChange:
        """Return a change that notes which contents are gone, and which of p, q, r and s are still known."""
        digests = [make_files(name).digest for name in "pqrs"]

        def change(held: HeldState) -> None:
            seen.append((held.gone, held.known(digests)))

        return change

    def test_what_belongs_to_contents_goes_with_their_last_example(self, store: TrainingStore) -> None:
        p, q = (make_files(name).digest for name in "pq")
        seen: list[tuple[frozenset[str], set[str]]] = []
        self._share(store, one="p", two="p", three="q", four=None)
        self._note(store, "p", "q", "r")
        for example_id in ("one", "four"):
            store.remove_example(example_id, self._gone(seen))
            assert self._noted(store, "p", "q", "r") == ["p", "q", "r"]
        store.remove_example("two", self._gone(seen))
        assert self._noted(store, "p", "q", "r") == ["q", "r"]
        assert seen == [(frozenset(), {p, q}), (frozenset(), {p, q}), (frozenset([p]), {q})]
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

    def test_what_belongs_to_contents_goes_when_they_are_replaced(self, store: TrainingStore) -> None:
        p, q, r, s = (make_files(name).digest for name in "pqrs")
        seen: list[tuple[frozenset[str], set[str]]] = []
        self._share(store, one="p", two="p", three="q", four="r", five=None)
        self._note(store, "p", "q", "r", "s")
        store.edit_examples(_replacing(make_example("one", files=make_files("s"))), self._gone(seen))
        assert self._noted(store, "p", "q", "r", "s") == ["p", "q", "r", "s"]
        new = _replacing(
            make_example("two", files=make_files("s")),
            make_example("three", files=None),
            make_example("four", files=make_files("r"), metadata={"new": True}),
            make_example("five", files=make_files("r")),
        )
        store.edit_examples(new, self._gone(seen))
        assert seen == [(frozenset(), {p, q, r, s}), (frozenset([p, q]), {r, s})]
        assert self._noted(store, "p", "q", "r", "s") == ["r", "s"]
        assert store.known_digests([p, q, r, s]) == {r, s}

    def test_contents_that_change_hands_in_one_call_lose_nothing(self, store: TrainingStore) -> None:
        seen: list[tuple[frozenset[str], set[str]]] = []
        self._share(store, one="p", two="q")
        self._note(store, "p", "q")
        swapped = _replacing(make_example("one", files=make_files("q")), make_example("two", files=make_files("p")))
        store.edit_examples(swapped, self._gone(seen))
        assert self._noted(store, "p", "q") == ["p", "q"]
        assert seen[0][0] == frozenset()

    # --- evaluations and previews ---

    def test_evaluations_come_back_equal_in_every_field_and_the_oldest_first(self, store: TrainingStore) -> None:
        failed = {"accuracy": None, "failure_kind": "raised", "failure_type": "X", "failure_message": ODD_TEXT}
        evaluations = [
            make_evaluation("b", "z", accuracy=0.1 + 0.2, confidence=5e-324, seconds=1e-17),
            make_evaluation("a", ODD_TEXT, **failed),
            make_evaluation("c", "z", accuracy=1.0, confidence=0.0, seconds=0.0),
            make_evaluation("b", "a", accuracy=0.0),
        ]
        store.save_evaluations(evaluations[:2])
        store.save_evaluations(evaluations[2:])
        assert store.load_evaluations("abc") == evaluations
        assert store.load_evaluations(iter("cb")) == [evaluations[0], *evaluations[2:]]
        assert store.load_evaluations(["b", "b"]) == [evaluations[0], evaluations[3]]
        assert store.load_evaluations([]) == store.load_evaluations(["nothing"]) == []
        assert store.load_evaluations([*(str(number) for number in range(40_000)), "c"]) == [evaluations[2]]

    def test_an_evaluation_with_the_same_key_replaces_the_old_one_and_counts_as_new(self, store: TrainingStore) -> None:
        failure = make_evaluation(accuracy=None, failure_kind="raised", failure_type="X", failure_message="no")
        key = failure.key
        others = [make_evaluation(key=key._replace(**{field: "another"})) for field in key._fields]
        store.save_evaluations([failure, *others])
        store.save_evaluations([make_evaluation(accuracy=0.5), make_evaluation(accuracy=0.25)])
        found = store.load_evaluations([key.example_digest, "another"])
        assert found == [*others, make_evaluation(accuracy=0.25)]

    def test_previews_come_back_by_digest_and_name_byte_for_byte(self, store: TrainingStore) -> None:
        every_byte = bytes(range(256)) * 3
        store.save_evaluations([], [Preview("digest", "good", b"old"), Preview("digest", ODD_TEXT, b"")])
        store.save_evaluations([], [Preview("digest", "good", every_byte), Preview("another", "good", b"other")])
        expected = {"digest": {"good": every_byte, ODD_TEXT: b""}, "another": {"good": b"other"}}
        assert store.load_previews(["digest", "another", "nothing"]) == expected
        assert store.load_previews(iter(["another"])) == {"another": {"good": b"other"}}
        assert store.load_previews([]) == {}

    def _previews(self, store: TrainingStore) -> list[tuple[str, str]]:
        found = store.load_previews(["d0", "d1", "d2"])
        return [(digest, name) for digest in sorted(found) for name in sorted(found[digest])]

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

    def test_the_last_preview_that_is_kept_may_reach_beyond_the_limit_whoever_came_first(
        self, store: TrainingStore
    ) -> None:
        eighth = PREVIEW_BYTES // 8
        small, middle, first = (Preview(f"d{n}", "p", bytes(size * eighth)) for n, size in ((2, 1), (1, 5), (0, 5)))
        for preview in (small, middle, first, small):
            store.save_evaluations([], [preview])
        assert self._previews(store) == [("d0", "p"), ("d1", "p")]
        store.save_evaluations([], [attrs.evolve(first, png=bytes(PREVIEW_BYTES - 5 * eighth - 1)), small])
        assert self._previews(store) == [("d0", "p"), ("d1", "p"), ("d2", "p")]  # a byte was left before it

    def test_previews_of_the_lowest_rank_stay_whatever_their_names(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        kept = [Preview("d2", "z", half, -1.5), Preview("d1", "z", half, 0.25)]
        store.save_evaluations([], [Preview("d0", "a", b"x", 0.5), *kept, Preview("d0", "b", b"x", 1 / 3)])
        assert self._previews(store) == [("d1", "z"), ("d2", "z")]
        store.save_evaluations([], [Preview("d0", "c", b"x", 0.25)])  # the same rank, and an earlier digest
        assert self._previews(store) == [("d0", "c"), ("d1", "z"), ("d2", "z")]
        assert store.ranked_digests() == ["d2", "d0", "d1"]
        store.save_evaluations([], [Preview("d0", "d", half, 0.0)])
        assert self._previews(store) == [("d0", "d"), ("d2", "z")]

    def test_previews_without_a_rank_are_all_kept_and_count_nothing(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        store.save_evaluations([], [Preview("d0", "a", bytes(PREVIEW_BYTES), None), Preview("d0", "b", b"x", None)])
        assert (store.ranked_digests(), store.preview_cutoff()) == ([], None)
        store.save_evaluations([], [Preview("d1", name, half, 0.5) for name in "abc"])
        store.save_evaluations([], [Preview("d2", "z", b"x", None), Preview("d2", "a", b"x", 0.75)])
        kept = [("d0", "a"), ("d0", "b"), ("d1", "a"), ("d1", "b"), ("d2", "z")]
        assert self._previews(store) == kept
        assert store.ranked_digests() == ["d1"]
        store.save_evaluations([], [Preview("d0", "a", half, 0.25), Preview("d1", "a", b"x", None)])
        assert self._previews(store) == kept
        assert store.ranked_digests() == ["d0", "d1"]

    def test_the_cutoff_of_previews_says_from_where_on_none_is_kept(self, store: TrainingStore) -> None:
        half = PREVIEW_BYTES // 2
        store.save_evaluations([], [Preview("d1", "p", bytes(half), 0.5), Preview("d0", "p", bytes(half - 1), 0.5)])
        assert store.preview_cutoff() is None
        store.save_evaluations([], [Preview("d2", "p", b"xy", 0.75)])
        assert store.preview_cutoff() == (0.75, "d2")
        store.save_evaluations([], [Preview("d2", "q", b"x", 0.75), Preview("d0", "q", b"x", 0.8)])
        assert self._previews(store) == [("d0", "p"), ("d1", "p"), ("d2", "p")]
        assert store.ranked_digests() == ["d0", "d1", "d2"]
        store.save_evaluations([], [Preview("d2", "q", bytes(half), 0.25)])
        assert store.preview_cutoff() == (0.5, "d1")
        assert store.ranked_digests() == ["d2", "d0", "d1"]

    # --- observations ---

    def test_observations_come_back_by_name_and_digest_byte_for_byte(self, store: TrainingStore) -> None:
        contents = {"digest": bytes(range(256)) * 3, "empty": b"", "zero": b"\0", ODD_TEXT: b"{}"}
        for name in ("worker@1", ODD_TEXT, ""):
            store.save_evaluations([], (), [ObservationRecord(digest, name, b"old") for digest in contents])
            store.save_evaluations([], (), [ObservationRecord(digest, name, c) for digest, c in contents.items()])
            assert store.load_observations(name, iter(contents)) == contents
            assert store.find_observations(name, iter(contents)) == set(contents)
        assert store.load_observations("worker@1", [*map(str, range(40_000)), "zero", "zero"]) == {"zero": b"\0"}

    def test_observations_come_back_for_the_wanted_name_and_examples_only(self, store: TrainingStore) -> None:
        names = ["a", "A", "a ", "a@1", "ab", "á"]
        records = [ObservationRecord(d, n, f"{d} {n}".encode()) for d in ("d0", "d1", "D0") for n in names]
        store.save_evaluations([], (), records)
        for name in names:
            assert store.load_observations(name, ["d1", "nothing"]) == {"d1": f"d1 {name}".encode()}
            assert store.find_observations(name, ["d1", "nothing"]) == {"d1"}
        for name, digests in (("", ["d0"]), ("a%", ["d0"]), ("A@1", ["d0"]), ("a", [])):
            assert store.load_observations(name, digests) == {}
            assert store.find_observations(name, digests) == set()

    # --- workers that were fitted anew ---

    def test_a_worker_that_was_fitted_anew_supersedes_what_is_stored_of_it(self, store: TrainingStore) -> None:
        store.save_evaluations([_keyed("a", "1"), _keyed("a", "2"), _keyed("a", "new")], _pictured("a@1", "a@2"))
        new = [attrs.evolve(_keyed("a", "new"), accuracy=0.5), _keyed("a", "newer")]
        noted = [ObservationRecord("d0", "a@new", b"x")]
        store.save_evaluations(new, _pictured("a@new", "a@newer"), noted, superseding=["a"])
        assert store.load_evaluations(["d0"]) == new
        assert store.load_previews(["d0"]) == {"d0": {"a@new": b"a@new", "a@newer": b"a@newer"}}
        assert store.load_observations("a@new", ["d0"]) == {"d0": b"x"}
        store.save_evaluations([_keyed("a", "3")], superseding={"a"})
        assert store.load_evaluations(["d0"]) == [_keyed("a", "3")]
        assert store.load_previews(["d0"]) == {}

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
        assert store.load_previews(["d0", "d1"]) == {
            "d0": {name: name.encode() for name in pictures},
            "d1": {"a@1": b"a@1"},
        }
        for name, content in (("a@1", b"1"), ("a@2", b"2")):
            assert store.load_observations(name, ["d0"]) == {"d0": content}

    def test_only_evaluations_of_the_named_workers_supersede_anything(self, store: TrainingStore) -> None:
        before = [_keyed("a", "1"), _keyed("a@b", "1"), _keyed("c", "1")]
        store.save_evaluations(before, _pictured("a@1", "a@b@1", "c@1"))
        store.save_evaluations([_keyed("a", "2")], _pictured("a@2", "a@b@2"))
        store.save_evaluations([_keyed("a", "3")], superseding=())
        store.save_evaluations([_keyed("a@b", "3")], _pictured("c@3"), superseding=["c", "nobody"])
        fingerprints = [("a", "1"), ("a@b", "1"), ("c", "1"), ("a", "2"), ("a", "3"), ("a@b", "3")]
        assert [e.key[1:3] for e in store.load_evaluations(["d0"])] == fingerprints
        assert set(store.load_previews(["d0"])["d0"]) == {"a@1", "a@b@1", "c@1", "a@2", "a@b@2", "c@3"}

    # --- sessions and metrics ---

    def test_a_session_comes_back_equal_in_every_field(self, store: TrainingStore) -> None:
        session = make_session(ODD_TEXT, seed=0, validation_split=0.0, training_ids=["a"], validation={})
        store.begin_session(session)
        store.begin_session(make_session())
        assert store.get_session(ODD_TEXT) == session
        assert (session.status, store.get_session(ODD_TEXT).validation) == ("running", {})
        assert store.get_session("session").validation is None
        assert self._commit(store) == store.get_session("session") == complete_session("session")
        failed = make_session(ODD_TEXT, status="failed", end_time=MOMENT, error=ODD_TEXT)
        assert store.commit_session(ODD_TEXT, lambda _held: SessionCommit(failed)) == (failed, store.load_state())
        assert store.get_all_sessions() == [failed, complete_session("session")]

    def test_sessions_come_back_in_order_of_addition_whatever_their_times_say(self, store: TrainingStore) -> None:
        session_ids = [f"s{number * 7 % 30}" for number in range(30)]
        for number, session_id in enumerate(session_ids):
            store.begin_session(make_session(session_id, start_time=MOMENT + timedelta(hours=number % 7)))
        self._commit(store, session_ids[3])
        assert [session.session_id for session in store.iterate_sessions()] == session_ids
        assert [s.session_id for s in store.iterate_sessions(newest_first=True)] == session_ids[::-1]
        assert [s.status for s in store.get_all_sessions()[2:5]] == ["running", "completed", "running"]

    def test_a_session_id_that_is_stored_already_is_refused(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        self._commit(store, metrics=[make_metric_row()])
        with pytest.raises(StorageError):
            store.begin_session(make_session())
        assert store.get_all_sessions() == [complete_session("session")]
        assert list(store.iterate_metrics("session")) == [make_metric_row()]

    def test_an_unknown_session_is_a_lookup_error(self, store: TrainingStore) -> None:
        commit = SessionCommit(make_session("nobody"), delta=make_delta())
        asked: list[Callable[[str], object]] = [
            store.get_session,
            store.iterate_metrics,
            lambda session_id: store.commit_session(session_id, lambda _held: commit),
        ]
        for ask in asked:
            with pytest.raises(SessionNotFoundError) as caught:
                ask("nobody")
            assert isinstance(caught.value, LookupError)
            assert caught.value.identifier == "nobody"
        assert store.get_all_sessions() == []
        assert store.load_state() == StateDocuments()

    def test_renewing_changes_no_record(self, store: TrainingStore) -> None:
        store.begin_session(make_session("running"))
        store.begin_session(make_session("ended"))
        ended = self._commit(store, "ended")
        for session_id in ("running", "ended", "nobody"):
            store.renew_session(session_id)
        assert store.get_all_sessions() == [make_session("running"), ended]

    def test_a_commit_stores_session_metrics_and_learned_state(self, store: TrainingStore) -> None:
        store.begin_session(make_session())
        store.update_state(_becomes(make_delta(2)))
        self._share(store, one="p")
        digests = [make_files(name).digest for name in "pq"]
        rows = [make_metric_row(worker_id="good"), make_metric_row(worker_id="bad", accuracy=None, loss=None)]
        seen: list[object] = []

        def finish(held: HeldState) -> SessionCommit:
            seen.extend((held.head, held.rows(None), held.known(digests), held.gone))
            return SessionCommit(complete_session("session"), rows, _count_up(held))

        stored, documents = store.commit_session("session", finish)
        assert seen == [make_delta(2).head, make_delta(2).rows, {digests[0]}, frozenset()]
        assert stored == complete_session("session")
        assert list(store.iterate_metrics("session")) == rows
        assert documents == store.load_state()
        assert documents.head == {**make_delta(2).head, "counter": "1"}
        assert _counted(store) == 1
        store.begin_session(make_session("another"))
        commit = SessionCommit(complete_session("another"))
        assert store.commit_session("another", lambda _held: commit)[1] == documents == store.load_state()

    def test_session_records_are_not_shared_with_the_caller(self, store: TrainingStore) -> None:
        session = complete_session("session")
        weights = {"good": 1.0}
        store.begin_session(make_session("session", initial_weights=weights))
        store.begin_session(make_session("other", initial_weights=weights))
        store.commit_session("other", lambda _held: SessionCommit(make_session("other", initial_weights=weights)))
        weights["good"] = 99.0
        assert [each.initial_weights for each in store.iterate_sessions()] == [{"good": 1.0}, {"good": 1.0}]
        stored = self._commit(store)
        for record in (stored, store.get_session("session"), next(store.iterate_sessions())):
            record.metrics_history[0]["weights"]["good"] = 99.0
            cast("dict[str, float]", record.final_weights)["new"] = 1.0
            cast("dict[str, Any]", record.validation)["nested"]["large"] = 0
        assert store.get_session("session") == session

    def test_metrics_come_back_equal_by_session_and_in_the_order_of_their_commits(self, store: TrainingStore) -> None:
        rows = {
            session_id: [
                make_metric_row(session_id, worker_id, accuracy=value, confidence=5e-324, epoch=number)
                for number in range(300)
                for worker_id, value in (("z", 0.1 + 0.2), (ODD_TEXT, None), ("a", 1 / 3))
            ]
            for session_id in ("b", "a")
        }
        for session_id in rows:
            store.begin_session(make_session(session_id))
        for start, end in ((0, 500), (500, 900)):
            for session_id, expected in rows.items():
                self._commit(store, session_id, metrics=expected[start:end])
        for session_id, expected in rows.items():
            assert list(store.iterate_metrics(session_id)) == expected

    # --- learned state ---

    def test_documents_of_learned_state_come_back_to_the_last_character(self, store: TrainingStore) -> None:
        store.update_state(_becomes(make_delta()))
        assert _contents(store.load_state(None)) == (make_delta().head, make_delta().rows)
        assert _contents(store.load_state()) == (make_delta().head, {})
        some = store.load_state(iter([ODD_TEXT, "", "nothing", ODD_TEXT]))
        assert _contents(some) == (make_delta().head, {ODD_TEXT: "1", "": '""'})
        many = {f"key {number}": str(number) for number in range(1_000)}
        store.update_state(_becomes(StateDelta(rows=many)))
        assert dict(store.load_state(many).rows) == many
        assert dict(store.load_state(None).rows) == {**make_delta().rows, **many}

    def test_a_delta_changes_what_it_names_and_leaves_the_rest(self, store: TrainingStore) -> None:
        head, rows = dict(make_delta().head), dict(make_delta().rows)
        store.update_state(_becomes(make_delta()))
        deltas: list[StateDelta] = [
            StateDelta({"sums": "1", "new": "2"}),
            StateDelta(rows={"digest": "[]", "new": "{}"}),
            StateDelta({ODD_TEXT: None, "nothing": None}, {"": None, "nothing": None}),
            StateDelta({"sums": "3"}, {"another": "4"}, drops_rows=True),
            StateDelta(drops_rows=True),
            StateDelta(rows={"digest": "5"}),
        ]
        for delta in deltas:
            rows = {} if delta.drops_rows else rows
            for held, changes in ((head, delta.head), (rows, delta.rows)):
                held.update({key: document for key, document in changes.items() if document is not None})
                for key in [key for key, document in changes.items() if document is None]:
                    held.pop(key, None)
            documents = store.update_state(_becomes(delta))
            assert documents == store.load_state()
            assert _contents(store.load_state(None)) == (head, rows)

    def test_every_change_has_a_token_and_no_other_does(self, store: TrainingStore) -> None:
        self._add(store, "a")
        store.begin_session(make_session())
        commit = SessionCommit(complete_session("session"), delta=make_delta())
        seen: list[str] = []

        def see(held: HeldState) -> StateDelta:
            seen.append(held.token)
            return _count_up(held)

        documents = [
            store.load_state(),
            store.update_state(see),
            store.update_state(see),
            store.edit_examples({"a": _moved}, see),
            store.commit_session("session", lambda _held: commit)[1],
            store.remove_example("a", see),
        ]
        tokens = [each.token for each in documents if each is not None]
        assert tokens[0] == ""
        assert len(set(tokens)) == 6
        assert seen == [*tokens[:3], tokens[4]]
        assert store.update_state(lambda _held: None) == documents[-1]
        self._add(store, "b")
        store.save_evaluations([make_evaluation()])
        assert store.load_state() == store.load_state() == documents[-1]

    # --- counts and limits ---

    def test_statistics_count_examples_and_sessions(self, store: TrainingStore) -> None:
        store.add_examples([make_example("a"), make_example("b", worker_results={}), make_example("c")])
        store.edit_examples(_replacing(make_example("c", worker_results={"good": make_outcome()})))
        store.remove_example("a")
        self._add(store, "d", "e")
        store.begin_session(make_session())
        assert store.get_dataset_stats() == {
            "total_examples": 4,
            "processed_examples": 2,
            "unprocessed_examples": 2,
            "total_sessions": 1,
        }

    def test_a_limit_that_is_no_whole_number_of_at_least_one_is_refused(self, store: TrainingStore) -> None:
        self._add(store, "a", "b", "c")
        assert [e.example_id for e in store.get_all_examples(limit=2)] == ["b", "c"]
        for limit in (0, -1, True, 1.0, "1", "1; DROP TABLE training_examples", [1]):
            with pytest.raises(InvalidArgumentError) as caught:
                store.get_all_examples(cast("int", limit))
            assert caught.value.argument == "limit"
        assert self._ids(store) == ["a", "b", "c"]

    # --- several threads ---

    def test_additions_by_several_threads_are_all_kept(self, store: TrainingStore) -> None:
        def add(thread: int) -> bool:
            self._add(store, *(f"{thread}-{number}" for number in range(8)))
            try:
                store.add_examples([make_example("same", metadata={"thread": thread})])
            except DuplicateExampleError:
                return False
            return True

        added = _at_once([functools.partial(add, thread) for thread in range(4)])
        assert added.count(True) == 1
        assert store.get_example("same").metadata == {"thread": added.index(True)}
        for thread in range(4):
            own = [example_id for example_id in self._ids(store) if example_id.startswith(f"{thread}-")]
            assert own == [f"{thread}-{number}" for number in range(8)]

    def test_different_changes_by_several_threads_all_count(self, store: TrainingStore) -> None:
        self._add(store, "kept", *(f"gone {number}" for number in range(6)))

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
                with pytest.raises(_FailureError):
                    store.edit_examples({"kept": lambda stored: attrs.evolve(stored, metadata={})}, _fail)

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
            self._commit(store, name, metrics=[make_metric_row(name)])
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
        self._commit(store, "100", metrics=rows)
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
        self._add(store, "a")
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
        self._commit(store, "done", metrics=[make_metric_row("done")], delta=make_delta())
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
            self._add(again, "d")
            assert self._ids(again) == ["c", "a", "b", "d"]
            assert again.update_state(_count_up).token != before.token

    def test_the_ranks_of_previews_survive_reopening(self, store: TrainingStore) -> None:
        half = bytes(PREVIEW_BYTES // 2)
        store.save_evaluations([], [Preview("d0", "a", half, 0.5), Preview("d1", "a", half, -1.0)])
        store.save_evaluations([], [Preview("d0", "b", half, None)])
        store.close()
        with self._reopened(store) as again:
            again.save_evaluations([], [Preview("d2", "a", half, 0.25)])
            assert self._previews(again) == [("d0", "b"), ("d1", "a"), ("d2", "a")]
            assert again.ranked_digests() == ["d1", "d2"]

    def test_what_is_gone_or_failed_is_not_there_after_reopening(self, store: TrainingStore) -> None:
        self._share(store, one="p", two="q", three="r")
        self._note(store, "p", "q", "r")
        store.save_evaluations([_keyed("a", "1")], _pictured("a@1"))
        store.save_evaluations([_keyed("a", "2")], _pictured("a@2"), superseding=["a"])
        store.update_state(_becomes(make_delta()))
        store.update_state(_becomes(StateDelta(dict.fromkeys(make_delta().head), drops_rows=True)))
        store.remove_example("one")
        store.edit_examples(_replacing(make_example("two", files=None)))
        with pytest.raises(_FailureError):
            store.remove_example("three", _fail)
        with pytest.raises(DuplicateExampleError):
            store.add_examples([make_example("new"), make_example("two")])
        store.close()
        with self._reopened(store) as again:
            assert self._ids(again) == ["two", "three"]
            assert self._noted(again, "p", "q", "r") == ["r"]
            assert again.load_evaluations(["d0"]) == [_keyed("a", "2")]
            assert again.load_previews(["d0"]) == {"d0": {"a@2": b"a@2"}}
            assert _contents(again.load_state(None)) == ({}, {})

    def test_two_handles_see_and_change_the_same(self, store: TrainingStore) -> None:
        with self._reopened(store) as other:
            self._add(store, "a")
            self._add(other, "b")
            store.begin_session(make_session())
            self._commit(other, metrics=[make_metric_row()])
            other.save_evaluations([make_evaluation()], (), [ObservationRecord("digest", "worker@1", b"x")])
            for number, handle in enumerate((store, other, store, store, other), 1):
                handle.update_state(_count_up)
                assert (_counted(store), _counted(other)) == (number, number)
                assert store.load_state() == other.load_state()
            for delta in (make_delta(), StateDelta({"counter": None}, drops_rows=True), make_delta(2)):
                store.update_state(_becomes(delta))
                assert other.load_state(None) == store.load_state(None)
            for handle in (store, other):
                assert self._ids(handle) == ["a", "b"]
                assert handle.get_session("session") == complete_session("session")
                assert list(handle.iterate_metrics("session")) == [make_metric_row()]
                assert handle.load_evaluations(["digest"]) == [make_evaluation()]
                assert handle.load_observations("worker@1", ["digest"]) == {"digest": b"x"}
            store.close()
            other.remove_example("a", _count_up)
            assert self._ids(other) == ["b"]
