"""What a picture file says about itself, read from its bytes before any decoder sees them.

Pure functions from bytes to a `Header`: nothing is opened or decoded, and no memory is taken at a file's word. They
refuse by name what the library does not take, and they notice a file that ends early, because decoders do not always
say so: some fill the missing part with grey.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeVar

from tsm_training.errors import ImageError, ImageFormatError, ImageTooLargeError, ImageTruncatedError

PICTURE_ENDINGS: Final = frozenset(
    # What is read, the last four with the extra `photos`,
    ".png .jpg .jpeg .jpe .jfif .jfi .bmp .dib .webp .tif .tiff .heic .heif .hif .avif "
    # camera raw, which is refused by name,
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl "
    ".sr2 .srf .srw .x3f "
    # and other pictures, which are refused too.
    ".apng .avifs .exr .gif .hdr .heics .ico .j2k .jp2 .jpf .jpx .jxl .jxr .pbm .pcx .pgm .pnm .ppm .psd .svg .tga "
    ".xcf".split()
)
"""Endings of file names, in lower case, by which people know a picture. Which of them can be read, the contents decide."""

_MAX_SIDE: Final = 1 << 20
"""Pixels per side; OpenCV refuses more, whatever the product of the sides."""

_MAX_PARTS: Final = 1 << 18
"""Chunks or segments per file: an eighth of this is usual for the largest pictures, and each takes its time to read."""

_PartT = TypeVar("_PartT")

_UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)
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
    orientation: int = _UPRIGHT
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


def parse_header(data: bytes, max_pixels: int) -> Header:
    """Return the header of an accepted picture of at most `max_pixels` pixels.

    Raises:
        HeaderError: the bytes are no picture of an accepted kind, end early, or declare too many pixels.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _parse_png(data, max_pixels)
    if data.startswith(b"\xff\xd8\xff"):
        return _parse_jpeg(data, max_pixels)
    if data.startswith(b"BM"):
        return _parse_bmp(data, max_pixels)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _parse_webp(data, max_pixels)
    if data[:4] in _BYTE_ORDERS:
        return _parse_tiff(data, max_pixels)
    raise HeaderError(f"is {_found(data)}; PNG, JPEG, BMP, WebP or TIFF is expected")


def _found(data: bytes) -> str:
    """Name the kind of a file that is refused, as far as people are likely to meet it."""
    if not data:
        return "empty"
    if data[4:8] == b"ftyp":
        return f"a file of the HEIF or MP4 family ({data[8:12]!r})"
    if data.startswith(b"GIF8"):
        return "a GIF"
    if data.startswith((b"II+\0", b"MM\0+")):
        return "a BigTIFF"
    text = data[:64].decode("utf-8", "replace").rstrip("\ufffd")  # it may end within a character
    if text.removeprefix("\ufeff").lstrip().lower().startswith(("<!doctype html", "<html")):
        return "an HTML page"
    if text and all(character.isprintable() or character.isspace() for character in text):
        return f"text beginning {data[:20]!r}"
    return f"unknown data beginning {data[:8].hex(' ')}"


# --- faults and small helpers ---------------------------------------------------------------------------------------


def _truncated(what: str) -> HeaderError:
    return HeaderError(f"ends early: {what}", ImageTruncatedError)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    declared = f"declares {width}×{height} pixels"
    if width < 1 or height < 1:
        raise HeaderError(f"{declared}; at least 1×1 is expected")
    if width * height > max_pixels:
        raise HeaderError(f"{declared}; at most {max_pixels} in all are allowed", ImageTooLargeError)
    if max(width, height) > _MAX_SIDE:
        raise HeaderError(f"{declared}; at most {_MAX_SIDE} a side can be decoded", ImageTooLargeError)


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


_MAX_PROFILE: Final = 8 << 20
"""Bytes of an ICC profile; the largest tables that are sold for printing presses have less than half of it."""


def _with_profile(colors: ColorTags, icc: bytes | None, fault: str) -> ColorTags:
    """Add a profile that was taken out of its container, or say that there is one which could not be."""
    if icc is not None and len(icc) > _MAX_PROFILE:
        icc, fault = None, f"it has more than {_MAX_PROFILE} bytes"
    return colors._replace(icc=icc) if icc is not None else colors._replace(fault=fault)


# --- TIFF directories, which also carry the EXIF orientation --------------------------------------------------------

_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_FIELD_CODES: Final = {1: "B", 3: "H", 4: "I"}
"""Field types that hold unsigned whole numbers: BYTE, SHORT, LONG."""

_SHORT: Final = 3
_BYTES: Final = (1, 7)
"""Field types that hold bytes: BYTE, UNDEFINED."""

