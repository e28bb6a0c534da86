"""Validating: a learner's weights are judged beside their baselines, on the pictures of evaluated examples."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Final, cast

import attrs
import numpy as np

from tsm_training.analysis import Baseline
from tsm_training.arrays import Image
from tsm_training.data import (
    ExampleEdit,
    ExampleScores,
    TrainingExample,
    TrainingSession,
    TrainingStore,
    WorkerAccuracy,
)
from tsm_training.errors import WorkerPoolError
from tsm_training.evaluation.answering import results_of
from tsm_training.evaluation.baselines import Baselines, Shares
from tsm_training.evaluation.evaluated import (
    EvaluatedExample,
    EvaluationRun,
    Pictures,
    Previews,
    accuracies_by_worker,
    mean,
)
from tsm_training.evaluation.evaluator import by_contents
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.results import ExampleJudgement, Validation, baseline_means, verdict_on
from tsm_training.evaluation.scoring import SOURCE, TRUTH, Judge, UnusableExampleError, load_copies, paths_of
from tsm_training.evaluation.workbench import Workbench
from tsm_training.metrics import ColorDifference
from tsm_training.progress import ProgressReporter
from tsm_training.weights import WeightLearner
from tsm_training.workers import WorkerRequest, run_worker

_COLORS: Final = ColorDifference()


# --- judging pictures -----------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class Judging:
    """Judges the pictures of an ensemble beside those of its baselines, example by example."""

    baselines: Baselines
    judge: Judge
    pictures_of: Callable[[EvaluatedExample], Pictures | None]
    """Gives the pictures that the workers made of an example: previews, or whole ones."""
    rivals: Mapping[str, Image]
    """For each example, by digest, another one's small ground truth, as far as there is one."""
    seen: Set[str] = frozenset()
    """Digests of the examples that were learned from, here or where a weights file comes from."""
    others: Mapping[Baseline, Callable[[EvaluatedExample, Pictures], Mapping[str, Image]]] = attrs.field(factory=dict)
    """Gives pictures of trainable workers that a baseline has otherwise, by worker id. Without it, what was in use
    before is judged with the fits of today."""

    def judged(self, items: Sequence[EvaluatedExample], listener: ProgressReporter) -> list[ExampleJudgement]:
        """Return the scores of every example, in order.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
        """
        started = time.monotonic()
        judged: list[ExampleJudgement] = []
        total, pictured = 0.0, 0
        for item in items:
            listener.poll()
            scores, delta_e = self._scores(item)
            judged.append(
                {
                    "example_id": item.example.example_id,
                    "group": self.baselines.label_of(item.example.metadata),
                    "is_unseen": item.digest not in self.seen,
                    "scores": scores,
                    "delta_e": delta_e,
                }
            )
            total, pictured = total + scores.get(Baseline.TRAINED, 0.0), pictured + (Baseline.TRAINED in scores)
            listener.tell("validating", len(judged), len(items), started, total / pictured if pictured else None)
        return judged

    def _scores(self, item: EvaluatedExample) -> tuple[dict[str, float], dict[str, float]]:
        """Return the similarity of every baseline's picture, and its mean colour difference."""
        pictures, rival = self.pictures_of(item), self.rivals.get(item.digest)
        if pictures is None:
            return {}, {}
        truth = pictures.ground_truth
        score = self.judge.scorer(truth)
        is_delta_e = type(self.judge.metric) is ColorDifference and self.judge.metric == _COLORS
        closeness = None if is_delta_e else _COLORS.prepare(truth)
        others = {name: make(item, pictures) for name, make in self.others.items()}
        scores: dict[str, float] = {}
        delta_e: dict[str, float] = {}
        for name, picture in self.baselines.pictures(pictures, item.example.metadata, others):
            scores[str(name)] = similarity = score(picture)
            delta_e[str(name)] = 100.0 * (1.0 - (similarity if closeness is None else closeness(picture)))
            if name is Baseline.TRAINED and rival is not None:
                scores[str(Baseline.CONTROL)] = self.judge.scorer(resampled(rival, truth.shape))(picture)
        return scores, delta_e


