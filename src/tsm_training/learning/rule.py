"""The learning rule: pure functions from one learned state to the next, and what a state means.

Each pass over an example absorbs a share alpha of what is still unabsorbed: the residual ``r = 1 − s`` shrinks by the
factor ``1 − alpha``. Epochs therefore approach the evidence of having seen every example once, in full, and never
exceed it. With d the advantage (`tsm_training.learning`), c the confidence, ``n = Σ s·c`` and kappa the prior strength,
the posterior mean of a worker's advantage is ``m = Σ s·c·d / (n + kappa)`` and its weight is ``prior · (1 + m)``.

The spread follows from the conjugate normal model with unknown variance (Murphy, "Conjugate Bayesian analysis of the
Gaussian distribution", 2007, section 3; evidence counts as a fractional number of observations): the prior says kappa
observations of advantage 0 with standard deviation 0.05, which gives a posterior variance of
``(kappa·0.05² + Σ s·c·d² − (n + kappa)·m²) / (n + kappa)²``. Failures lower the mean but say nothing about how much the
accuracy of pictures varies: the numerator, over ``n + kappa``, is taken without them. Otherwise a worker that always
fails would look uncertain, and uncertainty is a chance of being the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training.learning.evidence import Absorbed, ExampleEvidence, FittedBlend, Group, LearnedState, WorkerBase

__all__ = [
    "PRIOR_SPREAD",
    "absorb",
    "forget",
    "in_group",
    "mixed",
    "posterior_mean",
    "posterior_std",
    "probability_best",
    "refitted",
    "shrunk_to",
    "with_fits",
    "with_workers",
]

PRIOR_SPREAD: Final = 0.05
"""Standard deviation of a worker's advantage on one example, as expected before any was seen (see the module)."""

_REACH: Final = 8.0  # standard deviations; a normal density is below 1e-13 of its peak there
_SMALLEST_RELATIVE_STD: Final = 1e-12  # below this, numbers next to the means could not tell the points apart
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(12)
_erf: Final[Callable[[npt.NDArray[np.float64]], npt.NDArray[np.object_]]] = np.frompyfunc(math.erf, 1, 1)


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


def with_fits(
    state: LearnedState,
    fitted: FittedBlend | None,
    group_by: str | None = None,
    groups: Mapping[str, Group] | None = None,
) -> LearnedState:
    """Return the state with these fitted blends in the place of those that it has; without groups there is no key."""
    return attrs.evolve(state, fitted=fitted, group_by=group_by if groups else None, groups=groups or {})


def refitted(
    state: LearnedState, evidence: Iterable[ExampleEvidence], fitted: Iterable[str], unfitted: Iterable[str]
) -> LearnedState:
    """Return the state in which workers that were fitted anew have their new outcomes on the absorbed examples.

    What a worker did with an earlier fit no longer counts there. Its outcome is absorbed as far as the least absorbed
    one of the other workers on that example, so that all have evidence on the same examples.

    Args:
        state: What was learned.
        evidence: The new outcomes, per example; those of other workers are passed over.
        fitted: Ids of the workers that were fitted.
        unfitted: Ids of workers that are fitted no longer: their outcomes go.
    """
    fitted, gone = frozenset(fitted), frozenset(unfitted)
    new = {
        item.digest: {worker_id: o for worker_id, o in item.outcomes.items() if worker_id in fitted}
        for item in evidence
    }
    absorbed = {}
    for digest, outcomes in state.absorbed.items():
        kept = {w: o for w, o in outcomes.items() if w not in gone and w not in new.get(digest, {})}
        peers = [o.residual for w, o in kept.items() if w not in fitted] or [o.residual for o in outcomes.values()]
        absorbed[digest] = kept | {
            worker_id: Absorbed(outcome.accuracy, outcome.confidence, max(peers))
            for worker_id, outcome in new.get(digest, {}).items()
        }
    return attrs.evolve(state, absorbed={digest: outcomes for digest, outcomes in absorbed.items() if outcomes})


def forget(state: LearnedState, digests: Iterable[str]) -> LearnedState:
    """Return the state without what was learned from these examples.

    The evidence is exactly as if they had never been seen. A blend that was fitted on one of them cannot be cleaned of
    it, so it goes as a whole: until the next training, the posterior alone decides there.
    """
    gone = frozenset(digests) & _known_digests(state)
    if not gone:
        return state
    kept = {digest: outcomes for digest, outcomes in state.absorbed.items() if digest not in gone}
    groups = {
        label: attrs.evolve(group, members=group.members - gone, fitted=_without(group.fitted, gone))
        for label, group in state.groups.items()
    }
    remaining = {label: group for label, group in groups.items() if group != Group()}
    return with_fits(attrs.evolve(state, absorbed=kept), _without(state.fitted, gone), state.group_by, remaining)


