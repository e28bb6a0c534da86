"""Everything that the trained ensemble competes with, judged on the same pixels, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from levels import LEVELS, Level, closeness, level_manager, level_pool
from support import HostPool, brighter, failing, manager_with, picture, pool_of, save, save_triple
from tsm_training import (
    BayesianWeightLearner,
    ExampleEvidence,
    FunctionWorker,
    Image,
    Outcome,
    TrainingManager,
)
from tsm_training.analysis import MIN_EXAMPLES, Baseline
from tsm_training.data import Preview, SessionCommit, TrainingExample
from tsm_training.engine import CrossValidation, Validation, ValidationResults
from tsm_training.ensemble import blend, renormalised, sample_grid
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation.baselines import Baselines, best_single_worker, shares_for
from tsm_training.evaluation.evaluated import EvaluatedExample, Pictures, Previews
from tsm_training.evaluation.validation import Judging, resampled
from tsm_training.images import read_image
from tsm_training.learning import FittedBlend, Group
from tsm_training.metrics import ColorDifference, GuideSimilarity, color_difference
from tsm_training.progress import ProgressReporter
from tsm_training.testing import make_session
from tsm_training.weights import LearnerCell


def styled(folder: Path, styles: Sequence[tuple[Any, int]], **settings: Any) -> TrainingManager:
    """Return a manager with an example for each style, whose truth is so many levels up."""
    manager = level_manager(folder, 0, **settings)
    manager.add_training_examples(
        [
            (*save_triple(folder, number, levels=levels), {} if style is None else {"style": style})
            for number, (style, levels) in enumerate(styles)
        ]
    )
    return manager


def scores_of(results: ValidationResults) -> list[dict[str, float]]:
    return [each["scores"] for each in results["per_example"]]


# --- what was in use before -----------------------------------------------------------------------------------------


def known(**accuracies: float) -> list[ExampleEvidence]:
    """Return what workers did on a few examples, again and again the same."""
    return [
        ExampleEvidence(f"{number}", {name: Outcome(accuracy) for name, accuracy in accuracies.items()})
        for number in range(4)
    ]


def grouped_learner(group_by: str | None, **favourites: str) -> BayesianWeightLearner:
    """Return a learner that has a blend for all requests, and for each group one that is all its favourite's."""
    learner = BayesianWeightLearner(alpha=1.0)
    learner.observe(known(a=0.5, b=0.5))
    members = tuple("0123")
    groups = {
        label: Group(4, learner.state.totals, fitted=FittedBlend({favourite: 1.0}, "test", 1.0, members))
        for label, favourite in favourites.items()
    }
    fitted = FittedBlend({"a": 0.5, "b": 0.5}, "test", 1.0, members)
    learned = attrs.evolve(learner.state, fitted=fitted, group_by=group_by, groups=groups)
    return learner.with_cell(LearnerCell(learned))


def test_what_was_in_use_before_answers_by_its_own_groups() -> None:
    before = grouped_learner("style", warm="a", cool="b")
    now = grouped_learner("season", warm="b")
    baselines = Baselines(now, ("a", "b"), before)
    shares = baselines.shares({"style": "warm", "season": "warm"})
    assert shares["previous"]["a"] > 0.5 > shares["trained"]["a"]
    shares = baselines.shares({"style": "cool"})
    assert shares["previous"]["b"] > 0.5 == shares["trained"]["b"]


def test_what_was_in_use_before_keeps_its_groups_where_the_new_one_has_none() -> None:
    before, now = grouped_learner("style", warm="a"), grouped_learner(None)
    shares = Baselines(now, ("a", "b"), before).shares({"style": "warm"})
    assert shares["previous"]["a"] > 0.5 == shares["trained"]["a"]
    assert "without_groups" not in shares


def test_the_ensemble_in_use_is_judged_as_it_was_before(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50)] * 8)
    first = manager.train(verbose=False, epochs=4, validation_split=0.4, group_by="style")["validation"]["contenders"]
    again = manager.train(verbose=False, epochs=4, validation_split=0.4)["validation"]["contenders"]
    assert first["trained"]["mean"] == again["previous"]["mean"]
    assert again["trained"]["mean"] < again["previous"]["mean"]  # type: ignore[operator]


# --- records and documents ------------------------------------------------------------------------------------------


def test_records_become_the_same_documents_again(trained: TrainingManager) -> None:
    validated, crossed = trained.validate(), trained.cross_validate(3)
    assert json.dumps(Validation.from_document(validated).to_document()) == json.dumps(validated)
    assert json.dumps(CrossValidation.from_document(crossed).to_document()) == json.dumps(crossed)
    nothing = Validation()
    assert (nothing.num_examples, nothing.ensemble_accuracy, nothing.baselines) == (0, None, {})
    said = nothing.verdict
    assert (said["decision"], said["in_use"], said["more"]) == ("collect more", "equal_weights", 8)


