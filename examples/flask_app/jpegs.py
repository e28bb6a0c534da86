"""Pictures for pages: JPEG files made here, never a stranger's."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from tsm_training import Image

__all__ = ["jpeg"]

_QUALITY: Final = 90


def jpeg(picture: Image) -> bytes:
    """Return a picture (uint8, H×W×3, BGR) as a JPEG file."""
    _done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()
