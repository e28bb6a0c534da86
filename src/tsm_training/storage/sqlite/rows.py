"""Between rows of the database and records, in both directions."""

# ruff: noqa: S608 - only our own names are put into statements

from __future__ import annotations

import json
import logging
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import attrs

from tsm_training.data import (
    ROLES,
    Evaluation,
    EvaluationKey,
    ExampleFiles,
    MetricRow,
    PictureFile,
    TrainingExample,
    TrainingSession,
)
from tsm_training.storage.sqlite.connection import FaultyRowError, UnstorableValueError
from tsm_training.storage.sqlite.schema import COLUMNS

_log = logging.getLogger("tsm_training")

T = TypeVar("T")

_EXAMPLE: Final = COLUMNS["training_examples"]
_SESSION: Final = COLUMNS["training_sessions"]
_DETAILS: Final = tuple(field.name for field in attrs.fields(TrainingSession) if field.name not in _SESSION)
_JSON: Final = {
    **dict.fromkeys(("metadata", "worker_results", "validation_scores", "initial_weights", "final_weights"), dict),
    "metrics_history": list,
}
_TIMES: Final = frozenset({"created_at", "start_time", "end_time"})

EXAMPLES: Final = (
    f"SELECT e.{', e.'.join(_EXAMPLE)}, f.files, f.sequence "
    "FROM training_examples e JOIN example_files f USING (example_id)"
)
SESSIONS: Final = (
    f"SELECT s.{', s.'.join(_SESSION)}, d.details, d.sequence "
    "FROM training_sessions s JOIN session_details d USING (session_id)"
)
EVALUATION_COLUMNS: Final = ", ".join(COLUMNS["evaluations"])
METRIC_COLUMNS: Final = ", ".join(COLUMNS["training_metrics"])
AMONG: Final = "IN (SELECT value FROM json_each(?))"
"""The condition whose parameter is made by `json_list`."""


def insertion(table: str, verb: str = "INSERT") -> str:
    """Return the statement that inserts a row, with the columns by name: an application may have added some."""
    columns = COLUMNS[table]
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def update(table: str) -> str:
    """Return the statement that changes a row: it takes all columns, and the first one, by which it is found, last."""
    key, *columns = COLUMNS[table]
    return f"UPDATE {table} SET {' = ?, '.join(columns)} = ? WHERE {key} = ?"


def json_list(texts: Iterable[str]) -> str:
    """Return texts as a parameter for ``json_each``, each once; half of a surrogate pair is found nowhere."""
    return json.dumps(sorted(set(texts)))


# --- from records to rows -------------------------------------------------------------------------------------------


def dump(value: object) -> str:
    """Return a value as strict JSON; UnstorableValueError where JSON cannot hold it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnstorableValueError(str(error)) from error


def _time_text(time: datetime) -> str:
    if time.tzinfo is None:
        raise UnstorableValueError(f"the time {time} has no time zone")
    return time.isoformat()


def guide_row(record: TrainingExample | TrainingSession) -> tuple[object, ...]:
    """Return the guide's columns of a record, which are named after its fields."""
    row = []
    for name in _EXAMPLE if isinstance(record, TrainingExample) else _SESSION:
        value = getattr(record, name)
        if value is not None and name in _TIMES:
            value = _time_text(value)
        elif value is not None and name in _JSON:
            value = dump(value)
        row.append(value)
    return tuple(row)


def files_row(files: ExampleFiles | None) -> tuple[str | None, str | None]:
    """Return the digest of an example's files, and their contents as JSON."""
    return (None, None) if files is None else (files.digest, dump(attrs.asdict(files)))


def details_json(session: TrainingSession) -> str:
    """Return what the guide's columns of a session have no place for, as JSON."""
    return dump({name: getattr(session, name) for name in _DETAILS})


_outcome: Final = operator.attrgetter(*COLUMNS["evaluations"][5:-1])


def evaluation_row(evaluation: Evaluation) -> tuple[object, ...]:
    """Return the columns of an evaluation."""
    return (*evaluation.key, *_outcome(evaluation), _time_text(evaluation.created_at))


# --- from rows to records -------------------------------------------------------------------------------------------


def _reader(table: str, make: Callable[..., T]) -> Callable[[Sequence[Any]], T]:
    """Return what makes records of rows, and raises FaultyRowError for one of which there is none."""

    def read(row: Sequence[Any]) -> T:
        try:
            for value in row:
                if isinstance(value, bytes):
                    raise TypeError(f"text is expected, not {len(value)} bytes")
            return make(*row)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise FaultyRowError(table, repr(row[0]), f"{type(error).__name__}: {error}") from error

    return read


