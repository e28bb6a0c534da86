"""The same inputs give the same bytes, however they are executed: `python -m tests.soak.determinism [--quick]`.

Each run is a new interpreter that adds, trains, edits, trains again, validates, exports and predicts, with workers that
dawdle for random times. Its sessions, metrics, records, evaluations, previews, export and prediction are compared with
those of the first run, byte for byte.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs
from tests.soak.support import Verdict, parse, scratch

ROOT: Final = Path(__file__).parent.parent.parent
PATIENCE: Final = 300.0


@attrs.frozen
class Way:
    """One way of executing the same day."""

    mode: str
    threads: int
    hash_seed: int
    flags: tuple[str, ...] = ()
    is_reversed: bool = False

    def __str__(self) -> str:
        order = ", registered in reverse" if self.is_reversed else ""
        return f"{self.threads} × {self.mode}, hash seed {self.hash_seed}{order} {' '.join(self.flags)}".strip()

    def run(self, folder: Path) -> str:
        """Do it in a new interpreter, and return what it printed."""
        folder.mkdir()
        options: dict[str, Any] = {
            "folder": str(folder),
            "mode": self.mode,
            "threads": self.threads,
            "is_reversed": self.is_reversed,
        }
        done = subprocess.run(
            [sys.executable, *self.flags, "-m", "tests.soak.repeat", json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(self.hash_seed)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout


def all_ways(rounds: int, chance: random.Random) -> list[Way]:
    """Return every mode with every number of threads, `rounds` times with other hash seeds, and the odd ones."""
    ways = [
        Way(mode, threads, chance.randrange(2**32))
        for _ in range(rounds)
        for mode, threads in itertools.product(("threads", "fork", "spawn", "forkserver", "isolated"), (1, 2, 8))
    ]
    ways += [Way("threads", 4, chance.randrange(2**32), flags) for flags in (("-O",), ("-OO",), ("-X", "dev"))]
    ways += [Way(mode, 3, chance.randrange(2**32), is_reversed=True) for mode in ("threads", "spawn", "isolated")]
    return ways


QUICK: Final = (Way("threads", 8, 1), Way("spawn", 2, 2), Way("isolated", 2, 3))


def main() -> int:
    options = parse(__doc__, rounds=(3, 0, "of all modes and numbers of threads"))
    verdict = Verdict("determinism", options.seed)
    ways = list(QUICK) if options.quick else all_ways(options.rounds, random.Random(options.seed))
    with scratch(verdict) as folder:
        first = Way("threads", 1, 0).run(folder / "first")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            texts = list(threads.map(lambda numbered: numbered[1].run(folder / str(numbered[0])), enumerate(ways)))
        for number, (way, text) in enumerate(zip(ways, texts, strict=True)):
            # What comes by worker in order of registration may stand in another order then, and nothing else.
            same = json.loads(text) == json.loads(first) if way.is_reversed else text == first
            if not verdict.expect(same, f"{way} gave something else than the first run"):
                (folder / str(number) / "other.json").write_text(text, encoding="utf-8")
                (folder / "first.json").write_text(first, encoding="utf-8")
    return verdict.close(f"{1 + len(ways)} runs, {len(first):,} bytes each")


if __name__ == "__main__":
    sys.exit(main())
