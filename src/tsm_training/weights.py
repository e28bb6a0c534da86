"""What learns, and where what was learned lives; the learning rule and weights files are in `learning`."""

from __future__ import annotations

import math
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, Self, TypedDict, runtime_checkable

import attrs

from tsm_training.arguments import check_number, is_number, number_between
from tsm_training.core import posterior_mean, posterior_shares
from tsm_training.errors import InvalidArgumentError, TrainingInProgressError, WeightsFileError
from tsm_training.learning import (
    MAX_WEIGHTS_FILE_BYTES,
    WEIGHTS_FORMAT_VERSION,
    BlendFits,
    ExampleEvidence,
    FittedBlend,
    Group,
    LearnedState,
    Outcome,
    SufficientStatistics,
    WeightsDocument,
    WeightsFile,
    credible_interval,
    decoded_state,
    head_document,
    label_of,
    posterior_entries,
    read_weights_file,
    row_documents,
    rule,
    target_key,
    target_keys,
    write_weights_file,
)

__all__ = [
    "CREDIBLE_MASS",
    "MAX_WEIGHTS_FILE_BYTES",
    "WEIGHTS_FORMAT_VERSION",
    "BayesianWeightLearner",
    "BlendFits",
    "CellHome",
    "ExampleEvidence",
    "FittedBlend",
    "LearnedChange",
    "LearnerCell",
    "LearnerStatistics",
    "Outcome",
    "Snapshot",
    "WeightLearner",
    "WeightsDocument",
    "WeightsFile",
    "WorkerProgressStatistics",
    "changed",
    "keys_of",
    "read_weights_file",
    "write_weights_file",
]

CREDIBLE_MASS: Final = 0.9
"""Posterior probability inside a credible interval."""

_MAX_SETTING: Final = 1e9
_IMPORTED_SHARE: Final = 0.5
"""What workers with imported weights hold together at least, until there is evidence."""
_HALF_WIDTH: Final = 1.6448536269514715
"""Of a credible interval, in standard deviations: the 95 % quantile of the standard normal distribution."""


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
class Snapshot:
    """What was learned at one moment."""

    state: Any
    """The learner's own; None where nothing was ever learned."""
    fits: Mapping[str, str] = attrs.field(factory=dict)
    """What trainable workers were fitted to, by worker id: documents that only the engine understands."""


class LearnedChange(NamedTuple):
    """A change of what was learned that no store has seen yet."""

    keys: frozenset[str] | None
    """The rows that it needs; None for all."""
    change: Callable[[Snapshot], Snapshot]


class CellHome(NamedTuple):
    """The store that a cell is kept in."""

    store_id: str
    """The store's own id."""
    location: str
    """Where the store is, for messages."""
    token: str
    """Of the documents that the two last agreed on; see `tsm_training.data.StateDocuments`."""
    load: Callable[[Iterable[str] | None], Snapshot]
    """Returns what the store holds, with the rows under these keys; None for all."""


class _Locks:
    def __init__(self) -> None:
        self.change = threading.RLock()
        self.training = threading.Lock()


