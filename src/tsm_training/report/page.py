"""The page: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np

from tsm_training._version import __version__
from tsm_training.analysis import MIN_EXAMPLES, Baseline
from tsm_training.arguments import check_path, check_text, check_whole_number
from tsm_training.arrays import Image
from tsm_training.engine import Explanation, TrainingEngine
from tsm_training.ensemble import NEGLIGIBLE_SHARE
from tsm_training.errors import InvalidArgumentError
from tsm_training.files import replace_file
from tsm_training.lint import LintReport
from tsm_training.report.charts import COLORS, Scale, Series, interval_bar, legend, line_chart
from tsm_training.report.collect import ReportData, collect, last_part
from tsm_training.report.figures import (
    Benchmark,
    Growth,
    WeightPath,
    example_names,
    foremost,
    growth_of,
    guide_band,
    learning_curve,
    ranked_weights,
    ranked_workers,
    weight_paths,
)
from tsm_training.report.pictures import (
    DEFAULT_ROWS,
    THUMBNAIL,
    SheetRow,
    color_strip_element,
    embedded,
    heat_scale,
    heat_top,
)
from tsm_training.report.style import STYLE
from tsm_training.report.tags import Child, Markup, breakable, joined, table, tag
from tsm_training.text import counted, figure_text, listed, percent_text, probability_text, seconds_text

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_LISTED: Final = 30
_COLORED: Final = 5
_DASHES: Final = {Baseline.EQUAL_WEIGHTS: "7 4", Baseline.BEST_SINGLE: "2 4"}

_DECISIONS: Final[Mapping[str, tuple[str, str, str]]] = {
    "ship": ("ship", "✓", "Ship"),
    "don't ship": ("dont", "✗", "Don't ship"),
    "no gain": ("none", "=", "No gain"),
    "collect more": ("more", "+", "Collect more"),
}
"""Class, sign and words of each decision: never the colour alone."""


def report_page(
    engine: TrainingEngine,
    *,
    title: str = "Training report",
    findings: LintReport | None = None,
    example_ids: Sequence[str] | None = None,
    rows: int = DEFAULT_ROWS,
) -> str:
    """Return a report as one HTML document; see `TrainingManager.report`.

    Args:
        engine: The manager's engine.
        title: Heading of the page.
        findings: What a check of the dataset has found; None says that it was not checked.
        example_ids: Which examples to show in pictures; None for the worst and the best of those held out.
        rows: How many of the worst and how many of the best, at least 1.

    Raises:
        InvalidArgumentError: an argument is not what it must be.
        ExampleNotFoundError: an id is not stored.
        ImageError: an example that was asked for cannot be read.
        TsmTrainingError: as for `TrainingEngine.explain`.
    """
    check_text("title", title)
    data = collect(engine, title, findings, example_ids, check_whole_number("rows", rows))
    head = [
        tag("meta", charset="utf-8"),
        tag("title", title),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content="tsm_training"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("style", Markup(STYLE)),
    ]
    page = tag(
        "html",
        tag("head", head),
        tag("body", tag("main", [joined("\n", section(data)) for section in _SECTIONS]), _footer()),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def write_report(path: str | os.PathLike[str], page: str) -> None:
    """Write a page to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    replace_file(check_path("path", path), page.encode())


# --- sections -------------------------------------------------------------------------------------------------------


def _section(heading: str, *children: Any) -> Markup:
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower())
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def _header(data: ReportData) -> Markup:
    made = f"{last_part(data.engine.store.location)}, {data.made_at:%Y-%m-%d %H:%M} UTC, tsm_training {__version__}"
    return tag("header", tag("h1", data.title), tag("p", made, class_="soft"))


_TO_COLLECT: Final = (
    "Add them and call validate(): it judges on every example that was not used for training. "
    "Training again first would use most of them."
)
_NOTHING_HELD_OUT: Final = "Nothing was held out, so nothing tells how the ensemble does on pictures it has not seen."


