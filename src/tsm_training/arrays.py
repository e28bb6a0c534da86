"""The picture contract: what an array must be to count as a picture anywhere in this library."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tsm_training.errors import InvalidArgumentError

__all__ = ["ChannelOrder", "Image", "check_channel_order", "check_image", "exchanged", "frozen_copy", "image_fault"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""A picture: ``uint8``, H×W×3, BGR (OpenCV's channel order), values 0–255."""

ChannelOrder: TypeAlias = Literal["bgr", "rgb"]
"""In which order the channels of an array are: OpenCV's, or that of nearly everybody else."""

_CHANNELS: Final = 3
_DIMENSIONS: Final = 3
_ALPHA: Final = (4,)
_GREY: Final = ((), (1,))


def image_fault(value: object) -> str | None:
    """Say in a few words why `value` is no picture, or return None if it is one."""
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}"
    if value.dtype != np.uint8:
        return f"an array of dtype {value.dtype}"
    if value.ndim != _DIMENSIONS or value.shape[2] != _CHANNELS or 0 in value.shape:
        return f"an array of shape {value.shape}"
    return None


def _cure(value: object) -> str:
    """Say what makes a picture of something that is none; nothing where that is not known."""
    if not isinstance(value, np.ndarray):
        return ""
    if value.dtype.kind == "f":
        return "; of floats from 0 to 1, (255 * picture).round().clip(0, 255).astype('uint8') makes one"
    if value.dtype == np.uint16:
        return "; of 16 bits, (picture / 257).round().astype('uint8') makes one"
    if value.shape[2:] in _GREY and value.ndim >= _DIMENSIONS - 1:
        return "; of a grey picture, np.dstack([picture] * 3) makes one"
    return "; picture[..., :3] leaves out an alpha channel" if value.shape[2:] == _ALPHA else ""


def check_image(value: object, argument: str, color: ChannelOrder = "bgr") -> Image:
    """Return `value` unchanged if it can be a picture; that its channels are BGR, or RGB, cannot be seen.

    Raises:
        InvalidArgumentError: `value` is not a ``uint8`` array of shape (H, W, 3) with at least one pixel.
    """
    if fault := image_fault(value):
        expected = f"a uint8 array of shape (H, W, 3), {color.upper()}{_cure(value)}"
        raise InvalidArgumentError(argument, fault, expected)
    return cast("Image", value)


def check_channel_order(value: object) -> None:
    """Raise InvalidArgumentError unless this is an order of channels."""
    if value not in ("bgr", "rgb"):
        raise InvalidArgumentError("color", value, "'bgr' or 'rgb'")


def exchanged(image: Image) -> Image:
    """Return a new, contiguous picture (uint8, H×W×3): in RGB if the given one is BGR, and the other way round."""
    return np.ascontiguousarray(image[..., ::-1])


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
