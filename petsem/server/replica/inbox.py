"""What has arrived on a stream and is not stored yet.

Guarantees: messages come out in their order, and all transactions that lie side by side come out
together, up to a bound; the end comes out last, after everything that came before it. It holds
little more than `limits.FOLLOW_INBOX_MAX_BYTES`, as long as its filler waits for `room`.
"""

from __future__ import annotations

import asyncio
from collections import deque

from petsem import limits
from petsem.replication.session.from_leader import (
    Rollback,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Transactions,
    Welcome,
)

Item = Welcome | SnapshotBegin | SnapshotPages | SnapshotEnd | Rollback
"""What is worked on one by one."""
Batch = list[tuple[int, bytes]]
"""(epoch, LTX file) of transactions that follow each other."""


class Inbox:
    """One task fills it, one empties it."""

    def __init__(self) -> None:
        self._items: deque[Item | Transactions] = deque()
        self._bytes = 0
        self._end: Exception | None = None
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether nothing more should be read now."""
        return self._bytes >= limits.FOLLOW_INBOX_MAX_BYTES

    def put(self, item: Item | Transactions) -> None:
        """Add what arrived."""
        self._items.append(item)
        self._bytes += _size(item)
        if self.full:
            self._room.clear()
        self._filled.set()

    def end(self, error: Exception) -> None:
        """Nothing more comes, because of `error`. The first one counts."""
        if self._end is None:
            self._end = error
        self._filled.set()

    async def room(self) -> None:
        """Wait until more may be read."""
        if self.full:
            await self._room.wait()

    async def next(self) -> Item | Batch:
        """What to work on now; raises the end's error when nothing is left."""
        while not self._items:
            if self._end is not None:
                raise self._end
            self._filled.clear()
            await self._filled.wait()
        first = self._take()
        if not isinstance(first, Transactions):
            return first
        batch, held = [(first.epoch, first.ltx)], len(first.ltx)
        while self._items and isinstance(more := self._items[0], Transactions):
            held += len(more.ltx)
            if held > limits.FOLLOW_BATCH_MAX_BYTES:
                break
            self._take()
            batch.append((more.epoch, more.ltx))
        return batch

    def _take(self) -> Item | Transactions:
        item = self._items.popleft()
        self._bytes -= _size(item)
        if not self.full:
            self._room.set()
        return item


def _size(item: Item | Transactions) -> int:
    match item:
        case Transactions() | SnapshotEnd():
            return len(item.ltx)
        case SnapshotPages():
            return len(item.block)
    return 0
