"""Doing the same to a store and to an `InMemoryStore` that is taken for right, and comparing what comes of it."""

# ruff: noqa: S101 - it is for tests

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NoReturn

import attrs

from tsm_training.data import HeldState, StateChange, StateDelta, StateDocuments, TrainingStore
from tsm_training.errors import TsmTrainingError
from tsm_training.storage import InMemoryStore

_READING: Final = ("get_", "find_", "load_", "iterate_", "known_", "ranked_", "preview_")
"""How the names of methods begin that change nothing."""


class OnPurposeError(TsmTrainingError):
    """Raised by a change that is meant to fail."""


def fails(_held: object) -> NoReturn:
    """Fail on purpose: a change, an edit, the end of a session."""
    raise OnPurposeError


def noting(delta: StateDelta | None, digests: Collection[str]) -> StateChange:
    """Return a change that makes `delta`, with a document of all that it was given; None fails."""

    def change(held: HeldState) -> StateDelta:
        if delta is None:
            raise OnPurposeError
        given = [sorted(held.gone), sorted(held.known(digests)), sorted(held.rows(None)), dict(held.rows(["k"]))]
        return attrs.evolve(delta, head={**delta.head, "given": json.dumps([given, sorted(held.head.items())][:1])})

    return change


@attrs.frozen
class Refused:
    """The kind of error that a call ended with, and the id that it names."""

    kind: type[TsmTrainingError]
    identifier: object = None


def outcome(action: Callable[[], object]) -> object:
    """Return what an action gives, or how it was refused."""
    try:
        result = action()
        return list(result) if isinstance(result, Iterator) else result
    except TsmTrainingError as error:
        return Refused(type(error), getattr(error, "identifier", None))


def plain(result: Any) -> Any:
    """Return a result with documents in the place of learned state: each store has tokens of its own."""
    if isinstance(result, tuple):
        return tuple(map(plain, result))
    return (dict(result.head), dict(result.rows)) if isinstance(result, StateDocuments) else result


def everything(store: TrainingStore, digests: Collection[str], names: Collection[str]) -> Mapping[str, object]:
    """Return all that a store holds, as far as it is about these digests and these names of observations."""
    sessions = store.get_all_sessions()
    return {
        "examples": store.get_all_examples(),
        "found": store.find_examples(digests),
        "known": store.known_digests(digests),
        "sessions": sessions,
        "metrics": [list(store.iterate_metrics(session.session_id)) for session in sessions],
        "evaluations": store.load_evaluations(digests),
        "previews": store.load_previews(digests),
        "observations": [store.load_observations(name, digests) for name in names],
        "observed": [store.find_observations(name, digests) for name in names],
        "learned": plain(store.load_state(None)),
        "head": plain(store.load_state()),
        "statistics": store.get_dataset_stats(),
    }


class Twin:
    """A store and its model: what is called here is called on both, and everything is compared afterwards.

    >>> both = Twin(InMemoryStore(), digests=["d"], names=["w@1"])
    >>> both.known_digests(["d"])
    set()
    """

    def __init__(self, store: TrainingStore, digests: Collection[str], names: Collection[str]) -> None:
        self.store = store
        self.model: InMemoryStore = InMemoryStore()
        self.digests = digests
        self.names = names

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            expected = self.call(self.store, method, *arguments, **more)
            if not method.startswith(_READING):
                self.agree(self.store)
            return expected

        return call

    def call(self, handle: TrainingStore, method: str, *arguments: Any, **more: Any) -> Any:
        """Call a method of a handle and of the model; return what the latter gives, or how it was refused."""
        before = handle.load_state().token, self.model.load_state().token
        expected = outcome(lambda: getattr(self.model, method)(*copy.deepcopy(arguments), **more))
        result = outcome(lambda: getattr(handle, method)(*arguments, **more))
        assert plain(result) == plain(expected), f"{method} gave {result!r}, expected {expected!r}"
        after = handle.load_state().token, self.model.load_state().token
        has_changed = [old != new for old, new in zip(before, after, strict=True)]
        assert has_changed[0] == has_changed[1], "a token changes with the learned state, and only then"
        return expected

    def agree(self, handle: TrainingStore) -> None:
        """Compare everything that a handle on the store shows with the model."""
        found = everything(handle, self.digests, self.names)
        for part, expected in everything(self.model, self.digests, self.names).items():
            assert found[part] == expected, part
