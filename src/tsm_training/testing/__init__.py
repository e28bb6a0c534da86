"""What every store must do, as tests: for whoever writes another `TrainingStore`.

This module needs pytest; nothing else in the package imports it. Inherit from `TrainingStoreContract` in a test module
and say how a store is made, or from `DurableTrainingStoreContract` if the store keeps its contents, and say also how it
is opened again; pytest finds the rest::

    from pathlib import Path

    import pytest

    pytest.register_assert_rewrite("tsm_training.testing")  # first of all (in conftest.py): failures show both sides

    from tsm_training.testing import DurableTrainingStoreContract

    class TestMyStore(DurableTrainingStoreContract):
        def make_store(self, folder: Path) -> MyStore:
            return MyStore(folder / "data")

        def reopen(self, store: TrainingStore) -> MyStore:
            return MyStore(store.location)

Every test is a plain method with a name that says what it wants, so that a store which cannot do one thing may override
that method and skip. The functions ``make_…`` give records for tests of your own.
"""

from tsm_training.testing.contract import DurableTrainingStoreContract, TrainingStoreContract
from tsm_training.testing.records import (
    MOMENT,
    make_delta,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_files,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)

__all__ = [
    "MOMENT",
    "DurableTrainingStoreContract",
    "TrainingStoreContract",
    "make_delta",
    "make_epoch_metrics",
    "make_evaluation",
    "make_example",
    "make_files",
    "make_metric_row",
    "make_outcome",
    "make_scores",
    "make_session",
]