def test_documents_are_json_with_plain_texts(trained: TrainingManager, tmp_path: Path) -> None:
    def types(value: Any) -> set[type]:
        if isinstance(value, Mapping):
            return set().union(*(types(each) for each in [*value, *value.values()]))
        return set().union(*map(types, value)) if isinstance(value, (list, tuple)) else {type(value)}

    nothing = level_manager(tmp_path, 3).train(verbose=False, validation_split=0.0)
    assert nothing["validation"] == Validation().to_document()
    for document in (trained.validate(full=True), trained.cross_validate(3), last_validation(trained), nothing):
        assert types(document) <= {str, int, float, bool, type(None)}
        assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("key", ["contenders", "verdict", "per_example", "failures"])
def test_a_document_without_an_entry_is_refused(trained: TrainingManager, key: str) -> None:
    document = {name: value for name, value in trained.validate().items() if name != key}
    with pytest.raises(InvalidArgumentError, match=f"a document with {key}"):
        Validation.from_document(document)


# --- whole pictures -------------------------------------------------------------------------------------------------


def test_an_example_on_which_a_foreign_pool_breaks_down_the_second_time_has_no_whole_pictures(tmp_path: Path) -> None:
    class Moody(HostPool):
        def execute_parallel(self, data: dict[str, Image]) -> Any:
            results = super().execute_parallel(data)
            if len(self.requests) == 4:
                raise OSError("out of memory")
            return results

    pool = Moody({"same": lambda _source, target: target, "flat": lambda _s, target: np.full_like(target, 128)})
    results = level_manager(tmp_path, 3, pool=pool).validate(full=True)
    assert [bool(scores) for scores in scores_of(results)] == [False, True, True]
    assert (results["num_examples"], results["ensemble_examples"]) == (3, 2)


# --- answering one group --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3)], ids=repr)
def test_equal_numbers_are_one_group(tmp_path: Path, value: Any) -> None:
    manager = styled(tmp_path, [(3, 50), (4, 0)] * 4)
    manager.train(verbose=False, epochs=5, validation_split=0.0, group_by="style")
    request = picture(100), picture(101)
    common = manager.predict(*request).blend_weights["above"]
    assert manager.predict(*request, group=value).blend_weights["above"] > common + 0.1


@pytest.mark.parametrize(
    "value", [[3], {"a": 1}, b"warm", float("nan"), float("inf"), np.float64("nan"), 10**400, object()]
)
def test_a_group_is_text_a_number_or_a_truth_value(tmp_path: Path, value: Any) -> None:
    manager = styled(tmp_path, [("warm", 50), ("cool", 0)])
    manager.train(verbose=False, validation_split=0.0, group_by="style")
    with pytest.raises(InvalidArgumentError, match="group must be text, a finite number, True or False"):
        manager.predict(picture(0), picture(1), group=value)


# --- the baselines --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingManager:
    """Return a manager that has been trained on some of its examples, for looking only."""
    manager = level_manager(tmp_path_factory.mktemp("trained"), 12)
    manager.train(verbose=False, epochs=3, validation_split=0.5)
    return manager


def last_validation(manager: TrainingManager) -> ValidationResults:
    validation: ValidationResults | None = manager.data_manager.get_all_sessions()[-1].validation  # type: ignore[assignment]
    assert validation is not None
    return validation


def pictures_of(example: TrainingExample) -> tuple[dict[str, Image], Image, Image]:
    """Return the workers' pictures, the target and the ground truth of an example."""
    target, truth = read_image(example.target_path), read_image(example.ground_truth_path)
    return {name: brighter(target, levels) for name, levels in LEVELS.items()}, target, truth


def test_all_baselines_are_judged_on_the_same_pixels(trained: TrainingManager) -> None:
    validation = last_validation(trained)
    shares = {name: each["blend_weights"] for name, each in validation["contenders"].items()}
    assert shares["trained"] == trained.weight_learner.get_blend_weights()
    for name in ("equal_weights", "previous"):
        assert shares[name] == pytest.approx(dict.fromkeys(LEVELS, 1 / 3))
    assert shares["best_single"] == {"above": 0.0, "below": 1.0, "far": 0.0}
    assert shares["untouched"] is None
    for each in validation["per_example"]:
        outputs, target, truth = pictures_of(trained.data_manager.get_example(each["example_id"]))
        expected = {name: closeness(blend(outputs, known), truth) for name, known in shares.items() if known}
        scores = {name: score for name, score in each["scores"].items() if name != "control"}
        assert scores == {**expected, "untouched": closeness(target, truth)}


def test_the_mean_of_a_baseline_is_over_all_examples_that_were_judged(trained: TrainingManager) -> None:
    validation = last_validation(trained)
    for name, each in validation["contenders"].items():
        assert each["mean"] == pytest.approx(np.mean([scores[name] for scores in scores_of(validation)]))
    assert validation["ensemble_accuracy"] == validation["contenders"]["trained"]["mean"]
    assert validation["ensemble_examples"] == 6


