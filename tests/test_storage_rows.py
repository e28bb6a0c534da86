"""What goes into the database comes back exactly, or is refused by name: whatever values there are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsm_training import TrainingDataManager
from tsm_training.data import (
    Evaluation,
    EvaluationKey,
    ObservationRecord,
    Preview,
    SessionCommit,
    StateDelta,
    TrainingExample,
    TrainingSession,
)
from tsm_training.errors import StorageError
from tsm_training.storage.sqlite.schema import COLUMNS
from tsm_training.testing import make_evaluation, make_example, make_files, make_metric_row, make_session

# Everything that Python calls a text or a number: halves of pairs, NUL, −0.0, NaN, and whole numbers without end.
TEXTS = st.text(max_size=8) | st.sampled_from(["", "\0", "a\0b", "\ud800", "x\udcff", "\ufeff", "e\u0301", "'; --"])
FLOATS = st.floats()
NUMBERS = st.floats(allow_nan=False)
"""The guide's tables keep a NaN as nothing; sessions and metrics have none."""
SHARES = st.floats(0, 1) | st.sampled_from([-0.0, 5e-324, 1.0])
INTEGERS = st.integers() | st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**400])
TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30, seconds=-5))]))
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
EXAMPLES = st.builds(
    TrainingExample,
    example_id=TEXTS,
    source_path=TEXTS,
    target_path=TEXTS,
    ground_truth_path=TEXTS,
    created_at=TIMES,
    metadata=OBJECTS,
    worker_results=st.none() | OBJECTS,
    validation_scores=st.none() | OBJECTS,
    files=st.none() | st.builds(make_files, st.sampled_from("abc")),
    # Results that another application left, before its files were looked at, are read in our way.
).map(lambda example: example if example.files else attrs.evolve(example, worker_results=None))
EVALUATIONS = st.builds(
    Evaluation,
    key=st.builds(EvaluationKey, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    accuracy=st.none() | SHARES | FLOATS,
    confidence=SHARES | FLOATS,
    failure_kind=st.none() | TEXTS,
    failure_type=st.none() | TEXTS,
    failure_message=st.none() | TEXTS,
    seconds=st.floats(0, 1e9) | FLOATS,
    created_at=TIMES,
)
SESSIONS = st.builds(
    TrainingSession,
    session_id=TEXTS,
    start_time=TIMES,
    end_time=st.none() | TIMES,
    epochs=INTEGERS,
    learning_rate=NUMBERS,
    initial_weights=st.dictionaries(TEXTS, FLOATS, max_size=2),
    num_examples=INTEGERS,
    final_weights=st.dictionaries(TEXTS, FLOATS, max_size=2),
    metrics_history=st.lists(OBJECTS, max_size=2),
    status=st.sampled_from(["running", "completed", "failed", "interrupted"]),
    seed=st.none() | INTEGERS,
    validation_split=st.none() | FLOATS,
    training_ids=st.lists(TEXTS, max_size=2),
    validation_ids=st.lists(TEXTS, max_size=2),
    skipped=st.dictionaries(TEXTS, TEXTS, max_size=2),
    error=st.none() | TEXTS,
    is_trial=st.booleans(),
    validation=st.none() | OBJECTS,
)
ORDINARY = settings(max_examples=30)


def stored_or_refused(
    write: Callable[[TrainingDataManager], object], read: Callable[[TrainingDataManager], Any]
) -> Any:
    """Return what comes back; None if it was refused, and then nothing was stored."""
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        before = contents(store)
        try:
            write(store)
        except StorageError:
            assert contents(store) == before
            return None
        return read(store)


def contents(store: TrainingDataManager) -> list[object]:
    return [store._database.fetch(f"SELECT COUNT(*) FROM {table}") for table in sorted(COLUMNS)]


@pytest.mark.slow
@ORDINARY
@given(EXAMPLES)
@example(make_example(metadata={"minus": -0.0, "large": 10**400, "nested": [[{}]]}))
@example(make_example("\0", source_path="\ud800"))
@example(make_example(metadata={"x": "\ud800"}))
def test_examples_come_back_exactly_or_are_refused(record: TrainingExample) -> None:
    def read(store: TrainingDataManager) -> TrainingExample:
        (found,) = store.iterate_examples()
        assert "\0" in record.example_id or store.get_example(record.example_id) == found
        return found

    back = stored_or_refused(lambda store: store.add_examples([record]), read)
    assert back in (None, record)
    if back is not None:
        assert repr(back.metadata) == repr(record.metadata)  # −0.0 equals 0.0, but is not the same


@ORDINARY
@given(EVALUATIONS)
@example(make_evaluation(accuracy=float("nan")))
@example(make_evaluation(accuracy=-0.0, confidence=-0.0))
def test_evaluations_come_back_exactly_or_are_refused(record: Evaluation) -> None:
    record = attrs.evolve(record, key=record.key._replace(example_digest="digest"))
    back = stored_or_refused(
        lambda store: store.save_evaluations([record]), lambda store: store.load_evaluations(["digest"])
    )
    assert back in (None, [record])


@ORDINARY
@given(TEXTS, st.binary(max_size=20), st.none() | FLOATS)
@example("a\0b", b"\0", -0.0)
def test_previews_and_observations_come_back_exactly_or_are_refused(
    name: str, content: bytes, rank: float | None
) -> None:
    back = stored_or_refused(
        lambda store: store.save_evaluations(
            [], [Preview("digest", name, content, rank)], [ObservationRecord("digest", name, content)]
        ),
        lambda store: (
            store.load_previews(["digest"]),
            store.load_observations(name, ["digest"]),
            store.find_observations(name, ["digest"]),
            store._database.fetch("SELECT rank FROM previews"),
        ),
    )
    assert back in (None, ({"digest": {name: content}}, {"digest": content}, {"digest"}, [(rank,)]))


@ORDINARY
@given(TEXTS, TEXTS)
@example("a\0b", "a")
@example("a", "a\0")
@example("a", "a@b")
def test_a_worker_is_superseded_under_its_own_id_only(worker_id: str, other: str) -> None:
    names = [f"{worker_id}@1", f"{other}@1"]
    with contextlib.closing(TrainingDataManager(":memory:")) as store, contextlib.suppress(StorageError):
        store.save_evaluations([], [Preview("digest", name, b"") for name in names])
        store.save_evaluations([make_evaluation(worker_id=worker_id)], superseding=[worker_id])
        assert set(store.load_previews(["digest"]).get("digest", {})) == {names[1]} - {names[0]}


@pytest.mark.slow
@ORDINARY
@given(SESSIONS)
@example(make_session(epochs=2**63))
@example(make_session(start_time=datetime(2024, 1, 1)))
def test_sessions_come_back_exactly_or_are_refused(record: TrainingSession) -> None:
    running = attrs.evolve(record, status="running")
    back = stored_or_refused(
        lambda store: store.begin_session(running), lambda store: store.get_session(record.session_id)
    )
    assert back in (None, running)
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        ended = attrs.evolve(record, session_id="session")
        store.begin_session(make_session())
        try:
            store.commit_session("session", lambda _held: SessionCommit(ended))
        except StorageError:
            assert store.get_session("session") == make_session()
        else:
            assert store.get_session("session") == ended


@ORDINARY
@given(st.none() | SHARES | NUMBERS, SHARES | NUMBERS, st.none() | NUMBERS, TEXTS)
def test_metrics_come_back_exactly_or_are_refused(
    accuracy: float | None, confidence: float, loss: float | None, worker_id: str
) -> None:
    row = make_metric_row(worker_id=worker_id, accuracy=accuracy, confidence=confidence, loss=loss)
    with contextlib.closing(TrainingDataManager(":memory:")) as store:
        store.begin_session(make_session())
        try:
            store.commit_session("session", lambda _held: SessionCommit(make_session(status="completed"), [row]))
        except StorageError:
            assert list(store.iterate_metrics("session")) == []
            assert store.get_session("session").status == "running"
        else:
            assert list(store.iterate_metrics("session")) == [row]


WRITES: list[Callable[[TrainingDataManager], object]] = [
    lambda store: store.save_evaluations([make_evaluation(accuracy=np.float32(0.5))]),
    lambda store: store.save_evaluations([make_evaluation(confidence=np.int64(1))]),
    lambda store: store.save_evaluations([make_evaluation(accuracy=1.5)]),
    lambda store: store.save_evaluations([make_evaluation(failure_kind="raised")]),
    lambda store: store.save_evaluations([make_evaluation(accuracy=None)]),
    lambda store: store.save_evaluations([make_evaluation(seconds=-1.0)]),
    lambda store: store.save_evaluations([make_evaluation(seconds=10**5000)]),
    lambda store: store.add_examples([make_example("a"), make_example("b", metadata={"a": {1, 2}})]),
    lambda store: store.add_examples([make_example("x", worker_results={"a": b""})]),
    lambda store: store.begin_session(make_session("x", initial_weights={"a": float("inf")})),
    lambda store: store.update_state(lambda _held: StateDelta({"a": "{"})),
    lambda store: store.update_state(lambda _held: StateDelta({"a": "1"}, {"b": "NaN"})),
    lambda store: store.update_state(lambda _held: StateDelta(rows={"\ud800": "1"})),
    lambda store: store.update_state(lambda _held: StateDelta(rows={"a": b"1"})),  # type: ignore[dict-item]
    lambda store: store.save_evaluations([], [Preview("digest", "a", b"", "first")]),  # type: ignore[arg-type]
    lambda store: store.save_evaluations(
        [make_evaluation()],
        (),
        [ObservationRecord("digest", "a", "text")],  # type: ignore[arg-type]
    ),
]


@pytest.mark.parametrize("write", WRITES)
def test_what_could_not_be_read_again_is_not_stored(write: Callable[[TrainingDataManager], object]) -> None:
    assert stored_or_refused(write, lambda _store: "stored") is None
