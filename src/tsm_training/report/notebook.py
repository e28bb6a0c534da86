"""Results in notebooks and terminals: cards that records show themselves as, and `show` for documents."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from tsm_training.analysis import COMPARED, Baseline, BestWorker, Comparison, Verdict
from tsm_training.data import TrainingSession
from tsm_training.documents import TrainingProgress, TrainingResults
from tsm_training.engine import (
    CrossValidation,
    CrossValidationResults,
    Explanation,
    FoundLooks,
    Judged,
    Leaderboard,
    TrainingEngine,
    Validation,
    ValidationResults,
    own_workers,
)
from tsm_training.ensemble import Because, Prediction, unknown_group_text
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation import newest_session
from tsm_training.lint import LintReport
from tsm_training.report.charts import Scale, interval_bar
from tsm_training.report.figures import (
    baseline_labels,
    example_names,
    guide_band,
    means_before_and_after,
    ranked_workers,
    shortened,
    stored_validation,
)
from tsm_training.report.pictures import color_strip_element, embedded, leaning_text
from tsm_training.report.tags import Child, Markup, breakable, joined, tag
from tsm_training.text import (
    counted,
    figure_text,
    percent_text,
    probability_text,
    seconds_text,
    shares_text,
)

Results: TypeAlias = TrainingResults | ValidationResults | CrossValidationResults | Explanation | TrainingProgress

_LONGEST_NAME: Final = 48
_WIDTH: Final = 100
"""Characters in a line of text; tables may be wider."""

_MOST_WORKERS: Final = 8
_MOST_FINDINGS: Final = 30

_EXPECTED: Final = "what train(), validate(), cross_validate(), explain() or get_training_progress() returned"

_FONT: Final = "font-family:system-ui,sans-serif;font-size:0.9em;line-height:1.45"
_TABLE: Final = "border-collapse:collapse;margin:0.3em 0"
_CELL: Final = "text-align:left;vertical-align:top;padding:0.1em 1.2em 0.1em 0;background:transparent;border:0"
_NAME_CELL: Final = f"{_CELL};font-weight:normal;overflow-wrap:normal;word-break:normal"
_QUIET_CELL: Final = f"{_NAME_CELL};opacity:0.75"


# --- pieces, in the notebook's own colours --------------------------------------------------------------------------


def _card(title: Child, *children: Child) -> str:
    return str(tag("div", tag("div", tag("strong", title)), *children, style=_FONT))


def _facts_table(facts: Mapping[str, Child]) -> Markup:
    """Return names and values, one pair to a line; what is None is left out."""
    rows = [
        tag("tr", tag("th", name, scope="row", style=_QUIET_CELL), tag("td", value, style=_CELL))
        for name, value in facts.items()
        if value is not None
    ]
    return tag("table", tag("tbody", rows), style=_TABLE)


def _table(head: Sequence[Child], rows: Sequence[Sequence[Child]], most: int | None = None) -> list[Markup]:
    """Return a table of the first rows, whose first column names them, and how many more there are; or nothing."""
    if not rows:
        return []
    heads = [tag("th", cell, scope="col", style=_QUIET_CELL) for cell in head]
    body = []
    for name, *cells in rows[:most]:
        named = tag("th", breakable(str(name)), scope="row", style=_NAME_CELL)
        body.append(tag("tr", named, [tag("td", cell, style=_CELL) for cell in cells]))
    shown = [tag("table", tag("thead", tag("tr", heads)), tag("tbody", body), style=_TABLE)]
    return [*shown, tag("div", f"and {len(rows) - len(body)} more")] if len(rows) > len(body) else shown


# --- records --------------------------------------------------------------------------------------------------------


def session_card(session: TrainingSession) -> str:
    """Return a session as HTML: what went in, what came out, and the weights before and after."""
    validation = stored_validation(session)
    seconds = None if session.end_time is None else (session.end_time - session.start_time).total_seconds()
    facts = {
        "examples": f"{session.num_examples}, held out {len(session.validation_ids)}",
        "epochs": f"{session.epochs}, learning rate {session.learning_rate:g}",
        "started": f"{session.start_time:%Y-%m-%d %H:%M} UTC",
        "took": None if seconds is None else seconds_text(seconds),
        "similarity": "–" if validation is None else _headline(validation) or "–",
        "verdict": None if validation is None else validation.verdict["sentence"],
        "skipped": counted(len(session.skipped), "example") if session.skipped else None,
        "error": session.error,
    }
    before, after = session.initial_weights, session.final_weights
    ranked = sorted(after, key=lambda worker_id: (-after[worker_id], worker_id))
    rows = [[w, figure_text(before.get(w)), figure_text(after[w])] for w in ranked]
    return _card(
        f"{'Trial training' if session.is_trial else 'Training'} session, {session.status}",
        _facts_table(facts),
        _table(["worker", "weight before", "after"], rows, _MOST_WORKERS),
    )


def prediction_card(prediction: Prediction) -> str:
    """Return a prediction as HTML: a small picture, and the workers that have a part in it."""
    height, width = prediction.image.shape[:2]
    facts: dict[str, str | None] = {"blended of": shares_text(prediction.blend_weights)}
    if prediction.because is not None:
        facts["leans on"] = leaning_text(prediction.because, example_names(prediction.because.examples))
    if prediction.familiarity is not None:
        facts["familiarity of the look"] = f"{prediction.familiarity:.0%}"
    if prediction.group is not None:
        is_unknown = prediction.is_known_group is False
        facts["group"] = unknown_group_text(prediction) if is_unknown else prediction.group
    failures = {name: result.failure for name, result in prediction.results.items() if result.failure is not None}
    facts |= {f"{name} failed": str(failure) for name, failure in failures.items()}
    picture = embedded(prediction.image, "the ensemble's picture", "png")
    because = prediction.because
    strip = None if because is None else color_strip_element(because)
    return _card(f"Prediction, {width}×{height} pixels", picture, _facts_table(facts), strip)


def because_card(because: Because) -> str:
    """Return what an answer rests on as HTML: examples and their weights, and colours before and after."""
    facts = {"leans on": leaning_text(because, example_names(because.examples))}
    if because.familiarity is not None:
        facts["familiarity of the look"] = f"{because.familiarity:.0%}"
    return _card("What the answer rests on", _facts_table(facts), color_strip_element(because))


def looks_card(found: FoundLooks) -> str:
    """Return the looks among examples as HTML, the greatest first."""
    head = ["look", "examples", "alike", "commonest name", "central example"]
    return _card(f"{counted(len(found.looks), 'look')} found", _facts_table(found.facts), _table(head, found.rows))


def comparison_card(comparison: Comparison) -> str:
    """Return a comparison as HTML: what it says, and the difference with its interval."""
    bar, posterior, rope = None, comparison.posterior, comparison.rope
    if posterior is not None:
        low, high = posterior.interval()
        scale = Scale.of([low, high, -rope, rope, 0.0], 0.1)
        line = interval_bar(scale, posterior.mean, (low, high), reference=0.0, band=rope)
        ends = [tag("span", figure_text(end, signed=True)) for end in (scale.low, scale.high)]
        under = tag("div", ends, style="display:flex;justify-content:space-between;opacity:0.75")
        bar = tag("div", line, under, style="max-width:24em")
    title = f"{comparison.a} compared with {comparison.b}: {comparison.conclusion}"
    return _card(title, tag("div", comparison.sentence), bar)


def best_card(best: BestWorker) -> str:
    """Return as HTML how probable it is that each worker is the best one, the greatest probability first."""
    ranked = sorted(best.probabilities.items(), key=lambda item: (-(item[1] or 0.0), item[0]))
    rows = [[name, probability_text(value), best.failures[name] or "–"] for name, value in ranked]
    shown = _table(["worker", "probability of being the best", "failures"], rows)
    return _card("Which worker is the best?", tag("div", best.sentence), shown)


def verdict_card(verdict: Verdict) -> str:
    """Return a verdict as HTML, with the comparisons behind it."""
    found = [(name, verdict.comparisons[name]) for name in COMPARED if name in verdict.comparisons]
    rows = [
        [verdict.phrase(name), figure_text(each.mean_difference, signed=True, ends=each.interval)]
        for name, each in found
    ]
    shown = _table(["baseline", "gain of the trained ensemble, 90 % interval"], rows)
    return _card(f"Verdict: {verdict.decision}", tag("div", verdict.sentence), shown)


def lint_card(report: LintReport) -> str:
    """Return the findings about a dataset as HTML, the worst first."""
    rows = [[each.severity, each.message, joined(each.remedy, tag("br"), tag("code", each.call))] for each in report]
    title = f"{counted(len(report), 'finding')} in {counted(report.num_examples, 'example')}"
    return _card(title, _table(["severity", "what", "what to do"], rows, _MOST_FINDINGS))


# --- documents ------------------------------------------------------------------------------------------------------


@attrs.frozen(repr=False)
class Shown:
    """Results that show themselves: ``print`` gives text, and a notebook a table."""

    title: str
    facts: Mapping[str, str | None]
    """Names and values; what is None is left out."""
    head: tuple[str, ...] = ()
    """The names of the table's columns; empty without a table."""
    rows: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        shown = [f"{name}: {value}" for name, value in self.facts.items() if value is not None]
        lines = [
            self.title,
            *(textwrap.fill(each, _WIDTH, initial_indent="  ", subsequent_indent="    ") for each in shown),
        ]
        names = shortened((row[0] for row in self.rows), _LONGEST_NAME)
        cells = [self.head, *((names[name], *others) for name, *others in self.rows)] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(padded)}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def to_html(self) -> str:
        """Return what a notebook shows."""
        return _card(self.title, _facts_table(self.facts), _table(self.head, self.rows))

    _repr_html_ = to_html