def test_means_and_gains_agree_where_targets_repeat(tmp_path: Path) -> None:
    """Both count each target once, so that one can be subtracted from the other."""
    manager = level_manager(tmp_path, 0)
    rows = [save_triple(tmp_path, seed) for seed in range(9)]
    manager.add_training_examples(rows)
    manager.add_training_examples([(rows[number][0], rows[0][1], rows[0][2]) for number in range(1, 6)])
    for results in (
        manager.train(verbose=False, validation_split=0.0) and manager.validate(),
        manager.cross_validate(3),
    ):
        comparisons, means = results["verdict"]["comparisons"], results["contenders"]
        for name, comparison in comparisons.items():
            if means["trained"]["mean"] is not None:
                expected = means["trained"]["mean"] - means[name]["mean"]  # type: ignore[operator]
                assert comparison["mean_difference"] == pytest.approx(expected)
    assert comparisons["untouched"]["n"] == 9
    rows_of_all = np.mean([each["scores"]["untouched"] for each in results["per_example"]])
    assert means["untouched"]["mean"] != pytest.approx(rows_of_all)


def test_whole_pictures_are_judged_like_previews(tmp_path: Path, trained: TrainingManager) -> None:
    small, whole = trained.validate(), trained.validate(full=True)
    assert whole == small  # the previews of small pictures are these pictures
    large = level_manager(tmp_path, 0)
    large.add_training_examples([save_triple(tmp_path, seed, size=(100, 300)) for seed in range(4)])
    large.train(verbose=False, epochs=3, validation_split=0.0)
    small, whole = large.validate(), large.validate(full=True)
    for preview, full in zip(scores_of(small), scores_of(whole), strict=True):
        assert preview != full
        assert preview == pytest.approx(full, abs=0.01)
    first = large.data_manager.get_all_examples()[0]
    _outputs, target, truth = pictures_of(first)
    assert scores_of(whole)[0]["untouched"] == closeness(target, truth)
    assert scores_of(small)[0]["untouched"] == closeness(sample_grid(target), sample_grid(truth))


def test_whole_pictures_need_no_previews_and_the_workers_run_for_them(tmp_path: Path) -> None:
    calls: list[str] = []
    pool = level_pool(calls)
    manager = level_manager(tmp_path, 3, pool=pool)
    manager.validate()
    for example in manager.data_manager.get_all_examples():
        manager.data_manager.save_evaluations([], [Preview(example.known_files.digest, "target", b"no picture")])
    assert manager.validate()["ensemble_accuracy"] is None
    assert len(calls) == 9
    assert manager.validate(full=True)["ensemble_examples"] == 3
    assert len(calls) == 18


def test_an_example_that_can_no_longer_be_read_has_no_whole_pictures(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 3)
    manager.validate()
    Path(manager.data_manager.get_all_examples()[1].source_path).unlink()
    results = manager.validate(full=True)
    assert [bool(scores) for scores in scores_of(results)] == [True, False, True]
    assert results["num_examples"] == 3


def test_an_example_on_which_every_worker_fails_now_has_no_whole_pictures(tmp_path: Path) -> None:
    broken: list[int] = []

    def process(_source: Image, target: Image) -> Image:
        if broken:
            raise RuntimeError("tired")
        return target

    manager = level_manager(tmp_path, 2, pool=pool_of(FunctionWorker("moody", process, version="1")))
    manager.validate()
    broken.append(1)
    results = manager.validate(full=True)
    assert scores_of(results) == [{}, {}]
    assert results["ensemble_accuracy"] is None
    assert (results["verdict"]["n"], results["verdict"]["more"]) == (0, 8)


# --- workers that fail ----------------------------------------------------------------------------------------------


def failing_on(number: int, name: str, levels: int) -> FunctionWorker:
    """Return a worker that fails on one of the examples."""
    refused = picture(2 * number + 1).tobytes()

    def process(_source: Image, target: Image) -> Image:
        if target.tobytes() == refused:
            raise RuntimeError("not this one")
        return brighter(target, levels)

    return FunctionWorker(name, process, version="1")


def test_where_the_best_single_worker_fails_it_has_no_picture_and_the_others_share(tmp_path: Path) -> None:
    pool = pool_of(failing_on(2, "below", 0), Level("above", 50), Level("far", -60))
    manager = level_manager(tmp_path, 8, pool=pool)
    examples = manager.data_manager.get_all_examples()
    judged = [examples[number] for number in (1, 2, 3)]
    manager.training_engine.train_batch([*examples[:1], *examples[4:]], 3, verbose=False)
    results = manager.training_engine.validate(judged)
    assert [("best_single" in scores) for scores in scores_of(results)] == [True, False, True]
    outputs, _target, truth = pictures_of(judged[1])
    left = {name: outputs[name] for name in ("above", "far")}
    shares = manager.weight_learner.get_blend_weights()
    assert scores_of(results)[1]["trained"] == closeness(blend(left, renormalised(shares, left)), truth)
    # Means are over the examples on which each was judged.
    for name, each in results["contenders"].items():
        scores = [scores[name] for scores in scores_of(results) if name in scores]
        assert each["num_examples"] == len(scores) == (2 if name == "best_single" else 3)
        assert each["mean"] == pytest.approx(np.mean(scores))
    assert results["failures"] == {"above": 0, "below": 1, "far": 0}


