"""What is believed of a mean difference after some differences were seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Self

import attrs

from tsm_training.analysis import student

__all__ = ["INTERVAL_MASS", "Posterior"]

INTERVAL_MASS: Final = 0.9
"""The probability with which the true mean difference lies in the interval that is given."""


@attrs.frozen
class Posterior:
    """The posterior of a mean difference: Student's t, or a single point where the differences did not vary."""

    mean: float
    scale: float
    """Standard deviation of the differences over the root of their number; 0 for a point."""
    df: int
    """Degrees of freedom: one less than there are differences."""

    @classmethod
    def of(cls, differences: Sequence[float]) -> Self:
        """Return the posterior with a noninformative prior; the order of the differences changes no bit.

        Args:
            differences: At least two. Where all are equal it is a point: nothing was seen from which to tell how much
                they vary.
        """
        n = len(differences)
        if min(differences) == max(differences):
            return cls(differences[0], 0.0, n - 1)
        mean = math.fsum(differences) / n
        squares = math.fsum((difference - mean) ** 2 for difference in differences)
        return cls(mean, math.sqrt(squares / (n - 1) / n), n - 1)

    def mirrored(self) -> Self:
        """Return the posterior of the difference the other way round."""
        return attrs.evolve(self, mean=0.0 - self.mean)

    def above(self, value: float) -> float:
        """Return the probability that the mean difference is greater than `value`."""
        if self.scale == 0.0:
            return float(self.mean > value)
        return student.cdf((self.mean - value) / self.scale, self.df)

    def below(self, value: float) -> float:
        """Return the probability that the mean difference is less than `value`."""
        if self.scale == 0.0:
            return float(self.mean < value)
        return student.cdf((value - self.mean) / self.scale, self.df)

    def within(self, distance: float) -> float:
        """Return the probability that the mean difference is at most `distance` from 0."""
        return max(0.0, 1.0 - self.above(distance) - self.below(-distance))

    @property
    def probability_positive(self) -> float:
        """Probability that the mean difference is above 0; one half where there was never any."""
        return 0.5 if self.mean == 0.0 else self.above(0.0)

    @property
    def probability_negative(self) -> float:
        """Probability that the mean difference is below 0; one half where there was never any."""
        return 0.5 if self.mean == 0.0 else self.below(0.0)

    def interval(self, mass: float = INTERVAL_MASS) -> tuple[float, float]:
        """Return the central interval in which the mean difference lies with the probability `mass`, in (0, 1)."""
        half_width = self.scale * student.quantile(0.5 + mass / 2.0, self.df)
        return self.mean - half_width, self.mean + half_width
