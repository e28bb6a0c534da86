"""What clients are told: documents in the guide's envelope, and what went wrong in one sentence without a path."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from flask import Response, jsonify, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from tsm_training import TrainingExample, TrainingSession
from tsm_training.data import ROLES
from tsm_training.errors import (
    ExampleNotFoundError,
    ImageError,
    ImageSizeMismatchError,
    ImageTooLargeError,
    InvalidArgumentError,
    LearnerConflictError,
    NoExamplesError,
    NothingEvaluatedError,
    NoWorkersError,
    SessionNotFoundError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    TrainingInProgressError,
    TrainingStoppedError,
    TsmTrainingError,
    WeightsFileError,
)

__all__ = [
    "UNEXPECTED",
    "answer",
    "explained",
    "public_example",
    "public_session",
    "public_sessions",
    "public_validation",
    "refusal",
    "without_folders",
    "without_kind",
]

_log = logging.getLogger(__name__)

UNEXPECTED: Final = "Something went wrong on the server; its log says more."

_STATUSES: Final[tuple[tuple[type[TsmTrainingError], int], ...]] = (
    (ExampleNotFoundError, 404),
    (SessionNotFoundError, 404),
    (ImageTooLargeError, 413),
    (ImageError, 400),
    (ImageSizeMismatchError, 400),
    (InvalidArgumentError, 400),
    (WeightsFileError, 400),
    (TrainingInProgressError, 409),
    (TrainingStoppedError, 409),
    (LearnerConflictError, 409),
    (NoExamplesError, 409),
    (NoWorkersError, 409),
    (NothingEvaluatedError, 409),
    (StorageFullError, 507),
    (StorageCorruptError, 500),
    (StorageError, 503),
)
"""The first class that fits decides; what is not listed is the server's fault: 500."""

_SERVER_ERROR: Final = 500
_KIND: Final = re.compile(r"^[A-Za-z_]+(?:Error|Interrupt|Exit): ")
_FOLDERS: Final = re.compile(
    r"""(['"])(?:[A-Za-z]:)?[/\\].*?([^/\\'"]*)\1|(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s'"/\\]+[/\\])+"""
)
"""An absolute path in quotes, or the folders of one that stands free."""


def answer(status: int = 200, **document: Any) -> Response:
    """Return a document in the guide's envelope."""
    response = jsonify({"success": True, **document})
    response.status_code = status
    return response


def refusal(error: Exception) -> Response:
    """Return what a client is told of an error: a status, and one sentence under both names that clients look for."""
    status, message = explained(error)
    response = jsonify({"success": False, "message": message, "error": message})
    response.status_code = status
    if isinstance(error, HTTPException):
        # Which methods are allowed, or when to come again.
        response.headers.extend((k, v) for k, v in error.get_headers() if k in ("Allow", "Retry-After"))
    return response


def explained(error: Exception) -> tuple[int, str]:
    """Return the status and the sentence for an error; what is the server's fault goes to the log."""
    if isinstance(error, HTTPException):
        return error.code or _SERVER_ERROR, _description(error)
    if not isinstance(error, TsmTrainingError):
        _log.error("a request failed", exc_info=error)
        return _SERVER_ERROR, UNEXPECTED
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), _SERVER_ERROR)
    _log.log(logging.ERROR if status >= _SERVER_ERROR else logging.INFO, "refused with status %s: %s", status, error)
    return status, _sentence(error)


def _description(error: HTTPException) -> str:
    if type(error).description == error.description and isinstance(error, RequestEntityTooLarge):
        limits = [f"{request.max_content_length:,} bytes in all"] if request.max_content_length else []
        limits += [f"{request.max_form_memory_size:,} bytes of text"] if request.max_form_memory_size else []
        return f"The request is too large: accepted are at most {' and '.join(limits)}." if limits else error.name
    return error.description or error.name


def _sentence(error: TsmTrainingError) -> str:
    """Return the library's public sentence, with what the client sent wrong where that is known."""
    if isinstance(error, InvalidArgumentError):
        return f"{error.argument} must be {error.expected}."
    if isinstance(error, WeightsFileError):
        place = f"{error.key} " if error.key else "it "
        return f"{error.public_message.removesuffix('.')}: {place}{without_folders(error.reason)}."
    return error.public_message


def without_folders(text: str) -> str:
    """Return what the library or a worker said, with file names instead of paths."""
    return _FOLDERS.sub(lambda match: f"{match[1]}{match[2]}{match[1]}" if match[1] else "", text)


def without_kind(text: str) -> str:
    """Return why a session ended without the name of the error's class, which only programmers read."""
    return _KIND.sub("", text)


# --- documents --------------------------------------------------------------------------------------------------------


def public_example(example: TrainingExample) -> dict[str, Any]:
    """Return everything about an example but where its files are: addresses of small pictures stand there instead."""
    document: dict[str, Any] = {k: v for k, v in example.to_dict().items() if not k.endswith("_path")}
    document["worker_results"] = example.worker_results and {
        worker_id: {**outcome, "error": outcome["error"] and without_folders(outcome["error"])}
        for worker_id, outcome in example.worker_results.items()
    }
    document["pictures"] = {role: _picture(example, role) for role in ROLES}
    return document


def _picture(example: TrainingExample, role: str) -> dict[str, Any]:
    file = getattr(example.files, role, None)
    address = url_for("training.thumbnail", example_id=example.example_id, role=role)
    known = {} if file is None else {"width": file.width, "height": file.height, "sha256": file.sha256}
    return {"thumbnail": address, **known}


def public_session(session: TrainingSession) -> dict[str, Any]:
    """Return everything about a session."""
    document: dict[str, Any] = dict(session.to_dict())
    document["error"] = session.error and without_folders(session.error)
    document["skipped"] = _without_folders(session.skipped)
    document["validation"] = None if session.validation is None else public_validation(session.validation)
    return document


def public_sessions(session: TrainingSession) -> dict[str, Any]:
    """Return a session as one of many: without the long lists."""
    long = ("metrics_history", "training_ids", "validation_ids", "validation")
    return {key: value for key, value in public_session(session).items() if key not in long}


def public_validation(validation: Mapping[str, Any]) -> dict[str, Any]:
    """Return a validation report."""
    return {**validation, "skipped": _without_folders(validation.get("skipped", {}))}


def _without_folders(reasons: Mapping[str, str]) -> dict[str, str]:
    return {key: without_folders(reason) for key, reason in reasons.items()}
