"""The records of a log segment, and the names of segments.

    magic "PLog" | format 1 | kind 1 | zero 2 | epochs 8 | length 8 | TXIDs 16 | checksums 16
    | timestamp 8 | synced 8 | CRC of the data 8 | CRC of the header 8          then the data

Guarantees: a header that parses was written whole, for exactly this place of exactly this segment,
so neither a torn write nor what an earlier use of the same space left behind passes for a record.
Every number is within its bounds before anybody takes memory for it. It does not look into the
data, and a CRC keeps no forger away.

Byte tables: `docs/formats/log.md`.
"""

from __future__ import annotations

import enum
import re
import struct
from dataclasses import dataclass
from typing import Final

from fastcrc import crc64

from petsem.model import Position
from petsem.replication.ltx import HEADER_BYTES as LTX_HEADER_BYTES
from petsem.replication.ltx import TRAILER_BYTES as LTX_TRAILER_BYTES

MAGIC: Final = b"PLog"
FORMAT: Final = 1
HEADER_BYTES: Final = 88
ALIGNMENT: Final = 8
"""Where a record may begin, so that the next one is found when a header is lost."""
ORIGIN: Final = Position(0, 0, 0)
"""Where a log begins whose first record is a snapshot: the empty database."""

_INDEX_ENTRY_BYTES: Final = 16
_LTX_MIN_BYTES: Final = LTX_HEADER_BYTES + LTX_TRAILER_BYTES
_FIELDS: Final = struct.Struct(">4sBBHIIQQQQQqQQ")
_PLACE: Final = struct.Struct(">QQ")
_CRC: Final = struct.Struct(">Q")
_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{8})\.seg", re.ASCII)
assert _FIELDS.size + _CRC.size == HEADER_BYTES


class Kind(enum.IntEnum):
    """What a record is; the numbers are stored."""

    BASE = 1
    """First in a segment: the position after which its records follow."""
    RESET = 2
    """The same, and all segments with a lower number are void."""
    DATA = 3
    """One LTX file."""
    MARK = 4
    """Everything before it in the segment is on the disk. The next record takes its place."""
    SEAL = 5
    """Last in a finished segment; the segment's index lies before it."""


class Rule(enum.StrEnum):
    """What a header must obey, in the order in which it is looked at."""

    TRUNCATED = "truncated"
    MAGIC = "magic"
    CHECKSUM = "checksum"
    FORMAT = "format"
    KIND = "kind"
    RESERVED = "reserved"
    FIELDS = "fields"


