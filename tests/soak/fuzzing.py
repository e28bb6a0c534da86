"""Runs numbered cases in child processes, so that a crash or a hang is counted, attributed and outlived.

A case is its number: a child makes it anew from seed and number, so whatever goes wrong can be repeated alone. Children
have an upper limit on their address space. What is timed is the processor's time, because other programs on the machine
must not decide on the result; a case that takes too long by the clock is ended all the same.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import attrs
import cv2

__all__ = ["Case", "Limits", "Violation", "child", "options", "run"]

_HANG_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_MEGABYTE: Final = 1_000_000
_ADDRESS_SPACE: Final = 1 << 30
"""Bytes that a child may map beyond what it has when it begins."""

_MAX_CRASHES: Final = 20
_PLACE: Final = struct.Struct("q")


class Violation(Exception):  # noqa: N818 - it is a finding, not a fault of this program
    """A case did something that the library promises not to do."""


@attrs.frozen
class Limits:
    """What one case may take: seconds of the processor, and bytes of resident memory beyond those at the beginning."""

    seconds: float
    num_bytes: int


@attrs.frozen
class Case:
    """One input: its number, a few words on how it was made, and its bytes."""

    number: int
    made: str
    data: bytes


class Suite(Protocol):
    """What a soak run consists of."""

    limits: Limits

    def prepare(self) -> None:
        """Make ready whatever the checks need, before the memory is measured."""
        ...

    def make(self, number: int) -> Case:
        """Make the case of that number, the same each time."""
        ...

    def check(self, case: Case) -> Sequence[str]:
        """Try a case; return what to count it under, or raise `Violation`."""
        ...


def options(description: str, full: int) -> argparse.ArgumentParser:
    """Return the options that all of these runs have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small run, for every change")
    parser.add_argument("--n", type=int, default=full, help=f"how many mutated files (default {full})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="child processes at a time")
    parser.add_argument("--keep", type=Path, help="folder for files that did harm; a new temporary one unless given")
    parser.add_argument("--only", type=int, help="run one case here, in this process")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser


# --- in the child ---------------------------------------------------------------------------------------------------


def child(suite: Suite, place: Path, first: int, total: int, jobs: int) -> None:
    """Try every `jobs`-th case from `first` on, and write what came of it to files beside `place`."""
    cv2.setNumThreads(1)
    suite.prepare()
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _ADDRESS_SPACE, resource.RLIM_INFINITY))
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest = (0.0, -1), (0, -1)
    at_first = most_resident()
    violations: list[tuple[int, str]] = []
    with place.open("r+b", buffering=0) as progress:
        for number in range(first, total, jobs):
            progress.seek(0)
            progress.write(_PLACE.pack(number))
            case = suite.make(number)
            forget_most_resident()
            before, began = most_resident(), time.process_time()
            try:
                counts.update(suite.check(case))
            except Violation as violation:
                violations.append((number, str(violation)))
            except BaseException:  # noqa: BLE001, RUF100 - whatever it is, the library should not have let it out
                violations.append((number, traceback.format_exc(limit=-3)))
            seconds, taken = time.process_time() - began, most_resident() - before
            if seconds > suite.limits.seconds:
                violations.append((number, f"took {seconds:.2f} s"))
            if taken > suite.limits.num_bytes:
                violations.append((number, f"took {taken / _MEGABYTE:.0f} MB"))
            slowest, largest = max(slowest, (seconds, number)), max(largest, (taken, number))
    report = {"counts": counts, "slowest": slowest, "largest": largest, "violations": violations, "base": at_first}
    place.with_suffix(".json").write_text(json.dumps(report), encoding="utf-8")


def forget_most_resident() -> None:
    """Let the system measure the largest resident memory anew from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def most_resident() -> int:
    """Return the largest resident memory since the last call of the above, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


# --- in the parent --------------------------------------------------------------------------------------------------


