"""From picture files to examples: rows, folders and CSV files are read, every file is looked at, moved ones found."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from tsm_training.arguments import check_path, is_url
from tsm_training.data import ROLES, ExampleFiles, PictureFile, TrainingExample, check_metadata
from tsm_training.errors import (
    ImageError,
    ImageSizeMismatchError,
    InvalidArgumentError,
    ManifestError,
    TsmTrainingError,
)
from tsm_training.files import leads_inside, read_regular_file, system_reason
from tsm_training.images import PICTURE_ENDINGS, ImageLimits, inspect_image
from tsm_training.text import counted, listed, nearest_name

__all__ = [
    "USUAL_PATTERN",
    "ExampleRow",
    "Fault",
    "Listing",
    "absolute_path",
    "describe_files",
    "examples_of",
    "missing_paths",
    "read_folder",
    "read_manifest",
    "relinked",
]

ExampleRow: TypeAlias = (
    tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str]]
    | tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str], Mapping[str, Any] | None]
)
"""Paths of source, target and ground truth, and perhaps metadata."""

USUAL_PATTERN: Final = "{role}/{name}.*"
"""How a folder is laid out unless a pattern says otherwise."""

_ANY_ENDING: Final = ".*"
_FOLDERS: Final = ("sources", "targets", "truths")
_ROLE: Final = "(?:sources?|targets?|(?:ground[ _-]?)?truths?)"
"""The guide's words for the roles, as they may be written."""
_SYSTEM_NAMES: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
_SEPARATORS: Final = ",;\t"
_COLUMNS: Final = tuple(f"{role}_path" for role in ROLES)
_MAX_MANIFEST_BYTES: Final = 100_000_000
_MOST_NOTES: Final = 10


Fault: TypeAlias = tuple[str, str]
"""A file, folder or row, and what is wrong with it."""


@attrs.frozen
class Listing:
    """What a folder or a CSV file holds: each of its files, or rows, is in one of the three lists."""

    path: str
    rows: list[tuple[str | None, ExampleRow]]
    """The triples in order, and where each stands in a CSV file."""
    faults: list[Fault]
    """What should be a part of a triple, and is none."""
    others: list[Fault]
    """What lies beside the triples."""

    def examples(self, limits: ImageLimits, *, skips_faults: bool) -> tuple[list[TrainingExample], list[Fault]]:
        """Look at all pictures; return the examples, none of which is stored yet, and what is to be passed over.

        Raises:
            ManifestError: there are faults, which are not to be skipped; it names them all.
        """
        examples, errors = _looked_at([row for _place, row in self.rows], limits)
        faults = list(self.faults)
        for number, error in errors:
            place, row = self.rows[number]
            if place is None and isinstance(error, ImageError):
                faults.append((error.path, error.reason))
            else:
                faults.append((place or os.fspath(row[1]), str(error)))
        if faults and not skips_faults:
            reason = f"{counted(len(faults), 'fault')}, and nothing was added"
            raise ManifestError(self.path, reason, tuple(faults)) from (errors[0][1] if errors else None)
        return examples, faults + self.others


def examples_of(rows: Iterable[ExampleRow], limits: ImageLimits) -> list[TrainingExample]:
    """Return the examples that rows describe; none of them is stored yet.

    Raises:
        InvalidArgumentError: `rows` cannot be gone through, or a row has not three or four entries.
        TsmTrainingError: a file or metadata cannot be used; notes name its row, where there are several, and all
            that is wrong besides.
    """
    if not isinstance(rows, Iterable):
        raise InvalidArgumentError("rows", rows, "tuples (source path, target path, ground truth path[, metadata])")
    rows = list(rows)
    examples, errors = _looked_at(rows, limits)
    if not errors:
        return examples
    (number, first), *others = errors
    if len(rows) > 1:
        target = ""
        with contextlib.suppress(TypeError, LookupError):  # the row may be wrong in any way
            target = f" (target {os.fspath(rows[number][1])!r})"
        first.add_note(f"in row {number + 1} of {len(rows)}{target}; no row was added")
    for number, error in others[:_MOST_NOTES]:
        first.add_note(f"row {number + 1} is faulty too: {error}")
    raise first


