"""HTML elements: whatever is not `Markup` already is text, and gets escaped."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

_VOID: Final = frozenset({"br", "img", "meta"})
_LONGEST_TEXT: Final = 2000
"""Longest text that comes from outside, in characters: an error message may be a megabyte."""

_JOINTS: Final = re.compile(r"([_\-./])")
_LONGEST_PART: Final = 12
"""A longer part without a joint may break anywhere: endless letters and digits would make a table as wide."""


class Markup(str):
    """Finished HTML, which a notebook shows, and a template of Jinja2 takes, as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)

    _repr_html_ = __html__


Child: TypeAlias = "str | int | Iterable[Child] | None"
"""What an element may hold: finished `Markup`, text, a whole number, several of them, or nothing."""


def _cleaned(text: str) -> str:
    """Return text that every reader can show: no control characters, half characters or endless lengths."""
    shown = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return "".join(
        letter if letter in "\n\t" or unicodedata.category(letter) not in {"Cc", "Cs"} else "\ufffd" for letter in shown
    )


def joined(*children: Child) -> Markup:
    """Return children one behind the other."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (str, int)):
            parts.append(html.escape(_cleaned(str(child))))
        elif child is not None:
            parts.append(joined(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: Child, **attributes: str | int | None) -> Markup:
    """Return an element. In names of attributes underscores stand for hyphens, one at the end for nothing (``class_``).

    An attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_cleaned(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{joined(*children)}</{name}>")


def image(source: str, description: str, width: int, height: int) -> Markup:
    """Return a picture, width and height in pixels, from a data address of any length that was made here."""
    described = tag("img", alt=description, width=width, height=height)
    return Markup(f'{described.removesuffix(">")} src="{html.escape(source)}">')


def breakable(name: str) -> Markup:
    """Return a name that breaks at its joints where it is too long for a line."""
    parts = []
    for part in _JOINTS.split(_cleaned(name)):
        pieces = [joined(part[start : start + _LONGEST_PART]) for start in range(0, len(part), _LONGEST_PART)]
        parts.append("<wbr>".join(pieces) + ("<wbr>" if _JOINTS.fullmatch(part) else ""))
    return Markup("".join(parts))


def table(caption: Child, columns: Mapping[str, str], rows: Iterable[Sequence[Child]]) -> Markup:
    """Return a table whose first column names the rows.

    Each column has a name, and a class for its cells: ``"number"`` for figures, say, or an empty text for none.
    """
    kinds = [kind or None for kind in columns.values()]
    heads = [tag("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)]
    body = []
    for name, *cells in rows:
        row = [tag("td", cell, class_=kind) for cell, kind in zip(cells, kinds[1:], strict=True)]
        body.append(tag("tr", tag("th", name, scope="row"), row))
    return tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body))
