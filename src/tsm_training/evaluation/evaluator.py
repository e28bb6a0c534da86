"""Evaluating each example once: what is stored is looked up, what is missing is run, and all of it is kept."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Final, TypeAlias, TypedDict, cast

import attrs

from tsm_training.data import (
    PREVIEW_BYTES,
    Evaluation,
    EvaluationKey,
    ExampleEdit,
    ExampleFiles,
    ObservationRecord,
    PictureFile,
    Preview,
    TrainingExample,
    TrainingStore,
)
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    NothingEvaluatedError,
    NoWorkersError,
    StorageError,
    TrainingStoppedError,
    WorkerPoolError,
)
from tsm_training.evaluation.listener import Listener, write_log
from tsm_training.evaluation.reports import EvaluatedExample, mean
from tsm_training.evaluation.split import split_place
from tsm_training.evaluation.tasks import (
    Judge,
    Score,
    ScoredExample,
    Task,
    TaskRun,
    execution,
    load_triple,
    score_results,
)
from tsm_training.fingerprints import describe_object
from tsm_training.images import ImageLimits, inspect_image
from tsm_training.workers import (
    PASSING_FAILURES,
    TrainableWorker,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerRunner,
    ask_pool,
)

__all__ = [
    "CacheEntry",
    "EvaluationRun",
    "Evaluator",
    "FreshResults",
    "describe_files",
    "ending_with",
    "observation_name",
    "own_workers",
    "preview_name",
    "preview_rank",
    "trainable_workers",
]

_COMMIT_SECONDS: Final = 0.5  # evaluations are kept at least once a second
_SHOWN_ERRORS: Final = 3
_HELD_OUT: Final = 0.2
"""The fraction that `train` holds out by default."""


FingerprintOf: TypeAlias = Callable[[str, str], str | None]
"""Gives the fingerprint of a worker, by its id, on an example, by its digest; None for an unknown one."""

ResultsOf: TypeAlias = Callable[[Callable[[], None]], Iterator[ScoredExample]]
"""Yields results, and calls the given function several times a second while it waits for the next."""


class CacheEntry(TypedDict):
    """Whether a worker's result on an example is stored, and if not, why."""

    example_id: str
    worker_id: str
    is_stored: bool
    """True where the worker would not be run."""
    reason: str


@attrs.frozen
class EvaluationRun:
    """What came of evaluating some examples."""

    evaluated: tuple[EvaluatedExample, ...]
    """In the order in which the examples were given."""
    skipped: Mapping[str, str]
    """Why an example could not be used, by example id."""
    previews: Mapping[str, Mapping[str, bytes]]
    """Previews that are kept for this call only, by digest and name (a foreign pool's)."""
    observations: Mapping[str, Mapping[str, bytes]] = attrs.field(factory=dict)
    """Observations that are kept for this call only, by their name and digest (where the store is read-only)."""
    unobserved: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    """Why a trainable worker could note nothing, by worker id and digest."""

    def of(self, examples: Iterable[TrainingExample]) -> EvaluationRun:
        """Return the part of the run that concerns these examples."""
        ids = frozenset(example.example_id for example in examples)
        return EvaluationRun(
            evaluated=tuple(item for item in self.evaluated if item.example.example_id in ids),
            skipped={example_id: reason for example_id, reason in self.skipped.items() if example_id in ids},
            previews=self.previews,
            observations=self.observations,
            unobserved=self.unobserved,
        )

    def require_a_picture(self) -> None:
        """Make sure that some worker gave a usable picture on one of the examples.

        Raises:
            NothingEvaluatedError: none did; it holds a reason for each example.
        """
        reasons = dict(self.skipped)
        for item in self.evaluated:
            if any(accuracy is not None for accuracy in item.accuracies.values()):
                return
            errors = sorted({str(e.to_outcome()["error"]) for e in item.evaluations.values()})
            reasons[item.example.example_id] = f"every worker failed ({'; '.join(errors[:_SHOWN_ERRORS])})"
        raise NothingEvaluatedError(reasons)


def own_workers(pool: WorkerPoolLike) -> tuple[Worker, ...] | None:
    """Return the workers of a pool of ours, or None for a pool that can only be asked to run them all.

    A subclass that runs its workers in its own way is treated like a foreign pool, so that its way is used.
    """
    if isinstance(pool, WorkerPool) and type(pool).execute_parallel is WorkerPool.execute_parallel:
        return pool.workers
    return None