def _looked_at(
    rows: Sequence[ExampleRow], limits: ImageLimits
) -> tuple[list[TrainingExample], list[tuple[int, TsmTrainingError]]]:
    """Return the examples of the sound rows, and all that is wrong with the others, with their places from 0."""
    examples: list[TrainingExample] = []
    errors: list[tuple[int, TsmTrainingError]] = []
    for number, row in enumerate(rows):
        try:
            examples.append(_example_of(row, limits))
        except ImageError as error:
            errors.append((number, error))
            paths = list(map(absolute_path, _COLUMNS, row[:3]))
            for path in paths[paths.index(error.path) + 1 :]:  # the pictures that were not reached
                try:
                    inspect_image(path, limits)
                except ImageError as another:
                    errors.append((number, another))
        except TsmTrainingError as error:
            errors.append((number, error))
    return examples, errors


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
    infos = [inspect_image(getattr(example, f"{role}_path"), limits) for role in ROLES]
    source, target, truth = ((info.height, info.width) for info in infos)
    if target != truth:
        hint = "the source has the ground truth's size: are source and target exchanged?" if source == truth else ""
        raise ImageSizeMismatchError("the target", target, "the ground truth", truth, hint)
    return ExampleFiles(*(PictureFile(i.sha256, i.num_bytes, i.width, i.height) for i in infos))


# --- folders --------------------------------------------------------------------------------------------------------


def read_folder(root: str | os.PathLike[str], pattern: str = USUAL_PATTERN) -> Listing:
    """Return the triples below a folder; see `TrainingManager.add_folder`.

    Raises:
        InvalidArgumentError: `pattern` is none.
        ManifestError: the folder cannot be read, a folder is missing or there twice, or nothing fits the pattern.
    """
    steps = _steps(pattern)
    listing = Listing(os.fspath(root), [], [], [])
    if pattern.startswith("{role}/"):
        _check_role_folders(Path(root))
    _pair(_role_files(Path(root), steps, {}, pattern, listing), listing)
    if not listing.rows and not listing.faults:
        raise ManifestError(listing.path, f"holds no pictures whose names fit the pattern {pattern!r}")
    return listing


class _RoleFile(NamedTuple):
    name: str
    role: str | None
    path: Path


def _steps(pattern: object) -> list[re.Pattern[str]]:
    """Return what the names of folders and files must be like, level by level."""
    expected = 'text with {name} and {role} once each, such as "{name}_{role}.jpg"; it may end with .* for any ending'
    if not isinstance(pattern, str) or any(pattern.count(part) != 1 for part in ("{name}", "{role}")):
        raise InvalidArgumentError("pattern", pattern, expected)
    known = {"{name}": "(?P<name>.+?)", "{role}": f"(?P<role>{_ROLE})", _ANY_ENDING: r"\.[^.]+"}
    fixed = pattern.removesuffix(_ANY_ENDING).replace("{name}", "").replace("{role}", "")
    if set(fixed) & set("{}*\\") or not all(pattern.split("/")):
        raise InvalidArgumentError("pattern", pattern, expected)
    pieces = re.split(r"(\{name\}|\{role\}|\.\*$|/)", unicodedata.normalize("NFC", pattern))
    texts = "".join(piece if piece == "/" else known.get(piece, re.escape(piece)) for piece in pieces).split("/")
    return [re.compile(text, re.IGNORECASE) for text in texts]


def _role_of(word: str) -> str | None:
    """Return the role that a folder, a part of a file's name or a column is named after."""
    word = word.lower()
    if not re.fullmatch(f"{_ROLE}(_paths?)?", word):
        return None
    return next((role for role in ("source", "target") if word.startswith(role)), "ground_truth")


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, in order of name, but for what systems and cameras keep there for themselves."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ManifestError(os.fspath(folder), f"cannot be read as a folder: {system_reason(error)}") from error
    return [path for path in paths if not path.name.startswith(".") and path.name.casefold() not in _SYSTEM_NAMES]


def _check_role_folders(root: Path) -> None:
    """Raise ManifestError unless there is one folder for each role."""
    names = [path.name for path in _entries(root) if path.is_dir() and _role_of(path.name)]
    found = {role: [name for name in names if _role_of(name) == role] for role in ROLES}
    if absent := [usual for usual, own in zip(_FOLDERS, found.values(), strict=True) if not own]:
        verb = "folder {} is" if len(absent) == 1 else "folders {} are"
        raise ManifestError(str(root), f"the {verb.format(listed(absent))} missing; expected are {listed(_FOLDERS)}")
    for own in found.values():
        if len(own) > 1:
            raise ManifestError(str(root), f"{listed(own)} are two folders for one role: keep one")


