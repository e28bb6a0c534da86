import errno
import hashlib
import json
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps

from pictures import (
    BGR,
    BILEVEL,
    CLOSE,
    EXACT,
    GREY,
    HALF_CLEAR,
    HEIGHT,
    JPEG,
    JPEG_FRAME,
    JPEG_SCAN,
    LOSSLESS_FRAME,
    OPAQUE,
    ORIENTED,
    PALETTE,
    PNG_PIXELS,
    RGB,
    STANDARD_MASKS,
    WIDTH,
    bgrx,
    bmp,
    colours,
    encoded,
    jpeg_frame,
    png,
    png_chunk,
    riff,
    saved,
    tiff,
    webp_canvas,
    with_alpha,
)
from tsm_training.arrays import Image
from tsm_training.errors import (
    ImageChangedError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    ImageOutsideRootError,
    ImageTooLargeError,
    ImageTruncatedError,
    ImageUnreadableError,
    ImageUnwritableError,
    InvalidArgumentError,
)
from tsm_training.images import ImageInfo, ImageLimits, inspect_image, read_image, read_thumbnail, write_image


def thumbnail(path: str | Path, limits: ImageLimits | None = None) -> tuple[ImageInfo, Image]:
    """Read the mean of a picture; of a JPEG, that is made of a reduced one."""
    return read_thumbnail(path, 1, limits or ImageLimits())


EITHER = pytest.mark.parametrize("use", [inspect_image, read_image, thumbnail])


# --- what is taken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_accepted_kinds_become_upright_bgr(put: Callable[[bytes], Path], name: str) -> None:
    kind, data, expected = {**EXACT, **CLOSE}[name]
    path = put(data)
    info, image = inspect_image(path), read_image(path)
    assert info == ImageInfo(hashlib.sha256(data).hexdigest(), len(data), WIDTH, HEIGHT, kind)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - expected).max() <= (0 if name in EXACT else 20)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 8), (17, 3)])
def test_smallest_pictures_are_accepted(put: Callable[[bytes], Path], extension: str, size: tuple[int, int]) -> None:
    path = put(encoded(extension, colours(*size)))
    info = inspect_image(path)
    assert (info.height, info.width) == size
    assert read_image(path).shape == (*size, 3)


@pytest.mark.parametrize("name", [*EXACT, *CLOSE])
def test_a_thumbnail_comes_with_the_facts_and_is_the_picture_averaged(put: Callable[[bytes], Path], name: str) -> None:
    kind, data, expected = {**EXACT, **CLOSE}[name]
    info, image = read_thumbnail(put(data), 5)
    assert info == ImageInfo(hashlib.sha256(data).hexdigest(), len(data), WIDTH, HEIGHT, kind)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == (5, 5, 3)
    averaged = cv2.resize(expected.astype(np.float32), (5, 5), interpolation=cv2.INTER_AREA)
    assert np.abs(image - averaged).max() <= (1 if name in EXACT else 12)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 20, 64])
def test_a_thumbnail_of_a_large_jpeg_is_that_of_all_its_pixels(put: Callable[[bytes], Path], side: int) -> None:
    image = np.asarray(cv2.resize(colours(6, 8), (96, 64), interpolation=cv2.INTER_CUBIC), np.uint8)
    path = put(encoded(".jpg", image, cv2.IMWRITE_JPEG_QUALITY, 100))
    expected = cv2.resize(read_image(path), (side, side), interpolation=cv2.INTER_AREA)
    assert np.abs(read_thumbnail(path, side)[1].astype(int) - expected).max() <= 4


