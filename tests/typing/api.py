"""Uses the library the way its users do; mypy and pyright read this file, nothing runs it.

A line with two ignores must fail to type-check with both: an ignore that is not needed is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import attrs
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tsm_training import (
    BayesianWeightLearner,
    ColorDifference,
    CombinedMetric,
    FunctionWorker,
    GuideSimilarity,
    HistogramDistance,
    Image,
    InMemoryStore,
    LintFinding,
    LintReport,
    Metric,
    PeakSignalToNoise,
    Prediction,
    Progress,
    StructuralSimilarity,
    ThreadRunner,
    TrainingDataManager,
    TrainingEngine,
    TrainingExample,
    TrainingManager,
    TrainingResults,
    TrainingSession,
    TrainingStore,
    ValidationResults,
    WeightLearner,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerResult,
    WorkerRunner,
    create_color_transfer_workers,
)
from tsm_training.analysis import Baseline, BestWorker, Comparison, Conclusion, VerdictDocument
from tsm_training.documents import ResetRequest, TrainRequest, ValidateRequest
from tsm_training.engine import (
    BaselineMean,
    CrossValidationResults,
    ExampleJudgement,
    Explanation,
    SubsetAdvice,
    Validation,
)
from tsm_training.ensemble import BlendFit, BlendProblem, BlendSolver, Greedy, LeastSquares, fit_blend
from tsm_training.isolation import IsolatedRunner
from tsm_training.lint import LintDocument, LintKind, Severity, lint
from tsm_training.metrics import bgr_to_lab, ciede2000, color_difference, color_difference_map, structural_similarity
from tsm_training.plots import plot_contenders, plot_examples, plot_learning_curve, plot_weights, plot_workers
from tsm_training.report import Shown, contact_sheet
from tsm_training.report import show as shown
from tsm_training.sql import SQLStore
from tsm_training.storage import StorageFault
from tsm_training.workers import WorkerRequest, run_worker


class Negative(Worker):
    worker_id = "negative"

    def process(self, data: Mapping[str, Image]) -> Image:
        return 255 - data["target"]


@attrs.frozen
class Brighter(Worker):
    worker_id: str = "brighter"
    version: str = "2"
    levels: int = 10

    def process(self, data: Mapping[str, Image]) -> Image:
        return np.minimum(255, data["target"].astype(np.int32) + self.levels).astype(np.uint8)

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        return 0.5


@attrs.frozen
class ForeignResult:
    """A frozen class of a host's own: read-only attributes must satisfy the protocol."""

    worker_id: str
    value: Image
    confidence: float

    def is_valid(self) -> bool:
        return True


class ForeignPool:
    def execute_parallel(self, data: dict[str, Image]) -> Sequence[ForeignResult]:
        return [ForeignResult("copy", data["target"], 1.0)]


class InThisThread:
    """A runner of a host's own."""

    def check(self, workers: Sequence[Worker]) -> None:
        return None

    def run(self, worker: Worker, request: WorkerRequest) -> WorkerResult:
        return run_worker(worker, request)


@attrs.frozen
class Limited(Worker):
    """A limit of a worker's own, as a field or as a class attribute."""

    worker_id: str = "limited"
    time_limit: float | None = 2.5

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"]


def runners(pool: WorkerPool) -> None:
    assert_type(pool.runner, WorkerRunner)
    WorkerPool(runner=ThreadRunner(time_limit=10.0)).register_worker(Limited(time_limit=None))
    WorkerPool(4, runner=InThisThread())
    with IsolatedRunner(time_limit=10.0, memory_limit=1 << 30, max_processes=2) as runner:
        assert_type(runner, IsolatedRunner)
        isolated: WorkerRunner = runner
        WorkerPool(runner=isolated).register_worker(FunctionWorker("w", lambda source, target: target, time_limit=3))
    # the runner goes by name
    WorkerPool(4, ThreadRunner())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WorkerPool(runner=ThreadRunner)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.runner = ThreadRunner()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen


class ByBrightness(TrainingEngine):
    def calculate_similarity(self, img1: Image, img2: Image) -> float:
        return 1.0 - abs(float(img1.mean()) - float(img2.mean())) / 255.0


def closeness(output: Image, ground_truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(int) - ground_truth).mean()) / 255.0


def show(progress: Progress) -> None:
    assert_type(progress.done, int)
    assert_type(progress.accuracy, float | None)


