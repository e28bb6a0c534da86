"""Dataset lint: each kind of fault, among candidates and in the store, and what must not be taken for one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsm_training.lint.sketches as sketching
from support import HostPool, brightening, brighter, failing, pool_of, save
from tsm_training import (
    BayesianWeightLearner,
    CombinedMetric,
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    LintFinding,
    LintReport,
    StructuralSimilarity,
    TrainingDataManager,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
)
from tsm_training.data import ExampleFiles, PictureFile, Preview
from tsm_training.ensemble import FixedShares, blend
from tsm_training.errors import InvalidArgumentError
from tsm_training.images import ImageInfo, ImageLimits, read_image
from tsm_training.lint import MIN_EXAMPLES, SEVERITIES, LintKind, lint, linting
from tsm_training.lint.duplicates import duplicate_findings
from tsm_training.lint.findings import Item
from tsm_training.lint.sketches import (
    NEAR_BITS,
    NEAR_COLORS,
    NEAR_SHAPE,
    Sketch,
    agreement,
    are_same,
    color_difference,
    mean_cells,
    sketch_of,
)

Row: TypeAlias = tuple[Any, ...]
Plant: TypeAlias = Callable[[Path, Row], Any]

LIMITS = ImageLimits()
SIZE = (48, 64)
ENOUGH = 8
"""So many examples are no few in these tests; really that takes more."""


def scene(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> Image:
    """Return a picture with edges and colours of its own, different for every seed."""
    rng = np.random.default_rng(seed)
    light, colors = rng.uniform(60, 180, (15, 20, 1)), rng.uniform(-25, 25, (4, 5, 3))
    brightness = cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, np.newaxis]
    tint = cv2.resize(colors, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(brightness + tint, 0, 255).astype(np.uint8)


def triple(folder: Path, seed: int, **metadata: Any) -> Row:
    """Write a source, a target, and the target made brighter as truth."""
    target = scene(2 * seed + 1)
    pictures = {"source": scene(2 * seed), "target": target, "truth": brighter(target, 30)}
    paths = (str(save(folder / f"{role}_{seed}.png", image)) for role, image in pictures.items())
    return (*paths, metadata) if metadata else tuple(paths)


@pytest.fixture(scope="module", autouse=True)
def few_are_enough() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linting, "MIN_EXAMPLES", ENOUGH)
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Triples for several groups; nobody may change their files."""
    folder = tmp_path_factory.mktemp("many")
    return [triple(folder, seed) for seed in range(20)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """As many triples as are needed, with nothing wrong; nobody may change their files."""
    folder = tmp_path_factory.mktemp("clean")
    return [triple(folder, seed) for seed in range(ENOUGH)]


def usual_manager(**settings: Any) -> TrainingManager:
    """Return a manager of two workers that come near to no truth of a clean triple."""
    pool = settings.pop("pool", None) or pool_of(brightening("dark", -40), brightening("bright", 60))
    settings = settings if "db_path" in settings else {"storage": InMemoryStore(), **settings}
    learner = settings.pop("learner", None) or BayesianWeightLearner()
    return TrainingManager(pool, learner, **settings)


def manager_of(rows: Sequence[Row], **settings: Any) -> TrainingManager:
    manager = usual_manager(**settings)
    manager.add_training_examples(rows)
    return manager


def kinds(report: LintReport) -> list[str]:
    return [finding.kind for finding in report]


def only(report: LintReport) -> LintFinding:
    [finding] = report
    return finding


# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_clean_candidates(clean: list[Row]) -> None:
    report = lint(iter([tuple(Path(path) for path in clean[0]), list(clean[1]), *clean[2:]]))
    assert not report
    assert list(report) == []
    assert (report.num_examples, report.num_compared) == (ENOUGH, 0)
    assert str(report) == "nothing was found in 8 examples"


def test_nothing_is_found_in_a_clean_store_before_and_after_a_training(clean: list[Row]) -> None:
    manager = manager_of(clean)
    assert not manager.lint()
    manager.train(epochs=2, verbose=False)
    report = manager.lint()
    assert not report
    assert (report.num_examples, report.num_compared) == (ENOUGH, ENOUGH)


def test_nothing_is_found_in_clean_candidates_for_a_store(tmp_path: Path, clean: list[Row]) -> None:
    manager = manager_of(clean)
    report = manager.lint([triple(tmp_path, seed) for seed in range(100, 103)])
    assert not report
    assert report.num_examples == 3


def test_one_target_may_be_used_with_many_truths_and_sources(tmp_path: Path, clean: list[Row]) -> None:
    target = clean[0][1]
    used = [
        (
            clean[number][0],
            target,
            str(save(tmp_path / f"{number}.png", brighter(read_image(target), -7 * number - 7))),
        )
        for number in range(1, 6)
    ]
    assert not lint([*clean, *used])


def test_other_looks_of_the_same_photographs_are_no_duplicates(tmp_path: Path, clean: list[Row]) -> None:
    source, target, _truth = (read_image(path) for path in clean[0])
    other = (
        str(save(tmp_path / "source.png", brighter(source, 12))),
        clean[0][1],
        str(save(tmp_path / "truth.png", brighter(target, 42))),
    )
    assert not lint([*clean, other])


# --- single faults ----------------------------------------------------------------------------------------------------


def with_file(row: Row, role: int, path: object) -> Row:
    return tuple(path if place == role else entry for place, entry in enumerate(row))


def with_picture(folder: Path, row: Row, role: int, image: Image, ending: str = ".png") -> Row:
    return with_file(row, role, str(save(folder / f"planted_{role}{ending}", image)))


def with_bytes(folder: Path, row: Row, role: int, content: bytes) -> Row:
    path = folder / "planted.png"
    path.write_bytes(content)
    return with_file(row, role, str(path))


def noisy(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def swap(_folder: Path, row: Row) -> Row:
    return (row[1], row[0], *row[2:])


def picture_of(row: Row, role: int) -> Image:
    return read_image(row[role])


FLAT = np.full((*SIZE, 3), 77, np.uint8)

CANDIDATES: dict[str, tuple[LintKind, Plant]] = {
    "no file": ("missing_file", lambda folder, row: with_file(row, 2, folder / "nowhere.png")),
    "no folder": ("missing_file", lambda folder, row: with_file(row, 0, folder / "nowhere" / "a.png")),
    "cut off": ("unreadable_file", lambda f, row: with_bytes(f, row, 0, Path(row[0]).read_bytes()[:-30])),
    "empty": ("unreadable_file", lambda folder, row: with_bytes(folder, row, 1, b"")),
    "text": ("unreadable_file", lambda folder, row: with_bytes(folder, row, 2, b"a picture")),
    "folder": ("unreadable_file", lambda folder, row: with_file(row, 2, folder)),
    "no row": ("unusable_row", lambda _folder, _row: 17),
    "text as row": ("unusable_row", lambda _folder, _row: "abc"),
    "two paths": ("unusable_row", lambda _folder, row: row[:2]),
    "five entries": ("unusable_row", lambda _folder, row: (*row, {}, {})),
    "empty path": ("unusable_row", lambda _folder, row: with_file(row, 1, "")),
    "no path": ("unusable_row", lambda _folder, row: with_file(row, 1, None)),
    "NUL": ("unusable_row", lambda _folder, row: with_file(row, 1, "a\0b")),
    "not UTF-8": ("unusable_row", lambda _folder, row: with_file(row, 1, "\udcff.png")),
    "metadata": ("unusable_row", lambda _folder, row: (*row, {"when": {1, 2}})),
    "larger truth": ("size_mismatch", lambda f, row: with_picture(f, row, 2, cv2.resize(picture_of(row, 2), (65, 49)))),
    "cropped truth": ("size_mismatch", lambda f, row: with_picture(f, row, 2, picture_of(row, 2)[:, :-1])),
    "swapped": ("swapped", swap),
    "swapped, other sizes": ("swapped", lambda f, row: swap(f, with_picture(f, row, 0, scene(900, 70, 40)))),
    "swapped, negative": ("swapped", lambda f, row: swap(f, with_picture(f, row, 2, 255 - picture_of(row, 1)))),
    "target copied": ("truth_is_target", lambda _folder, row: with_file(row, 2, row[1])),
    "target as JPEG": ("truth_is_target", lambda f, row: with_picture(f, row, 2, picture_of(row, 1), ".jpg")),
    "target, rounded": ("truth_is_target", lambda f, row: with_picture(f, row, 2, picture_of(row, 1) // 2 * 2)),
    "source copied": ("truth_is_source", lambda _folder, row: with_file(row, 2, row[0])),
    "source as JPEG": ("truth_is_source", lambda f, row: with_picture(f, row, 2, picture_of(row, 0), ".jpg")),
    "same source": ("source_is_target", lambda _folder, row: with_file(row, 0, row[1])),
    "other scene": ("unrelated_truth", lambda f, row: with_picture(f, row, 2, scene(901))),
    "noise": (
        "unrelated_truth",
        lambda f, row: with_picture(f, row, 2, np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)),
    ),
    "RGB truth": ("truth_channels_swapped", lambda f, row: with_picture(f, row, 2, picture_of(row, 2)[..., ::-1])),
    "flat source": ("flat_picture", lambda f, row: with_picture(f, row, 0, FLAT)),
    "flat target": ("flat_picture", lambda f, row: with_picture(f, row, 1, noisy(FLAT, 1.0))),
    "flat truth": ("flat_picture", lambda f, row: with_picture(f, row, 2, FLAT, ".jpg")),
    "all flat": ("flat_picture", lambda f, row: with_picture(f, with_picture(f, row, 1, FLAT), 2, FLAT)),
}


@attrs.frozen
class Planted:
    """A look at clean rows, with faults planted among them."""

    rows: list[Row]
    places: dict[str, int]
    report: LintReport

    def at(self, name: str) -> list[LintFinding]:
        return [finding for finding in self.report if self.places[name] in finding.rows]


def planted(folder: Path, rows: Sequence[Row], plants: Mapping[str, Plant]) -> tuple[list[Row], dict[str, int]]:
    rows, places = list(rows), {}
    for number, (name, plant) in enumerate(plants.items()):
        places[name] = len(rows)
        rows.append(plant(folder / str(number), triple(folder / str(number), 500 + number)))
    return rows, places


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, clean: list[Row]) -> Planted:
    plants = {name: plant for name, (_kind, plant) in CANDIDATES.items()}
    rows, places = planted(tmp_path_factory.mktemp("faults"), clean, plants)
    return Planted(rows, places, lint(rows))


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_fault_of_a_candidate_is_found_once_and_named(name: str, faults: Planted) -> None:
    kind, _plant = CANDIDATES[name]
    place = faults.places[name]
    [finding] = faults.at(name)
    assert (finding.kind, finding.rows, finding.examples) == (kind, (place,), ())
    assert finding.severity == SEVERITIES[kind]
    assert f"rows[{place}]" in finding.message
    assert f"rows[{place}]" in finding.call
    assert finding.removable == ()


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("no file", None),
        ("cut off", None),
        ("two paths", None),
        ("flat truth", None),
        ("swapped", (1, 0, 2)),
        ("larger truth", (0, 1, "PATH")),
        ("target as JPEG", (0, 1, "PATH")),
        ("source copied", (0, 1, "PATH")),
        ("other scene", (0, 1, "PATH")),
        ("same source", ("PATH", 1, 2)),
    ],
)
def test_the_call_of_a_candidate_takes_it_out_or_names_the_files_that_are_wanted(
    name: str, paths: tuple[int | str, ...] | None, faults: Planted
) -> None:
    rows = list(faults.rows)
    row, place = rows[faults.places[name]], faults.places[name]
    exec(faults.at(name)[0].call, {"rows": rows})
    assert rows[place] == (None if paths is None else tuple(row[p] if isinstance(p, int) else p for p in paths))
    assert [n for n, (was, now) in enumerate(zip(faults.rows, rows, strict=True)) if was is not now] == [place]


