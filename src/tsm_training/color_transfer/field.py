"""Fields of shifts: what scattered colours need, averaged so smoothly that every colour can be moved by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tsm_training.color_transfer.spaces import CHANNELS, LEVELS, Colors, Float64

__all__ = ["averaged_shifts", "interpolated_shifts"]


_STEP: Final = 8

_NODES: Final = LEVELS // _STEP + 1

_SHAPE: Final = (_NODES,) * CHANNELS

_REACH: Final = 3
"""Standard deviations after which a Gaussian is cut off."""

_SCARCE: Final = 0.0025
"""Share of all points that count as evidence for no shift: where there are few points, shifts are damped."""

_Nodes: TypeAlias = npt.NDArray[np.intp]


def averaged_shifts(colors: Colors, shifts: Colors, width: float) -> Colors:
    """Return the shift at each node of a lattice over 0–256 (float32, 33·33·33×3), a Gaussian average over all points.

    Args:
        colors: Where the points are, each channel in 0–255.
        shifts: How far each point moves.
        width: Standard deviation of the Gaussian, in the units of the colours.
    """
    nodes, weights = (np.concatenate(parts) for parts in zip(*_surroundings(colors), strict=True))
    values = [*np.tile(shifts, (2**CHANNELS, 1)).T, np.ones(len(nodes))]
    sums = [np.bincount(nodes, weights * value, _NODES**CHANNELS).reshape(_SHAPE) for value in values]
    totals = _blurred(cast("Float64", np.stack(sums)), width / _STEP).reshape(len(sums), -1)
    means: Float64 = totals[:-1] / (totals[-1] + _SCARCE * len(colors))
    return means.T.astype(np.float32)


def interpolated_shifts(field: Colors, colors: Colors) -> Colors:
    """Return the shifts of colours (N×3), linear between the nodes of a field; beyond the lattice as at its edge."""
    result = np.zeros_like(colors)
    for nodes, weights in _surroundings(colors):
        result += field[nodes] * weights[:, None]
    return result


def _surroundings(colors: Colors) -> Iterator[tuple[_Nodes, Colors]]:
    """Yield the eight nodes around each colour, one after the other, and their weights, which add up to 1."""
    place = np.clip(colors.T / np.float32(_STEP), 0, _NODES - 1)
    low = np.minimum(place.astype(np.intp), _NODES - 2)
    part = place - low.astype(np.float32)
    axes = [((below, 1 - share), (below + 1, share)) for below, share in zip(low, part, strict=True)]
    for (i, u), (j, v), (k, w) in itertools.product(*axes):
        yield (i * _NODES + j) * _NODES + k, u * v * w


def _blurred(grids: Float64, width: float) -> Float64:
    """Blur the last three axes by a Gaussian whose peak is 1: what lies on a node counts in full there."""
    reach = min(math.ceil(_REACH * width), _NODES - 1)
    for axis in range(1, CHANNELS + 1):
        source, grids = np.moveaxis(grids, axis, 0), np.zeros_like(grids)
        result = np.moveaxis(grids, axis, 0)
        for k in range(-reach, reach + 1):
            result[max(k, 0) : _NODES + min(k, 0)] += (
                math.exp(-((k / width) ** 2) / 2) * source[max(-k, 0) : _NODES + min(-k, 0)]
            )
    return grids
