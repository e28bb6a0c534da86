"""Keeping a learner and a store together: whose state is where, and what happens when both have moved."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, cast

import attrs

from tsm_training.data import (
    HeldState,
    SessionCommit,
    StateChange,
    StateDelta,
    StateDocuments,
    TrainingSession,
    TrainingStore,
)
from tsm_training.errors import LearnerConflictError, LearnerFaultError, LearnerMismatchError, StorageCorruptError
from tsm_training.learning import ExampleEvidence
from tsm_training.weights import CellHome, LearnedChange, LearnerCell, Snapshot, WeightLearner, changed, keys_of

__all__ = ["Change", "LearnerStorage"]

Change: TypeAlias = Callable[[Snapshot, HeldState], Snapshot]
"""Makes the next snapshot of the one that the store holds; quick, and without side effects."""

_Keys: TypeAlias = Iterable[str] | Callable[[Snapshot], Iterable[str] | None] | None

_NAME: Final = "learner"
_STATE: Final = "state"
_FIT: Final = "fit/"


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

    # --- documents ---

    def _snapshot(self, head: Mapping[str, str], rows: Mapping[str, str]) -> Snapshot:
        """Return what documents say.

        Raises:
            LearnerMismatchError: another learner wrote them.
            StorageCorruptError: they cannot be read.
        """
        if _STATE not in head:
            return Snapshot(None)
        try:
            name = json.loads(head[_NAME])
            state = self.learner.decoded(head[_STATE], rows) if name == self.learner.name else None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StorageCorruptError(self.store.location, f"the learned state cannot be read ({error})") from error
        if name != self.learner.name:
            raise LearnerMismatchError(self.store.location, str(name), self.learner.name)
        fits = {name.removeprefix(_FIT): document for name, document in head.items() if name.startswith(_FIT)}
        return Snapshot(state, fits)

    def _head(self, snapshot: Snapshot) -> dict[str, str]:
        state = self.learner.blank() if snapshot.state is None else snapshot.state
        fits = {f"{_FIT}{worker_id}": document for worker_id, document in snapshot.fits.items()}
        return {_NAME: json.dumps(self.learner.name), _STATE: self.learner.head_of(state), **fits}

    def _delta(self, snapshot: Snapshot, head: Mapping[str, str], rows: Mapping[str, str], **more: bool) -> StateDelta:
        """Return what differs between a snapshot and the documents that it was made of.

        Raises:
            LearnerFaultError: the learner gave no state, or documents that are no JSON; nothing is changed then.
        """
        if snapshot.state is None and _STATE in head:
            raise LearnerFaultError(self.learner.name, "one of its methods returned None instead of a state")
        new_head = self._head(snapshot)
        new_rows = {} if snapshot.state is None else self.learner.rows_of(snapshot.state)
        if not _is_json(new_head[_STATE]) or not all(isinstance(row, str) for row in new_rows.values()):
            raise LearnerFaultError(self.learner.name, "head_of and rows_of must give JSON text")
        return StateDelta(_difference(head, new_head), _difference(rows, new_rows), **more)

    def _load(self, keys: Iterable[str] | None = ()) -> Snapshot:
        documents = self.store.load_state(keys)
        return self._snapshot(documents.head, documents.rows)

    def _home(self, documents: StateDocuments) -> CellHome:
        return CellHome(self.store.store_id, self.store.location, documents.token, self._loader())

    def _loader(self) -> Callable[[Iterable[str] | None], Snapshot]:
        # Over another cell: a cell that led back to itself would keep the store open until garbage is collected.
        return LearnerStorage(self.learner.with_cell(LearnerCell()), self.store)._load

    def snapshot(self, keys: Iterable[str] | None = ()) -> Snapshot:
        """Return what is learned at present, with the rows under these keys; None for all."""
        cell = self._cell
        with cell.changing():
            if not cell.is_partial or not self.is_kept:
                return cell.whole()
            return changed(self._load(keys_of(cell.unsaved, keys)), cell.unsaved)

    # --- agreeing ---

    def attach(self, restore: bool | None = None, *, claim: bool = False) -> None:
        """Bring the learner and the store to the same state.

        Args:
            restore: Where both know something else, or the learner is kept in another store: True takes the store's
                state, False keeps the learner's (it is stored with the next training), None refuses.
            claim: Make an unclaimed store the learner's home even if neither knows anything yet.

        Raises:
            LearnerConflictError: both know something, they differ, and `restore` does not say which is right; or the
                learner is kept in another store, and `restore` does not say that it moves.
            LearnerMismatchError: another kind of learner wrote what the store holds, and `restore` is not False.
        """
        cell = self._cell
        if cell.is_trial:
            return
        home = cell.home
        if home is not None and home.store_id == self.store.store_id:
            documents = self.store.load_state()
            self._rehouse(cell)
            if restore is False:
                self._keep_own()
            elif restore is True:
                self._take(documents)
            elif documents.token != home.token:
                if cell.replaces:
                    raise LearnerConflictError(self.store.location)
                self._take(documents, unsaved=True)
        elif home is not None and restore is None:
            raise LearnerConflictError(self.store.location, home.location)
        else:
            self._meet(restore, claim=claim or home is not None)

    def _rehouse(self, cell: LearnerCell) -> None:
        """Let a cell that is kept in this store ask it for rows: it may have been closed and opened anew."""
        with cell.changing():
            if cell.home is not None:
                cell.home = attrs.evolve(cell.home, load=self._loader())

    def _meet(self, restore: bool | None, *, claim: bool) -> None:
        documents = self.store.load_state()
        if restore is True:
            self._take(documents)
            return
        own = self._cell.whole()
        name = json.dumps(self.learner.name)
        is_new = self._cell.home is None and self.learner.is_blank(own) and documents.head.get(_NAME, name) == name
        if restore is False and not is_new:
            self._keep_own()
            return
        try:
            held = self._snapshot(documents.head, {})
        except StorageCorruptError:
            if restore is None:
                raise
            self._keep_own()  # what cannot be read is not to be restored
            return
        if self.learner.is_blank(held):
            if claim and self.learner.is_blank(own):
                self._take(documents)
            elif claim:
                self._keep_own()
        elif self.learner.is_blank(own) or self._is_same(own):
            self._take(documents)
        else:
            raise LearnerConflictError(self.store.location)

    def _is_same(self, own: Snapshot) -> bool:
        documents = self.store.load_state(None)
        return not _difference(documents.head, self._head(own)) and not _difference(
            documents.rows, self.learner.rows_of(own.state)
        )

    def _keep_own(self) -> None:
        """Make the store the learner's home, in which the next commit replaces whatever it holds."""
        cell = self._cell
        with cell.changing():
            whole = cell.whole()
            cell.agree(self._home(self.store.load_state()), whole)
            cell.replaces = True

    def _take(self, documents: StateDocuments, *, unsaved: bool = False) -> None:
        cell = self._cell
        with cell.changing():
            held, steps = self._snapshot(documents.head, {}), cell.unsaved if unsaved else ()
            state = self.learner.blank() if held.state is None else held.state
            new = self.learner.statistics(self.learner.state).keys() - self.learner.statistics(state).keys()
            if new:
                steps = (*steps, LearnedChange(frozenset(), functools.partial(self._with_workers, sorted(new))))
            cell.agree(self._home(documents), held, steps)

    def _with_workers(self, worker_ids: Sequence[str], snapshot: Snapshot) -> Snapshot:
        state = self.learner.blank() if snapshot.state is None else snapshot.state
        return attrs.evolve(snapshot, state=self.learner.with_workers(state, worker_ids))

    def refresh(self) -> None:
        """Take what another process has stored since; what the learner was asked to change itself stays."""
        cell = self._cell
        if cell.is_trial or cell.replaces or (cell.home is not None and not self.is_kept):
            return
        documents = self.store.load_state()
        if cell.home is not None:
            self._rehouse(cell)
            if documents.token != cell.home.token:
                self._take(documents, unsaved=True)
        elif documents.head and self.learner.is_blank(cell.snapshot):
            held = self._snapshot(documents.head, {})
            if not self.learner.is_blank(held):
                self._take(documents)

    # --- changing ---

    def _committed(self, change: Change, keys: _Keys) -> StateChange:
        """Return `change` as it is applied, inside a transaction, to what the store holds then.

        What the learner itself was asked to change comes first.

        Raises (when the result is called):
            LearnerConflictError: the learner's own state was to replace what the store held, and that has changed.
        """
        cell = self._cell
        steps, token = cell.unsaved, cell.home.token if cell.home else ""
        own = cell.whole() if cell.replaces else None

        def apply(held: HeldState) -> StateDelta:
            if own is not None:
                if held.token != token:  # somebody else has stored something since
                    raise LearnerConflictError(self.store.location)
                return self._delta(change(own, held), held.head, {}, drops_rows=True)
            wanted = keys_of(steps, keys(self._snapshot(held.head, {})) if callable(keys) else keys)
            rows = held.rows(None if wanted is None else wanted | held.gone)
            before = changed(self._snapshot(held.head, rows), steps)
            return self._delta(change(before, held), held.head, rows)

        return apply

    def change(self, change: Change, keys: Iterable[str] | None = ()) -> None:
        """Change what is learned outside a session: in the store first, where the learner is kept there.

        Args:
            change: Makes the next snapshot; `HeldState.known` says there which examples exist.
            keys: The rows that it needs; None for all.
        """
        self.attach(claim=True)
        if self.is_kept:
            self._change_store(self.store.update_state, change, keys)
        else:
            self._cell.update(lambda snapshot: change(snapshot, self._unheld()), keys)

    def _unheld(self) -> HeldState:
        return HeldState("", {}, lambda _keys: {}, self.store.known_digests)

    def _change_store(
        self, commit: Callable[[StateChange], StateDocuments | None], change: Change, keys: Iterable[str] | None
    ) -> None:
        with self._cell.changing():
            documents = commit(self._committed(change, keys))
            if documents is not None:
                self._cell.agree(self._home(documents), self._snapshot(documents.head, {}))

    def absorb(self, evidence: Sequence[ExampleEvidence]) -> None:
        """Absorb one pass over examples, as far as the store still has them."""
        learner = self.learner

        def absorbed(snapshot: Snapshot, held: HeldState) -> Snapshot:
            state = learner.blank() if snapshot.state is None else snapshot.state
            known = held.known(item.digest for item in evidence)
            return attrs.evolve(snapshot, state=learner.absorb(state, [e for e in evidence if e.digest in known]))

        self.change(absorbed, {item.digest for item in evidence})

    def forget(self, commit: Callable[[StateChange], StateDocuments | None], change: Change) -> None:
        """Change examples, and what was learned from contents that go with them, in one transaction.

        Args:
            commit: Changes the examples, and learned state with them.
            change: Makes the snapshot without what `HeldState.gone` names. What the store holds is changed in any case;
                a learner that is kept elsewhere, or nowhere, is changed beside it.
        """
        self.attach()
        if self.is_kept:
            self._change_store(commit, change, ())
            return
        gone: list[HeldState] = []

        def apply(held: HeldState) -> StateDelta | None:
            gone.append(held)
            if _STATE not in held.head:
                return None
            rows = held.rows(held.gone)
            return self._delta(change(self._snapshot(held.head, rows), held), held.head, rows)

        commit(apply)
        for held in gone:
            self._cell.update(lambda snapshot: change(snapshot, held), held.gone)  # noqa: B023 - called at once

    def commit_session(
        self,
        session_id: str,
        finish: Callable[[Snapshot], SessionCommit],
        change: Change,
        keys: Callable[[Snapshot], Iterable[str] | None],
    ) -> TrainingSession:
        """End a session and change what is learned, together or not at all.

        Args:
            session_id: Of the session.
            finish: Makes the final record of what is learned then.
            change: Makes the next snapshot.
            keys: Returns the rows that it needs, given what the store holds then, without rows; None for all.
        """
        cell = self._cell
        with cell.changing():
            is_kept = self.is_kept
            learned: list[Snapshot] = []

            def noted(snapshot: Snapshot, held: HeldState) -> Snapshot:
                learned.append(change(snapshot, held))
                return learned[-1]

            apply = self._committed(noted, keys)

            def end(held: HeldState) -> SessionCommit:
                if is_kept:
                    delta = apply(held)
                    return attrs.evolve(finish(learned[-1]), delta=delta)
                return finish(noted(cell.whole(), held))

            session, documents = self.store.commit_session(session_id, end)
            if is_kept:
                cell.agree(self._home(documents), self._snapshot(documents.head, {}))
            else:
                after = learned[-1]
                cell.update(lambda _before: after, None)
            return session


def _is_json(document: object) -> bool:
    try:
        json.loads(cast("str", document))
    except (TypeError, ValueError):
        return False
    return isinstance(document, str)


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    """Return what makes the new documents of the old ones."""
    changed_ones = {name: document for name, document in new.items() if old.get(name) != document}
    return {**changed_ones, **dict.fromkeys(old.keys() - new.keys())}
