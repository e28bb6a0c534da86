"""What can be wrong with several examples together: the same thing twice, or twice and not the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tsm_training.data import ROLES, ExampleFiles
from tsm_training.lint.findings import LintFinding
from tsm_training.lint.pictures import Looked
from tsm_training.lint.sketches import HASH_BITS, NEAR_BITS, NEAR_COLORS, NEAR_SHAPE, color_difference
from tsm_training.lint.subjects import Subject, finding, removal

__all__ = ["duplicate_findings", "may_be_near"]

Pairs: TypeAlias = npt.NDArray[np.intp]
"""Places of two things each: N×2."""

_BLOCK: Final = 512
"""How many hashes are compared with all others at a time: 512 × 10 000 counts take 20 MB."""

_PAIRS_AT_ONCE: Final = 4096
"""How many pairs are looked at more closely at a time: their cells take 10 MB."""

_SHOWN: Final = 3


def duplicate_findings(looked: Sequence[Looked]) -> list[LintFinding]:
    """Return what examples repeat or contradict each other.

    Args:
        looked: Stored examples in order of addition, then candidates; those whose contents are not known are ignored.
    """
    known = [item for item in looked if item.subject.files is not None]
    distinct = [group[0] for group in _grouped(known, lambda item: item.subject.digest)]
    groups = _near_groups([item for item in distinct if item.sketches is not None])
    cluster = {item.subject.digest: number for number, group in enumerate(groups) for item in group}

    def are_near(first: Looked, second: Looked) -> bool:
        digests = first.subject.digest, second.subject.digest
        return digests[0] in cluster and cluster[digests[0]] == cluster.get(digests[1])

    findings = [_duplicate(group) for group in _grouped(known, lambda item: item.subject.digest) if len(group) > 1]
    findings += [_near_duplicate(group) for group in groups]
    findings += _contradictions(distinct, are_near)
    findings += _shared_results(distinct, are_near)
    return findings


def _grouped(items: Iterable[Looked], key: Callable[[Looked], Hashable]) -> list[list[Looked]]:
    groups: dict[Hashable, list[Looked]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _contents(item: Looked, role: str) -> str:
    files: Any = item.subject.files
    digest: str = getattr(files, role).sha256
    return digest


def _labels(items: Iterable[Looked]) -> str:
    labels = [item.subject.label for item in items]
    more = len(labels) - _SHOWN
    return ", ".join(labels[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- the same twice -------------------------------------------------------------------------------------------------


def _surplus(group: Sequence[Looked]) -> list[Subject]:
    """Return what may go: all but the first; stored examples stay where candidates repeat them."""
    candidates = [item.subject for item in group[1:] if item.subject.is_candidate]
    return candidates or [item.subject for item in group[1:]]


def _duplicate(group: Sequence[Looked]) -> LintFinding:
    first, surplus = group[0].subject, _surplus(group)
    message = (
        f"{_labels(group)} have the same three files, byte for byte; the first has {first.paths[0]!r}, "
        f"{first.paths[1]!r} and {first.paths[2]!r}."
    )
    remedy = "Keep one of them: together they count once."
    same = [subject for subject in surplus if (subject.metadata or {}) == (first.metadata or {})]
    return finding("duplicate", [item.subject for item in group], message, remedy, removal(surplus), removable=same)


def _near_duplicate(group: Sequence[Looked]) -> LintFinding:
    first = group[0].subject
    message = (
        f"{_labels(group)} have the same three pictures, saved in another way or changed a little; the first has "
        f"{first.paths[0]!r}, {first.paths[1]!r} and {first.paths[2]!r}."
    )
    remedy = "Keep the best of them: together they count more than once, and some may be held out while others train."
    return finding("near_duplicate", [item.subject for item in group], message, remedy, removal(_surplus(group)))


def may_be_near(subjects: Sequence[Subject], others: Sequence[Subject]) -> list[bool]:
    """Tell which subjects may be near duplicates of others, by the shapes of their pictures alone.

    Of a subject whose files were never looked at nothing is known: it may be.
    """
    shapes = np.array([_shapes(other.files) for other in others if other.files is not None]).reshape(-1, len(ROLES))
    return [
        subject.files is None or bool((np.abs(shapes - _shapes(subject.files)) <= NEAR_SHAPE).all(axis=1).any())
        for subject in subjects
    ]


def _shapes(files: ExampleFiles) -> list[float]:
    """Return the logarithms of width / height of the three pictures."""
    return [math.log(picture.width / picture.height) for picture in (files.source, files.target, files.ground_truth)]


def _near_groups(items: Sequence[Looked]) -> list[list[Looked]]:
    """Return groups of at least two whose three pictures are near to those of another one in the group."""
    sketches = [item.sketches for item in items if item.sketches is not None]
    if not sketches:
        return []
    bits = np.stack([[sketch.bits for sketch in triple] for triple in sketches])
    cells = np.stack([[sketch.cells for sketch in triple] for triple in sketches])
    shapes = np.array([_shapes(item.subject.files) for item in items if item.subject.files is not None])
    group_of = np.arange(len(items))
    for pairs in _pairs_of_like_hashes(bits):
        pairs = _apart(group_of, pairs)  # noqa: PLW2901 - what is joined already need not be looked at
        first, second = pairs.T
        is_near = (color_difference(cells[first], cells[second]) <= NEAR_COLORS).all(axis=1)
        is_near &= (np.abs(shapes[first] - shapes[second]) <= NEAR_SHAPE).all(axis=1)
        _join(group_of, pairs[is_near])
    groups = _grouped(items, dict(zip(items, group_of.tolist(), strict=True)).__getitem__)
    return [group for group in groups if len(group) > 1]


def _pairs_of_like_hashes(bits: npt.NDArray[np.float32]) -> Iterator[Pairs]:
    """Yield the pairs of examples whose hashes are alike for each of the three pictures, a few at a time.

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


