"""When the WAL is copied into the database, and how.

PASSIVE every four thousand frames; RESTART only when the WAL has grown past 64 MiB, and never while
a group waits, because it holds writers off until every reader has left the WAL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw
import structlog

from petsem.server.database import PAGE_SIZE, open_writer

log = structlog.get_logger(__name__)

PASSIVE_FRAMES: Final = 4_000
RESTART_BYTES: Final = 64 * 1024 * 1024


class Checkpointer:
    """Counts frames as they are committed, on whatever thread, and checkpoints on the helper.

    It uses a connection of its own, so that a group can gather statements meanwhile.
    """

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self._path = path
        self._vfs = vfs
        self._db: apsw.Connection | None = None
        self._frames = 0
        self._done_at = 0

    def committed(self, _db: apsw.Connection, _name: str, frames: int) -> int:
        """SQLite's WAL hook: `frames` are in the WAL now, fewer than before after a reset."""
        if frames < self._frames:
            self._done_at = 0
        self._frames = frames
        return apsw.SQLITE_OK

    @property
    def frames(self) -> int:
        """Frames in the WAL at the last commit, as SQLite counts them."""
        return self._frames

    def due(self, *, idle: bool) -> int | None:
        """The mode to checkpoint in now, or None."""
        if idle and self._frames * PAGE_SIZE > RESTART_BYTES:
            return apsw.SQLITE_CHECKPOINT_RESTART
        if self._frames - self._done_at >= PASSIVE_FRAMES:
            return apsw.SQLITE_CHECKPOINT_PASSIVE
        return None

    def count(self) -> int:
        """On the helper thread: frames in the WAL now, those of other processes with them."""
        frames: int = self._own().wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)[0]
        return max(0, frames)

    def run(self, mode: int, db: apsw.Connection | None = None) -> bool:
        """Checkpoint, on the helper thread only; whether the WAL is as empty as `mode` makes it.
        By `db`, if one is given, that nobody uses meanwhile."""
        try:
            in_wal, copied = (db or self._own()).wal_checkpoint(None, mode)
        except apsw.BusyError:
            log.warning("checkpoint_busy", hint="somebody reads the database for long")
            self._done_at = self._frames
            return False
        self._done_at = self._frames
        if copied < in_wal and self._frames * PAGE_SIZE > RESTART_BYTES:
            log.warning("wal_pinned", frames=in_wal, copied=copied)
        return copied >= in_wal

    def _own(self) -> apsw.Connection:
        if self._db is None:
            self._db = open_writer(self._path, vfs=self._vfs)
        return self._db

    def close(self) -> None:
        """Close the connection, on the helper thread."""
        if self._db is not None:
            self._db.close()
            self._db = None
