"""Is a truth what the ensemble itself made? What is known of its pictures, and how near a truth comes to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import attrs
import numpy as np

from tsm_training.arrays import Image
from tsm_training.data import ExampleFiles, PictureFile, TrainingSession
from tsm_training.engine import TrainingEngine, own_workers
from tsm_training.ensemble import NEGLIGIBLE_SHARE, decode_preview, renormalised, sample_grid
from tsm_training.errors import ImageError, ImageFormatError, WorkerPoolError
from tsm_training.evaluation.evaluator import preview_name, trainable_workers
from tsm_training.evaluation.tasks import SOURCE, TARGET, TRUTH
from tsm_training.images import read_image
from tsm_training.lint.findings import LintFinding
from tsm_training.lint.pictures import Looked
from tsm_training.lint.sketches import SAME_COLORS, Cells, color_difference, mean_cells
from tsm_training.lint.subjects import Subject, finding
from tsm_training.workers import TrainableWorker, Worker, WorkerPool, WorkerRequest, WorkerResult, ask_pool

__all__ = ["Ensemble", "NoEnsemble", "Outputs", "WhatIsKnown", "self_made"]

_Key: TypeAlias = tuple[tuple[str, float], ...]

_SESSIONS: Final = 100
"""Of how many past trainings the blends are tried, the newest first."""


@attrs.frozen(eq=False)
class Outputs:
    """Cells of an example's truth and target, and of what the workers made of it, all sampled in one way."""

    truth: Cells
    target: Cells
    workers: Mapping[str, tuple[Cells, ...]]
    """By worker id, the present version of the worker last."""

    def distance(self, cells: Cells) -> float:
        """Return by how many levels the truth differs from a picture."""
        return float(color_difference(cells, self.truth))


class WhatIsKnown(Protocol):
    """What is known of the ensemble's pictures."""

    @property
    def shares(self) -> Sequence[tuple[str, Mapping[str, float]]]:
        """Blends that the ensemble gives, or gave, and what to call them."""
        ...

    def outputs(self, subject: Subject, files: ExampleFiles) -> Outputs | None:
        """Return what the workers make of an example with these contents; None where that is not known."""
        ...


@attrs.frozen(eq=False)
class NoEnsemble:
    """Candidates by themselves: there is no ensemble."""

    shares: tuple[tuple[str, Mapping[str, float]], ...] = ()

    def outputs(self, subject: Subject, files: ExampleFiles) -> Outputs | None:
        """Return nothing."""
        return None


@attrs.frozen(eq=False)
class Ensemble:
    """The pictures of an engine's workers: from the store, or made anew.

    Args:
        engine: Whose pool, store and learner are meant.
        run_workers: Run the workers on examples of which the store has no previews.
    """

    engine: TrainingEngine
    run_workers: bool
    shares: tuple[tuple[str, Mapping[str, float]], ...] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.known_shares(), takes_self=True)
    )
    _fingerprints: Mapping[str, str] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.present_fingerprints(), takes_self=True)
    )

    def known_shares(self) -> tuple[tuple[str, Mapping[str, float]], ...]:
        """Return the ensemble's shares now and after its latest trainings, and what messages call them."""
        self.engine.prepare_learner()
        workers = own_workers(self.engine.worker_pool)
        present = self.engine.weight_learner.get_blend_weights(worker_ids=None if workers is None else self._fixed_ids)
        known: dict[_Key, tuple[str, Mapping[str, float]]] = {_frozen(present): ("with its present shares", present)}
        known.setdefault((), ("with equal shares", dict.fromkeys(present, 1.0)))
        for session in list(self.engine.store.iterate_sessions())[: -_SESSIONS - 1 : -1]:
            past = _last_shares(session)
            known.setdefault(_frozen(past), (f"with the shares of training session {session.session_id!r}", past))
        return tuple(known.values())

    def present_fingerprints(self) -> Mapping[str, str]:
        """Return the fingerprints of the workers as they are now, by worker id."""
        return self.engine.evaluator.fingerprints(self._fixed)

    @property
    def _fixed(self) -> list[Worker]:
        """The workers that learn nothing: coming near to a truth is what the others are for, and no sign of a fault."""
        return [w for w in own_workers(self.engine.worker_pool) or () if not isinstance(w, TrainableWorker)]

    @property
    def _fixed_ids(self) -> list[str]:
        return [worker.worker_id for worker in self._fixed]

    def outputs(self, subject: Subject, files: ExampleFiles) -> Outputs | None:
        """Return what the workers make of an example with these contents, from the store if it is there."""
        stored = self._stored(files)
        return self._made(subject, files) if stored is None and self.run_workers else stored

    def _stored(self, files: ExampleFiles) -> Outputs | None:
        cells = {}
        trainable = {worker.worker_id for worker in trainable_workers(self.engine.worker_pool)}
        for name, png in self.engine.store.load_previews(files.digest).items():
            if name == SOURCE or _worker_of(name) in trainable:
                continue
            try:
                cells[name] = mean_cells(decode_preview(png))
            except ImageFormatError:  # a damaged preview is like one that was pushed out
                continue
        truth, target = cells.pop(TRUTH, None), cells.pop(TARGET, None)
        if truth is None or target is None or not cells:
            return None
        workers: dict[str, tuple[Cells, ...]] = {}
        for name in sorted(cells, key=self._is_present):
            workers[_worker_of(name)] = (*workers.get(_worker_of(name), ()), cells[name])
        return Outputs(truth, target, workers)

    def _is_present(self, name: str) -> bool:
        worker_id = _worker_of(name)
        return name == preview_name(worker_id, self._fingerprints.get(worker_id, ""))

    def _made(self, subject: Subject, files: ExampleFiles) -> Outputs | None:
        """Run the workers; None if the files have changed meanwhile, a foreign pool fails, or every worker does."""
        try:
            truth = _sampled(self._read(subject.paths[2], files.ground_truth))
            source, target = self._read(subject.paths[0], files.source), self._read(subject.paths[1], files.target)
            made = dict(map(_cells_of, self._results(source, target)))
        except (ImageError, WorkerPoolError):
            return None
        workers = {worker_id: (cells,) for worker_id, cells in made.items() if cells is not None}
        return Outputs(truth, _sampled(target), workers) if workers else None

    def _read(self, path: str, file: PictureFile) -> Image:
        return read_image(path, self.engine.limits, expected_sha256=file.sha256)

    def _results(self, source: Image, target: Image) -> Iterable[WorkerResult]:
        """Return what each worker makes; our own run one after the other, so that one result is held at a time."""
        pool = self.engine.worker_pool
        if own_workers(pool) is None or not isinstance(pool, WorkerPool):
            return ask_pool(pool, source, target)
        workers = self._fixed
        pool.runner.check(workers)
        request = WorkerRequest(source, target)
        return (pool.runner.run(worker, request) for worker in workers)


