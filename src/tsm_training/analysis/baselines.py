"""The baselines: the answers that a trained ensemble is compared with, and what they are called everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Self


class Baseline(StrEnum):
    """An answer whose pictures are judged: the trained ensemble itself, and what it is compared with.

    The value is the key in result documents, and the name of a column in the table that `judge` takes.
    """

    TRAINED = "trained", "trained ensemble", "the trained ensemble", 0
    WITHOUT_GROUPS = "without_groups", "trained, without groups", "the trained ensemble without groups", 5
    EQUAL_WEIGHTS = "equal_weights", "equal weights", "the ensemble with equal weights", 1
    BEST_SINGLE = "best_single", "best single worker", "the best single worker", 2
    """The worker that was best on the examples trained on."""
    BEST_FIXED = "best_fixed", "best fixed worker", "the best fixed worker", 4
    """The best of the workers that are not fitted on ground truths, where it is not the best of all."""
    PREVIOUS = "previous", "in use before", "the ensemble in use", 3
    UNTOUCHED = "untouched", "untouched target", "the untouched target", 6
    CONTROL = "control", "another ground truth", "another example's ground truth", 6
    """The trained ensemble's picture compared with the ground truth of an example of another group."""

    _value_: str
    label: str
    """Its name in tables and plots."""
    phrase: str
    """Its name in sentences."""
    style: int
    """The place of its colour and mark in those that plots use; 6 is grey."""

    def __new__(cls, key: str, label: str = "", phrase: str = "", style: int = 6) -> Self:  # noqa: D102
        self = str.__new__(cls, key)
        self._value_ = key
        self.label, self.phrase, self.style = label, phrase, style
        return self


COMPARED: Final = (
    Baseline.PREVIOUS,
    Baseline.EQUAL_WEIGHTS,
    Baseline.BEST_SINGLE,
    Baseline.BEST_FIXED,
    Baseline.UNTOUCHED,
)
"""What a verdict compares the trained ensemble with; the first of the first two that is there is in use."""

SHOWN: Final = (Baseline.TRAINED, Baseline.WITHOUT_GROUPS, *COMPARED)
"""The baselines that are shown, in the order of tables and plots."""
