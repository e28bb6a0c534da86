"""Judging how well training works on few examples: each is held out once, and no worker runs again."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tsm_training.analysis import Baseline
from tsm_training.ensemble import renormalised
from tsm_training.evaluation.baselines import Baselines
from tsm_training.evaluation.evaluated import EvaluatedExample, EvaluationRun, evidence_of, mean, worker_means
from tsm_training.evaluation.results import CrossValidation, ExampleJudgement, baseline_means, verdict_on
from tsm_training.evaluation.split import fold_examples
from tsm_training.evaluation.validation import judging
from tsm_training.evaluation.workbench import Workbench
from tsm_training.weights import Snapshot


def cross_validate(
    bench: Workbench,
    run: EvaluationRun,
    *,
    folds: int,
    epochs: int,
    seed: int,
    group_by: str | None,
) -> CrossValidation:
    """Train a fresh copy of a learner on all folds but one, and judge it on that one, for each fold.

    The run has evaluated examples of at least two targets; the other arguments are those of the engine's method.
    """
    learner = bench.storage.learner
    evaluator = attrs.evolve(bench.evaluator, is_storing=False)
    trainables = attrs.evolve(bench.trainables, evaluator=evaluator, kept=run.observations)
    parts = fold_examples([item.example for item in run.evaluated], folds, seed)
    items: dict[str, EvaluatedExample] = {}
    judged: dict[str, ExampleJudgement] = {}
    trained: list[Baselines] = []
    accuracies: list[float | None] = []
    for part in parts:
        left_out = {example.example_id for example in part}
        known = [item for item in run.evaluated if item.example.example_id not in left_out]
        fits = trainables.planned(known, group_by, {})
        fitted = trainables.scored(run, fits)
        known = [item for item in fitted.evaluated if item.example.example_id not in left_out]
        held_out = [item for item in fitted.evaluated if item.example.example_id in left_out]
        state = learner.absorb(learner.blank(), evidence_of(known), epochs)
        blends = bench.fitter(fitted).fit(known, group_by)
        trial = learner.trial(Snapshot(learner.with_blends(state, blends)))
        worker_ids = sorted(worker_means(fitted.evaluated))
        baselines = Baselines.of(trial, worker_ids, trainable=trainables.workers.keys())
        trained.append(baselines)
        judgements = judging(bench, fitted, baselines).judged(held_out, evaluator.reporter)
        for item, judgement in zip(held_out, judgements, strict=True):
            items[item.example.example_id], judged[item.example.example_id] = item, judgement
            accuracies.append(item.blend_accuracy(baselines.trained_shares(item)))
    evaluated = [items[item.example.example_id] for item in run.evaluated]
    ordered = [judged[item.example.example_id] for item in run.evaluated]
    _complete(ordered)
    equal = renormalised({}, worker_means(run.evaluated))
    shares = [baselines.shares() for baselines in trained]
    followed = min(each.followed for each in trained)
    return CrossValidation(
        folds=len(parts),
        avg_accuracy=mean(accuracies),
        equal_weights_accuracy=mean(item.blend_accuracy(equal) for item in run.evaluated),
        blend_weights=[each[Baseline.TRAINED] for each in shares],
        # Other shares than the equal ones are different in each fold.
        baselines=baseline_means(evaluated, ordered, shares[0], shown={Baseline.EQUAL_WEIGHTS}),
        verdict=verdict_on(evaluated, ordered, bench.rope, followed, _agreed(trained)),
        per_example=ordered,
        skipped=run.skipped,
    )


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
