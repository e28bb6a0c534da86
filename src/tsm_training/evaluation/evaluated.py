"""What came of evaluating examples: results, small pictures, and the figures that are told of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from tsm_training.arrays import Image
from tsm_training.data import Evaluation, TrainingExample, TrainingStore
from tsm_training.ensemble import decode_preview, renormalised
from tsm_training.errors import ImageFormatError, NothingEvaluatedError
from tsm_training.evaluation.scoring import TARGET, TRUTH
from tsm_training.evaluation.split import split_place
from tsm_training.learning import ExampleEvidence, Outcome

_SHOWN_ERRORS: Final = 3

_HELD_OUT: Final = 0.2
"""The fraction that `train` holds out by default."""


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


class EvaluatedExample(NamedTuple):
    """An example and what every worker did on it."""

    example: TrainingExample
    digest: str
    evaluations: Mapping[str, Evaluation]
    """By worker id."""

    @property
    def target(self) -> str:
        """The digest of the target picture."""
        return self.example.known_files.target.sha256

    @property
    def accuracies(self) -> dict[str, float | None]:
        """The accuracy of each worker, in [0, 1]; None where it failed."""
        return {worker_id: evaluation.accuracy for worker_id, evaluation in self.evaluations.items()}

    @property
    def valid(self) -> dict[str, float]:
        """The accuracy of each worker that gave a usable picture."""
        return {w: evaluation.accuracy for w, evaluation in self.evaluations.items() if evaluation.accuracy is not None}

    def blend_accuracy(self, shares: Mapping[str, float]) -> float | None:
        """Return the share-weighted mean accuracy of the workers that did not fail, or None if all of them did."""
        valid = self.valid
        if not valid:
            return None
        weights = renormalised(shares, valid)
        return math.fsum(weights[worker_id] * accuracy for worker_id, accuracy in valid.items())

    def to_evidence(self) -> ExampleEvidence:
        """Return what a learner observes."""
        outcomes = {w: Outcome(e.accuracy, e.confidence) for w, e in self.evaluations.items()}
        return ExampleEvidence(self.digest, outcomes, target=self.target)


@attrs.frozen(eq=False, repr=False)
class Pictures:
    """Pictures of one example, all of one size: uint8, H×W×3, BGR."""

    outputs: Mapping[str, Image]
    """Of the workers that gave a usable picture, by worker id, as far as there was room to keep them."""
    target: Image
    ground_truth: Image
    valid: Collection[str]
    """Ids of all workers that gave a usable picture, at least one."""

    @property
    def is_complete(self) -> bool:
        """Tell whether the picture of every worker that gave one is there."""
        return set(self.outputs) == set(self.valid)


@attrs.frozen(eq=False, repr=False)
class Previews:
    """Finds the previews of examples: in the store, or among those that were kept for one call only."""

    store: TrainingStore
    kept: Mapping[str, Mapping[str, bytes]] = attrs.field(factory=dict)
    """By digest and name."""

    def stored(self, digest: str) -> dict[str, bytes]:
        """Return all previews of an example as PNG files, by name."""
        return {**self.store.load_previews([digest]).get(digest, {}), **self.kept.get(digest, {})}

    def picture(self, item: EvaluatedExample, name: str) -> Image | None:
        """Return one small picture of an example; None where there is none."""
        return _decoded(self.stored(item.digest), name)

    def get(self, item: EvaluatedExample) -> Pictures | None:
        """Return an example's small pictures.

        None where every worker failed, or those of the target or the ground truth are missing or damaged.
        """
        stored = self.stored(item.digest)
        target, truth = _decoded(stored, TARGET), _decoded(stored, TRUTH)
        if target is None or truth is None or target.shape != truth.shape or not item.valid:
            return None
        outputs = {}
        for worker_id in sorted(item.valid):
            name = preview_name(worker_id, item.evaluations[worker_id].key.worker_fingerprint)
            picture = _decoded(stored, name)
            if picture is not None and picture.shape == truth.shape:
                outputs[worker_id] = picture
        return Pictures(outputs, target, truth, item.valid)


def _decoded(stored: Mapping[str, bytes], name: str) -> Image | None:
    """Return the picture of a preview; a damaged one is like one that was pushed out."""
    try:
        return decode_preview(stored[name]) if name in stored else None
    except ImageFormatError:
        return None


class EvaluationRun(NamedTuple):
    """What came of evaluating some examples."""

    evaluated: tuple[EvaluatedExample, ...]
    """In the order in which the examples were given."""
    skipped: Mapping[str, str]
    """Why an example could not be used, by example id."""
    previews: Previews
    """Those of a foreign pool are kept for this call only."""
    observations: Mapping[str, Mapping[str, bytes]] = {}
    """Observations that are kept for this call only, by their name and digest (where the store is read-only)."""
    unobserved: Mapping[str, Mapping[str, str]] = {}
    """Why a trainable worker could note nothing, by worker id and digest."""
    changes: Mapping[str, float] = {}
    """By how much the accuracy of a worker changed at most on the same inputs, where it was evaluated anew."""

    def of(self, examples: Iterable[TrainingExample]) -> EvaluationRun:
        """Return the part of the run that concerns these examples."""
        ids = frozenset(example.example_id for example in examples)
        return self._replace(
            evaluated=tuple(item for item in self.evaluated if item.example.example_id in ids),
            skipped={example_id: reason for example_id, reason in self.skipped.items() if example_id in ids},
        )

    def require_a_picture(self) -> None:
        """Make sure that some worker gave a usable picture on one of the examples.

        Raises:
            NothingEvaluatedError: none did; it holds a reason for each example.
        """
        if any(item.valid for item in self.evaluated):
            return
        reasons = dict(self.skipped)
        for item in self.evaluated:
            errors = sorted({str(e.to_outcome()["error"]) for e in item.evaluations.values()})
            reasons[item.example.example_id] = f"every worker failed ({'; '.join(errors[:_SHOWN_ERRORS])})"
        raise NothingEvaluatedError(reasons)


def evidence_of(items: Iterable[EvaluatedExample]) -> list[ExampleEvidence]:
    """Return the evidence of each content once: the same triple added twice counts once."""
    return list({item.digest: item.to_evidence() for item in items}.values())


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none; exact whatever their order."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def accuracies_by_worker(items: Sequence[EvaluatedExample]) -> dict[str, list[float]]:
    """Return the accuracies of each worker on the examples where it gave a picture."""
    worker_ids = sorted({worker_id for item in items for worker_id in item.evaluations})
    valid = [item.valid for item in items]
    return {worker_id: [each[worker_id] for each in valid if worker_id in each] for worker_id in worker_ids}


def worker_means(items: Sequence[EvaluatedExample]) -> dict[str, float | None]:
    """Return each worker's mean accuracy over the examples where it gave a picture."""
    return {worker_id: mean(values) for worker_id, values in accuracies_by_worker(items).items()}
