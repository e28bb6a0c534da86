"""One page to look at the training: examples, progress, weights, curves, failures. It works without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import attrs
from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from answers import explained, public_session, without_folders, without_kind
from charts import Curve, GrowthCurve, Interval, growth_curve, learning_curve, weight_intervals
from parameters import TrainSettings, form_numbers, limit, metadata
from service import TrainingService, current_service
from training_jobs import TrainingJob
from tsm_training import TrainingExample, TrainingSession
from tsm_training.data import ROLES, DatasetStatistics
from tsm_training.engine import BaselineMean, Validation
from tsm_training.report import baseline_labels, growth_of
from tsm_training.weights import LearnerStatistics

__all__ = ["dashboard_bp"]

dashboard_bp = Blueprint("dashboard", __name__, url_prefix="/dashboard")

_EXAMPLES: Final = 12
_MOST_EXAMPLES: Final = 200
_SESSIONS: Final = 20
_LOOKED_AT: Final = 200
"""In how many examples, the newest, failures are looked for."""

_DONE: Final = {
    "added": "The example was added.",
    "started": "The training has started.",
    "stopping": "The training will stop in a moment.",
    "imported": "The weights were imported.",
    "rescaled": "The weights were imported, and multiplied so that their mean is 1: all of them were below.",
    "reset": "The weights were reset.",
}


# --- what the page shows ----------------------------------------------------------------------------------------------


@attrs.frozen
class WorkerRow:
    """What is known of a worker."""

    worker_id: str
    known: LearnerStatistics
    share: float
    interval: Interval


@attrs.frozen
class FailureRow:
    """How often a worker failed, and why it did so last."""

    worker_id: str
    count: int
    reason: str


@attrs.frozen
class Page:
    """Everything that the page shows."""

    counts: DatasetStatistics
    examples: list[TrainingExample]
    workers: list[WorkerRow]
    sessions: list[dict[str, Any]]
    curve: Curve | None
    curve_session: dict[str, Any] | None
    judged: dict[str, Any] | None
    """The last session that was judged on examples held out."""
    baselines: list[tuple[str, BaselineMean]]
    """What the trained ensemble and each baseline is called, and its means, in that session."""
    growth: GrowthCurve | None
    failures: list[FailureRow]
    skipped: Mapping[str, str]
    """Why the last session could not use an example, by its id."""
    job: TrainingJob | None


def _page(service: TrainingService, shown: int) -> Page:
    store = service.manager.data_manager
    progress = service.manager.get_training_progress()
    newest = store.get_all_examples(max(shown, _LOOKED_AT))[::-1]
    sessions = store.get_all_sessions()[::-1]
    learned = next((s for s in sessions if s.status == "completed" and s.metrics_history), None)
    judged = next((s for s in sessions if s.validation is not None), None)
    return Page(
        counts=progress["dataset_stats"],
        examples=newest[:shown],
        workers=_workers(service),
        sessions=[public_session(session) for session in sessions[:_SESSIONS]],
        curve=None if learned is None else learning_curve(learned.metrics_history),
        curve_session=_shown(learned),
        judged=_shown(judged),
        baselines=[] if judged is None else _baselines(judged.validation or {}),
        growth=growth_curve(growth_of(sessions[::-1])),
        failures=_failures(newest[:_LOOKED_AT]),
        skipped=public_session(sessions[0])["skipped"] if sessions else {},
        job=service.jobs.newest,
    )


def _shown(session: TrainingSession | None) -> dict[str, Any] | None:
    return None if session is None else public_session(session)


def _baselines(document: Mapping[str, Any]) -> list[tuple[str, BaselineMean]]:
    validation = Validation.from_document(document)
    known = validation.baselines
    return [(label, known[name]) for name, label in baseline_labels(validation).items() if name in known]


def _workers(service: TrainingService) -> list[WorkerRow]:
    statistics = service.manager.weight_learner.get_all_statistics()
    shares = service.manager.weight_learner.get_blend_weights()
    intervals = weight_intervals(statistics)
    rows = [WorkerRow(w, known, shares.get(w, 0.0), intervals[w]) for w, known in statistics.items()]
    return sorted(rows, key=lambda row: (-row.known["weight"], row.worker_id))


def _failures(newest_first: Iterable[TrainingExample]) -> list[FailureRow]:
    reasons: dict[str, list[str]] = {}
    for example in newest_first:
        for worker_id, outcome in (example.worker_results or {}).items():
            if outcome["error"]:
                reasons.setdefault(worker_id, []).append(outcome["error"])
    rows = [FailureRow(worker_id, len(texts), without_folders(texts[0])) for worker_id, texts in reasons.items()]
    return sorted(rows, key=lambda row: (-row.count, row.worker_id))


# --- routes -----------------------------------------------------------------------------------------------------------


@dashboard_bp.get("")
def page() -> Response:
    """Show the page."""
    return _rendered()


@dashboard_bp.get("/sheet.jpg")
def sheet() -> Response:
    """Show the contact sheet: the held-out examples on which the ensemble was worst and best."""
    made = current_service().sheets.newest()
    response = Response(made.content, mimetype="image/jpeg", headers={"Cache-Control": "private, no-cache"})
    response.set_etag(made.etag)
    response.make_conditional(request)
    return response


def _rendered(status: int = 200, trouble: str | None = None) -> Response:
    wanted = limit() if request.method == "GET" else None
    text = render_template(
        "training/dashboard.html",
        page=_page(current_service(), min(wanted or _EXAMPLES, _MOST_EXAMPLES)),
        done=_DONE.get(request.args.get("done", "")),
        trouble=trouble,
        roles=ROLES,
        most=_MOST_EXAMPLES,
    )
    return make_response(text, status)


@dashboard_bp.errorhandler(Exception)
def refused(error: Exception) -> Response:
    """Show the page again with what was wrong, or a bare one where that is impossible."""
    status, message = explained(error)
    if request.method != "GET" and status < 500:  # noqa: PLR2004 - the server's fault would show again
        return _rendered(status, message)
    return make_response(render_template("training/trouble.html", trouble=message), status)


def _done(what: str, place: str) -> BaseResponse:
    return redirect(url_for("training.dashboard.page", done=what, _anchor=place), 303)


@dashboard_bp.post("/add")
def add() -> BaseResponse:
    """Add the example that the form brings."""
    current_service().add_example(request.files, metadata())
    return _done("added", "examples")


@dashboard_bp.post("/train")
def train() -> BaseResponse:
    """Train in the background."""
    current_service().start_training(TrainSettings.of_form(request.form))
    return _done("started", "training")


@dashboard_bp.post("/stop")
def stop() -> BaseResponse:
    """Stop the training that runs."""
    job = current_service().jobs.newest
    if job is None:
        raise NotFound("There is no training that could be stopped.")
    job.stop()
    return _done("stopping", "training")


@dashboard_bp.post("/import")
def import_weights() -> BaseResponse:
    """Replace the weights by those of a file."""
    imported = current_service().import_weights(request.files.get("file"))
    return _done("imported" if imported.scale == 1.0 else "rescaled", "weights")


@dashboard_bp.post("/reset")
def reset() -> BaseResponse:
    """Forget what was learned."""
    given: dict[str, Any] = form_numbers(request.form, "default_weight")
    current_service().manager.reset_weights(**given)
    return _done("reset", "weights")


# --- how it is written ------------------------------------------------------------------------------------------------


@dashboard_bp.app_template_filter("training_time")
def _time(text: str | None) -> str:
    """Write a time that a document holds for people."""
    return "" if text is None else f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


@dashboard_bp.app_template_filter("training_reason")
def _reason(text: str) -> str:
    """Say for people why a session ended."""
    return without_kind(text)


@dashboard_bp.app_template_filter("training_figure")
def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@dashboard_bp.app_template_filter("training_delta_e")
def _delta_e(value: float | None) -> str:
    return "" if value is None else f", ΔE00 {value:.2f}"


@dashboard_bp.app_template_filter("training_best")
def _best(example: TrainingExample) -> str:
    """Name the worker that came nearest to an example's ground truth."""
    scores = {w: o["accuracy"] for w, o in (example.worker_results or {}).items() if o["accuracy"] is not None}
    if not scores:
        return ""
    best = max(sorted(scores), key=lambda worker_id: scores[worker_id])
    return f"{best}, {scores[best]:.3f}"
