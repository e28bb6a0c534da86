import hashlib
import os
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_training.data import ROLES, ExampleFiles, PictureFile, TrainingExample
from tsm_training.errors import InvalidArgumentError, ManifestError
from tsm_training.ingest import USUAL_PATTERN, ExampleRow, Listing, read_folder, read_manifest, relinked
from tsm_training.testing import make_example

FOLDERS = ("sources", "targets", "truths")


def lay_out(root: Path, *names: str) -> None:
    """Write files of these names into all three folders."""
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
        for name in names:
            (root / folder / name).write_bytes(f"{folder} {name}".encode())


def triples(listing: Listing) -> list[ExampleRow]:
    """Return the rows of a listing that has nothing else."""
    assert (listing.faults, listing.others) == ([], [])
    return [row for _place, row in listing.rows]


# --- a folder of triples --------------------------------------------------------------------------------------------


def test_files_of_the_same_name_are_a_triple(tmp_path: Path) -> None:
    lay_out(tmp_path, "b.png", "a.png", "c d.e.png")
    assert triples(read_folder(tmp_path)) == [
        (*(tmp_path / folder / f"{name}.png" for folder in FOLDERS), {"name": name}) for name in ("a", "b", "c d.e")
    ]
    assert read_folder(str(tmp_path)) == read_folder(tmp_path)


def test_endings_may_differ_within_a_triple(tmp_path: Path) -> None:
    lay_out(tmp_path)
    paths = [tmp_path / "sources" / "a.jpg", tmp_path / "targets" / "a.PNG", tmp_path / "truths" / "a.tiff"]
    for path in paths:
        path.touch()
    assert triples(read_folder(tmp_path)) == [(*paths, {"name": "a"})]


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
    for path, reason in ((tmp_path / "nowhere", "No such file"), (tmp_path / "file", "Not a directory")):
        for pattern in (USUAL_PATTERN, "{name}_{role}.jpg"):
            with pytest.raises(ManifestError, match=f"cannot be read as a folder: {reason}"):
                read_folder(path, pattern)


WORDS = [
    ("source", "target", "ground_truth"),
    ("Sources", "TARGETS", "Ground Truths"),
    ("SOURCE", "targets", "ground-truth"),
    ("source", "Target", "groundtruth"),
    ("sources", "target", "Truth"),
]


@pytest.mark.parametrize("words", WORDS)
def test_the_guides_words_for_the_roles_name_folders(tmp_path: Path, words: Sequence[str]) -> None:
    paths = [tmp_path / word / "a.png" for word in words]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    assert triples(read_folder(tmp_path)) == [(*paths, {"name": "a"})]


def test_two_folders_for_one_role_are_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.png")
    (tmp_path / "Ground_Truth").mkdir()
    with pytest.raises(ManifestError, match="Ground_Truth and truths are two folders for one role: keep one"):
        read_folder(tmp_path)


@pytest.mark.parametrize("missing", range(3))
def test_each_file_without_partner_is_named(tmp_path: Path, missing: int) -> None:
    lay_out(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / FOLDERS[missing] / "b.png").unlink()
    listing = read_folder(tmp_path)
    role = ("source", "target", "ground truth")[missing]
    left = [str(tmp_path / folder / "b.png") for folder in FOLDERS if folder != FOLDERS[missing]]
    assert listing.faults == [(path, f"has no {role} of the same name") for path in left]
    assert [row[3] for _place, row in listing.rows] == [{"name": "a"}, {"name": "c"}]


def test_a_file_that_is_alone_lacks_both_partners(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "targets" / "a.png").touch()
    assert read_folder(tmp_path).faults == [
        (str(tmp_path / "targets" / "a.png"), "has no source and no ground truth of the same name")
    ]


COMPOSED, DECOMPOSED = "Café", "Cafe\u0301"


