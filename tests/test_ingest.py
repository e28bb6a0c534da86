import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tsm_training.data import ROLES, ExampleFiles, PictureFile, TrainingExample
from tsm_training.errors import ManifestError
from tsm_training.ingest import read_folder, read_manifest, relinked
from tsm_training.testing import make_example

FOLDERS = ("sources", "targets", "truths")


def lay_out(root: Path, *names: str) -> None:
    """Write files of these names into all three folders."""
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
        for name in names:
            (root / folder / name).write_bytes(f"{folder} {name}".encode())


# --- a folder of triples --------------------------------------------------------------------------------------------


def test_files_of_the_same_name_are_a_triple(tmp_path: Path) -> None:
    lay_out(tmp_path, "b.png", "a.png", "c d.png")
    assert read_folder(tmp_path) == [
        (*(tmp_path / folder / f"{name}.png" for folder in FOLDERS), {"name": name}) for name in ("a", "b", "c d")
    ]
    assert read_folder(str(tmp_path)) == read_folder(tmp_path)


def test_endings_may_differ_within_a_triple(tmp_path: Path) -> None:
    lay_out(tmp_path)
    paths = [tmp_path / "sources" / "a.jpg", tmp_path / "targets" / "a.PNG", tmp_path / "truths" / "a.tiff"]
    for path in paths:
        path.touch()
    assert read_folder(tmp_path) == [(*paths, {"name": "a"})]


