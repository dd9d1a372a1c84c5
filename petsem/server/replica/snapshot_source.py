"""Snapshots of this node's database, for followers that files do not lead on.

Guarantees: no lock is held, neither of SQLite nor of anything else; pages and changes together are
the database at the position that the last message names, or the stream ends. Memory: one run of
pages, or one file of changes.

Why pages may be read beside the writer: a page of the file that is newer than T0, or half written,
is one that a transaction after T0 changed, and that is in the log before it can be in the file.
So the log (T0, T1], T1 taken after the last page, puts every such page right. What the file has
lost at its end since is zeros here, and either cut off by the log or written by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import lz4.block
import structlog

from petsem import limits
from petsem.errors import unavailable
from petsem.model import Position
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log_types import LogError
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, normalise
from petsem.server.replica.feed_files import File, Files, TooLong, merged
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

log = structlog.get_logger(__name__)

Emit = Callable[[pb.FromLeader], Awaitable[None]]


class SnapshotSource:
    """Makes snapshots of one database.

    `checkpointed` has all transactions up to some position copied into the database file, and
    returns that position; it raises `unavailable` where no snapshot may be made, such as while
    pages are known to be damaged. `position` is the end of what may be sent: everything that the
    file has is at or before it.
    """

    def __init__(
        self,
        database: Path,
        files: Files,
        *,
        checkpointed: Callable[[], Awaitable[Position]],
        position: Callable[[], Position | None],
    ) -> None:
        self._database = database
        self._files = files
        self._checkpointed = checkpointed
        self._position = position
        self._turn = asyncio.Semaphore(limits.SNAPSHOTS_AT_ONCE)
        self._not_before = 0

    def too_long(self, transaction: TooLong) -> None:
        """A transaction cannot be sent as changes: only snapshots from after it are of use."""
        self._not_before = max(self._not_before, transaction.position.txid + 1)

    async def send(
        self,
        resume: tuple[Position, int] | None,
        emit: Emit,
        begun: Callable[[Position], None],
        ending: Callable[[Position], None],
    ) -> None:
        """Send one snapshot, from where an interrupted one stopped if that is possible.

        `begun` is told from where on the log is needed until the end; `ending` is told where it
        leads, just before the last message.
        """
        async with self._turn:
            now = await self._now()
            at, first = resume if resume is not None and self._resumes(resume, now) else (now, 1)
            begun(at)
            await self._pages(at, first, emit)
            await self._changes(at, emit, ending)

    async def _now(self) -> Position:
        """A position that the database file is at, or past."""
        reached: Position = await self._checkpointed()
        at = self._files.position_of(reached.txid)
        if at is None or at.checksum is None or at.epoch != reached.epoch:
            raise unavailable("the node's log and database differ; see its log")
        return at

    def _resumes(self, resume: tuple[Position, int], now: Position) -> bool:
        at, first = resume
        return (
            self._not_before <= at.txid <= now.txid
            and first > 1
            and self._files.position_of(at.txid) == at
        )

    async def _pages(self, at: Position, first: int, emit: Emit) -> None:
        reader = PageReader(self._database)
        try:
            last = max(reader.size_pages(), first - 1)
            begin = pb.SnapshotBegin(at=position_to_protobuf(at), pages=last, first_page=first)
            await emit(pb.FromLeader(snapshot=begin))
            log.info("snapshot_sent_from", at=str(at), pages=last, first_page=first)
            while first <= last:
                count = min(limits.SNAPSHOT_RUN_PAGES, last - first + 1)
                if first <= LOCK_PAGE < first + count:
                    count = LOCK_PAGE - first
                if count:
                    block = _packed(reader, at, first, count)
                    run = pb.SnapshotPages(first_page=first, count=count, data=block)
                    await emit(pb.FromLeader(pages=run))
                first += count or 1
        finally:
            reader.close()

    async def _changes(self, at: Position, emit: Emit, ending: Callable[[Position], None]) -> None:
        end = self._position()
        if end is None or end.txid < at.txid or self._files.position_of(at.txid) != at:
            raise _changed()
        held: File | None = None
        reached = at
        async for file in self._between(at, end):
            if held is not None:
                await emit(_end(held.position, held, more=True))
            held, reached = file, file.position
        ending(reached)
        await emit(_end(reached, held, more=False))

    async def _between(self, at: Position, end: Position) -> AsyncIterator[File]:
        """Files that lead from `at` to `end`."""
        while at.txid < end.txid:
            try:
                groups = self._files.groups(at, end, bulk=True)
            except TooLong as large:
                self.too_long(large)
                raise unavailable("too much has changed meanwhile; connect again") from None
            except LogError:
                raise _changed() from None
            if not groups:
                raise _changed()
            for group in groups:
                for file in await merged(group):
                    yield file
                    at = file.position


def _packed(reader: PageReader, at: Position, first: int, count: int) -> bytes:
    pages = reader.block(first, count)
    if first == 1:
        pages = normalise(pages[:PAGE_SIZE], at.epoch, at.txid) + pages[PAGE_SIZE:]
    block: bytes = lz4.block.compress(pages, store_size=True)
    return block


def _end(at: Position, file: File | None, *, more: bool) -> pb.FromLeader:
    end = pb.SnapshotEnd(
        at=position_to_protobuf(at),
        ltx=b"" if file is None else file.data,
        epoch=at.epoch,
        more=more,
    )
    return pb.FromLeader(snapshot_end=end)


def _changed() -> Exception:
    return unavailable("this node's log is no more what it was; connect again")
