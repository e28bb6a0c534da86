"""Judging training on few examples: each held out once, no worker run again, and nothing of it kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levels import LEVELS, Level, level_manager
from support import HostPool, brighter, failing, pool_of, save_triple
from tsm_training import BayesianWeightLearner, TrainingManager
from tsm_training.data import TrainingExample
from tsm_training.engine import CrossValidationResults, ExampleJudgement
from tsm_training.errors import InvalidArgumentError, NoExamplesError, NothingEvaluatedError, NoWorkersError
from tsm_training.evaluation import crossvalidation
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.split import fold_examples


def ids(examples: Sequence[TrainingExample]) -> list[str]:
    return [example.example_id for example in examples]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TrainingManager:
    """Return a manager with eight examples, for looking only."""
    return level_manager(tmp_path_factory.mktemp("shared"), 8, blend_solver="auto")


@pytest.fixture(scope="module")
def results(shared: TrainingManager) -> CrossValidationResults:
    return shared.cross_validate(4, 3)


def folds_of(manager: TrainingManager, k: int) -> list[tuple[TrainingExample, ...]]:
    return fold_examples(manager.data_manager.get_all_examples(), k, 0)


def test_each_example_is_held_out_once(shared: TrainingManager, results: CrossValidationResults) -> None:
    assert (results["folds"], results["num_examples"]) == (4, 8)
    assert [each["example_id"] for each in results["per_example"]] == ids(shared.data_manager.get_all_examples())
    assert all(each["is_unseen"] for each in results["per_example"])
    assert results["ensemble_examples"] == 8


def test_each_fold_is_judged_by_what_was_learned_from_the_others(
    tmp_path: Path, shared: TrainingManager, results: CrossValidationResults
) -> None:
    scores = {each["example_id"]: each["scores"] for each in results["per_example"]}
    for fold, shares in list(zip(folds_of(shared, 4), results["blend_weights"], strict=True))[:2]:
        others = [e for e in shared.data_manager.get_all_examples() if e not in fold]
        apart = level_manager(tmp_path, 0, blend_solver="auto")
        apart.add_training_examples([(e.source_path, e.target_path, e.ground_truth_path) for e in others])
        apart.train(epochs=3, validation_split=0.0, verbose=False)
        assert apart.weight_learner.get_blend_weights() == shares
        for example in fold:
            apart.add_training_example(example.source_path, example.target_path, example.ground_truth_path)
        judged = apart.validate(ids(apart.data_manager.get_all_examples())[len(others) :])["per_example"]
        for example, each in zip(fold, judged, strict=True):
            for name in ("trained", "best_single", "equal_weights", "untouched"):
                assert each["scores"][name] == scores[example.example_id][name]


def test_means_are_over_all_examples(results: CrossValidationResults) -> None:
    for name, each in results["contenders"].items():
        assert each["mean"] == pytest.approx(np.mean([row["scores"][name] for row in results["per_example"]]))
    assert results["ensemble_accuracy"] == results["contenders"]["trained"]["mean"]
    assert results["avg_accuracy"] is not None
    assert results["equal_weights_accuracy"] is not None
    assert results["avg_accuracy"] > results["equal_weights_accuracy"]


def test_training_competes_with_equal_weights_for_nothing_was_in_use(results: CrossValidationResults) -> None:
    assert results["contenders"].keys() == {"trained", "equal_weights", "best_single", "untouched"}
    # The others' shares differ from fold to fold.
    known = {name: each["blend_weights"] for name, each in results["contenders"].items() if each["blend_weights"]}
    assert known == {"equal_weights": pytest.approx(dict.fromkeys(LEVELS, 1 / 3))}
    assert (results["verdict"]["in_use"], results["verdict"]["num_examples"]) == ("equal_weights", 8)


def test_every_worker_runs_once_per_example_and_never_again(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = level_manager(tmp_path, 5, calls)
    manager.cross_validate(3)
    assert sorted(calls) == sorted([*LEVELS] * 5)
    manager.cross_validate(5, epochs=4, seed=1)
    assert len(calls) == 15


def test_what_was_learned_stays_as_it_was(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8)
    fresh = manager.cross_validate(3)
    assert manager.data_manager.load_state().token == ""
    manager.train(verbose=False, epochs=2)
    manager.import_weights(exported(manager, tmp_path))
    snapshot, stored = manager.weight_learner.cell.snapshot, manager.data_manager.load_state(None)
    examples = manager.data_manager.get_all_examples()
    # Nothing of it helps or hurts: each fold starts from nothing.
    assert manager.cross_validate(3) == fresh
    assert manager.weight_learner.cell.snapshot is snapshot
    assert manager.data_manager.load_state(None) == stored
    assert manager.data_manager.get_all_examples() == examples
    assert len(manager.data_manager.get_all_sessions()) == 1


def exported(manager: TrainingManager, folder: Path) -> Path:
    manager.export_weights(folder / "weights.json")
    return folder / "weights.json"


def test_the_learners_rate_and_the_epochs_count(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 8, blend_solver="least_squares")
    slow = manager.with_learner(manager.weight_learner.with_alpha(0.01))
    [first, *_others] = manager.cross_validate(3)["blend_weights"]
    [little, *_others] = slow.cross_validate(3, epochs=1)["blend_weights"]
    [more, *_others] = slow.cross_validate(3, epochs=5)["blend_weights"]
    assert 0.0 < little["above"] < more["above"] < first["above"]


def test_another_seed_divides_otherwise(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, blend_solver="least_squares")
    first, again, other = (manager.cross_validate(3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["blend_weights"] != other["blend_weights"]


def test_there_are_no_more_folds_than_targets(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 2)
    [example, _other] = manager.data_manager.get_all_examples()
    manager.add_training_example(example.target_path, example.target_path, example.ground_truth_path)
    results = manager.cross_validate()
    assert (results["folds"], results["num_examples"]) == (2, 3)
    assert len(results["blend_weights"]) == 2
    assert all(each["is_unseen"] for each in results["per_example"])


def test_with_each_example_in_a_fold_of_its_own_there_is_a_control_too(tmp_path: Path) -> None:
    results = level_manager(tmp_path, 5).cross_validate(5)
    assert results["folds"] == 5
    assert all("control" in each["scores"] for each in results["per_example"])
    assert results["verdict"]["relation"] is not None


def test_groups_are_tried_too(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 0)
    rows = [(*save_triple(tmp_path, n, levels=50 * (n % 2)), {"style": "ab"[n % 2]}) for n in range(12)]
    manager.add_training_examples(rows)
    results = manager.cross_validate(3, epochs=4, group_by="style")
    assert [each["group"] for each in results["per_example"]] == ["a", "b"] * 6
    assert results["contenders"]["trained"]["mean"] > results["contenders"]["without_groups"]["mean"]  # type: ignore[operator]
    assert manager.weight_learner.cell.state.group_by is None


def test_a_foreign_pool_is_asked_once_per_example(tmp_path: Path) -> None:
    pool = HostPool({"same": lambda _source, target: target, "up": lambda _source, target: brighter(target, 40)})
    results = level_manager(tmp_path, 4, pool=pool).cross_validate(2)
    assert len(pool.requests) == 4
    assert results["ensemble_examples"] == 4


def test_an_example_that_cannot_be_used_is_listed(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 4)
    [gone, *_others] = manager.data_manager.get_all_examples()
    Path(gone.source_path).unlink()
    results = manager.cross_validate(3)
    assert results["skipped"].keys() == {gone.example_id}
    assert results["num_examples"] == 3


def test_a_worker_that_always_fails_gets_nothing(tmp_path: Path) -> None:
    pool = pool_of(Level("near", 22), failing("broken"))
    results = level_manager(tmp_path, 4, pool=pool).cross_validate(2, epochs=3)
    assert [shares["broken"] for shares in results["blend_weights"]] == [0.0, 0.0]


def test_progress_is_told(tmp_path: Path) -> None:
    phases: list[str] = []
    level_manager(tmp_path, 4).cross_validate(2, on_progress=lambda progress: phases.append(progress.phase))
    assert phases == ["evaluating"] * 4 + ["validating"] * 4


# --- what cannot be done --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "bad"),
    [("k", 1), ("k", 0), ("k", 2.5), ("k", True), ("k", None), ("epochs", 0), ("epochs", "1"), ("seed", 0.5)],
)
def test_arguments_out_of_range_are_refused_before_any_work(tmp_path: Path, argument: str, bad: Any) -> None:
    calls: list[str] = []
    with pytest.raises(InvalidArgumentError, match=argument):
        level_manager(tmp_path, 2, calls).cross_validate(**{argument: bad})
    assert calls == []


def test_examples_with_one_target_cannot_be_divided(tmp_path: Path) -> None:
    manager = level_manager(tmp_path, 1)
    [example] = manager.data_manager.get_all_examples()
    manager.add_training_example(example.target_path, example.target_path, example.ground_truth_path)
    with pytest.raises(InvalidArgumentError, match="examples with at least two different targets"):
        manager.cross_validate()


def test_without_examples_workers_or_pictures_there_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(NoExamplesError):
        level_manager(tmp_path, 0).cross_validate()
    with pytest.raises(NoWorkersError):
        level_manager(tmp_path, 2, pool=pool_of()).cross_validate()
    with pytest.raises(NothingEvaluatedError):
        level_manager(tmp_path, 2, pool=pool_of(failing("broken"))).cross_validate()


# --- the best fixed worker ------------------------------------------------------------------------------------------


def judgement(**scores: float) -> ExampleJudgement:
    return {"example_id": "", "group": None, "is_unseen": True, "scores": scores, "delta_e": dict(scores)}


def test_where_the_best_worker_is_a_fixed_one_in_some_fold_it_stands_for_both() -> None:
    rows = [judgement(best_single=0.9, best_fixed=0.8), judgement(best_single=0.7), judgement(trained=0.5)]
    crossvalidation._complete(rows)
    assert [each["scores"].get("best_fixed") for each in rows] == [0.8, 0.7, None]
    assert [each["delta_e"].get("best_fixed") for each in rows] == [0.8, 0.7, None]
    rows = [judgement(best_single=0.9)]
    crossvalidation._complete(rows)
    assert rows == [judgement(best_single=0.9)]


def test_a_best_worker_is_named_where_all_folds_agree_on_it() -> None:
    folds = [Baselines(BayesianWeightLearner(), ("a", "b"), None, best, "a") for best in ("a", "b", "a")]
    assert crossvalidation._agreed(folds) == {"best_single": None, "best_fixed": "a"}
    assert crossvalidation._agreed(folds[::2]) == {"best_single": "a", "best_fixed": "a"}
