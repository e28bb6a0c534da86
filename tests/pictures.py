"""Picture files of every kind, good and odd, made byte by byte or by the usual encoders."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image as Pillow

from tsm_training.arrays import Image

HEIGHT, WIDTH = 10, 14


def colours(height: int = HEIGHT, width: int = WIDTH) -> Image:
    """Smooth, so that lossy formats stay close, and different in every corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = (rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width))
    return np.dstack(planes).astype(np.uint8)


BGR = colours()
RGB = Pillow.fromarray(BGR[:, :, ::-1].copy())
GREY = RGB.convert("L")
PALETTE = RGB.quantize(16)
HALF_CLEAR = np.full((HEIGHT, WIDTH), 255, np.uint8)
HALF_CLEAR[: HEIGHT // 2] = 128


def encoded(extension: str, image: Image = BGR, *options: int) -> bytes:
    return cv2.imencode(extension, image, options)[1].tobytes()


def saved(kind: str, picture: Pillow.Image = RGB, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.copy().save(stream, kind, **options)  # a copy, because Pillow keeps encoder settings in what it saved
    return stream.getvalue()


def with_alpha(picture: Pillow.Image, alpha: Image) -> Pillow.Image:
    picture = picture.copy()
    picture.putalpha(Pillow.fromarray(alpha))
    return picture


def oriented(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[274] = orientation
    return exif


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), depth: int = 8, colour: int = 2) -> bytes:
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + png_chunk(b"IEND", b"")


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Of each pass of an interlaced PNG: first row and column, and the steps to the next ones."""


def interlaced_png(image: Image) -> bytes:
    """Encode RGB in the seven passes that no encoder at hand writes."""
    passes = (image[row::down, column::right, ::-1] for row, column, down, right in ADAM7)
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + start + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


PNG_PIXELS = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row[:, ::-1].tobytes() for row in BGR)))


def bmp(
    bits: int,
    pixels: bytes,
    *,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    header: int = 40,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    offset: int | None = None,
) -> bytes:
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, 0, 0, 0, len(palette) // 4, 0)
    info += b"".join(struct.pack("<I", mask) for mask in masks)
    info = info.ljust(header, b"\0") + palette
    start = 14 + len(info) if offset is None else offset
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + info + pixels


def bgrx(fourth: Image | int) -> bytes:
    return np.dstack([BGR, np.broadcast_to(np.uint8(fourth), BGR.shape[:2])])[::-1].tobytes()


STANDARD_MASKS = (0xFF0000, 0xFF00, 0xFF)


def tiff(
    changes: Mapping[int, tuple[int, ...] | None] | None = None,
    pixels: bytes = BGR[:, :, ::-1].tobytes(),
    order: str = "<",
    following: int = 0,
    orientation_type: str = "H",
) -> bytes:
    """Build an uncompressed RGB TIFF of one strip; `changes` replaces fields, or removes them (None)."""
    fields: dict[int, tuple[int, ...] | None] = {
        256: (WIDTH,),
        257: (HEIGHT,),
        258: (8, 8, 8),
        259: (1,),
        262: (2,),
        273: (8,),
        277: (3,),
        278: (HEIGHT,),
        279: (len(pixels),),
        **(changes or {}),
    }
    present = {tag: values for tag, values in sorted(fields.items()) if values is not None}
    start = 8 + len(pixels)
    spill_at = start + 2 + 12 * len(present) + 4
    entries, spill = b"", b""
    for tag, values in present.items():
        code = orientation_type if tag == 274 else "I" if tag in (273, 279, 324, 325) else "H"
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > 4:
            spill, content = spill + content, struct.pack(f"{order}I", spill_at + len(spill))
        entries += struct.pack(f"{order}HHI", tag, 4 if code == "I" else 3, len(values)) + content.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(present)) + entries + struct.pack(f"{order}I", following)
    return magic + struct.pack(f"{order}I", start) + pixels + directory + spill


def tiled_tiff() -> bytes:
    """Build one tile of 32×32 around the picture; OpenCV fails on plain tiles that are no multiple of 1024 bytes."""
    tile = np.zeros((32, 32, 3), np.uint8)
    tile[:HEIGHT, :WIDTH] = BGR[:, :, ::-1]
    strips = dict.fromkeys((273, 278, 279))
    return tiff({**strips, 322: (32,), 323: (32,), 324: (8,), 325: (tile.size,)}, tile.tobytes())


def deep_tiff(image: Image, order: str, changes: Mapping[int, tuple[int, ...] | None] | None = None) -> bytes:
    """Build an uncompressed 16-bit TIFF of 8-bit BGR, a little above the levels that it is to be read as."""
    samples = (image[:, :, ::-1].astype(np.uint16) * 257 + 128).clip(max=65535).astype(f"{order}u2")
    return tiff({258: (16, 16, 16), **(changes or {})}, samples.tobytes(), order)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP"
    for kind, content in chunks:
        body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


LOSSLESS_WEBP = saved("WEBP", lossless=True)
LOSSLESS_FRAME = LOSSLESS_WEBP[20 : 20 + struct.unpack_from("<I", LOSSLESS_WEBP, 16)[0]]


def webp_canvas(flags: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


JPEG = encoded(".jpg")
JPEG_FRAME = JPEG.index(b"\xff\xc0")
JPEG_SCAN = JPEG.index(b"\xff\xda")


def jpeg_frame(marker: int = 0xC0, bits: int = 8, channels: int = 3, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    """Build a JPEG whose frame header says something else than its data."""
    frame = jpeg_segment(marker, struct.pack(">BHHB", bits, *size, channels) + bytes(3 * channels))
    return JPEG[:2] + frame + JPEG[JPEG_SCAN:]


# --- what is taken: format, file, expected pixels ---------------------------------------------------------------------

GREY_BGR = np.repeat(np.asarray(GREY)[:, :, None], 3, axis=2)
BILEVEL = GREY.convert("1")
BILEVEL_BGR = np.repeat(np.asarray(BILEVEL.convert("L"))[:, :, None], 3, axis=2)
PALETTE_BGR = np.asarray(PALETTE.convert("RGB"))[:, :, ::-1]
OPAQUE = np.full((HEIGHT, WIDTH), 255, np.uint8)
NIBBLES = np.zeros((HEIGHT, 16), np.uint8)
NIBBLES[:, :WIDTH] = np.asarray(PALETTE)
FOUR_BITS = (NIBBLES[::-1, ::2] << 4 | NIBBLES[::-1, 1::2]).tobytes()
BMP_PALETTE = b"".join(
    bytes([*colour[::-1], 0]) for colour in np.reshape(PALETTE.getpalette() or [], (-1, 3))[:16].tolist()
)
ROWS_24 = np.zeros((HEIGHT, (WIDTH * 3 + 3) // 4 * 4), np.uint8)
ROWS_24[:, : WIDTH * 3] = BGR.reshape(HEIGHT, -1)

EXACT: dict[str, tuple[str, bytes, Image]] = {
    "PNG": ("PNG", encoded(".png"), BGR),
    "PNG grey": ("PNG", saved("PNG", GREY), GREY_BGR),
    "PNG 1-bit grey": ("PNG", saved("PNG", BILEVEL), BILEVEL_BGR),
    "PNG palette": ("PNG", saved("PNG", PALETTE), PALETTE_BGR),
    "PNG palette, alpha listed but opaque": ("PNG", saved("PNG", PALETTE, transparency=b"\xff" * 16), PALETTE_BGR),
    "PNG opaque alpha": ("PNG", saved("PNG", with_alpha(RGB, OPAQUE)), BGR),
    "PNG grey with opaque alpha": ("PNG", saved("PNG", with_alpha(GREY, OPAQUE)), GREY_BGR),
    "PNG interlaced": ("PNG", interlaced_png(BGR), BGR),
    "PNG 16-bit": ("PNG", encoded(".png", BGR.astype(np.uint16) * 257 + 100), BGR),
    "PNG 16-bit grey": ("PNG", encoded(".png", GREY_BGR[:, :, 0].astype(np.uint16) * 257), GREY_BGR),
    "PNG 16-bit opaque alpha": ("PNG", encoded(".png", np.dstack([BGR, OPAQUE]).astype(np.uint16) * 257), BGR),
    "PNG followed by other bytes": ("PNG", encoded(".png") + b"more", BGR),
    "BMP": ("BMP", encoded(".bmp"), BGR),
    "BMP grey": ("BMP", saved("BMP", GREY), GREY_BGR),
    "BMP palette": ("BMP", saved("BMP", PALETTE), PALETTE_BGR),
    "BMP 4-bit palette": ("BMP", bmp(4, FOUR_BITS, palette=BMP_PALETTE), PALETTE_BGR),
    "BMP 1-bit": ("BMP", saved("BMP", BILEVEL), BILEVEL_BGR),
    "BMP stored from the top down": ("BMP", bmp(24, ROWS_24.tobytes(), size=(WIDTH, -HEIGHT)), BGR),
    "BMP 32-bit, padded": ("BMP", bmp(32, bgrx(0)), BGR),
    "BMP 32-bit, undeclared opaque alpha": ("BMP", bmp(32, bgrx(255)), BGR),
    "BMP 32-bit, masks": ("BMP", bmp(32, bgrx(0), compression=3, masks=STANDARD_MASKS, header=52), BGR),
    "BMP 32-bit, opaque alpha": (
        "BMP",
        bmp(32, bgrx(255), compression=3, masks=(*STANDARD_MASKS, 0xFF000000), header=124),
        BGR,
    ),
    "WebP lossless": ("WebP", LOSSLESS_WEBP, BGR),
    "WebP opaque alpha": ("WebP", riff(webp_canvas(0x10), (b"VP8L", LOSSLESS_FRAME)), BGR),
    "WebP with an unknown chunk": ("WebP", riff((b"VP8L", LOSSLESS_FRAME), (b"abcd", b"odd")), BGR),
    "TIFF": ("TIFF", encoded(".tif"), BGR),
    "TIFF uncompressed": ("TIFF", tiff(), BGR),
    "TIFF big-endian": ("TIFF", tiff(order=">"), BGR),
    "TIFF tiled": ("TIFF", tiled_tiff(), BGR),
    "TIFF of three strips": (
        "TIFF",
        tiff({278: (4,), 273: (8, 8 + 168, 8 + 336), 279: (168, 168, 84)}),
        BGR,
    ),
    "TIFF LZW": ("TIFF", saved("TIFF", compression="tiff_lzw"), BGR),
    "TIFF LZW, differences": ("TIFF", saved("TIFF", compression="tiff_lzw", tiffinfo={317: 2}), BGR),
    "TIFF Deflate": ("TIFF", saved("TIFF", compression="tiff_adobe_deflate"), BGR),
    "TIFF PackBits": ("TIFF", saved("TIFF", compression="packbits"), BGR),
    "TIFF grey": ("TIFF", saved("TIFF", GREY), GREY_BGR),
    "TIFF grey, white is zero": (
        "TIFF",
        tiff({258: (8,), 262: (0,), 277: (1,)}, (255 - np.asarray(GREY)).tobytes()),
        GREY_BGR,
    ),
    "TIFF 1-bit": ("TIFF", saved("TIFF", BILEVEL), BILEVEL_BGR),
    "TIFF palette": ("TIFF", saved("TIFF", PALETTE), PALETTE_BGR),
    "TIFF opaque alpha": ("TIFF", saved("TIFF", with_alpha(RGB, OPAQUE)), BGR),
    "TIFF 16-bit": ("TIFF", encoded(".tif", BGR.astype(np.uint16) * 257 + 100), BGR),
    "TIFF 16-bit, other byte order": ("TIFF", deep_tiff(BGR, ">"), BGR),
    "TIFF 16-bit opaque alpha": ("TIFF", encoded(".tif", np.dstack([BGR, OPAQUE]).astype(np.uint16) * 257), BGR),
    "TIFF with an orientation out of range": ("TIFF", tiff({274: (99,)}), BGR),
}
CLOSE: dict[str, tuple[str, bytes, Image]] = {
    "JPEG": ("JPEG", JPEG, BGR),
    "JPEG progressive": ("JPEG", encoded(".jpg", BGR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), BGR),
    "JPEG with restart markers": ("JPEG", encoded(".jpg", BGR, cv2.IMWRITE_JPEG_RST_INTERVAL, 1), BGR),
    "JPEG grey": ("JPEG", saved("JPEG", GREY, quality=100), GREY_BGR),
    "JPEG followed by other bytes": ("JPEG", JPEG + b"\xff\xd8more", BGR),
    "JPEG with a thumbnail": ("JPEG", JPEG[:2] + jpeg_segment(0xE1, JPEG) + JPEG[2:], BGR),
    "WebP lossy": ("WebP", saved("WEBP", quality=100), BGR),
    "TIFF JPEG": ("TIFF", saved("TIFF", compression="jpeg", quality=100), BGR),
    "TIFF JPEG, YCbCr": ("TIFF", tiff({259: (7,), 262: (6,), 530: (2, 2)}, encoded(".jpg", BGR, 1, 100)), BGR),
}

ORIENTED: dict[str, Callable[[int], bytes]] = {
    "JPEG": lambda orientation: saved("JPEG", exif=oriented(orientation), quality=100, subsampling=0),
    "PNG": lambda orientation: saved("PNG", exif=oriented(orientation)),
    "WebP": lambda orientation: saved("WEBP", lossless=True, exif=oriented(orientation)),
    "TIFF": lambda orientation: tiff({274: (orientation,)}),
    "TIFF, big-endian": lambda orientation: tiff({274: (orientation,)}, order=">"),
    "TIFF with alpha": lambda orientation: saved("TIFF", with_alpha(RGB, OPAQUE), tiffinfo={274: orientation}),
    "PNG with alpha": lambda orientation: saved("PNG", with_alpha(RGB, OPAQUE), exif=oriented(orientation)),
}
