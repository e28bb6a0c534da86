"""The house rules: imports run one way, nothing optional is loaded, and importing does nothing."""

from __future__ import annotations

import ast
import collections
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
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
    {"evaluation", "sql"},
    {"engine"},
    {"documents", "grading", "lint"},
    {"report"},
    {"plots"},
    {"manager"},
    {"__main__", "testing"},
]
"""Rooms from the ground up: a room may import from lower floors."""

OPTIONAL = {"tqdm", "matplotlib", "skimage", "sklearn", "flask", "PIL", "scipy", "pandas", "sqlalchemy", "pytest"}
OPTIONAL |= {"cloudpickle", "distributed", "loky", "pillow_heif", "psycopg"}


MODULES: Mapping[str, ast.Module] = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" or path.parent != PACKAGE
}

OWN_ROOMS = {"data": "storage", "engine": "evaluation", "metrics": "measures", "sql": "storage", "weights": "learning"}
"""The files that define the public types of a subject, and the room behind each, in which it is at home."""

DOORS = {"report.figures", "report.notebook"}
"""Second doors: what plots draw, and what objects show of themselves in notebooks."""


def room_of(module: str) -> str:
    return module.partition(".")[0]


def nodes_of(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module but for `__str__` and `_repr_html_`: what shows itself asks the report's room how."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.FunctionDef) and node.name in {"__str__", "_repr_html_"}):
            yield node
            yield from nodes_of(node)


def imported_by(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules of the package that are imported, without its name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("tsm_training.") for name in names if name.startswith("tsm_training.")}


def test_imports_run_one_way() -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for module, tree in MODULES.items():
        others = {room_of(name) for name in imported_by(nodes_of(tree))} - {room_of(module)}
        wrong += [f"{module} imports {room}" for room in others if floors[room] >= floors[room_of(module)]]
    assert not wrong


def test_nobody_reaches_past_the_door_of_a_room() -> None:
    wrong = []
    for module, tree in MODULES.items():
        own = {room_of(module), OWN_ROOMS.get(module)}
        deep = {name for name in imported_by(ast.walk(tree)) if "." in name} - DOORS
        wrong += [f"{module} imports {name}" for name in deep if room_of(name) not in own]
    assert not wrong


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


def test_opencv_and_sqlite_stay_in_their_rooms_and_web_frameworks_outside() -> None:
    users: dict[str, set[str]] = collections.defaultdict(set)
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                users[room_of(name)].add(room_of(module))
    assert users["cv2"] == {"images", "measures", "color_transfer", "ensemble", "report"}
    assert users["sqlite3"] == {"storage"}
    assert not users.keys() & {"flask", "werkzeug", "jinja2"}


def test_html_is_made_in_one_room() -> None:
    elements = re.compile(r"</|<(div|span|svg|table|img)\b")
    makers = {
        room_of(module)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and elements.search(node.value)
    }
    assert makers == {"report"}


def test_the_package_door_has_names_only() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert node.name in {"__getattr__", "__dir__"}
        else:
            assert isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LintReport", "LearnedLook", "lint", "color_transfer"])
def test_rooms_that_few_programs_need_are_loaded_when_somebody_asks(name: str) -> None:
    code = f"""
import sys, tsm_training
assert not {{"tsm_training.lint", "tsm_training.color_transfer"}} & sys.modules.keys()
assert {name!r} in dir(tsm_training) and not hasattr(tsm_training, "nothing")
print(tsm_training.{name}.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(name)


@pytest.mark.slow
def test_importing_loads_nothing_optional_starts_nothing_and_checks_in_optimised_mode_too() -> None:
    code = """
import json, logging, os, random, signal, sys, threading
import cv2
def state():
    handlers = [signal.getsignal(signal.SIGINT), logging.root.handlers[:]]
    return handlers, random.getstate(), os.listdir(), cv2.getNumThreads()
before = state()
import tsm_training
unchanged = state() == before and threading.active_count() == 1
loaded = sorted({name.partition(".")[0] for name in sys.modules})
try:
    tsm_training.BayesianWeightLearner(alpha=0)
except ValueError as error:
    print(json.dumps([unchanged, loaded, str(error)]))
"""
    command = [sys.executable, "-O", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unchanged, loaded, message = json.loads(done.stdout)
    assert unchanged
    assert not OPTIONAL & set(loaded)
    assert message.startswith("alpha must be a number above 0 and at most 1, got 0")
