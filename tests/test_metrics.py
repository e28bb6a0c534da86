from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metric_support import PAIRS, PICTURES, natural, noise, opencv_threads, plain
from tsm_training.arrays import Image
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError
from tsm_training.measures import histograms
from tsm_training.metrics import (
    GuideSimilarity,
    Metric,
    PreparableMetric,
    guide_similarity,
    histogram_correlation,
    lab_histograms,
    mean_squared_error,
    prepare_metric,
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


@given(PICTURES)
def test_equal_pictures_score_exactly_one(picture: Image) -> None:
    assert guide_similarity(picture, picture.copy()) == 1.0


def test_black_against_white_scores_two_thirds() -> None:
    # Lightness is as far apart as can be; a and b are equal throughout.
    assert guide_similarity(plain(0, 0, 0), plain(255, 255, 255)) == pytest.approx(2 / 3, abs=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [
        # 1 − mse / 255² of their Lab values, and nothing from the histograms
        (plain(255, 0, 0), plain(0, 255, 255), by_the_guide(plain(255, 0, 0), plain(0, 255, 255))),
        (noise(1), noise(2), by_the_guide(noise(1), noise(2))),
        (natural(1), natural(2), by_the_guide(natural(1), natural(2))),
    ],
)
def test_different_pictures_score_clearly_less_than_one(first: Image, second: Image, score: float) -> None:
    assert 0.0 <= guide_similarity(first, second) < 0.99
    assert guide_similarity(first, second) == pytest.approx(score, abs=1e-8)


@given(PAIRS)
def test_the_similarity_is_symmetric_to_the_last_bit_and_between_zero_and_one(pair: tuple[Image, Image]) -> None:
    first, second = pair
    score = guide_similarity(first, second)
    assert type(score) is float
    assert 0.0 <= score <= 1.0
    assert guide_similarity(second, first) == score


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


def test_more_noise_scores_less() -> None:
    original, grain = natural(5), np.random.default_rng(6).normal(0.0, 1.0, (90, 120, 3))
    scores = [
        guide_similarity(np.clip(original + level * grain, 0, 255).astype(np.uint8), original)
        for level in (0, 4, 16, 64)
    ]
    assert scores == sorted(set(scores), reverse=True)


# --- the same value, however it is computed -------------------------------------------------------------------------


@given(PAIRS)
def test_a_prepared_truth_gives_the_same_bits_as_comparing_at_once(pair: tuple[Image, Image]) -> None:
    output, truth = pair
    metric = GuideSimilarity()
    prepared = prepare_metric(metric, truth)
    assert prepared(output) == prepared(output) == metric(output, truth) == guide_similarity(output, truth)


def test_the_number_of_opencv_threads_changes_no_bit() -> None:
    pairs = [(noise(1, 300, 500), noise(2, 300, 500)), (natural(3, 480, 640), natural(4, 480, 640))]
    scores = []
    for count in (0, 1, 4):
        with opencv_threads(count):
            scores.append([guide_similarity(*pair) for pair in pairs])
    assert scores[0] == scores[1] == scores[2]


def test_a_view_scores_like_its_copy_and_pictures_are_left_alone() -> None:
    whole, truth = noise(1, 80, 120), noise(2)
    view = whole[::2, ::-2]
    before = (whole.copy(), truth.copy())
    assert guide_similarity(view, truth) == guide_similarity(np.ascontiguousarray(view), truth)
    assert guide_similarity(truth, view) == guide_similarity(view, truth)
    assert np.array_equal(whole, before[0])
    assert np.array_equal(truth, before[1])
    whole.setflags(write=False)
    assert guide_similarity(whole, whole) == 1.0


# --- what is refused ------------------------------------------------------------------------------------------------


def test_pictures_of_different_size_are_refused_with_both_sizes() -> None:
    message = r"img1 and img2 must have the same size, got 12×8 and 12×9 \(width×height\)"
    first, second = plain(0, 0, 0), plain(0, 0, 0, height=9)
    for compare in (guide_similarity, GuideSimilarity(), mean_squared_error):
        with pytest.raises(ImageSizeMismatchError, match=message):
            compare(first, second)
    with pytest.raises(ImageSizeMismatchError, match=message):
        prepare_metric(GuideSimilarity(), second)(first)


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
    with pytest.raises(InvalidArgumentError, match="img1 must be a uint8 array"):
        guide_similarity(value, plain(0, 0, 0))
    with pytest.raises(InvalidArgumentError, match="img2 must be a uint8 array"):
        guide_similarity(plain(0, 0, 0), value)


# --- protocols ------------------------------------------------------------------------------------------------------


def test_the_similarity_is_a_metric_that_can_prepare_and_compares_by_value() -> None:
    assert isinstance(GuideSimilarity(), PreparableMetric)
    assert isinstance(GuideSimilarity(), Metric)
    assert GuideSimilarity() == GuideSimilarity()
    assert GuideSimilarity().version == "1"


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
