from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_support import PAIRS, natural, noise, plain
from support import manager_with
from tsm_training import TrainingEngine
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError, MetricError, MetricRangeError
from tsm_training.fingerprints import describe_object
from tsm_training.metrics import (
    ColorDifference,
    CombinedMetric,
    GuideSimilarity,
    HistogramDistance,
    Metric,
    PeakSignalToNoise,
    StructuralSimilarity,
    prepare_metric,
    similarity_or_none,
    stated_memory,
)

PARTS = [(0.5, ColorDifference()), (0.3, StructuralSimilarity()), (0.2, HistogramDistance())]


def closeness(output: Image, ground_truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(int) - ground_truth).mean()) / 255


def distance(output: Image, ground_truth: Image) -> float:
    return float(np.abs(output.astype(int) - ground_truth).mean())


@attrs.frozen
class Constant:
    """Gives what it is told to, and states whatever it is told to."""

    value: Any = 0.5
    stated: Any = 0
    version: str = "1"

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        value: float = self.value
        return value

    def working_memory(self, pixels: int, /) -> int:
        if isinstance(self.stated, Exception):
            raise self.stated
        return self.stated  # type: ignore[no-any-return]


# --- the value ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(PAIRS)
def test_a_combination_is_the_weighted_mean_of_its_parts(pair: tuple[Image, Image]) -> None:
    expected = sum(weight * metric(*pair) for weight, metric in PARTS)
    combined = CombinedMetric(PARTS)
    assert combined(*pair) == pytest.approx(expected, abs=1e-12)
    assert combined.prepare(pair[1])(pair[0]) == combined(*pair)
    assert combined(pair[0], pair[0]) == 1.0


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0, 1)), min_size=1, max_size=6), st.randoms())
def test_neither_the_order_of_the_parts_nor_the_sum_of_the_weights_matters(parts: Any, random: Any) -> None:
    picture = plain(1, 2, 3)
    value = CombinedMetric([(weight, Constant(each)) for weight, each in parts])(picture, picture)
    assert 0.0 <= value <= 1.0
    assert min(each for _, each in parts) - 1e-12 <= value <= max(each for _, each in parts) + 1e-12
    doubled = CombinedMetric([(2 * weight, Constant(each)) for weight, each in parts])
    assert doubled(picture, picture) == value
    random.shuffle(parts)
    assert CombinedMetric([(weight, Constant(each)) for weight, each in parts])(picture, picture) == value


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e308])
def test_weights_may_be_as_small_or_large_as_floats_are(weight: float) -> None:
    combined = CombinedMetric([(weight, Constant(0.25)), (weight, Constant(0.75))])
    assert combined(noise(1), noise(2)) == 0.5


def test_combinations_can_be_parts_of_combinations() -> None:
    inner = CombinedMetric([(1, StructuralSimilarity()), (3, PeakSignalToNoise())])
    outer = CombinedMetric([(1, GuideSimilarity()), (1, inner)])
    pair = natural(1), natural(2)
    expected = GuideSimilarity()(*pair) / 2 + StructuralSimilarity()(*pair) / 8 + PeakSignalToNoise()(*pair) * 3 / 8
    assert outer(*pair) == pytest.approx(expected, abs=1e-12)
    assert pickle.loads(pickle.dumps(outer))(*pair) == outer(*pair)


def test_functions_can_be_parts_and_come_first_or_last() -> None:
    pair = noise(1), noise(2)
    expected = (closeness(*pair) + ColorDifference()(*pair)) / 2
    for parts in ([(1, closeness), (1, ColorDifference())], [(1, ColorDifference()), (1, closeness)]):
        assert CombinedMetric(parts)(*pair) == pytest.approx(expected, abs=1e-12)


def test_each_part_prepares_a_truth_once() -> None:
    prepared: list[str] = []

    @attrs.frozen
    class Counting:
        name: str

        def __call__(self, output: Image, ground_truth: Image, /) -> float:
            return self.prepare(ground_truth)(output)

        def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
            prepared.append(self.name)
            return lambda output: 0.5

    score = prepare_metric(CombinedMetric([(1, Counting("a")), (2, Counting("b"))]), plain(0, 0, 0))
    assert [score(plain(level, 0, 0)) for level in range(5)] == [0.5] * 5
    assert prepared == ["a", "b"]


# --- what it is made of ---------------------------------------------------------------------------------------------


def test_parts_are_kept_as_pairs_of_a_number_and_a_metric() -> None:
    combined = CombinedMetric(iter([[np.float32(0.5), closeness], (2, ColorDifference())]))  # type: ignore[list-item]
    assert combined.parts == ((0.5, closeness), (2.0, ColorDifference()))
    assert [type(weight) for weight, _ in combined.parts] == [float, float]
    assert attrs.evolve(combined) == combined


@pytest.mark.parametrize(
    "value", [[], (), {}, None, 3, ColorDifference(), [ColorDifference()], [(1,)], [(1, closeness, 2)]]
)
def test_what_are_no_parts_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="parts must be pairs of a weight and a metric, at least one, got"):
        CombinedMetric(value)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, True, "1", None])
