"""The rule: pure functions from one state to the next, and what a state means."""

from __future__ import annotations

import copy
import itertools
import math
from statistics import NormalDist

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_training.core import PRIOR_SPREAD, Totals, fixed, posterior_mean, posterior_std, probability_best
from tsm_training.learning import (
    BlendFits,
    ExampleEvidence,
    FittedBlend,
    Group,
    LearnedState,
    Outcome,
    SufficientStatistics,
)
from tsm_training.learning.rule import absorb, forget, in_group, mixed, refitted, shrunk_to, with_blends, with_workers

KAPPA = 3.0
UNIT = st.floats(0.0, 1.0)
MEANS = st.lists(st.floats(0.5, 1.5), min_size=1, max_size=6)
STDS = st.floats(1e-6, 0.5)


def one_example(digest: str = "x", **accuracies: float | None) -> ExampleEvidence:
    return ExampleEvidence(digest, {worker_id: Outcome(accuracy) for worker_id, accuracy in accuracies.items()})


# --- from one state to the next -------------------------------------------------------------------------------------


def test_new_workers_start_at_the_prior_and_known_ones_stay_as_they_are() -> None:
    state = LearnedState({"a": 2.0})
    assert with_workers(state, ["a", "b"], 1.5).priors == {"a": 2.0, "b": 1.5}
    assert with_workers(state, ["a"], 1.5) is state


@pytest.mark.parametrize(
    ("alpha", "passes", "remaining"), [(0.5, 1, 0.5), (0.5, 3, 0.125), (1.0, 1, 0.0), (0.1, 0, 1.0)]
)
def test_a_pass_absorbs_alpha_of_what_is_left(alpha: float, passes: int, remaining: float) -> None:
    state = absorb(LearnedState(), [one_example(a=0.5)], alpha, 1.0, passes)
    assert state.rows["x"].outcomes["a"].remaining == remaining
    assert state.priors == {"a": 1.0}


@given(UNIT.filter(lambda alpha: alpha > 0.0), st.integers(1, 6))
def test_several_passes_at_once_are_as_many_single_ones(alpha: float, passes: int) -> None:
    batch = [one_example("x", a=0.5, b=0.25), one_example("y", a=None, b=0.75)]
    stepwise = LearnedState()
    for _ in range(passes):
        stepwise = absorb(stepwise, batch, alpha, 1.0)
    assert absorb(LearnedState(), batch, alpha, 1.0, passes) == stepwise


def test_an_example_named_twice_in_a_batch_is_absorbed_twice() -> None:
    twice = absorb(LearnedState(), [one_example(a=0.5), one_example(a=0.5)], 0.5, 1.0)
    assert twice == absorb(LearnedState(), [one_example(a=0.5)], 0.5, 1.0, 2)


def test_absorbing_again_replaces_the_scores_and_keeps_the_absorbed_share() -> None:
    first = absorb(LearnedState(), [one_example(a=0.9, b=0.1)], 0.5, 1.0)
    again = absorb(first, [ExampleEvidence("x", {"a": Outcome(0.2, 0.5)})], 0.5, 1.0)
    assert again.rows["x"].outcomes["a"] == (0.2, 0.5, 0.25)
    assert again.rows["x"].outcomes["b"] == first.rows["x"].outcomes["b"]  # nothing new was said about it
    assert again.statistics["a"].update_count == 1


def test_every_worker_of_a_batch_is_known_afterwards_and_starts_at_the_prior() -> None:
    batch = [one_example("x", a=0.5), one_example("y", b=0.5), ExampleEvidence("z", {})]
    assert absorb(LearnedState(), batch, 0.5, 2.0).priors == {"a": 2.0, "b": 2.0}


def test_absorbing_changes_nothing_in_the_state_it_starts_from() -> None:
    state = with_blends(absorb(LearnedState(), [one_example(a=0.9, b=0.1)], 0.5, 1.0), fits(None, x="warm"))
    before = copy.deepcopy(state)
    absorb(state, [one_example(a=0.1, b=0.9, c=0.5)], 0.5, 1.0)
    forget(state, ["x"])
    assert state == before


def test_forgetting_what_was_never_seen_changes_nothing() -> None:
    state = absorb(LearnedState(), [one_example(a=0.5)], 0.5, 1.0)
    assert forget(state, ["y"]) == state


