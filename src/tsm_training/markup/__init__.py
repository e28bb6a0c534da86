"""HTML and small charts, written so that nothing which comes from outside can be anything but text."""

from tsm_training.markup.charts import COLORS, Scale, Series, interval_bar, legend, line_chart
from tsm_training.markup.tags import Markup, breakable, card, facts_table, image, joined, small_table, table, tag
from tsm_training.markup.words import (
    counted,
    figure_text,
    interval_text,
    listed,
    percent_text,
    probability_text,
    seconds_text,
    shares_text,
)

__all__ = [
    "COLORS",
    "Markup",
    "Scale",
    "Series",
    "breakable",
    "card",
    "counted",
    "facts_table",
    "figure_text",
    "image",
    "interval_bar",
    "interval_text",
    "joined",
    "legend",
    "line_chart",
    "listed",
    "percent_text",
    "probability_text",
    "seconds_text",
    "shares_text",
    "small_table",
    "table",
    "tag",
]
