"""Keeping what is found: evaluations are stored while others are made, and previews as far as there is room."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Final, TypeAlias

import attrs

from tsm_training.data import (
    PREVIEW_BYTES,
    ROLES,
    Evaluation,
    EvaluationKey,
    ObservationRecord,
    Preview,
    TrainingExample,
    TrainingStore,
)
from tsm_training.ensemble import PREVIEW_SIDE
from tsm_training.errors import TrainingStoppedError
from tsm_training.evaluation.evaluated import preview_name, preview_rank
from tsm_training.evaluation.scoring import ExampleInput, ScoredExample
from tsm_training.progress import ProgressReporter, write_log
from tsm_training.workers import PASSING_FAILURES

_COMMIT_SECONDS: Final = 0.5  # evaluations are kept at least once a second
_PNG_BYTES: Final = 256  # what a PNG file of noise takes beside its samples, and some more

Copies: TypeAlias = Mapping[str, Sequence[TrainingExample]]
"""Examples with known files, by digest: those with the same contents are evaluated once."""

FingerprintOf: TypeAlias = Callable[[str, str], str | None]
"""Gives the fingerprint of a worker, by its id, on an example, by its digest; None for an unknown one."""

ResultsOf: TypeAlias = Callable[[Callable[[], None]], Iterator[ScoredExample]]
"""Yields results, and calls the given function several times a second while it waits for the next."""


@contextlib.contextmanager
def attempting(purpose: str) -> Generator[None]:
    """Do what is left to do in a store when an error has ended the work: that error stays the one to report.

    Where it is Ctrl-C, or the store's own, nobody wants to wait for others once more. What fails is logged, as not
    having served its purpose.
    """
    try:
        yield
    except Exception as fault:
        write_log(logging.WARNING, "could not %s: %s", purpose, fault)


@attrs.define(eq=False, repr=False)
class FreshResults:
    """The evaluations of a call, by digest and worker id, as they come together; the latest wait to be stored."""

    store: TrainingStore | None
    """None keeps previews and observations for this call only."""
    metric: str
    """Fingerprint of the judge."""
    reader: str
    """How pictures were read; see `Evaluator.reader`."""
    clock: Callable[[], datetime]
    timer: Callable[[], float]
    """Gives seconds, for deciding when to commit."""
    reporter: ProgressReporter
    """Is told of each result."""
    copies: Copies
    fingerprint_of: FingerprintOf
    found: dict[str, dict[str, Evaluation]]
    before: Mapping[str, Mapping[str, Evaluation]] = attrs.field(factory=dict)
    """What was stored, where everything is evaluated anew."""
    observation_names: Mapping[str, str] = attrs.field(factory=dict)
    """The name of the observations of each trainable worker, by worker id."""
    superseding: tuple[str, ...] = ()
    """Ids of workers that were fitted anew; see `TrainingStore.save_evaluations`."""
    patience: float = _COMMIT_SECONDS
    """How long a result may wait for others to be committed with."""
    is_kept: bool = False
    """True where previews of outputs stay as long as the example."""
    pictured: Set[str] | None = None
    """Digests of the examples whose outputs get a preview; None for all."""
    skipped: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    """Why no copy of an example could be used, a reason for each, by digest."""
    previews: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """Previews that are kept for this call only, by digest and name."""
    observations: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """Observations that are kept for this call only, by name and example digest."""
    unobserved: dict[str, dict[str, str]] = attrs.field(factory=dict)
    """Why trainable workers could note nothing, by worker id and digest."""
    _cutoff: tuple[float, str] | None = None
    """What `TrainingStore.preview_cutoff` said last."""
    _room: int = attrs.field(factory=lambda: PREVIEW_BYTES)
    """How many bytes of previews can still be kept at most, as far as is known without asking the store again."""
    _reserved: dict[str, int] = attrs.field(factory=dict)
    """How many bytes the previews of examples under way take at most, by digest."""
    _waiting: tuple[list[Evaluation], list[Preview], list[ObservationRecord]] = attrs.field(
        factory=lambda: ([], [], [])
    )
    """What is not stored yet."""
    _since: float = 0.0
    """When that was last committed."""

    @property
    def changes(self) -> dict[str, float]:
        """By how much the accuracy of a worker changed at most where it was evaluated anew on the same inputs.

        Workers that gave the same everywhere are left out; giving a picture now and none then counts as 1.
        """
        largest: dict[str, float] = {}
        for digest, known in self.before.items():
            for worker_id, old in known.items():
                new = self.found.get(digest, {}).get(worker_id, old)
                if old.accuracy != new.accuracy:
                    both = old.accuracy is not None and new.accuracy is not None
                    change = abs((old.accuracy or 0.0) - (new.accuracy or 0.0)) if both else 1.0
                    largest[worker_id] = max(change, largest.get(worker_id, 0.0))
        return largest

    def has_room(self, example: ExampleInput) -> bool | None:
        """Tell whether previews of an example's outputs would be kept; None while that depends on what is under way.

        The answer is for an example that is begun now: where it is True, room is set aside until its result comes.
        """
        digest, target = example.digest, example.files.target
        if self.pictured is not None and digest not in self.pictured:
            return False
        if self.store is not None and self.is_kept:
            return True
        if self._is_full(digest):
            return False
        largest = 3 * min(target.width, PREVIEW_SIDE) * min(target.height, PREVIEW_SIDE) + _PNG_BYTES
        num_bytes = largest * (len(example.worker_ids) + (0 if self.store is not None else len(ROLES)))
        if sum(self._reserved.values()) + num_bytes > self._room:
            if self._reserved:
                return None
            self._commit(0.0)  # then the store knows
            if self._is_full(digest):
                return False
            if self._room <= 0:  # it has room all the same
                self._room = PREVIEW_BYTES
        self._reserved[digest] = num_bytes
        return True

    def _is_full(self, digest: str) -> bool:
        if self.store is None:
            return self._room <= 0
        # The example at the cutoff itself may have room for some of its previews.
        return self._cutoff is not None and (self._rank(digest) or 0.0, digest) > self._cutoff

    def _rank(self, digest: str) -> float | None:
        return None if self.is_kept else preview_rank(self.copies[digest][0].known_files.target.sha256)

    def collect(
        self,
        results: ResultsOf,
        total: int,
        call_off: Callable[[bool], Iterable[ScoredExample]] = lambda _finish: (),
    ) -> None:
        """Keep results as they come, at the latest `patience` seconds later, and whatever happens.

        Args:
            results: Given a function to call several times a second while it waits, yields results.
            total: How many there will be.
            call_off: Begins nothing more, and returns what was still made; given whether to finish what has begun.
        """
        if not total:
            return
        started, self._since = time.monotonic(), self.timer()
        total_accuracy, scored = 0.0, 0

        def poll() -> None:
            # A long evaluation must not keep those before it waiting.
            self._commit(self.patience)
            self.reporter.poll()

        try:
            self._look_for_room()
            for done, result in enumerate(results(poll), 1):
                self._add(result)
                valid = [score.accuracy for score in result.scores if score.accuracy is not None]
                total_accuracy, scored = total_accuracy + sum(valid), scored + len(valid)
                self._commit(self.patience)
                self.reporter.tell("evaluating", done, total, started, total_accuracy / scored if scored else None)
            self._commit(0.0)
        except BaseException as error:
            # Asked to stop, we wait for the examples that have begun; an error or Ctrl-C keeps what is done.
            leftover = call_off(isinstance(error, TrainingStoppedError))
            with attempting("keep the last evaluations"):
                self._commit(0.0)
                for result in leftover:
                    self._add(result)
                    self._commit(0.0)  # the next one may take long
            raise

    def _look_for_room(self) -> None:
        # What supersedes older previews makes room for itself, and is bounded anyway.
        if self.store is not None and not self.superseding:
            self._cutoff = self.store.preview_cutoff()

    def _commit(self, patience: float) -> None:
        evaluations, previews, observations = self._waiting
        if (evaluations or observations) and self.timer() - self._since >= patience:
            if self.store is not None:  # otherwise the caller has them for this call, and nobody else
                self.store.save_evaluations(evaluations, previews, observations, superseding=self.superseding)
            self._waiting = [], [], []
            self._since = self.timer()
            self._look_for_room()

    def _add(self, result: ScoredExample) -> None:
        digest = result.digest
        is_pictured = self._reserved.pop(digest, None) is not None
        if result.skipped:
            self.skipped[digest] = result.skipped
            return
        evaluations, previews, observations = self._waiting
        new = [Preview(digest, name, png, None) for name, png in result.input_previews.items()]
        now = self.clock()
        for score in result.scores:
            fingerprint = self.fingerprint_of(score.worker_id, digest) or ""
            key = EvaluationKey(digest, score.worker_id, fingerprint, self.metric, self.reader)
            fault = score.failure
            kind, error_type, message = (fault.kind, fault.error_type, fault.message) if fault else (None, None, None)
            outcome = score.accuracy, score.confidence, kind, error_type, message
            evaluation = Evaluation(key, *outcome, score.seconds, now)
            self.found.setdefault(digest, {})[score.worker_id] = evaluation
            if evaluation.failure_kind not in PASSING_FAILURES:  # those count in this call; the next one tries again
                evaluations.append(evaluation)
            if score.preview is not None:
                name = preview_name(score.worker_id, fingerprint)
                new.append(Preview(digest, name, score.preview, self._rank(digest)))
        previews += new
        for worker_id, content in result.observations.items():
            name = self.observation_names[worker_id]
            observations.append(ObservationRecord(digest, name, content))
            if self.store is None:
                self.observations.setdefault(name, {})[digest] = content
        for worker_id, reason in result.unobserved.items():
            self.unobserved.setdefault(worker_id, {})[digest] = reason
        if self.store is None and is_pictured:
            self.previews.setdefault(digest, {}).update({preview.name: preview.png for preview in new})
        self._room -= sum(len(preview.png) for preview in new if self.store is None or preview.rank is not None)
