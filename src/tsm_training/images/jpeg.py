"""What a JPEG file says about itself."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

from tsm_training.images.directory import exif_orientation
from tsm_training.images.header import (
    ColorTags,
    Header,
    HeaderError,
    bounded,
    check_size,
    joined,
    overfull,
    truncated,
    unpack,
    with_profile,
)

_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""A marker that ends scan data: not a stuffed zero, not a fill byte, not a restart marker."""

_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES: Final = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded"),
}
_APP1: Final = 0xE1
_APP2: Final = 0xE2
_PROFILE: Final = b"ICC_PROFILE\0"
_SCAN: Final = 0xDA
_END: Final = 0xD9
_STANDALONE: Final = (0x01, 0xD8)
_BITS: Final = 8
_CMYK: Final = 4
_MODELS: Final = {1: "GRAY", 3: "RGB", _CMYK: "CMYK"}
_MAX_SCANS: Final = 128
_FEW_SCANS: Final = 20
_MAX_SCANNED: Final = 1 << 30
"""Bounds of the number of scans, and of it times the pixels. An encoder makes about ten, and each costs a pass over the
whole picture: many empty ones stall a decoder, most of all for a large picture."""

_DROPPED: Final = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Application segments but for JFIF's and Adobe's, and comments: decoders read and copy what we have no use for."""

_MAX_BYTES_PER_SAMPLE: Final = 8
"""A block of 64 samples has 64 codes of at most 16 bits with at most 11 more each; refinements come on top."""


def parse_jpeg(data: bytes, max_pixels: int) -> Header:
    """Return the header; see `parse_header`.

    It walks the markers to the end of the picture behind the last scan; whatever follows is not looked at.
    """
    header: Header | None = None
    exif: bytes | None = None
    profile: dict[bytes, bytes] = {}
    spans = [(0, 2)]
    scan_bytes: list[int] = []
    behind, is_scan = 2, False
    for marker, at, start, end in bounded(_segments(data)):
        if marker in _OTHER_FRAMES:
            raise HeaderError(f"is a JPEG of a kind that is not read: {_OTHER_FRAMES[marker]}")
        if marker in _FRAMES:
            if header is not None:
                raise HeaderError("is a JPEG with several frames; a single picture is expected")
            header = _frame(data[start:end], max_pixels)
        elif marker == _APP1 and exif is None and data.startswith(b"Exif\0\0", start):
            exif = data[start + 6 : end]
        elif marker == _APP2 and data.startswith(_PROFILE, start):
            head = start + len(_PROFILE)
            profile.setdefault(data[head : head + 2], data[head + 2 : end])
        if is_scan:
            spans.append((behind, at))
            scan_bytes.append(at - behind)
        if marker not in _DROPPED:
            spans.append((at, end))
        behind, is_scan = end, marker == _SCAN
    if header is None or not scan_bytes:
        raise HeaderError("is a JPEG without pixel data")
    _check_scans(header, scan_bytes)
    exif = exif or b""
    return header._replace(
        colors=_colors(profile), exif=exif, orientation=exif_orientation(exif), parts=joined(data, spans)
    )


def _check_scans(header: Header, scan_bytes: list[int]) -> None:
    most = min(_MAX_SCANS, max(_FEW_SCANS, _MAX_SCANNED // (header.width * header.height)))
    if len(scan_bytes) > most:
        raise HeaderError(f"is a JPEG of more than {most} scans")
    samples = _CMYK * (header.width + 32) * (header.height + 32)  # in whole blocks, of channels that may be subsampled
    if sum(scan_bytes) > _MAX_BYTES_PER_SAMPLE * samples:
        raise overfull(f"{sum(scan_bytes)} bytes of JPEG scans for {header.width}×{header.height} pixels")


def _frame(segment: bytes, max_pixels: int) -> Header:
    bits, height, width, channels = unpack(">BHHB", segment, 0, "JPEG frame header")
    check_size(width, height, max_pixels)
    if bits != _BITS:
        raise HeaderError(f"is a {bits}-bit JPEG; {_BITS} bits per channel are expected")
    if channels not in _MODELS:
        raise HeaderError(f"is a JPEG of {channels} channels; grey, colour or CMYK is expected")
    return Header("JPEG", width, height, model=_MODELS[channels])


def _colors(parts: dict[bytes, bytes]) -> ColorTags:
    """Join the parts of a profile, each under its number (from 1) and the number of all of them, in any order."""
    if not parts:
        return ColorTags()
    numbers = [bytes((number, len(parts))) for number in range(1, len(parts) + 1)] if len(parts) < 1 << 8 else []
    is_whole = bool(numbers) and parts.keys() == set(numbers)
    profile = b"".join(parts[number] for number in numbers) if is_whole else None
    return with_profile(ColorTags(), profile, "its JPEG segments do not fit together")


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, its place, start and end of what every segment holds, up to the end marker.

    Segments are stepped over by their lengths, so the end marker of a thumbnail inside one is not taken for the end of
    the picture. Between a scan header and the next marker is scan data; the search passes over it.
    """
    position = 2
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise truncated("a JPEG without an end marker behind its last scan")
        marker, start = data[match.start() + 1], match.end()
        if marker == _END:
            yield marker, match.start(), start, start
            return
        if marker in _STANDALONE:
            raise HeaderError(f"is damaged: a JPEG marker {marker:#x} where none may be")
        (length,) = unpack(">H", data, start, "JPEG segment")
        position = start + length
        if length < struct.calcsize(">H") or position > len(data):
            raise truncated(f"a JPEG segment {marker:#x} claims {length} bytes")
        yield marker, match.start(), start + 2, position
