"""What the metrics share (the ground truth is prepared once, large pictures are taken piece by piece), and PSNR."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, TypeAlias

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image, check_image
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError
from tsm_training.measures.padding import padding

Band: TypeAlias = tuple[slice, slice]
"""Which rows and which columns of a picture."""


def _check_flag(_metric: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if type(value) is not bool:
        raise InvalidArgumentError(attribute.name, value, "True or False")


@attrs.frozen
class PreparedMetric(ABC):
    """A metric whose call is its preparation, used once.

    Args:
        ignore_border: Leave out of both pictures what is `padding` in the ground truth.

    Attributes:
        version: Another one means that stored similarities of the one before are no longer good.

    Raises:
        InvalidArgumentError: `ignore_border` is not True or False.
    """

    version: str = attrs.field(default="1", init=False)
    ignore_border: bool = attrs.field(default=False, kw_only=True, validator=_check_flag)
    """True leaves padding out. Metrics that look around each pixel judge the smallest rectangle with all the rest."""
    _looks_around: ClassVar[bool] = False
    """True for a metric that needs a pixel's neighbours; others are given the pixels that count as one row."""
    _pixel_bytes: ClassVar[int] = 3
    """What it takes besides an output for each pixel: usually the ground truth."""
    _more_bytes: ClassVar[int] = 0

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of two pictures (uint8, H×W×3, BGR, one size), in [0, 1]."""
        return compared(self._scorer_of_all, output, ground_truth)

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function that scores outputs against this ground truth (uint8, H×W×3, BGR)."""
        shape, score = ground_truth.shape, self._scorer_of_all(ground_truth)

        def checked(output: Image) -> float:
            check_same_size(output.shape, shape)
            return score(output)

        return checked

    def _scorer_of_all(self, ground_truth: Image) -> Callable[[Image], float]:
        counts = ~padding(ground_truth) if self.ignore_border else None
        if counts is None or counts.all():
            return self._scorer(ground_truth)
        kept = _rectangle(counts) if self._looks_around else None

        def judged(image: Image) -> Image:
            return _as_row(image, counts) if kept is None else np.ascontiguousarray(image[kept])

        score = self._scorer(judged(ground_truth))
        return lambda output: score(judged(output))

    @abstractmethod
    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        """Return a function from an output of the ground truth's size to its similarity."""

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output for pictures of `pixels` pixels."""
        return (self._pixel_bytes + self._border_bytes) * pixels + self._more_bytes

    @property
    def _border_bytes(self) -> int:
        """What leaving padding out takes for each pixel: the mask, and the pixels of an output that count."""
        return 1 + 3 if self.ignore_border else 0


def _as_row(image: Image, counts: npt.NDArray[np.bool_]) -> Image:
    """Return the pixels that count (bool, H×W) of a picture (uint8, H×W×3) as a picture of one row."""
    return np.compress(counts.ravel(), image.reshape(-1, 3), axis=0)[np.newaxis]


def _rectangle(counts: npt.NDArray[np.bool_]) -> Band:
    """Return the smallest rectangle that holds all pixels that count (bool, H×W, at least one)."""
    rows, columns = (np.flatnonzero(counts.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


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
