"""Training and predicting beside a literal reading of the guide, and beside reading and writing a file: CPU ratios.

python benchmarks/speed.py [--full]

The literal reading runs each worker on each example in each epoch, in floating point, and compares whole pictures. It
is run for one epoch; five take five times as long. Without --full there are fewer and smaller pictures. Beside each
figure stands its bound, which guards what was reached, and what is aimed at. Exits with 1 if one is out of bounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from tsm_training import BayesianWeightLearner, Image, InMemoryStore, TrainingManager, WorkerPool
from tsm_training.color_transfer import create_color_transfer_workers
from tsm_training.images import write_image
from tsm_training.workers import TrainableWorker

FULL = "--full" in sys.argv
EXAMPLES, SIDE = (20, 1024) if FULL else (6, 512)
LARGE = (6000, 4000) if FULL else (1500, 1000)
EPOCHS = 5
THE_GUIDES = {
    "standard_transfer": ("lab", 1.0),
    "luminance_preserving": ("ab", 1.0),
    "adaptive_transfer": ("lab", 1.0),
    "median_filtered": ("lab", 1.0),
    "intensity_30": ("lab", 0.3),
    "intensity_70": ("lab", 0.7),
    "intensity_120": ("lab", 1.2),
}
"""Seven workers as an application of the guide has them: the channels that they change, and how far."""


def photograph(seed: int, width: int, height: int) -> Image:
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(rng.normal(0, 12, (height // 4, width // 4, 3)), (width, height))
    return np.asarray(np.clip(smooth + grain, 0, 255), np.uint8)


def write_examples(folder: Path) -> list[tuple[Path, Path, Path]]:
    rows = []
    for number in range(EXAMPLES):
        paths = [folder / f"{role}_{number}.jpg" for role in ("source", "target", "truth")]
        for offset, path in enumerate(paths):
            write_image(path, photograph(3 * number + offset, SIDE, SIDE))
        rows.append((paths[0], paths[1], paths[2]))
    return rows


# --- a literal reading ------------------------------------------------------------------------------------------------


def literal_transfer(source: Image, target: Image, channels: str, strength: float, *, median_size: int = 1) -> Image:
    wanted, lab = (cv2.cvtColor(each, cv2.COLOR_BGR2LAB).astype(np.float64) for each in (source, target))
    result = lab.copy()
    for i in (i for i in range(3) if "lab"[i] in channels):
        spread = wanted[..., i].std() / (lab[..., i].std() + 1e-6)
        result[..., i] = (lab[..., i] - lab[..., i].mean()) * spread + wanted[..., i].mean()
    moved = lab + strength * (result - lab)
    picture = cv2.cvtColor(np.clip(moved, 0, 255).astype(np.uint8), cv2.COLOR_LAB2BGR)
    return np.asarray(picture if median_size == 1 else cv2.medianBlur(picture, median_size), np.uint8)


def literal_similarity(output: Image, truth: Image) -> float:
    ours, theirs = (cv2.cvtColor(each, cv2.COLOR_BGR2LAB) for each in (output, truth))
    error = float(np.mean((ours.astype(np.float64) - theirs.astype(np.float64)) ** 2)) / 255.0**2
    correlations = []
    for channel in range(3):
        first, second = (cv2.calcHist([each], [channel], None, [256], [0, 256]) for each in (ours, theirs))
        correlations.append(max(0.0, cv2.compareHist(first / first.sum(), second / second.sum(), cv2.HISTCMP_CORREL)))
    return 0.6 * (1.0 - error) + 0.4 * float(np.mean(correlations))


def literal_epoch(rows: list[tuple[Path, Path, Path]]) -> None:
    for row in rows:
        source, target, truth = (np.asarray(cv2.imread(str(path)), np.uint8) for path in row)
        for name, (channels, strength) in THE_GUIDES.items():
            size = 5 if name == "median_filtered" else 1
            literal_similarity(literal_transfer(source, target, channels, strength, median_size=size), truth)


# --- this library -----------------------------------------------------------------------------------------------------


def manager_of(names: set[str] | None) -> TrainingManager:
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        if not isinstance(worker, TrainableWorker) and (names is None or worker.worker_id in names):
            pool.register_worker(worker)
    return TrainingManager(pool, BayesianWeightLearner(), storage=InMemoryStore())


def trainings(rows: list[tuple[Path, Path, Path]], names: set[str] | None) -> tuple[float, float]:
    """Return the CPU seconds of a first and of a second training."""
    manager = manager_of(names)
    manager.add_training_examples(rows)
    return cpu(lambda: manager.train(epochs=EPOCHS, verbose=False)), cpu(
        lambda: manager.train(epochs=EPOCHS, verbose=False)
    )


def prediction_against_copying(folder: Path) -> float:
    """Return the CPU time of a trained blend's answer, saved, over that of reading and writing the target."""
    rows = [tuple(folder / f"small_{role}_{n}.png" for role in ("s", "t", "g")) for n in range(6)]
    for number, row in enumerate(rows):
        for offset, path in enumerate(row):
            write_image(path, photograph(900 + 3 * number + offset, 96, 64))
    manager = manager_of(None)
    manager.add_training_examples([(row[0], row[1], row[2]) for row in rows])
    manager.train(epochs=EPOCHS, verbose=False)
    source, target = folder / "large_source.jpg", folder / "large_target.jpg"
    for seed, path in enumerate((source, target)):
        write_image(path, photograph(seed, *LARGE))

    def copied() -> None:
        cv2.imwrite(
            str(folder / "copy.jpg"), np.asarray(cv2.imread(str(target)), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95]
        )

    answer = cpu_median(lambda: manager.predict(source, target).save(folder / "answer.jpg"))
    return answer / cpu_median(copied)


