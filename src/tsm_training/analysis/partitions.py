"""How well two partitions of the same things agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def adjusted_rand_index(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return how well two partitions agree, corrected for chance: 1 for the same ones, about 0 for unrelated ones.

    It counts pairs of things that are together in both (Hubert and Arabie, Journal of Classification 2, 1985). It may
    be slightly below 0.

    Args:
        first: For each thing, which part it belongs to.
        second: Likewise, in another partition of the same things.

    Raises:
        ValueError: the sequences differ in length.
    """
    together = _pairs(Counter(zip(first, second, strict=True)))
    ones, others = _pairs(Counter(first)), _pairs(Counter(second))
    by_chance = ones * others / max(1, math.comb(len(first), 2))
    most = (ones + others) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)


def _pairs(counts: Counter[Hashable]) -> int:
    return sum(math.comb(count, 2) for count in counts.values())
