"""Solvers of blend weights: from doing nothing clever to searching on the metric itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np

from tsm_training.arguments import at_least
from tsm_training.ensemble.problem import BlendProblem, Matrix

__all__ = ["BestSingle", "EqualWeights", "Greedy", "LeastSquares", "ProbabilityBest"]

_STEPS: Final = (0.5, 0.25, 0.125)
_SMALL_SHARE: Final = 0.02
_DESCENT_STEPS: Final = 300
_ROUNDING: Final = 1e-12


@attrs.frozen
class EqualWeights:
    """Gives every worker the same share."""

    name: str = attrs.field(default="equal_weights", init=False)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return equal shares."""
        return dict.fromkeys(problem.worker_ids, 1.0)


@attrs.frozen
class BestSingle:
    """Gives everything to the worker with the greatest mean accuracy."""

    name: str = attrs.field(default="best_single", init=False)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return a share of 1 for the best worker."""
        return {_ranked(problem)[0]: 1.0}


@attrs.frozen
class ProbabilityBest:
    """Shares by the posterior probability of being the best worker."""

    name: str = attrs.field(default="probability_best", init=False)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return the posterior shares."""
        return problem.posterior


@attrs.frozen
class LeastSquares:
    """Minimises the squared error of the blended image, then searches nearby on the metric itself.

    The first step is a quadratic problem on the simplex, solved by accelerated projected gradients (Beck & Teboulle, "A
    fast iterative shrinkage-thresholding algorithm", 2009; the projection is that of Duchi et al., 2008) on the small
    matrix of error products, without a metric call. The second moves some of the shares to one promising worker, or
    drops the smallest ones, as long as the metric likes it.
    """

    name: str = attrs.field(default="least_squares", init=False)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return the best shares that were seen."""
        start = _on_simplex(problem.error_matrix)
        return _searched(problem, dict(zip(problem.worker_ids, map(float, start), strict=True)))


@attrs.frozen
class Greedy:
    """Adds one worker after the other, each time the one that helps most (greedy selection with replacement).

    Caruana, Niculescu-Mizil, Crew & Ksikes, "Ensemble selection from libraries of models", 2004. Only the few best
    workers are tried, and the best of all blends on the way is kept.
    """

    candidates: int = attrs.field(default=3, validator=at_least(1))
    """How many workers are tried, those with the greatest accuracy first."""
    name: str = attrs.field(default="greedy", init=False)

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return the best shares on the way."""
        tried = _ranked(problem)[: self.candidates]
        chosen = [tried[0]]
        best, best_score = _counted(chosen), problem.score(_counted(chosen))
        looks = 1
        while looks + len(tried) <= problem.most_blends:
            options = [[*chosen, worker_id] for worker_id in tried]
            scores = [problem.score(_counted(option)) for option in options]
            looks += len(options)
            chosen = options[scores.index(max(scores))]
            if max(scores) > best_score:
                best, best_score = _counted(chosen), max(scores)
        return best


def _ranked(problem: BlendProblem) -> list[str]:
    return sorted(problem.worker_ids, key=lambda worker_id: (-problem.accuracies[worker_id], worker_id))


def _counted(chosen: Sequence[str]) -> dict[str, float]:
    return {worker_id: chosen.count(worker_id) / len(chosen) for worker_id in sorted(set(chosen))}


# --- least squares --------------------------------------------------------------------------------------------------


def _on_simplex(products: Matrix) -> Matrix:
    """Return the shares (at least 0, sum 1) with the least squared error."""
    shares = np.full(len(products), 1.0 / len(products))
    # What all errors have in common cannot be blended away, and would only make the steps small.
    own = products - products.mean(axis=0)
    own -= own.mean(axis=1, keepdims=True)
    steepest = float(np.abs(own).sum(axis=1).max())
    if steepest <= _ROUNDING * float(np.abs(products).max()):
        return shares
    ahead, momentum = shares, 1.0
    for _ in range(_DESCENT_STEPS):
        # Not a matrix product: its last bits may depend on the number of threads.
        slope = (products * ahead).sum(axis=1)
        new = _projected(ahead - slope / steepest)
        if float(np.abs(new - ahead).max()) <= _ROUNDING:
            return new  # nothing is better nearby, so nothing is
        grown = (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead = new + (momentum - 1.0) / grown * (new - shares)
        shares, momentum = new, grown
    return shares


def _projected(point: Matrix) -> Matrix:
    """Return the nearest point whose coordinates are at least 0 and sum to 1."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, len(point) + 1)
    last = int(np.nonzero(falling > excess)[0][-1])
    projection: Matrix = np.maximum(point - excess[last], 0.0)
    return projection


def _searched(problem: BlendProblem, start: Mapping[str, float]) -> dict[str, float]:
    """Walk from `start` to better shares, looking at no more blends than the problem allows."""
    best = _pruned(start, _SMALL_SHARE)
    best_score = problem.score(best)
    looks = 1
    for step in _STEPS:
        largest = max(sorted(best), key=best.__getitem__)
        # Some of the shares go to the most accurate worker, or to the largest share, or the smallest shares go.
        options = [_moved(best, worker_id, step) for worker_id in dict.fromkeys([_ranked(problem)[0], largest])]
        for option in [*options, _pruned(best, step / 2.0)]:
            if looks == problem.most_blends:
                return best
            looks += 1
            if (score := problem.score(option)) > best_score:
                best, best_score = option, score
    return best


def _moved(shares: Mapping[str, float], worker_id: str, step: float) -> dict[str, float]:
    moved = {w: (1.0 - step) * share for w, share in shares.items()}
    return {**moved, worker_id: moved.get(worker_id, 0.0) + step}


def _pruned(shares: Mapping[str, float], least: float) -> dict[str, float]:
    """Return the shares of at least `least`, scaled to sum 1; the largest one stays whatever it is."""
    largest = max(shares.values())
    kept = {w: share for w, share in shares.items() if share >= min(least, largest)}
    total = sum(kept.values())
    return {worker_id: share / total for worker_id, share in kept.items()}