@pytest.mark.parametrize("names", [("IMG_1", "img_1", "Img_1"), (COMPOSED, DECOMPOSED, COMPOSED.upper())])
def test_names_that_differ_only_in_case_or_in_how_accents_are_encoded_are_paired(
    tmp_path: Path, names: Sequence[str]
) -> None:
    lay_out(tmp_path, "other.png")
    paths = [tmp_path / folder / f"{name}.png" for folder, name in zip(FOLDERS, names, strict=True)]
    for path in paths:
        path.touch()
    (row, other) = triples(read_folder(tmp_path))
    assert row == (*paths, {"name": unicodedata.normalize("NFC", names[1])})
    assert other[3] == {"name": "other"}


def test_names_that_differ_in_case_are_two_where_each_is_complete(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.png", "A.png")
    if len(list((tmp_path / "sources").iterdir())) == 1:
        pytest.skip("the file system knows no case")  # pragma: no cover
    assert [row[3] for row in triples(read_folder(tmp_path))] == [{"name": "A"}, {"name": "a"}]


@pytest.mark.parametrize("second", ["a.jpg", "A.png"])
def test_several_candidates_for_one_partner_are_named(tmp_path: Path, second: str) -> None:
    lay_out(tmp_path, "a.png", "b.png")
    (tmp_path / "targets" / second).touch()
    if len(list((tmp_path / "targets").iterdir())) == 2:
        pytest.skip("the file system knows no case")  # pragma: no cover
    listing = read_folder(tmp_path)
    files = [*(tmp_path / folder / "a.png" for folder in FOLDERS), tmp_path / "targets" / second]
    reason = f"{' and '.join(sorted(['a.png', second]))} may each be the target of the same name: keep one"
    assert sorted(listing.faults) == sorted((str(path), reason) for path in files)
    assert [row[3] for _place, row in listing.rows] == [{"name": "b"}]


def test_all_that_is_wrong_with_a_name_is_said(tmp_path: Path) -> None:
    lay_out(tmp_path)
    for name in ("sources/a.png", "sources/a.jpg", "targets/a.png", "targets/a.bmp"):
        (tmp_path / name).touch()
    (reason,) = {reason for _place, reason in read_folder(tmp_path).faults}
    assert reason == (
        "a.jpg and a.png may each be the source of the same name: keep one; "
        "a.bmp and a.png may each be the target of the same name: keep one; has no ground truth of the same name"
    )


def test_empty_folders_are_an_error(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (tmp_path / "sources" / "notes.txt").touch()
    with pytest.raises(ManifestError, match=r"holds no pictures whose names fit the pattern '\{role\}/\{name\}\.\*'"):
        read_folder(tmp_path)


def test_pictures_that_cannot_be_read_are_no_reason_to_pass_them_over(tmp_path: Path) -> None:
    """Whether a kind of picture is taken is for the reader to say, with what to do about it."""
    lay_out(tmp_path, "a.heic", "b.NEF", "c.gif")
    assert [row[3] for row in triples(read_folder(tmp_path))] == [{"name": name} for name in "abc"]


def test_what_is_no_picture_is_named_and_what_systems_leave_is_not(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.JPG", "a.xmp", "Thumbs.db", "DESKTOP.INI", ".DS_Store", ".hidden.png", "._a.JPG")
    (tmp_path / "sources" / "@eaDir").mkdir()
    (tmp_path / "sources" / "film.png").mkdir()
    for name in ("preview.png", "list.csv"):
        (tmp_path / name).touch()
    (tmp_path / "raw").mkdir()
    (tmp_path / ".git").mkdir()
    listing = read_folder(tmp_path)
    assert [row[3] for _place, row in listing.rows] == [{"name": "a"}]
    assert listing.faults == [(str(tmp_path / "sources" / "film.png"), "is a folder, which is not looked into")]
    assert sorted(listing.others) == sorted(
        [(str(tmp_path / folder / "a.xmp"), "is no picture by the ending of its name") for folder in FOLDERS]
        + [
            (str(tmp_path / "preview.png"), "does not fit the pattern '{role}/{name}.*'"),
            (str(tmp_path / "raw"), "is a folder, which is not looked into"),
        ]
    )


# --- a folder by a pattern ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{name}_{role}.jpg", ["{}_source.jpg", "{}_TARGET.JPG", "{}_ground_truth.jpg"]),
        ("{name}_{role}.*", ["{}_source.jpg", "{}_target.png", "{}_truth.TIFF"]),
        ("{role}-{name}.*", ["Source-{}.jpg", "target-{}.png", "Ground-Truth-{}.png"]),
        ("{name}/{role}.png", ["{}/source.png", "{}/target.png", "{}/truth.png"]),
        ("set [1]/{name}/{role}.*", ["set [1]/{}/source.png", "set [1]/{}/target.png", "set [1]/{}/truth.png"]),
        ("{role}/{name}.dat", ["sources/{}.dat", "targets/{}.dat", "truths/{}.dat"]),
        ("{role} of {name}.png", ["source of {}.png", "target of {}.png", "truth of {}.png"]),
    ],
)
def test_a_pattern_says_where_names_and_roles_stand(tmp_path: Path, pattern: str, names: Sequence[str]) -> None:
    expected = []
    for name in ("1", "my_source.2"):
        paths = [tmp_path / each.format(name) for each in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        expected.append((*paths, {"name": name}))
    assert triples(read_folder(tmp_path, pattern)) == expected


def test_what_does_not_fit_the_pattern_is_named(tmp_path: Path) -> None:
    for name in ("a_source.jpg", "a_target.jpg", "a_truth.jpg", "a_trut.jpg", "a_source.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "old").mkdir()
    listing = read_folder(tmp_path, "{name}_{role}.jpg")
    assert len(listing.rows) == 1
    reason = "does not fit the pattern '{name}_{role}.jpg'"
    assert listing.faults == [
        (str(tmp_path / "a_source.png"), reason),
        (str(tmp_path / "a_trut.jpg"), reason),
        (str(tmp_path / "old"), "is a folder, which is not looked into"),
    ]
    assert listing.others == []


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        3,
        "{name}.jpg",
        "{role}.jpg",
        "{name}{name}_{role}.jpg",
        "{name}_{role}_{other}.jpg",
        "*_{name}_{role}.jpg",
        "/{role}/{name}.png",
        "{role}\\{name}.png",
        "{role}//{name}.png",
    ],
)
def test_a_pattern_that_says_something_else_is_refused(tmp_path: Path, pattern: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"pattern must be text with {name} and {role} once each"):
        read_folder(tmp_path, pattern)


STEMS = st.sampled_from(["a", "A", "b", COMPOSED, DECOMPOSED, "x_target"])
ENDINGS = st.sampled_from([".png", ".JPG", ".heic", ".nef", ".txt", "", ".xmp"])
PLACES = st.sampled_from(["", "sources/", "Targets/", "truths/", "other/", "sources/deep/", "deep/er/"])
NAMES = st.builds("{}{}{}".format, PLACES, STEMS, ENDINGS) | st.builds(
    "{}{}{}{}".format, PLACES, STEMS, st.sampled_from(["_source", "_target", "_truth", "_TRUTHS"]), ENDINGS
)


WHOLE = [
    "sources/z_source.png",
    "Targets/z_source.png",
    "truths/z_source.png",
    "z_source.png",
    "z_target.png",
    "z_truth.png",
]


@given(st.lists(NAMES, max_size=25), st.sampled_from([USUAL_PATTERN, "{name}_{role}.*", "{role}/{name}_source.png"]))
def test_every_file_of_a_folder_is_in_a_triple_or_is_named(names: Sequence[str], pattern: str) -> None:
    """But for what lies directly in it and is no picture, such as a list or a database."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in [*names, *WHOLE, "sources/.hidden.png", "Targets/Thumbs.db", "truths/.DS_Store"]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "." and path.suffix != ".db"]
        listing = read_folder(root, pattern)
        taken = [Path(path) for _place, row in listing.rows for path in row[:3]]
        named = [Path(place) for place, _reason in [*listing.faults, *listing.others]]
    assert len(taken) == len(set(taken))
    assert len(named) == len(set(named))
    assert not set(taken) & set(named)
    beside = {path for path in files if path.parent == root and path.suffix in {".txt", "", ".xmp"}}
    assert {path for path in files if not {path, *path.parents} & {*taken, *named}} == beside


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
    assert triples(read_manifest(manifest)) == expected
    monkeypatch.chdir(tmp_path)
    assert triples(read_manifest("manifest.csv")) == expected


def test_absolute_paths_stay_as_they_are(manifest: Path, tmp_path: Path) -> None:
    elsewhere = [tmp_path.parent / name for name in ("s.png", "t.png", "g.png")]
    manifest.write_text(f"{HEADER}\n{','.join(map(str, elsewhere))}\n")
    assert triples(read_manifest(manifest)) == [(*elsewhere, {})]


def test_further_columns_are_metadata(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text('camera,target_path,source_path,ground_truth_path,note\nK1,t,s,g,"a, ""b""\nc"\nK2,t,s,g,\n')
    paths = (tmp_path / "s", tmp_path / "t", tmp_path / "g")
    assert triples(read_manifest(manifest)) == [
        (*paths, {"camera": "K1", "note": 'a, "b"\nc'}),
        (*paths, {"camera": "K2", "note": ""}),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_write_is_understood(
    manifest: Path, tmp_path: Path, separator: str, encoding: str, line_end: str
) -> None:
    """Blanks do not count, nor do empty lines and what lines are filled up with."""
    lines = [f" {HEADER.replace(',', ' , ')} ,ort,,", ",,,,,", ' s,t ," g",Köln; a,,', '" s;1", t,g,,,']
    text = "\n".join(lines).replace(",", separator).replace("Köln; a", '"Köln; a"')
    manifest.write_bytes(text.replace("\n", line_end).encode(encoding))
    assert triples(read_manifest(manifest)) == [
        (tmp_path / "s", tmp_path / "t", tmp_path / "g", {"ort": "Köln; a"}),
        (tmp_path / "s;1", tmp_path / "t", tmp_path / "g", {"ort": ""}),
    ]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("ending", ["", "_path", "_Paths"])
def test_the_guides_words_for_the_roles_name_columns(
    manifest: Path, tmp_path: Path, words: Sequence[str], ending: str
) -> None:
    manifest.write_text(f"{','.join(word + ending for word in words)},target_photo\ns,t,g,7\n")
    assert triples(read_manifest(manifest)) == [(tmp_path / "s", tmp_path / "t", tmp_path / "g", {"target_photo": "7"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no column source_path, target_path, ground_truth_path; its columns are none"),
        ("source_path,aim,ground_truth_path\na,b,c\n", "no column target_path; its columns are source_path, aim,"),
        ("Sorce;targt_path;truth\na;b;c\n", "no column source_path, target_path; did you mean Sorce and targt_path?"),
        (f"source_path,{HEADER}\na,b,c,d\n", "names a column twice"),
        (f"{HEADER},truth\na,b,c,d\n", "has several columns for one role, ground_truth_path and truth: keep one"),
        (HEADER, "lists no examples"),
        (f"{HEADER}\n\n,,\n", "lists no examples"),
        (f'{HEADER}\ns,t,"g\n', "cannot be read as CSV: unexpected end of data"),
        (f"{HEADER}\n{'x' * 200_000},t,g\n", "field larger than field limit"),
    ],
)
def test_a_manifest_that_is_not_laid_out_as_expected_is_refused(manifest: Path, content: str, reason: str) -> None:
    manifest.write_text(content)
    with pytest.raises(ManifestError, match=reason) as caught:
        read_manifest(manifest)
    assert caught.value.path == str(manifest)
    assert caught.value.faults == ()


def test_every_faulty_row_is_named_with_its_line(manifest: Path) -> None:
    manifest.write_text(f'{HEADER},note\ns,t,g,"a\nb"\n\ns,,g,\ns,t\n,,g,\ns,t,g,ok\ns,t,g,more,\ns,t,g,much,more\n')
    listing = read_manifest(manifest)
    assert listing.faults == [
        ("row 2, line 5", "has nothing under target_path"),
        ("row 3, line 6", "has 2 values; the header has 4 columns"),
        ("row 4, line 7", "has nothing under source_path and target_path"),
        ("row 7, line 10", "has 5 values; the header has 4 columns"),
    ]
    assert [place for place, _row in listing.rows] == ["row 1, line 3", "row 5, line 8", "row 6, line 9"]


def test_another_encoding_is_refused(manifest: Path) -> None:
    manifest.write_bytes(f"{HEADER},ort\ns,t,g,Köln".encode("latin-1"))
    with pytest.raises(
        ManifestError, match=r"is no text in UTF-8 or UTF-16 \('utf-8' codec .*\): save it as CSV UTF-8"
    ):
        read_manifest(manifest)


def test_a_manifest_that_is_not_there_is_refused(manifest: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read") as caught:
        read_manifest(manifest)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.reason == "cannot be read as CSV: No such file or directory"


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


# --- examples that another application stored -----------------------------------------------------------------------


def foreign(root: Path, *paths: str, written: Sequence[str] | None = None) -> TrainingExample:
    """Return an example whose contents nobody looked at, and write its files below `root`."""
    for name in paths if written is None else written:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    source, target, truth = paths
    return make_example("a", source_path=source, target_path=target, ground_truth_path=truth, files=None)


APP = ("app/static/data/s.png", "app/static/data/t.png", "app/static/data/g.png")


@pytest.mark.parametrize(
    ("paths", "below"),
    [
        (APP, "app/static/data/"),
        (APP, "data/"),
        (APP, ""),
        (tuple(f"./{path}" for path in APP), "static/data/"),
        (tuple(f"../{path}" for path in APP), "app/static/data/"),
        (tuple(f"/home/old/{path}" for path in APP), "static/data/"),
        (tuple(f"C:\\old\\{path}".replace("/", "\\") for path in APP), "static/data/"),
    ],
)
def test_old_paths_are_looked_for_below_the_folder(tmp_path: Path, paths: Sequence[str], below: str) -> None:
    example = foreign(tmp_path, *paths, written=[f"{below}{name}.png" for name in "stg"])
    source, target, truth = (str(tmp_path / f"{below}{name}.png") for name in "stg")
    expected = {"source_path": source, "target_path": target, "ground_truth_path": truth}
    assert relinked([example], tmp_path) == {"a": expected}


def test_files_of_one_name_in_several_folders_are_not_mixed_up(tmp_path: Path) -> None:
    example = foreign(tmp_path, "old/sources/1.png", "old/targets/1.png", "old/truths/1.png", written=["1.png"])
    assert relinked([example], tmp_path) == {}
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").touch()
    (found,) = relinked([example], tmp_path).values()
    assert [*found.values()] == [str(tmp_path / folder / "1.png") for folder in FOLDERS]


def test_one_picture_in_two_roles_is_found_too(tmp_path: Path) -> None:
    example = foreign(tmp_path, "old/s.png", "old/t.png", "old/t.png", written=["s.png", "t.png"])
    (found,) = relinked([example], tmp_path).values()
    assert found["target_path"] == found["ground_truth_path"] == str(tmp_path / "t.png")


def test_an_example_of_which_a_file_is_nowhere_is_left_alone(tmp_path: Path) -> None:
    assert relinked([foreign(tmp_path, *APP, written=APP[:2])], tmp_path) == {}


def test_relative_paths_become_absolute_even_where_they_lead_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = relinked([foreign(tmp_path, *APP)], ".").values()
    assert [*found.values()] == [str(tmp_path / path) for path in APP]


def test_absolute_paths_that_lead_somewhere_stay(tmp_path: Path) -> None:
    assert relinked([foreign(tmp_path, *(str(tmp_path / path) for path in APP))], tmp_path) == {}


def test_relative_paths_whose_contents_are_known_are_found_by_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = stored(tmp_path / "old", "a")
    monkeypatch.chdir(tmp_path)
    relative = attrs.evolve(example, source_path=f"old/{Path(example.source_path).name}")
    assert relinked([relative], tmp_path) == {"a": {"source_path": example.source_path}}


def test_old_paths_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    example = foreign(tmp_path / "outside", *APP)
    (tmp_path / "root" / "app").symlink_to(tmp_path / "outside" / "app")
    assert relinked([example], tmp_path / "root", os.path.realpath(tmp_path / "root")) == {}
    assert len(relinked([example], tmp_path / "root")) == 1
