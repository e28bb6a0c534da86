"""The heart of it: what evidence is, what it adds up to, and what follows for the workers' weights and shares.

Evaluating an example (`tsm_training.evaluation`) gives an `Outcome` of each worker. `exposed` says how far it is
absorbed, `advantages` compares it with its peers, `totals_of` makes exact sums of both, and `posterior_mean`,
`posterior_std` and `posterior_shares` say what the sums mean. What is remembered of each example, groups and fitted
blends are kept by `tsm_training.learning`.
"""

from tsm_training.core.exact import dumped, fixed, loaded, value
from tsm_training.core.posterior import (
    COUNTS,
    PRIOR_SPREAD,
    ExampleEvidence,
    Exposure,
    Outcome,
    SufficientStatistics,
    Totals,
    advantages,
    exposed,
    posterior_mean,
    posterior_shares,
    posterior_std,
    probability_best,
    target_totals,
    totals_of,
)

__all__ = [
    "COUNTS",
    "PRIOR_SPREAD",
    "ExampleEvidence",
    "Exposure",
    "Outcome",
    "SufficientStatistics",
    "Totals",
    "advantages",
    "dumped",
    "exposed",
    "fixed",
    "loaded",
    "posterior_mean",
    "posterior_shares",
    "posterior_std",
    "probability_best",
    "target_totals",
    "totals_of",
    "value",
]
