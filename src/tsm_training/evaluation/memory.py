"""How much memory the evaluation of an example takes at most, told before its pictures are read.

The figures follow what `tsm_training.evaluation.scoring` holds at each stage: one picture after the other is decoded;
then source and target, what the metric keeps of the ground truth, and one worker's pictures are held together. What a
worker or a metric takes by itself is its own statement, or an allowance where it makes none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.metrics import ALLOWANCE, Metric, PreparableMetric, stated_memory
from tsm_training.workers import ThreadRunner, Worker, WorkerRunner

_PICTURE: Final = 3
"""Bytes per pixel."""

_DECODING: Final = 3 * _PICTURE
"""Bytes per pixel while a file is decoded: the picture, and up to twice that (a progressive JPEG; other kinds once)."""

_ALLOWANCE: Final = 2 * 8 * _PICTURE
"""Bytes per pixel for code that states nothing: two pictures in float64, the result of a step beside its operand."""

_EVERY_EXAMPLE: Final = 10 * 1024**2
"""Bytes for what does not grow with the pictures: bands, previews, and what the allocator holds on to."""


def bytes_to_evaluate(
    files: ExampleFiles, workers: Iterable[Worker], metric: Metric, runner: WorkerRunner, side: int | None = None
) -> int:
    """Return how many bytes the evaluation of an example takes at most.

    Args:
        files: The sizes of its pictures, as they were when it was added.
        workers: Those that are run, one after the other.
        metric: What scores.
        runner: How workers are run; unless it is a `ThreadRunner`, the pictures are sent elsewhere and back.
        side: The longest side down to which pictures are averaged once they are decoded; None for none.
    """
    source, target = _pixels(files.source, side), _pixels(files.target, side)
    inputs = _PICTURE * (source + target)
    kept, scoring = _of_metric(metric, target)
    sent = 0 if isinstance(runner, ThreadRunner) else 4 * inputs + 2 * _PICTURE * target  # messages, at both ends
    running = max((_of_worker(worker, source, target) for worker in workers), default=0)
    return max(
        _of_reading(files.source),
        _PICTURE * source + _of_reading(files.target),
        inputs + _of_reading(files.ground_truth),
        inputs + _PICTURE * target + scoring + _EVERY_EXAMPLE,  # the metric prepares, or has an output to score
        inputs + kept + running + sent + _EVERY_EXAMPLE,
    )


def _pixels(picture: PictureFile, side: int | None = None) -> int:
    longest = max(picture.width, picture.height)
    scale = 1.0 if side is None else min(1.0, side / longest)
    return math.ceil(picture.width * scale) * math.ceil(picture.height * scale)


def _of_reading(picture: PictureFile) -> int:
    return _DECODING * _pixels(picture) + picture.num_bytes


def _of_worker(worker: Any, source: int, target: int) -> int:
    """Return what one worker takes: copies of the inputs unless it only reads, and the answer with its checked copy.

    A worker may state with ``working_memory`` how many bytes its `process` takes: its answer included, its inputs not.
    """
    private = 0 if _stated(lambda: worker.reads_only) is True else _PICTURE * (source + target)
    working = _stated(lambda: worker.working_memory(source, target))
    if not isinstance(working, int) or working < 0:
        working = _ALLOWANCE * max(source, target)
    return private + max(working, 2 * _PICTURE * target)


def _of_metric(metric: Metric, pixels: int) -> tuple[int, int]:
    """Return what a metric keeps while workers run, and what it takes while it prepares or scores."""
    stated = stated_memory(metric, pixels)
    if stated is not None:
        return stated, stated
    allowance = ALLOWANCE * pixels
    return (allowance if isinstance(metric, PreparableMetric) else _PICTURE * pixels), allowance


def _stated(ask: Callable[[], Any]) -> Any:
    """Return what foreign code states of itself, or None where it fails: workers are asked before they may fail."""
    try:
        return ask()
    except Exception:
        return None
