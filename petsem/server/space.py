"""Room on the disk: writes stop while a reserve is left, and a ballast file holds more of it.

Guarantees: a write is refused before it starts when free space is below the reserve, and the disk
can still be left in order afterwards, because deleting the ballast makes room for a checkpoint.
It recovers by itself: when space is back, the ballast is laid down again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from petsem import limits
from petsem.errors import unavailable


def free_bytes(directory: Path) -> int:
    """What an unprivileged process could still write there; nothing, if the disk does not say."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


class Space:
    """Watches one directory's file system. `free` is a parameter, so that tests fill the disk."""

    def __init__(
        self,
        directory: Path,
        *,
        reserve_bytes: int = limits.FREE_SPACE_RESERVE_BYTES,
        ballast_bytes: int = limits.BALLAST_BYTES,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"
        self._reserve_bytes = reserve_bytes
        self._ballast_bytes = ballast_bytes
        self._free = free
        self._exhausted = False

    @property
    def low(self) -> bool:
        """Whether writes are refused now."""
        return self._exhausted or self._free(self._directory) < self._reserve_bytes

    def check(self) -> None:
        """Refuse a write that would eat into the reserve."""
        if self.low:
            raise unavailable(
                "the node's disk is full, so it takes no writes; free space on it", retry_after_s=5
            )

    def exhausted(self) -> None:
        """SQLite met a full disk: give the ballast back and refuse writes until `restore`."""
        self._exhausted = True
        # A disk that fails in this too is refused writes all the same.
        with contextlib.suppress(OSError):
            self._ballast.unlink(missing_ok=True)

    def restore(self) -> None:
        """Lay the ballast down again if there is room for it and the reserve; call now and then."""
        if not self._has_ballast():
            if self._free(self._directory) < self._reserve_bytes + self._ballast_bytes:
                return
            self._lay()
        if self._free(self._directory) >= self._reserve_bytes:
            self._exhausted = False

    def _has_ballast(self) -> bool:
        try:
            return self._ballast.stat().st_size == self._ballast_bytes
        except FileNotFoundError:
            return False

    def _lay(self) -> None:
        fd = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._ballast_bytes)
        except OSError:
            self._ballast.unlink(missing_ok=True)
        finally:
            os.close(fd)
