"""Settings of the whole test run."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path

# Several processes run beside each other, on small pictures: more threads for each would only wait for their turn.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tsm_training import InMemoryStore, TrainingDataManager, TrainingStore

# So that a failure in the published contract shows both sides, as one in a test file does.
pytest.register_assert_rewrite("tsm_training.testing")

# The same examples in every run; `--hypothesis-profile thorough` tries many more.
settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True, max_examples=40)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile("fixed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skip an error in CI: what cannot run there was forgotten, not missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(params=["memory", "file"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], TrainingStore]:
    """Return what opens the same store, again and again."""
    if request.param == "file":
        return lambda: TrainingDataManager(tmp_path / "training.db")
    store = InMemoryStore()
    return lambda: store


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return what writes the contents of a picture file, always under the same name, and returns its path."""

    def write(data: bytes) -> Path:
        path = tmp_path / "picture"
        path.write_bytes(data)
        return path

    return write
