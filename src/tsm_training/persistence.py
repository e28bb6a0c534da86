"""Keeping a learner and a store together: which cell is stored where, and what happens when both have moved."""

from __future__ import annotations

import logging

import attrs

from tsm_training.data import Learning, StateChange, TrainingStore
from tsm_training.errors import LearnerConflictError
from tsm_training.evidence import LearnedState
from tsm_training.weights import CellHome, LearnerCell, WeightLearner, with_workers

__all__ = ["LearnerStorage"]

_log = logging.getLogger("tsm_training")


@attrs.frozen
class LearnerStorage:
    """The tie between one learner's cell and one store.

    A cell is kept in the store that it was restored from, or first trained into. The cell of a fork is kept nowhere,
    and a cell that lives in another store is not written to this one.
    """

    learner: WeightLearner
    store: TrainingStore

    @property
    def _cell(self) -> LearnerCell:
        return self.learner.cell

    @property
    def is_kept(self) -> bool:
        """Tell whether what the learner learns is written to the store."""
        home = self._cell.home
        return not self._cell.is_trial and home is not None and home.store_id == self.store.store_id

    def attach(self, restore: bool | None = None, *, claim: bool = False) -> None:
        """Bring the learner and the store to the same state.

        Args:
            restore: Where both know something else: True takes the store's state, False keeps the learner's (it is
                stored with the next training), None refuses.
            claim: Make an unclaimed store the learner's home even if neither knows anything yet.

        Raises:
            LearnerConflictError: both know something, they differ, and `restore` does not say which is right.
        """
        if self._cell.is_trial:
            return
        if self._cell.home is None:
            self._first_meeting(self.store.load_learning(), restore, claim=claim)
        elif self.is_kept:
            self._catch_up(self._cell.home, self.store.load_learning(), restore)
        else:
            _log.warning("this learner is kept in another store; %s will not hold what it learns", self.store.location)

    def refresh(self) -> None:
        """Take what another process has stored since, unless the learner was changed on its own: then leave it."""
        home = self._cell.home
        if home is not None and self.is_kept and not self._was_changed_directly(home):
            held = self.store.load_learning()
            if held.version != home.version:
                self._take(held)

    def _first_meeting(self, held: Learning, restore: bool | None, *, claim: bool) -> None:
        prior = self.learner.prior_weight
        if held.state.is_blank(prior):
            if claim:
                self._cell.home = CellHome(self.store.store_id, held.version, held.state)
        elif restore is True or self._cell.state.is_blank(prior) or self._cell.state == held.state:
            self._take(held)
        elif restore is False:
            self._cell.home = CellHome(self.store.store_id, held.version, held.state)
        else:
            raise LearnerConflictError(self.store.location)

    def _catch_up(self, home: CellHome, held: Learning, restore: bool | None) -> None:
        """Take what another process has stored since; refuse if the learner was changed on its own as well."""
        if held.version == home.version and restore is None:
            return
        if restore is True or not self._was_changed_directly(home):
            self._take(held)
        elif restore is False:
            self._cell.home = CellHome(self.store.store_id, held.version, held.state)
        else:
            raise LearnerConflictError(self.store.location)

    def _was_changed_directly(self, home: CellHome) -> bool:
        """Tell whether the host has observed, reset or imported on the learner itself since the last agreement."""
        known = with_workers(home.state, sorted(self._cell.state.bases), self.learner.prior_weight)
        return self._cell.state is not home.state and self._cell.state != known

    def _take(self, held: Learning) -> None:
        known = self._cell.state.bases
        self._cell.update(lambda _own: with_workers(held.state, known, self.learner.prior_weight))
        self._cell.home = CellHome(self.store.store_id, held.version, held.state)

    def committed(self, change: StateChange) -> StateChange:
        """Return `change` as it must be applied to what the store holds when it is committed.

        A learner that was changed directly since the last agreement brings its own state along; that is refused if the
        store has moved meanwhile too.

        Raises (when the result is called):
            LearnerConflictError: both have moved.
        """
        home = self._cell.home
        own = self._cell.state

        def apply(held: LearnedState) -> LearnedState:
            if home is None or not self._was_changed_directly(home):
                return change(held)
            if held != home.state:
                raise LearnerConflictError(self.store.location)
            return change(own)

        return apply

    def agreed(self, held: Learning) -> None:
        """Note what was committed: the learner now has what the store holds."""
        self._take(held)

    def change(self, change: StateChange) -> None:
        """Change learned state outside a session: in the store first, where the learner is kept there."""
        self.attach(claim=True)
        if self.is_kept:
            self.agreed(self.store.update_learning(self.committed(change)))
        else:
            self._cell.update(change)
