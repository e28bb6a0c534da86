"""What holds of every metric of the kit, and any of them, or anybody's own, as the engine's judge."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from metric_support import METRICS, PAIRS, natural, noise, opencv_threads, plain
from support import manager_with, usual_pool
from tsm_training import InMemoryStore, ThreadRunner, TrainingEngine, create_color_transfer_workers
from tsm_training import metrics as kit
from tsm_training.arrays import Image
from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.fingerprints import describe_object
from tsm_training.metrics import (
    ColorDifference,
    CombinedMetric,
    MetricThatStatesMemory,
    PreparableMetric,
    StructuralSimilarity,
    prepare_metric,
)

BLACK, WHITE = plain(0, 0, 0, height=20, width=30), plain(255, 255, 255, height=20, width=30)
ROWS, COLUMNS = np.mgrid[0:60, 0:80]
PATTERN = np.stack([3 * ROWS, (ROWS // 15 + COLUMNS // 20) % 2 * 60 + COLUMNS, 3 * COLUMNS], axis=-1).astype(np.uint8)
every_metric = pytest.mark.parametrize("name", METRICS)


# --- the scale ------------------------------------------------------------------------------------------------------

# For each metric: black against white, noise against noise, a pattern turned by 180°. A figure that changes means
# that stored scores are no longer good: give the metric a new version, and change the figure here.
SCALE = {
    "guide": (2 / 3, 0.885224, 0.966707),
    "color": (0.0, 0.553072, 0.581036),
    "ssim": (0.000100, 0.040293, 0.658061),
    "ssim of bgr": (0.000100, 0.000178, 0.330933),
    "psnr": (0.0, 0.128620, 0.130555),
    "histograms": (0.0, 0.977692, 1.0),
    "combined": (0.000033, 0.382146, 0.606711),
}


def test_every_metric_is_on_the_scale() -> None:
    assert set(SCALE) == set(METRICS)
    judges = {type(metric) for metric in METRICS.values()}
    assert judges == {thing for name, thing in vars(kit).items() if name in kit.__all__ and attrs.has(thing)}


@every_metric
def test_the_ends_and_the_middle_of_the_scale_are_where_version_1_has_them(name: str) -> None:
    judge = METRICS[name]
    seen = judge(BLACK, WHITE), judge(noise(1), noise(2)), judge(PATTERN[::-1, ::-1], PATTERN)
    assert judge.version == "1"  # type: ignore[attr-defined]
    assert seen == pytest.approx(SCALE[name], abs=2e-6)


@every_metric
@settings(max_examples=20)
@given(pair=PAIRS)
def test_similarities_are_symmetric_floats_from_zero_to_one_for_equal_pictures(
    name: str, pair: tuple[Image, Image]
) -> None:
    judge = METRICS[name]
    similarity = judge(*pair)
    assert type(similarity) is float
    assert 0.0 <= similarity <= 1.0
    assert judge(*reversed(pair)) == similarity
    assert judge(pair[0], pair[0].copy()) == 1.0


@every_metric
def test_the_more_grain_the_less_similar(name: str) -> None:
    original, grain = natural(5), np.random.default_rng(6).normal(0.0, 1.0, (90, 120, 3))
    similarities = [
        METRICS[name](np.clip(original + level * grain, 0, 255).astype(np.uint8), original) for level in (0, 4, 16, 64)
    ]
    assert similarities == sorted(set(similarities), reverse=True)


# --- one value, however it is computed ------------------------------------------------------------------------------


@every_metric
@settings(max_examples=20)
@given(pair=PAIRS)
def test_a_prepared_truth_gives_the_bits_of_comparing_at_once(name: str, pair: tuple[Image, Image]) -> None:
    output, truth = pair
    prepared = prepare_metric(METRICS[name], truth)
    assert prepared(output) == prepared(output) == METRICS[name](output, truth)


@every_metric
def test_views_score_like_copies_and_pictures_are_left_alone(name: str) -> None:
    whole, truth = noise(1, 80, 120), noise(2)
    view = whole[::2, ::-2]
    before = whole.copy(), truth.copy()
    whole.setflags(write=False)
    assert METRICS[name](view, truth) == METRICS[name](np.ascontiguousarray(view), truth)
    assert METRICS[name](truth, view) == METRICS[name].prepare(view)(truth) == METRICS[name](view, truth)
    assert np.array_equal(whole, before[0])
    assert np.array_equal(truth, before[1])


@every_metric
def test_threads_that_share_a_prepared_truth_get_the_same_bits(name: str) -> None:
    score, outputs = METRICS[name].prepare(natural(1)), [natural(seed) for seed in range(2, 18)]
    expected = [score(output) for output in outputs]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(score, outputs)) == expected


@every_metric
def test_no_number_of_opencv_threads_changes_a_bit(name: str) -> None:
    seen = []
    for count in (0, 1, 4):
        with opencv_threads(count):
            seen.append(METRICS[name](natural(1, 240, 320), natural(2, 240, 320)))
    assert seen[0] == seen[1] == seen[2]


# --- what a metric is -----------------------------------------------------------------------------------------------


@every_metric
def test_metrics_are_frozen_values_that_can_be_sent_elsewhere(name: str) -> None:
    judge = METRICS[name]
    assert isinstance(judge, PreparableMetric)
    sent = pickle.loads(pickle.dumps(judge))
    assert sent == judge
    assert hash(sent) == hash(judge)
    assert describe_object(sent) == describe_object(judge)
    assert sent(noise(1), noise(2)) == judge(noise(1), noise(2))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        judge.version = "2"  # type: ignore[attr-defined]


def test_every_metric_has_a_fingerprint_of_its_own() -> None:
    assert len({describe_object(judge) for judge in METRICS.values()}) == len(METRICS)


@every_metric
def test_what_is_no_picture_or_has_another_size_is_refused(name: str) -> None:
    judge = METRICS[name]
    message = r"img1 and img2 must have the same size, got 30×20 and 30×21 \(width×height\)"
    other = plain(0, 0, 0, height=21, width=30)
    with pytest.raises(ImageSizeMismatchError, match=message):
        judge(BLACK, other)
    with pytest.raises(ImageSizeMismatchError, match=message):
        judge.prepare(other)(BLACK)
    if name != "combined":  # each of its parts may be anybody's
        with pytest.raises(InvalidArgumentError, match="img1 must be a uint8 array"):
            judge(BLACK.astype(float), BLACK)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="img2 must be a uint8 array"):
            judge(BLACK, BLACK[..., 0])


@every_metric
def test_no_metric_takes_more_memory_than_it_states(name: str) -> None:
    judge, truth, output = METRICS[name], natural(1, 400, 600), natural(2, 400, 600)
    judge.prepare(truth)(output)  # what is made once and kept is nobody's picture
    assert isinstance(judge, MetricThatStatesMemory)
    tracemalloc.start()
    judge.prepare(truth)(output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= judge.working_memory(400 * 600)


# --- as the engine's similarity -------------------------------------------------------------------------------------


@every_metric
def test_any_metric_becomes_the_engines_similarity_in_one_line(name: str, tmp_path: Path) -> None:
    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(METRICS[name]))
    results = manager.train(verbose=False)
    assert manager.training_engine.judge.fingerprint == describe_object(METRICS[name])
    means = results["session"]["metrics_history"][-1]["worker_accuracies"]
    assert max(means, key=lambda worker: means[worker] or 0.0) == "near"


def test_another_metric_runs_the_workers_again_and_the_first_one_finds_its_scores(tmp_path: Path) -> None:
    calls: list[str] = []
    store, counts = InMemoryStore(), []
    metrics = ColorDifference(), StructuralSimilarity(), StructuralSimilarity("bgr"), ColorDifference()
    for number, metric in enumerate(metrics):
        manager = manager_with(
            tmp_path,
            examples=0 if number else 2,
            storage=store,
            pool=usual_pool(calls),
            engine_factory=TrainingEngine.using(metric),
        )
        manager.validate()
        counts.append(len(calls))
    assert counts == [6, 12, 18, 18]


def difference_hash(picture: Image) -> Any:
    """A small perceptual hash: where a tiny grey picture gets brighter from left to right."""
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return small[:, 1:] > small[:, :-1]


def hash_similarity(output: Image, ground_truth: Image) -> float:
    return float(np.mean(difference_hash(output) == difference_hash(ground_truth)))


def test_a_perceptual_hash_of_ones_own_is_a_metric(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(hash_similarity))
    assert manager.train(verbose=False)["validation"] is not None
    assert hash_similarity(natural(1), natural(1)) == 1.0
    assert hash_similarity(natural(1), natural(2)) < 0.8
    both = CombinedMetric([(1, hash_similarity), (1, ColorDifference())])
    expected = (hash_similarity(natural(1), natural(2)) + ColorDifference()(natural(1), natural(2))) / 2
    assert both(natural(1), natural(2)) == pytest.approx(expected, abs=1e-12)


class StandInForLpips:
    """Has the manners of a network: tensors in, a distance of 0 or more out."""

    def __init__(self, net: str) -> None:
        self.net = net

    def __call__(self, first: Any, second: Any) -> Any:
        return np.mean(np.abs(first - second), keepdims=True)


def test_a_network_of_ones_own_is_a_metric(tmp_path: Path) -> None:
    network = StandInForLpips(net="alex")

    def tensor(picture: Image) -> Any:
        return picture[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1

    def perceptual(output: Image, ground_truth: Image) -> float:
        return 1.0 - min(1.0, network(tensor(output), tensor(ground_truth)).item())

    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(perceptual))
    means = manager.train(verbose=False)["session"]["metrics_history"][-1]["worker_accuracies"]
    assert max(means, key=lambda worker: means[worker] or 0.0) == "near"
    print_with_alex = describe_object(perceptual)
    network.net = "vgg"
    assert describe_object(perceptual) != print_with_alex


# --- memory, as the engine counts it --------------------------------------------------------------------------------


def test_the_engine_believes_what_the_metrics_state() -> None:
    pixels = 24 * 10**6
    picture = PictureFile("0" * 64, 10**6, 6000, 4000)
    files = ExampleFiles(source=picture, target=picture, ground_truth=picture)
    workers = tuple(create_color_transfer_workers())
    color, both = ColorDifference(), CombinedMetric([(1, ColorDifference()), (1, StructuralSimilarity())])
    sizes = [bytes_to_evaluate(files, workers, metric, ThreadRunner()) for metric in (color, both)]
    assert sizes[1] - sizes[0] == both.working_memory(pixels) - color.working_memory(pixels)
