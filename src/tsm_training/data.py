"""What is stored: the records, and what a store must do, written out for whoever writes another one."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, TypeVar, cast, runtime_checkable

import attrs
import numpy as np

from tsm_training.arguments import check_limit
from tsm_training.errors import InvalidMetadataError, StorageReadOnlyError

__all__ = [
    "PREVIEW_BYTES",
    "ROLES",
    "DatasetStatistics",
    "EpochMetrics",
    "Evaluation",
    "EvaluationKey",
    "ExampleDocument",
    "ExampleEdit",
    "ExampleFiles",
    "ExampleList",
    "ExampleReference",
    "ExampleScores",
    "ExampleSummary",
    "HeldState",
    "MetricRow",
    "ObservationRecord",
    "PictureFile",
    "Preview",
    "SessionCommit",
    "SessionDocument",
    "SessionStatus",
    "SessionSummary",
    "StateChange",
    "StateDelta",
    "StateDocuments",
    "TrainingExample",
    "TrainingSession",
    "TrainingStore",
    "WorkerAccuracy",
    "WorkerOutcome",
    "check_metadata",
]

MAX_METADATA_BYTES: Final = 1_000_000
_MAX_DEPTH: Final = 50
_INT_LIMIT: Final = 2**63


def check_metadata(metadata: object) -> dict[str, Any]:
    """Return a private copy of an example's metadata; NumPy's numbers, truth values and texts become Python's.

    Raises:
        InvalidMetadataError: it is no mapping with text keys, or holds something that JSON cannot give back exactly:
            a NaN, bytes, a set, a value nested deeper than 50 levels, or more than 1 MB in all. The error names
            the place.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError("metadata", metadata, "a mapping of JSON values, or None")
    checked: dict[str, Any] = _Checker().checked(metadata, "metadata", 0)
    size = len(json.dumps(checked, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidMetadataError("metadata", f"{size} bytes of JSON", f"at most {MAX_METADATA_BYTES} bytes of JSON")
    return checked


class _Checker:
    """Copies values, and counts them: a list that holds one other list many times grows beyond all bounds as JSON."""

    _left = MAX_METADATA_BYTES // 2  # no value takes less than a character and what separates it

    def checked(self, value: Any, place: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InvalidMetadataError("metadata", "more", f"at most {MAX_METADATA_BYTES} bytes of JSON")
        if depth > _MAX_DEPTH:
            raise InvalidMetadataError(place, "deeper nesting", f"nested at most {_MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            return {_key(k, place): self.checked(item, f"{place}[{k!r}]", depth + 1) for k, item in value.items()}
        if isinstance(value, list):
            return [self.checked(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        plain = _python_value(value)
        if not _is_plain(plain):
            expected = "a JSON value (text, finite number, True, False, None, list or dict)"
            raise InvalidMetadataError(place, value, expected)
        return plain


def _python_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return -_INT_LIMIT <= value < _INT_LIMIT
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return _is_encodable(value)
    return value is None or type(value) is bool


def _key(key: object, place: str) -> str:
    key = _python_value(key)
    if type(key) is not str or not _is_encodable(key):
        raise InvalidMetadataError(f"a key of {place}", key, "text that UTF-8 can hold")
    return key


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text


_LONGEST_REPR: Final = 120

SessionStatus: TypeAlias = Literal["running", "completed", "failed", "interrupted"]
"""How far a session has come; only a completed one has changed what is learned."""


# --- documents ------------------------------------------------------------------------------------------------------

_Document = TypeVar("_Document")


def _document(record: object, kind: type[_Document]) -> _Document:
    """Return a document of this kind, ready for JSON: what the record has under the names of its keys."""
    return cast("_Document", {name: _as_json(getattr(record, name)) for name in kind.__annotations__})


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


class ExampleReference(TypedDict):
    """What the guide answers when an example was added."""

    example_id: str


class ExampleSummary(ExampleReference):
    """One example in the guide's list of examples."""

    created_at: str
    metadata: dict[str, Any]
    has_results: bool
    """True where it was evaluated at least once."""


class ExampleDocument(ExampleSummary):
    """Everything about one example."""

    source_path: str
    target_path: str
    ground_truth_path: str
    worker_results: dict[str, WorkerOutcome] | None
    validation_scores: ExampleScores | None


class ExampleList(TypedDict):
    """The guide's list of examples."""

    examples: list[ExampleSummary]
    total: int
    """How many examples are stored, which may be more than are listed."""


class WorkerOutcome(TypedDict):
    """What a worker did on an example: an entry of ``worker_results``."""

    accuracy: float | None
    """Similarity to the ground truth, in [0, 1]; None where the worker failed."""
    confidence: float
    is_valid: bool
    """True where there was a usable picture."""
    error: str | None
    seconds: float


class ExampleScores(TypedDict):
    """How the ensemble did on an example when it was last validated: ``validation_scores``."""

    avg_accuracy: float | None
    equal_weights_accuracy: float | None
    ensemble_accuracy: float | None
    validated_at: str
    """Aware UTC, ISO 8601."""


class EpochMetrics(TypedDict):
    """One entry of a session's ``metrics_history``."""

    epoch: int
    """From 1."""
    avg_accuracy: float
    """Blend-weighted mean accuracy of the workers over the training examples, with the weights after this epoch."""
    equal_weights_accuracy: float
    worker_accuracies: dict[str, float | None]
    """Mean accuracy per worker over the training examples where it gave a picture."""
    weights: dict[str, float]
    weight_stds: dict[str, float]
    """Posterior standard deviation of each weight after this epoch."""
    blend_weights: dict[str, float]
    max_weight_change: float
    """The largest change of any weight in this epoch: near 0 means that more epochs would change nothing."""


class WorkerAccuracy(TypedDict):
    """A worker's accuracies over several examples: `mean`, standard deviation `std`, `min` and `max`, all in [0, 1].

    They are None where it gave no picture at all.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None


class SessionDocument(TypedDict):
    """The session as the guide's training response shows it."""

    session_id: str
    num_examples: int
    epochs: int
    initial_weights: dict[str, float]
    """Per worker id, before the session; 1.0 is the average worker."""
    final_weights: dict[str, float]
    """Per worker id, after it."""
    metrics_history: list[EpochMetrics]


class SessionSummary(SessionDocument):
    """Everything about one session."""

    start_time: str
    end_time: str | None
    learning_rate: float
    status: SessionStatus
    seed: int | None
    validation_split: float | None
    training_ids: list[str]
    validation_ids: list[str]
    skipped: dict[str, str]
    error: str | None
    is_trial: bool
    validation: dict[str, Any] | None
    group_by: str | None


class DatasetStatistics(TypedDict):
    """The guide's counts."""

    total_examples: int
    """Examples that are stored."""
    processed_examples: int
    """Examples that were evaluated at least once."""
    unprocessed_examples: int
    """The others."""
    total_sessions: int
    """Sessions of every status."""


# --- examples -------------------------------------------------------------------------------------------------------


@attrs.frozen
class PictureFile:
    """What is known of a picture file since it was added."""

    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""
    num_bytes: int
    width: int
    """In pixels, after the file's orientation is applied."""
    height: int


@attrs.frozen
class ExampleFiles:
    """The contents of an example's three files: `source`, `target` and `ground_truth`."""

    source: PictureFile
    target: PictureFile
    ground_truth: PictureFile

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that name the contents of all three."""
        joined = "\n".join((self.source.sha256, self.target.sha256, self.ground_truth.sha256))
        return hashlib.sha256(joined.encode()).hexdigest()


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}…"


def _metadata(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return dict(value or {})


@attrs.frozen
class TrainingExample:
    """A triple of picture files: source gives the colours, target is changed, ground truth is the wanted result."""

    example_id: str
    source_path: str
    """Absolute, as are the other two."""
    target_path: str
    ground_truth_path: str
    created_at: datetime
    """Aware, UTC."""
    metadata: Mapping[str, Any] = attrs.field(factory=dict, converter=_metadata, repr=_cut)
    """Anything that JSON can hold."""
    worker_results: Mapping[str, WorkerOutcome] | None = attrs.field(default=None, repr=False)
    """What each worker did when the example was last evaluated; None until then."""
    validation_scores: ExampleScores | None = attrs.field(default=None, repr=False)
    """How the ensemble did when the example was last validated; None until then."""
    files: ExampleFiles | None = attrs.field(default=None, repr=False)
    """Contents of the files; None for an example from a database that did not keep them, until it is first used."""

    @property
    def known_files(self) -> ExampleFiles:
        """The contents of the files; ValueError while they are not known."""
        if self.files is None:
            raise ValueError(f"the files of example {self.example_id!r} were not looked at yet")
        return self.files

    @property
    def has_results(self) -> bool:
        """True where it was evaluated at least once."""
        return self.worker_results is not None

    def to_reference(self) -> ExampleReference:
        """Return the guide's answer to adding this example."""
        return {"example_id": self.example_id}

    def to_summary(self) -> ExampleSummary:
        """Return this example as the guide lists it."""
        return _document(self, ExampleSummary)

    def to_dict(self) -> ExampleDocument:
        """Return everything about this example, ready for JSON."""
        return _document(self, ExampleDocument)


# --- evaluations ----------------------------------------------------------------------------------------------------


class EvaluationKey(NamedTuple):
    """What an evaluation depends on: the same key means the same result."""

    example_digest: str
    worker_id: str
    worker_fingerprint: str
    metric_fingerprint: str
    reader: str
    """The version of what decoded the pictures; see `tsm_training.images.READER_VERSION`."""


@attrs.frozen
class Evaluation:
    """One worker's result on one example under one metric."""

    key: EvaluationKey
    accuracy: float | None
    """In [0, 1]; None where the worker failed."""
    confidence: float
    failure_kind: str | None
    """How the worker failed, as `WorkerFailure.kind` says it; None where it gave a usable picture, as the next two."""
    failure_type: str | None
    """The exception's class name, or the name of the check that failed."""
    failure_message: str | None
    """At most 500 characters."""
    seconds: float
    """Wall-clock time of the worker."""
    created_at: datetime
    """Aware, UTC."""

    def to_outcome(self) -> WorkerOutcome:
        """Return this evaluation as an entry of an example's ``worker_results``."""
        failed = self.accuracy is None
        return {
            "accuracy": self.accuracy,
            "confidence": self.confidence,
            "is_valid": not failed,
            "error": f"{self.failure_kind}: {self.failure_type}: {self.failure_message}" if failed else None,
            "seconds": self.seconds,
        }


@attrs.frozen
class Preview:
    """A small sample of one picture of an example, kept so that blends can be compared without running a worker."""

    example_digest: str
    """Names the contents of the example's files; see `ExampleFiles.digest`."""
    name: str
    """The worker's id and fingerprint with an @ between them, or the role of an input picture."""
    png: bytes
    """The sampled pixels as a PNG file."""
    rank: float | None = 0.0
    """Which previews stay where there is no room for all: those of the lowest rank. None stays as long as the
    example."""


@attrs.frozen
class ObservationRecord:
    """What a trainable worker noted of an example: a document that no store needs to understand."""

    example_digest: str
    """Names the contents of the example's files; see `ExampleFiles.digest`."""
    name: str
    """The worker's id and fingerprint."""
    content: bytes
    """What the worker noted."""


class MetricRow(NamedTuple):
    """A row of the guide's ``training_metrics`` table: one per session, example and worker."""

    session_id: str
    epoch: int
    """The session's last epoch; figures of single epochs are in the session's ``metrics_history``."""
    example_id: str
    worker_id: str
    accuracy: float | None
    """None where the worker failed."""
    confidence: float
    loss: float | None
    """1 − accuracy."""
    timestamp: str


# --- sessions and learning ------------------------------------------------------------------------------------------


def _history(value: Sequence[EpochMetrics]) -> tuple[EpochMetrics, ...]:
    return tuple(value)


def _ids(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(value)


@attrs.frozen
class TrainingSession:
    """One training: what went in, what came out, and how it went epoch by epoch."""

    session_id: str
    """A text that no other session has."""
    start_time: datetime
    """Aware, UTC."""
    epochs: int
    learning_rate: float
    """The learner's alpha, in (0, 1]."""
    initial_weights: Mapping[str, float] = attrs.field(repr=False)
    end_time: datetime | None = None
    """None while it runs."""
    num_examples: int = 0
    """How many training examples were really used; skipped ones do not count."""
    final_weights: Mapping[str, float] = attrs.field(factory=dict, repr=False)
    metrics_history: tuple[EpochMetrics, ...] = attrs.field(default=(), converter=_history, repr=False)
    status: SessionStatus = "running"
    """``completed`` and all learned, or ``failed`` or ``interrupted`` and nothing learned, or still ``running``."""
    seed: int | None = None
    """What the split was drawn with; None where the caller chose the examples."""
    validation_split: float | None = None
    training_ids: tuple[str, ...] = attrs.field(default=(), converter=_ids, repr=False)
    """Ids of the examples to learn from, skipped ones included."""
    validation_ids: tuple[str, ...] = attrs.field(default=(), converter=_ids, repr=False)
    """Ids of the examples held out."""
    skipped: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Why an example could not be used, by example id."""
    error: str | None = None
    """Why the session failed or was interrupted."""
    is_trial: bool = False
    """True where a fork was trained: the stored weights were left alone."""
    validation: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    """The validation report; None where nothing was held out."""
    group_by: str | None = None
    """The metadata key by which weights were learned group by group."""

    def _repr_html_(self) -> str:
        """Show the session in a notebook."""
        from tsm_training.report.notebook import session_card  # noqa: PLC0415 - where HTML is made

        return session_card(self)

    def to_summary(self) -> SessionDocument:
        """Return the session as the guide's training response shows it."""
        return _document(self, SessionDocument)

    def to_dict(self) -> SessionSummary:
        """Return everything about the session, ready for JSON."""
        return _document(self, SessionSummary)


@attrs.frozen
class StateDocuments:
    """Learned state as a store keeps it: JSON texts that only who wrote them understands."""

    token: str = ""
    """Random, and another one after each change of the state, so that a handle notices a replaced file too; empty where
    nothing was ever learned."""
    head: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """By name: what every reader needs, small whatever the number of examples."""
    rows: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """By key, those that were asked for: what is known of one example, say."""


@attrs.frozen
class StateDelta:
    """What changes in learned state."""

    head: Mapping[str, str | None] = attrs.field(factory=dict)
    """The new documents by name; None drops one. The others stay."""
    rows: Mapping[str, str | None] = attrs.field(factory=dict)
    """The new rows by key; None drops one. The others stay, unless `drops_rows` says that they go."""
    drops_rows: bool = False
    """True where all rows go that are not among the new ones."""


@attrs.frozen(eq=False, repr=False)
class HeldState:
    """What a store holds inside a transaction that is about to change it: nobody else can change it meanwhile."""

    token: str
    head: Mapping[str, str]
    rows: Callable[[Iterable[str] | None], Mapping[str, str]]
    """Returns the rows under these keys, as far as there are any; all rows for None."""
    known: Callable[[Iterable[str]], set[str]]
    """Returns which of these digests are contents of examples, as it will be when the transaction ends."""
    gone: frozenset[str] = frozenset()
    """The digests that no example will have any more: contents that this transaction removes or replaces."""


@attrs.frozen
class SessionCommit:
    """How a session ends: the final record `session`, its rows of `metrics`, and what changes in learned state."""

    session: TrainingSession
    metrics: Sequence[MetricRow] = ()
    delta: StateDelta | None = None
    """None leaves the learned state as it is."""


ROLES: Final = ("source", "target", "ground_truth")
"""The pictures of an example: gives the colours, is changed, is the wanted result."""

ExampleEdit: TypeAlias = Callable[[TrainingExample], TrainingExample]
"""Makes the next record of the stored one, with the same id; quick, and without side effects."""

StateChange: TypeAlias = Callable[[HeldState], StateDelta | None]
"""Says what changes in the learned state that the store holds, None for nothing; quick, and without side effects."""

PREVIEW_BYTES = 32 * 1024 * 1024
"""How many bytes of ranked previews a store keeps: in order of rank, digest and name, those before which are fewer.

That order has nothing to do with when and in what order examples were evaluated, so what is kept is a fair sample, and
the same one whatever the number of threads. The last one may therefore reach beyond the limit: were it left out for
that, a smaller one behind it would be kept or not by who came first. Previews without a rank are all kept.
"""


@runtime_checkable
class TrainingStore(Protocol):
    """Keeps examples, evaluations, sessions, metrics and learned state.

    Inherit from this class, implement the methods of its first part, and get those of the second. Then let the contract
    tests of `tsm_training.testing` judge.

    Every store may assume that values were checked by the caller (paths are absolute, metadata is JSON, times are aware
    UTC, ids are text). Every store must see to it that:

    - a call that returns has stored what it was given, as durably as the store promises, and a call that raises has
      changed nothing: each method is one transaction;
    - records come back equal to what went in, and changing what came back (a metadata dictionary, say) changes nothing
      in the store; only learned state, which nobody changes, may be shared;
    - examples and sessions come back in the order in which they were added, whatever their times say;
    - ids are never given out again for something else;
    - methods may be called from several threads, one after the other or at once;
    - an error is one of `tsm_training.errors`: `StorageError` or a subclass where the store itself fails.
    """

    # --- the first part: what a store implements ---

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the store is, for messages."""

    @property
    @abstractmethod
    def store_id(self) -> str:
        """A text that no other store has; the same each time this one is opened."""

    @abstractmethod
    def add_examples(self, examples: Sequence[TrainingExample], /) -> None:
        """Add examples behind those already there: all of them or none.

        Raises:
            DuplicateExampleError: an id is already stored, or comes twice.
        """

    @abstractmethod
    def iterate_examples(self, newest: int | None = None) -> Iterator[TrainingExample]:
        """Yield examples in order of addition: all, or the `newest` so many (at least 1).

        What is added or removed while the iterator is in use may or may not appear; nothing appears twice.
        """

    @abstractmethod
    def edit_examples(
        self, edits: Mapping[str, ExampleEdit], change: StateChange | None = None, *, skip_missing: bool = False
    ) -> StateDocuments | None:
        """Change stored examples, and learned state with them: all or nothing.

        Each edit is called with the record that the store holds at that moment, while nobody else can change it. The
        place in the order of addition stays. `change` is called last, with the digests that are gone now: no example
        has those contents any more, and their observations and previews go with them. Returns the head of the new
        learned state where `change` is given.

        Raises:
            ExampleNotFoundError: an id is not stored, unless `skip_missing` says to pass it over.
        """

    @abstractmethod
    def remove_example(self, example_id: str, change: StateChange | None = None) -> StateDocuments | None:
        """Remove an example, and change learned state with it. Evaluations, sessions and metrics stay.

        `change` and what goes with the contents are as for `edit_examples`.

        Raises:
            ExampleNotFoundError: no example has that id.
        """

    @abstractmethod
    def known_digests(self, digests: Iterable[str], /) -> set[str]:
        """Return which of these digests are contents of stored examples."""

    @abstractmethod
    def get_examples(self, example_ids: Sequence[str], /) -> list[TrainingExample]:
        """Return the examples with these ids, in the order of the ids.

        Raises:
            ExampleNotFoundError: no example has one of the ids; it names the first.
        """

    @abstractmethod
    def find_examples(self, digests: Iterable[str], /) -> list[TrainingExample]:
        """Return the examples that have one of these contents, in order of addition."""

    @abstractmethod
    def save_evaluations(
        self,
        evaluations: Sequence[Evaluation],
        previews: Sequence[Preview] = (),
        observations: Sequence[ObservationRecord] = (),
        *,
        superseding: Collection[str] = (),
    ) -> None:
        """Keep evaluations, previews and observations; those with the same key (or digest and name) are replaced.

        Of all previews with a rank, in order of rank, digest and name, those are kept before which there are fewer than
        `PREVIEW_BYTES` of them.

        Args:
            evaluations: Any number.
            previews: Any number.
            observations: Any number.
            superseding: Ids of workers that were fitted anew: what else is stored of them on the examples of these
                evaluations, evaluations under the same metric and previews, goes.
        """

    @abstractmethod
    def load_evaluations(self, example_digests: Iterable[str], /) -> list[Evaluation]:
        """Return all evaluations of these examples, the oldest first."""

    @abstractmethod
    def load_previews(self, example_digests: Iterable[str], /) -> dict[str, dict[str, bytes]]:
        """Return the PNG bytes of the previews of these examples, by digest and name; without previews, no entry."""

    @abstractmethod
    def ranked_digests(self) -> list[str]:
        """Return the digests of the examples that have previews with a rank, in order of the lowest rank and digest."""

    @abstractmethod
    def preview_cutoff(self) -> tuple[float, str] | None:
        """Return the rank and digest from which on a preview with a rank would not be kept; None while there is room.

        It may only fall while evaluations are saved, so a preview at or behind it need not be made.
        """

    @abstractmethod
    def load_observations(self, name: str, example_digests: Iterable[str], /) -> dict[str, bytes]:
        """Return the contents of the observations of that name on these examples, by example digest."""

    @abstractmethod
    def find_observations(self, name: str, example_digests: Iterable[str], /) -> set[str]:
        """Return on which of these examples there is an observation of that name."""

    @abstractmethod
    def begin_session(self, session: TrainingSession, /) -> None:
        """Keep a session whose status is ``running``.

        A durable store finds out, when it is opened (and perhaps here), which of its running sessions have lost their
        process, and marks those ``interrupted``, with an `error` that says so; a session that still runs elsewhere is
        left alone.

        Raises:
            StorageError: a session with that id is already stored.
        """

    @abstractmethod
    def commit_session(
        self, session_id: str, finish: Callable[[HeldState], SessionCommit], /
    ) -> tuple[TrainingSession, StateDocuments]:
        """End a session: its final record, its metric rows and its learned state, together or not at all.

        `finish` is called with the learned state that the store holds at that moment (another process may have trained
        meanwhile), while nobody else can change it; it returns at once and has no side effects.

        Metric rows are added behind those that an earlier commit of the session left.

        Returns:
            The session as it was stored, and the head of the learned state that the store now holds.

        Raises:
            SessionNotFoundError: no session has that id.
        """

    @abstractmethod
    def get_session(self, session_id: str, /) -> TrainingSession:
        """Return one session.

        Raises:
            SessionNotFoundError: no session has that id.
        """

    @abstractmethod
    def renew_session(self, session_id: str, /) -> None:
        """Say that a running session still runs: its lease, where a store gives one, begins anew.

        A session that was taken for dead runs again; one that has ended, or is not stored, stays as it is.
        """

    @abstractmethod
    def iterate_sessions(self, *, newest_first: bool = False) -> Iterator[TrainingSession]:
        """Yield all sessions, the oldest first unless told otherwise; few are read at a time."""

    @abstractmethod
    def iterate_metrics(self, session_id: str, /) -> Iterator[MetricRow]:
        """Yield the metric rows of one session in the order in which they were committed; few are read at a time.

        Raises:
            SessionNotFoundError: no session has that id.
        """

    @abstractmethod
    def load_state(self, keys: Iterable[str] | None = ()) -> StateDocuments:
        """Return the head of the learned state, and the rows under these keys as far as there are any; None for all."""

    @abstractmethod
    def update_state(self, change: StateChange, /) -> StateDocuments:
        """Change the learned state as `change` says, while nobody else can; return the head that is now held."""

    @abstractmethod
    def get_dataset_stats(self) -> DatasetStatistics:
        """Count examples and sessions."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; closing twice is fine. Any other call then raises `StorageClosedError`."""

    # --- the second part: made of the first ---

    @property
    def is_read_only(self) -> bool:
        """True where every method that writes raises `StorageReadOnlyError`; False unless a store says otherwise."""
        return False

    def require_writable(self) -> None:
        """Make sure, before any work, that what will come of it can be stored.

        Raises:
            StorageReadOnlyError: the store is for reading only.
        """
        if self.is_read_only:
            raise StorageReadOnlyError(self.location, "it was opened for reading only")

    def get_example(self, example_id: str) -> TrainingExample:
        """Return one example.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        return self.get_examples([example_id])[0]

    def get_all_examples(self, limit: int | None = None) -> list[TrainingExample]:
        """Return examples in order of addition; with a limit, only the newest so many.

        Raises:
            InvalidArgumentError: `limit` is not None and not a whole number of at least 1.
        """
        return list(self.iterate_examples(check_limit("limit", limit)))

    def get_all_sessions(self) -> list[TrainingSession]:
        """Return all sessions, the oldest first."""
        return list(self.iterate_sessions())
