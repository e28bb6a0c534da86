"""What a picture file says about itself, read from its bytes before any decoder sees them.

Pure functions from bytes to a `Header`: nothing is opened or decoded, and no memory is taken at a file's word. They
refuse by name what the library does not take, and they notice a file that ends early, because decoders do not always
say so: some fill the missing part with grey.
"""

from __future__ import annotations

import codecs
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import attrs

from tsm_training.errors import ImageError, ImageFormatError, ImageTooLargeError, ImageTruncatedError

__all__ = ["Header", "HeaderError", "parse_header"]

_ACCEPTED: Final = "PNG, JPEG, BMP, WebP or TIFF"
_MAX_SIDE: Final = 1 << 20
"""Pixels per side; OpenCV refuses more, whatever the product of the sides."""

_MAX_PARTS: Final = 1 << 18
"""Chunks or segments per file: an eighth of this is usual for the largest pictures, and each takes its time to read."""

_PartT = TypeVar("_PartT")

_UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)
_SIDEWAYS: Final = range(5, 9)


@attrs.frozen
class Header:
    """What the decoder needs to know, and what must agree with its result.

    ``width`` and ``height`` are in pixels as stored, before the orientation (EXIF numbering, 1–8) is applied.
    ``has_alpha`` says that the stored alpha channel has to be looked at. ``orientation_at`` is the place of a 16-bit
    orientation field that the decoder itself would obey (TIFF only), in the byte order ``byte_order`` of :mod:`struct`.
    """

    image_format: str
    width: int
    height: int
    orientation: int = _UPRIGHT
    has_alpha: bool = False
    orientation_at: int | None = None
    byte_order: str = "<"

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


def parse_header(data: bytes, max_pixels: int) -> Header:
    """Return the header of an accepted picture of at most `max_pixels` pixels.

    Raises:
        HeaderError: the bytes are no picture of an accepted kind, end early, or declare too many pixels.
    """
    for matches, parse in _PARSERS:
        if matches(data):
            return parse(data, max_pixels)
    raise HeaderError(f"is {_found(data)}; {_ACCEPTED} is expected")


# --- faults and small helpers ---------------------------------------------------------------------------------------


def _truncated(what: str) -> HeaderError:
    return HeaderError(f"ends early: {what}", ImageTruncatedError)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise HeaderError(f"declares {width}×{height} pixels; at least 1×1 is expected")
    if width * height > max_pixels:
        raise HeaderError(
            f"declares {width}×{height} pixels; at most {max_pixels} in all are allowed", ImageTooLargeError
        )
    if max(width, height) > _MAX_SIDE:
        raise HeaderError(
            f"declares {width}×{height} pixels; at most {_MAX_SIDE} a side can be decoded", ImageTooLargeError
        )


def _check_yield(header: Header, most: int, needed: int) -> None:
    """Refuse a file whose compressed data, however well it is packed, cannot give the pixels that are declared.

    A decoder would find that out as well, but only after it has taken memory and time for all of them.
    """
    if most < needed:
        size = f"{header.width}×{header.height}"
        raise _truncated(f"there is not enough {header.image_format} pixel data for the declared {size} pixels")


def _row_bytes(width: int, pixel_bits: int) -> int:
    return (width * pixel_bits + 7) // 8


def _unpack(layout: str, data: bytes, position: int, what: str) -> tuple[int, ...]:
    """Unpack integers at `position`, or say that the file ends within `what`."""
    if position + struct.calcsize(layout) > len(data):
        raise _truncated(f"the {what} is incomplete")
    return struct.unpack_from(layout, data, position)


def _bounded(parts: Iterator[_PartT]) -> Iterator[_PartT]:
    """Pass on the parts of a file, up to a number that no real file has."""
    for number, part in enumerate(parts):
        if number == _MAX_PARTS:
            raise HeaderError(f"consists of more than {_MAX_PARTS} parts")
        yield part


# --- files of other kinds -------------------------------------------------------------------------------------------

