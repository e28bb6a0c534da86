"""The plots themselves; matplotlib is imported here and in `tsm_training.plots.look`, nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tsm_training.markup import counted, percent_text
from tsm_training.plots.look import (
    BLUE,
    COLORS,
    CONTENDER_STYLES,
    FAINT,
    FONT_SIZE,
    GREY,
    INK,
    RULE,
    MarkStyle,
    Plot,
    caption,
    finished,
    heading,
    key,
    measure,
    name_column,
    name_rows,
    new_plot,
    rules,
    title,
    write,
)
from tsm_training.views import (
    AccuracyRow,
    Contest,
    ContestRow,
    Growth,
    LearningCurve,
    PathPoint,
    WeightPath,
    WeightRow,
    foremost,
    guide_band,
    shortened,
)

__all__ = ["draw_contest", "draw_curve", "draw_examples", "draw_growth", "draw_weights", "draw_workers"]

_ROW: Final = 0.26
"""Height of a row in inches."""
_FRAME: Final = 1.3
"""What stands above and below the rows, in inches."""
_LEAST_HEIGHT: Final = 2.4
_WIDE: Final = 4.2
"""Height of a plot of curves in inches."""
_DOT: Final = 5.5
_LONGEST_LABEL: Final = 44
_COLORED: Final = 5
"""So many bands can be told apart where they overlap."""


def _height(rows: int) -> float:
    return max(_LEAST_HEIGHT, _FRAME + _ROW * rows)


# --- weights --------------------------------------------------------------------------------------------------------


def draw_weights(rows: Sequence[WeightRow], paths: Sequence[WeightPath], colored: Sequence[str] | None) -> Plot:
    """Draw weights with their intervals, and how they moved; either may be empty, but not both."""
    ids = list(dict.fromkeys([row.worker_id for row in rows] + [path.worker_id for path in paths]))
    names = shortened(ids)
    if colored is None:
        colored = foremost([path.worker_id for path in paths], _COLORED)
    colors = dict(zip(colored, itertools.cycle(COLORS), strict=False))
    if rows and paths:
        plot, (left, right) = new_plot(11.0, _height(len(rows)), (1.0, 1.25))
    else:
        plot, (left,) = new_plot(7.5, _height(len(rows)) if rows else _WIDE)
        right = left
    if rows:
        _draw_intervals(left, rows, names, colors)
    if paths:
        _draw_paths(right, paths, names, colors)
    caption(plot, "Lines and bands: central 90 % intervals. 1 = as accurate as the workers are on average.")
    return finished(plot)


def _draw_intervals(axes: Axes, rows: Sequence[WeightRow], names: Mapping[str, str], colors: Mapping[str, str]) -> None:
    heading(axes, "How far each worker is trusted")
    measure(axes, "weight")
    name_rows(axes, [names[row.worker_id] for row in rows])
    axes.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), marker="", zorder=1)
    plain = BLUE if not colors else GREY
    for number, row in enumerate(rows):
        color = colors.get(row.worker_id, plain)
        _interval(axes, number, row.weight, (row.low, row.high), color)
    if any(row.share is not None for row in rows):
        _write_column(axes, "share", ["" if row.share is None else percent_text(row.share) for row in rows])


def _write_column(axes: Axes, name: str, cells: Sequence[str]) -> None:
    """Write a column of figures to the right of a panel's rows."""
    name_column(axes, 1.14, name)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "size": FONT_SIZE}
    for number, cell in enumerate(cells):
        if cell:
            write(axes, 1.14, number, cell, color=INK, **place)


def _interval(axes: Axes, row: float, middle: float, ends: tuple[float, float] | None, color: str) -> None:
    if ends is not None:
        axes.plot(ends, (row, row), color=color, linewidth=2.2, linestyle="-", solid_capstyle="round", marker="")
    axes.plot(
        [middle], [row], color=color, marker="o", markersize=_DOT, markeredgecolor=color, markeredgewidth=0.0, zorder=4
    )


