"""Transactions from another node on their way into the log.

Guarantees: nothing reaches the log that does not continue it and that, page by page, does not lead
to the checksum it promises. After an error the table of checksums is the one of the log's end.
Transactions of one call are made durable by one sync, on the helper thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from petsem.model import Position
from petsem.replication.drivers.database_file import PageReader
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError
from petsem.replication.ltx import page_checksum
from petsem.replication.rolling import Change, PageChecksums
from petsem.server.replica import kept_frames
from petsem.server.replica.errors import BadFrame, NotContiguous
from petsem.server.replica.frames import Frame, WrongSum, open_frame, plan
from petsem.server.replica.offload import offload
from petsem.server.replica.undo import Before, before, undone

_LARGE_BYTES: Final = 256 * 1024
_FILLED_INLINE: Final = 64

Refusal = BadFrame | NotContiguous | OSError | LogError


class Receiving:
    """`table` is that of `end`, where the log ends. `verified`: all pages together were compared
    with the checksum. `doubted`: files were refused so that this node's own database is suspect."""

    def __init__(
        self,
        transactions: TransactionLog,
        table: PageChecksums,
        reader: PageReader,
        helper: Executor,
    ) -> None:
        self.table = table
        self.verified = False
        self.doubted = False
        self._log = transactions
        self._reader = reader
        self._helper = helper
        self._refused_at: Position | None = None
        self.end = transactions.end or Position(0, 0, 0)
        self.verified = table.complete

    def move(self, table: PageChecksums) -> None:
        """The log begins anew, with the database that `table` is of."""
        assert self._log.end is not None
        self.end = self._log.end
        self.table = table
        self.verified = table.complete
        self.doubted = False
        self._refused_at = None

    async def receive(
        self, batch: Sequence[tuple[int, bytes]], log_directory: Path
    ) -> tuple[list[Frame], Refusal | None]:
        """Make durable what holds of `batch`, and say what ended it before its end."""
        frames: list[Frame] = []
        befores: list[Before] = []
        refusal: Refusal | None = None
        at = self.end
        for epoch, data in batch:
            try:
                frame = await self._open(epoch, data, at)
                change = await self._plan(frame)
            except (BadFrame, NotContiguous) as e:
                refusal = e
                self._refuse(e, at, data, log_directory)
                break
            befores.append(before(self.table, change))
            self.table.accept(change)
            frames.append(frame)
            at = frame.end
        if frames:
            failure = await self._store(frames, befores)
            refusal = failure or refusal
        return frames, refusal

    async def _open(self, epoch: int, data: bytes, at: Position) -> Frame:
        if len(data) < _LARGE_BYTES:
            return open_frame(epoch, data, at)
        return await offload(self._helper, open_frame, epoch, data, at)

    async def _plan(self, frame: Frame) -> Change:
        missing = self.table.unknown(frame.numbers, frame.header.commit)
        if len(missing) <= _FILLED_INLINE:
            self._fill(missing)
        else:
            await offload(self._helper, self._fill, missing)
        if frame.held is None or len(frame.data) >= _LARGE_BYTES:
            return await offload(self._helper, plan, frame, self.table)
        return plan(frame, self.table)

    def _fill(self, missing: list[int]) -> None:
        """Enter what the table does not know of pages that are about to change. A transaction
        that is not applied yet has none of them, so the file has them as they were."""
        for pgno in missing:
            page = self._reader.read(pgno)
            if page is None:
                self.doubted = True
                raise BadFrame("own-page-missing")
            self.table.fill(pgno, page_checksum(pgno, page))

    def _refuse(
        self, refusal: BadFrame | NotContiguous, at: Position, data: bytes, log_directory: Path
    ) -> None:
        if isinstance(refusal, BadFrame):
            kept_frames.keep(log_directory, at.txid, data)
        if isinstance(refusal, WrongSum) and not self.verified:
            # The sender may be right: what the pages replace was read from a file that nobody has
            # compared as a whole. The second time it is this node that needs help.
            self.doubted = self._refused_at == at
            self._refused_at = at

    async def _store(self, frames: list[Frame], befores: list[Before]) -> Refusal | None:
        """Write and sync them; `frames` keeps those that are on the disk."""
        failure: Refusal | None = None
        try:
            await offload(self._helper, self._write, frames)
        except (OSError, LogError) as e:
            failure = e
            synced = self._log.synced
            assert synced is not None
            kept = sum(1 for frame in frames if frame.end.txid <= synced.txid)
            self.table = undone(self.table, befores[kept:])
            del frames[kept:]
        if frames:
            self.end = frames[-1].end
        return failure

    def _write(self, frames: Sequence[Frame]) -> None:
        try:
            for frame in frames:
                self._log.append(frame.epoch, frame.data)
        except OSError:
            # What was appended before counts, if it can be synced.
            with contextlib.suppress(OSError):
                self._log.sync()
            raise
        self._log.sync()
