"""A database with its log that a node feeds from, and a follower that takes in what it is sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc
import lz4.block

from petsem.clock import ManualClock
from petsem.errors import PetsemError
from petsem.model import Position, Role
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE, normalise, page_numbers
from petsem.replication.ltx import Header, decode, encode
from petsem.replication.rolling import PageChecksums
from petsem.replication.session.branch import Epoch
from petsem.replication.session.feed import PROTOCOL
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.dial import STREAM, error_of, peer_channel
from petsem.server.peer.handlers import PeerStream, Send
from petsem.server.peer.identity import TlsMaterial
from petsem.server.peer.membership import Member
from petsem.server.peer.server import start_peer
from petsem.server.replica.feed import Feed
from petsem.server.replica.feed_files import Files
from petsem.server.replica.followers import Followers
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.snapshot_source import SnapshotSource
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf
from tests.support.patience import PATIENCE_S
from tests.support.peers import ANY_PORT, Authority, now_ms

CLUSTER: Final = bytes(range(16))
Pages = dict[int, bytes]


class Source:
    """A database of random pages. Its file lags behind its log until `checkpoint`."""

    def __init__(self, directory: Path, pages: int = 8, seed: int = 0, **options: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.path = directory / "source.db"
        self.path.touch(0o600)
        (directory / "log").mkdir()
        self.log = TransactionLog.open(
            directory / "log", **{"segment_bytes": 2 * 1024 * 1024, **options}
        )
        self.pages: Pages = {}
        self.commit = 0
        self.epochs: list[Epoch] = [(1, 1, "here")]
        self._noise = random.Random(seed)
        self._table = PageChecksums()
        self._dirty: set[int] = set()
        self.change(*page_numbers(pages))
        self.checkpoint()

    @property
    def end(self) -> Position:
        end = self.log.end
        assert end is not None
        return end

    def change(
        self, *numbers: int, commit: int | None = None, epoch: int | None = None
    ) -> Position:
        """One transaction that changes these pages, and page 1."""
        if epoch is not None and epoch != self.epochs[-1][0]:
            self.epochs.append((epoch, self.end.txid + 1, "here"))
        at, epoch = self.log.end or Position(0, 0, 0), self.epochs[-1][0]
        self.commit = commit or max(self.commit, *numbers, 1)
        changed = {pgno: self._page() for pgno in sorted({1, *numbers})}
        changed[1] = normalise(changed[1], epoch, at.txid + 1)
        plan = self._table.plan(changed.items(), self.commit)
        header = Header(
            flags=0,
            page_size=PAGE_SIZE,
            commit=self.commit,
            min_txid=at.txid + 1,
            max_txid=at.txid + 1,
            timestamp_ms=0,
            pre_apply_checksum=at.checksum or 0,
        )
        self.log.append(epoch, encode(header, changed.items(), plan.rolling))
        self._table.accept(plan)
        self._dirty |= {*changed}
        self.pages.update(changed)
        self.pages = {n: page for n, page in self.pages.items() if n <= self.commit}
        return self.end

    def checkpoint(self) -> Position:
        """Bring the file up to the log."""
        fd = os.open(self.path, os.O_WRONLY)
        try:
            for pgno in sorted(self._dirty & {*self.pages}):
                os.pwrite(fd, self.pages[pgno], (pgno - 1) * PAGE_SIZE)
            os.truncate(fd, self.commit * PAGE_SIZE)
        finally:
            os.close(fd)
        self._dirty.clear()
        return self.end

    async def checkpointed(self) -> Position:
        return self.checkpoint()

    def _page(self) -> bytes:
        return self._noise.randbytes(PAGE_SIZE // 4) + bytes(PAGE_SIZE - PAGE_SIZE // 4)


@dataclass
class Held:
    """A message on its way out, and all that come after it on the same stream."""

    holds: Callable[[pb.FromLeader], bool]
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """There is such a message, and it waits."""
    free: asyncio.Event = field(default_factory=asyncio.Event)

    async def passed(self, message: pb.FromLeader) -> None:
        if not self.free.is_set() and self.holds(message):
            self.reached.set()
            await self.free.wait()


@dataclass
class Feeder:
    """A node that feeds from a source, with its peer port open."""

    source: Source
    feed: Feed
    followers: Followers
    hearsay: Hearsay
    snapshots: SnapshotSource
    view: ClusterView
    clock: ManualClock
    authority: Authority
    address: str = ""
    _held: list[Held] = field(default_factory=list)

    @contextmanager
    def holding(self, holds: Callable[[pb.FromLeader], bool]) -> Iterator[Held]:
        """Until the end of the block, messages of which `holds` is true do not leave."""
        held = Held(holds)
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)
            held.free.set()

    async def stream(
        self, member: Member, requests: AsyncIterator[pb.FromReplica], send: Send
    ) -> None:
        """The feed's, behind what holds messages."""

        async def passing(raw: bytes) -> None:
            for held in list(self._held):
                await held.passed(pb.FromLeader.FromString(raw))
            await send(raw)

        await self.feed.stream(member, requests, passing)

    def change(self, *numbers: int, **options: Any) -> Position:
        """A transaction of the source that the followers are told of."""
        end = self.source.change(*numbers, **options)
        self.feed.published()
        return end

    @asynccontextmanager
    async def follower(self, name: str = "fra-1", **hello: Any) -> AsyncIterator[Follower]:
        """A follower that has said hello."""
        async with self.knock(name) as follower:
            await follower.hello(**hello)
            yield follower

    @asynccontextmanager
    async def knock(self, name: str = "fra-1") -> AsyncIterator[Follower]:
        """A node that has opened the stream and said nothing."""
        channel = peer_channel(self.authority.issue(name), CLUSTER, self.address)
        opened: Any = channel.stream_stream(STREAM, None, None)
        call = opened(timeout=PATIENCE_S)
        try:
            yield Follower(name, call)
        finally:
            call.cancel()
            await channel.close(None)


