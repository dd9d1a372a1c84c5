"""A leader that says what a test wants, over a real peer port, and a disk that only remembers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from petsem.clock import SystemClock
from petsem.model import Position, Role
from petsem.replication.ltx import Header, Trailer
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.peer.dial import FORWARD, STREAM, peer_channel
from petsem.server.peer.handlers import PeerMethod, PeerStream, Send
from petsem.server.peer.identity import OwnCertificate, TlsMaterial
from petsem.server.peer.membership import Member
from petsem.server.replica.candidates import Askable, Candidate
from petsem.server.replica.follow import Follow
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.parts import FollowParts, Timings
from petsem.server.replica.upstream import Upstream
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf
from tests.support.patience import PATIENCE_S
from tests.support.peers import Port, open_port

QUICK: Final = Timings(
    dead_s=2 * PATIENCE_S,
    connect_s=2 * PATIENCE_S,
    report_s=0.05,
    lost_s=(0.01, 0.05),
    refused_s=(0.02, 0.1),
)
"""For impatient tests: what comes again comes soon, and no stream is given up because the machine
was busy with something else. Who tests that shortens it."""


class Talk:
    """One stream, as the leader has it."""

    def __init__(self, leader: FakeLeader, hello: pb.Hello, send: Send) -> None:
        self.leader = leader
        self.hello = hello
        self._send = send
        self.acks: list[pb.Ack] = []
        self.reports: list[pb.NodeReport] = []
        self._said = asyncio.Event()

    async def say(self, **message: Any) -> None:
        await self._send(pb.FromLeader(**message).SerializeToString())

    async def say_bytes(self, raw: bytes) -> None:
        await self._send(raw)

    async def welcome(self, **other: Any) -> None:
        """Be welcome; `other` are the fields in which this leader lies."""
        leader = self.leader
        fields: dict[str, Any] = {
            "protocol": 1,
            "cluster": leader.cluster_id,
            "node": leader.node_id,
            "region": "ams",
            "epoch_seen": 1,
            "path": [leader.node_id],
            "leader_http": "h:1",
            "leader_grpc": "h:2",
            "leader_peer": "h:3",
            "epochs": [pb.Epoch(epoch=1, first_txid=1, leader=leader.node_id)],
        }
        await self.say(welcome=pb.Welcome(**{**fields, **other}))

    async def files(self, *files: tuple[int, bytes]) -> None:
        for epoch, ltx in files:
            await self.say(transactions=pb.Transactions(epoch=epoch, ltx=ltx))

    async def beat(self, at: Position, **other: Any) -> None:
        await self.say(
            heartbeat=pb.Heartbeat(position=position_to_protobuf(at), **{"epoch_seen": 1, **other})
        )

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait for something that the follower says."""
        while not holds():
            self._said.clear()
            await self._said.wait()

    async def until_durable(self, txid: int) -> None:
        await self.until(lambda: self.acks and self.acks[-1].durable >= txid)

    def heard(self, message: pb.FromReplica) -> None:
        if message.HasField("ack"):
            self.acks.append(message.ack)
        else:
            assert message.HasField("report")
            self.reports.append(message.report)
        self._said.set()


Script = Callable[[Talk], Awaitable[None]]


class FakeLeader:
    """Runs the next of `scripts` for each stream that is opened; the last one again and again."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.talks: list[Talk] = []
        self.forwarded: Callable[[pb.ForwardRequest], Awaitable[pb.ForwardResponse]] | None = None
        self.node_id = ""
        self.cluster_id = b""

    @property
    def hellos(self) -> list[pb.Hello]:
        return [talk.hello for talk in self.talks]

    async def stream(
        self, member: Member, asked: AsyncIterator[pb.FromReplica], send: Send
    ) -> None:
        first = await anext(asked)
        assert first.hello.node == member.node_id
        talk = Talk(self, first.hello, send)
        self.talks.append(talk)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]

        async def read() -> None:
            async for message in asked:
                talk.heard(message)

        reader = asyncio.create_task(read())
        try:
            await script(talk)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def forward(self, _: Member, request: pb.ForwardRequest) -> pb.ForwardResponse:
        assert self.forwarded is not None
        return await self.forwarded(request)

    def methods(self) -> tuple[PeerMethod | PeerStream, ...]:
        return (
            PeerStream(STREAM, pb.FromReplica, self.stream),
            PeerMethod(FORWARD, pb.ForwardRequest, self.forward),
        )


async def eventually(holds: Callable[[], Any]) -> None:
    """Look until it holds; whoever calls has a deadline."""
    while not holds():  # noqa: ASYNC110 (what is looked at tells nobody)
        await asyncio.sleep(0.005)


class FakeDisk:
    """Takes everything, unless `refuse` raises."""

    def __init__(self, at: Position | None) -> None:
        self.durable = at
        self.applied = at
        self.needs_snapshot = False
        self.resume: tuple[Position, int] | None = None
        self.batches: list[list[tuple[int, bytes]]] = []
        self.snapshot: list[object] = []
        self.rollbacks: list[tuple[Position, bool, bool]] = []
        self.refuse: Callable[[], None] = lambda: None
        self.asks: Exception | None = None
        """Unless it is forced, it does not roll back but raises this."""
        self.slow: Callable[[], Awaitable[Any]] | None = None
        self.busy = False
        self.changed = asyncio.Event()

    def epochs(self) -> Sequence[tuple[int, int, str]]:
        return [] if self.durable is None else [(self.durable.epoch, 1, "fra-0")]

    async def _work(self) -> None:
        assert not self.busy, "calls to the disk overlap"
        self.busy = True
        if self.slow is not None:
            await self.slow()
        self.busy = False
        self.refuse()

    async def receive(self, batch: Sequence[tuple[int, bytes]]) -> None:
        await self._work()
        self.batches.append(list(batch))
        epoch, ltx = batch[-1]
        txid = Header.parse(ltx[:100]).max_txid
        self._at(Position(epoch, txid, Trailer.parse(ltx[-16:]).post_apply_checksum))

    async def begin_snapshot(self, at: Position, pages: int, first_page: int) -> None:
        await self._work()
        self.snapshot.append((at, pages, first_page))

    async def snapshot_pages(self, first_page: int, data: bytes) -> None:
        await self._work()
        self.snapshot.append((first_page, data))

    async def snapshot_changes(self, end: Position, ltx: bytes) -> None:
        await self._work()
        self.snapshot.append((end, ltx))

    async def end_snapshot(self, at: Position, ltx: bytes) -> None:
        await self._work()
        self.snapshot.append((at, ltx))
        self.needs_snapshot = False
        self._at(at)

    async def roll_back(self, fork: Position, *, higher: bool, forced: bool) -> None:
        await self._work()
        if self.asks is not None and not forced:
            raise self.asks
        self.rollbacks.append((fork, higher, forced))
        self._at(fork)

    def _at(self, at: Position) -> None:
        self.durable = self.applied = at
        self.changed.set()

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until it holds more."""
        while not holds():
            self.changed.clear()
            await self.changed.wait()


