"""Small charts as SVG: they need no script and no style, so that any page and any notebook can show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
_AXIS_HEIGHT: Final = 18
_WIDTH, _HEIGHT = 440, 250
"""Of a chart, in units of the drawing: about pixels on a phone, so that letters can be read there."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 10, 42
_LETTERS: Final = 13
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
    color: str = COLORS[0],
) -> Markup:
    """Return a line with a dot: an interval and its middle. The figures should stand beside it as text.

    A thin upright line stands at `reference`, and a grey band reaches `band` to both sides of it. All bars of a table
    have one scale, whose numbers `axis` writes.
    """
    height, center = _BAR_HEIGHT, _BAR_HEIGHT // 2
    parts: list[Child] = []
    if reference is not None:
        left, x = (_percent(scale.place(reference + each)) for each in (-band, 0.0))
        if band:
            width = _percent(scale.place(reference + band) - scale.place(reference - band))
            parts.append(tag("rect", x=left, y=0, width=width, height=height, fill=QUIET, opacity="0.25"))
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=height, stroke=QUIET))
    if ends is not None:
        x1, x2 = (_percent(scale.place(end)) for end in ends)
        line: dict[str, str | int] = {"stroke": color, "stroke_width": 3, "stroke_linecap": "round"}
        parts.append(tag("line", x1=x1, x2=x2, y1=center, y2=center, **line))
    parts.append(tag("circle", cx=_percent(scale.place(middle)), cy=center, r="4.5", fill=color))
    return tag("svg", parts, width="100%", height=height, class_="bar", aria_hidden="true", focusable="false")


def axis(scale: Scale, description: str) -> Markup:
    """Return the numbers of a scale, to stand above its bars, described for readers who cannot see them."""
    ticks = scale.ticks(3)
    numbers = [
        tag("text", text, x=_percent(scale.place(tick)), y=13, text_anchor="middle", fill="currentColor")
        for tick, text in zip(ticks, _texts(ticks), strict=True)
    ]
    return tag("svg", numbers, width="100%", height=_AXIS_HEIGHT, class_="bar", role="img", aria_label=description)


def _texts(ticks: Sequence[float]) -> list[str]:
    """Return numbers with as many digits after the point as the one that needs most."""
    digits = max((len(f"{tick:.8g}".partition(".")[2]) for tick in ticks), default=0)
    return [f"{tick:.{digits}f}".replace("-", "−") for tick in ticks]


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
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + xs.place(x) * (right - _LEFT), floor - ys.place(y) * (floor - _TOP)

    def words(text: str, x: float, y: float, anchor: str) -> Markup:
        return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, fill="currentColor")

    rules, up = [], ys.ticks()
    for tick, text in zip(up, _texts(up), strict=True):
        y = at(xs.low, tick)[1]
        rules.append(tag("line", x1=_LEFT, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke=QUIET, opacity="0.35"))
        rules.append(words(text, _LEFT - 8, y + 4.5, "end"))
    rules.append(tag("line", x1=_LEFT, x2=right, y1=floor, y2=floor, stroke=QUIET))
    rules += [words(f"{x:g}", at(x, ys.low)[0], floor + 17, "middle") for x in xs.ticks(8) if x == round(x)]
    rules.append(words(across, (_LEFT + right) / 2, _HEIGHT - 6, "middle"))
    lines = [_drawn(each, at) for each in sorted(series, key=lambda each: not each.is_quiet)]
    look: dict[str, str | int] = {"width": _WIDTH, "font_size": _LETTERS, "class_": "chart", "role": "img"}
    return tag("svg", rules, lines, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", **look, aria_label=description)


def _drawn(series: Series, at: Callable[[float, float], tuple[float, float]]) -> list[Markup]:
    def path(points: Iterable[tuple[float, float]]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)

    shapes = []
    for band in series.bands:
        corners = [*((x, low) for x, low, _high in band), *((x, high) for x, _low, high in reversed(band))]
        shapes.append(tag("polygon", points=path(corners), fill=series.color, opacity="0.12"))
    shapes.append(
        tag(
            "polyline",
            points=path(series.points),
            fill="none",
            stroke=series.color,
            stroke_width="1" if series.is_quiet else "2.5",
            stroke_dasharray=series.dashes,
            stroke_linejoin="round",
            opacity="0.6" if series.is_quiet else None,
        )
    )
    for x, y in () if series.is_quiet else (at(*point) for point in series.points):
        shapes.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5", fill=series.color))
    return shapes


def legend(series: Iterable[Series]) -> Markup:
    """Return what the lines of a chart are called."""
    items = []
    for each in series:
        line = tag("line", x1=0, x2=28, y1=6, y2=6, stroke=each.color, stroke_width="2.5", stroke_dasharray=each.dashes)
        sample = tag("svg", line, width=28, height=12, aria_hidden="true", focusable="false")
        items.append(tag("li", sample, " ", each.name))
    return tag("ul", items, class_="legend")
