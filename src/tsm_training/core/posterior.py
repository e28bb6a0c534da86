"""From outcomes to sums, from sums to the posterior of each worker's advantage, and to the workers' shares.

A worker's *advantage* on one example is how much better than its peers it was there: with *b* the mean accuracy of the
workers that gave a usable image, ``d = clip(a / b − 1, −1, 1)``; 0.08 means 8 % more accurate. A failure has
``d = −1`` and full confidence and is outside *b*, so it can only lose and changes nobody else. An image that its worker
has no confidence in (0) adds no evidence and is outside *b* too.

Each pass over an example absorbs a share alpha of the evidence that remains: ``r = 1 − s`` shrinks by the factor
``1 − alpha``. Epochs therefore approach the evidence of having seen every example once, in full, and never exceed it.

With d the advantage, c the confidence, ``n = Σ s·c`` and kappa the prior strength,
the posterior mean of a worker's advantage is ``m = Σ s·c·d / (n + kappa)`` and its weight is ``prior · (1 + m)``.

How sure shares are of each worker's mean follows from the conjugate normal model with unknown variance (Murphy,
"Conjugate Bayesian analysis of the Gaussian distribution", 2007, section 3; evidence counts as a fractional number of
observations): the prior says kappa observations of advantage 0 with standard deviation 0.05, which gives a posterior
variance of
``(kappa·0.05² + Σ s·c·d² − (n + kappa)·m²) / (n + kappa)²``. Failures lower the mean but say nothing about how much the
accuracy of pictures varies: the numerator, over ``n + kappa``, is taken without them. Otherwise a worker that always
fails would look uncertain, and uncertainty is a chance of being the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training.core.exact import fixed, value

PRIOR_SPREAD: Final = 0.05
"""Standard deviation of a worker's advantage on one example, as expected before any was seen (see the module)."""

_REACH: Final = 8.0  # standard deviations; a normal density is below 1e-13 of its peak there
_SMALLEST_RELATIVE_STD: Final = 1e-12  # below this, numbers next to the means could not tell the points apart
# Gauss-Legendre quadrature of order 12, right of the middle: what `numpy.polynomial.legendre.leggauss` gives.
_RIGHT_NODES: Final = (
    0.1252334085114689,
    0.3678314989981802,
    0.5873179542866175,
    0.7699026741943047,
    0.9041172563704748,
    0.9815606342467192,
)
_RIGHT_WEIGHTS: Final = (
    0.2491470458134027,
    0.2334925365383546,
    0.20316742672306573,
    0.16007832854334642,
    0.10693932599531907,
    0.04717533638651141,
)
_NODES: Final = np.array([*(-node for node in reversed(_RIGHT_NODES)), *_RIGHT_NODES])
_NODE_WEIGHTS: Final = np.array([*reversed(_RIGHT_WEIGHTS), *_RIGHT_WEIGHTS])
_erf: Final[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.object_]]] = np.frompyfunc(math.erf, 1, 1)
_SMALLEST_STD: Final = 1e-9  # keeps the quadrature defined where a posterior has no spread left


@attrs.frozen
class Outcome:
    """What one worker did on one example."""

    accuracy: float | None
    """The similarity of its output to the ground truth, in [0, 1]; None where the worker failed."""
    confidence: float = 1.0
    """In [0, 1]; a failure always counts with confidence 1."""


def _outcomes(value: Mapping[str, Outcome]) -> Mapping[str, Outcome]:
    return dict(value)


@attrs.frozen
class ExampleEvidence:
    """What all workers did on one example."""

    digest: str
    """Names the example's contents, so that the same pictures are never counted twice."""
    outcomes: Mapping[str, Outcome] = attrs.field(converter=_outcomes)
    """One outcome per worker id."""
    features: tuple[float, ...] | None = None
    """Numbers that describe the pictures, for learners whose weights depend on them."""
    target: str = attrs.field(default=attrs.Factory(lambda self: self.digest, takes_self=True))
    """Names the target image, printable text: examples with the same one are not independent. The example's own digest
    unless given."""


COUNTS: Final = frozenset({"valid_count", "update_count"})
"""Which sums are counts, and exact as they are."""


