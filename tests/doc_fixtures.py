"""Runs the Python blocks of Markdown pages: every one of them, in order, as the program that a reader would write."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import logging
import re
import shutil
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import tsm_training
from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    Image,
    TrainingDataManager,
    TrainingManager,
    Worker,
    WorkerPool,
    create_color_transfer_workers,
)

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
SLOW_WORKERS = {"learned_look", "sliced_transport"}
NUM_CONTENTS = 8
"""How many different triples there are behind the many file names of the guide."""

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")


# --- blocks -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    line: int
    """Of the block's first line of code, from 1."""
    code: str
    heading: str
    """The heading that it stands under."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(PROJECT)}, line {self.line} ({self.heading})"


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page: those marked with one of these languages, or all."""
    found, heading, lines = [], "", page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            heading = lines[number].lstrip("# ") if lines[number].startswith("#") else heading
            number += 1
            continue
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == fence["ticks"])
        code = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end]) + "\n"
        found.append(Block(page, fence["info"].strip(), number + 2, code, heading))
        number = end + 1
    return [block for block in found if not languages or block.language in languages]


def pages() -> list[Path]:
    """Return every written page of the documentation, and the read-me."""
    written = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
    return [*written, PROJECT / "README.md"]


# --- running ----------------------------------------------------------------------------------------------------------

AfterBlock = Callable[[Block, dict[str, Any], str], None]
"""Called after a block with the page's namespace and what the block printed."""


class PageProgram:
    """The blocks of one page as one program, whose module is ``__main__`` while it runs.

    The program stands in a real file whose line numbers are those of the page, so that tracebacks name the right line,
    fingerprints find the source of classes, and other processes can import it.
    """

    def __init__(self, blocks: Sequence[Block], folder: Path) -> None:
        self.blocks = blocks
        self.path = folder / f"{blocks[0].page.stem.replace('-', '_')}.py"
        self.module = types.ModuleType("__main__")
        self.module.__file__ = str(self.path)
        lines: list[str] = []
        for block in blocks:
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def namespace(self) -> dict[str, Any]:
        return self.module.__dict__

    def run(self, block: Block) -> str:
        """Run one block and return what it printed."""
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, str(self.path), "exec")
        try:
            with contextlib.redirect_stdout(printed):
                exec(code, self.namespace)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
            line = frames[0].lineno if frames else block.line
            error.add_note(f"in {block.place}: at line {line} of the page")
            raise
        return printed.getvalue()


def run_page(
    page: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, names: dict[str, Any], after: AfterBlock | None = None
) -> list[tuple[Block, str]]:
    """Run all Python blocks of a page in the present folder; return each with what it printed."""
    blocks = blocks_of(page, "python")
    if not blocks:
        return []
    program = PageProgram(blocks, folder)
    program.namespace.update(names)
    monkeypatch.setitem(sys.modules, "__main__", program.module)
    logger = logging.getLogger("tsm_training")
    level = logger.level
    results = []
    try:
        for block in blocks:
            printed = program.run(block)
            results.append((block, printed))
            if after is not None:
                after(block, program.namespace, printed)
    finally:
        logger.setLevel(level)  # a page shows how to change it
    return results


@contextlib.contextmanager
def closing_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every database that was opened meanwhile: pages show what matters, and leave the rest to the reader."""
    opened: list[TrainingDataManager] = []
    original = TrainingDataManager.__init__

    def __init__(self: TrainingDataManager, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(TrainingDataManager, "__init__", __init__)
    try:
        yield
    finally:
        for store in opened:
            store.close()


def make_plots_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let matplotlib draw without a screen."""
    import matplotlib as mpl  # noqa: PLC0415 - only pages with a plot need it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    monkeypatch.setattr(plt, "show", lambda *_args, **_kwargs: plt.close("all"))


def leave_out_slow_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page that does not speak of them go without the built-in workers that take most of the time."""
    import tsm_training.color_transfer as room  # noqa: PLC0415 - where a manager without a pool looks for workers

    def create() -> list[Worker]:
        return [worker for worker in create_color_transfer_workers() if worker.worker_id not in SLOW_WORKERS]

    for place in (tsm_training, tsm_training.color_transfer):
        monkeypatch.setattr(place, "create_color_transfer_workers", create)
    monkeypatch.setattr(room, "create_color_transfer_workers", create)


def keep_mlflow_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page use MLflow: it tells nobody, and what it is told here is forgotten with the page."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")  # the page says otherwise; this brings it back
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class _Distance(float):
    """Something with the manners of a tensor that holds one number."""

    def item(self) -> float:
        return float(self)


class _Network:
    """What stands in for a network of LPIPS: the mean difference of two tensors."""

    def __init__(self, net: str) -> None:
        self.net = net

    def __call__(self, first: Any, second: Any) -> _Distance:
        assert first.shape == second.shape
        assert first.shape[:2] == (1, 3)
        return _Distance(np.abs(first - second).mean())


def _to_tensor(picture: Image) -> Any:
    return (picture / 127.5 - 1.0)[:, :, :, np.newaxis].transpose((3, 2, 0, 1))


def stand_in_for_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page import as much of lpips and torch as it uses, without the network."""
    lpips, torch = types.ModuleType("lpips"), types.ModuleType("torch")
    monkeypatch.setattr(lpips, "LPIPS", _Network, raising=False)
    monkeypatch.setattr(lpips, "im2tensor", _to_tensor, raising=False)
    monkeypatch.setattr(torch, "no_grad", contextlib.nullcontext, raising=False)
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "torch", torch)


