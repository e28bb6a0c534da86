"""The built-in workers: a colour map and a strength."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, cast

import attrs
import numpy as np

from tsm_training.arrays import Image
from tsm_training.color_transfer.lattice import applied, lattice, median_of_change
from tsm_training.color_transfer.learned_look import LearnedLook
from tsm_training.color_transfer.maps import (
    ColorMap,
    HistogramMap,
    LinearMap,
    ReinhardMap,
    SlicedTransportMap,
    ToneAdaptiveMap,
    WhiteBalanceMap,
)
from tsm_training.color_transfer.spaces import CHANNELS, MOST_KEPT, Colors, kept_pixels, to_bgr
from tsm_training.errors import InvalidArgumentError
from tsm_training.images import ColorTable
from tsm_training.workers import Worker

_MEDIAN_SIZES: Final = (1, 3, 5)

_TABLES_AND_BANDS: Final = 6 * 1024**2


def _check_strength(_worker: object, _attribute: object, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InvalidArgumentError("strength", value, "a finite number of at least 0")


def _check_median_size(_worker: object, _attribute: object, value: object) -> None:
    if value not in _MEDIAN_SIZES:
        raise InvalidArgumentError("median_size", value, "1, 3 or 5")


@attrs.frozen
class ColorTransferWorker(Worker):
    """Applies a colour map, fully or in part.

    >>> gentle = ColorTransferWorker("gentle", LinearMap("lab"), strength=0.4)

    Args:
        worker_id: The worker's name.
        color_map: Where colours go at full strength.
        strength: How far they go: 0 leaves the target as it is, 1 applies the map, more exaggerates it. The blend is
            made in the map's colour space and clipped to the gamut.
        median_size: Side in pixels of the median filter over the colour change: 1 (none), 3 or 5.

    Raises:
        InvalidArgumentError: `strength` is negative or not finite, or `median_size` is another number.
    """

    worker_id: str
    color_map: ColorMap
    strength: float = attrs.field(default=1.0, converter=float, validator=_check_strength)
    median_size: int = attrs.field(default=1, validator=_check_median_size)

    version = "2"
    """Counts the changes of results that the classes' own source does not show."""

    reads_only = True
    """Inputs are never written into."""

    def working_memory(self, source_pixels: int, target_pixels: int, /) -> int:
        """Return how many bytes `process` takes: images of the target's size, and tables and bands of fixed sizes.

        What all workers need is kept: up to four megapixels of both images in Lab, and, of a target that is not large,
        where its pixels lie in a table, in as much memory as two images take.
        """
        pictures = 1 if self.median_size == 1 else 2
        kept = 2 * kept_pixels(target_pixels) + sum(min(n, MOST_KEPT) for n in (source_pixels, target_pixels))
        return CHANNELS * (pictures * target_pixels + kept) + _TABLES_AND_BANDS

    def process(self, data: Mapping[str, Image]) -> Image:
        """Give the target colours of the source.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each ``uint8``, H×W×3, BGR; sizes may differ.

        Returns:
            A new image, ``uint8``, BGR, of the target's size.
        """
        if self.strength == 0:
            return data["target"].copy()
        changed = applied(self._table(data), data)
        return changed if self.median_size == 1 else median_of_change(data["target"], changed, self.median_size)

    def get_color_table(self, data: Mapping[str, Image]) -> ColorTable | None:
        """Return where each colour goes; None with a median filter, which looks at more than a pixel's colour.

        Args:
            data: What `process` gets: two images, uint8, H×W×3, BGR.
        """
        return self._table(data) if self.median_size == 1 else None

    def _table(self, data: Mapping[str, Image]) -> ColorTable:
        if self.strength == 0:
            return ColorTable.identity()
        space = self.color_map.space
        colors = lattice(space)
        moved = self.color_map.fit(data)(colors)
        moved = cast("Colors", colors + np.float32(self.strength) * (moved - colors))
        return ColorTable(to_bgr(moved, space))


def create_color_transfer_workers() -> list[Worker]:
    """Return the built-in workers, new ones on every call.

    Besides the full methods there are mild versions of the strongest: on real photographs a part of the way is often
    better than all of it, and ``unchanged`` is a strong answer where source and target show different things. The last
    one, `LearnedLook`, answers once it was trained.
    """
    standard, rgb, histogram = ReinhardMap(), LinearMap("bgr"), HistogramMap()
    return [
        ColorTransferWorker("unchanged", standard, 0.0),
        ColorTransferWorker("standard_transfer", standard),
        ColorTransferWorker("intensity_30", standard, 0.3),
        ColorTransferWorker("intensity_70", standard, 0.7),
        ColorTransferWorker("intensity_90", standard, 0.9),
        ColorTransferWorker("intensity_120", standard, 1.2),
        ColorTransferWorker("median_filtered", standard, median_size=5),
        ColorTransferWorker("luminance_preserving", ReinhardMap("ab")),
        ColorTransferWorker("lightness_30", ReinhardMap("l"), 0.3),
        ColorTransferWorker("chroma_30", ReinhardMap("ab"), 0.3),
        ColorTransferWorker("adaptive_transfer", ToneAdaptiveMap()),
        ColorTransferWorker("histogram_matching", histogram),
        ColorTransferWorker("histogram_matching_30", histogram, 0.3),
        ColorTransferWorker("chroma_histogram_30", HistogramMap("ab"), 0.3),
        ColorTransferWorker("linear_map_lab", LinearMap("lab")),
        ColorTransferWorker("linear_map_rgb", rgb),
        ColorTransferWorker("linear_map_rgb_30", rgb, 0.3),
        ColorTransferWorker("linear_map_rgb_60", rgb, 0.6),
        ColorTransferWorker("sliced_transport", SlicedTransportMap()),
        ColorTransferWorker("white_balance", WhiteBalanceMap()),
        LearnedLook(),
    ]
