"""Student's t distribution from the standard library: its distribution function and its quantiles.

The tail is a regularised incomplete beta function, evaluated by its continued fraction (NIST Digital Library of
Mathematical Functions, 8.17.22, by the modified Lentz method of 3.10(iii)). Tails keep their relative precision
however small they are.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

_MEDIAN: Final = 0.5
_PRECISION: Final = 1e-15
_FAR: Final = 1e150  # nothing is said of what lies beyond: its square has no place in a float
_TINY: Final = 1e-300  # stands for a zero that would have to be divided by


def cdf(value: float, df: float) -> float:
    """Return the probability that a variable with Student's t distribution is at most `value`.

    Args:
        value: Any number, infinite ones too.
        df: Degrees of freedom, above 0.
    """
    tail = _tail(abs(value), df)
    return tail if value < 0.0 else 1.0 - tail


@lru_cache(maxsize=4096)
def quantile(probability: float, df: float) -> float:
    """Return the value that a variable with Student's t distribution does not exceed with a given probability.

    Args:
        probability: Above 1e-100 and below 1.
        df: Degrees of freedom, above 0.
    """
    if probability == _MEDIAN:
        return 0.0
    if probability > _MEDIAN:
        return -quantile(1.0 - probability, df)
    low, high = 0.0, 1.0
    while _tail(high, df) > probability:
        low, high = high, 2.0 * high
    while low < (middle := (low + high) / 2.0) < high:
        if _tail(middle, df) > probability:
            low = middle
        else:
            high = middle
    return -high


def _tail(value: float, df: float) -> float:
    """Return the probability of more than a value of at least 0."""
    ratio = (value / math.sqrt(df)) ** 2 if value < _FAR else math.inf
    if ratio == 0.0:
        return 0.5
    if math.isinf(ratio):
        return 0.0
    outer, inner = 1.0 / (1.0 + ratio), 1.0 / (1.0 + 1.0 / ratio)  # their sum is 1
    logs = 0.5 * math.log(ratio) - 0.5 * (df + 1.0) * math.log1p(ratio)
    scale = math.exp(logs + math.lgamma(0.5 * (df + 1.0)) - math.lgamma(0.5 * df)) / math.sqrt(math.pi)
    # Each fraction converges fast on its own side of this, at about 1.7 standard deviations.
    if outer * (df + 5.0) < df + 2.0:
        return scale / df / _fraction(df / 2.0, 0.5, outer)
    return 0.5 - scale / _fraction(0.5, df / 2.0, inner)


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction by which the incomplete beta function's leading term is divided."""
    value, c, d = 1.0, 1.0, 0.0
    number, change = 0, 0.0
    while abs(change - 1.0) >= _PRECISION:
        number += 1
        m = number // 2
        if number % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        else:
            term = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        d = 1.0 / (1.0 + term * d or _TINY)
        c = 1.0 + term / c or _TINY
        change = c * d
        value *= change
    return value
