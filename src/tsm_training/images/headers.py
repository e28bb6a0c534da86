"""What a picture file says about itself, read from its bytes before any decoder sees them.

Pure functions from bytes to a `Header`: nothing is opened or decoded, and no memory is taken at a file's word. They
refuse by name what the library does not take, and they notice a file that ends early, because decoders do not always
say so: some fill the missing part with grey.
"""

from __future__ import annotations

from typing import Final

from tsm_training.images.bmp import parse_bmp
from tsm_training.images.directory import BYTE_ORDERS
from tsm_training.images.header import Header, HeaderError, camera_raw
from tsm_training.images.heif import parse_heif
from tsm_training.images.jpeg import parse_jpeg
from tsm_training.images.png import SIGNATURE, parse_png
from tsm_training.images.tiff import parse_tiff
from tsm_training.images.webp import parse_webp

PICTURE_ENDINGS: Final = frozenset({
    # What is read, the last four with the extra `photos`.
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".bmp", ".dib", ".mpo", ".webp", ".tif", ".tiff",
    ".heic", ".heif", ".hif", ".avif",
    # Camera raw, which is refused by name.
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    # Other pictures, which are refused too.
    ".apng", ".avifs", ".exr", ".gif", ".hdr", ".heics", ".ico", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".pbm",
    ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga", ".xcf",
})  # fmt: skip
"""Endings of file names, in lower case, by which people know a picture; whether it is read, its contents decide."""


_CAMERA_RAW: Final = {
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"FOVb": "Sigma X3F",
    b"\0MRM": "Minolta MRW",
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"IIU\0": "Panasonic RW2",
    b"II\x1a\0\0\0HEAPCCDR": "Canon CRW",
}
"""By what the files begin with; those that are TIFF or HEIF otherwise are found by what is in them."""


def parse_header(data: bytes, max_pixels: int, *, thorough: bool = False) -> Header:
    """Return the header of an accepted picture of at most `max_pixels` pixels.

    If `thorough`, no PNG is let through that holds more pixels than it declares; otherwise one may be that takes pains
    to look as if it did not.

    Raises:
        HeaderError: the bytes are no picture of an accepted kind, end early, or declare too many pixels.
    """
    if data.startswith(SIGNATURE):
        return parse_png(data, max_pixels, thorough=thorough)
    if data.startswith(b"\xff\xd8\xff"):
        return parse_jpeg(data, max_pixels)
    if data.startswith(b"BM"):
        return parse_bmp(data, max_pixels)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return parse_webp(data, max_pixels)
    if data[:4] in BYTE_ORDERS:
        return parse_tiff(data, max_pixels)
    if data[4:8] == b"ftyp":
        return parse_heif(data, max_pixels)
    for beginning, kind in _CAMERA_RAW.items():
        if data.startswith(beginning):
            raise camera_raw(kind)
    raise HeaderError(f"is {_found(data)}; PNG, JPEG, BMP, WebP, TIFF, HEIF or AVIF is expected")


def _found(data: bytes) -> str:
    """Name the kind of a file that is refused, as far as people are likely to meet it."""
    if not data:
        return "empty"
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
