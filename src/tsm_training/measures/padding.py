"""Pixels that say nothing of a picture: a border, a background or a mask, all of one colour."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image

_DOMINANT: Final = 0.1
"""A colour that more of the pixels have than this is padding, wherever it is."""

_LEAST_BORDER: Final = 0.01
"""A smaller area is no border: in most pictures a few pixels at the edge are equal by chance."""

_SAMPLED: Final = 2**16
"""About how many pixels decide which colour is the commonest one; of a tenth of a picture they show thousands."""


def padding(image: Image) -> npt.NDArray[np.bool_]:
    """Return which pixels of a picture are padding (bool, H×W): exactly one colour, in an area that is none by chance.

    Padding is what hangs together with the edges and has the commonest colour of the outermost pixels, if that is at
    least a hundredth of the picture: the bars of a letterbox, a frame, the background of a product. And it is every
    pixel of the picture's commonest colour, if more than a tenth have that. A picture of one colour has none.

    Args:
        image: uint8, H×W×3, BGR.
    """
    outermost = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    same = cv2.inRange(image, *_commonest(outermost))
    # Framed by its own colour, all that touches the edges hangs together.
    framed = cv2.copyMakeBorder(same, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[255])
    cv2.floodFill(framed, None, (0, 0), [1])
    is_padding = framed[1:-1, 1:-1] == 1
    if is_padding.mean() < _LEAST_BORDER:
        is_padding[:] = False
    step = max(1, math.isqrt(is_padding.size // _SAMPLED))
    dominant = cv2.inRange(image, *_commonest(image[::step, ::step].reshape(-1, 3))) > 0
    if dominant.mean() > _DOMINANT:
        is_padding |= dominant
    if is_padding.all():
        is_padding[:] = False
    return np.asarray(is_padding, np.bool_)


def _commonest(pixels: Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the commonest of many colours (uint8, n×3, BGR) as OpenCV wants it, as a lower and an upper bound."""
    codes, counts = np.unique(pixels.astype(np.int32) @ np.array([1, 2**8, 2**16], np.int32), return_counts=True)
    code = int(codes[counts.argmax()])
    color = np.array([code & 255, code >> 8 & 255, code >> 16], np.float64)
    return color, color