_INLINE_BYTES: Final = 4
_ENTRY_BYTES: Final = 12
_ORIENTATION_TAG: Final = 274


class _Directory(NamedTuple):
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

    def content(self, tag: int) -> bytes | None:
        """Return the bytes of a present field, or None if it is of another type or lies outside the file."""
        kind, count, position = self.entries[tag]
        start = position if count <= _INLINE_BYTES else int.from_bytes(self.data[position : position + 4], self.endian)
        return self.data[start : start + count] if kind in _BYTES and start + count <= len(self.data) else None

    @property
    def endian(self) -> Literal["little", "big"]:
        """The byte order as `int.from_bytes` wants it."""
        return "little" if self.order == "<" else "big"


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
_PNG_GREY: Final = (0, 4)
_PNG_KEPT: Final = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")
"""Chunks that describe the picture; all but the last have to come before its pixels."""


def _parse_png(data: bytes, max_pixels: int) -> Header:
    header: Header | None = None
    kept: dict[bytes, bytes] = {}
    pixel_data = 0
    for kind, start, end in _bounded(_png_chunks(data, max_pixels)):
        if kind == b"IHDR":
            header = _png_start(data[start:end])
        elif header is None:
            raise HeaderError(f"is a PNG that begins with a {kind!r} chunk; IHDR is expected")
        elif kind == b"acTL":
            raise HeaderError("is an animated PNG; a single picture is expected")
        elif kind == b"tRNS":
            # A palette may list alpha values, to be looked at; a single transparent colour is transparency for sure.
            if data[_PNG_COLOUR_TYPE_AT] != _PNG_PALETTE:
                raise HeaderError("is a PNG with a transparent colour (tRNS); an opaque picture is expected")
            header = header._replace(has_alpha=True)
        elif kind in _PNG_KEPT and (kind == b"eXIf" or not pixel_data):
            kept.setdefault(kind, data[start:end])
        pixel_data += (end - start) * (kind == b"IDAT")
    if header is None or not pixel_data:
        raise HeaderError("is a PNG without pixel data")
    exif = kept.get(b"eXIf", b"").removeprefix(b"Exif\0\0")
    return header._replace(colors=_png_colors(kept), exif=exif, orientation=_exif_orientation(exif))


def _png_colors(kept: dict[bytes, bytes]) -> ColorTags:
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
        profile = inflating.decompress(packed[1:], _MAX_PROFILE + 1)  # the first byte names the method; there is one
    except zlib.error:
        profile = None
    return _with_profile(colors, profile, "its PNG chunk cannot be inflated")


def _png_start(chunk: bytes) -> Header:
    if len(chunk) != _PNG_IHDR_BYTES:
        raise HeaderError(f"is a PNG with a header of {len(chunk)} bytes; {_PNG_IHDR_BYTES} are expected")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", chunk)
    if depth not in _PNG_DEPTHS.get(colour_type, ()):
        raise HeaderError(f"is a PNG of colour type {colour_type} with {depth} bits, which the standard does not know")
    if depth == _PNG_DEEP:
        raise HeaderError("is a 16-bit PNG; 8 bits per channel are expected")
    model = "GRAY" if colour_type in _PNG_GREY else "RGB"
    return Header("PNG", width, height, has_alpha=colour_type in _PNG_WITH_ALPHA, model=model)


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


# --- JPEG -----------------------------------------------------------------------------------------------------------

