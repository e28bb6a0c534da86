"""How our plots look: one set of matplotlib's settings, in force while a plot is made, drawn or saved."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

INK: Final = "#222222"
GREY: Final = "#5f6368"
"""Less important text; it still stands out from the paper by 6 to 1."""
FAINT: Final = "#b8bcc2"
"""Dots and lines in the background."""
RULE: Final = "#e3e5e8"

BLUE: Final = "#0072b2"
COLORS: Final = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that people with any kind of colour vision can tell apart (Okabe and Ito, "Color universal design", 2008)."""

FONT_SIZE: Final = 9.0
SMALL: Final = 8.0

_FONT: Final = "DejaVu Sans"  # matplotlib brings it along

_SETTINGS: Final[Any] = {
    **{name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"},
    "font.family": [_FONT],
    "font.size": FONT_SIZE,
    "text.color": GREY,
    "text.parse_math": False,  # dollars in a worker's id make no formula
    "figure.dpi": 120,
    "figure.titlesize": FONT_SIZE + 1.5,
    "figure.titleweight": "bold",
    "figure.labelsize": SMALL,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.wspace": 0.03,
    "figure.constrained_layout.hspace": 0.03,
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.xmargin": 0.04,
    "axes.ymargin": 0.04,
    "axes.titlesize": FONT_SIZE + 1.0,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.titlepad": 16.0,  # names of columns fit in
    "axes.labelsize": FONT_SIZE,
    "axes.labelcolor": GREY,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-99, 99),
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": RULE,
    **{
        f"{axis}tick.{name}": value
        for axis in "xy"
        for name, value in {"labelsize": FONT_SIZE, "labelcolor": INK, "major.size": 0.0, "major.pad": 4.0}.items()
    },
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    "legend.labelcolor": INK,
    "legend.borderpad": 0.2,
    "legend.borderaxespad": 0.3,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.4,
}
"""All settings, so that none of the host's has a say."""

_ONE_AT_A_TIME: Final = threading.RLock()


@contextmanager
def styled() -> Generator[None]:
    """Put our settings in force; also a decorator. One thread has them at a time, or the host's might get lost."""
    with _ONE_AT_A_TIME, mpl.rc_context(_SETTINGS):
        yield


@attrs.frozen
class MarkStyle:
    """How one of several series is told from the others, in colour and without."""

    color: str
    marker: str

    def dot(self, size: float, alpha: float = 1.0) -> dict[str, Any]:
        """Return the settings of marks without a line."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6, "alpha": alpha, "zorder": 4}
        return {"color": self.color, "linestyle": "", "marker": self.marker, "markersize": size, **edge}


STYLES: Final = tuple(map(MarkStyle, (*COLORS[:6], GREY), "os^DvpX"))
"""Colours and marks, by `Baseline.style`."""


class Plot(Figure):
    """A figure that no window knows: it shows itself in a notebook, and is saved as it looks."""

    @styled()
    def draw(self, renderer: Any) -> None:
        """Draw the figure with our settings, whoever asks."""
        super().draw(renderer)

    @styled()
    def savefig(self, fname: Any, **settings: Any) -> None:
        """Save the figure, with its own paper and resolution unless others are asked for."""
        super().savefig(fname, **settings)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()


def new_plot(width: float, height: float, ratios: Sequence[float] = (1.0,)) -> tuple[Plot, list[Axes]]:
    """Return a figure, width and height in inches, and its panels from left to right with these ratios of widths."""
    plot = Plot(figsize=(width, height))
    FigureCanvasAgg(plot)
    grid = plot.add_gridspec(1, len(ratios), width_ratios=list(ratios))
    panels = [plot.add_subplot(grid[0, column]) for column in range(len(ratios))]
    for axes in panels:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    return plot, panels


# --- text -----------------------------------------------------------------------------------------------------------


@functools.cache
def _glyph_index() -> Callable[[int], int]:
    index: Callable[[int], int] = get_font(findfont(FontProperties(family=_FONT))).get_char_index
    return index


def drawable(text: str) -> str:
    """Return the text with a box for each character that the font lacks; matplotlib would warn, and draw the same."""
    return "".join(letter if _glyph_index()(ord(letter)) else "□" for letter in text)


def write(axes: Axes, x: float, y: float, text: str, **settings: Any) -> Text:
    """Write at a place in data coordinates unless `settings` say otherwise; it may stand outside the panel."""
    look: dict[str, Any] = {"size": SMALL, "clip_on": False, **settings}
    return axes.text(x, y, drawable(text), **look)


def title(plot: Plot, text: str) -> None:
    """Write above everything what the plot shows."""
    plot.suptitle(text, x=0.012, ha="left", color=INK)


def caption(plot: Plot, text: str) -> None:
    """Write under the panels what the marks mean."""
    plot.supxlabel(text, x=0.012, ha="left")


def name_rows(axes: Axes, heading: str, across: str, names: Sequence[str], colors: Sequence[str] = ()) -> None:
    """Give a panel its heading and name its rows, the first one at the top; row number n stands at y = n."""
    axes.set_title(heading)
    axes.set_xlabel(across)
    axes.set_yticks(range(len(names)), labels=[drawable(name) for name in names])
    for label, color in zip(axes.get_yticklabels(), colors, strict=False):
        label.set_color(color)
    axes.set_ylim(len(names) - 0.4, -0.6)


def name_curves(axes: Axes, across: str, up: str, ticks: int = 10) -> None:
    """Name the axes of a panel of curves over whole numbers, of which at most so many are written."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=False)
    axes.grid(visible=True, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))


def write_column(axes: Axes, name: str, cells: Sequence[str]) -> None:
    """Write a column of figures with its name to the right of a panel's rows."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0.0, 3.0), "textcoords": "offset points"}
    axes.annotate(name, (1.14, 1.0), ha="right", va="bottom", annotation_clip=False, **place)
    for number, cell in enumerate(cells):
        if cell:
            beside = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
            write(axes, 1.14, number, cell, color=INK, size=FONT_SIZE, **beside)


def key(axes: Axes, marks: Sequence[tuple[Line2D, str]]) -> None:
    """Say above a panel without a heading what its marks mean."""
    handles, labels = zip(*marks, strict=True)
    axes.legend(handles, [drawable(each) for each in labels], loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
