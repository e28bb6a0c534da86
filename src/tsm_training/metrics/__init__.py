"""Comparing two pictures: metrics as pure functions and as objects, and what any other metric must look like."""

from tsm_training.metrics.combination import CombinedMetric
from tsm_training.metrics.delta_e import ColorDifference, ciede2000, color_difference, color_difference_map
from tsm_training.metrics.guide import GuideSimilarity, guide_similarity
from tsm_training.metrics.histograms import (
    HistogramDistance,
    histogram_correlation,
    histogram_distance,
    lab_histograms,
)
from tsm_training.metrics.lab import bgr_to_lab
from tsm_training.metrics.pixels import PeakSignalToNoise, mean_squared_error, psnr
from tsm_training.metrics.protocols import Metric, MetricThatStatesMemory, PreparableMetric, prepare_metric
from tsm_training.metrics.structure import SsimChannels, StructuralSimilarity, structural_similarity

__all__ = [
    "ColorDifference",
    "CombinedMetric",
    "GuideSimilarity",
    "HistogramDistance",
    "Metric",
    "MetricThatStatesMemory",
    "PeakSignalToNoise",
    "PreparableMetric",
    "SsimChannels",
    "StructuralSimilarity",
    "bgr_to_lab",
    "ciede2000",
    "color_difference",
    "color_difference_map",
    "guide_similarity",
    "histogram_correlation",
    "histogram_distance",
    "lab_histograms",
    "mean_squared_error",
    "prepare_metric",
    "psnr",
    "structural_similarity",
]
