"""Comparing which colours two pictures have, wherever they are: histograms of 8-bit Lab."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.forking import alone_at_first
from tsm_training.measures.prepared import PreparedMetric, bands, compared

Histograms: TypeAlias = npt.NDArray[np.int64]

_BINS: Final = 256

BAND_PIXELS: Final = 2**20
"""Pictures are counted in bands of about so many pixels.

Sums over bands are whole numbers, so they are those of the whole picture; and OpenCV counts in float32, which is exact
up to 2**24.
"""

_LARGEST_DISTANCE: Final = 100


# --- counting -------------------------------------------------------------------------------------------------------


def to_lab_bytes(image: Image) -> Image:
    """Return a picture (uint8, H×W×3, BGR) in OpenCV's 8-bit Lab: L·2.55, a + 128, b + 128, rounded."""
    with alone_at_first("BGR to Lab"):
        return cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2LAB))  # OpenCV's stub names no dtype


def lab_histograms(lab: Image) -> Histograms:
    """Count the 256 values of each channel of a BGR picture in 8-bit Lab (uint8, H×W×3); returns int64, 3×256."""
    counts = np.zeros((3, _BINS), np.int64)
    for band in bands(lab.shape, BAND_PIXELS):
        count_levels(lab[band], counts)
    return counts


def count_levels(lab: Image, counts: Histograms) -> None:
    """Add to `counts` (int64, 3×256) how often each value of three channels occurs (uint8, H×W×3, at most 2**24)."""
    with alone_at_first("histograms"):
        for channel, row in enumerate(counts):
            row += cv2.calcHist([lab], [channel], None, [_BINS], [0, _BINS]).ravel().astype(np.int64)  # noqa: PLW2901


def _picture_histograms(image: Image) -> Histograms:
    counts = np.zeros((3, _BINS), np.int64)
    for band in bands(image.shape, BAND_PIXELS):
        count_levels(to_lab_bytes(image[band]), counts)
    return counts


# --- comparing ------------------------------------------------------------------------------------------------------


def histogram_correlation(counts1: npt.NDArray[np.int64], counts2: npt.NDArray[np.int64]) -> float:
    """Return Pearson's correlation of two histograms, in [−1, 1], from exact whole-number sums.

    This is OpenCV's ``HISTCMP_CORREL``. Where a histogram is perfectly even its correlation is undefined: the value is
    then 1.0 for equal histograms and 0.0 otherwise.

    Args:
        counts1: int64, one count per bin.
        counts2: int64, the same number of bins.
    """
    if np.array_equal(counts1, counts2):
        return 1.0
    bins, total1, total2 = len(counts1), int(counts1.sum()), int(counts2.sum())
    covariance = bins * int(counts1 @ counts2) - total1 * total2
    variance1 = bins * int(counts1 @ counts1) - total1**2
    variance2 = bins * int(counts2 @ counts2) - total2**2
    if variance1 == 0 or variance2 == 0:
        return 0.0
    return max(-1.0, min(1.0, covariance / math.sqrt(variance1 * variance2)))


def histogram_distance(img1: Image, img2: Image) -> float:
    """Return how far the colours of one picture must be moved to be those of the other, in units of Lab; symmetric.

    For each of L, a and b it is the earth mover's distance of the two histograms, which in one dimension is the area
    between the cumulative ones (Werman, Peleg, Rosenfeld: "A distance metric for multidimensional histograms", CVGIP
    32(3), 1985; Rubner, Tomasi, Guibas: "The earth mover's distance as a metric for image retrieval", IJCV 40(2),
    2000); the three are put together as in ΔE*ab (CIE 1976), as the root of the sum of their squares. No way to
    rearrange the pixels of a picture makes its mean ΔE*ab to the other, both in 8-bit Lab, less than this.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.

    Returns:
        0 for pictures of equal histograms, such as a picture and its mirror image; 100 for black against white, and
        more for two pictures of strong colours.

    Raises:
        InvalidArgumentError: an argument is no picture.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    return compared(_distance_to, img1, img2)


def _distance_to(image: Image) -> Callable[[Image], float]:
    pixels, counts2 = image.shape[0] * image.shape[1], _picture_histograms(image)

    def distance(other: Image) -> float:
        difference = _picture_histograms(other) - counts2
        levels = [int(moved) for moved in np.abs(np.cumsum(difference, axis=1)).sum(axis=1)]
        lightness, a, b = 100 * levels[0] / (255 * pixels), levels[1] / pixels, levels[2] / pixels
        return math.sqrt(lightness**2 + a**2 + b**2)

    return distance


class HistogramDistance(PreparedMetric):
    """The histogram distance as a metric: ``1 − min(distance, 100) / 100``; see `histogram_distance`.

    So 0.01 is an average shift by one unit of Lab. Pictures of equal histograms score 1.0, black against white 0.0.
    """

    _pixel_bytes = 0
    _more_bytes = 3 * BAND_PIXELS + 2 * 3 * _BINS * 8  # a band in Lab, and histograms

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        distance = _distance_to(ground_truth)
        return lambda output: 1.0 - min(distance(output), _LARGEST_DISTANCE) / _LARGEST_DISTANCE
