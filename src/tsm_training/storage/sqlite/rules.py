"""Which values the tables may hold: what is read is judged by the same rules as what is written."""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast, get_args

import attrs

from tsm_training.data import ROLES, ExampleFiles, PictureFile, SessionStatus
from tsm_training.errors import StorageCorruptError
from tsm_training.learning import FittedBlend, WorkerBase

__all__ = [
    "TABLES",
    "FaultyValueError",
    "Table",
    "UnstorableValueError",
    "corrupt",
    "dump",
    "faults",
    "loaded",
    "storable",
]


class FaultyValueError(ValueError):
    """A stored value is none that the library, or an application by the guide, writes."""

    def __init__(self, table: str, row: str, column: str, problem: str) -> None:
        super().__init__(table, row, column, problem)
        self.table = table
        self.row = row
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.table}, {self.row}, {self.column}: {self.problem}"


class UnstorableValueError(ValueError):
    """A value that was to be stored is none that could be read again."""


def corrupt(location: str, error: FaultyValueError) -> StorageCorruptError:
    """Return the error that names a row in which a value is not what belongs there, and says what to do."""
    return StorageCorruptError(location, f"{error}; quarantine() puts such rows aside, check() lists them all")


Rule: TypeAlias = Callable[[Any], Any]
"""Returns what a stored value stands for, or raises ValueError saying what is wrong with it."""

_TOLERANCE: Final = 1e-6  # sums are rounded
_HIGHEST_VERSION: Final = 2**62  # there must be room for the next ones
_LARGEST: Final = sys.float_info.max
_SHOWN: Final = 60


