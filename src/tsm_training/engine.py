"""The engine: evaluates examples, learns from them, validates, and answers requests."""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, cast, final

import attrs
import numpy as np

from tsm_training.analysis import DEFAULT_ROPE, ScoreTable, check_rope
from tsm_training.arguments import at_least, check_callable, check_seed, check_whole_number
from tsm_training.arrays import Image, check_image
from tsm_training.data import ExampleEdit, ExampleScores, TrainingExample, TrainingSession, TrainingStore, WorkerOutcome
from tsm_training.ensemble import NEGLIGIBLE_SHARE, BlendSolver, Prediction, blend, renormalised, solver_named
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    InvalidArgumentError,
    NoExamplesError,
    NothingEvaluatedError,
    NoWorkersError,
    PredictionError,
    WeightsFileError,
    WorkerNotFittedError,
    WorkerPoolError,
)
from tsm_training.evaluation import (
    CacheEntry,
    ContenderMean,
    CrossValidationResults,
    Evaluator,
    ExampleJudgement,
    Explanation,
    StopRequest,
    SubsetAdvice,
    ValidationDocument,
    ValidationResults,
    WorkerExplanation,
    check_group_by,
    describe_files,
    forgotten,
    nothing_validated,
    own_workers,
)
from tsm_training.evaluation.contenders import Contenders, Shares, shares_for
from tsm_training.evaluation.crossvalidation import CrossValidation
from tsm_training.evaluation.evaluator import EvaluationRun
from tsm_training.evaluation.explaining import explanation
from tsm_training.evaluation.fitting import Fitter, check_groups, group_label
from tsm_training.evaluation.judging import Judging, Pictures, rival_truths
from tsm_training.evaluation.listener import Listener, listening
from tsm_training.evaluation.previews import Previews
from tsm_training.evaluation.reports import EvaluatedExample, blend_accuracy, worker_means
from tsm_training.evaluation.results import accuracy_table, validation_results
from tsm_training.evaluation.tasks import load_triple
from tsm_training.evaluation.trainables import Fit, Trainables
from tsm_training.evaluation.training import Training
from tsm_training.fingerprints import describe_object, describe_settings
from tsm_training.images import ImageLimits
from tsm_training.metrics import ColorDifference, GuideSimilarity, Metric, prepare_metric
from tsm_training.persistence import LearnerStorage
from tsm_training.progress import ProgressCallback
from tsm_training.weights import WeightLearner, WorkerFit
from tsm_training.workers import (
    TrainableWorker,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    ask_pool,
    run_worker,
)

__all__ = [
    "CacheEntry",
    "ContenderMean",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "Explanation",
    "StopRequest",
    "SubsetAdvice",
    "TrainingEngine",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "check_group_by",
    "describe_files",
    "forgotten",
    "nothing_validated",
    "own_workers",
]

_DEFAULT_BUDGET: Final = 1024**3


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


def _each_once(examples: Iterable[TrainingExample]) -> list[TrainingExample]:
    """Return examples in order, each one once: judged twice, it would count as two."""
    return list({example.example_id: example for example in examples}.values())


def _a_solver(_engine: object, _attribute: object, value: str | BlendSolver) -> None:
    solver_named(value)


@attrs.frozen(eq=False)
class _Asked:
    """A request: two pictures, its group, and what gives the fitted workers that may answer it."""

    source: Image
    target: Image
    group: str | None
    fitted: Mapping[str, Callable[[], Worker]]


