"""Mutated picture files: whatever the bytes are, an array or a documented error, at once and in little memory.

    python -m tests.soak.images [--quick] [--n 50000] [--seed 1]

Pictures of every accepted encoding are damaged at random: single bits, runs of bytes, splices, header fields, declared
sizes, lengths of chunks, repeated segments, cuts. In half of the cases checksums and sizes around the damage are made
to fit again, so that it reaches the decoder. One picture per format is also cut at every byte.

It exits with 1 if a file ends or stalls a process, takes more than a second or 600 MB, raises anything but an
`ImageError`, is taken by one of `inspect_image` and `read_image` only, or is taken though it was cut.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image as Pillow
from tests.pictures import CLOSE, EXACT, ORIENTED, colours, encoded, interlaced_png, saved, with_alpha
from tests.soak import fuzzing
from tests.soak.fuzzing import Case, Limits, Violation

from tsm_training.errors import ImageError, ImageFormatError
from tsm_training.images import inspect_image, read_image

_QUICK: Final = 500
_LARGER: Final = (48, 72)
_MAX_BYTES: Final = 4_000_000
"""Of a mutated file: repetitions of repetitions grow beyond all bounds, and reading them is most of the time then."""


def _larger() -> dict[str, bytes]:
    """Make pictures with some texture, so that the coders have something to code."""
    rng = np.random.default_rng(5)
    image = colours(*_LARGER)
    image[10:30, 20:50] = rng.integers(0, 256, (20, 30, 3), np.uint8)
    rgb = Pillow.fromarray(image[:, :, ::-1].copy())
    grey, opaque = rgb.convert("L"), np.full(_LARGER, 255, np.uint8)
    return {
        "PNG, larger": encoded(".png", image),
        "PNG interlaced, larger": interlaced_png(image),
        "PNG alpha, larger": saved("PNG", with_alpha(rgb, opaque)),
        "PNG palette, larger": saved("PNG", rgb.quantize(64)),
        "JPEG 4:2:0, larger": saved("JPEG", rgb, quality=85, subsampling=2),
        "JPEG 4:4:4, larger": saved("JPEG", rgb, quality=95, subsampling=0, exif=_exif()),
        "JPEG progressive, larger": saved("JPEG", rgb, quality=90, progressive=True),
        "JPEG grey progressive, larger": saved("JPEG", grey, progressive=True),
        "JPEG with restarts, larger": encoded(".jpg", image, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "WebP lossy, larger": saved("WEBP", rgb, quality=80),
        "WebP lossy with alpha, larger": encoded(".webp", np.dstack([image, opaque]), cv2.IMWRITE_WEBP_QUALITY, 80),
        "WebP lossless, larger": saved("WEBP", rgb, lossless=True, exif=_exif()),
        "TIFF LZW, larger": saved("TIFF", rgb, compression="tiff_lzw", tiffinfo={317: 2}),
        "TIFF Deflate, larger": saved("TIFF", rgb, compression="tiff_adobe_deflate"),
        "TIFF PackBits, larger": saved("TIFF", grey, compression="packbits"),
    }


def _exif() -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[274] = 6
    return exif


BASES: Final[dict[str, bytes]] = {
    **{name: data for name, (_kind, data, _pixels) in {**EXACT, **CLOSE}.items()},
    **{f"{name}, turned": make(6) for name, make in ORIENTED.items()},
    **_larger(),
}
_NAMES: Final = tuple(BASES)
_CUT: Final = ("PNG", "JPEG progressive", "BMP", "WebP lossy", "TIFF LZW", "TIFF tiled")
"""Cut at every byte; nothing follows the picture in them."""

_NUMBERS: Final = (
    0, 1, 2, 3, 7, 8, 9, 16, 17, 64, 255, 256, 257, 4096, 8000, 16383, 32767, 32768, 65535, 65536,
    1 << 20, 60_000_000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
)  # fmt: skip


# --- damage of any file ---------------------------------------------------------------------------------------------

Mutation = Callable[[bytearray, random.Random], bytearray]


def _bits(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        data[_somewhere(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _somewhere(data: bytearray, rng: random.Random) -> int:
    """Return a place, half of the time near the beginning, where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 1 << 30))))


