"""What lint looks at: stored examples and candidates alike, and the Python that puts one of them right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, Literal, TypeAlias

import attrs

from tsm_training.data import ExampleFiles
from tsm_training.lint.sketches import Sketch

__all__ = ["Action", "Item", "python_for"]

Action: TypeAlias = Literal[
    "nothing", "add", "relink", "remove", "swap", "same files", "same truth", "new truth", "new source"
]
"""What puts an item right."""

_SHORT_ID: Final = 8


@attrs.frozen(eq=False, repr=False)
class Item:
    """A stored example, or a candidate."""

    reference: str | int
    """The id of an example, or the place of a candidate in the list that was given, from 0."""
    paths: tuple[str, str, str]
    """Paths of source, target and truth."""
    metadata: Mapping[str, Any] | None
    """None where a candidate has none."""
    files: ExampleFiles | None = None
    """The contents of its files: of an example as they were added, of a candidate once all of them were read."""
    sketches: tuple[Sketch, Sketch, Sketch] | None = None
    """Sketches of source, target and truth, once all of them were read."""
    is_usable: bool = True
    """False if one of its files cannot be used as it is now."""

    @property
    def is_candidate(self) -> bool:
        """Tell whether it is not stored yet."""
        return isinstance(self.reference, int)

    @property
    def label(self) -> str:
        """A name for messages: of an example the name of its target's file, and the beginning of its id."""
        if isinstance(self.reference, int):
            return f"rows[{self.reference}]"
        name, short = PurePath(self.paths[1]).stem, self.reference[:_SHORT_ID]
        return f"example {name!r} ({short}{'' if short == self.reference else '…'})"

    @property
    def digest(self) -> str:
        """What tells it apart from others: its contents, or where those are not known, its reference."""
        return repr(self.reference) if self.files is None else self.files.digest


def python_for(action: Action, items: Sequence[Item]) -> str:
    """Return the Python that does something about items, one line each; all but "remove" are about the first one.

    A row that goes is replaced by None and moves no other, so the calls of several findings can be run in any order.
    """
    if action == "add":
        return "manager.add_training_examples(ROWS)"
    if action == "nothing":
        return ""
    if action == "remove":
        return "\n".join(map(_removal, items))
    item = items[0]
    source, target, truth = item.paths
    if action == "relink":
        return _removal(item) if item.is_candidate else "manager.relink('FOLDER')"
    if action in {"same truth", "new truth"} and not item.is_candidate:
        return f"manager.replace_ground_truth({item.reference!r}, {truth if action == 'same truth' else 'PATH'!r})"
    paths = {
        "swap": (target, source, truth),
        "new truth": (source, target, "PATH"),
        "new source": ("PATH", target, truth),
    }
    entries: Iterable[object] = paths.get(action, item.paths)
    text = ", ".join(repr(entry) for entry in (*entries, *([] if item.metadata is None else [dict(item.metadata)])))
    if item.is_candidate:
        return f"rows[{item.reference}] = ({text})"
    return f"{_removal(item)}\nmanager.add_training_example({text})"


def _removal(item: Item) -> str:
    if item.is_candidate:
        return f"rows[{item.reference}] = None"
    return f"manager.remove_training_example({item.reference!r})"
