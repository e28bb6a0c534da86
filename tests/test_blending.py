"""Finding the shares of a blend: what solvers are given, what each of them promises, and the guard against luck."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.ensemble.solvers import _on_simplex

Floats = npt.NDArray[np.float64]

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


@settings(max_examples=40)
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
