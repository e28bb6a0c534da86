"""Grading a folder: the ensemble's answer to every picture in it, written under the same names."""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import attrs

from tsm_training.arguments import check_path
from tsm_training.errors import ImageError, InvalidArgumentError, PredictionError
from tsm_training.images import PICTURE_ENDINGS, WRITABLE_ENDINGS
from tsm_training.progress import ProgressReporter
from tsm_training.text import counted

__all__ = ["FolderPrediction", "SkippedPicture", "grade_folder"]

_OTHER_ENDING: Final = ".jpg"
"""Of answers to pictures of a kind that is read but not written."""

_MOST_THREADS: Final = 4
_LISTED: Final = 20


@attrs.frozen
class SkippedPicture:
    """A file of a folder that got no new answer, and why."""

    path: Path
    reason: str


@attrs.frozen
class FolderPrediction:
    """What came of a folder of pictures."""

    written: tuple[Path, ...]
    """The new files, in order of name."""
    skipped: tuple[SkippedPicture, ...]
    """All others, in order of name: pictures that have an answer already, and what could not be used."""

    def __str__(self) -> str:
        lines = [f"{counted(len(self.written), 'picture')} written, {len(self.skipped)} skipped"]
        lines += [f"  {each.path.name}: {each.reason}" for each in self.skipped[:_LISTED]]
        more = len(self.skipped) - _LISTED
        return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def grade_folder(
    predict_and_save: Callable[[Path | None, Path, Path], None],
    sources: Path | None,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    reporter: ProgressReporter,
    *,
    overwrite: bool = False,
) -> FolderPrediction:
    """Write an answer to each picture of a folder that has none yet.

    Args:
        predict_and_save: Answers one target and writes it: gets its source, where each target has its own; the target;
            and the file to write. It is called in several threads.
        sources: A folder with a source of each target's name; None where all targets have the same source.
        folder: Holds the targets; subfolders are not entered.
        out: Gets the answers; made if it does not exist.
        reporter: Is told of each picture.
        overwrite: Make answers anew that are there already.

    Raises:
        InvalidArgumentError: a folder is missing, both are the same, or two pictures would have one answer.
        OSError: an answer cannot be written.
    """
    targets, skipped = _targets(Path(check_path("folder", folder)))
    out_folder = Path(check_path("out", out))
    if out_folder.exists() and not out_folder.is_dir():
        raise InvalidArgumentError("out", str(out_folder), "a folder")
    if out_folder.exists() and out_folder.samefile(folder):
        raise InvalidArgumentError("out", str(out_folder), "another folder than the one that holds the targets")
    answers = _answers(targets, out_folder)
    found = {} if sources is None else _by_name(path for path in sources.iterdir() if not path.name.startswith("."))
    work: list[tuple[Path | None, Path, Path]] = []
    for target, answer in answers.items():
        own = found.get(_name(target), [])
        if answer.exists() and not overwrite:
            skipped[target] = "has an answer already; overwrite=True makes it anew"
        elif sources is not None and len(own) != 1:
            skipped[target] = f"has {'no source' if not own else 'several sources'} of its name in {sources}"
        else:
            work.append((own[0] if own else None, target, answer))
    out_folder.mkdir(parents=True, exist_ok=True)
    skipped |= _done(predict_and_save, work, reporter)
    written = sorted(answer for _source, target, answer in work if target not in skipped)
    return FolderPrediction(tuple(written), tuple(SkippedPicture(*each) for each in sorted(skipped.items())))


def _targets(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the pictures in a folder, and why the rest of it is passed over; hidden files are not spoken of."""
    if not folder.is_dir():
        raise InvalidArgumentError("folder", str(folder), "an existing folder")
    targets, others = [], {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            others[path] = "is a folder; only the pictures directly in the given one are answered"
        elif path.suffix.lower() not in PICTURE_ENDINGS:
            others[path] = "has no ending of a picture"
        else:
            targets.append(path)
    return targets, others


def _answers(targets: Iterable[Path], out: Path) -> dict[Path, Path]:
    """Return the file that each target's answer is written to."""
    answers: dict[Path, Path] = {}
    for target in targets:
        is_writable = target.suffix.lower() in WRITABLE_ENDINGS
        answers[target] = out / (target.name if is_writable else f"{target.stem}{_OTHER_ENDING}")
    alike: dict[str, Path] = {}  # not every system tells names apart that differ in case
    for target, answer in answers.items():
        other = alike.setdefault(_folded(answer.name), target)
        if other is not target:
            raise InvalidArgumentError(
                "folder",
                f"{other.name}, {target.name}",
                f"pictures whose answers have different names, not both {answer.name}",
            )
    return answers


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _name(path: Path) -> str:
    return _folded(path.stem)


def _by_name(paths: Iterable[Path]) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(paths):
        if path.suffix.lower() in PICTURE_ENDINGS:
            found.setdefault(_name(path), []).append(path)
    return found


def _done(
    predict_and_save: Callable[[Path | None, Path, Path], None],
    work: list[tuple[Path | None, Path, Path]],
    reporter: ProgressReporter,
) -> dict[Path, str]:
    """Do the work in a few threads, and return why targets got no answer; few pictures are in memory at a time."""
    failed: dict[Path, str] = {}
    waiting, running = iter(work), dict[Future[None], Path]()
    started, number = time.monotonic(), 0
    threads = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), "tsm-predict")
    try:
        while True:
            for each in waiting:
                running[threads.submit(predict_and_save, *each)] = each[1]
                if len(running) > _MOST_THREADS:
                    break
            if not running:
                return failed
            reporter.poll()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                target = running.pop(future)
                try:
                    future.result()
                except (ImageError, PredictionError) as error:
                    failed[target] = str(error)
                number += 1
                reporter.tell("predicting", number, len(work), started)
    finally:
        threads.shutdown(cancel_futures=True)  # what has begun is written whole
