"""Passing on how far a call has come, and hearing when it should stop."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias

import attrs

from tsm_training.errors import TrainingStoppedError
from tsm_training.progress import Progress, ProgressCallback, ProgressDisplay, console_progress

__all__ = ["Listener", "StopRequest", "listening", "write_log"]

_log = logging.getLogger("tsm_training")

StopRequest: TypeAlias = Callable[[], bool]
"""Asked several times a second, in the calling thread, whether the work should end."""

Phase: TypeAlias = Literal["evaluating", "fitting", "learning", "validating"]


def write_log(level: int, text: str, *arguments: object, exc_info: bool = False) -> None:
    """Write to the library's log; a handler that raises shall not end a training, nor hide why one has ended."""
    with contextlib.suppress(Exception):
        _log.log(level, text, *arguments, exc_info=exc_info, stacklevel=2)


@attrs.frozen(eq=False)
class Listener:
    """Who wants to know, and who may say stop."""

    callbacks: tuple[ProgressCallback, ...] = ()
    should_stop: StopRequest | None = None
    subject: str = ""
    """What is stopped: the session's id."""
    display: ProgressDisplay | None = None
    """Shows progress to a person, where somebody looks."""

    @property
    def is_watched(self) -> bool:
        """Whether a person looks."""
        return self.display is not None

    def note(self, text: str) -> None:
        """Say something that deserves attention: to the log, and to the person who watches."""
        text = _one_line(text)
        write_log(logging.INFO, "%s", text)
        if self.display is not None:
            self.display.note(text)

    def end_display(self) -> None:
        """End the line of a bar: an error is about to be written below it."""
        if self.display is not None:
            self.display.close()

    def tell(self, phase: Phase, done: int, total: int, since: float, accuracy: float | None = None) -> None:
        """Pass on how far a phase has come; `since` is a reading of `time.monotonic` at its beginning."""
        progress = Progress(phase, done, total, time.monotonic() - since, accuracy)
        for callback in self.callbacks:
            callback(progress)

    def poll(self) -> None:
        """End the work if that was asked for.

        Raises:
            TrainingStoppedError: `should_stop` said so.
        """
        if self.should_stop is not None and self.should_stop():
            raise TrainingStoppedError(self.subject)


def _one_line(text: str) -> str:
    """Return a text whose line breaks and control characters are escaped: a worker's words must not forge log lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def listening(
    *,
    verbose: bool,
    on_progress: ProgressCallback | None = None,
    should_stop: StopRequest | None = None,
    subject: str = "",
) -> Generator[Listener]:
    """Give a listener for one call, with the console display where it is wanted."""
    own = () if on_progress is None else (on_progress,)
    with console_progress() if verbose else contextlib.nullcontext() as display:
        if display is None:
            yield Listener(own, should_stop, subject)
        else:
            yield Listener((display, *own), should_stop, subject, display)