class FakeRoster:
    """Who is a member: `members`, or anybody as long as that is None."""

    def __init__(self) -> None:
        self.members: set[str] | None = None

    @property
    def known(self) -> bool:
        return self.members is not None

    def has(self, node_id: str) -> bool:
        return self.members is None or node_id in self.members


class Replica:
    """A node that follows the fake leader."""

    def __init__(self, port: Port, tls: TlsMaterial, name: str, at: Position | None) -> None:
        clock = SystemClock()
        self.disk = FakeDisk(at)
        self.view = ClusterView(clock, Role.REPLICA)
        self.hearsay = Hearsay(name, clock, members=lambda: None, way=lambda: self.view.path)
        self.roster = FakeRoster()
        self.askable = Askable()
        self._own = _Own(tls, port)
        self.upstream = Upstream(self._dial, lambda: self.askable)
        self.bound: list[tuple[int, str]] = []
        self.remembered: list[int] = []
        self.bind_error: Exception | None = None
        self.dialled = [Candidate(port.address, port.own.node_id)]
        self.parts = FollowParts(
            NodeIdentity(name, port.own.cluster_id, "fra"),
            self.disk,
            self.view,
            clock,
            lambda: pb.NodeReport(ready=True, warnings=["w"]),
            self.hearsay,
            self._bind,
            self._remember,
            self.roster,
        )
        self.retime(QUICK)

    def retime(self, timings: Timings) -> None:
        """Follow with other deadlines; not once it is started."""
        parts = dataclasses.replace(self.parts, timings=timings)
        self.follow = Follow(parts, self._own, self.upstream, lambda: self.dialled[:])

    def _dial(self, node: Candidate) -> grpc.aio.Channel:
        return peer_channel(self._own.tls, self._own.cluster_id, node.address, node.node_id)

    async def _bind(self, epoch: int, leader: str) -> None:
        if self.bind_error is not None:
            raise self.bind_error
        self.bound.append((epoch, leader))

    async def _remember(self, at_ms: int) -> None:
        self.remembered.append(at_ms)

    async def problem(self, *texts: str) -> None:
        """Wait until the view names one of these problems."""
        await eventually(lambda: any(text in (self.view.problem or "") for text in texts))


class _Own(OwnCertificate):
    """The certificate of a node that has no directory."""

    def __init__(self, tls: TlsMaterial, port: Port) -> None:
        self._tls = tls
        self._identity = NodeIdentity("fra-1", port.own.cluster_id, "fra")
        self._datadir = DataDir("/nonexistent")
        self.generation = 0


class World:
    """A leader with a script, and a replica that is started."""

    def __init__(self, leader: FakeLeader, port: Port, replica: Replica) -> None:
        self.leader = leader
        self.port = port
        self.replica = replica
        self.disk = replica.disk


@asynccontextmanager
async def following(
    directory: Path, at: Position | None, *scripts: Script, start: bool = True
) -> AsyncIterator[World]:
    """Run `scripts` against a replica that stands at `at`."""
    leader = FakeLeader()
    leader.scripts = list(scripts)
    async with open_port(directory / "node", leader.methods()) as port:
        leader.node_id, leader.cluster_id = port.own.node_id, port.own.cluster_id
        replica = Replica(port, await port.member("fra-1"), "fra-1", at)
        if start:
            replica.follow.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield World(leader, port, replica)
        finally:
            await replica.follow.stop()