def _cells_of(result: WorkerResult) -> tuple[str, Cells | None]:
    return result.worker_id, None if result.value is None else _sampled(result.value)


def _sampled(image: Image) -> Cells:
    """Return the cells of a picture as its preview has them."""
    return mean_cells(sample_grid(image))


def _frozen(shares: Mapping[str, float]) -> _Key:
    return tuple(sorted(shares.items()))


def _last_shares(session: TrainingSession) -> Mapping[str, float]:
    """Return the shares with which a session ended; none where it did not get so far."""
    return session.metrics_history[-1].get("blend_weights", {}) if session.metrics_history else {}


def _worker_of(name: str) -> str:
    """Return the worker's id in the name of a preview."""
    return name.rpartition("@")[0]


# --- how near a truth comes -----------------------------------------------------------------------------------------


def self_made(looked: Looked, known: WhatIsKnown) -> tuple[list[LintFinding], bool]:
    """Say that a truth is the target, a worker's picture or the ensemble's, whichever is nearest, if it is.

    Where several are as near, the target comes first, and a worker before a blend: one fault is reported once.

    Returns:
        At most one finding, and whether the workers' pictures were known.
    """
    subject, files = looked.subject, looked.subject.files
    if looked.sketches is None or files is None:
        return [], False
    _source, target, truth = looked.sketches
    if target.size != truth.size or target.is_flat or truth.is_flat:
        return [], False
    outputs = known.outputs(subject, files)
    if outputs is None:
        outputs = Outputs(truth.cells, target.cells, {})
    return _nearest(subject, known.shares, outputs), bool(outputs.workers)


def _nearest(
    subject: Subject, shares: Iterable[tuple[str, Mapping[str, float]]], outputs: Outputs
) -> list[LintFinding]:
    found = [(outputs.distance(outputs.target), 0, "")]
    for worker_id, versions in outputs.workers.items():
        found += [(outputs.distance(cells), 1, worker_id) for cells in versions]
    present = {worker_id: versions[-1] for worker_id, versions in outputs.workers.items()}
    for name, weights in shares:
        if (blended := _blend(present, weights)) is not None:
            found.append((outputs.distance(blended), 2, name))
    difference, kind, name = min(found)
    if difference > SAME_COLORS:
        return []
    return [(_is_target, _is_workers, _is_ensembles)[kind](subject, difference, name)]


def _blend(cells: Mapping[str, Cells], shares: Mapping[str, float]) -> Cells | None:
    """Return the cells of a blend: they are the blend of the cells, as both are means."""
    shares = shares or dict.fromkeys(cells, 1.0)  # a pool of which nothing is known has equal shares
    used = [worker_id for worker_id in cells if shares.get(worker_id, 0.0) >= NEGLIGIBLE_SHARE]
    if len(used) < 2:  # noqa: PLR2004 - a blend of one is that worker's own picture
        return None
    weights = renormalised(shares, used)
    blended = sum((np.float32(weights[worker_id]) * cells[worker_id] for worker_id in used), np.float32(0.0))
    return np.asarray(blended, np.float32)


def _is_target(subject: Subject, difference: float, _name: str) -> LintFinding:
    message = (
        f"{subject.label}: its truth {subject.paths[2]!r} is its target {subject.paths[1]!r} "
        f"(they differ by {difference:.1f} levels on average)."
    )
    remedy = "Give it the wanted result, unless the target is meant to stay as it is."
    return finding("truth_is_target", [subject], message, remedy, subject.with_truth())


def _is_workers(subject: Subject, difference: float, worker_id: str) -> LintFinding:
    message = (
        f"{subject.label}: its truth {subject.paths[2]!r} is what worker {worker_id!r} makes "
        f"(they differ by {difference:.1f} levels on average)."
    )
    remedy = f"If {worker_id!r} made it, give it a truth that was made by hand or elsewhere: this one teaches nothing."
    return finding("truth_is_worker_output", [subject], message, remedy, subject.with_truth())


def _is_ensembles(subject: Subject, difference: float, name: str) -> LintFinding:
    message = (
        f"{subject.label}: its truth {subject.paths[2]!r} is what the ensemble makes {name} "
        f"(they differ by {difference:.1f} levels on average)."
    )
    remedy = "If the ensemble made it, give it a truth that was made by hand or elsewhere: this one teaches nothing."
    return finding("truth_is_ensemble_output", [subject], message, remedy, subject.with_truth())
