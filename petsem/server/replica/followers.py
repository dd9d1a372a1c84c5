"""Who follows this node, and how far they have got.

Guarantees: a node counts for a position when it acknowledged on a stream that is open now that the
position's branch is on its disk so far. One that follows at a distance counts by what it reported
lately over such a stream, if it is a member and has no stream of its own here. What is of another
branch counts for nothing. Numbers are kept per node and never summed. Memory is bounded by
`limits.NODES_MAX`.

It believes what members say of their disks, and what those between say of the disks behind them: a
node of the cluster that lies makes a write look safer than it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from petsem import limits
from petsem.clock import Clock
from petsem.model import Position
from petsem.replication.session.branch import Epoch, holds
from petsem.server.replica.hearsay import Hearsay, Teller
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf

Epochs = Callable[[], Sequence[Epoch]]


@dataclass(slots=True, eq=False)
class Follower:
    """A direct follower, on its open stream or after it. `schema`, `epoch_seen` and `keks` are as
    its hello said; `needs_from` is the transaction before those that it still needs."""

    node_id: str
    region: str
    schema: int = 0
    epoch_seen: int = 0
    keks: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    durable: Position | None = None
    applied: int = 0
    needs_from: int | None = None
    left_s: float | None = None
    teller: Teller = field(init=False)

    def __post_init__(self) -> None:
        self.teller = Teller(self.node_id, follows=True)


@dataclass(slots=True, eq=False)
class _Waiter:
    position: Position
    count: int
    done: asyncio.Future[None]


class Followers:
    """The followers of one node."""

    def __init__(self, clock: Clock, epochs: Epochs, hearsay: Hearsay) -> None:
        self._hearsay = hearsay
        self._clock = clock
        self._epochs = epochs
        self._nodes: dict[str, Follower] = {}
        self._waiters: list[_Waiter] = []
        self._changed = asyncio.Event()

    @property
    def connected(self) -> list[str]:
        """The direct followers whose stream is open."""
        return [each.node_id for each in self._open()]

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change, once: take it before looking, then wait for it."""
        return self._changed

    def behind(self) -> set[str]:
        """The nodes that follow this one now, directly or over others."""
        return {*self.connected, *(node_id for node_id, _ in self._hearsay.behind())}

    def live(self) -> dict[str, pb.NodeReport]:
        """The last word of each node that follows this one now, directly or over others, by id."""
        return {node_id: heard.report for node_id, heard in self._hearsay.behind()}

    def durable_at(self, position: Position) -> list[str]:
        """The nodes that have `position` on their disk: direct followers, and those behind them."""
        durable = {each.node_id: each.durable for each in self._open()}
        for node_id, heard in self._hearsay.behind():
            if node_id not in durable and heard.report.HasField("durable"):
                durable[node_id] = position_from_protobuf(heard.report.durable)
        return sorted(
            node_id for node_id, at in durable.items() if at is not None and self._has(at, position)
        )

    async def wait(self, position: Position, count: int, timeout_s: float) -> list[str]:
        """Wait until `count` nodes have `position`, at most `timeout_s`; those that have it."""
        found = self.durable_at(position)
        if len(found) >= count:
            return found
        waiter = _Waiter(position, count, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.done
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)
        return self.durable_at(position)

    def floor_txid(self) -> int | None:
        """The log is needed after this transaction by whoever follows, or did lately; None if
        nobody says."""
        self._forget()
        needs = [each.needs_from for each in self._nodes.values() if each.needs_from is not None]
        return min(needs, default=None)

    def joined(self, follower: Follower) -> None:
        """A stream was opened; one that the node had before counts no more."""
        before = self._nodes.get(follower.node_id)
        if before is not None:
            before.teller.open = False
        elif len(self._nodes) >= limits.NODES_MAX:
            self._drop_oldest()
        self._nodes[follower.node_id] = follower
        self._tell()

    def left(self, follower: Follower) -> None:
        """Its stream has ended."""
        follower.left_s = self._clock.boot_s()
        follower.teller.open = False
        self._tell()

    def acknowledged(self, follower: Follower, durable: Position | None, applied: int) -> None:
        """What the follower has on its disk and in its database."""
        follower.durable = durable
        follower.applied = applied
        if durable is not None:
            follower.needs_from = durable.txid
        self._tell()

    def reported(self, follower: Follower, report: pb.NodeReport) -> None:
        """How a node is, as it says itself: the follower, or one behind it."""
        if self._hearsay.take(follower.teller, report):
            self._tell()

    def _has(self, durable: Position, position: Position) -> bool:
        if durable.txid < position.txid or durable.epoch < position.epoch:
            return False
        # Its stream is open, so it goes on with this node's branch, and the epoch is that one's.
        return durable.epoch == position.epoch or holds(self._epochs(), durable)

    def _open(self) -> list[Follower]:
        return [each for each in self._nodes.values() if each.left_s is None]

    def _forget(self) -> None:
        before_s = self._clock.boot_s() - limits.FOLLOWER_REMEMBERED_S
        for each in list(self._nodes.values()):
            if each.left_s is not None and each.left_s < before_s:
                del self._nodes[each.node_id]

    def _drop_oldest(self) -> None:
        gone = [each for each in self._nodes.values() if each.left_s is not None]
        if gone:
            del self._nodes[min(gone, key=lambda each: each.left_s or 0.0).node_id]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for waiter in self._waiters:
            if not waiter.done.done() and self._enough(waiter):
                waiter.done.set_result(None)

    def _enough(self, waiter: _Waiter) -> bool:
        return len(self.durable_at(waiter.position)) >= waiter.count
