"""What can be wrong with a single example: its files, and what its three images show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import attrs

from tsm_training.data import ROLES, ExampleFiles, PictureFile
from tsm_training.errors import ImageError, ImageNotFoundError, ImageUnreadableError, InvalidArgumentError
from tsm_training.images import ImageLimits
from tsm_training.lint.findings import LintFinding, found
from tsm_training.lint.items import Action, Item
from tsm_training.lint.sketches import (
    SHOWN_AGREEMENT,
    SWAP_MARGIN,
    UNRELATED_AGREEMENT,
    Sketch,
    agreement,
    are_same,
    color_difference,
    sketch_of,
)

__all__ = ["Reader", "inspect", "reader"]

Reader: TypeAlias = Callable[[str], "Sketch | ImageError"]
"""Gives the sketch of an image file, or what is wrong with it; never raises."""

_REMEMBERED: Final = 64
"""How many sketches are kept at a time, about 50 kB each, for images that many examples share."""


def reader(limits: ImageLimits) -> Reader:
    """Return a reader that remembers the last few images."""
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


def inspect(item: Item, read: Reader) -> tuple[Item, list[LintFinding]]:
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
    files = ExampleFiles(_file(source), _file(target), _file(truth))
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
