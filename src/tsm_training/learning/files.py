"""Weights files: strict JSON, checked whole before anything changes, replaced as a whole."""

from __future__ import annotations

import base64
import codecs
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, TypedDict, cast

import attrs

from tsm_training.core import SufficientStatistics, posterior_mean
from tsm_training.errors import WeightsFileError
from tsm_training.files import FileTooLargeError, read_regular_file, replace_file, system_reason
from tsm_training.learning.observations import Observation
from tsm_training.learning.state import FittedBlend, Group, LearnedState

__all__ = [
    "MAX_WEIGHTS_FILE_BYTES",
    "WEIGHTS_FORMAT_VERSION",
    "BlendDocument",
    "FitDocument",
    "GroupDocument",
    "LearnerDocument",
    "ObservationDocument",
    "PlainWeightsDocument",
    "PosteriorSums",
    "WeightsDocument",
    "WeightsFile",
    "WorkerFit",
    "posterior_entries",
    "read_weights_file",
    "write_weights_file",
]

WEIGHTS_FORMAT_VERSION: Final = 2
"""What is written, and the only version that is read; a file without a version holds weights."""

MAX_WEIGHTS_FILE_BYTES: Final = 32_000_000
"""A larger file is refused before it is read."""

_MAX_ID_LENGTH: Final = 128
_MAX_WORKERS: Final = 1000
"""Per file: no ensemble has as many, and every statistic of the learner costs time and memory for each."""

_MAX_LABEL_LENGTH: Final = 200
_MAX_GROUPS: Final = 1000
_MAX_WEIGHT: Final = 1e9
_MAX_OBSERVATIONS: Final = 1000
_MAX_OBSERVATION_BYTES: Final = 16_000
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_CONSISTENCY: Final = 1e-9  # a weight must be what its posterior sums say, but for the last digits of another machine

_TINY: Final = 1e-290
_MAX_SHOWN: Final = 60


class PosteriorSums(TypedDict):
    """What is exported of one worker beside its weight; see `tsm_training.core.posterior` for the symbols."""

    prior: float
    evidence: float
    advantage: float
    squared_advantage: float
    accuracy_sum: float
    valid_count: int
    update_count: int
    failed_evidence: float


class BlendDocument(TypedDict):
    """A blend that was fitted on pictures; see `tsm_training.learning.FittedBlend`."""

    shares: dict[str, float]
    solver: str
    absorbed: float
    safe: dict[str, float]
    """Empty where no safe shares are known."""


class GroupDocument(TypedDict):
    """What was learned on the examples of one group."""

    posterior: dict[str, PosteriorSums]
    """The sums of their evidence alone, per worker; it is part of the posterior of all."""
    blend: BlendDocument | None
    """What was fitted on the group's pictures; null where nothing was."""


class ObservationDocument(TypedDict):
    """What a trainable worker noted of one training example; see `tsm_training.workers.Observation`."""

    digest: str
    source_digest: str
    target_digest: str
    group: str | None
    data: str
    """Base64."""


class FitDocument(TypedDict):
    """What a trainable worker was fitted to."""

    worker: str
    """What kind of worker, with which version and settings, made the observations."""
    group_by: str | None
    """The metadata key that makes the groups of the observations."""
    observations: list[ObservationDocument]
    """In order of digest, at least one."""
    state: str | None
    """What the worker made of them, base64; null where it is fitted again when it is needed."""


class LearnerDocument(TypedDict):
    """What a learner with a state of its own has learned."""

    name: str
    """Which learner, and which version of its documents; see `tsm_training.weights.WeightLearner`."""
    head: str
    """The document that the learner makes of its state, without rows."""


class PlainWeightsDocument(TypedDict):
    """The least that a weights file holds: weights, which are imported as priors."""

    weights: dict[str, float]


class WeightsDocument(PlainWeightsDocument, total=False):
    """A weights file as it is exported: the guide's three keys, and what makes an import exact."""

    alpha: float
    exported_at: str
    """Aware UTC, ISO 8601."""
    format_version: int
    """Any other than 2 is refused."""
    prior_strength: float
    posterior: dict[str, PosteriorSums]
    blend: BlendDocument
    """What was fitted on the pictures of all examples."""
    group_by: str
    groups: dict[str, GroupDocument]
    learner: LearnerDocument
    """In the place of `posterior`, `blend` and `groups`, where another learner than ours has learned."""
    fits: dict[str, FitDocument]
    """What trainable workers were fitted to, by worker id. The observations hold samples of colours, no layout."""


