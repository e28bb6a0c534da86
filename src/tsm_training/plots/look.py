"""How our plots look: paper, ink, colours and text, whatever settings the host has given to matplotlib.

None of matplotlib's global settings is changed, and none decides a colour, a font or a size: each is said where it is
used, or in `finished`, which every plot goes through at the end.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import attrs
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator

__all__ = [
    "BLUE",
    "COLORS",
    "CONTENDER_STYLES",
    "FAINT",
    "FONT_SIZE",
    "GREY",
    "INK",
    "PAPER",
    "RULE",
    "MarkStyle",
    "Plot",
    "caption",
    "drawable",
    "finished",
    "heading",
    "key",
    "measure",
    "name_column",
    "name_rows",
    "new_plot",
    "prepared",
    "rules",
    "title",
    "write",
]

PAPER: Final = "#ffffff"
INK: Final = "#222222"
GREY: Final = "#5f6368"
"""Of words that matter less; it still stands out from the paper by 6 to 1."""
FAINT: Final = "#b8bcc2"
"""Of dots and lines in the background."""
RULE: Final = "#e3e5e8"

BLUE: Final = "#0072b2"
COLORS: Final = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that people with any kind of colour vision can tell apart (Okabe and Ito, "Color universal design", 2008)."""

FONT_SIZE: Final = 9.0
SMALL: Final = 8.0
DPI: Final = 120

_HEADING_GAP: Final = 16.0
"""Between a panel and its heading, in points: names of columns fit in."""

_FONT: Final = "DejaVu Sans"  # matplotlib brings it along


@attrs.frozen
class MarkStyle:
    """How one of several series is told from the others, in colour and without."""

    color: str
    marker: str


CONTENDER_STYLES: Final = {
    "trained": MarkStyle(BLUE, "o"),
    "without_groups": MarkStyle(COLORS[5], "p"),
    "previous": MarkStyle(COLORS[3], "D"),
    "equal_weights": MarkStyle(COLORS[1], "s"),
    "best_single": MarkStyle(COLORS[2], "^"),
    "best_fixed": MarkStyle(COLORS[4], "v"),
    "untouched": MarkStyle(GREY, "X"),
}


class Plot(Figure):
    """A figure that no window knows: it shows itself in a notebook, and is saved as it looks."""

    def savefig(self, fname: Any, **settings: Any) -> None:
        """Save the figure, with its own paper and resolution unless others are asked for."""
        chosen: dict[str, Any] = {"facecolor": PAPER, "dpi": "figure", **settings}
        super().savefig(fname, **chosen)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()


def new_plot(width: float, height: float, ratios: Sequence[float] = (1.0,)) -> tuple[Plot, list[Axes]]:
    """Return a figure, width and height in inches, and its panels from left to right with these ratios of widths."""
    plot = Plot(
        figsize=(width, height),
        dpi=DPI,
        facecolor=PAPER,
        edgecolor=PAPER,
        linewidth=0.0,
        frameon=True,
        layout="constrained",
    )
    FigureCanvasAgg(plot)
    engine: Any = plot.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.03)
    grid = plot.add_gridspec(1, len(ratios), width_ratios=list(ratios))
    return plot, [prepared(plot.add_subplot(grid[0, column])) for column in range(len(ratios))]


def prepared(axes: Axes) -> Axes:
    """Return the panel in our looks: no box, quiet rules behind what is drawn."""
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.set_prop_cycle(color=list(COLORS))
    axes.margins(0.04)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "bottom", color=FAINT, linewidth=0.8)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.label.set(**_text(FONT_SIZE, GREY))
    rules(axes, "x")
    axes.tick_params(which="both", direction="out", length=0, width=0.8, color=FAINT, labelsize=FONT_SIZE, pad=4)
    axes.tick_params(labelcolor=INK, labelfontfamily=_FONT, bottom=True, labelbottom=True, left=True, labelleft=True)
    axes.tick_params(top=False, labeltop=False, right=False, labelright=False)
    return axes


def finished(plot: Plot) -> Plot:
    """Return the plot with its ticks where they are, and without what artists take from the host's settings."""
    for axes in plot.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not isinstance(axis.get_major_locator(), FixedLocator):
                _fix_ticks(axis)
            axis.offsetText.set(**_text(SMALL, GREY))
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="center", verticalalignment="top")
        for label in axes.get_yticklabels():
            label.set(horizontalalignment="right", verticalalignment="center_baseline")
    for artist in plot.findobj():
        artist.set(sketch_params=None, path_effects=[], snap=None)
        if isinstance(artist, Line2D):
            artist.set(antialiased=True, dash_capstyle="butt", dash_joinstyle="round", solid_joinstyle="round")
        if isinstance(artist, (Patch, Text)):
            artist.set(antialiased=True)
    return plot


