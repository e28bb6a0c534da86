"""The stored previews of evaluated examples: their names and ranks, and how they become pictures again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import attrs

from tsm_training.arrays import Image
from tsm_training.data import TrainingStore
from tsm_training.ensemble import BlendExample, decode_preview
from tsm_training.errors import ImageFormatError
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.evaluation.scoring import SOURCE, TARGET, TRUTH, checked_similarity
from tsm_training.evaluation.split import split_place

__all__ = [
    "BLENDED",
    "PreviewedExample",
    "Previews",
    "ScorerFactory",
    "blend_example",
    "first_of",
    "picture_bytes",
    "preview_name",
    "preview_rank",
]

ScorerFactory = Callable[[Image], Callable[[Image], object]]
"""Makes the engine's scorer of a ground truth."""

BLENDED: Final = "(the blended picture)"
"""Stands for a worker's id in the errors of a metric."""

_HELD_OUT: Final = 0.2
"""The fraction that `train` holds out by default."""

_PATIENCE: Final = 64
"""After so many examples without previews none is expected of those behind: stores keep the first ones in order."""


def preview_name(worker_id: str, fingerprint: str) -> str:
    """Return the name under which the preview of a worker's output is kept."""
    return f"{worker_id}@{fingerprint}"


def preview_rank(target_sha256: str) -> float:
    """Return the rank of the previews of an example's outputs: where there is no room for all, the lowest stay.

    `train` holds out the first fifth of the targets in this order unless it is told otherwise. Held-out examples and
    the others take turns until all of the first have their place: a verdict needs pictures as much as a blend does.

    Args:
        target_sha256: Of the example's target picture.
    """
    place = split_place(target_sha256)
    return place if place < _HELD_OUT else place - _HELD_OUT


@attrs.frozen(eq=False, repr=False)
class PreviewedExample:
    """An evaluated example with small pictures of everything: uint8, H×W×3, BGR, all of one size."""

    item: EvaluatedExample
    outputs: Mapping[str, Image]
    """Of the workers that gave a usable picture, by worker id, as far as there was room to keep them."""
    target: Image
    ground_truth: Image

    @property
    def is_complete(self) -> bool:
        """Tell whether the picture of every worker that gave one is there."""
        accuracies = self.item.accuracies
        valid = {worker_id for worker_id, accuracy in accuracies.items() if accuracy is not None}
        return bool(valid) and set(self.outputs) == valid


@attrs.frozen(eq=False, repr=False)
class Previews:
    """Finds the previews of examples: in the store, or among those that were kept for one call only."""

    store: TrainingStore
    kept: Mapping[str, Mapping[str, bytes]] = attrs.field(factory=dict)
    """By digest and name."""

    def get(self, item: EvaluatedExample) -> PreviewedExample | None:
        """Return an example's previews; None where those of the target or the ground truth are missing or damaged."""
        stored = self._stored(item)
        names = {
            worker_id: preview_name(worker_id, evaluation.key.worker_fingerprint)
            for worker_id, evaluation in sorted(item.evaluations.items())
            if evaluation.accuracy is not None
        }
        found = {
            key: picture
            for key, name in [(None, TARGET), ("", TRUTH), *names.items()]
            if (picture := _decoded(stored.get(name))) is not None
        }
        target, truth = found.pop(None, None), found.pop("", None)
        if target is None or truth is None or target.shape != truth.shape:
            return None
        outputs = {w: picture for w, picture in found.items() if w and picture.shape == truth.shape}
        return PreviewedExample(item, outputs, target, truth)

    def ground_truth(self, item: EvaluatedExample) -> Image | None:
        """Return the small ground truth of an example; None where there is none."""
        return _decoded(self._stored(item).get(TRUTH))

    def source(self, item: EvaluatedExample) -> Image | None:
        """Return the small source of an example; None where there is none: only trainable workers need it."""
        return _decoded(self._stored(item).get(SOURCE))

    def _stored(self, item: EvaluatedExample) -> dict[str, bytes]:
        return {**self.store.load_previews([item.digest]).get(item.digest, {}), **self.kept.get(item.digest, {})}


def _decoded(png: bytes | None) -> Image | None:
    """Return the picture of a preview; a damaged one is like one that was pushed out."""
    try:
        return None if png is None else decode_preview(png)
    except ImageFormatError:
        return None


def first_of(
    items: Iterable[EvaluatedExample],
    find: Callable[[EvaluatedExample], BlendExample | None],
    most: int,
    most_bytes: int,
) -> Iterator[BlendExample]:
    """Yield the examples that have previews, each content once and in order of rank: at most `most`, or `most_bytes`.

    Which ones that are depends on the examples only, not on the order in which they were evaluated.
    """
    found = missed = used = 0
    each_once = {item.digest: item for item in items}
    for item in sorted(each_once.values(), key=lambda item: (preview_rank(_target(item)), item.digest)):
        example = find(item)
        if example is None:
            missed += 1
        else:
            missed, found = 0, found + 1
            used += picture_bytes(example)
            if used > most_bytes and found > 1:
                return
            yield example
        if found == most or missed == _PATIENCE:
            return


def _target(item: EvaluatedExample) -> str:
    return item.example.known_files.target.sha256


def picture_bytes(example: BlendExample) -> int:
    """Return how much memory the pictures of an example take."""
    return example.ground_truth.size * (1 + len(example.outputs))


def blend_example(
    example: PreviewedExample, scorer: ScorerFactory, metric_name: str, poll: Callable[[], None]
) -> BlendExample:
    """Return what a solver of blend weights needs of an example; `poll` is called before each judgement."""
    score = scorer(example.ground_truth)

    def judged(picture: Image) -> float:
        poll()
        return checked_similarity(lambda: score(picture), metric_name, BLENDED)

    item = example.item
    return BlendExample(
        digest=item.digest,
        group=item.example.known_files.target.sha256,
        outputs=example.outputs,
        ground_truth=example.ground_truth,
        accuracies={w: accuracy for w, accuracy in item.accuracies.items() if accuracy is not None},
        score=judged,
    )
