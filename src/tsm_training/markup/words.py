"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = [
    "counted",
    "figure_text",
    "interval_text",
    "listed",
    "percent_text",
    "probability_text",
    "seconds_text",
    "shares_text",
]

_HARDLY_ANY: Final = 0.001
"""A smaller share is none: its worker is not run."""


def figure_text(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return a figure with so many digits, or a dash where there is none."""
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # which takes the sign from a zero
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")


def interval_text(ends: Sequence[float] | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return an interval in words; nothing where there is none."""
    if ends is None:
        return ""
    low, high = (figure_text(end, digits, signed=signed) for end in ends)
    return f" ({low} to {high})"


def percent_text(share: float | None) -> str:
    """Return a share in per cent; what is hardly any but used is not nothing."""
    if share is None:
        return "–"
    is_tiny = _HARDLY_ANY <= share < 0.005  # noqa: PLR2004 - would be rounded to nothing
    return "< 1 %" if is_tiny else f"{100.0 * share:.0f} %"


def seconds_text(seconds: float | None) -> str:
    """Return a time as people say it."""
    if seconds is None:
        return "–"
    return f"{1000.0 * seconds:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def shares_text(shares: Mapping[str, float]) -> str:
    """Return who has a part in a picture, the largest part first."""
    used = sorted(((share, name) for name, share in shares.items() if share >= _HARDLY_ANY), reverse=True)
    return ", ".join(f"{name} {percent_text(share)}" for share, name in used)


def probability_text(probability: float | None) -> str:
    """Return a probability, rounded so that it never looks greater than it is, nor like certainty."""
    if probability is None:
        return "–"
    if probability > 0.99:  # noqa: PLR2004
        return "> 0.99"
    return "< 0.01" if probability < 0.01 else f"{math.floor(100.0 * probability) / 100.0:.2f}"  # noqa: PLR2004


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless there is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as people list them: "a", "a and b", "a, b and c"."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
