"""The figures that plots and reports show, sorted and ready to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from statistics import NormalDist
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np

from tsm_training.analysis import (
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    SHOWN,
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


def shortened(names: Iterable[str], most: int = _LONGEST_NAME) -> dict[str, str]:
    """Return a text of at most `most` characters for each name; different names get different texts.

    The middle is left out, since names of one family differ at their ends.
    """
    short: dict[str, str] = {}
    for name in names:
        text = name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
        number = 2
        while text in short.values():
            mark = f"… {number}"
            text = name[: most - len(mark)] + mark
            number += 1
        short[name] = text
    return short


def target_name(example: TrainingExample) -> str:
    """Return the name of an example's target file, without its ending."""
    return PurePath(example.target_path).stem


def example_names(
    example_ids: Iterable[str],
    examples: Iterable[TrainingExample] = (),
    name_of: Callable[[TrainingExample], str] = target_name,
) -> dict[str, str]:
    """Return a name for each example: what `name_of` says, or the beginning of its id; different ones."""
    stems = {example.example_id: name_of(example) for example in examples}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for example_id in example_ids:
        name = text = stems.get(example_id) or example_id[:_SHORT_ID]
        number = 2
        while text in taken:
            text = f"{name} ({number})"
            number += 1
        taken.add(text)
        names[example_id] = text
    return names


# --- weights --------------------------------------------------------------------------------------------------------


@attrs.frozen
class WeightRow:
    """A worker's weight with its credible interval and its share."""

    worker_id: str
    weight: float
    low: float
    """Lower end of the central 90 % interval."""
    high: float
    share: float | None
    """Its part in the ensemble's picture, in [0, 1]; None where that is not known."""


def weight_rows(
    statistics: Mapping[str, LearnerStatistics], shares: Mapping[str, float] | None = None
) -> list[WeightRow]:
    """Return a row for each worker, the greatest weight first.

    Args:
        statistics: A learner's statistics, per worker id.
        shares: Shares of the ensemble's picture, per worker id.
    """
    parts = shares or {}
    rows = [
        WeightRow(worker_id, known["weight"], *known["credible_interval"], parts.get(worker_id))
        for worker_id, known in statistics.items()
    ]
    return sorted(rows, key=lambda row: (-row.weight, row.worker_id))


@attrs.frozen
class PathPoint:
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
        for place, entry in _epochs(session):
            stds = entry.get("weight_stds", {})
            for worker_id, weight in entry.get("weights", {}).items():
                points.setdefault(worker_id, []).append(PathPoint(number + place, weight, stds.get(worker_id)))
    paths = [WeightPath(worker_id, tuple(known)) for worker_id, known in points.items()]
    return sorted(paths, key=lambda path: (-path.last, path.worker_id))


def _epochs(session: TrainingSession) -> Iterable[tuple[float, Mapping[str, Any]]]:
    """Yield each epoch with its place in the session, in (0, 1]; the last one has the weights that were stored."""
    history: Sequence[Mapping[str, Any]] = session.metrics_history
    for number, entry in enumerate(history, 1):
        last = number == len(history)
        yield number / len(history), {**entry, "weights": session.final_weights} if last else entry
    if not history:
        yield 1.0, {"weights": session.final_weights}


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


@attrs.frozen
class LearningCurve:
    """Accuracy after each epoch."""

    epochs: tuple[int, ...]
    trained: tuple[float, ...]
    """On the training examples, weighted by share."""
    equal_weights: tuple[float, ...]
    best_worker: str | None
    """The baseline of the verdict, or else the worker with the greatest mean accuracy on the training examples; None
    where the history has no accuracies of workers."""
    best_accuracy: float | None
    held_out: tuple[float, float] | None
    """Accuracy on the held-out examples, trained and with equal weights; None without any."""
    num_examples: int
    held_out_text: str
    """How many examples were held out, and how many of them an earlier training knew."""


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
    workers = entries[-1].get("worker_accuracies", {})
    best = validation.verdict["best_single"]
    if best not in workers:
        best = min(workers, key=lambda worker_id: (-(workers[worker_id] or 0.0), worker_id), default=None)
    trained, equal = validation.avg_accuracy, validation.equal_weights_accuracy
    known = validation.num_examples - validation.unseen_examples
    earlier = f" ({known} of them learned from in an earlier training)" if known else ""
    return LearningCurve(
        epochs=tuple(entry.get("epoch", number) for number, entry in enumerate(entries, 1)),
        trained=tuple(entry["avg_accuracy"] for entry in entries),
        equal_weights=tuple(e["equal_weights_accuracy"] for e in entries if "equal_weights_accuracy" in e),
        best_worker=best,
        best_accuracy=None if best is None else workers[best],
        held_out=None if trained is None or equal is None else (trained, equal),
        num_examples=document.get("num_examples", 0),
        held_out_text=f"{counted(validation.num_examples, 'example')} held out{earlier}",
    )


