"""What is believed of a mean difference after some differences were seen, and what they show for good.

The n differences are taken to be normal with unknown mean and variance. Nothing is known of the mean beforehand; of the
variance as much as one difference of `PRIOR_SPREAD` would tell, so that a few differences that happen to be equal are
no certainty: ``s² = (PRIOR_SPREAD² + Σ (d − mean)²) / n`` (Murphy, "Conjugate Bayesian analysis of the Gaussian
distribution", 2007, section 3). The posterior of the mean is Student's t with n − 1 degrees of freedom, scaled by
s / √n; the degree that the prior adds is not counted, since differences have longer tails than the normal distribution.

Real differences are skewed: an answer mostly a little better is now and then much worse. The t variable is therefore
transformed as Hall does ("On the removal of skewness by transformation", Journal of the Royal Statistical Society B
54(1), 1992): ``T = √n · (w + a·w²/3 + a²·w³/27 + a/(6n))`` with ``w = (mean − value) / s``, which grows with w
everywhere and can be inverted; a is the skewness of the sample, as far as the sample makes up s.

Whoever looks again and again finds something by chance at last. What `shows` asks for instead holds over all looks: the
Bayes factor of an effect against none, with a normal prior on its size in standard deviations, is a martingale where
there is no effect, so it reaches k at any time with a probability of at most 1 / k (Lai, "On confidence sequences",
Annals of Statistics 4(2), 1976; Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means
with unknown variance", Sequential Analysis 44(1), 2025). Below `MIN_TO_SHOW` differences it is asked for great gains
only, which is why `_ODDS` below 20 hold what 20 would promise from the first one on, and with half again the skewness,
since small samples show too little of it: 5 %, by simulation (`tests/simulations.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Self

import attrs

from tsm_training.learning import INTERVAL_MASS, student

PRIOR_SPREAD: Final = 0.025
"""Standard deviation that a difference is taken to have before any was seen."""

MIN_TO_SHOW: Final = 20
"""Number of differences below which rare losses are reckoned with that are not among them.

