"""One training, from the first evaluation to the commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from typing import Final, Protocol

import attrs

from tsm_training.data import EpochMetrics, MetricRow, SessionCommit, SessionStatus, TrainingExample, TrainingSession
from tsm_training.errors import SessionNotFoundError, TrainingStoppedError
from tsm_training.evaluation.contenders import Contenders
from tsm_training.evaluation.evaluator import EvaluationRun, Evaluator, ending_with
from tsm_training.evaluation.fitting import Fits, Fitter
from tsm_training.evaluation.listener import Listener, write_log
from tsm_training.evaluation.reports import EvaluatedExample, epoch_metrics, worker_means
from tsm_training.evaluation.results import ValidationResults
from tsm_training.evaluation.trainables import Fit, Trainables, forgotten
from tsm_training.learning import ExampleEvidence, LearnedState
from tsm_training.persistence import LearnerStorage
from tsm_training.weights import LearnerCell, WeightLearner, refitted

__all__ = ["Reporter", "Training"]

_INTERRUPTIONS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, TrainingStoppedError)


class Reporter(Protocol):
    """Judges a learner's weights on evaluated examples."""

    def __call__(
        self,
        run: EvaluationRun,
        learner: WeightLearner,
        listener: Listener,
        /,
        *,
        previous: WeightLearner,
    ) -> ValidationResults:
        """Return what validation found, beside what was in use before."""
        ...


@attrs.frozen(eq=False)
class _Refit:
    """What trainable workers were fitted to, and what they do on all that is learned from."""

    evidence: Sequence[ExampleEvidence]
    documents: Mapping[str, bytes]
    """By worker id; see `Fit.to_document`."""
    unfitted: frozenset[str]
    """Ids of trainable workers that could not be fitted."""

    def applied_to(self, state: LearnedState, gone: Set[str] = frozenset()) -> LearnedState:
        """Return a learned state with these fits in the place of its own.

        Args:
            state: What was learned.
            gone: Digests of examples that were removed meanwhile: no fit may hold them.
        """
        if not self.documents and not self.unfitted & state.fits.keys():
            return state
        kept = {w: document for w, document in state.fits.items() if w not in self.unfitted}
        state = refitted(state, self.evidence, self.documents, self.unfitted)
        return attrs.evolve(state, fits={**kept, **forgotten(self.documents, gone)})