# --- growth ---------------------------------------------------------------------------------------------------------

Growth: TypeAlias = Sequence[tuple[float, float]]
"""Similarity on held-out examples by the number of examples learned from, in rising order of that number."""


def growth_of(sessions: Iterable[TrainingSession]) -> Growth:
    """Return the similarity on held-out examples after each training that had new examples.

    The point at 0 is the untrained ensemble, in which all workers have equal shares.
    """
    learned: set[str] = set()
    points: list[tuple[float, float]] = []
    for session in completed_sessions(sessions):
        is_new = not learned.issuperset(session.training_ids)
        learned.update(session.training_ids)
        before, after = means_before_and_after(stored_validation(session))
        if is_new and after is not None:
            if not points and before is not None:
                points.append((0.0, before))
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
    scores: tuple[float | None, ...]
    """Per example; None where it failed."""
    differences: tuple[float | None, ...]
    """Per example, its accuracy minus that of the best worker; None where one of the two failed."""
    comparison: Comparison | None
    """Comparison with the best worker; None for the best worker itself."""

    @property
    def failures(self) -> int:
        """On how many examples it gave no picture."""
        return self.scores.count(None)


def accuracy_rows(table: ScoreTable, rope: float = DEFAULT_ROPE) -> list[AccuracyRow]:
    """Return a row for each worker, the best first: the greatest mean accuracy, a failure counting 0.

    Args:
        table: Scores of all workers on the same examples.
        rope: Half the width of the region of practical equivalence.
    """

    def rank(name: str) -> tuple[float, str]:
        return -(_mean(table.group_means([score or 0.0 for score in table.column(name)])) or 0.0), name

    names = sorted(table.scores, key=rank)
    return [_accuracy_row(table, name, names[0], rope) for name in names]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _accuracy_row(table: ScoreTable, name: str, best: str, rope: float) -> AccuracyRow:
    scores = table.column(name)
    means = table.group_means(scores)
    pairs = zip(scores, table.column(best), strict=True)
    return AccuracyRow(
        worker_id=name,
        mean=_mean(means),
        interval=Posterior.of(means).interval() if len(means) >= MIN_EXAMPLES else None,
        scores=scores,
        differences=tuple(None if a is None or b is None else a - b for a, b in pairs),
        comparison=None if name == best else compare(table, name, best, rope=rope),
    )


def ranked_workers(explanation: Explanation) -> list[tuple[str, WorkerExplanation]]:
    """Return what each worker brings, the greatest share first."""
    return sorted(explanation["workers"].items(), key=lambda item: (-item[1]["share"], item[0]))


# --- baselines ------------------------------------------------------------------------------------------------------

Results: TypeAlias = ValidationResults | CrossValidationResults | TrainingResults | TrainingSession
"""Results that hold the scores of the baselines."""


def baseline_labels(judged: Judged) -> dict[Baseline, str]:
    """Return the names of the baselines in tables and plots; single workers with their ids, where these are known."""
    ids = {Baseline.BEST_SINGLE: judged.verdict["best_single"], Baseline.BEST_FIXED: judged.verdict["best_fixed"]}
    return {each: each.label if ids.get(each) is None else f"{each.label}: {ids[each]}" for each in SHOWN}


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

    @property
    def num_targets(self) -> int:
        """Number of different targets behind the gains."""
        return max((gain["n"] for gain in self.gains.values()), default=0)

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
    judged = results if isinstance(results, Judged) else _judged_part(results)
    rows = tuple(each for each in judged.per_example if Baseline.TRAINED in each["scores"])
    if not rows:
        raise InvalidArgumentError("results", judged.num_examples, "results whose pictures were judged")
    names = tuple(name for name in SHOWN if any(name in row["scores"] for row in rows))
    means: dict[Baseline, float] = {}
    for name in names:
        mean = judged.baselines[name]["mean"] if name in judged.baselines else None
        scores = [row["scores"][name] for row in rows if name in row["scores"]]
        means[name] = math.fsum(scores) / len(scores) if mean is None else mean  # where nothing was unseen, it is None
    has_unseen = any(row["is_unseen"] for row in rows)
    return Benchmark(
        names=names,
        labels=baseline_labels(judged),
        rows=rows,
        num_held_out=sum(each["is_unseen"] or not has_unseen for each in judged.per_example),
        means=means,
        delta_e={n: judged.baselines[n]["mean_delta_e"] if n in judged.baselines else None for n in names},
        gains=judged.verdict["comparisons"],
        rope=judged.verdict["rope"],
    )


def _judged_part(results: object) -> Judged:
    document = results.validation or {} if isinstance(results, TrainingSession) else results
    if isinstance(document, Mapping):
        document = document.get("validation", document)
    if not isinstance(document, Mapping) or "per_example" not in document:
        raise InvalidArgumentError("results", results, "what validate(), cross_validate() or train() returned")
    return (CrossValidation if "folds" in document else Validation).from_document(document)