def test_where_no_worker_gives_a_picture_nothing_is_judged(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 3, pool=pool_of(failing("broken")))
    results = manager.validate()
    assert scores_of(results) == [{}, {}, {}]
    assert [each["delta_e"] for each in results["per_example"]] == [{}, {}, {}]
    assert {(each["mean"], each["mean_delta_e"]) for each in results["contenders"].values()} == {(None, None)}
    assert (results["verdict"]["n"], results["verdict"]["more"], results["mean_delta_e"]) == (0, 8, None)
    assert (results["unseen_examples"], results["ensemble_examples"]) == (3, 0)


# --- workers that learn, and pictures that are not kept -------------------------------------------------------------


def learner_of(**accuracies: float) -> BayesianWeightLearner:
    learner = BayesianWeightLearner(alpha=1.0)
    learner.observe(known(**accuracies))
    return learner


def test_the_best_fixed_worker_competes_where_it_is_another_one_than_the_best() -> None:
    learner = learner_of(look=0.9, a=0.8, b=0.7)
    baselines = Baselines.of(learner, ("a", "b", "look"), trainable={"look"})
    shares = baselines.shares()
    assert baselines.bests == {"best_single": "look", "best_fixed": "a"}
    assert shares["best_fixed"] == {"a": 1.0, "b": 0.0, "look": 0.0}
    assert shares["equal_weights"] == {"a": 0.5, "b": 0.5, "look": 0.0}
    without = Baselines.of(learner, ("a", "b", "look"))
    assert without.bests == {"best_single": "look", "best_fixed": "look"}
    assert "best_fixed" not in without.shares()
    assert without.shares()["equal_weights"] == pytest.approx({"a": 1 / 3, "b": 1 / 3, "look": 1 / 3})
    alone = Baselines.of(learner, ("look",), trainable={"look"})
    assert (alone.best_fixed, alone.shares()["equal_weights"]) == (None, {"look": 1.0})


def test_a_worker_that_was_not_fitted_before_had_no_share_in_what_was_in_use() -> None:
    learner, before = learner_of(look=0.9, a=0.8), learner_of(a=0.8)
    assert Baselines.of(learner, ("a", "look"), before, {"look"}).shares()["previous"] == {"a": 1.0, "look": 0.0}
    assert Baselines.of(learner, ("a", "look"), learner, {"look"}).shares()["previous"]["look"] > 0.5


def flat(level: int) -> Image:
    return np.full((4, 6, 3), level, np.uint8)


def levels_of(
    baselines: Baselines,
    outputs: Mapping[str, Image],
    valid: Sequence[str] | None = None,
    earlier: Mapping[str, Image] | None = None,
) -> dict[str, int]:
    pictures = Pictures(outputs, flat(9), flat(0), outputs if valid is None else valid)
    others = {} if earlier is None else {Baseline.PREVIOUS: earlier}
    return {name: int(made[0, 0, 0]) for name, made in baselines.pictures(pictures, {}, others)}


def test_whose_pictures_are_not_all_kept_is_left_out() -> None:
    baselines = Baselines(BayesianWeightLearner(), ("a", "b"), {"a": 0.9995, "b": 0.0005}, "a", "b")
    both = {"a": flat(100), "b": flat(200)}
    equal = {"trained": 150, "equal_weights": 150}
    found = {"best_single": 100, "previous": 100, "untouched": 9}
    assert levels_of(baselines, both) == {**equal, **found, "best_fixed": 200}
    assert levels_of(baselines, {"a": both["a"]}, valid=["a", "b"]) == found  # what hardly counts may be missing
    assert levels_of(baselines, {}, valid=["a", "b"]) == {"untouched": 9}
    assert levels_of(baselines, {"a": both["a"]}) == {"trained": 100, "equal_weights": 100, **found}  # b has failed
    earlier = {"a": flat(50), "stranger": flat(0)}
    assert levels_of(baselines, both, earlier=earlier)["previous"] == 50
    assert levels_of(baselines, both, earlier=earlier)["best_single"] == 100


class Forgetful(Previews):
    """Has the pictures of one worker only, but for the first examples."""

    def get(self, item: EvaluatedExample) -> Pictures | None:
        found = super().get(item)
        assert found is not None
        number = int(item.example.target_path.rpartition("_")[2].partition(".")[0])
        kept = found.outputs if number < 4 else {"below": found.outputs["below"]}
        return attrs.evolve(found, outputs=kept)


