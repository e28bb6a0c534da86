from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsm_training.arrays import Image
from tsm_training.color_transfer import (
    ColorFunction,
    ColorMap,
    Colors,
    ColorTransferWorker,
    HistogramMap,
    LinearMap,
    ReinhardMap,
    SlicedTransportMap,
    Space,
    ToneAdaptiveMap,
    WhiteBalanceMap,
    create_color_transfer_workers,
    maps,
    spaces,
    statistics,
)
from tsm_training.color_transfer.lattice import lattice
from tsm_training.errors import InvalidArgumentError
from tsm_training.fingerprints import describe_object
from tsm_training.images import tables
from tsm_training.workers import TrainableWorker, Worker, WorkerPool, WorkerRequest, run_worker

WORKERS = {w.worker_id: w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker)}
"""Those that answer without having been fitted."""
REQUIRED = {
    "standard_transfer",
    "luminance_preserving",
    "adaptive_transfer",
    "median_filtered",
    "intensity_30",
    "intensity_70",
    "intensity_90",
    "intensity_120",
    "unchanged",
}
MAPS: list[ColorMap] = [
    ReinhardMap(),
    HistogramMap(),
    LinearMap("lab"),
    LinearMap("bgr"),
    SlicedTransportMap(),
    ToneAdaptiveMap(),
    WhiteBalanceMap(),
]

Floats = npt.NDArray[np.float64]

# Muted colours: every method can reach its goal without running into the edge of the gamut.
WARM = ((118, 124, 146), ((14, 5, 3), (0, 11, 4), (0, 0, 12)))
COOL = ((140, 128, 108), ((9, -3, 2), (0, 16, 5), (0, 0, 15)))


def scene(look: tuple[Any, Any], seed: int, shape: tuple[int, int] = (96, 128)) -> Image:
    """A picture with smooth content and a little grain; `look` is its mean colour and how its channels vary."""
    mean, mixing = look
    rng = np.random.default_rng(seed)
    fields = np.stack([cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 6) for _ in range(3)], axis=-1)
    fields = (fields - fields.mean(axis=(0, 1))) / fields.std(axis=(0, 1))
    values = np.clip(fields, -2, 2) @ np.array(mixing) + mean + rng.normal(size=(*shape, 3))
    return quantised(values)


def quantised(values: npt.NDArray[Any]) -> Image:
    levels: Image = np.rint(values).clip(0, 255).astype(np.uint8)
    return levels


SOURCE = scene(WARM, 1, (80, 100))
TARGET = scene(COOL, 2)


def pair(source: Image = SOURCE, target: Image = TARGET) -> WorkerRequest:
    return WorkerRequest(source, target)


def lab(image: Image) -> Floats:
    return cv2.cvtColor(image, cv2.COLOR_BGR2Lab).reshape(-1, 3).astype(np.float64)


def bgr(image: Image) -> Floats:
    return image.reshape(-1, 3).astype(np.float64)


def linear_light(image: Image) -> Floats:
    v = bgr(image) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def difference(first: Image, second: Image) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).max())


def transferred(color_map: ColorMap, strength: float = 1.0) -> Image:
    return ColorTransferWorker("w", color_map, strength).process(pair())


@pytest.fixture(params=list(WORKERS.values()), ids=list(WORKERS))
def worker(request: pytest.FixtureRequest) -> Worker:
    chosen: Worker = request.param
    return chosen


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


# --- the list -------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_the_promised_ones_are_there() -> None:
    workers = create_color_transfer_workers()
    ids = [w.worker_id for w in workers]
    assert len(set(ids)) == len(ids)
    assert set(ids) >= REQUIRED


def test_every_call_returns_equal_workers_in_a_list_of_its_own() -> None:
    first, second = create_color_transfer_workers(), create_color_transfer_workers()
    assert first == second
    assert first is not second


def test_no_two_workers_make_the_same_picture() -> None:
    request = pair()
    pictures = {w.process(request).tobytes() for w in WORKERS.values()}
    assert len(pictures) == len(WORKERS)


def test_all_run_in_a_pool_and_answer_with_valid_pictures() -> None:
    pool = WorkerPool()
    for w in create_color_transfer_workers():
        pool.register_worker(w)
    results = pool.execute_parallel({"source": SOURCE, "target": TARGET})
    assert [r.worker_id for r in results] == list(WORKERS)
    assert all(r.is_valid() and r.confidence == 1.0 for r in results)


