"""Looks that nobody has named: which examples one map of colours explains better than several would.

Examples are joined into a tree, those whose maps are nearest first. Of all ways to cut the tree, that one is taken
under which the colours of the examples are most probable, if every look has one map, drawn from the prior of `basis` (a
comparison of Bayesian linear regressions in the manner of Heller and Ghahramani, Bayesian hierarchical clustering,
ICML 2005). So the number of looks need not be known: a second map costs what its 252 coefficients are worth.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tsm_training.color_transfer import looks
from tsm_training.color_transfer.basis import Sums, on_grid, paired
from tsm_training.color_transfer.spaces import Float64

_NOISE: Final = 0.3
"""Variance of the mean error of an example, in levels²: 30 independent colours, each off by 3 levels. With a third or
three times as much, published looks are found as well."""

_DISTANCE_BITS: Final = 6


class LookCluster(NamedTuple):
    """Examples that have one look."""

    members: tuple[int, ...]
    """Their places, rising."""
    centre: int
    """The place of the member whose map is nearest to those of the others."""
    agreement: float
    """Which part of what the members do to colours one map explains, in [0, 1] (R²)."""


def clustered(sums: Sums, maps: Float64) -> tuple[list[LookCluster], Sums]:
    """Return the looks among n examples, and what each look's members say together: the sum of their rows.

    Args:
        sums: What the examples say about maps.
        maps: Each example's own map: n×84×3.
    """
    squares = looks.squares_between(sums, maps)
    excess = np.maximum(squares - np.diagonal(squares), 0)
    # The nearer of the two directions: a map knows nothing of colours that its example does not show.
    distances = on_grid(np.sqrt(np.minimum(excess, excess.T)), _DISTANCE_BITS)
    members = _best_cut(sums, _tree(distances))
    pooled = _stacked([_added(sums, rows) for rows in members])
    left = pooled.errors(pooled.rough_maps(_NOISE))
    agreements = 1 - np.divide(left, pooled.square, out=np.zeros_like(left), where=pooled.square > 0)
    found = []
    for rows, agreement in zip(members, np.clip(agreements, 0, 1), strict=True):
        centre = rows[int(distances[np.ix_(rows, rows)].sum(axis=1).argmin())]
        found.append(LookCluster(tuple(rows), centre, round(float(agreement), 6)))
    return found, pooled


def joining(sums: Sums, pooled: Sums) -> list[int | None]:
    """Return for each example the place of the look that it belongs to; None for one that none of them explains.

    Args:
        sums: What the examples say about maps.
        pooled: What each look's members say.
    """
    maps = pooled.rough_maps(_NOISE)
    flat = maps.reshape(len(maps), -1)
    errors = sums.square[:, None] - 2 * sums.moment.reshape(len(sums.square), -1) @ flat.T + sums.gram @ paired(maps).T
    nearest = errors.argmin(axis=1)
    apart = sums.evidence(_NOISE) + pooled.evidence(_NOISE)[nearest]
    together = Sums(*(own + looks[nearest] for own, looks in zip(sums, pooled, strict=True))).evidence(_NOISE)
    return [int(k) if joined else None for k, joined in zip(nearest, together >= apart, strict=True)]


def _tree(distances: Float64) -> list[tuple[int, int]]:
    """Return which nodes are joined, by average linkage (Sokal and Michener, 1958): the kth pair makes node n + k."""
    n = len(distances)
    rest = distances.copy()
    np.fill_diagonal(rest, np.inf)
    nodes, sizes = list(range(n)), np.ones(n)
    pairs = []
    for k in range(n - 1):
        i, j = divmod(int(rest.argmin()), n)
        pairs.append((nodes[i], nodes[j]))
        nodes[i] = n + k
        row = (sizes[i] * rest[i] + sizes[j] * rest[j]) / (sizes[i] + sizes[j])
        rest[i], rest[:, i] = row, row
        rest[j], rest[:, j] = np.inf, np.inf
        rest[i, i] = np.inf
        sizes[i] += sizes[j]
    return pairs


def _best_cut(sums: Sums, tree: list[tuple[int, int]]) -> list[list[int]]:
    """Return the most probable partition among those that the tree allows, the greatest part first."""
    n = len(sums.square)
    nodes = [_added(sums, [i]) for i in range(n)]
    best = sums.evidence(_NOISE).tolist()
    members: list[list[int]] = [[i] for i in range(n)]
    parts: list[list[list[int]]] = [[[i]] for i in range(n)]
    for a, b in tree:
        nodes.append(Sums(*(x + y for x, y in zip(nodes[a], nodes[b], strict=True))))
        members.append(sorted(members[a] + members[b]))
        as_one, apart = float(nodes[-1].evidence(_NOISE)[0]), best[a] + best[b]
        best.append(max(as_one, apart))
        parts.append([members[-1]] if as_one >= apart else parts[a] + parts[b])
        nodes[a] = nodes[b] = nodes[-1]  # no longer needed: a row takes 30 kB
    return sorted(parts[-1], key=lambda rows: (-len(rows), rows))


def _added(sums: Sums, rows: list[int]) -> Sums:
    return Sums(*(part.sum(axis=0, keepdims=True) for part in sums.of(np.array(rows, np.intp))))


def _stacked(rows: list[Sums]) -> Sums:
    return Sums(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