@pytest.mark.parametrize("truth", [20, 0])
def test_an_example_counts_for_everybody_whose_pictures_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: int
) -> None:
    manager = level_manager(tmp_path, 0, pool=level_pool(above=50, below=10))
    rows = [save_triple(tmp_path, number, levels=truth) for number in range(24)]
    manager.add_training_examples(rows)
    monkeypatch.setattr("tsm_training.evaluation.evaluator.Previews", Forgetful)
    engine = manager.training_engine
    examples = manager.data_manager.get_all_examples()
    engine.train_batch(examples[16:], 30, verbose=False)
    results = engine.validate(examples[:16])
    counts = {name: each["num_examples"] for name, each in results["contenders"].items()}
    assert counts == {"trained": 16, "equal_weights": 4, "best_single": 16, "untouched": 16}
    assert results["ensemble_examples"] == 16
    verdict = results["verdict"]
    assert (verdict["best_single"], verdict["best_fixed"]) == ("below", "below")
    assert verdict["num_examples"] == 4
    if truth:
        assert verdict["sentence"].endswith(
            " Judged on 4 of 16 held-out examples, and beside the untouched target on 16: of the others not all "
            "pictures are kept; validate(…, full=True) makes them again."
        )
    else:
        assert verdict["decision"] == "no gain"
        assert "held-out examples" not in verdict["sentence"]
    assert engine.validate(examples[:16], full=True)["verdict"]["num_examples"] == 16


def test_what_was_in_use_can_be_judged_with_the_fits_that_it_had(tmp_path: Path) -> None:
    """A worker that learns may have the same share as before, and be better for what it has learned since."""
    manager = level_manager(tmp_path, 3)
    manager.validate()
    engine, store = manager.training_engine, manager.data_manager
    items = engine.evaluator.evaluate(store.get_all_examples()).evaluated
    learner = learner_of(above=0.5, below=0.9, far=0.5)

    def before(_item: EvaluatedExample, pictures: Pictures) -> Mapping[str, Image]:
        return {"below": brighter(pictures.target, 20)}  # which is the truth

    baselines = Baselines.of(learner, tuple(LEVELS), {"below": 1.0})
    judging = Judging(baselines, engine.judge, Previews(store).get, rivals={})
    for judge, expected in (
        (judging, 1.0 - 20 / 255),
        (attrs.evolve(judging, others={Baseline.PREVIOUS: before}), 1.0),
    ):
        scores = [each["scores"] for each in judge.judged(items, ProgressReporter())]
        assert [each["previous"] for each in scores] == pytest.approx([expected] * 3, abs=0.02)
        assert [each["best_single"] for each in scores] == pytest.approx([1.0 - 20 / 255] * 3, abs=0.02)


# --- colour differences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [closeness, ColorDifference(), GuideSimilarity()])
def test_the_mean_colour_difference_stands_beside_the_similarity(tmp_path: Path, metric: Any) -> None:
    manager = level_manager(tmp_path, 12, metric=metric)
    manager.train(verbose=False, validation_split=0.5)
    results = last_validation(manager)
    for each in results["per_example"]:
        assert each["delta_e"].keys() == each["scores"].keys() - {"control"}
        _outputs, target, truth = pictures_of(manager.data_manager.get_example(each["example_id"]))
        assert each["delta_e"]["untouched"] == pytest.approx(color_difference(target, truth), abs=1e-9)
        if isinstance(metric, ColorDifference):
            assert each["delta_e"]["trained"] == 100.0 * (1.0 - each["scores"]["trained"])
    for name, known_means in results["contenders"].items():
        mean = np.mean([each["delta_e"][name] for each in results["per_example"]])
        assert known_means["mean_delta_e"] == pytest.approx(mean)
    assert results["mean_delta_e"] == pytest.approx(results["contenders"]["trained"]["mean_delta_e"])
    crossed = manager.cross_validate(3)
    assert crossed["mean_delta_e"] == pytest.approx(np.mean([e["delta_e"]["trained"] for e in crossed["per_example"]]))


def test_a_metric_that_judges_colours_otherwise_is_no_colour_difference(tmp_path: Path) -> None:
    class Halved(ColorDifference):
        def __call__(self, output: Image, ground_truth: Image, /) -> float:
            return super().__call__(output, ground_truth) / 2

        prepare = None  # type: ignore[assignment]

    manager = level_manager(tmp_path, 2, metric=Halved())
    for each in manager.validate()["per_example"]:
        _outputs, target, truth = pictures_of(manager.data_manager.get_example(each["example_id"]))
        assert each["delta_e"]["untouched"] == pytest.approx(color_difference(target, truth), abs=1e-9)


# --- the control ----------------------------------------------------------------------------------------------------


def whose(_output: Image, truth: Image) -> float:
    """Return which truth it was, if truths are flat."""
    return float(truth[0, 0, 0]) / 255.0


