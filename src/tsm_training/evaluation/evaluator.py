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
from typing import Final, TypeAlias, TypedDict, cast

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
    TrainingStoppedError,
    WorkerPoolError,
)
from tsm_training.evaluation.execution import Execution, executor_or_threads
from tsm_training.evaluation.previews import preview_name, preview_rank
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.evaluation.scoring import (
    EvaluationContext,
    ExampleInput,
    Judge,
    ScoredExample,
    UnusableExampleError,
    load_copies,
    paths_of,
    score_results,
)
from tsm_training.fingerprints import describe_object
from tsm_training.images import READER_VERSION, ImageLimits, inspect_image
from tsm_training.progress import ProgressReporter, write_log
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
    "by_contents",
    "describe_files",
    "ending_with",
    "observation_name",
    "own_workers",
    "trainable_workers",
]

_COMMIT_SECONDS: Final = 0.5  # evaluations are kept at least once a second
_SHOWN_ERRORS: Final = 3
_STORED: Final = "stored"

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
        return attrs.evolve(
            self,
            evaluated=tuple(item for item in self.evaluated if item.example.example_id in ids),
            skipped={example_id: reason for example_id, reason in self.skipped.items() if example_id in ids},
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
    """Return the name under which what a trainable worker noted of an example, as it is read now, is kept."""
    return f"{worker_id}@{fingerprint}.{READER_VERSION}"


def by_contents(examples: Iterable[TrainingExample]) -> dict[str, list[TrainingExample]]:
    """Return examples, all with known `files`, by digest: those with the same contents are evaluated once."""
    found: dict[str, list[TrainingExample]] = {}
    for example in examples:
        found.setdefault(example.known_files.digest, []).append(example)
    return found


def describe_files(example: TrainingExample, limits: ImageLimits) -> ExampleFiles:
    """Look at an example's three files, and prove that they are whole.

    Raises:
        ImageError: a file is no usable picture.
        ImageSizeMismatchError: target and ground truth differ in size.
    """
    source, target, truth = (inspect_image(path, limits) for path in paths_of(example))
    sizes = (target.height, target.width), (truth.height, truth.width)
    if sizes[0] != sizes[1]:
        raise ImageSizeMismatchError("the target", sizes[0], "the ground truth", sizes[1])
    return ExampleFiles(*(PictureFile(i.sha256, i.num_bytes, i.width, i.height) for i in (source, target, truth)))


@contextlib.contextmanager
def ending_with(error: BaseException, store: TrainingStore, purpose: str) -> Generator[None]:
    """Do what is left to do in a store when an error has ended the work: that error stays the one to report.

    Where it is Ctrl-C, or the store's own, nobody wants to wait for others once more. What fails is logged, as not
    having served its purpose.
    """
    try:
        yield
    except Exception as fault:
        write_log(logging.WARNING, "could not %s: %s", purpose, fault)


@attrs.define(eq=False, repr=False)
class FreshResults:
    """The evaluations of a call, by digest and worker id, as they come together; the latest wait to be stored."""

    found: dict[str, dict[str, Evaluation]]
    fingerprint_of: FingerprintOf
    targets: Mapping[str, str]
    """Digests of the target pictures, by example digest."""
    observation_names: Mapping[str, str] = attrs.field(factory=dict)
    """The name of the observations of each trainable worker, by worker id."""
    is_kept: bool = False
    """True where previews of outputs stay as long as the example."""
    pictured: Set[str] | None = None
    """Digests of the examples whose outputs get a preview; None for all."""
    is_unstored: bool = False
    """True where the store takes nothing: previews and observations are kept for this call."""
    cutoff: tuple[float, str] | None = None
    """What `TrainingStore.preview_cutoff` said last."""
    room: int = attrs.field(factory=lambda: PREVIEW_BYTES)
    """How many bytes of previews can still be kept for this call."""
    skipped: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    """Why no copy of an example could be used, a reason for each, by digest."""
    previews: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """Previews that are kept for this call only, by digest and name."""
    observations: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """Observations that are kept for this call only, by name and example digest."""
    unobserved: dict[str, dict[str, str]] = attrs.field(factory=dict)
    """Why trainable workers could note nothing, by worker id and digest."""
    waiting: tuple[list[Evaluation], list[Preview], list[ObservationRecord]] = attrs.field(factory=lambda: ([], [], []))
    """What is not stored yet."""

    def has_room(self, digest: str) -> bool:
        """Tell whether previews of an example's outputs would be kept, as far as that is known by now."""
        if self.pictured is not None and digest not in self.pictured:
            return False
        if self.is_unstored:
            return self.room > 0
        rank = self._rank(digest)
        # The example at the cutoff itself may have room for some of its previews.
        return rank is None or self.cutoff is None or (rank, digest) <= self.cutoff

    def _rank(self, digest: str) -> float | None:
        return None if self.is_kept else preview_rank(self.targets[digest])

    def add(self, result: ScoredExample, metric: str, now: datetime) -> None:
        """Take what came of an example."""
        digest = result.digest
        if result.skipped:
            self.skipped[digest] = result.skipped
            return
        evaluations, previews, observations = self.waiting
        new = [Preview(digest, name, png, None) for name, png in result.input_previews.items()]
        for score in result.scores:
            fingerprint = self.fingerprint_of(score.worker_id, digest) or ""
            key = EvaluationKey(digest, score.worker_id, fingerprint, metric, READER_VERSION)
            fault = score.failure
            kind, error_type, message = (fault.kind, fault.error_type, fault.message) if fault else (None, None, None)
            outcome = score.accuracy, score.confidence, kind, error_type, message
            evaluation = Evaluation(key, *outcome, score.seconds, now)
            self.found.setdefault(digest, {})[score.worker_id] = evaluation
            if evaluation.failure_kind not in PASSING_FAILURES:  # those count in this call; the next one tries again
                evaluations.append(evaluation)
            if score.preview is not None:
                name = preview_name(score.worker_id, fingerprint)
                new.append(Preview(digest, name, score.preview, self._rank(digest)))
        previews += new
        for worker_id, content in result.observations.items():
            name = self.observation_names[worker_id]
            observations.append(ObservationRecord(digest, name, content))
            if self.is_unstored:
                self.observations.setdefault(name, {})[digest] = content
        for worker_id, reason in result.unobserved.items():
            self.unobserved.setdefault(worker_id, {})[digest] = reason
        if self.is_unstored:
            self.room -= sum(len(preview.png) for preview in new)
            if self.room > 0:
                self.previews.setdefault(digest, {}).update({preview.name: preview.png for preview in new})

    def sort(self) -> None:
        """Put the workers of each example in order of id, so that nothing depends on who finished first."""
        self.found = {digest: dict(sorted(outcomes.items())) for digest, outcomes in self.found.items()}


@attrs.frozen(eq=False, repr=False)
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
    timer: Callable[[], float] = time.monotonic
    """Gives seconds, for deciding when to commit."""

    @property
    def _writes(self) -> bool:
        return self.is_storing and not self.store.is_read_only

    @property
    def _fixed_workers(self) -> list[Worker]:
        return [worker for worker in own_workers(self.pool) or () if not isinstance(worker, TrainableWorker)]

    # --- the whole of it ---

    def evaluate(
        self, examples: Sequence[TrainingExample], reporter: ProgressReporter, *, reevaluate: bool = False
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
            TrainingStoppedError: the reporter said so.
        """
        known, skipped = self.with_files(examples)
        copies = by_contents(known)
        if own_workers(self.pool) is None:
            fresh = self._run_foreign(copies, reporter, reevaluate=reevaluate)
        else:
            fresh = self._run(copies, reporter, reevaluate=reevaluate)
        fresh.sort()
        reasons = {
            example.example_id: reason
            for digest, faults in fresh.skipped.items()
            for example, reason in zip(copies[digest], faults, strict=True)
        }
        evaluated = []
        for example in known:
            if (reason := reasons.get(example.example_id)) is not None:
                skipped[example.example_id] = reason
            else:
                digest = example.known_files.digest
                evaluated.append(EvaluatedExample(example, digest, fresh.found[digest]))
        for worker_id, faults in sorted(fresh.unobserved.items()):
            reason = next(iter(faults.values()))
            reporter.note(f"worker {worker_id!r} cannot learn from {len(faults)} of the examples; {reason}")
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
            found[example.example_id] = functools.partial(attrs.evolve, files=files)
        if found and not self.store.is_read_only:
            self.store.edit_examples(found, skip_missing=True)
        return known, skipped

    def note_results(self, evaluated: Sequence[EvaluatedExample]) -> None:
        """Write the guide's ``worker_results`` of examples whose results have changed."""
        changed: dict[str, ExampleEdit] = {}
        for item in evaluated:
            results = {worker_id: e.to_outcome() for worker_id, e in item.evaluations.items()}
            if item.example.worker_results != results:
                changed[item.example.example_id] = functools.partial(attrs.evolve, worker_results=results)
        if changed and not self.store.is_read_only:
            self.store.edit_examples(changed, skip_missing=True)

    # --- what is stored ---

    def fingerprints(self, workers: Sequence[Worker]) -> dict[str, str]:
        """Return the fingerprint of each worker, by worker id."""
        return {worker.worker_id: describe_object(worker) for worker in workers}

    def stored(self, digests: Iterable[str], fingerprint_of: FingerprintOf) -> dict[str, dict[str, Evaluation]]:
        """Return the stored evaluations that are still good, by digest and worker id."""
        scored_by = self.judge.fingerprint, READER_VERSION
        found: dict[str, dict[str, Evaluation]] = {}
        for evaluation in self.store.load_evaluations(digests):
            key = evaluation.key
            wanted = fingerprint_of(key.worker_id, key.example_digest)
            if (key.metric_fingerprint, key.reader) == scored_by and key.worker_fingerprint == wanted:
                found.setdefault(key.example_digest, {})[key.worker_id] = evaluation
        return found

    def evaluated_before(self, digests: Set[str]) -> list[EvaluatedExample]:
        """Return the stored examples with these contents, as far as what every worker did on them is still good.

        Trainable workers are left out: what they do depends on what they are fitted to.
        """
        if not digests:
            return []
        fingerprints = self.fingerprints(self._fixed_workers)
        if own_workers(self.pool) is None:
            pool_fingerprint = self._pool_fingerprint()
            found = {} if pool_fingerprint is None else self.stored(digests, lambda *_of: pool_fingerprint)
        else:
            found = self.stored(digests, lambda worker_id, _digest: fingerprints.get(worker_id))
        complete = {digest: dict(sorted(e.items())) for digest, e in found.items() if fingerprints.keys() <= e.keys()}
        examples = {e.known_files.digest: e for e in self.store.find_examples(complete)}
        return [
            EvaluatedExample(examples[digest], digest, evaluations)
            for digest, evaluations in sorted(complete.items())
            if digest in examples
        ]

    def explain(self, examples: Sequence[TrainingExample]) -> list[CacheEntry]:
        """Tell for each example and worker whether its result is stored and why not."""
        stored: dict[tuple[str, str], list[EvaluationKey]] = {}
        digests = {e.example_id: e.files.digest for e in examples if e.files is not None}
        for evaluation in self.store.load_evaluations(digests.values()):
            key = evaluation.key
            stored.setdefault((key.example_digest, key.worker_id), []).append(key)
        fingerprints = self.fingerprints(self._fixed_workers)
        reasons = {
            (e.example_id, w): _reason(stored.get((digests.get(e.example_id, ""), w), []), fingerprint, self.judge)
            for e in examples
            for w, fingerprint in fingerprints.items()
        }
        return [
            CacheEntry(example_id=example_id, worker_id=worker_id, is_stored=reason == _STORED, reason=reason)
            for (example_id, worker_id), reason in reasons.items()
        ]

    # --- running what is not ---

    def _run(
        self, copies: Mapping[str, Sequence[TrainingExample]], reporter: ProgressReporter, *, reevaluate: bool
    ) -> FreshResults:
        fixed = self._fixed_workers
        names = {w: observation_name(w.worker_id, describe_object(w)) for w in trainable_workers(self.pool)}
        if not fixed and not names:
            raise NoWorkersError
        fingerprints = self.fingerprints(fixed)
        fresh = FreshResults(
            {},
            lambda worker_id, _digest: fingerprints.get(worker_id),
            targets=_targets(copies),
            observation_names={worker.worker_id: name for worker, name in names.items()},
        )
        observed: dict[TrainableWorker, set[str]] = {}
        if not reevaluate:
            fresh.found = self.stored(copies, fresh.fingerprint_of)
            observed = {worker: self.store.find_observations(name, copies) for worker, name in names.items()}
        inputs = []
        for digest, examples in copies.items():
            missing = [worker for worker in fixed if worker.worker_id not in fresh.found.get(digest, {})]
            observers = tuple(worker.worker_id for worker in names if digest not in observed.get(worker, ()))
            if missing or observers:
                inputs.append(ExampleInput.of(examples, missing, observers=observers))
        # The first in order of rank keep their previews: once they are there, those behind need none.
        inputs.sort(key=lambda example: (preview_rank(fresh.targets[example.digest]), example.digest))
        wanted = {worker_id for example in inputs for worker_id in example.worker_ids}
        self._runner.check([worker for worker in fixed if worker.worker_id in wanted])
        self.run_examples(inputs, [*fixed, *names], fresh, reporter, executor=self.executor)
        for digest in copies:
            fresh.found.setdefault(digest, {})  # where all workers are trainable
        return fresh

    def run_examples(
        self,
        examples: Sequence[ExampleInput],
        workers: Iterable[Worker],
        fresh: FreshResults,
        reporter: ProgressReporter,
        *,
        executor: Executor | None,
        superseding: tuple[str, ...] = (),
    ) -> None:
        """Evaluate examples and keep what comes of them, also where something ends the work.

        Args:
            examples: Any number.
            workers: Those that they name.
            fresh: Takes the results.
            reporter: Is told of each.
            executor: Where to run them; None for threads of this call's own.
            superseding: Ids of workers that were fitted anew; see `TrainingStore.save_evaluations`.
        """
        context = EvaluationContext({w.worker_id: w for w in workers}, self.judge, self.limits, self._runner)
        # Decided when an example is handed out: by then there may be no more room.
        inputs = (attrs.evolve(example, is_pictured=fresh.has_room(example.digest)) for example in examples)
        with executor_or_threads(executor) as running:
            execution = Execution(context, inputs, running, self.memory_budget)
            self.collect(
                execution.results,
                fresh,
                len(examples),
                reporter,
                superseding=superseding,
                call_off=execution.call_off,
            )

    @property
    def _runner(self) -> WorkerRunner:
        return cast("WorkerPool", self.pool).runner  # only pools of ours get here

    def collect(
        self,
        results: ResultsOf,
        fresh: FreshResults,
        total: int,
        reporter: ProgressReporter,
        *,
        patience: float = _COMMIT_SECONDS,
        superseding: tuple[str, ...] = (),
        call_off: Callable[[bool], Iterable[ScoredExample]] = lambda _finish: (),
    ) -> None:
        """Keep results as they come, at the latest `patience` seconds later, and whatever happens.

        Args:
            results: Given a function to call several times a second while it waits, yields results.
            fresh: Takes them.
            total: How many there will be.
            reporter: Is told of each.
            patience: How long a result may wait for others to be committed with.
            superseding: Ids of workers that were fitted anew; see `TrainingStore.save_evaluations`.
            call_off: Begins nothing more, and returns what was still made; given whether to finish what has begun.
        """
        metric = self.judge.fingerprint
        fresh.is_unstored = not self._writes
        since = self.timer()
        started = time.monotonic()
        total_accuracy, scored = 0.0, 0

        def look_for_room() -> None:
            # What supersedes older previews makes room for itself, and is bounded anyway.
            if total and self._writes and not superseding:
                fresh.cutoff = self.store.preview_cutoff()

        def commit(patience: float) -> None:
            nonlocal since
            evaluations, previews, observations = fresh.waiting
            if (evaluations or observations) and self.timer() - since >= patience:
                if self._writes:  # otherwise the caller has them for this call, and nobody else
                    self.store.save_evaluations(evaluations, previews, observations, superseding=superseding)
                fresh.waiting = [], [], []
                since = self.timer()
                look_for_room()

        def poll() -> None:
            # A long evaluation must not keep those before it waiting.
            commit(patience)
            reporter.poll()

        try:
            look_for_room()
            for done, result in enumerate(results(poll), 1):
                fresh.add(result, metric, self.clock())
                valid = [score.accuracy for score in result.scores if score.accuracy is not None]
                total_accuracy, scored = total_accuracy + sum(valid), scored + len(valid)
                commit(patience)
                reporter.tell("evaluating", done, total, started, total_accuracy / scored if scored else None)
            commit(0.0)
        except BaseException as error:
            # Asked to stop, we wait for the examples that have begun; an error or Ctrl-C keeps what is done.
            leftover = call_off(isinstance(error, TrainingStoppedError))
            with ending_with(error, self.store, "keep the last evaluations"):
                commit(0.0)
                for result in leftover:
                    fresh.add(result, metric, self.clock())
                    commit(0.0)  # the next one may take long
            raise

    # --- a pool of which nothing is known but that it can be asked ---

    def _pool_fingerprint(self) -> str | None:
        """Return a text that changes with a foreign pool's version; None for a pool that has none."""
        version = getattr(self.pool, "version", None)
        return None if not version else describe_object([type(self.pool).__qualname__, str(version)])

    def _run_foreign(
        self, copies: Mapping[str, Sequence[TrainingExample]], reporter: ProgressReporter, *, reevaluate: bool
    ) -> FreshResults:
        """Ask the pool about one example after the other, in the calling thread.

        Its results are kept for one call, unless it has a ``version``: then they are stored like those of our own
        workers.
        """
        pool_fingerprint = self._pool_fingerprint()
        fingerprint = pool_fingerprint or uuid.uuid4().hex
        fresh = FreshResults({}, lambda *_of: fingerprint, targets=_targets(copies))
        if pool_fingerprint is not None and not reevaluate:
            fresh.found = self.stored(copies, fresh.fingerprint_of)
        missing = [digest for digest in copies if digest not in fresh.found]

        def results(poll: Callable[[], None]) -> Iterator[ScoredExample]:
            for digest in missing:
                poll()
                yield self._asked(digest, copies[digest], is_pictured=fresh.has_room(digest))

        evaluator = self if pool_fingerprint is not None else attrs.evolve(self, is_storing=False)
        # While the pool works nobody polls, so nothing may wait.
        evaluator.collect(results, fresh, len(missing), reporter, patience=0.0)
        return fresh

    def _asked(self, digest: str, copies: Sequence[TrainingExample], *, is_pictured: bool) -> ScoredExample:
        try:
            triple = load_copies([paths_of(example) for example in copies], copies[0].known_files, self.limits)
            results = ask_pool(self.pool, triple.source, triple.target)
        except UnusableExampleError as error:
            return ScoredExample(digest, skipped=tuple(map(str, error.faults)))
        except WorkerPoolError as error:
            return ScoredExample(digest, skipped=(str(error),) * len(copies))
        return score_results(digest, results, triple, self.judge, is_pictured=is_pictured)


def _targets(copies: Mapping[str, Sequence[TrainingExample]]) -> dict[str, str]:
    return {digest: examples[0].known_files.target.sha256 for digest, examples in copies.items()}


def _reason(keys: Sequence[EvaluationKey], fingerprint: str, judge: Judge) -> str:
    if not keys:
        return "never evaluated with these file contents"
    keys = [key for key in keys if key.worker_fingerprint == fingerprint]
    if not keys:
        return "the worker's version, settings or source have changed"
    keys = [key for key in keys if key.metric_fingerprint == judge.fingerprint]
    if not keys:
        return "the metric has changed"
    return _STORED if any(key.reader == READER_VERSION for key in keys) else "the picture reader has changed"
