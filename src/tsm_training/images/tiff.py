"""What a TIFF file says about itself."""

from __future__ import annotations

import struct
from typing import Final

from tsm_training.images.directory import ORIENTATION_TAG, Directory, directory_at, first_directory
from tsm_training.images.header import (
    MAX_PROFILE,
    ORIENTATIONS,
    UPRIGHT,
    ColorTags,
    Header,
    HeaderError,
    camera_raw,
    check_size,
    overfull,
    truncated,
    with_profile,
)
from tsm_training.images.jpeg import parse_jpeg

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_PAGE_KIND, _SUB_PAGES, _SAMPLE_FORMAT, _PROFILE, _DNG_VERSION = 254, 330, 339, 34675, 50706
_DECODED: Final = frozenset({
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES,
    _PLANAR, 317, 320, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, 338, _SAMPLE_FORMAT, 347, 529, 530, 531,
    532,
})  # fmt: skip
"""Fields that a decoder needs; it complains of others that are damaged, or that it does not know."""

_UNCOMPRESSED: Final = 1
_JPEG: Final = 7
_DEFLATE: Final = (8, 32946)
_MAX_INFLATION: Final = {_UNCOMPRESSED: 1, 5: 4096, _JPEG: 1024, **dict.fromkeys(_DEFLATE, 1040), 32773: 64}
"""Accepted compressions (none, LZW, JPEG, Deflate under two numbers, PackBits), and by what each shrinks at best."""

_RAW_COMPRESSIONS: Final = {32767: "Sony", 34713: "Nikon", 65000: "Kodak", 65535: "Pentax"}
_RAW_PHOTOMETRICS: Final = (32803, 34892)
"""Of a colour filter array, and of sensor data in linear light."""

_REFUSED_COMPRESSIONS: Final = {2: "fax", 3: "fax", 4: "fax", 6: "old JPEG"}
_CMYK: Final = 5
_YCBCR: Final = 6
_REFUSED_PHOTOMETRICS: Final = {8: "CIE Lab", 9: "CIE Lab", 10: "CIE Lab"}
_SAMPLE_KINDS: Final = {2: "signed", 3: "floating-point"}
_LAYOUTS: Final = {
    0: ((1, 1), (1, 8)),
    1: ((1, 1), (1, 8), (1, 16)),
    2: ((3, 8), (4, 8), (3, 16), (4, 16)),
    3: ((1, 8),),
    _CMYK: ((4, 8),),
    _YCBCR: ((3, 8),),
}
"""Accepted (samples per pixel, bits per sample) by photometric: grey twice, colour, palette, CMYK, YCbCr."""

_COLOUR_AND_ALPHA: Final = 4
_MODELS: Final = {0: "GRAY", 1: "GRAY", _CMYK: "CMYK"}
_MAX_SAMPLES: Final = 16
_MAX_PAGES: Final = 64
_MAX_BLOCKS: Final = 1 << 18
_MAX_TILE_BYTES: Final = 1 << 24
"""A decoder takes memory for a whole tile twice, however small the picture is."""

_SLACK: Final = 1 << 16


def parse_tiff(data: bytes, max_pixels: int) -> Header:
    """Return the header; see `parse_header`."""
    directory = first_directory(data)
    size = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    _refuse_raw(directory, size)
    check_size(*size, max_pixels)
    _check_pages(directory)
    samples, bits = _layout(directory)
    photometric, compression = directory.number(_PHOTOMETRIC, -1), directory.number(_COMPRESSION, _UNCOMPRESSED)
    if compression not in _MAX_INFLATION:
        found = _REFUSED_COMPRESSIONS.get(compression, f"unknown ({compression})")
        raise HeaderError(f"is a TIFF with {found} compression; none, LZW, Deflate, PackBits or JPEG is expected")
    if photometric == _YCBCR and compression != _JPEG:
        raise HeaderError("is a YCbCr TIFF without JPEG compression; grey, palette, RGB or CMYK is expected")
    _check_blocks(directory, size, samples * bits, compression)
    orientation = directory.number(ORIENTATION_TAG, UPRIGHT)
    colors = ColorTags()
    if _PROFILE in directory.entries:
        colors = with_profile(colors, directory.content(_PROFILE, MAX_PROFILE), "it is too long for its file")
    return Header(
        "TIFF",
        *size,
        orientation=orientation if orientation in ORIENTATIONS else UPRIGHT,
        has_alpha=photometric not in _MODELS and samples == _COLOUR_AND_ALPHA,
        depth=max(bits, 8),
        parts=_parts(directory),
        model=_MODELS.get(photometric, "RGB"),
        colors=colors,
    )


