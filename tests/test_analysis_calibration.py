"""What comparisons and verdicts promise, tried on simulated scores whose truth is planted."""

from __future__ import annotations

from functools import cache

import pytest

from simulations import (
    NUMBERS,
    SPECTRUM,
    Answers,
    answers,
    coverage_where,
    decisions,
    noise_verdicts,
    related_verdicts,
    shipped_at_any_look,
    skewed,
    verdict_coverage,
)

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


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_called_the_best_with_a_probability_near_nine_tenths_is_so_about_as_often(kind: str) -> None:
    said = [pair for n in NUMBERS for pair in said_of(kind, n).best]
    right, number = Answers.right(said, 0.85, 0.95)
    assert number >= 60
    assert 0.8 <= right <= 1.0


def test_at_the_least_number_of_targets_skewed_differences_cost_little() -> None:
    assert coverage_where(skewed, 0.02, NUMBERS[0]) >= 0.82


@pytest.mark.parametrize("n", NUMBERS)
def test_intervals_of_verdicts_hold_the_planted_difference_as_often_as_they_say(n: int) -> None:
    assert 0.85 <= verdict_coverage(n) <= 0.95


@pytest.mark.parametrize("truth_spread", [0.05, 0.0])
@pytest.mark.parametrize("bonus", [0.0, 0.03])
@pytest.mark.parametrize("n", NUMBERS)
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


@pytest.mark.parametrize("n", NUMBERS)
def test_a_gain_of_twice_its_standard_error_is_mostly_shipped(n: int) -> None:
    shares = decisions(related_verdicts(n, 2.0))
    assert shares["ship"] > 0.5
    assert shares["don't ship"] <= 0.05


def test_a_gain_of_four_times_its_standard_error_is_nearly_always_shipped() -> None:
    assert decisions(related_verdicts(20, 4.0))["ship"] >= 0.9


def test_asking_again_and_again_ships_what_has_no_gain_more_often_but_not_much() -> None:
    assert shipped_at_any_look(200) <= 0.1