@attrs.frozen
class WorkerFit:
    """What a trainable worker was fitted to, as a weights file holds it."""

    observations: tuple[Observation, ...]
    """In order of digest, at least one."""
    state: bytes | None
    group_by: str | None
    identity: str
    """What kind of worker, with which version and settings, made the observations."""

    def to_document(self) -> FitDocument:
        """Return the fit as an entry of a weights file."""
        return FitDocument(
            worker=self.identity,
            group_by=self.group_by,
            observations=[
                ObservationDocument(
                    digest=o.digest,
                    source_digest=o.source_digest,
                    target_digest=o.target_digest,
                    group=o.group,
                    data=base64.b64encode(o.data).decode(),
                )
                for o in self.observations
            ],
            state=None if self.state is None else base64.b64encode(self.state).decode(),
        )


@attrs.frozen
class WeightsFile:
    """A weights file that was read and found good."""

    path: str
    weights: Mapping[str, float]
    """Per worker id, above 0."""
    alpha: float | None
    prior_strength: float | None
    posterior: Mapping[str, SufficientStatistics] | None
    """Posterior sums per worker id; None in a file that has weights only."""
    fitted: FittedBlend | None = None
    group_by: str | None = None
    groups: Mapping[str, Group] = attrs.field(factory=dict)
    fits: Mapping[str, WorkerFit] = attrs.field(factory=dict, repr=False)
    """By worker id."""
    learner: LearnerDocument | None = None

    def state(self) -> LearnedState:
        """Return the learned state that importing the file makes: its exact posterior, or its weights as priors."""
        bases = self.posterior or {worker_id: SufficientStatistics(w) for worker_id, w in self.weights.items()}
        return LearnedState(bases, fitted=self.fitted, group_by=self.group_by, groups=self.groups)


def posterior_entries(state: LearnedState, prior_strength: float) -> dict[str, Any]:
    """Return the entries of a `WeightsDocument` that make the import of a learned state exact."""
    document: dict[str, Any] = {
        "prior_strength": prior_strength,
        "posterior": _posterior_document(state.statistics),
    }
    if state.fitted is not None:
        document["blend"] = _blend_document(state.fitted)
    if state.group_by is not None:
        document["group_by"] = state.group_by
        document["groups"] = {
            label: GroupDocument(
                posterior=_posterior_document(state.statistics_by_group[label]),
                blend=None if group.fitted is None else _blend_document(group.fitted),
            )
            for label, group in state.groups.items()
        }
    return document


def _posterior_document(sums: Mapping[str, SufficientStatistics]) -> dict[str, PosteriorSums]:
    return {worker_id: cast("PosteriorSums", attrs.asdict(base)) for worker_id, base in sorted(sums.items())}


def _blend_document(fitted: FittedBlend) -> BlendDocument:
    return BlendDocument(
        shares=dict(fitted.shares), solver=fitted.solver, absorbed=fitted.absorbed, safe=dict(fitted.safe)
    )


def write_weights_file(path: str | os.PathLike[str], document: WeightsDocument) -> None:
    """Write a weights file: the old contents or the new, never a torn one.

    Raises:
        WeightsFileError: the file cannot be written, or the document is not one that can be read again; what was there
            before is untouched, unless it is the folder that could not be written to the disk in the end.
    """
    name = os.fspath(path)
    content = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(errors="surrogatepass")
    _Reader(name).read(content)
    if len(content) > MAX_WEIGHTS_FILE_BYTES:
        raise WeightsFileError(name, f"would have {len(content)} bytes; at most {MAX_WEIGHTS_FILE_BYTES} are ever read")
    try:
        _refuse_to_replace_others(path)
        replace_file(path, content)
    except (OSError, ValueError) as error:
        raise WeightsFileError(name, f"cannot be written: {_reason(error)}") from error


