"""Finding blend weights: the problem (examples whose blended images can be judged again and again), and solvers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training.arguments import at_least
from tsm_training.arrays import Image
from tsm_training.ensemble.blending import blend, renormalised
from tsm_training.errors import InvalidArgumentError
from tsm_training.learning import ExampleEvidence, Outcome
from tsm_training.weights import BayesianWeightLearner

Matrix: TypeAlias = npt.NDArray[np.float64]

MOST_BLENDS: Final = 12
"""How many different blends one of our solvers looks at in one search; each costs one metric call per example."""

_PIXEL_STEP: Final = 2
"""For squared errors every second row and column of a preview will do."""

_STEPS: Final = (0.5, 0.25, 0.125)
_SMALL_SHARE: Final = 0.02
_DESCENT_STEPS: Final = 300
_ROUNDING: Final = 1e-12


@attrs.frozen(eq=False, repr=False)
class BlendExample:
    """One training example, as far as blending goes: small images of one size, and their judge."""

    digest: str
    group: str
    """Examples of one group (those with the same target) are never on both sides of a comparison."""
    outputs: Mapping[str, Image]
    """The workers' previews by worker id: uint8, H×W×3, BGR; a worker that failed has none. At least one."""
    ground_truth: Image
    """The wanted result's preview, of the same size."""
    accuracies: Mapping[str, float]
    """What the metric said of the workers' whole images, in [0, 1], for the workers in `outputs`."""
    score: Callable[[Image], float]
    """The engine's metric against the ground truth: a preview in, a number in [0, 1] out."""
    _scores: dict[tuple[tuple[str, float], ...], float] = attrs.field(factory=dict, init=False, repr=False)
    _products: dict[tuple[str, ...], Matrix] = attrs.field(factory=dict, init=False, repr=False)

    def blended_score(self, shares: Mapping[str, float]) -> float:
        """Return the similarity of the image that is blended by these shares, in [0, 1].

        Shares of workers without an image are spread over the others. The same shares are judged once.
        """
        weights = renormalised(shares, self.outputs)
        key = tuple((worker_id, share) for worker_id, share in weights.items() if share > 0.0)
        if key not in self._scores:
            self._scores[key] = self.score(blend(self.outputs, weights))
        return self._scores[key]

    @property
    def metric_calls(self) -> int:
        """How many blends were judged so far."""
        return len(self._scores)

    def error_products(self, worker_ids: tuple[str, ...]) -> Matrix:
        """Return the mean products of each two workers' errors, in squared levels; exact, so the same everywhere.

        A worker without an image is taken to have given the mean of the others: that is what its share becomes.
        """
        if worker_ids not in self._products:
            part = np.s_[::_PIXEL_STEP, ::_PIXEL_STEP]
            truth = self.ground_truth[part].astype(np.float64).ravel()
            errors = {w: output[part].astype(np.float64).ravel() - truth for w, output in self.outputs.items()}
            mean = np.rint(sum(errors.values()) / len(errors))
            rows = np.stack([errors.get(worker_id, mean) for worker_id in worker_ids])
            # Whole numbers below 2**53: no order of summation can change a bit.
            self._products[worker_ids] = rows @ rows.T / rows.shape[1]
        return self._products[worker_ids]


@attrs.frozen(eq=False, repr=False, slots=False)
class BlendProblem:
    """Find the shares whose blended images come nearest to the ground truth on these examples."""

    examples: tuple[BlendExample, ...]
    """At least one."""
    worker_ids: tuple[str, ...]
    """Who may have a share, in order."""
    most_blends: int = MOST_BLENDS
    """How many different blends a search should look at, at most: metrics may be slow."""

    def score(self, shares: Mapping[str, float]) -> float:
        """Return the mean similarity of the blended images, in [0, 1].

        Args:
            shares: Per worker id, at least 0 and not all of them 0; they are scaled to sum 1.

        Raises:
            InvalidArgumentError: a share is below 0, there is none, or a worker is not in the problem.
        """
        if not shares.keys() <= set(self.worker_ids) or not any(shares.values()) or min(shares.values()) < 0.0:
            raise InvalidArgumentError("shares", shares, f"shares of at least 0, not all 0, of {self.worker_ids}")
        return math.fsum(example.blended_score(shares) for example in self.examples) / len(self.examples)

    @cached_property
    def accuracies(self) -> Mapping[str, float]:
        """Each worker's mean accuracy over these examples, its whole images judged; a failure counts 0."""
        return {
            worker_id: math.fsum(example.accuracies.get(worker_id, 0.0) for example in self.examples)
            / len(self.examples)
            for worker_id in self.worker_ids
        }

    @cached_property
    def posterior(self) -> Mapping[str, float]:
        """The shares by posterior probability of being the best worker, these examples seen once in full."""
        learner = BayesianWeightLearner(alpha=1.0)
        learner.observe(
            ExampleEvidence(example.digest, {w: Outcome(example.accuracies.get(w)) for w in self.worker_ids})
            for example in self.examples
        )
        return learner.get_blend_weights(worker_ids=self.worker_ids)

    @cached_property
    def error_matrix(self) -> Matrix:
        """The mean products of the workers' errors, K×K, in the order of `worker_ids`, in squared levels.

        With shares w, ``w · error_matrix · w`` is the mean squared error of the blended images (before rounding).
        """
        products = [example.error_products(self.worker_ids) for example in self.examples]
        mean: Matrix = np.sort(np.stack(products), axis=0).sum(axis=0) / len(products)
        return mean

    def among(self, examples: Sequence[BlendExample]) -> BlendProblem:
        """Return the same problem on some of the examples."""
        return attrs.evolve(self, examples=tuple(examples))


@runtime_checkable
class BlendSolver(Protocol):
    """Finds shares for blending; a frozen object with settings, without state."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name, for reports."""
        ...

    @abstractmethod
    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return a share per worker id, at least 0, not all of them 0; they are scaled to sum 1.

        It must depend on the problem only: no random numbers, no clock. `BlendProblem.score` costs a metric call per
        example; `error_matrix`, `accuracies` and `posterior` cost none.
        """
        ...


# --- solvers --------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Solver:
    """A solver without settings: all of one class are equal."""


class EqualWeights(_Solver):
    """Gives every worker the same share."""

    name = "equal_weights"

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return equal shares."""
        return dict.fromkeys(problem.worker_ids, 1.0)


class BestSingle(_Solver):
    """Gives everything to the worker with the greatest mean accuracy."""

    name = "best_single"

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return a share of 1 for the best worker."""
        return {_ranked(problem)[0]: 1.0}


class ProbabilityBest(_Solver):
    """Shares by the posterior probability of being the best worker."""

    name = "probability_best"

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return the posterior shares."""
        return problem.posterior


class LeastSquares(_Solver):
    """Minimises the squared error of the blended image, then searches nearby on the metric itself.

    The first step is a quadratic problem on the simplex, solved by accelerated projected gradients (Beck & Teboulle, "A
    fast iterative shrinkage-thresholding algorithm", 2009; the projection is that of Duchi et al., 2008) on the small
    matrix of error products, without a metric call. The second moves some of the shares to one promising worker, or
    drops the smallest ones, as long as the metric likes it.
    """

    name = "least_squares"

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
    name = "greedy"

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