# --- measuring --------------------------------------------------------------------------------------------------------


def cpu(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def cpu_median(action: Callable[[], object], rounds: int = 3) -> float:
    return median(cpu(action) for _ in range(rounds))


def peak_megabytes(argument: str, folder: Path) -> float:
    """Return the peak memory of a process that does one thing."""
    command = [sys.executable, __file__, argument, str(folder), *(["--full"] if FULL else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def alone(what: str, folder: Path) -> None:
    if what == "train":
        rows = [tuple(folder / f"{role}_{n}.jpg" for role in ("source", "target", "truth")) for n in range(EXAMPLES)]
        trainings([(row[0], row[1], row[2]) for row in rows], None)
    else:
        manager = manager_of(None)
        manager.predict(folder / "large_source.jpg", folder / "large_target.jpg").save(folder / "answer.jpg")
    status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage would tell of the parent before the exec
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> int:
    cv2.setNumThreads(1)
    if len(sys.argv) > 2:
        alone(sys.argv[1], Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_examples(folder)
        literal = EPOCHS * cpu(lambda: literal_epoch(rows))
        seven, again = trainings(rows, set(THE_GUIDES))
        twenty, twenty_again = trainings(rows, None)
        copying = prediction_against_copying(folder)
        figures = [
            ("literal reading / train(5), the guide's seven workers", literal / seven, (13.0, 6.0), "22"),
            ("literal reading of seven / train(5), all fixed workers", literal / twenty, (5.0, 2.0), "10"),
            ("second training / first, seven workers", again / seven, (0.03, 0.08), "0.03"),
            ("second training / first, all fixed workers", twenty_again / twenty, (0.03, 0.08), "0.03"),
            (f"predict and save / read and write, {LARGE[0]}×{LARGE[1]}", copying, (8.0, 12.0), "4"),
            ("peak MB of training, all fixed workers", peak_megabytes("train", folder), (165.0, 150.0), "150"),
            ("peak MB of predict", peak_megabytes("predict", folder), (600.0, 600.0), "600"),
        ]
    failed = False
    for what, value, bounds, aim in figures:
        bound, is_least = bounds[0 if FULL else 1], what.startswith("literal")
        failed |= value < bound if is_least else value > bound
        words = f"{'at least' if is_least else 'at most'} {bound:g}; aim, with --full: {aim}"
        print(f"{what:58} {value:8.3f}   ({words})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
