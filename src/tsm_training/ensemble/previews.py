"""Small samples of pictures, kept so that blends can be compared without running a worker again."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from tsm_training.arrays import Image
from tsm_training.errors import ImageFormatError

__all__ = ["PREVIEW_SIDE", "decode_preview", "encode_preview", "sample_grid"]

PREVIEW_SIDE: Final = 96
"""The longest side of a preview, in pixels."""

_PNG_START: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def sample_grid(image: Image) -> Image:
    """Return a picture of at most 96 pixels a side, made of pixels of `image` on an even grid.

    Pixels are picked, not averaged: averaging would change the histograms of different workers' pictures unequally.
    Pictures of one size are always sampled at the same places.

    Args:
        image: uint8, H×W×3, BGR.
    """
    height, width = image.shape[:2]
    step = max(1.0, max(height, width) / PREVIEW_SIDE)
    rows, columns = (_grid_lines(side, step) for side in (height, width))
    return np.ascontiguousarray(image[np.ix_(rows, columns)])


def _grid_lines(side: int, step: float) -> list[int]:
    count = max(1, int(side / step))
    return [int((index + 0.5) * side / count) for index in range(count)]


def encode_preview(image: Image) -> bytes:
    """Return a preview (uint8, H×W×3, BGR) as a PNG file."""
    _done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def decode_preview(png: bytes) -> Image:
    """Return the picture (uint8, H×W×3, BGR) of a preview.

    Raises:
        ImageFormatError: these are not the bytes of a preview.
    """
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if _is_small(png) else None
    if image is None:
        raise ImageFormatError("preview", "the stored bytes are not a PNG picture")
    return np.asarray(image, np.uint8)


def _is_small(png: bytes) -> bool:
    """Tell from its header whether a PNG file has a preview's size: a damaged one may claim any."""
    width, height = png[16:20], png[20:24]
    return png.startswith(_PNG_START) and max(int.from_bytes(side) for side in (width, height)) <= PREVIEW_SIDE
