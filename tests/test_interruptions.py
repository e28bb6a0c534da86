"""Ctrl-C at the moments that are hard to hit: around the beginning of a session."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest

from support import manager_with
from tsm_training import InMemoryStore, TrainingSession


@attrs.frozen(eq=False)
class InterruptedStore(InMemoryStore):
    """Somebody presses Ctrl-C just before or just after a session's beginning is stored."""

    is_after: bool = attrs.field(default=True, kw_only=True)

    def begin_session(self, session: TrainingSession, /) -> None:
        if self.is_after:
            super().begin_session(session)
        raise KeyboardInterrupt


def test_a_session_that_was_interrupted_just_behind_its_beginning_does_not_go_on_running(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, storage=InterruptedStore())
    with pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False)
    assert [session.status for session in manager.data_manager.get_all_sessions()] == ["interrupted"]


def test_a_session_that_was_interrupted_before_its_beginning_was_never_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_with(tmp_path, storage=InterruptedStore(is_after=False))
    with caplog.at_level(logging.INFO, "tsm_training"), pytest.raises(KeyboardInterrupt):
        manager.train(verbose=False)
    assert manager.data_manager.get_all_sessions() == []
    assert caplog.messages == []
