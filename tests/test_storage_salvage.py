"""Damaged and hostile files: right data or an error by name, never anything else; and what can be saved of them."""

from __future__ import annotations

import contextlib
import hashlib
import random
import resource
import shutil
import sqlite3
import sys
from datetime import datetime
from pathlib import Path

import attrs
import pytest

from support import manager_with
from test_storage_rules import PNG
from tsm_training import TrainingDataManager, TrainingExample
from tsm_training.data import ObservationRecord, Preview
from tsm_training.errors import (
    DatabaseNotOursError,
    InvalidArgumentError,
    SchemaTooNewError,
    StorageCorruptError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageReadOnlyError,
)
from tsm_training.learning import Group, LearnedState
from tsm_training.storage import salvage
from tsm_training.storage.sqlite.checking import insert_row
from tsm_training.storage.sqlite.salvage import _opened
from tsm_training.testing import make_example, make_learned_state, make_session

PAGE = 4096


def large(number: int) -> TrainingExample:
    """Return an example of which only a few have room on a page."""
    return make_example(f"e{number:03}", metadata={"text": "x" * 600})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database that was trained in, with more examples than fit on a page."""
    folder = tmp_path_factory.mktemp("trained")
    with manager_with(folder / "pictures", 4, db_path=folder / "training.db") as manager:
        manager.train(verbose=False)
        manager.data_manager.add_examples([large(number) for number in range(60)])
    return (folder / "training.db").read_bytes()


@pytest.fixture
def path(tmp_path: Path, trained: bytes) -> Path:
    path = tmp_path / "training.db"
    path.write_bytes(trained)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


# --- right data or an error by name ----------------------------------------------------------------------------------


def use(path: Path, sound: dict[str, object]) -> None:
    """Read and write all that a store has: what comes back is what was stored, or an error of the store."""
    with contextlib.suppress(StorageError), contextlib.closing(TrainingDataManager(path, busy_timeout=0)) as store:
        for name, expected in sound.items():
            with contextlib.suppress(StorageError):
                example = store.get_example(name)
                assert example.example_id == name
                assert type(expected) is type(example)
        for read in (
            store.get_all_examples,
            store.get_all_sessions,
            store.load_learning,
            store.get_dataset_stats,
            store.check,
            lambda: store.load_evaluations(["x"]),
            lambda: store.load_previews("x"),
            lambda: store.load_observations("w@1", ["x"]),
            lambda: store.find_observations("w@1", ["x"]),
            lambda: store.save_evaluations([], [Preview("x", "w@1", b"", 0.5)], [ObservationRecord("x", "w@1", b"")]),
            lambda: [store.get_metrics(session.session_id) for session in store.get_all_sessions()],
            lambda: store.add_examples([make_example("new")]),
            lambda: store.update_learning(lambda held: LearnedState(held.bases, {})),
            lambda: store.begin_session(make_session("new")),
            store.quarantine,
            lambda: store.backup(path.with_name("copy.db")),
        ):
            with contextlib.suppress(StorageError):
                read()


def damaged_in_places(content: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 40])):
        start = rng.choice([rng.randrange(len(damaged)), rng.randrange(PAGE), rng.randrange(200)])
        length = rng.choice([1, 1, 8, 200])
        damaged[start : start + length] = rng.randbytes(len(damaged[start : start + length]))
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_give_right_data_or_an_error_by_name(path: Path, trained: bytes, seed: int) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        sound: dict[str, object] = {example.example_id: example for example in store.get_all_examples()[:8]}
    path.write_bytes(damaged_in_places(trained, seed))
    before = digest(path)
    with contextlib.suppress(StorageError):
        report = salvage(path, path.with_name("saved.db"))
        assert sum(report.saved.values()) > 0
        with contextlib.closing(TrainingDataManager(path.with_name("saved.db"))) as saved:
            assert saved.check() == []
    assert digest(path) == before
    use(path, sound)


@pytest.mark.parametrize("page", range(12))
def test_a_page_of_nonsense_gives_right_data_or_an_error_by_name(path: Path, trained: bytes, page: int) -> None:
    damaged = bytearray(trained)
    damaged[page * PAGE : (page + 1) * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(damaged)
    use(path, {})


@pytest.mark.parametrize(
    "length", [1, 2, 15, 16, 99, 100, 101, 511, 512, 1000, 4095, 4096, 4097, 8192, 20_000, 65_536, -4096]
)
def test_a_file_that_was_cut_off_gives_right_data_or_an_error_by_name(path: Path, trained: bytes, length: int) -> None:
    path.write_bytes(trained[:length])
    before = digest(path)
    with pytest.raises((StorageCorruptError, DatabaseNotOursError)) as caught:
        TrainingDataManager(path)
    if isinstance(caught.value, StorageCorruptError):
        assert "backup" in str(caught.value)
        assert "salvage()" in str(caught.value)
        assert "do not delete" in str(caught.value)
    assert digest(path) == before


# --- saving ---------------------------------------------------------------------------------------------------------


def test_all_of_a_sound_file_is_saved(path: Path, tmp_path: Path) -> None:
    before = digest(path)
    new = tmp_path / "new.db"
    report = salvage(str(path), new)
    assert digest(path) == before
    assert sorted(tmp_path.iterdir()) == [new, path]
    assert (report.source, report.destination) == (str(path), str(new))
    assert (report.put_aside, report.losses) == ((), ())
    old, made = contents(path), contents(new)
    assert report.saved == {table: len(rows) for table, rows in made.items() if table != "sqlite_sequence"}
    (identity,), (new_identity,) = old.pop("learning_version"), made.pop("learning_version")
    assert new_identity == (identity[0], int(str(identity[1])) + 1)
    assert old.keys() == made.keys()
    assert all(sorted(old[table], key=repr) == sorted(made[table], key=repr) for table in old)
    with contextlib.closing(TrainingDataManager(path)) as store, contextlib.closing(TrainingDataManager(new)) as saved:
        assert saved.get_all_examples() == store.get_all_examples()
        assert saved.load_learning().state == store.load_learning().state
        assert saved.check() == []


def root(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return int(page)


def leaves(path: Path, table: str, kind: int = 5) -> list[int]:
    """Return the pages that hold a table's rows, in order: those that its first page leads to."""
    content = path.read_bytes()
    page = content[(root(path, table) - 1) * PAGE :][:PAGE]
    assert page[0] == kind, "rows are one level of pages below the first"
    cells = [int.from_bytes(page[12 + 2 * n :][:2]) for n in range(int.from_bytes(page[3:5]))]
    return [*(int.from_bytes(page[cell:][:4]) for cell in cells), int.from_bytes(page[8:12])]


