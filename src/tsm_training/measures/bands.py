"""Taking large pictures piece by piece: converted to other numbers, all of one at once would take up memory only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from tsm_training.errors import ImageSizeMismatchError

__all__ = ["Band", "bands", "check_same_size", "tiles"]

Band: TypeAlias = tuple[slice, slice]
"""Which rows and which columns of a picture."""


def bands(shape: tuple[int, ...], pixels: int) -> Iterator[Band]:
    """Yield bands of at most so many pixels that cover H×W×…: whole rows, or parts of one row that is longer."""
    return tiles(shape, max(1, pixels // shape[1]), pixels)


def tiles(shape: tuple[int, ...], rows: int, columns: int) -> Iterator[Band]:
    """Yield tiles of at most so many rows and columns that cover H×W×…."""
    height, width = shape[:2]
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def check_same_size(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> None:
    """Raise ImageSizeMismatchError unless two pictures (H×W×…) have one shape; nothing is ever resized."""
    if shape1 != shape2:
        raise ImageSizeMismatchError("img1", (shape1[0], shape1[1]), "img2", (shape2[0], shape2[1]))