def _draw_paths(axes: Axes, paths: Sequence[WeightPath], names: Mapping[str, str], colors: Mapping[str, str]) -> None:
    heading(axes, "How the weights moved")
    measure(axes, "training sessions", "weight")
    rules(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for path in reversed(paths):
        color = colors.get(path.worker_id)
        if color is not None:
            _draw_band(axes, path, color)
        axes.plot(
            [point.place for point in path.points],
            [point.weight for point in path.points],
            color=color or FAINT,
            linewidth=2.0 if color else 0.8,
            linestyle="-",
            marker="",
            zorder=3 if color else 2,
        )
    axes.set_xlim(0.0, max(point.place for path in paths for point in path.points))
    named = [path for path in paths if path.worker_id in colors]
    _name_ends(axes, {path.worker_id: path.last for path in named}, names, colors)
    if len(named) < len(paths):
        hidden = len(paths) - len(named)
        write(axes, 0.01, 0.01, f"grey: {hidden} other{'s' if hidden > 1 else ''}", transform=axes.transAxes)


def _draw_band(axes: Axes, path: WeightPath, color: str) -> None:
    """Draw the interval wherever it is known; between sessions without one there is a gap."""
    for is_known, run in itertools.groupby(path.points, key=lambda point: point.std is not None):
        points = list(run)
        if not is_known:
            continue
        lows, highs = zip(*(_ends(point) for point in points), strict=True)
        places = [point.place for point in points]
        axes.fill_between(places, lows, highs, color=color, alpha=0.1, linewidth=0.0, zorder=1)
        for edge in (lows, highs):
            axes.plot(places, edge, color=color, alpha=0.6, linewidth=0.8, linestyle=":", marker="", zorder=2)
        if len(points) == 1:
            axes.plot([places[0]] * 2, [lows[0], highs[0]], color=color, linewidth=1.2, linestyle="-", marker="")


def _ends(point: PathPoint) -> tuple[float, float]:
    return point.interval or (point.weight, point.weight)


def _name_ends(axes: Axes, ends: Mapping[str, float], names: Mapping[str, str], colors: Mapping[str, str]) -> None:
    """Name lines at their right ends, moved apart where they would stand over each other."""
    low, high = axes.get_ylim()
    height = axes.figure.bbox.height / axes.figure.dpi - _FRAME
    step = (high - low) * 1.45 * FONT_SIZE / 72.0 / height
    first, last = axes.get_xlim()
    gap = 0.05 * (last - first)
    order = sorted(ends, key=lambda name: (ends[name], name))
    places = _apart([ends[name] for name in order], step, low, high)
    for name, place in zip(order, places, strict=True):
        lead: dict[str, Any] = {"linewidth": 1.2, "linestyle": "-", "marker": "", "clip_on": False}
        axes.plot([last, last + gap], [ends[name], place], color=colors[name], **lead)
        write(axes, last + 1.2 * gap, place, names[name], color=INK, size=FONT_SIZE, ha="left", va="center")
    axes.set_xlim(first, last)
    axes.set_ylim(low, high)


def _apart(places: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return rising places moved so that neighbours are a step apart, as near as can be to where they were."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + step) if moved else max(place, low))
    ceiling = high
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], ceiling)
        ceiling = moved[number] - step
    return moved


def _thin(width: float) -> dict[str, Any]:
    return {"color": FAINT, "linewidth": width, "linestyle": "-", "marker": "", "alpha": 0.7, "zorder": 1}


# --- learning curve -------------------------------------------------------------------------------------------------


