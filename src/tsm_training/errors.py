"""Every exception that the library raises, in one tree below `TsmTrainingError`.

Each error keeps the values it was made from as attributes and hands all of them to `Exception`, so that it survives
pickling; the sentence for people is made in ``__str__``. Where a built-in exception fits, ours is also one of those:
``except ValueError`` catches a bad argument and ``except LookupError`` a look-up that missed.

``str(error)`` is for whoever owns the machine: it names files and ids, shows values, and repeats what the system and
other code said. A service that answers strangers shows them ``error.public_message`` instead, which says what kind of
thing went wrong and nothing that was seen, and keeps ``str(error)`` for its log.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar

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
    "InvalidArgumentError",
    "InvalidMetadataError",
    "LearnerConflictError",
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
    "TrainingInProgressError",
    "TrainingStoppedError",
    "TsmTrainingError",
    "WeightsFileError",
    "WorkerNotFittedError",
    "WorkerNotFoundError",
    "WorkerNotIsolatableError",
    "WorkerPoolError",
]


class TsmTrainingError(Exception):
    """The base of every exception that this library raises.

    A subclass says in ``_public`` what anybody may know of it: a fixed sentence, so that nothing can leak.
    """

    _public: ClassVar[str] = "The training library could not do what was asked."

    @property
    def public_message(self) -> str:
        """A sentence that a service may show to its clients: no path, no name, no value, nobody else's words."""
        return self._public


class InvalidArgumentError(TsmTrainingError, ValueError):
    """An argument has a value that cannot be used; nothing was started."""

    _public = "An argument has a value that cannot be used."

    def __init__(self, argument: str, seen: object, expected: str) -> None:
        super().__init__(argument, seen, expected)
        self.argument = argument
        self.seen = seen
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.argument} must be {self.expected}, got {_shown(self.seen)}"


class InvalidMetadataError(InvalidArgumentError):
    """Metadata that JSON cannot hold exactly."""

    _public = "The metadata hold something that cannot be stored exactly as JSON."


class _PathError(TsmTrainingError):
    """Something about a file or folder is not as it must be; `path` names it and `reason` says why."""

    _public = "A file or folder cannot be used."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path!r}: {self.reason}"


# --- pictures -------------------------------------------------------------------------------------------------------


class ImageError(_PathError):
    """A picture file cannot be used; `path` names it and `reason` says why."""

    _public = "A picture cannot be used."


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no file of that name."""

    _public = "A picture file does not exist."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.errno: int | None = errno.ENOENT  # OSError takes its first argument for this

    def __str__(self) -> str:
        return ImageError.__str__(self)  # not OSError's, which shows the number


class ImageUnreadableError(ImageError):
    """The file is there but is no regular file, or the system refuses to read it."""

    _public = "A picture file cannot be read."


class ImageOutsideRootError(ImageError):
    """The path leads out of the folder that pictures may come from."""

    _public = "A picture is not in a place that pictures may come from."


class ImageFormatError(ImageError):
    """The bytes are not a picture of an accepted format, depth and channel layout."""

    _public = "A picture is damaged, or of a kind that is not accepted."


class ImageTruncatedError(ImageFormatError):
    """The picture ends before all of its pixels were read."""

    _public = "A picture file ends too early; it may not have been sent completely."


class ImageTooLargeError(ImageError):
    """The file or the picture is larger than the stated limit."""

    _public = "A picture is larger than is allowed."


class ImageChangedError(ImageError):
    """The file's contents are no longer those that were added."""

    _public = "A picture file has changed since it was added."


class ImageSizeMismatchError(TsmTrainingError, ValueError):
    """Two pictures that must agree in size do not; sizes are (height, width) in pixels."""

    _public = "Two pictures that must have the same size have different ones."

    def __init__(self, first: str, first_size: tuple[int, int], second: str, second_size: tuple[int, int]) -> None:
        super().__init__(first, first_size, second, second_size)
        self.first = first
        self.first_size = first_size
        self.second = second
        self.second_size = second_size

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second} must have the same size, got {_size(self.first_size)} "
            f"and {_size(self.second_size)} (width×height)"
        )


# --- the dataset ----------------------------------------------------------------------------------------------------


class _NotFoundError(TsmTrainingError, LookupError):
    """A look-up by id that found nothing."""

    _public = "What was asked for does not exist."

    kind = "record"

    def __init__(self, identifier: str) -> None:
        super().__init__(identifier)
        self.identifier = identifier

    def __str__(self) -> str:
        return f"no {self.kind} has the id {self.identifier!r}"


class ExampleNotFoundError(_NotFoundError):
    """No training example has that id."""

    _public = "There is no such training example."

    kind = "training example"


class SessionNotFoundError(_NotFoundError):
    """No training session has that id."""

    _public = "There is no such training session."

    kind = "training session"


