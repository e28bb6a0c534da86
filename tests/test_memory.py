"""How much memory the evaluation of an example is said to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import pytest

from support import picture
from tsm_training import FunctionWorker, GuideSimilarity, Image, Worker
from tsm_training.arrays import frozen_copy
from tsm_training.color_transfer import ColorTransferWorker, create_color_transfer_workers
from tsm_training.data import ExampleFiles, PictureFile
from tsm_training.ensemble import blend
from tsm_training.evaluation.memory import bytes_to_evaluate
from tsm_training.metrics import Metric
from tsm_training.workers import ThreadRunner, TrainableWorker, WorkerRequest, WorkerResult

MEGAPIXEL = 1_000_000
GUIDE = GuideSimilarity()
BUILT_IN = tuple(w for w in create_color_transfer_workers() if not isinstance(w, TrainableWorker))
IN_LAB = 2 * 3 * 2**22
"""Bytes for two images that statistics are taken of: four megapixels each, at most."""
FIXED = 20 * 1024**2
"""Bytes that may be added for what does not grow with the pictures."""


def files(source: int, target: int, num_bytes: int = 0) -> ExampleFiles:
    """Return records of pictures of so many megapixels."""
    known = [PictureFile("0" * 64, num_bytes, size * 1000, 1000) for size in (source, target, target)]
    return ExampleFiles(*known)


def needed(sizes: ExampleFiles, *workers: Worker, metric: Metric = GUIDE, runner: Any = None) -> int:
    return bytes_to_evaluate(sizes, workers, metric, runner or ThreadRunner())


def nothing(_source: Image, target: Image) -> Image:
    return target


def function_worker() -> Worker:
    return FunctionWorker("nothing", nothing)


# --- how much an example takes --------------------------------------------------------------------------------------


def test_the_built_in_workers_take_five_pictures() -> None:
    five = 5 * 3 * 24 * MEGAPIXEL
    assert five <= needed(files(24, 24), *BUILT_IN) <= five + FIXED + IN_LAB


def test_the_bytes_of_a_file_count_while_it_is_decoded() -> None:
    small = needed(files(24, 24), *BUILT_IN)
    assert needed(files(24, 24, 70 * MEGAPIXEL), *BUILT_IN) == 5 * 3 * 24 * MEGAPIXEL + 70 * MEGAPIXEL > small


def test_of_images_that_are_not_large_more_is_kept_for_all_workers() -> None:
    nine = 9 * 3 * 4 * MEGAPIXEL  # all five, where the target's pixels lie in a table, and two in Lab
    assert nine <= needed(files(4, 4), *BUILT_IN) <= nine + FIXED


def test_a_large_source_counts_once_while_workers_run_and_three_times_while_it_is_decoded() -> None:
    assert needed(files(64, 1), *BUILT_IN) == 3 * 3 * 64 * MEGAPIXEL
    pictures = 3 * (40 + 4 * 24) * MEGAPIXEL
    assert pictures <= needed(files(40, 24), *BUILT_IN) <= pictures + FIXED + IN_LAB


def test_a_worker_that_states_nothing_is_allowed_two_pictures_of_doubles_beside_copies_of_its_own() -> None:
    expected = 3 * (5 + 16) * 6 * MEGAPIXEL
    assert expected <= needed(files(6, 6), function_worker()) <= expected + FIXED
    assert needed(files(6, 6), *BUILT_IN, function_worker()) == needed(files(6, 6), function_worker())


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(abs(output.astype(float) - truth).mean()) / 255.0


@attrs.frozen
class Prepared:
    def __call__(self, output: Image, truth: Image, /) -> float:
        return closeness(output, truth)

    def prepare(self, truth: Image, /) -> Callable[[Image], float]:
        doubles = truth.astype(float)
        return lambda output: 1.0 - float(abs(output - doubles).mean()) / 255.0


def test_a_metric_that_states_nothing_is_allowed_as_much() -> None:
    plain = needed(files(6, 6), *BUILT_IN, metric=closeness)
    assert plain >= 3 * (4 + 16) * 6 * MEGAPIXEL > needed(files(6, 6), *BUILT_IN)
    # what a metric prepares is there while workers run
    both = needed(files(6, 6), function_worker(), metric=Prepared())
    assert both >= 3 * (5 + 16 + 16) * 6 * MEGAPIXEL > needed(files(6, 6), function_worker(), metric=closeness)


@attrs.frozen
class Stating(Worker):
    """States what it is told to; what it states cannot always be used."""

    worker_id: str
    stated: Any

    @property
    def reads_only(self) -> bool:
        return True

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"].copy()

    def working_memory(self, source_pixels: int, target_pixels: int, /) -> int:
        if isinstance(self.stated, Exception):
            raise self.stated
        return self.stated  # type: ignore[no-any-return]


def test_a_worker_of_anybodys_can_state_what_it_takes() -> None:
    frugal, greedy = (needed(files(6, 6), Stating("s", stated)) for stated in (0, 10**9))
    assert frugal < needed(files(6, 6), ColorTransferWorker("median", BUILT_IN[0].color_map, 0.0))  # type: ignore[attr-defined]
    assert 10**9 < greedy < 10**9 + 3 * 3 * 6 * MEGAPIXEL + FIXED


@pytest.mark.parametrize("stated", [-1, "much", None, RuntimeError("who knows")])
def test_a_statement_that_cannot_be_used_counts_as_none(stated: Any) -> None:
    unstated = needed(files(6, 6), function_worker())
    assert needed(files(6, 6), Stating("s", stated)) == unstated - 2 * 3 * 6 * MEGAPIXEL  # no copies for a reader


def test_pictures_that_travel_to_other_processes_count_there_too() -> None:
    @attrs.frozen
    class Elsewhere:
        def check(self, workers: Any, /) -> None: ...

        def run(self, worker: Worker, request: WorkerRequest, /) -> WorkerResult:
            raise NotImplementedError

    here = needed(files(6, 6), *BUILT_IN)
    assert needed(files(6, 6), *BUILT_IN, runner=Elsewhere()) == here + 3 * 10 * 6 * MEGAPIXEL


def test_what_is_frozen_is_not_copied_again() -> None:
    frozen = frozen_copy(picture(1))
    assert WorkerRequest(frozen, frozen)["target"] is frozen
    view = picture(2)
    view.flags.writeable = False  # its owner can take that back
    request = WorkerRequest(view, np.ascontiguousarray(view[:, ::-1]))
    assert request["source"] is not view
    assert frozen_copy(frozen[:, ::-1]).flags.c_contiguous


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (97, 103)])
def test_a_blend_is_the_mean_rounded_once(size: tuple[int, int]) -> None:
    pictures = {name: picture(seed, *size) for seed, name in enumerate("abcd")}
    shares = {"a": 0.1, "b": 0.37, "c": 0.0, "d": 0.53}
    whole = blend(pictures, shares)
    exact = sum(shares[name] * image.astype(float) for name, image in pictures.items())
    assert np.abs(whole - exact).max() <= 0.5 + 1e-4