def test_weights_are_finite_numbers_above_zero(weight: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="the weight of a metric must be a finite number above 0, got"):
        CombinedMetric([(1, closeness), (weight, ColorDifference())])


def test_a_part_must_be_callable() -> None:
    message = r"a part of the metric must be a callable \(output, ground_truth\) -> similarity in \[0, 1\], got 'ssim'"
    with pytest.raises(InvalidArgumentError, match=message):
        CombinedMetric([(1, "ssim")])  # type: ignore[list-item]


# --- broken parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1.5, -0.1, math.nan, math.inf, None, "0.5", True, 55])
def test_a_part_outside_its_range_is_named_although_the_mean_would_be_inside(bad: Any) -> None:
    combined = CombinedMetric([(99, ColorDifference()), (1, Constant(bad))])
    with pytest.raises(
        MetricRangeError, match=r"^Constant returned .*; a similarity must be a finite number between 0"
    ):
        combined(noise(1), noise(2))


def test_a_broken_part_ends_the_training_by_name(tmp_path: Path) -> None:
    combined = CombinedMetric([(1, ColorDifference()), (1, distance)])
    manager = manager_with(tmp_path, examples=2, engine_factory=TrainingEngine.using(combined))
    with pytest.raises(
        MetricError, match=r"CombinedMetric, given the output .* raised MetricRangeError: distance returned"
    ):
        manager.train(verbose=False)


def test_what_a_part_raises_is_passed_on() -> None:
    def broken(output: Image, ground_truth: Image) -> float:
        raise ZeroDivisionError("no pixels")

    with pytest.raises(ZeroDivisionError, match="no pixels"):
        CombinedMetric([(1, broken)])(noise(1), noise(2))


@pytest.mark.parametrize(
    ("value", "similarity"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(1), 1.0),
        (1 + 1e-10, 1.0),
        (-1e-10, 0.0),
        (1 + 1e-8, None),
        (-1e-8, None),
        (10**400, None),
        (np.bool_(True), None),
        (np.array(0.5), None),
    ],
)
def test_a_similarity_is_a_number_that_may_miss_its_range_by_rounding(value: Any, similarity: float | None) -> None:
    assert similarity_or_none(value) == similarity
    assert type(similarity_or_none(value)) is type(similarity)


# --- fingerprints ---------------------------------------------------------------------------------------------------


def combination(*parts: tuple[float, Metric]) -> str:
    return describe_object(CombinedMetric(parts))


def test_the_fingerprint_changes_with_each_part_its_settings_its_version_and_the_weights() -> None:
    original = combination((1, ColorDifference()), (2, StructuralSimilarity()))
    assert combination((1, ColorDifference()), (2, StructuralSimilarity())) == original
    others = [
        combination((1, ColorDifference())),
        combination((1, ColorDifference()), (3, StructuralSimilarity())),
        combination((2, ColorDifference()), (1, StructuralSimilarity())),
        combination((1, ColorDifference()), (2, StructuralSimilarity("bgr"))),
        combination((1, ColorDifference()), (2, PeakSignalToNoise())),
        combination((1, ColorDifference()), (2, StructuralSimilarity()), (1, closeness)),
        combination((1, ColorDifference()), (2, Constant(0.5))),
        combination((1, ColorDifference()), (2, Constant(0.6))),
        combination((1, ColorDifference()), (2, Constant(0.5, version="2"))),
        combination((1, CombinedMetric([(1, ColorDifference()), (2, StructuralSimilarity())]))),
    ]
    assert len({original, *others}) == 1 + len(others)


def test_the_fingerprint_sees_the_source_and_the_settings_of_functions() -> None:
    def scaled(power: float) -> Metric:
        return lambda output, ground_truth: closeness(output, ground_truth) ** power

    prints = {combination((1, metric)) for metric in (closeness, distance, scaled(1.0), scaled(2.0))}
    assert len(prints) == 4
    assert combination((1, scaled(2.0))) in prints


def test_the_fingerprint_sees_a_change_deep_inside() -> None:
    def nested(value: float) -> str:
        metric: Metric = Constant(value)
        for _ in range(3):
            metric = CombinedMetric([(1, metric), (1, ColorDifference())])
        return describe_object(metric)

    assert nested(0.1) == nested(0.1) != nested(0.2)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_combination_takes_what_its_parts_take() -> None:
    pixels = 10**6
    parts = [metric for _, metric in PARTS]
    assert CombinedMetric(PARTS).working_memory(pixels) == sum(metric.working_memory(pixels) for metric in parts)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stated", [-1, "much", None, RuntimeError("who knows")])
def test_a_part_whose_statement_cannot_be_used_gets_an_allowance_like_one_that_states_nothing(stated: Any) -> None:
    allowance = (3 + 2 * 8 * 3) * 1000
    assert stated_memory(Constant(stated=stated), 1000) is None
    assert CombinedMetric([(1, Constant(stated=stated)), (1, Constant(stated=7))]).working_memory(1000) == allowance + 7
    assert CombinedMetric([(1, closeness), (1, closeness)]).working_memory(1000) == 2 * allowance
