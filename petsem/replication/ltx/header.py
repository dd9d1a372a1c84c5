"""The first 100 bytes of a file: which transactions it holds, of which database image.

Guarantees: a parsed header obeys every rule of `RULES`, and no two headers have the same bytes.
Nothing else of the file has been looked at, and the file checksum has not been compared, so a
header alone is a claim.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from petsem.limits import LTX_COMMIT_MAX_PAGES
from petsem.replication.ltx.checksum import CHECKSUM_FLAG
from petsem.replication.ltx.errors import LtxError, Rule

MAGIC: Final = b"LTX1"
"""Names no version: 2 and 3 both begin with it."""
HEADER_BYTES: Final = 100
NO_CHECKSUM: Final = 1 << 1
"""Flag of a file that carries no checksums of its database."""

_LOCK_BYTE: Final = 1 << 30
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))
_FIELDS: Final = struct.Struct(">4sIIIQQqQqqIIQ20s")
_RESERVED: Final = bytes(20)
assert _FIELDS.size == HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """`commit` is the size of the database in pages after the file was applied.

    `timestamp_ms` counts from 1970. `pre_apply_checksum` is the database's before the file is
    applied, 0 for a snapshot. The `wal_` fields and `node_id` are notes of whoever wrote the file
    and decide nothing.
    """

    flags: int
    page_size: int
    commit: int
    min_txid: int
    max_txid: int
    timestamp_ms: int
    pre_apply_checksum: int
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: int = 0

    @property
    def is_snapshot(self) -> bool:
        """Whether it starts from nothing, and so must hold every page of the database."""
        return self.min_txid == 1

    @property
    def tracks_checksum(self) -> bool:
        """Whether it carries the database's checksum before and after."""
        return not self.flags & NO_CHECKSUM

    @property
    def lock_page(self) -> int:
        """The page that SQLite never uses, since its locks lie there."""
        return lock_page(self.page_size)

    def validate(self) -> None:
        """`LtxError` for the first rule that does not hold."""
        for rule, holds in RULES:
            if not holds(self):
                raise LtxError(rule)

    def encode(self) -> bytes:
        """The 100 bytes; `LtxError` if a rule does not hold or a field does not fit."""
        self.validate()
        try:
            return _FIELDS.pack(
                MAGIC,
                self.flags,
                self.page_size,
                self.commit,
                self.min_txid,
                self.max_txid,
                self.timestamp_ms,
                self.pre_apply_checksum,
                self.wal_offset,
                self.wal_size,
                self.wal_salt1,
                self.wal_salt2,
                self.node_id,
                _RESERVED,
            )
        except struct.error:
            raise LtxError(Rule.FIELD_RANGE) from None

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header that `data`, exactly 100 bytes, spells."""
        if len(data) != HEADER_BYTES:
            raise LtxError(Rule.TRUNCATED, f"a header of {len(data)} bytes")
        magic, *fields, reserved = _FIELDS.unpack(data)
        if magic != MAGIC:
            raise LtxError(Rule.MAGIC)
        if reserved != _RESERVED:
            raise LtxError(Rule.RESERVED)
        header = cls(*fields)
        header.validate()
        return header


def lock_page(page_size: int) -> int:
    """The number of the page in which the byte at 2^30 lies."""
    return _LOCK_BYTE // page_size + 1


def _tracked_increment(header: Header) -> bool:
    return not header.is_snapshot and header.tracks_checksum


# In this order: the first that does not hold is the one that is named.
RULES: Final[tuple[tuple[Rule, Callable[[Header], bool]], ...]] = (
    (Rule.FLAGS, lambda h: h.flags & ~NO_CHECKSUM == 0),
    (Rule.PAGE_SIZE, lambda h: h.page_size in _PAGE_SIZES),
    (Rule.COMMIT_LIMIT, lambda h: h.commit <= LTX_COMMIT_MAX_PAGES),
    (Rule.MIN_TXID_REQUIRED, lambda h: h.min_txid != 0),
    (Rule.MAX_TXID_REQUIRED, lambda h: h.max_txid != 0),
    (Rule.TXID_ORDER, lambda h: h.min_txid <= h.max_txid),
    (Rule.WAL_OFFSET_NEGATIVE, lambda h: h.wal_offset >= 0),
    (Rule.WAL_SIZE_NEGATIVE, lambda h: h.wal_size >= 0),
    (
        Rule.WAL_SALT_WITHOUT_OFFSET,
        lambda h: h.wal_offset != 0 or h.wal_salt1 == h.wal_salt2 == 0,
    ),
    (Rule.WAL_SIZE_WITHOUT_OFFSET, lambda h: h.wal_offset != 0 or h.wal_size == 0),
    (Rule.PRE_APPLY_ON_SNAPSHOT, lambda h: h.min_txid != 1 or h.pre_apply_checksum == 0),
    (Rule.PRE_APPLY_NOT_ALLOWED, lambda h: h.tracks_checksum or h.pre_apply_checksum == 0),
    (Rule.PRE_APPLY_REQUIRED, lambda h: not _tracked_increment(h) or h.pre_apply_checksum != 0),
    (
        Rule.PRE_APPLY_FORMAT,
        lambda h: not _tracked_increment(h) or h.pre_apply_checksum & CHECKSUM_FLAG != 0,
    ),
)
