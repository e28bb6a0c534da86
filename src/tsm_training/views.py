"""What plots and reports show: figures that are sorted and ready to draw, whatever draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from statistics import NormalDist
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

import attrs
import numpy as np

from tsm_training.analysis import CONTENDERS as COMPARED
from tsm_training.analysis import DEFAULT_ROPE, MIN_EXAMPLES, TRAINED, Comparison, Posterior, ScoreTable, compare
from tsm_training.data import SessionDocument, TrainingExample, TrainingSession
from tsm_training.documents import TrainingResults
from tsm_training.engine import CrossValidationResults, TrainingEngine, ValidationResults
from tsm_training.errors import InvalidArgumentError
from tsm_training.markup import counted
from tsm_training.weights import CREDIBLE_MASS, LearnerStatistics

__all__ = [
    "CONTENDER_NAMES",
    "GUIDE_BAND",
    "AccuracyRow",
    "Contest",
    "ContestRow",
    "Growth",
    "Judged",
    "LearningCurve",
    "PathPoint",
    "SessionLike",
    "Trained",
    "WeightPath",
    "WeightRow",
    "accuracy_rows",
    "completed_sessions",
    "contender_labels",
    "contest_of",
    "example_names",
    "foremost",
    "growth_of",
    "guide_band",
    "learning_curve",
    "shortened",
    "target_name",
    "weight_paths",
    "weight_rows",
]

CONTENDER_NAMES: Final[Mapping[str, str]] = {
    "trained": "trained ensemble",
    "without_groups": "trained, without groups",
    "previous": "in use before",
    "equal_weights": "equal weights",
    "best_single": "best single worker",
    "best_fixed": "best fixed worker",
    "untouched": "untouched target",
}
"""What pictures call those that the trained ensemble competes with, in the order in which they are shown.

Fixed is who is not fitted on ground truths.
"""

GUIDE_BAND: Final = ((0.0, 0.75, 0.80), (10.0, 0.80, 0.85), (30.0, 0.85, 0.90), (100.0, 0.90, 0.95))
"""What the user guide expects ("Typical Training Progress"): number of examples, least and greatest similarity."""

HALF_WIDTH: Final = NormalDist().inv_cdf(0.5 + CREDIBLE_MASS / 2)
"""Half the width of a weight's credible interval, in standard deviations."""

_LONGEST_NAME: Final = 30
_SHORT_ID: Final = 8


@runtime_checkable
class Trained(Protocol):
    """Something with an engine: a `TrainingManager`."""

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
    """A worker's weight, how sure it is, and what follows from it."""

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
        statistics: What a learner knows, per worker id.
        shares: Of the ensemble's picture, per worker id.
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
    """In sessions: 2.5 is half-way through the third one's epochs."""
    weight: float
    std: float | None
    """Posterior standard deviation; None where it was not kept."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the central 90 % interval."""
        return None if self.std is None else (self.weight - HALF_WIDTH * self.std, self.weight + HALF_WIDTH * self.std)


@attrs.frozen
class WeightPath:
    """How a worker's weight moved over the sessions."""

    worker_id: str
    points: tuple[PathPoint, ...]
    """In order; two points at one place where something else than a training changed the weight there."""

    @property
    def last(self) -> float:
        """Where it ended."""
        return self.points[-1].weight


def weight_paths(sessions: Sequence[TrainingSession]) -> list[WeightPath]:
    """Return the way of each worker's weight through completed sessions, the greatest weight at the end first."""
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
    """Return those sessions whose weights were kept: the completed ones that were no trials."""
    return [session for session in sessions if session.status == "completed" and not session.is_trial]


def foremost(ranked: Sequence[str], most: int) -> list[str]:
    """Return the workers that are worth a colour of their own: the first so many, but of two or more also the last."""
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
    """The one that the ensemble was judged against, or else that with the greatest mean accuracy on the training
    examples; None where there are no figures of workers."""
    best_accuracy: float | None
    held_out: tuple[float, float] | None
    """Accuracy on the examples held out, trained and with equal weights; None where none were."""
    num_examples: int
    num_held_out: int
    num_unseen: int
    """Of those held out, how many no earlier training had learned from either."""

    @property
    def held_out_words(self) -> str:
        """Return how many were held out, and of how many an earlier training knew."""
        known = self.num_held_out - self.num_unseen
        earlier = f" ({known} of them learned from in an earlier training)" if known else ""
        return f"{counted(self.num_held_out, 'example')} held out{earlier}"


