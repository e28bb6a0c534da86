"""Processes that train, add and remove on one PostgreSQL database, some of which are killed: nothing lost, no ghost.

Run it from the root of the repository: ``python -m tests.soak.server [--quick]``.

Each process performs operations drawn by lot and keeps count of what must come out, as in `tests.soak.procs`. One of
them after the other says that it runs on another machine, begins a session that it never ends, and is killed (SIGKILL)
at a moment drawn by lot. In the end the database holds what the others have counted, to the last bit, and what the
killed ones had acknowledged, give or take the operation that each was at; their sessions are interrupted when the lease
is over, and not before; `check` finds nothing.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.postgres import new_url
from tests.soak.counting import counted_pool
from tests.soak.procs import ALPHA, COUNTER, OPERATIONS, Account
from tests.soak.support import Child, Tell, Verdict, fork, make_pictures, parse, scratch

from tsm_training import BayesianWeightLearner, TrainingManager
from tsm_training.learning import decoded_state
from tsm_training.learning.rule import forget
from tsm_training.sql import SQLStore
from tsm_training.storage.sqlite import lease
from tsm_training.testing import make_session

EXAMPLES: Final = 24
ABANDONED: Final = "never ended by {}"
MOST_TOUCHED: Final = 3
"""Of how many examples one operation learns."""


def work(url: str, pictures: Path, number: int, options: Any, tell: Tell, *, is_victim: bool = False) -> None:
    """Perform operations until the time is over, and tell what must be stored: at the end, or after each."""
    if is_victim:
        lease._machine = lambda: ("another machine", "")  # type: ignore[assignment]
    with contextlib.closing(SQLStore(url, lease=options.lease)) as store:
        manager = TrainingManager(counted_pool(), BayesianWeightLearner(alpha=ALPHA), storage=store)
        numbers = list(range(number * EXAMPLES, (number + 1) * EXAMPLES))
        account = Account(manager, pictures, numbers, random.Random(f"{options.seed}/{number}"))
        manager.training_engine.prepare_learner(claim=True)
        if is_victim:
            store.begin_session(make_session(ABANDONED.format(number)))
            threading.Thread(target=renew, args=(store, ABANDONED.format(number)), daemon=True).start()
        end = time.monotonic() + options.seconds
        kinds: dict[str, int] = {}
        while time.monotonic() < end or is_victim:
            kind = account.perform()
            kinds[kind] = kinds.get(kind, 0) + 1
            if is_victim:
                tell(json.dumps([kinds, account.summary()]))
        tell(json.dumps([kinds, account.summary()]))


def renew(store: SQLStore, session_id: str) -> None:
    while True:
        store.renew_session(session_id)
        time.sleep(0.1)


def live_and_die(verdict: Verdict, url: str, victim: Child, number: int, seconds: float) -> list[Any]:
    """Kill a process after some time, in the middle of something, and return what it said last."""
    last, death = victim.line(), time.monotonic() + seconds
    while time.monotonic() < death:
        last = victim.line() or last
    time.sleep(random.Random(number).uniform(0, 0.3))
    with contextlib.closing(SQLStore(url, read_only=True)) as viewer:
        status = viewer.get_session(ABANDONED.format(number)).status
        verdict.expect(status == "running", f"the session of a living process is {status}")
        victim.kill()
        last = [last, *victim.wait()][-1]
        verdict.expect(victim.was_killed, f"the victim ended with {victim.status}")
        status = viewer.get_session(ABANDONED.format(number)).status
        verdict.expect(status == "running", "a lease was over too early")
    told: list[Any] = json.loads(last or "null")
    return told


def judge(verdict: Verdict, store: SQLStore, living: list[dict[str, Any]], killed: list[dict[str, Any]]) -> None:
    """Compare the database with the accounts; of each killed process one operation may or may not be stored."""
    expect = verdict.expect
    found = {e.example_id: (e.ground_truth_path, dict(e.metadata)) for e in store.iterate_examples()}
    state = store.load_state(None)
    counted = {
        "examples": ({i: (e["truth"], e["metadata"]) for s in living for i, e in s["examples"].items()}, found),
        "learned": ({d: row for s in living for d, row in s["rows"].items()}, state.rows),
    }
    own = {
        "examples": {i: (e["truth"], e["metadata"]) for s in killed for i, e in s["examples"].items()},
        "learned": {d: row for s in killed for d, row in s["rows"].items()},
    }
    for part, (wanted, stored) in counted.items():
        verdict.expect_same({key: stored[key] for key in wanted if key in stored}, wanted, part)
        rest = {key: value for key, value in stored.items() if key not in wanted}
        differing = [key for key in rest.keys() | own[part].keys() if rest.get(key) != own[part].get(key)]
        most = len(killed) * (1 if part == "examples" else MOST_TOUCHED)
        expect(len(differing) <= most, f"{part} of killed processes: {len(differing)} are not as acknowledged")
    known = store.known_digests(state.rows)
    known |= {f"target/{e.known_files.target.sha256}" for e in store.iterate_examples()}
    ghosts = state.rows.keys() - known
    expect(not ghosts, f"of {len(ghosts)} removed examples something is learned for ever")
    nothing = forget(decoded_state(state.head["state"], state.rows), state.rows)
    left = (nothing.totals, nothing.num_examples, nothing.exposure)
    expect(left == ({}, 0, 0), f"without its examples, learned state holds {left}")
    count = sum(summary["count"] for summary in [*living, *killed])
    counter = nothing.priors[COUNTER] - 1
    expect(count <= counter <= count + len(killed), f"the counter stands at {counter:g} after {count} increments")
    statuses = {session.session_id: session.status for session in store.iterate_sessions()}
    abandoned = [statuses.pop(ABANDONED.format(number), None) for number in range(len(killed))]
    expect(set(abandoned) == {"interrupted"}, f"the sessions of killed processes are {abandoned}")
    ended = [i for summary in [*living, *killed] for i in summary["sessions"]]
    verdict.expect_same({i: statuses.pop(i, None) for i in ended}, dict.fromkeys(ended, "completed"), "sessions")
    expect(
        len(statuses) <= len(killed) and "running" not in statuses.values(), f"sessions that nobody counted: {statuses}"
    )
    rows = sum(len(list(store.iterate_metrics(i))) for i in ended)
    total = sum(summary["metric_rows"] for summary in [*living, *killed])
    expect(rows == total, f"{rows} metric rows instead of {total}")
    expect(not (faults := store.check()), f"check() found {faults[:3]}")


def main() -> int:
    options = parse(
        __doc__,
        processes=(3, 3, "processes that go on to the end"),
        kills=(10, 1, "processes that are killed, one after the other"),
        seconds=(60.0, 4.0, "how long they work"),
        lease=(10.0, 5.0, "seconds for which a session is believed to run"),
    )
    verdict = Verdict("server", options.seed)
    with scratch(verdict) as folder:
        pictures, url = folder / "pictures", new_url()
        make_pictures(pictures, EXAMPLES * (options.kills + options.processes))

        def start(number: int) -> Child:
            is_victim = number < options.kills
            return fork(lambda tell: work(url, pictures, number, options, tell, is_victim=is_victim))

        others = [start(options.kills + number) for number in range(options.processes)]
        span = options.seconds / options.kills / 2
        killed = [live_and_die(verdict, url, start(number), number, span) for number in range(options.kills)]
        lines = [line for child in others for line in child.wait()]
        for child in others:
            verdict.expect(child.status == 0, f"a process ended with {child.status}")
        time.sleep(options.lease)
        living = [json.loads(line) for line in lines]
        with contextlib.closing(SQLStore(url)) as store:
            judge(verdict, store, [summary for _kinds, summary in living], [summary for _kinds, summary in killed])
    operations = {kind: sum(kinds.get(kind, 0) for kinds, _summary in [*living, *killed]) for kind in OPERATIONS}
    return verdict.close(
        f"{options.processes} processes and {options.kills} that were killed, {sum(operations.values())} operations on "
        f"one database ({', '.join(f'{count} {kind}' for kind, count in operations.items())})"
    )


if __name__ == "__main__":
    sys.exit(main())
