"""What trainable workers note of examples, and the groups that examples belong to."""

from __future__ import annotations

import json
import sys
from typing import Final

import attrs

__all__ = ["Observation", "label_of"]

_MOST_LABEL: Final = 200
_EXACT: Final = 2.0**53
"""Below this, whole numbers are told apart as floats too."""


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
