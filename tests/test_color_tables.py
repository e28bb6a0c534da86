"""Tables of colours: looked up exactly, blended before they are looked up, and written as LUTs for other programs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from support import manager_with, picture, pool_of
from tsm_training import FunctionWorker, Image, Prediction, Worker, create_color_transfer_workers
from tsm_training.color_transfer import ColorTransferWorker, ReinhardMap
from tsm_training.ensemble import blend, blend_results
from tsm_training.errors import InvalidArgumentError
from tsm_training.images import NODES, ColorTable, positions, sum_of
from tsm_training.metrics import color_difference
from tsm_training.workers import ThreadRunner, TrainableWorker, WorkerRequest, WorkerResult, run_worker

EVERY = np.random.default_rng(0).integers(0, 256, (61, 67, 3), dtype=np.uint8)
LEVELS = np.minimum(np.arange(NODES) * 8, 255)
FIXED = [w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker)]
MAPS = [w for w in FIXED if w.worker_id != "median_filtered"]
SOURCE, TARGET = picture(1, 40, 50), picture(2, 37, 41)


def table_of(function: Any) -> ColorTable:
    """Return the table of a function of float64 colours (N×3, BGR)."""
    grid = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), axis=-1)
    return ColorTable(np.asarray(function(grid.reshape(-1, 3).astype(np.float64)), np.float64))


SWAPPED = table_of(lambda colors: colors[:, ::-1])
DARKER = table_of(lambda colors: colors * [0.5, 0.25, 0.75])


# --- looking up -----------------------------------------------------------------------------------------------------


def test_a_table_of_an_affine_function_is_exact_at_every_level() -> None:
    assert np.array_equal(ColorTable.identity().apply(EVERY), EVERY)
    assert np.array_equal(SWAPPED.apply(EVERY), EVERY[..., ::-1])
    assert np.array_equal(DARKER.apply(EVERY), np.rint(EVERY * [0.5, 0.25, 0.75]).astype(np.uint8))


def test_positions_that_are_known_change_nothing() -> None:
    known = list(positions(EVERY))
    for table in (SWAPPED, DARKER):
        assert np.array_equal(table.apply(EVERY, known), table.apply(EVERY))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40_000), (40_000, 1), (70_000, 2)])
def test_pictures_of_any_shape_are_looked_up(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(SWAPPED.apply(image), image[..., ::-1])


def test_what_lies_out_of_gamut_is_clipped_in_the_table() -> None:
    table = table_of(lambda colors: colors * 3 - 100)
    assert table.nodes.min() == 0
    assert table.nodes.max() == 255
    assert not table.nodes.flags.writeable


@pytest.mark.parametrize(
    "nodes", [np.zeros((33, 33, 33, 3), np.uint8), np.zeros((32, 32, 32, 3)), np.full((33**3, 3), np.nan), "table"]
)
def test_other_things_are_no_tables(nodes: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="nodes"):
        ColorTable(nodes)


def test_a_table_travels() -> None:
    assert np.array_equal(pickle.loads(pickle.dumps(DARKER)).nodes, DARKER.nodes)


# --- blending -------------------------------------------------------------------------------------------------------


def both_ways(workers: list[Worker]) -> tuple[dict[str, WorkerResult], dict[str, Image]]:
    tables = WorkerRequest(SOURCE, TARGET, is_prediction=True)
    results = {w.worker_id: run_worker(w, tables) for w in workers}
    pictures = {w.worker_id: w.process(WorkerRequest(SOURCE, TARGET)) for w in workers}
    return results, pictures


def test_a_worker_and_its_table_say_the_same_to_the_last_bit() -> None:
    results, pictures = both_ways(FIXED)
    for worker_id, result in results.items():
        assert result.is_valid()
        assert result.value is not None
        assert np.array_equal(result.value, pictures[worker_id]), worker_id
        assert (result.table is None) == (worker_id == "median_filtered")


def test_a_blend_of_tables_is_the_blend_of_pictures_but_for_rounding() -> None:
    results, pictures = both_ways(FIXED)
    rng = np.random.default_rng(3)
    for chosen in ([w.worker_id for w in MAPS], sorted(pictures), ["unchanged", "median_filtered"], ["white_balance"]):
        shares = dict(zip(chosen, rng.dirichlet(np.ones(len(chosen))).tolist(), strict=True))
        together = blend_results(results, shares, TARGET).astype(int)
        assert np.abs(together - blend({w: pictures[w] for w in chosen}, shares)).max() <= 1
        exact = sum(share * pictures[w].astype(float) for w, share in shares.items())
        assert np.abs(together - exact).max() <= 1.01


def test_pictures_without_a_table_are_added_to_it() -> None:
    large = np.random.default_rng(2).integers(0, 256, (700, 300, 3), dtype=np.uint8)
    half = ColorTable.blended([(0.5, ColorTable.identity())])
    assert np.array_equal(sum_of([(0.5, large[:, ::-1].copy())], half, large), np.rint(large / 2 + large[:, ::-1] / 2))


# --- what a worker says ---------------------------------------------------------------------------------------------


@attrs.frozen
class Tinting(Worker):
    worker_id: str
    answer: Any

    def process(self, data: Mapping[str, Image]) -> Image:
        return 255 - data["target"]

    def get_color_table(self, data: Mapping[str, Image]) -> ColorTable | None:
        return self.answer  # type: ignore[no-any-return]


def test_a_worker_of_anybodys_may_give_a_table() -> None:
    negative = table_of(lambda colors: 255 - colors)
    pool = pool_of(Tinting("t", negative))
    prediction = manager_with(Path(), 0, pool=pool).predict(SOURCE, TARGET)
    assert np.array_equal(prediction.image, 255 - TARGET)
    assert prediction.results["t"].table is negative
    assert run_worker(Tinting("t", None), WorkerRequest(SOURCE, TARGET, is_prediction=True)).table is None
    wrong = run_worker(Tinting("t", "table"), WorkerRequest(SOURCE, TARGET, is_prediction=True))
    assert wrong.failure is not None
    assert (wrong.failure.kind, wrong.is_valid(), wrong.value) == ("bad_output", False, None)


def test_a_subclass_with_another_process_does_not_speak_by_an_inherited_table() -> None:
    class Mirrored(ColorTransferWorker):
        def process(self, data: Mapping[str, Image]) -> Image:
            return np.ascontiguousarray(super().process(data)[:, ::-1])

    request = WorkerRequest(SOURCE, TARGET, is_prediction=True)
    result = run_worker(Mirrored("m", ReinhardMap()), request)
    assert result.table is None
    assert np.array_equal(result.value, run_worker(ColorTransferWorker("m", ReinhardMap()), request).value[:, ::-1])  # type: ignore[arg-type, index]


def test_a_time_limit_holds_for_tables_too() -> None:
    result = ThreadRunner(time_limit=60.0).run(MAPS[1], WorkerRequest(SOURCE, TARGET, is_prediction=True))
    assert result.table is not None


# --- LUTs -----------------------------------------------------------------------------------------------------------


def cube_of(text: str) -> npt.NDArray[np.float64]:
    """Read a .cube file as its specification says; returns n×n×n×3 in order [r, g, b] with R, G, B in 0–1."""
    size, rows = 0, []
    for line in text.splitlines():
        word, *rest = line.split()
        if word == "LUT_3D_SIZE":
            size = int(rest[0])
        elif word in {"DOMAIN_MIN", "DOMAIN_MAX"}:
            assert {float(each) for each in rest} == {float(word == "DOMAIN_MAX")}
        elif word != "TITLE":
            rows.append([float(word), *map(float, rest)])
    assert len(rows) == size**3
    return np.array(rows).reshape(size, size, size, 3).transpose(2, 1, 0, 3)  # red varies fastest


def through(cube: npt.NDArray[np.float64], image: Image) -> Image:
    """Apply a LUT by tetrahedral interpolation, as editors do."""
    place = image[..., ::-1].reshape(-1, 3) / 255.0 * (len(cube) - 1)
    low = np.minimum(place.astype(int), len(cube) - 2)
    part = place - low
    order = np.argsort(-part, axis=1, kind="stable")
    at, value = low.copy(), cube[tuple(low.T)].copy()
    rows = np.arange(len(at))
    for step in range(3):
        before = cube[tuple(at.T)]
        at[rows, order[:, step]] += 1
        value += part[rows, order[:, step], None] * (cube[tuple(at.T)] - before)
    return np.rint(value.reshape(image.shape)[..., ::-1] * 255.0).clip(0, 255).astype(np.uint8)


def predicted(*workers: Worker) -> Prediction:
    return manager_with(Path(), 0, pool=pool_of(*workers)).predict(SOURCE, TARGET)


def test_an_answer_is_written_as_a_lut_that_other_programs_apply(tmp_path: Path) -> None:
    answer = predicted(*MAPS)
    path = tmp_path / "look.CUBE"
    answer.save_lut(path, title="Late summer, Kodak 2383")
    text = path.read_text()
    assert text.startswith('TITLE "Late summer, Kodak 2383"\nLUT_3D_SIZE 33\n')
    assert color_difference(through(cube_of(text), TARGET), answer.image) < 1.0
    answer.save_lut(path, 17)
    assert color_difference(through(cube_of(path.read_text()), TARGET), answer.image) < 1.5


def test_red_varies_fastest(tmp_path: Path) -> None:
    cube = cube_of(SWAPPED.to_cube(5))
    expected = np.stack(np.meshgrid(*3 * [np.linspace(0, 1, 5)], indexing="ij"), axis=-1)[..., ::-1]
    np.testing.assert_allclose(cube, expected, atol=1e-6)
    rows = SWAPPED.to_cube(2).splitlines()[4:]
    assert rows[0] == "0.000000 0.000000 0.000000"
    assert rows[1] == "0.000000 0.000000 1.000000"  # pure red, which becomes blue


@pytest.mark.parametrize(("size", "title"), [(1, "t"), (257, "t"), (2.5, "t"), (33, 'a "b"'), (33, "a\nb")])
def test_a_lut_of_another_kind_is_refused(size: Any, title: str) -> None:
    with pytest.raises(InvalidArgumentError):
        DARKER.to_cube(size, title)


def test_what_no_lut_can_say_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "look.cube"
    with pytest.raises(InvalidArgumentError, match="'turned'"):
        predicted(FunctionWorker("turned", lambda _s, t: t[::-1]), MAPS[0]).save_lut(path)
    for name in ("look.lut", "no/look.cube"):
        with pytest.raises(InvalidArgumentError, match=r"\.cube"):
            predicted(MAPS[0]).save_lut(tmp_path / name)
    with pytest.raises(InvalidArgumentError, match="title"):
        predicted(MAPS[0]).save_lut(tmp_path / "look.cube", title=5)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
