"""What importing the library costs beside importing what it stands on; exits with 1 if it is out of bounds.

python benchmarks/import_time.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from statistics import median

FOUNDATION = "import numpy, cv2, attrs, sqlite3, concurrent.futures, logging, json, uuid"
LIBRARY = "import tsm_training"

ROUNDS = 9

WANTED, BOUND = 1.4, 2.1
"""How many times the foundation it should cost; and from where on something has become worse, busy machines included.

What lies between is mostly the making of some eighty attrs classes: the public records and services.
"""


def cost(code: str) -> float:
    """Return seconds of CPU, user's and system's, that a process takes for one statement, whatever else is going on."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    cost(f"{FOUNDATION}; {LIBRARY}")  # so that all of it is compiled
    rounds = [(cost(LIBRARY), cost(FOUNDATION)) for _ in range(ROUNDS)]
    library, foundation = (median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = median(ours / theirs for ours, theirs in rounds)
    print(f"{FOUNDATION}: {1000 * foundation:4.0f} ms")
    print(f"{LIBRARY}: {1000 * library:4.0f} ms, × {ratio:4.2f}   (wanted {WANTED}, at most {BOUND})")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