def fit(*digests: str, **shares: float) -> FittedBlend:
    return FittedBlend(shares or {"a": 1.0}, "greedy", 0.5, digests)


def fits(of_all: FittedBlend | None, key: str | None = "style", /, **labels: str | None) -> BlendFits:
    """Return a blend of all examples, and of their groups without any of their own."""
    return BlendFits(of_all, key, labels, dict.fromkeys(filter(None, labels.values())))


def test_blends_replace_those_that_were_there_and_leave_the_evidence_alone() -> None:
    state = absorb(LearnedState(), [one_example(a=0.9, b=0.1)], 0.5, 1.0)
    first = with_blends(state, attrs.evolve(fits(fit("x"), x="warm"), groups={"warm": fit("x", b=1.0)}))
    assert (first.fitted, first.group_by) == (fit("x"), "style")
    assert first.groups == {"warm": Group(1, state.totals, fitted=fit("x", b=1.0))}
    assert (first.priors, first.totals) == (state.priors, state.totals)
    # Another key divides everything anew; where no blend can be fitted any more, the earlier one stays for all.
    second = with_blends(first, fits(None, "camera", x="new"))
    assert (second.fitted, second.group_by) == (fit("x"), "camera")
    assert second.groups == {"new": Group(1, state.totals)}
    for key in (None, "camera"):
        assert with_blends(first, fits(None, key)) == attrs.evolve(state, fitted=fit("x"))


def test_a_blend_is_followed_as_far_as_all_examples_are_absorbed() -> None:
    state = absorb(LearnedState(), [one_example("x", a=0.9)], 0.5, 1.0)
    state = absorb(state, [one_example("y", a=0.9)], 1.0, 1.0)
    after = with_blends(state, BlendFits(fit("x"), "style", {"x": "warm"}, {"warm": fit("x")}))
    assert after.fitted is not None
    assert after.groups["warm"].fitted == after.fitted
    assert after.fitted.absorbed == 0.75


def test_an_example_that_moves_to_another_group_takes_its_evidence_with_it() -> None:
    batch = [one_example("x", a=0.9, b=0.1), one_example("y", a=0.2, b=0.4)]
    state = absorb(LearnedState(), batch, 0.5, 1.0)
    moved = with_blends(with_blends(state, fits(None, x="warm", y="warm")), fits(None, x="cold"))
    assert moved == with_blends(state, fits(None, x="cold", y="warm"))


def test_blends_without_examples_that_were_removed_meanwhile_know_nothing_of_them() -> None:
    both = BlendFits(fit("x"), "style", {"x": "warm", "y": "cold"}, {"warm": fit("x"), "cold": fit("y")})
    assert both.digests == {"x", "y"}
    kept = BlendFits(None, "style", {"y": "cold"}, {"warm": None, "cold": fit("y")})
    assert both.without({"x"}) == kept
    assert both.without({"another"}) == both


def grouped(fitted: FittedBlend | None, **groups: tuple[str, FittedBlend | None]) -> LearnedState:
    """Return a state that has seen x, y and z, with groups of these and their blends."""
    batch = [one_example(digest, a=0.9, b=0.1) for digest in "xyz"]
    labels = {digest: label for label, (members, _fitted) in groups.items() for digest in members}
    own = {label: blend for label, (_members, blend) in groups.items()}
    return with_blends(absorb(LearnedState(), batch, 0.5, 1.0), BlendFits(fitted, "style", labels, own))


def test_forgetting_an_example_drops_the_blends_that_it_was_in_and_no_others() -> None:
    state = grouped(fit("x", "z"), cold=("xy", fit("x", "y")), warm=("z", fit("z")))
    without_y = forget(state, ["y"])
    assert without_y.fitted == fit("x", "z")
    assert without_y.groups["warm"] == state.groups["warm"]
    assert (without_y.groups["cold"].num_examples, without_y.groups["cold"].fitted) == (1, None)
    without_x = forget(state, ["x"])
    assert (without_x.fitted, without_x.group_by, list(without_x.rows)) == (None, "style", ["y", "z"])


