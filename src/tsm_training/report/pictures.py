"""The contact sheet: pictures side by side, so that people can look instead of trusting a figure."""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.analysis import Baseline
from tsm_training.arguments import check_ids, check_whole_number
from tsm_training.arrays import Image
from tsm_training.data import TrainingExample, TrainingStore
from tsm_training.engine import TrainingEngine, Validation, describe_files, own_workers
from tsm_training.ensemble import Because, Prediction, hex_colors
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    InvalidArgumentError,
    NoExamplesError,
    PredictionError,
)
from tsm_training.evaluation import best_single_worker, load_triple
from tsm_training.metrics import color_difference_map
from tsm_training.report.figures import HasEngine, completed_sessions, example_names, stored_validation, target_name
from tsm_training.report.tags import Markup, image
from tsm_training.text import percent_text
from tsm_training.workers import WorkerPool

Rank: TypeAlias = Literal["best", "worst", ""]
"""Why an example is shown; empty where it was asked for."""

Map: TypeAlias = npt.NDArray[np.float32]

DEFAULT_ROWS: Final = 3
DEFAULT_PIXELS: Final = 2**19
"""Larger pictures are shrunk before the workers see them, so that a sheet of photographs takes seconds."""

THUMBNAIL: Final = 320
"""Longest side of a picture on a page or a card, in pixels."""
_QUALITY: Final = 82
_SQUARE: Final = 20
"""Side of a square of the strip of colours, in pixels."""

HEADINGS: Final = ("source", "target", "ground truth", "ensemble", "best single worker", "colour difference")
"""The columns."""

_NO_PICTURE: Final = "no picture"

_JUDGED: Final = "(a picture of the contact sheet)"
"""Stands for a worker's id in the errors of a metric."""

_COVERED: Final = 99.0
"""Per cent of the pixels that are no further from the ground truth than the end of the colour scale."""


@attrs.frozen(eq=False, repr=False)
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
    captions: tuple[str, ...]
    """What stands under each column."""
    is_shrunk: bool
    because: Because | None = None
    """What the ensemble's picture rests on; None where no worker with a share has learned from examples."""
    reason: str = ""
    """The same in words, with names of examples."""

    @property
    def title(self) -> str:
        """The example's name, and why it is shown."""
        return f"{self.rank}: {self.name}" if self.rank else self.name

    def cells(self, top: float) -> list[tuple[str, Image | None, str]]:
        """Return heading, picture and caption of each column; `top` is the end of the scale of colour differences."""
        heat = None if self.differences is None else heat_picture(self.differences, top)
        pictures = (self.source, self.target, self.ground_truth, self.ensemble, self.single, heat)
        return list(zip(HEADINGS, pictures, self.captions, strict=True))


# --- looking --------------------------------------------------------------------------------------------------------


