"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

__all__ = [
    "counted",
    "did_you_mean",
    "difference_text",
    "figure_text",
    "listed",
    "nearest_name",
    "percent_text",
    "probability_text",
    "seconds_text",
    "shares_text",
]

_NEGLIGIBLE: Final = 0.001
"""A worker with a smaller share is not run."""

_LEAST_DIGITS: Final = 3
_MOST_DIGITS: Final = 6


def figure_text(
    value: float | None, digits: int = 3, *, signed: bool = False, ends: Sequence[float] | None = None
) -> str:
    """Return a figure with this many digits after the point, and its interval; a dash where there is none."""
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # which takes the sign from a zero
    text = f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")
    if ends is None:
        return text
    return f"{text} ({' to '.join(figure_text(end, digits, signed=signed) for end in ends)})"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like another one; None where none is like it."""
    import difflib  # noqa: PLC0415 - only slips of the pen need it

    lowered = {each.lower(): each for each in sorted(known)}
    near = difflib.get_close_matches(name.lower(), lowered, 1)
    return lowered[near[0]] if near else None


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return the end of a message about a slip of the pen, such as "; did you mean 'unchanged'?", or no text."""
    near = nearest_name(value, known) if isinstance(value, str) else None
    return "" if near is None else f"; did you mean {near!r}?"


def difference_text(value: float, precision: float) -> str:
    """Return a difference with three digits after the point, or more where it is known more precisely.

    Args:
        value: In accuracy.
        precision: Up to what it is known; below a millionth for exactly.
    """
    scale = precision if precision >= 10.0**-_MOST_DIGITS else abs(value) or 1.0
    digits = min(_MOST_DIGITS, max(_LEAST_DIGITS, math.ceil(-math.log10(scale))))
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 takes the sign from a zero


def percent_text(share: float | None) -> str:
    """Return a share in per cent; small shares that are used are shown as "< 1 %"."""
    if share is None:
        return "–"
    is_tiny = _NEGLIGIBLE <= share < 0.005  # noqa: PLR2004 - would be rounded to 0 %
    return "< 1 %" if is_tiny else f"{100.0 * share:.0f} %"


def seconds_text(seconds: float | None) -> str:
    """Return a time in milliseconds or seconds."""
    if seconds is None:
        return "–"
    return f"{1000.0 * seconds:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def shares_text(shares: Mapping[str, float]) -> str:
    """Return the workers that have a part in a picture, the largest part first."""
    used = sorted(((share, name) for name, share in shares.items() if share >= _NEGLIGIBLE), reverse=True)
    return ", ".join(f"{name} {percent_text(share)}" for share, name in used)


def probability_text(probability: float | None, symbol: str = "") -> str:
    """Return a probability, rounded so that it never looks greater than it is, nor like certainty.

    Args:
        probability: In [0, 1]; None gives a dash.
        symbol: With "P", the text is "P = 0.95", "P > 0.99" or "P < 0.01".
    """
    if probability is None:
        return "–"
    relation, shown = "=", math.floor(100.0 * probability) / 100.0
    if probability > 0.99:  # noqa: PLR2004
        relation, shown = ">", 0.99
    elif probability < 0.01:  # noqa: PLR2004
        relation, shown = "<", 0.01
    text = f"{symbol} {relation} {shown:.2f}" if symbol or relation != "=" else f"{shown:.2f}"
    return text.lstrip()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless there is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as an English list: "a", "a and b", "a, b and c"."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