@attrs.define
class _Job:
    first: int
    place: Path
    process: subprocess.Popen[bytes]
    number: int = -1
    since: float = attrs.field(factory=time.monotonic)

    def hangs(self) -> bool:
        (number,) = _PLACE.unpack(self.place.read_bytes()[: _PLACE.size])
        if number != self.number:
            self.number, self.since = number, time.monotonic()
        return time.monotonic() - self.since > _HANG_SECONDS


def run(suite: Suite, total: int, arguments: argparse.Namespace, command: Sequence[str]) -> int:
    """Try `total` cases in child processes started by `command`; print figures; return 1 if a promise was broken."""
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest, base = (0.0, -1), (0, -1), 0
    violations: list[tuple[int, str]] = []

    def start(first: int) -> _Job:
        place = scratch / f"from-{first}"
        place.write_bytes(_PLACE.pack(first))
        with place.with_suffix(".err").open("wb") as complaints:  # decoders say a word about every damaged file
            process = subprocess.Popen([*command, "--child", str(place), "--first", str(first)], stderr=complaints)
        return _Job(first, place, process)

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        running = [start(first) for first in range(min(arguments.jobs, total))]
        while running:
            time.sleep(_POLL_SECONDS)
            for job in list(running):
                if job.process.poll() is None:
                    if job.hangs():
                        job.process.kill()
                    continue
                running.remove(job)
                if job.process.returncode == 0:
                    report = json.loads(job.place.with_suffix(".json").read_text(encoding="utf-8"))
                    counts.update(report["counts"])
                    slowest = max(slowest, tuple(report["slowest"]))
                    largest = max(largest, tuple(report["largest"]))
                    base = max(base, report["base"])
                    violations += [(number, what) for number, what in report["violations"]]
                    continue
                job.hangs()
                complaints = job.place.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
                violations.append((job.number, f"ended its process ({job.process.returncode}): {complaints[-500:]}"))
                if job.number + arguments.jobs < total and len(violations) < _MAX_CRASHES:
                    running.append(start(job.number + arguments.jobs))

    keep: Path = arguments.keep or Path(tempfile.mkdtemp(prefix="soak-") if violations else "")
    keep.mkdir(parents=True, exist_ok=True)
    for number, what in violations:
        case = suite.make(number)
        place = keep / f"{number}.bin"
        place.write_bytes(case.data)
        print(f"case {number} ({case.made}), kept as {place}: {what}")
    minutes = (time.monotonic() - began) / 60
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"OpenCV {cv2.__version__}, seed {arguments.seed}, {arguments.jobs} processes, {minutes:.1f} minutes"
    )
    for name, count in sorted(counts.items()):
        print(f"{count:>9}  {name}")
    print(f"slowest {slowest[0]:.3f} s (case {slowest[1]}; at most {suite.limits.seconds:g} s)")
    print(
        f"largest {largest[0] / _MEGABYTE:.0f} MB beyond {base / _MEGABYTE:.0f} MB (case {largest[1]}; "
        f"at most {suite.limits.num_bytes / _MEGABYTE:.0f} MB)"
    )
    print(f"{len(violations)} violations in {total} cases")
    return 1 if violations else 0


def main(suite: Suite, total: int, arguments: argparse.Namespace, module: str) -> int:
    """Run as the parent, as a child, or a single case here."""
    if arguments.only is not None:
        suite.prepare()
        case = suite.make(arguments.only)
        began = time.process_time()
        print(
            case.made,
            len(case.data),
            "bytes:",
            *suite.check(case),
            f"{time.process_time() - began:.3f} s",
            f"{most_resident() / _MEGABYTE:.0f} MB in all",
        )
        return 0
    if arguments.child is not None:
        child(suite, arguments.child, arguments.first, total, arguments.jobs)
        return 0
    command = [sys.executable, "-m", module, "--n", str(arguments.n), "--seed", str(arguments.seed)]
    command += ["--jobs", str(arguments.jobs), *(["--quick"] if arguments.quick else [])]
    return run(suite, total, arguments, command)
