"""Reading the whole database behind its own work, to know the checksum of every page.

Guarantees: it reads a few pages at a time and lets others work in between; when it ends, either
it is known whether all pages together have the checksum that the log carried on. A page that is
written meanwhile is known from what was written. It does not repair and does not look twice: what
is damaged after its page was read is found at the next scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from petsem.model import Position
from petsem.replication.drivers.database_file import RUN_PAGES, PageReader
from petsem.replication.drivers.page_checksums import scan
from petsem.replication.image import PAGE_SIZE
from petsem.replication.rolling import PageChecksums

_PAUSE_S: Final = 0.001


async def scan_all(
    table: Callable[[], PageChecksums],
    at: Callable[[], Position],
    reader: PageReader,
    turn: asyncio.Lock,
) -> bool:
    """Fill in what the table does not know, then compare: whether it is right.

    `turn` is held for each step; between two the table may become another, which is begun anew.
    """

    def read(size: int, offset: int) -> bytes:
        first = offset // PAGE_SIZE + 1
        pages = reader.pages(first, first + size // PAGE_SIZE - 1)
        # A page of a transaction that is not applied yet is known; its place may not be there.
        return b"".join(page for _, page in pages).ljust(size, b"\0")

    now = table()
    steps = scan(now, read, at(), pages=RUN_PAGES)
    while True:
        async with turn:
            if now is not table():
                now = table()
                steps = scan(now, read, at(), pages=RUN_PAGES)
            if next(steps, None) is None:
                return now.verify()
        await asyncio.sleep(_PAUSE_S)
