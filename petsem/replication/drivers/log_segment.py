"""One segment of the log as a file: how far it goes, and finding and reading a record in it.

Guarantees: what is returned passed its CRC. A reader in another thread sees a record only when
all of it is written, since `tail` is replaced as one value. Nothing here changes a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.drivers.log_files import READ_CHUNK_BYTES, Descriptor
from petsem.replication.segment import (
    HEADER_BYTES,
    Kind,
    RecordHeader,
    SegmentError,
    SegmentName,
)
from petsem.replication.segment_index import SegmentIndex


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the next record goes, and the position after the last."""

    offset: int
    end: Position


class DamagedAt(Exception):  # noqa: N818 (it says where)
    """The record at `offset` of a segment does not hold."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"at byte {offset}")
        self.offset = offset


class Segment:
    """A contiguous run of records in one file, from `start` to `tail`.

    `size_bytes` is that of the file. The growing segment alone has `file`, open for writing, and
    `room_bytes`, the offset up to which records may go; others are opened for each reading.
    """

    __slots__ = (
        "base",
        "file",
        "index",
        "name",
        "oldest_ms",
        "path",
        "room_bytes",
        "size_bytes",
        "start",
        "tail",
    )

    def __init__(
        self,
        path: Path,
        name: SegmentName,
        base: Position,
        tail: Tail,
        index: SegmentIndex,
        *,
        size_bytes: int,
        oldest_ms: int | None,
        start: int = HEADER_BYTES,
        file: Descriptor | None = None,
        room_bytes: int = 0,
    ) -> None:
        self.path = path
        self.name = name
        self.base = base
        self.tail = tail
        self.index = index
        self.size_bytes = size_bytes
        self.oldest_ms = oldest_ms
        self.start = start
        self.file = file
        self.room_bytes = room_bytes

    @property
    def end(self) -> Position:
        return self.tail.end

    @property
    def is_empty(self) -> bool:
        return self.tail.offset == self.start

    def open(self) -> Descriptor:
        """For reading; FileNotFoundError if the segment was dropped meanwhile."""
        file = self.file
        return file if file is not None else Descriptor.open(self.path)

    def headers(self, file: Descriptor, txid: int = 0) -> Iterator[tuple[int, RecordHeader]]:
        """Offset and header of each record, from the one with `txid` on; `DamagedAt`."""
        tail = self.tail.offset
        at = self.index.find(txid)
        at = self.start if at is None else at
        while at < tail:
            header = data_header_at(file, self.name.number, at)
            if header is None:
                raise DamagedAt(at)
            if header.max_txid >= txid:
                yield at, header
            at += header.span


def header_at(file: Descriptor, number: int, offset: int) -> RecordHeader | None:
    """The header at `offset`, if there is one."""
    try:
        return RecordHeader.parse(file.read(HEADER_BYTES, offset), number, offset)
    except SegmentError:
        return None


def data_header_at(file: Descriptor, number: int, offset: int) -> RecordHeader | None:
    """The header of an LTX file at `offset`, if there is one."""
    header = header_at(file, number, offset)
    return header if header is not None and header.kind is Kind.DATA else None


def data_of(
    file: Descriptor, offset: int, header: RecordHeader, chunk_bytes: int = READ_CHUNK_BYTES
) -> Iterator[bytes]:
    """The data of the record at `offset` in chunks; `DamagedAt`, at the latest after the last."""
    at = offset + HEADER_BYTES
    end = at + header.length
    crc = crc64.xz(b"")
    while at < end:
        chunk = file.read(min(chunk_bytes, end - at), at)
        if not chunk:
            raise DamagedAt(offset)
        at += len(chunk)
        crc = crc64.xz(chunk, crc)
        yield chunk
    if crc != header.data_crc:
        raise DamagedAt(offset)


def is_whole(file: Descriptor, offset: int, header: RecordHeader) -> bool:
    """Whether the data of the record at `offset` is what was written."""
    try:
        for _ in data_of(file, offset, header):
            pass
    except DamagedAt:
        return False
    return True