def _role_files(
    folder: Path, steps: Sequence[re.Pattern[str]], above: Mapping[str, str], pattern: str, listing: Listing
) -> Iterator[_RoleFile]:
    """Yield the files below a folder that fit the pattern, and put all others into the listing."""
    is_last = len(steps) == 1
    unread = listing.faults if is_last else listing.others
    for path in _entries(folder):
        match = steps[0].fullmatch(unicodedata.normalize("NFC", path.name))
        parts = {**above, **match.groupdict()} if match else {}
        is_picture = path.suffix.lower() in PICTURE_ENDINGS
        if path.is_dir():
            if match and not is_last:
                yield from _role_files(path, steps[1:], parts, pattern, listing)
            else:
                unread.append((str(path), "is a folder, which is not looked into"))
        elif is_last and match and (is_picture or not pattern.endswith(_ANY_ENDING)):
            yield _RoleFile(parts["name"], _role_of(parts["role"]), path)
        elif is_picture:
            unread.append((str(path), f"does not fit the pattern {pattern!r}"))
        elif folder != Path(listing.path):  # beside the folders, a list or a database is at home
            listing.others.append((str(path), "is no picture by the ending of its name"))


def _pair(files: Iterable[_RoleFile], listing: Listing) -> None:
    """Put the triples among some files into a listing, and the files that make none."""
    alike: dict[str, list[_RoleFile]] = {}
    for file in files:
        alike.setdefault(file.name.casefold(), []).append(file)
    groups = []
    for group in alike.values():
        exact = [[file for file in group if file.name == name] for name in sorted({file.name for file in group})]
        # "a" beside "A" are two names where each is complete, and one name otherwise.
        groups += exact if all(sorted(file.role or "" for file in each) == sorted(ROLES) for each in exact) else [group]
    for group in sorted(groups, key=lambda group: group[0].name):
        by_role = {role: [file for file in group if file.role == role] for role in ROLES}
        reasons = []
        for role, candidates in by_role.items():
            if len(candidates) > 1:
                names = listed([file.path.name for file in candidates])
                reasons.append(f"{names} may each be the {role.replace('_', ' ')} of the same name: keep one")
        if missing := [role.replace("_", " ") for role, candidates in by_role.items() if not candidates]:
            reasons.append(f"has no {' and no '.join(missing)} of the same name")
        if reasons:
            listing.faults.extend((str(file.path), "; ".join(reasons)) for file in group)
        else:
            source, target, truth = (by_role[role][0].path for role in ROLES)
            listing.rows.append((None, (source, target, truth, {"name": by_role["target"][0].name})))


# --- CSV files ------------------------------------------------------------------------------------------------------


