"""The learning rule: pure functions over immutable evidence.

For one example let *V* be the workers that gave a usable picture and *b* the mean of their accuracies. A worker's
*advantage* there is ``d = clip(a / b − 1, −1, 1)``: 0.08 means 8 % more accurate than its peers. A failure has
``d = −1`` and full confidence and is outside *b*, so it can only lose and changes nobody else.

Each pass over an example absorbs a share alpha of what is still unabsorbed: the residual ``r = 1 − s`` shrinks by the
factor ``1 − alpha``. Epochs therefore approach the evidence of having seen every example once, in full, and never
exceed it. With ``n = Σ s·c`` (c the confidence) and kappa the prior strength, the posterior mean of a worker's advantage
is ``m = Σ s·c·d / (n + kappa)`` and its weight is ``prior · (1 + m)``.

The spread follows from the conjugate normal model with unknown variance (Murphy, "Conjugate Bayesian analysis of the
Gaussian distribution", 2007, section 3; evidence counts as a fractional number of observations): the prior says kappa
observations of advantage 0 with standard deviation 0.1, which gives ``var = (kappa·0.1² + Σ s·c·d² − (n + kappa)·m²) /
(n + kappa)²``.

All sums are exact (`math.fsum` rounds once), so neither the order of examples nor the number of threads can change a
weight by a bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

__all__ = [
    "PRIOR_SPREAD",
    "Absorbed",
    "ExampleEvidence",
    "LearnedState",
    "Outcome",
    "WorkerBase",
    "absorb",
    "advantages",
    "forget",
    "posterior_mean",
    "posterior_std",
    "probability_best",
    "with_workers",
]

PRIOR_SPREAD: Final = 0.1
"""Standard deviation of a worker's advantage on one example, as expected before any was seen (see the module)."""

_GRID_POINTS: Final = 1025
_GRID_REACH: Final = 8.0  # standard deviations; a normal density is below 1e-14 of its peak there
_erf: Final[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.object_]]] = np.frompyfunc(math.erf, 1, 1)


# --- evidence -------------------------------------------------------------------------------------------------------


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


@attrs.frozen
class Absorbed:
    """What is remembered of one worker on one example."""

    accuracy: float | None
    confidence: float
    residual: float
    """The share of this evidence that is not absorbed yet, in [0, 1]."""


@attrs.frozen
class WorkerBase:
    """Where a worker starts: its prior weight, and posterior sums that were imported with it."""

    prior: float
    evidence: float = 0.0
    """Σ s·c, the number of fully absorbed, fully confident examples that the sums stand for."""
    advantage: float = 0.0
    """Σ s·c·d."""
    squared_advantage: float = 0.0
    """Σ s·c·d²."""
    accuracy_sum: float = 0.0
    valid_count: int = 0
    update_count: int = 0


def _bases(value: Mapping[str, WorkerBase]) -> Mapping[str, WorkerBase]:
    return dict(value)


def _absorbed(value: Mapping[str, Mapping[str, Absorbed]]) -> Mapping[str, Mapping[str, Absorbed]]:
    return dict(value)


@attrs.frozen
class LearnedState:
    """Everything that was learned, immutable; weights are a pure function of it."""

    bases: Mapping[str, WorkerBase] = attrs.field(factory=dict, converter=_bases)
    """Per worker id."""
    absorbed: Mapping[str, Mapping[str, Absorbed]] = attrs.field(factory=dict, converter=_absorbed)
    """Per example digest and worker id."""

    @cached_property
    def sums(self) -> Mapping[str, WorkerBase]:
        """Posterior sums per worker id: the base plus all absorbed evidence."""
        terms: dict[str, list[_Term]] = {worker_id: [] for worker_id in self.bases}
        for outcomes in self.absorbed.values():
            for worker_id, term in _terms(outcomes).items():
                terms.setdefault(worker_id, []).append(term)
        return {worker_id: _summed(self.bases.get(worker_id), terms[worker_id]) for worker_id in sorted(terms)}

    def is_blank(self, prior_weight: float = 1.0) -> bool:
        """Tell whether this says nothing beyond that every worker has the given prior."""
        untouched = all(base == WorkerBase(prior_weight) for base in self.bases.values())
        return untouched and not self.absorbed


@attrs.frozen
class _Term:
    share: float
    advantage: float
    accuracy: float | None


def advantages(accuracies: Mapping[str, float | None]) -> dict[str, float]:
    """Return every worker's advantage over its peers on one example, in [−1, 1].

    Args:
        accuracies: Per worker id, in [0, 1]; None where the worker failed.
    """
    valid = [accuracy for accuracy in accuracies.values() if accuracy is not None]
    mean = math.fsum(valid) / len(valid) if valid else 0.0

    def advantage(accuracy: float | None) -> float:
        if accuracy is None:
            return -1.0
        return max(-1.0, min(1.0, accuracy / mean - 1.0)) if mean > 0.0 else 0.0

    return {worker_id: advantage(accuracy) for worker_id, accuracy in accuracies.items()}


