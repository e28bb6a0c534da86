"""What an HEIF or AVIF file says about itself: boxes within boxes, after ISO/IEC 14496-12 and 23008-12."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from tsm_training.images.directory import BYTE_ORDERS
from tsm_training.images.header import (
    ColorTags,
    Header,
    HeaderError,
    bounded,
    camera_raw,
    check_size,
    truncated,
    unpack,
    with_profile,
)

_STILL: Final = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif"}
_SEQUENCES: Final = {b"avis", b"hevc", b"hevx", b"msf1"}
_ALPHA: Final = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_FULL_BOX: Final = 4  # version and flags
_SMALL_IDS: Final = 2  # versions of an item's entry from this one on number the items with 32 bits
_QUARTER_TURNED: Final = 1

_UNSPECIFIED: Final = 2
_Box: TypeAlias = tuple[bytes, int, int]
_Boxes: TypeAlias = dict[bytes, tuple[int, int]]


def parse_heif(data: bytes, max_pixels: int) -> Header:
    """Return the header of the primary picture; see `parse_header`. Sizes and orientation are those of the decoder."""
    top = _boxes(data, 0, len(data))
    brands = _brands(data, top)
    if b"crx " in brands:
        raise camera_raw("Canon CR3")
    if data[8:12] in _SEQUENCES:
        raise HeaderError("is a sequence of pictures; a single one is expected")
    if not brands & _STILL:
        raise HeaderError(f"is a file of the HEIF or MP4 family ({data[8:12]!r}); a picture is expected")
    if b"meta" not in top:
        raise HeaderError("is damaged: no box of this HEIF file describes the picture")
    start, end = top[b"meta"]
    meta = _boxes(data, start + _FULL_BOX, end)
    properties, primary = _properties(data, meta)
    for kind, at, _end in properties.values():
        if kind == b"ispe":
            check_size(*_size(data, at), max_pixels)
    (width, height), colors = _of_primary(data, [properties[n] for n in primary if n in properties])
    check_size(width, height, max_pixels)
    return Header(
        "AVIF" if b"avif" in brands else "HEIF",
        width,
        height,
        has_alpha=any(
            data.startswith(_ALPHA, at + _FULL_BOX) for kind, at, _ in properties.values() if kind == b"auxC"
        ),
        colors=colors,
        exif=_exif(data, meta),
    )


def _of_primary(data: bytes, properties: Iterable[_Box]) -> tuple[tuple[int, int], ColorTags]:
    """Return the size, upright, and the colours that the properties of a picture state."""
    size, colors = (0, 0), ColorTags()
    for kind, at, end in properties:
        if kind == b"ispe":
            size = _size(data, at)
        elif kind == b"clap":  # what is left of it when it is cut to the pixels that are meant
            width, in_width, height, in_height = unpack(">4I", data, at, "HEIF aperture")
            size = width // max(in_width, 1), height // max(in_height, 1)
        elif kind == b"irot" and data[at] & _QUARTER_TURNED:
            size = size[1], size[0]
        elif kind == b"colr" and data[at : at + 4] in (b"prof", b"rICC"):
            colors = with_profile(colors, data[at + 4 : end], "")
        elif kind == b"colr" and data[at : at + 4] == b"nclx":
            primaries, transfer = unpack(">HH", data, at + 4, "HEIF colour box")
            if _UNSPECIFIED not in (primaries, transfer):
                colors = colors._replace(cicp=bytes([primaries & 0xFF, transfer & 0xFF, 0, 1]))  # as PNG has it, of RGB
    return size, colors._replace(cicp=b"") if colors.icc else colors


def _children(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield type, start and end of what each box between two places holds."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            ((size,), head) = (unpack(">Q", data, start + 8, "HEIF box"), 16)
        elif size == 0:  # up to the end
            size = end - start
        if size < head or start + size > end:
            raise truncated(f"an HEIF box {kind!r} claims {size} bytes, {end - start} are there")
        yield kind, start + head, start + size
        start += size


def _boxes(data: bytes, start: int, end: int) -> _Boxes:
    """Return the place of the first box of each type."""
    found: _Boxes = {}
    for kind, at, stop in bounded(_children(data, start, end)):
        found.setdefault(kind, (at, stop))
    return found


def _brands(data: bytes, top: _Boxes) -> set[bytes]:
    start, end = top[b"ftyp"]
    return {data[start : start + 4], *(data[at : at + 4] for at in range(start + 8, end - 3, 4))}


def _size(data: bytes, at: int) -> tuple[int, int]:
    width, height = unpack(">II", data, at + _FULL_BOX, "HEIF size")
    return width, height


def _properties(data: bytes, meta: _Boxes) -> tuple[dict[int, _Box], list[int]]:
    """Return all properties by their numbers, and the numbers of those of the primary picture, in their order."""
    if not {b"pitm", b"iprp"} <= meta.keys():
        raise HeaderError("is damaged: its HEIF boxes do not say which picture is meant, or how large it is")
    at = meta[b"pitm"][0]
    (primary,) = unpack(">I" if data[at] else ">H", data, at + _FULL_BOX, "HEIF primary item")
    inner = _boxes(data, *meta[b"iprp"])
    if not {b"ipco", b"ipma"} <= inner.keys():
        raise HeaderError("is damaged: its HEIF boxes do not say how large the picture is")
    properties = dict(enumerate(bounded(_children(data, *inner[b"ipco"])), 1))
    at, _end = inner[b"ipma"]
    identifier, has_wide_numbers = (">I" if data[at] else ">H"), data[at + 3] & 1
    (entries,) = unpack(">I", data, at + _FULL_BOX, "HEIF properties")
    at += _FULL_BOX + 4
    for _ in bounded(iter(range(entries))):
        (item,) = unpack(identifier, data, at, "HEIF properties")
        at += struct.calcsize(identifier)
        (count,) = unpack(">B", data, at, "HEIF properties")
        numbers = unpack(f">{count}{'H' if has_wide_numbers else 'B'}", data, at + 1, "HEIF properties")
        at += 1 + count * (1 + has_wide_numbers)
        if item == primary:
            return properties, [number & (0x7FFF if has_wide_numbers else 0x7F) for number in numbers]
    return properties, []


def _exif(data: bytes, meta: _Boxes) -> bytes:
    """Return the EXIF block, from its byte-order mark on, if there is one in one piece."""
    if not {b"iinf", b"iloc"} <= meta.keys():
        return b""
    start, end = meta[b"iinf"]
    start += _FULL_BOX + (4 if data[start] else 2)
    for kind, at, stop in bounded(_children(data, start, end)):
        if kind == b"infe" and data[at] >= _SMALL_IDS and b"Exif" in data[at + 8 : stop][:6]:
            layout = ">H" if data[at] == _SMALL_IDS else ">I"
            place = _place(data, meta[b"iloc"], unpack(layout, data, at + _FULL_BOX, "HEIF item")[0])
            block = data[slice(*place)]
            block = block[4 + int.from_bytes(block[:4], "big") :].removeprefix(b"Exif\0\0")
            return block if block[:4] in BYTE_ORDERS else b""
    return b""


def _place(data: bytes, box: tuple[int, int], wanted: int) -> tuple[int, int]:
    """Return where the content of an item begins and ends; nowhere if it is not one piece of the file itself."""
    at, end = box
    version, (sizes,) = data[at], unpack(">H", data, at + _FULL_BOX, "HEIF places")
    offset_bytes, length_bytes, base_bytes, index_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    id_bytes = 4 if version == _SMALL_IDS else 2
    at += _FULL_BOX + 2

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(number(id_bytes)):
        item, method = number(id_bytes), number(2) if version else 0
        number(2)
        base, extents = number(base_bytes), number(2)
        if at > end or (item == wanted and (method or extents != 1)):
            break
        if item == wanted:
            number(index_bytes if version else 0)
            start = base + number(offset_bytes)
            return start, start + number(length_bytes)
        at += extents * ((index_bytes if version else 0) + offset_bytes + length_bytes)
    return 0, 0
