"""The guide's routes over a `TrainingManager`, as a Flask blueprint, with a page to look at them.

    init_training(worker_pool, weight_learner, db_path="tsm_training.db")
    app.register_blueprint(training_bp)

Responses have the guide's envelope: the library's documents beside ``success``, and ``message`` where something was
done. What cannot be used is refused with ``{"success": false, "message": …, "error": …}`` and a fitting status.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
from flask import Blueprint, Response, request, send_file, url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, NotFound

from answers import (
    answer,
    public_example,
    public_session,
    public_sessions,
    public_validation,
    refusal,
)
from dashboard import dashboard_bp
from parameters import TrainSettings, example_ids, json_body, limit, metadata
from service import EXTENSION, TrainingService, current_service
from sheets import ContactSheets
from training_jobs import TrainingJob, TrainingJobs, public_results
from tsm_training import GuideSimilarity, Metric, TrainingEngine, TrainingManager, WeightLearner, WorkerPoolLike
from tsm_training.data import ROLES
from tsm_training.errors import ImageError
from tsm_training.weights import MAX_WEIGHTS_FILE_BYTES
from uploads import UploadFolder

__all__ = ["TrainingService", "init_training", "secured", "training_bp"]

training_bp = Blueprint(
    "training", __name__, url_prefix="/training", template_folder="templates", static_folder="static"
)

_MAX_BYTES: Final = 1_200_000
"""Of a request without pictures: metadata may have 1 MB."""
_MAX_WEIGHTS_BYTES: Final = MAX_WEIGHTS_FILE_BYTES + 200_000
"""Of a request with a weights file."""
OWN_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
"""This machine, as browsers write it."""
_WITH_PICTURES: Final = {f"training.{place}{name}" for place in ("", "dashboard.") for name in ("add", "predict")}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


# --- one training service per application -----------------------------------------------------------------------------


_prepared: list[TrainingService] = []
"""The service that the next registration of the blueprint takes; Flask gives `init_training` no application."""


def init_training(
    worker_pool: WorkerPoolLike,
    weight_learner: WeightLearner,
    db_path: str | os.PathLike[str] = "tsm_training.db",
    *,
    upload_folder: str | os.PathLike[str] = "uploads",
    picture_folders: Sequence[str | os.PathLike[str]] = (),
    quota: int = 5_000_000_000,
    max_picture_bytes: int = 20_000_000,
    max_picture_pixels: int = 24_000_000,
    metric: Metric | None = None,
    host_names: Collection[str] | None = OWN_NAMES,
) -> TrainingService:
    """Prepare training for the application that `training_bp` is registered with next.

    Args:
        worker_pool: The ensemble.
        weight_learner: What learns; the application keeps its object and sees it learn.
        db_path: The database, made if it does not exist.
        upload_folder: Where uploaded pictures are kept, made if it does not exist.
        picture_folders: Where else pictures may come from: those of examples that a script has added. Others are
            neither read nor shown.
        quota: How many bytes all uploaded files together may have.
        max_picture_bytes: How large an uploaded file may be.
        max_picture_pixels: How large width times height of a picture may be.
        metric: What judges; the guide's similarity unless given.
        host_names: Names under which the application is asked, as browsers write them; None for any. Somebody may point
            a name of his own to this machine, and his pages would pass for ours.

    Returns:
        The service; close it when the application ends.

    Raises:
        TsmTrainingError: as for `TrainingManager`.
    """
    uploads = UploadFolder(Path(upload_folder), max_picture_bytes, max_picture_pixels, quota, picture_folders)
    factory = TrainingEngine.using(metric or GuideSimilarity(), limits=uploads.limits)
    manager = TrainingManager(worker_pool, weight_learner, db_path, engine_factory=factory)
    service = TrainingService(manager, uploads, TrainingJobs(manager), ContactSheets(manager), host_names)
    _prepared[:] = [service]
    return service


def _bind(state: BlueprintSetupState) -> None:
    if not _prepared:
        raise RuntimeError("call init_training() before the blueprint is registered")
    state.app.extensions[EXTENSION] = _prepared.pop()


training_bp.record(_bind)


# --- around every request ---------------------------------------------------------------------------------------------


@training_bp.before_request
def _limit_request() -> None:
    takes_pictures = request.endpoint in _WITH_PICTURES
    without = _MAX_WEIGHTS_BYTES if request.path.endswith("/weights/import") else _MAX_BYTES
    request.max_content_length = current_service().uploads.max_request_bytes if takes_pictures else without
    request.max_form_memory_size = _MAX_BYTES  # of one field, such as the metadata


@training_bp.before_request
def _refuse_other_names() -> None:
    names = current_service().host_names
    if names is not None and re.sub(r":\d+$", "", request.host.lower()) not in names:
        raise Forbidden(f"This application answers under these names only: {', '.join(names)}.")


@training_bp.before_request
def _refuse_other_sites() -> None:
    """Refuse what a page of another site makes a browser send; programs that are no browsers say nothing of sites."""
    if request.method in _SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:
        is_own = origin is None or origin.partition("://")[2] == request.host
    if not is_own:
        raise Forbidden("Requests from the pages of other sites are not accepted.")


@training_bp.after_request
def secured(response: Response) -> Response:
    """Add headers that let a page load nothing but its own pictures, style and script, and be shown in no other."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response


