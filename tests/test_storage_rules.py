"""What each column of the database may hold, what it then stands for, and what is said of anything else."""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, TypeAlias

import pytest

from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.learning import FittedBlend, WorkerBase
from tsm_training.storage.sqlite.rules import (
    TABLES,
    FaultyValueError,
    UnstorableValueError,
    corrupt,
    dump,
    faults,
    loaded,
    storable,
)

LARGEST: Final = sys.float_info.max
SHA: Final = "0123456789abcdef" * 4
NOON: Final = datetime(2025, 1, 2, 12, tzinfo=UTC)


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


PNG: Final = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", bytes([0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]))
    + chunk(b"IDAT", zlib.compress(bytes(4)))
    + chunk(b"IEND", b"")
)


def files_json(**changes: Any) -> str:
    entry = {"sha256": SHA, "num_bytes": 0, "width": 1, "height": 1}
    roles = {role: {**entry} for role in ("source", "target", "ground_truth")}
    roles["source"].update(changes)
    return json.dumps(roles)


def without(text: str, *path: str) -> str:
    document = json.loads(text)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(document)


Kind: TypeAlias = tuple[Sequence[tuple[Any, Any]], Sequence[tuple[Any, str]]]
"""Values that are taken, with what they stand for; and values that are not, with what is said of them."""

NO_NUMBERS: Final[list[Any]] = [math.nan, math.inf, -math.inf, "1", "", True, False, b"1", None, 10**400]


def numbers(expected: str, good: Sequence[float], bad: Sequence[float]) -> Kind:
    shown = {"b'1'": "1 bytes", repr(10**400): f"{repr(10**400)[:60]}…"}
    return (
        [(value, value) for value in good],
        [
            (value, f"{expected} is expected, not {shown.get(repr(value), repr(value))}")
            for value in [*bad, *NO_NUMBERS]
            if not (type(value) is int and value in good)
        ],
    )


def whole(expected: str, good: Sequence[int], bad: Sequence[Any]) -> Kind:
    return [(value, value) for value in good], [
        (value, f"{expected} is expected, not {value!r}") for value in [*bad, 1.0, "1", True, False, math.nan, None]
    ]


