"""What workers make of targets with hardly any colour; exits with 1 if noise or a step is worse than was reached.

    python benchmarks/thin_colour.py [SIZE [TARGETS [SOURCES]]]

TSM_TRAINING_REAL_DATA names the folder of photographs; without it there is nothing to measure. Of TARGETS photographs,
grey, pale, sepia, foggy and scanned versions are made, and ramps are drawn; every fixed worker and their blend answer
them. Printed are, as the worst of all sources and targets, local chroma noise (mean absolute difference of a and b from
a Gaussian of σ 3) relative to the coloured photograph, and the largest step that a step of one level became.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer import create_color_transfer_workers
from tsm_training.color_transfer.spaces import to_space
from tsm_training.images import read_image
from tsm_training.workers import TrainableWorker, WorkerRequest

MOST_NOISE, AIMED_STEP, MOST_STEP = 1.2, 6, 10
"""The bound of noise, and of steps what is aimed at and what was reached."""
UNBOUNDED = "median_filtered"
"""Its filter mixes neighbours at the corners of strong edges: its steps are shown, and guard nothing."""


def rounded(values: npt.NDArray[Any]) -> Image:
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def as_jpeg(picture: Image) -> Image:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], 1), np.uint8)


def saturated(picture: Image, saturation: float) -> Image:
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float64)
    return rounded(grey + saturation * (picture - grey))


KINDS: dict[str, Callable[[Image], Image]] = {
    "grey": lambda p: saturated(p, 0),
    "grey JPEG": lambda p: as_jpeg(saturated(p, 0)),
    "3 %": lambda p: saturated(p, 0.03),
    "10 %": lambda p: saturated(p, 0.1),
    "sepia": lambda p: rounded(saturated(p, 0) * [0.65, 0.78, 0.88] + [10, 14, 18]),
    "fog": lambda p: rounded(0.12 * p + 190),
    "scan": lambda p: as_jpeg(rounded(saturated(p, 0.12) * [0.6, 0.67, 0.7] + 30)),
}
RAMPS = {
    "grey ramp": ((0, 0, 0), (255, 255, 255)),
    "flat grey": ((110, 110, 110), (150, 150, 150)),
    "sky": ((235, 190, 150), (245, 235, 225)),
    "haze": ((200, 195, 190), (215, 212, 210)),
    "dusk": ((100, 110, 120), (150, 170, 190)),
    "night": ((5, 5, 5), (40, 38, 36)),
}


def ramp(start: tuple[int, ...], end: tuple[int, ...]) -> Image:
    x = np.linspace(0, 1, 300)[None, :, None]
    return rounded(np.repeat((1 - x) * start + x * end, 20, axis=0))


def noise(picture: Image) -> float:
    chroma = to_space(picture.reshape(-1, 3).astype(np.float32), "lab")[:, 1:].reshape(*picture.shape[:2], 2)
    return float(np.abs(chroma - cv2.GaussianBlur(chroma, (0, 0), 3)).mean())


def largest_step(target: Image, answer: Image) -> int:
    steps = [
        [np.abs(np.diff(picture.astype(int), axis=axis)).max(axis=-1) for picture in (target, answer)]
        for axis in (0, 1)
    ]
    return max(int(after[before == 1].max(initial=0)) for before, after in steps)


def loaded(path: Path, size: int) -> Image:
    picture = read_image(path)
    scale = size / max(picture.shape[:2])
    return (
        picture if scale >= 1 else np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=3), np.uint8)
    )


def main() -> int:
    folder = os.environ.get("TSM_TRAINING_REAL_DATA", "")
    if not folder:
        print("skipped: TSM_TRAINING_REAL_DATA names no folder of real photographs")
        return 0
    size, count, most_sources = [*map(int, sys.argv[1:]), *(96, 1, 2)[len(sys.argv) - 1 :]]
    photographs = [loaded(path, size) for path in sorted((Path(folder) / "photos").glob("*.jpg"))]
    most_colourful = sorted(range(len(photographs)), key=lambda i: -noise(photographs[i]))[:most_sources]
    workers = [worker for worker in create_color_transfer_workers() if not isinstance(worker, TrainableWorker)]

    def targets() -> Iterator[tuple[str, Image, float, int | None]]:
        for i in np.unique(np.linspace(0, len(photographs) - 1, count).astype(int)):
            for kind, make in KINDS.items():
                yield kind, make(photographs[i]), noise(photographs[i]), int(i)
        for kind, ends in RAMPS.items():
            yield kind, ramp(*ends), np.inf, None

    worst: dict[str, dict[str, tuple[float, int]]] = {}
    for kind, target, usual, number in targets():
        for source in (photographs[i] for i in most_colourful if i != number):
            request = WorkerRequest(source, target)
            answers = {worker.worker_id: worker.process(request) for worker in workers}
            answers["(blend)"] = rounded(np.mean(list(answers.values()), axis=0))
            for name, answer in answers.items():
                row = worst.setdefault(name, {})
                noisy, step = row.get(kind, (0.0, 0))
                row[kind] = max(noisy, noise(answer) / usual), max(step, largest_step(target, answer))
    print(f"chroma noise (at most {MOST_NOISE}) / largest step (at most {MOST_STEP}, {AIMED_STEP} aimed at)")
    print(" " * 22, *(f"{kind:>10}" for kind in (*KINDS, *RAMPS)))
    for name, row in worst.items():
        print(f"{name:22}", *(f"{noisy:6.2f}/{step:<3}" for noisy, step in row.values()))
    missed = [
        f"{name}, {kind}: {noisy:.2f} / {step}"
        for name, row in worst.items()
        for kind, (noisy, step) in row.items()
        if noisy > MOST_NOISE or step > AIMED_STEP
    ]
    print("\n".join(["missing the aim:", *missed]) if missed else "all reached")
    return int(
        any(
            noisy > MOST_NOISE or (step > MOST_STEP and name != UNBOUNDED)
            for name, row in worst.items()
            for noisy, step in row.values()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
