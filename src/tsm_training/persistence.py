"""Keeping a learner and a store together: which cell is stored where, and what happens when both have moved."""

from __future__ import annotations

import attrs

from tsm_training.data import Learning, StateChange, TrainingStore
from tsm_training.errors import LearnerConflictError
from tsm_training.learning import LearnedState
from tsm_training.weights import CellHome, LearnerCell, WeightLearner, with_workers

__all__ = ["LearnerStorage"]


@attrs.frozen
class LearnerStorage:
    """The tie between one learner's cell and one store.

    A cell is kept in the store that it was restored from, or first trained into. The cell of a fork is kept nowhere.
    A cell that lives in another store moves to this one only if the caller says so.
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

    def _home(self, held: Learning) -> CellHome:
        return CellHome(self.store.store_id, self.store.location, held.version, held.state)

    def attach(self, restore: bool | None = None, *, claim: bool = False) -> None:
        """Bring the learner and the store to the same state.

        Args:
            restore: Where both know something else, or the learner is kept in another store: True takes the store's
                state, False keeps the learner's (it is stored with the next training), None refuses.
            claim: Make an unclaimed store the learner's home even if neither knows anything yet.

        Raises:
            LearnerConflictError: both know something, they differ, and `restore` does not say which is right; or the
                learner is kept in another store, and `restore` does not say that it moves.
        """
        if self._cell.is_trial:
            return
        home = self._cell.home
        if home is None:
            self._first_meeting(self.store.load_learning(), restore, claim=claim)
        elif home.store_id == self.store.store_id:
            self._catch_up(home, self.store.load_learning(), restore)
        elif restore is None:
            raise LearnerConflictError(self.store.location, home.location)
        else:
            self._first_meeting(self.store.load_learning(), restore, claim=True)

    def refresh(self) -> None:
        """Take what another process has stored since, unless the learner was changed on its own: then leave it."""
        home = self._cell.home
        if self._cell.is_trial or (home is not None and not self.is_kept):
            return
        prior = self.learner.prior_weight
        is_changed = self._was_changed_directly(home) if home else not self._cell.state.is_blank(prior)
        if not is_changed:
            held = self.store.load_learning()
            is_news = held.version != home.version if home else not held.state.is_blank(prior)
            if is_news:
                self._take(held)

    def _first_meeting(self, held: Learning, restore: bool | None, *, claim: bool) -> None:
        prior = self.learner.prior_weight
        if held.state.is_blank(prior) and restore is not True:
            if claim:
                self._cell.home = self._home(held)
        elif restore is True or self._cell.state.is_blank(prior) or self._cell.state == held.state:
            self._take(held)
        elif restore is False:
            self._cell.home = self._home(held)
        else:
            raise LearnerConflictError(self.store.location)

    def _catch_up(self, home: CellHome, held: Learning, restore: bool | None) -> None:
        """Take what another process has stored since; refuse if the learner was changed on its own as well."""
        if held.version == home.version and restore is None:
            return
        if restore is True or not self._was_changed_directly(home):
            self._take(held)
        elif restore is False:
            self._cell.home = self._home(held)
        else:
            raise LearnerConflictError(self.store.location)

    def _was_changed_directly(self, home: CellHome) -> bool:
        """Tell whether the host has observed, reset or imported on the learner itself since the last agreement."""
        known = with_workers(home.state, sorted(self._cell.state.bases), self.learner.prior_weight)
        return self._cell.state is not home.state and self._cell.state != known

    def _take(self, held: Learning) -> None:
        known = self._cell.state.bases
        self._cell.update(lambda _own: with_workers(held.state, known, self.learner.prior_weight))
        self._cell.home = self._home(held)

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
                return change(with_workers(held, own.bases, self.learner.prior_weight))
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
