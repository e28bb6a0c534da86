"""Reading and replacing whole files without surprises: regular files only, capped, old or new but never torn."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

__all__ = [
    "FileTooLargeError",
    "NotARegularFileError",
    "read_regular_file",
    "replace_file",
    "sync_folder",
    "system_reason",
]


class NotARegularFileError(OSError):
    """The path leads to a directory, a pipe, a device or a socket; `kind` says which."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind

    def __str__(self) -> str:
        return f"is {self.kind}; a regular file is expected"


class FileTooLargeError(OSError):
    """The file has more bytes than allowed; `size` and `limit` say how many."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"has {self.size} bytes; at most {self.limit} are allowed"


def system_reason(error: OSError) -> str:
    """Return what the system, or one of the errors above, says in a few words and without the path."""
    if isinstance(error, (NotARegularFileError, FileTooLargeError)):  # OSError takes their arguments for its own
        return str(error)
    return error.strerror or str(error)


def _flags(*names: str) -> int:
    """Combine those of the named flags of `os.open` that this system has."""
    combined = 0
    for name in names:
        combined |= getattr(os, name, 0)
    return combined


# A pipe must not make the call wait for its writer, nor a terminal become the controlling one.
_READ_FLAGS: Final = os.O_RDONLY | _flags("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY")
_NEW_FILE_MODE: Final = 0o666


def read_regular_file(path: str | bytes | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the contents of a regular file of at most `max_bytes` bytes.

    The file is opened without waiting, so that a pipe or a device is refused at once instead of hanging. What is judged
    is the open file, not its name, so that nobody can exchange it in between.

    Raises:
        NotARegularFileError: it is no regular file.
        FileTooLargeError: it is too large; nothing was read.
        OSError: it cannot be opened or read, or changes its size meanwhile.
    """
    with open(path, "rb", opener=lambda name, _flags: os.open(name, _READ_FLAGS)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotARegularFileError(_kind(status.st_mode))
        if status.st_size > max_bytes:
            raise FileTooLargeError(status.st_size, max_bytes)
        content = file.read(status.st_size + 1)
    if len(content) != status.st_size:
        raise OSError(f"changed its size ({status.st_size} bytes) while it was read")
    return content


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever looks sees the old contents or the new, whatever happens meanwhile.

    The bytes go to a new file in the same folder, which then takes the name. An existing file's permissions are kept; a
    new file gets those that the process gives to new files. A symbolic link is followed: what it points to is replaced.

    Raises:
        NotARegularFileError: there is something else than a regular file at `path`.
        OSError: the file cannot be written; what was there before is untouched.
    """
    final = Path(os.path.realpath(path))
    mode = _mode_of_existing(final)
    temporary = final.with_name(f".{secrets.token_hex(8)}.tmp")
    # The system itself applies the umask: asking for it would mean changing it for a moment, for all threads.
    descriptor = os.open(temporary, _CREATE_FLAGS, _NEW_FILE_MODE if mode is None else mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(final.parent)


def _mode_of_existing(path: Path) -> int | None:
    """Return the permission bits of the file that will be replaced, or None if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise NotARegularFileError(_kind(mode))
    return stat.S_IMODE(mode)


def sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system lets a folder be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
