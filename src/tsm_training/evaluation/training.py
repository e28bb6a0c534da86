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
from tsm_training.data import EpochMetrics, HeldState, MetricRow, SessionCommit, SessionStatus, TrainingSession
from tsm_training.errors import LearnerFaultError, SessionNotFoundError, TrainingStoppedError
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.evaluated import EvaluatedExample, EvaluationRun, evidence_of, mean, worker_means
from tsm_training.evaluation.fits import Fit, forgotten
from tsm_training.evaluation.fitting import check_group_by
from tsm_training.evaluation.keeping import attempting
from tsm_training.evaluation.split import Split
from tsm_training.evaluation.validation import validate
from tsm_training.evaluation.workbench import Workbench
from tsm_training.learning import BlendFits, ExampleEvidence
from tsm_training.progress import ProgressCallback, ProgressReporter, StopRequest, reporting, write_log
from tsm_training.weights import Snapshot, WeightLearner

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
class _Lesson:
    """What a training has to teach: applied to what was learned before, and again to what the store then holds."""

    evidence: Sequence[ExampleEvidence]
    """Of the examples that are learned from."""
    everything: Sequence[ExampleEvidence]
    """Of these, and of those of earlier trainings, on which trainable workers are fitted too."""
    fits: Mapping[str, str]
    """What trainable workers were fitted to, by worker id; see `Fit.to_document`."""
    unfitted: frozenset[str]
    """Ids of trainable workers that could not be fitted."""
    blends: BlendFits

    def refitted(self, learner: WeightLearner, snapshot: Snapshot, gone: Set[str] = frozenset()) -> Snapshot:
        """Return a snapshot with these fits in the place of its own.

        Args:
            learner: Whose state it holds.
            snapshot: What was learned.
            gone: Digests of examples that were removed meanwhile: no fit may hold them.
        """
        if not self.fits and not self.unfitted & snapshot.fits.keys():
            return snapshot
        kept = {w: document for w, document in snapshot.fits.items() if w not in self.unfitted}
        state = learner.refitted(snapshot.state, self.everything, self.fits, self.unfitted)
        return Snapshot(state, {**kept, **forgotten(self.fits, gone)})

    def learned(self, learner: WeightLearner, held: Snapshot, store: HeldState, epochs: int) -> Snapshot:
        """Return what a learner knows after all passes, but for what was removed or changed meanwhile.

        That could never be forgotten again.
        """
        digests = self.blends.labels.keys() | {item.digest for item in self.evidence}
        gone = digests - store.known(digests)
        snapshot = held if held.state is not None else attrs.evolve(held, state=learner.blank())
        snapshot = self.refitted(learner, snapshot, gone)
        kept = [item for item in self.evidence if item.digest not in gone]
        state = learner.absorb(snapshot.state, kept, epochs)
        return attrs.evolve(snapshot, state=learner.with_blends(state, self.blends.without(gone)))


