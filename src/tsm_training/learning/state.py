"""What the Bayesian learner has learned, as one immutable value, and the JSON documents that a store keeps of it.

Totals are kept per worker for all examples together, and for each group of examples; what is known of one example
stands in a row of its own, and so do the sums over the examples of one target. A change to an example needs its own row
and its target's: the old part of the totals is taken away and the new one added, exactly (`tsm_training.core.exact`).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Set
from functools import cached_property
from typing import Any, Final, TypeAlias

import attrs

from tsm_training.core import COUNTS, Exposure, SufficientStatistics, Totals, dumped, fixed, loaded, totals_of, value

_TARGET: Final = "target/"
_MOST_LABEL: Final = 200
_EXACT: Final = 2.0**53
"""Below this, whole numbers are told apart as floats too."""


@attrs.frozen(slots=False)
class ExampleRow:
    """What is remembered of one example."""

    outcomes: Mapping[str, Exposure]
    """Per worker id."""
    target: str
    """Names its target image."""
    group: str | None = None
    """Its value under the metadata key by which the last training was grouped."""

    @cached_property
    def totals(self) -> Mapping[str, Totals]:
        """What the example adds to the totals of each worker."""
        return totals_of(self.outcomes)

    @cached_property
    def parts(self) -> Mapping[str, tuple[int, int]]:
        """What the example adds to each worker's sums over its target: evidence and advantage."""
        return {worker_id: (total.evidence, total.advantage) for worker_id, total in self.totals.items()}

    @cached_property
    def exposure(self) -> int:
        """How far the example is absorbed, exactly: the mean over its workers, in [0, 1]."""
        return fixed(math.fsum(1.0 - o.remaining for o in self.outcomes.values()) / max(1, len(self.outcomes)))


TargetSums: TypeAlias = Mapping[str | None, Mapping[str, tuple[int, int]]]
"""Exact sums over the examples of one target, by their group: evidence and advantage of each worker."""


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
    """Exact sums of the group's own examples, per worker id, and what was imported."""
    fitted: FittedBlend | None = None


@attrs.frozen(slots=False)
class LearnedState:
    """Everything that was learned, immutable; weights are a pure function of it.

    It may hold all rows, or only those that somebody asked a store for: totals always count all of them.
    """

    priors: Mapping[str, float] = attrs.field(factory=dict)
    """The weight at which each worker starts, by worker id."""
    totals: Mapping[str, Totals] = attrs.field(factory=dict)
    """Exact sums over all examples, per worker id, and what was imported; none for a worker without evidence."""
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
    targets: Mapping[str, TargetSums] = attrs.field(factory=dict, repr=False)
    """By name of the target image: at least those of the examples in `rows`."""
    imported: frozenset[str] = frozenset()
    """Ids of the workers whose priors are imported weights: they were learned somewhere, without evidence here."""

    @cached_property
    def statistics(self) -> Mapping[str, SufficientStatistics]:
        """Sufficient statistics per worker id."""
        return {w: self.totals.get(w, Totals()).statistics(prior) for w, prior in sorted(self.priors.items())}

    @cached_property
    def statistics_by_group(self) -> Mapping[str, Mapping[str, SufficientStatistics]]:
        """Sufficient statistics of each group's own evidence, by group and worker id."""
        return {
            label: {w: total.statistics(1.0) for w, total in sorted(group.totals.items())}
            for label, group in self.groups.items()
        }

    @property
    def absorbed_share(self) -> float:
        """How far all examples are absorbed: the mean over them, in [0, 1]; 0 without any."""
        return value(self.exposure) / self.num_examples if self.num_examples else 0.0


# --- groups and observations ---


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


# --- documents ---


def head_document(state: LearnedState) -> str:
    """Return what every reader needs of a state."""
    return _json(
        {
            "priors": state.priors,
            "totals": _totals_document(state.totals),
            "num_examples": state.num_examples,
            "exposure": dumped(state.exposure),
            "blend": None if state.fitted is None else attrs.asdict(state.fitted),
            "group_by": state.group_by,
            "groups": {
                label: {
                    "totals": _totals_document(group.totals),
                    "num_examples": group.num_examples,
                    "blend": None if group.fitted is None else attrs.asdict(group.fitted),
                }
                for label, group in state.groups.items()
            },
            "imported": sorted(state.imported),
        }
    )


