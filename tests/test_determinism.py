"""The same inputs give the same bytes, however they are executed; the soak program of that name tries all ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def run(folder: Path, *flags: str, hash_seed: int, **options: Any) -> str:
    """Do a day's work in a new interpreter, and return everything that it left behind, without ids and times."""
    done = subprocess.run(
        [sys.executable, *flags, "-m", "tests.soak.repeat", json.dumps({"folder": str(folder), **options})],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(tmp_path_factory.mktemp("first"), hash_seed=0, mode="threads", threads=1)


@pytest.mark.parametrize(
    ("mode", "threads", "flags"),
    [("threads", 8, ["-O"]), ("spawn", 2, []), ("isolated", 2, [])],
    ids=["many threads and -O", "processes", "isolated workers"],
)
def test_sessions_metrics_and_exports_are_the_same_to_the_byte(
    tmp_path: Path, expected: str, mode: str, threads: int, flags: list[str]
) -> None:
    assert run(tmp_path, *flags, hash_seed=threads, mode=mode, threads=threads) == expected


def test_the_order_of_registration_changes_no_figure(tmp_path: Path, expected: str) -> None:
    text = run(tmp_path, hash_seed=7, mode="threads", threads=4, is_reversed=True)
    assert json.loads(text) == json.loads(expected)


def test_everything_that_a_day_leaves_behind_is_compared(expected: str) -> None:
    document = json.loads(expected)
    assert len(document["sessions"]) == 2
    assert [session["status"] for session in document["sessions"]] == ["completed", "completed"]
    assert {row["worker_id"] for row in document["metrics"]} >= {"near", "fails", "sliced_transport"}
    assert any(row["accuracy"] is None for row in document["metrics"])  # failures too
    assert len(document["previews"]) > 50
    assert document["export"]["weights"]
