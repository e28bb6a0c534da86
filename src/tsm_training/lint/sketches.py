"""What is kept of an image to compare it with others: small tables of numbers, and how far two of them are apart.

A sketch is made of a square of 128×128 pixels, whatever the image's size and shape, so that images of different
sizes can be compared. The thresholds below were measured on 24 photographs, as they are and under 12 film looks, with a
long side of 256 and of 512 pixels.
"""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.images import ImageInfo, ImageLimits, read_thumbnail
from tsm_training.metrics import padding

Floats: TypeAlias = npt.NDArray[np.float32]

Cells: TypeAlias = npt.NDArray[np.float32]
"""The mean colours of 8×8 equal parts of an image: float32, 8×8×3, BGR, values 0–255."""

SAME_COLORS: Final = 1.9
"""Two images are the same, but for how they were saved, if their colours differ by at most this many levels.

Saved as JPEG of quality 95, 75 and 50, the 20 built-in workers' images of 240 triples came to differ by at most 1.0,
1.7 and 1.9 from themselves (half of them by at most 0.1, 0.3 and 0.5). A film look was never nearer to the untouched
photograph than 2.4, nor any worker's image to the real truths of those triples than 2.8.
"""

NEAR_COLORS: Final = 2.2
"""Two images may be versions of one if their colours differ by at most this many levels.

JPEG of quality 30 is at most 1.0 away, another size 0.3, a row and a column cut off 1.5, two levels of brightness 2.0.
The nearest two of 13 looks of one photograph were 2.4 away, and of a triple all three images must be near.
"""

NEAR_BITS: Final = 10
"""Two images may show the same if their hashes differ in at most this many of 64 bits.

The versions above differ in at most 4, different photographs, whatever their looks, in 18 or more.
"""

NEAR_SHAPE: Final = 0.05
"""Two images may be versions of one if the logarithms of width / height differ by at most this, which is 5 %."""

SHOWN_AGREEMENT: Final = 0.5
"""A truth shows what another image shows if their edges agree at least this well.

Under 12 looks, black and white among them, 24 photographs agree with themselves by 0.89 to 1.00, and with each other by
at most 0.24.
"""

SWAP_MARGIN: Final = 0.25
"""Source and target are swapped if the truth agrees with the source by this much more than with the target.

Where both show the same scene it may agree with both.
"""

UNRELATED_AGREEMENT: Final = 0.3
"""A truth is unrelated to an image if their edges agree by less; see `SHOWN_AGREEMENT` for what was measured."""

FLAT_DEVIATION: Final = 3.0
"""An image is flat if no channel of its 128×128 means has a standard deviation of this many levels.

The least of the photographs and their looks was 36; a lens cap, or a single colour saved as JPEG, stays below 1.
"""

LARGE_PADDING: Final = 0.1
"""Padding is worth a word from this share of a picture on: it then decides what metrics of histograms say."""

LARGE_BORDER: Final = 0.02
"""So is a border that is no more than whole rows and columns; photographs hardly ever have one."""

OPPOSITE: Final = -0.5
"""Two pictures of one scene have exchanged channels if their differences of red and blue correlate by less than this.

And if one of them comes nearer to the other with its channels exchanged, tints apart. Of 55 truths under 8 looks, whose
correlation with their targets is 0.26 to 1.00, none is found, and 53 when they are exchanged; of 1,165 images that
workers made, 0.5 %, and 96 % when they are exchanged.
"""

_LEAST_SPREAD: Final = 2.0
"""In levels: differences of red and blue that vary by less from place to place tell nothing."""

HASH_BITS: Final = 64

_SIDE: Final = 128
_CELLS: Final = 8
_EDGE_SIDE: Final = 64
_HASH_SIDE: Final = 32
_LUMINANCE: Final = np.array([0.114, 0.587, 0.299], np.float32)
"""Shares of blue, green and red (ITU-R BT.601)."""

_DEAD_ZONE: Final = 1.0
"""Waves with a smaller amplitude count as none in the hash, so that noise on an even image gives no bits."""


class Sketch(NamedTuple):
    """What is kept of an image."""

    info: ImageInfo
    deviation: float
    """The largest standard deviation of a channel, in levels."""
    cells: Cells
    bits: Floats
    """The perceptual hash: 64 values, 1 or −1, so that a product of two counts the bits that agree."""
    edges: tuple[Floats, Floats]
    """How the brightness changes from place to place, with its direction and without: vectors of mean 0 and length 1,
    or of zeros where it does not change."""
    padding: float
    """The share of the pixels that are `tsm_training.metrics.padding`."""
    border: float
    """The share of the pixels that are in rows and columns at the edges with nothing but padding."""

    @property
    def is_flat(self) -> bool:
        """Tell whether the image has next to no variation."""
        return self.deviation < FLAT_DEVIATION

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.info.width, self.info.height

    def without_edges(self) -> Sketch:
        """Return what comparisons between examples need, a fortieth in size."""
        none = np.zeros(0, np.float32)
        return self._replace(edges=(none, none))


def sketch_of(path: str, limits: ImageLimits) -> Sketch:
    """Read an image file, once, and return its sketch.

    Raises:
        ImageError: it cannot be read.
    """
    info, square = read_thumbnail(path, _SIDE, limits)
    brightness = square.astype(np.float32) @ _LUMINANCE
    is_padding = padding(square)
    inside = math.prod(np.ptp(np.flatnonzero(~is_padding.all(axis=axis))) + 1 for axis in (0, 1))
    return Sketch(
        info=info,
        deviation=float(np.ascontiguousarray(square.reshape(-1, 3).T).std(axis=1).max()),
        cells=mean_cells(square),
        bits=_hash(_shrunk(brightness, _HASH_SIDE)),
        edges=_edges(_shrunk(brightness, _EDGE_SIDE)),
        padding=float(is_padding.mean()),
        border=1.0 - inside / is_padding.size,
    )


