"""Checks of arguments that several rooms need: the value is right, or an error says what it must be and what it was."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import numpy as np

from tsm_training.errors import InvalidArgumentError

__all__ = [
    "at_least",
    "check_callable",
    "check_choice",
    "check_ids",
    "check_limit",
    "check_number",
    "check_path",
    "check_seed",
    "check_text",
    "check_whole_number",
    "is_number",
    "is_url",
    "is_whole_number",
    "number_between",
]


def is_whole_number(value: object) -> TypeGuard[int]:
    """Tell whether this is a whole number, Python's or numpy's; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a real number, Python's or numpy's; True and False are none."""
    return isinstance(value, (float, np.floating)) or is_whole_number(value)


def check_whole_number(name: str, value: object, least: int = 1) -> int:
    """Return `value` as int if it is a whole number (True is none) of at least `least`; InvalidArgumentError if not."""
    if not is_whole_number(value) or value < least:
        raise InvalidArgumentError(name, value, f"a whole number of at least {least}")
    return int(value)


def check_limit(name: str, value: object) -> int | None:
    """Return `value` if it is None or a whole number of at least 1; InvalidArgumentError otherwise, for text too."""
    if value is not None and (not is_whole_number(value) or value < 1):
        raise InvalidArgumentError(name, value, "a whole number of at least 1, or None for all")
    return None if value is None else int(value)


def check_number(
    name: str, value: object, low: float, high: float, expected: str, *, low_allowed: bool = False
) -> None:
    """Raise InvalidArgumentError unless `value` is a finite number in (low, high], or [low, high] where allowed."""
    # NaN fails both comparisons.
    if not is_number(value) or not (low <= value if low_allowed else low < value) or not value <= high:
        raise InvalidArgumentError(name, value, expected)


def is_url(text: str) -> bool:
    """Tell whether this is the address of something on a network, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def check_path(name: str, value: object) -> str:
    """Return a path as text; InvalidArgumentError if it is none, is empty, holds a NUL, or is a URL."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        is_picture = hasattr(value, "__array_interface__")  # an array, or an image of Pillow
        advice = "; save a picture to a file first, and give the file's path" if is_picture else ""
        raise InvalidArgumentError(name, value, f"a path (str or os.PathLike), not empty and without NUL{advice}")
    if is_url(text):
        raise InvalidArgumentError(name, value, "a path on this machine, not a URL: download the file first")
    return text


def check_text(name: str, value: object) -> str:
    """Return `value` if it is text with something in it; InvalidArgumentError if not."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgumentError(name, value, "text that is not empty")
    return value


def check_choice(name: str, value: object, *choices: str) -> None:
    """Raise InvalidArgumentError unless `value` is one of some texts."""
    if value not in choices:
        raise InvalidArgumentError(name, value, " or ".join(map(repr, choices)))


def check_ids(name: str, value: object) -> list[str]:
    """Return ids as a list, each once and in order; InvalidArgumentError for anything but several texts."""
    expected = "a list of ids"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidArgumentError(name, value, expected)
    ids = list(dict.fromkeys(value))
    if not_text := [each for each in ids if not isinstance(each, str)]:
        raise InvalidArgumentError(name, not_text[0], expected)
    return ids


def check_seed(value: object) -> int:
    """Return a seed as int; InvalidArgumentError unless it is a whole number."""
    if not is_whole_number(value):
        raise InvalidArgumentError("seed", value, "a whole number")
    return int(value)


def check_callable(name: str, value: object, expected: str, *, optional: bool = False) -> None:
    """Raise InvalidArgumentError unless `value` can be called (or is None, where that is allowed)."""
    if not callable(value) and not (optional and value is None):
        raise InvalidArgumentError(name, value, expected)


def at_least(least: int) -> Callable[[Any, Any, Any], None]:
    """Return an attrs validator for a whole number of at least `least`."""

    def check(_instance: object, attribute: Any, value: object) -> None:
        check_whole_number(attribute.name, value, least)

    return check


def number_between(low: float, high: float, expected: str) -> Callable[[Any, Any, Any], None]:
    """Return an attrs validator for a finite number in (low, high]."""

    def check(_instance: object, attribute: Any, value: object) -> None:
        check_number(attribute.name, value, low, high, expected)

    return check
