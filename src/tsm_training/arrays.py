"""The picture contract: what an array must be to count as a picture anywhere in this library."""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tsm_training.errors import InvalidArgumentError

__all__ = ["Image", "check_image", "frozen_copy", "image_fault"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""A picture: ``uint8``, H×W×3, BGR (OpenCV's channel order), values 0–255."""

_CHANNELS: Final = 3
_DIMENSIONS: Final = 3


def image_fault(value: object) -> str | None:
    """Say in a few words why `value` is no picture, or return None if it is one."""
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}"
    if value.dtype != np.uint8:
        return f"an array of dtype {value.dtype}"
    if value.ndim != _DIMENSIONS or value.shape[2] != _CHANNELS or 0 in value.shape:
        return f"an array of shape {value.shape}"
    return None


def check_image(value: object, argument: str) -> Image:
    """Return `value` unchanged if it can be a picture; that its channels are BGR cannot be seen.

    Raises:
        InvalidArgumentError: `value` is not a ``uint8`` array of shape (H, W, 3) with at least one pixel.
    """
    if fault := image_fault(value):
        raise InvalidArgumentError(argument, fault, "a uint8 array of shape (H, W, 3), BGR")
    return cast("Image", value)


def frozen_copy(image: Image) -> Image:
    """Return a read-only copy of a picture (uint8, H×W×3, BGR) that nobody can make writable again.

    A read-only *view* can be switched back to writable by whoever holds it; an array over immutable bytes cannot. That
    is what lets several workers share one picture. What this function has given is returned as it is.
    """
    base: object = image
    while isinstance(base, np.ndarray):
        base = cast("object", base.base)  # bytes too, though NumPy's stub knows arrays only
    if type(image) is np.ndarray and type(base) is bytes and image.flags.c_contiguous:
        return image
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
