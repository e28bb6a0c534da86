"""What a PNG file says about itself."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from tsm_training.images.directory import exif_orientation
from tsm_training.images.header import (
    MAX_PROFILE,
    ColorTags,
    Header,
    HeaderError,
    bounded,
    check_size,
    truncated,
    unpack,
    with_profile,
)

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK_FRAME: Final = 12  # length, type and CRC around the data of a chunk
_IHDR_BYTES: Final = 13
_COLOUR_TYPE_AT: Final = 25
_DEEP: Final = 16
_PALETTE: Final = 3
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), _PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths that the standard allows for each colour type."""

_WITH_ALPHA: Final = (4, 6)
_GREY: Final = (0, 4)
_KEPT: Final = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")
"""Chunks that describe the picture; all but the last have to come before its pixels."""


def parse_png(data: bytes, max_pixels: int) -> Header:
    header: Header | None = None
    kept: dict[bytes, bytes] = {}
    pixel_data = 0
    for kind, start, end in bounded(_chunks(data, max_pixels)):
        if kind == b"IHDR":
            header = _start(data[start:end])
        elif header is None:
            raise HeaderError(f"is a PNG that begins with a {kind!r} chunk; IHDR is expected")
        elif kind == b"acTL":
            raise HeaderError("is an animated PNG; a single picture is expected")
        elif kind == b"tRNS":
            # A palette may list alpha values, to be looked at; a single transparent colour is transparency for sure.
            if data[_COLOUR_TYPE_AT] != _PALETTE:
                raise HeaderError("is a PNG with a transparent colour (tRNS); an opaque picture is expected")
            header = header._replace(has_alpha=True)
        elif kind in _KEPT and (kind == b"eXIf" or not pixel_data):
            kept.setdefault(kind, data[start:end])
        pixel_data += (end - start) * (kind == b"IDAT")
    if header is None or not pixel_data:
        raise HeaderError("is a PNG without pixel data")
    exif = kept.get(b"eXIf", b"").removeprefix(b"Exif\0\0")
    return header._replace(colors=_colors(kept), exif=exif, orientation=exif_orientation(exif))


def _colors(kept: dict[bytes, bytes]) -> ColorTags:
    colors = ColorTags(
        cicp=kept.get(b"cICP", b""),
        gama=kept.get(b"gAMA", b""),
        chrm=kept.get(b"cHRM", b""),
        is_srgb=b"sRGB" in kept,
    )
    if b"iCCP" not in kept:
        return colors
    _name, _nul, packed = kept[b"iCCP"].partition(b"\0")
    inflating = zlib.decompressobj()
    try:
        profile = inflating.decompress(packed[1:], MAX_PROFILE + 1)  # the first byte names the method; there is one
    except zlib.error:
        profile = None
    if profile is not None and not inflating.eof and len(profile) <= MAX_PROFILE:
        profile = None
    return with_profile(colors, profile, "its PNG chunk cannot be inflated")


def _start(chunk: bytes) -> Header:
    if len(chunk) != _IHDR_BYTES:
        raise HeaderError(f"is a PNG with a header of {len(chunk)} bytes; {_IHDR_BYTES} are expected")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", chunk)
    if depth not in _DEPTHS.get(colour_type, ()):
        raise HeaderError(f"is a PNG of colour type {colour_type} with {depth} bits, which the standard does not know")
    if depth == _DEEP:
        raise HeaderError("is a 16-bit PNG; 8 bits per channel are expected")
    model = "GRAY" if colour_type in _GREY else "RGB"
    return Header("PNG", width, height, has_alpha=colour_type in _WITH_ALPHA, model=model)


def _chunks(data: bytes, max_pixels: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of every chunk up to IEND.

    A chunk's length is compared with the file before it is believed: a decoder may allocate what it claims. The size
    of the picture is looked at first, because a file that declares too much is refused for that, whole or not.
    """
    position = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, tag = unpack(">II", data, position, "PNG chunk header")
        kind = tag.to_bytes(4, "big")
        start, end = position + 8, position + 8 + length
        position += _CHUNK_FRAME + length
        if kind == b"IHDR" and len(data) >= start + 8:
            width, height = unpack(">II", data, start, "PNG header")
            check_size(width, height, max_pixels)
        if position > len(data):
            raise truncated(f"a PNG chunk {kind!r} claims {length} bytes, {max(len(data) - start, 0)} are there")
        if zlib.crc32(memoryview(data)[start - 4 : end]) != unpack(">I", data, end, "PNG chunk")[0]:
            raise HeaderError(f"is damaged: the checksum of its PNG chunk {kind!r} does not match")
        yield kind, start, end
