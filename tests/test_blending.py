"""Finding the shares of a blend: what solvers are given, what each of them promises, and the guard against luck."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training import BayesianWeightLearner, ExampleEvidence, Image, Outcome
from tsm_training.ensemble import (
    COMPARED_SOLVERS,
    MOST_BLENDS,
    BestSingle,
    BlendExample,
    BlendFit,
    BlendProblem,
    BlendSolver,
    EqualWeights,
    FixedShares,
    Greedy,
    LeastSquares,
    ProbabilityBest,
    blend,
    fit_blend,
    sample_grid,
    solver_named,
)
from tsm_training.ensemble.fitting import _chosen
from tsm_training.ensemble.solvers import _on_simplex
from tsm_training.errors import BlendSolverError, InvalidArgumentError, MetricError

Floats = npt.NDArray[np.float64]
Judge = Callable[[Image], float]

# --- examples of all kinds ------------------------------------------------------------------------------------------


def closeness_to(truth: Image) -> Judge:
    return lambda output: 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


def caprice(_truth: Image) -> Judge:
    """Return a judge whose scores have nothing to do with pictures: every search goes as far as it may."""
    return lambda output: random.Random(output.tobytes()).random()


@attrs.define(eq=False)
class Counting:
    """Counts the pictures that a judge is asked about."""

    judge: Judge
    calls: int = 0

    def __call__(self, output: Image) -> float:
        self.calls += 1
        return self.judge(output)


def noise(rng: np.random.Generator) -> Image:
    return rng.integers(0, 256, (4, 6, 3), np.uint8)


def example(
    number: int,
    outputs: Mapping[str, Image],
    truth: Image,
    *,
    group: str | None = None,
    judge: Callable[[Image], Judge] = closeness_to,
) -> BlendExample:
    """Return an example with a judge that counts."""
    accuracies = {name: judge(truth)(picture) for name, picture in outputs.items()}
    group = group or f"target {number}"
    return BlendExample(f"digest {number}", group, outputs, truth, accuracies, Counting(judge(truth)))


def calls_of(each: BlendExample) -> int:
    assert isinstance(each.score, Counting)
    return each.score.calls


def noisy(
    number: int, workers: str = "abc", *, judge: Callable[[Image], Judge] = closeness_to, group: str | None = None
) -> BlendExample:
    """Return an example whose pictures have nothing to do with each other."""
    outputs = {name: noise(np.random.default_rng([number, ord(name)])) for name in workers}
    return example(number, outputs, noise(np.random.default_rng(number)), group=group, judge=judge)


def planted(number: int, shares: Mapping[str, float], spare: str = "") -> BlendExample:
    """Return an example whose truth is a blend of its workers' pictures; `spare` workers have no part in it."""
    rng = np.random.default_rng(number)
    outputs = {name: noise(rng) for name in [*shares, *spare]}
    return example(number, outputs, blend(outputs, {**dict.fromkeys(spare, 0.0), **shares}))


def problem_of(examples: Sequence[BlendExample], most_blends: int = MOST_BLENDS) -> BlendProblem:
    workers = tuple(sorted({name for each in examples for name in each.outputs}))
    return BlendProblem(tuple(examples), workers, most_blends)


# --- one example ----------------------------------------------------------------------------------------------------


def test_the_blended_picture_itself_is_judged() -> None:
    each = noisy(0)
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert each.blended_score(shares) == each.score(blend(each.outputs, shares))


def test_the_same_shares_are_judged_once() -> None:
    each = noisy(0)
    same = [{"a": 1.0, "b": 1.0}, {"b": 0.5, "a": 0.5}, {"a": 3, "b": 3, "c": 0.0}, {"a": 0.5, "b": 0.5, "gone": 0.0}]
    assert len({each.blended_score(shares) for shares in same}) == 1
    assert each.metric_calls == calls_of(each) == 1
    each.blended_score({"a": 1.0})
    assert each.metric_calls == calls_of(each) == 2


def test_the_share_of_a_worker_without_a_picture_is_spread_over_the_others() -> None:
    each = noisy(0, "ab")
    assert each.blended_score({"a": 0.3, "b": 0.1, "failed": 0.6}) == each.blended_score({"a": 0.75, "b": 0.25})


