"""One training, from the first evaluation to the commit."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

import attrs

from tsm_training.analysis import Baseline
from tsm_training.arguments import check_callable, check_whole_number
from tsm_training.data import (
    EpochMetrics,
    HeldState,
    MetricRow,
    SessionCommit,
    SessionStatus,
    TrainingSession,
)
from tsm_training.ensemble import BlendSolver
from tsm_training.errors import LearnerFaultError, SessionNotFoundError, TrainingStoppedError
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.evaluator import EvaluationRun, ending_with
from tsm_training.evaluation.fits import Fit, forgotten
from tsm_training.evaluation.fitting import Fitter, check_group_by
from tsm_training.evaluation.reports import EvaluatedExample, epoch_metrics, worker_means
from tsm_training.evaluation.split import Split
from tsm_training.evaluation.validation import Validator
from tsm_training.learning import BlendFits, ExampleEvidence
from tsm_training.progress import ProgressCallback, ProgressReporter, StopRequest, reporting, write_log
from tsm_training.weights import Snapshot, WeightLearner

__all__ = ["TrainingOptions", "check_watchers", "run_training"]

_INTERRUPTIONS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, TrainingStoppedError)


def _a_count(value: int) -> int:
    return check_whole_number("epochs", value)


def check_watchers(on_progress: object, should_stop: object = None) -> None:
    """Raise InvalidArgumentError unless both can be called, or are None."""
    check_callable("on_progress", on_progress, "a function of a Progress, or None", optional=True)
    check_callable("should_stop", should_stop, "a function without arguments, or None", optional=True)


@attrs.frozen
class TrainingOptions:
    """How to train, and who watches; `TrainingEngine.train_batch` explains each.

    Raises:
        InvalidArgumentError: one is not what it must be.
    """

    epochs: int = attrs.field(converter=_a_count)
    verbose: bool
    validation_split: float | None
    seed: int | None
    reevaluate: bool
    on_progress: ProgressCallback | None
    should_stop: StopRequest | None
    group_by: str | None

    def __attrs_post_init__(self) -> None:
        check_watchers(self.on_progress, self.should_stop)
        check_group_by(self.group_by)


@attrs.frozen(eq=False)
class _Refit:
    """What trainable workers were fitted to, and what they do on all that is learned from."""

    evidence: Sequence[ExampleEvidence]
    documents: Mapping[str, str]
    """By worker id; see `Fit.to_document`."""
    unfitted: frozenset[str]
    """Ids of trainable workers that could not be fitted."""

    def applied_to(self, learner: WeightLearner, snapshot: Snapshot, gone: Set[str] = frozenset()) -> Snapshot:
        """Return a snapshot with these fits in the place of its own.

        Args:
            learner: Whose state it holds.
            snapshot: What was learned.
            gone: Digests of examples that were removed meanwhile: no fit may hold them.
        """
        if not self.documents and not self.unfitted & snapshot.fits.keys():
            return snapshot
        kept = {w: document for w, document in snapshot.fits.items() if w not in self.unfitted}
        state = learner.refitted(snapshot.state, self.evidence, self.documents, self.unfitted)
        return Snapshot(state, {**kept, **forgotten(self.documents, gone)})


def run_training(
    split: Split, options: TrainingOptions, validator: Validator, solver: str | BlendSolver, session_id: str
) -> TrainingSession:
    """Train in one session, and return it as it was completed.

    Args:
        split: The examples to learn from and to judge by.
        options: How to train.
        validator: Holds the learner, which is ready to learn, the store, and what evaluates examples.
        solver: Fits the blend; see `TrainingEngine`.
        session_id: The id for the session.
    """
    learner, store = validator.storage.learner, validator.storage.store
    session = TrainingSession(
        session_id=session_id,
        start_time=validator.evaluator.clock(),
        epochs=options.epochs,
        learning_rate=learner.alpha,
        initial_weights=learner.get_all_weights(),
        is_trial=learner.cell.is_trial,
        seed=options.seed,
        validation_split=options.validation_split,
        training_ids=tuple(example.example_id for example in split.training),
        validation_ids=tuple(example.example_id for example in split.validation),
        group_by=options.group_by,
    )

    def is_to_stop() -> bool:
        store.renew_session(session_id)  # it still runs
        return options.should_stop is not None and options.should_stop()

    with reporting(
        verbose=options.verbose, on_progress=options.on_progress, should_stop=is_to_stop, subject=session_id
    ) as listener:
        return _Training(session, split, validator, solver, listener).run(reevaluate=options.reevaluate)


@attrs.frozen(eq=False)
class _Training:
    """One training session: evaluate, learn, validate, and only then commit.

    Everything that takes time comes before the commit, so that a process that is killed has either trained or not.
    """

    session: TrainingSession
    split: Split
    validator: Validator
    solver: str | BlendSolver
    listener: ProgressReporter

    @property
    def _learner(self) -> WeightLearner:
        return self.validator.storage.learner

    def run(self, *, reevaluate: bool) -> TrainingSession:
        """Do it, and return the completed session; whatever ends it early is noted in the stored session."""
        has_begun = False
        try:
            self.validator.storage.store.begin_session(self.session)
            has_begun = True
            return self._complete(reevaluate=reevaluate)
        except BaseException as error:
            # Ctrl-C may come just behind the commit of the beginning: only an ordinary error says that there is none.
            if has_begun or not isinstance(error, Exception):
                self._give_up(error)
            raise

    def _complete(self, *, reevaluate: bool) -> TrainingSession:
        examples = [*self.split.training, *self.split.validation]
        run = self.validator.evaluator.evaluate(examples, self.listener, reevaluate=reevaluate)
        needed = self._needed_rows(run)
        before = self.validator.storage.snapshot(needed(self._learner.cell.snapshot))
        if before.state is None:
            before = attrs.evolve(before, state=self._learner.blank())
        fits, run, earlier = self._fitted(run, before, reevaluate=reevaluate)
        self.validator.evaluator.note_results(run.evaluated)
        learned = run.of(self.split.training)
        learned.require_a_picture()
        training = learned.evaluated
        self._note_troubles(run)
        # A foreign pool's workers are known only now; "before" must name them too.
        self._learner.add_workers(worker_means(training))
        before = attrs.evolve(before, state=self._learner.with_workers(before.state, sorted(worker_means(training))))
        initial_weights = self._learner.get_all_weights()
        evidence = _without_repeats(training)
        refit = self._refit(fits, [*earlier, *training], run)
        blends = self._blends(run, [*training, *earlier], before, reevaluate=reevaluate)
        after, history = self._learn(before, evidence, training, refit, blends)
        report = None
        if self.split.validation:
            trained, previous = self._learner.trial(after), self._learner.trial(before)
            report = self.validator.validate(run.of(self.split.validation), trained, self.listener, previous)
        session = attrs.evolve(
            self.session,
            num_examples=len(training),
            initial_weights=initial_weights,
            metrics_history=history,
            status="completed",
            skipped=run.skipped,
            validation=None if report is None else report.to_document(),
        )
        return self._commit(session, training, evidence, refit, blends, needed=needed)

    def _needed_rows(self, run: EvaluationRun) -> Callable[[Snapshot], set[str] | None]:
        """Return what tells the digests of the examples whose rows this training needs; None for all.

        Workers that are fitted anew are scored anew on everything, and other groups divide everything anew. Otherwise,
        of earlier trainings only the examples count on which a blend can be fitted: those that have previews.
        """
        digests = {item.digest for item in run.evaluated}.union(self.validator.evaluator.store.ranked_digests())

        def needed(held: Snapshot) -> set[str] | None:
            # Another training may have grouped otherwise meanwhile.
            group_by = None if held.state is None else self._learner.group_by_of(held.state)
            return (
                None if self.validator.trainables.workers or self.session.group_by not in {None, group_by} else digests
            )

        return needed

    def _note_troubles(self, run: EvaluationRun) -> None:
        """Tell whoever watches what would otherwise be found in the stored session only."""
        if run.skipped:
            reason = next(iter(run.skipped.values()))
            skipped = "example was" if len(run.skipped) == 1 else "examples were"
            self.listener.note(f"{len(run.skipped)} {skipped} skipped; the first one: {reason}")
        failures: dict[str, list[str | None]] = {}
        for item in run.evaluated:
            for worker_id, evaluation in item.evaluations.items():
                if evaluation.accuracy is None:
                    failures.setdefault(worker_id, []).append(evaluation.to_outcome()["error"])
        for worker_id, errors in sorted(failures.items()):
            self.listener.note(
                f"worker {worker_id!r} failed on {len(errors)} of {len(run.evaluated)} examples; {errors[0]}"
            )
        if self.session.validation_split and not self.split.validation:
            self.listener.note("nothing could be held out for validation: all examples have the same target picture")

    def _fitted(
        self, run: EvaluationRun, before: Snapshot, *, reevaluate: bool
    ) -> tuple[dict[str, Fit], EvaluationRun, list[EvaluatedExample]]:
        """Plan what the trainable workers are fitted to, and score them.

        Returns:
            The fits by worker id; the run with their scores; the examples of earlier trainings that are learned from
            too, with their scores.
        """
        held_out = {item.digest for item in run.of(self.split.validation).evaluated}
        training = run.of(self.split.training).evaluated
        digests = self._learner.known(before.state) - held_out - {item.digest for item in training}
        earlier = self.validator.evaluator.evaluated_before(digests)
        fits = self.validator.trainables.planned(
            [*training, *earlier], self.session.group_by, before.fits, run.observations
        )
        both = attrs.evolve(run, evaluated=(*run.evaluated, *earlier))
        both = self.validator.trainables.scored(both, fits, self.listener, reevaluate=reevaluate)
        count = len(run.evaluated)
        return fits, attrs.evolve(both, evaluated=both.evaluated[:count]), list(both.evaluated[count:])

    def _refit(self, fits: Mapping[str, Fit], learned: Sequence[EvaluatedExample], run: EvaluationRun) -> _Refit:
        unfitted = self.validator.trainables.workers.keys() - fits.keys()
        for worker_id in sorted(unfitted):
            self.listener.note(f"worker {worker_id!r} is not fitted: there are too few examples, or targets, for it")
        documents = {}
        for worker_id, fit in fits.items():
            self.listener.poll()
            documents[worker_id] = self.validator.trainables.finished(fit, run.observations).to_document()
        evidence = {item.digest: item.to_evidence() for item in learned}
        return _Refit(tuple(evidence.values()), documents, frozenset(unfitted))

    def _blends(
        self, run: EvaluationRun, learned: Sequence[EvaluatedExample], before: Snapshot, *, reevaluate: bool
    ) -> BlendFits:
        """Fit the blend on all that is learned from: these examples, and those of earlier trainings."""
        self.listener.poll()
        fitter = Fitter.of(self.validator.evaluator, run, self.solver, self.listener)
        if reevaluate:
            return fitter.fit(learned, self.session.group_by)
        known = functools.partial(self._learner.blend_of, before.state)
        return fitter.fit(learned, self.session.group_by, known)

    def _learn(
        self,
        before: Snapshot,
        evidence: Sequence[ExampleEvidence],
        training: Sequence[EvaluatedExample],
        refit: _Refit,
        blends: BlendFits,
    ) -> tuple[Snapshot, list[EpochMetrics]]:
        """Return what will be learned, and how it got there; the learner itself is not touched.

        Where another process trains meanwhile, the commit adds the same evidence to what that one has learned.
        """
        started = time.monotonic()
        worker_ids = tuple(sorted(worker_means(training)))
        snapshot = refit.applied_to(self._learner, before)
        weights = self._learner.trial(before).get_all_weights()
        history: list[EpochMetrics] = []
        for epoch in range(1, self.session.epochs + 1):
            self.listener.poll()
            state = self._learner.with_blends(self._learner.absorb(snapshot.state, evidence), blends)
            if state is None:
                raise LearnerFaultError(self._learner.name, "absorb or with_blends returned None instead of a state")
            snapshot = attrs.evolve(snapshot, state=state)
            learner = self._learner.trial(snapshot)
            baselines = Baselines(learner, worker_ids, trainable=self.validator.trainables.workers.keys())
            shares = baselines.shares()
            statistics = learner.get_all_statistics()
            history.append(
                epoch_metrics(
                    epoch,
                    training,
                    shares[Baseline.TRAINED],
                    baselines.trained_shares,
                    equal=shares[Baseline.EQUAL_WEIGHTS],
                    weights=learner.get_all_weights(),
                    weight_stds={worker_id: known["weight_std"] for worker_id, known in statistics.items()},
                    weights_before=weights,
                )
            )
            weights = history[-1]["weights"]
            self.listener.tell("learning", epoch, self.session.epochs, started, history[-1]["avg_accuracy"])
        return snapshot, history

    def _commit(
        self,
        session: TrainingSession,
        training: Sequence[EvaluatedExample],
        evidence: Sequence[ExampleEvidence],
        refit: _Refit,
        blends: BlendFits,
        *,
        needed: Callable[[Snapshot], set[str] | None],
    ) -> TrainingSession:
        learner = self._learner
        end_time = self.validator.evaluator.clock()
        rows = [row for item in training for row in _metric_rows(session, item, end_time.isoformat())]

        def learned(held: Snapshot, store: HeldState) -> Snapshot:
            # What was removed or changed meanwhile could never be forgotten again.
            digests = blends.labels.keys() | {item.digest for item in evidence}
            gone = digests - store.known(digests)
            snapshot = held if held.state is not None else attrs.evolve(held, state=learner.blank())
            snapshot = refit.applied_to(learner, snapshot, gone)
            kept = [item for item in evidence if item.digest not in gone]
            state = learner.absorb(snapshot.state, kept, session.epochs)
            return attrs.evolve(snapshot, state=learner.with_blends(state, blends.without(gone)))

        def finish(snapshot: Snapshot) -> SessionCommit:
            weights = learner.trial(snapshot).get_all_weights()
            return SessionCommit(attrs.evolve(session, end_time=end_time, final_weights=weights), rows)

        return self.validator.storage.commit_session(session.session_id, finish, learned, needed)

    def _give_up(self, error: BaseException) -> None:
        """Note why the session ended; evaluations are kept, learned state is as it was."""
        status: SessionStatus = "interrupted" if isinstance(error, _INTERRUPTIONS) else "failed"
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        store, session_id = self.validator.storage.store, self.session.session_id
        ended = attrs.evolve(self.session, status=status, end_time=self.validator.evaluator.clock(), error=reason)
        # Were the end not stored, the session would be found abandoned later.
        with ending_with(error, store, f"note that training session {session_id} was {status}"):
            try:
                if store.get_session(session_id).status == "running":
                    store.commit_session(session_id, lambda _held: SessionCommit(ended))
            except SessionNotFoundError:
                return  # it had not begun
        if status == "interrupted":
            self.listener.end_display()
            advice = "its evaluations are kept: call train() again to go on"
            # Who watches reads it under the traceback, where the eye is; others find it in their log.
            error.add_note(f"Training session {session_id} was interrupted; {advice}.")
            level = logging.INFO if self.listener.is_watched else logging.WARNING
            write_log(level, "training session %s was interrupted; %s", session_id, advice)


def _without_repeats(training: Sequence[EvaluatedExample]) -> list[ExampleEvidence]:
    """Return the evidence of each content once: the same triple added twice counts once."""
    return list({item.digest: item.to_evidence() for item in training}.values())


def _metric_rows(session: TrainingSession, item: EvaluatedExample, timestamp: str) -> list[MetricRow]:
    return [
        MetricRow(
            session_id=session.session_id,
            epoch=session.epochs,
            example_id=item.example.example_id,
            worker_id=worker_id,
            accuracy=evaluation.accuracy,
            confidence=evaluation.confidence,
            loss=None if evaluation.accuracy is None else 1.0 - evaluation.accuracy,
            timestamp=timestamp,
        )
        for worker_id, evaluation in item.evaluations.items()
    ]
