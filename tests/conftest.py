"""Settings of the whole test run."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import Phase, settings

# So that a failure in the published contract shows both sides, as one in a test file does.
pytest.register_assert_rewrite("tsm_training.testing")

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
# For runs that repeat a test a thousand times (tests/mutation.py): fewer inputs, and no search for the simplest.
settings.register_profile(
    "brief", settings.get_profile("fixed"), max_examples=25, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


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
