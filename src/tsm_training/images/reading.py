"""Reading, judging and writing picture files; see `tsm_training.images`."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import cv2
import numpy as np

from tsm_training.arguments import at_least, check_path, check_whole_number
from tsm_training.arrays import Image, check_image
from tsm_training.errors import (
    ImageChangedError,
    ImageFormatError,
    ImageNotFoundError,
    ImageOutsideRootError,
    ImageTooLargeError,
    ImageUnreadableError,
    ImageUnwritableError,
    InvalidArgumentError,
)
from tsm_training.files import (
    FileTooLargeError,
    NotARegularFileError,
    OutsideRootError,
    leads_inside,
    read_regular_file,
    replace_file,
    system_reason,
)
from tsm_training.images.headers import Header, HeaderError, parse_header

READER_VERSION: Final = "1"
"""Another whenever `read_image` gives other pixels for a file than before, so that old and new scores do not mix."""

_Path: TypeAlias = str | bytes | os.PathLike[str]


def _a_folder(value: _Path | None) -> str | None:
    """Return a folder as an absolute path without links, so that neither chdir nor a new link makes it another one."""
    if value is None:
        return None
    folder = os.path.realpath(os.fsdecode(value) if isinstance(value, bytes) else check_path("root", value))
    if not Path(folder).is_dir():
        raise InvalidArgumentError("root", value, "an existing folder, or None for any place")
    return folder


def _folders(values: Iterable[_Path]) -> tuple[str, ...]:
    return tuple(folder for value in values if (folder := _a_folder(value)) is not None)


@attrs.frozen
class ImageLimits:
    """Which picture files may be read: how large they may be, and where they may lie.

    Args:
        max_bytes: How large a file may be.
        max_pixels: How large width times height may be.
        root: The only folder that pictures may come from, itself or folders below it; None for any place. Links are
            followed first, so one that leads out of the folder is refused like a path with ``..``. It must exist, and
            is stored absolute.
        more_roots: Further folders that pictures may come from, where there is a `root`.

    Raises:
        InvalidArgumentError: a limit is no whole number of at least 1, or `root`, or one of `more_roots`, is no folder.
    """

    max_bytes: int = attrs.field(default=256 * 1024**2, validator=at_least(1))
    max_pixels: int = attrs.field(default=64_000_000, validator=at_least(1))
    root: str | None = attrs.field(default=None, converter=_a_folder)
    more_roots: tuple[str, ...] = attrs.field(default=(), converter=_folders)

    def root_of(self, path: _Path) -> str | None:
        """Return the folder among the roots that a path, with all links followed, leads into; `root` if into none."""
        roots = () if self.root is None else (self.root, *self.more_roots)
        return next((root for root in roots if leads_inside(path, root)), self.root)


@attrs.frozen
class ImageInfo:
    """What is known of a picture file that was looked at.

    ``sha256`` is the digest of the file's contents (64 hexadecimal digits), ``num_bytes`` its size; ``width`` and
    ``height`` are in pixels with the orientation applied; ``image_format`` is PNG, JPEG, BMP, WebP or TIFF.
    """

    sha256: str
    num_bytes: int
    width: int
    height: int
    image_format: str


_DEFAULT_LIMITS: Final = ImageLimits()
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def inspect_image(path: _Path, limits: ImageLimits = _DEFAULT_LIMITS) -> ImageInfo:
    """Look at a picture file closely enough to know that `read_image` will take it.

    Every pixel is decoded, but the result is not kept; a JPEG is decoded at an eighth of its size, which reads the file
    to its end at a fraction of the time and memory.

    Raises:
        InvalidArgumentError: `path` is empty, holds a NUL or is no path.
        ImageOutsideRootError: it leads out of the folder that `limits` allow.
        ImageNotFoundError: there is no such file.
        ImageUnreadableError: it is no regular file, or the system refuses to read it.
        ImageTooLargeError: the file or the picture exceeds `limits`.
        ImageFormatError: it is no picture of an accepted kind, or ends early (`ImageTruncatedError`).
    """
    name = _checked_path(path)
    data = _read_file(name, limits)
    header = _header(name, data, limits)
    if header.image_format == "JPEG":
        _decode_reduced(name, data, header, max(_REDUCTIONS))
    else:
        _decode(name, data, header)
    return _info(data, header)


def read_thumbnail(path: _Path, side: int, limits: ImageLimits = _DEFAULT_LIMITS) -> tuple[ImageInfo, Image]:
    """Return what `inspect_image` finds, and the picture averaged down to a square, from one reading of the file.

    A large JPEG is decoded at an eighth, a quarter or half of its size, whichever leaves at least twice `side` pixels
    to average over.

    Args:
        path: Of the picture file.
        side: Of the square in pixels, at least 1; the picture is pressed into it whatever its shape, upright.
        limits: Which files may be read.

    Returns:
        The facts, and a picture uint8, H×W×3 with both sides `side`, BGR.

    Raises:
        InvalidArgumentError: `side` is no whole number of at least 1; otherwise as `inspect_image`.
        ImageError: as `inspect_image` does.
    """
    side = check_whole_number("side", side)
    name = _checked_path(path)
    data = _read_file(name, limits)
    header = _header(name, data, limits)
    enough = min(header.width, header.height) // (2 * side)
    reduction = next((r for r in _REDUCTIONS if r <= enough), 1)
    if header.image_format == "JPEG" and reduction > 1:
        pixels = _decode_reduced(name, data, header, reduction)
    else:
        pixels = _decode(name, data, header)
    square = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return _info(data, header), np.ascontiguousarray(_upright(square, header.orientation))


def read_image(path: _Path, limits: ImageLimits = _DEFAULT_LIMITS, *, expected_sha256: str | None = None) -> Image:
    """Decode a picture file: a writable, contiguous array (uint8, H×W×3, BGR), upright.

    With `expected_sha256` (64 lower-case hexadecimal digits) nothing is decoded unless the contents have that digest.

    Raises:
        InvalidArgumentError: `path` is empty, holds a NUL or is no path; or `expected_sha256` is no digest.
        ImageOutsideRootError: it leads out of the folder that `limits` allow.
        ImageNotFoundError: there is no such file.
        ImageUnreadableError: it is no regular file, or the system refuses to read it.
        ImageChangedError: its contents do not have the expected digest.
        ImageTooLargeError: the file or the picture exceeds `limits`.
        ImageFormatError: it is no picture of an accepted kind, or ends early (`ImageTruncatedError`).
    """
    name, expected = _checked_path(path), expected_sha256
    if expected is not None and not _SHA256.fullmatch(str(expected)):
        raise InvalidArgumentError("expected_sha256", expected, "64 lower-case hexadecimal digits, or None")
    data = _read_file(name, limits)
    if expected is not None and (digest := hashlib.sha256(data).hexdigest()) != expected:
        reason = f"has changed since it was added: its SHA-256 is {digest}; {expected} is expected"
        raise ImageChangedError(name, reason)
    header = _header(name, data, limits)
    return np.ascontiguousarray(_upright(_decode(name, data, header), header.orientation))


def write_image(path: _Path, image: Image) -> None:
    """Write a picture (uint8, H×W×3, BGR) in the format that the file name ends with.

    ``.png``, ``.bmp``, ``.webp``, ``.tif`` and ``.tiff`` keep every pixel value; ``.jpg`` and ``.jpeg`` are written at
    quality 95. The file appears whole or not at all: it is written beside its place under another name and then moved.
    A new file gets the permissions that the process gives to new files, a replaced one keeps those it had. A symbolic
    link is followed.

    Raises:
        InvalidArgumentError: `path` is no path or has another ending, or `image` is no picture.
        ImageFormatError: the format cannot hold a picture of that size.
        ImageNotFoundError: there is no such folder.
        ImageUnreadableError: there is something else than a regular file at `path`.
        ImageUnwritableError: the system refuses to write the file.
    """
    name = _checked_path(path)
    extension = Path(name).suffix.lower()
    if extension not in _ENCODINGS:
        raise InvalidArgumentError("path", name, f"a file name that ends with one of {', '.join(_ENCODINGS)}")
    height, width = check_image(image, "image").shape[:2]
    try:
        done, encoded = cv2.imencode(extension, np.ascontiguousarray(image), _ENCODINGS[extension])
    except cv2.error:
        done, encoded = False, np.empty(0, np.uint8)
    if not done:
        raise ImageFormatError(name, f"could not be encoded with {width}×{height} pixels")
    try:
        replace_file(name, encoded.tobytes())
    except FileNotFoundError as error:
        reason = f"could not be written: there is no folder {os.path.dirname(name)!r}"  # noqa: PTH120 - bytes too
        raise ImageNotFoundError(name, reason) from error
    except NotARegularFileError as error:
        raise ImageUnreadableError(name, system_reason(error), error.errno) from error
    except OSError as error:
        raise ImageUnwritableError(name, f"could not be written: {system_reason(error)}", error.errno) from error


# --- paths and files ------------------------------------------------------------------------------------------------


def _checked_path(path: object) -> str:
    """Return a usable path as text; bytes that are not UTF-8 become surrogates, which Python turns back."""
    expected = "a path: str, bytes or os.PathLike, not empty, without NUL, in characters that a file name can have"
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InvalidArgumentError("path", path, expected)
    name = os.fsdecode(path)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or b"\0" in encoded:
        raise InvalidArgumentError("path", path, expected)
    return name


def _read_file(name: str, limits: ImageLimits) -> bytes:
    try:
        return read_regular_file(name, limits.max_bytes, limits.root_of(name))
    except OutsideRootError as error:
        raise ImageOutsideRootError(name, system_reason(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageNotFoundError(name, "there is no such file") from error
    except FileTooLargeError as error:
        raise ImageTooLargeError(name, system_reason(error)) from error
    except NotARegularFileError as error:
        raise ImageUnreadableError(name, system_reason(error), error.errno) from error
    except OSError as error:
        raise ImageUnreadableError(name, f"cannot be read: {system_reason(error)}", error.errno) from error


def _header(name: str, data: bytes, limits: ImageLimits) -> Header:
    try:
        return parse_header(data, limits.max_pixels)
    except HeaderError as error:
        raise error.error(name, error.reason) from None


def _info(data: bytes, header: Header) -> ImageInfo:
    width, height = header.upright_size
    return ImageInfo(hashlib.sha256(data).hexdigest(), len(data), width, height, header.image_format)


# --- decoding and encoding ------------------------------------------------------------------------------------------

# The decoder is told to leave the orientation alone: which formats it turns differs between versions of OpenCV.
_AS_STORED: Final = cv2.IMREAD_IGNORE_ORIENTATION
_REDUCTIONS: Final = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
"""Divisors of a JPEG's sides, the largest first, and how the decoder is asked for them."""
_OPAQUE: Final = 255
_COLOUR_CHANNELS: Final = 3