ANY_JSON: Final[list[tuple[Any, str]]] = [
    (None, "text is expected, not None"),
    (b"{}", "text is expected, not 2 bytes"),
    ("", "it holds no JSON (Expecting value: line 1 column 1 (char 0))"),
    ("{", "it holds no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    ('{"a": NaN}', "it holds no JSON (NaN is no JSON)"),
    ('{"a": -Infinity}', "it holds no JSON (-Infinity is no JSON)"),
    ('{"a": 1e999}', "it holds no JSON (1e999 is too large a number)"),
    ('{"a": "\\ud800"}', "the text is damaged: it is not UTF-8"),
    ("[" * 100_000, "it holds no JSON (maximum recursion depth exceeded while decoding a JSON array from a unicode"),
]
TEXT: Final[Kind] = (
    [("", ""), ("größer", "größer"), ("a\0b", "a\0b")],
    [
        (None, "text is expected, not None"),
        (1, "text is expected, not 1"),
        (b"abc", "text is expected, not 3 bytes"),
        ("x\ud800", "the text is damaged: it is not UTF-8"),
    ],
)
TIME: Final[Kind] = (
    [
        ("2025-01-02T12:00:00+00:00", NOON),
        ("2025-01-02T12:00:00", NOON),  # as applications wrote it that followed the guide
        ("2025-01-02T14:00:00+02:00", NOON.astimezone(timezone(timedelta(hours=2)))),
    ],
    [("noon", "Invalid isoformat string: 'noon'"), (12, "text is expected, not 12"), (None, "text is expected")],
)
SHARE: Final = numbers("a number from 0 to 1", [0, 0.0, 5e-324, 1, 1.0], [-5e-324, math.nextafter(1, 2), -1, 2])
AMOUNT: Final = numbers("a finite number of at least 0", [0, 0.0, 1, LARGEST], [-5e-324, -1])
FINITE: Final = numbers("a finite number", [0, -1.5, LARGEST, -LARGEST], [])
POSITIVE: Final = numbers("a finite number above 0", [5e-324, 1, LARGEST], [0, 0.0, -0.0, -1.0])
WHOLE: Final = whole("a whole number", [-(2**63), 0, 7], [])
COUNT: Final = whole("a whole number of at least 0", [0, 7], [-1])
VERSION: Final[Kind] = (
    [*COUNT[0], (2**62, 2**62)],
    [*COUNT[1], (2**62 + 1, f"a whole number of at most {2**62} is expected, not {2**62 + 1}")],
)
OBJECT: Final[Kind] = (
    [("{}", {}), ('{"a": [null, 1.5, "\\u00e4"]}', {"a": [None, 1.5, "ä"]})],
    [
        *ANY_JSON,
        ("[]", "it holds no JSON object"),
        ("1", "it holds no JSON object"),
        ("null", "it holds no JSON object"),
    ],
)
WEIGHTS: Final[Kind] = (
    [("{}", {}), ('{"a": 1, "b": -2.5}', {"a": 1, "b": -2.5})],
    [
        *ANY_JSON,
        ("[]", "it holds no JSON object"),
        ('{"a": 1, "b": "1"}', "at 'b': a finite number is expected, not '1'"),
        ('{"a": null}', "at 'a': a finite number is expected, not None"),
        ('{"' + "a" * 70 + '": true}', f"at {repr('a' * 70)[:60]}…: a finite number is expected, not True"),
    ],
)
HISTORY: Final[Kind] = (
    [("[]", []), ('[{}, {"a": 1}]', [{}, {"a": 1}])],
    [*ANY_JSON, ("{}", "it holds no JSON list"), ("[{}, 1]", "it holds no JSON object")],
)
STATUS: Final[Kind] = (
    [(status, status) for status in ("running", "completed", "failed", "interrupted")],
    [
        (value, f"one of running, completed, failed, interrupted is expected, not {value!r}")
        for value in ("", "Running", 1)
    ],
)
_PICTURE: Final = PictureFile(SHA, 0, 1, 1)
FILES: Final[Kind] = (
    [(files_json(), ExampleFiles(_PICTURE, _PICTURE, _PICTURE))],
    [
        *ANY_JSON,
        ("[]", "it holds no JSON object"),
        ("{}", "'ground_truth', 'source', 'target' is missing"),
        (without(files_json(), "target"), "'target' is missing"),
        ('{"other": 1}', "'other' is unknown"),
        (without(files_json(), "source", "width"), "at 'source': 'width' is missing"),
        (files_json(more=1), "at 'source': 'more' is unknown"),
        (files_json(sha256="x"), "at 'source': at 'sha256': 64 hexadecimal digits are expected, not 'x'"),
        (files_json(sha256=SHA.upper()), "at 'source': at 'sha256': 64 hexadecimal digits are expected, not '0123"),
        (files_json(sha256=SHA + "\n"), "at 'source': at 'sha256': 64 hexadecimal digits are expected, not '0123"),
        (files_json(sha256=1), "at 'source': at 'sha256': text is expected, not 1"),
        (files_json(num_bytes=-1), "at 'source': at 'num_bytes': a whole number of at least 0 is expected, not -1"),
        (files_json(width=0), "at 'source': at 'width': a whole number of at least 1 is expected, not 0"),
        (files_json(height=0), "at 'source': at 'height': a whole number of at least 1 is expected, not 0"),
        (files_json(height=1.0), "at 'source': at 'height': a whole number of at least 1 is expected, not 1.0"),
    ],
)
_DETAILS: Final = {
    "seed": 1,
    "validation_split": 0.5,
    "training_ids": ["a"],
    "validation_ids": [],
    "skipped": {"b": "it is gone"},
    "error": None,
    "is_trial": True,
    "validation": {"num_examples": 1},
    "group_by": "style",
}
_NOTHING: Final = {
    **dict.fromkeys(("seed", "validation_split", "validation", "group_by")),
    "error": "gone",
    "is_trial": False,
}
DETAILS: Final[Kind] = (
    [("{}", {}), (json.dumps(_DETAILS), _DETAILS), (json.dumps(_NOTHING), _NOTHING)],
    [
        *ANY_JSON,
        ("[]", "it holds no JSON object"),
        ('{"b": 1, "a": 2}', "'a', 'b' is unknown"),
        ('{"seed": "1"}', "at 'seed': a whole number is expected, not '1'"),
        ('{"validation_split": "1"}', "at 'validation_split': a finite number is expected, not '1'"),
        ('{"training_ids": {}}', "at 'training_ids': it holds no JSON list"),
        ('{"training_ids": [1]}', "at 'training_ids': text is expected, not 1"),
        ('{"validation_ids": [null]}', "at 'validation_ids': text is expected, not None"),
        ('{"skipped": {"a": 1}}', "at 'skipped': at 'a': text is expected, not 1"),
        ('{"error": 1}', "at 'error': text is expected, not 1"),
        ('{"is_trial": 1}', "at 'is_trial': true or false is expected, not 1"),
        ('{"is_trial": null}', "at 'is_trial': true or false is expected, not None"),
        ('{"validation": []}', "at 'validation': it holds no JSON object"),
        ('{"group_by": 1}', "at 'group_by': text is expected, not 1"),
    ],
)
MEMBERS: Final[Kind] = (
    [("[]", []), ('["x", ""]', ["x", ""])],
    [
        *ANY_JSON,
        ("{}", "it holds no JSON list"),
        ("null", "it holds no JSON list"),
        ('["x", 1]', "text is expected, not 1"),
        ('[["x"]]', "text is expected, not ['x']"),
    ],
)


def fitted_json(**changes: Any) -> str:
    return json.dumps(
        {"shares": {"a": 0.25, "b": 0.75}, "solver": "greedy", "absorbed": 1, "digests": ["x"], "safe": {}, **changes}
    )


def base_json(**changes: Any) -> str:
    base = {"prior": 1.5, "evidence": 2.0, "advantage": -1.0, "squared_advantage": 0.5, "accuracy_sum": 1.0}
    return json.dumps({"a": {**base, "valid_count": 1, "update_count": 2, "failed_evidence": 0.25, **changes}})


BASES: Final[Kind] = (
    [("{}", {}), (base_json(), {"a": WorkerBase(1.5, 2.0, -1.0, 0.5, 1.0, 1, 2, 0.25)})],
    [
        *ANY_JSON,
        ("[]", "it holds no JSON object"),
        ('{"a": 1}', "it holds no JSON object"),
        (without(base_json(), "a", "evidence"), "'evidence' is missing"),
        (base_json(more=1), "'more' is unknown"),
        (base_json(prior=0), "at 'prior': a finite number above 0 is expected, not 0"),
        (base_json(evidence=-1), "at 'evidence': a finite number of at least 0 is expected, not -1"),
        (base_json(advantage="1"), "at 'advantage': a finite number is expected, not '1'"),
        (base_json(squared_advantage=-1), "at 'squared_advantage': a finite number of at least 0 is expected, not -1"),
        (base_json(accuracy_sum=None), "at 'accuracy_sum': a finite number of at least 0 is expected, not None"),
        (base_json(valid_count=1.0), "at 'valid_count': a whole number of at least 0 is expected, not 1.0"),
        (base_json(update_count=True), "at 'update_count': a whole number of at least 0 is expected, not True"),
        (base_json(failed_evidence=[]), "at 'failed_evidence': a finite number of at least 0 is expected, not []"),
        (base_json(advantage=-3), "at 'a': advantage: it is -3, beyond the evidence of 2.0"),
        (base_json(failed_evidence=3.0), "at 'a': failed_evidence: it is 3.0, beyond the evidence of 2.0"),
    ],
)
FITTED: Final[Kind] = (
    [
        (fitted_json(), FittedBlend({"a": 0.25, "b": 0.75}, "greedy", 1, ("x",))),
        (
            fitted_json(shares={"b": 1}, solver="", absorbed=0, digests=[]),
            FittedBlend({"b": 1.0}, "", 0),
        ),
        (without(fitted_json(), "safe"), FittedBlend({"a": 0.25, "b": 0.75}, "greedy", 1, ("x",))),  # of version 3
        (
            fitted_json(safe={"b": 0.5, "a": 0.5}),
            FittedBlend({"a": 0.25, "b": 0.75}, "greedy", 1, ("x",), {"a": 0.5, "b": 0.5}),
        ),
        (
            fitted_json(shares={"a": 5e-324, "b": 1 - 0.99e-6}),
            FittedBlend({"a": 5e-324, "b": 1 - 0.99e-6}, "greedy", 1, ("x",)),
        ),
    ],
    [
        *[(value, problem) for value, problem in ANY_JSON if value is not None],
        ("[]", "it holds no JSON object"),
        ("null", "it holds no JSON object"),
        *((without(fitted_json(), key), f"'{key}' is missing") for key in ("shares", "solver", "absorbed", "digests")),
        (fitted_json(more=1), "'more' is unknown"),
        (fitted_json(shares=[]), "at 'shares': it holds no JSON object"),
        (
            fitted_json(shares={"a": 0, "b": 1}),
            "at 'shares': at 'a': a number above 0 and at most 1 is expected, not 0",
        ),
        (fitted_json(shares={"a": 1.5}), "at 'shares': at 'a': a number above 0 and at most 1 is expected, not 1.5"),
        (fitted_json(shares={"a": True}), "at 'shares': at 'a': a number above 0 and at most 1 is expected, not True"),
        (fitted_json(shares={}), "the shares do not add up to 1"),
        (fitted_json(shares={"a": 1 - 1.01e-6}), "the shares do not add up to 1"),
        (fitted_json(shares={"a": 1.0, "b": 0.5}), "the shares do not add up to 1"),
        (fitted_json(solver=None), "at 'solver': text is expected, not None"),
        (fitted_json(absorbed=1.01), "at 'absorbed': a number from 0 to 1 is expected, not 1.01"),
        (fitted_json(absorbed=None), "at 'absorbed': a number from 0 to 1 is expected, not None"),
        (fitted_json(digests={}), "at 'digests': it holds no JSON list"),
        (fitted_json(digests=[1]), "at 'digests': text is expected, not 1"),
        (fitted_json(safe=[]), "at 'safe': it holds no JSON object"),
        (fitted_json(safe={"a": 0}), "at 'safe': at 'a': a number above 0 and at most 1 is expected, not 0"),
        (fitted_json(safe={"a": 0.5}), "the safe shares do not add up to 1"),
    ],
)
BYTES: Final[Kind] = (
    [(b"", b""), (b"\0x", b"\0x")],
    [(None, "bytes are expected, not None"), ("x", "bytes are expected, not 'x'"), (1, "bytes are expected, not 1")],
)
PICTURE: Final[Kind] = (
    [(PNG, PNG), (PNG + b"more", PNG + b"more")],
    [
        (PNG.decode("latin-1"), "a PNG picture is expected, not '"),
        (None, "a PNG picture is expected, not None"),
        (b"", "a PNG picture is expected, not 0 bytes"),
        (b"x" + PNG, f"a PNG picture is expected, not {len(PNG) + 1} bytes"),
        (PNG[:8], "the PNG picture is cut off"),
        (PNG[:-12], "the PNG picture is cut off"),
        (PNG[:20], "the PNG picture is damaged"),
        (PNG[:33], "the PNG picture is cut off"),
        (PNG[:-1] + bytes([PNG[-1] ^ 1]), "the PNG picture is damaged"),
        (PNG[:19] + bytes([PNG[19] ^ 1]) + PNG[20:], "the PNG picture is damaged"),
        (PNG[:-8] + b"IENX" + PNG[-4:], "the PNG picture is damaged"),
    ],
)


class Unless:
    """A kind of values that may also be missing, and then stand for something of their own."""

    def __init__(self, kind: Kind, default: Any = None) -> None:
        self.kind: Kind = ([*kind[0], (None, default)], [(value, text) for value, text in kind[1] if value is not None])


COLUMNS: Final[Mapping[str, Mapping[str, Kind | Unless]]] = {
    "training_examples": {
        **dict.fromkeys(("example_id", "source_path", "target_path", "ground_truth_path"), TEXT),
        "created_at": TIME,
        "metadata": Unless(OBJECT, {}),
        "worker_results": Unless(OBJECT),
        "validation_scores": Unless(OBJECT),
    },
    "training_sessions": {
        "session_id": TEXT,
        "start_time": TIME,
        "end_time": Unless(TIME),
        "num_examples": Unless(COUNT, 0),
        "epochs": Unless(COUNT, 0),
        "learning_rate": Unless(FINITE, 0.0),
        "initial_weights": Unless(WEIGHTS, {}),
        "final_weights": Unless(WEIGHTS, {}),
        "metrics_history": Unless(HISTORY, ()),
        "status": Unless(STATUS, "completed"),
    },
    "training_metrics": {
        "session_id": TEXT,
        "epoch": Unless(WHOLE),
        "example_id": Unless(TEXT),
        "worker_id": Unless(TEXT),
        "accuracy": Unless(SHARE),
        "confidence": Unless(SHARE),
        "loss": Unless(FINITE),
        "timestamp": Unless(TEXT),
    },
    "example_files": {"example_id": TEXT, "files": Unless(FILES)},
    "session_details": {"session_id": TEXT, "details": DETAILS},
    "evaluations": {
        **dict.fromkeys(("example_digest", "worker_id", "worker_fingerprint", "metric_fingerprint"), TEXT),
        "accuracy": Unless(SHARE),
        "confidence": SHARE,
        **dict.fromkeys(("failure_kind", "failure_type", "failure_message"), Unless(TEXT)),
        "seconds": AMOUNT,
        "created_at": TIME,
    },
    "previews": {"example_digest": TEXT, "name": TEXT, "png": PICTURE, "rank": Unless(FINITE)},
    "observations": {"example_digest": TEXT, "name": TEXT, "content": BYTES},
    "learned_fits": {"worker_id": TEXT, "document": BYTES},
    "learned_bases": {
        "worker_id": TEXT,
        "prior": POSITIVE,
        "evidence": AMOUNT,
        "advantage": FINITE,
        "squared_advantage": AMOUNT,
        "accuracy_sum": AMOUNT,
        "valid_count": COUNT,
        "update_count": COUNT,
        "failed_evidence": AMOUNT,
    },
    "absorbed_evidence": {
        "example_digest": TEXT,
        "worker_id": TEXT,
        "accuracy": Unless(SHARE),
        "confidence": SHARE,
        "residual": SHARE,
    },
    "learned_blends": {
        "group_by": TEXT,
        "group_label": TEXT,
        "members": MEMBERS,
        "bases": BASES,
        "fitted": Unless(FITTED),
    },
    "running_sessions": {"session_id": TEXT, "host": TEXT, "process_id": COUNT},
    "learning_version": {"store_id": TEXT, "version": VERSION},
    "quarantined_rows": {"table_name": TEXT, "content": OBJECT, "reason": TEXT, "quarantined_at": TIME},
}
"""What the format says of each column."""


def kind_of(column: Kind | Unless) -> Kind:
    return column.kind if isinstance(column, Unless) else column


def test_every_column_takes_what_the_format_says_and_names_what_it_does_not() -> None:
    # One test for all: the rules are made when the module is imported, and a run that changes the library to see which
    # test notices (tests/mutation.py) takes the first test for the one that needed what importing did.
    assert {name: list(table.columns) for name, table in TABLES.items()} == {
        name: list(columns) for name, columns in COLUMNS.items()
    }
    for name, columns in COLUMNS.items():
        for column, kind in columns.items():
            rule = TABLES[name].columns[column]
            taken, refused = kind_of(kind)
            for value, meaning in taken:
                found = rule(value)
                assert found == meaning, (name, column, value)
                assert type(found) is type(meaning), (name, column, value)
            for value, problem in refused:
                with pytest.raises(ValueError, match=r".") as caught:
                    rule(value)
                assert str(caught.value).startswith(problem), (name, column, value)
                assert len(str(caught.value)) - len(problem) < 70, (name, column, value)
    assert [name for name, table in TABLES.items() if not table.has_rowid] == [
        "observations",
        "learned_fits",
        "absorbed_evidence",
        "learned_blends",
        "running_sessions",
    ]


# --- rows -----------------------------------------------------------------------------------------------------------


def row(table: str, **changes: Any) -> list[Any]:
    """Return the first good value of every column, unless `changes` say otherwise."""
    good = {column: kind_of(kind)[0][0][0] for column, kind in COLUMNS[table].items()}
    assert good.keys() >= changes.keys()
    return list({**good, **changes}.values())


@pytest.mark.parametrize("table", sorted(set(COLUMNS) - {"evaluations"}))
def test_a_row_of_good_values_is_taken_as_it_is(table: str) -> None:
    values = row(table)
    assert list(faults(TABLES[table], values)) == []
    assert storable(table, values) is values
    assert loaded(table, values) == {column: kind_of(kind)[0][0][1] for column, kind in COLUMNS[table].items()}


def test_a_faulty_value_is_named_by_table_row_column_and_problem() -> None:
    values = row("absorbed_evidence", example_digest="x", worker_id="w", confidence=2, residual="")
    with pytest.raises(FaultyValueError) as caught:
        loaded("absorbed_evidence", values)
    error = caught.value
    assert (error.table, error.row, error.column) == ("absorbed_evidence", "'x', 'w'", "confidence")
    assert error.problem == "a number from 0 to 1 is expected, not 2"
    assert str(error) == "absorbed_evidence, 'x', 'w', confidence: a number from 0 to 1 is expected, not 2"
    assert list(faults(TABLES["absorbed_evidence"], values)) == [
        ("confidence", "a number from 0 to 1 is expected, not 2"),
        ("residual", "a number from 0 to 1 is expected, not ''"),
    ]
    advice = str(corrupt("here.db", error))
    assert "here.db" in advice
    assert f"{error}; quarantine() puts such rows aside, check() lists them all" in advice
    with pytest.raises(UnstorableValueError) as unstorable:
        storable("absorbed_evidence", values)
    assert str(unstorable.value) == "absorbed_evidence, confidence: a number from 0 to 1 is expected, not 2"


def test_a_row_is_named_though_its_own_name_is_at_fault() -> None:
    with pytest.raises(FaultyValueError) as caught:
        loaded("learned_bases", row("learned_bases", worker_id=b"abc"))
    assert caught.value.row == "3 bytes"
    with pytest.raises(FaultyValueError) as caught:
        loaded("learned_bases", row("learned_bases", worker_id=10**5000))
    assert caught.value.row == "a int that cannot be shown"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"accuracy": 0.5}, None),
        ({"accuracy": None, "failure_kind": "error"}, None),
        ({"accuracy": None}, ("accuracy", "it is missing, and the row tells of no failure")),
        (
            {"accuracy": 0.0, "failure_kind": "error"},
            ("failure_kind", "the row tells of a failure, but has an accuracy"),
        ),
    ],
)
def test_an_evaluation_has_an_accuracy_or_a_failure(changes: dict[str, Any], wrong: tuple[str, str] | None) -> None:
    values = row("evaluations", **{"failure_kind": None, **changes})
    assert list(faults(TABLES["evaluations"], values)) == ([wrong] if wrong else [])
    if wrong:
        with pytest.raises(FaultyValueError) as caught:
            loaded("evaluations", values)
        assert (caught.value.table, caught.value.row) == ("evaluations", "'', ''")
        assert (caught.value.column, caught.value.problem) == wrong
    else:
        assert loaded("evaluations", values)["accuracy"] == changes["accuracy"]


