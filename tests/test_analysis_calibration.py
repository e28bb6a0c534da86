"""What comparisons and verdicts promise, tried on simulated scores whose truth is planted."""

from __future__ import annotations

from functools import cache

import attrs
import pytest

from simulations import (
    NUMBERS,
    PHOTOGRAPHS,
    SPECTRUM,
    Answers,
    advice,
    advised,
    answers,
    coverage_where,
    decisions,
    noise_verdicts,
    related_verdicts,
    shown,
    verdict_coverage,
    weight_coverage,
)

pytestmark = pytest.mark.slow

KINDS = sorted(SPECTRUM)


@cache
def said_of(kind: str, n: int) -> Answers:
    return answers(SPECTRUM[kind], n)


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_comparisons_hold_the_planted_difference_as_often_as_they_say(kind: str, n: int) -> None:
    assert 0.85 <= said_of(kind, n).coverage <= 0.95


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_called_better_with_a_probability_near_nine_tenths_is_better_about_as_often(kind: str, n: int) -> None:
    right, number = Answers.right(said_of(kind, n).better, 0.85, 0.95)
    assert number >= 60
    assert 0.8 <= right <= 1.0


def test_a_worker_called_the_best_is_so_at_least_nearly_as_often() -> None:
    said = [pair for kind in KINDS for n in NUMBERS for pair in said_of(kind, n).best]
    said += [pair for n in (8, 20) for pair in answers(attrs.evolve(PHOTOGRAPHS, spread=0.01), n).best]
    for low in (0.6, 0.7, 0.8, 0.9):
        right, number = Answers.right(said, low, low + 0.1)
        mean = sum(p for p, _truth in said if low <= p <= low + 0.1) / number
        assert number >= 100
        assert right >= mean - 0.05


@pytest.mark.parametrize(("spread", "repeats"), [(0.01, 1), (0.03, 20), (0.06, 5)])
@pytest.mark.parametrize("n", [8, 20, 100])
def test_intervals_hold_whatever_the_spread_and_the_number_of_examples_of_a_target(
    n: int, spread: float, repeats: int
) -> None:
    coverage = coverage_where("normal", n, spread, repeats, repetitions=1000)
    assert coverage >= 0.85
    assert coverage <= 0.97 or n < 20
    for skewed in ("exponential losses", "lognormal losses", "lognormal losses, sigma 1"):
        assert coverage_where(skewed, n, spread, repeats, repetitions=1000) >= 0.8


@pytest.mark.parametrize(("spread", "repeats"), [(0.01, (1, 1)), (0.03, (10, 10)), (0.06, (1, 20))])
@pytest.mark.parametrize("n", [8, 20])
def test_intervals_of_weights_hold_whatever_the_number_of_examples_of_a_target(
    n: int, spread: float, repeats: tuple[int, int]
) -> None:
    coverage = weight_coverage("normal", n, spread, repeats)
    assert coverage >= 0.85
    assert coverage <= 0.97 or n < 20
    assert weight_coverage("lognormal losses", n, spread, repeats) >= 0.8


def test_intervals_of_weights_hold_after_one_epoch_too() -> None:
    assert 0.85 <= weight_coverage("normal", 20, 0.03, alpha=0.15) <= 0.97


@pytest.mark.parametrize("n", NUMBERS)
def test_intervals_of_verdicts_hold_the_planted_difference_as_often_as_they_say(n: int) -> None:
    assert 0.85 <= verdict_coverage(n) <= 0.95


@pytest.mark.parametrize("truth_spread", [0.05, 0.0])
@pytest.mark.parametrize("bonus", [0.0, 0.03])
@pytest.mark.parametrize("n", [min(NUMBERS), max(NUMBERS)])
def test_truths_that_have_nothing_to_do_with_the_workers_are_not_shipped(
    n: int, bonus: float, truth_spread: float
) -> None:
    shares = decisions(noise_verdicts(n, bonus=bonus, truth_spread=truth_spread, repetitions=200))
    assert shares["ship"] <= 0.05
    assert shares["don't ship"] >= 0.9


def test_without_the_check_of_the_relation_noise_would_be_shipped() -> None:
    assert decisions(noise_verdicts(20, bonus=0.03, control=False))["ship"] >= 0.2


@pytest.mark.parametrize("n", NUMBERS)
def test_an_ensemble_without_a_gain_is_seldom_shipped(n: int) -> None:
    assert decisions(related_verdicts(n, 0.0))["ship"] <= 0.05


def test_a_gain_of_four_times_its_standard_error_is_mostly_shipped_from_twenty_targets_on() -> None:
    assert decisions(related_verdicts(20, 4.0))["ship"] >= 0.7
    assert decisions(related_verdicts(8, 4.0))["ship"] == 0.0


@pytest.mark.parametrize(
    ("shape", "most"),
    [("normal", 0.05), ("exponential losses", 0.05), ("lognormal losses", 0.07), ("lognormal losses, sigma 1", 0.07)],
)
def test_what_has_no_gain_is_seldom_shipped_however_often_one_looks(shape: str, most: float) -> None:
    assert shown(shape, range(8, 101, 2), 0.0, repetitions=500) <= most + 0.01
    assert sum(verdicts[-1].decision == "ship" for verdicts in advised(shape, 0.0)) / 300 <= most


def test_looking_often_costs_little_power() -> None:
    single = 0.994  # of a t test at one look, P = 0.95: stats.nct.sf(stats.t.ppf(0.95, 39), 39, 0.02 / 0.03 * 40**0.5)
    assert shown("normal", [40], 0.02, repetitions=1000) >= 0.9 * single


@pytest.mark.parametrize("gain", [0.01, 0.02])
def test_as_many_more_are_asked_for_as_are_needed(gain: float) -> None:
    asked, needed = advice(gain, 20)
    assert 0.5 <= asked / needed <= 2.5
