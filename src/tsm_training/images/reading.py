"""Reading, judging and writing picture files; see `tsm_training.images`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias

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
from tsm_training.images.decoding import REDUCTIONS, Pixels, decode
from tsm_training.images.header import Header, HeaderError
from tsm_training.images.headers import parse_header
from tsm_training.images.metadata import answer_exif, described
from tsm_training.images.profiles import Conversion, conversion_of

READER_VERSION: Final = "2"
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
    ``height`` are in pixels with the orientation applied; ``image_format`` is PNG, JPEG, BMP, WebP,
    TIFF, HEIF or AVIF.

    ``profile`` names the colour space that the file states, by an ICC profile or otherwise, and is None where it states
    none that can be used. ``conversion`` says how its colours become sRGB: by a ``matrix``, through ``littlecms``, or
    ``none``, since they count as sRGB already; ``inks`` is for CMYK without a usable profile, where each ink takes its
    part of white. ``profile_fault`` says why a profile that is there counts as absent.
    """

    sha256: str
    num_bytes: int
    width: int
    height: int
    image_format: str
    profile: str | None = None
    conversion: Literal["none", "matrix", "littlecms", "inks"] = "none"
    profile_fault: str | None = None


_DEFAULT_LIMITS: Final = ImageLimits()
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def inspect_image(path: _Path, limits: ImageLimits = _DEFAULT_LIMITS) -> ImageInfo:
    """Look at a picture file closely enough to know that `read_image` will take it.

    Every pixel is decoded, but the result is not kept. A JPEG is decoded at an eighth of its size, which reads the file
    to its end at a fraction of the time and memory; of most PNG it is enough to inflate the pixels.

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
    header, conversion = _header(name, data, limits, thorough=True)
    if not header.is_sound:
        _decode(name, data, header, max(REDUCTIONS))
    return _info(data, header, conversion)


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
    header, conversion = _header(name, data, limits)
    enough = min(header.width, header.height) // (2 * side)
    pixels = conversion.apply(_decode(name, data, header, next((r for r in REDUCTIONS if r <= enough), 1)))
    square = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return _info(data, header, conversion), np.ascontiguousarray(_upright(square, header.orientation))


def read_image(
    path: _Path,
    limits: ImageLimits = _DEFAULT_LIMITS,
    *,
    expected_sha256: str | None = None,
    longest_side: int | None = None,
) -> Image:
    """Decode a picture file: a writable, contiguous array (uint8, H×W×3, BGR), upright.

    With `expected_sha256` (64 lower-case hexadecimal digits) nothing is decoded unless the contents have that digest. A
    picture with a side of more than `longest_side` pixels, at least 1, is averaged down until its longest side has as
    many; a large JPEG is decoded at a fraction of its size for that. Pictures of one size become pictures of one size.

    Raises:
        InvalidArgumentError: `path` is empty, holds a NUL or is no path; `expected_sha256` is no digest; or
            `longest_side` is no whole number of at least 1.
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
    if longest_side is not None:
        return _reduced(name, data, limits, check_whole_number("longest_side", longest_side))
    return _upright_pixels(name, data, limits)[0]


def _reduced(name: str, data: bytes, limits: ImageLimits, longest_side: int) -> Image:
    header, conversion = _header(name, data, limits)
    sides = header.width, header.height
    enough = max(sides) // (2 * longest_side)  # leaves at least two pixels to average over
    pixels = conversion.apply(_decode(name, data, header, next((r for r in REDUCTIONS if r <= enough), 1)))
    if max(sides) > longest_side:
        width, height = (max(1, round(side * longest_side / max(sides))) for side in sides)
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(_upright(pixels, header.orientation))


def read_image_and_exif(path: _Path, limits: ImageLimits = _DEFAULT_LIMITS) -> tuple[Image, bytes]:
    """Return what `read_image` does, and the EXIF block that a picture made of this one may have.

    Returns:
        The picture, uint8, H×W×3, BGR, upright; and the file's EXIF block, which begins with its byte-order mark, but
        says that the picture is upright, in sRGB and of the size that it has, and holds no thumbnail. It is empty where
        the file has none, or one that makes no sense.

    Raises:
        InvalidArgumentError: as `read_image` does.
        ImageError: as `read_image` does.
    """
    name = _checked_path(path)
    return decode_image(name, _read_file(name, limits), limits)


def decode_image(name: str, data: bytes, limits: ImageLimits) -> tuple[Image, bytes]:
    """Return what `read_image_and_exif` does of a file with these contents: a picture (uint8, H×W×3, BGR), and EXIF.

    Raises:
        ImageError: as `read_image` does; `name` stands in its message.
    """
    pixels, header = _upright_pixels(name, data, limits)
    block = data if header.image_format == "TIFF" else header.exif
    return pixels, answer_exif(block, *header.upright_size)


def write_image(path: _Path, image: Image, *, exif: bytes = b"") -> None:
    """Write a picture (uint8, H×W×3, BGR) in the format that the file name ends with; a profile in it says sRGB.

    With `exif`, an EXIF block such as `read_image_and_exif` returns, that is written too. BMP has room for neither.

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
        replace_file(name, described(encoded.tobytes(), exif, width, height))
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


def _header(name: str, data: bytes, limits: ImageLimits, *, thorough: bool = False) -> tuple[Header, Conversion]:
    try:
        header = parse_header(data, limits.max_pixels, thorough=thorough)
        return header, conversion_of(header.colors, header.model)
    except HeaderError as error:
        raise error.error(name, error.reason) from None


def _decode(name: str, data: bytes, header: Header, reduction: int = 1) -> Pixels:
    """Decode as stored; a JPEG that OpenCV decodes at a fraction of its size, if that is asked for."""
    is_reducible = header.image_format == "JPEG" and header.model != "CMYK"
    try:
        return decode(data, header, reduction if is_reducible else 1)
    except HeaderError as error:
        raise error.error(name, error.reason) from error


def _upright_pixels(name: str, data: bytes, limits: ImageLimits) -> tuple[Image, Header]:
    header, conversion = _header(name, data, limits)
    pixels = conversion.apply(_decode(name, data, header))
    return np.ascontiguousarray(_upright(pixels, header.orientation)), header


def _info(data: bytes, header: Header, conversion: Conversion) -> ImageInfo:
    facts = (hashlib.sha256(data).hexdigest(), len(data), *header.upright_size, header.image_format)
    return ImageInfo(*facts, conversion.profile, conversion.method, conversion.fault)


# --- turning and encoding -------------------------------------------------------------------------------------------

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


def _upright(image: Image, orientation: int) -> Image:
    """Turn and mirror a picture as its EXIF orientation (1–8) asks for."""
    if orientation in _TRANSPOSED:
        image = image.transpose(1, 0, 2)
    rows, columns = _FLIPS[orientation]
    return image[::rows, ::columns]
