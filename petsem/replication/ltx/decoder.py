"""Reading a file, whole or pushed in chunks.

Guarantees: every byte is accounted for, and a file that ends where its trailer ends obeys all
rules of `Rule`. Memory: one chunk and one frame, the index (about 10 bytes a page), and of pages
only what the caller keeps; `decode` keeps all, at most `LTX_DECODE_MAX_BYTES` of them.

Header and pages are handed out before the file checksum, which stands at the end, was compared:
until the `Trailer` has come they are claims.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from petsem.limits import LTX_DECODE_MAX_BYTES
from petsem.replication.ltx.body import Body
from petsem.replication.ltx.errors import LtxError, Rule
from petsem.replication.ltx.frame import FRAME_HEAD, PAGE_HEAD, SIZED, max_block_bytes, unpack
from petsem.replication.ltx.header import HEADER_BYTES, Header
from petsem.replication.ltx.trailer import TRAILER_BYTES, Trailer

Page = tuple[int, bytes]
"""Page number and page."""
Event = Header | Page | Trailer


@dataclass(frozen=True, slots=True)
class LtxFile:
    """A whole file, every rule of it checked."""

    header: Header
    pages: tuple[Page, ...]
    trailer: Trailer


class _Expect(enum.Enum):
    HEADER = enum.auto()
    PAGE = enum.auto()
    INDEX = enum.auto()
    TRAILER = enum.auto()
    NOTHING = enum.auto()


class Decoder:
    """One file, pushed in chunks of any size: a `Header`, each `Page`, then the `Trailer`.

    `feed` does it in one call; `receive` and `next_event` hand out one event at a time, so that
    a chunk of well-packed pages does not unfold at once. An `LtxError` is final.
    """

    __slots__ = ("_at", "_body", "_data", "_expect", "_header", "_index")

    _header: Header
    _body: Body
    _index: memoryview

    def __init__(self) -> None:
        self._expect = _Expect.HEADER
        self._data = b""
        self._at = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """What `chunk` completes."""
        self.receive(chunk)
        events = []
        while (event := self.next_event()) is not None:
            events.append(event)
        return events

    def receive(self, chunk: bytes) -> None:
        """Take the next bytes of the file; less than a frame is ever kept for the next call."""
        self._data = self._data[self._at :] + chunk if self._at < len(self._data) else chunk
        self._at = 0

    def next_event(self) -> Event | None:
        """The next event; None if it needs more bytes, or there are no more."""
        if self._expect is _Expect.PAGE:
            page = self._page()
            if page is not None or self._expect is _Expect.PAGE:
                return page
        if self._expect is _Expect.HEADER:
            return self._first()
        if self._expect is _Expect.INDEX:
            self._compare_index()
        if self._expect is _Expect.TRAILER:
            return self._last()
        if self._expect is _Expect.NOTHING and self._at < len(self._data):
            raise LtxError(Rule.TRAILING)
        return None

    def finish(self) -> None:
        """No more bytes will come; `LtxError` if the file is not complete."""
        if self._expect is not _Expect.NOTHING:
            raise LtxError(Rule.TRUNCATED)

    def _first(self) -> Header | None:
        encoded = self._data[self._at : self._at + HEADER_BYTES]
        if len(encoded) < HEADER_BYTES:
            return None
        self._header = Header.parse(encoded)
        self._body = Body(self._header, encoded)
        self._at += HEADER_BYTES
        self._expect = _Expect.PAGE
        return self._header

    def _page(self) -> Page | None:
        data, at = self._data, self._at
        have = len(data) - at
        if have < PAGE_HEAD.size:
            return None
        pgno, flags = PAGE_HEAD.unpack_from(data, at)
        if not pgno and not flags:
            self._at += PAGE_HEAD.size
            self._index = memoryview(self._body.close())
            self._expect = _Expect.INDEX
            return None
        self._body.admit(pgno)
        if flags != SIZED:
            raise LtxError(Rule.PAGE_FLAGS, f"{flags:04x}")
        if have < FRAME_HEAD.size:
            return None
        page_size = self._header.page_size
        block_at = at + FRAME_HEAD.size
        head = data[at:block_at]
        size = FRAME_HEAD.unpack(head)[2]
        if not 0 < size <= max_block_bytes(page_size):
            raise LtxError(Rule.BLOCK_SIZE, str(size))
        end = block_at + size
        if end > len(data):
            return None
        page = unpack(data[block_at:end], page_size)
        self._body.add(head, pgno, page, size)
        self._at = end
        return pgno, page

    def _compare_index(self) -> None:
        # The pages determine the index, so it is compared and not parsed: no length that the
        # file names is believed, and no other spelling of a number passes.
        found = self._data[self._at : self._at + len(self._index)]
        if found != self._index[: len(found)]:
            raise LtxError(Rule.INDEX)
        self._at += len(found)
        self._index = self._index[len(found) :]
        if not self._index:
            self._expect = _Expect.TRAILER

    def _last(self) -> Trailer | None:
        encoded = self._data[self._at : self._at + TRAILER_BYTES]
        if len(encoded) < TRAILER_BYTES:
            return None
        trailer = Trailer.parse(encoded)
        trailer.validate(self._header)
        if trailer.file_checksum != self._body.file_checksum(trailer.post_apply_checksum):
            raise LtxError(Rule.FILE_CHECKSUM)
        self._body.check_database(trailer.post_apply_checksum)
        self._at += TRAILER_BYTES
        self._expect = _Expect.NOTHING
        return trailer


def decode(data: bytes) -> LtxFile:
    """The file that `data` is, to its last byte; `LtxError` if it breaks any rule."""
    decoder = Decoder()
    decoder.receive(data)
    header = decoder.next_event()
    if not isinstance(header, Header):
        raise LtxError(Rule.TRUNCATED)
    room = LTX_DECODE_MAX_BYTES // header.page_size
    pages: list[Page] = []
    while isinstance(event := decoder.next_event(), tuple):
        if len(pages) == room:
            raise LtxError(Rule.DECODED_SIZE, f"more than {room} pages")
        pages.append(event)
    if not isinstance(event, Trailer):
        raise LtxError(Rule.TRUNCATED)
    decoder.next_event()  # finds bytes after the trailer
    return LtxFile(header, tuple(pages), event)


def peek_header(data: bytes) -> Header:
    """The header that `data` begins with: a claim, since no checksum has been compared."""
    return Header.parse(data[:HEADER_BYTES])
