"""The last 16 bytes of a file: the checksum of the database after it, and that of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from petsem.replication.ltx.checksum import CHECKSUM_FLAG
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.header import Header

TRAILER_BYTES: Final = 16

_FIELDS: Final = struct.Struct(">QQ")
assert _FIELDS.size == TRAILER_BYTES


@dataclass(frozen=True, slots=True)
class Trailer:
    """Both have `CHECKSUM_FLAG` set; without tracking `post_apply_checksum` is 0."""

    post_apply_checksum: int
    file_checksum: int

    def validate(self, header: Header) -> None:
        """`LtxError` for the first rule that does not hold under `header`."""
        for rule, holds in RULES:
            if not holds(self, header):
                raise LtxError(rule)

    def encode(self) -> bytes:
        """The 16 bytes."""
        return _FIELDS.pack(self.post_apply_checksum, self.file_checksum)

    @classmethod
    def parse(cls, data: bytes) -> Trailer:
        """The trailer that `data`, exactly 16 bytes, spells; no rule has been looked at."""
        return cls(*_FIELDS.unpack(data))


# In this order: the first that does not hold is the one that is named.
RULES: Final[tuple[tuple[Rule, Callable[[Trailer, Header], bool]], ...]] = (
    (
        Rule.POST_APPLY_NOT_ALLOWED,
        lambda t, h: h.tracks_checksum or t.post_apply_checksum == 0,
    ),
    (
        Rule.POST_APPLY_REQUIRED,
        lambda t, h: not h.tracks_checksum or t.post_apply_checksum != 0,
    ),
    (
        Rule.POST_APPLY_FORMAT,
        lambda t, h: not h.tracks_checksum or t.post_apply_checksum & CHECKSUM_FLAG != 0,
    ),
    (
        Rule.POST_APPLY_OF_NOTHING,
        lambda t, h: (
            not h.tracks_checksum or h.commit != 0 or t.post_apply_checksum == CHECKSUM_FLAG
        ),
    ),
    (Rule.FILE_CHECKSUM_REQUIRED, lambda t, _: t.file_checksum != 0),
    (Rule.FILE_CHECKSUM_FORMAT, lambda t, _: t.file_checksum & CHECKSUM_FLAG != 0),
)
