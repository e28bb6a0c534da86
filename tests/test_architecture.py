"""The house rules: imports run one way, nothing optional is loaded, and importing does nothing."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsm_training

PACKAGE = Path(tsm_training.__file__).parent

FLOORS = [
    {"_version", "errors"},
    {"arguments", "arrays", "core", "files", "forking", "progress", "text"},
    {"fingerprints", "images", "learning", "measures"},
    {"data", "metrics", "weights", "workers"},
    {"storage", "color_transfer", "ensemble", "persistence", "ingest", "isolation", "analysis"},
    {"evaluation"},
    {"engine"},
    {"documents", "lint"},
    {"report"},
    {"plots"},
    {"manager"},
    {"testing"},
]
"""Rooms from the ground up: a room may import from lower floors."""

OPTIONAL = {"tqdm", "matplotlib", "skimage", "sklearn", "flask", "PIL", "scipy", "pandas", "sqlalchemy", "pytest"}
OPTIONAL |= {"cloudpickle", "loky"}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py" or path.parent != PACKAGE
    }


def nodes_of(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module but for those of `_repr_html_`: a notebook may ask the report's room for HTML."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.FunctionDef) and node.name == "_repr_html_"):
            yield node
            yield from nodes_of(node)


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in nodes_of(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tsm_training."):
            names.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tsm_training.")}
    return names


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module: str) -> None:
    room = module.split(".", maxsplit=1)[0]
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    allowed = {room}.union(*FLOORS[:floor])
    assert imported_rooms(modules()[module]) <= allowed


OWN_ROOMS = {"data": "storage", "engine": "evaluation", "metrics": "measures", "weights": "learning"}
"""The files that define the public types of a subject, and the room behind each, in which it is at home."""

DOORS = {"report.figures", "report.notebook"}
"""Second doors: what plots draw, and what objects show of themselves in notebooks."""


@pytest.mark.parametrize("module", modules())
def test_nobody_reaches_past_the_door_of_a_room(module: str) -> None:
    room = module.split(".", maxsplit=1)[0]
    own = {room, OWN_ROOMS.get(room, room)}
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tsm_training."):
            name = node.module.removeprefix("tsm_training.")
            assert "." not in name or name.split(".")[0] in own or name in DOORS, node.module


def test_public_types_are_defined_in_the_files_of_their_subjects() -> None:
    homes = {
        "data": ("TrainingStore", "TrainingExample", "TrainingSession"),
        "engine": ("TrainingEngine",),
        "metrics": ("Metric", "GuideSimilarity"),
        "weights": ("WeightLearner", "BayesianWeightLearner"),
    }
    for subject, names in homes.items():
        assert (PACKAGE / f"{subject}.py").is_file()
        for name in names:
            assert getattr(tsm_training, name).__module__ == f"tsm_training.{subject}"


def test_opencv_and_sqlite_stay_in_their_rooms() -> None:
    users: dict[str, set[str]] = {"cv2": set(), "sqlite3": set()}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in users:
                        users[alias.name].add(module.split(".", maxsplit=1)[0])
    assert users["cv2"] == {"images", "measures", "color_transfer", "ensemble", "report"}
    assert users["sqlite3"] == {"storage"}


def test_html_is_made_in_one_room() -> None:
    elements = re.compile(r"</|<(div|span|svg|table|img)\b")
    makers = {
        module.split(".", maxsplit=1)[0]
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and elements.search(node.value)
    }
    assert makers == {"report"}


def test_the_package_door_has_names_only() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert all(isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign)) for node in tree.body)


def run(code: str, *flags: str) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_importing_loads_nothing_optional_and_starts_nothing() -> None:
    code = """
import json, logging, os, random, signal, sys, threading
before = (signal.getsignal(signal.SIGINT), random.getstate(), len(os.listdir()), logging.root.handlers[:])
import cv2
threads = cv2.getNumThreads()
import tsm_training
after = (signal.getsignal(signal.SIGINT), random.getstate(), len(os.listdir()), logging.root.handlers[:])
assert before == after
assert threads == cv2.getNumThreads()
assert threading.active_count() == 1
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    assert not OPTIONAL & set(json.loads(run(code, "-W", "error")))


def test_importtime_shows_no_optional_library() -> None:
    report = run("import tsm_training", "-X", "importtime")
    loaded = {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in report.splitlines()}
    assert "tsm_training" in loaded
    assert not OPTIONAL & loaded


def test_every_name_that_is_exported_exists_and_is_documented() -> None:
    doors = [tsm_training, *(importlib.import_module(f"tsm_training.{m.name}") for m in _public_modules())]
    for door in doors:
        assert door.__doc__, door.__name__
        assert len(set(door.__all__)) == len(door.__all__)
        for name in door.__all__:
            thing = getattr(door, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert thing.__doc__, f"{door.__name__}.{name}"


def _public_modules() -> list[pkgutil.ModuleInfo]:
    return [m for m in pkgutil.iter_modules(tsm_training.__path__) if not m.name.startswith("_")]


def test_optimised_mode_changes_nothing() -> None:
    code = """
from tsm_training import BayesianWeightLearner
try:
    BayesianWeightLearner(alpha=0)
except ValueError as error:
    print(error)
"""
    assert run(code, "-O").strip().startswith("alpha must be a number above 0 and at most 1, got 0")
