"""What a saved answer says beside its pixels: that they are sRGB, and what the target's EXIF block said."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import attrs
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from icc import ADOBE_RGB, DISPLAY_P3, GREY_22, PROPHOTO_RGB, SRGB_IEC, managed, table_profile
from pictures import png_chunk, saved
from tsm_training import BayesianWeightLearner, Prediction, TrainingManager, WorkerPool
from tsm_training.arrays import Image
from tsm_training.color_transfer import ColorTransferWorker, create_color_transfer_workers
from tsm_training.images import inspect_image, read_image, read_image_and_exif, write_image
from tsm_training.images.metadata import answer_exif
from tsm_training.metrics import color_difference

SOFT = cv2.resize(np.random.default_rng(5).integers(40, 216, (6, 8, 3), np.uint8), (48, 36), fx=0, fy=0)
PICTURE = Pillow.fromarray(SOFT[:, :, ::-1].copy())
OPTIONS: Mapping[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}
ENDINGS = [".jpg", ".png", ".webp", ".tif"]
NOTE = b"a maker's note that points into the block"
THUMBNAIL = saved("JPEG", PICTURE.resize((16, 12)))


def apart(first: Image, second: Image) -> int:
    return int(np.abs(first.astype(int) - second).max())


def block(order: str = "<", *, orientation: int = 6, note_at: int = 0) -> bytes:
    """Return an EXIF block as cameras write it: descriptions, place, maker's note, and a directory of a thumbnail."""
    out = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8))
    # Fields whose content is a number point to the directory, or what is behind them all, of that number.
    directories: list[tuple[list[tuple[int, int, int, bytes | int]], int]] = [
        (
            [
                (256, 4, 1, struct.pack(f"{order}I", 9999)),
                (271, 2, 6, b"Maker\0"),
                (274, 3, 1, struct.pack(f"{order}H", orientation)),
                (306, 2, 20, b"2020:02:02 20:20:20\0"),
                (0x8769, 4, 1, 1),
                (0x8825, 4, 1, 3),
            ],
            4,
        ),
        (
            [
                (33434, 5, 1, struct.pack(f"{order}II", 1, 125)),
                (37500, 7, len(NOTE), NOTE),
                (40961, 3, 1, struct.pack(f"{order}H", 65535)),
                (40962, 4, 1, struct.pack(f"{order}I", 4000)),
                (40963, 3, 1, struct.pack(f"{order}H", 3000)),
                (40965, 4, 1, 2),
                (42240, 5, 1, struct.pack(f"{order}II", 22, 10)),
            ],
            0,
        ),
        ([(1, 2, 4, b"R03\0")], 0),
        ([(1, 2, 2, b"N\0"), (2, 5, 3, struct.pack(f"{order}6I", 48, 1, 8, 1, 14, 1))], 0),
        ([(513, 4, 1, 5), (514, 4, 1, struct.pack(f"{order}I", len(THUMBNAIL)))], 0),
    ]
    starts, at = [], 8
    for entries, _following in directories:
        starts.append(at)
        at += 6 + 12 * len(entries)
    starts.append(at)
    values = bytearray(THUMBNAIL)
    for entries, following in directories:
        out += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, content in entries:
            inline = struct.pack(f"{order}I", starts[content]) if isinstance(content, int) else content
            if len(inline) > 4:
                values += bytes(max(0, note_at - at - len(values))) if tag == 37500 else b""
                inline, longer = struct.pack(f"{order}I", at + len(values)), inline
                values += longer
            out += struct.pack(f"{order}HHI4s", tag, kind, count, inline)
        out += struct.pack(f"{order}I", starts[following]) if following else bytes(4)
    return bytes(out + values)


def tiff_with(exif: bytes, picture: Pillow.Image = PICTURE) -> bytes:
    """Return a TIFF whose first directory holds what an EXIF block does, in the byte order of the block."""
    order = "<" if exif.startswith(b"II") else ">"
    width, height = picture.size
    pixels = picture.convert("RGB").tobytes()
    base = bytearray(exif)
    (first,) = struct.unpack_from(f"{order}I", base, 4)
    (count,) = struct.unpack_from(f"{order}H", base, first)
    kept = [bytes(base[first + 2 + 12 * n : first + 14 + 12 * n]) for n in range(count)]
    entries = {struct.unpack(f"{order}H", entry[:2])[0]: entry for entry in kept}
    strip = len(base)
    bits = strip + len(pixels)
    for tag, kind, number, value in (
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits),
        (259, 4, 1, 1),
        (262, 4, 1, 2),
        (273, 4, 1, strip),
        (277, 4, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
    ):
        entries[tag] = struct.pack(f"{order}HHII", tag, kind, number, value)
    base += pixels + struct.pack(f"{order}3H", 8, 8, 8)
    struct.pack_into(f"{order}I", base, 4, len(base))
    base += struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return bytes(base)