# --- pictures ---------------------------------------------------------------------------------------------------------


@functools.cache
def _practice() -> tuple[Path, dict[str, Any]]:
    """Run the page that draws pictures, once; return where it did so, and its names."""
    folder, names = Path(tempfile.mkdtemp()), {"__name__": "__main__"}
    atexit.register(shutil.rmtree, folder)
    with contextlib.chdir(folder):
        for block in blocks_of(DOCS / "practice.md", "python"):
            exec(compile(block.code, block.place, "exec"), names)
    return folder, names


def write_page_pictures() -> None:
    """Write the pictures that every page but the guide may use, into the present folder, as a reader would."""
    shutil.copytree(_practice()[0], Path.cwd(), dirs_exist_ok=True)


def write_triple(number: int, source: str | Path, target: str | Path, ground_truth: str | Path) -> None:
    """Write a triple under three names; its ground truth is what one of the built-in workers comes near to."""
    names = _practice()[1]
    names["write"]([source, target, ground_truth], names["triple"](number))


def write_guide_pictures() -> None:
    """Write every picture that the guide names, into the present folder."""
    write_triple(0, "path/to/source.jpg", "path/to/target.jpg", "path/to/desired_output.jpg")
    write_triple(1, "path/to/source_2.jpg", "path/to/target_2.jpg", "path/to/desired_output_2.jpg")
    write_triple(2, "uploads/1/source.jpg", "uploads/1/target.jpg", "uploads/1/ground_truth.jpg")
    for i in range(10):
        content = i % NUM_CONTENTS
        write_triple(content, f"data/source_{i}.jpg", f"data/target_{i}.jpg", f"data/ground_truth_{i}.jpg")
        for shift, style in enumerate(("vintage", "modern", "film", "digital")):
            names = (f"styles/{style}/{role}_{i}.jpg" for role in ("source", "target", "output"))
            write_triple((i + shift) % NUM_CONTENTS, *names)
    write_triple(3, "sunset.jpg", "beach.jpg", "sunset_beach.jpg")
    write_triple(4, "vintage.jpg", "portrait.jpg", "vintage_portrait.jpg")
    write_triple(5, "vibrant.jpg", "landscape.jpg", "vibrant_landscape.jpg")
    for i in range(3):
        write_triple(i, *(f"production/{role}_{i}.jpg" for role in ("source", "target", "result")))


# --- the application around the library -------------------------------------------------------------------------------


class Application:
    """As much of a web application as the guide needs: routes by path, and a request."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[], Any]] = {}

    def route(self, path: str, methods: Sequence[str] = ("GET",)) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        def register(handler: Callable[[], Any]) -> Callable[[], Any]:
            assert methods
            self.routes[path] = handler
            return handler

        return register

    def register_blueprint(self, blueprint: Application) -> None:
        self.routes |= blueprint.routes


@attrs.define
class Request:
    """What a route sees of the client."""

    json: dict[str, Any] = attrs.field(factory=dict)
    args: dict[str, str] = attrs.field(factory=dict)


class TrainingRoutes(types.ModuleType):
    """The application's own module ``training_routes``: the guide's routes, each a few lines over the library."""

    def __init__(self, request: Request) -> None:
        super().__init__("training_routes")
        self.training_bp = Application()
        self.manager: TrainingManager | None = None
        bp = self.training_bp

        @bp.route("/training/examples")
        def examples() -> dict[str, Any]:
            limit = request.args.get("limit")
            return {"success": True, **self._manager.list_examples(None if limit is None else int(limit))}

        @bp.route("/training/train", methods=["POST"])
        def train() -> dict[str, Any]:
            results = self._manager.train(**request.json)
            return {"success": True, "results": results, "message": "Training completed successfully"}

        @bp.route("/training/validate", methods=["POST"])
        def validate() -> dict[str, Any]:
            return {"success": True, "validation_results": self._manager.validate(**request.json)}

        @bp.route("/training/progress")
        def progress() -> dict[str, Any]:
            return {"success": True, "progress": self._manager.get_training_progress()}

        @bp.route("/training/reset-weights", methods=["POST"])
        def reset() -> dict[str, Any]:
            self._manager.reset_weights(**request.json)
            return {"success": True, "message": "Weights reset successfully"}

    @property
    def _manager(self) -> TrainingManager:
        assert self.manager is not None, "init_training() was not called"
        return self.manager

    def init_training(self, worker_pool: WorkerPool, weight_learner: BayesianWeightLearner, db_path: str) -> None:
        self.manager = TrainingManager(worker_pool, weight_learner, db_path=db_path)


def quick_pool() -> WorkerPool:
    """Return a pool of three workers, of which one is right."""
    pool = WorkerPool()
    standard = next(w for w in create_color_transfer_workers() if w.worker_id == "standard_transfer")
    pool.register_worker(standard)
    pool.register_worker(FunctionWorker("negative", _negative))
    pool.register_worker(FunctionWorker("unchanged", _unchanged))
    return pool


def _negative(_source: Image, target: Image) -> Image:
    return 255 - target


def _unchanged(_source: Image, target: Image) -> Image:
    return target


def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder, and return one beside it for the page's program."""
    work, programs = tmp_path / "work", tmp_path / "programs"
    work.mkdir()
    programs.mkdir()
    monkeypatch.chdir(work)
    return programs
