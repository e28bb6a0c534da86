"""Workers: the base class, one made of a function, and those that learn from ground truths."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs
import numpy as np

from tsm_training.arguments import check_callable, check_number
from tsm_training.arrays import ChannelOrder, Image, check_channel_order, exchanged
from tsm_training.errors import InvalidArgumentError, WorkerNotFittedError
from tsm_training.images import ColorTable
from tsm_training.learning import Observation

_MAX_ID_LENGTH: Final = 128

MOST_OBSERVATION_BYTES: Final = 16_000
"""An observation may hold at most this many bytes."""

MOST_OBSERVATIONS: Final = 1_000
"""A fit uses at most this many observations."""


class Worker(ABC):
    """An image algorithm of the ensemble. Subclass it, name it, and implement `process`.

    >>> class Negative(Worker):
    ...     worker_id = "negative"
    ...     def process(self, data):
    ...         return 255 - data["target"]

    Settings belong in attrs fields (decorate the subclass with ``@attrs.frozen``): they become part of the worker's
    fingerprint, so that changing one makes old evaluations of this worker invalid. An ``__init__`` that sets attributes
    serves as well. Examples are evaluated in several threads at once, so `process` and `get_confidence` must not keep
    state between calls without a lock.

    The four attributes may be class attributes, fields, properties, or set in ``__init__``.
    """

    worker_id: str
    """The name under which weights, metrics and evaluations of the worker are kept. It has no default."""
    version: str = ""
    """Change it when results change, to have the worker evaluated again."""
    reads_only: bool = False
    """True promises that `process` never writes into its inputs; it gets them without a copy, read-only."""
    time_limit: float | None = None
    """How many seconds one call may take; None leaves it to the pool's runner. Results do not depend on it, so it is
    no part of the fingerprint."""

    @abstractmethod
    def process(self, data: Mapping[str, Image]) -> Image:
        """Answer one request.

        Args:
            data: ``data["source"]`` gives the colours, ``data["target"]`` is the picture to change; both ``uint8``,
                H×W×3, BGR. Their sizes may differ.

        Returns:
            A new picture, ``uint8``, BGR, of exactly the target's height and width.

        Raises:
            Exception: anything; it is recorded as this worker's failure on this example and disturbs nobody else.
        """

    def get_color_table(self, data: Mapping[str, Image]) -> ColorTable | None:
        """Return where each colour goes, for a worker whose `process` changes each pixel by its colour alone.

        Predictions then blend tables and look the target up once, and can be saved as a LUT for other programs. It
        must say exactly what `process` does: ``table.apply(target)`` is its picture. `get_confidence` and
        `get_familiarity` then get the target as `result`. None (the default) has `process` make a picture.

        Args:
            data: What `process` gets: two pictures, uint8, H×W×3, BGR.
        """
        return None

    def get_confidence(self, data: Mapping[str, Image], result: Image) -> float:
        """Say how sure the worker is of `result`, in [0, 1]. Low confidence makes evidence count less.

        Args:
            data: What `process` got: two pictures, uint8, H×W×3, BGR.
            result: What `process` gave: uint8, BGR, of the target's size.
        """
        return 1.0

    def get_familiarity(self, data: Mapping[str, Image], result: Image) -> float | None:
        """Say how familiar the request's look is, in [0, 1], for a worker that has learned looks; None for any other.

        Args:
            data: What `process` got: two pictures, uint8, H×W×3, BGR.
            result: What `process` gave: uint8, BGR, of the target's size.
        """
        return None

    def get_influence(self, data: Mapping[str, Image], result: Image) -> Mapping[str, float] | None:
        """Say how much each training example has to do with `result`; None for a worker that has learned from none.

        It is asked for predictions only.

        Args:
            data: What `process` got: two pictures, uint8, H×W×3, BGR.
            result: What `process` gave: uint8, BGR, of the target's size.

        Returns:
            By digest of the example (`Observation.digest`), numbers of at least 0 whose sum is at most 1: what is left
            is the part of the answer that no example accounts for.
        """
        return None


def check_time_limit(name: str, value: object) -> None:
    """Raise InvalidArgumentError unless `value` is a finite number of seconds above 0, or None."""
    if value is not None:
        check_number(name, value, 0.0, sys.float_info.max, "a finite number of seconds above 0, or None for no limit")


def valid_time_limit(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check a field that holds a time limit, as attrs wants it done; raises as `check_time_limit`."""
    check_time_limit(attribute.name, value)


