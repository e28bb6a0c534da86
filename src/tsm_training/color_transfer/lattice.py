"""The lattice of colours: maps are evaluated on it and looked up for every pixel, shifts are averaged on it.

A lattice has 33 nodes a side, 8 levels apart. A field of shifts says for each node how far colours move there; it is
averaged so smoothly over scattered colours that every colour can be moved by it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer.spaces import CHANNELS, Colors, Float64, Space, kept_pixels, row_strips, to_space
from tsm_training.images import NODES, STEP, ColorTable, positions
from tsm_training.workers import shared


@functools.cache
def lattice(space: Space) -> Colors:
    """Return the colours in which maps are evaluated (float32, 33³×3): B slowest, R fastest, 0, 8, …, 248 and 255."""
    colors = to_space(ColorTable.identity().nodes.reshape(-1, CHANNELS), space)
    colors.flags.writeable = False
    return colors


def applied(table: ColorTable, data: Mapping[str, Image]) -> Image:
    """Return a request's target (uint8, H×W×3, BGR) looked up in a table.

    All workers share where its pixels lie, unless it is large.
    """
    target, at = data["target"], None
    if kept_pixels(target.shape[0] * target.shape[1]):
        at = shared(data, "color_transfer.positions", lambda: list(positions(target)))
    return table.apply(target, at)


def median_of_change(target: Image, changed: Image, size: int) -> Image:
    """Return the target plus the median of the change over size×size pixels: smooth in colour, as sharp as before."""
    result = np.empty_like(target)
    for band, wide in row_strips(target, overlap=size // 2):
        change = cv2.medianBlur(cv2.subtract(changed[wide], target[wide], dtype=cv2.CV_16S), size)
        inner = change[band.start - wide.start :][: band.stop - band.start]
        cv2.add(target[band], inner, dst=result[band], dtype=cv2.CV_8U)
    return result


# --- fields of shifts -----------------------------------------------------------------------------------------------

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
    sums = [np.bincount(nodes, weights * value, NODES**CHANNELS).reshape((NODES,) * CHANNELS) for value in values]
    totals = _blurred(cast("Float64", np.stack(sums)), width / STEP).reshape(len(sums), -1)
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
    place = np.clip(colors.T / np.float32(STEP), 0, NODES - 1)
    low = np.minimum(place.astype(np.intp), NODES - 2)
    part = place - low.astype(np.float32)
    axes = [((below, 1 - share), (below + 1, share)) for below, share in zip(low, part, strict=True)]
    for (i, u), (j, v), (k, w) in itertools.product(*axes):
        yield (i * NODES + j) * NODES + k, u * v * w


def _blurred(grids: Float64, width: float) -> Float64:
    """Blur the last three axes by a Gaussian whose peak is 1: what lies on a node counts in full there."""
    reach = min(math.ceil(_REACH * width), NODES - 1)
    for axis in range(1, CHANNELS + 1):
        source, grids = np.moveaxis(grids, axis, 0), np.zeros_like(grids)
        result = np.moveaxis(grids, axis, 0)
        for k in range(-reach, reach + 1):
            result[max(k, 0) : NODES + min(k, 0)] += (
                math.exp(-((k / width) ** 2) / 2) * source[max(-k, 0) : NODES + min(-k, 0)]
            )
    return grids
