"""The guide's similarity: the mean squared error and the histograms of 8-bit Lab."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs
import numpy as np

from tsm_training.arrays import Image, check_image
from tsm_training.metrics.bands import check_same_size
from tsm_training.metrics.histograms import (
    BAND_PIXELS,
    Histograms,
    bands_to_count,
    count_levels,
    histogram_correlation,
    lab_histograms,
    to_lab_bytes,
)
from tsm_training.metrics.pixels import squared_error

__all__ = ["GuideSimilarity", "guide_similarity"]

_MSE_SHARE: Final = 0.6
_HISTOGRAM_SHARE: Final = 0.4
_MAX_SQUARED_ERROR: Final = 255**2


def _similarity(mse: float, histograms1: Histograms, histograms2: Histograms) -> float:
    closeness = 1.0 - mse / _MAX_SQUARED_ERROR
    correlations = [max(0.0, histogram_correlation(a, b)) for a, b in zip(histograms1, histograms2, strict=True)]
    combined = _MSE_SHARE * closeness + _HISTOGRAM_SHARE * (math.fsum(correlations) / len(correlations))
    return max(0.0, min(1.0, combined))


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
        return 3 * pixels + 3 * BAND_PIXELS

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function that scores outputs against this ground truth (uint8, H×W×3, BGR).

        It keeps the ground truth in Lab, not the picture itself.
        """
        lab_truth = to_lab_bytes(ground_truth)
        truth_histograms = lab_histograms(lab_truth)

        def score(output: Image) -> float:
            check_same_size(output.shape, lab_truth.shape)
            error = 0
            histograms = np.zeros_like(truth_histograms)
            for band in bands_to_count(output):
                lab = to_lab_bytes(output[band])
                error += squared_error(lab, lab_truth[band])
                count_levels(lab, histograms)
            return _similarity(error / output.size, histograms, truth_histograms)

        return score
