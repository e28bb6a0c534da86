"""Judging an ensemble's pictures beside everything it competes with, example by example."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypedDict

import attrs

from tsm_training.arrays import Image
from tsm_training.engine.contenders import Contenders, resampled
from tsm_training.engine.listener import Listener
from tsm_training.engine.previews import BLENDED, Previews, ScorerFactory
from tsm_training.engine.reports import EvaluatedExample
from tsm_training.engine.tasks import checked_similarity

__all__ = ["ExampleJudgement", "Judging", "Pictures", "rival_truths"]

_CONTROL: Final = "control"


class ExampleJudgement(TypedDict):
    """What every contender's picture of one example scored."""

    example_id: str
    group: str | None
    """The group that the training put it in; None without groups."""
    is_unseen: bool
    """True where nothing was ever learned from it."""
    scores: dict[str, float]
    """Similarity to the ground truth by contender, in [0, 1]; ``control`` is the trained ensemble's picture beside
    another example's ground truth. Empty where no pictures could be compared."""


@attrs.frozen(eq=False)
class Pictures:
    """Pictures of one example, all of one size: uint8, H×W×3, BGR."""

    outputs: Mapping[str, Image]
    target: Image
    ground_truth: Image


@attrs.frozen(eq=False)
class Judging:
    """Judges the contenders' pictures, on previews or on whole pictures."""

    contenders: Contenders
    previews: Previews
    rivals: Mapping[str, Image]
    """For each example, by digest, another one's small ground truth, as far as there is one."""
    scorer: ScorerFactory
    metric_name: str
    whole_pictures: Callable[[EvaluatedExample], Pictures | None] | None = None
    """Makes the whole pictures of an example; None judges previews."""

    def judge(self, items: Sequence[EvaluatedExample], listener: Listener) -> list[ExampleJudgement]:
        """Return the scores of every example, in order.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
        """
        seen = self.contenders.learner.cell.state.absorbed
        started = time.monotonic()
        judged: list[ExampleJudgement] = []
        total, pictured = 0.0, 0
        for item in items:
            listener.poll()
            scores = self._scores(item)
            judged.append(
                {
                    "example_id": item.example.example_id,
                    "group": self.contenders.label_of(item.example.metadata),
                    "is_unseen": item.digest not in seen,
                    "scores": scores,
                }
            )
            total, pictured = total + scores.get("trained", 0.0), pictured + bool(scores)
            listener.tell("validating", len(judged), len(items), started, total / pictured if pictured else None)
        return judged

    def _scores(self, item: EvaluatedExample) -> dict[str, float]:
        pictures, rival = self._pictures(item), self.rivals.get(item.digest)
        if pictures is None:
            return {}
        truth = pictures.ground_truth
        score = self.scorer(truth)
        scores = {}
        for name, picture in self.contenders.pictures(pictures.outputs, pictures.target, item.example.metadata):
            scores[str(name)] = self._checked(score, picture)
            if name == "trained" and rival is not None:
                scores[_CONTROL] = self._checked(self.scorer(resampled(rival, truth.shape)), picture)
        return scores

    def _checked(self, score: Callable[[Image], object], picture: Image) -> float:
        return checked_similarity(lambda: score(picture), self.metric_name, BLENDED)

    def _pictures(self, item: EvaluatedExample) -> Pictures | None:
        if self.whole_pictures is not None:
            return self.whole_pictures(item)
        preview = self.previews.get(item)
        return None if preview is None else Pictures(preview.outputs, preview.target, preview.ground_truth)


def rival_truths(items: Sequence[EvaluatedExample], previews: Previews) -> dict[str, Image]:
    """Return for each example, by digest, the small ground truth of one with another target, each truth about once."""
    truths = [
        (item.digest, item.example.known_files, truth)
        for item in items
        if (truth := previews.ground_truth(item)) is not None
    ]
    rivals = {}
    for number, (digest, files, _truth) in enumerate(truths):
        for step in range(1, len(truths)):
            _digest, other, rival = truths[(number + step) % len(truths)]
            if other.target != files.target and other.ground_truth != files.ground_truth:
                rivals[digest] = rival
                break
    return rivals
