"""Plots for people, made with matplotlib (extra ``plots``).

Each function returns a new `matplotlib.figure.Figure`: ``figure.savefig("weights.png")`` writes it (``.svg`` and
``.pdf`` too), and a notebook shows it. They need no screen, no ``pyplot`` and no backend. The host's settings of
matplotlib have no effect on them and are as before when a call returns; threads that draw plots wait for each other.
Colours can be told apart by people with any kind of colour vision.

``tsm_training.report`` makes a page with smaller pictures of the same figures, for which matplotlib is not needed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tsm_training.analysis import DEFAULT_ROPE, ScoreTable, check_rope
from tsm_training.arguments import check_ids, check_whole_number, is_number
from tsm_training.data import TrainingExample, TrainingSession
from tsm_training.errors import InvalidArgumentError, MissingExtraError
from tsm_training.report.figures import (
    Growth,
    HasEngine,
    Results,
    SessionLike,
    WeightPath,
    accuracy_rows,
    benchmark_of,
    completed_sessions,
    example_names,
    growth_of,
    learning_curve,
    weight_paths,
)
from tsm_training.weights import LearnerStatistics, WeightLearner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_contenders", "plot_examples", "plot_growth", "plot_learning_curve", "plot_weights", "plot_workers"]

_Kind = TypeVar("_Kind")

_MOST_EXAMPLES = 60


def plot_weights(
    subject: HasEngine | WeightLearner | Mapping[str, LearnerStatistics] | Iterable[TrainingSession],
    *,
    highlight: Sequence[str] | None = None,
) -> Figure:
    """Plot the workers' weights with their 90 % credible intervals, and how they moved over the sessions.

    Args:
        subject: A `TrainingManager` for both; a learner, or its statistics, for the weights as they are; sessions for
            the way there. Trials and sessions that were not completed are left out. Sessions without standard
            deviations have no bands.
        highlight: Ids of the workers that get colours, seven of them different ones; unless given, the four with the
            greatest weights at the end and the one with the smallest.

    Raises:
        InvalidArgumentError: there is nothing to plot, or an id in `highlight` is unknown.
        MissingExtraError: the extra ``plots`` is not installed.
    """
    statistics, shares, paths = _weights_of(subject)
    if not statistics and not paths:
        raise InvalidArgumentError("subject", subject, "something with workers or completed sessions")
    known = statistics.keys() | {path.worker_id for path in paths}
    chosen = None if highlight is None else check_ids("highlight", highlight)
    if unknown := [worker_id for worker_id in chosen or () if worker_id not in known]:
        raise InvalidArgumentError("highlight", unknown, f"ids out of {', '.join(map(repr, sorted(known)))}")
    return _drawn("plot_weights", statistics, shares, paths, chosen)


def _weights_of(subject: object) -> tuple[Mapping[str, LearnerStatistics], Mapping[str, float], list[WeightPath]]:
    """Return statistics and shares of workers, and how their weights moved; what is not known is empty."""
    if isinstance(subject, HasEngine):
        engine = subject.training_engine
        engine.prepare_learner()
        statistics, shares, _ = _weights_of(engine.weight_learner)
        return statistics, shares, weight_paths(completed_sessions(engine.store.iterate_sessions()))
    if isinstance(subject, WeightLearner):
        return subject.get_all_statistics(), subject.get_blend_weights(), []
    wanted = {"weight", "credible_interval"}
    if isinstance(subject, Mapping) and all(
        isinstance(known, Mapping) and wanted <= known.keys() for known in subject.values()
    ):
        return subject, {}, []
    sessions = [subject] if isinstance(subject, TrainingSession) else _all_of(TrainingSession, subject)
    if sessions is None:
        raise InvalidArgumentError("subject", subject, "a TrainingManager, a learner, its statistics, or sessions")
    return {}, {}, weight_paths(completed_sessions(sessions))


def _all_of(kind: type[_Kind], things: object) -> list[_Kind] | None:
    """Return things as a list if all of them are of one kind, and None otherwise."""
    if not isinstance(things, Iterable):
        return None
    found = list(things)
    return found if all(isinstance(each, kind) for each in found) else None


def plot_learning_curve(session: SessionLike) -> Figure:
    """Plot the accuracy after each epoch: trained, with equal weights, and of the best single worker.

    Where examples were held out, what the trained ensemble and equal weights reach on those stands on the right.

    Args:
        session: A `TrainingSession`, or what ``train()`` returned.

    Raises:
        InvalidArgumentError: it is no session, or has no epochs.
        MissingExtraError: the extra ``plots`` is not installed.
    """
    return _drawn("plot_learning_curve", learning_curve(session))


def plot_growth(subject: HasEngine | Iterable[TrainingSession] | Growth) -> Figure:
    """Plot the similarity on held-out examples over the number of examples learned from, before the guide's band.

    Args:
        subject: A `TrainingManager`, or sessions: a point for each number of examples after which others were judged,
            and the untrained ensemble at 0. Or points of your own: pairs of a number of examples and a similarity.

    Raises:
        InvalidArgumentError: there are fewer than two points.
        MissingExtraError: the extra ``plots`` is not installed.
    """
    points = _growth_in(subject)
    if points is None or len(points) < 2:  # noqa: PLR2004 - one point is no curve
        expected = "a TrainingManager, sessions, or pairs (number of examples, similarity), with at least two points"
        raise InvalidArgumentError("subject", subject, expected)
    return _drawn("plot_growth", points)


def _growth_in(subject: object) -> Growth | None:
    if isinstance(subject, HasEngine):
        return growth_of(subject.training_engine.store.iterate_sessions())
    things = list(subject) if isinstance(subject, Iterable) else []
    if things and all(isinstance(each, TrainingSession) for each in things):
        return growth_of(things)
    return sorted((float(each[0]), float(each[1])) for each in things) if all(map(_is_point, things)) else None


def _is_point(thing: object) -> bool:
    """Tell whether this is a pair of a number of examples and a similarity."""
    if not isinstance(thing, Sequence) or len(thing) != 2 or not all(map(is_number, thing)):  # noqa: PLR2004
        return False
    return bool(0.0 <= thing[0] < math.inf and 0.0 <= thing[1] <= 1.0)


def plot_workers(
    subject: HasEngine | ScoreTable, *, example_ids: Sequence[str] | None = None, rope: float | None = None
) -> Figure:
    """Plot what each worker scored on each example, and how far it is from the best one on the same examples.

    Args:
        subject: A `TrainingManager`, whose workers run only where their results are not stored; or a table of scores.
        example_ids: On which examples; None for all. Only for a manager.
        rope: Which difference in accuracy is practically none, at least 0 and below 1; the engine's unless given.

    Raises:
        InvalidArgumentError: there is nothing to plot, or `rope` is out of its range.
        MissingExtraError: the extra ``plots`` is not installed.
        TsmTrainingError: as for `TrainingManager.compare`.
    """
    _drawings("plot_workers")  # before workers are run for nothing
    if isinstance(subject, HasEngine):
        engine = subject.training_engine
        store = engine.store
        ids = None if example_ids is None else check_ids("example_ids", example_ids)
        chosen = store.get_all_examples() if ids is None else [store.get_example(each) for each in ids]
        table, usual = engine.score_table(chosen), engine.rope
    elif isinstance(subject, ScoreTable):
        table, usual = subject, DEFAULT_ROPE
    else:
        raise InvalidArgumentError("subject", subject, "a TrainingManager or a ScoreTable")
    rope = usual if rope is None else check_rope(rope)
    rows = accuracy_rows(table, rope)
    if not rows:
        raise InvalidArgumentError("subject", subject, "a table with at least one worker")
    return _drawn("plot_workers", rows, rope)


def plot_contenders(results: Results) -> Figure:
    """Plot what the trained ensemble and its baselines scored on the same examples, and what it gains.

    The intervals are those of the verdict, which looks at examples that were never learned from only.

    Args:
        results: What ``train()``, ``validate()`` or ``cross_validate()`` returned, or a stored session.

    Raises:
        InvalidArgumentError: these are no results, or no pictures were judged.
        MissingExtraError: the extra ``plots`` is not installed.
    """
    return _drawn("plot_contenders", benchmark_of(results))


def plot_examples(results: Results, examples: Iterable[TrainingExample] = (), *, most: int = _MOST_EXAMPLES) -> Figure:
    """Plot what every baseline scored on each example, a row for each, the best first.

    Args:
        results: What ``train()``, ``validate()`` or ``cross_validate()`` returned, or a stored session.
        examples: Stored examples: rows are named after their target files, others after their ids.
        most: How many rows, at least 2; of more examples the best and the worst are shown.

    Raises:
        InvalidArgumentError: these are no results, or no pictures were judged, or `most` is too small.
        MissingExtraError: the extra ``plots`` is not installed.
    """
    most = check_whole_number("most", most, 2)
    benchmark = benchmark_of(results)
    known = _all_of(TrainingExample, examples)
    if known is None:
        raise InvalidArgumentError("examples", examples, "TrainingExamples")
    rows = benchmark.ranked()
    shown = rows if len(rows) <= most else [*rows[: most - most // 2], *rows[len(rows) - most // 2 :]]
    names = example_names([row["example_id"] for row in shown], known)
    return _drawn("plot_examples", benchmark, shown, list(names.values()), len(rows) - len(shown))


def _drawn(part: str, *data: object) -> Figure:
    """Return what the function of the same name draws from these figures."""
    figure: Figure = getattr(_drawings(part), part)(*data)
    return figure


def _drawings(part: str) -> Any:
    try:
        return importlib.import_module("tsm_training.plots.drawings")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise MissingExtraError("plots", part) from error
