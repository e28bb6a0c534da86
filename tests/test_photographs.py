"""Kinds of picture that photographers hand in: each is read to the level, or refused with what to do. Hostile files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from icc import DISPLAY_P3
from pictures import (
    BGR,
    GREY,
    HALF_CLEAR,
    HEIGHT,
    JPEG,
    LOSSLESS_FRAME,
    PALETTE,
    PNG_PIXELS,
    RGB,
    WIDTH,
    colours,
    deep_tiff,
    encoded,
    jpeg_segment,
    oriented,
    png,
    png_chunk,
    riff,
    saved,
    tiff,
    webp_canvas,
    with_alpha,
)
from tsm_training.arrays import Image
from tsm_training.errors import ImageFormatError, ImageTooLargeError, ImageTruncatedError
from tsm_training.images import (
    PICTURE_ENDINGS,
    ImageLimits,
    inspect_image,
    read_image,
    read_image_and_exif,
    read_thumbnail,
)
from tsm_training.images.heif import parse_heif

LARGE = colours(64, 96)
LARGE_RGB = Pillow.fromarray(LARGE[:, :, ::-1].copy())
LARGE_CLEAR = np.full((64, 96), 255, np.uint8)
LARGE_CLEAR[:8] = 128
LARGE_OPAQUE = np.full((64, 96), 255, np.uint8)


def extra(module: str) -> ModuleType:
    """Return a module of the extra; where tests run for every change it is there."""
    if os.environ.get("CI"):
        return __import__(module)
    found: ModuleType = pytest.importorskip(module, reason='needs the extra "photos"')
    return found


def heif(picture: Pillow.Image = LARGE_RGB, **options: object) -> bytes:
    extra("pillow_heif").register_heif_opener()
    return saved("HEIF", picture, quality=95, chroma=444, **options)


def ten_bit_heif() -> bytes:
    deep = np.ascontiguousarray(LARGE[:, :, ::-1].astype(np.uint16) * 257)
    stream = io.BytesIO()
    file = extra("pillow_heif").from_bytes(mode="RGB;16", size=(96, 64), data=deep.tobytes())
    file.save(stream, quality=95, chroma=444)
    return stream.getvalue()


def avif(picture: Pillow.Image = LARGE_RGB, **options: object) -> bytes:
    return saved("AVIF", picture, quality=100, subsampling="4:4:4", **options)


INKS = RGB.convert("CMYK")
INK_BGR = np.asarray(INKS.convert("RGB"))[:, :, ::-1]
LARGE_INKS = LARGE_RGB.convert("CMYK")


def without_adobe(jpeg: bytes) -> bytes:
    """Take Adobe's segment out of a CMYK JPEG, and store ink for what it stores: the amount that is left of white."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def paged(*kinds: int, follow: int | None = None, first: int | None = None) -> bytes:
    """Build a TIFF of several pages; of the further ones only what kind they are, and their sizes."""
    changes = {254: (first,)} if first is not None else {}
    start = len(tiff(changes))
    data = tiff(changes, following=start)
    for number, kind in enumerate(kinds, 1):
        last = number == len(kinds)
        following = (follow or 0) if last else len(data) + 2 + 12 * 3 + 4
        fields = struct.pack("<HHIHH", 254, 3, 1, kind, 0) + struct.pack(
            "<HHIHHHHIHH", 256, 3, 1, 2, 0, 257, 3, 1, 2, 0
        )
        data += struct.pack("<H", 3) + fields + struct.pack("<I", following)
    return data


def canon_raw() -> bytes:
    """Build a TIFF whose directory comes first, behind Canon's mark."""
    data = tiff()
    start = int.from_bytes(data[4:8], "little")
    return b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + data[start:]


def with_sub_page(width: int) -> bytes:
    start = len(tiff({330: (0,)}))
    fields = struct.pack("<HHIHHHHIHH", 256, 3, 1, width, 0, 257, 3, 1, HEIGHT, 0)
    return tiff({330: (start,)}) + struct.pack("<H", 2) + fields + bytes(4)


