"""Something to show: a page with everything about a training, a sheet of pictures side by side, results as tables.

All of it needs nothing but what the library needs. `TrainingManager.report` writes the page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from tsm_training.arguments import check_path, check_text, check_whole_number
from tsm_training.engine import TrainingEngine
from tsm_training.files import replace_file
from tsm_training.lint import LintReport
from tsm_training.report.contents import gathered
from tsm_training.report.growth import growth_chart
from tsm_training.report.page import render
from tsm_training.report.sheet import DEFAULT_ROWS, contact_sheet
from tsm_training.report.showing import Shown, show

__all__ = ["Shown", "contact_sheet", "growth_chart", "report_page", "show", "write_report"]

DEFAULT_TITLE: Final = "Training report"


def report_page(
    engine: TrainingEngine,
    *,
    title: str = DEFAULT_TITLE,
    findings: LintReport | None = None,
    example_ids: Sequence[str] | None = None,
    rows: int = DEFAULT_ROWS,
) -> str:
    """Return a report as one HTML document; see `TrainingManager.report`.

    Args:
        engine: Of the manager.
        title: Of the page.
        findings: What a check of the dataset has found; None says that it was not checked.
        example_ids: Which examples to show in pictures; None for the worst and the best of those held out.
        rows: How many of the worst and how many of the best, at least 1.

    Raises:
        InvalidArgumentError: an argument is not what it must be.
        ExampleNotFoundError: an id is not stored.
        ImageError: an example that was asked for cannot be read.
        TsmTrainingError: as for `TrainingEngine.explain`.
    """
    check_text("title", title)
    rows = check_whole_number("rows", rows)
    return render(gathered(engine, title=title, findings=findings, example_ids=example_ids, rows=rows))


def write_report(path: str | os.PathLike[str], page: str) -> None:
    """Write a page to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    replace_file(check_path("path", path), page.encode())
