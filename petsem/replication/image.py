"""The canonical image: the bytes of the database that every node agrees on.

Guarantees: two nodes at the same position have the same canonical page 1, whatever journal mode
their files are in and however often each was opened. Only page 1 differs from what SQLite wrote.
It does not read or write files. Byte table: `docs/formats/image.md`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

PAGE_SIZE: Final = 4096
LOCK_PAGE: Final = 2**30 // PAGE_SIZE + 1
"""Holds byte 2^30, where SQLite puts its locks. It is never written and is in no LTX file."""

_EPOCH_STEP: Final = 0x9E37_79B1
"""Odd and far from small numbers, so that neighbouring branches differ at the same TXID."""
_ROLLBACK_JOURNAL: Final = b"\x01\x01"
_WRITER_VERSION: Final = struct.pack(">I", 3_054_001)
"""SQLite stores the version of the library that wrote last. Here it is a constant of the format and
stays as it is, because replicas may run another library than the leader."""


def stamp(epoch: int, txid: int) -> int:
    """The change counter of the image at a position. It moves with each transaction, and also from
    one branch to another at the same TXID, so that no reader goes on with pages of the old one."""
    return (txid + _EPOCH_STEP * epoch) & 0xFFFF_FFFF


def normalise(page1: bytes, epoch: int, txid: int) -> bytes:
    """The canonical page 1 at (`epoch`, `txid`), from one that SQLite wrote or from another
    canonical one."""
    assert len(page1) == PAGE_SIZE
    counter = struct.pack(">I", stamp(epoch, txid))
    return b"".join(
        (
            page1[:18],
            _ROLLBACK_JOURNAL,
            page1[20:24],
            counter,
            page1[28:92],
            counter,
            _WRITER_VERSION,
            page1[100:],
        )
    )


def canonical_pages(
    pages: Iterable[tuple[int, bytes]], page1: bytes, epoch: int, txid: int
) -> Iterator[tuple[int, bytes]]:
    """The pages of the transaction at (`epoch`, `txid`) as its LTX file holds them: page 1 first,
    normalised, also where SQLite did not write it; then `page1` is the one before, whether
    normalised or not. `pages` are in ascending order."""
    rest = iter(pages)
    first = next(rest, None)
    if first is not None and first[0] == 1:
        page1, first = first[1], None
    yield 1, normalise(page1, epoch, txid)
    if first is not None:
        yield first
    yield from rest


def page_numbers(commit: int) -> Iterator[int]:
    """The pages of a database of `commit` pages, in ascending order, the lock page left out."""
    return chain(range(1, min(commit + 1, LOCK_PAGE)), range(LOCK_PAGE + 1, commit + 1))
