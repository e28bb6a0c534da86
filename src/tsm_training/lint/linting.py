"""The whole look: every example by itself, then all of them together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from tsm_training.arguments import at_least
from tsm_training.engine import TrainingEngine
from tsm_training.errors import InvalidArgumentError
from tsm_training.images import ImageLimits
from tsm_training.lint.duplicates import duplicate_findings, may_be_near
from tsm_training.lint.findings import SEVERITIES, LintFinding, LintReport
from tsm_training.lint.outputs import Ensemble, NoEnsemble, WhatIsKnown, self_made
from tsm_training.lint.pictures import Looked, Reader, look_at, reader, related_findings
from tsm_training.lint.subjects import Subject, finding, of_example, of_row
from tsm_training.markup import counted

__all__ = ["MIN_EXAMPLES", "MIN_GROUP", "lint", "lint_store"]

MIN_EXAMPLES: Final = 20
"""How many examples there should be in all: the guide asks for 20 to 30."""

MIN_GROUP: Final = 8
"""How many examples a group should have by default: eight have 8 / 11 of the say against a prior strength of 3."""

_KINDS: Final = list(SEVERITIES)


def lint(
    rows: Iterable[Sequence[Any]],
    *,
    group_by: str | None = None,
    min_group: int = MIN_GROUP,
    limits: ImageLimits | None = None,
) -> LintReport:
    """Look for faults in candidates: triples of picture files that might be added; needs no manager.

    Args:
        rows: Per candidate source, target and truth path, and perhaps metadata, as for
            `TrainingManager.add_training_examples`.
        group_by: A metadata key: groups of fewer than `min_group` candidates are reported.
        min_group: At least 1.
        limits: Which files may be read.

    Returns:
        The findings; candidates are named by their place in `rows`, from 0.

    Raises:
        InvalidArgumentError: `rows` cannot be gone through, or another argument is not what it must be. A faulty row is
            a finding.
    """
    grouping = _Grouping(group_by, min_group)
    if limits is not None and not isinstance(limits, ImageLimits):
        raise InvalidArgumentError("limits", limits, "ImageLimits, or None for the usual ones")
    look = _Look(reader(limits or ImageLimits()), NoEnsemble(), grouping)
    return look.at_candidates(_checked_rows(rows), [])


def lint_store(
    engine: TrainingEngine,
    rows: Iterable[Sequence[Any]] | None = None,
    *,
    group_by: str | None = None,
    min_group: int = MIN_GROUP,
    run_workers: bool = False,
) -> LintReport:
    """Look for faults in an engine's store, or in candidates for it; see `TrainingManager.lint`."""
    grouping = _Grouping(group_by, min_group)
    if type(run_workers) is not bool:
        raise InvalidArgumentError("run_workers", run_workers, "True or False")
    candidates = None if rows is None else _checked_rows(rows)
    stored = [of_example(example) for example in engine.store.iterate_examples()]
    look = _Look(reader(engine.limits), Ensemble(engine, run_workers), grouping)
    return look.at_examples(stored) if candidates is None else look.at_candidates(candidates, stored)


def _checked_rows(rows: object) -> list[Subject | LintFinding]:
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes, Mapping)):
        raise InvalidArgumentError("rows", rows, "tuples (source path, target path, truth path[, metadata])")
    return [of_row(number, row) for number, row in enumerate(rows)]


# --- groups and numbers ---------------------------------------------------------------------------------------------