def test_nothing_is_found_beside_what_was_planted_and_the_calls_leave_the_good_rows(faults: Planted) -> None:
    planted = set(faults.places.values())
    assert {number for finding in faults.report for number in finding.rows} == planted
    rows: list[Any] = list(faults.rows)
    for finding in faults.report:
        exec(finding.call, {"rows": rows})
    assert {number for number, was in enumerate(faults.rows) if rows[number] is not was} == planted


STORED = ("swapped", "target as JPEG", "source as JPEG", "same source", "other scene", "flat source", "flat truth")


def test_a_fault_of_a_stored_example_is_found_and_nothing_else(tmp_path: Path, clean: list[Row]) -> None:
    rows, places = planted(tmp_path, clean, {name: CANDIDATES[name][1] for name in STORED})
    manager = manager_of(rows)
    examples = manager.data_manager.get_all_examples()
    report = manager.lint()
    wanted = [(CANDIDATES[name][0], (examples[place].example_id,)) for name, place in places.items()]
    assert sorted((f.kind, f.examples) for f in report) == sorted(wanted)
    names = {example.example_id: Path(example.target_path).stem for example in examples}
    for f in report:
        assert f"example {names[f.examples[0]]!r} ({f.examples[0][:8]}…)" in f.message
        assert repr(f.examples[0]) in f.call
        assert not f.rows


def test_a_faulty_file_is_named_for_each_role_and_shown_in_a_notebook(tmp_path: Path, clean: list[Row]) -> None:
    gone = str(tmp_path / "<gone>.png")
    report = lint([*clean, (gone, gone, gone)])
    assert kinds(report) == ["missing_file"] * 3
    for role, finding in zip(("source", "target", "truth"), report, strict=True):
        assert f"its {role}" in finding.message
        assert gone in finding.message
    shown = report._repr_html_()
    assert f"3 findings in {len(clean) + 1} examples" in shown
    assert "&lt;gone&gt;.png" in shown
    assert "<gone>" not in shown
    many = lint([(f"{number}.png",) * 3 for number in range(12)])
    assert f"and {len(many) - 30} more" in many._repr_html_()
    assert "0 findings in 8 examples" in lint(clean)._repr_html_()


def test_what_is_out_of_bounds_is_unreadable_and_the_limits_are_those_of_the_engine(
    tmp_path: Path, clean: list[Row]
) -> None:
    inside = [triple(tmp_path / "inside", seed) for seed in range(ENOUGH)]
    limits = ImageLimits(root=tmp_path / "inside")
    assert not lint(inside, limits=limits)
    rows = [*inside, with_file(inside[0], 0, clean[0][0])]
    finding = only(lint(rows, limits=limits))
    assert (finding.kind, finding.rows) == ("unreadable_file", (ENOUGH,))
    small = manager_of(inside, engine_factory=TrainingEngine.using(brightness_only, limits=limits))
    assert kinds(small.lint(rows[-1:])) == ["unreadable_file"]


def brightness_only(output: Image, truth: Image) -> float:
    return 1.0 - abs(float(output.mean()) - float(truth.mean())) / 255.0


