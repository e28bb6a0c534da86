from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tsm_training import files
from tsm_training.files import (
    FileTooLargeError,
    NotARegularFileError,
    OutsideRootError,
    leads_inside,
    read_regular_file,
    replace_file,
    sync_folder,
    system_reason,
)

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="this system has no permission bits")


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def open_files() -> int:
    """Count this process's open files, where the system lists them."""
    listed = Path("/proc/self/fd")
    return len(names_in(listed)) if listed.is_dir() else 0


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
    assert caught.value.errno == errno.EFBIG
    assert system_reason(caught.value) == "has 5 bytes; at most 4 are allowed"


def test_a_symbolic_link_is_followed(path: Path) -> None:
    path.write_bytes(b"there")
    link = path.with_name("link")
    link.symlink_to(path)
    assert read_regular_file(link, 10) == b"there"


@needs_fifo
def test_a_pipe_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(NotARegularFileError, match="is a pipe"):
        read_regular_file(path, 10)


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
    with pytest.raises(NotARegularFileError) as caught:
        read_regular_file(path, 10)
    assert system_reason(caught.value) == f"is {kind}; a regular file is expected"
    assert caught.value.errno == (errno.EISDIR if kind == "a directory" else errno.EINVAL)


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


def test_a_refusal_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    before = open_files()
    for name in (".", "large", "pipe", "missing") * 5:
        with pytest.raises(OSError, match=r"."):
            read_regular_file(tmp_path / name, 4)
    assert open_files() == before


def test_the_reason_of_an_error_does_not_repeat_the_path() -> None:
    assert system_reason(FileNotFoundError(2, "No such file or directory", "/secret")) == "No such file or directory"
    assert system_reason(OSError("changed its size")) == "changed its size"


def test_the_folder_that_must_not_be_left_is_itself_no_file(tmp_path: Path) -> None:
    root = os.path.realpath(tmp_path)
    for name in (root, f"{root}/."):
        with pytest.raises(IsADirectoryError):
            read_regular_file(name, 10, root)


def test_a_new_file_is_hidden_under_a_name_that_nobody_else_chooses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    honest = os.replace

    def replace(old: Any, new: Any) -> None:
        names.append(Path(old).name)
        honest(old, new)

    monkeypatch.setattr(os, "replace", replace)
    for _ in range(3):
        replace_file(path, b"new")
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"\.[0-9a-f]{16}\.tmp", name) for name in names)


# --- reading below a folder only ------------------------------------------------------------------------------------