def _verdict(data: ReportData) -> Markup:
    validation, session = data.validation, data.session
    verdict = None if validation is None else validation.verdict
    if verdict is not None:
        kind, sign, words = _DECISIONS[verdict["decision"]]
        sentence = verdict["sentence"]
    else:
        kind, sign, words = "more", "+", "No verdict"
        sentence = "Nothing was trained yet: train() learns from the examples and judges the result."
        if session is not None:
            sentence = "This training was not judged beside its baselines: validate() does it now."
    if session is not None and not session.validation_ids:
        sentence = f"{_NOTHING_HELD_OUT} {sentence}"
    decision = tag("p", tag("span", sign, aria_hidden="true"), " ", words, class_="decision")
    heading = tag("h2", "Are these weights worth shipping?", id="verdict")
    advice = tag("p", _TO_COLLECT) if verdict is not None and verdict["decision"] == "collect more" else ""
    classes = f"verdict {kind}"
    return tag("section", heading, decision, tag("p", sentence), advice, class_=classes, aria_labelledby="verdict")


def _facts(data: ReportData) -> Markup:
    benchmark, session, counts = data.benchmark, data.session, data.engine.store.get_dataset_stats()
    workers = len(data.engine.weight_learner.get_all_statistics())
    numbers = {"example": counts["total_examples"], "worker": workers, "training": counts["total_sessions"]}
    facts = [(counted(number, noun).partition(" ")[2], str(number)) for noun, number in numbers.items()]
    if session is not None:
        facts += [("learned from", str(session.num_examples)), ("held out", str(len(session.validation_ids)))]
        validation = data.validation
        if validation is not None and validation.unseen_examples < len(session.validation_ids):
            facts.append(("never learned from", str(validation.unseen_examples)))
    if benchmark is not None:
        if len(benchmark.judged) < benchmark.num_held_out:
            facts.append(("judged", f"{len(benchmark.judged)} of {benchmark.num_held_out}"))
        facts.append(("similarity reached", figure_text(benchmark.means[Baseline.TRAINED])))
        if benchmark.delta_e[Baseline.TRAINED] is not None:
            facts.append(("mean ΔE00", figure_text(benchmark.delta_e[Baseline.TRAINED], 2)))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")


def _baselines(data: ReportData) -> Markup | None:
    benchmark = data.benchmark
    if benchmark is None:
        return None
    values = [0.0, *(gain for name in benchmark.names[1:] for gain in benchmark.differences(name))]
    scale = Scale.of([*values, *(end for gain in benchmark.gains.values() for end in gain["interval"] or ())])
    rows = [
        [
            breakable(benchmark.labels[name]),
            figure_text(benchmark.means[name]),
            figure_text(benchmark.delta_e[name], 2),
            _gain(benchmark, name, scale),
        ]
        for name in benchmark.names
    ]
    columns = {"baseline": "", "similarity": "number", "ΔE00": "number", "gain of the trained ensemble": "gain"}
    shown = table(_baselines_words(benchmark), columns, rows)
    marks = "Dots are single examples."
    if benchmark.rope:
        marks += f" Within the grey band (up to {benchmark.rope:g}) a difference is practically none."
    return _section("The trained ensemble and its baselines", shown, tag("p", marks, class_="soft"))


def _baselines_words(benchmark: Benchmark) -> str:
    examples = benchmark.examples_text
    if not any(row["is_unseen"] for row in benchmark.rows):
        return f"Mean similarity to the ground truth on {examples}, all of them learned from: it flatters the ensemble."
    targets = max((gain["n"] for gain in benchmark.gains.values()), default=0)
    words = (
        f"Mean similarity and colour difference ΔE00 (about 1 can be seen) to the ground truth on {examples} never "
        f"learned from, each of their {counted(targets, 'target')} counting once, and what the trained ensemble gains "
        "over each baseline"
    )
    short = [benchmark.labels[name] for name in benchmark.names if len(benchmark.scores(name)) < len(benchmark.judged)]
    if short:
        words += f", on fewer examples for want of pictures over {listed(short)}"
    if targets < MIN_EXAMPLES:
        return f"{words}. Intervals and probabilities need {MIN_EXAMPLES} targets."
    return f"{words}: mean, 90 % interval, and probability that it is better."


def _gain(benchmark: Benchmark, name: Baseline, scale: Scale) -> Markup | str:
    gain = benchmark.gains.get(name)
    if gain is None or gain["mean_difference"] is None:
        return "" if name is Baseline.TRAINED else "–"
    mean, ends, sure = gain["mean_difference"], gain["interval"], gain["probability_better"]
    words = figure_text(mean, signed=True, ends=ends)
    chance = "" if sure is None else tag("span", f"P(better) {probability_text(sure)}", class_="soft")
    dots = benchmark.differences(name)
    bar = interval_bar(scale, mean, ends, reference=0.0, band=benchmark.rope, dots=dots)
    return _measure([words, tag("br"), chance], bar)


