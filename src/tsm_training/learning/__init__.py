"""The learning rule: what is remembered of each example, groups, fitted blends, and weights files."""

from tsm_training.core import ExampleEvidence, Exposure, Outcome, SufficientStatistics, probability_best
from tsm_training.learning.files import (
    MAX_WEIGHTS_FILE_BYTES,
    WEIGHTS_FORMAT_VERSION,
    WeightsDocument,
    WeightsFile,
    WorkerFit,
    posterior_entries,
    read_weights_file,
    write_weights_file,
)
from tsm_training.learning.intervals import INTERVAL_MASS, credible_interval
from tsm_training.learning.state import (
    BlendFits,
    ExampleRow,
    FittedBlend,
    Group,
    LearnedState,
    Observation,
    decoded_state,
    head_document,
    label_of,
    row_documents,
    target_key,
    target_keys,
)

__all__ = [
    "INTERVAL_MASS",
    "MAX_WEIGHTS_FILE_BYTES",
    "WEIGHTS_FORMAT_VERSION",
    "BlendFits",
    "ExampleEvidence",
    "ExampleRow",
    "Exposure",
    "FittedBlend",
    "Group",
    "LearnedState",
    "Observation",
    "Outcome",
    "SufficientStatistics",
    "WeightsDocument",
    "WeightsFile",
    "WorkerFit",
    "credible_interval",
    "decoded_state",
    "head_document",
    "label_of",
    "posterior_entries",
    "probability_best",
    "read_weights_file",
    "row_documents",
    "target_key",
    "target_keys",
    "write_weights_file",
]
