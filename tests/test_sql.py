"""The store in a database server passes the contract; and what is particular to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import postgres
from tsm_training.data import TrainingStore
from tsm_training.sql import SQLStore
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import DurableTrainingStoreContract
from tsm_training.testing.stateful import DurableTrainingStoreMachine


@pytest.mark.slow
class TestPostgreSQL(DurableTrainingStoreContract):
    def make_store(self, folder: Path) -> SQLStore:
        return SQLStore(postgres.new_url())

    def reopen(self, store: TrainingStore) -> SQLStore:
        assert isinstance(store, SQLStore)
        return SQLStore(postgres.url_of(store))


@pytest.mark.slow
class TestSQLiteFile(DurableTrainingStoreContract):
    def make_store(self, folder: Path) -> SQLStore:
        return SQLStore(f"sqlite:///{folder / 'training.db'}")

    def reopen(self, store: TrainingStore) -> SQLStore:
        return SQLStore(store.location)


# --- random histories -------------------------------------------------------------------------------------------------

FEW = settings(
    max_examples=max(4, settings.default.max_examples // 8),
    stateful_step_count=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class PostgreSQLMachine(DurableTrainingStoreMachine):
    def open_store(self, folder: Path) -> SQLStore:
        place = folder / "url"
        if not place.exists():
            place.write_text(postgres.new_url())
        return SQLStore(place.read_text())

    def crash(self, folder: Path, another: Path) -> None:
        """Do nothing: a server's files are its own; what a process leaves that is killed, the soak program shows."""


class SQLiteFileMachine(DurableTrainingStoreMachine):
    """Lets the library's two stores for such files take turns on one."""

    def open_store(self, folder: Path) -> TrainingStore:
        self.opened = getattr(self, "opened", 0) + 1
        path = folder / "training.db"
        return SQLStore(f"sqlite:///{path}") if self.opened % 3 else TrainingDataManager(path)


TestPostgreSQLMachine = pytest.mark.slow(PostgreSQLMachine.TestCase)
TestPostgreSQLMachine.settings = FEW

TestSQLiteFileMachine = pytest.mark.slow(SQLiteFileMachine.TestCase)
TestSQLiteFileMachine.settings = FEW
