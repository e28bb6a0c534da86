"""The whole inspection: every example by itself, then all of them together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs

from tsm_training.arguments import check_path, check_whole_number
from tsm_training.data import ROLES, ExampleFiles, PictureFile, check_metadata
from tsm_training.engine import TrainingEngine
from tsm_training.errors import ImageError, ImageNotFoundError, ImageUnreadableError, InvalidArgumentError
from tsm_training.evaluation import check_group_by
from tsm_training.images import ImageLimits
from tsm_training.learning import label_of
from tsm_training.lint.duplicates import duplicate_findings, may_be_near
from tsm_training.lint.findings import SEVERITIES, Action, Item, LintFinding, LintReport, found, grouped
from tsm_training.lint.outputs import Ensemble, compared, exchanged_workers, unrepeatable_workers
from tsm_training.lint.sketches import (
    LARGE_BORDER,
    LARGE_PADDING,
    SHOWN_AGREEMENT,
    SWAP_MARGIN,
    UNRELATED_AGREEMENT,
    Sketch,
    agreement,
    are_same,
    color_difference,
    sketch_of,
)
from tsm_training.text import counted

MIN_EXAMPLES: Final = 20
"""How many examples there should be in all: the guide asks for 20 to 30."""

MIN_GROUP: Final = 8
"""How many examples a group should have by default: eight have 8 / 11 of the say against a prior strength of 3."""

Reader: TypeAlias = Callable[[str], "Sketch | ImageError"]
"""Gives the sketch of an image file, or what is wrong with it; never raises."""

_REMEMBERED: Final = 64
"""How many sketches are kept at a time, about 50 kB each, for images that many examples share."""


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
    check_group_by(group_by)
    min_group = check_whole_number("min_group", min_group)
    if limits is not None and not isinstance(limits, ImageLimits):
        raise InvalidArgumentError("limits", limits, "ImageLimits, or None for the usual ones")
    read = _reader(limits or ImageLimits())
    return _report(_checked_rows(rows), [], read, None, group_by=group_by, min_group=min_group)


def lint_store(
    engine: TrainingEngine,
    rows: Iterable[Sequence[Any]] | None = None,
    *,
    group_by: str | None = None,
    min_group: int = MIN_GROUP,
    run_workers: bool = False,
) -> LintReport:
    """Look for faults in the store of an `engine`, or in candidates for it; see `TrainingManager.lint`."""
    check_group_by(group_by)
    min_group = check_whole_number("min_group", min_group)
    if type(run_workers) is not bool:
        raise InvalidArgumentError("run_workers", run_workers, "True or False")
    candidates = None if rows is None else _checked_rows(rows)
    stored = [
        Item(each.example_id, (each.source_path, each.target_path, each.ground_truth_path), each.metadata, each.files)
        for each in engine.store.iterate_examples()
    ]
    asked, known = (stored, []) if candidates is None else (candidates, stored)
    ensemble = Ensemble.of(engine, run_workers)
    return _report(asked, known, _reader(engine.limits), ensemble, group_by=group_by, min_group=min_group)


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
    *,
    group_by: str | None,
    min_group: int,
) -> LintReport:
    """Inspect items.

    Args:
        asked: What the report is about.
        known: Stored examples that candidates may repeat; what is wrong with them alone is another question.
        read: How files are read.
        ensemble: What may have made a truth.
        group_by: A metadata key whose groups should not be too small, or None.
        min_group: How many different examples a group should have.
    """
    findings: list[LintFinding] = []
    items: list[Item] = []
    told: dict[str, list[tuple[Item, bool]]] = {}
    num_compared = 0
    for each in asked:
        if isinstance(each, LintFinding):
            findings.append(each)
            continue
        item, own = _inspect(each, read)
        comparison = compared(item, ensemble)
        findings += [*own, *comparison.findings]
        num_compared += comparison.is_compared
        for worker_id, is_exchanged in comparison.exchanged.items():
            told.setdefault(worker_id, []).append((item, is_exchanged))
        items.append(item)
    findings += exchanged_workers(told)
    findings += _constant_areas(items, ensemble)
    findings += _unlike_profiles(items)
    if ensemble is not None and ensemble.run_workers:
        findings += unrepeatable_workers(ensemble.engine, [item for item in items if not item.is_candidate])
    are_near = zip(known, may_be_near(known, items), strict=True)
    items = [*(_inspect(item, read)[0] if is_near else item for item, is_near in are_near), *items]
    together = duplicate_findings(items)
    if group_by is not None:
        together += _tiny_groups(items, group_by, min_group)
    findings += [each for each in together if each.rows or not known]
    usable = _count(item for item in items if item.is_usable)
    if usable < MIN_EXAMPLES:
        count = counted(usable, "different usable example")
        findings.append(found("few_examples", [], count=count, least=MIN_EXAMPLES))
    kinds = list(SEVERITIES)
    return LintReport(tuple(sorted(findings, key=lambda each: kinds.index(each.kind))), len(asked), num_compared)


def _constant_areas(items: Iterable[Item], ensemble: Ensemble | None) -> list[LintFinding]:
    """Return a finding about all examples with padding, unless the metric leaves it out."""
    if ensemble is not None:
        metric: object = ensemble.engine.metric
        judges = [metric, *(part for _weight, part in getattr(metric, "parts", ()))]
        if any(getattr(judge, "ignore_border", False) for judge in judges):
            return []
    shares = {}
    for item in items:
        if item.sketches is not None:
            _source, target, truth = item.sketches
            share = min(target.padding, truth.padding)
            if share > LARGE_PADDING or min(target.border, truth.border) > LARGE_BORDER:
                shares[item] = share
    if not shares:
        return []
    least, most = min(shares.values()), max(shares.values())
    return [found("constant_area", [*shares], least=least, most=most)]


def _unlike_profiles(items: Sequence[Item]) -> list[LintFinding]:
    """Return a finding for each way in which source, target and truth are in different colours."""
    seen = [item for item in items if item.sketches is not None]
    findings = []
    for profiles, group in grouped(seen, lambda item: tuple(_profile(s) for s in item.sketches or ())).items():
        names = cast("tuple[str, ...]", profiles)
        if len(set(names)) > 1:
            roles = zip(("source", "target", "truth"), names, strict=True)
            findings.append(found("profiles_differ", group, profiles=", ".join(f"{r} {name}" for r, name in roles)))
    return findings


def _profile(sketch: Sketch) -> str:
    """Return a name for the colours that a picture's numbers were taken for."""
    info = sketch.info
    return repr(info.profile) if info.conversion != "none" else "sRGB, or none that says otherwise"