def test_lack_of_memory_is_a_finding(clean: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, *_args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(sketching, "read_thumbnail", read)
    report = lint(clean[:1])
    assert kinds(report) == ["unreadable_file"] * 3 + ["few_examples"]
    assert "memory ran out" in report.findings[0].message


def test_a_row_that_raises_is_a_finding(clean: list[Row]) -> None:
    class Hostile(Sequence[str]):
        def __getitem__(self, index: Any) -> Any:
            raise RuntimeError("not for you")

        def __len__(self) -> int:
            return 3

    finding = only(lint([*clean, Hostile()]))
    assert finding.kind == "unusable_row"
    assert "raised RuntimeError" in finding.message


# --- files that changed since they were added -------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> TrainingManager:
    """A manager of clean triples whose files may be changed."""
    return manager_of([triple(tmp_path / "copied", seed) for seed in range(ENOUGH + 1)])


def paths_of(example: TrainingExample) -> tuple[Path, Path, Path]:
    return Path(example.source_path), Path(example.target_path), Path(example.ground_truth_path)


@pytest.mark.parametrize("role", range(3))
def test_a_file_that_was_overwritten_is_found_by_its_contents_and_taken_by_the_call(
    role: int, copied: TrainingManager
) -> None:
    example = copied.data_manager.get_all_examples()[3]
    path = paths_of(example)[role]
    known = (example.known_files.source, example.known_files.target, example.known_files.ground_truth)[role]
    image = read_image(path)
    image[0, 0, 0] ^= 1
    save(path, image)
    finding = only(copied.lint())
    assert (finding.kind, finding.examples) == ("changed_file", (example.example_id,))
    assert all(part in finding.message for part in (repr(str(path)), known.sha256[:8], "64×48 pixels"))
    exec(finding.call, {"manager": copied})
    assert not copied.lint()
    assert copied.data_manager.get_dataset_stats()["total_examples"] == ENOUGH + 1


def test_a_truth_that_has_changed_its_size_is_not_offered_again(copied: TrainingManager) -> None:
    example = copied.data_manager.get_all_examples()[3]
    path = paths_of(example)[2]
    save(path, read_image(path)[:-4])
    calls = {finding.kind: finding.call for finding in copied.lint()}
    assert calls["changed_file"] == f"manager.replace_ground_truth({example.example_id!r}, 'PATH')"


def test_a_file_that_was_cut_off_after_it_was_added_is_unreadable(copied: TrainingManager) -> None:
    example = copied.data_manager.get_all_examples()[3]
    path = paths_of(example)[2]
    path.write_bytes(path.read_bytes()[:-40])
    finding = only(copied.lint())
    assert (finding.kind, finding.examples) == ("unreadable_file", (example.example_id,))
    exec(finding.call, {"manager": copied})
    assert not copied.lint()


def test_moved_files_are_missing_until_they_are_linked_again(copied: TrainingManager, tmp_path: Path) -> None:
    path = paths_of(copied.data_manager.get_all_examples()[3])[0]
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "moved.png")
    finding = only(copied.lint())
    assert finding.kind == "missing_file"
    assert finding.call == "manager.relink('FOLDER')"
    exec(finding.call.replace("FOLDER", str(tmp_path / "elsewhere")), {"manager": copied})
    assert not copied.lint()


def bare(example: TrainingExample, **changes: Any) -> TrainingExample:
    """Return an example as an application of its own would have stored it: nothing is known of the files."""
    return attrs.evolve(example, files=None, **changes)


def test_an_example_of_which_no_contents_were_kept_is_looked_at_like_the_others(
    clean: list[Row], tmp_path: Path
) -> None:
    manager = manager_of(clean)
    first = manager.data_manager.get_all_examples()[0]
    small = str(save(tmp_path / "small.png", scene(3, 24, 32)))
    manager.data_manager.add_examples(
        [
            bare(first, example_id="same"),
            bare(first, example_id="small", ground_truth_path=small),
            bare(first, example_id="nameless", source_path="a\0b"),
        ]
    )
    report = manager.lint()
    found = {(f.kind, f.examples) for f in report if f.kind != "contradiction"}
    assert found == {
        ("duplicate", (first.example_id, "same")),
        ("size_mismatch", ("small",)),
        ("unreadable_file", ("nameless",)),
        ("unrelated_truth", ("small",)),
    }
    assert [(f.kind, f.rows, f.examples) for f in manager.lint(clean[:1])] == [
        ("duplicate", (0,), (first.example_id, "same"))
    ]


# --- duplicates -------------------------------------------------------------------------------------------------------


def copies(folder: Path, row: Row, change: Callable[[Image], Image] = lambda image: image, ending: str = ".png") -> Row:
    folder.mkdir(exist_ok=True)
    return tuple(str(save(folder / f"{role}{ending}", change(read_image(row[role])))) for role in range(3))


def slightly_larger(image: Image) -> Image:
    return np.asarray(cv2.resize(image, (SIZE[1] + 1, SIZE[0] + 1), interpolation=cv2.INTER_CUBIC), np.uint8)


REPEATS: dict[str, tuple[LintKind, Plant]] = {
    "paths": ("duplicate", lambda _folder, row: row),
    "bytes": ("duplicate", copies),
    "JPEG": ("near_duplicate", lambda folder, row: copies(folder, row, ending=".jpg")),
    "BMP": ("near_duplicate", lambda folder, row: copies(folder, row, ending=".bmp")),
    "brighter": ("near_duplicate", lambda folder, row: copies(folder, row, lambda image: brighter(image, 1))),
    "resized": ("near_duplicate", lambda folder, row: copies(folder, row, slightly_larger)),
    "doubled": (
        "near_duplicate",
        lambda folder, row: copies(folder, row, lambda i: np.kron(i, np.ones((2, 2, 1), "u1"))),
    ),
    "noisy": ("near_duplicate", lambda folder, row: copies(folder, row, lambda image: noisy(image, 2.0))),
}


def repeated(folder: Path, clean: list[Row]) -> list[Row]:
    """Repeat the first clean triples, each in another way."""
    return [plant(folder / str(n), clean[n]) for n, (_kind, plant) in enumerate(REPEATS.values())]


def test_repeated_candidates_are_found(tmp_path: Path, clean: list[Row]) -> None:
    report = lint([*clean, *repeated(tmp_path, clean)])
    kinds_found = {finding.rows: finding.kind for finding in report}
    wanted = {(number, ENOUGH + number): kind for number, (kind, _plant) in enumerate(REPEATS.values())}
    assert kinds_found == wanted
    for finding in report:
        first, again = finding.rows
        assert finding.call == f"rows[{again}] = None"
        assert finding.removable == ((again,) if finding.kind == "duplicate" else ())
        assert repr(clean[first][2]) in finding.message


def test_candidates_that_repeat_stored_examples_are_found(tmp_path: Path, clean: list[Row]) -> None:
    manager = manager_of(clean)
    stored = [example.example_id for example in manager.data_manager.get_all_examples()]
    report = manager.lint([*repeated(tmp_path, clean), triple(tmp_path, 200)])
    found = {(finding.kind, finding.examples, finding.rows) for finding in report}
    assert found == {(kind, (stored[n],), (n,)) for n, (kind, _plant) in enumerate(REPEATS.values())}
    assert {finding.call for finding in report} == {f"rows[{n}] = None" for n in range(len(REPEATS))}


def test_repeated_examples_in_the_store_are_found_and_go_with_the_call(tmp_path: Path, clean: list[Row]) -> None:
    manager = manager_of(clean)
    examples = manager.data_manager.get_all_examples()
    again = manager.add_training_examples(repeated(tmp_path, clean))
    report = manager.lint()
    wanted = {
        (kind, (first.example_id, second.example_id))
        for (kind, _plant), first, second in zip(REPEATS.values(), examples, again, strict=False)
    }
    assert {(finding.kind, finding.examples) for finding in report} == wanted
    for finding in report:
        exec(finding.call, {"manager": manager})
    assert not manager.lint()
    assert manager.data_manager.get_all_examples() == examples