def test_a_group_of_which_nothing_is_left_is_forgotten_and_the_key_goes_with_the_last_one() -> None:
    state = grouped(fit("z"), cold=("x", None), warm=("y", None))
    imported = {"imported": Group(fitted=fit()), "known": Group(totals={"a": Totals(fixed(1.0))})}
    some = forget(attrs.evolve(state, groups={**state.groups, **imported}), ["x", "y"])
    assert (some.groups, some.group_by) == (imported, "style")
    last = forget(state, ["x", "y"])
    assert (last.fitted, last.group_by, last.groups) == (fit("z"), None, {})


def test_a_blend_is_dropped_though_the_evidence_of_its_example_was_lost_before() -> None:
    state = grouped(fit("lost"), warm=("y", None), cold=("z", fit("gone", "z")))
    assert forget(state, ["lost"]).fitted is None
    assert forget(state, ["gone"]).groups["cold"].fitted is None
    assert forget(state, ["gone"]).statistics == state.statistics


# --- workers that are fitted anew -----------------------------------------------------------------------------------


def test_what_a_worker_did_with_an_earlier_fit_no_longer_counts() -> None:
    state = absorb(LearnedState(), [one_example("x", a=0.5, look=0.9), one_example("y", a=0.5, look=0.8)], 0.5, 1.0)
    state = absorb(state, [one_example("x", a=0.5, b=0.2)], 0.5, 1.0)
    after = refitted(state, [one_example("x", a=0.1, look=0.7)], {"look"}, set())
    x, y = (after.rows[digest].outcomes for digest in "xy")
    # Absorbed as far as the least absorbed of its peers, which stay as they are.
    assert x == {"a": (0.5, 1.0, 0.25), "b": (0.2, 1.0, 0.5), "look": (0.7, 1.0, 0.5)}
    assert y == state.rows["y"].outcomes  # nothing new is known there
    assert after.statistics["look"].accuracy_sum == pytest.approx(1.5)


def test_outcomes_of_a_worker_that_is_fitted_no_longer_go() -> None:
    state = absorb(LearnedState(), [one_example("x", a=0.5, look=0.9), one_example("y", look=0.8)], 0.5, 1.0)
    after = refitted(state, [], set(), {"look"})
    assert after.rows.keys() == {"x"}
    assert after.totals == absorb(LearnedState(), [one_example("x", a=0.5)], 0.5, 1.0).totals
    assert after.num_examples == 1


# --- what a state means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sums", "mean"),
    [
        (SufficientStatistics(1.0), 1.0),
        (SufficientStatistics(2.5), 2.5),
        (SufficientStatistics(1.0, 1.0, 0.5), 1.125),
        (SufficientStatistics(2.0, 5.0, -4.0), 1.0),
        (SufficientStatistics(1.0, 1e9, 1e9), 2.0 - 3e-9),
    ],
)
def test_the_weight_is_the_prior_moved_by_the_posterior_mean_advantage(sums: SufficientStatistics, mean: float) -> None:
    assert posterior_mean(sums, KAPPA) == pytest.approx(mean, rel=1e-14)


@given(st.lists(st.tuples(st.floats(-1.0, 1.0), UNIT), max_size=20), st.floats(0.1, 50.0), st.floats(0.1, 10.0))
def test_mean_and_spread_are_those_of_a_normal_inverse_gamma_posterior(
    observations: list[tuple[float, float]], kappa: float, prior: float
) -> None:
    d, share = (np.array([row[part] for row in observations], np.float64) for part in (0, 1))
    n, total = float(share.sum()), float((share * d).sum())
    sums = SufficientStatistics(prior, n, total, float((share * d**2).sum()))
    # Murphy (2007), section 3, with m0 = 0, and a0, b0 chosen as kappa observations of standard deviation 0.05.
    mean_of_data = total / n if n else 0.0
    scatter = float((share * (d - mean_of_data) ** 2).sum())
    a = (kappa + n) / 2.0
    b = kappa * 0.05**2 / 2.0 + scatter / 2.0 + kappa * n * mean_of_data**2 / (2.0 * (kappa + n))
    mean, variance = n * mean_of_data / (kappa + n), b / (a * (kappa + n))
    assert PRIOR_SPREAD == 0.05
    assert posterior_mean(sums, kappa) == pytest.approx(prior * (1.0 + mean), rel=1e-9)
    assert posterior_std(sums, kappa) == pytest.approx(prior * math.sqrt(variance), rel=1e-7)