def _refuse_raw(directory: Directory, size: tuple[int, int]) -> None:
    """Refuse what cameras write as TIFF: the first page is a preview, and what the sensor recorded is elsewhere."""
    if directory.data[4:11] == b"\x10\0\0\0CR\2":
        raise camera_raw("Canon CR2")
    if _DNG_VERSION in directory.entries:
        raise camera_raw("DNG")
    compression, photometric = directory.number(_COMPRESSION, 0), directory.number(_PHOTOMETRIC, 0)
    if compression in _RAW_COMPRESSIONS or photometric in _RAW_PHOTOMETRICS:
        raise camera_raw(f"{_RAW_COMPRESSIONS.get(compression, 'sensor data')} in TIFF")
    if directory.number(_PAGE_KIND, 0) & 1:
        raise camera_raw("a TIFF whose first page is a reduced copy, as NEF and ARW are")
    for place in directory.numbers(_SUB_PAGES, (), _MAX_PAGES):
        page = directory_at(directory.data, place)
        if page.number(_WIDTH, 0) * page.number(_HEIGHT, 0) > size[0] * size[1]:
            raise camera_raw("a TIFF with a larger picture in a page below its first")


def _check_pages(directory: Directory) -> None:
    """Refuse further pages, unless all are reduced copies of the first."""
    page, places = directory, [0]
    while page.following:
        if page.following in places or len(places) > _MAX_PAGES:
            raise HeaderError(f"is damaged: its TIFF pages follow each other in a circle, or are over {_MAX_PAGES}")
        places.append(page.following)
        page = directory_at(directory.data, page.following)
        if not page.number(_PAGE_KIND, 0) & 1:
            raise HeaderError("is a TIFF of several pages; a single picture is expected: save the one that you mean")


def _layout(directory: Directory) -> tuple[int, int]:
    """Return samples per pixel and bits per sample of an accepted channel layout."""
    samples = directory.number(_SAMPLES, 1)
    depths = set(directory.numbers(_BITS, (1,), _MAX_SAMPLES))
    photometric = directory.number(_PHOTOMETRIC, -1)
    for kind in directory.numbers(_SAMPLE_FORMAT, (1,), _MAX_SAMPLES):
        if kind != 1:
            found = _SAMPLE_KINDS.get(kind, kind)
            raise HeaderError(
                f"is a TIFF with {found} samples; unsigned ones are expected: save it with 8 or 16 bits per channel"
            )
    if photometric in _REFUSED_PHOTOMETRICS:
        raise HeaderError(f"is a {_REFUSED_PHOTOMETRICS[photometric]} TIFF; grey, palette, RGB or CMYK is expected")
    if len(depths) != 1 or not depths <= {1, 8, 16}:
        shown = "/".join(str(depth) for depth in sorted(depths))
        raise HeaderError(f"is a {shown}-bit TIFF; 8 or 16 bits per channel are expected")
    if directory.number(_PLANAR, 1) != 1 and samples > 1:
        raise HeaderError("is a TIFF with separate channel planes; interleaved channels are expected")
    (bits,) = depths
    if (samples, bits) not in _LAYOUTS.get(photometric, ()):
        raise HeaderError(
            f"is a TIFF of {samples} channels of {bits} bits, photometric {photometric}; "
            "grey, palette, RGB, opaque RGBA or 8-bit CMYK is expected"
        )
    return samples, bits


