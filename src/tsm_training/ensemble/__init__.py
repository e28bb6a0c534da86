"""The ensemble's answer: blending the workers' images, and finding the shares with which they are blended."""

from tsm_training.ensemble.because import MOST_NAMED, Because, hex_colors
from tsm_training.ensemble.blending import (
    NEGLIGIBLE_SHARE,
    PREVIEW_SIDE,
    Prediction,
    blend,
    color_strip,
    decode_preview,
    encode_preview,
    renormalised,
    sample_grid,
)
from tsm_training.ensemble.fitting import (
    COMPARED_SOLVERS,
    FEWEST_GROUPS,
    BlendFit,
    FixedShares,
    fit_blend,
    solver_named,
)
from tsm_training.ensemble.solvers import (
    MOST_BLENDS,
    BestSingle,
    BlendExample,
    BlendProblem,
    BlendSolver,
    EqualWeights,
    Greedy,
    LeastSquares,
    ProbabilityBest,
)

__all__ = [
    "COMPARED_SOLVERS",
    "FEWEST_GROUPS",
    "MOST_BLENDS",
    "MOST_NAMED",
    "NEGLIGIBLE_SHARE",
    "PREVIEW_SIDE",
    "Because",
    "BestSingle",
    "BlendExample",
    "BlendFit",
    "BlendProblem",
    "BlendSolver",
    "EqualWeights",
    "FixedShares",
    "Greedy",
    "LeastSquares",
    "Prediction",
    "ProbabilityBest",
    "blend",
    "color_strip",
    "decode_preview",
    "encode_preview",
    "fit_blend",
    "hex_colors",
    "renormalised",
    "sample_grid",
    "solver_named",
]