# --- groups and fitted shares ---------------------------------------------------------------------------------------

EVIDENCE = st.floats(0.0, 500.0)
MEAN_ADVANTAGES = st.floats(-1.0, 1.0)


def of(evidence: float, mean: float, prior: float = 1.0) -> SufficientStatistics:
    """Return the sums of examples on which a worker had the same advantage each time."""
    return SufficientStatistics(prior, evidence, evidence * mean, evidence * mean**2)


def joined(one: SufficientStatistics, other: SufficientStatistics) -> SufficientStatistics:
    return SufficientStatistics(
        one.prior,
        one.evidence + other.evidence,
        one.advantage + other.advantage,
        one.squared_advantage + other.squared_advantage,
        failed_evidence=one.failed_evidence + other.failed_evidence,
    )


@given(EVIDENCE, MEAN_ADVANTAGES, st.floats(0.1, 50.0), st.floats(0.1, 10.0))
def test_a_group_without_evidence_has_the_weight_of_all(
    evidence: float, mean: float, kappa: float, prior: float
) -> None:
    everyone = of(evidence, mean, prior)
    for nothing in (None, SufficientStatistics(1.0)):
        shrunk = shrunk_to(everyone, nothing, kappa)
        assert posterior_mean(shrunk, kappa) == pytest.approx(posterior_mean(everyone, kappa), rel=1e-12)
        assert shrunk.evidence <= kappa


@given(EVIDENCE, MEAN_ADVANTAGES, st.floats(0.1, 50.0))
def test_a_group_that_everybody_belongs_to_is_shrunk_no_further_than_all_are(
    evidence: float, mean: float, kappa: float
) -> None:
    everyone = of(evidence, mean)
    weight = posterior_mean(shrunk_to(everyone, everyone, kappa), kappa)
    low, high = sorted((posterior_mean(everyone, kappa), 1.0 + mean))
    assert low - 1e-12 <= weight <= high + 1e-12


@given(EVIDENCE, MEAN_ADVANTAGES, MEAN_ADVANTAGES)
def test_a_group_with_much_evidence_has_its_own_weight(others: float, mean: float, own_mean: float) -> None:
    own = of(1e7, own_mean)
    shrunk = shrunk_to(joined(of(others, mean), own), own, KAPPA)
    assert posterior_mean(shrunk, KAPPA) == pytest.approx(posterior_mean(own, KAPPA), abs=1e-5)
    assert posterior_std(shrunk, KAPPA) == pytest.approx(posterior_std(own, KAPPA), abs=1e-5)


@given(EVIDENCE, MEAN_ADVANTAGES, MEAN_ADVANTAGES, st.floats(0.1, 50.0))
def test_in_between_the_weight_moves_from_that_of_all_to_its_own(
    others: float, mean: float, own_mean: float, kappa: float
) -> None:
    rest = of(others, mean)
    weights = []
    for evidence in (0.0, 0.1, 1.0, 3.0, 10.0, 100.0, 1e4):
        own = of(evidence, own_mean)
        weights.append(posterior_mean(shrunk_to(joined(rest, own), own, kappa), kappa))
    start, goal = posterior_mean(rest, kappa), 1.0 + own_mean
    assert weights[0] == pytest.approx(start, abs=1e-12)
    assert weights == pytest.approx(sorted(weights, reverse=goal < start), abs=1e-9)
    assert min(start, goal) - 1e-9 <= weights[-1] <= max(start, goal) + 1e-9


@given(EVIDENCE, MEAN_ADVANTAGES, st.floats(0.0, 100.0), MEAN_ADVANTAGES, st.floats(0.1, 50.0))
def test_the_weight_in_a_group_is_the_mean_of_that_of_all_and_its_own_examples(
    others: float, mean: float, evidence: float, own_mean: float, kappa: float
) -> None:
    own = of(evidence, own_mean, 2.0)
    everyone = joined(of(others, mean, 2.0), own)
    count = min(everyone.evidence, kappa) + kappa
    of_all = posterior_mean(everyone, kappa)
    expected = (count * of_all + evidence * 2.0 * (1.0 + own_mean)) / (count + evidence)
    assert posterior_mean(shrunk_to(everyone, own, kappa), kappa) == pytest.approx(expected, abs=1e-9)