def target_key(target: str) -> str:
    """Return the key under which the sums of a target are kept."""
    return f"{_TARGET}{target}"


def target_keys(rows: Mapping[str, str]) -> set[str]:
    """Return the keys of the sums of the targets that some examples' documents name."""
    return {target_key(json.loads(row)["target"]) for key, row in rows.items() if not key.startswith(_TARGET)}


def row_documents(state: LearnedState) -> dict[str, str]:
    """Return a document for each row that a state holds: by digest of the example, or by `target_key`."""
    examples = {
        digest: _json(
            {
                "group_by": None if row.group is None else state.group_by,
                "group": row.group,
                "target": row.target,
                "outcomes": {worker_id: list(outcome) for worker_id, outcome in sorted(row.outcomes.items())},
            }
        )
        for digest, row in state.rows.items()
    }
    targets = {
        target_key(target): _json(
            {
                "group_by": state.group_by,
                "sums": [
                    [label, {w: [dumped(number) for number in pair] for w, pair in sorted(workers.items())}]
                    for label, workers in sorted(sums.items(), key=lambda item: (item[0] is not None, item[0]))
                ],
            }
        )
        for target, sums in state.targets.items()
    }
    return examples | targets


def decoded_state(head: str, rows: Mapping[str, str]) -> LearnedState:
    """Return the state that these documents were made of, with these rows.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: they were made of no state.
    """
    found = json.loads(head)
    group_by = found["group_by"]
    groups = {
        label: Group(each["num_examples"], _read_totals(each["totals"]), _read_blend(each["blend"]))
        for label, each in found["groups"].items()
    }
    return LearnedState(
        found["priors"],
        _read_totals(found["totals"]),
        found["num_examples"],
        loaded(found["exposure"]),
        _read_blend(found["blend"]),
        group_by,
        groups,
        {digest: _read_row(row, group_by) for digest, row in rows.items() if not digest.startswith(_TARGET)},
        {key.removeprefix(_TARGET): _read_sums(row, group_by) for key, row in rows.items() if key.startswith(_TARGET)},
        frozenset(found.get("imported", ())),
    )


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _totals_document(totals: Mapping[str, Totals]) -> dict[str, Any]:
    return {
        worker_id: {name: n if name in COUNTS else dumped(n) for name, n in total._asdict().items()}
        for worker_id, total in totals.items()
    }


def _read_totals(found: Mapping[str, Any]) -> dict[str, Totals]:
    return {
        worker_id: Totals(**{name: n if name in COUNTS else loaded(n) for name, n in total.items()})
        for worker_id, total in found.items()
    }


def _read_blend(found: Mapping[str, Any] | None) -> FittedBlend | None:
    if found is None:
        return None
    blend = FittedBlend(**found)
    return attrs.evolve(blend, digests=tuple(blend.digests))


def _read_row(document: str, group_by: str | None) -> ExampleRow:
    found = json.loads(document)
    # A label under another key than that of the last training says nothing any more.
    group = found["group"] if found["group_by"] == group_by else None
    outcomes = {worker_id: Exposure(*outcome) for worker_id, outcome in found["outcomes"].items()}
    return ExampleRow(outcomes, found["target"], group)


def _read_sums(document: str, group_by: str | None) -> TargetSums:
    found = json.loads(document)
    sums = {label: {w: (loaded(n), loaded(a)) for w, (n, a) in workers.items()} for label, workers in found["sums"]}
    return sums if found["group_by"] == group_by else ungrouped(sums)


def ungrouped(sums: TargetSums) -> TargetSums:
    """Return the sums of a target over all groups, under no group."""
    whole: dict[str, tuple[int, int]] = {}
    for workers in sums.values():
        for worker_id, (n, a) in workers.items():
            known = whole.get(worker_id, (0, 0))
            whole[worker_id] = known[0] + n, known[1] + a
    return {None: whole}
