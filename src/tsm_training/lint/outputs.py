"""Is a truth what the ensemble itself made? What is known of its images, and how near a truth comes to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Self

import attrs
import numpy as np

from tsm_training.arrays import Image
from tsm_training.data import ExampleFiles
from tsm_training.engine import TrainingEngine, own_workers
from tsm_training.ensemble import NEGLIGIBLE_SHARE, decode_preview, renormalised, sample_grid
from tsm_training.errors import ImageError, ImageFormatError, WorkerPoolError
from tsm_training.evaluation import SOURCE, TARGET, TRUTH, preview_name
from tsm_training.images import read_image
from tsm_training.lint.findings import Item, LintFinding, LintKind, found
from tsm_training.lint.sketches import (
    SAME_COLORS,
    Cells,
    are_exchanged,
    color_difference,
    mean_cells,
    outside_padding,
)
from tsm_training.workers import TrainableWorker, Worker, WorkerPool, WorkerRequest, WorkerResult, ask_pool

_SESSIONS: Final = 100
"""The blends of at most this many past trainings are tried, the newest first."""

_SURE: Final = 3
"""In so many examples at least a worker's channels must look exchanged before it is said."""

_SOUGHT: Final = 64
"""Among so many examples, the first ones, some that were evaluated are looked for."""

_RERUN: Final = 3
"""On so many of them all workers are run again, to see whether they repeat themselves."""

_KINDS: Final[tuple[LintKind, ...]] = ("truth_is_target", "truth_is_worker_output", "truth_is_ensemble_output")


class Outputs(NamedTuple):
    """Cells of an example's truth and target, and of what the workers made of it, all sampled in one way."""

    truth: Cells
    target: Cells
    workers: Mapping[str, Sequence[Cells]]
    """By worker id, the present version of the worker last."""


@attrs.frozen(eq=False, repr=False)
class Ensemble:
    """The images of an engine's workers: from the store, or made anew."""

    engine: TrainingEngine
    run_workers: bool
    """Run the workers on examples of which the store has no previews."""
    workers: Sequence[Worker]
    """The workers that learn nothing: coming near to a truth is what the others are for, and no sign of a fault."""
    previews: frozenset[str]
    """What the store calls the previews of the workers as they are now."""
    blends: Mapping[str, Mapping[str, float]]
    """The shares of the ensemble now and after its latest trainings, by what messages call them."""

    @classmethod
    def of(cls, engine: TrainingEngine, run_workers: bool) -> Self:
        """Return the ensemble of an engine as it is now."""
        own = own_workers(engine.worker_pool)
        workers = [worker for worker in own or () if not isinstance(worker, TrainableWorker)]
        engine.prepare_learner()
        ids = None if own is None else [worker.worker_id for worker in workers]
        present = engine.weight_learner.get_blend_weights(worker_ids=ids)
        blends = {"with its present shares": present, "with equal shares": dict.fromkeys(present, 1.0)}
        for session in itertools.islice(engine.store.iterate_sessions(newest_first=True), _SESSIONS):
            past = session.metrics_history[-1].get("blend_weights", {}) if session.metrics_history else {}
            if past and past not in blends.values():
                blends[f"with the shares of training session {session.session_id!r}"] = past
        names = {preview_name(*each) for each in engine.evaluator.fingerprints(workers).items()}
        return cls(engine, run_workers, workers, frozenset(names), blends)

    def outputs(self, item: Item, files: ExampleFiles) -> Outputs | None:
        """Return what the workers make of an item with these contents; None where that is not known."""
        stored = self._stored(files.digest)
        return self._made(item.paths, files) if stored is None and self.run_workers else stored

    def _stored(self, digest: str) -> Outputs | None:
        own = own_workers(self.engine.worker_pool) or ()
        trainable = {worker.worker_id for worker in own if isinstance(worker, TrainableWorker)}
        cells = {}
        for name, png in self.engine.store.load_previews([digest]).get(digest, {}).items():
            if name == SOURCE or _worker_of(name) in trainable:
                continue
            try:
                cells[name] = mean_cells(decode_preview(png))
            except ImageFormatError:  # a damaged preview is like one that was pushed out
                continue
        truth, target = cells.pop(TRUTH, None), cells.pop(TARGET, None)
        if truth is None or target is None or not cells:
            return None
        workers: dict[str, list[Cells]] = {}
        for name in sorted(cells, key=self.previews.__contains__):
            workers.setdefault(_worker_of(name), []).append(cells[name])
        return Outputs(truth, target, workers)

    def _made(self, paths: tuple[str, str, str], files: ExampleFiles) -> Outputs | None:
        """Run the workers; None if the files have changed meanwhile, a foreign pool fails, or every worker does."""
        pool, limits = self.engine.worker_pool, self.engine.limits
        try:
            truth = _sampled(read_image(paths[2], limits, expected_sha256=files.ground_truth.sha256))
            source = read_image(paths[0], limits, expected_sha256=files.source.sha256)
            target = read_image(paths[1], limits, expected_sha256=files.target.sha256)
            results: Iterable[WorkerResult]
            if own_workers(pool) is None or not isinstance(pool, WorkerPool):
                results = ask_pool(pool, source, target)
            else:
                pool.runner.check(self.workers)
                request = WorkerRequest(source, target)
                # One result at a time is held: of each, only its cells are kept.
                results = (pool.runner.run(worker, request) for worker in self.workers)
            made = {result.worker_id: [_sampled(result.value)] for result in results if result.value is not None}
        except (ImageError, WorkerPoolError):
            return None
        return Outputs(truth, _sampled(target), made) if made else None


