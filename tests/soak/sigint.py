"""Ctrl-C at random instants of a training: it comes back soon, and a repeat ends where an undisturbed run ends.

Run it from the root of the repository: ``python -m tests.soak.sigint [--quick]``.

A child trains; the parent sends SIGINT at an instant drawn by lot: while the child computes, while a worker sleeps for
long, or while another process holds the database's lock. ``KeyboardInterrupt`` must come back within the stated time,
the session must be ``interrupted``, the learner as it was, and evaluations kept. Then the child trains again.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.soak.support import (
    DATABASE,
    Host,
    Reference,
    Step,
    Tell,
    Verdict,
    content,
    evaluation_counts,
    fork,
    hold_lock,
    make_pictures,
    parse,
    reference_of,
    scratch,
    soundness,
    statuses,
)

from tsm_training import TrainingDataManager

PLAN: Final[tuple[Step, ...]] = (("add", 0, 1, 2, 3, 4, 5), ("train", 2))
NAPS: Final = {"while it computes": 0.0, "while a worker sleeps": 0.4, "while another holds the lock": 0.02}
WANTED_SECONDS: Final = 0.5
HELD_SECONDS: Final = 3.0


def work(folder: Path, pictures: Path, nap: float, tell: Tell) -> None:
    """Train until Ctrl-C, tell what is left, and train again."""
    host = Host(folder, pictures, nap)
    host.open()
    host.perform(PLAN[0])
    before = host.manager.weight_learner.cell.state
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tell(json.dumps(["training", time.monotonic()]))
    try:
        host.perform(PLAN[1])
        raised, caught = "nothing", time.monotonic()
    except BaseException as error:
        caught, raised = time.monotonic(), f"{type(error).__name__}: {error}".removesuffix(": ")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell(json.dumps(["caught", caught, raised, host.manager.weight_learner.cell.state == before]))
    host.manager.data_manager.get_dataset_stats()  # waits for the lock, if there is one
    version = int(host.manager.data_manager.load_state().token != "")
    sessions = [(session.status, session.error) for session in host.manager.data_manager.get_all_sessions()]
    kept = evaluation_counts(host.database, pictures).total()
    if version == 0:
        host.perform(PLAN[1])
    host.close()
    tell(json.dumps(["repeated", version, sessions, kept]))


def interrupt(folder: Path, pictures: Path, how: str, delay: float, verdict: Verdict) -> dict[str, Any] | None:
    """Interrupt one training; return what was seen, or None where it was done before."""
    folder.mkdir()
    child = fork(lambda tell: work(folder, pictures, NAPS[how], tell))
    started = json.loads(child.line() or "null")
    verdict.expect(started, f"{folder.name}: the child did not begin")
    holder = None
    if how == "while another holds the lock":
        holder = fork(lambda tell: hold_lock(folder / DATABASE, HELD_SECONDS, tell))
        holder.line()
    time.sleep(delay)
    sent = time.monotonic()
    child.kill(signal.SIGINT)
    lines = [json.loads(line) for line in child.wait()]
    if holder is not None:
        holder.wait()
    if not verdict.expect(child.status == 0 and len(lines) == 2, f"{folder.name}: the child ended with {child.status}"):
        return None
    (_caught, moment, raised, is_unchanged), (_repeated, version, sessions, kept) = lines
    if raised == "nothing":
        return None
    where = f"{folder.name}, {how}, after {delay:.3f} s"
    verdict.expect(raised == "KeyboardInterrupt", f"{where}: raised {raised}")
    # Ctrl-C may also come just behind the commit, when everything is done.
    statuses_seen = [status for status, _error in sessions]
    is_locked = holder is not None  # then the end of the session cannot be noted before the next one begins
    good = statuses_seen in ([], ["interrupted"], ["running"] * is_locked) and version == 0 and is_unchanged
    done = statuses_seen == ["completed"] and version == 1
    verdict.expect(good or done, f"{where}: sessions {sessions}, version {version}, learner unchanged: {is_unchanged}")
    return {"how": how, "seconds": moment - sent, "kept": kept, "done": done}


def main() -> int:
    options = parse(
        __doc__, n=(200, 6, "interruptions"), bound=(WANTED_SECONDS, 2.0, "seconds within which Ctrl-C must come back")
    )
    verdict = Verdict("sigint", options.seed)
    logging.getLogger("tsm_training").setLevel(logging.CRITICAL)  # "could not note that …", as it should
    lot = random.Random(options.seed)
    seen: list[dict[str, Any]] = []
    late: list[str] = []
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, 6)
        references: dict[str, Reference] = {}
        for number, (how, nap) in enumerate(NAPS.items()):
            references[how] = reference_of(folder / f"undisturbed-{number}", pictures, PLAN, nap=nap)
        number = 0
        while len(seen) < options.n and number < 3 * options.n and not verdict.broken:
            how = list(NAPS)[number % len(NAPS)]
            reference = references[how]
            place = folder / f"training-{number}"
            result = interrupt(place, pictures, how, lot.uniform(0.0, 0.9 * reference.seconds), verdict)
            number += 1
            database = place / DATABASE
            verdict.expect(not (wrong := soundness(database)), f"{place.name}: {wrong}")
            TrainingDataManager(database).close()  # finds a session whose end could not be noted while it was locked
            verdict.expect(statuses(database)["running"] == 0, f"{place.name}: a session goes on running")
            if not verdict.broken:
                verdict.expect_same(content(database), reference.content, f"{place.name} ({how})")
            if result is not None:
                seen.append(result)
                if result["seconds"] > options.bound:
                    late.append(f"{place.name}: Ctrl-C {how} came back after {result['seconds']:.2f} s")
    for text in late:  # at the end, so that the figures are those of all
        verdict.expect(False, text)
    figures = []
    for how in NAPS:
        seconds = sorted(result["seconds"] for result in seen if result["how"] == how)
        if seconds:
            middle, most = seconds[len(seconds) // 2], seconds[int(0.95 * (len(seconds) - 1))]
            figures.append(
                f"{how}: {len(seconds)} times, half within {middle:.3f} s, 95 of 100 within {most:.3f} s, "
                f"slowest {seconds[-1]:.3f} s"
            )
    kept = sum(result["kept"] for result in seen)
    return verdict.close(
        f"{len(seen)} interruptions in {number} trainings; all repeated to the same end, bit for bit; "
        f"{kept} evaluations kept; {sum(result['done'] for result in seen)} came just behind the commit",
        *figures,
    )


if __name__ == "__main__":
    sys.exit(main())
