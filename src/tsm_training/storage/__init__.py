"""Stores: one in memory, and one in an SQLite file."""

from tsm_training.storage.memory import InMemoryStore
from tsm_training.storage.sqlite import (
    APPLICATION_ID,
    GUIDE_SCHEMA,
    OWN_SCHEMA,
    SCHEMA_VERSION,
    SalvageReport,
    StorageFault,
    TrainingDataManager,
    salvage,
)

__all__ = [
    "APPLICATION_ID",
    "GUIDE_SCHEMA",
    "OWN_SCHEMA",
    "SCHEMA_VERSION",
    "InMemoryStore",
    "SalvageReport",
    "StorageFault",
    "TrainingDataManager",
    "salvage",
]
