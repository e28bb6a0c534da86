"""The contact sheet: the right examples, the right pictures, and colours that say how far they are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import cv2
import numpy as np
import pytest

from support import (
    HostPool,
    brightening,
    brighter,
    failing,
    manager_with,
    picture,
    pool_of,
    put_examples,
    save,
    save_triple,
)
from tsm_training import BayesianWeightLearner, Image, TrainingManager, WorkerPool
from tsm_training.errors import ExampleNotFoundError, ImageError, InvalidArgumentError, NoExamplesError, NoWorkersError
from tsm_training.metrics import color_difference, color_difference_map
from tsm_training.report import contact_sheet
from tsm_training.report.pictures import SheetRow, draw_sheet, fitted, heat_picture, heat_top, look_at_examples


def trained(folder: Path, examples: int = 12) -> TrainingManager:
    manager = manager_with(folder, examples=examples)
    manager.train(validation_split=0.5, verbose=False)
    return manager


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TrainingManager:
    """A trained manager; no test may change its files or examples."""
    return trained(tmp_path_factory.mktemp("sheet"))


def held_out(manager: TrainingManager) -> list[str]:
    """Return the names of the held-out examples, the worst first."""
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.validation is not None
    ranked = sorted(session.validation["per_example"], key=lambda each: each["scores"]["trained"])
    return [Path(manager.data_manager.get_example(each["example_id"]).target_path).stem for each in ranked]


def rows_of(manager: TrainingManager, **settings: Any) -> list[SheetRow]:
    return look_at_examples(manager.training_engine, settings.pop("example_ids", None), **settings)


# --- which examples ---------------------------------------------------------------------------------------------------


def test_the_worst_and_the_best_held_out_examples_are_shown(manager: TrainingManager) -> None:
    ranked = held_out(manager)
    shown = rows_of(manager, rows=2)
    assert [row.title for row in shown] == [
        f"worst: {ranked[0]}",
        f"worst: {ranked[1]}",
        f"best: {ranked[-1]}",
        f"best: {ranked[-2]}",
    ]


def test_no_example_is_shown_twice(manager: TrainingManager) -> None:
    names = [row.name for row in rows_of(manager, rows=50)]
    assert sorted(names) == sorted(held_out(manager))


def test_chosen_examples_are_shown_as_they_were_asked_for(manager: TrainingManager) -> None:
    ids = [example.example_id for example in manager.data_manager.get_all_examples()]
    shown = rows_of(manager, example_ids=[ids[7], ids[2], ids[7]])
    assert [row.example_id for row in shown] == [ids[7], ids[2]]
    assert [row.title for row in shown] == ["target_7", "target_2"]


def test_examples_are_called_what_the_caller_calls_them(manager: TrainingManager) -> None:
    shown = rows_of(manager, name_of=lambda example: f"in {Path(example.source_path).parent.name[:3]}")
    assert [row.name for row in shown[:3]] == ["in she", "in she (2)", "in she (3)"]
    [chosen] = rows_of(manager, example_ids=[shown[0].example_id], name_of=lambda _example: "mine")
    assert chosen.title == "mine"


def test_without_a_validation_the_first_examples_are_shown(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=5)
    assert [row.title for row in rows_of(manager, rows=2)] == ["target_0", "target_1", "target_2", "target_3"]
    manager.train(validation_split=0.0, verbose=False)
    assert len(rows_of(manager, rows=1)) == 2


def test_removed_and_unreadable_examples_give_way(tmp_path: Path) -> None:
    manager = trained(tmp_path)
    ranked = held_out(manager)
    by_name = {Path(each.target_path).stem: each for each in manager.data_manager.get_all_examples()}
    manager.remove_training_example(by_name[ranked[0]].example_id)
    Path(by_name[ranked[1]].target_path).write_bytes(b"gone")
    assert rows_of(manager, rows=1)[0].title == f"worst: {ranked[2]}"


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_row_shows_what_the_ensemble_and_the_best_worker_make_of_it(manager: TrainingManager) -> None:
    row = rows_of(manager, rows=1)[0]
    example = manager.data_manager.get_example(row.example_id)
    prediction = manager.predict(example.source_path, example.target_path)
    assert row.single_id == "near"
    assert row.ensemble is not None
    assert np.array_equal(row.ensemble, prediction.image)
    assert row.single is not None
    assert np.array_equal(row.single, brighter(row.target, 22))
    assert row.differences is not None
    assert np.array_equal(row.differences, color_difference_map(row.ensemble, row.ground_truth))
    similarity = manager.training_engine.calculate_similarity
    untouched, ensemble, single = (
        f"{similarity(each, row.ground_truth):.3f}, ΔE {color_difference(each, row.ground_truth):.1f}"
        for each in (row.target, row.ensemble, row.single)
    )
    heat = f"mean {row.differences.mean():.1f}, 95 % below {np.percentile(row.differences, 95):.1f}"
    assert [(heading, caption) for heading, _picture, caption in row.cells(10.0)] == [
        ("source", "gives the colours"),
        ("target", untouched),
        ("ground truth", "what is wanted"),
        ("ensemble", ensemble),
        ("best single worker", single),
        ("colour difference", heat),
    ]


def test_a_worker_without_a_share_is_run_for_the_sheet(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=8)
    manager.train(epochs=30, validation_split=0.5, verbose=False)
    engine = manager.training_engine
    forced = {"far": 0.9999, "mid": 0.0001, "near": 0.0}

    @attrs.frozen(eq=False)
    class Stubborn(BayesianWeightLearner):
        def get_blend_weights(self, features: Any = None, *, worker_ids: Any = None) -> dict[str, float]:
            return dict(forced)

    stubborn = attrs.evolve(engine, weight_learner=Stubborn(cell=manager.weight_learner.cell))
    row = look_at_examples(stubborn, None, 1)[0]
    assert row.ensemble is not None
    assert np.array_equal(row.ensemble, brighter(row.target, -60))
    assert row.single is not None
    assert np.array_equal(row.single, brighter(row.target, 22))
    captions = [caption for _heading, _picture, caption in row.cells(10.0)]
    for caption, shown in zip(captions[3:5], (row.ensemble, row.single), strict=True):
        assert caption.endswith(f"ΔE {color_difference(shown, row.ground_truth):.1f}")


def test_a_foreign_pool_is_shown_too(tmp_path: Path) -> None:
    pool = HostPool({"near": lambda _s, t: brighter(t, 22), "far": lambda _s, t: brighter(t, -60)})
    manager = manager_with(tmp_path, examples=6, pool=pool)
    manager.train(validation_split=0.5, verbose=False)
    row = rows_of(manager, rows=1)[0]
    assert row.single_id == "near"
    assert row.single is not None


def test_groups_are_asked_for_by_their_example(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    rows = [(*save_triple(tmp_path, seed, levels=20 if seed % 2 else -60), {"k": seed % 2}) for seed in range(24)]
    manager.add_training_examples(rows)
    manager.train(epochs=20, validation_split=0.3, group_by="k", verbose=False)
    for row in rows_of(manager, rows=1):
        example = manager.data_manager.get_example(row.example_id)
        group = example.metadata["k"]
        wanted = manager.predict(example.source_path, example.target_path, group=group).image
        assert row.ensemble is not None
        assert np.array_equal(row.ensemble, wanted)


def test_large_pictures_are_shrunk_before_the_workers_see_them(manager: TrainingManager) -> None:
    row = rows_of(manager, rows=1, max_pixels=80)[0]
    assert row.is_shrunk
    assert row.target.shape == row.ground_truth.shape == (7, 10, 3)
    assert not rows_of(manager, rows=1)[0].is_shrunk


def test_an_example_of_an_old_database_is_looked_at_first(tmp_path: Path) -> None:
    manager = trained(tmp_path, 2)
    example = manager.data_manager.get_all_examples()[0]
    put_examples(manager.data_manager, attrs.evolve(example, files=None))
    (row,) = rows_of(manager, example_ids=[example.example_id])
    assert row.target.shape == (12, 16, 3)


def test_where_nobody_gives_a_picture_its_place_says_so(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2, pool=pool_of(failing("a"), failing("b")))
    (row, _other) = rows_of(manager)
    assert (row.ensemble, row.single, row.differences, row.single_id) == (None, None, None, None)
    assert [caption for _heading, _picture, caption in row.cells(10.0)][3:] == ["no picture"] * 3
    assert contact_sheet(manager).shape[2] == 3


def test_a_best_worker_that_fails_here_has_no_picture(manager: TrainingManager, tmp_path: Path) -> None:
    later = manager_with(
        tmp_path, examples=0, storage=manager.data_manager, pool=pool_of(failing("near"), brightening("mid", 60))
    )
    row = rows_of(later, rows=1)[0]
    assert (row.single_id, row.single) == ("near", None)
    assert row.ensemble is not None


# --- the heat map -----------------------------------------------------------------------------------------------------


def test_equal_pictures_are_black_and_distant_ones_bright() -> None:
    ramp = np.array([[0.0, 5.0, 10.0, 50.0]], np.float32)
    colours = heat_picture(ramp, 10.0).astype(int).sum(axis=2)[0]
    assert colours[0] < 30
    assert colours[0] < colours[1] < colours[2]
    assert colours[2] == colours[3]


def test_the_scale_ends_at_a_round_number_that_covers_nearly_all(manager: TrainingManager) -> None:
    row = rows_of(manager, rows=1)[0]

    def top(level: float) -> float:
        return heat_top([attrs.evolve(row, differences=np.full((5, 5), level, np.float32))])

    assert [top(level) for level in (0.1, 2.0, 2.1, 19.0, 49.0, 99.0)] == [1.0, 2.0, 3.0, 19.0, 49.0, 99.0]
    assert heat_top([attrs.evolve(row, differences=None)]) == 1.0
    dark, outlier = np.full((10, 100), 4.0, np.float32), np.full((1, 9), 60.0, np.float32)
    assert heat_top([attrs.evolve(row, differences=each) for each in (dark, outlier)]) == 4.0


# --- the sheet --------------------------------------------------------------------------------------------------------


def test_a_sheet_has_a_place_for_every_picture(manager: TrainingManager) -> None:
    sheet = contact_sheet(manager, rows=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * 22 + 2 * 24 + 4 * (24 + 168 + 24 + 14) + 2 * 24, 2 * 22 + 6 * 224 + 5 * 14, 3)
    row = rows_of(manager, rows=2)[0]
    shown = fitted(row.target, 224, 168)
    assert contains(sheet, shown)
    assert contains(sheet, fitted(row.ground_truth, 224, 168))


def contains(sheet: Image, part: Image) -> bool:
    found = cv2.matchTemplate(sheet, part, cv2.TM_SQDIFF)
    return bool(found.min() < 1.0 * part.size)


def test_words_stay_in_their_places(manager: TrainingManager) -> None:
    """The longest names change nothing outside the lines and columns that they are written in."""
    row = rows_of(manager, rows=1)[0]
    long, short = (
        draw_sheet([attrs.evolve(row, name=name * 100, single_id=name * 100, rank="worst")]) for name in ("W", "i")
    )
    changed = np.argwhere((long != short).any(axis=2))
    rows, columns = changed[:, 0], changed[:, 1]
    assert rows.min() >= 22 + 2 * 24
    assert rows.max() <= 22 + 3 * 24
    assert columns.min() >= 22
    assert columns.max() <= 22 + 5 * (224 + 14) - 14
    gap = (columns > 22 + 4 * (224 + 14) - 14) & (columns < 22 + 4 * (224 + 14))
    assert not gap.any()


@pytest.mark.parametrize(
    ("name", "written"),
    [("Köln, Straße", "Koln, Strasse"), ("Łódź", "Lodz"), ("名前", "?? (0123abcd)"), ("a–b", "a-b")],
)
def test_names_are_written_as_well_as_the_font_can(manager: TrainingManager, name: str, written: str) -> None:
    """A name that is lost in part is followed by what else tells the example from others."""
    row = attrs.evolve(rows_of(manager, rows=1)[0], example_id="0123abcd-4567", rank="")
    assert np.array_equal(draw_sheet([attrs.evolve(row, name=name)]), draw_sheet([attrs.evolve(row, name=written)]))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((10, 10), (168, 168)), ((10, 100), (22, 224)), ((1000, 10), (168, 2)), ((3, 4000), (1, 224))],
)
def test_pictures_of_any_shape_fit(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(picture(1, *size), 224, 168).shape[:2] == expected


def test_more_rows_than_there_can_be_show_all(manager: TrainingManager) -> None:
    assert len(rows_of(manager, rows=10**30)) == len(rows_of(manager, rows=50))


# --- what cannot be shown ---------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named(manager: TrainingManager, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"rows": 0}, {"max_pixels": 100}, {"name_of": "mine"}]
    for settings in wrong:
        with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
            contact_sheet(manager, **settings)
    with pytest.raises(InvalidArgumentError, match="subject must be a TrainingManager"):
        contact_sheet(object())  # type: ignore[arg-type]
    with pytest.raises(ExampleNotFoundError):
        contact_sheet(manager, ["nobody"])
    with pytest.raises(NoExamplesError):
        contact_sheet(manager, [])
    with pytest.raises(NoExamplesError):
        contact_sheet(manager_with(tmp_path, examples=0))
    with pytest.raises(NoWorkersError):
        contact_sheet(manager_with(tmp_path, examples=1, pool=WorkerPool()))
    other = manager_with(tmp_path, examples=1)
    example = other.data_manager.get_all_examples()[0]
    save(Path(example.ground_truth_path), picture(99, 5, 5))
    with pytest.raises(ImageError):
        contact_sheet(other, [example.example_id])