@attrs.frozen(eq=False)
class Training:
    """One training session: evaluate, learn, validate, and only then commit.

    Everything that takes time comes before the commit, so that a process that is killed has either trained or not.
    """

    session: TrainingSession
    training: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    evaluator: Evaluator
    storage: LearnerStorage
    report: Reporter
    fitter: Callable[[EvaluationRun, Listener], Fitter]
    trainables: Trainables
    listener: Listener
    clock: Callable[[], datetime]

    @property
    def _learner(self) -> WeightLearner:
        return self.storage.learner

    def _with(self, state: LearnedState) -> WeightLearner:
        """Return a learner that has learned `state`; the real one is not touched."""
        return self._learner.with_cell(LearnerCell(state, is_trial=True))

    def run(self, *, reevaluate: bool) -> TrainingSession:
        """Do it, and return the completed session; whatever ends it early is noted in the stored session."""
        has_begun = False
        try:
            self.storage.store.begin_session(self.session)
            has_begun = True
            return self._complete(reevaluate=reevaluate)
        except BaseException as error:
            # Ctrl-C may come just behind the commit of the beginning: only an ordinary error says that there is none.
            if has_begun or not isinstance(error, Exception):
                self._give_up(error)
            raise

    def _complete(self, *, reevaluate: bool) -> TrainingSession:
        run = self.evaluator.evaluate([*self.training, *self.validation], self.listener, reevaluate=reevaluate)
        fits, run, earlier = self._fitted(run, reevaluate=reevaluate)
        self.evaluator.note_results(run.evaluated)
        learned = run.of(self.training)
        learned.require_a_picture()
        training = learned.evaluated
        self._note_troubles(run)
        # A foreign pool's workers are known only now; "before" must name them too.
        self._learner.add_workers(worker_means(training))
        initial_weights = self._learner.get_all_weights()
        evidence = _without_repeats(training)
        before = self._with(self._learner.cell.state)
        refit = self._refit(fits, [*earlier, *training], run)
        blends = self._blends(run, [*training, *earlier])
        state, history = self._learn(evidence, training, refit, blends)
        report = None
        if self.validation:
            report = self.report(run.of(self.validation), self._with(state), self.listener, previous=before)
        session = attrs.evolve(
            self.session,
            num_examples=len(training),
            initial_weights=initial_weights,
            metrics_history=history,
            status="completed",
            skipped=run.skipped,
            validation=report,
        )
        return self._commit(session, training, evidence, refit, blends)

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
        if self.session.validation_split and not self.validation:
            self.listener.note("nothing could be held out for validation: all examples have the same target picture")

    def _fitted(
        self, run: EvaluationRun, *, reevaluate: bool
    ) -> tuple[dict[str, Fit], EvaluationRun, list[EvaluatedExample]]:
        """Plan what the trainable workers are fitted to, and score them.

        Returns:
            The fits by worker id; the run with their scores; the examples of earlier trainings that are learned from
            too, with their scores.
        """
        held_out = {item.digest for item in run.of(self.validation).evaluated}
        training = run.of(self.training).evaluated
        digests = self._learner.cell.state.absorbed.keys() - held_out - {item.digest for item in training}
        earlier = self.evaluator.evaluated_before(digests)
        documents = self._learner.cell.state.fits
        fits = self.trainables.planned([*training, *earlier], self.session.group_by, documents, run.observations)
        both = attrs.evolve(run, evaluated=(*run.evaluated, *earlier))
        both = self.trainables.scored(both, fits, self.listener, reevaluate=reevaluate)
        count = len(run.evaluated)
        return fits, attrs.evolve(both, evaluated=both.evaluated[:count]), list(both.evaluated[count:])

    def _refit(self, fits: Mapping[str, Fit], learned: Sequence[EvaluatedExample], run: EvaluationRun) -> _Refit:
        unfitted = self.trainables.workers.keys() - fits.keys()
        for worker_id in sorted(unfitted):
            self.listener.note(f"worker {worker_id!r} is not fitted: there are too few examples, or targets, for it")
        documents = {}
        for worker_id, fit in fits.items():
            self.listener.poll()
            documents[worker_id] = self.trainables.finished(fit, run.observations).to_document()
        evidence = {item.digest: item.to_evidence() for item in learned}
        return _Refit(tuple(evidence.values()), documents, frozenset(unfitted))

    def _blends(self, run: EvaluationRun, learned: Sequence[EvaluatedExample]) -> Fits:
        """Fit the blend on all that is learned from: these examples, and those of earlier trainings."""
        self.listener.poll()
        return self.fitter(run, self.listener).fit(learned, self.session.group_by)

    def _learn(
        self,
        evidence: Sequence[ExampleEvidence],
        training: Sequence[EvaluatedExample],
        refit: _Refit,
        blends: Fits,
    ) -> tuple[LearnedState, list[EpochMetrics]]:
        """Return what the learner's state becomes, and how it got there; the learner itself is not touched."""
        started = time.monotonic()
        worker_ids = tuple(sorted(worker_means(training)))
        state = refit.applied_to(self._learner.cell.state)
        before = self._learner.get_all_weights()
        history: list[EpochMetrics] = []
        for epoch in range(1, self.session.epochs + 1):
            self.listener.poll()
            state = blends.applied_to(self._learner.absorb(state, evidence))
            learner = self._with(state)
            contenders = Contenders(learner, worker_ids, trainable=self.trainables.workers.keys())
            shares = contenders.shares()["trained"]
            statistics = learner.get_all_statistics()
            history.append(
                epoch_metrics(
                    epoch,
                    training,
                    shares,
                    contenders.trained_shares,
                    equal=contenders.shares()["equal_weights"],
                    weights=learner.get_all_weights(),
                    weight_stds={worker_id: known["weight_std"] for worker_id, known in statistics.items()},
                    weights_before=before,
                )
            )
            before = history[-1]["weights"]
            self.listener.tell("learning", epoch, self.session.epochs, started, history[-1]["avg_accuracy"])
        return state, history

    def _commit(
        self,
        session: TrainingSession,
        training: Sequence[EvaluatedExample],
        evidence: Sequence[ExampleEvidence],
        refit: _Refit,
        blends: Fits,
    ) -> TrainingSession:
        learner = self._learner
        end_time = self.clock()
        rows = [row for item in training for row in _metric_rows(session, item, end_time.isoformat())]
        own_state = learner.cell.state
        stored_digests = self._stored_digests()
        # What was removed or changed meanwhile could never be forgotten again.
        evidence = [item for item in evidence if item.digest in stored_digests]
        gone = blends.learned - stored_digests

        def learned(held: LearnedState) -> LearnedState:
            return blends.applied_to(learner.absorb(refit.applied_to(held, gone), evidence, session.epochs), gone)

        change = self.storage.committed(learned)

        def finish(held: LearnedState) -> SessionCommit:
            state = change(held if self.storage.is_kept else own_state)
            weights = self._with(state).get_all_weights()
            final = attrs.evolve(session, end_time=end_time, final_weights=weights)
            return SessionCommit(final, rows, state if self.storage.is_kept else None)

        stored, learning = self.storage.store.commit_session(session.session_id, finish)
        if self.storage.is_kept:
            self.storage.agreed(learning)
        else:
            learner.cell.update(learned)
        return stored

    def _stored_digests(self) -> set[str]:
        return {e.files.digest for e in self.storage.store.iterate_examples() if e.files is not None}

    def _give_up(self, error: BaseException) -> None:
        """Note why the session ended; evaluations are kept, learned state is as it was."""
        status: SessionStatus = "interrupted" if isinstance(error, _INTERRUPTIONS) else "failed"
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        store, session_id = self.storage.store, self.session.session_id
        ended = attrs.evolve(self.session, status=status, end_time=self.clock(), error=reason)
        # Were the end not stored, the session would be found abandoned later.
        is_noted = False
        with ending_with(error, store, f"note that training session {session_id} was {status}"):
            try:
                if store.get_session(session_id).status == "running":
                    store.commit_session(session_id, lambda _held: SessionCommit(ended))
            except SessionNotFoundError:
                return  # it had not begun
            is_noted = True
        if not is_noted:
            store.abandon_session(session_id)
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