def spoil(path: Path, *pages: int) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[(page - 1) * PAGE : page * PAGE] = b"\xa5" * PAGE
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 3, -1])
def test_rows_around_a_damaged_page_are_saved(path: Path, tmp_path: Path, position: int) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        examples = store.get_all_examples()
    pages = leaves(path, "training_examples")
    assert len(pages) > 6
    spoil(path, pages[position])
    report = salvage(path, tmp_path / "new.db")
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        left = saved.get_all_examples()
        assert saved.check() == []
    assert set(map(repr, left)) < set(map(repr, examples))
    assert len(examples) - len(left) == len(examples) - report.saved["training_examples"] < 12
    (loss,) = report.losses
    assert loss.startswith("training_examples: rows from ")
    # What the lost rows left behind is put aside: their contents, which belong to nothing now.
    assert {fault.table for fault in report.put_aside} == {"example_files"}
    assert len(report.put_aside) == len(examples) - len(left)


@pytest.mark.parametrize("first", [0, 1])
def test_rows_between_two_damaged_pages_are_saved(path: Path, tmp_path: Path, first: int) -> None:
    pages = leaves(path, "training_examples")
    spoil(path, pages[first], pages[3])
    report = salvage(path, tmp_path / "new.db")
    assert len(report.losses) == 2
    assert report.saved["training_examples"] > 64 - 24


