"""Crafted picture files: what they declare, times what they hold. Named errors at once, and in little memory.

    python -m tests.soak.crafted [--quick] [--n 100000] [--seed 1]

Unlike mutated files, these are well-formed wherever a decoder looks first: every number and length fits, checksums too.
What is drawn by lot is how large a picture is said to be, how many pixels, rows, strips, tiles, scans, pages or boxes
there are, and how far what is compressed swells: pixel data, text, profiles. Some are honest.

It exits with 1 if a file ends or stalls a process, raises anything but an `ImageError`, is taken though it holds more
than it declares, or takes more than 1 s of the processor's time, or 50 MB beyond its own bytes, more than an honest
file of the size that it declares.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import cv2
from tests.pictures import BGR, jpeg_segment, png, png_chunk, riff, tiff, webp_canvas
from tests.soak import fuzzing
from tests.soak.fuzzing import Case, Limits, Violation

from tsm_training.errors import ImageError
from tsm_training.images import inspect_image, read_image

_QUICK: Final = 300
_SIDES: Final = (1, 2, 7, 16, 16, 100, 100, 256, 256, 1000)
_LONG_SIDE: Final = 4000
_MEGABYTE: Final = 1 << 20
_MOST_SECONDS: Final = 1.0
_MOST_BYTES: Final = 50 * _MEGABYTE
_HONEST_SECONDS: Final = 0.35e-6
_HONEST_BYTES: Final = 32
"""Of an honest picture, for each pixel: what the slowest of the formats takes, and all copies of 16 bits with alpha."""

_ZEROS: Final = bytes(_MEGABYTE)
_FEW_LEVELS: Final = bytes(value % 5 for value in range(256))
"""Noise whose bytes are filters too, whatever the rows are."""

Drawn = tuple[str, bytes, int, bool]
"""How a file was made, its bytes, the pixels that it declares, and whether it holds more than it declares."""


def _sides(rng: random.Random) -> tuple[int, int]:
    if rng.random() < 0.02:
        return _LONG_SIDE, rng.choice((1, _LONG_SIDE))
    return rng.choice(_SIDES), rng.choice(_SIDES)


def _amount(rng: random.Random, honest: int) -> int:
    """Return how much of something there is: none, too little, what is honest, somewhat more, or very much."""
    return rng.choice((0, 1, honest // 2, honest, honest, honest + 1, 2 * honest, 100 * honest, rng.randrange(1 << 22)))


def _swelling(length: int, noise: int, rng: random.Random) -> bytes:
    """Compress so many bytes, the first of them noise, without ever having more than a megabyte of them."""
    packer = zlib.compressobj(rng.choice((1, 6, 9)))
    noise = min(noise, length, _MEGABYTE)
    parts = [packer.compress(rng.randbytes(noise).translate(_FEW_LEVELS))]
    parts += [packer.compress(_ZEROS[: length - start]) for start in range(noise, length, _MEGABYTE)]
    return b"".join(parts) + packer.flush()


def _png(rng: random.Random) -> Drawn:
    (width, height), depth, colour = _sides(rng), rng.choice((8, 8, 16)), rng.choice((0, 2, 2, 6))
    raw = height * (1 + width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)
    length = min(_amount(rng, raw), rng.choice((1 << 21, 1 << 21, 1 << 21, 1 << 27)))
    packed = _swelling(length, rng.choice((0, 0, 1000, raw // 2)), rng)
    size = rng.choice((1, 100, 8192, len(packed))) if len(packed) < 100_000 else rng.choice((8192, len(packed)))
    chunks = [png_chunk(b"IDAT", packed[start : start + size]) for start in range(0, len(packed), max(size, 1))]
    for _ in range(rng.choice((0, 0, 1, 3))):
        kind = rng.choice((b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"abCd", b"PLTE"))
        head = {b"iTXt": b"k\0\1\0\0\0"}.get(kind, b"k\0\0")
        swollen = _swelling(rng.choice((10, 10_000, 10_000, 20_000_000)), 0, rng)
        chunks.insert(rng.choice((0, len(chunks))), png_chunk(kind, head + swollen))
    made = f"PNG {width}×{height} of {length} bytes for {raw}"
    return made, png(*chunks, size=(width, height), depth=depth, colour=colour), width * height, length > raw


def _tiff(rng: random.Random) -> Drawn:
    (width, height), compression = _sides(rng), rng.choice((1, 5, 8, 8, 32773, 7))
    bits = rng.choice((8, 8, 16))
    raw = width * height * 3 * bits // 8
    rows = rng.choice((1, 7, height, height, 1 << 20))
    count = _amount(rng, -(-height // max(rows, 1))) % 70_000
    swelling = _swelling(min(_amount(rng, raw), 1 << 22), 0, rng)
    content = rng.choice((bytes(min(raw, 1 << 22)), swelling, swelling, rng.randbytes(99)))
    length = _amount(rng, len(content) // max(count, 1))
    block = {273: (8,) * count or None, 279: (length,) * count or None, 278: (min(rows, 65535),)}
    if rng.random() < 0.3:
        side = rng.choice((1, 16, 256, 4096, 60_000))
        block = {273: None, 279: None, 278: None, 322: (side,), 323: (side,), 324: block[273], 325: block[279]}
    changes = {256: (width,), 257: (height,), 258: (bits,) * 3, 259: (compression,), **block}
    for tag in (700, 34675, 65000, 330, 254):
        if rng.random() < 0.1:
            changes[tag] = tuple(rng.randrange(65536) for _ in range(rng.choice((1, 3, 20_000))))
    made = f"TIFF {width}×{height}, compression {compression}, {count} strips or tiles of {length} bytes"
    return made, tiff(changes, content, rng.choice("<>"), rng.choice((0, 0, 0, 8))), width * height, False


def _jpeg(rng: random.Random) -> Drawn:
    is_progressive, side = rng.random() < 0.7, rng.choice((8, 64, 256, 1000))
    image = cv2.resize(BGR, (side, rng.choice((8, side))))
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(is_progressive)])[1].tobytes()
    scans = data.index(b"\xff\xda") if rng.random() < 0.3 else data.rindex(b"\xff\xda")
    times = rng.choice((0, 0, 1, 5, 30, 200, 3000))
    body = data[:-2] + data[scans:-2] * times
    if rng.random() < 0.2:
        body += rng.choice((b"\0", b"\x55", b"\xff\0")) * rng.choice((10, 100_000, 5_000_000))
    segments = jpeg_segment(rng.choice((0xE1, 0xE2, 0xED, 0xFE)), rng.randbytes(rng.choice((4, 60_000))))
    body = body[:2] + segments * rng.choice((0, 1, 300)) + body[2:]
    width, height = (side, image.shape[0]) if rng.random() < 0.6 else _sides(rng)
    frame = body.index(b"\xff\xc2" if is_progressive else b"\xff\xc0")
    body = body[: frame + 5] + struct.pack(">HH", height, width) + body[frame + 9 :]
    return f"JPEG {width}×{height}, {times} scans more", body + b"\xff\xd9", width * height, False


def _webp(rng: random.Random) -> Drawn:
    image = cv2.resize(BGR, _sides(rng)[:1] * 2)
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, rng.choice((50, 101))])[1].tobytes()
    side, excess = image.shape[0], rng.choice((0, 0, 1, 4000, 10_000_000))
    kind, content = data[12:16], data[20:] + bytes(excess)
    declared = (side, side)
    if kind == b"VP8L" and rng.random() < 0.4:
        declared = _sides(rng)
        bits = int.from_bytes(content[1:5], "little") & 0xF0000000 | (declared[1] - 1) << 14 | (declared[0] - 1)
        content = content[:1] + struct.pack("<I", bits) + content[5:]
    chunks = [(kind, content)]
    if rng.random() < 0.5:
        kind = rng.choice((b"ICCP", b"EXIF", b"XMP ", b"ALPH", b"abcd"))
        extra = (kind, rng.randbytes(rng.choice((3, 500, 1_000_000))))
        chunks = [webp_canvas(rng.choice((0, 0x10, 0x20)), *declared), extra, *chunks]
    pixels = declared[0] * declared[1]
    return f"WebP {declared[0]}×{declared[1]}, {excess} bytes more", riff(*chunks), pixels, excess > 8 * pixels + 4096


def _heif(rng: random.Random) -> Drawn:
    """Build boxes by lot around nothing that could be decoded."""

    def box(kind: bytes, content: bytes) -> bytes:
        claimed = len(content) + 8 if rng.random() < 0.95 else rng.choice((0, 1, 7, 1 << 31))
        return struct.pack(">I4s", claimed, kind) + content

    width, height = _sides(rng)
    count = rng.choice((1, 1, 3, 1000, 60_000))
    properties = box(b"ispe", struct.pack(">III", 0, width, height)) * count + box(b"colr", b"prof" + rng.randbytes(99))
    properties += box(b"irot", bytes([rng.randrange(4)])) if rng.random() < 0.3 else b""
    links = struct.pack(">IIHB", 0, rng.choice((1, count)), 1, 2) + bytes([rng.choice((0, 1)), rng.choice((1, 129))])
    places = struct.pack(">IHH", 0, rng.choice((0x4400, 0xFFFF)), count) + rng.randbytes(rng.choice((12, 10 * count)))
    items = struct.pack(">IH", 0, 1) + box(b"infe", b"\2\0\0\0\0\1\0\0Exif\0")
    meta = box(b"pitm", struct.pack(">IH", 0, 1)) + box(b"iprp", box(b"ipco", properties) + box(b"ipma", links))
    meta += box(b"iinf", items) + box(b"iloc", places)
    data = box(b"ftyp", rng.choice((b"heic", b"avif")) + b"\0\0\0\0mif1") + box(b"meta", bytes(4) + meta)
    data += box(b"mdat", rng.randbytes(rng.choice((0, 100, 100_000))))
    return f"HEIF {width}×{height} with {count} sizes", data, width * height, False


_KINDS: Final[Sequence[Callable[[random.Random], Drawn]]] = (_png, _png, _tiff, _tiff, _jpeg, _webp, _heif)


class Crafted:
    """Files that are drawn by lot from what each format can declare and hold."""

    limits = Limits(seconds=60.0, num_bytes=1 << 40)  # each case has limits of its own

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.path = folder / "picture"
        self._pixels, self._is_overfull = 0, False
        """Of the case that was made last."""

    def prepare(self) -> None:
        """Let the decoders load what they need."""
        for extension in (".png", ".jpg", ".webp", ".tif"):
            self.path.write_bytes(cv2.imencode(extension, BGR)[1].tobytes())
            read_image(self.path)
            inspect_image(self.path)
        for number in range(40):
            self._outcome(read_image, self.make(number))

    def make(self, number: int) -> Case:
        rng = random.Random(f"{self.seed}/{number}")
        made, data, self._pixels, self._is_overfull = rng.choice(_KINDS)(rng)
        return Case(number, made, data)

    def check(self, case: Case) -> Sequence[str]:
        outcomes, pixels = [], self._pixels
        for use in (inspect_image, read_image):
            fuzzing.forget_most_resident()
            before, began = fuzzing.most_resident(), time.process_time()
            outcome = self._outcome(use, case)
            seconds, taken = time.process_time() - began, fuzzing.most_resident() - before
            if seconds > _MOST_SECONDS + pixels * _HONEST_SECONDS:
                raise Violation(f"{use.__name__} took {seconds:.2f} s for {pixels} pixels: {outcome}")
            if taken > _MOST_BYTES + 3 * len(case.data) + pixels * _HONEST_BYTES:
                raise Violation(f"{use.__name__} took {taken / _MEGABYTE:.0f} MB for {pixels} pixels: {outcome}")
            outcomes.append(outcome)
        if self._is_overfull and outcomes[0] == "taken":
            raise Violation("was added though it holds more than it declares")
        return [f"{case.made.partition(' ')[0]}: {outcome}" for outcome in set(outcomes)]

    def _outcome(self, use: Callable[[Path], object], case: Case) -> str:
        self.path.write_bytes(case.data)
        try:
            use(self.path)
        except ImageError as error:
            return "holds more" if "holds more data" in error.reason else type(error).__name__
        return "taken"


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arguments = fuzzing.options("Crafted picture files.", 100_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick:
            arguments.n = _QUICK
        return fuzzing.main(Crafted(arguments.seed, Path(folder)), arguments.n, arguments, "tests.soak.crafted")


if __name__ == "__main__":
    sys.exit(main())
