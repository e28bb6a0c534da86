"""Evaluating examples: pictures in, scores out, and nothing of the pictures left behind.

`evaluate` is a pure function of a picklable task, so that threads, processes and the machines of a cluster give the
same results to the last bit. `TaskRun` feeds an executor while it keeps the pictures in flight within a budget.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from typing import Final, Protocol, TypeAlias

import attrs

from tsm_training.arrays import Image, frozen_copy
from tsm_training.data import ExampleFiles, TrainingExample
from tsm_training.ensemble import decode_preview, encode_preview, sample_grid
from tsm_training.errors import ExecutorError, ImageError, ImageFormatError, ImageSizeMismatchError, MetricError
from tsm_training.evaluation.footprint import bytes_to_evaluate
from tsm_training.images import ImageLimits, read_image
from tsm_training.metrics import Metric, similarity_or_none
from tsm_training.workers import (
    MOST_OBSERVATION_BYTES,
    ThreadRunner,
    TrainableWorker,
    Worker,
    WorkerFailure,
    WorkerRequest,
    WorkerResult,
    WorkerRunner,
    shown,
)

__all__ = [
    "SOURCE",
    "TARGET",
    "TRUTH",
    "Judge",
    "Score",
    "ScoredExample",
    "Task",
    "TaskRun",
    "checked_similarity",
    "evaluate",
    "execution",
    "load_triple",
    "score_results",
]

SOURCE: Final = "source"
TARGET: Final = "target"
TRUTH: Final = "ground_truth"

Scorer: TypeAlias = Callable[[Image], object]

_MAX_THREADS: Final = 8
_MAX_IN_FLIGHT: Final = 64
_POLL_SECONDS: Final = 0.1
_SAMPLE_BYTES: Final = 4 * 1024**2  # what a task on samples takes, its fitted worker not counted
_PICKLING_ERRORS: Final = (pickle.PicklingError, AttributeError, TypeError)  # what Python says of what it cannot pickle


class Judge(Protocol):
    """What scores pictures; the engine, in an evaluation."""

    @property
    def metric_name(self) -> str:
        """A name for messages."""
        ...

    @property
    def metric_fingerprint(self) -> str:
        """A text that changes when the scores probably do."""
        ...

    @property
    def known_metric(self) -> Metric | None:
        """What the scorers call, if that is known: it may state how much memory it takes."""
        ...

    def scorer(self, ground_truth: Image) -> Scorer:
        """Return a function that scores outputs (uint8, H×W×3, BGR) against this ground truth."""
        ...


@attrs.frozen
class Task:
    """Everything that the evaluation of one example needs; it can be pickled if its workers and its judge can."""

    example_id: str
    source_path: str
    target_path: str
    ground_truth_path: str
    files: ExampleFiles
    workers: tuple[Worker, ...]
    judge: Judge
    limits: ImageLimits
    runner: WorkerRunner = attrs.field(factory=ThreadRunner)
    observers: tuple[TrainableWorker, ...] = ()
    """Those that note what they may learn from the example."""
    group: str | None = None
    """The group that the request belongs to."""
    is_sampled: bool = False
    """True where workers and judge get samples of the pictures only."""
    samples: Mapping[str, bytes] = attrs.field(factory=dict, repr=False)
    """The samples as PNG files, by role, where they are known; otherwise the pictures are read."""

    @property
    def bytes_in_flight(self) -> int:
        """How much memory the evaluation takes at most, unless workers or metric exceed what they are allowed."""
        if self.samples:
            return _SAMPLE_BYTES
        return bytes_to_evaluate(self.files, self.workers, self.judge.known_metric, self.runner)


@attrs.frozen
class Score:
    """What one worker did on one example."""

    worker_id: str
    accuracy: float | None
    """In [0, 1]; None where the worker failed."""
    confidence: float
    failure: WorkerFailure | None
    seconds: float
    preview: bytes | None = None
    """The sampled output as a PNG file; None where the worker failed."""


@attrs.frozen
class ScoredExample:
    """The result of a task."""

    example_id: str
    scores: tuple[Score, ...] = ()
    input_previews: Mapping[str, bytes] = attrs.field(factory=dict)
    """Samples of the pictures that were read, as PNG files, by role: target and ground truth, and the source where
    trainable workers noted something."""
    observations: Mapping[str, bytes] = attrs.field(factory=dict)
    """What trainable workers noted, by worker id; no bytes where there is nothing to learn."""
    unobserved: Mapping[str, str] = attrs.field(factory=dict)
    """Why a trainable worker could note nothing, by worker id."""
    skipped: str | None = None
    """Why the example could not be used; None where it could."""


@attrs.frozen(eq=False)
class Triple:
    """An example's three pictures: uint8, H×W×3, BGR; target and ground truth have one size.

    Source and target are read-only for good, so that requests take them over instead of copying them.
    """

    source: Image
    target: Image
    ground_truth: Image


def load_triple(example: TrainingExample | Task, files: ExampleFiles, limits: ImageLimits) -> Triple:
    """Read an example's pictures, each once.

    Raises:
        ImageError: a picture cannot be read, or is not the one that was added.
        ImageSizeMismatchError: target and ground truth differ in size.
    """
    source = frozen_copy(read_image(example.source_path, limits, expected_sha256=files.source.sha256))
    target = frozen_copy(read_image(example.target_path, limits, expected_sha256=files.target.sha256))
    truth = read_image(example.ground_truth_path, limits, expected_sha256=files.ground_truth.sha256)
    if target.shape != truth.shape:
        raise ImageSizeMismatchError("the target", target.shape[:2], "the ground truth", truth.shape[:2])
    return Triple(source, target, truth)


def evaluate(task: Task) -> ScoredExample:
    """Run a task's workers on its example and score what they give; the pictures do not outlive the call.

    Raises:
        MetricError: the judge raised or gave something that is no similarity.
        ExecutorError: workers cannot be run here at all.
    """
    try:
        triple = _sampled(task) if task.is_sampled else load_triple(task, task.files, task.limits)
    except (ImageError, ImageSizeMismatchError) as error:
        return ScoredExample(task.example_id, skipped=str(error))
    request = WorkerRequest(triple.source, triple.target, task.group)
    observations, unobserved = _observed(task.observers, triple)
    roles = () if task.samples else (SOURCE, TARGET, TRUTH) if task.observers else (TARGET, TRUTH)
    scoring = _Scoring.of(triple, task.judge, roles)
    del triple  # a metric need not keep the ground truth as it is
    scored = scoring.score(task.example_id, (task.runner.run(worker, request) for worker in task.workers))
    return attrs.evolve(scored, observations=observations, unobserved=unobserved)


def _sampled(task: Task) -> Triple:
    """Return the samples of an example's pictures: those that the task brings, or else taken from the pictures."""
    try:
        pictures = {role: decode_preview(task.samples[role]) for role in (SOURCE, TARGET, TRUTH)}
    except (KeyError, ImageFormatError):  # a damaged sample is like one that is missing
        whole = load_triple(task, task.files, task.limits)
        pictures = {
            SOURCE: sample_grid(whole.source),
            TARGET: sample_grid(whole.target),
            TRUTH: sample_grid(whole.ground_truth),
        }
    source, target = (frozen_copy(pictures[role]) for role in (SOURCE, TARGET))
    return Triple(source, target, pictures[TRUTH])


