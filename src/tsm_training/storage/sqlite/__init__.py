"""The store in one SQLite file: opening, using, checking and copying it."""

from tsm_training.storage.sqlite.integrity import StorageFault
from tsm_training.storage.sqlite.manager import TrainingDataManager
from tsm_training.storage.sqlite.schema import APPLICATION_ID, GUIDE_SCHEMA, OWN_SCHEMA, SCHEMA_VERSION

__all__ = [
    "APPLICATION_ID",
    "GUIDE_SCHEMA",
    "OWN_SCHEMA",
    "SCHEMA_VERSION",
    "StorageFault",
    "TrainingDataManager",
]
