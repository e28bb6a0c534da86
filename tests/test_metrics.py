from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metric_support import PAIRS, PICTURES, natural, noise, plain
from tsm_training.arrays import Image
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError
from tsm_training.measures import histograms
from tsm_training.metrics import (
    PreparableMetric,
    color_difference_map,
    guide_similarity,
    histogram_correlation,
    histogram_distance,
    lab_histograms,
    mean_squared_error,
    prepare_metric,
    psnr,
    structural_similarity,
)


def by_the_guide(img1: Image, img2: Image) -> float:
    """The guide's own words, with OpenCV and floats."""
    lab1, lab2 = (cv2.cvtColor(image, cv2.COLOR_BGR2LAB) for image in (img1, img2))
    mse = np.mean((lab1.astype(np.float64) - lab2.astype(np.float64)) ** 2)
    correlations = []
    for channel in range(3):
        first, second = (cv2.calcHist([lab], [channel], None, [256], [0, 256]) for lab in (lab1, lab2))
        correlations.append(max(0.0, cv2.compareHist(first, second, cv2.HISTCMP_CORREL)))
    return float(np.clip(0.6 * (1.0 - mse / 255.0**2) + 0.4 * np.mean(correlations), 0.0, 1.0))


# --- the scale ------------------------------------------------------------------------------------------------------


@given(PAIRS)
def test_the_similarity_is_the_guides_formula(pair: tuple[Image, Image]) -> None:
    assert guide_similarity(*pair) == pytest.approx(by_the_guide(*pair), abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [noise, natural])
def test_the_similarity_is_the_guides_formula_on_larger_pictures(make: Callable[..., Image], seed: int) -> None:
    first, second = make(seed), make(seed + 100)
    shifted = np.roll(first, 3, axis=1) // 2 + 40
    for other in (second, shifted, first[::-1]):
        assert guide_similarity(first, other) == pytest.approx(by_the_guide(first, other), abs=1e-8)


@given(PAIRS)
def test_a_distorted_copy_never_beats_the_original(pair: tuple[Image, Image]) -> None:
    original, distortion = pair
    distorted = (original.astype(np.uint16) * 7 // 8 + distortion // 8).astype(np.uint8)
    assert guide_similarity(distorted, original) <= guide_similarity(original, original)


# --- the same value, however it is computed -------------------------------------------------------------------------


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        "picture.png",
        [[[0, 0, 0]]],
        plain(0, 0, 0)[:, :, 0],
        plain(0, 0, 0)[:, :, :2],
        plain(0, 0, 0)[:0],
        plain(0, 0, 0)[None],
        np.zeros((8, 12, 4), np.uint8),
        *(plain(0, 0, 0).astype(kind) for kind in (bool, np.int8, np.uint16, np.int32, np.float32, np.float64, object)),
    ],
)
def test_what_is_no_picture_is_refused_by_name(value: Any) -> None:
    for name, pictures in (("img1", (value, plain(0, 0, 0))), ("img2", (plain(0, 0, 0), value))):
        for compare in (guide_similarity, structural_similarity, psnr, histogram_distance, color_difference_map):
            with pytest.raises(InvalidArgumentError) as caught:
                compare(*pictures)
            assert caught.value.argument == name


def test_pictures_of_different_size_are_refused() -> None:
    for compare in (structural_similarity, psnr, histogram_distance, color_difference_map, mean_squared_error):
        with pytest.raises(ImageSizeMismatchError):
            compare(plain(0, 0, 0), plain(0, 0, 0, height=9))


# --- protocols ------------------------------------------------------------------------------------------------------


def test_a_plain_function_is_a_metric_called_with_output_and_truth() -> None:
    seen: list[tuple[Image, Image]] = []

    def own(output: Image, ground_truth: Image) -> float:
        seen.append((output, ground_truth))
        return 0.25

    output, truth = plain(1, 1, 1), plain(2, 2, 2)
    assert not isinstance(own, PreparableMetric)
    assert prepare_metric(own, truth)(output) == 0.25
    assert seen[0][0] is output
    assert seen[0][1] is truth


# --- parts ----------------------------------------------------------------------------------------------------------


