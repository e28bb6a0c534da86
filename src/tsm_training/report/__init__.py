"""Results for people: a page with everything about a training, a sheet of pictures side by side, results as tables.

All of it needs nothing but what the library needs. `TrainingManager.report` writes the page.
"""

from tsm_training.report.figures import baseline_labels, growth_of, guide_band
from tsm_training.report.notebook import Shown, show
from tsm_training.report.page import epochs_chart, growth_chart, leaderboard_table, report_page, write_report
from tsm_training.report.pictures import contact_sheet

__all__ = [
    "Shown",
    "baseline_labels",
    "contact_sheet",
    "epochs_chart",
    "growth_chart",
    "growth_of",
    "guide_band",
    "leaderboard_table",
    "report_page",
    "show",
    "write_report",
]
