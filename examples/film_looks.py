"""Eight film-like looks: what the quick start wants the ensemble to imitate.

A look is three steps, each with a name from the darkroom: saturation (a matrix over the three channels), contrast (an
S-shaped curve), and one curve per channel, which tints shadows and highlights apart ("split toning").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tsm_training import Image

Channels: TypeAlias = tuple[float, float, float]
"""One number each for blue, green and red: OpenCV's order."""

_LUMINANCE = np.array([0.114, 0.587, 0.299], np.float32)


@dataclass(frozen=True)
class Look:
    """A way to grade a picture; every step keeps the order of tones, so nothing turns into its negative.

    Args:
        name: What it is called.
        saturation: 0 makes the picture grey, 1 leaves colours alone, more exaggerates them.
        contrast: The share of an S-shaped curve in the tones, in [0, 1].
        shadows: What black becomes, per channel, in [0, 1).
        highlights: What white becomes, per channel, above `shadows` and at most 1.
        gamma: How middle tones move, per channel; below 1 is lighter, above 1 darker.
    """

    name: str
    saturation: float = 1.0
    contrast: float = 0.0
    shadows: Channels = (0.0, 0.0, 0.0)
    highlights: Channels = (1.0, 1.0, 1.0)
    gamma: Channels = (1.0, 1.0, 1.0)

    def apply(self, picture: Image) -> Image:
        """Return the graded picture; it and `picture` are uint8, H×W×3, BGR."""
        values = picture.astype(np.float32) / 255.0
        values = self._curves(self._contrast(self._saturated(values)))
        graded: Image = np.rint(255.0 * values).astype(np.uint8)
        return graded

    def _saturated(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        grey = (values @ _LUMINANCE)[..., None]
        saturated = grey + np.float32(self.saturation) * (values - grey)
        return np.clip(saturated, 0.0, 1.0).astype(np.float32, copy=False)

    def _contrast(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        s_curve = values * values * (3.0 - 2.0 * values)
        return (values + np.float32(self.contrast) * (s_curve - values)).astype(np.float32, copy=False)

    def _curves(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        low, high, gamma = (np.array(v, np.float32) for v in (self.shadows, self.highlights, self.gamma))
        return (low + (high - low) * values**gamma).astype(np.float32, copy=False)


LOOKS = (
    Look("golden hour", 1.25, 0.3, shadows=(0.00, 0.03, 0.10), highlights=(0.55, 0.88, 1.00), gamma=(1.6, 1.0, 0.70)),
    Look("moonlight", 0.60, 0.4, shadows=(0.12, 0.03, 0.00), highlights=(1.00, 0.80, 0.62), gamma=(0.8, 1.2, 1.70)),
    Look("sepia", 0.0, 0.2, shadows=(0.03, 0.07, 0.13), highlights=(0.66, 0.86, 1.00), gamma=(1.3, 1.1, 0.90)),
    Look("cyanotype", 0.0, 0.4, shadows=(0.36, 0.14, 0.02), highlights=(1.00, 0.97, 0.90), gamma=(0.6, 1.0, 1.60)),
    Look("faded print", 0.5, 0.0, shadows=(0.28, 0.22, 0.30), highlights=(0.72, 0.84, 0.92), gamma=(0.9, 0.9, 0.75)),
    Look("cross process", 1.5, 0.7, shadows=(0.25, 0.02, 0.00), highlights=(0.60, 1.00, 0.95), gamma=(1.0, 0.6, 0.90)),
    Look("teal and orange", 1.3, 0.6, shadows=(0.32, 0.22, 0.00), highlights=(0.45, 0.78, 1.0), gamma=(1.0, 1.0, 0.80)),
    Look("rose slide", 1.1, 0.4, shadows=(0.18, 0.02, 0.14), highlights=(0.95, 0.78, 1.00), gamma=(0.8, 1.4, 0.70)),
)
"""Strong, all of them: leaving a picture alone is far from what is wanted."""
