"""A file of an older schema becomes one of the present schema in one step, and a copy of it stays."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from test_sqlite import GUIDE
from tsm_training import BayesianWeightLearner, TrainingManager, WorkerPool
from tsm_training.data import PREVIEW_BYTES, ObservationRecord, Preview
from tsm_training.errors import SchemaTooNewError, StorageCorruptError, StorageError, StorageFullError
from tsm_training.storage import SCHEMA_VERSION, TrainingDataManager
from tsm_training.storage.sqlite import opening
from tsm_training.testing import make_learned_state

DUMPS = Path(__file__).with_name("databases")

GUIDE_ROWS = """
INSERT INTO training_examples VALUES
    ('one', '/s.png', '/t.png', '/g.png', '2024-05-01T10:00:00', '{"style": "warm"}', NULL, NULL);
INSERT INTO training_sessions VALUES
    ('old', '2024-05-01T10:00:00', NULL, 1, 1, 0.1, '{}', '{}', '[]', 'running');
INSERT INTO training_metrics VALUES (NULL, 'old', 1, 'one', 'w', 0.5, 1.0, 0.5, '2024-05-01T10:00:00');
"""


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return everything in a file, by table, with its version."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        return found | {"version": connection.execute("PRAGMA user_version").fetchall()}


def make_version(version: int, path: Path) -> None:
    """Make a file that an earlier version has written; such files are never made anew."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / f"schema_{version}.sql").read_text(encoding="utf-8"))


make_version_1 = functools.partial(make_version, 1)
make_version_2 = functools.partial(make_version, 2)
make_version_3 = functools.partial(make_version, 3)


