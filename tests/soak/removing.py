"""Examples that are removed while other processes learn: nothing is learned for ever of one that is gone.

Run it from the root of the repository: ``python -m tests.soak.removing [--quick]``. Sessions are begun, renewed and
committed as a training does it, with evidence under the digest of each example; what decides is asked for inside the
transaction that commits it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

from tests.soak.support import Tell, Verdict, fork, parse, scratch, soundness

from tsm_training.data import HeldState, SessionCommit, StateDelta
from tsm_training.storage import TrainingDataManager
from tsm_training.testing import MOMENT, make_example, make_files, make_session

TRAINERS: Final = 2
REMOVERS: Final = 2


def forget(held: HeldState) -> StateDelta:
    """Drop what was learned of contents that no example has any more."""
    return StateDelta(rows=dict.fromkeys(held.gone))


def train(path: Path, number: int, stop: Path, tell: Tell) -> None:
    """Learn from all examples, again and again, until a file says that it is enough."""
    lot = random.Random(number)
    sessions = 0
    with contextlib.closing(TrainingDataManager(path)) as store:
        while not stop.exists():
            session_id = f"{number}-{sessions}"
            store.begin_session(make_session(session_id))
            digests = [example.known_files.digest for example in store.iterate_examples()]
            time.sleep(lot.random() * 0.02)  # workers run
            store.renew_session(session_id)

            def finish(held: HeldState, session_id: str = session_id, digests: list[str] = digests) -> SessionCommit:
                ended = make_session(session_id, status="completed", end_time=MOMENT)
                return SessionCommit(ended, (), StateDelta(rows=dict.fromkeys(held.known(digests), f'"{session_id}"')))

            store.commit_session(session_id, finish)
            sessions += 1
    tell(str(sessions))


def remove(path: Path, names: list[str], seed: int, tell: Tell) -> None:
    lot = random.Random(seed)
    with contextlib.closing(TrainingDataManager(path)) as store:
        for name in names:
            store.remove_example(name, forget)
            time.sleep(lot.random() * 0.004)
    tell(str(len(names)))


def remove_together(path: Path, rounds: int, who: str, barrier: Barrier, tell: Tell) -> None:
    """Remove one of two examples with equal contents at the moment at which the other process removes the other."""
    with contextlib.closing(TrainingDataManager(path)) as store:
        for number in range(rounds):
            barrier.wait(60)
            store.remove_example(f"{number} {who}", forget)
    tell("done")


def ghosts(path: Path) -> list[str]:
    """Return what was learned of contents that no example has."""
    with contextlib.closing(TrainingDataManager(path)) as store:
        rows = store.load_state(None).rows
        return sorted(rows.keys() - store.known_digests(rows))


def main() -> int:
    options = parse(
        __doc__, removals=(1000, 60, "removals beside trainings"), pairs=(200, 20, "removals of equal contents")
    )
    verdict = Verdict("removing", options.seed)
    with scratch(verdict) as folder:
        path, stop = folder / "beside.db", folder / "stop"
        names = [f"e{number}" for number in range(options.removals)]
        with contextlib.closing(TrainingDataManager(path)) as store:
            store.add_examples([make_example(name) for name in [*names, "stays"]])
        trainers = [fork(lambda tell, n=n: train(path, n, stop, tell)) for n in range(TRAINERS)]  # type: ignore[misc]
        removers = [
            fork(lambda tell, n=n: remove(path, names[n::REMOVERS], options.seed + n, tell))  # type: ignore[misc]
            for n in range(REMOVERS)
        ]
        removed = sum(int(child.wait()[0]) for child in removers)
        stop.touch()
        trained = [child.wait() for child in trainers]
        for child in [*trainers, *removers]:
            verdict.expect(child.status == 0, f"a process ended with {child.status}")
        sessions = sum(int(lines[0]) for lines in trained if lines)
        verdict.expect(removed == options.removals, f"{removed} of {options.removals} were removed")
        verdict.expect(sessions > 0, "nothing was learned meanwhile")
        found = ghosts(path)
        verdict.expect(not found, f"{len(found)} removed examples are learned for ever")
        with contextlib.closing(TrainingDataManager(path)) as store:
            verdict.expect(
                list(store.load_state(None).rows) == [make_files("stays").digest], "the last one is not known"
            )
            statuses = {session.status for session in store.iterate_sessions()}
        verdict.expect(statuses == {"completed"}, f"sessions ended as {statuses}")
        verdict.expect(not (wrong := soundness(path)), f"{wrong}")

        pairs = folder / "together.db"
        with contextlib.closing(TrainingDataManager(pairs)) as store:
            for number in range(options.pairs):
                files = make_files(f"pair {number}")
                store.add_examples([make_example(f"{number} {who}", files=files) for who in "ab"])
                store.update_state(lambda _held, files=files: StateDelta(rows={files.digest: "1"}))  # type: ignore[misc]
        barrier = multiprocessing.get_context("fork").Barrier(2)
        together = [
            fork(lambda tell, who=who: remove_together(pairs, options.pairs, who, barrier, tell))  # type: ignore[misc]
            for who in "ab"
        ]
        for child in together:
            child.wait()
            verdict.expect(child.status == 0, f"a process ended with {child.status}")
        found = ghosts(pairs)
        verdict.expect(not found, f"evidence of none is left {len(found)} times")
        verdict.expect(not (wrong := soundness(pairs)), f"{wrong}")
    return verdict.close(
        f"{removed} removals by {REMOVERS} processes beside {sessions} trainings of {TRAINERS} others",
        f"{options.pairs} simultaneous removals of equal contents",
    )


if __name__ == "__main__":
    sys.exit(main())
