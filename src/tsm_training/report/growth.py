"""How the similarity on held-out examples grows with the number of examples, as a chart for pages."""

from __future__ import annotations

from typing import Final

from tsm_training.markup import COLORS, Markup, Series, figure_text, joined, legend, line_chart, tag
from tsm_training.views import Growth, guide_band

__all__ = ["growth_chart"]

_WORDS: Final = (
    "Mean similarity of the ensemble's pictures to the ground truth on held-out examples; at 0 examples all workers "
    "have equal weights."
)


def growth_chart(points: Growth) -> Markup:
    """Return a chart of the similarity on held-out examples over the number of examples, before the guide's band.

    Args:
        points: At least one pair: number of examples learned from, similarity in [0, 1].
    """
    band = guide_band(max(count for count, _similarity in points))
    middle = [(count, (low + high) / 2) for count, low, high in band]
    series = [
        Series("trained ensemble", list(points), COLORS[0]),
        Series("what the guide expects", middle, COLORS[2], dashes="2 4", bands=[band], is_quiet=True),
    ]
    told = ", ".join(f"{figure_text(similarity)} after {count:g}" for count, similarity in points)
    chart = line_chart(
        series, f"Similarity on held-out examples by number of examples: {told}.", "examples learned from"
    )
    return tag("figure", joined(chart, legend(series), tag("figcaption", _WORDS)))