def trainable_workers(pool: WorkerPoolLike) -> tuple[TrainableWorker, ...]:
    """Return the workers of a pool of ours that can be fitted; in a foreign pool there are none."""
    return tuple(worker for worker in own_workers(pool) or () if isinstance(worker, TrainableWorker))


def observation_name(worker_id: str, fingerprint: str) -> str:
    """Return the name under which what a trainable worker noted of an example is kept."""
    return f"{worker_id}@{fingerprint}"


def describe_files(example: TrainingExample, limits: ImageLimits) -> ExampleFiles:
    """Look at an example's three files, and prove that they are whole.

    Raises:
        ImageError: a file is no usable picture.
        ImageSizeMismatchError: target and ground truth differ in size.
    """
    source, target, truth = (
        inspect_image(path, limits) for path in (example.source_path, example.target_path, example.ground_truth_path)
    )
    sizes = (target.height, target.width), (truth.height, truth.width)
    if sizes[0] != sizes[1]:
        raise ImageSizeMismatchError("the target", sizes[0], "the ground truth", sizes[1])
    return ExampleFiles(*(PictureFile(i.sha256, i.num_bytes, i.width, i.height) for i in (source, target, truth)))


@attrs.define
class _Pending:
    """Results that are not written yet, and when the last ones were."""

    evaluations: list[Evaluation] = attrs.field(factory=list)
    previews: list[Preview] = attrs.field(factory=list)
    observations: list[ObservationRecord] = attrs.field(factory=list)
    superseding: tuple[str, ...] = ()
    since: float = attrs.field(factory=time.monotonic)


@contextlib.contextmanager
def ending_with(error: BaseException, store: TrainingStore, purpose: str) -> Generator[None]:
    """Do what is left to do in a store when an error has ended the work: that error stays the one to report.

    Where it is Ctrl-C, or the store's own, nobody wants to wait for others once more. What fails is logged, as not
    having served its purpose.
    """
    is_urgent = not isinstance(error, Exception) or isinstance(error, StorageError)
    with store.hurrying() if is_urgent else contextlib.nullcontext():
        try:
            yield
        except Exception as fault:
            write_log(logging.WARNING, "could not %s: %s", purpose, fault)