@pytest.mark.parametrize("missing", FOLDERS)
def test_a_missing_folder_is_named(tmp_path: Path, missing: str) -> None:
    lay_out(tmp_path)
    (tmp_path / missing).rmdir()
    with pytest.raises(ManifestError, match=f"the folder {missing} is missing") as caught:
        read_folder(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_all_missing_folders_are_named_or_that_there_is_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    wanted = "the folders sources and truths are missing; expected are sources, targets and truths"
    with pytest.raises(ManifestError, match=wanted):
        read_folder(tmp_path)
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(
            ManifestError, match="it is no folder; expected is one with sources, targets and truths in it"
        ):
            read_folder(path)


@pytest.mark.parametrize("missing", FOLDERS)
def test_a_file_without_partner_is_named(tmp_path: Path, missing: str) -> None:
    lay_out(tmp_path, "a.png", "b.png")
    (tmp_path / missing / "b.png").unlink()
    with pytest.raises(ManifestError, match=f"{missing} has no file named 'b', though"):
        read_folder(tmp_path)


def test_of_many_files_without_partner_some_are_named(tmp_path: Path) -> None:
    lay_out(tmp_path, *(f"{number}.png" for number in range(7)))
    for number in range(1, 7):
        (tmp_path / "truths" / f"{number}.png").unlink()
    with pytest.raises(ManifestError, match="'1', '2', '3', '4', '5' …"):
        read_folder(tmp_path)


def test_two_files_of_the_same_name_are_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.png")
    (tmp_path / "targets" / "a.jpg").touch()
    with pytest.raises(ManifestError, match=r"'a\.jpg' and 'a\.png' have the same name") as caught:
        read_folder(tmp_path)
    assert caught.value.path == str(tmp_path / "targets")


def test_empty_folders_are_an_error(tmp_path: Path) -> None:
    lay_out(tmp_path)
    with pytest.raises(ManifestError, match="hold no pictures"):
        read_folder(tmp_path)


# --- a manifest -----------------------------------------------------------------------------------------------------

HEADER = "source_path,target_path,ground_truth_path"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "manifest.csv"


def test_relative_paths_count_from_the_manifests_folder(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.write_text(f"{HEADER}\ns.png,sub/t.png,../g.png\n")
    expected: list[object] = [(tmp_path / "s.png", tmp_path / "sub/t.png", tmp_path / "../g.png", {})]
    assert read_manifest(manifest) == expected
    monkeypatch.chdir(tmp_path)
    assert read_manifest("manifest.csv") == expected


def test_absolute_paths_stay_as_they_are(manifest: Path, tmp_path: Path) -> None:
    elsewhere = [tmp_path.parent / name for name in ("s.png", "t.png", "g.png")]
    manifest.write_text(f"{HEADER}\n{','.join(map(str, elsewhere))}\n")
    assert read_manifest(manifest) == [(*elsewhere, {})]


def test_further_columns_are_metadata(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text('camera,target_path,source_path,ground_truth_path,note\nK1,t,s,g,"a, ""b""\nc"\nK2,t,s,g,\n')
    paths = (tmp_path / "s", tmp_path / "t", tmp_path / "g")
    assert read_manifest(manifest) == [
        (*paths, {"camera": "K1", "note": 'a, "b"\nc'}),
        (*paths, {"camera": "K2", "note": ""}),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_either_line_end_are_understood(
    manifest: Path, tmp_path: Path, mark: str, line_end: str
) -> None:
    manifest.write_bytes(f"{mark}{HEADER},ort\n\ns,t,g,Köln".replace("\n", line_end).encode())
    assert read_manifest(manifest) == [(tmp_path / "s", tmp_path / "t", tmp_path / "g", {"ort": "Köln"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no column source_path, target_path, ground_truth_path; its columns are none"),
        (
            "source_path,target,ground_truth_path\na,b,c\n",
            "no column target_path; its columns are source_path, target,",
        ),
        ("source_path;target_path;ground_truth_path\na;b;c\n", "separates its columns by semicolons"),
        (f"source_path,{HEADER}\na,b,c,d\n", "names a column twice"),
        (HEADER, "lists no examples"),
        (f"{HEADER}\n\n\n", "lists no examples"),
        (f"{HEADER}\ns,t,g\ns,,g\n", "row 2 has nothing under target_path"),
        (f"{HEADER}\ns,t\n", "row 1 has not as many values"),
        (f"{HEADER}\ns,t,g\ns,t,g,more\n", "row 2 has not as many values"),
        (f'{HEADER}\ns,t,"g\n', "cannot be read as UTF-8 CSV"),
        (f"{HEADER}\n{'x' * 200_000},t,g\n", "field larger than field limit"),
    ],
)
def test_a_manifest_that_is_not_laid_out_as_expected_is_refused(manifest: Path, content: str, reason: str) -> None:
    manifest.write_text(content)
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(manifest)
    assert caught.value.path == str(manifest)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused(manifest: Path, encoding: str) -> None:
    manifest.write_bytes(f"{HEADER},ort\ns,t,g,Köln".encode(encoding))
    with pytest.raises(ManifestError, match="cannot be read as UTF-8"):
        read_manifest(manifest)


def test_a_manifest_that_is_not_there_is_refused(manifest: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read") as caught:
        read_manifest(manifest)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.reason == "cannot be read as UTF-8 CSV: No such file or directory"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_manifest_that_is_no_regular_file_is_refused_at_once(manifest: Path, tmp_path: Path) -> None:
    os.mkfifo(manifest)
    with pytest.raises(ManifestError, match="a pipe"):
        read_manifest(manifest)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)


# --- files that were moved ------------------------------------------------------------------------------------------


def picture(path: Path) -> PictureFile:
    content = path.read_bytes()
    return PictureFile(hashlib.sha256(content).hexdigest(), len(content), 4, 3)


def stored(root: Path, name: str) -> TrainingExample:
    """Return an example of three files that are written below `root`."""
    root.mkdir(exist_ok=True)
    paths = [root / f"{name}-{role}.png" for role in ("source", "target", "truth")]
    for path in paths:
        path.write_bytes(f"{path.name:>40}".encode())
    source, target, truth = paths
    return make_example(
        name,
        source_path=str(source),
        target_path=str(target),
        ground_truth_path=str(truth),
        files=ExampleFiles(*map(picture, paths)),
    )


def moved(
    examples: Sequence[TrainingExample], root: str | Path, image_root: str | None = None
) -> list[TrainingExample]:
    by_id = {example.example_id: example for example in examples}
    return [attrs.evolve(by_id[name], **paths) for name, paths in relinked(examples, root, image_root).items()]


def test_files_that_are_where_they_were_are_left_alone(tmp_path: Path) -> None:
    assert moved([stored(tmp_path / "old", "a")], tmp_path) == []


def test_moved_files_are_found_by_their_contents_whatever_their_names(tmp_path: Path) -> None:
    examples = [stored(tmp_path / "old", name) for name in ("a", "b", "stays")]
    new = tmp_path / "new" / "deep" / "er"
    new.mkdir(parents=True)
    (new / "same size").write_bytes(b"x" * 40)
    expected = []
    for example in examples[:2]:
        paths: dict[str, Any] = {f"{role}_path": str(new / f"{role} of {example.example_id}") for role in ROLES}
        for field, path in paths.items():
            Path(getattr(example, field)).rename(path)
        expected.append(attrs.evolve(example, **paths))
    assert moved(examples, tmp_path / "new") == expected


def test_only_the_missing_file_gets_a_new_path(tmp_path: Path) -> None:
    example = stored(tmp_path / "old", "a")
    (tmp_path / "new").mkdir()
    Path(example.target_path).rename(tmp_path / "new" / "t.png")
    (tmp_path / "new" / "copy of source.png").write_bytes(Path(example.source_path).read_bytes())
    assert moved([example], tmp_path / "new") == [attrs.evolve(example, target_path=str(tmp_path / "new" / "t.png"))]


def test_what_is_found_nowhere_stays_as_it_was(tmp_path: Path) -> None:
    lost, half = stored(tmp_path / "old", "lost"), stored(tmp_path / "old", "half")
    (tmp_path / "new").mkdir()
    for path in (lost.source_path, half.source_path):
        Path(path).unlink()
    Path(half.target_path).rename(tmp_path / "new" / "t.png")
    assert moved([lost, half], tmp_path / "new") == [attrs.evolve(half, target_path=str(tmp_path / "new" / "t.png"))]


def test_a_file_with_other_contents_is_not_taken(tmp_path: Path) -> None:
    example = stored(tmp_path / "old", "a")
    (tmp_path / "new").mkdir()
    Path(example.source_path).unlink()
    (tmp_path / "new" / "a-source.png").write_bytes(b"x" * 40)
    assert moved([example], tmp_path / "new") == []


def test_of_several_copies_the_same_one_is_taken_each_time(tmp_path: Path) -> None:
    example = stored(tmp_path / "old", "a")
    (tmp_path / "new").mkdir()
    content = Path(example.source_path).read_bytes()
    Path(example.source_path).unlink()
    for name in ("z", "b", "y"):
        (tmp_path / "new" / name).write_bytes(content)
    assert moved([example], tmp_path / "new")[0].source_path == str(tmp_path / "new" / "b")


def test_what_leads_out_of_the_folder_of_pictures_is_passed_over(tmp_path: Path) -> None:
    example = stored(tmp_path / "old", "a")
    (tmp_path / "root").mkdir()
    Path(example.source_path).rename(tmp_path / "old" / "renamed")
    (tmp_path / "root" / "a link").symlink_to(tmp_path / "old" / "renamed")
    root = os.path.realpath(tmp_path / "root")
    assert moved([example], tmp_path, root) == []
    (tmp_path / "root" / "copy").write_bytes((tmp_path / "old" / "renamed").read_bytes())
    assert moved([example], tmp_path, root)[0].source_path == str(tmp_path / "root" / "copy")


def test_the_new_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = stored(tmp_path / "old", "a")
    Path(example.source_path).rename(tmp_path / "old" / "renamed")
    monkeypatch.chdir(tmp_path)
    assert moved([example], "old")[0].source_path == str(tmp_path / "old" / "renamed")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipes_and_dead_links_in_the_folder_do_no_harm(tmp_path: Path) -> None:
    example = stored(tmp_path / "old", "a")
    Path(example.source_path).rename(tmp_path / "old" / "renamed")
    os.mkfifo(tmp_path / "old" / "pipe")
    (tmp_path / "old" / "dead").symlink_to("nowhere")
    assert moved([example], tmp_path)[0].source_path == str(tmp_path / "old" / "renamed")


def test_an_example_whose_contents_are_unknown_is_passed_over(tmp_path: Path) -> None:
    assert moved([make_example("a", files=None)], tmp_path) == []


def test_what_cameras_and_systems_leave_beside_pictures_is_passed_over(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.JPG", "a.xmp", "Thumbs.db", ".DS_Store", ".hidden.png")
    (tmp_path / "sources" / "thumbnails.png").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [row[3] for row in read_folder(tmp_path)] == [{"name": "a"}]