def _measure(figures: Any, bar: Markup) -> Markup:
    return tag("div", tag("span", figures, class_="figures"), bar, class_="measure")


def _growth(data: ReportData) -> Markup | None:
    points = growth_of(data.sessions)
    # One point is no curve.
    return _section("What examples bring", growth_chart(points)) if len(points) > 1 else None


def growth_chart(points: Growth) -> Markup:
    """Return a chart of the similarity on held-out examples over the number of examples, before the guide's band.

    Args:
        points: At least one pair: number of examples learned from, similarity in [0, 1].
    """
    band = guide_band(max(count for count, _similarity in points))
    middle = [(count, (low + high) / 2) for count, low, high in band]
    series = [
        Series("trained ensemble", list(points), COLORS[0]),
        Series("what the guide expects", middle, COLORS[2], dashes="2 4", bands=[band], is_quiet=True),
    ]
    told = ", ".join(f"{figure_text(similarity)} after {count:g}" for count, similarity in points)
    description = f"Similarity on held-out examples by number of examples: {told}."
    words = (
        "Mean similarity of the ensemble's pictures to the ground truth on held-out examples; at 0 examples all "
        "workers have equal weights."
    )
    return _chart(series, series, description, "examples learned from", words)


def _chart(series: Sequence[Series], named: Sequence[Series], description: str, across: str, words: str) -> Markup:
    return tag("figure", line_chart(series, description, across), legend(named), tag("figcaption", words))


def _weights(data: ReportData) -> Markup | None:
    learner = data.engine.weight_learner
    ranked, shares = ranked_weights(learner.get_all_statistics()), learner.get_blend_weights()
    if not ranked:
        return None
    scale = Scale.of([1.0, *(end for _id, known in ranked for end in known["credible_interval"])])
    rows = []
    for worker_id, known in ranked:
        weight, ends = known["weight"], known["credible_interval"]
        figures, bar = figure_text(weight, ends=ends), interval_bar(scale, weight, ends, reference=1.0)
        rows.append([breakable(worker_id), _measure(figures, bar), percent_text(shares.get(worker_id))])
    words = (
        "Trust in each worker relative to its peers (1 = as accurate as the workers are on average) with the central "
        "90 % interval, and its share of the ensemble's picture."
    )
    shown = table(words, {"worker": "", "weight": "broad", "share": "number"}, rows)
    return _section("Weights", shown, _moves(weight_paths(data.sessions)) if len(data.sessions) > 1 else None)


def _moves(paths: Sequence[WeightPath]) -> Markup | None:
    if not paths:
        return None
    colored = dict(zip(foremost([path.worker_id for path in paths], _COLORED), itertools.cycle(COLORS), strict=False))
    series = [
        Series(
            name=path.worker_id,
            points=[(point.place, point.weight) for point in path.points],
            color=colored.get(path.worker_id, "var(--quiet)"),
            bands=path.bands if path.worker_id in colored else (),
            is_quiet=path.worker_id not in colored,
        )
        for path in paths
    ]
    named = [each for each in series if not each.is_quiet]
    moves = "; ".join(
        f"{path.worker_id} ends at {figure_text(path.last)}" for path in paths if path.worker_id in colored
    )
    words = "Bands are central 90 % intervals."
    if len(named) < len(series):
        words += f" Thin lines: {counted(len(series) - len(named), 'other worker')}."
    description = f"Weights over the training sessions. {moves}."
    return joined(tag("h3", "How the weights moved"), _chart(series, named, description, "training sessions", words))


def _curve(data: ReportData) -> Markup | None:
    if data.session is None:
        return None
    try:
        curve = learning_curve(data.session)
    except InvalidArgumentError:  # a session of another application need not have a history
        return None
    series = [
        Series(
            name=line.name,
            points=list(zip(curve.epochs, line.values, strict=True)),
            color=COLORS[line.baseline.style],
            dashes=_DASHES.get(line.baseline),
        )
        for line in curve.lines
    ]
    ends = "; ".join(f"{line.name} ends at {figure_text(line.values[-1])}" for line in curve.lines)
    words = curve.words
    if curve.held_out is not None:
        trained, equal = (figure_text(value) for value in curve.held_out)
        words += f" On the {curve.held_out_text}: {trained} with trained weights, {equal} with equal ones."
    return _section("Learning curve", _chart(series, series, f"Accuracy after each epoch: {ends}.", "epoch", words))