@attrs.frozen
class SufficientStatistics:
    """A worker's prior weight, and the sums that its posterior follows from (see the module)."""

    prior: float
    """The weight before any evidence, above 0."""
    evidence: float = 0.0
    """Σ s·c, the effective number of examples: fully absorbed, fully confident ones count 1."""
    advantage: float = 0.0
    """Σ s·c·d."""
    squared_advantage: float = 0.0
    """Σ s·c·d²."""
    accuracy_sum: float = 0.0
    """Σ of the accuracies of usable images, each in [0, 1]."""
    valid_count: int = 0
    """How many examples gave a usable image."""
    update_count: int = 0
    failed_evidence: float = 0.0
    """The part of `evidence` that comes from failures."""
    target_evidence: float = 0.0
    """Σ n_t² over targets, with n_t the part of `evidence` that comes from one target."""
    target_product: float = 0.0
    """Σ n_t·A_t over targets, with A_t the part of `advantage` that comes from one target."""
    target_advantage: float = 0.0
    """Σ A_t² over targets."""

    @property
    def valid_evidence(self) -> float:
        """The part of `evidence` that comes from usable images."""
        return max(0.0, self.evidence - self.failed_evidence)


class Totals(NamedTuple):
    """Exact sums over examples: the fields of `SufficientStatistics` without the prior, scaled by 2**1074 or counts."""

    evidence: int = 0
    advantage: int = 0
    squared_advantage: int = 0
    accuracy_sum: int = 0
    valid_count: int = 0
    update_count: int = 0
    failed_evidence: int = 0
    target_evidence: int = 0
    target_product: int = 0
    target_advantage: int = 0

    @classmethod
    def of(cls, sums: SufficientStatistics) -> Totals:
        """Return sums as exact ones."""
        numbers = ((name, getattr(sums, name)) for name in cls._fields)
        return cls(*(number if name in COUNTS else fixed(number) for name, number in numbers))

    def statistics(self, prior: float) -> SufficientStatistics:
        """Return a worker's statistics: each sum rounded once."""
        numbers: dict[str, Any] = {n: t if n in COUNTS else value(t) for n, t in self._asdict().items()}
        return SufficientStatistics(prior, **numbers)


def target_totals(evidence: int, advantage: int) -> Totals:
    """Return what one target adds to a worker's totals, given its exact sums there."""
    n, a = value(evidence), value(advantage)
    return Totals(target_evidence=fixed(n * n), target_product=fixed(n * a), target_advantage=fixed(a * a))


class Exposure(NamedTuple):
    """What is remembered of one worker on one example."""

    accuracy: float | None
    """In [0, 1]; None where the worker failed."""
    confidence: float
    remaining: float
    """The share of this evidence that is not absorbed yet, in [0, 1]."""


def exposed(
    known: Mapping[str, Exposure], outcomes: Mapping[str, Outcome], alpha: float, passes: int
) -> dict[str, Exposure]:
    """Return what is remembered of an example after passes over its outcomes.

    Args:
        known: What was remembered before, per worker id: the newer scores and confidences replace those.
        outcomes: What the workers did, per worker id.
        alpha: The share of the remaining evidence that one pass absorbs, in (0, 1].
        passes: At least 0.
    """
    new = {}
    for worker_id, outcome in outcomes.items():
        remaining = known[worker_id].remaining if worker_id in known else 1.0
        for _ in range(passes):
            remaining *= 1.0 - alpha
        new[worker_id] = Exposure(outcome.accuracy, outcome.confidence, remaining)
    return {**known, **new}


def advantages(outcomes: Mapping[str, Outcome | Exposure]) -> dict[str, float]:
    """Return every worker's advantage over its peers on one example, in [−1, 1], by worker id."""
    valid = [o.accuracy for o in outcomes.values() if o.accuracy is not None and o.confidence > 0.0]
    mean = math.fsum(valid) / max(1, len(valid))

    def advantage(accuracy: float | None) -> float:
        if accuracy is None:
            return -1.0
        # Never below −1, for no accuracy is negative.
        return min(1.0, accuracy / mean - 1.0) if mean > 0.0 else 0.0

    return {worker_id: advantage(outcome.accuracy) for worker_id, outcome in outcomes.items()}


def totals_of(outcomes: Mapping[str, Exposure]) -> dict[str, Totals]:
    """Return what one example adds to the totals of each worker."""
    gained = advantages(outcomes)
    parts = {}
    for worker_id, outcome in outcomes.items():
        has_failed, d = outcome.accuracy is None, gained[worker_id]
        share = (1.0 - outcome.remaining) * (1.0 if has_failed else outcome.confidence)
        parts[worker_id] = Totals(
            fixed(share),
            fixed(share * d),
            fixed(share * d**2),
            fixed(outcome.accuracy or 0.0),
            int(not has_failed),
            1,
            fixed(share) if has_failed else 0,
        )
    return parts


