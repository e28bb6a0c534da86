"""Comparing two pictures pixel by pixel: the mean squared error, and PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import cv2

from tsm_training.arrays import Image, check_image
from tsm_training.measures.prepared import PreparedMetric, check_same_size

__all__ = ["PeakSignalToNoise", "mean_squared_error", "psnr", "squared_error"]

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

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output: the ground truth."""
        return 3 * pixels
