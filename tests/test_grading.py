"""Grading a folder: every picture gets an answer or a reason, and nothing else lies beside the answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import brighter, failing, manager_with, picture, pool_of, save, save_triple, usual_pool
from tsm_training import FolderPrediction, FunctionWorker, Progress, TrainingManager
from tsm_training.errors import ImageError, InvalidArgumentError, NoWorkersError
from tsm_training.images import read_image


@pytest.fixture
def manager(tmp_path: Path) -> TrainingManager:
    return manager_with(tmp_path, examples=0, pool=pool_of(FunctionWorker("up", lambda _s, t: brighter(t, 9))))


def folder_of(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save(folder / name, picture(number))
    return folder


def graded(manager: TrainingManager, source: Any, folder: Path, out: Path, **settings: Any) -> FolderPrediction:
    return manager.predict_folder(source, folder, out, verbose=False, **settings)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reasons(done: FolderPrediction) -> dict[str, str]:
    return {each.path.name: each.reason for each in done.skipped}


def test_every_picture_gets_its_answer_under_its_own_name(manager: TrainingManager, tmp_path: Path) -> None:
    names = ["a.png", "B.JPG", "c d.tif", "ü.bmp"]
    folder, out = folder_of(tmp_path / "in", *names), tmp_path / "deep" / "out"
    told: list[Progress] = []
    done = graded(manager, picture(7), folder, out, on_progress=told.append)
    assert names_in(out) == sorted(names)
    assert done.written == tuple(sorted(out / name for name in names))
    assert done.skipped == ()
    assert str(done) == "4 pictures written, 0 skipped"
    for name in ("a.png", "c d.tif", "ü.bmp"):
        np.testing.assert_array_equal(read_image(out / name), brighter(read_image(folder / name), 9))
    assert [(each.phase, each.done, each.total) for each in told] == [("predicting", n, 4) for n in range(1, 5)]


def test_it_goes_on_where_it_was_interrupted(manager: TrainingManager, tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", *(f"{n}.png" for n in range(12))), tmp_path / "out"

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graded(manager, picture(7), folder, out, on_progress=stop)
    before = {name: (out / name).stat().st_mtime_ns for name in names_in(out)}
    assert 2 <= len(before) < 12
    assert all(read_image(out / name).size for name in before)
    done = graded(manager, picture(7), folder, out)
    assert len(done.written) == 12 - len(before)
    assert reasons(done) == dict.fromkeys(before, "has an answer already; overwrite=True makes it anew")
    assert before.items() <= {name: (out / name).stat().st_mtime_ns for name in names_in(out)}.items()
    assert len(names_in(out)) == 12


def test_answers_are_made_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "in", "a.png"), tmp_path / "out"
    pool = pool_of(FunctionWorker("s", lambda s, t: np.full_like(t, int(s[0, 0, 0]))))
    manager = manager_with(tmp_path, 0, pool=pool)
    for level, overwrite, expected in ((10, False, 10), (20, False, 10), (20, True, 20)):
        graded(manager, np.full((4, 4, 3), level, np.uint8), folder, out, overwrite=overwrite)
        assert int(read_image(out / "a.png")[0, 0, 0]) == expected


def test_an_unknown_group_is_told(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, 0)
    rows = [(*save_triple(tmp_path, seed), {"style": "warm"}) for seed in range(4)]
    manager.add_training_examples(rows)
    manager.train(group_by="style", verbose=False)
    folder = folder_of(tmp_path / "in", "a.png", "b.png")
    with pytest.warns(UserWarning, match="wram, which no example has.*did you mean warm"):
        graded(manager, picture(7), folder, tmp_path / "out", group="wram")
    graded(manager, picture(7), folder, tmp_path / "out2", group="warm")


def test_what_cannot_be_answered_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    def only_small(_source: Any, target: Any) -> Any:
        if target.shape[0] > 20:
            raise ValueError("too large for me")
        return target

    folder, out = folder_of(tmp_path / "in", "good.png"), tmp_path / "out"
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("mine")
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "more").mkdir()
    save(folder / "large.png", picture(3, 30, 30))
    done = graded(manager_with(tmp_path, 0, pool=pool_of(FunctionWorker("w", only_small))), picture(7), folder, out)
    assert done.written == (out / "good.png",)
    found = reasons(done)
    assert found.keys() == {"broken.png", "notes.txt", "more", "large.png"}
    assert "text beginning" in found["broken.png"]
    assert "too large for me" in found["large.png"]
    assert all(f"  {name}: {reason}" in str(done) for name, reason in found.items())
    assert names_in(out) == ["good.png"]


def test_sources_of_equal_names_are_found_whatever_their_ending(tmp_path: Path) -> None:
    manager = manager_with(
        tmp_path, 0, pool=pool_of(FunctionWorker("s", lambda s, t: np.full_like(t, int(s[0, 0, 0]))))
    )
    folder, sources = folder_of(tmp_path / "in", "a.png", "B.png", "c.png", "d.png"), tmp_path / "sources"
    for name, level in {"A.bmp": 10, "b.tif": 20, "c.png": 30, "c.bmp": 40}.items():
        save(sources / name, np.full((4, 4, 3), level, np.uint8))
    done = graded(manager, sources, folder, tmp_path / "out")
    levels = {path.name: int(read_image(path)[0, 0, 0]) for path in done.written}
    assert levels == {"a.png": 10, "B.png": 20}
    assert reasons(done).keys() == {"c.png", "d.png"}
    assert "several sources" in reasons(done)["c.png"]
    assert "no source" in reasons(done)["d.png"]


@pytest.mark.parametrize(
    ("names", "argument"),
    [(("a.heic", "a.jpg"), "folder"), (("x.heif", "X.HEIC"), "folder"), (("a.png", "A.png"), "folder")],
)
def test_two_pictures_with_one_answer_are_refused(
    manager: TrainingManager, tmp_path: Path, names: tuple[str, ...], argument: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"?")
    if len(names_in(folder)) < 2:
        pytest.skip("this file system does not tell such names apart")
    with pytest.raises(InvalidArgumentError) as caught:
        graded(manager, picture(7), folder, tmp_path / "out")
    assert caught.value.argument == argument
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["no folder", "same", "out is a file", "source"])
def test_a_mistake_is_named_before_anything_is_written(manager: TrainingManager, tmp_path: Path, case: str) -> None:
    folder, out, source = folder_of(tmp_path / "in", "a.png"), tmp_path / "out", picture(7)
    arguments: dict[str, tuple[Any, Path, Path]] = {
        "no folder": (source, tmp_path / "none", out),
        "same": (source, folder, tmp_path / "out" / ".." / "in"),
        "out is a file": (source, folder, folder / "a.png"),
        "source": (tmp_path / "no.png", folder, out),
    }
    out.mkdir()
    with pytest.raises(ImageError if case == "source" else InvalidArgumentError):
        graded(manager, *arguments[case])
    assert names_in(folder) == ["a.png"]
    assert names_in(out) == []


def test_a_fault_of_the_ensemble_ends_the_work(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", "a.png")
    with pytest.raises(NoWorkersError):
        graded(manager_with(tmp_path, 0, pool=pool_of()), picture(7), folder, tmp_path / "out")
    done = graded(manager_with(tmp_path, 0, pool=pool_of(failing("no"))), picture(7), folder, tmp_path / "out")
    assert "no worker gave a usable picture" in reasons(done)["a.png"]


def test_several_pictures_are_worked_on_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = threading.Barrier(2, timeout=30)

    def meeting(_source: Any, target: Any) -> Any:
        together.wait()  # raises unless another one is at work
        return target

    manager = manager_with(tmp_path, 0, pool=pool_of(FunctionWorker("w", meeting)))
    assert len(graded(manager, picture(7), folder_of(tmp_path / "in", "a.png", "b.png"), tmp_path / "out").written) == 2


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number}.txt").touch()
    done = graded(manager_with(tmp_path, 0, pool=usual_pool()), picture(7), folder, tmp_path / "out")
    assert len(done.skipped) == 25
    assert str(done).endswith("\n  and 5 more")
    assert len(str(done).splitlines()) == 22