def flat_manager(folder: Path, rows: Sequence[tuple[int, int, int]]) -> TrainingManager:
    """Return a manager with examples of these targets, levels of the truth and widths."""
    manager = level_manager(folder, 0, metric=whose)
    manager.add_training_examples(
        [
            (
                save(folder / "source.png", picture(0)),
                save(folder / f"target {target} {width}.png", picture(target, 6, width)),
                save(folder / f"truth {level} {width}.png", np.full((6, width, 3), level, np.uint8)),
            )
            for target, level, width in rows
        ]
    )
    return manager


def controls(results: ValidationResults) -> list[int | None]:
    scores = [each.get("control") for each in scores_of(results)]
    return [None if score is None else round(255 * score) for score in scores]


def test_the_control_is_the_truth_of_an_example_with_another_target(tmp_path: Path) -> None:
    rows = [(1, 10, 8), (1, 20, 8), (2, 30, 8), (3, 40, 8)]
    assert controls(flat_manager(tmp_path, rows).validate()) == [30, 30, 40, 10]


def test_the_control_judges_the_picture_of_the_trained_ensemble(trained: TrainingManager) -> None:
    validation = last_validation(trained)
    examples = [trained.data_manager.get_example(each["example_id"]) for each in validation["per_example"]]
    shares = validation["blend_weights"]
    for number, scores in enumerate(scores_of(validation)):
        outputs, _target, _truth = pictures_of(examples[number])
        _outputs, _target, rival = pictures_of(examples[(number + 1) % len(examples)])
        assert scores["control"] == closeness(blend(outputs, shares), rival)


def test_a_control_may_have_another_size(tmp_path: Path) -> None:
    manager = flat_manager(tmp_path, [(1, 10, 8), (2, 20, 16)])
    assert controls(manager.validate()) == controls(manager.validate(full=True)) == [20, 10]


@pytest.mark.parametrize("rows", [[(1, 10, 8), (1, 20, 8)], [(1, 10, 8), (2, 10, 8)], [(1, 10, 8)]])
def test_without_another_target_and_truth_there_is_no_control(tmp_path: Path, rows: list[tuple[int, int, int]]) -> None:
    assert set(controls(flat_manager(tmp_path, rows).validate())) == {None}


def test_a_damaged_truth_is_nobodys_control(tmp_path: Path) -> None:
    manager = flat_manager(tmp_path, [(1, 10, 8), (2, 20, 8), (3, 30, 8)])
    manager.validate()
    digest = manager.data_manager.get_all_examples()[1].known_files.digest
    manager.data_manager.save_evaluations([], [Preview(digest, "ground_truth", b"no picture")])
    assert controls(manager.validate()) == [30, None, 10]


@pytest.mark.parametrize("shape", [(6, 8, 3), (3, 4, 3), (12, 16, 3), (7, 5, 3), (1, 1, 3)])
def test_a_picture_in_another_size_is_made_of_its_own_pixels(shape: tuple[int, ...]) -> None:
    image = picture(0, 6, 8)
    found = resampled(image, shape)
    assert found.shape == shape
    assert {pixel.tobytes() for pixel in found.reshape(-1, 3)} <= {pixel.tobytes() for pixel in image.reshape(-1, 3)}
    if shape == image.shape:
        assert np.array_equal(found, image)


# --- before and after -----------------------------------------------------------------------------------------------


def test_a_training_is_compared_with_what_was_in_use_before_it(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8)
    shares = []
    for _ in range(3):
        before = manager.weight_learner.get_blend_weights()
        baselines = manager.train(verbose=False, validation_split=0.4)["validation"]["contenders"]
        assert baselines["previous"]["blend_weights"] == before
        shares.append(baselines["trained"]["blend_weights"])
    assert shares[-1] == manager.weight_learner.get_blend_weights()


def test_validation_compares_with_what_was_in_use_before_the_last_training(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8)
    assert "previous" not in manager.validate()["contenders"]
    manager.train(verbose=False, validation_split=0.4)
    after_one = manager.weight_learner.get_blend_weights()
    manager.train(verbose=False, validation_split=0.4, epochs=3)
    assert manager.validate()["contenders"]["previous"]["blend_weights"] == after_one
    # Neither what was interrupted, nor a trial, nor a training that judged nothing says what was in use.
    with pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False, on_progress=interrupt)
    manager.with_learner(manager.weight_learner.fork()).train(verbose=False, validation_split=0.4)
    manager.train(verbose=False, validation_split=0.0)
    assert manager.validate()["contenders"]["previous"]["blend_weights"] == after_one


def test_a_session_of_an_earlier_release_says_nothing_about_what_was_in_use(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 2)
    old = make_session(validation={"num_examples": 2, "avg_accuracy": 0.5, "worker_accuracies": {}})
    manager.data_manager.begin_session(old)
    ended = attrs.evolve(old, status="completed")
    manager.data_manager.commit_session(old.session_id, lambda _held: SessionCommit(ended))
    assert "previous" not in manager.validate()["contenders"]
    manager.train(verbose=False, validation_split=0.5)
    later = attrs.evolve(old, session_id="later")
    manager.data_manager.begin_session(later)
    manager.data_manager.commit_session("later", lambda _held: SessionCommit(attrs.evolve(later, status="completed")))
    assert "previous" in manager.validate()["contenders"]


