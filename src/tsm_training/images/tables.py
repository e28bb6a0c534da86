"""Tables of colours: where each colour of an image goes, kept as a table for as long as possible.

A table has 33 nodes a side, at 0, 8, …, 248 and 255. Colours between nodes are interpolated. An image is looked up in a
table once, band by band; tables are blended before that, so that a blend of many costs what one table costs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, cast

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arguments import check_text, check_whole_number
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError

STEP: Final = 8
"""Levels between two nodes."""

NODES: Final = 256 // STEP + 1
"""Nodes on a side of a table."""

_CHANNELS: Final = 3
_TOP: Final = 255
_SHAPE: Final = (NODES, NODES, NODES, _CHANNELS)
_LEAST_SIZE, _MOST_SIZE = 2, 256  # what readers of .cube files accept

_BAND_PIXELS: Final = 1 << 16
_LONGEST: Final = 1 << 14
"""OpenCV's remap refuses sides of 32767 pixels and more."""

_POSITION: Final = np.array([[0, 0, 1 / STEP], [NODES, 1 / STEP, 0], [0, 0, 0]], np.float32)
"""Takes (B, G, R) to column and row of a table; the third row is there because OpenCV is slow with two."""

_NOTHING: Final = np.zeros(4)
"""OpenCV's scalar 0, in the type that its stubs know."""


@functools.cache
def node_levels() -> npt.NDArray[np.float32]:
    """Return the levels at which nodes stand: 0, 8, …, 248 and 255."""
    levels = np.minimum(np.arange(NODES) * STEP, _TOP).astype(np.float32)
    levels.flags.writeable = False
    return levels


class _Band(NamedTuple):
    """Where the pixels of one part of an image lie in a table."""

    part: tuple[slice, slice]
    places: npt.NDArray[np.int16]
    fractions: npt.NDArray[np.uint16]


