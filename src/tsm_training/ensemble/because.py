"""What an answer rests on: training examples, how familiar the look is, and what becomes of some colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

MOST_NAMED: Final = 5
"""Examples that are named."""


@attrs.frozen(eq=False)
class Because:
    """What an answer rests on."""

    examples: Mapping[str, float]
    """The training examples that it leans on most, at most five, by example id, the greatest weight first."""
    total: float
    """The weight of all training examples together, at most 1; the rest is what workers do that learned nothing, and
    what no example shows."""
    familiarity: float | None = None
    """How familiar the look is, in [0, 1]; see `Prediction.familiarity`."""
    before: npt.NDArray[np.uint8] = attrs.field(factory=lambda: np.empty((0, 3), np.uint8), repr=False)
    """Twelve of the target's colours, from dark to light: uint8, 12×3, BGR."""
    after: npt.NDArray[np.uint8] = attrs.field(factory=lambda: np.empty((0, 3), np.uint8), repr=False)
    """What the answer makes of them: uint8, 12×3, BGR."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON: colours as ``#rrggbb``, examples as a list of ``example_id`` and ``weight``."""
        return {
            "examples": [{"example_id": name, "weight": weight} for name, weight in self.examples.items()],
            "total": self.total,
            "familiarity": self.familiarity,
            "before": hex_colors(self.before),
            "after": hex_colors(self.after),
        }

    def _repr_html_(self) -> str:
        """Show the examples, the familiarity and the colours in a notebook."""
        from tsm_training.report.notebook import because_card  # noqa: PLC0415 - where HTML is made

        return because_card(self)


def hex_colors(colors: npt.NDArray[np.uint8]) -> list[str]:
    """Return colours (uint8, N×3, BGR) as ``#rrggbb``."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in colors.tolist()]