def test_a_large_jpeg_is_not_decoded_in_full_for_a_thumbnail(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    original = cv2.imdecode

    def decode(data: Any, flags: int) -> Any:
        shapes.append(original(data, flags).shape[:2])
        return original(data, flags)

    monkeypatch.setattr(cv2, "imdecode", decode)
    path = put(encoded(".jpg", colours(64, 80)))
    for side in (33, 32, 17, 16, 9, 8, 5, 4, 1):
        read_thumbnail(path, side)
    full, half, quarter, eighth = (64, 80), (32, 40), (16, 20), (8, 10)
    assert shapes == [full, full, full, half, half, quarter, quarter, eighth, eighth]


@pytest.mark.parametrize("side", [0, -1, 1.5, True, None])
def test_the_side_of_a_thumbnail_must_be_a_number(put: Callable[[bytes], Path], side: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="side must be a whole number of at least 1"):
        read_thumbnail(put(JPEG), side)


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_is_applied_in_every_format(put: Callable[[bytes], Path], kind: str, orientation: int) -> None:
    plain = RGB.copy()
    plain.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))[:, :, ::-1]
    path = put(ORIENTED[kind](orientation))
    info, image = inspect_image(path), read_image(path)
    assert (info.height, info.width) == image.shape[:2] == expected.shape[:2]
    square = cv2.resize(np.ascontiguousarray(expected), (5, 5), interpolation=cv2.INTER_AREA)
    assert np.abs(read_thumbnail(path, 5)[1].astype(int) - square).max() <= (6 if kind == "JPEG" else 1)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.abs(image.astype(int) - expected).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0nonsense",
        b"II*\0\xff\xff\xff\xff",
        tiff({274: (9,)}, b""),
        tiff({274: (0,)}, b""),
        tiff({274: (6, 6)}, b""),
    ],
    ids=["empty", "no directory", "outside", "nine", "zero", "two values"],
)
def test_exif_that_makes_no_sense_counts_as_upright(put: Callable[[bytes], Path], block: bytes) -> None:
    assert np.array_equal(read_image(put(png(png_chunk(b"eXIf", block), PNG_PIXELS))), BGR)


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"just a note", "is text beginning"),
    "text in another script": ("画像ではありません。".encode() * 20, "is text beginning"),
    "HTML": (b"\n<!DOCTYPE html><title>404</title>", "is an HTML page"),
    "random": (bytes(range(128, 160)), "is unknown data beginning 80 81"),
    "GIF": (saved("GIF"), "is a GIF"),
    "GIF of a huge screen": (saved("GIF").replace(b"9a", b"9a\xff\xff\xff\xff"), "is a GIF"),
    "GIF animated": (saved("GIF", GREY, save_all=True, append_images=[PALETTE]), "is a GIF"),
    "HEIF": (b"\0\0\0\x18ftypheic" + bytes(20), "HEIF"),
    "JPEG 2000": (encoded(".jp2", colours(64, 64)), "is unknown data beginning"),
    "OpenEXR": (b"\x76\x2f\x31\x01" + bytes(20), "is unknown data beginning 76 2f 31 01"),
    "BigTIFF": (saved("TIFF", big_tiff=True), "is a BigTIFF"),
    "PNG transparent": (saved("PNG", with_alpha(RGB, HALF_CLEAR)), "transparent pixels"),
    "PNG grey, transparent": (saved("PNG", with_alpha(GREY, HALF_CLEAR)), "transparent pixels"),
    "PNG palette, transparent": (saved("PNG", PALETTE, transparency=3), "transparent pixels"),
    "PNG transparent colour": (saved("PNG", transparency=(1, 2, 3)), "a transparent colour (tRNS)"),
    "PNG transparent grey": (saved("PNG", GREY, transparency=3), "a transparent colour (tRNS)"),
    "PNG animated": (saved("PNG", save_all=True, append_images=[GREY.convert("RGB")]), "is an animated PNG"),
    "PNG of an unknown depth": (png(PNG_PIXELS, depth=3), "colour type 2 with 3 bits"),
    "PNG of no size": (png(PNG_PIXELS, size=(0, 5)), "0×5 pixels"),
    "PNG without pixels": (png(), "without pixel data"),
    "PNG without header": (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""), "begins with a b'IEND' chunk"),
    "PNG with a short header": (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", b"abc"), "a header of 3 bytes"),
    "PNG with fewer rows": (png(png_chunk(b"IDAT", zlib.compress(bytes(50)))), "could not be decoded"),
    "PNG with a wrong checksum": (encoded(".png")[:-1] + b"x", "the checksum of its PNG chunk b'IEND'"),
    "PNG of very many chunks": (png(png_chunk(b"abCd", b"") * 300_000, PNG_PIXELS), "more than 262144 parts"),
    "JPEG of two channels": (jpeg_frame(channels=2), "JPEG of 2 channels"),
    "JPEG 12-bit": (jpeg_frame(bits=12), "is a 12-bit JPEG"),
    "JPEG lossless": (jpeg_frame(marker=0xC3), "lossless"),
    "JPEG arithmetic-coded": (jpeg_frame(marker=0xC9), "arithmetic-coded"),
    "JPEG without height": (jpeg_frame(size=(0, WIDTH)), "0 pixels"),
    "JPEG with nonsense": (jpeg_frame(size=(HEIGHT, WIDTH)), "could not be decoded"),
    "JPEG of two frames": (JPEG[:JPEG_SCAN] + JPEG[JPEG_FRAME:], "several frames"),
    "JPEG within a JPEG": (JPEG[:JPEG_SCAN] + JPEG, "marker 0xd8"),
    "JPEG without pixels": (JPEG[:JPEG_SCAN] + b"\xff\xd9", "without pixel data"),
    "JPEG of a thousand scans": (JPEG[:-2] + JPEG[JPEG_SCAN:-2] * 1000 + b"\xff\xd9", "more than 128 scans"),
    "BMP transparent": (bmp(32, bgrx(HALF_CLEAR)), "alpha channel in use"),
    "BMP clear throughout": (
        bmp(32, bgrx(0), compression=3, masks=(*STANDARD_MASKS, 0xFF000000), header=124),
        "alpha channel in use",
    ),
    "BMP 16-bit": (bmp(16, bytes(2 * WIDTH * HEIGHT)), "16 bits per pixel"),
    "BMP run-length": (bmp(8, b"\0\1", compression=1), "run-length compression"),
    "BMP other channel order": (bmp(32, bgrx(0), compression=3, masks=(255, 0xFF00, 0xFF0000), header=52), "unusual"),
    "BMP of OS/2": (bmp(24, bytes(1000), header=12), "information header of 12 bytes"),
    "BMP pixels in the header": (bmp(24, bytes(1000), offset=20), "begin at byte 20"),
    "BMP of negative width": (bmp(24, bytes(1000), size=(-5, 5)), "-5×5 pixels"),
    "WebP transparent": (saved("WEBP", with_alpha(RGB, HALF_CLEAR), lossless=True), "transparent pixels"),
    "WebP lossy, transparent": (saved("WEBP", with_alpha(RGB, HALF_CLEAR)), "transparent pixels"),
    "WebP animated": (saved("WEBP", save_all=True, append_images=[GREY.convert("RGB")]), "is an animated WebP"),
    "WebP with animation undeclared": (riff((b"ANIM", bytes(6)), (b"VP8L", LOSSLESS_FRAME)), "is an animated WebP"),
    "WebP without pixels": (riff(webp_canvas(0)), "without pixel data"),
    "WebP of two sizes": (riff(webp_canvas(0, 99, 9), (b"VP8L", LOSSLESS_FRAME)), "differ in size"),
    "WebP without start code": (riff((b"VP8 ", bytes(20))), "no start code"),
    "WebP lossless without start code": (riff((b"VP8L", bytes(20))), "no start code"),
    "TIFF float": (saved("TIFF", GREY.convert("F")), "floating-point samples"),
    "TIFF signed": (tiff({339: (2, 2, 2)}), "signed samples"),
    "TIFF CIE Lab": (tiff({262: (8,)}), "is a CIE Lab TIFF"),
    "TIFF of two pages": (saved("TIFF", save_all=True, append_images=[GREY]), "several pages"),
    "TIFF transparent": (saved("TIFF", with_alpha(RGB, HALF_CLEAR)), "transparent pixels"),
    "TIFF grey with alpha": (saved("TIFF", with_alpha(GREY, OPAQUE)), "TIFF of 2 channels"),
    "TIFF of mixed depths": (tiff({258: (8, 1, 8)}), "1/8-bit"),
    "TIFF in planes": (tiff({284: (2,)}), "separate channel planes"),
    "TIFF fax": (saved("TIFF", BILEVEL, compression="group4"), "fax compression"),
    "TIFF YCbCr": (tiff({262: (6,)}), "is a YCbCr TIFF"),
    "TIFF rare compression": (tiff({259: (99,)}), "unknown (99) compression"),
    "TIFF without photometric": (tiff({262: None}), "photometric -1"),
    "TIFF without size": (tiff({256: None}), "0×10 pixels"),
    "TIFF with a list for a width": (tiff({256: (1, 2)}), "field 256 of type 3 with 2 values"),
    "TIFF that says a thing twice": (tiff().replace(b"\x01\x01\x03\0", b"\0\x01\x03\0"), "field 256 twice"),
    "TIFF without strips": (tiff({273: None}), "1 strips or tiles that locates 0"),
    "TIFF of huge tiles": (tiff({322: (32768,), 323: (32768,)}), "32768×32768 tiles"),
}