def _tiny_groups(items: Sequence[Item], group_by: str, min_group: int) -> list[LintFinding]:
    """Return the groups that are too small, and the examples that are in none."""
    groups = grouped(items, lambda item: label_of((item.metadata or {}).get(group_by)))
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


# --- an example by itself -------------------------------------------------------------------------------------------


def _reader(limits: ImageLimits) -> Reader:
    """Return a reader that remembers the last few images."""

    @functools.lru_cache(_REMEMBERED)
    def read(path: str) -> Sketch | ImageError:
        try:
            return sketch_of(path, limits)
        except ImageError as error:
            return error
        except InvalidArgumentError as error:  # a database of another application's may hold anything
            return ImageUnreadableError(path, str(error))
        except MemoryError:
            return ImageUnreadableError(path, "cannot be read: memory ran out")

    return read


def _inspect(item: Item, read: Reader) -> tuple[Item, list[LintFinding]]:
    """Read the files of an item, each once.

    Returns:
        The item with what was seen, and what is wrong with it by itself. Whether the truth is the target is not asked:
        a worker's image may be nearer to it.
    """
    sketches: list[Sketch] = []
    findings: list[LintFinding] = []
    for role, name, path in zip(ROLES, ("source", "target", "truth"), item.paths, strict=True):
        seen, known = read(path), getattr(item.files, role, None)
        if isinstance(seen, ImageNotFoundError):
            findings.append(found("missing_file", [item], role=name, error=seen))
        elif isinstance(seen, ImageError):
            findings.append(found("unreadable_file", [item], role=name, error=seen))
        elif known is not None and known.sha256 != seen.info.sha256:
            findings.append(_changed(item, name, path, known, _file(seen)))
        else:
            sketches.append(seen)
    if findings:
        return attrs.evolve(item, is_usable=False), findings
    source, target, truth = sketches
    findings += _shown(item, source, target, truth)
    files = ExampleFiles(*map(_file, sketches))
    kept = source.without_edges(), target.without_edges(), truth.without_edges()
    return attrs.evolve(item, files=files, sketches=kept), findings


def _file(sketch: Sketch) -> PictureFile:
    info = sketch.info
    return PictureFile(info.sha256, info.num_bytes, info.width, info.height)


def _changed(item: Item, role: str, path: str, known: PictureFile, now: PictureFile) -> LintFinding:
    before, after = (
        f"{file.width}×{file.height} pixels, {file.num_bytes} bytes, SHA-256 {file.sha256[:8]}…"
        for file in (known, now)
    )
    is_as_large = (known.width, known.height) == (now.width, now.height)
    replaced: Action = "same truth" if is_as_large else "new truth"
    action: Action = replaced if role == "truth" else "same files"
    return found("changed_file", [item], action=action, role=role, path=path, before=before, now=after)


def _shown(item: Item, source: Sketch, target: Sketch, truth: Sketch) -> Iterator[LintFinding]:
    """Yield what is wrong with what the images show, each by itself and all of them together."""
    pictures = {"source": source, "target": target, "truth": truth}
    flat = [
        f"{name} {path!r} ({sketch.deviation:.1f} levels)"
        for path, (name, sketch) in zip(item.paths, pictures.items(), strict=True)
        if sketch.is_flat
    ]
    if flat:
        yield found("flat_picture", [item], flat=", ".join(flat))
    with_source, with_target = agreement(truth, source), agreement(truth, target)
    is_swapped = with_source >= SHOWN_AGREEMENT and with_source - with_target >= SWAP_MARGIN
    if target.size != truth.size and not (is_swapped and source.size == truth.size):
        sizes = [f"{width}×{height}" for width, height in (target.size, truth.size)]
        yield found("size_mismatch", [item], target_size=sizes[0], truth_size=sizes[1])
    if target.is_flat or truth.is_flat:
        return  # even images have nothing to be told apart by
    if are_same(source, truth):
        yield found("truth_is_source", [item], difference=float(color_difference(source.cells, truth.cells)))
    elif is_swapped:
        yield found("swapped", [item], with_source=with_source, with_target=with_target)
    elif max(with_source, with_target) < UNRELATED_AGREEMENT:
        yield found("unrelated_truth", [item], with_source=with_source, with_target=with_target)
    if are_same(source, target):
        yield found("source_is_target", [item], difference=float(color_difference(source.cells, target.cells)))
