"""What a trainable worker is fitted on: which examples, in which folds, and the document that a store keeps of it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Set
from typing import Final

import attrs

from tsm_training.data import TrainingExample
from tsm_training.evaluation.evaluator import observation_name
from tsm_training.evaluation.fitting import group_label
from tsm_training.evaluation.split import folds_of
from tsm_training.progress import write_log
from tsm_training.weights import Snapshot, WeightLearner
from tsm_training.workers import MOST_OBSERVATIONS, Observation

_FOLDS: Final = 5


@attrs.frozen(slots=False)
class Fit:
    """What a trainable worker is fitted on; the fitted worker follows from it and from the stored observations."""

    worker_id: str
    fingerprint: str
    """Of the worker as it was registered; its observations have it in their name."""
    identity: str = ""
    """What kind of worker, with which version and settings, made the observations: no other can be fitted on them."""
    rows: tuple[Observation, ...] = ()
    """Without data, which is in the store; in order of digest."""
    imported: tuple[Observation, ...] = ()
    """Observations that came with a weights file, in order of digest."""
    group_by: str | None = None
    """The metadata key that makes the groups."""
    state: bytes | None = attrs.field(default=None, repr=False)
    """What the worker made of the fit of all: empty where it gives nothing to store, None where it was not asked."""
    _selections: dict[int | None, tuple[Observation, ...]] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    _versions: dict[int | None, str] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def to_document(self) -> str:
        """Return the document that `fit_of` reads."""
        document = {
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "group_by": self.group_by,
            "rows": [attrs.astuple(row)[:-1] for row in self.rows],
            "imported": [[*attrs.astuple(o)[:-1], base64.b64encode(o.data).decode()] for o in self.imported],
            "state": None if self.state is None else base64.b64encode(self.state).decode(),
        }
        return json.dumps(document)

    @property
    def name(self) -> str:
        """The name of the observations."""
        return observation_name(self.worker_id, self.fingerprint)

    @functools.cached_property
    def _all_rows(self) -> tuple[Observation, ...]:
        by_digest = {row.digest: row for row in (*self.imported, *self.rows)}
        return tuple(by_digest[digest] for digest in sorted(by_digest))

    @functools.cached_property
    def _fold_of(self) -> dict[str, int]:
        return folds_of([row.target_digest for row in self._all_rows], _FOLDS, 0)

    @functools.cached_property
    def groups(self) -> frozenset[str]:
        """The groups that the fit knows."""
        return frozenset(row.group for row in self.selected(None) if row.group is not None)

    def fold_of(self, target: str) -> int | None:
        """Return the fold of the examples with this target; None where the fit knows none."""
        return self._fold_of.get(target)

    def selected(self, fold: int | None) -> tuple[Observation, ...]:
        """Return the examples that are fitted on for a fold, which leaves that fold out; for None, those for requests.

        At most 1,000, the first in order of digest, each group with one at least.
        """
        if fold not in self._selections:
            rows = [row for row in self._all_rows if fold is None or self._fold_of[row.target_digest] != fold]
            if len(rows) > MOST_OBSERVATIONS:
                first_of_group = {row.group: row.digest for row in reversed(rows)}
                first = set(first_of_group.values())
                order = sorted(rows, key=lambda row: (row.digest not in first, row.digest))
                rows = sorted(order[:MOST_OBSERVATIONS], key=lambda row: row.digest)
            self._selections[fold] = tuple(rows)
        return self._selections[fold]

    def is_possible(self, fewest: int) -> bool:
        """Tell whether every fold has enough to be fitted on, so that every example can be scored."""
        folds = sorted(set(self._fold_of.values())) if self.rows else []
        return all(len(self.selected(fold)) >= max(1, fewest) for fold in (None, *folds))

    def version(self, fold: int | None) -> str:
        """Return a text that changes with what is fitted on for a fold."""
        if fold not in self._versions:
            facts = []
            for row in self.selected(fold):
                *fact, data = attrs.astuple(row)
                facts.append([*fact, hashlib.sha256(data).hexdigest()] if data else fact)
            self._versions[fold] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self._versions[fold]

    def score_fingerprint(self, example: TrainingExample, *, is_sampled: bool) -> str:
        """Return what stands for the fitted worker in the key of its score on an example.

        It names what was fitted and the example's group; a ``~`` behind it says that samples of the pictures were
        scored.
        """
        fold = self.fold_of(example.known_files.target.sha256)
        label = group_label(example.metadata, self.group_by)
        group = "" if label is None else f".{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        return f"{self.fingerprint}.{self.version(fold)}{group}{'~' if is_sampled else ''}"


@functools.lru_cache(maxsize=8)
def fit_of(worker_id: str, document: str | None) -> Fit | None:
    """Return what a stored document says; None where there is none, or it is damaged."""
    if document is None:
        return None
    try:
        found = json.loads(document)
        rows = [Observation(digest, source, target, group, b"") for digest, source, target, group in found["rows"]]
        imported = [
            Observation(digest, source, target, group, base64.b64decode(data))
            for digest, source, target, group, data in found["imported"]
        ]
        return Fit(
            worker_id,
            found["fingerprint"],
            found["identity"],
            tuple(rows),
            tuple(imported),
            found["group_by"],
            None if found["state"] is None else base64.b64decode(found["state"]),
        )
    except (ValueError, TypeError, LookupError) as error:
        write_log(logging.WARNING, "what worker %r was fitted to cannot be read: %s", worker_id, error)
        return None


def forgotten(documents: Mapping[str, str], digests: Set[str]) -> dict[str, str]:
    """Return the documents without these examples: of the own ones, and of those that weights files brought."""
    kept = {}
    for worker_id, document in documents.items():
        fit = fit_of(worker_id, document)
        if fit is not None:
            rows = tuple(row for row in fit.rows if row.digest not in digests)
            imported = tuple(o for o in fit.imported if o.digest not in digests)
            if (len(rows), len(imported)) != (len(fit.rows), len(fit.imported)):
                document = attrs.evolve(fit, rows=rows, imported=imported, state=None).to_document()  # noqa: PLW2901
        kept[worker_id] = document
    return kept


def without(learner: WeightLearner, snapshot: Snapshot, digests: Set[str]) -> Snapshot:
    """Return what was learned, fits of workers included, without these examples."""
    if snapshot.state is None:
        return snapshot
    return Snapshot(learner.forget(snapshot.state, digests), forgotten(snapshot.fits, digests))
