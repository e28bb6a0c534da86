from __future__ import annotations

import json
import os
import random
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import manager_with, picture
from tsm_training.ensemble import renormalised
from tsm_training.errors import WeightsFileError
from tsm_training.learning import ExampleEvidence, FittedBlend, Group, LearnedState, Outcome, WorkerBase
from tsm_training.learning import files as weights_files
from tsm_training.weights import (
    MAX_WEIGHTS_FILE_BYTES,
    WEIGHTS_FORMAT_VERSION,
    BayesianWeightLearner,
    LearnerCell,
    WeightsDocument,
    read_weights_file,
    weights_document,
    with_fits,
    write_weights_file,
)

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
UNIT = st.floats(0.0, 1.0)
IDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


def document_of(learner: BayesianWeightLearner, now: datetime = NOON) -> WeightsDocument:
    return weights_document(learner.cell.state, learner.get_all_weights(), learner.alpha, learner.prior_strength, now)


def learned() -> BayesianWeightLearner:
    learner = BayesianWeightLearner(0.3)
    learner.observe(
        [
            ExampleEvidence("x", {"first": Outcome(0.9), "zweiter, größer": Outcome(0.7, 0.1)}),
            ExampleEvidence("y", {"first": Outcome(0.4, 0.3), "zweiter, größer": Outcome(None)}),
        ]
    )
    return learner


def grouped() -> BayesianWeightLearner:
    """Return a learner of two examples in two groups, with fitted blends, and a group of which nothing is known."""
    groups = {
        "warm, größer": Group(["x"], fitted=FittedBlend({"zweiter, größer": 1.0}, "best_single", 0.3, ("x",))),
        "": Group(["y"], {"first": WorkerBase(1.0, 2.0, 0.5, 0.25, 1.5, 2, 2)}),
        "unknown": Group(),
    }
    fitted = FittedBlend(
        {"first": 0.1, "zweiter, größer": 0.9}, "least_squares", 1 / 3, ("x", "y"), {"zweiter, größer": 1.0}
    )
    state = learned().cell.state
    bases = {**state.bases, "first": WorkerBase(1.0, 3.0, 0.5, 0.25, 1.5, 3, 4, 0.125)}
    state = with_fits(attrs.evolve(state, bases=bases), fitted, "style", groups)
    return BayesianWeightLearner(0.3, cell=LearnerCell(state))


def good_document(learner: BayesianWeightLearner | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(document_of(learner or learned())))
    return document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.json"


