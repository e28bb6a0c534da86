"""A store that was opened for viewing: everything can be looked at, and nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import HostPool, brighter, manager_with, usual_pool
from tsm_training import BayesianWeightLearner, InMemoryStore, TrainingDataManager, TrainingManager
from tsm_training.data import SessionCommit
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    SchemaTooNewError,
    StorageError,
    StorageReadOnlyError,
)
from tsm_training.learning import LearnedState
from tsm_training.storage import SCHEMA_VERSION
from tsm_training.testing import make_evaluation, make_example, make_session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database, in a folder of its own, that was trained in."""
    folder = tmp_path / "a folder? with #odd %41 name"
    folder.mkdir()
    path = folder / "training.db"
    with manager_with(tmp_path, 6, db_path=path) as manager:
        manager.train(epochs=2, verbose=False)
    return path


@pytest.fixture
def viewer(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as store:
        yield store


def contents(folder: Path) -> Mapping[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_everything_can_be_read_and_nothing_is_changed(path: Path) -> None:
    before = contents(path.parent)
    with (
        contextlib.closing(TrainingDataManager(path)) as writer,
        contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer,
    ):
        assert viewer.is_read_only
        assert not writer.is_read_only
        assert viewer.store_id == writer.store_id
        assert viewer.get_all_examples() == writer.get_all_examples()
        assert viewer.get_all_sessions() == writer.get_all_sessions()
        assert viewer.load_learning() == writer.load_learning()
        assert viewer.get_dataset_stats() == writer.get_dataset_stats()
        session = viewer.get_all_sessions()[0].session_id
        assert viewer.get_metrics(session) == writer.get_metrics(session)
        digest = viewer.get_all_examples()[0].known_files.digest
        assert viewer.load_evaluations([digest]) == writer.load_evaluations([digest])
        assert viewer.load_previews(digest) == writer.load_previews(digest)
        assert viewer.load_observations("w@1", [digest]) == writer.load_observations("w@1", [digest])
        assert viewer.find_observations("w@1", [digest]) == writer.find_observations("w@1", [digest])
    assert contents(path.parent) == before


def test_a_viewer_sees_what_is_written_meanwhile(path: Path, viewer: TrainingDataManager) -> None:
    with contextlib.closing(TrainingDataManager(path)) as writer:
        writer.add_examples([make_example("new")])
        assert viewer.get_example("new") == make_example("new")


def same(held: LearnedState) -> LearnedState:
    return held


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.add_examples([make_example("new")]),
        lambda store: store.edit_examples({}),
        lambda store: store.remove_example("unknown"),
        lambda store: store.save_evaluations([make_evaluation()]),
        lambda store: store.save_evaluations([], superseding=["worker"]),
        lambda store: store.begin_session(make_session()),
        lambda store: store.commit_session("unknown", lambda _held: SessionCommit(make_session())),
        lambda store: store.update_learning(same),
        lambda store: store.update_examples([]),
        lambda store: store.update_example_results("unknown"),
        lambda store: store.quarantine(),
        lambda store: store.require_writable(),
    ],
)
def test_every_method_that_writes_refuses(
    path: Path, viewer: TrainingDataManager, write: Callable[[TrainingDataManager], object]
) -> None:
    before = contents(path.parent)
    with pytest.raises(StorageReadOnlyError, match=rf"{re.escape(path.name)}.*: it was opened for reading only$"):
        write(viewer)
    assert contents(path.parent) == before


def test_a_store_can_be_written_to_unless_it_says_otherwise() -> None:
    store = InMemoryStore()
    assert not store.is_read_only
    store.require_writable()


# --- a manager on it ------------------------------------------------------------------------------------------------


def viewing(path: Path, pool: Any = None) -> TrainingManager:
    storage = TrainingDataManager(path, read_only=True)
    return TrainingManager(pool or usual_pool(), BayesianWeightLearner(alpha=0.15), storage=storage)


def test_a_manager_shows_predicts_exports_and_validates_on_it(path: Path, tmp_path: Path) -> None:
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
        assert viewer.predict(tmp_path / "source_0.png", tmp_path / "target_0.png").image.shape == (12, 16, 3)
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
        "UPDATE example_files SET files = NULL",
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


# --- what cannot be viewed ------------------------------------------------------------------------------------------


def refused(path: Path, error: type[StorageError], words: str) -> None:
    before = contents(path.parent)
    with pytest.raises(error, match=words):
        TrainingDataManager(path, read_only=True)
    assert contents(path.parent) == before


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    refused(tmp_path / "none.db", StorageError, "no such file")


def test_an_empty_file_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    refused(tmp_path / "empty.db", StorageReadOnlyError, "it is empty: open it once for writing")


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_file_of_an_older_schema_is_not_upgraded(tmp_path: Path, version: int) -> None:
    file = tmp_path / "old.db"
    TrainingDataManager(file).close()
    execute(file, f"PRAGMA user_version = {version}")
    refused(file, StorageReadOnlyError, f"schema version {version}, not {SCHEMA_VERSION}: open it once for writing")


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    TrainingDataManager(file).close()
    execute(file, "PRAGMA user_version = 99")
    refused(file, SchemaTooNewError, "version 99")


def test_anothers_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    execute(file, "CREATE TABLE customers (id INTEGER)")
    refused(file, DatabaseNotOursError, "another application")
    (tmp_path / "theirs.db").write_bytes(b"text" * 300)
    refused(file, DatabaseNotOursError, "not an SQLite database")


def test_a_change_that_a_crash_cut_short_must_be_undone_by_a_writer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE previews SET png = zeroblob(20000)")
        torn, journal = path.read_bytes(), Path(f"{path}-journal").read_bytes()
        connection.execute("ROLLBACK")
    path.write_bytes(torn)
    Path(f"{path}-journal").write_bytes(journal)
    refused(path, StorageReadOnlyError, "cut short by a crash: open it once for writing")
    TrainingDataManager(path).close()
    TrainingDataManager(path, read_only=True).close()


@pytest.mark.parametrize("bad", [1, None, "yes"])
def test_read_only_is_true_or_false(path: Path, bad: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingDataManager(path, read_only=bad)
    assert caught.value.argument == "read_only"


def test_there_is_nothing_to_view_in_memory() -> None:
    with pytest.raises(InvalidArgumentError, match="a file"):
        TrainingDataManager(":memory:", read_only=True)


def test_a_copy_with_other_settings_can_be_made(path: Path, viewer: TrainingDataManager) -> None:
    with contextlib.closing(attrs.evolve(viewer, read_only=False)) as writer:
        writer.add_examples([make_example("new")])
    assert viewer.get_example("new")


def test_a_damaged_preview_is_like_one_that_is_not_there(path: Path, tmp_path: Path) -> None:
    execute(path, "UPDATE previews SET png = x'00' WHERE example_digest = (SELECT MIN(example_digest) FROM previews)")
    with manager_with(tmp_path, 0, db_path=path) as manager:
        report = manager.validate()
    assert (report["num_examples"], report["ensemble_examples"]) == (6, 5)
