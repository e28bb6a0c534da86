"""The engine: evaluates examples, learns from them, validates, and answers requests."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any, Final, final

import attrs

from tsm_training.arguments import at_least, check_callable, check_whole_number
from tsm_training.arrays import Image, check_image
from tsm_training.data import ExampleEdit, ExampleScores, TrainingExample, TrainingSession, TrainingStore, WorkerOutcome
from tsm_training.engine.evaluator import (
    CacheEntry,
    EvaluationRun,
    Evaluator,
    own_workers,
    preview_name,
)
from tsm_training.engine.listener import Listener, StopRequest, listening
from tsm_training.engine.reports import (
    EvaluatedExample,
    ValidationResults,
    blend_accuracy,
    equal_shares,
    mean,
    mean_blend_accuracy,
    worker_accuracies,
    worker_means,
)
from tsm_training.engine.tasks import TRUTH, checked_similarity, load_triple
from tsm_training.engine.training import Training
from tsm_training.ensemble import NEGLIGIBLE_SHARE, Prediction, blend, decode_preview, renormalised
from tsm_training.errors import (
    ImageError,
    ImageFormatError,
    NoExamplesError,
    NothingEvaluatedError,
    NoWorkersError,
    PredictionError,
)
from tsm_training.fingerprints import describe_object
from tsm_training.images import ImageLimits
from tsm_training.metrics import GuideSimilarity, Metric, prepare_metric
from tsm_training.persistence import LearnerStorage
from tsm_training.progress import ProgressCallback
from tsm_training.weights import WeightLearner
from tsm_training.workers import WorkerPool, WorkerPoolLike, WorkerResult, ask_pool

__all__ = ["TrainingEngine"]

_BLENDED: Final = "(the blended picture)"
_DEFAULT_BUDGET: Final = 1024**3


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


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
    clock: Callable[[], datetime] = attrs.field(default=_now, kw_only=True, repr=False)
    new_id: Callable[[], str] = attrs.field(default=_new_id, kw_only=True, repr=False)

    @classmethod
    def using(cls, metric: Metric, **settings: Any) -> Callable[..., TrainingEngine]:
        """Return an engine factory whose engines judge by `metric`; further settings are the engine's own.

        >>> from tsm_training.metrics import GuideSimilarity
        >>> factory = TrainingEngine.using(GuideSimilarity(), memory_budget=500_000_000)
        """
        check_callable("metric", metric, "a callable (output, ground_truth) -> similarity in [0, 1]")
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
        left_behind = {"worker_pool", "weight_learner", "store", "executor", "clock", "new_id"}
        return {name: value for name, value in self.__dict__.items() if name not in left_behind}

    @final
    @property
    def evaluator(self) -> Evaluator:
        """What runs workers and remembers the results."""
        return Evaluator(self.worker_pool, self.store, self, self.executor, self.memory_budget, self.limits, self.clock)

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
    ) -> TrainingSession:
        """Learn from examples in one session, and validate on others before it is committed.

        Each example is evaluated once, or not at all if its results are stored; epochs only repeat the arithmetic. A
        session that does not complete leaves the learner as it was, and calling again repeats no evaluation.

        Args:
            examples: To learn from, at least one.
            epochs: How many passes, at least 1.
            verbose: Show progress on standard error.
            validation_examples: To judge by; they are not learned from.
            validation_split: The fraction by which the caller divided, for the record.
            seed: What the caller divided with, for the record.
            reevaluate: Run workers even where results are stored.
            on_progress: Called with a `Progress`, in this thread.
            should_stop: Asked several times a second, in this thread, whether to end.

        Returns:
            The completed session.

        Raises:
            InvalidArgumentError: `epochs` is not a whole number of at least 1.
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
        self.store.require_writable()
        examples = list(examples)
        if not examples:
            raise NoExamplesError
        self._require_workers()
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
                    listener=listener,
                    clock=self.clock,
                )
                return training.run(reevaluate=reevaluate)

    @final
    def train_on_example(self, example: TrainingExample, *, reevaluate: bool = False) -> dict[str, WorkerOutcome]:
        """Absorb one pass over one example, outside any session, and return what each worker did.

        Doing this three times is how an example is made to count more; its evidence never exceeds having seen it once
        in full.

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
            run = self.evaluator.evaluate([example], Listener(), reevaluate=reevaluate)
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
            self.weight_learner.add_workers([worker.worker_id for worker in workers])

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
            examples: At least one; those that were never learned from make an honest judgement.
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
        examples = list(examples)
        if not examples:
            raise NoExamplesError
        self._require_workers()
        self.prepare_learner()
        with listening(verbose=verbose, on_progress=on_progress) as listener:
            run = self.evaluator.evaluate(examples, listener, reevaluate=reevaluate)
            if not run.evaluated:
                raise NothingEvaluatedError(run.skipped)
            return self.report(run, self.weight_learner, listener, full=full)

    @final
    def report(
        self,
        run: EvaluationRun,
        learner: WeightLearner,
        listener: Listener,
        *,
        full: bool = False,
    ) -> ValidationResults:
        """Judge a learner's weights on evaluated examples, and note each example's ``validation_scores``."""
        evaluated = run.evaluated
        shares = learner.get_blend_weights(worker_ids=worker_means(evaluated))
        equal = equal_shares(shares)
        started = time.monotonic()
        pictures: list[float | None] = []
        for done, item in enumerate(evaluated, 1):
            listener.poll()
            pictures.append(self._full_accuracy(item, shares) if full else self._preview_accuracy(item, run, shares))
            listener.tell("validating", done, len(evaluated), started, mean(pictures))
        self._note_scores(evaluated, pictures, shares, equal)
        seen = self.weight_learner.cell.state.absorbed
        return ValidationResults(
            num_examples=len(evaluated),
            avg_accuracy=mean_blend_accuracy(evaluated, shares),
            worker_accuracies=worker_accuracies(evaluated),
            equal_weights_accuracy=mean_blend_accuracy(evaluated, equal),
            ensemble_accuracy=mean(pictures),
            ensemble_examples=sum(score is not None for score in pictures),
            unseen_examples=sum(item.digest not in seen for item in evaluated),
            blend_weights=shares,
            failures={
                worker_id: sum(worker_id in e.evaluations and e.accuracies[worker_id] is None for e in evaluated)
                for worker_id in shares
            },
            skipped=dict(run.skipped),
        )

    def _preview_accuracy(
        self, item: EvaluatedExample, run: EvaluationRun, shares: Mapping[str, float]
    ) -> float | None:
        stored = {**self.store.load_previews(item.digest), **run.previews.get(item.digest, {})}
        valid = [worker_id for worker_id, accuracy in item.accuracies.items() if accuracy is not None]
        weights = {w: share for w, share in renormalised(shares, valid).items() if share > 0.0}
        names = {w: preview_name(w, item.evaluations[w].key.worker_fingerprint) for w in weights}
        if not names or TRUTH not in stored or not all(name in stored for name in names.values()):
            return None
        try:
            pictures = {w: decode_preview(stored[name]) for w, name in names.items()}
            truth = decode_preview(stored[TRUTH])
        except ImageFormatError:  # a damaged preview is like one that was pushed out
            return None
        return self._blend_similarity(blend(pictures, weights), truth)

    def _full_accuracy(self, item: EvaluatedExample, shares: Mapping[str, float]) -> float | None:
        try:
            triple = load_triple(item.example, item.example.known_files, self.limits)
            prediction = self._blended(triple.source, triple.target, shares, run_all=False)
        except (ImageError, PredictionError):
            return None
        return self._blend_similarity(prediction.image, triple.ground_truth)

    def _blend_similarity(self, picture: Image, ground_truth: Image) -> float:
        return checked_similarity(lambda: self.scorer(ground_truth)(picture), self.metric_name, _BLENDED)

    def _note_scores(
        self,
        evaluated: Sequence[EvaluatedExample],
        pictures: Sequence[float | None],
        shares: Mapping[str, float],
        equal: Mapping[str, float],
    ) -> None:
        if self.weight_learner.cell.is_trial or self.store.is_read_only:
            return  # how a trial did says nothing about the ensemble that is kept
        now = self.clock().isoformat()
        edits: dict[str, ExampleEdit] = {}
        for item, score in zip(evaluated, pictures, strict=True):
            scores: ExampleScores = {
                "avg_accuracy": blend_accuracy(item.accuracies, shares),
                "equal_weights_accuracy": blend_accuracy(item.accuracies, equal),
                "ensemble_accuracy": score,
                "validated_at": now,
            }
            edits[item.example.example_id] = functools.partial(attrs.evolve, validation_scores=scores)
        self.store.edit_examples(edits, skip_missing=True)

    # --- answering ---

    @final
    def predict(self, source: Image, target: Image, *, run_all: bool = False) -> Prediction:
        """Return the ensemble's answer: the workers' pictures, blended by what was learned.

        Args:
            source: Gives the colours: uint8, H×W×3, BGR.
            target: Is changed: uint8, H×W×3, BGR.
            run_all: Run workers too whose share is below 0.001.

        Raises:
            InvalidArgumentError: an argument is no picture.
            NoWorkersError: the pool is ours and empty.
            PredictionError: no worker gave a usable picture; it holds every reason.
            WorkerPoolError: a pool that is not ours raised, or returned no results.
        """
        check_image(source, "source")
        check_image(target, "target")
        self._require_workers()
        self.prepare_learner()
        workers = own_workers(self.worker_pool)
        ids = None if workers is None else [worker.worker_id for worker in workers]
        shares = self.weight_learner.get_blend_weights(worker_ids=ids)
        return self._blended(source, target, shares, run_all=run_all)

    def _blended(self, source: Image, target: Image, shares: Mapping[str, float], *, run_all: bool) -> Prediction:
        wanted = [w for w, share in shares.items() if run_all or share >= NEGLIGIBLE_SHARE]
        results = self._run_workers(source, target, wanted)
        if not any(result.is_valid() for result in results.values()) and len(results) < len(shares):
            # Everyone with a share failed: better an answer from the others than none.
            results |= self._run_workers(source, target, [w for w in shares if w not in results])
        pictures = {w: result.value for w, result in results.items() if result.value is not None}
        if not pictures:
            raise PredictionError({w: str(result.failure) for w, result in results.items()})
        weights = renormalised(shares or self.weight_learner.get_blend_weights(worker_ids=pictures), pictures)
        return Prediction(blend(pictures, weights), weights, results)

    def _run_workers(self, source: Image, target: Image, worker_ids: Iterable[str]) -> dict[str, WorkerResult]:
        pool = self.worker_pool
        if isinstance(pool, WorkerPool) and own_workers(pool) is not None:
            results = pool.execute({"source": source, "target": target}, worker_ids)
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
