"""Workers that learn from ground truths: what they note of each example, and the fit that is made of the notes."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

from tsm_training.arrays import Image
from tsm_training.errors import WorkerNotFittedError
from tsm_training.learning import Observation
from tsm_training.workers.worker import Worker

MOST_OBSERVATION_BYTES: Final = 16_000
"""An observation may hold at most this many bytes."""

MOST_OBSERVATIONS: Final = 1_000
"""A fit uses at most this many observations."""


class TrainableWorker(Worker):
    """A worker that is fitted on the ground truths of the training examples.

    The registered object is configuration and stays as it is. While examples are evaluated, the library asks it once
    per example what a fit will need (`observe`), stores the answers, and has it make a fitted worker of those of the
    training examples (`fit`). The fitted worker answers requests under the same `worker_id`. Training examples are
    scored out of fold: each one by a fit that knows neither it nor any other example with the same target.

    Until it is fitted it is not asked: no result, no evidence, no share.
    """

    min_observations: int = 1
    """With fewer observations than this in any fold the worker stays unfitted."""
    is_color_map: bool = False
    """True promises that a fitted worker changes each pixel by its colour alone. Scores on the training's own examples
    are then taken on a stored sample of their pixels, so that no picture is read again for a new fit."""

    @abstractmethod
    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        """Return what fitting needs to know of one example: at most 16,000 bytes, the same for the same pictures.

        It is called where the example is evaluated, in several threads at once.

        Args:
            source: Gives the colours: uint8, H×W×3, BGR, read-only.
            target: Is changed: uint8, H×W×3, BGR, read-only; of the ground truth's size.
            ground_truth: The wanted result: uint8, H×W×3, BGR, read-only.

        Raises:
            Exception: anything; it is recorded as this worker's failure on this example.
        """

    @abstractmethod
    def fit(self, observations: Sequence[Observation]) -> Worker:
        """Return a frozen worker that has learned from these observations; the same one for the same observations.

        Args:
            observations: At least `min_observations` and at most 1,000, in order of digest, each digest once.

        Returns:
            A worker with this one's `worker_id`, without a method ``fit``. Its `version` is the digest of what it
            learned: `learned_version` makes it.

        Raises:
            Exception: anything; the worker then counts as failed on every example of this training.
        """

    def dump_fit(self, fitted: Worker) -> bytes | None:
        """Return a fitted worker as bytes to store; None (the default) has the library fit it again when it is needed.

        Args:
            fitted: What `fit` returned.
        """
        return None

    def load_fit(self, state: bytes, observations: Sequence[Observation]) -> Worker:
        """Return the fitted worker that `dump_fit` made bytes of.

        Args:
            state: What `dump_fit` returned.
            observations: What the worker was fitted on.

        Raises:
            ValueError: the bytes are not such a state; the library then fits again.
        """
        return self.fit(observations)

    def process(self, data: Mapping[str, Image]) -> Image:
        """Answer nothing: only a fitted worker does.

        Args:
            data: Two pictures, uint8, H×W×3, BGR.

        Raises:
            WorkerNotFittedError: always.
        """
        raise WorkerNotFittedError(self.worker_id)


def learned_version(observations: Sequence[Observation]) -> str:
    """Return 32 hexadecimal digits that identify what these observations teach: the `version` of a fitted worker.

    They cover groups, digests and data of all observations, in any order.
    """
    rows = sorted(
        (o.digest, o.source_digest, o.target_digest, o.group or "", o.group is None, hashlib.sha256(o.data).hexdigest())
        for o in observations
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:32]
