"""Figures in words, for the one plain sentence that each answer has."""

from __future__ import annotations

import math
from typing import Final

from tsm_training.analysis.posterior import Posterior
from tsm_training.markup import counted

__all__ = ["difference_text", "figures_text", "probability_text"]

_LEAST_DIGITS: Final = 3
_MOST_DIGITS: Final = 6
_NEARLY_SURE: Final = 0.99


def difference_text(value: float, precision: float) -> str:
    """Return a difference with three digits after the point, or more where it is known more precisely.

    Args:
        value: In accuracy.
        precision: Up to what it is known; below a millionth for exactly.
    """
    scale = precision if precision >= 10.0**-_MOST_DIGITS else abs(value) or 1.0
    digits = min(_MOST_DIGITS, max(_LEAST_DIGITS, math.ceil(-math.log10(scale))))
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 takes the sign from a zero


def probability_text(value: float) -> str:
    """Return a probability, rounded so that it never looks greater than it is."""
    return "P > 0.99" if value > _NEARLY_SURE else f"P = {math.floor(100.0 * value) / 100.0:.2f}"


def figures_text(posterior: Posterior, sure: str) -> str:
    """Return a mean difference, its interval, the number of targets behind it, and words on how sure something is."""
    low, high = posterior.interval()
    mean, lower, upper = (difference_text(value, (high - low) / 2.0) for value in (posterior.mean, low, high))
    return f"{mean} (90 % interval {lower} to {upper}, {counted(posterior.df + 1, 'target')}; {sure})"