class UnusableOutputError(ValueError):
    """A worker's output is no picture; `error_type` says in two words what is wrong, and the message what to do."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(error_type, message)
        self.error_type: str = error_type

    def __str__(self) -> str:
        return str(self.args[1])


NOT_FINITE: Final = (
    "NaN or infinite values, as of a division by 0: bound what is divided by, as np.maximum(spread, 1e-6) does, or "
    "return the target where it has nothing to change"
)

PixelType: TypeAlias = Literal["uint8", "float32"]
"""What a function's pictures hold: whole numbers from 0 to 255, or floats from 0 to 1."""

_BYTES_FROM: Final = 2.0
"""Floats from 0 to 1 that a method overshoots with rarely come so far; bytes that were taken for such mostly do."""


def _check_function(_worker: object, _attribute: object, value: Any) -> None:
    check_callable("function", value, "a function (source, target) -> picture")


def _check_color(_worker: object, _attribute: object, value: object) -> None:
    check_channel_order(value)


def _dtype_name(value: object) -> Any:
    """Return the name of a type of NumPy's, and anything else as it is."""
    return np.dtype(value).name if isinstance(value, (type, np.dtype)) and value is not float else value


def _check_dtype(_worker: object, _attribute: object, value: object) -> None:
    if value not in ("uint8", "float32"):
        raise InvalidArgumentError("dtype", value, "'uint8' (0 to 255) or 'float32' (0 to 1)")


@attrs.frozen
class FunctionWorker(Worker):
    """Makes a worker of a function ``f(source, target) -> picture``.

    >>> worker = FunctionWorker("gentle", lambda s, t: 0.9 * t + 0.1 * s.mean((0, 1)), color="rgb", dtype="float32")

    Args:
        worker_id: The worker's name.
        function: Called with two writable pictures of its own, H×W×3; several threads may call it at once.
        version: Change it when the function's results change for a reason that its own source does not show.
        time_limit: How many seconds one call may take; None leaves it to the pool's runner.
        color: The order of the channels in what the function gets and returns: ``"bgr"`` or ``"rgb"``.
        dtype: ``"uint8"``: the function gets and returns ``uint8`` from 0 to 255. ``"float32"``: it gets ``float32``
            from 0 to 1, and returns floats of any precision, of which 0 and 1 are black and white. What lies beyond is
            clipped, as nearly every method overshoots a little, and the result is rounded to the nearest of 256 levels.

    Raises:
        InvalidArgumentError: `function` cannot be called, `time_limit` is no finite number above 0, or `color` or
            `dtype` is something else.
    """

    worker_id: str
    function: Callable[[Any, Any], Any] = attrs.field(validator=_check_function)
    version: str = ""
    time_limit: float | None = attrs.field(default=None, validator=valid_time_limit)
    color: ChannelOrder = attrs.field(default="bgr", validator=_check_color, kw_only=True)
    dtype: PixelType = attrs.field(default="uint8", converter=_dtype_name, validator=_check_dtype, kw_only=True)

    def process(self, data: Mapping[str, Image]) -> Image:
        """Call the function with source and target (uint8, H×W×3, BGR) in the form that it wants.

        Raises:
            UnusableOutputError: with ``dtype="float32"``, the function returned something else than finite floats, or
                floats from 0 to 255.
            Exception: whatever the function raises.
        """
        given: list[Any] = [data["source"], data["target"]]
        if self.color == "rgb":
            given = [exchanged(picture) for picture in given]
        if self.dtype == "float32":
            given = [picture.astype(np.float32) / np.float32(255) for picture in given]
        output = self.function(*given)
        if self.dtype == "float32":
            output = _bytes_of(output)
        # Whoever runs the worker checks the output; what has no three channels is shown there as it came.
        is_picture = isinstance(output, np.ndarray) and output.ndim == 3  # noqa: PLR2004 - rows, columns, channels
        picture: Image = exchanged(output) if self.color == "rgb" and is_picture else output
        return picture