training_bp.register_error_handler(HTTPException, refusal)
training_bp.register_error_handler(Exception, refusal)


# --- examples ---------------------------------------------------------------------------------------------------------


@training_bp.post("/add-example")
def add() -> Response:
    """Add an uploaded triple."""
    example = current_service().add_example(request.files, metadata())
    return answer(**example.to_reference(), message="Training example added successfully")


@training_bp.get("/examples")
def examples() -> Response:
    """List examples."""
    return answer(**current_service().manager.list_examples(limit()))


@training_bp.get("/example/<example_id>")
def example(example_id: str) -> Response:
    """Describe an example."""
    return answer(example=public_example(current_service().manager.data_manager.get_example(example_id)))


@training_bp.delete("/example/<example_id>")
def remove(example_id: str) -> Response:
    """Remove an example."""
    current_service().remove_example(example_id)
    return answer(message="Training example removed")


@training_bp.get(f"/example/<example_id>/<any({', '.join(ROLES)}):role>")
def thumbnail(example_id: str, role: str) -> Response:
    """Show a small copy of one of an example's pictures; never the file itself, which a stranger has made."""
    service = current_service()
    example = service.manager.data_manager.get_example(example_id)
    response = Response(mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=60"})
    digest = "" if example.files is None else getattr(example.files, role).sha256
    if digest:
        response.set_etag(digest)
    if digest not in request.if_none_match:
        try:
            response.set_data(service.uploads.thumbnail(example, role))
        except ImageError as error:
            raise NotFound(error.public_message) from error
    response.make_conditional(request)
    return response


# --- training ---------------------------------------------------------------------------------------------------------


@training_bp.post("/train")
def train() -> Response:
    """Train; with ``"background": true``, answer at once."""
    body = json_body(*(field.name for field in attrs.fields(TrainSettings)), "background")
    background = body.pop("background", False)
    if type(background) is not bool:
        raise BadRequest("background must be true or false.")
    settings = TrainSettings.checked(body)
    service = current_service()
    if not background:
        results = service.jobs.run(settings)
        return answer(results=public_results(results), message="Training completed successfully")
    job = service.start_training(settings)
    response = answer(202, job=job.to_dict(), message="Training started")
    response.headers["Location"] = url_for("training.job", job_id=job.job_id)
    return response


@training_bp.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    """Tell how a training stands."""
    return answer(job=_job(job_id).to_dict())


@training_bp.post("/jobs/<job_id>/stop")
def stop(job_id: str) -> Response:
    """Ask a training to end."""
    job = _job(job_id)
    message = "The training will stop" if job.is_running else "The training has ended already"
    job.stop()
    return answer(job=job.to_dict(), message=message)


def _job(job_id: str) -> TrainingJob:
    job = current_service().jobs.get(job_id)
    if job is None:
        raise NotFound("There is no such training job, or it is long over; see the sessions.")
    return job


@training_bp.post("/validate")
def validate() -> Response:
    """Judge the present weights."""
    ids = example_ids(json_body("example_ids").get("example_ids"))
    return answer(validation_results=public_validation(current_service().manager.validate(ids)))


@training_bp.post("/predict")
def predict() -> Response:
    """Answer two uploaded pictures by the ensemble's."""
    return answer(**current_service().predict(request.files))


@training_bp.get("/progress")
def progress() -> Response:
    """Tell what is known of the workers, and how the newest training stands, without its results."""
    service = current_service()
    newest = service.jobs.newest
    return answer(
        progress=service.manager.get_training_progress(), job=None if newest is None else newest.to_dict(full=False)
    )


@training_bp.get("/sessions")
def sessions() -> Response:
    """List sessions, the oldest first; a limit keeps the newest."""
    newest, stored = limit(), current_service().manager.data_manager.get_all_sessions()
    return answer(
        sessions=[public_sessions(session) for session in stored[-(newest or len(stored)) :]], total=len(stored)
    )


@training_bp.get("/session/<session_id>")
def session(session_id: str) -> Response:
    """Describe a session."""
    return answer(session=public_session(current_service().manager.data_manager.get_session(session_id)))


# --- weights ----------------------------------------------------------------------------------------------------------


@training_bp.get("/weights/export")
def export_weights() -> Response:
    """Download the weights."""
    content = current_service().exported_weights()
    name = f"tsm_weights_{datetime.now(UTC):%Y%m%d_%H%M%S}.json"
    return send_file(io.BytesIO(content), "application/json", as_attachment=True, download_name=name)


@training_bp.post("/weights/import")
def import_weights() -> Response:
    """Replace the weights by an uploaded file."""
    imported = current_service().import_weights(request.files.get("file"))
    return answer(
        imported=imported.imported,
        dormant=imported.dormant,
        missing=imported.missing,
        scale=imported.scale,
        message="Weights imported successfully",
    )


@training_bp.post("/reset-weights")
def reset_weights() -> Response:
    """Forget what was learned."""
    manager = current_service().manager
    manager.reset_weights(**json_body("default_weight"))
    return answer(current_weights=manager.weight_learner.get_all_weights(), message="Weights reset successfully")


training_bp.register_blueprint(dashboard_bp)
