"""Whole folders and lists of examples: every fault is named, and nothing is added twice."""

import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import manager_with, picture, save, save_triple
from tsm_training import InMemoryStore, TrainingDataManager, TrainingManager
from tsm_training.data import ROLES, TrainingExample
from tsm_training.errors import ImageNotFoundError, InvalidArgumentError, ManifestError, StorageReadOnlyError

FOLDERS = ("sources", "targets", "truths")


@pytest.fixture(params=["memory", "sqlite"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrainingManager]:
    storage = InMemoryStore() if request.param == "memory" else TrainingDataManager(tmp_path / "a.db")
    with manager_with(tmp_path, 0, storage=storage) as made:
        yield made


def lay_out(root: Path, *names: str, first: int = 0) -> Path:
    """Write a triple of pictures under each name."""
    for number, name in enumerate(names, first):
        for folder, path in zip(FOLDERS, save_triple(root, number), strict=True):
            (root / folder).mkdir(exist_ok=True)
            path.rename(root / folder / f"{name}.png")
    return root


def listed(root: Path, *lines: str) -> Path:
    """Write a list of the pictures under these names."""
    rows = [f"sources/{line},targets/{line},truths/{line}" for line in lines]
    (root / "list.csv").write_text("\n".join(["source,target,truth", *rows]), encoding="utf-8")
    return root / "list.csv"


def stored(manager: TrainingManager) -> list[TrainingExample]:
    return manager.data_manager.get_all_examples()


# --- once is enough -------------------------------------------------------------------------------------------------


def test_a_script_may_add_its_folder_again(manager: TrainingManager, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "p", "a", "b", "c")
    added = manager.add_folder(root)
    assert manager.add_folder(root) == added == stored(manager)
    lay_out(root, "aa", first=7)
    again = manager.add_folder(root)
    assert [example.metadata["name"] for example in again] == ["a", "aa", "b", "c"]
    assert [again[0], *again[2:], again[1]] == [*added, again[1]] == stored(manager)


def test_a_script_may_add_its_list_again(manager: TrainingManager, tmp_path: Path) -> None:
    manifest = listed(lay_out(tmp_path, "a", "b"), "b.png", "a.png")
    added = manager.add_manifest(manifest)
    assert manager.add_manifest(manifest) == added == stored(manager)


def test_who_wants_duplicates_gets_them(manager: TrainingManager, tmp_path: Path) -> None:
    manifest = listed(lay_out(tmp_path, "a", "b"), "a.png", "b.png", "a.png")
    first = manager.add_manifest(manifest, duplicates="add")
    assert len({example.example_id for example in first}) == 3
    second = manager.add_folder(tmp_path, duplicates="add")
    assert stored(manager) == [*first, *second]
    assert len(second) == 2


def test_of_several_stored_with_the_same_contents_the_first_is_returned(
    manager: TrainingManager, tmp_path: Path
) -> None:
    manifest = listed(lay_out(tmp_path, "a"), "a.png")
    first, _second = (manager.add_manifest(manifest, duplicates="add")[0] for _ in range(2))
    assert manager.add_manifest(manifest) == [first]


def test_a_triple_that_is_there_twice_is_one_example_and_its_other_metadata_are_named(
    manager: TrainingManager, tmp_path: Path
) -> None:
    lay_out(tmp_path, "a")
    for folder in FOLDERS:
        shutil.copy(tmp_path / folder / "a.png", tmp_path / folder / "b.png")
    with pytest.warns(
        UserWarning, match=r"b\.png: has the contents of example .* metadata stay: {'name': 'a'}"
    ) as caught:
        first, second = manager.add_folder(tmp_path)
    assert [each.filename for each in caught] == [__file__]
    assert first == second
    assert stored(manager) == [first]


def test_stored_metadata_stay_and_the_others_are_named(manager: TrainingManager, tmp_path: Path) -> None:
    added = manager.add_folder(lay_out(tmp_path, "a"))
    with pytest.warns(UserWarning, match="metadata stay: {'name': 'a'}"):
        assert manager.add_manifest(listed(tmp_path, "a.png")) == added == stored(manager)


def test_adding_a_moved_folder_tells_stored_examples_where_their_files_are(
    manager: TrainingManager, tmp_path: Path
) -> None:
    (added,) = manager.add_folder(lay_out(tmp_path / "old", "a"))
    (tmp_path / "old").rename(tmp_path / "new")
    (again,) = manager.add_folder(tmp_path / "new")
    assert again.example_id == added.example_id
    assert again.target_path == str(tmp_path / "new" / "targets" / "a.png")
    assert stored(manager) == [again]


def test_rows_from_a_program_are_added_as_often_as_they_are_given(manager: TrainingManager, tmp_path: Path) -> None:
    row = save_triple(tmp_path, 0)
    manager.add_training_examples([row, row])
    manager.add_training_example(*row)
    assert len(stored(manager)) == 3


# --- all that is wrong ----------------------------------------------------------------------------------------------


def faulty(root: Path) -> Path:
    """Write a folder and a list in which "good" alone is sound."""
    lay_out(root, "good", "alone", "broken", "other size")
    (root / "truths" / "alone.png").unlink()
    (root / "sources" / "broken.png").write_bytes(b"no picture")
    (root / "truths" / "broken.png").write_bytes(b"")
    save(root / "truths" / "other size.png", picture(1, 9, 5))
    for folder in FOLDERS:
        (root / folder / "raw.gif").write_bytes(b"GIF89a" + bytes(20))
    (root / "targets" / "deeper").mkdir()
    listed(root, "good.png", "alone.png", "broken.png", "other size.png", "raw.gif")
    return root


def adders(manager: TrainingManager, root: Path) -> list[Callable[..., list[TrainingExample]]]:
    return [
        lambda **how: manager.add_folder(root, **how),
        lambda **how: manager.add_manifest(root / "list.csv", **how),
    ]


def test_all_faults_of_a_folder_are_in_one_error_each_with_its_file(manager: TrainingManager, tmp_path: Path) -> None:
    root = faulty(tmp_path / "p")
    with pytest.raises(ManifestError, match="9 faults, and nothing was added: ") as caught:
        manager.add_folder(root)
    assert {str(Path(place).relative_to(root)) for place, _reason in caught.value.faults} == {
        *("sources/alone.png", "targets/alone.png", "sources/broken.png", "truths/broken.png"),
        *("targets/other size.png", "sources/raw.gif", "targets/raw.gif", "truths/raw.gif", "targets/deeper"),
    }
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults
    assert stored(manager) == []


def test_all_faults_of_a_list_are_in_one_error_each_with_its_row(manager: TrainingManager, tmp_path: Path) -> None:
    root = faulty(tmp_path / "p")
    with pytest.raises(ManifestError, match=r"7 faults, .*: row 2, line 3: '.*alone\.png': there is no") as caught:
        manager.add_manifest(root / "list.csv")
    assert [place for place, _reason in caught.value.faults] == [
        f"row {row}, line {row + 1}" for row in (2, 3, 3, 4, 5, 5, 5)
    ]
    assert isinstance(caught.value.__cause__, ImageNotFoundError)
    assert stored(manager) == []


def test_the_warning_names_all_of_them_however_many(manager: TrainingManager, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for role in ("sources", "targets", "truths"):
        save(folder / role / "good.png", picture(1))
    for number in range(25):
        (folder / "targets" / f"bad_{number}.png").write_bytes(b"?")
    with pytest.warns(UserWarning, match="passed over") as caught:
        manager.add_folder(folder, on_error="skip")
    assert all(f"bad_{number}.png" in str(caught[0].message) for number in range(25))


@pytest.mark.parametrize("which", [0, 1])
def test_faults_may_be_skipped_with_one_warning_that_names_them(
    manager: TrainingManager, tmp_path: Path, which: int
) -> None:
    add = adders(manager, faulty(tmp_path / "p"))[which]
    with pytest.raises(ManifestError) as refused:
        add()
    with pytest.warns(UserWarning, match="passed over: ") as caught:
        [example] = add(on_error="skip")
    assert stored(manager) == [example]
    assert Path(example.target_path).name == "good.png"
    (warning,) = caught
    assert all(f"{place}: " in str(warning.message) for place, _reason in refused.value.faults)


def test_of_a_thousand_faults_the_text_names_some_and_the_error_all(manager: TrainingManager, tmp_path: Path) -> None:
    lay_out(tmp_path, "a")
    for number in range(1000):
        (tmp_path / "sources" / f"{number}{'x' * 200}.png").touch()
    with pytest.raises(ManifestError, match=r"; and 990 more$") as caught:
        manager.add_folder(tmp_path)
    assert len(str(caught.value)) < 6000
    assert len(caught.value.faults) == 1000


def test_where_all_is_faulty_skipping_adds_nothing(manager: TrainingManager, tmp_path: Path) -> None:
    lay_out(tmp_path, "a")
    (tmp_path / "truths" / "a.png").unlink()
    with pytest.warns(UserWarning, match="has no ground truth of the same name"):
        assert manager.add_folder(tmp_path, on_error="skip") == []
    assert stored(manager) == []


def test_what_lies_beside_the_triples_is_named_in_a_warning(manager: TrainingManager, tmp_path: Path) -> None:
    lay_out(tmp_path, "a")
    (tmp_path / "sources" / "a.xmp").touch()
    with pytest.warns(UserWarning, match=r"passed over: .*a\.xmp: is no picture by the ending of its name"):
        assert len(manager.add_folder(tmp_path)) == 1


def test_who_makes_errors_of_warnings_has_nothing_added(manager: TrainingManager, tmp_path: Path) -> None:
    add, _by_list = adders(manager, faulty(tmp_path / "p"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="passed over"):
            add(on_error="skip")
    assert stored(manager) == []


def test_pictures_side_by_side_are_added_by_a_pattern(manager: TrainingManager, tmp_path: Path) -> None:
    for number in range(2):
        for role, path in zip(ROLES, save_triple(tmp_path, number), strict=True):
            path.rename(tmp_path / f"photo {number}_{role}.png")
    added = manager.add_folder(tmp_path, pattern="{name}_{role}.*")
    assert [example.metadata for example in added] == [{"name": "photo 0"}, {"name": "photo 1"}]
    assert Path(added[1].ground_truth_path).name == "photo 1_ground_truth.png"


@pytest.mark.parametrize("bad", ["ignore", None, 3])
@pytest.mark.parametrize("argument", ["on_error", "duplicates"])
def test_a_slip_in_how_to_add_is_found_before_any_work(
    manager: TrainingManager, tmp_path: Path, argument: str, bad: Any
) -> None:
    for add in adders(manager, tmp_path / "nowhere"):
        with pytest.raises(InvalidArgumentError, match=f"{argument} must be '"):
            add(**{argument: bad})


def test_a_store_for_reading_takes_nothing(tmp_path: Path) -> None:
    TrainingDataManager(tmp_path / "a.db").close()
    with manager_with(tmp_path, 0, storage=TrainingDataManager(tmp_path / "a.db", read_only=True)) as manager:
        for add in adders(manager, tmp_path / "nowhere"):
            with pytest.raises(StorageReadOnlyError):
                add()


@pytest.mark.parametrize("role", range(3))
def test_an_address_on_the_network_is_no_path(manager: TrainingManager, tmp_path: Path, role: int) -> None:
    row: list[Any] = list(save_triple(tmp_path, 0))
    row[role] = "https://example.org/a.jpg"
    expected = f"{ROLES[role]}_path must be a path on this machine, not a URL: download the file first, got 'https://ex"
    with pytest.raises(InvalidArgumentError, match=expected):
        manager.add_training_example(*row)
    (tmp_path / "list.csv").write_text(f"source,target,truth\n{','.join(map(str, row))}\n")
    with pytest.raises(ManifestError, match=f"row 1, line 2: {expected}"):
        manager.add_manifest(tmp_path / "list.csv")


def test_a_clean_folder_gives_no_warning(manager: TrainingManager, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.add_folder(lay_out(tmp_path, "a"))
    assert not caught