def test_where_nobody_with_a_share_gave_a_picture_the_others_share_equally() -> None:
    each = noisy(0, "ab")
    assert each.blended_score({"failed": 1.0}) == each.blended_score({"a": 0.5, "b": 0.5})


def squared_error(each: BlendExample, shares: Mapping[str, float]) -> float:
    """Return the mean squared error of the blend, not rounded, on every second row and column."""
    mixed = sum(share * each.outputs[name].astype(np.float64) for name, share in shares.items())
    return float(np.mean((mixed - each.ground_truth)[::2, ::2] ** 2))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda s: sum(s) > 0.1))
def test_error_products_tell_the_squared_error_of_every_blend(seed: int, drawn: list[float]) -> None:
    each = noisy(seed)
    shares = np.array(drawn) / sum(drawn)
    found = shares @ each.error_products(("a", "b", "c")) @ shares
    assert found == pytest.approx(squared_error(each, dict(zip("abc", shares, strict=True))))


def test_error_products_are_exact() -> None:
    each = noisy(3, "ab")
    errors = [
        [int(value) - int(wanted) for value, wanted in zip(picture, truth, strict=True)]
        for picture, truth in (
            (each.outputs[name][::2, ::2].ravel(), each.ground_truth[::2, ::2].ravel()) for name in "ab"
        )
    ]
    exact = [[sum(x * y for x, y in zip(a, b, strict=True)) / len(a) for b in errors] for a in errors]
    assert each.error_products(("a", "b")).tolist() == exact


def test_a_worker_without_a_picture_is_taken_to_have_given_the_mean_of_the_others() -> None:
    truth = np.full((2, 2, 3), 100, np.uint8)
    outputs = {"a": np.full_like(truth, 110), "b": np.full_like(truth, 95)}
    products = example(0, outputs, truth).error_products(("a", "b", "failed"))
    mean = 2.0  # of 10 and −5, rounded to even
    assert products.tolist() == [[100.0, -50.0, 10 * mean], [-50.0, 25.0, -5 * mean], [10 * mean, -5 * mean, mean**2]]


def test_error_products_are_worked_out_once() -> None:
    each = noisy(0)
    assert each.error_products(("a", "b")) is each.error_products(("a", "b"))
    assert each.error_products(("b", "a")).tolist() != each.error_products(("a", "b")).tolist()


# --- several examples -----------------------------------------------------------------------------------------------


def test_the_score_of_a_problem_is_the_mean_over_its_examples() -> None:
    examples = [noisy(number) for number in range(4)]
    shares = {"a": 0.5, "c": 0.5}
    expected = np.mean([each.blended_score(shares) for each in examples])
    assert problem_of(examples).score(shares) == pytest.approx(expected)


def test_a_failure_counts_as_accuracy_0() -> None:
    first, second = noisy(0, "ab"), noisy(1, "a")
    accuracies = problem_of([first, second]).accuracies
    assert accuracies["a"] == pytest.approx((first.accuracies["a"] + second.accuracies["a"]) / 2)
    assert accuracies["b"] == first.accuracies["b"] / 2


def test_posterior_shares_are_those_of_a_learner_that_has_seen_each_example_in_full() -> None:
    examples = [noisy(0), noisy(1, "ab"), noisy(2)]
    learner = BayesianWeightLearner(alpha=1.0)
    for each in examples:
        outcomes = {name: Outcome(each.accuracies.get(name)) for name in "abc"}
        learner.observe([ExampleEvidence(each.digest, outcomes)])
    assert problem_of(examples).posterior == learner.get_blend_weights()


def test_the_error_matrix_is_the_mean_over_the_examples() -> None:
    examples = [noisy(number) for number in range(3)]
    workers = ("a", "b", "c")
    expected = np.mean([each.error_products(workers) for each in examples], axis=0)
    assert problem_of(examples).error_matrix == pytest.approx(expected)


def test_a_part_of_a_problem_has_the_same_workers_and_limit() -> None:
    examples = [noisy(number) for number in range(3)]
    part = problem_of(examples, most_blends=5).among(examples[1:])
    assert part.examples == tuple(examples[1:])
    assert (part.worker_ids, part.most_blends) == (("a", "b", "c"), 5)
    assert part.accuracies != problem_of(examples).accuracies