@dataclass
class Follower:
    """What a follower has been told, and has. It acknowledges when it is asked to."""

    name: str
    call: Any
    at: Position | None = None
    pages: Pages = field(default_factory=dict)
    commit: int = 0
    beats: list[pb.Heartbeat] = field(default_factory=list)
    files: list[tuple[int, int]] = field(default_factory=list)
    """TXIDs from and to of each file."""
    next_page: int = 1
    taking: bool = False
    """Whether a snapshot has begun and not ended."""

    @property
    def image(self) -> tuple[int, Pages]:
        return self.commit, self.pages

    def like(self, other: Follower | Source) -> Self:
        """Have what the other has now."""
        self.pages, self.commit = dict(other.pages), other.commit
        self.at = other.at if isinstance(other, Follower) else other.end
        return self

    async def hello(self, **fields: Any) -> None:
        position = fields.pop("position", self.at)
        hello = pb.Hello(
            **{"protocol": PROTOCOL, "cluster": CLUSTER, "node": self.name, "schema": 1, **fields}
        )
        if position is not None:
            self.at = position
            hello.position.CopyFrom(position_to_protobuf(position))
        await self.say(pb.FromReplica(hello=hello))

    async def say(self, message: pb.FromReplica) -> None:
        await self.call.write(message.SerializeToString())

    async def ack(self, txid: int | None = None, epoch: int | None = None) -> None:
        """Everything up to `txid`, or all it has, is received, durable and applied."""
        assert self.at is not None
        txid = self.at.txid if txid is None else txid
        ack = pb.Ack(received=txid, durable=txid, applied=txid, epoch=epoch or self.at.epoch)
        await self.say(pb.FromReplica(ack=ack))

    async def next(self) -> pb.FromLeader | None:
        """The next message but a heartbeat, taken in; None at the end of the stream."""
        while True:
            try:
                raw = await self.call.read()
            except grpc.aio.AioRpcError as error:
                raise error_of(error) from None
            if not isinstance(raw, bytes):
                return None
            message = pb.FromLeader.FromString(raw)
            if message.WhichOneof("message") != "heartbeat":
                self._take(message)
                return message
            self.beats.append(message.heartbeat)

    async def beat(self) -> pb.Heartbeat:
        """The next heartbeat, with nothing else before it."""
        message = pb.FromLeader.FromString(await self.call.read())
        assert message.WhichOneof("message") == "heartbeat", message
        return message.heartbeat

    async def refused(self) -> tuple[str, str]:
        """How the stream ends: code and message."""
        try:
            while await self.next() is not None:
                pass
        except PetsemError as error:
            return error.code.value, error.message
        raise AssertionError("it ended well")

    async def until(self, position: Position, *, acks: bool = True) -> None:
        """Take in what comes until it is at `position`."""
        async with asyncio.timeout(PATIENCE_S):
            while self.taking or self.at != position:
                message = await self.next()
                assert message is not None
                if acks and message.HasField("transactions"):
                    await self.ack()

    def _take(self, message: pb.FromLeader) -> None:
        match message.WhichOneof("message"):
            case "transactions":
                self._apply(message.transactions.epoch, message.transactions.ltx)
            case "snapshot":
                begin = message.snapshot
                if begin.first_page == 1:
                    self.pages = {}
                self.at = position_from_protobuf(begin.at)
                self.commit = begin.pages
                self.next_page = begin.first_page
                self.taking = True
            case "pages":
                run = message.pages
                data = lz4.block.decompress(run.data)
                assert (run.first_page, len(data)) == (self.next_page, run.count * PAGE_SIZE)
                for index in range(run.count):
                    page = data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                    self.pages[run.first_page + index] = page
                self.next_page += run.count
                self.next_page += self.next_page == LOCK_PAGE
            case "snapshot_end":
                end = message.snapshot_end
                assert self.next_page > self.commit
                if end.ltx:
                    self._apply(end.epoch, end.ltx)
                assert self.at == position_from_protobuf(end.at)
                if not end.more:
                    self.taking = False
                    self.verify()

    def _apply(self, epoch: int, ltx: bytes) -> None:
        file = decode(ltx)
        header = file.header
        assert self.at is not None
        assert (header.min_txid, header.pre_apply_checksum) == (self.at.txid + 1, self.at.checksum)
        self.files.append((header.min_txid, header.max_txid))
        self.pages.update(file.pages)
        self.commit = header.commit
        self.pages = {n: page for n, page in self.pages.items() if n <= self.commit}
        self.at = Position(epoch, header.max_txid, file.trailer.post_apply_checksum)

    def verify(self) -> None:
        """What it has is what its position says."""
        assert self.at is not None
        found = PageChecksums().apply(sorted(self.pages.items()), self.commit)
        assert found == self.at.checksum


