"""Evaluating one example: pictures in, scores out, and nothing of the pictures left behind.

`evaluate` is a pure function of a context and an example that can both be pickled, so that threads, processes and the
machines of a cluster give the same results to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

import attrs

from tsm_training.arrays import Image, frozen_copy
from tsm_training.data import ExampleFiles, TrainingExample
from tsm_training.ensemble import decode_preview, encode_preview, sample_grid
from tsm_training.errors import ImageError, ImageFormatError, ImageSizeMismatchError, MetricError
from tsm_training.fingerprints import describe_object
from tsm_training.images import ImageLimits, read_image
from tsm_training.metrics import Metric, prepare_metric, similarity_or_none
from tsm_training.workers import (
    MOST_OBSERVATION_BYTES,
    TrainableWorker,
    Worker,
    WorkerFailure,
    WorkerRequest,
    WorkerResult,
    WorkerRunner,
    shown,
)

SOURCE: Final = "source"
"""The name of the preview of the image that gives the colours."""
TARGET: Final = "target"
"""The name of the preview of the image that is changed."""
TRUTH: Final = "ground_truth"
"""The name of the preview of the wanted result."""

BLENDED: Final = "(the blended picture)"
"""Stands for a worker's id in the errors of a metric."""


@attrs.frozen(eq=False, repr=False)
class Scorer:
    """Scores pictures against one ground truth; see `Judge.scorer`."""

    metric_name: str
    _score: Callable[[Image], object]

    def __call__(self, picture: Image, worker_id: str = BLENDED) -> float:
        """Return the similarity of a picture that a worker made."""
        try:
            value = self._score(picture)
        except (Exception, SystemExit, GeneratorExit) as error:
            raise MetricError(self.metric_name, worker_id, f"raised {type(error).__name__}: {error}") from error
        similarity = similarity_or_none(value)
        if similarity is None:
            raise MetricError(self.metric_name, worker_id, f"returned {value!r}")
        return similarity


@attrs.frozen(eq=False, repr=False, slots=False)
class Judge:
    """What scores pictures; it can be pickled if its metric can."""

    name: str
    """For messages."""
    metric: Metric
    """A metric, or an engine's own `calculate_similarity`."""
    _identity: object = attrs.field(repr=False)
    """What the fingerprint covers."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """A text that changes when the scores probably do; see `tsm_training.fingerprints`."""
        return describe_object(self._identity)

    def scorer(self, ground_truth: Image) -> Scorer:
        """Return a function that scores outputs against one ground truth (uint8, H×W×3, BGR), prepared once.

        It is called with a picture and the id of the worker that made it (by default the ensemble), and raises
        MetricError where the metric raises or gives something that is not a finite number in [0, 1].
        """
        return Scorer(self.name, prepare_metric(self.metric, ground_truth))


Paths: TypeAlias = tuple[str, str, str]
"""Where an example's source, target and ground truth are."""


def paths_of(example: TrainingExample) -> Paths:
    """Return where the pictures of a stored example are."""
    return example.source_path, example.target_path, example.ground_truth_path


class EvaluationContext(NamedTuple):
    """What the evaluations of one call share; it can be pickled if its workers, its judge and its runner can."""

    workers: Mapping[str, Worker]
    """All that run or observe, by worker id."""
    judge: Judge
    limits: ImageLimits
    side: int | None
    """The longest side, in pixels, down to which pictures are averaged before workers and judge get them; None for
    pictures as they are."""
    runner: WorkerRunner


class ExampleInput(NamedTuple):
    """One example to evaluate, and what is wanted of it."""

    digest: str
    copies: tuple[Paths, ...]
    """Where its contents are: one entry for each example that has them."""
    files: ExampleFiles
    worker_ids: tuple[str, ...]
    """The workers to run, in this order."""
    observers: tuple[str, ...] = ()
    """Ids of the trainable workers that note what they may learn from the example."""
    group: str | None = None
    """The group that the request belongs to."""
    is_sampled: bool = False
    """True where workers and judge get samples of the pictures only."""
    samples: Mapping[str, bytes] = {}
    """The samples as PNG files, by role, where they are known; otherwise the pictures are read."""
    is_pictured: bool = True
    """False where there is no room for previews of the outputs: none are made then."""

    @classmethod
    def of(cls, examples: Sequence[TrainingExample], workers: Iterable[Worker], **settings: Any) -> ExampleInput:
        """Return the input for stored examples that all have the same contents; `settings` are the other fields."""
        files = examples[0].known_files
        worker_ids = tuple(worker.worker_id for worker in workers)
        return cls(files.digest, tuple(map(paths_of, examples)), files, worker_ids, **settings)


class Score(NamedTuple):
    """What one worker did on one example."""

    worker_id: str
    accuracy: float | None
    """In [0, 1]; None where the worker failed."""
    confidence: float
    failure: WorkerFailure | None
    seconds: float
    preview: bytes | None = None
    """The sampled output as a PNG file; None where the worker failed, or none was wanted."""


class ScoredExample(NamedTuple):
    """What evaluating one example gave."""

    digest: str
    scores: tuple[Score, ...] = ()
    input_previews: Mapping[str, bytes] = {}
    """Samples of the pictures that were read, as PNG files, by role: target and ground truth, and the source where
    trainable workers noted something."""
    observations: Mapping[str, bytes] = {}
    """What trainable workers noted, by worker id; no bytes where there is nothing to learn."""
    unobserved: Mapping[str, str] = {}
    """Why a trainable worker could note nothing, by worker id."""
    skipped: tuple[str, ...] = ()
    """Why none of the example's copies could be used, one reason for each; empty where one could."""


