"""Weights files down to the last character: what is written, where the limits lie, and what errors say."""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tsm_training.errors import WeightsFileError
from tsm_training.learning import ExampleEvidence, LearnedState, Outcome
from tsm_training.weights import (
    MAX_WEIGHTS_FILE_BYTES,
    BayesianWeightLearner,
    WeightsDocument,
    read_weights_file,
    weights_document,
    write_weights_file,
)

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)
PLAIN = weights_document(LearnedState(), {"größer": 1.5, "a": 0.5}, 0.25, None, NOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.json"


def sums(**changes: Any) -> dict[str, Any]:
    """Return the posterior sums of a worker that was as good as the others on two examples."""
    return {
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


def text_of(**changes: Any) -> str:
    """Return a weights file of one worker with these sums."""
    entry = sums(**changes)
    weight = entry["prior"] * (1.0 + entry["advantage"] / (entry["evidence"] + 3.0))
    return json.dumps({"weights": {"a": weight}, "prior_strength": 3.0, "posterior": {"a": entry}})


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_written_file_can_be_read_and_compared_by_people_too(path: Path) -> None:
    write_weights_file(path, PLAIN)
    assert path.read_bytes().decode() == (
        "{\n"
        '  "format_version": 2,\n'
        '  "exported_at": "2025-01-02T12:00:00+00:00",\n'
        '  "alpha": 0.25,\n'
        '  "weights": {\n'
        '    "a": 0.5,\n'
        '    "größer": 1.5\n'
        "  }\n"
        "}\n"
    )


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system takes its time zone from elsewhere")
def test_the_time_is_written_in_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        document = weights_document(LearnedState(), {"a": 1.0}, 0.25, None, NOON.astimezone())
    time.tzset()
    assert document["exported_at"] == "2025-01-02T12:00:00+00:00"


def test_examples_that_were_absorbed_in_full_are_written_and_read_again(path: Path) -> None:
    learner = BayesianWeightLearner(1.0)
    learner.observe([ExampleEvidence("x", {"a": Outcome(0.9), "b": Outcome(0.3), "c": Outcome(None)})])
    document = weights_document(
        learner.cell.state, learner.get_all_weights(), learner.alpha, learner.prior_strength, NOON
    )
    write_weights_file(path, document)
    assert read_weights_file(path).bases() == learner.cell.state.sums


def test_a_file_is_written_up_to_the_size_that_is_read_and_not_above_it(path: Path) -> None:
    def filled(more: int) -> WeightsDocument:
        empty: WeightsDocument = {**PLAIN, "exported_at": ""}
        room = MAX_WEIGHTS_FILE_BYTES - len(json.dumps(empty, indent=2, ensure_ascii=False).encode()) - 1
        return {**empty, "exported_at": "x" * (room + more)}

    write_weights_file(path, filled(0))
    assert path.stat().st_size == MAX_WEIGHTS_FILE_BYTES
    assert read_weights_file(path).weights == PLAIN["weights"]
    before = path.read_bytes()
    with pytest.raises(WeightsFileError) as caught:
        write_weights_file(path, filled(1))
    assert (caught.value.path, caught.value.reason) == (
        str(path),
        f"would have {MAX_WEIGHTS_FILE_BYTES + 1} bytes; at most {MAX_WEIGHTS_FILE_BYTES} are ever read",
    )
    assert path.read_bytes() == before


# --- where the limits lie -------------------------------------------------------------------------------------------


def test_ids_and_workers_are_taken_up_to_the_limit(path: Path) -> None:
    path.write_text(json.dumps({"weights": {"i" * 128: 1.0, **{f"worker {number}": 1.0 for number in range(999)}}}))
    assert len(read_weights_file(path).weights) == 1000


def test_the_ends_of_a_range_belong_to_it(path: Path) -> None:
    path.write_text('{"weights": {"a": 1e9, "b": 1e-300}, "alpha": 1, "prior_strength": 1e9}')
    file = read_weights_file(path)
    assert (file.weights, file.alpha, file.prior_strength) == ({"a": 1e9, "b": 1e-300}, 1.0, 1e9)


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
        # all of it from failures, whose advantage is -1
        {"squared_advantage": 2.0, "advantage": -2.0, "failed_evidence": 2.0, "valid_count": 0, "accuracy_sum": 0.0},
    ],
)
def test_sums_at_the_edge_of_what_evidence_can_give_are_taken(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(text_of(**changes))
    assert read_weights_file(path).bases()["a"].update_count == sums(**changes)["update_count"]


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": 1.1},  # more than its square allows: 1.1² > 2 · 0.5
        {"advantage": -1.1},
        {"failed_evidence": 0.6},  # more than is in the squares
        {"failed_evidence": -0.1},
        {"evidence": 2.1, "squared_advantage": 0.5},
        {"accuracy_sum": 2.1},
        {"valid_count": 3},
        {"evidence": 0.4},
    ],
)
def test_sums_beyond_that_are_refused(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(text_of(**changes))
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert (caught.value.key, caught.value.reason) == ("posterior['a']", "holds sums that no evidence can have")


@pytest.mark.parametrize("weight", [1.0 + 5e-10, 1.0 - 5e-10])
def test_a_weight_that_another_machine_rounded_otherwise_is_taken(path: Path, weight: float) -> None:
    document = json.loads(text_of())
    document["weights"]["a"] = weight
    path.write_text(json.dumps(document))
    assert read_weights_file(path).weights["a"] == weight
    document["weights"]["a"] = 1.0 + 2e-9
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsFileError, match=r"but its posterior says 1\.0"):
        read_weights_file(path)


