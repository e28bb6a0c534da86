"""Judging how well training works on few examples: each is held out once, and no worker runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import attrs

from tsm_training.data.split import fold_examples
from tsm_training.engine.contenders import Contenders, best_single_worker
from tsm_training.engine.evaluator import EvaluationRun
from tsm_training.engine.fitting import Fitter
from tsm_training.engine.judging import ExampleJudgement, Judging
from tsm_training.engine.listener import Listener
from tsm_training.engine.reports import EvaluatedExample, blend_accuracy, equal_shares, mean, worker_means
from tsm_training.engine.results import ContenderMean, VerdictDocument, contender_means, verdict_on
from tsm_training.evidence import LearnedState
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
    fitter: Fitter
    judging: Callable[[Contenders], Judging]
    listener: Listener
    epochs: int
    group_by: str | None
    rope: float

    def run(self, run: EvaluationRun, folds: int, seed: int) -> CrossValidationResults:
        """Return what comes of it.

        Args:
            run: Evaluated examples, with at least two targets.
            folds: How many, at least 2.
            seed: Another seed divides otherwise.
        """
        items = run.evaluated
        by_id = {item.example.example_id: item for item in items}
        worker_ids = tuple(sorted(worker_means(items)))
        parts = fold_examples([item.example for item in items], folds, seed)
        judged: dict[str, ExampleJudgement] = {}
        trained: list[Contenders] = []
        accuracies: list[float | None] = []
        for part in parts:
            held_out = [by_id[example.example_id] for example in part]
            left_out = {example.example_id for example in part}
            contenders = self._trained([i for i in items if i.example.example_id not in left_out], worker_ids)
            trained.append(contenders)
            judgements = self.judging(contenders).judge(held_out, self.listener)
            judged |= {each["example_id"]: each for each in judgements}
            accuracies += [blend_accuracy(item.accuracies, contenders.trained_shares(item)) for item in held_out]
        ordered = [judged[item.example.example_id] for item in items]
        pictures = [each["scores"].get("trained") for each in ordered]
        equal = equal_shares(worker_ids)
        return {
            "folds": len(parts),
            "num_examples": len(items),
            "avg_accuracy": mean(accuracies),
            "equal_weights_accuracy": mean(blend_accuracy(item.accuracies, equal) for item in items),
            "ensemble_accuracy": mean(pictures),
            "ensemble_examples": sum(score is not None for score in pictures),
            "blend_weights": [contenders.shares()["trained"] for contenders in trained],
            "contenders": _means(items, ordered, trained),
            "verdict": verdict_on(items, ordered, self.rope, min(each.followed for each in trained)),
            "per_example": ordered,
            "skipped": dict(run.skipped),
        }

    def _trained(self, items: Sequence[EvaluatedExample], worker_ids: tuple[str, ...]) -> Contenders:
        evidence = {item.digest: item.to_evidence() for item in items}
        fresh = self.learner.with_cell(LearnerCell(is_trial=True))
        state = fresh.absorb(LearnedState(), evidence.values(), self.epochs)
        state = self.fitter.fit(items, self.group_by).applied_to(state)
        learner = self.learner.with_cell(LearnerCell(state, is_trial=True))
        return Contenders(learner, worker_ids, best_single=best_single_worker(learner.get_all_statistics(), worker_ids))


def _means(
    items: Sequence[EvaluatedExample], judged: Sequence[ExampleJudgement], trained: Iterable[Contenders]
) -> dict[str, ContenderMean]:
    """Return the means; shares that are other ones in each fold are left out."""
    means = contender_means(items, judged, next(iter(trained)))
    kept = ("equal_weights",)
    return {
        name: {"mean": each["mean"], "blend_weights": each["blend_weights"] if name in kept else None}
        for name, each in means.items()
    }
