"""Judging an ensemble's pictures beside those of its baselines, example by example."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Final, TypedDict

import attrs

from tsm_training.analysis import Baseline
from tsm_training.arrays import Image
from tsm_training.evaluation.baselines import Baselines, resampled
from tsm_training.evaluation.previews import BLENDED, Previews, ScorerFactory
from tsm_training.evaluation.reports import EvaluatedExample
from tsm_training.evaluation.scoring import checked_similarity
from tsm_training.metrics import ColorDifference
from tsm_training.progress import ProgressReporter

__all__ = ["ExampleJudgement", "Judging", "Pictures", "rival_truths"]

_COLORS: Final = ColorDifference()


class ExampleJudgement(TypedDict):
    """What every baseline's picture of one example scored."""

    example_id: str
    group: str | None
    """The group that the training put it in; None without groups."""
    is_unseen: bool
    """True where nothing was ever learned from it."""
    scores: dict[str, float]
    """Similarity to the ground truth by baseline, in [0, 1]; ``control`` is the trained ensemble's picture beside
    another example's ground truth. Who has no picture is missing: it failed, or small pictures of its workers are no
    longer kept."""
    delta_e: dict[str, float]
    """Mean colour difference ΔE00 from the ground truth by baseline, whatever the metric."""


@attrs.frozen(eq=False, repr=False)
class Pictures:
    """Pictures of one example, all of one size: uint8, H×W×3, BGR."""

    outputs: Mapping[str, Image]
    target: Image
    ground_truth: Image
    valid: Collection[str] | None = None
    """Ids of all workers that did not fail; None where `outputs` has a picture of each."""


@attrs.frozen(eq=False, repr=False)
class Judging:
    """Judges the baselines' pictures, on previews or on whole pictures."""

    baselines: Baselines
    previews: Previews
    rivals: Mapping[str, Image]
    """For each example, by digest, another one's small ground truth, as far as there is one."""
    scorer: ScorerFactory
    metric_name: str
    whole_pictures: Callable[[EvaluatedExample], Pictures | None] | None = None
    """Makes the whole pictures of an example; None judges previews."""
    earlier: Callable[[EvaluatedExample, Pictures], Mapping[str, Image]] | None = None
    """Gives pictures of trainable workers with the fits that were in use before, by worker id; without it, "previous"
    is judged with the fits of today."""
    ungrouped: Callable[[EvaluatedExample, Pictures], Mapping[str, Image]] | None = None
    """Gives pictures of trainable workers that are not told the example's group, by worker id."""
    seen: Set[str] = frozenset()
    """Digests of the examples that were learned from, here or where a weights file comes from."""
    is_color_difference: bool = False
    """Whether the scorer's similarity is `ColorDifference` already."""

    def judge(self, items: Sequence[EvaluatedExample], listener: ProgressReporter) -> list[ExampleJudgement]:
        """Return the scores of every example, in order.

        Raises:
            MetricError: the judge raised or gave something that is no similarity.
        """
        started = time.monotonic()
        judged: list[ExampleJudgement] = []
        total, pictured = 0.0, 0
        for item in items:
            listener.poll()
            scores, delta_e = self._judged(item)
            judged.append(
                {
                    "example_id": item.example.example_id,
                    "group": self.baselines.label_of(item.example.metadata),
                    "is_unseen": item.digest not in self.seen,
                    "scores": scores,
                    "delta_e": delta_e,
                }
            )
            total, pictured = total + scores.get(Baseline.TRAINED, 0.0), pictured + (Baseline.TRAINED in scores)
            listener.tell("validating", len(judged), len(items), started, total / pictured if pictured else None)
        return judged

    def _judged(self, item: EvaluatedExample) -> tuple[dict[str, float], dict[str, float]]:
        """Return the similarity of every baseline's picture, and its mean colour difference."""
        pictures, rival = self._pictures(item), self.rivals.get(item.digest)
        if pictures is None:
            return {}, {}
        truth = pictures.ground_truth
        score = self.scorer(truth)
        closeness = None if self.is_color_difference else _COLORS.prepare(truth)
        scores: dict[str, float] = {}
        delta_e: dict[str, float] = {}
        for name, picture in self.baselines.pictures(
            pictures.outputs,
            pictures.target,
            item.example.metadata,
            valid=pictures.valid,
            earlier=None if self.earlier is None else self.earlier(item, pictures),
            ungrouped=None if self.ungrouped is None else self.ungrouped(item, pictures),
        ):
            scores[str(name)] = similarity = self._checked(score, picture)
            delta_e[str(name)] = 100.0 * (1.0 - (similarity if closeness is None else closeness(picture)))
            if name is Baseline.TRAINED and rival is not None:
                scores[str(Baseline.CONTROL)] = self._checked(self.scorer(resampled(rival, truth.shape)), picture)
        return scores, delta_e

    def _checked(self, score: Callable[[Image], object], picture: Image) -> float:
        return checked_similarity(lambda: score(picture), self.metric_name, BLENDED)

    def _pictures(self, item: EvaluatedExample) -> Pictures | None:
        if self.whole_pictures is not None:
            return self.whole_pictures(item)
        preview = self.previews.get(item)
        valid = [worker_id for worker_id, accuracy in item.accuracies.items() if accuracy is not None]
        if preview is None or not valid:
            return None
        return Pictures(preview.outputs, preview.target, preview.ground_truth, valid)


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