class LearnerCell:
    """The one place where learned state lives: an immutable snapshot, swapped under a lock.

    Readers need no lock. Several learners may point to one cell; they then differ in settings only. A cell that is kept
    in a store holds the head of the state only, and asks the store for the rows of examples when they are needed. A
    copy (`copy.copy`, `copy.deepcopy`, `pickle`) has all rows, is kept nowhere, and goes its own way.
    """

    def __init__(self, state: Any = None, fits: Mapping[str, str] | None = None, *, is_trial: bool = False) -> None:
        self._snapshot = Snapshot(state, fits or {})
        self._locks: dict[int, _Locks] = {}
        self.is_trial: bool = is_trial
        """True for the cell of a fork, which is never written to a store."""
        self.home: CellHome | None = None
        """The store that this cell is kept in; None until it was restored from one or first trained into one."""
        self.unsaved: tuple[LearnedChange, ...] = ()
        """What the learner itself was asked to change since cell and store last agreed, for the next commit."""
        self.replaces: bool = False
        """True where the next commit stores all of this cell in the place of what its store holds."""

    @property
    def snapshot(self) -> Snapshot:
        """What is learned at present; of a cell that is kept in a store without the rows of examples."""
        return self._snapshot

    @property
    def state(self) -> Any:
        """The learner's state at present; None where nothing was ever learned."""
        return self._snapshot.state

    @property
    def is_partial(self) -> bool:
        """Tell whether the rows of examples are in a store, and not here."""
        return self.home is not None and not self.replaces

    def whole(self) -> Snapshot:
        """Return what is learned at present with all rows."""
        with self.changing():
            if self.home is None or not self.is_partial:
                return self._snapshot
            return changed(self.home.load(None), self.unsaved)

    @property
    def _own_locks(self) -> _Locks:
        # By process: in the child of a fork, the thread that held a lock of the parent does not exist.
        return self._locks.setdefault(os.getpid(), _Locks())

    def changing(self) -> AbstractContextManager[object]:
        """Return the lock under which the cell changes."""
        return self._own_locks.change

    def update(self, change: Callable[[Snapshot], Snapshot], keys: Iterable[str] | None = ()) -> None:
        """Replace the snapshot by what `change` makes of it, a pure function; it is stored with the next commit.

        Args:
            change: Is called again on what a store then holds, when it is committed.
            keys: The rows that it needs; None for all.
        """
        with self.changing():
            step = LearnedChange(None if keys is None else frozenset(keys), change)
            if self.is_partial and self.home is not None:
                # The changes before this one may concern the same rows.
                steps = (*self.unsaved, step)
                self._snapshot = changed(self.home.load(keys_of(steps)), steps)
                self.unsaved = steps
            else:
                self._snapshot = change(self._snapshot)

    def agree(self, home: CellHome, snapshot: Snapshot, unsaved: tuple[LearnedChange, ...] = ()) -> None:
        """Take what a store holds, with changes of the own that it does not hold yet."""
        with self.changing():
            after = changed(home.load(keys_of(unsaved)), unsaved) if unsaved else snapshot
            self.home, self.unsaved, self._snapshot = home, unsaved, after
            self.replaces = False

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

    def __reduce__(self) -> tuple[Callable[..., LearnerCell], tuple[Snapshot, bool]]:
        return _copied_cell, (self.whole(), self.is_trial)


def _copied_cell(snapshot: Snapshot, is_trial: bool) -> LearnerCell:
    return LearnerCell(snapshot.state, snapshot.fits, is_trial=is_trial)


def changed(snapshot: Snapshot, steps: Iterable[LearnedChange]) -> Snapshot:
    """Return a snapshot after some changes."""
    for step in steps:
        snapshot = step.change(snapshot)
    return snapshot


def keys_of(steps: Iterable[LearnedChange], keys: Iterable[str] | None = ()) -> frozenset[str] | None:
    """Return the rows that some changes need besides others; None for all."""
    wanted = [keys, *(step.keys for step in steps)]
    return None if any(each is None for each in wanted) else frozenset().union(*(each or () for each in wanted))