def test_workers_survive_pickling(worker: Worker) -> None:
    copy = pickle.loads(pickle.dumps(worker))
    assert copy == worker
    assert np.array_equal(copy.process(pair()), worker.process(pair()))


def test_fingerprints_differ_between_workers_and_not_between_calls() -> None:
    prints = [describe_object(w) for w in WORKERS.values()]
    assert len(set(prints)) == len(prints)
    assert prints == [describe_object(w) for w in create_color_transfer_workers() if w.worker_id in WORKERS]


def test_a_fingerprint_changes_with_strength_map_and_settings_of_the_map() -> None:
    variants = [(ReinhardMap(), 1.0), (ReinhardMap(), 0.5), (ReinhardMap("l"), 1.0), (LinearMap("lab"), 1.0)]
    assert len({describe_object(ColorTransferWorker("w", *settings)) for settings in variants}) == len(variants)


# --- what holds for every worker ------------------------------------------------------------------------------------


def test_a_plain_dict_gives_the_same_picture_as_a_request(worker: Worker) -> None:
    plain = worker.process({"source": SOURCE, "target": TARGET})
    assert np.array_equal(plain, worker.process(pair()))


def test_inputs_are_never_written_into(worker: Worker) -> None:
    data = {"source": SOURCE.copy(), "target": TARGET.copy()}
    result = worker.process(data)
    assert worker.reads_only
    assert np.array_equal(data["source"], SOURCE)
    assert np.array_equal(data["target"], TARGET)
    assert not any(np.shares_memory(result, picture) for picture in data.values())


def test_a_picture_given_its_own_colours_stays_nearly_as_it_is(worker: Worker) -> None:
    assert difference(worker.process(pair(TARGET, TARGET)), TARGET) <= 1


@pytest.mark.slow
def test_results_are_the_same_for_any_number_of_opencv_threads(
    worker: Worker, opencv_threads: Callable[[int], None]
) -> None:
    large = pair(scene(WARM, 1, (700, 500)), scene(COOL, 2, (600, 800)))
    pictures = []
    for count in (1, 2, 8):
        opencv_threads(count)
        pictures.append(worker.process({**large}).tobytes())
    assert len(set(pictures)) == 1


def test_results_are_the_same_in_any_thread_order_and_after_other_random_numbers() -> None:
    alone = {name: w.process(pair()).tobytes() for name, w in WORKERS.items()}
    request, together = pair(), dict[str, bytes]()
    np.random.default_rng().normal(size=10)
    threads = [
        threading.Thread(target=lambda n=name, w=w: together.update({n: w.process(request).tobytes()}))
        for name, w in reversed(WORKERS.items())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def flat(*color: int, shape: tuple[int, int] = (5, 7)) -> Image:
    return np.full((*shape, 3), color, np.uint8)


@pytest.mark.parametrize("source", [flat(0, 0, 0), flat(255, 255, 255), flat(0, 255, 0), flat(9, 90, 200), SOURCE])
@pytest.mark.parametrize("target", [flat(0, 0, 0), flat(255, 255, 255), flat(255, 0, 0), flat(200, 90, 9), TARGET])
def test_flat_black_and_white_pictures_raise_no_warning_and_stay_flat(source: Image, target: Image) -> None:
    request = pair(source, target)
    for w in WORKERS.values():
        result = run_worker(w, request)
        assert result.failure is None, w.worker_id
        assert result.value is not None
        if target is not TARGET:
            assert len(np.unique(result.value.reshape(-1, 3), axis=0)) == 1, w.worker_id


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 300), (300, 1), (2, 40_000), (40_000, 2)])
def test_any_size_of_target_and_source_works(shape: tuple[int, int]) -> None:
    odd = scene(WARM, 3, (8, 8)).repeat(-(-shape[0] // 8), axis=0).repeat(-(-shape[1] // 8), axis=1)
    odd = np.ascontiguousarray(odd[: shape[0], : shape[1]])
    for request in (pair(odd, TARGET), pair(SOURCE, odd), pair(odd, odd)):
        for w in WORKERS.values():
            assert run_worker(w, request).failure is None, w.worker_id


def test_a_twelve_megapixel_picture_needs_only_bands_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    remap = cv2.remap

    def spy(table: Colors, columns: Colors, *args: Any, **options: Any) -> object:
        seen.append(columns.size // 2)  # column and row
        return remap(table, columns, *args, **options)

    monkeypatch.setattr(cv2, "remap", spy)
    large = np.tile(TARGET, (32, 32, 1))[:3000, :4000].copy()
    result = WORKERS["linear_map_rgb"].process({"source": SOURCE, "target": large})
    assert result.shape == large.shape
    assert sum(seen) == 12_000_000
    assert max(seen) <= 1 << 16


def test_bands_leave_no_seams(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    whole = worker.process(pair())
    monkeypatch.setattr(spaces, "_STRIP_PIXELS", 7 * TARGET.shape[1])
    monkeypatch.setattr(tables, "_BAND_PIXELS", 7 * TARGET.shape[1])
    monkeypatch.setattr(tables, "_LONGEST", 19)
    assert np.array_equal(worker.process(pair()), whole)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    source=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda s: (*s, 3))),
    target=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda s: (*s, 3))),
)
def test_any_two_pictures_give_valid_results(source: Image, target: Image) -> None:
    request = pair(source, target)
    for w in WORKERS.values():
        assert run_worker(w, request).failure is None, w.worker_id


