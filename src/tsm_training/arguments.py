"""Checks of arguments that several rooms need: the value is right, or an error says what it must be and what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsm_training.errors import InvalidArgumentError

__all__ = ["at_least", "check_limit", "check_number", "check_whole_number", "number_between"]


def check_whole_number(name: str, value: object, least: int = 1) -> int:
    """Return `value` if it is a whole number (True is none) of at least `least`; InvalidArgumentError otherwise."""
    if type(value) is not int or value < least:
        raise InvalidArgumentError(name, value, f"a whole number of at least {least}")
    return value


def check_limit(name: str, value: object) -> int | None:
    """Return `value` if it is None or a whole number of at least 1; InvalidArgumentError otherwise, for text too."""
    if value is not None and (type(value) is not int or value < 1):
        raise InvalidArgumentError(name, value, "a whole number of at least 1, or None for all")
    return value


def check_number(
    name: str, value: object, low: float, high: float, expected: str, *, low_allowed: bool = False
) -> None:
    """Raise InvalidArgumentError unless `value` is a finite number in (low, high], or [low, high] where allowed."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN fails both comparisons.
    if not is_number or not (low <= value if low_allowed else low < value) or not value <= high:  # type: ignore[operator]
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
