"""The whole inspection: every example by itself, then all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tsm_training.arguments import check_path, check_whole_number
from tsm_training.data import ROLES, check_metadata
from tsm_training.engine import TrainingEngine
from tsm_training.errors import InvalidArgumentError
from tsm_training.evaluation import check_group_by
from tsm_training.images import ImageLimits
from tsm_training.learning import label_of
from tsm_training.lint.duplicates import duplicate_findings, may_be_near
from tsm_training.lint.findings import SEVERITIES, LintFinding, LintReport, found
from tsm_training.lint.items import Item
from tsm_training.lint.outputs import Ensemble, self_made
from tsm_training.lint.pictures import Reader, inspect, reader
from tsm_training.text import counted

__all__ = ["MIN_EXAMPLES", "MIN_GROUP", "lint", "lint_store"]

MIN_EXAMPLES: Final = 20
"""How many examples there should be in all: the guide asks for 20 to 30."""

MIN_GROUP: Final = 8
"""How many examples a group should have by default: eight have 8 / 11 of the say against a prior strength of 3."""


def lint(
    rows: Iterable[Sequence[Any]],
    *,
    group_by: str | None = None,
    min_group: int = MIN_GROUP,
    limits: ImageLimits | None = None,
) -> LintReport:
    """Look for faults in candidates: triples of image files that might be added; needs no manager.

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
    grouping = _checked_grouping(group_by, min_group)
    if limits is not None and not isinstance(limits, ImageLimits):
        raise InvalidArgumentError("limits", limits, "ImageLimits, or None for the usual ones")
    return _report(_checked_rows(rows), [], reader(limits or ImageLimits()), None, grouping)


def lint_store(
    engine: TrainingEngine,
    rows: Iterable[Sequence[Any]] | None = None,
    *,
    group_by: str | None = None,
    min_group: int = MIN_GROUP,
    run_workers: bool = False,
) -> LintReport:
    """Look for faults in the store of an `engine`, or in candidates for it; see `TrainingManager.lint`."""
    grouping = _checked_grouping(group_by, min_group)
    if type(run_workers) is not bool:
        raise InvalidArgumentError("run_workers", run_workers, "True or False")
    candidates = None if rows is None else _checked_rows(rows)
    stored = [
        Item(each.example_id, (each.source_path, each.target_path, each.ground_truth_path), each.metadata, each.files)
        for each in engine.store.iterate_examples()
    ]
    asked, known = (stored, []) if candidates is None else (candidates, stored)
    return _report(asked, known, reader(engine.limits), Ensemble.of(engine, run_workers), grouping)


def _checked_grouping(group_by: str | None, min_group: int) -> tuple[str | None, int]:
    check_group_by(group_by)
    return group_by, check_whole_number("min_group", min_group)


def _checked_rows(rows: object) -> list[Item | LintFinding]:
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes, Mapping)):
        raise InvalidArgumentError("rows", rows, "tuples (source path, target path, truth path[, metadata])")
    return [_candidate(number, row) for number, row in enumerate(rows)]


def _candidate(number: int, row: object) -> Item | LintFinding:
    """Return a row as an item, or what is wrong with it."""
    try:
        if not isinstance(row, Sequence) or isinstance(row, (str, bytes)) or len(row) not in (3, 4):
            expected = "(source path, target path, truth path) or the same with metadata"
            raise InvalidArgumentError("a row", row, expected)
        source, target, truth = (check_path(f"{role}_path", path) for role, path in zip(ROLES, row, strict=False))
        (source + target + truth).encode()
        return Item(number, (source, target, truth), check_metadata(row[3]) if len(row) > len(ROLES) else None)
    except InvalidArgumentError as error:
        reason = str(error)
    except UnicodeEncodeError:
        reason = "a path must be text that UTF-8 can hold, since it is stored as text"
    except Exception as error:  # a foreign sequence, path or mapping may do anything
        reason = f"reading it raised {type(error).__name__}"
    return found("unusable_row", [Item(number, ("", "", ""), None)], reason=reason)


def _report(
    asked: Sequence[Item | LintFinding],
    known: Sequence[Item],
    read: Reader,
    ensemble: Ensemble | None,
    grouping: tuple[str | None, int],
) -> LintReport:
    """Inspect items.

    Args:
        asked: What the report is about.
        known: Stored examples that candidates may repeat; what is wrong with them alone is another question.
        read: How files are read.
        ensemble: What may have made a truth.
        grouping: A metadata key, or None, and how many different examples a group should have.
    """
    findings: list[LintFinding] = []
    items: list[Item] = []
    num_compared = 0
    for each in asked:
        if isinstance(each, LintFinding):
            findings.append(each)
            continue
        item, own = inspect(each, read)
        made, is_compared = self_made(item, ensemble)
        findings += [*own, *made]
        num_compared += is_compared
        items.append(item)
    are_near = zip(known, may_be_near(known, items), strict=True)
    items = [*(inspect(item, read)[0] if is_near else item for item, is_near in are_near), *items]
    together = [*duplicate_findings(items), *_tiny_groups(items, *grouping)]
    findings += [each for each in together if each.rows or not known]
    usable = _count(item for item in items if item.is_usable)
    if usable < MIN_EXAMPLES:
        count = counted(usable, "different usable example")
        findings.append(found("few_examples", [], count=count, least=MIN_EXAMPLES))
    kinds = list(SEVERITIES)
    return LintReport(tuple(sorted(findings, key=lambda each: kinds.index(each.kind))), len(asked), num_compared)


def _tiny_groups(items: Sequence[Item], group_by: str | None, min_group: int) -> list[LintFinding]:
    """Return the groups that are too small, and the examples that are in none."""
    if group_by is None:
        return []
    groups: dict[str | None, list[Item]] = {}
    for item in items:
        groups.setdefault(label_of((item.metadata or {}).get(group_by)), []).append(item)
    ungrouped = groups.pop(None, [])
    findings = []
    for label, group in groups.items():
        if (count := _count(group)) < min_group:
            has = f"the group {label!r} of {group_by!r} has {counted(count, 'different example')}"
            needed = f"{min_group} are needed before it can differ much from the others"
            findings.append(found("tiny_group", group, group=f"{has}; {needed}"))
    if ungrouped:
        none = (
            f"{len(ungrouped)} of {counted(len(items), 'example')} have no group under {group_by!r} in their metadata"
        )
        findings.append(found("tiny_group", ungrouped, group=none))
    return findings


def _count(items: Iterable[Item]) -> int:
    """Count different contents: the same triple counts once."""
    return len({item.digest for item in items})
