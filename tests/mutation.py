"""Mutation testing: does a test fail when a statement of the library is changed?

    python -m tests.mutation --group learner

mutmut changes one expression at a time (``<`` to ``<=``, ``and`` to ``or``, an argument to None …) in a copy of the
project and runs the tests of the group that reach the changed function. A change that no test notices has survived. The
score and the survivors are printed, with ``--show`` what they change too; ``docs/explanation/mutation.md`` says why
they survive.

Needs ``pip install mutmut`` and a system with fork. A group takes between ten minutes and an hour, so neither the
ordinary tests nor CI run it. Temporary files go where TMPDIR says: a folder in memory makes the storage group faster.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import attrs

__all__ = ["GROUPS", "Group", "main"]

_ROOT: Final = Path(__file__).parents[1]
_COPIED: Final = ("src", "tests", "pyproject.toml", "README.md")
_SECTION: Final = "[tool.mutmut]\n"
_NOT_CHANGED: Final = {"src/tsm_training/weights.py": "class WeightLearner(Protocol):"}
"""Classes to leave alone, by their first line: `isinstance` takes a changed copy of a method for one more to have."""

_MUTMUT: Final = (sys.executable, "-c", "from mutmut.__main__ import cli; cli()")
_DETECTED: Final = frozenset({"killed", "timeout", "segfault"})
"""Of a mutant that hangs or crashes a test run everybody takes notice."""

_PRELOADED: Final = "preloaded.txt"
_LIBRARIES: Final = ("attrs", "cv2", "numpy")
"""What is slow to import and never changed, but for plugins of pytest, which must be imported by it."""

_SQL: Final = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|BEGIN|COMMIT|ROLLBACK|PRAGMA|FROM|WHERE|VALUES|ORDER BY)\b")
_CAST: Final = re.compile(r"""\bcast\(("[^"]*"|None), """)

_IN_THIS_PROCESS: Final = "not process and not killed and not child and not imports_pytest"
"""The other tests start programs of their own. Those import the library as it is, so they cannot see a change."""

_SAID_BEFORE: Final = (
    "not DatabaseInMemory and not damaged_bytes and not fills_the_memory and not each_call_without_room"
    " and not contract_catches and not a_store_that_is_right"
)
"""Tests of storage that say again what others say, or take too long to be repeated three thousand times."""


@attrs.frozen
class Group:
    """What is changed, and what must notice it."""

    files: Sequence[str]
    tests: Sequence[str]
    expression: str | None = None
    """Which of the tests, as pytest's ``-k`` understands it; all of them by default."""
    without: Sequence[str] = ()
    """Files that are left out, or stand in a group of their own."""
    imports_anew: bool = False
    """Import the library for each change, so that what it computes while it is imported is changed too; slower."""

    def settings(self) -> str:
        """Return the lines that make the project's mutmut settings those of this group."""
        selection = [f"tests/{name}.py" for name in self.tests]
        if self.expression is not None:
            selection += ["-k", self.expression]
        lines: dict[str, str | list[str]] = {
            "only_mutate": [f"src/tsm_training/{name}" for name in self.files],
            "do_not_mutate": [f"src/tsm_training/{name}" for name in self.without],
            "pytest_add_cli_args_test_selection": selection,
        }
        if self.imports_anew:
            lines["process_isolation"] = "forkserver"
            lines["forkserver_warmup"] = "import"
            lines["preload_modules_file"] = _PRELOADED
        return "".join(f"{key} = {value!r}\n" for key, value in lines.items())


GROUPS: Final[Mapping[str, Group]] = {
    "learner": Group(
        files=["learning/rule.py", "learning/evidence.py", "weights.py", "persistence.py"],
        tests=["test_weights", "test_learner", "test_evidence", "test_persistence", "test_fits_kept"],
    ),
    "files": Group(
        files=["learning/files.py", "files.py"],
        tests=["test_weights_files", "test_weights_details", "test_files"],
        expression=_IN_THIS_PROCESS,
    ),
    "storage": Group(
        files=["data.py", "storage/*.py", "storage/sqlite/*.py"],
        tests=[
            "test_stores",
            "test_sqlite",
            "test_metadata",
            "test_split",
            "test_ownership",
            "test_showing",
            "test_upgrade",
            "test_storage_care",
            "test_storage_connection",
            "test_storage_details",
            "test_storage_faults",
            "test_storage_network",
            "test_storage_read_only",
            "test_storage_room",
            "test_storage_round_trip",
            "test_storage_salvage",
            "test_storage_salvage_rows",
            "test_storage_words",
        ],
        expression=f"{_IN_THIS_PROCESS} and {_SAID_BEFORE}",
        without=["storage/sqlite/rules.py"],
    ),
    # The rules of the tables are made on import.
    "rules": Group(
        files=["storage/sqlite/rules.py"], tests=["test_storage_rules", "test_storage_round_trip"], imports_anew=True
    ),
}