def contact_sheet(
    subject: HasEngine,
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
        max_pixels: Larger pictures are shrunk to this many before the workers see them, so what is seen may differ a
            little from the answer at full size; at least 256.
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
    if not isinstance(subject, HasEngine):
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
    """Return the rows of a sheet; see `contact_sheet`. Unreadable examples that were not asked for are left out.

    Raises:
        ImageError: an example that was asked for cannot be read.
    """
    engine.prepare_learner()
    look_at = functools.partial(_look_at, engine, max_pixels=max_pixels, name_of=name_of)
    if example_ids is not None:
        chosen = [engine.store.get_example(each) for each in check_ids("example_ids", example_ids)]
        names = example_names([example.example_id for example in chosen], chosen, name_of)
        return [look_at(example, names[example.example_id], "") for example in chosen]
    found: list[SheetRow] = []
    for rank, examples in _candidates(engine.store):
        names = example_names([example.example_id for example in examples], examples, name_of)
        wanted = len(found) + (rows if rank else 2 * rows)
        for example in examples:
            if len(found) == wanted:
                break
            with contextlib.suppress(ImageError, ImageSizeMismatchError):
                found.append(look_at(example, names[example.example_id], rank))
    return found


def _candidates(store: TrainingStore) -> list[tuple[Rank, list[TrainingExample]]]:
    """Return the halves of the newest validation's examples, each beginning at its end; or all examples."""
    stored = {example.example_id: example for example in store.iterate_examples()}
    for session in reversed(completed_sessions(store.iterate_sessions())):
        validation = stored_validation(session) or Validation()
        scored = sorted(
            (each["scores"][Baseline.TRAINED], each["example_id"])
            for each in validation.per_example
            if each["example_id"] in stored and Baseline.TRAINED in each["scores"]
        )
        ranked = [stored[example_id] for _score, example_id in scored]
        half = (len(ranked) + 1) // 2
        if len(ranked) > 1:
            return [("worst", ranked[:half]), ("best", ranked[half:][::-1])]
    return [("", list(stored.values()))]


def _look_at(
    engine: TrainingEngine,
    example: TrainingExample,
    name: str,
    rank: Rank,
    *,
    max_pixels: int,
    name_of: Callable[[TrainingExample], str],
) -> SheetRow:
    files = example.files or describe_files(example, engine.limits)
    triple = load_triple(example, files, engine.limits)
    source, target, truth = (
        _shrunk(picture, max_pixels) for picture in (triple.source, triple.target, triple.ground_truth)
    )
    prediction, single, single_id = _answers(engine, source, target, example)
    ensemble = None if prediction is None else prediction.image
    because = None if prediction is None else prediction.because
    score = engine.judge.scorer(truth)
    captions: list[str] = []
    differences, heat_caption = None, _NO_PICTURE
    for picture in (target, ensemble, single):
        if picture is None:
            captions.append(_NO_PICTURE)
            continue
        similarity = score(picture, _JUDGED)
        errors = color_difference_map(picture, truth)
        captions.append(f"{similarity:.3f}, ΔE {errors.mean():.1f}")
        if picture is ensemble:
            differences = errors
            heat_caption = f"mean {errors.mean():.1f}, 95 % below {np.percentile(errors, 95):.1f}"
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
        differences=differences,
        captions=("gives the colours", captions[0], "what is wanted", *captions[1:], heat_caption),
        is_shrunk=target.shape != triple.target.shape or source.shape != triple.source.shape,
        because=because,
        reason="" if because is None else _reason(engine.store, because, name_of),
    )


def _reason(store: TrainingStore, because: Because, name_of: Callable[[TrainingExample], str]) -> str:
    names = example_names(because.examples, store.get_examples(list(because.examples)), name_of)
    familiar = "" if because.familiarity is None else f" Familiarity of the look: {percent_text(because.familiarity)}."
    return f"Leans on {leaning_text(because, names)}.{familiar}"


def leaning_text(because: Because, names: Mapping[str, str]) -> str:
    """Return which examples an answer leans on, called by their names, and how much."""
    named = ", ".join(f"{names[each]} {percent_text(weight)}" for each, weight in because.examples.items())
    return f"{named or 'no example that is stored here'}; all examples together {percent_text(because.total)}"


def strip_picture(because: Because, side: int) -> Image:
    """Return the colours before, above those after, as squares of so many pixels: uint8, 2·side×12·side×3, BGR."""
    rows = np.stack([because.before, because.after])
    return rows.repeat(side, axis=0).repeat(side, axis=1)


def color_strip_element(because: Because) -> Markup:
    """Return the strip of colours as an element with a description in words."""
    pairs = zip(hex_colors(because.before), hex_colors(because.after), strict=True)
    told = ", ".join(f"{before} becomes {after}" for before, after in pairs)
    words = f"Colours of the target from dark to light, above, and what the answer makes of them, below: {told}"
    return embedded(strip_picture(because, _SQUARE), words, "png")


def _answers(
    engine: TrainingEngine, source: Image, target: Image, example: TrainingExample
) -> tuple[Prediction | None, Image | None, str | None]:
    """Return the ensemble's answer, that of the best single worker, and that worker's id."""
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
    return prediction, None if result is None else result.value, best


def _shrunk(picture: Image, max_pixels: int) -> Image:
    height, width = picture.shape[:2]
    scale = math.sqrt(max_pixels / (height * width))
    if scale >= 1.0:
        return picture
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


# --- colour differences as colours ----------------------------------------------------------------------------------


def heat_top(rows: Iterable[SheetRow]) -> float:
    """Return where the colour scale of these rows ends: 99 % of all their pixels lie below, and it is 1 at least."""
    known = [row.differences.ravel() for row in rows if row.differences is not None]
    return max(1.0, float(np.ceil(np.percentile(np.concatenate(known), _COVERED)))) if known else 1.0


