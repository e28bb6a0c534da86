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

from tsm_training.analysis import DEFAULT_ROPE, ScoreTable, check_rope
from tsm_training.arguments import at_least, check_callable, check_seed, check_whole_number
from tsm_training.arrays import ChannelOrder, Image, check_image
from tsm_training.data import TrainingExample, TrainingSession, TrainingStore, WorkerOutcome
from tsm_training.ensemble import BlendSolver, Prediction, solver_named
from tsm_training.errors import (
    ExampleNotFoundError,
    InvalidArgumentError,
    NoExamplesError,
    NothingEvaluatedError,
    NoWorkersError,
)
from tsm_training.evaluation import (
    BaselineMean,
    CacheEntry,
    ClusterClient,
    CrossValidation,
    CrossValidationResults,
    Evaluator,
    ExampleJudgement,
    Explanation,
    FoundLook,
    FoundLooks,
    Judged,
    Leaderboard,
    LeaderboardRow,
    ShownDocument,
    SubsetAdvice,
    Validation,
    ValidationDocument,
    ValidationResults,
    WorkerExplanation,
    check_group_by,
    own_workers,
)
from tsm_training.evaluation.answering import answer
from tsm_training.evaluation.baselines import shares_for
from tsm_training.evaluation.crossvalidation import cross_validate
from tsm_training.evaluation.evaluated import EvaluationRun, worker_means
from tsm_training.evaluation.evaluator import own_pool
from tsm_training.evaluation.explaining import explanation
from tsm_training.evaluation.fitting import check_groups, group_label
from tsm_training.evaluation.leaderboard import leaderboard
from tsm_training.evaluation.looks import find_looks
from tsm_training.evaluation.results import accuracy_table
from tsm_training.evaluation.scoring import Judge
from tsm_training.evaluation.split import Split
from tsm_training.evaluation.trainables import Trainables
from tsm_training.evaluation.training import TrainingOptions, check_watchers, run_training
from tsm_training.evaluation.validation import newest_session, previous_shares, validate
from tsm_training.evaluation.workbench import Workbench
from tsm_training.images import ImageLimits, PictureLike, picture_and_exif
from tsm_training.ingest import describe_files
from tsm_training.metrics import GuideSimilarity, Metric
from tsm_training.persistence import LearnerStorage
from tsm_training.progress import ProgressCallback, ProgressReporter, StopRequest, reporting
from tsm_training.weights import WeightLearner
from tsm_training.workers import TrainableWorker, Worker, WorkerPoolLike

__all__ = [
    "BaselineMean",
    "CacheEntry",
    "ClusterClient",
    "CrossValidation",
    "CrossValidationResults",
    "Evaluator",
    "ExampleJudgement",
    "Explanation",
    "FoundLook",
    "FoundLooks",
    "Judged",
    "Leaderboard",
    "LeaderboardRow",
    "StopRequest",
    "SubsetAdvice",
    "TrainingEngine",
    "Validation",
    "ValidationDocument",
    "ValidationResults",
    "WorkerExplanation",
    "describe_files",
    "own_workers",
]

_DEFAULT_BUDGET: Final = 1024**3
_LEAST_SIDE: Final = 64
_STAYING: Final = frozenset(
    ("worker_pool", "weight_learner", "store", "executor", "blend_solver", "clock", "new_id", "_ready")
)
"""Fields of an engine that belong to its process: a hook that travels elsewhere does without them."""


def _each_once(examples: Iterable[TrainingExample]) -> list[TrainingExample]:
    """Return examples in order, each one once: judged twice, it would count as two."""
    return list({example.example_id: example for example in examples}.values())


def _a_side(_engine: object, _attribute: object, value: int | None) -> None:
    if value is not None:
        check_whole_number("evaluation_side", value, _LEAST_SIDE)


def _a_solver(_engine: object, _attribute: object, value: str | BlendSolver) -> None:
    solver_named(value)


@attrs.frozen(eq=False)
class _Hook:
    """An engine's own `calculate_similarity` as a metric.

    Pickled, it takes along what the method may need: the engine's settings, without what belongs to this process.
    """

    engine: TrainingEngine

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        return self.engine.calculate_similarity(output, ground_truth)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self.engine, field.name) for field in attrs.fields(type(self.engine))}
        state = {**fields, **self.engine.__dict__}
        return _arrived_hook, (type(self.engine), {n: v for n, v in state.items() if n not in _STAYING})