@settings(max_examples=12)
@given(st.permutations(range(5)))
def test_the_order_of_examples_changes_no_bit_of_a_problem(order: Sequence[int]) -> None:
    def facts(numbers: Sequence[int]) -> Any:
        problem = problem_of([noisy(number, "abc" if number % 2 else "ab") for number in numbers])
        shares = {"a": 0.2, "b": 0.7, "c": 0.1}
        return problem.score(shares), problem.accuracies, problem.posterior, problem.error_matrix.tolist()

    assert facts(order) == facts(range(5))


# --- simple solvers -------------------------------------------------------------------------------------------------


def test_equal_weights_gives_everybody_the_same() -> None:
    assert EqualWeights().solve(problem_of([noisy(0)])) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_best_single_gives_everything_to_the_most_accurate_worker() -> None:
    examples = [planted(number, {"b": 1.0}, spare="ac") for number in range(3)]
    assert BestSingle().solve(problem_of(examples)) == {"b": 1.0}


def test_among_equally_accurate_workers_the_first_id_is_the_best_single() -> None:
    picture = noise(np.random.default_rng(0))
    twins = dict.fromkeys(("d", "b", "c"), picture)
    assert BestSingle().solve(problem_of([example(0, twins, picture)])) == {"b": 1.0}


def test_a_worker_that_failed_once_may_lose_to_a_worse_one_that_never_did() -> None:
    truth = np.full((4, 6, 3), 100, np.uint8)
    good, fair = np.full_like(truth, 102), np.full_like(truth, 130)
    examples = [example(0, {"good": good, "fair": fair}, truth), example(1, {"fair": fair}, truth)]
    assert BestSingle().solve(problem_of(examples)) == {"fair": 1.0}


def test_probability_best_gives_the_posterior_shares() -> None:
    problem = problem_of([noisy(number) for number in range(4)])
    assert ProbabilityBest().solve(problem) == problem.posterior


def test_fixed_shares_are_those_of_the_workers_that_are_here() -> None:
    solver = FixedShares("old", {"a": 0.2, "c": 0.6, "gone": 0.2})
    assert solver.solve(problem_of([noisy(0)])) == pytest.approx({"a": 0.25, "b": 0.0, "c": 0.75})


# --- least squares --------------------------------------------------------------------------------------------------


def best_on_simplex(products: Floats) -> Floats:
    """Return the shares with the least squared error, found by trying every choice of workers."""
    best, least = np.eye(len(products))[0], np.inf
    for count in range(1, len(products) + 1):
        for chosen in map(list, itertools.combinations(range(len(products)), count)):
            # Without bounds, linear equations give the optimum of a choice; it counts where it fits the bounds.
            equations = np.ones((count + 1, count + 1))
            equations[:count, :count], equations[count, count] = products[np.ix_(chosen, chosen)], 0.0
            found = np.linalg.lstsq(equations, np.eye(count + 1)[count], rcond=None)[0][:count]
            shares = np.zeros(len(products))
            shares[chosen] = np.maximum(found, 0.0)
            if found.min() > -1e-9 and abs(found.sum() - 1.0) < 1e-6 and shares @ products @ shares < least:
                best, least = shares, float(shares @ products @ shares)
    return best


