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
from parameters import TrainSettings, form_numbers, limit, metadata
from service import TrainingService, current_service
from tsm_training import TrainingExample, TrainingSession
from tsm_training.data import ROLES, DatasetStatistics
from tsm_training.engine import Validation
from tsm_training.errors import InvalidArgumentError, NoExamplesError
from tsm_training.report import baseline_labels, epochs_chart, growth_chart, growth_of, leaderboard_table
from tsm_training.text import counted, figure_text

__all__ = ["dashboard_bp"]

dashboard_bp = Blueprint("dashboard", __name__, url_prefix="/dashboard")

_EXAMPLES: Final = 12
_MOST_EXAMPLES: Final = 200
_SESSIONS: Final = 20
_LOOKED_AT: Final = 200
"""In how many examples, the newest, failures are looked for."""

_OUTSIDE: Final = (
    "lie outside the folders that this application may read: start it with --pictures DIR for each folder of pictures."
)

_DONE: Final = {
    "removed": "The example was removed.",
    "added": "The example was added.",
    "started": "The training has started.",
    "stopping": "The training will stop in a moment.",
    "imported": "The weights were imported.",
    "rescaled": "The weights were imported, and multiplied so that their mean is 1: all of them were below.",
    "reset": "The weights were reset.",
}


# --- what the page shows ----------------------------------------------------------------------------------------------


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
    num_workers: int
    sessions: list[tuple[dict[str, Any], float | None]]
    """With the similarity that each reached."""
    judged: Validation | None
    """What is known of examples held out: by the validation that was asked for, or else by the newest training."""
    judged_by: str
    baselines: list[tuple[str, float, float | None]]
    """What each baseline is called, its similarity and its ΔE00 on unseen examples."""
    board: str | None
    growth: str | None
    curve: str | None
    hidden: str | None
    """Why pictures are missing; None where none are."""
    failures: list[FailureRow]
    skipped: Mapping[str, str]
    """Why the last session could not use an example, by its id."""
    job: dict[str, Any] | None
    """How the training that was begun last stands."""


def _page(service: TrainingService, shown: int, validation: Validation | None = None) -> Page:
    job = service.jobs.newest
    job_state = None if job is None else job.to_dict(full=False)  # first: what has ended is in all that is read below
    store, manager = service.manager.data_manager, service.manager
    counts = store.get_dataset_stats()
    newest = store.get_all_examples(max(shown, _LOOKED_AT))[::-1]
    sessions = store.get_all_sessions()[::-1]
    learned = next((s for s in sessions if s.status == "completed" and s.metrics_history), None)
    known = next(((s, judged) for s in sessions if (judged := _judged(s)) is not None), None)
    last, newest_judged = known or (None, None)
    judged = validation or newest_judged
    board, points = manager.leaderboard(), growth_of(sessions[::-1])
    hidden = sum(not service.uploads.is_shown(example) for example in newest[:shown])
    return Page(
        counts=counts,
        examples=newest[:shown],
        num_workers=len(manager.weight_learner.get_all_statistics()),
        sessions=[(public_session(s), None if (v := _judged(s)) is None else v.headline) for s in sessions[:_SESSIONS]],
        judged=judged,
        judged_by="the validation just now" if validation or last is None else f"session of {_time(last.start_time)}",
        baselines=[] if judged is None else _baselines(judged),
        board=leaderboard_table(board, None if newest_judged is None else newest_judged.verdict)
        if board.rows
        else None,
        growth=growth_chart(points) if len(points) > 1 else None,
        curve=None if learned is None else epochs_chart(learned),
        hidden=f"The pictures of {counted(hidden, 'example')} {_OUTSIDE}" if hidden else None,
        failures=_failures(newest[:_LOOKED_AT]),
        skipped=public_session(sessions[0])["skipped"] if sessions else {},
        job=job_state,
    )


def _judged(session: TrainingSession) -> Validation | None:
    try:
        return Validation.from_document(session.validation or {})
    except InvalidArgumentError:  # none, or that of another application
        return None


def _baselines(judged: Validation) -> list[tuple[str, float, float | None]]:
    known = [
        (label, judged.baselines[name]) for name, label in baseline_labels(judged).items() if name in judged.baselines
    ]
    return [(label, each["mean"], each["mean_delta_e"]) for label, each in known if each["mean"] is not None]


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
    service = current_service()
    try:
        made = service.sheets.newest()
    except NoExamplesError as error:
        if not service.manager.data_manager.get_dataset_stats()["total_examples"]:
            raise
        raise NotFound(f"The pictures of the examples cannot be read, or {_OUTSIDE}") from error
    response = Response(made.content, mimetype="image/jpeg", headers={"Cache-Control": "private, no-cache"})
    response.set_etag(made.etag)
    response.make_conditional(request)
    return response


def _rendered(
    status: int = 200,
    trouble: str | None = None,
    *,
    validation: Validation | None = None,
    answer: Mapping[str, Any] | None = None,
) -> Response:
    wanted = limit() if request.method == "GET" else None
    text = render_template(
        "training/dashboard.html",
        page=_page(current_service(), min(wanted or _EXAMPLES, _MOST_EXAMPLES), validation),
        answer=answer,
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


@dashboard_bp.post("/remove")
def remove() -> BaseResponse:
    """Remove an example."""
    current_service().remove_example(request.form.get("example_id", ""))
    return _done("removed", "examples")


@dashboard_bp.post("/validate")
def validate() -> Response:
    """Judge the present weights, and show the page with what was found."""
    return _rendered(validation=Validation.from_document(current_service().manager.validate()))


@dashboard_bp.post("/predict")
def predict() -> Response:
    """Show the page with the ensemble's answer to the two pictures that the form brings."""
    return _rendered(answer=current_service().predict(request.files))


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
def _time(moment: str | datetime | None) -> str:
    """Write a time, which may be in a document, for people."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


@dashboard_bp.app_template_filter("training_reason")
def _reason(text: str) -> str:
    """Say for people why a session ended."""
    return without_kind(text)


@dashboard_bp.app_template_filter("training_figure")
def _figure(value: float | None) -> str:
    return figure_text(value)


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
