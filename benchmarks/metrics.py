"""What each metric costs beside the guide's similarity, measured side by side; exits with 1 if one is out of bounds.

python benchmarks/metrics.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import cv2
import numpy as np

from tsm_training import (
    ColorDifference,
    CombinedMetric,
    GuideSimilarity,
    HistogramDistance,
    Image,
    PeakSignalToNoise,
    StructuralSimilarity,
)
from tsm_training.metrics import PreparableMetric

ROUNDS = 7

MEGAPIXEL, PREVIEW = (1000, 1000), (96, 128)

BOUNDS: dict[str, tuple[PreparableMetric, float]] = {
    "GuideSimilarity": (GuideSimilarity(), 1.5),
    "PeakSignalToNoise": (PeakSignalToNoise(), 1.0),
    "HistogramDistance": (HistogramDistance(), 3.0),
    "StructuralSimilarity('luma')": (StructuralSimilarity(), 12.0),
    "StructuralSimilarity('bgr')": (StructuralSimilarity("bgr"), 40.0),
    "ColorDifference": (ColorDifference(), 25.0),
    "ColorDifference + luma": (CombinedMetric([(1, ColorDifference()), (1, StructuralSimilarity())]), 35.0),
}
"""How many times as long as the guide's similarity each may take, on either size."""


def photograph(seed: int, size: tuple[int, int]) -> Image:
    """Return smooth colours with grain: as much work for histograms as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int32)
    return np.asarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255), np.uint8)


def timed(action: Callable[[], object], times: int) -> float:
    """Return seconds of this thread's own work, whatever else the machine does meanwhile."""
    started = time.thread_time()
    for _ in range(times):
        action()
    return (time.thread_time() - started) / times


def cost(metric: PreparableMetric, size: tuple[int, int], times: int) -> tuple[float, float]:
    """Return milliseconds per picture that is scored, and how many times the guide's similarity that is.

    Both are medians over rounds in which the two take turns; the ground truth is prepared outside the clock.
    """
    truth, output = photograph(1, size), photograph(2, size)
    score, guide = metric.prepare(truth), GuideSimilarity().prepare(truth)
    score(output), guide(output)
    rounds = [(timed(lambda: score(output), times), timed(lambda: guide(output), times)) for _ in range(ROUNDS)]
    return 1000 * median(ours for ours, _ in rounds), median(ours / theirs for ours, theirs in rounds)


def main() -> int:
    cv2.setNumThreads(1)  # as much as each of several threads gets that evaluate examples
    print(f"{'':30}      1 megapixel           128 × 96")
    worst = 0.0
    for name, (metric, bound) in BOUNDS.items():
        (large, large_ratio), (small, small_ratio) = cost(metric, MEGAPIXEL, 1), cost(metric, PREVIEW, 20)
        print(
            f"{name:30} {large:7.2f} ms, × {large_ratio:5.2f} {small:7.2f} ms, × {small_ratio:5.2f}   (at most {bound})"
        )
        worst = max(worst, large_ratio / bound, small_ratio / bound)
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