# --- what is taken --------------------------------------------------------------------------------------------------

TAKEN: dict[str, tuple[str, Callable[[], bytes], Image, int]] = {
    "HEIF": ("HEIF", heif, LARGE, 6),
    "HEIF of an odd size": ("HEIF", lambda: heif(LARGE_RGB.crop((0, 0, 51, 33))), LARGE[:33, :51], 6),
    "HEIF grey": ("HEIF", lambda: heif(LARGE_RGB.convert("L")), np.asarray(LARGE_RGB.convert("L"))[:, :, None], 6),
    "HEIF of 10 bits": ("HEIF", ten_bit_heif, LARGE, 2),
    "HEIF opaque alpha": ("HEIF", lambda: heif(with_alpha(LARGE_RGB, LARGE_OPAQUE)), LARGE, 6),
    "HEIF of two pictures": ("HEIF", lambda: heif(save_all=True, append_images=[LARGE_RGB.rotate(180)]), LARGE, 12),
    "AVIF": ("AVIF", avif, LARGE, 4),
    "AVIF opaque alpha": ("AVIF", lambda: avif(with_alpha(LARGE_RGB, LARGE_OPAQUE)), LARGE, 4),
    "CMYK JPEG of Adobe's": ("JPEG", lambda: saved("JPEG", INKS, quality=100), INK_BGR, 12),
    "CMYK JPEG": (
        "JPEG",
        lambda: without_adobe(saved("JPEG", Pillow.fromarray(255 - np.asarray(INKS), "CMYK"))),
        INK_BGR,
        40,
    ),
    "CMYK TIFF": ("TIFF", lambda: saved("TIFF", INKS), INK_BGR, 0),
    "CMYK TIFF, LZW": ("TIFF", lambda: saved("TIFF", INKS, compression="tiff_lzw"), INK_BGR, 0),
    "16-bit TIFF, Deflate": ("TIFF", lambda: encoded(".tif", BGR.astype(np.uint16) * 257, 259, 32946), BGR, 0),
    "TIFF with a reduced copy": ("TIFF", lambda: paged(1), BGR, 0),
    "TIFF with two reduced copies": ("TIFF", lambda: paged(1, 1), BGR, 0),
    "TIFF with a smaller page below": ("TIFF", lambda: with_sub_page(2), BGR, 0),
    "PNG palette of few colours": (
        "PNG",
        lambda: saved("PNG", PALETTE, bits=4),
        np.asarray(PALETTE.convert("RGB"))[:, :, ::-1],
        0,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_kind_is_read_to_the_level(put: Callable[[bytes], Path], name: str) -> None:
    kind, make, expected, tolerance = TAKEN[name]
    path = put(make())
    info, image = inspect_image(path), read_image(path)
    assert info.image_format == kind
    assert (info.height, info.width) == image.shape[:2] == expected.shape[:2]
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= tolerance
    mean = read_thumbnail(path, 1)[1].astype(int)
    assert np.abs(mean - image.mean(axis=(0, 1))).max() <= 1 + tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_picture_stands_upright_and_keeps_its_exif(put: Callable[[bytes], Path], orientation: int) -> None:
    exif = oriented(orientation)
    exif[271] = "a maker"
    expected = np.asarray(ImageOps.exif_transpose(_with_exif(exif)))[:, :, ::-1]
    for data in (heif(exif=exif.tobytes()), avif(exif=exif.tobytes())):
        path = put(data)
        image, block = read_image_and_exif(path)
        assert image.shape == expected.shape
        assert inspect_image(path).width == expected.shape[1]
        assert np.abs(image.astype(int) - expected).max() <= 6
        kept = Pillow.Exif()
        kept.load(b"Exif\0\0" + block)
        assert (kept[271], kept[274]) == ("a maker", 1)


def _with_exif(exif: Pillow.Exif) -> Pillow.Image:
    picture = LARGE_RGB.copy()
    picture.getexif().update(exif)
    return picture


def test_a_phones_picture_is_read_in_the_colours_that_it_means(put: Callable[[bytes], Path]) -> None:
    path = put(heif(icc_profile=DISPLAY_P3))
    assert inspect_image(path).profile == "Display P3"
    assert np.abs(read_image(path).astype(int) - LARGE).max() > 20
    assert inspect_image(put(_unspecified(heif()))).profile is None


def _unspecified(data: bytes) -> bytes:
    """Let the file say that it does not know what its colours mean."""
    at = data.index(b"nclx") + 4
    return data[:at] + b"\0\2\0\2" + data[at + 4 :]


def test_exif_that_is_not_where_it_should_be_does_not_spoil_a_phones_picture(put: Callable[[bytes], Path]) -> None:
    data = heif(exif=oriented(1).tobytes())
    assert read_image_and_exif(put(data.replace(b"Exif\0", b"exif\0", 1)))[1] == b""
    at = data.index(b"iloc") + 10
    for count in (0, 1):  # of items that have a place
        assert parse_heif(data[:at] + struct.pack(">H", count) + data[at + 2 :], 10**6).exif == b""
    other = data[:at] + b"\xff\xff" + data[at + 2 : at + 20] + b"\x77\x77" + data[at + 22 :]
    assert parse_heif(other, 10**6).exif == b""
    wide = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    assert read_image_and_exif(put(data + wide + struct.pack(">I4s", 0, b"free")))[1] != b""


@pytest.mark.parametrize("depth", ["PNG", "TIFF"])
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(put: Callable[[bytes], Path], depth: str) -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (deep.astype(float) / 257).round().astype(np.uint8)
    image = read_image(put(encoded({"PNG": ".png", "TIFF": ".tif"}[depth], deep)))
    assert np.array_equal(image, np.repeat(expected[:, :, None], 3, axis=2))


def test_sixteen_bits_have_the_byte_order_that_the_file_says(put: Callable[[bytes], Path]) -> None:
    for order in "<>":
        assert np.array_equal(read_image(put(deep_tiff(BGR, order, {274: (6,)}))), np.rot90(BGR, -1))


def test_cmyk_pictures_say_that_their_inks_were_laid_on_white(put: Callable[[bytes], Path]) -> None:
    assert inspect_image(put(saved("TIFF", INKS))).conversion == "inks"
    assert inspect_image(put(encoded(".tif"))).conversion == "none"


def test_endings_of_pictures_are_lower_case_with_a_dot() -> None:
    assert {".jfif", ".jpe", ".jfi", ".heic", ".avif", ".nef", ".gif", ".tiff"} <= PICTURE_ENDINGS
    assert all(ending.startswith(".") and ending == ending.lower() for ending in PICTURE_ENDINGS)


# --- what is refused, and what to do ----------------------------------------------------------------------------------

FLATTEN = "lay it on a background"
DEVELOP = "develop it first"
RAW: dict[str, bytes] = {
    "DNG": tiff({50706: (1, 4)}),
    "NEF or ARW": paged(0, first=1),
    "TIFF with a larger page below": with_sub_page(4000),
    "CR2": canon_raw(),
    "colour filter array": tiff({262: (32803,)}),
    "Sony's compression": tiff({259: (32767,)}),
    "CR3": struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + bytes(100),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(100),
    "CRW": b"II\x1a\0\0\0HEAPCCDR" + bytes(100),
    "X3F": b"FOVb" + bytes(100),
    "MRW": b"\0MRM" + bytes(100),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "HEIF transparent": (lambda: heif(with_alpha(LARGE_RGB, LARGE_CLEAR)), FLATTEN),
    "AVIF transparent": (lambda: avif(with_alpha(LARGE_RGB, LARGE_CLEAR)), FLATTEN),
    "AVIF sequence": (lambda: avif(save_all=True, append_images=[LARGE_RGB.rotate(180)]), "a sequence of pictures"),
    "HEIF cut": (lambda: heif()[:-50], "ends early"),
    "HEIF without boxes": (lambda: heif()[:28], "no box of this HEIF file"),
    "HEIF without a primary picture": (lambda: heif().replace(b"pitm", b"free"), "do not say which picture"),
    "HEIF without properties": (lambda: heif().replace(b"ipma", b"free"), "do not say how large"),
    "HEIF with properties of another": (lambda: _other_item(heif()), "declares 0×0 pixels"),
    "HEIF damaged": (lambda: _emptied(heif()), "could not be decoded"),
    "AVIF damaged": (lambda: _emptied(avif()), "could not be decoded"),
    "MP4": (lambda: struct.pack(">I", 16) + b"ftypisom\0\0\0\1" + bytes(50), "HEIF or MP4 family"),
    "PNG transparent": (lambda: saved("PNG", with_alpha(RGB, HALF_CLEAR)), FLATTEN),
    "PNG 16-bit transparent": (lambda: encoded(".png", np.dstack([BGR, HALF_CLEAR]).astype(np.uint16) * 257), FLATTEN),
    "PNG palette transparent": (lambda: saved("PNG", PALETTE, transparency=3), FLATTEN),
    "PNG transparent colour": (lambda: saved("PNG", transparency=(1, 2, 3)), FLATTEN),
    "WebP transparent": (lambda: saved("WEBP", with_alpha(RGB, HALF_CLEAR), lossless=True), FLATTEN),
    "PNG damaged": (lambda: png(png_chunk(b"IDAT", b"\x78\1" + bytes(200))), "could not be decoded"),
    "TIFF float": (lambda: saved("TIFF", GREY.convert("F")), "floating-point samples; unsigned ones are expected"),
    "TIFF of 16-bit floats": (lambda: deep_tiff(BGR, "<", {339: (3, 3, 3)}), "floating-point"),
    "TIFF of 32 bits": (lambda: tiff({258: (32, 32, 32)}), "a 32-bit TIFF; 8 or 16 bits"),
    "TIFF of 16-bit inks": (lambda: tiff({258: (16,) * 4, 262: (5,), 277: (4,)}), "8-bit CMYK"),
    "TIFF of two pages": (lambda: paged(0), "save the one that you mean"),
    "TIFF of a mask": (lambda: paged(1, 4), "several pages"),
    "TIFF of pages in a circle": (lambda: paged(1, follow=len(tiff())), "in a circle"),
    "TIFF of YCbCr without JPEG": (lambda: tiff({262: (6,)}), "YCbCr TIFF without JPEG"),
    "TIFF that is no JPEG": (lambda: tiff({259: (7,)}), "is not the JPEG"),
    "TIFF with a JPEG of another size": (lambda: tiff({259: (7,)}, encoded(".jpg", LARGE)), "another size"),
    "CMYK TIFF damaged": (lambda: tiff({258: (8,) * 4, 259: (5,), 262: (5,), 277: (4,)}, bytes(99)), "not be decoded"),
}  # fmt: skip


def _other_item(data: bytes) -> bytes:
    """Let the primary picture be one that has no properties."""
    at = data.index(b"pitm") + 8
    return data[:at] + b"\0\x63" + data[at + 2 :]


def _emptied(data: bytes) -> bytes:
    """Overwrite the pixels."""
    at = data.index(b"mdat") + 4
    return data[:at] + b"\xff" * (len(data) - at)


@pytest.mark.parametrize("use", [inspect_image, read_image])
@pytest.mark.parametrize("name", RAW)
def test_camera_raw_is_refused_and_never_read_as_its_preview(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageFormatError, match=DEVELOP):
        use(put(RAW[name]))


@pytest.mark.parametrize("use", [inspect_image, read_image])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_what_to_do(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]
) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(ImageFormatError) as caught:
        use(put(make()))
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("pillow_heif", heif),
        ("PIL.AvifImagePlugin", avif),
        ("PIL.JpegImagePlugin", lambda: saved("JPEG", INKS)),
        ("PIL.TiffImagePlugin", lambda: saved("TIFF", INKS)),
    ],
)
def test_what_takes_an_extra_says_how_to_get_it(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[], bytes]
) -> None:
    path = put(make())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageFormatError, match=r'pip install "tsm_training\[photos\]"'):
        read_image(path)


