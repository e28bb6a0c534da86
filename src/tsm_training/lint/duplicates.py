"""What can be wrong with several examples together: the same thing twice, or twice and not the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tsm_training.data import ROLES, ExampleFiles
from tsm_training.lint.findings import Item, LintFinding, found, grouped, shortened
from tsm_training.lint.sketches import HASH_BITS, NEAR_BITS, NEAR_COLORS, NEAR_SHAPE, color_difference
from tsm_training.text import counted

Pairs: TypeAlias = npt.NDArray[np.intp]
"""Places of two things each: N×2."""

_BLOCK: Final = 512
"""How many hashes are compared with all others at a time: 512 × 10 000 counts take 20 MB."""

_PAIRS_AT_ONCE: Final = 4096
"""How many pairs are compared in full at a time: their cells take 10 MB."""


def duplicate_findings(items: Sequence[Item]) -> list[LintFinding]:
    """Return what stored examples, in order of addition, and the candidates behind them repeat or contradict.

    Those whose contents are not known are ignored.
    """
    same = grouped((item for item in items if item.files is not None), lambda item: item.digest).values()
    distinct = [group[0] for group in same]
    near = _near_groups([item for item in distinct if item.sketches is not None])
    versions = {item.digest: number for number, group in enumerate(near) for item in group}
    findings = []
    for group in same:
        if len(group) > 1:
            surplus, metadata = _surplus(group), group[0].metadata or {}
            removable = [item for item in surplus if (item.metadata or {}) == metadata]
            findings.append(found("duplicate", group, going=surplus, removable=removable))
    findings += [found("near_duplicate", group, going=_surplus(group)) for group in near]
    for group in _alike_in_part(distinct, versions, "source", "target"):
        candidates = [item for item in group if item.is_candidate]
        surplus = candidates if 0 < len(candidates) < len(group) else group[:-1]
        truths = shortened([repr(item.paths[2]) for item in group])
        findings.append(found("contradiction", group, going=surplus, truths=truths))
    # One finding for all: it is common where one photograph was given the look of several.
    shared = _alike_in_part(distinct, versions, "target", "ground_truth")
    if any(item.is_candidate for item in distinct):
        shared = [group for group in shared if any(item.is_candidate for item in group)]
    if shared:
        shown = shortened([shortened([item.label for item in group]) for group in shared], "; ", " groups")
        groups = counted(len(shared), "group")
        findings.append(found("shared_result", list(itertools.chain(*shared)), groups=groups, shown=shown))
    return findings


def _surplus(group: Sequence[Item]) -> Sequence[Item]:
    """Return what may go: all but the first; stored examples stay where candidates repeat them."""
    return [item for item in group[1:] if item.is_candidate] or group[1:]


def _alike_in_part(distinct: Sequence[Item], versions: Mapping[str, int], *roles: str) -> list[list[Item]]:
    """Return the groups with the same contents in some roles that are not all versions of each other."""
    groups = grouped(distinct, lambda item: tuple(getattr(item.files, role).sha256 for role in roles))
    return [group for group in groups.values() if len({versions.get(item.digest, item.digest) for item in group}) > 1]


# --- versions of one triple -----------------------------------------------------------------------------------------


def may_be_near(items: Sequence[Item], others: Sequence[Item]) -> list[bool]:
    """Tell which items may be near duplicates of others, by the shapes of their images alone.

    An item may be if nothing is known of its files.
    """
    shapes = np.array([_shapes(other.files) for other in others if other.files is not None]).reshape(-1, len(ROLES))
    return [
        item.files is None or bool((np.abs(shapes - _shapes(item.files)) <= NEAR_SHAPE).all(axis=1).any())
        for item in items
    ]


def _shapes(files: ExampleFiles) -> list[float]:
    """Return the logarithms of width / height of the three images."""
    return [math.log(picture.width / picture.height) for picture in (files.source, files.target, files.ground_truth)]


def _near_groups(items: Sequence[Item]) -> list[list[Item]]:
    """Return groups of at least two whose three images are near to those of another one in the group."""
    sketches = [item.sketches for item in items if item.sketches is not None]
    if not sketches:
        return []
    bits = np.stack([[sketch.bits for sketch in triple] for triple in sketches])
    cells = np.stack([[sketch.cells for sketch in triple] for triple in sketches])
    shapes = np.array([_shapes(item.files) for item in items if item.files is not None])
    paddings = np.array([[sketch.padding for sketch in triple] for triple in sketches])
    group_of = np.arange(len(items))
    for pairs in _pairs_of_like_hashes(bits):
        pairs = _apart(group_of, pairs)  # noqa: PLW2901 - what is joined already need not be compared
        first, second = pairs.T
        outside = 1.0 - np.minimum(paddings[first], paddings[second])
        is_near = (color_difference(cells[first], cells[second]) <= NEAR_COLORS * outside).all(axis=1)
        is_near &= (np.abs(shapes[first] - shapes[second]) <= NEAR_SHAPE).all(axis=1)
        _join(group_of, pairs[is_near])
    groups = grouped(items, dict(zip(items, group_of.tolist(), strict=True)).__getitem__)
    return [group for group in groups.values() if len(group) > 1]


def _pairs_of_like_hashes(bits: npt.NDArray[np.float32]) -> Iterator[Pairs]:
    """Yield the pairs of examples whose hashes are alike for each of the three images, a few at a time.

    Args:
        bits: 1 or −1: N×3×64.
    """
    least = HASH_BITS - 2 * NEAR_BITS  # the product of two hashes counts bits that agree less those that differ
    for start in range(0, len(bits), _BLOCK):
        block = bits[start : start + _BLOCK]
        is_like = np.ones((len(block), len(bits)), np.bool_)
        for role in range(bits.shape[1]):
            is_like &= block[:, role] @ bits[:, role].T >= least
        found = np.argwhere(is_like) + np.array([start, 0])
        found = found[found[:, 0] < found[:, 1]]
        for place in range(0, len(found), _PAIRS_AT_ONCE):
            yield found[place : place + _PAIRS_AT_ONCE]


def _apart(group_of: npt.NDArray[np.intp], pairs: Pairs) -> Pairs:
    """Return those pairs that are in different groups."""
    groups = group_of[pairs]
    return np.compress(groups[:, 0] != groups[:, 1], pairs, axis=0)


def _join(group_of: npt.NDArray[np.intp], pairs: Pairs) -> None:
    """Make one group of the groups of each pair, named after its first member."""
    while len(pairs := _apart(group_of, pairs)):
        names = group_of[pairs[0]]
        group_of[group_of == names.max()] = names.min()
