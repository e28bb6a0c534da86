"""What a store in a database server does beyond the contract: locks, leases, errors, forks, other people's tables."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sqlite3
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

import postgres
from database_support import PNG, count_up, counted, fill, ids
from support import save_triple, usual_pool
from tsm_training import BayesianWeightLearner, TrainingManager
from tsm_training.data import HeldState, Preview, SessionCommit, StateDelta, TrainingStore
from tsm_training.errors import (
    DatabaseNotOursError,
    ExampleNotFoundError,
    InvalidArgumentError,
    MissingExtraError,
    SchemaTooNewError,
    StorageBusyError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageReadOnlyError,
    StorageUnreachableError,
)
from tsm_training.sql import SQLStore
from tsm_training.storage import InMemoryStore, TrainingDataManager
from tsm_training.storage.sqlite.lease import ABANDONED
from tsm_training.storage.sqlite.schema import COLUMNS, SCHEMA_VERSION
from tsm_training.testing import MOMENT, make_evaluation, make_example, make_metric_row, make_session

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ENDED = make_session(status="completed", end_time=MOMENT)


@pytest.fixture
def url() -> str:
    """Return the address of an empty schema of a server."""
    return postgres.new_url()


@pytest.fixture
def store(url: str) -> Iterator[SQLStore]:
    with contextlib.closing(SQLStore(url)) as store:
        yield store


SERVER = pytest.param("server", marks=pytest.mark.slow)


def url_for(kind: str, folder: Path) -> str:
    if kind == "server":
        return postgres.new_url()
    return "sqlite://" if kind == "memory" else f"sqlite:///{folder / 'training.db'}"


@pytest.fixture(params=[SERVER, "file", "memory"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_for(request.param, tmp_path)


@pytest.fixture(params=[SERVER, "file"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of what several stores can be opened on."""
    return url_for(request.param, tmp_path)


@pytest.fixture
def any_store(any_url: str) -> Iterator[SQLStore]:
    with contextlib.closing(SQLStore(any_url)) as store:
        yield store


def with_options(url: str, options: str) -> str:
    parsed = sa.make_url(url)
    joined = f"{parsed.query['options']} {options}"
    return parsed.update_query_dict({"options": joined}).render_as_string(hide_password=False)


# --- addresses --------------------------------------------------------------------------------------------------------

SECRET = "s3cret-w0rd"
WRONG = {
    "another kind of database": f"mysql://user:{SECRET}@host/database?password={SECRET}",
    "another driver": f"postgresql+psycopg2://user:{SECRET}@host/database",
    "no address": f"user {SECRET}",
    "no port": f"postgresql+psycopg://user:{SECRET}@host:{SECRET}/database",
    "an address of SQLite's own": "sqlite:///file:training.db",
    "options of SQLite's": "sqlite:///training.db?uri=true",
    "a host for a file": "sqlite://host/training.db",
}


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_address_that_does_not_serve_is_refused_without_showing_its_password(wrong: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"postgresql\+psycopg://user:password@host/database") as caught:
        SQLStore(wrong)
    assert caught.value.argument == "url"
    assert SECRET not in str(caught.value) + repr(caught.value.args)