def _observed(observers: Sequence[TrainableWorker], triple: Triple) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return what each worker notes of an example, and why one could not; all pictures are read-only."""
    truth = frozen_copy(triple.ground_truth) if observers else triple.ground_truth
    notes: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for worker in observers:
        try:
            noted = worker.observe(triple.source, triple.target, truth)
            if not isinstance(noted, bytes):
                raise TypeError(f"observe must return bytes, got {type(noted).__name__}")
            if len(noted) > MOST_OBSERVATION_BYTES:
                raise ValueError(f"observe returned {len(noted)} bytes; at most {MOST_OBSERVATION_BYTES} can be kept")
            notes[worker.worker_id] = noted
        except (Exception, SystemExit, GeneratorExit) as error:  # the last two must not end the host
            reasons[worker.worker_id] = f"{type(error).__name__}: {shown(error)}"
    return notes, reasons


def score_results(example_id: str, results: Iterator[WorkerResult], triple: Triple, judge: Judge) -> ScoredExample:
    """Score the workers' results on one example, one after the other, and let go of each picture.

    Raises:
        MetricError: the judge raised or gave something that is no similarity.
    """
    return _Scoring.of(triple, judge).score(example_id, results)


@attrs.frozen(eq=False)
class _Scoring:
    """What scoring on one example needs, without the example's pictures."""

    judge: Judge
    scorer: Scorer
    input_previews: Mapping[str, bytes]

    @classmethod
    def of(cls, triple: Triple, judge: Judge, roles: Sequence[str] = (TARGET, TRUTH)) -> _Scoring:
        inputs = {SOURCE: triple.source, TARGET: triple.target, TRUTH: triple.ground_truth}
        previews = {role: encode_preview(sample_grid(inputs[role])) for role in roles}
        return cls(judge, judge.scorer(triple.ground_truth), previews)

    def score(self, example_id: str, results: Iterator[WorkerResult]) -> ScoredExample:
        # Unlike a loop variable, map lets go of a result before the next worker makes its own.
        return ScoredExample(example_id, tuple(map(self._score, results)), self.input_previews)

    def _score(self, result: WorkerResult) -> Score:
        value = result.value
        if value is None:
            return Score(result.worker_id, None, 0.0, result.failure, result.seconds)
        accuracy = checked_similarity(lambda: self.scorer(value), self.judge.metric_name, result.worker_id)
        preview = encode_preview(sample_grid(value))
        return Score(result.worker_id, accuracy, result.confidence, None, result.seconds, preview)