# --- pictures -------------------------------------------------------------------------------------------------------


def _sheet(data: ReportData) -> Markup | None:
    rows = data.sheet
    if not rows:
        return None
    top = heat_top(rows)
    words = "Under the pictures: similarity to the ground truth, and mean colour difference ΔE00 (about 1 can be seen)."
    if any(row.is_shrunk for row in rows):
        words += " Large pictures were shrunk before the workers saw them."
    colors = embedded(heat_scale(THUMBNAIL, 8), "Colours of the difference, from black for none to pale yellow")
    ends = tag("div", tag("span", "0"), tag("span", f"ΔE00 {top / 2:g}"), tag("span", f"{top:g} and more"))
    shown = []
    for row in rows:
        cells = [_cell(row, *cell) for cell in row.cells(top)]
        shown.append(tag("div", tag("h3", row.title), tag("ul", cells, class_="pictures"), _reason(row), class_="row"))
    heading = "Pictures: where the ensemble was worst and best" if rows[0].rank else "Pictures"
    return _section(heading, tag("p", words, class_="soft"), shown, tag("div", colors, ends, class_="heat"))


def _reason(row: SheetRow) -> Markup | None:
    if row.because is None:
        return None
    words = tag("span", row.reason, " Colours of the target from dark to light, and below what becomes of them.")
    return tag("div", color_strip_element(row.because), words, class_="reason soft")


def _cell(row: SheetRow, heading: str, picture: Image | None, caption: str) -> Markup:
    shown = tag("div", "no picture", class_="none")
    if picture is not None:
        shown = embedded(picture, f"{heading} of example {row.name}")
    is_named = heading == "best single worker" and row.single_id is not None
    name = [tag("br"), breakable(row.single_id or "")] if is_named else None
    return tag("li", tag("figure", shown, tag("figcaption", tag("strong", heading), caption, name)))


# --- tables ---------------------------------------------------------------------------------------------------------


def _workers(data: ReportData) -> Markup | None:
    explanation = data.explanation
    if explanation is None:
        return None
    rows = [
        [
            breakable(worker_id),
            figure_text(known["solo_accuracy"]),
            percent_text(known["share"]),
            figure_text(known["gain"], 4, signed=True),
            breakable(known["most_similar_to"] or "–"),
            figure_text(known["redundancy"], 2),
            percent_text(known["failure_rate"]),
            seconds_text(known["mean_seconds"]),
        ]
        for worker_id, known in ranked_workers(explanation)
    ]
    names = ("alone", "share", "gain", "most alike", "how much", "failed", "time")
    columns = {"worker": ""} | dict.fromkeys(names, "number") | {"most alike": "name"}
    examples = f"On {counted(explanation['num_examples'], 'example')}"
    words = (
        "Alone: mean similarity of the worker's own pictures. Gain: how much less similar the ensemble's pictures are "
        "without it. Most alike: the worker whose errors are most like its own, and their correlation. Failed: on how "
        "many of the examples. Time: mean, for a picture."
    )
    if data.benchmark is not None:
        words += (
            " Here each example counts once, and whole pictures were compared; the baselines above were judged on "
            "previews, each target counting once."
        )
    # It may be wider than the window; users of a keyboard must be able to move it, too.
    shown = tag("section", table(examples, columns, rows), class_="wide", tabindex=0, aria_label="Table of workers")
    hint = tag("p", "The table is wider than this window: move it sideways.", class_="soft sideways")
    return _section("What each worker brings", tag("p", words, class_="soft"), hint, shown, _subset(explanation))


def _subset(explanation: Explanation) -> Markup | None:
    subset = explanation["subset"]
    if subset is None:
        return None
    used = sum(known["share"] >= NEGLIGIBLE_SHARE for known in explanation["workers"].values())
    if len(subset["workers"]) >= used:
        return tag("p", f"Of the {counted(used, 'worker')} in use, none can be spared.")
    names = [[", " if number else "", tag("strong", breakable(name))] for number, name in enumerate(subset["workers"])]
    loss = round(subset["loss"], 4)
    change = "no less similar" if loss <= 0.0 else f"{loss:.4f} less similar"
    saved = f", and {seconds_text(subset['seconds_saved'])} saved for each."
    return tag("p", "The ensemble would do with ", names, f": its pictures would be {change}{saved}")


