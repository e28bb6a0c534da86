"""Keeping a learner and a store together: whose state is where, and what happens when both have moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple, TypeAlias, cast

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


class LearnerStorage(NamedTuple):
    """The tie between one learner's cell and one store.

    A cell is kept in the store that it was restored from, or first trained into. The cell of a fork is kept nowhere.
    A cell that lives in another store moves to this one only if the caller says so.
    """

    learner: WeightLearner
    store: TrainingStore

    @property
    def _cell(self) -> LearnerCell:
        cell: object = getattr(self.learner, "cell", None)
        if not isinstance(cell, LearnerCell):
            raise LearnerFaultError(self.learner.name, "it has no cell: set self.cell = LearnerCell() in its __init__")
        return cell

    @property
    def is_kept(self) -> bool:
        """Tell whether what the learner learns is written to the store."""
        home = self._cell.home
        return not self._cell.is_trial and home is not None and home.store_id == self.store.store_id

    # --- documents ---

    def _decoded(self, head: Mapping[str, str], rows: Mapping[str, str]) -> Snapshot:
        """Return what documents say.

        Raises:
            LearnerMismatchError: another learner wrote them.
            StorageCorruptError: they cannot be read.
        """
        if _STATE not in head:
            return Snapshot(self.learner.blank())
        try:
            name = json.loads(head[_NAME])
            state = self.learner.decoded(head[_STATE], rows) if name == self.learner.name else None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise StorageCorruptError(self.store.location, f"the learned state cannot be read ({error})") from error
        if name != self.learner.name:
            raise LearnerMismatchError(self.store.location, str(name), self.learner.name)
        fits = {name.removeprefix(_FIT): document for name, document in head.items() if name.startswith(_FIT)}
        return Snapshot(state, fits)

    def _delta(self, snapshot: Snapshot, head: Mapping[str, str], rows: Mapping[str, str], **more: bool) -> StateDelta:
        """Return what differs between a snapshot and the documents that it was made of.

        Raises:
            LearnerFaultError: the learner gave no state, or documents that are no JSON; nothing is changed then.
        """
        learner = self.learner
        if snapshot.state is None:
            raise LearnerFaultError(learner.name, "one of its methods returned None instead of a state")
        state, new_rows = learner.head_of(snapshot.state), learner.rows_of(snapshot.state)
        if not _is_json(state) or not all(isinstance(row, str) for row in new_rows.values()):
            raise LearnerFaultError(learner.name, "head_of and rows_of must give JSON text")
        fits = {f"{_FIT}{worker_id}": document for worker_id, document in snapshot.fits.items()}
        new_head = {_NAME: json.dumps(learner.name), _STATE: state, **fits}
        return StateDelta(_difference(head, new_head), _difference(rows, new_rows), **more)

    def _with_more(
        self, keys: Iterable[str] | None, load: Callable[[Set[str] | None], Mapping[str, str]]
    ) -> dict[str, str]:
        """Return the rows under some keys, and those that a change of them needs too."""
        if keys is None:
            return dict(load(None))
        found = dict(load(frozenset(keys)))
        try:
            beside = self.learner.keys_beside(found) - found.keys()
        except (ValueError, TypeError, LookupError, AttributeError):  # decoding will say what is wrong
            return found
        return {**found, **load(beside)} if beside else found

    def _load(self, keys: Iterable[str] | None = ()) -> Snapshot:
        while True:
            seen: list[StateDocuments] = []

            def load(wanted: Set[str] | None) -> Mapping[str, str]:
                seen.append(self.store.load_state(wanted))  # noqa: B023 - called at once
                return seen[-1].rows  # noqa: B023

            rows = self._with_more(keys, load)
            if seen[0].token == seen[-1].token:  # nobody has changed anything between the two
                return self._decoded(seen[0].head, rows)

    def _home(self, token: str) -> CellHome:
        # Over another cell: a cell that led back to itself would keep the store open until garbage is collected.
        apart = LearnerStorage(self.learner.with_cell(LearnerCell()), self.store)
        return CellHome(self.store.store_id, self.store.location, token, apart._load)

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
        home, is_kept = cell.home, self.is_kept
        if home is not None and not is_kept and restore is None:
            raise LearnerConflictError(self.store.location, home.location)
        documents = self.store.load_state()
        if restore is True:
            self._take(documents)
        elif not is_kept:
            self._meet(documents, restore, claim=claim or home is not None)
        elif restore is False:
            self._keep_own(documents)
        elif self._is_news(documents):
            if cell.replaces:
                raise LearnerConflictError(self.store.location)
            self._take(documents, unsaved=True)

    def _is_news(self, documents: StateDocuments) -> bool:
        """Tell whether a cell that is kept in this store has missed something, which it is asked for from now on."""
        cell = self._cell
        with cell.changing():
            token = "" if cell.home is None else cell.home.token
            cell.home = self._home(token)  # the store may have been closed and opened anew
        return documents.token != token

    def _meet(self, documents: StateDocuments, restore: bool | None, *, claim: bool) -> None:
        """Decide between a learner and a store that it is not kept in, where nobody wants the store's state at once."""
        own, name = self._cell.whole(), json.dumps(self.learner.name)
        is_blank = self.learner.is_blank(own)
        is_new = is_blank and self._cell.home is None and documents.head.get(_NAME, name) == name
        if restore is False and not is_new:
            self._keep_own(documents)
            return
        try:
            is_empty = self.learner.is_blank(self._decoded(documents.head, {}))
        except StorageCorruptError:
            if restore is None:
                raise
            self._keep_own(documents)  # what cannot be read is not to be restored
            return
        if is_empty and not claim:
            return
        if is_blank or (not is_empty and self._is_same(own)):
            self._take(documents)
        elif is_empty:
            self._keep_own(documents)
        else:
            raise LearnerConflictError(self.store.location)

    def _is_same(self, own: Snapshot) -> bool:
        documents = self.store.load_state(None)
        return self._delta(own, documents.head, documents.rows) == StateDelta()

    def _keep_own(self, documents: StateDocuments) -> None:
        """Make the store the learner's home, in which the next commit replaces whatever it holds."""
        cell = self._cell
        with cell.changing():
            cell.agree(self._home(documents.token), cell.whole())
            cell.replaces = True

    def _take(self, documents: StateDocuments, *, unsaved: bool = False) -> None:
        cell, learner = self._cell, self.learner
        with cell.changing():
            held, steps = self._decoded(documents.head, {}), cell.unsaved if unsaved else ()
            known = learner.statistics(held.state)
            if new := sorted(learner.statistics(learner.state).keys() - known.keys()):
                added = learner.on_state(lambda state: learner.with_workers(state, new))
                steps = (*steps, LearnedChange(frozenset(), added))
            cell.agree(self._home(documents.token), held, steps)

    def refresh(self) -> None:
        """Take what another process has stored since; what the learner was asked to change itself stays."""
        cell = self._cell
        if cell.is_trial or cell.replaces or (cell.home is not None and not self.is_kept):
            return
        documents = self.store.load_state()
        if cell.home is not None:
            if self._is_news(documents):
                self._take(documents, unsaved=True)
        elif (
            documents.head
            and self.learner.is_blank(cell.snapshot)
            and not self.learner.is_blank(self._decoded(documents.head, {}))
        ):
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
            wanted = keys_of(steps, keys(self._decoded(held.head, {})) if callable(keys) else keys)
            rows = self._with_more(None if wanted is None else wanted | held.gone, held.rows)
            before = changed(self._decoded(held.head, rows), steps)
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
            unheld = HeldState("", {}, lambda _keys: {}, self.store.known_digests)
            self._cell.update(lambda snapshot: change(snapshot, unheld), keys)

    def _change_store(
        self, commit: Callable[[StateChange], StateDocuments | None], change: Change, keys: Iterable[str] | None
    ) -> None:
        with self._cell.changing():
            documents = commit(self._committed(change, keys))
            if documents is not None:
                self._cell.agree(self._home(documents.token), self._decoded(documents.head, {}))

    def absorb(self, evidence: Sequence[ExampleEvidence]) -> None:
        """Absorb one pass over examples, as far as the store still has them."""
        learner = self.learner

        def absorbed(snapshot: Snapshot, held: HeldState) -> Snapshot:
            known = held.known(item.digest for item in evidence)
            state = learner.absorb(learner.state_of(snapshot), [e for e in evidence if e.digest in known])
            return attrs.evolve(snapshot, state=state)

        self.change(absorbed, learner.keys_for(evidence))

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
            rows = self._with_more(held.gone, held.rows)
            return self._delta(change(self._decoded(held.head, rows), held), held.head, rows)

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
                cell.agree(self._home(documents.token), self._decoded(documents.head, {}))
            else:
                cell.update(lambda _before: learned[-1], None)
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
