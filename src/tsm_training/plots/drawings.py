"""The plots themselves; matplotlib is imported here and in `tsm_training.plots.style`, nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from tsm_training.analysis import Baseline
from tsm_training.engine import ExampleJudgement
from tsm_training.plots.style import (
    BLUE,
    COLORS,
    FAINT,
    FONT_SIZE,
    GREY,
    INK,
    RULE,
    STYLES,
    MarkStyle,
    Plot,
    caption,
    key,
    name_curves,
    name_rows,
    new_plot,
    styled,
    title,
    write,
    write_column,
)
from tsm_training.report.figures import (
    AccuracyRow,
    Benchmark,
    Growth,
    LearningCurve,
    WeightPath,
    foremost,
    guide_band,
    ranked_weights,
    shortened,
)
from tsm_training.text import counted, figure_text, percent_text
from tsm_training.weights import LearnerStatistics

_ROW: Final = 0.26
"""Height of a row in inches."""
_FRAME: Final = 1.3
"""What stands above and below the rows, in inches."""
_LEAST_HEIGHT: Final = 2.4
_WIDE: Final = 4.2
"""Height of a plot of curves in inches."""
_LONGEST_LABEL: Final = 44
_COLORED: Final = 5
"""How many bands can be told apart where they overlap."""
_DASHES: Final = {Baseline.EQUAL_WEIGHTS: "--", Baseline.BEST_SINGLE: ":"}
_BEHIND: Final[dict[str, Any]] = {"color": FAINT, "alpha": 0.7, "zorder": 1}
"""Lines that link dots."""


def _height(rows: int) -> float:
    return max(_LEAST_HEIGHT, _FRAME + _ROW * rows)


def _interval(axes: Axes, row: float, middle: float, ends: Sequence[float] | None, color: str) -> None:
    if ends is not None:
        axes.plot(ends, (row, row), color=color, linewidth=2.2, solid_capstyle="round")
    axes.plot([middle], [row], color=color, marker="o", markersize=5.5, markeredgewidth=0.0, zorder=4)


def _dots(axes: Axes, row: float, values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None]
    spread = [row + 0.2 * (2.0 * ((0.618 * number) % 1.0) - 1.0) for number in range(len(known))]
    look: dict[str, Any] = {**MarkStyle(GREY, "o").dot(3.6, 0.35), "markeredgewidth": 0.0, "zorder": 2}
    axes.plot(known, spread, **look)


def _draw_rope(axes: Axes, rope: float) -> None:
    if rope:
        axes.axvspan(-rope, rope, color=RULE, alpha=0.8, linewidth=0.0, zorder=0)
    axes.axvline(0.0, color=GREY, linewidth=1.0, zorder=1)


def _new_curve(heading: str, across: str, up: str) -> tuple[Plot, Axes]:
    plot, (axes,) = new_plot(7.5, _WIDE)
    title(plot, heading)
    name_curves(axes, across, up)
    return plot, axes


def _curve(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: MarkStyle, dashes: str = "-") -> Any:
    look: dict[str, Any] = {"color": style.color, "marker": style.marker, "markersize": 5.0, "markeredgewidth": 0.0}
    (line,) = axes.plot(xs, ys, linewidth=2.0, linestyle=dashes, **look)
    return line


# --- weights --------------------------------------------------------------------------------------------------------


@styled()
def plot_weights(
    statistics: Mapping[str, LearnerStatistics],
    shares: Mapping[str, float],
    paths: Sequence[WeightPath],
    colored: Sequence[str] | None,
) -> Plot:
    """Draw weights with their intervals, and how they moved; statistics or paths may be empty, but not both."""
    rows = ranked_weights(statistics)
    names = shortened(dict.fromkeys([*(worker_id for worker_id, _known in rows), *(path.worker_id for path in paths)]))
    if colored is None:
        colored = foremost([path.worker_id for path in paths], _COLORED)
    colors = dict(zip(colored, itertools.cycle(COLORS), strict=False))
    if rows and paths:
        plot, panels = new_plot(11.0, _height(len(rows)), (1.0, 1.25))
    else:
        plot, panels = new_plot(7.5, _height(len(rows)) if rows else _WIDE)
    if rows:
        _draw_intervals(panels[0], rows, shares, names, colors)
    if paths:
        _draw_paths(panels[-1], paths, names, colors)
    caption(plot, "Lines and bands: central 90 % intervals. 1 = as accurate as the workers are on average.")
    return plot


def _draw_intervals(
    axes: Axes,
    rows: Sequence[tuple[str, LearnerStatistics]],
    shares: Mapping[str, float],
    names: Mapping[str, str],
    colors: Mapping[str, str],
) -> None:
    name_rows(axes, "How far each worker is trusted", "weight", [names[worker_id] for worker_id, _known in rows])
    axes.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    for number, (worker_id, known) in enumerate(rows):
        color = colors.get(worker_id, GREY if colors else BLUE)
        _interval(axes, number, known["weight"], known["credible_interval"], color)
    if shares:
        cells = [percent_text(shares[worker_id]) if worker_id in shares else "" for worker_id, _known in rows]
        write_column(axes, "share", cells)


def _draw_paths(axes: Axes, paths: Sequence[WeightPath], names: Mapping[str, str], colors: Mapping[str, str]) -> None:
    axes.set_title("How the weights moved")
    name_curves(axes, "training sessions", "weight", 8)
    for path in reversed(paths):
        places, weights = [point.place for point in path.points], [point.weight for point in path.points]
        color = colors.get(path.worker_id)
        if color is None:
            axes.plot(places, weights, color=FAINT, linewidth=0.8, zorder=2)
        else:
            _draw_bands(axes, path, color)
            axes.plot(places, weights, color=color, linewidth=2.0, zorder=3)
    axes.set_xlim(0.0, max(point.place for path in paths for point in path.points))
    ends = {path.worker_id: path.last for path in paths if path.worker_id in colors}
    _name_ends(axes, ends, names, colors)
    if hidden := len(paths) - len(ends):
        write(axes, 0.01, 0.01, f"grey: {counted(hidden, 'other')}", transform=axes.transAxes)


def _draw_bands(axes: Axes, path: WeightPath, color: str) -> None:
    for band in path.bands:
        places, lows, highs = zip(*band, strict=True)
        axes.fill_between(places, lows, highs, color=color, alpha=0.1, linewidth=0.0, zorder=1)
        for edge in (lows, highs):
            axes.plot(places, edge, color=color, alpha=0.6, linewidth=0.8, linestyle=":", zorder=2)
        if len(band) == 1:
            axes.plot(places * 2, lows + highs, color=color, linewidth=1.2)


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
        axes.plot([last, last + gap], [ends[name], place], color=colors[name], linewidth=1.2, clip_on=False)
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


# --- curves ---------------------------------------------------------------------------------------------------------


@styled()
def plot_learning_curve(curve: LearningCurve) -> Plot:
    """Draw accuracy after each epoch."""
    told = "" if curve.headline is None else f": similarity {figure_text(curve.headline)} on unseen examples"
    plot, axes = _new_curve(f"Learning curve{told}", "epoch", "mean of the workers, weighted (guide)")
    names = shortened([line.name for line in curve.lines], _LONGEST_LABEL)
    marks = []
    for line in curve.lines:
        style, dashes = STYLES[line.baseline.style], _DASHES.get(line.baseline, "-")
        marks.append((_curve(axes, curve.epochs, line.values, style, dashes), names[line.name]))
    words = curve.words
    if curve.held_out is not None:
        words += f" On the right: the {curve.held_out_text}."
        _draw_held_out(axes, curve.epochs, curve.held_out)
    key(axes, marks)
    caption(plot, words)
    return plot


def _draw_held_out(axes: Axes, epochs: Sequence[int], held_out: tuple[float, float]) -> None:
    """Draw what held-out examples say beside the curve, apart from it: they are other examples."""
    first, last = min(epochs), max(epochs)
    width = max(1.0, last - first)
    place = last + 0.12 * width
    axes.axvspan(last + 0.06 * width, last + 0.18 * width, color=RULE, alpha=0.6, linewidth=0.0, zorder=0)
    for value, style in zip(held_out, STYLES[:2], strict=True):
        axes.plot([place], [value], **style.dot(7.0))
    axes.set_xlim(first - 0.04 * width, last + 0.2 * width)
    # Where the epochs have their numbers:
    write(axes, place, -0.025, "held out", transform=axes.get_xaxis_transform(), ha="center", va="top")


@styled()
def plot_growth(points: Growth) -> Plot:
    """Draw similarity on held-out examples over the number of examples learned from, before the guide's band."""
    plot, axes = _new_curve("What examples bring", "examples learned from", "similarity on held-out examples")
    counts, values = zip(*points, strict=True)
    places, lows, highs = zip(*guide_band(max(counts)), strict=True)
    axes.fill_between(places, lows, highs, color=RULE, alpha=0.8, linewidth=0.0, zorder=0)
    _curve(axes, counts, values, STYLES[0])
    step, free = 0.1 * max(counts), min(counts)
    for count, value in points:
        if count >= free:  # figures of near neighbours would stand over each other
            write(axes, count, value, f" {value:.3f}", ha="left", va="top", color=INK)
            free = count + step
    caption(plot, "Mean similarity of the ensemble's pictures; at 0 with equal weights. Band: what the guide expects.")
    return plot


