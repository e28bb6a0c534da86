"""The documents that a store keeps of the Bayesian learner's state: a head, and one row per example, all JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from tsm_training.core import Exposure, SufficientStatistics, Totals, dumped, loaded
from tsm_training.learning.state import ExampleRow, FittedBlend, Group, LearnedState

__all__ = ["decoded_state", "head_document", "row_documents"]

_COUNTS = frozenset({"valid_count", "update_count"})


def head_document(state: LearnedState) -> str:
    """Return what every reader needs of a state."""
    return _json(
        {
            **_workers(state.bases, state.totals),
            "num_examples": state.num_examples,
            "exposure": dumped(state.exposure),
            "blend": None if state.fitted is None else attrs.asdict(state.fitted),
            "group_by": state.group_by,
            "groups": {
                label: {
                    **_workers(group.bases, group.totals),
                    "num_examples": group.num_examples,
                    "blend": None if group.fitted is None else attrs.asdict(group.fitted),
                }
                for label, group in state.groups.items()
            },
        }
    )


def row_documents(state: LearnedState) -> dict[str, str]:
    """Return a document for each row that a state holds, by digest."""
    return {
        digest: _json(
            {
                "group_by": None if row.group is None else state.group_by,
                "group": row.group,
                "outcomes": {worker_id: list(outcome) for worker_id, outcome in sorted(row.outcomes.items())},
            }
        )
        for digest, row in state.rows.items()
    }


def decoded_state(head: str, rows: Mapping[str, str]) -> LearnedState:
    """Return the state that these documents were made of, with these rows.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: they were made of no state.
    """
    found = json.loads(head)
    group_by = found["group_by"]
    groups = {}
    for label, each in found["groups"].items():
        bases, totals = _read_workers(each)
        groups[label] = Group(each["num_examples"], totals, bases, _read_blend(each["blend"]))
    bases, totals = _read_workers(found)
    return LearnedState(
        bases,
        totals,
        found["num_examples"],
        loaded(found["exposure"]),
        _read_blend(found["blend"]),
        group_by,
        groups,
        {digest: _read_row(document, group_by) for digest, document in rows.items()},
    )


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _workers(bases: Mapping[str, SufficientStatistics], totals: Mapping[str, Totals]) -> dict[str, Any]:
    return {
        "bases": {worker_id: attrs.asdict(base) for worker_id, base in bases.items()},
        "totals": {
            worker_id: {name: n if name in _COUNTS else dumped(n) for name, n in total._asdict().items()}
            for worker_id, total in totals.items()
        },
    }


def _read_workers(found: Mapping[str, Any]) -> tuple[dict[str, SufficientStatistics], dict[str, Totals]]:
    return (
        {worker_id: SufficientStatistics(**base) for worker_id, base in found["bases"].items()},
        {
            worker_id: Totals(**{name: n if name in _COUNTS else loaded(n) for name, n in total.items()})
            for worker_id, total in found["totals"].items()
        },
    )


def _read_blend(found: Mapping[str, Any] | None) -> FittedBlend | None:
    if found is None:
        return None
    blend = FittedBlend(**found)
    return attrs.evolve(blend, digests=tuple(blend.digests))


def _read_row(document: str, group_by: str | None) -> ExampleRow:
    found = json.loads(document)
    # A label under another key than that of the last training says nothing any more.
    group = found["group"] if found["group_by"] == group_by else None
    return ExampleRow({worker_id: Exposure(*outcome) for worker_id, outcome in found["outcomes"].items()}, group)