def test_the_size_of_a_phones_picture_is_known_before_it_is_decoded(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(heif())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageTooLargeError, match="96×64"):
        read_image(path, ImageLimits(max_pixels=96 * 64 - 1))


# --- files that hold more, or less, than they declare -----------------------------------------------------------------


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def swollen_png(image: Image, excess: int) -> bytes:
    """Build a PNG whose pixel data go on behind its last row."""
    rows = b"".join(b"\0" + row[:, ::-1].tobytes() for row in image)
    return png(png_chunk(b"IDAT", zlib.compress(rows + bytes(excess))), size=image.shape[1::-1])


def repeated_scan(image: Image, times: int) -> bytes:
    """Build a progressive JPEG that repeats its last scan."""
    data = encoded(".jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * times + data[-2:]


OVERFULL: dict[str, bytes] = {
    "PNG of one byte too many": swollen_png(BGR, 1),
    "PNG of many": swollen_png(BGR, 10**6),
    "PNG of plain rows and many more": swollen_png(np.zeros((300, 300, 3), np.uint8), 50_000_000),
    "PNG of more packed bytes than pixels": png(png_chunk(b"IDAT", zlib.compress(bytes(noise(50, 50)))), size=(5, 5)),
    "WebP": riff((b"VP8L", LOSSLESS_FRAME + bytes(10_000))),
    "TIFF": tiff({279: (200_000,)}, bytes(200_000)),
    "JPEG": JPEG[:-2] + bytes(100_000) + JPEG[-2:],
}  # fmt: skip


@pytest.mark.parametrize("use", [inspect_image, read_image])
@pytest.mark.parametrize("name", OVERFULL)
def test_a_file_that_holds_more_than_it_declares_is_refused_by_name(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageFormatError, match="holds more data than it declares"):
        use(put(OVERFULL[name]))


def test_a_png_that_hides_its_excess_behind_noise_is_found_when_it_is_added(put: Callable[[bytes], Path]) -> None:
    path = put(swollen_png(noise(200, 200), 10_000))
    with pytest.raises(ImageFormatError, match="holds more data than it declares"):
        inspect_image(path)
    assert read_image(path).shape == (200, 200, 3)


def test_most_png_are_inflated_and_not_decoded_when_they_are_added(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    for data in (encoded(".png", noise(200, 200)), encoded(".png", noise(9, 9).astype(np.uint16)), saved("PNG", GREY)):
        assert inspect_image(put(data)).image_format == "PNG"


@pytest.mark.parametrize(
    "rows",
    [b"\5" + bytes(WIDTH * 3) + bytes((WIDTH * 3 + 1) * (HEIGHT - 1)), bytes(50)],
    ids=["filter 5", "too few rows"],
)
def test_a_png_that_inflates_but_cannot_be_decoded_is_refused_when_it_is_added(
    put: Callable[[bytes], Path], rows: bytes
) -> None:
    with pytest.raises(ImageFormatError, match="could not be decoded"):
        inspect_image(put(png(png_chunk(b"IDAT", zlib.compress(rows)))))


def test_a_png_whose_beginning_is_plain_is_read(put: Callable[[bytes], Path]) -> None:
    image = noise(400, 400)
    image[:350] = 7
    assert np.array_equal(read_image(put(swollen_png(image, 0))), image)


@pytest.mark.parametrize(("times", "side"), [(200, 16), (40, 6000)])
def test_a_jpeg_of_endless_scans_is_refused(put: Callable[[bytes], Path], times: int, side: int) -> None:
    data = bytearray(repeated_scan(LARGE, times))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    with pytest.raises(ImageFormatError, match="scans"):
        read_image(put(bytes(data)))


HOLLOW: dict[str, bytes] = {
    "PNG": png(png_chunk(b"IDAT", zlib.compress(bytes(50))), size=(7000, 7000)),
    "TIFF, Deflate": tiff({256: (7000,), 257: (7000,), 259: (8,), 278: (7000,)}, zlib.compress(bytes(50))),
    "TIFF, LZW": tiff({256: (7000,), 257: (7000,), 259: (5,), 278: (7000,)}, bytes(50)),
}


@pytest.mark.parametrize("use", [inspect_image, read_image])
@pytest.mark.parametrize("name", HOLLOW)
def test_pixels_that_cannot_fill_the_size_are_not_given_to_a_decoder(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageTruncatedError, match="ends early"):
        use(put(HOLLOW[name]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({256: (1,), 257: (65535, 976), 278: (1,)}, "field 257"),
        ({257: (60_000,), 278: (1,)}, "locates"),
        ({322: (65_000,), 323: (65_000,), 324: (8,), 325: (420,)}, "tiles of 1 to"),
    ],
)
def test_counts_of_strips_and_tiles_take_no_memory(
    put: Callable[[bytes], Path], changes: dict[int, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(ImageFormatError, match=reason):
        read_image(put(tiff(changes)))


def test_a_tiff_of_millions_of_strips_is_refused_before_they_are_counted(put: Callable[[bytes], Path]) -> None:
    data = tiff({256: (1,), 278: (1,)}).replace(
        struct.pack("<HHIHH", 257, 3, 1, HEIGHT, 0), struct.pack("<HHII", 257, 4, 1, 1_000_000)
    )
    with pytest.raises(ImageFormatError, match="consists of 1000000 TIFF strips"):
        read_image(put(data))


# --- what decoders would say on standard error ------------------------------------------------------------------------

CHATTY: dict[str, bytes] = {
    "PNG with a damaged profile": png(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200))), PNG_PIXELS),
    "PNG with a bomb of text": png(png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**7))), PNG_PIXELS),
    "PNG with odd chunks": png(
        png_chunk(b"gAMA", b"\0"),
        png_chunk(b"cHRM", b"abc"),
        png_chunk(b"tIME", b""),
        PNG_PIXELS,
        png_chunk(b"bKGD", b""),
    ),
    "JPEG with bytes between segments": JPEG.replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
    "JPEG with segments that nobody knows": JPEG[:2]
    + jpeg_segment(0xEE, b"Adobe")
    + jpeg_segment(0xE2, b"x")
    + JPEG[2:],
    "TIFF with fields that nobody knows": tiff({65000: (1, 2, 3), 305: (7,), 282: (1,), 296: (9,)}),
    "TIFF with a reduced copy": paged(1),
    "WebP with a profile and text": riff(
        webp_canvas(0x2C), (b"ICCP", b"no profile"), (b"VP8L", LOSSLESS_FRAME), (b"EXIF", b"no"), (b"XMP ", b"<>")
    ),
}


READ_ALL = """
import sys
from tsm_training.images import inspect_image, read_image
for path in sys.argv[1:]:
    inspect_image(path), read_image(path)
"""


@pytest.mark.slow
def test_decoders_say_nothing_of_what_they_need_not_know(tmp_path: Path) -> None:
    paths = []
    for name, data in CHATTY.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    done = subprocess.run([sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", CHATTY)
def test_what_is_left_out_for_the_decoder_changes_no_pixel(put: Callable[[bytes], Path], name: str) -> None:
    assert np.abs(read_image(put(CHATTY[name])).astype(int) - BGR).max() <= (20 if name.startswith("JPEG") else 0)
