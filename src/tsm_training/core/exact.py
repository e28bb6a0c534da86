"""Exact sums of floats: whole numbers scaled by 2**1074, so that what was added can be taken away again.

Every finite float is a whole multiple of 2**-1074, the smallest positive one. A sum of such whole numbers depends on
neither order nor history, and its value equals `math.fsum` of what is left in it, to the last bit.
"""

from __future__ import annotations

from typing import Final

_SCALE: Final = 1074
_UNIT: Final = 1 << _SCALE


def fixed(number: float) -> int:
    """Return a finite float as a whole number of 2**-1074."""
    numerator, denominator = number.as_integer_ratio()
    return numerator << (_SCALE + 1 - denominator.bit_length())


def value(total: int) -> float:
    """Return the float nearest to a sum."""
    return total / _UNIT  # the quotient of whole numbers is rounded once


def dumped(total: int) -> str:
    """Return a sum as text: hexadecimal digits, and by how many bits they are shifted."""
    shift = max(0, (total & -total).bit_length() - 1)
    return f"{total >> shift:x}p{shift}"


def loaded(text: str) -> int:
    """Return the sum that `dumped` made a text of.

    Raises:
        ValueError: it made no such text.
    """
    digits, _p, shift = text.partition("p")
    return int(digits, 16) << int(shift)
