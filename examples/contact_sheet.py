"""The quick start's picture: rows of pictures in cells of one size, with captions, drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tsm_training import Image

CELL = (228, 152)
"""Width and height of a cell in pixels; a picture of another shape is centred on white."""

MARGIN = 24
GAP = 12
CAPTION = 30
"""Height of a line of text, in pixels."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK = (32, 32, 32)
_GREY = (112, 112, 112)
_WHITE = 255


@dataclass(frozen=True)
class Row:
    """A line of the sheet: its title, and per cell a picture (uint8, H×W×3, BGR) and the caption under it."""

    title: str
    pictures: Sequence[Image]
    captions: Sequence[str]


def sheet_size(rows: int, columns: int) -> tuple[int, int]:
    """Return the width and height of a sheet in pixels."""
    width = 2 * MARGIN + columns * CELL[0] + (columns - 1) * GAP
    return width, 2 * MARGIN + 2 * CAPTION + rows * _row_height()


def cell_corner(row: int, column: int) -> tuple[int, int]:
    """Return the left and top edge of a cell in pixels."""
    left = MARGIN + column * (CELL[0] + GAP)
    return left, MARGIN + 2 * CAPTION + row * _row_height() + CAPTION


def _row_height() -> int:
    return CAPTION + CELL[1] + CAPTION


def draw_sheet(title: str, headings: Sequence[str], rows: Sequence[Row]) -> Image:
    """Return the sheet: uint8, H×W×3, BGR."""
    width, height = sheet_size(len(rows), len(headings))
    sheet: Image = np.full((height, width, 3), _WHITE, np.uint8)
    _write(sheet, title, (MARGIN, MARGIN + CAPTION // 2), 0.55, _GREY)
    for column, heading in enumerate(headings):
        _write(sheet, heading, (cell_corner(0, column)[0], MARGIN + CAPTION + CAPTION // 2), 0.6, _BLACK)
    for number, row in enumerate(rows):
        left, top = cell_corner(number, 0)
        _write(sheet, row.title, (left, top - CAPTION // 2), 0.55, _BLACK)
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            left, top = cell_corner(number, column)
            sheet[top : top + CELL[1], left : left + CELL[0]] = _in_cell(picture)
            _write(sheet, caption, (left, top + CELL[1] + CAPTION // 2), 0.5, _GREY)
    return sheet


def _in_cell(picture: Image) -> Image:
    height, width = picture.shape[:2]
    scale = min(CELL[0] / width, CELL[1] / height)
    size = min(CELL[0], max(1, round(width * scale))), min(CELL[1], max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    left, top = (CELL[0] - size[0]) // 2, (CELL[1] - size[1]) // 2
    cell: Image = np.full((CELL[1], CELL[0], 3), _WHITE, np.uint8)
    cell[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=method)
    return cell


def _write(sheet: Image, text: str, place: tuple[int, int], scale: float, color: tuple[int, int, int]) -> None:
    """Write text that begins at `place`, centred on it vertically."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
    (_width, height), _baseline = cv2.getTextSize(text, _FONT, scale, 1)
    cv2.putText(sheet, text, (place[0], place[1] + height // 2), _FONT, scale, color, 1, cv2.LINE_AA)