def interrupt(_progress: Any) -> None:
    raise KeyboardInterrupt


def test_workers_that_have_come_since_had_no_share_before(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8)
    manager.train(verbose=False, validation_split=0.4)
    manager.worker_pool.register_worker(Level("new", 20))  # type: ignore[attr-defined]
    shares = manager.validate()["contenders"]["previous"]["blend_weights"]
    assert shares == pytest.approx({"above": 1 / 3, "below": 1 / 3, "far": 1 / 3, "new": 0.0})


def test_only_examples_that_were_never_learned_from_count_in_a_verdict(trained: TrainingManager) -> None:
    [session] = trained.data_manager.get_all_sessions()
    everything = trained.validate()
    unseen = {each["example_id"]: each["is_unseen"] for each in everything["per_example"]}
    assert {example_id for example_id, is_unseen in unseen.items() if is_unseen} == set(session.validation_ids)
    assert everything["unseen_examples"] == 6
    assert everything["verdict"]["n"] > 0
    assert everything["verdict"]["num_examples"] == 6
    judged_then = last_validation(trained)["verdict"]
    assert judged_then is not None
    assert everything["verdict"]["comparisons"] == judged_then["comparisons"]
    assert everything["contenders"] == last_validation(trained)["contenders"]
    learned = trained.validate(session.training_ids)
    assert (learned["unseen_examples"], learned["verdict"]["n"]) == (0, 0)
    assert {each["mean"] for each in learned["contenders"].values()} == {None}


def test_examples_with_one_target_count_once_in_a_verdict(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 3)
    first = manager.data_manager.get_all_examples()[0]
    manager.add_training_example(first.target_path, first.target_path, first.ground_truth_path)
    verdict = manager.validate()["verdict"]
    assert verdict is not None
    assert (verdict["n"], verdict["num_examples"]) == (3, 4)


def test_where_nothing_was_learned_there_is_no_best_worker_to_compare_with(tmp_path: Path) -> None:
    baselines = level_manager(tmp_path, 3).validate()["contenders"]
    assert baselines.keys() == {"trained", "equal_weights", "untouched"}
    assert baselines["trained"]["mean"] == baselines["equal_weights"]["mean"]


def test_a_trial_notes_nothing_at_the_examples(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 2)
    manager.with_learner(manager.weight_learner.fork()).validate()
    assert all(example.validation_scores is None for example in manager.data_manager.get_all_examples())
    manager.validate()
    keys = {"avg_accuracy", "equal_weights_accuracy", "ensemble_accuracy", "validated_at"}
    assert all(set(example.validation_scores or ()) == keys for example in manager.data_manager.get_all_examples())


# --- groups ---------------------------------------------------------------------------------------------------------

ODD: Mapping[str, Any] = {
    "true": True,
    "0.1": 0.1,
    "-7": -7,
    "": "",
    "two\nlines": "two\nlines",
    "x" * 200: "x" * 300,
    "prices": "prices",
}


def test_values_of_all_kinds_name_groups(tmp_path: Path) -> None:
    values = [*ODD.values(), None, ["a list"], {"an": "object"}, "prices", True]
    manager = level_manager(tmp_path, 0)
    manager.add_training_examples(
        [(*save_triple(tmp_path, number), {"style": value}) for number, value in enumerate(values)]
    )
    results = manager.train(verbose=False, validation_split=0.3, group_by="style")
    state = manager.weight_learner.cell.state
    assert state.groups.keys() <= ODD.keys()
    labels = [each["group"] for each in manager.validate()["per_example"]]
    assert labels == [*ODD, None, None, None, "prices", "true"]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    for label in state.groups:
        manager.predict(picture(0), picture(1), group=ODD[label])


def test_with_groups_the_ensemble_without_them_competes_too(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50)] * 8)
    validation = manager.train(verbose=False, epochs=4, validation_split=0.4, group_by="style")["validation"]
    baselines = validation["contenders"]
    assert baselines["trained"]["mean"] > baselines["without_groups"]["mean"]  # type: ignore[operator]
    assert {each["group"] for each in validation["per_example"]} == {"low", "high"}
    assert manager.validate(full=True)["contenders"].keys() == manager.validate()["contenders"].keys()
    # What is noted at an example is how its own group's shares did.
    results, noted = manager.validate(), []
    for each in results["per_example"]:
        scores = manager.data_manager.get_example(each["example_id"]).validation_scores
        assert scores is not None
        assert scores["ensemble_accuracy"] == each["scores"]["trained"]
        noted.append(scores["avg_accuracy"])
    assert results["avg_accuracy"] == pytest.approx(np.mean([accuracy for accuracy in noted if accuracy is not None]))


