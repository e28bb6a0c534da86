"""The engine: evaluate once, learn many times, fail by name, and leave the learner alone unless all went well."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from support import (
    ByBrightness,
    HostPool,
    HostResult,
    Scaled,
    brightening,
    brighter,
    failing,
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
    FunctionWorker,
    GuideSimilarity,
    Image,
    InMemoryStore,
    LearnedLook,
    Progress,
    TrainingEngine,
    TrainingManager,
    WorkerPool,
    guide_similarity,
)
from tsm_training.arguments import check_whole_number
from tsm_training.ensemble import blend, decode_preview, encode_preview, renormalised, sample_grid
from tsm_training.errors import (
    ExampleNotFoundError,
    InvalidArgumentError,
    MetricError,
    NoExamplesError,
    NothingEvaluatedError,
    NoWorkersError,
    PredictionError,
    TrainingInProgressError,
    TrainingStoppedError,
    WorkerPoolError,
)
from tsm_training.evaluation.evaluated import mean, preview_name
from tsm_training.images import read_image


def constant(output: Image, ground_truth: Image) -> float:
    return np.float32(0.5)  # type: ignore[return-value]


# --- evaluating once ------------------------------------------------------------------------------------------------


def test_each_worker_runs_once_on_each_example_unless_it_is_asked_to_run_again(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, examples=4, pool=usual_pool(calls))
    manager.train(epochs=7, validation_split=0.25, verbose=False)
    manager.train(verbose=False)
    manager.validate()
    assert sorted(calls) == sorted(["far", "mid", "near"] * 4)
    manager.train(verbose=False, reevaluate=True)
    assert len(calls) == 24
    calls.clear()
    manager.worker_pool.register_worker(brightening("late", 10, calls))  # type: ignore[attr-defined]
    results = manager.train(verbose=False)
    assert calls == ["late"] * 4
    assert set(results["session"]["final_weights"]) == {"far", "late", "mid", "near"}


def test_a_changed_worker_is_run_again(tmp_path: Path) -> None:
    calls: list[str] = []
    store = InMemoryStore()
    manager_with(tmp_path, examples=2, storage=store, pool=pool_of(brightening("near", 22, calls))).validate()
    changed = manager_with(tmp_path, examples=0, storage=store, pool=pool_of(brightening("near", 25, calls)))
    changed.validate()
    changed.validate()
    assert len(calls) == 4


def test_the_same_triple_added_twice_is_evaluated_once_and_counts_once(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, examples=2, pool=usual_pool(calls))
    once = manager_with(tmp_path, examples=2)
    manager.add_training_example(*save_triple(tmp_path, 0))
    manager.train(validation_split=0.0, verbose=False)
    once.train(validation_split=0.0, verbose=False)
    assert len(calls) == 6
    assert manager.weight_learner.get_all_weights() == once.weight_learner.get_all_weights()


def test_explain_cache_says_why_something_would_run(tmp_path: Path) -> None:
    store = InMemoryStore()
    manager = manager_with(tmp_path, examples=1, storage=store)
    reasons = {entry["reason"] for entry in manager.training_engine.explain_cache()}
    assert reasons == {"never evaluated with these file contents"}
    manager.train(verbose=False)
    assert all(entry["is_stored"] for entry in manager.training_engine.explain_cache())

    pool = pool_of(brightening("near", 23), brightening("mid", 60))
    other = TrainingManager(pool, BayesianWeightLearner(), storage=store)
    entries = {entry["worker_id"]: entry for entry in other.training_engine.explain_cache()}
    assert entries["near"]["reason"] == "the worker's version, settings or source have changed"
    assert entries["mid"]["is_stored"]
    judged = TrainingManager(pool, BayesianWeightLearner(), storage=store, engine_factory=ByBrightness)
    entries = {entry["worker_id"]: entry for entry in judged.training_engine.explain_cache(store.get_all_examples())}
    assert entries["mid"]["reason"] == "the metric has changed"


def test_what_was_scored_on_pictures_of_another_reader_is_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, examples=2, pool=usual_pool(calls), db_path=tmp_path / "training.db")
    manager.train(verbose=False)
    with monkeypatch.context() as patch:
        patch.setattr("tsm_training.evaluation.evaluator.READER_VERSION", "another")
        reasons = {entry["reason"] for entry in manager.training_engine.explain_cache()}
        assert reasons == {"the picture reader has changed"}
        manager.validate()
        assert len(calls) == 12
        assert all(entry["is_stored"] for entry in manager.training_engine.explain_cache())
    manager.train(verbose=False)
    assert len(calls) == 12  # what was scored before is found again
    manager.close()


def test_a_foreign_pool_has_nothing_to_explain(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=1, pool=HostPool({}))
    assert manager.training_engine.explain_cache() == []


# --- the hook -------------------------------------------------------------------------------------------------------


def test_an_overridden_hook_decides(tmp_path: Path) -> None:
    report = manager_with(tmp_path, engine_factory=ByBrightness).validate()
    assert report["worker_accuracies"]["near"]["mean"] == pytest.approx(1.0 - 2 / 255, abs=0.005)


def test_a_metric_given_with_using_decides(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(constant))
    results = manager.train(validation_split=0.0, verbose=False)
    assert set(results["session"]["final_weights"].values()) == {1.0}
    assert results["session"]["metrics_history"][-1]["avg_accuracy"] == 0.5
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_using_refuses_what_cannot_be_called() -> None:
    with pytest.raises(InvalidArgumentError, match="metric must be a callable"):
        TrainingEngine.using("ssim")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan"), float("inf"), None, "0.5", True, np.float64("nan")])
def test_a_similarity_outside_its_range_ends_the_training(tmp_path: Path, bad: Any) -> None:
    manager = manager_with(tmp_path, examples=2, engine_factory=TrainingEngine.using(lambda output, truth: bad))
    with pytest.raises(MetricError, match="a similarity must be a finite number between 0 and 1"):
        manager.train(verbose=False)
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.status == "failed"
    assert session.error is not None
    assert session.error.startswith("MetricError")
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}


@pytest.mark.parametrize("error", [ZeroDivisionError("no pixels"), SystemExit("no pixels")])
def test_a_metric_that_raises_is_not_evidence_against_workers(tmp_path: Path, error: BaseException) -> None:
    def broken(output: Image, ground_truth: Image) -> float:
        raise error

    manager = manager_with(tmp_path, engine_factory=TrainingEngine.using(broken))
    with pytest.raises(MetricError, match=f"broken, .* raised {type(error).__name__}: no pixels") as caught:
        manager.train(verbose=False)
    assert caught.value.__cause__ is error


def test_the_hook_names_itself_in_errors(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, engine_factory=lambda *parts: Scaled(*parts, scale=2.0))
    with pytest.raises(MetricError, match="Scaled, given the output of worker"):
        manager.train(verbose=False)


def test_settings_of_a_hook_belong_to_its_fingerprint() -> None:
    parts = (usual_pool(), BayesianWeightLearner(), InMemoryStore())
    assert Scaled(*parts, scale=0.5).judge.fingerprint == Scaled(*parts, scale=0.5).judge.fingerprint
    assert Scaled(*parts, scale=0.5).judge.fingerprint != Scaled(*parts, scale=0.6).judge.fingerprint
    assert TrainingEngine(*parts).judge.fingerprint != ByBrightness(*parts).judge.fingerprint
    assert TrainingEngine(*parts, memory_budget=1).judge.fingerprint == TrainingEngine(*parts).judge.fingerprint


def test_the_hook_can_be_called_by_anybody(tmp_path: Path) -> None:
    engine = manager_with(tmp_path, examples=0).training_engine
    assert engine.calculate_similarity(picture(1), picture(1)) == 1.0
    assert engine.calculate_similarity(picture(1), picture(2)) == guide_similarity(picture(1), picture(2))


def test_a_metric_is_prepared_once_for_each_truth_and_once_for_its_preview(tmp_path: Path) -> None:
    prepared: list[int] = []

    class Counting(GuideSimilarity):
        def prepare(self, ground_truth: Image, /) -> Any:
            prepared.append(1)
            return super().prepare(ground_truth)

    manager = manager_with(tmp_path, examples=3, engine_factory=TrainingEngine.using(Counting()))
    manager.train(validation_split=0.0, verbose=False)
    assert len(prepared) == 3 + 3  # the blend is fitted on previews


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failing_worker_is_recorded_and_disturbs_nobody(tmp_path: Path) -> None:
    alone = manager_with(tmp_path)
    alone.train(validation_split=0.0, verbose=False)
    manager = manager_with(tmp_path, pool=pool_of(*usual_pool().workers, failing("bad")))
    session_id = manager.train(validation_split=0.0, verbose=False)["session"]["session_id"]
    weights = manager.weight_learner.get_all_weights()
    assert weights.pop("bad") < 1.0
    assert weights == alone.weight_learner.get_all_weights()
    rows = [row for row in manager.data_manager.iterate_metrics(session_id) if row.worker_id == "bad"]
    assert {(row.accuracy, row.loss) for row in rows} == {(None, None)}
    results = manager.data_manager.get_all_examples()[0].worker_results
    assert results is not None
    assert results["bad"]["error"] == "raised: RuntimeError: this worker always fails"
    assert not results["bad"]["is_valid"]
    assert manager.validate()["failures"] == {"bad": 6, "far": 0, "mid": 0, "near": 0}


def test_an_example_whose_file_vanished_or_changed_is_skipped_and_listed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    first, second = manager.data_manager.get_all_examples()[:2]
    Path(first.source_path).unlink()
    save(Path(second.ground_truth_path), picture(99))
    results = manager.train(validation_split=0.0, verbose=False)
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert set(session.skipped) == {first.example_id, second.example_id}
    assert "source_0.png" in session.skipped[first.example_id]
    assert results["session"]["num_examples"] == 4
    assert manager.data_manager.get_dataset_stats()["processed_examples"] == 4


def test_each_report_lists_its_own_skipped_examples(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    first = manager.train(validation_split=0.34, verbose=False)
    session = manager.data_manager.get_session(first["session"]["session_id"])
    learned, held_out = session.training_ids[0], session.validation_ids[0]
    for example_id in (learned, held_out):
        Path(manager.data_manager.get_example(example_id).source_path).unlink()
    again = manager.train(validation_split=0.34, verbose=False, reevaluate=True)
    assert list(again["validation"]["skipped"]) == [held_out]
    assert set(manager.data_manager.get_session(again["session"]["session_id"]).skipped) == {learned, held_out}


def test_sizes_that_no_longer_agree_skip_the_example(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    example = manager.data_manager.get_all_examples()[0]
    truth = save(tmp_path / "other.png", picture(5, 8, 8))
    mismatched = attrs.evolve(example, ground_truth_path=str(truth), files=None)
    put_examples(manager.data_manager, mismatched)
    results = manager.train(validation_split=0.0, verbose=False)
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert "must have the same size, got 16×12 and 8×8" in session.skipped[example.example_id]


def test_contents_that_were_recorded_with_a_wrong_size_skip_the_example(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    example, other = manager.data_manager.get_all_examples()
    truth = save(tmp_path / "other.png", picture(5, 8, 8))
    digest = hashlib.sha256(truth.read_bytes()).hexdigest()
    files = example.known_files
    wrong = attrs.evolve(files, ground_truth=attrs.evolve(files.ground_truth, sha256=digest))
    put_examples(manager.data_manager, attrs.evolve(example, ground_truth_path=str(truth), files=wrong))
    results = manager.train(validation_split=0.0, verbose=False)
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert list(session.skipped) == [example.example_id] != [other.example_id]


def test_if_nothing_can_be_evaluated_the_session_has_failed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    for example in manager.data_manager.get_all_examples():
        Path(example.target_path).unlink()
    with pytest.raises(NothingEvaluatedError, match="no example could be evaluated"):
        manager.train(verbose=False)
    with pytest.raises(NothingEvaluatedError):
        manager.validate()
    assert [session.status for session in manager.data_manager.get_all_sessions()] == ["failed"]


def test_if_every_worker_fails_everywhere_the_session_has_failed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=7, pool=pool_of(failing("a"), failing("b", SystemExit(3))))
    with pytest.raises(NothingEvaluatedError, match=r"every worker failed .*and 2 more") as caught:
        manager.train(validation_split=0.0, verbose=False)
    assert "SystemExit" in str(caught.value)
    assert manager.data_manager.get_all_sessions()[-1].status == "failed"
    with pytest.raises(NothingEvaluatedError):
        manager.training_engine.train_on_example(manager.data_manager.get_all_examples()[0])


def test_an_empty_pool_is_refused_before_any_work(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, pool=WorkerPool())
    for action in (manager.train, manager.validate, lambda: manager.predict(picture(1), picture(2))):
        with pytest.raises(NoWorkersError):
            action()
    with pytest.raises(NoWorkersError):
        manager.training_engine.evaluator.evaluate(manager.data_manager.get_all_examples())
    assert manager.data_manager.get_all_sessions() == []


def test_no_examples_are_refused_before_any_work(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0)
    for action in (
        manager.train,
        manager.validate,
        lambda: manager.training_engine.train_batch([]),
        lambda: manager.training_engine.validate([]),
    ):
        with pytest.raises(NoExamplesError):
            action()


@pytest.mark.parametrize(("nearly", "exact"), [(1.0 + 2e-16, 1.0), (np.nextafter(1.0, 2.0), 1.0), (-1e-12, 0.0)])
def test_a_metric_may_miss_its_range_by_rounding(tmp_path: Path, nearly: float, exact: float) -> None:
    manager = manager_with(tmp_path, examples=2, engine_factory=TrainingEngine.using(lambda output, truth: nearly))
    assert manager.validate()["avg_accuracy"] == exact


def test_numbers_of_numpy_count() -> None:
    assert check_whole_number("epochs", np.int64(2)) == 2
    assert BayesianWeightLearner(alpha=np.float32(0.5)).alpha == 0.5  # type: ignore[arg-type]


def test_the_memory_budget_is_checked() -> None:
    with pytest.raises(InvalidArgumentError, match="memory_budget"):
        TrainingEngine(usual_pool(), BayesianWeightLearner(), InMemoryStore(), memory_budget=0)


# --- stopping and being interrupted ---------------------------------------------------------------------------------


def test_should_stop_interrupts_the_session_and_keeps_evaluations(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = manager_with(tmp_path, pool=usual_pool(calls))
    uninterrupted = manager_with(tmp_path)
    before = manager.weight_learner.cell.whole()
    done: list[Progress] = []
    with pytest.raises(TrainingStoppedError, match="again continues where it ended"):
        manager.train(verbose=False, on_progress=done.append, should_stop=lambda: len(done) >= 2)
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.status == "interrupted"
    assert session.end_time is not None
    assert manager.weight_learner.cell.whole() == before
    manager.train(verbose=False)
    uninterrupted.train(verbose=False)
    assert sorted(calls) == sorted(["far", "mid", "near"] * 6)
    assert manager.weight_learner.get_all_weights() == uninterrupted.weight_learner.get_all_weights()


def test_an_error_of_the_callback_fails_the_session_and_is_passed_on(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)

    def broken(progress: Progress) -> None:
        raise LookupError("no such widget")

    with pytest.raises(LookupError, match="no such widget"):
        manager.train(verbose=False, on_progress=broken)
    assert manager.data_manager.get_all_sessions()[-1].status == "failed"


def test_a_store_that_cannot_note_the_end_does_not_hide_the_first_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(InMemoryStore):
        def commit_session(self, *arguments: Any) -> Any:
            raise OSError("disk gone")

    manager = manager_with(tmp_path, storage=Forgetful())
    with pytest.raises(OSError, match="disk gone"), caplog.at_level(logging.WARNING, "tsm_training"):
        manager.train(verbose=False)
    assert "could not note" in caplog.text
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}


def test_an_interrupt_behind_the_commit_leaves_a_completed_session(tmp_path: Path) -> None:
    class InterruptedLate(InMemoryStore):
        def commit_session(self, *arguments: Any) -> Any:
            super().commit_session(*arguments)
            raise KeyboardInterrupt

    manager = manager_with(tmp_path, storage=InterruptedLate())
    with pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False)
    assert manager.data_manager.get_all_sessions()[-1].status == "completed"
    assert manager.get_training_progress()["current_weights"]["near"] > 1.0


def test_a_learner_is_trained_by_one_call_at_a_time(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    entered, leave = threading.Event(), threading.Event()

    def wait(progress: Progress) -> None:
        entered.set()
        assert leave.wait(20)

    thread = threading.Thread(target=lambda: manager.train(verbose=False, on_progress=wait))
    thread.start()
    assert entered.wait(20)
    try:
        with pytest.raises(TrainingInProgressError, match="already being trained"):
            manager.train(verbose=False)
        with pytest.raises(TrainingInProgressError):
            manager.reset_weights()
        trial = manager.with_learner(manager.weight_learner.fork())
        trial.train(verbose=False)
    finally:
        leave.set()
        thread.join()
    assert len(manager.data_manager.get_all_sessions()) == 2


# --- learning -------------------------------------------------------------------------------------------------------


def test_training_on_one_example_again_makes_it_count_more(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    example = manager.data_manager.get_all_examples()[0]
    weights = []
    for _ in range(3):
        outcomes = manager.training_engine.train_on_example(example)
        weights.append(manager.weight_learner.get_weight("near"))
    assert outcomes["near"]["is_valid"]
    assert 1.0 < weights[0] < weights[1] < weights[2]
    assert manager.weight_learner.get_statistics("near")["update_count"] == 1
    assert learned_by(manager).rows.keys() == {example.known_files.digest}


def test_only_stored_examples_are_learned_from(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    example = manager.data_manager.get_all_examples()[0]
    manager.remove_training_example(example.example_id)
    with pytest.raises(ExampleNotFoundError):
        manager.training_engine.train_batch([example], verbose=False)
    with pytest.raises(ExampleNotFoundError):
        manager.training_engine.train_on_example(example)
    assert learned_by(manager).rows == {}


def test_metrics_history_describes_every_epoch(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    history = manager.train(epochs=4, validation_split=0.0, verbose=False)["session"]["metrics_history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert min(entry["avg_accuracy"] for entry in history) > history[0]["equal_weights_accuracy"]
    assert history[-1]["weights"] == manager.weight_learner.get_all_weights()
    statistics = manager.weight_learner.get_all_statistics()
    assert history[-1]["weight_stds"] == {worker_id: known["weight_std"] for worker_id, known in statistics.items()}
    assert history[-1]["blend_weights"] == manager.weight_learner.get_blend_weights()
    changes = [entry["max_weight_change"] for entry in history]
    assert changes == sorted(changes, reverse=True)


def test_a_session_passes_through_running_to_completed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    seen: list[str] = []

    def look(progress: Progress) -> None:
        seen.append(manager.data_manager.get_all_sessions()[-1].status)

    results = manager.train(verbose=False, on_progress=look)
    assert set(seen) == {"running"}
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert session.status == "completed"
    assert session.end_time is not None
    assert session.end_time >= session.start_time
    assert session.initial_weights == {"far": 1.0, "mid": 1.0, "near": 1.0}
    assert session.validation == results["validation"]
    assert json.dumps(session.to_dict(), allow_nan=False)


# --- a pool that is not ours ----------------------------------------------------------------------------------------


def host_pool() -> HostPool:
    return HostPool(
        {
            "near": lambda source, target: brighter(target, 22),
            "far": lambda source, target: brighter(target, -60),
            "bad": lambda source, target: "no picture",
        }
    )


def test_a_foreign_pool_trains_validates_and_predicts(tmp_path: Path) -> None:
    pool = host_pool()
    manager = manager_with(tmp_path, pool=pool)
    results = manager.train(epochs=3, verbose=False)
    assert results["session"]["initial_weights"] == {"bad": 1.0, "far": 1.0, "near": 1.0}
    weights = results["session"]["final_weights"]
    assert weights["near"] > 1.0 > weights["far"] > weights["bad"]
    assert results["validation"]["ensemble_accuracy"] is not None
    assert results["validation"]["failures"] == {"bad": 1, "far": 0, "near": 0}
    assert len(pool.requests) == 6
    assert manager.validate()["num_examples"] == 6
    prediction = manager.predict(picture(1), picture(2))
    assert prediction.blend_weights["near"] > prediction.blend_weights["far"]
    assert prediction.results["bad"].failure is not None


def test_a_foreign_pool_predicts_before_it_was_trained(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0, pool=host_pool())
    prediction = manager.predict(picture(1), picture(2))
    assert prediction.blend_weights == {"far": 0.5, "near": 0.5}


def test_results_of_a_foreign_pool_are_not_reused_unless_it_declares_a_version(tmp_path: Path) -> None:
    pool = host_pool()
    manager = manager_with(tmp_path, examples=3, pool=pool)
    manager.train(verbose=False)
    manager.train(verbose=False)
    assert len(pool.requests) == 6

    versioned = host_pool()
    versioned.version = "1"  # type: ignore[attr-defined]
    manager = manager_with(tmp_path, examples=3, pool=versioned)
    first = manager.train(verbose=False)
    again = manager.train(verbose=False, reevaluate=False)
    assert len(versioned.requests) == 3
    assert first["validation"]["ensemble_accuracy"] is not None
    assert again["session"]["initial_weights"] == first["session"]["final_weights"]
    manager.train(verbose=False, reevaluate=True)
    assert len(versioned.requests) == 6


def test_previews_of_a_foreign_pool_take_a_bounded_part_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manager_with(tmp_path, pool=host_pool())
    monkeypatch.setattr("tsm_training.evaluation.keeping.PREVIEW_BYTES", 5000)
    report = manager.validate()
    assert 0 < report["ensemble_examples"] < report["num_examples"] == 6


def test_a_foreign_pool_skips_what_cannot_be_read(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3, pool=host_pool())
    example = manager.data_manager.get_all_examples()[0]
    Path(example.target_path).unlink()
    results = manager.train(validation_split=0.0, verbose=False)
    assert results["session"]["num_examples"] == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "returned no results"),
        (None, "failed (TypeError"),
        ({"a": 1}, "failed (AttributeError"),
        ([HostResult("a", picture(1)), HostResult("a", picture(2))], "returned several results of worker 'a'"),
        (ZeroDivisionError("down"), "failed (ZeroDivisionError: down)"),
    ],
)
def test_a_foreign_pool_that_gives_no_results_is_named(tmp_path: Path, answer: Any, reason: str) -> None:
    class Pool:
        def execute_parallel(self, data: dict[str, Image]) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    manager = manager_with(tmp_path, examples=2, pool=Pool())
    with pytest.raises(NothingEvaluatedError) as caught:
        manager.train(verbose=False)
    assert f"the worker pool {Pool.__qualname__} {reason}" in next(iter(caught.value.reasons.values()))
    with pytest.raises(WorkerPoolError) as refused:
        manager.predict(picture(1), picture(2))
    assert refused.value.reason.startswith(reason)


def test_results_that_the_foreign_pool_calls_invalid_are_failures(tmp_path: Path) -> None:
    class Pool:
        def execute_parallel(self, data: dict[str, Image]) -> list[HostResult]:
            return [HostResult("off", data["target"], valid=False), HostResult("on", data["target"])]

    manager = manager_with(tmp_path, pool=Pool())
    manager.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_weight("off") < manager.weight_learner.get_weight("on")


def test_a_pool_that_runs_its_workers_in_its_own_way_is_left_to_do_so(tmp_path: Path) -> None:
    class Sequential(WorkerPool):
        def execute_parallel(self, data: Any, /) -> Any:
            seen.append(1)
            return super().execute_parallel(data)

    seen: list[int] = []
    pool = Sequential()
    pool.register_worker(brightening("near", 20))
    manager = manager_with(tmp_path, examples=2, pool=pool)
    manager.train(validation_split=0.0, verbose=False)
    assert len(seen) == 2


# --- validating -----------------------------------------------------------------------------------------------------


def test_validation_judges_the_blended_picture(tmp_path: Path) -> None:
    pool = pool_of(brightening("dark", -20), brightening("light", 60))
    manager = manager_with(tmp_path, pool=pool, engine_factory=ByBrightness)
    report = manager.validate()
    assert report["ensemble_accuracy"] is not None
    assert report["avg_accuracy"] is not None
    assert report["ensemble_accuracy"] > report["avg_accuracy"] + 0.05
    assert report["ensemble_examples"] == report["num_examples"] == report["unseen_examples"] == 6


def test_workers_that_score_otherwise_on_the_same_pictures_are_named(tmp_path: Path) -> None:
    later = tmp_path / "later"  # a file, since what a function closes over is part of its fingerprint

    def moody(_source: Image, target: Image) -> Image:
        return target if later.exists() else 255 - target

    def fainting(_source: Image, target: Image) -> Image | None:
        return None if later.exists() else target

    others = (FunctionWorker("moody", moody), FunctionWorker("fainting", fainting), LearnedLook())
    manager = manager_with(tmp_path, examples=3, pool=pool_of(brightening("steady", 10), *others))
    assert manager.train(verbose=False)["validation"]["unrepeatable"] == {}
    later.touch()
    assert manager.validate()["unrepeatable"] == {}  # for nothing was run
    found = manager.validate(reevaluate=True)["unrepeatable"]
    assert found.keys() == {"moody", "fainting"}
    assert found["fainting"] == 1.0
    assert 0.0 < found["moody"] < 1.0
    assert manager.validate(reevaluate=True)["unrepeatable"] == {}


def test_without_previews_the_blend_is_not_judged(tmp_path: Path) -> None:
    class NoPreviews(InMemoryStore):
        def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
            return {}

    manager = manager_with(tmp_path, storage=NoPreviews())
    report = manager.validate()
    assert report["ensemble_accuracy"] is None
    assert report["ensemble_examples"] == 0
    assert report["avg_accuracy"] is not None


def test_a_worker_that_always_fails_has_no_accuracies(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, pool=pool_of(brightening("near", 20), failing("bad")))
    report = manager.validate()
    assert report["worker_accuracies"]["bad"] == {"mean": None, "std": None, "min": None, "max": None}
    assert json.dumps(report, allow_nan=False)


def test_examples_without_known_contents_are_looked_at_when_first_used(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    bare = [attrs.evolve(e, files=None) for e in manager.data_manager.get_all_examples()]
    bare[2] = attrs.evolve(bare[2], target_path=str(tmp_path / "gone.png"))
    put_examples(manager.data_manager, *bare)
    results = manager.train(validation_split=0.0, verbose=False)
    assert results["session"]["num_examples"] == 2
    assert [e.files is not None for e in manager.data_manager.get_all_examples()] == [True, True, False]
    session = manager.data_manager.get_session(results["session"]["session_id"])
    assert list(session.skipped) == [bare[2].example_id]


# --- predicting -----------------------------------------------------------------------------------------------------


def test_the_blend_is_the_weighted_mean_of_the_pictures(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0, pool=pool_of(brightening("a", 0), brightening("b", 10)))
    target = np.full((4, 5, 3), 100, np.uint8)
    prediction = manager.predict(picture(1), target)
    assert prediction.blend_weights == {"a": 0.5, "b": 0.5}
    assert np.all(prediction.image == 105)


def test_workers_with_a_negligible_share_are_not_run_unless_asked(tmp_path: Path) -> None:
    calls: list[str] = []
    manager = manager_with(
        tmp_path,
        examples=30,
        pool=usual_pool(calls),
        learner=BayesianWeightLearner(alpha=1.0),
        engine_factory=TrainingEngine.using(GuideSimilarity(), blend_solver="best_single"),
    )
    manager.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_blend_weights()["far"] < 0.001
    calls.clear()
    lean = manager.predict(picture(1), picture(2))
    assert "far" not in calls
    full = manager.predict(picture(1), picture(2), run_all=True)
    assert calls.count("far") == 1
    assert set(full.results) == {"far", "mid", "near"}
    assert set(lean.results) < set(full.results)


def test_shares_are_renormalised_over_the_workers_that_succeed(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0, pool=pool_of(brightening("a", 5), failing("b"), brightening("c", 5)))
    prediction = manager.predict(picture(1), picture(2))
    assert prediction.blend_weights == {"a": 0.5, "c": 0.5}
    assert np.array_equal(prediction.image, brighter(picture(2), 5))
    assert set(prediction.results) == {"a", "b", "c"}


def test_if_all_workers_with_a_share_fail_the_others_are_asked(tmp_path: Path) -> None:
    fails = {"now": False}

    def near(source: Image, target: Image) -> Image:
        if fails["now"]:
            raise RuntimeError("down")
        return brighter(target, 20)

    pool = pool_of(FunctionWorker("near", near, version="1"), brightening("far", -90))
    manager = manager_with(tmp_path, examples=30, pool=pool, learner=BayesianWeightLearner(alpha=1.0))
    manager.train(validation_split=0.0, verbose=False)
    assert manager.weight_learner.get_blend_weights()["far"] < 0.001
    fails["now"] = True
    prediction = manager.predict(picture(1), picture(2))
    assert prediction.blend_weights == {"far": 1.0}


def test_if_no_worker_succeeds_every_reason_is_told(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=0, pool=pool_of(failing("a"), failing("b", ValueError("wrong mood"))))
    with pytest.raises(PredictionError, match="wrong mood") as caught:
        manager.predict(picture(1), picture(2))
    assert set(caught.value.reasons) == {"a", "b"}


@pytest.mark.parametrize("bad", [None, 3, np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_only_pictures_are_answered(tmp_path: Path, bad: Any) -> None:
    manager = manager_with(tmp_path, examples=0)
    with pytest.raises(InvalidArgumentError, match="source must be a uint8 array"):
        manager.predict(bad, picture(1))
    with pytest.raises(InvalidArgumentError, match="target must be a uint8 array"):
        manager.predict(picture(1), bad)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_blend_does_not_depend_on_the_order_of_pictures() -> None:
    pictures = {name: picture(seed, 40, 30) for seed, name in enumerate("abc")}
    shares = {"a": 0.2, "b": 0.3, "c": 0.5}
    turned = dict(reversed(pictures.items()))
    assert np.array_equal(blend(pictures, shares), blend(turned, shares))
    exact = sum(shares[name] * pictures[name].astype(np.float64) for name in shares)
    assert np.abs(blend(pictures, shares) - exact).max() <= 0.5 + 1e-4


def test_a_blend_of_one_is_a_copy() -> None:
    only = picture(1)
    result = blend({"a": only, "b": picture(2)}, {"a": 1.0, "b": 0.0})
    assert np.array_equal(result, only)
    assert not np.shares_memory(result, only)


def test_renormalised_shares() -> None:
    assert renormalised({"a": 0.2, "b": 0.6, "c": 0.2}, ["b", "a"]) == pytest.approx({"a": 0.25, "b": 0.75})
    assert renormalised({"a": 0.0}, ["a", "z"]) == {"a": 0.5, "z": 0.5}
    assert renormalised({"a": 1.0}, []) == {}


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (96, 96), (97, 64), (1000, 1), (300, 400)])
def test_previews_are_pixels_of_the_picture_on_one_grid(size: tuple[int, int]) -> None:
    rows, columns = np.indices(size)
    image = np.stack([rows % 256, columns % 256, rows // 256 + 16 * (columns // 256)], axis=-1).astype(np.uint8)
    sample = sample_grid(image)
    assert max(sample.shape[:2]) <= 96
    assert sample.shape[0] >= 1
    seen = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in sample.reshape(-1, 3).tolist()} <= seen
    assert np.array_equal(decode_preview(encode_preview(sample)), sample)
    if max(size) <= 96:
        assert np.array_equal(sample, image)


def test_preview_names_tell_versions_apart() -> None:
    assert preview_name("a", "1") != preview_name("a", "2")


def test_figures_over_nothing_are_none() -> None:
    assert mean([]) is None
    assert mean([None, None]) is None


def test_an_evaluation_is_kept_while_a_longer_one_goes_on(tmp_path: Path) -> None:
    release = threading.Event()

    def patient(_source: Image, target: Image) -> Image:
        if np.array_equal(target, marked):
            release.wait(60)
        return target

    manager = manager_with(tmp_path, 2, pool=pool_of(FunctionWorker("patient", patient, version="1")))
    first, second = manager.data_manager.get_all_examples()
    marked = read_image(second.target_path)
    kept: list[int] = []

    def stop_when_the_first_is_kept() -> bool:
        kept.append(len(manager.data_manager.load_evaluations([first.known_files.digest])))
        if kept[-1]:
            release.set()
        return False

    manager.train(validation_split=0, verbose=False, should_stop=stop_when_the_first_is_kept)
    assert kept[0] == 0
    assert kept[-1] == 1