@given(PAIRS)
def test_the_mean_squared_error_is_exact(pair: tuple[Image, Image]) -> None:
    first, second = pair
    total = int(((first.astype(np.int64) - second.astype(np.int64)) ** 2).sum())
    assert mean_squared_error(first, second) == total / first.size


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1000, 1001), (3000, 2001)])
def test_the_mean_squared_error_of_many_pixels_is_exact(height: int, width: int) -> None:
    first, second = noise(1, height, width), noise(2, height, width)
    total = sum(int(((a.astype(np.int64) - b) ** 2).sum()) for a, b in zip(first, second, strict=True))
    assert mean_squared_error(first, second) == total / first.size
    assert mean_squared_error(np.zeros_like(first), np.full_like(first, 255)) == 255**2


def test_the_mean_squared_error_takes_any_shape() -> None:
    assert mean_squared_error(np.array([[0, 250]], np.uint8), np.array([[2, 251]], np.uint8)) == 2.5


@given(PICTURES, st.sampled_from([1, 2, 5, 2**20]))
def test_the_histograms_count_every_pixel_of_each_channel(picture: Image, band: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "BAND_PIXELS", band)
        counts = lab_histograms(picture)
    assert counts.dtype == np.int64
    assert counts.tolist() == [np.bincount(picture[..., c].ravel(), minlength=256).tolist() for c in range(3)]


def test_large_counts_are_exact_beyond_what_a_float32_can_count() -> None:
    picture = np.broadcast_to(np.array([1, 2, 3], np.uint8), (4097, 4097, 3))
    counts = lab_histograms(picture)
    assert [int(counts[channel, channel + 1]) for channel in range(3)] == [4097**2] * 3
    assert int(counts.sum()) == 3 * 4097**2
    assert 4097**2 % 2 == 1
    assert 4097**2 > 2**24  # an odd number that float32 does not have


@given(PAIRS, st.sampled_from([1, 2, 5]))
def test_pictures_compared_in_bands_score_as_they_do_whole(pair: tuple[Image, Image], band: int) -> None:
    whole = guide_similarity(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histograms, "BAND_PIXELS", band)
        assert guide_similarity(*pair) == whole


def counts(*values: int) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("first", "second", "correlation"),
    [
        (counts(1, 2, 3), counts(1, 2, 3), 1.0),
        (counts(1, 2, 3), counts(2, 4, 6), 1.0),
        (counts(1, 2, 3), counts(3, 2, 1), -1.0),
        (counts(5, 5, 5), counts(5, 5, 5), 1.0),  # even, and equal
        (counts(5, 5, 5), counts(4, 4, 4), 0.0),  # even, and not equal
        (counts(5, 5, 5), counts(1, 2, 3), 0.0),
        (counts(1, 2, 3), counts(5, 5, 5), 0.0),
        (counts(9, 0, 0, 0), counts(0, 0, 9, 0), -1 / 3),
        # whole numbers that differ by one part in 10**9 are told apart
        (counts(10**9, 0, 0, 0), counts(10**9, 1, 0, 0), 1.0 - 0.5 * (2 / 3 / 10**9) ** 2),
    ],
)
def test_the_correlation_of_histograms_and_its_edges(first: Any, second: Any, correlation: float) -> None:
    assert histogram_correlation(first, second) == pytest.approx(correlation, abs=1e-15)
    assert histogram_correlation(second, first) == histogram_correlation(first, second)


@given(hnp.arrays(np.int64, (2, 16), elements=st.integers(0, 2**20)))
def test_the_correlation_is_the_one_of_opencv_where_that_is_defined(pair: Any) -> None:
    first, second = pair
    ours = histogram_correlation(first, second)
    assert -1.0 <= ours <= 1.0
    if first.std() > 0 and second.std() > 0:
        theirs = cv2.compareHist(first.astype(np.float32), second.astype(np.float32), cv2.HISTCMP_CORREL)
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_the_correlation_is_exact_where_floats_would_overflow_or_cancel() -> None:
    huge = 3_000_000_000  # a picture of three thousand million pixels in one bin
    first, second = np.zeros(256, np.int64), np.zeros(256, np.int64)
    first[0], second[1] = huge, huge
    assert histogram_correlation(first, second) == pytest.approx(-1 / 255, abs=1e-15)
    assert histogram_correlation(first, first // 3) == 1.0