def learning_curve(session: SessionLike) -> LearningCurve:
    """Return the learning curve of a session.

    Raises:
        InvalidArgumentError: it is no session, or has no epochs.
    """
    document, validation = _session_parts(session)
    # What a stored session has depends on who wrote it.
    history = cast("list[dict[str, Any]]", document["metrics_history"])
    entries = [entry for entry in history if "avg_accuracy" in entry]
    if not entries:
        raise InvalidArgumentError("session", document.get("session_id"), "a session with epochs in its history")
    workers = entries[-1].get("worker_accuracies", {})
    best = _single_worker(validation, "best_single")
    if best not in workers:
        best = min(workers, key=lambda worker_id: (-(workers[worker_id] or 0.0), worker_id), default=None)
    held_out = (validation.get("avg_accuracy"), validation.get("equal_weights_accuracy"))
    return LearningCurve(
        epochs=tuple(entry.get("epoch", number) for number, entry in enumerate(entries, 1)),
        trained=tuple(entry["avg_accuracy"] for entry in entries),
        equal_weights=tuple(e["equal_weights_accuracy"] for e in entries if "equal_weights_accuracy" in e),
        best_worker=best,
        best_accuracy=None if best is None else workers[best],
        held_out=None if None in held_out else cast("tuple[float, float]", held_out),
        num_examples=document.get("num_examples", 0),
        num_held_out=validation.get("num_examples", 0),
        num_unseen=validation.get("unseen_examples", validation.get("num_examples", 0)),
    )


def _single_worker(validation: Mapping[str, Any], name: str) -> str | None:
    """Return the id of the best single, or best fixed, worker that the ensemble was judged against."""
    shares = (validation.get("contenders", {}).get(name) or {}).get("blend_weights") or {}
    judged = next((worker_id for worker_id, share in shares.items() if share == 1.0), None)
    return judged or (validation.get("verdict") or {}).get(name)


def contender_labels(validation: Mapping[str, Any]) -> dict[str, str]:
    """Return what to call the contenders of a validation: single workers by their ids, where these are known."""
    ids = {name: _single_worker(validation, name) for name in ("best_single", "best_fixed")}
    return {
        name: words if ids.get(name) is None else f"{words}: {ids[name]}" for name, words in CONTENDER_NAMES.items()
    }


def _session_parts(session: object) -> tuple[SessionDocument, Mapping[str, Any]]:
    if isinstance(session, TrainingSession):
        return session.to_summary(), session.validation or {}
    if isinstance(session, Mapping) and "session" in session:
        return session["session"], session.get("validation", {})
    if isinstance(session, Mapping) and "metrics_history" in session:
        return cast("SessionDocument", session), {}
    raise InvalidArgumentError("session", session, "a TrainingSession, or what train() returned")


# --- growth ---------------------------------------------------------------------------------------------------------

Growth: TypeAlias = Sequence[tuple[float, float]]
"""Similarity on held-out examples by the number of examples learned from, in rising order of that number."""


def growth_of(sessions: Iterable[TrainingSession]) -> Growth:
    """Return how the similarity on held-out examples grew: a point for each training that had new examples.

    The point at 0 is the untrained ensemble, all workers having equal shares.
    """
    learned: set[str] = set()
    points: list[tuple[float, float]] = []
    for session in completed_sessions(sessions):
        is_new = not learned.issuperset(session.training_ids)
        learned.update(session.training_ids)
        contenders = (session.validation or {}).get("contenders", {})
        before, after = (contenders.get(name, {}).get("mean") for name in ("equal_weights", TRAINED))
        if is_new and after is not None:
            if not points and before is not None:
                points.append((0.0, before))
            points.append((float(len(learned)), after))
    return points


def guide_band(most: float) -> list[tuple[float, float, float]]:
    """Return the band of the user guide from 0 to so many examples: number, least and greatest similarity."""
    counts, lows, highs = zip(*GUIDE_BAND, strict=True)
    places = [count for count in counts if count < most] + [most]
    return [(x, float(np.interp(x, counts, lows)), float(np.interp(x, counts, highs))) for x in places]


# --- workers --------------------------------------------------------------------------------------------------------


@attrs.frozen
class AccuracyRow:
    """What a worker scored, alone and beside the best one."""

    worker_id: str
    mean: float | None
    """Mean accuracy, each target counting once; None where it never gave a picture."""
    interval: tuple[float, float] | None
    """Central 90 % interval of the true mean; None below `MIN_EXAMPLES` targets."""
    scores: tuple[float | None, ...]
    """Per example; None where it failed."""
    differences: tuple[float | None, ...]
    """Per example, its accuracy less the best worker's on the same example; None where one of the two failed."""
    comparison: Comparison | None
    """With the best worker; None for that one itself."""

    @property
    def failures(self) -> int:
        """On how many examples it gave no picture."""
        return self.scores.count(None)


