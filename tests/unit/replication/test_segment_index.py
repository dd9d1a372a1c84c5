"""Where in a segment a transaction is."""

from __future__ import annotations

import sys

from petsem.replication.segment_index import STRIDE_BYTES, SegmentIndex, room_bytes


def built(*entries: tuple[int, int]) -> SegmentIndex:
    index = SegmentIndex()
    for txid, offset in entries:
        index.add(txid, offset)
    return index


def found(index: SegmentIndex, *txids: int) -> list[int | None]:
    return [index.find(txid) for txid in txids]


def test_the_last_record_that_begins_at_or_before() -> None:
    """Before the first there is none."""
    index = built((5, 88), (6, 300), (9, 700))
    assert found(index, 4, 5, 6, 7, 8, 9, 1000) == [None, 88, 300, 300, 300, 700, 700]
    assert found(SegmentIndex(), 1) == [None]


def test_until() -> None:
    """Only what begins before the offset stays."""
    index = built((5, 88), (6, 300), (9, 700)).until(700)
    assert (len(index), found(index, 9)) == (2, [300])


def test_thinned_keeps_the_first_and_one_a_stride() -> None:
    """However short or long the records are."""
    short = built(*((txid, 88 + txid * 1024) for txid in range(256))).thinned()
    assert found(short, 0, 63, 64, 255) == [88, 88, 88 + STRIDE_BYTES, 88 + 3 * STRIDE_BYTES]
    assert len(short) == 4
    long = built(*((txid, 88 + txid * 100_000) for txid in range(9)))
    assert long.thinned().encode() == long.encode()


def test_a_thinned_index_fits_its_room() -> None:
    """At every length of records."""
    for segment in (1 << 12, 1 << 16, (1 << 16) + 1, 1 << 20):
        for step in (208, 4096, 65_528, 65_536, 65_544, 100_000):
            entries = enumerate(range(88, segment, step))
            assert len(built(*entries).thinned().encode()) <= room_bytes(segment)


def test_the_bytes_of_an_index() -> None:
    """TXID and offset, big-endian on every machine."""
    index = built((0x0102, 88), (2**64 - 1, 2**40))
    encoded = bytes.fromhex("0000000000000102 0000000000000058 ffffffffffffffff 0000010000000000")
    assert index.encode() == encoded
    assert SegmentIndex.parse(encoded).encode() == encoded
    assert found(SegmentIndex.parse(encoded), 0x0102, 2**64 - 1) == [88, 2**40]
    assert SegmentIndex.parse(b"").encode() == b""


def test_an_entry_takes_sixteen_bytes() -> None:
    """Of memory, so a log of any size costs a 4,096th of it."""
    index = built(*((txid, 88 + txid * 1024) for txid in range(16_000)))
    arrays = [getattr(index, name) for name in SegmentIndex.__slots__]
    assert sum(map(sys.getsizeof, arrays)) < 20 * 16_000
    assert len(index.thinned()) * 16 <= 16_000 * 1024 // 4096
