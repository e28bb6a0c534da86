"""What is said about a weight: where it will lie when everything is known.

Examples with the same target are not independent, so an interval counts targets, not examples. With n_t and A_t the
sums of s·c and of s·c·d (see `tsm_training.core.posterior`) over the examples of one target, ``M = Σ A_t / Σ n_t`` is
an estimate of a worker's mean advantage over infinitely many targets of this kind, a ratio estimator from clusters
(Cochran, "Sampling techniques", 3rd edition, 1977, chapter 6) with the standard error
``√(Σ (A_t − M·n_t)² + τ² · Σ n_t² / N) / Σ n_t`` and N − 1 degrees of freedom, at least 2. ``N = (Σ n_t)² / Σ n_t²`` is
the effective number of targets (Kish), and ``τ = 0.02 + 0.03 / N`` what one more target is taken to differ by, so that
a few targets that agree are no certainty.
"""

from __future__ import annotations

import math
from typing import Final

from tsm_training.core import SufficientStatistics, posterior_mean, posterior_std
from tsm_training.learning import student

INTERVAL_MASS: Final = 0.9
"""The probability that an interval is to have."""

_LEAST_SPREAD, _MORE_AT_FIRST = 0.02, 0.03
_FEWEST_DEGREES: Final = 2.0  # of freedom; a single one would leave nothing of what is known beforehand
_MANY: Final = 1e6  # degrees of freedom, with which Student's t is the normal distribution


def credible_interval(sums: SufficientStatistics, prior_strength: float) -> tuple[float, float]:
    """Return where a worker's weight lies with a probability of 0.9: the one at full absorption, over all targets.

    The interval reaches to the weight of today too: what that is drawn towards the prior by is not known better. As the
    advantage of one example lies in [−1, 1], it stays within 0 and twice the prior.

    Args:
        sums: What is known of the worker. Without evidence the prior alone decides.
        prior_strength: How many examples of average accuracy it is taken to have shown beforehand, above 0.
    """
    mean, tail = posterior_mean(sums, prior_strength), 0.5 + INTERVAL_MASS / 2.0
    if sums.target_evidence <= 0.0:
        half_width = student.quantile(tail, _MANY) * posterior_std(sums, prior_strength)
        return max(0.0, mean - half_width), min(2.0 * sums.prior, mean + half_width)
    n = sums.evidence
    targets = n * n / sums.target_evidence
    whole = sums.advantage / n
    # Rounding can leave a hair below zero where all targets say the same.
    squares = max(0.0, sums.target_advantage - whole * (2.0 * sums.target_product - whole * sums.target_evidence))
    spread = _LEAST_SPREAD + _MORE_AT_FIRST / targets
    error = math.sqrt(squares + spread**2 * sums.target_evidence / targets) / n
    half_width = error * student.quantile(tail, max(_FEWEST_DEGREES, targets - 1.0))
    low, high = (sums.prior * (1.0 + min(1.0, max(-1.0, whole + sign * half_width))) for sign in (-1.0, 1.0))
    return min(low, mean), max(high, mean)
