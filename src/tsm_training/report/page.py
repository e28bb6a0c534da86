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
from tsm_training.analysis import MIN_EXAMPLES, Baseline, VerdictDocument
from tsm_training.arguments import check_path, check_text, check_whole_number
from tsm_training.arrays import Image
from tsm_training.engine import Leaderboard, LeaderboardRow, TrainingEngine
from tsm_training.ensemble import NEGLIGIBLE_SHARE
from tsm_training.files import replace_file, system_reason
from tsm_training.lint import LintFinding, LintReport
from tsm_training.report.charts import COLORS, QUIET, Scale, Series, axis, interval_bar, legend, line_chart
from tsm_training.report.collect import ReportData, collect, last_part
from tsm_training.report.figures import (
    Growth,
    SessionLike,
    WeightPath,
    example_names,
    foremost,
    growth_of,
    guide_band,
    learning_curve,
    stored_validation,
    weight_paths,
)
from tsm_training.report.pictures import (
    DEFAULT_ROWS,
    THUMBNAIL,
    SheetRow,
    color_strip_element,
    embedded,
    heat_scale,
    heat_scale_texts,
    heat_top,
)
from tsm_training.report.style import STYLE
from tsm_training.report.tags import Child, Markup, breakable, joined, table, tag
from tsm_training.text import counted, figure_text, percent_text, probability_text, seconds_text

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_LISTED: Final = 30
_MOST_SESSIONS: Final = 10
_MOST_WEIGHTS: Final = 3
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
        TsmTrainingError: as for `tsm_training.report.contact_sheet`.
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
    try:
        replace_file(check_path("path", path), page.encode())
    except OSError as error:  # it names a file that stood there for a moment
        reason = f"the report cannot be written: {system_reason(error)}"
        raise OSError(error.errno, reason, os.fspath(path)) from error


# --- sections -------------------------------------------------------------------------------------------------------


def _section(heading: str, *children: Any) -> Markup:
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower())
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def _header(data: ReportData) -> Markup:
    counts = data.engine.store.get_dataset_stats()
    workers = len(data.engine.weight_learner.get_all_statistics())
    numbers = {"example": counts["total_examples"], "worker": workers, "training": counts["total_sessions"]}
    made = f"{last_part(data.engine.store.location)}, {data.made_at:%Y-%m-%d %H:%M} UTC, tsm_training {__version__}"
    told = [made, *(counted(number, noun) for noun, number in numbers.items())]
    return tag("header", tag("h1", data.title), tag("p", ", ".join(told), class_="soft"))


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


def _headline(data: ReportData) -> Markup | None:
    validation, session = data.validation, data.session
    if session is None or validation is None:
        return None
    unseen, held_out = validation.unseen_examples, len(session.validation_ids)
    facts: list[tuple[str, str]] = []
    if validation.headline is not None:
        name = "similarity on unseen examples" if unseen else "similarity, on examples learned from"
        facts.append((name, figure_text(validation.headline)))
    means = {name: validation.baselines[name] for name in Baseline if name in validation.baselines and unseen}
    beside = [baseline for baseline in (Baseline.WITHOUT_GROUPS, Baseline.UNTOUCHED) if baseline in means]
    facts += [(baseline.label, figure_text(means[baseline]["mean"])) for baseline in beside]
    for baseline, name in ((Baseline.TRAINED, "mean ΔE00"), (Baseline.UNTOUCHED, "ΔE00, untouched target")):
        if baseline in means:
            facts.append((name, figure_text(means[baseline]["mean_delta_e"], 2)))
    facts += [("learned from", str(session.num_examples)), ("held out", str(held_out))]
    if unseen < held_out:
        facts.append(("never learned from", str(unseen)))
    if (judged := validation.ensemble_examples) < validation.num_examples:
        facts.append(("judged", f"{judged} of {validation.num_examples}"))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")


def _ranking(data: ReportData) -> Markup | None:
    if not data.board.rows:
        return None
    verdict = None if data.validation is None else data.validation.verdict
    hint = tag("p", "The table is wider than this window: move it sideways.", class_="soft sideways")
    return _section("Leaderboard", hint, leaderboard_table(data.board, verdict))


