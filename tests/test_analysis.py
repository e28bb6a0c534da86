"""Comparisons of workers, and the probability of being the best."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tsm_training.analysis import (
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    Comparison,
    Posterior,
    ScoreTable,
    compare,
    probability_best,
)
from tsm_training.errors import InvalidArgumentError
from tsm_training.learning import student

Floats = npt.NDArray[np.float64]

DEGREES = [*range(1, 41), 50, 99, 100, 333, 500, 999, 1000]
VALUES = [0.0, 1e-200, 1e-12, 1e-3, 0.1, 0.5, 1.0, 1.5, 1.7, 1.8, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1e4, 1e8]
SCORES = st.floats(0.0, 1.0).map(lambda value: round(value, 3))
SOME = settings(max_examples=25)
ROWS = st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=MIN_EXAMPLES, max_size=20)


def table(scores: Mapping[str, Sequence[float | None]], groups: Sequence[str] | None = None) -> ScoreTable:
    """Return a table of examples that are called by their numbers; each has a target of its own unless said."""
    ids = [str(number) for number in range(len(next(iter(scores.values()))))]
    return ScoreTable(ids, groups or ids, scores)


def of_rows(rows: Sequence[tuple[float | None, ...]], names: str = "abc") -> ScoreTable:
    return table(dict(zip(names, zip(*rows, strict=True), strict=True)))


def apart(mean: float, spread: float, n: int = 10) -> ScoreTable:
    """Return scores of "a" and "b" whose differences lie `spread` to both sides of `mean`, half of them each."""
    return table({"a": [0.5 + mean + (spread if i % 2 else -spread) for i in range(n)], "b": [0.5] * n})


# --- Student's t ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", DEGREES)
def test_the_distribution_function_agrees_with_scipy(df: int) -> None:
    values = [sign * value for value in VALUES for sign in (1.0, -1.0)]
    found = [student.cdf(value, df) for value in values]
    expected = stats.t.cdf(values, df)
    assert np.allclose(found, expected, rtol=0.0, atol=1e-12)
    told = expected > 1e-280
    assert np.allclose(np.array(found)[told], expected[told], rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("df", DEGREES)
def test_quantiles_agree_with_scipy(df: int) -> None:
    probabilities = [1e-60, 1e-15, 1e-9, 1e-4, 0.025, 0.05, 0.3, 0.4999999, 0.7, 0.95, 0.975, 0.9999]
    found = [student.quantile(probability, df) for probability in probabilities]
    assert np.allclose(found, stats.t.ppf(probabilities, df), rtol=1e-9, atol=1e-9)


@SOME
@given(st.floats(1e-12, 0.5), st.integers(1, 300))
def test_a_quantile_is_exceeded_with_its_probability(probability: float, df: int) -> None:
    value = student.quantile(probability, df)
    assert student.cdf(value, df) == pytest.approx(probability, rel=1e-9)
    assert student.quantile(1.0 - probability, df) == pytest.approx(-value, rel=1e-3, abs=1e-9)


def test_the_middle_and_the_ends_are_exact() -> None:
    assert [student.cdf(value, 7) for value in (-math.inf, -1e200, 0.0, 1e200, math.inf)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert student.quantile(0.5, 7) == 0.0
    # One degree of freedom is the Cauchy distribution.
    assert student.cdf(1.0, 1) == pytest.approx(0.75, abs=1e-15)
    assert student.quantile(0.75, 1) == pytest.approx(1.0, abs=1e-14)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "groups", "scores", "said"),
    [
        (["x", "x"], ["t", "u"], {"a": [0.1, 0.2]}, "example_ids must be ids that name each example once, got 'x'"),
        (["x", "y"], ["t"], {"a": [0.1, 0.2]}, "groups must be 2 entries, one per example, got 1"),
        (["x", "y"], ["t", "u"], {"a": [0.1]}, "scores['a'] must be 2 entries, one per example, got 1"),
        (["x"], ["t"], {"a": [1.5]}, "scores['a'] must be a number between 0 and 1, or None where"),
        (["x"], ["t"], {"a": [-0.1]}, "there was no picture, got -0.1"),
        (["x"], ["t"], {"a": [math.nan]}, "there was no picture, got nan"),
        (["x"], ["t"], {"a": [True]}, "there was no picture, got True"),
        (["x"], ["t"], {"a": ["0.5"]}, "there was no picture, got '0.5'"),
    ],
)
def test_a_table_that_is_no_table_is_refused(ids: Any, groups: Any, scores: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        ScoreTable(ids, groups, scores)
    assert said in str(caught.value)


def test_a_table_keeps_plain_numbers_of_its_own() -> None:
    column = np.array([0.0, 1.0, 0.5], np.float32)
    made = table({"a": column})  # type: ignore[dict-item]
    column[:] = 0.25
    assert made.scores == {"a": (0.0, 1.0, 0.5)}
    assert {type(score) for score in made.scores["a"]} == {float}


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="name must be one of 'a', 'b', got 'c'"):
        apart(0.0, 0.1).column("c")
    with pytest.raises(InvalidArgumentError, match="name must be one of none, got 'c'"):
        ScoreTable([], [], {}).failures("c")


def test_groups_have_the_mean_of_what_they_have() -> None:
    made = table({"a": [0.1, 0.2, 0.3, None, None]}, ["t", "u", "t", "u", "v"])
    assert made.group_means(made.column("a")) == [0.2, 0.2]


# --- posteriors -----------------------------------------------------------------------------------------------------


def test_without_skewness_the_posterior_is_students_t() -> None:
    differences = np.array([0.01 + sign * step for step in (0.005, 0.02, 0.03) for sign in (1, -1)])
    posterior = Posterior.of(differences.tolist())
    scale = math.sqrt((0.025**2 + ((differences - 0.01) ** 2).sum()) / 6 / 6)
    reference = stats.t(5, 0.01, scale)
    assert posterior.skewness == pytest.approx(0.0, abs=1e-12)
    assert posterior.interval() == pytest.approx(reference.interval(0.9), abs=1e-12)
    assert posterior.interval(0.5) == pytest.approx(reference.interval(0.5), abs=1e-12)
    assert posterior.probability_negative == pytest.approx(reference.cdf(0.0), abs=1e-12)
    assert posterior.probability_positive == pytest.approx(reference.sf(0.0), abs=1e-12)
    assert posterior.above(0.02) == pytest.approx(reference.sf(0.02), abs=1e-12)


def test_skewness_is_taken_out_by_halls_transformation() -> None:
    differences = np.array([0.02, 0.03, 0.01, 0.02, 0.025, -0.15, 0.015, 0.03])
    posterior = Posterior.of(differences.tolist())
    n, mean, s = 8, differences.mean(), math.sqrt((0.025**2 + 7 * differences.var(ddof=1)) / 8)
    skewness = stats.skew(differences, bias=False) * (differences.std() / s) ** 3
    for value in (-0.1, -0.02, 0.0, 0.01):
        w = (mean - value) / s
        t = math.sqrt(n) * (w + skewness * w**2 / 3 + skewness**2 * w**3 / 27 + skewness / (6 * n))
        assert posterior.above(value) == pytest.approx(stats.t.cdf(t, n - 1), abs=1e-12)
        assert posterior.below(value) == pytest.approx(stats.t.sf(t, n - 1), abs=1e-12)
    low, high = posterior.interval()
    assert (posterior.below(low), posterior.above(high)) == pytest.approx((0.05, 0.05), abs=1e-12)
    assert mean - low > 2.0 * (high - mean)  # towards the great losses that may come
    assert posterior.mirrored().interval() == pytest.approx((-high, -low))


@SOME
@given(st.lists(SCORES.map(lambda score: score - 0.5), min_size=2, max_size=12), st.floats(0.0, 0.5))
def test_a_mean_difference_is_above_within_or_below(differences: list[float], rope: float) -> None:
    posterior = Posterior.of(differences)
    total = posterior.above(rope) + posterior.within(rope) + posterior.below(-rope)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert posterior.within(rope) >= 0.0
    assert posterior.probability_positive + posterior.probability_negative == pytest.approx(1.0, abs=1e-12)


def test_equal_differences_are_no_certainty() -> None:
    posterior = Posterior.of([0.02] * 8)
    low, high = posterior.interval()
    assert (low, high) == pytest.approx((0.0141, 0.0259), abs=1e-4)
    assert 0.999 < posterior.probability_positive < 0.99999
    assert Posterior.of([0.1] * 3).mean == 0.1  # which is not their sum over 3


def test_differences_that_are_none_leave_a_point() -> None:
    none = Posterior.of([0.0] * 5)  # which speaks for neither
    assert (none.probability_positive, none.probability_negative, none.within(0.0)) == (0.5, 0.5, 1.0)
    assert (none.interval(), none.above(0.01), none.below(0.01)) == ((0.0, 0.0), 0.0, 1.0)
    assert not none.shows(0.0)


def test_what_few_targets_show_must_outweigh_what_they_may_hide() -> None:
    assert next(n for n in range(8, 22) if Posterior.of([0.05, 0.06] * (n // 2) + [0.055] * (n % 2)).shows(0.0)) == 14
    assert Posterior.of([0.1, 0.2] * 4).shows(0.0)
    assert not Posterior.of([0.02, 0.03] * 9).shows(0.0)
    assert Posterior.of([0.02, 0.03] * 10).shows(0.0)
    assert not Posterior.of([-0.1, -0.2] * 10).shows(0.0)


def test_where_losses_are_great_a_greater_gain_would_be_shown() -> None:
    rng = np.random.default_rng(3)

    def losses() -> np.ndarray[Any, np.dtype[np.float64]]:
        return 0.03 * (1.0 - rng.exponential(1.0, 40))

    gains = [Posterior.of(losses().tolist()).detectable for _ in range(200)]
    gain = float(np.median(gains))
    even = 0.03 * np.linspace(-1.7, 1.7, 40)
    assert gain > 1.3 * Posterior.of(even.tolist()).detectable
    assert np.mean([Posterior.of((losses() + gain).tolist()).shows(0.0) for _ in range(400)]) > 0.4


@pytest.mark.parametrize("n", [20, 40, 400])
def test_a_difference_is_shown_from_bayes_factor_13_on(n: int) -> None:
    def factor(t: float) -> float:  # of a normal prior with variance 1/3 on the effect in standard deviations
        ratio = (1 + t**2 / n) / (1 + t**2 / n * 3 / (n + 3))
        return 2 * math.sqrt(3 / (n + 3)) * ratio ** ((n + 1) / 2)

    posterior = Posterior(mean=0.0, scale=0.01, df=n - 1)
    low, high = 0.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if posterior.shows(-middle * 0.01) else (middle, high)
    assert factor(high) == pytest.approx(13.0, rel=1e-9)
    assert posterior.detectable == pytest.approx(0.01 * (high + stats.norm.ppf(0.8)), rel=1e-3)


# --- comparing two --------------------------------------------------------------------------------------------------


def test_a_clear_difference_is_found_with_its_figures() -> None:
    found = compare(apart(0.012, 0.01), "a", "b")
    assert found.conclusion == "better"
    assert found.mean_difference == pytest.approx(0.012)
    assert found.interval == pytest.approx((0.004610, 0.019390), abs=1e-6)
    assert found.probability_better == pytest.approx(stats.t.cdf(0.012 / math.sqrt(0.001625 / 100), 9), abs=1e-9)
    assert (found.n, found.num_examples, found.failures_a, found.failures_b) == (10, 10, 0, 0)
    assert found.rope == DEFAULT_ROPE
    assert str(found) == "a is better than b by 0.012 (90 % interval 0.005 to 0.019, 10 targets; P > 0.99)"


@pytest.mark.parametrize(
    ("mean", "spread", "n", "conclusion", "sentence"),
    [
        (-0.012, 0.015, 10, "worse", "a is worse than b by 0.012 (90 % interval 0.002 to 0.022, 10 targets; P = 0.97)"),
        (
            0.001,
            0.003,
            20,
            "practically equal",
            "a and b are practically equal, the difference is 0.001 (90 % interval -0.001 to 0.003, 20 targets; "
            "P > 0.99 for at most 0.005)",
        ),
        (
            -0.004,
            0.03,
            10,
            "undecided",
            "it is undecided whether a or b is better, the difference is -0.004 (90 % interval -0.022 to 0.014, "
            "10 targets; P = 0.34 that it is a)",
        ),
        (0.0, 0.0, 10, "practically equal", "a and b score alike on all 10 targets"),
        (0.1, 0.0, 10, "better", "a is better than b by 0.100 (90 % interval 0.095 to 0.105, 10 targets; P > 0.99)"),
    ],
)
def test_each_conclusion_has_its_sentence(mean: float, spread: float, n: int, conclusion: str, sentence: str) -> None:
    found = compare(apart(mean, spread, n), "a", "b")
    assert (found.conclusion, found.sentence) == (conclusion, sentence)


def test_a_certain_difference_that_is_too_small_to_matter_is_practically_none() -> None:
    found = compare(apart(0.003, 0.001, 40), "a", "b")
    assert found.probability_better is not None
    assert found.probability_better > 0.99
    assert found.conclusion == "practically equal"
    assert compare(apart(0.003, 0.001, 40), "a", "b", rope=0.0).conclusion == "better"


def test_the_region_of_practical_equivalence_divides_the_probabilities() -> None:
    found = compare(apart(0.006, 0.02), "a", "b", rope=0.01)
    scale = math.sqrt(0.004625) / 10.0  # the squares of ten differences, and of the prior's one
    assert found.probability_practically_better == pytest.approx(stats.t.cdf(-0.004 / scale, 9), abs=1e-9)
    assert found.probability_practically_worse == pytest.approx(stats.t.cdf(-0.016 / scale, 9), abs=1e-9)
    parts = [
        found.probability_practically_better,
        found.probability_practically_equal,
        found.probability_practically_worse,
    ]
    assert sum(part or 0.0 for part in parts) == pytest.approx(1.0)


@SOME
@given(ROWS)
def test_the_other_way_round_everything_is_mirrored(rows: list[tuple[float, float, float]]) -> None:
    there, back = (compare(of_rows(rows), *names) for names in (("a", "b"), ("b", "a")))
    assert there.probability_better == back.probability_worse
    assert there.probability_practically_equal == pytest.approx(back.probability_practically_equal, abs=1e-12)
    assert there.probability_practically_worse == back.probability_practically_better
    assert there.interval is not None
    assert back.interval is not None
    assert there.interval == tuple(-end for end in reversed(back.interval))
    opposite = {"better": "worse", "worse": "better"}
    assert back.conclusion == opposite.get(there.conclusion, there.conclusion)


@SOME
@given(ROWS, st.randoms(use_true_random=False))
def test_neither_the_order_of_examples_nor_a_third_worker_changes_a_comparison(
    rows: list[tuple[float, float, float]], shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    pairs = of_rows([row[:2] for row in shuffled], "ab")
    assert compare(pairs, "a", "b") == compare(of_rows(rows), "a", "b")


@SOME
@given(ROWS, st.floats(0.0, 0.3))
def test_what_makes_examples_easy_for_both_changes_nothing(rows: list[tuple[float, float, float]], ease: float) -> None:
    hard = [(0.7 * a, 0.7 * b, c) for a, b, c in rows]
    easy = [(a + ease * c, b + ease * c, c) for a, b, c in hard]
    plain, shifted = (compare(of_rows(scores), "a", "b") for scores in (hard, easy))
    assert shifted.mean_difference == pytest.approx(plain.mean_difference, abs=1e-12)
    assert shifted.interval == pytest.approx(plain.interval, abs=1e-6)


def test_a_target_with_many_examples_counts_no_more_than_one_with_one() -> None:
    found = compare(table({"a": [0.9, 0.9, 0.9, 0.5], "b": [0.5] * 4}, ["t", "t", "t", "u"]), "a", "b")
    assert found.mean_difference == pytest.approx(0.2)
    assert (found.n, found.num_examples) == (2, 4)


def test_failures_are_counted_and_said() -> None:
    good = apart(0.05, 0.01, 12)
    scores = {name: list(column) for name, column in good.scores.items()}
    scores["a"][0] = scores["a"][1] = scores["b"][1] = None
    found = compare(table(scores), "a", "b")
    assert (found.failures_a, found.failures_b, found.num_examples, found.n) == (2, 1, 10, 10)
    assert found.mean_difference == pytest.approx(0.05)
    assert found.sentence.endswith("; a gave no picture on 2 examples; b gave no picture on 1 example")


@pytest.mark.parametrize("n", [1, MIN_EXAMPLES - 1])
def test_below_the_least_number_nothing_is_said_but_the_mean(n: int) -> None:
    found = compare(apart(0.1, 0.0, n), "a", "b")
    assert found.mean_difference == pytest.approx(0.1)
    assert found.conclusion == "not enough data"
    document = found.to_dict()
    nothing = {key for key, value in document.items() if value is None}
    assert nothing == {"interval", *(key for key in document if key.startswith("probability"))}
    targets = "1 target" if n == 1 else "7 targets"
    expected = f"not enough data to compare a with b: {targets} with pictures of both, at least 8 are needed"
    assert found.sentence == expected
    assert compare(apart(0.1, 0.01, MIN_EXAMPLES), "a", "b").conclusion == "better"


def test_two_that_never_meet_have_no_mean() -> None:
    found = compare(table({"a": [0.9, None], "b": [None, 0.5]}), "a", "b")
    assert (found.mean_difference, found.n, found.failures_a, found.failures_b) == (None, 0, 1, 1)


@pytest.mark.parametrize("rope", [-0.1, 1.0, math.nan, True, "0.1", None])
def test_a_region_that_is_none_is_refused(rope: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="rope must be a number of at least 0 and below 1, got "):
        compare(apart(0.0, 0.1), "a", "b", rope=rope)


def test_a_worker_is_not_compared_with_itself() -> None:
    with pytest.raises(InvalidArgumentError, match="b must be another one than a, got 'a'"):
        compare(apart(0.0, 0.1), "a", "a")


@pytest.mark.parametrize("n", [3, 10])
def test_a_comparison_can_be_kept_as_json_and_as_a_pickle(n: int) -> None:
    found = compare(apart(0.012, 0.01, n), "a", "b", rope=0.01)
    document = found.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document.keys() >= {field for field in dir(Comparison) if field.startswith("probability_")}
    assert (document["conclusion"], document["sentence"]) == (found.conclusion, found.sentence)
    assert (document["a"], document["b"], document["rope"], document["n"]) == ("a", "b", 0.01, n)
    assert document["interval"] == (None if found.interval is None else list(found.interval))
    assert pickle.loads(pickle.dumps(found)) == found


# --- the best of several --------------------------------------------------------------------------------------------


def test_equal_workers_have_equal_probabilities_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    column = rng.uniform(0.5, 0.9, 20).tolist()
    found = probability_best(table(dict.fromkeys("abc", column)))
    assert len(set(found.probabilities.values())) == 1
    assert found.probabilities["a"] == pytest.approx(1.0 / 3.0, abs=1e-15)
    assert found.sentence == "the best worker is most probably a, b or c (P = 0.33 each; 20 targets)"


@SOME
@given(ROWS)
def test_workers_that_change_places_change_probabilities(rows: list[tuple[float, float, float]]) -> None:
    straight = probability_best(of_rows(rows)).probabilities
    for order in itertools.permutations("abc"):
        assert probability_best(of_rows(rows, "".join(order))).probabilities == {
            new: straight[old] for old, new in zip("abc", order, strict=True)
        }


@SOME
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter_for_the_best(
    rows: list[tuple[float, float, float]], shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert probability_best(of_rows(shuffled)) == probability_best(of_rows(rows))


@SOME
@given(ROWS)
def test_the_probabilities_have_the_sum_one(rows: list[tuple[float, float, float]]) -> None:
    known = [value for value in probability_best(of_rows(rows)).probabilities.values() if value is not None]
    assert math.fsum(known) == pytest.approx(1.0)
    assert all(0.0 <= value <= 1.0 for value in known)


def shrunk(means: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Return what is left of means and variances when the spread of the means is summed over, by brute force."""
    spreads = 0.025 * np.tan(np.pi / 2 * (np.arange(16) + 0.5) / 16)[:, None]
    likelihood = np.prod(stats.norm.pdf(means, 0.0, np.sqrt(spreads**2 + variances)), axis=1)
    parts = likelihood @ (spreads**2 / (spreads**2 + variances)) / likelihood.sum()
    return parts * means, np.sqrt(parts * variances)


