"""Picture files: looked at when an example is added, decoded when it is used, written whole or not at all.

OpenCV never sees a path: it takes the file name for UTF-8 (or dies), ends it at a NUL and waits for ever on a pipe.
Files are read here, judged by `tsm_training.images.headers` and only then decoded from memory: the header tells how
much memory a decoder will take, whether the file is complete, and whether it holds more than it declares. Decoders are
given only what they need of a file. `ImageLimits` say how large a picture may be, and which folder it may come from.

Colours become sRGB (`tsm_training.images.profiles`), 16 bits become 8, and the orientation, 1–8 in EXIF numbering, is
applied. The how-to on pictures has a table of what is read, and of what is refused: transparency, floating point,
camera raw, animations and several pages foremost.

A file that ends early is always noticed. Damage *inside* compressed data is noticed in PNG files only, which carry
checksums; after a file was added, its SHA-256 tells.
"""

from tsm_training.images.handed import PictureLike, PillowImage, as_pillow, picture_and_exif
from tsm_training.images.headers import PICTURE_ENDINGS
from tsm_training.images.reading import (
    READER_VERSION,
    WRITABLE_ENDINGS,
    ImageInfo,
    ImageLimits,
    inspect_image,
    read_image,
    read_image_and_exif,
    read_thumbnail,
    write_image,
)
from tsm_training.images.tables import NODES, STEP, ColorTable, positions, sum_of

__all__ = [
    "NODES",
    "PICTURE_ENDINGS",
    "READER_VERSION",
    "STEP",
    "WRITABLE_ENDINGS",
    "ColorTable",
    "ImageInfo",
    "ImageLimits",
    "PictureLike",
    "PillowImage",
    "as_pillow",
    "inspect_image",
    "picture_and_exif",
    "positions",
    "read_image",
    "read_image_and_exif",
    "read_thumbnail",
    "sum_of",
    "write_image",
]
