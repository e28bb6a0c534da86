"""The facade: what a user meets first, and every mistake that he can make with it."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from attrs.exceptions import FrozenInstanceError

import tsm_training
from support import (
    HostPool,
    brightening,
    brighter,
    learned_by,
    manager_with,
    picture,
    pool_of,
    put_examples,
    save,
    save_triple,
    usual_pool,
)
from tsm_training import (
    BayesianWeightLearner,
    ExampleEvidence,
    FunctionWorker,
    InMemoryStore,
    Outcome,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    WorkerPool,
)
from tsm_training.errors import (
    ExampleNotFoundError,
    ImageFormatError,
    ImageNotFoundError,
    ImageSizeMismatchError,
    ImageUnreadableError,
    InvalidArgumentError,
    InvalidMetadataError,
    LearnerConflictError,
    ManifestError,
    NoExamplesError,
    StorageClosedError,
    StorageError,
    WeightsFileError,
)
from tsm_training.images import read_image
from tsm_training.plots import plot_workers
from tsm_training.report import contact_sheet

# --- adding ---------------------------------------------------------------------------------------------------------


def test_an_added_example_is_stored_with_absolute_paths_and_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_triple(tmp_path, 0)
    manager = manager_with(tmp_path, examples=0)
    monkeypatch.chdir(tmp_path)
    example = manager.add_training_example(
        "source_0.png", "target_0.png", "ground_truth_0.png", metadata={"style": "sunset", "n": [1, 2.5, None]}
    )
    monkeypatch.chdir("/")
    assert manager.data_manager.get_all_examples() == [example]
    assert example.source_path == str(tmp_path / "source_0.png")
    assert example.files is not None
    assert (example.files.target.width, example.files.target.height) == (16, 12)
    assert example.created_at.tzinfo is UTC
    assert example.metadata == {"style": "sunset", "n": [1, 2.5, None]}
    assert example.to_reference() == {"example_id": example.example_id}
    assert example.to_dict()["has_results"] is False
    assert manager.train(validation_split=0.0, verbose=False)["session"]["num_examples"] == 1


@pytest.mark.parametrize("role", [0, 1, 2])
def test_every_role_is_checked_before_anything_is_stored(tmp_path: Path, role: int) -> None:
    manager = manager_with(tmp_path, examples=0)
    (tmp_path / "text.png").write_text("<html>404</html>", encoding="utf-8")
    (tmp_path / "empty.png").write_bytes(b"")
    good = list(save_triple(tmp_path, 0))
    cut = save(tmp_path / "cut.jpg", picture(3, 60, 60))
    cut.write_bytes(cut.read_bytes()[:-400])
    faults: list[tuple[Any, type[Exception]]] = [
        (tmp_path / "missing.png", ImageNotFoundError),
        (tmp_path, ImageUnreadableError),
        (tmp_path / "text.png", ImageFormatError),
        (tmp_path / "empty.png", ImageFormatError),
        (cut, ImageFormatError),
        (None, InvalidArgumentError),
        ("", InvalidArgumentError),
        (3, InvalidArgumentError),
        ("a\0b.png", InvalidArgumentError),
        (b"bytes.png", InvalidArgumentError),
        ("half a pair \ud800.png", InvalidArgumentError),
    ]
    for bad, error in faults:
        row: list[Any] = list(good)
        row[role] = bad
        with pytest.raises(error):
            manager.add_training_example(*row)
    assert manager.data_manager.get_all_examples() == []


def test_target_and_ground_truth_must_agree_in_size(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    source, target, _truth = save_triple(tmp_path, 0)
    other = save(tmp_path / "other.png", picture(7, 9, 5))
    with pytest.raises(ImageSizeMismatchError, match="got 16×12 and 5×9"):
        manager.add_training_example(source, target, other)
    manager.add_training_example(other, target, target)
    with pytest.raises(ImageSizeMismatchError, match=r"width×height\); the source has the ground truth.s size: are"):
        manager.add_training_example(target, other, target)


@pytest.mark.parametrize("bad", [{"a": float("nan")}, "text"])
def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path, bad: Any) -> None:
    manager = manager_with(tmp_path, examples=0)
    with pytest.raises(InvalidMetadataError, match="metadata"):
        manager.add_training_example(*save_triple(tmp_path, 0), metadata=bad)
    assert manager.data_manager.get_dataset_stats()["total_examples"] == 0


def test_many_examples_are_added_together_or_not_at_all(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    rows: list[Any] = [save_triple(tmp_path, seed) for seed in range(3)]
    rows.insert(2, (tmp_path / "missing.png", *rows[0][1:]))
    with pytest.raises(ImageNotFoundError) as caught:
        manager.add_training_examples(rows)
    assert caught.value.__notes__ == [f"in row 3 of 4 (target {str(rows[0][1])!r}); no row was added"]
    with pytest.raises(InvalidArgumentError, match="row") as odd:
        manager.add_training_examples([*rows[:2], ("only one",)])
    assert odd.value.__notes__ == ["in row 3 of 3; no row was added"]
    missing = [tmp_path / f"missing {number}.png" for number in range(3)]
    with pytest.raises(ImageNotFoundError, match="missing 0") as all_of_them:
        manager.add_training_examples([(rows[0][0], *missing[:2]), rows[1], ("only one",), (*rows[0][:2], missing[2])])
    _first, *others = all_of_them.value.__notes__
    assert others == [
        f"row 1 is faulty too: {str(missing[1])!r}: there is no such file",
        "row 3 is faulty too: row must be a tuple (source path, target path, ground truth path) or the same with "
        "metadata, got ('only one',)",
        f"row 4 is faulty too: {str(missing[2])!r}: there is no such file",
    ]
    assert manager.data_manager.get_all_examples() == []
    del rows[2]
    rows[0] = (*rows[0], {"first": True})
    added = manager.add_training_examples(rows)
    assert manager.data_manager.get_all_examples() == added
    assert added[0].metadata == {"first": True}
    assert manager.add_training_examples([]) == []


@pytest.mark.parametrize("row", [(), ("a", "b"), ("a", "b", "c", None, "e")])
def test_a_row_has_three_or_four_entries(tmp_path: Path, row: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="row must be a tuple"):
        manager_with(tmp_path, examples=0).add_training_examples([row])


def test_a_folder_of_triples(tmp_path: Path) -> None:
    for seed in range(3):
        for folder, path in zip(("sources", "targets", "truths"), save_triple(tmp_path, seed), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            path.rename(tmp_path / folder / f"photo {seed}.png")
    manager = manager_with(tmp_path, examples=0)
    added = manager.add_folder(tmp_path)
    assert [example.metadata["name"] for example in added] == ["photo 0", "photo 1", "photo 2"]
    (tmp_path / "truths" / "photo 1.png").unlink()
    with pytest.raises(ManifestError, match=r"photo 1\.png: has no ground truth of the same name"):
        manager.add_folder(tmp_path)
    assert len(manager.data_manager.get_all_examples()) == 3


def test_a_manifest_of_triples(tmp_path: Path) -> None:
    paths = save_triple(tmp_path, 0)
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source_path", "target_path", "ground_truth_path", "style"])
        writer.writerow([*(path.name for path in paths), "sunset"])
    (example,) = manager_with(tmp_path, examples=0).add_manifest(tmp_path / "list.csv")
    assert example.metadata == {"style": "sunset"}
    assert example.target_path == str(paths[1])


# --- removing, replacing, finding again -----------------------------------------------------------------------------


def test_removing_an_example_forgets_exactly_what_was_learned_from_it(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=4)
    never_had_it = manager_with(tmp_path, examples=3)
    manager.train(epochs=2, validation_split=0.0, verbose=False)
    never_had_it.train(epochs=2, validation_split=0.0, verbose=False)
    manager.remove_training_example(manager.data_manager.get_all_examples()[3].example_id)
    assert manager.weight_learner.get_all_weights() == never_had_it.weight_learner.get_all_weights()
    assert len(manager.data_manager.get_all_sessions()) == 1
    with pytest.raises(ExampleNotFoundError):
        manager.remove_training_example("no such id")


def test_removing_one_of_two_equal_examples_forgets_nothing(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    again = manager.add_training_example(*save_triple(tmp_path, 0))
    manager.train(validation_split=0.0, verbose=False)
    before = manager.weight_learner.get_all_weights()
    manager.remove_training_example(again.example_id)
    assert manager.weight_learner.get_all_weights() == before


def test_removing_before_training_is_only_removing(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    manager.remove_training_example(manager.data_manager.get_all_examples()[0].example_id)
    bare = attrs.evolve(manager.data_manager.get_all_examples()[0], files=None)
    put_examples(manager.data_manager, bare)
    manager.remove_training_example(bare.example_id)
    assert manager.data_manager.get_all_examples() == []


def test_a_replaced_ground_truth_replaces_what_was_learned(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    fresh = manager_with(tmp_path, examples=2)
    example = manager.data_manager.get_all_examples()[2]
    manager.train(validation_split=0.0, verbose=False)
    truth = save(tmp_path / "better.png", brighter(read_image(example.target_path), -58))
    replaced = manager.replace_ground_truth(example.example_id, truth)
    assert replaced.ground_truth_path == str(truth)
    assert replaced.worker_results is None
    assert manager.data_manager.get_example(example.example_id) == replaced
    fresh.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_all_weights() == fresh.weight_learner.get_all_weights()
    with pytest.raises(ImageSizeMismatchError):
        manager.replace_ground_truth(example.example_id, save(tmp_path / "small.png", picture(1, 4, 4)))
    with pytest.raises(ExampleNotFoundError):
        manager.replace_ground_truth("no such id", truth)


def test_a_ground_truth_replaced_during_a_training_stays_replaced(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    example = manager.data_manager.get_all_examples()[0]
    truth = save(tmp_path / "better.png", brighter(read_image(example.target_path), 10))
    replaced: list[int] = []

    def meanwhile(_progress: Any) -> None:
        if not replaced:
            replaced.append(1)
            manager.replace_ground_truth(example.example_id, truth)

    manager.train(validation_split=0.0, verbose=False, on_progress=meanwhile)
    assert manager.data_manager.get_example(example.example_id).ground_truth_path == str(truth)


def test_an_example_removed_during_a_training_stays_removed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    removed = [manager.data_manager.get_all_examples()[0].example_id]

    def meanwhile(_progress: Any) -> None:
        if removed:
            manager.remove_training_example(removed.pop())

    manager.train(validation_split=0.0, verbose=False, on_progress=meanwhile)
    assert len(manager.data_manager.get_all_examples()) == 2


@attrs.frozen(eq=False)
class Overtaken(InMemoryStore):
    """A store from which somebody else removes an example just when a training looks whether all are there."""

    removals: list[str] = attrs.field(factory=list)

    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        if self.removals:
            self.remove_example(self.removals.pop(), lambda _held: None)
        return super().get_examples(example_ids)


def test_an_example_removed_just_before_a_training_is_left_out_of_it(tmp_path: Path) -> None:
    store = Overtaken()
    manager = manager_with(tmp_path, storage=store)
    examples = store.get_all_examples()
    store.removals.extend([examples[0].example_id, examples[1].example_id])
    session = manager.train(epochs=1, validation_split=0, verbose=False)["session"]
    assert session["num_examples"] == 4
    assert store.get_session(session["session_id"]).training_ids == tuple(e.example_id for e in examples[2:])
    assert learned_by(manager).rows.keys() == {example.known_files.digest for example in examples[2:]}
    store.removals.extend(example.example_id for example in examples[2:])
    with pytest.raises(NoExamplesError):
        manager.train(validation_split=0, verbose=False)


def test_what_a_trials_manager_takes_away_is_forgotten_by_what_is_stored_too(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    manager.train(validation_split=0.0, verbose=False)
    trial = manager.with_learner(manager.weight_learner.fork())
    first, second = manager.data_manager.get_all_examples()
    trial.replace_ground_truth(first.example_id, first.target_path)
    trial.remove_training_example(second.example_id)
    for each in (trial, manager):
        assert (learned_by(each).rows, learned_by(each).num_examples) == ({}, 0)


def test_moved_files_are_found_again_by_their_contents(tmp_path: Path) -> None:
    manager = manager_with(tmp_path / "old", examples=2)
    before = manager.data_manager.get_all_examples()
    (tmp_path / "old").rename(tmp_path / "new")
    save(tmp_path / "new" / "decoy.png", picture(50))
    changed = manager.relink(tmp_path)
    assert [e.example_id for e in changed] == [e.example_id for e in before]
    assert manager.data_manager.get_all_examples() == changed
    assert manager.relink(tmp_path) == []
    assert manager.train(validation_split=0.0, verbose=False)["session"]["num_examples"] == 2
    with pytest.raises(InvalidArgumentError, match="root must be an existing folder"):
        manager.relink(tmp_path / "nowhere")


def test_examples_are_listed_as_the_guide_lists_them(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    manager.train(validation_split=0.0, verbose=False)
    listed = manager.list_examples(limit=2)
    assert listed["total"] == 3
    newest = manager.data_manager.get_all_examples()[1:]
    assert [entry["example_id"] for entry in listed["examples"]] == [e.example_id for e in newest]
    assert all(entry["has_results"] for entry in listed["examples"])
    assert json.dumps(listed, allow_nan=False)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "bad"),
    [("epochs", bad) for bad in (0, -3, True, 1.5, "2", None)]
    + [("num_examples", bad) for bad in (0, -1, True, 1.5, "2 OFFSET 1")]
    + [("validation_split", bad) for bad in (1, 1.0, 1.5, -0.2, float("nan"), "0.2", None, True)]
    + [("seed", bad) for bad in (1.5, "a", None, True)],
)
def test_arguments_of_train_are_checked_before_any_work(tmp_path: Path, argument: str, bad: Any) -> None:
    manager = manager_with(tmp_path, examples=2)
    with pytest.raises(InvalidArgumentError, match=f"{argument} must be .*, got "):
        manager.train(**{"verbose": False, argument: bad})
    assert manager.data_manager.get_all_sessions() == []


def test_num_examples_keeps_the_newest(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=5)
    results = manager.train(num_examples=2, validation_split=0.0, verbose=False)
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert list(session.training_ids) == [e.example_id for e in manager.data_manager.get_all_examples()[3:]]


def test_the_same_seed_holds_out_the_same_examples(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=5)
    for seed in (0, 0, 1, 2, 3):
        manager.train(validation_split=0.4, verbose=False, seed=seed)
    held_out = [session.validation_ids for session in manager.data_manager.get_all_sessions()]
    assert held_out[0] == held_out[1]
    assert len(set(held_out)) > 1


def test_with_nothing_held_out_the_means_are_none(tmp_path: Path) -> None:
    results = manager_with(tmp_path, examples=1).train(validation_split=0.5, verbose=False)
    assert results["validation"]["num_examples"] == 0
    assert results["validation"]["avg_accuracy"] is None
    assert json.dumps(results, allow_nan=False)


def test_results_are_those_of_the_guide(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    results = manager.train(epochs=2, verbose=False)
    assert set(results) == {"session", "validation"}
    assert set(results["session"]) == {
        "session_id",
        "num_examples",
        "epochs",
        "initial_weights",
        "final_weights",
        "metrics_history",
    }
    assert {"num_examples", "avg_accuracy", "worker_accuracies"} <= set(results["validation"])
    assert set(results["validation"]["worker_accuracies"]["near"]) == {"mean", "std", "min", "max"}


def test_every_column_of_the_guides_tables_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "tsm_training.db"
    with manager_with(tmp_path, db_path=path) as manager:
        manager.train(epochs=2, verbose=False)
        stats = manager.data_manager.get_dataset_stats()
    assert stats == {"total_examples": 6, "processed_examples": 6, "unprocessed_examples": 0, "total_sessions": 1}
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        for table in ("training_sessions", "training_metrics"):
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            assert rows
            assert all(value is not None for row in rows for value in tuple(row))
        examples = connection.execute("SELECT * FROM training_examples").fetchall()
        assert all(row["worker_results"] for row in examples)
        assert sum(row["validation_scores"] is not None for row in examples) == 1
        assert connection.execute("SELECT COUNT(*) FROM training_metrics").fetchone()[0] == 5 * 3
    finally:
        connection.close()


def test_validate_by_ids(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    ids = [example.example_id for example in manager.data_manager.get_all_examples()]
    assert manager.validate(ids[:2])["num_examples"] == 2
    assert manager.validate([ids[0], ids[0]])["num_examples"] == 1
    assert manager.validate(example_ids=None)["num_examples"] == 6
    with pytest.raises(ExampleNotFoundError, match="no training example has the id 'nobody'"):
        manager.validate([ids[0], "nobody"])
    with pytest.raises(NoExamplesError):
        manager.validate([])
    for no_ids in (ids[0], 3, [ids[0], 7]):
        with pytest.raises(InvalidArgumentError, match="example_ids must be a list of ids"):
            manager.validate(no_ids)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="example_ids must be a list of ids"):
            manager.report(tmp_path / "report.html", example_ids=no_ids)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="example_ids must be a list of ids"):
            contact_sheet(manager, no_ids)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="example_ids must be a list of ids"):
            plot_workers(manager, example_ids=no_ids)  # type: ignore[arg-type]
    assert not (tmp_path / "report.html").exists()


def test_predict_takes_files_and_arrays_and_saves(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    manager.train(verbose=False)
    source, target, _truth = save_triple(tmp_path, 40)
    from_files = manager.predict(source, str(target))
    from_arrays = manager.predict(read_image(source), read_image(target))
    assert np.array_equal(from_files.image, from_arrays.image)
    from_files.save(tmp_path / "answer.png")
    assert np.array_equal(read_image(tmp_path / "answer.png"), from_files.image)
    assert sum(from_files.blend_weights.values()) == pytest.approx(1.0)
    assert "<16×12 picture>" in repr(from_files)
    with pytest.raises(InvalidArgumentError, match="path must be a file name that ends with"):
        from_files.save(tmp_path / "answer.gif")
    with pytest.raises(ImageNotFoundError):
        manager.predict(tmp_path / "missing.png", target)


def test_progress_of_workers_is_the_guides_document(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    before = manager.get_training_progress()
    assert before["current_weights"] == {"far": 1.0, "mid": 1.0, "near": 1.0}
    manager.train(verbose=False)
    progress = manager.get_training_progress()
    assert set(progress) == {"dataset_stats", "worker_stats", "current_weights"}
    near = progress["worker_stats"]["near"]
    assert near["current_weight"] == manager.weight_learner.get_weight("near")
    assert near["stats"]["update_count"] == 5
    assert near["stats"]["mean_accuracy"] is not None
    assert json.dumps(progress, allow_nan=False)


# --- weights --------------------------------------------------------------------------------------------------------


def test_exported_weights_come_back_exactly(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    manager.train(epochs=3, verbose=False)
    manager.export_weights(tmp_path / "a.json")
    other = manager_with(tmp_path, examples=0)
    report = other.import_weights(tmp_path / "a.json")
    other.export_weights(tmp_path / "b.json")
    first, second = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.json", "b.json"))
    assert {**first, "exported_at": 0} == {**second, "exported_at": 0}
    assert other.weight_learner.get_all_statistics() == manager.weight_learner.get_all_statistics()
    assert (report.imported, report.dormant, report.missing) == (("far", "mid", "near"), (), ())
    assert report.alpha == 0.15


def test_plain_weights_are_priors(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text('{"weights": {"near": 1.2, "stranger": 0.7}}', encoding="utf-8")
    manager = manager_with(tmp_path)
    report = manager.import_weights(tmp_path / "plain.json")
    assert (report.imported, report.dormant, report.missing) == (("near",), ("stranger",), ("far", "mid"))
    assert manager.weight_learner.get_all_weights() == {"far": 1.0, "mid": 1.0, "near": 1.2, "stranger": 0.7}
    assert manager.weight_learner.get_statistics("near")["prior_weight"] == 1.2
    shares = manager.weight_learner.get_blend_weights(worker_ids=["far", "mid", "near"])
    assert shares["near"] > shares["far"] == shares["mid"]
    assert set(manager.predict(picture(1), picture(2)).blend_weights) <= {"far", "mid", "near"}


WORKERS = ["far", "mid", "near"]


def imported_into(tmp_path: Path, weights: Mapping[str, float], **settings: Any) -> TrainingManager:
    (tmp_path / "bare.json").write_text(json.dumps(weights), encoding="utf-8")
    manager = manager_with(tmp_path, **settings)
    manager.import_weights(tmp_path / "bare.json")
    return manager


def shares_of(manager: TrainingManager) -> dict[str, float]:
    return manager.weight_learner.get_blend_weights(worker_ids=WORKERS)


def test_accuracies_are_brought_to_the_scale_of_weights_and_the_import_says_so(tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text('{"near": 0.81, "stranger": 0.75}', encoding="utf-8")
    manager = manager_with(tmp_path, examples=0)
    with pytest.warns(
        UserWarning, match=r"below 1, .*; they are multiplied by 1\.28205, so that their mean is 1"
    ) as caught:
        report = manager.import_weights(tmp_path / "bare.json")
    assert [each.filename for each in caught] == [__file__]
    assert report.scale == pytest.approx(1 / 0.78)
    assert manager.weight_learner.get_weight("near") == pytest.approx(0.81 / 0.78)


@pytest.mark.parametrize("weights", [{"near": 1.0}, {"near": 0.1, "stranger": 2.0}, {"near": 0.5, "mid": 1.0}])
def test_imported_workers_hold_at_least_half_until_there_is_evidence(tmp_path: Path, weights: dict[str, float]) -> None:
    manager = imported_into(tmp_path, weights)
    shares = shares_of(manager)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert sum(shares[worker_id] for worker_id in weights if worker_id in shares) == pytest.approx(0.5)
    others = {share for worker_id, share in shares.items() if worker_id not in weights}
    assert len(others) == 1
    manager.train(verbose=False)
    trained = shares_of(manager)
    assert trained != shares
    for example in manager.data_manager.get_all_examples():
        manager.remove_training_example(example.example_id)
    assert shares_of(manager) == shares


def test_evidence_decides_alone_even_against_imported_workers(tmp_path: Path) -> None:
    manager = imported_into(tmp_path, {"near": 1.0}, examples=0)
    outcomes = {"near": Outcome(0.2), "mid": Outcome(0.5), "far": Outcome(0.9)}
    manager.weight_learner.observe([ExampleEvidence(str(number), outcomes) for number in range(30)])
    assert shares_of(manager)["far"] > 0.9


def test_imported_workers_that_hold_more_than_half_keep_it(tmp_path: Path) -> None:
    manager = imported_into(tmp_path, {"near": 1.5, "mid": 1.0}, examples=0)
    assert shares_of(manager)["near"] > 0.9


def test_in_a_group_without_evidence_imported_workers_hold_as_much(tmp_path: Path) -> None:
    manager = imported_into(tmp_path, {"near": 1.0}, examples=0)
    learner = manager.weight_learner
    assert learner.shares(learner.state, WORKERS, "warm") == shares_of(manager)


def test_shares_of_imported_workers_outlive_the_process_and_an_export(tmp_path: Path) -> None:
    manager = imported_into(tmp_path, {"near": 1.0}, examples=0, db_path=tmp_path / "a.db")
    expected = shares_of(manager)
    manager.export_weights(tmp_path / "whole.json")
    manager.close()
    with manager_with(tmp_path, examples=0, db_path=tmp_path / "a.db") as again:
        assert shares_of(again) == expected
        again.reset_weights()
        assert shares_of(again) == dict.fromkeys(WORKERS, pytest.approx(1 / 3))
    other = manager_with(tmp_path, examples=0)
    other.import_weights(tmp_path / "whole.json")
    assert shares_of(other) == expected


def test_workers_that_an_earlier_import_named_are_not_taken_for_ours(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    (tmp_path / "first.json").write_text('{"weights": {"near": 1.5, "stranger": 2.0}}', encoding="utf-8")
    manager.import_weights(tmp_path / "first.json")
    (tmp_path / "second.json").write_text('{"weights": {"stranger": 3.0}}', encoding="utf-8")
    with pytest.raises(WeightsFileError, match=r"names none of the workers here \(far, mid, near\)"):
        manager.import_weights(tmp_path / "second.json")
    (tmp_path / "third.json").write_text('{"weights": {"near": 1.2}}', encoding="utf-8")
    report = manager.import_weights(tmp_path / "third.json")
    assert (report.imported, report.dormant, report.missing) == (("near",), (), ("far", "mid"))
    weights = manager.weight_learner.get_all_weights()
    assert (weights["far"], weights["mid"], weights["near"]) == (1.0, 1.0, 1.2)


def test_a_foreign_pool_whose_workers_are_unknown_imports_any(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text('{"weights": {"near": 1.2}}', encoding="utf-8")
    manager = manager_with(tmp_path, examples=0, pool=HostPool({"near": lambda s, t: t}))
    assert manager.import_weights(tmp_path / "plain.json").dormant == ("near",)
    assert manager.weight_learner.get_weight("near") == 1.2


def test_reset_forgets_and_gives_everyone_the_default(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    manager.train(verbose=False)
    manager.reset_weights()
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}
    manager.reset_weights(default_weight=0.8)
    assert set(manager.weight_learner.get_all_weights().values()) == {0.8}
    assert manager.data_manager.load_state(None).rows == {}
    for bad in (0, -1.0, "lots", True, float("inf"), None):
        with pytest.raises(InvalidArgumentError, match="default_weight must be a number above 0"):
            manager.reset_weights(bad)  # type: ignore[arg-type]


# --- frozen, and where state lives ----------------------------------------------------------------------------------


def test_services_are_frozen(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    for service, name in (
        (manager, "weight_learner"),
        (manager.training_engine, "store"),
        (manager.weight_learner, "alpha"),
        (manager.worker_pool, "max_workers"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(service, name, 0.2)


def test_the_host_sees_its_learner_learn(tmp_path: Path) -> None:
    learner = BayesianWeightLearner(alpha=0.15)
    manager = manager_with(tmp_path, learner=learner)
    manager.train(verbose=False)
    assert learner.get_weight("near") > 1.0
    faster = manager.with_learner(learner.with_alpha(0.5))
    faster.train(verbose=False)
    assert learner.get_all_weights() == faster.weight_learner.get_all_weights()
    assert faster.data_manager is manager.data_manager


def test_a_manager_evolves(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    judged = attrs.evolve(manager, engine_factory=TrainingEngine.using(lambda output, truth: 0.25))
    assert judged.data_manager is manager.data_manager
    assert judged.validate()["avg_accuracy"] == 0.25


def test_trials_on_forks_leave_the_stored_weights_alone_until_one_is_adopted(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    manager = manager_with(tmp_path, db_path=path)
    manager.train(verbose=False)
    stored = manager.data_manager.load_state(None)
    weights = manager.weight_learner.get_all_weights()
    trials = []
    for alpha in (0.1, 0.4):
        trial = manager.with_learner(manager.weight_learner.with_alpha(alpha).fork())
        trial.reset_weights()
        trial.train(epochs=3, verbose=False)
        trials.append(trial)
    assert trials[0].weight_learner.get_all_weights() != trials[1].weight_learner.get_all_weights()
    assert manager.weight_learner.get_all_weights() == weights
    assert manager.data_manager.load_state(None) == stored
    assert [session.is_trial for session in manager.data_manager.get_all_sessions()] == [False, True, True]

    adopted = manager.adopt(trials[1].weight_learner)
    winner = trials[1].weight_learner.get_all_weights()
    assert manager.weight_learner.get_all_weights() == winner
    assert adopted.weight_learner.alpha == 0.4
    assert adopted.weight_learner.cell is manager.weight_learner.cell
    manager.close()
    with manager_with(tmp_path, examples=0, db_path=path) as reopened:
        assert reopened.weight_learner.get_all_weights() == winner


# --- restarting -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_process_finds_the_learned_weights(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    with manager_with(tmp_path, db_path=path) as manager:
        manager.train(epochs=2, verbose=False)
        expected = manager.weight_learner.get_all_weights()
    script = (
        "import sys, json; from support import usual_pool; "
        "from tsm_training import BayesianWeightLearner, TrainingManager; "
        "manager = TrainingManager(usual_pool(), BayesianWeightLearner(), sys.argv[1]); "
        "print(json.dumps(manager.weight_learner.get_all_weights())); manager.close()"
    )
    paths = Path(__file__).parent, Path(tsm_training.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert json.loads(output) == expected


def test_training_in_two_sessions_equals_training_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    with manager_with(tmp_path, db_path=path) as manager:
        manager.train(epochs=1, verbose=False)
    with manager_with(tmp_path, examples=0, db_path=path) as manager:
        manager.train(epochs=1, verbose=False)
        in_two = manager.weight_learner.get_all_weights()
    whole = manager_with(tmp_path)
    whole.train(epochs=1, verbose=False)
    whole.train(epochs=1, verbose=False)
    assert in_two == whole.weight_learner.get_all_weights()


def seen(digest: str, **accuracies: float) -> ExampleEvidence:
    return ExampleEvidence(digest, {name: Outcome(value) for name, value in accuracies.items()})


def test_a_conflict_closes_the_database_that_was_opened_for_it(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    with manager_with(tmp_path, db_path=path) as manager:
        manager.train(verbose=False)
    learner = BayesianWeightLearner()
    learner.observe([seen("own", near=0.1, far=0.9)])
    with pytest.raises(LearnerConflictError, match=r"tsm\.db"):
        TrainingManager(usual_pool(), learner, path)
    path.unlink()


def test_what_the_host_observes_while_two_trainings_overlap_is_kept_beside_both(tmp_path: Path) -> None:
    store = InMemoryStore()
    first = manager_with(tmp_path, storage=store)
    first.train(verbose=False)
    second = manager_with(tmp_path, examples=0, storage=store)
    done: list[int] = []

    def meanwhile(_progress: Any) -> None:
        if not done:
            done.append(1)
            first.weight_learner.observe([seen("feedback", near=0.9, far=0.2)])
            second.train(verbose=False)

    first.train(verbose=False, on_progress=meanwhile)
    assert [session.status for session in store.get_all_sessions()] == ["completed"] * 3
    alone = manager_with(tmp_path)
    for _ in range(3):
        alone.train(verbose=False)
    alone.weight_learner.observe([seen("feedback", near=0.9, far=0.2)])
    assert first.weight_learner.get_all_weights() == alone.weight_learner.get_all_weights()
    assert learned_by(first).rows.keys() == learned_by(alone).rows.keys() <= store.load_state(None).rows.keys()


def test_a_direct_change_alone_needs_no_decision(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    manager.train(verbose=False)
    manager.weight_learner.observe([seen("feedback", near=0.9, far=0.2)])
    manager.reset_weights()
    manager.remove_training_example(manager.data_manager.get_all_examples()[0].example_id)
    assert manager.data_manager.load_state(None).rows == {}


def test_predictions_and_reports_catch_up_with_what_another_process_has_learned(tmp_path: Path) -> None:
    store = InMemoryStore()
    first = manager_with(tmp_path, storage=store)
    first.train(verbose=False)
    second = manager_with(tmp_path, examples=0, storage=store)
    second.train(verbose=False)
    assert first.get_training_progress()["current_weights"] == second.weight_learner.get_all_weights()
    second.train(verbose=False)
    first.weight_learner.observe([seen("feedback", near=0.9, far=0.2)])
    own = first.weight_learner.get_all_weights()
    first.predict(picture(1), picture(2))
    assert first.weight_learner.get_all_weights() == own


def test_a_training_that_overlaps_another_loses_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    first, second = manager_with(tmp_path, db_path=path), manager_with(tmp_path, examples=0, db_path=path)
    trained: list[int] = []

    def meanwhile(_progress: Any) -> None:
        if not trained:
            trained.append(1)
            second.train(validation_split=0.0, verbose=False)

    first.train(validation_split=0.0, verbose=False, on_progress=meanwhile)
    alone = manager_with(tmp_path)
    alone.train(validation_split=0.0, verbose=False)
    alone.train(validation_split=0.0, verbose=False)
    assert first.weight_learner.get_all_weights() == alone.weight_learner.get_all_weights()
    assert {d: row.outcomes for d, row in learned_by(first).rows.items()} == {
        d: row.outcomes for d, row in learned_by(alone).rows.items()
    }
    session = first.data_manager.get_all_sessions()[0]
    assert session.final_weights == first.weight_learner.get_all_weights()
    first.close()
    second.close()


def test_a_learner_lives_in_one_store_until_it_is_told_to_move(tmp_path: Path) -> None:
    home, elsewhere = InMemoryStore(), tmp_path / "elsewhere.db"
    learner = BayesianWeightLearner()
    manager_with(tmp_path, storage=home, learner=learner).train(verbose=False)
    learned = learner.get_all_weights()
    with pytest.raises(LearnerConflictError, match=r"is kept in memory, not in .*elsewhere\.db: pass restore=False"):
        TrainingManager(usual_pool(), learner, elsewhere)
    with TrainingManager(usual_pool(), learner, elsewhere, restore=False) as moved:
        assert learner.get_all_weights() == learned
        moved.add_training_example(*save_triple(tmp_path, 30))
        moved.train(validation_split=0.0, verbose=False)
    with TrainingManager(usual_pool(), BayesianWeightLearner(), elsewhere) as again:
        assert again.weight_learner.get_all_weights() == learner.get_all_weights()
        assert len(learned_by(again).rows) == 6
    back = TrainingManager(usual_pool(), learner, storage=home, restore=True)
    assert back.weight_learner.get_all_weights() == learned


def test_a_manager_opened_on_an_empty_store_sees_what_another_learns_first(tmp_path: Path) -> None:
    path = tmp_path / "tsm.db"
    with manager_with(tmp_path, db_path=path) as service, manager_with(tmp_path, examples=0, db_path=path) as trainer:
        trainer.train(verbose=False)
        learned = trainer.weight_learner.get_all_weights()
        assert service.get_training_progress()["current_weights"] == learned


def test_resetting_a_learner_that_has_learned_nothing_sets_the_default(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    manager.reset_weights(2.0)
    assert set(manager.weight_learner.get_all_weights().values()) == {2.0}
    again = TrainingManager(usual_pool(), BayesianWeightLearner(), storage=manager.data_manager)
    assert set(again.weight_learner.get_all_weights().values()) == {2.0}


# --- construction and the end ---------------------------------------------------------------------------------------


def test_parts_are_checked(tmp_path: Path) -> None:
    learner = BayesianWeightLearner()
    with pytest.raises(InvalidArgumentError, match="worker_pool must be an object with execute_parallel"):
        TrainingManager(object(), learner, tmp_path / "x.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="weight_learner must be a WeightLearner"):
        TrainingManager(usual_pool(), 0.15, tmp_path / "x.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="storage must be a TrainingStore"):
        TrainingManager(usual_pool(), learner, storage="x.db")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="does not exist"):
        TrainingManager(usual_pool(), learner, tmp_path / "no" / "x.db")
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=1)
    learner = BayesianWeightLearner()
    calls: list[tuple[str, Any]] = [
        ("path", lambda: manager.export_weights(None)),  # type: ignore[arg-type]
        ("path", lambda: manager.import_weights("")),
        ("root", lambda: manager.add_folder(3)),  # type: ignore[arg-type]
        ("csv_path", lambda: manager.add_manifest(None)),  # type: ignore[arg-type]
        ("rows", lambda: manager.add_training_examples(None)),  # type: ignore[arg-type]
        ("on_progress", lambda: manager.train(on_progress=3)),  # type: ignore[arg-type]
        ("should_stop", lambda: manager.train(should_stop=True)),  # type: ignore[arg-type]
        ("group_by", lambda: manager.train(group_by="")),
        ("on_progress", lambda: manager.validate(on_progress=3)),  # type: ignore[arg-type]
        ("on_progress", lambda: manager.cross_validate(on_progress=3)),  # type: ignore[arg-type]
        ("engine_factory", lambda: TrainingManager(usual_pool(), learner, ":memory:", engine_factory=3)),  # type: ignore[arg-type]
        ("db_path", lambda: TrainingManager(usual_pool(), learner, None)),  # type: ignore[arg-type]
        ("storage", lambda: TrainingManager(usual_pool(), learner, storage=InMemoryStore)),  # type: ignore[arg-type]
        ("worker_pool", lambda: TrainingManager(WorkerPool, learner, ":memory:")),  # type: ignore[arg-type]
        ("weight_learner", lambda: TrainingManager(usual_pool(), BayesianWeightLearner, ":memory:")),  # type: ignore[arg-type]
        ("restore", lambda: TrainingManager(usual_pool(), learner, ":memory:", restore="yes")),  # type: ignore[arg-type]
        ("function", lambda: FunctionWorker("x", 3)),  # type: ignore[arg-type]
    ]
    for argument, call in calls:
        with pytest.raises(InvalidArgumentError, match=f"^{argument} must be"):
            call()
    assert manager.data_manager.get_all_sessions() == []


@pytest.mark.slow
def test_a_manager_that_was_never_closed_leaves_no_warning(tmp_path: Path) -> None:
    script = (
        "import sys; from support import usual_pool; from tsm_training import BayesianWeightLearner, TrainingManager; "
        "manager = TrainingManager(usual_pool(), BayesianWeightLearner(), sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for forgotten in ("", "; del manager; import gc; gc.collect()"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script + forgotten, str(tmp_path / "x.db")],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""


def test_the_default_database_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TrainingManager(usual_pool(), BayesianWeightLearner()) as manager:
        monkeypatch.chdir("/")
        manager.add_training_example(*save_triple(tmp_path, 0))
    assert (tmp_path / "tsm_training.db").exists()
    with pytest.raises(StorageClosedError):
        manager.data_manager.get_all_examples()
    manager.close()


def test_workers_registered_later_are_known_at_once(tmp_path: Path) -> None:
    pool = pool_of(brightening("near", 20))
    manager = manager_with(tmp_path, pool=pool)
    pool.register_worker(brightening("late", 25))
    assert manager.get_training_progress()["current_weights"] == {"late": 1.0, "near": 1.0}
