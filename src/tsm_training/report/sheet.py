"""The contact sheet: pictures side by side, so that somebody can look instead of believing a figure."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arguments import check_ids, check_whole_number
from tsm_training.arrays import Image
from tsm_training.data import TrainingExample, TrainingStore
from tsm_training.engine import TrainingEngine, describe_files, own_workers
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    InvalidArgumentError,
    NoExamplesError,
    PredictionError,
)
from tsm_training.evaluation.contenders import best_single_worker
from tsm_training.evaluation.tasks import checked_similarity, load_triple
from tsm_training.metrics import color_difference_map
from tsm_training.views import Trained, completed_sessions, example_names, target_name
from tsm_training.workers import WorkerPool

__all__ = ["Rank", "SheetRow", "contact_sheet", "draw_sheet", "heat_picture", "heat_top", "look_at_examples"]

Rank: TypeAlias = Literal["best", "worst", ""]
"""Why an example is shown; empty where it was asked for."""

Map: TypeAlias = npt.NDArray[np.float32]

DEFAULT_ROWS: Final = 3
DEFAULT_PIXELS: Final = 2**19
"""Larger pictures are shrunk before the workers see them, so that a sheet of photographs takes seconds."""

HEADINGS: Final = ("source", "target", "ground truth", "ensemble", "best single worker", "colour difference")
"""The columns."""

_JUDGED: Final = "(a picture of the contact sheet)"
"""Stands for a worker's id in the errors of a metric."""

_TOPS: Final = (2.0, 5.0, 10.0, 20.0, 50.0)
_COVERED: Final = 98.0
"""So many percent of the pixels are no further from the ground truth than the end of the colour scale."""


@attrs.frozen(eq=False)
class SheetRow:
    """One example: all pictures uint8, H×W×3, BGR."""

    example_id: str
    name: str
    rank: Rank
    source: Image
    target: Image
    ground_truth: Image
    ensemble: Image | None
    """None where no worker gave a picture."""
    single: Image | None
    """None where the best single worker gave none."""
    single_id: str | None
    differences: Map | None
    """ΔE00 between the ensemble's picture and the ground truth at each pixel: float32, H×W."""
    scores: tuple[float | None, ...]
    """Similarity to the ground truth of target, ensemble and best single worker under the engine's metric."""
    color_errors: tuple[float | None, ...]
    """Mean ΔE00 of the same three."""
    is_shrunk: bool

    @property
    def title(self) -> str:
        """The example's name, and why it is shown."""
        return f"{self.rank}: {self.name}" if self.rank else self.name

    @property
    def cells(self) -> list[tuple[str, Image | None, str]]:
        """Heading, picture and caption of each column but the last."""
        pictures = (self.source, self.target, self.ground_truth, self.ensemble, self.single)
        captions = ["gives the colours", self._caption(0), "what is wanted", self._caption(1), self._caption(2)]
        return list(zip(HEADINGS, pictures, captions, strict=False))

    def _caption(self, place: int) -> str:
        score, error = self.scores[place], self.color_errors[place]
        return "no picture" if score is None or error is None else f"{score:.3f}, ΔE {error:.1f}"

    @property
    def heat_caption(self) -> str:
        """How far the ensemble's picture is from the ground truth."""
        if self.differences is None:
            return "no picture"
        high = float(np.percentile(self.differences, 95))
        return f"mean {self.color_errors[1] or 0.0:.1f}, 95 % below {high:.1f}"


# --- looking --------------------------------------------------------------------------------------------------------


