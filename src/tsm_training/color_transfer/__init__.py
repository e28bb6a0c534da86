"""Colour-transfer workers: the target keeps its content and takes on colours of the source.

Every worker is one colour map and a strength. A map says where each colour goes; it is fitted to the statistics of the
two images and evaluated on a lattice of colours only. The resulting 3-D table is then looked up for every pixel, so
that a costly map is no dearer on a large image than a cheap one, and none of them rounds to 8-bit Lab on the way.
"""

from tsm_training.color_transfer.clusters import LookCluster
from tsm_training.color_transfer.learned_look import LearnedLook
from tsm_training.color_transfer.maps import (
    Channels,
    ColorFunction,
    ColorMap,
    HistogramMap,
    LinearMap,
    ReinhardMap,
    SlicedTransportMap,
    ToneAdaptiveMap,
    WhiteBalanceMap,
)
from tsm_training.color_transfer.spaces import Colors, Space
from tsm_training.color_transfer.workers import ColorTransferWorker, create_color_transfer_workers

__all__ = [
    "Channels",
    "ColorFunction",
    "ColorMap",
    "ColorTransferWorker",
    "Colors",
    "HistogramMap",
    "LearnedLook",
    "LinearMap",
    "LookCluster",
    "ReinhardMap",
    "SlicedTransportMap",
    "Space",
    "ToneAdaptiveMap",
    "WhiteBalanceMap",
    "create_color_transfer_workers",
]