@pytest.mark.parametrize("n", [8, 12, 40])
def test_of_two_workers_the_winner_is_taken_to_have_been_lucky_too(n: int) -> None:
    best = probability_best(apart(0.01, 0.02, n)).probabilities["a"]
    # Relative to their mean the two deviate by 0.01 each: their squares sum to n · 0.0001.
    variance = (2 * n * 0.0001 + 0.025**2) / n**2 * (n - 1) / (n - 3)
    means, stds = shrunk(np.array([0.005, -0.005]), np.array([variance, variance]))
    assert best == pytest.approx(stats.norm.cdf((means[0] - means[1]) / math.hypot(*stds)), abs=1e-9)
    assert best < stats.norm.cdf(0.01 / math.sqrt(2 * variance))


def test_of_three_workers_the_variances_are_those_of_their_ecovalences() -> None:
    effects = np.array([[2, -1, 0, 1, -2, 1, 0, -1], [0, 1, -2, 1, 1, -3, 1, 1], [-2, 0, 2, -2, 1, 2, -1, 0]]) / 100
    scores = np.array([[0.52], [0.5], [0.49]]) + effects + np.linspace(0.0, 0.3, 8)
    found = probability_best(table(dict(zip("abc", scores.tolist(), strict=True)))).probabilities
    relative = scores - scores.mean(axis=0)
    squares = ((relative.T - relative.mean(axis=1)).T ** 2).sum(axis=1)
    means, stds = shrunk(relative.mean(axis=1), (3 / 2 * squares + 0.025**2) / 64 * 7 / 5)
    for i, name in enumerate("abc"):
        others = [j for j in range(3) if j != i]
        expected, _error = integrate.quad(
            lambda x, i=i, others=others: (
                stats.norm.pdf(x, means[i], stds[i]) * np.prod([stats.norm.cdf(x, means[j], stds[j]) for j in others])
            ),
            -0.2,
            0.2,
            epsabs=1e-12,
        )
        assert found[name] == pytest.approx(expected, abs=1e-7)


