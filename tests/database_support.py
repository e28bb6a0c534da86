"""What the tests of the database file share: looking at it without the library, filling it, and other processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tsm_training.data import HeldState, ObservationRecord, Preview, SessionCommit, StateDelta
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import (
    MOMENT,
    make_delta,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_metric_row,
    make_outcome,
    make_scores,
    make_session,
)

GUIDE = """
CREATE TABLE training_examples (
    example_id TEXT PRIMARY KEY,
    source_path TEXT NOT NULL,
    target_path TEXT NOT NULL,
    ground_truth_path TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,  -- JSON
    worker_results TEXT,  -- JSON
    validation_scores TEXT  -- JSON
);
CREATE TABLE training_sessions (
    session_id TEXT PRIMARY KEY,
    start_time TEXT NOT NULL,
    end_time TEXT,
    num_examples INTEGER,
    epochs INTEGER,
    learning_rate REAL,
    initial_weights TEXT,  -- JSON
    final_weights TEXT,  -- JSON
    metrics_history TEXT,  -- JSON
    status TEXT
);
CREATE TABLE training_metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    epoch INTEGER,
    example_id TEXT,
    worker_id TEXT,
    accuracy REAL,
    confidence REAL,
    loss REAL,
    timestamp TEXT,
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
);
"""
"""The user guide's schema, copied from there."""

GUIDE_TABLES = ("training_examples", "training_sessions", "training_metrics")

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\n"
    b"IDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)


@contextlib.contextmanager
def plain(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Use the file without the library; every statement is committed at once, and foreign keys mean nothing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path: str | Path, *statements: str) -> None:
    """Run statements that no rule of a table stops."""
    with plain(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            connection.execute(statement)


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return everything in a file, by table, with its version."""
    with plain(path) as connection:
        tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        return found | {"version": connection.execute("PRAGMA user_version").fetchall()}


def fill(store: TrainingDataManager) -> None:
    """Put something into every table and every column."""
    store.add_examples(
        [make_example("example", worker_results={"good": make_outcome()}, validation_scores=make_scores())]
    )
    failure = make_evaluation(
        worker_id="bad", accuracy=None, failure_kind="raised", failure_type="X", failure_message="no"
    )
    store.save_evaluations(
        [make_evaluation(accuracy=1.0), failure],
        [Preview("digest", "good", PNG, 1), Preview("digest", "target", PNG, None)],
        [ObservationRecord("digest", "good", b"noted"), ObservationRecord("digest", "bad", b"")],
    )
    store.begin_session(make_session())
    session = make_session(
        end_time=MOMENT, status="completed", final_weights={"good": 1.1}, metrics_history=[make_epoch_metrics()]
    )
    commit = SessionCommit(session, [make_metric_row(accuracy=1.0, loss=0.0)], make_delta())
    store.commit_session("session", lambda _held: commit)


def count_up(held: HeldState) -> StateDelta:
    return StateDelta({"counter": str(int(held.head.get("counter", "0")) + 1)})


def counted(store: TrainingDataManager) -> int:
    return int(store.load_state().head.get("counter", "0"))


def learn(_held: HeldState) -> StateDelta:
    return make_delta()


def ids(store: TrainingDataManager) -> list[str]:
    return [example.example_id for example in store.iterate_examples()]


def open_files(path: Path) -> int:
    """Return how often this process has a file open."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself is gone by now
            names.append(str(descriptor.readlink()))
    return names.count(os.path.realpath(path))


@contextlib.contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process, and kill it in the end."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def run(script: str, *arguments: object) -> str:
    """Run a Python program that must succeed, and return what it printed."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