def mean_cells(image: Image) -> Cells:
    """Return the mean colours of 8×8 equal parts of an image (uint8, H×W×3, BGR) of any size."""
    rows, columns = (_parts(side) for side in image.shape[:2])
    along_rows = np.tensordot(rows, image.astype(np.float32), axes=1)
    return np.asarray(columns @ along_rows, np.float32)


@functools.lru_cache(256)
def _parts(side: int) -> Floats:
    """Return the share of each pixel in each of 8 equal parts of a line of pixels: 8×side, each row of sum 1."""
    starts = np.arange(_CELLS)[:, np.newaxis] * side / _CELLS
    pixels = np.arange(side)[np.newaxis, :]
    overlap = np.minimum(starts + side / _CELLS, pixels + 1) - np.maximum(starts, pixels)
    return np.asarray(np.maximum(overlap, 0.0) * _CELLS / side, np.float32)


def _shrunk(plane: Floats, side: int) -> Floats:
    """Return means over equal squares of a square plane."""
    step = len(plane) // side
    return np.asarray(plane.reshape(side, step, side, step).mean(axis=(1, 3)), np.float32)


# --- the perceptual hash --------------------------------------------------------------------------------------------


@functools.cache
def _waves() -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return the cosine transform of a line of 32 values (orthonormal), and the 64 slowest waves of a plane."""
    numbers = np.arange(_HASH_SIDE)
    transform = np.cos(np.pi / _HASH_SIDE * np.outer(numbers, numbers + 0.5)) * math.sqrt(2 / _HASH_SIDE)
    # In order of row + column, without the first: that is the mean, which brightness alone changes.
    down, across = np.divmod(np.arange(_HASH_SIDE**2), _HASH_SIDE)
    return transform.astype(np.float32), np.argsort(down + across, kind="stable")[1 : HASH_BITS + 1]


def _hash(brightness: Floats) -> Floats:
    """Return the signs of the slowest waves that make up a plane of 32×32."""
    transform, slowest = _waves()
    waves = (transform @ brightness @ transform.T).ravel()[slowest]
    return np.where(waves > _DEAD_ZONE, 1, -1).astype(np.float32)


# --- edges ----------------------------------------------------------------------------------------------------------


def _edges(brightness: Floats) -> tuple[Floats, Floats]:
    across = brightness[1:-1, 2:] - brightness[1:-1, :-2]
    down = brightness[2:, 1:-1] - brightness[:-2, 1:-1]
    return _unit(np.stack([across, down])), _unit(np.hypot(across, down))


def _unit(values: Floats) -> Floats:
    centred = (values - values.mean()).ravel()
    length = float(np.linalg.norm(centred))
    return np.asarray(centred / length if length > 0 else np.zeros_like(centred), np.float32)


def agreement(first: Sketch, second: Sketch) -> float:
    """Return how well the edges of two images agree, in [0, 1]: Pearson's correlation, the better of two.

    Of brightness changes with their direction, as a negative agrees too; or without, for looks that turn some tones
    around. Sizes may differ.
    """
    signed, unsigned = (float(a @ b) for a, b in zip(first.edges, second.edges, strict=True))
    return min(1.0, max(abs(signed), unsigned))


# --- sameness -------------------------------------------------------------------------------------------------------


def color_difference(first: Cells, second: Cells) -> npt.NDArray[np.float32]:
    """Return by how many levels the colours of two images differ, or of many: a number for each pair of 8×8×3 cells.

    The mean of two means: over the channels, and over the brightness. Saving as JPEG keeps the brightness of places
    better than their colours, which are stored more coarsely and clipped; a look does not.
    """
    differences = first - second
    means = np.abs(differences).mean(axis=(-3, -2, -1)) + np.abs(differences @ _LUMINANCE).mean(axis=(-2, -1))
    return np.asarray(means / 2, np.float32)


def outside_padding(first: Sketch, second: Sketch) -> float:
    """Return the share of the pixels that are not padding in both images: a difference is spread over these only."""
    return 1.0 - min(first.padding, second.padding)


def are_same(first: Sketch, second: Sketch) -> bool:
    """Tell whether two images are the same but for how they were saved."""
    differing_bits = (HASH_BITS - float(first.bits @ second.bits)) / 2
    difference = float(color_difference(first.cells, second.cells)) / outside_padding(first, second)
    return differing_bits <= NEAR_BITS and difference <= SAME_COLORS


def are_exchanged(image: Cells, other: Cells) -> bool | None:
    """Tell whether an image's red and blue are exchanged, by another one of its scene; None where none can tell."""
    image, other = (cells - cells.mean(axis=(0, 1)) for cells in (image, other))  # a tint says nothing
    ours, theirs = ((cells[..., 2] - cells[..., 0]).ravel() for cells in (image, other))
    if min(ours.std(), theirs.std()) < _LEAST_SPREAD:
        return None
    is_nearer = color_difference(image[..., ::-1], other) < color_difference(image, other)
    return bool(is_nearer and np.corrcoef(ours, theirs)[0, 1] < OPPOSITE)
