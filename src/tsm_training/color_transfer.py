"""Colour-transfer workers: the target keeps its content and takes on colours of the source.

Every worker is one colour map and a strength. A map says where each colour goes; it is fitted to the statistics of the
two pictures and evaluated on a lattice of colours only. The resulting 3-D table is then looked up for every pixel, so
that a costly map is no dearer on a large picture than a cheap one, and none of them rounds to 8-bit Lab on the way.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, cast

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError
from tsm_training.workers import Worker, shared

__all__ = [
    "Channels",
    "ColorFunction",
    "ColorMap",
    "ColorTransferWorker",
    "Colors",
    "HistogramMap",
    "LinearMap",
    "ReinhardMap",
    "SlicedTransportMap",
    "Space",
    "ToneAdaptiveMap",
    "WhiteBalanceMap",
    "create_color_transfer_workers",
]

Colors: TypeAlias = npt.NDArray[np.float32]
"""Colours in a row: ``float32``, N×3, in the units of a `Space`."""

ColorFunction: TypeAlias = Callable[[Colors], Colors]
"""Says where colours go; gets and returns `Colors`, and must not change what it gets."""

Space: TypeAlias = Literal["lab", "bgr"]
"""``"bgr"`` is sRGB, 0–255; ``"lab"`` is CIELAB in the units of OpenCV's 8-bit Lab: L·2.55, a + 128, b + 128."""

Channels: TypeAlias = Literal["lab", "l", "ab"]
"""Channels of Lab to change: all, lightness only, or chroma only."""

_Float64: TypeAlias = npt.NDArray[np.float64]
_Curve: TypeAlias = tuple[_Float64, _Float64]
"""Rising knots on one channel, and how far a colour moves at each of them."""
_Which: TypeAlias = Literal["source", "target"]

_BOTH: Final[tuple[_Which, _Which]] = ("source", "target")
_CHANNELS: Final = 3
_LEVELS: Final = 256
_STEP: Final = 8
_NODES: Final = _LEVELS // _STEP + 1
_STRIP_PIXELS: Final = 1 << 16
_LONGEST: Final = 1 << 14
"""OpenCV's remap refuses sides of 32767 pixels and more."""
_ROUNDING_VARIANCE: Final = 1 / 12
"""Variance of the error of rounding to whole levels.

Added to both variances of every ratio: a flat picture then needs no special case, and noise of less than a level is not
stretched to fill a range."""


# --- statistics, shared by the workers of one request ---------------------------------------------------------------


@attrs.frozen(eq=False)
class _Moments:
    mean: _Float64
    covariance: _Float64

    @property
    def variance(self) -> _Float64:
        return np.diagonal(self.covariance)


