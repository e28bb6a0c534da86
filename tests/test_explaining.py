"""Why an ensemble answers as it does, and the other questions about what was learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from known_ensembles import shifted
from levels import Level, level_manager, level_pool
from support import HostPool, failing, pool_of, save_triple
from tsm_training import Image, TrainingManager
from tsm_training.analysis import compare, probability_best
from tsm_training.data import Preview
from tsm_training.engine import Explanation
from tsm_training.ensemble import BlendExample, BlendProblem
from tsm_training.errors import ExampleNotFoundError, InvalidArgumentError, NoExamplesError, NothingEvaluatedError
from tsm_training.evaluation.evaluated import EvaluatedExample
from tsm_training.evaluation.explaining import explanation
from tsm_training.testing import make_evaluation, make_example

GREY = np.full((4, 6, 3), 100, np.uint8)


def closeness(output: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - GREY).mean()) / 255.0


def evaluated(number: int, errors: Mapping[str, Any], seconds: float = 0.5) -> tuple[EvaluatedExample, BlendExample]:
    """Return an example with a grey truth, on which workers err by so much; None stands for a failure."""
    outputs = {name: shifted(GREY, error) for name, error in errors.items() if error is not None}
    evaluations = {
        name: make_evaluation(
            f"digest {number}",
            name,
            accuracy=closeness(outputs[name]) if name in outputs else None,
            failure_kind=None if name in outputs else "raised",
            seconds=seconds,
        )
        for name in errors
    }
    item = EvaluatedExample(make_example(f"e{number}"), f"digest {number}", evaluations)
    accuracies = {name: closeness(output) for name, output in outputs.items()}
    return item, BlendExample(f"digest {number}", f"target {number}", outputs, GREY, accuracies, closeness)


def explained(
    rows: Sequence[Mapping[str, Any]], shares: Mapping[str, float], tolerance: float = 0.01, seconds: float = 0.5
) -> Explanation:
    pairs = [evaluated(number, row, seconds) for number, row in enumerate(rows)]
    # Where no worker gave a picture there is nothing to blend.
    examples = [example for _item, example in pairs if example.outputs]
    return explanation([item for item, _example in pairs], examples, shares, tolerance)


# --- redundancy -----------------------------------------------------------------------------------------------------


def pattern(seed: int) -> Any:
    return np.random.default_rng(seed).integers(-40, 41, GREY.shape)


def test_a_worker_that_makes_no_error_is_not_like_one_that_does() -> None:
    rows = [{"right": 0, "wrong": pattern(number)} for number in range(3)]
    workers = explained(rows, {"right": 0.5, "wrong": 0.5})["workers"]
    assert workers["right"]["redundancy"] == workers["wrong"]["redundancy"] == 0.0


def test_workers_that_make_no_error_can_stand_in_for_each_other() -> None:
    rows = [{"right": 0, "too": 0, "wrong": pattern(number)} for number in range(3)]
    workers = explained(rows, {"right": 0.4, "too": 0.4, "wrong": 0.2})["workers"]
    assert (workers["right"]["redundancy"], workers["right"]["most_similar_to"]) == (1.0, "too")
    assert (workers["too"]["redundancy"], workers["too"]["most_similar_to"]) == (1.0, "right")


def test_a_worker_that_gives_no_pictures_can_stand_in_for_nobody() -> None:
    rows = [{"broken": None, "works": pattern(number)} for number in range(3)]
    workers = explained(rows, {"broken": 0.5, "works": 0.5})["workers"]
    for each in workers.values():
        assert (each["redundancy"], each["most_similar_to"]) == (None, None)


def test_redundancy_looks_at_the_examples_where_both_gave_a_picture() -> None:
    twins = [{"a": pattern(number), "b": pattern(number), "c": pattern(number + 50)} for number in range(2)]
    alone = [{"a": pattern(number), "b": None, "c": pattern(number + 50)} for number in range(2, 6)]
    workers = explained([*twins, *alone], {"a": 0.4, "b": 0.2, "c": 0.4})["workers"]
    assert workers["a"]["redundancy"] == workers["b"]["redundancy"] == pytest.approx(1.0)
    assert (workers["a"]["most_similar_to"], workers["b"]["most_similar_to"]) == ("b", "a")


def test_a_copy_of_a_worker_is_redundant_and_named() -> None:
    rows = [{"one": pattern(number), "other": pattern(number + 50), "copy": pattern(number)} for number in range(3)]
    workers = explained(rows, {"copy": 0.3, "one": 0.3, "other": 0.4})["workers"]
    assert workers["one"]["redundancy"] == workers["copy"]["redundancy"] == pytest.approx(1.0)
    assert (workers["one"]["most_similar_to"], workers["copy"]["most_similar_to"]) == ("copy", "one")
    assert workers["other"]["redundancy"] == pytest.approx(0.0, abs=0.2)


def test_errors_in_opposite_directions_are_not_redundant() -> None:
    rows = [{"up": 10, "down": -10} for _ in range(3)]
    assert explained(rows, {"down": 0.5, "up": 0.5})["workers"]["up"]["redundancy"] == -1.0


# --- each worker's part ---------------------------------------------------------------------------------------------

ROWS = [
    {"dark": -40, "light": 20, "rare": None},
    {"dark": -20, "light": 30, "rare": 5},
    {"dark": -10, "light": 30, "rare": None},
]
SHARES = {"dark": 0.25, "light": 0.75, "rare": 0.0}


def test_accuracy_alone_is_the_mean_over_the_pictures_that_a_worker_gave() -> None:
    workers = explained(ROWS, SHARES)["workers"]
    assert workers["dark"]["solo_accuracy"] == pytest.approx(1 - 70 / 3 / 255)
    assert workers["rare"]["solo_accuracy"] == pytest.approx(1 - 5 / 255)
    always = explained([{"a": 0, "never": None}], {"a": 1.0, "never": 0.0})["workers"]["never"]
    assert (always["solo_accuracy"], always["failure_rate"]) == (None, 1.0)


def test_shares_and_failures_of_each_worker_are_told() -> None:
    workers = explained(ROWS, SHARES)["workers"]
    assert {worker_id: each["share"] for worker_id, each in workers.items()} == SHARES
    rates = {worker_id: each["failure_rate"] for worker_id, each in workers.items()}
    assert rates == {"dark": 0.0, "light": 0.0, "rare": pytest.approx(2 / 3)}
    assert workers["rare"]["gain"] == 0.0  # it has no share


def test_a_worker_that_was_not_asked_has_not_failed() -> None:
    workers = explained([{"a": 10, "b": 20}, {"a": 10}], {"a": 0.5, "b": 0.5})["workers"]
    assert (workers["b"]["failure_rate"], workers["b"]["solo_accuracy"]) == (0.0, pytest.approx(1 - 20 / 255))


def test_the_gain_is_what_the_ensemble_loses_without_the_worker() -> None:
    found = explained(ROWS, SHARES)
    problem = BlendProblem(tuple(evaluated(n, row)[1] for n, row in enumerate(ROWS)), ("dark", "light", "rare"))
    assert found["ensemble_accuracy"] == problem.score(SHARES)
    assert found["workers"]["dark"]["gain"] == problem.score(SHARES) - problem.score({"light": 1.0})
    assert found["workers"]["light"]["gain"] == problem.score(SHARES) - problem.score({"dark": 1.0})


def test_a_worker_that_does_harm_has_a_gain_below_0() -> None:
    workers = explained([{"good": 0, "bad": 50}] * 3, {"bad": 0.5, "good": 0.5})["workers"]
    assert workers["bad"]["gain"] == pytest.approx(-25 / 255)


def test_where_nobody_else_has_a_share_there_is_no_ensemble_to_compare_with() -> None:
    workers = explained(ROWS, {"dark": 1.0, "light": 0.0, "rare": 0.0})["workers"]
    assert workers["dark"]["gain"] is None
    assert workers["light"]["gain"] == 0.0


def test_a_single_worker_is_explained_too() -> None:
    found = explained([{"only": 10}] * 3, {"only": 1.0})
    assert found["workers"]["only"] == {
        "solo_accuracy": pytest.approx(1 - 10 / 255),
        "share": 1.0,
        "gain": None,
        "redundancy": None,
        "most_similar_to": None,
        "failure_rate": 0.0,
        "mean_seconds": 0.5,
    }
    accuracy = found["ensemble_accuracy"]
    assert found["subset"] == {
        "workers": ["only"],
        "accuracy": accuracy,
        "loss": 0.0,
        "seconds": 0.5,
        "seconds_saved": 0.0,
    }


def test_time_is_the_mean_over_all_pictures() -> None:
    items = [evaluated(number, {"a": 1}, seconds)[0] for number, seconds in enumerate((0.5, 1.0, 3.0))]
    assert explanation(items, [], {"a": 1.0}, 0.0)["workers"]["a"]["mean_seconds"] == pytest.approx(1.5)


def test_without_previews_what_needs_pictures_is_none() -> None:
    found = explanation([evaluated(number, row)[0] for number, row in enumerate(ROWS)], [], SHARES, 0.01)
    assert (found["num_examples"], found["picture_examples"]) == (3, 0)
    assert found["ensemble_accuracy"] is found["subset"] is None
    for each in found["workers"].values():
        assert each["gain"] is each["redundancy"] is each["most_similar_to"] is None
        assert each["solo_accuracy"] is not None


# --- who could be spared --------------------------------------------------------------------------------------------


def many(seed: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return what six workers do on four examples, and shares."""
    rng = np.random.default_rng(seed)
    rows = [{name: rng.integers(-60, 61, GREY.shape) for name in "abcdef"} for _ in range(4)]
    shares = rng.dirichlet(np.ones(6))
    return rows, dict(zip("abcdef", shares.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_subset_is_within_the_tolerance_and_smaller_where_more_is_tolerated(seed: int) -> None:
    rows, shares = many(seed)
    examples = tuple(evaluated(number, row)[1] for number, row in enumerate(rows))
    problem = BlendProblem(examples, tuple("abcdef"))
    sizes = []
    for tolerance in (0.0, 0.002, 0.005, 0.01, 0.05, 0.5):
        subset = explained(rows, shares, tolerance)["subset"]
        assert subset is not None
        assert subset["loss"] == problem.score(shares) - subset["accuracy"] <= tolerance
        left = {name: share for name, share in shares.items() if name in subset["workers"]}
        total = sum(left.values())
        assert subset["accuracy"] == pytest.approx(problem.score({name: s / total for name, s in left.items()}))
        sizes.append(len(subset["workers"]))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == 1


def test_who_has_the_smallest_shares_leaves_first() -> None:
    rows = [{"a": 40, "b": -40, "c": 20, "d": -20, "e": 0, "f": 0}] * 3
    subset = explained(rows, {**dict.fromkeys("abcd", 0.2), "e": 0.1, "f": 0.1}, tolerance=0.0)["subset"]
    assert subset is not None
    assert subset["workers"] == ["a", "b", "c", "d"]


def test_a_subset_saves_the_time_of_those_that_leave() -> None:
    rows = [{"good": 0, "bad": 50, "unused": 50}] * 3
    found = explained(rows, {"bad": 0.4, "good": 0.5995, "unused": 0.0005}, seconds=0.25)
    # A worker with a negligible share does not run for a prediction: leaving it out saves nothing.
    assert found["subset"] == {
        "workers": ["good"],
        "accuracy": 1.0,
        "loss": pytest.approx(-20.02 / 255, abs=0.003),
        "seconds": 0.25,
        "seconds_saved": 0.25,
    }


def test_the_search_for_a_subset_costs_what_is_stated() -> None:
    rng = np.random.default_rng(0)
    names = "abcdefghi"
    pairs = [evaluated(number, {name: rng.integers(-60, 61, GREY.shape) for name in names}) for number in range(2)]
    shares = dict.fromkeys(names, 1 / 9)
    explanation([item for item, _example in pairs], [example for _item, example in pairs], shares, 0.9)
    whole, without_each, leaving = 1, 9, 8
    assert max(example.metric_calls for _item, example in pairs) <= whole + without_each + 4 * leaving


# --- through the front door -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingManager:
    """Return a trained manager, for looking only; ``near`` is its best worker."""
    manager = level_manager(tmp_path_factory.mktemp("trained"), 9, pool=level_pool(far=-60, mid=60, near=22))
    manager.train(epochs=3, validation_split=0.3, verbose=False)
    return manager


def test_the_manager_explains_its_ensemble_and_runs_no_worker(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = level_manager(tmp_path, 6, calls)
    manager.train(epochs=3, validation_split=0.3, verbose=False)
    calls.clear()
    found = manager.explain()
    assert calls == []
    assert (found["num_examples"], found["picture_examples"]) == (6, 6)
    assert {w: each["share"] for w, each in found["workers"].items()} == manager.weight_learner.get_blend_weights()
    assert found["workers"]["below"]["share"] > 0.5
    assert found["ensemble_accuracy"] == pytest.approx(manager.validate()["ensemble_accuracy"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_tolerance_is_the_engines_rope_unless_given(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 1, rope=0.07)
    assert manager.explain()["tolerance"] == 0.07
    assert manager.explain(tolerance=0)["tolerance"] == 0.0


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan"), "0.1", True])
def test_a_tolerance_out_of_range_is_refused_before_any_work(tmp_path: Path, tolerance: Any) -> None:
    calls: list[str] = []
    manager = level_manager(tmp_path, 2, calls)
    with pytest.raises(InvalidArgumentError, match="tolerance must be a number of at least 0 and below 1"):
        manager.explain(tolerance=tolerance)
    assert calls == []


def test_some_examples_only_are_explained(trained: TrainingManager) -> None:
    ids = [example.example_id for example in trained.data_manager.get_all_examples()][:2]
    assert trained.explain(example_ids=ids)["num_examples"] == 2
    assert trained.compare("near", "far", example_ids=ids).n == trained.probability_best(example_ids=ids).n == 2
    with pytest.raises(ExampleNotFoundError):
        trained.explain(example_ids=["no such id"])
    with pytest.raises(NoExamplesError):
        trained.explain(example_ids=[])


def test_damaged_previews_leave_the_rest_of_the_explanation(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 2)
    manager.validate()
    for example in manager.data_manager.get_all_examples():
        damaged = Preview(example.known_files.digest, "ground_truth", b"no picture")
        manager.data_manager.save_evaluations([], [damaged])
    found = manager.explain()
    assert (found["num_examples"], found["picture_examples"], found["subset"]) == (2, 0, None)


def test_a_foreign_pool_is_explained_from_one_run(tmp_path: Path) -> None:
    pool = HostPool({"same": lambda _source, target: target, "broken": lambda _source, _target: None})
    manager = level_manager(tmp_path, 3, pool=pool)
    found = manager.explain()
    assert len(pool.requests) == 3
    assert found["picture_examples"] == 3
    assert found["workers"]["broken"]["failure_rate"] == 1.0


def test_where_nothing_can_be_evaluated_there_is_nothing_to_explain(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 1)
    Path(manager.data_manager.get_all_examples()[0].target_path).unlink()
    for ask in (manager.explain, manager.probability_best, lambda: manager.compare("far", "below")):
        with pytest.raises(NothingEvaluatedError):
            ask()  # type: ignore[operator]


# --- is one worker better, and which is the best? -------------------------------------------------------------------


def test_two_workers_are_compared_on_all_that_they_did(trained: TrainingManager) -> None:
    comparison = trained.compare("near", "far")
    table = trained.training_engine.score_table(trained.data_manager.get_all_examples())
    assert comparison == compare(table, "near", "far")
    assert comparison.n == 9
    assert comparison.conclusion == "better"
    assert trained.compare("far", "near").conclusion == "worse"


def test_the_engine_says_what_is_practically_equal_unless_it_is_given(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8, rope=0.02)
    assert manager.compare("above", "below").rope == 0.02
    assert manager.compare("above", "below", rope=0.9).conclusion == "practically equal"
    with pytest.raises(InvalidArgumentError, match="rope"):
        manager.compare("above", "below", rope=-1.0)


@pytest.mark.parametrize(("a", "b"), [("near", "nobody"), ("nobody", "near"), ("near", "near")])
def test_two_different_workers_that_are_here_can_be_compared(trained: TrainingManager, a: str, b: str) -> None:
    with pytest.raises(InvalidArgumentError):
        trained.compare(a, b)


def test_the_best_worker_is_told_from_all_that_they_did(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = level_manager(tmp_path, 9, pool=level_pool(calls, far=-60, mid=60, near=22))
    best = manager.probability_best()
    table = manager.training_engine.score_table(manager.data_manager.get_all_examples())
    assert best == probability_best(table)
    assert best.probabilities["near"] is not None
    assert best.probabilities["near"] > 0.95
    assert len(calls) == 27  # each once, whatever is asked


def test_a_failure_is_no_score_and_examples_with_one_target_are_one_group(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 2, pool=pool_of(Level("a", 10), failing("b")))
    source, target, truth = save_triple(tmp_path / "more", 0)
    manager.add_training_example(truth, target, truth)
    table = manager.training_engine.score_table(manager.data_manager.get_all_examples())
    assert table.column("b") == (None, None, None)
    assert all(score is not None for score in table.column("a"))
    assert table.groups[0] == table.groups[2] != table.groups[1]
    assert source.exists()


def test_an_example_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 3)
    first, second, third = manager.data_manager.get_all_examples()
    engine = manager.training_engine
    assert engine.score_table([first, second, first]) == engine.score_table([first, second])
    assert engine.validate([first, second, first, third]) == engine.validate([first, second, third])
    assert engine.explain([first, first])["num_examples"] == 1
    session = engine.train_batch([first], verbose=False, validation_examples=[second, third, second])
    assert session.validation_ids == (second.example_id, third.example_id)
    assert session.validation is not None
    assert session.validation["num_examples"] == 2
