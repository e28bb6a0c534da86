"""The scores from which everything here is computed: one column per worker or baseline, one row per example."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from tsm_training.arguments import is_number
from tsm_training.errors import InvalidArgumentError

_EXPECTED = "a number between 0 and 1, or None where there was no picture"


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _columns(scores: Mapping[str, Iterable[float | None]]) -> dict[str, tuple[float | None, ...]]:
    return {name: tuple(_score(value, name) for value in column) for name, column in scores.items()}


def _score(value: object, name: str) -> float | None:
    if value is None:
        return None
    if not is_number(value) or not 0.0 <= value <= 1.0:  # NaN is neither
        raise InvalidArgumentError(f"scores[{name!r}]", value, _EXPECTED)
    return float(value)


@attrs.frozen
class ScoreTable:
    """Scores of workers, or of baselines for a verdict, on the same examples.

    Raises:
        InvalidArgumentError: an id stands there twice, a column is longer or shorter than the ids, or a score is
            neither None nor a finite number in [0, 1].
    """

    example_ids: tuple[str, ...] = attrs.field(converter=_texts)
    groups: tuple[str, ...] = attrs.field(converter=_texts)
    """Names for each example the group that it belongs to: examples with the same target are not independent."""
    scores: Mapping[str, tuple[float | None, ...]] = attrs.field(converter=_columns)
    """Per worker id (or name of a baseline) one score for each example, in [0, 1]; None where it gave no image."""

    def __attrs_post_init__(self) -> None:
        """Check that each example stands there once, and that all columns are of one length."""
        if repeated := [each for each, count in Counter(self.example_ids).items() if count > 1]:
            raise InvalidArgumentError("example_ids", repeated[0], "ids that name each example once")
        columns = {"groups": self.groups, **{f"scores[{name!r}]": scores for name, scores in self.scores.items()}}
        for name, column in columns.items():
            if len(column) != len(self.example_ids):
                raise InvalidArgumentError(name, len(column), f"{len(self.example_ids)} entries, one per example")

    def column(self, name: str) -> tuple[float | None, ...]:
        """Return the scores of one worker or baseline.

        Raises:
            InvalidArgumentError: the table has no such column.
        """
        if name not in self.scores:
            raise InvalidArgumentError("name", name, f"one of {', '.join(map(repr, sorted(self.scores))) or 'none'}")
        return self.scores[name]

    def failures(self, name: str) -> int:
        """Return on how many examples one worker or baseline gave no image.

        Raises:
            InvalidArgumentError: the table has no such column.
        """
        return self.column(name).count(None)

    def group_means(self, values: Sequence[float | None]) -> list[float]:
        """Return the mean of each group's values, leaving out those that are None, and groups that have no other.

        Args:
            values: One for each example, or None.
        """
        members: dict[str, list[float]] = {}
        for group, value in zip(self.groups, values, strict=True):
            if value is not None:
                members.setdefault(group, []).append(value)
        return [math.fsum(group) / len(group) for group in members.values()]
