"""Print what each colour-transfer worker costs at 1 megapixel, and fail if one is out of proportion.

python benchmarks/color_transfer.py [OPENCV_THREADS]

Every call gets a fresh request, so that nothing is shared between workers; the workers take turns, so that a busy
machine slows all of them down alike.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import cv2
import numpy as np

from tsm_training.arrays import Image
from tsm_training.color_transfer import create_color_transfer_workers
from tsm_training.workers import TrainableWorker, WorkerRequest

SIDE = 1000
ROUNDS = 5
MOST = 6.0
UNIT = "standard_transfer"


def picture(seed: int) -> Image:
    noise = np.random.default_rng(seed).normal(size=(SIDE // 10, SIDE // 10, 3)) * (50, 40, 45) + (110, 120, 130)
    smooth = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def main() -> int:
    if len(sys.argv) > 1:
        cv2.setNumThreads(int(sys.argv[1]))
    source, target = picture(1), picture(2)
    workers = [worker for worker in create_color_transfer_workers() if not isinstance(worker, TrainableWorker)]
    seconds: dict[str, list[float]] = {worker.worker_id: [] for worker in workers}
    for _ in range(ROUNDS):
        for worker in workers:
            request = WorkerRequest(source, target)
            started = time.perf_counter()
            worker.process(request)
            seconds[worker.worker_id].append(time.perf_counter() - started)
    unit = median(seconds[UNIT])
    print(f"1 megapixel, OpenCV {cv2.__version__} with {cv2.getNumThreads()} threads, median of {ROUNDS} cold calls")
    for name, times in seconds.items():
        print(f"{name:24} {1000 * median(times):7.1f} ms {median(times) / unit:6.2f} x {UNIT}")
    return int(any(median(times) > MOST * unit for times in seconds.values()))


if __name__ == "__main__":
    sys.exit(main())
