"""Stores: one in memory, and one in an SQLite file."""

from tsm_training.storage.memory import InMemoryStore
from tsm_training.storage.sqlite.integrity import StorageFault
from tsm_training.storage.sqlite.manager import TrainingDataManager
from tsm_training.storage.sqlite.schema import APPLICATION_ID, GUIDE_SCHEMA, OWN_SCHEMA, SCHEMA_VERSION

__all__ = [
    "APPLICATION_ID",
    "GUIDE_SCHEMA",
    "OWN_SCHEMA",
    "SCHEMA_VERSION",
    "InMemoryStore",
    "StorageFault",
    "TrainingDataManager",
]
