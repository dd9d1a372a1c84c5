"""What writer and reader keep while the pages of a file go by.

Guarantees: pages come in ascending order, within the database and without the lock page, and all
of them in a snapshot; the page index and the checksums are those of exactly these pages. It
holds about 10 bytes a page (the index), and no page.
"""

from __future__ import annotations

from typing import Final

from petsem.replication.ltx.checksum import CHECKSUM_FLAG, crc, page_checksum
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.frame import END
from petsem.replication.ltx.header import HEADER_BYTES, Header

_SIZE_BYTES: Final = 8


class Body:
    """The pages of the file that `header`, whose bytes are `encoded`, begins."""

    __slots__ = (
        "_checksum",
        "_crc",
        "_header",
        "_index",
        "_is_snapshot",
        "_last",
        "_lock_page",
        "_offset",
    )

    def __init__(self, header: Header, encoded: bytes) -> None:
        self._header = header
        self._lock_page = header.lock_page
        self._offset = HEADER_BYTES
        self._last = 0
        self._index = bytearray()
        self._crc = crc(encoded)
        self._checksum = CHECKSUM_FLAG
        self._is_snapshot = header.is_snapshot

    def admit(self, pgno: int) -> None:
        """`LtxError` unless `pgno` may be the next page."""
        if pgno <= self._last:
            rule = Rule.PAGE_NUMBER_REQUIRED if pgno < 1 else Rule.PAGE_ORDER
            raise LtxError(rule, f"{pgno} after {self._last}")
        if pgno > self._header.commit:
            raise LtxError(Rule.PAGE_BEYOND_COMMIT, f"{pgno} of {self._header.commit}")
        if pgno == self._lock_page:
            raise LtxError(Rule.LOCK_PAGE, str(pgno))
        if self._is_snapshot and pgno != self._following():
            raise LtxError(Rule.SNAPSHOT_PAGES, f"{pgno} after {self._last}")

    def add(self, head: bytes, pgno: int, page: bytes, size: int) -> None:
        """Count the admitted page whose frame is `head` and a block of `size` bytes."""
        self._last = pgno
        self._crc = crc(page, crc(head, self._crc))
        if self._is_snapshot:
            self._checksum ^= page_checksum(pgno, page)
        length = len(head) + size
        append = self._index.append
        for number in (pgno, self._offset, length):
            while number > 0x7F:
                append(number & 0x7F | 0x80)
                number >>= 7
            append(number)
        self._offset += length

    def close(self) -> bytes:
        """End the pages: the page index with its size, for these pages the only right one."""
        if self._is_snapshot and self._following() <= self._header.commit:
            raise LtxError(Rule.SNAPSHOT_PAGES, f"{self._last} of {self._header.commit}")
        self._index.append(0)
        self._index += len(self._index).to_bytes(_SIZE_BYTES, "big")
        index = bytes(self._index)
        self._crc = crc(index, crc(END, self._crc))
        return index

    def file_checksum(self, post_apply_checksum: int) -> int:
        """The file's checksum, after `close`: over the pages unpacked, not over their blocks."""
        return crc(post_apply_checksum.to_bytes(8, "big"), self._crc) | CHECKSUM_FLAG

    def check_database(self, post_apply_checksum: int) -> None:
        """`LtxError` if a snapshot's pages do not have this checksum; others cannot tell."""
        if self._is_snapshot and self._header.tracks_checksum:
            found = self._checksum | CHECKSUM_FLAG
            if post_apply_checksum != found:
                raise LtxError(Rule.POST_APPLY_OF_SNAPSHOT, f"the pages have {found:016x}")

    def _following(self) -> int:
        """The page after the last, in a file that holds all."""
        return self._last + (2 if self._last + 1 == self._lock_page else 1)