def target(kind: str, exif: bytes, icc: bytes | None = None) -> bytes:
    if kind == "TIFF":
        return tiff_with(exif)
    more = {} if icc is None else {"icc_profile": icc}
    return saved(kind, PICTURE, exif=exif if kind == "WEBP" else b"Exif\0\0" + exif, **more, **OPTIONS[kind])


def predicted(folder: Path, content: bytes) -> Prediction:
    """Return what an ensemble that changes nothing answers for a target."""
    (folder / "target").write_bytes(content)
    pool = WorkerPool()
    unchanged = next(worker for worker in create_color_transfer_workers() if worker.worker_id == "unchanged")
    assert isinstance(unchanged, ColorTransferWorker)
    pool.register_worker(unchanged)
    with TrainingManager(pool, BayesianWeightLearner(), folder / "training.db") as manager:
        return manager.predict(folder / "target", folder / "target")


# --- looks ----------------------------------------------------------------------------------------------------------

TARGETS = {
    **{f"{kind} in P3": saved(kind, PICTURE, icc_profile=DISPLAY_P3, **OPTIONS[kind]) for kind in OPTIONS},
    "PNG in ProPhoto RGB": saved("PNG", PICTURE, icc_profile=PROPHOTO_RGB),
    "JPEG in Adobe RGB, lying": target("JPEG", block(), ADOBE_RGB),
    "PNG in sRGB": saved("PNG", PICTURE, icc_profile=SRGB_IEC),
    "WebP without a profile": saved("WEBP", PICTURE, lossless=True),
    "grey TIFF": saved("TIFF", PICTURE.convert("L"), icc_profile=GREY_22),
    "CMYK TIFF": saved("TIFF", PICTURE.convert("CMYK"), icc_profile=table_profile(b"CMYK", 4)),
    "CMYK JPEG": saved("JPEG", PICTURE.convert("CMYK"), icc_profile=table_profile(b"CMYK", 4), quality=95),
    "PNG of a scanner": saved("PNG", PICTURE, icc_profile=table_profile(b"RGB ", 3)),
    "palette": saved("PNG", PICTURE.quantize(8), icc_profile=DISPLAY_P3),
}


@pytest.mark.parametrize("name", TARGETS)
def test_an_unchanged_target_looks_the_same_when_it_is_saved(tmp_path: Path, name: str) -> None:
    answer = predicted(tmp_path, TARGETS[name])
    with Pillow.open(io.BytesIO(TARGETS[name])) as opened:
        orientation = opened.getexif().get(274, 1)
    seen = managed(TARGETS[name])
    seen = np.ascontiguousarray(np.rot90(seen, -1) if orientation == 6 else seen)
    for ending in (*ENDINGS, ".bmp"):
        path = tmp_path / f"answer{ending}"
        answer.save(path)
        shown = np.ascontiguousarray(managed(path))
        assert shown.shape == seen.shape
        assert apart(shown, read_image(path)) <= 1
        if ending != ".jpg":  # which loses some colours of small pictures
            assert color_difference(shown, seen) < 0.15
            assert np.array_equal(read_image(path), answer.image)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("exif", [b"", answer_exif(block(), 5, 4)], ids=["plain", "EXIF"])
@pytest.mark.parametrize("size", [(4, 5), (5, 4), (1, 1), (3, 300)])
def test_what_is_written_says_that_it_is_srgb(tmp_path: Path, ending: str, exif: bytes, size: tuple[int, int]) -> None:
    path = tmp_path / f"picture{ending}"
    image: Image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    write_image(path, image, exif=exif)
    info = inspect_image(path)
    assert (info.profile, info.conversion, info.width, info.height) == ("sRGB", "none", size[1], size[0])
    with Pillow.open(path) as opened:
        opened.load()
        assert opened.size == size[::-1]
        assert opened.info["icc_profile"]
        assert opened.getexif().get(271) == ("Maker" if exif else None)
        if ending != ".jpg":
            assert np.array_equal(np.asarray(opened)[:, :, ::-1], image)


# --- EXIF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_an_answer_keeps_what_the_target_says_of_itself(tmp_path: Path, kind: str, order: str) -> None:
    answer = predicted(tmp_path, target(kind, block(order)))
    assert answer.image.shape == (48, 36, 3)  # upright
    for ending in ENDINGS:
        path = tmp_path / f"answer{ending}"
        answer.save(path)
        assert THUMBNAIL[:40] not in path.read_bytes()
        with Pillow.open(path) as opened:
            exif = opened.getexif()
            inner, places, rules, thumbnail = (exif.get_ifd(tag) for tag in (0x8769, 0x8825, 0xA005, 1))
            assert ImageOps.exif_transpose(opened).size == opened.size == (36, 48)
        assert (exif[271], exif[306], exif[274], exif[256]) == ("Maker", "2020:02:02 20:20:20", 1, 36)
        assert (inner[33434], inner[37500]) == (1 / 125, NOTE)
        assert (inner[40961], inner[40962], inner[40963]) == (1, 36, 48)
        assert 42240 not in inner
        assert rules == {1: "R98"}
        assert places == {1: "N", 2: (48.0, 8.0, 14.0)}
        assert not thumbnail


