"""The n-th SQL or file call fails, for n = 1, 2, 3 … until a pass without a fault: no invariant breaks.

Run it from the root of the repository: ``python -m tests.soak.faults [--quick]``.

One manager opens, adds, trains, validates, exports, imports and resets, and one of its calls fails: the database is
locked, for a moment or for good; there is no room, and SQLite has given up the transaction by itself, or not; the disk
reports an error; memory runs out; somebody presses Ctrl-C just before the call, or just after it. Then

- the step raised a documented error (or passed on Ctrl-C and the want of memory), or it succeeded;
- all that was acknowledged before is there, and the file is sound;
- the learner in memory knows what the store holds, or what it knew before;
- no transaction is open, and no session goes on running that nobody runs;
- the same manager goes on, and ends where an undisturbed run ends, bit for bit.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gc
import itertools
import logging
import random
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import attrs
from tests.soak.support import (
    SMALL_PLAN,
    WEIGHTS,
    Call,
    Host,
    Reference,
    Tell,
    Verdict,
    content,
    exported,
    fork,
    make_pictures,
    mark_of,
    parse,
    reference_of,
    scratch,
    soundness,
    statuses,
    watching,
)

from tsm_training import TrainingDataManager, TsmTrainingError

Failure: TypeAlias = Callable[[Call], BaseException]


def _sqlite(code: int, text: str, name: str) -> Failure:
    def failure(_call: Call) -> BaseException:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        error.sqlite_errorname = name
        return error

    return failure


def _rolled_back(failure: Failure) -> Failure:
    """Return a failure after which SQLite has ended the transaction by itself."""

    def fail(call: Call) -> BaseException:
        if call.connection is not None and call.connection.in_transaction:
            sqlite3.Connection.execute(call.connection, "ROLLBACK")
        return failure(call)

    return fail


def _system(number: int) -> Failure:
    return lambda call: OSError(number, "made to fail", call.text)


@attrs.frozen
class Fault:
    """A way in which a call can fail."""

    kinds: tuple[str, ...]
    failure: Failure
    moment: str = "before"
    lasts: bool = False
    """Whether all later calls of this kind fail too, until the step has ended."""


_BUSY: Final = _sqlite(sqlite3.SQLITE_BUSY, "database is locked", "SQLITE_BUSY")
_FULL: Final = _sqlite(sqlite3.SQLITE_FULL, "database or disk is full", "SQLITE_FULL")
_BROKEN_DISK: Final = _sqlite(sqlite3.SQLITE_IOERR_WRITE, "disk I/O error", "SQLITE_IOERR_WRITE")

FAULTS: Final = {
    "locked for a moment": Fault(("sql",), _BUSY),
    "locked": Fault(("sql",), _BUSY, lasts=True),
    "full": Fault(("sql",), _FULL),
    "full, rolled back": Fault(("sql",), _rolled_back(_FULL)),
    "I/O error": Fault(("sql",), _BROKEN_DISK),
    "I/O error, rolled back": Fault(("sql",), _rolled_back(_BROKEN_DISK)),
    "no room for a file": Fault(("file",), _system(errno.ENOSPC)),
    "file I/O error": Fault(("file",), _system(errno.EIO)),
    "no descriptors left": Fault(("file",), _system(errno.EMFILE)),
    "no memory": Fault(("sql", "file"), lambda _call: MemoryError("made to fail")),
    "Ctrl-C before": Fault(("sql", "file"), lambda _call: KeyboardInterrupt()),
    "Ctrl-C after": Fault(("sql", "file"), lambda _call: KeyboardInterrupt(), moment="after"),
}

SQL_CALLS: Final = 130
FILE_CALLS: Final = 7
"""About how many there are in an undisturbed pass: where a sample is drawn from."""


@attrs.define
class Trap:
    """Makes the n-th call of the calling thread fail."""

    fault: Fault
    left: int
    connections: list[sqlite3.Connection] = attrs.field(factory=list)
    sprung: str | None = None
    """The call that failed."""
    is_off: bool = False
    _thread: int = attrs.field(factory=threading.get_ident)

    def __call__(self, call: Call) -> None:
        if call.connection is not None and not any(call.connection is known for known in self.connections):
            self.connections.append(call.connection)
        if self.is_off or call.kind not in self.fault.kinds or call.moment != self.fault.moment:
            return
        if threading.get_ident() != self._thread or call.text == "ROLLBACK":
            return
        self.left -= 1
        if self.left == 0 or (self.fault.lasts and self.left < 0):
            self.sprung = self.sprung or call.text
            raise self.fault.failure(call)


@contextlib.contextmanager
def disarmed(trap: Trap) -> Iterator[None]:
    trap.is_off = True
    try:
        yield
    finally:
        trap.is_off = False


@attrs.define
class Tally:
    """The figures of a run."""

    sprung: int = 0
    raised: collections.Counter[str] = attrs.field(factory=collections.Counter)


@attrs.define(slots=False)
class Pass:
    """One run of the plan in which one call fails."""

    folder: Path
    pictures: Path
    reference: Reference
    verdict: Verdict
    tally: Tally
    name: str
    trap: Trap
    lasts: bool = attrs.field(init=False)

    @lasts.default
    def _lasts(self) -> bool:
        return self.trap.fault.lasts

    def run(self) -> bool:
        """Work through the plan; return whether the fault was met."""
        self.folder.mkdir()
        host = Host(self.folder, self.pictures, busy_timeout=0.1)
        with watching(self.trap, self.folder):
            while not self.survives(host.open, host, None):
                pass
            position = 0
            while position < len(self.reference.steps):
                before = host.manager.weight_learner.cell.snapshot
                step = self.reference.steps[position]
                if self.survives(lambda step=step: host.perform(step), host, position):  # type: ignore[misc]
                    position += 1
                    continue
                with disarmed(self.trap):
                    position = self.judge(host, position, before)
                if self.verdict.broken:
                    break
            self.trap.is_off = True
            host.close()
        # A session whose end could not be noted is found by the next opening, once its owner has let go of it.
        TrainingDataManager(host.database).close()
        found = statuses(host.database)
        self.verdict.expect(found["running"] == 0, f"{self.where}: a session goes on running for ever")
        if not self.verdict.broken:
            self.verdict.expect_same(content(host.database), self.reference.content, self.where)
            self.verdict.expect(exported(self.folder / WEIGHTS) == self.reference.exports[-1], f"{self.where}: export")
            left = [path.name for path in self.folder.iterdir() if path.name not in {host.database.name, WEIGHTS}]
            self.verdict.expect(not left, f"{self.where}: files are left: {left}")
        return self.trap.sprung is not None

    @property
    def where(self) -> str:
        return f"{self.name} at {self.trap.sprung!r}"

    def survives(self, work: Callable[[], None], host: Host, position: int | None) -> bool:
        """Do something; return whether it succeeded. What it raised must be documented."""
        was_sprung = self.trap.sprung
        try:
            work()
        except (TsmTrainingError, KeyboardInterrupt, MemoryError) as error:
            self.tally.raised[type(error).__name__] += 1
            injected = isinstance(error, type(self.trap.fault.failure(Call("sql", "", "before"))))
            documented = isinstance(error, TsmTrainingError)
            self.verdict.expect(was_sprung is None, f"{self.where}: the repeated step raised {error!r}")
            self.verdict.expect(documented or injected, f"{self.where}: raised {error!r}")
            if position is None and was_sprung is not None:
                raise
        except Exception as error:
            self.verdict.expect(False, f"{self.where}: raised {type(error).__name__}: {error}")
            raise
        else:
            return True
        finally:
            if self.trap.sprung is not None:
                self.trap.fault = attrs.evolve(self.trap.fault, lasts=False)
        return False

    def judge(self, host: Host, position: int, before: object) -> int:
        """Judge what a failed step has left behind; return the position at which to go on."""
        expect, where = self.verdict.expect, f"{self.where}, in step {position} {self.reference.steps[position]}"
        for connection in self.trap.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed
                expect(not connection.in_transaction, f"{where}: a transaction is open")
        expect(not (wrong := soundness(host.database)), f"{where}: {wrong}")
        store = host.manager.data_manager
        mark = mark_of(store)
        learner = host.manager.weight_learner
        known = learner.cell.snapshot
        head = None if known.state is None else learner.head_of(known.state)
        same = known == before or head == store.load_state().head.get("state")
        expect(same, f"{where}: the learner knows neither what the store holds nor what it knew")
        found = statuses(host.database)
        can_note = not self.lasts or self.reference.steps[position][0] != "train"
        expect(found["running"] == 0 or not can_note, f"{where}: a session goes on running")
        reached = self.reference.position(position, mark)
        expect(reached is not None, f"{where}: acknowledged work is lost: {mark}")
        file = exported(self.folder / WEIGHTS)
        possible = self.reference.exports[position : position + 2]
        expect(file in possible, f"{where}: the export is neither the old one nor the new one")
        with host.manager.weight_learner.cell:  # claimed by nobody
            pass
        return position if reached is None else reached


def sweep(make_pass: Callable[[str, Trap], Pass], name: str, chosen: list[int]) -> None:
    """Let one kind of fault happen at each of the chosen calls, or at one after the other until none is left."""
    for number in chosen or itertools.count(1):
        one = make_pass(f"{name}, call {number}", Trap(FAULTS[name], number))
        was_met = one.run()
        gc.collect()
        one.tally.sprung += was_met
        if one.verdict.broken:
            break
        shutil.rmtree(one.folder)
        if not was_met:
            break


def main() -> int:
    options = parse(__doc__, calls=(0, 2, "at how many calls each fault happens, drawn by lot; 0 for all"))
    verdict = Verdict("faults", options.seed)
    logging.getLogger("tsm_training").setLevel(logging.CRITICAL)  # "could not note that …", as it should
    figures = []
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, 3)
        reference = reference_of(folder / "undisturbed", pictures, SMALL_PLAN)
        lot = random.Random(options.seed)
        for name in FAULTS:
            reach = FILE_CALLS if FAULTS[name].kinds == ("file",) else SQL_CALLS
            chosen = sorted(lot.sample(range(1, reach), options.calls)) if options.calls else []

            def work(tell: Tell, name: str = name, chosen: list[int] = chosen) -> None:
                """Each kind of fault has a process of its own, so that the figures do not depend on the order."""
                own, tally = Verdict("faults", options.seed), Tally()

                def make_pass(title: str, trap: Trap) -> Pass:
                    place = folder / re.sub(r"[^A-Za-z0-9]+", "-", title)
                    return Pass(place, pictures, reference, own, tally, title, trap)

                sweep(make_pass, name, chosen)
                raised = ", ".join(f"{count} {error}" for error, count in sorted(tally.raised.items())) or "nothing"
                tell(f"figure {name}: failed at {tally.sprung} calls; raised: {raised}")
                for line in own.broken:
                    tell(f"broken {line}")
                tell(f"checks {own.checks}")

            child = fork(work)
            for line in child.wait():
                kind, _, text = line.partition(" ")
                if kind == "figure":
                    figures.append(text)
                elif kind == "checks":
                    verdict.checks += int(text)
                else:
                    verdict.broken.append(text)
            verdict.expect(child.status == 0, f"{name}: the process ended with {child.status}")
    return verdict.close(*figures)


if __name__ == "__main__":
    sys.exit(main())
