"""What is learned about workers: the learner; its rule and weights files are in `learning`."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Final, Protocol, TypedDict, runtime_checkable

import attrs

from tsm_training.arguments import check_number, is_number, number_between
from tsm_training.errors import InvalidArgumentError, TrainingInProgressError
from tsm_training.learning import (
    MAX_WEIGHTS_FILE_BYTES,
    PRIOR_SPREAD,
    WEIGHTS_FORMAT_VERSION,
    BlendDocument,
    ExampleEvidence,
    FitDocument,
    GroupDocument,
    LearnedState,
    ObservationDocument,
    PlainWeightsDocument,
    PosteriorSums,
    WeightsDocument,
    WeightsFile,
    WorkerBase,
    WorkerFit,
    absorb,
    forget,
    in_group,
    label_of,
    posterior_mean,
    posterior_std,
    probability_best,
    read_weights_file,
    refitted,
    rule,
    weights_document,
    with_fits,
    with_workers,
    write_weights_file,
)

__all__ = [
    "CREDIBLE_MASS",
    "MAX_WEIGHTS_FILE_BYTES",
    "PRIOR_SPREAD",
    "WEIGHTS_FORMAT_VERSION",
    "BayesianWeightLearner",
    "BlendDocument",
    "CellHome",
    "FitDocument",
    "GroupDocument",
    "LearnerCell",
    "LearnerStatistics",
    "ObservationDocument",
    "PlainWeightsDocument",
    "PosteriorSums",
    "WeightLearner",
    "WeightsDocument",
    "WeightsFile",
    "WorkerFit",
    "WorkerProgressStatistics",
    "absorb",
    "forget",
    "in_group",
    "posterior_mean",
    "posterior_std",
    "probability_best",
    "read_weights_file",
    "refitted",
    "reset_state",
    "weights_document",
    "with_fits",
    "with_workers",
    "write_weights_file",
]

CREDIBLE_MASS: Final = 0.9
"""Posterior probability inside a credible interval."""

_MAX_SETTING: Final = 1e9
_HALF_WIDTH: Final = NormalDist().inv_cdf(0.5 + CREDIBLE_MASS / 2)


class WorkerProgressStatistics(TypedDict):
    """What the guide promises of a worker's statistics."""

    mean_accuracy: float | None
    """Mean similarity over the absorbed examples on which it gave a picture; None where there are none."""
    update_count: int
    """How many examples were absorbed."""


class LearnerStatistics(WorkerProgressStatistics):
    """What is known about one worker."""

    weight: float
    """The posterior mean: trust relative to the peers, 1.0 = average."""
    weight_std: float
    """The posterior standard deviation of the weight."""
    credible_interval: tuple[float, float]
    """The central 90 % interval of the weight."""
    evidence: float
    """How many fully absorbed, fully confident examples the posterior stands for."""
    failure_count: int
    """On how many of the absorbed examples it gave no usable picture."""
    prior_weight: float
    """Where it started."""


@attrs.frozen
class CellHome:
    """Which store a cell is kept in (its `store_id`), and what the two last agreed on."""

    store_id: str
    location: str
    """Where the store is, for messages."""
    version: int
    state: LearnedState


@attrs.frozen(eq=False)
class _Locks:
    change: threading.Lock = attrs.field(factory=threading.Lock)
    training: threading.Lock = attrs.field(factory=threading.Lock)


class LearnerCell:
    """The one place where learned state lives: an immutable snapshot, swapped under a lock.

    Readers need no lock. Several learners may point to one cell; they then differ in settings only. A copy
    (`copy.copy`, `copy.deepcopy`, `pickle`) starts with the same snapshot and the same home, and goes its own way from
    there, as the cell of another process does.
    """

    def __init__(self, state: LearnedState | None = None, *, is_trial: bool = False) -> None:
        self._state = state or LearnedState()
        self._locks: dict[int, _Locks] = {}
        self.is_trial = is_trial
        """True for the cell of a fork, which is never written to a store."""
        self.home: CellHome | None = None
        """The store that this cell is kept in; None until it was restored from one or first trained into one."""

    @property
    def state(self) -> LearnedState:
        """The present snapshot."""
        return self._state

    @property
    def _own_locks(self) -> _Locks:
        # By process: in the child of a fork, the thread that held a lock of the parent does not exist.
        return self._locks.setdefault(os.getpid(), _Locks())

    def update(self, change: Callable[[LearnedState], LearnedState]) -> LearnedState:
        """Replace the snapshot by what `change` makes of it, and return the new one."""
        with self._own_locks.change:
            self._state = change(self._state)
            return self._state

    def __enter__(self) -> LearnerCell:
        """Claim the cell for one training.

        Raises:
            TrainingInProgressError: another training has it.
        """
        if not self._own_locks.training.acquire(blocking=False):
            raise TrainingInProgressError
        return self

    def __exit__(self, *_exception: object) -> None:
        self._own_locks.training.release()

    def __reduce__(self) -> tuple[Callable[..., LearnerCell], tuple[LearnedState, bool, CellHome | None]]:
        return _copied_cell, (self._state, self.is_trial, self.home)


