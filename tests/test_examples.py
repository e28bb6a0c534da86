"""The small examples run as they stand, in an empty folder, where every warning is an error."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import doc_fixtures as docs
from tsm_training.images import read_image
from tsm_training.weights import read_weights_file

EXAMPLES = docs.PROJECT / "examples"
NOTEBOOK = EXAMPLES / "notebook.ipynb"
TIMEOUT = 120  # seconds; a busy machine is no fault

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read("notebook.ipynb", as_version=4)
notebook.cells.insert(0, nbformat.v4.new_code_cell("import warnings; warnings.simplefilter('error')"))
NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder that holds six triples and a request."""
    monkeypatch.chdir(tmp_path)
    docs.write_page_pictures()
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.mark.slow
def test_the_script_learns_answers_and_leaves_weights_and_a_second_run_goes_on(folder: Path) -> None:
    command = [str(EXAMPLES / "embed_script.py"), "pictures", "source.jpg", "target.jpg"]
    first, second = run(*command), run(*command)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert read_image(folder / "answer.png").shape == read_image(folder / "target.jpg").shape
    weights = read_weights_file(folder / "weights.json").weights
    best = max(weights, key=lambda worker_id: weights[worker_id])
    assert first.stdout == second.stdout == f"5 examples; best: {best}\n"
    assert best != "unchanged"


@pytest.mark.slow
def test_the_script_says_what_is_wrong_in_one_line(folder: Path) -> None:
    done = run(str(EXAMPLES / "embed_script.py"), "nowhere", "source.jpg", "target.jpg")
    assert done.returncode == 1
    assert re.fullmatch(r"error: 'nowhere.*\n", done.stderr), done.stderr
    assert str(folder) not in done.stdout


@pytest.mark.slow
def test_the_hosts_own_pool_is_learned_about_and_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = run(str(EXAMPLES / "host_pool.py"), "pictures")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^(\w+): (\d\.\d{3})$", done.stdout, re.MULTILINE))
    assert found.keys() == {"moved", "same"}
    assert float(found["moved"]) > 1.0 > float(found["same"])
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["embed_script.py", "host_pool.py"])
def test_an_example_of_embedding_is_short(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8").partition('"""\n\nfrom')[2]
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", '"""'))]
    assert len(lines) <= 40


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_and_shows_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("notebook.ipynb", "photographs.py", "film_looks.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "HOME"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    command = [sys.executable, "-c", EXECUTE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    cells = {cell["id"]: cell for cell in json.loads(Path("executed.ipynb").read_text(encoding="utf-8"))["cells"]}
    printed = {
        name: "".join("".join(o.get("text", "")) for o in cell.get("outputs", [])) for name, cell in cells.items()
    }
    assert printed["examples"] == "8 examples\n"
    assert re.fullmatch(r"held out: 0\.\d{4}; with equal weights: 0\.\d{4}\n", printed["training"])
    weights = [float(text) for text in re.findall(r"^\w+ +(\d\.\d{3}) \(", printed["weights"], re.MULTILINE)]
    assert len(weights) == 5
    assert weights == sorted(weights, reverse=True)
    pictures = [o["data"]["image/png"] for o in cells["answer"]["outputs"]]
    shown = [cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR) for png in pictures]
    assert len(shown) == 3
    assert shown[2].shape == shown[1].shape
    assert all(picture.std() > 5 for picture in shown)