def accuracy_rows(table: ScoreTable, rope: float = DEFAULT_ROPE) -> list[AccuracyRow]:
    """Return a row for each worker, the best first: the greatest mean accuracy, a failure counting 0.

    Args:
        table: Scores of all workers on the same examples.
        rope: Which difference is practically none.
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


# --- contenders -----------------------------------------------------------------------------------------------------

Judged: TypeAlias = ValidationResults | CrossValidationResults | TrainingResults | TrainingSession
"""What holds the scores of all contenders: of a validation, a cross-validation or a training."""


@attrs.frozen
class ContestRow:
    """What every contender scored on one example."""

    example_id: str
    is_unseen: bool
    scores: Mapping[str, float]
    """By contender, in the order of `CONTENDER_NAMES`; those without a picture are missing, the trained ensemble never
    is."""


@attrs.frozen
class Contest:
    """All contenders on the same examples."""

    names: tuple[str, ...]
    """Who competes, in the order of `CONTENDER_NAMES`."""
    labels: Mapping[str, str]
    """What to call them: single workers by their ids."""
    rows: tuple[ContestRow, ...]
    """The examples on which the trained ensemble was judged, in order."""
    num_held_out: int
    """How many examples there are of the kind of `judged`, with or without pictures."""
    means: Mapping[str, float]
    """Of each contender over those of the `judged` rows that have its picture, each target counting once, as in the
    gains."""
    delta_e: Mapping[str, float | None]
    """Mean ΔE00 of the same pictures; None where it was not kept."""
    gains: Mapping[str, Mapping[str, Any]]
    """What the verdict says of the trained ensemble and each other contender, as documents; only of unseen examples."""
    rope: float | None
    """Which difference is practically none; None without a verdict."""

    @property
    def judged(self) -> tuple[ContestRow, ...]:
        """The rows that tell how good somebody is: the unseen ones, or all where none is."""
        return tuple(row for row in self.rows if row.is_unseen) or self.rows

    @property
    def words(self) -> str:
        """How many examples were judged, in words; of how many, where not all have pictures."""
        judged = len(self.judged)
        held_out = counted(self.num_held_out, "held-out example")
        return held_out if judged >= self.num_held_out else f"{judged} of {held_out}"

    def scores(self, name: str) -> list[float]:
        """Return what one contender scored on the `judged` examples that have its picture."""
        return [row.scores[name] for row in self.judged if name in row.scores]

    @property
    def num_targets(self) -> int | None:
        """How many different targets the gains are about; None where nothing was compared."""
        return max((gain["n"] for gain in self.gains.values()), default=None)

    def ranked(self) -> list[ContestRow]:
        """Return the rows, the best for the trained ensemble first."""
        return sorted(self.rows, key=lambda row: (-row.scores[TRAINED], row.example_id))

    def differences(self, name: str) -> list[float]:
        """Return how much more the trained ensemble scored than another contender, on each unseen example."""
        return [row.scores[TRAINED] - row.scores[name] for row in self.rows if row.is_unseen and name in row.scores]


def contest_of(results: Judged) -> Contest:
    """Return what the contenders scored.

    Raises:
        InvalidArgumentError: these are no results, or no contender's picture was judged.
    """
    document = _judged_part(results)
    judged = [each for each in document.get("per_example", ()) if TRAINED in each["scores"]]
    present = [name for name in CONTENDER_NAMES if any(name in each["scores"] for each in judged)]
    rows = tuple(
        ContestRow(
            each["example_id"], each["is_unseen"], {n: each["scores"][n] for n in present if n in each["scores"]}
        )
        for each in judged
    )
    if not rows:
        raise InvalidArgumentError("results", document.get("num_examples", 0), "results whose pictures were judged")
    verdict = document.get("verdict") or {}
    comparisons = verdict.get("comparisons", {})
    known = document.get("contenders", {})
    has_unseen = any(row.is_unseen for row in rows)
    return Contest(
        names=tuple(present),
        labels=contender_labels(document),
        rows=rows,
        num_held_out=sum(each["is_unseen"] or not has_unseen for each in document["per_example"]),
        means={name: _known_mean(known.get(name), rows, name) for name in present},
        delta_e={name: known.get(name, {}).get("mean_delta_e") for name in present},
        gains={name: comparisons[name] for name in COMPARED if name in comparisons},
        rope=verdict.get("rope"),
    )


def _known_mean(known: Mapping[str, Any] | None, rows: Sequence[ContestRow], name: str) -> float:
    """Return a contender's mean as its results say it; they say none where nothing was unseen."""
    mean = None if known is None else known["mean"]
    if mean is None:
        scores = [row.scores[name] for row in rows if name in row.scores]
        return math.fsum(scores) / len(scores)
    return float(mean)


def _judged_part(results: object) -> Mapping[str, Any]:
    if isinstance(results, TrainingSession):
        return results.validation or {}
    if isinstance(results, Mapping) and isinstance(results.get("validation"), Mapping):
        return cast("Mapping[str, Any]", results["validation"])
    if isinstance(results, Mapping) and "per_example" in results:
        return results
    raise InvalidArgumentError("results", results, "what validate(), cross_validate() or train() returned")
