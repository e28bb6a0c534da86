"""What a TIFF file says about itself."""

from __future__ import annotations

from typing import Final

from tsm_training.images.directory import ORIENTATION_TAG, Directory, first_directory
from tsm_training.images.header import (
    MAX_PROFILE,
    ORIENTATIONS,
    UPRIGHT,
    ColorTags,
    Header,
    HeaderError,
    check_size,
    truncated,
    with_profile,
)

_SHORT: Final = 3
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SAMPLE_FORMAT: Final = 339
_PROFILE: Final = 34675
_UNCOMPRESSED: Final = 1
_COMPRESSIONS: Final = (_UNCOMPRESSED, 5, 8, 32946, 32773)
"""None, LZW, Deflate under two numbers, PackBits."""

_REFUSED_COMPRESSIONS: Final = {2: "fax", 3: "fax", 4: "fax", 6: "JPEG", 7: "JPEG"}
_REFUSED_PHOTOMETRICS: Final = {5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "CIE Lab", 10: "CIE Lab"}
_SAMPLE_KINDS: Final = {2: "signed", 3: "floating-point"}
_LAYOUTS: Final = {0: ((1, 1), (1, 8)), 1: ((1, 1), (1, 8)), 2: ((3, 8), (4, 8)), 3: ((1, 8),)}
"""Accepted (samples per pixel, bits per sample) by photometric: grey twice, colour, palette."""

_COLOUR_AND_ALPHA: Final = 4
_GREY: Final = (0, 1)
_MAX_SAMPLES: Final = 16
_MAX_TILE_SIDE: Final = 4096
"""Pixels; a decoder takes memory for a whole tile, however small the picture is."""


def parse_tiff(data: bytes, max_pixels: int) -> Header:
    directory = first_directory(data)
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    check_size(width, height, max_pixels)
    if directory.following:
        raise HeaderError("is a TIFF of several pages; a single picture is expected")
    samples, bits = _layout(directory)
    compression = directory.number(_COMPRESSION, _UNCOMPRESSED)
    if compression not in _COMPRESSIONS:
        found = _REFUSED_COMPRESSIONS.get(compression, f"unknown ({compression})")
        raise HeaderError(f"is a TIFF with {found} compression; none, LZW, Deflate or PackBits is expected")
    _check_blocks(directory, (width, height), samples * bits, is_packed=compression != _UNCOMPRESSED)
    orientation = directory.number(ORIENTATION_TAG, UPRIGHT)
    place: int | None = None
    if orientation != UPRIGHT:
        if directory.entries[ORIENTATION_TAG][0] != _SHORT:
            raise HeaderError("is damaged: its TIFF orientation is not stored as a 16-bit number")
        place = directory.place(ORIENTATION_TAG)
    upright = orientation if orientation in ORIENTATIONS else UPRIGHT
    colors = ColorTags()
    if _PROFILE in directory.entries:
        colors = with_profile(colors, directory.content(_PROFILE, MAX_PROFILE), "it is too long for its file")
    model = "GRAY" if directory.number(_PHOTOMETRIC, -1) in _GREY else "RGB"
    has_alpha = samples == _COLOUR_AND_ALPHA
    return Header("TIFF", width, height, upright, has_alpha, place, directory.order, model, colors)


def _layout(directory: Directory) -> tuple[int, int]:
    """Return samples per pixel and bits per sample of an accepted channel layout."""
    samples = directory.number(_SAMPLES, 1)
    depths = set(directory.numbers(_BITS, (1,), _MAX_SAMPLES))
    photometric = directory.number(_PHOTOMETRIC, -1)
    for kind in directory.numbers(_SAMPLE_FORMAT, (1,), _MAX_SAMPLES):
        if kind != 1:
            found = _SAMPLE_KINDS.get(kind, kind)
            raise HeaderError(f"is a TIFF with {found} samples; unsigned ones are expected")
    if photometric in _REFUSED_PHOTOMETRICS:
        raise HeaderError(f"is a {_REFUSED_PHOTOMETRICS[photometric]} TIFF; grey, palette or RGB is expected")
    if len(depths) != 1 or not depths <= {1, 8}:
        shown = "/".join(str(depth) for depth in sorted(depths))
        raise HeaderError(f"is a {shown}-bit TIFF; 8 bits per channel are expected")
    if directory.number(_PLANAR, 1) != 1 and samples > 1:
        raise HeaderError("is a TIFF with separate channel planes; interleaved channels are expected")
    (bits,) = depths
    if (samples, bits) not in _LAYOUTS.get(photometric, ()):
        raise HeaderError(
            f"is a TIFF of {samples} channels of {bits} bits, photometric {photometric}; "
            "grey, palette, RGB or opaque RGBA is expected"
        )
    return samples, bits


def _check_blocks(directory: Directory, size: tuple[int, int], pixel_bits: int, *, is_packed: bool) -> None:
    """Check that every strip or tile lies inside the file and, unless it is packed, is long enough.

    The decoder fills what it cannot read without a word, so that a short file must be noticed here.
    """
    width, height = size
    if _TILE_WIDTH in directory.entries:
        tags = (_TILE_OFFSETS, _TILE_BYTES)
        tile_width, tile_height = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not (1 <= tile_width <= _MAX_TILE_SIDE and 1 <= tile_height <= _MAX_TILE_SIDE):
            raise HeaderError(
                f"is a TIFF of {tile_width}×{tile_height} tiles; at most {_MAX_TILE_SIDE} a side are read"
            )
        rows = [tile_height] * (-(-width // tile_width) * -(-height // tile_height))
    else:
        tags, tile_width = (_STRIP_OFFSETS, _STRIP_BYTES), width
        each = min(max(directory.number(_STRIP_ROWS, height), 1), height)
        rows = [min(each, height - first) for first in range(0, height, each)]
    offsets, lengths = (directory.numbers(tag, (), len(rows)) for tag in tags)
    if not len(offsets) == len(lengths) == len(rows):
        raise HeaderError(f"is a TIFF of {len(rows)} strips or tiles that locates {min(len(offsets), len(lengths))}")
    for offset, length, block_rows in zip(offsets, lengths, rows, strict=True):
        if offset + length > len(directory.data):
            raise truncated(f"TIFF pixels are declared up to byte {offset + length}, {len(directory.data)} are there")
        expected = 1 if is_packed else (tile_width * pixel_bits + 7) // 8 * block_rows
        if length < expected:
            raise truncated(f"a TIFF strip or tile has {length} bytes; at least {expected} are expected")
