"""The contact sheet of the page: pictures of the ensemble's worst and best examples, made when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import attrs

from jpegs import jpeg
from tsm_training import TrainingExample, TrainingManager
from tsm_training.report import contact_sheet

__all__ = ["ContactSheets", "Sheet", "example_name"]

_MAX_PIXELS: Final = 2**16
"""A picture has 224 × 168 pixels on the sheet; workers need see no more than twice as many."""


@attrs.frozen
class Sheet:
    """A contact sheet as a JPEG file."""

    content: bytes

    @property
    def etag(self) -> str:
        """Name of this content."""
        return hashlib.sha256(self.content).hexdigest()


@attrs.define(eq=False)
class ContactSheets:
    """Makes a manager's contact sheet, and keeps it until what it shows may have changed."""

    manager: TrainingManager
    _lock: Lock = attrs.field(factory=Lock, init=False)
    _kept: tuple[Sequence[Any], Sheet] | None = attrs.field(default=None, init=False)

    def newest(self) -> Sheet:
        """Return the sheet of the newest training; whoever asks meanwhile waits for the same one.

        Raises:
            TsmTrainingError: as for `contact_sheet`.
        """
        with self._lock:
            shown = self._shown()
            if self._kept is None or self._kept[0] != shown:
                picture = contact_sheet(self.manager, max_pixels=_MAX_PIXELS, name_of=example_name)
                self._kept = shown, Sheet(jpeg(picture))
            return self._kept[1]

    def _shown(self) -> Sequence[Any]:
        """Return what decides how the sheet looks: the weights, and which examples and sessions there are."""
        counts = self.manager.data_manager.get_dataset_stats()
        return self.manager.weight_learner.cell.state, counts["total_examples"], counts["total_sessions"]


def example_name(example: TrainingExample) -> str:
    """Return what the page calls an example; its files have names that say nothing."""
    return f"example {example.example_id[:8]}"