Where one target in five is a great loss, none of them is among 8 targets in 17 % of all cases, and among 20 in 1 %.
"""

_HIDDEN: Final = 3.0 * 0.25
"""What n differences may hide, times n: by the rule of three (Hanley and Lippman-Hand, "If nothing goes wrong, is
everything all right?", Journal of the American Medical Association 249(13), 1983) losses on 3 / n of all targets, of a
quarter each."""

_MORE_SKEWED: Final = 1.5  # than the sample shows, where something is to be shown
_EFFECT: Final = 3.0  # the prior on the size of the effect is worth as many differences: its variance is 1 / _EFFECT
_ODDS: Final = 13.0  # for an effect of one sign, nearly all of what speaks for either
_POWER: Final = 0.8416  # quantile of the normal distribution for a power of 0.8
_LEAST_SKEWNESS: Final = 1e-6  # below this the transformation is the identity, and its inverse would divide by it


@attrs.frozen
class Posterior:
    """The posterior of a mean difference: Student's t, or a single point where there never was a difference."""

    mean: float
    scale: float
    """Standard deviation of the mean; 0 for a point."""
    df: int
    """Degrees of freedom: one less than there are differences."""
    skewness: float = 0.0
    """That of the mean: the skewness of the differences over the root of their number."""

    @classmethod
    def of(cls, differences: Sequence[float]) -> Self:
        """Return the posterior after some differences; their order changes no bit.

        Args:
            differences: At least two. Where all of them are 0 it is a point: the two compared are taken to be the same.
        """
        n = len(differences)
        if not any(differences):
            return cls(0.0, 0.0, n - 1)
        # Equal differences have exactly their own mean.
        mean = differences[0] if min(differences) == max(differences) else math.fsum(differences) / n
        squares = math.fsum((difference - mean) ** 2 for difference in differences)
        cubes = math.fsum((difference - mean) ** 3 for difference in differences)
        variance = (PRIOR_SPREAD**2 + squares) / n
        # The unbiased third moment, by the standard deviation that the prior takes part in.
        skewness = math.sqrt((n - 1) / n) / (n - 2) * cubes / variance**1.5 if n > 2 else 0.0  # noqa: PLR2004
        return cls(mean, math.sqrt(variance / n), n - 1, skewness / math.sqrt(n))

    def mirrored(self) -> Self:
        """Return the posterior of the difference the other way round."""
        return attrs.evolve(self, mean=0.0 - self.mean, skewness=0.0 - self.skewness)

    def after(self, n: int) -> Self:
        """Return what the posterior would be after n differences that are like those seen."""
        part = math.sqrt((self.df + 1) / n)
        return attrs.evolve(self, scale=part * self.scale, df=n - 1, skewness=part * self.skewness)

    def above(self, value: float) -> float:
        """Return the probability that the mean difference is greater than `value`."""
        return float(self.mean > value) if self.scale == 0.0 else student.cdf(self._distance(value), self.df)

    def below(self, value: float) -> float:
        """Return the probability that the mean difference is less than `value`."""
        return float(self.mean < value) if self.scale == 0.0 else student.cdf(-self._distance(value), self.df)

    def within(self, distance: float) -> float:
        """Return the probability that the mean difference is at most `distance` from 0."""
        return max(0.0, 1.0 - self.above(distance) - self.below(-distance))

    @property
    def probability_positive(self) -> float:
        """Probability that the mean difference is above 0; one half where there was never any."""
        return self.above(0.0) if self.scale else 0.5

    @property
    def probability_negative(self) -> float:
        """Probability that the mean difference is below 0; one half where there was never any."""
        return self.below(0.0) if self.scale else 0.5

    def interval(self, mass: float = INTERVAL_MASS) -> tuple[float, float]:
        """Return the central interval in which the mean difference lies with the probability `mass`, in (0, 1)."""
        t = student.quantile(0.5 + mass / 2.0, self.df)
        return self.mean - self.scale * self._inverse(t), self.mean - self.scale * self._inverse(-t)

    def shows(self, value: float) -> bool:
        """Return whether it is so that the mean difference is greater than `value`, however often somebody looks.

        Where it is not, the probability that this is ever said is at most 5 %; for differences as skewed as those of
        real images see `docs/explanation/verdict.md`.
        """
        n, gain = self.df + 1, self.mean - value
        is_enough = gain > 0.0 if n >= MIN_TO_SHOW else gain >= _HIDDEN / n
        return is_enough and self.scale > 0.0 and self._cautious._distance(value) >= _boundary(n)

    @property
    def detectable(self) -> float:
        """The smallest true mean that as many differences (at least `MIN_TO_SHOW`) like these show in 8 cases of 10."""
        n = max(self.df + 1, MIN_TO_SHOW)
        then = self.after(n)._cautious
        return then.scale * (then._inverse(_boundary(n)) + _POWER)

    @property
    def _cautious(self) -> Self:
        return attrs.evolve(self, skewness=_MORE_SKEWED * self.skewness)

    def _distance(self, value: float) -> float:
        """Return the t variable: how far the mean lies above a value, transformed."""
        u = (self.mean - value) / self.scale
        b = self.skewness
        return u + b * u**2 / 3.0 + b**2 * u**3 / 27.0 + b / 6.0

    def _inverse(self, t: float) -> float:
        """Return by how many scales the mean lies above the value whose t variable is given."""
        if abs(self.skewness) < _LEAST_SKEWNESS:
            return t
        return 3.0 / self.skewness * (math.cbrt(1.0 + self.skewness * (t - self.skewness / 6.0)) - 1.0)


def _boundary(n: int) -> float:
    """Return the t variable of n differences at which the Bayes factor reaches the odds that are asked for."""
    part = _EFFECT / (n + _EFFECT)
    ratio = ((_ODDS / 2.0) ** 2 / part) ** (1.0 / (n + 1))
    return math.sqrt(n * (ratio - 1.0) / (1.0 - ratio * part))