@EITHER
@pytest.mark.parametrize("name", REFUSED)
def test_other_kinds_are_refused_by_name(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]
) -> None:
    data, reason = REFUSED[name]
    path = put(data)
    with pytest.raises(ImageFormatError) as caught:
        use(path)
    assert reason in caught.value.reason
    assert caught.value.path == str(path)


TRUNCATED: dict[str, bytes] = {
    "PNG without its end": encoded(".png")[:-12],
    "JPEG without its end marker, padded": JPEG[:-2] + bytes(50),
    "JPEG half, padded with zeros": JPEG[: len(JPEG) // 2] + bytes(len(JPEG)),
    "JPEG with a segment of no length": JPEG[:2] + b"\xff\xe0\0\0" + JPEG[2:],
    "BMP short of rows": bmp(24, bytes(1)),
    "WebP of a short canvas": riff((b"VP8X", b"abc")),
    "WebP chunk longer than its file": riff((b"VP8L", LOSSLESS_FRAME)).replace(b"VP8L", b"VP8L\xff\xff\xff", 1)[:40],
    "TIFF strip outside": tiff({273: (100_000,)}),
    "TIFF strip too short": tiff({279: (10,)}),
    "TIFF directory outside": b"II*\0" + struct.pack("<I", 1000),
}


@EITHER
@pytest.mark.parametrize("name", TRUNCATED)
def test_a_file_that_ends_early_is_called_so(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageTruncatedError, match="ends early"):
        use(put(TRUNCATED[name]))


CUT: dict[str, bytes] = {
    **{name: EXACT[name][1] for name in ("PNG", "PNG palette", "BMP", "BMP palette", "WebP lossless", "TIFF")},
    **{name: EXACT[name][1] for name in ("TIFF LZW", "TIFF Deflate", "TIFF PackBits")},
    **{name: CLOSE[name][1] for name in ("JPEG", "JPEG progressive", "JPEG with a thumbnail", "WebP lossy")},
    "PNG with EXIF": ORIENTED["PNG"](6),
    "JPEG with EXIF": ORIENTED["JPEG"](6),
    "WebP with EXIF": ORIENTED["WebP"](6),
}


@pytest.mark.slow
@EITHER
@pytest.mark.parametrize("name", CUT)
def test_no_cut_is_accepted(put: Callable[[bytes], Path], name: str, use: Callable[[Path], object]) -> None:
    data = CUT[name]
    step = 1 if use is read_image else 23
    for length in (*range(0, len(data), step), *range(len(data) - 30, len(data))):
        path = put(data[:length])
        with pytest.raises(ImageFormatError):
            use(path)


LYING = png()[:33] + struct.pack(">I4s", 0x7FFFFFFF, b"IDAT") + bytes(20)

READ_WITHIN_LIMITS = """
import json, resource, sys, time
from pathlib import Path
from tsm_training.errors import ImageTruncatedError
from tsm_training.images import inspect_image, read_image

good, lying = sys.argv[1:]
read_image(good), inspect_image(good)
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 5_000_000, resource.RLIM_INFINITY))
resident, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
reasons = set()
for _ in range(100):
    for use in (read_image, inspect_image):
        try:
            use(lying)
        except ImageTruncatedError as error:
            reasons.add(error.reason)
seconds = time.process_time() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident, sorted(reasons)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what a process has mapped")
def test_a_lying_chunk_length_is_refused_at_once_in_next_to_no_memory(tmp_path: Path) -> None:
    assert len(LYING) == 61
    (tmp_path / "good").write_bytes(encoded(".png"))
    (tmp_path / "lying").write_bytes(LYING)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHIN_LIMITS, tmp_path / "good", tmp_path / "lying"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    seconds, kilobytes, reasons = json.loads(done.stdout)
    assert reasons == ["ends early: a PNG chunk b'IDAT' claims 2147483647 bytes, 20 are there"]
    assert kilobytes < 5000
    assert seconds < 2  # for two hundred: about a tenth of a millisecond each


HUGE: dict[str, bytes] = {
    "PNG": png(size=(30_000, 30_000)),
    "PNG, header only": png(size=(30_000, 30_000))[:33],
    "JPEG": jpeg_frame(size=(30_000, 30_000)),
    "BMP": bmp(24, b"", size=(30_000, 30_000)),
    "BMP from the top down": bmp(24, b"", size=(30_000, -30_000)),
    "BMP as far down as numbers go": bmp(24, b"", size=(1, -(1 << 31))),
    "WebP": riff((b"VP8L", struct.pack("<BI", 0x2F, 0x3FFF << 14 | 0x3FFF))),
    "WebP canvas": riff(webp_canvas(0, 30_000, 30_000)),
    "WebP lossy": riff((b"VP8 ", b"abc\x9d\x01\x2a\xff\x3f\xff\x3f")),
    "TIFF": tiff({256: (30_000,), 257: (30_000,)}),
    "TIFF of long sides": tiff().replace(
        struct.pack("<HHIHH", 256, 3, 1, WIDTH, 0), struct.pack("<HHII", 256, 4, 1, 0xFFFFFFFF)
    ),
    "one side": png(size=(60_000_000, 1)),
}


@EITHER
@pytest.mark.parametrize("name", HUGE)
def test_too_many_pixels_are_refused_from_the_header(
    put: Callable[[bytes], Path], name: str, use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageTooLargeError, match="pixels"):
        use(put(HUGE[name]))


@EITHER
def test_damage_ends_in_image_errors_only(put: Callable[[bytes], Path], use: Callable[[Path], object]) -> None:
    chance = random.Random(20)
    for original in [*CUT.values(), EXACT["TIFF 1-bit"][1], EXACT["PNG palette, alpha listed but opaque"][1]]:
        for _ in range(20):
            data = bytearray(original)
            for _ in range(chance.choice((1, 1, 2, 8))):
                data[chance.randrange(min(len(data), chance.choice((40, 10_000))))] = chance.randrange(256)
            try:
                use(put(bytes(data)))
            except ImageError:
                continue


@settings(max_examples=150, deadline=None)
@given(start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*"]), rest=st.binary())
def test_arbitrary_bytes_end_in_image_errors(
    start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary"
    path.write_bytes(start + rest)
    with pytest.raises(ImageFormatError):
        read_image(path)


@EITHER
def test_a_decoder_that_raises_or_disagrees_is_an_image_error(
    put: Callable[[bytes], Path], use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_data: object, _flags: int) -> None:
        raise cv2.error("out of ideas")

    for data in (JPEG, encoded(".webp")):
        path = put(data)
        monkeypatch.setattr(cv2, "imdecode", fail)
        with pytest.raises(ImageFormatError, match="out of ideas"):
            use(path)
        monkeypatch.setattr(cv2, "imdecode", lambda _data, _flags: np.zeros((3, 3, 3), np.uint8))
        with pytest.raises(ImageFormatError, match="its header declares"):
            use(path)


# --- files and names ------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("path", [None, "", b"", "a\0.png", b"a\0.png", 3, "\ud800.png"], ids=repr)
def test_what_is_no_path_is_an_invalid_argument(path: object, use: Callable[[object], object]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        use(path)
    assert isinstance(caught.value, ValueError)
    assert caught.value.argument == "path"


@EITHER
def test_a_missing_file_is_not_found(tmp_path: Path, use: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing.png", tmp_path / "file" / "below.png"):
        with pytest.raises(ImageNotFoundError) as caught:
            use(path)
        assert isinstance(caught.value, FileNotFoundError)


@EITHER
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, use: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as listener:
        name = os.path.relpath(tmp_path / "socket.png")  # the full path may be longer than a socket's name can be
        listener.bind(name if len(name) < 100 else str(tmp_path / "socket.png"))
        began = time.perf_counter()
        for path in (tmp_path, *(tmp_path / f"{kind}.png" for kind in ("pipe", "loop", "socket")), Path("/dev/null")):
            with pytest.raises(ImageUnreadableError):
                use(path)
        assert time.perf_counter() - began < 1


@EITHER
def test_what_was_wrong_can_be_caught_as_the_built_in_exception_that_fits(
    put: Callable[[bytes], Path], tmp_path: Path, use: Callable[..., object]
) -> None:
    with pytest.raises(OSError, match="directory") as caught:
        use(tmp_path)
    assert caught.value.errno == errno.EISDIR
    with pytest.raises(ValueError, match="is an HTML page"):
        use(put(b"<html>Not found</html>"))
    with pytest.raises(ValueError, match="at most 3"):
        use(put(JPEG), ImageLimits(max_pixels=3))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no such files")
@EITHER
def test_what_only_looks_like_a_file_is_refused(use: Callable[[str], object]) -> None:
    for name in ("/proc/self/status", "/proc/self/mem", "/proc/version", "/dev/zero"):
        with pytest.raises(ImageUnreadableError):
            use(name)


@EITHER
@pytest.mark.parametrize("name", ["page.png", "picture.gif", "picture", "picture.png.txt"])
def test_the_contents_decide_and_not_the_name(tmp_path: Path, use: Callable[[Path], object], name: str) -> None:
    (tmp_path / name).write_bytes(JPEG)
    use(tmp_path / name)
    (tmp_path / name).write_bytes(b"<html>Not found</html>")
    with pytest.raises(ImageFormatError, match="is an HTML page; PNG, JPEG, BMP, WebP, TIFF, HEIF or AVIF is expected"):
        use(tmp_path / name)


@EITHER
def test_a_file_that_the_system_refuses_is_unreadable(
    put: Callable[[bytes], Path], use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = put(JPEG)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageUnreadableError, match="Permission denied"):
        use(path)


@pytest.mark.parametrize("name", [b"\xff\xfe.png", "ünï 画.png".encode(), b"x" * 251 + b".png"])
def test_any_file_name_works(tmp_path: Path, name: bytes) -> None:
    as_bytes = os.fsencode(tmp_path) + b"/" + name
    write_image(as_bytes, BGR)
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [name]
    for path in (as_bytes, os.fsdecode(as_bytes), Path(os.fsdecode(as_bytes))):
        assert np.array_equal(read_image(path), BGR)
        assert inspect_image(path).width == WIDTH


@EITHER
def test_limits_apply(put: Callable[[bytes], Path], use: Callable[..., object]) -> None:
    path = put(JPEG)
    use(path, ImageLimits(max_bytes=len(JPEG), max_pixels=HEIGHT * WIDTH))
    with pytest.raises(ImageTooLargeError, match=f"has {len(JPEG)} bytes; at most {len(JPEG) - 1}"):
        use(path, ImageLimits(max_bytes=len(JPEG) - 1))
    with pytest.raises(ImageTooLargeError, match=f"{WIDTH}×{HEIGHT} pixels; at most {HEIGHT * WIDTH - 1}"):
        use(path, ImageLimits(max_pixels=HEIGHT * WIDTH - 1))


@EITHER
def test_pictures_may_be_confined_to_a_folder(tmp_path: Path, use: Callable[..., object]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("root/in.png", "out.png"):
        (tmp_path / name).write_bytes(JPEG)
    (root / "link.png").symlink_to("../out.png")
    limits = ImageLimits(root=root)
    use(root / "in.png", limits)
    for path in (tmp_path / "out.png", root / "../out.png", root / "link.png", tmp_path / "missing.png", "/dev/zero"):
        with pytest.raises(ImageOutsideRootError, match=r"leads out of the folder .*root'") as caught:
            use(path, limits)
        assert caught.value.path == str(path)
    with pytest.raises(ImageNotFoundError):
        use(root / "missing.png", limits)


def test_the_folder_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(JPEG)
    (tmp_path / "link").symlink_to("old")
    monkeypatch.chdir(tmp_path)
    limits = [ImageLimits(root=root) for root in ("link", b"old", tmp_path / "new" / ".." / "old", "old/")]
    assert {limit.root for limit in limits} == {os.path.realpath(tmp_path / "old")}
    monkeypatch.chdir("new")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("new")
    assert read_image(tmp_path / "old" / "a.png", limits[0]).size
    with pytest.raises(ImageOutsideRootError):
        read_image("a.png", limits[0])
    assert pickle.loads(pickle.dumps(limits[0])) == limits[0]


def test_pictures_may_come_from_several_folders_and_from_nowhere_else(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(JPEG)
    (tmp_path / "first" / "link.png").symlink_to(tmp_path / "second" / "a.png")
    limits = ImageLimits(root=tmp_path / "first", more_roots=[tmp_path / "second"])
    for place in ("first/a.png", "first/link.png", "second/a.png"):
        assert read_image(tmp_path / place, limits).size
    assert limits.root_of(tmp_path / "second" / "a.png") == os.path.realpath(tmp_path / "second")
    with pytest.raises(ImageOutsideRootError):
        read_image(tmp_path / "third" / "a.png", limits)
    with pytest.raises(InvalidArgumentError, match="root must be"):
        ImageLimits(root=tmp_path, more_roots=[tmp_path / "missing"])


@pytest.mark.parametrize("root", ["", "missing", "a.png", "a\0b", 5, True])
def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Any) -> None:
    (tmp_path / "a.png").write_bytes(JPEG)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match="root must be"):
        ImageLimits(root=root)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "9"])
@pytest.mark.parametrize("name", ["max_bytes", "max_pixels"])
def test_limits_are_checked(name: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name} must be a whole number"):
        ImageLimits(**{name: value})  # type: ignore[arg-type]


def test_a_changed_file_is_noticed_before_it_is_decoded(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(JPEG)
    digest = inspect_image(path).sha256
    assert read_image(path, expected_sha256=digest).shape == BGR.shape
    middle = (JPEG_SCAN + len(JPEG)) // 2
    put(JPEG[:middle] + bytes([JPEG[middle] ^ 1]) + JPEG[middle + 1 :])
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageChangedError, match=digest):
        read_image(path, expected_sha256=digest)


@pytest.mark.parametrize("digest", ["", "abc", "G" * 64, b"0" * 64, 5])
def test_an_expected_digest_must_be_one(put: Callable[[bytes], Path], digest: object) -> None:
    with pytest.raises(InvalidArgumentError, match="expected_sha256"):
        read_image(put(JPEG), expected_sha256=digest)  # type: ignore[arg-type]


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp", ".tif", ".tiff", ".PNG"])
def test_lossless_formats_keep_every_value(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"picture{extension}"
    noise = np.random.default_rng(1).integers(0, 256, (9, 20, 3), np.uint8)
    for image in (noise, noise[::-1, ::2]):
        write_image(path, image)
        assert np.array_equal(read_image(path), image)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("extension", [".jpg", ".jpeg"])
def test_jpeg_is_written_at_quality_95(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"picture{extension}"
    write_image(path, BGR)
    best = encoded(".jpg", BGR, cv2.IMWRITE_JPEG_QUALITY, 95)
    assert path.read_bytes().endswith(best[20:])  # behind its header are those that say what the colours mean
    assert np.array_equal(read_image(path), cv2.imdecode(np.frombuffer(best, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("name", ["picture", "picture.gif", "picture.png.txt", ".png", ""])
def test_unknown_endings_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        write_image(f"{tmp_path}/{name}", BGR)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("image", [None, BGR.astype(float), BGR[:, :, 0], BGR[:0]])
def test_what_is_no_picture_is_not_written(tmp_path: Path, image: Image) -> None:
    with pytest.raises(InvalidArgumentError, match="image must be"):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ImageUnwritableError) as caught:
        write_image(path, BGR)
    monkeypatch.undo()
    assert caught.value.reason == "could not be written: No space left on device"
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_image_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageNotFoundError) as caught:
        write_image(tmp_path / "missing" / "a.png", BGR)
    assert caught.value.reason == f"could not be written: there is no folder {str(tmp_path / 'missing')!r}"
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(ImageUnreadableError, match="a regular file is expected"):
            write_image(tmp_path / name, BGR)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png", "pipe.png"}


def test_a_picture_too_large_for_its_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise cv2.error("no")

    with pytest.raises(ImageFormatError, match="could not be encoded with 17000×1 pixels"):
        write_image(tmp_path / "a.webp", np.zeros((1, 17_000, 3), np.uint8))
    for encode in (fail, lambda *_arguments: (False, None)):
        monkeypatch.setattr(cv2, "imencode", encode)
        with pytest.raises(ImageFormatError, match="could not be encoded"):
            write_image(tmp_path / "a.png", BGR)
    assert not list(tmp_path.iterdir())