# --- the same in part -----------------------------------------------------------------------------------------------

_AreNear: TypeAlias = Callable[[Looked, Looked], bool]


def _differing(group: Sequence[Looked], are_near: _AreNear) -> bool:
    """Tell whether any two of a group are not versions of each other."""
    return any(not are_near(first, second) for first, second in itertools.pairwise(group))


def _contradictions(distinct: Sequence[Looked], are_near: _AreNear) -> list[LintFinding]:
    groups = _grouped(distinct, lambda item: (_contents(item, "source"), _contents(item, "target")))
    return [_contradiction(group) for group in groups if len(group) > 1 and _differing(group, are_near)]


def _contradiction(group: Sequence[Looked]) -> LintFinding:
    truths = ", ".join(repr(item.subject.paths[2]) for item in group[:_SHOWN])
    source, target, _truth = group[0].subject.paths
    message = f"{_labels(group)} want different truths ({truths}) for one source {source!r} and target {target!r}."
    remedy = "Keep the one that is really wanted; the call keeps what is stored, or else the last one."
    members = [item.subject for item in group]
    candidates = [subject for subject in members if subject.is_candidate]
    surplus = candidates if 0 < len(candidates) < len(members) else members[:-1]
    return finding("contradiction", members, message, remedy, removal(surplus))


def _shared_results(distinct: Sequence[Looked], are_near: _AreNear) -> list[LintFinding]:
    """Return one finding for all: it is common where one photograph was given the look of several."""
    groups = _grouped(distinct, lambda item: (_contents(item, "target"), _contents(item, "ground_truth")))
    groups = [group for group in groups if len(group) > 1 and _differing(group, are_near)]
    if any(item.subject.is_candidate for item in distinct):
        groups = [group for group in groups if any(item.subject.is_candidate for item in group)]
    if not groups:
        return []
    shown = "; ".join(_labels(group) for group in groups[:_SHOWN])
    share = "group of examples shares" if len(groups) == 1 else "groups of examples share"
    message = f"{len(groups)} {share} target and truth, with different sources: {shown}"
    members = [item.subject for group in groups for item in group]
    remedy = "Nothing has to be done if all those sources have the look that is wanted."
    more = f" (and {len(groups) - _SHOWN} more groups)." if len(groups) > _SHOWN else "."
    return [finding("shared_result", members, message + more, remedy)]
