"""Where a ledger's file lies: SQLite's locks and shared memory can't be trusted on a file system that a network carries."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

NETWORK = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "gluster", "lustre", "beegfs", "ncpfs", "davfs")
LOCAL = ("fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs", "fuse.exfat", "smbios")
"""Kinds that begin like the others and are on this machine."""


def network_kind(path: Path) -> str:
    """The kind of the network file system that `path` lies on, e.g. `nfs4`; an empty text where it lies on none.

    Args:
        path: A file that may be still to be made.
    """
    folder = Path(os.path.realpath(path)).parent
    try:
        mounts = [one for one in psutil.disk_partitions(all=True) if folder.is_relative_to(one.mountpoint)]
    except (OSError, psutil.Error):  # a machine that doesn't tell its mounts is not warned about
        return ""
    if not mounts:
        return ""
    kind = max(mounts, key=lambda one: len(Path(one.mountpoint).parts)).fstype.lower()
    return kind if kind.startswith(NETWORK) and not kind.startswith(LOCAL) else ""


def unsafe_place(path: Path) -> str:
    """What to tell somebody whose ledger lies on a network, an empty text where it doesn't.

    Args:
        path: The ledger.
    """
    kind = network_kind(path)
    if not kind:
        return ""
    return (
        f"{path} lies on {kind}, a network file system, on which SQLite may lose rows or stay locked: pass a --db on a "
        "disk of this machine, and copy the ledger when the audit has ended"
    )