# --- what errors say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "described"),
    [
        ('"' + "x" * 60 + '"', repr("x" * 60)),
        ('"' + "x" * 61 + '"', repr("x" * 60) + "… (61 characters)"),
        ("9" * 60, "9" * 60),
        ("9" * 61, "9" * 60 + "… (61 digits)"),
    ],
)
def test_a_value_is_shown_as_far_as_it_fits_on_a_line(path: Path, value: str, described: str) -> None:
    path.write_text('{"weights": {"a": ' + value + "}}")
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert caught.value.reason.endswith(f", got {described}")


def test_the_reason_of_the_system_is_given_without_the_path(path: Path) -> None:
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert (caught.value.path, caught.value.reason) == (str(path), f"cannot be read: {os.strerror(errno.ENOENT)}")
    target = path / "below"
    with pytest.raises(WeightsFileError) as caught:
        write_weights_file(target, PLAIN)
    assert (caught.value.path, caught.value.reason) == (str(target), f"cannot be written: {os.strerror(errno.ENOENT)}")
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file("nul\0byte.json")
    assert caught.value.reason == "cannot be read: embedded null byte"


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"posterior": {}}, "posterior", "must name the same workers as 'weights'"),
        ({"prior_strength": None}, "prior_strength", "must be a number, got null"),
        ({"weights": {"a": 2.0}}, "weights['a']", "is 2.0, but its posterior says 1.0; remove 'posterior' to import "),
        ({"weights": {}}, "weights", "names no worker"),
        (
            {"posterior": {"a": sums(advantage=1e300)}},
            "posterior['a']['advantage']",
            "must be a finite number at most 1e+09, got 1e+300",
        ),
        (
            {"weights": {"a": 1.0, "b" * 129: 1.0}},
            f"weights[{'b' * 60!r}… (129 characters)]",
            "a worker id must have 1 ",
        ),
        ({"alpha": 0}, "alpha", "must be a finite number above 0 and at most 1, got 0"),
        ({"alpha": -0.5}, "alpha", "must be a finite number above 0 and at most 1, got -0.5"),
    ],
)
def test_an_error_names_the_entry_and_what_is_expected_of_it(
    path: Path, change: dict[str, Any], key: str, reason: str
) -> None:
    path.write_text(json.dumps({**json.loads(text_of()), **change}))
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert (caught.value.path, caught.value.key) == (str(path), key)
    assert caught.value.reason.startswith(reason)


def test_too_many_workers_are_named_as_such(path: Path) -> None:
    path.write_text(json.dumps({"weights": {f"worker {number}": 1.0 for number in range(1001)}}))
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert (caught.value.key, caught.value.reason) == ("weights", "names 1001 workers; at most 1000 are expected")


def test_a_posterior_without_its_prior_strength_is_refused_in_so_many_words(path: Path) -> None:
    document = json.loads(text_of())
    del document["prior_strength"]
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsFileError) as caught:
        read_weights_file(path)
    assert caught.value.key == "prior_strength"
    assert caught.value.reason == "is missing, and the posterior means nothing without it"


def test_a_document_that_cannot_be_read_again_is_refused_under_the_name_it_would_have_had(path: Path) -> None:
    with pytest.raises(WeightsFileError) as caught:
        write_weights_file(path, weights_document(LearnedState(), {"a": -1.0}, 0.1, None, NOON))
    assert (caught.value.path, caught.value.key) == (str(path), "weights['a']")
