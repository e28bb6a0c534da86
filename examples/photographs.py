"""Photographs for the quick start, and training examples made of them.

Each photograph is cut into four disjoint frames. One frame is graded with a film-like look and becomes the *source*;
the one beside it, left as it is, becomes the *target*; the target with the same look is the *ground truth*. It is as if
a lab had graded one picture of a shoot and somebody now wanted the next one to match.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from film_looks import LOOKS, Look
from tsm_training import Image, TsmTrainingError
from tsm_training.images import read_image, write_image

Row: TypeAlias = tuple[Path, Path, Path, dict[str, str]]
"""Paths of source, target and ground truth, and metadata."""

LONG_SIDE = 512
"""Photographs are shrunk to this many pixels; it keeps the quick start quick."""

FRAMES = 4
"""Frames per photograph: two rows of two."""

_BESIDE = (1, 0, 3, 2)
"""For each frame the other one of its row, which mostly shows the same things in the same light."""

_SHORTEST_SIDE = 64
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
_IN_PACKAGES = {
    "skimage": ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"],
    "sklearn": ["china.jpg", "flower.jpg"],
}
_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}


@dataclass(frozen=True)
class Photograph:
    """A photograph and the frames cut from it, each uint8, H×W×3, BGR."""

    name: str
    frames: tuple[Image, ...]


@dataclass(frozen=True)
class Triple:
    """The recipe of one training example."""

    look: Look
    photograph: Photograph
    source: Image
    target: Image

    @property
    def ground_truth(self) -> Image:
        """The wanted result: the target with the source's look."""
        return self.look.apply(self.target)


# --- photographs ----------------------------------------------------------------------------------------------------


def packaged_photographs() -> list[Path]:
    """Return the photographs that come inside the packages scikit-image and scikit-learn; nothing is downloaded."""
    folders = {package: _package_folder(package) for package in _IN_PACKAGES}
    paths = [folder / _FOLDERS[p] / name for p, folder in folders.items() if folder for name in _IN_PACKAGES[p]]
    return [path for path in paths if path.is_file()]


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)  # finds the package without importing it
    return Path(spec.origin).parent if spec and spec.origin else None


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())


def read_photographs(paths: Iterable[Path]) -> Iterator[Photograph]:
    """Read, shrink and cut photographs; one that cannot be used is skipped with a message on standard error."""
    for path in paths:
        try:
            picture = read_image(path)
        except TsmTrainingError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if min(picture.shape[:2]) < _SHORTEST_SIDE:
            print(f"skipped: {path} is smaller than {_SHORTEST_SIDE} pixels", file=sys.stderr)
            continue
        yield Photograph(path.stem, _cut(_shrunk(picture)))


def _shrunk(picture: Image) -> Image:
    height, width = picture.shape[:2]
    scale = LONG_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = max(2, round(width * scale)), max(2, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _cut(picture: Image) -> tuple[Image, ...]:
    height, width = (side // 2 for side in picture.shape[:2])
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    return tuple(picture[top : top + height, left : left + width].copy() for top, left in corners)


# --- training examples ----------------------------------------------------------------------------------------------


def most_triples(photographs: Sequence[Photograph]) -> int:
    """Return how many different triples there are: every frame with every look."""
    return len(photographs) * FRAMES * len(LOOKS)


def make_triples(photographs: Sequence[Photograph], count: int, *, other_scenes: bool = False) -> list[Triple]:
    """Return recipes of training examples in which photographs, frames and looks take turns.

    Args:
        photographs: At least one; two for `other_scenes`.
        count: How many triples, at most `most_triples`.
        other_scenes: Take each source from another photograph than its target, which makes the task much harder.
    """
    places = (divmod(number, len(photographs)) for number in range(count))
    return [_triple(photographs, turn, index, other_scenes) for turn, index in places]


def _triple(photographs: Sequence[Photograph], turn: int, index: int, other_scenes: bool) -> Triple:
    photograph = scene = photographs[index]
    if other_scenes:
        scene = photographs[(index + 1 + turn % (len(photographs) - 1)) % len(photographs)]
    look = LOOKS[(index + 3 * turn + turn // len(LOOKS)) % len(LOOKS)]
    frame = (index + turn) % FRAMES
    return Triple(look, photograph, look.apply(scene.frames[_BESIDE[frame]]), photograph.frames[frame])


def write_triples(triples: Sequence[Triple], folder: Path) -> list[Row]:
    """Write triples as PNG files and return rows for `TrainingManager.add_training_examples`.

    Args:
        triples: What to write.
        folder: Gets the folders ``sources``, ``targets`` and ``truths``; what an earlier run left in them is removed.
    """
    folders = [folder / name for name in ("sources", "targets", "truths")]
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    rows: list[Row] = []
    for number, triple in enumerate(triples):
        name = f"{number:03}_{triple.look.name.replace(' ', '_')}.png"
        source, target, truth = paths = [path / name for path in folders]
        for path, picture in zip(paths, (triple.source, triple.target, triple.ground_truth), strict=True):
            write_image(path, picture)
        rows.append((source, target, truth, {"look": triple.look.name, "photograph": triple.photograph.name}))
    return rows
