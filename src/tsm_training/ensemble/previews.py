"""Small samples of images, kept so that blends can be compared without running a worker again."""

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
    """Return an image of at most 96 pixels a side, made of pixels of `image` on an even grid.

    Pixels are picked, not averaged: averaging would change the histograms of different workers' images unequally.
    Images of one size are always sampled at the same places.

    Args:
        image: uint8, H×W×3, BGR.
    """
    step = max(1.0, max(image.shape[:2]) / PREVIEW_SIDE)
    counts = [(side, max(1, int(side / step))) for side in image.shape[:2]]
    lines = ([int((index + 0.5) * side / count) for index in range(count)] for side, count in counts)
    return np.ascontiguousarray(image[np.ix_(*lines)])


def encode_preview(image: Image) -> bytes:
    """Return a preview (uint8, H×W×3, BGR) as a PNG file."""
    _done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def decode_preview(png: bytes) -> Image:
    """Return the image (uint8, H×W×3, BGR) of a preview.

    Raises:
        ImageFormatError: these are not the bytes of a preview.
    """
    # A damaged file may claim any size.
    sides = [int.from_bytes(png[start : start + 4]) for start in (16, 20)]
    is_small = png.startswith(_PNG_START) and max(sides) <= PREVIEW_SIDE
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if is_small else None
    if image is None:
        raise ImageFormatError("preview", "the stored bytes are not a PNG picture")
    return np.asarray(image, np.uint8)
