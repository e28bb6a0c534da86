"""Reporting how far long work has come, and hearing when it should stop."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Literal, TypeAlias

import attrs

from tsm_training.errors import TrainingStoppedError

__all__ = [
    "Progress",
    "ProgressCallback",
    "ProgressReporter",
    "StopRequest",
    "console_progress",
    "reporting",
    "write_log",
]

_log = logging.getLogger("tsm_training")

_SECONDS_BETWEEN_LINES: Final = 5.0
_UNITS: Final = {"learning": "epoch", "fitting": "fit", "predicting": "picture"}
"""What is counted in a phase, where it is not examples."""

Phase: TypeAlias = Literal["evaluating", "fitting", "learning", "validating", "predicting"]


@attrs.frozen
class Progress:
    """How far a call has come."""

    phase: Phase
    """What is being done; those of a training come in this order, and ``predicting`` is a folder's only one."""
    done: int
    """Examples evaluated or validated, fits of trainable workers whose scores are known, epochs learned, or pictures
    predicted."""
    total: int
    seconds: float
    """Wall-clock time since the phase began."""
    accuracy: float | None = None
    """In the learning phase the epoch's ``avg_accuracy``; while evaluating the mean over all workers so far."""


ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called in the thread that called the library; what it raises ends the call and is passed on."""

StopRequest: TypeAlias = Callable[[], bool]
"""Asked several times a second, in the calling thread, whether the work should end."""


def write_log(level: int, text: str, *arguments: object, exc_info: bool = False) -> None:
    """Write to the library's log; a handler that raises must not end a training, nor hide why one has ended."""
    with contextlib.suppress(Exception):
        _log.log(level, text, *arguments, exc_info=exc_info, stacklevel=2)


@attrs.frozen(eq=False, repr=False)
class ProgressReporter:
    """Tells everyone who wants to know how far a call has come, and asks whether it should stop."""

    callbacks: tuple[ProgressCallback, ...] = ()
    """Told of each step, in the calling thread."""
    should_stop: StopRequest | None = None
    subject: str = ""
    """What is stopped: the session's id."""
    display: _Lines | _Bars | None = None
    """Shows progress to a person who watches; None where nobody does."""

    def note(self, text: str) -> None:
        """Say something that deserves attention: to the log, and to the person who watches."""
        # Line breaks and control characters are escaped: a worker's words must not forge log lines.
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        write_log(logging.INFO, "%s", text)
        if self.display is not None:
            self.display.note(text)

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


@contextlib.contextmanager
def reporting(
    *,
    verbose: bool,
    on_progress: ProgressCallback | None = None,
    should_stop: StopRequest | None = None,
    subject: str = "",
) -> Generator[ProgressReporter]:
    """Give a reporter for one call, with the console display where it is wanted."""
    with console_progress() if verbose else contextlib.nullcontext() as display:
        callbacks = tuple(callback for callback in (display, on_progress) if callback is not None)
        yield ProgressReporter(callbacks, should_stop, subject, display)


# --- the console ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def console_progress() -> Generator[_Lines | _Bars]:
    """Give a display that shows progress on standard error.

    On a terminal and in a notebook that is a bar, if tqdm is installed (the extra ``progress``); elsewhere, and without
    tqdm, a plain line every few seconds and one at the end of each phase. Whatever has become of standard error is no
    reason to fail.
    """
    display: _Lines | _Bars = _Lines()
    with contextlib.suppress(Exception):  # a host may have put anything in the place of standard error
        # The output of a notebook follows a carriage return as a terminal does.
        if sys.stderr.isatty() or type(sys.stderr).__module__.partition(".")[0] == "ipykernel":
            # Without an interval, tqdm starts no thread that would stay behind; the host's own bars keep theirs.
            display = _Bars(type("Bar", (importlib.import_module("tqdm").tqdm,), {"monitor_interval": 0}))
    try:
        yield display
    finally:
        display.close()


class _Lines:
    """Plain lines, few enough for a log file."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done < progress.total and now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_LINES
        unit = _UNITS.get(progress.phase, "example")
        accuracy = "" if progress.accuracy is None else f", accuracy {progress.accuracy:.4f}"
        counted = f"{unit} {progress.done} of {progress.total}"
        self.note(f"{progress.phase}: {counted}{accuracy} ({progress.seconds:.1f} s)")

    def note(self, text: str) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.write(text + "\n")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.flush()


class _Bars:
    """One bar per phase, made by tqdm."""

    def __init__(self, bar: Any) -> None:
        self._make = bar
        self._stream = sys.stderr  # tqdm would write to standard output if this became None
        self._bar: Any = None
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        with contextlib.suppress(Exception):
            if progress.phase != self._phase:
                self.close()
                unit = _UNITS.get(progress.phase, "example")
                size = _assumed_size(self._stream)
                self._bar = self._make(
                    total=progress.total, desc=progress.phase, unit=f" {unit}s", file=self._stream, **size
                )
                self._phase = progress.phase
            if progress.accuracy is not None:
                self._bar.set_postfix_str(f"accuracy {progress.accuracy:.4f}", refresh=False)
            self._bar.update(progress.done - self._bar.n)

    def note(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._make.write(text, file=self._stream)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if self._bar is not None:
                self._bar.close()
                self._bar = None


def _assumed_size(stream: Any) -> dict[str, int]:
    """Return a size for a terminal that says that it has none, where bars would be empty; nothing for any other."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if 0 in os.get_terminal_size(stream.fileno()):
            return {"ncols": 80, "nrows": 24}
    return {}
