"""The pictures of the pages, drawn when the site is built: one training on photographs, seen in several ways."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from screenshot import write_screenshot

import tsm_training
from tsm_training import (
    BayesianWeightLearner,
    InMemoryStore,
    TrainingManager,
    WorkerPool,
    create_color_transfer_workers,
)
from tsm_training.images import write_image
from tsm_training.plots import (
    plot_contenders,
    plot_examples,
    plot_growth,
    plot_learning_curve,
    plot_weights,
    plot_workers,
)
from tsm_training.report import contact_sheet

DOCS = Path(__file__).parent
FOLDER = DOCS / "howto" / "generated"
_EXAMPLES = DOCS.parent / "examples"
_STAMP = FOLDER / "made-of.txt"
_TRIPLES = 26


def write_pictures() -> None:
    """Draw the pictures, unless those that are there were drawn by the same code."""
    stamp = _digest()
    if _STAMP.exists() and _STAMP.read_text(encoding="utf-8") == stamp:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        rows = _triples(Path(name))
        with _trained(rows) as manager:
            _draw(manager)
        write_screenshot(FOLDER, [row[:3] for row in rows[:14]])
    _STAMP.write_text(stamp, encoding="utf-8")


def _digest() -> str:
    package = Path(tsm_training.__file__).parent
    files = [*sorted(DOCS.glob("*.py")), *sorted(package.rglob("*.py")), *sorted(_EXAMPLES.rglob("*.py"))]
    files += sorted(_EXAMPLES.glob("flask_app/*/**/*.*"))
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()


def _triples(folder: Path) -> list[tuple[Path, Path, Path, dict[str, Any]]]:
    sys.path.insert(0, str(_EXAMPLES))
    try:
        from photographs import (  # noqa: PLC0415 - the examples are no package
            make_triples,
            packaged_photographs,
            read_photographs,
            write_triples,
        )
    finally:
        sys.path.remove(str(_EXAMPLES))
    return write_triples(make_triples(list(read_photographs(packaged_photographs())), _TRIPLES), folder)


def _trained(rows: Sequence[tuple[Path, Path, Path, dict[str, Any]]]) -> TrainingManager:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    manager = TrainingManager(pool, BayesianWeightLearner(alpha=0.15), storage=InMemoryStore())
    for first, last in ((0, 12), (12, 19), (19, _TRIPLES)):
        manager.add_training_examples(rows[first:last])
        manager.train(epochs=3, validation_split=0.3, verbose=False)
    return manager


def _draw(manager: TrainingManager) -> None:
    session = manager.data_manager.get_all_sessions()[-1]
    plots = {
        "weights": plot_weights(manager),
        "growth": plot_growth(manager),
        "learning": plot_learning_curve(session),
        "workers": plot_workers(manager),
        "contenders": plot_contenders(session),
        "examples": plot_examples(session, manager.data_manager.get_all_examples()),
    }
    for name, plot in plots.items():
        plot.savefig(FOLDER / f"{name}.png")
    write_image(FOLDER / "sheet.png", contact_sheet(manager, rows=2))
    manager.report(FOLDER / "report.html", title="Film looks")