def _check_blocks(directory: Directory, size: tuple[int, int], pixel_bits: int, compression: int) -> None:
    """Check that every strip or tile lies inside the file, and is as long as its pixels can need.

    The decoder fills what it cannot read without a word, so that a short file must be noticed here.
    """
    width, height = size
    if _TILE_WIDTH in directory.entries:
        tags = (_TILE_OFFSETS, _TILE_BYTES)
        block_width, block_height = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not 0 < block_width * block_height * pixel_bits <= _MAX_TILE_BYTES * 8:
            raise HeaderError(
                f"is a TIFF of {block_width}×{block_height} tiles; tiles of 1 to {_MAX_TILE_BYTES} bytes are read"
            )
        count, last_rows = -(-width // block_width) * -(-height // block_height), block_height
    else:
        tags, block_width = (_STRIP_OFFSETS, _STRIP_BYTES), width
        block_height = min(max(directory.number(_STRIP_ROWS, height), 1), height)
        count = -(-height // block_height)
        last_rows = height - (count - 1) * block_height
    if count > _MAX_BLOCKS:
        raise HeaderError(f"consists of {count} TIFF strips or tiles; at most {_MAX_BLOCKS} are read")
    offsets, lengths = (directory.numbers(tag, (), count) for tag in tags)
    if not len(offsets) == len(lengths) == count:
        raise HeaderError(f"is a TIFF of {count} strips or tiles that locates {min(len(offsets), len(lengths))}")
    row_bytes = (block_width * pixel_bits + 7) // 8
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True), 1):
        if offset + length > len(directory.data):
            raise truncated(f"TIFF pixels are declared up to byte {offset + length}, {len(directory.data)} are there")
        rows = last_rows if number == count else block_height
        expected = -(-row_bytes * rows // _MAX_INFLATION[compression])
        if length < expected:
            raise truncated(f"a TIFF strip or tile has {length} bytes; at least {expected} are expected")
        if compression == _JPEG:
            _check_jpeg(directory.data[offset : offset + length], (block_width, rows))
    unpacked = row_bytes * ((count - 1) * block_height + last_rows)
    if sum(lengths) > 2 * unpacked + _SLACK:
        raise overfull(f"{sum(lengths)} bytes of TIFF pixels, where {unpacked} need no compression at all")


def _check_jpeg(stream: bytes, size: tuple[int, int]) -> None:
    """Check a strip or tile of JPEG as a file of its own would be checked."""
    if not stream.startswith(b"\xff\xd8"):
        raise HeaderError("is damaged: a TIFF strip or tile is not the JPEG that it should be")
    header = parse_jpeg(stream, max_pixels=1 << 32)  # whatever it may be, but for the size that is asked for
    if (header.width, header.height) != size:
        raise HeaderError(
            f"is damaged: a TIFF strip or tile of {size[0]}×{size[1]} pixels holds a JPEG of another size"
        )


def _parts(directory: Directory) -> tuple[bytes | memoryview, ...]:
    """Return the file with another directory, of nothing but what a decoder needs, unless it has such a one.

    The orientation is among what is left out: a decoder of TIFF would obey it, whatever it is told.
    """
    if directory.entries.keys() <= _DECODED and not directory.following:
        return ()
    data = directory.data
    entries = [
        data[place - 8 : place + 4] for tag, (_, _, place) in sorted(directory.entries.items()) if tag in _DECODED
    ]
    padding = bytes(len(data) % 2)
    start = struct.pack(f"{directory.order}I", len(data) + len(padding))
    count = struct.pack(f"{directory.order}H", len(entries))
    return data[:4], start, memoryview(data)[8:], padding, count, *entries, bytes(4)