def read_manifest(csv_path: str | os.PathLike[str]) -> Listing:
    """Return the triples that a CSV file lists; see `TrainingManager.add_manifest`.

    Raises:
        ManifestError: the file cannot be read, lacks a column or has it twice, or lists nothing.
    """
    name = os.fspath(csv_path)
    try:
        text = _decoded(read_regular_file(csv_path, _MAX_MANIFEST_BYTES))
        header, lines = _parsed(text)
    except UnicodeDecodeError as error:
        raise ManifestError(name, f"is no text in UTF-8 or UTF-16 ({error}): save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = system_reason(error) if isinstance(error, OSError) else str(error)
        raise ManifestError(name, f"cannot be read as CSV: {reason}") from error
    places = _places(name, header)
    listing = Listing(name, [], [], [])
    folder = Path(name).absolute().parent
    for number, (line, cells) in enumerate(lines, 1):
        place = f"row {number}, line {line}"
        empty = [header[at] for at in places.values() if not "".join(cells[at : at + 1])]
        if len(cells) != len(header):
            listing.faults.append((place, f"has {counted(len(cells), 'value')}; the header has {len(header)} columns"))
        elif empty:
            listing.faults.append((place, f"has nothing under {listed(empty)}"))
        else:
            source, target, truth = (cells[at] if is_url(cells[at]) else folder / cells[at] for at in places.values())
            metadata = {key: cells[at] for at, key in enumerate(header) if at not in places.values()}
            listing.rows.append((place, (source, target, truth, metadata)))
    if not lines:
        raise ManifestError(name, "lists no examples")
    return listing


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    # Without a mark, each second byte of what begins with plain letters is 0.
    encoding = {b"\0": "utf-16-be"}.get(content[:1]) or {b"\0": "utf-16-le"}.get(content[1:2], "utf-8-sig")
    return content.decode(encoding)


def _parsed(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the other lines that hold anything, with their numbers; blanks around values are no part.

    The separator is the one by which most roles are found in the header, and among several the one that makes the most
    columns.
    """

    def records(separator: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict, skipinitialspace=True)
        for cells in reader:
            if any(stripped := [cell.strip() for cell in cells]):
                yield reader.line_num, stripped

    def columns(separator: str) -> tuple[int, int]:
        _line, header = next(records(separator, strict=False), (0, []))
        return len({_role_of(column) for column in header} - {None}), len(header)

    lines = list(records(max(_SEPARATORS, key=columns), strict=True))
    header = lines.pop(0)[1] if lines else []
    while header and not header[-1]:
        header.pop()
    for _line, cells in lines:  # spreadsheets fill short lines up
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
    return header, lines


def _places(name: str, header: Sequence[str]) -> dict[str, int]:
    """Return the column of each role; ManifestError unless there is exactly one, and each name is there once."""
    columns = ", ".join(header) or "none"
    if len(set(header)) < len(header):
        raise ManifestError(name, f"names a column twice; its columns are {columns}")
    places = {role: [at for at, column in enumerate(header) if _role_of(column) == role] for role in ROLES}
    for found in places.values():
        if len(found) > 1:
            both = listed([header[at] for at in found])
            raise ManifestError(name, f"has several columns for one role, {both}: keep one, or rename the others")
    if missing := [column for column, found in zip(_COLUMNS, places.values(), strict=True) if not found]:
        others = [column for column in header if _role_of(column) is None]
        near = [each for column in missing if (each := nearest_name(column, others)) is not None]
        asked = f"; did you mean {listed(near)}?" if near else ""
        raise ManifestError(name, f"has no column {', '.join(missing)}{asked}; its columns are {columns}")
    return {role: at for role, (at,) in places.items()}


# --- moved files ----------------------------------------------------------------------------------------------------


def relinked(
    examples: Iterable[TrainingExample], root: str | os.PathLike[str], image_root: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the new paths of missing files that were found below `root`, by example id and field.

    They are found by their contents; where those are not known, since another application stored the example, by their
    old paths. With `image_root`, the only folder that pictures may come from, what leads out of that is passed over.
    """
    examples = list(examples)
    by_path = {example.example_id: _found_by_path(example, root, image_root) for example in examples}
    missing = {example.example_id: _missing_contents(example) for example in examples}
    wanted = {contents for known in missing.values() for contents in known.values()}
    places = _find_contents(root, wanted, image_root)
    moved = {}
    for example_id, contents_of in missing.items():
        found = {name: places[contents] for name, contents in contents_of.items() if contents in places}
        if paths := by_path[example_id] | found:
            moved[example_id] = paths
    return moved


def missing_paths(example: TrainingExample) -> dict[str, str]:
    """Return the paths of an example that lead nowhere now, or somewhere else from another working directory."""
    paths = {f"{role}_path": getattr(example, f"{role}_path") for role in ROLES}
    return {name: path for name, path in paths.items() if not (Path(path).is_absolute() and Path(path).exists())}


def _missing_contents(example: TrainingExample) -> dict[str, tuple[int, str]]:
    """Return size and digest of what was at each missing path of an example, if they are known."""
    if example.files is None:
        return {}
    pictures = {name: getattr(example.files, name.removesuffix("_path")) for name in missing_paths(example)}
    return {name: (picture.num_bytes, picture.sha256) for name, picture in pictures.items()}


def _found_by_path(example: TrainingExample, root: str | os.PathLike[str], image_root: str | None) -> dict[str, str]:
    """Return where the missing files of an example are whose contents are not known.

    They are looked for below `root` under their old paths, then without the first folder of these, and so on: all of
    them in the same way, so that files of one name in several folders are not mixed up.
    """
    missing = {} if example.files is not None else missing_paths(example)
    parts = {name: [p for p in re.split(r"[/\\]", path) if p not in {"", ".", ".."}] for name, path in missing.items()}
    for dropped in range(max(map(len, parts.values()), default=0)):
        found = {name: os.path.abspath(Path(root, *each[dropped:])) for name, each in parts.items()}  # noqa: PTH100
        is_distinct = len(set(found.values())) == len(set(missing.values()))
        if is_distinct and all(
            Path(p).is_file() and (not image_root or leads_inside(p, image_root)) for p in found.values()
        ):
            return found
    return {}


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