def test_failures_elsewhere_count_against_a_worker_in_a_group_too() -> None:
    own = SufficientStatistics(1.0, 2.0, 0.2, 0.02)
    failing = joined(SufficientStatistics(1.0, 10.0, -10.0, 10.0, failed_evidence=10.0), own)
    shrunk = shrunk_to(failing, own, KAPPA)
    assert posterior_mean(shrunk, KAPPA) < posterior_mean(own, KAPPA)
    assert shrunk.failed_evidence > 0.0
    assert 0.0 < posterior_std(shrunk, KAPPA) < 1.0


def test_what_is_counted_in_a_group_is_its_own() -> None:
    own = SufficientStatistics(1.0, 2.0, 0.5, 0.25, 1.5, 3, 4)
    everyone = SufficientStatistics(1.0, 9.0, 1.0, 0.5, 6.5, 10, 11)
    shrunk = shrunk_to(everyone, own, KAPPA)
    assert (shrunk.accuracy_sum, shrunk.valid_count, shrunk.update_count) == (1.5, 3, 4)
    nothing = shrunk_to(everyone, None, KAPPA)
    assert (nothing.accuracy_sum, nothing.valid_count, nothing.update_count) == (0.0, 0, 0)


def test_a_group_that_is_said_to_know_more_than_all_gives_a_usable_weight() -> None:
    for own in (of(50.0, 0.5), of(50.0, -1.0), attrs.evolve(of(50.0, 0.0), failed_evidence=50.0)):
        shrunk = shrunk_to(of(10.0, -0.5), own, KAPPA)
        assert posterior_mean(shrunk, KAPPA) > 0.0
        assert posterior_std(shrunk, KAPPA) >= 0.0
        assert min(shrunk.squared_advantage, shrunk.failed_evidence) >= 0.0


def two_styles(examples: int, fitted: FittedBlend | None, own: FittedBlend | None) -> LearnedState:
    """Return a state in which ``a`` is better where it is warm, and ``b`` where it is cold."""
    batch = [one_example(f"warm {n}", a=0.9, b=0.6) for n in range(examples)]
    batch += [one_example(f"cold {n}", a=0.6, b=0.9) for n in range(examples)]
    labels = {item.digest: item.digest.split()[0] for item in batch}
    blends = BlendFits(fitted, "style", labels, {"warm": own, "cold": None})
    return with_blends(absorb(LearnedState(), batch, 1.0, 1.0), blends)


def test_each_group_has_weights_of_its_own() -> None:
    state = two_styles(10, None, None)
    warm, cold = in_group(state, "warm", KAPPA), in_group(state, "cold", KAPPA)
    assert posterior_mean(warm.statistics["a"], KAPPA) > 1.1
    assert posterior_mean(warm.statistics["b"], KAPPA) < 0.9
    assert warm.statistics["a"] == cold.statistics["b"]
    assert (warm.rows, warm.fitted, warm.group_by, warm.groups) == ({}, None, None, {})


@pytest.mark.parametrize("fitted", [None, fit(a=0.25, b=0.75)])
def test_a_group_that_nothing_is_known_of_is_like_all_examples(fitted: FittedBlend | None) -> None:
    state = two_styles(10, fitted, None)
    empty = attrs.evolve(state, groups={**state.groups, "empty": Group(fitted=fit(b=1.0))})
    for label in ("unknown", "empty"):
        alike = in_group(empty, label, KAPPA)
        assert alike.statistics == state.statistics
        assert alike.fitted == state.fitted


def test_a_worker_that_did_nothing_in_a_group_has_its_weight_of_all_there() -> None:
    state = absorb(two_styles(5, None, None), [one_example("else", a=0.5, c=0.9)], 1.0, 1.0)
    assert posterior_mean(in_group(state, "warm", KAPPA).statistics["c"], KAPPA) == pytest.approx(
        posterior_mean(state.statistics["c"], KAPPA), rel=1e-12
    )


