"""Colour maps: where each colour goes, each method from its paper."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias, cast

import attrs
import numpy as np

from tsm_training.arguments import at_least
from tsm_training.arrays import Image
from tsm_training.color_transfer.gains import MOST_GAIN, bounded_curve, bounds_for
from tsm_training.color_transfer.lattice import averaged_shifts, interpolated_shifts
from tsm_training.color_transfer.spaces import (
    CHANNELS,
    LEVELS,
    Colors,
    Float64,
    Space,
    decode,
    encode,
    to_space,
    transformed,
)
from tsm_training.color_transfer.statistics import (
    BOTH,
    ROUNDING_VARIANCE,
    sample_pixels,
    shared_histograms,
    shared_moments,
    shared_tones,
)
from tsm_training.errors import InvalidArgumentError

ColorFunction: TypeAlias = Callable[[Colors], Colors]
"""Says where colours go; gets and returns `Colors`, and must not change what it gets."""

Channels: TypeAlias = Literal["lab", "l", "ab"]
"""Channels of Lab to change: all, lightness only, or chroma only."""

_Curve: TypeAlias = tuple[Float64, Float64]
"""Rising knots on one channel, and how far a colour moves at each of them."""


@attrs.frozen
class ColorMap(ABC):
    """Where each colour of an image goes, fitted to the statistics of two images. Subclass it to add a method.

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


def _affine(gain: Float64, target_mean: Float64, source_mean: Float64) -> ColorFunction:
    matrix = np.column_stack([gain, source_mean - gain @ target_mean]).astype(np.float32)
    return lambda colors: transformed(colors, matrix)


def _check_channels(_map: object, _attribute: object, value: object) -> None:
    if value not in ("lab", "l", "ab"):
        raise InvalidArgumentError("channels", value, "'lab', 'l' or 'ab'")


def _check_space(_map: object, _attribute: object, value: object) -> None:
    if value not in ("lab", "bgr"):
        raise InvalidArgumentError("space", value, "'lab' or 'bgr'")