def test_a_table_whose_beginning_is_damaged_is_left_out(path: Path, tmp_path: Path) -> None:
    spoil(path, root(path, "training_examples"), root(path, "absorbed_evidence"))
    report = salvage(path, tmp_path / "new.db")
    assert report.losses == (
        "training_examples: rows from the first one on cannot be read",
        "absorbed_evidence: some rows cannot be read",
    )
    assert report.saved["training_examples"] == report.saved["absorbed_evidence"] == 0
    assert report.saved["training_sessions"] == 1


@pytest.mark.parametrize("position", [0, 5, -1])
def test_learned_rows_around_a_damaged_page_are_saved(tmp_path: Path, position: int) -> None:
    path = tmp_path / "learned.db"
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(120)]
    with contextlib.closing(TrainingDataManager(path)) as store:
        outcomes = make_learned_state().absorbed["digest"]
        store.update_learning(lambda _held: LearnedState({}, dict.fromkeys(digests, outcomes)))
    spoil(path, leaves(path, "absorbed_evidence", kind=2)[position])
    report = salvage(path, tmp_path / "new.db")
    assert report.losses == ("absorbed_evidence: some rows cannot be read",)
    assert 180 < report.saved["absorbed_evidence"] < 240


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """Return a database with a fitted blend, and groups of which some fill more than a page."""
    path = tmp_path / "fitted.db"
    state = make_learned_state()
    many = {f"style {number:02}": Group([f"{number} {other}" for other in range(80)]) for number in range(40)}
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.update_learning(lambda _held: attrs.evolve(state, groups={**state.groups, **many}))
    return path


def test_fits_and_groups_are_saved_to_the_last_bit(fitted: Path, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(fitted)) as store:
        state = store.load_learning().state
    report = salvage(fitted, tmp_path / "new.db")
    assert (report.losses, report.put_aside) == ((), ())
    assert report.saved["learned_blends"] == 1 + 43
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.load_learning().state == state


