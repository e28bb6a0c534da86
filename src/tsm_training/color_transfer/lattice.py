"""The lattice of colours: maps are evaluated on it and looked up for every pixel, shifts are averaged on it.

A lattice has 33 nodes a side, 8 levels apart. A field of shifts says for each node how far colours move there; it is
averaged so smoothly over scattered colours that every colour can be moved by it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer.spaces import CHANNELS, LEVELS, LONGEST, Colors, Float64, Space, row_strips, to_space

_STEP: Final = 8

NODES: Final = LEVELS // _STEP + 1
"""Nodes on a side of the lattice."""


@functools.cache
def lattice(space: Space) -> Colors:
    """Return the colours in which maps are evaluated (float32, 33³×3): B slowest, R fastest, 0, 8, …, 248 and 255."""
    axis = np.minimum(np.arange(NODES) * _STEP, LEVELS - 1).astype(np.float32)
    colors = to_space(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, CHANNELS), space)
    colors.flags.writeable = False
    return colors


def interpolation_table(colors: Colors) -> Colors:
    """Turn the colours into which the lattice goes (N×3, BGR) into a table to look up (float32, 256·33×33×3).

    OpenCV interpolates between two axes at once. The third, B, is interpolated here for all its 256 levels, each with a
    33×33 tile of its own; with nodes 8 levels apart the positions on the other two are exact eighths.
    """
    nodes = colors.reshape(NODES, NODES, NODES, CHANNELS).copy()
    for axis in (nodes, nodes.swapaxes(0, 1), nodes.swapaxes(0, 2)):
        # the last node was evaluated at 255, the end of the range, and stands at 256
        axis[-1] += (axis[-1] - axis[-2]) / np.float32(_STEP - 1)
    tiles = nodes.reshape(NODES, 1, -1)
    part = (np.arange(_STEP, dtype=np.float32) / _STEP)[None, :, None]
    table = (tiles[1:] - tiles[:-1]) * part
    table += tiles[:-1]
    return cast("Colors", table.reshape(-1, NODES, CHANNELS))


_POSITION: Final = np.array([[0, 0, 1 / _STEP], [NODES, 1 / _STEP, 0], [0, 0, 0]], np.float32)
"""Takes (B, G, R) to column and row of a table; the third row is there because OpenCV is slow with two."""

_NOTHING: Final = np.zeros(4)
"""OpenCV's scalar 0, in the type that its stubs know."""


def looked_up(image: Image, table: Colors) -> Image:
    """Return the image (uint8, H×W×3, BGR) with every colour replaced by what the table says, interpolated."""
    result = np.empty_like(image)
    for band, _ in row_strips(image):
        for left in range(0, image.shape[1], LONGEST):
            part = band, slice(left, left + LONGEST)
            columns, rows, _ = cv2.split(cv2.transform(image[part].astype(np.float32), _POSITION))
            colors = cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            cv2.add(colors, _NOTHING, dst=result[part], dtype=cv2.CV_8U)  # rounds and clips, which astype would not
    return result


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
    place = np.clip(colors.T / np.float32(_STEP), 0, NODES - 1)
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
