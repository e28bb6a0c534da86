"""Adding examples: rows of paths and metadata become examples, after a look at every file."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

import attrs

from tsm_training.arguments import check_path
from tsm_training.data import TrainingExample, check_metadata
from tsm_training.errors import InvalidArgumentError, TsmTrainingError
from tsm_training.evaluation.evaluator import describe_files
from tsm_training.images import ImageLimits

__all__ = ["ExampleRow", "absolute_path", "examples_of"]

ExampleRow: TypeAlias = (
    tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str]]
    | tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str], Mapping[str, Any] | None]
)
"""Paths of source, target and ground truth, and perhaps metadata."""


def examples_of(rows: Iterable[ExampleRow], limits: ImageLimits) -> list[TrainingExample]:
    """Return the examples that rows describe; none of them is stored yet.

    Raises:
        InvalidArgumentError: `rows` cannot be gone through, or a row has not three or four entries.
        TsmTrainingError: a file or metadata cannot be used; with several rows, a note names the row.
    """
    if not isinstance(rows, Iterable):
        raise InvalidArgumentError("rows", rows, "tuples (source path, target path, ground truth path[, metadata])")
    rows = list(rows)
    examples = []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_example_of(row, limits))
        except TsmTrainingError as error:
            if len(rows) > 1:
                error.add_note(f"in row {number} of {len(rows)}{_target_of(row)}; no row was added")
            raise
    return examples


def _example_of(row: ExampleRow, limits: ImageLimits) -> TrainingExample:
    if len(row) not in (3, 4):
        raise InvalidArgumentError(
            "row", row, "a tuple (source path, target path, ground truth path) or the same with metadata"
        )
    metadata = check_metadata(row[3] if len(row) == 4 else None)  # noqa: PLR2004 - three paths and metadata
    example = TrainingExample(
        example_id=str(uuid.uuid4()),
        source_path=absolute_path("source_path", row[0]),
        target_path=absolute_path("target_path", row[1]),
        ground_truth_path=absolute_path("ground_truth_path", row[2]),
        created_at=datetime.now(UTC),
        metadata=metadata,
    )
    return attrs.evolve(example, files=describe_files(example, limits))


def _target_of(row: Sequence[object]) -> str:
    """Return the words that name a row by its target, or none if it has no such path."""
    with contextlib.suppress(TypeError, LookupError):  # it may be wrong in any way
        return f" (target {os.fspath(cast('str', row[1]))!r})"
    return ""


def absolute_path(argument: str, path: object) -> str:
    """Return a path as it is stored; InvalidArgumentError, which names the argument, if it cannot be."""
    text = check_path(argument, path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, text, "a path that UTF-8 can hold, since it is stored as text") from None
    return os.path.abspath(text)  # noqa: PTH100 - Path.absolute() would keep ".."
