"""From the bytes of a picture file, whose header was read, to pixels as they are stored."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Generator
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.images.header import FLATTEN, Header, HeaderError

Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""BGR of 8 or 16 bits, H×W×3, or CMYK of 8, H×W×4, full ink being 255."""

# The decoder is told to leave the orientation alone: which formats it turns differs between versions of OpenCV.
_AS_STORED: Final = cv2.IMREAD_IGNORE_ORIENTATION
REDUCTIONS: Final = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
"""Divisors of a JPEG's sides, the largest first, and how the decoder is asked for them."""

_COLOUR_CHANNELS: Final = 3
_CMYK_CHANNELS: Final = 4
_BYTE: Final = 8
_DEEPEST: Final = 65535


def decode(data: bytes, header: Header, reduction: int = 1) -> Pixels:
    """Return a picture's pixels as stored, not turned upright, after making sure that nothing is transparent.

    With a `reduction` of `REDUCTIONS`, which takes a JPEG that is not CMYK, both sides are divided by it, rounded up.

    Raises:
        HeaderError: the pixels are damaged, transparent or others than the header says, or an extra is missing.
    """
    stored = b"".join(header.parts) if header.parts else data
    channels, depth = _COLOUR_CHANNELS + header.has_alpha, header.depth
    if header.image_format in ("HEIF", "AVIF"):
        pixels = _decode_heif(stored, header)
        depth = pixels.dtype.itemsize * 8
    elif header.model == "CMYK":
        pixels, channels = _decode_cmyk(stored, header), _CMYK_CHANNELS
    elif reduction > 1:
        pixels = _imdecode(stored, REDUCTIONS[reduction] | _AS_STORED)
    elif header.has_alpha:
        pixels = _imdecode(stored, cv2.IMREAD_UNCHANGED)
    else:
        pixels = _imdecode(stored, cv2.IMREAD_COLOR | _AS_STORED | (cv2.IMREAD_ANYDEPTH if depth > _BYTE else 0))
    expected = (*(-(-side // reduction) for side in (header.height, header.width)), channels)
    if pixels.shape != expected or pixels.dtype != np.dtype(f"uint{depth}"):
        raise HeaderError(f"decodes to {pixels.dtype} {pixels.shape}; its header declares uint{depth} {expected}")
    if not header.has_alpha:
        return pixels
    if pixels[:, :, _COLOUR_CHANNELS].min() != np.iinfo(pixels.dtype).max:
        raise HeaderError(f"is a {header.image_format} with transparent pixels; {FLATTEN}")
    return pixels[:, :, :_COLOUR_CHANNELS]


def _imdecode(data: bytes, flags: int) -> Pixels:
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise HeaderError(f"could not be decoded: {str(error).strip()}") from error
    if pixels is None:
        raise HeaderError("could not be decoded: its pixel data is damaged, or memory ran out")
    result: Pixels = pixels
    return result


# --- with the extra `photos` ----------------------------------------------------------------------------------------


def _decode_cmyk(data: bytes, header: Header) -> Pixels:
    plugin = _imported(
        "PIL.JpegImagePlugin" if header.image_format == "JPEG" else "PIL.TiffImagePlugin", "a CMYK picture"
    )
    opening = plugin.JpegImageFile if header.image_format == "JPEG" else plugin.TiffImageFile
    with _decoding(), opening(io.BytesIO(data)) as picture:
        pixels: npt.NDArray[np.uint8] = np.array(picture)
        # Adobe stores how much is left of the paper's white. Pillow takes every JPEG for Adobe's.
        is_adobes = "adobe" in picture.info or header.image_format != "JPEG"
    return pixels if is_adobes else 255 - pixels


def _decode_heif(data: bytes, header: Header) -> Pixels:
    if header.image_format == "AVIF":
        plugin = _imported("PIL.AvifImagePlugin", "an AVIF picture")
        with _decoding(), plugin.AvifImageFile(io.BytesIO(data)) as picture:
            turned = _imported("PIL.ImageOps", "an AVIF picture").exif_transpose(picture)
            pixels: npt.NDArray[Any] = np.array(turned.convert("RGBA" if header.has_alpha else "RGB"))
    else:
        heif = _imported("pillow_heif", "an HEIF picture")
        with _decoding():
            opened = heif.HeifFile(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
            picture = opened[opened.primary_index]
            pixels, bits = np.asarray(picture), picture.info["bit_depth"]
        if bits > _BYTE:
            pixels = np.rint(pixels * (np.float32(_DEEPEST) / ((1 << bits) - 1))).astype(np.uint16)
    if pixels.ndim == _COLOUR_CHANNELS - 1:
        pixels = pixels[:, :, np.newaxis].repeat(3, axis=2)
    return np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]])


def _imported(module: str, kind: str) -> Any:
    """Return a module of the extra, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise HeaderError(f'is {kind}, which takes an extra: pip install "tsm_training[photos]"') from None


@contextlib.contextmanager
def _decoding() -> Generator[None]:
    """Turn whatever Pillow and its plug-ins raise on a damaged file into a refusal."""
    try:
        yield
    except Exception as error:
        raise HeaderError(f"could not be decoded: {error}") from error
