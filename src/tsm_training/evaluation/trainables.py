"""Fitting trainable workers, and scoring what they do once fitted.

No example is ever judged by a fit that knows it: examples are divided into folds by their targets, and each is scored
by a fit of the other folds. An example whose target no fit knows, such as one that was held out, is scored by the fit
of all. Which observations a fit holds is part of the key under which its scores are stored.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from tsm_training.arrays import Image
from tsm_training.data import TrainingExample
from tsm_training.errors import WeightsFileError
from tsm_training.evaluation.evaluator import (
    EvaluationRun,
    Evaluator,
    FreshResults,
    by_contents,
    observation_name,
    trainable_workers,
)
from tsm_training.evaluation.fits import Fit, FitRow
from tsm_training.evaluation.fitting import MOST_FITTED_EXAMPLES, group_label
from tsm_training.evaluation.previews import preview_rank
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.evaluation.scoring import SOURCE, TARGET, TRUTH, ExampleInput, Score, ScoredExample
from tsm_training.fingerprints import describe_object, describe_settings
from tsm_training.learning import WorkerFit
from tsm_training.progress import ProgressReporter, write_log
from tsm_training.workers import Observation, TrainableWorker, Worker, WorkerFailure, shown

__all__ = ["Trainables"]

_MOST_STATE_BYTES: Final = 8 * 1024**2
_MOST_READY: Final = 2
"""Fitted workers that are held ready beside the newest, of each trainable worker: what was in use before, for one."""


@attrs.frozen
class _FailedFit(Worker):
    """Stands for a worker whose fit failed: it fails on every request, with that reason."""

    worker_id: str
    reason: str
    reads_only = True

    def process(self, data: Mapping[str, Image]) -> Image:
        raise RuntimeError(self.reason)


@attrs.frozen(eq=False, repr=False)
class Trainables:
    """Fits the trainable workers of a pool, and scores what they then do."""

    evaluator: Evaluator
    _ready: dict[str, Worker] = attrs.field(factory=dict)
    """Workers that were fitted last for requests, by what they were fitted on."""

    @property
    def workers(self) -> dict[str, TrainableWorker]:
        """The trainable workers of the pool, by worker id."""
        return {worker.worker_id: worker for worker in trainable_workers(self.evaluator.pool)}

    # --- which fits there are ---

    def current(self, documents: Mapping[str, str]) -> dict[str, Fit]:
        """Return what the workers are fitted to now, by worker id, as far as they are.

        What was fitted on an example that is gone is fitted again without it when it is needed.
        """
        found = {}
        for worker_id, worker in self.workers.items():
            fit = Fit.of(worker_id, documents[worker_id]) if worker_id in documents else None
            if fit is None:
                continue
            if fit.identity != describe_settings(worker):
                write_log(logging.INFO, "worker %r is not fitted: its version or settings have changed", worker_id)
                continue
            held = self.evaluator.store.find_observations(fit.name, [row.digest for row in fit.rows])
            if len(held) < len(fit.rows):
                fit = attrs.evolve(fit, rows=tuple(row for row in fit.rows if row.digest in held), state=None)
            if fit.is_possible(worker.min_observations):
                found[worker_id] = fit
        return found

    def planned(
        self,
        items: Iterable[EvaluatedExample],
        group_by: str | None,
        documents: Mapping[str, str],
        observations: Mapping[str, Mapping[str, bytes]],
    ) -> dict[str, Fit]:
        """Return what the workers are to be fitted to, by worker id, as far as there is enough to fit them on.

        Args:
            items: The examples to learn from; each content counts once.
            group_by: The metadata key that makes the groups.
            documents: What they were fitted to before: observations that came with a weights file are taken over.
            observations: Those that are kept for this call only, by name and digest.
        """
        rows = {item.digest: _row(item, group_by) for item in items}
        plans = {}
        for worker_id, worker in self.workers.items():
            fingerprint, identity = describe_object(worker), describe_settings(worker)
            name = observation_name(worker_id, fingerprint)
            held = self.evaluator.store.find_observations(name, rows) | observations.get(name, {}).keys()
            before = Fit.of(worker_id, documents[worker_id]) if worker_id in documents else None
            imported = before.imported if before is not None and before.identity == identity else ()
            fit = Fit(
                worker_id,
                fingerprint,
                identity,
                tuple(rows[digest] for digest in sorted(rows) if digest in held),
                imported,
                group_by,
            )
            for each in (fit, attrs.evolve(fit, rows=())):
                if each.is_possible(worker.min_observations):
                    is_same = before is not None and attrs.evolve(before, state=None) == each
                    plans[worker_id] = before if is_same and before is not None else each
                    break
        return plans

    # --- fitting ---

    def fitted(
        self, fit: Fit, fold: int | None = None, observations: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> Worker:
        """Return the fitted worker for a fold, or the one for requests; one whose fit failed fails on every request."""
        version = f"{fit.worker_id}.{fit.fingerprint}.{fit.version(fold)}"
        if fold is None and (ready := self._ready.get(version)) is not None:
            return ready
        worker = self.workers[fit.worker_id]
        known = self._observations(fit, fold, observations or {})
        fitted: Worker | None = None
        if fold is None and fit.state:
            try:
                fitted = worker.load_fit(fit.state, known)
            except ValueError as error:
                write_log(logging.WARNING, "the stored fit of worker %r is fitted again: %s", fit.worker_id, error)
        if fitted is None and len(known) < max(1, worker.min_observations):
            fitted = _FailedFit(worker.worker_id, f"there is nothing to learn from in {len(known)} observations")
        if fitted is None:
            fitted = _fitted(worker, known)
        if fold is None:
            for oldest in list(self._ready)[: -_MOST_READY * len(self.workers)]:
                self._ready.pop(oldest, None)
            self._ready[version] = fitted
        return fitted

    def _observations(
        self, fit: Fit, fold: int | None, kept: Mapping[str, Mapping[str, bytes]]
    ) -> tuple[Observation, ...]:
        rows = fit.selected(fold)
        foreign = {o.digest: o.data for o in fit.imported}
        own = {row.digest for row in fit.rows}
        held = {
            **foreign,
            **self.evaluator.store.load_observations(fit.name, [row.digest for row in rows if row.digest in own]),
            **{d: data for d, data in kept.get(fit.name, {}).items() if d in own},
        }
        return tuple(
            Observation(row.digest, row.source, row.target, row.group, held[row.digest])
            for row in rows
            if held.get(row.digest)  # no bytes: there is nothing to learn
        )

    def finished(self, fit: Fit, observations: Mapping[str, Mapping[str, bytes]] | None = None) -> Fit:
        """Return a fit with the state that lets another process answer without fitting again."""
        if fit.state is not None:
            return fit
        fitted = self.fitted(fit, None, observations)
        if isinstance(fitted, _FailedFit):
            return fit
        return attrs.evolve(fit, state=_dumped(self.workers[fit.worker_id], fitted) or b"")

    def ready(self, fits: Mapping[str, Fit]) -> dict[str, Callable[[], Worker]]:
        """Return what gives each fitted worker when it is needed."""
        return {worker_id: functools.partial(self.fitted, fit) for worker_id, fit in fits.items()}

    def ready_for(self, example: TrainingExample, fits: Mapping[str, Fit]) -> dict[str, Callable[[], Worker]]:
        """Return what gives the fitted workers that do not know an example."""
        if example.files is None:  # nothing was learned from it yet
            return self.ready(fits)
        target = example.files.target.sha256
        return {
            worker_id: functools.partial(self.fitted, fit, fold)
            for worker_id, fit in fits.items()
            if fit.selected(fold := fit.fold_of(target))
        }

    # --- weights files ---

    def exported(self, documents: Mapping[str, str]) -> dict[str, WorkerFit]:
        """Return what documents say, with the observations behind it, by worker id, for a weights file."""
        here = self.current(documents)
        fits: dict[str, Fit | None] = {worker_id: self.finished(fit) for worker_id, fit in here.items()}
        for worker_id in documents.keys() - self.workers.keys():  # what a weights file brought goes on
            fits[worker_id] = Fit.of(worker_id, documents[worker_id])
        return {
            worker_id: WorkerFit(observations, fit.state or None, fit.group_by, fit.identity)
            for worker_id, fit in sorted(fits.items())
            if fit is not None and (observations := self._observations(fit, None, {}))
        }

    def imported(self, path: str, fits: Mapping[str, WorkerFit]) -> dict[str, str]:
        """Return the documents to keep of what a weights file holds, by worker id.

        Raises:
            WeightsFileError: a worker of the pool cannot be fitted on the observations that are meant for it.
        """
        documents = {}
        for worker_id, held in fits.items():
            worker = self.workers.get(worker_id)
            fingerprint = "" if worker is None else describe_object(worker)
            fit = Fit(worker_id, fingerprint, held.identity, (), held.observations, held.group_by, held.state)
            if worker is not None and held.identity == describe_settings(worker):
                fitted = self.fitted(fit)
                if isinstance(fitted, _FailedFit):
                    raise WeightsFileError(path, fitted.reason, f"fits[{worker_id!r}]")
            documents[worker_id] = fit.to_document()
        return documents

    @staticmethod
    def imported_digests(documents: Mapping[str, str]) -> frozenset[str]:
        """Return the digests of all examples that came with a weights file."""
        fits = (Fit.of(worker_id, document) for worker_id, document in documents.items())
        return frozenset(o.digest for fit in fits if fit is not None for o in fit.imported)

    # --- scoring ---

    def evaluate(
        self,
        examples: Sequence[TrainingExample],
        documents: Mapping[str, str],
        listener: ProgressReporter,
        *,
        reevaluate: bool = False,
    ) -> EvaluationRun:
        """Return what all workers do on examples, trainable ones as documents say, and note it in the examples."""
        run = self.evaluator.evaluate(examples, listener, reevaluate=reevaluate)
        run = self.scored(run, self.current(documents), listener, reevaluate=reevaluate)
        self.evaluator.note_results(run.evaluated)
        return run

    def scored(
        self,
        run: EvaluationRun,
        fits: Mapping[str, Fit],
        listener: ProgressReporter,
        *,
        reevaluate: bool = False,
        is_kept: bool = True,
    ) -> EvaluationRun:
        """Return a run with what the fitted workers do on its examples; only what is not stored is scored.

        Args:
            run: What all other workers did.
            fits: What the workers are fitted to, by worker id.
            listener: Is asked whether to go on.
            reevaluate: Score also what is stored.
            is_kept: Whether the scores are stored.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
            TrainingStoppedError: the listener said so.
        """
        items = {item.digest: item for item in run.evaluated}
        results: dict[str, dict[str, Any]] = {digest: dict(item.evaluations) for digest, item in items.items()}
        previews = {digest: dict(kept) for digest, kept in run.previews.items()}
        for _worker_id, fit in sorted(fits.items()):
            fresh = self._scores(fit, items, run, listener, reevaluate=reevaluate, is_kept=is_kept)
            for digest, evaluations in fresh.found.items():
                results[digest].update(evaluations)
            for digest, kept in fresh.previews.items():
                previews.setdefault(digest, {}).update(kept)
        evaluated = tuple(
            attrs.evolve(item, evaluations=dict(sorted(results[item.digest].items()))) for item in run.evaluated
        )
        return attrs.evolve(run, evaluated=evaluated, previews=previews)

    def _scores(
        self,
        fit: Fit,
        items: Mapping[str, EvaluatedExample],
        run: EvaluationRun,
        listener: ProgressReporter,
        *,
        reevaluate: bool,
        is_kept: bool,
    ) -> FreshResults:
        evaluator = self.evaluator if is_kept else attrs.evolve(self.evaluator, is_storing=False)
        is_sampled = self.workers[fit.worker_id].is_color_map
        keys = {
            digest: fit.score_fingerprint(item.example, is_sampled=is_sampled)
            for digest, item in items.items()
            if fit.selected(fit.fold_of(item.example.known_files.target.sha256))
        }

        def fingerprint_of(worker_id: str, digest: str) -> str | None:
            return keys.get(digest) if worker_id == fit.worker_id else None

        found = {} if reevaluate else evaluator.stored(keys, fingerprint_of)
        blind = {digest: why for digest, why in run.unobserved.get(fit.worker_id, {}).items() if digest in keys}
        found = {digest: each for digest, each in found.items() if digest not in blind}
        copies = by_contents(item.example for item in run.evaluated)
        targets = {digest: item.example.known_files.target.sha256 for digest, item in items.items()}
        fresh = FreshResults(found, fingerprint_of, targets)
        quiet = attrs.evolve(listener, callbacks=())  # it is told of fits, not of each score
        # A blend is fitted on the first ones in order of rank, so of the others no picture is wanted.
        ranks = {digest: (preview_rank(target), digest) for digest, target in fresh.targets.items()}
        foremost = frozenset(sorted(ranks, key=ranks.__getitem__)[: 2 * MOST_FITTED_EXAMPLES])
        missing: dict[int | None, list[str]] = {}
        evaluator.collect(lambda _poll: _unobserved(fit.worker_id, blind), fresh, len(blind), quiet)
        for digest in keys.keys() - found.keys() - blind.keys():
            missing.setdefault(fit.fold_of(items[digest].example.known_files.target.sha256), []).append(digest)
        started = time.monotonic()
        for number, fold in enumerate(sorted(missing, key=lambda fold: (fold is None, fold)), 1):
            listener.poll()
            fitted = self.fitted(fit, fold, run.observations)
            inputs = [
                ExampleInput.of(
                    copies[digest],
                    (fitted,),
                    group=group_label(items[digest].example.metadata, fit.group_by),
                    is_sampled=is_sampled,
                    samples=self._samples(digest, run) if is_sampled else {},
                )
                for digest in sorted(missing[fold], key=ranks.__getitem__)
            ]
            fresh.is_kept = fold is None  # held-out examples need their pictures for a verdict
            fresh.pictured = None if fresh.is_kept else foremost
            executor = None if is_sampled else evaluator.executor  # a fit is large, and its task on a sample small
            evaluator.run_examples(inputs, (fitted,), fresh, quiet, executor=executor, superseding=(fit.worker_id,))
            listener.tell("fitting", number, len(missing), started)
        return fresh

    def _samples(self, digest: str, run: EvaluationRun) -> dict[str, bytes]:
        held = {**self.evaluator.store.load_previews([digest]).get(digest, {}), **run.previews.get(digest, {})}
        roles: tuple[str, ...] = (SOURCE, TARGET, TRUTH)
        return {role: held[role] for role in roles} if held.keys() >= set(roles) else {}


def _unobserved(worker_id: str, reasons: Mapping[str, str]) -> Iterator[ScoredExample]:
    """Yield the failures of a worker that could not note what it needs."""
    for digest, reason in sorted(reasons.items()):
        failure = WorkerFailure("raised", "observe", reason)
        yield ScoredExample(digest, (Score(worker_id, None, 0.0, failure, 0.0),))


def _row(item: EvaluatedExample, group_by: str | None) -> FitRow:
    files = item.example.known_files
    return FitRow(item.digest, files.source.sha256, files.target.sha256, group_label(item.example.metadata, group_by))


def _dumped(worker: TrainableWorker, fitted: Worker) -> bytes | None:
    """Return the state of a fit; None where the worker gives none that can be stored: it is then fitted again."""
    try:
        state: object = worker.dump_fit(fitted)
    except (Exception, SystemExit, GeneratorExit) as error:
        state = f"it raised {type(error).__name__}: {shown(error)}"
    if state is None or (isinstance(state, bytes) and len(state) <= _MOST_STATE_BYTES):
        return state
    what = f"{len(state)} bytes" if isinstance(state, bytes) else shown(state)
    write_log(logging.WARNING, "worker %r gave no state of its fit that can be stored: %s", worker.worker_id, what)
    return None


def _fitted(worker: TrainableWorker, observations: Sequence[Observation]) -> Worker:
    try:
        fitted: object = worker.fit(observations)
        if not isinstance(fitted, Worker) or fitted.worker_id != worker.worker_id or hasattr(fitted, "fit"):
            raise TypeError(f"fit must return a Worker {worker.worker_id!r} without a method 'fit', got {fitted!r}")
    except (Exception, SystemExit, GeneratorExit) as error:  # the last two must not end the host
        reason = f"its fit failed: {type(error).__name__}: {shown(error)}"
        write_log(logging.WARNING, "worker %r: %s", worker.worker_id, reason)
        return _FailedFit(worker.worker_id, reason)
    return fitted
