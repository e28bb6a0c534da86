"""Every exception that the library raises, in one tree below `TsmTrainingError`.

Each error keeps the values it was made from as attributes, and as ``args``, so that it survives pickling; the sentence
for people is made in ``__str__``. Where a built-in exception fits, ours is also one of those: ``except ValueError``
catches a bad argument and a picture or file that cannot be used, ``except OSError`` what the system refuses and
whatever a store cannot do, ``except LookupError`` an id that nothing has, ``except RuntimeError`` a call at the wrong
time and foreign code that failed.

``str(error)`` is for whoever owns the machine: it names files and ids, shows values, and repeats what the system and
other code said. A service that answers strangers shows them ``error.public_message`` instead, which says what kind of
thing went wrong and nothing that was seen, and keeps ``str(error)`` for its log.
"""

from __future__ import annotations

import errno as numbers
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, dataclass_transform

__all__ = [
    "BlendSolverError",
    "DatabaseNotOursError",
    "DuplicateExampleError",
    "DuplicateWorkerError",
    "ExampleNotFoundError",
    "ExecutorError",
    "ImageChangedError",
    "ImageError",
    "ImageFormatError",
    "ImageNotFoundError",
    "ImageOutsideRootError",
    "ImageSizeMismatchError",
    "ImageTooLargeError",
    "ImageTruncatedError",
    "ImageUnreadableError",
    "ImageUnwritableError",
    "InvalidArgumentError",
    "InvalidMetadataError",
    "LearnerConflictError",
    "LearnerFaultError",
    "LearnerMismatchError",
    "ManifestError",
    "MetricError",
    "MetricRangeError",
    "MissingExtraError",
    "NoExamplesError",
    "NoWorkersError",
    "NothingEvaluatedError",
    "PredictionError",
    "SchemaTooNewError",
    "SessionNotFoundError",
    "StorageBusyError",
    "StorageClosedError",
    "StorageCorruptError",
    "StorageError",
    "StorageExistsError",
    "StorageFullError",
    "StorageMovedError",
    "StorageReadOnlyError",
    "StorageUnreachableError",
    "TrainingInProgressError",
    "TrainingStoppedError",
    "TsmTrainingError",
    "WeightsFileError",
    "WorkerNotFittedError",
    "WorkerNotFoundError",
    "WorkerNotIsolatableError",
    "WorkerPoolError",
]


@dataclass_transform(eq_default=False)
class TsmTrainingError(Exception):
    """The base of every exception that this library raises.

    A subclass declares what it is made from as annotated attributes, in the order in which they are passed. In
    ``_message`` stands what it says with them, in ``_public`` what anybody may know: a fixed sentence, so that nothing
    can leak.
    """

    _message: ClassVar[str] = ""
    _public: ClassVar[str] = "The training library could not do what was asked."
    __signature__: ClassVar[inspect.Signature] = inspect.Signature()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        parameters = list(cls.__signature__.parameters.values())
        for name, annotation in inspect.get_annotations(cls).items():
            if "ClassVar" not in str(annotation):
                default = vars(cls).get(name, inspect.Parameter.empty)
                parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
        cls.__signature__ = inspect.Signature(parameters)

    def __init__(self, *values: object, **named: object) -> None:
        super().__init__()  # without the values, which OSError would take for its own
        if self.__signature__.parameters:
            bound = self.__signature__.bind(*values, **named)
            bound.apply_defaults()
            values = bound.args
            for name, value in bound.arguments.items():
                setattr(self, name, value)
        self.args = values

    def __str__(self) -> str:
        return self._message.format(**vars(self)) if self._message else super().__str__()

    @property
    def public_message(self) -> str:
        """A sentence that a service may show to its clients: no path, no name, no value, nobody else's words."""
        return self._public


class InvalidArgumentError(TsmTrainingError, ValueError):
    """An argument has a value that cannot be used; nothing was started."""

    _public = "An argument has a value that cannot be used."
    argument: str
    seen: object
    expected: str

    def __str__(self) -> str:
        return f"{self.argument} must be {self.expected}, got {_shown(self.seen)}"


class InvalidMetadataError(InvalidArgumentError):
    """Metadata that JSON cannot hold exactly."""

    _public = "The metadata hold something that cannot be stored exactly as JSON."


# --- pictures -------------------------------------------------------------------------------------------------------