def _sampled(image: Image) -> Cells:
    """Return the cells of an image as its preview has them."""
    return mean_cells(sample_grid(image))


def _worker_of(preview: str) -> str:
    return preview.rpartition("@")[0]


class Comparison(NamedTuple):
    """What comparing an example's truth with the images of the ensemble gave."""

    findings: Sequence[LintFinding] = ()
    is_compared: bool = False
    """True where the workers' images were known."""
    exchanged: Mapping[str, bool] = {}
    """For each worker whose image can tell, whether its red and blue are exchanged."""


def compared(item: Item, ensemble: Ensemble | None) -> Comparison:
    """Compare a truth with the target and with what workers and ensemble make, and look for exchanged channels."""
    if item.sketches is None or item.files is None:
        return Comparison()
    _source, target, truth = item.sketches
    if target.size != truth.size or target.is_flat or truth.is_flat:
        return Comparison()
    outputs = ensemble.outputs(item, item.files) if ensemble is not None else None
    outputs = outputs or Outputs(truth.cells, target.cells, {})
    present = {worker_id: versions[-1] for worker_id, versions in outputs.workers.items()}
    findings = _self_made(item, ensemble, outputs, outside_padding(target, truth))
    exchanged, reference = are_exchanged(outputs.truth, outputs.target), f"its target {item.paths[1]!r}"
    if exchanged is None and present:  # a grey target cannot tell, but what the workers make of it may
        made = np.mean([*present.values()], axis=0)
        exchanged, reference = are_exchanged(outputs.truth, made), "what the workers make of its target"
    if exchanged:
        findings.append(found("truth_channels_swapped", [item], reference=reference))
    told = {w: told for w, cells in present.items() if (told := are_exchanged(cells, outputs.target)) is not None}
    return Comparison(findings, bool(present), told)


def exchanged_workers(told: Mapping[str, Sequence[tuple[Item, bool]]]) -> list[LintFinding]:
    """Return a finding for each worker whose channels are exchanged in three examples, and most of those that tell."""
    findings = []
    for worker_id, tried in sorted(told.items()):
        items = [item for item, is_exchanged in tried if is_exchanged]
        if len(items) >= _SURE and 2 * len(items) > len(tried):
            count, total = len(items), len(tried)
            findings.append(found("worker_channels_swapped", items, name=worker_id, count=count, compared=total))
    return findings


def unrepeatable_workers(engine: TrainingEngine, items: Iterable[Item]) -> list[LintFinding]:
    """Run all workers again on a few evaluated examples; return a finding for each that scores otherwise than stored.

    Raises:
        MetricError: the judge raised or gave something that is no similarity.
        ExecutorError: workers cannot be run at all.
    """
    digests = {item.digest: item for item in items if item.is_usable and item.files is not None}
    examples = [each.example for each in engine.evaluator.evaluated_before(set(itertools.islice(digests, _SOUGHT)))]
    if not (tried := examples[:_RERUN]):
        return []
    evaluator = attrs.evolve(engine.evaluator, reevaluate=True, is_storing=False)
    trainables = attrs.evolve(engine.trainables, evaluator=evaluator)
    fits = trainables.current(engine.weight_learner.cell.snapshot.fits)
    changes = trainables.scored(evaluator.evaluate(tried), fits).changes
    on = [digests[example.known_files.digest] for example in tried]
    return [found("unrepeatable_worker", on, name=name, change=change) for name, change in changes.items()]


def _self_made(item: Item, ensemble: Ensemble | None, outputs: Outputs, outside: float) -> list[LintFinding]:
    """Say that a truth is the target, a worker's image or the ensemble's, whichever is nearest, if it is.

    Where several are as near, the target comes first, and a worker before a blend: one fault is reported once.

    Args:
        item: Whose truth.
        ensemble: Knows the blends.
        outputs: What is compared.
        outside: The share of the pixels that are no padding.
    """
    tried = [(0, "", outputs.target)]
    tried += [(1, worker_id, cells) for worker_id, versions in outputs.workers.items() for cells in versions]
    present = {worker_id: versions[-1] for worker_id, versions in outputs.workers.items()}
    for name, shares in (ensemble.blends if ensemble is not None else {}).items():
        if (blended := _blend(present, shares)) is not None:
            tried.append((2, name, blended))
    distances = color_difference(np.stack([cells for _kind, _name, cells in tried]), outputs.truth) / outside
    difference, kind, name = min(
        (float(d), kind, name) for d, (kind, name, _cells) in zip(distances, tried, strict=True)
    )
    is_made = difference <= SAME_COLORS
    return [found(_KINDS[kind], [item], difference=difference, name=name)] if is_made else []


def _blend(cells: Mapping[str, Cells], shares: Mapping[str, float]) -> Cells | None:
    """Return the cells of a blend: they are the blend of the cells, as both are means."""
    shares = shares or dict.fromkeys(cells, 1.0)  # a pool of which nothing is known has equal shares
    used = [worker_id for worker_id in cells if shares.get(worker_id, 0.0) >= NEGLIGIBLE_SHARE]
    if len(used) < 2:  # noqa: PLR2004 - a blend of one is that worker's own image
        return None
    weights = renormalised(shares, used)
    blended = sum((np.float32(weights[worker_id]) * cells[worker_id] for worker_id in used), np.float32(0.0))
    return np.asarray(blended, np.float32)
