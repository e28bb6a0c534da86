"""Weights files: strict JSON, checked whole before anything changes, replaced as a whole."""

from __future__ import annotations

import base64
import codecs
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeAlias, TypedDict

import attrs

from tsm_training.core import SufficientStatistics, Totals, posterior_mean
from tsm_training.errors import WeightsFileError
from tsm_training.files import FileTooLargeError, read_regular_file, replace_file, system_reason
from tsm_training.learning.state import FittedBlend, Group, LearnedState, Observation

WEIGHTS_FORMAT_VERSION: Final = 3
"""What is written, and the only version that is read; a file without a version holds weights."""

MAX_WEIGHTS_FILE_BYTES: Final = 32_000_000
"""A larger file is refused before it is read."""

_MAX_ID_LENGTH: Final = 128
_MAX_WORKERS: Final = 1000
"""Per file: no ensemble has as many, and every statistic of the learner costs time and memory for each."""

_MAX_LABEL_LENGTH: Final = 200
_MAX_GROUPS: Final = 1000
_MAX_NUMBER: Final = 1e9
_MAX_OBSERVATIONS: Final = 1000
_MAX_OBSERVATION_BYTES: Final = 16_000
_TINY: Final = 1e-290
_CONSISTENCY: Final = 1e-9  # a weight must be what its posterior sums say, but for the last digits of another machine
_MAX_SHOWN: Final = 60


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
    posterior: dict[str, dict[str, Any]]
    """Per worker id the sums behind its weight: the fields of `tsm_training.core.SufficientStatistics`."""
    blend: dict[str, Any]
    """What was fitted on the pictures of all examples: `shares`, `solver`, `absorbed` and `safe`, which is empty where
    no safe shares are known; see `tsm_training.learning.FittedBlend`."""
    group_by: str
    groups: dict[str, dict[str, Any]]
    """By label: the `posterior` of the group's own examples, and a `blend`, null where nothing was fitted."""
    imported: list[str]
    """Ids of the workers whose priors were imported themselves; not there where none were."""
    learner: dict[str, str]
    """In the place of `posterior`, `blend` and `groups`, where another learner than ours has learned: its `name`, and
    the document `head` that it makes of its state without rows."""
    fits: dict[str, dict[str, Any]]
    """What trainable workers were fitted to, by worker id: what kind of `worker` made the `observations`, which group
    them by `group_by`, and the `state` that it made of them, base64, or null. They hold samples of colours, no
    layout."""


@attrs.frozen
class WorkerFit:
    """What a trainable worker was fitted to, as a weights file holds it."""

    observations: tuple[Observation, ...]
    """In order of digest, at least one."""
    state: bytes | None
    group_by: str | None
    identity: str
    """What kind of worker, with which version and settings, made the observations."""

    def to_document(self) -> dict[str, Any]:
        """Return the fit as an entry of a weights file."""
        return {
            "worker": self.identity,
            "group_by": self.group_by,
            "observations": [{**attrs.asdict(o), "data": base64.b64encode(o.data).decode()} for o in self.observations],
            "state": None if self.state is None else base64.b64encode(self.state).decode(),
        }


@attrs.frozen
class WeightsFile:
    """A weights file that was read and found good."""

    path: str
    weights: Mapping[str, float]
    """Per worker id, above 0."""
    alpha: float | None = None
    prior_strength: float | None = None
    posterior: Mapping[str, SufficientStatistics] | None = None
    """Posterior sums per worker id; None in a file that has weights only."""
    fitted: FittedBlend | None = None
    group_by: str | None = None
    groups: Mapping[str, Group] = attrs.field(factory=dict)
    fits: Mapping[str, WorkerFit] = attrs.field(factory=dict, repr=False)
    """By worker id."""
    learner: Mapping[str, str] | None = None
    imported: frozenset[str] = frozenset()
    """Ids of the workers whose priors had been imported before the file was written."""
    scale: float = 1.0
    """What the weights in the file were multiplied by. In a file of weights alone that all lie below 1, they are
    accuracies or the like, and not comparable with weights here: they are brought to a mean of 1."""

    def state(self) -> LearnedState:
        """Return the learned state that importing the file makes: its exact posterior, or its weights as priors."""
        if self.posterior is None:
            priors, totals, imported = self.weights, {}, frozenset(self.weights)
        else:
            priors, imported = {worker_id: sums.prior for worker_id, sums in self.posterior.items()}, self.imported
            found = ((worker_id, Totals.of(sums)) for worker_id, sums in self.posterior.items())
            totals = {worker_id: total for worker_id, total in found if any(total)}
        return LearnedState(
            priors, totals, fitted=self.fitted, group_by=self.group_by, groups=self.groups, imported=imported
        )


# --- writing --------------------------------------------------------------------------------------------------------


