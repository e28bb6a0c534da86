"""Pictures that are no files: arrays, and images of Pillow."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

from tsm_training.arrays import ChannelOrder, Image, check_channel_order, check_image, exchanged
from tsm_training.errors import ImageFormatError, MissingExtraError
from tsm_training.images.reading import ImageLimits, decode_image, read_image_and_exif

if TYPE_CHECKING:
    import PIL.Image


class PillowImage(Protocol):
    """An image of Pillow, as far as its type can be told where Pillow is not installed."""

    @property
    def __array_interface__(self) -> Any:
        """How NumPy sees its pixels."""
        ...


PictureLike: TypeAlias = str | os.PathLike[str] | Image | PillowImage
"""A picture as people have it: the path of a file, an array (uint8, H×W×3), or an image of Pillow."""

_PLAIN_MODES: Final = {"1": "L", "P": "RGB", "YCbCr": "RGB", "LA": "RGBA", "PA": "RGBA", "La": "RGBA", "RGBa": "RGBA"}
"""Modes of Pillow that are read in another one, which shows the same."""


def picture_and_exif(
    value: PictureLike, argument: str, color: ChannelOrder, limits: ImageLimits
) -> tuple[Image, bytes]:
    """Return a picture (uint8, H×W×3, BGR, upright), whatever it comes as, and the EXIF block that an answer keeps.

    An image of Pillow is taken for what the same picture in a file would be: its orientation and its colour profile are
    applied, and whatever is refused in a file is refused.

    Args:
        value: The path of a file, an array (uint8, H×W×3), or an image of Pillow.
        argument: Its name, for messages.
        color: The order of an array's channels; files and images of Pillow say that themselves.
        limits: How large a picture may be, and where files may lie.

    Raises:
        InvalidArgumentError: it is nothing of that kind, or `color` is something else.
        ImageError: a file, or an image of Pillow, cannot be used.
    """
    check_channel_order(color)
    if isinstance(value, (str, bytes, os.PathLike)):
        return read_image_and_exif(value, limits)
    pillow: Any = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        foreign = cast("PIL.Image.Image", value)
        name = f"{argument} (an image of Pillow, mode {foreign.mode})"
        return decode_image(name, _tiff_of(name, foreign), limits)
    image = check_image(value, argument, color)
    return exchanged(image) if color == "rgb" else image, b""


def _tiff_of(name: str, image: PIL.Image.Image) -> bytes:
    """Return an image as the contents of a file, with its colour profile and EXIF block; that takes next to no time."""
    mode = "RGBA" if "transparency" in image.info else _PLAIN_MODES.get(image.mode, image.mode)
    contents = io.BytesIO()
    try:
        image.convert(mode).save(contents, "TIFF", compression="raw", exif=image.getexif())
    except (OSError, ValueError, SyntaxError) as error:  # it was closed, its file is damaged, or the mode is a rare one
        raise ImageFormatError(name, f"cannot be used: {error}; image.convert('RGB') may help") from error
    return contents.getvalue()


def as_pillow(image: Image, part: str) -> PIL.Image.Image:
    """Return a picture (uint8, H×W×3, BGR) as an image of Pillow, mode RGB; `part` is what asks for it.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("photos", part) from error
    return PIL.Image.fromarray(exchanged(image))