def sound(
    rows: Iterable[Sequence[Any]], make: Callable[[Sequence[Any]], T], reported: set[str], location: str, advice: str
) -> Iterator[T]:
    """Yield the records of sound rows; the others are passed over, and the log is told of each once.

    Args:
        rows: As they were read.
        make: Makes a record of one.
        reported: The faults that the log was told of.
        location: Where the rows are.
        advice: What shows more.
    """
    for row in rows:
        try:
            record = make(row)
        except FaultyRowError as error:
            if (fault := str(error)) not in reported:
                reported.add(fault)
                _log.warning("%s: passed over a row: %s; see %s", location, fault, advice)
        else:
            yield record


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _parsed(text: str, kind: type = dict) -> Any:
    value = json.loads(text, parse_constant=_no_number)
    if not isinstance(value, kind | None):
        raise TypeError(f"a JSON {'array' if kind is list else 'object'} is expected, not {text:.60}")
    return value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    # Applications that followed the guide wrote UTC without saying so.
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _values(columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of a record from columns that are named after them; what is NULL is left out."""
    values: dict[str, Any] = {}
    for name, value in zip(columns, row, strict=False):
        if value is not None and name in _JSON:
            values[name] = _parsed(value, _JSON[name])
        elif value is not None:
            values[name] = _time(value) if name in _TIMES else value
    return {name: value for name, value in values.items() if value is not None}


def _example(*row: Any) -> TrainingExample:
    *_columns, files, _sequence = row
    pictures = None if files is None else _parsed(files)
    described = None if pictures is None else ExampleFiles(*(PictureFile(**pictures[role]) for role in ROLES))
    values = _values(_EXAMPLE, row)
    if described is None and "worker_results" in values:
        values["worker_results"] = {w: _outcome_of_others(result) for w, result in values["worker_results"].items()}
    return TrainingExample(**values, files=described)


def _session(*row: Any) -> TrainingSession:
    *_columns, details, _sequence = row
    # An application by the guide may have left columns empty for which the record has no default.
    values: dict[str, Any] = {"epochs": 0, "learning_rate": 0.0, "initial_weights": {}, "status": "completed"}
    values |= _values(_SESSION, row) | (ours := _parsed(details))
    if not ours:
        values["metrics_history"] = [_epoch_of_others(entry) for entry in values.get("metrics_history", [])]
    return TrainingSession(**values)


# The guide names two columns and two keys only: what it leaves open, each application has filled in its own way.


def _outcome_of_others(result: Any) -> dict[str, Any]:
    """Return what another application noted of a worker, an accuracy perhaps, as a `WorkerOutcome`."""
    found = result if isinstance(result, dict) else {"accuracy": result}
    accuracy = _accuracy(found.get("accuracy"))
    known = {"confidence": 1.0, "is_valid": accuracy is not None, "error": None, "seconds": 0.0}
    return {**known, **found, "accuracy": accuracy}


def _epoch_of_others(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what another application noted of an epoch, and what follows from it of our `EpochMetrics`."""
    noted = entry.get("worker_accuracies")
    workers = {w: _accuracy(value) for w, value in noted.items()} if isinstance(noted, dict) else {}
    known = [accuracy for accuracy in workers.values() if accuracy is not None]
    mean = math.fsum(known) / len(known) if known else _accuracy(entry.get("avg_accuracy")) or 0.0
    unknown: dict[str, Any] = {"weights": {}, "weight_stds": {}, "blend_weights": {}, "max_weight_change": 0.0}
    means = {"avg_accuracy": mean, "equal_weights_accuracy": mean}
    return {**means, **unknown, **entry, "worker_accuracies": workers}


def _accuracy(value: Any) -> float | None:
    return float(value) if type(value) in {int, float} and 0.0 <= value <= 1.0 else None


def _evaluation(*row: Any) -> Evaluation:
    values: list[Any] = [*row[5:-1], _time(row[-1])]
    return Evaluation(EvaluationKey(*row[:5]), *values)


example_of: Final = _reader("training_examples", _example)
"""Returns the example of a row of `EXAMPLES`."""
session_of: Final = _reader("training_sessions", _session)
"""Returns the session of a row of `SESSIONS`."""
evaluation_of: Final = _reader("evaluations", _evaluation)
"""Returns the evaluation of a row of `EVALUATION_COLUMNS`."""
metric_of: Final = _reader("training_metrics", MetricRow)
"""Returns the metrics of a row of `METRIC_COLUMNS`."""
