"""What a report says, before it is written: gathered once from an engine, with nothing of HTML in it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

import attrs
import cv2
import numpy as np

from tsm_training._version import __version__
from tsm_training.analysis import VerdictDocument
from tsm_training.data import ROLES, DatasetStatistics, TrainingExample, TrainingSession
from tsm_training.engine import Explanation, TrainingEngine, nothing_validated, own_workers
from tsm_training.errors import InvalidArgumentError, NothingEvaluatedError, NoWorkersError
from tsm_training.lint import LintReport
from tsm_training.report.sheet import SheetRow, look_at_examples
from tsm_training.views import (
    Contest,
    Growth,
    LearningCurve,
    WeightPath,
    WeightRow,
    completed_sessions,
    contest_of,
    example_names,
    growth_of,
    learning_curve,
    weight_paths,
    weight_rows,
)

__all__ = ["ReportContents", "WorkerFailures", "gathered"]

_MOST_EXPLAINED: Final = 64


@attrs.frozen
class WorkerFailures:
    """Where a worker gave no picture."""

    worker_id: str
    failed: int
    tried: int
    reason: str
    """What it said the first time."""


@attrs.frozen(eq=False)
class ReportContents:
    """Everything that a report says."""

    title: str
    store: str
    """Name of the store, without folders."""
    made_at: datetime
    statistics: DatasetStatistics
    session: TrainingSession | None
    """The newest completed one; None before."""
    verdict: VerdictDocument | None
    contest: Contest | None
    """All contenders on the examples that the session held out; None where none were."""
    growth: Growth
    """Of all sessions; fewer than two points where no two trainings have judged anything."""
    curve: LearningCurve | None
    weights: Sequence[WeightRow]
    paths: Sequence[WeightPath]
    explanation: Explanation | None
    sheet: Sequence[SheetRow]
    findings: LintReport | None
    """None where the dataset was not checked."""
    failures: Sequence[WorkerFailures]
    skipped: Mapping[str, str]
    """Why examples could not be used, by name."""
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    folders: Sequence[str]
    """Of this machine, the longest first; they concern nobody who reads a report."""

    def public(self, text: str) -> str:
        """Return a message without the folders of this machine."""
        for folder in self.folders:
            text = text.replace(folder, "")
        return text


def gathered(
    engine: TrainingEngine,
    *,
    title: str,
    findings: LintReport | None,
    example_ids: Sequence[str] | None,
    rows: int,
) -> ReportContents:
    """Return the contents of a report. Workers run on the examples of the contact sheet, and where results are missing.

    Raises:
        TsmTrainingError: as for `TrainingEngine.explain` and `tsm_training.report.contact_sheet`.
    """
    engine.prepare_learner()
    examples = list(engine.store.iterate_examples())
    sessions = completed_sessions(engine.store.iterate_sessions())
    session = sessions[-1] if sessions else None
    learner = engine.weight_learner
    names = example_names([example.example_id for example in examples], examples)
    has_workers = own_workers(engine.worker_pool) != ()
    return ReportContents(
        title=title,
        store=_last_part(engine.store.location),
        made_at=engine.clock(),
        statistics=engine.store.get_dataset_stats(),
        session=session,
        verdict=None if session is None else _verdict(session),
        contest=None if session is None else _contest(session),
        growth=growth_of(sessions),
        curve=None if session is None else _curve(session),
        weights=weight_rows(learner.get_all_statistics(), learner.get_blend_weights()),
        paths=weight_paths(sessions) if len(sessions) > 1 else [],
        explanation=_explanation(engine, examples, session),
        sheet=look_at_examples(engine, example_ids, rows) if has_workers else [],
        findings=findings,
        failures=_failures(examples),
        skipped={names.get(each, each): reason for each, reason in (session.skipped if session else {}).items()},
        settings=_settings(engine, session),
        versions={
            "tsm_training": __version__,
            "Python": platform.python_version(),
            "NumPy": np.__version__,
            "OpenCV": cv2.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        },
        folders=_folders(engine, examples),
    )


def _last_part(location: str) -> str:
    return location.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _folders(engine: TrainingEngine, examples: Sequence[TrainingExample]) -> list[str]:
    paths = {getattr(example, f"{role}_path") for example in examples for role in ROLES} | {engine.store.location}
    folders = {path[: len(path) - len(_last_part(path))] for path in paths}
    return sorted(folders - {""}, key=lambda folder: (-len(folder), folder))


def _verdict(session: TrainingSession) -> VerdictDocument | None:
    if not session.validation_ids:
        return nothing_validated()["verdict"]
    return cast("VerdictDocument | None", (session.validation or {}).get("verdict"))


def _contest(session: TrainingSession) -> Contest | None:
    try:
        return contest_of(session)
    except InvalidArgumentError:  # nothing was held out, or no previews were left to compare
        return None


def _curve(session: TrainingSession) -> LearningCurve | None:
    try:
        return learning_curve(session)
    except InvalidArgumentError:  # a session of another application need not have a history
        return None


def _explanation(
    engine: TrainingEngine, examples: Sequence[TrainingExample], session: TrainingSession | None
) -> Explanation | None:
    """Explain the ensemble on what the session held out, or else on the newest examples."""
    held_out = set(session.validation_ids) if session else set()
    chosen = [example for example in examples if example.example_id in held_out] or list(examples)
    if not chosen:
        return None
    try:
        return engine.explain(chosen[-_MOST_EXPLAINED:], tolerance=engine.rope)
    except (NothingEvaluatedError, NoWorkersError):
        return None


def _failures(examples: Sequence[TrainingExample]) -> list[WorkerFailures]:
    tried: dict[str, int] = {}
    reasons: dict[str, list[str]] = {}
    for example in examples:
        for worker_id, outcome in (example.worker_results or {}).items():
            tried[worker_id] = tried.get(worker_id, 0) + 1
            if not outcome["is_valid"]:
                reasons.setdefault(worker_id, []).append(outcome["error"] or "no reason was given")
    found = [WorkerFailures(w, len(each), tried[w], each[0]) for w, each in reasons.items()]
    return sorted(found, key=lambda each: (-each.failed, each.worker_id))


def _settings(engine: TrainingEngine, session: TrainingSession | None) -> dict[str, str]:
    learner: Any = engine.weight_learner
    solver: Any = engine.blend_solver
    fitted = engine.weight_learner.cell.state.fitted
    settings = {
        "metric": engine.metric_name,
        "learning rate (alpha)": f"{learner.alpha:g}",
        "prior strength": f"{learner.prior_strength:g}" if hasattr(learner, "prior_strength") else None,
        "practically equal": f"up to {engine.rope:g}",
        "blend solver": solver if isinstance(solver, str) else solver.name,
        "chosen solver": None if fitted is None else fitted.solver,
    }
    if session is not None:
        settings |= {
            "epochs": str(session.epochs),
            "validation split": None if session.validation_split is None else f"{session.validation_split:g}",
            "seed": None if session.seed is None else str(session.seed),
            "grouped by": session.group_by,
            "session": session.session_id,
            "trained at": f"{session.start_time:%Y-%m-%d %H:%M} UTC",
        }
    return {name: value for name, value in settings.items() if value is not None}
