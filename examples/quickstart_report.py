"""The quick start's figures as text, at most 96 columns of plain ASCII."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tsm_training import TrainingResults, TrainingSession, ValidationResults
from tsm_training.report import guide_band
from tsm_training.weights import LearnerStatistics

_MOST_WORKERS = 6
_BAR = 32
"""Width of a bar in characters."""


def print_report(
    results: TrainingResults, statistics: Mapping[str, LearnerStatistics], curve: Sequence[TrainingSession]
) -> None:
    """Print what a training has learned, and what that is worth.

    Args:
        results: What ``train()`` returned.
        statistics: What the learner knows about each worker.
        curve: Trainings on more and more examples, each judged on the same held-out ones.
    """
    _print_weights(statistics, results["validation"]["blend_weights"])
    _print_gain(results["validation"])
    _print_curve(curve)
    _print_verdict(results["validation"])


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


# --- held-out examples ----------------------------------------------------------------------------------------------


def _print_gain(validation: ValidationResults) -> None:
    verdict, contenders = validation["verdict"], validation["contenders"]
    names = {
        "trained": "trained ensemble",
        "best_single": f"best single worker ({verdict['best_single']})",
        "best_fixed": f"best worker that learns nothing ({verdict['best_fixed']})",
        "equal_weights": "before training: all workers with equal weights",
        "untouched": "target left untouched",
    }
    print(f"\nWhat training brought, on the {validation['num_examples']} held-out examples")
    print(f"  {'':56}{'similarity':>12}{'dE00':>8}")
    for key, name in names.items():
        if key in contenders:
            similarity, difference = contenders[key]["mean"], contenders[key]["mean_delta_e"]
            print(f"  {name:56}{_figure(similarity, 4):>12}{_figure(difference, 2):>8}")
    print("  (similarity: to the ground truth, at most 1; dE00: mean color difference, 1 is just noticeable)")
    print(f"\n{_bought(validation)}")


def _bought(validation: ValidationResults) -> str:
    """Say in one sentence what training bought over doing nothing and over single workers."""
    verdict, contenders = validation["verdict"], validation["contenders"]
    rivals = {
        "untouched": "the untouched target",
        "best_single": f"the best single worker ({verdict['best_single']})",
        "best_fixed": f"the best one that learns nothing ({verdict['best_fixed']})",
    }
    trained = contenders["trained"]
    gains = [
        f"{_gain(trained, contenders[key], 'mean', 3)} similarity and "
        f"{_gain(trained, contenders[key], 'mean_delta_e', 1)} dE00 over {name}"
        for key, name in rivals.items()
        if key in contenders
    ]
    return textwrap.fill(f"Training bought {'; '.join(gains)}.", 96)


def _gain(
    trained: Mapping[str, Any], other: Mapping[str, Any], key: Literal["mean", "mean_delta_e"], digits: int
) -> str:
    first, second = trained[key], other[key]
    # Adding 0 turns -0.0 into 0.0.
    return "?" if first is None or second is None else f"{round(first - second, digits) + 0.0:+.{digits}f}"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# --- learning curve -------------------------------------------------------------------------------------------------


def _print_curve(curve: Sequence[TrainingSession]) -> None:
    points = [(0, _mean(curve[-1], "equal_weights")), *((s.num_examples, _mean(s, "trained")) for s in curve)]
    measured = [(number, *guide_band(number)[-1][1:], similarity) for number, similarity in points if similarity]
    low = min(value for _, *values in measured for value in values)
    print("\nLearning curve: similarity on the same held-out examples, by the number of examples learned from")
    print(f"  {'examples':>8}{'similarity':>14}{'guide expects':>17}   {low:<8.2f}{1:>{_BAR - 8}.2f}")
    for number, *values in measured:
        expected = f"{values[0]:.2f}-{values[1]:.2f}"
        bar = _band(*((value - low) / (1 - low) for value in values))
        print(f"  {number:>8}{values[2]:>14.4f}{expected:>17}   {bar}")
    print("  (o: what was reached; ===: what the user guide expects of so many examples)")


def _mean(session: TrainingSession, contender: str) -> float | None:
    mean: float | None = (session.validation or {}).get("contenders", {}).get(contender, {}).get("mean")
    return mean


def _band(low: float, high: float, reached: float) -> str:
    """Draw what is expected and what was reached, given as fractions of the bar's width."""
    first, last, place = (round(value * (_BAR - 1)) for value in (low, high, reached))
    line = ["=" if first <= column <= last else " " for column in range(_BAR)]
    line[place] = "o"
    return "".join(line).rstrip()


# --- verdict --------------------------------------------------------------------------------------------------------


def _print_verdict(validation: ValidationResults) -> None:
    print("\nIs it worth shipping?")
    print(textwrap.fill(validation["verdict"]["sentence"], 94, initial_indent="  ", subsequent_indent="  "))
