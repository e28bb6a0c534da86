"""What a metric must look like, the guide's similarity, and several metrics as one; the others are in `measures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np

from tsm_training.arguments import check_callable, is_number
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError, MetricRangeError
from tsm_training.measures import (
    ColorDifference,
    HistogramDistance,
    PeakSignalToNoise,
    SsimChannels,
    StructuralSimilarity,
    bgr_to_lab,
    ciede2000,
    color_difference,
    color_difference_map,
    histogram_correlation,
    histogram_distance,
    lab_histograms,
    mean_squared_error,
    padding,
    psnr,
    structural_similarity,
)
from tsm_training.measures.histograms import BAND_PIXELS, count_levels, to_lab_bytes
from tsm_training.measures.prepared import PreparedMetric, bands, squared_error

__all__ = [
    "ALLOWANCE",
    "ColorDifference",
    "CombinedMetric",
    "GuideSimilarity",
    "HistogramDistance",
    "Metric",
    "MetricThatStatesMemory",
    "PeakSignalToNoise",
    "PreparableMetric",
    "SsimChannels",
    "StructuralSimilarity",
    "bgr_to_lab",
    "ciede2000",
    "color_difference",
    "color_difference_map",
    "guide_similarity",
    "histogram_correlation",
    "histogram_distance",
    "lab_histograms",
    "mean_squared_error",
    "padding",
    "prepare_metric",
    "psnr",
    "similarity_or_none",
    "stated_memory",
    "structural_similarity",
]

ALLOWANCE: Final = 3 + 2 * 8 * 3
"""Bytes per pixel for a metric that states nothing: the ground truth, and two pictures in float64."""

_ROUNDING: Final = 1e-9
"""A metric's own rounding may carry it past the ends by a few units in the last place."""


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


@runtime_checkable
class MetricThatStatesMemory(Protocol):
    """A metric that knows how much memory it takes, so that more examples may be in flight than on suspicion."""

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes at most besides an output: what it prepares and keeps, the truth included."""
        ...


def prepare_metric(metric: Metric, ground_truth: Image) -> Callable[[Image], float]:
    """Return a function that scores outputs (uint8, H×W×3, BGR) against one ground truth of the same size."""
    if isinstance(metric, PreparableMetric):
        return metric.prepare(ground_truth)
    return lambda output: metric(output, ground_truth)


def stated_memory(metric: object, pixels: int) -> int | None:
    """Return how many bytes a metric says that it takes for pictures of so many pixels; None where it says nothing.

    A statement that raises, or is no whole number of at least 0, is none.
    """
    if not isinstance(metric, MetricThatStatesMemory):
        return None
    try:
        stated: object = metric.working_memory(pixels)
    except Exception:
        return None
    return stated if isinstance(stated, int) and stated >= 0 else None


def similarity_or_none(value: object) -> float | None:
    """Return what a metric gave as a float in [0, 1], or None if it is no finite number there."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return None
    if not -_ROUNDING <= value <= 1.0 + _ROUNDING:  # before it becomes a float: a whole number may be too large
        return None
    return min(1.0, max(0.0, float(value)))


_MSE_SHARE: Final = 0.6
_HISTOGRAM_SHARE: Final = 0.4
_MAX_SQUARED_ERROR: Final = 255**2


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
    return GuideSimilarity()(img1, img2)


class GuideSimilarity(PreparedMetric):
    """The guide's similarity as a metric that converts the ground truth once; see `guide_similarity`.

    It keeps the ground truth in Lab, not the picture itself. A border or a background of one colour decides most of
    what it says: ``GuideSimilarity(ignore_border=True)`` judges the rest.
    """

    _more_bytes = 3 * BAND_PIXELS  # a band of the output in Lab

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        lab_truth = to_lab_bytes(ground_truth)
        truth_histograms = lab_histograms(lab_truth)

        def score(output: Image) -> float:
            error = 0
            histograms = np.zeros_like(truth_histograms)
            for band in bands(output.shape, BAND_PIXELS):
                lab = to_lab_bytes(output[band])
                error += squared_error(lab, lab_truth[band])
                count_levels(lab, histograms)
            closeness = 1.0 - error / output.size / _MAX_SQUARED_ERROR
            pairs = zip(histograms, truth_histograms, strict=True)
            correlation = math.fsum(max(0.0, histogram_correlation(ours, theirs)) for ours, theirs in pairs) / 3
            return max(0.0, min(1.0, _MSE_SHARE * closeness + _HISTOGRAM_SHARE * correlation))

        return score


_Parts: TypeAlias = tuple[tuple[float, Metric], ...]


def _parts(parts: Iterable[tuple[float, Metric]]) -> _Parts:
    given: Any = parts  # whatever it really is
    pairs: list[tuple[Any, ...]] = []
    if isinstance(given, Iterable):
        pairs = [tuple(part) if isinstance(part, Iterable) else () for part in given]
    if not pairs or any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004
        raise InvalidArgumentError("parts", given, "pairs of a weight and a metric, at least one")
    for weight, metric in pairs:
        if not is_number(weight) or not 0 < weight < math.inf:
            raise InvalidArgumentError("the weight of a metric", weight, "a finite number above 0")
        check_callable("a part of the metric", metric, "a callable (output, ground_truth) -> similarity in [0, 1]")
        if isinstance(metric, type):
            expected = f"an instance, {metric.__name__}(), not the class"
            raise InvalidArgumentError("a part of the metric", metric, expected)
    return tuple((float(weight), metric) for weight, metric in pairs)


@attrs.frozen
class CombinedMetric(PreparedMetric):
    """The weighted mean of several metrics, each of which prepares the ground truth once.

    >>> from tsm_training.metrics import ColorDifference, StructuralSimilarity
    >>> metric = CombinedMetric([(3, ColorDifference()), (1, StructuralSimilarity())])

    Only the ratios of the weights count. What the metrics tell apart counts too: a metric whose values lie close
    together has little to say beside one whose values are spread.

    Args:
        parts: Pairs of a weight, a finite number above 0, and a metric: one of ours, another combination, or any
            callable ``(output, ground_truth) -> similarity in [0, 1]``.
        ignore_border: Give the parts the smallest rectangle only with all that is no `padding` in the ground truth. A
            part that can leave out padding of any shape does so if it is told itself.

    Raises:
        InvalidArgumentError: `parts` is empty, or holds something else.
        MetricRangeError: when it is called, a part gave something else than a finite number in [0, 1].
    """

    parts: _Parts = attrs.field(converter=_parts)
    _looks_around = True

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        largest = max(weight for weight, _metric in self.parts)
        scorers = [(weight / largest, metric, prepare_metric(metric, ground_truth)) for weight, metric in self.parts]
        total = math.fsum(weight for weight, *_ in scorers)

        def score(output: Image) -> float:
            terms = []
            for weight, metric, part in scorers:
                value = part(output)
                similarity = similarity_or_none(value)
                if similarity is None:
                    raise MetricRangeError(getattr(metric, "__qualname__", None) or type(metric).__qualname__, value)
                terms.append(weight * similarity)
            return min(1.0, math.fsum(terms) / total)

        return score

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output: what its parts state, or an allowance for each."""
        stated = (stated_memory(metric, pixels) for _weight, metric in self.parts)
        parts = sum(ALLOWANCE * pixels if memory is None else memory for memory in stated)
        return parts + self._border_bytes * pixels