def _optional_key(_instance: object, attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(attribute.name, value, "a metadata key, or None")


@attrs.frozen
class _Grouping:
    """By what examples are grouped, and how many a group should have."""

    group_by: str | None = attrs.field(validator=_optional_key)
    min_group: int = attrs.field(validator=at_least(1))

    def findings(self, subjects: Sequence[Subject]) -> list[LintFinding]:
        """Return the groups that are too small."""
        if self.group_by is None:
            return []
        groups: dict[str, list[Subject]] = {}
        for subject in subjects:
            value = (subject.metadata or {}).get(self.group_by)
            groups.setdefault("" if value is None else _shown(value), []).append(subject)
        without = groups.pop("", [])
        found = [self._tiny(name, group) for name, group in groups.items() if _count(group) < self.min_group]
        return [*found, self._without(without, len(subjects))] if without else found

    def _tiny(self, name: str, group: Sequence[Subject]) -> LintFinding:
        examples = counted(_count(group), "different example")
        message = (
            f"the group {self.group_by} = {name} has {examples}; {self.min_group} are needed before it can differ much "
            "from the others."
        )
        remedy = "Add more examples of it, or join it with a group that is like it."
        return finding("tiny_group", group, message, remedy, "manager.add_training_examples(ROWS)")

    def _without(self, group: Sequence[Subject], total: int) -> LintFinding:
        message = f"{len(group)} of {total} examples belong to no group: their metadata have no {self.group_by!r}."
        remedy = "Add them with that key, unless they are meant to count for no group of their own."
        return finding("tiny_group", group, message, remedy)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _count(subjects: Iterable[Subject]) -> int:
    """Count different contents: the same triple counts once."""
    return len({subject.digest for subject in subjects})


def _few_examples(usable: Sequence[Subject]) -> list[LintFinding]:
    count = _count(usable)
    if count >= MIN_EXAMPLES:
        return []
    message = (
        f"there {'is' if count == 1 else 'are'} {counted(count, 'different usable example')} in all; with less than "
        f"{MIN_EXAMPLES}, weights stay vague."
    )
    call = "manager.add_training_examples(ROWS)"
    return [finding("few_examples", [], message, "Add more, as different from each other as later requests.", call)]


# --- the look -------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Look:
    """One look: what it needs, and what it has found so far."""

    read: Reader
    ensemble: WhatIsKnown
    grouping: _Grouping
    findings: list[LintFinding] = attrs.field(factory=list)
    num_compared: int = 0

    def at_examples(self, stored: Sequence[Subject]) -> LintReport:
        """Look at all stored examples."""
        looked = [self._single(subject) for subject in stored]
        self.findings += self._together(looked)
        return self._report(looked, len(stored))

    def at_candidates(self, candidates: Sequence[Subject | LintFinding], stored: Sequence[Subject]) -> LintReport:
        """Look at candidates, and at stored examples as far as candidates might repeat them."""
        self.findings += [candidate for candidate in candidates if isinstance(candidate, LintFinding)]
        looked = [self._single(candidate) for candidate in candidates if isinstance(candidate, Subject)]
        looked = [*self._possible_repeats(stored, looked), *looked]
        # What is stored already is another question.
        self.findings += [found for found in self._together(looked) if found.rows]
        return self._report(looked, len(candidates))

    def _single(self, subject: Subject) -> Looked:
        looked = look_at(subject, self.read)
        self.findings += [*looked.findings, *related_findings(looked)]
        found, was_compared = self_made(looked, self.ensemble)
        self.findings += found
        self.num_compared += was_compared
        return looked.without_edges()

    def _possible_repeats(self, stored: Sequence[Subject], candidates: Sequence[Looked]) -> list[Looked]:
        """Return the stored examples, with sketches where their pictures have the shapes of a candidate's."""
        are_near = may_be_near(stored, [item.subject for item in candidates])
        return [
            look_at(subject, self.read).without_edges() if is_near else Looked(subject, None)
            for subject, is_near in zip(stored, are_near, strict=True)
        ]

    def _together(self, looked: Sequence[Looked]) -> list[LintFinding]:
        return [*duplicate_findings(looked), *self.grouping.findings([item.subject for item in looked])]

    def _report(self, looked: Sequence[Looked], num_examples: int) -> LintReport:
        self.findings += _few_examples([item.subject for item in looked if not item.findings])
        ordered = sorted(self.findings, key=lambda found: _KINDS.index(found.kind))
        return LintReport(tuple(ordered), num_examples, self.num_compared)
