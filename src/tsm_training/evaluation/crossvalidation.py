"""Judging how well training works on few examples: each is held out once, and no worker runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from tsm_training.analysis import Baseline
from tsm_training.data import TrainingExample
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.evaluator import EvaluationRun
from tsm_training.evaluation.fitting import Fitter
from tsm_training.evaluation.judging import ExampleJudgement, Judging
from tsm_training.evaluation.reports import EvaluatedExample, blend_accuracy, equal_shares, mean, worker_means
from tsm_training.evaluation.results import CrossValidation, baseline_means, verdict_on
from tsm_training.evaluation.split import fold_examples
from tsm_training.evaluation.trainables import Trainables
from tsm_training.progress import ProgressReporter
from tsm_training.weights import Snapshot, WeightLearner

__all__ = ["CrossValidator"]


@attrs.frozen(eq=False, repr=False)
class CrossValidator:
    """Trains a fresh copy of a learner on all folds but one, and judges it on that one, for each fold."""

    learner: WeightLearner
    fitter: Callable[[EvaluationRun], Fitter]
    judging: Callable[[EvaluationRun], Callable[[Baselines], Judging]]
    listener: ProgressReporter
    epochs: int
    group_by: str | None
    rope: float
    trainables: Trainables
    """Fits the workers that learn, in each fold anew."""

    def run(self, run: EvaluationRun, folds: int, seed: int) -> CrossValidation:
        """Train and judge on each fold.

        Args:
            run: Evaluated examples, with at least two targets.
            folds: Number of folds, at least 2.
            seed: Another seed gives another division.
        """
        parts = fold_examples([item.example for item in run.evaluated], folds, seed)
        items: dict[str, EvaluatedExample] = {}
        judged: dict[str, ExampleJudgement] = {}
        trained: list[Baselines] = []
        accuracies: list[float | None] = []
        for part in parts:
            baselines, fitted, held_out = self._trained(run, part)
            trained.append(baselines)
            judgements = self.judging(fitted)(baselines).judge(held_out, self.listener)
            items |= {item.example.example_id: item for item in held_out}
            judged |= {each["example_id"]: each for each in judgements}
            accuracies += [blend_accuracy(item.accuracies, baselines.trained_shares(item)) for item in held_out]
        evaluated = [items[item.example.example_id] for item in run.evaluated]
        ordered = [judged[item.example.example_id] for item in evaluated]
        _complete(ordered)
        equal = equal_shares(worker_means(run.evaluated))
        shares = [baselines.shares() for baselines in trained]
        return CrossValidation(
            folds=len(parts),
            avg_accuracy=mean(accuracies),
            equal_weights_accuracy=mean(blend_accuracy(item.accuracies, equal) for item in run.evaluated),
            blend_weights=[each[Baseline.TRAINED] for each in shares],
            # Other shares than the equal ones are different in each fold.
            baselines=baseline_means(evaluated, ordered, shares[0], shown={Baseline.EQUAL_WEIGHTS}),
            verdict=verdict_on(evaluated, ordered, self.rope, min(each.followed for each in trained), _agreed(trained)),
            per_example=ordered,
            skipped=run.skipped,
        )

    def _trained(
        self, run: EvaluationRun, held_out: Iterable[TrainingExample]
    ) -> tuple[Baselines, EvaluationRun, tuple[EvaluatedExample, ...]]:
        """Train on all examples but some, which nothing that is fitted here knows.

        Returns:
            What was trained; the run with the scores of what was fitted; the examples that were left out.
        """
        left_out = {example.example_id for example in held_out}
        known = [item for item in run.evaluated if item.example.example_id not in left_out]
        fits = self.trainables.planned(known, self.group_by, {}, run.observations)
        run = self.trainables.scored(run, fits, self.listener, is_kept=False)
        worker_ids = tuple(sorted(worker_means(run.evaluated)))
        items = [item for item in run.evaluated if item.example.example_id not in left_out]
        others = tuple(item for item in run.evaluated if item.example.example_id in left_out)
        evidence = {item.digest: item.to_evidence() for item in items}
        state = self.learner.absorb(self.learner.blank(), evidence.values(), self.epochs)
        state = self.learner.with_blends(state, self.fitter(run).fit(items, self.group_by))
        learner = self.learner.trial(Snapshot(state))
        return Baselines.of(learner, worker_ids, trainable=self.trainables.workers.keys()), run, others


def _agreed(trained: Sequence[Baselines]) -> dict[str, str | None]:
    """Return the ids of the best workers where all folds have chosen the same."""
    found = {name: {each.bests[name] for each in trained} for name in trained[0].bests}
    return {name: ids.pop() if len(ids) == 1 else None for name, ids in found.items()}


def _complete(judged: Sequence[ExampleJudgement]) -> None:
    """Note what the best fixed worker scored where it is the best of all, if it is another one in some fold."""
    if any(Baseline.BEST_FIXED in each["scores"] for each in judged):
        for each in judged:
            for values in (each["scores"], each["delta_e"]):
                if Baseline.BEST_SINGLE in values:
                    values.setdefault(str(Baseline.BEST_FIXED), values[Baseline.BEST_SINGLE])