class DuplicateExampleError(TsmTrainingError):
    """A training example with that id is already stored."""

    _public = "A training example with this id exists already."

    def __init__(self, example_id: str) -> None:
        super().__init__(example_id)
        self.example_id = example_id

    def __str__(self) -> str:
        return f"a training example with the id {self.example_id!r} is already stored"


class NoExamplesError(TsmTrainingError):
    """There is nothing to train or validate on."""

    _public = "There are no training examples yet."

    def __str__(self) -> str:
        return "there are no training examples: add some with add_training_example() or add_folder()"


class ManifestError(_PathError, ValueError):
    """A manifest file or a folder of triples is not laid out as expected; `path` names it and `reason` says why."""

    _public = "The list or folder of training examples is not laid out as expected."


# --- workers and metrics --------------------------------------------------------------------------------------------


class NoWorkersError(TsmTrainingError):
    """The pool has no workers."""

    _public = "There are no workers yet."

    def __str__(self) -> str:
        return "the worker pool is empty: register at least one worker with register_worker()"


class DuplicateWorkerError(TsmTrainingError, ValueError):
    """A worker with that id is already registered."""

    _public = "A worker with this id exists already."

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.worker_id = worker_id

    def __str__(self) -> str:
        return (
            f"a worker with the id {self.worker_id!r} is already registered: "
            "unregister it first, or give the new one another id"
        )


class WorkerNotFittedError(TsmTrainingError, ValueError):
    """A trainable worker was asked before it was fitted."""

    _public = "A worker has not learned anything yet."

    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.worker_id = worker_id

    def __str__(self) -> str:
        return (
            f"worker {self.worker_id!r} is not fitted yet: it answers after train() on examples that it can learn from"
        )


class WorkerNotFoundError(_NotFoundError):
    """No registered worker has that id."""

    _public = "There is no such worker."

    kind = "registered worker"


class PredictionError(TsmTrainingError):
    """No worker gave a usable picture; `reasons` holds one sentence per worker id."""

    _public = "No worker gave a usable picture."

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(dict(reasons))
        self.reasons: dict[str, str] = dict(reasons)

    def __str__(self) -> str:
        listed = "; ".join(f"{worker_id}: {_cut(reason)}" for worker_id, reason in self.reasons.items())
        return f"no worker gave a usable picture: {listed}"


class WorkerPoolError(TsmTrainingError):
    """A pool that is not ours raised, or returned something else than one result per worker."""

    _public = "The workers could not be run."

    def __init__(self, pool: str, reason: str) -> None:
        super().__init__(pool, reason)
        self.pool = pool
        self.reason = reason

    def __str__(self) -> str:
        return f"the worker pool {self.pool} {self.reason}; execute_parallel(data) must return one result per worker"


class WorkerNotIsolatableError(TsmTrainingError):
    """A worker cannot be sent to a process of its own; `worker_id` and `worker` (its class) name it."""

    _public = "A worker cannot be run in a process of its own."

    def __init__(self, worker_id: str, worker: str, reason: str) -> None:
        super().__init__(worker_id, worker, reason)
        self.worker_id = worker_id
        self.worker = worker
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"worker {self.worker_id!r} ({self.worker}) cannot be sent to a process of its own: {self.reason}; "
            "make it of parts that can be pickled, or run it in threads"
        )


class ExecutorError(TsmTrainingError):
    """What should evaluate the examples takes no work, or has broken down; evaluations made so far are kept."""

    _public = "The examples could not be evaluated; what was evaluated before is kept."

    def __init__(self, executor: str, reason: str) -> None:
        super().__init__(executor, reason)
        self.executor = executor
        self.reason = reason

    def __str__(self) -> str:
        return f"the executor {self.executor} {self.reason}"


class MissingExtraError(TsmTrainingError, ImportError):
    """A part of the library was used whose extra is not installed; `extra` names it, `part` what wants it."""

    _public = "A part of the training library is not installed."

    def __init__(self, extra: str, part: str) -> None:
        super().__init__(extra, part)
        self.extra = extra
        self.part = part

    def __str__(self) -> str:
        return f'{self.part} needs libraries that are not installed: pip install "tsm_training[{self.extra}]"'


class MetricError(TsmTrainingError):
    """The similarity metric raised, or returned something that is not a finite number in [0, 1].

    A broken judge is not evidence against the workers, so it ends the call. `metric` names the judge, `worker_id` the
    worker whose picture it was given.
    """

    _public = "The similarity of two pictures could not be measured."

    def __init__(self, metric: str, worker_id: str, reason: str) -> None:
        super().__init__(metric, worker_id, reason)
        self.metric = metric
        self.worker_id = worker_id
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.metric}, given the output of worker {self.worker_id!r}, {self.reason}; "
            "a similarity must be a finite number between 0 and 1"
        )