def _bytes_of(output: Any) -> Image:
    """Return floats from 0 to 1, any shape, as the nearest of 256 levels; what lies beyond is clipped."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
        seen = f"an array of dtype {output.dtype}" if isinstance(output, np.ndarray) else f"a {type(output).__name__}"
        raise UnusableOutputError("wrong type", f"expected an array of floats from 0 to 1, got {seen}")
    output = np.asarray(output)  # no mask hides a value
    if not np.isfinite(output).all():
        raise UnusableOutputError("not finite", f"its output has {NOT_FINITE}")
    if 2 * np.count_nonzero(output > _BYTES_FROM) > np.count_nonzero(output > 0):
        reason = f"expected floats from 0 to 1, got mostly larger ones, up to {float(output.max()):.4g}"
        raise UnusableOutputError("out of range", f"{reason}: divide by the value of white")
    levels: Image = np.rint(output.clip(0, 1) * 255).astype(np.uint8)
    return levels


class TrainableWorker(Worker):
    """A worker that is fitted on the ground truths of the training examples.

    The registered object is configuration and stays as it is. While examples are evaluated, the library asks it once
    per example what a fit will need (`observe`), stores the answers, and has it make a fitted worker of those of the
    training examples (`fit`). The fitted worker answers requests under the same `worker_id`. Training examples are
    scored out of fold: each one by a fit that knows neither it nor any other example with the same target.

    Until it is fitted it is not asked: no result, no evidence, no share.
    """

    min_observations: int = 1
    """With fewer observations than this in any fold the worker stays unfitted."""
    is_color_map: bool = False
    """True promises that a fitted worker changes each pixel by its colour alone. Scores on the training's own examples
    are then taken on a stored sample of their pixels, so that no picture is read again for a new fit."""

    @abstractmethod
    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        """Return what fitting needs to know of one example: at most 16,000 bytes, the same for the same pictures.

        It is called where the example is evaluated, in several threads at once.

        Args:
            source: Gives the colours: uint8, H×W×3, BGR, read-only.
            target: Is changed: uint8, H×W×3, BGR, read-only; of the ground truth's size.
            ground_truth: The wanted result: uint8, H×W×3, BGR, read-only.

        Raises:
            Exception: anything; it is recorded as this worker's failure on this example.
        """

    @abstractmethod
    def fit(self, observations: Sequence[Observation]) -> Worker:
        """Return a frozen worker that has learned from these observations; the same one for the same observations.

        Args:
            observations: At least `min_observations` and at most 1,000, in order of digest, each digest once.

        Returns:
            A worker with this one's `worker_id`, without a method ``fit``. Its `version` is the digest of what it
            learned: `learned_version` makes it.

        Raises:
            Exception: anything; the worker then counts as failed on every example of this training.
        """

    def dump_fit(self, fitted: Worker) -> bytes | None:
        """Return a fitted worker as bytes to store; None (the default) has the library fit it again when it is needed.

        Args:
            fitted: What `fit` returned.
        """
        return None

    def load_fit(self, state: bytes, observations: Sequence[Observation]) -> Worker:
        """Return the fitted worker that `dump_fit` made bytes of.

        Args:
            state: What `dump_fit` returned.
            observations: What the worker was fitted on.

        Raises:
            ValueError: the bytes are not such a state; the library then fits again.
        """
        return self.fit(observations)

    def process(self, data: Mapping[str, Image]) -> Image:
        """Answer nothing: only a fitted worker does.

        Args:
            data: Two pictures, uint8, H×W×3, BGR.

        Raises:
            WorkerNotFittedError: always.
        """
        raise WorkerNotFittedError(self.worker_id)


def learned_version(observations: Sequence[Observation]) -> str:
    """Return 32 hexadecimal digits that identify what these observations teach: the `version` of a fitted worker.

    They cover groups, digests and data of all observations, in any order.
    """
    rows = sorted(
        (o.digest, o.source_digest, o.target_digest, o.group or "", o.group is None, hashlib.sha256(o.data).hexdigest())
        for o in observations
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]


def time_limit_of(worker: Worker, otherwise: float | None) -> float | None:
    """Return how many seconds a call of this worker may take: its own limit, else the one given; None for any.

    Raises:
        InvalidArgumentError: the worker's own limit is not a finite number above 0.
    """
    own = worker.time_limit
    check_time_limit(f"time_limit of worker {worker.worker_id!r}", own)
    return otherwise if own is None else float(own)


def check_worker_id(worker_id: object) -> None:
    """Raise InvalidArgumentError unless this is an id that any store can keep."""
    usable = (
        isinstance(worker_id, str)
        and 0 < len(worker_id) <= _MAX_ID_LENGTH
        and worker_id.isprintable()
        and worker_id.strip() == worker_id
    )
    if not usable:
        raise InvalidArgumentError(
            "worker_id", worker_id, f"1 to {_MAX_ID_LENGTH} printable characters without spaces at the ends"
        )
