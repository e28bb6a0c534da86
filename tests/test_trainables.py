"""Workers that learn from ground truths: what they are fitted on, who scores them, and what is kept of it."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from support import HostPool, brightening, brighter, learned_by, manager_with, picture, pool_of, save, save_triple
from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    Image,
    InMemoryStore,
    Observation,
    TrainableWorker,
    TrainingDataManager,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    Worker,
    WorkerPool,
)
from tsm_training.errors import (
    MetricError,
    NoWorkersError,
    TrainingStoppedError,
    WeightsFileError,
    WorkerNotFittedError,
)
from tsm_training.evaluation import fits
from tsm_training.evaluation.fits import Fit
from tsm_training.workers import group_of, learned_version


@attrs.frozen
class Shift(Worker):
    """Makes targets brighter by what was learned, for each group by its own."""

    worker_id: str
    version: str
    levels: Mapping[str, float]
    reads_only = True

    def process(self, data: Mapping[str, Image]) -> Image:
        return brighter(data["target"], round(self.levels.get(group_of(data) or "", self.levels[""])))

    def get_familiarity(self, data: Mapping[str, Image], result: Image) -> float | None:
        return 0.25


@attrs.define(eq=False)
class Log:
    """What a trainable worker was asked."""

    observed: list[str] = attrs.field(factory=list)
    fitted: list[tuple[str, ...]] = attrs.field(factory=list)
    loaded: list[bytes] = attrs.field(factory=list)


@attrs.frozen
class MeanShift(TrainableWorker):
    """Learns how much brighter the ground truth is."""

    worker_id: str = "shift"
    min_observations: int = 1
    is_color_map: bool = False
    is_dumped: bool = True
    _log: Log = attrs.field(factory=Log, eq=False)

    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        self._log.observed.append("")
        return np.float64((ground_truth.astype(float) - target).mean()).tobytes()

    def fit(self, observations: Sequence[Observation]) -> Worker:
        self._log.fitted.append(tuple(o.digest for o in observations))
        shifts: dict[str, list[float]] = {}
        for each in observations:
            for group in {"", each.group or ""}:
                shifts.setdefault(group, []).append(float(np.frombuffer(each.data)[0]))
        levels = {group: float(np.mean(values)) for group, values in shifts.items()}
        return Shift(self.worker_id, learned_version(observations), levels)

    def dump_fit(self, fitted: Worker) -> bytes | None:
        assert isinstance(fitted, Shift)
        return json.dumps([fitted.version, dict(fitted.levels)]).encode() if self.is_dumped else None

    def load_fit(self, state: bytes, observations: Sequence[Observation]) -> Worker:
        self._log.loaded.append(state)
        version, levels = json.loads(state)
        if version != learned_version(observations):
            raise ValueError("a fit of other observations")
        return Shift(self.worker_id, version, levels)


def shifting(log: Log | None = None, **settings: Any) -> MeanShift:
    return MeanShift(log=log or Log(), **settings)


def trainable_pool(log: Log | None = None, **settings: Any) -> WorkerPool:
    return pool_of(brightening("far", -60), brightening("mid", 60), shifting(log, **settings))


def trainable_manager(folder: Path, log: Log | None = None, examples: int = 8, **settings: Any) -> TrainingManager:
    own = {name: settings.pop(name) for name in ("min_observations", "is_color_map", "is_dumped") if name in settings}
    return manager_with(folder, examples, pool=trainable_pool(log, **own), **settings)


def train(manager: TrainingManager, **settings: Any) -> dict[str, Any]:
    return dict(manager.train(verbose=False, **settings))


def examples_of(manager: TrainingManager) -> list[TrainingExample]:
    return manager.data_manager.get_all_examples()


def fit_of(manager: TrainingManager) -> Fit:
    fit = fits.fit_of("shift", manager.weight_learner.cell.snapshot.fits["shift"])
    assert fit is not None
    return fit


def shares_of(manager: TrainingManager, seed: int = 100) -> Mapping[str, float]:
    return manager.predict(picture(seed), picture(seed + 1)).blend_weights


# --- before and after the first training ------------------------------------------------------------------------------


def test_an_unfitted_worker_is_not_asked_and_knows_nothing(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    assert manager.weight_learner.get_all_weights().keys() == {"far", "mid"}
    prediction = manager.predict(picture(0), picture(1), run_all=True)
    assert prediction.results.keys() == {"far", "mid"}
    assert prediction.familiarity is None
    assert manager.validate()["worker_accuracies"].keys() == {"far", "mid"}
    assert [
        r.worker_id for r in manager.worker_pool.execute_parallel({"source": picture(0), "target": picture(1)})
    ] == [
        "far",
        "mid",
    ]


def test_training_fits_it_and_its_share_is_found(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    results = train(manager, epochs=5)
    weights = manager.weight_learner.get_all_weights()
    assert weights.keys() == {"far", "mid", "shift"}
    assert max(weights, key=weights.__getitem__) == "shift"
    assert np.mean(list(weights.values())) == pytest.approx(1.0)
    assert results["session"]["initial_weights"]["shift"] == 1.0
    assert results["validation"]["worker_accuracies"]["shift"]["mean"] > 0.9
    prediction = manager.predict(picture(0), picture(1))
    assert max(prediction.blend_weights, key=prediction.blend_weights.__getitem__) == "shift"
    assert prediction.familiarity == 0.25
    assert prediction.results["shift"].familiarity == 0.25


def test_the_hosts_pool_answers_once_a_manager_has_fitted_it(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    pool, request = manager.worker_pool, {"source": picture(0), "target": picture(1)}
    train(manager)
    answers = {result.worker_id: result.value for result in pool.execute_parallel(request)}
    assert np.abs(answers["shift"].astype(int) - brighter(picture(1), 20)).max() <= 1
    manager.reset_weights()
    assert "shift" not in {result.worker_id for result in pool.execute_parallel(request)}


def test_a_reopened_database_answers_with_the_stored_fit(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / "x.db"
    with trainable_manager(tmp_path, log, db_path=path) as manager:
        train(manager)
        expected = manager.predict(picture(0), picture(1))
    log.fitted.clear()
    with trainable_manager(tmp_path, log, examples=0, db_path=path) as again:
        assert np.array_equal(again.predict(picture(0), picture(1)).image, expected.image)
        request = {"source": picture(0), "target": picture(1)}
        assert "shift" in {result.worker_id for result in again.worker_pool.execute_parallel(request)}
    assert not log.fitted
    assert len(log.loaded) == 1


def test_a_worker_that_gives_nothing_to_store_is_fitted_again_where_it_is_needed(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / "x.db"
    with trainable_manager(tmp_path, log, db_path=path, is_dumped=False) as manager:
        train(manager)
        expected = manager.predict(picture(0), picture(1)).image
    log.fitted.clear()
    with trainable_manager(tmp_path, log, examples=0, db_path=path, is_dumped=False) as again:
        assert not log.fitted
        assert np.array_equal(again.predict(picture(0), picture(1)).image, expected)
        again.predict(picture(0), picture(1))
    assert len(log.fitted) == 1


def test_a_stored_state_that_cannot_be_loaded_is_fitted_again(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager)
    expected = manager.predict(picture(0), picture(1)).image
    document = attrs.evolve(fit_of(manager), state=b"junk").to_document()
    manager.weight_learner.cell.update(lambda before: attrs.evolve(before, fits={"shift": document}))
    log.fitted.clear()
    again = manager.with_learner(manager.weight_learner.fork())
    assert np.array_equal(again.predict(picture(0), picture(1)).image, expected)
    assert len(log.fitted) == 1


def test_a_damaged_document_leaves_the_worker_unfitted(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager)
    manager.weight_learner.cell.update(lambda before: attrs.evolve(before, fits={"shift": "{}"}))
    trial = manager.with_learner(manager.weight_learner.fork())
    assert "shift" not in trial.predict(picture(0), picture(1), run_all=True).results
    train(trial)
    assert "shift" in trial.predict(picture(0), picture(1), run_all=True).results


def test_a_pool_of_trainable_workers_alone(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, 6, pool=pool_of(shifting()))
    with pytest.raises(WorkerNotFittedError, match="'shift' is not fitted yet: it answers after train"):
        manager.predict(picture(0), picture(1))
    with pytest.raises(WorkerNotFittedError):
        manager.worker_pool.execute_parallel({"source": picture(0), "target": picture(1)})
    train(manager)
    assert manager.predict(picture(0), picture(1)).blend_weights == {"shift": 1.0}
    with pytest.raises(NoWorkersError):
        manager_with(tmp_path, 0, pool=WorkerPool()).predict(picture(0), picture(1))


def test_the_registered_worker_itself_does_not_answer() -> None:
    with pytest.raises(WorkerNotFittedError) as caught:
        shifting().process({"source": picture(0), "target": picture(1)})
    assert caught.value.worker_id == "shift"
    assert caught.value.public_message == "A worker has not learned anything yet."


def test_in_a_foreign_pool_nothing_is_fitted(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, pool=HostPool({"a": lambda _s, t: t, "b": lambda _s, t: 255 - t}))
    train(manager)
    assert manager.weight_learner.cell.snapshot.fits == {}


# --- no example is judged by a fit that knows it ----------------------------------------------------------------------


def test_training_examples_are_scored_by_fits_that_do_not_know_their_targets(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log, examples=0)
    rows = [save_triple(tmp_path, seed) for seed in range(6)]
    rows += [(save(tmp_path / f"other_{n}.png", picture(90 + n)), *rows[n][1:]) for n in range(6)]
    manager.add_training_examples(rows)
    results = train(manager, validation_split=0.3)
    by_id = {example.example_id: example for example in examples_of(manager)}
    session = manager.data_manager.get_session(results["session"]["session_id"])
    training = {by_id[i].known_files.digest: by_id[i].known_files.target for i in session.training_ids}
    held_out = {by_id[i].known_files.digest for i in session.validation_ids}
    assert held_out
    assert all(held_out.isdisjoint(digests) for digests in log.fitted)
    partial = [set(digests) for digests in log.fitted if len(digests) < len(training)]
    assert len(partial) >= 2
    for digests in partial:  # a fold leaves out every example of its targets
        left_out = {training[digest] for digest in training.keys() - digests}
        assert left_out.isdisjoint({training[digest] for digest in digests})
    assert set().union(*(training.keys() - digests for digests in partial)) == training.keys()
    assert tuple(sorted(training)) in log.fitted


def test_folds_are_of_all_or_of_none(tmp_path: Path) -> None:
    few = trainable_manager(tmp_path / "few", examples=4, min_observations=4)
    train(few, validation_split=0.0)
    assert few.weight_learner.get_all_weights().keys() == {"far", "mid"}
    enough = trainable_manager(tmp_path / "enough", examples=5, min_observations=4)
    train(enough, validation_split=0.0)
    assert enough.weight_learner.get_all_weights().keys() == {"far", "mid", "shift"}


def test_examples_of_one_target_fit_nothing(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, examples=0)
    target, truth = save_triple(tmp_path, 1)[1:]
    manager.add_training_examples([(save(tmp_path / f"s{n}.png", picture(50 + n)), target, truth) for n in range(4)])
    train(manager)
    assert manager.weight_learner.cell.snapshot.fits == {}
    assert "shift" not in manager.weight_learner.get_all_weights()


def test_a_worker_that_cannot_be_fitted_any_more_loses_its_evidence(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, examples=4)
    train(manager, validation_split=0.0)
    for example in examples_of(manager)[1:]:
        manager.remove_training_example(example.example_id)
    assert "shift" not in manager.predict(picture(0), picture(1), run_all=True).results
    train(manager)
    assert manager.weight_learner.cell.snapshot.fits == {}
    assert all("shift" not in row.outcomes for row in learned_by(manager).rows.values())
    assert manager.weight_learner.get_all_weights()["shift"] == 1.0
    assert "shift" not in manager.predict(picture(0), picture(1), run_all=True).results


def test_every_worker_has_evidence_on_the_same_examples(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, examples=3)
    for example in examples_of(manager):  # feedback before there is a fit
        manager.training_engine.train_on_example(example)
    assert all(row.outcomes.keys() == {"far", "mid"} for row in learned_by(manager).rows.values())
    manager.add_training_examples([save_triple(tmp_path, seed) for seed in range(3, 8)])
    train(manager, num_examples=5, validation_split=0.0, epochs=3)
    rows = learned_by(manager).rows
    assert len(rows) == 8
    for row in rows.values():
        assert row.outcomes.keys() == {"far", "mid", "shift"}
        assert len({outcome.remaining for outcome in row.outcomes.values()}) == 1
    assert np.mean(list(manager.weight_learner.get_all_weights().values())) == pytest.approx(1.0)
    assert len(fit_of(manager).rows) == 8  # an example that was learned from counts in full


def test_cross_validation_fits_anew_in_each_fold_and_stores_nothing(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log, solver="auto")
    manager.validate()
    before = manager.data_manager.load_evaluations([e.known_files.digest for e in examples_of(manager)])
    results = manager.cross_validate(k=4, epochs=5)
    assert results["folds"] == 4
    assert results["ensemble_accuracy"] > 0.95
    assert max(map(len, log.fitted)) == 6  # two of eight are left out by each fold
    assert manager.data_manager.load_evaluations([e.known_files.digest for e in examples_of(manager)]) == before
    assert manager.weight_learner.cell.snapshot.fits == {}


# --- what is done once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_dumped", [False, True])
@pytest.mark.parametrize("is_color_map", [False, True])
def test_unchanged_data_are_fitted_scored_and_observed_once(
    tmp_path: Path, is_color_map: bool, is_dumped: bool
) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log, is_color_map=is_color_map, is_dumped=is_dumped)
    train(manager)
    assert len(log.observed) == 8
    keys = [e.key for e in manager.data_manager.load_evaluations([x.known_files.digest for x in examples_of(manager)])]
    fits = len(log.fitted)
    first = manager.weight_learner.get_all_weights()
    train(manager, epochs=2)
    manager.validate()
    manager.explain()
    assert len(log.observed) == 8
    assert len(log.fitted) == fits
    assert manager.weight_learner.get_all_weights() != first
    again = manager.data_manager.load_evaluations([x.known_files.digest for x in examples_of(manager)])
    assert [e.key for e in again] == keys
    sampled = {e.key.worker_id for e in again if e.key.worker_fingerprint.endswith("~")}
    assert sampled == ({"shift"} if is_color_map else set())


def test_reevaluation_does_all_of_it_again(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager)
    observed, fitted = len(log.observed), len(log.fitted)
    train(manager, reevaluate=True)
    assert len(log.observed) == 2 * observed
    assert len(log.fitted) > fitted


def test_a_new_fit_takes_the_place_of_the_scores_of_the_old_one(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, examples=6)
    train(manager)
    manager.add_training_examples([save_triple(tmp_path, seed) for seed in (6, 7)])
    train(manager)
    digests = [example.known_files.digest for example in examples_of(manager)]
    evaluations = manager.data_manager.load_evaluations(digests)
    assert sorted(e.key.example_digest for e in evaluations if e.key.worker_id == "shift") == sorted(digests)
    for previews in manager.data_manager.load_previews(digests).values():
        assert len([name for name in previews if name.startswith("shift@")]) == 1


def test_feedback_is_noted_and_learned_from_with_the_next_training(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager)
    before = manager.weight_learner.cell.snapshot.fits
    (new,) = manager.add_training_examples([save_triple(tmp_path, 50, levels=40)])
    fits = len(log.fitted)
    outcomes = manager.training_engine.train_on_example(new)
    assert outcomes.keys() == {"far", "mid", "shift"}
    assert len(log.fitted) == fits
    assert manager.weight_learner.cell.snapshot.fits == before
    assert new.known_files.digest not in {row.digest for row in fit_of(manager).rows}
    train(manager, num_examples=4, validation_split=0.0)
    assert new.known_files.digest in {row.digest for row in fit_of(manager).rows}


def test_training_in_batches_fits_on_all_of_them(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    examples = examples_of(manager)
    for start in range(0, 8, 2):
        manager.training_engine.train_batch(examples[start : start + 2], verbose=False)
    assert {row.digest for row in fit_of(manager).rows} == {example.known_files.digest for example in examples}


# --- forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_nothing_answers_from_a_fit_that_holds_a_forgotten_example(tmp_path: Path, change: str) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager, validation_split=0.0)
    gone = examples_of(manager)[2]
    pool = manager.worker_pool
    log.fitted.clear()
    if change == "removed":
        manager.remove_training_example(gone.example_id)
    else:
        new = save(tmp_path / "new.png", brighter(picture(5), 100))
        manager.replace_ground_truth(gone.example_id, new)
    left = tuple(sorted({row.digest for row in fit_of(manager).rows} - {gone.known_files.digest}))
    pool.execute_parallel({"source": picture(0), "target": picture(1)})
    assert log.fitted == [left]
    manager.predict(picture(0), picture(1))
    manager.export_weights(tmp_path / "w.json")
    assert log.fitted == [left]
    held = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))["fits"]["shift"]["observations"]
    assert tuple(each["digest"] for each in held) == left
    assert manager.data_manager.find_observations(fit_of(manager).name, [gone.known_files.digest]) == set()


def test_another_process_removes_an_example(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / "x.db"
    with trainable_manager(tmp_path, log, db_path=path) as manager:
        train(manager, validation_split=0.0)
        manager.predict(picture(0), picture(1))
        gone = examples_of(manager)[0]
        log.fitted.clear()
        with trainable_manager(tmp_path, examples=0, db_path=path) as other:
            other.remove_training_example(gone.example_id)
        manager.predict(picture(0), picture(1))
        manager.worker_pool.execute_parallel({"source": picture(0), "target": picture(1)})
        assert len(log.fitted) == 1
        assert gone.known_files.digest not in log.fitted[0]


def test_an_example_that_is_there_twice_is_forgotten_with_the_last_one(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    first = examples_of(manager)[0]
    (second,) = manager.add_training_examples([(first.source_path, first.target_path, first.ground_truth_path)])
    train(manager, validation_split=0.0)
    name, digest = fit_of(manager).name, first.known_files.digest
    manager.remove_training_example(first.example_id)
    assert manager.data_manager.find_observations(name, [digest]) == {digest}
    manager.remove_training_example(second.example_id)
    assert manager.data_manager.find_observations(name, [digest]) == set()


def test_forgetting_is_exact(tmp_path: Path) -> None:
    """What was added and removed again leaves no trace in the fit."""
    with_extra, without = trainable_manager(tmp_path / "a"), trainable_manager(tmp_path / "b")
    extra = with_extra.add_training_examples([save_triple(tmp_path / "a", 70, levels=90)])[0]
    train(with_extra, validation_split=0.0)
    with_extra.remove_training_example(extra.example_id)
    train(with_extra, validation_split=0.0)
    train(without, validation_split=0.0)
    assert fit_of(with_extra) == fit_of(without)


# --- groups -----------------------------------------------------------------------------------------------------------


def grouped_manager(folder: Path, log: Log | None = None, **settings: Any) -> TrainingManager:
    manager = trainable_manager(folder, log, examples=0, **settings)
    styles = {"soft": 10, "hard": 50}
    manager.add_training_examples(
        [
            (*save_triple(folder, seed, levels=styles[style]), {"style": style})
            for seed, style in enumerate(["soft", "hard"] * 5)
        ]
    )
    return manager


def test_a_known_group_reaches_the_fitted_worker(tmp_path: Path) -> None:
    manager = grouped_manager(tmp_path)
    results = train(manager, group_by="style", epochs=5)
    assert results["validation"]["worker_accuracies"]["shift"]["mean"] > 0.99
    for style, levels in (("soft", 10), ("hard", 50)):
        prediction = manager.predict(picture(0), picture(1), group=style, run_all=True)
        value = prediction.results["shift"].value
        assert value is not None
        assert np.abs(value.astype(int) - brighter(picture(1), levels)).max() <= 5
        assert (prediction.group, prediction.is_known_group) == (style, True)
        assert style in prediction._repr_html_()


def test_without_groups_a_fitted_worker_is_not_told_the_group_either(tmp_path: Path) -> None:
    manager = grouped_manager(tmp_path, is_color_map=True)
    results = train(manager, group_by="style", epochs=20, validation_split=0.4)
    means = {name: each["mean"] for name, each in results["validation"]["contenders"].items()}
    assert means["trained"] > means["without_groups"] + 0.01


def test_an_unknown_group_falls_back_and_says_so(tmp_path: Path) -> None:
    manager = grouped_manager(tmp_path)
    train(manager, group_by="style")
    general = manager.predict(picture(0), picture(1))
    prediction = manager.predict(picture(0), picture(1), group="nobody's")
    assert np.array_equal(prediction.image, general.image)
    assert (prediction.group, prediction.is_known_group) == ("nobody's", False)
    assert (general.group, general.is_known_group, general.nearest_group) == (None, None, None)
    assert prediction.nearest_group is None
    assert "no example has" in prediction._repr_html_()
    slip = manager.predict(picture(0), picture(1), group="Softt")
    assert (slip.is_known_group, slip.nearest_group) == (False, "soft")
    assert "did you mean soft?" in slip._repr_html_()


def test_a_training_grouped_otherwise_is_fitted_anew(tmp_path: Path) -> None:
    log = Log()
    manager = grouped_manager(tmp_path, log)
    train(manager)
    fits = len(log.fitted)
    train(manager, group_by="style")
    assert len(log.fitted) > fits
    assert fit_of(manager).group_by == "style"
    assert fit_of(manager).groups == {"soft", "hard"}


def test_the_request_of_a_group_holds_its_name() -> None:
    seen: list[object] = []

    def note(source: Image, target: Image) -> Image:
        return target

    @attrs.frozen
    class Nosy(Worker):
        worker_id: str = "nosy"

        def process(self, data: Mapping[str, Image]) -> Image:
            seen.append(group_of(data))
            return data["target"]

    pool = pool_of(Nosy(), FunctionWorker("plain", note))
    pool.execute_parallel({"source": picture(0), "target": picture(1), "group": "a"})  # type: ignore[dict-item]
    pool.execute_parallel({"source": picture(0), "target": picture(1)})
    assert seen == ["a", None]
    with pytest.raises(ValueError, match="data\\['group'\\] must be text"):
        pool.execute_parallel({"source": picture(0), "target": picture(1), "group": 5})  # type: ignore[dict-item]


# --- weights files ----------------------------------------------------------------------------------------------------


def exported(manager: TrainingManager, path: Path) -> dict[str, Any]:
    manager.export_weights(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["exported_at"]
    return dict(document)


def test_an_imported_fit_answers_at_once_and_goes_out_as_it_came_in(tmp_path: Path) -> None:
    manager = grouped_manager(tmp_path)
    train(manager, group_by="style")
    first = exported(manager, tmp_path / "a.json")
    log = Log()
    other = trainable_manager(tmp_path / "other", log, examples=0)
    other.import_weights(tmp_path / "a.json")
    expected = manager.predict(picture(0), picture(1), group="soft")
    answer = other.predict(picture(0), picture(1), group="soft")
    assert np.array_equal(answer.image, expected.image)
    assert answer.is_known_group
    assert not log.fitted
    assert exported(other, tmp_path / "b.json") == first
    request = {"source": picture(0), "target": picture(1)}
    assert "shift" in {result.worker_id for result in other.worker_pool.execute_parallel(request)}


def test_the_next_training_learns_from_the_files_examples_and_from_its_own(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager, validation_split=0.0)
    manager.export_weights(tmp_path / "a.json")
    imported = {row.digest for row in fit_of(manager).rows}
    log = Log()
    other = trainable_manager(tmp_path / "other", log, examples=0)
    other.import_weights(tmp_path / "a.json")
    other.add_training_examples([save_triple(tmp_path / "other", seed) for seed in range(60, 64)])
    train(other, validation_split=0.0)
    own = {example.known_files.digest for example in examples_of(other)}
    assert set(log.fitted[-1]) == imported | own
    train(other, validation_split=0.0)
    assert len(fit_of(other).imported) == 8
    other.reset_weights()
    train(other, validation_split=0.0)
    assert set(log.fitted[-1]) == own


def test_one_own_example_is_enough_beside_those_of_a_file(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager)
    manager.export_weights(tmp_path / "a.json")
    other = trainable_manager(tmp_path / "other", examples=0)
    other.import_weights(tmp_path / "a.json")
    other.add_training_examples([save_triple(tmp_path / "other", 77)])
    train(other)
    assert "shift" in other.predict(picture(0), picture(1), run_all=True).results


def test_own_examples_are_not_judged_by_what_a_file_knows_of_them(tmp_path: Path) -> None:
    """A file of the same pictures is no way round the folds."""
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager, validation_split=0.0)
    manager.export_weights(tmp_path / "a.json")
    digests = {example.known_files.digest for example in examples_of(manager)}
    manager.import_weights(tmp_path / "a.json")
    log.fitted.clear()
    manager.validate()
    assert log.fitted
    assert all(set(fitted) < digests for fitted in log.fitted)


def test_a_removed_example_goes_from_what_was_imported_too(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager, validation_split=0.0)
    manager.export_weights(tmp_path / "a.json")
    manager.import_weights(tmp_path / "a.json")
    gone = examples_of(manager)[0]
    manager.remove_training_example(gone.example_id)
    assert gone.known_files.digest not in {o.digest for o in fit_of(manager).imported}
    assert len(fit_of(manager).imported) == 7


def test_a_worker_with_other_settings_is_not_fitted_on_what_another_one_noted(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, db_path=tmp_path / "x.db")
    train(manager)
    manager.export_weights(tmp_path / "a.json")
    manager.close()
    log = Log()
    changed = trainable_manager(tmp_path, log, examples=0, db_path=tmp_path / "x.db", min_observations=2)
    assert "shift" not in changed.predict(picture(0), picture(1), run_all=True).results
    other = trainable_manager(tmp_path / "other", examples=0, min_observations=2)
    other.import_weights(tmp_path / "a.json")
    assert "shift" not in other.predict(picture(0), picture(1), run_all=True).results
    other.add_training_examples([save_triple(tmp_path / "other", seed) for seed in range(60, 64)])
    train(other)
    assert fit_of(other).imported == ()
    assert not log.fitted
    train(changed)
    assert "shift" in changed.predict(picture(0), picture(1), run_all=True).results
    changed.close()


def test_a_file_on_which_its_worker_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, is_dumped=False)
    train(manager)
    manager.export_weights(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    document["fits"]["shift"]["observations"][0]["data"] = "AAAA"
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
    before = manager.weight_learner.cell.whole()
    with pytest.raises(WeightsFileError, match="its fit failed"):
        manager.import_weights(tmp_path / "a.json")
    assert manager.weight_learner.cell.whole() == before


def test_examples_that_a_file_knows_are_not_taken_for_unseen(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager, validation_split=0.0)
    manager.export_weights(tmp_path / "a.json")
    other = trainable_manager(tmp_path, examples=8)
    other.import_weights(tmp_path / "a.json")
    assert other.validate()["unseen_examples"] == 0


def test_the_fit_of_a_worker_that_is_not_here_is_kept_for_the_next_export(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager)
    first = exported(manager, tmp_path / "a.json")
    other = manager_with(tmp_path / "other", 0, pool=pool_of(brightening("far", -60), brightening("mid", 60)))
    assert other.import_weights(tmp_path / "a.json").dormant == ("shift",)
    other.predict(picture(0), picture(1))
    assert exported(other, tmp_path / "b.json")["fits"] == first["fits"]


# --- failures ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Troubled(MeanShift):
    """Goes wrong where it is told to."""

    trouble: str = ""

    def observe(self, source: Image, target: Image, ground_truth: Image) -> Any:
        if self.trouble == "observe raises" and target[0, 0, 0] % 2:
            raise RuntimeError("cannot look at this")
        if self.trouble == "too much":
            return bytes(16_001)
        if self.trouble == "empty":
            return b""
        if self.trouble == "no bytes":
            return 5
        if self.trouble == "writes":
            target[:] = 0
        return MeanShift.observe(self, source, target, ground_truth)

    def fit(self, observations: Sequence[Observation]) -> Any:
        if self.trouble == "fit raises":
            raise RuntimeError("cannot fit this")
        if self.trouble == "no worker":
            return 5
        if self.trouble == "fits on":
            return self
        return MeanShift.fit(self, observations)

    def dump_fit(self, fitted: Worker) -> Any:
        if self.trouble == "dump raises":
            raise RuntimeError("cannot dump this")
        if self.trouble == "dump gives text":
            return "text"
        return bytes(1001) if self.trouble == "dump gives too much" else MeanShift.dump_fit(self, fitted)


@pytest.mark.parametrize("trouble", ["fit raises", "no worker", "fits on"])
def test_a_fit_that_fails_is_a_failure_on_every_example(tmp_path: Path, trouble: str) -> None:
    manager = manager_with(tmp_path, pool=pool_of(brightening("far", -60), Troubled(trouble=trouble)))
    results = train(manager)
    assert results["validation"]["failures"]["shift"] == results["validation"]["num_examples"]
    assert manager.weight_learner.get_all_weights()["shift"] < 1.0
    outcome = (examples_of(manager)[0].worker_results or {})["shift"]
    assert "its fit failed" in (outcome["error"] or "")
    assert shares_of(manager) == {"far": 1.0}


@pytest.mark.parametrize("trouble", ["dump raises", "dump gives text", "dump gives too much"])
def test_a_state_that_cannot_be_stored_costs_a_fit_and_nothing_else(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsm_training.evaluation.trainables._MOST_STATE_BYTES", 1000)
    manager = manager_with(tmp_path, pool=pool_of(brightening("far", -60), Troubled(trouble=trouble)))
    train(manager)
    assert fit_of(manager).state == b""
    assert manager.weight_learner.get_all_weights()["shift"] > 1.0


def test_a_pool_takes_no_worker_that_wants_half_an_observation() -> None:
    with pytest.raises(ValueError, match="min_observations of worker 'shift' must be"):
        pool_of(MeanShift(min_observations=0))


@pytest.mark.parametrize("trouble", ["too much", "no bytes", "writes"])
def test_observations_that_cannot_be_kept_are_noted_and_the_others_go_on(
    tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tsm_training")
    manager = manager_with(tmp_path, pool=pool_of(brightening("far", -60), Troubled(trouble=trouble)))
    train(manager)
    assert "worker 'shift' cannot learn from 6 of the examples" in caplog.text
    assert manager.weight_learner.get_all_weights()["far"] > 0.0


def test_an_example_that_cannot_be_observed_is_left_out_of_the_fit(tmp_path: Path) -> None:
    log = Log()
    worker = Troubled(trouble="observe raises", log=log)
    manager = manager_with(tmp_path, 12, pool=pool_of(brightening("far", -60), worker))
    train(manager, validation_split=0.0)
    assert 0 < max(map(len, log.fitted)) < 12
    outcomes = [(example.worker_results or {})["shift"] for example in examples_of(manager)]
    failed = [outcome["error"] for outcome in outcomes if not outcome["is_valid"]]
    assert len(failed) == 12 - max(map(len, log.fitted))
    assert set(failed) == {"raised: observe: RuntimeError: cannot look at this"}


def test_where_no_observation_says_anything_the_fit_fails_with_that_reason(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, pool=pool_of(brightening("far", -60), Troubled(trouble="empty")))
    train(manager)
    outcome = (examples_of(manager)[0].worker_results or {})["shift"]
    assert "there is nothing to learn from in 0 observations" in (outcome["error"] or "")


def test_a_judge_that_fails_ends_the_training_and_nothing_is_learned(tmp_path: Path) -> None:
    calls = 0

    def judge(output: Image, truth: Image) -> float:
        nonlocal calls
        calls += 1
        if calls > 16:  # those of the two other workers on eight examples
            raise RuntimeError("no more")
        return 0.5

    manager = trainable_manager(tmp_path, engine_factory=TrainingEngine.using(judge))
    with pytest.raises(MetricError):
        train(manager)
    assert learned_by(manager).rows == {}
    assert manager.weight_learner.cell.snapshot.fits == {}


def test_a_training_can_be_stopped_between_two_fits_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    with pytest.raises(TrainingStoppedError):
        train(manager, should_stop=lambda: len(log.fitted) >= 2)
    assert manager.weight_learner.cell.snapshot.fits == {}
    observed = len(log.observed)
    train(manager)
    assert len(log.observed) == observed
    fresh = trainable_manager(tmp_path / "fresh")
    train(fresh)
    assert manager.weight_learner.get_all_weights() == fresh.weight_learner.get_all_weights()


# --- the same everywhere ----------------------------------------------------------------------------------------------


def trained(folder: Path, is_color_map: bool, order: Callable[[int], float] = float, **settings: Any) -> Any:
    """Return what a training learns, and an answer."""
    stops = settings.pop("stops", None)
    manager = trainable_manager(folder, examples=0, is_color_map=is_color_map, **settings)
    seeds = sorted(range(8), key=order)
    manager.add_training_examples([save_triple(folder / "pictures", seed, levels=5 * seed) for seed in seeds])
    if stops is not None:
        with pytest.raises(TrainingStoppedError):
            train(manager, epochs=3, should_stop=iter(stops).__next__)
    train(manager, epochs=3)
    image = manager.predict(picture(0), picture(1)).image.tobytes()
    return manager.weight_learner.get_all_weights(), manager.weight_learner.cell.snapshot.fits, image


@pytest.fixture(scope="module", params=[False, True], ids=["whole pictures", "samples"])
def usual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Any]:
    """Return whether the worker that learns is a map of colours, and what a training of it gives."""
    return request.param, trained(tmp_path_factory.mktemp("usual"), request.param)


@pytest.mark.parametrize(
    "kind", ["one thread", pytest.param("processes", marks=pytest.mark.slow), "another order", "a database", "a kill"]
)
def test_weights_and_fits_are_the_same_to_the_last_bit(tmp_path: Path, kind: str, usual: tuple[bool, Any]) -> None:
    is_color_map, expected = usual
    settings: dict[str, Any] = {"db_path": tmp_path / "x.db"}
    with contextlib.ExitStack() as stack:
        if kind in {"one thread", "processes"}:
            pool = ThreadPoolExecutor(1) if kind == "one thread" else ProcessPoolExecutor(2)
            executor = stack.enter_context(pool)
            settings = {"engine_factory": functools.partial(TrainingEngine, executor=executor)}
        elif kind == "another order":
            settings = {"order": lambda seed: random.Random(seed).random()}
        elif kind == "a kill":
            settings["stops"] = [False] * 9 + [True] * 99
        assert trained(tmp_path, is_color_map, **settings) == expected


def test_scores_on_samples_are_those_of_the_stored_samples(tmp_path: Path) -> None:
    """Pictures that are gone do not stop a new fit of a worker that is a map of colours."""
    manager = trainable_manager(tmp_path, is_color_map=True)
    train(manager)
    for example in examples_of(manager):
        Path(example.target_path).unlink()
    manager.add_training_examples([save_triple(tmp_path / "more", 91)])
    results = train(manager)
    assert results["session"]["final_weights"]["shift"] > 1.0
    assert not manager.data_manager.get_session(results["session"]["session_id"]).skipped


def test_where_samples_are_missing_they_are_taken_of_the_pictures_again(tmp_path: Path) -> None:
    found = []
    for name in ("kept", "missing"):
        store = InMemoryStore()
        manager = trainable_manager(tmp_path, examples=0, is_color_map=True, storage=store)
        manager.add_training_examples([save_triple(tmp_path, seed, size=(100, 130)) for seed in range(4)])
        train(manager)
        if name == "missing":
            store._contents.previews.clear()
        manager.add_training_examples([save_triple(tmp_path, 4, size=(100, 130))])
        train(manager)  # with a new fit, all are scored again
        found.append([(example.worker_results or {})["shift"]["accuracy"] for example in examples_of(manager)])
    assert found[0] == found[1]


def test_pictures_of_examples_that_are_held_out_stay_for_the_verdict(tmp_path: Path) -> None:
    store = InMemoryStore()
    manager = trainable_manager(tmp_path, storage=store)
    session_id = train(manager, validation_split=0.3)["session"]["session_id"]
    held_out = {store.get_example(i).known_files.digest for i in store.get_session(session_id).validation_ids}
    fitted = [preview for preview in store._contents.previews.values() if preview.name.startswith("shift@")]
    assert {preview.example_digest for preview in fitted if preview.rank is None} == held_out


def test_a_read_only_manager_validates_with_the_fit_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with trainable_manager(tmp_path, db_path=path) as manager:
        train(manager)
        manager.add_training_examples([save_triple(tmp_path, 55)])
    before = path.read_bytes()
    viewer = trainable_manager(tmp_path, examples=0, storage=TrainingDataManager(path, read_only=True))
    assert viewer.validate()["worker_accuracies"]["shift"]["mean"] > 0.9
    assert viewer.validate(full=True)["ensemble_accuracy"] > 0.9
    assert viewer.cross_validate(k=2)["ensemble_accuracy"] > 0.9
    viewer.close()
    assert path.read_bytes() == before


def test_a_read_only_manager_cross_validates_on_what_is_noted_for_the_call(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    trainable_manager(tmp_path, db_path=path).close()
    viewer = trainable_manager(tmp_path, examples=0, storage=TrainingDataManager(path, read_only=True))
    assert all("shift" in shares for shares in viewer.cross_validate(k=2)["blend_weights"])
    viewer.close()


def test_whole_pictures_of_known_examples_are_judged_out_of_fold_too(tmp_path: Path) -> None:
    log = Log()
    manager = trainable_manager(tmp_path, log)
    train(manager, validation_split=0.0)
    log.fitted.clear()
    manager.validate(full=True)
    assert log.fitted
    assert all(len(digests) < 8 for digests in log.fitted)


def test_a_trial_keeps_its_fit_to_itself_until_it_is_adopted(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path, db_path=tmp_path / "x.db")
    trial = manager.with_learner(manager.weight_learner.fork())
    train(trial)
    assert "shift" in trial.predict(picture(0), picture(1), run_all=True).results
    assert not any(name.startswith("fit/") for name in manager.data_manager.load_state().head)
    assert "shift" not in manager.predict(picture(0), picture(1), run_all=True).results
    manager.adopt(trial.weight_learner)
    assert "shift" in manager.predict(picture(0), picture(1), run_all=True).results
    manager.close()


def test_what_a_trial_learns_and_an_empty_database_change_nothing_for_who_asks_the_pool(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager, num_examples=4)
    request = {"source": picture(0), "target": picture(1)}

    def answer() -> bytes:
        results = {result.worker_id: result for result in manager.worker_pool.execute_parallel(request)}
        value = results["shift"].value
        assert value is not None
        return value.tobytes()

    before = answer()
    manager.add_training_examples([save_triple(tmp_path / "more", seed, levels=90) for seed in range(20, 26)])
    train(manager.with_learner(manager.weight_learner.fork()))
    assert answer() == before
    TrainingManager(manager.worker_pool, BayesianWeightLearner(), storage=InMemoryStore())
    assert answer() == before


def test_two_threads_predict_while_a_third_forgets(tmp_path: Path) -> None:
    manager = trainable_manager(tmp_path)
    train(manager, validation_split=0.0)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for seed in range(20):
                shares_of(manager, 2 * seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for example in examples_of(manager)[:3]:
        manager.remove_training_example(example.example_id)
    for thread in threads:
        thread.join()
    assert not errors


# --- which observations a fit uses ------------------------------------------------------------------------------------


def fit_with(count: int, groups: int = 0) -> Fit:
    rows = tuple(
        Observation(f"{n:05}", "s", f"t{n % 100}", f"g{n // (count // groups)}" if groups else None, b"")
        for n in range(count)
    )
    return Fit("shift", "f", "i", rows)


def test_a_fit_holds_a_thousand_observations_at_most_and_some_of_every_group() -> None:
    assert len(fit_with(1000).selected(None)) == 1000
    assert [row.digest for row in fit_with(1200).selected(None)] == [f"{n:05}" for n in range(1000)]
    selected = fit_with(3000, groups=3).selected(None)
    assert len(selected) == 1000
    assert [row.digest for row in selected if row.group == "g2"] == ["02000"]
    assert list(selected) == sorted(selected, key=lambda row: row.digest)
    fit = fit_with(2000)
    for fold in range(5):
        rows = fit.selected(fold)
        assert len(rows) == 1000
        assert all(fit.fold_of(row.target_digest) != fold for row in rows)


def test_the_version_of_a_fit_says_what_was_learned() -> None:
    fit = fit_with(20)
    assert fit.version(None) == attrs.evolve(fit, state=b"x").version(None)
    assert len({fit.version(fold) for fold in (None, 0, 1, 2, 3, 4)}) == 6
    other = attrs.evolve(fit, rows=(*fit.rows[:-1], attrs.evolve(fit.rows[-1], group="a")))
    assert other.version(None) != fit.version(None)
    brought = [attrs.evolve(fit, imported=(Observation("z", "s", "t", None, data),)) for data in (b"a", b"b")]
    assert len({each.version(None) for each in (fit, *brought)}) == 3


def test_the_version_of_observations_does_not_depend_on_their_order() -> None:
    one, two = (Observation(name, "s", "t", None, b"data") for name in "ab")
    assert learned_version([one, two]) == learned_version([two, one])
    changed = [attrs.evolve(one, **{field: "x" if field != "data" else b"x"}) for field in ("group", "data", "digest")]
    assert len({learned_version([each, two]) for each in (one, *changed)}) == 4


# --- what becomes of evidence -----------------------------------------------------------------------------------------


def test_a_learner_of_its_own_kind_is_given_the_same_evidence(tmp_path: Path) -> None:
    learner = BayesianWeightLearner(alpha=0.5, confidence_scaling=False)
    manager = trainable_manager(tmp_path, learner=learner)
    train(manager)
    assert all("shift" in row.outcomes for row in learned_by(manager).rows.values())
