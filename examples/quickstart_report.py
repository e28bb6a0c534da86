"""The quick start's figures as text, at most 96 columns of plain ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from tsm_training import ValidationResults
from tsm_training.data import EpochMetrics, SessionDocument
from tsm_training.weights import LearnerStatistics

_MOST_WORKERS = 10
_MOST_EPOCHS = 10
_BAR = 32
"""Width of a bar in characters."""


def print_report(
    session: SessionDocument,
    statistics: Mapping[str, LearnerStatistics],
    before: ValidationResults,
    after: ValidationResults,
) -> None:
    """Print what a training has learned.

    Args:
        session: The training.
        statistics: What the learner knows about each worker.
        before: How the untrained ensemble does on the held-out examples.
        after: How the trained one does.
    """
    _print_weights(statistics, after["blend_weights"])
    _print_curve(session)
    _print_held_out(session, before, after)
    _print_verdict(after)


# --- weights --------------------------------------------------------------------------------------------------------


def _print_weights(statistics: Mapping[str, LearnerStatistics], shares: Mapping[str, float]) -> None:
    ranking = sorted(statistics, key=lambda worker_id: -statistics[worker_id]["weight"])
    low = min(s["credible_interval"][0] for s in statistics.values())
    high = max(s["credible_interval"][1] for s in statistics.values())
    print("\nWeights, best first (1.05 = 5 % more accurate than the average worker; share = part in the blend)")
    print(f"  {'worker':23}{'weight':>7}   {'90 % interval':^13}{'share':>8}   {low:<8.2f}{high:>{_BAR - 8}.2f}")
    for worker_id in ranking[:_MOST_WORKERS]:
        known = statistics[worker_id]
        lower, upper = known["credible_interval"]
        bar = _interval(*((value - low) / (high - low) for value in (lower, known["weight"], upper)))
        share = f"{100 * shares[worker_id]:.0f} %"
        print(f"  {worker_id:23}{known['weight']:7.3f}   {lower:.3f}-{upper:.3f}  {share:>7}   {bar}")
    rest = ranking[_MOST_WORKERS:]
    if rest:
        worst = rest[-1]
        share = f"{100 * sum(shares[worker_id] for worker_id in rest):.0f} %"
        name = f"{len(rest)} more, down to"
        print(f"  {name:23}{statistics[worst]['weight']:7.3f}{'':16}  {share:>7}   ({worst})")


def _interval(lower: float, middle: float, upper: float) -> str:
    """Draw an interval and its middle, given as fractions of the bar's width."""
    first, centre, last = (round(value * (_BAR - 1)) for value in (lower, middle, upper))
    line = [" "] * first + ["-"] * (last - first + 1)
    line[first], line[last] = "[", "]"
    line[centre] = "o"
    return "".join(line)


# --- learning curve -------------------------------------------------------------------------------------------------


def _print_curve(session: SessionDocument) -> None:
    history = session["metrics_history"]
    equal = history[0]["equal_weights_accuracy"]
    points = [("equal weights", equal), *((f"epoch {e['epoch']}", e["avg_accuracy"]) for e in _some(history))]
    low, high = min(a for _, a in points), max(a for _, a in points)
    print(f"\nLearning curve: mean accuracy, weighted by share, on the {session['num_examples']} training examples")
    for name, accuracy in points:
        length = 1 + round((_BAR - 1) * (accuracy - low) / (high - low)) if high > low else 1
        print(f"  {name:23}{accuracy:7.4f}   {'#' * length}")


def _some(history: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """Return all epochs or, if they are many, some of them with the first and the last."""
    last = len(history) - 1
    steps = min(last, _MOST_EPOCHS - 1)
    return [history[round(step * last / max(1, steps))] for step in range(steps + 1)]


# --- held-out examples ----------------------------------------------------------------------------------------------


def _print_held_out(session: SessionDocument, before: ValidationResults, after: ValidationResults) -> None:
    training = session["metrics_history"][-1]["worker_accuracies"]
    best = max(training, key=lambda worker_id: training[worker_id] or 0.0)
    means = {worker_id: accuracies["mean"] for worker_id, accuracies in after["worker_accuracies"].items()}
    print(f"\nMean accuracy on the {after['num_examples']} held-out examples (1 = the ground truth itself)")
    print(f"  {'':56}{'picture':>9}{'workers':>9}")
    for name, picture, workers in (
        ("trained ensemble", after["ensemble_accuracy"], after["avg_accuracy"]),
        ("untrained ensemble (equal weights)", before["ensemble_accuracy"], before["avg_accuracy"]),
        (f"best single worker in training ({best})", means[best], None),
        ("target left untouched", means["unchanged"], None),
    ):
        print(f"  {name:56}{_figure(picture):>9}{_figure(workers):>9}")
    print("  (picture: of the picture it gives; workers: mean of its workers' accuracies, weighted by share)")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_verdict(after: ValidationResults) -> None:
    print("\nIs it worth shipping?")
    print(textwrap.fill(after["verdict"]["sentence"], 94, initial_indent="  ", subsequent_indent="  "))