def _arrived_hook(engine_type: type[TrainingEngine], state: Mapping[str, Any]) -> _Hook:
    engine = object.__new__(engine_type)
    for name, value in state.items():
        object.__setattr__(engine, name, value)
    return _Hook(engine)


@attrs.frozen(eq=False, slots=False)
class TrainingEngine:
    """Runs workers on examples, scores them against the ground truth, and teaches the learner.

    To judge pictures in another way, override `calculate_similarity`, the one hook, or give a metric with `using`.

    Args:
        worker_pool: The ensemble; ours, or any object with ``execute_parallel``.
        weight_learner: What learns.
        store: Where everything is kept.
        metric: What `calculate_similarity` calls unless it is overridden; called in several threads at once.
        executor: Where examples are evaluated: any executor, or a Dask ``Client``; threads of each call's own unless
            given. With a process pool or a cluster, workers and engine must be importable there.
        memory_budget: How many bytes the evaluation of examples may take together in each process; see "Use many cores"
            in the how-tos. An example that needs more by itself runs alone.
        limits: How large picture files may be, and which folder they may come from.
        evaluation_side: Larger pictures are averaged down until their longest side has so many pixels, at least 64,
            before workers run on them and are scored; it belongs to what stored results are known by. None (the
            default) evaluates pictures as they are. Predictions are always made in full size.
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
    executor: Executor | ClusterClient | None = attrs.field(default=None, kw_only=True)
    memory_budget: int = attrs.field(default=_DEFAULT_BUDGET, validator=at_least(1), kw_only=True)
    limits: ImageLimits = attrs.field(factory=ImageLimits, kw_only=True)
    evaluation_side: int | None = attrs.field(default=None, validator=_a_side, kw_only=True)
    blend_solver: str | BlendSolver = attrs.field(default="auto", validator=_a_solver, kw_only=True)
    rope: float = attrs.field(default=DEFAULT_ROPE, converter=check_rope, kw_only=True)
    clock: Callable[[], datetime] = attrs.field(default=functools.partial(datetime.now, UTC), kw_only=True, repr=False)
    new_id: Callable[[], str] = attrs.field(default=lambda: str(uuid.uuid4()), kw_only=True, repr=False)
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

    @final
    @property
    def judge(self) -> Judge:
        """What scores pictures: the metric, or `calculate_similarity` where it is overridden."""
        if type(self).calculate_similarity is TrainingEngine.calculate_similarity:
            name = getattr(self.metric, "__qualname__", None) or type(self.metric).__qualname__
            return Judge(name, self.metric, self.metric)
        base = {field.name for field in attrs.fields(TrainingEngine)} - {"metric"}
        own = {f.name: getattr(self, f.name) for f in attrs.fields(type(self)) if f.name not in base}
        return Judge(type(self).__qualname__, _Hook(self), [type(self), own])

    @final
    @property
    def evaluator(self) -> Evaluator:
        """What runs workers and remembers the results."""
        return Evaluator(
            self.worker_pool,
            self.store,
            self.judge,
            self.executor,
            self.memory_budget,
            self.limits,
            self.evaluation_side,
            self.clock,
        )

    @final
    @property
    def trainables(self) -> Trainables:
        """What fits the trainable workers and scores what they then do."""
        return Trainables(self.evaluator, self._ready)

    @property
    def _bench(self) -> Workbench:
        return Workbench(self.trainables, self.learner_storage, self.blend_solver, self.rope)

    @final
    def share_fits(self) -> None:
        """Have the pool's trainable workers answer with what they are fitted to now, whoever asks the pool.

        What a trial learns is its own business.
        """
        own = own_pool(self.worker_pool)
        if own is not None and not self.weight_learner.cell.is_trial:
            fits = self.trainables.current(self.weight_learner.cell.snapshot.fits)
            own.set_fitted(self.trainables.ready(fits))

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
        options = TrainingOptions(
            epochs, verbose, validation_split, seed, reevaluate, on_progress, should_stop, group_by
        )
        split = Split(tuple(examples), tuple(_each_once(validation_examples)))
        return self.train_chosen(lambda: split, options)

    @final
    def train_chosen(self, choose: Callable[[], Split], options: TrainingOptions) -> TrainingSession:
        """Do what `train_batch` does, with examples that are chosen among the stored ones when all else is checked.

        Args:
            choose: Gives the examples; asked again where one was removed before the session could begin.
            options: The other arguments of `train_batch`.

        Raises:
            NoExamplesError: there is no example to learn from.
            TsmTrainingError: as for `train_batch`.
        """
        self.store.require_writable()
        split = self._stored(choose)
        if not split.training:
            raise NoExamplesError
        self._require_workers()
        check_groups(itertools.chain(split.training, self.store.iterate_examples()), options.group_by)
        with self.weight_learner.cell:
            self.prepare_learner(claim=True)
            session = run_training(self._bench, split, options, self.new_id())
            self.share_fits()
            return session

    def _stored(self, choose: Callable[[], Split]) -> Split:
        """Return chosen examples that are all stored: what is not could never be forgotten again."""
        split = choose()
        while True:
            try:
                self.store.get_examples([example.example_id for example in split.training])
                return split
            except ExampleNotFoundError:
                before, split = split, choose()
                if split == before:  # it is not that another process has just removed one
                    raise

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
            bench = self._bench.for_call(ProgressReporter(), reevaluate=reevaluate)
            run = bench.trainables.evaluate([example], self.weight_learner.cell.snapshot.fits)
            run.require_a_picture()
            self.learner_storage.absorb([item.to_evidence() for item in run.evaluated])
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
            fitted = self.weight_learner.cell.snapshot.fits
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
            reevaluate: Run workers even where results are stored, and name those that score otherwise: `unrepeatable`.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            NoExamplesError: `examples` is empty.
            NoWorkersError: the pool is ours and empty.
            NothingEvaluatedError: not one example could be used.
            MetricError: the judge raised or gave something that is no similarity.
        """
        with self._evaluated(examples, verbose, on_progress, reevaluate=reevaluate) as (bench, run):
            previous = previous_shares(self.store)
            return validate(bench, run, self.weight_learner, previous, full=full).to_document()

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
            TsmTrainingError: as for `validate`.
        """
        k, epochs = check_whole_number("k", k, 2), check_whole_number("epochs", epochs)
        seed = check_seed(seed)
        check_group_by(group_by)
        examples = list(examples)
        if examples:
            check_groups(examples, group_by)
        with self._evaluated(examples, verbose, on_progress, is_fixed=True) as (bench, run):
            if len({item.example.known_files.target for item in run.evaluated}) < 2:  # noqa: PLR2004 - two sides
                raise InvalidArgumentError("examples", len(examples), "examples with at least two different targets")
            run.require_a_picture()
            crossed = cross_validate(bench, run, folds=k, epochs=epochs, seed=seed, group_by=group_by)
            return crossed.to_document()

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
        for each worker with a share, and four for each that leaves while the subset is sought. The smaller ensemble may
        lose `tolerance` in accuracy, at least 0 and below 1. For the other arguments, and what else is raised, see
        `TrainingEngine.validate`.

        Raises:
            InvalidArgumentError: `tolerance` is out of its range.
        """
        check_rope(tolerance, "tolerance")
        with self._evaluated(examples, verbose, on_progress) as (bench, run):
            shares = shares_for(self.weight_learner, sorted(worker_means(run.evaluated)), None)
            pictures = bench.fitter(run).examples(run.evaluated)
            explained = explanation(run.evaluated, pictures, shares, float(tolerance))
            return cast("Explanation", ShownDocument(explained))

    @final
    def leaderboard(self) -> Leaderboard:
        """Return how workers and baselines do on what the newest training held out: `TrainingManager.leaderboard`."""
        self.prepare_learner()
        return leaderboard(self._bench, newest_session(self.store))

    @final
    def looks(
        self,
        examples: Sequence[TrainingExample],
        *,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> FoundLooks:
        """Find the looks among examples without labels: which of them one map of colours explains better than several.

        It compares what target and ground truth say about maps of colours, as `LearnedLook` notes it; what is not
        stored yet is noted now, which reads those pictures. Any pool will do. How many looks there are comes of the
        examples; one that is unlike all others stays alone. The same examples give the same looks. At most 1,000
        examples are compared pair by pair, the others with the looks found: 1,000 take some five seconds and 300 MB,
        each thousand more some three seconds.

        Args:
            examples: At least one, each counts once.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            NoExamplesError: `examples` is empty.
            ExecutorError: the executor takes no work or has broken down.
        """
        check_watchers(on_progress)
        examples = _each_once(examples)
        if not examples:
            raise NoExamplesError
        with reporting(verbose=verbose, on_progress=on_progress) as reporter:
            return find_looks(attrs.evolve(self.evaluator, reporter=reporter), examples)

    @final
    def score_table(
        self,
        examples: Sequence[TrainingExample],
        *,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ScoreTable:
        """Return the accuracies of all workers on examples, for the questions of `tsm_training.analysis`.

        For the arguments, and what is raised, see `TrainingEngine.validate`.
        """
        with self._evaluated(examples, verbose, on_progress) as (_bench, run):
            return accuracy_table(run.evaluated)

    @contextmanager
    def _evaluated(
        self,
        examples: Sequence[TrainingExample],
        verbose: bool,
        on_progress: ProgressCallback | None,
        *,
        reevaluate: bool = False,
        is_fixed: bool = False,
    ) -> Generator[tuple[Workbench, EvaluationRun]]:
        """Evaluate examples for a call; `is_fixed` leaves out what depends on what the learner has learned."""
        check_watchers(on_progress)
        examples = _each_once(examples)
        if not examples:
            raise NoExamplesError
        self._require_workers()
        self.prepare_learner()
        with reporting(verbose=verbose, on_progress=on_progress) as reporter:
            bench = self._bench.for_call(reporter, reevaluate=reevaluate)
            if is_fixed:
                run = bench.evaluator.evaluate(examples)
            else:
                run = bench.trainables.evaluate(examples, self.weight_learner.cell.snapshot.fits)
            if not run.evaluated:
                raise NothingEvaluatedError(run.skipped)
            yield bench, run

    # --- answering ---

    @final
    def predict(
        self,
        source: PictureLike,
        target: PictureLike,
        *,
        run_all: bool = False,
        group: str | float | None = None,
        color: ChannelOrder = "bgr",
    ) -> Prediction:
        """Return the ensemble's answer: the workers' pictures, blended by what was learned.

        Args:
            source: Gives the colours: an array (uint8, H×W×3), an image of Pillow, or the path of a file.
            target: Is changed; likewise.
            run_all: Run workers too whose share is below 0.001.
            group: The request's value under the metadata key by which the training was grouped; fitted workers get it
                too. A value that no example has, and None, mean the shares of all examples, and that looks are
                recognised from the source; `Prediction.is_known_group` says which it was.
            color: The order of the channels of arrays: ``"bgr"`` as OpenCV has it, or ``"rgb"`` as nearly all others.
                The answer is BGR all the same; `Prediction.rgb` gives RGB.

        Raises:
            InvalidArgumentError: an argument is no picture, or `group` is given and the training was not grouped.
            ImageError: a file, or an image of Pillow, cannot be used.
            NoWorkersError: the pool is ours and empty.
            PredictionError: no worker gave a usable picture; it holds every reason.
            WorkerPoolError: a pool that is not ours raised, or returned no results.
        """
        source_image, _exif = picture_and_exif(source, "source", color, self.limits)
        target_image, exif = picture_and_exif(target, "target", color, self.limits)
        self._prepare_answer(source_image, target_image)
        self.share_fits()  # another process may have forgotten something
        given = answer(self.trainables, self.weight_learner, source_image, target_image, group, run_all=run_all)
        return attrs.evolve(given, exif=exif)

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
        self._prepare_answer(source, target)
        label = group_label(example.metadata, self.weight_learner.group_by_of(self.weight_learner.state))
        return answer(self.trainables, self.weight_learner, source, target, label, example=example)

    def _prepare_answer(self, source: Image, target: Image) -> None:
        check_image(source, "source")
        check_image(target, "target")
        self._require_workers()
        self.prepare_learner()

    # --- saying why ---

    @final
    def explain_cache(self, examples: Iterable[TrainingExample] | None = None) -> list[CacheEntry]:
        """Tell for each example and worker whether its result is stored, and if not, why it would be run.

        A pool that is not ours has no workers that could be listed; the result is then empty.
        """
        return self.evaluator.explain(list(self.store.iterate_examples() if examples is None else examples))