_OTHER_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"GIF8", "a GIF"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\0\0\1\0", "an icon file"),
)
_MARKUP_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
)
_SAMPLE_BYTES: Final = 256
_SHOWN_BYTES: Final = 8
_SHOWN_CHARACTERS: Final = 20


def _found(data: bytes) -> str:
    """Name the kind of a file that is refused, as well as its first bytes tell."""
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return f"a file of the HEIF or MP4 family ({data[8:12]!r})"
    text = data[:_SAMPLE_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for kinds, start in ((_OTHER_KINDS, data), (_MARKUP_KINDS, text)):
        for magic, name in kinds:
            if start.startswith(magic):
                return name
    if _is_text(data[:_SAMPLE_BYTES]):
        return f"text beginning {data[:_SHOWN_CHARACTERS]!r}"
    return f"unknown data beginning {data[:_SHOWN_BYTES].hex(' ')}"


def _is_text(sample: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(sample)  # the sample may end within a character
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


# --- TIFF directories, which also carry the EXIF orientation --------------------------------------------------------

_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_FIELD_CODES: Final = {1: "B", 3: "H", 4: "I"}
"""Field types that hold unsigned whole numbers: BYTE, SHORT, LONG."""

_SHORT: Final = 3
_INLINE_BYTES: Final = 4
_ENTRY_BYTES: Final = 12
_ORIENTATION_TAG: Final = 274


@attrs.frozen
class _Directory:
    """One TIFF image file directory: where each field is, and where the next directory is (0: there is none)."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]]
    following: int

    def numbers(self, tag: int, default: tuple[int, ...], most: int) -> tuple[int, ...]:
        """Return the values of a field of whole numbers, at most `most` of them, or `default` if it is absent."""
        if tag not in self.entries:
            return default
        kind, count, _place = self.entries[tag]
        if kind not in _FIELD_CODES or not 1 <= count <= most:
            raise HeaderError(f"has a TIFF field {tag} of type {kind} with {count} values, which cannot be right")
        return _unpack(f"{self.order}{count}{_FIELD_CODES[kind]}", self.data, self.place(tag), f"TIFF field {tag}")

    def number(self, tag: int, default: int) -> int:
        """Return the single value of a field, or `default` if it is absent."""
        return self.numbers(tag, (default,), 1)[0]

    def place(self, tag: int) -> int:
        """Return where the values of a present field begin: in the entry if they fit, else where it points."""
        kind, count, position = self.entries[tag]
        if struct.calcsize(f"={count}{_FIELD_CODES[kind]}") <= _INLINE_BYTES:
            return position
        return _unpack(f"{self.order}I", self.data, position, f"TIFF field {tag}")[0]


def _first_directory(data: bytes) -> _Directory:
    order = _BYTE_ORDERS[data[:4]]
    (start,) = _unpack(f"{order}I", data, 4, "TIFF header")
    (count,) = _unpack(f"{order}H", data, start, "TIFF directory")
    entries: dict[int, tuple[int, int, int]] = {}
    for position in range(start + 2, start + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        tag, kind, values = _unpack(f"{order}HHI", data, position, "TIFF directory")
        if tag in entries:
            raise HeaderError(f"has the TIFF field {tag} twice")
        entries[tag] = (kind, values, position + 8)
    (following,) = _unpack(f"{order}I", data, start + 2 + count * _ENTRY_BYTES, "TIFF directory")
    return _Directory(data, order, entries, following)


def _exif_orientation(block: bytes) -> int:
    """Return the orientation in an EXIF block; a block that makes no sense does not spoil the picture."""
    block = block.removeprefix(b"Exif\0\0")
    if block[:4] not in _BYTE_ORDERS:
        return _UPRIGHT
    try:
        orientation = _first_directory(block).number(_ORIENTATION_TAG, _UPRIGHT)
    except HeaderError:
        return _UPRIGHT
    return orientation if orientation in _ORIENTATIONS else _UPRIGHT


# --- PNG ------------------------------------------------------------------------------------------------------------

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_FRAME: Final = 12  # length, type and CRC around the data of a chunk
_PNG_IHDR_BYTES: Final = 13
_PNG_COLOUR_TYPE_AT: Final = 25
_PNG_DEEP: Final = 16
_PNG_PALETTE: Final = 3
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), _PNG_PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths that the standard allows for each colour type."""

_PNG_WITH_ALPHA: Final = (4, 6)


_PNG_SAMPLES: Final = {0: 1, 2: 3, _PNG_PALETTE: 1, 4: 2, 6: 4}
_DEFLATE_RATIO: Final = 1032
"""Deflate gives at most this many bytes for one: a repetition of 258 bytes takes at least two bits."""


def _parse_png(data: bytes, max_pixels: int) -> Header:
    header: Header | None = None
    pixel_data = 0
    for kind, start, end in _bounded(_png_chunks(data, max_pixels)):
        if kind == b"IHDR":
            header = _png_start(data[start:end])
        elif header is None:
            raise HeaderError(f"is a PNG that begins with a {kind!r} chunk; IHDR is expected")
        elif kind == b"acTL":
            raise HeaderError("is an animated PNG; a single picture is expected")
        elif kind == b"tRNS":
            header = _png_transparency(header, colour_type=data[_PNG_COLOUR_TYPE_AT])
        elif kind == b"eXIf":
            header = attrs.evolve(header, orientation=_exif_orientation(data[start:end]))
        pixel_data += (end - start) * (kind == b"IDAT")
    if header is None or not pixel_data:
        raise HeaderError("is a PNG without pixel data")
    depth, colour_type = data[_PNG_COLOUR_TYPE_AT - 1], data[_PNG_COLOUR_TYPE_AT]
    row_bytes = _row_bytes(header.width, depth * _PNG_SAMPLES[colour_type])
    _check_yield(header, pixel_data * _DEFLATE_RATIO, row_bytes * header.height)
    return header


def _png_chunks(data: bytes, max_pixels: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of every chunk up to IEND.

    A chunk's length is compared with the file before it is believed: a decoder may allocate what it claims. The size
    of the picture is looked at first, because a file that declares too much is refused for that, whole or not.
    """
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, tag = _unpack(">II", data, position, "PNG chunk header")
        kind = tag.to_bytes(4, "big")
        start, end = position + 8, position + 8 + length
        position += _PNG_CHUNK_FRAME + length
        if kind == b"IHDR" and len(data) >= start + 8:
            width, height = _unpack(">II", data, start, "PNG header")
            _check_size(width, height, max_pixels)
        if position > len(data):
            raise _truncated(f"a PNG chunk {kind!r} claims {length} bytes, {max(len(data) - start, 0)} are there")
        if zlib.crc32(memoryview(data)[start - 4 : end]) != _unpack(">I", data, end, "PNG chunk")[0]:
            raise HeaderError(f"is damaged: the checksum of its PNG chunk {kind!r} does not match")
        yield kind, start, end


def _png_start(chunk: bytes) -> Header:
    if len(chunk) != _PNG_IHDR_BYTES:
        raise HeaderError(f"is a PNG with a header of {len(chunk)} bytes; {_PNG_IHDR_BYTES} are expected")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", chunk)
    if depth not in _PNG_DEPTHS.get(colour_type, ()):
        raise HeaderError(f"is a PNG of colour type {colour_type} with {depth} bits, which the standard does not know")
    if depth == _PNG_DEEP:
        raise HeaderError("is a 16-bit PNG; 8 bits per channel are expected")
    return Header("PNG", width, height, has_alpha=colour_type in _PNG_WITH_ALPHA)


def _png_transparency(header: Header, colour_type: int) -> Header:
    """A palette may list alpha values, to be looked at; a single transparent colour is transparency for sure."""
    if colour_type != _PNG_PALETTE:
        raise HeaderError("is a PNG with a transparent colour (tRNS); an opaque picture is expected")
    return attrs.evolve(header, has_alpha=True)


# --- JPEG -----------------------------------------------------------------------------------------------------------

_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""A marker that ends scan data: not a stuffed zero, not a fill byte, not a restart marker."""

_JPEG_FRAMES: Final = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_JPEG_OTHER_FRAMES: Final = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetic-coded"),
    **dict.fromkeys((0xCB, 0xCD, 0xCE, 0xCF), "rare (arithmetic-coded, lossless or hierarchical)"),
}
_JPEG_PROGRESSIVE: Final = 0xC2
_JPEG_BLOCK: Final = 8
"""Pixels a side of what is coded together."""

_JPEG_APP1: Final = 0xE1
_JPEG_SCAN: Final = 0xDA
_JPEG_END: Final = 0xD9
_JPEG_STANDALONE: Final = (0x01, 0xD8)
_JPEG_BITS: Final = 8
_JPEG_GREY_AND_COLOUR: Final = (1, 3)
_JPEG_CMYK: Final = 4
_JPEG_MAX_SCANS: Final = 128
"""An encoder makes about ten. Each costs a pass over the whole picture, so thousands of empty ones stall a decoder."""


def _parse_jpeg(data: bytes, max_pixels: int) -> Header:
    """Walk the markers to the end of the picture behind the last scan; whatever follows is not looked at."""
    header: Header | None = None
    orientation: int | None = None
    scans = needed_bits = scan_bytes = scan_from = 0
    for marker, start, end in _bounded(_jpeg_segments(data)):
        scan_bytes += scan_from and start - scan_from
        scan_from = end if marker == _JPEG_SCAN else 0
        if marker in _JPEG_OTHER_FRAMES:
            raise HeaderError(f"is a JPEG of a kind that is not read: {_JPEG_OTHER_FRAMES[marker]}")
        if marker in _JPEG_FRAMES:
            if header is not None:
                raise HeaderError("is a JPEG with several frames; a single picture is expected")
            header = _jpeg_frame(data[start:end], max_pixels)
            needed_bits = _jpeg_least_bits(data[start:end], progressive=marker == _JPEG_PROGRESSIVE)
        elif marker == _JPEG_APP1 and orientation is None and data.startswith(b"Exif\0\0", start):
            orientation = _exif_orientation(data[start:end])
        scans += marker == _JPEG_SCAN
        if scans > _JPEG_MAX_SCANS:
            raise HeaderError(f"is a JPEG of more than {_JPEG_MAX_SCANS} scans")
    if header is None or not scans:
        raise HeaderError("is a JPEG without pixel data")
    _check_yield(header, scan_bytes * 8, needed_bits)
    return attrs.evolve(header, orientation=orientation or _UPRIGHT)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of every segment up to the end marker, which is one of them.

    Segments are stepped over by their lengths, so the end marker of a thumbnail inside one is not taken for the end of
    the picture. Between a scan header and the next marker is scan data; the search passes over it.
    """
    position = 2
    while True:
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            raise _truncated("a JPEG without an end marker behind its last scan")
        marker = data[match.start() + 1]
        if marker == _JPEG_END:
            yield marker, match.end(), match.end()
            return
        if marker in _JPEG_STANDALONE:
            raise HeaderError(f"is damaged: a JPEG marker {marker:#x} where none may be")
        (length,) = _unpack(">H", data, match.end(), "JPEG segment")
        position = match.end() + length
        if length < struct.calcsize(">H") or position > len(data):
            raise _truncated(f"a JPEG segment {marker:#x} claims {length} bytes")
        yield marker, match.end() + 2, position


def _jpeg_frame(segment: bytes, max_pixels: int) -> Header:
    bits, height, width, components = _unpack(">BHHB", segment, 0, "JPEG frame header")
    _check_size(width, height, max_pixels)
    if bits != _JPEG_BITS:
        raise HeaderError(f"is a {bits}-bit JPEG; {_JPEG_BITS} bits per channel are expected")
    if components == _JPEG_CMYK:
        raise HeaderError("is a CMYK JPEG (4 channels); grey or colour is expected")
    if components not in _JPEG_GREY_AND_COLOUR:
        raise HeaderError(f"is a JPEG of {components} channels; 1 or 3 are expected")
    return Header("JPEG", width, height)


def _jpeg_least_bits(segment: bytes, *, progressive: bool) -> int:
    """Return how many bits of scan data a picture needs at least.

    No code is shorter than a bit. Each block has one for its mean and, unless later scans may tell of many blocks at
    once (progressive), one for the end of the rest.
    """
    _bits, height, width, components = struct.unpack_from(">BHHB", segment)
    sampling = [divmod(_unpack(">B", segment, 7 + 3 * k, "JPEG frame header")[0], 16) for k in range(components)]
    across, down = (max(1, *factors) for factors in zip(*sampling, strict=True))
    blocks: int = sum(
        -(-width * h // (across * _JPEG_BLOCK)) * -(-height * v // (down * _JPEG_BLOCK)) for h, v in sampling
    )
    return blocks if progressive else 2 * blocks


# --- BMP ------------------------------------------------------------------------------------------------------------

_BMP_FILE_HEADER: Final = 14
_BMP_INFO_HEADERS: Final = (40, 52, 56, 108, 124)
_BMP_HEADER_WITH_ALPHA_MASK: Final = 56
_BMP_BITS: Final = (1, 4, 8, 24, 32)
_BMP_WITH_FOURTH_BYTE: Final = 32
_BMP_PLAIN: Final = 0
_BMP_MASKED: Final = 3
_BMP_MASKS_AT: Final = 54
_BMP_BGR_MASKS: Final = (0xFF0000, 0xFF00, 0xFF)
_BMP_COMPRESSIONS: Final = {1: "run-length", 2: "run-length", 4: "JPEG", 5: "PNG"}


def _parse_bmp(data: bytes, max_pixels: int) -> Header:
    offset, size = _unpack("<II", data, 10, "BMP header")
    if size not in _BMP_INFO_HEADERS:
        raise HeaderError(f"is a BMP with an information header of {size} bytes, a kind that is not read")
    width, signed_height, _planes, bits, compression = _unpack("<iiHHI", data, 18, "BMP header")
    height = abs(signed_height)  # negative: the rows are stored from the top down
    _check_size(width, height, max_pixels)
    if compression in _BMP_COMPRESSIONS:
        raise HeaderError(f"is a BMP with {_BMP_COMPRESSIONS[compression]} compression; plain pixels are expected")
    if bits not in _BMP_BITS:
        raise HeaderError(f"is a BMP of {bits} bits per pixel; 1, 4, 8, 24 or 32 are expected")
    if offset < _BMP_FILE_HEADER + size:
        raise HeaderError(f"is damaged: its BMP pixels begin at byte {offset}, inside the header")
    pixel_bytes = (width * bits + 31) // 32 * 4 * height
    if offset + pixel_bytes > len(data):
        raise _truncated(f"{pixel_bytes} bytes of BMP pixels are declared, {max(len(data) - offset, 0)} are there")
    _check_bmp_masks(data, bits, compression)
    if bits == _BMP_WITH_FOURTH_BYTE:
        _check_bmp_alpha(data[offset + 3 : offset + pixel_bytes : 4], _bmp_declares_alpha(data, size, compression))
    return Header("BMP", width, height)


def _check_bmp_masks(data: bytes, bits: int, compression: int) -> None:
    if compression == _BMP_PLAIN:
        return
    masks = _unpack("<III", data, _BMP_MASKS_AT, "BMP header")
    if compression != _BMP_MASKED or bits != _BMP_WITH_FOURTH_BYTE or masks != _BMP_BGR_MASKS:
        raise HeaderError("is a BMP with an unusual channel layout; blue, green, red of 8 bits each are expected")


def _bmp_declares_alpha(data: bytes, header_size: int, compression: int) -> bool:
    if compression != _BMP_MASKED or header_size < _BMP_HEADER_WITH_ALPHA_MASK:
        return False
    return _unpack("<I", data, _BMP_MASKS_AT + 12, "BMP header") != (0,)


def _check_bmp_alpha(fourth: bytes, declared: bool) -> None:
    """Look at the fourth byte of every pixel: undeclared it is padding if it is zero throughout, else it means alpha.

    It is judged here because decoders disagree on which 32-bit BMP files have alpha at all.
    """
    opaque = fourth.count(0xFF) == len(fourth)
    padding = not declared and fourth.count(0) == len(fourth)
    if not opaque and not padding:
        raise HeaderError("is a BMP with an alpha channel in use; an opaque picture is expected")


# --- WebP -----------------------------------------------------------------------------------------------------------

_WEBP_FILE_HEADER: Final = 12
_WEBP_FRAME_BYTES: Final = 10
_WEBP_ANIMATED: Final = 0x02
_WEBP_ALPHA: Final = 0x10
_WEBP_SIDE_MASK: Final = 0x3FFF
_WEBP_LOSSY_START: Final = b"\x9d\x01\x2a"
_WEBP_LOSSLESS_START: Final = 0x2F
_WEBP_LOSSLESS_ALPHA: Final = 1 << 28


def _parse_webp(data: bytes, max_pixels: int) -> Header:
    frame: Header | None = None
    canvas: tuple[int, int] | None = None
    orientation = _UPRIGHT
    has_alpha = False
    for kind, start, end in _bounded(_webp_chunks(data)):
        chunk = memoryview(data)[start:end]
        if kind == b"VP8X":
            flags, *canvas_sides = _webp_canvas(bytes(chunk))
            canvas = (canvas_sides[0], canvas_sides[1])
            has_alpha = bool(flags & _WEBP_ALPHA)
            _check_size(*canvas, max_pixels)
        elif kind in (b"ANIM", b"ANMF"):
            raise HeaderError("is an animated WebP; a single picture is expected")
        elif kind in (b"VP8 ", b"VP8L") and frame is None:
            frame = (_webp_lossy if kind == b"VP8 " else _webp_lossless)(bytes(chunk[:_WEBP_FRAME_BYTES]))
            _check_size(frame.width, frame.height, max_pixels)
        elif kind == b"EXIF":
            orientation = _exif_orientation(bytes(chunk))
        has_alpha = has_alpha or kind == b"ALPH"
    if frame is None:
        raise HeaderError("is a WebP without pixel data")
    if canvas not in (None, (frame.width, frame.height)):
        raise HeaderError(f"is damaged: its WebP canvas and its picture differ in size ({canvas})")
    return attrs.evolve(frame, orientation=orientation, has_alpha=has_alpha or frame.has_alpha)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of every chunk inside the RIFF container; bytes behind it are not looked at."""
    (size,) = _unpack("<I", data, 4, "WebP header")
    container_end = size + 8
    if container_end > len(data):
        raise _truncated(f"a WebP of {container_end} bytes is declared, {len(data)} are there")
    position = _WEBP_FILE_HEADER
    while position + 8 <= container_end:
        kind = data[position : position + 4]
        (length,) = _unpack("<I", data, position + 4, "WebP chunk")
        start, end = position + 8, position + 8 + length
        if end > container_end:
            raise _truncated(f"a WebP chunk {kind!r} claims {length} bytes, {container_end - start} are there")
        yield kind, start, end
        position = end + length % 2


def _webp_canvas(chunk: bytes) -> tuple[int, int, int]:
    """Return flags, width and height in pixels of the extended header."""
    if len(chunk) < _WEBP_FRAME_BYTES:
        raise _truncated("the WebP header is incomplete")
    if chunk[0] & _WEBP_ANIMATED:
        raise HeaderError("is an animated WebP; a single picture is expected")
    return chunk[0], int.from_bytes(chunk[4:7], "little") + 1, int.from_bytes(chunk[7:10], "little") + 1


def _webp_lossy(chunk: bytes) -> Header:
    if chunk[3:6] != _WEBP_LOSSY_START:
        raise HeaderError("is damaged: its WebP picture has no start code")
    width, height = _unpack("<HH", chunk, 6, "WebP picture")
    return Header("WebP", width & _WEBP_SIDE_MASK, height & _WEBP_SIDE_MASK)


def _webp_lossless(chunk: bytes) -> Header:
    signature, bits = _unpack("<BI", chunk, 0, "WebP picture")
    if signature != _WEBP_LOSSLESS_START:
        raise HeaderError("is damaged: its lossless WebP picture has no start code")
    width, height = (bits & _WEBP_SIDE_MASK) + 1, ((bits >> 14) & _WEBP_SIDE_MASK) + 1
    return Header("WebP", width, height, has_alpha=bool(bits & _WEBP_LOSSLESS_ALPHA))


# --- TIFF -----------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SAMPLE_FORMAT: Final = 339
_UNCOMPRESSED: Final = 1
_TIFF_COMPRESSIONS: Final = {_UNCOMPRESSED: 1, 5: 4096, 8: _DEFLATE_RATIO, 32946: _DEFLATE_RATIO, 32773: 64}
"""None, LZW, Deflate under two numbers, PackBits: and how many bytes each gives for one at most."""

_TIFF_REFUSED_COMPRESSIONS: Final = {
    2: "fax",
    3: "fax",
    4: "fax",
    6: "JPEG",
    7: "JPEG",
    34925: "LZMA",
    50000: "Zstandard",
}
_TIFF_REFUSED_PHOTOMETRICS: Final = {4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "CIE Lab", 10: "CIE Lab"}
_TIFF_SAMPLE_KINDS: Final = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
_TIFF_LAYOUTS: Final = {
    0: ((1, 1), (1, 8)),
    1: ((1, 1), (1, 8)),
    2: ((3, 8), (4, 8)),
    3: ((1, 8),),
}
"""Accepted (samples per pixel, bits per sample) by photometric: grey twice, colour, palette."""

_TIFF_COLOUR_AND_ALPHA: Final = 4
_TIFF_MAX_SAMPLES: Final = 16
_TIFF_MAX_TILE_SIDE: Final = 4096
"""Pixels; a decoder takes memory for a whole tile, however small the picture is."""


def _parse_tiff(data: bytes, max_pixels: int) -> Header:
    directory = _first_directory(data)
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    _check_size(width, height, max_pixels)
    if directory.following:
        raise HeaderError("is a TIFF of several pages; a single picture is expected")
    samples, bits = _tiff_layout(directory)
    compression = directory.number(_COMPRESSION, _UNCOMPRESSED)
    if compression not in _TIFF_COMPRESSIONS:
        found = _TIFF_REFUSED_COMPRESSIONS.get(compression, f"unknown ({compression})")
        raise HeaderError(f"is a TIFF with {found} compression; none, LZW, Deflate or PackBits is expected")
    _check_tiff_blocks(directory, (width, height), samples * bits, _TIFF_COMPRESSIONS[compression])
    orientation, place = _tiff_orientation(directory)
    return Header("TIFF", width, height, orientation, samples == _TIFF_COLOUR_AND_ALPHA, place, directory.order)


def _tiff_layout(directory: _Directory) -> tuple[int, int]:
    """Return samples per pixel and bits per sample of an accepted channel layout."""
    samples = directory.number(_SAMPLES, 1)
    depths = set(directory.numbers(_BITS, (1,), _TIFF_MAX_SAMPLES))
    photometric = directory.number(_PHOTOMETRIC, -1)
    for kind in directory.numbers(_SAMPLE_FORMAT, (1,), _TIFF_MAX_SAMPLES):
        if kind != 1:
            raise HeaderError(
                f"is a TIFF with {_TIFF_SAMPLE_KINDS.get(kind, kind)} samples; unsigned ones are expected"
            )
    if photometric in _TIFF_REFUSED_PHOTOMETRICS:
        raise HeaderError(f"is a {_TIFF_REFUSED_PHOTOMETRICS[photometric]} TIFF; grey, palette or RGB is expected")
    if len(depths) != 1 or not depths <= {1, 8}:
        shown = "/".join(str(depth) for depth in sorted(depths))
        raise HeaderError(f"is a {shown}-bit TIFF; 8 bits per channel are expected")
    if directory.number(_PLANAR, 1) != 1 and samples > 1:
        raise HeaderError("is a TIFF with separate channel planes; interleaved channels are expected")
    (bits,) = depths
    if (samples, bits) not in _TIFF_LAYOUTS.get(photometric, ()):
        raise HeaderError(
            f"is a TIFF of {samples} channels of {bits} bits, photometric {photometric}; "
            "grey, palette, RGB or opaque RGBA is expected"
        )
    return samples, bits


def _tiff_orientation(directory: _Directory) -> tuple[int, int | None]:
    """Return the orientation, and where it is stored unless it says upright; a value out of range counts as upright."""
    if _ORIENTATION_TAG not in directory.entries:
        return _UPRIGHT, None
    if directory.entries[_ORIENTATION_TAG][0] != _SHORT:
        raise HeaderError("is damaged: its TIFF orientation is not stored as a 16-bit number")
    orientation = directory.number(_ORIENTATION_TAG, _UPRIGHT)
    if orientation == _UPRIGHT:
        return _UPRIGHT, None
    return orientation if orientation in _ORIENTATIONS else _UPRIGHT, directory.place(_ORIENTATION_TAG)


def _check_tiff_blocks(directory: _Directory, size: tuple[int, int], pixel_bits: int, ratio: int) -> None:
    """Check that every strip or tile lies inside the file and can be long enough, with so many bytes made of one.

    The decoder fills what it cannot read without a word, so that a short file must be noticed here.
    """
    tags, blocks = _tiff_tiles(directory, size, pixel_bits)
    offsets, lengths = (directory.numbers(tag, (), len(blocks)) for tag in tags)
    if not len(offsets) == len(lengths) == len(blocks):
        raise HeaderError(f"is a TIFF of {len(blocks)} strips or tiles that locates {min(len(offsets), len(lengths))}")
    for offset, length, expected in zip(offsets, lengths, blocks, strict=True):
        if offset + length > len(directory.data):
            raise _truncated(f"TIFF pixels are declared up to byte {offset + length}, {len(directory.data)} are there")
        if length * ratio < expected:
            raise _truncated(f"a TIFF strip or tile has {length} bytes; {-(-expected // ratio)} are expected at least")


def _tiff_tiles(directory: _Directory, size: tuple[int, int], pixel_bits: int) -> tuple[tuple[int, int], list[int]]:
    """Return the fields that locate the blocks of the picture, and the unpacked size of each block in bytes."""
    width, height = size
    if _TILE_WIDTH in directory.entries:
        tile_width, tile_height = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not (1 <= tile_width <= _TIFF_MAX_TILE_SIDE and 1 <= tile_height <= _TIFF_MAX_TILE_SIDE):
            raise HeaderError(
                f"is a TIFF of {tile_width}×{tile_height} tiles; at most {_TIFF_MAX_TILE_SIDE} a side are read"
            )
        tiles = -(-width // tile_width) * -(-height // tile_height)
        return (_TILE_OFFSETS, _TILE_BYTES), [_row_bytes(tile_width, pixel_bits) * tile_height] * tiles
    rows = min(max(directory.number(_STRIP_ROWS, height), 1), height)
    row_bytes = _row_bytes(width, pixel_bits)
    strips = [row_bytes * min(rows, height - first) for first in range(0, height, rows)]
    return (_STRIP_OFFSETS, _STRIP_BYTES), strips


# --- the table of formats -------------------------------------------------------------------------------------------

_PARSERS: Final[tuple[tuple[Callable[[bytes], bool], Callable[[bytes, int], Header]], ...]] = (
    (lambda data: data.startswith(_PNG_SIGNATURE), _parse_png),
    (lambda data: data.startswith(_JPEG_START), _parse_jpeg),
    (lambda data: data.startswith(b"BM"), _parse_bmp),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _parse_webp),
    (lambda data: data[:4] in _BYTE_ORDERS, _parse_tiff),
)
