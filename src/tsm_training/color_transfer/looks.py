"""Looks of images: what a look does to an image's statistics, learned from the maps of the training examples.

Which look an image has cannot be read off its colours alone, for they depend on what it shows as well. How much they
do is learned by synthesis: the map of every example is applied to every target image of the training. Features of
images with the same map differ by content only; that covariance is the one by which a request is compared with the
examples (linear discriminant analysis with one class per example).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer.basis import Sums, basis_values, lab_of, moved_levels, on_grid, paired, solved
from tsm_training.color_transfer.spaces import Colors, Float64

SAMPLE: Final = 1000
"""Features are taken of this many colours, of requests as of synthetic images: extremes depend on the number."""

_MAPS_AT_ONCE: Final = 32
"""As many as keep what is computed of them in a processor's cache."""

_QUANTILES: Final = (np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) * (SAMPLE - 1)).astype(np.intp)

_ZONES: Final = (np.array([0, 0.02, 0.2, 0.4, 0.6, 0.8, 0.98, 1]) * SAMPLE).astype(np.intp)
"""Where the zones of lightness begin and end among the pixels in order of lightness."""

_RANKS: Final = np.arange(SAMPLE)[:, None]
_IN_ZONES: Final = ((_ZONES[:-1] <= _RANKS) & (_ZONES[1:] > _RANKS)).astype(np.float64)

_PALE: Final = SAMPLE // 10

_TURNS: Final = np.arange(3) * (np.pi / 3)
"""Hues of three of the six sectors; the others lie opposite."""

_END: Final = 3
"""Levels that count as the end of an image's range of lightness."""

FEATURES: Final = 54

_FINE, _COARSE = 16, 4
"""Steps per level of lightness and chroma, and of a and b, where three values share 32 bits to be sorted together."""

_FIELD: Final = 10
_MASK: Final = (1 << _FIELD) - 1
_NEUTRAL: Final = 128 * _COARSE

_FEATURE_BITS: Final = 6
SHARE_BITS: Final = 20

_SHRINKAGE: Final = 0.1
"""How far correlations are drawn to none."""

_LEAST_DEVIATION: Final = 1e-3

_WIDTH: Final = 4.0
"""Examples whose maps differ by this many levels (rms) share a little of their weight; nearer ones, most of it."""

_UInts = npt.NDArray[np.uint32]


def look_features(colors: Colors) -> Float64:
    """Return 54 features (n×54, multiples of 1/64) of samples of colours (Lab, n×1000×3).

    They are quantiles of L, a and b; the mean a and b in seven zones of lightness; moments of chroma and lightness; the
    chroma in six sectors of hue; the least colourful tenth; and how many pixels lie at either end of the lightness.
    """
    light = _steps(colors[..., 0], _FINE)
    a, b = (_steps(colors[..., k], _COARSE) for k in (1, 2))
    x, y = ((plane.astype(np.float32) - _NEUTRAL) / _COARSE for plane in (a, b))
    length = np.sqrt(x * x + y * y)
    chroma = _steps(length, _FINE)
    pair = (a << _FIELD) | b
    by_light, by_chroma = (np.sort((key << 2 * _FIELD) | pair, axis=-1) for key in (light, chroma))
    ranked = by_light >> 2 * _FIELD
    quantiles = [np.sort(plane, axis=-1)[:, _QUANTILES] / _COARSE - 128.0 for plane in (a, b)]
    zones = [(_field(by_light, k) @ _IN_ZONES) / np.diff(_ZONES) / _COARSE - 128.0 for k in (1, 0)]
    planes = [light / _FINE, x, y, chroma / _FINE]
    centred = np.stack([plane - plane.mean(axis=-1, keepdims=True, dtype=np.float64) for plane in planes], axis=1)
    spread = np.matmul(centred, centred.swapaxes(1, 2)) / SAMPLE
    deviation = np.sqrt(np.diagonal(spread, axis1=1, axis2=2)) / [2.55, 1, 1, 1]
    moments = [planes[3].mean(axis=-1), (x * y).mean(axis=-1, dtype=np.float64) / 20, *(spread[:, 0, 1:3] / 100).T]
    sectors = []
    for turn in _TURNS:
        along = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y
        mass = along * np.abs(along) / np.maximum(length, np.float32(1 / _FINE))
        sectors += [np.maximum(mass, 0).mean(axis=-1), np.maximum(-mass, 0).mean(axis=-1)]
    pale = by_chroma[:, :_PALE]
    tenth = [
        (pale >> 2 * _FIELD).mean(axis=-1) / _FINE,
        *(_field(pale, k).mean(axis=-1) / _COARSE - 128 for k in (1, 0)),
    ]
    at_ends = (ranked <= ranked[:, :1] + _END * _FINE, ranked + _END * _FINE >= ranked[:, -1:])
    ends = [10 * np.log(mask.mean(axis=-1) + 1e-3) for mask in at_ends]
    numbers = np.stack([*moments, *sectors, *tenth, *ends], axis=-1)
    parts = [ranked[:, _QUANTILES] / (2.55 * _FINE), *quantiles, *zones, deviation, numbers]
    return on_grid(np.concatenate(parts, axis=-1), _FEATURE_BITS)


