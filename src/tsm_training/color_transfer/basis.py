"""Maps of colours that can be learned: smooth displacements in Lab, and what one example says about them.

A map moves a colour x (in the units of 8-bit Lab) to x + Φ(x)·z. Φ has 84 functions: 1, L, a and b, and 80 that span
smooth displacements, those of a Gaussian process; they are scaled so that a priori the coefficients z are N(0, I). A
map is learned by ridge regression (compare lattice regression: Garcia, Gupta, NIPS 2009). All that it needs of an
example are two means over its pixels, G = mean ΦΦᵀ and b = mean Φ·(truth − target).

Nothing here depends on how many threads the linear algebra uses: products of matrices are taken of multiples of small
powers of 2, of which all sums are exact, and linear systems are solved without a library.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer.lattice import lattice
from tsm_training.color_transfer.spaces import CHANNELS, LAB_OFFSET, LAB_SCALE, LEVELS, Colors, Float64, decode, to_bgr
from tsm_training.forking import alone_at_first
from tsm_training.images import NODES, ColorTable

_SMOOTH: Final = 80

_FUNCTIONS: Final = 1 + CHANNELS + _SMOOTH

_LIGHT: Final = decode(np.arange(LEVELS) / (LEVELS - 1)).astype(np.float32)

_CENTRE: Final = 128.0
_UNITS: Final = np.array([64.0, 32.0, 32.0])
"""Lab levels per unit of the linear functions."""

_LINEAR_SPREAD: Final = 25.0
"""Standard deviation, in levels, of the constant part and of the linear part at one unit."""

_SMOOTH_SPREAD: Final = 15.0

_LENGTH: Final = 30.0
"""Standard deviation of the Gaussian kernel, in levels: colours this near move alike."""

_BASIS_BITS: Final = 10
_SHIFT_BITS: Final = 8
_SUM_BITS: Final = 10
_MAP_BITS: Final = 12
_TABLE_BITS: Final = 6
"""Binary digits after the point of Φ, of displacements, of G and b, of z and of tables. The products stay below 2⁵³."""

_STRIDES: Final = np.array([NODES**2, NODES, 1])
_PARTS: Final = 8
_PLACES: Final = np.rint(np.interp(np.arange(LEVELS), [0, 248, 255], [0, 248, 256])).astype(np.intp)
"""Where each level lies on an axis of the lattice, whose last node stands for 255: in eighths of a step."""

_UPPER: Final = np.triu_indices(_FUNCTIONS)
_PLACE_IN_UPPER: Final = np.zeros((_FUNCTIONS, _FUNCTIONS), np.intp)
_PLACE_IN_UPPER[_UPPER] = _PLACE_IN_UPPER.T[_UPPER] = np.arange(len(_UPPER[0]))
_TIMES: Final = np.where(_UPPER[0] == _UPPER[1], 1.0, 2.0)

_BLOCK: Final = 25
"""Rows of a product taken at once: so few that a library leaves it to one thread, where several would only wait."""

_AT_ONCE: Final = 16
"""How many systems are solved side by side: as many as fit a processor's cache."""


def on_grid(values: Float64, bits: int) -> Float64:
    """Round to multiples of 2^-bits, half to even."""
    scale = 2.0**bits
    return np.rint(values * scale) / scale


def lab_of(levels: Image) -> Colors:
    """Return 8-bit sRGB colours (n×N×3, BGR) in the units of `to_space`, row by row, each row for itself."""
    with alone_at_first("linear BGR to Lab"):
        lab = cast("Colors", cv2.cvtColor(_LIGHT[levels], cv2.COLOR_LBGR2Lab))
    return lab * LAB_SCALE + LAB_OFFSET


@functools.cache
def _basis() -> Float64:
    """Return Φ at the nodes of the lattice (35937×84).

    The smooth functions are a pivoted Cholesky factor of the kernel: each is the part that those before leave over of
    the kernel around the colour about which they say least.
    """
    colors = lattice("lab").astype(np.float64)
    values = np.empty((_FUNCTIONS, len(colors)))
    values[0] = _LINEAR_SPREAD
    values[1 : 1 + CHANNELS] = ((colors - _CENTRE) / _UNITS).T * _LINEAR_SPREAD
    smooth = values[1 + CHANNELS :]
    left = np.ones(len(colors))
    for k in range(_SMOOTH):
        pivot = int(left.argmax())
        kernel = np.exp(((colors - colors[pivot]) ** 2).sum(axis=1) / (-2 * _LENGTH**2))
        smooth[k] = (kernel - np.einsum("kn,k->n", smooth[:k], smooth[:k, pivot])) / np.sqrt(left[pivot])
        left -= smooth[k] ** 2
    smooth *= _SMOOTH_SPREAD
    table = on_grid(np.ascontiguousarray(values.T), _BASIS_BITS)
    table.flags.writeable = False
    return table