class Anybody:
    """Takes every caller for a member."""

    def require(self, caller: Any) -> Member:
        return Member(caller.identity.node_id, "fra")


@asynccontextmanager
async def feeding(
    source: Source, name: str = "ams-1", *, heartbeat_s: float = 60.0, **options: Any
) -> AsyncIterator[Feeder]:
    """A node that feeds from `source`; by default a leader."""
    clock = ManualClock(now_ms())
    authority = Authority.new(CLUSTER)
    view = ClusterView(clock, role=Role.LEADER)
    hearsay = Hearsay(
        name, clock, members=options.pop("members", lambda: None), way=lambda: view.path
    )
    followers = Followers(clock, lambda: source.epochs, hearsay)
    files = Files(source.log)
    snapshots = SnapshotSource(
        source.path,
        files,
        checkpointed=options.pop("checkpointed", source.checkpointed),
        position=lambda: source.end,
    )
    with ThreadPoolExecutor(1) as helper:
        feed = Feed(
            identity=NodeIdentity(name, CLUSTER, "ams"),
            files=files,
            view=view,
            followers=followers,
            hearsay=hearsay,
            snapshots=snapshots,
            clock=clock,
            helper=helper,
            position=lambda: source.log.end,
            epochs=lambda: source.epochs,
            heartbeat_s=heartbeat_s,
            **options,
        )
        node = Feeder(source, feed, followers, hearsay, snapshots, view, clock, authority)
        server = await start_peer(
            [PeerStream(STREAM, pb.FromReplica, node.stream)],
            bind=ANY_PORT,
            own=_Own(name, authority.issue(name)),  # type: ignore[arg-type]
            members=Anybody(),  # type: ignore[arg-type]
            clock=clock,
        )
        node.address = server.address
        try:
            yield node
        finally:
            await server.stop(0)


@dataclass
class _Own:
    """The part of OwnCertificate that a port looks at."""

    node_id: str
    tls: TlsMaterial
    cluster_id: bytes = CLUSTER
    generation: int = 0
