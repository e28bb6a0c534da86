"""Telling how far long work has come: a typed record for callbacks, and a display for people."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Literal, Protocol, TypeAlias

import attrs

__all__ = ["Progress", "ProgressCallback", "ProgressDisplay", "console_progress"]

_SECONDS_BETWEEN_LINES: Final = 5.0
_UNITS: Final = {"learning": "epoch", "fitting": "fit"}
"""What is counted in a phase, where it is not examples."""


@attrs.frozen
class Progress:
    """How far a call has come."""

    phase: Literal["evaluating", "fitting", "learning", "validating"]
    """What is being done; the phases come in this order."""
    done: int
    """Examples evaluated or validated, fits of trainable workers whose scores are known, or epochs learned."""
    total: int
    seconds: float
    """Wall-clock time since the phase began."""
    accuracy: float | None = None
    """In the learning phase the epoch's ``avg_accuracy``; while evaluating the mean over all workers so far."""


ProgressCallback: TypeAlias = Callable[[Progress], None]
"""Called in the thread that called the library; what it raises ends the call and is passed on."""


class ProgressDisplay(Protocol):
    """Shows progress to a person."""

    def __call__(self, progress: Progress, /) -> None:
        """Show how far the work has come."""
        ...

    def note(self, text: str, /) -> None:
        """Show a line that deserves attention."""
        ...

    def close(self) -> None:
        """End the bar's line, so that others can write below it; does no harm when repeated."""
        ...


@contextlib.contextmanager
def console_progress() -> Generator[ProgressDisplay]:
    """Give a display that shows progress on standard error.

    On a terminal and in a notebook that is a bar, if tqdm is installed (the extra ``progress``); elsewhere, and without
    tqdm, a plain line every few seconds and one at the end of each phase. Whatever has become of standard error is no
    reason to fail.
    """
    bar = _bar_class()
    display = _Lines() if bar is None else _Bars(bar)
    try:
        yield display
    finally:
        display.close()


def _bar_class() -> Any:
    with contextlib.suppress(Exception):  # a host may have put anything in the place of standard error
        if sys.stderr.isatty() or _is_notebook(sys.stderr):
            # Without an interval, tqdm starts no thread that would stay behind; the host's own bars keep theirs.
            return type("Bar", (importlib.import_module("tqdm").tqdm,), {"monitor_interval": 0})
    return None


def _is_notebook(stream: object) -> bool:
    """Tell whether somebody looks on in a notebook, whose output follows a carriage return as a terminal does."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def _described(progress: Progress) -> str:
    unit = _UNITS.get(progress.phase, "example")
    accuracy = "" if progress.accuracy is None else f", accuracy {progress.accuracy:.4f}"
    return f"{progress.phase}: {unit} {progress.done} of {progress.total}{accuracy} ({progress.seconds:.1f} s)"


class _Lines:
    """Plain lines, few enough for a log file."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done < progress.total and now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_LINES
        self.note(_described(progress))

    def note(self, text: str) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.write(text + "\n")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            sys.stderr.flush()


def _assumed_size(stream: Any) -> dict[str, int]:
    """Return a size for a terminal that says that it has none, where bars would be empty; nothing for any other."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if 0 in os.get_terminal_size(stream.fileno()):
            return {"ncols": 80, "nrows": 24}
    return {}


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
                self._bar = self._make(
                    total=progress.total,
                    desc=progress.phase,
                    unit=f" {unit}s",
                    file=self._stream,
                    **_assumed_size(self._stream),
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
