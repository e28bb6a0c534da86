"""CIELAB and CIEDE2000, against the published pairs and against scikit-image."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import color

from metric_support import PAIRS, natural, noise, plain
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError
from tsm_training.measures import delta_e
from tsm_training.metrics import ColorDifference, bgr_to_lab, ciede2000, color_difference, color_difference_map

# Sharma, Wu, Dalal: "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
# mathematical observations", Color Research and Application 30(1), 2005, table 1: two colours, and ΔE00.
SHARMA = [
    ((50.0000, 2.6772, -79.7751), (50.0000, 0.0000, -82.7485), 2.0425),
    ((50.0000, 3.1571, -77.2803), (50.0000, 0.0000, -82.7485), 2.8615),
    ((50.0000, 2.8361, -74.0200), (50.0000, 0.0000, -82.7485), 3.4412),
    ((50.0000, -1.3802, -84.2814), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, -1.1848, -84.8006), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, -0.9009, -85.5211), (50.0000, 0.0000, -82.7485), 1.0000),
    ((50.0000, 0.0000, 0.0000), (50.0000, -1.0000, 2.0000), 2.3669),
    ((50.0000, -1.0000, 2.0000), (50.0000, 0.0000, 0.0000), 2.3669),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0009), 7.1792),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0010), 7.1792),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0011), 7.2195),
    ((50.0000, 2.4900, -0.0010), (50.0000, -2.4900, 0.0012), 7.2195),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0009, -2.4900), 4.8045),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0010, -2.4900), 4.8045),
    ((50.0000, -0.0010, 2.4900), (50.0000, 0.0011, -2.4900), 4.7461),
    ((50.0000, 2.5000, 0.0000), (50.0000, 0.0000, -2.5000), 4.3065),
    ((50.0000, 2.5000, 0.0000), (73.0000, 25.0000, -18.0000), 27.1492),
    ((50.0000, 2.5000, 0.0000), (61.0000, -5.0000, 29.0000), 22.8977),
    ((50.0000, 2.5000, 0.0000), (56.0000, -27.0000, -3.0000), 31.9030),
    ((50.0000, 2.5000, 0.0000), (58.0000, 24.0000, 15.0000), 19.4535),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.1736, 0.5854), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.2972, 0.0000), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 1.8634, 0.5757), 1.0000),
    ((50.0000, 2.5000, 0.0000), (50.0000, 3.2592, 0.3350), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.2480, -4.9620), 1.8731),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]

LAB = st.tuples(st.floats(0, 100), st.floats(-128, 128), st.floats(-128, 128))


def by_the_book(lab1: Any, lab2: Any) -> float:
    """ΔE00 of two colours, with angles, in the order of the paper's equations (2) to (22)."""
    (l1, a1, b1), (l2, a2, b2) = lab1, lab2
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn, total = h2 - h1, h1 + h2
    if c1 * c2 == 0:
        turn, h = 0.0, total
    elif abs(turn) <= 180:
        h = total / 2
    else:
        turn, h = turn - np.copysign(360, turn), (total + (360 if total < 360 else -360)) / 2
    d_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = [np.cos(np.radians(angle)) for angle in (h - 30, 2 * h, 3 * h + 6, 4 * h - 63)]
    t = 1 + float(np.dot([-0.17, 0.24, 0.32, -0.20], cosines))
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    r_c = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    r_t = -np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))) * r_c
    parts = (l2 - l1) / s_l, (c2 - c1) / s_c, d_h / s_h
    return float(np.sqrt(np.dot(parts, parts) + r_t * parts[1] * parts[2]))


# --- the formula ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "expected"), SHARMA)
def test_the_published_pairs_come_out_in_both_orders(first: Any, second: Any, expected: float) -> None:
    assert abs(float(ciede2000(first, second)) - expected) < 1e-4
    assert ciede2000(second, first) == ciede2000(first, second)


def test_many_colours_are_compared_at_once() -> None:
    first, second, expected = (np.array(part) for part in zip(*SHARMA, strict=True))
    at_once = ciede2000(first.reshape(2, 17, 3), second.reshape(2, 17, 3))
    assert at_once.shape == (2, 17)
    assert at_once.dtype == np.float64
    assert at_once.ravel().tolist() == [float(ciede2000(one, other)) for one, other in zip(first, second, strict=True)]
    assert np.abs(at_once.ravel() - expected).max() < 1e-4


def test_one_colour_is_compared_with_all_others() -> None:
    colors = np.array([pair[1] for pair in SHARMA])
    expected = [float(ciede2000(each, [50, 2.5, 0])) for each in colors]
    assert ciede2000([50, 2.5, 0], colors).tolist() == expected
    assert ciede2000(colors, [[50, 2.5, 0]]).tolist() == expected


def test_there_may_be_no_colours() -> None:
    assert ciede2000(np.empty((0, 3)), np.empty((0, 3))).shape == (0,)


