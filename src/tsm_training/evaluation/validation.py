"""Validating: a learner's weights are judged beside their baselines, on the pictures of evaluated examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, cast

import attrs

from tsm_training.analysis import Baseline
from tsm_training.arrays import Image
from tsm_training.data import ExampleEdit, ExampleScores, TrainingExample
from tsm_training.errors import WorkerPoolError
from tsm_training.evaluation.answering import results_of
from tsm_training.evaluation.baselines import Baselines, Shares
from tsm_training.evaluation.evaluator import EvaluationRun, Evaluator, by_contents
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.judging import ExampleJudgement, Judging, Pictures, rival_truths
from tsm_training.evaluation.previews import Previews
from tsm_training.evaluation.reports import EvaluatedExample, blend_accuracy, worker_means
from tsm_training.evaluation.results import Validation, validation_of
from tsm_training.evaluation.scoring import UnusableExampleError, load_copies, paths_of
from tsm_training.evaluation.trainables import Trainables
from tsm_training.metrics import ColorDifference
from tsm_training.persistence import LearnerStorage
from tsm_training.progress import ProgressReporter
from tsm_training.weights import WeightLearner
from tsm_training.workers import WorkerRequest, run_worker

__all__ = ["Validator"]


@attrs.frozen(eq=False)
class Validator:
    """Judges weights on evaluated examples: those of the engine's learner, or of a trial of it."""

    trainables: Trainables
    storage: LearnerStorage
    """The engine's learner, and its store."""
    rope: float
    """Which difference in accuracy is practically none."""

    @property
    def evaluator(self) -> Evaluator:
        """What evaluated the examples."""
        return self.trainables.evaluator

    def validate(
        self,
        run: EvaluationRun,
        learner: WeightLearner,
        listener: ProgressReporter,
        previous: WeightLearner | Shares | None,
        *,
        full: bool = False,
    ) -> Validation:
        """Judge a learner's weights on the examples of a run, and note each example's ``validation_scores``.

        Args:
            run: What every worker did.
            learner: Whose weights to judge.
            listener: Is told of each example.
            previous: What was in use before; None where that is not known.
            full: Run the workers again and judge whole pictures instead of previews.
        """
        evaluated = run.evaluated
        worker_ids = tuple(sorted(worker_means(evaluated)))
        baselines = Baselines.of(learner, worker_ids, previous, self.trainables.workers.keys())
        judging = self.judging(run)(baselines)
        judging = attrs.evolve(judging, seen=judging.seen | self._learned_from(learner, evaluated))
        if full:
            copies = by_contents(item.example for item in evaluated)
            whole = functools.partial(self._whole_pictures, worker_ids=worker_ids, copies=copies)
            judging = attrs.evolve(judging, whole_pictures=whole)
        if isinstance(previous, WeightLearner):
            before, now = previous.cell.snapshot.fits, learner.cell.snapshot.fits
            changed = {worker_id: each for worker_id, each in before.items() if each != now.get(worker_id)}
            group_by = previous.group_by_of(previous.state)
            judging = attrs.evolve(judging, earlier=self._fitted_pictures(changed, run, group_by))
        if learner.groups_of(learner.state):
            judging = attrs.evolve(judging, ungrouped=self._fitted_pictures(learner.cell.snapshot.fits, run, None))
        judged = judging.judge(evaluated, listener)
        self._note_scores(evaluated, judged, baselines)
        return validation_of(run, judged, baselines, self.rope)

    def judging(self, run: EvaluationRun) -> Callable[[Baselines], Judging]:
        """Return what makes judges of baselines on the examples of a run, or on some of them."""
        previews, judge = Previews(self.evaluator.store, run.previews), self.evaluator.judge
        return functools.partial(
            Judging,
            previews=previews,
            rivals=rival_truths(run.evaluated, previews),
            scorer=judge.scorer,
            metric_name=judge.name,
            seen=self.trainables.imported_digests(self.storage.learner.cell.snapshot.fits),
            is_color_difference=type(judge.metric) is ColorDifference,
        )

    def previous_shares(self) -> Shares | None:
        """Return the shares that were in use before the newest training that judged them."""
        for session in self.storage.store.iterate_sessions(newest_first=True):
            if session.status == "completed" and not session.is_trial and session.validation is not None:
                previous: dict[str, Any] | None = session.validation.get("contenders", {}).get(Baseline.PREVIOUS)
                if previous is not None:
                    return cast("Shares", previous["blend_weights"])
        return None

    def _learned_from(self, learner: WeightLearner, items: Iterable[EvaluatedExample]) -> Set[str]:
        """Return the digests of the examples, among these, that a learner has learned from."""
        digests = {item.digest for item in items}
        if learner is self.storage.learner:
            learner = learner.trial(self.storage.snapshot(digests))
        return digests & learner.known(learner.state)

    def _fitted_pictures(
        self, documents: Mapping[str, str], run: EvaluationRun, group_by: str | None
    ) -> Callable[[EvaluatedExample, Pictures], Mapping[str, Image]]:
        """Return what makes the pictures of trainable workers with other fits, or for other groups, than in a run.

        Only those are made that change each pixel by its colour alone: the source is a sample.
        """
        trainables, previews = self.trainables, Previews(self.evaluator.store, run.previews)
        fits = trainables.current(documents)
        maps = {worker_id: fit for worker_id, fit in fits.items() if trainables.workers[worker_id].is_color_map}

        def pictures(item: EvaluatedExample, judged: Pictures) -> dict[str, Image]:
            source = previews.source(item) if maps else None
            if source is None:
                return {}
            request = WorkerRequest(source, judged.target, group_label(item.example.metadata, group_by))
            ready = trainables.ready_for(item.example, maps)
            made = {worker_id: run_worker(fitted(), request).value for worker_id, fitted in ready.items()}
            return {worker_id: picture for worker_id, picture in made.items() if picture is not None}

        return pictures

    def _whole_pictures(
        self, item: EvaluatedExample, worker_ids: Sequence[str], copies: Mapping[str, Sequence[TrainingExample]]
    ) -> Pictures | None:
        """Run the workers on an example again; None where that cannot be done or nobody gives a picture."""
        learner = self.storage.learner
        try:
            paths = [paths_of(example) for example in copies[item.digest]]
            triple = load_copies(paths, item.example.known_files, self.evaluator.limits)
            fits = self.trainables.current(learner.cell.snapshot.fits)
            fitted = self.trainables.ready_for(item.example, fits)
            label = group_label(item.example.metadata, learner.group_by_of(learner.state))
            request = WorkerRequest(triple.source, triple.target, label)
            results = results_of(self.evaluator.pool, request, worker_ids, fitted)
        except (UnusableExampleError, WorkerPoolError):
            return None
        outputs = {w: result.value for w, result in results.items() if result.value is not None}
        return Pictures(outputs, triple.target, triple.ground_truth) if outputs else None

    def _note_scores(
        self, evaluated: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], baselines: Baselines
    ) -> None:
        store = self.storage.store
        if self.storage.learner.cell.is_trial or store.is_read_only:
            return  # how a trial did says nothing about the ensemble that is kept
        now = self.evaluator.clock().isoformat()
        edits: dict[str, ExampleEdit] = {}
        for item, judgement in zip(evaluated, judged, strict=True):
            shares = baselines.shares(item.example.metadata)
            scores: ExampleScores = {
                "avg_accuracy": blend_accuracy(item.accuracies, shares[Baseline.TRAINED]),
                "equal_weights_accuracy": blend_accuracy(item.accuracies, shares[Baseline.EQUAL_WEIGHTS]),
                "ensemble_accuracy": judgement["scores"].get(Baseline.TRAINED),
                "validated_at": now,
            }
            edits[item.example.example_id] = functools.partial(attrs.evolve, validation_scores=scores)
        store.edit_examples(edits, skip_missing=True)