@attrs.frozen(eq=False)
class Evaluator:
    """Evaluates examples with one `pool`, one `judge` and one `store`; the other settings are the engine's."""

    pool: WorkerPoolLike
    store: TrainingStore
    judge: Judge
    executor: Executor | None
    memory_budget: int
    limits: ImageLimits
    clock: Callable[[], datetime]
    is_storing: bool = True
    """False keeps what is found for the caller only, as a read-only store does for everybody."""

    @property
    def _writes(self) -> bool:
        return self.is_storing and not self.store.is_read_only

    # --- the whole of it ---

    def evaluate(
        self, examples: Sequence[TrainingExample], listener: Listener, *, reevaluate: bool = False
    ) -> EvaluationRun:
        """Return what every worker does on every example, running only what is not stored.

        Trainable workers only note what they need for a fit; what they do once fitted is scored in a second pass.
        Whoever calls this notes the results in the examples (`note_results`) when they are complete.

        Evaluations are committed as they are made, at least once a second and when the call ends, however it ends.

        Raises:
            NoWorkersError: the pool is ours and empty.
            MetricError: the judge raised or gave something that is no similarity.
            WorkerNotIsolatableError: a worker cannot be run in the way that the pool's runner wants.
            ExecutorError: the executor takes no work or has broken down, or workers cannot be run at all.
            TrainingStoppedError: the listener said so.
        """
        known, skipped = self.with_files(examples)
        by_digest = {_digest(example): example for example in known}
        workers = own_workers(self.pool)
        if workers is None:
            fresh = _Foreign(self).run(by_digest, listener, reevaluate=reevaluate)
        else:
            fresh = self._run(by_digest, workers, listener, reevaluate=reevaluate)
        evaluated = []
        for example in known:
            if (reason := fresh.skipped.get(_digest(example))) is not None:
                skipped[example.example_id] = reason
            else:
                evaluated.append(EvaluatedExample(example, _digest(example), fresh.found[_digest(example)]))
        for worker_id, reasons in sorted(fresh.unobserved.items()):
            reason = next(iter(reasons.values()))
            listener.note(f"worker {worker_id!r} cannot learn from {len(reasons)} of the examples; {reason}")
        return EvaluationRun(tuple(evaluated), skipped, fresh.previews, fresh.observations, fresh.unobserved)

    def with_files(self, examples: Sequence[TrainingExample]) -> tuple[list[TrainingExample], dict[str, str]]:
        """Return the examples with the contents of their files known, and why the others were left out.

        Only examples from a database that kept no contents are looked at; what is found is stored.
        """
        known, skipped = [], {}
        found: dict[str, ExampleEdit] = {}
        for example in examples:
            if example.files is not None:
                known.append(example)
                continue
            try:
                files = describe_files(example, self.limits)
            except (ImageError, ImageSizeMismatchError) as error:
                skipped[example.example_id] = str(error)
                continue
            known.append(attrs.evolve(example, files=files))
            found[example.example_id] = functools.partial(_with, files=files)
        if found and not self.store.is_read_only:
            self.store.edit_examples(found, skip_missing=True)
        return known, skipped

    def note_results(self, evaluated: Sequence[EvaluatedExample]) -> None:
        """Write the guide's ``worker_results`` of examples whose results have changed."""
        changed: dict[str, ExampleEdit] = {}
        for item in evaluated:
            results = {worker_id: e.to_outcome() for worker_id, e in item.evaluations.items()}
            if item.example.worker_results != results:
                changed[item.example.example_id] = functools.partial(_with, worker_results=results)
        if changed and not self.store.is_read_only:
            self.store.edit_examples(changed, skip_missing=True)

    # --- our own workers ---

    def fingerprints(self, workers: Sequence[Worker]) -> dict[str, str]:
        """Return the fingerprint of each worker, by worker id."""
        return {worker.worker_id: describe_object(worker) for worker in workers}

    def stored(self, digests: Iterable[str], fingerprint_of: FingerprintOf) -> dict[str, dict[str, Evaluation]]:
        """Return the stored evaluations that are still good, by digest and worker id."""
        metric = self.judge.metric_fingerprint
        found: dict[str, dict[str, Evaluation]] = {}
        for evaluation in self.store.load_evaluations(digests):
            key = evaluation.key
            wanted = fingerprint_of(key.worker_id, key.example_digest)
            if key.metric_fingerprint == metric and wanted == key.worker_fingerprint:
                found.setdefault(key.example_digest, {})[key.worker_id] = evaluation
        return found

    def evaluated_before(self, digests: Set[str]) -> list[EvaluatedExample]:
        """Return the stored examples with these contents, as far as what every worker did on them is still good.

        Trainable workers are left out: what they do depends on what they are fitted to.
        """
        workers = own_workers(self.pool)
        if not digests:
            return []
        if workers is None:
            pool_fingerprint = _Foreign(self).fingerprint()
            found = {} if pool_fingerprint is None else self.stored(digests, lambda *_of: pool_fingerprint)
            wanted: frozenset[str] = frozenset()
        else:
            fingerprints = self.fingerprints([w for w in workers if not isinstance(w, TrainableWorker)])
            found = self.stored(digests, lambda worker_id, _digest: fingerprints.get(worker_id))
            wanted = frozenset(fingerprints)
        complete = {digest: dict(sorted(e.items())) for digest, e in found.items() if wanted <= e.keys()}
        examples = {e.files.digest: e for e in self.store.iterate_examples() if e.files is not None}
        return [
            EvaluatedExample(examples[digest], digest, evaluations)
            for digest, evaluations in sorted(complete.items())
            if digest in examples
        ]

    def _run(
        self,
        examples: Mapping[str, TrainingExample],
        workers: Sequence[Worker],
        listener: Listener,
        *,
        reevaluate: bool,
    ) -> FreshResults:
        if not workers:
            raise NoWorkersError
        fixed = [worker for worker in workers if not isinstance(worker, TrainableWorker)]
        names = {
            w: observation_name(w.worker_id, describe_object(w)) for w in workers if isinstance(w, TrainableWorker)
        }
        fingerprints = self.fingerprints(fixed)
        found = {} if reevaluate else self.stored(examples, lambda worker_id, _digest: fingerprints.get(worker_id))
        observed = {} if reevaluate else {w: self.store.find_observations(name, examples) for w, name in names.items()}
        tasks = []
        for digest, example in examples.items():
            missing = tuple(worker for worker in fixed if worker.worker_id not in found.get(digest, {}))
            observers = tuple(worker for worker in names if digest not in observed.get(worker, ()))
            if missing or observers:
                tasks.append(self.task(digest, example, missing, observers=observers))
        fresh = FreshResults(
            found,
            lambda worker_id, _digest: fingerprints.get(worker_id),
            keeps_previews=self.store.is_read_only,
            observation_names={worker.worker_id: name for worker, name in names.items()},
            targets={digest: example.known_files.target.sha256 for digest, example in examples.items()},
        )
        wanted = {worker.worker_id for task in tasks for worker in task.workers}
        self._runner.check([worker for worker in fixed if worker.worker_id in wanted])
        self.run_tasks(tasks, fresh, listener, self.executor)
        for digest in examples:
            fresh.found.setdefault(digest, {})  # where all workers are trainable
        fresh.sort()
        return fresh

    def run_tasks(
        self,
        tasks: Sequence[Task],
        fresh: FreshResults,
        listener: Listener,
        executor: Executor | None,
        superseding: tuple[str, ...] = (),
    ) -> None:
        """Run tasks and keep what comes of them, also where something ends the work.

        Args:
            tasks: Any number.
            fresh: Takes the results.
            listener: Is told of each.
            executor: Where to run them; None for threads of this call's own.
            superseding: Ids of workers that were fitted anew; see `TrainingStore.save_evaluations`.
        """
        with execution(executor) as running:
            run = TaskRun(tasks, running, self.memory_budget)
            try:
                self.collect(run.results, fresh, len(tasks), listener, superseding=superseding)
            except BaseException as error:
                # Asked to stop, we wait for the examples that have begun; an error or Ctrl-C keeps what is done.
                finish = isinstance(error, TrainingStoppedError)
                with ending_with(error, self.store, "keep the last evaluations"):
                    self.collect(
                        lambda _poll: run.call_off(finish=finish),
                        fresh,
                        len(tasks),
                        Listener(),
                        superseding=superseding,
                    )
                raise

    def task(self, digest: str, example: TrainingExample, workers: tuple[Worker, ...], **settings: Any) -> Task:
        """Return the task of running workers on an example; further settings are those of a task."""
        return Task(
            example_id=digest,
            source_path=example.source_path,
            target_path=example.target_path,
            ground_truth_path=example.ground_truth_path,
            files=example.known_files,
            workers=workers,
            judge=self.judge,
            limits=self.limits,
            runner=self._runner,
            **settings,
        )

    @property
    def _runner(self) -> WorkerRunner:
        return cast("WorkerPool", self.pool).runner  # only pools of ours get here

    def collect(
        self,
        results: ResultsOf,
        fresh: FreshResults,
        total: int,
        listener: Listener,
        *,
        patience: float = _COMMIT_SECONDS,
        superseding: tuple[str, ...] = (),
    ) -> None:
        """Keep results as they come, at the latest `patience` seconds later, and whatever happens.

        Args:
            results: Given a function to call several times a second while it waits, yields results.
            fresh: Takes them.
            total: How many there will be.
            listener: Is told of each.
            patience: How long a result may wait for others to be committed with.
            superseding: Ids of workers that were fitted anew; see `TrainingStore.save_evaluations`.
        """
        metric = self.judge.metric_fingerprint
        pending = _Pending(superseding=superseding)
        started = time.monotonic()
        total_accuracy, scored = 0.0, 0

        def poll() -> None:
            # A long evaluation must not keep those before it waiting.
            self._commit(pending, patience)
            listener.poll()

        try:
            for done, result in enumerate(results(poll), 1):
                fresh.add(result, metric, self.clock(), pending)
                valid = [score.accuracy for score in result.scores if score.accuracy is not None]
                total_accuracy, scored = total_accuracy + sum(valid), scored + len(valid)
                self._commit(pending, patience)
                listener.tell("evaluating", done, total, started, total_accuracy / scored if scored else None)
        except BaseException as error:
            with ending_with(error, self.store, "keep the last evaluations"):
                self._commit(pending, 0.0)
            raise
        self._commit(pending, 0.0)

    def _commit(self, pending: _Pending, patience: float) -> None:
        is_waiting = pending.evaluations or pending.observations
        if is_waiting and time.monotonic() - pending.since >= patience:
            if self._writes:  # otherwise the caller has them for this call, and nobody else
                self.store.save_evaluations(
                    pending.evaluations, pending.previews, pending.observations, superseding=pending.superseding
                )
            pending.evaluations, pending.previews, pending.observations = [], [], []
            pending.since = time.monotonic()

    # --- saying why ---

    def explain(self, examples: Sequence[TrainingExample]) -> list[CacheEntry]:
        """Tell for each example and worker whether its result is stored and why not."""
        workers = [w for w in own_workers(self.pool) or () if not isinstance(w, TrainableWorker)]
        fingerprints = self.fingerprints(workers)
        metric = self.judge.metric_fingerprint
        stored: dict[tuple[str, str], list[EvaluationKey]] = {}
        digests = {e.example_id: e.files.digest for e in examples if e.files is not None}
        for evaluation in self.store.load_evaluations(digests.values()):
            key = evaluation.key
            stored.setdefault((key.example_digest, key.worker_id), []).append(key)
        entries = []
        for example in examples:
            for worker_id, fingerprint in fingerprints.items():
                keys = stored.get((digests.get(example.example_id, ""), worker_id), [])
                reason = _reason(keys, fingerprint, metric)
                entries.append(
                    CacheEntry(
                        example_id=example.example_id, worker_id=worker_id, is_stored=reason == _STORED, reason=reason
                    )
                )
        return entries