def dump(value: object) -> str:
    """Return a value as strict JSON.

    Raises:
        UnstorableValueError: JSON cannot hold it.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnstorableValueError(str(error)) from error


# --- rules for one value --------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    try:
        text = repr(value)
    except ValueError:  # a whole number of more than 4300 digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text is expected, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is damaged: it is not UTF-8") from None
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"bytes are expected, not {_shown(value)}")
    return value


def _number(
    low: float = -_LARGEST, high: float = _LARGEST, *, low_allowed: bool = True, expected: str = "a finite number"
) -> Rule:
    def rule(value: Any) -> Any:
        # True is no number, though Python says so; NaN fails both comparisons.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (value == low and not low_allowed):
            raise ValueError(f"{expected} is expected, not {_shown(value)}")
        return value

    return rule


def _whole(low: int | None = None, high: float = math.inf) -> Rule:
    expected = "a whole number" if low is None else f"a whole number of at least {low}"

    def rule(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or (low is not None and value < low):
            raise ValueError(f"{expected} is expected, not {_shown(value)}")
        if value > high:
            raise ValueError(f"a whole number of at most {high} is expected, not {_shown(value)}")
        return value

    return rule


def _optional(rule: Rule, default: Any = None) -> Rule:
    return lambda value: default if value is None else rule(value)


def _one_of(*allowed: str) -> Rule:
    def rule(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} is expected, not {_shown(value)}")
        return value

    return rule


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(_text(value))
    # Applications that followed the guide wrote UTC without saying so.
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large a number")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _json(value: Any) -> Any:
    text = _text(value)
    try:
        parsed = json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it holds no JSON ({error})") from None
    if "\\u" in text:  # half of a surrogate pair could be read, but never be written again
        _text(dump(parsed))
    return parsed


def _json_of(check: Rule) -> Rule:
    return lambda value: check(_json(value))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def _object_of(rule: Rule) -> Rule:
    def check(value: Any) -> dict[str, Any]:
        for key, item in _object(value).items():
            try:
                rule(item)
            except ValueError as error:
                raise ValueError(f"at {_shown(key)}: {error}") from None
        return cast("dict[str, Any]", value)

    return check


def _list_of(rule: Rule) -> Rule:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("it holds no JSON list")
        return [rule(item) for item in value]

    return check


def _record_of(rules: Mapping[str, Rule], *, complete: bool, newer: Collection[str] = ()) -> Rule:
    """Return a rule for an object with certain keys and no others; `newer` ones an older version did not write."""

    def check(value: Any) -> dict[str, Any]:
        unknown = _object(value).keys() - rules.keys()
        missing = rules.keys() - value.keys() - set(newer) if complete else set()
        if unknown or missing:
            names = ", ".join(sorted(map(_shown, unknown or missing)))
            raise ValueError(f"{names} {'is unknown' if unknown else 'is missing'}")
        checked = {}
        for key, item in value.items():
            try:
                checked[key] = rules[key](item)
            except ValueError as error:
                raise ValueError(f"at {key!r}: {error}") from None
        return checked

    return check


_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def _sha256(value: Any) -> str:
    if not _DIGEST.fullmatch(_text(value)):
        raise ValueError(f"64 hexadecimal digits are expected, not {_shown(value)}")
    return cast("str", value)


def _is_true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false is expected, not {_shown(value)}")
    return value


_PICTURE: Final = _record_of(
    {"sha256": _sha256, "num_bytes": _whole(0), "width": _whole(1), "height": _whole(1)}, complete=True
)
_FILES: Final = _record_of(dict.fromkeys(ROLES, _PICTURE), complete=True)


def _files(value: Any) -> ExampleFiles:
    return ExampleFiles(**{role: PictureFile(**picture) for role, picture in _FILES(value).items()})


_PNG: Final = b"\x89PNG\r\n\x1a\n"


def _png(value: Any) -> bytes:
    """Accept the bytes of a PNG file, whole as its checksums say."""
    if not isinstance(value, bytes) or not value.startswith(_PNG):
        raise ValueError(f"a PNG picture is expected, not {_shown(value)}")
    place = len(_PNG)
    while place + 12 <= len(value):
        end = place + 12 + int.from_bytes(value[place : place + 4])
        if zlib.crc32(value[place + 4 : end - 4]) != int.from_bytes(value[end - 4 : end]):
            raise ValueError("the PNG picture is damaged")
        if value[place + 4 : place + 8] == b"IEND":
            return value
        place = end
    raise ValueError("the PNG picture is cut off")


# --- rules for rows -------------------------------------------------------------------------------------------------

_Relation: TypeAlias = Callable[[Mapping[str, Any]], tuple[str, str] | None]
"""Tells the column and the problem where values do not go together."""


@attrs.frozen
class Table:
    """What a table's rows may hold."""

    name: str
    key: tuple[str, ...]
    """The columns by which a row is named."""
    columns: Mapping[str, Rule]
    has_rowid: bool = True
    relation: _Relation = lambda _values: None

    def row_name(self, values: Sequence[object]) -> str:
        """Return how messages name a row."""
        named = dict(zip(self.columns, values, strict=True))
        return ", ".join(_shown(named[column]) for column in self.key)


def faults(table: Table, values: Sequence[object]) -> Iterator[tuple[str, str]]:
    """Yield the column and the problem of everything that is wrong with a row."""
    accepted = {}
    for (column, rule), value in zip(table.columns.items(), values, strict=True):
        try:
            accepted[column] = rule(value)
        except ValueError as error:
            yield column, str(error)
    if len(accepted) == len(table.columns) and (wrong := table.relation(accepted)):
        yield wrong


def loaded(name: str, values: Sequence[object]) -> dict[str, Any]:
    """Return what the values of a row stand for, by column.

    Raises:
        FaultyValueError: one of them breaks its rule.
    """
    table = TABLES[name]
    accepted = {}
    for (column, rule), value in zip(table.columns.items(), values, strict=True):
        try:
            accepted[column] = rule(value)
        except ValueError as error:
            raise FaultyValueError(name, table.row_name(values), column, str(error)) from error
    if wrong := table.relation(accepted):
        raise FaultyValueError(name, table.row_name(values), *wrong)
    return accepted


