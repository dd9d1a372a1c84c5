"""What a stream brought, given to the disk.

Guarantees: nothing is stored of an epoch that another leader is bound to. What a Welcome says is
known to the rest of the node before anything is stored that came after it.
"""

from __future__ import annotations

import asyncio

import lz4.block

from petsem.replication.session.from_leader import (
    Rollback,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Welcome,
)
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.replica.errors import BadFrame
from petsem.server.replica.inbox import Batch, Item
from petsem.server.replica.parts import Again, FollowParts
from petsem.server.replica.progress import Progress


class Storing:
    """The work of one stream. `forced`: an operator has accepted that this node's own branch is
    dropped; `rolled_back`: it was. `stored`: something was, so the sender has been of use."""

    def __init__(self, parts: FollowParts, *, forced: bool) -> None:
        self._parts = parts
        self._forced = forced
        self._bound = 0
        self._leads = 0
        self._welcomed_s = 0.0
        self._progress: Progress | None = None
        self.rolled_back = False
        self.stored = False

    async def perform(self, item: Item | Batch) -> None:
        """Do what `item` asks for."""
        disk = self._parts.disk
        match item:
            case list():
                await disk.receive(item)
                self.stored = True
                if item[-1][0] > self._bound:
                    await self._bind_last()
            case SnapshotPages():
                await disk.snapshot_pages(item.first_page, _unpacked(item.block))
                if self._progress is not None:
                    self._progress.reached(item.first_page + item.count)
            case SnapshotBegin():
                self.close()
                self._progress = Progress(self._parts.clock, item.pages, item.first_page)
                await disk.begin_snapshot(item.at, item.pages, item.first_page)
            case SnapshotEnd():
                await self._end_snapshot(item)
            case Welcome():
                await self._welcome(item)
            case Rollback():
                await self._roll_back(item)

    def close(self) -> None:
        """The stream is over; a snapshot on its way is, too."""
        if self._progress is not None:
            self._progress.close()

    async def _welcome(self, said: Welcome) -> None:
        parts = self._parts
        if said.leads is not None:
            self._leads = said.leads[0]
            await self._bind(*said.leads)
        self._welcomed_s = asyncio.get_running_loop().time()
        # The way to the leader ends earlier while the other node has lost it.
        leader = said.path[-1] if said.leads is None else said.leads[1]
        parts.view.leader = LeaderAddresses(leader, *said.leader_at)
        parts.view.heard_of(said.epoch_seen)

    async def _end_snapshot(self, said: SnapshotEnd) -> None:
        if said.more:
            await self._parts.disk.snapshot_changes(said.at, said.ltx)
            return
        await self._parts.disk.end_snapshot(said.at, said.ltx)
        self.stored = True
        if self._progress is not None:
            self._progress.done()
        await self._bind_last()

    async def _roll_back(self, said: Rollback) -> None:
        now_s = asyncio.get_running_loop().time()
        # An old Welcome is of the branch that was left: hear first whose the other one is.
        fresh = now_s - self._welcomed_s <= self._parts.timings.dead_s
        at = self._parts.disk.durable
        if fresh and at is not None and said.fork.txid < at.txid:
            higher = self._leads > at.epoch
            await self._parts.disk.roll_back(said.fork, higher=higher, forced=self._forced)
            self.rolled_back = True
        raise Again

    async def _bind_last(self) -> None:
        epochs = self._parts.disk.epochs()
        if epochs:
            await self._bind(epochs[-1][0], epochs[-1][2])

    async def _bind(self, epoch: int, leader: str) -> None:
        if epoch > self._bound:
            await self._parts.bind(epoch, leader)
            self._bound = epoch


def _unpacked(block: bytes) -> bytes:
    """The pages of a run; the session has looked at the size that they announce."""
    try:
        pages: bytes = lz4.block.decompress(block)
    except lz4.block.LZ4BlockError:
        raise BadFrame("a run of pages cannot be unpacked") from None
    return pages
