"""What is learned about workers: the rule, the learner, and weights files."""

from tsm_training.weights.files import (
    MAX_WEIGHTS_FILE_BYTES,
    WEIGHTS_FORMAT_VERSION,
    PlainWeightsDocument,
    PosteriorSums,
    WeightsDocument,
    WeightsFile,
    read_weights_file,
    weights_document,
    write_weights_file,
)
from tsm_training.weights.learner import (
    CREDIBLE_MASS,
    BayesianWeightLearner,
    CellHome,
    LearnerCell,
    LearnerStatistics,
    WeightLearner,
    WorkerProgressStatistics,
    reset_state,
)
from tsm_training.weights.rule import (
    PRIOR_SPREAD,
    absorb,
    forget,
    posterior_mean,
    posterior_std,
    probability_best,
    with_workers,
)

__all__ = [
    "CREDIBLE_MASS",
    "MAX_WEIGHTS_FILE_BYTES",
    "PRIOR_SPREAD",
    "WEIGHTS_FORMAT_VERSION",
    "BayesianWeightLearner",
    "CellHome",
    "LearnerCell",
    "LearnerStatistics",
    "PlainWeightsDocument",
    "PosteriorSums",
    "WeightLearner",
    "WeightsDocument",
    "WeightsFile",
    "WorkerProgressStatistics",
    "absorb",
    "forget",
    "posterior_mean",
    "posterior_std",
    "probability_best",
    "read_weights_file",
    "reset_state",
    "weights_document",
    "with_workers",
    "write_weights_file",
]