class ImageError(TsmTrainingError):
    """A picture file cannot be used; `path` names it and `reason` says why."""

    _message = "{path!r}: {reason}"
    _public = "A picture cannot be used."
    path: str
    reason: str


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file of that name."""

    _public = "A picture file does not exist."
    errno: int | None = numbers.ENOENT


class ImageUnreadableError(ImageError, OSError):
    """The file is there but is no regular file, or the system refuses to read it; `errno` is the system's number."""

    _public = "A picture file cannot be read."
    errno: int | None = None


class ImageUnwritableError(ImageError, OSError):
    """The system refuses to write the file; `errno` is the system's number."""

    _public = "A picture file cannot be written."
    errno: int | None = None


class ImageOutsideRootError(ImageError, PermissionError):
    """The path leads out of the folder that pictures may come from."""

    _public = "A picture is not in a place that pictures may come from."


class ImageFormatError(ImageError, ValueError):
    """The bytes are not a picture of an accepted format, depth and channel layout."""

    _public = "A picture is damaged, or of a kind that is not accepted."


class ImageTruncatedError(ImageFormatError):
    """The picture ends before all of its pixels were read."""

    _public = "A picture file ends too early; it may not have been sent completely."


class ImageTooLargeError(ImageError, ValueError):
    """The file or the picture is larger than the stated limit."""

    _public = "A picture is larger than is allowed."


class ImageChangedError(ImageError, ValueError):
    """The file's contents are no longer those that were added."""

    _public = "A picture file has changed since it was added."


class ImageSizeMismatchError(TsmTrainingError, ValueError):
    """Two pictures that must agree in size do not; sizes are (height, width) in pixels, `hint` is a likely reason."""

    _public = "Two pictures that must have the same size have different ones."
    first: str
    first_size: tuple[int, int]
    second: str
    second_size: tuple[int, int]
    hint: str = ""

    def __str__(self) -> str:
        (height1, width1), (height2, width2) = self.first_size, self.second_size
        return (
            f"{self.first} and {self.second} must have the same size, got {width1}×{height1} and {width2}×{height2} "
            f"(width×height){self.hint and '; '}{self.hint}"
        )


# --- the dataset ----------------------------------------------------------------------------------------------------


class ExampleNotFoundError(TsmTrainingError, LookupError):
    """No training example has that id."""

    _message = "no training example has the id {identifier!r}"
    _public = "There is no such training example."
    identifier: str


class SessionNotFoundError(TsmTrainingError, LookupError):
    """No training session has that id."""

    _message = "no training session has the id {identifier!r}"
    _public = "There is no such training session."
    identifier: str


class DuplicateExampleError(TsmTrainingError, ValueError):
    """A training example with that id is already stored."""

    _message = "a training example with the id {example_id!r} is already stored"
    _public = "A training example with this id exists already."
    example_id: str


class NoExamplesError(TsmTrainingError, RuntimeError):
    """There is nothing to train or validate on."""

    _message = "there are no training examples: add some with add_training_example() or add_folder()"
    _public = "There are no training examples yet."


class ManifestError(TsmTrainingError, OSError, ValueError):
    """A manifest file or a folder of triples cannot be read, is not laid out as expected, or holds faulty examples.

    `path` names it. `faults` holds all that is wrong in it, as pairs: the path of a file or folder, or which row of the
    manifest it is, and a sentence; it is empty where the fault is in the folder or manifest as a whole.
    """

    _public = "The list or folder of training examples is not laid out as expected, or holds faulty examples."
    path: str
    reason: str
    faults: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.told(10)

    def told(self, most: int) -> str:
        """Return the message with at most so many of the `faults`, and how many more there are."""
        details = f": {_listed(self.faults, most)}" if self.faults else ""
        return f"{self.path!r}: {self.reason}{details}"


# --- workers and metrics --------------------------------------------------------------------------------------------


class NoWorkersError(TsmTrainingError, RuntimeError):
    """The pool has no workers."""

    _message = "the worker pool is empty: register at least one worker with register_worker()"
    _public = "There are no workers yet."


class DuplicateWorkerError(TsmTrainingError, ValueError):
    """A worker with that id is already registered."""

    _message = (
        "a worker with the id {worker_id!r} is already registered: unregister it first, or give the new one another id"
    )
    _public = "A worker with this id exists already."
    worker_id: str


class WorkerNotFittedError(TsmTrainingError, ValueError):
    """A trainable worker was asked before it was fitted."""

    _message = "worker {worker_id!r} is not fitted yet: it answers after train() on examples that it can learn from"
    _public = "A worker has not learned anything yet."
    worker_id: str


