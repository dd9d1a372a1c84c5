"""A disk that keeps what was synced, and of the rest whatever it pleases."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from petsem.replication.drivers.log_files import LogOps


class LosingOps(LogOps):
    """Remembers writes until they are synced. Names and sizes of files are kept at once."""

    def __init__(self) -> None:
        self._unsynced: dict[int, list[tuple[int, bytes, bytes]]] = defaultdict(list)

    def write(self, fd: int, parts: Sequence[bytes], offset: int) -> None:
        data = b"".join(parts)
        old = os.pread(fd, len(data), offset)
        super().write(fd, parts, offset)
        self._unsynced[os.fstat(fd).st_ino].append((offset, old, data))

    def fdatasync(self, fd: int) -> None:
        self._unsynced.pop(os.fstat(fd).st_ino, None)

    def fsync(self, fd: int) -> None:
        self._unsynced.pop(os.fstat(fd).st_ino, None)

    def fsync_directory(self, path: Path) -> None:
        pass

    def lose(self, directory: Path, noise: random.Random) -> None:
        """The power fails: each piece of an unsynced write is there, or not, or zero."""
        for path in directory.rglob("*"):
            if path.is_file():
                self._tear(path, noise)
        self._unsynced.clear()

    def _tear(self, path: Path, noise: random.Random) -> None:
        writes = self._unsynced.get(path.stat().st_ino, [])
        content = bytearray(path.read_bytes())
        size = len(content)
        for offset, old, _ in reversed(writes):
            content[offset : offset + len(old)] = old
        piece = noise.choice((1, 8, 64, 512, 4096))
        kept, zeroed = noise.random(), noise.random() / 2
        for offset, _, data in writes:
            for at in range(0, len(data), piece):
                part = data[at : at + piece]
                if noise.random() < kept:
                    content[offset + at : offset + at + len(part)] = part
                elif noise.random() < zeroed:
                    content[offset + at : offset + at + len(part)] = bytes(len(part))
        path.write_bytes(content[:size].ljust(size, b"\0"))