def draw_curve(curve: LearningCurve) -> Plot:
    """Draw accuracy after each epoch."""
    plot, (axes,) = new_plot(7.5, _WIDE)
    trained, equal, best = (CONTENDER_STYLES[name] for name in ("trained", "equal_weights", "best_single"))
    title(plot, "Learning curve")
    measure(axes, "epoch", "mean accuracy")
    rules(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    marks = [(_line(axes, curve.epochs, curve.trained, trained, "-"), "trained weights")]
    if len(curve.equal_weights) == len(curve.epochs):
        marks.append((_line(axes, curve.epochs, curve.equal_weights, equal, "--"), "equal weights"))
    if curve.best_worker is not None and curve.best_accuracy is not None:
        flat = [curve.best_accuracy] * len(curve.epochs)
        name = shortened([curve.best_worker])[curve.best_worker]
        marks.append((_line(axes, curve.epochs, flat, best, ":"), f"best single worker: {name}"))
    words = f"Mean accuracy on the {counted(curve.num_examples, 'training example')}, workers weighted by share."
    if curve.held_out is not None:
        words += f" On the right: the {curve.held_out_words}."
        _draw_held_out(axes, curve)
    key(axes, marks)
    caption(plot, words)
    return finished(plot)


def draw_growth(points: Growth) -> Plot:
    """Draw similarity on held-out examples over the number of examples learned from, before the guide's band."""
    plot, (axes,) = new_plot(7.5, _WIDE)
    title(plot, "What examples bring")
    measure(axes, "examples learned from", "similarity on held-out examples")
    rules(axes, "y")
    counts, values = zip(*points, strict=True)
    places, lows, highs = zip(*guide_band(max(counts)), strict=True)
    axes.fill_between(places, lows, highs, color=RULE, alpha=0.8, linewidth=0.0, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    _line(axes, counts, values, CONTENDER_STYLES["trained"], "-")
    step, free = 0.1 * max(counts), min(counts)
    for count, value in points:
        if count >= free:  # figures of near neighbours would stand over each other
            write(axes, count, value, f" {value:.3f}", ha="left", va="top", color=INK)
            free = count + step
    caption(plot, "Mean similarity of the ensemble's pictures; at 0 with equal weights. Band: what the guide expects.")
    return finished(plot)


def _line(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: MarkStyle, dashes: str) -> Line2D:
    (line,) = axes.plot(
        xs,
        ys,
        color=style.color,
        linewidth=2.0,
        linestyle=dashes,
        marker=style.marker,
        markersize=5.0,
        markerfacecolor=style.color,
        markeredgecolor=style.color,
        markeredgewidth=0.0,
    )
    return line


def _draw_held_out(axes: Axes, curve: LearningCurve) -> None:
    """Draw what held-out examples say beside the curve, apart from it: they are other examples."""
    first, last = min(curve.epochs), max(curve.epochs)
    width = max(1.0, last - first)
    place = last + 0.12 * width
    axes.axvspan(last + 0.06 * width, last + 0.18 * width, color=RULE, alpha=0.6, linewidth=0.0, zorder=0)
    for value, name in zip(curve.held_out or (), ("trained", "equal_weights"), strict=True):
        style = CONTENDER_STYLES[name]
        axes.plot([place], [value], **_dot(style, 7.0))
    axes.set_xlim(first - 0.04 * width, last + 0.2 * width)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    below = {
        "transform": axes.get_xaxis_transform(),
        "ha": "center",
        "va": "top",
    }  # where the epochs have their numbers
    write(axes, place, -0.025, "held out", **below)


def _dot(style: MarkStyle, size: float = _DOT, alpha: float = 1.0) -> dict[str, Any]:
    return {
        "color": style.color,
        "linestyle": "",
        "marker": style.marker,
        "markersize": size,
        "markerfacecolor": style.color,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "alpha": alpha,
        "zorder": 4,
    }


# --- workers --------------------------------------------------------------------------------------------------------


def draw_workers(rows: Sequence[AccuracyRow], rope: float) -> Plot:
    """Draw what each worker scored, and its difference from the best one on the same examples."""
    width, ratios = (11.0, (1.0, 1.0)) if len(rows) > 1 else (7.5, (1.0,))
    plot, (left, *others) = new_plot(width, _height(len(rows)), ratios)
    names = shortened([row.worker_id for row in rows])
    heading(left, "What each worker scored")
    measure(left, "accuracy")
    name_rows(left, [names[row.worker_id] for row in rows])
    for number, row in enumerate(rows):
        _dots(left, number, row.scores)
        if row.mean is not None:
            _interval(left, number, row.mean, row.interval, BLUE)
    if any(row.failures for row in rows):
        _write_column(left, "failed", [f"{row.failures}×" if row.failures else "" for row in rows])
    words = "Grey: single examples. Blue: mean and, from 8 targets on, its central 90 % interval."
    for axes in others:
        _draw_differences(axes, rows, rope)
        words += f" Band: practically equal (up to {rope:g})."
    caption(plot, words)
    return finished(plot)


def _draw_differences(axes: Axes, rows: Sequence[AccuracyRow], rope: float) -> None:
    heading(axes, "Difference from the first, example by example")
    measure(axes, "difference in accuracy")
    _name_no_rows(axes, len(rows))
    _draw_rope(axes, rope)
    for number, row in enumerate(rows[1:], 1):
        _dots(axes, number, row.differences)
        if row.comparison is not None and row.comparison.mean_difference is not None:
            _interval(axes, number, row.comparison.mean_difference, row.comparison.interval, BLUE)


def _name_no_rows(axes: Axes, rows: int) -> None:
    name_rows(axes, [""] * rows)


def _dots(axes: Axes, row: float, values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None]
    spread = [row + 0.2 * (2.0 * ((0.618 * number) % 1.0) - 1.0) for number in range(len(known))]
    dots: dict[str, Any] = {**_dot(MarkStyle(GREY, "o"), 3.6, alpha=0.35), "markeredgewidth": 0.0, "zorder": 2}
    axes.plot(known, spread, **dots)


def _draw_rope(axes: Axes, rope: float | None) -> None:
    if rope:
        axes.axvspan(-rope, rope, color=RULE, alpha=0.8, linewidth=0.0, zorder=0)
    axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle="-", marker="", zorder=1)


# --- contenders -----------------------------------------------------------------------------------------------------


def draw_contest(contest: Contest) -> Plot:
    """Draw what each contender scored, pairs linked, and what the trained ensemble gains over each."""
    names = contest.names
    plot, (left, right) = new_plot(11.0, max(_LEAST_HEIGHT, _FRAME + 0.5 * len(names)), (1.15, 1.0))
    heading(left, "What each contender scored")
    measure(left, "similarity to the ground truth")
    labels = shortened([contest.labels[name] for name in names], _LONGEST_LABEL)
    name_rows(left, [labels[contest.labels[name]] for name in names])
    rows = contest.judged
    for row in rows:
        places = [number for number, name in enumerate(names) if name in row.scores]
        left.plot([row.scores[names[number]] for number in places], places, **_thin(0.7))
    for number, name in enumerate(names):
        style = CONTENDER_STYLES[name]
        scores = contest.scores(name)
        left.plot(scores, [number] * len(scores), **_dot(style, 4.5, alpha=0.55))
        mean = contest.means[name]
        left.plot(
            [mean, mean], [number - 0.3, number + 0.3], color=INK, linewidth=2.0, linestyle="-", marker="", zorder=5
        )
    _draw_gains(right, contest)
    kind = "never learned from" if rows[0].is_unseen else "learned from"
    judged = counted(len(rows), "example") if len(rows) >= contest.num_held_out else contest.words
    words = f"Lines link the {judged} {kind}; black bars are means, each target counting once."
    caption(plot, f"{words} Right: mean and, from 8 targets on, 90 % interval; band: practically equal.")
    return finished(plot)


def _draw_gains(axes: Axes, contest: Contest) -> None:
    heading(axes, "What the trained ensemble gains over it")
    measure(axes, "difference on the same example")
    _name_no_rows(axes, len(contest.names))
    _draw_rope(axes, contest.rope)
    for number, name in enumerate(contest.names):
        if name == "trained":
            continue
        style = CONTENDER_STYLES[name]
        _dots(axes, number, contest.differences(name))
        gain = contest.gains.get(name)
        if gain is not None and gain["mean_difference"] is not None:
            _interval(axes, number, gain["mean_difference"], gain["interval"], style.color)


# --- examples -------------------------------------------------------------------------------------------------------


def draw_examples(contest: Contest, rows: Sequence[ContestRow], names: Sequence[str], left_out: int) -> Plot:
    """Draw what every contender scored on each example, a row for each."""
    plot, (axes,) = new_plot(8.5, _height(len(rows)) + 0.4)
    title(plot, "Every example, and what each contender scored on it")
    measure(axes, "similarity to the ground truth")
    short = shortened(names)
    name_rows(axes, [short[name] for name in names], [INK if row.is_unseen else GREY for row in rows])
    for number, row in enumerate(rows):
        scores = list(row.scores.values())
        axes.plot([min(scores), max(scores)], [number] * 2, **_thin(1.0))
    labels = shortened([contest.labels[name] for name in contest.names], _LONGEST_LABEL)
    marks = []
    for name in reversed(contest.names):  # the trained ensemble on top
        style = CONTENDER_STYLES[name]
        places = [number for number, row in enumerate(rows) if name in row.scores]
        (line,) = axes.plot([rows[number].scores[name] for number in places], places, **_dot(style, 6.0))
        marks.append((line, labels[contest.labels[name]]))
    key(axes, reversed(marks))
    words = "Best for the trained ensemble first."
    if left_out:
        words += f" {left_out} in the middle are left out."
    if not all(row.is_unseen for row in rows):
        words += " Grey names: learned from."
    caption(plot, words)
    return finished(plot)