def guide() -> None:
    pool = WorkerPool(max_workers=10)
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    pool.register_worker(Negative())
    pool.register_worker(Brighter(levels=20))
    pool.register_worker(FunctionWorker("copy", lambda source, target: target))
    learner = BayesianWeightLearner(alpha=0.15)
    manager = TrainingManager(pool, learner)
    TrainingManager(pool, learner, "positional.db")
    TrainingManager(pool, learner, db_path=Path("x.db"))
    TrainingManager(pool, learner, storage=InMemoryStore())
    server = SQLStore("postgresql+psycopg://trainer@host/training", busy_timeout=5, lease=120, read_only=False)
    TrainingManager(pool, learner, storage=server)
    assert_type(server.check(), list[StorageFault])
    TrainingManager(pool, learner, engine_factory=ByBrightness)
    TrainingManager(pool, learner, engine_factory=TrainingEngine.using(closeness))
    TrainingManager(ForeignPool(), learner, restore=True)

    example = manager.add_training_example("s.jpg", Path("t.jpg"), "g.jpg", metadata={"style": "sunset"})
    assert_type(example, TrainingExample)
    assert_type(example.metadata, Mapping[str, Any])
    results = manager.train(epochs=3, validation_split=0.2, verbose=True, on_progress=show, should_stop=lambda: False)
    assert_type(results, TrainingResults)
    assert_type(results["session"]["initial_weights"], dict[str, float])
    assert_type(results["validation"]["avg_accuracy"], float | None)
    assert_type(manager.validate(), ValidationResults)
    prediction = manager.predict("s.jpg", np.zeros((2, 2, 3), np.uint8))
    assert_type(prediction, Prediction)
    assert_type(prediction.image, Image)
    assert_type(prediction.results["copy"], WorkerResult)
    session = manager.training_engine.train_batch([example], epochs=1, verbose=True)
    assert_type(session, TrainingSession)
    assert_type(session.metrics_history[-1]["avg_accuracy"], float)
    trial = manager.with_learner(manager.weight_learner.with_alpha(0.1).fork())
    assert_type(manager.adopt(trial.weight_learner), TrainingManager)
    with manager as same:
        assert_type(same.data_manager.get_all_examples(limit=3), list[TrainingExample])

    train: TrainRequest = {"num_examples": 20, "epochs": 3, "validation_split": 0.2, "verbose": False}
    validate: ValidateRequest = {"example_ids": ["a", "b"]}
    reset: ResetRequest = {"default_weight": 1.0}
    manager.train(**train)
    manager.validate(**validate)
    manager.reset_weights(**reset)


def roles(pool: WorkerPoolLike, learner: WeightLearner, store: TrainingStore, metric: Metric) -> None:
    TrainingManager(pool, learner, storage=store, engine_factory=TrainingEngine.using(metric))


roles(WorkerPool(), BayesianWeightLearner(), InMemoryStore(), GuideSimilarity())
for judge in (ColorDifference(), StructuralSimilarity("bgr"), PeakSignalToNoise(), HistogramDistance()):
    roles(WorkerPool(), BayesianWeightLearner(), InMemoryStore(), judge)
roles(
    WorkerPool(), BayesianWeightLearner(), InMemoryStore(), CombinedMetric([(0.7, ColorDifference()), (1, closeness)])
)
roles(ForeignPool(), BayesianWeightLearner(), TrainingDataManager("x.db"), closeness)


