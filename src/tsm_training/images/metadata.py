"""What a written file says beside its pixels: that they are sRGB, and the EXIF block of what they were made of."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np

from tsm_training.images.directory import BYTE_ORDERS, VALUE_BYTES, Directory, directory_at, first_directory
from tsm_training.images.header import HeaderError
from tsm_training.images.profiles import srgb_profile

# --- EXIF blocks ----------------------------------------------------------------------------------------------------

_Fields: TypeAlias = dict[int, tuple[int, int, "bytes | _Fields"]]
"""Fields of a directory by tag: the type and the number of their values, and these; or another directory."""

_Tree: TypeAlias = Mapping[int, "_Tree"]

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
_DIRECTORIES: Final[_Tree] = {_EXIF: {_INTEROPERABILITY: {}}, _GPS: {}}
"""Fields that lead to further directories, and what these may lead to in turn. None of them is a thumbnail."""

_ASCII, _SHORT, _LONG, _UNDEFINED = 2, 3, 4, 7
_INLINE: Final = 4
"""Bytes that have room in the entry of a field."""

_RULES: Final = 1
"""The field of the interoperability directory that says what the colours mean: R98 for sRGB, R03 for Adobe RGB."""

_WORD_BYTES: Final = VALUE_BYTES | {5: 4, 10: 4}
"""Bytes of what has a byte order, by field type: a fraction consists of two numbers."""

_WIDTH, _HEIGHT, _ORIENTATION, _PROFILE = 256, 257, 274, 34675
_PIXEL_WIDTH, _PIXEL_HEIGHT, _COLOR_SPACE, _MAKER_NOTE, _GAMMA = 40962, 40963, 40961, 37500, 42240
_DESCRIPTIVE: Final = (_WIDTH, _HEIGHT, 269, 270, 271, 272, _ORIENTATION, 282, 283, 285, 296, 305, 306, 315, 316, 531)
"""Fields up to 532 that describe the picture. The others say how a TIFF stores it, and what its colours mean."""

_LAST_STRUCTURAL: Final = 532
_LEFT_OUT: Final = frozenset({700, 33723, 34377, _PROFILE, 37724, *range(50706, 51200)})
"""XMP, IPTC, what Photoshop and raw converters store, and the profile: they repeat what is changed here."""

_MOST: Final = 1 << 20
"""Bytes of a directory's values that are kept; a JPEG has room for 64 KiB in all."""

_NEAR: Final = 1 << 13
"""Where a maker's note may begin that keeps its place."""


def answer_exif(block: bytes, width: int, height: int) -> bytes:
    """Return the EXIF block for a picture made of another: upright, sRGB, of its own size, without a thumbnail.

    A maker's note keeps its place where that is possible, since it may point to places in the block.

    Args:
        block: The other's EXIF block, or the other itself if it is a TIFF. One that makes no sense counts as empty.
        width: Of the picture in pixels.
        height: Likewise.
    """
    if block[:4] not in BYTE_ORDERS:
        return b""
    try:
        directory = first_directory(block)
        found = _gathered(directory, directory.order, _MOST, _DIRECTORIES)
    except HeaderError:
        return b""
    order = directory.order
    fields = {t: f for t, f in found.items() if t in _DESCRIPTIVE or (t > _LAST_STRUCTURAL and t not in _LEFT_OUT)}
    fields[_ORIENTATION] = (_SHORT, 1, struct.pack(f"{order}H", 1))
    sizes = {_WIDTH: width, _HEIGHT: height, _PIXEL_WIDTH: width, _PIXEL_HEIGHT: height}
    out = bytearray(8)
    inner = fields.get(_EXIF, (0, 0, b""))[2]
    if isinstance(inner, dict):
        inner.pop(_GAMMA, None)
        inner[_COLOR_SPACE] = (_SHORT, 1, struct.pack(f"{order}H", 1))
        inner |= {tag: (_LONG, 1, struct.pack(f"{order}I", sizes[tag])) for tag in inner.keys() & sizes.keys()}
        if isinstance(rules := inner.get(_INTEROPERABILITY, (0, 0, b""))[2], dict) and _RULES in rules:
            rules[_RULES] = (_ASCII, 4, b"R98\0")
        note = inner.get(_MAKER_NOTE, (0, 0, b""))[2]
        if isinstance(note, bytes) and len(note) > _INLINE and len(out) < (place := block.find(note)) <= _NEAR:
            out = bytearray(place) + note
    fields |= {tag: (_LONG, 1, struct.pack(f"{order}I", sizes[tag])) for tag in fields.keys() & sizes.keys()}
    start = _lay_out(fields, order, out)
    out[:8] = block[:4] + struct.pack(f"{order}I", start)
    return bytes(out)


