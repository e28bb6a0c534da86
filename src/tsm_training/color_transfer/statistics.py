"""Statistics of the two images of a request, computed once for all workers.

Sums are taken in whole numbers, so that nothing depends on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import cv2
import numpy as np

from tsm_training.arrays import Image
from tsm_training.color_transfer.spaces import CHANNELS, LEVELS, MOST_KEPT, Colors, Float64, Space, row_strips
from tsm_training.forking import alone_at_first
from tsm_training.workers import shared

_Which: TypeAlias = Literal["source", "target"]

BOTH: Final[tuple[_Which, _Which]] = ("source", "target")

ROUNDING_VARIANCE: Final = 1 / 12
"""Variance of the error of rounding to whole levels.

Added to both variances of every ratio: a flat image then needs no special case, and noise of less than a level is not
stretched to fill a range."""


class _Moments(NamedTuple):
    mean: Float64
    covariance: Float64

    @property
    def variance(self) -> Float64:
        return np.diagonal(self.covariance)


def _planes(data: Mapping[str, Image], which: _Which, space: Space) -> Iterator[tuple[Image, ...]]:
    """Yield the three 8-bit channels of an image band by band; it is converted once per request.

    Of an image of more than four megapixels every second, third, … row is taken: the others hardly change what is
    found, and would take most of the time.
    """
    image = data[which]
    image = image[:: math.ceil(image.shape[0] * image.shape[1] / MOST_KEPT)]
    if space == "lab":
        image = shared(data, ("color_transfer.lab", which), lambda: _to_lab(image))
    for band, _ in row_strips(image):
        yield tuple(cast("list[Image]", cv2.split(image[band])))


def _to_lab(image: Image) -> Image:
    with alone_at_first("BGR to Lab"):
        return cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2Lab))


def shared_moments(data: Mapping[str, Image], which: _Which, space: Space) -> _Moments:
    """Return mean and covariance of an image's colours, once per request."""
    return shared(data, ("color_transfer.moments", which, space), lambda: _compute_moments(data, which, space))


def _compute_moments(data: Mapping[str, Image], which: _Which, space: Space) -> _Moments:
    """Return mean and covariance from sums of whole numbers, which come out the same in any order of summation."""
    sums = [0] * CHANNELS
    products = [[0] * CHANNELS for _ in range(CHANNELS)]
    count = 0
    for planes in _planes(data, which, space):
        count += planes[0].size
        # rounded, as OpenCV may find a sum of squares by squaring its root
        squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
        for i, plane in enumerate(planes):
            sums[i] += round(cv2.sumElems(plane)[0])
            products[i][i] += squares[i]
            for j in range(i):
                # |p - q|² = |p|² + |q|² - 2pq: a dot product of 8-bit planes without widening them first
                dot = (squares[i] + squares[j] - round(cv2.norm(plane, planes[j], cv2.NORM_L2SQR))) // 2
                products[i][j] += dot
                products[j][i] += dot
    covariance = [[(count * products[i][j] - sums[i] * sums[j]) / count**2 for j in range(3)] for i in range(3)]
    return _Moments(np.array([total / count for total in sums]), np.array(covariance))


def shared_histograms(data: Mapping[str, Image], which: _Which, space: Space) -> Float64:
    """Return how many pixels have each level: float64, 3×256."""
    return shared(data, ("color_transfer.histograms", which, space), lambda: _compute_histograms(data, which, space))


def _compute_histograms(data: Mapping[str, Image], which: _Which, space: Space) -> Float64:
    counts = np.zeros((CHANNELS, LEVELS))
    for planes in _planes(data, which, space):
        for total, plane in zip(counts, planes, strict=True):
            total += cv2.calcHist([plane], [0], None, [LEVELS], [0, LEVELS]).ravel()  # noqa: PLW2901 - in place
    return counts


class _Tones(NamedTuple):
    """Share of the image in each of n zones of lightness (n,), mean and variance of a and b there (n×2)."""

    share: Float64
    mean: Float64
    variance: Float64


def shared_tones(data: Mapping[str, Image], which: _Which, zones: int) -> _Tones:
    """Return chroma statistics per zone of lightness, once per request."""
    return shared(data, ("color_transfer.tones", which, zones), lambda: _compute_tones(data, which, zones))


def _compute_tones(data: Mapping[str, Image], which: _Which, zones: int) -> _Tones:
    levels = np.arange(LEVELS, dtype=np.float64)
    joint = np.zeros((2, LEVELS, LEVELS))  # how many pixels have which lightness and which a or b
    for planes in _planes(data, which, "lab"):
        for total, chroma in zip(joint, planes[1:], strict=True):
            pair = [planes[0], chroma]
            total += cv2.calcHist(pair, [0, 1], None, [LEVELS] * 2, [0, LEVELS] * 2)  # noqa: PLW2901 - in place
    count = joint[0].sum(axis=1)
    centres = np.linspace(0, LEVELS - 1, zones)[:, None]
    weight = np.maximum(0, 1 - np.abs(levels - centres) * (zones - 1) / (LEVELS - 1))
    mass = (weight * count).sum(axis=1)
    divisor = np.where(mass > 0, mass, 1.0)[:, None]
    sums = (((joint * levels**power).sum(axis=2) * weight[:, None]).sum(axis=2) for power in (1, 2))
    mean, mean_square = (part / divisor for part in sums)
    return _Tones(mass / count.sum(), mean, np.maximum(mean_square - mean**2, 0))  # rounding may make it negative


def sample_pixels(image: Image, count: int) -> Colors:
    """Return `count` pixels (float32, count×3, BGR) spread evenly over the image by the golden ratio."""
    pixels = image.reshape(-1, CHANNELS)
    places = np.modf((np.arange(count) + 0.5) * ((math.sqrt(5) - 1) / 2))[0]
    colors: Colors = pixels[(places * len(pixels)).astype(np.intp)].astype(np.float32)
    return colors