def test_copies_of_a_near_duplicate_are_told_apart_from_it(tmp_path: Path, clean: list[Row]) -> None:
    again = copies(tmp_path, clean[4], ending=".jpg")
    report = lint([*clean, again, again])
    assert [(finding.kind, finding.rows) for finding in report] == [
        ("duplicate", (8, 9)),
        ("near_duplicate", (4, 8)),
    ]


def test_removable_examples_can_go_without_a_change_of_what_was_learned(clean: list[Row]) -> None:
    manager = manager_of([*clean, clean[4]])
    manager.train(epochs=2, validation_split=0.0, verbose=False)
    weights = manager.weight_learner.get_all_weights()
    [example_id] = only(manager.lint()).removable
    manager.remove_training_example(str(example_id))
    assert manager.weight_learner.get_all_weights() == weights


def test_duplicates_with_metadata_of_their_own_are_for_somebody_to_look_at(clean: list[Row]) -> None:
    rows = [*clean, (*clean[4], {"style": "film"}), (*clean[4], {})]
    finding = only(lint(rows))
    assert finding.rows == (4, ENOUGH, ENOUGH + 1)
    assert finding.removable == (ENOUGH + 1,)
    assert finding.call == f"rows[{ENOUGH}] = None\nrows[{ENOUGH + 1}] = None"


def test_versions_of_one_triple_are_one_group_even_where_the_outermost_are_far_apart(
    tmp_path: Path, clean: list[Row]
) -> None:
    versions = [
        copies(tmp_path / str(levels), clean[4], lambda image, levels=levels: brighter(image, levels))  # type: ignore[misc]
        for levels in (2, 4, 6)
    ]
    assert only(lint([*clean, versions[2], versions[0], versions[1]])).rows == (4, 8, 9, 10)
    assert only(lint([*clean, versions[2], versions[0]])).rows == (4, 9)


def test_a_triple_of_which_one_picture_is_another_is_no_near_duplicate(tmp_path: Path, clean: list[Row]) -> None:
    again = copies(tmp_path, clean[4], ending=".jpg")
    assert kinds(lint([*clean, with_file(again, 0, clean[5][0])])) == []


def test_a_picture_of_another_shape_is_no_near_duplicate(tmp_path: Path, clean: list[Row]) -> None:
    def squeeze(image: Image) -> Image:
        return np.asarray(cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA), np.uint8)

    assert not lint([*clean, copies(tmp_path, clean[4], squeeze)])


def test_examples_that_share_target_and_truth_are_told_once_for_all(tmp_path: Path, clean: list[Row]) -> None:
    shared = [(str(save(tmp_path / f"{n}.png", scene(700 + n))), *clean[n][1:]) for n in range(5)]
    finding = only(lint([*clean, *shared]))
    assert (finding.kind, finding.severity) == ("shared_result", "info")
    assert set(finding.rows) == {*range(5), *range(8, 13)}
    assert finding.message.startswith("5 groups with the same target and truth")
    assert finding.message.endswith(" and 2 more groups.")
    assert finding.call == ""
    manager = manager_of([*clean, shared[0]])
    [finding] = manager.lint()
    assert finding.kind == "shared_result"
    assert set(only(manager.lint(shared[1:2])).rows) == {0}


def test_two_truths_for_the_same_source_and_target_contradict_each_other(tmp_path: Path, clean: list[Row]) -> None:
    other = with_picture(tmp_path, clean[4], 2, brighter(picture_of(clean[4], 1), -20))
    finding = only(lint([*clean, other]))
    assert (finding.kind, finding.rows) == ("contradiction", (4, 8))
    assert finding.call == "rows[4] = None"
    manager = manager_of(clean)
    finding = only(manager.lint([other]))
    assert (finding.rows, finding.call, len(finding.examples)) == ((0,), "rows[0] = None", 1)
    newest = manager.add_training_example(*other)
    exec(only(manager.lint()).call, {"manager": manager})
    assert not manager.lint()
    assert manager.data_manager.get_example(newest.example_id) == newest


def test_what_is_wrong_among_stored_examples_is_left_out_where_candidates_are_asked_about(
    tmp_path: Path, clean: list[Row]
) -> None:
    manager = manager_of([*clean, clean[0], swap(tmp_path, clean[1])])
    assert kinds(manager.lint()) == ["swapped", "duplicate"]
    assert not manager.lint([triple(tmp_path, 200)])
    assert not manager.lint([])
    assert only(manager.lint([clean[0]])).call == "rows[0] = None"


def test_many_labels_are_cut_short(clean: list[Row]) -> None:
    finding = only(lint([*clean, *clean[:1] * 5]))
    assert len(finding.rows) == 6
    assert finding.message.startswith("rows[0], rows[8], rows[9] and 3 more have the same three files")


# --- truths that the ensemble made ------------------------------------------------------------------------------------


def evaluated(clean: list[Row], truth: Callable[[Image], Image], folder: Path, **settings: Any) -> TrainingManager:
    """Return a manager of clean triples and one with the given truth, on all of which the workers were run."""
    manager = manager_of([*clean, made_by(folder, truth)], **settings)
    manager.validate()
    return manager


def made_by(folder: Path, truth: Callable[[Image], Image], seed: int = 800, ending: str = ".png") -> Row:
    row = triple(folder, seed)
    return with_picture(folder, row, 2, truth(picture_of(row, 1)), ending)


def newest(manager: TrainingManager) -> str:
    return manager.data_manager.get_all_examples(1)[0].example_id


def only_ensemble(manager: TrainingManager) -> LintFinding:
    [finding] = manager.lint().of_kind("truth_is_ensemble_output")
    return finding


def test_a_truth_that_a_worker_made_is_found(tmp_path: Path, clean: list[Row]) -> None:
    manager = manager_of([*clean, made_by(tmp_path, lambda target: brighter(target, 60), ending=".jpg")])
    assert not manager.lint()  # nobody was run yet
    manager.validate()
    finding = only(manager.lint())
    assert (finding.kind, finding.examples) == ("truth_is_worker_output", (newest(manager),))
    assert "worker 'bright'" in finding.message
    better = save(tmp_path / "better.png", brighter(read_image(tmp_path / "target_800.png"), 30))
    exec(finding.call.replace("PATH", str(better)), {"manager": manager})
    assert not manager.lint()