def reports(manager: TrainingManager, results: TrainingResults, path: Path) -> None:
    assert_type(manager.report(path, title="mine", example_ids=["a"], rows=2, check_dataset=False), Path)
    manager.report("report.html")
    assert_type(contact_sheet(manager, ["a"], rows=1, max_pixels=500), Image)
    assert_type(shown(results), Shown)
    shown(results["validation"])
    shown(manager.cross_validate(2))
    shown(manager.explain())
    shown(manager.get_training_progress())
    shown(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    contact_sheet(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def must_fail(manager: TrainingManager, learner: BayesianWeightLearner, results: TrainingResults) -> None:
    # frozen: with_alpha(0.2) gives another learner
    learner.alpha = 0.2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    # frozen: with_learner(learner) gives another manager
    manager.weight_learner = learner  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    # misspelt
    results["session"]["intial_weights"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
    # None where nothing was validated
    results["validation"]["avg_accuracy"] + 1.0  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand, reportUnusedExpression]
    manager.train(epochs="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # the seed goes by name
    manager.train(1, 1, 0.2, True, 0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    TrainingManager(WorkerPool(), learner, storage="x.db")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    TrainingManager(object(), learner)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FunctionWorker("one", lambda target: target)  # type: ignore[misc,arg-type]  # pyright: ignore[reportArgumentType]
    WorkerPool().register_worker(closeness)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StructuralSimilarity("lab")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CombinedMetric([(closeness, 1)])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ColorDifference().version = "2"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

    class Judge(TrainingEngine):
        # one hook only
        def validate(self, examples: Sequence[TrainingExample]) -> None:  # type: ignore[override,misc]  # pyright: ignore[reportIncompatibleMethodOverride]
            return None

    TrainingManager(WorkerPool(), learner, engine_factory=Judge)

    class Idle(Worker):
        worker_id = "idle"

    Idle()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]  # has no process


def colors(picture: Image) -> None:
    assert_type(color_difference(picture, picture), float)
    assert_type(color_difference_map(picture, picture), npt.NDArray[np.float32])
    assert_type(ciede2000(bgr_to_lab(picture), [50.0, 0.0, 0.0]), npt.NDArray[np.float64])
    assert_type(structural_similarity(picture, picture, channels="bgr"), float)
    assert_type(ColorDifference().prepare(picture)(picture), float)


def care(path: Path) -> None:
    store = TrainingDataManager(path, busy_timeout=5, read_only=True)
    assert_type(store.is_read_only, bool)
    assert_type(store.check(), list[StorageFault])
    assert_type(store.quarantine(), list[StorageFault])
    store.backup(path)
    store.backup("copy.db")
    assert_type(store.check()[0].column, str | None)
    TrainingDataManager(path, 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Halves:
    """A solver of a host's own: it inherits nothing."""

    name = "halves"

    def solve(self, problem: BlendProblem, /) -> dict[str, float]:
        assert_type(problem.score({"copy": 1.0}), float)
        assert_type(problem.accuracies, Mapping[str, float])
        assert_type(problem.error_matrix, npt.NDArray[np.float64])
        return dict.fromkeys(problem.worker_ids[:2], 0.5)


@attrs.frozen
class Best:
    """A solver with a setting, as a frozen class."""

    name: str = "best"
    least: float = 0.1

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        return problem.posterior


def blends(pool: WorkerPool, learner: BayesianWeightLearner) -> None:
    solvers: list[BlendSolver] = [Halves(), Best(least=0.2), Greedy(candidates=2), LeastSquares()]
    for solver in solvers:
        TrainingEngine(pool, learner, InMemoryStore(), blend_solver=solver)
        assert_type(fit_blend([], solver), BlendFit | None)
    TrainingManager(pool, learner, engine_factory=TrainingEngine.using(closeness, blend_solver="greedy", rope=0.01))
    TrainingEngine(pool, learner, InMemoryStore(), blend_solver=closeness)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Greedy(candidates="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def answers(manager: TrainingManager) -> None:
    validation = manager.train(group_by="style")["validation"]
    assert_type(validation["contenders"]["trained"]["mean"], float | None)
    assert_type(validation["contenders"]["trained"]["blend_weights"], dict[str, float] | None)
    assert_type(validation["verdict"], VerdictDocument)
    assert_type(validation["per_example"], list[ExampleJudgement])
    record = Validation.from_document(validation)
    assert_type(record.baselines[Baseline.TRAINED], BaselineMean)
    assert_type(record.to_document(), ValidationResults)
    assert_type(Baseline.UNTOUCHED.label, str)
    assert_type(manager.validate(["a", "b"], full=True), ValidationResults)
    manager.predict("s.jpg", "t.jpg", group="sunset", run_all=True)
    manager.predict("s.jpg", "t.jpg", group=3)
    crossed = manager.cross_validate(3, epochs=2, seed=1, group_by="style", on_progress=show)
    assert_type(crossed, CrossValidationResults)
    assert_type(crossed["blend_weights"], list[dict[str, float]])
    comparison = manager.compare("copy", "negative", rope=0.01, example_ids=["a"])
    assert_type(comparison, Comparison)
    assert_type(comparison.conclusion, Conclusion)
    assert_type(manager.probability_best(), BestWorker)
    explanation = manager.explain(tolerance=0.01)
    assert_type(explanation, Explanation)
    assert_type(explanation["workers"]["copy"]["gain"], float | None)
    assert_type(explanation["subset"], SubsetAdvice | None)
    manager.predict("s.jpg", "t.jpg", group=["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # settings go by name
    manager.cross_validate(3, 2, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    manager.compare("copy", "negative", 0.01)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    # misspelt
    explanation["worker"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
    comparison.n = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen


def dataset(manager: TrainingManager, path: Path) -> None:
    report = manager.lint()
    assert_type(report, LintReport)
    assert_type(report.to_dict(), LintDocument)
    for finding in report:
        assert_type(finding, LintFinding)
        assert_type(finding.kind, LintKind)
        assert_type(finding.severity, Severity)
    manager.lint([("s.jpg", path, "g.jpg"), (path, "t.jpg", "g.jpg", {"style": "film"})], group_by="style")
    lint([("s.jpg", path, "g.jpg"), ["s.jpg", "t.jpg", "g.jpg"]], min_group=5)
    manager.lint(run_workers=True)
    report.of_kind("swaped")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # misspelt
    report.findings[0].kind = "swapped"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen


def plots(manager: TrainingManager, results: TrainingResults, session: TrainingSession) -> None:
    assert_type(plot_weights(manager), Figure)
    plot_weights(manager.weight_learner, highlight=["negative"])
    plot_weights(manager.weight_learner.get_all_statistics())
    plot_weights(manager.data_manager.get_all_sessions())
    plot_learning_curve(session)
    plot_learning_curve(results)
    plot_learning_curve(results["session"])
    plot_workers(manager, example_ids=["a"], rope=0.01)
    plot_workers(manager.training_engine.score_table(manager.data_manager.get_all_examples()))
    plot_contenders(results)
    plot_contenders(results["validation"])
    plot_contenders(manager.cross_validate(3))
    plot_contenders(session)
    plot_examples(manager.validate(), manager.data_manager.get_all_examples(), most=10)
    plot_contenders(manager)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