def _terms(outcomes: Mapping[str, Absorbed]) -> dict[str, _Term]:
    gained = advantages({worker_id: outcome.accuracy for worker_id, outcome in outcomes.items()})
    return {
        worker_id: _Term(
            (1.0 - outcome.residual) * (1.0 if outcome.accuracy is None else outcome.confidence),
            gained[worker_id],
            outcome.accuracy,
        )
        for worker_id, outcome in outcomes.items()
    }


def _summed(base: WorkerBase | None, terms: Sequence[_Term]) -> WorkerBase:
    base = base or WorkerBase(1.0)
    accuracies = [term.accuracy for term in terms if term.accuracy is not None]
    return WorkerBase(
        prior=base.prior,
        evidence=math.fsum([base.evidence, *(t.share for t in terms)]),
        advantage=math.fsum([base.advantage, *(t.share * t.advantage for t in terms)]),
        squared_advantage=math.fsum([base.squared_advantage, *(t.share * t.advantage**2 for t in terms)]),
        accuracy_sum=math.fsum([base.accuracy_sum, *accuracies]),
        valid_count=base.valid_count + len(accuracies),
        update_count=base.update_count + len(terms),
    )


# --- from one state to the next -------------------------------------------------------------------------------------


def with_workers(state: LearnedState, worker_ids: Iterable[str], prior_weight: float) -> LearnedState:
    """Return a state that knows these workers; those it knows already stay as they are."""
    new = {worker_id: WorkerBase(prior_weight) for worker_id in worker_ids if worker_id not in state.bases}
    return attrs.evolve(state, bases={**state.bases, **new}) if new else state


def absorb(
    state: LearnedState, evidence: Iterable[ExampleEvidence], alpha: float, prior_weight: float, passes: int = 1
) -> LearnedState:
    """Return the state after `passes` passes over a batch of evidence.

    Scores and confidences of an example that was absorbed before are replaced by the newer ones; what was absorbed of
    it stays absorbed. Evidence that names one example several times absorbs it several times.
    """
    absorbed = dict(state.absorbed)
    seen: set[str] = set()
    for item in evidence:
        old = absorbed.get(item.digest, {})
        new = {
            worker_id: Absorbed(
                outcome.accuracy,
                outcome.confidence,
                _residual_after(old[worker_id].residual if worker_id in old else 1.0, alpha, passes),
            )
            for worker_id, outcome in item.outcomes.items()
        }
        absorbed[item.digest] = {**old, **new}
        seen |= new.keys()
    return attrs.evolve(with_workers(state, sorted(seen), prior_weight), absorbed=absorbed)


def _residual_after(residual: float, alpha: float, passes: int) -> float:
    for _ in range(passes):
        residual *= 1.0 - alpha
    return residual


def forget(state: LearnedState, digests: Iterable[str]) -> LearnedState:
    """Return the state without what was absorbed from these examples, exactly as if they had never been seen."""
    gone = frozenset(digests) & state.absorbed.keys()
    if not gone:
        return state
    kept = {digest: outcomes for digest, outcomes in state.absorbed.items() if digest not in gone}
    return attrs.evolve(state, absorbed=kept)


# --- what a state means ---------------------------------------------------------------------------------------------


def posterior_mean(sums: WorkerBase, prior_strength: float) -> float:
    """Return the posterior mean of a worker's weight (1.0 = average)."""
    return sums.prior * (1.0 + sums.advantage / (sums.evidence + prior_strength))


def posterior_std(sums: WorkerBase, prior_strength: float) -> float:
    """Return the posterior standard deviation of a worker's weight."""
    count = sums.evidence + prior_strength
    squares = prior_strength * PRIOR_SPREAD**2 + sums.squared_advantage
    # Rounding can leave a hair below zero where all advantages are equal and large.
    variance = max(0.0, squares - sums.advantage**2 / count) / count**2
    return sums.prior * math.sqrt(variance)


def probability_best(means: Sequence[float], stds: Sequence[float]) -> list[float]:
    """Return the probability that each of several independent normal variables is the greatest.

    ``P(k) = ∫ φ_k(x) Π_{j≠k} Φ_j(x) dx`` by the trapezoidal rule on one grid for all, so equal variables get equal
    probabilities to the last bit, which sampling cannot give.

    Args:
        means: At least one.
        stds: The same number, each above 0.
    """
    mu, sigma = (np.array(values, np.float64)[:, None] for values in (means, stds))
    # Below the highest of the lower ends some variable is almost surely greater: nothing can be the greatest there.
    grid = np.linspace(np.max(mu - _GRID_REACH * sigma), np.max(mu + _GRID_REACH * sigma), _GRID_POINTS)
    scaled = (grid - mu) / sigma
    density = np.exp(-0.5 * scaled**2) / sigma
    cumulative = 0.5 * (1.0 + _erf(scaled / math.sqrt(2.0)).astype(np.float64))
    logs = np.log(np.maximum(cumulative, np.finfo(np.float64).tiny))
    others = np.exp(_exact_column_sums(logs) - logs)
    mass = (density * others).sum(axis=1)
    return [float(value) for value in mass / math.fsum(mass)]


def _exact_column_sums(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Sorted columns make the sum independent of the order in which the workers stand.
    return np.array(np.sort(rows, axis=0).sum(axis=0), np.float64)
