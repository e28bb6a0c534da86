"""SIGKILL at random moments: nothing acknowledged is lost, and going on ends where an undisturbed run ends.

Run it from the root of the repository: ``python -m tests.soak.kill [--quick]``.

A child works through a plan (add, train, validate, export, import, replace, remove, reset, close, open) on one database
and acknowledges each step on a pipe after the call has returned. It is killed at a moment drawn by lot: at any time, at
any SQL statement or file call, or around a commit. Then the database is opened again and judged, another child goes on
where the first one ended, and so on until the plan is done. In some chains workers are slow, so that a training lasts
for several commits.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final

import attrs
from tests.soak.support import (
    DATABASE,
    PLAN,
    WEIGHTS,
    Call,
    Child,
    Host,
    Reference,
    Step,
    Tell,
    Verdict,
    calls_since,
    content,
    evaluation_counts,
    exported,
    fork,
    is_boundary,
    make_pictures,
    mark_of,
    parse,
    reference_of,
    scratch,
    soundness,
    statuses,
    watching,
    work_through,
)

from tsm_training import TrainingDataManager

SLOW_EXAMPLES: Final = 24
SLOW_PLAN: Final[tuple[Step, ...]] = (("add", *range(SLOW_EXAMPLES)), ("train", 2), ("export",))
SLOW_NAP: Final = 0.06
PICTURES: Final = SLOW_EXAMPLES
KILLS_PER_CHAIN: Final = 6
UNCOMMITTED_SECONDS: Final = 1.0
PATIENCE: Final = 1.0  # for a machine that is busy with other things when the second is over


@attrs.define
class Tally:
    """The figures of all chains."""

    kills: int = 0
    chains: int = 0
    acknowledged: int = 0
    unacknowledged_commits: int = 0
    interrupted: int = 0
    evaluations_kept: int = 0
    evaluations_repeated: int = 0
    oldest_repeated: float = 0.0
    leftovers: int = 0
    moments: collections.Counter[str] = attrs.field(factory=collections.Counter)


@attrs.define
class Chain:
    """One database, from its first opening to the end of the plan."""

    folder: Path
    pictures: Path
    reference: Reference
    verdict: Verdict
    tally: Tally
    lot: random.Random
    nap: float = 0.0
    acknowledged: int = 0
    start: int = 0
    log_end: int = 0
    kills: int = 0
    stored: collections.Counter[tuple[str, str]] = attrs.field(factory=collections.Counter)

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    def run(self, kills: int) -> None:
        """Go through the plan with so many kills, and then to its end."""
        self.folder.mkdir()
        while self.start < len(self.reference.steps) and not self.verdict.broken:
            child = self.child_that_is_killed() if self.kills < kills else fork(self.work)
            lines = child.wait()
            killed_at = time.monotonic()
            self.verdict.expect(child.was_killed or child.status == 0, f"{self.folder.name}: child: {child.status}")
            self.kills += child.was_killed
            self.tally.kills += child.was_killed
            self.acknowledge(lines)
            self.judge(killed_at if child.was_killed else None)
        self.tally.chains += 1
        if not self.verdict.broken:
            self.verdict.expect_same(content(self.database), self.reference.content, self.folder.name)
            file = exported(self.folder / WEIGHTS)
            self.verdict.expect(file == self.reference.exports[-1], f"{self.folder.name}: another export")

    # --- the child ---

    def work(self, tell: Tell) -> None:
        host = Host(self.folder, self.pictures, self.nap)
        host.open()
        work_through(host, self.reference.steps, self.start, tell)
        host.close()

    def child_that_is_killed(self) -> Child:
        """Start a child and see to it that it is killed, unless it is done before."""
        moment = self.lot.choice(("at any time", "at a statement or file call", "around a commit"))
        self.tally.moments[moment] += 1
        share_left = 1.0 - self.start / len(self.reference.steps)
        if moment == "at any time":
            child = fork(self.work)
            time.sleep(self.lot.uniform(0.0, self.reference.seconds * share_left))
            child.kill()
        elif moment == "at a statement or file call":
            fatal = self.lot.randrange(1, 2 + int(self.reference.events * share_left))
            child = fork(lambda tell: self.work_until(fatal, tell))
        else:
            commit = self.lot.randrange(1, 4 + int(3 * len(self.reference.steps) * share_left))
            child = fork(lambda tell: self.work_telling(commit, tell))
            while (line := child.line()) is not None:
                if line == "committing":
                    time.sleep(self.lot.uniform(0.0, 0.004))
                    child.kill()
                else:
                    self.acknowledge([line])
        return child

    def work_until(self, fatal: int, tell: Tell) -> None:
        left = [fatal]

        def count(call: Call) -> None:
            left[0] -= is_boundary(call)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        with watching(count, self.folder, traces=True):
            self.work(tell)

    def work_telling(self, commit: int, tell: Tell) -> None:
        left = [commit]

        def count(call: Call) -> None:
            if call.moment == "before" and call.text in {"COMMIT", "BEGIN IMMEDIATE"}:
                left[0] -= 1
                if left[0] == 0:
                    tell("committing")

        with watching(count, self.folder):
            self.work(tell)

    def acknowledge(self, lines: list[str]) -> None:
        for line in lines:
            if line.startswith("done "):
                self.acknowledged = int(line.removeprefix("done "))
                self.tally.acknowledged += 1

    # --- the judgement ---

    def judge(self, killed_at: float | None) -> None:
        """Open the database as the next process would, and compare it with what was acknowledged."""
        expect, where = self.verdict.expect, f"{self.folder.name} after {self.kills} kills"
        with contextlib.closing(TrainingDataManager(self.database)) as store:
            mark = mark_of(store)
            sessions = store.get_all_sessions()
            metrics = {session.session_id: len(list(store.iterate_metrics(session.session_id))) for session in sessions}
        expect(not (wrong := soundness(self.database)), f"{where}: {wrong}")
        position = self.reference.position(self.acknowledged, mark)
        if expect(position is not None, f"{where}: step {self.acknowledged} was acknowledged, the store has {mark}"):
            self.start = position or 0
            self.tally.unacknowledged_commits += self.start > self.acknowledged
            self.acknowledged = self.start
        found = statuses(self.database)
        expect(found["running"] == 0, f"{where}: {found['running']} sessions still running")
        expect(found["failed"] == 0, f"{where}: {found['failed']} sessions failed")
        expect(found["interrupted"] <= self.kills, f"{where}: {found['interrupted']} sessions interrupted")
        trained = sum(step[0] == "train" for step in self.reference.steps[: self.start])
        expect(found["completed"] == trained, f"{where}: {found['completed']} sessions instead of {trained}")
        for session in sessions:
            is_complete = session.status == "completed"
            expect(bool(metrics[session.session_id]) == is_complete, f"{where}: metrics of a {session.status} session")
        self.judge_files(where)
        self.judge_calls(killed_at, where)

    def judge_files(self, where: str) -> None:
        file = exported(self.folder / WEIGHTS)
        next_step = min(self.start + 1, len(self.reference.steps))
        possible = [self.reference.exports[self.start], self.reference.exports[next_step]]
        self.verdict.expect(file in possible, f"{where}: the export is neither the old one nor the new one: {file!r}")
        self.tally.leftovers += len(list(self.folder.glob(".*.tmp")))
        for path in self.folder.glob(".*.tmp"):
            path.unlink()

    def judge_calls(self, killed_at: float | None, where: str) -> None:
        """See that nothing stored was run again, and that what was lost is of the last second."""
        calls, self.log_end = calls_since(self.folder, self.log_end)
        before, self.stored = self.stored, evaluation_counts(self.database, self.pictures)
        self.tally.evaluations_kept += self.stored.total() - before.total()
        made = collections.Counter((worker_id, name) for worker_id, name, _moment in calls)
        for key, count in made.items():
            needed = self.reference.evaluations[key] - before[key]
            self.verdict.expect(count <= needed, f"{where}: {key} was evaluated {count} times, {needed} were missing")
        lost = made - (self.stored - before)
        self.tally.evaluations_repeated += lost.total()
        for worker_id, name, moment in reversed(calls):
            if lost[worker_id, name] > 0 and killed_at is not None:
                lost[worker_id, name] -= 1
                age = killed_at - moment
                self.tally.oldest_repeated = max(self.tally.oldest_repeated, age)
                limit = UNCOMMITTED_SECONDS + SLOW_NAP * 4 + PATIENCE
                self.verdict.expect(age <= limit, f"{where}: an evaluation made {age:.2f} s before was not kept")
        if killed_at is None:
            self.verdict.expect(not +lost, f"{where}: an undisturbed child did not keep {+lost}")


def main() -> int:
    options = parse(__doc__, kills=(300, 8, "kills in all"), slow=(10, 6, "one chain in so many has slow workers"))
    verdict = Verdict("kill", options.seed)
    tally = Tally()
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, PICTURES)
        plain = reference_of(folder / "undisturbed", pictures, PLAN)
        slow = reference_of(folder / "undisturbed-slow", pictures, SLOW_PLAN, nap=SLOW_NAP)
        while tally.kills < options.kills and not verdict.broken:
            number = tally.chains
            is_slow = number % options.slow == 1
            chain = Chain(
                folder=folder / f"chain-{number}",
                pictures=pictures,
                reference=slow if is_slow else plain,
                verdict=verdict,
                tally=tally,
                lot=random.Random(f"{options.seed}/{number}"),
                nap=SLOW_NAP if is_slow else 0.0,
            )
            chain.run(min(KILLS_PER_CHAIN, options.kills - tally.kills))
            tally.interrupted += statuses(chain.database)["interrupted"]
    moments = ", ".join(f"{count} {moment}" for moment, count in sorted(tally.moments.items()))
    return verdict.close(
        f"{tally.kills} kills (aimed: {moments}) in {tally.chains} databases, each brought to its end",
        f"{tally.acknowledged} steps acknowledged, {'SOME' if verdict.broken else 'none'} lost; "
        f"{tally.unacknowledged_commits} committed but not yet said",
        f"{tally.interrupted} sessions marked interrupted; {tally.leftovers} temporary files of exports left",
        f"{tally.evaluations_kept} evaluations kept, {tally.evaluations_repeated} lost and repeated, "
        f"the oldest made {tally.oldest_repeated:.2f} s before the kill",
    )


if __name__ == "__main__":
    sys.exit(main())
