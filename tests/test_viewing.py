"""A manager on a store that was opened for viewing: everything can be looked at, and nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support import HostPool, brighter, manager_with, usual_pool
from tsm_training import BayesianWeightLearner, TrainingDataManager, TrainingManager
from tsm_training.errors import StorageReadOnlyError
from tsm_training.testing import make_example


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database that was trained in, beside its pictures; no test may change it."""
    folder = tmp_path_factory.mktemp("viewing")
    with manager_with(folder, 6, db_path=folder / "training.db") as manager:
        manager.train(epochs=2, verbose=False)
    return folder / "training.db"


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """Return a copy of it, in a folder of its own."""
    folder = tmp_path / "a folder? with #odd %41 name"
    folder.mkdir()
    return Path(shutil.copy(original, folder))


def contents(folder: Path) -> Mapping[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# --- a manager on it ------------------------------------------------------------------------------------------------


def viewing(path: Path, pool: Any = None) -> TrainingManager:
    storage = TrainingDataManager(path, read_only=True)
    return TrainingManager(pool or usual_pool(), BayesianWeightLearner(alpha=0.15), storage=storage)


def test_a_manager_shows_predicts_exports_and_validates_on_it(original: Path, path: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    with manager_with(tmp_path, 0, db_path=path) as manager:
        expected = manager.validate()
        progress = manager.get_training_progress()
        listed = manager.list_examples()
        manager.export_weights(tmp_path / "expected.json")
    before = contents(path.parent)
    with viewing(path, usual_pool(calls)) as viewer:
        assert viewer.validate() == expected
        assert calls == []
        assert viewer.get_training_progress() == progress
        assert viewer.list_examples() == listed
        assert viewer.predict(original.parent / "source_0.png", original.parent / "target_0.png").image.shape == (
            12,
            16,
            3,
        )
        viewer.export_weights(tmp_path / "shown.json")
    shown, wanted = ((tmp_path / name).read_text() for name in ("shown.json", "expected.json"))
    assert [line for line in shown.splitlines() if "exported_at" not in line] == [
        line for line in wanted.splitlines() if "exported_at" not in line
    ]
    assert contents(path.parent) == before


def test_what_validating_finds_out_is_kept_for_the_call_only(path: Path, tmp_path: Path) -> None:
    with manager_with(tmp_path, 0, db_path=path) as manager:
        expected = manager.validate()
    execute(
        path,
        "DELETE FROM evaluations WHERE worker_id = 'near'",
        "DELETE FROM previews",
        "UPDATE example_files SET files = NULL, digest = NULL",
    )
    before = contents(path.parent)
    calls: list[str] = []
    with viewing(path, usual_pool(calls)) as viewer:
        for _ in range(2):
            report = viewer.validate()
            assert report["avg_accuracy"] == expected["avg_accuracy"]
            assert report["num_examples"] == 6
        assert calls == ["near"] * 12
    assert contents(path.parent) == before


def test_previews_that_are_made_for_the_call_serve_for_the_ensembles_accuracy(path: Path, tmp_path: Path) -> None:
    with manager_with(tmp_path, 0, db_path=path) as manager:
        expected = manager.validate()
    execute(path, "DELETE FROM evaluations", "DELETE FROM previews")
    with viewing(path) as viewer:
        report = viewer.validate()
    assert report["ensemble_accuracy"] == expected["ensemble_accuracy"]
    assert report["ensemble_examples"] == expected["ensemble_examples"] == 6


@pytest.mark.parametrize("version", [None, "1"])
def test_a_hosts_own_pool_validates_on_it_as_well(path: Path, version: str | None) -> None:
    pool = HostPool(
        {name: lambda _s, t, levels=levels: brighter(t, levels) for name, levels in (("near", 22), ("far", -60))}
    )
    if version:
        pool.version = version  # type: ignore[attr-defined]
    before = contents(path.parent)
    with viewing(path, pool) as viewer:
        assert viewer.validate()["ensemble_examples"] == 6
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    "write",
    [
        lambda manager, folder: manager.add_training_example("no.png", "such.png", "file.png"),
        lambda manager, folder: manager.add_training_examples([]),
        lambda manager, folder: manager.add_folder(folder / "missing"),
        lambda manager, folder: manager.add_manifest(folder / "missing.csv"),
        lambda manager, folder: manager.remove_training_example("unknown"),
        lambda manager, folder: manager.replace_ground_truth("unknown", folder / "missing.png"),
        lambda manager, folder: manager.relink(folder),
        lambda manager, folder: manager.train(verbose=False),
        lambda manager, folder: manager.training_engine.train_batch([], verbose=False),
        lambda manager, folder: manager.training_engine.train_on_example(make_example("unknown")),
        lambda manager, folder: manager.import_weights(folder / "missing.json"),
        lambda manager, folder: manager.reset_weights(),
        lambda manager, folder: manager.adopt(manager.weight_learner.fork()),
    ],
)
def test_what_would_change_it_is_refused_before_any_work(
    path: Path, tmp_path: Path, write: Callable[[TrainingManager, Path], object]
) -> None:
    calls: list[str] = []
    before = contents(path.parent)
    with viewing(path, usual_pool(calls)) as viewer:
        state = viewer.weight_learner.cell.state
        with pytest.raises(StorageReadOnlyError):
            write(viewer, tmp_path)
        assert viewer.weight_learner.cell.state == state
    assert calls == []
    assert contents(path.parent) == before


def test_a_damaged_preview_is_like_one_that_is_not_there(path: Path, tmp_path: Path) -> None:
    first = "(SELECT MIN(example_digest) FROM previews)"
    execute(path, f"UPDATE previews SET png = x'00', num_bytes = 1 WHERE example_digest = {first}")
    with manager_with(tmp_path, 0, db_path=path) as manager:
        report = manager.validate()
    assert (report["num_examples"], report["ensemble_examples"]) == (6, 5)