def positions(image: Image) -> Iterator[_Band]:
    """Yield where the pixels of an image (uint8, H×W×3, BGR) lie in any table, band by band: 6 bytes per pixel.

    They depend on the image only. Whoever looks it up in several tables keeps them.
    """
    height, width = image.shape[:2]
    rows = min(max(1, _BAND_PIXELS // width), _LONGEST)
    for top in range(0, height, rows):
        for left in range(0, width, _LONGEST):
            part = slice(top, min(top + rows, height)), slice(left, left + _LONGEST)
            column, row, _ = cv2.split(cv2.transform(image[part].astype(np.float32), _POSITION))
            # OpenCV rounds positions to 32nds of a step in any case; with nodes 8 levels apart they are exact eighths.
            places, fractions = cv2.convertMaps(column, row, cv2.CV_16SC2)
            yield _Band(part, cast("npt.NDArray[np.int16]", places), cast("npt.NDArray[np.uint16]", fractions))


def _checked_nodes(values: object) -> npt.NDArray[np.float32]:
    nodes = np.asarray(values)
    if nodes.shape not in (_SHAPE, (math.prod(_SHAPE[:3]), _CHANNELS)) or not np.issubdtype(nodes.dtype, np.floating):
        seen = f"{nodes.dtype} {nodes.shape}"
        raise InvalidArgumentError("nodes", seen, f"floating-point numbers of shape {_SHAPE}")
    if not np.isfinite(nodes).all():
        raise InvalidArgumentError("nodes", "NaN or infinity", "finite numbers")
    # What is out of gamut is clipped here and not at each pixel, so that a blend of tables is the blend of images.
    clipped: npt.NDArray[np.float32] = np.clip(nodes.reshape(_SHAPE), 0, _TOP).astype(np.float32)
    clipped.flags.writeable = False
    return clipped


@attrs.frozen(eq=False)
class ColorTable:
    """Where each colour of an image goes, whatever its place.

    Args:
        nodes: Colours (floating point, 33×33×33×3, or the same in a row) into which those of the nodes go: the first
            axis is B, then G, then R, the last holds B, G, R in 0–255. What lies beyond is clipped.

    Raises:
        InvalidArgumentError: `nodes` has another shape or type, or holds NaN or infinity.
    """

    nodes: npt.NDArray[np.float32] = attrs.field(converter=_checked_nodes, repr=False)

    @classmethod
    def identity(cls) -> ColorTable:
        """Return the table that leaves every colour as it is."""
        levels = node_levels()
        return cls(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1))

    @classmethod
    def blended(cls, tables: Iterable[tuple[float, ColorTable]]) -> ColorTable:
        """Return the weighted sum of tables; the shares are at least 0 and add up to at most 1.

        The sum is taken in the given order.
        """
        total = np.zeros(_SHAPE)
        for share, table in tables:
            total += share * table.nodes
        return cls(total)

    def apply(self, image: Image, at: Iterable[_Band] | None = None) -> Image:
        """Return an image (uint8, H×W×3, BGR) with every colour replaced, interpolated and rounded: a new one.

        Args:
            image: The image.
            at: Its `positions`, if they are known.
        """
        result = np.empty_like(image)
        for part, colors in self.looked_up(image, at):
            cv2.add(colors, _NOTHING, dst=result[part], dtype=cv2.CV_8U)  # rounds, which astype would not
        return result

    def looked_up(
        self, image: Image, at: Iterable[_Band] | None = None
    ) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[np.float32]]]:
        """Yield the parts of an image (uint8, H×W×3, BGR) and their new colours (float32) before they are rounded."""
        table = self._interpolated()
        for part, places, fractions in positions(image) if at is None else at:
            colors = cv2.remap(table, places, fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            yield part, cast("npt.NDArray[np.float32]", colors)

    def _interpolated(self) -> npt.NDArray[np.float32]:
        """Return the table as OpenCV can look it up (float32, 256·33×33×3).

        OpenCV interpolates between two axes at once. The third, B, is interpolated here for all its 256 levels, each
        with a 33×33 tile of its own.
        """
        nodes = self.nodes.copy()
        for axis in (nodes, nodes.swapaxes(0, 1), nodes.swapaxes(0, 2)):
            # the last node was evaluated at 255, the end of the range, and stands at 256
            axis[-1] += (axis[-1] - axis[-2]) / np.float32(STEP - 1)
        tiles = nodes.reshape(NODES, 1, -1)
        part = (np.arange(STEP, dtype=np.float32) / STEP)[None, :, None]
        table = (tiles[1:] - tiles[:-1]) * part
        table += tiles[:-1]
        return cast("npt.NDArray[np.float32]", table.reshape(-1, NODES, _CHANNELS))

    def to_cube(self, size: int = NODES, title: str = "tsm_training") -> str:
        """Return the table as a 3-D LUT in the text format ``.cube`` of Adobe and Iridas, which most editors read.

        Its domain is 0 to 1, and R varies fastest: "Cube LUT Specification 1.0", Adobe, 2013.

        Args:
            size: Nodes on a side, 2–256; 33 is usual.
            title: What editors show; without line breaks and quotation marks.

        Raises:
            InvalidArgumentError: an argument is out of its range.
        """
        if check_whole_number("size", size, _LEAST_SIZE) > _MOST_SIZE:
            raise InvalidArgumentError(
                "size", size, f"a whole number of at least {_LEAST_SIZE} and at most {_MOST_SIZE}"
            )
        if not check_text("title", title).isprintable() or '"' in title:
            raise InvalidArgumentError("title", title, "printable text without quotation marks")
        values = self._resampled(np.linspace(0, _TOP, size)) / _TOP
        lines = [f'TITLE "{title}"', f"LUT_3D_SIZE {size}", "DOMAIN_MIN 0.0 0.0 0.0", "DOMAIN_MAX 1.0 1.0 1.0"]
        lines += [f"{r:.6f} {g:.6f} {b:.6f}" for b, g, r in values.reshape(-1, _CHANNELS)]
        return "\n".join([*lines, ""])

    def _resampled(self, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the table interpolated at other levels on each axis (n×n×n×3)."""
        below = np.minimum((levels // STEP).astype(np.intp), NODES - 2)
        known = node_levels().astype(np.float64)
        part = (levels - known[below]) / (known[below + 1] - known[below])
        values = self.nodes.astype(np.float64)
        for axis in range(_CHANNELS):
            share = part.reshape([-1 if each == axis else 1 for each in range(_CHANNELS + 1)])
            low, high = np.take(values, below, axis), np.take(values, below + 1, axis)
            values = low + share * (high - low)
        return values


def sum_of(parts: Sequence[tuple[float, Image]], table: ColorTable | None, target: Image) -> Image:
    """Return a weighted sum of images, and of the target as a table has it, rounded once.

    Args:
        parts: Shares, and images of the target's size (uint8, H×W×3, BGR); the sum is taken in this order.
        table: Adds the target's colours after a look-up; its own share is in it already. None adds nothing.
        target: uint8, H×W×3, BGR.

    Returns:
        A new image, uint8, H×W×3, BGR.
    """
    if table is not None and not parts:
        return table.apply(target)
    result = np.empty_like(target)
    rows = max(1, _BAND_PIXELS // target.shape[1])
    for top in range(0, target.shape[0], rows):
        band = slice(top, top + rows)
        total = np.zeros(target[band].shape, np.float32)
        if table is not None:
            for part, colors in table.looked_up(target[band]):
                total[part] = colors
        for share, image in parts:
            cv2.scaleAdd(image[band].astype(np.float32), share, total, total)
        cv2.add(total, _NOTHING, dst=result[band], dtype=cv2.CV_8U)
    return result
