"""The figures that plots and reports show, sorted and ready to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from statistics import NormalDist
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np

from tsm_training.analysis import (
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    Baseline,
    Comparison,
    ComparisonDocument,
    Posterior,
    ScoreTable,
    compare,
)
from tsm_training.data import SessionDocument, TrainingExample, TrainingSession
from tsm_training.documents import TrainingResults
from tsm_training.engine import (
    CrossValidation,
    CrossValidationResults,
    ExampleJudgement,
    Explanation,
    Judged,
    TrainingEngine,
    Validation,
    ValidationResults,
    WorkerExplanation,
)
from tsm_training.errors import InvalidArgumentError
from tsm_training.text import counted
from tsm_training.weights import CREDIBLE_MASS, LearnerStatistics

GUIDE_BAND: Final = ((0.0, 0.75, 0.80), (10.0, 0.80, 0.85), (30.0, 0.85, 0.90), (100.0, 0.90, 0.95))
"""What the user guide expects ("Typical Training Progress"): number of examples, least and greatest similarity."""

_HALF_WIDTH: Final = NormalDist().inv_cdf(0.5 + CREDIBLE_MASS / 2)
"""Half the width of a weight's credible interval, in standard deviations."""

_LONGEST_NAME: Final = 30
_SHORT_ID: Final = 8


@runtime_checkable
class HasEngine(Protocol):
    """An object with an engine: a `TrainingManager`."""

    @property
    def training_engine(self) -> TrainingEngine:
        """The engine, which knows pool, learner and store."""
        ...


# --- names ----------------------------------------------------------------------------------------------------------


def _told_apart(
    names: Iterable[str], text_of: Callable[[str], str], again: Callable[[str, int], str]
) -> dict[str, str]:
    """Return a text for each name, all different: the second and later ones that would be alike are numbered."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        texts = itertools.chain([text_of(name)], (again(name, number) for number in itertools.count(2)))
        found[name] = next(text for text in texts if text not in taken)
        taken.add(found[name])
    return found


def shortened(names: Iterable[str], most: int = _LONGEST_NAME) -> dict[str, str]:
    """Return a text of at most `most` characters for each name; different names get different texts.

    The middle is left out, since names of one family differ at their ends.
    """

    def cut(name: str) -> str:
        return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"

    def numbered(name: str, number: int) -> str:
        mark = f"… {number}"
        return name[: most - len(mark)] + mark

    return _told_apart(names, cut, numbered)


def target_name(example: TrainingExample) -> str:
    """Return the name of an example's target file, without its ending."""
    return PurePath(example.target_path).stem


def example_names(
    example_ids: Iterable[str],
    examples: Iterable[TrainingExample] = (),
    name_of: Callable[[TrainingExample], str] = target_name,
) -> dict[str, str]:
    """Return a name for each example: what `name_of` says, or the beginning of its id; different ones."""
    named = {example.example_id: name_of(example) for example in examples}

    def name(example_id: str) -> str:
        return named.get(example_id) or example_id[:_SHORT_ID]

    return _told_apart(example_ids, name, lambda example_id, number: f"{name(example_id)} ({number})")


# --- weights --------------------------------------------------------------------------------------------------------


def ranked_weights(statistics: Mapping[str, LearnerStatistics]) -> list[tuple[str, LearnerStatistics]]:
    """Return a learner's statistics of each worker, the greatest weight first."""
    return sorted(statistics.items(), key=lambda item: (-item[1]["weight"], item[0]))


class PathPoint(NamedTuple):
    """A worker's weight at one moment."""

    place: float
    """Counted in sessions: 2.5 is half-way through the epochs of the third."""
    weight: float
    std: float | None
    """Posterior standard deviation; None where it was not kept."""


@attrs.frozen
class WeightPath:
    """How a worker's weight moved over the sessions."""

    worker_id: str
    points: tuple[PathPoint, ...]
    """In order; two points at one place where the weight changed between trainings."""

    @property
    def last(self) -> float:
        """The weight at the end."""
        return self.points[-1].weight

    @property
    def bands(self) -> list[list[tuple[float, float, float]]]:
        """The pieces on which its central 90 % interval is known: place, lower and upper end."""
        pieces = []
        for is_known, points in itertools.groupby(self.points, key=lambda point: point.std is not None):
            if is_known:
                ends = [(point, _HALF_WIDTH * (point.std or 0.0)) for point in points]
                pieces.append([(point.place, point.weight - half, point.weight + half) for point, half in ends])
        return pieces


