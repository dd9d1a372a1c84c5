"""One stream from another node, from hello to its end.

Guarantees: what arrives is held against the session's rules at once, also while the disk is busy;
what passed is stored in order, in as large batches as have arrived, and what is stored is
acknowledged. Whatever ends the stream, no call to the disk is cut short by it, and what arrived
before is stored. `run` ends with an exception only, which says why.

The disk's work runs in the task that called `run`; three more read, write and watch.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

import grpc

from petsem import limits
from petsem.errors import PetsemError, conflict, unavailable
from petsem.replication.session.follow import Broken, FollowSession, OtherLeader, Own, Rule
from petsem.replication.session.from_leader import (
    Heartbeat,
    Message,
    SnapshotBegin,
    SnapshotEnd,
    Transactions,
    Welcome,
)
from petsem.server.replica import messages
from petsem.server.replica.hearsay import Teller
from petsem.server.replica.inbox import Batch, Inbox, Item
from petsem.server.replica.outgoing import Outgoing
from petsem.server.replica.parts import Again, FollowParts
from petsem.server.replica.storing import Storing
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf

Call = grpc.aio.StreamStreamCall[Any, Any]

SAY_BYTES: Final = limits.STREAM_WINDOW_BYTES // 8
"""After so many received bytes the sender is told, also before they are stored."""
NEVER_MS: Final = 2**32 - 1
"""The age of a leader that the other node has never heard."""
REMEMBER_EVERY_S: Final = 10.0


class Following:
    """One stream over `call`. `welcomed` is told once who answers, `heard` at each heartbeat.
    `expected` is the id of the node that was dialled, None if it was dialled by its address alone.

    `forced`: an operator has accepted that this node's own branch is dropped. `best`: there is no
    node that should rather be followed.
    """

    def __init__(
        self,
        call: Call,
        hello: bytes,
        own: Own,
        parts: FollowParts,
        *,
        expected: str | None,
        welcomed: Callable[[str], None],
        heard: Callable[[], None],
        forced: bool = False,
        best: bool = True,
    ) -> None:
        self._call = call
        self._parts = parts
        self._expected = expected
        self._welcomed = welcomed
        self._heard = heard
        self._best = best
        self._session = FollowSession(own)
        self._teller: Teller | None = None
        self._inbox = Inbox()
        self._outgoing = Outgoing(call, hello, self._ack, self._reports, parts.timings.report_s)
        self.storing = Storing(parts, forced=forced)
        self._in_snapshot = False
        self._node: str | None = None
        self._left: PetsemError | None = None
        self._unsaid_bytes = 0
        self._began_s = self._heard_s = asyncio.get_running_loop().time()
        self._quiet_s = parts.timings.connect_s

    def moved(self) -> None:
        """The disk's durable or applied position moved."""
        self._outgoing.moved()

    def leave_unless(self, has: Callable[[str], bool]) -> None:
        """End it at once, and store nothing more, if `has` does not know whom it follows."""
        if self._node is not None and not has(self._node):
            self._left = not_a_member()
            self.end(self._left)

    def end(self, error: Exception) -> None:
        """End it once what has arrived is stored."""
        self._inbox.end(error)

    async def run(self) -> NoReturn:
        """Follow until something ends it."""
        work = self._read(), self._outgoing.run(), self._watch()
        helpers = [asyncio.create_task(each, name="follow") for each in work]
        try:
            while True:
                await self._perform(await self._inbox.next())
        finally:
            if self._teller is not None:
                self._teller.open = False
            self.storing.close()
            self._outgoing.close()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _perform(self, item: Item | Batch) -> None:
        if isinstance(item, Welcome) and self._expected not in (None, item.node_id):
            # Before anything that it says is bound or shown.
            raise Broken(Rule.PATH)
        if self._left is not None:
            raise self._left
        await self.storing.perform(item)
        if isinstance(item, Welcome):
            self._teller = Teller(item.node_id, follows=False)
            self._goes()
            self._welcomed(item.node_id)
        elif isinstance(item, SnapshotEnd) and not item.more:
            self._in_snapshot = False
        self._outgoing.moved()

    async def _read(self) -> None:
        loop, heard = asyncio.get_running_loop(), False
        try:
            while True:
                if self._inbox.full:
                    await self._inbox.room()
                    # Nothing was heard because nothing was read.
                    self._heard_s = loop.time()
                raw = await self._call.read()
                heard = True
                self._heard_s = loop.time()
                if not isinstance(raw, bytes):
                    raise unavailable("the other node has ended the stream")
                self._take(*messages.parse(raw))
        except grpc.aio.AioRpcError as error:
            self.end(messages.ended(error, heard=heard))
        except OtherLeader:
            self.end(Again())
        except Exception as error:
            self.end(error)

    def _take(self, said: pb.FromLeader, message: Message) -> None:
        """Hold what arrived against the rules, and put it where it belongs."""
        self._session.receive(message)
        if isinstance(message, Heartbeat):
            self._heartbeat(message, said.heartbeat)
            return
        if isinstance(message, Transactions):
            self._unsaid_bytes += len(message.ltx)
            if self._unsaid_bytes >= SAY_BYTES:
                self._outgoing.moved()
        elif isinstance(message, SnapshotBegin):
            self._in_snapshot = True
        elif isinstance(message, Welcome):
            # Here, or a heartbeat could be believed before.
            if not self._parts.roster.has(message.node_id):
                raise not_a_member()
            self._node = message.node_id
            self._quiet_s = self._parts.timings.dead_s
        self._inbox.put(message)

    def _heartbeat(self, beat: Heartbeat, said: pb.Heartbeat) -> None:
        view = self._parts.view
        if beat.ago_ms != NEVER_MS:
            view.leader_heard(beat.position, ago_ms=beat.ago_ms, epoch_seen=beat.epoch_seen)
        if said.HasField("replicated"):
            view.replicated = position_from_protobuf(said.replicated)
        if self._teller is not None:
            self._goes()
            for report in said.nodes[: limits.NODES_MAX]:
                self._parts.hearsay.take(self._teller, report)
        self._heard()

    def _goes(self) -> None:
        """The way to the leader is as the other node has it, and over that one."""
        self._parts.view.goes(self._parts.identity.node_id, *self._session.path)

    def _ack(self) -> pb.Ack | None:
        # While a snapshot is on its way, what is there is on its way out.
        if self._in_snapshot:
            return None
        self._unsaid_bytes = 0
        disk = self._parts.disk
        return messages.ack(self._session.position, disk.durable, disk.applied)

    def _reports(self) -> list[pb.NodeReport]:
        parts, teller = self._parts, self._teller
        behind = [] if teller is None else parts.hearsay.upwards(teller.node_id)
        return [messages.own_report(parts), *behind[: limits.NODES_MAX - 1]]

    async def _watch(self) -> None:
        """End a stream on which nothing moves, in either direction."""
        loop = asyncio.get_running_loop()
        timings = self._parts.timings
        look_s = timings.dead_s / 6
        looked_s, remembered_s = self._began_s, -math.inf
        while True:
            await asyncio.sleep(look_s)
            now_s = loop.time()
            if now_s - looked_s > 3 * look_s:
                # It was this process that stood still.
                self._heard_s = now_s
            looked_s = now_s
            writing_s = self._outgoing.writing_since_s
            silent = now_s - self._heard_s > self._quiet_s and not self._inbox.full
            if silent or (writing_s is not None and now_s - writing_s > self._quiet_s):
                self.end(unavailable(f"nothing has moved on the stream for {self._quiet_s:g} s"))
            if not self._best and now_s - self._began_s > timings.home_s:
                self.end(Again())
            if now_s - remembered_s > REMEMBER_EVERY_S and await self._remember(now_s):
                remembered_s = now_s

    async def _remember(self, now_s: float) -> bool:
        """Keep since when this node has had everything; False if this stream has not brought it
        that far. The first time is soon, or a node that starts again without a leader would not
        know how old its data is."""
        lag_ms = self._parts.view.lag_ms()
        if lag_ms is None or lag_ms / 1000 > now_s - self._began_s:
            return False
        await self._parts.remember(self._parts.clock.unix_ms() - lag_ms)
        return True


def not_a_member() -> PetsemError:
    """The node that answers is not one that this node's own database lists."""
    return conflict(
        "it is no node of this cluster, or not any more; set [peer] upstream in petsem.toml anew, "
        "if that names it"
    )