@given(LAB, LAB)
def test_the_difference_is_symmetric_at_least_zero_and_the_one_of_the_paper(first: Any, second: Any) -> None:
    difference = float(ciede2000(first, second))
    assert difference >= 0.0
    assert ciede2000(second, first) == difference
    assert ciede2000(first, first) == 0.0
    if abs(first[1] * second[2] - first[2] * second[1]) > 1e-9:  # of opposite hues, roundings decide which way to turn
        # The paper's R_T jumps where the mean hue passes from 360° to 0°, where another rounding may decide.
        assert difference == pytest.approx(by_the_book(first, second), abs=3e-4)


def test_hues_all_around_are_those_of_the_paper() -> None:
    """Pairs 5° apart in hue, pairs that are opposite or nearly so, and greys, at each of 72 hues."""
    hues, checked = np.radians(np.arange(0.3, 360, 5)), 0
    for chroma, other, turn in ((40, 42, 5), (90, 20, 100), (60, 60, 174.5), (60, 50, 185), (0, 30, 0), (30, 0, 0)):
        first = np.stack([np.full(72, 60.0), chroma * np.cos(hues), chroma * np.sin(hues)], axis=-1)
        turned = hues + np.radians(turn)
        second = np.stack([np.full(72, 55.0), other * np.cos(turned), other * np.sin(turned)], axis=-1)
        for one, two, difference in zip(first, second, ciede2000(first, second), strict=True):
            assert difference == pytest.approx(by_the_book(one, two), abs=1e-6)
            checked += 1
    assert checked == 6 * 72


@pytest.mark.parametrize("a", [(30.0, 0.0), (0.0, 30.0), (-20.0, 0.0), (0.0, -20.0), (12.0, 5.0), (12.0, -5.0)])
def test_of_hues_that_are_exactly_opposite_the_mean_lies_behind_the_smaller_one(a: tuple[float, float]) -> None:
    first, second = (50.0, *a), (50.0, -a[0], -a[1])
    expected = by_the_book(first, second)
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-9)
    assert ciede2000(second, first) == pytest.approx(expected, abs=1e-9)


def test_scikit_image_agrees_on_strong_and_on_similar_colours() -> None:
    rng = np.random.default_rng(1)
    first = rng.uniform([0, -100, -100], [100, 100, 100], (20_000, 3))
    for second in (rng.uniform([0, -100, -100], [100, 100, 100], (20_000, 3)), first + rng.normal(0, 2, (20_000, 3))):
        assert np.abs(ciede2000(first, second) - color.deltaE_ciede2000(first, second)).max() < 1e-6


@pytest.mark.parametrize("tiny", [1e-8, 1e-40, 1e-160, 5e-324])
def test_colours_that_are_all_but_grey_are_no_trouble(tiny: float) -> None:
    for first, second in (((50, tiny, 0), (50, -tiny, 0)), ((50, tiny, tiny), (50, tiny, -tiny))):
        assert 0.0 <= ciede2000(first, second) <= 4 * tiny
    assert ciede2000((50, tiny, 0), (60, 0, 0)) == pytest.approx(float(ciede2000((50, 0, 0), (60, 0, 0))), abs=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("red", "lab1 must be an array of numbers, got 'red'"),
        (None, r"lab1 must be an array whose shape ends in 3, for L, a and b, got \(\)"),
        (50.0, r"lab1 must be an array whose shape ends in 3, for L, a and b, got \(\)"),
        ([50.0, 1.0], r"lab1 must be an array whose shape ends in 3, for L, a and b, got \(2,\)"),
        ([[50.0, 1.0, 2.0], [50.0]], "lab1 must be an array of numbers, got"),
        ([50.0, np.nan, 0.0], "lab1 must be an array of finite numbers, L from 0 to 100, a and b about ±128, got nan"),
        (
            [50.0, 0.0, -np.inf],
            "lab1 must be an array of finite numbers, L from 0 to 100, a and b about ±128, got -inf",
        ),
        ([1e7, 0.0, 0.0], "lab1 must be an array of finite numbers, L from 0 to 100, a and b about ±128, got 10000000"),
    ],
)
def test_what_are_no_colours_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ciede2000(value, [50.0, 0.0, 0.0])
    with pytest.raises(InvalidArgumentError, match=message.replace("lab1", "lab2")):
        ciede2000([50.0, 0.0, 0.0], value)


def test_shapes_that_do_not_fit_are_refused_with_both() -> None:
    message = r"lab2 must be an array whose shape can be broadcast with \(4, 3\), got \(5, 3\)"
    with pytest.raises(InvalidArgumentError, match=message):
        ciede2000(np.zeros((4, 3)), np.zeros((5, 3)))


# --- Lab ------------------------------------------------------------------------------------------------------------


def colour_cube(step: int) -> Image:
    levels = np.append(np.arange(0, 255, step), 255).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return cube.reshape(len(levels), -1, 3)


