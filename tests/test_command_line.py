"""The command line: results on standard output, all else on standard error, and an exit code that says how it went."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from support import brighter, picture, save
from tsm_training import BayesianWeightLearner, TrainingManager
from tsm_training.__main__ import main
from tsm_training.errors import StorageCorruptError
from tsm_training.images import read_image
from tsm_training.storage import StorageFault

WORKERS = """
from tsm_training import FunctionWorker
def make():
    return [FunctionWorker(f"up{n}", lambda s, t, n=n: (t.clip(0, 255 - n) + n).astype("uint8")) for n in (10, 20)]
not_callable = 5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, own workers, and a database that was trained on the pictures."""
    folder = tmp_path_factory.mktemp("command_line")
    (folder / "own_workers_of_a_test.py").write_text(WORKERS)
    for number in range(12):
        name, target = f"{number}.png", picture(number)
        save(folder / "pictures" / "sources" / name, picture(number + 50))
        save(folder / "pictures" / "targets" / name, target)
        save(folder / "pictures" / "truths" / name, brighter(target, 20))
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # a command of its own has another one


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([*map(str, arguments)])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


OWN = ("--workers", "own_workers_of_a_test:make")


@pytest.fixture
def trained(run: Any, place: Path) -> Path:
    path = place / "trained.db"
    if not path.exists():
        code, out, err = run("train", path, "pictures", *OWN, "--epochs", 3, "--validation-split", 0.7)
        assert code == 0
        assert out.startswith("Training\n  similarity: ")
        assert "12 examples added, 12 in all" in err
        assert "evaluating: example 12 of 12" in err
    return path


def test_training_adds_a_folder_only_once_and_goes_on(run: Any, trained: Path) -> None:
    code, out, err = run("train", trained, *OWN, "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).keys() == {"session", "validation"}
    assert run("leaderboard", trained, *OWN)[1].startswith("Leaderboard\n")


def test_results_are_for_people_or_for_machines(run: Any, trained: Path, tmp_path: Path) -> None:
    with TrainingManager(_pool(), BayesianWeightLearner(), trained) as manager:
        board = manager.leaderboard()
    assert run("leaderboard", trained, *OWN) == (0, f"{board}\n", "")
    code, out, _err = run("leaderboard", trained, "--json", *OWN)
    assert (code, json.loads(out)) == (0, json.loads(json.dumps(board.to_dict())))
    code, out, _err = run("validate", trained, "--reevaluate", "--quiet", "--json", *OWN)
    assert (code, json.loads(out)["unrepeatable"]) == (0, {})
    weights = tmp_path / "weights.json"
    assert run("export", trained, weights, *OWN) == (0, f"{weights}\n", "")
    assert run("import", tmp_path / "new.db", weights, *OWN)[:2] == (0, f"2 workers imported from {weights}\n")
    code, out, _err = run("import", tmp_path / "new.db", weights, "--json", *OWN)
    assert json.loads(out)["imported"] == ["up10", "up20"]
    assert run("import", tmp_path / "other.db", weights)[0] == 2
    assert run("check", trained, *OWN) == (0, "nothing is wrong\n", "")
    copy = tmp_path / "copy.db"
    assert json.loads(run("backup", trained, copy, "--json", *OWN)[1]) == {"path": str(copy)}
    assert run("backup", trained, copy, *OWN)[0] == 2
    assert run("backup", trained, copy, "--overwrite", *OWN)[0] == 0


def _pool() -> Any:
    import own_workers_of_a_test  # noqa: PLC0415 - lies in the current folder

    from support import pool_of  # noqa: PLC0415

    return pool_of(*own_workers_of_a_test.make())


def test_a_picture_and_a_folder_are_answered(run: Any, trained: Path, place: Path, tmp_path: Path) -> None:
    source, folder = "pictures/sources/3.png", "pictures/targets"
    answer = tmp_path / "answer.png"
    assert run("predict", trained, source, f"{folder}/1.png", answer, *OWN) == (0, f"{answer}\n", "")
    assert read_image(answer).shape == read_image(place / folder / "1.png").shape
    out = tmp_path / "out"
    code, text, err = run("predict", trained, source, folder, out, *OWN)
    assert (code, text) == (0, "12 pictures written, 0 skipped\n")
    assert "predicting: picture 12 of 12" in err
    code, text, err = run("predict", trained, source, folder, out, "--quiet", "--json", *OWN)
    assert (code, err) == (0, "")
    document = json.loads(text)
    assert document["written"] == []
    assert {each["reason"] for each in document["skipped"]} == {"has an answer already; overwrite=True makes it anew"}


def test_findings_are_no_failure_unless_that_is_asked_for(run: Any, place: Path, tmp_path: Path) -> None:
    rows = ["source_path,target_path,ground_truth_path"]
    rows += ["pictures/sources/1.png,pictures/targets/1.png,pictures/truths/1.png"] * 2
    (place / "twice.csv").write_text("\n".join(rows))
    path = tmp_path / "twice.db"
    with TrainingManager(_pool(), BayesianWeightLearner(), path) as manager:
        manager.add_training_examples([tuple(place / each for each in row.split(",")) for row in rows[1:]])
    code, out, _err = run("lint", path, *OWN)
    assert code == 0
    assert out
    code, out, _err = run("lint", path, "--strict", "--json", *OWN)
    assert code == 1
    assert json.loads(out)["findings"]
    assert run("add", tmp_path / "csv.db", "twice.csv")[0] == 0


def test_a_report_is_written_and_shown(
    run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    page = tmp_path / "report.html"
    assert run("report", trained, page, "--open", "--title", "Mine", *OWN) == (0, f"{page}\n", "")
    assert shown == [page.as_uri()]
    assert "<h1>Mine</h1>" in page.read_text(encoding="utf-8")


def test_what_was_passed_over_is_said_on_standard_error(run: Any, tmp_path: Path) -> None:
    for role, number in (("source", 1), ("target", 2), ("truth", 2)):
        save(tmp_path / "side_by_side" / f"a_{role}.png", picture(number))
    save(tmp_path / "side_by_side" / "b_source.png", picture(3))
    arguments = ("add", tmp_path / "new.db", tmp_path / "side_by_side", "--pattern", "{name}_{role}.png")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "b" in err
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # here they are errors
        code, out, err = run(*arguments, "--on-error", "skip")
    assert (code, out) == (0, "1 example added, 1 in all\n")
    assert err.startswith("tsm-training: warning: ")
    assert "b_source.png" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["leaderboard", "none.db"], "an existing file"),
        (["train", "new.db", "no_such_folder"], "no_such_folder"),
        (["train", "new.db", "pictures", "--epochs", "0"], "epochs"),
        (["train", "new.db", "--alpha", "7"], "alpha"),
        (["predict", "trained.db", "no.png", "pictures/targets/1.png", "x.png", *OWN], "no.png"),
        (["predict", "trained.db", "pictures/sources/1.png", "pictures/targets/1.png", "x.gif", *OWN], "x.gif"),
        (["check", "own_workers_of_a_test.py"], "own_workers_of_a_test.py"),
        (["leaderboard", "trained.db", "--workers", "no_such_module:make"], "no_such_module"),
        (["leaderboard", "trained.db", "--workers", "own_workers_of_a_test"], "module:function"),
        (["leaderboard", "trained.db", "--workers", "own_workers_of_a_test:not_callable"], "returns workers"),
        (["report", "trained.db", "no_such_folder/report.html", *OWN], "existing folder"),
        (["leaderboard", "trained.db", "--workers", "json:dumps"], "without arguments"),
        (["add", "new.db", "no_such_folder/"], "an existing folder or CSV file"),
        (["nothing"], "invalid choice"),
        (["train", "new.db", "--epochs", "many"], "invalid int value"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(run: Any, trained: Path, arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("tsm-training")
    assert not Path("none.db").exists()
    assert trained.exists()


def test_what_is_no_mistake_has_another_exit_code(run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object) -> None:
        raise StorageCorruptError(str(trained), "is damaged")

    monkeypatch.setattr(TrainingManager, "leaderboard", broken)
    code, out, err = run("leaderboard", trained, *OWN)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"tsm-training: error: .*is damaged.*\n", err)

    def interrupted(_self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingManager, "leaderboard", interrupted)
    assert run("leaderboard", trained, *OWN)[0] == 130


def test_damage_is_found(run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    fault = StorageFault("sessions", "s", 1, "epochs", "is no whole number", "quarantine()")
    monkeypatch.setattr("tsm_training.TrainingDataManager.check", lambda _self: [fault])
    assert run("check", trained, *OWN) == (1, f"{fault}\n", "")


@pytest.mark.slow
def test_it_is_a_program(trained: Path, place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tsm_training"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd=place)
    assert re.fullmatch(r"\d+\.\d+.*\n", version.stdout)
    reader, writer = os.pipe()
    os.close(reader)  # nobody listens
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [*command, "leaderboard", str(trained), *OWN],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            cwd=place,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")
    slow = "import time\nfrom tsm_training import FunctionWorker\n"
    slow += "def work(s, t):\n    print('at work', flush=True)\n    time.sleep(0.3)\n    return t\n"
    slow += "def make():\n    return [FunctionWorker('w', work)]\n"
    (tmp_path / "slow_workers.py").write_text(slow)
    arguments = ["train", str(tmp_path / "new.db"), str(place / "pictures"), "--workers", "slow_workers:make"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *arguments], cwd=tmp_path, **pipes) as running:
        assert running.stdout is not None
        assert running.stdout.read(7) == "at work"  # others may be, too, at the same moment
        running.send_signal(signal.SIGINT)
        _out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.endswith("tsm-training: interrupted; what was evaluated is kept\n")
    assert "Traceback" not in err
