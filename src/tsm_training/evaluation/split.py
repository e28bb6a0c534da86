"""Choosing which examples are held out: by contents, not by chance, clock or order."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tsm_training.data import TrainingExample


class Split(NamedTuple):
    """Examples to learn from, `training`, and to judge by, `validation`, each in the order in which they were given."""

    training: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]


def split_examples(examples: Sequence[TrainingExample], validation_split: float, seed: int) -> Split:
    """Divide examples so that no target picture is on both sides.

    Examples with the same target form a group; groups are ordered by a hash of the seed and the target's contents and
    cut where the held-out part comes nearest to the wanted fraction. The same pictures therefore give the same split
    whatever their order, and growing data moves few of them. There is always a training example; with two groups or
    more and a positive fraction there is always a validation example.

    Args:
        examples: All with known `files`.
        validation_split: The wanted fraction of examples to hold out, in [0, 1).
        seed: Another seed gives another split.
    """
    sizes = _sizes(map(_target, examples), seed)
    order = list(sizes)
    held_out = frozenset(order[: _groups_to_hold_out([sizes[d] for d in order], validation_split)])
    return Split(
        training=tuple(e for e in examples if _target(e) not in held_out),
        validation=tuple(e for e in examples if _target(e) in held_out),
    )


def fold_examples(examples: Sequence[TrainingExample], folds: int, seed: int) -> list[tuple[TrainingExample, ...]]:
    """Divide examples into parts of nearly equal size so that no target picture is in two of them.

    The groups, in the order in which `split_examples` takes them, each go to the part that is smallest so far.

    Args:
        examples: All with known `files`.
        folds: How many parts, at most; there are fewer where there are fewer targets. None is empty.
        seed: Another seed gives other parts.
    """
    fold_of = folds_of(map(_target, examples), folds, seed)
    count = 1 + max(fold_of.values(), default=-1)
    return [tuple(e for e in examples if fold_of[_target(e)] == fold) for fold in range(count)]


def folds_of(targets: Iterable[str], folds: int, seed: int) -> dict[str, int]:
    """Return for each target the fold that its examples go to; see `fold_examples`.

    Args:
        targets: The digest of every example's target, so that one comes as often as it has examples.
        folds: How many, at most.
        seed: Another seed gives other folds.
    """
    sizes = _sizes(targets, seed)
    filled = [0] * min(folds, len(sizes))
    fold_of = {}
    for digest, size in sizes.items():
        fold_of[digest] = filled.index(min(filled))
        filled[fold_of[digest]] += size
    return fold_of


def _sizes(targets: Iterable[str], seed: int) -> dict[str, int]:
    """Return how many examples each target has, in an order that depends on the seed and the targets' contents."""
    sizes: dict[str, int] = {}
    for target in targets:
        sizes[target] = sizes.get(target, 0) + 1
    order = sorted(sizes, key=lambda digest: _place(digest, seed))
    return {digest: sizes[digest] for digest in order}


def split_place(target_sha256: str) -> float:
    """Return where a target stands in the order in which `split_examples` holds out first, for seed 0: in [0, 1)."""
    return int(_place(target_sha256, 0)[:13], 16) / 16**13


def _place(target_sha256: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{target_sha256}".encode()).hexdigest()


def _groups_to_hold_out(sizes: Sequence[int], fraction: float) -> int:
    if fraction == 0.0 or len(sizes) < 2:  # noqa: PLR2004 - one group cannot be divided
        return 0
    wanted = fraction * sum(sizes)
    held_out = list(itertools.accumulate(sizes))[:-1]  # all groups but the last may be held out
    return 1 + min(range(len(held_out)), key=lambda index: abs(held_out[index] - wanted))


def _target(example: TrainingExample) -> str:
    return example.known_files.target.sha256