def make_guide(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(GUIDE + GUIDE_ROWS)


OLDER = pytest.mark.parametrize(
    ("make", "version"),
    [(make_guide, 0), (make_version_1, 1), (make_version_2, 2), (make_version_3, 3)],
    ids=["the guide's", "version 1", "version 2", "version 3"],
)
OLDEST = pytest.mark.parametrize(
    ("make", "version"), [(make_guide, 0), (make_version_1, 1)], ids=["the guide's", "version 1"]
)
"""For tests that start many processes: those two go the way of all the others, and further."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


def copies(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if p.name.startswith(f"{path.name}.schema"))


@OLDER
def test_an_older_file_is_upgraded_and_loses_nothing(
    path: Path, make: Callable[[Path], None], version: int, caplog: pytest.LogCaptureFixture
) -> None:
    make(path)
    before = contents(path)
    with caplog.at_level(logging.INFO, "tsm_training"):
        TrainingDataManager(path).close()
    after = contents(path)
    assert after["version"] == [(SCHEMA_VERSION,)]
    for table in before.keys() - {"version", "sqlite_sequence"}:
        added = (1.0,) if table == "previews" else ()  # its rank: behind those that are kept from now on
        assert after[table] == [row + added for row in before[table]], table
    (copy,) = copies(path)
    assert copy.name == f"training.db.schema-{version}.backup"
    assert contents(copy) == before
    assert f"from schema version {version} to {SCHEMA_VERSION}; as it was: {copy}" in caplog.text


@OLDER
def test_an_upgraded_file_has_the_schema_of_a_new_one(
    path: Path, make: Callable[[Path], None], version: int, tmp_path: Path
) -> None:
    make(path)
    TrainingDataManager(path).close()
    TrainingDataManager(tmp_path / "new.db").close()

    def columns(file: Path) -> dict[str, list[tuple[object, ...]]]:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return {t: connection.execute(f"PRAGMA table_info({t})").fetchall() for t in contents(file)}

    assert columns(path) == columns(tmp_path / "new.db")


def test_there_is_a_file_of_every_older_version() -> None:
    assert {dump.name for dump in DUMPS.iterdir()} == {f"schema_{version}.sql" for version in range(1, SCHEMA_VERSION)}


@pytest.mark.parametrize(("version", "examples"), [(1, 3), (2, 4)])
def test_what_was_learned_with_an_older_version_is_still_known(path: Path, version: int, examples: int) -> None:
    make_version(version, path)
    with TrainingManager(WorkerPool(), BayesianWeightLearner(alpha=0.15), path) as manager:
        (session,) = manager.data_manager.get_all_sessions()
        weights = manager.weight_learner.get_all_weights()
        assert len(manager.data_manager.get_all_examples()) == examples
        state = manager.weight_learner.cell.state
        assert (state.fitted, state.group_by, state.groups) == (None, None, {})
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.check() == []
    assert weights == session.final_weights
    assert session.group_by is None
    assert len(set(weights.values())) == 3


def test_what_was_fitted_with_the_version_before_is_still_known(path: Path) -> None:
    make_version_3(path)
    with TrainingManager(WorkerPool(), BayesianWeightLearner(alpha=0.15), path) as manager:
        _first, session = manager.data_manager.get_all_sessions()
        state = manager.weight_learner.cell.state
        assert manager.weight_learner.get_all_weights() == session.final_weights
        examples = manager.data_manager.get_all_examples()
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.check() == []
        assert store.quarantine() == []
        assert store.load_learning().state == state
    assert session.group_by == state.group_by == "style"
    assert {label: len(group.members) for label, group in state.groups.items()} == {"cold": 2, "warm": 1}
    assert state.fitted is not None
    assert state.fitted.solver == "least_squares"
    assert set(state.fitted.shares) == {"far", "near"}
    assert state.fitted.safe == {}
    assert state.fits == {}
    assert set(state.fitted.digests) < {example.known_files.digest for example in examples}


@OLDER
def test_previews_of_an_older_file_go_where_newer_ones_need_their_room(
    path: Path, make: Callable[[Path], None], version: int
) -> None:
    make(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        digests = [example.files.digest for example in store.get_all_examples() if example.files is not None]
        old = [digest for digest in digests if store.load_previews(digest)]
        assert bool(old) == bool(version)
        store.save_evaluations([], [Preview("new", "worker@1", bytes(PREVIEW_BYTES), 0.99)])
        assert [digest for digest in old if store.load_previews(digest)] == []
        assert set(store.load_previews("new")) == {"worker@1"}


@OLDER
def test_an_upgraded_file_takes_what_workers_note_and_are_fitted_to(
    path: Path, make: Callable[[Path], None], version: int
) -> None:
    make(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        assert store.load_learning().state.fits == {}
        store.save_evaluations([], (), [ObservationRecord("digest", "worker@1", b"x")])
        store.update_learning(lambda held: attrs.evolve(held, fits={"worker": b"y"}))
    with contextlib.closing(TrainingDataManager(path)) as again:
        assert again.load_observations("worker@1", ["digest"]) == {"digest": b"x"}
        assert again.load_learning().state.fits == {"worker": b"y"}
        assert [fault for fault in again.check() if fault.column != "status"] == []


@OLDER
def test_an_upgraded_file_keeps_fits_and_groups(path: Path, make: Callable[[Path], None], version: int) -> None:
    make(path)
    with contextlib.closing(TrainingDataManager(path)) as store:
        before = store.load_learning()
        assert before.version == (0, 1, 1, 2)[version]  # how often it was trained
        fitted = make_learned_state()
        store.update_learning(lambda held: attrs.evolve(fitted, bases=held.bases, absorbed=held.absorbed))
    with contextlib.closing(TrainingDataManager(path)) as again:
        state = again.load_learning().state
    assert (state.fitted, state.group_by, state.groups) == (fitted.fitted, fitted.group_by, fitted.groups)
    assert (state.bases, state.absorbed) == (before.state.bases, before.state.absorbed)


def test_an_earlier_copy_is_never_replaced(path: Path) -> None:
    earlier = path.with_name("training.db.schema-1.backup")
    earlier.write_text("precious", encoding="utf-8")
    path.with_name("training.db.schema-1.backup-2").symlink_to(path.with_name("nowhere"))
    make_version_1(path)
    TrainingDataManager(path).close()
    assert earlier.read_text(encoding="utf-8") == "precious"
    assert [copy.name for copy in copies(path)][-1] == "training.db.schema-1.backup-3"


def test_a_new_file_and_one_of_the_present_schema_are_not_copied(path: Path) -> None:
    TrainingDataManager(path).close()
    TrainingDataManager(path).close()
    assert copies(path) == []


@OLDER
@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), OSError(28, "No space left on device")])
def test_without_a_copy_there_is_no_upgrade(
    path: Path, make: Callable[[Path], None], version: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path)
    before = contents(path)

    def refuse(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(opening, "copy_database", refuse)
    with pytest.raises(StorageError) as caught:
        TrainingDataManager(path)
    assert isinstance(caught.value, StorageFullError) == isinstance(error, OSError)
    assert contents(path) == before
    monkeypatch.undo()
    TrainingDataManager(path).close()


def test_a_copy_that_cannot_be_made_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(path)

    def refuse(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("tsm_training.storage.sqlite.copying.os.fsync", refuse)
    with pytest.raises(StorageError, match="no copy could be made of it before upgrading it: Input/output error"):
        TrainingDataManager(path)
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, signal, sqlite3, sys
from tsm_training.storage import (TrainingDataManager)
steps = 0
def step():
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
def watch(event, arguments):
    if event in ("open", "os.rename", "os.remove", "sqlite3.connect"):
        step()
class Connection(sqlite3.Connection):
    def execute(self, *arguments):
        step()
        return super().execute(*arguments)
original = sqlite3.connect
sqlite3.connect = lambda *arguments, **settings: original(*arguments, **{**settings, "factory": Connection})
sys.addaudithook(watch)
TrainingDataManager(sys.argv[1]).close()
print(steps)
"""


def open_killed_at(path: Path, step: int) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", KILLED, str(path), str(step)]
    return subprocess.run(arguments, check=False, timeout=120, capture_output=True, text=True)


@OLDEST
def test_a_process_killed_while_it_upgrades_leaves_the_old_or_the_new(
    tmp_path: Path, make: Callable[[Path], None], version: int
) -> None:
    whole = tmp_path / "whole.db"
    make(whole)
    steps = int(open_killed_at(whole, 0).stdout)
    found_after_kill = set()
    for step in [*range(1, steps - 8, 6), *range(steps - 8, steps + 1)]:
        path = tmp_path / f"{step}.db"
        make(path)
        before = contents(path)
        assert open_killed_at(path, step).returncode == -signal.SIGKILL
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (found,) = connection.execute("PRAGMA user_version").fetchone()
        found_after_kill.add(found)
        assert contents(path if found == version else copies(path)[0]) == before
        TrainingDataManager(path).close()
        assert contents(path)["version"] == [(SCHEMA_VERSION,)]
    assert found_after_kill == {version, SCHEMA_VERSION}


def _open(path: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    TrainingDataManager(path).close()


@OLDEST
def test_processes_that_open_an_older_file_together_upgrade_it_once(
    path: Path, make: Callable[[Path], None], version: int
) -> None:
    make(path)
    before = contents(path)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_open, args=(str(path), barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    (copy,) = copies(path)
    assert contents(copy) == before


def test_a_version_that_was_never_written_is_no_newer_one(path: Path) -> None:
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(StorageCorruptError, match=r"schema version 0, which the library never writes.*salvage\(\)"):
        TrainingDataManager(path)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_version_that_somebody_has_turned_back_is_turned_forward_again(path: Path, version: int) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.save_evaluations([], [Preview("digest", "worker@1", b"png", 0.5), Preview("digest", "target", b"", None)])
    before = contents(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    TrainingDataManager(path).close()
    assert contents(path) == before


def test_a_missing_table_is_named_with_what_to_do(path: Path) -> None:
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE evaluations")
    damage = r"the file is damaged \(no such table: evaluations\); restore a backup"
    with contextlib.closing(TrainingDataManager(path)) as store, pytest.raises(StorageCorruptError, match=damage):
        store.load_evaluations(["digest"])


def test_a_version_that_is_still_unknown_is_refused_with_the_file_untouched(path: Path) -> None:
    TrainingDataManager(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNewError, match=f"it has schema version {SCHEMA_VERSION + 1}"):
        TrainingDataManager(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
