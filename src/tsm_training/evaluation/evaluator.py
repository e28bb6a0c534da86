"""Evaluating each example once: what is stored is looked up, what is missing is run, and all of it is kept."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Final, TypedDict

import attrs

from tsm_training.data import Evaluation, EvaluationKey, ExampleEdit, TrainingExample, TrainingStore
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    InvalidArgumentError,
    NoWorkersError,
    WorkerPoolError,
)
from tsm_training.evaluation.evaluated import EvaluatedExample, EvaluationRun, Previews, preview_rank
from tsm_training.evaluation.execution import ClusterClient, Execution, executor_or_threads
from tsm_training.evaluation.keeping import Copies, FingerprintOf, FreshResults
from tsm_training.evaluation.scoring import EvaluationContext, ExampleInput, Judge, ScoredExample, evaluate
from tsm_training.fingerprints import describe_object
from tsm_training.images import READER_VERSION, ImageLimits
from tsm_training.ingest import describe_files
from tsm_training.progress import ProgressReporter
from tsm_training.workers import (
    ThreadRunner,
    TrainableWorker,
    Worker,
    WorkerPool,
    WorkerPoolLike,
    WorkerRequest,
    WorkerResult,
    WorkerRunner,
    ask_pool,
)

_STORED: Final = "stored"


class CacheEntry(TypedDict):
    """Whether a worker's result on an example is stored, and if not, why."""

    example_id: str
    worker_id: str
    is_stored: bool
    """True where the worker would not be run."""
    reason: str


def own_pool(pool: WorkerPoolLike) -> WorkerPool | None:
    """Return a pool of ours, or None for one that can only be asked to run all its workers.

    A subclass that runs its workers in its own way is treated like a foreign pool, so that its way is used.
    """
    if isinstance(pool, WorkerPool) and type(pool).execute_parallel is WorkerPool.execute_parallel:
        return pool
    return None


def own_workers(pool: WorkerPoolLike) -> tuple[Worker, ...] | None:
    """Return the workers of a pool of ours, or None for a pool that can only be asked to run them all."""
    own = own_pool(pool)
    return None if own is None else own.workers


def observation_name(worker_id: str, fingerprint: str) -> str:
    """Return the name under which what a trainable worker noted of an example, as it is read now, is kept."""
    return f"{worker_id}@{fingerprint}.{READER_VERSION}"


def by_contents(examples: Iterable[TrainingExample]) -> dict[str, list[TrainingExample]]:
    """Return examples, all with known `files`, by digest: those with the same contents are evaluated once."""
    found: dict[str, list[TrainingExample]] = {}
    for example in examples:
        found.setdefault(example.known_files.digest, []).append(example)
    return found


