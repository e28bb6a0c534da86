"""The ensemble's answer: the workers' images, blended by their shares; and small samples of images to try blends on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arguments import check_path
from tsm_training.arrays import Image, exchanged
from tsm_training.ensemble.because import Because
from tsm_training.errors import ImageFormatError, InvalidArgumentError
from tsm_training.files import replace_file
from tsm_training.images import NODES, ColorTable, as_pillow, sum_of, write_image
from tsm_training.workers import WorkerResult

if TYPE_CHECKING:
    import PIL.Image

NEGLIGIBLE_SHARE: Final = 0.001
"""Workers with a smaller share are not run for a prediction."""


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
    because: Because | None = None
    """What the answer rests on; None where no worker with a share has learned from examples."""
    exif: bytes = attrs.field(default=b"", repr=False)
    """The EXIF block that `save` writes: the target's, made fit for the answer. Empty where the target was an array or
    has none."""
    nearest_group: str | None = None
    """Of the groups that examples have, the one whose name is most like an unknown one; None where none is like it."""

    def _repr_html_(self) -> str:
        """Show a small picture, and who has a part in it, in a notebook."""
        from tsm_training.report.notebook import prediction_card  # noqa: PLC0415 - where HTML is made

        return prediction_card(self)

    @property
    def rgb(self) -> Image:
        """The blended image for libraries that want RGB instead of BGR, as matplotlib does: a copy, uint8, H×W×3."""
        return exchanged(self.image)

    def to_pillow(self) -> PIL.Image.Image:
        """Return the blended image as an image of Pillow, mode RGB.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        return as_pillow(self.image, "Prediction.to_pillow")

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

    def save_lut(self, path: str | os.PathLike[str], size: int = NODES, *, title: str = "tsm_training") -> None:
        """Write what the answer does to colours as a 3-D LUT, for the editors of photographs and films that read one.

        The file has the format ``.cube`` (Adobe, Iridas), a domain of 0 to 1, and R varies fastest. Applied to the
        target, it gives the answer's picture, but for how the other program interpolates. It takes and gives sRGB
        values: convert a photograph with another colour profile to sRGB first.

        Args:
            path: A file name that ends with ``.cube``; an existing file is replaced.
            size: Nodes on a side, 2–256.
            title: What editors show; without line breaks and quotation marks.

        Raises:
            InvalidArgumentError: an argument is not what it must be; or a worker with a share in the answer does more
                than move each colour, as a median filter does: no LUT can say that.
            OSError: the file cannot be written; what was there before is untouched.
        """
        name = check_path("path", path)
        if not name.lower().endswith(".cube") or not Path(name).absolute().parent.is_dir():
            raise InvalidArgumentError("path", name, "a file name that ends with .cube, in an existing folder")
        shares = {worker_id: share for worker_id, share in sorted(self.blend_weights.items()) if share > 0.0}
        tables = [(share, table) for w, share in shares.items() if (table := self.results[w].table) is not None]
        if len(tables) < len(shares):
            others = ", ".join(repr(w) for w in shares if self.results[w].table is None)
            raise InvalidArgumentError(
                "blend_weights", f"shares of {others}", "shares of workers that only move colours"
            )
        replace_file(name, ColorTable.blended(tables).to_cube(size, title).encode())


def unknown_group_text(prediction: Prediction) -> str:
    """Return what is to be said of a prediction whose group no example has."""
    meant = "" if prediction.nearest_group is None else f"; did you mean {prediction.nearest_group}?"
    return f"{prediction.group}, which no example has: the look was recognised from the source{meant}"


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
    return sum_of([(shares[worker_id], pictures[worker_id]) for worker_id in used], None, pictures[used[0]])


def blend_results(results: Mapping[str, WorkerResult], shares: Mapping[str, float], target: Image) -> Image:
    """Return the weighted mean of what workers made of a target; tables of colours are blended before the look-up.

    That gives the mean of their images but for rounding: once instead of once per worker, at most one level.

    Args:
        results: At least one that is valid, by worker id.
        shares: For each of them, at least 0, sum 1; the sum is taken in order of worker id.
        target: uint8, H×W×3, BGR.

    Returns:
        A new image, uint8, H×W×3, BGR.
    """
    used = [worker_id for worker_id in sorted(shares) if shares[worker_id] > 0.0]
    tables = [(shares[w], table) for w in used if (table := results[w].table) is not None]
    parts = [
        (shares[w], picture) for w in used if results[w].table is None and (picture := results[w].value) is not None
    ]
    return sum_of(parts, ColorTable.blended(tables) if tables else None, target)


# --- previews: small samples, kept so that blends can be compared without running a worker again ---------------------

_COLORS: Final = 12
_LUMA: Final = np.array([29, 150, 77])
"""Weights of B, G and R in the luma of ITU-R BT.601, in 256ths."""

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


def color_strip(target: Image, answer: Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return twelve colours of the target, evenly among its pixels in order of luma, and the answer's at these places.

    Args:
        target: uint8, H×W×3, BGR.
        answer: Likewise, of the same size.

    Returns:
        Two arrays, uint8, 12×3, BGR.
    """
    before, after = (sample_grid(image).reshape(-1, 3) for image in (target, answer))
    order = np.argsort(before @ _LUMA, kind="stable")
    places = order[((np.arange(_COLORS) + 0.5) * len(order) / _COLORS).astype(np.intp)]
    return before[places], after[places]


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