_JPEG_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""A marker that ends scan data: not a stuffed zero, not a fill byte, not a restart marker."""

_JPEG_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_JPEG_OTHER_FRAMES: Final = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded"),
}
_JPEG_APP1: Final = 0xE1
_JPEG_APP2: Final = 0xE2
_JPEG_PROFILE: Final = b"ICC_PROFILE\0"
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
    exif: bytes | None = None
    profile: dict[bytes, bytes] = {}
    scans = 0
    for marker, start, end in _bounded(_jpeg_segments(data)):
        if marker in _JPEG_OTHER_FRAMES:
            raise HeaderError(f"is a JPEG of a kind that is not read: {_JPEG_OTHER_FRAMES[marker]}")
        if marker in _JPEG_FRAMES:
            if header is not None:
                raise HeaderError("is a JPEG with several frames; a single picture is expected")
            header = _jpeg_frame(data[start:end], max_pixels)
        elif marker == _JPEG_APP1 and exif is None and data.startswith(b"Exif\0\0", start):
            exif = data[start + 6 : end]
        elif marker == _JPEG_APP2 and data.startswith(_JPEG_PROFILE, start):
            head = start + len(_JPEG_PROFILE)
            profile.setdefault(data[head : head + 2], data[head + 2 : end])
        scans += marker == _JPEG_SCAN
        if scans > _JPEG_MAX_SCANS:
            raise HeaderError(f"is a JPEG of more than {_JPEG_MAX_SCANS} scans")
    if header is None or not scans:
        raise HeaderError("is a JPEG without pixel data")
    exif = exif or b""
    return header._replace(colors=_jpeg_colors(profile), exif=exif, orientation=_exif_orientation(exif))


def _jpeg_frame(segment: bytes, max_pixels: int) -> Header:
    bits, height, width, channels = _unpack(">BHHB", segment, 0, "JPEG frame header")
    _check_size(width, height, max_pixels)
    if bits != _JPEG_BITS:
        raise HeaderError(f"is a {bits}-bit JPEG; {_JPEG_BITS} bits per channel are expected")
    if channels not in _JPEG_GREY_AND_COLOUR:
        found = "CMYK JPEG (4 channels)" if channels == _JPEG_CMYK else f"JPEG of {channels} channels"
        raise HeaderError(f"is a {found}; grey or colour is expected")
    return Header("JPEG", width, height, model="GRAY" if channels == 1 else "RGB")


def _jpeg_colors(parts: dict[bytes, bytes]) -> ColorTags:
    """Join the parts of a profile, each under its number (from 1) and the number of all of them, in any order."""
    if not parts:
        return ColorTags()
    numbers = [bytes((number, len(parts))) for number in range(1, len(parts) + 1)] if len(parts) < 1 << 8 else []
    is_whole = bool(numbers) and parts.keys() == set(numbers)
    profile = b"".join(parts[number] for number in numbers) if is_whole else None
    return _with_profile(ColorTags(), profile, "its JPEG segments do not fit together")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of every segment up to the end marker.

    Segments are stepped over by their lengths, so the end marker of a thumbnail inside one is not taken for the end of
    the picture. Between a scan header and the next marker is scan data; the search passes over it.
    """
    position = 2
    while True:
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            raise _truncated("a JPEG without an end marker behind its last scan")
        marker, start = data[match.start() + 1], match.end()
        if marker == _JPEG_END:
            return
        if marker in _JPEG_STANDALONE:
            raise HeaderError(f"is damaged: a JPEG marker {marker:#x} where none may be")
        (length,) = _unpack(">H", data, start, "JPEG segment")
        position = start + length
        if length < struct.calcsize(">H") or position > len(data):
            raise _truncated(f"a JPEG segment {marker:#x} claims {length} bytes")
        yield marker, start + 2, position


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
    declares_alpha = False
    if compression != _BMP_PLAIN:
        *masks, alpha_mask = _unpack("<IIII", data, _BMP_MASKS_AT, "BMP header")
        if compression != _BMP_MASKED or bits != _BMP_WITH_FOURTH_BYTE or tuple(masks) != _BMP_BGR_MASKS:
            raise HeaderError("is a BMP with an unusual channel layout; blue, green, red of 8 bits each are expected")
        declares_alpha = size >= _BMP_HEADER_WITH_ALPHA_MASK and alpha_mask != 0
    if bits == _BMP_WITH_FOURTH_BYTE:
        # Undeclared it is padding if it is zero throughout, else it means alpha. That is judged here because decoders
        # disagree on which 32-bit BMP files have alpha at all.
        fourth = data[offset + 3 : offset + pixel_bytes : 4]
        is_padding = not declares_alpha and fourth.count(0) == len(fourth)
        if fourth.count(0xFF) != len(fourth) and not is_padding:
            raise HeaderError("is a BMP with an alpha channel in use; an opaque picture is expected")
    return Header("BMP", width, height)


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
    colors, exif = ColorTags(), b""
    flags = 0
    for kind, start, end in _bounded(_webp_chunks(data)):
        if kind == b"VP8X":
            flags, low_width, high_width, low_height, high_height = _unpack(
                "<B3xHBHB", data[start:end], 0, "WebP header"
            )
            canvas = (low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1)
            _check_size(*canvas, max_pixels)
        if kind in (b"ANIM", b"ANMF") or flags & _WEBP_ANIMATED:
            raise HeaderError("is an animated WebP; a single picture is expected")
        if kind in (b"VP8 ", b"VP8L") and frame is None:
            frame = _webp_frame(data[start : min(end, start + _WEBP_FRAME_BYTES)], is_lossy=kind == b"VP8 ")
            _check_size(frame.width, frame.height, max_pixels)
        elif kind == b"EXIF":
            exif = data[start:end].removeprefix(b"Exif\0\0")
        elif kind == b"ICCP":
            colors = _with_profile(colors, data[start:end], "")
        elif kind == b"ALPH":
            flags |= _WEBP_ALPHA
    if frame is None:
        raise HeaderError("is a WebP without pixel data")
    if canvas not in (None, (frame.width, frame.height)):
        raise HeaderError(f"is damaged: its WebP canvas and its picture differ in size ({canvas})")
    has_alpha = bool(flags & _WEBP_ALPHA) or frame.has_alpha
    return frame._replace(orientation=_exif_orientation(exif), has_alpha=has_alpha, colors=colors, exif=exif)


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


