from __future__ import annotations

import copy
import math
import pickle
import random
import sys
from fractions import Fraction

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_training.learning import (
    Absorbed,
    ExampleEvidence,
    FittedBlend,
    Group,
    LearnedState,
    Outcome,
    WorkerBase,
    advantages,
    label_of,
)

UNIT = st.floats(0.0, 1.0)
LARGEST = sys.float_info.max
ACCURACIES = st.dictionaries(st.sampled_from("abcdefg"), st.none() | UNIT, min_size=1)


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
def test_an_advantage_is_how_much_better_than_the_mean_of_the_usable_outputs(
    accuracies: dict[str, float | None], expected: dict[str, float]
) -> None:
    assert advantages(accuracies) == expected


@given(ACCURACIES)
def test_advantages_stay_between_minus_one_and_one_and_follow_the_accuracies(
    accuracies: dict[str, float | None],
) -> None:
    gained = advantages(accuracies)
    assert all(-1.0 <= d <= 1.0 for d in gained.values())
    for one, a in accuracies.items():
        for other, b in accuracies.items():
            if a is not None and b is not None and a >= b:
                assert gained[one] >= gained[other]


@given(ACCURACIES)
def test_a_failure_changes_nobody_elses_advantage(accuracies: dict[str, float | None]) -> None:
    with_failure = advantages({**accuracies, "broken": None})
    assert with_failure.pop("broken") == -1.0
    assert with_failure == advantages(accuracies)


def _state() -> LearnedState:
    return LearnedState(
        {"a": WorkerBase(1.0), "b": WorkerBase(1.5, 2.0, 0.5, 0.25, 1.5, 3, 4)},
        {
            "x": {"a": Absorbed(0.75, 1.0, 0.5), "b": Absorbed(0.25, 0.5, 0.5)},
            "y": {"a": Absorbed(0.5, 1.0, 0.0), "b": Absorbed(None, 0.25, 0.75)},
        },
    )


def test_sums_are_the_base_plus_every_absorbed_share() -> None:
    assert _state().sums == {
        "a": WorkerBase(1.0, 1.5, 0.25, 0.125, 1.25, 2, 2),
        # a failure counts with confidence 1, whatever was stated
        "b": WorkerBase(1.5, 2.0 + 0.25 + 0.25, 0.5 - 0.125 - 0.25, 0.25 + 0.0625 + 0.25, 1.75, 4, 6, 0.25),
    }


def test_a_worker_without_a_base_starts_at_one() -> None:
    assert LearnedState({}, {"x": {"a": Absorbed(0.5, 1.0, 0.0)}}).sums == {"a": WorkerBase(1.0, 1.0, 0, 0, 0.5, 1, 1)}


@given(st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=12))
def test_sums_are_exact_totals_rounded_once(rows: list[tuple[float, float, float, float]]) -> None:
    absorbed = {
        str(number): {"a": Absorbed(one, confidence, residual), "b": Absorbed(other, 1.0, 0.5)}
        for number, (one, other, confidence, residual) in enumerate(rows)
    }
    shares = [(1.0 - residual) * confidence for _, _, confidence, residual in rows]
    gains = [advantages({"a": one, "b": other})["a"] for one, other, _, _ in rows]
    exact = Fraction(2) + sum(map(Fraction, shares))
    sums = LearnedState({"a": WorkerBase(1.0, 2.0)}, absorbed).sums["a"]
    assert sums.evidence == float(exact)
    assert sums.advantage == float(sum(Fraction(share * gain) for share, gain in zip(shares, gains, strict=True)))
    assert sums.accuracy_sum == float(sum(Fraction(one) for one, _, _, _ in rows))
    assert sums.update_count == sums.valid_count == len(rows)


@given(st.permutations(["x", "y", "z"]))
def test_the_order_in_which_examples_are_kept_changes_no_bit(order: list[str]) -> None:
    rows = {
        "x": {"a": Absorbed(0.1, 0.3, 0.9), "b": Absorbed(0.7, 1.0, 0.9)},
        "y": {"b": Absorbed(0.2, 1.0, 0.81), "a": Absorbed(0.3, 1.0, 0.81)},
        "z": {"a": Absorbed(1e-17, 1.0, 0.1), "b": Absorbed(1.0, 0.1, 0.1)},
    }
    assert LearnedState({}, {key: rows[key] for key in order}).sums == LearnedState({}, rows).sums


def test_the_sums_of_a_group_are_its_base_plus_what_was_absorbed_of_its_members() -> None:
    groups = {
        "both": Group(["y", "x"]),
        "first": Group(["x", "never absorbed"], {"b": WorkerBase(1.5, 2.0, 0.5)}),
        "imported": Group(bases={"c": WorkerBase(2.0)}),
        "nothing": Group(["never absorbed"]),
    }
    sums = attrs.evolve(_state(), group_by="style", groups=groups).sums_by_group
    assert list(sums) == ["both", "first", "imported", "nothing"]
    assert sums["both"] == LearnedState({}, _state().absorbed).sums
    assert sums["first"] == LearnedState({"b": WorkerBase(1.5, 2.0, 0.5)}, {"x": _state().absorbed["x"]}).sums
    assert sums["imported"] == {"c": WorkerBase(2.0)}
    assert sums["nothing"] == {}
    assert _state().sums_by_group == {}


