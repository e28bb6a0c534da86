"""Pictures from strangers: kept in one folder under names of our own, and shown only as small copies."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import cv2
import numpy as np
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, ServiceUnavailable

from jpegs import jpeg
from tsm_training import TrainingExample
from tsm_training.data import ROLES
from tsm_training.errors import ImageError, ImageSizeMismatchError, ImageTooLargeError
from tsm_training.images import ImageLimits, read_image

__all__ = ["UploadFolder", "said_of"]

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
    """Where uploaded pictures are kept, each content once.

    Args:
        folder: Made if it does not exist.
        max_bytes: How large a file may be.
        max_pixels: How large width times height may be.
        quota: How many bytes all files together may have.
        others: Folders of pictures that were not uploaded, but may be read and shown too.
    """

    folder: Path
    max_bytes: int
    max_pixels: int
    quota: int
    others: Sequence[str | os.PathLike[str]] = ()
    limits: ImageLimits = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.made_limits(), takes_self=True)
    )
    """For the engine: these sizes, and no file from elsewhere."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    """Held while files come or go: one that is there already must not go before the example that needs it is stored."""

    def made_limits(self) -> ImageLimits:
        """Make the folder, and return limits that keep to it and the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return ImageLimits(self.max_bytes, self.max_pixels, root=str(self.folder), more_roots=tuple(self.others))

    @property
    def max_request_bytes(self) -> int:
        """How large a request with three pictures and metadata may be."""
        return len(ROLES) * self.max_bytes + 1_200_000

    @contextlib.contextmanager
    def storing(
        self, files: Mapping[str, FileStorage], roles: Sequence[str] = ROLES, *, keep: bool = True
    ) -> Generator[dict[str, Path]]:
        """Store uploads and give their places; if what follows fails, or they are not to be kept, they are removed.

        A file whose content is there already is not stored again, nor removed.

        Raises:
            BadRequest: one is missing, or is no picture at all.
            InsufficientStorage: they would not fit into the quota.
            ServiceUnavailable: they cannot be written.
        """
        contents = {role: _content(role, files.get(role), roles) for role in roles}
        with self._lock:
            places = {role: Path(self.limits.root or self.folder, name) for role, (name, _file) in contents.items()}
            new = {place: contents[role][1] for role, place in places.items() if not place.exists()}
            try:
                self._write_all(new)
                yield places
            except Exception:  # whatever else ends the process may come behind the commit: then the files must stay
                _remove(new)
                raise
            if not keep:
                _remove(new)

    def forget(self, example: TrainingExample, others: Iterable[TrainingExample]) -> None:
        """Remove an example's uploads that no other example has."""
        with self._lock:
            used = {getattr(each, f"{role}_path") for each in others for role in ROLES}
            gone = {getattr(example, f"{role}_path") for role in ROLES} - used
            _remove(path for path in map(Path, gone) if _leads_inside(path, str(self.limits.root)))

    def is_shown(self, example: TrainingExample) -> bool:
        """Tell whether all pictures of an example lie where pictures may come from."""
        roots = (str(self.limits.root), *self.limits.more_roots)
        return all(any(_leads_inside(getattr(example, f"{role}_path"), root) for root in roots) for role in ROLES)

    def _write_all(self, new: Mapping[Path, FileStorage]) -> None:
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        if size + sum(file.stream.seek(0, os.SEEK_END) for file in new.values()) > self.quota:
            raise InsufficientStorage(f"The pictures here may have {self.quota:,} bytes in all; there is no room left.")
        try:
            for place, file in new.items():
                file.stream.seek(0)
                _write(place, file)
            _sync(self.folder)
        except OSError as error:
            _log.exception("uploads cannot be stored")
            raise ServiceUnavailable("The pictures cannot be stored at the moment; nothing was added.") from error

    def thumbnail(self, example: TrainingExample, role: str) -> bytes:
        """Return a small copy of one of an example's pictures, as a JPEG file.

        Raises:
            ImageError: the file is gone, has changed, or lies outside the folders.
        """
        known = getattr(example.files, role, None)
        picture = read_image(
            getattr(example, f"{role}_path"), self.limits, expected_sha256=None if known is None else known.sha256
        )
        height, width = picture.shape[:2]
        scale = min(1.0, _THUMBNAIL_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return jpeg(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8))


def _leads_inside(path: str | Path, root: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)


class InsufficientStorage(HTTPException):
    """There is no room left."""

    code = 507


def _content(role: str, file: FileStorage | None, roles: Sequence[str]) -> tuple[str, FileStorage]:
    """Return the name that a file of this content has, and the upload."""
    if file is None or not file.filename:
        raise BadRequest(f"{role} is missing: send a picture file under each of the names {', '.join(roles)}.")
    ending = _ending(file.stream.read(_HEAD_BYTES))
    if ending is None:
        raise BadRequest(f"{role} is no picture of an accepted kind ({_KINDS}).")
    file.stream.seek(0)
    return f"{hashlib.blake2b(file.stream.read(), digest_size=16).hexdigest()}{ending}", file


def _remove(places: Iterable[Path]) -> None:
    for place in places:
        place.unlink(missing_ok=True)


def _write(place: Path, file: FileStorage) -> None:
    """Write an upload to a new file that nobody else can read, down to the disk; it has its name when it is whole."""
    part = place.with_name(f"{uuid.uuid4().hex}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as stored:
            shutil.copyfileobj(file.stream, stored)
            stored.flush()
            os.fsync(stored.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have the names on the disk too, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def said_of(places: Mapping[str, Path], folder: UploadFolder) -> Generator[None]:
    """Say of which upload an error is.

    Raises:
        BadRequest: a picture cannot be used, or target and ground truth differ in size.
        RequestEntityTooLarge: a picture is larger than is allowed.
    """
    try:
        yield
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
