"""CIELAB without rounding, CIEDE2000 (how different two colours look), and the mean of that over a picture.

Sharma, Wu, Dalal: "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
mathematical observations", Color Research and Application 30(1), 2005. Its parametric factors k_L, k_C and k_H are 1.

The paper works with hue angles. Here they are unit vectors: arcus tangents, sines and cosines cost more than all the
rest. Of the mean hue h, the sine and cosine are those of the bisector of the two hues, and T, a sum of cosines of
multiples of h, is a polynomial in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image, check_image
from tsm_training.errors import InvalidArgumentError
from tsm_training.measures.prepared import PreparedMetric, bands, check_same_size, compared

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 or float64, any shape; what goes in decides what comes out."""

_Planes: TypeAlias = Sequence[Floats] | Floats
"""L, a, b and chroma, each an array of one shape."""

_BAND_PIXELS: Final = 2**15
"""So many pixels at once: few enough for what is computed of them to stay in a core's cache."""

_BAND_BYTES: Final = _BAND_PIXELS * 4 * 32
"""Room for about so many intermediate results."""

_STEPS: Final = 2**20
"""A pixel's difference is counted in steps of 1/_STEPS, so that sums are whole numbers: in any order the same."""

_LARGEST_DIFFERENCE: Final = 100

_LARGEST_LAB: Final = 1e6
"""Far beyond any colour, and no power of it overflows."""


# --- from bytes to CIELAB ---------------------------------------------------------------------------------------------

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


# --- the formula ----------------------------------------------------------------------------------------------------


def _cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def _sine(degrees: float) -> float:
    return math.sin(math.radians(degrees))


# T = 1 − 0.17 cos(h − 30°) + 0.24 cos 2h + 0.32 cos(3h + 6°) − 0.20 cos(4h − 63°), and cos nh is the n-th polynomial of
# Chebyshev in cos h, while sin nh is one of the second kind, times sin h.
_EVEN_1, _EVEN_2, _EVEN_3, _EVEN_4 = -0.17 * _cosine(30), 0.24, 0.32 * _cosine(6), -0.20 * _cosine(63)
_EVEN: Final = [1 - (_EVEN_2 - _EVEN_4), _EVEN_1 - 3 * _EVEN_3, 2 * _EVEN_2 - 8 * _EVEN_4, 4 * _EVEN_3, 8 * _EVEN_4]
_ODD_1, _ODD_3, _ODD_4 = -0.17 * _sine(30), -0.32 * _sine(6), -0.20 * _sine(63)
_ODD: Final = [_ODD_1 - _ODD_3, -4 * _ODD_4, 4 * _ODD_3, 8 * _ODD_4]

_TERMS: Final = 10
_BLUE_COSINE: Final = _cosine(275) / 2
_BLUE_SINE: Final = _sine(275) / 2
_BLUE_EXPONENT: Final = [
    -((math.degrees(1) / 25) ** 2) * 2 * 4**n / (n**2 * math.comb(2 * n, n)) if n else 0.0 for n in range(_TERMS + 1)
]
"""−((h − 275°) / 25°)² as a power series of s = sin²((h − 275°) / 2), from φ² = 4 arcsin² √s.

The series is exact to 1e-8 where its exponential is more than nothing.
"""


def _polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """Return the value of a polynomial, its coefficients given from the lowest power up."""
    result = coefficients[-1] * x + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        result *= x
        result += coefficient
    return result


def _saturation(chroma: Floats) -> Floats:
    """Return √(C⁷ / (C⁷ + 25⁷))."""
    cube = chroma * chroma * chroma
    power = cube * cube * chroma
    return cast("Floats", np.sqrt(power / (power + 25.0**7)))


def _length(x: Floats, y: Floats) -> Floats:
    return cast("Floats", np.sqrt(x * x + y * y))


def _tiny(numbers: Floats) -> np.floating[Any]:
    """Return what keeps a divisor from being 0, where the quotient does not matter."""
    return np.finfo(numbers.dtype).tiny


