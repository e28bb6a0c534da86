"""The quick form of every soak program in this folder finds nothing broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
HANG_GUARD = 300  # seconds; a program takes 20 at most

PROGRAMS = [
    path.stem
    for path in sorted(FOLDER.glob("*.py"))
    if not path.stem.startswith("test_") and "def main() -> int:" in path.read_text(encoding="utf-8")
]


ORDINARY = {"determinism"}
"""What this does in its quick form, the tests of that name do too: that it can be started is enough here."""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the programs fork and send signals")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_quick_form_finds_nothing_broken(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"tests.soak.{program}", "--help" if program in ORDINARY else "--quick"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=HANG_GUARD,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
