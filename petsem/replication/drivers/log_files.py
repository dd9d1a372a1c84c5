"""What the log asks of the file system, by name, so that a test can make the named step fail.

Guarantees: a write is whole or an error; a read is what could be read, since what a bad disk does
not give back is damage like any other; a descriptor stays open as long as somebody reads with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

READ_CHUNK_BYTES: Final = 1024 * 1024


class LogOps:
    """Each step that changes something on the disk. Errors are the system's own."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def allocate(self, fd: int, size_bytes: int) -> None:
        """Room for the whole file, which then reads as zeros."""
        os.posix_fallocate(fd, 0, size_bytes)

    def write(self, fd: int, parts: Sequence[bytes], offset: int) -> None:
        """All of `parts` one after the other; as a rule in one call."""
        done = os.pwritev(fd, parts, offset)
        if done < sum(map(len, parts)):
            rest = memoryview(b"".join(parts))[done:]
            offset += done
            while rest:
                done = os.pwrite(fd, rest, offset)
                rest, offset = rest[done:], offset + done

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def fsync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


SYSTEM: Final = LogOps()


class Descriptor:
    """An open file that closes with its last user: a cut must not close it under a reader."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Descriptor:
        """An existing file."""
        return cls(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC))

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.fd).st_size

    def is_at(self, path: Path) -> bool:
        """Whether this is what `path` names: it is not when somebody has deleted or moved it."""
        try:
            return os.path.samestat(os.fstat(self.fd), path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def read(self, length: int, offset: int) -> bytes:
        """At most `length` bytes at `offset`: fewer where the file or what is legible ends."""
        parts = []
        while length > 0:
            try:
                part = os.pread(self.fd, length, offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                part = b""
            if not part:
                break
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