def test_lab_of_the_whole_gamut_is_that_of_scikit_image() -> None:
    cube = colour_cube(9)
    lab = bgr_to_lab(cube)
    assert lab.dtype == np.float64
    assert lab.shape == cube.shape
    # scikit-image rounds the constants of the toe to four digits, which is what 2e-4 allows for
    assert np.abs(lab - color.rgb2lab(cube[..., ::-1])).max() < 2e-4


def test_white_is_light_black_is_dark_and_greys_have_no_colour() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    lab = bgr_to_lab(greys)[0]
    assert lab[0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert lab[255, 0] == pytest.approx(100.0, abs=1e-12)
    assert np.abs(lab[:, 1:]).max() < 0.01  # the published white is rounded
    assert (np.diff(lab[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("bgr", "lab"),
    [
        ((0, 0, 255), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((255, 0, 0), (32.30, 79.19, -107.86)),
    ],
)
def test_the_primaries_of_srgb_have_the_lab_that_is_known_of_them(bgr: Any, lab: Any) -> None:
    assert bgr_to_lab(plain(*bgr))[3, 4] == pytest.approx(lab, abs=0.02)


def test_lab_is_made_of_pictures_only() -> None:
    with pytest.raises(InvalidArgumentError, match="image must be a uint8 array"):
        bgr_to_lab(np.zeros((2, 2, 3)))  # type: ignore[arg-type]


# --- maps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "bound"),
    [
        (natural(1, 200, 300), natural(2, 200, 300), 1e-4),
        (noise(1, 200, 300), noise(2, 200, 300), 1e-3),  # nearly opposite hues, where single bits turn the mean hue
        (natural(3), np.clip(natural(3).astype(int) + 2, 0, 255).astype(np.uint8), 1e-4),
        (plain(0, 0, 0), plain(255, 255, 255), 1e-4),
        (
            np.zeros((256, 256, 3), np.uint8),
            np.mgrid[0:256, 0:256].sum(0)[..., None].repeat(3, 2).astype(np.uint8),
            1e-4,
        ),
    ],
)
def test_each_pixel_of_the_map_is_the_difference_of_exact_lab(first: Image, second: Image, bound: float) -> None:
    exact = ciede2000(bgr_to_lab(first), bgr_to_lab(second))
    result = color_difference_map(first, second)
    assert result.dtype == np.float32
    assert result.shape == first.shape[:2]
    assert np.abs(result - exact).max() < bound
    assert color_difference(first, second) == pytest.approx(float(exact.mean()), abs=1e-5)


@pytest.mark.slow
@given(PAIRS)
def test_the_map_is_symmetric_and_its_mean_is_the_difference(pair: tuple[Image, Image]) -> None:
    result = color_difference_map(*pair)
    assert (result >= 0).all()
    assert np.array_equal(color_difference_map(*reversed(pair)), result)
    assert color_difference(*pair) == pytest.approx(result.mean(dtype=np.float64), abs=1e-6)


@settings(max_examples=20)
@given(PAIRS, st.sampled_from([1, 7, 30]))
def test_a_picture_taken_in_bands_gives_the_same_bits_as_whole(pair: tuple[Image, Image], band: int) -> None:
    whole = color_difference(*pair), color_difference_map(*pair).tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_e, "_BAND_PIXELS", band)
        assert (color_difference(*pair), color_difference_map(*pair).tobytes()) == whole


@pytest.mark.parametrize(("height", "width"), [(1500, 70), (3, 40_000)])
def test_pictures_taller_and_wider_than_a_band_give_the_same_bits(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = noise(1, height, width), noise(2, height, width)
    assert first[..., 0].size > delta_e._BAND_PIXELS
    in_bands = color_difference(first, second), color_difference_map(first, second).tobytes()
    monkeypatch.setattr(delta_e, "_BAND_PIXELS", first.size)
    assert (color_difference(first, second), color_difference_map(first, second).tobytes()) == in_bands


# --- the metric -----------------------------------------------------------------------------------------------------


def test_a_hundredth_of_similarity_is_one_unit_of_difference() -> None:
    first, second = natural(1), natural(2)
    assert ColorDifference()(first, second) == 1.0 - color_difference(first, second) / 100


def test_colours_more_than_100_apart_count_as_100_apart() -> None:
    blue, yellow = plain(255, 0, 0), plain(0, 255, 255)
    assert color_difference(blue, yellow) > 100
    assert ColorDifference()(blue, yellow) == 0.0


def test_one_level_of_grey_counts_for_little_and_a_turned_picture_for_much() -> None:
    flat = plain(120, 120, 120)
    assert ColorDifference()(flat, flat + np.uint8(1)) > 0.995
    assert ColorDifference()(natural(4), natural(4)[::-1, ::-1]) < 0.9


def test_a_picture_is_scored_in_little_memory_besides_what_is_kept_of_the_truth() -> None:
    truth, output = natural(1, 1000, 700), natural(2, 1000, 700)
    score = ColorDifference().prepare(truth)
    tracemalloc.start()
    score(output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ColorDifference().working_memory(0)
