"""Small charts as SVG that is as wide as its place: text stays as large as text, and needs no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Self

import attrs

from tsm_training.report.tags import Child, Markup, tag

COLORS: Final = tuple(
    f"var(--series-{number},{fallback})"
    for number, fallback in enumerate(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a06c00", "#56b4e9"))
)
"""Colours that people with any kind of colour vision can tell apart; a page may define them for dark paper."""

QUIET: Final = "var(--quiet,#888888)"
"""Colour of what stands in the background."""

_BAR_HEIGHT: Final = 22
_CHART_HEIGHT: Final = 240
_TICKS: Final = 5
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


def _percent(part: float) -> str:
    return f"{100.0 * part:.2f}%"


@attrs.frozen
class Scale:
    """Where numbers stand between two ends."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float], margin: float = 0.05) -> Self:
        """Return a scale on which all these values lie, with a margin at both ends, in parts of the span."""
        known = list(values)
        low, high = min(known), max(known)
        extra = margin * (high - low) or 0.5 * abs(high) or 0.5
        return cls(low - extra, high + extra)

    def place(self, value: float) -> float:
        """Return where a value stands: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = _TICKS) -> list[float]:
        """Return at most `most` round numbers on the scale."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * step for step in _STEPS if power * step >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def interval_bar(
    scale: Scale,
    middle: float,
    ends: Sequence[float] | None,
    *,
    reference: float | None = None,
    band: float = 0.0,
    dots: Sequence[float] = (),
    color: str = COLORS[0],
) -> Markup:
    """Return a line with a dot: an interval and its middle. The figures should stand beside it as text.

    A thin upright line stands at `reference`, a grey band reaches `band` to both sides of it, and `dots` are faint. All
    bars of a table have one scale.
    """
    height, center = _BAR_HEIGHT, _BAR_HEIGHT // 2
    parts: list[Child] = []
    if reference is not None:
        left, x = (_percent(scale.place(reference + each)) for each in (-band, 0.0))
        if band:
            width = _percent(scale.place(reference + band) - scale.place(reference - band))
            parts.append(tag("rect", x=left, y=0, width=width, height=height, fill=QUIET, opacity="0.25"))
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=height, stroke=QUIET))
    for number, value in enumerate(dots):
        y = center + (number % 5 - 2) * 3
        parts.append(tag("circle", cx=_percent(scale.place(value)), cy=y, r="2", fill=QUIET, opacity="0.6"))
    if ends is not None:
        x1, x2 = (_percent(scale.place(end)) for end in ends)
        line: dict[str, str | int] = {"stroke": color, "stroke_width": 3, "stroke_linecap": "round"}
        parts.append(tag("line", x1=x1, x2=x2, y1=center, y2=center, **line))
    parts.append(tag("circle", cx=_percent(scale.place(middle)), cy=center, r="4.5", fill=color))
    return tag("svg", parts, width="100%", height=height, class_="bar", aria_hidden="true", focusable="false")


@attrs.frozen
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    dashes: str | None = None
    """Lengths of strokes and gaps in pixels; None for an unbroken line."""
    bands: Sequence[Sequence[tuple[float, float, float]]] = ()
    """Pieces of an interval around it: x, low, high."""
    is_quiet: bool = False
    """In the background, thin and without dots."""


def line_chart(series: Sequence[Series], description: str, across: str) -> Markup:
    """Return a chart of at least one line, described for readers who cannot see it; `across` says what x counts."""
    points = [point for each in series for point in each.points]
    ends = [(x, y) for each in series for band in each.bands for x, low, high in band for y in (low, high)]
    xs = Scale.of((x for x, _y in points), 0.03)
    ys = Scale.of((y for _x, y in [*points, *ends]), 0.06)
    up = ys.ticks()
    digits = max((len(f"{tick:.8g}".partition(".")[2]) for tick in up), default=0)  # all have the same number of them
    y_labels = [
        tag("span", f"{tick:.{digits}f}".replace("-", "−"), style=f"top:{_percent(1.0 - ys.place(tick))}")
        for tick in up
    ]
    whole = [tick for tick in xs.ticks(8) if tick == round(tick)]
    x_labels = [tag("span", f"{tick:g}", style=f"left:{_percent(xs.place(tick))}") for tick in whole]
    rules = [
        tag("line", x1="0", x2="100%", y1=(y := _percent(1.0 - ys.place(tick))), y2=y, stroke=QUIET, opacity="0.35")
        for tick in up
    ]
    lines = [_drawn(each, xs, ys) for each in sorted(series, key=lambda each: not each.is_quiet)]
    plot = tag("svg", rules, lines, width="100%", height=_CHART_HEIGHT, role="img", aria_label=description)
    parts = [tag("div", y_labels, class_="up", aria_hidden="true"), tag("div", plot, class_="plot")]
    parts += [tag("div", x_labels, class_="across", aria_hidden="true"), tag("div", across, class_="unit")]
    return tag("div", parts, class_="chart")


def _drawn(series: Series, xs: Scale, ys: Scale) -> list[Markup]:
    def at(x: float, y: float) -> str:
        return f"{1000.0 * xs.place(x):.2f},{1000.0 * (1.0 - ys.place(y)):.2f}"

    shapes = []
    for band in series.bands:
        corners = [*(at(x, low) for x, low, _high in band), *(at(x, high) for x, _low, high in reversed(band))]
        shapes.append(tag("polygon", points=" ".join(corners), fill=series.color, opacity="0.12"))
    shapes.append(
        tag(
            "polyline",
            points=" ".join(at(x, y) for x, y in series.points),
            fill="none",
            stroke=series.color,
            stroke_width="1" if series.is_quiet else "2.5",
            stroke_dasharray=series.dashes,
            stroke_linejoin="round",
            vector_effect="non-scaling-stroke",
            opacity="0.6" if series.is_quiet else None,
        )
    )
    lines = tag("svg", shapes, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%")
    dots = [
        tag("circle", cx=_percent(xs.place(x)), cy=_percent(1.0 - ys.place(y)), r="3.5", fill=series.color)
        for x, y in (() if series.is_quiet else series.points)
    ]
    return [lines, *dots]


def legend(series: Iterable[Series]) -> Markup:
    """Return what the lines of a chart are called."""
    items = []
    for each in series:
        line = tag("line", x1=0, x2=28, y1=6, y2=6, stroke=each.color, stroke_width="2.5", stroke_dasharray=each.dashes)
        sample = tag("svg", line, width=28, height=12, aria_hidden="true", focusable="false")
        items.append(tag("li", sample, " ", each.name))
    return tag("ul", items, class_="legend")
