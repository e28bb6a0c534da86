"""Judging how well training works on few examples: each is held out once, and no worker runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import attrs

from tsm_training.data import TrainingExample
from tsm_training.evaluation.contenders import Contenders
from tsm_training.evaluation.evaluator import EvaluationRun
from tsm_training.evaluation.fitting import Fitter
from tsm_training.evaluation.judging import ExampleJudgement, Judging
from tsm_training.evaluation.listener import Listener
from tsm_training.evaluation.reports import EvaluatedExample, blend_accuracy, equal_shares, mean, worker_means
from tsm_training.evaluation.results import ContenderMean, VerdictDocument, contender_means, verdict_on
from tsm_training.evaluation.split import fold_examples
from tsm_training.evaluation.trainables import Trainables
from tsm_training.learning import LearnedState
from tsm_training.weights import LearnerCell, WeightLearner

__all__ = ["CrossValidation", "CrossValidationResults"]


class CrossValidationResults(TypedDict):
    """How training does on examples that it has not seen, each example having been held out once."""

    folds: int
    """How many there really were."""
    num_examples: int
    avg_accuracy: float | None
    """Blend-weighted mean of the workers' accuracies, each example judged by the shares learned without it."""
    equal_weights_accuracy: float | None
    ensemble_accuracy: float | None
    """Mean similarity of the blended pictures; None where no pictures could be compared."""
    ensemble_examples: int
    mean_delta_e: float | None
    """Mean colour difference ΔE00 of the same pictures, whatever the metric."""
    blend_weights: list[dict[str, float]]
    """The shares that were learned, fold by fold: where they differ much, there is not enough to learn from."""
    contenders: dict[str, ContenderMean]
    verdict: VerdictDocument
    """Of training as such; what is in use is taken to be equal weights."""
    per_example: list[ExampleJudgement]
    skipped: dict[str, str]


@attrs.frozen(eq=False)
class CrossValidation:
    """Trains a fresh copy of a learner on all folds but one, and judges it on that one, for each fold."""

    learner: WeightLearner
    fitter: Callable[[EvaluationRun], Fitter]
    judging: Callable[[EvaluationRun], Callable[[Contenders], Judging]]
    listener: Listener
    epochs: int
    group_by: str | None
    rope: float
    trainables: Trainables
    """Fits the workers that learn, in each fold anew."""

    def run(self, run: EvaluationRun, folds: int, seed: int) -> CrossValidationResults:
        """Return what comes of it.

        Args:
            run: Evaluated examples, with at least two targets.
            folds: How many, at least 2.
            seed: Another seed divides otherwise.
        """
        parts = fold_examples([item.example for item in run.evaluated], folds, seed)
        items: dict[str, EvaluatedExample] = {}
        judged: dict[str, ExampleJudgement] = {}
        trained: list[Contenders] = []
        accuracies: list[float | None] = []
        for part in parts:
            contenders, fitted, held_out = self._trained(run, part)
            trained.append(contenders)
            judgements = self.judging(fitted)(contenders).judge(held_out, self.listener)
            items |= {item.example.example_id: item for item in held_out}
            judged |= {each["example_id"]: each for each in judgements}
            accuracies += [blend_accuracy(item.accuracies, contenders.trained_shares(item)) for item in held_out]
        evaluated = [items[item.example.example_id] for item in run.evaluated]
        ordered = [judged[item.example.example_id] for item in evaluated]
        _complete(ordered)
        pictures = [each["scores"].get("trained") for each in ordered]
        equal = equal_shares(worker_means(run.evaluated))
        return {
            "folds": len(parts),
            "num_examples": len(evaluated),
            "avg_accuracy": mean(accuracies),
            "equal_weights_accuracy": mean(blend_accuracy(item.accuracies, equal) for item in run.evaluated),
            "ensemble_accuracy": mean(pictures),
            "ensemble_examples": sum(score is not None for score in pictures),
            "mean_delta_e": mean(each["delta_e"].get("trained") for each in ordered),
            "blend_weights": [contenders.shares()["trained"] for contenders in trained],
            "contenders": _means(evaluated, ordered, trained),
            "verdict": verdict_on(
                evaluated, ordered, self.rope, min(each.followed for each in trained), _agreed(trained)
            ),
            "per_example": ordered,
            "skipped": dict(run.skipped),
        }

    def _trained(
        self, run: EvaluationRun, held_out: Iterable[TrainingExample]
    ) -> tuple[Contenders, EvaluationRun, tuple[EvaluatedExample, ...]]:
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
        fresh = self.learner.with_cell(LearnerCell(is_trial=True))
        state = fresh.absorb(LearnedState(), evidence.values(), self.epochs)
        state = self.fitter(run).fit(items, self.group_by).applied_to(state)
        learner = self.learner.with_cell(LearnerCell(state, is_trial=True))
        return Contenders.of(learner, worker_ids, trainable=self.trainables.workers.keys()), run, others


def _agreed(trained: Sequence[Contenders]) -> dict[str, str | None]:
    """Return the ids of the best workers where all folds have chosen the same."""
    found = {name: {each.bests[name] for each in trained} for name in trained[0].bests}
    return {name: ids.pop() if len(ids) == 1 else None for name, ids in found.items()}


def _complete(judged: Sequence[ExampleJudgement]) -> None:
    """Note what the best fixed worker scored where it is the best of all, if it is another one in some fold."""
    if any("best_fixed" in each["scores"] for each in judged):
        for each in judged:
            for values in (each["scores"], each["delta_e"]):
                if "best_single" in values:
                    values.setdefault("best_fixed", values["best_single"])


def _means(
    items: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], trained: Iterable[Contenders]
) -> dict[str, ContenderMean]:
    """Return the means; shares that are other ones in each fold are left out."""
    means = contender_means(items, judged, next(iter(trained)))
    kept = ("equal_weights",)
    return {
        name: {**each, "blend_weights": each["blend_weights"] if name in kept else None} for name, each in means.items()
    }