_TRANSPOSED: Final = range(5, 9)
_FLIPS: Final = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Steps along rows and columns (−1: backwards) for each orientation, after the transposition of 5–8."""

_ENCODINGS: Final[dict[str, list[int]]] = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".bmp": [],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
    ".tif": [],
    ".tiff": [],
}

WRITABLE_ENDINGS: Final = frozenset(_ENCODINGS)
"""What the names of picture files may end with that `write_image` writes, in small letters."""


def _decode(name: str, data: bytes, header: Header) -> Image:
    """Decode to BGR as stored, not turned upright, after making sure that nothing is transparent."""
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else cv2.IMREAD_COLOR | _AS_STORED
    stored: bytes | bytearray = data
    if header.orientation_at is not None:  # a decoder of TIFF obeys it regardless
        stored = bytearray(data)
        struct.pack_into(f"{header.byte_order}H", stored, header.orientation_at, 1)
    pixels = _imdecode(name, stored, flags, (header.height, header.width, _COLOUR_CHANNELS + header.has_alpha))
    if header.has_alpha and pixels[:, :, _COLOUR_CHANNELS].min() != _OPAQUE:
        raise ImageFormatError(name, f"is a {header.image_format} with transparent pixels; an opaque one is expected")
    return pixels[:, :, :_COLOUR_CHANNELS]


def _decode_reduced(name: str, data: bytes, header: Header, reduction: int) -> Image:
    """Decode a JPEG to BGR at a fraction of its size, as stored, not turned upright."""
    height, width = (-(-side // reduction) for side in (header.height, header.width))
    return _imdecode(name, data, _REDUCTIONS[reduction] | _AS_STORED, (height, width, _COLOUR_CHANNELS))


def _imdecode(name: str, data: bytes | bytearray, flags: int, expected: tuple[int, int, int]) -> Image:
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageFormatError(name, f"could not be decoded: {str(error).strip()}") from error
    if pixels is None:
        raise ImageFormatError(name, "could not be decoded: its pixel data is damaged, or memory ran out")
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ImageFormatError(name, f"decodes to {pixels.dtype} {pixels.shape}; its header declares uint8 {expected}")
    result: Image = pixels
    return result


def _upright(image: Image, orientation: int) -> Image:
    """Turn and mirror a picture as its EXIF orientation (1–8) asks for."""
    if orientation in _TRANSPOSED:
        image = image.transpose(1, 0, 2)
    rows, columns = _FLIPS[orientation]
    return image[::rows, ::columns]
