"""Calibrated answers: is one worker better than another, which is the best, and are these weights worth shipping?

Everything here is a pure function of a `ScoreTable`. No random numbers are used, and neither the order of examples nor
that of workers changes a bit of an answer.
"""

from tsm_training.analysis.baselines import COMPARED, SHOWN, Baseline
from tsm_training.analysis.best import BestDocument, BestWorker, probability_best
from tsm_training.analysis.paired import (
    BEYOND_DOUBT,
    DEFAULT_ROPE,
    MIN_EXAMPLES,
    Comparison,
    ComparisonDocument,
    Conclusion,
    check_rope,
    compare,
)
from tsm_training.analysis.partitions import adjusted_rand_index
from tsm_training.analysis.posterior import MIN_TO_SHOW, Posterior
from tsm_training.analysis.table import ScoreTable
from tsm_training.analysis.verdict import (
    RELATED,
    Decision,
    ExampleScores,
    Verdict,
    VerdictDocument,
    examples_for_half_width,
    judge,
)
from tsm_training.learning import INTERVAL_MASS

__all__ = [
    "BEYOND_DOUBT",
    "COMPARED",
    "DEFAULT_ROPE",
    "INTERVAL_MASS",
    "MIN_EXAMPLES",
    "MIN_TO_SHOW",
    "RELATED",
    "SHOWN",
    "Baseline",
    "BestDocument",
    "BestWorker",
    "Comparison",
    "ComparisonDocument",
    "Conclusion",
    "Decision",
    "ExampleScores",
    "Posterior",
    "ScoreTable",
    "Verdict",
    "VerdictDocument",
    "adjusted_rand_index",
    "check_rope",
    "compare",
    "examples_for_half_width",
    "judge",
    "probability_best",
]