def _gathered(directory: Directory, order: str, most: int, tree: _Tree) -> _Fields:
    """Return what the fields of a directory hold, in a byte order, as far as that is not more than `most` bytes."""
    fields: _Fields = {}
    for tag, (kind, count, _place) in directory.entries.items():
        content = directory.content(tag, most)
        if content is None:
            continue
        most -= len(content)
        if tag in tree:
            (start,) = struct.unpack(f"{directory.order}I", content.ljust(4, b"\0")[:4])
            with contextlib.suppress(HeaderError):  # a damaged one is left out
                further = directory_at(directory.data, start)
                fields[tag] = (_LONG, 1, _gathered(further, order, most, tree[tag]))
            continue
        if directory.order != order:
            content = np.frombuffer(content, f"u{_WORD_BYTES[kind]}").byteswap().tobytes()
        fields[tag] = (kind, count, content)
    return fields


def _lay_out(fields: _Fields, order: str, out: bytearray) -> int:
    """Append a directory and what belongs to it, and return where it begins; a maker's note may be there already."""
    out += bytes(len(out) % 2)
    start = len(out)
    out += struct.pack(f"{order}H", len(fields)) + bytes(12 * len(fields) + 4)
    for number, (tag, (kind, count, content)) in enumerate(sorted(fields.items())):
        if isinstance(content, dict):
            content = struct.pack(f"{order}I", _lay_out(content, order, out))  # noqa: PLW2901
        elif len(content) > _INLINE:
            place = out.find(content) if tag == _MAKER_NOTE else -1
            if place < 0:
                out += bytes(len(out) % 2)
                place = len(out)
                out += content
            content = struct.pack(f"{order}I", place)  # noqa: PLW2901
        struct.pack_into(f"{order}HHI4s", out, start + 2 + 12 * number, tag, kind, count, content)
    return start


# --- containers -----------------------------------------------------------------------------------------------------


def described(encoded: bytes, exif: bytes, width: int, height: int) -> bytes:
    """Return an encoded picture with the profile of sRGB and an EXIF block, where its format has room for them.

    Args:
        encoded: PNG, JPEG, WebP or TIFF, as OpenCV writes them; a BMP comes back as it is.
        exif: As `answer_exif` returns it; empty for none.
        width: Of the picture in pixels.
        height: Likewise.
    """
    if encoded.startswith(b"\x89PNG"):
        chunks = [(b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile())), (b"eXIf", exif)]
        parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks if c)
        return encoded[:_PNG_HEADER_END] + b"".join(parts) + encoded[_PNG_HEADER_END:]
    if encoded.startswith(b"\xff\xd8"):
        return _described_jpeg(encoded, exif)
    if encoded.startswith(b"RIFF"):
        return _described_webp(encoded, exif, width, height)
    return _described_tiff(encoded, exif) if not encoded.startswith(b"BM") else encoded


_PNG_HEADER_END: Final = 33
_WEBP_PROFILE, _WEBP_EXIF = 0x20, 0x08
_JPEG_ROOM: Final = 65_533


def _described_jpeg(encoded: bytes, exif: bytes) -> bytes:
    if len(exif) + 6 > _JPEG_ROOM:
        warnings.warn(f"the EXIF block has {len(exif)} bytes, more than a JPEG can hold; it is left out", stacklevel=5)
        exif = b""
    segments = [(b"\xff\xe1", b"Exif\0\0" + exif)] if exif else []
    segments.append((b"\xff\xe2", b"ICC_PROFILE\0\1\1" + srgb_profile()))
    place = 4 + int.from_bytes(encoded[4:6]) if encoded[2:4] == b"\xff\xe0" else 2  # behind the header that is first
    parts = (marker + struct.pack(">H", len(content) + 2) + content for marker, content in segments)
    return encoded[:place] + b"".join(parts) + encoded[place:]


def _described_webp(encoded: bytes, exif: bytes, width: int, height: int) -> bytes:
    size = struct.pack("<HBHB", (width - 1) & 0xFFFF, (width - 1) >> 16, (height - 1) & 0xFFFF, (height - 1) >> 16)
    chunks = [
        (b"VP8X", bytes((_WEBP_PROFILE | (_WEBP_EXIF if exif else 0), 0, 0, 0)) + size),
        (b"ICCP", srgb_profile()),
    ]
    parts = [kind + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for kind, c in (*chunks, (b"EXIF", exif)) if c]
    body = b"WEBP" + b"".join((*parts[:2], encoded[12:], *parts[2:]))  # OpenCV writes the picture's chunk alone
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _described_tiff(encoded: bytes, exif: bytes) -> bytes:
    directory = first_directory(encoded)
    fields: _Fields = {}
    if exif:
        fields = _gathered(first_directory(exif), directory.order, _MOST, _DIRECTORIES)
    fields |= _gathered(directory, directory.order, len(encoded), {})
    fields[_PROFILE] = (_UNDEFINED, len(srgb_profile()), srgb_profile())
    out = bytearray(encoded)
    start = _lay_out(fields, directory.order, out)
    struct.pack_into(f"{directory.order}I", out, 4, start)
    return bytes(out)
