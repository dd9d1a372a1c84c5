"""SQLite's rollback journal (https://sqlite.org/fileformat2.html#the_rollback_journal).

Guarantees: a header followed by any number of records is a journal from which every SQLite 3 puts
a database back as it was: it writes each page of a record where it came from and cuts the file to
the size that the header names. A journal whose end is missing gives back the records before it.
It does not guarantee that the journal outlives a loss of power: nobody syncs it, and a journal is
written before the pages it protects only as this machine's processes see it.
"""

from __future__ import annotations

import struct
from typing import Final

from petsem.replication.image import PAGE_SIZE

MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
SECTOR_SIZE: Final = 512
"""What SQLite takes too where the disk does not tear what lies beside a write."""
RECORD_BYTES: Final = 4 + PAGE_SIZE + 4

_HEADER: Final = struct.Struct(">8sIIIII")
_PADDING: Final = bytes(SECTOR_SIZE - _HEADER.size)
_RECORD: Final = struct.Struct(f">I{PAGE_SIZE}sI")
_COUNT_BY_SIZE: Final = 0xFFFF_FFFF
"""In place of the number of records: as many as the file has room for. SQLite writes this itself
where it does not sync, and it lets a journal grow while the first pages are already written."""
_SAMPLED_FROM: Final = PAGE_SIZE % 200


def header(nonce: int, size_pages: int) -> bytes:
    """The first sector. `nonce` is 32 random bits, other ones for each journal; `size_pages` is
    the size to which a rollback cuts the database."""
    fields = (MAGIC, _COUNT_BY_SIZE, nonce, size_pages, SECTOR_SIZE, PAGE_SIZE)
    return _HEADER.pack(*fields) + _PADDING


def record(nonce: int, pgno: int, page: bytes) -> bytes:
    """One page as it was before the transaction."""
    # Every 200th byte, counted from the end of the page: enough to tell a record that is there
    # from one that is not, which is all that SQLite asks of it.
    check = (nonce + sum(page[_SAMPLED_FROM::200])) & 0xFFFF_FFFF
    return _RECORD.pack(pgno, page, check)


def looks_hot(first: bytes) -> bool:
    """Whether a journal that starts with `first` (a byte is enough) has anything to roll back.

    Programs that keep the file between their transactions cut it to nothing or clear its header.
    """
    return first[:1] not in (b"", b"\0")