def _webp_frame(chunk: bytes, *, is_lossy: bool) -> Header:
    if is_lossy:
        if chunk[3:6] != _WEBP_LOSSY_START:
            raise HeaderError("is damaged: its WebP picture has no start code")
        width, height = _unpack("<HH", chunk, 6, "WebP picture")
        return Header("WebP", width & _WEBP_SIDE_MASK, height & _WEBP_SIDE_MASK)
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
_PROFILE: Final = 34675
_UNCOMPRESSED: Final = 1
_TIFF_COMPRESSIONS: Final = (_UNCOMPRESSED, 5, 8, 32946, 32773)
"""None, LZW, Deflate under two numbers, PackBits."""

_TIFF_REFUSED_COMPRESSIONS: Final = {2: "fax", 3: "fax", 4: "fax", 6: "JPEG", 7: "JPEG"}
_TIFF_REFUSED_PHOTOMETRICS: Final = {5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "CIE Lab", 10: "CIE Lab"}
_TIFF_SAMPLE_KINDS: Final = {2: "signed", 3: "floating-point"}
_TIFF_LAYOUTS: Final = {0: ((1, 1), (1, 8)), 1: ((1, 1), (1, 8)), 2: ((3, 8), (4, 8)), 3: ((1, 8),)}
"""Accepted (samples per pixel, bits per sample) by photometric: grey twice, colour, palette."""

_TIFF_COLOUR_AND_ALPHA: Final = 4
_TIFF_GREY: Final = (0, 1)
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
    _check_tiff_blocks(directory, (width, height), samples * bits, is_packed=compression != _UNCOMPRESSED)
    orientation = directory.number(_ORIENTATION_TAG, _UPRIGHT)
    place: int | None = None
    if orientation != _UPRIGHT:
        if directory.entries[_ORIENTATION_TAG][0] != _SHORT:
            raise HeaderError("is damaged: its TIFF orientation is not stored as a 16-bit number")
        place = directory.place(_ORIENTATION_TAG)
    upright = orientation if orientation in _ORIENTATIONS else _UPRIGHT
    colors = ColorTags()
    if _PROFILE in directory.entries:
        colors = _with_profile(colors, directory.content(_PROFILE), "its TIFF field lies outside the file")
    model = "GRAY" if directory.number(_PHOTOMETRIC, -1) in _TIFF_GREY else "RGB"
    has_alpha = samples == _TIFF_COLOUR_AND_ALPHA
    return Header("TIFF", width, height, upright, has_alpha, place, directory.order, model, colors)


def _tiff_layout(directory: _Directory) -> tuple[int, int]:
    """Return samples per pixel and bits per sample of an accepted channel layout."""
    samples = directory.number(_SAMPLES, 1)
    depths = set(directory.numbers(_BITS, (1,), _TIFF_MAX_SAMPLES))
    photometric = directory.number(_PHOTOMETRIC, -1)
    for kind in directory.numbers(_SAMPLE_FORMAT, (1,), _TIFF_MAX_SAMPLES):
        if kind != 1:
            found = _TIFF_SAMPLE_KINDS.get(kind, kind)
            raise HeaderError(f"is a TIFF with {found} samples; unsigned ones are expected")
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


def _check_tiff_blocks(directory: _Directory, size: tuple[int, int], pixel_bits: int, *, is_packed: bool) -> None:
    """Check that every strip or tile lies inside the file and, unless it is packed, is long enough.

    The decoder fills what it cannot read without a word, so that a short file must be noticed here.
    """
    width, height = size
    if _TILE_WIDTH in directory.entries:
        tags = (_TILE_OFFSETS, _TILE_BYTES)
        tile_width, tile_height = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not (1 <= tile_width <= _TIFF_MAX_TILE_SIDE and 1 <= tile_height <= _TIFF_MAX_TILE_SIDE):
            raise HeaderError(
                f"is a TIFF of {tile_width}×{tile_height} tiles; at most {_TIFF_MAX_TILE_SIDE} a side are read"
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
            raise _truncated(f"TIFF pixels are declared up to byte {offset + length}, {len(directory.data)} are there")
        expected = 1 if is_packed else (tile_width * pixel_bits + 7) // 8 * block_rows
        if length < expected:
            raise _truncated(f"a TIFF strip or tile has {length} bytes; at least {expected} are expected")
