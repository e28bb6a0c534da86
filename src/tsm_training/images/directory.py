"""TIFF directories, in which EXIF blocks keep what they say too."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from tsm_training.images.header import ORIENTATIONS, UPRIGHT, HeaderError, unpack

BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
_FIELD_CODES: Final = {1: "B", 3: "H", 4: "I", 13: "I"}
"""Field types that hold unsigned whole numbers: BYTE, SHORT, LONG, IFD."""

VALUE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of a value by field type."""

_INLINE_BYTES: Final = 4
_ENTRY_BYTES: Final = 12
ORIENTATION_TAG: Final = 274


class Directory(NamedTuple):
    """One TIFF image file directory: where each field is, and where the next directory is (0: there is none)."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]]
    following: int

    def numbers(self, tag: int, default: tuple[int, ...], most: int) -> tuple[int, ...]:
        """Return the values of a field of whole numbers, at most `most` of them, or `default` if it is absent."""
        if tag not in self.entries:
            return default
        kind, count, _place = self.entries[tag]
        if kind not in _FIELD_CODES or not 1 <= count <= most:
            raise HeaderError(f"has a TIFF field {tag} of type {kind} with {count} values, which cannot be right")
        return unpack(f"{self.order}{count}{_FIELD_CODES[kind]}", self.data, self.place(tag), f"TIFF field {tag}")

    def number(self, tag: int, default: int) -> int:
        """Return the single value of a field, or `default` if it is absent."""
        return self.numbers(tag, (default,), 1)[0]

    def place(self, tag: int) -> int:
        """Return where the values of a present field begin: in the entry if they fit, else where it points."""
        kind, count, position = self.entries[tag]
        if struct.calcsize(f"={count}{_FIELD_CODES[kind]}") <= _INLINE_BYTES:
            return position
        return unpack(f"{self.order}I", self.data, position, f"TIFF field {tag}")[0]

    def content(self, tag: int, most: int) -> bytes | None:
        """Return the bytes of a present field; None if there are more than `most`, or not all are in the file."""
        kind, count, position = self.entries[tag]
        length = VALUE_BYTES.get(kind, most + 1) * count
        start = position
        if length > _INLINE_BYTES:
            (start,) = struct.unpack_from(f"{self.order}I", self.data, position)
        return self.data[start : start + length] if length <= min(most, len(self.data) - start) else None


def first_directory(data: bytes) -> Directory:
    """Return the first directory of a TIFF or an EXIF block, which has to begin with a byte-order mark."""
    (start,) = unpack(f"{BYTE_ORDERS[data[:4]]}I", data, 4, "TIFF header")
    return directory_at(data, start)


def directory_at(data: bytes, start: int) -> Directory:
    """Return the directory at a place of the file."""
    order = BYTE_ORDERS[data[:4]]
    (count,) = unpack(f"{order}H", data, start, "TIFF directory")
    entries: dict[int, tuple[int, int, int]] = {}
    for position in range(start + 2, start + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        tag, kind, values = unpack(f"{order}HHI", data, position, "TIFF directory")
        if tag in entries:
            raise HeaderError(f"has the TIFF field {tag} twice")
        entries[tag] = (kind, values, position + 8)
    (following,) = unpack(f"{order}I", data, start + 2 + count * _ENTRY_BYTES, "TIFF directory")
    return Directory(data, order, entries, following)


def exif_orientation(block: bytes) -> int:
    """Return the orientation in an EXIF block; a block that makes no sense does not spoil the picture."""
    if block[:4] not in BYTE_ORDERS:
        return UPRIGHT
    try:
        orientation = first_directory(block).number(ORIENTATION_TAG, UPRIGHT)
    except HeaderError:
        return UPRIGHT
    return orientation if orientation in ORIENTATIONS else UPRIGHT