@attrs.frozen(eq=False, repr=False)
class Triple:
    """An example's three pictures: uint8, H×W×3, BGR; target and ground truth have one size.

    Source and target are read-only for good, so that requests take them over instead of copying them.
    """

    source: Image
    target: Image
    ground_truth: Image


class UnusableExampleError(Exception):
    """No copy of an example can be used; `faults` has an error for each."""

    def __init__(self, faults: Sequence[ImageError | ImageSizeMismatchError]) -> None:
        super().__init__(*faults)
        self.faults: tuple[ImageError | ImageSizeMismatchError, ...] = tuple(faults)


def load_triple(example: TrainingExample, files: ExampleFiles, limits: ImageLimits) -> Triple:
    """Read a stored example's pictures, each once.

    Raises:
        ImageError: a picture cannot be read, or is not the one that was added.
        ImageSizeMismatchError: target and ground truth differ in size.
    """
    try:
        return load_copies([paths_of(example)], files, limits)
    except UnusableExampleError as error:
        raise error.faults[0]  # noqa: B904 - it has its own cause


def load_copies(copies: Sequence[Paths], files: ExampleFiles, limits: ImageLimits, side: int | None = None) -> Triple:
    """Read the pictures of examples with the same contents, each from the first copy that can be read.

    They are averaged down to `side` pixels on their longest side, if that is given.

    Raises:
        UnusableExampleError: one has no copy that can be read and is what was added, or sizes differ.
    """
    sources, targets, truths = zip(*copies, strict=True)
    source = frozen_copy(_first_readable(sources, files.source.sha256, limits, side))
    target = frozen_copy(_first_readable(targets, files.target.sha256, limits, side))
    truth = _first_readable(truths, files.ground_truth.sha256, limits, side)
    if target.shape != truth.shape:
        mismatch = ImageSizeMismatchError("the target", target.shape[:2], "the ground truth", truth.shape[:2])
        raise UnusableExampleError([mismatch] * len(copies))
    return Triple(source, target, truth)


def _first_readable(paths: Sequence[str], sha256: str, limits: ImageLimits, side: int | None) -> Image:
    faults = []
    for path in paths:
        try:
            return read_image(path, limits, expected_sha256=sha256, longest_side=side)
        except ImageError as error:
            faults.append(error)
    raise UnusableExampleError(faults)


def evaluate(
    context: EvaluationContext,
    example: ExampleInput,
    ask: Callable[[WorkerRequest], Iterable[WorkerResult]] | None = None,
) -> ScoredExample:
    """Run workers on an example and score what they give; the pictures do not outlive the call.

    Args:
        context: What all examples share.
        example: What is wanted of this one.
        ask: Gives the results of workers that run elsewhere, in the place of those that `example` names.

    Raises:
        MetricError: the judge raised or gave something that is no similarity.
        ExecutorError: workers cannot be run here at all.
    """
    try:
        triple = _pictures_of(example, context.limits, context.side)
    except UnusableExampleError as error:
        return ScoredExample(example.digest, skipped=tuple(map(str, error.faults)))
    request = WorkerRequest(triple.source, triple.target, example.group)
    observers = [cast("TrainableWorker", context.workers[worker_id]) for worker_id in example.observers]
    observations, unobserved = _observed(observers, triple)
    previews = {} if example.samples else _input_previews(triple, has_source=bool(observers))
    scorer = context.judge.scorer(triple.ground_truth)
    del triple  # a metric need not keep the ground truth as it is

    def scored(result: WorkerResult) -> Score:
        if result.value is None:
            return Score(result.worker_id, None, 0.0, result.failure, result.seconds)
        accuracy = scorer(result.value, result.worker_id)
        preview = encode_preview(sample_grid(result.value)) if example.is_pictured else None
        return Score(result.worker_id, accuracy, result.confidence, None, result.seconds, preview)

    workers = [context.workers[worker_id] for worker_id in example.worker_ids]
    results = (context.runner.run(worker, request) for worker in workers) if ask is None else ask(request)
    # Unlike a loop variable, map lets go of a result before the next worker makes its own.
    return ScoredExample(example.digest, tuple(map(scored, results)), previews, observations, unobserved)


def _pictures_of(example: ExampleInput, limits: ImageLimits, side: int | None) -> Triple:
    """Read an example's pictures; where samples of them are wanted, return those that are known, or take them."""
    try:
        source, target, truth = (decode_preview(example.samples[role]) for role in (SOURCE, TARGET, TRUTH))
    except (KeyError, ImageFormatError):  # a damaged sample is like one that is missing
        whole = load_copies(example.copies, example.files, limits, side)
        if not example.is_sampled:
            return whole
        source, target, truth = map(sample_grid, (whole.source, whole.target, whole.ground_truth))
    return Triple(frozen_copy(source), frozen_copy(target), truth)


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


def _input_previews(triple: Triple, *, has_source: bool) -> dict[str, bytes]:
    pictures = {SOURCE: triple.source} if has_source else {}
    pictures |= {TARGET: triple.target, TRUTH: triple.ground_truth}
    return {role: encode_preview(sample_grid(picture)) for role, picture in pictures.items()}