def weight_paths(sessions: Sequence[TrainingSession]) -> list[WeightPath]:
    """Return the path of each worker's weight through completed sessions, the greatest final weight first."""
    points: dict[str, list[PathPoint]] = {}
    for number, session in enumerate(sessions):
        for worker_id, weight in session.initial_weights.items():
            known = points.setdefault(worker_id, [])
            if not known or known[-1].place != number or known[-1].weight != weight:
                known.append(PathPoint(float(number), weight, None))
        history: Sequence[Mapping[str, Any]] = session.metrics_history or ({},)
        for epoch, entry in enumerate(history, 1):
            place, stds = number + epoch / len(history), entry.get("weight_stds", {})
            # The last epoch has the weights that were stored.
            weights = session.final_weights if epoch == len(history) else entry.get("weights", {})
            for worker_id, weight in weights.items():
                points.setdefault(worker_id, []).append(PathPoint(place, weight, stds.get(worker_id)))
    paths = [WeightPath(worker_id, tuple(known)) for worker_id, known in points.items()]
    return sorted(paths, key=lambda path: (-path.last, path.worker_id))


def completed_sessions(sessions: Iterable[TrainingSession]) -> list[TrainingSession]:
    """Return the sessions whose weights were kept: completed ones that were not trials."""
    return [session for session in sessions if session.status == "completed" and not session.is_trial]


def foremost(ranked: Sequence[str], most: int) -> list[str]:
    """Return the workers that get colours: at most `most`, the last one among them if there are two or more."""
    if len(ranked) <= most or most < 2:  # noqa: PLR2004 - the first and the last
        return list(ranked[:most])
    return [*ranked[: most - 1], ranked[-1]]


# --- learning curve -------------------------------------------------------------------------------------------------

SessionLike: TypeAlias = TrainingSession | TrainingResults | SessionDocument
"""A stored session, what `train` returned, or the session in it."""


class CurveLine(NamedTuple):
    """One line of a learning curve."""

    baseline: Baseline
    name: str
    values: Sequence[float]
    """Mean accuracy on the training examples after each epoch, weighted by share."""


@attrs.frozen
class LearningCurve:
    """Accuracy after each epoch."""

    epochs: Sequence[int]
    lines: Sequence[CurveLine]
    """Trained weights, then equal ones and the best single worker where the history has them. That worker is the
    verdict's, or else the one with the greatest mean accuracy."""
    held_out: tuple[float, float] | None
    """Accuracy on the held-out examples, trained and with equal weights; None without any."""
    headline: float | None
    """Similarity of the ensemble's pictures on unseen examples; None where none was judged."""
    held_out_text: str
    """How many examples were held out, and how many of them an earlier training knew."""
    words: str
    """What the lines show."""


def learning_curve(session: SessionLike) -> LearningCurve:
    """Return the learning curve of a session.

    Raises:
        InvalidArgumentError: it is no session, or has no epochs.
    """
    document: Any = session
    validation = None
    if isinstance(session, TrainingSession):
        document, validation = session.to_summary(), stored_validation(session)
    elif isinstance(document, Mapping) and "session" in document:
        validation = Validation.from_document(document["validation"]) if document.get("validation") else None
        document = document["session"]
    if not isinstance(document, Mapping) or "metrics_history" not in document:
        raise InvalidArgumentError("session", session, "a TrainingSession, or what train() returned")
    # What a stored session has depends on the application that wrote it.
    entries = [entry for entry in document["metrics_history"] if "avg_accuracy" in entry]
    if not entries:
        raise InvalidArgumentError("session", document.get("session_id"), "a session with epochs in its history")
    validation = validation or Validation()
    lines = [CurveLine(Baseline.TRAINED, "trained weights", [entry["avg_accuracy"] for entry in entries])]
    equal = [entry["equal_weights_accuracy"] for entry in entries if "equal_weights_accuracy" in entry]
    if len(equal) == len(entries):
        lines.append(CurveLine(Baseline.EQUAL_WEIGHTS, "equal weights", equal))
    workers = entries[-1].get("worker_accuracies", {})
    best = validation.verdict["best_single"]
    if best not in workers:
        best = min(workers, key=lambda worker_id: (-(workers[worker_id] or 0.0), worker_id), default=None)
    if best is not None and workers[best] is not None:
        flat = [workers[best]] * len(entries)
        lines.append(CurveLine(Baseline.BEST_SINGLE, f"best single worker: {best}", flat))
    examples = counted(document.get("num_examples", 0), "training example")
    trained, equally = validation.avg_accuracy, validation.equal_weights_accuracy
    known = validation.num_examples - validation.unseen_examples
    earlier = f" ({known} of them learned from in an earlier training)" if known else ""
    return LearningCurve(
        epochs=[entry.get("epoch", number) for number, entry in enumerate(entries, 1)],
        lines=lines,
        held_out=None if trained is None or equally is None else (trained, equally),
        headline=validation.headline,
        held_out_text=f"{counted(validation.num_examples, 'example')} held out{earlier}",
        words=f"Mean of the workers, weighted (guide), on the {examples}.",
    )


