"""Who holds a lock on a database file, for a warning that names them.

Guarantees: no descriptor of the file is opened; asking the kernel by one would end with closing
it, and that drops the locks which SQLite has for this process. It does not guarantee a moment: a
holder may be gone when it is named, and one of another PID namespace has no name here.
"""

from __future__ import annotations

import os
from pathlib import Path


def lock_holders(path: Path, *, proc: Path = Path("/proc")) -> list[int]:
    """The processes with a lock on `path`, this one among them if it has one; [] if the system
    does not say."""
    try:
        file = path.stat()
        table = (proc / "locks").read_text()
    except OSError:
        return []
    found = set()
    for line in table.splitlines():
        # 12: POSIX  ADVISORY  READ 4711 fe:00:10002591 1073741826 1073742335
        # One who waits has "->" before POSIX, and holds nothing.
        fields = line.split()
        if len(fields) < 6 or fields[1] != "POSIX":
            continue
        pid = int(fields[4])
        major, minor, inode = fields[5].split(":")
        if pid <= 0 or int(inode) != file.st_ino or pid in found:
            continue
        device = os.makedev(int(major, 16), int(minor, 16))
        # Some file systems (btrfs, overlays) show programs another device than the lock table.
        if device == file.st_dev or _has_open(proc / str(pid), file):
            found.add(pid)
    return sorted(found)


def _has_open(process: Path, file: os.stat_result) -> bool:
    try:
        return any(_is_same(each, file) for each in (process / "fd").iterdir())
    except OSError:
        return False


def _is_same(descriptor: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(descriptor.stat(), file)
    except OSError:
        return False
