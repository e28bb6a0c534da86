"""Results for people: a table in a notebook, lines of text elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

import attrs

from tsm_training.documents import TrainingProgress, TrainingResults
from tsm_training.engine import CrossValidationResults, Explanation, ValidationResults
from tsm_training.errors import InvalidArgumentError
from tsm_training.markup import (
    card,
    counted,
    facts_table,
    figure_text,
    interval_text,
    percent_text,
    seconds_text,
    small_table,
)
from tsm_training.views import contender_labels, guide_band, shortened

__all__ = ["Shown", "show"]

Results: TypeAlias = TrainingResults | ValidationResults | CrossValidationResults | Explanation | TrainingProgress

_LONGEST_NAME: Final = 48

_EXPECTED: Final = "what train(), validate(), cross_validate(), explain() or get_training_progress() returned"


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
        lines = [self.title, *(f"  {name}: {value}" for name, value in self.facts.items() if value is not None)]
        names = shortened((row[0] for row in self.rows), _LONGEST_NAME)
        cells = [self.head, *((names[name], *others) for name, *others in self.rows)] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(padded)}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = small_table(self.head, self.rows) if self.rows else None
        return card(self.title, facts_table(self.facts), table)


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
    document = cast("Mapping[str, Any]", results)
    if isinstance(document, Mapping):
        for key, build in _BUILDERS.items():
            if key in document:
                return build(document)
    raise InvalidArgumentError("results", results, _EXPECTED)


def _training(document: Mapping[str, Any]) -> Shown:
    session, validation = document["session"], document["validation"]
    facts = {
        "learned from": f"{counted(session['num_examples'], 'example')}, {counted(session['epochs'], 'epoch')}",
        **_judged_facts(validation),
        "learning curve": _growth_text(session["num_examples"], validation.get("contenders", {})),
    }
    return Shown("Training", facts, *_contender_table(validation))


def _growth_text(num_examples: int, contenders: Mapping[str, Any]) -> str | None:
    """Say what the examples brought, and what the user guide expects of so many."""
    before, after = (contenders.get(name, {}).get("mean") for name in ("equal_weights", "trained"))
    if before is None or after is None:
        return None
    _count, low, high = guide_band(num_examples)[-1]
    reached = f"{figure_text(before)} with equal weights, {figure_text(after)} after {counted(num_examples, 'example')}"
    return f"{reached}; the guide expects {figure_text(low, 2)} to {figure_text(high, 2)}"


def _validation(document: Mapping[str, Any]) -> Shown:
    return Shown("Validation", _judged_facts(document), *_contender_table(document))


def _cross_validation(document: Mapping[str, Any]) -> Shown:
    facts = {"folds": str(document["folds"]), **_judged_facts(document)}
    return Shown("Cross-validation", facts, *_contender_table(document))


def _judged_facts(document: Mapping[str, Any]) -> dict[str, str | None]:
    trained, equal = document["avg_accuracy"], document["equal_weights_accuracy"]
    unseen = document.get("unseen_examples")
    seen = "" if unseen is None else f", of which {unseen} were never learned from"
    skipped = document.get("skipped", {})
    pictures, delta_e = document.get("ensemble_accuracy"), document.get("mean_delta_e")
    return {
        "judged on": f"{counted(document['num_examples'], 'example')}{seen}",
        "workers by share": None
        if trained is None
        else f"{figure_text(trained)}, with equal shares {figure_text(equal)}",
        "ensemble's pictures": None
        if pictures is None
        else f"similarity {figure_text(pictures)}, mean ΔE00 {figure_text(delta_e, 2)}",
        "verdict": (document.get("verdict") or {}).get("sentence"),
        "skipped": counted(len(skipped), "example") if skipped else None,
    }


def _contender_table(document: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    contenders = document.get("contenders", {})
    compared = (document.get("verdict") or {}).get("comparisons", {})
    rows = []
    for name, words in contender_labels(document).items():
        if name in contenders:
            known = compared.get(name, {})
            gain = figure_text(known.get("mean_difference"), signed=True)
            gain += interval_text(known.get("interval"), signed=True)
            mean, delta_e = contenders[name]["mean"], contenders[name].get("mean_delta_e")
            rows.append((words, figure_text(mean), figure_text(delta_e, 2), gain))
    has_intervals = any(known.get("interval") for known in compared.values())
    gain = f"gain of the trained ensemble{', 90 % interval' if has_intervals else ''}"
    return ("contender", "similarity", "ΔE00", gain), tuple(rows)


def _explanation(document: Mapping[str, Any]) -> Shown:
    ranked = sorted(document["workers"].items(), key=lambda item: (-item[1]["share"], item[0]))
    rows = tuple(
        (
            worker_id,
            percent_text(known["share"]),
            figure_text(known["solo_accuracy"]),
            figure_text(known["gain"], 4, signed=True),
            percent_text(known["failure_rate"]),
            seconds_text(known["mean_seconds"]),
        )
        for worker_id, known in ranked
    )
    subset = document["subset"]
    enough = None if subset is None else f"{', '.join(subset['workers'])}; {_loss_text(subset['loss'])}"
    facts = {
        "judged on": counted(document["num_examples"], "example"),
        "ensemble's similarity": figure_text(document["ensemble_accuracy"]),
        "smallest ensemble that would do": enough,
    }
    return Shown("What each worker brings", facts, ("worker", "share", "alone", "gain", "failed", "time"), rows)


def _loss_text(loss: float) -> str:
    rounded = round(loss, 4)
    if rounded == 0.0:
        return "loses nothing"
    return f"{'gains' if rounded < 0.0 else 'loses'} {figure_text(abs(rounded), 4)}"


def _progress(document: Mapping[str, Any]) -> Shown:
    counts = document["dataset_stats"]
    rows = tuple(
        (
            worker_id,
            figure_text(known["current_weight"]) + interval_text(known["stats"].get("credible_interval")),
            figure_text(known["stats"]["mean_accuracy"]),
            str(known["stats"]["update_count"]),
        )
        for worker_id, known in sorted(
            document["worker_stats"].items(), key=lambda item: (-item[1]["current_weight"], item[0])
        )
    )
    facts = {
        "examples": f"{counts['total_examples']}, of which {counts['processed_examples']} were evaluated",
        "sessions": str(counts["total_sessions"]),
    }
    return Shown("Training so far", facts, ("worker", "weight, 90 % interval", "accuracy", "examples"), rows)


_BUILDERS: Final = {
    "session": _training,
    "folds": _cross_validation,
    "per_example": _validation,
    "subset": _explanation,
    "worker_stats": _progress,
}
"""By a key that only one kind of document has; a cross-validation also has what a validation has."""