def _check_finite(_map: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 1 <= value < math.inf:
        raise InvalidArgumentError(attribute.name, value, "a finite number of at least 1")


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
        source, target = (shared_moments(data, which, "lab") for which in BOTH)
        chosen = np.array([name in self.channels for name in "lab"])
        gain = np.sqrt((source.variance + ROUNDING_VARIANCE) / (target.variance + ROUNDING_VARIANCE))
        gain = np.minimum(gain, bounds_for(data).gains)
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

    # A field may outrank the property; that it cannot be set matters nowhere, since maps are frozen.
    space: Space = attrs.field(  # pyright: ignore[reportIncompatibleMethodOverride]
        default="lab", validator=_check_space
    )

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the affine function; see `ColorMap.fit`."""
        source, target = (shared_moments(data, which, self.space) for which in BOTH)
        slack = ROUNDING_VARIANCE * np.eye(CHANNELS)
        gain = _monge_kantorovich(source.covariance + slack, target.covariance + slack)
        return _affine(bounds_for(data).matrix(gain, self.space), target.mean, source.mean)


def _monge_kantorovich(source: Float64, target: Float64) -> Float64:
    root, inverse_root = _symmetric_power(target, 0.5), _symmetric_power(target, -0.5)
    return inverse_root @ _symmetric_power(root @ source @ root, 0.5) @ inverse_root


def _symmetric_power(matrix: Float64, exponent: float) -> Float64:
    values, vectors = np.linalg.eigh(matrix)
    # No exact eigenvalue is below this, neither of a covariance nor of a product of two, but floats may stray to 0.
    values = np.maximum(values, ROUNDING_VARIANCE**2)
    power: Float64 = (vectors * values**exponent) @ vectors.T
    return power


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
        source, target = (shared_histograms(data, which, "lab") for which in BOTH)
        gains = bounds_for(data).gains
        curves = {}
        for i in (i for i in range(CHANNELS) if "lab"[i] in self.channels):
            (source_levels, source_rank), (levels, rank) = _ranks(source[i]), _ranks(target[i])
            wanted = np.interp(rank, source_rank, source_levels)
            curves[i] = levels, bounded_curve(levels, wanted, target[i][target[i] > 0], gains[i]) - levels
        return lambda colors: _shifted(colors, curves)


def _ranks(counts: Float64) -> tuple[Float64, Float64]:
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
    SSVM 2011. Fitted on a fixed sample of both images along a fixed sequence of directions.

    Transport alone tears similar colours apart where the images show different amounts of things: a sky gets speckles
    and blotches. So `LinearMap` goes first, and what is left to move is averaged over similar colours of the target, in
    the spirit of Rabin, Delon, Gousseau: "Regularization of Transportation Maps for Color and Contrast Transfer", ICIP
    2010, and Ferradans, Papadakis, Peyré, Aujol: "Regularized Discrete Optimal Transport", SIAM Journal on Imaging
    Sciences 7(3), 2014. Colours that the target hardly has move as the linear map says.

    Args:
        iterations: How often three perpendicular directions are matched, at least 1.
        bins: Into how many bins a direction is divided, at least 1.
        sample: How many pixels of each image are used, at least 1.
        smoothness: Over how many levels of Lab shifts are averaged (standard deviation of a Gaussian), at least 1; the
            lattice of the averages, 8 levels wide, sets a limit of its own.

    Raises:
        InvalidArgumentError: one of them is less than 1, `smoothness` is not finite, or another is no whole number.
    """

    iterations: int = attrs.field(default=10, validator=at_least(1))
    bins: int = attrs.field(default=16, validator=at_least(1))
    sample: int = attrs.field(default=4096, validator=at_least(1))
    smoothness: float = attrs.field(default=10.0, converter=float, validator=_check_finite)

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the linear map plus the smooth rest; see `ColorMap.fit`."""
        source, target = (to_space(sample_pixels(data[which], self.sample), self.space) for which in BOTH)
        linear = LinearMap(self.space).fit(data)
        start = linear(target)
        field = averaged_shifts(target, self._transported(start, source) - start, self.smoothness)
        shifts = lambda colors: interpolated_shifts(field, to_space(colors.astype(np.float32), self.space))  # noqa: E731
        field[:, 1:] *= np.float32(bounds_for(data).share_of(shifts, data["target"]))
        return lambda colors: linear(colors) + interpolated_shifts(field, colors)

    def _transported(self, moving: Colors, source: Colors) -> Colors:
        for rotation in _rotations(self.iterations):
            wanted, current = (transformed(points, rotation) for points in (source, moving))
            curves = {i: self._curve(wanted[:, i], current[:, i]) for i in range(CHANNELS)}
            # a rotation's transpose is its inverse
            moving = transformed(_shifted(current, curves), np.ascontiguousarray(rotation.T))
        return moving

    def _curve(self, source: Colors, target: Colors) -> _Curve:
        wanted, current = (np.sort(values).astype(np.float64) for values in (source, target))
        width = max(1.0, (current[-1] - current[0]) / self.bins)
        which = ((current - current[0]) / width).astype(np.intp)
        counts = np.bincount(which)
        used = np.flatnonzero(counts)
        means = (np.bincount(which, weights)[used] / counts[used] for weights in (current, wanted - current))
        return next(means), next(means)


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


@attrs.frozen
class WhiteBalanceMap(ColorMap):
    """Scale linear B, G and R so that the light seems to have the source's colour (von Kries), brightness kept.

    The light's colour is a Minkowski mean of the image. Finlayson, Trezzi: "Shades of Gray and Colour Constancy", CIC
    2004; a norm of 1 is the grey-world assumption, larger norms look more at the bright parts of an image.

    Args:
        norm: The exponent of the mean, at least 1.

    Raises:
        InvalidArgumentError: `norm` is less than 1 or not finite.
    """

    norm: float = attrs.field(default=6.0, converter=float, validator=_check_finite)

    @property
    def space(self) -> Space:
        """Gains act on B, G and R."""
        return "bgr"

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the three curves as one function; see `ColorMap.fit`."""
        counts = shared_histograms(data, "target", "bgr")
        source = _light(shared_histograms(data, "source", "bgr"), self.norm) + _DARK
        target = _light(counts, self.norm) + _DARK
        mean = _LUMINANCE * (_light(counts, 1.0) + _DARK)
        gain = np.minimum(source / target, MOST_GAIN)
        gain *= mean.sum() / (mean * gain).sum()
        return lambda colors: (255 * encode(decode(colors / 255.0) * gain)).astype(np.float32)


def _light(counts: Float64, norm: float) -> Float64:
    """Return the Minkowski mean of linear B, G and R, 0–1, from their histograms."""
    values = decode(np.arange(LEVELS) / (LEVELS - 1))
    return cast("Float64", ((counts * values**norm).sum(axis=1) / counts.sum(axis=1)) ** (1 / norm))


_LUMINANCE: Final = np.array([0.0722, 0.7152, 0.2126])
"""What B, G and R of sRGB contribute to luminance."""

_DARK: Final = 1e-4
"""Added to linear means: about a third of a level next to black, so that black images get no gains."""

_SCARCE: Final = 1e-4
"""Share of an image that is too little to take colours from."""


@attrs.frozen
class ToneAdaptiveMap(ColorMap):
    """Match chroma zone by zone of lightness, each zone as strongly as both images have pixels in it.

    Mean and standard deviation of a and b are matched as Reinhard does it, but shadows with shadows and lights with
    lights, in overlapping zones. A zone that one of the two images hardly has gives no evidence, and its colours stay
    nearly as they are. Lightness is kept: matched zone by zone, it could turn light into dark.

    Soft regions with statistics of their own are the idea of Tai, Jia, Tang: "Local Color Transfer via Probabilistic
    Segmentation by Expectation-Maximization", CVPR 2005; here they are fixed zones, not fitted ones.

    Args:
        zones: Into how many overlapping zones lightness is divided, at least 2.

    Raises:
        InvalidArgumentError: `zones` is no whole number of at least 2.
    """

    zones: int = attrs.field(default=6, validator=at_least(2))

    def fit(self, data: Mapping[str, Image]) -> ColorFunction:
        """Return the function; see `ColorMap.fit`."""
        source, target = (shared_tones(data, which, self.zones) for which in BOTH)
        strength = 2 * np.minimum(source.share, target.share) / (source.share + target.share + _SCARCE)
        part = strength[:, None]
        bounds = bounds_for(data)
        gain = np.sqrt((source.variance + ROUNDING_VARIANCE) / (target.variance + ROUNDING_VARIANCE))
        gain = 1 + part * (np.minimum(gain, bounds.chroma) - 1)
        centres = np.linspace(0, LEVELS - 1, self.zones)
        move = part * (source.mean - target.mean)
        mean = target.share @ move
        steepest = np.abs(np.diff(move, axis=0)).max() / centres[1]
        move = mean + (move - mean) * min(1.0, bounds.tint / max(steepest, bounds.tint))
        shift = target.mean + move - gain * target.mean

        def function(colors: Colors) -> Colors:
            tone = colors[:, 0]
            moved = colors.copy()
            for i in (1, 2):
                moved[:, i] *= np.interp(tone, centres, gain[:, i - 1])
                moved[:, i] += np.interp(tone, centres, shift[:, i - 1])
            return moved

        return function