@attrs.frozen(eq=False, repr=False)
class Evaluator:
    """Evaluates examples with one `pool`, one `judge` and one `store`; the other settings are the engine's."""

    pool: WorkerPoolLike
    store: TrainingStore
    judge: Judge
    executor: Executor | ClusterClient | None
    memory_budget: int
    limits: ImageLimits
    side: int | None
    """The longest side of pictures that are evaluated, in pixels; see `TrainingEngine`."""
    clock: Callable[[], datetime]
    reporter: ProgressReporter = attrs.field(factory=ProgressReporter)
    """Is told how far a call has come, and asked whether it should go on."""
    reevaluate: bool = False
    """True passes over what is stored."""
    is_storing: bool = True
    """False keeps what is found for the caller only, as a read-only store does for everybody."""
    timer: Callable[[], float] = time.monotonic
    """Gives seconds, for deciding when to commit."""

    @property
    def reader(self) -> str:
        """What stands in the keys of evaluations for how pictures are read: another one gives other pixels."""
        return READER_VERSION if self.side is None else f"{READER_VERSION}@{self.side}"

    def observed_as(self, worker: Worker) -> str:
        """Return the fingerprint under which a trainable worker's observations are kept: of other pixels, another."""
        return describe_object(worker) if self.side is None else f"{describe_object(worker)}@{self.side}"

    @property
    def _fixed_workers(self) -> list[Worker]:
        return [worker for worker in own_workers(self.pool) or () if not isinstance(worker, TrainableWorker)]

    @property
    def trainable_workers(self) -> dict[str, TrainableWorker]:
        """The workers of a pool of ours that can be fitted, by worker id; in a foreign pool there are none."""
        workers = own_workers(self.pool) or ()
        return {worker.worker_id: worker for worker in workers if isinstance(worker, TrainableWorker)}

    # --- the whole of it ---

    def evaluate(self, examples: Sequence[TrainingExample]) -> EvaluationRun:
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
        own = own_pool(self.pool)
        fresh = self._run_foreign(copies) if own is None else self._run(own, copies)
        reasons = {
            example.example_id: reason
            for digest, faults in fresh.skipped.items()
            for example, reason in zip(copies[digest], faults, strict=True)
        }
        skipped |= {e.example_id: reasons[e.example_id] for e in known if e.example_id in reasons}
        # In order of id, so that nothing depends on who finished first.
        found = {digest: dict(sorted(fresh.found.get(digest, {}).items())) for digest in copies}
        evaluated = tuple(
            EvaluatedExample(example, example.known_files.digest, found[example.known_files.digest])
            for example in known
            if example.example_id not in skipped
        )
        for worker_id, faults in sorted(fresh.unobserved.items()):
            reason = next(iter(faults.values()))
            self.reporter.note(f"worker {worker_id!r} cannot learn from {len(faults)} of the examples; {reason}")
        previews = Previews(self.store, fresh.previews)
        return EvaluationRun(evaluated, skipped, previews, fresh.observations, fresh.unobserved, fresh.changes)

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
            except (ImageError, ImageSizeMismatchError, InvalidArgumentError) as error:  # an old path may be no path
                skipped[example.example_id] = str(error)
                continue
            known.append(attrs.evolve(example, files=files))
            found[example.example_id] = functools.partial(attrs.evolve, files=files)
        self._edit(found)
        return known, skipped

    def note_results(self, evaluated: Sequence[EvaluatedExample]) -> None:
        """Write the guide's ``worker_results`` of examples whose results have changed."""
        changed: dict[str, ExampleEdit] = {}
        for item in evaluated:
            results = {worker_id: e.to_outcome() for worker_id, e in item.evaluations.items()}
            if item.example.worker_results != results:
                changed[item.example.example_id] = functools.partial(attrs.evolve, worker_results=results)
        self._edit(changed)

    def _edit(self, edits: Mapping[str, ExampleEdit]) -> None:
        if edits and not self.store.is_read_only:
            self.store.edit_examples(edits, skip_missing=True)

    # --- what is stored ---

    def fingerprints(self, workers: Iterable[Worker]) -> dict[str, str]:
        """Return the fingerprint of each worker, by worker id."""
        return {worker.worker_id: describe_object(worker) for worker in workers}

    def fixed_fingerprints(self) -> Callable[[str], str | None]:
        """Return what gives a worker's fingerprint by its id; None for trainable workers and for unknown ones.

        All workers of a pool that is not ours have that of the pool; where it has no version, they have none.
        """
        fingerprints, version = self.fingerprints(self._fixed_workers), self._pool_fingerprint()
        return lambda worker_id: fingerprints.get(worker_id, version)

    def stored(self, digests: Iterable[str], fingerprint_of: FingerprintOf) -> dict[str, dict[str, Evaluation]]:
        """Return the stored evaluations that are still good, by digest and worker id."""
        scored_by = self.judge.fingerprint, self.reader
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
        version = self._pool_fingerprint()  # None for a pool of ours
        found = self.stored(digests, lambda worker_id, _digest: fingerprints.get(worker_id, version))
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
        entries: list[CacheEntry] = []
        for example_id in dict.fromkeys(example.example_id for example in examples):
            for worker_id, fingerprint in fingerprints.items():
                keys = stored.get((digests.get(example_id, ""), worker_id), [])
                reason = self._reason(keys, fingerprint)
                entries.append(
                    CacheEntry(example_id=example_id, worker_id=worker_id, is_stored=reason == _STORED, reason=reason)
                )
        return entries

    def _reason(self, keys: Sequence[EvaluationKey], fingerprint: str) -> str:
        if not keys:
            return "never evaluated with these file contents"
        keys = [key for key in keys if key.worker_fingerprint == fingerprint]
        if not keys:
            return "the worker's version, settings or source have changed"
        keys = [key for key in keys if key.metric_fingerprint == self.judge.fingerprint]
        if not keys:
            return "the metric has changed"
        return _STORED if any(key.reader == self.reader for key in keys) else "the picture reader has changed"

    # --- running what is not ---

    def fresh_results(self, copies: Copies, fingerprint_of: FingerprintOf, **settings: Any) -> FreshResults:
        """Return what takes results, and holds those that are stored already; `settings` are its other fields."""
        store = self.store if self.is_storing and not self.store.is_read_only else None
        known = self.stored(copies, fingerprint_of)
        found, before = ({}, known) if self.reevaluate else (known, {})
        tools = store, self.judge.fingerprint, self.reader, self.clock, self.timer, self.reporter
        return FreshResults(*tools, copies, fingerprint_of, found, before, **settings)

    def _run(self, pool: WorkerPool, copies: Copies) -> FreshResults:
        fixed, trainable = self._fixed_workers, self.trainable_workers
        if not fixed and not trainable:
            raise NoWorkersError
        fingerprints = self.fingerprints(fixed)
        names = {
            worker_id: observation_name(worker_id, self.observed_as(worker)) for worker_id, worker in trainable.items()
        }
        fresh = self.fresh_results(
            copies, lambda worker_id, _digest: fingerprints.get(worker_id), observation_names=names
        )
        observed: dict[str, Set[str]] = {}
        if not self.reevaluate:
            observed = {worker_id: self.store.find_observations(name, copies) for worker_id, name in names.items()}
        inputs = []
        for digest, examples in copies.items():
            missing = [worker for worker in fixed if worker.worker_id not in fresh.found.get(digest, {})]
            observers = tuple(worker_id for worker_id in names if digest not in observed.get(worker_id, ()))
            if missing or observers:
                inputs.append(ExampleInput.of(examples, missing, observers=observers))
        # The first in order of rank keep their previews: once they are there, those behind need none.
        inputs.sort(key=lambda example: (preview_rank(example.files.target.sha256), example.digest))
        wanted = {worker_id for example in inputs for worker_id in example.worker_ids}
        pool.runner.check([worker for worker in fixed if worker.worker_id in wanted])
        workers = {worker.worker_id: worker for worker in fixed} | trainable
        self.run_examples(inputs, workers, fresh, self.executor)
        return fresh

    def run_examples(
        self,
        examples: Sequence[ExampleInput],
        workers: Mapping[str, Worker],
        fresh: FreshResults,
        executor: Executor | ClusterClient | None,
    ) -> None:
        """Evaluate examples and keep what comes of them, also where something ends the work.

        `workers` are those that they name, by id; without an executor, threads of this call's own run them.
        """
        context = self._context(workers)
        with executor_or_threads(executor) as running:
            execution = Execution(context, examples, running, self.memory_budget, fresh.has_room)
            fresh.collect(execution.results, len(examples), execution.call_off)

    def _context(self, workers: Mapping[str, Worker]) -> EvaluationContext:
        own = own_pool(self.pool)
        runner: WorkerRunner = ThreadRunner() if own is None else own.runner
        return EvaluationContext(workers, self.judge, self.limits, self.side, runner)

    # --- a pool of which nothing is known but that it can be asked ---

    def _pool_fingerprint(self) -> str | None:
        """Return a text that changes with a foreign pool's version; None for a pool that has none, or is ours."""
        version = None if own_pool(self.pool) is not None else getattr(self.pool, "version", None)
        return None if not version else describe_object([type(self.pool).__qualname__, str(version)])

    def _run_foreign(self, copies: Copies) -> FreshResults:
        """Ask the pool about one example after the other, in the calling thread.

        Its results are kept for one call, unless it has a ``version``: then they are stored like those of our own
        workers.
        """
        version = self._pool_fingerprint()
        fingerprint = version or uuid.uuid4().hex  # under a new one, nothing is stored
        evaluator = attrs.evolve(self, is_storing=self.is_storing and version is not None)
        # While the pool works nobody polls, so nothing may wait.
        fresh = evaluator.fresh_results(copies, lambda *_of: fingerprint, patience=0.0)
        context = self._context({})

        def ask(request: WorkerRequest) -> list[WorkerResult]:
            return ask_pool(self.pool, request["source"], request["target"])

        missing = [digest for digest in copies if digest not in fresh.found]

        def results(poll: Callable[[], None]) -> Iterator[ScoredExample]:
            for digest in missing:
                poll()
                example = ExampleInput.of(copies[digest], ())
                example = example._replace(is_pictured=fresh.has_room(example) is True)
                try:
                    scored = evaluate(context, example, ask)
                except WorkerPoolError as error:
                    scored = ScoredExample(digest, skipped=(str(error),) * len(example.copies))
                yield scored

        fresh.collect(results, len(missing))
        return fresh
