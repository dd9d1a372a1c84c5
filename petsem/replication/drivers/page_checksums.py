"""The table of page checksums on disk, and the scan that makes it anew.

Guarantees: `load` gives a table only if it was saved for this very state of the database file, and
only once: the file is gone, durably, before the database can change, so an unclean stop never finds
a stale one. `scan` reads in small steps, between which the owner does other work. It opens no
database: pages come through a reader that is handed in. Byte table: `docs/formats/image.md`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from petsem import limits
from petsem.model import Position
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, normalise
from petsem.replication.ltx.checksum import crc, page_checksum
from petsem.replication.rolling import UNKNOWN, PageChecksums

FILE_NAME: Final = "checksums"
SCAN_PAGES: Final = 64

_MAGIC: Final = b"petsemck"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">8sIIIIQQQq")
_ENTRY_BYTES: Final = 8
_CHUNK_ENTRIES: Final = 64 * 1024

ReadPages = Callable[[int, int], bytes]
"""(bytes, offset) → what the database file holds there, as `apsw.VFSFile.xRead`."""


class ShortDatabase(Exception):  # noqa: N818 - it says what is wrong
    """The database file ends before its last page."""


def save(directory: Path, table: PageChecksums, position: Position, database: Path) -> None:
    """Store a complete `table` at a clean stop, when nothing writes to `database` any more.

    Raises OSError, and then nothing is stored.
    """
    assert table.complete
    assert position.checksum == table.rolling
    path = directory / FILE_NAME
    temporary = directory / f".{FILE_NAME}.tmp"
    header = _header(table.commit, position, database)
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(header)
            check = crc(header)
            for start in range(1, table.commit + 1, _CHUNK_ENTRIES):
                chunk = _big_endian(table.entries(start, _CHUNK_ENTRIES)).tobytes()
                file.write(chunk)
                check = crc(chunk, check)
            file.write(check.to_bytes(8, "big"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(directory)


def load(directory: Path, position: Position, database: Path) -> PageChecksums | None:
    """The table, if one was saved for `position` and for the database file as it is now; the saved
    file is gone afterwards, whatever it held. Raises OSError if it cannot be removed."""
    path = directory / FILE_NAME
    table = None
    # A table that cannot be read is made anew, like one that was never saved.
    with contextlib.suppress(OSError), path.open("rb") as file:
        table = _read(file, position, database)
    path.unlink(missing_ok=True)
    _sync_directory(directory)
    return table


def _read(file: BinaryIO, position: Position, database: Path) -> PageChecksums | None:
    size = os.fstat(file.fileno()).st_size - _HEADER.size - _ENTRY_BYTES
    commit = size // _ENTRY_BYTES
    if not 1 <= commit <= limits.LTX_COMMIT_MAX_PAGES:
        return None
    header = file.read(_HEADER.size)
    if position.checksum is None or header != _header(commit, position, database):
        return None
    check = crc(header)
    # Of its length from the start: one that is appended to takes more.
    entries = array("Q", (UNKNOWN,)) * commit
    for start in range(0, commit, _CHUNK_ENTRIES):
        chunk = file.read(_ENTRY_BYTES * min(_CHUNK_ENTRIES, commit - start))
        check = crc(chunk, check)
        entries[start : start + _CHUNK_ENTRIES] = array("Q", chunk)
    if file.read() != check.to_bytes(8, "big"):
        return None
    table = PageChecksums.restored(_big_endian(entries), position.checksum)
    return table if table.complete and table.verify() else None


def _header(commit: int, position: Position, database: Path) -> bytes:
    assert position.checksum is not None
    now = database.stat()
    return _HEADER.pack(
        _MAGIC,
        _FORMAT,
        PAGE_SIZE,
        commit,
        position.epoch,
        position.txid,
        position.checksum,
        now.st_size,
        now.st_mtime_ns,
    )


def _big_endian(entries: array[int]) -> array[int]:
    """`entries` as they stand in the file, or back again; swapped in place."""
    if sys.byteorder == "little":
        entries.byteswap()
    return entries


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def scan(
    table: PageChecksums, read: ReadPages, position: Position, *, pages: int = SCAN_PAGES
) -> Iterator[int]:
    """Fill in what `table` does not know, up to `pages` of them a step; yields the page it got to.

    `read` must show the database file as it was at `position`, where the table starts, in every
    page whose entry is still unknown; so it begins when all frames of the WAL have been copied
    into the file, and a transaction is taken into the table before it is copied. Steps may be as
    far apart as one likes, but on the thread that changes the table. When it ends the table is
    complete: verify it. Raises ShortDatabase, and whatever `read` raises.
    """
    first = table.next_unknown(1)
    while first is not None:
        beyond = min(first + pages, table.commit + 1)
        if first < LOCK_PAGE < beyond:
            beyond = LOCK_PAGE
        data = read((beyond - first) * PAGE_SIZE, (first - 1) * PAGE_SIZE)
        if len(data) != (beyond - first) * PAGE_SIZE:
            raise ShortDatabase(f"the database file ends before page {beyond - 1}")
        for pgno in range(first, beyond):
            page = data[(pgno - first) * PAGE_SIZE : (pgno - first + 1) * PAGE_SIZE]
            if pgno == 1:
                page = normalise(page, position.epoch, position.txid)
            table.fill(pgno, page_checksum(pgno, page))
        yield beyond - 1
        first = table.next_unknown(beyond)
