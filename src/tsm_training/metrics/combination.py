"""Several metrics as one: the weighted mean of what they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs

from tsm_training.arguments import check_callable, is_number
from tsm_training.arrays import Image
from tsm_training.errors import InvalidArgumentError, MetricRangeError
from tsm_training.metrics.protocols import ALLOWANCE, Metric, prepare_metric, similarity_or_none, stated_memory

__all__ = ["CombinedMetric"]

_Parts: TypeAlias = tuple[tuple[float, Metric], ...]


def _parts(parts: Iterable[tuple[float, Metric]]) -> _Parts:
    given: Any = parts  # whatever it really is
    pairs = [tuple(part) if isinstance(part, Iterable) else () for part in given] if isinstance(given, Iterable) else []
    if not pairs or any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004
        raise InvalidArgumentError("parts", given, "pairs of a weight and a metric, at least one")
    return tuple((_weight(weight), _metric(metric)) for weight, metric in pairs)


def _weight(value: object) -> float:
    if not is_number(value) or not 0 < value < math.inf:
        raise InvalidArgumentError("the weight of a metric", value, "a finite number above 0")
    return float(value)


def _metric(value: Any) -> Metric:
    check_callable("a part of the metric", value, "a callable (output, ground_truth) -> similarity in [0, 1]")
    metric: Metric = value
    return metric


@attrs.frozen
class CombinedMetric:
    """The weighted mean of several metrics, each of which prepares the ground truth once.

    >>> from tsm_training.metrics import ColorDifference, StructuralSimilarity
    >>> metric = CombinedMetric([(3, ColorDifference()), (1, StructuralSimilarity())])

    Only the ratios of the weights count. What the metrics tell apart counts too: a metric whose values lie close
    together has little to say beside one whose values are spread.

    Args:
        parts: Pairs of a weight, a finite number above 0, and a metric: one of ours, another combination, or any
            callable ``(output, ground_truth) -> similarity in [0, 1]``.

    Raises:
        InvalidArgumentError: `parts` is empty, or holds something else.
    """

    parts: _Parts = attrs.field(converter=_parts)
    version: str = attrs.field(default="1", init=False)

    def __call__(self, output: Image, ground_truth: Image, /) -> float:
        """Return the similarity of two pictures (uint8, H×W×3, BGR, one size), in [0, 1].

        Raises:
            MetricRangeError: a part gave something else than a finite number in [0, 1].
        """
        return self.prepare(ground_truth)(output)

    def working_memory(self, pixels: int, /) -> int:
        """Return how many bytes it takes besides an output: what its parts state, or an allowance for each."""
        stated = (stated_memory(metric, pixels) for _weight, metric in self.parts)
        return sum(ALLOWANCE * pixels if memory is None else memory for memory in stated)

    def prepare(self, ground_truth: Image, /) -> Callable[[Image], float]:
        """Return a function that scores outputs against this ground truth (uint8, H×W×3, BGR).

        Raises (when the result is called):
            MetricRangeError: a part gave something else than a finite number in [0, 1].
        """
        largest = max(weight for weight, _metric in self.parts)
        scorers = [(weight / largest, metric, prepare_metric(metric, ground_truth)) for weight, metric in self.parts]
        total = math.fsum(weight for weight, *_ in scorers)

        def score(output: Image) -> float:
            terms = [weight * _checked(metric, part(output)) for weight, metric, part in scorers]
            return min(1.0, math.fsum(terms) / total)

        return score


def _checked(metric: Metric, value: object) -> float:
    similarity = similarity_or_none(value)
    if similarity is None:
        raise MetricRangeError(getattr(metric, "__qualname__", None) or type(metric).__qualname__, value)
    return similarity
