"""The Bayesian learner's state: exact sums that can be taken apart again, and the documents that stores keep of it."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.core import Totals, advantages, dumped, fixed, loaded, value
from tsm_training.learning import (
    BlendFits,
    ExampleEvidence,
    Exposure,
    FittedBlend,
    LearnedState,
    Outcome,
    SufficientStatistics,
    decoded_state,
    head_document,
    row_documents,
)
from tsm_training.learning.rule import absorb, forget, with_blends, with_workers

UNIT = st.floats(0.0, 1.0)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1e300, 1e300)
IDS = "abc"
STYLES = (None, "warm", "cold")
OUTCOMES = st.dictionaries(st.sampled_from(IDS), st.builds(Outcome, st.none() | UNIT, UNIT), min_size=1)
BATCHES = st.lists(st.tuples(OUTCOMES, st.sampled_from("tu")), min_size=1, max_size=6).map(
    lambda rows: [ExampleEvidence(str(number), row, target=target) for number, (row, target) in enumerate(rows)]
)
ALPHAS = st.floats(0.01, 1.0)


# --- exact sums -----------------------------------------------------------------------------------------------------


@given(st.lists(MODERATE, max_size=12), st.lists(MODERATE, max_size=12), st.data())
def test_a_sum_is_that_of_what_is_left_in_it_in_whatever_order_it_was_changed(
    kept: list[float], gone: list[float], data: st.DataObject
) -> None:
    steps = [*((1, number) for number in [*kept, *gone]), *((-1, number) for number in gone)]
    total = sum(sign * fixed(number) for sign, number in data.draw(st.permutations(steps)))
    assert total == sum(map(fixed, kept))
    assert value(total) == math.fsum(kept)


@given(FINITE)
def test_every_finite_float_is_held_exactly(number: float) -> None:
    assert value(fixed(number)) == number


@pytest.mark.parametrize("number", [0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1.7976931348623157e308, 0.1, -3.0])
def test_the_ends_of_the_range_are_held_too(number: float) -> None:
    assert value(fixed(number)) == number
    assert loaded(dumped(fixed(number))) == fixed(number)


@given(st.lists(FINITE, max_size=6))
def test_a_sum_survives_as_text(numbers: list[float]) -> None:
    total = sum(map(fixed, numbers))
    assert loaded(dumped(total)) == total


@pytest.mark.parametrize("text", ["", "p", "1", "xp0", "1p", "1px"])
def test_a_text_that_is_no_sum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        loaded(text)


# --- statistics -----------------------------------------------------------------------------------------------------


def state_of(
    rows: Mapping[str, Mapping[str, Exposure]], imported: Mapping[str, SufficientStatistics] | None = None
) -> LearnedState:
    """Return a state that has absorbed so much of these outcomes."""
    state = LearnedState(
        {worker_id: sums.prior for worker_id, sums in (imported or {}).items()},
        {worker_id: Totals.of(sums) for worker_id, sums in (imported or {}).items()},
    )
    for digest, outcomes in rows.items():
        for worker_id, exposure in outcomes.items():
            item = ExampleEvidence(digest, {worker_id: Outcome(exposure.accuracy, exposure.confidence)})
            alpha = 1.0 - exposure.remaining
            state = absorb(state, [item], alpha, 1.0, int(alpha > 0.0))
    return state


X: Mapping[str, Exposure] = {"a": Exposure(0.75, 1.0, 0.5), "b": Exposure(0.25, 0.5, 0.5)}
Y: Mapping[str, Exposure] = {"a": Exposure(0.5, 1.0, 0.0), "b": Exposure(None, 0.25, 0.75)}
BASES: Mapping[str, SufficientStatistics] = {
    "a": SufficientStatistics(1.0),
    "b": SufficientStatistics(1.5, 2.0, 0.5, 0.25, 1.5, 3, 4, 0.0, 1.0, 0.25, 0.0625),
}


def test_statistics_are_the_base_plus_every_absorbed_share() -> None:
    assert state_of({"x": X, "y": Y}, BASES).statistics == {
        "a": SufficientStatistics(1.0, 1.5, 0.25, 0.125, 1.25, 2, 2, 0.0, 0.25 + 1.0, 0.125, 0.0625),
        # a failure counts with confidence 1, whatever was stated
        "b": SufficientStatistics(
            1.5,
            2.0 + 0.25 + 0.25,
            0.5 - 0.125 - 0.25,
            0.25 + 0.0625 + 0.25,
            1.75,
            4,
            6,
            0.25,
            1.0 + 0.0625 + 0.0625,
            0.25 - 0.03125 - 0.0625,
            0.0625 + 0.015625 + 0.0625,
        ),
    }


def test_examples_of_one_target_are_one_sum() -> None:
    one = [ExampleEvidence(digest, {"a": Outcome(0.75), "b": Outcome(0.25)}, target="t") for digest in "xy"]
    state = absorb(LearnedState(), one, 0.5, 1.0)
    sums = state.statistics["a"]
    assert (sums.evidence, sums.advantage) == (1.0, 0.5)
    assert (sums.target_evidence, sums.target_product, sums.target_advantage) == (1.0, 0.5, 0.25)
    apart = absorb(LearnedState(), [attrs.evolve(item, target=item.digest) for item in one], 0.5, 1.0)
    sums = apart.statistics["a"]
    assert (sums.target_evidence, sums.target_product, sums.target_advantage) == (0.5, 0.25, 0.125)
    assert ExampleEvidence("x", {}).target == "x"
    # an example that turns out to show another target moves there
    assert absorb(apart, one, 0.5, 1.0) == absorb(state, one, 0.5, 1.0)


def test_an_image_without_any_confidence_adds_no_evidence_and_changes_nobody_elses() -> None:
    sure = {"a": Exposure(0.75, 1.0, 0.0), "b": Exposure(0.25, 1.0, 0.0)}
    doubted = state_of({"x": {**sure, "c": Exposure(1.0, 0.0, 0.0)}}).statistics
    assert {w: doubted[w] for w in sure} == state_of({"x": sure}).statistics
    assert doubted["c"] == SufficientStatistics(1.0, accuracy_sum=1.0, valid_count=1, update_count=1)


@given(st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=12), st.randoms())
def test_statistics_are_exact_totals_rounded_once_in_whatever_order_examples_came(
    rows: list[tuple[float, float, float, float]], random: object
) -> None:
    exposures = {
        str(number): {"a": Exposure(one, confidence, remaining), "b": Exposure(other, 1.0, 0.5)}
        for number, (one, other, confidence, remaining) in enumerate(rows)
    }
    imported = {"a": SufficientStatistics(1.0, 2.0)}
    state = state_of(exposures, imported)
    shares, gains = [], []
    for row in state.rows.values():
        a = row.outcomes["a"]
        shares.append((1.0 - a.remaining) * a.confidence)
        gains.append(advantages({w: Outcome(o.accuracy, o.confidence) for w, o in row.outcomes.items()})["a"])
    sums = state.statistics["a"]
    assert sums.evidence == math.fsum([2.0, *shares])
    assert sums.advantage == math.fsum(share * gain for share, gain in zip(shares, gains, strict=True))
    assert sums.squared_advantage == math.fsum(share * gain**2 for share, gain in zip(shares, gains, strict=True))
    assert sums.accuracy_sum == math.fsum(one for one, _, _, _ in rows)
    assert sums.update_count == sums.valid_count == len(rows)
    order = list(exposures)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert state_of({digest: exposures[digest] for digest in order}, imported) == state


def test_a_group_has_statistics_of_its_own_members() -> None:
    labels = {"x": "warm", "y": "cold"}
    state = with_blends(state_of({"x": X, "y": Y}, BASES), BlendFits(None, "style", labels))
    assert state.statistics_by_group == {
        "warm": state_of({"x": X}).statistics,
        "cold": state_of({"y": Y}).statistics,
    }
    assert {label: group.num_examples for label, group in state.groups.items()} == {"warm": 1, "cold": 1}
    assert state_of({"x": X}).statistics_by_group == {}


def test_how_far_examples_are_absorbed_is_the_mean_over_them_and_their_workers() -> None:
    assert state_of({"x": X}).absorbed_share == 0.5
    assert state_of({"y": Y}).absorbed_share == (1.0 + 0.25) / 2
    assert state_of({"x": X, "y": Y}).absorbed_share == (0.5 + 0.625) / 2
    assert state_of({"x": {"a": Exposure(None, 1.0, 0.0)}}).absorbed_share == 1.0
    assert LearnedState().absorbed_share == 0.0
    assert absorb(LearnedState(), [ExampleEvidence("x", {})], 0.5, 1.0).absorbed_share == 0.0


def test_the_shares_of_a_fit_are_those_above_zero_in_order_of_worker() -> None:
    fitted = FittedBlend({"b": 0.75, "c": 0.0, "a": 0.25, "d": -0.0}, "greedy", 1.0)
    assert list(fitted.shares.items()) == [("a", 0.25), ("b", 0.75)]
    assert type(FittedBlend({"a": 1}, "greedy", 1.0).shares["a"]) is float
    assert fitted.digests == ()


def test_a_state_survives_pickling_and_copying_with_its_statistics() -> None:
    fitted = FittedBlend({"a": 1.0}, "greedy", 0.5, ("x",))
    fits = BlendFits(fitted, "style", {"x": "warm", "y": None}, {"warm": fitted})
    state = with_blends(state_of({"x": X, "y": Y}, BASES), fits)
    expected = dict(state.statistics)
    for other in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state), attrs.evolve(state)):
        assert other == state
        assert (other.statistics, other.statistics_by_group) == (expected, state.statistics_by_group)


# --- any history ----------------------------------------------------------------------------------------------------


def learned(batch: list[ExampleEvidence], labels: Mapping[str, str | None], alpha: float) -> LearnedState:
    """Return what is known after a training on these examples."""
    state = absorb(with_workers(LearnedState(), IDS, 1.0), batch, alpha, 1.0, 2)
    digests = tuple(item.digest for item in batch)
    blend = FittedBlend({"a": 1.0}, "greedy", 0.0, digests[:1])
    groups = {label: blend for label in labels.values() if label is not None}
    return with_blends(state, BlendFits(blend, "style", labels, groups))


def labelled(batch: list[ExampleEvidence], data: st.DataObject) -> dict[str, str | None]:
    return {item.digest: data.draw(st.sampled_from(STYLES)) for item in batch}


@settings(max_examples=50)
@given(BATCHES, ALPHAS, st.data())
def test_absorbing_and_forgetting_in_any_order_leaves_the_state_as_if_never_seen(
    batch: list[ExampleEvidence], alpha: float, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from([item.digest for item in batch])))
    steps = [item for item in batch for _ in range(2)]
    state = with_workers(LearnedState(), IDS, 1.0)
    forgotten: set[str] = set()
    for item in data.draw(st.permutations(steps)):
        if item.digest not in forgotten:
            state = absorb(state, [item], alpha, 1.0)
        if item.digest in gone and data.draw(st.booleans()):
            state, forgotten = forget(state, {item.digest}), forgotten | {item.digest}
    state = forget(state, gone)
    kept = [item for item in batch if item.digest not in gone]
    assert state == absorb(with_workers(LearnedState(), IDS, 1.0), kept, alpha, 1.0, 2)


@settings(max_examples=40)
@given(BATCHES, BATCHES, ALPHAS, st.data())
def test_the_rows_that_are_concerned_are_all_that_a_change_needs(
    batch: list[ExampleEvidence], news: list[ExampleEvidence], alpha: float, data: st.DataObject
) -> None:
    whole = learned(batch, labelled(batch, data), alpha)
    concerned = {item.digest for item in news}
    rows = {digest: row for digest, row in whole.rows.items() if digest in concerned}
    beside = {row.target for row in rows.values()} | {item.target for item in news}
    part = attrs.evolve(whole, rows=rows, targets={t: sums for t, sums in whole.targets.items() if t in beside})
    again = BlendFits(FittedBlend({"b": 1.0}, "greedy", 0.0, ("0",)), "style", labelled(news, data))
    for change in (
        lambda state: absorb(state, news, alpha, 1.0),
        lambda state: forget(state, concerned),
        lambda state: with_blends(absorb(state, news, alpha, 1.0), again),
    ):
        assert head_document(change(part)) == head_document(change(whole))
        assert change(part).rows.items() <= change(whole).rows.items()
        assert change(part).targets.items() <= change(whole).targets.items()


@settings(max_examples=40)
@given(BATCHES, ALPHAS, st.data())
def test_a_state_comes_back_from_its_documents(batch: list[ExampleEvidence], alpha: float, data: st.DataObject) -> None:
    state = learned(batch, labelled(batch, data), alpha)
    assert decoded_state(head_document(state), row_documents(state)) == state
    head = decoded_state(head_document(state), {})
    assert head == attrs.evolve(state, rows={}, targets={})
    assert head.statistics == state.statistics


def test_a_label_under_another_key_than_the_last_says_nothing() -> None:
    state = learned([ExampleEvidence("x", {"a": Outcome(0.5)})], {"x": "warm"}, 0.5)
    regrouped = with_blends(state, BlendFits(None, "camera"))
    again = decoded_state(head_document(regrouped), row_documents(state))
    assert again.rows["x"].group is None


@pytest.mark.parametrize("head", ["", "null", "[]", "{}", '{"priors": {}}', '{"group_by": null, "groups": 1}'])
def test_a_document_that_is_no_state_is_refused(head: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        decoded_state(head, {})