def contact_sheet(
    subject: Trained,
    example_ids: Sequence[str] | None = None,
    *,
    rows: int = DEFAULT_ROWS,
    max_pixels: int = DEFAULT_PIXELS,
    name_of: Callable[[TrainingExample], str] = target_name,
) -> Image:
    """Return a picture of examples side by side: source, target, truth, ensemble, best single worker, and a heat map.

    The font has letters for ASCII only: accents are left out, and a name in another script is followed by the
    beginning of the example's id. The report's page writes every name.

    The heat map shows where the ensemble's picture differs from the ground truth, as ΔE00, with its scale below. Under
    the pictures stand the engine's similarity and the mean ΔE00.

    Args:
        subject: A `TrainingManager`. Its workers are run on the examples shown.
        example_ids: Which examples; unless given, those of the newest validation on which the ensemble was worst and
            best, or any where nothing was validated.
        rows: How many of the worst and how many of the best, at least 1.
        max_pixels: Larger pictures are shrunk to so many pixels before the workers see them, so what is seen may differ
            a little from the answer at full size; at least 256.
        name_of: What stands above an example; unless given, the name of its target's file.

    Returns:
        uint8, H×W×3, BGR.

    Raises:
        InvalidArgumentError: an argument is out of its range.
        ExampleNotFoundError: an id is not stored.
        NoExamplesError: there is no example whose pictures can be read.
        NoWorkersError: the pool is ours and empty.
        TsmTrainingError: as for `TrainingManager.predict`.
    """
    if not isinstance(subject, Trained):
        raise InvalidArgumentError("subject", subject, "a TrainingManager")
    rows = check_whole_number("rows", rows)
    max_pixels = check_whole_number("max_pixels", max_pixels, 256)
    if not callable(name_of):
        raise InvalidArgumentError("name_of", name_of, "a function that names an example")
    looked = look_at_examples(subject.training_engine, example_ids, rows, max_pixels, name_of)
    if not looked:
        raise NoExamplesError
    return draw_sheet(looked)


def look_at_examples(
    engine: TrainingEngine,
    example_ids: Sequence[str] | None,
    rows: int = DEFAULT_ROWS,
    max_pixels: int = DEFAULT_PIXELS,
    name_of: Callable[[TrainingExample], str] = target_name,
) -> list[SheetRow]:
    """Return the rows of a sheet; see `contact_sheet`. One that was not asked for by id gives way if it is unreadable.

    Raises:
        ImageError: an example that was asked for cannot be read.
    """
    engine.prepare_learner()
    look = _Look(engine, max_pixels)
    if example_ids is not None:
        chosen = [engine.store.get_example(each) for each in check_ids("example_ids", example_ids)]
        names = example_names([example.example_id for example in chosen], chosen, name_of)
        return [look.at(example, names[example.example_id], "") for example in chosen]
    found: list[SheetRow] = []
    for rank, examples in _candidates(engine.store):
        names = example_names([example.example_id for example in examples], examples, name_of)
        readable = (row for each in examples if (row := look.at_readable(each, names[each.example_id], rank)))
        found += itertools.islice(readable, min(rows if rank else 2 * rows, len(examples)))
    return found


def _candidates(store: TrainingStore) -> list[tuple[Rank, list[TrainingExample]]]:
    """Return the halves of the newest validation's examples, each beginning at its end; or all examples."""
    stored = {example.example_id: example for example in store.iterate_examples()}
    for session in reversed(completed_sessions(store.iterate_sessions())):
        judged = (session.validation or {}).get("per_example", [])
        scored = sorted(
            (each["scores"]["trained"], each["example_id"])
            for each in judged
            if each["example_id"] in stored and "trained" in each["scores"]
        )
        ranked = [stored[example_id] for _score, example_id in scored]
        half = (len(ranked) + 1) // 2
        if len(ranked) > 1:
            return [("worst", ranked[:half]), ("best", ranked[half:][::-1])]
    return [("", list(stored.values()))]


