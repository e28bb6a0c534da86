"""Comparing two pictures: the guide's similarity as pure functions, and what any other metric must look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image, check_image
from tsm_training.errors import ImageSizeMismatchError
from tsm_training.forking import alone_at_first

__all__ = [
    "GuideSimilarity",
    "Metric",
    "PreparableMetric",
    "guide_similarity",
    "histogram_correlation",
    "lab_histograms",
    "mean_squared_error",
    "prepare_metric",
]

Histograms: TypeAlias = npt.NDArray[np.int64]

_MSE_SHARE: Final = 0.6
_HISTOGRAM_SHARE: Final = 0.4
_MAX_SQUARED_ERROR: Final = 255**2
_BINS: Final = 256

_BAND_PIXELS: Final = 2**20
"""Pictures are compared in bands of about so many pixels: all of a large one, converted, would take up memory only.

Sums over bands are whole numbers, so they are those of the whole picture; and OpenCV counts in float32, which is exact
up to 2**24.
"""


# --- protocols ------------------------------------------------------------------------------------------------------


@runtime_checkable
class Metric(Protocol):
    """Judges a picture: called positionally as ``metric(output, ground_truth)``, both uint8, H×W×3, BGR, of one size.

    It must return a finite number in [0, 1], 1 for the best, and may raise anything: either fault ends the training
    with `MetricError`. Several threads call it at once.
    """

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of a worker's output to the ground truth, in [0, 1]."""
        ...


@runtime_checkable
class PreparableMetric(Metric, Protocol):
    """A metric that can do its work on the ground truth once, for all the outputs that are compared with it."""

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function of an output that gives exactly what ``metric(output, ground_truth)`` gives.

        Both are uint8, H×W×3, BGR, of one size.
        """
        ...


def prepare_metric(metric: Metric, ground_truth: Image) -> Callable[[Image], float]:
    """Return a function that scores outputs (uint8, H×W×3, BGR) against one ground truth of the same size."""
    if isinstance(metric, PreparableMetric):
        return metric.prepare(ground_truth)
    return lambda output: metric(output, ground_truth)


# --- parts ----------------------------------------------------------------------------------------------------------


def mean_squared_error(img1: Image, img2: Image) -> float:
    """Return the mean squared difference of two arrays of bytes, in [0, 65025].

    The sum is taken in whole numbers, so the value is the same on every machine and thread count.

    Args:
        img1: uint8, any shape.
        img2: uint8, the same shape.

    Raises:
        ImageSizeMismatchError: the shapes differ.
    """
    _check_same_size(img1, img2)
    return _squared_error(img1, img2) / img1.size


def _squared_error(img1: Image, img2: Image) -> int:
    # OpenCV sums the squares of bytes in whole numbers, but may hand over the square of a rounded root.
    return round(cv2.norm(img1, img2, cv2.NORM_L2SQR))


def lab_histograms(lab: Image) -> Histograms:
    """Count the 256 values of each channel of a picture in 8-bit Lab (uint8, H×W×3); returns int64, 3×256."""
    counts = np.zeros((3, _BINS), np.int64)
    for band in _bands(lab):
        _count(lab[band], counts)
    return counts


def _bands(image: Image) -> Iterator[tuple[slice, slice]]:
    height, width = image.shape[:2]
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        for left in range(0, width, _BAND_PIXELS):
            yield slice(top, top + rows), slice(left, left + _BAND_PIXELS)


def _count(lab: Image, counts: Histograms) -> None:
    for channel, row in enumerate(counts):
        row += cv2.calcHist([lab], [channel], None, [_BINS], [0, _BINS]).ravel().astype(np.int64)  # noqa: PLW2901


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


def _similarity(mse: float, histograms1: Histograms, histograms2: Histograms) -> float:
    closeness = 1.0 - mse / _MAX_SQUARED_ERROR
    correlations = [max(0.0, histogram_correlation(a, b)) for a, b in zip(histograms1, histograms2, strict=True)]
    combined = _MSE_SHARE * closeness + _HISTOGRAM_SHARE * (math.fsum(correlations) / len(correlations))
    return max(0.0, min(1.0, combined))


def _to_lab(image: Image) -> Image:
    with alone_at_first("BGR to Lab"):
        return cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2LAB))  # OpenCV's stub names no dtype


def _check_same_size(img1: Image, img2: Image) -> None:
    if img1.shape != img2.shape:
        raise ImageSizeMismatchError("img1", img1.shape[:2], "img2", img2.shape[:2])


# --- the guide's similarity -----------------------------------------------------------------------------------------


def guide_similarity(img1: Image, img2: Image) -> float:
    """Return the guide's similarity of two pictures, in [0, 1]; symmetric, and exactly 1.0 for equal pictures.

    ``0.6 · (1 − mse / 255²) + 0.4 · mean over L, a, b of max(0, correlation of the 256-bin histograms)`` on 8-bit Lab.
    It is a weak judge: a picture turned upside down scores nearly 1, because on real photographs the histogram term
    decides nearly everything.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.

    Raises:
        InvalidArgumentError: an argument is no picture.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    return GuideSimilarity().prepare(check_image(img2, "img2"))(check_image(img1, "img1"))


@attrs.frozen
class GuideSimilarity:
    """The guide's similarity as a metric that converts the ground truth once; see `guide_similarity`."""

    version: str = attrs.field(default="1", init=False)

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of two pictures (uint8, H×W×3, BGR, one size), in [0, 1]."""
        return guide_similarity(output, ground_truth)

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output: the ground truth in Lab, and a band of the output."""
        return 3 * pixels + 3 * _BAND_PIXELS

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function that scores outputs against this ground truth (uint8, H×W×3, BGR).

        It keeps the ground truth in Lab, not the picture itself.
        """
        lab_truth = _to_lab(ground_truth)
        truth_histograms = lab_histograms(lab_truth)

        def score(output: Image) -> float:
            _check_same_size(output, lab_truth)
            squared_error = 0
            histograms = np.zeros_like(truth_histograms)
            for band in _bands(output):
                lab = _to_lab(output[band])
                squared_error += _squared_error(lab, lab_truth[band])
                _count(lab, histograms)
            return _similarity(squared_error / output.size, histograms, truth_histograms)

        return score
