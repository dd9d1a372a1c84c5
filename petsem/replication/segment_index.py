"""Where in a segment a transaction is.

One entry (16 bytes: TXID and offset) a record while a segment grows, so that whoever follows the
end finds it at once, and one for every 64 KiB when it is finished, so that a log of any number of
records costs a 4,096th of its size in memory; from an entry, headers are followed.

Safe to read in one thread while another adds: an entry is complete before it is counted.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

STRIDE_BYTES: Final = 64 * 1024
ENTRY_BYTES: Final = 16


class SegmentIndex:
    """Pairs of the first TXID of a record and its offset, both ascending."""

    __slots__ = ("_offsets", "_txids")

    def __init__(self) -> None:
        self._txids = array("Q")
        self._offsets = array("Q")

    def __len__(self) -> int:
        return len(self._txids)

    def add(self, txid: int, offset: int) -> None:
        """The record at `offset` begins with `txid`."""
        # The offset first: a reader counts the TXIDs.
        self._offsets.append(offset)
        self._txids.append(txid)

    def find(self, txid: int) -> int | None:
        """The last known offset whose record begins at or before `txid`."""
        at = bisect_right(self._txids, txid, 0, len(self._txids))
        return self._offsets[at - 1] if at else None

    def until(self, offset: int) -> SegmentIndex:
        """The entries before `offset`."""
        return self._of(i for i, each in enumerate(self._offsets) if each < offset)

    def thinned(self) -> SegmentIndex:
        """The first entry and then one for every 64 KiB."""
        kept = []
        after = 0
        for i, offset in enumerate(self._offsets):
            if offset >= after:
                kept.append(i)
                after = offset + STRIDE_BYTES
        return self._of(kept)

    def _of(self, kept: Iterable[int]) -> SegmentIndex:
        chosen = SegmentIndex()
        for i in kept:
            chosen.add(self._txids[i], self._offsets[i])
        return chosen

    def encode(self) -> bytes:
        """TXID and offset of each entry, 8 bytes each, big-endian."""
        pairs = array("Q")
        for txid, offset in zip(self._txids, self._offsets, strict=True):
            pairs.extend((txid, offset))
        return _big_endian(pairs).tobytes()

    @classmethod
    def parse(cls, data: bytes) -> SegmentIndex:
        """The index that `data`, whose CRC was compared, spells."""
        pairs = array("Q")
        pairs.frombytes(data)
        pairs = _big_endian(pairs)
        index = cls()
        index._txids, index._offsets = pairs[::2], pairs[1::2]
        return index


def room_bytes(segment_bytes: int) -> int:
    """The most that the thinned index of a segment of this size takes."""
    return (segment_bytes // STRIDE_BYTES + 1) * ENTRY_BYTES


def _big_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