def test_the_shares_fitted_on_a_group_count_by_its_evidence() -> None:
    own = attrs.evolve(fit("y", b=0.2, c=0.8), solver="single")
    state = two_styles(9, fit("x", a=0.5, b=0.5), own)
    warm = in_group(state, "warm", KAPPA)
    fitted = warm.fitted
    assert fitted is not None
    assert warm.statistics == in_group(two_styles(9, None, None), "warm", KAPPA).statistics
    part = 9 / (9 + KAPPA)
    expected = {"a": 0.5 * (1 - part), "b": 0.5 * (1 - part) + 0.2 * part, "c": 0.8 * part}
    assert fitted.shares == pytest.approx(expected)
    assert (fitted.solver, fitted.absorbed) == ("single", 1.0)
    assert in_group(state, "cold", KAPPA).fitted == state.fitted  # it has none of its own


def test_the_safe_shares_of_a_group_are_its_own_or_those_of_all() -> None:
    of_all = attrs.evolve(fit("x", a=0.5, b=0.5), safe={"a": 1.0})
    for own, safe in (({"b": 1.0}, {"b": 1.0}), ({}, {"a": 1.0})):
        fitted = in_group(two_styles(9, of_all, attrs.evolve(fit("y", c=1.0), safe=own)), "warm", KAPPA).fitted
        assert fitted is not None
        assert fitted.safe == safe


def test_without_a_fit_of_all_that_of_a_group_is_not_used() -> None:
    assert in_group(two_styles(9, None, fit("y", a=1.0)), "warm", KAPPA).fitted is None


@pytest.mark.parametrize(
    ("fitted", "part", "expected"),
    [
        ({"a": 1.0}, 0.0, {"a": 0.25, "b": 0.75}),
        ({"a": 1.0}, 1.0, {"a": 1.0, "b": 0.0}),
        ({"a": 1.0}, 0.5, {"a": 0.625, "b": 0.375}),
        ({"a": 0.2, "b": 0.2, "elsewhere": 0.6}, 1.0, {"a": 0.5, "b": 0.5}),
        ({"a": 0.25, "b": 0.25, "elsewhere": 0.5}, 0.5, {"a": 0.375, "b": 0.625}),
        ({"elsewhere": 1.0}, 1.0, {"a": 0.25, "b": 0.75}),
        ({}, 1.0, {"a": 0.25, "b": 0.75}),
    ],
)
def test_mixed_shares_follow_the_fit_to_a_part(
    fitted: dict[str, float], part: float, expected: dict[str, float]
) -> None:
    assert mixed({"a": 0.25, "b": 0.75}, fitted, part) == expected


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-9, 1.0), min_size=1),
    st.dictionaries(st.sampled_from("abcdefgh"), UNIT),
    UNIT,
)
def test_mixed_shares_are_at_least_zero_sum_to_one_and_lie_between(
    amounts: dict[str, float], fitted: dict[str, float], part: float
) -> None:
    posterior = {worker_id: amount / math.fsum(amounts.values()) for worker_id, amount in amounts.items()}
    shares = mixed(posterior, fitted, part)
    whole = mixed(posterior, fitted, 1.0)
    assert list(shares) == list(posterior)
    assert math.fsum(shares.values()) == pytest.approx(1.0, abs=1e-12)
    for worker_id, share in shares.items():
        assert min(posterior[worker_id], whole[worker_id]) - 1e-12 <= share
        assert share <= max(posterior[worker_id], whole[worker_id]) + 1e-12


def test_rounding_never_makes_a_spread_imaginary() -> None:
    assert posterior_std(SufficientStatistics(1.0, 1e9, 1e9, math.nextafter(1e9, 0.0)), 1e-9) >= 0.0
    assert posterior_std(SufficientStatistics(1.0, 2.0, 2.0, 1.0), 1e-9) == 0.0


# --- the best of several --------------------------------------------------------------------------------------------


@given(st.floats(0.5, 1.5), st.floats(-6.0, 6.0), st.floats(-9.0, 0.0), st.floats(-9.0, 0.0))
def test_of_two_the_probability_is_the_closed_form_however_different_their_spreads(
    mean: float, distance: float, first_power: float, second_power: float
) -> None:
    stds = (10.0**first_power, 10.0**second_power)
    other = mean + distance * max(stds)
    expected = NormalDist().cdf((mean - other) / math.hypot(*stds))
    best = probability_best([mean, other], stds)
    assert best[0] == pytest.approx(expected, abs=1e-6)
    assert best[1] == pytest.approx(1.0 - expected, abs=1e-6)