def test_a_lead_that_never_varies_is_no_certainty() -> None:
    found = probability_best(apart(0.01, 0.0))
    assert found.probabilities["a"] == pytest.approx(0.9845, abs=1e-3)
    assert found.sentence == "the best worker is most probably a (P = 0.98; 10 targets)"


def test_one_worker_is_the_best_of_one() -> None:
    assert probability_best(table({"a": [0.5] * 7 + [0.7]})).probabilities == {"a": 1.0}


def test_workers_are_compared_where_all_of_them_gave_a_picture() -> None:
    scores: dict[str, list[float | None]] = {
        "a": [0.9 if i % 2 else 0.8 for i in range(12)],
        "b": [None, None, *(0.5 if i % 3 else 0.4 for i in range(10))],
        "c": [*(0.6 if i % 5 else 0.7 for i in range(11)), None],
    }
    found = probability_best(table(scores))
    assert (found.n, found.num_examples) == (9, 9)
    assert found.failures == {"a": 0, "b": 2, "c": 1}
    part = table({name: column[2:11] for name, column in scores.items()})
    assert found.probabilities == probability_best(part).probabilities


def test_a_worker_that_fails_on_more_than_half_is_left_out_and_named() -> None:
    scores: dict[str, list[float | None]] = {
        "a": [0.9] * 20,
        "b": [*[0.5] * 10, *[None] * 10],
        "c": [*[0.7] * 9, *[None] * 11],
    }
    found = probability_best(table(scores))
    assert found.left_out == ("c",)
    assert found.probabilities == {"a": 1.0, "b": 0.0, "c": None}
    assert found.num_examples == 10
    assert found.sentence.endswith("(P > 0.99; 10 targets); c left out for failing on more than half")


