"""The application of the guide: collect examples, train an ensemble on them, and look at what it has learned.

    python examples/flask_app/app.py [--port 5000] [--db FILE] [--uploads DIR] [--pictures DIR]… [--quota MB]

Needs Flask: ``pip install ".[flask]"``. Then open the address that it prints.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flask import Flask, redirect, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from answers import refusal
from service import EXTENSION, TrainingService
from training_routes import OWN_NAMES, init_training, secured, training_bp
from tsm_training import (
    BayesianWeightLearner,
    TsmTrainingError,
    WorkerPool,
    WorkerPoolLike,
    create_color_transfer_workers,
)

_log = logging.getLogger("flask_app")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses of this machine that no other can reach."""

_LEAST_PORT, _MOST_PORT = 0, 65535


def create_app(
    db_path: str | Path = "tsm_training.db",
    upload_folder: str | Path = "uploads",
    worker_pool: WorkerPoolLike | None = None,
    **settings: Any,
) -> Flask:
    """Make the application.

    Args:
        db_path: The database, made if it does not exist.
        upload_folder: Where uploaded pictures are kept, made if it does not exist.
        worker_pool: The ensemble; the built-in colour-transfer workers unless given.
        settings: Further ones of `init_training`.

    Raises:
        TsmTrainingError: the database cannot be used.
    """
    app = Flask(__name__)
    init_training(
        worker_pool or built_in_workers(),
        BayesianWeightLearner(alpha=0.15),
        db_path,
        upload_folder=upload_folder,
        **settings,
    )
    app.register_blueprint(training_bp)
    app.register_error_handler(HTTPException, refusal)
    app.after_request(secured)

    @app.get("/")
    def index() -> Response:
        return redirect(url_for("training.dashboard.page"))

    return app


def built_in_workers() -> WorkerPool:
    """Return a pool of the built-in colour-transfer workers."""
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    return pool


# --- the server -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Serve the application until Ctrl-C, or until the system asks the process to end."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app = create_app(
            options.db,
            options.uploads,
            picture_folders=options.pictures,
            quota=options.quota * 1_000_000,
            host_names=OWN_NAMES if options.host in _LOOPBACK else None,
        )
    except (OSError, TsmTrainingError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    service: TrainingService = app.extensions[EXTENSION]
    signal.signal(signal.SIGTERM, _end)
    try:
        _serve(app, options.host, options.port)
    finally:
        service.close()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _serve(app: Flask, host: str, port: int) -> None:
    if host not in _LOOPBACK:
        _log.warning("anybody who reaches this machine can use the application: it asks nobody for a password")
    server = make_server(host, port, app, threaded=True)
    _log.info("serving on http://%s:%s (Ctrl-C ends it)", f"[{host}]" if ":" in host else host, server.server_port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        _log.info("ending")
    finally:
        server.server_close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Collect examples, train an ensemble on them, and look at the result.")
    parser.add_argument("--port", type=_port, default=5000, help="0 takes any free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--db", metavar="FILE", default="tsm_training.db", help="the database (default: %(default)s)")
    parser.add_argument("--uploads", metavar="DIR", default="uploads", help="uploaded pictures (default: %(default)s)")
    pictures = "pictures of examples that a script has added; may be given several times"
    parser.add_argument("--pictures", metavar="DIR", action="append", default=[], help=pictures)
    quota = "megabytes that all uploads together may have (default: %(default)s)"
    parser.add_argument("--quota", metavar="MB", type=int, default=5000, help=quota)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not _LEAST_PORT <= int(text) <= _MOST_PORT:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {_MOST_PORT}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