def _with(example: TrainingExample, **changes: Any) -> TrainingExample:
    return attrs.evolve(example, **changes)


_STORED: Final = "stored"


def _reason(keys: Sequence[EvaluationKey], fingerprint: str, metric: str) -> str:
    if not keys:
        return "never evaluated with these file contents"
    if not any(key.worker_fingerprint == fingerprint for key in keys):
        return "the worker's version, settings or source have changed"
    if not any(key.worker_fingerprint == fingerprint and key.metric_fingerprint == metric for key in keys):
        return "the metric has changed"
    return _STORED


@attrs.define
class FreshResults:
    """The evaluations of a call, by digest and worker id, as they come together."""

    found: dict[str, dict[str, Evaluation]]
    fingerprint_of: FingerprintOf
    skipped: dict[str, str] = attrs.field(factory=dict)
    keeps_previews: bool = False
    """Previews are kept for this call, since they are not stored."""
    previews: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    room: int = attrs.field(factory=lambda: PREVIEW_BYTES)
    observation_names: Mapping[str, str] = attrs.field(factory=dict)
    """The name of the observations of each trainable worker, by worker id."""
    targets: Mapping[str, str] = attrs.field(factory=dict)
    """Digests of the target pictures, by example digest."""
    observations: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """Observations that are kept for this call only, by name and example digest."""
    unobserved: dict[str, dict[str, str]] = attrs.field(factory=dict)
    """Why trainable workers could note nothing, by worker id and digest."""
    is_kept: bool = False
    """True where previews of outputs stay as long as the example."""
    pictured: Set[str] | None = None
    """Digests of the examples whose outputs get a preview; None for all."""

    def add(self, result: ScoredExample, metric: str, now: datetime, pending: _Pending) -> None:
        """Take what came of a task, and leave in `pending` what is to be stored of it."""
        digest = result.example_id
        if result.skipped is not None:
            self.skipped[digest] = result.skipped
            return
        before = len(pending.previews)
        pending.previews += [Preview(digest, name, png, None) for name, png in result.input_previews.items()]
        for worker_id, content in result.observations.items():
            name = self.observation_names[worker_id]
            pending.observations.append(ObservationRecord(digest, name, content))
            if self.keeps_previews:
                self.observations.setdefault(name, {})[digest] = content
        for worker_id, reason in result.unobserved.items():
            self.unobserved.setdefault(worker_id, {})[digest] = reason
        rank = None if self.is_kept else preview_rank(self.targets.get(digest, digest))
        for score in result.scores:
            fingerprint = self.fingerprint_of(score.worker_id, digest) or ""
            evaluation = _evaluation(EvaluationKey(digest, score.worker_id, fingerprint, metric), score, now)
            self.found.setdefault(digest, {})[score.worker_id] = evaluation
            if evaluation.failure_kind in PASSING_FAILURES:
                continue  # it counts in this call; the next one tries again
            pending.evaluations.append(evaluation)
            if score.preview is not None and (self.pictured is None or digest in self.pictured):
                name = preview_name(score.worker_id, fingerprint)
                pending.previews.append(Preview(digest, name, score.preview, rank))
        if self.keeps_previews:
            new = pending.previews[before:]
            self.room -= sum(len(preview.png) for preview in new)
            if self.room > 0:
                self.previews.setdefault(digest, {}).update({preview.name: preview.png for preview in new})

    def sort(self) -> None:
        """Put the workers of each example in order of id, so that nothing depends on who finished first."""
        self.found = {digest: dict(sorted(outcomes.items())) for digest, outcomes in self.found.items()}


