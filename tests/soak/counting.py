"""Workers whose calls can be counted after their process has died.

They stand alone because a worker's fingerprint reads the whole file in which its class is defined.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
from tests.support import brighter

from tsm_training import Image, Worker, WorkerPool


def name_of_pictures(source: Image, target: Image) -> str:
    return hashlib.sha256(source.tobytes() + target.tobytes()).hexdigest()[:16]


@attrs.frozen
class Counted(Worker):
    """Makes the target brighter, or fails; notes each call in a file that outlives the process."""

    worker_id: str
    levels: int | None
    """None for a worker that always fails."""
    _log: Path | None = None
    _nap: float = 0.0

    def process(self, data: Mapping[str, Image]) -> Image:
        time.sleep(self._nap)
        if self._log is not None:
            line = f"{self.worker_id} {name_of_pictures(data['source'], data['target'])} {time.monotonic()}\n"
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, line.encode())
            os.close(descriptor)
        if self.levels is None:
            raise RuntimeError("this worker always fails")
        return brighter(data["target"], self.levels)


def counted_pool(log: Path | None = None, nap: float = 0.0) -> WorkerPool:
    """Return three workers that work and one that fails."""
    pool = WorkerPool()
    for worker_id, levels in (("broken", None), ("far", -60), ("mid", 60), ("near", 22)):
        pool.register_worker(Counted(worker_id, levels, log, nap))
    return pool
