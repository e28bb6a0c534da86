"""Weights files: what is written, where the limits lie, and what is refused."""

from __future__ import annotations

import json
import os
import random
import stat
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import manager_with, picture
from tsm_training.core import Totals
from tsm_training.ensemble import renormalised
from tsm_training.errors import WeightsFileError
from tsm_training.learning import (
    MAX_WEIGHTS_FILE_BYTES,
    WEIGHTS_FORMAT_VERSION,
    BlendFits,
    ExampleEvidence,
    FittedBlend,
    Group,
    LearnedState,
    Outcome,
    SufficientStatistics,
    WeightsDocument,
    read_weights_file,
    write_weights_file,
)
from tsm_training.learning import files as weights_files
from tsm_training.weights import BayesianWeightLearner, LearnerCell, Snapshot

NOON = "2025-01-02T12:00:00+00:00"
UNIT = st.floats(0.0, 1.0)
IDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


def plain(weights: Mapping[str, float], exported_at: str = NOON) -> WeightsDocument:
    """Return a file of a learner that knows nothing but weights."""
    return {
        "format_version": WEIGHTS_FORMAT_VERSION,
        "exported_at": exported_at,
        "alpha": 0.25,
        "weights": dict(weights),
    }


def document_of(learner: BayesianWeightLearner, exported_at: str = NOON) -> WeightsDocument:
    document = {**plain(learner.get_all_weights(), exported_at), "alpha": learner.alpha}
    return cast("WeightsDocument", document | learner.weights_entries(learner.state))


def learned() -> BayesianWeightLearner:
    learner = BayesianWeightLearner(0.3)
    learner.observe(
        [
            ExampleEvidence("x", {"first": Outcome(0.9), "zweiter, größer": Outcome(0.7, 0.1)}),
            ExampleEvidence("y", {"first": Outcome(0.4, 0.3), "zweiter, größer": Outcome(None)}),
        ]
    )
    return learner


def added(known: Group | LearnedState, sums: SufficientStatistics) -> dict[str, Totals]:
    """Return totals in which the first worker has more, as if it had been imported."""
    first = zip(known.totals["first"], Totals.of(sums), strict=True)
    return {**known.totals, "first": Totals(*(one + other for one, other in first))}


def grouped() -> BayesianWeightLearner:
    """Return a learner of two examples in two groups, with fitted blends, and a group of which nothing is known."""
    state = learned().with_blends(learned().state, BlendFits(None, "style", {"x": "warm, größer", "y": ""}))
    groups = {
        "warm, größer": attrs.evolve(
            state.groups["warm, größer"], fitted=FittedBlend({"zweiter, größer": 1.0}, "best_single", 0.3, ("x",))
        ),
        "": attrs.evolve(
            state.groups[""],
            totals=added(state.groups[""], SufficientStatistics(1.0, 2.0, 0.5, 0.25, 1.5, 2, 2, 0.0, 2.0, 0.5, 0.125)),
        ),
        "unknown": Group(),
    }
    fitted = FittedBlend(
        {"first": 0.1, "zweiter, größer": 0.9}, "least_squares", 1 / 3, ("x", "y"), {"zweiter, größer": 1.0}
    )
    totals = added(state, SufficientStatistics(1.0, 3.0, 0.5, 0.25, 1.5, 3, 4, 0.125, 3.0, 0.5, 0.125))
    return of(attrs.evolve(state, totals=totals, fitted=fitted, groups=dict(sorted(groups.items()))))


def of(state: LearnedState, *settings_: float) -> BayesianWeightLearner:
    """Return a learner that knows this."""
    return BayesianWeightLearner(*(settings_ or (0.3,)), cell=LearnerCell(state))


def good_document(learner: BayesianWeightLearner | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(document_of(learner or learned())))
    return document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.json"


