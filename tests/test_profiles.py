"""What a file says of its colours, and what is read instead: sRGB."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms
from PIL._util import DeferredError

from icc import (
    ADOBE,
    ADOBE_RGB,
    D50,
    DISPLAY_P3,
    GREY_22,
    P3,
    PROPHOTO_RGB,
    REC_709_CURVE,
    REC_2020,
    REC_2020_RGB,
    SRGB,
    SRGB_CURVE,
    SRGB_IEC,
    STRAIGHT,
    colorants,
    gamma,
    managed,
    parametric,
    profile,
    rgb_profile,
    sampled,
    table_profile,
    words,
    xyz,
)
from pictures import oriented, png_chunk, saved, tiff
from tsm_training.arrays import Image
from tsm_training.errors import ImageFormatError
from tsm_training.images import ImageInfo, inspect_image, read_image, read_thumbnail
from tsm_training.images import profiles as room
from tsm_training.images.header import ColorTags, HeaderError
from tsm_training.images.profiles import conversion_of
from tsm_training.metrics import color_difference

SATURATED = cv2.resize(np.random.default_rng(3).integers(0, 256, (9, 12, 3), np.uint8), (60, 45), fx=0, fy=0)
RGB = Pillow.fromarray(SATURATED[:, :, ::-1].copy())
GREY = RGB.convert("L")
FORMATS: Mapping[str, dict[str, object]] = {
    "PNG": {},
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "TIFF": {},
}
PROFILES = {
    "Display P3": DISPLAY_P3,
    "Adobe RGB (1998)": ADOBE_RGB,
    "ProPhoto RGB": PROPHOTO_RGB,
    "Rec. 2020": REC_2020_RGB,
    "sRGB IEC61966-2.1": SRGB_IEC,
}


def png_with(*chunks: bytes, picture: Pillow.Image = RGB) -> bytes:
    plain = saved("PNG", picture)
    return plain[:33] + b"".join(chunks) + plain[33:]


def apart(first: Image, second: Image) -> int:
    """Return the greatest difference of two pictures in levels."""
    return int(np.abs(first.astype(int) - second).max())


def converted(icc: bytes, pixels: Image = SATURATED, model: str = "RGB") -> Image:
    return conversion_of(ColorTags(icc=icc), model).apply(pixels.copy())


# --- as other readers see it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", FORMATS)
def test_colours_are_those_that_a_colour_managed_reader_shows(
    put: Callable[[bytes], Path], kind: str, name: str
) -> None:
    path = put(saved(kind, RGB, icc_profile=PROFILES[name], **FORMATS[kind]))
    image, shown = read_image(path), np.ascontiguousarray(managed(path))
    assert apart(image, shown) <= 1
    assert color_difference(image, shown) < 0.05
    assert inspect_image(path).profile == name


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_read_in_the_colours_that_eight_have(
    put: Callable[[bytes], Path], kind: str, name: str
) -> None:
    icc = PROFILES[name]
    deep = SATURATED.astype(np.uint16) * 257
    if kind == "PNG":
        plain = cv2.imencode(".png", deep)[1].tobytes()
        content = plain[:33] + icc_chunk(icc) + plain[33:]
    else:
        fields = {256: (60,), 257: (45,), 258: (16, 16, 16), 278: (45,)}
        content = tiff({**fields, 34675: struct.unpack(f"<{len(icc) // 2}H", icc)}, deep[:, :, ::-1].tobytes())
        content = content.replace(struct.pack("<HHI", 34675, 3, len(icc) // 2), struct.pack("<HHI", 34675, 7, len(icc)))
    path = put(content)
    assert apart(read_image(path), managed(saved("PNG", RGB, icc_profile=icc))) <= 1
    assert inspect_image(path).profile == name


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_greys_are_those_that_a_colour_managed_reader_shows(put: Callable[[bytes], Path], kind: str) -> None:
    path = put(saved(kind, GREY, icc_profile=GREY_22, **FORMATS[kind]))
    assert apart(read_image(path), managed(path)) <= 1
    assert apart(read_image(path), np.asarray(GREY)[:, :, np.newaxis]) > 1
    assert inspect_image(path).conversion == "matrix"


def test_a_grey_picture_may_have_a_profile_for_colours(put: Callable[[bytes], Path]) -> None:
    path = put(saved("JPEG", GREY, icc_profile=ADOBE_RGB))
    assert apart(read_image(path), managed(path)) <= 1
    assert inspect_image(path).profile == "Adobe RGB (1998)"


CURVES = {
    "straight": STRAIGHT,
    "gamma": gamma(1.8),
    "sampled": sampled([0.0, 0.05, 0.3, 0.6, 1.0]),
    "function 0": parametric(0, 2.4),
    "function 1": parametric(1, 2.4, 0.9, 0.1),
    "function 2": parametric(2, 2.0, 0.8, 0.1, 0.1),
    "function 3": SRGB_CURVE,
    "function 4": parametric(4, 2.4, 0.9, 0.05, 0.1, 0.05, 0.02, 0.01),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("space", ["RGB", "GRAY", "GRAY to Lab"])
def test_every_kind_of_curve_is_followed(put: Callable[[bytes], Path], name: str, space: str) -> None:
    if space == "RGB":
        path = put(saved("PNG", RGB, icc_profile=rgb_profile(ADOBE, CURVES[name], version=4)))
    else:
        connection = b"Lab " if "Lab" in space else b"XYZ "
        icc = profile({b"kTRC": CURVES[name]}, space=b"GRAY", connection=connection, version=4)
        path = put(saved("PNG", GREY, icc_profile=icc))
    # LittleCMS itself is a level off where a straight curve makes steps of several levels of it.
    assert apart(read_image(path), managed(path)) <= 2


def test_each_channel_has_its_own_curve(put: Callable[[bytes], Path]) -> None:
    path = put(saved("PNG", RGB, icc_profile=rgb_profile(SRGB, gamma(1.2), gamma(2.2), gamma(3.0))))
    assert apart(read_image(path), managed(path)) <= 1


# --- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("icc", [DISPLAY_P3, ADOBE_RGB, PROPHOTO_RGB, REC_2020_RGB], ids=list(PROFILES)[:4])
def test_greys_stay_grey_and_black_and_white_stay_as_they_are(icc: bytes) -> None:
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    result = converted(icc, greys)
    assert (np.ptp(result.astype(int), axis=2) <= 1).all()
    assert (np.diff(result[:, :, 1].ravel().astype(int)) >= 0).all()
    assert result[0, 0].tolist() == [0, 0, 0]
    assert result[-1, -1].tolist() == [255, 255, 255]


def test_what_lies_outside_srgb_is_clipped_and_changes_nothing_else() -> None:
    pixels = np.full((3, 4, 3), 128, np.uint8)
    pixels[1, 1] = 0, 255, 0
    result = converted(DISPLAY_P3, pixels)
    assert result[1, 1].tolist() == [0, 255, 0]
    assert apart(np.delete(result.reshape(12, 3), 5, axis=0), np.full((11, 3), 128)) == 0


@pytest.mark.parametrize("curves", [(SRGB_CURVE,), (gamma(1.2), gamma(2.2), gamma(3.0))], ids=["one", "three"])
def test_sixteen_bits_become_what_eight_become_and_more_precisely(curves: tuple[bytes, ...]) -> None:
    icc = rgb_profile(P3, *curves, version=4)
    deep = SATURATED.astype(np.uint16) * 257
    assert np.array_equal(converted(icc, deep), converted(icc))
    ramp = np.arange(65536, dtype=np.uint16).reshape(64, 1024, 1).repeat(3, axis=2)
    assert len(np.unique(converted(icc, ramp))) == 256


def test_sixteen_bits_without_a_profile_are_rounded_to_the_nearest_of_eight() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    for tags in (ColorTags(), ColorTags(is_srgb=True), ColorTags(icc=SRGB_IEC)):
        assert np.array_equal(conversion_of(tags, "RGB").apply(deep), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_older_opencv_gives_the_same(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    pixels = SATURATED.astype(dtype) * (257 if dtype is np.uint16 else 1)
    expected = converted(DISPLAY_P3, pixels)
    look_up = cv2.LUT

    def shallow(source: Image, table: Image) -> object:
        if source.dtype != np.uint8:
            raise cv2.error("depth")
        return look_up(source, table)

    monkeypatch.setattr(cv2, "LUT", shallow)
    room._deep_tables_work.cache_clear()
    try:
        assert np.array_equal(converted(DISPLAY_P3, pixels), expected)
    finally:
        room._deep_tables_work.cache_clear()


def test_a_large_picture_is_converted_in_parts_that_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = converted(DISPLAY_P3)
    monkeypatch.setattr(room, "_BAND", 7 * SATURATED.shape[1])
    assert np.array_equal(converted(DISPLAY_P3), expected)


# --- nothing to do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_without_a_profile_nothing_changes_by_a_bit(put: Callable[[bytes], Path], kind: str) -> None:
    content = saved(kind, RGB, **FORMATS[kind])
    info = inspect_image(put(content))
    assert np.array_equal(read_image(put(content)), cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    assert (info.profile, info.conversion, info.profile_fault) == (None, "none", None)


EXPORTED = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("icc", [SRGB_IEC, EXPORTED, room.srgb_profile()], ids=["IEC", "LittleCMS", "our own"])
@pytest.mark.parametrize("kind", FORMATS)
def test_profiles_of_srgb_are_recognised_and_change_no_bit(put: Callable[[bytes], Path], kind: str, icc: bytes) -> None:
    plain = read_image(put(saved(kind, RGB, **FORMATS[kind])))
    path = put(saved(kind, RGB, icc_profile=icc, **FORMATS[kind]))
    assert np.array_equal(read_image(path), plain)
    info = inspect_image(path)
    assert info.profile is not None
    assert info.profile.startswith("sRGB")
    assert (info.conversion, info.profile_fault) == ("none", None)


def test_adobe_rgb_in_exif_alone_is_no_profile(put: Callable[[bytes], Path]) -> None:
    exif = Pillow.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    path = put(saved("JPEG", RGB, exif=exif, quality=95))
    assert np.array_equal(read_image(path), read_image(put(saved("JPEG", RGB, quality=95))))
    assert inspect_image(path).profile is None


# --- every reader ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_all_readers_agree(put: Callable[[bytes], Path], kind: str) -> None:
    large = cv2.resize(SATURATED, (480, 360))
    picture = Pillow.fromarray(large[:, :, ::-1].copy())
    path = put(saved(kind, picture, icc_profile=PROPHOTO_RGB, exif=oriented(6), **FORMATS[kind]))
    image = read_image(path)
    assert image.shape == (480, 360, 3)
    for side in (16, 128):  # the former is read from a JPEG at an eighth of its size
        info, square = read_thumbnail(path, side)
        assert info == inspect_image(path)
        averaged = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        assert np.abs(square.astype(int) - averaged).mean() < 4
    assert (info.profile, info.conversion) == ("ProPhoto RGB", "matrix")


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (words("A name", 2), "A name"),
        (words("Émile’s display", 4), "Émile’s display"),
        (words("two\nlines\u202e", 4), "twolines"),
        (words("x" * 500, 2), "x" * 80),
        (b"mluc", "a profile without a name"),
        (b"", "a profile without a name"),
    ],
)
def test_a_profile_is_called_by_its_name_fit_to_be_shown(content: bytes, name: str) -> None:
    assert conversion_of(ColorTags(icc=rgb_profile(P3, SRGB_CURVE, more={b"desc": content})), "RGB").profile == name


# --- what PNG says in chunks ----------------------------------------------------------------------------------------


def icc_chunk(icc: bytes) -> bytes:
    return png_chunk(b"iCCP", b"a name\0\0" + zlib.compress(icc))


def cicp(*numbers: int) -> bytes:
    return png_chunk(b"cICP", bytes(numbers))


def gama(number: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", number))


def chrm(white: tuple[float, float], primaries: tuple[tuple[float, float], ...]) -> bytes:
    numbers = (round(100_000 * number) for pair in (white, *primaries) for number in pair)
    return png_chunk(b"cHRM", struct.pack(">8I", *numbers))


SRGB_CHUNK = png_chunk(b"sRGB", b"\0")
D65 = (0.3127, 0.3290)


@pytest.mark.parametrize(
    ("chunk", "icc"),
    [
        (cicp(12, 13, 0, 1), DISPLAY_P3),
        (cicp(9, 14, 0, 1), REC_2020_RGB),
        (cicp(1, 1, 0, 1), rgb_profile(SRGB, REC_709_CURVE, version=4)),
        (cicp(2, 4, 0, 1), rgb_profile(SRGB, parametric(0, 2.2), version=4)),
        (cicp(1, 8, 0, 1), rgb_profile(SRGB, STRAIGHT)),
        (gama(45470) + chrm(D65, ADOBE), rgb_profile(ADOBE, parametric(0, 1 / 0.4547), version=4)),
        (gama(55556), rgb_profile(SRGB, parametric(0, 1.8), version=4)),
    ],
)
def test_chunks_mean_what_a_profile_would(put: Callable[[bytes], Path], chunk: bytes, icc: bytes) -> None:
    image = read_image(put(png_with(chunk)))
    assert apart(image, managed(saved("PNG", RGB, icc_profile=icc))) <= 1
    assert apart(image, SATURATED) > 3


@pytest.mark.parametrize(
    ("chunks", "name"),
    [
        (cicp(1, 13, 0, 1), "Rec. 709 (cICP 1/13)"),
        (cicp(2, 2, 0, 1), "Rec. 709 (cICP 2/2)"),
        (SRGB_CHUNK, "sRGB"),
        (SRGB_CHUNK + gama(100_000), "sRGB"),
        (gama(45455), "gamma 2.2 (gAMA)"),
        (gama(45455) + chrm(D65, SRGB), "gamma 2.2 (gAMA and cHRM)"),
        (chrm(D65, ADOBE), None),
    ],
)
def test_chunks_that_mean_srgb_change_no_bit(put: Callable[[bytes], Path], chunks: bytes, name: str | None) -> None:
    path = put(png_with(chunks))
    assert np.array_equal(read_image(path), SATURATED)
    assert inspect_image(path) == ImageInfo(**attributes(path), profile=name)


def attributes(path: Path) -> dict[str, object]:
    names = ("sha256", "num_bytes", "width", "height", "image_format")
    return {name: getattr(inspect_image(path), name) for name in names}


def test_the_more_precise_of_several_chunks_counts(put: Callable[[bytes], Path]) -> None:
    chunks = [cicp(12, 13, 0, 1), icc_chunk(ADOBE_RGB), SRGB_CHUNK, gama(100_000)]
    names = ["Display P3 (cICP 12/13)", "Adobe RGB (1998)", "sRGB", "gamma 1 (gAMA)"]
    for first, name in enumerate(names):
        assert inspect_image(put(png_with(*reversed(chunks[first:])))).profile == name


def test_chunks_behind_the_pixels_are_too_late(put: Callable[[bytes], Path]) -> None:
    plain = saved("PNG", RGB)
    path = put(plain[:-12] + icc_chunk(ADOBE_RGB) + plain[-12:])
    assert np.array_equal(read_image(path), SATURATED)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (cicp(9, 16, 0, 1), "high-dynamic-range picture (PQ)"),
        (cicp(9, 18, 0, 1), "high-dynamic-range picture (HLG)"),
        (cicp(1, 13, 0, 0), "full-range RGB"),
        (cicp(1, 13, 1, 1), "full-range RGB"),
        (cicp(22, 13, 0, 1), "full-range RGB"),
        (icc_chunk(rgb_profile(REC_2020, SRGB_CURVE, more={b"cicp": b"cicp\0\0\0\0\x09\x10\0\1"})), "(PQ)"),
    ],
)
def test_colours_that_are_not_read_are_refused_by_name(put: Callable[[bytes], Path], chunk: bytes, reason: str) -> None:
    path = put(png_with(chunk))
    for use in (inspect_image, read_image, lambda path: read_thumbnail(path, 8)):
        with pytest.raises(ImageFormatError) as caught:
            use(path)
        assert reason in caught.value.reason


# --- damage ---------------------------------------------------------------------------------------------------------

P3_TAGS = {tag: xyz(*colorants(P3)[:, number]) for number, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
P3_CURVES = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), SRGB_CURVE)


@pytest.mark.parametrize(
    ("icc", "fault"),
    [
        (DISPLAY_P3[:100], "ends early"),
        (DISPLAY_P3[:400], "ends early"),
        (b"\0" * 200, "no ICC profile"),
        (profile(P3_TAGS), "rTRC"),
        (profile(P3_CURVES), "rXYZ"),
        (profile(P3_TAGS | P3_CURVES | {b"gXYZ": b"XYZ \0\0\0\0"}), "gXYZ"),
        (profile(P3_TAGS | P3_CURVES | {b"gTRC": b"curv\0\0\0\0\0\0\0\x09\0\0"}), "gTRC"),
        (profile(P3_TAGS | P3_CURVES | {b"gTRC": parametric(9)}), "gTRC"),
        (profile(P3_TAGS | P3_CURVES | {b"gTRC": parametric(1, 1, 0, 1)}), "gTRC"),
        (profile(P3_TAGS | dict.fromkeys(P3_CURVES, sampled([0, 0]))), "white"),
        (profile(P3_TAGS | dict.fromkeys(P3_CURVES, sampled([0.8, 0.8]))), "white is no brighter than black"),
        (profile(P3_TAGS | P3_CURVES, kind=b"link"), "link"),
        (profile(P3_TAGS | P3_CURVES, space=b"Lab "), "Lab"),
        (GREY_22, "GRAY"),
        (table_profile(b"CMYK", 4), "CMYK"),
        (b"", "cannot be inflated"),
        (profile({b"A2B0": b"mft2"}), "cannot be used"),
    ],
)
def test_a_damaged_profile_counts_as_absent_and_is_told(put: Callable[[bytes], Path], icc: bytes, fault: str) -> None:
    path = put(png_with(icc_chunk(icc), picture=RGB))
    assert np.array_equal(read_image(path), SATURATED)
    info = inspect_image(path)
    assert (info.profile, info.conversion) == (None, "none")
    assert info.profile_fault is not None
    assert fault in info.profile_fault


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"a name\0\0no zlib"),
        png_chunk(b"iCCP", b"a name\0\0" + zlib.compress(DISPLAY_P3)[:-30]),
        png_chunk(b"iCCP", b"a name\0\0" + zlib.compress(bytes(9 << 20))),
        png_chunk(b"iCCP", b""),
        cicp(9, 16),
        gama(0),
        png_chunk(b"gAMA", b"\0"),
        gama(55556) + png_chunk(b"cHRM", bytes(31)),
        gama(55556) + chrm(D65, ((0.3, 0.3),) * 3),
        gama(55556) + chrm((0, 0), SRGB),
    ],
)
def test_damaged_chunks_count_as_absent_and_are_told(put: Callable[[bytes], Path], chunk: bytes) -> None:
    path = put(png_with(chunk))
    assert np.array_equal(read_image(path), SATURATED)
    assert inspect_image(path).profile_fault


@given(st.data())
def test_no_damage_of_a_profile_does_more_than_change_colours(data: st.DataObject) -> None:
    icc = bytearray(data.draw(st.sampled_from([DISPLAY_P3, ADOBE_RGB, GREY_22, REC_2020_RGB])))
    for place in data.draw(st.lists(st.integers(0, len(icc) - 1), max_size=6)):
        icc[place] = data.draw(st.integers(0, 255))
    tags = ColorTags(icc=bytes(icc[: data.draw(st.integers(1, len(icc)))]))
    try:
        conversion = conversion_of(tags, data.draw(st.sampled_from(["RGB", "GRAY"])))
    except HeaderError:
        return
    result = conversion.apply(SATURATED.copy())
    assert (result.shape, result.dtype) == (SATURATED.shape, np.uint8)
    assert (conversion.fault is None) or np.array_equal(result, SATURATED)


# --- containers -----------------------------------------------------------------------------------------------------


def jpeg_with(*segments: bytes) -> bytes:
    plain = saved("JPEG", RGB, quality=95)
    return plain[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(s) + 2) + s for s in segments) + plain[2:]


def in_segments(icc: bytes, count: int) -> list[bytes]:
    step = -(-len(icc) // count)
    parts = [icc[start : start + step] for start in range(0, len(icc), step)]
    return [b"ICC_PROFILE\0" + bytes((number + 1, count)) + part for number, part in enumerate(parts)]


def test_a_jpeg_may_hold_its_profile_in_several_segments_in_any_order(put: Callable[[bytes], Path]) -> None:
    first, second, third = in_segments(ADOBE_RGB, 3)
    for segments in ([first, second, third], [third, first, b"another thing", second]):
        path = put(jpeg_with(*segments))
        assert inspect_image(path).profile == "Adobe RGB (1998)"
        assert apart(read_image(path), managed(saved("JPEG", RGB, quality=95, icc_profile=ADOBE_RGB))) <= 1


def test_a_jpeg_that_lacks_a_segment_of_its_profile_has_none(put: Callable[[bytes], Path]) -> None:
    first, second, third = in_segments(ADOBE_RGB, 3)
    many = [b"ICC_PROFILE\0" + bytes((number % 256, number // 256)) for number in range(300)]
    for segments in (
        [first, third],
        [first, second, third, b"ICC_PROFILE\0\7\3"],
        [b"ICC_PROFILE\0"],
        [b"ICC_PROFILE\0\1\1"],
        many,
    ):
        path = put(jpeg_with(*segments))
        assert inspect_image(path).profile_fault == "its JPEG segments do not fit together"
        assert np.array_equal(read_image(path), read_image(put(jpeg_with())))


def test_a_profile_that_lies_outside_its_tiff_counts_as_absent(put: Callable[[bytes], Path]) -> None:
    content = saved("TIFF", RGB, icc_profile=ADOBE_RGB)
    entry = content.index(struct.pack("<HHI", 34675, 7, len(ADOBE_RGB)))
    path = put(content[: entry + 4] + struct.pack("<I", len(content)) + content[entry + 8 :])
    assert inspect_image(path).profile_fault
    assert np.array_equal(read_image(path), SATURATED)


def test_a_palette_has_the_colours_of_its_profile(put: Callable[[bytes], Path]) -> None:
    path = put(saved("PNG", RGB.quantize(16), icc_profile=PROPHOTO_RGB))
    assert apart(read_image(path), managed(path)) <= 1


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("picture", [RGB, GREY], ids=["RGB", "GRAY"])
def test_profiles_with_tables_go_through_littlecms(
    put: Callable[[bytes], Path], kind: str, picture: Pillow.Image
) -> None:
    space = {"RGB": b"RGB ", "L": b"GRAY"}[picture.mode]
    path = put(saved(kind, picture, icc_profile=table_profile(space, len(picture.getbands()))))
    assert np.array_equal(read_image(path), managed(path))
    info = inspect_image(path)
    assert (info.profile, info.conversion) == ("a table", "littlecms")


def test_cmyk_goes_through_littlecms() -> None:
    inks = RGB.convert("CMYK")
    icc = table_profile(b"CMYK", 4)
    result = conversion_of(ColorTags(icc=icc), "CMYK").apply(np.asarray(inks))
    assert np.array_equal(result, managed(saved("TIFF", inks, icc_profile=icc)))


def test_sixteen_bits_are_reduced_before_a_table() -> None:
    icc = table_profile(b"RGB ", 3)
    assert np.array_equal(converted(icc, SATURATED.astype(np.uint16) * 257), converted(icc))


def test_a_profile_with_a_table_that_has_a_matrix_too_goes_by_its_table() -> None:
    table = conversion_of(ColorTags(icc=table_profile(b"RGB ", 3)), "RGB")
    content = table_profile(b"RGB ", 3)
    start = content.index(b"mft2")
    both = rgb_profile(P3, SRGB_CURVE, more={b"A2B0": content[start:]})
    assert conversion_of(ColorTags(icc=both), "RGB").method == table.method == "littlecms"


@pytest.mark.parametrize("missing", ["Pillow", "Pillow's LittleCMS"])
def test_without_littlecms_a_table_is_refused_with_the_line_that_installs_it(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    path = put(saved("PNG", RGB, icc_profile=table_profile(b"RGB ", 3, name="Scanner 7")))
    matrix = converted(DISPLAY_P3)
    if missing == "Pillow":
        monkeypatch.setitem(sys.modules, "PIL", None)
    else:
        monkeypatch.setattr(ImageCms, "core", DeferredError.new(ImportError("No module named '_imagingcms'")))
    room._conversion_of.cache_clear()
    with pytest.raises(ImageFormatError) as caught:
        inspect_image(path)
    assert "'Scanner 7'" in caught.value.reason
    assert 'pip install "tsm_training[photos]"' in caught.value.reason
    assert np.array_equal(converted(DISPLAY_P3), matrix)


# --- our own profile ------------------------------------------------------------------------------------------------


def test_the_profile_of_srgb_is_one_to_others_too() -> None:
    ours = ImageCms.ImageCmsProfile(io.BytesIO(room.srgb_profile()))
    assert ImageCms.getProfileDescription(ours).strip() == "sRGB"
    shown = ImageCms.profileToProfile(RGB, ours, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert shown is not None
    assert np.array_equal(np.asarray(shown), np.asarray(RGB))
    assert ours.profile.media_white_point[0] == pytest.approx(D50, abs=1e-4)
    assert len(room.srgb_profile()) < 600