class WorkerNotFoundError(TsmTrainingError, LookupError):
    """No registered worker has that id; `hint` may ask whether a similar one was meant."""

    _message = "no registered worker has the id {identifier!r}{hint}"
    _public = "There is no such worker."
    identifier: str
    hint: str = ""


class PredictionError(TsmTrainingError, RuntimeError):
    """No worker gave a usable picture; `reasons` holds one sentence per worker id."""

    _public = "No worker gave a usable picture."
    reasons: Mapping[str, str]

    def __str__(self) -> str:
        return f"no worker gave a usable picture: {_listed([*self.reasons.items()], len(self.reasons))}"


class WorkerPoolError(TsmTrainingError, RuntimeError):
    """A pool that is not ours raised, or returned something else than one result per worker."""

    _message = "the worker pool {pool} {reason}; execute_parallel(data) must return one result per worker"
    _public = "The workers could not be run."
    pool: str
    reason: str


class WorkerNotIsolatableError(TsmTrainingError, TypeError):
    """A worker cannot be sent to a process of its own; `worker_id` and `worker` (its class) name it."""

    _message = (
        "worker {worker_id!r} ({worker}) cannot be sent to a process of its own: {reason}; "
        "make it of parts that can be pickled, or run it in threads"
    )
    _public = "A worker cannot be run in a process of its own."
    worker_id: str
    worker: str
    reason: str


class ExecutorError(TsmTrainingError, RuntimeError):
    """What should evaluate the examples takes no work, or has broken down; evaluations made so far are kept."""

    _message = "the executor {executor} {reason}"
    _public = "The examples could not be evaluated; what was evaluated before is kept."
    executor: str
    reason: str


class MissingExtraError(TsmTrainingError, ImportError):
    """A part of the library was used whose extra is not installed; `extra` names it, `part` what wants it."""

    _message = '{part} needs libraries that are not installed: pip install "tsm_training[{extra}]"'
    _public = "A part of the training library is not installed."
    extra: str
    part: str


class MetricError(TsmTrainingError, RuntimeError):
    """The similarity metric raised, or returned something that is not a finite number in [0, 1].

    A broken judge is not evidence against the workers, so it ends the call. `metric` names the judge, `worker_id` the
    worker whose picture it was given.
    """

    _message = (
        "{metric}, given the output of worker {worker_id!r}, {reason}; "
        "a similarity must be a finite number between 0 and 1"
    )
    _public = "The similarity of two pictures could not be measured."
    metric: str
    worker_id: str
    reason: str


class MetricRangeError(TsmTrainingError, ValueError):
    """A part of a combined metric returned something that is not a finite number in [0, 1].

    `metric` names the part, `seen` is what it returned. Within a training it becomes a `MetricError`.
    """

    _public = "A part of the similarity of two pictures could not be measured."
    metric: str
    seen: object

    def __str__(self) -> str:
        return f"{self.metric} returned {_shown(self.seen)}; a similarity must be a finite number between 0 and 1"


# --- training -------------------------------------------------------------------------------------------------------


class BlendSolverError(TsmTrainingError, RuntimeError):
    """A solver of blend weights raised, or gave something that is no shares; nothing was learned from it."""

    _message = "the blend solver {solver!r} {reason}"
    _public = "The blend of the ensemble could not be computed; nothing was learned."
    solver: str
    reason: str


class NothingEvaluatedError(TsmTrainingError, RuntimeError):
    """Not one example could be evaluated; `reasons` holds one sentence per example id."""

    _public = "Not one training example could be evaluated."
    reasons: Mapping[str, str]

    def __str__(self) -> str:
        return f"no example could be evaluated: {_listed([*self.reasons.items()], 5)}"


class TrainingStoppedError(TsmTrainingError):
    """`should_stop` asked the training to end; every evaluation made so far is kept."""

    _message = (
        "training session {session_id} was stopped on request; its evaluations are kept, "
        "so calling train() again continues where it ended"
    )
    _public = "The training was stopped on request; it can be continued."
    session_id: str


class TrainingInProgressError(TsmTrainingError, RuntimeError):
    """Another training is changing this learner."""

    _message = "this learner is already being trained by another call: wait for it, or train a fork of the learner"
    _public = "A training is under way already; try again when it has ended."


