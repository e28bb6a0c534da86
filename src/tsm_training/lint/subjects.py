"""What is looked at: stored examples and candidates alike, and the Python that would put one of them right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import attrs

from tsm_training.arguments import check_path
from tsm_training.data import ROLES, ExampleFiles, TrainingExample, check_metadata
from tsm_training.errors import InvalidArgumentError
from tsm_training.lint.findings import LintFinding, LintKind

__all__ = ["Subject", "finding", "of_example", "of_row", "removal"]

_ENTRIES: Final = (3, 4)
_SHORT_ID: Final = 8


@attrs.frozen(eq=False)
class Subject:
    """A stored example, or a candidate."""

    reference: str | int
    """The id of an example, or the place of a candidate in the list that was given, from 0."""
    paths: tuple[str, str, str]
    """Of source, target and truth."""
    metadata: Mapping[str, Any] | None
    """None where a candidate has none."""
    files: ExampleFiles | None = None
    """What is known of the contents: of an example since it was added, of a candidate once it was looked at."""

    @property
    def is_candidate(self) -> bool:
        """Tell whether it is not stored yet."""
        return isinstance(self.reference, int)

    @property
    def label(self) -> str:
        """A name for messages: of an example that of its target's file, and the beginning of its id."""
        if isinstance(self.reference, int):
            return f"rows[{self.reference}]"
        name, short = PurePath(self.paths[1]).stem, self.reference[:_SHORT_ID]
        return f"example {name!r} ({short}{'' if short == self.reference else '…'})"

    @property
    def digest(self) -> str:
        """What tells it apart from others: its contents, or where those are not known, its name."""
        return repr(self.reference) if self.files is None else self.files.digest

    def with_paths(self, source: str, target: str, truth: str) -> str:
        """Return the Python that has other files, or the same in other roles, take its place."""
        entries = [repr(path) for path in (source, target, truth)]
        if self.metadata is not None:
            entries.append(repr(dict(self.metadata)))
        if self.is_candidate:
            return f"rows[{self.reference}] = ({', '.join(entries)})"
        return f"{removal([self])}\nmanager.add_training_example({', '.join(entries)})"

    def with_truth(self) -> str:
        """Return the Python that gives it another truth."""
        if self.is_candidate:
            return self.with_paths(*self.paths[:2], "PATH")
        return f"manager.replace_ground_truth({self.reference!r}, 'PATH')"


def removal(subjects: Iterable[Subject]) -> str:
    """Return the Python that removes examples and empties the places of candidates, one line each.

    A place that is emptied moves no other, so what several findings say can be done in any order.
    """
    lines, rows = [], []
    for subject in subjects:
        if isinstance(subject.reference, int):
            rows.append(subject.reference)
        else:
            lines.append(f"manager.remove_training_example({subject.reference!r})")
    return "\n".join([*lines, *(f"rows[{row}] = None" for row in sorted(rows))])


def finding(
    kind: LintKind,
    subjects: Iterable[Subject],
    message: str,
    remedy: str,
    call: str = "",
    *,
    removable: Iterable[Subject] = (),
) -> LintFinding:
    """Return a finding about some subjects."""
    references = [subject.reference for subject in subjects]
    return LintFinding(
        kind,
        message,
        remedy,
        call,
        examples=tuple(reference for reference in references if isinstance(reference, str)),
        rows=tuple(reference for reference in references if isinstance(reference, int)),
        removable=tuple(subject.reference for subject in removable),
    )


def of_example(example: TrainingExample) -> Subject:
    """Return a stored example as a subject."""
    paths = (example.source_path, example.target_path, example.ground_truth_path)
    return Subject(example.example_id, paths, dict(example.metadata), example.files)


def of_row(number: int, row: object) -> Subject | LintFinding:
    """Return a candidate as a subject, or what is wrong with it."""
    try:
        return _subject(number, row)
    except InvalidArgumentError as error:
        reason = str(error)
    except Exception as error:  # a foreign sequence, path or mapping may do anything
        reason = f"reading it raised {type(error).__name__}"
    return LintFinding(
        "unusable_row",
        f"rows[{number}] cannot be added: {reason}.",
        "Give it the paths of source, target and truth, and perhaps metadata, or leave it out.",
        f"rows[{number}] = None",
        rows=(number,),
    )


def _subject(number: int, row: object) -> Subject:
    if not isinstance(row, Sequence) or isinstance(row, (str, bytes)) or len(row) not in _ENTRIES:
        raise InvalidArgumentError("a row", row, "(source path, target path, truth path) or the same with metadata")
    source, target, truth = (_storable(f"{role}_path", path) for role, path in zip(ROLES, row, strict=False))
    metadata = check_metadata(row[3]) if len(row) == max(_ENTRIES) else None
    return Subject(number, (source, target, truth), metadata)


def _storable(name: str, path: object) -> str:
    text = check_path(name, path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(name, text, "a path that UTF-8 can hold, since it is stored as text") from None
    return text