def test_too_few_targets_give_no_probabilities() -> None:
    scores = {"a": [0.9] * 20, "b": [0.5] * 20}
    found = probability_best(table(scores, [str(number % 7) for number in range(20)]))
    assert (found.n, found.num_examples) == (7, 20)
    assert found.probabilities == {"a": None, "b": None}
    needed = "7 targets with pictures of all workers, at least 8 are needed"
    assert str(found) == f"not enough data to say which worker is the best: {needed}"


def test_each_target_counts_once_for_the_best_too() -> None:
    single = apart(0.012, 0.03)
    repeated = table(
        {name: [score for score in column for _ in range(4)] for name, column in single.scores.items()},
        [group for group in single.groups for _ in range(4)],
    )
    assert probability_best(repeated).probabilities == pytest.approx(probability_best(single).probabilities)


@pytest.mark.parametrize("scores", [{}, {"a": [], "b": []}, {"a": [None], "b": [None]}])
def test_where_there_is_nothing_nobody_is_the_best(scores: dict[str, list[None]]) -> None:
    ids = ["x"] * max((len(column) for column in scores.values()), default=0)
    found = probability_best(ScoreTable(ids, ids, scores))
    assert found.probabilities == dict.fromkeys(scores)
    assert (found.n, found.num_examples) == (0, 0)


def test_who_is_best_can_be_kept_as_json() -> None:
    scores: dict[str, list[float | None]] = {"a": [0.9] * 9, "b": [0.5] * 9, "c": [None] * 9}
    document = probability_best(table(scores)).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["probabilities"] == {"a": 1.0, "b": 0.0, "c": None}
    assert document["failures"] == {"a": 0, "b": 0, "c": 9}
    assert (document["left_out"], document["n"], document["num_examples"]) == (["c"], 9, 9)
    assert document["sentence"].startswith("the best worker is most probably a ")
