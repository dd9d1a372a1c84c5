"""Who follows this node, and how far they have got.

Guarantees: a node counts for a position when it, or the node between, said on a stream that is
open now that the position's branch is on its disk so far; what was acknowledged on another branch
counts for nothing. Numbers are kept per node and never summed. Memory is bounded by
`limits.NODES_MAX`.

It believes what members say of themselves: a node of the cluster that lies about its own disk
makes a write look safer than it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from petsem import limits
from petsem.clock import Clock
from petsem.errors import conflict, invalid, limited
from petsem.model import Position, check_node
from petsem.replication.session.branch import Epoch, holds
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf

Epochs = Callable[[], Sequence[Epoch]]


@dataclass(slots=True, eq=False)
class Following:
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
    reports: dict[str, pb.NodeReport] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Waiter:
    position: Position
    count: int
    done: asyncio.Future[None]


class Followers:
    """The followers of one node."""

    def __init__(self, node_id: str, clock: Clock, epochs: Epochs) -> None:
        self._node_id = node_id
        self._clock = clock
        self._epochs = epochs
        self._nodes: dict[str, Following] = {}
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

    def following(self) -> list[Following]:
        """The direct followers whose stream is open, for looking at."""
        return list(self._open())

    def reports(self) -> dict[str, pb.NodeReport]:
        """The last word of each node behind this one, by id, also of those that left lately."""
        self._forget()
        found: dict[str, pb.NodeReport] = {}
        # Whoever is here now knows better than whoever left.
        for each in sorted(self._nodes.values(), key=lambda each: each.left_s is None):
            found.update(each.reports)
        return found

    def durable_at(self, position: Position) -> list[str]:
        """The nodes that have `position` on their disk: direct followers, and those behind them."""
        found = {
            node_id
            for each in self._open()
            for node_id, durable in self._durable_of(each)
            if self._has(durable, position)
        }
        return sorted(found)

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

    def joined(self, following: Following) -> None:
        """A stream was opened; one that the node had before counts no more."""
        before = self._nodes.get(following.node_id)
        if before is not None:
            following.reports = before.reports
        elif len(self._nodes) >= limits.NODES_MAX:
            self._drop_oldest()
        self._nodes[following.node_id] = following
        self._tell()

    def left(self, following: Following) -> None:
        """Its stream has ended."""
        following.left_s = self._clock.boot_s()
        self._tell()

    def acknowledged(self, following: Following, durable: Position | None, applied: int) -> None:
        """What the follower has on its disk and in its database."""
        following.durable = durable
        following.applied = applied
        if durable is not None:
            following.needs_from = durable.txid
        self._tell()

    def reported(self, following: Following, report: pb.NodeReport) -> None:
        """How a node is, as it says itself: the follower, or one behind it. `invalid` or `conflict`
        for what no honest follower says."""
        if report.ByteSize() > limits.NODE_REPORT_MAX_BYTES:
            raise invalid("a node's report is larger than it may be")
        check_node(report.node)
        if report.node == self._node_id:
            raise conflict("nodes follow each other in a circle; see `upstream` in petsem.toml")
        direct = report.node == following.node_id
        path = report.path
        # A follower that was not welcomed yet does not know its way to the leader.
        known = bool(path) or not direct
        if known and (path[:1] != [report.node] or len(path) > limits.STREAM_HOPS_MAX + 1):
            raise invalid("a node's report does not say how it came here")
        if not direct and following.node_id not in path:
            raise invalid("a node's report came another way than it says")
        if len(following.reports) >= limits.NODES_MAX and report.node not in following.reports:
            raise limited("a follower reports more nodes than a cluster has")
        following.reports[report.node] = report
        self._tell()

    def _durable_of(self, each: Following) -> list[tuple[str, Position]]:
        found = [] if each.durable is None else [(each.node_id, each.durable)]
        for node_id, report in each.reports.items():
            if node_id != each.node_id and report.HasField("durable"):
                found.append((node_id, position_from_protobuf(report.durable)))
        return found

    def _has(self, durable: Position, position: Position) -> bool:
        if durable.txid < position.txid or durable.epoch < position.epoch:
            return False
        # An epoch is one leader's: within it there are no two branches.
        return durable.epoch == position.epoch or holds(self._epochs(), durable)

    def _open(self) -> list[Following]:
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
