"""The leaderboard: everybody on the same held-out pictures, from what is stored."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path

import attrs
import pytest

from support import brightening, failing, manager_with, pool_of, usual_pool
from tsm_training import BayesianWeightLearner, FunctionWorker, TrainingDataManager, TrainingManager, WorkerPool
from tsm_training.engine import Leaderboard, LeaderboardRow
from tsm_training.errors import MissingExtraError

COLUMNS = [field.name for field in attrs.fields(LeaderboardRow)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingManager:
    pool = pool_of(*usual_pool().workers, failing("broken"))
    manager = manager_with(tmp_path_factory.mktemp("leaderboard"), examples=20, solver="auto", pool=pool)
    manager.train(validation_split=0.5, verbose=False)
    return manager


def rows_of(board: Leaderboard) -> dict[str, LeaderboardRow]:
    return {row.name: row for row in board.rows}


def test_all_stand_in_it_the_best_first(trained: TrainingManager) -> None:
    board = trained.leaderboard()
    similarities = [row.similarity for row in board.rows if row.similarity is not None]
    assert similarities == sorted(similarities, reverse=True)
    assert (board.num_examples, board.num_targets, board.best_single) == (10, 10, "near")
    kinds = {row.name: row.kind for row in board.rows}
    workers = dict.fromkeys(trained.weight_learner.get_all_weights(), "worker")
    baselines = dict.fromkeys(["equal weights", "untouched target"], "baseline")
    assert kinds == {"trained ensemble": "ensemble", **workers, **baselines}


def test_its_figures_are_those_of_the_validation(trained: TrainingManager) -> None:
    rows = rows_of(trained.leaderboard())
    session = trained.data_manager.get_all_sessions()[-1]
    assert session.validation is not None
    contenders = session.validation["contenders"]
    best = contenders["best_single"]["mean"]
    for name, key in (
        ("trained ensemble", "trained"),
        ("equal weights", "equal_weights"),
        ("untouched target", "untouched"),
    ):
        assert rows[name].similarity == contenders[key]["mean"]
    assert rows["near"].similarity == best
    assert rows["near"].gain == pytest.approx(contenders["trained"]["mean"] - best)
    known = trained.weight_learner.get_all_statistics()["near"]
    assert (rows["near"].weight, (rows["near"].weight_low, rows["near"].weight_high)) == (
        known["weight"],
        known["credible_interval"],
    )
    assert rows["near"].share == trained.weight_learner.get_blend_weights()["near"]
    assert rows["near"].low is not None
    assert rows["near"].high is not None
    assert rows["near"].low < best < rows["near"].high
    assert (rows["near"].failures, rows["broken"].failures, rows["broken"].similarity) == (0, 10, None)


def test_it_runs_no_worker_on_a_reopened_database(tmp_path: Path) -> None:
    path = tmp_path / "my.db"
    with manager_with(tmp_path, examples=10, storage=TrainingDataManager(path)) as manager:
        manager.train(validation_split=0.5, verbose=False)
        before = manager.leaderboard()
        ids = list(manager.weight_learner.get_all_weights())

    def must_not_run(source: object, target: object) -> None:
        raise AssertionError

    with TrainingManager(usual_pool(), BayesianWeightLearner(), path) as again:
        assert again.leaderboard() == before
    strangers = pool_of(*(FunctionWorker(worker_id, must_not_run, version="other") for worker_id in ids))
    with TrainingManager(strangers, BayesianWeightLearner(), path) as changed:
        rows = rows_of(changed.leaderboard())
        known = {worker_id for worker_id in ids if rows[worker_id].similarity is not None}
        assert known == {"near"}  # of the best one, the training noted what it did
        assert rows["near"].similarity == rows_of(before)["near"].similarity
        assert rows["near"].weight == rows_of(before)["near"].weight
        assert rows["trained ensemble"].similarity == rows_of(before)["trained ensemble"].similarity


def test_what_was_in_use_before_stands_there_once_it_is_something_else(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=20, solver="auto")
    manager.train(validation_split=0.5, verbose=False)
    assert "in use before" not in rows_of(manager.leaderboard())
    manager.train(validation_split=0.5, verbose=False)
    assert rows_of(manager.leaderboard())["in use before"].kind == "baseline"


def test_before_any_training_there_are_weights_only(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    board = manager.leaderboard()
    assert (board.num_examples, board.verdict, board.best_single) == (0, None, None)
    assert {row.kind for row in board.rows} == {"worker"}
    assert {row.similarity for row in board.rows} == {None}
    assert TrainingManager(WorkerPool(), BayesianWeightLearner(), tmp_path / "empty.db").leaderboard().rows == ()


def test_a_removed_example_is_left_out(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=10)
    manager.train(validation_split=0.5, verbose=False)
    held_out = manager.data_manager.get_all_sessions()[-1].validation_ids
    manager.remove_training_example(held_out[0])
    assert manager.leaderboard().num_examples == len(held_out) - 1


def test_it_shows_itself(trained: TrainingManager) -> None:
    board = trained.leaderboard()
    text = str(board)
    assert text.startswith("Leaderboard\n  on: 10 held-out examples of 10 targets\n  best single worker: near\n")
    assert re.search(r"^  near +0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) ", text, re.MULTILINE)
    assert re.search(r"^  broken +– .* 10 ", text, re.MULTILINE)
    assert board.verdict is not None
    assert board.verdict in html.unescape(board._repr_html_())


def test_it_is_a_document_and_a_frame(trained: TrainingManager, monkeypatch: pytest.MonkeyPatch) -> None:
    board = trained.leaderboard()
    document = json.loads(json.dumps(board.to_dict()))
    assert [LeaderboardRow(**row) for row in document.pop("rows")] == list(board.rows)
    assert Leaderboard(board.rows, **document) == board
    frame = board.to_frame()
    assert list(frame.columns) == COLUMNS
    assert list(frame.index) == list(range(len(board.rows)))
    assert list(frame["name"]) == [row.name for row in board.rows]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"tsm_training\[tables\]"):
        board.to_frame()


def test_a_pool_of_other_kinds_has_its_rows_too(tmp_path: Path) -> None:
    class Foreign:
        version = "1"

        def execute_parallel(self, data: object) -> object:
            return pool_of(brightening("a", 30), brightening("b", 60)).execute_parallel(data)  # type: ignore[arg-type]

    manager = manager_with(tmp_path, examples=10, pool=Foreign())
    manager.train(validation_split=0.5, verbose=False)
    rows = rows_of(manager.leaderboard())
    assert {"a", "b", "trained ensemble", "untouched target"} <= rows.keys()
    assert rows["a"].similarity is not None
