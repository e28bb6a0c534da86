"""Pictures from strangers: kept in one folder under names of our own, and shown only as small copies."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import cv2
import numpy as np
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, ServiceUnavailable

from jpegs import jpeg
from tsm_training import TrainingExample, TrainingManager
from tsm_training.data import ROLES
from tsm_training.errors import ImageError, ImageSizeMismatchError, ImageTooLargeError
from tsm_training.images import ImageLimits, read_image

__all__ = ["UploadFolder", "add_example"]

_log = logging.getLogger(__name__)

_HEAD_BYTES: Final = 12
_THUMBNAIL_SIDE: Final = 240
_KINDS: Final = "PNG, JPEG, BMP, WebP or TIFF"


def _ending(head: bytes) -> str | None:
    """Return the ending for a file that begins so; None for one that is no picture of an accepted kind."""
    if head.startswith(b"RIFF"):
        return ".webp" if head[8:] == b"WEBP" else None
    endings = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
    return next((ending for start, ending in endings.items() if head.startswith(start)), None)


@attrs.frozen(eq=False)
class UploadFolder:
    """Where uploaded pictures are kept.

    Args:
        folder: Made if it does not exist.
        max_bytes: How large a file may be.
        max_pixels: How large width times height may be.
    """

    folder: Path
    max_bytes: int
    max_pixels: int
    limits: ImageLimits = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.made_limits(), takes_self=True)
    )
    """For the engine: these sizes, and no file from elsewhere."""

    def made_limits(self) -> ImageLimits:
        """Make the folder, and return limits that keep to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return ImageLimits(self.max_bytes, self.max_pixels, root=str(self.folder))

    @property
    def max_request_bytes(self) -> int:
        """How large a request with three pictures and metadata may be."""
        return len(ROLES) * self.max_bytes + 1_200_000

    @contextlib.contextmanager
    def storing(self, files: Mapping[str, FileStorage]) -> Generator[dict[str, Path]]:
        """Store three uploads and give their places; if what follows fails, they are removed again.

        Raises:
            BadRequest: one is missing, or is no picture at all.
            ServiceUnavailable: they cannot be written.
        """
        places: dict[str, Path] = {}
        try:
            for role in ROLES:
                places[role] = self._place(role, files.get(role))
            self._write_all(places, files)
            yield places
        except Exception:  # whatever else ends the process may come behind the commit: then the files must stay
            for place in places.values():
                place.unlink(missing_ok=True)
            raise

    def _write_all(self, places: Mapping[str, Path], files: Mapping[str, FileStorage]) -> None:
        try:
            for role, place in places.items():
                _write(place, files[role])
            _sync(self.folder)
        except OSError as error:
            _log.exception("uploads cannot be stored")
            raise ServiceUnavailable("The pictures cannot be stored at the moment; nothing was added.") from error

    def _place(self, role: str, file: FileStorage | None) -> Path:
        if file is None or not file.filename:
            raise BadRequest(f"{role} is missing: send a picture file under each of the names {', '.join(ROLES)}.")
        ending = _ending(file.stream.read(_HEAD_BYTES))
        file.stream.seek(0)
        if ending is None:
            raise BadRequest(f"{role} is no picture of an accepted kind ({_KINDS}).")
        return Path(self.limits.root or self.folder, f"{uuid.uuid4().hex}{ending}")

    def thumbnail(self, example: TrainingExample, role: str) -> bytes:
        """Return a small copy of one of an example's pictures, as a JPEG file.

        Raises:
            ImageError: the file is gone, has changed, or lies outside the folder.
        """
        known = getattr(example.files, role, None)
        picture = read_image(
            getattr(example, f"{role}_path"), self.limits, expected_sha256=None if known is None else known.sha256
        )
        height, width = picture.shape[:2]
        scale = min(1.0, _THUMBNAIL_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return jpeg(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8))


def _write(place: Path, file: FileStorage) -> None:
    """Write an upload to a new file that nobody else can read, down to the disk."""
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as stored:
        shutil.copyfileobj(file.stream, stored)
        stored.flush()
        os.fsync(stored.fileno())


def _sync(folder: Path) -> None:
    """Have the names on the disk too, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def add_example(
    manager: TrainingManager, folder: UploadFolder, files: Mapping[str, FileStorage], metadata: dict[str, Any] | None
) -> TrainingExample:
    """Store three uploads and add them as an example; where that is refused, no file stays behind.

    Raises:
        BadRequest: a picture is missing or cannot be used, or target and ground truth differ in size.
        RequestEntityTooLarge: a picture is larger than is allowed.
        ServiceUnavailable: the files cannot be written.
        TsmTrainingError: as for `TrainingManager.add_training_example`.
    """
    with folder.storing(files) as places:
        try:
            return manager.add_training_example(places["source"], places["target"], places["ground_truth"], metadata)
        except ImageTooLargeError as error:
            raise RequestEntityTooLarge(_trouble(error, places, folder)) from error
        except ImageError as error:
            raise BadRequest(_trouble(error, places, folder)) from error
        except ImageSizeMismatchError as error:
            sizes = (f"{width}×{height}" for height, width in (error.first_size, error.second_size))
            message = "target and ground_truth must have the same size in pixels, got {} and {}."
            raise BadRequest(message.format(*sizes)) from error


def _trouble(error: ImageError, places: Mapping[str, Path], folder: UploadFolder) -> str:
    """Say what is wrong with which of the pictures."""
    role = next((role for role, place in places.items() if str(place) == error.path), "a picture")
    largest = f"{folder.max_bytes:,} bytes and {folder.max_pixels:,} pixels"
    return f"{role}: {error.public_message} Accepted are {_KINDS} with 8 bits per channel, of at most {largest}."