# --- workers --------------------------------------------------------------------------------------------------------


@styled()
def plot_workers(rows: Sequence[AccuracyRow], rope: float) -> Plot:
    """Draw what each worker scored, and its difference from the best one on the same examples."""
    width, ratios = (11.0, (1.0, 1.0)) if len(rows) > 1 else (7.5, (1.0,))
    plot, (left, *others) = new_plot(width, _height(len(rows)), ratios)
    names = shortened([row.worker_id for row in rows])
    name_rows(left, "What each worker scored", "accuracy", [names[row.worker_id] for row in rows])
    for number, row in enumerate(rows):
        _dots(left, number, row.scores)
        if row.mean is not None:
            _interval(left, number, row.mean, row.interval, BLUE)
    if any(row.failures for row in rows):
        write_column(left, "failed", [f"{row.failures}×" if row.failures else "" for row in rows])
    words = "Grey: single examples. Blue: mean and, from 8 targets on, its central 90 % interval."
    for right in others:
        heading = "Difference from the first, example by example"
        name_rows(right, heading, "difference in accuracy", [""] * len(rows))
        _draw_rope(right, rope)
        for number, row in enumerate(rows[1:], 1):
            _dots(right, number, row.differences)
            if row.comparison is not None and row.comparison.mean_difference is not None:
                _interval(right, number, row.comparison.mean_difference, row.comparison.interval, BLUE)
        words += f" Band: practically equal (up to {rope:g})."
    caption(plot, words)
    return plot


