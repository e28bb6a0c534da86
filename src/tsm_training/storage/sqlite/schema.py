"""The database schema, its version, and how a file is recognised."""

from __future__ import annotations

import re
from typing import Final

APPLICATION_ID: Final = 0x54534D31
"""``PRAGMA application_id`` of our files ("TSM1"), so that tools can tell them from any other SQLite database."""

SCHEMA_VERSION: Final = 6
"""``PRAGMA user_version``; 0 with the guide's tables is an application's own file, 1 to 5 were never released."""

GUIDE_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS training_examples (
    example_id TEXT PRIMARY KEY,
    source_path TEXT NOT NULL,
    target_path TEXT NOT NULL,
    ground_truth_path TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,  -- JSON
    worker_results TEXT,  -- JSON
    validation_scores TEXT  -- JSON
);
CREATE TABLE IF NOT EXISTS training_sessions (
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
CREATE TABLE IF NOT EXISTS training_metrics (
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
"""The guide's three tables, to the letter."""

OWN_SCHEMA: Final = """
-- One row: which store this is, and a random text that changes with the learned state.
CREATE TABLE store_identity (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    store_id TEXT NOT NULL CHECK (store_id <> ''),
    token TEXT NOT NULL  -- empty where nothing was ever learned
) STRICT;
-- Beside training_examples: the order of addition, and the contents of the three files.
CREATE TABLE example_files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_id TEXT NOT NULL UNIQUE,
    digest TEXT,  -- names the contents of all three files; NULL until they are known, as the next
    files TEXT CHECK (files IS NULL OR json_valid(files)),  -- JSON: per role sha256, num_bytes, width, height
    CHECK ((digest IS NULL) = (files IS NULL)),
    FOREIGN KEY (example_id) REFERENCES training_examples(example_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX example_files_by_digest ON example_files(digest);
-- Beside training_sessions: the order, and what the guide's columns have no place for.
CREATE TABLE session_details (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    details TEXT NOT NULL CHECK (json_valid(details)),  -- JSON
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
) STRICT;
CREATE INDEX training_metrics_by_session ON training_metrics(session_id);
-- Which sessions are running, whose they are, and until when that is believed; a row goes when its session ends.
CREATE TABLE running_sessions (
    session_id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,  -- of the running system, and of the container in it; empty where that cannot be told
    process_id INTEGER NOT NULL CHECK (process_id > 0),
    process_start TEXT NOT NULL,  -- tells a process from a later one with the same number; may be empty
    expires_at TEXT NOT NULL,
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
) STRICT;
-- One row per (contents, worker, metric, reader of pictures): running a worker again would give the same.
CREATE TABLE evaluations (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_digest TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    worker_fingerprint TEXT NOT NULL,
    metric_fingerprint TEXT NOT NULL,
    reader_version TEXT NOT NULL,
    accuracy REAL CHECK (accuracy BETWEEN 0.0 AND 1.0),  -- NULL where the worker failed
    confidence REAL NOT NULL CHECK (confidence BETWEEN 0.0 AND 1.0),
    failure_kind TEXT CHECK ((failure_kind IS NULL) = (accuracy IS NOT NULL)),
    failure_type TEXT,
    failure_message TEXT,
    seconds REAL NOT NULL CHECK (seconds >= 0.0 AND seconds < 9e999),
    created_at TEXT NOT NULL,
    UNIQUE (example_digest, worker_id, worker_fingerprint, metric_fingerprint, reader_version)
) STRICT;
-- Small samples of pictures, so that blends can be compared without running a worker. Where there is no room for all,
-- those of the lowest rank stay; without one (NULL) they stay as long as the example.
CREATE TABLE previews (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_digest TEXT NOT NULL,
    name TEXT NOT NULL,
    png BLOB NOT NULL,
    num_bytes INTEGER NOT NULL CHECK (num_bytes = LENGTH(png)),
    rank REAL CHECK (rank > -9e999 AND rank < 9e999),
    UNIQUE (example_digest, name)
) STRICT;
CREATE INDEX previews_by_rank ON previews(rank, example_digest, name, num_bytes) WHERE rank IS NOT NULL;
-- What workers that learn have noted of each example.
CREATE TABLE observations (
    example_digest TEXT NOT NULL,
    name TEXT NOT NULL,  -- the worker's id and fingerprint
    content BLOB NOT NULL,
    PRIMARY KEY (example_digest, name)
) STRICT;
-- Learned state: documents that only the learner understands. Every reader needs the head ...
CREATE TABLE learned_head (
    name TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;
-- ... and a change needs the rows of what it is about, under keys that the learner chooses.
CREATE TABLE learned_rows (
    key TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;
-- Rows whose values the library never writes, put aside so that the others can be used.
CREATE TABLE quarantined_rows (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    content TEXT NOT NULL CHECK (json_valid(content)),  -- the row's values by column; bytes as {"base64": ...}
    reason TEXT NOT NULL,
    quarantined_at TEXT NOT NULL
) STRICT;
"""
"""Our own tables, beside the guide's; what their columns may hold is said here and nowhere else."""

_TABLE: Final = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) \((.+?)\n\)", re.DOTALL)
_BODIES: Final = dict(_TABLE.findall(GUIDE_SCHEMA + OWN_SCHEMA))
_COLUMN: Final = re.compile(r"^ {4}(\w+) (TEXT|INTEGER(?! PRIMARY KEY AUTOINCREMENT)|REAL|BLOB)", re.MULTILINE)
_NUMBER: Final = re.compile(r"^ {4}(\w+) INTEGER PRIMARY KEY AUTOINCREMENT", re.MULTILINE)
TYPES: Final = {table: dict(_COLUMN.findall(body)) for table, body in _BODIES.items()}
"""The columns of each table and their types, in order, but for those that the database numbers."""
COLUMNS: Final = {table: tuple(types) for table, types in TYPES.items()}
"""The names of those columns."""
NUMBERED: Final = {table: tuple(_NUMBER.findall(body)) for table, body in _BODIES.items()}
"""Of each table the column that the database numbers, if it has one."""

UPGRADES: Final = {0: GUIDE_SCHEMA + OWN_SCHEMA}
"""What brings a file of an older schema to the present one: 0 is the guide's, of which some tables may be missing."""