def posterior_mean(sums: SufficientStatistics, prior_strength: float) -> float:
    """Return the posterior mean of a worker's weight (1.0 = average)."""
    return sums.prior * (1.0 + sums.advantage / (sums.evidence + prior_strength))


def posterior_std(sums: SufficientStatistics, prior_strength: float) -> float:
    """Return the standard deviation of a worker's weight as shares see it: examples count one by one."""
    count = sums.valid_evidence + prior_strength
    advantage = sums.advantage + sums.failed_evidence
    squares = prior_strength * PRIOR_SPREAD**2 + sums.squared_advantage - sums.failed_evidence
    # Rounding can leave a hair below zero where all advantages are equal and large.
    spread = max(0.0, squares - advantage**2 / count) / count
    return sums.prior * math.sqrt(spread / (sums.evidence + prior_strength))


def posterior_shares(statistics: Mapping[str, SufficientStatistics], prior_strength: float) -> dict[str, float]:
    """Return each worker's share: at least 0, sum 1.

    The share is the posterior probability of being the best worker, times ``n / (n + prior_strength)``, where n is the
    evidence of usable images only: an untested worker, or one that always fails, gets none once others are tested.
    While nothing was observed the priors alone decide, and equal priors give equal shares.

    Args:
        statistics: Per worker id, at least one.
        prior_strength: How many examples of average accuracy every worker is taken to have shown beforehand, above 0.
    """

    def best(known: Mapping[str, SufficientStatistics]) -> dict[str, float]:
        means = [posterior_mean(s, prior_strength) for s in known.values()]
        stds = [max(posterior_std(s, prior_strength), _SMALLEST_STD) for s in known.values()]
        return dict(zip(known, probability_best(means, stds), strict=True))

    tested = {w: s.valid_evidence / (s.valid_evidence + prior_strength) for w, s in statistics.items()}
    probabilities = best(statistics)
    if not any(tested.values()):
        return probabilities
    shares = {worker_id: probabilities[worker_id] * tested[worker_id] for worker_id in statistics}
    if not any(shares.values()):  # an untested worker's prior is out of reach of all that were tested
        shares |= best({worker_id: s for worker_id, s in statistics.items() if tested[worker_id] > 0.0})
    total = math.fsum(shares.values())
    return {worker_id: share / total for worker_id, share in shares.items()}


def probability_best(means: Sequence[float], stds: Sequence[float]) -> list[float]:
    """Return the probability that each of several independent normal variables is the greatest.

    ``P(k) = ∫ φ_k(x) Π_{j≠k} Φ_j(x) dx`` by Gauss-Legendre quadrature on one set of panels for all, so equal variables
    get equal probabilities to the last bit, which sampling cannot give. No panel is wider than the narrowest density
    that lies in it, so that a well-known worker beside an untested one is not lost between two points.

    Args:
        means: At least one.
        stds: The same number, each above 0.
    """
    mu, sigma = (np.array(values, np.float64)[:, None] for values in (means, stds))
    sigma = np.maximum(sigma, _SMALLEST_RELATIVE_STD * np.abs(mu).max())
    edges = _panels(mu, sigma)
    half_widths = np.diff(edges)[:, None] / 2.0
    points = (edges[:-1, None] + half_widths * (1.0 + _NODES)).ravel()
    scaled = (points - mu) / sigma
    density = np.exp(-0.5 * scaled**2) / sigma
    cumulative = 0.5 * (1.0 + np.asarray(_erf(scaled / math.sqrt(2.0)), np.float64))
    logs = np.log(np.maximum(cumulative, np.finfo(np.float64).tiny))
    others = np.exp(_exact_column_sums(logs) - logs)
    mass = (density * others * (half_widths * _NODE_WEIGHTS).ravel()).sum(axis=1)
    return [float(value) for value in mass / math.fsum(mass)]


def _panels(mu: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the edges of adjoining panels, each at most one standard deviation of every density that reaches it."""
    starts, ends = mu - _REACH * sigma, mu + _REACH * sigma
    # Below the highest of the lower ends some variable is almost surely greater: nothing can be the greatest there.
    edges, last = [float(starts.max())], float(ends.max())
    while edges[-1] < last:
        here = edges[-1]
        edges.append(min(last, float(np.where(here < ends, here + sigma, last).min())))
    return np.array(edges)


def _exact_column_sums(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Sorted columns make the sum independent of the order in which the workers stand.
    sums: npt.NDArray[np.float64] = np.sort(rows, axis=0).sum(axis=0)
    return sums