def posterior_entries(state: LearnedState, prior_strength: float) -> dict[str, Any]:
    """Return the entries of a `WeightsDocument` that make the import of a learned state exact."""
    document: dict[str, Any] = {"prior_strength": prior_strength, "posterior": _sums_document(state.statistics)}
    if state.fitted is not None:
        document["blend"] = _blend_document(state.fitted)
    if state.group_by is not None:
        document["group_by"] = state.group_by
        document["groups"] = {
            label: {
                "posterior": _sums_document(state.statistics_by_group[label]),
                "blend": None if group.fitted is None else _blend_document(group.fitted),
            }
            for label, group in state.groups.items()
        }
    if state.imported:
        document["imported"] = sorted(state.imported)
    return document


def _sums_document(sums: Mapping[str, SufficientStatistics]) -> dict[str, dict[str, Any]]:
    return {worker_id: attrs.asdict(base) for worker_id, base in sorted(sums.items())}


def _blend_document(fitted: FittedBlend) -> dict[str, Any]:
    return {name: getattr(fitted, name) for name in _BLEND}


def write_weights_file(path: str | os.PathLike[str], document: WeightsDocument) -> None:
    """Write a weights file: the old contents or the new, never a torn one.

    Raises:
        WeightsFileError: the file cannot be written, or the document is not one that can be read again; what was there
            before is untouched, unless it is the folder that could not be written to the disk in the end.
    """
    name = os.fspath(path)
    content = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(errors="surrogatepass")
    _read(name, content)
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


def _reason(error: OSError | ValueError) -> str:
    return system_reason(error) if isinstance(error, OSError) else str(error)


# --- reading --------------------------------------------------------------------------------------------------------


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
    return _read(name, content)


