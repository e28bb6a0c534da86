"""Every store passes the contract; and what is particular to the one in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsm_training.data import ObservationRecord, Preview, StateDelta, TrainingStore
from tsm_training.storage import InMemoryStore, TrainingDataManager
from tsm_training.testing import (
    DurableTrainingStoreContract,
    TrainingStoreContract,
    make_evaluation,
    make_example,
    make_session,
)


class TestInMemoryStore(TrainingStoreContract):
    def make_store(self, folder: Path) -> InMemoryStore:
        return InMemoryStore()


class TestDatabaseFile(DurableTrainingStoreContract):
    def make_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(folder / "training.db")

    def reopen(self, store: TrainingStore) -> TrainingDataManager:
        return TrainingDataManager(store.location)

    @pytest.mark.slow
    def test_of_many_small_writes_none_is_lost(self, store: TrainingStore) -> None:
        super().test_of_many_small_writes_none_is_lost(store)


class TestDatabaseInMemory(TrainingStoreContract):
    def make_store(self, folder: Path) -> TrainingDataManager:
        return TrainingDataManager(":memory:")


def test_a_contract_without_a_store_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="make_store"):
        TrainingStoreContract()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="reopen"):
        DurableTrainingStoreContract()  # type: ignore[abstract]


def test_a_closed_store_in_memory_lets_go_of_its_contents() -> None:
    store = InMemoryStore()
    store.add_examples([make_example()])
    store.begin_session(make_session())
    store.update_state(lambda _held: StateDelta({"a": "1"}, {"b": "2"}))
    noted = [ObservationRecord("digest", "good", b"x")]
    store.save_evaluations([make_evaluation()], [Preview("digest", "good", b"png")], noted)
    store.close()
    assert not any(value for value in vars_of(store).values() if isinstance(value, dict))


def vars_of(store: InMemoryStore) -> dict[str, object]:
    return {name: getattr(store._contents, name) for name in store._contents.__slots__ if name != "__weakref__"}
