"""Reading what clients send; what cannot be used is refused by a sentence that says what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import attrs
from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

__all__ = ["TrainSettings", "example_ids", "form_numbers", "json_body", "limit", "metadata", "parsed_json"]

MAX_EPOCHS: Final = 1000
_MAX_COUNT: Final = 10**9
_MAX_SHOWN: Final = 40
_REPLACED: Final = "\ufffd"
"""What forms have in the place of bytes that are no UTF-8; who means the sign itself can write it as JSON's escape."""


# --- bodies -----------------------------------------------------------------------------------------------------------


def json_body(*known: str) -> dict[str, Any]:
    """Return the JSON object that the request brings; no body is an empty one.

    Raises:
        RequestEntityTooLarge: it is larger than is allowed.
        UnsupportedMediaType: there is a body that is not declared as JSON.
        BadRequest: it is no JSON object, or has other keys than the known ones.
    """
    data = request.get_data()
    if request.max_content_length is not None and len(data) >= request.max_content_length:
        raise RequestEntityTooLarge  # a body of unknown length is cut there without a word
    if not data.strip():
        return {}
    if not request.is_json:
        raise UnsupportedMediaType("The body must be JSON, sent with the header Content-Type: application/json.")
    body = parsed_json(data, "The body")
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    _require_known(body, known)
    return body


def parsed_json(data: str | bytes, name: str) -> Any:
    """Return the value that strict JSON stands for.

    Raises:
        BadRequest: it is none, or is nested deeper than any sensible one.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest(f"{name} is not JSON that can be read.") from None


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)  # NaN and Infinity are Python's own


def _require_known(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse names that mean nothing here: a slip of the pen would change what happens, and nobody would know.

    Raises:
        BadRequest: there is one.
    """
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise BadRequest(f"{unknown[0][:_MAX_SHOWN]!r} means nothing here; known are: {', '.join(known)}.")


# --- values -----------------------------------------------------------------------------------------------------------


def limit() -> int | None:
    """Return the limit of the address, or None.

    Raises:
        BadRequest: it is no whole number of at least 1.
    """
    text = request.args.get("limit")
    return None if text is None else _whole_number("limit", _number_of(text))


def metadata() -> dict[str, Any] | None:
    """Return the metadata that a form brings as JSON, or None.

    Raises:
        BadRequest: they are no JSON object.
    """
    if "metadata" in request.files:
        raise BadRequest("metadata must be sent as text, not as a file.")
    text = request.form.get("metadata", "")
    if _REPLACED in text:
        raise BadRequest("metadata must be UTF-8 text.")
    value = parsed_json(text, "metadata") if text.strip() else None
    if value is not None and not isinstance(value, dict):
        raise BadRequest('metadata must be a JSON object, such as {"style": "sunset"}.')
    return value


def example_ids(value: object) -> list[str] | None:
    """Return ids of examples, or None where none are given.

    Raises:
        BadRequest: it is no list of ids, or an empty one.
    """
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and _is_text(item) for item in value):
        raise BadRequest("example_ids must be a list of at least one id, or be left out for all examples.")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no store can look up
        return False
    return True


def _whole_number(name: str, value: object, most: int = _MAX_COUNT) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise BadRequest(f"{name} must be a whole number from 1 to {most}.")
    return value


def form_numbers(form: Mapping[str, str], *names: str) -> dict[str, object]:
    """Return the numbers in some of a form's fields; an empty one counts as not sent."""
    return {name: _number_of(form[name].strip()) for name in names if form.get(name, "").strip()}


def _number_of(text: str) -> object:
    """Return the number that plain digits stand for; other text stays text, which the next check refuses."""
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]{0,12}\.[0-9]{1,12}", text) else text


@attrs.frozen
class TrainSettings:
    """What a training is asked to do; see `TrainingManager.train`."""

    num_examples: int | None = None
    epochs: int = 1
    validation_split: float = 0.2
    verbose: bool = False

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> TrainSettings:
        """Make settings of what a client sent; what it did not send has its default.

        Raises:
            BadRequest: a value cannot be used.
        """
        default = cls()
        count = given.get("num_examples")
        split = given.get("validation_split", default.validation_split)
        verbose = given.get("verbose", default.verbose)
        if type(split) not in (int, float) or not 0 <= split < 1:
            raise BadRequest("validation_split must be a number of at least 0 and below 1.")
        if type(verbose) is not bool:
            raise BadRequest("verbose must be true or false.")
        return cls(
            num_examples=None if count is None else _whole_number("num_examples", count),
            epochs=_whole_number("epochs", given.get("epochs", default.epochs), MAX_EPOCHS),
            validation_split=float(split),
            verbose=verbose,
        )

    @classmethod
    def of_form(cls, form: Mapping[str, str]) -> TrainSettings:
        """Make settings of the text in a form's fields; an empty one counts as not sent.

        Raises:
            BadRequest: a value cannot be used.
        """
        return cls.checked(form_numbers(form, "num_examples", "epochs", "validation_split"))