@given(
    st.lists(st.tuples(UNIT, UNIT, UNIT), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.randoms(),
)
def test_the_order_of_members_changes_no_bit(
    rows: list[tuple[float, float, float]], belongs: list[bool], random: random.Random
) -> None:
    absorbed = {
        str(number): {"a": Absorbed(one, 1.0, residual), "b": Absorbed(other, 1.0, residual)}
        for number, (one, other, residual) in enumerate(rows)
    }
    members = [digest for digest, is_member in zip(absorbed, belongs, strict=False) if is_member]
    expected = LearnedState({}, {digest: absorbed[digest] for digest in members}).sums
    order = random.sample([*absorbed], len(absorbed))
    random.shuffle(members)
    state = LearnedState({}, {digest: absorbed[digest] for digest in order}, groups={"style": Group(members)})
    assert state.sums_by_group == {"style": expected}


def test_how_far_examples_are_absorbed_is_the_mean_over_them_and_their_workers() -> None:
    state = _state()
    assert state.absorbed_share(["x"]) == 0.5
    assert state.absorbed_share(["y"]) == (1.0 + 0.25) / 2
    assert state.absorbed_share(["x", "y"]) == (0.5 + 0.625) / 2
    assert state.absorbed_share(["y", "x", "x"]) == (0.5 + 0.625) / 2  # each counts once, in any order
    assert state.absorbed_share(["x", "never seen"]) == 0.25
    assert state.absorbed_share([]) == 0.0
    assert LearnedState({}, {"x": {}}).absorbed_share(["x"]) == 0.0
    assert LearnedState({}, {"x": {"a": Absorbed(None, 1.0, 0.0)}}).absorbed_share(["x"]) == 1.0


def test_the_shares_of_a_fit_are_those_above_zero_in_order_of_worker() -> None:
    fitted = FittedBlend({"b": 0.75, "c": 0.0, "a": 0.25, "d": -0.0}, "greedy", 1.0)
    assert list(fitted.shares.items()) == [("a", 0.25), ("b", 0.75)]
    assert type(FittedBlend({"a": 1}, "greedy", 1.0).shares["a"]) is float
    assert fitted.digests == ()


def test_a_state_is_blank_while_it_says_nothing_but_the_prior() -> None:
    assert LearnedState().is_blank()
    assert not LearnedState(fitted=FittedBlend({"a": 1.0}, "greedy", 0.0)).is_blank()
    assert not LearnedState(group_by="style", groups={"warm": Group()}).is_blank()
    assert LearnedState({"a": WorkerBase(2.0)}).is_blank(2.0)
    assert not LearnedState({"a": WorkerBase(2.0)}).is_blank()
    assert not LearnedState({"a": WorkerBase(1.0, 1.0)}).is_blank()
    assert not LearnedState({}, {"x": {}}).is_blank()


def test_a_state_cannot_be_changed_through_what_it_was_made_from() -> None:
    bases = {"a": WorkerBase(1.0)}
    outcomes = {"a": Outcome(0.5)}
    state, evidence = LearnedState(bases), ExampleEvidence("x", outcomes)
    shares, members, groups = {"a": 1.0}, {"x"}, {"b": Group(), "a": Group()}
    fitted, group = FittedBlend(shares, "greedy", 1.0), Group(members, bases)
    grouped = LearnedState(group_by="style", groups=groups)
    bases["b"] = WorkerBase(1.0)
    outcomes["b"] = Outcome(None)
    shares["b"] = 1.0
    members.add("y")
    del groups["a"]
    assert (fitted.shares, group.bases) == ({"a": 1.0}, {"a": WorkerBase(1.0)})
    assert group.members == frozenset({"x"})
    assert list(grouped.groups) == ["a", "b"]
    assert state.bases == {"a": WorkerBase(1.0)}
    assert evidence.outcomes == {"a": Outcome(0.5)}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        state.bases = {}  # type: ignore[misc]


def test_a_state_survives_pickling_and_copying_with_its_sums() -> None:
    groups = {"warm": Group(["x"], fitted=FittedBlend({"a": 1.0}, "greedy", 0.5, ("x",)))}
    state = attrs.evolve(_state(), fitted=groups["warm"].fitted, group_by="style", groups=groups)
    expected = state.sums
    assert state.sums_by_group["warm"]["a"].update_count == 1
    for other in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state), attrs.evolve(state)):
        assert other == state
        assert other.sums == expected
        assert other.sums_by_group == state.sums_by_group
    assert math.isclose(expected["b"].evidence, 2.5)


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