@attrs.frozen(eq=False)
class _Look:
    """Looks at examples with what was learned."""

    engine: TrainingEngine
    max_pixels: int

    def at_readable(self, example: TrainingExample, name: str, rank: Rank) -> SheetRow | None:
        try:
            return self.at(example, name, rank)
        except (ImageError, ImageSizeMismatchError):
            return None

    def at(self, example: TrainingExample, name: str, rank: Rank) -> SheetRow:
        files = example.files or describe_files(example, self.engine.limits)
        triple = load_triple(example, files, self.engine.limits)
        source, target, truth = (
            _shrunk(picture, self.max_pixels) for picture in (triple.source, triple.target, triple.ground_truth)
        )
        ensemble, single, single_id = self._answers(source, target, example)
        score = self.engine.scorer(truth)

        def similarity(picture: Image) -> float:
            return checked_similarity(lambda: score(picture), self.engine.metric_name, _JUDGED)

        answers = (target, ensemble, single)
        maps = [None if picture is None else color_difference_map(picture, truth) for picture in answers]
        return SheetRow(
            example_id=example.example_id,
            name=name,
            rank=rank,
            source=source,
            target=target,
            ground_truth=truth,
            ensemble=ensemble,
            single=single,
            single_id=single_id,
            differences=maps[1],
            scores=tuple(None if picture is None else similarity(picture) for picture in answers),
            color_errors=tuple(None if each is None else float(each.mean()) for each in maps),
            is_shrunk=target.shape != triple.target.shape or source.shape != triple.source.shape,
        )

    def _answers(
        self, source: Image, target: Image, example: TrainingExample
    ) -> tuple[Image | None, Image | None, str | None]:
        """Return the ensemble's picture, that of the best single worker, and that worker's id."""
        engine = self.engine
        workers = own_workers(engine.worker_pool)
        statistics = engine.weight_learner.get_all_statistics()
        ids = list(statistics) if workers is None else [worker.worker_id for worker in workers]
        best = best_single_worker(statistics, ids)
        try:
            prediction = engine.predict_example(example, source, target)
        except PredictionError:
            return None, None, best
        result = prediction.results.get(best) if best is not None else None
        is_fixed = best not in engine.trainables.workers  # a fitted one without a share has no picture here
        if result is None and best is not None and is_fixed and isinstance(engine.worker_pool, WorkerPool):
            (result,) = engine.worker_pool.execute({"source": source, "target": target}, [best])
        return prediction.image, None if result is None else result.value, best


def _shrunk(picture: Image, max_pixels: int) -> Image:
    height, width = picture.shape[:2]
    scale = math.sqrt(max_pixels / (height * width))
    if scale >= 1.0:
        return picture
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


# --- colour differences as colours ----------------------------------------------------------------------------------


def heat_top(rows: Iterable[SheetRow]) -> float:
    """Return where the colour scale of these rows ends: a round ΔE00 that nearly all of their pixels stay below."""
    highs = [float(np.percentile(row.differences, _COVERED)) for row in rows if row.differences is not None]
    return next((top for top in _TOPS if top >= max(highs, default=0.0)), _TOPS[-1])


def heat_picture(differences: Map, top: float) -> Image:
    """Return ΔE00 (float32, H×W) as colours from black (0) to pale yellow (`top` and more): uint8, H×W×3, BGR."""
    levels = np.rint(np.clip(differences / top, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)


def heat_scale(width: int, height: int) -> Image:
    """Return the colours of `heat_picture` from 0 on the left to its end on the right: uint8, H×W×3, BGR."""
    ramp = np.tile(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, 1))
    return heat_picture(ramp, 1.0)


# --- drawing --------------------------------------------------------------------------------------------------------

