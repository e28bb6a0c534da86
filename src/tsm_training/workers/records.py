"""What one request to a worker is, and what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import attrs
import numpy as np

from tsm_training.arrays import Image, frozen_copy
from tsm_training.images import ColorTable

T = TypeVar("T")

FailureKind: TypeAlias = Literal["raised", "bad_output", "bad_confidence", "timed_out", "died"]
"""How a worker failed: it raised; its picture or its confidence cannot be used; it gave no answer within its time
limit; the process that it ran in came to an end."""

PASSING_FAILURES: Final[frozenset[FailureKind]] = frozenset({"timed_out", "died"})
"""Failures that may have come of a busy machine as much as of the worker: they count, but they are not kept."""


class WorkerRequest(Mapping[str, Image]):
    """The two pictures of one request under ``'source'`` and ``'target'``, with a memo that workers may share.

    Both pictures are ``uint8``, H×W×3, BGR. Nobody can change them, or put others in their place. A request that
    belongs to a group of examples has the group's name, a text, under ``'group'``. Several workers start from the same
    conversions of the same pictures (Lab, say); `shared` computes each of them once per request, whichever thread asks
    first.

    The request of a prediction asks workers for more: for a table of colours in the place of an image where they can
    give one, and which training examples are behind their answer.
    """

    def __init__(self, source: Image, target: Image, group: str | None = None, *, is_prediction: bool = False) -> None:
        self.is_prediction = is_prediction
        self._entries = {"source": frozen_copy(source), "target": frozen_copy(target)}
        if group is not None:
            self._entries["group"] = cast("Image", group)  # the one entry that is no picture; `group_of` reads it
        self._memo: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    def __getitem__(self, key: str) -> Image:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shared(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value under `key`, computing it on the first call; it must never be changed afterwards.

        An array becomes read-only.
        """
        with self._lock:
            if key not in self._memo:
                value = self._memo[key] = compute()
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
            return cast("T", self._memo[key])


def shared(data: Mapping[str, Image], key: Hashable, compute: Callable[[], T]) -> T:
    """Return what `compute` gives, once per request where `data` can remember it, anew where it is a plain mapping.

    Args:
        data: What `Worker.process` got: two pictures, uint8, H×W×3, BGR.
        key: Names the value; the same for the same computation.
        compute: Makes the value, which must never be changed afterwards.
    """
    return data.shared(key, compute) if isinstance(data, WorkerRequest) else compute()


def group_of(data: Mapping[str, Image]) -> str | None:
    """Return the group that a request belongs to: the text under ``'group'``; None where it has none.

    Args:
        data: What `Worker.process` got: two pictures, uint8, H×W×3, BGR.
    """
    group: object = data.get("group")
    return group if isinstance(group, str) else None


@attrs.frozen
class WorkerFailure:
    """Why a worker gave no usable picture."""

    kind: FailureKind
    """How it failed."""
    error_type: str
    """The exception's class name, or the name of the check that failed."""
    message: str
    """At most 500 characters."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.error_type}: {self.message}"


@attrs.frozen(eq=False)
class WorkerResult:
    """What one worker made of one request."""

    worker_id: str
    _value: Image | None = attrs.field(alias="value", repr=False)
    confidence: float = 1.0
    """The worker's own confidence in this picture, in [0, 1]."""
    failure: WorkerFailure | None = None
    """Why there is no picture; None where there is one."""
    seconds: float = 0.0
    """Wall-clock time that the worker took."""
    familiarity: float | None = None
    """How familiar the look of the request is to a worker that has learned looks, in [0, 1]; None for any other."""
    influence: Mapping[str, float] | None = None
    """How much each training example has to do with the picture, by digest, at most 1 in all; None for a worker that
    does not say so, and where the request did not ask."""
    table: ColorTable | None = attrs.field(default=None, kw_only=True, repr=False)
    """Where each colour goes, from a worker that was asked for that instead of a picture."""
    target: Image | None = attrs.field(default=None, kw_only=True, repr=False)
    """What a picture is made of with the table: uint8, H×W×3, BGR."""

    @property
    def value(self) -> Image | None:
        """The picture (uint8, H×W×3, BGR, the target's size), or None where the worker failed.

        From a table it is made when it is asked for, each time.
        """
        if self._value is None and self.table is not None and self.target is not None:
            return self.table.apply(self.target)
        return self._value

    @property
    def has_learned(self) -> bool:
        """Tell whether the worker has said something about what it learned from examples."""
        return self.familiarity is not None or self.influence is not None

    def is_valid(self) -> bool:
        """Tell whether there is a picture to use."""
        return (self._value is not None or self.table is not None) and self.failure is None


@runtime_checkable
class WorkerResultLike(Protocol):
    """What the library needs of a result, so that a host's own pool may return its own objects."""

    @property
    def worker_id(self) -> str:
        """The id of the worker that answered."""
        ...

    @property
    def value(self) -> Any:
        """The picture: uint8, H×W×3, BGR, the target's size; checked before use."""
        ...

    @property
    def confidence(self) -> float:
        """The worker's own confidence, in [0, 1]."""
        ...

    def is_valid(self) -> bool:
        """Tell whether the worker succeeded."""
        ...


@runtime_checkable
class WorkerPoolLike(Protocol):
    """What the library needs of a pool: one method.

    `execute_parallel` gets a dictionary with the keys ``'source'`` and ``'target'`` (uint8, H×W×3, BGR) and returns one
    result per worker, in any order. The pictures are read-only, because all workers of the pool get the same ones: one
    that wants to write takes a copy. It is called from one thread at a time.
    """

    def execute_parallel(self, data: dict[str, Image], /) -> Sequence[WorkerResultLike]:
        """Run every worker on one request and return their results."""
        ...