def _steps(plane: Colors, per_level: int) -> _UInts:
    steps: _UInts = np.rint(np.clip(plane * np.float32(per_level), 0, 256 * per_level - 1)).astype(np.uint32)
    return steps


def _field(keys: npt.NDArray[Any], place: int) -> Float64:
    return ((keys >> np.uint32(_FIELD * place)) & np.uint32(_MASK)).astype(np.float64)


def rendered_features(sample: Image, maps: Float64) -> Float64:
    """Return the features (n×54) of an image, given by 1000 colours (uint8, 1000×3), under each of n maps (n×84×3)."""
    values = basis_values(sample)
    parts = np.split(maps, range(_MAPS_AT_ONCE, len(maps), _MAPS_AT_ONCE))
    return np.concatenate([look_features(lab_of(moved_levels(sample, values, part))) for part in parts])


class Recognition(NamedTuple):
    """How far a look is from those of the examples: squared Mahalanobis distances between features."""

    means: Float64
    """Mean features of each example's map over all target images: n×54."""
    precision: Float64
    """Inverse of the covariance of features under one map: 54×54, symmetric."""

    def distances(self, features: Float64) -> Float64:
        """Return how far images with these features (m×54) are from the examples: m×n."""
        toward = np.einsum("ni,ij->nj", self.means, self.precision)
        own = np.einsum("mi,ij,mj->m", features, self.precision, features)
        cross = np.einsum("mj,nj->mn", features, toward)
        squares: Float64 = own[:, None] - 2 * cross + (toward * self.means).sum(axis=1)
        return np.maximum(squares, 0)


class Looks(NamedTuple):
    """What n training examples show of looks."""

    sources: Float64
    """Features of the sources: n×54."""
    misfits: Float64
    """By how much the features of each truth differ from those of the example's own map on its own target (n×54):
    noise, compression and whatever else a map of colours does not know of."""
    renderings: Float64
    """Features of each example's map on each of k target images: n×k×54."""

    def recognition(self, pictures: npt.NDArray[np.bool_] | None = None) -> Recognition:
        """Learn to recognise looks from the chosen images (booleans; at least two of them), or from all."""
        features = self.renderings if pictures is None else self.renderings[:, pictures]
        n, k, size = features.shape
        sums = features.sum(axis=1)
        rows = features.reshape(-1, size)
        covariance = (rows.T @ rows - sums.T @ sums / k) / (n * (k - 1)) + self.misfits.T @ self.misfits / n
        deviation = np.sqrt(np.diagonal(covariance)) + _LEAST_DEVIATION
        scale = np.outer(deviation, deviation)
        correlation = (1 - _SHRINKAGE) * covariance / scale + _SHRINKAGE * np.eye(size)
        inverse = solved(np.concatenate([correlation, np.eye(size)], axis=1)[None])[0] / scale
        # As single precision, so that they can be stored in little room and come back the same.
        means, precision = (x.astype(np.float32).astype(np.float64) for x in (sums / k, (inverse + inverse.T) / 2))
        return Recognition(means, precision)

    def nearest_pictures(self) -> npt.NDArray[np.intp]:
        """Return for each source which image, under the example's own map, is nearest in content: n indices."""
        away = self.renderings - self.sources[:, None]
        rows = away.reshape(-1, away.shape[-1])
        distances = ((rows @ self.recognition().precision) * rows).sum(axis=1)
        nearest: npt.NDArray[np.intp] = distances.reshape(away.shape[:2]).argmin(axis=1)
        return nearest


def squares_between(sums: Sums, maps: Float64) -> Float64:
    """Return the mean squared error of each map (rows; n×84×3) on the colours of each example (columns): n×n."""
    # Coarse enough that the sums in the product of matrices are exact.
    coarse = on_grid(maps, 6)
    moment = np.matmul(coarse.reshape(len(maps), -1), on_grid(sums.moment, 4).reshape(len(maps), -1).T)
    square: Float64 = sums.square - 2 * moment + np.matmul(paired(coarse), on_grid(sums.gram, 4).T)
    return square


def agreement(sums: Sums, maps: Float64) -> Float64:
    """Return how much of its weight each example gives to which others (n×n, rows add up to 1): to those alike.

    Two are alike when the map (n×84×3) of either changes the colours of the other nearly as its own does.
    """
    square = squares_between(sums, maps)
    alike = np.exp(-np.maximum(np.maximum(square, square.T), 0) / _WIDTH**2)
    return on_grid(alike / alike.sum(axis=1, keepdims=True), SHARE_BITS)


def shares(distances: Float64, temperature: float, alike: Float64, blocked: npt.NDArray[np.bool_]) -> Float64:
    """Return how much each example counts for requests at these distances (m×n): rows add up to about 1.

    Args:
        distances: Of each request from each example.
        temperature: By how much of a distance weights fall: w ∝ exp(-distance / (2 · temperature)).
        alike: What `agreement` gave: n×n.
        blocked: Which examples must not count for which requests (m×n); at least one of each row may.
    """
    far = np.where(blocked, np.inf, distances)
    weights = np.exp((far.min(axis=1, keepdims=True) - far) / (2 * temperature))
    weights = on_grid(weights / weights.sum(axis=1, keepdims=True), SHARE_BITS) @ alike
    weights = np.where(blocked, 0, weights)
    return on_grid(weights / weights.sum(axis=1, keepdims=True), SHARE_BITS)
