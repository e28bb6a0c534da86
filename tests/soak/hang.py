"""Workers that never answer: how long until they are given up, how long until the program has ended, what is left.

Run it from the root of the repository: ``python -m tests.soak.hang --n 50 [--quick]``.

A host process asks a pool of workers that all hang, once in threads with a time limit and once in processes, and then
leaves. It is given up on time if the answer comes within a quarter of a second beyond the limit, in threads also for
all workers together. The host has to exit within a second, with all of its threads still hanging, and nothing may be
left of it: no process and no zombie.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.soak.support import Verdict, parse

LATE_SECONDS: Final = 0.25
EXIT_SECONDS: Final = 1.0
STATE, PARENT, SESSION = 0, 1, 3
"""Fields of ``/proc/<pid>/stat`` behind the name."""

HOST: Final = """
import json, sys, time
import numpy as np
from tests.soak.hang import PARENT, STATE, processes
from tsm_training import FunctionWorker, ThreadRunner, WorkerPool
from tsm_training.isolation import IsolatedRunner
mode, n, limit = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

def asleep(source, target):
    time.sleep(10_000)

def busy(source, target):
    while True:
        time.sleep(0.001)

runner = ThreadRunner(limit) if mode == "threads" else IsolatedRunner(limit)
pool = WorkerPool(max_workers=n, runner=runner)
for number in range(n):
    pool.register_worker(FunctionWorker(f"worker {number}", busy if number % 2 else asleep))
picture = np.zeros((100, 100, 3), np.uint8)
started = time.monotonic()
first = pool.execute_parallel({"source": picture, "target": picture})
between = time.monotonic()
again = pool.execute_parallel({"source": picture, "target": picture}) if mode == "threads" else []
ended = time.monotonic()
time.sleep(0.5)  # for what is being ended
import os
print(json.dumps({
    "kinds": sorted({str(result.failure and result.failure.kind) for result in [*first, *again]}),
    "worker": max(result.seconds for result in first),
    "pool": between - started,
    "again": ended - between,
    "zombies": sum(p[PARENT] == str(os.getpid()) and p[STATE] == "Z" for p in processes().values()),
    "left": time.time(),
}), flush=True)
"""


def processes() -> dict[int, list[str]]:
    """Return the fields of all processes of this machine, by id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
    return found


def left_of(session: int) -> list[int]:
    """Return the processes of a session that still run; those that ended without their host are init's to clear up."""
    return [pid for pid, fields in processes().items() if int(fields[SESSION]) == session and fields[STATE] != "Z"]


def run_host(mode: str, n: int, limit: float) -> tuple[dict[str, Any], float, int, int]:
    """Return what a host told, how long it took to exit, with what code, and how many processes it left."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, mode, str(n), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert host.stdout is not None
    told = json.loads(host.stdout.readline())
    code = host.wait(60.0)
    seconds = time.time() - told["left"]
    host.stdout.close()
    until = time.monotonic() + EXIT_SECONDS  # the keepers of the process libraries notice the end of the host
    while (left := left_of(host.pid)) and time.monotonic() < until:
        time.sleep(0.01)
    return told, seconds, code, len(left)


def main() -> int:
    options = parse(__doc__, n=(50, 4, "hanging workers"), limit=(0.5, 0.5, "seconds they are given"))
    verdict = Verdict("hang", options.seed)
    figures = []
    for mode in ("threads", "isolated"):
        told, exit_seconds, code, left = run_host(mode, options.n, options.limit)
        late = told["worker"] - options.limit
        if mode == "threads":  # all at the same time, so that the pool is no later than one of them
            late = max(late, told["pool"] - options.limit)
            verdict.expect(told["again"] < LATE_SECONDS, f"threads: benched workers took {told['again']:.2f} s")
        verdict.expect(told["kinds"] == ["timed_out"], f"{mode}: the failures are {told['kinds']}")
        verdict.expect(late <= LATE_SECONDS, f"{mode}: given up {late:.3f} s late")
        verdict.expect(exit_seconds <= EXIT_SECONDS, f"{mode}: {exit_seconds:.2f} s to exit")
        verdict.expect(code == 0, f"{mode}: exit code {code}")
        verdict.expect(told["zombies"] == 0, f"{mode}: {told['zombies']} zombies")
        verdict.expect(left == 0, f"{mode}: {left} processes left")
        figures.append(
            f"{mode}: {options.n} hanging workers given up {late:.3f} s beyond {options.limit:g} s, "
            f"exit within {exit_seconds:.2f} s, {told['zombies']} zombies, {left} processes left"
        )
    return verdict.close(*figures, f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