# --- baselines ------------------------------------------------------------------------------------------------------


@styled()
def plot_contenders(benchmark: Benchmark) -> Plot:
    """Draw what each baseline scored, pairs linked, and what the trained ensemble gains over each."""
    names, rows = benchmark.names, benchmark.judged
    plot, (left, right) = new_plot(11.0, max(_LEAST_HEIGHT, _FRAME + 0.5 * len(names)), (1.15, 1.0))
    labels = shortened([benchmark.labels[name] for name in names], _LONGEST_LABEL)
    name_rows(left, "What each baseline scored", "similarity to the ground truth", list(labels.values()))
    for row in rows:
        places = [number for number, name in enumerate(names) if name in row["scores"]]
        left.plot([row["scores"][names[number]] for number in places], places, linewidth=0.7, **_BEHIND)
    for number, name in enumerate(names):
        scores, mean = benchmark.scores(name), benchmark.means[name]
        left.plot(scores, [number] * len(scores), **STYLES[name.style].dot(4.5, 0.55))
        left.plot([mean, mean], [number - 0.3, number + 0.3], color=INK, linewidth=2.0, zorder=5)
    write_column(left, "mean", [figure_text(benchmark.means[name]) for name in names])
    name_rows(right, "What the trained ensemble gains over it", "difference on the same example", [""] * len(names))
    _draw_rope(right, benchmark.rope)
    for number, name in enumerate(names):
        if name is not Baseline.TRAINED:
            _dots(right, number, benchmark.differences(name))
        gain = benchmark.gains.get(name)
        if gain is not None and gain["mean_difference"] is not None:
            _interval(right, number, gain["mean_difference"], gain["interval"], STYLES[name.style].color)
    kind = "never learned from" if rows[0]["is_unseen"] else "learned from"
    judged = counted(len(rows), "example") if len(rows) >= benchmark.num_held_out else benchmark.examples_text
    words = f"Lines link the {judged} {kind}; black bars are means, each target counting once."
    caption(plot, f"{words} Right: mean and, from 8 targets on, 90 % interval; band: practically equal.")
    return plot


@styled()
def plot_examples(benchmark: Benchmark, rows: Sequence[ExampleJudgement], names: Sequence[str], left_out: int) -> Plot:
    """Draw what every baseline scored on each example, a row for each."""
    plot, (axes,) = new_plot(8.5, _height(len(rows)) + 0.4)
    title(plot, "Every example, and what each baseline scored on it")
    inks = [INK if row["is_unseen"] else GREY for row in rows]
    name_rows(axes, "", "similarity to the ground truth", list(shortened(names).values()), inks)
    for number, row in enumerate(rows):
        scores = [row["scores"][name] for name in benchmark.names if name in row["scores"]]
        axes.plot([min(scores), max(scores)], [number] * 2, linewidth=1.0, **_BEHIND)
    labels = shortened([benchmark.labels[name] for name in benchmark.names], _LONGEST_LABEL)
    marks = []
    for name in reversed(benchmark.names):  # the trained ensemble on top
        places = [number for number, row in enumerate(rows) if name in row["scores"]]
        scores = [rows[number]["scores"][name] for number in places]
        (line,) = axes.plot(scores, places, **STYLES[name.style].dot(6.0))
        marks.append((line, labels[benchmark.labels[name]]))
    key(axes, marks[::-1])
    words = "Best for the trained ensemble first."
    if left_out:
        words += f" {left_out} in the middle are left out."
    if not all(row["is_unseen"] for row in rows):
        words += " Grey names: learned from."
    caption(plot, words)
    return plot
