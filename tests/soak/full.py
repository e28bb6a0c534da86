"""No room: files may grow up to a limit, for one limit after the other; each call is durable or says so.

Run it from the root of the repository: ``python -m tests.soak.full [--quick]``.

An application works through a plan (open, add, train, validate, export, import, reset) while the system lets no file
grow beyond a limit (``RLIMIT_FSIZE``). Each call must succeed for good, or raise `StorageFullError` (an export:
`WeightsFileError`) with nothing half done. Then there is room again, and the same objects go on to the same end, bit
for bit. The limits go up in steps, until nothing fails any more.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from tests.soak.support import (
    SMALL_PLAN,
    WEIGHTS,
    Host,
    Reference,
    Tell,
    Verdict,
    content,
    exported,
    fork,
    make_pictures,
    parse,
    reference_of,
    scratch,
    soundness,
    statuses,
)

from tsm_training import TrainingDataManager
from tsm_training.errors import StorageFullError, WeightsFileError


@contextlib.contextmanager
def room_up_to(limit: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ: writing fails with EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@attrs.define
class Pass:
    """One run of the plan with one limit."""

    folder: Path
    pictures: Path
    reference: Reference
    verdict: Verdict
    limit: int
    errors: collections.Counter[str] = attrs.field(factory=collections.Counter)

    @property
    def where(self) -> str:
        return f"room up to {self.limit} bytes"

    def run(self) -> None:
        self.folder.mkdir()
        host = Host(self.folder, self.pictures)
        self.attempt("opening", host.open, host.open)
        for position, step in enumerate(self.reference.steps):
            before = host.manager.weight_learner.cell.state
            again = lambda step=step: host.perform(step)  # noqa: E731
            self.attempt(step[0], again, lambda: self.go_on(host, position, before, again))  # noqa: B023
            if self.verdict.broken:
                break
        host.close()
        TrainingDataManager(host.database).close()
        if not self.verdict.broken:
            self.verdict.expect(statuses(host.database)["running"] == 0, f"{self.where}: a session goes on running")
            self.verdict.expect_same(content(host.database), self.reference.content, self.where)
            self.verdict.expect(exported(self.folder / WEIGHTS) == self.reference.exports[-1], f"{self.where}: export")
            left = [path.name for path in self.folder.iterdir() if path.name not in {host.database.name, WEIGHTS}]
            self.verdict.expect(not left, f"{self.where}: files are left: {left}")

    def attempt(self, name: str, work: Callable[[], Any], go_on: Callable[[], Any]) -> None:
        """Do something with too little room, and go on when there is room again."""
        try:
            with room_up_to(self.limit):
                work()
        except (StorageFullError, WeightsFileError) as error:
            fits = isinstance(error, WeightsFileError) == (name == "export")
            self.verdict.expect(fits, f"{self.where}, {name}: raised {error!r}")
            self.errors[f"{name}: {type(error).__name__}"] += 1
            go_on()
        except Exception as error:
            self.verdict.expect(False, f"{self.where}, {name}: raised {type(error).__name__}: {error}")
            raise

    def go_on(self, host: Host, position: int, before: object, again: Callable[[], None]) -> None:
        """Judge what a step without room has left behind, and repeat it."""
        where = f"{self.where}, in step {position} {self.reference.steps[position]}"
        self.verdict.expect(not (wrong := soundness(host.database)), f"{where}: {wrong}")
        same = host.manager.weight_learner.cell.state == before
        self.verdict.expect(same, f"{where}: the learner knows more than before")
        mark = host.mark()
        self.verdict.expect(mark == self.reference.marks[position], f"{where}: the store has {mark}")
        file = exported(self.folder / WEIGHTS)
        self.verdict.expect(file == self.reference.exports[position], f"{where}: another export")
        again()


def main() -> int:
    options = parse(
        __doc__, step=(512, 512, "bytes from one limit to the next"), limits=(0, 12, "how many by lot, 0 for all")
    )
    verdict = Verdict("full", options.seed)
    figures: collections.Counter[str] = collections.Counter()
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, 3)
        reference = reference_of(folder / "undisturbed", pictures, SMALL_PLAN)
        largest = max(path.stat().st_size for path in (folder / "undisturbed").iterdir())
        limits = list(range(0, largest + 2 * options.step, options.step))
        if options.limits:
            limits = sorted(random.Random(options.seed).sample(limits, min(options.limits, len(limits))))

        def work(tell: Tell) -> None:
            for limit in limits:
                one = Pass(folder / f"limit-{limit}", pictures, reference, Verdict("full", options.seed), limit)
                one.run()
                tell(json.dumps([one.verdict.checks, one.verdict.broken, one.errors]))
                if one.verdict.broken:
                    break
                shutil.rmtree(one.folder)

        child = fork(work)
        for checks, broken, errors in map(json.loads, child.wait()):
            verdict.checks += checks
            verdict.broken += broken
            figures.update(errors)
        verdict.expect(child.status == 0, f"the process ended with {child.status}")
        unlimited = not options.limits and limits[-1] > largest
        verdict.expect(figures or not limits, "no call ever failed: the limits were not felt")
    return verdict.close(
        f"{len(limits)} limits from {limits[0]} to {limits[-1]} bytes{', the last of them no limit' * unlimited}: "
        f"{figures.total()} calls found no room, all went on when there was room again",
        ", ".join(f"{count} {what}" for what, count in sorted(figures.items())),
    )


if __name__ == "__main__":
    sys.exit(main())