def refused(path: Path, content: bytes | str, *parts: str) -> WeightsFileError:
    """Assert that a file is refused by an error that names it and holds these parts."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert len(message) < 600 + len(str(path))
    for part in parts:
        assert part in message
    return caught.value


# --- the round trip -------------------------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.dictionaries(IDS, st.builds(Outcome, st.none() | UNIT, UNIT), min_size=1, max_size=4), min_size=1, max_size=6
    ),
    alpha=st.floats(1e-6, 1.0),
    prior=st.floats(1e-6, 1e6) | st.integers(1, 10),
    strength=st.floats(1e-3, 1e9),
    passes=st.integers(1, 3),
)
def test_exporting_importing_and_exporting_again_changes_no_byte(  # noqa: PLR0917 - hypothesis names them
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Outcome]],
    alpha: float,
    prior: float,
    strength: float,
    passes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round trip.json"
    learner = BayesianWeightLearner(alpha, prior, strength)
    for _ in range(passes):
        learner.observe(ExampleEvidence(str(number), row) for number, row in enumerate(rows))
    write_weights_file(path, document_of(learner))
    first = path.read_bytes()
    file = read_weights_file(path)
    assert (file.alpha, file.prior_strength) == (learner.alpha, learner.prior_strength)
    imported = BayesianWeightLearner(alpha, prior, strength, cell=LearnerCell(LearnedState(file.bases())))
    assert imported.get_all_weights() == learner.get_all_weights()
    assert imported.get_all_statistics() == learner.get_all_statistics()
    write_weights_file(path, document_of(imported))
    assert path.read_bytes() == first


@settings(max_examples=40)
@given(
    rows=st.lists(st.dictionaries(IDS, st.builds(Outcome, st.none() | UNIT, UNIT), min_size=1, max_size=4), min_size=1),
    labels=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=3),
    amounts=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    parts=st.lists(UNIT, min_size=2, max_size=2),
    alpha=st.floats(1e-6, 1.0),
)
def test_blends_and_groups_are_exported_and_imported_to_the_last_bit(  # noqa: PLR0917 - hypothesis names them
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Outcome]],
    labels: list[str],
    amounts: list[float],
    parts: list[float],
    alpha: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round trip.json"
    learner = BayesianWeightLearner(alpha)
    learner.observe(ExampleEvidence(str(number), row) for number, row in enumerate(rows))
    fits = [FittedBlend(renormalised(dict(zip(rows[0], amounts, strict=False)), rows[0]), "greedy", p) for p in parts]
    groups = {
        label: Group(
            [str(n) for n in range(len(rows)) if n % len(labels) == number], fitted=fits[1] if number else None
        )
        for number, label in enumerate(labels)
    }
    learner.cell.update(lambda state: with_fits(state, fits[0], "style", groups))
    write_weights_file(path, document_of(learner))
    first = path.read_bytes()
    state = read_weights_file(path).state()
    assert state.sums == learner.cell.state.sums
    assert state.sums_by_group == learner.cell.state.sums_by_group
    imported = learner.with_cell(LearnerCell(state))
    for ours, theirs in ((learner, imported), *((learner.in_group(x), imported.in_group(x)) for x in labels)):
        assert ours.get_all_statistics() == theirs.get_all_statistics()
        assert ours.get_blend_weights() == theirs.get_blend_weights()
    write_weights_file(path, document_of(imported))
    assert path.read_bytes() == first


def test_the_document_is_sorted_strict_json_with_the_guides_keys(path: Path) -> None:
    local = datetime(2025, 1, 2, 15, tzinfo=timezone(timedelta(hours=3)))
    write_weights_file(path, document_of(learned(), local))
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["exported_at"] == "2025-01-02T12:00:00+00:00"
    assert document["alpha"] == 0.3
    assert document["format_version"] == WEIGHTS_FORMAT_VERSION == 2
    assert not {"blend", "group_by", "groups"} & document.keys()
    assert document["weights"] == learned().get_all_weights()
    assert list(document["weights"]) == list(document["posterior"]) == ["first", "zweiter, größer"]
    assert "größer" in path.read_text(encoding="utf-8")


def test_a_learner_without_a_prior_strength_exports_its_weights_only() -> None:
    document = weights_document(LearnedState(), {"b": 1.5, "a": 0.5}, 0.1, None, NOON)
    assert list(document["weights"].items()) == [("a", 0.5), ("b", 1.5)]
    assert document.keys() == {"weights", "alpha", "exported_at", "format_version"}


def test_a_file_with_weights_only_gives_priors(path: Path) -> None:
    path.write_text('{"weights": {"a": 1, "b": 1.25}}')
    file = read_weights_file(path)
    assert (file.alpha, file.prior_strength, file.posterior) == (None, None, None)
    assert file.bases() == {"a": WorkerBase(1.0), "b": WorkerBase(1.25)}
    assert (file.path, dict(file.weights)) == (str(path), {"a": 1.0, "b": 1.25})


def test_the_guides_own_file_and_keys_from_elsewhere_are_accepted(path: Path) -> None:
    path.write_text('{"weights": {"a": 1.5}, "alpha": 0.15, "exported_at": "2024-01-01T00:00:00", "note": [1, null]}')
    file = read_weights_file(path)
    assert (file.alpha, file.weights) == (0.15, {"a": 1.5})


def test_a_byte_order_mark_is_tolerated(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good_document()).encode())
    assert read_weights_file(path).bases().keys() == good_document()["weights"].keys()


# --- files of earlier versions --------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "weights_files"


def test_a_file_of_format_1_is_read_to_the_last_bit_and_exported_as_one_of_the_present_format(path: Path) -> None:
    """The file is never made anew: every later version has to read what this one wrote."""
    golden = GOLDEN / "format-1.json"
    file = read_weights_file(golden)
    assert (file.alpha, file.prior_strength) == (0.3, 3.0)
    assert file.bases() == learned().cell.state.sums
    assert dict(file.weights) == learned().get_all_weights()
    imported = BayesianWeightLearner(0.3, cell=LearnerCell(LearnedState(file.bases())))
    write_weights_file(path, document_of(imported))
    old = golden.read_text(encoding="utf-8")
    expected = old.replace('"format_version": 1', f'"format_version": {WEIGHTS_FORMAT_VERSION}')
    assert path.read_text(encoding="utf-8") == expected
    assert (file.fitted, file.group_by, file.groups) == (None, None, {})


def test_a_file_of_format_2_is_read_to_the_last_bit(path: Path) -> None:
    """The file is never made anew: every later version has to read what this one wrote."""
    golden = GOLDEN / "format-2.json"
    file, state = read_weights_file(golden), grouped().cell.state
    assert (file.alpha, file.prior_strength) == (0.3, 3.0)
    assert file.bases() == state.sums
    assert dict(file.weights) == grouped().get_all_weights()
    safe = {"zweiter, größer": 1.0}
    assert file.fitted == FittedBlend({"first": 0.1, "zweiter, größer": 0.9}, "least_squares", 1 / 3, safe=safe)
    assert (file.group_by, list(file.groups)) == ("style", ["", "unknown", "warm, größer"])
    assert {label: group.bases for label, group in file.groups.items()} == state.sums_by_group
    assert file.groups[""].fitted is None
    assert file.groups["warm, größer"].fitted == FittedBlend({"zweiter, größer": 1.0}, "best_single", 0.3)
    write_weights_file(path, document_of(BayesianWeightLearner(0.3, cell=LearnerCell(file.state()))))
    if WEIGHTS_FORMAT_VERSION == 2:
        assert path.read_bytes() == golden.read_bytes()


def test_a_file_of_the_guides_application_is_read_as_priors() -> None:
    file = read_weights_file(GOLDEN / "guide.json")
    assert (file.alpha, file.prior_strength, file.posterior) == (0.15, None, None)
    assert file.bases() == {"standard_transfer": WorkerBase(1.25), "histogram_matching": WorkerBase(0.875)}


def test_there_is_a_file_of_every_format_version() -> None:
    versions = {json.loads(file.read_text(encoding="utf-8")).get("format_version") for file in GOLDEN.iterdir()}
    assert versions == {None, *range(1, WEIGHTS_FORMAT_VERSION + 1)}


# --- what an import changes -----------------------------------------------------------------------------------------

REFUSED_IMPORTS = {
    "a bad weight": '{"weights": {"far": 1, "mid": 1, "near": NaN}}',
    "a key twice": '{"weights": {"far": 1, "far": 2}}',
    "no JSON": '{"weights": {"far": 1}',
    "another format": '{"weights": {"far": 1}, "format_version": 9}',
    "nested": "[" * 100_000,
    "UTF-16": '{"weights": {"far": 1}}'.encode("utf-16"),
    "Latin-1": '{"weights": {"far": 1, "größer": 1}}'.encode("latin-1"),
    "too many digits": '{"weights": {"far": ' + "9" * 5000 + "}}",
    "more behind it": '{"weights": {"far": 1}}{}',
    "too many workers": json.dumps({"weights": {f"w{number}": 1 for number in range(1001)}}),
    "too large": " " * 1_000_001,
    "nobody known": '{"weights": {"nobody": 1}}',
    "a blend of strangers": json.dumps(
        {"weights": {"far": 1}, "blend": {"shares": {"x": 1}, "solver": "", "absorbed": 1, "safe": {}}}
    ),
    "groups by nothing": '{"weights": {"far": 1}, "group_by": "", "groups": {"a": {"posterior": {}, "blend": null}}}',
    "another prior strength": (GOLDEN / "format-1.json").read_text(encoding="utf-8").replace("3.0", "5.0"),
}


@pytest.mark.parametrize("name", REFUSED_IMPORTS)
def test_a_refused_import_changes_nothing(tmp_path: Path, path: Path, name: str) -> None:
    with manager_with(tmp_path, 3) as manager:
        manager.train(validation_split=0, verbose=False)
        learner, store = manager.weight_learner, manager.data_manager
        before = (learner.cell.state, learner.get_all_statistics(), store.load_learning())
        assert before[2].state == before[0]
        content = REFUSED_IMPORTS[name]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(WeightsFileError):
            manager.import_weights(path)
        assert (learner.cell.state, learner.get_all_statistics(), store.load_learning()) == before
        assert learner.cell.state is before[0]


def test_an_import_takes_everything_and_tells_who_is_not_here(tmp_path: Path, path: Path) -> None:
    path.write_text('{"weights": {"far": 0.5, "near": 1.5, "elsewhere": 2}}')
    with manager_with(tmp_path, 3) as manager:
        manager.train(validation_split=0, verbose=False)
        report = manager.import_weights(path)
        assert (report.imported, report.dormant, report.missing) == (("far", "near"), ("elsewhere",), ("mid",))
        expected = {"far": 0.5, "near": 1.5, "elsewhere": 2.0, "mid": 1.0}
        assert dict(manager.weight_learner.get_all_weights()) == expected


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_an_import_brings_blend_and_groups_and_puts_them_into_the_store(tmp_path: Path, path: Path, kind: str) -> None:
    fitted = {"shares": {"far": 0.25, "elsewhere": 0.75}, "solver": "greedy", "absorbed": 0.5, "safe": {}}
    own = {"shares": {"near": 1.0}, "solver": "greedy", "absorbed": 0.5, "safe": {}}
    weights = {"far": 1.0, "near": 1.0, "elsewhere": 1.0}
    groups = {"warm": {"posterior": {}, "blend": own}}
    path.write_text(json.dumps({"weights": weights, "blend": fitted, "group_by": "style", "groups": groups}))
    settings = {} if kind == "memory" else {"db_path": tmp_path / "training.db"}
    with manager_with(tmp_path, 4, **settings) as manager:
        manager.train(validation_split=0, verbose=False)
        report = manager.import_weights(path)
        assert (report.dormant, report.missing) == (("elsewhere",), ("mid",))
        state = manager.weight_learner.cell.state
        assert state == manager.data_manager.load_learning().state
        assert (state.fitted, state.absorbed) == (read_weights_file(path).fitted, {})
        assert state.groups["warm"].fitted == FittedBlend({"near": 1.0}, "greedy", 0.5)
        # Half of each share is the posterior's, and half the fit's, whose workers that are not here do not count.
        assert manager.weight_learner.get_blend_weights(worker_ids=["far", "mid"]) == {"far": 0.75, "mid": 0.25}
        assert manager.predict(picture(1), picture(2), group="warm").blend_weights == pytest.approx(
            {"far": 2 / 3, "mid": 1 / 6, "near": 1 / 6}
        )
        path.write_text('{"weights": {"far": 1}}')
        manager.import_weights(path)
        state = manager.data_manager.load_learning().state
        assert (state.fitted, state.group_by, state.groups) == (None, None, {})


# --- what stands in it ------------------------------------------------------------------------------------------------

BAD_WEIGHTS = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "Infinity",
    "-1": "-1",
    "-0.5": "-0.5",
    "0": "0",
    "0.0": "0.0",
    "-0.0": "-0.0",
    "true": "true",
    "false": "false",
    "null": "null",
    '"9"': "'9'",
    '"' + "long" * 100 + '"': "(400 characters)",
    "[1.0]": "a list of 1",
    '{"a": 1}': "an object of 1",
    "1" + "0" * 30: "1" + "0" * 30,
    "1" + "0" * 4000: "(4001 digits)",
    "1" + "0" * 5000: "holds a number that cannot be read",
    "1000000001": "1000000001",
}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("value", BAD_WEIGHTS)
def test_a_weight_that_is_no_finite_number_above_zero_is_refused_wherever_it_stands(
    path: Path, value: str, position: int
) -> None:
    entries = ['"a": 1.0', '"b": 0.5']
    entries.insert(position, f'"wrong": {value}')
    error = refused(path, '{"weights": {' + ", ".join(entries) + "}}", BAD_WEIGHTS[value])
    if "cannot be read" not in str(error) and "JSON knows" not in str(error):
        assert error.key == "weights['wrong']"
        assert "must be a" in error.reason


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"alpha": 0.1}', ["the key 'weights' is missing"]),
        ('{"weights": [1.0]}', ["at weights", "one entry per worker", "a list of 1"]),
        ('{"weights": null}', ["at weights", "null"]),
        ('{"weights": {}}', ["at weights", "names no worker"]),
        ("[]", ["must hold a JSON object", "a list of 0"]),
        ("1.0", ["must hold a JSON object", "1.0"]),
        ('"weights"', ["must hold a JSON object", "'weights'"]),
        ("null", ["must hold a JSON object", "null"]),
        ('{"weights": {"a": 1, "a": 2}}', ["'a'", "stands there twice"]),
        ('{"weights": {"a": 1}, "weights": {"a": 1}}', ["'weights'", "stands there twice"]),
        ('{"weights": {"' + "k" * 999 + '": 1, "' + "k" * 999 + '": 2}}', ["(999 characters)", "stands there twice"]),
        ('{"weights": {"": 1}}', ["weights['']", "1 to 128 printable characters"]),
        ('{"weights": {"' + "i" * 129 + '": 1}}', ["(129 characters)", "1 to 128 printable characters"]),
        ('{"weights": {"\\ud800": 1}}', ["\\ud800", "printable"]),
        ('{"weights": {"a\\u0000b": 1}}', ["\\x00", "printable"]),
        ('{"weights": {"a\\nb": 1}}', ["\\n", "printable"]),
        ('{"weights": {"a\nb": 1}}', ["is not JSON", "control character"]),
        ('{"weights": {"a": 1}, "alpha": 0}', ["at alpha", "above 0 and at most 1", "got 0"]),
        ('{"weights": {"a": 1}, "alpha": 1.5}', ["at alpha", "1.5"]),
        ('{"weights": {"a": 1}, "alpha": null}', ["at alpha", "null"]),
        ('{"weights": {"a": 1}, "prior_strength": -3}', ["at prior_strength", "-3"]),
        ('{"weights": {"a": 1}, "format_version": 3}', ["at format_version", "version 3", "reads 1 to 2"]),
        ('{"weights": {"a": 1}, "format_version": 0}', ["at format_version", "version 0", "reads 1 to 2"]),
        ('{"weights": {"a": 1}, "format_version": true}', ["at format_version", "version true"]),
        ('{"weights": {"a": 1}, "format_version": 1.0}', ["at format_version", "version 1.0"]),
        ('{"weights": {"a": 1}, "format_version": "1"}', ["at format_version", "version '1'"]),
        ('{"weights": {"a": 1}, "format_version": [' + "1," * 999 + "1]}", ["at format_version", "a list of 1000"]),
        ("", ["is not JSON"]),
        ("   ", ["is not JSON"]),
        ('{"weights": {"a": 1}} x', ["is not JSON", "Extra data"]),
        ("{'weights': {'a': 1}}", ["is not JSON"]),
        ('{"weights": {"a": 1},}', ["is not JSON"]),
    ],
)
def test_a_file_that_is_not_laid_out_as_agreed_is_refused_with_the_place_and_the_reason(
    path: Path, text: str, parts: list[str]
) -> None:
    refused(path, text, *parts)


def sums_document(**changes: Any) -> dict[str, Any]:
    return {**good_document()["posterior"]["first"], **changes}


def _changed(change: Callable[[dict[str, Any]], object]) -> str:
    document = good_document()
    change(document)
    return json.dumps(document)


def _entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["posterior"]["first"].update(changes)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d["weights"].update(first=2.0), ["weights['first']", "is 2.0, but its posterior says", "as priors"]),
        (lambda d: d.pop("prior_strength"), ["at prior_strength", "is missing"]),
        (lambda d: d["weights"].update(new=1.0), ["at posterior", "same workers"]),
        (lambda d: d["posterior"].pop("first"), ["at posterior", "same workers"]),
        (lambda d: d.update(posterior=[]), ["at posterior", "one entry per worker", "a list of 0"]),
        (lambda d: d.update(posterior=None), ["at posterior", "null"]),
        (lambda d: d["posterior"].update(first=1.0), ["posterior['first']", "exactly the keys prior, evidence", "1.0"]),
        (lambda d: d["posterior"]["first"].pop("prior"), ["posterior['first']", "exactly the keys", "an object of 7"]),
        (_entry(extra=1), ["posterior['first']", "exactly the keys", "an object of 9"]),
        (_entry(prior=0), ["posterior['first']['prior']", "above 0"]),
        (_entry(evidence="1"), ["posterior['first']['evidence']", "a number", "'1'"]),
        (_entry(advantage=1e300), ["posterior['first']['advantage']", "at most 1e+09"]),
        (_entry(update_count=-1), ["posterior['first']['update_count']", "whole number of at least 0", "-1"]),
        (_entry(valid_count=1.0), ["posterior['first']['valid_count']", "whole number", "1.0"]),
        (_entry(valid_count=True), ["posterior['first']['valid_count']", "whole number", "true"]),
        (_entry(valid_count=10**10), ["posterior['first']['valid_count']", "10000000000"]),
        (_entry(evidence=-0.1), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(advantage=0.9), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(advantage=-0.9), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(squared_advantage=-0.1), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(squared_advantage=0.9), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(squared_advantage=0.0), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(evidence=2.5), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(accuracy_sum=-0.1), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(accuracy_sum=2.5), ["posterior['first']", "sums that no evidence can have"]),
        (_entry(valid_count=3), ["posterior['first']", "sums that no evidence can have"]),
    ],
)
def test_a_posterior_that_cannot_be_or_contradicts_the_weights_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object], parts: list[str]
) -> None:
    refused(path, _changed(change), *parts)


def _blend(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["blend"].update(changes)


def _group(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["groups"]["unknown"].update(changes)


_GROUPED: Any = {"posterior": {}, "blend": None}


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (
            lambda d: d.update(blend=None),
            "blend",
            "must be an object with exactly the keys shares, solver, absorbed, safe",
        ),
        (lambda d: d.update(blend=[]), "blend", "exactly the keys shares, solver, absorbed, safe, got a list of 0"),
        (
            lambda d: d["blend"].pop("solver"),
            "blend",
            "exactly the keys shares, solver, absorbed, safe, got an object of 3",
        ),
        (_blend(more=1), "blend", "exactly the keys shares, solver, absorbed, safe, got an object of 5"),
        (_blend(shares=None), "blend.shares", "must be an object with one entry per worker, got null"),
        (_blend(shares={}), "blend.shares", "must hold shares whose sum is 1"),
        (_blend(shares={"first": 1.0, "zweiter, größer": 1e-8}), "blend.shares", "must hold shares whose sum is 1"),
        (_blend(shares={"first": 0.5}), "blend.shares", "must hold shares whose sum is 1"),
        (_blend(shares={"first": 1.0, "zweiter, größer": 0}), "blend.shares['zweiter, größer']", "above 0"),
        (_blend(shares={"first": 1.5, "zweiter, größer": -0.5}), "blend.shares['first']", "at most 1, got 1.5"),
        (_blend(shares={"first": "1"}), "blend.shares['first']", "must be a number, got '1'"),
        (_blend(shares={"third": 1.0}), "blend.shares['third']", "a worker that 'weights' does not name"),
        (_blend(shares={"": 1.0}), "blend.shares['']", "1 to 128 printable characters"),
        (_blend(shares={f"w{n}": 0.0 for n in range(1001)}), "blend.shares", "names 1001 workers; at most 1000"),
        (_blend(safe=None), "blend.safe", "must be an object with one entry per worker, got null"),
        (_blend(safe=[]), "blend.safe", "must be an object with one entry per worker, got a list of 0"),
        (_blend(safe={"first": 0.5}), "blend.safe", "must hold shares whose sum is 1"),
        (_blend(safe={"third": 1.0}), "blend.safe['third']", "a worker that 'weights' does not name"),
        (_blend(safe={"first": 0}), "blend.safe['first']", "above 0"),
        (_blend(solver=None), "blend.solver", "must be text of at most 200 characters, got null"),
        (_blend(solver="x" * 201), "blend.solver", "must be text of at most 200 characters"),
        (_blend(solver="\udfff"), "blend.solver", "holds half a character"),
        (_blend(absorbed=None), "blend.absorbed", "must be a number, got null"),
        (_blend(absorbed=-0.5), "blend.absorbed", "must be at least 0, got -0.5"),
        (_blend(absorbed=1.5), "blend.absorbed", "at most 1, got 1.5"),
        (_blend(absorbed=-1.5), "blend.absorbed", "at most 1, got -1.5"),
        (lambda d: d.pop("group_by"), "group_by", "must be text of at most 200 characters, got null"),
        (lambda d: d.update(group_by=1), "group_by", "must be text of at most 200 characters, got 1"),
        (lambda d: d.update(group_by=""), "group_by", "must be a metadata key"),
        (lambda d: d.update(group_by="x" * 201), "group_by", "must be text of at most 200 characters"),
        (lambda d: d.update(group_by="\ud800x"), "group_by", "holds half a character"),
        (lambda d: d.pop("groups"), "groups", "must be an object with 1 to 1000 entries, got null"),
        (lambda d: d.update(groups=[]), "groups", "must be an object with 1 to 1000 entries, got a list of 0"),
        (lambda d: d.update(groups={}), "groups", "must be an object with 1 to 1000 entries, got an object of 0"),
        (lambda d: d.update(groups={str(n): _GROUPED for n in range(1001)}), "groups", "1 to 1000 entries"),
        (lambda d: d["groups"].update({"x" * 201: _GROUPED}), f"groups['{'x' * 60}'… (201 characters)]", "at most 200"),
        (lambda d: d["groups"].update({"\ud800": _GROUPED}), "groups['\\ud800']", "holds half a character"),
        (
            lambda d: d["groups"].update(unknown=None),
            "groups['unknown']",
            "exactly the keys posterior, blend, got null",
        ),
        (lambda d: d["groups"]["unknown"].pop("blend"), "groups['unknown']", "exactly the keys posterior, blend"),
        (_group(more=1), "groups['unknown']", "exactly the keys posterior, blend, got an object of 3"),
        (_group(posterior=None), "groups['unknown'].posterior", "one entry per worker, got null"),
        (_group(posterior={"third": sums_document()}), "groups['unknown'].posterior['third']", "does not name"),
        (_group(posterior={"first": 1}), "groups['unknown'].posterior['first']", "exactly the keys prior, evidence"),
        (
            _group(posterior={"first": sums_document(prior=0)}),
            "groups['unknown'].posterior['first']['prior']",
            "above 0",
        ),
        (
            _group(posterior={"first": sums_document(advantage=2.0)}),
            "groups['unknown'].posterior['first']",
            "holds sums that no evidence can have",
        ),
        (_group(blend=1), "groups['unknown'].blend", "exactly the keys shares, solver, absorbed, safe, got 1"),
        (
            _group(blend={"shares": {"third": 1.0}, "solver": "", "absorbed": 1, "safe": {}}),
            "groups['unknown'].blend.shares['third']",
            "does not name",
        ),
        (
            _group(blend={"shares": {"first": 1.0}, "solver": "", "absorbed": True, "safe": {}}),
            "groups['unknown'].blend.absorbed",
            "must be a number, got true",
        ),
    ],
)
def test_a_blend_or_a_group_that_is_not_laid_out_as_agreed_is_refused_by_its_key(
    path: Path, change: Callable[[dict[str, Any]], object], key: str, reason: str
) -> None:
    document = good_document(grouped())
    change(document)
    error = refused(path, json.dumps(document), reason)
    assert error.key == key


def test_blends_and_groups_are_taken_up_to_the_limits(path: Path) -> None:
    labels = ["x" * 200, *map(str, range(999))]
    blend = {"shares": {"a": 1 - 5e-10, "b": 5e-324}, "solver": "s" * 200, "absorbed": 0, "safe": {"b": 1.0}}
    document = {
        "weights": {"a": 1, "b": 1},
        "blend": {**blend, "absorbed": 1},
        "group_by": "y" * 200,
        "groups": {label: {"posterior": {}, "blend": blend} for label in labels},
    }
    path.write_text(json.dumps(document))
    file = read_weights_file(path)
    assert file.fitted == FittedBlend({"a": 1 - 5e-10, "b": 5e-324}, "s" * 200, 1.0, safe={"b": 1.0})
    assert file.group_by == "y" * 200
    own = FittedBlend(blend["shares"], "s" * 200, 0.0, safe={"b": 1.0})  # type: ignore[arg-type]
    assert file.groups == {label: Group(fitted=own) for label in labels}


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", ["[", '{"weights":', '{"weights": {"a": ', '{"weights": {"a": 1}, "note": ['])
def test_a_hundred_thousand_nested_brackets_are_refused(path: Path, opening: str) -> None:
    refused(path, opening * (400_000 // len(opening)), "is nested too deeply")


def test_nesting_is_refused_at_every_depth_that_the_parser_still_takes(path: Path) -> None:
    for depth in range(1, sys.getrecursionlimit() + 50, 7):
        refused(path, '{"weights": {"a": ' + "[" * depth + "]" * depth + "}}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_another_encoding_is_refused(path: Path, encoding: str) -> None:
    refused(path, '{"weights": {"größer": 1.0}}'.encode(encoding))


def test_the_place_of_a_byte_that_is_not_utf_8_is_named(path: Path) -> None:
    refused(path, b'{"weights": {"a\xff": 1}}', "is not UTF-8 text", "at byte 15")


def test_a_good_file_cut_anywhere_is_refused(path: Path) -> None:
    good = json.dumps(good_document(grouped())).encode()
    for length in range(len(good)):
        refused(path, good[:length])


def test_bytes_changed_at_random_give_a_good_file_or_the_one_error(path: Path) -> None:
    good = json.dumps(good_document(grouped())).encode()
    rng = random.Random(20250102)
    outcomes = {"good": 0, "refused": 0}
    for _ in range(3000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            choice = rng.randrange(4)
            if choice == 0:
                content[place] = rng.randrange(256)
            elif choice == 1:
                del content[place]
            elif choice == 2:
                content.insert(place, rng.choice(b'0123456789eE+-.{}[]",:\\u '))
            else:
                content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            file = read_weights_file(path)
        except WeightsFileError:
            outcomes["refused"] += 1
        else:
            state = file.state()
            assert all(base.prior > 0.0 for base in state.sums.values())
            assert file.weights.keys() == file.bases().keys()
            outcomes["good"] += 1
    assert min(outcomes.values()) > 20


# --- what it is -------------------------------------------------------------------------------------------------------


def test_a_large_file_is_refused_before_it_is_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**11)  # sparse: reading it would fill the memory
    with pytest.raises(WeightsFileError, match=f"has {10**11} bytes; at most {MAX_WEIGHTS_FILE_BYTES}"):
        read_weights_file(path)


def test_the_size_limit_itself_is_allowed(path: Path) -> None:
    text = '{"weights": {"a": 1}}'
    path.write_text(text.ljust(MAX_WEIGHTS_FILE_BYTES))
    assert read_weights_file(path).weights == {"a": 1.0}
    refused(path, text.ljust(MAX_WEIGHTS_FILE_BYTES + 1), "bytes")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(WeightsFileError, match="is a pipe"):
        read_weights_file(path)


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsFileError, match="cannot be read") as caught:
        read_weights_file(tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(WeightsFileError, match="cannot be read"):
        read_weights_file(tmp_path / "missing.json")
    with pytest.raises(WeightsFileError, match="cannot be read"):
        read_weights_file("nul\0byte.json")


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_failed_export_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights_file(path, document_of(learned()))
    before = path.read_bytes()

    def full_disk(_path: object, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_files, "replace_file", full_disk)
    with pytest.raises(WeightsFileError, match=r"cannot be written.*No space left"):
        write_weights_file(path, document_of(learned(), NOON + timedelta(days=1)))
    assert path.read_bytes() == before


def test_nothing_is_written_where_no_file_can_be(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "weights.json", "nul\0byte.json"):
        with pytest.raises(WeightsFileError, match="cannot be written"):
            write_weights_file(target, document_of(learned()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"a": float("nan")}, "NaN is not a number"),
        ({"a": float("inf")}, "Infinity is not a number"),
        ({"a": -1.0}, "above 0"),
        ({"\ud800": 1.0}, "is not UTF-8"),
        ({"a\n": 1.0}, "printable"),
        ({}, "names no worker"),
        ({f"worker {number}": 1.0 for number in range(1001)}, "names 1001 workers; at most 1000"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(path: Path, weights: dict[str, float], reason: str) -> None:
    with pytest.raises(WeightsFileError, match=reason):
        write_weights_file(path, weights_document(LearnedState(), weights, 0.1, None, NOON))
    assert not path.exists()


def test_a_file_that_would_be_too_large_to_be_read_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_files, "MAX_WEIGHTS_FILE_BYTES", 1_000_000)
    bases = {f"{number:04}" + "🎨" * 124: WorkerBase(1.0) for number in range(1000)}
    with pytest.raises(WeightsFileError, match=r"would have [0-9]+ bytes; at most 1000000 are ever read"):
        write_weights_file(path, weights_document(LearnedState(bases), dict.fromkeys(bases, 1.0), 0.1, 3.0, NOON))
    assert not path.exists()


def test_as_many_workers_as_are_allowed_can_be_written_and_read(path: Path) -> None:
    bases = {f"worker {number}": WorkerBase(1.0) for number in range(1000)}
    write_weights_file(path, weights_document(LearnedState(bases), dict.fromkeys(bases, 1.0), 0.1, 3.0, NOON))
    assert read_weights_file(path).bases() == bases


def test_an_export_that_may_not_outlive_a_power_cut_is_no_success(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    with pytest.raises(WeightsFileError, match=r"cannot be written.*Input/output error"):
        write_weights_file(path, document_of(learned()))
    assert read_weights_file(path).weights == learned().get_all_weights()


@pytest.mark.parametrize("content", [b"SQLite format 3\0...", b"\x89PNG\r\n", b"[1, 2]", b"x" * 2_000_000])
def test_a_file_that_is_no_weights_file_is_not_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match="there is a file already that is no weights file"):
        write_weights_file(path, document_of(learned()))
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b" \n{", b"\xef\xbb\xbf{}"])
def test_an_earlier_weights_file_is_replaced_whatever_became_of_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    write_weights_file(path, document_of(learned()))
    assert read_weights_file(path).weights == document_of(learned())["weights"]


def test_export_keeps_the_mode_of_the_file_and_leaves_nothing_beside_it(path: Path) -> None:
    path.write_text("{an older one, cut off")
    path.chmod(0o640)
    write_weights_file(path, document_of(learned()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]
