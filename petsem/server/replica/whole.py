"""Whether a replica's database is whole by itself, and where it stands.

After a process ended, the system still has all that it wrote, and SQLite's journal takes back what
was half applied: the file is whole. After a loss of power every page that was written since the
last sync may be old, new or torn, and only the log, or the checksum of all pages, tells. Which of
the two it was, the boot of the machine tells that `state.json` names.

Guarantees: `untorn` is said only of a file that was whole in this boot of the machine, and is no
copy of that, or that was closed in order. It does not see a page that went bad on the disk, nor a
disk that was taken away and came back within one boot; the leader, which compares checksums, does.
"""

from __future__ import annotations

import contextlib
import dataclasses
from array import array
from pathlib import Path
from typing import Final

import apsw
import structlog

from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.drivers import rollback
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.image import stamp
from petsem.replication.ltx import CHECKSUM_FLAG, page_checksum
from petsem.replication.page_set import commit_of, stamp_of
from petsem.replication.rolling import UNKNOWN, PageChecksums
from petsem.server.database import open_reader, read_position
from petsem.server.datadir import CLOSED, DataDir

log = structlog.get_logger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def this_boot(datadir: DataDir) -> str | None:
    """What names the time since the machine was switched on, and the database's very file; None if
    the system does not say."""
    try:
        return f"{_BOOT_ID.read_text('ascii').strip()}:{datadir.database.stat().st_ino}"
    except OSError:
        return None


def untorn(datadir: DataDir) -> bool:
    """Whether no power was lost since the database was whole."""
    whole_in = datadir.read_state().whole_in
    return whole_in is not None and whole_in in (CLOSED, this_boot(datadir))


def remember_whole(datadir: DataDir, in_: str | None) -> None:
    """In which boot the database is whole, or `CLOSED`, `DOUBTED`, or that nobody knows; on the
    helper."""
    state = datadir.read_state()
    if state.whole_in != in_:
        datadir.write_state(dataclasses.replace(state, whole_in=in_))


def place_of(database: Path, vfs: str) -> Position | None:
    """Where a database stands by its own word, without checksum, after SQLite has rolled back what
    was half applied. None if it is empty, or page 1, its size and its rows do not agree."""
    with contextlib.suppress(apsw.Error, PetsemError, LookupError):
        if rollback.is_hot(rollback.journal_path(database)):
            rollback.roll_back(database, vfs)
        reader = PageReader(database, vfs=vfs)
        try:
            page1, held_pages = reader.read(1), reader.size_pages()
        finally:
            reader.close()
        if page1 is None or held_pages != commit_of(page1):
            return None
        db = open_reader(database, vfs=vfs)
        try:
            at = read_position(db)
        finally:
            db.close()
        if stamp_of(page1) == stamp(at.epoch, at.txid):
            return at
    return None


def sums_of(database: Path, vfs: str) -> PageChecksums | None:
    """The checksums of all pages as they are; None if one of them cannot be read. It reads the
    whole file."""
    sums, rolling = array("Q"), 0
    reader = PageReader(database, vfs=vfs)
    try:
        for pgno, page in reader.pages(1, reader.size_pages()):
            sums.extend([UNKNOWN] * (pgno - 1 - len(sums)))
            sums.append(page_checksum(pgno, page))
            rolling ^= sums[-1]
    except PetsemError as e:
        log.error("database_not_read", message=e.message)
        return None
    finally:
        reader.close()
    return PageChecksums.restored(sums, rolling | CHECKSUM_FLAG)
