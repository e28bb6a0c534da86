"""The quick start as a newcomer meets it: a script that runs in an empty folder and leaves a picture."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from tsm_training import Image
from tsm_training.images import read_image, write_image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(empty: Path) -> Run:
    """Runs the script there."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", str(EXAMPLES / "quickstart.py"), *map(str, arguments)]
        # Plain ASCII is all that some terminals can show.
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def refusal(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the script in this process, and returns why it does nothing."""

    def refusal(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            module("quickstart").main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out, list(empty.iterdir())) == (2, "", [])
        return str(err)

    return refusal


def photograph(seed: int, shape: tuple[int, int] = (180, 240)) -> Image:
    """Clouds of colour with some grain."""
    rng = np.random.default_rng(seed)
    fields = np.stack([cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 9) for _ in range(3)], axis=-1)
    colours = 27 * (fields / fields.std(axis=(0, 1))) @ rng.normal(size=(3, 3))
    values = 128 + colours + 2 * rng.normal(size=(*shape, 3))
    picture: Image = values.clip(0, 255).round().astype(np.uint8)
    return picture


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "my photographs"
    folder.mkdir()
    write_image(folder / "wide.png", photograph(1))
    write_image(folder / "tall.JPG", photograph(2, (700, 500)))
    write_image(folder / "grün.webp", photograph(3))
    (folder / "broken.jpg").write_bytes(b"no picture at all")
    write_image(folder / "tiny.png", photograph(4, (20, 20)))
    (folder / "notes.txt").write_text("not looked at")
    return folder


def needs_packaged_photographs() -> None:
    missing = [name for name in ("skimage", "sklearn") if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI", "").lower() != "true":
        pytest.skip(f"{' and '.join(missing)} not installed: pip install '.[examples]'")
    assert not missing, "CI must install the extra 'examples'"


def check_sheet(path: Path, *, rows: int) -> None:
    sheet = module("contact_sheet")
    picture = read_image(path)
    height, width = picture.shape[:2]
    assert (width, height) == sheet.sheet_size(rows, 6)
    assert (picture[: sheet.MARGIN // 2] == 255).all()
    assert (picture[:, : sheet.MARGIN // 2] == 255).all()
    for row in range(rows):
        corners = [sheet.cell_corner(row, column) for column in range(6)]
        cells = [picture[top : top + sheet.CELL[1], left : left + sheet.CELL[0]] for left, top in corners]
        assert all(cell.std() > 5 for cell in cells), "a cell is blank"
        _source, target, truth, before, after, rival = (cell.astype(int) for cell in cells)
        assert np.abs(target - truth).mean() > 5
        assert np.abs(target - before).mean() > 2
        assert np.abs(before - after).mean() > 2
        assert np.abs(truth - after).max() > 0
        assert np.abs(truth - rival).mean() > np.abs(truth - after).mean()
        assert np.abs(rival - before).mean() > 2


def figures(output: str, line_start: str) -> list[float]:
    """Return the similarity and the colour difference that a line tells."""
    line = next(line for line in output.splitlines() if line.strip().startswith(line_start))
    return [float(text) for text in re.findall(r"\d+\.\d+", line)]


def curve(output: str) -> dict[int, float]:
    """Return the similarity for each number of examples."""
    points = re.findall(r"^ +(\d+) +(\d\.\d{4}) +\d\.\d\d-\d\.\d\d ", output, re.MULTILINE)
    return {int(number): float(similarity) for number, similarity in points}


@pytest.mark.slow
def test_runs_on_the_packaged_photographs_and_leaves_what_it_says(run: Run, empty: Path) -> None:
    needs_packaged_photographs()

    done = run("--examples", 42, "--epochs", 2)

    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "42 examples made of 7 photographs" in out
    assert max(map(len, out.splitlines())) <= 100
    for heading in ("Weights, best first", "What training brought", "Learning curve", "Look at quickstart.png"):
        assert heading in out
    weights = [float(text) for text in re.findall(r"^  \w+ +(\d\.\d{3})   \d\.\d{3}-\d\.\d{3} ", out, re.MULTILINE)]
    assert len(weights) == 6
    assert weights == sorted(weights, reverse=True)
    trained, difference = figures(out, "trained ensemble")
    assert trained > figures(out, "best worker that learns nothing")[0] + 0.02
    assert trained > figures(out, "before training")[0] + 0.05
    assert trained > figures(out, "target left untouched")[0] + 0.1
    assert difference < figures(out, "target left untouched")[1] / 3
    assert "best single worker (learned_look)" in out
    untouched, farther = figures(out, "target left untouched")
    bought = re.search(r"^Training bought (\S+) similarity and (\S+) dE00 over the untouched", out, re.MULTILINE)
    assert bought is not None
    assert float(bought[1]) == pytest.approx(trained - untouched, abs=0.001)
    assert float(bought[2]) == pytest.approx(difference - farther, abs=0.1)
    assert re.search(r"over\s+the\s+best\s+single\s+worker\s+\(learned_look\)", out)
    points = curve(out)
    assert list(points)[:3] == [0, 10, 20]
    assert len(points) == 4
    assert points[0] < points[10] < trained
    assert list(points.values())[-1] == trained
    assert {path.name for path in empty.iterdir()} == {"quickstart.png", "quickstart_pictures"}
    assert {path.name for path in (empty / "quickstart_pictures").iterdir()} == {
        "quickstart.db", "sources", "targets", "truths"
    }  # fmt: skip
    check_sheet(empty / "quickstart.png", rows=4)


@pytest.mark.slow
def test_runs_on_a_folder_of_photographs_twice(run: Run, photographs: Path, empty: Path) -> None:
    first = run(photographs, "--examples", 7, "--epochs", 1)
    second = run(photographs, "--examples", 6, "--epochs", 1, "--other-scenes")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "7 examples made of 3 photographs" in first.stdout
    assert "6 examples made of 3 photographs" in second.stdout
    skipped = [line for line in first.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2
    assert "broken.jpg" in skipped[0]
    assert "tiny.png" in skipped[1]
    written = empty / "quickstart_pictures"
    assert all(len(list((written / name).iterdir())) == 6 for name in ("sources", "targets", "truths"))
    assert max(read_image(next((written / "targets").glob("*"))).shape) <= 256


def test_a_folder_without_pictures_is_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert "holds no picture that can be used" in refusal(nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "0"], "argument --examples: expected a whole number of at least 4, got '0'"),
        (["--epochs", "many"], "argument --epochs: expected a whole number of at least 1, got 'many'"),
        (["nowhere"], "'nowhere' is no folder"),
    ],
)
def test_a_bad_argument_is_named(refusal: Callable[..., str], arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments)


@pytest.mark.slow
def test_every_triple_is_different_and_too_many_are_refused(refusal: Callable[..., str], photographs: Path) -> None:
    pictures = module("photographs")
    read = list(pictures.read_photographs(pictures.pictures_in(photographs)))
    most = pictures.most_triples(read)
    for other_scenes in (False, True):
        triples = pictures.make_triples(read, most, other_scenes=other_scenes)
        assert len({(t.look.name, t.target.tobytes()) for t in triples}) == most
        own_frames = [(t.source, t.look.apply(frame)) for t in triples for frame in t.photograph.frames]
        same_scene = sum(np.array_equal(source, frame) for source, frame in own_frames)
        assert same_scene == (0 if other_scenes else most)
        assert not any(np.array_equal(t.source, t.ground_truth) for t in triples)

    assert f"3 photographs make at most {most} examples" in refusal(photographs, "--examples", most + 1)


def test_looks_have_different_names_and_are_strong() -> None:
    looks = module("film_looks").LOOKS
    assert len({look.name for look in looks}) == len(looks) == 8
    picture = photograph(5)
    graded = [look.apply(picture) for look in looks]
    for look, result in zip(looks, graded, strict=True):
        assert result.shape == picture.shape
        assert result.dtype == np.uint8
        assert np.abs(result.astype(int) - picture).mean() > 15, f"{look.name} is too weak"
    for one, result in enumerate(graded):
        for other in graded[:one]:
            assert np.abs(result.astype(int) - other).mean() > 8


def test_looks_keep_the_order_of_tones() -> None:
    ramp: Image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    for look in module("film_looks").LOOKS:
        steps = np.diff(look.apply(ramp).astype(int), axis=1)
        assert (steps >= 0).all(), look.name
        assert (steps.sum(axis=1) > 25).all(), look.name