def preview_name(worker_id: str, fingerprint: str) -> str:
    """Return the name under which the preview of a worker's output is kept."""
    return f"{worker_id}@{fingerprint}"


def preview_rank(target_sha256: str) -> float:
    """Return the rank of the previews of an example's outputs: where there is no room for all, the lowest stay.

    `train` holds out the first fifth of the targets in this order unless it is told otherwise. Held-out examples and
    the others take turns until all of the first have their place: a verdict needs pictures as much as a blend does.

    Args:
        target_sha256: Of the example's target picture.
    """
    place = split_place(target_sha256)
    return place if place < _HELD_OUT else place - _HELD_OUT


def _evaluation(key: EvaluationKey, score: Score, now: datetime) -> Evaluation:
    failure = score.failure
    return Evaluation(
        key=key,
        accuracy=score.accuracy,
        confidence=score.confidence,
        failure_kind=None if failure is None else failure.kind,
        failure_type=None if failure is None else failure.error_type,
        failure_message=None if failure is None else failure.message,
        seconds=score.seconds,
        created_at=now,
    )


@attrs.frozen
class _Foreign:
    """Evaluates with a pool of which nothing is known but that it can be asked.

    Examples go to it one at a time, in the calling thread. Its results are kept for one call, unless the pool has a
    ``version``: then they are stored like those of our own workers.
    """

    evaluator: Evaluator

    def run(self, examples: Mapping[str, TrainingExample], listener: Listener, *, reevaluate: bool) -> FreshResults:
        evaluator = self.evaluator
        pool_fingerprint = self.fingerprint()
        fingerprint = pool_fingerprint or uuid.uuid4().hex
        is_forgotten = pool_fingerprint is None or evaluator.store.is_read_only
        targets = {digest: example.known_files.target.sha256 for digest, example in examples.items()}
        fresh = FreshResults({}, lambda *_of: fingerprint, keeps_previews=is_forgotten, targets=targets)
        if pool_fingerprint is not None and not reevaluate:
            fresh.found = evaluator.stored(examples, fresh.fingerprint_of)
        missing = {digest: example for digest, example in examples.items() if digest not in fresh.found}

        def results(poll: Callable[[], None]) -> Iterator[ScoredExample]:
            return (self._evaluate(digest, example, poll) for digest, example in missing.items())

        if pool_fingerprint is not None:
            # While the pool works nobody polls, so nothing may wait.
            evaluator.collect(results, fresh, len(missing), listener, patience=0.0)
        else:
            self._keep_for_this_call(results(listener.poll), fresh, len(missing), listener)
        fresh.sort()
        return fresh

    def fingerprint(self) -> str | None:
        """Return a text that changes with the pool's version; None for a pool that has none."""
        version = getattr(self.evaluator.pool, "version", None)
        return None if not version else describe_object([type(self.evaluator.pool).__qualname__, str(version)])

    def _evaluate(self, digest: str, example: TrainingExample, poll: Callable[[], None]) -> ScoredExample:
        poll()
        evaluator = self.evaluator
        try:
            triple = load_triple(example, example.known_files, evaluator.limits)
            results = ask_pool(evaluator.pool, triple.source, triple.target)
        except (ImageError, ImageSizeMismatchError, WorkerPoolError) as error:
            return ScoredExample(digest, skipped=str(error))
        return score_results(digest, iter(results), triple, evaluator.judge)

    def _keep_for_this_call(
        self, results: Iterator[ScoredExample], fresh: FreshResults, total: int, listener: Listener
    ) -> None:
        metric = self.evaluator.judge.metric_fingerprint
        started = time.monotonic()
        for done, result in enumerate(results, 1):
            fresh.add(result, metric, self.evaluator.clock(), _Pending())
            listener.tell("evaluating", done, total, started, mean(s.accuracy for s in result.scores))


def _digest(example: TrainingExample) -> str:
    return example.known_files.digest
