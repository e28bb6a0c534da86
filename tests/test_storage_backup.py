"""Copying a database while others use it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from database_support import fill, ids, plain
from tsm_training import TrainingDataManager
from tsm_training.data import Preview
from tsm_training.errors import (
    InvalidArgumentError,
    StorageCorruptError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageReadOnlyError,
)
from tsm_training.storage.sqlite import backup
from tsm_training.testing import make_evaluation, make_example


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "training.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingDataManager]:
    with contextlib.closing(TrainingDataManager(path)) as store:
        fill(store)
        yield store


def dump(path: Path) -> list[str]:
    with plain(path) as connection:
        return list(connection.iterdump())


def test_a_copy_is_whole_and_opens_like_any_store(path: Path, store: TrainingDataManager, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    store.backup(copy)
    assert dump(copy) == dump(path)
    assert list(copy.parent.iterdir()) == [copy]
    with contextlib.closing(TrainingDataManager(copy)) as opened:
        assert opened.check() == []
        assert opened.store_id == store.store_id
        assert opened.load_state(None) == store.load_state(None)
        opened.add_examples([make_example("only in the copy")])
    assert ids(store) == ["example"]


def test_a_viewer_may_copy_too_and_memory_can_be_kept(path: Path, store: TrainingDataManager, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as viewer:
        viewer.backup(tmp_path / "copy.db")
    assert dump(tmp_path / "copy.db") == dump(path)
    with contextlib.closing(TrainingDataManager(":memory:")) as memory:
        memory.add_examples([make_example("a")])
        memory.backup(str(tmp_path / "kept.db"))
    with contextlib.closing(TrainingDataManager(tmp_path / "kept.db")) as kept:
        assert kept.get_all_examples() == [make_example("a")]


def test_an_earlier_copy_is_replaced_only_where_asked_and_keeps_its_permissions(
    store: TrainingDataManager, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"earlier")
    copy.chmod(0o640)
    (tmp_path / "link.db").symlink_to(copy)
    for name in ("copy.db", "link.db"):
        with pytest.raises(StorageExistsError) as caught:
            store.backup(tmp_path / name)
        assert caught.value.location == str(copy)
    assert copy.read_bytes() == b"earlier"
    store.backup(tmp_path / "link.db", overwrite=True)
    assert (tmp_path / "link.db").is_symlink()
    assert copy.read_bytes().startswith(b"SQLite format 3")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["training.db", "link.db", "hard.db", "training.db-journal", "training.db-wal"])
def test_the_database_itself_is_never_overwritten(store: TrainingDataManager, path: Path, name: str) -> None:
    (path.parent / "link.db").symlink_to(path)
    os.link(path, path.parent / "hard.db")
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError) as caught:
        store.backup(path.parent / name, overwrite=True)
    assert caught.value.seen == str(path.parent / name)
    assert path.read_bytes() == before


def test_a_copy_goes_nowhere_odd(store: TrainingDataManager, tmp_path: Path) -> None:
    for name in ("", ":memory:", "file:copy.db", 3):
        with pytest.raises(InvalidArgumentError) as caught:
            store.backup(name)  # type: ignore[arg-type]
        assert (caught.value.argument, caught.value.seen) == ("path", name)
    (tmp_path / "copy.db-journal").write_bytes(b"of another database")
    for place, reason in (
        (tmp_path / "missing" / "copy.db", "does not exist"),
        (tmp_path, "no regular file"),
        (tmp_path / "copy.db", "lies beside it"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(StorageError) as failed:
            store.backup(place)
        assert failed.value.location == str(place)
        assert reason in failed.value.reason
    assert not (tmp_path / "copy.db").exists()


def test_copies_under_load_are_each_one_moment(path: Path, store: TrainingDataManager, tmp_path: Path) -> None:
    """A writer adds an example and an evaluation in turn; no copy may hold an evaluation too many."""
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(TrainingDataManager(path)) as writer:
            number = 0
            while not stop.is_set():
                writer.add_examples([make_example(f"n{number}")])
                writer.save_evaluations([make_evaluation(f"n{number}")], [Preview(f"n{number}", "x", bytes(9000))])
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(6):
            copy = tmp_path / f"copy{number}.db"
            store.backup(copy)
            with plain(copy) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                (examples,) = connection.execute("SELECT COUNT(*) FROM training_examples").fetchone()
                (made,) = connection.execute("SELECT COUNT(*) FROM previews WHERE name = 'x'").fetchone()
                assert examples - 1 - made in (0, 1)
    finally:
        stop.set()
        thread.join()


def test_a_copy_without_room_leaves_the_earlier_one(store: TrainingDataManager, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit on file sizes is a matter of Unix")
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"earlier")
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(StorageFullError) as caught:
            store.backup(copy, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.location == str(copy)
    assert copy.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == before
    assert store.check() == []
    store.backup(copy, overwrite=True)


@pytest.mark.parametrize(
    ("error", "kind"), [(PermissionError(13, "no"), StorageReadOnlyError), (OSError(5, "io"), StorageError)]
)
def test_a_copy_that_cannot_take_its_name_is_an_error_of_its_own(
    store: TrainingDataManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    kind: type[StorageError],
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(kind) as caught:
        store.backup(tmp_path / "copy.db")
    assert caught.value.location == str(tmp_path / "copy.db")
    assert not list(tmp_path.glob(".*"))


def sqlite_error(code: int) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "kind", "of_the_copy"),
    [
        (sqlite_error(sqlite3.SQLITE_CORRUPT), StorageCorruptError, False),
        (sqlite_error(sqlite3.SQLITE_FULL), StorageFullError, True),
        (sqlite3.ProgrammingError("Python says no"), StorageError, True),
    ],
)
def test_what_goes_wrong_is_told_of_the_file_that_is_meant(
    store: TrainingDataManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: sqlite3.Error,
    kind: type[StorageError],
    *,
    of_the_copy: bool,
) -> None:
    def refuse(_path: str) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(backup, "connect", refuse)
    with pytest.raises(kind) as caught:
        store.backup(tmp_path / "copy.db")
    assert caught.value.location == (str(tmp_path / "copy.db") if of_the_copy else store.location)


def test_a_damaged_database_cannot_be_copied_as_if_it_were_sound(
    path: Path, store: TrainingDataManager, tmp_path: Path
) -> None:
    os.truncate(path, 5 * 4096)
    with pytest.raises(StorageCorruptError) as caught:
        store.backup(tmp_path / "copy.db")
    assert caught.value.location == str(path)
    assert not (tmp_path / "copy.db").exists()