def test_a_truth_that_the_ensemble_made_is_found_with_present_past_and_equal_shares(
    tmp_path: Path, clean: list[Row]
) -> None:
    rows = [with_picture(tmp_path, clean[0], 2, brighter(picture_of(clean[0], 1), 55))]
    mixture = FixedShares("a mixture", {"bright": 0.6, "dark": 0.4})
    factory = functools.partial(TrainingEngine, blend_solver=mixture)
    manager = manager_of([*clean, *rows], learner=BayesianWeightLearner(alpha=1.0), engine_factory=factory)
    manager.train(num_examples=3, validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_blend_weights()["bright"] == pytest.approx(0.6)
    target = read_image(clean[1][1])
    answer = manager.predict(clean[1][0], target).image
    manager.add_training_example(*clean[1][:2], str(save(tmp_path / "answer.png", answer)))
    manager.validate()
    assert "with its present shares" in only_ensemble(manager).message
    manager.reset_weights()
    past = only_ensemble(manager)
    assert past.examples == (newest(manager),)
    assert "of training session" in past.message
    equal = blend({"a": brighter(target, 60), "b": brighter(target, -40)}, {"a": 0.5, "b": 0.5})
    manager.add_training_example(*clean[1][:2], str(save(tmp_path / "equal.jpg", equal)))
    manager.validate()
    assert manager.lint().of_kind("truth_is_ensemble_output")[1].examples == (newest(manager),)


def test_a_truth_that_is_the_target_is_not_reported_as_some_workers_too(tmp_path: Path, clean: list[Row]) -> None:
    pool = pool_of(FunctionWorker("unchanged", lambda _source, target: target, version="1"), brightening("bright", 80))
    manager = evaluated(clean, lambda target: target, tmp_path, pool=pool)
    assert only(manager.lint()).kind == "truth_is_target"
    near = pool_of(brightening("near", 1), brightening("bright", 80))
    manager = evaluated(clean, lambda target: brighter(target, 1), tmp_path, pool=near)
    assert only(manager.lint()).kind == "truth_is_worker_output"  # nearer than the target


def test_what_an_earlier_version_of_a_worker_made_is_found_as_well(tmp_path: Path, clean: list[Row]) -> None:
    storage = InMemoryStore()
    old = pool_of(brightening("bright", 60), brightening("dark", -40))
    evaluated(clean, lambda target: brighter(target, 60), tmp_path, pool=old, storage=storage)
    new = usual_manager(pool=pool_of(brightening("bright", 80), brightening("dark", -40)), storage=storage)
    assert only(new.lint()).kind == "truth_is_worker_output"
    new.validate()
    assert only(new.lint()).kind == "truth_is_worker_output"


def test_blends_are_made_of_the_present_versions(tmp_path: Path, clean: list[Row]) -> None:
    storage = InMemoryStore()
    old = pool_of(brightening("bright", 60), brightening("dark", -40))
    manager = evaluated(clean, lambda target: brighter(target, 20), tmp_path, pool=old, storage=storage)
    assert not manager.lint()
    new = usual_manager(pool=pool_of(brightening("bright", 80), brightening("dark", -40)), storage=storage)
    new.validate()
    assert only(new.lint()).kind == "truth_is_ensemble_output"


def test_damaged_previews_are_like_none(tmp_path: Path, clean: list[Row]) -> None:
    manager = evaluated(clean, lambda target: brighter(target, 60), tmp_path)
    digest = manager.data_manager.get_all_examples(1)[0].known_files.digest
    names = list(manager.data_manager.load_previews([digest])[digest])
    manager.data_manager.save_evaluations([], [Preview(digest, name, b"no picture") for name in names if "@" in name])
    report = manager.lint()
    assert not report
    assert report.num_compared == ENOUGH
    manager.data_manager.save_evaluations([], [Preview(digest, name, b"no picture") for name in names])
    assert manager.lint().num_compared == ENOUGH


def test_workers_are_run_on_candidates_only_if_that_is_asked_for(tmp_path: Path, clean: list[Row]) -> None:
    calls: list[str] = []
    manager = manager_of(clean, pool=pool_of(brightening("bright", 60, calls), failing("broken")))
    candidates = [made_by(tmp_path, lambda target: brighter(target, 60)), triple(tmp_path, 801)]
    assert not manager.lint(candidates)
    assert not calls
    report = manager.lint(candidates, run_workers=True)
    assert (only(report).kind, only(report).rows, report.num_compared) == ("truth_is_worker_output", (0,), 2)
    assert calls == ["bright"] * 2
    assert manager.data_manager.get_dataset_stats()["processed_examples"] == 0


def test_workers_are_run_on_stored_examples_that_have_no_previews_if_that_is_asked_for(
    tmp_path: Path, clean: list[Row]
) -> None:
    calls: list[str] = []
    manager = manager_of(clean, pool=pool_of(brightening("bright", 60, calls)))
    manager.validate()
    manager.add_training_example(*made_by(tmp_path, lambda target: brighter(target, 60)))
    calls.clear()
    report = manager.lint(run_workers=True)
    assert (only(report).kind, only(report).examples) == ("truth_is_worker_output", (newest(manager),))
    assert calls == ["bright"] * (1 + 3)  # three are evaluated anew, whatever is stored


def test_nobody_is_run_where_the_pictures_do_not_belong_together(tmp_path: Path, clean: list[Row]) -> None:
    calls: list[str] = []
    manager = manager_of(clean, pool=pool_of(brightening("bright", 60, calls)))
    rows = [
        plant(tmp_path, triple(tmp_path, 802))
        for name in ("larger truth", "flat truth")
        for plant in [CANDIDATES[name][1]]
    ]
    assert kinds(manager.lint(rows[:1], run_workers=True)) == ["size_mismatch"]
    assert kinds(manager.lint(rows[1:], run_workers=True)) == ["flat_picture"]
    assert not calls


def test_workers_that_all_fail_leave_a_truth_uncompared(tmp_path: Path, clean: list[Row]) -> None:
    for pool in (pool_of(failing("broken")), pool_of(), HostPool({})):
        manager = manager_of(clean, pool=pool)
        report = manager.lint([triple(tmp_path, 803)], run_workers=True)
        assert not report
        assert report.num_compared == 0


def test_a_picture_that_changes_before_the_workers_are_run_is_left_uncompared(
    tmp_path: Path, clean: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = triple(tmp_path, 804)

    def read(path: str, *args: Any) -> Any:
        seen = sketch_and_more(path, *args)
        if path == row[2]:
            save(Path(path), scene(1))
        return seen

    sketch_and_more = sketching.read_thumbnail
    monkeypatch.setattr(sketching, "read_thumbnail", read)
    report = manager_of(clean).lint([row], run_workers=True)
    assert (len(report), report.num_compared) == (0, 0)


def test_a_hosts_own_pool_is_asked_too(tmp_path: Path, clean: list[Row]) -> None:
    pool = HostPool({"bright": lambda _s, t: brighter(t, 60), "dark": lambda _s, t: brighter(t, -40)})
    manager = manager_of(clean, pool=pool)
    candidates = [
        made_by(tmp_path, lambda target: brighter(target, 60)),
        made_by(tmp_path / "equal", lambda target: brighter(target, 10), 805),
    ]
    found = manager.lint(candidates, run_workers=True)
    assert [(f.kind, f.rows) for f in found] == [
        ("truth_is_worker_output", (0,)),
        ("truth_is_ensemble_output", (1,)),
    ]
    pool.version = "1"  # type: ignore[attr-defined]
    manager.add_training_examples(candidates)
    manager.validate()
    requests = len(pool.requests)
    assert kinds(manager.lint(run_workers=True)) == ["truth_is_worker_output", "truth_is_ensemble_output"]
    assert len(pool.requests) == requests + 3  # see whether it repeats itself


# --- padding, exchanged channels, workers that do not repeat themselves -----------------------------------------------

Change: TypeAlias = Callable[[Image], Image]


def letterboxed(image: Image) -> Image:
    framed = np.zeros_like(image)
    framed[6:-6] = image[6:-6]
    return framed


def framed(image: Image) -> Image:
    framed = np.full_like(image, 240)
    framed[1:-1, 1:-1] = image[1:-1, 1:-1]
    return framed


def masked(image: Image) -> Image:
    down, across = np.mgrid[-1 : 1 : SIZE[0] * 1j, -1 : 1 : SIZE[1] * 1j]
    return np.where((down**2 + across**2 > 0.3)[..., np.newaxis], np.uint8(255), image)


def holed(image: Image) -> Image:
    """Fill a part in the middle, which touches no edge."""
    image = image.copy()
    image[10:30, 10:40] = 9
    return image


def changed(folder: Path, row: Row, change: Change, *roles: int) -> Row:
    for role in roles:
        row = with_picture(folder, row, role, change(picture_of(row, role)))
    return row


@pytest.mark.parametrize("change", [letterboxed, framed, masked, holed])
@pytest.mark.parametrize("is_stored", [True, False])
def test_one_colour_that_fills_much_of_target_and_truth_is_told_once_with_the_metric_for_it(
    tmp_path: Path, clean: list[Row], change: Change, is_stored: bool
) -> None:
    rows = [*clean[2:], *(changed(tmp_path / str(n), row, change, 1, 2) for n, row in enumerate(clean[:2]))]
    report = manager_of(rows).lint() if is_stored else lint(rows)
    finding = only(report)
    assert (finding.kind, finding.severity) == ("constant_area", "info")
    assert len(finding.examples) + len(finding.rows) == 2
    share = (change(scene(1)) == change(scene(3))).all(axis=2).mean()
    told = re.search(r"one colour, .*, fills (\d+)% to (\d+)% of target and truth", finding.message)
    assert told is not None
    assert [int(percent) / 100 for percent in told.groups()] == pytest.approx([share, share], abs=0.02)
    assert "GuideSimilarity(ignore_border=True)" in finding.remedy


def test_nothing_is_said_of_padding_where_the_metric_leaves_it_out_or_only_one_picture_has_it(
    tmp_path: Path, clean: list[Row]
) -> None:
    one_sided = [*clean[1:], changed(tmp_path, clean[0], letterboxed, 1)]
    assert not lint(one_sided)
    bordered = [*clean[1:], changed(tmp_path, clean[0], masked, 1, 2)]
    told = GuideSimilarity(ignore_border=True)
    for metric in (told, CombinedMetric([(1, told), (1, StructuralSimilarity())])):
        assert not manager_of(bordered, engine_factory=TrainingEngine.using(metric)).lint()
    assert manager_of(bordered, engine_factory=TrainingEngine.using(StructuralSimilarity())).lint()


def test_a_truth_that_differs_from_a_workers_image_outside_the_padding_is_no_workers(
    tmp_path: Path, clean: list[Row]
) -> None:
    """Over the whole picture the difference is small."""
    near = FunctionWorker("near", lambda _s, t: np.where(t == 255, t, t + np.uint8(4)).astype(np.uint8), version="1")
    row = triple(tmp_path, 820)
    target = masked(picture_of(row, 1))
    for levels, expected in ((10, ["constant_area"]), (4, ["truth_is_worker_output", "constant_area"])):
        truth = np.where(target == 255, target, target + np.uint8(levels)).astype(np.uint8)
        assert np.abs(truth.astype(int) - near.process({"source": target, "target": target})).mean() < 1.9
        pictures = with_picture(tmp_path / str(levels), with_picture(tmp_path / str(levels), row, 1, target), 2, truth)
        manager = manager_of([*clean, pictures], pool=pool_of(near))
        manager.validate()
        assert kinds(manager.lint()) == expected


def test_products_on_white_are_no_near_duplicates(tmp_path: Path, clean: list[Row]) -> None:
    row = changed(tmp_path, triple(tmp_path, 821), masked, 0, 1, 2)
    darker = changed(tmp_path / "other", row, lambda image: np.where(image < 255, image - np.uint8(4), image), 0, 1, 2)
    first, second = (mean_cells(picture_of(each, 1)) for each in (row, darker))
    assert color_difference(first, second) < NEAR_COLORS
    assert kinds(lint([*clean, row, darker])) == ["constant_area"]


def in_other_colors(path: str, profile: bytes) -> None:
    with PIL.Image.open(path) as picture:
        picture.load()
    picture.save(path, icc_profile=profile)


def test_pictures_in_colours_of_different_spaces_are_told_once_for_each_way(tmp_path: Path, clean: list[Row]) -> None:
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    other = srgb.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    planted = [triple(tmp_path / str(number), 830 + number) for number in range(4)]
    for row, roles in zip(planted, ((0,), (0,), (0, 1, 2), ()), strict=True):
        for role in roles:
            in_other_colors(row[role], other)
    in_other_colors(planted[3][2], srgb)  # which is what is taken for granted where nothing is stated
    finding = only(lint([*clean, *planted]))
    assert (finding.kind, finding.severity, finding.rows) == ("profiles_differ", "info", (ENOUGH, ENOUGH + 1))
    assert re.search("source 'sRGB.*', target sRGB, or none that says otherwise, truth sRGB", finding.message)


@pytest.mark.parametrize("is_exchanged", [False, True])
def test_a_truth_in_rgb_is_found_by_what_workers_make_where_the_target_is_grey(
    tmp_path: Path, clean: list[Row], is_exchanged: bool
) -> None:
    colored = scene(1)
    painter = FunctionWorker("painter", lambda _s, _t: brighter(colored, 20), version="1")
    row = with_picture(tmp_path, clean[0], 1, cv2.cvtColor(colored, cv2.COLOR_BGR2GRAY)[..., np.newaxis].repeat(3, 2))
    row = with_picture(tmp_path, row, 2, colored[..., ::-1] if is_exchanged else colored)
    manager = manager_of([*clean[1:], row], pool=pool_of(painter))
    assert not manager.lint()
    manager.validate()
    found = manager.lint().of_kind("truth_channels_swapped")
    assert [finding.examples for finding in found] == ([(newest(manager),)] if is_exchanged else [])


@pytest.mark.parametrize(("count", "is_found"), [(2, False), (3, True)])
def test_a_worker_that_answers_in_rgb_is_found_in_three_examples(clean: list[Row], count: int, is_found: bool) -> None:
    exchanging = FunctionWorker("exchanging", lambda _s, t: brighter(t, 20)[..., ::-1], version="1")
    manager = manager_of(clean[:count], pool=pool_of(exchanging, brightening("bright", 60)))
    manager.validate()
    found = manager.lint().of_kind("worker_channels_swapped")
    assert [finding.message.startswith("Red and blue of what worker 'exchanging' makes") for finding in found] == (
        [True] if is_found else []
    )
    if is_found:
        assert f"in {count} of {count} examples" in found[0].message
        assert "FunctionWorker('exchanging', function, color='rgb')" in found[0].remedy


def test_a_worker_that_does_not_repeat_itself_is_found_when_workers_are_run(tmp_path: Path, clean: list[Row]) -> None:
    later = tmp_path / "later"  # a file, since what a function closes over is part of its fingerprint

    def wavering(_source: Image, target: Image) -> Image:
        return brighter(target, 20 if later.exists() else 50)

    pool = pool_of(FunctionWorker("wavering", wavering, version="1"), brightening("bright", 60))
    manager = manager_of(clean, pool=pool)
    assert not manager.lint(run_workers=True).of_kind("unrepeatable_worker")  # there is nothing to compare with
    manager.validate()
    assert not manager.lint(run_workers=True).of_kind("unrepeatable_worker")
    later.touch()
    before = manager.data_manager.load_evaluations([e.files.digest for e in manager.data_manager.iterate_examples()])  # type: ignore[union-attr]
    assert not manager.lint().of_kind("unrepeatable_worker")
    [finding] = manager.lint(run_workers=True).of_kind("unrepeatable_worker")
    assert finding.message.startswith(
        "Worker 'wavering' scores otherwise than before on the same pictures, by up to 0."
    )
    assert len(finding.examples) == 3
    after = manager.data_manager.load_evaluations([e.files.digest for e in manager.data_manager.iterate_examples()])  # type: ignore[union-attr]
    assert sorted(before, key=repr) == sorted(after, key=repr)  # nothing is changed


# --- groups and numbers -----------------------------------------------------------------------------------------------


def styled(many: list[Row], *styles: Any) -> list[Row]:
    return [(*row, {} if style is None else {"style": style}) for row, style in zip(many, styles, strict=False)]


def test_small_groups_are_found_and_named(many: list[Row]) -> None:
    rows = styled(many, *["film"] * 12, *["sunset"] * 7, *["neon"])
    report = lint(rows, group_by="style")
    assert [(f.kind, f.rows) for f in report] == [("tiny_group", tuple(range(12, 19))), ("tiny_group", (19,))]
    assert report.findings[0].message.startswith("the group 'sunset' of 'style' has 7 different examples; 8 are needed")
    assert not lint(rows)
    assert not lint(rows, group_by="style", min_group=1)
    assert len(manager_of(rows).lint(group_by="style", min_group=13)) == 3


def test_a_group_counts_stored_examples_and_candidates_but_no_contents_twice(many: list[Row], tmp_path: Path) -> None:
    manager = manager_of(styled(many, *["film"] * 12, *["sunset"] * 7, *["neon"]))
    new = [(*triple(tmp_path, 200), {"style": "sunset"})]
    assert not manager.lint(new, group_by="style")
    again = styled(many[12:], "sunset")
    assert kinds(manager.lint(again, group_by="style")) == ["duplicate", "tiny_group"]


def test_groups_are_those_of_a_training(many: list[Row]) -> None:
    rows = styled(many, *[7, 7.0, "7"] * 2, *[False] * 5, *["film"] * 9)
    report = lint(rows, group_by="style")
    assert [f.rows for f in report] == [tuple(range(6)), tuple(range(6, 11))]


def test_examples_without_a_value_that_makes_a_group_belong_to_none(many: list[Row]) -> None:
    rows = [*styled(many[:16], *["film"] * 16), *styled(many[16:19], None, None, ["a", 1]), many[19]]
    finding = only(lint(rows, group_by="style"))
    assert (finding.kind, finding.rows) == ("tiny_group", (16, 17, 18, 19))
    assert finding.message.startswith("4 of 20 examples have no group")


def test_few_examples_are_told(clean: list[Row], tmp_path: Path) -> None:
    assert kinds(lint([])) == ["few_examples"]
    assert only(lint(clean[1:])).kind == "few_examples"
    assert only(manager_of(clean[:3]).lint()).severity == "info"
    broken = with_file(clean[0], 0, tmp_path / "nowhere.png")
    assert kinds(lint([*clean[1:], broken])) == ["missing_file", "few_examples"]
    assert kinds(lint([*clean[1:], clean[1]])) == ["duplicate", "few_examples"]
    assert not manager_of(clean[:5]).lint(clean[5:])


def test_twenty_examples_are_no_longer_few(many: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linting, "MIN_EXAMPLES", MIN_EXAMPLES)
    assert not lint(many)
    assert only(lint(many[1:])).message.startswith("19 different usable examples in all; with fewer than 20,")


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_lists_the_worst_first_counts_and_is_ready_for_json(tmp_path: Path, clean: list[Row]) -> None:
    rows = [*clean, clean[0], swap(tmp_path, clean[1]), with_file(clean[2], 0, "gone.png")]
    rows.append((str(save(tmp_path / "other.png", scene(77))), *clean[3][1:]))
    report = lint(rows)
    assert kinds(report) == ["missing_file", "swapped", "duplicate", "shared_result"]
    assert report.of_kind("swapped") == report.of_severity("error")[1:] == [report.findings[1]]
    first = "error: missing_file: rows[10]: its source cannot be used: 'gone.png'"
    assert str(report).splitlines()[0].startswith(first)
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["counts"] == {"error": 2, "warning": 1, "info": 1}
    assert (document["num_examples"], document["num_compared"]) == (12, 0)
    assert document["findings"][2]["removable"] == [8]
    assert document["findings"][0]["severity"] == "error"
    assert pickle.loads(pickle.dumps(report)) == report


def test_every_kind_has_a_severity_and_a_line_in_the_table() -> None:
    import tsm_training.lint as room  # noqa: PLC0415 - its docstring

    rows = [line.split() for line in (room.__doc__ or "").splitlines()]
    listed = {row[0]: row[1] for row in rows if len(row) > 2 and row[0] in SEVERITIES}
    assert listed == dict(SEVERITIES)
    assert list(listed) == list(SEVERITIES)


def test_a_call_that_exchanges_source_and_target_puts_it_right(tmp_path: Path, clean: list[Row]) -> None:
    manager = manager_of(clean)
    manager.add_training_example(*swap(tmp_path, triple(tmp_path, 210)), {"style": "film"})
    exec(only(manager.lint()).call, {"manager": manager})
    assert not manager.lint()
    assert manager.data_manager.get_all_examples(1)[0].metadata == {"style": "film"}
    rows = [*clean, swap(tmp_path, (*triple(tmp_path, 211), {"style": "film"}))]
    exec(only(lint(rows)).call, {"rows": rows})
    assert not lint(rows)
    assert rows[-1][3] == {"style": "film"}


# --- how it is done ---------------------------------------------------------------------------------------------------


def paths_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the paths of the images that lint reads from now on are added."""
    read: list[str] = []
    original = sketching.read_thumbnail

    def counting(path: str, *args: Any) -> Any:
        read.append(path)
        return original(path, *args)

    monkeypatch.setattr(sketching, "read_thumbnail", counting)
    return read


def test_every_picture_is_read_once(clean: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    read = paths_read(monkeypatch)
    manager = manager_of(clean)
    manager.lint()
    assert sorted(read) == sorted(itertools.chain(*clean))
    read.clear()
    lint([(clean[0][0], *row[1:]) for row in clean])  # one source for all
    assert read.count(clean[0][0]) == 1


def test_stored_pictures_of_other_shapes_than_the_candidates_are_not_read(
    tmp_path: Path, clean: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_of(clean)
    wide = [str(save(tmp_path / f"{n}.png", scene(n, 40, 80))) for n in (920, 921)]
    truth = str(save(tmp_path / "truth.png", brighter(read_image(wide[1]), 30)))
    read = paths_read(monkeypatch)
    assert not manager.lint([(*wide, truth)])
    assert read == [*wide, truth]


def test_a_store_opened_for_reading_only_is_looked_at_like_another(tmp_path: Path, clean: list[Row]) -> None:
    path = tmp_path / "examples.db"
    with manager_of([*clean, made_by(tmp_path, lambda t: brighter(t, 60))], db_path=path) as manager:
        manager.train(verbose=False)
    before = path.read_bytes()
    with contextlib.closing(TrainingDataManager(path, read_only=True)) as store:
        viewer = usual_manager(storage=store)
        weights = viewer.weight_learner.get_all_weights()
        assert kinds(viewer.lint()) == ["truth_is_worker_output"]
        assert kinds(viewer.lint(clean[:1], run_workers=True)) == ["duplicate"]
        assert viewer.weight_learner.get_all_weights() == weights
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 5),
        ("rows", "pictures"),
        ("rows", {"a": "b"}),
        ("group_by", 5),
        ("min_group", 0),
        ("min_group", True),
        ("run_workers", 1),
        ("limits", 5),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(name: str, value: Any) -> None:
    for look, unknown in ((usual_manager().lint, "limits"), (lint, "run_workers")):
        if name != unknown:
            with pytest.raises(InvalidArgumentError) as caught:
                look(**{"rows": [], name: value})
            assert (caught.value.argument, caught.value.seen) == (name, value)


# --- laws -------------------------------------------------------------------------------------------------------------


few_inputs = settings(max_examples=15)  # each writes and reads files

ENTRIES = st.one_of(st.text(max_size=5), st.none(), st.integers(), st.binary(max_size=5), st.lists(st.text(max_size=3)))


@few_inputs
@given(
    rows=st.lists(st.one_of(ENTRIES, st.lists(ENTRIES, max_size=5), st.tuples(ENTRIES, ENTRIES, ENTRIES)), max_size=5)
)
def test_no_row_whatever_makes_it_raise(rows: list[Any]) -> None:
    report = lint(rows)
    assert report.num_examples == len(rows)
    assert {number for finding in report for number in finding.rows} == set(range(len(rows)))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


PNG = cv2.imencode(".png", scene(1))[1].tobytes()
JPEG = cv2.imencode(".jpg", scene(1))[1].tobytes()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """Files of random bytes, or pictures with some bytes changed or missing."""
    content = bytearray(draw(st.sampled_from([PNG, JPEG, draw(st.binary(max_size=200))])))
    for place in draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        if content:
            content[place] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))]) if draw(st.booleans()) else bytes(content)


@few_inputs
@given(files=st.tuples(damaged_files(), damaged_files(), damaged_files()))
def test_no_file_whatever_makes_it_raise(scratch: Path, files: tuple[bytes, bytes, bytes]) -> None:
    paths = [scratch / f"{number}.png" for number in range(3)]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    report = lint([tuple(paths), tuple(paths)])
    assert report.num_examples == 2
    assert set(kinds(report)) <= set(SEVERITIES)


def sketched(scratch: Path, image: Image) -> Sketch:
    return sketch_of(str(save(scratch / "sketched.png", image)), LIMITS)


seeds = st.integers(0, 10_000)


@few_inputs
@given(first=seeds, second=seeds)
def test_agreement_is_symmetric_and_complete_with_itself_and_its_negative(
    scratch: Path, first: int, second: int
) -> None:
    a, b = sketched(scratch, scene(first)), sketched(scratch, scene(second, 30, 90))
    assert agreement(a, b) == pytest.approx(agreement(b, a), abs=1e-6)
    assert 0.0 <= agreement(a, b) <= 1.0
    assert agreement(a, a) == pytest.approx(1.0, abs=1e-5)
    assert agreement(a, sketched(scratch, 255 - scene(first))) > 0.95


def test_a_picture_without_edges_agrees_with_nothing_and_is_flat(scratch: Path) -> None:
    flat = sketched(scratch, FLAT)
    assert flat.is_flat
    assert agreement(flat, flat) == 0.0
    assert agreement(flat, sketched(scratch, scene(5))) == 0.0
    assert not sketched(scratch, scene(5)).is_flat


@few_inputs
@given(seed=seeds, share=st.floats(0, 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_the_cells_of_a_blend_are_the_blend_of_the_cells(seed: int, share: float, height: int, width: int) -> None:
    first, second = scene(seed, height, width), scene(seed + 1, height, width)
    blended = blend({"a": first, "b": second}, {"a": share, "b": 1.0 - share})
    expected = share * mean_cells(first) + (1.0 - share) * mean_cells(second)
    assert np.abs(mean_cells(blended) - expected).max() <= 0.51


@given(levels=st.tuples(*[st.floats(-9, 9)] * 3))
def test_colors_differ_by_the_mean_over_channels_and_over_brightness(levels: tuple[float, float, float]) -> None:
    cells = mean_cells(scene(3))
    shifted = cells + np.array(levels, np.float32)
    brightness = abs(0.114 * levels[0] + 0.587 * levels[1] + 0.299 * levels[2])
    expected = (sum(map(abs, levels)) / 3 + brightness) / 2
    assert float(color_difference(cells, shifted)) == pytest.approx(expected, abs=1e-3)
    many = np.stack([cells, cells]), np.stack([shifted, cells])
    assert color_difference(*many).tolist() == [float(color_difference(cells, shifted)), 0.0]


@few_inputs
@given(seed=seeds, height=st.integers(8, 200), width=st.integers(8, 200))
def test_cells_are_means_over_equal_areas(seed: int, height: int, width: int) -> None:
    image = scene(seed, height, width)
    expected = cv2.resize(image.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
    assert np.abs(mean_cells(image) - expected).max() < 0.01
    assert mean_cells(image).mean() == pytest.approx(image.mean(), abs=0.01)


@few_inputs
@given(seed=seeds, quality=st.integers(75, 100))
def test_a_picture_saved_anew_or_shifted_by_a_level_is_the_same(scratch: Path, seed: int, quality: int) -> None:
    image = scene(seed, 180, 240)
    _done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    (scratch / "again.jpg").write_bytes(encoded.tobytes())
    original = sketched(scratch, image)
    assert are_same(original, sketch_of(str(scratch / "again.jpg"), LIMITS))
    assert are_same(original, sketched(scratch, brighter(image, 1)))
    assert not are_same(original, sketched(scratch, scene(seed + 1, 180, 240)))


def test_a_large_jpeg_is_sketched_like_the_picture_that_it_holds(scratch: Path) -> None:
    image = scene(5, 540, 700)
    (scratch / "large.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    assert are_same(sketch_of(str(scratch / "large.jpg"), LIMITS), sketched(scratch, image))


@settings(max_examples=25)
@given(seed=seeds, count=st.integers(0, 25), centres=st.integers(1, 6), at_once=st.integers(1, 30))
def test_groups_are_the_connected_parts_of_what_comparing_each_with_each_finds(
    seed: int, count: int, centres: int, at_once: int
) -> None:
    items = [an_item(number, seed, centres) for number in range(count)]
    wanted: list[set[int]] = []
    for number, item in enumerate(items):
        near = [group for group in wanted if any(are_near(items[other], item) for other in group)]
        wanted = [group for group in wanted if group not in near] + [{number}.union(*near)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsm_training.lint.duplicates._BLOCK", at_once)
        patch.setattr("tsm_training.lint.duplicates._PAIRS_AT_ONCE", at_once)
        found = {finding.rows for finding in duplicate_findings(items) if finding.kind == "near_duplicate"}
    assert found == {tuple(sorted(group)) for group in wanted if len(group) > 1}


def an_item(number: int, seed: int, centres: int) -> Item:
    """Return a candidate that is one of some pictures, each changed in some bits of its hash and in its colours."""
    rng = np.random.default_rng([seed, number])
    common = np.random.default_rng([seed, int(rng.integers(centres))])
    sketches = []
    for role in range(3):
        bits = np.where(common.random(64) < 0.5, 1, -1)
        bits[rng.choice(64, rng.integers(0, 7), replace=False)] *= -1
        cells = common.uniform(0, 255, (8, 8, 3)) + rng.uniform(0, 4)
        info = ImageInfo(f"{number} {role}", 1, 400 + int(rng.integers(0, 20)), 300, "PNG")
        none = np.zeros(0, np.float32)
        sketches.append(Sketch(info, 30.0, cells.astype(np.float32), bits.astype(np.float32), (none, none), 0.0, 0.0))
    files = ExampleFiles(*(PictureFile(s.info.sha256, 1, *s.size) for s in sketches))
    return Item(number, ("a", "b", "c"), None, files, (sketches[0], sketches[1], sketches[2]))


def are_near(first: Item, second: Item) -> bool:
    pairs = list(zip(first.sketches or (), second.sketches or (), strict=True))
    return all(
        (a.bits != b.bits).sum() <= NEAR_BITS
        and color_difference(a.cells, b.cells) <= NEAR_COLORS
        and abs(np.log(a.size[0] / a.size[1]) - np.log(b.size[0] / b.size[1])) <= NEAR_SHAPE
        for a, b in pairs
    )
