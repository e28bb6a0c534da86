"""What dataset lint must find, and leave alone, among real photographs under film looks; see test_real_data."""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest

from support import brighter, pool_of
from tsm_training import (
    BayesianWeightLearner,
    Image,
    LintReport,
    TrainingEngine,
    TrainingManager,
    create_color_transfer_workers,
)
from tsm_training.images import read_image
from tsm_training.lint import LintKind, lint

REAL_DATA = os.environ.get("TSM_TRAINING_REAL_DATA", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL_DATA, reason="TSM_TRAINING_REAL_DATA names no folder of real photographs"),
]

Row: TypeAlias = tuple[str, str, str, dict[str, Any]]

COUNT = 60
WORKERS = ("histogram_matching", "linear_map_rgb", "standard_transfer")
STRONG_LOOKS = ("kodak_trix_400_bw", "polaroid_px70_warm", "polaroid_px680_cold", "kodak_elite_100_xpro", "amatorka")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("real")
    builder = Path(REAL_DATA) / "build_examples.py"
    subprocess.run([sys.executable, str(builder), str(folder), "--count", str(COUNT), "--size", "256"], check=True)
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        return [
            (*(str(folder / line[f"{role}_path"]) for role in ("source", "target", "ground_truth")), line)  # type: ignore[misc]
            for line in csv.DictReader(file)
        ]


def look(row: Row) -> str:
    return str(row[3]["style"])


