"""The rule: pure functions from one state to the next, and what a state means."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_training.evidence import ExampleEvidence, LearnedState, Outcome, WorkerBase
from tsm_training.weights import (
    PRIOR_SPREAD,
    absorb,
    forget,
    posterior_mean,
    posterior_std,
    probability_best,
    with_workers,
)

KAPPA = 3.0
UNIT = st.floats(0.0, 1.0)
MEANS = st.lists(st.floats(0.5, 1.5), min_size=1, max_size=6)
STDS = st.floats(1e-6, 0.5)


def one_example(digest: str = "x", **accuracies: float | None) -> ExampleEvidence:
    return ExampleEvidence(digest, {worker_id: Outcome(accuracy) for worker_id, accuracy in accuracies.items()})


# --- from one state to the next -------------------------------------------------------------------------------------


def test_new_workers_start_at_the_prior_and_known_ones_stay_as_they_are() -> None:
    state = LearnedState({"a": WorkerBase(2.0, 1.0)})
    assert with_workers(state, ["a", "b"], 1.5).bases == {"a": WorkerBase(2.0, 1.0), "b": WorkerBase(1.5)}
    assert with_workers(state, ["a"], 1.5) is state


@pytest.mark.parametrize(
    ("alpha", "passes", "residual"), [(0.5, 1, 0.5), (0.5, 3, 0.125), (1.0, 1, 0.0), (0.1, 0, 1.0)]
)
def test_a_pass_absorbs_alpha_of_what_is_left(alpha: float, passes: int, residual: float) -> None:
    state = absorb(LearnedState(), [one_example(a=0.5)], alpha, 1.0, passes)
    assert state.absorbed["x"]["a"].residual == residual
    assert state.bases == {"a": WorkerBase(1.0)}


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
    assert (again.absorbed["x"]["a"].accuracy, again.absorbed["x"]["a"].confidence) == (0.2, 0.5)
    assert again.absorbed["x"]["a"].residual == 0.25
    assert again.absorbed["x"]["b"] == first.absorbed["x"]["b"]  # nothing new was said about it
    assert again.sums["a"].update_count == 1


def test_every_worker_of_a_batch_is_known_afterwards_and_starts_at_the_prior() -> None:
    batch = [one_example("x", a=0.5), one_example("y", b=0.5), ExampleEvidence("z", {})]
    assert absorb(LearnedState(), batch, 0.5, 2.0).bases == {"a": WorkerBase(2.0), "b": WorkerBase(2.0)}


def test_absorbing_changes_nothing_in_the_state_it_starts_from() -> None:
    state = absorb(LearnedState(), [one_example(a=0.9, b=0.1)], 0.5, 1.0)
    before = (dict(state.bases), {key: dict(value) for key, value in state.absorbed.items()})
    absorb(state, [one_example(a=0.1, b=0.9, c=0.5)], 0.5, 1.0)
    assert (state.bases, state.absorbed) == before


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_forgetting_is_exactly_as_if_the_examples_had_never_been_seen(
    scores: list[tuple[float, float]], gone: set[int]
) -> None:
    batch = [one_example(str(number), a=a, b=b) for number, (a, b) in enumerate(scores)]
    start = with_workers(LearnedState(), "ab", 1.0)
    forgotten = forget(absorb(start, batch, 0.3, 1.0, 2), map(str, gone))
    never = absorb(start, [e for number, e in enumerate(batch) if number not in gone], 0.3, 1.0, 2)
    assert forgotten == never
    assert forgotten.sums == never.sums


def test_forgetting_what_was_never_seen_changes_nothing() -> None:
    state = absorb(LearnedState(), [one_example(a=0.5)], 0.5, 1.0)
    assert forget(state, ["y"]) is state


# --- what a state means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sums", "mean"),
    [
        (WorkerBase(1.0), 1.0),
        (WorkerBase(2.5), 2.5),
        (WorkerBase(1.0, 1.0, 0.5), 1.125),
        (WorkerBase(2.0, 5.0, -4.0), 1.0),
        (WorkerBase(1.0, 1e9, 1e9), 2.0 - 3e-9),
    ],
)
def test_the_weight_is_the_prior_moved_by_the_posterior_mean_advantage(sums: WorkerBase, mean: float) -> None:
    assert posterior_mean(sums, KAPPA) == pytest.approx(mean, rel=1e-14)


@given(st.lists(st.tuples(st.floats(-1.0, 1.0), UNIT), max_size=20), st.floats(0.1, 50.0), st.floats(0.1, 10.0))
def test_mean_and_spread_are_those_of_a_normal_inverse_gamma_posterior(
    observations: list[tuple[float, float]], kappa: float, prior: float
) -> None:
    d, share = (np.array([row[part] for row in observations], np.float64) for part in (0, 1))
    n, total = float(share.sum()), float((share * d).sum())
    sums = WorkerBase(prior, n, total, float((share * d**2).sum()))
    # Murphy (2007), section 3, with m0 = 0, and a0, b0 chosen as kappa observations of standard deviation 0.05.
    mean_of_data = total / n if n else 0.0
    scatter = float((share * (d - mean_of_data) ** 2).sum())
    a = (kappa + n) / 2.0
    b = kappa * 0.05**2 / 2.0 + scatter / 2.0 + kappa * n * mean_of_data**2 / (2.0 * (kappa + n))
    mean, variance = n * mean_of_data / (kappa + n), b / (a * (kappa + n))
    assert PRIOR_SPREAD == 0.05
    assert posterior_mean(sums, kappa) == pytest.approx(prior * (1.0 + mean), rel=1e-9)
    assert posterior_std(sums, kappa) == pytest.approx(prior * math.sqrt(variance), rel=1e-7)


def test_rounding_never_makes_a_spread_imaginary() -> None:
    assert posterior_std(WorkerBase(1.0, 1e9, 1e9, math.nextafter(1e9, 0.0)), 1e-9) >= 0.0
    assert posterior_std(WorkerBase(1.0, 2.0, 2.0, 1.0), 1e-9) == 0.0


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
