from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tsm_training import files
from tsm_training.files import (
    FileTooLargeError,
    NotARegularFileError,
    read_regular_file,
    replace_file,
    system_reason,
)

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="this system has no permission bits")


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The name of a socket has little room."""
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", b"\r\n\x1a\x00" * 100])
def test_the_bytes_of_a_file_are_returned_as_they_are(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for name in (path, str(path), os.fsencode(path)):
        assert read_regular_file(name, 400) == content


def test_a_file_at_the_limit_is_read_and_one_above_it_refused(path: Path) -> None:
    path.write_bytes(b"12345")
    assert read_regular_file(path, 5) == b"12345"
    with pytest.raises(FileTooLargeError) as caught:
        read_regular_file(path, 4)
    assert (caught.value.size, caught.value.limit) == (5, 4)
    assert str(caught.value) == "has 5 bytes; at most 4 are allowed"


def test_a_symbolic_link_is_followed(path: Path) -> None:
    path.write_bytes(b"there")
    link = path.with_name("link")
    link.symlink_to(path)
    assert read_regular_file(link, 10) == b"there"


@needs_fifo
def test_a_pipe_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(NotARegularFileError, match="is a pipe; a regular file is expected") as caught:
        read_regular_file(path, 10)
    assert caught.value.kind == "a pipe"


def test_what_is_no_file_is_refused_as_an_os_error(tmp_path: Path) -> None:
    targets: list[Path] = [tmp_path, tmp_path / "missing"]
    if sys.platform != "win32":
        targets.append(Path("/dev/null"))
    for target in targets:
        with pytest.raises(OSError, match=r".") as caught:
            read_regular_file(target, 10)
        assert system_reason(caught.value)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (stat.S_IFDIR, "a directory"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
    ],
)
def test_the_kind_of_what_was_opened_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, kind: str
) -> None:
    path.write_bytes(b"x")
    honest = os.fstat

    class Files:
        """Tells of every open file that it is something else."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fstat(self, descriptor: int) -> os.stat_result:
            return os.stat_result((mode | 0o644, *honest(descriptor)[1:]))

    monkeypatch.setattr(files, "os", Files())
    with pytest.raises(NotARegularFileError, match=kind):
        read_regular_file(path, 10)


@pytest.mark.parametrize("change", [b"longer than before", b"s"])
def test_a_file_that_changes_its_size_while_it_is_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    path.write_bytes(b"before")
    honest = stat.S_ISREG

    def meanwhile(mode: int) -> bool:
        path.write_bytes(change)
        return honest(mode)

    monkeypatch.setattr("tsm_training.files.stat.S_ISREG", meanwhile)
    with pytest.raises(OSError, match=r"changed its size \(6 bytes\) while it was read"):
        read_regular_file(path, 100)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_a_refusal_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    before = len(names_in(Path("/proc/self/fd")))
    for name in (".", "large", "pipe", "missing") * 5:
        with pytest.raises(OSError, match=r"."):
            read_regular_file(tmp_path / name, 4)
    assert len(names_in(Path("/proc/self/fd"))) == before


def test_the_reason_of_an_error_does_not_repeat_the_path() -> None:
    assert system_reason(FileNotFoundError(2, "No such file or directory", "/secret")) == "No such file or directory"
    assert system_reason(NotARegularFileError("a pipe")) == "is a pipe; a regular file is expected"


# --- replacing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, b"", b"old contents"])
def test_a_file_is_made_or_replaced_and_nothing_left_beside_it(path: Path, old: bytes | None) -> None:
    if old is not None:
        path.write_bytes(old)
    replace_file(path, b"new\r\n\x00")
    assert path.read_bytes() == b"new\r\n\x00"
    assert names_in(path.parent) == [path.name]


@needs_modes
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_a_new_file_gets_what_the_umask_allows(path: Path, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    replace_file(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@needs_modes
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o777, 0o444])
def test_a_replaced_file_keeps_its_permissions_whatever_the_umask(
    path: Path, umask: Callable[[int], None], mode: int
) -> None:
    path.write_bytes(b"old")
    path.chmod(mode)
    umask(0o077)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@needs_modes
def test_what_replaces_a_private_file_is_private_from_the_start(
    path: Path, umask: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"old")
    path.chmod(0o600)
    umask(0)
    seen = []
    honest = os.fsync

    def looking(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_mode)
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", looking)
    replace_file(path, b"new")
    assert stat.S_IMODE(seen[0]) == 0o600


def test_the_bytes_are_on_the_disk_before_the_name_is_and_the_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    honest_sync, honest_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        honest_sync(descriptor)

    def replace(old: Any, new: Any) -> None:
        events.append("replace")
        honest_replace(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    replace_file(path, b"new")
    assert events[:2] == ["file", "replace"]
    assert events[2:] in ([], ["folder"])  # not every system lets a folder be opened


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("old", [None, b"old contents"])
def test_whatever_goes_wrong_the_old_contents_stay_and_nothing_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: BaseException, old: bytes | None
) -> None:
    if old is not None:
        path.write_bytes(old)

    def broken(*_arguments: object) -> None:
        raise fault

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(type(fault)):
        replace_file(path, b"new contents")
    assert names_in(path.parent) == ([] if old is None else [path.name])
    assert old is None or path.read_bytes() == old


def test_the_first_fault_is_reported_even_if_cleaning_up_fails_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    def stuck(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", broken)
    monkeypatch.setattr(os, "unlink", stuck)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")


def test_a_folder_that_cannot_be_made_durable_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"made", b"replaced"):
        replace_file(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert names_in(target.parent) == ["target"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARegularFileError, match="is a directory"):
        replace_file(tmp_path, b"new")
    assert names_in(tmp_path) == []


@needs_fifo
def test_a_pipe_or_a_socket_is_not_replaced_by_a_file(short_folder: Path) -> None:
    os.mkfifo(short_folder / "pipe")
    with pytest.raises(NotARegularFileError, match="is a pipe"):
        replace_file(short_folder / "pipe", b"new")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(NotARegularFileError, match="is a socket"):
            replace_file(short_folder / "socket", b"new")
    assert names_in(short_folder) == ["pipe", "socket"]


def test_a_missing_folder_or_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "file", b"new")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match=r"."):
        replace_file(loop, b"new")
    assert loop.is_symlink()


def test_a_long_name_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
