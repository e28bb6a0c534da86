"""What can be wrong with a single example: its files, and what its three pictures show."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from tsm_training.data import ROLES, ExampleFiles, PictureFile
from tsm_training.errors import (
    ImageError,
    ImageNotFoundError,
    ImageOutsideRootError,
    ImageUnreadableError,
    InvalidArgumentError,
)
from tsm_training.images import ImageLimits
from tsm_training.lint.findings import LintFinding
from tsm_training.lint.sketches import (
    SHOWN_AGREEMENT,
    SWAP_MARGIN,
    UNRELATED_AGREEMENT,
    Sketch,
    agreement,
    are_same,
    differing,
    sketch_of,
)
from tsm_training.lint.subjects import Subject, finding, removal

__all__ = ["ROLE_NAMES", "Looked", "Reader", "look_at", "reader", "related_findings"]

Reader: TypeAlias = Callable[[str], "Sketch | ImageError"]
"""Gives the sketch of a picture file, or what is wrong with it; never raises."""

ROLE_NAMES: Final = {"source": "source", "target": "target", "ground_truth": "truth"}
"""What messages call the roles."""

_REMEMBERED: Final = 64
"""How many sketches are kept at a time, about 50 kB each, for pictures that many examples share."""

_SWAP: Final = "Exchange source and target, unless the truth belongs to another example."


def reader(limits: ImageLimits) -> Reader:
    """Return a reader that remembers the last few pictures."""
    return functools.lru_cache(_REMEMBERED)(functools.partial(_read, limits))


def _read(limits: ImageLimits, path: str) -> Sketch | ImageError:
    try:
        return sketch_of(path, limits)
    except ImageError as error:
        return error
    except InvalidArgumentError as error:  # a database of another application's may hold anything
        return ImageUnreadableError(path, str(error))
    except MemoryError:
        return ImageUnreadableError(path, "cannot be read: memory ran out")


@attrs.frozen(eq=False)
class Looked:
    """A subject that was looked at."""

    subject: Subject
    """With the contents of its files, where all of them could be read."""
    sketches: tuple[Sketch, Sketch, Sketch] | None
    """Of source, target and truth; None unless all of them can be used together."""
    findings: tuple[LintFinding, ...] = ()
    """What is wrong with the files."""

    def without_edges(self) -> Looked:
        """Return what comparisons with other examples need."""
        if self.sketches is None:
            return self
        source, target, truth = self.sketches
        return attrs.evolve(self, sketches=(source.without_edges(), target.without_edges(), truth.without_edges()))


def look_at(subject: Subject, read: Reader) -> Looked:
    """Look at the files of a subject, each once."""
    sketches: list[Sketch] = []
    findings: list[LintFinding] = []
    for role, path in zip(ROLES, subject.paths, strict=True):
        seen = read(path)
        if isinstance(seen, ImageError):
            findings.append(_unread(subject, role, seen))
        elif (change := _change(subject, role, path, seen)) is not None:
            findings.append(change)
        else:
            sketches.append(seen)
    if findings:
        return Looked(subject, None, tuple(findings))
    source, target, truth = sketches
    files = ExampleFiles(*(_file(sketch) for sketch in sketches))
    return Looked(attrs.evolve(subject, files=files), (source, target, truth))


def _file(sketch: Sketch) -> PictureFile:
    info = sketch.info
    return PictureFile(info.sha256, info.num_bytes, info.width, info.height)


# --- files ----------------------------------------------------------------------------------------------------------


def _unread(subject: Subject, role: str, error: ImageError) -> LintFinding:
    message = f"{subject.label}: its {ROLE_NAMES[role]} cannot be used: {error}."
    if isinstance(error, ImageNotFoundError):
        remedy = "Find the file again where it has been moved to, or remove the example."
        call = "manager.relink('FOLDER')"
        if subject.is_candidate:
            remedy, call = "Correct the path, or leave the row out.", removal([subject])
        return finding("missing_file", [subject], message, remedy, call)
    remedy = "Restore the file or save it anew in an accepted format; else remove the example."
    if isinstance(error, ImageOutsideRootError):
        remedy = "Move it into the folder that pictures may come from; else remove the example."
    return finding("unreadable_file", [subject], message, remedy, removal([subject]))


def _change(subject: Subject, role: str, path: str, seen: Sketch) -> LintFinding | None:
    """Say that a file is not the one that was added, if so."""
    known: PictureFile | None = getattr(subject.files, role, None)
    if known is None or known.sha256 == seen.info.sha256:
        return None
    message = (
        f"{subject.label}: its {ROLE_NAMES[role]} {path!r} has changed since it was added: {_facts(known)} then, "
        f"{_facts(_file(seen))} now."
    )
    if role == "ground_truth":
        is_as_large = (seen.info.height, seen.info.width) == (known.height, known.width)
        call = f"manager.replace_ground_truth({subject.reference!r}, {path if is_as_large else 'PATH'!r})"
    else:
        call = subject.with_paths(*subject.paths)
    return finding(
        "changed_file", [subject], message, "Restore the old file, or have the library take the new one.", call
    )


def _facts(file: PictureFile) -> str:
    return f"{file.width}×{file.height} pixels, {file.num_bytes} bytes, SHA-256 {file.sha256[:8]}…"


# --- what the pictures show -----------------------------------------------------------------------------------------


def related_findings(looked: Looked) -> list[LintFinding]:
    """Return what is wrong with the three pictures of an example together.

    Whether the truth is the target is not asked here: a worker's picture may be nearer to it.
    """
    if looked.sketches is None:
        return []
    subject, (source, target, truth) = looked.subject, looked.sketches
    findings = [*_flat_pictures(subject, looked.sketches)]
    is_swapped = _is_swapped(source, target, truth)
    if target.size != truth.size and not (is_swapped and source.size == truth.size):
        findings.append(_size_mismatch(subject, target, truth))
    if target.is_flat or truth.is_flat:
        return findings  # even pictures have nothing to be told apart by
    if are_same(source, truth):
        findings.append(_same_as_source(subject, source, truth))
    elif is_swapped:
        findings.append(_swapped(subject, source, target, truth))
    elif max(agreement(truth, source), agreement(truth, target)) < UNRELATED_AGREEMENT:
        findings.append(_unrelated(subject, source, target, truth))
    if are_same(source, target):
        findings.append(_nothing_to_transfer(subject, source, target))
    return findings


def _flat_pictures(subject: Subject, sketches: tuple[Sketch, Sketch, Sketch]) -> list[LintFinding]:
    flat = [
        f"{ROLE_NAMES[role]} {path!r} ({sketch.deviation:.1f} levels)"
        for role, path, sketch in zip(ROLES, subject.paths, sketches, strict=True)
        if sketch.is_flat
    ]
    if not flat:
        return []
    message = f"{subject.label}: next to no variation (standard deviation) in its {', '.join(flat)}."
    return [
        finding(
            "flat_picture",
            [subject],
            message,
            "Remove the example unless an even picture is meant: nothing can be learned from it about colours.",
            removal([subject]),
        )
    ]


def _is_swapped(source: Sketch, target: Sketch, truth: Sketch) -> bool:
    with_source = agreement(truth, source)
    return with_source >= SHOWN_AGREEMENT and with_source - agreement(truth, target) >= SWAP_MARGIN


def _edges_of(subject: Subject, source: Sketch, target: Sketch, truth: Sketch) -> str:
    return (
        f"the edges of its truth {subject.paths[2]!r} agree with those of its source {subject.paths[0]!r} by "
        f"{agreement(truth, source):.2f}, of its target {subject.paths[1]!r} by {agreement(truth, target):.2f}"
    )


def _swapped(subject: Subject, source: Sketch, target: Sketch, truth: Sketch) -> LintFinding:
    message = f"{subject.label}: {_edges_of(subject, source, target, truth)}."
    first, second, third = subject.paths
    return finding("swapped", [subject], message, _SWAP, subject.with_paths(second, first, third))


def _unrelated(subject: Subject, source: Sketch, target: Sketch, truth: Sketch) -> LintFinding:
    message = f"{subject.label}: {_edges_of(subject, source, target, truth)}."
    remedy = "Give it the truth that was made of this target, or remove it."
    return finding("unrelated_truth", [subject], message, remedy, subject.with_truth())


def _size_mismatch(subject: Subject, target: Sketch, truth: Sketch) -> LintFinding:
    sizes = [f"{width}×{height}" for width, height in (target.size, truth.size)]
    message = (
        f"{subject.label}: its target {subject.paths[1]!r} has {sizes[0]} pixels, its truth {subject.paths[2]!r} "
        f"{sizes[1]}."
    )
    remedy = "Give it a truth of exactly the target's size, not scaled from another one if that can be helped."
    return finding("size_mismatch", [subject], message, remedy, subject.with_truth())


def _same_as_source(subject: Subject, source: Sketch, truth: Sketch) -> LintFinding:
    message = (
        f"{subject.label}: its truth {subject.paths[2]!r} is its source {subject.paths[0]!r} "
        f"({differing(source.cells, truth.cells)})."
    )
    remedy = "Give it the wanted result for the target as truth, or another source, or remove it."
    return finding("truth_is_source", [subject], message, remedy, subject.with_truth())


def _nothing_to_transfer(subject: Subject, source: Sketch, target: Sketch) -> LintFinding:
    message = (
        f"{subject.label}: its source {subject.paths[0]!r} is its target {subject.paths[1]!r} "
        f"({differing(source.cells, target.cells)})."
    )
    remedy = "Give it another source, or remove it: there are no colours to transfer."
    return finding("source_is_target", [subject], message, remedy, subject.with_paths("PATH", *subject.paths[1:]))
