"""What a report is about, looked up once, with nothing of HTML in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import attrs

from tsm_training.data import ROLES, TrainingExample, TrainingSession
from tsm_training.engine import Leaderboard, TrainingEngine, Validation, own_workers
from tsm_training.lint import LintReport
from tsm_training.report.figures import completed_sessions, stored_validation
from tsm_training.report.pictures import SheetRow, look_at_examples

_FOLDERS: Final = re.compile(r"(?<![\w/\\:.<])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"<>|:]+[/\\])+")
"""What looks like the folders of an absolute path."""
_LONGEST_ROOT: Final = 3
"""Length of a root with the letter of a drive. A root alone would take every slash out of a message."""


@attrs.frozen(eq=False, repr=False)
class ReportData:
    """What the sections of a report are made from."""

    title: str
    engine: TrainingEngine
    made_at: datetime
    examples: Sequence[TrainingExample]
    sessions: Sequence[TrainingSession]
    """Those whose weights were kept, in order."""
    validation: Validation | None
    """What the newest session says of the examples held out; None where it does not say."""
    board: Leaderboard
    """Every worker and every baseline on those of them that are unseen."""
    sheet: Sequence[SheetRow]
    findings: LintReport | None
    """None where the dataset was not checked."""
    folders: Sequence[str]
    """Folders of this machine, the longest first; readers of a report need not know them."""

    @property
    def session(self) -> TrainingSession | None:
        """The newest one; None before any training."""
        return self.sessions[-1] if self.sessions else None

    def public(self, text: str) -> str:
        """Return a message without the folders of this machine."""
        for folder in self.folders:
            text = text.replace(folder, "")
        return _FOLDERS.sub("", text)


def last_part(location: str) -> str:
    """Return the name of a file without its folders, whichever system they are of."""
    return location.replace("\\", "/").rstrip("/").rpartition("/")[2]


def collect(
    engine: TrainingEngine, title: str, findings: LintReport | None, example_ids: Sequence[str] | None, rows: int
) -> ReportData:
    """Return what a report is about. Workers run on the examples of the contact sheet only.

    Raises:
        TsmTrainingError: as for `tsm_training.report.contact_sheet`.
    """
    engine.prepare_learner()
    examples = list(engine.store.iterate_examples())
    sessions = completed_sessions(engine.store.iterate_sessions())
    validation = None
    if sessions:
        validation = stored_validation(sessions[-1]) if sessions[-1].validation_ids else Validation()
    paths = {getattr(example, f"{role}_path") for example in examples for role in ROLES} | {engine.store.location}
    folders = {path.removesuffix(last_part(path)) for path in paths}
    return ReportData(
        title=title,
        engine=engine,
        made_at=engine.clock(),
        examples=examples,
        sessions=sessions,
        validation=validation,
        board=engine.leaderboard(),
        sheet=look_at_examples(engine, example_ids, rows) if own_workers(engine.worker_pool) != () else [],
        findings=findings,
        folders=sorted((each for each in folders if len(each) > _LONGEST_ROOT), key=lambda each: (-len(each), each)),
    )
