"""SSIM: whether two pictures have the same structure around each pixel."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError
from tsm_training.measures.prepared import Band, PreparedMetric, compared, tiles

SsimChannels: TypeAlias = Literal["luma", "bgr"]
"""What SSIM looks at: OpenCV's 8-bit grey alone, or B, G and R, each by itself, and then their mean."""

_Plane: TypeAlias = npt.NDArray[np.uint8]
_Floats: TypeAlias = npt.NDArray[np.float64]

_SIGMA: Final = 1.5
_WINDOW: Final = 11
_STABLE_MEAN: Final = (0.01 * 255) ** 2
_STABLE_SPREAD: Final = (0.03 * 255) ** 2

_TILE: Final = 256
"""How many places of the window are computed at once, in rows and in columns."""

_TILE_BYTES: Final = (_TILE + _WINDOW) ** 2 * 8 * 16
"""Room for about so many intermediate results."""

_STEPS: Final = 2**32
"""A pixel's value is counted in steps of 1/_STEPS, so that sums are whole numbers: in any order the same."""


# --- windows --------------------------------------------------------------------------------------------------------


def _weights(side: int) -> _Floats:
    """Return the window along a side of a picture: a Gaussian over at most 11 pixels, and no more than there are."""
    reach = (min(_WINDOW, side) - 1) // 2
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * _SIGMA**2))
    return cast("_Floats", weights / weights.sum())


class _Windows(NamedTuple):
    """All places of the window that lie inside pictures of one size."""

    rows: _Floats
    columns: _Floats
    places: tuple[int, int]
    """In how many rows and columns of places it lies."""

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Windows:
        rows, columns = _weights(shape[0]), _weights(shape[1])
        return cls(rows, columns, (shape[0] - len(rows) + 1, shape[1] - len(columns) + 1))

    def covered(self, places: Band) -> Band:
        """Return the pixels that windows at these places cover."""
        rows, columns = places
        return (
            slice(rows.start, rows.stop + len(self.rows) - 1),
            slice(columns.start, columns.stop + len(self.columns) - 1),
        )

    def means(self, values: _Floats) -> _Floats:
        """Return the weighted mean in each window inside `values`."""
        down, right = len(self.rows) // 2, len(self.columns) // 2
        filtered = cast("_Floats", cv2.sepFilter2D(values, cv2.CV_64F, self.columns, self.rows))
        return filtered[down : values.shape[0] - down, right : values.shape[1] - right]


class _Truth(NamedTuple):
    """One plane of the ground truth, with its weighted mean and variance in each window."""

    plane: _Plane
    mean: _Floats
    variance: _Floats

    @classmethod
    def of(cls, plane: _Plane, windows: _Windows) -> _Truth:
        mean, variance = (np.empty(windows.places) for _ in range(2))
        for places in tiles(windows.places, _TILE, _TILE):
            values = plane[windows.covered(places)].astype(np.float64)
            mean[places] = windows.means(values)
            variance[places] = windows.means(values * values) - mean[places] ** 2
        return cls(plane, mean, variance)

    def total(self, plane: _Plane, windows: _Windows) -> int:
        """Return the sum of SSIM over all windows, in steps."""
        total = 0
        for places in tiles(windows.places, _TILE, _TILE):
            covered = windows.covered(places)
            values = plane[covered].astype(np.float64)
            mean1, mean2 = windows.means(values), self.mean[places]
            product = mean1 * mean2
            covariance = windows.means(values * self.plane[covered]) - product
            variances = windows.means(values * values) - mean1 * mean1 + self.variance[places]
            agreement = (2 * product + _STABLE_MEAN) * (2 * covariance + _STABLE_SPREAD)
            extent = (mean1 * mean1 + mean2 * mean2 + _STABLE_MEAN) * (variances + _STABLE_SPREAD)
            total += int(np.rint(agreement / extent * _STEPS).sum())
        return total


# --- pictures -------------------------------------------------------------------------------------------------------


def _check_channels(_metric: object, _attribute: object, value: object) -> None:
    if value not in ("luma", "bgr"):
        raise InvalidArgumentError("channels", value, "'luma' or 'bgr'")


def _planes(image: Image, channels: SsimChannels) -> Sequence[_Plane]:
    if channels == "luma":
        return [cast("_Plane", cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))]
    return cast("Sequence[_Plane]", cv2.split(image))


def structural_similarity(img1: Image, img2: Image, *, channels: SsimChannels = "luma") -> float:
    """Return the mean structural similarity (SSIM) of two pictures, in [−1, 1]: 1 for equal pictures; symmetric.

    Wang, Bovik, Sheikh, Simoncelli: "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, with the settings of that paper: K1 = 0.01, K2 = 0.03, L = 255, and a
    window of 11×11 pixels weighted by a Gaussian of σ = 1.5, at all places where it lies inside the picture. That is
    scikit-image's ``structural_similarity`` with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255``.

    A picture with less than 11 rows or columns is seen through a window of as many as there are, one less if that is an
    even number, with the weights of those cut out of the Gaussian.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.
        channels: ``"luma"`` compares the pictures in grey, as the paper does (OpenCV's 8-bit grey: 0.299 R + 0.587 G +
            0.114 B, rounded); ``"bgr"`` compares each channel by itself and returns the mean.

    Raises:
        InvalidArgumentError: an argument is no picture, or `channels` is something else.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    _check_channels(None, None, channels)
    return compared(functools.partial(_similarity_to, channels=channels), img1, img2)


def _similarity_to(ground_truth: Image, channels: SsimChannels) -> Callable[[Image], float]:
    windows = _Windows.of(ground_truth.shape)
    truths = [_Truth.of(plane, windows) for plane in _planes(ground_truth, channels)]

    def similarity(output: Image) -> float:
        planes = _planes(output, channels)
        total = sum(truth.total(plane, windows) for plane, truth in zip(planes, truths, strict=True))
        return total / _STEPS / (len(truths) * math.prod(windows.places))

    return similarity


@attrs.frozen
class StructuralSimilarity(PreparedMetric):
    """The mean SSIM as a metric: 0.0 where it is negative, which takes a picture like a negative; see the function.

    Args:
        channels: ``"luma"`` compares the pictures in grey, ``"bgr"`` each channel by itself; see
            `structural_similarity`.
        ignore_border: Judge the smallest rectangle with all that is no `padding` in the ground truth.

    Raises:
        InvalidArgumentError: `channels` is something else.
    """

    channels: SsimChannels = attrs.field(default="luma", validator=_check_channels)
    _looks_around = True

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        similarity = _similarity_to(ground_truth, self.channels)
        return lambda output: max(0.0, similarity(output))

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output.

        For each plane of the ground truth the plane itself and two of float64; the planes of the output, and tiles.
        """
        planes = 1 if self.channels == "luma" else 3
        return (planes * (1 + 2 * 8 + 1) + self._border_bytes) * pixels + _TILE_BYTES