def _prepare(folder: Path, group: Group) -> None:
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            shutil.copytree(
                _ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
            )
        else:
            shutil.copy(_ROOT / name, folder / name)
    _edit(folder / "pyproject.toml", _SECTION, _SECTION + group.settings())
    (folder / _PRELOADED).write_text("\n".join(_LIBRARIES), encoding="utf-8")
    for name, line in _NOT_CHANGED.items():
        _edit(folder / name, line, f"{line}  # pragma: no mutate block")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise SystemExit(f"{old.strip()!r} must stand in {path} once")
    path.write_text(text.replace(old, new), encoding="utf-8")


def _results(folder: Path) -> dict[str, str]:
    """Return what became of each mutant, by its name."""
    listed = subprocess.run([*_MUTMUT, "results", "--all", "true"], cwd=folder, capture_output=True, check=True)
    lines = (line.strip() for line in listed.stdout.decode().splitlines())
    return dict(line.rsplit(": ", 1) for line in lines if ": " in line)


def _changes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return what each of these mutants changes, as a difference."""
    program = (
        "import sys; from mutmut.__main__ import cli\nfor n in sys.argv[1:]: cli(['show', n], standalone_mode=False)"
    )
    shown = subprocess.run([sys.executable, "-c", program, *names], cwd=folder, capture_output=True, check=True)
    parts = re.split(r"^# (\S+): [a-z ]+$", shown.stdout.decode(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _means_the_same(change: str) -> bool:
    """Tell whether only the case of an SQL statement was changed, or what `cast` tells a type checker."""
    lines = [_CAST.sub("cast(", line) for line in change.splitlines() if not line.startswith(("---", "+++"))]
    old, new = ([line[1:] for line in lines if line.startswith(sign)] for sign in "-+")
    is_sql = any(_SQL.search(line) for line in old)
    return old == new or (is_sql and [line.casefold() for line in old] == [line.casefold() for line in new])


def _report(group: str, results: Mapping[str, str], folder: Path, *, show: bool) -> float:
    """Print the score and the survivors; return the score."""
    counts = collections.Counter(results.values())
    changes = _changes(folder, [name for name, status in sorted(results.items()) if status not in _DETECTED])
    survivors = {name: change for name, change in changes.items() if not _means_the_same(change)}
    detected = sum(counts[status] for status in _DETECTED)
    score = detected / (detected + len(survivors)) if results else 0.0
    print(f"\n{group}: mutmut {version('mutmut')}, {len(results)} mutants, {score:.1%} detected")
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    print(f"{len(changes) - len(survivors)} change only the case of SQL or a type for the type checker: not counted")
    for name, change in survivors.items():
        print(f"{results[name]}: {name}{change if show else ''}")
    return score


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one group; the result is 0 if at least the wanted share of its mutants was detected."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--group", choices=GROUPS, required=True)
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="how many tests run at once")
    parser.add_argument("--least", type=float, default=0.85, help="the share of mutants that must be detected")
    parser.add_argument("--show", action="store_true", help="print what the survivors change")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave the results for a closer look")
    parser.add_argument(
        "mutants", nargs="*", help="names or patterns of the mutants to run; all of the group by default"
    )
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutation-")))
        _prepare(folder, GROUPS[options.group])
        subprocess.run(
            [*_MUTMUT, "run", "--max-children", str(options.children), *options.mutants],
            cwd=folder,
            env={**os.environ, "HYPOTHESIS_PROFILE": "brief"},
            check=True,
        )
        score = _report(options.group, _results(folder), folder, show=options.show)
    return int(score < options.least)


if __name__ == "__main__":
    sys.exit(main())
