"""The database schema, its version, and how a file is recognised."""

from __future__ import annotations

from typing import Final

__all__ = ["APPLICATION_ID", "GUIDE_SCHEMA", "GUIDE_TABLES", "OWN_SCHEMA", "SCHEMA_VERSION", "UPGRADES"]

APPLICATION_ID: Final = 0x54534D31
"""``PRAGMA application_id`` of our files ("TSM1"), so that tools can tell them from any other SQLite database."""

SCHEMA_VERSION: Final = 4
"""``PRAGMA user_version``.

History: 0 with the guide's tables is an application's own file; 1, the first version; 2 knows who runs a session, and
has a place for rows that cannot be used; 3 keeps fitted blends, and what was learned group by group; 4 keeps what
trainable workers have noted and were fitted to, and ranks previews.
"""

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

GUIDE_TABLES: Final[dict[str, tuple[str, ...]]] = {
    "training_examples": (
        "example_id",
        "source_path",
        "target_path",
        "ground_truth_path",
        "created_at",
        "metadata",
        "worker_results",
        "validation_scores",
    ),
    "training_sessions": (
        "session_id",
        "start_time",
        "end_time",
        "num_examples",
        "epochs",
        "learning_rate",
        "initial_weights",
        "final_weights",
        "metrics_history",
        "status",
    ),
    "training_metrics": (
        "id",
        "session_id",
        "epoch",
        "example_id",
        "worker_id",
        "accuracy",
        "confidence",
        "loss",
        "timestamp",
    ),
}
"""The columns by which a file of an application that followed the guide is recognised."""

_FIRST_SCHEMA: Final = """
-- Beside training_examples: the order of addition, and the contents of the three files.
CREATE TABLE example_files (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_id TEXT NOT NULL UNIQUE,
    files TEXT,  -- JSON: per role sha256, num_bytes, width, height
    FOREIGN KEY (example_id) REFERENCES training_examples(example_id) ON DELETE CASCADE
);
-- Beside training_sessions: the order, and what the guide's columns have no place for.
CREATE TABLE session_details (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    details TEXT NOT NULL,  -- JSON
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
);
CREATE INDEX training_metrics_by_session ON training_metrics(session_id);
-- One row per (contents, worker, metric): running a worker again would give the same.
CREATE TABLE evaluations (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_digest TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    worker_fingerprint TEXT NOT NULL,
    metric_fingerprint TEXT NOT NULL,
    accuracy REAL,  -- NULL where the worker failed
    confidence REAL NOT NULL,
    failure_kind TEXT,
    failure_type TEXT,
    failure_message TEXT,
    seconds REAL NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (example_digest, worker_id, worker_fingerprint, metric_fingerprint)
);
-- Small samples of pictures, so that blends can be compared without running a worker. Where there is no room for all,
-- those of the lowest rank stay; without one (NULL) they stay as long as the example.
CREATE TABLE previews (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    example_digest TEXT NOT NULL,
    name TEXT NOT NULL,
    png BLOB NOT NULL,
    rank REAL DEFAULT 1.0,
    UNIQUE (example_digest, name)
);
-- The learned state: where each worker starts, and what was absorbed of each example since.
CREATE TABLE learning_version (
    store_id TEXT NOT NULL,
    version INTEGER NOT NULL
);
CREATE TABLE learned_bases (
    worker_id TEXT PRIMARY KEY,
    prior REAL NOT NULL,
    evidence REAL NOT NULL,
    advantage REAL NOT NULL,
    squared_advantage REAL NOT NULL,
    accuracy_sum REAL NOT NULL,
    valid_count INTEGER NOT NULL,
    update_count INTEGER NOT NULL,
    failed_evidence REAL NOT NULL
);
CREATE TABLE absorbed_evidence (
    example_digest TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    accuracy REAL,  -- NULL where the worker failed
    confidence REAL NOT NULL,
    residual REAL NOT NULL,
    PRIMARY KEY (example_digest, worker_id)
) WITHOUT ROWID;
"""

_SECOND_SCHEMA: Final = """
-- Which sessions are running, and whose they are; a row goes when its session ends.
CREATE TABLE IF NOT EXISTS running_sessions (
    session_id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    process_id INTEGER NOT NULL,
    FOREIGN KEY (session_id) REFERENCES training_sessions(session_id)
) WITHOUT ROWID;
-- Rows whose values the library never writes, put aside so that the others can be used.
CREATE TABLE IF NOT EXISTS quarantined_rows (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    content TEXT NOT NULL,  -- JSON: the row's values by column; bytes as {"base64": ...}
    reason TEXT NOT NULL,
    quarantined_at TEXT NOT NULL
);
"""

_THIRD_SCHEMA: Final = """
-- The shares that were fitted on the blended pictures: for all requests (both texts are empty), and group by group.
CREATE TABLE IF NOT EXISTS learned_blends (
    group_by TEXT NOT NULL,  -- the metadata key by which the training was grouped
    group_label TEXT NOT NULL,  -- the value under it
    members TEXT NOT NULL,  -- JSON: the digests of the group's examples
    bases TEXT NOT NULL,  -- JSON: imported sums, per worker
    fitted TEXT,  -- JSON: shares, solver, absorbed, digests, safe; NULL where nothing was fitted
    PRIMARY KEY (group_by, group_label)
) WITHOUT ROWID;
"""

_FOURTH_SCHEMA: Final = """
-- What workers that learn have noted of each example.
CREATE TABLE IF NOT EXISTS observations (
    example_digest TEXT NOT NULL,
    name TEXT NOT NULL,  -- the worker's id and fingerprint
    content BLOB NOT NULL,
    PRIMARY KEY (example_digest, name)
) WITHOUT ROWID;
-- What they were fitted to.
CREATE TABLE IF NOT EXISTS learned_fits (
    worker_id TEXT PRIMARY KEY,
    document BLOB NOT NULL
) WITHOUT ROWID;
"""

OWN_SCHEMA: Final = _FIRST_SCHEMA + _SECOND_SCHEMA + _THIRD_SCHEMA + _FOURTH_SCHEMA
"""Our own tables, beside the guide's."""

_RANK: Final = "ALTER TABLE previews ADD COLUMN rank REAL DEFAULT 1.0;\n"
"""Previews that are there already come behind all others, in the order in which they were kept so far."""

UPGRADES: Final = {1: _SECOND_SCHEMA, 2: _THIRD_SCHEMA, 3: _RANK + _FOURTH_SCHEMA}
"""What brings a file of each older schema version one version further; what is there already is left as it is."""
