"""Pictures, strategies and settings that the tests of metrics share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsm_training.arrays import Image
from tsm_training.metrics import (
    ColorDifference,
    CombinedMetric,
    GuideSimilarity,
    HistogramDistance,
    PeakSignalToNoise,
    PreparableMetric,
    StructuralSimilarity,
)

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))
PICTURES = hnp.arrays(np.uint8, SIZES)
PAIRS = SIZES.flatmap(lambda size: st.tuples(hnp.arrays(np.uint8, size), hnp.arrays(np.uint8, size)))

METRICS: dict[str, PreparableMetric] = {
    "guide": GuideSimilarity(),
    "color": ColorDifference(),
    "ssim": StructuralSimilarity(),
    "ssim of bgr": StructuralSimilarity("bgr"),
    "psnr": PeakSignalToNoise(),
    "histograms": HistogramDistance(),
    "combined": CombinedMetric([(2, ColorDifference()), (1, StructuralSimilarity())]),
}


def plain(*bgr: int, height: int = 8, width: int = 12) -> Image:
    return np.full((height, width, 3), bgr, np.uint8)


def noise(seed: int, height: int = 40, width: int = 60) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def natural(seed: int, height: int = 90, width: int = 120) -> Image:
    """A picture with smooth areas, edges and a little grain, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    smooth[:, width // 3 :] *= 0.7
    return np.clip(smooth + rng.normal(0.0, 3.0, smooth.shape), 0, 255).astype(np.uint8)


@contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