def leaderboard_table(board: Leaderboard, verdict: VerdictDocument | None = None) -> Markup:
    """Return a leaderboard as a table with bars; workers without a share are folded, but for the best single one.

    Args:
        board: At least one row.
        verdict: The verdict on the same training, which knows the intervals of some gains.
    """
    gains: dict[str | None, Any] = {}
    if verdict is not None:
        ids = {Baseline.BEST_SINGLE: verdict["best_single"], Baseline.BEST_FIXED: verdict["best_fixed"]}
        gains = {ids.get(Baseline(n), Baseline(n).label): each for n, each in verdict["comparisons"].items()}
    ends = [end for row in board.rows for end in (row.similarity, row.low, row.high) if end is not None]
    scale = Scale.of(ends or [0.0, 1.0])
    untouched = next((row.similarity for row in board.rows if row.name == Baseline.UNTOUCHED.label), None)

    def cells(row: LeaderboardRow) -> list[Child]:
        interval = None if row.low is None or row.high is None else (row.low, row.high)
        weights = None if row.weight_low is None or row.weight_high is None else (row.weight_low, row.weight_high)
        bar = None
        if row.similarity is not None:
            color = {"ensemble": COLORS[0], "baseline": COLORS[1]}.get(row.kind, QUIET)
            bar = interval_bar(scale, row.similarity, interval, reference=untouched, color=color)
        gain, ends, chance = row.gain, None, None
        if (known := gains.get(row.name)) is not None and known["mean_difference"] is not None:
            gain, ends, chance = known["mean_difference"], known["interval"], known["probability_better"]
        sure = None if chance is None else [" ", tag("span", probability_text(chance, "P"), class_="soft")]
        return [
            [
                breakable(row.name) if row.kind == "worker" else tag("strong", row.name),
                _below("best single worker" if row.name == board.best_single else None),
            ],
            [figure_text(row.similarity), _below(_interval(interval))],
            bar,
            [figure_text(gain, signed=True), sure, _below(_interval(ends, signed=True))],
            percent_text(row.share),
            [figure_text(row.weight), _below(_interval(weights))],
            "–" if row.failures is None else str(row.failures),
            seconds_text(row.seconds),
        ]

    def is_spare(row: LeaderboardRow) -> bool:
        return row.share is not None and row.share < NEGLIGIBLE_SHARE and row.name != board.best_single

    columns = {
        "name": "who",
        "similarity": "interval",
        axis(scale, "similarity as a bar"): "broad",
        "ensemble's gain": "gain interval",
    }
    columns |= {"share": "number", "weight": "interval", "failed": "number", "time": "number"}
    counts = f"{counted(board.num_examples, 'unseen held-out example')} of {counted(board.num_targets, 'target')}"
    words = (
        f"On {counts}, each target counting once: mean similarity to the ground truth, and what the trained ensemble "
        "gains over it (P: probability that it is better). Weight: trust in a worker, 1 being average. Below: 90 % "
        "intervals"
    )
    words += "." if board.num_targets >= MIN_EXAMPLES else f", of similarities from {MIN_EXAMPLES} targets on."
    if not board.num_examples:
        words = "No unseen held-out example was judged yet. Weight: trust in a worker, 1 being average."
    elif untouched is not None:
        words += " Upright line: the untouched target."
    used = [cells(row) for row in board.rows if not is_spare(row)]
    shown: list[Child] = [table("Workers and baselines", columns, used)]
    if spare := [cells(row) for row in board.rows if is_spare(row)]:
        name = f"{counted(len(spare), 'worker')} with a share of 0 %"
        shown.append(tag("details", tag("summary", name), table("Workers without a share", columns, spare)))
    return joined(tag("p", words, class_="soft"), _wide("Table of workers and baselines", shown, "ranking"))


def _interval(ends: Sequence[float] | None, *, signed: bool = False) -> str | None:
    return None if ends is None else " to ".join(figure_text(end, signed=signed) for end in ends)


def _below(text: str | None) -> list[Markup] | None:
    """Return what stands quietly below a figure."""
    return None if text is None else [tag("br"), tag("span", text, class_="soft")]


def _wide(name: str, shown: Child, kind: str = "") -> Markup:
    """Return what may be wider than the window; users of a keyboard must be able to move it, too."""
    return tag("div", shown, class_=f"wide {kind}".strip(), role="region", tabindex=0, aria_label=name)


def _learning(data: ReportData) -> Markup | None:
    points = growth_of(data.sessions)
    growth = growth_chart(points) if len(points) > 1 else None  # one point is no curve
    epochs = None
    if data.session is not None and any("avg_accuracy" in entry for entry in data.session.metrics_history):
        name = "Mean of the workers, weighted (guide), after each epoch"
        epochs = tag("details", tag("summary", name), epochs_chart(data.session), open="" if growth is None else None)
    return _section("Learning curve", growth, epochs) if growth or epochs else None


def growth_chart(points: Growth) -> Markup:
    """Return a chart of the similarity on held-out examples over the number of examples, before the guide's band.

    Args:
        points: At least one pair: number of examples learned from, similarity in [0, 1].
    """
    band = guide_band(max(count for count, _similarity in points))
    middle = [(count, (low + high) / 2) for count, low, high in band]
    series = [
        Series("trained ensemble", list(points), COLORS[0]),
        Series("what the guide promises", middle, COLORS[2], dashes="2 4", bands=[band], is_quiet=True),
    ]
    told = ", ".join(f"{figure_text(similarity)} after {count:g}" for count, similarity in points)
    description = f"Similarity on held-out examples by number of examples: {told}."
    (count, low, high), reached = band[-1], points[-1][1]
    words = (
        f"The guide promises {figure_text(low, 2)} to {figure_text(high, 2)} after {count:g} examples; here "
        f"{figure_text(reached)} was reached. Mean similarity of the ensemble's pictures to the ground truth on "
        "held-out examples; at 0 examples all workers have equal weights."
    )
    return _chart(series, series, description, "examples learned from", words)