def _refuse_to_replace_others(path: str | os.PathLike[str]) -> None:
    """Make sure that nothing but a weights file, whole or not, is lost by a slip of the name.

    Raises:
        ValueError: there is a file that begins like none, or is too large for one.
    """
    try:
        found = read_regular_file(path, MAX_WEIGHTS_FILE_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    except FileTooLargeError:
        found = b"something large"
    except OSError:  # there is nothing, or what writing will name
        return
    if found[:1] not in (b"", b"{"):
        raise ValueError("there is a file already that is no weights file; choose another name, or remove it first")


def read_weights_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Read and check a weights file.

    Raises:
        WeightsFileError: it cannot be read, is larger than 32 MB, is not strict JSON, names more than 1000 workers, or
            has an entry that is out of order.
    """
    name = os.fspath(path)
    try:
        content = read_regular_file(path, MAX_WEIGHTS_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise WeightsFileError(name, f"cannot be read: {_reason(error)}") from error
    return _Reader(name).read(content)


@attrs.frozen
class _Reader:
    """Turns bytes into a `WeightsFile`; everything wrong becomes one kind of error that names the entry."""

    path: str

    def fail(self, reason: str, key: str | None = None) -> NoReturn:
        raise WeightsFileError(self.path, reason, key)

    def read(self, content: bytes) -> WeightsFile:
        document = self._parsed(content)
        if not isinstance(document, dict):
            self.fail(f"must hold a JSON object, got {_described(document)}")
        version = document.get("format_version")
        if version is not None and (type(version) is not int or version != WEIGHTS_FORMAT_VERSION):
            self.fail(
                f"has format version {_described(version)}; this library reads {WEIGHTS_FORMAT_VERSION}",
                "format_version",
            )
        weights = {
            worker_id: self._number(value, f"weights[{worker_id!r}]", 0.0)
            for worker_id, value in self._entries(document, "weights").items()
        }
        if not weights:
            self.fail("names no worker", "weights")
        strength = self._optional(document, "prior_strength", _MAX_WEIGHT)
        posterior = self._posterior(document) if "posterior" in document else None
        result = WeightsFile(
            self.path,
            weights,
            self._optional(document, "alpha", 1.0),
            strength,
            posterior,
            self._blend(document["blend"], "blend", weights) if "blend" in document else None,
            *self._groups(document, weights),
            self._fits(document),
            self._learner(document),
        )
        self._check_consistency(result)
        return result

    def _learner(self, document: Mapping[str, Any]) -> LearnerDocument | None:
        if "learner" not in document:
            return None
        fields = self._record(document["learner"], "learner", LearnerDocument.__annotations__)
        if not all(isinstance(value, str) for value in fields.values()):
            self.fail(f"must hold texts, got {_described(fields)}", "learner")
        return LearnerDocument(name=fields["name"], head=fields["head"])

    def _parsed(self, content: bytes) -> Any:
        try:
            text = content.decode("utf-8-sig")
            return json.loads(text, object_pairs_hook=self._unique, parse_constant=self._constant)
        except RecursionError:
            self.fail("is nested too deeply")
        except UnicodeDecodeError as error:
            self.fail(f"is not UTF-8 text: {error.reason} at byte {error.start}")
        except json.JSONDecodeError as error:
            self.fail(f"is not JSON: {error}")
        except ValueError as error:  # a whole number with thousands of digits
            if isinstance(error, WeightsFileError):
                raise
            self.fail(f"holds a number that cannot be read: {error}")

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                self.fail("stands there twice", _described(key))
            result[key] = value
        return result

    def _constant(self, text: str) -> NoReturn:
        self.fail(f"{text} is not a number that JSON knows")

    def _entries(self, document: Mapping[str, Any], name: str, where: str = "") -> dict[str, Any]:
        if name not in document:
            self.fail(f"the key {name!r} is missing")
        entries, key = document[name], where + name
        if not isinstance(entries, dict):
            self.fail(f"must be an object with one entry per worker, got {_described(entries)}", key)
        if len(entries) > _MAX_WORKERS:
            self.fail(f"names {len(entries)} workers; at most {_MAX_WORKERS} are expected", key)
        for worker_id in entries:
            if not 0 < len(worker_id) <= _MAX_ID_LENGTH or not worker_id.isprintable():
                self.fail(
                    f"a worker id must have 1 to {_MAX_ID_LENGTH} printable characters",
                    f"{key}[{_described(worker_id)}]",
                )
        return entries

    def _number(self, value: object, key: str, low: float | None = None, high: float = _MAX_WEIGHT) -> float:
        if type(value) not in (int, float):
            self.fail(f"must be a number, got {_described(value)}", key)
        number = _as_float(value)
        if not math.isfinite(number) or abs(number) > high or (low is not None and number <= low):
            above = "" if low is None else f" above {low:g} and"
            self.fail(f"must be a finite number{above} at most {high:g}, got {_described(value)}", key)
        return number

    def _optional(self, document: Mapping[str, Any], key: str, high: float) -> float | None:
        return self._number(document[key], key, 0.0, high) if key in document else None

    def _posterior(self, document: Mapping[str, Any], where: str = "") -> dict[str, SufficientStatistics]:
        entries = self._entries(document, "posterior", where)
        return {w: self._base(entry, f"{where}posterior[{w!r}]") for w, entry in entries.items()}

    def _known(self, worker_ids: Iterable[str], weights: Mapping[str, float], key: str) -> None:
        """Refuse an entry about workers of which the file says nothing else."""
        for worker_id in worker_ids:
            if worker_id not in weights:
                self.fail("is about a worker that 'weights' does not name", f"{key}[{worker_id!r}]")

    def _blend(self, entry: object, key: str, weights: Mapping[str, float]) -> FittedBlend:
        fields = self._record(entry, key, BlendDocument.__annotations__)
        shares = self._shares(fields, "shares", key, weights)
        safe = self._shares(fields, "safe", key, weights) if fields["safe"] != {} else {}
        absorbed = self._number(fields["absorbed"], f"{key}.absorbed", high=1.0)
        if absorbed < 0.0:
            self.fail(f"must be at least 0, got {_described(absorbed)}", f"{key}.absorbed")
        return FittedBlend(shares, self._label(fields["solver"], f"{key}.solver"), absorbed, safe=safe)

    def _shares(
        self, fields: Mapping[str, Any], name: str, where: str, weights: Mapping[str, float]
    ) -> dict[str, float]:
        key = f"{where}.{name}"
        shares = {
            worker_id: self._number(share, f"{key}[{worker_id!r}]", 0.0, 1.0)
            for worker_id, share in self._entries(fields, name, f"{where}.").items()
        }
        self._known(shares, weights, key)
        if abs(math.fsum(shares.values()) - 1.0) > _CONSISTENCY:
            self.fail("must hold shares whose sum is 1", key)
        return shares

    def _fits(self, document: Mapping[str, Any]) -> dict[str, WorkerFit]:
        if "fits" not in document:
            return {}
        return {
            worker_id: self._fit(entry, f"fits[{worker_id!r}]")
            for worker_id, entry in self._entries(document, "fits").items()
        }

    def _fit(self, entry: object, key: str) -> WorkerFit:
        fields = self._record(entry, key, FitDocument.__annotations__)
        listed = fields["observations"]
        if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_OBSERVATIONS:
            self.fail(
                f"must be a list of 1 to {_MAX_OBSERVATIONS} observations, got {_described(listed)}",
                f"{key}.observations",
            )
        observations = tuple(self._observation(each, f"{key}.observations[{n}]") for n, each in enumerate(listed))
        digests = [o.digest for o in observations]
        if digests != sorted(set(digests)):
            self.fail("must be in order of digest, each once", f"{key}.observations")
        state = (
            None if fields["state"] is None else self._base64(fields["state"], f"{key}.state", MAX_WEIGHTS_FILE_BYTES)
        )
        group_by = None if fields["group_by"] is None else self._label(fields["group_by"], f"{key}.group_by")
        return WorkerFit(observations, state, group_by, self._label(fields["worker"], f"{key}.worker"))

    def _observation(self, entry: object, key: str) -> Observation:
        fields = self._record(entry, key, ObservationDocument.__annotations__)
        for name in ("digest", "source_digest", "target_digest"):
            if not isinstance(fields[name], str) or not _DIGEST.fullmatch(fields[name]):
                self.fail(f"must be 64 hexadecimal digits, got {_described(fields[name])}", f"{key}.{name}")
        return Observation(
            fields["digest"],
            fields["source_digest"],
            fields["target_digest"],
            None if fields["group"] is None else self._label(fields["group"], f"{key}.group"),
            self._base64(fields["data"], f"{key}.data", _MAX_OBSERVATION_BYTES),
        )

    def _base64(self, value: object, key: str, most: int) -> bytes:
        try:
            content = base64.b64decode(value, validate=True) if isinstance(value, str) else None
        except ValueError:
            content = None
        if content is None or len(content) > most:
            self.fail(f"must be at most {most} bytes in base64, got {_described(value)}", key)
        return content

    def _groups(self, document: Mapping[str, Any], weights: Mapping[str, float]) -> tuple[str | None, dict[str, Group]]:
        if "groups" not in document and "group_by" not in document:
            return None, {}
        group_by = self._label(document.get("group_by"), "group_by")
        if not group_by:
            self.fail("must be a metadata key, got no text", "group_by")
        entries = document.get("groups")
        if not isinstance(entries, dict) or not 0 < len(entries) <= _MAX_GROUPS:
            self.fail(f"must be an object with 1 to {_MAX_GROUPS} entries, got {_described(entries)}", "groups")
        groups = {}
        for label, entry in entries.items():
            self._label(label, f"groups[{_described(label)}]")
            key = f"groups[{label!r}]"
            fields = self._record(entry, key, GroupDocument.__annotations__)
            bases = self._posterior(fields, f"{key}.")
            self._known(bases, weights, f"{key}.posterior")
            blend = None if fields["blend"] is None else self._blend(fields["blend"], f"{key}.blend", weights)
            groups[label] = Group(bases=bases, fitted=blend)
        return group_by, groups

    def _label(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not len(value) <= _MAX_LABEL_LENGTH:
            self.fail(f"must be text of at most {_MAX_LABEL_LENGTH} characters, got {_described(value)}", key)
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.fail("holds half a character, which no store takes", key)
        return value

    def _record(self, entry: object, key: str, names: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(entry, dict) or entry.keys() != names.keys():
            self.fail(f"must be an object with exactly the keys {', '.join(names)}, got {_described(entry)}", key)
        return entry

    def _base(self, value: object, key: str) -> SufficientStatistics:
        entry = self._record(value, key, PosteriorSums.__annotations__)
        checks: dict[str, Callable[[], float | int]] = {
            "prior": lambda: self._number(entry["prior"], f"{key}['prior']", 0.0),
            "valid_count": lambda: self._count(entry["valid_count"], f"{key}['valid_count']"),
            "update_count": lambda: self._count(entry["update_count"], f"{key}['update_count']"),
        }
        values: dict[str, Any] = {
            name: checks[name]() if name in checks else self._number(value, f"{key}[{name!r}]")
            for name, value in entry.items()
        }
        base = SufficientStatistics(**values)
        possible = (
            abs(base.advantage) <= base.evidence
            and 0 <= base.squared_advantage <= base.evidence <= base.update_count
            # Cauchy and Schwarz, with room for rounding and for numbers too small to be squared
            and base.advantage**2 <= base.evidence * base.squared_advantage * (1 + _CONSISTENCY) + _TINY
            and 0 <= base.accuracy_sum <= base.valid_count <= base.update_count
            # a failure counts in full in the squares
            and 0 <= base.failed_evidence <= base.squared_advantage * (1 + _CONSISTENCY)
        )
        if not possible:
            self.fail("holds sums that no evidence can have", key)
        return base

    def _count(self, value: object, key: str) -> int:
        if type(value) is not int or not 0 <= value <= _MAX_WEIGHT:
            self.fail(f"must be a whole number of at least 0, got {_described(value)}", key)
        return value

    def _check_consistency(self, file: WeightsFile) -> None:
        """Refuse a file whose weights were edited while its posterior was not: it says two things at once."""
        if file.posterior is None:
            return
        if file.prior_strength is None:
            self.fail("is missing, and the posterior means nothing without it", "prior_strength")
        if file.posterior.keys() != file.weights.keys():
            self.fail("must name the same workers as 'weights'", "posterior")
        for worker_id, base in file.posterior.items():
            implied = posterior_mean(base, file.prior_strength)
            if not math.isclose(implied, file.weights[worker_id], rel_tol=_CONSISTENCY):
                self.fail(
                    f"is {file.weights[worker_id]!r}, but its posterior says {implied!r}; "
                    "remove 'posterior' to import edited weights as priors, and 'blend' and 'groups' with it",
                    f"weights[{worker_id!r}]",
                )


def _reason(error: OSError | ValueError) -> str:
    return system_reason(error) if isinstance(error, OSError) else str(error)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _described(value: object) -> str:
    """Name a JSON value on one line, without following it inwards: it may be nested as deep as the stack allows."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]!r}… ({len(value)} characters)"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text)} digits)"
