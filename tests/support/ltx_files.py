"""LTX files that follow each other, of a database of one page that nobody has."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from petsem.model import Position
from petsem.replication.ltx import CHECKSUM_FLAG, Header, encode, page_checksum
from petsem.replication.segment import ORIGIN

PAGE: Final = 4096


@dataclass
class Chain:
    """Makes the next file each time. The same seed makes the same files."""

    at: Position = ORIGIN
    seed: int = 0

    def next(self, epoch: int = 1, *, size: int = 0, count: int = 1) -> bytes:
        """The file of the next `count` transactions, about `size` bytes longer than the least."""
        at = self.at
        noise = random.Random(f"{self.seed}.{at}.{epoch}.{size}.{count}")
        pages = []
        for pgno in range(1, size // PAGE + 2):
            used = min(PAGE, max(16, size - (pgno - 1) * PAGE))
            pages.append((pgno, noise.randbytes(used) + bytes(PAGE - used)))
        first = at.txid + 1
        header = Header(
            flags=0,
            page_size=PAGE,
            commit=len(pages),
            min_txid=first,
            max_txid=at.txid + count,
            timestamp_ms=1_000 * first,
            pre_apply_checksum=at.checksum or 0,
        )
        if first == 1:
            post = CHECKSUM_FLAG
            for pgno, page in pages:
                post ^= page_checksum(pgno, page)
            post |= CHECKSUM_FLAG
        else:
            post = CHECKSUM_FLAG | noise.getrandbits(63)
        self.at = Position(epoch, header.max_txid, post)
        return encode(header, pages, post)
