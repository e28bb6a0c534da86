"""What the Bayesian learner has learned, as one immutable value.

Totals are kept per worker for all examples together, and for each group of examples; what is known of one example
stands in a row of its own. A change to an example needs its own row only: the old part of the totals is taken away
and the new one added, exactly (`tsm_training.core.exact`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from functools import cached_property

import attrs

from tsm_training.core import Exposure, SufficientStatistics, Totals, fixed, totals_of, value

__all__ = [
    "BlendFits",
    "ExampleRow",
    "Exposure",
    "FittedBlend",
    "Group",
    "LearnedState",
    "SufficientStatistics",
    "Totals",
]


@attrs.frozen(slots=False)
class ExampleRow:
    """What is remembered of one example."""

    outcomes: Mapping[str, Exposure]
    """Per worker id."""
    group: str | None = None
    """Its value under the metadata key by which the last training was grouped."""

    @cached_property
    def totals(self) -> Mapping[str, Totals]:
        """What the example adds to the totals of each worker."""
        return totals_of(self.outcomes)

    @cached_property
    def exposure(self) -> int:
        """How far the example is absorbed, exactly: the mean over its workers, in [0, 1]."""
        return fixed(math.fsum(1.0 - o.remaining for o in self.outcomes.values()) / max(1, len(self.outcomes)))


def _shares(value: Mapping[str, float]) -> Mapping[str, float]:
    return {worker_id: float(share) for worker_id, share in sorted(value.items()) if share > 0.0}


@attrs.frozen
class FittedBlend:
    """Shares that were fitted on the blended images of training examples, and how far they are to be followed."""

    shares: Mapping[str, float] = attrs.field(converter=_shares)
    """Per worker id, above 0, sum 1; the others have no share."""
    solver: str
    """What found them."""
    absorbed: float
    """How far the training examples are absorbed, in [0, 1]: the part of the ensemble's shares that follows the fit;
    the rest follows the safe shares."""
    digests: tuple[str, ...] = ()
    """The examples that they were fitted on, in order; empty for imported ones."""
    safe: Mapping[str, float] = attrs.field(factory=dict, converter=_shares)
    """The best simple answer on the same examples (one worker, or equal shares): per worker id, above 0, sum 1. Empty
    where none is known; the posterior stands in for it."""
    inputs: str = ""
    """A text that changes with what the blend was fitted on, so that it is not fitted again for nothing; empty where
    that is not known."""


@attrs.frozen
class BlendFits:
    """Blends that were fitted anew, and the groups of the examples that are learned from."""

    fitted: FittedBlend | None
    """On all examples; None where none could be fitted."""
    group_by: str | None = None
    labels: Mapping[str, str | None] = attrs.field(factory=dict)
    """The group of each example, by digest."""
    groups: Mapping[str, FittedBlend | None] = attrs.field(factory=dict)
    """The blend of each of these groups, by label."""

    @property
    def digests(self) -> frozenset[str]:
        """The digests of all examples that anything was fitted on."""
        blends = (self.fitted, *self.groups.values())
        return frozenset().union(*(blend.digests for blend in blends if blend is not None))

    def without(self, gone: Set[str]) -> BlendFits:
        """Return the fits that know nothing of these examples, which were removed meanwhile."""

        def kept(blend: FittedBlend | None) -> FittedBlend | None:
            return blend if blend is None or gone.isdisjoint(blend.digests) else None

        labels = {digest: label for digest, label in self.labels.items() if digest not in gone}
        groups = {label: kept(blend) for label, blend in self.groups.items()}
        return BlendFits(kept(self.fitted), self.group_by, labels, groups)


@attrs.frozen
class Group:
    """What is known of the examples that have one value under the metadata key by which training was grouped."""

    num_examples: int = 0
    totals: Mapping[str, Totals] = attrs.field(factory=dict)
    """Exact sums of the group's own examples, per worker id."""
    bases: Mapping[str, SufficientStatistics] = attrs.field(factory=dict)
    """Imported sums, per worker id."""
    fitted: FittedBlend | None = None


def _statistics(
    bases: Mapping[str, SufficientStatistics], totals: Mapping[str, Totals]
) -> dict[str, SufficientStatistics]:
    ids: Iterable[str] = sorted({*bases, *totals})
    blank = SufficientStatistics(1.0)
    return {w: totals.get(w, Totals()).onto(bases.get(w, blank)) for w in ids}


@attrs.frozen(slots=False)
class LearnedState:
    """Everything that was learned, immutable; weights are a pure function of it.

    It may hold all rows, or only those that somebody asked a store for: totals always count all of them.
    """

    bases: Mapping[str, SufficientStatistics] = attrs.field(factory=dict)
    """Where each worker starts, by worker id: its prior, and sums that were imported with it."""
    totals: Mapping[str, Totals] = attrs.field(factory=dict)
    """Exact sums over all examples, per worker id."""
    num_examples: int = 0
    exposure: int = 0
    """The exact sum over all examples of how far each is absorbed: the mean over its workers, in [0, 1]."""
    fitted: FittedBlend | None = None
    """The blend that was fitted on all training examples; None before the first fit."""
    group_by: str | None = None
    """The metadata key by which the last training was grouped; None without groups."""
    groups: Mapping[str, Group] = attrs.field(factory=dict)
    """By the value under that key."""
    rows: Mapping[str, ExampleRow] = attrs.field(factory=dict, repr=False)
    """By digest of the example's contents."""

    @cached_property
    def statistics(self) -> Mapping[str, SufficientStatistics]:
        """Sufficient statistics per worker id: where it starts, plus all absorbed evidence."""
        return _statistics(self.bases, self.totals)

    @cached_property
    def statistics_by_group(self) -> Mapping[str, Mapping[str, SufficientStatistics]]:
        """Sufficient statistics of each group's own evidence, by group and worker id."""
        return {label: _statistics(group.bases, group.totals) for label, group in self.groups.items()}

    @property
    def absorbed_share(self) -> float:
        """How far all examples are absorbed: the mean over them, in [0, 1]; 0 without any."""
        return value(self.exposure) / self.num_examples if self.num_examples else 0.0