def test_a_request_is_answered_with_the_shares_of_its_group(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50), (True, -60)] * 4)
    manager.train(verbose=False, epochs=5, validation_split=0.0, group_by="style")
    request = picture(100), picture(101)
    common = manager.predict(*request).blend_weights
    learner = manager.weight_learner
    for group, label, favourite in (("low", "low", "below"), ("high", "high", "above"), (True, "true", "far")):
        answer = manager.predict(*request, group=group)
        shares = learner.in_group(label).get_blend_weights()  # type: ignore[attr-defined]
        assert answer.blend_weights == pytest.approx(renormalised(shares, answer.blend_weights))
        assert answer.blend_weights[favourite] > 0.5
        assert answer.blend_weights[favourite] >= common.get(favourite, 0.0)
        used = {name: brighter(request[1], LEVELS[name]) for name in answer.blend_weights}
        assert np.array_equal(answer.image, blend(used, answer.blend_weights))


def test_a_request_of_an_unknown_group_is_answered_with_the_shares_of_all(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50)] * 3)
    manager.train(verbose=False, validation_split=0.0, group_by="style")
    request = picture(100), picture(101)
    assert manager.predict(*request, group="new").blend_weights == manager.predict(*request).blend_weights
    assert manager.predict(*request, group="").blend_weights == manager.predict(*request).blend_weights


def test_a_key_that_no_example_has_is_named_before_any_work(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50)] * 3)
    for ask in (manager.train, manager.cross_validate):
        with pytest.raises(InvalidArgumentError, match="that some example has; they have 'style', got 'season'"):
            ask(group_by="season")
    assert manager.data_manager.get_dataset_stats()["processed_examples"] == 0
    assert not manager.data_manager.get_all_sessions()


# --- results --------------------------------------------------------------------------------------------------------


def test_progress_tells_the_mean_so_far(trained: TrainingManager) -> None:
    seen: list[tuple[int, int, float | None]] = []
    results = trained.validate(on_progress=lambda p: seen.append((p.done, p.total, p.accuracy)))
    means = np.cumsum([scores["trained"] for scores in scores_of(results)]) / range(1, 13)
    validating = seen[-12:]
    assert [(done, total) for done, total, _accuracy in validating] == [(number, 12) for number in range(1, 13)]
    assert [accuracy for _done, _total, accuracy in validating] == pytest.approx(list(means))


# --- parts ----------------------------------------------------------------------------------------------------------


def test_the_best_single_worker_is_the_one_with_the_greatest_mean_where_a_failure_counts_0() -> None:
    learner = BayesianWeightLearner(alpha=0.5)
    learner.add_workers(["untested"])
    learner.observe(
        ExampleEvidence(str(n), {"steady": Outcome(0.7), "brilliant": Outcome(value), "same": Outcome(0.7)})
        for n, value in enumerate([0.95, 0.95, None])
    )
    statistics = learner.get_all_statistics()
    assert best_single_worker(statistics, ["brilliant", "steady", "same", "untested"]) == "same"  # the first of two
    assert best_single_worker(statistics, ["brilliant", "untested", "stranger"]) == "brilliant"
    assert best_single_worker(statistics, ["untested", "stranger"]) is None


def test_what_was_in_use_is_spread_over_the_workers_that_are_here() -> None:
    shares = Baselines(BayesianWeightLearner(), ("a", "b"), {"a": 0.2, "b": 0.2, "gone": 0.6}).shares()
    assert shares["previous"] == {"a": 0.5, "b": 0.5}
    assert "previous" not in Baselines(BayesianWeightLearner(), ("a", "b")).shares()


def test_shares_of_all_workers_are_those_of_the_learner() -> None:
    learner = grouped_learner("style", warm="a")
    assert shares_for(learner, None, None) == learner.get_blend_weights()


def test_whoever_adds_what_a_verdict_wants_gets_an_answer_from_validating(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=16)
    verdict = manager.train(validation_split=0.25, verbose=False)["validation"]["verdict"]
    assert verdict["more"] == MIN_EXAMPLES - 4
    manager.add_training_examples([save_triple(tmp_path, 100 + number) for number in range(verdict["more"])])
    assert manager.validate()["verdict"]["n"] == MIN_EXAMPLES


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "The 1 example was learned from already; only others can judge."),
        (3, "The 3 examples were all learned from already; only others can judge."),
    ],
)
def test_a_verdict_says_that_everything_was_learned_from_already(tmp_path: Path, count: int, words: str) -> None:
    """There are enough pictures, and nobody who counts them would guess why they count for nothing."""
    manager = level_manager(tmp_path, count)
    before = manager.validate()["verdict"]["sentence"]
    manager.train(verbose=False, epochs=30, validation_split=0.0)
    assert manager.validate()["verdict"]["sentence"].endswith(f" at least 8 are needed. {words}")
    assert "already" not in before