def _differences(lab1: _Planes, lab2: _Planes) -> Floats:
    """Return ΔE00 of colours given as L, a, b and chroma, in arrays of any shape."""
    (light1, a1, b1, chroma1), (light2, a2, b2, chroma2) = lab1, lab2
    stretch = 1.5 - 0.5 * _saturation((chroma1 + chroma2) * 0.5)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = _length(a1, b1), _length(a2, b2)
    hue, cosine, sine = _hues((a1, b1, chroma1), (a2, b2, chroma2))
    chroma = (chroma1 + chroma2) * 0.5
    beyond_grey = (light1 + light2) * 0.5 - 50
    beyond_grey *= beyond_grey
    d_light = (light2 - light1) / (1 + 0.015 * beyond_grey / np.sqrt(20 + beyond_grey))
    d_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    t = _polynomial(cosine, _EVEN) + sine * _polynomial(cosine, _ODD)
    d_hue = hue / (1 + 0.015 * chroma * t)
    twist = 2 * _saturation(chroma) * _blueness(cosine, sine)
    return cast("Floats", np.sqrt(d_light * d_light + d_chroma * d_chroma + d_hue * (d_hue - twist * d_chroma)))


def _hues(color1: tuple[Floats, ...], color2: tuple[Floats, ...]) -> tuple[Floats, Floats, Floats]:
    """Return ΔH', and the cosine and sine of the mean hue, of colours given as a', b and C'.

    Where a colour is grey, ΔH' is 0, and ΔE00 does not depend on the mean hue.
    """
    (a1, b1, chroma1), (a2, b2, chroma2) = color1, color2
    product = chroma1 * chroma2
    first, second = chroma2 * a1, chroma1 * a2
    sum_a, difference_a = first + second, second - first
    first, second = chroma2 * b1, chroma1 * b2
    sum_b, difference_b = first + second, second - first
    length = _length(sum_a, sum_b)
    is_opposite = length < 0.1 * product  # more than 174° apart: the sum is too short to show a direction
    length = np.maximum(length, _tiny(length))
    cosine, sine = sum_a / length, sum_b / length
    if is_opposite.any():
        _turn_opposite(is_opposite, (a1, b1, a2, b2), (difference_a, difference_b), (cosine, sine))
    hue = (cosine * difference_b - sine * difference_a) / np.maximum(np.sqrt(product), _tiny(product))
    return hue, cosine, sine


def _turn_opposite(
    where: npt.NDArray[np.bool_],
    colors: tuple[Floats, ...],
    difference: tuple[Floats, Floats],
    direction: tuple[Floats, Floats],
) -> None:
    """Write into `direction` the mean of hues that are nearly opposite: perpendicular to their difference.

    It lies on the side of the shorter arc. For hues that are exactly opposite, the paper takes the mean of angles from
    0° to below 360°, which lies 90° behind the smaller one.
    """
    a1, b1, a2, b2 = (color[where] for color in colors)
    d_a, d_b = (part[where] for part in difference)
    turn = np.sign(a1 * b2 - a2 * b1)
    is_smaller = (b1 > 0) | ((b1 == 0) & (a1 > 0))
    turn = np.where(turn == 0, np.where(is_smaller, 1, -1), turn) / np.maximum(_length(d_a, d_b), _tiny(d_a))
    direction[0][where] = turn * d_b
    direction[1][where] = -turn * d_a


def _blueness(cosine: Floats, sine: Floats) -> Floats:
    """Return sin 2Δθ, with Δθ = 30° · exp(−((h − 275°) / 25°)²), for a mean hue h from 0° to below 360°."""
    result = np.exp(_polynomial(0.5 - _BLUE_COSINE * cosine - _BLUE_SINE * sine, _BLUE_EXPONENT))
    np.sin(math.pi / 3 * result, out=result)
    # The paper's h − 275° does not go round: from 0° up it is far away again.
    result *= (cosine < 0) | (sine < 0)
    return cast("Floats", result)


