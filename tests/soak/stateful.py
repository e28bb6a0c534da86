"""Many random histories of the SQLite store beside the one in memory: `python -m tests.soak.stateful [--quick]`.

The ordinary tests drive the same machines through fewer and shorter histories. Here they run in batches, each with a
seed of its own, so that the time is bounded and a batch that fails can be played again.
"""

from __future__ import annotations

import collections
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.soak.support import Verdict, parse
from tests.test_stateful import DatabaseFileMachine, DatabaseInMemoryMachine

from tsm_training.data import TrainingStore
from tsm_training.testing.stateful import TrainingStoreMachine

MACHINES: Final = (DatabaseFileMachine, DatabaseInMemoryMachine)
BATCH: Final = 10


def counting(machine: type[TrainingStoreMachine], count: collections.Counter[str]) -> type[TrainingStoreMachine]:
    """Return the machine with a count of what it did: histories in which nothing happens prove nothing."""

    class Counting(machine):  # type: ignore[misc, valid-type]
        def open_store(self, folder: Path) -> TrainingStore:
            count["openings"] += 1
            store: TrainingStore = super().open_store(folder)
            return store

        def crash(self, folder: Path, another: Path) -> None:
            count["crashes"] += 1
            super().crash(folder, another)

        def kill(self, names: Sequence[str], *, is_writing: bool) -> None:
            count["processes killed"] += 1
            super().kill(names, is_writing=is_writing)

        def compare(self, store: TrainingStore) -> None:
            count["comparisons"] += 1
            super().compare(store)

        def teardown(self) -> None:
            count["histories"] += 1
            super().teardown()

    return Counting


def main() -> int:
    options = parse(
        __doc__,
        runs=(500, 20, "histories of each store"),
        steps=(50, 15, "steps of each history"),
        minutes=(7.5, 0.2, "begin no batch later than this"),
    )
    verdict = Verdict("stateful", options.seed)
    # The generator's own choices are enough: shrinking a failure would take longer than all the rest.
    chosen = settings(
        max_examples=BATCH,
        stateful_step_count=options.steps,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    counts = {machine.__name__: collections.Counter[str]() for machine in MACHINES}
    machines = [counting(machine, counts[machine.__name__]) for machine in MACHINES]
    for batch in range(max(1, options.runs // BATCH)):
        if time.monotonic() - verdict.started > options.minutes * 60:
            print(f"out of time after {batch * BATCH} histories of each store")
            break
        for original, machine in zip(MACHINES, machines, strict=True):
            number = options.seed * 1_000_000 + batch
            test = seed(number)(type(machine.__name__, (machine,), {}))
            try:
                run_state_machine_as_test(test, settings=chosen)
            except Exception:
                traceback.print_exc()
                verdict.expect(False, f"{original.__name__} differs from the model (batch seed {number})")
            else:
                verdict.expect(True, "")
    for name, count in counts.items():
        verdict.expect(count["comparisons"] > count["histories"], f"{name} did nothing")
    figures = [f"{name}: " + ", ".join(f"{n:,} {what}" for what, n in count.items()) for name, count in counts.items()]
    return verdict.close(*figures)


if __name__ == "__main__":
    sys.exit(main())