def _run(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    length = min(rng.choice((1, 2, 4, 8, 64, 512)), len(data) - start)
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    data[start : start + length] = filling
    return data


def _number(data: bytearray, rng: random.Random) -> bytearray:
    """Overwrite a place with a number that is at an edge of something."""
    layout = rng.choice(("<H", ">H", "<I", ">I"))
    start = _somewhere(data, rng)
    number = rng.choice(_NUMBERS) & (0xFFFF if layout[1] == "H" else 0xFFFFFFFF)
    packed = struct.pack(layout, number)
    data[start : start + len(packed)] = packed
    return data


def _splice(data: bytearray, rng: random.Random) -> bytearray:
    other = BASES[rng.choice(_NAMES)]
    return data[: _somewhere(data, rng)] + other[rng.randrange(len(other)) :]


def _remove(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 12, 100))]
    return data


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start = _somewhere(data, rng)
    part = data[start : start + rng.choice((1, 4, 12, 50, 400))]
    return data[:start] + part * rng.choice((2, 3, 50, 2000)) + data[start:]


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _padded_cut(data: bytearray, rng: random.Random) -> bytearray:
    kept = _cut(data, rng)
    return kept + rng.choice((b"\0", b"\xff", b"\xff\xd9")) * rng.choice((10, 1000, 100_000))


# --- damage that knows the format -----------------------------------------------------------------------------------


def _png_parts(data: bytes) -> Iterator[tuple[int, int]]:
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return
        yield position, end
        position = end


def _jpeg_parts(data: bytes) -> Iterator[tuple[int, int]]:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == 0xDA:  # with its scan data, up to the next marker
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        yield position, min(end, len(data))
        position = end


def _webp_parts(data: bytes) -> Iterator[tuple[int, int]]:
    position = 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length + length % 2
        yield position, min(end, len(data))
        position = end


def _tiff_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the entries of the directory."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for number in range(count):
        place = start + 2 + 12 * number
        if place + 12 <= len(data):
            yield place, place + 12


def _parts(data: bytes) -> list[tuple[int, int]]:
    for magic, parts in ((b"\x89PNG", _png_parts), (b"\xff\xd8", _jpeg_parts), (b"RIFF", _webp_parts)):
        if data.startswith(magic):
            return list(parts(data))
    if data[:4] in (b"II*\0", b"MM\0*"):
        return list(_tiff_parts(data))
    return [(14, min(54, len(data)))]  # BMP: its information header


def _part(data: bytearray, rng: random.Random) -> tuple[int, int]:
    return rng.choice(_parts(bytes(data)) or [(0, len(data))])


def _field(data: bytearray, rng: random.Random) -> bytearray:
    """Change one number in the head of a chunk, segment or directory entry."""
    start, end = _part(data, rng)
    order = ">" if data[:1] in (b"\x89", b"\xff", b"M") else "<"
    layout = order + rng.choice("BHI")
    place = rng.randrange(start, max(min(end, start + 30), start + 1))
    bound = (1 << 8 * struct.calcsize(layout)) - 1
    number = min(rng.choice(_NUMBERS), bound) if rng.random() < 0.7 else rng.randint(0, bound)
    packed = struct.pack(layout, number)
    data[place : place + len(packed)] = packed
    return data


_SIDES: Final = (1, 13, 15, 100, 1000, 3900, 7900, 16_000, 60_000)