@st.composite
def errors(draw: st.DrawFn) -> Floats:
    """Draw the errors of a few workers: independent, with a part in common, or with levels of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    workers, pixels = draw(st.integers(1, 6)), draw(st.integers(1, 60))
    own = draw(st.sampled_from([1.0, 0.1, 0.02])) * rng.integers(-255, 256, (workers, pixels))
    common = draw(st.sampled_from([0, 100])) * rng.uniform(-1.0, 1.0, (1, pixels))
    levels = draw(st.sampled_from([0, 100])) * rng.uniform(-1.0, 1.0, (workers, 1))
    return np.asarray(np.rint(own + common + levels), np.float64)


@settings(max_examples=30)
@given(errors())
def test_least_squares_reaches_the_optimum_on_the_simplex(drawn: Floats) -> None:
    products = drawn @ drawn.T / drawn.shape[1]
    shares, best = _on_simplex(products), best_on_simplex(products)
    assert shares.min() >= 0.0
    assert shares.sum() == pytest.approx(1.0)
    # A quarter of a squared level: rounding pictures to bytes makes more of a difference.
    assert shares @ products @ shares <= best @ products @ best + 0.25


@pytest.mark.parametrize("seed", range(10))
def test_an_error_that_all_workers_share_does_not_hide_their_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = np.rint(rng.integers(-5, 6, (4, 200)) + rng.integers(-100, 101, (1, 200)))
    products = drawn @ drawn.T / drawn.shape[1]
    assert _on_simplex(products) == pytest.approx(best_on_simplex(products), abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 7.0, 100.1])
def test_workers_with_the_same_errors_get_equal_shares(level: float) -> None:
    assert _on_simplex(np.full((3, 3), level)).tolist() == [1 / 3] * 3


def test_least_squares_finds_a_planted_blend() -> None:
    problem = problem_of([planted(number, {"b": 0.6, "d": 0.4}, spare="ac") for number in range(3)])
    assert LeastSquares().solve(problem) == pytest.approx({"b": 0.6, "d": 0.4}, abs=0.01)


def test_least_squares_drops_shares_that_are_next_to_nothing() -> None:
    found = LeastSquares().solve(problem_of([planted(number, {"a": 0.99, "b": 0.01}) for number in range(3)]))
    assert found == {"a": 1.0}


COLORS = {"red": (0, 0, 250), "green": (0, 250, 0), "blue": (250, 0, 0)}


@pytest.mark.parametrize("liked", COLORS)
def test_from_there_least_squares_walks_to_what_the_metric_likes(liked: str) -> None:
    grey = np.full((2, 4, 3), 84, np.uint8)
    outputs = {name: np.full_like(grey, color) for name, color in COLORS.items()}
    problem = problem_of(
        [example(number, outputs, grey, judge=lambda _grey: closeness_to(outputs[liked])) for number in range(3)]
    )
    assert _on_simplex(problem.error_matrix) == pytest.approx([1 / 3] * 3, abs=0.01)  # what squared errors want
    found = LeastSquares().solve(problem)
    assert found[liked] > 0.75
    assert problem.score(found) > problem.score(dict.fromkeys(COLORS, 1 / 3))


def test_least_squares_tries_to_do_with_fewer_workers() -> None:
    rng = np.random.default_rng(0)
    outputs = {name: noise(rng) for name in "abc"}
    two = blend(outputs, {"a": 0.55 / 0.9, "b": 0.35 / 0.9, "c": 0.0})
    truth = blend(outputs, {"a": 0.55, "b": 0.35, "c": 0.1})
    found = LeastSquares().solve(problem_of([example(0, outputs, truth, judge=lambda _truth: closeness_to(two))]))
    assert found == pytest.approx({"a": 0.55 / 0.9, "b": 0.35 / 0.9}, abs=0.01)


# --- greedy selection -----------------------------------------------------------------------------------------------


def test_greedy_selection_takes_workers_more_than_once() -> None:
    problem = problem_of([planted(number, {"a": 2 / 3, "b": 1 / 3}, spare="c") for number in range(3)])
    assert Greedy().solve(problem) == pytest.approx({"a": 2 / 3, "b": 1 / 3})


def test_greedy_selection_keeps_the_best_blend_on_its_way() -> None:
    """Behind the two halves every further step is one too far."""
    problem = problem_of([planted(number, {"a": 0.5, "b": 0.5}) for number in range(3)])
    assert Greedy().solve(problem) == {"a": 0.5, "b": 0.5}


def test_greedy_selection_tries_the_most_accurate_workers_only() -> None:
    truth = np.full((2, 2, 3), 100, np.uint8)
    levels = {"a": 90, "b": 112, "c": 115, "d": 30}
    problem = problem_of([example(0, {name: np.full_like(truth, level) for name, level in levels.items()}, truth)])
    assert set(Greedy(candidates=2).solve(problem)) == {"a", "b"}
    assert Greedy(candidates=1).solve(problem) == {"a": 1.0}
    assert "d" not in Greedy().solve(problem)


@pytest.mark.parametrize("candidates", [0, -1, 1.5, "2", True])
def test_greedy_selection_needs_a_candidate(candidates: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="candidates must be a whole number of at least 1"):
        Greedy(candidates=candidates)


# --- every search ---------------------------------------------------------------------------------------------------

SEARCHES = pytest.mark.parametrize("solver", [LeastSquares(), Greedy(), Greedy(candidates=1)], ids=repr)


@attrs.frozen(eq=False, slots=False)
class Watched(BlendProblem):
    """Counts the looks at blends, each of which may cost a metric call per example."""

    looks: list[Mapping[str, float]] = attrs.field(factory=list)

    def score(self, shares: Mapping[str, float]) -> float:
        self.looks.append(shares)
        return super().score(shares)


@SEARCHES
@given(seed=st.integers(0, 500), most=st.integers(1, 15), workers=st.sampled_from(["a", "ab", "abc", "abcdef"]))
@settings(max_examples=20)
def test_a_search_looks_at_no_more_blends_than_it_may(solver: BlendSolver, seed: int, most: int, workers: str) -> None:
    examples = tuple(noisy(seed + number, workers, judge=caprice) for number in range(2))
    problem = Watched(examples, tuple(workers), most)
    solver.solve(problem)
    assert 1 <= len(problem.looks) <= most
    assert all(1 <= calls_of(each) <= most for each in examples)


@SEARCHES
@given(seed=st.integers(0, 500), most=st.integers(1, 15), judge=st.sampled_from([caprice, closeness_to]))
@settings(max_examples=20)
def test_a_search_never_ends_below_its_start(solver: BlendSolver, seed: int, most: int, judge: Any) -> None:
    def found(blends: int) -> float:
        examples = [noisy(seed + number, judge=judge) for number in range(2)]
        return problem_of(examples).score(solver.solve(problem_of(examples, blends)))

    # With one look a search returns its start.
    assert found(most) >= found(1)


def test_greedy_selection_starts_at_the_best_single_worker() -> None:
    problem = problem_of([noisy(number, judge=caprice) for number in range(3)], most_blends=1)
    assert Greedy().solve(problem) == BestSingle().solve(problem)


# --- which answer is chosen -----------------------------------------------------------------------------------------

SIMPLE = {"best_single", "equal_weights"}


def fitted(examples: Sequence[BlendExample], *arguments: Any) -> BlendFit:
    fit = fit_blend(examples, *arguments)
    assert fit is not None
    return fit


def test_with_fewer_than_three_targets_nothing_is_fitted() -> None:
    assert fit_blend([]) is None
    assert fit_blend([noisy(number, group=f"target {number % 2}") for number in range(8)]) is None
    assert fit_blend([noisy(number) for number in range(3)]) is not None


def test_where_every_worker_fails_on_half_of_the_examples_nothing_is_fitted() -> None:
    assert fit_blend([noisy(number, "ab"[number % 2]) for number in range(4)]) is None


def test_a_worker_that_mostly_fails_gets_no_share() -> None:
    fit = fitted([planted(n, {"a": 0.5, "b": 0.5}) if n < 4 else planted(n, {"a": 1.0}) for n in range(8)])
    assert set(fit.shares) == {"a"}


def test_a_planted_blend_is_found_by_a_search() -> None:
    fit = fitted([planted(number, {"a": 0.6, "b": 0.4}, spare="c") for number in range(8)])
    assert fit.solver in {"least_squares", "greedy"}
    assert fit.shares == pytest.approx({"a": 0.6, "b": 0.4, "c": 0.0}, abs=0.03)


def test_where_pictures_have_nothing_to_do_with_scores_a_simple_answer_is_chosen() -> None:
    fits = [fitted([noisy(100 * seed + number, judge=caprice) for number in range(5)]) for seed in range(24)]
    assert sum(fit.solver in SIMPLE for fit in fits) >= 21
    # By their means alone, searches would often have won.
    assert sum(max(fit.compared, key=fit.compared.__getitem__) not in SIMPLE for fit in fits) >= 6


def test_where_one_worker_is_right_it_gets_everything() -> None:
    fit = fitted([planted(number, {"b": 1.0}, spare="ac") for number in range(6)])
    assert fit.shares == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert fit.solver == "best_single"


def test_a_search_has_to_beat_the_answers_that_are_there_already() -> None:
    examples = [planted(number, {"a": 0.6, "b": 0.4}, spare="c") for number in range(8)]
    there = FixedShares("there", {"a": 0.6, "b": 0.4})
    fit = fitted(examples, None, [there])
    assert fit.solver == "there"
    assert fit.compared["there"] == 1.0


def test_every_solver_is_compared_on_examples_that_it_has_not_seen() -> None:
    fit = fitted([planted(number, {"a": 0.5, "b": 0.5}) for number in range(5)])
    assert fit.compared.keys() == COMPARED_SOLVERS.keys()
    assert fit.compared["greedy"] == 1.0
    assert fit.compared["best_single"] < 1.0


@pytest.mark.parametrize(
    ("gains", "is_enough"),
    [
        ([0.01, 0.03, 0.01, 0.03], True),  # mean 0.02, standard error 0.00577
        ([-0.02, 0.04, -0.02, 0.04], False),  # mean 0.01, standard error 0.0173
        ([0.010, 0.020, 0.0435], True),  # mean 0.0245, standard error 0.00993: 2.47 of them
        ([0.0, 0.0, 0.0, 0.05], False),  # 1 of them
        ([0.0, 0.0, 0.02, 0.021], True),  # 1.73 of them
        ([-0.01, 0.0, 0.038], False),  # mean 0.00933, standard error 0.0146
        ([-0.01, 0.02, 0.038], False),  # mean 0.016, standard error 0.01405: 1.14 of them
        ([-0.005, 0.02, 0.038], True),  # mean 0.01767, standard error 0.01247: 1.42 of them
    ],
)
def test_a_search_wins_where_its_gain_is_beyond_noise(gains: list[float], is_enough: bool) -> None:
    compared = {"equal_weights": [0.4] * len(gains), "best_single": [0.5] * len(gains)}
    compared |= {"greedy": [0.5 + gain for gain in gains], "least_squares": [0.45] * len(gains)}
    chosen = _chosen(compared, ["equal_weights", "best_single"])
    assert chosen == ("greedy" if is_enough else "best_single")


def scoring(group: str, number: int, **scores: float) -> BlendExample:
    """Return an example on which each worker alone, or both together, has a known score."""
    levels = {"a": 0, "b": 100}
    outputs = {name: np.full((4, 4, 3), level, np.uint8) for name, level in levels.items()}
    judge = {0: scores["a"], 100: scores["b"], 50: scores["both"]}
    accuracies = {name: scores[name] for name in levels}
    truth = outputs["a"]
    return BlendExample(
        f"{group} {number}", group, outputs, truth, accuracies, lambda picture: judge.get(int(picture.flat[0]), 0.0)
    )


def test_every_target_counts_alike_however_many_examples_it_has() -> None:
    examples = [scoring(group, 0, a=0.5, b=0.4, both=0.7) for group in "wxyz"]
    crowd = [scoring("z", number, a=0.9, b=0.4, both=0.1) for number in range(1, 20)]
    few, many = fitted(examples), fitted([*examples, *crowd])
    assert (few.compared["best_single"], few.compared["equal_weights"]) == pytest.approx((0.5, 0.7))
    # The means of the crowded target are 0.88 and 0.13: over examples they would decide, over targets they do not.
    expected = (3 * 0.5 + 0.88) / 4, (3 * 0.7 + 0.13) / 4
    assert (many.compared["best_single"], many.compared["equal_weights"]) == pytest.approx(expected)


def test_the_safe_shares_are_those_of_the_better_simple_answer() -> None:
    uneven = fitted([planted(number, {"a": 0.95, "b": 0.05}) for number in range(8)])
    assert uneven.solver in {"least_squares", "greedy"}
    assert uneven.safe == {"a": 1.0, "b": 0.0}
    even = fitted([planted(number, {"a": 0.5, "b": 0.5}) for number in range(5)])
    assert even.safe == {"a": 0.5, "b": 0.5}
    named = fitted([planted(number, {"a": 0.5, "b": 0.5}) for number in range(5)], COMPARED_SOLVERS["best_single"])
    assert named.safe == even.safe


def test_a_group_keeps_the_safe_shares_of_all_unless_its_own_are_better_beyond_noise() -> None:
    alike = [noisy(number, judge=caprice) for number in range(6)]
    assert fitted(alike, None, [], {"a": 0.3, "c": 0.7}).safe == {"a": 0.3, "b": 0.0, "c": 0.7}
    other = [planted(number, {"b": 1.0}, spare="ac") for number in range(6)]
    assert fitted(other, None, [], {"a": 1.0}).safe == {"a": 0.0, "b": 1.0, "c": 0.0}


@attrs.frozen(eq=False)
class Watching(BlendSolver):
    """Notes the problems that it is given."""

    name: str = "watching"
    problems: list[BlendProblem] = attrs.field(factory=list)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        self.problems.append(problem)
        return dict.fromkeys(problem.worker_ids, 1.0)


@pytest.mark.parametrize(("groups", "folds"), [(3, 3), (4, 4), (9, 4)])
def test_examples_of_one_target_are_never_on_both_sides_of_a_comparison(groups: int, folds: int) -> None:
    watching = Watching()
    examples = [noisy(number, group=f"target {number % groups}") for number in range(2 * groups)]
    fitted(examples, None, [watching])
    held_out = [
        {each.group for each in examples} - {each.group for each in problem.examples} for problem in watching.problems
    ]
    assert len(held_out) == folds
    assert sum(map(len, held_out)) == groups
    for problem, left_out in zip(watching.problems, held_out, strict=True):
        assert {each.digest for each in problem.examples} == {e.digest for e in examples if e.group not in left_out}


@pytest.mark.parametrize("workers", ["a", "ab", "abcdefgh"])
@pytest.mark.parametrize("number", [3, 5, 12])
def test_no_more_metric_calls_are_made_than_stated(workers: str, number: int) -> None:
    examples = [noisy(each, workers, judge=caprice) for each in range(number)]
    fitted(examples, None, [FixedShares("there", {"a": 0.3, "b": 0.7})])
    assert max(map(calls_of, examples)) <= 150


def test_groups_cost_as_much_again_at_most() -> None:
    examples = [noisy(number, judge=caprice) for number in range(8)]
    whole = fitted(examples)
    fitted(examples[:4], None, [FixedShares("all_groups", whole.shares)])
    assert max(map(calls_of, examples)) <= 300


def mixed_up(order: Sequence[int], workers: str) -> list[BlendExample]:
    """Return examples in some order, whose workers stand in some order; one of them fails now and then."""
    return [noisy(number, workers if number % 3 else workers.replace("c", "")) for number in order]


@pytest.mark.parametrize(
    ("order", "workers"), [([0, 1, 2, 3, 4], "dcba"), ([4, 0, 3, 1, 2], "abcd"), ([2, 1, 4, 3, 0], "cadb")]
)
def test_neither_the_order_of_examples_nor_that_of_workers_changes_a_bit(order: list[int], workers: str) -> None:
    assert fitted(mixed_up(order, workers)) == fitted(mixed_up(range(5), "abcd"))


# --- the solver of a user -------------------------------------------------------------------------------------------


@attrs.frozen
class Own(BlendSolver):
    """Answers what it is told to."""

    answer: Any
    name: str = "own"

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        if callable(self.answer):
            self.answer()
        return self.answer  # type: ignore[no-any-return]


def test_a_solver_that_is_given_is_used_without_comparison() -> None:
    examples = [noisy(number) for number in range(3)]
    fit = fitted(examples, Own({"a": 2, "c": np.float32(6.0)}))
    assert (fit.shares, fit.solver, fit.compared) == ({"a": 0.25, "b": 0.0, "c": 0.75}, "own", {})
    assert [calls_of(each) for each in examples] == [2] * len(examples)  # for the safe shares
    assert all(type(share) is float for share in fit.shares.values())


def test_shares_may_have_any_size() -> None:
    examples = [noisy(number) for number in range(3)]
    assert fitted(examples, Own({"a": 1e-300, "b": 3e-300})).shares == pytest.approx({"a": 0.25, "b": 0.75, "c": 0})
    assert fitted(examples, Own({"a": 1e299, "b": 3e299})).shares == pytest.approx({"a": 0.25, "b": 0.75, "c": 0})


def leaving(error: BaseException) -> Callable[[], None]:
    def leave() -> None:
        raise error

    return leave


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "raised TypeError"),
        (5, "raised TypeError"),
        ([0.5, 0.5], "raised TypeError"),
        ({}, "gave nobody a share"),
        ({"a": 0.0, "b": 0}, "gave nobody a share"),
        ({"a": 1.0, "stranger": 0.0}, "gave a share to 'stranger', which is not in the problem"),
        ({0: 1.0}, "gave a share to 0"),
        ({"a": -1e-9, "b": 1.0}, "gave 'a' the share -1e-09"),
        ({"a": float("nan")}, "gave 'a' the share nan"),
        ({"a": float("inf")}, "gave 'a' the share inf"),
        ({"a": 10**400}, "gave 'a' the share 1000"),
        ({"a": 1e308, "b": 1e308}, "gave 'a' the share 1e\\+308"),
        ({"a": "1"}, "gave 'a' the share '1'"),
        ({"a": None}, "gave 'a' the share None"),
        ({"a": True}, "gave 'a' the share True"),
        (leaving(ZeroDivisionError("oh")), "raised ZeroDivisionError: oh"),
        (leaving(SystemExit(3)), "raised SystemExit: 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_solver_is_named(answer: Any, reason: str) -> None:
    examples = [noisy(number) for number in range(3)]
    with pytest.raises(BlendSolverError, match=f"the blend solver 'own' {reason}") as caught:
        fit_blend(examples, Own(answer))
    assert caught.value.solver == "own"


@pytest.mark.parametrize("solver", [None, Greedy()], ids=repr)
def test_the_fault_of_a_metric_is_not_the_solvers(solver: BlendSolver | None) -> None:
    def broken(_output: Image) -> float:
        raise MetricError("Broken", "(the blended picture)", "raised ValueError: no")

    examples = [attrs.evolve(noisy(number), score=broken) for number in range(3)]
    with pytest.raises(MetricError, match="Broken"):
        fit_blend(examples, solver)


def test_ctrl_c_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_blend([noisy(number) for number in range(3)], Own(leaving(KeyboardInterrupt())))


@pytest.mark.parametrize("name", COMPARED_SOLVERS)
def test_a_solver_is_found_by_its_name(name: str) -> None:
    solver = solver_named(name)
    assert solver is not None
    assert solver.name == name
    fit = fitted([noisy(number) for number in range(3)], solver)
    assert (fit.solver, fit.compared) == (name, {})


def test_auto_compares_them_all() -> None:
    assert solver_named("auto") is None


def test_an_object_that_inherits_nothing_is_a_solver_too() -> None:
    class Mine:
        name = "mine"

        def solve(self, problem: BlendProblem, /) -> dict[str, float]:
            return {problem.worker_ids[0]: 1.0}

    mine = Mine()
    assert solver_named(mine) is mine


@pytest.mark.parametrize(
    "choice", ["", "AUTO", "best", None, 3, ["greedy"], Greedy, np.array(["auto", "greedy"])], ids=str
)
def test_what_is_no_solver_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="blend_solver must be one of 'auto', 'best_single'"):
        solver_named(choice)


@pytest.mark.parametrize(
    "name", [None, 3, "", "two\nlines", "x" * 201, "half \ud800"], ids=lambda name: ascii(name)[:12]
)
def test_a_solver_needs_a_name_that_can_be_stored_and_shown(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="name of blend_solver must be 1 to 200 printable characters"):
        solver_named(Own({"a": 1.0}, name))


# --- previews -------------------------------------------------------------------------------------------------------


def test_a_preview_has_the_pixels_in_the_middle_of_the_fields_of_an_even_grid() -> None:
    rows, columns = np.indices((480, 12))
    sample = sample_grid(np.stack([rows // 2, rows % 2, columns], axis=-1).astype(np.uint8)).astype(int)
    assert (2 * sample[:, 0, 0] + sample[:, 0, 1]).tolist() == [5 * row + 2 for row in range(96)]
    assert sample[0, :, 2].tolist() == [3, 9]
