"""The records of a log segment: each rule, and what no other place takes for its own."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from petsem.model import Position
from petsem.replication.segment import (
    HEADER_BYTES,
    ORIGIN,
    Kind,
    RecordHeader,
    Rule,
    SegmentError,
    SegmentName,
    point,
    span,
)

NUMBER, OFFSET = 7, 4096
DATA = RecordHeader(
    kind=Kind.DATA,
    pre_epoch=2,
    epoch=3,
    length=3000,
    min_txid=41,
    max_txid=42,
    pre_checksum=0x8000_0000_0000_0001,
    post_checksum=0x8000_0000_0000_0002,
    timestamp_ms=1_800_000_000_000,
    synced=1024,
    data_crc=0x1122_3344_5566_7788,
)
SEAL = dataclasses.replace(DATA, kind=Kind.SEAL, length=32, synced=OFFSET - 32)
HERE = Position(3, 42, 0x8000_0000_0000_0002)


def refused(data: bytes, number: int = NUMBER, offset: int = OFFSET) -> Rule:
    with pytest.raises(SegmentError) as caught:
        RecordHeader.parse(data, number, offset)
    assert str(caught.value) == str(caught.value.rule)
    return caught.value.rule


def signed(body: bytes, number: int = NUMBER, offset: int = OFFSET) -> bytes:
    """`body` with the CRC that belongs to it, whatever it says."""
    return body + struct.pack(">Q", crc_64_xz(struct.pack(">QQ", number, offset) + body))


def crc_64_xz(data: bytes) -> int:
    """Bit by bit, from the definition of CRC-64/XZ."""
    crc = 2**64 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xC96C_5795_D787_0F42 if crc & 1 else 0)
    return crc ^ 2**64 - 1


def test_the_bytes_of_a_record() -> None:
    """Byte by byte as the page says."""
    body = bytes.fromhex(
        "504c6f67"
        "01"
        "03"
        "0000"
        "00000002"
        "00000003"
        "0000000000000bb8"
        "0000000000000029"
        "000000000000002a"
        "8000000000000001"
        "8000000000000002"
        "000001a3185c5000"
        "0000000000000400"
        "1122334455667788"
    )
    assert DATA.encode(NUMBER, OFFSET) == body + bytes.fromhex("ae008042fbaecf34")
    assert signed(body) == DATA.encode(NUMBER, OFFSET)


@pytest.mark.parametrize(
    ("header", "offset"),
    [
        (DATA, OFFSET),
        (SEAL, OFFSET),
        (point(Kind.BASE, HERE), 0),
        (point(Kind.RESET, ORIGIN), 0),
        (point(Kind.MARK, HERE, OFFSET), OFFSET),
    ],
)
def test_each_kind_comes_back(header: RecordHeader, offset: int) -> None:
    """What is encoded parses to itself."""
    encoded = header.encode(NUMBER, offset)
    assert len(encoded) == HEADER_BYTES
    assert RecordHeader.parse(encoded, NUMBER, offset) == header


def test_positions_of_a_header() -> None:
    """Before and after; of a point they are the same."""
    assert DATA.before == Position(2, 40, DATA.pre_checksum)
    assert DATA.after == HERE
    for kind, offset in ((Kind.BASE, 0), (Kind.RESET, 0), (Kind.MARK, OFFSET)):
        header = point(kind, HERE, offset)
        assert (header.before, header.after) == (HERE, HERE)
    assert SEAL.before == Position(2, 41, DATA.pre_checksum)


def test_another_place_refuses_it() -> None:
    """A header is good for one offset of one segment."""
    encoded = DATA.encode(NUMBER, OFFSET)
    assert refused(encoded, number=NUMBER + 1) is Rule.CHECKSUM
    assert refused(encoded, offset=OFFSET + 8) is Rule.CHECKSUM


def test_every_flipped_bit_is_refused() -> None:
    """Wherever it is."""
    encoded = DATA.encode(NUMBER, OFFSET)
    for bit in range(HEADER_BYTES * 8):
        altered = bytearray(encoded)
        altered[bit // 8] ^= 1 << bit % 8
        expected = Rule.MAGIC if bit < 32 else Rule.CHECKSUM
        assert refused(bytes(altered)) is expected


def test_truncated() -> None:
    """A header is 88 bytes, no less and no more."""
    encoded = DATA.encode(NUMBER, OFFSET)
    assert refused(encoded[:-1]) is Rule.TRUNCATED
    assert refused(encoded + b"\0") is Rule.TRUNCATED
    assert refused(b"") is Rule.TRUNCATED


def _altered(at: int, value: bytes) -> bytes:
    body = DATA.encode(NUMBER, OFFSET)[:-8]
    return signed(body[:at] + value + body[at + len(value) :])


def test_magic() -> None:
    """Zeros, as after the last record, are no header."""
    assert refused(bytes(HEADER_BYTES)) is Rule.MAGIC


def test_format() -> None:
    """Another format is not guessed at."""
    assert refused(_altered(4, b"\x02")) is Rule.FORMAT


def test_kind() -> None:
    """Kinds are those of the table."""
    assert refused(_altered(5, b"\x00")) is Rule.KIND
    assert refused(_altered(5, b"\x06")) is Rule.KIND


def test_reserved() -> None:
    """Reserved bytes are zero."""
    assert refused(_altered(6, b"\x00\x01")) is Rule.RESERVED


@pytest.mark.parametrize(
    ("header", "offset"),
    [
        (dataclasses.replace(DATA, length=115), OFFSET),
        (dataclasses.replace(DATA, min_txid=0), OFFSET),
        (dataclasses.replace(DATA, min_txid=43), OFFSET),
        (dataclasses.replace(DATA, pre_epoch=4), OFFSET),
        (dataclasses.replace(DATA, synced=OFFSET + 8), OFFSET),
        (dataclasses.replace(DATA, synced=80), OFFSET),
        (dataclasses.replace(SEAL, synced=OFFSET), OFFSET),
        (dataclasses.replace(SEAL, length=24, synced=OFFSET - 24), OFFSET),
        (dataclasses.replace(SEAL, min_txid=43), OFFSET),
        (dataclasses.replace(SEAL, pre_epoch=4), OFFSET),
        (point(Kind.BASE, HERE), OFFSET),
        (point(Kind.RESET, HERE), OFFSET),
        (point(Kind.MARK, HERE, OFFSET), OFFSET + 8),
        (point(Kind.MARK, HERE), 0),
        (dataclasses.replace(point(Kind.BASE, HERE), max_txid=43), 0),
        (dataclasses.replace(point(Kind.BASE, HERE), epoch=4), 0),
        (dataclasses.replace(point(Kind.BASE, HERE), post_checksum=0), 0),
        (dataclasses.replace(point(Kind.BASE, HERE), length=8), 0),
    ],
)
def test_fields(header: RecordHeader, offset: int) -> None:
    """What cannot be of this kind at this place is refused, though its CRC is right."""
    assert refused(header.encode(NUMBER, offset), offset=offset) is Rule.FIELDS


def test_records_begin_at_multiples_of_eight() -> None:
    """The header and the data, rounded up."""
    assert [span(length) for length in (0, 1, 8, 116)] == [88, 96, 96, 208]


def test_names_sort_as_transactions_do() -> None:
    """By the TXID before the first record, then by number; anything else is no segment."""
    name = SegmentName(0x2A, 7)
    assert str(name) == "000000000000002a-00000007.seg"
    assert SegmentName.parse(str(name)) == name
    assert sorted([SegmentName(9, 1), SegmentName(2, 3), SegmentName(2, 2)]) == [
        SegmentName(2, 2),
        SegmentName(2, 3),
        SegmentName(9, 1),
    ]
    for text in ("", "quarantine", f"{name}.tmp", str(name).upper(), "2a-7.seg"):
        assert SegmentName.parse(text) is None
