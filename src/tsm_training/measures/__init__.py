"""Metrics besides the guide's: pure functions of two pictures, and objects that prepare the ground truth."""

from tsm_training.measures.delta_e import ColorDifference, bgr_to_lab, ciede2000, color_difference, color_difference_map
from tsm_training.measures.histograms import (
    HistogramDistance,
    histogram_correlation,
    histogram_distance,
    lab_histograms,
)
from tsm_training.measures.padding import padding
from tsm_training.measures.prepared import PeakSignalToNoise, mean_squared_error, psnr
from tsm_training.measures.structure import SsimChannels, StructuralSimilarity, structural_similarity

__all__ = [
    "ColorDifference",
    "HistogramDistance",
    "PeakSignalToNoise",
    "SsimChannels",
    "StructuralSimilarity",
    "bgr_to_lab",
    "ciede2000",
    "color_difference",
    "color_difference_map",
    "histogram_correlation",
    "histogram_distance",
    "lab_histograms",
    "mean_squared_error",
    "padding",
    "psnr",
    "structural_similarity",
]
