"""The database file between two roles: out of WAL mode and into it.

Guarantees: every step may be cut off and is done again at the next start; the file is never left
between two states that a start does not understand: with anything of a leader about it (WAL mode, a
page 1 that SQLite wrote) it is first made what a replica's is. On the helper thread, with every
connection of this process closed.

A WAL may be thrown away only if nobody was answered from it: what an unfinished promotion left.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import apsw

from petsem.model import Position
from petsem.replication.drivers.apply import Applier
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.holders import lock_holders
from petsem.replication.drivers.role_change import DatabaseInUse, leave_wal, normalise
from petsem.replication.steps import ROLE_TRUNCATE_WAL, Reached, nothing
from petsem.server.database import open_writer, read_position

_WAL_MODE: Final = b"\x02\x02"
_ROLLBACK_MODE: Final = b"\x01\x01"


def needs_change(path: Path) -> bool:
    """Whether a replica's file still has something of a leader about it."""
    if has_wal(path) and path.exists() and path.stat().st_size:
        return True
    return _mode(path) == _WAL_MODE


def has_wal(path: Path) -> bool:
    """Whether there is something in the WAL."""
    wal = Path(f"{path}-wal")
    return wal.exists() and wal.stat().st_size > 0


def drop_wal(path: Path) -> None:
    """Take the database back to before the first transaction in the WAL. Raises `DatabaseInUse`
    while somebody else has it open."""
    holders = [pid for pid in lock_holders(path) if pid != os.getpid()]
    if holders:
        raise DatabaseInUse(holders)
    # The index first: it would tell of frames that are gone.
    Path(f"{path}-shm").unlink(missing_ok=True)
    Path(f"{path}-wal").unlink(missing_ok=True)


def was_replica(path: Path) -> bool:
    """Whether the file is as replicas have it, and has to enter WAL mode before it is led."""
    return _mode(path) == _ROLLBACK_MODE


def _mode(path: Path) -> bytes:
    """What the first page says of it; empty if there is none."""
    if not path.exists() or path.stat().st_size == 0:
        return b""
    file = PageReader(path)
    try:
        page1 = file.read(1)
    finally:
        file.close()
    return b"" if page1 is None else page1[18:20]


def to_replica(path: Path, *, reached: Reached = nothing) -> Position:
    """Make the file what every replica's is at its position, which is returned. What is in the WAL
    must be in the log. Raises `DatabaseInUse` while somebody else has it open."""
    position: Position | None
    db = open_writer(path)
    try:
        reached(ROLE_TRUNCATE_WAL)
        position = read_position(db)
        db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError:
        position = None
    finally:
        db.close(True)
    if position is None:
        # Only now, when the locks of our own connection are gone.
        raise DatabaseInUse(lock_holders(path))
    leave_wal(path, reached=reached)
    applier = Applier(path, reached=reached)
    try:
        normalise(applier, position.epoch, position.txid, reached=reached)
    finally:
        applier.close()
    return position


def create_empty(path: Path) -> None:
    """An empty database file, private, if there is none."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(fd)
