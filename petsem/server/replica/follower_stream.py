"""One follower's stream, while it is open.

Guarantees: at most one message waits for the connection, and nothing else is held for the
follower: what it is sent next is read when there is room. A follower that stands still stops its
own stream and nothing else. A heartbeat says what is so when it leaves, not when it was due.

What may be sent when is `FeedSession`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from petsem.errors import invalid, unavailable
from petsem.model import Position
from petsem.replication.drivers.log_types import DamagedRecord, LogGap
from petsem.replication.session.feed import Branch, FeedSession, State, admit_over
from petsem.server.replica.feed_files import Files, TooLong, merged
from petsem.server.replica.followers import Follower, Followers
from petsem.server.replica.snapshot_source import SnapshotSource
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

log = structlog.get_logger(__name__)

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Supply:
    """What every stream of a node is fed from. `branch` is None while the node has no data; `path`
    is how the node reaches the leader; `heartbeat` is made for one follower."""

    files: Files
    snapshots: SnapshotSource
    followers: Followers
    helper: Executor
    branch: Callable[[], Branch | None]
    position: Callable[[], Position | None]
    path: Callable[[], tuple[str, ...]]
    heartbeat: Callable[[str], pb.Heartbeat]
    heartbeat_s: float


class FollowerStream:
    """Feeds one follower."""

    def __init__(
        self, supply: Supply, session: FeedSession, follower: Follower, send: Send
    ) -> None:
        self._supply = supply
        self._session = session
        self._follower = follower
        self._send = send
        self._beat_due = asyncio.Event()
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._fork: Position | None = None
        self._full = False

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def beat(self) -> None:
        """The heartbeat says something new."""
        self._beat_due.set()

    def roll_back(self, fork: Position) -> None:
        """What this node had after `fork` is no more."""
        if self._fork is None or fork.txid < self._fork.txid:
            self._fork = fork
        self._wake.set()

    async def run(self, welcome: bytes, requests: AsyncIterator[pb.FromReplica]) -> None:
        """Feed, after the welcome, until the follower leaves or has to begin anew; raises whatever
        ends it."""
        await self._say(welcome)
        tasks = [
            asyncio.create_task(each)
            for each in (self._listen(requests), self._beat(), self._feed())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, requests: AsyncIterator[pb.FromReplica]) -> None:
        followers, follower = self._supply.followers, self._follower
        async for request in requests:
            match request.WhichOneof("message"):
                case "ack":
                    self._acknowledged(request.ack)
                case "report":
                    followers.reported(follower, request.report)
                case "hello":
                    raise invalid("a follower says hello once")

    def _acknowledged(self, ack: pb.Ack) -> None:
        if self._session.acknowledged(ack.received, ack.durable, ack.applied):
            durable = Position(ack.epoch, ack.durable) if ack.durable else None
            self._supply.followers.acknowledged(self._follower, durable, ack.applied)
            if self._full:
                self._wake.set()

    async def _beat(self) -> None:
        supply, follower = self._supply, self._follower.node_id
        while True:
            self._beat_due.clear()
            # The way may lead over the follower since it was welcomed.
            admit_over(supply.path(), follower)
            async with self._sending:
                beat = supply.heartbeat(follower)
                await self._send(pb.FromLeader(heartbeat=beat).SerializeToString())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(supply.heartbeat_s):
                    await self._beat_due.wait()

    async def _feed(self) -> None:
        session = self._session
        while True:
            self._wake.clear()
            fork = self._lost()
            if fork is not None:
                await self._roll_back_to(fork)
                return
            match session.state:
                case State.FORKED:
                    await self._roll_back_to(session.fork)
                    return
                case State.SNAPSHOT:
                    await self._send_snapshot()
                    continue
                case State.FILES:
                    if await self._send_files():
                        continue
                case State.AHEAD:
                    branch = self._supply.branch()
                    if branch is not None:
                        session.look_again(branch)
                    if session.state is not State.AHEAD:
                        continue
            await self._wake.wait()

    def _lost(self) -> Position | None:
        """The fork, if the follower was sent what came after it. It is asked once for each: what
        goes out from here on is of the branch that there is now."""
        fork, self._fork = self._fork, None
        at = self._session.at
        return fork if fork is not None and at is not None and at.txid > fork.txid else None

    async def _roll_back_to(self, fork: Position | None) -> None:
        assert fork is not None
        log.warning("follower_forked", node=self._follower.node_id, fork=str(fork))
        said = pb.Rollback(fork=position_to_protobuf(fork))
        await self._say(pb.FromLeader(rollback=said).SerializeToString())

    async def _send_files(self) -> bool:
        """Send what there is; whether there was any."""
        session, files = self._session, self._supply.files
        at, end = session.at, self._supply.position()
        assert at is not None
        if end is None or end.txid <= at.txid:
            return False
        kept = files.kept(at, end)
        if kept is not None:
            return await self._send_file(*kept)
        try:
            groups = files.groups(at, end)
        except TooLong as large:
            self._supply.snapshots.too_long(large)
            session.needs_snapshot()
            return True
        except DamagedRecord as damaged:
            log.error("log_damaged", after=str(damaged.position))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._supply.helper, files.log.quarantine, damaged.txid)
            session.needs_snapshot()
            return True
        except LogGap:
            if files.position_of(at.txid) != at:
                raise unavailable("this node's log is no more what it was; connect again") from None
            session.needs_snapshot()
            return True
        for group in groups:
            for file in await merged(group):
                if self._fork is not None:
                    # It was read from a branch that may be no more.
                    return True
                message = file.message()
                if len(group) == 1:
                    files.keep(at, file.position, message)
                if not await self._send_file(file.position, message):
                    return True
                at = file.position
        return bool(groups)

    async def _send_file(self, position: Position, message: bytes) -> bool:
        """Send a file once there is room; False if that came to nothing, since data is gone."""
        session = self._session
        while not session.room_for(len(message)):
            self._full = True
            self._wake.clear()
            await self._wake.wait()
            if self._fork is not None:
                return False
        self._full = False
        # Before it is on its way, or its ack could be here first.
        session.sent(position, len(message))
        await self._say(message)
        return True

    async def _send_snapshot(self) -> None:
        session, follower = self._session, self._follower

        async def emit(message: pb.FromLeader) -> None:
            if self._fork is not None:
                # Its pages were read from a file that has lost a part since.
                raise unavailable("this node has dropped a branch; connect again")
            await self._say(message.SerializeToString())

        def begun(at: Position) -> None:
            follower.needs_from = at.txid

        await self._supply.snapshots.send(session.resume, emit, begun, session.snapshot_sent)

    async def _say(self, message: bytes) -> None:
        async with self._sending:
            await self._send(message)
