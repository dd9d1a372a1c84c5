"""`petsem serve` on a machine that loses power: `python -m tests.support.losing_node SEED N DIR`.

At the N-th write, cut, sync or removal, what was not synced before is torn: of each write since the
last sync of its file every piece is there, or not, or zero, and a journal that was removed is back
if the directory was not synced since. Then the process ends as `kill -9` ends it. The database and
its journal tear by sectors, as SQLite expects of a disk, the log by bytes. Sizes of files, and new
names, are kept at once. Whoever starts next finds that the machine was started anew, and the
database is synced so often that a life has several times.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from petsem import limits
from petsem.replication.drivers import database_file

_OTHER_EACH_TIME: Final = Path("/proc/sys/kernel/random/uuid")
_SYNC_BYTES: Final = 40 * 1024
_SECTORS: Final = (512, 4096)
_BYTES: Final = (1, 8, 64, 512, 4096)

Write = tuple[int, bytes, bytes]
"""Offset, what was there, and what was written."""


def command(seed: int, call: int) -> tuple[str, ...]:
    """The program, for a `Daemon`."""
    return sys.executable, "-m", "tests.support.losing_node", str(seed), str(call)


class Disk:
    """What of the files is not on the disk yet."""

    def __init__(self, noise: random.Random, call: int) -> None:
        self._noise = noise
        self._left = call
        self._writes: dict[str, list[Write]] = {}
        self._removed: list[tuple[str, bytes, list[Write]]] = []
        self._lock = threading.RLock()

    def wrote(self, path: str, offset: int, old: bytes, data: bytes) -> None:
        """Note a write, before it happens."""
        with self._lock:
            self._meet()
            self._writes.setdefault(path, []).append((offset, old.ljust(len(data), b"\0"), data))

    def cut(self) -> None:
        """A cut may be the last thing that happens; it is on the disk at once."""
        with self._lock:
            self._meet()

    def synced(self, path: str) -> None:
        """A file, or the names in a directory, are on the disk; unless the power goes first."""
        with self._lock:
            self._meet()
            self._writes.pop(path, None)
            if Path(path).is_dir():
                self._removed.clear()

    def removed(self, path: str) -> None:
        """Note a removal, before it happens."""
        with self._lock:
            self._meet()
            if path.endswith("-journal") and Path(path).exists():
                held = Path(path).read_bytes()
                self._removed.append((path, held, self._writes.pop(path, [])))

    def _meet(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._lose()
            os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        for path, writes in self._writes.items():
            if Path(path).exists():
                Path(path).write_bytes(self._torn(path, Path(path).read_bytes(), writes))
        if self._removed and self._noise.random() < 0.7:
            path, content, writes = self._noise.choice(self._removed)
            Path(path).write_bytes(self._torn(path, content, writes))

    def _torn(self, path: str, content: bytes, writes: Sequence[Write]) -> bytes:
        noise, held, size = self._noise, bytearray(content), len(content)
        piece = noise.choice(_SECTORS if "petsem.db" in path else _BYTES)
        kept, zeroed = noise.random(), noise.random() / 2
        for offset, old, _ in reversed(writes):
            held[offset : offset + len(old)] = old
        for offset, _, data in writes:
            for at in range(0, len(data), piece):
                part = data[at : at + piece]
                if noise.random() < kept:
                    held[offset + at : offset + at + len(part)] = part
                elif noise.random() < zeroed:
                    held[offset + at : offset + at + len(part)] = bytes(len(part))
        return bytes(held[:size].ljust(size, b"\0"))


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self.name = "petsem-losing"
        super().__init__(self.name, "")
        self._disk = disk

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _File(self._disk, path, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:
        self._disk.removed(name)
        super().xDelete(name, sync_directory)
        if sync_directory:
            self._disk.synced(str(Path(name).parent))


class _File(apsw.VFSFile):
    def __init__(
        self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._path = path

    def xWrite(self, data: bytes, offset: int) -> None:
        held = max(0, min(len(data), self.xFileSize() - offset))
        old = self.xRead(held, offset) if held else b""
        self._disk.wrote(self._path, offset, old, bytes(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._disk.synced(self._path)

    def xTruncate(self, size: int) -> None:
        self._disk.cut()
        super().xTruncate(size)


def _path_of(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _losing_system(disk: Disk) -> None:
    """Have the node's own calls be of that disk: those of its log, and of a snapshot's file."""
    pwrite, pwritev, unlink = os.pwrite, os.pwritev, os.unlink

    def losing_pwrite(fd: int, data: bytes, offset: int) -> int:
        disk.wrote(_path_of(fd), offset, os.pread(fd, len(data), offset), bytes(data))
        return pwrite(fd, data, offset)

    def losing_pwritev(fd: int, parts: Sequence[bytes], offset: int) -> int:
        content = b"".join(parts)
        disk.wrote(_path_of(fd), offset, os.pread(fd, len(content), offset), content)
        return pwritev(fd, parts, offset)

    def losing_unlink(path: Any, **more: Any) -> None:
        disk.removed(os.path.realpath(path))
        unlink(path, **more)

    def losing_sync(sync: Callable[[Any], None]) -> Callable[[int], None]:
        def synced(fd: int) -> None:
            sync(fd)
            if stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                disk.synced(_path_of(fd))

        return synced

    replaced = {
        "pwrite": losing_pwrite,
        "pwritev": losing_pwritev,
        "unlink": losing_unlink,
        "fsync": losing_sync(os.fsync),
        "fdatasync": losing_sync(os.fdatasync),
    }
    for name, call in replaced.items():
        setattr(os, name, call)


def main(seed: str, call: str, directory: str) -> int:
    """Serve."""
    disk = Disk(random.Random(int(seed)), int(call))
    vfs = _Vfs(disk)
    _losing_system(disk)
    # Whoever applies takes it as a default when its module is imported.
    assert "petsem.replication.drivers.apply" not in sys.modules
    database_file.VFS = vfs.name  # type: ignore[misc]
    limits.SYNC_DATABASE_BYTES = _SYNC_BYTES  # type: ignore[misc]
    from petsem.server import main as server
    from petsem.server.replica import whole

    whole._BOOT_ID = _OTHER_EACH_TIME  # type: ignore[misc]

    return server.serve(Path(directory), insecure=False, environ=os.environ, vfs=vfs.name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