@attrs.frozen(eq=False, slots=False)
class TrainingEngine:
    """Runs workers on examples, scores them against the ground truth, and teaches the learner.

    To judge pictures in another way, override `calculate_similarity`, the one hook, or give a metric with `using`.

    Args:
        worker_pool: The ensemble; ours, or any object with ``execute_parallel``.
        weight_learner: What learns.
        store: Where everything is kept.
        metric: What `calculate_similarity` calls unless it is overridden; called in several threads at once.
        executor: Where examples are evaluated; threads of each call's own unless given. With a process pool or a
            cluster, workers and engine must be importable there.
        memory_budget: How many bytes the evaluation of examples may take together; see "Use many cores" in the how-tos.
            An example that needs more by itself runs alone.
        limits: How large picture files may be, and which folder they may come from.
        blend_solver: What fits the shares of the blended picture: ``"auto"`` compares several, and falls back to a
            simple answer where none helps; or the name of one (`tsm_training.ensemble.COMPARED_SOLVERS`), or a
            `BlendSolver`.
        rope: Which difference in accuracy is practically none, for verdicts and comparisons: the region of practical
            equivalence reaches so far to either side, at least 0 and below 1.
        clock: Gives the present time, aware.
        new_id: Gives an id that nothing else has.
    """

    worker_pool: WorkerPoolLike
    weight_learner: WeightLearner
    store: TrainingStore
    metric: Metric = attrs.field(factory=GuideSimilarity, kw_only=True)
    executor: Executor | None = attrs.field(default=None, kw_only=True)
    memory_budget: int = attrs.field(default=_DEFAULT_BUDGET, validator=at_least(1), kw_only=True)
    limits: ImageLimits = attrs.field(factory=ImageLimits, kw_only=True)
    blend_solver: str | BlendSolver = attrs.field(default="auto", validator=_a_solver, kw_only=True)
    rope: float = attrs.field(default=DEFAULT_ROPE, converter=check_rope, kw_only=True)
    clock: Callable[[], datetime] = attrs.field(default=_now, kw_only=True, repr=False)
    new_id: Callable[[], str] = attrs.field(default=_new_id, kw_only=True, repr=False)
    _ready: dict[str, Worker] = attrs.field(factory=dict, init=False, repr=False)
    """Fitted workers, so that a service need not fit or load them for each request; see `Trainables`."""

    @classmethod
    def using(cls, metric: Metric, **settings: Any) -> Callable[..., TrainingEngine]:
        """Return an engine factory whose engines judge by `metric`; further settings are the engine's own.

        >>> from tsm_training.metrics import GuideSimilarity
        >>> factory = TrainingEngine.using(GuideSimilarity(), memory_budget=500_000_000)

        Raises:
            InvalidArgumentError: `metric` cannot be called, or is a class.
        """
        expected = "a callable (output, ground_truth) -> similarity in [0, 1]"
        check_callable("metric", metric, expected)
        if isinstance(metric, type):
            raise InvalidArgumentError("metric", metric, f"{expected}: an instance, {metric.__name__}(), not the class")
        return functools.partial(cls, metric=metric, **settings)

    # --- the hook ---

    def calculate_similarity(self, img1: Image, img2: Image) -> float:
        """Return how near a worker's output comes to the ground truth: a finite number in [0, 1], 1 for the best.

        Override this to judge in another way. It is called positionally, in several threads at once; what it raises,
        and a result outside [0, 1], ends the call with `MetricError`.

        Args:
            img1: The worker's output: uint8, H×W×3, BGR.
            img2: The ground truth, of the same size.
        """
        return self.metric(img1, img2)

    # --- what the evaluation needs of its judge ---

    @property
    def _is_overridden(self) -> bool:
        return type(self).calculate_similarity is not TrainingEngine.calculate_similarity

    @final
    @property
    def metric_name(self) -> str:
        """A name of what judges, for messages."""
        judge = type(self) if self._is_overridden else self.metric
        return getattr(judge, "__qualname__", None) or type(judge).__qualname__

    @final
    @property
    def metric_fingerprint(self) -> str:
        """A text that changes when the scores probably do; see `tsm_training.fingerprints`."""
        if not self._is_overridden:
            return describe_object(self.metric)
        base = {field.name for field in attrs.fields(TrainingEngine)} - {"metric"}
        own = {f.name: getattr(self, f.name) for f in attrs.fields(type(self)) if f.name not in base}
        return describe_object([type(self), own])

    @final
    @property
    def known_metric(self) -> Metric | None:
        """What judges, unless `calculate_similarity` is overridden: it may state how much memory it takes."""
        return None if self._is_overridden else self.metric

    @final
    def scorer(self, ground_truth: Image) -> Callable[[Image], object]:
        """Return a function that scores outputs against one ground truth (uint8, H×W×3, BGR), prepared once."""
        if self._is_overridden:
            return lambda output: self.calculate_similarity(output, ground_truth)
        return prepare_metric(self.metric, ground_truth)

    def __getstate__(self) -> dict[str, Any]:
        # An engine travels to other processes as a judge only.
        left_behind = {
            "worker_pool",
            "weight_learner",
            "store",
            "executor",
            "blend_solver",
            "clock",
            "new_id",
            "_ready",
        }
        return {name: value for name, value in self.__dict__.items() if name not in left_behind}

    @final
    @property
    def evaluator(self) -> Evaluator:
        """What runs workers and remembers the results."""
        return Evaluator(self.worker_pool, self.store, self, self.executor, self.memory_budget, self.limits, self.clock)

    @final
    @property
    def trainables(self) -> Trainables:
        """What fits the trainable workers and scores what they then do."""
        return Trainables(self.evaluator, self._ready)

    @property
    def _fits(self) -> dict[str, Fit]:
        """What the trainable workers are fitted to now, by worker id."""
        documents = self.weight_learner.cell.state.fits
        return self.trainables.current(documents) if documents else {}

    @final
    def share_fits(self) -> None:
        """Have the pool's trainable workers answer with what they are fitted to now, whoever asks the pool.

        What a trial learns is its own business.
        """
        is_ours = isinstance(self.worker_pool, WorkerPool) and own_workers(self.worker_pool) is not None
        if is_ours and not self.weight_learner.cell.is_trial:
            cast("WorkerPool", self.worker_pool).set_fitted(self.trainables.ready(self._fits))

    @final
    def exported_fits(self) -> dict[str, WorkerFit]:
        """Return what the trainable workers are fitted to, with the observations behind it, for a weights file."""
        trainables = self.trainables
        fits = {worker_id: trainables.finished(fit) for worker_id, fit in self._fits.items()}
        for worker_id, document in self.weight_learner.cell.state.fits.items():
            fit = None if worker_id in trainables.workers else Fit.of(worker_id, document)
            if fit is not None:  # of a worker that is not here: what a weights file brought goes on
                fits[worker_id] = fit
        return {
            worker_id: WorkerFit(observations, fit.state or None, fit.group_by, fit.identity)
            for worker_id, fit in fits.items()
            if (observations := trainables.observations_of(fit))
        }

    @final
    def imported_fits(self, path: str, fits: Mapping[str, WorkerFit]) -> dict[str, bytes]:
        """Return the documents to keep of what a weights file holds, by worker id.

        Raises:
            WeightsFileError: a worker of the pool cannot be fitted on the observations that are meant for it.
        """
        trainables, documents = self.trainables, {}
        for worker_id, held in fits.items():
            worker = trainables.workers.get(worker_id)
            fit = Fit(
                worker_id,
                "" if worker is None else describe_object(worker),
                held.identity,
                imported=held.observations,
                group_by=held.group_by,
                state=held.state,
            )
            is_usable = worker is not None and held.identity == describe_settings(worker)
            if is_usable and (reason := trainables.fault(fit)) is not None:
                raise WeightsFileError(path, reason, f"fits[{worker_id!r}]")
            documents[worker_id] = fit.to_document()
        return documents

    @final
    @property
    def learner_storage(self) -> LearnerStorage:
        """The tie between the learner and the store."""
        return LearnerStorage(self.weight_learner, self.store)

    # --- learning ---

    @final
    def train_batch(
        self,
        examples: Sequence[TrainingExample],
        epochs: int = 1,
        verbose: bool = True,
        *,
        validation_examples: Sequence[TrainingExample] = (),
        validation_split: float | None = None,
        seed: int | None = None,
        reevaluate: bool = False,
        on_progress: ProgressCallback | None = None,
        should_stop: StopRequest | None = None,
        group_by: str | None = None,
    ) -> TrainingSession:
        """Learn from examples in one session, and validate on others before it is committed.

        Each example is evaluated once, or not at all if its results are stored; epochs only repeat the arithmetic. A
        session that does not complete leaves the learner as it was, and calling again repeats no evaluation.

        Args:
            examples: To learn from, at least one.
            epochs: How many passes, at least 1.
            verbose: Show progress on standard error.
            validation_examples: To judge by, each once; they are not learned from.
            validation_split: The fraction by which the caller divided, for the record.
            seed: What the caller divided with, for the record.
            reevaluate: Run workers even where results are stored.
            on_progress: Called with a `Progress`, in this thread.
            should_stop: Asked several times a second, in this thread, whether to end.
            group_by: Also learn weights of their own for the examples of each value under this metadata key.

        Returns:
            The completed session.

        Raises:
            InvalidArgumentError: `epochs` is not a whole number of at least 1, or no example has the key `group_by`.
            NoExamplesError: `examples` is empty.
            ExampleNotFoundError: an example is not, or no longer, in the store.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used; the session is stored as ``failed``.
            MetricError: the judge raised or gave something that is no similarity; the session is ``failed``.
            TrainingStoppedError: `should_stop` said so; the session is ``interrupted``.
            TrainingInProgressError: this learner is being trained by another call.
        """
        epochs = check_whole_number("epochs", epochs)
        check_callable("on_progress", on_progress, "a function of a Progress, or None", optional=True)
        check_callable("should_stop", should_stop, "a function without arguments, or None", optional=True)
        check_group_by(group_by)
        self.store.require_writable()
        examples, validation_examples = list(examples), _each_once(validation_examples)
        if not examples:
            raise NoExamplesError
        self._require_workers()
        check_groups(itertools.chain(examples, self.store.iterate_examples()), group_by)
        for example in examples:
            self.store.get_example(example.example_id)  # what is not stored could never be forgotten again
        with self.weight_learner.cell:
            self.prepare_learner(claim=True)
            session = TrainingSession(
                session_id=self.new_id(),
                start_time=self.clock(),
                epochs=epochs,
                learning_rate=self.weight_learner.alpha,
                initial_weights=self.weight_learner.get_all_weights(),
                is_trial=self.weight_learner.cell.is_trial,
                seed=seed,
                validation_split=validation_split,
                training_ids=tuple(e.example_id for e in examples),
                validation_ids=tuple(e.example_id for e in validation_examples),
                group_by=group_by,
            )
            with listening(
                verbose=verbose, on_progress=on_progress, should_stop=should_stop, subject=session.session_id
            ) as listener:
                training = Training(
                    session=session,
                    training=examples,
                    validation=validation_examples,
                    evaluator=self.evaluator,
                    storage=self.learner_storage,
                    report=self.report,
                    fitter=self.fitter,
                    trainables=self.trainables,
                    listener=listener,
                    clock=self.clock,
                )
                session = training.run(reevaluate=reevaluate)
            self.share_fits()
            return session

    @final
    def train_on_example(self, example: TrainingExample, *, reevaluate: bool = False) -> dict[str, WorkerOutcome]:
        """Absorb one pass over one example, outside any session, and return what each worker did.

        Doing this three times is how an example is made to count more; its evidence never exceeds having seen it once
        in full. Trainable workers note what they will need of it; they learn from it with the next training.

        Raises:
            ExampleNotFoundError: the example is not, or no longer, in the store.
            NothingEvaluatedError: the example cannot be used, or every worker failed on it; nothing was learned.
            NoWorkersError: the pool is ours and empty.
            MetricError: the judge raised or gave something that is no similarity.
            TrainingInProgressError: this learner is being trained by another call.
        """
        self.store.require_writable()
        self._require_workers()
        self.store.get_example(example.example_id)
        with self.weight_learner.cell:
            self.prepare_learner(claim=True)
            run = self._completed([example], Listener(), reevaluate=reevaluate)
            run.require_a_picture()
            evidence = [item.to_evidence() for item in run.evaluated]
            self.learner_storage.change(lambda state: self.weight_learner.absorb(state, evidence))
        return {worker_id: e.to_outcome() for worker_id, e in run.evaluated[0].evaluations.items()}

    @final
    def prepare_learner(self, *, claim: bool = False) -> None:
        """Bring the learner up to date with the store, and make the pool's workers known to it.

        Args:
            claim: Somebody is about to learn: make the store the learner's home, and refuse what cannot be stored.

        Raises:
            LearnerConflictError: with `claim`, if learner and store have both changed since they last agreed.
        """
        if claim:
            self.learner_storage.attach(claim=True)
        else:
            self.learner_storage.refresh()
        workers = own_workers(self.worker_pool)
        if workers:
            fitted = self.weight_learner.cell.state.fits
            self.weight_learner.add_workers(
                [w.worker_id for w in workers if w.worker_id in fitted or not isinstance(w, TrainableWorker)]
            )

    def _require_workers(self) -> None:
        if own_workers(self.worker_pool) == ():
            raise NoWorkersError

    # --- validating ---

    @final
    def validate(
        self,
        examples: Sequence[TrainingExample],
        *,
        full: bool = False,
        reevaluate: bool = False,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ValidationResults:
        """Judge the present weights on examples; nothing is learned.

        Args:
            examples: At least one, each counts once; those that were never learned from make an honest judgement.
            full: Run the workers again and judge the real blended pictures instead of their previews.
            reevaluate: Run workers even where results are stored.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            NoExamplesError: `examples` is empty.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used.
            MetricError: the judge raised or gave something that is no similarity.
        """
        with self._evaluated(examples, verbose=verbose, on_progress=on_progress, reevaluate=reevaluate) as (
            run,
            listener,
        ):
            return self.report(run, self.weight_learner, listener, previous=self._previous_shares(), full=full)

    @final
    def report(
        self,
        run: EvaluationRun,
        learner: WeightLearner,
        listener: Listener,
        *,
        previous: WeightLearner | Shares | None = None,
        full: bool = False,
    ) -> ValidationResults:
        """Judge a learner's weights on evaluated examples, and note each example's ``validation_scores``."""
        evaluated = run.evaluated
        worker_ids = tuple(sorted(worker_means(evaluated)))
        contenders = Contenders.of(learner, worker_ids, previous, self._trainable)
        judging = self._judging(run)(contenders)
        if full:
            whole = functools.partial(self._whole_pictures, worker_ids=worker_ids)
            judging = attrs.evolve(judging, whole_pictures=whole)
        if isinstance(previous, WeightLearner):
            before, now = previous.cell.state.fits, learner.cell.state.fits
            changed = {worker_id: each for worker_id, each in before.items() if each != now.get(worker_id)}
            judging = attrs.evolve(judging, earlier=self._fitted_pictures(changed, run, previous.cell.state.group_by))
        if learner.cell.state.groups:
            judging = attrs.evolve(judging, ungrouped=self._fitted_pictures(learner.cell.state.fits, run, None))
        judged = judging.judge(evaluated, listener)
        self._note_scores(evaluated, judged, contenders)
        return validation_results(run, judged, contenders, self.rope)

    def _fitted_pictures(
        self, documents: Mapping[str, bytes], run: EvaluationRun, group_by: str | None
    ) -> Callable[[EvaluatedExample, Pictures], Mapping[str, Image]]:
        """Return what makes the pictures of trainable workers with other fits, or for other groups, than in a run.

        Only those are made that change each pixel by its colour alone: the source is a sample.
        """
        trainables, previews = self.trainables, Previews.of(self.store, run)
        fits = trainables.current(documents)
        maps = {worker_id: fit for worker_id, fit in fits.items() if trainables.workers[worker_id].is_color_map}

        def pictures(item: EvaluatedExample, judged: Pictures) -> dict[str, Image]:
            source = previews.source(item) if maps else None
            if source is None:
                return {}
            request = WorkerRequest(source, judged.target, group_label(item.example.metadata, group_by))
            ready = trainables.ready_for(item.example, maps)
            made = {worker_id: run_worker(fitted(), request).value for worker_id, fitted in ready.items()}
            return {worker_id: picture for worker_id, picture in made.items() if picture is not None}

        return pictures

    def _judging(self, run: EvaluationRun) -> Callable[[Contenders], Judging]:
        """Return what makes judges of contenders on the examples of a run, or on some of them."""
        previews = Previews.of(self.store, run)
        return functools.partial(
            Judging,
            previews=previews,
            rivals=rival_truths(run.evaluated, previews),
            scorer=self.scorer,
            metric_name=self.metric_name,
            imported=self.trainables.imported(self.weight_learner.cell.state.fits),
            is_color_difference=type(self.known_metric) is ColorDifference,
        )

    @property
    def _trainable(self) -> frozenset[str]:
        workers = own_workers(self.worker_pool) or ()
        return frozenset(worker.worker_id for worker in workers if isinstance(worker, TrainableWorker))

    def _whole_pictures(self, item: EvaluatedExample, worker_ids: Sequence[str]) -> Pictures | None:
        """Run the workers on an example again; None where that cannot be done or nobody gives a picture."""
        try:
            triple = load_triple(item.example, item.example.known_files, self.limits)
            fitted = self.trainables.ready_for(item.example, self._fits)
            label = group_label(item.example.metadata, self.weight_learner.cell.state.group_by)
            results = self._run_workers(triple.source, triple.target, worker_ids, fitted, label)
        except (ImageError, ImageSizeMismatchError, WorkerPoolError):
            return None
        outputs = {w: result.value for w, result in results.items() if result.value is not None}
        return Pictures(outputs, triple.target, triple.ground_truth) if outputs else None

    def _note_scores(
        self, evaluated: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], contenders: Contenders
    ) -> None:
        if self.weight_learner.cell.is_trial or self.store.is_read_only:
            return  # how a trial did says nothing about the ensemble that is kept
        now = self.clock().isoformat()
        edits: dict[str, ExampleEdit] = {}
        for item, judgement in zip(evaluated, judged, strict=True):
            shares = contenders.shares(item.example.metadata)
            scores: ExampleScores = {
                "avg_accuracy": blend_accuracy(item.accuracies, shares["trained"]),
                "equal_weights_accuracy": blend_accuracy(item.accuracies, shares["equal_weights"]),
                "ensemble_accuracy": judgement["scores"].get("trained"),
                "validated_at": now,
            }
            edits[item.example.example_id] = functools.partial(attrs.evolve, validation_scores=scores)
        self.store.edit_examples(edits, skip_missing=True)

    def _previous_shares(self) -> Shares | None:
        """Return the shares that were in use before the newest training that judged them."""
        shares = None
        for session in self.store.iterate_sessions():
            if session.status == "completed" and not session.is_trial and session.validation is not None:
                previous = session.validation.get("contenders", {}).get("previous")
                shares = shares if previous is None else previous["blend_weights"]
        return shares

    @final
    def fitter(self, run: EvaluationRun, listener: Listener) -> Fitter:
        """Return what fits the ensemble's blend on the previews that belong to a run."""
        return Fitter(
            previews=Previews.of(self.store, run),
            scorer=self.scorer,
            metric_name=self.metric_name,
            solver=solver_named(self.blend_solver),
            poll=listener.poll,
        )

    # --- asking about what was learned ---

    @final
    def cross_validate(
        self,
        examples: Sequence[TrainingExample],
        k: int = 5,
        epochs: int = 10,
        *,
        seed: int = 0,
        group_by: str | None = None,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> CrossValidationResults:
        """Train on all folds but one and judge on that one, for each of `k` folds; the learner stays as it is.

        Workers run only where their results are not stored, once. A fresh copy of the learner, with its rate and its
        other settings but nothing learned, is trained for each fold, which costs a fit of its blend. Folds share most
        of their training examples, so intervals are a little too narrow.

        Args:
            examples: With at least two different targets; examples with the same target are in one fold.
            k: How many folds, at least 2; fewer where there are fewer targets.
            epochs: How many passes each training makes, at least 1.
            seed: Another seed divides otherwise.
            group_by: Also learn weights of their own for the examples of each value under this metadata key.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            InvalidArgumentError: an argument is out of its range, or all examples have the same target.
            NoExamplesError: `examples` is empty.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used.
            MetricError: the judge raised or gave something that is no similarity.
        """
        k, epochs = check_whole_number("k", k, 2), check_whole_number("epochs", epochs)
        check_seed(seed)
        check_group_by(group_by)
        examples = list(examples)
        if examples:
            check_groups(examples, group_by)
        with self._evaluated(examples, verbose=verbose, on_progress=on_progress, is_fixed=True) as (run, listener):
            if len({item.example.known_files.target for item in run.evaluated}) < 2:  # noqa: PLR2004 - two sides
                raise InvalidArgumentError("examples", len(examples), "examples with at least two different targets")
            run.require_a_picture()
            validation = CrossValidation(
                learner=self.weight_learner,
                fitter=functools.partial(self.fitter, listener=listener),
                judging=self._judging,
                listener=listener,
                epochs=epochs,
                group_by=group_by,
                rope=self.rope,
                trainables=self.trainables,
            )
            return validation.run(run, k, int(seed))

    @final
    def explain(
        self,
        examples: Sequence[TrainingExample],
        *,
        tolerance: float = DEFAULT_ROPE,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> Explanation:
        """Tell what each worker brings to the ensemble and what it costs, and how small an ensemble would do.

        It judges blends without each worker on the previews of at most 64 examples: per example at most one metric call
        for each worker with a share, and four for each that leaves while the subset is sought.

        Args:
            examples: At least one.
            tolerance: How much accuracy the smaller ensemble may lose, at least 0 and below 1.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            InvalidArgumentError: `tolerance` is out of its range.
            NoExamplesError: `examples` is empty.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used.
            MetricError: the judge raised or gave something that is no similarity.
        """
        check_rope(tolerance, "tolerance")
        with self._evaluated(examples, verbose=verbose, on_progress=on_progress) as (run, listener):
            shares = shares_for(self.weight_learner, sorted(worker_means(run.evaluated)), None)
            pictures = self.fitter(run, listener).examples(run.evaluated)
            return explanation(run.evaluated, pictures, shares, float(tolerance))

    @final
    def score_table(
        self,
        examples: Sequence[TrainingExample],
        *,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ScoreTable:
        """Return the accuracies of all workers on examples, for the questions of `tsm_training.analysis`.

        Raises:
            NoExamplesError: `examples` is empty.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used.
            MetricError: the judge raised or gave something that is no similarity.
        """
        with self._evaluated(examples, verbose=verbose, on_progress=on_progress) as (run, _listener):
            return accuracy_table(run.evaluated)

    @contextmanager
    def _evaluated(
        self,
        examples: Sequence[TrainingExample],
        *,
        verbose: bool,
        on_progress: ProgressCallback | None,
        reevaluate: bool = False,
        is_fixed: bool = False,
    ) -> Generator[tuple[EvaluationRun, Listener]]:
        """Evaluate examples for a call; `is_fixed` leaves out what depends on what the learner has learned."""
        examples = _each_once(examples)
        if not examples:
            raise NoExamplesError
        self._require_workers()
        self.prepare_learner()
        with listening(verbose=verbose, on_progress=on_progress) as listener:
            run = self._completed(examples, listener, reevaluate=reevaluate, is_fixed=is_fixed)
            if not run.evaluated:
                raise NothingEvaluatedError(run.skipped)
            yield run, listener

    def _completed(
        self,
        examples: Sequence[TrainingExample],
        listener: Listener,
        *,
        reevaluate: bool = False,
        is_fixed: bool = False,
    ) -> EvaluationRun:
        """Evaluate examples with all workers, fitted ones included, and note the results in the examples."""
        run = self.evaluator.evaluate(examples, listener, reevaluate=reevaluate)
        if not is_fixed:
            run = self.trainables.scored(run, self._fits, listener, reevaluate=reevaluate)
            self.evaluator.note_results(run.evaluated)
        return run

    # --- answering ---

    @final
    def predict(
        self, source: Image, target: Image, *, run_all: bool = False, group: str | float | None = None
    ) -> Prediction:
        """Return the ensemble's answer: the workers' pictures, blended by what was learned.

        Args:
            source: Gives the colours: uint8, H×W×3, BGR.
            target: Is changed: uint8, H×W×3, BGR.
            run_all: Run workers too whose share is below 0.001.
            group: The request's value under the metadata key by which the training was grouped; fitted workers get it
                too. A value that no example has, and None, mean the shares of all examples, and that looks are
                recognised from the source; `Prediction.is_known_group` says which it was.

        Raises:
            InvalidArgumentError: an argument is no picture, or `group` is given and the training was not grouped.
            NoWorkersError: the pool is ours and empty.
            PredictionError: no worker gave a usable picture; it holds every reason.
            WorkerPoolError: a pool that is not ours raised, or returned no results.
        """
        return self._answer(source, target, run_all=run_all, group=group)

    @final
    def predict_example(self, example: TrainingExample, source: Image, target: Image) -> Prediction:
        """Return the ensemble's answer to a training example, by fitted workers that do not know its target.

        Args:
            example: Says what was learned from it, and its group.
            source: Its source, perhaps smaller: uint8, H×W×3, BGR.
            target: Its target, likewise.

        Raises:
            TsmTrainingError: as for `predict`.
        """
        label = group_label(example.metadata, self.weight_learner.cell.state.group_by)
        return self._answer(source, target, run_all=False, group=label, example=example)

    def _answer(
        self, source: Image, target: Image, *, run_all: bool, group: object, example: TrainingExample | None = None
    ) -> Prediction:
        check_image(source, "source")
        check_image(target, "target")
        self._require_workers()
        self.prepare_learner()
        workers = own_workers(self.worker_pool)
        fits = self._fits
        if example is None:
            self.share_fits()  # another process may have forgotten something
        ready = self.trainables.ready(fits) if example is None else self.trainables.ready_for(example, fits)
        ids = None
        if workers is not None:
            ids = [w.worker_id for w in workers if w.worker_id in ready or not isinstance(w, TrainableWorker)]
            if not ids:
                raise WorkerNotFittedError(workers[0].worker_id)
        label = self._label(group)
        request = _Asked(source, target, label, ready)
        answer = self._blended(request, shares_for(self.weight_learner, ids, label), run_all=run_all)
        if label is None:
            return answer
        known = {label for fit in fits.values() for label in fit.groups} | self.weight_learner.cell.state.groups.keys()
        return attrs.evolve(answer, group=label, is_known_group=label in known)

    def _label(self, group: object) -> str | None:
        if group is None:
            return None
        if self.weight_learner.cell.state.group_by is None:
            raise InvalidArgumentError("group", group, "None, for nothing was learned by group: train(group_by=…)")
        value = group.item() if isinstance(group, np.generic) else group
        label = group_label({"group": value}, "group")
        if label is None:
            raise InvalidArgumentError("group", group, "text, a finite number, True or False")
        return label

    def _blended(self, request: _Asked, shares: Mapping[str, float], *, run_all: bool) -> Prediction:
        wanted = [w for w, share in shares.items() if run_all or share >= NEGLIGIBLE_SHARE]
        results = self._run_workers(request.source, request.target, wanted, request.fitted, request.group)
        if not any(result.is_valid() for result in results.values()) and len(results) < len(shares):
            # Everyone with a share failed: better an answer from the others than none.
            others = [w for w in shares if w not in results]
            results |= self._run_workers(request.source, request.target, others, request.fitted, request.group)
        pictures = {w: result.value for w, result in results.items() if result.value is not None}
        if not pictures:
            raise PredictionError({w: str(result.failure) for w, result in results.items()})
        weights = renormalised(shares or self.weight_learner.get_blend_weights(worker_ids=pictures), pictures)
        learned = [w for w in weights if results[w].familiarity is not None]
        familiarity = results[max(learned, key=lambda w: weights[w])].familiarity if learned else None
        return Prediction(blend(pictures, weights), weights, results, familiarity)

    def _run_workers(
        self,
        source: Image,
        target: Image,
        worker_ids: Iterable[str],
        fitted: Mapping[str, Callable[[], Worker]],
        label: str | None,
    ) -> dict[str, WorkerResult]:
        pool = self.worker_pool
        if isinstance(pool, WorkerPool) and own_workers(pool) is not None:
            results = pool.execute(WorkerRequest(source, target, label), worker_ids, fitted=fitted)
        else:
            results = ask_pool(pool, source, target)
        return {result.worker_id: result for result in results}

    # --- saying why ---

    @final
    def explain_cache(self, examples: Iterable[TrainingExample] | None = None) -> list[CacheEntry]:
        """Tell for each example and worker whether its result is stored, and if not, why it would be run.

        A pool that is not ours has no workers that could be listed; the result is then empty.
        """
        return self.evaluator.explain(list(self.store.iterate_examples() if examples is None else examples))