@pytest.mark.parametrize("note_at", [900, 5000, 20_000])
def test_a_makers_note_keeps_its_place_unless_that_is_far(note_at: int) -> None:
    before = block(note_at=note_at)
    after = answer_exif(before, 5, 4)
    place = before.find(NOTE)
    assert place >= note_at
    assert (after.find(NOTE) == place) == (note_at < 8192)


def test_a_block_that_was_made_fit_stays_as_it_is() -> None:
    once = answer_exif(block(), 5, 4)
    assert answer_exif(once, 5, 4) == once


def test_an_answer_to_arrays_and_to_targets_without_exif_has_none(tmp_path: Path) -> None:
    answer = predicted(tmp_path, saved("PNG", PICTURE))
    assert answer.exif == b""
    answer.save(tmp_path / "answer.jpg")
    assert b"Exif" not in (tmp_path / "answer.jpg").read_bytes()


def test_a_prediction_carries_the_block_where_it_goes(tmp_path: Path) -> None:
    answer = predicted(tmp_path, target("JPEG", block()))
    assert pickle.loads(pickle.dumps(answer)).exif == answer.exif != b""
    assert "exif" not in repr(answer)
    attrs.evolve(answer, exif=b"").save(tmp_path / "answer.jpg")
    assert b"Exif" not in (tmp_path / "answer.jpg").read_bytes()


@pytest.mark.parametrize("exif", [b"", b"MM", b"nothing of the kind", b"II*\0\xff\0\0\0", block()[:60]])
def test_a_block_that_makes_no_sense_is_left_out(tmp_path: Path, exif: bytes) -> None:
    plain = saved("PNG", PICTURE)
    (tmp_path / "target.png").write_bytes(plain[:33] + png_chunk(b"eXIf", exif) + plain[33:])
    image, kept = read_image_and_exif(tmp_path / "target.png")
    assert np.array_equal(image, SOFT)
    assert kept == b""


def test_a_field_that_cannot_be_read_is_left_out_alone() -> None:
    damaged = block().replace(struct.pack("<HHI", 306, 2, 20), struct.pack("<HHI", 306, 99, 20))
    damaged = damaged.replace(struct.pack("<HHI", 33434, 5, 1), struct.pack("<HHI", 33434, 5, 1 << 30))
    exif = Pillow.Exif()
    exif.load(answer_exif(damaged, 5, 4))
    assert 306 not in exif
    assert 33434 not in exif.get_ifd(0x8769)
    assert (exif[271], exif.get_ifd(0x8769)[37500]) == ("Maker", NOTE)


def test_a_directory_that_cannot_be_read_is_left_out_alone() -> None:
    places = block().replace(
        struct.pack("<HHI", 0x8825, 4, 1) + block()[78:82], struct.pack("<HHII", 0x8825, 4, 1, 1 << 20)
    )
    exif = Pillow.Exif()
    exif.load(answer_exif(places, 5, 4))
    assert 0x8825 not in exif
    assert exif.get_ifd(0x8769)[37500] == NOTE


def test_a_block_too_long_for_a_jpeg_is_left_out_with_a_warning(tmp_path: Path) -> None:
    long = Pillow.Exif()
    long[270] = "x" * 70_000
    exif = answer_exif(long.tobytes()[6:], 48, 36)
    with pytest.warns(UserWarning, match="more than a JPEG can hold"):
        write_image(tmp_path / "answer.jpg", SOFT, exif=exif)
    assert inspect_image(tmp_path / "answer.jpg").profile == "sRGB"
    write_image(tmp_path / "answer.png", SOFT, exif=exif)
    with Pillow.open(tmp_path / "answer.png") as opened:
        assert len(opened.getexif()[270]) == 70_000


def test_fields_that_all_hold_the_same_megabytes_take_no_more_than_one() -> None:
    count, size = 3000, 1 << 20
    entries = b"".join(struct.pack("<HHII", 600 + n, 1, size - 1, 0) for n in range(count))
    hostile = b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4) + bytes(size)
    tracemalloc.start()
    try:
        kept = answer_exif(hostile, 5, 4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(kept) < 2 * size
    assert peak < 40 << 20


@given(st.data())
def test_no_damage_of_a_block_does_more_than_lose_it(data: st.DataObject) -> None:
    damaged = bytearray(block(data.draw(st.sampled_from("<>"))))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[place] = data.draw(st.integers(0, 255))
    kept = answer_exif(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), 5, 4)
    again = answer_exif(kept, 5, 4)
    assert len(again) <= len(kept) + 2 < 100_000
