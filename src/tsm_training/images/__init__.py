"""Picture files: looked at when an example is added, decoded when it is used, written whole or not at all.

OpenCV never sees a path: it takes the file name for UTF-8 (or dies), ends it at a NUL and waits for ever on a pipe.
Files are read here, judged by `tsm_training.images.headers` and only then decoded from memory: the header tells how
much memory a decoder will take, and whether the file is complete. `ImageLimits` say how large a picture may be, and
which folder it may come from.

What becomes of the kinds of picture that there are (the orientation, 1–8 in EXIF numbering, is always applied):

====================================================  ================================================================
8-bit colour                                          taken as it is; colour profiles are ignored
grey, palette (1–8 bits), 1-bit                       becomes BGR
alpha channel, opaque throughout                      dropped
any other transparency                                refused
16-bit, floating-point, signed, CMYK, YCbCr, CIE Lab  refused
animated PNG or WebP, TIFF of several pages           refused
RLE or 16-bit BMP; JPEG or fax in TIFF; BigTIFF       refused
JPEG: arithmetic-coded, lossless, 12-bit              refused
other formats (GIF, HEIF, JPEG 2000, OpenEXR, …)      refused
====================================================  ================================================================

A file that ends early is always noticed. Damage *inside* compressed data is noticed in PNG files only, which carry
checksums; after a file was added, its SHA-256 tells.
"""

from tsm_training.images.handed import PictureLike, as_pillow, picture_and_exif
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