@pytest.mark.parametrize(
    ("means", "stds"),
    [
        ((1.0, 1.01, 0.99), (0.03, 0.02, 0.05)),
        ((1.0, 1.01, 1.02, 1.0), (1e-3, 0.1, 1e-3, 0.02)),
        ((1.3, 0.7, 1.0, 1.1, 1.15), (0.2, 0.6, 0.05, 0.1, 0.02)),
    ],
)
def test_of_many_the_probability_is_the_integral(means: tuple[float, ...], stds: tuple[float, ...]) -> None:
    normals = [NormalDist(mean, std) for mean, std in zip(means, stds, strict=True)]
    low, high = (pick(n.mean + sign * 9 * n.stdev for n in normals) for pick, sign in ((min, -1), (max, 1)))
    steps = 40_000
    points = np.linspace(low, high, steps + 1)
    cumulative = np.array([[n.cdf(x) for x in points] for n in normals])
    best = probability_best(means, stds)
    for number, normal in enumerate(normals):
        density = np.array([normal.pdf(x) for x in points])
        brute = (density * np.delete(cumulative, number, 0).prod(0)).sum() * (high - low) / steps
        assert best[number] == pytest.approx(brute, abs=1e-7)


@given(MEANS, st.data())
def test_probabilities_sum_to_one_and_do_not_depend_on_the_order(means: list[float], data: st.DataObject) -> None:
    stds = [data.draw(STDS) for _ in means]
    best = probability_best(means, stds)
    assert math.fsum(best) == pytest.approx(1.0, abs=1e-12)
    assert min(best) >= 0.0
    order = data.draw(st.permutations(range(len(means))))
    shuffled = probability_best([means[i] for i in order], [stds[i] for i in order])
    assert shuffled == [best[i] for i in order]


def test_the_probabilities_of_many_do_not_depend_on_the_order_by_a_single_bit() -> None:
    rng = np.random.default_rng(3)
    means, stds = rng.normal(1.0, 0.02, 15), rng.uniform(0.01, 0.1, 15)
    best = probability_best(means.tolist(), stds.tolist())
    for _ in range(20):
        order = rng.permutation(15)
        assert probability_best(means[order].tolist(), stds[order].tolist()) == [best[i] for i in order]


@given(st.floats(1e-3, 1e3), STDS, st.integers(1, 12))
def test_equal_variables_are_equally_likely_to_the_last_bit(mean: float, std: float, count: int) -> None:
    best = probability_best([mean] * count, [std] * count)
    assert len(set(best)) == 1
    assert best[0] == pytest.approx(1.0 / count, rel=1e-14)


def test_equal_variables_are_equally_likely_beside_others_too() -> None:
    best = probability_best([1.0, 1.1, 1.0, 0.9, 1.0], [0.1, 1e-5, 0.1, 0.3, 0.1])
    assert best[0] == best[2] == best[4]


@pytest.mark.parametrize(
    ("means", "stds"),
    [((1.1, 1.0), (1e-9, 1e-9)), ((2.0, 1.0), (0.05, 0.05)), ((1e6, 1e-6), (1e3, 1e-9)), ((1e9, 1.0), (1e-9, 1e-9))],
)
def test_one_far_above_the_others_is_the_best(means: tuple[float, ...], stds: tuple[float, ...]) -> None:
    assert probability_best(means, stds) == pytest.approx([1.0, 0.0], abs=1e-12)


def test_a_spread_too_small_for_the_last_digit_of_its_mean_is_no_trouble() -> None:
    assert probability_best([1e9, 1e9], [1e-9, 1e-9]) == [0.5, 0.5]


def test_a_well_known_worker_is_weighed_rightly_beside_an_untested_one() -> None:
    for std, mean in itertools.product((1e-9, 1e-6, 1e-4, 1e-3), (0.98, 1.0, 1.02)):
        expected = NormalDist().cdf((mean - 1.0) / math.hypot(std, 0.03))
        assert probability_best([mean, 1.0], [std, 0.03])[0] == pytest.approx(expected, abs=1e-6)