def checked_similarity(compute: Callable[[], object], metric_name: str, worker_id: str) -> float:
    """Return what a metric gives, if that is a similarity.

    Raises:
        MetricError: it raises, or gives something that is not a finite number in [0, 1].
    """
    try:
        value = compute()
    except (Exception, SystemExit, GeneratorExit) as error:
        raise MetricError(metric_name, worker_id, f"raised {type(error).__name__}: {error}") from error
    similarity = similarity_or_none(value)
    if similarity is None:
        raise MetricError(metric_name, worker_id, f"returned {value!r}")
    return similarity


# --- running many ---------------------------------------------------------------------------------------------------


@contextmanager
def execution(executor: Executor | None) -> Generator[Executor]:
    """Give the executor to use: the host's own, which stays open, or threads for this one call."""
    if executor is not None:
        yield executor
        return
    threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "tsm-evaluate")
    try:
        yield threads
    except BaseException:
        # Do not wait for running examples: whoever pressed Ctrl-C wants to go on now.
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()


class TaskRun:
    """Evaluates tasks on an executor, and knows which of them are in flight.

    Tasks are handed out in order, and only while those in flight fit in a budget of bytes together. One at least is
    always in flight: a task that needs more than the whole budget waits until it is alone, and runs then. None
    overtakes another, so that large pictures get their turn among many small ones.

    Args:
        tasks: Any number.
        executor: Where to run them.
        memory_budget: Bytes.
    """

    def __init__(self, tasks: Sequence[Task], executor: Executor, memory_budget: int) -> None:
        self._waiting = list(reversed(tasks))
        self._in_flight: dict[Future[ScoredExample], Task] = {}
        self._bytes_in_flight: dict[Future[ScoredExample], int] = {}
        self._executor = executor
        self._memory_budget = memory_budget

    def results(self, poll: Callable[[], None]) -> Iterator[ScoredExample]:
        """Yield results as they come; `poll` is called several times a second, and what it raises ends the work.

        Raises:
            MetricError: see `evaluate`.
            ExecutorError: the executor takes no work, has broken down, or cannot carry a task.
        """
        while self._waiting or self._in_flight:
            poll()
            while self._waiting and self._fits(self._waiting[-1]):
                task = self._waiting.pop()
                future = self._submitted(task)
                self._in_flight[future], self._bytes_in_flight[future] = task, task.bytes_in_flight
            done, _running = wait(self._in_flight, _POLL_SECONDS, FIRST_COMPLETED)
            yield from map(self._taken, done)

    def call_off(self, *, finish: bool) -> Iterator[ScoredExample]:
        """Begin no further task, and yield what was still made: of those running too if `finish`, else of those done.

        A task that failed yields nothing: something else has already ended the work.
        """
        self._waiting.clear()
        begun = [future for future in self._in_flight if not future.cancel()]
        ended, _running = wait(begun, None if finish else 0.0)
        yield from (self._taken(future) for future in ended if future.exception() is None)

    def _submitted(self, task: Task) -> Future[ScoredExample]:
        try:
            return self._executor.submit(evaluate, task)
        except RuntimeError as error:  # it was shut down, is broken, or the interpreter is about to exit
            raise self._fault(f"takes no work: {error}") from error
        except _PICKLING_ERRORS as error:
            self._explain(error, task)
            raise

    def _taken(self, future: Future[ScoredExample]) -> ScoredExample:
        task = self._in_flight.pop(future)
        del self._bytes_in_flight[future]
        try:
            return future.result()
        except BrokenExecutor as error:
            raise self._fault(f"has broken down: {error}. Workers and metrics must be importable there") from error
        except CancelledError as error:
            raise self._fault("has dropped an example that it had accepted") from error
        except _PICKLING_ERRORS as error:
            self._explain(error, task)
            raise

    def _explain(self, error: Exception, task: Task) -> None:
        """Raise ExecutorError if the executor could not carry the task; any other error is left to the caller."""
        if not isinstance(self._executor, ThreadPoolExecutor) and (part := _unpicklable_part(task)) is not None:
            raise self._fault(f"cannot be sent {part}: {error}") from error

    def _fault(self, reason: str) -> ExecutorError:
        return ExecutorError(type(self._executor).__qualname__, reason)

    def _fits(self, task: Task) -> bool:
        if len(self._in_flight) >= _MAX_IN_FLIGHT:
            return False
        taken = sum(self._bytes_in_flight.values())
        return not self._in_flight or taken + task.bytes_in_flight <= self._memory_budget


def _unpicklable_part(task: Task) -> str | None:
    """Name what keeps a task from travelling to another process, or return None where it can be pickled."""
    parts: dict[str, object] = {f"worker {w.worker_id!r}": w for w in (*task.workers, *task.observers)}
    parts |= {"the judge": task.judge, "the pool's runner": task.runner}
    for name, part in parts.items():
        try:
            pickle.dumps(part)
        except Exception:  # a foreign __reduce__ may do anything
            return name
    return None