def ciede2000(lab1: npt.ArrayLike, lab2: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the colour difference ΔE00 of each pair of colours (float64); symmetric.

    Sharma, Wu, Dalal (2005), with k_L = k_C = k_H = 1. About 1 is just noticeable. Agrees with the paper's 34 pairs to
    their four decimals.

    >>> float(ciede2000([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485]).round(4))
    2.0425

    Args:
        lab1: CIELAB colours, any shape that ends in 3: L in [0, 100], a and b about ±128.
        lab2: As many colours, or a shape that numpy broadcasts, such as one colour to compare all others with.

    Returns:
        One difference for each pair, at least 0: the shape of the arguments without the last axis.

    Raises:
        InvalidArgumentError: an argument holds something else, or the shapes do not fit.
    """
    first, second = _checked_lab("lab1", lab1), _checked_lab("lab2", lab2)
    try:
        first, second = np.broadcast_arrays(first, second)
    except ValueError as error:
        raise InvalidArgumentError(
            "lab2", second.shape, f"an array whose shape can be broadcast with {first.shape}"
        ) from error
    planes = [_with_chroma(*np.moveaxis(np.atleast_2d(lab), -1, 0)) for lab in (first, second)]
    return cast("npt.NDArray[np.float64]", _differences(*planes).reshape(first.shape[:-1]))


def _checked_lab(name: str, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        lab = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(name, value, "an array of numbers") from error
    if lab.ndim == 0 or lab.shape[-1] != 3:  # noqa: PLR2004
        raise InvalidArgumentError(name, lab.shape, "an array whose shape ends in 3, for L, a and b")
    is_color = np.abs(lab) <= _LARGEST_LAB  # NaN is none
    if not is_color.all():
        seen = float(lab[~is_color][0])
        raise InvalidArgumentError(name, seen, "an array of finite numbers, L from 0 to 100, a and b about ±128")
    return lab


def _with_chroma(light: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    return light, a, b, _length(a, b)


# --- pictures -------------------------------------------------------------------------------------------------------


def color_difference_map(img1: Image, img2: Image) -> npt.NDArray[np.float32]:
    """Return the colour difference ΔE00 at each pixel (float32, H×W), at least 0; symmetric.

    The values are within 0.001 of those that `ciede2000` gives for the pictures in exact Lab; see `bgr_to_lab`.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.

    Raises:
        InvalidArgumentError: an argument is no picture.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    check_same_size(check_image(img1, "img1").shape, check_image(img2, "img2").shape)
    result = np.empty(img1.shape[:2], np.float32)
    for band in bands(result.shape, _BAND_PIXELS):
        result[band] = _differences(_lab_and_chroma(img1[band]), _lab_and_chroma(img2[band]))
    return result


def color_difference(img1: Image, img2: Image) -> float:
    """Return the mean colour difference ΔE00 of two pictures, from 0 for equal ones to about 100; symmetric.

    It is the mean of `color_difference_map`.

    Args:
        img1: uint8, H×W×3, BGR.
        img2: uint8, the same size, BGR.

    Raises:
        InvalidArgumentError: an argument is no picture.
        ImageSizeMismatchError: the sizes differ; nothing is ever resized.
    """
    return compared(_mean_difference_to, img1, img2)


def _lab_and_chroma(image: Image) -> _Planes:
    return _with_chroma(*lab_planes(image, np.float32))


def _mean_difference_to(image: Image) -> Callable[[Image], float]:
    size: tuple[int, ...] = image.shape[:2]
    truth = np.empty((4, *size), np.float32)
    for band in bands(size, _BAND_PIXELS):
        for number, values in enumerate(_lab_and_chroma(image[band])):
            truth[number][band] = values

    def mean_difference(other: Image) -> float:
        steps = 0
        for band in bands(size, _BAND_PIXELS):
            differences = _differences(_lab_and_chroma(other[band]), [plane[band] for plane in truth])
            steps += int(np.rint(differences * _STEPS).sum(dtype=np.float64))
        return steps / _STEPS / (size[0] * size[1])

    return mean_difference


class ColorDifference(PreparedMetric):
    """The mean ΔE00 as a metric: ``1 − min(mean, 100) / 100``, so that 0.01 is one ΔE00; see `color_difference`.

    Black against white is 0.0. Of the ground truth it keeps L, a, b and chroma, 16 bytes per pixel.
    """

    _pixel_bytes = 4 * 4
    _more_bytes = _BAND_BYTES

    def _scorer(self, ground_truth: Image) -> Callable[[Image], float]:
        mean = _mean_difference_to(ground_truth)
        return lambda output: 1.0 - min(mean(output), _LARGEST_DIFFERENCE) / _LARGEST_DIFFERENCE