def _strips(image: Image, overlap: int = 0) -> Iterator[tuple[slice, slice]]:
    """Yield bands of rows that bound the memory for floats: the band itself, and it with `overlap` rows around."""
    rows = min(max(1, _STRIP_PIXELS // image.shape[1]), _LONGEST)
    for top in range(0, image.shape[0], rows):
        bottom = min(top + rows, image.shape[0])
        yield slice(top, bottom), slice(max(0, top - overlap), bottom + overlap)


def _planes(image: Image, space: Space) -> Iterator[tuple[Image, ...]]:
    """Yield the three 8-bit channels of each band; a whole converted picture would only take up memory."""
    for band, _ in _strips(image):
        strip = image[band]
        yield tuple(_u8(cv2.split(cv2.cvtColor(strip, cv2.COLOR_BGR2Lab) if space == "lab" else strip)))


def _u8(planes: object) -> list[Image]:
    return cast("list[Image]", planes)


def _moments(data: Mapping[str, Image], which: _Which, space: Space) -> _Moments:
    return shared(data, ("color_transfer.moments", which, space), lambda: _compute_moments(data[which], space))


def _compute_moments(image: Image, space: Space) -> _Moments:
    """Return mean and covariance from sums of whole numbers, which come out the same in any order of summation."""
    sums = [0] * _CHANNELS
    products = [[0] * _CHANNELS for _ in range(_CHANNELS)]
    for planes in _planes(image, space):
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
    count = image.shape[0] * image.shape[1]
    covariance = [[(count * products[i][j] - sums[i] * sums[j]) / count**2 for j in range(3)] for i in range(3)]
    return _Moments(np.array([total / count for total in sums]), np.array(covariance))


def _histograms(data: Mapping[str, Image], which: _Which, space: Space) -> _Float64:
    """Return how many pixels have each level: float64, 3×256."""
    return shared(data, ("color_transfer.histograms", which, space), lambda: _compute_histograms(data[which], space))


def _compute_histograms(image: Image, space: Space) -> _Float64:
    counts = np.zeros((_CHANNELS, _LEVELS))
    for planes in _planes(image, space):
        for total, plane in zip(counts, planes, strict=True):
            total += cv2.calcHist([plane], [0], None, [_LEVELS], [0, _LEVELS]).ravel()  # noqa: PLW2901 - in place
    return counts


# --- colour maps ----------------------------------------------------------------------------------------------------


@attrs.frozen
class ColorMap(ABC):
    """Where each colour of a picture goes, fitted to the statistics of two pictures. Subclass it to add a method.

    A map is used through `ColorTransferWorker`. Settings belong in attrs fields, so that they count in the worker's
    fingerprint. `fit` may run in several threads at once.
    """

    @property
    def space(self) -> Space:
        """The colour space in which the fitted function works and in which strengths blend."""
        return "lab"

    @abstractmethod
    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the function that takes the target's colours to the source's.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each ``uint8``, H×W×3, BGR.

        Returns:
            A function from `Colors` to `Colors`, both in `space`. It is called with a lattice that covers all of sRGB;
            its values may lie outside the gamut.
        """


def _affine(gain: _Float64, target_mean: _Float64, source_mean: _Float64) -> ColorFunction:
    matrix = np.column_stack([gain, source_mean - gain @ target_mean]).astype(np.float32)
    return lambda colors: _transformed(colors, matrix)


def _transformed(colors: Colors, matrix: Colors) -> Colors:
    # not numpy's matmul: BLAS may sum in another order when it has another number of threads
    return cast("Colors", cv2.transform(colors[None], matrix)[0])


def _check_channels(_map: object, _attribute: object, value: object) -> None:
    if value not in ("lab", "l", "ab"):
        raise InvalidArgumentError("channels", value, "'lab', 'l' or 'ab'")


def _at_least(minimum: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    def check(_map: object, attribute: attrs.Attribute[int], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InvalidArgumentError(attribute.name, value, f"a whole number of at least {minimum}")

    return check


@attrs.frozen
class ReinhardMap(ColorMap):
    """Match mean and standard deviation of the chosen Lab channels, each by itself.

    Reinhard, Ashikhmin, Gooch, Shirley: "Color Transfer between Images", IEEE CG&A 21(5), 2001; here in CIELAB.

    Args:
        channels: Which channels change: ``"lab"`` all, ``"l"`` lightness, ``"ab"`` chroma.
        match_spread: False matches the means only.

    Raises:
        InvalidArgumentError: `channels` is something else.
    """

    channels: Channels = attrs.field(default="lab", validator=_check_channels)
    match_spread: bool = True

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the affine function; see `ColorMap.fit`."""
        source, target = (_moments(data, which, "lab") for which in _BOTH)
        chosen = np.array([name in self.channels for name in "lab"])
        gain = np.sqrt((source.variance + _ROUNDING_VARIANCE) / (target.variance + _ROUNDING_VARIANCE))
        gain = np.where(chosen & self.match_spread, gain, 1.0)
        return _affine(np.diag(gain), target.mean, np.where(chosen, source.mean, target.mean))


@attrs.frozen
class LinearMap(ColorMap):
    """Match mean and full covariance by the linear map that moves colours least (linear Monge-Kantorovich).

    Pitié, Kokaram: "The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer", CVMP 2007.
    The linear part is symmetric and positive definite.

    Args:
        space: ``"lab"`` or ``"bgr"``.

    Raises:
        InvalidArgumentError: `space` is something else.
    """

    space: Space = attrs.field(default="lab")

    @space.validator
    def _check_space(self, _attribute: object, value: object) -> None:
        if value not in ("lab", "bgr"):
            raise InvalidArgumentError("space", value, "'lab' or 'bgr'")

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the affine function; see `ColorMap.fit`."""
        source, target = (_moments(data, which, self.space) for which in _BOTH)
        slack = _ROUNDING_VARIANCE * np.eye(_CHANNELS)
        return _affine(
            _monge_kantorovich(source.covariance + slack, target.covariance + slack), target.mean, source.mean
        )


def _monge_kantorovich(source: _Float64, target: _Float64) -> _Float64:
    root = _symmetric_power(target, 0.5)
    inverse_root = _symmetric_power(target, -0.5)
    return inverse_root @ _symmetric_power(root @ source @ root, 0.5) @ inverse_root


def _symmetric_power(matrix: _Float64, exponent: float) -> _Float64:
    values, vectors = np.linalg.eigh(matrix)
    # No exact eigenvalue is below this, neither of a covariance nor of a product of two, but floats may stray to 0.
    values = np.maximum(values, _ROUNDING_VARIANCE**2)
    return cast("_Float64", (vectors * values**exponent) @ vectors.T)


@attrs.frozen
class HistogramMap(ColorMap):
    """Give the chosen Lab channels the source's distribution, each by itself (histogram specification).

    Gonzalez, Woods: "Digital Image Processing", section 3.3; per decorrelated channel as in Neumann, Neumann: "Color
    Style Transfer Techniques using Hue, Lightness and Saturation Histogram Matching", CAe 2005.

    Args:
        channels: Which channels change: ``"lab"`` all, ``"l"`` lightness, ``"ab"`` chroma.

    Raises:
        InvalidArgumentError: `channels` is something else.
    """

    channels: Channels = attrs.field(default="lab", validator=_check_channels)

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the monotone curves as one function; see `ColorMap.fit`."""
        source, target = (_histograms(data, which, "lab") for which in _BOTH)
        curves = {i: _matching_curve(source[i], target[i]) for i in range(_CHANNELS) if "lab"[i] in self.channels}
        return lambda colors: _shifted(colors, curves)


def _matching_curve(source: _Float64, target: _Float64) -> _Curve:
    """Return the levels that the target has, and how far each must move."""
    (source_levels, source_rank), (levels, rank) = (_ranks(counts) for counts in (source, target))
    return levels, np.interp(rank, source_rank, source_levels) - levels


def _ranks(counts: _Float64) -> tuple[_Float64, _Float64]:
    """Return the levels that occur and the middle of the ranks, in (0, 1), that each of them takes up."""
    levels = np.flatnonzero(counts)
    present = counts[levels]
    return levels.astype(np.float64), (np.cumsum(present) - present / 2) / present.sum()


def _shifted(colors: Colors, curves: Mapping[int, _Curve]) -> Colors:
    """Move channels by the shifts interpolated between knots; beyond them, colours move as at the outermost knot."""
    moved = colors.copy()
    for channel, (knots, shifts) in curves.items():
        moved[:, channel] += np.interp(colors[:, channel], knots, shifts)
    return moved


@attrs.frozen
class SlicedTransportMap(ColorMap):
    """Match the whole three-dimensional distribution, one direction after the other (sliced optimal transport).

    Pitié, Kokaram, Dahyot: "N-Dimensional Probability Density Function Transfer and its Application to Colour
    Transfer", ICCV 2005; Rabin, Peyré, Delon, Bernot: "Wasserstein Barycenter and its Application to Texture Mixing",
    SSVM 2011. Fitted on a fixed sample of both pictures along a fixed sequence of directions; averaging the shifts over
    bins of at least one level keeps the map smooth enough to apply to colours that are not in the sample.

    Args:
        iterations: How often three perpendicular directions are matched, at least 1.
        bins: Into how many bins a direction is divided, at least 1.
        sample: How many pixels of each picture are used, at least 1.

    Raises:
        InvalidArgumentError: one of them is no whole number of at least 1.
    """

    iterations: int = attrs.field(default=10, validator=_at_least(1))
    bins: int = attrs.field(default=16, validator=_at_least(1))
    sample: int = attrs.field(default=4096, validator=_at_least(1))

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the composed function; see `ColorMap.fit`."""
        source, moving = (_to_space(_sample(data[which], self.sample), self.space) for which in _BOTH)
        steps = []
        for rotation in _rotations(self.iterations):
            wanted, current = (_transformed(points, rotation) for points in (source, moving))
            curves = {i: self._curve(wanted[:, i], current[:, i]) for i in range(_CHANNELS)}
            steps.append((rotation, curves))
            moving = _along(moving, rotation, curves)
        return lambda colors: functools.reduce(lambda moved, step: _along(moved, *step), steps, colors)

    def _curve(self, source: Colors, target: Colors) -> _Curve:
        wanted, current = (np.sort(values).astype(np.float64) for values in (source, target))
        width = max(1.0, (current[-1] - current[0]) / self.bins)
        which = ((current - current[0]) / width).astype(np.intp)
        counts = np.bincount(which)
        used = np.flatnonzero(counts)
        means = (np.bincount(which, weights)[used] / counts[used] for weights in (current, wanted - current))
        return next(means), next(means)


def _sample(image: Image, count: int) -> Colors:
    """Return `count` pixels (float32, count×3, BGR) spread evenly over the picture by the golden ratio."""
    pixels = image.reshape(-1, _CHANNELS)
    places = np.modf((np.arange(count) + 0.5) * ((math.sqrt(5) - 1) / 2))[0]
    return cast("Colors", pixels[(places * len(pixels)).astype(np.intp)].astype(np.float32))


@functools.cache
def _rotations(count: int) -> tuple[Colors, ...]:
    """Return rotations (3×3) spread evenly over all there are, without random numbers; the first is the identity.

    Uniform quaternions (Shoemake, Graphics Gems III, 1992) along the additive sequence of the plastic-number family.
    """
    base = 1.2207440846057596  # solves x⁴ = x + 1, the golden ratio's relative in three dimensions
    rotations = [np.eye(3, dtype=np.float32)]
    for k in range(1, count):
        share, first, second = (k * base**-power % 1.0 for power in (1, 2, 3))
        x, y = (math.sqrt(1 - share) * f(2 * math.pi * first) for f in (math.sin, math.cos))
        z, w = (math.sqrt(share) * f(2 * math.pi * second) for f in (math.sin, math.cos))
        rotations.append(
            np.array(
                [
                    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
                ],
                np.float32,
            )
        )
    return tuple(rotations)


def _along(colors: Colors, rotation: Colors, curves: Mapping[int, _Curve]) -> Colors:
    """Move colours along the three axes of `rotation`, each by its own curve."""
    # a rotation's transpose is its inverse
    return _transformed(_shifted(_transformed(colors, rotation), curves), np.ascontiguousarray(rotation.T))


@attrs.frozen
class WhiteBalanceMap(ColorMap):
    """Scale linear B, G and R so that the light seems to have the source's colour (von Kries), brightness kept.

    The light's colour is a Minkowski mean of the picture. Finlayson, Trezzi: "Shades of Gray and Colour Constancy", CIC
    2004; a norm of 1 is the grey-world assumption, larger norms look more at the bright parts of a picture.

    Args:
        norm: The exponent of the mean, at least 1.

    Raises:
        InvalidArgumentError: `norm` is less than 1 or not finite.
    """

    norm: float = attrs.field(default=6.0, converter=float)

    @norm.validator
    def _check_norm(self, _attribute: object, value: float) -> None:
        if not 1 <= value < math.inf:
            raise InvalidArgumentError("norm", value, "a finite number of at least 1")

    @property
    def space(self) -> Space:
        """Gains act on B, G and R."""
        return "bgr"

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the three curves as one function; see `ColorMap.fit`."""
        counts = _histograms(data, "target", "bgr")
        source = _light(_histograms(data, "source", "bgr"), self.norm) + _DARK
        target = _light(counts, self.norm) + _DARK
        mean = _LUMINANCE * (_light(counts, 1.0) + _DARK)
        gain = source / target
        gain *= mean.sum() / (mean * gain).sum()
        return lambda colors: (255 * _encode(_decode(colors / 255.0) * gain)).astype(np.float32)


def _light(counts: _Float64, norm: float) -> _Float64:
    """Return the Minkowski mean of linear B, G and R, 0–1, from their histograms."""
    values = _decode(np.arange(_LEVELS) / (_LEVELS - 1))
    return cast("_Float64", ((counts * values**norm).sum(axis=1) / counts.sum(axis=1)) ** (1 / norm))


_LUMINANCE: Final = np.array([0.0722, 0.7152, 0.2126])
"""What B, G and R of sRGB contribute to luminance."""
_DARK: Final = 1e-4
"""Added to linear means: about a third of a level next to black, so that black pictures get no gains."""
_SCARCE: Final = 1e-4
"""Share of a picture that is too little to take colours from."""


def _decode(values: npt.ArrayLike) -> _Float64:
    """Undo the sRGB transfer curve, 0–1 to 0–1."""
    v = np.asarray(values, np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC 61966-2-1


def _encode(light: _Float64) -> _Float64:
    """Apply the sRGB transfer curve to linear light; values beyond 1 follow the same curve."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)  # noqa: PLR2004 - as above


@attrs.frozen
class ToneAdaptiveMap(ColorMap):
    """Match chroma zone by zone of lightness, each zone as strongly as both pictures have pixels in it.

    Mean and standard deviation of a and b are matched as Reinhard does it, but shadows with shadows and lights with
    lights, in overlapping zones. A zone that one of the two pictures hardly has gives no evidence, and its colours stay
    nearly as they are. Lightness is kept: matched zone by zone, it could turn light into dark.

    Soft regions with statistics of their own are the idea of Tai, Jia, Tang: "Local Color Transfer via Probabilistic
    Segmentation by Expectation-Maximization", CVPR 2005; here they are fixed zones, not fitted ones.

    Args:
        zones: Into how many overlapping zones lightness is divided, at least 2.

    Raises:
        InvalidArgumentError: `zones` is no whole number of at least 2.
    """

    zones: int = attrs.field(default=6, validator=_at_least(2))

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the function; see `ColorMap.fit`."""
        source, target = (_tones(data, which, self.zones) for which in _BOTH)
        strength = 2 * np.minimum(source.share, target.share) / (source.share + target.share + _SCARCE)
        part = strength[:, None]
        gain = 1 + part * (np.sqrt((source.variance + _ROUNDING_VARIANCE) / (target.variance + _ROUNDING_VARIANCE)) - 1)
        shift = target.mean + part * (source.mean - target.mean) - gain * target.mean
        centres = np.linspace(0, _LEVELS - 1, self.zones)

        def function(colors: Colors) -> Colors:
            tone = colors[:, 0]
            moved = colors.copy()
            for i in (1, 2):
                moved[:, i] *= np.interp(tone, centres, gain[:, i - 1])
                moved[:, i] += np.interp(tone, centres, shift[:, i - 1])
            return moved

        return function


@attrs.frozen(eq=False)
class _Tones:
    """Share of the picture in each of n zones of lightness (n,), mean and variance of a and b there (n×2)."""

    share: _Float64
    mean: _Float64
    variance: _Float64


def _tones(data: Mapping[str, Image], which: _Which, zones: int) -> _Tones:
    return shared(data, ("color_transfer.tones", which, zones), lambda: _compute_tones(data[which], zones))


def _compute_tones(image: Image, zones: int) -> _Tones:
    levels = np.arange(_LEVELS, dtype=np.float64)
    joint = np.zeros((2, _LEVELS, _LEVELS))  # how many pixels have which lightness and which a or b
    for planes in _planes(image, "lab"):
        for total, chroma in zip(joint, planes[1:], strict=True):
            pair = [planes[0], chroma]
            total += cv2.calcHist(pair, [0, 1], None, [_LEVELS] * 2, [0, _LEVELS] * 2)  # noqa: PLW2901 - in place
    count = joint[0].sum(axis=1)
    centres = np.linspace(0, _LEVELS - 1, zones)[:, None]
    weight = np.maximum(0, 1 - np.abs(levels - centres) * (zones - 1) / (_LEVELS - 1))
    mass = (weight * count).sum(axis=1)
    divisor = np.where(mass > 0, mass, 1.0)[:, None]
    sums = (((joint * levels**power).sum(axis=2) * weight[:, None]).sum(axis=2) for power in (1, 2))
    mean, mean_square = (part / divisor for part in sums)
    return _Tones(mass / count.sum(), mean, np.maximum(mean_square - mean**2, 0))  # rounding may make it negative


# --- tables of colours ----------------------------------------------------------------------------------------------


@functools.cache
def _lattice(space: Space) -> Colors:
    """Return the colours in which maps are evaluated (float32, 33³×3): B slowest, R fastest, 0, 8, …, 248 and 255."""
    axis = np.minimum(np.arange(_NODES) * _STEP, _LEVELS - 1).astype(np.float32)
    colors = _to_space(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, _CHANNELS), space)
    colors.flags.writeable = False
    return colors


_LAB_SCALE: Final = np.array([2.55, 1, 1], np.float32)
_LAB_OFFSET: Final = np.array([0, 128, 128], np.float32)


def _to_space(bgr: Colors, space: Space) -> Colors:
    if space == "bgr":
        return bgr
    # From linear light, because OpenCV looks sRGB up in a coarse table that is wrong by up to half a unit.
    light = _decode(bgr / (_LEVELS - 1)).astype(np.float32)
    return cast("Colors", cv2.cvtColor(light[None], cv2.COLOR_LBGR2Lab)[0]) * _LAB_SCALE + _LAB_OFFSET


def _to_bgr(colors: Colors, space: Space) -> Colors:
    if space == "bgr":
        return colors
    lab = (colors - _LAB_OFFSET) / _LAB_SCALE
    return cast("Colors", cv2.cvtColor(lab[None], cv2.COLOR_Lab2BGR)[0]) * np.float32(_LEVELS - 1)


def _table(colors: Colors) -> Colors:
    """Turn the colours into which the lattice goes (N×3, BGR) into a table to look up (float32, 256·33×33×3).

    OpenCV interpolates between two axes at once. The third, B, is interpolated here for all its 256 levels, each with a
    33×33 tile of its own; with nodes 8 levels apart the positions on the other two are exact eighths.
    """
    nodes = colors.reshape(_NODES, _NODES, _NODES, _CHANNELS).copy()
    for axis in (nodes, nodes.swapaxes(0, 1), nodes.swapaxes(0, 2)):
        # the last node was evaluated at 255, the end of the range, and stands at 256
        axis[-1] += (axis[-1] - axis[-2]) / np.float32(_STEP - 1)
    tiles = nodes.reshape(_NODES, 1, -1)
    part = (np.arange(_STEP, dtype=np.float32) / _STEP)[None, :, None]
    table = (tiles[1:] - tiles[:-1]) * part
    table += tiles[:-1]
    return cast("Colors", table.reshape(-1, _NODES, _CHANNELS))


_POSITION: Final = np.array([[0, 0, 1 / _STEP], [_NODES, 1 / _STEP, 0], [0, 0, 0]], np.float32)
"""Takes (B, G, R) to column and row of a table; the third row is there because OpenCV is slow with two."""


_NOTHING: Final = np.zeros(4)
"""OpenCV's scalar 0, in the type that its stubs know."""


def _looked_up(image: Image, table: Colors) -> Image:
    result = np.empty_like(image)
    for band, _ in _strips(image):
        for left in range(0, image.shape[1], _LONGEST):
            part = band, slice(left, left + _LONGEST)
            columns, rows, _ = cv2.split(cv2.transform(image[part].astype(np.float32), _POSITION))
            colors = cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            cv2.add(colors, _NOTHING, dst=result[part], dtype=cv2.CV_8U)  # rounds and clips, which astype would not
    return result


def _median_of_change(target: Image, changed: Image, size: int) -> Image:
    """Return the target plus the median of the change over size×size pixels: smooth in colour, as sharp as before."""
    result = np.empty_like(target)
    for band, wide in _strips(target, overlap=size // 2):
        change = cv2.medianBlur(cv2.subtract(changed[wide], target[wide], dtype=cv2.CV_16S), size)
        inner = change[band.start - wide.start :][: band.stop - band.start]
        cv2.add(target[band], inner, dst=result[band], dtype=cv2.CV_8U)
    return result


# --- workers --------------------------------------------------------------------------------------------------------

_MEDIAN_SIZES: Final = (1, 3, 5)


@attrs.frozen
class ColorTransferWorker(Worker):
    """Applies a colour map, fully or in part.

    >>> gentle = ColorTransferWorker("gentle", LinearMap("lab"), strength=0.4)

    Args:
        worker_id: The worker's name.
        color_map: Where colours go at full strength.
        strength: How far they go: 0 leaves the target as it is, 1 applies the map, more exaggerates it. The blend is
            made in the map's colour space and clipped to the gamut.
        median_size: Side in pixels of the median filter over the colour change: 1 (none), 3 or 5.

    Raises:
        InvalidArgumentError: `strength` is negative or not finite, or `median_size` is another number.
    """

    worker_id: str
    color_map: ColorMap
    strength: float = attrs.field(default=1.0, converter=float)
    median_size: int = attrs.field(default=1)

    @strength.validator
    def _check_strength(self, _attribute: object, value: float) -> None:
        if not 0 <= value < math.inf:
            raise InvalidArgumentError("strength", value, "a finite number of at least 0")

    @median_size.validator
    def _check_median_size(self, _attribute: object, value: object) -> None:
        if value not in _MEDIAN_SIZES:
            raise InvalidArgumentError("median_size", value, "1, 3 or 5")

    @property
    def version(self) -> str:
        """Counts the changes of results that the classes' own source does not show."""
        return "1"

    @property
    def reads_only(self) -> bool:
        """Inputs are never written into."""
        return True

    def process(self, data: Mapping[str, Image]) -> Image:
        """Give the target colours of the source.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each ``uint8``, H×W×3, BGR; sizes may differ.

        Returns:
            A new picture, ``uint8``, BGR, of the target's size.
        """
        target = data["target"]
        if self.strength == 0:
            return target.copy()
        changed = _looked_up(target, self._fitted_table(data))
        return changed if self.median_size == 1 else _median_of_change(target, changed, self.median_size)

    def _fitted_table(self, data: Mapping[str, Image]) -> Colors:
        space = self.color_map.space
        lattice = _lattice(space)
        moved = self.color_map.fit(data)(lattice)
        return _table(_to_bgr(lattice + np.float32(self.strength) * (moved - lattice), space))


def create_color_transfer_workers() -> list[Worker]:
    """Return the built-in workers, new ones on every call.

    Besides the full methods there are mild versions of the strongest: on real photographs a part of the way is often
    better than all of it, and ``unchanged`` is a strong answer where source and target show different things.
    """
    standard, rgb, histogram = ReinhardMap(), LinearMap("bgr"), HistogramMap()
    return [
        ColorTransferWorker("unchanged", standard, 0.0),
        ColorTransferWorker("standard_transfer", standard),
        ColorTransferWorker("intensity_30", standard, 0.3),
        ColorTransferWorker("intensity_70", standard, 0.7),
        ColorTransferWorker("intensity_90", standard, 0.9),
        ColorTransferWorker("intensity_120", standard, 1.2),
        ColorTransferWorker("median_filtered", standard, median_size=5),
        ColorTransferWorker("luminance_preserving", ReinhardMap("ab")),
        ColorTransferWorker("lightness_30", ReinhardMap("l"), 0.3),
        ColorTransferWorker("chroma_30", ReinhardMap("ab"), 0.3),
        ColorTransferWorker("adaptive_transfer", ToneAdaptiveMap()),
        ColorTransferWorker("histogram_matching", histogram),
        ColorTransferWorker("histogram_matching_30", histogram, 0.3),
        ColorTransferWorker("chroma_histogram_30", HistogramMap("ab"), 0.3),
        ColorTransferWorker("linear_map_lab", LinearMap("lab")),
        ColorTransferWorker("linear_map_rgb", rgb),
        ColorTransferWorker("linear_map_rgb_30", rgb, 0.3),
        ColorTransferWorker("linear_map_rgb_60", rgb, 0.6),
        ColorTransferWorker("sliced_transport", SlicedTransportMap()),
        ColorTransferWorker("white_balance", WhiteBalanceMap()),
    ]