def _fix_ticks(axis: XAxis | YAxis) -> None:
    low, high = sorted(axis.get_view_interval())
    places = [place for place in axis.get_major_locator()() if low <= place <= high]
    axis.set_ticks(places, labels=_numbers(places), **_text(FONT_SIZE, INK))


def _numbers(values: Sequence[float]) -> list[str]:
    """Write numbers in full, all with the same number of digits."""
    digits = max((len(f"{value:.8g}".partition(".")[2]) for value in values), default=0)
    return [f"{value:.{digits}f}".replace("-", "−") for value in values]


# --- text -----------------------------------------------------------------------------------------------------------


def _text(size: float, color: str, weight: str = "normal") -> dict[str, Any]:
    """Return the settings of a text that is shown letter by letter: dollars in a worker's id make no formula."""
    return {
        "fontfamily": _FONT,
        "fontsize": size,
        "fontstyle": "normal",
        "fontvariant": "normal",
        "fontweight": weight,
        "fontstretch": "normal",
        "color": color,
        "parse_math": False,
        "usetex": False,
    }


@functools.cache
def _glyph_index() -> Callable[[int], int]:
    index: Callable[[int], int] = get_font(findfont(FontProperties(family=_FONT))).get_char_index
    return index


def drawable(text: str) -> str:
    """Return the text with a box for each character that the font lacks; matplotlib would warn, and draw the same."""
    return "".join(letter if _glyph_index()(ord(letter)) else "□" for letter in text)


def write(axes: Axes, x: float, y: float, text: str, **settings: Any) -> Text:
    """Write at a place in data coordinates unless `settings` say otherwise; it may stand outside the panel."""
    size, color, weight = settings.pop("size", SMALL), settings.pop("color", GREY), settings.pop("weight", "normal")
    return axes.text(x, y, drawable(text), clip_on=False, **{**_text(size, color, weight), **settings})


def name_column(axes: Axes, x: float, name: str) -> None:
    """Write the name of a column beside a panel above it, below the heading; `x` is a part of the panel's width."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0.0, 3.0), "textcoords": "offset points"}
    axes.annotate(
        drawable(name), (x, 1.0), ha="right", va="bottom", annotation_clip=False, **place, **_text(FONT_SIZE, GREY)
    )


def heading(axes: Axes, text: str) -> None:
    """Write above a panel what it shows."""
    axes.set_title(drawable(text), loc="left", y=1.0, pad=_HEADING_GAP, **_text(FONT_SIZE + 1.0, INK, "bold"))


def title(plot: Plot, text: str) -> None:
    """Write above everything what the plot shows."""
    plot.suptitle(drawable(text), x=0.012, ha="left", **_text(FONT_SIZE + 1.5, INK, "bold"))


def caption(plot: Plot, text: str) -> None:
    """Write under the panels what the marks mean."""
    plot.supxlabel(drawable(text), x=0.012, ha="left", **_text(SMALL, GREY))


def measure(axes: Axes, across: str = "", up: str = "") -> None:
    """Write what the axes measure."""
    axes.set_xlabel(drawable(across), labelpad=4.0, **_text(FONT_SIZE, GREY))
    axes.set_ylabel(drawable(up), labelpad=4.0, **_text(FONT_SIZE, GREY))


def rules(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Draw quiet rules at the ticks of one axis only."""
    axes.grid(visible=False, axis="both")
    axes.grid(visible=True, axis=axis, which="major", color=RULE, linewidth=0.8, linestyle="-", alpha=1.0)


def name_rows(axes: Axes, names: Sequence[str], colors: Sequence[str] | None = None) -> None:
    """Name the rows of a panel, the first one at the top; row number n stands at y = n."""
    axes.set_yticks(range(len(names)), labels=[drawable(name) for name in names], **_text(FONT_SIZE, INK))
    for label, color in zip(axes.get_yticklabels(), colors or [], strict=False):
        label.set_color(color)
    axes.set_ylim(len(names) - 0.4, -0.6)


def key(axes: Axes, marks: Iterable[tuple[Line2D, str]], columns: int = 3) -> None:
    """Say above a panel without a heading what its marks mean."""
    handles, labels = zip(*marks, strict=True)
    legend = axes.legend(
        handles,
        [drawable(label) for label in labels],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        fancybox=False,
        shadow=False,
        borderpad=0.2,
        borderaxespad=0.3,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.4,
        numpoints=1,
        markerscale=1.0,
        prop=FontProperties(family=_FONT, size=FONT_SIZE),
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set(parse_math=False, usetex=False)
