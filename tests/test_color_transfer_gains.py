from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.arrays import Image
from tsm_training.color_transfer import (
    ColorTransferWorker,
    HistogramMap,
    LearnedLook,
    WhiteBalanceMap,
    create_color_transfer_workers,
    gains,
)
from tsm_training.color_transfer.basis import basis_values, reduced
from tsm_training.color_transfer.spaces import to_space
from tsm_training.workers import Observation, TrainableWorker, Worker

MAPS = {w.worker_id: w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker)}
DOES_NOT_STEP = [w for name, w in MAPS.items() if name != "median_filtered"]
"""A median of changes over places may make steps of its own, at the corners of strong edges."""


def rounded(values: npt.NDArray[Any]) -> Image:
    levels: Image = np.rint(values).clip(0, 255).astype(np.uint8)
    return levels


def photograph(seed: int, saturation: float = 1.0, shape: tuple[int, int] = (72, 96)) -> Image:
    """Smooth light and colour, texture of both, and a little grain, as photographs have them."""
    rng = np.random.default_rng(seed)

    def field(width: float) -> npt.NDArray[np.float64]:
        values = cv2.GaussianBlur(rng.normal(size=(*shape, 3)), (0, 0), width)
        return values / values.std(axis=(0, 1))

    light = (50 * field(9) + 10 * field(1))[..., :1]
    colour = (field(9) @ ((26, -9, -17), (0, 16, -16), (0, 0, 0))) + 4 * field(1) + rng.normal(size=(*shape, 3))
    return rounded(125 + light + saturation * colour)


def grey(picture: Image) -> Image:
    return np.repeat(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)[..., None], 3, axis=2)


def thin(picture: Image) -> Image:
    base = grey(picture).astype(float)
    return rounded(base + 0.08 * (picture - base))


def sepia(picture: Image) -> Image:
    return rounded(grey(picture) * [0.65, 0.8, 0.9] + [10, 14, 18])


def fog(picture: Image) -> Image:
    return rounded(0.12 * picture + 190)


def ramp(start: tuple[int, ...], end: tuple[int, ...]) -> Image:
    x = np.linspace(0, 1, 250)[None, :, None]
    return rounded(np.repeat((1 - x) * start + x * end, 4, axis=0))


COLOURED = photograph(1)
SOURCE = photograph(2, 1.6)
THIN = {f.__name__: f(COLOURED) for f in (grey, thin, sepia, fog)}
RAMPS = {
    "grey": ramp((0, 0, 0), (255, 255, 255)),
    "flat grey": ramp((120, 120, 120), (160, 160, 160)),
    "sky": ramp((235, 190, 150), (245, 235, 225)),
    "haze": ramp((200, 195, 190), (215, 212, 210)),
}


def noise(picture: Image) -> float:
    """Mean absolute difference of a and b from a Gaussian of σ 3."""
    chroma = to_space(picture.reshape(-1, 3).astype(np.float32), "lab")[:, 1:].reshape(*picture.shape[:2], 2)
    return float(np.abs(chroma - cv2.GaussianBlur(chroma, (0, 0), 3)).mean())


def largest_step(target: Image, answer: Image) -> int:
    """Return the largest step between neighbours of the answer that differ by one level in the target."""
    steps = [
        [np.abs(np.diff(picture.astype(int), axis=axis)).max(axis=-1) for picture in (target, answer)]
        for axis in (0, 1)
    ]
    return max(int(after[before == 1].max(initial=0)) for before, after in steps)


@pytest.mark.parametrize("kind", THIN)
@pytest.mark.parametrize("worker", MAPS.values(), ids=MAPS)
def test_thin_colour_gets_no_more_chroma_noise_than_the_coloured_photograph_has(worker: Worker, kind: str) -> None:
    answer = worker.process({"source": SOURCE, "target": THIN[kind]})
    assert noise(answer) <= 1.2 * noise(COLOURED)


@pytest.mark.parametrize("kind", [*THIN, *RAMPS])
@pytest.mark.parametrize("worker", DOES_NOT_STEP, ids=lambda worker: worker.worker_id)
def test_a_step_of_one_level_stays_a_small_step(worker: Worker, kind: str) -> None:
    target = (THIN | RAMPS)[kind]
    assert largest_step(target, worker.process({"source": SOURCE, "target": target})) <= 6


@pytest.mark.parametrize("kind", THIN)
def test_a_blend_keeps_the_bounds_too(kind: str) -> None:
    answers = [worker.process({"source": SOURCE, "target": THIN[kind]}) for worker in DOES_NOT_STEP]
    blend = rounded(np.mean(answers, axis=0))
    assert noise(blend) <= 1.2 * noise(COLOURED)
    assert largest_step(THIN[kind], blend) <= 6


def test_ordinary_pictures_are_answered_as_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"source": photograph(3, 1.2), "target": COLOURED}
    bounded = {name: worker.process(data) for name, worker in MAPS.items() if "histogram" not in name}
    monkeypatch.setattr(gains, "_NOISE", 1e-3)
    for name, answer in bounded.items():
        assert np.array_equal(MAPS[name].process(dict(data)), answer), name


def test_histograms_match_exactly_where_the_gain_is_within_the_bound() -> None:
    gentle = rounded(128 + 1.5 * (ramp((60, 60, 60), (200, 200, 200)).astype(float) - 128))
    target = ramp((60, 60, 60), (200, 200, 200))
    answer = ColorTransferWorker("w", HistogramMap("l")).process({"source": gentle, "target": target})
    levels = [np.sort(picture[..., 0].ravel()).astype(int) for picture in (answer, gentle)]
    assert np.abs(levels[0] - levels[1]).max() <= 2


