"""Where the pictures of examples may come from, and which way up they are, through the whole library."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pictures import ORIENTED
from support import failing, manager_with, picture, pool_of, save, save_triple, usual_pool
from tsm_training import FunctionWorker, GuideSimilarity, Image, InMemoryStore, TrainingEngine, TrainingManager
from tsm_training.data import ROLES
from tsm_training.errors import ImageOutsideRootError, ManifestError, NothingEvaluatedError, TsmTrainingError
from tsm_training.images import ImageLimits, read_image

# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("role", ROLES)
def test_a_turned_file_is_the_upright_picture_in_every_role(
    tmp_path: Path, role: str, kind: str, orientation: int
) -> None:
    turned = tmp_path / "turned"
    turned.write_bytes(ORIENTED[kind](orientation))
    upright = read_image(turned)
    seen: list[tuple[Image, Image]] = []

    def give_the_target(source: Image, target: Image) -> Image:
        seen.append((source, target))
        return target

    paths = {name: save(tmp_path / f"{name}.png", upright) for name in ROLES} | {role: turned}
    with manager_with(tmp_path, 0, pool=pool_of(FunctionWorker("same", give_the_target), failing("f"))) as manager:
        example = manager.add_training_example(paths["source"], paths["target"], paths["ground_truth"])
        assert {(file.width, file.height) for file in (example.known_files.source, example.known_files.target)} == {
            upright.shape[1::-1]
        }
        results = manager.train(validation_split=0, verbose=False)
        assert results["session"]["num_examples"] == 1
        outcome = manager.data_manager.get_example(example.example_id).worker_results["same"]
        assert outcome["accuracy"] == 1.0
        assert np.array_equal(manager.predict(paths["source"], paths["target"]).image, upright)
    assert len(seen) == 2
    for pair in seen:
        assert all(np.array_equal(image, upright) for image in pair)


def test_a_turned_ground_truth_of_the_wrong_size_is_not_taken_for_the_right_one(tmp_path: Path) -> None:
    """Stored, it has the target's size; upright, it has not."""
    (tmp_path / "turned").write_bytes(ORIENTED["JPEG"](6))
    stored = save(tmp_path / "stored.png", picture(1, 10, 14))
    with manager_with(tmp_path, 0) as manager, pytest.raises(ValueError, match="got 14×10 and 10×14"):
        manager.add_training_example(stored, stored, tmp_path / "turned")


# --- the folder that pictures may come from -------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def confined(root: Path, **settings: Any) -> TrainingManager:
    limits = ImageLimits(root=root)
    factory = TrainingEngine.using(GuideSimilarity(), limits=limits)
    return manager_with(root, 0, engine_factory=factory, **settings)


def test_what_lies_in_the_folder_works_as_ever(root: Path) -> None:
    with confined(root) as manager:
        manager.add_training_examples([save_triple(root / "deep" / "er", seed) for seed in range(4)])
        manager.train(verbose=False)
        manager.validate(full=True)
        assert manager.predict(*save_triple(root, 9)[:2]).image.size


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("by", ["path", "dots", "link", "folder link"])
def test_nothing_outside_of_the_folder_is_added(tmp_path: Path, root: Path, role: str, by: str) -> None:
    outside = save(tmp_path / "outside" / "a.png", picture(3))
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    ways = {
        "path": outside,
        "dots": root / ".." / "outside" / "a.png",
        "link": root / "link.png",
        "folder link": root / "folder" / "a.png",
    }
    inside = dict(zip(ROLES, save_triple(root, 1), strict=True))
    paths = [*(inside | {role: ways[by]}).values()]
    with confined(root) as manager:
        kept = manager.add_training_example(*inside.values())
        adders: list[Callable[[], object]] = [
            lambda: manager.add_training_example(*paths),
            lambda: manager.add_training_examples([tuple(inside.values()), tuple(paths)]),
        ]
        if role == "ground_truth":
            adders.append(lambda: manager.replace_ground_truth(kept.example_id, ways[by]))
        else:
            adders.append(lambda: manager.predict(*paths[:2]))
        for add in adders:
            with pytest.raises(ImageOutsideRootError) as caught:
                add()
            assert str(tmp_path) not in caught.value.public_message
        assert manager.data_manager.get_all_examples() == [kept]


def test_folders_and_lists_of_examples_lead_nowhere_else(tmp_path: Path, root: Path) -> None:
    outside = save(tmp_path / "outside.png", picture(3))
    for folder in ("sources", "targets", "truths"):
        save(root / folder / "a.png", picture(3))
        (root / folder / "b.png").symlink_to(outside)
    (root / "list.csv").write_text(
        "source_path,target_path,ground_truth_path\n../outside.png,,\n".replace(",,", ",sources/a.png,sources/a.png")
    )
    with confined(root) as manager:
        for add in (lambda: manager.add_folder(root), lambda: manager.add_manifest(root / "list.csv")):
            with pytest.raises(ManifestError, match="leads out of the folder") as caught:
                add()
            assert isinstance(caught.value.__cause__, ImageOutsideRootError)
            assert str(tmp_path) not in caught.value.public_message
        assert manager.data_manager.get_all_examples() == []


def test_examples_that_were_added_before_are_not_read_from_elsewhere(tmp_path: Path, root: Path) -> None:
    """The store may hold anything: what counts is where the folder is now."""
    store = InMemoryStore()
    free = manager_with(tmp_path, 0, storage=store)
    stray = free.add_training_example(*save_triple(tmp_path / "outside", 1))
    free.add_training_examples([save_triple(root, seed) for seed in (2, 3)])
    with confined(root, storage=store) as manager:
        results = manager.train(validation_split=0, verbose=False)
        session = store.get_session(results["session"]["session_id"])
        assert session.skipped.keys() == {stray.example_id}
        assert "leads out of the folder" in session.skipped[stray.example_id]
        with pytest.raises(NothingEvaluatedError, match="leads out of the folder"):
            manager.validate([stray.example_id])


def test_moved_files_are_looked_for_inside_only(tmp_path: Path, root: Path) -> None:
    with confined(root) as manager:
        paths = save_triple(root, 1)
        manager.add_training_example(*paths)
        (tmp_path / "elsewhere").mkdir()
        for path in paths:
            path.rename(tmp_path / "elsewhere" / path.name)
            (root / f"to-{path.name}").symlink_to(tmp_path / "elsewhere" / path.name)
        assert manager.relink(tmp_path) == []
        (root / "back").mkdir()
        for path in paths:
            (tmp_path / "elsewhere" / path.name).rename(root / "back" / path.name)
        (relinked,) = manager.relink(tmp_path)
        assert {os.path.dirname(path) for path in (relinked.source_path, relinked.target_path)} <= {  # noqa: PTH120
            str(root / "back"),
            str(root),
        }
        manager.train(validation_split=0, verbose=False)


def test_a_service_may_show_why_without_showing_where(tmp_path: Path, root: Path) -> None:
    """As the guide's service does: whatever a client asks for, what it is told names no path."""
    (tmp_path / "secret.png").write_text("not a picture")
    (root / "broken.png").write_text("not a picture")
    with confined(root, pool=usual_pool()) as manager:
        for path in (tmp_path / "secret.png", root / "broken.png", root / "missing.png", root, "/etc/passwd", "a\0b"):
            with pytest.raises(TsmTrainingError) as caught:
                manager.predict(str(path), str(path))
            assert "/" not in caught.value.public_message
            assert path == "a\0b" or Path(path).name not in caught.value.public_message
