"""What a PNG file says about itself."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from tsm_training.images.directory import exif_orientation
from tsm_training.images.header import (
    FLATTEN,
    MAX_PROFILE,
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
_WITH_PALETTE: Final = (b"PLTE", b"tRNS")
_REFUSED: Final = {
    b"acTL": "is an animated PNG; a single picture is expected",
    b"tRNS": f"is a PNG with a transparent colour (tRNS); {FLATTEN}",
}
_DECODED: Final = (b"IHDR", b"IDAT", b"IEND")
_CHANNELS: Final = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
_ONE_PASS: Final = ((0, 0, 1, 1),)
_ADAM7: Final = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
)  # fmt: skip
"""Of each pass of an interlaced picture: first row and column, and the steps to the next ones."""

_SLACK: Final = 4096
"""Bytes that an encoder may waste on a picture of any size; of large ones an eighth besides, in many short blocks."""

_MAX_INFLATION: Final = 1040
"""Deflate makes 258 bytes of two bits at best."""

_MAX_FILTER: Final = 4
_OPAQUE_CHANNELS: Final = (0, 2)
"""Colour types of which each byte is a level, so that none can be wrong."""

_PIECE: Final = 1 << 14
_SAMPLE: Final = 1 << 15
_SUSPICIOUS: Final = 2
_KEPT: Final = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"tRNS", b"eXIf")
"""Chunks that describe the picture; all but the last have to come before its pixels."""


def parse_png(data: bytes, max_pixels: int, *, thorough: bool) -> Header:
    """Return the header; see `parse_header`."""
    header: Header | None = None
    kept: dict[bytes, bytes] = {}
    spans = [(0, len(SIGNATURE))]
    pixels: list[tuple[int, int]] = []
    for kind, start, end in bounded(_chunks(data, max_pixels)):
        if kind == b"IHDR":
            header = _start(data[start:end])
        elif header is None:
            raise HeaderError(f"is a PNG that begins with a {kind!r} chunk; IHDR is expected")
        elif kind == b"IDAT":
            pixels.append((start, end))
        elif kind in _KEPT and (kind == b"eXIf" or not pixels):
            kept.setdefault(kind, data[start:end])
        if kind in _DECODED or (kind in _WITH_PALETTE and data[_COLOUR_TYPE_AT] == _PALETTE):
            spans.append((start - 8, end + 4))
        elif kind in _REFUSED:
            raise HeaderError(_REFUSED[kind])
    if header is None or not pixels:
        raise HeaderError("is a PNG without pixel data")
    is_sound = _check_amount(data, pixels, thorough=thorough) and data[_COLOUR_TYPE_AT] in _OPAQUE_CHANNELS
    exif = kept.get(b"eXIf", b"").removeprefix(b"Exif\0\0")
    return header._replace(
        orientation=exif_orientation(exif),
        has_alpha=header.has_alpha or b"tRNS" in kept,  # of a palette, to be looked at
        is_sound=is_sound,
        parts=joined(data, spans),
        colors=_colors(kept),
        exif=exif,
    )


def _row_bytes(data: bytes) -> list[tuple[int, int]]:
    """Return how many rows each pass has, and their bytes before compression: the number of a filter, and pixels."""
    width, height, depth, colour_type, _, _, interlace = struct.unpack_from(">IIBBBBB", data, len(SIGNATURE) + 8)
    sizes = [
        (-(-(height - row) // down), -(-(width - column) // right))
        for row, column, down, right in (_ADAM7 if interlace else _ONE_PASS)
    ]
    bits = depth * _CHANNELS[colour_type]
    return [(rows, 1 + (columns * bits + 7) // 8) for rows, columns in sizes if rows > 0 and columns > 0]


def _check_amount(data: bytes, pixels: list[tuple[int, int]], *, thorough: bool) -> bool:
    """Refuse pixel data that inflate to more than the picture has, which a decoder would inflate to the end.

    To know for sure takes half as long as to decode. Unless `thorough`, all is inflated only if there is little, or if
    the beginning swells far more than the rest can without being too much.

    Returns:
        Whether the data were inflated to the end, and cannot but be decoded.
    """
    passes = _row_bytes(data)
    raw = sum(rows * row_bytes for rows, row_bytes in passes)
    packed = sum(end - start for start, end in pixels)
    if packed > raw + raw // 8 + _SLACK:
        raise overfull(f"{packed} bytes of PNG pixels, where {raw} need no compression at all")
    if (packed + _SLACK) * _MAX_INFLATION < raw:
        raise truncated(f"{packed} bytes of PNG pixels are there, which cannot inflate to {raw}")
    row_bytes = passes[0][1]
    inflating, inflated, seen, last_filter = zlib.decompressobj(), 0, 0, 0
    pieces = (memoryview(data)[at : min(at + _PIECE, end)] for start, end in pixels for at in range(start, end, _PIECE))
    for piece in pieces:
        try:
            rows = inflating.decompress(piece)
        except zlib.error:
            return False  # the decoder says so
        last_filter = max(last_filter, max(rows[-inflated % row_bytes :: row_bytes], default=0))
        inflated, seen = inflated + len(rows), seen + len(piece)
        if inflated > raw:
            raise overfull(f"its PNG pixels inflate to more than the {raw} bytes that its size declares")
        if inflating.eof or (not thorough and seen >= _SAMPLE and inflated * packed < _SUSPICIOUS * raw * seen):
            break
    return inflating.eof and inflated == raw and len(passes) == 1 and last_filter <= _MAX_FILTER


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
    model = "GRAY" if colour_type in _GREY else "RGB"
    return Header(
        "PNG", width, height, has_alpha=colour_type in _WITH_ALPHA, depth=_DEEP if depth == _DEEP else 8, model=model
    )


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
