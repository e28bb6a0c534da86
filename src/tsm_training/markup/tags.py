"""Elements: whatever is not `Markup` already is text, and gets escaped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

__all__ = [
    "Child",
    "Markup",
    "breakable",
    "card",
    "cleaned",
    "facts_table",
    "image",
    "joined",
    "small_table",
    "table",
    "tag",
]

_VOID: Final = frozenset({"br", "img", "meta"})
_LONGEST_TEXT: Final = 2000
"""Of what comes from outside: somebody's error message may be a megabyte."""

_JOINTS: Final = frozenset("_-./")
_PARTS: Final = re.compile(r"([_\-./])")
_LONGEST_PART: Final = 12
"""A longer one without a joint may break anywhere: letters and digits without end would make a table as wide."""

_FONT: Final = "font-family:system-ui,sans-serif;font-size:0.9em;line-height:1.45"


class Markup(str):
    """Finished HTML, which a notebook shows as such."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


Child: TypeAlias = "str | int | Iterable[Child] | None"
"""What an element may hold: finished `Markup`, text, a whole number, several of them, or nothing."""


def cleaned(text: str) -> str:
    """Return text that every reader can show: no control characters, half characters or endless lengths."""
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in {"Cc", "Cs"} else "\ufffd" for letter in shown
    )


def joined(*children: Child) -> Markup:
    """Return children one behind the other."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (str, int)):
            parts.append(html.escape(cleaned(str(child))))
        else:
            parts.append(joined(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: Child, **attributes: str | int | None) -> Markup:
    """Return an element.

    Args:
        name: Of the element.
        children: What it holds.
        attributes: Underscores stand for hyphens, one at the end for nothing (``class_``); None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(cleaned(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{joined(*children)}</{name}>")


def image(source: str, description: str, width: int, height: int) -> Markup:
    """Return a picture.

    Args:
        source: Of any length: a data address made here.
        description: What it shows, for those who cannot see it.
        width: In pixels.
        height: In pixels.
    """
    described = tag("img", alt=description, width=width, height=height)
    return Markup(f'{described.removesuffix(">")} src="{html.escape(source)}">')


def breakable(name: str) -> Markup:
    """Return a name that breaks at its joints where it is too long for a line."""
    parts = []
    for part in _PARTS.split(cleaned(name)):
        pieces = [joined(part[start : start + _LONGEST_PART]) for start in range(0, len(part), _LONGEST_PART)]
        parts.append("<wbr>".join(pieces) + ("<wbr>" if part in _JOINTS else ""))
    return Markup("".join(parts))


def table(
    caption: Child,
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    kinds: Mapping[int, str] | None = None,
    **attributes: str,
) -> Markup:
    """Return a table whose first column names the rows.

    Args:
        caption: What the table says, for everybody.
        head: The names of the columns.
        rows: The cells.
        kinds: Classes of columns, by number from 0: ``"number"`` for figures, say.
        attributes: Of the table.
    """
    kinds = kinds or {}
    heads = [tag("th", cell, scope="col", class_=kinds.get(column)) for column, cell in enumerate(head)]
    body = [
        tag(
            "tr",
            [
                tag("td", cell, class_=kinds.get(column)) if column else tag("th", cell, scope="row")
                for column, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    return tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body), **attributes)


# --- for notebooks --------------------------------------------------------------------------------------------------

_CELL: Final = "text-align:left;vertical-align:top;padding:0.1em 1.2em 0.1em 0;background:transparent;border:0"
_NAME_CELL: Final = f"{_CELL};font-weight:normal;overflow-wrap:normal;word-break:normal"
_QUIET_CELL: Final = f"{_NAME_CELL};opacity:0.75"


def _breaking(name: Child) -> Child:
    return breakable(name) if isinstance(name, str) and not isinstance(name, Markup) else name


def card(title: Child, *children: Child) -> Markup:
    """Return a small piece for a notebook, in the notebook's own colours."""
    return tag("div", tag("div", tag("strong", title)), *children, style=_FONT)


def facts_table(facts: Mapping[str, Child]) -> Markup:
    """Return names and values, one pair to a line, for a notebook; what is None is left out."""
    rows = [
        tag("tr", tag("th", name, scope="row", style=_QUIET_CELL), tag("td", value, style=_CELL))
        for name, value in facts.items()
        if value is not None
    ]
    return tag("table", tag("tbody", rows), style="border-collapse:collapse;margin:0.3em 0")


def small_table(head: Sequence[Child], rows: Iterable[Sequence[Child]]) -> Markup:
    """Return a table for a notebook whose first column names the rows."""
    heads = [tag("th", cell, scope="col", style=_QUIET_CELL) for cell in head]
    body = [
        tag(
            "tr",
            tag("th", _breaking(name), scope="row", style=_NAME_CELL),
            [tag("td", cell, style=_CELL) for cell in cells],
        )
        for name, *cells in rows
    ]
    return tag(
        "table", tag("thead", tag("tr", heads)), tag("tbody", body), style="border-collapse:collapse;margin:0.3em 0"
    )