_CELL: Final = (224, 168)
"""Width and height of a picture's place, in pixels."""
_GAP: Final = 14
_MARGIN: Final = 22
_LINE: Final = 24
_LOST: Final = "?"
_SPELT: Final = str.maketrans(
    {"Δ": "d", "–": "-", "—": "-", "ß": "ss", "æ": "ae", "Æ": "Ae", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)
_SHORT_ID: Final = 8
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_INK: Final = (34, 34, 34)
_GREY: Final = (99, 99, 95)
_PAPER: Final = (255, 255, 255)
_EMPTY: Final = (232, 232, 230)


def draw_sheet(rows: Sequence[SheetRow]) -> Image:
    """Return the sheet: uint8, H×W×3, BGR.

    Args:
        rows: At least one.
    """
    columns = len(HEADINGS)
    row_height = _LINE + _CELL[1] + _LINE + _GAP
    width = 2 * _MARGIN + columns * _CELL[0] + (columns - 1) * _GAP
    height = 2 * _MARGIN + 2 * _LINE + len(rows) * row_height + 2 * _LINE
    sheet: Image = np.full((height, width, 3), _PAPER, np.uint8)
    top = heat_top(rows)
    words = "Held-out examples: the ensemble's worst and best" if rows[0].rank else "Examples"
    _write(sheet, _MARGIN, _MARGIN, words, columns=4)
    for column, heading in enumerate(HEADINGS):
        _write(sheet, _left(column), _MARGIN + _LINE, heading, size=0.5, color=_GREY)
    for number, row in enumerate(rows):
        _draw_row(sheet, _MARGIN + 2 * _LINE + number * row_height, row, top)
    _draw_scale(sheet, height - _MARGIN - 2 * _LINE, top)
    return sheet


def _left(column: int) -> int:
    return _MARGIN + column * (_CELL[0] + _GAP)


def _draw_row(sheet: Image, y: int, row: SheetRow, top: float) -> None:
    _write(sheet, _MARGIN, y, _title(row), size=0.5, columns=4)
    heat = None if row.differences is None else heat_picture(row.differences, top)
    cells = [*((picture, caption) for _heading, picture, caption in row.cells), (heat, row.heat_caption)]
    for column, (picture, caption) in enumerate(cells):
        _place(sheet, _left(column), y + _LINE, picture)
        _write(sheet, _left(column), y + _LINE + _CELL[1], caption, size=0.45, color=_GREY)
    if row.single_id is not None:
        _write(sheet, _left(4), y, row.single_id, size=0.45, color=_GREY)


def _place(sheet: Image, x: int, y: int, picture: Image | None) -> None:
    width, height = _CELL
    if picture is None:
        sheet[y : y + height, x : x + width] = _EMPTY
        return
    shown = fitted(picture, width, height)
    top = y + height - shown.shape[0]
    sheet[top : y + height, x : x + shown.shape[1]] = shown


def fitted(picture: Image, width: int, height: int) -> Image:
    """Return the picture as large as fits into so many pixels: uint8, H×W×3, BGR."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = min(width, max(1, round(picture.shape[1] * scale))), min(height, max(1, round(picture.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _draw_scale(sheet: Image, y: int, top: float) -> None:
    x, width = _left(4), _left(6) - _GAP - _left(4)
    words = "Under the pictures: similarity, and mean colour difference ΔE00 (about 1 can be seen)"
    _write(sheet, _MARGIN, y, words, size=0.45, color=_GREY, columns=4)
    sheet[y + 4 : y + _LINE - 4, x : x + width] = heat_scale(width, _LINE - 8)
    for part, text in ((0.0, "0"), (0.5, f"{top / 2:g}"), (1.0, f"{top:g} and more")):
        _write(sheet, x + round(part * (width - _length(text, 0.45))), y + _LINE, text, size=0.45, color=_GREY)


def _write(
    sheet: Image, x: int, y: int, text: str, *, size: float = 0.6, color: tuple[int, int, int] = _INK, columns: int = 1
) -> None:
    """Write a line of text into the `_LINE` pixels below y; what is too long for its columns loses its middle."""
    text = _drawable(text)
    place = columns * (_CELL[0] + _GAP) - _GAP
    shown, kept = text, len(text)
    while _length(shown, size) > place and kept > 1:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    cv2.putText(sheet, shown, (x, y + round(0.72 * _LINE)), _FONT, size, color, 1, cv2.LINE_AA)


def _title(row: SheetRow) -> str:
    """Return what stands above a row, with the beginning of the id where the font lacks letters of the name."""
    is_lost = _drawable(row.title).count(_LOST) > row.title.count(_LOST)
    return f"{row.title} ({row.example_id[:_SHORT_ID]})" if is_lost else row.title


def _drawable(text: str) -> str:
    """Return a text in the letters of the font, which has those of ASCII only."""
    plain = unicodedata.normalize("NFKD", text.translate(_SPELT))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode()


def _length(text: str, size: float) -> int:
    (width, _height), _baseline = cv2.getTextSize(text, _FONT, size, 1)
    return int(width)
