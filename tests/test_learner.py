"""The laws of learning, each stated by the name of its test."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tsm_training.arguments import check_number
from tsm_training.core import Totals, fixed
from tsm_training.errors import InvalidArgumentError, TrainingInProgressError
from tsm_training.learning import (
    BlendFits,
    ExampleEvidence,
    FittedBlend,
    LearnedState,
    Outcome,
)
from tsm_training.learning.rule import absorb
from tsm_training.weights import (
    CREDIBLE_MASS,
    BayesianWeightLearner,
    CellHome,
    LearnedChange,
    LearnerCell,
    Snapshot,
    WeightLearner,
)

UNIT = st.floats(0.0, 1.0)
ALPHAS = st.floats(0.01, 1.0)
IDS = "abcd"
OUTCOMES = st.builds(Outcome, st.none() | UNIT, UNIT)
BATCHES = st.lists(st.dictionaries(st.sampled_from(IDS), OUTCOMES, min_size=1), min_size=1, max_size=8).map(
    lambda rows: [ExampleEvidence(f"example {number}", row) for number, row in enumerate(rows)]
)
FULL_BATCHES = st.lists(st.tuples(*[UNIT] * len(IDS)), min_size=1, max_size=8).map(
    lambda rows: [example(number, dict(zip(IDS, row, strict=True))) for number, row in enumerate(rows)]
)


def example(number: int, accuracies: Mapping[str, float | None], confidence: float = 1.0) -> ExampleEvidence:
    return ExampleEvidence(f"example {number}", {k: Outcome(a, confidence) for k, a in accuracies.items()})


def trained(
    batch: Sequence[ExampleEvidence], alpha: float = 0.3, passes: int = 1, **settings_: Any
) -> BayesianWeightLearner:
    learner = BayesianWeightLearner(alpha, **settings_)
    learner.add_workers(IDS)
    learner.cell.update(lambda before: Snapshot(learner.absorb(before.state, batch, passes)))
    return learner


def known(learner: BayesianWeightLearner) -> tuple[dict[str, Any], dict[str, float]]:
    """Everything that a learner says."""
    return dict(learner.get_all_statistics()), learner.get_blend_weights()


# --- order, equality, direction -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(BATCHES, ALPHAS, st.data())
def test_the_order_of_examples_and_batches_changes_nothing(
    batch: list[ExampleEvidence], alpha: float, data: st.DataObject
) -> None:
    stepwise = trained([], alpha)
    for item in data.draw(st.permutations(batch)):
        stepwise.observe([item])
    assert known(stepwise) == known(trained(batch, alpha))


@given(st.lists(st.tuples(st.none() | UNIT, st.none() | UNIT, UNIT), min_size=1, max_size=8), ALPHAS)
def test_equal_workers_stay_equal(rows: list[tuple[float | None, float | None, float]], alpha: float) -> None:
    batch = [
        example(i, {"a": same, "b": other, "c": same}, confidence) for i, (same, other, confidence) in enumerate(rows)
    ]
    statistics, shares = known(trained(batch, alpha, 2))
    assert statistics["a"] == statistics["c"]
    assert shares["a"] == shares["c"]


@given(st.lists(st.tuples(UNIT, st.floats(1e-3, 1.0), UNIT), min_size=1, max_size=8), ALPHAS)
def test_a_worker_that_is_better_on_every_example_ends_higher(
    rows: list[tuple[float, float, float]], alpha: float
) -> None:
    batch = [example(i, {"a": max(0.0, a - gap), "b": a + gap * (1 - a), "c": c}) for i, (a, gap, c) in enumerate(rows)]
    learner = trained(batch, alpha, 3)
    assert learner.get_weight("b") > learner.get_weight("a")
    # Of two workers with much the same spread the better one has the larger share.
    pair = trained([example(i, {"a": max(0.0, a - gap), "b": a + gap * (1 - a)}) for i, (a, gap, _) in enumerate(rows)])
    shares = pair.get_blend_weights(worker_ids="ab")
    assert shares["b"] >= shares["a"]


@given(FULL_BATCHES, ALPHAS)
def test_the_mean_weight_stays_at_the_prior_where_nothing_failed(batch: list[ExampleEvidence], alpha: float) -> None:
    clipped = [item for item in batch if _largest_ratio(item) <= 2.0]  # an advantage above 1 is cut off
    weights = trained(clipped, alpha, 2).get_all_weights()
    assert math.fsum(weights.values()) / len(weights) == pytest.approx(1.0, abs=1e-12)


def _largest_ratio(item: ExampleEvidence) -> float:
    accuracies = [outcome.accuracy or 0.0 for outcome in item.outcomes.values()]
    mean = math.fsum(accuracies) / len(accuracies)
    return max(accuracies) / mean if mean else 0.0


@given(FULL_BATCHES, ALPHAS, st.floats(0.0, 1.0))
def test_a_failing_worker_only_loses_and_changes_nobody_else(
    batch: list[ExampleEvidence], alpha: float, confidence: float
) -> None:
    with_failure = [
        attrs.evolve(item, outcomes={**item.outcomes, "broken": Outcome(None, confidence)}) for item in batch
    ]
    without, beside = trained(batch, alpha), trained(with_failure, alpha)
    for worker_id in IDS:
        assert beside.get_statistics(worker_id) == without.get_statistics(worker_id)
    assert beside.get_weight("broken") < 1.0
    assert beside.get_statistics("broken")["mean_accuracy"] is None
    assert beside.get_statistics("broken")["failure_count"] == len(batch)
    before = beside.get_weight("broken")
    beside.observe(with_failure)
    assert beside.get_weight("broken") <= before


@given(UNIT, ALPHAS)
def test_evidence_about_one_worker_alone_says_nothing_of_its_weight(accuracy: float, alpha: float) -> None:
    learner = trained([example(0, {"a": accuracy})], alpha, 5)
    assert learner.get_all_weights() == dict.fromkeys(IDS, 1.0)


def test_weights_reach_far_above_and_below_the_prior_but_never_zero() -> None:
    learner = trained([example(i, {"a": 1.0, "b": 0.0, "c": 0.0}) for i in range(300)], 1.0)
    assert 1.9 < learner.get_weight("a") < 2.0
    assert 0.0 < learner.get_weight("b") < 0.05


# --- confidence -----------------------------------------------------------------------------------------------------


@given(UNIT, UNIT, UNIT, UNIT, ALPHAS)
def test_lower_confidence_moves_a_weight_less_and_never_the_other_way(
    accuracy: float, other: float, one: float, two: float, alpha: float
) -> None:
    def weight(confidence: float) -> float:
        outcomes = {"a": Outcome(accuracy, confidence), "b": Outcome(other)}
        return trained([ExampleEvidence("x", outcomes)], alpha).get_weight("a")

    low, high = sorted((one, two))
    assert abs(weight(low) - 1.0) <= abs(weight(high) - 1.0)
    direction = (accuracy > other) - (accuracy < other)
    assert (weight(low) - 1.0) * direction >= 0.0
    assert (weight(low) <= 1.0) or accuracy > other


@settings(max_examples=30)
@given(BATCHES, ALPHAS)
def test_without_confidence_scaling_every_confidence_counts_in_full(batch: list[ExampleEvidence], alpha: float) -> None:
    sure = [attrs.evolve(item, outcomes={k: Outcome(o.accuracy) for k, o in item.outcomes.items()}) for item in batch]
    assert known(trained(batch, alpha, confidence_scaling=False)) == known(trained(sure, alpha))


# --- passes ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.tuples(*[UNIT] * len(IDS)), min_size=10, max_size=10), ALPHAS)
def test_a_hundred_epochs_leave_no_more_certainty_than_seeing_everything_once_in_full(
    rows: list[tuple[float, ...]], alpha: float
) -> None:
    batch = [example(number, dict(zip(IDS, row, strict=True))) for number, row in enumerate(rows)]
    many, once = trained(batch, alpha, 100), trained(batch, 1.0)
    for worker_id in IDS:
        long, full = many.get_statistics(worker_id), once.get_statistics(worker_id)
        assert long["evidence"] <= full["evidence"] == 10.0
        # At the end of many passes both are the same but for rounding.
        assert long["weight_std"] >= full["weight_std"] * (1.0 - 1e-9)


def test_passes_saturate() -> None:
    batch = [example(0, {"a": 0.9, "b": 0.6})]
    learner = trained(batch, 0.5, 0)
    weights = [learner.get_weight("a")]
    for _ in range(60):
        learner.observe(batch)
        weights.append(learner.get_weight("a"))
    steps = [after - before for before, after in itertools.pairwise(weights)]
    assert all(later <= earlier + 1e-15 for earlier, later in itertools.pairwise(steps))
    assert steps[0] > 0.0
    assert steps[-1] == 0.0
    assert weights[-1] == trained(batch, 1.0).get_weight("a")


# --- shares ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(BATCHES, ALPHAS)
def test_shares_are_never_negative_and_sum_to_one(batch: list[ExampleEvidence], alpha: float) -> None:
    shares = trained(batch, alpha).get_blend_weights()
    assert list(shares) == sorted(IDS)
    assert all(share >= 0.0 for share in shares.values())
    assert math.fsum(shares.values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("count", [1, 7])
def test_shares_are_equal_when_nothing_is_known(count: int) -> None:
    learner = BayesianWeightLearner()
    learner.add_workers(f"worker {number}" for number in range(count))
    shares = learner.get_blend_weights()
    assert len(shares) == count
    assert len(set(shares.values())) == 1


def test_there_are_no_shares_without_workers() -> None:
    assert BayesianWeightLearner().get_blend_weights() == {}
    assert BayesianWeightLearner().get_blend_weights(worker_ids=[]) == {}


def test_an_untested_worker_gets_no_share_once_others_are_tested() -> None:
    learner = trained([example(i, {"a": 0.8, "b": 0.79}) for i in range(5)], 0.5)
    shares = learner.get_blend_weights()
    assert shares["c"] == shares["d"] == 0.0
    learner.observe([ExampleEvidence("weak", {"c": Outcome(0.8, 0.01), "a": Outcome(0.8), "b": Outcome(0.8)})])
    assert 0.0 < learner.get_blend_weights()["c"] < 0.01


def test_an_untested_worker_with_an_unreachable_prior_leaves_the_shares_to_the_tested_ones() -> None:
    cell = LearnerCell(LearnedState({"imported": 100.0, "a": 1.0, "b": 1.0}))
    learner = BayesianWeightLearner(1.0, cell=cell)
    learner.observe([example(i, {"a": 0.8, "b": 0.8}) for i in range(9)])
    assert learner.get_blend_weights() == {"a": 0.5, "b": 0.5, "imported": 0.0}


def test_shares_can_be_asked_for_some_workers_and_for_unknown_ones() -> None:
    learner = trained([example(i, {"a": 0.9, "b": 0.6, "c": 0.6}) for i in range(4)])
    assert learner.get_blend_weights(worker_ids=["b", "c", "b"]) == {"b": 0.5, "c": 0.5}
    assert learner.get_blend_weights(worker_ids=["a", "new"]) == {"a": 1.0, "new": 0.0}
    assert learner.get_blend_weights((1.0, 2.0)) == learner.get_blend_weights()


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_of_two_that_are_as_likely_the_best_the_one_that_is_better_known_has_the_larger_share(strength: float) -> None:
    cell = LearnerCell(
        LearnedState({"little": 1.0, "much": 1.0}, {"little": Totals(fixed(1.0)), "much": Totals(fixed(100.0))})
    )
    shares = BayesianWeightLearner(prior_strength=strength, cell=cell).get_blend_weights()
    known = {"little": 1.0 / (1.0 + strength), "much": 100.0 / (100.0 + strength)}
    assert shares == pytest.approx({name: part / sum(known.values()) for name, part in known.items()}, rel=1e-9)


def test_with_more_evidence_the_better_worker_takes_more_of_the_picture() -> None:
    shares = [
        trained([example(i, {"a": 0.82, "b": 0.8}) for i in range(count)]).get_blend_weights(worker_ids="ab")["a"]
        for count in (0, 1, 10, 100)
    ]
    assert shares[0] == 0.5
    assert shares == sorted(set(shares))


def fitted(
    learner: BayesianWeightLearner, absorbed: float, /, safe: Mapping[str, float] | None = None, **shares: float
) -> BayesianWeightLearner:
    """Return the learner, with a fit in its cell that is followed so far."""
    fit = FittedBlend(shares, "greedy", absorbed, safe=safe or {})
    learner.cell.update(lambda before: Snapshot(attrs.evolve(before.state, fitted=fit)))
    return learner


@settings(max_examples=30)
@given(BATCHES, ALPHAS, st.dictionaries(st.sampled_from(IDS), st.floats(0.01, 1.0), min_size=1), UNIT)
def test_a_fit_is_followed_as_far_as_its_examples_are_absorbed(
    batch: list[ExampleEvidence], alpha: float, amounts: dict[str, float], absorbed: float
) -> None:
    learner = trained(batch, alpha)
    posterior = learner.get_blend_weights()
    fit = {worker_id: amounts.get(worker_id, 0.0) / math.fsum(amounts.values()) for worker_id in IDS}
    shares = fitted(learner, absorbed, **fit).get_blend_weights()
    assert list(shares) == sorted(IDS)
    expected = {w: (1.0 - absorbed) * posterior[w] + absorbed * fit[w] for w in IDS}
    assert shares == pytest.approx(expected, abs=1e-12)
    if absorbed == 0.0:
        assert shares == posterior


def test_what_is_not_absorbed_leans_on_the_safe_shares() -> None:
    learner = fitted(trained([example(i, {"a": 0.9, "b": 0.6, "c": 0.7}) for i in range(4)]), 0.75, {"c": 1.0}, b=1.0)
    assert learner.get_blend_weights(worker_ids="abc") == {"a": 0.0, "b": 0.75, "c": 0.25}
    # Of the safe shares too, the workers count that are asked for; without any, the posterior stands in for them.
    assert learner.get_blend_weights(worker_ids="bc") == {"b": 0.75, "c": 0.25}
    assert learner.get_blend_weights(worker_ids="ac") == {"a": 0.0, "c": 1.0}
    posterior = trained([example(i, {"a": 0.9, "b": 0.6, "c": 0.7}) for i in range(4)])
    shares = posterior.get_blend_weights(worker_ids="ab")
    expected = {"a": 0.25 * shares["a"], "b": 0.25 * shares["b"] + 0.75}
    assert learner.get_blend_weights(worker_ids="ab") == pytest.approx(expected)


def test_a_fit_changes_no_weight_and_no_statistics() -> None:
    learner = trained([example(i, {"a": 0.9, "b": 0.6}) for i in range(4)])
    before = learner.get_all_weights(), learner.get_all_statistics()
    fitted(learner, 1.0, b=1.0)
    assert (learner.get_all_weights(), learner.get_all_statistics()) == before


def styled() -> BayesianWeightLearner:
    """Return a learner that saw that ``a`` is better where it is warm, and ``b`` where it is cold."""
    warm = [example(number, {"a": 0.9, "b": 0.6}) for number in range(8)]
    cold = [example(number, {"a": 0.6, "b": 0.9}) for number in range(8, 16)]
    labels = {e.digest: style for style, batch in (("warm", warm), ("cold", cold)) for e in batch}
    learner = trained([*warm, *cold], 0.5)
    learner.cell.update(lambda before: Snapshot(learner.with_blends(before.state, BlendFits(None, "style", labels))))
    return learner


def test_a_learner_in_a_group_has_the_weights_and_shares_of_that_group() -> None:
    learner = styled()
    warm, cold = learner.in_group("warm"), learner.in_group("cold")
    assert warm.get_weight("a") > learner.get_weight("a") > cold.get_weight("a")
    assert warm.get_blend_weights()["a"] > 0.9
    assert cold.get_blend_weights()["b"] > 0.9
    assert warm.get_statistics("a")["update_count"] == 8
    assert attrs.evolve(warm, cell=learner.cell).get_all_weights() == learner.get_all_weights()


def test_a_learner_in_a_group_that_is_not_known_says_what_is_said_of_all() -> None:
    learner = fitted(styled(), 0.5, a=0.75, b=0.25)
    for label in ("unknown", ""):
        assert known(learner.in_group(label)) == known(learner)


@pytest.mark.parametrize("group", [None, [1], math.nan])
def test_what_can_be_no_group_is_refused(group: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match=re.escape(f"group must be text, a number, True or False, got {group}")
    ):
        styled().in_group(group)


def test_a_stronger_prior_shrinks_groups_further() -> None:
    weak, strong = (attrs.evolve(styled(), prior_strength=strength) for strength in (1.0, 30.0))
    assert weak.in_group("warm").get_weight("a") - 1.0 > 2.0 * (strong.in_group("warm").get_weight("a") - 1.0) > 0.0


def test_a_learner_in_a_group_is_a_copy_as_of_now_that_is_never_stored() -> None:
    learner = styled()
    warm = learner.in_group("warm")
    before = known(warm)
    learner.observe([example(1, {"a": 0.1, "b": 0.9})])
    assert known(warm) == before
    warm.observe([example(2, {"a": 0.1, "b": 0.9})])
    assert learner.get_statistics("a")["update_count"] == 16
    assert warm.cell.is_trial
    assert (warm.alpha, warm.prior_strength) == (learner.alpha, learner.prior_strength)


# --- statistics -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(BATCHES, ALPHAS)
def test_the_interval_contains_the_weight(batch: list[ExampleEvidence], alpha: float) -> None:
    learner = trained(batch, alpha)
    for worker_id, statistics in learner.get_all_statistics().items():
        low, high = statistics["credible_interval"]
        weight, std = statistics["weight"], statistics["weight_std"]
        assert weight == learner.get_weight(worker_id)
        assert low <= weight <= high
        assert NormalDist(0.0, std).cdf((high - low) / 2) == pytest.approx((1 + CREDIBLE_MASS) / 2)
        assert statistics == learner.get_statistics(worker_id)


def test_the_interval_shrinks_with_evidence() -> None:
    stds = [
        trained([example(i, {"a": 0.82, "b": 0.8}) for i in range(count)]).get_statistics("a")["weight_std"]
        for count in (1, 3, 10, 30, 100)
    ]
    assert stds == sorted(set(stds), reverse=True)


@pytest.mark.parametrize(("repeats", "passes"), [(1, 1), (4, 1), (4, 20), ((1, 2, 9, 1, 5), 3)])
def test_the_interval_counts_targets(repeats: int | tuple[int, ...], passes: int) -> None:
    rng = np.random.default_rng(0)
    counts = np.broadcast_to(repeats, 5)
    targets = np.repeat(np.arange(5), counts)
    scores = 0.7 + rng.normal(0.0, 0.05, (2, 5))[:, targets] + rng.normal(0.0, 0.01, (2, len(targets)))
    batch = [
        ExampleEvidence(f"example {i}", {"a": Outcome(a), "b": Outcome(b)}, target=f"target {targets[i]}")
        for i, (a, b) in enumerate(scores.T)
    ]
    advantages = scores[0] / scores.mean(axis=0) - 1.0
    share = 1.0 - 0.8**passes
    n_t, a_t = (np.bincount(targets, share * weights) for weights in (np.ones(len(targets)), advantages))
    whole, number = a_t.sum() / n_t.sum(), n_t.sum() ** 2 / (n_t**2).sum()
    squares = ((a_t - whole * n_t) ** 2).sum() + (0.02 + 0.03 / number) ** 2 * (n_t**2).sum() / number
    half_width = stats.t.ppf(0.95, max(2.0, number - 1.0)) * math.sqrt(squares) / n_t.sum()
    statistics = trained(batch, 0.2, passes).get_statistics("a")
    expected = 1.0 + whole - half_width, 1.0 + whole + half_width
    weight = statistics["weight"]
    assert statistics["credible_interval"] == pytest.approx((min(expected[0], weight), max(expected[1], weight)))
    assert statistics["update_count"] == len(batch)


def test_no_interval_leaves_the_range_that_a_weight_can_have() -> None:
    lost = trained([example(i, {"a": None, "b": 0.8}) for i in range(4)])
    assert lost.get_statistics("a")["credible_interval"][0] == 0.0
    won = trained([example(i, {"a": 1.0, "b": 0.0, "c": 0.0}) for i in range(4)])
    assert won.get_statistics("a")["credible_interval"][1] == 2.0


@pytest.mark.parametrize("names", [{"target": None}, {"target": 5}, {"target": ""}, {"digest": "target/x"}])
def test_evidence_whose_names_could_not_be_kept_is_refused(names: dict[str, Any]) -> None:
    learner = BayesianWeightLearner()
    with pytest.raises(InvalidArgumentError) as caught:
        learner.observe([ExampleEvidence(**{"digest": "x", "outcomes": {"a": Outcome(0.5)}, **names})])
    assert caught.value.seen == next(iter(names.values()))
    assert learner.state.rows == {}


def test_without_evidence_the_interval_is_the_priors() -> None:
    learner = BayesianWeightLearner(prior_weight=2.0)
    learner.add_workers(["a"])
    half_width = 1.6448536 * 2.0 * 0.05 / math.sqrt(3.0)
    assert learner.get_statistics("a")["credible_interval"] == pytest.approx((2.0 - half_width, 2.0 + half_width))


def test_statistics_tell_what_was_seen() -> None:
    learner = trained([example(0, {"a": 0.9, "b": 0.6}), example(1, {"a": None, "b": 0.8})], 0.5, 2)
    a, b = learner.get_statistics("a"), learner.get_statistics("b")
    assert (a["mean_accuracy"], a["update_count"], a["failure_count"], a["evidence"]) == (0.9, 2, 1, 1.5)
    assert b["mean_accuracy"] == pytest.approx(0.7)
    assert (b["update_count"], b["failure_count"], b["prior_weight"]) == (2, 0, 1.0)
    # d of a: 0.9 / 0.75 − 1 = 0.2 on the first, −1 on the second; share 0.75 each
    assert a["weight"] == pytest.approx(1.0 + 0.75 * (0.2 - 1.0) / (1.5 + 3.0))
    assert b["weight"] == pytest.approx(1.0 + 0.75 * (-0.2 + 0.0) / (1.5 + 3.0))


def test_an_unknown_worker_stands_at_the_prior() -> None:
    learner = BayesianWeightLearner(prior_weight=2.0)
    statistics = learner.get_statistics("nobody")
    assert learner.get_weight("nobody") == statistics["weight"] == statistics["prior_weight"] == 2.0
    assert statistics["mean_accuracy"] is None
    assert learner.get_all_weights() == {}
    assert learner.get_all_statistics() == {}


# --- settings -------------------------------------------------------------------------------------------------------

UNTOUCHED = LearnerCell()
BAD_NUMBERS = [True, False, math.nan, math.inf, -math.inf, "0.5", b"1", None, 0, 0.0, -0.0, -1, 1j, [0.5], 10**400]


@pytest.mark.parametrize(
    ("name", "most", "attempt"),
    [
        ("alpha", "1", BayesianWeightLearner),
        ("alpha", "1", BayesianWeightLearner().with_alpha),
        ("prior_weight", "1e6", lambda value: BayesianWeightLearner(prior_weight=value)),
        ("prior_strength", "1e9", lambda value: BayesianWeightLearner(prior_strength=value)),
        ("default_weight", "1e6", lambda value: trained([], cell=UNTOUCHED).reset(value)),
    ],
)
def test_a_number_outside_its_range_is_refused(name: str, most: str, attempt: Callable[[Any], object]) -> None:
    for value in (*BAD_NUMBERS, math.nextafter(float(most), math.inf), 2e9):
        with pytest.raises(InvalidArgumentError) as caught:
            attempt(value)
        assert (caught.value.argument, caught.value.expected) == (name, f"a number above 0 and at most {most}")
    assert UNTOUCHED.state is None or UNTOUCHED.state == LearnedState(dict.fromkeys(IDS, 1.0))


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_confidence_scaling_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"confidence_scaling must be True or False, got {value!r}"):
        BayesianWeightLearner(confidence_scaling=value)


def test_whole_numbers_become_floats() -> None:
    for learner in (BayesianWeightLearner(1, 2, 3), BayesianWeightLearner(1, 10**6, 10**9)):
        assert [type(x) for x in (learner.alpha, learner.prior_weight, learner.prior_strength)] == [float, float, float]


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.2), ("cell", LearnerCell()), ("prior_weight", 2.0)])
def test_a_learner_is_frozen(name: str, value: object) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(BayesianWeightLearner(), name, value)


def test_learners_compare_by_identity() -> None:
    learner = BayesianWeightLearner()
    assert learner != BayesianWeightLearner()
    assert isinstance(learner, WeightLearner)
    assert "cell" not in repr(learner)


@pytest.mark.parametrize(
    ("value", "low_allowed", "good"),
    [
        (0.0, True, True),
        (0.0, False, False),
        (1.0, True, True),
        (1, False, True),
        (1.0000001, True, False),
        (-1, True, False),
    ],
)
def test_check_number_knows_which_ends_belong_to_the_range(value: float, low_allowed: bool, good: bool) -> None:
    if good:
        check_number("x", value, 0.0, 1.0, "fine", low_allowed=low_allowed)
    else:
        with pytest.raises(InvalidArgumentError, match="x must be fine, got"):
            check_number("x", value, 0.0, 1.0, "fine", low_allowed=low_allowed)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", True])
@pytest.mark.parametrize("name", ["accuracy", "confidence"])
def test_evidence_out_of_range_is_refused_and_nothing_of_the_batch_absorbed(name: str, value: Any) -> None:
    learner = trained([])
    before = learner.cell.state
    bad = ExampleEvidence("bad", {"a": attrs.evolve(Outcome(0.5), **{name: value})})
    with pytest.raises(InvalidArgumentError, match=f"{name} of 'a' must be a number between 0 and 1, got"):
        learner.observe([example(0, {"a": 0.5}), bad])
    assert learner.cell.state is before


# --- other learners -------------------------------------------------------------------------------------------------


def test_a_learner_with_another_alpha_shares_everything_that_is_learned() -> None:
    slow = trained([], 0.1)
    fast = slow.with_alpha(0.5)
    fast.observe([example(0, {"a": 0.9, "b": 0.6})])
    assert (slow.alpha, fast.alpha) == (0.1, 0.5)
    assert slow.cell is fast.cell
    assert slow.get_weight("a") == fast.get_weight("a") > 1.0
    assert slow.get_statistics("a")["evidence"] == 0.5


def test_a_fork_is_independent() -> None:
    learner = trained([example(0, {"a": 0.9, "b": 0.6})])
    before = known(learner)
    fork = learner.fork()
    assert known(fork) == before
    assert (fork.alpha, fork.cell.is_trial, learner.cell.is_trial) == (learner.alpha, True, False)
    fork.observe([example(1, {"a": 0.1, "b": 0.9})])
    assert known(learner) == before
    learner.reset()
    assert fork.get_weight("a") != 1.0


def test_reset_forgets_the_evidence_and_keeps_the_workers() -> None:
    learner = trained([example(0, {"a": 0.9, "b": 0.6, "new": 0.5})])
    learner.reset(1.5)
    assert learner.get_all_weights() == dict.fromkeys([*IDS, "new"], 1.5)
    assert attrs.evolve(learner, prior_weight=1.5).is_blank(learner.cell.snapshot)
    learner.reset(2)
    assert isinstance(learner.get_weight("a"), float)
    learner.reset()
    assert learner.get_all_weights() == dict.fromkeys([*IDS, "new"], 1.0)
    learner.reset(1e6)
    assert learner.get_weight("a") == 1e6


def test_reset_forgets_fits_and_groups() -> None:
    learner = styled()
    learner.add_workers(["look"])
    fitted(learner, 1.0, a=1.0)
    learner.cell.update(lambda before: attrs.evolve(before, fits={"look": "a document"}))
    learner.reset()
    assert learner.cell.snapshot == Snapshot(LearnedState(dict.fromkeys(IDS, 1.0)))


def test_a_snapshot_is_blank_while_it_says_nothing_but_the_prior() -> None:
    learner = BayesianWeightLearner(prior_weight=2.0)
    blank = learner.started(dict.fromkeys(IDS, 2.0))
    for nothing in (None, learner.blank(), blank):
        assert learner.is_blank(Snapshot(nothing))
        assert not learner.is_blank(Snapshot(nothing, {"look": "a document"}))
    for something in (
        learner.started({"a": 1.0}),
        learner.absorb(blank, [example(0, {"a": 0.5})]),
        attrs.evolve(blank, fitted=FittedBlend({"a": 1.0}, "greedy", 0.0)),
        LearnedState({"a": 2.0}, {"a": Totals(fixed(1.0))}),
    ):
        assert not learner.is_blank(Snapshot(something))


# --- the cell -------------------------------------------------------------------------------------------------------


def test_eight_threads_observing_at_once_lose_nothing() -> None:
    learner = trained([], 0.25)
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait()
        for number in range(25):
            learner.observe([example(1000 * thread + number, {"a": 0.9, "b": 0.6}), example(-1, {"a": 0.5, "b": 0.7})])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    alone = trained([], 0.25)
    for thread in range(8):
        alone.observe(example(1000 * thread + number, {"a": 0.9, "b": 0.6}) for number in range(25))
    for _ in range(200):
        alone.observe([example(-1, {"a": 0.5, "b": 0.7})])
    assert known(learner) == known(alone)
    assert learner.get_statistics("a")["update_count"] == 201


class _SwappedAtEveryLook(LearnerCell):
    """Stands for a cell that another thread swaps whenever it is read."""

    def __init__(self) -> None:
        super().__init__()
        outcomes = ExampleEvidence("x", {"a": Outcome(0.5), "b": Outcome(0.5)})
        states = [absorb(LearnedState(), [outcomes], prior / 4, prior) for prior in (1.0, 3.0)]
        self.snapshots = itertools.cycle(map(Snapshot, states))

    @property
    def snapshot(self) -> Snapshot:
        return next(self.snapshots)


def test_statistics_and_shares_come_from_one_snapshot() -> None:
    learner = BayesianWeightLearner(cell=_SwappedAtEveryLook())
    statistics = learner.get_all_statistics()
    assert statistics["a"] == statistics["b"]
    assert learner.get_blend_weights() == {"a": 0.5, "b": 0.5}
    assert len(set(learner.get_all_weights().values())) == 1


def adding(name: str) -> Callable[[Snapshot], Snapshot]:
    """Return a change of a state that is nothing but text."""
    return lambda before: Snapshot(f"{before.state or ''}{name}")


def test_a_change_waits_for_the_one_before_it() -> None:
    cell = LearnerCell()
    inside, overtaken = threading.Event(), threading.Event()

    def slow(before: Snapshot) -> Snapshot:
        inside.set()
        overtaken.wait(0.05)  # gives another change all the time it needs to get in between
        return adding("slow")(before)

    def quick() -> None:
        inside.wait()
        cell.update(adding("quick"))
        overtaken.set()

    thread = threading.Thread(target=quick)
    thread.start()
    cell.update(slow)
    thread.join()
    assert cell.state == "slowquick"


def test_a_failing_change_leaves_the_cell_as_it_was_and_open() -> None:
    cell = LearnerCell("before")
    before = cell.snapshot

    def broken(_before: Snapshot) -> Snapshot:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cell.update(broken)
    assert cell.snapshot is before
    cell.update(adding(" and after"))
    assert cell.state == "before and after"


def at_home(cell: LearnerCell, held: Snapshot, asked: list[frozenset[str] | None] | None = None) -> CellHome:
    """Keep a cell in a store that holds this; what rows it is asked for is noted."""

    def load(keys: Iterable[str] | None) -> Snapshot:
        if asked is not None:
            asked.append(None if keys is None else frozenset(keys))
        return held

    home = CellHome("store", "here", "token", load)
    cell.agree(home, Snapshot("head"))
    return home


def test_a_cell_at_home_holds_the_head_and_asks_the_store_for_rows() -> None:
    cell, asked = LearnerCell("own"), list[frozenset[str] | None]()
    assert not cell.is_partial
    at_home(cell, Snapshot("all"), asked)
    assert (cell.is_partial, cell.state, asked) == (True, "head", [])
    assert (cell.whole(), asked) == (Snapshot("all"), [None])
    # A change is made on what the store holds then, with the rows that it and those before it need.
    cell.update(adding(" x"), ["x"])
    cell.update(adding(" y"), ["y"])
    assert asked[1:] == [frozenset("x"), frozenset("xy")]
    assert cell.state == "all x y"
    cell.update(adding(" everything"), None)
    assert asked[3:] == [None]
    assert cell.whole().state == "all x y everything"


def test_what_is_not_saved_yet_stays_until_the_store_has_it() -> None:
    cell = LearnerCell()
    home = at_home(cell, Snapshot("held"))
    cell.update(adding(" observed"), ["x"])
    (step,) = cell.unsaved
    assert isinstance(step, LearnedChange)
    cell.agree(home._replace(load=lambda _keys: Snapshot("moved")), Snapshot("moved"), cell.unsaved)
    assert (cell.state, cell.unsaved) == ("moved observed", (step,))
    cell.agree(home, Snapshot("saved"))
    assert (cell.state, cell.unsaved) == ("saved", ())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))])
@pytest.mark.parametrize("is_trial", [False, True])
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_copied_cell_has_everything_is_kept_nowhere_and_goes_its_own_way(
    copied: Callable[[LearnerCell], LearnerCell], is_trial: bool, is_kept: bool
) -> None:
    cell = LearnerCell("all", {"look": "a document"}, is_trial=is_trial)
    if is_kept:
        at_home(cell, cell.snapshot)
    before = cell.snapshot
    other = copied(cell)
    assert (other.snapshot, other.is_trial) == (Snapshot("all", {"look": "a document"}), is_trial)
    assert (other.home, other.unsaved, other.is_partial) == (None, (), False)
    other.update(adding(" and more"))
    assert cell.snapshot is before
    with cell, other:  # each can be claimed
        pass


def test_one_training_at_a_time_has_the_cell() -> None:
    learner = BayesianWeightLearner()
    with learner.cell as claimed:
        assert claimed is learner.cell
        with pytest.raises(TrainingInProgressError), learner.with_alpha(0.5).cell:
            pass
        with learner.fork().cell:
            pass
        learner.observe([example(0, {"a": 0.5})])  # a claim does not shut out readers or writers
    with pytest.raises(KeyError), learner.cell:
        raise KeyError
    with learner.cell:
        pass


@given(st.integers(1, 40), st.floats(0.05, 1.0), st.integers(0, 16))
def test_a_worker_that_always_fails_gets_no_share(examples: int, alpha: float, others: int) -> None:
    learner = BayesianWeightLearner(alpha=alpha)
    accuracies: dict[str, float | None] = {f"w{i}": 0.7 + 0.01 * i for i in range(others)} | {"good": 0.9, "bad": None}
    for number in range(examples):
        learner.observe([ExampleEvidence(str(number), {w: Outcome(a) for w, a in accuracies.items()})])
    assert learner.get_blend_weights()["bad"] == 0.0


def test_one_failure_lowers_the_share_of_a_worker() -> None:
    def share(last: float | None) -> float:
        learner = BayesianWeightLearner(alpha=0.15)
        for number in range(6):
            accuracy = 0.8 if number < 5 else last
            outcomes = {"a": Outcome(accuracy), "b": Outcome(0.8), "c": Outcome(0.78)}
            learner.observe([ExampleEvidence(str(number), outcomes)])
        return learner.get_blend_weights()["a"]

    assert share(None) < share(0.8) / 2