EITHER_WAY = pytest.mark.parametrize("below", [True, False], ids=["folder by folder", "as on Windows"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder ``root`` with files and links in it, and one beside it that nobody may read from."""
    for folder in ("root/sub/deeper", "outside", "root-and-more"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("root/a", "root/sub/deeper/b", "outside/secret", "root-and-more/secret"):
        (tmp_path / name).write_bytes(name.encode())
    links = {
        "root/to-b": "sub/deeper/b",
        "root/sub/up": "../sub",
        "root/absolute": str(tmp_path / "root" / "a"),
        "root/out": "../outside/secret",
        "root/out-absolute": str(tmp_path / "outside" / "secret"),
        "root/out-folder": "../outside",
        "root/twice": "out-folder",
        "root/nothing-out": "../outside/missing",
        "root/loop": "loop",
        "in": "root/a",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    return Path(os.path.realpath(tmp_path))


@EITHER_WAY
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("root/a", b"root/a"),
        ("root/sub/../a", b"root/a"),
        ("root/sub/deeper/b", b"root/sub/deeper/b"),
        ("root/to-b", b"root/sub/deeper/b"),
        ("root/sub/up/up/deeper/b", b"root/sub/deeper/b"),
        ("root/absolute", b"root/a"),
        ("outside/../root/a", b"root/a"),
        ("in", b"root/a"),
    ],
)
def test_what_lies_below_the_root_is_read_however_it_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, below: bool, name: str, content: bytes
) -> None:
    if not below:
        monkeypatch.setattr(os, "supports_dir_fd", set())
    root = str(place / "root")
    for path in (f"{place}/{name}", os.fsencode(f"{place}/{name}")):
        assert read_regular_file(path, 100, root) == content
        assert leads_inside(path, root)
    monkeypatch.chdir(place)
    assert read_regular_file(name, 100, root) == content
    assert read_regular_file(name, 100, "/") == content


@EITHER_WAY
@pytest.mark.parametrize(
    "name",
    [
        "outside/secret",
        "outside/missing",
        "root/../outside/secret",
        "root/sub/../../outside/secret",
        "root-and-more/secret",
        "root/out",
        "root/out-absolute",
        "root/out-folder/secret",
        "root/twice/secret",
        "root/nothing-out",
        "root/..",
        "/etc/passwd",
        "/dev/null",
        "/proc/self/environ",
        "/proc/self/cwd/secret",
        "/proc/self/root/etc/passwd",
    ],
)
def test_what_leads_out_of_the_root_is_refused_whether_it_exists_or_not(
    place: Path, monkeypatch: pytest.MonkeyPatch, below: bool, name: str
) -> None:
    if not below:
        monkeypatch.setattr(os, "supports_dir_fd", set())
    monkeypatch.chdir(place / "outside")
    root, path = str(place / "root"), os.path.join(place, name)  # noqa: PTH118 - Path would tidy it up
    with pytest.raises(OutsideRootError) as caught:
        read_regular_file(path, 100, root)
    assert system_reason(caught.value) == f"leads out of the folder {root!r}, to {os.path.realpath(path)!r}"
    assert not leads_inside(path, root)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
@EITHER_WAY
def test_an_open_file_of_this_process_is_judged_by_where_it_lies(
    place: Path, monkeypatch: pytest.MonkeyPatch, below: bool
) -> None:
    if not below:
        monkeypatch.setattr(os, "supports_dir_fd", set())
    with (place / "outside/secret").open("rb") as secret, (place / "root/a").open("rb") as allowed:
        with pytest.raises(OutsideRootError):
            read_regular_file(f"/proc/self/fd/{secret.fileno()}", 100, str(place / "root"))
        assert read_regular_file(f"/proc/self/fd/{allowed.fileno()}", 100, str(place / "root")) == b"root/a"


@EITHER_WAY
@pytest.mark.parametrize("name", [".", "missing", "missing/deep", "a/below", "sub", "loop", "pipe"])
def test_what_is_no_file_below_the_root_is_refused_and_nothing_left_open(
    place: Path, monkeypatch: pytest.MonkeyPatch, below: bool, name: str
) -> None:
    if not below:
        monkeypatch.setattr(os, "supports_dir_fd", set())
    os.mkfifo(place / "root/pipe")
    before = open_files()
    for _ in range(3):
        with pytest.raises(OSError, match=r".") as caught:
            read_regular_file(place / "root" / name, 100, str(place / "root"))
        assert not isinstance(caught.value, OutsideRootError)
    assert open_files() == before


@pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="this system opens nothing below an open folder")
@pytest.mark.parametrize("swapped", ["b", "deeper"])
@pytest.mark.parametrize("back", [False, True], ids=["stays", "is put back"])
def test_a_link_that_is_put_there_after_the_look_is_not_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch, swapped: str, back: bool
) -> None:
    """The file is exchanged for a link at the worst moment: when its place has just been found to be inside."""
    (place / "outside/b").write_bytes(b"secret")
    victim = place / "root/sub/deeper" / ("b" if swapped == "b" else "")
    away = victim.with_name("away")
    honest_look, honest_open = os.path.realpath, os.open

    def look(path: Any, **options: Any) -> Any:
        found = honest_look(path, **options)
        if not away.exists() and victim.exists() and not victim.is_symlink():
            victim.rename(away)
            victim.symlink_to(place / "outside" / ("b" if swapped == "b" else ""))
        return found

    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        try:
            return honest_open(path, flags, *rest, **options)
        finally:
            if back and victim.is_symlink() and not flags & getattr(os, "O_DIRECTORY", 0):
                victim.unlink()
                away.rename(victim)

    monkeypatch.setattr(os.path, "realpath", look)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "supports_dir_fd", {opened})
    with pytest.raises(OSError, match=r"."):
        read_regular_file(place / "root/sub/deeper/b", 100, str(place / "root"))


@pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="this system opens nothing below an open folder")
def test_folder_by_folder_no_link_is_followed_whatever_was_seen_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who is always quick enough makes every look find the file, and every opening the link."""
    inside = place / "root/a"
    inside.unlink()
    inside.symlink_to(place / "outside/secret")
    monkeypatch.setattr(os.path, "realpath", lambda _path: str(inside))
    with pytest.raises(OSError, match=r"."):
        read_regular_file(inside, 100, str(place / "root"))


@needs_modes
def test_a_folder_that_may_be_passed_but_not_listed_is_no_obstacle(place: Path) -> None:
    (place / "root/sub").chmod(0o100)
    try:
        assert read_regular_file(place / "root/sub/deeper/b", 100, str(place / "root")) == b"root/sub/deeper/b"
    finally:
        (place / "root/sub").chmod(0o700)


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


def only_files_are_synced(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the sync of a folder fail with an error of that number."""
    honest = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    only_files_are_synced(monkeypatch, number)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EISDIR])
def test_a_folder_that_the_system_does_not_open_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    honest = os.open

    def opened(name: Any, flags: int, *rest: Any) -> int:
        if Path(name) == path.parent:
            raise OSError(number, os.strerror(number))
        return honest(name, flags, *rest)

    monkeypatch.setattr(os, "open", opened)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_folder_that_could_not_be_synced_is_never_reported_as_success(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path.write_bytes(b"old")
    only_files_are_synced(monkeypatch, number)
    before = open_files()
    with pytest.raises(OSError, match=r".") as caught:
        replace_file(path, b"new")
    assert caught.value.errno == number
    assert names_in(path.parent) == [path.name]
    assert path.read_bytes() == b"new"  # there already, but perhaps not after a power cut: so it is no success
    assert open_files() == before


def test_a_folder_that_is_gone_or_out_of_reach_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")

    def none_left(*_arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        sync_folder(tmp_path)


# --- killed in the midst --------------------------------------------------------------------------------------------

KILLED_AT_EACH_STEP = """
import json, os, signal, sys
from pathlib import Path
from tsm_training.files import replace_file

def replace_and_die(path, at, when):
    steps = 0
    def deadly(honest):
        def call(*arguments, **options):
            nonlocal steps
            mine, steps = steps, steps + 1
            if mine == at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = honest(*arguments, **options)
            if mine == at and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
    for name in ("open", "fsync", "chmod", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    replace_file(path, b"new" * 100_000)

rounds = []
for when in ("before", "after"):
    for step in range(100):
        path = Path(sys.argv[1]) / f"{when}-{step}" / "file"
        path.parent.mkdir()
        path.write_bytes(b"old" * 50_000)
        child = os.fork()
        if child == 0:
            replace_and_die(path, step, when)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            rounds.append([when, step])
            break
print(json.dumps(rounds))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_is_killed_at_any_step_leaves_the_old_contents_or_the_new(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, tmp_path], stdout=subprocess.PIPE, check=True, timeout=120
    )
    assert json.loads(done.stdout) == [["before", 6], ["after", 6]]  # open, sync, mode, replace, open folder, sync
    old, new, seen, leftovers = b"old" * 50_000, b"new" * 100_000, [], []
    for folder in tmp_path.iterdir():
        seen.append((folder / "file").read_bytes())
        leftovers += [name for name in names_in(folder) if name != "file"]
        replace_file(folder / "file", b"newer")  # what was left behind is in nobody's way
        assert (folder / "file").read_bytes() == b"newer"
    assert set(seen) == {old, new}
    assert leftovers
    assert all(name.startswith(".") and name.endswith(".tmp") and len(name) == 21 for name in leftovers)


def test_of_several_writers_at_a_time_one_wins_and_none_leaves_anything(path: Path) -> None:
    contents = [bytes([65 + number]) * (1000 + 40_000 * number) for number in range(4)]
    replace_file(path, contents[0])
    with ThreadPoolExecutor(4) as writers:
        waiting = [writers.submit(replace_file, path, content) for content in contents * 10]
        while not all(future.done() for future in waiting):
            assert read_regular_file(path, 10**6) in contents
        for future in waiting:
            future.result()
    assert path.read_bytes() in contents
    assert names_in(path.parent) == [path.name]


KILLED_AT_RANDOM = """
import json, os, random, signal, sys, time
from pathlib import Path
from tsm_training.files import read_regular_file, replace_file

path, kills = Path(sys.argv[1]), int(sys.argv[2])
contents = [bytes([65 + k]) * (50_000 + 70_000 * k) for k in range(5)]
replace_file(path, contents[0])
chance, reads, torn = random.Random(1), 0, 0
for _ in range(kills):
    child = os.fork()
    if child == 0:
        while True:
            for content in contents:
                replace_file(path, content)
    until = time.monotonic() + chance.uniform(0.001, 0.03)
    while time.monotonic() < until or reads == 0:
        torn += read_regular_file(path, 10**6) not in contents
        reads += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    torn += read_regular_file(path, 10**6) not in contents
print(json.dumps({"reads": reads, "torn": torn, "others": [p.name for p in path.parent.iterdir() if p != path]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_readers_see_whole_contents_only_while_writers_are_killed_beside_them(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RANDOM, path, "40"], stdout=subprocess.PIPE, check=True, timeout=120
    )
    result = json.loads(done.stdout)
    assert result["torn"] == 0
    assert result["reads"] > 0
    assert len(result["others"]) <= 40  # at most one hidden file for each of the killed
    assert all(name.endswith(".tmp") for name in result["others"])


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
