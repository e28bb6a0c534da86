"""SIGKILL at every boundary of an SQL statement or file call of a small run: nothing acknowledged is lost.

Run it from the root of the repository: ``python -m tests.soak.statements [--quick]``.

A child opens a database, adds, trains, validates, exports, imports and resets, and kills itself at the n-th boundary:
before each statement (before each row of a statement for many), after each, before and after each file call. Then the
database is opened again and judged, and another child goes on to the end, which must be that of an undisturbed run.
This is done for every n; the quick form draws a sample.
"""

from __future__ import annotations

import random
import sys

from tests.soak.kill import Chain, Tally
from tests.soak.support import SMALL_PLAN, Child, Verdict, fork, make_pictures, parse, reference_of, scratch, statuses


class ChainWithOneKill(Chain):
    """A database whose first child dies at one given boundary."""

    fatal: int = 0

    def child_that_is_killed(self) -> Child:
        return fork(lambda tell: self.work_until(self.fatal, tell))


def main() -> int:
    options = parse(__doc__, boundaries=(0, 12, "how many boundaries, 0 for all"))
    verdict = Verdict("statements", options.seed)
    tally = Tally()
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, 3)
        reference = reference_of(folder / "undisturbed", pictures, SMALL_PLAN)
        every = range(1, reference.events + 1)
        if options.boundaries:
            chosen = random.Random(options.seed).sample(every, min(options.boundaries, len(every)))
        else:
            chosen = list(every)
        for fatal in sorted(chosen):
            chain = ChainWithOneKill(folder / f"boundary-{fatal}", pictures, reference, verdict, tally, random.Random())
            chain.fatal = fatal
            chain.run(1)
            tally.interrupted += statuses(chain.database)["interrupted"]
            if verdict.broken:
                break
    # A training that is slow for once commits more often than the undisturbed one did; there are as many the other way.
    enough = tally.kills >= 0.95 * len(chosen)
    verdict.expect(enough or verdict.broken, f"only {tally.kills} of {len(chosen)} boundaries were reached")
    return verdict.close(
        f"{tally.kills} kills at {len(chosen)} of {reference.events} boundaries of statements and file calls",
        f"{tally.acknowledged} steps acknowledged, {'SOME' if verdict.broken else 'none'} lost; "
        f"{tally.unacknowledged_commits} committed but not yet said",
        f"{tally.interrupted} sessions marked interrupted; {tally.leftovers} temporary files of exports left",
        f"{tally.evaluations_kept} evaluations kept, {tally.evaluations_repeated} lost and repeated",
    )


if __name__ == "__main__":
    sys.exit(main())