def test_statistics_are_computed_once_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, str]] = []
    original = statistics._compute_moments

    def counted(data: Any, which: Any, space: Any) -> Any:
        calls.append((data[which].shape[0], space))
        return original(data, which, space)

    monkeypatch.setattr(statistics, "_compute_moments", counted)
    request = pair()
    for w in WORKERS.values():
        w.process(request)
    assert sorted(calls) == [(80, "bgr"), (80, "lab"), (96, "bgr"), (96, "lab")]


# --- strength -------------------------------------------------------------------------------------------------------


def test_unchanged_returns_a_copy_of_the_target() -> None:
    data = {"source": SOURCE, "target": TARGET}
    result = WORKERS["unchanged"].process(data)
    assert np.array_equal(result, TARGET)
    assert result is not TARGET


@pytest.mark.parametrize("color_map", MAPS, ids=repr)
def test_a_vanishing_strength_changes_no_pixel_of_any_colour(color_map: ColorMap) -> None:
    every = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    every[:2] = np.arange(256, dtype=np.uint8)[:, None]
    result = ColorTransferWorker("w", color_map, 1e-9).process({"source": SOURCE, "target": every})
    assert difference(result, every) == 0


@pytest.mark.parametrize("color_map", MAPS, ids=repr)
def test_more_strength_moves_every_colour_further(color_map: ColorMap) -> None:
    moved = [transferred(color_map, s).astype(int) - TARGET for s in (0.0, 0.3, 0.6, 1.0, 1.2)]
    distances = [float(np.abs(change).mean()) for change in moved]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert np.abs(moved[1] - 0.3 * moved[3]).max() <= 5  # a straight line in Lab is bent a little in BGR


def test_the_intensities_are_shares_of_the_standard_transfer() -> None:
    reached = {name: lab(WORKERS[name].process(pair())).mean(axis=0) for name in WORKERS}
    start, end = lab(TARGET).mean(axis=0), reached["standard_transfer"]
    for percent in (30, 70, 90, 120):
        np.testing.assert_allclose(reached[f"intensity_{percent}"], start + percent / 100 * (end - start), atol=0.2)


def test_exaggeration_is_clipped_to_the_range_instead_of_wrapping_around() -> None:
    dark, light = flat(10, 10, 10), flat(250, 250, 250)
    for target, source, limit in ((light, dark, 0), (dark, light, 255)):
        data = {"source": source, "target": target}
        assert difference(ColorTransferWorker("w", LinearMap("bgr"), 1.5).process(data), flat(limit, limit, limit)) == 0


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_negative_or_not_finite_is_refused(strength: float) -> None:
    with pytest.raises(InvalidArgumentError, match="strength"):
        ColorTransferWorker("w", ReinhardMap(), strength)


@pytest.mark.parametrize("size", [0, 2, 7])
def test_a_median_that_opencv_cannot_filter_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgumentError, match="median_size"):
        ColorTransferWorker("w", ReinhardMap(), median_size=size)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: ReinhardMap("rgb"), "channels"),  # type: ignore[arg-type]
        (lambda: HistogramMap("a"), "channels"),  # type: ignore[arg-type]
        (lambda: LinearMap("rgb"), "space"),  # type: ignore[arg-type]
        (lambda: SlicedTransportMap(iterations=0), "iterations"),
        (lambda: SlicedTransportMap(bins=0), "bins"),
        (lambda: SlicedTransportMap(sample=True), "sample"),
        (lambda: SlicedTransportMap(sample=10.0), "sample"),  # type: ignore[arg-type]
        (lambda: SlicedTransportMap(smoothness=0.5), "smoothness"),
        (lambda: SlicedTransportMap(smoothness=float("nan")), "smoothness"),
        (lambda: SlicedTransportMap(smoothness=float("inf")), "smoothness"),
        (lambda: ToneAdaptiveMap(1), "zones"),
        (lambda: WhiteBalanceMap(0.5), "norm"),
        (lambda: WhiteBalanceMap(float("inf")), "norm"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make: Callable[[], ColorMap], argument: str) -> None:
    with pytest.raises(InvalidArgumentError, match=argument):
        make()


