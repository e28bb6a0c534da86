"""What a solver of blend weights is given: examples whose blended images can be judged, again and again."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.ensemble.blending import blend, renormalised
from tsm_training.errors import InvalidArgumentError
from tsm_training.learning import ExampleEvidence, Outcome
from tsm_training.weights import BayesianWeightLearner

__all__ = ["MOST_BLENDS", "BlendExample", "BlendProblem", "BlendSolver"]

Matrix: TypeAlias = npt.NDArray[np.float64]

MOST_BLENDS: Final = 12
"""How many different blends one of our solvers looks at in one search; each costs one metric call per example."""

_PIXEL_STEP: Final = 2
"""For squared errors every second row and column of a preview will do."""


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
