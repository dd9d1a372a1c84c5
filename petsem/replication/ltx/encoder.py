"""Writing a file, whole or piece by piece.

Guarantees: what is written obeys the rules that `decoder` holds files to, or nothing that a
reader would accept comes out: the last piece, without which a file is truncated, is made only
when all is well. It takes the checksum of the database after the file from its caller, and
compares it with the pages only in a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable

from petsem.replication.ltx.body import Body
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.frame import END, FRAME_HEAD, SIZED, pack
from petsem.replication.ltx.header import Header
from petsem.replication.ltx.trailer import Trailer


class Encoder:
    """A file in pieces: `start`, then `page` in ascending order, then `finish`.

    It keeps about 10 bytes a page, whatever the size of the file.
    """

    __slots__ = ("_body", "_header", "_open", "_page_size", "_start")

    def __init__(self, header: Header) -> None:
        self._header = header
        self._page_size = header.page_size
        self._start = header.encode()
        self._body = Body(header, self._start)
        self._open = False

    def start(self) -> bytes:
        """The header; once, before anything else."""
        assert not self._open
        self._open = True
        return self._start

    def page(self, pgno: int, data: bytes) -> bytes:
        """The frame of one page; `LtxError` if it may not come here."""
        assert self._open
        self._body.admit(pgno)
        if len(data) != self._page_size:
            raise LtxError(Rule.PAGE_LENGTH, f"{len(data)} bytes of {self._page_size}")
        block = pack(data)
        head = FRAME_HEAD.pack(pgno, SIZED, len(block))
        self._body.add(head, pgno, data, len(block))
        return head + block

    def finish(self, post_apply_checksum: int) -> bytes:
        """End marker, page index and trailer; once, after the last page."""
        assert self._open
        self._open = False
        index = self._body.close()
        try:
            checksum = self._body.file_checksum(post_apply_checksum)
        except OverflowError:
            raise LtxError(Rule.FIELD_RANGE) from None
        trailer = Trailer(post_apply_checksum, checksum)
        trailer.validate(self._header)
        self._body.check_database(post_apply_checksum)
        return b"".join((END, index, trailer.encode()))


def encode(header: Header, pages: Iterable[tuple[int, bytes]], post_apply_checksum: int) -> bytes:
    """The whole file of `pages`, which are (page number, page) in ascending order."""
    encoder = Encoder(header)
    parts = [encoder.start()]
    parts += [encoder.page(pgno, data) for pgno, data in pages]
    parts.append(encoder.finish(post_apply_checksum))
    return b"".join(parts)
