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
from typing import Final

import attrs

from tsm_training.arrays import Image
from tsm_training.data import TrainingExample
from tsm_training.errors import WeightsFileError
from tsm_training.evaluation.evaluated import EvaluatedExample, EvaluationRun, preview_rank
from tsm_training.evaluation.evaluator import Evaluator, by_contents, observation_name
from tsm_training.evaluation.fits import Fit, fit_of
from tsm_training.evaluation.fitting import MOST_FITTED_EXAMPLES, group_label
from tsm_training.evaluation.keeping import FreshResults
from tsm_training.evaluation.scoring import SOURCE, TARGET, TRUTH, ExampleInput, Score, ScoredExample
from tsm_training.fingerprints import describe_settings
from tsm_training.learning import WorkerFit
from tsm_training.progress import write_log
from tsm_training.workers import Observation, TrainableWorker, Worker, WorkerFailure, shown

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
    kept: Mapping[str, Mapping[str, bytes]] = attrs.field(factory=dict)
    """Observations that are kept for one call only, by name and digest (where the store is read-only)."""

    @property
    def workers(self) -> dict[str, TrainableWorker]:
        """The trainable workers of the pool, by worker id."""
        return self.evaluator.trainable_workers

    # --- which fits there are ---

    def current(self, documents: Mapping[str, str]) -> dict[str, Fit]:
        """Return what the workers are fitted to now, by worker id, as far as they are.

        What was fitted on an example that is gone is fitted again without it when it is needed.
        """
        found = {}
        for worker_id, worker in self.workers.items():
            fit = fit_of(worker_id, documents.get(worker_id))
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
    ) -> dict[str, Fit]:
        """Return what the workers are to be fitted to, by worker id, as far as there is enough to fit them on.

        Args:
            items: The examples to learn from; each content counts once.
            group_by: The metadata key that makes the groups.
            documents: What they were fitted to before: observations that came with a weights file are taken over.
        """
        rows = {}
        for item in sorted(items, key=lambda item: item.digest):
            label = group_label(item.example.metadata, group_by)
            source = item.example.known_files.source.sha256
            rows[item.digest] = Observation(item.digest, source, item.target, label, b"")
        plans = {}
        for worker_id, worker in self.workers.items():
            fingerprint, identity = self.evaluator.observed_as(worker), describe_settings(worker)
            name = observation_name(worker_id, fingerprint)
            held = self.evaluator.store.find_observations(name, rows) | self.kept.get(name, {}).keys()
            own = tuple(row for digest, row in rows.items() if digest in held)
            before = fit_of(worker_id, documents.get(worker_id))
            imported = before.imported if before is not None and before.identity == identity else ()
            fit = Fit(worker_id, fingerprint, identity, own, imported, group_by)
            if not fit.is_possible(worker.min_observations):
                fit = attrs.evolve(fit, rows=())
            if fit.is_possible(worker.min_observations):
                is_same = before is not None and attrs.evolve(before, state=None) == fit
                plans[worker_id] = before if before is not None and is_same else fit
        return plans

    # --- fitting ---

    def fitted(self, fit: Fit, fold: int | None = None) -> Worker:
        """Return the fitted worker for a fold, or the one for requests; one whose fit failed fails on every request."""
        version = f"{fit.worker_id}.{fit.fingerprint}.{fit.version(fold)}"
        if fold is None and (ready := self._ready.get(version)) is not None:
            return ready
        worker = self.workers[fit.worker_id]
        known = self._observations(fit, fold)
        fitted: Worker | None = None
        if fold is None and fit.state:
            try:
                fitted = worker.load_fit(fit.state, known)
            except ValueError as error:
                write_log(logging.WARNING, "the stored fit of worker %r is fitted again: %s", fit.worker_id, error)
        if fitted is None:
            fitted = _fitted(worker, known)
        if fold is None:
            for oldest in list(self._ready)[: -_MOST_READY * len(self.workers)]:
                self._ready.pop(oldest, None)
            self._ready[version] = fitted
        return fitted

    def _observations(self, fit: Fit, fold: int | None = None) -> tuple[Observation, ...]:
        rows = fit.selected(fold)
        own = [row.digest for row in rows if not row.data]
        held = {**self.evaluator.store.load_observations(fit.name, own), **self.kept.get(fit.name, {})}
        found = (attrs.evolve(row, data=row.data or held.get(row.digest, b"")) for row in rows)
        return tuple(row for row in found if row.data)  # no bytes: there is nothing to learn

    def finished(self, fit: Fit) -> Fit:
        """Return a fit with the state that lets another process answer without fitting again."""
        if fit.state is not None or isinstance(fitted := self.fitted(fit), _FailedFit):
            return fit
        return attrs.evolve(fit, state=_dumped(self.workers[fit.worker_id], fitted) or b"")

    def ready(self, fits: Mapping[str, Fit], example: TrainingExample | None = None) -> dict[str, Callable[[], Worker]]:
        """Return what gives each fitted worker when it is needed; for a training example, one that does not know it."""
        # Of an example whose files are not known, nothing was learned yet.
        target = "" if example is None or example.files is None else example.files.target.sha256
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
            fits[worker_id] = fit_of(worker_id, documents[worker_id])
        return {
            worker_id: WorkerFit(observations, fit.state or None, fit.group_by, fit.identity)
            for worker_id, fit in sorted(fits.items())
            if fit is not None and (observations := self._observations(fit))
        }

    def imported(self, path: str, fits: Mapping[str, WorkerFit]) -> dict[str, str]:
        """Return the documents to keep of what a weights file holds, by worker id.

        Raises:
            WeightsFileError: a worker of the pool cannot be fitted on the observations that are meant for it.
        """
        documents = {}
        for worker_id, held in fits.items():
            worker = self.workers.get(worker_id)
            fingerprint = "" if worker is None else self.evaluator.observed_as(worker)
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
        fits = (fit_of(worker_id, document) for worker_id, document in documents.items())
        return frozenset(o.digest for fit in fits if fit is not None for o in fit.imported)

    # --- scoring ---

    def evaluate(self, examples: Sequence[TrainingExample], documents: Mapping[str, str]) -> EvaluationRun:
        """Return what all workers do on examples, trainable ones as documents say, and note it in the examples."""
        run = self.scored(self.evaluator.evaluate(examples), self.current(documents))
        self.evaluator.note_results(run.evaluated)
        return run

    def scored(self, run: EvaluationRun, fits: Mapping[str, Fit]) -> EvaluationRun:
        """Return a run with what the fitted workers do on its examples; only what is not stored is scored.

        Args:
            run: What all other workers did.
            fits: What the workers are fitted to, by worker id.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
            TrainingStoppedError: the reporter said so.
        """
        items = {item.digest: item for item in run.evaluated}
        results = {digest: dict(item.evaluations) for digest, item in items.items()}
        previews = {digest: dict(kept) for digest, kept in run.previews.kept.items()}
        changes = dict(run.changes)
        for _worker_id, fit in sorted(fits.items()):
            fresh = self._scores(fit, items, run)
            changes |= fresh.changes
            for digest, evaluations in fresh.found.items():
                results[digest].update(evaluations)
            for digest, kept in fresh.previews.items():
                previews.setdefault(digest, {}).update(kept)
        evaluated = tuple(
            item._replace(evaluations=dict(sorted(results[item.digest].items()))) for item in run.evaluated
        )
        previews_too = attrs.evolve(run.previews, kept=previews)
        return run._replace(evaluated=evaluated, previews=previews_too, changes=dict(sorted(changes.items())))

    def _scores(self, fit: Fit, items: Mapping[str, EvaluatedExample], run: EvaluationRun) -> FreshResults:
        listener = self.evaluator.reporter  # it is told of fits, not of each score
        evaluator = attrs.evolve(self.evaluator, reporter=attrs.evolve(listener, callbacks=()))
        is_sampled = self.workers[fit.worker_id].is_color_map
        keys = {
            digest: fit.score_fingerprint(item.example, is_sampled=is_sampled)
            for digest, item in items.items()
            if fit.selected(fit.fold_of(item.target))
        }
        copies = by_contents(item.example for item in run.evaluated)
        # A blend is fitted on the first ones in order of rank, so of the others no picture is wanted.
        order = sorted(items, key=lambda digest: (preview_rank(items[digest].target), digest))
        foremost = frozenset(order[: 2 * MOST_FITTED_EXAMPLES])
        fresh = evaluator.fresh_results(
            {digest: copies[digest] for digest in keys},
            lambda worker_id, digest: keys.get(digest) if worker_id == fit.worker_id else None,
            superseding=(fit.worker_id,),
        )
        blind = {digest: why for digest, why in run.unobserved.get(fit.worker_id, {}).items() if digest in keys}
        fresh.found = {digest: each for digest, each in fresh.found.items() if digest not in blind}
        done = fresh.found.keys() | blind.keys()
        fresh.collect(lambda _poll: _unobserved(fit.worker_id, blind), len(blind))
        missing: dict[int | None, list[str]] = {}
        for digest in order:
            if digest in keys and digest not in done:
                missing.setdefault(fit.fold_of(items[digest].target), []).append(digest)
        started = time.monotonic()
        for number, fold in enumerate(sorted(missing, key=lambda fold: (fold is None, fold)), 1):
            listener.poll()
            fitted = self.fitted(fit, fold)
            inputs = []
            for digest in missing[fold]:
                held = run.previews.stored(digest) if is_sampled else {}
                roles = (SOURCE, TARGET, TRUTH)
                samples = {role: held[role] for role in roles} if held.keys() >= set(roles) else {}
                label = group_label(items[digest].example.metadata, fit.group_by)
                inputs.append(
                    ExampleInput.of(copies[digest], (fitted,), group=label, is_sampled=is_sampled, samples=samples)
                )
            fresh.is_kept = fold is None  # held-out examples need their pictures for a verdict
            fresh.pictured = None if fresh.is_kept else foremost
            executor = None if is_sampled else evaluator.executor  # a fit is large, and its task on a sample small
            evaluator.run_examples(inputs, {fit.worker_id: fitted}, fresh, executor)
            listener.tell("fitting", number, len(missing), started)
        return fresh


def _unobserved(worker_id: str, reasons: Mapping[str, str]) -> Iterator[ScoredExample]:
    """Yield the failures of a worker that could not note what it needs."""
    for digest, reason in sorted(reasons.items()):
        failure = WorkerFailure("raised", "observe", reason)
        yield ScoredExample(digest, (Score(worker_id, None, 0.0, failure, 0.0),))


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
    if len(observations) < max(1, worker.min_observations):
        return _FailedFit(worker.worker_id, f"there is nothing to learn from in {len(observations)} observations")
    try:
        fitted: object = worker.fit(observations)
        if not isinstance(fitted, Worker) or fitted.worker_id != worker.worker_id or hasattr(fitted, "fit"):
            raise TypeError(f"fit must return a Worker {worker.worker_id!r} without a method 'fit', got {fitted!r}")
    except (Exception, SystemExit, GeneratorExit) as error:  # the last two must not end the host
        reason = f"its fit failed: {type(error).__name__}: {shown(error)}"
        write_log(logging.WARNING, "worker %r: %s", worker.worker_id, reason)
        return _FailedFit(worker.worker_id, reason)
    return fitted