def storable(name: str, values: Sequence[object]) -> Sequence[object]:
    """Return the values of a row if they can be read again.

    Raises:
        UnstorableValueError: one of them breaks its rule.
    """
    for column, problem in faults(TABLES[name], values):
        raise UnstorableValueError(f"{name}, {column}: {problem}")
    return values


_SHARE: Final = _number(0.0, 1.0, expected="a number from 0 to 1")
_AMOUNT: Final = _number(0.0, expected="a finite number of at least 0")
_WEIGHTS: Final = _json_of(_object_of(_number()))


def _evaluation_relation(values: Mapping[str, Any]) -> tuple[str, str] | None:
    # SQLite keeps a NaN as NULL, so a missing accuracy must have a reason.
    if values["accuracy"] is None and values["failure_kind"] is None:
        return "accuracy", "it is missing, and the row tells of no failure"
    if values["accuracy"] is not None and values["failure_kind"] is not None:
        return "failure_kind", "the row tells of a failure, but has an accuracy"
    return None


def _base_relation(values: Mapping[str, Any]) -> tuple[str, str] | None:
    most = values["evidence"] * (1 + _TOLERANCE) + _TOLERANCE
    for column in ("advantage", "squared_advantage", "failed_evidence"):
        if abs(values[column]) > most:
            return column, f"it is {values[column]!r}, beyond the evidence of {values['evidence']!r}"
    return None


_BASE_COLUMNS: Final[Mapping[str, Rule]] = {
    "prior": _number(0.0, low_allowed=False, expected="a finite number above 0"),
    "evidence": _AMOUNT,
    "advantage": _number(),
    "squared_advantage": _AMOUNT,
    "accuracy_sum": _AMOUNT,
    "valid_count": _whole(0),
    "update_count": _whole(0),
    "failed_evidence": _AMOUNT,
}
_BASE: Final = _record_of(_BASE_COLUMNS, complete=True)


def _bases(value: Any) -> dict[str, WorkerBase]:
    bases = {}
    for worker_id, item in _object(value).items():
        base = _BASE(item)
        if wrong := _base_relation(base):
            raise ValueError(f"at {_shown(worker_id)}: {wrong[0]}: {wrong[1]}")
        bases[worker_id] = WorkerBase(**base)
    return bases


_SHARES: Final = _object_of(_number(0.0, 1.0, low_allowed=False, expected="a number above 0 and at most 1"))

_FITTED: Final = _record_of(
    {
        "shares": _SHARES,
        "solver": _text,
        "absorbed": _SHARE,
        "digests": _list_of(_text),
        "safe": _SHARES,
    },
    complete=True,
    newer=("safe",),
)


def _fitted(value: Any) -> FittedBlend:
    fields = _FITTED(value)
    digests = tuple(fields["digests"])
    blend = FittedBlend(fields["shares"], fields["solver"], fields["absorbed"], digests, fields.get("safe", {}))
    if abs(math.fsum(blend.shares.values()) - 1.0) > _TOLERANCE:
        raise ValueError("the shares do not add up to 1")
    if blend.safe and abs(math.fsum(blend.safe.values()) - 1.0) > _TOLERANCE:
        raise ValueError("the safe shares do not add up to 1")
    return blend


def _blend_relation(values: Mapping[str, Any]) -> tuple[str, str] | None:
    if values["group_by"]:
        return None
    # The row of all requests is no group, and stands for nothing but the blend that was fitted for them.
    for column in ("group_label", "members", "bases"):
        if values[column]:
            return column, "something is there, and the row is that of no group"
    return ("fitted", "it is missing, and the row is that of no group") if values["fitted"] is None else None


_DETAILS: Final = _record_of(
    {
        "seed": _optional(_whole()),
        "validation_split": _optional(_number()),
        "training_ids": _list_of(_text),
        "validation_ids": _list_of(_text),
        "skipped": _object_of(_text),
        "error": _optional(_text),
        "is_trial": _is_true_or_false,
        "validation": _optional(_object),
        "group_by": _optional(_text),
    },
    complete=False,
)

