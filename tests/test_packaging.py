"""The wheel and the sdist: what is in them, and that a stranger's application runs and is typed with the wheel."""

from __future__ import annotations

import ast
import contextlib
import email.message
import email.parser
import importlib.metadata
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from trove_classifiers import classifiers as known_classifiers

import tsm_training
from support import brighter, picture, save

PROJECT = Path(__file__).parent.parent
CONSUMER = Path(__file__).parent / "consumer"
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = "tsm_training"
TIMEOUT = 240  # seconds; a busy machine is no fault
CITATION_KEYS = {"abstract", "authors", "cff-version", "date-released", "keywords", "license", "message", "title"}
CITATION_KEYS |= {"type", "version", "doi", "identifiers", "preferred-citation", "repository-code", "url"}

SHIPPED = [name.strip("/") for name in SETTINGS["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
"""What the sdist is made of, beside the settings."""


def run(*command: object, cwd: Path, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_", "MYPY"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


# --- building ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from a copy of the tree, as it would be in a fresh clone; return the folder that holds them."""
    tree = tmp_path_factory.mktemp("clone") / "tree"
    tree.mkdir()
    clutter = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "_build", "generated", "*.db")
    for name in [*SHIPPED, "pyproject.toml", ".gitignore"]:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tree / name, **({"ignore": clutter} if copy is shutil.copytree else {}))
    (tree / "src" / PACKAGE / "__pycache__").mkdir()
    (tree / "src" / PACKAGE / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"left behind by a run")
    (tree / "left.db").write_bytes(b"left behind by a run")
    folder = tree.parent / "built"
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=tree)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    [path] = built.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.mark.slow
def test_the_wheel_is_for_every_machine_and_holds_the_package_and_nothing_else(wheel: Path) -> None:
    version = tsm_training.__version__
    assert wheel.name == f"{PACKAGE}-{version}-py3-none-any.whl"
    sources = (path for path in (PROJECT / "src" / PACKAGE).rglob("*") if path.suffix in {".py", ".typed"})
    expected = {path.relative_to(PROJECT / "src").as_posix() for path in sources}
    about = f"{PACKAGE}-{version}.dist-info"
    expected |= {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read(f"{about}/licenses/LICENSE") == (PROJECT / "LICENSE").read_bytes()
    assert len(set(names)) == len(names)
    assert set(names) == expected
    assert f"{PACKAGE}/py.typed" in names


@pytest.mark.slow
def test_the_sdist_holds_what_is_needed_to_test_and_document_and_no_clutter(sdist: Path) -> None:
    root = f"{PACKAGE}-{tsm_training.__version__}"
    assert sdist.name == f"{root}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(f"{root}/") for member in archive.getmembers() if member.isfile()}
    assert not [name for name in names if re.search(r"\.pyc$|\.db$|_cache/|/generated/|/_build/", name)]
    for name in SHIPPED:
        assert name in names or any(other.startswith(f"{name}/") for other in names), name
    assert {"pyproject.toml", "PKG-INFO", "tests/conftest.py", "docs/conf.py"} <= names


@pytest.mark.slow
def test_the_wheel_made_of_the_sdist_is_the_same_to_the_last_byte(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=tree)
    assert (tmp_path / "again" / wheel.name).read_bytes() == wheel.read_bytes()


# --- metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_metadata_say_what_it_is(metadata: email.message.Message) -> None:
    assert metadata["Name"] == PACKAGE
    assert metadata["Version"] == tsm_training.__version__
    assert metadata["Summary"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (PROJECT / "README.md").read_text(encoding="utf-8")
    assert "ensemble" in metadata["Keywords"]


@pytest.mark.slow
def test_every_classifier_is_one_that_the_index_knows(metadata: email.message.Message) -> None:
    given = metadata.get_all("Classifier", [])
    assert given == sorted(given)
    assert set(given) <= known_classifiers
    assert "Typing :: Typed" in given
    supported = {text.rpartition(" ")[2] for text in given if re.search(r"Python :: 3\.\d+$", text)}
    assert supported == {"3.11", "3.12", "3.13"}


@pytest.mark.slow
def test_three_libraries_are_needed_and_the_rest_are_extras(metadata: email.message.Message) -> None:
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {r.name for r in required if r.marker is None} == {"attrs", "numpy", "opencv-python-headless"}
    assert all(r.specifier for r in required if r.marker is None)
    assert set(metadata.get_all("Provides-Extra", [])) == SETTINGS["project"]["optional-dependencies"].keys()


def test_extras_that_errors_name_exist() -> None:
    """``MissingExtraError("isolation", …)`` tells people what to install."""
    named = {
        node.args[0].value
        for path in (PROJECT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "MissingExtraError"
        if isinstance(node.args[0], ast.Constant)
    }
    assert named
    assert named <= SETTINGS["project"]["optional-dependencies"].keys()


# --- what stands in several places ------------------------------------------------------------------------------------


def test_the_citation_file_is_valid_and_says_what_the_metadata_say() -> None:
    """As far as the format (1.2.0) asks for anything: four keys, and entities or persons as authors."""
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation.keys() <= CITATION_KEYS
    assert all(isinstance(citation[key], str) for key in citation.keys() - {"authors", "keywords"})
    assert citation["type"] in {"software", "dataset"}
    assert citation["title"] == PACKAGE
    assert citation["version"] == tsm_training.__version__
    assert citation["license"] == SETTINGS["project"]["license"]
    assert citation["keywords"] == SETTINGS["project"]["keywords"]
    assert citation["authors"] == SETTINGS["project"]["authors"]


def test_the_changelog_begins_with_the_present_version() -> None:
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == tsm_training.__version__


def test_the_way_to_a_green_run_is_the_same_wherever_it_is_told() -> None:
    line = 'pip install -e ".[dev]" && pytest'
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        assert line in (PROJECT / name).read_text(encoding="utf-8"), name
    first = re.findall(r"^```bash\n(.*?)^```", (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)[
        0
    ]
    assert len(first.splitlines()) == 2


# --- an environment that has the wheel, and what the wheel asks for ---------------------------------------------------


def top_levels(distribution: str) -> Iterable[Path]:
    """Return the files and folders that an installed distribution put into site-packages."""
    files = importlib.metadata.files(distribution) or []
    roots = {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}
    return [Path(importlib.metadata.distribution(distribution).locate_file(root)) for root in sorted(roots)]


@pytest.fixture(scope="module")
def python(wheel: Path, metadata: email.message.Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an empty environment with the wheel in it.

    The libraries that the wheel asks for are lent to it by name, so that this needs no network and takes a second.
    Whatever else is installed here is not to be found there.
    """
    home = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(home, symlinks=os.name != "nt")
    found = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(found, "-c", code, cwd=home).strip())
    pip = [sys.executable, "-m", "pip", "--python", found, "--disable-pip-version-check", "install"]
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, cwd=home)
    for text in metadata.get_all("Requires-Dist", []):
        if (needed := Requirement(text)).marker is None:
            for path in top_levels(needed.name):
                (site / path.name).symlink_to(path)
    return found


@pytest.mark.slow
def test_nothing_but_the_wheel_and_what_it_asks_for_is_in_that_environment(python: Path, tmp_path: Path) -> None:
    code = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    assert run(python, "-c", code, cwd=tmp_path).split() == ["attrs", "numpy", "opencv-python-headless", PACKAGE]
    where = run(python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parent.parent)


@pytest.mark.slow
def test_an_application_trains_predicts_exports_and_imports_there(python: Path, tmp_path: Path) -> None:
    """In an empty folder, where every warning is an error."""
    shutil.copy(CONSUMER / "application.py", tmp_path)
    out = run(python, "-W", "error", "application.py", cwd=tmp_path)
    assert re.search(r"^6 examples, 3 epochs: shifted leads; held out: [01]\.\d{4}$", out, re.MULTILINE), out
    assert f"tsm_training {tsm_training.__version__} works from" in out
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"application.py", "pictures", "training.db", "answer.png", "weights.json"}


def blocks_of_the_read_me(language: str) -> list[str]:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_read_me_alone_leads_from_triples_to_a_verdict_a_graded_folder_and_a_report(
    python: Path, tmp_path: Path
) -> None:
    """Each line is the read-me's; three times over, they add no example, run no worker again and find nothing new."""
    for number in range(12):
        target = picture(number)
        save(tmp_path / "pictures" / "sources" / f"{number}.png", picture(number + 50))
        save(tmp_path / "pictures" / "targets" / f"{number}.png", target)
        save(tmp_path / "pictures" / "truths" / f"{number}.png", brighter(target, 20))
    save(tmp_path / "source.jpg", picture(60))
    save(tmp_path / "in" / "a.jpg", picture(61))
    (tmp_path / "script.py").write_text("\n".join(blocks_of_the_read_me("python")), encoding="utf-8")
    question = "SELECT count(*), max(sequence) FROM evaluations WHERE worker_id != 'learned_look'"
    seen = set()
    for _time in range(3):
        printed = run(python, "-W", "error", "script.py", cwd=tmp_path)
        assert printed.startswith("Training\n  similarity: ")
        assert "untouched target" in printed
        assert printed.index("\nLeaderboard\n") < 4000
        findings = run(python, "-m", PACKAGE, "lint", "my.db", "--json", cwd=tmp_path)
        with contextlib.closing(sqlite3.connect(tmp_path / "my.db")) as database:
            (counts,) = database.execute(question)
        seen.add((findings, counts, run(python, "-m", PACKAGE, "add", "my.db", "pictures", cwd=tmp_path)))
    assert len(seen) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jpg"}
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_the_read_mes_commands_do_the_same_without_python(python: Path, tmp_path: Path) -> None:
    for number in range(6):
        for role, seed in (("sources", 50), ("targets", 0), ("truths", 0)):
            save(tmp_path / "pictures" / role / f"{number}.png", picture(number + seed))
    save(tmp_path / "source.jpg", picture(60))
    save(tmp_path / "in" / "a.jpg", picture(61))
    commands = [line for block in blocks_of_the_read_me("bash") for line in block.splitlines() if PACKAGE in line]
    assert [line.split()[3] for line in commands] == ["train", "predict", "report"]
    for line in commands:
        run(python, *line.removesuffix(" --open").split()[1:], cwd=tmp_path)
    assert (tmp_path / "out" / "a.jpg").is_file()
    assert "similarity" in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- types, as the application sees them ------------------------------------------------------------------------------


def copied(tmp_path: Path) -> Path:
    """Put the application where no settings of this repository are found."""
    folder = tmp_path / "project"
    shutil.copytree(CONSUMER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    return folder


def mistakes() -> set[tuple[str, int]]:
    lines = (CONSUMER / "mistakes.py").read_text(encoding="utf-8").splitlines()
    return {("mistakes.py", number) for number, text in enumerate(lines, 1) if "# mistake: " in text}


def found_by(checker: list[object], pattern: str, folder: Path) -> tuple[set[tuple[str, int]], str]:
    done = subprocess.run(
        list(map(str, checker)), cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"  # it ran to the end, and found something
    found = re.findall(pattern, done.stdout, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}, done.stdout


@pytest.mark.slow
def test_mypy_strict_finds_the_applications_mistakes_and_nothing_else(python: Path, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    checker = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python]
    checker += ["--cache-dir", tmp_path / "cache", "application.py", "mistakes.py"]
    found, output = found_by(checker, r"^(\S+):(\d+): error:", folder)
    assert found == mistakes(), output


@pytest.mark.slow
def test_pyright_strict_finds_the_applications_mistakes_and_nothing_else(python: Path, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    checker = [sys.executable, "-m", "pyright", "--pythonpath", python]
    found, output = found_by(checker, r"^ *(\S+):(\d+):\d+ - error:", folder)
    assert found == mistakes(), output
