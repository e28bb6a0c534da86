"""What a WebP file says about itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from tsm_training.images.directory import exif_orientation
from tsm_training.images.header import (
    ColorTags,
    Header,
    HeaderError,
    bounded,
    check_size,
    overfull,
    truncated,
    unpack,
    with_profile,
)

_FILE_HEADER: Final = 12
_FRAME_BYTES: Final = 10
_ANIMATED: Final = 0x02
_ALPHA: Final = 0x10
_SIDE_MASK: Final = 0x3FFF
_DECODED: Final = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L")
_MAX_BYTES_PER_PIXEL: Final = 8
_SLACK: Final = 4096
"""Lossless pixels of noise take little more than the four bytes that they have, and code tables a few thousand."""

_LOSSY_START: Final = b"\x9d\x01\x2a"
_LOSSLESS_START: Final = 0x2F
_LOSSLESS_ALPHA: Final = 1 << 28


def parse_webp(data: bytes, max_pixels: int) -> Header:
    """Return the header; see `parse_header`."""
    frame: Header | None = None
    canvas: tuple[int, int] | None = None
    found: dict[bytes, bytes] = {}
    kept: list[tuple[int, int]] = []
    flags = chunks = 0
    for kind, start, end in bounded(_chunks(data)):
        if kind == b"VP8X":
            flags, canvas = _canvas(data[start:end])
            check_size(*canvas, max_pixels)
        if kind in (b"ANIM", b"ANMF") or flags & _ANIMATED:
            raise HeaderError("is an animated WebP; a single picture is expected")
        if kind in (b"VP8 ", b"VP8L") and frame is None:
            frame = _frame(data[start : min(end, start + _FRAME_BYTES)], is_lossy=kind == b"VP8 ")
            _check_amount(frame, end - start, max_pixels)
        if kind in _DECODED:
            kept.append((start - 8, end + (end - start) % 2))
        elif kind in (b"EXIF", b"ICCP"):
            found[kind] = data[start:end]
        flags |= _ALPHA * (kind == b"ALPH")
        chunks += 1
    if frame is None:
        raise HeaderError("is a WebP without pixel data")
    if canvas not in (None, (frame.width, frame.height)):
        raise HeaderError(f"is damaged: its WebP canvas and its picture differ in size ({canvas})")
    exif = found.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return frame._replace(
        orientation=exif_orientation(exif),
        has_alpha=bool(flags & _ALPHA) or frame.has_alpha,
        parts=_without_others(data, kept) if chunks > len(kept) else (),
        colors=with_profile(ColorTags(), found[b"ICCP"], "") if b"ICCP" in found else ColorTags(),
        exif=exif,
    )


def _canvas(chunk: bytes) -> tuple[int, tuple[int, int]]:
    """Return flags, and width and height of what the picture is laid on."""
    flags, low_width, high_width, low_height, high_height = unpack("<B3xHBHB", chunk, 0, "WebP header")
    return flags, (low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1)


def _check_amount(frame: Header, num_bytes: int, max_pixels: int) -> None:
    check_size(frame.width, frame.height, max_pixels)
    if num_bytes > _MAX_BYTES_PER_PIXEL * frame.width * frame.height + _SLACK:
        raise overfull(f"{num_bytes} bytes of WebP pixels for {frame.width}×{frame.height} of them")


def _without_others(data: bytes, kept: list[tuple[int, int]]) -> tuple[bytes | memoryview, ...]:
    """Return a container of the chunks that are decoded; the canvas promises no others then."""
    parts: list[bytes | memoryview] = []
    for start, end in kept:
        part = data[start : min(end, len(data))]
        parts.append(part[:8] + bytes([part[8] & _ALPHA]) + part[9:] if part.startswith(b"VP8X") else part)
    return b"RIFF", struct.pack("<I", 4 + sum(map(len, parts))), b"WEBP", *parts


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of every chunk inside the RIFF container; bytes behind it are not looked at."""
    (size,) = unpack("<I", data, 4, "WebP header")
    container_end = size + 8
    if container_end > len(data):
        raise truncated(f"a WebP of {container_end} bytes is declared, {len(data)} are there")
    position = _FILE_HEADER
    while position + 8 <= container_end:
        kind = data[position : position + 4]
        (length,) = unpack("<I", data, position + 4, "WebP chunk")
        start, end = position + 8, position + 8 + length
        if end > container_end:
            raise truncated(f"a WebP chunk {kind!r} claims {length} bytes, {container_end - start} are there")
        yield kind, start, end
        position = end + length % 2


def _frame(chunk: bytes, *, is_lossy: bool) -> Header:
    if is_lossy:
        if chunk[3:6] != _LOSSY_START:
            raise HeaderError("is damaged: its WebP picture has no start code")
        width, height = unpack("<HH", chunk, 6, "WebP picture")
        return Header("WebP", width & _SIDE_MASK, height & _SIDE_MASK)
    signature, bits = unpack("<BI", chunk, 0, "WebP picture")
    if signature != _LOSSLESS_START:
        raise HeaderError("is damaged: its lossless WebP picture has no start code")
    width, height = (bits & _SIDE_MASK) + 1, ((bits >> 14) & _SIDE_MASK) + 1
    return Header("WebP", width, height, has_alpha=bool(bits & _LOSSLESS_ALPHA))