_ALL: Final = (
    Table(
        "training_examples",
        ("example_id",),
        {
            "example_id": _text,
            "source_path": _text,
            "target_path": _text,
            "ground_truth_path": _text,
            "created_at": _time,
            "metadata": _optional(_json_of(_object), {}),
            "worker_results": _optional(_json_of(_object)),
            "validation_scores": _optional(_json_of(_object)),
        },
    ),
    Table(
        "training_sessions",
        ("session_id",),
        {
            "session_id": _text,
            "start_time": _time,
            "end_time": _optional(_time),
            "num_examples": _optional(_whole(0), 0),
            "epochs": _optional(_whole(0), 0),
            "learning_rate": _optional(_number(), 0.0),
            "initial_weights": _optional(_WEIGHTS, {}),
            "final_weights": _optional(_WEIGHTS, {}),
            "metrics_history": _optional(_json_of(_list_of(_object)), ()),
            "status": _optional(_one_of(*get_args(SessionStatus)), "completed"),
        },
    ),
    Table(
        "training_metrics",
        ("session_id", "example_id", "worker_id"),
        {
            "session_id": _text,
            "epoch": _optional(_whole()),
            "example_id": _optional(_text),
            "worker_id": _optional(_text),
            "accuracy": _optional(_SHARE),
            "confidence": _optional(_SHARE),
            "loss": _optional(_number()),
            "timestamp": _optional(_text),
        },
    ),
    Table("example_files", ("example_id",), {"example_id": _text, "files": _optional(_json_of(_files))}),
    Table("session_details", ("session_id",), {"session_id": _text, "details": _json_of(_DETAILS)}),
    Table(
        "evaluations",
        ("example_digest", "worker_id"),
        {
            "example_digest": _text,
            "worker_id": _text,
            "worker_fingerprint": _text,
            "metric_fingerprint": _text,
            "accuracy": _optional(_SHARE),
            "confidence": _SHARE,
            "failure_kind": _optional(_text),
            "failure_type": _optional(_text),
            "failure_message": _optional(_text),
            "seconds": _AMOUNT,
            "created_at": _time,
        },
        relation=_evaluation_relation,
    ),
    Table(
        "previews",
        ("example_digest", "name"),
        {"example_digest": _text, "name": _text, "png": _png, "rank": _optional(_number())},
    ),
    Table(
        "observations",
        ("example_digest", "name"),
        {"example_digest": _text, "name": _text, "content": _bytes},
        has_rowid=False,
    ),
    Table("learned_fits", ("worker_id",), {"worker_id": _text, "document": _bytes}, has_rowid=False),
    Table(
        "learned_bases",
        ("worker_id",),
        {
            "worker_id": _text,
            **_BASE_COLUMNS,
        },
        relation=_base_relation,
    ),
    Table(
        "absorbed_evidence",
        ("example_digest", "worker_id"),
        {
            "example_digest": _text,
            "worker_id": _text,
            "accuracy": _optional(_SHARE),
            "confidence": _SHARE,
            "residual": _SHARE,
        },
        has_rowid=False,
    ),
    Table(
        "learned_blends",
        ("group_by", "group_label"),
        {
            "group_by": _text,
            "group_label": _text,
            "members": _json_of(_list_of(_text)),
            "bases": _json_of(_bases),
            "fitted": _optional(_json_of(_fitted)),
        },
        has_rowid=False,
        relation=_blend_relation,
    ),
    Table(
        "running_sessions",
        ("session_id",),
        {"session_id": _text, "host": _text, "process_id": _whole(0)},
        has_rowid=False,
    ),
    Table("learning_version", ("store_id",), {"store_id": _text, "version": _whole(0, _HIGHEST_VERSION)}),
    Table(
        "quarantined_rows",
        ("table_name",),
        {"table_name": _text, "content": _json_of(_object), "reason": _text, "quarantined_at": _time},
    ),
)

TABLES: Final = {table.name: table for table in _ALL}
"""All tables, by name; their columns are those that hold something, without the row numbers."""
