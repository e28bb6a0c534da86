"""What the metrics share (the ground truth is prepared once, large pictures are taken piece by piece), and PSNR."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, TypeAlias

import attrs
import cv2

from tsm_training.arrays import Image, check_image
from tsm_training.errors import ImageSizeMismatchError

Band: TypeAlias = tuple[slice, slice]
"""Which rows and which columns of a picture."""


@attrs.frozen
class PreparedMetric(ABC):
    """A metric whose call is its preparation, used once.

    Attributes:
        version: Another one means that stored similarities of the one before are no longer good.
    """

    version: str = attrs.field(default="1", init=False)
    _pixel_bytes: ClassVar[int] = 3
    """What it takes besides an output for each pixel: usually the ground truth."""
    _more_bytes: ClassVar[int] = 0

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

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output for pictures of `pixels` pixels."""
        return self._pixel_bytes * pixels + self._more_bytes


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


# --- pixel by pixel -------------------------------------------------------------------------------------------------

_PEAK: Final = 255

_ENOUGH: Final = 60.0
"""Decibels; an error of a quarter of a level everywhere, which no eye sees."""


def mean_squared_error(img1: Image, img2: Image) -> float:
    """Return the mean squared difference of two arrays of bytes, in [0, 65025].

    The sum is taken in whole numbers, so the value is the same on every machine and thread count.

    Args:
        img1: uint8, any shape.
        img2: uint8, the same shape.

    Raises:
        ImageSizeMismatchError: the shapes differ.
    """
    check_same_size(img1.shape, img2.shape)
    return squared_error(img1, img2) / img1.size


def squared_error(img1: Image, img2: Image) -> int:
    """Return the sum of the squared differences of two arrays of bytes of one shape."""
    # OpenCV sums the squares of bytes in whole numbers, but may hand over the square of a rounded root.
    return round(cv2.norm(img1, img2, cv2.NORM_L2SQR))


def psnr(img1: Image, img2: Image) -> float:
    """Return the peak signal-to-noise ratio of two pictures: at least 0 dB, and infinite for equal ones; symmetric.

    ``10 · log10(255² / mse)``, the mean squared error being over all pixels and channels; see Huynh-Thu, Ghanbari:
    "Scope of validity of PSNR in image/video quality assessment", Electronics Letters 44(13), 2008.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.

    Raises:
        InvalidArgumentError: an argument is no picture.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    return _decibels(mean_squared_error(check_image(img1, "img1"), check_image(img2, "img2")))


def _decibels(mse: float) -> float:
    return 10.0 * math.log10(_PEAK**2 / mse) if mse else math.inf


class PeakSignalToNoise(PreparedMetric):
    """PSNR as a metric: ``min(dB, 60) / 60``, so that 0.01 is 0.6 dB; see `psnr`.

    Above 60 dB pictures count as equal: 1.0. Black against white is 0.0.
    """

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        return lambda output: min(_decibels(mean_squared_error(output, ground_truth)), _ENOUGH) / _ENOUGH