class _EntryError(Exception):
    """What is wrong with a file, and the entry that it is about."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        super().__init__(reason, key)
        self.reason, self.key = reason, key


def _read(path: str, content: bytes) -> WeightsFile:
    try:
        document = _parsed(content)
        if not isinstance(document, dict):
            raise _EntryError(f"must hold a JSON object, got {_described(document)}")
        if document and not document.keys() & _FILE.keys() and all(type(v) in {int, float} for v in document.values()):
            document = {"weights": document}  # an application by the guide may keep nothing else
        if "weights" not in document:
            raise _EntryError("the key 'weights' is missing")
        if ("groups" in document) != ("group_by" in document):
            raise _EntryError("must both be there, or neither", "groups" if "group_by" in document else "group_by")
        found = {name: check(document[name], name) for name, check in _FILE.items() if name in document}
        found.pop("format_version", None)
        if not found.keys() & _LEARNED.keys() and max(found["weights"].values()) < 1.0:
            mean = math.fsum(found["weights"].values()) / len(found["weights"])
            found |= {"weights": {w: weight / mean for w, weight in found["weights"].items()}, "scale": 1.0 / mean}
        file = WeightsFile(path, fitted=found.pop("blend", None), **found)
        _check_consistency(file)
    except _EntryError as error:
        raise WeightsFileError(path, error.reason, error.key) from error
    return file


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _EntryError("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _EntryError(f"is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _EntryError(f"is not JSON: {error}") from None
    except ValueError as error:  # a whole number with thousands of digits
        raise _EntryError(f"holds a number that cannot be read: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _EntryError("stands there twice", _described(key))
        result[key] = value
    return result


def _no_constant(text: str) -> NoReturn:
    raise _EntryError(f"{text} is not a number that JSON knows")


def _check_consistency(file: WeightsFile) -> None:
    """Refuse a file that says two things at once, or something about a worker whose weight it does not say."""
    groups = [(f"groups[{label!r}]", group) for label, group in file.groups.items()]
    blends = [("blend", file.fitted), *((f"{key}.blend", group.fitted) for key, group in groups)]
    named: list[tuple[str, Mapping[str, Any]]] = [(f"{key}.posterior", group.totals) for key, group in groups]
    named.append(("imported", dict.fromkeys(file.imported)))
    for key, blend in blends:
        if blend is not None:
            named += (f"{key}.shares", blend.shares), (f"{key}.safe", blend.safe)
    for key, entries in named:
        for worker_id in entries.keys() - file.weights.keys():
            raise _EntryError("is about a worker that 'weights' does not name", f"{key}[{worker_id!r}]")
    if file.posterior is None:
        return
    if file.prior_strength is None:
        raise _EntryError("is missing, and the posterior means nothing without it", "prior_strength")
    if file.posterior.keys() != file.weights.keys():
        raise _EntryError("must name the same workers as 'weights'", "posterior")
    for worker_id, base in file.posterior.items():
        implied = posterior_mean(base, file.prior_strength)
        if not math.isclose(implied, file.weights[worker_id], rel_tol=_CONSISTENCY):
            raise _EntryError(
                f"is {file.weights[worker_id]!r}, but its posterior says {implied!r}; "
                "remove 'posterior' to import edited weights as priors, and 'blend' and 'groups' with it",
                f"weights[{worker_id!r}]",
            )


# --- what each entry may be: a check returns what a JSON value means, given the key under which it stands -------------

_Check: TypeAlias = Callable[[Any, str], Any]


def _require(is_good: object, expected: str, value: object, key: str) -> None:
    if not is_good:
        raise _EntryError(f"must be {expected}, got {_described(value)}", key)


def _number(value: Any, key: str) -> float:
    is_good = type(value) in {int, float} and abs(value) <= _MAX_NUMBER
    _require(is_good, f"a finite number of at most {_MAX_NUMBER:g}", value, key)
    return float(value)


def _positive(value: Any, key: str, most: float = _MAX_NUMBER) -> float:
    is_good = type(value) in {int, float} and 0 < value <= most
    _require(is_good, f"a finite number above 0 and at most {most:g}", value, key)
    return float(value)


def _share(value: Any, key: str) -> float:
    return _positive(value, key, 1.0)


def _absorbed(value: Any, key: str) -> float:
    _require(type(value) in {int, float} and 0 <= value <= 1, "a number between 0 and 1", value, key)
    return float(value)


def _count(value: Any, key: str) -> int:
    _require(type(value) is int and 0 <= value <= _MAX_NUMBER, "a whole number of at least 0", value, key)
    return int(value)


def _version(value: Any, key: str) -> None:
    if value is not None and (type(value) is not int or value != WEIGHTS_FORMAT_VERSION):
        reason = f"has format version {_described(value)}; this library reads {WEIGHTS_FORMAT_VERSION}"
        raise _EntryError(reason, key)


def _text(value: Any, key: str) -> str:
    _require(isinstance(value, str), "text", value, key)
    return str(value)


def _label(value: Any, key: str) -> str:
    is_good = isinstance(value, str) and len(value) <= _MAX_LABEL_LENGTH
    _require(is_good, f"text of at most {_MAX_LABEL_LENGTH} characters", value, key)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _EntryError("holds half a character, which no store takes", key)
    return str(value)


def _label_or_null(value: Any, key: str) -> str | None:
    return None if value is None else _label(value, key)


def _digest(value: Any, key: str) -> str:
    is_good = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    _require(is_good, "64 hexadecimal digits", value, key)
    return str(value)


def _bytes(value: Any, key: str, most: int = _MAX_OBSERVATION_BYTES) -> bytes:
    try:
        content = base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        content = None
    _require(content is not None and len(content) <= most, f"at most {most} bytes in base64", value, key)
    return content or b""


def _record(value: Any, key: str, fields: Mapping[str, _Check]) -> dict[str, Any]:
    is_good = isinstance(value, dict) and value.keys() == fields.keys()
    _require(is_good, f"an object with exactly the keys {', '.join(fields)}", value, key)
    return {name: check(value[name], f"{key}.{name}") for name, check in fields.items()}


def _by_worker(value: Any, key: str, check: _Check) -> dict[str, Any]:
    _require(isinstance(value, dict), "an object with one entry per worker", value, key)
    if len(value) > _MAX_WORKERS:
        raise _EntryError(f"names {len(value)} workers; at most {_MAX_WORKERS} are expected", key)
    for worker_id in value:
        if not 0 < len(worker_id) <= _MAX_ID_LENGTH or not worker_id.isprintable():
            reason = f"a worker id must have 1 to {_MAX_ID_LENGTH} printable characters"
            raise _EntryError(reason, f"{key}[{_described(worker_id)}]")
    return {worker_id: check(entry, f"{key}[{worker_id!r}]") for worker_id, entry in value.items()}


def _weights(value: Any, key: str) -> dict[str, float]:
    weights = _by_worker(value, key, _positive)
    if not weights:
        raise _EntryError("names no worker", key)
    return weights


def _posterior(value: Any, key: str) -> dict[str, SufficientStatistics]:
    return _by_worker(value, key, _sums)


def _is_possible(sums: SufficientStatistics) -> bool:
    """Whether some evidence has these sums, but for rounding."""
    more = 1.0 + _CONSISTENCY
    return (
        abs(sums.advantage) <= sums.evidence
        and 0 <= sums.squared_advantage <= sums.evidence <= sums.update_count
        # Cauchy and Schwarz, with room for rounding and for numbers too small to be squared
        and sums.advantage**2 <= sums.evidence * sums.squared_advantage * more + _TINY
        and 0 <= sums.accuracy_sum <= sums.valid_count <= sums.update_count
        # a failure counts in full in the squares
        and 0 <= sums.failed_evidence <= sums.squared_advantage * more
        # the squares are greatest where all examples have one target, and least where each has its own
        and 0 <= sums.target_evidence <= sums.evidence**2 * more + _TINY
        and sums.evidence**2 <= sums.update_count * sums.target_evidence * more + _TINY
        and 0 <= sums.target_advantage <= sums.target_evidence * more
        and sums.target_product**2 <= sums.target_evidence * sums.target_advantage * more + _TINY
    )


def _sums(value: Any, key: str) -> SufficientStatistics:
    fields = dict.fromkeys(attrs.fields_dict(SufficientStatistics), _number)
    fields |= {"prior": _positive, "valid_count": _count, "update_count": _count}
    base = SufficientStatistics(**_record(value, key, fields))
    if not _is_possible(base):
        raise _EntryError("holds sums that no evidence can have", key)
    return base


def _blend(value: Any, key: str) -> FittedBlend:
    return FittedBlend(**_record(value, key, _BLEND))


def _shares(value: Any, key: str) -> dict[str, float]:
    shares = _by_worker(value, key, _share)
    if abs(math.fsum(shares.values()) - 1.0) > _CONSISTENCY:
        raise _EntryError("must hold shares whose sum is 1", key)
    return shares


_BLEND: Final[Mapping[str, _Check]] = {
    "shares": _shares,
    "solver": _label,
    "absorbed": _absorbed,
    "safe": lambda value, key: {} if value == {} else _shares(value, key),
}


def _group_by(value: Any, key: str) -> str:
    if not _label(value, key):
        raise _EntryError("must be a metadata key, got no text", key)
    return str(value)


def _groups(value: Any, key: str) -> dict[str, Group]:
    is_good = isinstance(value, dict) and 0 < len(value) <= _MAX_GROUPS
    _require(is_good, f"an object with 1 to {_MAX_GROUPS} entries", value, key)
    for label in value:
        _label(label, f"{key}[{_described(label)}]")
    return {label: _group(entry, f"{key}[{label!r}]") for label, entry in value.items()}


def _group(value: Any, key: str) -> Group:
    fields = {"posterior": _posterior, "blend": lambda blend, at: None if blend is None else _blend(blend, at)}
    found = _record(value, key, fields)
    totals = {worker_id: Totals.of(sums) for worker_id, sums in found["posterior"].items()}
    return Group(totals=totals, fitted=found["blend"])


def _ids(value: Any, key: str) -> frozenset[str]:
    is_good = isinstance(value, list) and all(isinstance(each, str) for each in value)
    _require(is_good, "a list of worker ids", value, key)
    return frozenset(value)


def _fits(value: Any, key: str) -> dict[str, WorkerFit]:
    return _by_worker(value, key, _fit)


def _fit(value: Any, key: str) -> WorkerFit:
    found = _record(value, key, _FIT)
    return WorkerFit(found["observations"], found["state"], found["group_by"], found["worker"])


def _observations(value: Any, key: str) -> tuple[Observation, ...]:
    is_good = isinstance(value, list) and 0 < len(value) <= _MAX_OBSERVATIONS
    _require(is_good, f"a list of 1 to {_MAX_OBSERVATIONS} observations", value, key)
    observations = tuple(
        Observation(**_record(each, f"{key}[{number}]", _OBSERVATION)) for number, each in enumerate(value)
    )
    digests = [o.digest for o in observations]
    if digests != sorted(set(digests)):
        raise _EntryError("must be in order of digest, each once", key)
    return observations


_FIT: Final[Mapping[str, _Check]] = {
    "worker": _label,
    "group_by": _label_or_null,
    "observations": _observations,
    "state": lambda value, key: None if value is None else _bytes(value, key, MAX_WEIGHTS_FILE_BYTES),
}
_OBSERVATION: Final[Mapping[str, _Check]] = {
    "digest": _digest,
    "source_digest": _digest,
    "target_digest": _digest,
    "group": _label_or_null,
    "data": _bytes,
}
_LEARNED: Final[Mapping[str, _Check]] = {
    "posterior": _posterior,
    "blend": _blend,
    "group_by": _group_by,
    "groups": _groups,
    "fits": _fits,
    "learner": lambda value, key: _record(value, key, {"name": _text, "head": _text}),
}
"""What a file may hold beyond weights."""

_FILE: Final[Mapping[str, _Check]] = {
    "format_version": _version,
    "weights": _weights,
    "alpha": _share,
    "prior_strength": _positive,
    "imported": _ids,
    **_LEARNED,
}
"""What a file may hold; keys that are not here are passed over."""


def _described(value: object) -> str:
    """Name a JSON value on one line, without following it inwards: it may be nested as deep as the stack allows."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]!r}… ({len(value)} characters)"
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text)} digits)"