def _dataset(data: ReportData) -> Markup:
    findings = data.findings
    if findings is None:
        return _section("The dataset", tag("p", "It was not checked for faults."))
    checked = counted(findings.num_examples, "example")
    if not findings.findings:
        return _section("The dataset", tag("p", f"Nothing was found in {checked}."))
    rows = []
    for each in findings:
        call = [" ", tag("code", breakable(data.public(each.call)))] if each.call else None
        severity = tag("span", each.severity, class_=f"severity {each.severity}")
        rows.append([severity, data.public(each.message), [data.public(each.remedy), call]])
    words = f"{counted(len(findings), 'finding')} in {checked}, the worst first."
    return _section("The dataset", _first_rows(words, {"severity": "short", "what": "", "what to do": ""}, rows))


def _first_rows(words: str, columns: Mapping[str, str], rows: Sequence[Sequence[Child]]) -> list[Child]:
    left = len(rows) - _MOST_LISTED
    return [table(words, columns, rows[:_MOST_LISTED]), tag("p", f"And {left} more.") if left > 0 else None]


def _failures(data: ReportData) -> Markup:
    tried: Counter[str] = Counter()
    reasons: dict[str, list[str]] = {}
    for example in data.examples:
        for worker_id, outcome in (example.worker_results or {}).items():
            tried[worker_id] += 1
            if not outcome["is_valid"]:
                reasons.setdefault(worker_id, []).append(outcome["error"] or "no reason was given")
    parts: list[Child] = []
    if reasons:
        ranked = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
        rows = [[breakable(w), f"{len(each)} of {tried[w]}", data.public(each[0])] for w, each in ranked]
        words = "Workers that gave no usable picture, with the reason of the first time."
        parts += _first_rows(words, {"worker": "", "failed on": "short", "reason": ""}, rows)
    if data.session is not None and data.session.skipped:
        names = example_names([example.example_id for example in data.examples], data.examples)
        skipped = data.session.skipped.items()
        rows = [[breakable(names.get(each, each)), data.public(reason)] for each, reason in skipped]
        parts += _first_rows("Examples that the newest training could not use.", {"example": "", "reason": ""}, rows)
    return _section("Failures", parts or tag("p", "No worker failed, and no example was skipped."))


def _settings(data: ReportData) -> Markup:
    session, engine = data.session, data.engine
    learner: Any = engine.weight_learner
    solver: Any = engine.blend_solver
    fitted = engine.weight_learner.blend_of(engine.weight_learner.state)
    settings = {
        "metric": engine.judge.name,
        "learning rate (alpha)": f"{learner.alpha:g}",
        "prior strength": f"{learner.prior_strength:g}" if hasattr(learner, "prior_strength") else None,
        "practically equal": f"up to {engine.rope:g}",
        "blend solver": solver if isinstance(solver, str) else solver.name,
        "chosen solver": None if fitted is None else fitted.solver,
    }
    if session is not None:
        settings |= {
            "epochs": str(session.epochs),
            "validation split": None if session.validation_split is None else f"{session.validation_split:g}",
            "seed": None if session.seed is None else str(session.seed),
            "grouped by": session.group_by,
            "session": session.session_id,
            "trained at": f"{session.start_time:%Y-%m-%d %H:%M} UTC",
        }
    versions = {
        "tsm_training": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    rows = [(name, value) for name, value in settings.items() if value is not None]
    return _section(
        "Settings and versions",
        table("How the newest training was done, and what judges.", {"setting": "", "value": ""}, rows),
        table("What it was made with.", {"part": "", "version": ""}, versions.items()),
    )


def _footer() -> Markup:
    words = "This file needs nothing else: it holds its pictures, loads nothing, and runs no script."
    return tag("footer", words, f" Made by tsm_training {__version__}.")


_SECTIONS: Final = (
    _header,
    _verdict,
    _facts,
    _baselines,
    _growth,
    _weights,
    _curve,
    _sheet,
    _workers,
    _dataset,
    _failures,
    _settings,
)
"""In this order; what has nothing to show gives None."""