def show(results: Results) -> Shown:
    """Return results as something that shows itself, in a notebook and in a terminal.

    >>> from tsm_training.report import show
    >>> print(show({"dataset_stats": {"total_examples": 3, "processed_examples": 0, "unprocessed_examples": 3,
    ...     "total_sessions": 0}, "worker_stats": {}, "current_weights": {}}))
    Training so far
      examples: 3, of which 0 were evaluated
      sessions: 0

    Args:
        results: What ``train()``, ``validate()``, ``cross_validate()``, ``explain()`` or ``get_training_progress()``
            returned.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    document: Any = results
    keys: set[str] = set(document) if hasattr(document, "keys") else set()
    if "session" in keys:
        return _training(document)
    if "folds" in keys:
        judged = CrossValidation.from_document(document)
        return _judged("Cross-validation", {"folds": str(judged.folds)}, judged)
    if "per_example" in keys:
        return _judged("Validation", {}, Validation.from_document(document))
    if "subset" in keys:
        return _explanation(document)
    if "worker_stats" in keys:
        return _progress(document)
    raise InvalidArgumentError("results", results, _EXPECTED)


def shown_engine(engine: TrainingEngine) -> Shown:
    """Return in a few lines what an ensemble is made of and what came of its newest training."""
    counts, session, workers = (
        engine.store.get_dataset_stats(),
        newest_session(engine.store),
        own_workers(engine.worker_pool),
    )
    validation = None if session is None else stored_validation(session)
    facts: dict[str, str | None] = {
        "kept in": engine.store.location,
        "examples": str(counts["total_examples"]),
        "workers": None if workers is None else str(len(workers)),
        "last training": "none yet",
    }
    if session is not None:
        facts["last training"] = (
            f"{session.start_time:%Y-%m-%d %H:%M} UTC, on {counted(session.num_examples, 'example')}"
        )
    if validation is not None:
        facts |= {"similarity": _headline(validation), "verdict": validation.verdict["sentence"]}
    return Shown("Training manager", facts)


def _headline(judged: Judged) -> str | None:
    """Return the similarity that the ensemble reaches, beside that of the untouched target."""
    if judged.headline is None:
        return None
    untouched = judged.baselines[Baseline.UNTOUCHED]["mean"] if Baseline.UNTOUCHED in judged.baselines else None
    beside = f"; the untouched target {figure_text(untouched)}" if untouched is not None else ""
    return f"{figure_text(judged.headline)}{beside}"


def shown_leaderboard(board: Leaderboard) -> Shown:
    """Return a leaderboard as something that shows itself."""
    rows = []
    for row in board.rows:
        ends = None if row.low is None or row.high is None else (row.low, row.high)
        known = None if row.weight_low is None or row.weight_high is None else (row.weight_low, row.weight_high)
        cells = [
            figure_text(row.similarity, ends=ends),
            figure_text(row.gain, signed=True),
            percent_text(row.share),
            figure_text(row.weight, ends=known),
            "–" if row.failures is None else str(row.failures),
            seconds_text(row.seconds),
        ]
        rows.append((row.name, *cells))
    counts = f"{counted(board.num_examples, 'held-out example')} of {counted(board.num_targets, 'target')}"
    facts = {"on": counts, "best single worker": board.best_single, "verdict": board.verdict}
    head = ("name", "similarity, 90 %", "ensemble's gain", "share", "weight (settles in, 90 %)", "failed", "time")
    return Shown("Leaderboard", facts, head, tuple(rows))


def _training(document: TrainingResults) -> Shown:
    session, validation = document["session"], Validation.from_document(document["validation"])
    count, (before, after) = session["num_examples"], means_before_and_after(validation)
    shown = _judged(
        "Training",
        {"learned from": f"{counted(count, 'example')}, {counted(session['epochs'], 'epoch')}"},
        validation,
    )
    if before is None or after is None:
        return shown
    _count, low, high = guide_band(count)[-1]
    growth = (
        f"{figure_text(before)} with equal weights, {figure_text(after)} after {counted(count, 'example')}; "
        f"the guide expects {figure_text(low, 2)} to {figure_text(high, 2)}"
    )
    return attrs.evolve(shown, facts={**shown.facts, "learning curve": growth})


def _judged(title: str, facts: Mapping[str, str | None], judged: Judged) -> Shown:
    accuracy, gains = judged.avg_accuracy, judged.verdict["comparisons"]
    unseen = f", of which {judged.unseen_examples} were never learned from" if isinstance(judged, Validation) else ""
    means = f"{figure_text(accuracy)}, with equal shares {figure_text(judged.equal_weights_accuracy)}"
    changes = judged.unrepeatable if isinstance(judged, Validation) else {}
    unsteady = [f"{worker_id} (accuracy moved by up to {figure_text(change)})" for worker_id, change in changes.items()]
    facts = {
        "similarity": _headline(judged),
        "verdict": judged.verdict["sentence"],
        **facts,
        "judged on": f"{counted(judged.num_examples, 'example')}{unseen}",
        "skipped": counted(len(judged.skipped), "example") if judged.skipped else None,
        "do not repeat themselves": ", ".join(unsteady) or None,
        "mean of the workers, weighted (guide)": None if accuracy is None else means,
    }
    rows = []
    for name, label in baseline_labels(judged).items():
        if name in judged.baselines:
            known, gain = judged.baselines[name], "–"
            if name in gains:
                gain = figure_text(gains[name]["mean_difference"], signed=True, ends=gains[name]["interval"])
            rows.append((label, figure_text(known["mean"]), figure_text(known["mean_delta_e"], 2), gain))
    interval = ", 90 % interval" if any(gain["interval"] for gain in gains.values()) else ""
    head = ("baseline", "similarity", "ΔE00", f"gain of the trained ensemble{interval}")
    return Shown(title, facts, head, tuple(rows))


def _explanation(document: Explanation) -> Shown:
    rows = tuple(
        (
            worker_id,
            percent_text(known["share"]),
            figure_text(known["solo_accuracy"]),
            figure_text(known["gain"], 4, signed=True),
            percent_text(known["failure_rate"]),
            seconds_text(known["mean_seconds"]),
        )
        for worker_id, known in ranked_workers(document)
    )
    subset, enough = document["subset"], None
    if subset is not None:
        loss = round(subset["loss"], 4)
        change = f"{'gains' if loss < 0.0 else 'loses'} {figure_text(abs(loss), 4)}" if loss else "loses nothing"
        enough = f"{', '.join(subset['workers'])}; {change}"
    facts = {
        "judged on": counted(document["num_examples"], "example"),
        "ensemble's similarity": figure_text(document["ensemble_accuracy"]),
        "smallest ensemble that would do": enough,
    }
    return Shown("What each worker brings", facts, ("worker", "share", "alone", "gain", "failed", "time"), rows)


def _progress(document: TrainingProgress) -> Shown:
    counts = document["dataset_stats"]
    ranked = sorted(document["worker_stats"].items(), key=lambda item: (-item[1]["current_weight"], item[0]))
    rows = tuple(
        (
            worker_id,
            figure_text(known["current_weight"], ends=known["stats"].get("credible_interval")),
            figure_text(known["stats"]["mean_accuracy"]),
            str(known["stats"]["update_count"]),
        )
        for worker_id, known in ranked
    )
    facts = {
        "examples": f"{counts['total_examples']}, of which {counts['processed_examples']} were evaluated",
        "sessions": str(counts["total_sessions"]),
    }
    return Shown("Training so far", facts, ("worker", "weight, 90 % interval", "accuracy", "examples"), rows)