class MetricRangeError(TsmTrainingError, ValueError):
    """A part of a combined metric returned something that is not a finite number in [0, 1].

    `metric` names the part, `seen` is what it returned. Within a training it becomes a `MetricError`.
    """

    _public = "A part of the similarity of two pictures could not be measured."

    def __init__(self, metric: str, seen: object) -> None:
        super().__init__(metric, seen)
        self.metric = metric
        self.seen = seen

    def __str__(self) -> str:
        return f"{self.metric} returned {_shown(self.seen)}; a similarity must be a finite number between 0 and 1"


# --- training -------------------------------------------------------------------------------------------------------


class BlendSolverError(TsmTrainingError):
    """A solver of blend weights raised, or gave something that is no shares; nothing was learned from it."""

    _public = "The blend of the ensemble could not be computed; nothing was learned."

    def __init__(self, solver: str, reason: str) -> None:
        super().__init__(solver, reason)
        self.solver = solver
        self.reason = reason

    def __str__(self) -> str:
        return f"the blend solver {self.solver!r} {self.reason}"


class NothingEvaluatedError(TsmTrainingError):
    """Not one example could be evaluated; `reasons` holds one sentence per example id."""

    _public = "Not one training example could be evaluated."

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(dict(reasons))
        self.reasons: dict[str, str] = dict(reasons)

    def __str__(self) -> str:
        shown = [f"{example_id}: {_cut(reason)}" for example_id, reason in list(self.reasons.items())[:5]]
        more = len(self.reasons) - len(shown)
        return "no example could be evaluated: " + "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


class TrainingStoppedError(TsmTrainingError):
    """`should_stop` asked the training to end; every evaluation made so far is kept."""

    _public = "The training was stopped on request; it can be continued."

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return (
            f"training session {self.session_id} was stopped on request; its evaluations are kept, "
            "so calling train() again continues where it ended"
        )


class TrainingInProgressError(TsmTrainingError):
    """Another training is changing this learner."""

    _public = "A training is under way already; try again when it has ended."

    def __str__(self) -> str:
        return "this learner is already being trained by another call: wait for it, or train a fork of the learner"


class LearnerConflictError(TsmTrainingError):
    """The learner and the store both hold learned state, and they differ; or the learner is kept in another store.

    `store` is where the new one is, `home` where the learner is kept, if that is elsewhere.
    """

    _public = "What was learned here and what is stored differ; someone has to decide which is to be kept."

    def __init__(self, store: str, home: str | None = None) -> None:
        super().__init__(store, home)
        self.store = store
        self.home = home

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


class WeightsFileError(TsmTrainingError, ValueError):
    """A weights file cannot be used; nothing was changed. `key` names the entry where one is at fault."""

    _public = "The weights file cannot be used; nothing was changed."

    def __init__(self, path: str, reason: str, key: str | None = None) -> None:
        super().__init__(path, reason, key)
        self.path = path
        self.reason = reason
        self.key = key

    def __str__(self) -> str:
        where = f" at {self.key}" if self.key else ""
        return f"weights file {self.path!r}{where}: {self.reason}"


# --- storage --------------------------------------------------------------------------------------------------------


class StorageError(TsmTrainingError):
    """The store cannot do what was asked; `location` names it and `reason` says why."""

    _public = "The stored training data cannot be used at the moment."

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(location, reason)
        self.location = location
        self.reason = reason

    def __str__(self) -> str:
        return f"couldn't use the store {self.location!r}: {self.reason}"


class StorageBusyError(StorageError):
    """Another process kept the store locked for longer than the stated wait; nothing was written."""

    _public = "The stored training data are in use by another program; try again later."


class StorageClosedError(StorageError):
    """The store was closed before this call."""

    _public = "The stored training data were closed before."


class StorageCorruptError(StorageError):
    """The file is damaged or holds values that the library never writes."""

    _public = "The stored training data are damaged."


class StorageExistsError(StorageError):
    """There is a file already where a new one should be written; it was left as it was."""

    _public = "There is a file of that name already; it was left as it was."


class StorageFullError(StorageError):
    """There is no room for what should be written (disk, quota, or a limit on file sizes); nothing was written."""

    _public = "There is no room left to store anything; nothing was stored."


class StorageReadOnlyError(StorageError):
    """The store was opened for reading only, or the system lets nobody write to it."""

    _public = "The stored training data can be read but not changed."


class StorageMovedError(StorageError):
    """The file was moved, deleted or replaced since it was opened; nothing was read from or written to what it was."""

    _public = "The stored training data were moved or replaced meanwhile."


class DatabaseNotOursError(StorageError):
    """The file is not a database, or belongs to another application; it was left as it was."""

    _public = "The stored data do not belong to this application."


class SchemaTooNewError(StorageError):
    """The database was written by a newer version of this library; it was left as it was."""

    _public = "The stored training data were written by a newer version of this application."


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}×{height}"


def _cut(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _shown(value: object, limit: int = 200) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a foreign __repr__ may do anything, and huge whole numbers have none
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= limit else f"{text[:limit]}… ({type(value).__name__})"
