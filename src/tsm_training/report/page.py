"""The page: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2

from tsm_training.analysis import CONTENDERS as COMPARED
from tsm_training.analysis import MIN_EXAMPLES, TRAINED
from tsm_training.arrays import Image
from tsm_training.ensemble import NEGLIGIBLE_SHARE
from tsm_training.markup import (
    COLORS,
    Markup,
    Scale,
    Series,
    breakable,
    counted,
    figure_text,
    image,
    interval_bar,
    interval_text,
    joined,
    legend,
    line_chart,
    listed,
    percent_text,
    probability_text,
    seconds_text,
    table,
    tag,
)
from tsm_training.report.contents import ReportContents
from tsm_training.report.growth import growth_chart
from tsm_training.report.sheet import SheetRow, fitted, heat_picture, heat_scale, heat_top
from tsm_training.report.style import STYLE
from tsm_training.views import Contest, WeightPath, foremost

__all__ = ["render"]

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_PICTURE_SIDE: Final = 320
_QUALITY: Final = 82
_MOST_LISTED: Final = 30
_COLORED: Final = 5

_DECISIONS: Final[Mapping[str, tuple[str, str, str]]] = {
    "ship": ("ship", "✓", "Ship"),
    "don't ship": ("dont", "✗", "Don't ship"),
    "no gain": ("none", "=", "No gain"),
    "collect more": ("more", "+", "Collect more"),
}
"""Class, sign and words of each decision: never the colour alone."""


def render(contents: ReportContents) -> str:
    """Return the report as a whole HTML document."""
    sections = [
        _header(contents),
        _verdict(contents),
        _facts(contents),
        _contenders(contents),
        _growth(contents),
        _weights(contents),
        _curve(contents),
        _sheet(contents.sheet),
        _workers(contents),
        _dataset(contents),
        _failures(contents),
        _settings(contents),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("title", contents.title),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content="tsm_training"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("style", Markup(STYLE)),
    ]
    page = tag(
        "html",
        tag("head", head),
        tag("body", tag("main", [joined("\n", section) for section in sections]), _footer(contents)),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


# --- sections -------------------------------------------------------------------------------------------------------


def _section(heading: str, *children: Any) -> Markup:
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower())
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def _header(contents: ReportContents) -> Markup:
    made = f"{contents.store}, {contents.made_at:%Y-%m-%d %H:%M} UTC, tsm_training {contents.versions['tsm_training']}"
    return tag("header", tag("h1", contents.title), tag("p", made, class_="soft"))


_TO_COLLECT: Final = (
    "Add them and call validate(): it judges by all that nothing was learned from. "
    "Training again first would learn from most of them."
)
_NOTHING_HELD_OUT: Final = "Nothing was held out, so nothing tells how the ensemble does on pictures it has not seen."


def _verdict(contents: ReportContents) -> Markup:
    verdict, session = contents.verdict, contents.session
    if verdict is not None:
        kind, sign, words = _DECISIONS[verdict["decision"]]
        sentence = verdict["sentence"]
    else:
        kind, sign, words = "more", "+", "No verdict"
        sentence = "Nothing was trained yet: train() learns from the examples and judges the result."
        if session is not None:
            sentence = "This training was not judged beside its contenders: validate() does it now."
    if session is not None and not session.validation_ids:
        sentence = f"{_NOTHING_HELD_OUT} {sentence}"
    decision = tag("p", tag("span", sign, aria_hidden="true"), " ", words, class_="decision")
    heading = tag("h2", "Are these weights worth shipping?", id="verdict")
    advice = tag("p", _TO_COLLECT) if verdict is not None and verdict["decision"] == "collect more" else ""
    classes = f"verdict {kind}"
    return tag("section", heading, decision, tag("p", sentence), advice, class_=classes, aria_labelledby="verdict")


def _facts(contents: ReportContents) -> Markup:
    contest, session, counts = contents.contest, contents.session, contents.statistics
    facts = [
        _counted_fact(counts["total_examples"], "example"),
        _counted_fact(len(contents.weights), "worker"),
        _counted_fact(counts["total_sessions"], "training"),
    ]
    if session is not None:
        facts += [("learned from", str(session.num_examples)), ("held out", str(len(session.validation_ids)))]
        unseen = (session.validation or {}).get("unseen_examples")
        if unseen is not None and unseen < len(session.validation_ids):
            facts.append(("never learned from", str(unseen)))
    if contest is not None:
        if len(contest.judged) < contest.num_held_out:
            facts.append(("judged", f"{len(contest.judged)} of {contest.num_held_out}"))
        facts.append(("similarity reached", figure_text(contest.means[TRAINED])))
        if contest.delta_e[TRAINED] is not None:
            facts.append(("mean ΔE00", figure_text(contest.delta_e[TRAINED], 2)))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")


def _counted_fact(number: int, noun: str) -> tuple[str, str]:
    return counted(number, noun).partition(" ")[2], str(number)


def _contenders(contents: ReportContents) -> Markup | None:
    contest = contents.contest
    if contest is None:
        return None
    scale = _gain_scale(contest)
    rows = [
        [
            breakable(contest.labels[name]),
            figure_text(contest.means[name]),
            figure_text(contest.delta_e[name], 2),
            _gain(contest, name, scale),
        ]
        for name in contest.names
    ]
    head = ["contender", "similarity", "ΔE00", "gain of the trained ensemble"]
    shown = table(_contenders_words(contest), head, rows, _CONTENDERS_KINDS)
    marks = "Dots are single examples."
    if contest.rope:
        marks += f" Within the grey band (up to {contest.rope:g}) a difference is practically none."
    return _section("The trained ensemble and its contenders", shown, tag("p", marks, class_="soft"))


_CONTENDERS_KINDS: Final = {1: "number", 2: "number", 3: "gain"}


def _contenders_words(contest: Contest) -> str:
    examples = contest.words
    if not any(row.is_unseen for row in contest.rows):
        return f"Mean similarity to the ground truth on {examples}, all of them learned from: it flatters the ensemble."
    targets = contest.num_targets or 0
    words = (
        f"Mean similarity and colour difference ΔE00 (about 1 can be seen) to the ground truth on {examples} never "
        f"learned from, each of their {counted(targets, 'target')} counting once, and what the trained ensemble gains "
        "over each contender"
    )
    short = [contest.labels[name] for name in contest.names if len(contest.scores(name)) < len(contest.judged)]
    if short:
        words += f", on fewer examples for want of pictures over {listed(short)}"
    if targets < MIN_EXAMPLES:
        return f"{words}. Intervals and probabilities need {MIN_EXAMPLES} targets."
    return f"{words}: mean, 90 % interval, and probability that it is better."


def _gain_scale(contest: Contest) -> Scale:
    values = [0.0, *(gain for name in contest.names if name != TRAINED for gain in contest.differences(name))]
    ends = [end for gain in contest.gains.values() for end in gain["interval"] or ()]
    return Scale.of([*values, *ends])


def _gain(contest: Contest, name: str, scale: Scale) -> Markup | str:
    gain = contest.gains.get(name) if name in COMPARED else None
    if gain is None or gain["mean_difference"] is None:
        return "" if name == TRAINED else "–"
    mean, ends, sure = gain["mean_difference"], gain["interval"], gain["probability_better"]
    words = figure_text(mean, signed=True) + interval_text(ends, signed=True)
    chance = "" if sure is None else tag("span", f"P(better) {probability_text(sure)}", class_="soft")
    bar = interval_bar(
        scale,
        mean,
        None if ends is None else (ends[0], ends[1]),
        reference=0.0,
        band=contest.rope or 0.0,
        dots=contest.differences(name),
    )
    return _measure([words, tag("br"), chance], bar)


def _measure(figures: Any, bar: Markup) -> Markup:
    return tag("div", tag("span", figures, class_="figures"), bar, class_="measure")


def _growth(contents: ReportContents) -> Markup | None:
    points = contents.growth
    if len(points) < 2:  # noqa: PLR2004 - one point is no curve
        return None
    return _section("What examples bring", growth_chart(points))


def _weights(contents: ReportContents) -> Markup | None:
    rows = contents.weights
    if not rows:
        return None
    scale = Scale.of([1.0, *(end for row in rows for end in (row.low, row.high))])
    cells = [
        [
            breakable(row.worker_id),
            _measure(
                figure_text(row.weight) + interval_text((row.low, row.high)),
                interval_bar(scale, row.weight, (row.low, row.high), reference=1.0),
            ),
            percent_text(row.share),
        ]
        for row in rows
    ]
    words = (
        "Trust in each worker relative to its peers (1 = as accurate as the workers are on average) with the central "
        "90 % interval, and its share of the ensemble's picture."
    )
    return _section(
        "Weights", table(words, ["worker", "weight", "share"], cells, {1: "broad", 2: "number"}), _moves(contents.paths)
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
            bands=_bands(path) if path.worker_id in colored else (),
            is_quiet=path.worker_id not in colored,
        )
        for path in paths
    ]
    named = [each for each in series if not each.is_quiet]
    moves = "; ".join(
        f"{path.worker_id} ends at {figure_text(path.last)}" for path in paths if path.worker_id in colored
    )
    chart = line_chart(series, f"Weights over the training sessions. {moves}.", "training sessions")
    words = "Bands are central 90 % intervals."
    if len(named) < len(series):
        words += f" Thin lines: {counted(len(series) - len(named), 'other worker')}."
    return joined(tag("h3", "How the weights moved"), tag("figure", chart, legend(named), tag("figcaption", words)))


def _bands(path: WeightPath) -> list[list[tuple[float, float, float]]]:
    """Return the pieces of the way on which the interval is known."""
    pieces = []
    for is_known, points in itertools.groupby(path.points, key=lambda point: point.interval is not None):
        if is_known:
            pieces.append([(point.place, *point.interval) for point in points if point.interval is not None])
    return pieces


def _curve(contents: ReportContents) -> Markup | None:
    curve = contents.curve
    if curve is None:
        return None
    series = [Series("trained weights", list(zip(curve.epochs, curve.trained, strict=True)), COLORS[0])]
    if len(curve.equal_weights) == len(curve.epochs):
        points = list(zip(curve.epochs, curve.equal_weights, strict=True))
        series.append(Series("equal weights", points, COLORS[1], dashes="7 4"))
    if curve.best_worker is not None and curve.best_accuracy is not None:
        flat = [(epoch, curve.best_accuracy) for epoch in curve.epochs]
        series.append(Series(f"best single worker: {curve.best_worker}", flat, COLORS[2], dashes="2 4"))
    ends = "; ".join(f"{each.name} ends at {figure_text(each.points[-1][1])}" for each in series)
    words = f"Mean accuracy on the {counted(curve.num_examples, 'training example')}, workers weighted by share."
    if curve.held_out is not None:
        trained, equal = (figure_text(value) for value in curve.held_out)
        words += f" On the {curve.held_out_words}: {trained} with trained weights, {equal} with equal ones."
    chart = line_chart(series, f"Accuracy after each epoch: {ends}.", "epoch")
    return _section("Learning curve", tag("figure", chart, legend(series), tag("figcaption", words)))


# --- pictures -------------------------------------------------------------------------------------------------------


def _sheet(rows: Sequence[SheetRow]) -> Markup | None:
    if not rows:
        return None
    top = heat_top(rows)
    words = "Under the pictures: similarity to the ground truth, and mean colour difference ΔE00 (about 1 can be seen)."
    if any(row.is_shrunk for row in rows):
        words += " Large pictures were shrunk before the workers saw them."
    scale = tag(
        "div",
        _image(
            heat_scale(_PICTURE_SIDE, 8), "Colours of the difference, from black for none to pale yellow", shrink=False
        ),
        tag("div", tag("span", "0"), tag("span", f"ΔE00 {top / 2:g}"), tag("span", f"{top:g} and more")),
        class_="heat",
    )
    heading = "Pictures: where the ensemble was worst and best" if rows[0].rank else "Pictures"
    return _section(heading, tag("p", words, class_="soft"), [_sheet_row(row, top) for row in rows], scale)


def _sheet_row(row: SheetRow, top: float) -> Markup:
    cells = [_cell(row, heading, picture, caption) for heading, picture, caption in row.cells]
    heat = None if row.differences is None else heat_picture(row.differences, top)
    cells.append(_cell(row, "colour difference", heat, row.heat_caption))
    return tag("div", tag("h3", row.title), tag("ul", cells, class_="pictures"), class_="row")


def _cell(row: SheetRow, heading: str, picture: Image | None, caption: str) -> Markup:
    shown = tag("div", "no picture", class_="none")
    if picture is not None:
        shown = _image(picture, f"{heading} of example {row.name}")
    name = row.single_id if heading == "best single worker" else None
    words = tag(
        "figcaption", tag("strong", heading), caption, None if name is None else joined(tag("br"), breakable(name))
    )
    return tag("li", tag("figure", shown, words))


def _image(picture: Image, description: str, *, shrink: bool = True) -> Markup:
    if shrink and max(picture.shape[:2]) > _PICTURE_SIDE:
        picture = fitted(picture, _PICTURE_SIDE, _PICTURE_SIDE)
    _done, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    height, width = picture.shape[:2]
    data = base64.b64encode(encoded.tobytes()).decode()
    return image(f"data:image/webp;base64,{data}", description, width, height)


# --- tables ---------------------------------------------------------------------------------------------------------


def _workers(contents: ReportContents) -> Markup | None:
    explanation = contents.explanation
    if explanation is None:
        return None
    ranked = sorted(explanation["workers"].items(), key=lambda item: (-item[1]["share"], item[0]))
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
        for worker_id, known in ranked
    ]
    head = ["worker", "alone", "share", "gain", "most alike", "how much", "failed", "time"]
    kinds = {1: "number", 2: "number", 3: "number", 4: "name", 5: "number", 6: "number", 7: "number"}
    examples = f"On {counted(explanation['num_examples'], 'example')}"
    words = (
        "Alone: mean similarity of the worker's own pictures. Gain: how much less similar the ensemble's pictures are "
        "without it. Most alike: the worker whose errors are most like its own, and their correlation. Failed: on how "
        "many of the examples. Time: mean, for a picture."
    )
    if contents.contest is not None:
        words += (
            " Here each example counts once, and whole pictures were compared; the contenders above were judged on "
            "previews, each target counting once."
        )
    # It may be wider than the window; whoever uses the keyboard must be able to move it.
    shown = tag("section", table(examples, head, rows, kinds), class_="wide", tabindex=0, aria_label="Table of workers")
    hint = tag("p", "The table is wider than this window: move it sideways.", class_="soft sideways")
    return _section("What each worker brings", tag("p", words, class_="soft"), hint, shown, _subset(contents))


def _subset(contents: ReportContents) -> Markup | None:
    explanation = contents.explanation
    subset = None if explanation is None else explanation["subset"]
    if explanation is None or subset is None:
        return None
    used = sum(known["share"] >= NEGLIGIBLE_SHARE for known in explanation["workers"].values())
    if len(subset["workers"]) >= used:
        return tag("p", f"Of the {counted(used, 'worker')} in use, none can be spared.")
    names = joined(
        [
            joined(", " if number else "", tag("strong", breakable(name)))
            for number, name in enumerate(subset["workers"])
        ]
    )
    loss = round(subset["loss"], 4)
    change = "no less similar" if loss <= 0.0 else f"{loss:.4f} less similar"
    saved = f", and {seconds_text(subset['seconds_saved'])} saved for each."
    return tag("p", "The ensemble would do with ", names, f": its pictures would be {change}{saved}")


def _dataset(contents: ReportContents) -> Markup:
    findings = contents.findings
    if findings is None:
        return _section("The dataset", tag("p", "It was not checked for faults."))
    checked = counted(findings.num_examples, "example")
    if not findings.findings:
        return _section("The dataset", tag("p", f"Nothing was found in {checked}."))
    listed = findings.findings[:_MOST_LISTED]
    rows = [
        [
            tag("span", finding.severity, class_=f"severity {finding.severity}"),
            contents.public(finding.message),
            [contents.public(finding.remedy), _call(contents.public(finding.call))],
        ]
        for finding in listed
    ]
    words = f"{counted(len(findings.findings), 'finding')} in {checked}, the worst first."
    shown = table(words, ["severity", "what", "what to do"], rows, {0: "short"})
    return _section("The dataset", shown, _more(len(findings.findings) - len(listed)))


def _call(code: str) -> Markup | None:
    """Return the Python that applies a remedy."""
    return joined(" ", tag("code", breakable(code))) if code else None


def _more(number: int) -> Markup | None:
    return tag("p", f"And {number} more.") if number > 0 else None


def _failures(contents: ReportContents) -> Markup:
    parts: list[Markup | None] = []
    if contents.failures:
        rows = [
            [breakable(each.worker_id), f"{each.failed} of {each.tried}", contents.public(each.reason)]
            for each in contents.failures[:_MOST_LISTED]
        ]
        words = "Workers that gave no usable picture, with the reason of the first time."
        parts.append(table(words, ["worker", "failed on", "reason"], rows, {1: "short"}))
        parts.append(_more(len(contents.failures) - _MOST_LISTED))
    if contents.skipped:
        names = list(contents.skipped)[:_MOST_LISTED]
        rows = [[breakable(name), contents.public(contents.skipped[name])] for name in names]
        parts.append(table("Examples that the newest training could not use.", ["example", "reason"], rows))
        parts.append(_more(len(contents.skipped) - _MOST_LISTED))
    if not parts:
        parts.append(tag("p", "No worker failed, and no example was skipped."))
    return _section("Failures", parts)


def _settings(contents: ReportContents) -> Markup:
    settings = table(
        "How the newest training was done, and what judges.", ["setting", "value"], contents.settings.items()
    )
    versions = table("What it was made with.", ["part", "version"], contents.versions.items())
    return _section("Settings and versions", settings, versions)


def _footer(contents: ReportContents) -> Markup:
    words = "This file needs nothing else: it holds its pictures, loads nothing, and runs no script."
    return tag("footer", words, f" Made by tsm_training {contents.versions['tsm_training']}.")
