"""Whether the examples behind an answer are the right ones, and whether looks are found without labels.

Of the 160 triples of ``looks.py``: which example an answer names first where the request shows nearly a training
example's own pictures, how far answers move when the five named examples are removed and when five others are, and how
well the looks found agree with the styles. Exits with 1 if a figure is out of bounds.

    python benchmarks/because.py [--full]

TSM_TRAINING_REAL_DATA names the folder of photographs and looks; without it there is nothing to measure.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from looks import Data, built
from tsm_training import Image, LearnedLook, Observation
from tsm_training.analysis import adjusted_rand_index

REMOVED: Final = 5
REQUESTS: Final = 14 if "--full" in sys.argv else 6


def observed(data: Data) -> list[Observation]:
    notes = []
    for index in range(len(data.rows)):
        pictures = data.pictures(index)
        source, target, _truth = (hashlib.sha256(each.tobytes()).hexdigest() for each in pictures)
        notes.append(Observation(f"{index:064x}", source, target, None, LearnedLook().observe(*pictures)))
    return notes


def looks_found(data: Data) -> tuple[int, float]:
    """Return how many looks there are, examples that are alone included, and their agreement with the styles."""
    found = LearnedLook().find_looks(observed(data))
    look_of = {place: number for number, look in enumerate(found) for place in look.members}
    return len(found), adjusted_rand_index([look_of[place] for place in range(len(look_of))], data.style.tolist())


def nearly(picture: Image) -> Image:
    changed: Image = np.clip(picture[8:-8, 8:-8] * 1.02 + 1, 0, 255).astype(np.uint8)
    return changed


def ranked(fitted: Any, request: dict[str, Image]) -> list[str]:
    influence = fitted.get_influence(request, request["target"])
    return sorted(influence, key=lambda digest: -influence[digest])


def named_first(data: Data, notes: list[Observation]) -> tuple[float, float]:
    """Return how often a neighbour's own example is named first, and how often one with its target photograph."""
    fitted = LearnedLook().fit(notes)
    same, photograph = [], []
    for index in range(0, len(notes), 2):
        source, target, _truth = data.pictures(index)
        first = int(ranked(fitted, {"source": nearly(source), "target": nearly(target)})[0], 16)
        same.append(first == index)
        photograph.append(data.target[first] == data.target[index])
    return fmean(same), fmean(photograph)


def changes(data: Data, notes: list[Observation]) -> tuple[list[float], list[float]]:
    """Return how far answers move, in levels, without the named examples and without others drawn at random."""
    rng = np.random.default_rng(1)
    held_out = rng.permutation(len(notes))[: len(notes) // 4]
    training = [note for index, note in enumerate(notes) if index not in set(held_out.tolist())]
    fitted = LearnedLook().fit(training)
    by_named: list[float] = []
    by_others: list[float] = []
    for index in held_out[:REQUESTS].tolist():
        source, target, _truth = data.pictures(index)
        request = {"source": source, "target": target}
        answer = fitted.process(request).astype(float)
        order = ranked(fitted, request)
        others = rng.permutation(order[REMOVED:])[:REMOVED].tolist()
        for found, removed in ((by_named, order[:REMOVED]), (by_others, others)):
            rest = LearnedLook().fit([note for note in training if note.digest not in removed])
            found.append(float(np.abs(rest.process(request) - answer).mean()))
    return by_named, by_others


def main() -> int:
    folder = os.environ.get("TSM_TRAINING_REAL_DATA")
    if not folder:
        print("TSM_TRAINING_REAL_DATA is not set: nothing to measure")
        return 0
    is_good = True
    with tempfile.TemporaryDirectory() as name:
        for file_format in ("png", "jpg") if "--full" in sys.argv else ("png",):
            data = built(Path(folder), Path(name) / file_format, file_format)
            count, agreement = looks_found(data)
            print(f"{file_format}: {count} looks found among 160 examples of 12, adjusted Rand index {agreement:.3f}")
            is_good &= agreement >= 0.95
        data = built(Path(folder), Path(name) / "png", "png")
        notes = observed(data)
        same, photograph = named_first(data, notes)
        print(f"nearly an example's own pictures: it is named first in {same:.0%}, its photograph in {photograph:.0%}")
        by_named, by_others = changes(data, notes)
        more = sum(a > b for a, b in zip(by_named, by_others, strict=True))
        print(f"without the five named: {fmean(by_named):.2f} levels, without five others: {fmean(by_others):.2f}")
        print(f"more without the named ones in {more} of {len(by_named)}")
        is_good &= photograph >= 0.85 and fmean(by_named) > 3 * fmean(by_others)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