class LearnerConflictError(TsmTrainingError, RuntimeError):
    """The learner and the store both hold learned state, and they differ; or the learner is kept in another store.

    `store` is where the new one is, `home` where the learner is kept, if that is elsewhere.
    """

    _public = "What was learned here and what is stored differ; someone has to decide which is to be kept."
    store: str
    home: str | None = None

    def __str__(self) -> str:
        if self.home is not None:
            return (
                f"the learner is kept in {self.home}, not in {self.store}: pass restore=False to keep it here from now "
                "on with what it has learned, restore=True to take what is stored here, or a fork of it for trials"
            )
        return (
            f"the learner has evidence of its own, and {self.store} holds other learned state: pass restore=True "
            "to take the store's, or restore=False to keep the learner's and store it with the next training"
        )


class LearnerMismatchError(TsmTrainingError, RuntimeError):
    """The store holds what another kind of learner has learned: `found` is its name, `expected` this one's."""

    _message = (
        "{store} holds what a learner {found!r} has learned, and this one is {expected!r}: use that learner, or pass "
        "restore=False to begin anew"
    )
    _public = "What is stored was learned by another kind of learner."
    store: str
    found: str
    expected: str


class LearnerFaultError(TsmTrainingError, RuntimeError):
    """A learner of the host's own, `learner`, does not do what `tsm_training.weights.WeightLearner` asks for."""

    _message = "the learner {learner!r}: {reason}"
    _public = "What learns does not do what it should."
    learner: str
    reason: str


class WeightsFileError(TsmTrainingError, OSError, ValueError):
    """A weights file cannot be read, written or used; nothing was changed. `key` names the entry that is at fault."""

    _public = "The weights file cannot be used; nothing was changed."
    path: str
    reason: str
    key: str | None = None

    def __str__(self) -> str:
        where = f" at {self.key}" if self.key else ""
        return f"weights file {self.path!r}{where}: {self.reason}"


# --- storage --------------------------------------------------------------------------------------------------------


class StorageError(TsmTrainingError, OSError):
    """The store cannot do what was asked; `location` names it and `reason` says why."""

    _message = "couldn't use the store {location!r}: {reason}"
    _public = "The stored training data cannot be used at the moment."
    location: str
    reason: str


class StorageBusyError(StorageError, TimeoutError):
    """Another process kept the store locked for longer than the stated wait; nothing was written."""

    _public = "The stored training data are in use by another program; try again later."


class StorageClosedError(StorageError):
    """The store was closed before this call."""

    _public = "The stored training data were closed before."


class StorageCorruptError(StorageError):
    """The file is damaged or holds values that the library never writes."""

    _public = "The stored training data are damaged."


class StorageExistsError(StorageError, FileExistsError):
    """There is a file already where a new one should be written; it was left as it was."""

    _public = "There is a file of that name already; it was left as it was."


class StorageFullError(StorageError):
    """There is no room for what should be written (disk, quota, or a limit on file sizes); nothing was written."""

    _public = "There is no room left to store anything; nothing was stored."
    errno: int | None = numbers.ENOSPC


class StorageReadOnlyError(StorageError, PermissionError):
    """The store was opened for reading only, or the system lets nobody write to it."""

    _public = "The stored training data can be read but not changed."


class StorageMovedError(StorageError):
    """The file was moved, deleted or replaced since it was opened; nothing was read from or written to what it was."""

    _public = "The stored training data were moved or replaced meanwhile."


class StorageUnreachableError(StorageError, ConnectionError):
    """The database server does not answer, lets nobody in, or has ended the connection.

    What the call was to store is not stored, unless the connection broke at the very end, while the server was told to
    keep it: look before you repeat what must not be done twice.
    """

    _public = "The stored training data cannot be reached at the moment; try again later."


class DatabaseNotOursError(StorageError):
    """The file is not a database, or belongs to another application; it was left as it was."""

    _public = "The stored data do not belong to this application."


class SchemaTooNewError(StorageError):
    """The database was written by a newer version of this library; it was left as it was."""

    _public = "The stored training data were written by a newer version of this application."


def _listed(reasons: Sequence[tuple[str, str]], most: int) -> str:
    shown = [f"{_cut(name)}: {_cut(reason)}" for name, reason in reasons[:most]]
    return "; ".join([*shown, f"and {len(reasons) - most} more"] if len(reasons) > most else shown)


def _cut(text: str, ending: str = "") -> str:
    limit = 200
    return text if len(text) <= limit else f"{text[:limit]}…{ending}"


def _shown(value: Any) -> str:
    try:
        if (shape := getattr(value, "shape", ())) and hasattr(value, "dtype"):  # the numbers of an array say nothing
            return f"an array of dtype {value.dtype} and shape {tuple(shape)}"
        return _cut(repr(value), f" ({type(value).__name__})")
    except Exception as error:  # a foreign __repr__ may do anything, and huge whole numbers have none
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