def heat_scale_texts(top: float) -> tuple[str, str, str]:
    """Return what stands at the beginning, in the middle and at the end of the colour scale."""
    return "ΔE00 0", f"{top / 2:g}", f"{top:g} and more"


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
    """Return the sheet of at least one row: uint8, H×W×3, BGR."""
    left = [_MARGIN + column * (_CELL[0] + _GAP) for column in range(len(HEADINGS))]
    reason_height = _LINE if any(row.because is not None for row in rows) else 0
    first, row_height = _MARGIN + 2 * _LINE, _LINE + _CELL[1] + _LINE + reason_height + _GAP
    below = first + len(rows) * row_height
    sheet: Image = np.full((below + 2 * _LINE + _MARGIN, left[-1] + _CELL[0] + _MARGIN, 3), _PAPER, np.uint8)
    top = heat_top(rows)
    words = "Held-out examples: the ensemble's worst and best" if rows[0].rank else "Examples"
    _write(sheet, _MARGIN, _MARGIN, words, columns=4)
    for x, heading in zip(left, HEADINGS, strict=True):
        _write(sheet, x, _MARGIN + _LINE, heading, size=0.5, color=_GREY)
    for number, row in enumerate(rows):
        y = first + number * row_height
        # Where the font lacks letters of the name, the beginning of the id tells examples apart.
        is_lost = _drawable(row.title).count(_LOST) > row.title.count(_LOST)
        title = f"{row.title} ({row.example_id[:_SHORT_ID]})" if is_lost else row.title
        _write(sheet, _MARGIN, y, title, size=0.5, columns=4)
        if row.single_id is not None:
            _write(sheet, left[4], y, row.single_id, size=0.45, color=_GREY)
        bottom = y + _LINE + _CELL[1]
        for x, (_heading, picture, caption) in zip(left, row.cells(top), strict=True):
            sheet[y + _LINE : bottom, x : x + _CELL[0]] = _EMPTY if picture is None else _PAPER
            if picture is not None:
                shown = fitted(picture, *_CELL)
                sheet[bottom - shown.shape[0] : bottom, x : x + shown.shape[1]] = shown
            _write(sheet, x, bottom, caption, size=0.45, color=_GREY)
        if row.because is not None:
            _write(sheet, _MARGIN, bottom + _LINE, row.reason, size=0.45, color=_GREY, columns=4)
            strip = strip_picture(row.because, _LINE // 2 - 1)
            sheet[bottom + _LINE :, left[4] :][: strip.shape[0], : strip.shape[1]] = strip
            _write(
                sheet, left[4] + strip.shape[1] + _GAP, bottom + _LINE, "colours before, after", size=0.45, color=_GREY
            )
    words = "Under the pictures: similarity, and mean colour difference ΔE00 (about 1 can be seen)"
    _write(sheet, _MARGIN, below, words, size=0.45, color=_GREY, columns=4)
    x, width = left[4], left[5] + _CELL[0] - left[4]
    sheet[below + 4 : below + _LINE - 4, x : x + width] = heat_scale(width, _LINE - 8)
    for part, text in zip((0.0, 0.5, 1.0), heat_scale_texts(top), strict=True):
        _write(sheet, x + round(part * (width - _length(text, 0.45))), below + _LINE, text, size=0.45, color=_GREY)
    return sheet


def fitted(picture: Image, width: int, height: int) -> Image:
    """Return the picture as large as fits into a place of this width and height in pixels: uint8, H×W×3, BGR."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = min(width, max(1, round(picture.shape[1] * scale))), min(height, max(1, round(picture.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def embedded(picture: Image, description: str, kind: Literal["webp", "png"] = "webp") -> Markup:
    """Return an element that holds the picture itself, shrunk where it is larger than a thumbnail."""
    if max(picture.shape[:2]) > THUMBNAIL:
        picture = fitted(picture, THUMBNAIL, THUMBNAIL)
    quality = [cv2.IMWRITE_WEBP_QUALITY, _QUALITY] if kind == "webp" else []
    _done, encoded = cv2.imencode(f".{kind}", np.ascontiguousarray(picture), quality)
    height, width = picture.shape[:2]
    data = base64.b64encode(encoded.tobytes()).decode()
    return image(f"data:image/{kind};base64,{data}", description, width, height)


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


def _drawable(text: str) -> str:
    """Return a text in the letters of the font, which has those of ASCII only."""
    plain = unicodedata.normalize("NFKD", text.translate(_SPELT))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode()


def _length(text: str, size: float) -> int:
    (width, _height), _baseline = cv2.getTextSize(text, _FONT, size, 1)
    return int(width)