@pytest.mark.parametrize("column", ["advantage", "squared_advantage", "failed_evidence"])
@pytest.mark.parametrize("evidence", [0.0, 1.0, 1000.0])
def test_no_sum_of_a_worker_goes_beyond_its_evidence_but_for_rounding(column: str, evidence: float) -> None:
    def found(value: float) -> list[tuple[str, str]]:
        return list(faults(TABLES["learned_bases"], row("learned_bases", **{"evidence": evidence, column: value})))

    room = 1e-6 * evidence + 1e-6
    assert found(evidence + 0.99 * room) == []
    assert found(evidence + 1.01 * room)[0][0] == column
    assert found(evidence + 1.0) == [(column, f"it is {evidence + 1.0!r}, beyond the evidence of {evidence!r}")]
    if column == "advantage":
        assert found(-evidence) == []
        assert found(-evidence - 1.0)[0][0] == column


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, None),
        ({"group_by": "style", "group_label": "warm", "members": '["x"]', "bases": base_json(), "fitted": None}, None),
        ({"group_by": "style", "fitted": None}, None),
        ({"group_label": "warm"}, ("group_label", "something is there, and the row is that of no group")),
        ({"members": '["x"]'}, ("members", "something is there, and the row is that of no group")),
        ({"bases": base_json()}, ("bases", "something is there, and the row is that of no group")),
        ({"fitted": None}, ("fitted", "it is missing, and the row is that of no group")),
    ],
)
def test_a_blend_is_that_of_a_group_or_that_of_all_requests(
    changes: dict[str, Any], wrong: tuple[str, str] | None
) -> None:
    values = row("learned_blends", **changes)
    assert list(faults(TABLES["learned_blends"], values)) == ([wrong] if wrong else [])


def test_what_json_cannot_hold_is_refused_with_the_reason() -> None:
    assert dump({"ä": [1.5, None, True]}) == '{"ä": [1.5, null, true]}'
    endless: list[Any] = []
    endless.append(endless)
    for value, reason in ((math.nan, "not JSON compliant"), (b"x", "not JSON serializable"), (endless, "Circular")):
        with pytest.raises(UnstorableValueError, match=reason):
            dump(value)