def _known_digests(state: LearnedState) -> frozenset[str]:
    """Return the examples of which a state holds anything; where evidence was lost, a fit may know more of them."""
    fits = [fit for fit in (state.fitted, *(group.fitted for group in state.groups.values())) if fit is not None]
    members = (group.members for group in state.groups.values())
    return frozenset(state.absorbed).union(*members, *(fit.digests for fit in fits))


def _without(fitted: FittedBlend | None, gone: frozenset[str]) -> FittedBlend | None:
    return None if fitted is None or not gone.isdisjoint(fitted.digests) else fitted


# --- what a state means ---------------------------------------------------------------------------------------------


def shrunk_to(sums: WorkerBase, group: WorkerBase | None, strength: float) -> WorkerBase:
    """Return a group's sums, shrunk to those of all examples, which count as at most `strength` examples.

    This is a power prior (Ibrahim & Chen, "Power prior distributions for regression models", 2000) whose exponent
    leaves that much evidence. It is applied to all that is known of them, their prior included, so that their weight
    stays what it is: a group without evidence of its own has the weights of all, and one with much has its own.

    Args:
        sums: Of all examples, those of the group among them.
        group: Of the group's own examples; None without any.
        strength: As how many examples all of them count at most; the learner's prior strength, above 0.
    """
    own = group or WorkerBase(sums.prior)
    kept = min(sums.evidence, strength)
    part = (kept + strength) / (sums.evidence + strength)
    return WorkerBase(
        prior=sums.prior,
        evidence=kept + own.evidence,
        advantage=part * sums.advantage + own.advantage,
        squared_advantage=part * sums.squared_advantage + own.squared_advantage,
        accuracy_sum=own.accuracy_sum,
        valid_count=own.valid_count,
        update_count=own.update_count,
        failed_evidence=part * sums.failed_evidence + own.failed_evidence,
    )


def in_group(state: LearnedState, group: str, strength: float) -> LearnedState:
    """Return what a state says about requests of one group, as a state of its own without evidence per example.

    Evidence and fitted blend of the group are shrunk to those of all examples: see `shrunk_to`; of the shares, those
    fitted on the group count ``n / (n + strength)``, with n its mean evidence. The group's safe shares count in full:
    they are a choice, and halfway between two good answers may be a worse one. For a group without any evidence, all
    is as it is for all examples.

    Args:
        state: What was learned, by groups.
        group: The value under the metadata key.
        strength: As how many examples of the group all the others count at most: the learner's prior strength, above 0.
    """
    own = state.sums_by_group.get(group)
    if not own:
        return LearnedState(state.sums, fitted=state.fitted)
    bases = {w: shrunk_to(sums, own.get(w), strength) for w, sums in state.sums.items()}
    fitted = state.groups[group].fitted
    if state.fitted is None or fitted is None:
        return LearnedState(bases, fitted=state.fitted)
    evidence = math.fsum(sums.evidence for sums in own.values()) / len(own)
    part = evidence / (evidence + strength)
    ids = sorted({*state.fitted.shares, *fitted.shares})
    shares = {w: (1.0 - part) * state.fitted.shares.get(w, 0.0) + part * fitted.shares.get(w, 0.0) for w in ids}
    safe = fitted.safe or state.fitted.safe
    return LearnedState(bases, fitted=attrs.evolve(state.fitted, shares=shares, solver=fitted.solver, safe=safe))


def mixed(known: Mapping[str, float], other: Mapping[str, float], part: float) -> dict[str, float]:
    """Return shares that follow `other` to a part and `known` for the rest.

    Of the other shares those of the workers in `known` count, scaled to sum 1; where there are none, nothing does.

    Args:
        known: Per worker id, at least 0, sum 1.
        other: Per worker id, at least 0.
        part: In [0, 1].
    """
    total = math.fsum(other.get(worker_id, 0.0) for worker_id in known)
    if total <= 0.0 or part <= 0.0:
        return dict(known)
    blended = {w: (1.0 - part) * share + part * other.get(w, 0.0) / total for w, share in known.items()}
    whole = math.fsum(blended.values())
    return {worker_id: share / whole for worker_id, share in blended.items()}


def posterior_mean(sums: WorkerBase, prior_strength: float) -> float:
    """Return the posterior mean of a worker's weight (1.0 = average)."""
    return sums.prior * (1.0 + sums.advantage / (sums.evidence + prior_strength))


def posterior_std(sums: WorkerBase, prior_strength: float) -> float:
    """Return the posterior standard deviation of a worker's weight."""
    count = sums.valid_evidence + prior_strength
    advantage = sums.advantage + sums.failed_evidence
    squares = prior_strength * PRIOR_SPREAD**2 + sums.squared_advantage - sums.failed_evidence
    # Rounding can leave a hair below zero where all advantages are equal and large.
    spread = max(0.0, squares - advantage**2 / count) / count
    return sums.prior * math.sqrt(spread / (sums.evidence + prior_strength))


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