def test_a_map_of_ones_own_needs_only_a_function_of_colours() -> None:
    @attrs.frozen
    class Swapped(ColorMap):
        @property
        def space(self) -> Space:
            return "bgr"

        def fit(self, data: Any) -> ColorFunction:
            return lambda colors: np.ascontiguousarray(colors[:, ::-1])

    assert np.array_equal(transferred(Swapped()), TARGET[..., ::-1])


# --- each method's defining property --------------------------------------------------------------------------------


def test_standard_transfer_gives_the_mean_and_spread_of_the_source_in_lab() -> None:
    result, wanted = lab(WORKERS["standard_transfer"].process(pair())), lab(SOURCE)
    np.testing.assert_allclose(result.mean(axis=0), wanted.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(result.std(axis=0), wanted.std(axis=0), atol=0.3)


def test_luminance_preserving_keeps_lightness_and_matches_the_chroma() -> None:
    result, before, wanted = (lab(i) for i in (WORKERS["luminance_preserving"].process(pair()), TARGET, SOURCE))
    assert np.abs(result[:, 0] - before[:, 0]).max() <= 2
    np.testing.assert_allclose(result[:, 1:].mean(axis=0), wanted[:, 1:].mean(axis=0), atol=0.3)
    np.testing.assert_allclose(result[:, 1:].std(axis=0), wanted[:, 1:].std(axis=0), atol=0.3)


def test_lightness_only_keeps_the_chroma() -> None:
    result, before = lab(WORKERS["lightness_30"].process(pair())), lab(TARGET)
    assert np.abs(result[:, 1:] - before[:, 1:]).max() <= 2
    assert abs(result[:, 0].mean() - before[:, 0].mean()) > 0.1


def test_matching_means_only_keeps_the_spread() -> None:
    result, before, wanted = lab(transferred(ReinhardMap(match_spread=False))), lab(TARGET), lab(SOURCE)
    np.testing.assert_allclose(result.mean(axis=0), wanted.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(result.std(axis=0), before.std(axis=0), atol=0.3)


@pytest.mark.parametrize(("name", "channels"), [("linear_map_lab", lab), ("linear_map_rgb", bgr)])
def test_linear_maps_give_the_mean_and_the_covariance_of_the_source(
    name: str, channels: Callable[[Image], Floats]
) -> None:
    result, wanted = channels(WORKERS[name].process(pair())), channels(SOURCE)
    np.testing.assert_allclose(result.mean(axis=0), wanted.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(np.cov(result.T), np.cov(wanted.T), atol=0.02 * np.cov(wanted.T).max() + 0.3)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, (2, 3, 3), elements=st.floats(-30, 30)))
def test_monge_kantorovich_maps_are_symmetric_positive_definite_and_exact(roots: Floats) -> None:
    source, target = (root @ root.T + np.eye(3) / 12 for root in roots)
    gain = maps._monge_kantorovich(source, target)
    scale = np.abs(gain).max()
    np.testing.assert_allclose(gain, gain.T, atol=1e-6 * scale)
    assert np.linalg.eigvalsh(gain).min() > -1e-6 * scale
    np.testing.assert_allclose(gain @ target @ gain, source, atol=1e-4 * np.abs(source).max())


def test_of_a_large_image_some_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {w.worker_id: w.process(pair()).astype(int) for w in WORKERS.values()}
    monkeypatch.setattr(statistics, "MOST_KEPT", TARGET.shape[0] * TARGET.shape[1] // 2)
    for name, worker in WORKERS.items():
        assert np.abs(worker.process(pair()) - whole[name]).mean() < 1.5, name
    request = pair()
    assert sum(planes[0].size for planes in statistics._planes(request, "target", "lab")) <= TARGET[:, :, 0].size / 2


def test_moments_are_those_of_the_pixels() -> None:
    moments = statistics._compute_moments({"target": TARGET}, "target", "bgr")
    np.testing.assert_allclose(moments.mean, bgr(TARGET).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(bgr(TARGET).T, bias=True), rtol=1e-9)


def max_cdf_difference(first: Floats, second: Floats) -> float:
    levels = np.arange(257)
    cdfs = [[np.histogram(v[:, i], levels)[0].cumsum() / len(v) for i in range(3)] for v in (first, second)]
    return float(np.abs(np.array(cdfs[0]) - np.array(cdfs[1])).max())


def test_histogram_matching_gives_every_lab_channel_the_distribution_of_the_source() -> None:
    before = max_cdf_difference(lab(TARGET), lab(SOURCE))
    after = max_cdf_difference(lab(WORKERS["histogram_matching"].process(pair())), lab(SOURCE))
    assert before > 0.5
    assert after < 0.06


def test_matching_chroma_histograms_keeps_lightness() -> None:
    result = lab(transferred(HistogramMap("ab")))
    assert np.abs(result[:, 0] - lab(TARGET)[:, 0]).max() <= 2


@settings(max_examples=50, deadline=None)
@given(
    source=st.dictionaries(st.integers(0, 255), st.integers(1, 10**7), min_size=1, max_size=20), seed=st.integers(0, 9)
)
def test_matching_curves_never_swap_levels(source: dict[int, int], seed: int) -> None:
    levels = np.repeat(list(source), [1 + count % 50 for count in source.values()])
    wanted, given = (
        np.repeat(grey.astype(np.uint8)[None, :, None], 3, axis=2)
        for grey in (levels, np.random.default_rng(seed).integers(0, 256, 300))
    )
    result = ColorTransferWorker("w", HistogramMap("l")).process({"source": wanted, "target": given})
    order = np.argsort(given[0, :, 0], kind="stable")
    assert (np.diff(lab(result)[order, 0]) >= -1.0).all()


def sliced_wasserstein(first: Image, second: Image) -> float:
    directions = np.random.default_rng(3).normal(size=(3, 40))
    directions /= np.linalg.norm(directions, axis=0)
    quantiles = np.linspace(0, 1, 200)
    one, two = (np.quantile(lab(i) @ directions, quantiles, axis=0) for i in (first, second))
    return float(np.abs(one - two).mean())


def test_sliced_transport_matches_the_distribution_in_directions_it_never_saw() -> None:
    before = sliced_wasserstein(TARGET, SOURCE)
    after = sliced_wasserstein(WORKERS["sliced_transport"].process(pair()), SOURCE)
    assert after < 0.1 * before


def tinted_by_tone(image: Image) -> Image:
    """Blue shadows, green middle tones, red lights: smooth, and not linear."""
    tone = image.mean(axis=-1) / 255
    tint = np.stack([60 * (1 - tone) ** 3, 50 * np.sin(np.pi * tone) ** 4, 60 * tone**3], axis=-1)
    return quantised(image + tint)


def test_sliced_transport_matches_what_no_linear_map_can() -> None:
    contrasty = [scene((COOL[0], 2.5 * np.array(COOL[1])), seed) for seed in (2, 3)]
    source = tinted_by_tone(contrasty[1])
    request = pair(source, contrasty[0])
    sliced = sliced_wasserstein(WORKERS["sliced_transport"].process(request), source)
    linear = sliced_wasserstein(WORKERS["linear_map_lab"].process(request), source)
    assert sliced < 0.5 * linear


HALVES = np.concatenate([scene(WARM, 5, (40, 90)), scene(((90, 150, 100), WARM[1]), 6, (40, 90))])
"""A picture of two separate groups of colours."""


def steepest(color_map: ColorMap, source: Image, target: Image) -> float:
    """How many times further apart neighbours on the lattice of colours may end up than they were."""
    before = lattice("lab")
    after = color_map.fit({"source": source, "target": target})(before)
    steps = [np.diff(colors.reshape(33, 33, 33, 3), axis=axis) for colors in (before, after) for axis in range(3)]
    lengths = [np.linalg.norm(step, axis=-1) for step in steps]
    return max(float((far / near).max()) for near, far in zip(lengths[:3], lengths[3:], strict=True))


def test_sliced_transport_keeps_similar_colours_similar_where_the_source_has_a_gap() -> None:
    # a map that matched the two groups exactly would tear the target's one group apart
    linear = steepest(LinearMap(), HALVES, TARGET)
    assert steepest(SlicedTransportMap(), HALVES, TARGET) < 2 * linear
    assert steepest(SlicedTransportMap(smoothness=30), HALVES, TARGET) < 1.2 * linear


LOPSIDED = (((120, 60, 20), 80), ((90, 150, 220), 20))
"""Mean colours of two groups, and how many rows each has."""


def test_sliced_transport_changes_a_smooth_picture_smoothly() -> None:
    x = np.linspace(0, 1, 512)[:, None]
    ramp = np.tile((1 - x) * (60, 70, 50) + x * (160, 180, 140), (16, 1, 1)).astype(np.uint8)
    groups = [scene((mean, 0.5 * np.array(WARM[1])), 5, (height, 90)) for mean, height in LOPSIDED]
    result = WORKERS["sliced_transport"].process(pair(np.concatenate(groups), ramp)).astype(int)
    assert np.abs(np.diff(result, axis=1)).max() <= 15


def test_sliced_transport_moves_colours_that_the_target_does_not_have_as_the_linear_map_does() -> None:
    rare = np.array([[20, 220, 40], [250, 30, 220]], np.float32)
    moved, linear = (color_map.fit(pair(HALVES, TARGET))(rare) for color_map in (SlicedTransportMap(), LinearMap()))
    np.testing.assert_allclose(moved, linear, atol=1e-3)


def test_the_rotations_are_rotations_and_all_different() -> None:
    rotations = maps._rotations(20)
    for rotation in rotations:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
    assert len({r.tobytes() for r in rotations}) == 20


def test_white_balance_gives_the_mean_chromaticity_of_the_source_and_keeps_the_luminance() -> None:
    result, before, wanted = (linear_light(i).mean(axis=0) for i in (transferred(WhiteBalanceMap(1)), TARGET, SOURCE))
    np.testing.assert_allclose(result / result.sum(), wanted / wanted.sum(), atol=2e-3)
    luminance = np.array([0.0722, 0.7152, 0.2126])
    assert result @ luminance == pytest.approx(before @ luminance, rel=0.01)


def test_white_balance_undoes_a_change_of_the_light() -> None:
    gains = np.array([0.8, 1.0, 1.1])
    light = linear_light(TARGET) * gains
    tinted = np.rint(255 * (1.055 * light ** (1 / 2.4) - 0.055)).astype(np.uint8).reshape(TARGET.shape)
    result = linear_light(WORKERS["white_balance"].process(pair(TARGET, tinted)))
    ratio = (result / linear_light(TARGET)).mean(axis=0)
    np.testing.assert_allclose(ratio / ratio[1], 1, atol=0.02)


def test_adaptive_transfer_leaves_tones_alone_that_only_one_picture_has() -> None:
    dark, light = (flat(*c, shape=(20, 20)) for c in ((30, 30, 60), (220, 200, 200)))
    assert difference(WORKERS["adaptive_transfer"].process(pair(dark, light)), light) <= 3
    assert difference(WORKERS["standard_transfer"].process(pair(dark, light)), dark) <= 3


def test_adaptive_transfer_gives_dark_and_light_tones_colours_of_their_own() -> None:
    def split_toned(dark: tuple[int, int, int], light: tuple[int, int, int]) -> Image:
        return np.concatenate([flat(*dark, shape=(20, 20)), flat(*light, shape=(20, 20))])

    neutral = split_toned((60, 60, 60), (200, 200, 200))
    result = WORKERS["adaptive_transfer"].process(pair(split_toned((80, 60, 40), (180, 200, 220)), neutral))
    assert result[0, 0, 0] > result[0, 0, 2] + 15  # blue shadows
    assert result[-1, 0, 2] > result[-1, 0, 0] + 15  # orange highlights


def test_adaptive_transfer_keeps_the_lightness() -> None:
    result = lab(WORKERS["adaptive_transfer"].process(pair()))
    assert np.abs(result[:, 0] - lab(TARGET)[:, 0]).max() <= 2


def test_median_filter_smooths_the_change_and_not_the_picture() -> None:
    grainy = quantised(TARGET + np.random.default_rng(4).normal(0, 4, TARGET.shape))
    lively = pair(scene((WARM[0], 2.5 * np.array(WARM[1])), 1), grainy)
    plain, filtered = (
        WORKERS[n].process(lively).astype(int) - grainy for n in ("standard_transfer", "median_filtered")
    )
    roughness = [float(np.abs(np.diff(change, axis=1)).mean()) for change in (plain, filtered)]
    assert roughness[1] < 0.5 * roughness[0]
    np.testing.assert_allclose(filtered.mean(axis=(0, 1)), plain.mean(axis=(0, 1)), atol=1.5)
