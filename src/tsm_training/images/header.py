"""What all readers of picture files share: what a header says, why a file is refused, and bounded reading."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

from tsm_training.errors import ImageError, ImageFormatError, ImageTooLargeError, ImageTruncatedError

_MAX_SIDE: Final = 1 << 20
"""Pixels per side; OpenCV refuses more, whatever the product of the sides."""

_MAX_PARTS: Final = 1 << 18
"""Chunks or segments per file: an eighth of this is usual for the largest pictures, and each takes its time to read."""

_PartT = TypeVar("_PartT")

UPRIGHT: Final = 1
ORIENTATIONS: Final = range(1, 9)
_SIDEWAYS: Final = range(5, 9)


class ColorTags(NamedTuple):
    """What a file says of its colours, as it is stored; `tsm_training.images.profiles` makes sense of it.

    ``icc`` is the embedded ICC profile; ``cicp``, ``gama`` and ``chrm`` are the contents of the PNG chunks of these
    names. They are empty where there are none. ``is_srgb`` tells of an sRGB chunk. ``fault`` says why a profile that
    is there could not be taken out of the file.
    """

    icc: bytes = b""
    cicp: bytes = b""
    gama: bytes = b""
    chrm: bytes = b""
    is_srgb: bool = False
    fault: str = ""


class Header(NamedTuple):
    """What the decoder needs to know, and what must agree with its result.

    ``width`` and ``height`` are in pixels as stored, before the orientation (EXIF numbering, 1–8) is applied.
    ``has_alpha`` says that the stored alpha channel has to be looked at. ``orientation_at`` is the place of a 16-bit
    orientation field that the decoder itself would obey (TIFF only), in the byte order ``byte_order`` of :mod:`struct`.
    ``model`` names the channels as ICC profiles do (``GRAY``, ``RGB``, ``CMYK``), whatever the decoder makes of them,
    and ``colors`` what they mean. ``exif`` is the EXIF block, from its byte-order mark on; a TIFF's is the file itself.
    """

    image_format: str
    width: int
    height: int
    orientation: int = UPRIGHT
    has_alpha: bool = False
    orientation_at: int | None = None
    byte_order: str = "<"
    model: str = "RGB"
    colors: ColorTags = ColorTags()
    exif: bytes = b""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels with the orientation applied."""
        return (self.height, self.width) if self.orientation in _SIDEWAYS else (self.width, self.height)


class HeaderError(Exception):
    """Why a file is refused; `error` is the public exception that fits. It never leaves the package."""

    def __init__(self, reason: str, error: type[ImageError] = ImageFormatError) -> None:
        super().__init__(reason, error)
        self.reason = reason
        self.error = error


def truncated(what: str) -> HeaderError:
    return HeaderError(f"ends early: {what}", ImageTruncatedError)


def check_size(width: int, height: int, max_pixels: int) -> None:
    declared = f"declares {width}×{height} pixels"
    if width < 1 or height < 1:
        raise HeaderError(f"{declared}; at least 1×1 is expected")
    if width * height > max_pixels:
        raise HeaderError(f"{declared}; at most {max_pixels} in all are allowed", ImageTooLargeError)
    if max(width, height) > _MAX_SIDE:
        raise HeaderError(f"{declared}; at most {_MAX_SIDE} a side can be decoded", ImageTooLargeError)


def unpack(layout: str, data: bytes, position: int, what: str) -> tuple[int, ...]:
    """Unpack integers at `position`, or say that the file ends within `what`."""
    if position + struct.calcsize(layout) > len(data):
        raise truncated(f"the {what} is incomplete")
    return struct.unpack_from(layout, data, position)


def bounded(parts: Iterator[_PartT]) -> Iterator[_PartT]:
    """Pass on the parts of a file, up to a number that no real file has."""
    for number, part in enumerate(parts):
        if number == _MAX_PARTS:
            raise HeaderError(f"consists of more than {_MAX_PARTS} parts")
        yield part


MAX_PROFILE: Final = 8 << 20
"""Bytes of an ICC profile; the largest tables that are sold for printing presses have less than half of it."""


def with_profile(colors: ColorTags, icc: bytes | None, fault: str) -> ColorTags:
    """Add a profile that was taken out of its container, or say that there is one which could not be."""
    if icc is not None and len(icc) > MAX_PROFILE:
        icc, fault = None, f"it has more than {MAX_PROFILE} bytes"
    return colors._replace(icc=icc) if icc else colors._replace(fault=fault or "it is empty")
