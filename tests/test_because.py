"""What an answer rests on: the examples that it leans on, the familiarity of its look, and what becomes of colours."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import cloudpickle  # type: ignore[import-untyped]
import html5lib
import numpy as np
import pytest

from support import brightening, manager_with, picture, pool_of, save
from test_learned_look import LOOK, STYLES, examples, photo, request
from tsm_training import (
    Because,
    Image,
    LearnedLook,
    Observation,
    Prediction,
    TrainableWorker,
    TrainingManager,
    Worker,
)
from tsm_training.color_transfer.basis import basis_values
from tsm_training.ensemble import color_strip
from tsm_training.isolation import IsolatedRunner
from tsm_training.report import contact_sheet, report_page
from tsm_training.workers import WorkerRequest, WorkerResult, learned_version, run_worker

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS = [(list(STYLES)[i % 3], i % 12, (5 * i + 3) % 11) for i in range(24)]
"""Look, source and target of each example: every target comes with several looks."""


def learned_manager(**settings: Any) -> TrainingManager:
    return manager_with(Path(), examples=0, pool=pool_of(LearnedLook(), brightening("same", 0)), **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained database, ``x.db``, and its pictures."""
    folder = tmp_path_factory.mktemp("because")
    with learned_manager(db_path=folder / "x.db") as manager:
        for number, (look, source, target) in enumerate(ROWS):
            pictures = STYLES[look](photo(source)), photo(target), STYLES[look](photo(target))
            paths = [save(folder / f"{number}_{k}.png", each) for k, each in enumerate(pictures)]
            manager.add_training_examples([(paths[0], paths[1], paths[2], {"number": number})])
        manager.train(epochs=5, validation_split=0.0, verbose=False)
    return folder


@pytest.fixture(scope="module")
def manager(folder: Path) -> TrainingManager:
    return learned_manager(db_path=folder / "x.db")


def neighbour_of(number: int, source: int | None = None) -> tuple[Image, Image]:
    """Return a request with nearly an example's pictures, or with another source of the same look."""
    look, own, target = ROWS[number]
    pictures = STYLES[look](photo(own if source is None else source)), photo(target)
    first, second = (np.clip(each[3:, 2:].astype(int) + 1, 0, 255).astype(np.uint8) for each in pictures)
    return first, second


def because_of(manager: TrainingManager, *pictures: Image) -> Because:
    because = manager.predict(*pictures).because
    assert because is not None
    return because


def numbers_of(manager: TrainingManager, because: Because) -> list[int]:
    return [each.metadata["number"] for each in manager.data_manager.get_examples(list(because.examples))]


# --- which examples ---------------------------------------------------------------------------------------------------


def test_the_neighbour_is_named_first(manager: TrainingManager) -> None:
    named = [numbers_of(manager, because_of(manager, *neighbour_of(number)))[0] for number in range(24)]
    assert named == list(range(24))


def test_with_the_look_on_another_source_the_targets_neighbour_is_mostly_named_first(manager: TrainingManager) -> None:
    # Where it is not, the source looks more like another example's.
    named = [numbers_of(manager, because_of(manager, *neighbour_of(n, 90 + n)))[0] for n in range(24)]
    assert sum(number == n for n, number in enumerate(named)) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 4, 10])
def test_deleting_the_named_examples_changes_the_answer_more_than_deleting_five_others(
    manager: TrainingManager, folder: Path, tmp_path: Path, number: int
) -> None:
    pictures = neighbour_of(number)
    prediction = manager.predict(*pictures)
    assert prediction.because is not None
    named = list(prediction.because.examples)
    others = [e.example_id for e in manager.data_manager.get_all_examples() if e.example_id not in named]

    def change_without(ids: Sequence[str], name: str) -> float:
        shutil.copy(folder / "x.db", tmp_path / name)
        with learned_manager(db_path=tmp_path / name) as copy:
            for example_id in ids:
                copy.remove_training_example(example_id)
            return float(np.abs(copy.predict(*pictures).image.astype(float) - prediction.image).mean())

    chance = random.Random(number)
    by_others = [change_without(chance.sample(others, 5), f"{k}.db") for k in range(3)]
    assert len(named) == 5
    assert change_without(named, "named.db") > max(by_others)


