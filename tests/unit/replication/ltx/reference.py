"""LTX once more, written from the byte tables alone; slow and plain, and it checks nothing.

It shares no code with `petsem.replication.ltx` and uses neither of its libraries: the CRC goes bit
by bit into a table, and a block is one run of literals. Each part of a file can be replaced, and
the file checksum is computed over what then stands there, so that a broken rule is the only fault.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path

VECTORS = Path(__file__).parents[3] / "vectors" / "ltx"
DOCS = Path(__file__).parents[4] / "docs" / "formats" / "ltx.md"
TOP = 1 << 63
ONES = 2**64 - 1
_POLYNOMIAL = 0xD800000000000000


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]


def crc(data: bytes) -> int:
    """CRC-64/GO-ISO: reflected, begun and ended with all ones."""
    value = ONES
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ ONES


def page_checksum(pgno: int, page: bytes) -> int:
    """The CRC of the page number and the page, top bit set."""
    return crc(struct.pack(">I", pgno) + page) | TOP


def database_checksum(pages: Iterable[tuple[int, bytes]]) -> int:
    """The XOR over all pages, top bit set; they must not hold the lock page."""
    return reduce(xor, (page_checksum(*page) for page in pages), 0) | TOP


def literals(page: bytes) -> bytes:
    """An LZ4 block that repeats nothing: a token, the length, the bytes."""
    rest = len(page) - 15
    assert rest >= 0
    return b"\xf0" + b"\xff" * (rest // 255) + bytes((rest % 255,)) + page


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first, the top bit set in all but the last."""
    out = []
    while number > 127:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def header(
    *,
    magic: bytes = b"LTX1",
    flags: int = 0,
    page_size: int = 512,
    commit: int = 3,
    min_txid: int = 5,
    max_txid: int = 5,
    timestamp_ms: int = 1_700_000_000_000,
    pre_apply_checksum: int = TOP | 7,
    wal_offset: int = 0,
    wal_size: int = 0,
    wal_salt1: int = 0,
    wal_salt2: int = 0,
    node_id: int = 0,
    reserved: bytes = bytes(20),
) -> bytes:
    """The 100 bytes."""
    return b"".join(
        (
            magic,
            struct.pack(">III", flags, page_size, commit),
            struct.pack(">QQqQ", min_txid, max_txid, timestamp_ms, pre_apply_checksum),
            struct.pack(">qqIIQ", wal_offset, wal_size, wal_salt1, wal_salt2, node_id),
            reserved,
        )
    )


@dataclass(frozen=True)
class Frame:
    """One page; `block` and `size` are those of the page unless something else is asked."""

    pgno: int
    page: bytes
    flags: int = 1
    block: bytes | None = None
    size: int | None = None

    @property
    def packed(self) -> bytes:
        """The block."""
        return literals(self.page) if self.block is None else self.block

    @property
    def head(self) -> bytes:
        """Page number, flags, size."""
        size = len(self.packed) if self.size is None else self.size
        return struct.pack(">IHI", self.pgno, self.flags, size)


def index_of(frames: Sequence[Frame]) -> bytes:
    """The page index without its size."""
    out, at = b"", 100
    for frame in frames:
        length = len(frame.head) + len(frame.packed)
        out += varint(frame.pgno) + varint(at) + varint(length)
        at += length
    return out + b"\0"


def file(
    first: bytes,
    frames: Sequence[Frame],
    post_apply_checksum: int = TOP | 9,
    *,
    end: bytes = bytes(6),
    index: bytes | None = None,
    index_size: int | None = None,
    file_checksum: int | None = None,
) -> bytes:
    """A file of these parts."""
    index = index_of(frames) if index is None else index
    index_size = len(index) if index_size is None else index_size
    tail = end + index + struct.pack(">QQ", index_size, post_apply_checksum)
    plain = first + b"".join(frame.head + frame.page for frame in frames) + tail
    stored = first + b"".join(frame.head + frame.packed for frame in frames) + tail
    found = crc(plain) | TOP if file_checksum is None else file_checksum
    return stored + struct.pack(">Q", found)


def page(seed: object, size: int = 512) -> bytes:
    """A page of bytes that nothing compresses."""
    return hashlib.shake_128(repr(seed).encode()).digest(size)


def transactions() -> list[bytes]:
    """The fourteen files of the vectors."""
    return [path.read_bytes() for path in sorted(VECTORS.glob("0*.ltx"))]


def apply(image: bytes, page_size: int, commit: int, pages: Iterable[tuple[int, bytes]]) -> bytes:
    """The database after a file: pages written where they belong, then its size set."""
    after = bytearray(image)
    for pgno, data in pages:
        at = (pgno - 1) * page_size
        after.extend(bytes(max(0, at - len(after))))
        after[at : at + page_size] = data
    end = commit * page_size
    after.extend(bytes(max(0, end - len(after))))
    return bytes(after[:end])


def pages_of(image: bytes, page_size: int) -> list[tuple[int, bytes]]:
    """Every page of a database that is too small to have a lock page."""
    return [
        (at // page_size + 1, image[at : at + page_size]) for at in range(0, len(image), page_size)
    ]