def _copied_cell(state: LearnedState, is_trial: bool, home: CellHome | None) -> LearnerCell:
    cell = LearnerCell(state, is_trial=is_trial)
    cell.home = home
    return cell


@runtime_checkable
class WeightLearner(Protocol):
    """What the library needs of a learner."""

    @property
    def alpha(self) -> float:
        """The learning rate: the share of the unabsorbed evidence that one pass absorbs, in (0, 1]."""
        ...

    @property
    def prior_weight(self) -> float:
        """The weight of a worker about which nothing is known, above 0."""
        ...

    @property
    def cell(self) -> LearnerCell:
        """Where the learned state lives."""
        ...

    def add_workers(self, worker_ids: Iterable[str]) -> None:
        """Make workers known, at the prior; known ones stay as they are."""
        ...

    def get_weight(self, worker_id: str) -> float:
        """Return a worker's weight; the prior weight for an unknown one."""
        ...

    def get_all_weights(self) -> dict[str, float]:
        """Return the weight of every known worker."""
        ...

    def get_statistics(self, worker_id: str) -> LearnerStatistics:
        """Return what is known about a worker."""
        ...

    def get_all_statistics(self) -> dict[str, LearnerStatistics]:
        """Return what is known about every known worker."""
        ...

    def get_blend_weights(
        self, features: Sequence[float] | None = None, *, worker_ids: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Return each worker's share of the ensemble's picture: at least 0, sum 1; of all known workers or of some."""
        ...

    def observe(self, evidence: Iterable[ExampleEvidence]) -> None:
        """Absorb one pass over a batch of evidence."""
        ...

    def absorb(self, state: LearnedState, evidence: Iterable[ExampleEvidence], passes: int = 1) -> LearnedState:
        """Return what `state` becomes after passes over evidence; a pure function that changes nothing."""
        ...

    def with_cell(self, cell: LearnerCell) -> WeightLearner:
        """Return a learner of the same settings over another cell."""
        ...

    def reset(self, default_weight: float = 1.0) -> None:
        """Forget all evidence and give every known worker this prior weight."""
        ...

    def fork(self) -> WeightLearner:
        """Return an independent copy for trials, which is never written to a store."""
        ...

    def with_alpha(self, alpha: float) -> WeightLearner:
        """Return a learner with another rate over the same cell."""
        ...


def _as_float(value: float) -> float:
    """Make other numbers floats, so that they are written as such; anything odd is left for the check to refuse."""
    return float(value) if is_number(value) and abs(value) <= _MAX_SETTING else value


def _setting(default: float, high: float, expected: str) -> float:
    """Declare a field for a number in (0, high].

    Type checkers see a float with a default. Where pyright sees ``attrs.field(converter=…)`` it makes a descriptor of
    the field, and the class then lacks the plain number that `WeightLearner` asks for.
    """
    return attrs.field(default=default, converter=_as_float, validator=number_between(0.0, high, expected))


def _check_confidence_scaling(_learner: object, _attribute: object, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidArgumentError("confidence_scaling", value, "True or False")


@attrs.frozen(eq=False)
class BayesianWeightLearner:
    """Learns by conjugate Bayesian updating how far each worker is to be trusted.

    The settings are frozen; what was learned lives in `cell`, which `with_alpha` shares and `fork` copies. The rule is
    described in `tsm_training.learning.rule`.

    Args:
        alpha: The learning rate: the share of an example's unabsorbed evidence that one pass absorbs, in (0, 1].
        prior_weight: The weight of a worker about which nothing is known, above 0.
        prior_strength: How many examples of average accuracy every worker is taken to have shown beforehand, above 0.
        confidence_scaling: Whether a worker's own confidence scales its evidence; if not, all of it counts in full.
        cell: Where the learned state lives; a new, empty one unless given.

    Raises:
        InvalidArgumentError: a setting is outside its range.
    """

    alpha: float = _setting(0.1, 1.0, "a number above 0 and at most 1")
    prior_weight: float = _setting(1.0, 1e6, "a number above 0 and at most 1e6")
    prior_strength: float = _setting(3.0, _MAX_SETTING, "a number above 0 and at most 1e9")
    confidence_scaling: bool = attrs.field(default=True, validator=_check_confidence_scaling)
    cell: LearnerCell = attrs.field(factory=LearnerCell, kw_only=True, repr=False)

    # --- reading ---

    def _sums_of(self, worker_id: str) -> WorkerBase:
        return self.cell.state.sums.get(worker_id, WorkerBase(self.prior_weight))

    def get_weight(self, worker_id: str) -> float:
        """Return a worker's weight (1.0 = average); the prior weight for an unknown one."""
        return rule.posterior_mean(self._sums_of(worker_id), self.prior_strength)

    def get_all_weights(self) -> dict[str, float]:
        """Return the weight of every known worker, by worker id."""
        return {
            worker_id: rule.posterior_mean(sums, self.prior_strength)
            for worker_id, sums in self.cell.state.sums.items()
        }

    def get_statistics(self, worker_id: str) -> LearnerStatistics:
        """Return what is known about a worker; for an unknown one, that is the prior."""
        return self._statistics(self._sums_of(worker_id))

    def _statistics(self, sums: WorkerBase) -> LearnerStatistics:
        mean = rule.posterior_mean(sums, self.prior_strength)
        std = rule.posterior_std(sums, self.prior_strength)
        return LearnerStatistics(
            mean_accuracy=sums.accuracy_sum / sums.valid_count if sums.valid_count else None,
            update_count=sums.update_count,
            weight=mean,
            weight_std=std,
            credible_interval=(mean - _HALF_WIDTH * std, mean + _HALF_WIDTH * std),
            evidence=sums.evidence,
            failure_count=sums.update_count - sums.valid_count,
            prior_weight=sums.prior,
        )

    def get_all_statistics(self) -> dict[str, LearnerStatistics]:
        """Return what is known about every known worker, by worker id."""
        return {worker_id: self._statistics(sums) for worker_id, sums in self.cell.state.sums.items()}

    def get_blend_weights(
        self,
        features: Sequence[float] | None = None,
        *,
        worker_ids: Iterable[str] | None = None,
    ) -> dict[str, float]:
        """Return each worker's share of the ensemble's picture: at least 0, sum 1.

        The posterior share is the posterior probability of being the best worker, times ``n / (n + prior_strength)``,
        where n is the evidence of usable pictures only: an untested worker, or one that always fails, gets none once
        others are tested. While nothing was observed the priors alone decide, and equal priors give equal shares.

        Where a blend was fitted on the training examples, the shares are ``(1 − r) · safe + r · fitted``: r is how far
        those examples are absorbed, so that rate and epochs decide how far the fit is followed, and the safe shares are
        those of the best simple answer on them. The posterior shares stand in for safe ones that are not known.

        Args:
            features: Ignored: these shares are the same for all pictures.
            worker_ids: The workers to share among; all known ones by default.
        """
        state = self.cell.state
        ids = sorted(state.sums if worker_ids is None else set(worker_ids))
        if not ids:
            return {}
        posterior = self._posterior_shares(state.sums, ids)
        if state.fitted is None:
            return posterior
        safe = rule.mixed(posterior, state.fitted.safe, 1.0)
        return rule.mixed(safe, state.fitted.shares, state.fitted.absorbed)

    def _posterior_shares(self, known: Mapping[str, WorkerBase], ids: Sequence[str]) -> dict[str, float]:
        sums = {worker_id: known.get(worker_id, WorkerBase(self.prior_weight)) for worker_id in ids}
        tested = {
            worker_id: s.valid_evidence / (s.valid_evidence + self.prior_strength) for worker_id, s in sums.items()
        }
        best = self._probability_best(sums)
        if not any(tested.values()):
            return best
        shares = {worker_id: best[worker_id] * tested[worker_id] for worker_id in ids}
        if not any(shares.values()):  # an untested worker's prior is out of reach of all that were tested
            shares = {**shares, **self._probability_best({k: s for k, s in sums.items() if tested[k] > 0.0})}
        total = math.fsum(shares.values())
        return {worker_id: share / total for worker_id, share in shares.items()}

    def _probability_best(self, sums: Mapping[str, WorkerBase]) -> dict[str, float]:
        probabilities = rule.probability_best(
            [rule.posterior_mean(s, self.prior_strength) for s in sums.values()],
            [max(rule.posterior_std(s, self.prior_strength), _SMALLEST_STD) for s in sums.values()],
        )
        return dict(zip(sums, probabilities, strict=True))

    # --- learning ---

    def add_workers(self, worker_ids: Iterable[str]) -> None:
        """Make workers known, at the prior; known ones stay as they are."""
        ids = list(worker_ids)
        self.cell.update(lambda state: rule.with_workers(state, ids, self.prior_weight))

    def observe(self, evidence: Iterable[ExampleEvidence]) -> None:
        """Absorb one pass over a batch of evidence.

        Raises:
            InvalidArgumentError: an accuracy or confidence is outside [0, 1]; nothing was absorbed.
        """
        batch = list(evidence)
        for item in batch:
            _check_evidence(item)
        self.cell.update(lambda state: self.absorb(state, batch))

    def absorb(self, state: LearnedState, evidence: Iterable[ExampleEvidence], passes: int = 1) -> LearnedState:
        """Return what `state` becomes after passes over evidence; a pure function that changes nothing."""
        scaled = evidence if self.confidence_scaling else map(_with_full_confidence, evidence)
        return rule.absorb(state, scaled, self.alpha, self.prior_weight, passes)

    def reset(self, default_weight: float = 1.0) -> None:
        """Forget all evidence and give every known worker this prior weight.

        Raises:
            InvalidArgumentError: `default_weight` is not a number above 0 and at most 1e6.
        """
        check_number("default_weight", default_weight, 0.0, 1e6, "a number above 0 and at most 1e6")
        self.cell.update(lambda state: reset_state(state, default_weight))

    # --- other learners ---

    def with_alpha(self, alpha: float) -> BayesianWeightLearner:
        """Return a learner with another rate over the same cell: both see everything that either learns.

        Raises:
            InvalidArgumentError: `alpha` is not in (0, 1].
        """
        return attrs.evolve(self, alpha=alpha)

    def fork(self) -> BayesianWeightLearner:
        """Return an independent copy for trials, which is never written to a store until it is adopted."""
        return self.with_cell(LearnerCell(self.cell.state, is_trial=True))

    def with_cell(self, cell: LearnerCell) -> BayesianWeightLearner:
        """Return a learner of the same settings over another cell."""
        return attrs.evolve(self, cell=cell)

    def in_group(self, group: str | float) -> BayesianWeightLearner:
        """Return a copy, as of now, whose weights and shares are those for one group of requests.

        Args:
            group: A value under the metadata key by which training was grouped; one that is not known has the weights
                of all examples.

        Raises:
            InvalidArgumentError: `group` is no text, number or truth value.
        """
        label = label_of(group)
        if label is None:
            raise InvalidArgumentError("group", group, "text, a number, True or False")
        return self.with_cell(LearnerCell(rule.in_group(self.cell.state, label, self.prior_strength), is_trial=True))


_SMALLEST_STD: Final = 1e-9  # keeps the quadrature defined where a posterior has no spread left


def reset_state(state: LearnedState, default_weight: float) -> LearnedState:
    """Return a state that knows the same workers and nothing else about them; fitted ones are not fitted any more."""
    ids = [worker_id for worker_id in state.sums if worker_id not in state.fits]
    return LearnedState({worker_id: WorkerBase(float(default_weight)) for worker_id in ids})


def _with_full_confidence(evidence: ExampleEvidence) -> ExampleEvidence:
    outcomes = {worker_id: attrs.evolve(o, confidence=1.0) for worker_id, o in evidence.outcomes.items()}
    return attrs.evolve(evidence, outcomes=outcomes)


def _check_evidence(evidence: ExampleEvidence) -> None:
    for worker_id, outcome in evidence.outcomes.items():
        values: Mapping[str, float | None] = {"accuracy": outcome.accuracy, "confidence": outcome.confidence}
        for name, value in values.items():
            if value is not None:
                where = f"{name} of {worker_id!r}"
                check_number(where, value, 0.0, 1.0, "a number between 0 and 1", low_allowed=True)
