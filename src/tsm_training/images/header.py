"""What all readers of picture files share: what a header says, why a file is refused, and bounded reading."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
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
    ``has_alpha`` says that the stored alpha channel has to be looked at, and ``depth`` is 16 where the decoder gives
    16 bits per channel. ``is_sound`` says that decoding was found to succeed, without doing it. ``parts`` put together
    are what the decoder is given, without all that it does not need and might complain of; there are none where it is
    the file as it is.
    ``model`` names the channels as ICC profiles do (``GRAY``, ``RGB``, ``CMYK``), whatever the decoder makes of them,
    and ``colors`` what they mean. ``exif`` is the EXIF block, from its byte-order mark on; a TIFF's is the file itself.
    """

    image_format: str
    width: int
    height: int
    orientation: int = UPRIGHT
    has_alpha: bool = False
    depth: int = 8
    is_sound: bool = False
    parts: tuple[bytes | memoryview, ...] = ()
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


FLATTEN: Final = "an opaque one is expected: lay it on a background, and save it without alpha"
"""What to do with a transparent picture: nobody but its owner knows what should show through."""


def truncated(what: str) -> HeaderError:
    """Return the refusal of a file that is not whole."""
    return HeaderError(f"ends early: {what}", ImageTruncatedError)


def overfull(what: str) -> HeaderError:
    """Return the refusal of a file that would keep a decoder busy with more than it declares."""
    return HeaderError(f"holds more data than it declares: {what}")


def camera_raw(kind: str) -> HeaderError:
    """Return the refusal of what a sensor recorded; the previews inside are not the picture."""
    return HeaderError(f"is camera raw ({kind}): develop it first, and add the TIFF, PNG or JPEG that comes of it")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture without pixels, of too many, or with sides that cannot be decoded."""
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


def joined(data: bytes, spans: Iterable[tuple[int, int]]) -> tuple[memoryview, ...]:
    """Return the parts of a file from start to end each, as few as possible; none if together they are the file."""
    runs: list[tuple[int, int]] = []
    for start, end in spans:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return () if len(runs) == 1 else tuple(memoryview(data)[start:end] for start, end in runs)


MAX_PROFILE: Final = 8 << 20
"""Bytes of an ICC profile; the largest tables that are sold for printing presses have less than half of it."""


def with_profile(colors: ColorTags, icc: bytes | None, fault: str) -> ColorTags:
    """Add a profile that was taken out of its container, or say that there is one which could not be."""
    if icc is not None and len(icc) > MAX_PROFILE:
        icc, fault = None, f"it has more than {MAX_PROFILE} bytes"
    return colors._replace(icc=icc) if icc else colors._replace(fault=fault or "it is empty")
