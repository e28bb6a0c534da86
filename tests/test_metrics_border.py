"""Borders, backgrounds and masks of one colour: what counts as padding, and metrics that leave it out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric_support import natural, noise, plain
from support import pool_of, save
from tsm_training import BayesianWeightLearner, FunctionWorker, InMemoryStore, TrainingEngine, TrainingManager
from tsm_training.arrays import Image
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError
from tsm_training.fingerprints import describe_object, describe_settings
from tsm_training.metrics import (
    ColorDifference,
    CombinedMetric,
    GuideSimilarity,
    HistogramDistance,
    PeakSignalToNoise,
    StructuralSimilarity,
    padding,
    prepare_metric,
    stated_memory,
)

BY_PIXELS: dict[str, Any] = {
    "guide": GuideSimilarity,
    "delta e": ColorDifference,
    "psnr": PeakSignalToNoise,
    "histograms": HistogramDistance,
}
METRICS: dict[str, Any] = {
    **BY_PIXELS,
    "ssim": StructuralSimilarity,
    "combined": lambda **settings: CombinedMetric([(2, ColorDifference()), (1, StructuralSimilarity())], **settings),
}
HEIGHT, WIDTH = 90, 120
BARS = slice(12, -15)


def letterboxed(image: Image, color: int = 0) -> Image:
    framed = np.full_like(image, color)
    framed[BARS] = image[BARS]
    return framed


def disc() -> Any:
    down, across = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return down**2 + across**2 < 0.6


TRUTH, OUTPUT = natural(1), np.clip(natural(1).astype(int) + 9, 0, 255).astype(np.uint8)
TRUTH = np.clip(TRUTH, 1, 254)  # neither black nor white by itself


# --- what padding is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [0, 37, 255])
def test_bars_and_frames_are_padding(color: int) -> None:
    wanted = np.ones((HEIGHT, WIDTH), bool)
    wanted[BARS] = False
    assert np.array_equal(padding(letterboxed(TRUTH, color)), wanted)
    assert np.array_equal(padding(letterboxed(TRUTH, color).transpose(1, 0, 2)), wanted.T)
    framed = np.full_like(TRUTH, color)
    framed[2:-2, 2:-2] = TRUTH[2:-2, 2:-2]
    assert padding(framed).sum() == HEIGHT * WIDTH - (HEIGHT - 4) * (WIDTH - 4)


def test_a_background_is_padding_with_what_shows_through_the_object() -> None:
    image = np.where(disc()[..., np.newaxis], TRUTH, np.uint8(255))
    image[40:50, 50:60] = 255
    wanted = ~disc()
    wanted[40:50, 50:60] = True
    assert np.array_equal(padding(image), wanted)


def test_a_colour_of_more_than_a_tenth_is_padding_wherever_it_is() -> None:
    for columns, is_padding in ((12, False), (13, True)):
        image = TRUTH.copy()
        image[:, 30 : 30 + columns] = 3, 4, 5
        image[[0, -1]] = TRUTH[[0, -1]]  # it touches no edge
        assert padding(image).any() == is_padding
        if is_padding:
            assert np.array_equal(padding(image), (image == (3, 4, 5)).all(axis=2))


def test_a_border_of_less_than_a_hundredth_is_none_and_shadows_that_touch_no_bar_are_no_border() -> None:
    image = TRUTH.copy()
    image[0, :100] = 0
    assert not padding(image).any()
    image = letterboxed(TRUTH)[10:-12]  # less than a tenth of bars
    image[40:45, 40:45] = 0
    expected = np.ones(image.shape[:2], bool)
    expected[2:-3] = False
    assert np.array_equal(padding(image), expected)


@pytest.mark.parametrize("image", [noise(1), plain(9, 9, 9), plain(0, 0, 0, height=1, width=1)])
def test_noise_and_pictures_of_one_colour_have_no_padding(image: Image) -> None:
    assert not padding(image).any()


def test_the_commonest_colour_of_a_large_picture_is_found_from_some_of_its_pixels() -> None:
    image = np.tile(natural(2), (8, 8, 1))
    image[100:500, 100:500] = 7, 8, 9
    assert padding(image).sum() >= 400 * 400


# --- metrics that leave it out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_without_its_bars_a_picture_is_judged_like_one_that_was_cut_out(name: str) -> None:
    metric, plain_metric = METRICS[name](ignore_border=True), METRICS[name]()
    score = metric(OUTPUT, letterboxed(TRUTH))  # what an output has there does not matter
    assert score == plain_metric(np.ascontiguousarray(OUTPUT[BARS]), np.ascontiguousarray(TRUTH[BARS]))
    assert score == metric(letterboxed(OUTPUT, 99), letterboxed(TRUTH))
    assert score != plain_metric(OUTPUT, letterboxed(TRUTH))
    assert metric(letterboxed(TRUTH, 50), letterboxed(TRUTH)) == 1.0


@pytest.mark.parametrize("name", BY_PIXELS)
def test_a_background_of_any_shape_is_left_out_pixel_by_pixel(name: str) -> None:
    metric, inside = METRICS[name](ignore_border=True), disc()
    truth = np.where(inside[..., np.newaxis], TRUTH, np.uint8(255))
    assert metric(OUTPUT, truth) == METRICS[name]()(OUTPUT[inside][np.newaxis], TRUTH[inside][np.newaxis])


@pytest.mark.parametrize("name", ["ssim", "combined"])
def test_who_looks_around_each_pixel_judges_the_smallest_rectangle(name: str) -> None:
    truth = np.full_like(TRUTH, 255)
    truth[20:50, 30:70] = TRUTH[20:50, 30:70]
    truth[20:30, 30:40] = 255
    part = np.s_[20:50, 30:70]
    expected = METRICS[name]()(np.ascontiguousarray(OUTPUT[part]), np.ascontiguousarray(truth[part]))
    assert METRICS[name](ignore_border=True)(OUTPUT, truth) == expected


@pytest.mark.parametrize("name", METRICS)
def test_a_picture_without_padding_scores_as_ever(name: str) -> None:
    metric = METRICS[name](ignore_border=True)
    for truth in (TRUTH, plain(8, 8, 8, height=HEIGHT, width=WIDTH)):
        assert metric(OUTPUT, truth) == METRICS[name]()(OUTPUT, truth)


@given(seed=st.integers(0, 99), rows=st.integers(0, 9), columns=st.integers(0, 9), color=st.sampled_from([0, 200, 255]))
def test_a_prepared_truth_gives_the_bits_of_comparing_at_once(seed: int, rows: int, columns: int, color: int) -> None:
    truth = np.full((24, 30, 3), color, np.uint8)
    inner = np.s_[rows : 24 - rows, columns : 30 - columns]
    truth[inner] = noise(seed, 24, 30)[inner]
    output = noise(seed + 1, 24, 30)
    for make in METRICS.values():
        metric = make(ignore_border=True)
        score = prepare_metric(metric, truth)(output)
        assert score == metric(output, truth) == pickle.loads(pickle.dumps(metric))(output, truth)
        assert 0.0 <= score <= 1.0


@pytest.mark.parametrize("name", METRICS)
def test_leaving_padding_out_is_a_setting_of_its_own(name: str) -> None:
    with_it, without = METRICS[name](ignore_border=True), METRICS[name]()
    assert with_it != without
    assert with_it == METRICS[name](ignore_border=True)
    assert describe_object(with_it) != describe_object(without)
    assert describe_settings(with_it) != describe_settings(without)
    assert (stated_memory(with_it, 1000) or 0) - (stated_memory(without, 1000) or 0) == 4000
    with pytest.raises(ImageSizeMismatchError):
        with_it(OUTPUT[1:], letterboxed(TRUTH))


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="ignore_border must be True or False"):
        GuideSimilarity(ignore_border=value)


# --- what they are for ------------------------------------------------------------------------------------------------


def trained_on_letterboxes(folder: Path, metric: Any) -> dict[str, float]:
    """Return the scores of a worker that is nearly right but changes the bars, and of the untouched target."""
    nearly = FunctionWorker("nearly", lambda s, t: np.clip(t.astype(int) + 22, 0, 255).astype(np.uint8), version="1")
    same = FunctionWorker("same", lambda s, t: t, version="1")
    engine_factory = TrainingEngine.using(metric)
    with TrainingManager(
        pool_of(nearly, same), BayesianWeightLearner(), storage=InMemoryStore(), engine_factory=engine_factory
    ) as manager:
        for seed in range(3):
            target = letterboxed(np.clip(natural(seed), 1, 220))
            truth = letterboxed(np.clip(natural(seed).astype(int) + 20, 1, 240).astype(np.uint8))
            paths = [save(folder / f"{role}{seed}.png", each) for role, each in (("t", target), ("g", truth))]
            manager.add_training_example(paths[0], *paths)
        report = manager.validate()
        scores = {name: each["mean"] or 0.0 for name, each in report["worker_accuracies"].items()}
        delta_e = report["contenders"]["untouched"]["mean_delta_e"]
    return {**scores, "delta e": delta_e or 0.0}


def test_with_a_border_the_default_judge_prefers_no_change_and_the_other_the_better_picture(tmp_path: Path) -> None:
    default = trained_on_letterboxes(tmp_path, GuideSimilarity())
    assert default["same"] > default["nearly"]
    other = trained_on_letterboxes(tmp_path, GuideSimilarity(ignore_border=True))
    assert other["nearly"] > other["same"] + 0.01


def test_delta_e_of_reports_is_that_of_the_whole_picture_whatever_the_metric_leaves_out(tmp_path: Path) -> None:
    reported = [
        trained_on_letterboxes(tmp_path, ColorDifference(ignore_border=flag))["delta e"] for flag in (False, True)
    ]
    assert reported[0] == pytest.approx(reported[1])
    assert reported[0] > 0
