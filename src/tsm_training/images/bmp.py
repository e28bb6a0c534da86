"""What a BMP file says about itself."""

from __future__ import annotations

from typing import Final

from tsm_training.images.header import FLATTEN, Header, HeaderError, check_size, truncated, unpack

_FILE_HEADER: Final = 14
_INFO_HEADERS: Final = (40, 52, 56, 108, 124)
_HEADER_WITH_ALPHA_MASK: Final = 56
_BITS: Final = (1, 4, 8, 24, 32)
_WITH_FOURTH_BYTE: Final = 32
_PLAIN: Final = 0
_MASKED: Final = 3
_MASKS_AT: Final = 54
_BGR_MASKS: Final = (0xFF0000, 0xFF00, 0xFF)
_COMPRESSIONS: Final = {1: "run-length", 2: "run-length", 4: "JPEG", 5: "PNG"}


def parse_bmp(data: bytes, max_pixels: int) -> Header:
    """Return the header; see `parse_header`."""
    offset, size = unpack("<II", data, 10, "BMP header")
    if size not in _INFO_HEADERS:
        raise HeaderError(f"is a BMP with an information header of {size} bytes, a kind that is not read")
    width, signed_height, _planes, bits, compression = unpack("<iiHHI", data, 18, "BMP header")
    height = abs(signed_height)  # negative: the rows are stored from the top down
    check_size(width, height, max_pixels)
    if compression in _COMPRESSIONS:
        raise HeaderError(f"is a BMP with {_COMPRESSIONS[compression]} compression; plain pixels are expected")
    if bits not in _BITS:
        raise HeaderError(f"is a BMP of {bits} bits per pixel; 1, 4, 8, 24 or 32 are expected")
    if offset < _FILE_HEADER + size:
        raise HeaderError(f"is damaged: its BMP pixels begin at byte {offset}, inside the header")
    pixel_bytes = (width * bits + 31) // 32 * 4 * height
    if offset + pixel_bytes > len(data):
        raise truncated(f"{pixel_bytes} bytes of BMP pixels are declared, {max(len(data) - offset, 0)} are there")
    declares_alpha = False
    if compression != _PLAIN:
        *masks, alpha_mask = unpack("<IIII", data, _MASKS_AT, "BMP header")
        if compression != _MASKED or bits != _WITH_FOURTH_BYTE or tuple(masks) != _BGR_MASKS:
            raise HeaderError("is a BMP with an unusual channel layout; blue, green, red of 8 bits each are expected")
        declares_alpha = size >= _HEADER_WITH_ALPHA_MASK and alpha_mask != 0
    if bits == _WITH_FOURTH_BYTE:
        # Undeclared it is padding if it is zero throughout, else it means alpha. That is judged here because decoders
        # disagree on which 32-bit BMP files have alpha at all.
        fourth = data[offset + 3 : offset + pixel_bytes : 4]
        is_padding = not declares_alpha and fourth.count(0) == len(fourth)
        if fourth.count(0xFF) != len(fourth) and not is_padding:
            raise HeaderError(f"is a BMP with an alpha channel in use; {FLATTEN}")
    return Header("BMP", width, height)
