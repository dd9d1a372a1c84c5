"""SQLite's write-ahead log: bytes in, committed transactions out.

Guarantees: a commit comes out only if every frame up to its commit frame carries the salts of the
header and, with `verify`, the running checksum; the first frame that does not is the end, quietly,
since that is how a WAL ends. Of a page written twice in one transaction the last one counts.
Frames of a transaction that has no commit frame yet are no commit.

Without `verify` it is for frames of which SQLite itself has said that they are committed: behind
them may stand what a failed COMMIT or a rolled back transaction left, with the same salts and even
with a commit frame. It does not know where a WAL lies or when it is read: that is the driver's.
Format: https://sqlite.org/walformat.html.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from petsem import limits
from petsem.replication.image import PAGE_SIZE
from petsem.replication.wal_checksum import ByteOrder, add, add_page

HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
FRAME_BYTES: Final = FRAME_HEADER_BYTES + PAGE_SIZE

_MAGIC: Final = 0x377F_0682
"""With the lowest bit set the checksum reads its words big-endian, else little-endian."""
_VERSION: Final = 3_007_000
_FRAME_HEADER: Final = struct.Struct(">II8s8s")
_FRAME: Final = struct.Struct(f">II8s8s{PAGE_SIZE}s")
_SIZES: Final = struct.Struct(">II")
_CHECKSUM: Final = struct.Struct(">II")

Fetch = Callable[[bytes, int, int], bytes]
"""(salts, page number, offset of the page in the WAL) → the page."""


class WalError(ValueError):
    """Not the header of a WAL that we could read; `rule` names what is wrong with it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class WalHeader:
    """The first 32 bytes of a WAL. `checksum` is that of the header, with which the first frame's
    begins; `checkpoint` counts restarts, but every connection counts its own."""

    order: ByteOrder
    checkpoint: int
    salts: bytes
    checksum: bytes

    @classmethod
    def parse(cls, data: bytes) -> WalHeader:
        """The header in the first bytes of `data`. Raises WalError, its `rule` LENGTH, MAGIC,
        CHECKSUM, VERSION or PAGE_SIZE; with the first three SQLite, too, sees an empty WAL."""
        if len(data) < HEADER_BYTES:
            raise WalError("LENGTH", "a WAL's header is 32 bytes long")
        magic, version, page_size, checkpoint, salts, checksum = struct.unpack_from(
            ">IIII8s8s", data
        )
        if magic & ~1 != _MAGIC:
            raise WalError("MAGIC", "this is not a WAL")
        order: ByteOrder = "big" if magic & 1 else "little"
        if _CHECKSUM.pack(*add((0, 0), data[:24], order)) != checksum:
            raise WalError("CHECKSUM", "the WAL's header does not fit its checksum")
        if version != _VERSION:
            raise WalError("VERSION", f"the WAL has format {version}; only {_VERSION} is known")
        if page_size != PAGE_SIZE:
            raise WalError("PAGE_SIZE", f"the WAL has pages of {page_size} bytes, not {PAGE_SIZE}")
        return cls(order, checkpoint, salts, checksum)

    @property
    def start(self) -> WalEnd:
        """Where reading begins: before the first frame."""
        return WalEnd(self.salts, 0, self.checksum)


@dataclass(frozen=True, slots=True)
class WalEnd:
    """How far a WAL was read: behind the commit frame of a transaction, or before the first one.

    `checksum` is the running one there, as the frame stores it.
    """

    salts: bytes
    frames: int
    checksum: bytes

    @property
    def offset(self) -> int:
        """The byte of the WAL that comes next."""
        return HEADER_BYTES + self.frames * FRAME_BYTES


@dataclass(frozen=True, slots=True)
class WalCommit:
    """One committed transaction.

    `size` is the database's in pages after it. Pages beyond a number of them are not held but
    fetched from the WAL when they are asked for, so a large transaction must be read before the
    WAL is allowed to start again.
    """

    size: int
    end: WalEnd
    found: dict[int, bytes | int] = field(repr=False)
    """Page number → the page, or where in the WAL it is."""
    fetch: Fetch = field(repr=False, compare=False)

    def page_numbers(self) -> list[int]:
        """The pages that it leaves changed, in ascending order."""
        # One that outgrew its cache may have written pages that it then cut off.
        return [pgno for pgno in sorted(self.found) if pgno <= self.size]

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(page number, page), in ascending order. Raises what `fetch` raises."""
        for pgno in self.page_numbers():
            yield pgno, self.page(pgno)

    def page(self, pgno: int) -> bytes:
        """One page that it wrote. KeyError if it did not; raises what `fetch` raises."""
        page = self.found[pgno]
        return self.fetch(self.end.salts, pgno, page) if isinstance(page, int) else page


class WalScanner:
    """Takes frames from `end` on and collects `commits`; `done` once one does not fit.

    `hold` bounds how many pages are kept in memory; of the others it keeps the place.
    """

    def __init__(
        self,
        header: WalHeader,
        end: WalEnd,
        fetch: Fetch,
        *,
        verify: bool,
        hold: int = limits.WAL_PAGES_HELD,
    ) -> None:
        self.commits: list[WalCommit] = []
        self.end = end
        self.done = False
        self._order: ByteOrder = header.order
        self._salts = header.salts
        self._fetch = fetch
        self.verify = verify
        self._room = hold
        self._frames = end.frames
        self._checksum = end.checksum
        self._found: dict[int, bytes | int] = {}

    @property
    def offset(self) -> int:
        """The byte of the WAL with which the next data has to begin."""
        return HEADER_BYTES + self._frames * FRAME_BYTES

    def feed(self, data: bytes) -> None:
        """Take the whole frames at the start of `data`; what is left over comes again."""
        salts, frames, room = self._salts, self._frames, self._room
        checksum = self._checksum
        whole = len(data) - len(data) % FRAME_BYTES
        if whole < len(data):
            data = data[:whole]
        for pgno, size, found_salts, found_checksum, page in _FRAME.iter_unpack(data):
            if found_salts != salts or pgno == 0:
                self.done = True
                break
            if self.verify:
                state = add(_CHECKSUM.unpack(checksum), _SIZES.pack(pgno, size), self._order)
                if _CHECKSUM.pack(*add_page(state, page, self._order)) != found_checksum:
                    self.done = True
                    break
            checksum = found_checksum
            if room > 0:
                room -= 1
                self._found[pgno] = page
            else:
                self._found[pgno] = HEADER_BYTES + frames * FRAME_BYTES + FRAME_HEADER_BYTES
            frames += 1
            if size:
                self.end = WalEnd(salts, frames, checksum)
                self.commits.append(WalCommit(size, self.end, self._found, self._fetch))
                self._found = {}
        self._frames, self._room, self._checksum = frames, room, checksum


def frame_page(data: bytes, salts: bytes, pgno: int) -> bytes | None:
    """The page in the one frame `data`, or None if that is no longer a frame of this page under
    these salts."""
    if len(data) != FRAME_BYTES:
        return None
    found, _, found_salts, _ = _FRAME_HEADER.unpack_from(data)
    return data[FRAME_HEADER_BYTES:] if (found, found_salts) == (pgno, salts) else None