def basis_values(levels: Image) -> Float64:
    """Return Φ of 8-bit colours (uint8, N×3, BGR): N×84, interpolated in the tetrahedra of the lattice."""
    places = _PLACES[levels]
    low = np.minimum(places // _PARTS, NODES - 2)
    part = places - _PARTS * low
    order = np.argsort(-part, axis=1, kind="stable")
    steps = _STRIDES[order]
    part = np.take_along_axis(part, order, axis=1)
    shares = -np.diff(part, axis=1, prepend=_PARTS, append=0) / _PARTS
    nodes = (low @ _STRIDES)[:, None] + np.cumsum(np.insert(steps, 0, 0, axis=1), axis=1)
    table = _basis()
    values: Float64 = table[nodes[:, 0]] * shares[:, :1]
    for k in range(1, CHANNELS + 1):
        values += table[nodes[:, k]] * shares[:, k, None]
    return values


class Sums(NamedTuple):
    """What examples say about maps, or mixtures of examples: one row each."""

    gram: Float64
    """G: n×3570, the upper triangle row by row."""
    moment: Float64
    """b: n×84×3."""
    square: Float64
    """Mean squared displacement: n."""

    def of(self, rows: npt.NDArray[np.intp]) -> Sums:
        """Return some of the rows."""
        return Sums(self.gram[rows], self.moment[rows], self.square[rows])

    def weighted(self, weights: Float64) -> Sums:
        """Return mixtures with these weights: m×n."""
        return Sums(weights @ self.gram, np.tensordot(weights, self.moment, 1), weights @ self.square)

    def errors(self, maps: Float64) -> Float64:
        """Return each row's mean squared error (n, levels²) under the map (n×84×3) that is meant for it."""
        cross = np.einsum("nic,nic->n", maps, self.moment)
        errors: Float64 = self.square - 2 * cross + np.einsum("nu,nu->n", paired(maps), self.gram)
        return np.maximum(errors, 0)

    def maps(self, strength: float) -> Float64:
        """Return the maps z (n×84×3) of a ridge regression of this strength, as multiples of 2⁻¹²."""
        return on_grid(solved(self._systems(strength)), _MAP_BITS)

    def rough_maps(self, strength: float) -> Float64:
        """Return `maps`, much faster, except for last digits that depend on the number of threads."""
        systems = self._systems(strength)
        return cast("Float64", np.linalg.solve(systems[..., :_FUNCTIONS], systems[..., _FUNCTIONS:]))

    def information(self, weights: Float64, strength: float, gram: Float64) -> tuple[Float64, float]:
        """Return tr(A⁻¹GA⁻¹ wᵢGᵢ) of each row and tr(A⁻¹G), where A = Σ wᵢGᵢ + strength·I and G is another gram (3570).

        Without a library's products, whose last digits may depend on the number of threads.
        """
        mixture = (weights @ self.gram)[_PLACE_IN_UPPER]
        mixture[range(_FUNCTIONS), range(_FUNCTIONS)] += strength
        inverse = _inverted(mixture)
        spread = np.einsum("ij,jk->ik", inverse, gram[_PLACE_IN_UPPER])
        inner = np.einsum("ij,jk->ik", spread, inverse)
        parts: Float64 = weights * np.einsum("nu,u->n", self.gram, inner[_UPPER] * _TIMES)
        return np.maximum(parts, 0), float(np.trace(spread))

    def evidence(self, strength: float) -> Float64:
        """Return the log probability of each row's colours (n) if one map made them, with errors of this variance.

        The map is integrated out; a constant for each example is left out. Rounded to multiples of 2⁻¹⁰, for last
        digits depend on the number of threads.
        """
        matrices, moments = np.split(self._systems(strength), [_FUNCTIONS], axis=-1)
        explained = (moments * np.linalg.solve(matrices, moments)).sum(axis=(1, 2))
        volume = np.linalg.slogdet(matrices)[1] - _FUNCTIONS * np.log(strength)
        return on_grid((explained - self.square) / (2 * strength) - CHANNELS / 2 * volume, _SUM_BITS)

    def _systems(self, strength: float) -> Float64:
        matrices = self.gram.take(_PLACE_IN_UPPER, axis=-1)
        matrices[:, range(_FUNCTIONS), range(_FUNCTIONS)] += strength
        return np.concatenate([matrices, self.moment], axis=-1)


def paired(maps: Float64) -> Float64:
    """Return what to multiply G's upper triangle with to have Σ zᵀGz: n×3570 for maps n×84×3."""
    products: Float64 = np.matmul(maps, maps.swapaxes(1, 2))[:, *_UPPER] * _TIMES
    return products


def sums_of(target: Image, truth: Image) -> tuple[Float64, Float64, float]:
    """Return G (3570), b (84×3) and the mean squared displacement of pairs of colours (uint8, N×3, BGR)."""
    values = basis_values(target)
    before, after = lab_of(np.stack([target, truth]))
    shifts = on_grid((after - before).astype(np.float64), _SHIFT_BITS)
    blocks = values.reshape(-1, _BLOCK, _FUNCTIONS)
    gram = np.matmul(blocks.swapaxes(1, 2).copy(), blocks).sum(axis=0)[_UPPER]
    means = (total / len(target) for total in (gram, values.T @ shifts, (shifts * shifts).sum()))
    gram, moment, square = (on_grid(mean, _SUM_BITS) for mean in means)
    return gram, moment, float(square)


def solved(systems: Float64) -> Float64:
    """Return the solutions (n×p×q) of linear systems (n×p×(p+q)) with positive definite matrices.

    Gaussian elimination, written out: a library's sums may depend on its number of threads.
    """
    size = systems.shape[1]
    results = []
    for start in range(0, len(systems), _AT_ONCE):
        rest = systems[start : start + _AT_ONCE].copy()
        for k in range(size - 1):
            factors = rest[:, k + 1 :, k] / rest[:, k, k, None]
            rest[:, k + 1 :, k + 1 :] -= factors[:, :, None] * rest[:, None, k, k + 1 :]
        result = rest[:, :, size:]
        for k in range(size - 1, -1, -1):
            result[:, k] /= rest[:, k, k, None]
            result[:, :k] -= rest[:, :k, k, None] * result[:, None, k]
        results.append(result)
    return np.concatenate(results)


def _inverted(matrix: Float64) -> Float64:
    """Return the inverse of a positive definite matrix by sweeping (Goodnight, The American Statistician 33(3), 1979).

    It is written out for the reason that `solved` is, and takes a third of its time.
    """
    rest = matrix.copy()
    for k in range(len(rest)):
        column, pivot = rest[:, k].copy(), rest[k, k]
        row = rest[k] / pivot
        rest -= column[:, None] * row
        rest[k], rest[:, k] = row, column / -pivot
        rest[k, k] = 1 / pivot
    return rest


def map_table(coefficients: Float64) -> ColorTable:
    """Return the table of the map with coefficients z (84×3)."""
    shifts = np.matmul(_basis().reshape(NODES**2, NODES, -1), coefficients).reshape(-1, CHANNELS)
    moved = to_bgr(lattice("lab") + shifts.astype(np.float32), "lab")
    return ColorTable(on_grid(moved.astype(np.float64), _TABLE_BITS))


def reduced(coefficients: Float64, values: Float64, share: float) -> Float64:
    """Return z (84×3) whose shifts of a and b differ less, by a share, from the shift where Φ has these values (84)."""
    result = coefficients.copy()
    result[:, 1:] *= share
    result[0, 1:] += (1 - share) * (values @ coefficients[:, 1:]) / _LINEAR_SPREAD
    return on_grid(result, _MAP_BITS)


def moved_levels(colors: Image, values: Float64, maps: Float64) -> Image:
    """Return colours (uint8, N×3, BGR, with their Φ, N×84) as n maps (n×84×3) leave them: uint8, n×N×3, BGR."""
    side_by_side = maps.swapaxes(0, 1).reshape(_FUNCTIONS, -1)
    shifts = np.matmul(values.reshape(-1, _BLOCK, _FUNCTIONS), side_by_side).astype(np.float32)
    moved = lab_of(colors[None]) + shifts.reshape(len(colors), len(maps), CHANNELS).swapaxes(0, 1)
    # One map at a time, so that what becomes of a colour cannot depend on how many maps there are.
    levels = np.stack([to_bgr(row, "lab") for row in moved])
    return np.clip(np.rint(levels), 0, LEVELS - 1).astype(np.uint8)
