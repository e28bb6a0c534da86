"""Dataset checks: what is wrong with examples before, or after, they are trained on.

`TrainingManager.lint` inspects the store, or candidates for it; `tsm_training.lint.lint` inspects candidates without a
manager. Every image is read once and shrunk at once; a few kilobytes per example are kept. The result is a
`LintReport`: each `LintFinding` says what is wrong with which examples, how bad it is, and what call puts it right.
Nothing is ever changed.

========================  ========  ==================================================================================
kind                      severity  what was found
========================  ========  ==================================================================================
missing_file              error     there is no file of that name
unreadable_file           error     a file is cut off, damaged, of a kind that is not accepted, too large, or out of
                                    bounds
changed_file              error     the contents are not those that were added
unusable_row              error     a candidate is no triple of paths, or its metadata cannot be stored
size_mismatch             error     target and truth differ in size
swapped                   error     the truth shows what the source shows, not what the target shows
truth_is_target           warning   the truth is the target, but for how it was saved
truth_is_source           warning   the truth is the source
source_is_target          warning   the source is the target
truth_is_worker_output    warning   the truth is what a worker makes
truth_is_ensemble_output  warning   the truth is what the ensemble makes, now or after a past training
truth_channels_swapped    warning   red and blue of the truth are exchanged
worker_channels_swapped   warning   red and blue of what a worker makes are exchanged
unrepeatable_worker       warning   a worker scores otherwise on the same pictures
unrelated_truth           warning   the truth shows neither what the target nor what the source shows
flat_picture              warning   an image has next to no variation
contradiction             warning   the same source and target, and different truths
duplicate                 warning   the same three files, byte for byte
near_duplicate            warning   the same three images, saved in another way or changed a little
tiny_group                warning   a group (`group_by`) that is too small for weights of its own
constant_area             info      one colour fills more than a tenth of target and truth, or is a border
profiles_differ           info      source, target and truth state colours of different spaces
shared_result             info      the same target and truth, and different sources: one finding for all
few_examples              info      fewer examples than are needed to say anything
========================  ========  ==================================================================================

That one photograph is the target of many examples is normal and no finding; nor is one photograph under several looks.
The thresholds, and what they were measured on, are in `tsm_training.lint.sketches`.
"""

from tsm_training.lint.findings import (
    SEVERITIES,
    FindingDocument,
    LintDocument,
    LintFinding,
    LintKind,
    LintReport,
    Severity,
)
from tsm_training.lint.linting import MIN_EXAMPLES, MIN_GROUP, lint, lint_store

__all__ = [
    "MIN_EXAMPLES",
    "MIN_GROUP",
    "SEVERITIES",
    "FindingDocument",
    "LintDocument",
    "LintFinding",
    "LintKind",
    "LintReport",
    "Severity",
    "lint",
    "lint_store",
]
