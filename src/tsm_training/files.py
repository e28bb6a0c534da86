"""Reading and replacing whole files without surprises: regular files only, capped, old or new but never torn."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["FileTooLargeError", "NotARegularFileError", "read_regular_file", "replace_file"]


class NotARegularFileError(OSError):
    """The path leads to a folder, a pipe, a device or a socket."""


class FileTooLargeError(OSError):
    """The file has more bytes than allowed; `size` and `limit` say how many."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"it has {self.size} bytes; at most {self.limit} are read"


def read_regular_file(path: str | bytes | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the contents of a regular file of at most `max_bytes` bytes.

    The file is opened without waiting, so that a pipe or a device is refused at once instead of hanging.

    Raises:
        NotARegularFileError: it is no regular file.
        FileTooLargeError: it is too large; nothing was read.
        OSError: it cannot be opened or read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotARegularFileError(f"it is {_kind(status.st_mode)}, not a regular file")
        if status.st_size > max_bytes:
            raise FileTooLargeError(status.st_size, max_bytes)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:  # it grew meanwhile, or the system states no size (as under /proc)
        raise FileTooLargeError(len(content), max_bytes)
    return content


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever looks sees the old contents or the new, whatever happens meanwhile.

    The bytes go to a new file in the same folder, which then takes the name. An existing file's permissions are kept; a
    new file gets those that the process's umask allows. A symbolic link is followed: what it points to is replaced.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder")
    mode = stat.S_IMODE(final.stat().st_mode) if final.exists() else 0o666 & ~_umask()
    descriptor, temporary = tempfile.mkstemp(prefix=f".{final.name[:40]}-", suffix=".tmp", dir=final.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # noqa: PTH101 - a plain string serves here
        os.replace(temporary, final)  # noqa: PTH105 - likewise
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - likewise
        raise
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system lets a folder be opened (Windows does not)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    # Reading the umask means setting it for an instant, in all threads; Linux tells it without that.
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    return 0o077


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, test in kinds.items() if test(mode)), "a device")