def test_white_balance_does_not_stretch_a_channel_that_the_target_hardly_has() -> None:
    yellow = COLOURED.copy()
    yellow[..., 0] = np.random.default_rng(0).integers(0, 3, yellow.shape[:2])
    answer = ColorTransferWorker("w", WhiteBalanceMap()).process({"source": SOURCE, "target": yellow})
    assert answer[..., 0].max() <= 4 * 2 + 2


curves = st.integers(0, 10**6).map(np.random.default_rng)


@settings(max_examples=60, deadline=None)
@given(curves)
def test_a_bounded_curve_rises_keeps_its_slope_and_its_mean(rng: np.random.Generator) -> None:
    levels = np.sort(rng.choice(256, 20, replace=False)).astype(float)
    values, counts = np.sort(rng.uniform(0, 255, 20)), rng.integers(1, 1000, 20).astype(float)
    curve = gains.bounded_curve(levels, values, counts, 2.0)
    slopes = np.diff(curve) / np.diff(levels)
    assert slopes.min() >= -1e-9
    assert slopes.max() <= 2 + 1e-9
    assert counts @ curve == pytest.approx(counts @ values)


@settings(max_examples=60, deadline=None)
@given(curves)
def test_no_other_curve_within_the_bound_is_nearer(rng: np.random.Generator) -> None:
    levels, counts = np.arange(12.0), rng.integers(1, 50, 12).astype(float)
    values = np.sort(rng.uniform(0, 60, 12))
    curve = gains.bounded_curve(levels, values, counts, 3.0)
    other = np.cumsum(rng.uniform(0, 3, 12)) + rng.uniform(-10, 40)
    # of a projection on a convex set, the way to the point and the way to any other member form an obtuse angle
    assert (counts * (values - curve)) @ (other - curve) <= 1e-6


def test_a_curve_within_the_bound_stays_as_it_is() -> None:
    values = np.array([3.0, 4.0, 7.5])
    np.testing.assert_allclose(gains.bounded_curve(np.array([1.0, 2.0, 4.0]), values, np.ones(3), 2.0), values)


@pytest.mark.parametrize("space", ["lab", "bgr"])
def test_a_bounded_matrix_stretches_no_direction_further_than_allowed(space: Any) -> None:
    rng = np.random.default_rng(5)
    bounds = gains.Bounds(1.5)
    grey_axis = np.array([1.0, 0, 0]) if space == "lab" else np.full(3, 3**-0.5)
    for _ in range(20):
        root = rng.normal(size=(3, 3)) * 3
        bounded = bounds.matrix(root @ root.T, space)
        assert grey_axis @ bounded @ grey_axis <= gains.MOST_GAIN + 1e-9
        chroma = np.eye(3) - np.outer(grey_axis, grey_axis)
        assert np.linalg.eigvalsh(chroma @ bounded @ chroma).max() <= 1.5 + 1e-9
    np.testing.assert_array_equal(bounds.matrix(np.eye(3), space), np.eye(3))


def test_only_colour_that_lightness_does_not_explain_counts_as_shown() -> None:
    chroma = {name: gains.bounds_for({"target": picture}).chroma for name, picture in THIN.items()}
    assert chroma == pytest.approx({"grey": 1.5, "thin": 1.5, "sepia": 1.5, "fog": 1.5}, abs=0.3)
    assert gains.bounds_for({"target": COLOURED}).chroma > 10


def steep(picture: Image) -> Image:
    """A look that colours shadows blue and lights orange, steeply."""
    tone = np.tanh((picture.mean(axis=-1, keepdims=True) - 128) / 25)
    return rounded(picture + tone * [-60, 0, 60])


def learned() -> Worker:
    learner, notes = LearnedLook(), []
    for number in range(4):
        target = photograph(10 + number)
        data = learner.observe(steep(photograph(20 + number)), target, steep(target))
        digests = [hashlib.sha256(f"{role} {number}".encode()).hexdigest() for role in "abc"]
        notes.append(Observation(digests[0], digests[1], digests[2], None, data))
    return learner.fit(notes)


@pytest.mark.slow
def test_a_learned_look_keeps_the_bounds_on_grey_and_its_look_on_colour() -> None:
    fitted = learned()
    source = steep(photograph(30))
    answer = fitted.process({"source": source, "target": THIN["grey"]})
    assert noise(answer) <= 1.2 * noise(COLOURED)
    assert largest_step(RAMPS["grey"], fitted.process({"source": source, "target": RAMPS["grey"]})) <= 6
    coloured = fitted.process({"source": source, "target": COLOURED}).astype(float)
    assert np.abs(coloured - steep(COLOURED)).mean() < 0.35 * np.abs(COLOURED - steep(COLOURED).astype(float)).mean()


def test_reduced_shifts_keep_lightness_and_the_shift_at_the_centre() -> None:
    rng = np.random.default_rng(7)
    coefficients = rng.integers(-100, 100, (84, 3)) / 4096
    colors = photograph(4).reshape(-1, 3)[:50]
    values = basis_values(colors)
    before = values @ coefficients
    after = values @ reduced(coefficients, values.mean(axis=0), 0.25)
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-9)
    centre = before.mean(axis=0)[1:]
    np.testing.assert_allclose(after[:, 1:], centre + 0.25 * (before[:, 1:] - centre), atol=0.05)