@runtime_checkable
class WeightLearner(Protocol):
    """Learns how far each worker can be trusted; what it has learned is its own.

    Inherit from this class, implement the members of its first part, and get those of the second. A learner's *state*
    is an immutable value of any type; stores keep it as a *head*, which every reader needs, and *rows* under keys, one
    for each example, of which those are read that somebody needs. All methods that take a state are pure functions.
    They may be given a state that holds a part of the rows only: those of the examples that the call is about.
    """

    # --- the first part: what a learner implements ---

    name: str
    """Names the learner and the version of its documents: others are not read."""
    alpha: float
    """The learning rate: the share of the remaining evidence that one pass absorbs, in (0, 1]."""
    cell: LearnerCell
    """Where the learned state lives; a new `LearnerCell` for a new learner."""
    prior_weight: float = 1.0
    """The weight of a worker about which nothing is known, above 0."""

    @abstractmethod
    def with_alpha(self, alpha: float) -> Self:
        """Return a learner with another rate over the same cell: both see everything that either learns."""

    @abstractmethod
    def with_cell(self, cell: LearnerCell) -> Self:
        """Return a learner of the same settings over another cell."""

    @abstractmethod
    def head_of(self, state: Any) -> str:
        """Return a state without its rows, as JSON."""

    @abstractmethod
    def rows_of(self, state: Any) -> Mapping[str, str]:
        """Return the rows that a state holds, as JSON, by the digest of the example."""

    @abstractmethod
    def decoded(self, head: str, rows: Mapping[str, str]) -> Any:
        """Return the state that `head_of` and `rows_of` made documents of.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: they were made of no state.
        """

    @abstractmethod
    def started(self, weights: Mapping[str, float]) -> Any:
        """Return a state that knows these workers, with these weights above 0, and has learned nothing."""

    @abstractmethod
    def with_workers(self, state: Any, worker_ids: Iterable[str]) -> Any:
        """Return a state that knows these workers too; those it knows already stay as they are."""

    @abstractmethod
    def absorb(self, state: Any, evidence: Iterable[ExampleEvidence], passes: int = 1) -> Any:
        """Return the state after passes over evidence; newer outcomes on an example replace older ones."""

    @abstractmethod
    def forget(self, state: Any, digests: Set[str]) -> Any:
        """Return the state as if these examples had never been seen."""

    @abstractmethod
    def statistics(self, state: Any) -> Mapping[str, LearnerStatistics]:
        """Return what is known about every known worker, its weight included."""

    @abstractmethod
    def shares(self, state: Any, worker_ids: Sequence[str], group: str | None = None) -> dict[str, float]:
        """Return the workers' shares of the ensemble's image, at least 0, sum 1, for requests of a group or of none."""

    # --- the second part: made of the first ---

    def blank(self) -> Any:
        """Return the state of a learner that knows nothing."""
        return self.started({})

    def keys_for(self, evidence: Iterable[ExampleEvidence]) -> Set[str]:
        """Return the keys of the rows that absorbing some evidence needs: the examples' digests."""
        return {item.digest for item in evidence}

    def keys_beside(self, rows: Mapping[str, str]) -> Set[str]:
        """Return the keys of further rows that a change of these rows needs: none."""
        return set()

    def known(self, state: Any) -> Set[str]:
        """Return the digests of the examples whose rows a state holds."""
        return self.rows_of(state).keys()

    def refitted(
        self, state: Any, evidence: Iterable[ExampleEvidence], fitted: Iterable[str], unfitted: Iterable[str]
    ) -> Any:
        """Return the state in which trainable workers that were fitted anew have their new outcomes.

        Args:
            state: It holds all rows.
            evidence: The new outcomes on all examples that are learned from.
            fitted: Ids of the workers that were fitted.
            unfitted: Ids of workers that are fitted no longer.
        """
        del fitted, unfitted
        return self.absorb(state, evidence, 0)

    def with_blends(self, state: Any, fits: BlendFits) -> Any:
        """Return the state with blends that were fitted on the blended images; a learner may do without them."""
        del fits
        return state

    def blend_of(self, state: Any, group: str | None = None) -> FittedBlend | None:
        """Return the blend that the shares follow, as far as `FittedBlend.absorbed` says; None without any.

        Args:
            state: What was learned.
            group: The group whose own blend is wanted; None for that of all examples.
        """
        del state, group
        return None

    def group_by_of(self, state: Any) -> str | None:
        """Return the metadata key by which the last training was grouped; None without groups."""
        del state
        return None

    def groups_of(self, state: Any) -> Set[str]:
        """Return the groups of which something of their own is known."""
        del state
        return frozenset()

    def weights_entries(self, state: Any) -> Mapping[str, Any]:
        """Return the entries of a weights file that make its import exact; see `tsm_training.learning.files`."""
        return {"learner": {"name": self.name, "head": self.head_of(state)}}

    def imported(self, file: WeightsFile) -> Any:
        """Return the state that a weights file holds: its own where this learner wrote it, or its weights.

        Raises:
            WeightsFileError: the file says what cannot be taken over.
        """
        if file.learner is None or file.learner["name"] != self.name:
            return self.started(file.weights)
        try:
            return self.decoded(file.learner["head"], {})
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise WeightsFileError(file.path, f"cannot be read: {error}", "learner") from error

    def state_of(self, snapshot: Snapshot) -> Any:
        """Return the state of a snapshot; `blank` where nothing was ever learned."""
        return self.blank() if snapshot.state is None else snapshot.state

    @property
    def state(self) -> Any:
        """What was learned; `blank` while that is nothing."""
        return self.state_of(self.cell.snapshot)

    def is_blank(self, snapshot: Snapshot) -> bool:
        """Tell whether a snapshot says nothing beyond that every worker has the prior weight."""
        state = self.state_of(snapshot)
        untouched = self.started(dict.fromkeys(self.statistics(state), self.prior_weight))
        return not snapshot.fits and self.head_of(state) == self.head_of(untouched)

    def get_weight(self, worker_id: str) -> float:
        """Return a worker's weight (1.0 = average); the prior weight for an unknown one."""
        return self.get_all_weights().get(worker_id, self.prior_weight)

    def get_all_weights(self) -> dict[str, float]:
        """Return the weight of every known worker, by worker id."""
        return {worker_id: known["weight"] for worker_id, known in self.get_all_statistics().items()}

    def get_statistics(self, worker_id: str) -> LearnerStatistics:
        """Return what is known about a worker; for an unknown one, that is the prior."""
        known = self.get_all_statistics()
        return known.get(worker_id) or self.statistics(self.with_workers(self.blank(), [worker_id]))[worker_id]

    def get_all_statistics(self) -> dict[str, LearnerStatistics]:
        """Return what is known about every known worker, by worker id."""
        return dict(sorted(self.statistics(self.state).items()))

    def get_blend_weights(
        self, features: Sequence[float] | None = None, *, worker_ids: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Return each worker's share of the ensemble's image: at least 0, sum 1.

        Args:
            features: Ignored: these shares are the same for all images.
            worker_ids: The workers to share among; all known ones by default.
        """
        del features
        ids = sorted(self.statistics(self.state) if worker_ids is None else set(worker_ids))
        return self.shares(self.state, ids) if ids else {}

    def add_workers(self, worker_ids: Iterable[str]) -> None:
        """Make workers known, at the prior; known ones stay as they are."""
        ids = set(worker_ids) - self.statistics(self.state).keys()
        if ids:
            self.cell.update(self.on_state(lambda state: self.with_workers(state, sorted(ids))))

    def observe(self, evidence: Iterable[ExampleEvidence]) -> None:
        """Absorb one pass over a batch of evidence; where the learner is kept in a store, the next change commits it.

        Raises:
            InvalidArgumentError: an accuracy or confidence is outside [0, 1]; nothing was absorbed.
        """
        batch = list(evidence)
        for item in batch:
            _check_evidence(item)
        self.cell.update(self.on_state(lambda state: self.absorb(state, batch)), self.keys_for(batch))

    def reset(self, default_weight: float = 1.0) -> None:
        """Forget all evidence and give every known worker this weight.

        Raises:
            InvalidArgumentError: `default_weight` is not a number above 0 and at most 1e6.
        """
        check_number("default_weight", default_weight, 0.0, 1e6, "a number above 0 and at most 1e6")
        self.cell.update(lambda snapshot: self.after_reset(snapshot, default_weight), None)

    def after_reset(self, snapshot: Snapshot, default_weight: float) -> Snapshot:
        """Return a snapshot that knows the same workers and nothing else; fitted ones are not fitted any more."""
        known = self.statistics(self.state_of(snapshot)).keys() - snapshot.fits.keys()
        return Snapshot(self.started(dict.fromkeys(sorted(known), float(default_weight))))

    def on_state(self, change: Callable[[Any], Any]) -> Callable[[Snapshot], Snapshot]:
        """Return a change of the state as a change of a snapshot."""
        return lambda snapshot: attrs.evolve(snapshot, state=change(self.state_of(snapshot)))

    def trial(self, snapshot: Snapshot) -> Self:
        """Return a learner of the same settings that has learned something else; it is never written to a store."""
        return self.with_cell(LearnerCell(snapshot.state, snapshot.fits, is_trial=True))

    def fork(self) -> Self:
        """Return an independent copy for trials, which is never written to a store until it is adopted."""
        return self.trial(self.cell.whole())


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
class BayesianWeightLearner(WeightLearner):
    """Learns by conjugate Bayesian updating how far each worker is to be trusted.

    The settings are frozen; what was learned lives in `cell`, which `with_alpha` shares and `fork` copies. The rule is
    described in `tsm_training.core.posterior`.

    Args:
        alpha: The learning rate: the share of an example's remaining evidence that one pass absorbs, in (0, 1].
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
    name: str = attrs.field(default="bayesian-1", init=False, repr=False)

    # --- documents ---

    def head_of(self, state: LearnedState) -> str:
        """Return a state without its rows, as JSON."""
        return head_document(state)

    def rows_of(self, state: LearnedState) -> dict[str, str]:
        """Return the rows that a state holds, as JSON, by the digest of the example."""
        return row_documents(state)

    def decoded(self, head: str, rows: Mapping[str, str]) -> LearnedState:
        """Return the state that these documents were made of."""
        return decoded_state(head, rows)

    def keys_for(self, evidence: Iterable[ExampleEvidence]) -> set[str]:
        """Return the keys of the rows of examples, and of the sums over their targets."""
        return {key for item in evidence for key in (item.digest, target_key(item.target))}

    def keys_beside(self, rows: Mapping[str, str]) -> set[str]:
        """Return the keys of the sums over the targets of some examples."""
        return target_keys(rows)

    def known(self, state: LearnedState) -> Set[str]:
        """Return the digests of the examples whose rows a state holds."""
        return state.rows.keys()

    # --- learning ---

    def started(self, weights: Mapping[str, float]) -> LearnedState:
        """Return a state that knows these workers, with these prior weights, and has learned nothing."""
        return LearnedState(dict(weights))

    def with_workers(self, state: LearnedState, worker_ids: Iterable[str]) -> LearnedState:
        """Return a state that knows these workers too, at the prior; those it knows already stay as they are."""
        return rule.with_workers(state, worker_ids, self.prior_weight)

    def absorb(self, state: LearnedState, evidence: Iterable[ExampleEvidence], passes: int = 1) -> LearnedState:
        """Return what `state` becomes after passes over evidence; a pure function that changes nothing."""
        scaled = evidence if self.confidence_scaling else map(_with_full_confidence, evidence)
        return rule.absorb(state, scaled, self.alpha, self.prior_weight, passes)

    def forget(self, state: LearnedState, digests: Set[str]) -> LearnedState:
        """Return the state as if these examples had never been seen."""
        return rule.forget(state, digests)

    def refitted(
        self, state: LearnedState, evidence: Iterable[ExampleEvidence], fitted: Iterable[str], unfitted: Iterable[str]
    ) -> LearnedState:
        """Return the state in which trainable workers that were fitted anew have their new outcomes."""
        scaled = evidence if self.confidence_scaling else map(_with_full_confidence, evidence)
        return rule.refitted(state, scaled, fitted, unfitted)

    def with_blends(self, state: LearnedState, fits: BlendFits) -> LearnedState:
        """Return the state with blends that were fitted on the blended images."""
        return rule.with_blends(state, fits)

    # --- what it means ---

    def blend_of(self, state: LearnedState, group: str | None = None) -> FittedBlend | None:
        """Return the blend that was fitted on the training examples, or on those of a group."""
        return state.fitted if group is None else state.groups.get(group, Group()).fitted

    def group_by_of(self, state: LearnedState) -> str | None:
        """Return the metadata key by which the last training was grouped; None without groups."""
        return state.group_by

    def groups_of(self, state: LearnedState) -> Set[str]:
        """Return the groups of the last training."""
        return state.groups.keys()

    def statistics(self, state: LearnedState) -> dict[str, LearnerStatistics]:
        """Return what is known about every known worker."""
        return {worker_id: self._statistics(sums) for worker_id, sums in state.statistics.items()}

    def _statistics(self, sums: SufficientStatistics) -> LearnerStatistics:
        low, high = credible_interval(sums, self.prior_strength)
        return LearnerStatistics(
            mean_accuracy=sums.accuracy_sum / sums.valid_count if sums.valid_count else None,
            update_count=sums.update_count,
            weight=posterior_mean(sums, self.prior_strength),
            weight_std=(high - low) / (2.0 * _HALF_WIDTH),
            credible_interval=(low, high),
            evidence=sums.evidence,
            failure_count=sums.update_count - sums.valid_count,
            prior_weight=sums.prior,
        )

    def shares(self, state: LearnedState, worker_ids: Sequence[str], group: str | None = None) -> dict[str, float]:
        """Return each worker's share of the ensemble's image: at least 0, sum 1.

        Without a fitted blend they are those of `tsm_training.core.posterior_shares`; while there is no evidence at
        all, workers whose weights were imported hold at least half of them together. Where a blend was fitted on the
        training examples, the shares are ``(1 − r) · safe + r · fitted``: r is how far
        those examples are absorbed, so that rate and epochs decide how far the fit is followed, and the safe shares are
        those of the best simple answer on them. The posterior shares stand in for safe ones that are not known.
        """
        if group is not None:
            state = rule.in_group(state, group, self.prior_strength)
        unknown = SufficientStatistics(self.prior_weight)
        known = {worker_id: state.statistics.get(worker_id, unknown) for worker_id in worker_ids}
        posterior = posterior_shares(known, self.prior_strength)
        imported = {worker_id: sums for worker_id, sums in known.items() if worker_id in state.imported}
        held = math.fsum(posterior[worker_id] for worker_id in imported)
        if imported and not state.totals and held < _IMPORTED_SHARE:
            part = (_IMPORTED_SHARE - held) / (1.0 - held)
            posterior = rule.mixed(posterior, posterior_shares(imported, self.prior_strength), part)
        if state.fitted is None:
            return posterior
        safe = rule.mixed(posterior, state.fitted.safe, 1.0)
        return rule.mixed(safe, state.fitted.shares, state.fitted.absorbed)

    # --- weights files ---

    def weights_entries(self, state: LearnedState) -> dict[str, Any]:
        """Return the entries of a weights file that make its import exact."""
        return posterior_entries(state, self.prior_strength)

    def imported(self, file: WeightsFile) -> LearnedState:
        """Return the state that a weights file holds: its exact posterior, or its weights as priors.

        Raises:
            WeightsFileError: the file was learned with another prior strength.
        """
        if file.posterior is not None and file.prior_strength != self.prior_strength:
            raise WeightsFileError(
                file.path,
                f"was learned with {file.prior_strength!r}, the learner has {self.prior_strength!r}: make the learner "
                "with the same prior_strength, or remove 'posterior' from the file to import its weights as priors",
                "prior_strength",
            )
        return file.state()

    # --- other learners ---

    def with_alpha(self, alpha: float) -> BayesianWeightLearner:
        """Return a learner with another rate over the same cell: both see everything that either learns.

        Raises:
            InvalidArgumentError: `alpha` is not in (0, 1].
        """
        return attrs.evolve(self, alpha=alpha)

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
        return self.trial(Snapshot(rule.in_group(self.state, label, self.prior_strength)))


def _with_full_confidence(evidence: ExampleEvidence) -> ExampleEvidence:
    outcomes = {worker_id: attrs.evolve(o, confidence=1.0) for worker_id, o in evidence.outcomes.items()}
    return attrs.evolve(evidence, outcomes=outcomes)


def _check_evidence(evidence: ExampleEvidence) -> None:
    names: Mapping[str, object] = {"digest": evidence.digest, "target": evidence.target}
    for what, name in names.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise InvalidArgumentError(f"the {what} of an example", name, "printable text that is not empty")
    if evidence.digest.startswith(target_key("")):
        raise InvalidArgumentError(
            "the digest of an example", evidence.digest, f"no text that begins with {target_key('')!r}"
        )
    for worker_id, outcome in evidence.outcomes.items():
        values: Mapping[str, float | None] = {"accuracy": outcome.accuracy, "confidence": outcome.confidence}
        for name, value in values.items():
            if value is not None:
                where = f"{name} of {worker_id!r}"
                check_number(where, value, 0.0, 1.0, "a number between 0 and 1", low_allowed=True)
