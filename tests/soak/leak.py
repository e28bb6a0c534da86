"""Memory, descriptors and threads stay as they are: `python -m tests.soak.leak [--quick]`.

A host trains, validates, predicts, exports, reopens and makes every mistake there is, for thousands of example-epochs
and thousands of calls that fail; it keeps the latest errors, as hosts do. After a warm-up nothing may grow.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from tests.soak.support import Verdict, parse, scratch
from tests.support import brightening, failing, picture, pool_of, save_triple

from tsm_training import BayesianWeightLearner, Image, TrainingEngine, TrainingManager, TsmTrainingError
from tsm_training.metrics import GuideSimilarity

EXAMPLES: Final = 25
EPOCHS: Final = 4
KEPT_ERRORS: Final = 50
WARM_UP: Final = 0.2
"""The share of the work that is done before anything is compared."""

MEGABYTES: Final = 10.0
MOST_SECONDS: Final = 5.0
"""How long an example that is being evaluated may go on after its training was ended."""

SIZE: Final = (96, 128)


class OnPurposeError(Exception):
    """Raised by callbacks."""


def resident_megabytes() -> float:
    gc.collect()
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 1e6
    kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(kilobytes.stdout) / 1e3


def descriptors() -> int:
    folder = Path("/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd")
    return len(list(folder.iterdir()))


def settled_threads() -> int:
    """Count threads, once those have ended that finish their example after a training was ended early."""
    patience = time.monotonic() + MOST_SECONDS
    while threading.active_count() > 1 and time.monotonic() < patience:
        time.sleep(0.01)
    return threading.active_count()


@attrs.frozen
class Reading:
    """What the process takes at one moment."""

    done: int
    megabytes: float
    descriptors: int
    threads: int

    @classmethod
    def now(cls, done: int) -> Reading:
        threads = settled_threads()
        return cls(done, resident_megabytes(), descriptors(), threads)


def curve(title: str, readings: list[Reading]) -> Iterator[str]:
    """Show readings as lines with bars, from the smallest to the largest."""
    low = min(reading.megabytes for reading in readings) - 1.0
    yield title
    for reading in readings[:: max(1, len(readings) // 12)]:
        bar = "#" * round((reading.megabytes - low) * 4)
        counts = f"{reading.descriptors} descriptors  {reading.threads} threads"
        yield f"  {reading.done:>7,}  {reading.megabytes:7.1f} MB  {counts}  {bar}"


def expect_flat(verdict: Verdict, what: str, readings: list[Reading]) -> str:
    """Compare what was read after the warm-up with its beginning."""
    settled = readings[int(len(readings) * WARM_UP) :]
    growth = settled[-1].megabytes - settled[0].megabytes
    verdict.expect(growth <= MEGABYTES, f"{what}: {growth:+.1f} MB after the warm-up")
    for name in ("descriptors", "threads"):
        seen = sorted({getattr(reading, name) for reading in settled})
        verdict.expect(len(seen) == 1, f"{what}: {name} between {seen[0]} and {seen[-1]}")
    return f"{what}: {settled[-1].done:,} done, {growth:+.1f} MB after the warm-up, at most {MEGABYTES:g} allowed"


@attrs.define
class Host:
    """An application that is never restarted."""

    folder: Path
    chance: random.Random
    manager: TrainingManager = attrs.field(init=False)
    errors: collections.deque[BaseException] = attrs.field(factory=lambda: collections.deque(maxlen=KEPT_ERRORS))

    def open(self) -> None:
        workers = [brightening("far", -60), brightening("near", 22), brightening("mid", 60), failing("bad")]
        self.manager = TrainingManager(
            pool_of(*workers), BayesianWeightLearner(alpha=0.15), self.folder / "training.db"
        )

    def work(self, number: int) -> int:
        """Do one round of everything that succeeds; return how many examples were gone through."""
        manager = self.manager
        manager.train(epochs=EPOCHS, validation_split=0.0, verbose=False, reevaluate=True)
        manager.predict(picture(number, *SIZE), picture(number + 1, *SIZE))
        if number % 5 == 0:
            manager.validate(full=True)
            manager.export_weights(self.folder / "weights.json")
            manager.import_weights(self.folder / "weights.json")
            trial = manager.with_learner(manager.weight_learner.fork())
            trial.train(verbose=False)
        if number % 7 == 0:
            manager.close()
            self.open()
        if number % 11 == 0:
            self.open()  # the old one is merely forgotten
        return EXAMPLES * EPOCHS

    def fail(self, action: Callable[[], object]) -> None:
        """Do something that fails, and keep the error with all that its traceback holds."""
        try:
            action()
        except (TsmTrainingError, OnPurposeError, KeyboardInterrupt) as error:
            self.errors.append(error)
        else:
            raise AssertionError("this should have failed")

    def mistakes(self) -> list[Callable[[], object]]:
        """Return calls that fail, the quick ones several times."""
        manager, folder = self.manager, self.folder
        good = [folder / f"{role}_0.png" for role in ("source", "target", "ground_truth")]
        other = folder / "small" / "ground_truth_0.png"
        quick: list[Callable[[], object]] = [
            lambda: manager.add_training_example("nothing.png", good[1], good[2]),
            lambda: manager.add_training_example(folder, good[1], good[2]),
            lambda: manager.add_training_example(folder / "cut.png", good[1], good[2]),
            lambda: manager.add_training_example(good[0], good[1], other),
            lambda: manager.add_training_example(*good, metadata={"cycle": float("nan")}),
            lambda: manager.remove_training_example("nobody"),
            lambda: manager.replace_ground_truth("nobody", good[2]),
            lambda: manager.validate(["nobody"]),
            lambda: manager.train(epochs=0),
            lambda: manager.train(validation_split=1.0),
            lambda: manager.data_manager.get_all_examples(0),
            lambda: manager.data_manager.get_session("nobody"),
            lambda: manager.data_manager.iterate_metrics("nobody"),
            lambda: manager.data_manager.update_state(_refuse),
            lambda: manager.predict(folder / "cut.png", good[1]),
            lambda: manager.predict(good[0], 3),  # type: ignore[arg-type]
            lambda: manager.import_weights(folder / "cut.png"),
            lambda: manager.export_weights(folder / "no" / "such" / "folder.json"),
            lambda: manager.add_folder(folder / "nothing"),
            lambda: manager.add_manifest(folder / "cut.png"),
            lambda: TrainingManager(manager.worker_pool, BayesianWeightLearner(), folder / "cut.png"),
            lambda: TrainingManager(manager.worker_pool, BayesianWeightLearner(), folder / "no" / "folder.db"),
            lambda: BayesianWeightLearner(alpha=2.0),
            lambda: pool_of(failing("a"), failing("a")),
        ]
        judged_badly = attrs.evolve(
            manager, storage=manager.data_manager, engine_factory=TrainingEngine.using(_no_judge), restore=None
        )
        nothing_works = attrs.evolve(manager, storage=manager.data_manager, worker_pool=pool_of(failing("bad")))
        slow: list[Callable[[], object]] = [
            lambda: judged_badly.train(verbose=False),
            lambda: nothing_works.predict(*good[:2]),
            lambda: nothing_works.with_learner(BayesianWeightLearner().fork()).train(verbose=False),
            lambda: manager.train(verbose=False, should_stop=lambda: True),
            lambda: manager.train(verbose=False, on_progress=_interrupt),
            lambda: manager.train(verbose=False, reevaluate=True, on_progress=_raise),
        ]
        calls = quick * 10 + slow
        self.chance.shuffle(calls)
        return calls


def _refuse(_held: Any) -> Any:
    raise OnPurposeError


def _raise(_progress: object) -> None:
    raise OnPurposeError


def _interrupt(_progress: object) -> None:
    raise KeyboardInterrupt


def _no_judge(_output: Image, _truth: Image) -> float:
    raise OnPurposeError


def main() -> int:
    options = parse(
        __doc__,
        steps=(20_000, 700, "example-epochs"),
        errors=(10_000, 250, "calls that fail"),
    )
    verdict = Verdict("leak", options.seed)
    with scratch(verdict) as folder:
        assert GuideSimilarity()(picture(1), picture(1)) == 1.0  # OpenCV's own threads and tables are there from now on
        host = Host(folder, random.Random(options.seed))
        host.open()
        triples = [save_triple(folder, number, size=SIZE) for number in range(EXAMPLES)]
        save_triple(folder / "small", 0)
        (folder / "cut.png").write_bytes(triples[0][0].read_bytes()[:-40])
        host.manager.add_training_examples(triples)

        worked = [Reading.now(0)]
        number = 0
        while worked[-1].done < options.steps:
            number += 1
            worked.append(Reading.now(worked[-1].done + host.work(number)))

        host.manager.train(verbose=False)
        failed = [Reading.now(0)]
        while failed[-1].done < options.errors:
            calls = host.mistakes()
            for call in calls:
                host.fail(call)
            failed.append(Reading.now(failed[-1].done + len(calls)))

        for line in (*curve("example-epochs", worked), *curve("calls that fail", failed)):
            print(line)
        flat = [expect_flat(verdict, "example-epochs", worked), expect_flat(verdict, "calls that fail", failed)]
        completed = sum(s.status == "completed" for s in host.manager.data_manager.get_all_sessions())
        verdict.expect(completed >= number, f"only {completed} sessions were completed")
        host.manager.close()
    return verdict.close(*flat)


if __name__ == "__main__":
    sys.exit(main())
