"""Colour spaces, and the sizes of things that all parts of colour transfer share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.forking import alone_at_first

Colors: TypeAlias = npt.NDArray[np.float32]
"""Colours in a row: ``float32``, N×3, in the units of a `Space`."""

Space: TypeAlias = Literal["lab", "bgr"]
"""``"bgr"`` is sRGB, 0–255; ``"lab"`` is CIELAB in the units of OpenCV's 8-bit Lab: L·2.55, a + 128, b + 128."""

Float64: TypeAlias = npt.NDArray[np.float64]

CHANNELS: Final = 3

LEVELS: Final = 256

_STRIP_PIXELS: Final = 1 << 16


MOST_KEPT: Final = 1 << 22
"""Pixels. Of a larger image no intermediate results of its size are kept, and statistics are taken of so many."""


def kept_pixels(pixels: int) -> int:
    """Return of how many of an image's pixels intermediate results are kept for all workers: none of a large image."""
    return pixels if pixels <= MOST_KEPT else 0


def row_strips(image: Image, overlap: int = 0) -> Iterator[tuple[slice, slice]]:
    """Yield bands of rows that bound the memory for floats: the band itself, and it with `overlap` rows around."""
    rows = max(1, _STRIP_PIXELS // image.shape[1])
    for top in range(0, image.shape[0], rows):
        bottom = min(top + rows, image.shape[0])
        yield slice(top, bottom), slice(max(0, top - overlap), bottom + overlap)


LAB_SCALE: Final = np.array([2.55, 1, 1], np.float32)

LAB_OFFSET: Final = np.array([0, 128, 128], np.float32)


def decode(values: npt.ArrayLike) -> Float64:
    """Undo the sRGB transfer curve, 0–1 to 0–1."""
    v = np.asarray(values, np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC 61966-2-1


def encode(light: Float64) -> Float64:
    """Apply the sRGB transfer curve to linear light; values beyond 1 follow the same curve."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)  # noqa: PLR2004 - as above


def to_space(bgr: Colors, space: Space) -> Colors:
    """Return sRGB colours (N×3, BGR, 0–255) in another space."""
    if space == "bgr":
        return bgr
    # From linear light, because OpenCV looks sRGB up in a coarse table that is wrong by up to half a unit.
    light = decode(bgr / (LEVELS - 1)).astype(np.float32)
    with alone_at_first("linear BGR to Lab"):
        lab = cast("Colors", cv2.cvtColor(light[None], cv2.COLOR_LBGR2Lab)[0])
    return lab * LAB_SCALE + LAB_OFFSET


def to_bgr(colors: Colors, space: Space) -> Colors:
    """Return colours of a space as sRGB (N×3, BGR, 0–255); what is out of gamut stays out of range."""
    if space == "bgr":
        return colors
    lab = (colors - LAB_OFFSET) / LAB_SCALE
    with alone_at_first("Lab to BGR"):
        colors = cast("Colors", cv2.cvtColor(lab[None], cv2.COLOR_Lab2BGR)[0])
    return colors * np.float32(LEVELS - 1)


def transformed(colors: Colors, matrix: Colors) -> Colors:
    """Return colours (N×3) times a matrix (3×3, or 3×4 with an offset)."""
    # not numpy's matmul: BLAS may sum in another order when it has another number of threads
    return cast("Colors", cv2.transform(colors[None], matrix)[0])
