"""SSIM, against scikit-image and, for small pictures, against its definition; and PSNR and the histogram distance."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics as oracle

from metric_support import PAIRS, natural, noise, plain
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError
from tsm_training.measures import histograms, structure
from tsm_training.metrics import (
    HistogramDistance,
    PeakSignalToNoise,
    StructuralSimilarity,
    histogram_distance,
    psnr,
    structural_similarity,
)

LUMA, BGR = StructuralSimilarity(), StructuralSimilarity("bgr")


def grained(picture: Image, level: float, seed: int = 0) -> Image:
    grain = np.random.default_rng(seed).normal(0.0, level, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


LARGE_PAIRS = {
    "noise": (noise(1, 50, 70), noise(2, 50, 70)),
    "photographs": (natural(1), natural(2)),
    "grain": (natural(3), grained(natural(3), 12)),
    "blur": (natural(4), np.asarray(cv2.GaussianBlur(natural(4), (0, 0), 2), np.uint8)),
    "brighter": (natural(5), cv2.add(natural(5), (40.0, 40.0, 40.0, 0.0))),
    "turned": (natural(6), natural(6)[::-1, ::-1]),
    "just a window": (noise(3, 11, 11), noise(4, 11, 11)),
    "a narrow one": (noise(5, 200, 11), noise(6, 200, 11)),
    "black and white": (plain(0, 0, 0, height=20), plain(255, 255, 255, height=20)),
    "larger than a tile": (natural(7, 300, 530), natural(8, 300, 530)),
}


# --- SSIM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE_PAIRS)
def test_scikit_image_finds_the_same_structure_in_grey(name: str) -> None:
    grey1, grey2 = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY) for image in LARGE_PAIRS[name])
    expected = oracle.structural_similarity(
        grey1, grey2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert structural_similarity(*LARGE_PAIRS[name]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LARGE_PAIRS)
def test_scikit_image_finds_the_same_structure_in_all_channels(name: str) -> None:
    first, second = LARGE_PAIRS[name]
    expected = oracle.structural_similarity(
        first, second, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert structural_similarity(first, second, channels="bgr") == pytest.approx(expected, abs=1e-9)


def by_definition(first: Image, second: Image) -> float:
    """SSIM in grey, window by window, the window being the largest odd one of at most 11 that fits."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float64) for image in (first, second))
    sides = [max(n for n in range(1, 12, 2) if n <= side) for side in x.shape]
    down, right = (np.exp(-((np.arange(n) - n // 2) ** 2) / 4.5) for n in sides)
    weights = np.outer(down, right) / np.outer(down, right).sum()
    values = []
    for top, left in itertools.product(*(range(side - n + 1) for side, n in zip(x.shape, sides, strict=True))):
        p, q = (plane[top : top + sides[0], left : left + sides[1]] for plane in (x, y))
        m, n = (weights * p).sum(), (weights * q).sum()
        spread = (weights * ((p - m) ** 2 + (q - n) ** 2)).sum()
        common = (weights * (p - m) * (q - n)).sum()
        c1, c2 = 2.55**2, 7.65**2
        values.append((2 * m * n + c1) * (2 * common + c2) / ((m**2 + n**2 + c1) * (spread + c2)))
    return float(np.mean(values))


@given(PAIRS)
def test_small_pictures_are_seen_through_the_largest_odd_window_that_fits(pair: tuple[Image, Image]) -> None:
    assert structural_similarity(*pair) == pytest.approx(by_definition(*pair), abs=1e-8)


def test_of_a_single_pixel_only_its_light_is_compared() -> None:
    expected = (2 * 100 * 50 + 2.55**2) / (100**2 + 50**2 + 2.55**2)
    grey, dark = plain(100, 100, 100, height=1, width=1), plain(50, 50, 50, height=1, width=1)
    assert structural_similarity(grey, dark) == pytest.approx(expected, abs=1e-9)


@given(PAIRS, st.sampled_from(["luma", "bgr"]))
def test_structure_is_symmetric_to_the_last_bit(pair: tuple[Image, Image], channels: Literal["luma", "bgr"]) -> None:
    value = structural_similarity(*pair, channels=channels)
    assert type(value) is float
    assert -1.0 <= value <= 1.0
    assert structural_similarity(*reversed(pair), channels=channels) == value


@settings(max_examples=20)
@given(PAIRS, st.sampled_from([1, 3, 7]))
def test_tiles_of_any_size_give_the_same_bits(pair: tuple[Image, Image], side: int) -> None:
    whole = structural_similarity(*pair, channels="bgr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "_TILE", side)
        assert structural_similarity(*pair, channels="bgr") == whole


@pytest.mark.parametrize(("height", "width"), [(700, 60), (40, 1100)])
def test_pictures_taller_and_wider_than_a_tile_give_the_same_bits(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = natural(1, height, width), natural(2, height, width)
    in_tiles = structural_similarity(first, second)
    monkeypatch.setattr(structure, "_TILE", max(height, width))
    assert structural_similarity(first, second) == in_tiles


def test_a_negative_has_negative_structure_and_no_similarity() -> None:
    stripes = np.tile(np.array([90, 160], np.uint8).repeat(3).reshape(1, 2, 3), (20, 10, 1))
    assert structural_similarity(stripes, 250 - stripes) < -0.8
    assert LUMA(stripes, 250 - stripes) == LUMA.prepare(stripes)(250 - stripes) == 0.0


def test_grey_does_not_see_a_change_of_hue_and_the_channels_do() -> None:
    # the same 8-bit grey, 97, in red and in blue
    red, blue = plain(0, 90, 148, height=20), plain(148, 108, 57, height=20)
    grey1, grey2 = (int(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[0, 0]) for image in (red, blue))
    assert grey1 == grey2
    assert LUMA(red, blue) == 1.0
    assert BGR(red, blue) < 0.8


def test_structure_is_lost_by_blur_noise_and_turning() -> None:
    original = natural(9)
    for distort in (
        lambda level: cv2.GaussianBlur(original, (0, 0), level),
        lambda level: grained(original, 8 * level),
    ):
        values = [LUMA(np.asarray(distort(level), np.uint8), original) for level in (0.6, 1.2, 2.4, 4.8)]
        assert [1.0, *values] == sorted({1.0, *values}, reverse=True)
    assert LUMA(original[::-1, ::-1], original) < 0.6
    assert LUMA(cv2.add(original, (10.0, 10.0, 10.0, 0.0)), original) > 0.97


def test_other_channels_are_refused_by_name() -> None:
    message = "channels must be 'luma' or 'bgr', got 'lab'"
    with pytest.raises(InvalidArgumentError, match=message):
        structural_similarity(plain(0, 0, 0), plain(0, 0, 0), channels="lab")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=message):
        StructuralSimilarity("lab")  # type: ignore[arg-type]


def test_the_memory_for_tiles_does_not_grow_with_the_picture() -> None:
    truth, output = natural(1, 600, 900), natural(2, 600, 900)
    score = BGR.prepare(truth)
    tracemalloc.start()
    score(output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 600 * 900 + BGR.working_memory(0)


# --- PSNR -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE_PAIRS)
def test_scikit_image_finds_the_same_ratio(name: str) -> None:
    expected = oracle.peak_signal_noise_ratio(*LARGE_PAIRS[name], data_range=255)
    assert psnr(*LARGE_PAIRS[name]) == pytest.approx(expected, abs=1e-9)


def test_equal_pictures_have_an_infinite_ratio_and_score_one() -> None:
    assert psnr(noise(1), noise(1)) == math.inf
    assert PeakSignalToNoise()(noise(1), noise(1)) == PeakSignalToNoise().prepare(noise(1))(noise(1)) == 1.0


def test_black_and_white_have_a_ratio_of_zero() -> None:
    assert psnr(plain(0, 0, 0), plain(255, 255, 255)) == 0.0


def test_a_hundredth_is_six_tenths_of_a_decibel_and_60_decibels_are_enough() -> None:
    first, second = noise(1), noise(2)
    assert PeakSignalToNoise()(first, second) == psnr(first, second) / 60
    almost = plain(9, 9, 9, height=200, width=200)
    almost[0, 0, 0] = 10
    assert psnr(almost, plain(9, 9, 9, height=200, width=200)) > 60
    assert PeakSignalToNoise()(almost, plain(9, 9, 9, height=200, width=200)) == 1.0


# --- the histogram distance -----------------------------------------------------------------------------------------


def by_moving(first: Image, second: Image) -> float:
    """In one dimension the earth mover's plan of least cost pairs sorted values, here in 8-bit Lab."""
    lab1, lab2 = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2LAB) for image in (first, second))
    sorted1, sorted2 = (np.sort(lab.reshape(-1, 3).astype(np.float64), axis=0) for lab in (lab1, lab2))
    return float(np.linalg.norm(np.abs(sorted1 - sorted2).mean(axis=0) * [100 / 255, 1, 1]))


@given(PAIRS)
def test_the_distance_is_that_of_sorted_values_and_symmetric(pair: tuple[Image, Image]) -> None:
    distance = histogram_distance(*pair)
    assert type(distance) is float
    assert distance == pytest.approx(by_moving(*pair), abs=1e-9)
    assert histogram_distance(*reversed(pair)) == distance


@given(PAIRS)
def test_no_pairing_of_pixels_comes_nearer_than_the_distance(pair: tuple[Image, Image]) -> None:
    first, second = (cv2.cvtColor(image, cv2.COLOR_BGR2LAB).reshape(-1, 3) * [100 / 255, 1, 1] for image in pair)
    for order in (np.arange(len(first)), np.argsort(first[:, 0]), np.argsort(first[:, 2])):
        assert histogram_distance(*pair) <= np.linalg.norm(first[order] - second, axis=1).mean() + 1e-9


def test_black_and_white_are_100_apart_and_wherever_colours_are_does_not_matter() -> None:
    assert histogram_distance(plain(0, 0, 0), plain(255, 255, 255)) == 100.0
    assert histogram_distance(natural(1), natural(1)[::-1, ::-1]) == 0.0


def test_a_hundredth_is_one_unit_of_lab_and_more_than_100_counts_as_100() -> None:
    first, second = natural(1), natural(2)
    assert HistogramDistance()(first, second) == 1.0 - histogram_distance(first, second) / 100
    assert histogram_distance(plain(255, 0, 0), plain(0, 255, 0)) > 200
    assert HistogramDistance()(plain(255, 0, 0), plain(0, 255, 0)) == 0.0


def test_a_shift_of_narrow_histograms_costs_as_much_as_it_is_wide() -> None:
    flat = plain(120, 120, 120)
    distances = [histogram_distance(flat, flat + np.uint8(levels)) for levels in (0, 1, 2, 4, 8, 16)]
    assert distances == sorted(set(distances))
    assert distances[1] < 1.0  # where the guide's correlation drops from 1 to 0


@settings(max_examples=20)
@given(PAIRS, st.sampled_from([1, 2, 5]))
def test_histograms_counted_in_bands_are_as_far_apart(pair: tuple[Image, Image], band: int) -> None:
    whole = histogram_distance(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "BAND_PIXELS", band)
        assert histogram_distance(*pair) == whole


# --- what is refused ------------------------------------------------------------------------------------------------
