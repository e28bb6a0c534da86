"""Tables of colours: a map is evaluated on a lattice of colours and looked up for every pixel."""

from __future__ import annotations

import functools
from typing import Final, cast

import cv2
import numpy as np

from tsm_training.arrays import Image
from tsm_training.color_transfer.spaces import CHANNELS, LEVELS, LONGEST, Colors, Space, row_strips, to_space

__all__ = ["interpolation_table", "lattice", "looked_up", "median_of_change"]


_STEP: Final = 8

_NODES: Final = LEVELS // _STEP + 1


@functools.cache
def lattice(space: Space) -> Colors:
    """Return the colours in which maps are evaluated (float32, 33³×3): B slowest, R fastest, 0, 8, …, 248 and 255."""
    axis = np.minimum(np.arange(_NODES) * _STEP, LEVELS - 1).astype(np.float32)
    colors = to_space(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, CHANNELS), space)
    colors.flags.writeable = False
    return colors


def interpolation_table(colors: Colors) -> Colors:
    """Turn the colours into which the lattice goes (N×3, BGR) into a table to look up (float32, 256·33×33×3).

    OpenCV interpolates between two axes at once. The third, B, is interpolated here for all its 256 levels, each with a
    33×33 tile of its own; with nodes 8 levels apart the positions on the other two are exact eighths.
    """
    nodes = colors.reshape(_NODES, _NODES, _NODES, CHANNELS).copy()
    for axis in (nodes, nodes.swapaxes(0, 1), nodes.swapaxes(0, 2)):
        # the last node was evaluated at 255, the end of the range, and stands at 256
        axis[-1] += (axis[-1] - axis[-2]) / np.float32(_STEP - 1)
    tiles = nodes.reshape(_NODES, 1, -1)
    part = (np.arange(_STEP, dtype=np.float32) / _STEP)[None, :, None]
    table = (tiles[1:] - tiles[:-1]) * part
    table += tiles[:-1]
    return cast("Colors", table.reshape(-1, _NODES, CHANNELS))


_POSITION: Final = np.array([[0, 0, 1 / _STEP], [_NODES, 1 / _STEP, 0], [0, 0, 0]], np.float32)
"""Takes (B, G, R) to column and row of a table; the third row is there because OpenCV is slow with two."""

_NOTHING: Final = np.zeros(4)
"""OpenCV's scalar 0, in the type that its stubs know."""


def looked_up(image: Image, table: Colors) -> Image:
    """Return the picture (uint8, H×W×3, BGR) with every colour replaced by what the table says, interpolated."""
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