# --- growth ---------------------------------------------------------------------------------------------------------

Growth: TypeAlias = Sequence[tuple[float, float]]
"""Similarity on held-out examples by the number of examples learned from, in rising order of that number."""


def growth_of(sessions: Iterable[TrainingSession]) -> Growth:
    """Return the similarity on held-out examples by the number of examples, the last that was reached with each number.

    The point at 0 is the untrained ensemble, in which all workers have equal shares.
    """
    learned: set[str] = set()
    points: list[tuple[float, float]] = []
    for session in completed_sessions(sessions):
        learned.update(session.training_ids)
        before, after = means_before_and_after(stored_validation(session))
        if after is not None:
            if not points and before is not None:
                points.append((0.0, before))
            if points and points[-1][0] == len(learned):  # the same examples again
                points.pop()
            points.append((float(len(learned)), after))
    return points


def stored_validation(session: TrainingSession) -> Validation | None:
    """Return what a session's training found on held-out examples; None without any, or of another application's."""
    try:
        return Validation.from_document(session.validation or {})
    except InvalidArgumentError:  # another application wrote it
        return None


def means_before_and_after(judged: Judged | None) -> tuple[float | None, float | None]:
    """Return the mean similarity on unseen examples with equal weights, and of the trained ensemble."""
    if judged is None or not judged.baselines:
        return None, None
    return judged.baselines[Baseline.EQUAL_WEIGHTS]["mean"], judged.baselines[Baseline.TRAINED]["mean"]


def guide_band(most: float) -> list[tuple[float, float, float]]:
    """Return the band of the user guide from 0 to `most` examples: number, least and greatest similarity."""
    counts, lows, highs = zip(*GUIDE_BAND, strict=True)
    places = [count for count in counts if count < most] + [most]
    return [(x, float(np.interp(x, counts, lows)), float(np.interp(x, counts, highs))) for x in places]


# --- workers --------------------------------------------------------------------------------------------------------


@attrs.frozen
class AccuracyRow:
    """A worker's scores, and its differences from the best worker."""

    worker_id: str
    mean: float | None
    """Mean accuracy, each target counting once; None where it never gave a picture."""
    interval: tuple[float, float] | None
    """Central 90 % interval of the true mean; None below `MIN_EXAMPLES` targets."""
    scores: Sequence[float | None]
    """Per example; None where it failed."""
    differences: Sequence[float | None]
    """Per example, its accuracy minus that of the best worker; None where one of the two failed."""
    comparison: Comparison | None
    """Comparison with the best worker; None for the best worker itself."""

    @property
    def failures(self) -> int:
        """On how many examples it gave no picture."""
        return sum(score is None for score in self.scores)


def accuracy_rows(table: ScoreTable, rope: float = DEFAULT_ROPE) -> list[AccuracyRow]:
    """Return a row for each worker, the best first: the greatest mean accuracy, a failure counting 0."""
    ranking = {
        name: _mean(table.group_means([score or 0.0 for score in known])) for name, known in table.scores.items()
    }
    names = sorted(ranking, key=lambda name: (-(ranking[name] or 0.0), name))
    rows = []
    for name in names:
        scores, best = table.column(name), table.column(names[0])
        means = table.group_means(scores)
        rows.append(
            AccuracyRow(
                worker_id=name,
                mean=_mean(means),
                interval=Posterior.of(means).interval() if len(means) >= MIN_EXAMPLES else None,
                scores=scores,
                differences=[None if a is None or b is None else a - b for a, b in zip(scores, best, strict=True)],
                comparison=None if name == names[0] else compare(table, name, names[0], rope=rope),
            )
        )
    return rows


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def ranked_workers(explanation: Explanation) -> list[tuple[str, WorkerExplanation]]:
    """Return what each worker brings, the greatest share first."""
    return sorted(explanation["workers"].items(), key=lambda item: (-item[1]["share"], item[0]))


# --- baselines ------------------------------------------------------------------------------------------------------