def refused(path: Path, content: bytes | str, key: str | None = None) -> WeightsFileError:
    """Assert that a file is refused by an error that names it and this entry, on one line."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    error = caught.value
    assert (error.path, error.key) == (str(path), key)
    assert len(error.reason) < 600
    assert "\n" not in str(error)
    return error


def test_an_error_names_file_and_entry_and_what_is_expected_there(path: Path) -> None:
    error = refused(path, '{"weights": {"a": 1}, "alpha": -0.5}', "alpha")
    assert str(error) == f"weights file {str(path)!r} at alpha: must be a finite number above 0 and at most 1, got -0.5"


# --- the round trip -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25)
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
    imported = of(learner.imported(file), alpha, prior, strength)
    assert imported.get_all_weights() == learner.get_all_weights()
    assert imported.get_all_statistics() == learner.get_all_statistics()
    write_weights_file(path, document_of(imported))
    assert path.read_bytes() == first


@settings(max_examples=20)
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
    members = {str(number): labels[number % len(labels)] for number in range(len(rows))}
    blends = BlendFits(fits[0], "style", members, dict.fromkeys(labels[1:], fits[1]))
    learner.cell.update(lambda before: Snapshot(learner.with_blends(before.state, blends)))
    write_weights_file(path, document_of(learner))
    first = path.read_bytes()
    state = learner.imported(read_weights_file(path))
    assert state.statistics == learner.cell.state.statistics
    assert state.statistics_by_group == learner.cell.state.statistics_by_group
    imported = learner.with_cell(LearnerCell(state))
    for ours, theirs in ((learner, imported), *((learner.in_group(x), imported.in_group(x)) for x in labels)):
        assert ours.get_all_statistics() == theirs.get_all_statistics()
        assert ours.get_blend_weights() == theirs.get_blend_weights()
    write_weights_file(path, document_of(imported))
    assert path.read_bytes() == first


def test_the_document_is_sorted_strict_json_with_the_guides_keys(path: Path) -> None:
    write_weights_file(path, document_of(learned()))
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["alpha"] == 0.3
    assert document["format_version"] == WEIGHTS_FORMAT_VERSION == 3
    assert not {"blend", "group_by", "groups"} & document.keys()
    assert document["weights"] == learned().get_all_weights()
    assert list(document["weights"]) == list(document["posterior"]) == ["first", "zweiter, größer"]
    assert "größer" in path.read_text(encoding="utf-8")


def test_a_written_file_can_be_read_and_compared_by_people_too(path: Path) -> None:
    write_weights_file(path, plain({"größer": 1.5, "a": 0.5}))
    assert path.read_bytes().decode() == (
        "{\n"
        '  "format_version": 3,\n'
        '  "exported_at": "2025-01-02T12:00:00+00:00",\n'
        '  "alpha": 0.25,\n'
        '  "weights": {\n'
        '    "größer": 1.5,\n'
        '    "a": 0.5\n'
        "  }\n"
        "}\n"
    )


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system takes its time zone from elsewhere")
def test_the_time_is_written_in_utc_wherever_the_machine_stands(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere, manager_with(tmp_path, 0) as manager:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        manager.export_weights(path)
    time.tzset()
    exported_at = datetime.fromisoformat(json.loads(path.read_bytes())["exported_at"])
    assert exported_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - exported_at) < timedelta(minutes=5)


def test_a_file_with_weights_only_gives_priors(path: Path) -> None:
    path.write_text('{"weights": {"a": 1, "b": 1.25}}')
    file = read_weights_file(path)
    assert (file.alpha, file.prior_strength, file.posterior) == (None, None, None)
    assert file.state() == LearnedState({"a": 1.0, "b": 1.25}, imported=frozenset("ab"))
    assert (file.path, dict(file.weights)) == (str(path), {"a": 1.0, "b": 1.25})


def test_the_guides_own_file_and_keys_from_elsewhere_are_accepted(path: Path) -> None:
    path.write_text('{"weights": {"a": 1.5}, "alpha": 0.15, "exported_at": "2024-01-01T00:00:00", "note": [1, null]}')
    file = read_weights_file(path)
    assert (file.alpha, file.weights) == (0.15, {"a": 1.5})


def test_a_bare_object_of_weights_is_a_file_of_weights(path: Path) -> None:
    path.write_text('{"a": 1.5, "b": 1}')
    assert read_weights_file(path).weights == {"a": 1.5, "b": 1.0}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "the key 'weights' is missing"),
        ('{"alpha": 0.15}', "the key 'weights' is missing"),
        ('{"alpha": 0.15, "a": 1.5}', "the key 'weights' is missing"),
        ('{"a": 1.5, "b": "1.5"}', "the key 'weights' is missing"),
        ('{"a": 1.5, "b": true}', "the key 'weights' is missing"),
        ('{"a": 1.5, "b": -1}', r"weights\['b'\]: must be a finite number above 0"),
    ],
)
def test_what_is_no_bare_object_of_weights_is_refused(path: Path, content: str, reason: str) -> None:
    path.write_text(content)
    with pytest.raises(WeightsFileError, match=reason):
        read_weights_file(path)


@pytest.mark.parametrize("content", ['{"a": 0.75, "b": 0.81}', '{"weights": {"a": 0.75, "b": 0.81}, "alpha": 0.15}'])
def test_weights_that_all_lie_below_1_are_brought_to_a_mean_of_1(path: Path, content: str) -> None:
    path.write_text(content)
    file = read_weights_file(path)
    assert file.weights == pytest.approx({"a": 0.75 / 0.78, "b": 0.81 / 0.78})
    assert file.scale == pytest.approx(1 / 0.78)
    assert sum(file.weights.values()) / 2 == pytest.approx(1.0)


@pytest.mark.parametrize(
    "document",
    [
        {"weights": {"a": 0.75, "b": 1.0}},
        {"weights": {"a": 5e-324, "b": 7.0}},
        {**plain({"a": 0.5}), "learner": {"name": "another", "head": "anything"}},
        {**plain({"a": 0.5}), "blend": {"shares": {"a": 1.0}, "solver": "x", "absorbed": 0.5, "safe": {}}},
    ],
)
def test_all_other_weights_are_taken_as_they_are(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))
    file = read_weights_file(path)
    assert (file.weights, file.scale) == (document["weights"], 1.0)


def test_even_the_smallest_weights_stay_above_0(path: Path) -> None:
    path.write_text('{"a": 5e-324, "b": 0.9, "c": 5e-324}')
    assert all(weight > 0.0 for weight in read_weights_file(path).weights.values())


@pytest.mark.parametrize("bad", ["a", {"a": 1}, [1], None])
def test_imported_ids_are_a_list(path: Path, bad: object) -> None:
    path.write_text(json.dumps({**plain({"a": 1.5}), "imported": bad}))
    with pytest.raises(WeightsFileError, match="imported: must be a list of worker ids"):
        read_weights_file(path)


def test_imported_workers_have_weights(path: Path) -> None:
    path.write_text(json.dumps({**plain({"a": 1.5}), "imported": ["b"]}))
    with pytest.raises(WeightsFileError, match=r"imported\['b'\]: is about a worker that 'weights' does not name"):
        read_weights_file(path)


def test_a_byte_order_mark_is_tolerated(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good_document()).encode())
    assert read_weights_file(path).weights == good_document()["weights"]


# --- files of earlier versions --------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "weights_files"


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_format_is_refused_by_its_version(version: int) -> None:
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(GOLDEN / f"format-{version}.json")
    assert caught.value.key == "format_version"


def test_a_file_of_format_3_is_read_to_the_last_bit(path: Path) -> None:
    """The file is never made anew: every later version has to read what this one wrote."""
    golden = GOLDEN / "format-3.json"
    file, state = read_weights_file(golden), grouped().state
    assert (file.alpha, file.prior_strength) == (0.3, 3.0)
    assert file.posterior == state.statistics
    assert dict(file.weights) == grouped().get_all_weights()
    safe = {"zweiter, größer": 1.0}
    assert file.fitted == FittedBlend({"first": 0.1, "zweiter, größer": 0.9}, "least_squares", 1 / 3, safe=safe)
    assert (file.group_by, list(file.groups)) == ("style", ["", "unknown", "warm, größer"])
    assert file.state().statistics_by_group == state.statistics_by_group
    assert file.groups[""].fitted is None
    assert file.groups["warm, größer"].fitted == FittedBlend({"zweiter, größer": 1.0}, "best_single", 0.3)
    write_weights_file(path, document_of(of(file.state())))
    assert path.read_bytes() == golden.read_bytes()


def test_a_file_of_the_guides_application_is_read_as_priors() -> None:
    file = read_weights_file(GOLDEN / "guide.json")
    assert (file.alpha, file.prior_strength, file.posterior) == (0.15, None, None)
    assert file.state().priors == {"standard_transfer": 1.25, "histogram_matching": 0.875}


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
    "another prior strength": (GOLDEN / "format-3.json").read_text(encoding="utf-8").replace("3.0", "5.0"),
}


def test_a_refused_import_changes_nothing(tmp_path: Path, path: Path) -> None:
    with manager_with(tmp_path, 3) as manager:
        manager.train(validation_split=0, verbose=False)
        learner, store = manager.weight_learner, manager.data_manager
        before = (learner.cell.snapshot, store.load_state(None))
        for content in REFUSED_IMPORTS.values():
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            with pytest.raises(WeightsFileError):
                manager.import_weights(path)
            assert learner.cell.snapshot is before[0]
            assert store.load_state(None) == before[1]


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
        state = manager.weight_learner.state
        assert state == manager.weight_learner.cell.whole().state  # what the store holds
        assert (state.fitted, state.num_examples, state.rows) == (read_weights_file(path).fitted, 0, {})
        assert state.groups["warm"].fitted == FittedBlend({"near": 1.0}, "greedy", 0.5)
        # Half of each share is the posterior's, and half the fit's, whose workers that are not here do not count.
        assert manager.weight_learner.get_blend_weights(worker_ids=["far", "mid"]) == {"far": 0.75, "mid": 0.25}
        assert manager.predict(picture(1), picture(2), group="warm").blend_weights == pytest.approx(
            {"far": 2 / 3, "mid": 1 / 6, "near": 1 / 6}
        )
        path.write_text('{"weights": {"far": 1}}')
        manager.import_weights(path)
        state = manager.weight_learner.cell.whole().state
        assert (state.fitted, state.group_by, state.groups) == (None, None, {})


# --- what stands in it ------------------------------------------------------------------------------------------------

BAD_WEIGHTS = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "-0.5", "0", "0.0", "-0.0", "true", "false", "null", '"9"'),
    '"' + "long" * 100 + '"',
    "[1.0]",
    '{"a": 1}',
    "1" + "0" * 30,
    "1" + "0" * 4000,
    "1" + "0" * 5000,
    "1000000001",
]


@pytest.mark.parametrize("value", BAD_WEIGHTS, ids=lambda value: value[:12])
def test_a_weight_that_is_no_finite_number_above_zero_is_refused_wherever_it_stands(path: Path, value: str) -> None:
    is_json = value.lstrip("-") not in {"NaN", "Infinity"} and len(value) < 5000
    for entries in (f'"wrong": {value}, "b": 0.5', f'"a": 1.0, "wrong": {value}'):
        refused(path, '{"weights": {' + entries + "}}", "weights['wrong']" if is_json else None)


@pytest.mark.parametrize(
    ("value", "described"),
    [
        ('"' + "x" * 60 + '"', repr("x" * 60)),
        ('"' + "x" * 61 + '"', repr("x" * 60) + "… (61 characters)"),
        ("9" * 60, "9" * 60),
        ("9" * 61, "9" * 60 + "… (61 digits)"),
        ("[[1], 2]", "a list of 2"),
        ('{"a": [1]}', "an object of 1"),
        ("null", "null"),
    ],
)
def test_a_value_is_shown_as_far_as_it_fits_on_a_line(path: Path, value: str, described: str) -> None:
    error = refused(path, '{"weights": {"a": ' + value + "}}", "weights['a']")
    assert error.reason.endswith(f", got {described}")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"alpha": 0.1}', None),
        ('{"weights": [1.0]}', "weights"),
        ('{"weights": null}', "weights"),
        ('{"weights": {}}', "weights"),
        ("[]", None),
        ("1.0", None),
        ('"weights"', None),
        ("null", None),
        ('{"weights": {"a": 1, "a": 2}}', "'a'"),
        ('{"weights": {"a": 1}, "weights": {"a": 1}}', "'weights'"),
        ('{"weights": {"' + "k" * 999 + '": 1, "' + "k" * 999 + '": 2}}', f"'{'k' * 60}'… (999 characters)"),
        ('{"weights": {"": 1}}', "weights['']"),
        ('{"weights": {"' + "i" * 129 + '": 1}}', f"weights['{'i' * 60}'… (129 characters)]"),
        ('{"weights": {"\\ud800": 1}}', "weights['\\ud800']"),
        ('{"weights": {"a\\u0000b": 1}}', "weights['a\\x00b']"),
        ('{"weights": {"a\\nb": 1}}', "weights['a\\nb']"),
        ('{"weights": {"a\nb": 1}}', None),
        ('{"weights": {"a": 1}, "alpha": 0}', "alpha"),
        ('{"weights": {"a": 1}, "alpha": 1.5}', "alpha"),
        ('{"weights": {"a": 1}, "alpha": null}', "alpha"),
        ('{"weights": {"a": 1}, "prior_strength": -3}', "prior_strength"),
        *(
            (f'{{"weights": {{"a": 1}}, "format_version": {version}}}', "format_version")
            for version in ("4", "2", "0", "true", "3.0", '"3"', f"[{'1,' * 999} 1]")
        ),
        (json.dumps({"weights": {f"worker {number}": 1.0 for number in range(1001)}}), "weights"),
        ("", None),
        ("   ", None),
        ('{"weights": {"a": 1}} x', None),
        ("{'weights': {'a': 1}}", None),
        ('{"weights": {"a": 1},}', None),
        ('{"weights": {"a": 1}, "learner": null}', "learner"),
        ('{"weights": {"a": 1}, "learner": {"name": "mine"}}', "learner"),
        ('{"weights": {"a": 1}, "learner": {"name": "mine", "head": {}}}', "learner.head"),
    ],
)
def test_a_file_that_is_not_laid_out_as_agreed_is_refused_with_the_place(
    path: Path, text: str, key: str | None
) -> None:
    refused(path, text, key)


def test_a_file_of_another_learner_gives_its_weights_as_priors(path: Path) -> None:
    document = {**plain({"a": 1.5}), "learner": {"name": "another", "head": "anything"}}
    path.write_text(json.dumps(document))
    file = read_weights_file(path)
    assert file.learner == {"name": "another", "head": "anything"}
    assert BayesianWeightLearner().imported(file) == LearnedState({"a": 1.5}, imported=frozenset("a"))


def sums_document(**changes: Any) -> dict[str, Any]:
    return {**good_document()["posterior"]["first"], **changes}


def _with(document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    change(document)
    return document


def _entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["posterior"]["first"].update(changes)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: d["weights"].update(first=2.0), "weights['first']"),
        (lambda d: d.pop("prior_strength"), "prior_strength"),
        (lambda d: d["weights"].update(new=1.0), "posterior"),
        (lambda d: d["posterior"].pop("first"), "posterior"),
        (lambda d: d.update(posterior=[]), "posterior"),
        (lambda d: d.update(posterior=None), "posterior"),
        (lambda d: d["posterior"].update(first=1.0), "posterior['first']"),
        (lambda d: d["posterior"]["first"].pop("prior"), "posterior['first']"),
        (_entry(extra=1), "posterior['first']"),
        (_entry(prior=0), "posterior['first'].prior"),
        (_entry(evidence="1"), "posterior['first'].evidence"),
        (_entry(advantage=1e300), "posterior['first'].advantage"),
        (_entry(update_count=-1), "posterior['first'].update_count"),
        (_entry(valid_count=1.0), "posterior['first'].valid_count"),
        (_entry(valid_count=True), "posterior['first'].valid_count"),
        (_entry(valid_count=10**10), "posterior['first'].valid_count"),
    ],
)
def test_a_posterior_that_contradicts_the_weights_or_is_not_laid_out_as_agreed_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object], key: str
) -> None:
    refused(path, json.dumps(_with(good_document(), change)), key)


def text_of(**changes: Any) -> str:
    """Return a file of a worker that was as good as the others on two examples, but for these sums.

    Both targets have the same part in evidence and advantage, unless it says something else.
    """
    entry: dict[str, Any] = {
        "prior": 1.0,
        "evidence": 2.0,
        "advantage": 0.0,
        "squared_advantage": 0.5,
        "accuracy_sum": 1.0,
        "valid_count": 2,
        "update_count": 2,
        "failed_evidence": 0.0,
        **changes,
    }
    n, a = entry["evidence"], entry["advantage"]
    entry = {"target_evidence": n**2 / 2, "target_product": n * a / 2, "target_advantage": a**2 / 2, **entry}
    weight = entry["prior"] * (1.0 + entry["advantage"] / (entry["evidence"] + 3.0))
    return json.dumps({"weights": {"a": weight}, "prior_strength": 3.0, "posterior": {"a": entry}})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prior": 1e9},
        {"update_count": 10**9},
        {"evidence": 0.0, "squared_advantage": 0.0, "accuracy_sum": 0.0, "valid_count": 0, "update_count": 0},
        {"evidence": 2.0, "squared_advantage": 2.0, "advantage": 2.0},
        {"evidence": 2.0, "squared_advantage": 2.0, "advantage": -2.0},
        {"accuracy_sum": 2.0},
        {"accuracy_sum": 0.0},
        {"target_evidence": 4.0},
        {"advantage": 0.2, "target_product": 0.4, "target_evidence": 4.0, "target_advantage": 0.04},
        # all of it from failures, whose advantage is -1
        {"squared_advantage": 2.0, "advantage": -2.0, "failed_evidence": 2.0, "valid_count": 0, "accuracy_sum": 0.0},
    ],
)
def test_sums_at_the_edge_of_what_evidence_can_give_are_taken(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(text_of(**changes))
    assert read_weights_file(path).state().statistics["a"].update_count == changes.get("update_count", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": 1.1},  # more than its square allows: 1.1² > 2 · 0.5
        {"advantage": -1.1},
        {"failed_evidence": 0.6},  # more than is in the squares
        {"failed_evidence": -0.1},
        {"evidence": 2.1, "squared_advantage": 0.5},
        {"evidence": 0.4},
        {"evidence": -0.1},
        {"squared_advantage": -0.1},
        {"squared_advantage": 2.1},
        {"accuracy_sum": -0.1},
        {"accuracy_sum": 2.1},
        {"valid_count": 3},
        {"target_evidence": 4.1},  # more than if all examples had one target
        {"target_evidence": 1.9},  # less than if each had its own
        {"target_evidence": -0.1},
        {"target_product": 0.1},  # more than the other two allow
        {"target_advantage": -0.1},
        {"target_advantage": 2.1},  # more than if every advantage was 1
    ],
)
def test_sums_that_no_evidence_can_have_are_refused(path: Path, changes: dict[str, Any]) -> None:
    refused(path, text_of(**changes), "posterior['a']")


@pytest.mark.parametrize("weight", [1.0 + 5e-10, 1.0 - 5e-10])
def test_a_weight_that_another_machine_rounded_otherwise_is_taken(path: Path, weight: float) -> None:
    document = json.loads(text_of())
    document["weights"]["a"] = weight
    path.write_text(json.dumps(document))
    assert read_weights_file(path).weights["a"] == weight
    document["weights"]["a"] = 1.0 + 2e-9
    refused(path, json.dumps(document), "weights['a']")


def test_ids_workers_and_numbers_are_taken_up_to_the_limit(path: Path) -> None:
    weights = {"i" * 128: 1e9, "least": 1e-300, **{f"worker {number}": 1.0 for number in range(998)}}
    path.write_text(json.dumps({"weights": weights, "alpha": 1, "prior_strength": 1e9}))
    file = read_weights_file(path)
    assert (file.weights, file.alpha, file.prior_strength) == (weights, 1.0, 1e9)


def _blend(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["blend"].update(changes)


def _group(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["groups"]["unknown"].update(changes)


_GROUPED: Any = {"posterior": {}, "blend": None}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: d.update(blend=None), "blend"),
        (lambda d: d.update(blend=[]), "blend"),
        (lambda d: d["blend"].pop("solver"), "blend"),
        (_blend(shares=None), "blend.shares"),
        (_blend(shares={}), "blend.shares"),
        (_blend(shares={"first": 1.0, "zweiter, größer": 1e-8}), "blend.shares"),
        (_blend(shares={"first": 0.5}), "blend.shares"),
        (_blend(shares={"first": 1.0, "zweiter, größer": 0}), "blend.shares['zweiter, größer']"),
        (_blend(shares={"first": 1.5, "zweiter, größer": -0.5}), "blend.shares['first']"),
        (_blend(shares={"third": 1.0}), "blend.shares['third']"),
        (_blend(shares={"": 1.0}), "blend.shares['']"),
        (_blend(shares={f"w{n}": 0.0 for n in range(1001)}), "blend.shares"),
        (_blend(safe=None), "blend.safe"),
        (_blend(safe={"first": 0.5}), "blend.safe"),
        (_blend(safe={"third": 1.0}), "blend.safe['third']"),
        (_blend(solver=None), "blend.solver"),
        (_blend(absorbed=True), "blend.absorbed"),
        (_blend(absorbed=-0.5), "blend.absorbed"),
        (_blend(absorbed=1.5), "blend.absorbed"),
        (lambda d: d.pop("group_by"), "group_by"),
        (lambda d: d.update(group_by=""), "group_by"),
        (lambda d: d.update(group_by="x" * 201), "group_by"),
        (lambda d: d.update(group_by="\ud800x"), "group_by"),
        (lambda d: d.pop("groups"), "groups"),
        (lambda d: d.update(groups=[]), "groups"),
        (lambda d: d.update(groups={}), "groups"),
        (lambda d: d.update(groups={str(n): _GROUPED for n in range(1001)}), "groups"),
        (lambda d: d["groups"].update({"x" * 201: _GROUPED}), f"groups['{'x' * 60}'… (201 characters)]"),
        (lambda d: d["groups"].update({"\ud800": _GROUPED}), "groups['\\ud800']"),
        (lambda d: d["groups"].update(unknown=None), "groups['unknown']"),
        (lambda d: d["groups"]["unknown"].pop("blend"), "groups['unknown']"),
        (_group(more=1), "groups['unknown']"),
        (_group(posterior=None), "groups['unknown'].posterior"),
        (_group(posterior={"third": sums_document()}), "groups['unknown'].posterior['third']"),
        (_group(posterior={"first": sums_document(prior=0)}), "groups['unknown'].posterior['first'].prior"),
        (_group(blend=1), "groups['unknown'].blend"),
        (
            _group(blend={"shares": {"third": 1.0}, "solver": "", "absorbed": 1, "safe": {}}),
            "groups['unknown'].blend.shares['third']",
        ),
    ],
)
def test_a_blend_or_a_group_that_is_not_laid_out_as_agreed_is_refused_by_its_key(
    path: Path, change: Callable[[dict[str, Any]], object], key: str
) -> None:
    refused(path, json.dumps(_with(good_document(grouped()), change)), key)


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
    refused(path, opening * (400_000 // len(opening)))


def test_nesting_is_refused_at_every_depth_that_the_parser_still_takes(path: Path) -> None:
    for depth in range(1, sys.getrecursionlimit() + 50, 7):
        path.write_text('{"weights": {"a": ' + "[" * depth + "]" * depth + "}}")
        with pytest.raises(WeightsFileError):
            read_weights_file(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_another_encoding_is_refused(path: Path, encoding: str) -> None:
    refused(path, '{"weights": {"größer": 1.0}}'.encode(encoding))


def test_the_place_of_a_byte_that_is_not_utf_8_is_named(path: Path) -> None:
    assert "at byte 15" in refused(path, b'{"weights": {"a\xff": 1}}').reason


@pytest.mark.slow
def test_a_good_file_cut_anywhere_is_refused(path: Path) -> None:
    good = json.dumps(good_document(grouped())).encode()
    for length in range(0, len(good), 7):
        refused(path, good[:length])


@pytest.mark.slow
def test_bytes_changed_at_random_give_a_good_file_or_the_one_error(path: Path) -> None:
    good = json.dumps(good_document(grouped())).encode()
    rng = random.Random(20250102)
    outcomes = {"good": 0, "refused": 0}
    for _ in range(600):
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
            statistics = file.state().statistics
            assert all(base.prior > 0.0 for base in statistics.values())
            assert file.weights.keys() == statistics.keys()
            outcomes["good"] += 1
    assert min(outcomes.values()) > 20


# --- what it is -------------------------------------------------------------------------------------------------------


def test_a_large_file_is_refused_before_it_is_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**11)  # sparse: reading it would fill the memory
    with pytest.raises(WeightsFileError, match=f"has {10**11} bytes; at most {MAX_WEIGHTS_FILE_BYTES}"):
        read_weights_file(path)


def test_a_file_is_read_and_written_up_to_the_size_limit_and_not_above_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 100_000
    monkeypatch.setattr(weights_files, "MAX_WEIGHTS_FILE_BYTES", most)
    text = '{"weights": {"a": 1}}'
    path.write_text(text.ljust(most))
    assert read_weights_file(path).weights == {"a": 1.0}
    refused(path, text.ljust(most + 1))

    def filled(more: int) -> WeightsDocument:
        room = most - len(json.dumps(plain({"a": 1.0}, ""), indent=2).encode()) - 1
        return plain({"a": 1.0}, "x" * (room + more))

    path.unlink()
    with pytest.raises(WeightsFileError):
        write_weights_file(path, filled(1))
    assert not path.exists()
    write_weights_file(path, filled(0))
    assert path.stat().st_size == most
    assert read_weights_file(path).weights == {"a": 1.0}


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
        write_weights_file(path, document_of(learned(), "2025-01-03"))
    assert path.read_bytes() == before


def test_nothing_is_written_where_no_file_can_be(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "weights.json", "nul\0byte.json"):
        with pytest.raises(WeightsFileError, match="cannot be written"):
            write_weights_file(target, document_of(learned()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "key"),
    [
        ({"a": float("nan")}, None),
        ({"a": float("inf")}, None),
        ({"a": -1.0}, "weights['a']"),
        ({"\ud800": 1.0}, None),
        ({"a\n": 1.0}, "weights['a\\n']"),
        ({}, "weights"),
        ({f"worker {number}": 1.0 for number in range(1001)}, "weights"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(path: Path, weights: dict[str, float], key: str | None) -> None:
    with pytest.raises(WeightsFileError) as caught:
        write_weights_file(path, plain(weights))
    assert (caught.value.path, caught.value.key) == (str(path), key)
    assert not path.exists()


def test_as_many_workers_as_are_allowed_can_be_written_and_read(path: Path) -> None:
    bases = {f"worker {number}": SufficientStatistics(1.0) for number in range(1000)}
    write_weights_file(path, document_of(of(LearnedState(dict.fromkeys(bases, 1.0)))))
    assert read_weights_file(path).posterior == bases


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
