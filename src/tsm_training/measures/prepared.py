"""What the metrics share: the work on the ground truth is done once, and large pictures are taken piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from tsm_training.arrays import Image, check_image
from tsm_training.errors import ImageSizeMismatchError

__all__ = ["Band", "PreparedMetric", "bands", "check_same_size", "compared", "tiles"]

Band: TypeAlias = tuple[slice, slice]
"""Which rows and which columns of a picture."""


@attrs.frozen
class PreparedMetric(ABC):
    """A metric whose call is its preparation, used once.

    Attributes:
        version: Another one means that stored similarities of the one before are no longer good.
    """

    version: str = attrs.field(default="1", init=False)

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of two pictures (uint8, H×W×3, BGR, one size), in [0, 1]."""
        return compared(self._scorer, output, ground_truth)

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function that scores outputs against this ground truth (uint8, H×W×3, BGR)."""
        shape, score = ground_truth.shape, self._scorer(ground_truth)

        def checked(output: Image) -> float:
            check_same_size(output.shape, shape)
            return score(output)

        return checked

    @abstractmethod
    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        """Return a function from an output of the ground truth's size to its similarity."""

    @abstractmethod
    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output for pictures of `pixels` pixels."""


def compared(scorer: Callable[[Image], Callable[[Image], float]], img1: Image, img2: Image) -> float:
    """Return what the function that `scorer` makes of the second picture makes of the first, once both are checked."""
    check_same_size(check_image(img1, "img1").shape, check_image(img2, "img2").shape)
    return scorer(img2)(img1)


def check_same_size(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> None:
    """Raise ImageSizeMismatchError unless two pictures (H×W×…) have one shape; nothing is ever resized."""
    if shape1 != shape2:
        raise ImageSizeMismatchError("img1", (shape1[0], shape1[1]), "img2", (shape2[0], shape2[1]))


def bands(shape: tuple[int, ...], pixels: int) -> Iterator[Band]:
    """Yield bands of at most `pixels` pixels that cover H×W×…: whole rows, or parts of one row that is longer."""
    return tiles(shape, max(1, pixels // shape[1]), pixels)


def tiles(shape: tuple[int, ...], rows: int, columns: int) -> Iterator[Band]:
    """Yield tiles of at most so many rows and columns that cover H×W×…."""
    height, width = shape[:2]
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))
