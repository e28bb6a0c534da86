"""The ensemble's answer: the workers' images, blended by their shares; and small samples of images to try blends on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Final

import attrs
import cv2
import numpy as np

from tsm_training.arrays import Image
from tsm_training.errors import ImageFormatError
from tsm_training.images import write_image
from tsm_training.workers import WorkerResult

NEGLIGIBLE_SHARE: Final = 0.001
"""Workers with a smaller share are not run for a prediction."""

_BLENDED_AT_ONCE: Final = 3 * 2**18
"""Bytes that are blended at a time: floats of whole images take several times the memory of the images.

A multiple of what a processor adds in one step, so that each byte is rounded as in an image blended at once.
"""


@attrs.frozen(eq=False)
class Prediction:
    """The ensemble's answer to one request."""

    image: Image = attrs.field(repr=lambda image: f"<{image.shape[1]}×{image.shape[0]} picture>")
    """The blended image: uint8, H×W×3, BGR, the target's size."""
    blend_weights: Mapping[str, float]
    """The share of each worker whose image was used; sum 1."""
    results: Mapping[str, WorkerResult] = attrs.field(repr=False)
    """What each worker that was run gave, by worker id, failures included."""
    familiarity: float | None = None
    """How familiar the look of the request is, in [0, 1], to the worker with the greatest share of those that have
    learned looks; None where there is none."""
    group: str | None = None
    """The group that the request belongs to; None where it was given none."""
    is_known_group: bool | None = None
    """False where no example has that group: the look was then recognised from the source. None without a group."""
    exif: bytes = attrs.field(default=b"", repr=False)
    """The EXIF block that `save` writes: the target's, made fit for the answer. Empty where the target was an array or
    has none."""

    def _repr_html_(self) -> str:
        """Show a small picture, and who has a part in it, in a notebook."""
        from tsm_training.report.notebook import prediction_card  # noqa: PLC0415 - where HTML is made

        return prediction_card(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image to a file; its ending (.png, .jpg, .webp, .bmp, .tif) chooses the format.

        The file says that its colours are sRGB, and keeps the target's EXIF block: upright, without its thumbnail. BMP
        has room for neither. The block may say where and when the target was taken; ``attrs.evolve(prediction,
        exif=b"")`` is without it.

        Raises:
            InvalidArgumentError: the ending names no format that can be written.
            OSError: the file cannot be written; what was there before is untouched.
        """
        write_image(path, self.image, exif=self.exif)


def renormalised(shares: Mapping[str, float], worker_ids: Iterable[str]) -> dict[str, float]:
    """Return the shares of some workers only, scaled to sum 1; equal where none of them has any.

    Args:
        shares: Per worker id, at least 0.
        worker_ids: Those to keep; an empty choice gives an empty result.
    """
    kept = {worker_id: shares.get(worker_id, 0.0) for worker_id in sorted(worker_ids)}
    total = math.fsum(kept.values())
    if total <= 0.0:
        return {worker_id: 1.0 / len(kept) for worker_id in kept}
    return {worker_id: share / total for worker_id, share in kept.items()}


def blend(pictures: Mapping[str, Image], shares: Mapping[str, float]) -> Image:
    """Return the weighted mean of images, rounded to the nearest byte.

    The sum is taken in order of worker id, so the same images and shares give the same bytes everywhere.

    Args:
        pictures: At least one image, by worker id; uint8, H×W×3, BGR, of one size.
        shares: For each of them, at least 0, sum 1.

    Returns:
        A new image, uint8, H×W×3, BGR.
    """
    used = [worker_id for worker_id in sorted(pictures) if shares[worker_id] > 0.0]
    if len(used) == 1:
        return pictures[used[0]].copy()
    flat = {worker_id: np.ascontiguousarray(pictures[worker_id]).reshape(-1) for worker_id in used}
    shape = pictures[used[0]].shape
    blended = np.empty(math.prod(shape), np.uint8)
    for start in range(0, blended.size, _BLENDED_AT_ONCE):
        part = slice(start, start + _BLENDED_AT_ONCE)
        total = np.zeros(blended[part].shape, np.float32)
        for worker_id in used:
            cv2.scaleAdd(flat[worker_id][part].astype(np.float32), shares[worker_id], total, total)
        blended[part] = np.clip(np.rint(total), 0.0, 255.0)
    return blended.reshape(shape)


# --- previews: small samples, kept so that blends can be compared without running a worker again ---------------------

PREVIEW_SIDE: Final = 96
"""The longest side of a preview, in pixels."""

_PNG_START: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def sample_grid(image: Image) -> Image:
    """Return an image of at most 96 pixels a side, made of pixels of `image` on an even grid.

    Pixels are picked, not averaged: averaging would change the histograms of different workers' images unequally.
    Images of one size are always sampled at the same places.

    Args:
        image: uint8, H×W×3, BGR.
    """
    step = max(1.0, max(image.shape[:2]) / PREVIEW_SIDE)
    counts = [(side, max(1, int(side / step))) for side in image.shape[:2]]
    lines = ([int((index + 0.5) * side / count) for index in range(count)] for side, count in counts)
    return np.ascontiguousarray(image[np.ix_(*lines)])


def encode_preview(image: Image) -> bytes:
    """Return a preview (uint8, H×W×3, BGR) as a PNG file."""
    _done, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def decode_preview(png: bytes) -> Image:
    """Return the image (uint8, H×W×3, BGR) of a preview.

    Raises:
        ImageFormatError: these are not the bytes of a preview.
    """
    # A damaged file may claim any size.
    sides = [int.from_bytes(png[start : start + 4]) for start in (16, 20)]
    is_small = png.startswith(_PNG_START) and max(sides) <= PREVIEW_SIDE
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if is_small else None
    if image is None:
        raise ImageFormatError("preview", "the stored bytes are not a PNG picture")
    return np.asarray(image, np.uint8)
