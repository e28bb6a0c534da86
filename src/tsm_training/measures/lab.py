"""From the bytes of a picture to CIELAB, without rounding on the way."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image, check_image

__all__ = ["Floats", "bgr_to_lab", "lab_planes"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 or float64, any shape; what goes in decides what comes out."""

_LEVELS: Final = np.arange(256) / 255

_LINEAR: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004
"""The sRGB transfer curve (IEC 61966-2-1) undone for each of the 256 levels, 0–1."""

_RGB_TO_XYZ: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""The primaries of sRGB, which are those of ITU-R BT.709."""

_WHITE: Final = np.array([[0.95047], [1.0], [1.08883]])
"""X, Y and Z of the standard illuminant D65 for the 2° observer (ASTM E308)."""

_BGR_TO_RATIOS: Final = (_RGB_TO_XYZ / _WHITE)[:, ::-1]

_TOE: Final = (6 / 29) ** 3
"""Below it the cube root gives way to its tangent (CIE 15:2004)."""

_TOE_SLOPE: Final = (29 / 6) ** 2 / 3

_THIRD_OF_BIAS: Final = 709_921_077
"""Two thirds of the bits of 1.0, less what makes the first guess of a cube root good on average."""


def bgr_to_lab(image: Image) -> npt.NDArray[np.float64]:
    """Return a picture in CIELAB (float64, H×W×3): L in [0, 100], a and b within ±108.

    The picture is taken as sRGB (IEC 61966-2-1) under D65 (X, Y, Z = 0.95047, 1, 1.08883; 2° observer); the formulas
    are those of CIE 15:2004. Nothing is rounded, unlike in OpenCV's 8-bit Lab. It takes about 100 bytes per pixel.

    Args:
        image: uint8, H×W×3, BGR.

    Raises:
        InvalidArgumentError: the argument is no picture.
    """
    return np.stack(lab_planes(check_image(image, "image"), np.float64), axis=-1).astype(np.float64, copy=False)


def lab_planes(image: Image, kind: type[np.float32 | np.float64]) -> tuple[Floats, Floats, Floats]:
    """Return L, a and b of a picture (uint8, H×W×3, BGR) as three planes, H×W each, of the kind of float asked for."""
    blue, green, red = (_linear(channel, kind) for channel in cv2.split(image))
    x, y, z = (_response(blue * kind(b) + green * kind(g) + red * kind(r)) for b, g, r in _BGR_TO_RATIOS)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _linear(channel: npt.NDArray[Any], kind: type[np.float32 | np.float64]) -> Floats:
    return cast("Floats", cv2.LUT(channel, _LINEAR.astype(kind)))


def _response(ratio: Floats) -> Floats:
    """Return the cube root of what X, Y or Z is of the white's, or its tangent in the toe."""
    root = _cube_root(np.maximum(ratio, _TOE))
    root += (np.minimum(ratio, _TOE) - _TOE) * _TOE_SLOPE  # 0 above the toe
    return root


def _cube_root(x: Floats) -> Floats:
    """Return the cube root of positive numbers; relative error below 2e-7 in float32."""
    if x.dtype != np.float32:
        return cast("Floats", np.cbrt(x))
    # np.cbrt calls the C library number by number, which takes ten times as long as all the rest of the conversion.
    root: Floats = (x.view(np.int32) // 3 + _THIRD_OF_BIAS).view(np.float32)  # a third of the exponent: within 5 %
    cube = root * root * root
    root *= (cube + 2 * x) / (2 * cube + x)  # Halley's method: within 1e-4
    return cast("Floats", (2 * root + x / (root * root)) * np.float32(1 / 3))  # Newton's
