"""Telling whether a file lies on another machine, where locks cannot be relied on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["file_system_type", "is_on_network"]

_MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK_TYPES: Final = frozenset(
    {
        # file servers
        "afs", "cifs", "davfs", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs",
        # clusters
        "beegfs", "ceph", "glusterfs", "gfs2", "gpfs", "lustre", "ocfs2", "orangefs", "pvfs2", "wekafs",
        # folders that a virtual machine or a container shares with the machine around it
        "9p", "drvfs", "fakeowner", "osxfs", "prl_fs", "vboxsf", "virtiofs", "vmhgfs",
    }
)  # fmt: skip
_NETWORK_HELPERS: Final = re.compile(
    r"fuse\.(sshfs|rclone|s3fs|goofys|gcsfuse|blobfuse\w*|davfs\w*|glusterfs|ceph(-fuse)?|moosefs|mfs|juicefs|seaweedfs"
    r"|curlftpfs|smbnetfs|gvfsd-fuse|grpcfuse|vmhgfs-fuse|google-drive-ocamlfuse|onedriver)"
)
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_on_network(path: str | os.PathLike[str]) -> bool | None:
    """Tell whether a file, which need not exist, lies on another machine; None where that is unknown.

    Linux says so for all common file systems, the other systems do not.
    """
    try:
        mounts = os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return None
    kind = file_system_type(os.path.realpath(path), mounts)
    if kind is None:
        return None
    if kind in _NETWORK_TYPES or _NETWORK_HELPERS.fullmatch(kind):
        return True
    # Behind any other program that plays a file system there may be anything.
    return None if kind == "fuse" or kind.startswith("fuse.") else False


def file_system_type(path: str, mountinfo: str) -> str | None:
    """Return the type of the file system that holds an absolute path without links, such as ``ext4``.

    Args:
        path: It need not exist.
        mountinfo: The text of ``/proc/self/mountinfo``; lines that cannot be read are passed over.
    """
    found: tuple[int, str] | None = None
    for line in mountinfo.split("\n"):
        place, separator, device = line.partition(" - ")
        fields = place.split(" ")
        kind = device.split(" ", maxsplit=1)[0]
        if not separator or len(fields) < 5 or not kind:  # noqa: PLR2004 - the mount point is the fifth
            continue
        mount = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/")
        # The innermost mount holds the path; of two on the same place, the later one hides the earlier.
        if f"{path}/".startswith(f"{mount}/") and (found is None or len(mount) >= found[0]):
            found = len(mount), kind
    return None if found is None else found[1]