def rival_truths(items: Sequence[EvaluatedExample], previews: Previews) -> dict[str, Image]:
    """Return for each example, by digest, the small ground truth of one with another target, each truth about once."""
    truths = [
        (item.digest, item.example.known_files, truth)
        for item in items
        if (truth := previews.picture(item, TRUTH)) is not None
    ]
    rivals = {}
    for number, (digest, files, _truth) in enumerate(truths):
        for step in range(1, len(truths)):
            _digest, other, rival = truths[(number + step) % len(truths)]
            if other.target != files.target and other.ground_truth != files.ground_truth:
                rivals[digest] = rival
                break
    return rivals


def resampled(image: Image, shape: tuple[int, ...]) -> Image:
    """Return a picture in another size, made of its own pixels (uint8, H×W×3, BGR)."""
    rows, columns = ((np.arange(side) * have // side) for side, have in zip(shape[:2], image.shape[:2], strict=True))
    return np.ascontiguousarray(image[np.ix_(rows, columns)])


# --- judging weights ------------------------------------------------------------------------------------------------


def validate(
    bench: Workbench,
    run: EvaluationRun,
    learner: WeightLearner,
    previous: WeightLearner | Shares | None,
    *,
    full: bool = False,
) -> Validation:
    """Judge a learner's weights on the examples of a run, and note each example's ``validation_scores``.

    Args:
        bench: Holds what evaluated the examples, and the engine's own learner.
        run: What every worker did.
        learner: Whose weights to judge.
        previous: What was in use before; None where that is not known.
        full: Run the workers again and judge whole pictures instead of previews.
    """
    evaluated = run.evaluated
    by_worker = accuracies_by_worker(evaluated)
    baselines = Baselines.of(learner, tuple(by_worker), previous, bench.trainables.workers.keys())
    judge = judging(bench, run, baselines)
    digests = {item.digest for item in evaluated}
    # Of the learner that is kept, the store has the rows of examples.
    whole = learner.trial(bench.storage.snapshot(digests)) if learner is bench.storage.learner else learner
    judge = attrs.evolve(judge, seen=judge.seen | (digests & whole.known(whole.state)))
    if full:
        copies = by_contents(item.example for item in evaluated)
        pictures_of = functools.partial(_whole_pictures, bench, worker_ids=tuple(by_worker), copies=copies)
        judge = attrs.evolve(judge, pictures_of=pictures_of)
    now, others = learner.cell.snapshot.fits, {}
    if isinstance(previous, WeightLearner):
        before = previous.cell.snapshot.fits
        changed = {worker_id: each for worker_id, each in before.items() if each != now.get(worker_id)}
        group_by = previous.group_by_of(previous.state)
        others[Baseline.PREVIOUS] = _fitted_pictures(bench, changed, run, group_by)
    if learner.groups_of(learner.state):
        others[Baseline.WITHOUT_GROUPS] = _fitted_pictures(bench, now, run, None)
    judged = attrs.evolve(judge, others=others).judged(evaluated, bench.evaluator.reporter)
    _note_scores(bench, evaluated, judged, baselines)
    shares = baselines.shares()
    return Validation(
        avg_accuracy=mean(item.blend_accuracy(baselines.trained_shares(item)) for item in evaluated),
        equal_weights_accuracy=mean(item.blend_accuracy(shares[Baseline.EQUAL_WEIGHTS]) for item in evaluated),
        worker_accuracies={worker_id: described(values) for worker_id, values in by_worker.items()},
        blend_weights=shares[Baseline.TRAINED],
        failures={
            worker_id: sum(worker_id in item.evaluations for item in evaluated) - len(values)
            for worker_id, values in by_worker.items()
        },
        skipped=run.skipped,
        unrepeatable=run.changes,
        baselines=baseline_means(evaluated, judged, shares),
        verdict=verdict_on(evaluated, judged, bench.rope, baselines.followed, baselines.bests),
        per_example=judged,
    )


def judging(bench: Workbench, run: EvaluationRun, baselines: Baselines) -> Judging:
    """Return what judges baselines by the previews of a run's examples."""
    seen = bench.trainables.imported_digests(bench.storage.learner.cell.snapshot.fits)
    rivals = rival_truths(run.evaluated, run.previews)
    return Judging(baselines, bench.evaluator.judge, run.previews.get, rivals, seen)


def newest_session(store: TrainingStore) -> TrainingSession | None:
    """Return the newest training whose weights were kept; None before any."""
    sessions = store.iterate_sessions(newest_first=True)
    return next((session for session in sessions if session.status == "completed" and not session.is_trial), None)


def previous_shares(store: TrainingStore) -> Shares | None:
    """Return the shares that were in use before the newest training that judged them."""
    for session in store.iterate_sessions(newest_first=True):
        if session.status == "completed" and not session.is_trial and session.validation is not None:
            previous: dict[str, Any] | None = session.validation.get("contenders", {}).get(Baseline.PREVIOUS)
            if previous is not None:
                return cast("Shares", previous["blend_weights"])
    return None


def _fitted_pictures(
    bench: Workbench, documents: Mapping[str, str], run: EvaluationRun, group_by: str | None
) -> Callable[[EvaluatedExample, Pictures], Mapping[str, Image]]:
    """Return what makes the pictures of trainable workers with other fits, or for other groups, than in a run.

    Only those are made that change each pixel by its colour alone: the source is a sample.
    """
    trainables = bench.trainables
    fits = trainables.current(documents)
    maps = {worker_id: fit for worker_id, fit in fits.items() if trainables.workers[worker_id].is_color_map}

    def pictures(item: EvaluatedExample, judged: Pictures) -> dict[str, Image]:
        source = run.previews.picture(item, SOURCE) if maps else None
        if source is None:
            return {}
        request = WorkerRequest(source, judged.target, group_label(item.example.metadata, group_by))
        ready = trainables.ready(maps, item.example)
        made = {worker_id: run_worker(fitted(), request).value for worker_id, fitted in ready.items()}
        return {worker_id: picture for worker_id, picture in made.items() if picture is not None}

    return pictures


def _whole_pictures(
    bench: Workbench,
    item: EvaluatedExample,
    worker_ids: Sequence[str],
    copies: Mapping[str, Sequence[TrainingExample]],
) -> Pictures | None:
    """Run the workers on an example again; None where that cannot be done or nobody gives a picture."""
    learner = bench.storage.learner
    try:
        paths = [paths_of(example) for example in copies[item.digest]]
        triple = load_copies(paths, item.example.known_files, bench.evaluator.limits)
        fits = bench.trainables.current(learner.cell.snapshot.fits)
        fitted = bench.trainables.ready(fits, item.example)
        label = group_label(item.example.metadata, learner.group_by_of(learner.state))
        request = WorkerRequest(triple.source, triple.target, label)
        results = results_of(bench.evaluator.pool, request, worker_ids, fitted)
    except (UnusableExampleError, WorkerPoolError):
        return None
    outputs = {w: result.value for w, result in results.items() if result.value is not None}
    return Pictures(outputs, triple.target, triple.ground_truth, outputs) if outputs else None


def _note_scores(
    bench: Workbench,
    evaluated: Sequence[EvaluatedExample],
    judged: Sequence[ExampleJudgement],
    baselines: Baselines,
) -> None:
    store = bench.storage.store
    if bench.storage.learner.cell.is_trial or store.is_read_only:
        return  # how a trial did says nothing about the ensemble that is kept
    now = bench.evaluator.clock().isoformat()
    edits: dict[str, ExampleEdit] = {}
    for item, judgement in zip(evaluated, judged, strict=True):
        shares = baselines.shares(item.example.metadata)
        scores: ExampleScores = {
            "avg_accuracy": item.blend_accuracy(shares[Baseline.TRAINED]),
            "equal_weights_accuracy": item.blend_accuracy(shares[Baseline.EQUAL_WEIGHTS]),
            "ensemble_accuracy": judgement["scores"].get(Baseline.TRAINED),
            "validated_at": now,
        }
        edits[item.example.example_id] = functools.partial(attrs.evolve, validation_scores=scores)
    store.edit_examples(edits, skip_missing=True)


def described(values: Sequence[float]) -> WorkerAccuracy:
    """Return mean, standard deviation (of the population), least and greatest of some accuracies."""
    average = mean(values)
    if average is None:
        return {"mean": None, "std": None, "min": None, "max": None}
    variance = mean((value - average) ** 2 for value in values) or 0.0
    return {"mean": average, "std": math.sqrt(variance), "min": min(values), "max": max(values)}