class Planter:
    """Writes the files of planted faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def save(self, image: Image, ending: str = ".png", *settings: int) -> str:
        done, encoded = cv2.imencode(ending, image, settings)
        assert done
        return self.write(encoded.tobytes(), ending)

    def write(self, content: bytes, ending: str = ".jpg") -> str:
        self.count += 1
        path = self.folder / f"planted_{self.count}{ending}"
        path.write_bytes(content)
        return str(path)

    def jpeg(self, image: Image, quality: int) -> str:
        return self.save(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)

    def copy(self, path: str) -> str:
        return self.write(Path(path).read_bytes())


@pytest.fixture
def planter(tmp_path: Path) -> Planter:
    return Planter(tmp_path)


def resized(image: Image, height: int, width: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def pictures(row: Row) -> tuple[Image, Image, Image]:
    source, target, truth = (read_image(path) for path in row[:3])
    return source, target, truth


# --- candidates -------------------------------------------------------------------------------------------------------


def put(rows: list[Row], number: int, role: int, path: str) -> None:
    row: list[Any] = list(rows[number])
    row[role] = path
    rows[number] = tuple(row)  # type: ignore[assignment]


def wrong_truths(rows: list[Row], planter: Planter) -> dict[int, str]:
    """Give some rows truths that are none."""
    rng = np.random.default_rng(0)
    source, target, truth = pictures(rows[8])
    height, width = truth.shape[:2]
    put(rows, 8, 2, planter.save(resized(truth, height + 1, width + 1)))
    put(rows, 9, 2, planter.save(pictures(rows[9])[2][:, :-1]))
    put(rows, 10, 2, planter.jpeg(resized(pictures(rows[10])[2], 96, 128), 95))
    put(rows, 11, 2, planter.copy(rows[11][1]))
    put(rows, 12, 2, planter.jpeg(pictures(rows[12])[1], 75))
    put(rows, 13, 2, planter.save(brighter(pictures(rows[13])[1], 1)))
    put(rows, 14, 1, rows[14][0])
    put(rows, 14, 2, planter.copy(rows[14][0]))
    for number in (15, 16):  # the truth of another target
        _source, target, _truth = pictures(rows[number])
        shown = {rows[number][3][name] for name in ("source_photo", "target_photo")}
        other = next(row for row in rows[20:] if row[3]["target_photo"] not in shown)
        put(rows, number, 2, planter.save(resized(pictures(other)[2], *target.shape[:2])))
    noise = rng.integers(0, 256, pictures(rows[17])[1].shape, np.uint8)
    put(rows, 17, 2, planter.save(noise))
    source, target, _truth = pictures(rows[18])
    put(rows, 18, 2, planter.jpeg(resized(source, *target.shape[:2]), 85))
    return (
        dict.fromkeys((8, 9, 10), "size_mismatch")
        | dict.fromkeys((11, 12, 13), "truth_is_target")
        | {14: "source_is_target", 18: "truth_is_source"}
        | dict.fromkeys((15, 16, 17), "unrelated_truth")
    )


def flat_pictures(rows: list[Row], planter: Planter) -> dict[int, str]:
    rng = np.random.default_rng(1)
    source, _target, _truth = pictures(rows[19])
    put(rows, 19, 0, planter.save(np.full_like(source, 90)))
    source, target, _truth = pictures(rows[20])
    cap = np.clip(8 + rng.normal(0, 2, target.shape), 0, 255).astype(np.uint8)  # a lens cap
    put(rows, 20, 1, planter.jpeg(cap, 90))
    _source, target, _truth = pictures(rows[21])
    faint = np.linspace(200, 208, target.shape[1]).astype(np.uint8)
    put(rows, 21, 2, planter.save(np.broadcast_to(faint[None, :, None], target.shape).copy()))
    return dict.fromkeys((19, 20, 21), "flat_picture")


def test_every_fault_of_a_single_candidate_is_found_and_nothing_else(rows: list[Row], planter: Planter) -> None:
    planted = list(rows)
    wanted = wrong_truths(planted, planter) | flat_pictures(planted, planter)
    report = lint(planted)
    found = {(number, f.kind) for f in report if f.severity != "info" for number in f.rows}
    # Source and target of one picture, and the truth that picture too: all of it is said.
    assert found == set(wanted.items()) | {(14, "truth_is_source"), (14, "truth_is_target")}


def test_source_and_target_are_found_swapped_under_every_look(rows: list[Row]) -> None:
    planted = list(rows)
    swapped = set(range(0, COUNT, 5)) | {n for n, row in enumerate(rows) if look(row) in STRONG_LOOKS}
    assert len({look(rows[number]) for number in swapped}) >= 10
    for number in swapped:
        source, target, truth, metadata = rows[number]
        planted[number] = (target, source, truth, metadata)
    report = lint(planted)
    found = [(f.kind, *f.rows) for f in report if f.severity != "info"]
    assert sorted(found) == [("swapped", number) for number in sorted(swapped)]


def repeated(rows: list[Row], planter: Planter) -> dict[int, tuple[int, LintKind]]:
    """Append rows that repeat others, and return their places with what they repeat and how."""
    wanted: dict[int, tuple[int, LintKind]] = {}

    def append(number: int, kind: LintKind, *paths: str) -> None:
        wanted[len(rows)] = (number, kind)
        source, target, truth = paths
        rows.append((source, target, truth, rows[number][3]))

    for number in (1, 30):
        append(number, "duplicate", *(planter.copy(path) for path in rows[number][:3]))
    append(3, "duplicate", *rows[3][:3])
    append(4, "near_duplicate", *(planter.save(image) for image in pictures(rows[4])))
    append(5, "near_duplicate", *(planter.jpeg(image, 75) for image in pictures(rows[5])))
    append(6, "near_duplicate", *(planter.jpeg(image, 50) for image in pictures(rows[6])))
    append(7, "near_duplicate", *(planter.save(brighter(image, 1)) for image in pictures(rows[7])))
    append(8, "near_duplicate", *(planter.save(brighter(image, -1)) for image in pictures(rows[8])))
    for number, change in ((9, 1), (10, -1)):
        sizes = [(image, image.shape[0] + change, image.shape[1] + change) for image in pictures(rows[number])]
        append(number, "near_duplicate", *(planter.save(resized(*size)) for size in sizes))
    doubled = [resized(image, 2 * image.shape[0], 2 * image.shape[1]) for image in pictures(rows[11])]
    append(11, "near_duplicate", *(planter.jpeg(image, 90) for image in doubled))
    append(12, "near_duplicate", *rows[12][:2], planter.jpeg(pictures(rows[12])[2], 75))
    append(13, "near_duplicate", planter.save(pictures(rows[13])[0][1:, 1:]), *rows[13][1:3])
    return wanted


def test_every_repeated_candidate_is_found_and_other_looks_of_its_photographs_are_not(
    rows: list[Row], planter: Planter
) -> None:
    planted = list(rows)
    wanted = repeated(planted, planter)
    report = lint(planted)
    found = {f.rows: f.kind for f in report if f.severity != "info"}
    assert found == {(number, place): kind for place, (number, kind) in wanted.items()}
    shared = [row for f in report if f.kind == "shared_result" for row in f.rows]
    assert not set(shared) & set(range(COUNT, len(planted)))


def test_two_truths_for_one_request_are_a_contradiction(rows: list[Row]) -> None:
    planted, wanted = list(rows), {}
    for number in (0, 20, 40):
        source, target, _truth, metadata = rows[number]
        photo = metadata["target_photo"]
        other = next(row for row in rows if row[3]["target_photo"] == photo and look(row) != look(rows[number]))
        wanted[number, len(planted)] = "contradiction"
        planted.append((source, target, other[2], metadata))
    assert {f.rows: f.kind for f in lint(planted) if f.severity != "info"} == wanted


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Iterator[TrainingManager]:
    """A store of the clean triples, copied, on which a few workers were trained."""
    planter = Planter(tmp_path_factory.mktemp("stored"))
    pool = pool_of(*(w for w in create_color_transfer_workers() if w.worker_id in WORKERS))
    factory = functools.partial(TrainingEngine, blend_solver="least_squares")  # so that the answer is a mixture
    learner = BayesianWeightLearner(alpha=0.3)
    with TrainingManager(pool, learner, planter.folder / "real.db", engine_factory=factory) as manager:
        manager.add_training_examples(
            [(planter.copy(source), planter.copy(target), planter.copy(truth), m) for source, target, truth, m in rows]
        )
        manager.train(epochs=5, validation_split=0.0, verbose=False)
        yield manager


def found_in(report: LintReport) -> dict[str, str]:
    return {example_id: f.kind for f in report if f.severity != "info" for example_id in f.examples}


def test_a_clean_store_is_compared_with_the_ensemble_and_found_clean(manager: TrainingManager) -> None:
    report = manager.lint()
    assert report.num_compared == COUNT
    assert not found_in(report)


def self_made(manager: TrainingManager, planter: Planter) -> dict[str, str]:
    """Add examples whose truths the workers or the ensemble made; return their ids with what must be found."""
    examples = manager.data_manager.get_all_examples()
    wanted: dict[str, str] = {}

    def add(number: int, truth: str, kind: LintKind) -> None:
        example = manager.add_training_example(examples[number].source_path, examples[number].target_path, truth)
        wanted[example.example_id] = kind

    def prediction(number: int) -> Any:
        return manager.predict(examples[number].source_path, examples[number].target_path, run_all=True)

    for number, worker_id in enumerate(WORKERS, 10):
        image = prediction(number).results[worker_id].value
        add(number, planter.save(image), "truth_is_worker_output")
        add(number + 5, planter.jpeg(prediction(number + 5).results[worker_id].value, 95), "truth_is_worker_output")
        add(number + 10, planter.jpeg(prediction(number + 10).results[worker_id].value, 80), "truth_is_worker_output")
    for number in (40, 41, 42):
        add(number, planter.save(prediction(number).image), "truth_is_ensemble_output")
    for number in (43, 44, 45):
        add(number, planter.jpeg(prediction(number).image, 95), "truth_is_ensemble_output")
    for number in (46, 47):
        images = [result.value.astype(np.float64) for result in prediction(number).results.values()]
        equal = np.rint(np.mean(images, axis=0)).astype(np.uint8)
        add(number, planter.jpeg(equal, 90), "truth_is_ensemble_output")
    add(48, examples[48].target_path, "truth_is_target")
    add(49, planter.jpeg(read_image(examples[49].target_path), 75), "truth_is_target")
    manager.validate(list(wanted))
    return wanted


def test_truths_that_the_ensemble_made_are_found_even_after_it_has_learned_something_else(
    manager: TrainingManager, planter: Planter
) -> None:
    wanted = self_made(manager, planter)
    try:
        new = [e for e in manager.data_manager.get_all_examples() if e.example_id in wanted]
        candidates = [(e.source_path, e.target_path, e.ground_truth_path) for e in new]
        assert_found(manager.lint(), wanted)
        before = manager.weight_learner.get_blend_weights()
        manager.train(epochs=5, validation_split=0.0, verbose=False)
        assert manager.weight_learner.get_blend_weights() != before
        assert_found(manager.lint(), wanted)
    finally:
        for example_id in wanted:
            manager.remove_training_example(example_id)
    report = manager.lint(candidates, run_workers=True)
    assert report.num_compared == len(candidates)
    found = {f.rows[0]: f.kind for f in report if f.kind.startswith("truth_is")}
    assert found == dict(enumerate(wanted.values()))


def assert_found(report: LintReport, wanted: Mapping[str, str]) -> None:
    own = {i: f.kind for f in report if f.kind.startswith("truth_is") for i in f.examples}
    assert own == wanted
    # The same requests with other truths contradict what was there before.
    assert {f.kind for f in report if f.severity != "info"} == {*wanted.values(), "contradiction"}