def test_weights_are_rising_shares_of_the_whole(manager: TrainingManager) -> None:
    prediction = manager.predict(*neighbour_of(4))
    assert prediction.because is not None
    weights = list(prediction.because.examples.values())
    assert weights == sorted(weights, reverse=True)
    assert 0 < sum(weights) <= prediction.because.total <= prediction.blend_weights["learned_look"]
    assert prediction.because.familiarity == prediction.familiarity


def test_an_example_that_is_deleted_is_no_longer_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "x.db", tmp_path / "copy.db")
    with learned_manager(db_path=tmp_path / "copy.db") as copy:
        first = next(iter(because_of(copy, *neighbour_of(5)).examples))
        copy.remove_training_example(first)
        assert first not in because_of(copy, *neighbour_of(5)).examples


def test_examples_that_only_a_weights_file_knows_are_weighed_but_not_named(
    manager: TrainingManager, tmp_path: Path
) -> None:
    manager.export_weights(tmp_path / "weights.json")
    with learned_manager() as other:
        other.import_weights(tmp_path / "weights.json")
        there, here = because_of(other, *neighbour_of(2)), because_of(manager, *neighbour_of(2))
        assert there.examples == {}
        assert there.total == pytest.approx(here.total)
        assert "no example that is stored here" in other.predict(*neighbour_of(2))._repr_html_()


def test_nothing_is_given_where_nobody_has_learned() -> None:
    with manager_with(Path(), examples=0) as fixed:
        prediction = fixed.predict(picture(0), picture(1))
    assert prediction.because is None
    assert "leans on" not in prediction._repr_html_()


def test_a_group_that_is_told_leans_on_its_own_examples() -> None:
    fitted: Any = LOOK.fit(examples(24, grouped=True))
    groups = {o.digest: o.group for o in examples(24, grouped=True)}
    data = request("warm", group="warm")
    influence = fitted.get_influence(data, data["target"])
    assert {groups[digest] for digest, part in influence.items() if part} == {"warm"}
    assert 0.5 < sum(influence.values()) <= 1


def test_shares_are_how_the_variance_of_the_map_falls_with_the_weight_of_an_example() -> None:
    fitted: Any = LOOK.fit(examples(12))
    weights = np.full(12, 1 / 16)
    values = basis_values(photo(91).reshape(-1, 3)[:1000])
    gram = (values.T @ values / 1000)[np.triu_indices(84)]
    parts, variance = fitted._sums.information(weights, 0.03, gram)
    step = 1e-5
    for row in range(12):
        heavier = weights.copy()
        heavier[row] *= 1 + step
        fall = variance - fitted._sums.information(heavier, 0.03, gram)[1]
        assert fall / step == pytest.approx(parts[row], rel=1e-3)
    assert 0 < parts.sum() < variance


# --- how it travels ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Named(Worker):
    """Says of itself what it is told to say."""

    influence: Any
    worker_id: str = "named"
    version: str = ""

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"]

    def get_influence(self, data: Mapping[str, Image], result: Image) -> Any:
        return self.influence


@attrs.frozen
class Naming(TrainableWorker):
    """Leans on all of its examples alike."""

    worker_id: str = "named"

    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        return b"-"

    def fit(self, observations: Sequence[Observation]) -> Worker:
        influence = {o.digest: 0.5 / len(observations) for o in observations}
        return Named(influence, version=learned_version(observations))


def asked(influence: object, *, is_prediction: bool = True) -> WorkerResult:
    return run_worker(Named(influence), WorkerRequest(picture(0), picture(1), is_prediction=is_prediction))


def test_a_users_worker_may_say_it_too(tmp_path: Path) -> None:
    with manager_with(tmp_path, 8, pool=pool_of(Naming())) as manager:
        manager.train(verbose=False, validation_split=0.0)
        because = because_of(manager, picture(100), picture(101))
    assert list(because.examples.values()) == pytest.approx([0.5 / 8] * 5)
    assert because.total == pytest.approx(0.5)
    assert because.familiarity is None
    assert "Familiarity" not in because._repr_html_()