def run_training(bench: Workbench, split: Split, options: TrainingOptions, session_id: str) -> TrainingSession:
    """Train in one session with this id, and return it as it was completed; the learner is ready to learn."""
    learner, store = bench.storage.learner, bench.storage.store
    session = TrainingSession(
        session_id=session_id,
        start_time=bench.evaluator.clock(),
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
        training = _Training(session, split, bench.for_call(listener, reevaluate=options.reevaluate), learner, listener)
        has_begun = False
        try:
            store.begin_session(session)
            has_begun = True
            return training.run()
        except BaseException as error:
            # Ctrl-C may come just behind the commit of the beginning: only an ordinary error says that there is none.
            if has_begun or not isinstance(error, Exception):
                training.give_up(error)
            raise


@attrs.frozen(eq=False)
class _Training:
    """One training session: evaluate, learn, validate, and only then commit.

    Everything that takes time comes before the commit, so that a process that is killed has either trained or not.
    """

    session: TrainingSession
    split: Split
    bench: Workbench
    learner: WeightLearner
    listener: ProgressReporter

    def run(self) -> TrainingSession:
        """Train, and return the completed session."""
        evaluator, learner = self.bench.evaluator, self.learner
        run = evaluator.evaluate([*self.split.training, *self.split.validation])
        needed = self._needed_rows(run)
        before = self.bench.storage.snapshot(needed(learner.cell.snapshot))
        if before.state is None:
            before = attrs.evolve(before, state=learner.blank())
        fits, run, earlier = self._fitted(run, before)
        evaluator.note_results(run.evaluated)
        learned = run.of(self.split.training)
        learned.require_a_picture()
        training = learned.evaluated
        self._note_troubles(run)
        # A foreign pool's workers are known only now; "before" must name them too.
        worker_ids = sorted(worker_means(training))
        learner.add_workers(worker_ids)
        before = attrs.evolve(before, state=learner.with_workers(before.state, worker_ids))
        initial_weights = learner.get_all_weights()
        lesson = self._lesson(fits, training, earlier, run, before)
        after, history = self._learn(before, training, worker_ids, lesson)
        report = None
        if self.split.validation:
            held_out = run.of(self.split.validation)
            report = validate(self.bench, held_out, learner.trial(after), learner.trial(before))
        end_time = evaluator.clock()
        session = attrs.evolve(
            self.session,
            num_examples=len(training),
            initial_weights=initial_weights,
            metrics_history=history,
            status="completed",
            skipped=run.skipped,
            validation=None if report is None else report.to_document(),
            end_time=end_time,
        )
        rows = [row for item in training for row in _metric_rows(session, item, end_time.isoformat())]

        def finish(snapshot: Snapshot) -> SessionCommit:
            weights = learner.trial(snapshot).get_all_weights()
            return SessionCommit(attrs.evolve(session, final_weights=weights), rows)

        def change(held: Snapshot, store: HeldState) -> Snapshot:
            return lesson.learned(learner, held, store, session.epochs)

        return self.bench.storage.commit_session(session.session_id, finish, change, needed)

    def _needed_rows(self, run: EvaluationRun) -> Callable[[Snapshot], Set[str] | None]:
        """Return what tells the keys of the rows that this training needs; None for all.

        Workers that are fitted anew are scored anew on everything, and other groups divide everything anew. Otherwise,
        of earlier trainings only the examples count on which a blend can be fitted: those that have previews.
        """
        keys = self.learner.keys_for(item.to_evidence() for item in run.evaluated)
        keys |= set(self.bench.evaluator.store.ranked_digests())

        def needed(held: Snapshot) -> Set[str] | None:
            # Another training may have grouped otherwise meanwhile.
            group_by = None if held.state is None else self.learner.group_by_of(held.state)
            is_regrouped = self.session.group_by not in {None, group_by}
            return None if self.bench.trainables.workers or is_regrouped else keys

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
        self, run: EvaluationRun, before: Snapshot
    ) -> tuple[dict[str, Fit], EvaluationRun, list[EvaluatedExample]]:
        """Plan what the trainable workers are fitted to, and score them.

        Returns:
            The fits by worker id; the run with their scores; the examples of earlier trainings that are learned from
            too, with their scores.
        """
        trainables = self.bench.trainables
        held_out = {item.digest for item in run.of(self.split.validation).evaluated}
        training = run.of(self.split.training).evaluated
        digests = self.learner.known(before.state) - held_out - {item.digest for item in training}
        earlier = self.bench.evaluator.evaluated_before(digests)
        fits = trainables.planned([*training, *earlier], self.session.group_by, before.fits)
        both = run._replace(evaluated=(*run.evaluated, *earlier))
        both = trainables.scored(both, fits)
        count = len(run.evaluated)
        return fits, both._replace(evaluated=both.evaluated[:count]), list(both.evaluated[count:])

    def _lesson(
        self,
        fits: Mapping[str, Fit],
        training: Sequence[EvaluatedExample],
        earlier: Sequence[EvaluatedExample],
        run: EvaluationRun,
        before: Snapshot,
    ) -> _Lesson:
        """Fit workers and blend on all that is learned from: these examples, and those of earlier trainings."""
        trainables = self.bench.trainables
        unfitted = frozenset(trainables.workers.keys() - fits.keys())
        for worker_id in sorted(unfitted):
            self.listener.note(f"worker {worker_id!r} is not fitted: there are too few examples, or targets, for it")
        documents = {}
        for worker_id, fit in fits.items():
            self.listener.poll()
            documents[worker_id] = trainables.finished(fit).to_document()
        self.listener.poll()
        # Where all is evaluated anew, a blend that was fitted before is fitted again, too.
        state = self.learner.blank() if self.bench.evaluator.reevaluate else before.state
        known = functools.partial(self.learner.blend_of, state)
        blends = self.bench.fitter(run).fit([*training, *earlier], self.session.group_by, known)
        return _Lesson(evidence_of(training), evidence_of([*earlier, *training]), documents, unfitted, blends)

    def _learn(
        self, before: Snapshot, training: Sequence[EvaluatedExample], worker_ids: Sequence[str], lesson: _Lesson
    ) -> tuple[Snapshot, list[EpochMetrics]]:
        """Return what will be learned, and how it got there; the learner itself is not touched.

        Where another process trains meanwhile, the commit adds the same evidence to what that one has learned.
        """
        started = time.monotonic()
        snapshot = lesson.refitted(self.learner, before)
        weights = self.learner.trial(before).get_all_weights()
        means = worker_means(training)
        history: list[EpochMetrics] = []
        for epoch in range(1, self.session.epochs + 1):
            self.listener.poll()
            state = self.learner.with_blends(self.learner.absorb(snapshot.state, lesson.evidence), lesson.blends)
            if state is None:
                raise LearnerFaultError(self.learner.name, "absorb or with_blends returned None instead of a state")
            snapshot = attrs.evolve(snapshot, state=state)
            learner = self.learner.trial(snapshot)
            baselines = Baselines(learner, tuple(worker_ids), trainable=self.bench.trainables.workers.keys())
            shares = baselines.shares()
            equal = shares[Baseline.EQUAL_WEIGHTS]
            weights_before, weights = weights, learner.get_all_weights()
            changes = [abs(weight - weights_before.get(worker_id, weight)) for worker_id, weight in weights.items()]
            stds = {worker_id: known["weight_std"] for worker_id, known in learner.get_all_statistics().items()}
            accuracy = mean(item.blend_accuracy(baselines.trained_shares(item)) for item in training) or 0.0
            history.append(
                {
                    "epoch": epoch,
                    "avg_accuracy": accuracy,
                    "equal_weights_accuracy": mean(item.blend_accuracy(equal) for item in training) or 0.0,
                    "worker_accuracies": means,
                    "weights": weights,
                    "weight_stds": stds,
                    "blend_weights": shares[Baseline.TRAINED],
                    "max_weight_change": max(changes, default=0.0),
                }
            )
            self.listener.tell("learning", epoch, self.session.epochs, started, accuracy)
        return snapshot, history

    def give_up(self, error: BaseException) -> None:
        """Note why the session ended; evaluations are kept, learned state is as it was."""
        status: SessionStatus = "interrupted" if isinstance(error, _INTERRUPTIONS) else "failed"
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        store, session_id = self.bench.storage.store, self.session.session_id
        ended = attrs.evolve(self.session, status=status, end_time=self.bench.evaluator.clock(), error=reason)
        # Were the end not stored, the session would be found abandoned later.
        with attempting(f"note that training session {session_id} was {status}"):
            try:
                if store.get_session(session_id).status == "running":
                    store.commit_session(session_id, lambda _held: SessionCommit(ended))
            except SessionNotFoundError:
                return  # it had not begun
        if status == "interrupted":
            level = logging.WARNING
            if self.listener.display is not None:
                self.listener.display.close()  # the error is about to be written below the bar
                level = logging.INFO
            advice = "its evaluations are kept: call train() again to go on"
            # Who watches reads it under the traceback, where the eye is; others find it in their log.
            error.add_note(f"Training session {session_id} was interrupted; {advice}.")
            write_log(level, "training session %s was interrupted; %s", session_id, advice)


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
