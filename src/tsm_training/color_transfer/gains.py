"""How far maps may stretch colours: no further than what the target shows stands out from the noise of 8-bit colour.

A grey photograph, fog or an old scan has next to no colour of its own. Matched to a lively source, its rounding errors
would become contour lines. Every map therefore keeps the bounds of its request, each in the way that suits it: gains
are cut off, curves are projected on those that are nowhere steeper, fields of shifts are reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from tsm_training.arrays import Image
from tsm_training.color_transfer.spaces import CHANNELS, LEVELS, Colors, Float64, Space, to_space
from tsm_training.color_transfer.statistics import ROUNDING_VARIANCE, sample_pixels, shared_moments

MOST_GAIN: Final = 4.0
"""Of lightness. Steps of a level stay at about 6 at most, even where a worker exaggerates and the answer is rounded."""

_LEAST_GAIN: Final = 1.5
"""Of chroma: what any target may be given, for so little more makes no contour lines."""

_NOISE: Final = 4.0
"""Levels of a and b by which two 8-bit colours may differ that should be the same.

With each channel a level off, one up and one down, they lie up to 3.6 apart; the rest is the rounding of 8-bit Lab."""

_TINT: Final = 0.1
"""Levels of chroma per level of lightness, and per unit of the gain of chroma: photographs have 0.09 to 0.36."""

_SAMPLE: Final = 256
_STEP: Final = 8

_LIGHTNESS: Final = {"lab": np.eye(CHANNELS)[0], "bgr": np.full(CHANNELS, CHANNELS**-0.5)}


class Bounds(NamedTuple):
    """What a map may do to a target at most."""

    chroma: float
    """Gain of a and b: 1 plus the signal-to-noise ratio (a ratio of variances) of the target's chroma."""

    @property
    def gains(self) -> Float64:
        """Return the largest gains of L, a and b."""
        return np.array([MOST_GAIN, self.chroma, self.chroma])

    @property
    def tint(self) -> float:
        """Return how many levels chroma may change at most from one level of lightness to the next."""
        return _TINT * self.chroma

    def matrix(self, gain: Float64, space: Space) -> Float64:
        """Return a symmetric gain (3×3) that is nowhere above the bounds B: eigenvalues of B^-½ G B^-½ are cut at 1."""
        axis = np.outer(_LIGHTNESS[space], _LIGHTNESS[space])
        root, inverse = (MOST_GAIN**p * axis + self.chroma**p * (np.eye(CHANNELS) - axis) for p in (0.5, -0.5))
        values, vectors = np.linalg.eigh(inverse @ gain @ inverse)
        half = root @ vectors
        bounded: Float64 = (half * np.minimum(values, 1)) @ half.T
        return gain if values[-1] <= 1 else bounded

    def share_of(self, shifts: Callable[[Image], Colors], target: Image) -> float:
        """Return the share, 0–1, of a field's shifts of a and b that stays within the bounds where the target is.

        Args:
            shifts: Returns how far colours (uint8, N×3, BGR) move in Lab.
            target: The image: uint8, H×W×3, BGR. Its sample's 5 % with the steepest shifts do not count.
        """
        sample = sample_pixels(target, _SAMPLE).clip(_STEP, LEVELS - 1 - _STEP).astype(np.uint8)
        ends = [
            np.concatenate([sample + offset for offset in sign * _STEP * np.eye(CHANNELS, dtype=np.int16)])
            for sign in (1, -1)
        ]
        high, low = (end.astype(np.uint8) for end in ends)
        # along B, G and R: N×3×3, one row for each of them
        before, moved = (
            (f(high) - f(low)).reshape(CHANNELS, -1, CHANNELS).swapaxes(0, 1).astype(np.float64)
            for f in (lambda colors: to_space(colors.astype(np.float32), "lab"), shifts)
        )
        slopes = np.linalg.solve(before, moved)  # row: along L, a and b; column: of L, a and b
        tints = np.abs(slopes[:, 0, 1:]).max(axis=1)
        gains = np.linalg.eigvalsh(slopes[:, 1:, 1:] + slopes[:, 1:, 1:].swapaxes(1, 2))[:, -1] / 2
        steepest = np.quantile(np.maximum(tints / self.tint, gains / (self.chroma - 1)), 0.95)
        return float(1 / max(1.0, steepest))


def bounds_for(data: Mapping[str, Image]) -> Bounds:
    """Return the bounds of a request; chroma that follows lightness, as sepia's does, does not count as shown."""
    covariance = shared_moments(data, "target", "lab").covariance
    explained = (covariance[0, 1:] ** 2).sum() / (covariance[0, 0] + ROUNDING_VARIANCE)
    shown = covariance[1, 1] + covariance[2, 2] - explained
    return Bounds(max(_LEAST_GAIN, 1 + float(shown) / _NOISE**2))


def bounded_curve(levels: Float64, values: Float64, counts: Float64, most: float) -> Float64:
    """Return the rising curve nearest to a rising one (least squares over pixels) that is nowhere steeper than `most`.

    What is left to the steepest line must rise: an isotonic regression, by pooling adjacent violators (Ayer, Brunk,
    Ewing, Reid, Silverman: Annals of Mathematical Statistics 26(4), 1955). A curve within the bound stays as it is.
    """
    blocks: list[tuple[float, float, int]] = []
    for count, rest in zip(counts.tolist(), (most * levels - values).tolist(), strict=True):
        block = (rest, count, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, size = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, size + block[2])
        blocks.append(block)
    means, _, sizes = zip(*blocks, strict=True)
    curve: Float64 = most * levels - np.repeat(means, sizes)
    return curve
