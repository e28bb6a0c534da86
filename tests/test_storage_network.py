"""Where a file lies: read from texts as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsm_training.storage.sqlite import network
from tsm_training.storage.sqlite.network import file_system_type, is_on_network

MOUNTS = (
    "49 22 0:48 / /untold rw - \n"
    + r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
40 22 0:40 / /mnt/share rw,relatime shared:30 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /mnt/share/scratch rw - tmpfs tmpfs rw
42 22 0:42 / /mnt/my\040files\134\011x rw - cifs //server/x rw
43 22 0:43 / /home/me/remote rw master:1 propagate_from:2 - fuse.sshfs me@host: rw
44 22 0:44 / /mnt/odd rw - fuse.something odd rw
45 22 0:45 / /over rw - ext4 /dev/vdb rw
46 45 0:46 / /over rw - nfs server:/over rw
47 22 0:47 / /c rw - 9p C:\134 rw
50 22 0:50 / /mnt/plain rw - fuse plain rw
51 22 0:51 / /five - nfs server:/five rw
52 22 0:52 / /dash rw - nfs4 server:/a - b rw
this line is none
48 22 rw - short
53 22 0:53 / /boX rw - nfs server:/boX rw"""
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/x.db", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/x.db", "nfs4"),
        ("/mnt/shared/x.db", "ext4"),
        ("/mnt/share/scratch/deep/x.db", "tmpfs"),
        ("/mnt/my files\\\tx/x.db", "cifs"),
        ("/home/me/remote/x.db", "fuse.sshfs"),
        ("/over/x.db", "nfs"),
        ("/untold/x.db", "ext4"),
        ("/five/x.db", "nfs"),
        ("/dash/x.db", "nfs4"),
        ("/boX/x.db", "nfs"),
        ("/bo/x.db", "ext4"),
    ],
)
def test_the_innermost_and_latest_mount_holds_a_path(path: str, kind: str) -> None:
    assert file_system_type(path, MOUNTS) == kind


@pytest.mark.parametrize("text", ["", "nonsense", "22 1 254:0 / /elsewhere rw - ext4 /dev/vda rw"])
def test_nothing_is_known_where_no_mount_holds_the_path(text: str) -> None:
    assert file_system_type("/x.db", text) is None


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/x.db", False),
        ("/mnt/share/x.db", True),
        ("/mnt/share/scratch/x.db", False),
        ("/home/me/remote/x.db", True),
        ("/c/x.db", True),
        ("/mnt/odd/x.db", None),
        ("/mnt/plain/x.db", None),
    ],
)
def test_network_file_systems_are_told_from_local_ones(
    path: str, answer: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    assert is_on_network(path) is answer


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_a_system_that_does_not_say_leaves_it_unknown(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    if text is not None:
        mounts.write_text(text)
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    assert is_on_network(tmp_path) is None


def test_a_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path.resolve()}/real rw - nfs x rw\n")
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    assert is_on_network(tmp_path / "link" / "x.db") is True
    assert is_on_network(tmp_path / "x.db") is False