def _sides(data: bytearray, rng: random.Random) -> bytearray:
    """Declare another width and height where the format keeps them."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    if data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", width, height)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<ii", width, rng.choice((height, -height)))
    elif data.startswith(b"\xff\xd8"):
        for start, _end in _jpeg_parts(bytes(data)):
            if data[start + 1] in (0xC0, 0xC1, 0xC2):
                data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    elif data.startswith(b"RIFF"):
        _webp_sides(data, min(width, 0x4000), min(height, 0x4000))
    elif data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:2] == b"II" else ">"
        fields = {256: width, 257: height, 278: rng.choice((1, height)), 322: width, 323: height}
        for start, _end in _tiff_parts(bytes(data)):
            (tag,) = struct.unpack_from(f"{order}H", data, start)
            if tag in fields and rng.random() < 0.8:
                data[start + 2 : start + 12] = struct.pack(f"{order}HII", 4, 1, fields[tag])
    return data


def _webp_sides(data: bytearray, width: int, height: int) -> None:
    for start, _end in _webp_parts(bytes(data)):
        kind = bytes(data[start : start + 4])
        if kind == b"VP8 ":
            data[start + 14 : start + 18] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L":
            alpha = int.from_bytes(data[start + 9 : start + 13], "little") & 0xF0000000
            data[start + 9 : start + 13] = struct.pack("<I", alpha | (height - 1) << 14 | (width - 1))
        elif kind == b"VP8X":
            data[start + 12 : start + 15] = (width - 1).to_bytes(3, "little")
            data[start + 15 : start + 18] = (height - 1).to_bytes(3, "little")


def _length(data: bytearray, rng: random.Random) -> bytearray:
    """Change the length that a chunk, a segment or an entry claims."""
    start, end = _part(data, rng)
    delta = rng.choice((-1000, -12, -4, -2, -1, 1, 2, 4, 12, 1000, 0x7FFFFFF0))
    if data.startswith(b"\x89PNG"):
        data[start : start + 4] = struct.pack(">I", (end - start - 12 + delta) & 0xFFFFFFFF)
    elif data.startswith(b"\xff\xd8"):
        (length,) = struct.unpack_from(">H", data, start + 2)
        data[start + 2 : start + 4] = struct.pack(">H", (length + delta) & 0xFFFF)
    elif data.startswith(b"RIFF"):
        place = rng.choice((4, start + 4))
        (length,) = struct.unpack_from("<I", data, place)
        data[place : place + 4] = struct.pack("<I", (length + delta) & 0xFFFFFFFF)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:2] == b"II" else ">"
        (length,) = struct.unpack_from(f"{order}I", data, start + 4)
        data[start + 4 : start + 8] = struct.pack(f"{order}I", (length + delta) & 0xFFFFFFFF)
    else:
        data[2:6] = struct.pack("<I", (len(data) + delta) & 0xFFFFFFFF)
    return data


def _repeated_part(data: bytearray, rng: random.Random) -> bytearray:
    start, end = _part(data, rng)
    place = rng.choice([first for first, _last in _parts(bytes(data))] + [end])
    times = rng.choice((1, 1, 2, 20, 120, 3000))
    return data[:place] + data[start:end] * times + data[place:]


def _swapped_parts(data: bytearray, rng: random.Random) -> bytearray:
    parts = _parts(bytes(data))
    if len(parts) < 2:
        return data
    (a, b), (c, d) = sorted(rng.sample(parts, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _repacked(data: bytearray, rng: random.Random) -> bytearray:
    """Damage what is compressed inside a PNG, and compress it again."""
    if not data.startswith(b"\x89PNG"):
        return _field(data, rng)
    result = bytearray(data[:8])
    for start, end in _png_parts(bytes(data)):
        content = bytes(data[start + 8 : end - 4])
        kind = bytes(data[start + 4 : start + 8])
        if kind == b"IDAT":
            try:
                pixels = bytearray(zlib.decompress(content))
            except zlib.error:
                pixels = bytearray(content)
            content = zlib.compress(rng.choice((_bits, _run, _remove, _repeat, _cut))(pixels or bytearray(1), rng))
        result += struct.pack(">I", len(content)) + kind + content + bytes(4)
    return _mended(result)


def _mended(data: bytearray) -> bytearray:
    """Make checksums and the size of the container fit again, so that a decoder goes on to the damage."""
    if data.startswith(b"\x89PNG"):
        for start, end in _png_parts(bytes(data)):
            data[end - 4 : end] = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big")
    elif data.startswith(b"RIFF"):
        data[4:8] = struct.pack("<I", max(len(data) - 8, 0))
    return data


_MUTATIONS: Final[dict[str, Mutation]] = {
    "bits": _bits,
    "run": _run,
    "number": _number,
    "splice": _splice,
    "remove": _remove,
    "repeat": _repeat,
    "cut": _cut,
    "padded cut": _padded_cut,
    "field": _field,
    "sides": _sides,
    "length": _length,
    "repeated part": _repeated_part,
    "swapped parts": _swapped_parts,
    "repacked": _repacked,
}


# --- the run --------------------------------------------------------------------------------------------------------


class Pictures:
    """The cuts at every byte first, then the mutated files."""

    limits = Limits(seconds=20.0, num_bytes=600_000_000)  # a busy machine is no fault

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.path = folder / "picture"
        self.cuts = [(name, length) for name in _CUT for length in range(len(BASES[name]))]

    def prepare(self) -> None:
        """Let the decoders load what they need."""
        for data in BASES.values():
            self.path.write_bytes(data)
            read_image(self.path)
            inspect_image(self.path)

    def make(self, number: int) -> Case:
        if number < len(self.cuts):
            name, length = self.cuts[number]
            return Case(number, f"{name}: cut to {length} bytes", BASES[name][:length])
        rng = random.Random(f"{self.seed}/{number}")
        base = rng.choice(_NAMES)
        kinds = rng.choices(tuple(_MUTATIONS), k=rng.choice((1, 1, 1, 2, 3)))
        data = bytearray(BASES[base])
        for kind in kinds:
            with contextlib.suppress(struct.error, IndexError):  # an earlier change left no place for this one
                data = _MUTATIONS[kind](data, rng) or bytearray(1)
        if rng.random() < 0.5 and kinds != ["cut"]:
            data = _mended(data)
            kinds = [*kinds, "mended"]
        return Case(number, f"{base}: {', '.join(kinds)}", bytes(data[:_MAX_BYTES]))

    def check(self, case: Case) -> Sequence[str]:
        self.path.write_bytes(case.data)
        looked, read = self._outcome(inspect_image), self._outcome(read_image)
        if isinstance(looked, str) != isinstance(read, str):
            raise Violation(f"inspect_image gives {looked}, read_image {read}")
        is_cut = case.number < len(self.cuts) or case.made.endswith(": cut")
        if not isinstance(read, str):
            if looked != read:
                raise Violation(f"inspect_image finds {looked} pixels, read_image {read}")
            if is_cut and not self._is_whole(case):
                raise Violation("was taken though it was cut")
        outcome = read if isinstance(read, str) else "taken"
        return ["cut at every byte: refused" if case.number < len(self.cuts) else f"mutated: {outcome}"]

    def _is_whole(self, case: Case) -> bool:
        """Tell whether a cut removed nothing but what follows the picture in some of the files."""
        name = case.made.partition(":")[0]
        return name.endswith("followed by other bytes") and len(BASES[name]) - len(case.data) <= len(b"\xff\xd8more")

    def _outcome(self, use: Callable[[Path], object]) -> str | tuple[int, int]:
        try:
            result = use(self.path)
        except ImageError as error:
            if "memory" in error.reason.lower().replace("memory ran out", "") or "allocate" in error.reason:
                raise Violation(f"asked for too much memory: {error.reason}") from error
            if not isinstance(error, ImageFormatError) and type(error).__name__ != "ImageTooLargeError":
                raise Violation(f"is a regular file, but: {error!r}") from error
            return type(error).__name__
        if isinstance(result, np.ndarray):
            if result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3 or not result.flags.c_contiguous:
                raise Violation(f"gave {result.dtype} {result.shape}")
            return result.shape[1], result.shape[0]
        return result.width, result.height


def main() -> int:
    arguments = fuzzing.options("Mutated picture files.", 50_000).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = Pictures(arguments.seed, Path(folder))
        if arguments.quick:
            arguments.n = _QUICK
            suite.cuts = suite.cuts[::20]
        return fuzzing.main(suite, len(suite.cuts) + arguments.n, arguments, "tests.soak.images")


if __name__ == "__main__":
    sys.exit(main())