def test_what_is_no_text_is_no_address() -> None:
    with pytest.raises(InvalidArgumentError, match="got 'int'"):
        SQLStore(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("busy_timeout", -1), ("busy_timeout", "5"), ("lease", 0.5), ("lease", float("inf")), ("read_only", 1)],
)
def test_arguments_that_cannot_be_used_are_refused_before_anything_is_opened(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        SQLStore("postgresql://127.0.0.1:1/nobody", **{name: value})
    assert caught.value.argument == name


@pytest.mark.slow
@pytest.mark.parametrize("options", [f"password={SECRET}", "connect_timeout=2"])
def test_a_server_that_does_not_answer_is_named_without_the_password(options: str) -> None:
    with pytest.raises(StorageUnreachableError, match=r"127\.0\.0\.1") as caught:
        SQLStore(f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/database?{options}", busy_timeout=1)
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.location == "postgresql+psycopg://user@127.0.0.1:1/database"
    assert SECRET not in everything_said(caught.value)


@pytest.mark.slow
def test_a_store_shows_where_it_is_without_the_password(url: str) -> None:
    full = sa.make_url(url).set(password=SECRET, drivername="postgresql").update_query_dict({"sslpassword": SECRET})
    with contextlib.closing(SQLStore(full)) as store:  # this server asks for none
        shown = repr(store) + store.location + repr(store._database) + repr(vars(store))
        assert SECRET not in shown
        assert "postgresql+psycopg://postgres@" in repr(store)
        with pytest.raises(ExampleNotFoundError):
            store.get_example("nobody")


@pytest.mark.slow
def test_a_message_of_the_servers_that_repeats_the_password_does_not_show_it(url: str) -> None:
    full = sa.make_url(url).set(password=SECRET)
    with contextlib.closing(SQLStore(full)) as store:
        postgres.execute(url, f'ALTER TABLE observations RENAME COLUMN content TO "{SECRET}"')
        postgres.execute(url, f"ALTER TABLE observations ADD CONSTRAINT \"{SECRET}\" CHECK (name <> 'w')")
        postgres.execute(url, f"ALTER TABLE training_examples ADD CONSTRAINT \"{SECRET}\" CHECK (example_id <> 'no')")
        with pytest.raises(StorageError, match=r"\*\*\*") as caught:
            store.add_examples([make_example("no")])
        assert SECRET not in str(caught.value)


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name in ("tsm_training.sql", "tsm_training.storage.sql.store", "tsm_training.storage.sql.database"):
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "sqlalchemy", None)
        with pytest.raises(MissingExtraError, match=r'pip install "tsm_training\[sql\]"'):
            importlib.import_module("tsm_training.sql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="SQLStore needs"):
        SQLStore("postgresql://127.0.0.1:1/nobody")


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_has_the_tables_and_columns_of_the_schema(store: SQLStore, url: str) -> None:
    found = postgres.execute(
        url,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() "
        "AND is_identity = 'NO' ORDER BY table_name, ordinal_position",
    )
    columns = {table: tuple(c for t, c in found if t == table) for table, _column in found}
    assert columns.pop("store_version") == ("version", "application")
    assert columns == COLUMNS


@pytest.mark.slow
def test_a_server_keeps_texts_in_the_order_of_their_characters_whatever_its_language(store: SQLStore, url: str) -> None:
    found = postgres.execute(
        url,
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND data_type = 'text'",
    )
    assert found == [("C",)]


@pytest.mark.slow
def test_a_server_finds_the_first_metrics_of_a_session_without_sorting(store: SQLStore, url: str) -> None:
    found = postgres.execute(
        url,
        "SET enable_sort = off",
        "SET enable_seqscan = off",
        "EXPLAIN SELECT * FROM training_metrics WHERE session_id = 's' ORDER BY id",
    )
    plan = " ".join(str(line) for (line,) in found)
    assert "training_metrics_by_session" in plan
    assert "Sort" not in plan


@pytest.mark.slow
def test_a_server_takes_no_values_that_the_schema_refuses(store: SQLStore, url: str) -> None:
    fill(store)
    for column, value in (("accuracy", "'nan'"), ("accuracy", "1.5"), ("seconds", "'inf'"), ("confidence", "-1")):
        with pytest.raises(sa.exc.IntegrityError):
            postgres.execute(url, f"UPDATE evaluations SET {column} = {value}")
    with pytest.raises(sa.exc.DBAPIError, match="json"):
        postgres.execute(url, "UPDATE learned_head SET document = '{'")
    assert store.check() == []


@pytest.mark.slow
def test_processes_that_open_an_empty_database_together_find_one_store(url: str) -> None:
    with ThreadPoolExecutor(4) as executor:
        stores = list(executor.map(lambda _number: SQLStore(url), range(4)))
    for store in stores:
        store.close()
    assert len({store.store_id for store in stores}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (f"UPDATE store_version SET version = {SCHEMA_VERSION + 1}", SchemaTooNewError, "upgrade the library"),
        (f"UPDATE store_version SET version = {SCHEMA_VERSION - 1}", DatabaseNotOursError, "never released"),
        ("UPDATE store_version SET application = 1", DatabaseNotOursError, "another application"),
        ("DELETE FROM store_version", DatabaseNotOursError, "another application"),
        ("DROP TABLE store_version", DatabaseNotOursError, "evaluations belongs to another application"),
        ("DROP TABLE store_identity", StorageCorruptError, "store_identity"),
    ],
)
def test_tables_that_are_not_as_they_should_be_are_refused_and_left(
    url: str, change: str, error: type[StorageError], reason: str
) -> None:
    SQLStore(url).close()
    postgres.execute(url, change)
    before = postgres.execute(url, "SELECT COUNT(*) FROM information_schema.tables")
    with pytest.raises(error, match=reason):
        SQLStore(url)
    assert postgres.execute(url, "SELECT COUNT(*) FROM information_schema.tables") == before


@pytest.mark.slow
def test_tables_of_other_applications_may_stand_beside(url: str) -> None:
    postgres.execute(url, "CREATE TABLE theirs (a INTEGER)")
    with contextlib.closing(SQLStore(url)) as store:
        store.add_examples([make_example("a")])
    assert postgres.execute(url, "SELECT * FROM theirs") == []


@pytest.mark.slow
def test_a_database_in_which_not_every_text_has_room_is_refused(url: str) -> None:
    postgres.execute(
        url,
        "CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' STRATEGY file_copy",
    )
    narrow = sa.make_url(url).set(database="narrow").difference_update_query(["options"])
    try:
        with pytest.raises(StorageError, match="LATIN1"):
            SQLStore(narrow)
    finally:
        postgres.execute(url, "DROP DATABASE narrow")


def test_a_file_is_the_one_that_the_built_in_store_keeps(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    with contextlib.closing(SQLStore(f"sqlite:///{path}")) as store:
        fill(store)  # type: ignore[arg-type]
    with contextlib.closing(TrainingDataManager(path)) as same:
        assert (same.store_id, same.check(), ids(same)) == (store.store_id, [], ["example"])
        same.add_examples([make_example("more")])
    with contextlib.closing(SQLStore(f"sqlite:///{path}")) as again:
        assert [example.example_id for example in again.iterate_examples()] == ["example", "more"]
        assert again.check() == []


def test_a_file_that_is_something_else_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    for name, error in (("text.db", DatabaseNotOursError), ("other.db", DatabaseNotOursError), ("a/b", StorageError)):
        with pytest.raises(error, match=name):
            SQLStore(f"sqlite:///{tmp_path / name}")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(SQLStore("sqlite:///relative.db")) as store:
        assert store.location == f"sqlite:///{tmp_path / 'relative.db'}"
    assert (tmp_path / "relative.db").exists()


# --- reading only -----------------------------------------------------------------------------------------------------


def test_a_viewer_reads_and_changes_nothing(kept_url: str) -> None:
    with pytest.raises(StorageReadOnlyError if kept_url.startswith("postgres") else StorageError):
        SQLStore(kept_url, read_only=True)  # there is nothing yet
    with contextlib.closing(SQLStore(kept_url)) as writer:
        writer.add_examples([make_example("a")])
        writer.begin_session(make_session())
        with contextlib.closing(SQLStore(kept_url, read_only=True, lease=1)) as viewer:
            assert viewer.is_read_only
            assert viewer.get_example("a") == make_example("a")
            assert viewer.store_id == writer.store_id
            for call in (lambda: viewer.add_examples([]), viewer.require_writable):
                with pytest.raises(StorageReadOnlyError):
                    call()
        assert writer.get_session("session").status == "running"


@pytest.mark.slow
def test_a_server_that_lets_nobody_write_says_so(store: SQLStore, url: str) -> None:
    with contextlib.closing(SQLStore(with_options(url, "-c default_transaction_read_only=on"))) as other:
        assert other.get_all_examples() == []
        with pytest.raises(StorageReadOnlyError, match="read-only"):
            other.add_examples([make_example("a")])


# --- locks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold the lock that writers take."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT token FROM store_identity FOR UPDATE")
        yield


@pytest.mark.slow
def test_a_writer_waits_as_long_as_it_was_told_and_readers_not_at_all(store: SQLStore, url: str) -> None:
    store.begin_session(make_session())
    with contextlib.closing(SQLStore(url, busy_timeout=0.05)) as other, locked(url):
        with pytest.raises(StorageBusyError, match="another process kept it locked"):
            other.add_examples([make_example("a")])
        assert other.get_all_examples() == []
        assert other.get_session("session").status == "running"
        assert other.load_state().token == ""
        postgres.execute(url, "UPDATE running_sessions SET expires_at = '2000-01-01'")
        other.renew_session("session")  # whoever stores much elsewhere is not waited for
        assert postgres.execute(url, "SELECT expires_at > '2020' FROM running_sessions") == [(True,)]
        postgres.execute(url, "DELETE FROM running_sessions")
        other.renew_session("session")  # this takes the lock: it comes another time
        assert postgres.execute(url, "SELECT * FROM running_sessions") == []
    other.close()
    store.add_examples([make_example("a")])


@pytest.mark.slow
def test_others_read_while_a_change_is_made_and_see_nothing_of_it(store: SQLStore, url: str) -> None:
    with contextlib.closing(SQLStore(url)) as other:
        store.add_examples([make_example("a"), make_example("b")])

        def change(_held: HeldState) -> StateDelta:
            assert [example.example_id for example in other.iterate_examples()] == ["a", "b"]
            assert other.load_state(None).head == {}
            return StateDelta({"learned": "1"})

        store.remove_example("a", change)
        assert [example.example_id for example in other.iterate_examples()] == ["b"]
        assert other.load_state(None).head == {"learned": "1"}


def test_a_change_must_not_use_its_own_store(any_store: SQLStore) -> None:
    with pytest.raises(StorageError, match="must not use the store"):
        any_store.update_state(lambda _held: StateDelta({"n": str(len(any_store.get_all_examples()))}))
    any_store.update_state(count_up)
    assert counted(any_store) == 1  # type: ignore[arg-type]


FAILING = """
CREATE SEQUENCE attempts MINVALUE -1000 START 1;
CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('attempts') <= {times} THEN RAISE EXCEPTION 'given up' USING ERRCODE = '{code}'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fails BEFORE INSERT ON learned_head FOR EACH ROW EXECUTE FUNCTION give_up();
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_what_the_server_gives_up_is_done_again_a_few_times(store: SQLStore, url: str, code: str) -> None:
    postgres.execute(url, FAILING.format(times=4, code=code))
    calls: list[str] = []

    def change(held: HeldState) -> StateDelta:
        calls.append(held.token)
        return count_up(held)

    store.update_state(change)
    assert calls == [""] * 5
    assert counted(store) == 1  # type: ignore[arg-type]
    postgres.execute(url, "ALTER SEQUENCE attempts RESTART WITH -100")
    with pytest.raises(StorageBusyError, match="given up"):
        store.update_state(change)
    assert len(calls) == 10
    assert counted(store) == 1  # type: ignore[arg-type]


@pytest.mark.slow
def test_metrics_come_from_a_cursor_of_the_server(store: SQLStore, url: str) -> None:
    store.begin_session(make_session())
    rows = [make_metric_row(worker_id=f"w{number}") for number in range(600)]
    store.commit_session("session", lambda _held: SessionCommit(ENDED, rows))
    iterator = store.iterate_metrics("session")
    assert next(iterator) == rows[0]
    pool = store._database._pool.engine.pool
    assert isinstance(pool, sa.QueuePool)
    busy = postgres.execute(url, "SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'")
    assert any("FETCH FORWARD" in str(query) for (query,) in busy)
    store.add_examples([make_example("meanwhile")])
    assert list(iterator) == rows[1:]
    abandoned = store.iterate_metrics("session")
    next(abandoned)
    assert pool.checkedout() == 1
    del abandoned
    assert pool.checkedout() == 0


@pytest.mark.slow
def test_whoever_finds_no_connection_left_is_told(url: str) -> None:
    with contextlib.closing(SQLStore(url, busy_timeout=0.05)) as store:
        store.begin_session(make_session())
        store.commit_session("session", lambda _held: SessionCommit(ENDED, [make_metric_row()] * 2))
        readers = [store.iterate_metrics("session") for _ in range(15)]
        for reader in readers:
            next(reader)
        with pytest.raises(StorageBusyError, match="all connections were in use"):
            store.get_all_examples()
        readers.clear()
        assert store.get_all_examples() == []


# --- leases -----------------------------------------------------------------------------------------------------------

CLOCK = """
CREATE OR REPLACE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
$$ SELECT pg_catalog.clock_timestamp() + interval '{hours} hours' $$
"""


@pytest.mark.slow
def test_leases_are_given_by_the_clock_of_the_server(url: str) -> None:
    own_first = sa.make_url(url).query["options"] + ",pg_catalog"  # type: ignore[operator]
    url = sa.make_url(url).update_query_dict({"options": own_first}).render_as_string(hide_password=False)
    SQLStore(url).close()
    postgres.execute(url, CLOCK.format(hours=5))
    with contextlib.closing(SQLStore(url)) as store:
        store.begin_session(make_session())
        with contextlib.closing(SQLStore(url)) as other:
            assert other.get_session("session").status == "running"
        postgres.execute(url, CLOCK.format(hours=6))
        with contextlib.closing(SQLStore(url)) as other:
            assert other.get_session("session").status == "interrupted"
        postgres.execute(url, CLOCK.format(hours=4))
        store.save_evaluations([make_evaluation()])
        assert store.get_session("session").status == "running"
        ((expiry,),) = postgres.execute(url, "SELECT expires_at::timestamptz - clock_timestamp() FROM running_sessions")
        assert isinstance(expiry, timedelta)
        assert timedelta(seconds=30) < expiry <= timedelta(seconds=60)


@pytest.mark.slow
def test_a_lease_lasts_as_long_as_it_was_asked_for(url: str) -> None:
    with contextlib.closing(SQLStore(url, lease=900)) as store:
        store.begin_session(make_session())
        query = "SELECT expires_at::timestamptz - clock_timestamp() FROM running_sessions"
        ((expiry,),) = postgres.execute(url, query)
        assert isinstance(expiry, timedelta)
        assert timedelta(seconds=800) < expiry <= timedelta(seconds=900)


@pytest.mark.parametrize("how", ["renew", "save", "commit"])
def test_a_session_whose_lease_was_over_is_shown_interrupted_and_goes_on(kept_url: str, how: str) -> None:
    with contextlib.closing(SQLStore(kept_url)) as store:
        store.begin_session(make_session())
        with contextlib.closing(SQLStore(kept_url)) as other:
            other.renew_session("session")
            assert other.check() == []
            expire(kept_url)
            (fault,) = other.check()
            assert (fault.row, fault.column) == ("'session'", "status")
            assert "opening the store" in fault.remedy
            other.begin_session(make_session("another"))
            found = other.get_session("session")
            assert (found.status, found.error) == ("interrupted", ABANDONED)
            assert other.check() == []
            if how == "renew":
                other.renew_session("session")
            elif how == "save":
                store.begin_session(make_session("third"))
                store.renew_session("session")
                store.save_evaluations([make_evaluation()])
            else:
                store.commit_session("session", lambda _held: SessionCommit(ENDED))
            assert other.get_session("session") == (ENDED if how == "commit" else make_session())


def expire(url: str) -> None:
    postgres.execute(url, "UPDATE running_sessions SET expires_at = '2000-01-01T00:00:00+00:00', host = 'another'")


def test_a_session_that_has_ended_is_not_renewed(any_store: SQLStore) -> None:
    failed = make_session(status="interrupted", end_time=MOMENT, error="as it was told")
    any_store.begin_session(make_session())
    any_store.commit_session("session", lambda _held: SessionCommit(make_session(num_examples=3)))
    any_store.commit_session("session", lambda _held: SessionCommit(failed))
    any_store.renew_session("session")
    any_store.renew_session("nobody")
    any_store.save_evaluations([make_evaluation()])
    assert any_store.get_session("session") == failed


@pytest.mark.slow
def test_a_store_that_is_closed_gives_its_sessions_up(store: SQLStore, url: str) -> None:
    with contextlib.closing(SQLStore(url)) as other:
        store.begin_session(make_session())
        other.begin_session(make_session("other"))
        store.close()
        with contextlib.closing(SQLStore(url)) as again:
            assert [s.status for s in again.iterate_sessions()] == ["interrupted", "running"]


# --- connections that break, and processes that fork ------------------------------------------------------------------


def end_connections(url: str) -> None:
    """End every other connection, as an administrator or a restart of the server does."""
    postgres.execute(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                          "AND backend_type = 'client backend'")  # fmt: skip


@pytest.mark.slow
def test_a_connection_that_breaks_stores_nothing_and_the_next_call_goes_on(store: SQLStore, url: str) -> None:
    store.add_examples([make_example("a")])

    def change(_held: HeldState) -> StateDelta:
        end_connections(url)
        return StateDelta({"lost": "1"})

    with pytest.raises(StorageUnreachableError):
        store.remove_example("a", change)
    assert [example.example_id for example in store.iterate_examples()] == ["a"]
    assert store.load_state().head == {}
    end_connections(url)
    store.add_examples([make_example("b")])


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_a_fork_has_connections_of_its_own(kept_url: str) -> None:
    with contextlib.closing(SQLStore(kept_url)) as store:
        store.add_examples([make_example("parent")])
        store.begin_session(make_session())
        reader = store.iterate_metrics("session")
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                store.add_examples([make_example("child")])
                del reader
                gc.collect()
                store.close()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.add_examples([make_example("parent again")])
        assert [e.example_id for e in store.iterate_examples()] == ["parent", "child", "parent again"]
        assert store.get_session("session").status == "running"


@pytest.mark.slow
def test_what_a_child_inherits_is_neither_used_nor_closed(store: SQLStore) -> None:
    """As `test_a_child_of_a_fork_has_connections_of_its_own` looks from inside."""
    pool = store._database._pool
    assert isinstance(pool.engine.pool, sa.QueuePool)
    inherited = pool.engine.pool
    pool.process_id = -1
    store.add_examples([make_example("child")])
    assert (pool.of_parents, pool.process_id) == ([inherited], os.getpid())
    assert inherited.checkedin() == 1
    inherited.dispose()


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_database_in_memory_stays_with_the_process_that_made_it() -> None:
    with contextlib.closing(SQLStore("sqlite://")) as store:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.get_all_examples()
            except StorageError:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.add_examples([make_example("a")])


@pytest.mark.slow
def test_a_store_that_is_forgotten_gives_its_connections_back(url: str) -> None:
    store = SQLStore(url)
    pool, gone = store._database._pool, weakref.ref(store)
    assert isinstance(pool.engine.pool, sa.QueuePool)
    del store
    gc.collect()
    assert gone() is None
    assert pool.closed.is_set()
    assert pool.engine.pool.checkedin() == 0


@pytest.mark.slow
def test_a_store_that_was_closed_by_another_thread_says_so(store: SQLStore) -> None:
    inside, go_on, raised = threading.Event(), threading.Event(), []

    def change(_held: HeldState) -> None:
        inside.set()
        go_on.wait(60)

    def learn() -> None:
        try:
            store.update_state(change)
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=learn)
    thread.start()
    inside.wait(60)
    store.close()
    go_on.set()
    thread.join()
    with pytest.raises(StorageClosedError):
        store.load_state()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["a\0b", "\ud800"])
def test_a_text_that_no_server_can_hold_is_found_nowhere_and_refused(store: SQLStore, odd: str) -> None:
    with pytest.raises(ExampleNotFoundError):
        store.get_example(odd)
    with pytest.raises(ExampleNotFoundError):
        store.remove_example(odd)
    assert store.load_evaluations([odd, "digest"]) == []
    assert store.find_observations(odd, [odd]) == set()
    with pytest.raises(StorageError, match="a value cannot be stored"):
        store.add_examples([make_example("good"), make_example("bad", source_path=odd)])
    assert store.get_all_examples() == []


SPOILED: dict[str, tuple[str, Callable[[SQLStore], int]]] = {
    "training_examples": ("metadata = '{'", lambda store: len(store.get_all_examples())),
    "training_sessions": ("start_time = 'soon'", lambda store: len(store.get_all_sessions())),
    "evaluations": ("created_at = 'x'", lambda store: len(store.load_evaluations(["digest"]))),
}


@pytest.mark.parametrize("table", SPOILED)
def test_a_row_that_was_spoiled_by_hand_is_found_and_passed_over(
    kept_url: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, count = SPOILED[table]
    with contextlib.closing(SQLStore(kept_url)) as store:
        fill(store)  # type: ignore[arg-type]
        assert store.check() == []
        before = count(store)
        postgres.execute(kept_url, f"UPDATE {table} SET {change}")
        fault = store.check()[0]
        assert fault.table == table
        assert (fault.rowid is None) == kept_url.startswith("postgres")
        assert ("mend it with SQL" in fault.remedy) == kept_url.startswith("postgres")
        assert (before, count(store), count(store)) in {(1, 0, 0), (2, 0, 0)}
        assert len(caplog.messages) == 1
        assert "see check()" in caplog.text


def test_of_equal_keys_in_one_call_the_last_wins_and_counts_as_new(any_store: SQLStore) -> None:
    first, other, last = make_evaluation(), make_evaluation(worker_id="other"), make_evaluation(accuracy=0.5)
    any_store.save_evaluations([first, other, last])
    assert any_store.load_evaluations(["digest"]) == [other, last]


@pytest.mark.slow
def test_one_record_that_was_asked_for_and_is_spoiled_is_an_error(store: SQLStore, url: str) -> None:
    fill(store)  # type: ignore[arg-type]
    postgres.execute(url, "UPDATE training_examples SET metadata = '{'", "UPDATE training_sessions SET status = '1'",
                     "UPDATE training_sessions SET start_time = '1'")  # fmt: skip
    for call in (lambda: store.get_example("example"), lambda: store.get_session("session")):
        with pytest.raises(StorageCorruptError, match="check\\(\\) lists all such rows"):
            call()


@pytest.mark.slow
def test_what_does_not_go_together_is_found(store: SQLStore, url: str) -> None:
    fill(store)  # type: ignore[arg-type]
    postgres.execute(
        url,
        "DELETE FROM example_files",
        "UPDATE training_sessions SET status = 'running'",
        "UPDATE previews SET png = 'x', num_bytes = 1 WHERE name = 'target'",
    )
    assert {(fault.table, fault.column, fault.remedy) for fault in store.check()} == {
        ("training_examples", None, "mend it with SQL, or restore a backup"),
        ("training_sessions", "status", "mend it with SQL, or restore a backup"),
        ("previews", None, "mend it with SQL, or restore a backup"),
    }
    postgres.execute(url, "DROP TABLE previews")
    (fault,) = store.check()
    assert "previews" in fault.problem


@pytest.mark.slow
def test_a_training_on_a_server_ends_as_one_in_memory_to_the_last_bit(url: str, tmp_path: Path) -> None:
    def manager_on(storage: TrainingStore) -> TrainingManager:
        return TrainingManager(usual_pool(), BayesianWeightLearner(), storage=storage)

    found = []
    rows = [(*save_triple(tmp_path, number), {"number": number}) for number in range(4)]
    for storage in (InMemoryStore(), SQLStore(url)):
        with manager_on(storage) as manager:
            manager.add_training_examples(rows)
            results = manager.train(epochs=2, verbose=False)
            manager.remove_training_example(manager.data_manager.get_all_examples(1)[0].example_id)
            answer = manager.predict(*rows[0][:2])
            found.append((manager.weight_learner.get_all_weights(), answer.image.tobytes(), results["session"]))
    for part in range(2):
        assert found[0][part] == found[1][part]
    assert found[0][2]["metrics_history"] == found[1][2]["metrics_history"]
    with manager_on(SQLStore(url)) as again:
        assert again.weight_learner.get_all_weights() == found[0][0]
        assert again.data_manager.check() == []  # type: ignore[attr-defined]


@pytest.mark.slow
def test_previews_beyond_the_limit_make_room_on_a_server_too(store: SQLStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsm_training.storage.sql.store.PREVIEW_BYTES", 2 * len(PNG))
    for rank in (3.0, 1.0, 2.0, 4.0):
        store.save_evaluations([], [Preview(f"d{rank:g}", "a", PNG, rank)])
    assert store.ranked_digests() == ["d1", "d2"]
    assert store.preview_cutoff() == (2.0, "d2")


def test_what_a_worker_says_in_its_failure_can_be_stored_on_a_server() -> None:
    from tsm_training.workers.running import shown  # noqa: PLC0415 - a private name, wanted here only

    assert shown("before\0behind \ud800") == "before\\x00behind \\ud800"


def test_edits_of_many_examples_are_few_statements(any_store: SQLStore) -> None:
    any_store.add_examples([make_example(f"e{number}") for number in range(50)])
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    engine = any_store._database._pool.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    edits = {f"e{n}": lambda stored: attrs.evolve(stored, metadata={"new": 1}) for n in range(50)}
    any_store.edit_examples(edits)
    assert len(statements) <= 8
    statements.clear()
    any_store.get_examples([f"e{n}" for n in range(50)])
    assert len(statements) <= 3
