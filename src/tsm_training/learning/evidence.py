"""What was observed of workers on examples, what of it is absorbed, and its exact totals.

A worker's *advantage* on one example is how much better than its peers it was there: with *b* the mean accuracy of the
workers that gave a usable picture, ``d = clip(a / b − 1, −1, 1)``; 0.08 means 8 % more accurate. A failure has
``d = −1`` and full confidence and is outside *b*, so it can only lose and changes nobody else.

All totals are exact (`math.fsum` rounds once), so neither the order of examples nor the number of threads can change
one by a bit.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

import attrs

__all__ = [
    "Absorbed",
    "ExampleEvidence",
    "FittedBlend",
    "Group",
    "LearnedState",
    "Observation",
    "Outcome",
    "WorkerBase",
    "advantages",
    "label_of",
]


_MOST_LABEL: Final = 200
_EXACT: Final = 2.0**53
"""Below this, whole numbers are told apart as floats too."""


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
class Observation:
    """What a trainable worker noted of one training example."""

    digest: str
    """Identifies the contents of the example's three files."""
    source_digest: str
    """Identifies the contents of the source's file."""
    target_digest: str
    """Identifies the contents of the target's file: examples with the same target are not independent."""
    group: str | None
    """The example's value under the metadata key by which the training is grouped; None where it has none."""
    data: bytes
    """What the worker returned: at most 16,000 bytes."""


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
    """The weight before any evidence, above 0."""
    evidence: float = 0.0
    """Σ s·c, the number of fully absorbed, fully confident examples that the sums stand for."""
    advantage: float = 0.0
    """Σ s·c·d."""
    squared_advantage: float = 0.0
    """Σ s·c·d²."""
    accuracy_sum: float = 0.0
    """Σ of the accuracies of usable pictures, each in [0, 1]."""
    valid_count: int = 0
    """How many examples gave a usable picture."""
    update_count: int = 0
    failed_evidence: float = 0.0
    """The part of `evidence` that comes from failures."""

    @property
    def valid_evidence(self) -> float:
        """The part of `evidence` that comes from usable pictures."""
        return max(0.0, self.evidence - self.failed_evidence)


def _shares(value: Mapping[str, float]) -> Mapping[str, float]:
    return {worker_id: float(share) for worker_id, share in sorted(value.items()) if share > 0.0}


@attrs.frozen
class FittedBlend:
    """Shares that were fitted on the blended pictures of training examples, and how far they are to be followed."""

    shares: Mapping[str, float] = attrs.field(converter=_shares)
    """Per worker id, above 0, sum 1; the others have no share."""
    solver: str
    """What found them."""
    absorbed: float
    """How far the training examples were absorbed when they were found, in [0, 1]: the part of the ensemble's shares
    that follows the fit; the rest follows the safe shares."""
    digests: tuple[str, ...] = ()
    """The examples that they were fitted on, in order; empty for imported ones."""
    safe: Mapping[str, float] = attrs.field(factory=dict, converter=_shares)
    """The best simple answer on the same examples (one worker, or equal shares): per worker id, above 0, sum 1. Empty
    where none is known; the posterior stands in for it."""


def _bases(value: Mapping[str, WorkerBase]) -> Mapping[str, WorkerBase]:
    return dict(value)


def _digests(value: Iterable[str]) -> frozenset[str]:
    return frozenset(value)


@attrs.frozen
class Group:
    """What is known of the examples that have one value under the metadata key by which training was grouped."""

    members: frozenset[str] = attrs.field(default=frozenset(), converter=_digests)
    """The digests of its examples; what was absorbed of them is in the learned state."""
    bases: Mapping[str, WorkerBase] = attrs.field(factory=dict, converter=_bases)
    """Imported sums, per worker id."""
    fitted: FittedBlend | None = None


def label_of(value: object) -> str | None:
    """Return the group that a metadata value stands for, as text of at most 200 characters; None where it makes none.

    Text stands for itself, numbers and truth values for what JSON writes, equal numbers for the same; lists, objects
    and null make no group.
    """
    if isinstance(value, str):
        return value[:_MOST_LABEL]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    is_finite = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return json.dumps(value)[:_MOST_LABEL] if is_finite else None


def _groups(value: Mapping[str, Group]) -> Mapping[str, Group]:
    return dict(sorted(value.items()))


def _fits(value: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return dict(sorted(value.items()))


def _absorbed(value: Mapping[str, Mapping[str, Absorbed]]) -> Mapping[str, Mapping[str, Absorbed]]:
    return dict(value)


@attrs.frozen
class LearnedState:
    """Everything that was learned, immutable; weights are a pure function of it."""

    bases: Mapping[str, WorkerBase] = attrs.field(factory=dict, converter=_bases)
    """Per worker id."""
    absorbed: Mapping[str, Mapping[str, Absorbed]] = attrs.field(factory=dict, converter=_absorbed)
    """Per example digest and worker id."""
    fitted: FittedBlend | None = None
    """The blend that was fitted on all training examples; None before the first fit."""
    group_by: str | None = None
    """The metadata key by which the last training was grouped; None without groups."""
    groups: Mapping[str, Group] = attrs.field(factory=dict, converter=_groups)
    """By the value under that key."""
    fits: Mapping[str, bytes] = attrs.field(factory=dict, converter=_fits)
    """What trainable workers were fitted to, by worker id: documents that only the engine understands."""

    @cached_property
    def sums(self) -> Mapping[str, WorkerBase]:
        """Posterior sums per worker id: the base plus all absorbed evidence."""
        return _sums(self.bases, self.absorbed.values())

    @cached_property
    def sums_by_group(self) -> Mapping[str, Mapping[str, WorkerBase]]:
        """Posterior sums of each group's own evidence, by group and worker id."""
        return {
            label: _sums(group.bases, [self.absorbed[d] for d in sorted(group.members) if d in self.absorbed])
            for label, group in self.groups.items()
        }

    def absorbed_share(self, digests: Iterable[str]) -> float:
        """Return how far these examples are absorbed: the mean over them and their workers, in [0, 1]."""
        shares = []
        for digest in sorted(set(digests)):
            outcomes = self.absorbed.get(digest, {})
            shares.append(math.fsum(1.0 - o.residual for o in outcomes.values()) / max(1, len(outcomes)))
        return math.fsum(shares) / max(1, len(shares))

    def is_blank(self, prior_weight: float = 1.0) -> bool:
        """Tell whether this says nothing beyond that every worker has the given prior."""
        untouched = all(base == WorkerBase(prior_weight) for base in self.bases.values())
        return untouched and not self.absorbed and self.fitted is None and not self.groups and not self.fits


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
    mean = math.fsum(valid) / max(1, len(valid))

    def advantage(accuracy: float | None) -> float:
        if accuracy is None:
            return -1.0
        # Never below −1, for no accuracy is negative.
        return min(1.0, accuracy / mean - 1.0) if mean > 0.0 else 0.0

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


def _sums(bases: Mapping[str, WorkerBase], absorbed: Iterable[Mapping[str, Absorbed]]) -> dict[str, WorkerBase]:
    terms: dict[str, list[_Term]] = {worker_id: [] for worker_id in bases}
    for outcomes in absorbed:
        for worker_id, term in _terms(outcomes).items():
            terms.setdefault(worker_id, []).append(term)
    return {worker_id: _summed(bases.get(worker_id), terms[worker_id]) for worker_id in sorted(terms)}


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
        failed_evidence=math.fsum([base.failed_evidence, *(t.share for t in terms if t.accuracy is None)]),
    )
