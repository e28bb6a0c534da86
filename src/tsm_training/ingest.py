"""From picture files to examples: rows, folders and CSV files are read, every file is looked at, moved ones found."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from tsm_training.arguments import check_path
from tsm_training.data import ROLES, ExampleFiles, PictureFile, TrainingExample, check_metadata
from tsm_training.errors import ImageSizeMismatchError, InvalidArgumentError, ManifestError, TsmTrainingError
from tsm_training.files import leads_inside, read_regular_file, system_reason
from tsm_training.images import ImageLimits, inspect_image
from tsm_training.text import listed

__all__ = [
    "ExampleRow",
    "absolute_path",
    "describe_files",
    "examples_of",
    "read_folder",
    "read_manifest",
    "relinked",
]

ExampleRow: TypeAlias = (
    tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str]]
    | tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str], Mapping[str, Any] | None]
)
"""Paths of source, target and ground truth, and perhaps metadata."""

_FOLDERS: Final = ("sources", "targets", "truths")
_PICTURE_ENDINGS: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
_COLUMNS: Final = tuple(f"{role}_path" for role in ROLES)
_MAX_MANIFEST_BYTES: Final = 100_000_000


def examples_of(rows: Iterable[ExampleRow], limits: ImageLimits) -> list[TrainingExample]:
    """Return the examples that rows describe; none of them is stored yet.

    Raises:
        InvalidArgumentError: `rows` cannot be gone through, or a row has not three or four entries.
        TsmTrainingError: a file or metadata cannot be used; with several rows, a note names the row.
    """
    if not isinstance(rows, Iterable):
        raise InvalidArgumentError("rows", rows, "tuples (source path, target path, ground truth path[, metadata])")
    rows = list(rows)
    examples = []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_example_of(row, limits))
        except TsmTrainingError as error:
            if len(rows) > 1:
                target = ""
                with contextlib.suppress(TypeError, LookupError):  # the row may be wrong in any way
                    target = f" (target {os.fspath(row[1])!r})"
                error.add_note(f"in row {number} of {len(rows)}{target}; no row was added")
            raise
    return examples


def _example_of(row: ExampleRow, limits: ImageLimits) -> TrainingExample:
    if len(row) not in (3, 4):
        raise InvalidArgumentError(
            "row", row, "a tuple (source path, target path, ground truth path) or the same with metadata"
        )
    metadata = check_metadata(row[3] if len(row) == 4 else None)  # noqa: PLR2004 - three paths and metadata
    source, target, truth = map(absolute_path, _COLUMNS, row[:3])
    example = TrainingExample(str(uuid.uuid4()), source, target, truth, datetime.now(UTC), metadata)
    return attrs.evolve(example, files=describe_files(example, limits))


def absolute_path(argument: str, path: object) -> str:
    """Return a path as it is stored; InvalidArgumentError, which names the argument, if it cannot be."""
    text = check_path(argument, path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, text, "a path that UTF-8 can hold, since it is stored as text") from None
    return os.path.abspath(text)  # noqa: PTH100 - Path.absolute() would keep ".."


def describe_files(example: TrainingExample, limits: ImageLimits) -> ExampleFiles:
    """Look at an example's three files, and prove that they are whole.

    Raises:
        ImageError: a file is no usable picture.
        ImageSizeMismatchError: target and ground truth differ in size.
    """
    source, target, truth = (inspect_image(getattr(example, f"{role}_path"), limits) for role in ROLES)
    sizes = (target.height, target.width), (truth.height, truth.width)
    if sizes[0] != sizes[1]:
        raise ImageSizeMismatchError("the target", sizes[0], "the ground truth", sizes[1])
    return ExampleFiles(*(PictureFile(i.sha256, i.num_bytes, i.width, i.height) for i in (source, target, truth)))


# --- folders and CSV files -------------------------------------------------------------------------------------------


def read_folder(root: str | os.PathLike[str]) -> list[ExampleRow]:
    """Return the triples below a folder: files of the same name in ``sources``, ``targets`` and ``truths``.

    Raises:
        ManifestError: a folder is missing or empty, or a file has no partner, or two.
    """
    if not Path(root).is_dir():
        raise ManifestError(os.fspath(root), f"it is no folder; expected is one with {listed(_FOLDERS)} in it")
    if absent := [name for name in _FOLDERS if not (Path(root) / name).is_dir()]:
        verb = "folder {} is" if len(absent) == 1 else "folders {} are"
        reason = f"the {verb.format(listed(absent))} missing; expected are {listed(_FOLDERS)}"
        raise ManifestError(os.fspath(root), reason)
    found = [_files_by_stem(Path(root) / name) for name in _FOLDERS]
    stems = sorted(set().union(*found))
    if not stems:
        raise ManifestError(os.fspath(root), f"the folders {', '.join(_FOLDERS)} hold no pictures")
    for folder, files in zip(_FOLDERS, found, strict=True):
        missing = [stem for stem in stems if stem not in files]
        if missing:
            shown = ", ".join(repr(stem) for stem in missing[:5]) + (" …" if len(missing) > 5 else "")  # noqa: PLR2004
            raise ManifestError(os.fspath(root), f"{folder} has no file named {shown}, though another folder has")
    sources, targets, truths = found
    return [(sources[stem], targets[stem], truths[stem], {"name": stem}) for stem in stems]


def _files_by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _PICTURE_ENDINGS or path.name.startswith(".") or path.is_dir():
            continue  # cameras and systems leave files of their own beside pictures
        if path.stem in files:
            raise ManifestError(str(folder), f"{files[path.stem].name!r} and {path.name!r} have the same name")
        files[path.stem] = path
    return files


def read_manifest(csv_path: str | os.PathLike[str]) -> list[ExampleRow]:
    """Return the triples that a CSV file lists; see `TrainingManager.add_manifest`.

    Raises:
        ManifestError: the file cannot be read, or lacks a column or a value.
    """
    name = os.fspath(csv_path)
    try:
        text = read_regular_file(csv_path, _MAX_MANIFEST_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or ()
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = system_reason(error) if isinstance(error, OSError) else str(error)
        raise ManifestError(name, f"cannot be read as UTF-8 CSV: {reason}") from error
    missing = [column for column in _COLUMNS if column not in columns]
    if len(set(columns)) < len(columns):
        raise ManifestError(name, f"names a column twice; its columns are {', '.join(columns)}")
    if missing and len(columns) == 1 and ";" in columns[0]:
        raise ManifestError(name, "separates its columns by semicolons; commas are expected")
    if missing:
        raise ManifestError(name, f"has no column {', '.join(missing)}; its columns are {', '.join(columns) or 'none'}")
    if not rows:
        raise ManifestError(name, "lists no examples")
    folder = Path(name).absolute().parent
    return [_manifest_row(name, number, row, folder) for number, row in enumerate(rows, 1)]


def _manifest_row(name: str, number: int, row: dict[str | Any, str | Any], folder: Path) -> ExampleRow:
    if None in row or None in row.values():
        raise ManifestError(name, f"row {number} has not as many values as the header has columns")
    for column in _COLUMNS:
        if not row[column]:
            raise ManifestError(name, f"row {number} has nothing under {column}")
    source, target, truth = (folder / row[column] for column in _COLUMNS)
    return source, target, truth, {key: value for key, value in row.items() if key not in _COLUMNS}


# --- moved files ----------------------------------------------------------------------------------------------------


def relinked(
    examples: Iterable[TrainingExample], root: str | os.PathLike[str], image_root: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the new paths of missing files that were found below `root` by their contents, by example id and field.

    With `image_root`, the only folder that pictures may come from, what leads out of that is passed over.
    """
    missing = {example.example_id: _missing_contents(example) for example in examples}
    wanted = {contents for by_path in missing.values() for contents in by_path.values()}
    places = _find_contents(root, wanted, image_root)
    moved = {}
    for example_id, by_path in missing.items():
        paths = {name: places[contents] for name, contents in by_path.items() if contents in places}
        if paths:
            moved[example_id] = paths
    return moved


def _missing_contents(example: TrainingExample) -> dict[str, tuple[int, str]]:
    """Return size and digest of what was at each path of an example that leads nowhere now, if they are known."""
    if example.files is None:
        return {}
    pictures = {f"{role}_path": getattr(example.files, role) for role in ROLES}
    absent = {name: picture for name, picture in pictures.items() if not Path(getattr(example, name)).exists()}
    return {name: (picture.num_bytes, picture.sha256) for name, picture in absent.items()}


def _find_contents(
    root: str | os.PathLike[str], wanted: set[tuple[int, str]], image_root: str | None
) -> dict[tuple[int, str], str]:
    sizes = {size for size, _digest in wanted}
    places: dict[tuple[int, str], str] = {}
    for folder, _folders, names in os.walk(root):
        for path in (Path(folder, name) for name in sorted(names)):
            if not path.is_file() or (size := path.stat().st_size) not in sizes:
                continue
            if image_root is not None and not leads_inside(path, image_root):
                continue
            with path.open("rb") as file:
                key = (size, hashlib.file_digest(file, "sha256").hexdigest())
            if key in wanted:
                places.setdefault(key, str(path.absolute()))
    return places