Results: TypeAlias = ValidationResults | CrossValidationResults | TrainingResults | TrainingSession
"""Results that hold the scores of the baselines."""


def baseline_labels(judged: Judged) -> dict[Baseline, str]:
    """Return the names of the baselines in tables and plots, in order; single workers with their ids."""
    ids = {Baseline.BEST_SINGLE: judged.verdict["best_single"], Baseline.BEST_FIXED: judged.verdict["best_fixed"]}
    shown = judged.shown_baselines
    return {each: each.label if ids.get(each) is None else f"{each.label}: {ids[each]}" for each in shown}


@attrs.frozen
class Benchmark:
    """The trained ensemble and its baselines on the same examples."""

    names: tuple[Baseline, ...]
    """The baselines that have pictures, in the order of tables."""
    labels: Mapping[Baseline, str]
    rows: tuple[ExampleJudgement, ...]
    """The examples on which the trained ensemble was judged, in order."""
    num_held_out: int
    """Number of examples like those in `judged`, with or without pictures."""
    means: Mapping[Baseline, float]
    """Mean similarity over the `judged` rows with the baseline's picture, each target counting once as in the gains."""
    delta_e: Mapping[Baseline, float | None]
    """Mean ΔE00 of the same pictures; None where nothing was unseen."""
    gains: Mapping[str, ComparisonDocument]
    """The verdict's comparisons of the trained ensemble with each baseline, on unseen examples only."""
    rope: float
    """Half the width of the region of practical equivalence."""

    @property
    def judged(self) -> tuple[ExampleJudgement, ...]:
        """The rows that means are taken over: the unseen examples, or all if there are none."""
        return tuple(row for row in self.rows if row["is_unseen"]) or self.rows

    @property
    def examples_text(self) -> str:
        """How many examples were judged, and out of how many if not all have pictures."""
        judged = len(self.judged)
        held_out = counted(self.num_held_out, "held-out example")
        return held_out if judged >= self.num_held_out else f"{judged} of {held_out}"

    def scores(self, name: Baseline) -> list[float]:
        """Return what one baseline scored on the `judged` examples that have its picture."""
        return [row["scores"][name] for row in self.judged if name in row["scores"]]

    def ranked(self) -> list[ExampleJudgement]:
        """Return the rows, the best for the trained ensemble first."""
        return sorted(self.rows, key=lambda row: (-row["scores"][Baseline.TRAINED], row["example_id"]))

    def differences(self, name: Baseline) -> list[float]:
        """Return the trained ensemble's score minus the baseline's, for each unseen example."""
        pairs = ((row["is_unseen"], row["scores"][Baseline.TRAINED], row["scores"].get(name)) for row in self.rows)
        return [trained - score for is_unseen, trained, score in pairs if is_unseen and score is not None]


def benchmark_of(results: Results | Judged) -> Benchmark:
    """Return what the trained ensemble and its baselines scored.

    Raises:
        InvalidArgumentError: these are no results, or no picture of the ensemble was judged.
    """
    if isinstance(results, Judged):
        judged = results
    else:
        document: Any = results.validation or {} if isinstance(results, TrainingSession) else results
        if isinstance(document, Mapping):
            document = document.get("validation", document)
        if not isinstance(document, Mapping) or "per_example" not in document:
            raise InvalidArgumentError("results", results, "what validate(), cross_validate() or train() returned")
        judged = (CrossValidation if "folds" in document else Validation).from_document(document)
    rows = tuple(each for each in judged.per_example if Baseline.TRAINED in each["scores"])
    if not rows:
        raise InvalidArgumentError("results", judged.num_examples, "results whose pictures were judged")
    labels = baseline_labels(judged)
    names = tuple(name for name in labels if any(name in row["scores"] for row in rows))
    means: dict[Baseline, float] = {}
    delta_e: dict[Baseline, float | None] = dict.fromkeys(names)
    for name in names:
        scores = [row["scores"][name] for row in rows if name in row["scores"]]
        means[name] = math.fsum(scores) / len(scores)
        if name in judged.baselines:
            known = judged.baselines[name]
            means[name] = means[name] if known["mean"] is None else known["mean"]  # None where nothing was unseen
            delta_e[name] = known["mean_delta_e"]
    has_unseen = any(row["is_unseen"] for row in rows)
    return Benchmark(
        names=names,
        labels=labels,
        rows=rows,
        num_held_out=sum(each["is_unseen"] or not has_unseen for each in judged.per_example),
        means=means,
        delta_e=delta_e,
        gains=judged.verdict["comparisons"],
        rope=judged.verdict["rope"],
    )
