"""Reading and replacing whole files without surprises: regular files only, capped, old or new but never torn.

A process that is killed while it replaces a file may leave a hidden one beside it, named ``.``, sixteen hexadecimal
digits and ``.tmp``. It is never read, and can be deleted when no process is writing there. That is not done here, for
nobody can tell it from one that is being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

__all__ = [
    "FileTooLargeError",
    "NotARegularFileError",
    "OutsideRootError",
    "leads_inside",
    "read_regular_file",
    "replace_file",
    "sync_folder",
    "system_reason",
]


class NotARegularFileError(OSError):
    """The path leads to a directory, a pipe, a device or a socket."""


class FileTooLargeError(OSError):
    """The file has more bytes than allowed."""


class OutsideRootError(OSError):
    """The path leads out of the folder that it must stay in."""


def system_reason(error: OSError) -> str:
    """Return what the system, or one of the errors above, says in a few words and without the path."""
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
# To pass through a folder it need not be readable (O_PATH); a link is no folder (O_NOFOLLOW).
_FOLDER_FLAGS: Final = _flags("O_PATH", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")


def read_regular_file(path: str | bytes | os.PathLike[str], max_bytes: int, root: str | None = None) -> bytes:
    """Return the contents of a regular file of at most `max_bytes` bytes.

    The file is opened without waiting, so that a pipe or a device is refused at once instead of hanging. What is judged
    is the open file, not its name, so that nobody can exchange it in between.

    Args:
        path: Of the file; links are followed.
        max_bytes: How large it may be.
        root: The folder that the path, with all links followed, must not leave; absolute and itself free of links.

    Raises:
        OutsideRootError: the path leads out of `root`, whether there is anything or not.
        NotARegularFileError: it is no regular file.
        FileTooLargeError: it is too large; nothing was read.
        OSError: it cannot be opened or read, or changes its size meanwhile.
    """
    with open(path, "rb", opener=lambda name, _flags: _opened(name, root)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(status.st_mode)
        if status.st_size > max_bytes:
            raise FileTooLargeError(errno.EFBIG, f"has {status.st_size} bytes; at most {max_bytes} are allowed")
        content = file.read(status.st_size + 1)
    if len(content) != status.st_size:
        raise OSError(f"changed its size ({status.st_size} bytes) while it was read")
    return content


def leads_inside(path: str | bytes | os.PathLike[str], root: str) -> bool:
    """Tell whether a path, with all links followed, stays inside a folder (absolute and itself free of links)."""
    return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(root)


def _opened(path: str, root: str | None) -> int:
    """Open a file for reading and return its descriptor.

    Below `root` that is done folder by folder, through no link, so that a link that is put there after the place was
    found to be inside is not followed. Windows, which opens nothing below an open folder, would follow it.
    """
    if root is None:
        return os.open(path, _READ_FLAGS)
    place = os.path.realpath(os.fsdecode(path))
    if not Path(place).is_relative_to(root):
        raise OutsideRootError(errno.EACCES, f"leads out of the folder {root!r}, to {place!r}")
    if os.open not in os.supports_dir_fd:
        return os.open(place, _READ_FLAGS)
    *folders, name = Path(place).relative_to(root).parts or (".",)
    folder = os.open(root, _FOLDER_FLAGS)
    try:
        for below in folders:
            above, folder = folder, os.open(below, _FOLDER_FLAGS, dir_fd=folder)
            os.close(above)
        return os.open(name, _READ_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever looks sees the old contents or the new, whatever happens meanwhile.

    The bytes go to a new file in the same folder, which then takes the name. An existing file's permissions are kept; a
    new file gets those that the process gives to new files. A symbolic link is followed: what it points to is replaced.

    Raises:
        NotARegularFileError: there is something else than a regular file at `path`.
        OSError: the file cannot be written; what was there before is untouched. Only if it is the folder that cannot
            be written to the disk in the end (see `sync_folder`), the new contents are there already.
    """
    final = Path(os.path.realpath(path))
    mode: int | None = None  # of the file that will be replaced, if there is one
    with contextlib.suppress(FileNotFoundError):
        status = final.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(status.st_mode)
        mode = stat.S_IMODE(status.st_mode)
    temporary = final.with_name(f".{os.urandom(8).hex()}.tmp")

    def created(name: str, _flags: int) -> int:
        # The system itself applies the umask: asking for it would mean changing it for a moment, for all threads.
        return os.open(name, _CREATE_FLAGS, _NEW_FILE_MODE if mode is None else mode)

    # Created inside the block: Ctrl-C may come just behind it.
    try:
        with open(temporary, "wb", opener=created) as file:
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


_NOT_OPENED: Final = (errno.EACCES, errno.EPERM, errno.EISDIR)
_NOT_SUPPORTED: Final = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable, where the system can do that.

    Windows opens no folder, a folder may be writable but not readable, and some file systems know no such request: that
    is as good as it gets there, and no fault.

    Raises:
        OSError: the system tried and failed, so the new name may not outlive a power cut.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | _flags("O_DIRECTORY", "O_CLOEXEC"))
    except OSError as error:
        if error.errno in _NOT_OPENED:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _not_regular(mode: int) -> NotARegularFileError:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    return NotARegularFileError(number, f"is {kind}; a regular file is expected")