def test_groups_around_a_damaged_page_are_saved(fitted: Path, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(fitted)) as store:
        state = store.load_learning().state
    spoil(fitted, leaves(fitted, "learned_blends", kind=2)[1])
    report = salvage(fitted, tmp_path / "new.db")
    assert report.losses == ("learned_blends: some rows cannot be read",)
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        left = saved.load_learning().state
        assert saved.check() == []
    assert (left.bases, left.absorbed, left.group_by) == (state.bases, state.absorbed, state.group_by)
    assert 10 < len(left.groups) < 43
    assert all(left.groups[label] == state.groups[label] for label in left.groups)


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Return a database in which a worker has noted and was fitted to more than has room on a page."""
    path = tmp_path / "noted.db"
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(240)]
    with contextlib.closing(TrainingDataManager(path)) as store:
        records = [ObservationRecord(digest, "worker@1", digest.encode()) for digest in digests]
        previews = [Preview(d, "worker@1", PNG, rank) for d, rank in zip(digests, [None, 0.5] * 120, strict=True)]
        store.save_evaluations([], previews, records)
        store.update_learning(lambda _held: LearnedState(fits={f"worker {n:03}": bytes(100) for n in range(120)}))
    return path


def test_what_was_noted_and_fitted_is_saved_byte_for_byte(noted: Path, tmp_path: Path) -> None:
    report = salvage(noted, tmp_path / "new.db")
    assert (report.losses, report.put_aside) == ((), ())
    assert (report.saved["observations"], report.saved["learned_fits"], report.saved["previews"]) == (240, 120, 240)
    old, made = contents(noted), contents(tmp_path / "new.db")
    for table in ("observations", "learned_fits", "previews"):
        assert sorted(old[table], key=repr) == sorted(made[table], key=repr)
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert len(saved.load_learning().state.fits) == 120
        assert saved.check() == []


@pytest.mark.parametrize("position", [0, 2, -1])
def test_what_was_noted_and_fitted_around_damaged_pages_is_saved(noted: Path, tmp_path: Path, position: int) -> None:
    spoil(noted, *(leaves(noted, table, kind=2)[position] for table in ("observations", "learned_fits")))
    report = salvage(noted, tmp_path / "new.db")
    assert report.losses == ("observations: some rows cannot be read", "learned_fits: some rows cannot be read")
    assert 200 < report.saved["observations"] < 240
    assert 80 < report.saved["learned_fits"] < 120
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.check() == []
        assert saved.load_learning().version > 1


def test_a_faulty_fit_is_put_aside_and_the_rest_is_saved(fitted: Path, tmp_path: Path) -> None:
    execute(fitted, "UPDATE learned_blends SET fitted = '{}' WHERE group_by = ''")
    (fault,) = salvage(fitted, tmp_path / "new.db").put_aside
    assert (fault.table, fault.row, fault.column) == ("learned_blends", "'', ''", "fitted")
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        state = saved.load_learning().state
    assert state.fitted is None
    assert len(state.groups) == 43


@pytest.mark.parametrize("start", [0, 16, 100])
def test_a_damaged_beginning_costs_nothing(path: Path, tmp_path: Path, start: int) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        examples, learning = store.get_all_examples(), store.load_learning()
    content = bytearray(path.read_bytes())
    content[start:PAGE] = b"\xa5" * (PAGE - start)
    path.write_bytes(content)
    before = digest(path)
    report = salvage(path, tmp_path / "new.db")
    assert digest(path) == before
    assert report.losses == ()
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.get_all_examples() == examples
        assert saved.load_learning().state == learning.state


def list_of_tables(path: Path) -> list[int]:
    """Return the pages that the first one leads to: the list of tables has no room there."""
    first = path.read_bytes()[:PAGE]
    assert first[100] == 5
    cells = [int.from_bytes(first[112 + 2 * n :][:2]) for n in range(int.from_bytes(first[103:105]))]
    return [*(int.from_bytes(first[cell:][:4]) for cell in cells), int.from_bytes(first[108:112])]


def test_a_list_of_tables_that_is_damaged_altogether_costs_nothing(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        examples, learning, sessions = store.get_all_examples(), store.load_learning(), store.get_all_sessions()
    pages = list_of_tables(path)
    assert len(pages) > 1
    spoil(path, 1, *pages)
    report = salvage(path, tmp_path / "new.db")
    assert (report.losses, report.put_aside) == ((), ())
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.get_all_examples() == examples
        assert saved.get_all_sessions() == sessions
        assert saved.load_learning().state == learning.state


def test_what_cannot_be_used_is_put_aside_and_halves_are_completed(path: Path, tmp_path: Path) -> None:
    execute(
        path,
        "PRAGMA foreign_keys = OFF",
        "UPDATE training_examples SET metadata = CAST(x'ff' AS TEXT) WHERE example_id = 'e001'",
        "DELETE FROM example_files WHERE example_id = 'e002'",
        "DELETE FROM session_details",
        "UPDATE evaluations SET accuracy = 2 WHERE sequence = 1",
        "INSERT INTO learning_version VALUES ('newer', 70)",
        "INSERT INTO learning_version VALUES ('older', 5)",
        "INSERT INTO learning_version VALUES ('odd', 'x')",
    )
    report = salvage(path, tmp_path / "new.db")
    assert {(fault.table, fault.column) for fault in report.put_aside} == {
        ("training_examples", "metadata"),
        ("evaluations", "accuracy"),
    }
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.check() == []
        assert saved.get_example("e002").files is None
        assert len(saved.get_all_sessions()) == 1
        assert (saved.store_id, saved.load_learning().version) == ("newer", 71)
    times = [datetime.fromisoformat(str(row[-1])) for row in contents(tmp_path / "new.db")["quarantined_rows"]]
    assert times
    assert all(time.tzinfo for time in times)


def test_a_row_that_the_new_tables_do_not_take_is_put_aside(tmp_path: Path) -> None:
    with contextlib.closing(TrainingDataManager(tmp_path / "a.db")) as store, store._database.writing() as connection:
        row: dict[str, object] = {"worker_id": "w", "prior": None}
        insert_row(connection, "learned_bases", row)
        (found,) = connection.execute("SELECT table_name, content, reason FROM quarantined_rows").fetchall()
    assert found[:2] == ("learned_bases", '{"worker_id": "w", "prior": null}')
    assert "NOT NULL" in found[2]


def test_files_of_older_kinds_are_saved_too(tmp_path: Path, path: Path) -> None:
    with contextlib.closing(TrainingDataManager(path)) as store:
        store.update_learning(lambda held: attrs.evolve(held, fits={"worker": b"x"}))
        fitted = store.load_learning().state.fitted
        previews = contents(path)["previews"]
    execute(
        path,
        "DROP TABLE observations",
        "DROP TABLE learned_fits",
        "ALTER TABLE previews DROP COLUMN rank",
        "UPDATE learned_blends SET fitted = json_remove(fitted, '$.safe')",
        "PRAGMA user_version = 3",
    )
    report = salvage(path, tmp_path / "third.db")
    assert (report.losses, report.put_aside, report.saved["learned_fits"]) == ((), (), 0)
    assert contents(tmp_path / "third.db")["previews"] == [(*row[:-1], 1.0) for row in previews]
    with contextlib.closing(TrainingDataManager(tmp_path / "third.db")) as saved:
        assert fitted is not None
        assert saved.load_learning().state.fitted == attrs.evolve(fitted, safe={})
    execute(path, "DROP TABLE learned_blends", "PRAGMA user_version = 2")
    report = salvage(path, tmp_path / "second.db")
    assert (report.losses, report.saved["training_examples"], report.saved["learned_blends"]) == ((), 64, 0)
    execute(path, "DROP TABLE running_sessions", "DROP TABLE quarantined_rows", "PRAGMA user_version = 1")
    report = salvage(path, tmp_path / "new.db")
    assert report.losses == ()
    assert report.saved["training_examples"] == 64
    execute(path, "PRAGMA user_version = 0", "PRAGMA application_id = 0")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for name in set(names) - {"training_examples", "training_sessions", "training_metrics", "sqlite_sequence"}:
        execute(path, f"DROP TABLE {name}")
    report = salvage(path, tmp_path / "guide.db")
    assert report.losses == ()
    assert report.saved["example_files"] == report.saved["training_examples"] == 64


def test_a_missing_table_is_a_loss(tmp_path: Path, path: Path) -> None:
    execute(path, "DROP TABLE training_examples")
    assert "training_examples: the table cannot be found" in salvage(path, tmp_path / "new.db").losses


def test_a_change_that_a_crash_cut_short_is_undone_in_the_new_file_only(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE training_examples SET metadata = hex(zeroblob(3000))")
        shutil.copy(f"{path}-journal", tmp_path / "journal")
        torn = path.read_bytes()
        connection.execute("ROLLBACK")
    path.write_bytes(torn)
    (tmp_path / "journal").rename(f"{path}-journal")
    before = digest(path), digest(Path(f"{path}-journal"))
    report = salvage(path, tmp_path / "new.db")
    assert (digest(path), digest(Path(f"{path}-journal"))) == before
    assert report.saved["training_examples"] == 64
    with contextlib.closing(TrainingDataManager(tmp_path / "new.db")) as saved:
        assert saved.get_example("e001") == large(1)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StorageCorruptError),
        (b"hello" * 10_000, DatabaseNotOursError),
        (bytes(50_000), DatabaseNotOursError),
    ],
    ids=["empty", "text", "zeros"],
)
def test_nothing_is_made_where_nothing_can_be_read(tmp_path: Path, content: bytes, error: type[StorageError]) -> None:
    path = tmp_path / "training.db"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        salvage(path, tmp_path / "new.db")
    assert caught.value.location == str(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_which_no_row_can_be_read_is_not_saved_as_an_empty_one(path: Path, tmp_path: Path) -> None:
    execute(path, "DROP TABLE running_sessions", "DROP TABLE quarantined_rows", "PRAGMA user_version = 1")
    kept = {1, *list_of_tables(path)}
    spoil(path, *({*range(1, path.stat().st_size // PAGE + 1)} - kept))
    with pytest.raises(StorageCorruptError) as caught:
        salvage(path, tmp_path / "new.db")
    assert (caught.value.location, caught.value.reason) == (str(path), "nothing of it can be read; restore a backup")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_ours_is_not_saved(path: Path, tmp_path: Path) -> None:
    execute(path, "PRAGMA user_version = 99")
    with pytest.raises(SchemaTooNewError) as newer:
        salvage(path, tmp_path / "new.db")
    assert newer.value.location == str(path)
    theirs = tmp_path / "theirs.db"
    execute(theirs, "CREATE TABLE customers (id INTEGER)")
    with pytest.raises(DatabaseNotOursError, match="another application") as foreign:
        salvage(theirs, tmp_path / "new.db")
    assert foreign.value.location == str(theirs)
    assert sorted(tmp_path.iterdir()) == [theirs, path]


def test_wrong_paths_are_errors_by_name(path: Path, tmp_path: Path) -> None:
    before = digest(path)
    with pytest.raises(InvalidArgumentError) as wrong:
        salvage("", tmp_path / "new.db")
    assert wrong.value.argument == "damaged_path"
    with pytest.raises(InvalidArgumentError) as wrong:
        salvage(path, "")
    assert wrong.value.argument == "new_path"
    with pytest.raises(InvalidArgumentError):
        salvage(path, path)
    with pytest.raises(StorageError, match="does not exist"):
        salvage(path, tmp_path / "missing" / "new.db")
    assert digest(path) == before


def test_a_damaged_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        salvage(tmp_path / "none.db", tmp_path / "new.db")
    assert (caught.value.location, caught.value.reason) == (str(tmp_path / "none.db"), "there is no such file")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_new_file_that_is_there_already_is_not_replaced(path: Path, tmp_path: Path, is_link: bool) -> None:
    there = tmp_path / "there.db"
    there.symlink_to(tmp_path / "precious.db") if is_link else None
    (tmp_path / "precious.db" if is_link else there).write_bytes(b"precious")
    with pytest.raises(StorageExistsError) as caught:
        salvage(path, there)
    assert caught.value.location == str(there.resolve())
    assert caught.value.reason == "there is a file already; it is not replaced"
    assert there.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(28, "No space left"), StorageFullError), (PermissionError(13, "no"), StorageReadOnlyError)],
)
def test_a_new_file_that_cannot_be_made_is_an_error_by_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[StorageError]
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(kind) as caught:
        salvage(path, tmp_path / "new.db")
    assert caught.value.location == str(tmp_path / "new.db")
    assert caught.value.reason.startswith(error.strerror)
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_made_beside_its_place_under_a_hidden_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = []
    rename = Path.rename

    def watched(made: Path, target: Path) -> Path:
        moves.append((made, target))
        return rename(made, target)

    (tmp_path / "elsewhere").mkdir()
    new = tmp_path / "elsewhere" / "new.db"
    monkeypatch.setattr(Path, "rename", watched)
    salvage(path, new)
    ((made, target),) = moves
    assert target == new
    assert made.parent.parent == new.parent
    assert made.parent.name.startswith(".salvage-")


def test_a_new_file_that_cannot_be_written_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_database: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(sys.modules[salvage.__module__], "prepare", refuse)
    with pytest.raises(StorageFullError) as caught:
        salvage(path, tmp_path / "new.db")
    assert caught.value.location == str(tmp_path / "new.db")
    assert list(tmp_path.iterdir()) == [path]


def test_a_sound_beginning_is_read_where_it_is(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("nothing needs to be copied")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    spoil(path, leaves(path, "training_examples")[2])
    assert salvage(path, tmp_path / "new.db").saved["training_sessions"] == 1


def test_a_damaged_file_is_opened_for_reading_with_all_that_protects_from_it(path: Path) -> None:
    with contextlib.closing(_opened(path, "ro", "the file")) as connection:
        settings = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("trusted_schema", "cell_size_check")]
        assert settings == [(0,), (1,)]
        assert connection.in_transaction
        assert connection.execute("SELECT CAST(x'78ff' AS TEXT)").fetchone() == ("x\udcff",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("CREATE TABLE more (a)")


def test_a_new_file_without_room_is_an_error_by_name_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (8192, 120_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(StorageFullError):
                salvage(path, tmp_path / "new.db")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == [path]


# --- hostile files --------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.db"
    TrainingDataManager(path).close()
    return path


HOSTILE = {
    "trigger": ["CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM training_examples; END"],
    "trigger on a guide's table": ["CREATE TRIGGER t BEFORE UPDATE ON Training_Examples BEGIN SELECT 1; END"],
    "computed column": ["ALTER TABLE learned_bases ADD COLUMN more AS (prior * 2)"],
    "view": ["DROP TABLE previews", "CREATE VIEW Previews AS SELECT 1 AS sequence, 'a' AS example_digest"],
    "virtual table": ["DROP TABLE previews", "CREATE VIRTUAL TABLE previews USING fts5(example_digest, name, png)"],
}  # fmt: skip


@pytest.mark.parametrize("statements", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read_only", [False, True])
def test_tables_that_do_more_than_keep_values_are_refused_and_left_as_they_are(
    empty: Path, statements: list[str], read_only: bool
) -> None:
    execute(empty, *statements)
    before = digest(empty)
    with pytest.raises(DatabaseNotOursError, match="which the library never makes; it was left as it was"):
        TrainingDataManager(empty, read_only=read_only)
    assert digest(empty) == before
    assert list(empty.parent.iterdir()) == [empty]


def test_a_guides_file_with_a_trigger_or_a_view_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    columns = "example_id, source_path, target_path, ground_truth_path, created_at, metadata, worker_results"
    table = f"CREATE TABLE training_examples ({columns}, validation_scores)"
    for number, statement in enumerate(
        [
            "CREATE TRIGGER t AFTER INSERT ON training_examples BEGIN SELECT 1; END",
            "CREATE VIEW training_sessions AS SELECT 1 AS session_id",
        ]
    ):
        path = tmp_path / f"{number}.db"
        execute(path, table, statement)
        before = digest(path)
        with pytest.raises(DatabaseNotOursError):
            TrainingDataManager(path)
        assert digest(path) == before


def test_more_views_indexes_and_tables_are_welcome(empty: Path) -> None:
    execute(
        empty,
        "CREATE VIEW good AS SELECT * FROM evaluations WHERE accuracy > 0.9",
        "CREATE INDEX by_path ON training_examples (source_path)",
        "CREATE TABLE notes (example_id TEXT, note TEXT)",
        "CREATE TRIGGER on_notes AFTER INSERT ON notes BEGIN SELECT 1; END",
    )
    with contextlib.closing(TrainingDataManager(empty)) as store:
        store.add_examples([make_example("a")])
        assert store.check() == []