class SegmentError(ValueError):
    """A rule of the format is broken; `rule` says which."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(str(rule))
        self.rule = rule


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """One header. `epoch` is that of the last transaction, `pre_epoch` that before the first.

    `length` counts the bytes of data, of which `data_crc` is the CRC. `synced` is how much of the
    segment was known to be on the disk when this was written. The checksums are the database's
    before and after. In all kinds but DATA and SEAL first and last are the same.
    """

    kind: Kind
    pre_epoch: int
    epoch: int
    length: int
    min_txid: int
    max_txid: int
    pre_checksum: int
    post_checksum: int
    timestamp_ms: int
    synced: int
    data_crc: int

    @property
    def before(self) -> Position:
        """Where the database stood before the first transaction."""
        txid = self.min_txid - 1 if self.kind is Kind.DATA else self.min_txid
        return Position(self.pre_epoch, txid, self.pre_checksum)

    @property
    def after(self) -> Position:
        """Where it stood after the last."""
        return Position(self.epoch, self.max_txid, self.post_checksum)

    @property
    def span(self) -> int:
        """Bytes from this record to the next."""
        return span(self.length)

    def encode(self, number: int, offset: int) -> bytes:
        """The 88 bytes for byte `offset` of segment `number`."""
        return encode(
            number,
            offset,
            self.kind,
            (self.pre_epoch, self.epoch),
            self.length,
            (self.min_txid, self.max_txid),
            (self.pre_checksum, self.post_checksum),
            self.timestamp_ms,
            self.synced,
            self.data_crc,
        )

    @classmethod
    def parse(cls, data: bytes, number: int, offset: int) -> RecordHeader:
        """The header that `data`, 88 bytes found at `offset` of segment `number`, spells."""
        if len(data) != HEADER_BYTES:
            raise SegmentError(Rule.TRUNCATED)
        if data[:4] != MAGIC:
            raise SegmentError(Rule.MAGIC)
        body = data[: _FIELDS.size]
        if crc64.xz(_PLACE.pack(number, offset) + body) != _CRC.unpack_from(data, len(body))[0]:
            raise SegmentError(Rule.CHECKSUM)
        _, version, kind, reserved, *fields = _FIELDS.unpack(body)
        if version != FORMAT:
            raise SegmentError(Rule.FORMAT)
        if kind not in _KINDS:
            raise SegmentError(Rule.KIND)
        if reserved:
            raise SegmentError(Rule.RESERVED)
        header = cls(_KINDS[kind], *fields)
        if not header._holds(offset):
            raise SegmentError(Rule.FIELDS)
        return header

    def _holds(self, offset: int) -> bool:
        match self.kind:
            case Kind.DATA:
                return (
                    self.length >= _LTX_MIN_BYTES
                    and 1 <= self.min_txid <= self.max_txid
                    and self.pre_epoch <= self.epoch
                    and HEADER_BYTES <= self.synced <= offset
                )
            case Kind.SEAL:
                return (
                    self.min_txid <= self.max_txid
                    and self.pre_epoch <= self.epoch
                    and self.synced + self.length == offset
                    and self.length % _INDEX_ENTRY_BYTES == 0
                )
            case Kind.BASE | Kind.RESET:
                return self._is_point() and offset == self.synced == 0
            case Kind.MARK:
                return self._is_point() and HEADER_BYTES <= offset == self.synced

    def _is_point(self) -> bool:
        return (
            self.length == 0
            and self.min_txid == self.max_txid
            and self.pre_epoch == self.epoch
            and self.pre_checksum == self.post_checksum
        )


_KINDS: Final = {int(kind): kind for kind in Kind}


def encode(
    number: int,
    offset: int,
    kind: Kind,
    epochs: tuple[int, int],
    length: int,
    txids: tuple[int, int],
    checksums: tuple[int, int],
    timestamp_ms: int,
    synced: int,
    data_crc: int,
) -> bytes:
    """A header without the object, since each commit writes one; pairs are (before, after)."""
    body = _FIELDS.pack(
        MAGIC,
        FORMAT,
        kind,
        0,
        *epochs,
        length,
        *txids,
        *checksums,
        timestamp_ms,
        synced,
        data_crc,
    )
    return body + _CRC.pack(crc64.xz(_PLACE.pack(number, offset) + body))


def point(kind: Kind, position: Position, synced: int = 0) -> RecordHeader:
    """The header of a BASE, RESET or MARK at `position`, which has a checksum."""
    assert position.checksum is not None
    epoch, txid, checksum = position.epoch, position.txid, position.checksum
    return RecordHeader(kind, epoch, epoch, 0, txid, txid, checksum, checksum, 0, synced, 0)


def span(length: int) -> int:
    """Bytes that a record with `length` bytes of data takes."""
    return HEADER_BYTES + length + -length % ALIGNMENT


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """`BASE-NUMBER.seg`: the TXID before its first record, and a number that is never used again.

    Sorted by name, segments are in the order of their transactions.
    """

    base_txid: int
    number: int

    def __str__(self) -> str:
        return f"{self.base_txid:016x}-{self.number:08x}.seg"

    @classmethod
    def parse(cls, text: str) -> SegmentName | None:
        """The name that `text` spells, or None: other files may lie beside the segments."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(int(match[1], 16), int(match[2], 16))