def epochs_chart(session: SessionLike) -> Markup:
    """Return a chart of the guide's accuracy, the mean of the workers weighted by share, after each epoch.

    Args:
        session: A stored session, what ``train()`` returned, or the session in it.

    Raises:
        InvalidArgumentError: it is no session, or has no epochs.
    """
    curve = learning_curve(session)
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
    return _chart(series, series, f"Accuracy after each epoch: {ends}.", "epoch", words)


def _chart(series: Sequence[Series], named: Sequence[Series], description: str, across: str, words: str) -> Markup:
    told = tag("div", legend(named), tag("figcaption", words))
    return tag("figure", line_chart(series, description, across), told, class_="drawn")


def _sessions(data: ReportData) -> Markup | None:
    rows = []
    for session in data.sessions[: -_MOST_SESSIONS - 1 : -1]:
        validation, weights = stored_validation(session), session.final_weights
        untouched = None if validation is None else validation.baselines.get(Baseline.UNTOUCHED)
        ranked = sorted(weights, key=lambda worker_id: (-weights[worker_id], worker_id))[:_MOST_WEIGHTS]
        greatest = [[", " if number else "", breakable(w), f" {weights[w]:.3f}"] for number, w in enumerate(ranked)]
        rows.append(
            [
                f"{session.start_time:%Y-%m-%d %H:%M}",
                str(session.num_examples),
                figure_text(None if validation is None else validation.headline),
                figure_text(None if untouched is None else untouched["mean"]),
                "–" if validation is None else _DECISIONS[validation.verdict["decision"]][2],
                greatest,
            ]
        )
    if not rows:
        return None
    columns = {"trained at (UTC)": "short", "learned from": "number", "similarity": "number"}
    columns |= {"untouched target": "number", "verdict": "short", "greatest weights": "name"}
    words = "The newest first; each was judged on the examples that it held out."
    shown = _wide("Table of trainings", table("Trainings", columns, rows))
    return _section(
        "The last trainings",
        tag("p", words, class_="soft"),
        shown,
        _moves(weight_paths(data.sessions)) if len(rows) > 1 else None,
    )


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
    ends = tag("div", [tag("span", text) for text in heat_scale_texts(top)])
    shown = []
    for row in rows:
        cells = [_cell(row, *cell) for cell in row.cells(top)]
        shown.append(tag("div", tag("h3", row.title), tag("ul", cells, class_="pictures"), _reason(row), class_="row"))
    heading = "Pictures: where the ensemble was worst and best" if rows[0].rank else "Pictures"
    return _section(heading, tag("p", words, class_="soft"), tag("div", colors, ends, class_="heat"), shown)


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


_CALL_FOR_ALL: Final = "for found in manager.lint().of_kind({kind!r}): print(found.call)"
"""Shows the call for each of several findings."""


def _dataset(data: ReportData) -> Markup:
    findings = data.findings
    if findings is None:
        return _section("The dataset", tag("p", "It was not checked for faults."))
    checked = counted(findings.num_examples, "example")
    if not findings.findings:
        return _section("The dataset", tag("p", f"Nothing was found in {checked}."))
    kinds: dict[str, list[LintFinding]] = {}
    for each in findings:
        kinds.setdefault(each.kind, []).append(each)
    rows = []
    for kind, alike in kinds.items():
        first, *others = alike
        message: list[Child] = [data.public(first.message)]
        if others:
            listed = [tag("li", data.public(each.message)) for each in others[:_MOST_LISTED]]
            left = [tag("li", f"and {len(others) - len(listed)} more")] if len(others) > len(listed) else []
            message.append(
                tag("details", tag("summary", f"and {len(others)} more of this kind"), tag("ul", listed, left))
            )
        call = first.call if len({each.call for each in alike}) == 1 else _CALL_FOR_ALL.format(kind=kind)
        code = [" ", tag("code", breakable(data.public(call)))] if call else None
        severity = tag("span", first.severity, class_=f"severity {first.severity}")
        rows.append([severity, message, [data.public(first.remedy), code]])
    words = f"{counted(len(findings), 'finding')} in {checked}, the worst first."
    columns = {"severity": "short", "what": "", "what to do": ""}
    return _section("The dataset", table(words, columns, rows))


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
    _headline,
    _ranking,
    _learning,
    _sheet,
    _sessions,
    _dataset,
    _failures,
    _settings,
)
"""In this order; what has nothing to show gives None."""
