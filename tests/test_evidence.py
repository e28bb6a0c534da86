"""What was observed of workers: advantages over the peers, and the labels of groups."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_training.core import advantages
from tsm_training.learning import ExampleEvidence, Outcome, label_of

UNIT = st.floats(0.0, 1.0)
LARGEST = sys.float_info.max
CONFIDENCES = st.floats(0.0, 1.0, exclude_min=True)
OUTCOMES = st.dictionaries(st.sampled_from("abcdefg"), st.builds(Outcome, st.none() | UNIT, CONFIDENCES), min_size=1)


def of(accuracies: Mapping[str, float | None]) -> dict[str, Outcome]:
    return {worker_id: Outcome(accuracy) for worker_id, accuracy in accuracies.items()}


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({"a": 0.75, "b": 0.25}, {"a": 0.5, "b": -0.5}),
        ({"a": 0.5, "b": 0.5, "c": None}, {"a": 0.0, "b": 0.0, "c": -1.0}),
        ({"a": 0.3}, {"a": 0.0}),
        ({"a": None}, {"a": -1.0}),
        ({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}),
        ({"a": 0.9, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": -1.0, "c": -1.0}),
        ({}, {}),
    ],
)
def test_an_advantage_is_how_much_better_than_the_mean_of_the_usable_images(
    accuracies: dict[str, float | None], expected: dict[str, float]
) -> None:
    assert advantages(of(accuracies)) == expected


def test_an_image_without_any_confidence_stands_outside_the_mean() -> None:
    sure = of({"a": 0.75, "b": 0.25})
    doubted = {**sure, "c": Outcome(1.0, 0.0), "d": Outcome(0.0, 0.0)}
    assert {w: d for w, d in advantages(doubted).items() if w in sure} == advantages(sure) == {"a": 0.5, "b": -0.5}
    # The least confidence counts in the mean like any other.
    assert advantages({**sure, "c": Outcome(1.0, 5e-324)})["a"] == pytest.approx(0.75 / (2 / 3) - 1.0)
    assert advantages({"a": Outcome(0.5, 0.0)}) == {"a": 0.0}
    # A failure has lost, however little confidence its worker states.
    assert advantages({"a": Outcome(0.5), "b": Outcome(None, 0.0)}) == {"a": 0.0, "b": -1.0}


@given(OUTCOMES)
def test_advantages_stay_between_minus_one_and_one_and_follow_the_accuracies(outcomes: dict[str, Outcome]) -> None:
    gained = advantages(outcomes)
    assert all(-1.0 <= d <= 1.0 for d in gained.values())
    for one, a in outcomes.items():
        for other, b in outcomes.items():
            if a.accuracy is not None and b.accuracy is not None and a.accuracy >= b.accuracy:
                assert gained[one] >= gained[other]


@given(OUTCOMES, UNIT)
def test_a_failure_changes_nobody_elses_advantage(outcomes: dict[str, Outcome], confidence: float) -> None:
    with_failure = advantages({**outcomes, "broken": Outcome(None, confidence)})
    assert with_failure.pop("broken") == -1.0
    assert with_failure == advantages(outcomes)


def test_evidence_cannot_be_changed_through_what_it_was_made_from() -> None:
    outcomes = {"a": Outcome(0.5)}
    evidence = ExampleEvidence("x", outcomes)
    outcomes["b"] = Outcome(None)
    assert evidence.outcomes == {"a": Outcome(0.5)}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        evidence.digest = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("film", "film"),
        ("", ""),
        ("x" * 300, "x" * 200),
        (7, "7"),
        (7.0, "7"),
        (-2.0, "-2"),
        (0.5, "0.5"),
        (True, "true"),
        (2.0**53 - 1, "9007199254740991"),
        (2.0**53, "9007199254740992.0"),
        (LARGEST, repr(LARGEST)),
        (10**300, f"1{'0' * 199}"),
        (10**400, None),
        (-math.inf, None),
        (math.nan, None),
        (None, None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_a_metadata_value_is_the_label_of_a_group(value: object, label: str | None) -> None:
    assert label_of(value) == label