def test_copies_of_an_example_are_named_once(tmp_path: Path) -> None:
    with manager_with(tmp_path, 4, pool=pool_of(Naming())) as manager:
        first, *_ = manager.data_manager.get_all_examples()
        manager.add_training_example(first.source_path, first.target_path, first.ground_truth_path)
        manager.train(verbose=False, validation_split=0.0)
        assert len(because_of(manager, picture(100), picture(101)).examples) == 4


def test_only_predictions_ask_for_it() -> None:
    assert asked({"a": 0.5}, is_prediction=False).influence is None
    assert asked({"a": 0.5}).influence == {"a": 0.5}


@pytest.mark.parametrize("wrong", [{"a": -0.1}, {"a": 0.6, "b": 0.6}, {1: 0.5}, {"a": "0.5"}, {"a": np.nan}, [0.5], 1])
def test_what_are_no_shares_is_not_passed_on(wrong: object) -> None:
    assert asked(wrong).influence is None
    assert asked(wrong).is_valid()


@pytest.mark.slow
def test_it_comes_out_of_an_isolated_process() -> None:
    with IsolatedRunner() as runner:
        for is_prediction, expected in ((True, {"a": 0.25}), (False, None)):
            wanted = WorkerRequest(picture(0), picture(1), is_prediction=is_prediction)
            assert runner.run(Named({"a": 0.25}), wanted).influence == expected


# --- the strip --------------------------------------------------------------------------------------------------------


def test_the_strip_shows_colours_of_the_target_and_what_became_of_them() -> None:
    target = picture(1, 40, 50)
    before, after = color_strip(target, 255 - target)
    assert before.shape == after.shape == (12, 3)
    assert before.dtype == after.dtype == np.uint8
    assert np.array_equal(after, 255 - before)
    assert {tuple(color) for color in before} <= {tuple(color) for color in target.reshape(-1, 3)}
    luma = before @ [0.114, 0.587, 0.299]
    assert (np.diff(luma) > -1).all()
    assert luma[0] < np.median(target @ [0.114, 0.587, 0.299]) < luma[-1]


def test_a_single_pixel_has_a_strip() -> None:
    before, after = color_strip(picture(1, 1, 1), picture(2, 1, 1))
    assert len(before) == len(after) == 12


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_it_is_ready_for_json(manager: TrainingManager) -> None:
    because = because_of(manager, *neighbour_of(3))
    document = json.loads(json.dumps(because.to_dict()))
    assert [(each["example_id"], each["weight"]) for each in document["examples"]] == list(because.examples.items())
    assert (document["total"], document["familiarity"]) == (because.total, because.familiarity)
    blue, green, red = because.after[0].tolist()
    assert document["after"][0] == f"#{red:02x}{green:02x}{blue:02x}"
    assert len(document["before"]) == 12


def test_cards_name_the_examples_and_describe_the_strip(manager: TrainingManager) -> None:
    prediction = manager.predict(*neighbour_of(3))
    assert prediction.because is not None
    for card in (prediction._repr_html_(), prediction.because._repr_html_()):
        html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(card)
        assert all(example_id[:8] in card for example_id in prediction.because.examples)
        colors = prediction.because.to_dict()
        assert f"{colors['before'][0]} becomes {colors['after'][0]}" in card
        assert "familiarity of the look" in card


def test_report_and_contact_sheet_show_it(manager: TrainingManager) -> None:
    ids = [example.example_id for example in manager.data_manager.get_all_examples()][:2]
    page = report_page(manager.training_engine, example_ids=ids)
    assert len(re.findall("Leans on [0-9]+_1 [0-9]+ %, ", page)) == 2
    assert page.count("Familiarity of the look: ") == 2
    assert len(re.findall('alt="Colours of the target from dark to light, above', page)) == 2
    with_strip = contact_sheet(manager, ids)
    with manager_with(Path(), examples=0, pool=pool_of(brightening("same", 0)), storage=manager.data_manager) as fixed:
        assert contact_sheet(fixed, ids).shape[0] < with_strip.shape[0]
        assert "Leans on" not in report_page(fixed.training_engine, example_ids=ids)


def test_a_prediction_of_another_program_needs_no_reason() -> None:
    assert Prediction(picture(0), {"a": 1.0}, {}).because is None
