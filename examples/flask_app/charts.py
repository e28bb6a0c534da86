"""Where the marks of the page's drawings stand; the templates turn them into SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from tsm_training.data import EpochMetrics
from tsm_training.report import guide_band
from tsm_training.weights import LearnerStatistics

__all__ = ["Curve", "GrowthCurve", "Interval", "growth_curve", "learning_curve", "weight_intervals"]

WIDTH, HEIGHT = 360.0, 210.0
"""Of the learning curve, in units of the drawing: about pixels on a phone, so that letters stay readable there."""

LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 12.0, 30.0
_MOST_TICKS: Final = 6
_SMALLEST_SPAN: Final = 0.002


@attrs.frozen
class Tick:
    """A mark on an axis."""

    place: float
    label: str


@attrs.frozen
class Curve:
    """A learning curve: what the trained ensemble reached after each epoch, beside equal weights."""

    trained: str
    """The points of a polyline."""
    equal: str
    dots: list[tuple[float, float]]
    """The points of the trained ensemble, where they are few enough to be told apart."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def learning_curve(history: Sequence[EpochMetrics]) -> Curve | None:
    """Return the curve of a session, or None where there is none to draw."""
    if not history:
        return None
    trained = [entry["avg_accuracy"] for entry in history]
    equal = [entry["equal_weights_accuracy"] for entry in history]
    low, high, y = _upwards(trained + equal)
    # Before the first epoch, the ensemble is that of equal weights.
    xs = [LEFT + (WIDTH - LEFT - RIGHT) * n / len(history) for n in range(len(history) + 1)]

    points = [(x, y(value)) for x, value in zip(xs[1:], trained, strict=True)]
    step = math.ceil(len(history) / _MOST_TICKS)
    return Curve(
        trained=_polyline(points),
        equal=_polyline([(xs[0], y(equal[0])), *((x, y(value)) for x, value in zip(xs[1:], equal, strict=True))]),
        dots=points if len(points) <= 4 * _MOST_TICKS else [],
        x_ticks=[Tick(xs[n], str(n)) for n in range(0, len(history) + 1, step)],
        y_ticks=[Tick(y(value), label) for value, label in _round_values(low, high)],
    )


@attrs.frozen
class GrowthCurve:
    """Similarity on held-out examples over the number of examples learned from."""

    trained: str
    """The points of a polyline."""
    dots: list[tuple[float, float]]
    band: str
    """The points of a polygon: what the guide expects."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]


def growth_curve(points: Sequence[tuple[float, float]]) -> GrowthCurve | None:
    """Return the curve over the number of examples, or None where there are fewer than two points."""
    if len(points) < 2:  # noqa: PLR2004 - one point is no curve
        return None
    most = max(count for count, _value in points)
    band = guide_band(most)
    low, high, y = _upwards([value for _count, value in points] + [end for _count, *ends in band for end in ends])

    def x(count: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * count / most

    dots = [(x(count), y(value)) for count, value in points]
    edge = [(x(count), y(least)) for count, least, _ in band] + [(x(count), y(top)) for count, _, top in band[::-1]]
    return GrowthCurve(
        trained=_polyline(dots),
        dots=dots,
        band=_polyline(edge),
        x_ticks=[Tick(x(value), label) for value, label in _round_values(0.0, most)],
        y_ticks=[Tick(y(value), label) for value, label in _round_values(low, high)],
    )


def _upwards(values: Sequence[float]) -> tuple[float, float, Callable[[float], float]]:
    """Return the ends of the upright axis for some values, and where a value stands on it."""
    low, high = _padded(min(values), max(values))
    return low, high, lambda value: TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def _padded(low: float, high: float) -> tuple[float, float]:
    middle, half = (low + high) / 2, max(high - low, _SMALLEST_SPAN) / 2
    return middle - 1.15 * half, middle + 1.15 * half


def _round_values(low: float, high: float) -> list[tuple[float, str]]:
    """Return a few round values between two others, with their texts."""
    rough = (high - low) / _MOST_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
    digits = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(number * step, f"{number * step:.{digits}f}") for number in range(first, last + 1)]


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


# --- weights ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Interval:
    """A weight between the ends of its 90 % interval, each as a place from 0 to 100."""

    low: float
    weight: float
    high: float
    average: float
    """Where 1.0 is, the weight of an average worker."""


def weight_intervals(statistics: Mapping[str, LearnerStatistics]) -> dict[str, Interval]:
    """Return where to draw each worker's interval, all of them on one scale.

    Workers that never gave a picture do not stretch it: they stand at its lower end.
    """
    all_known = list(statistics.values())
    scaling = [known for known in all_known if known["mean_accuracy"] is not None] or all_known
    ends = [end for known in scaling for end in known["credible_interval"]] + [1.0]
    low, high = min(ends), max(ends)
    span = max(high - low, _SMALLEST_SPAN)

    def place(value: float) -> float:
        return round(min(max(2 + 96 * (value - low) / span, 0.0), 100.0), 2)

    return {
        worker_id: Interval(
            place(known["credible_interval"][0]),
            place(known["weight"]),
            place(known["credible_interval"][1]),
            place(1.0),
        )
        for worker_id, known in statistics.items()
    }
