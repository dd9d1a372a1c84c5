"""A replica's real disk behind a real feed: what one side says, the other takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from petsem.model import Position
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.session.branch import Epoch
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.dial import peer_channel
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.follow import Follow
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.parts import FollowParts, Timings
from petsem.server.replica.upstream import Upstream
from petsem.wire import petsem_pb2 as pb
from tests.support.fake_leader import QUICK, FakeRoster, eventually
from tests.support.feeding import CLUSTER, Feeder, _Own, feeding
from tests.support.leader_source import LeaderSource
from tests.support.patience import PATIENCE_S
from tests.unit.server.replica.store_rig import Rig


class Leader:
    """A real database and its log, as a feed wants them."""

    def __init__(self, directory: Path, source: LeaderSource, epochs: list[Epoch]) -> None:
        self.source = source
        self.path = source.path
        self.epochs = epochs
        (directory / "log").mkdir()
        self.log = TransactionLog.open(directory / "log")
        self.publish()

    @classmethod
    def new(cls, directory: Path) -> Leader:
        return cls(directory, LeaderSource(directory), [(1, 1, "leader")])

    def forked(self, directory: Path, epoch: int) -> Leader:
        """Another leader, which begins `epoch` here."""
        source = self.source.fork(directory, node="other")
        first = source.position.txid + 1
        source.new_epoch(epoch)
        return Leader(directory, source, [*self.epochs, (epoch, first, "other")])

    @property
    def end(self) -> Position:
        assert self.log.end is not None
        return self.log.end

    def publish(self) -> None:
        """Bring the log up to the database."""
        known = 0 if self.log.end is None else self.log.end.txid
        for epoch, ltx in self.source.after(known):
            self.log.append(epoch, ltx)

    async def checkpointed(self) -> Position:
        source = self.source
        source._db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        source._tail.close()
        source._frames, source._tail = 0, WalTail(Path(f"{source.path}-wal"))
        return self.end


class Node:
    """A replica: its disk, and what follows with it."""

    def __init__(self, directory: Path) -> None:
        self.rig = Rig(directory)
        self.bound: list[tuple[int, str]] = []
        self.follow: Follow

    async def start(self, feeder: Feeder, timings: Timings = QUICK) -> None:
        store = await self.rig.open()
        parts = FollowParts(
            NodeIdentity("fra-1", CLUSTER, "fra"),
            store,
            self.rig.view,
            self.rig.view.clock,
            pb.NodeReport,
            Hearsay("fra-1", self.rig.view.clock, lambda: None, lambda: self.rig.view.path),
            self._bind,
            self._remember,
            FakeRoster(),
            timings,
        )
        own = _Own("fra-1", feeder.authority.issue("fra-1"))
        upstream = Upstream(lambda node: peer_channel(own.tls, CLUSTER, node.address, node.node_id))
        dialled = [Candidate(feeder.address)]
        self.follow = Follow(parts, own, upstream, lambda: dialled[:])  # type: ignore[arg-type]
        self.rig.listeners.durable.append(lambda _: self.follow.moved())
        self.rig.listeners.applied.append(lambda _: self.follow.moved())
        self.rig.listeners.jumped.append(self.rig.pool.renew)
        self.rig.listeners.trouble.append(lambda _: self.follow.again())
        self.follow.start()

    async def stop(self) -> None:
        await self.follow.stop()
        await self.rig.store.close()

    async def until(self, leader: Leader) -> None:
        await eventually(lambda: self.rig.store.applied == leader.end)

    async def _bind(self, epoch: int, leader: str) -> None:
        self.bound.append((epoch, leader))

    async def _remember(self, _: int) -> None:
        pass


@pytest.fixture
def leader(tmp_path: Path) -> Leader:
    return Leader.new(tmp_path / "leader")


@asynccontextmanager
async def replica(tmp_path: Path, leader: Leader) -> AsyncIterator[tuple[Feeder, Node]]:
    """The replica in `tmp_path`, following this leader."""
    async with feeding(leader, heartbeat_s=0.05) as feeder:  # type: ignore[arg-type]
        node = Node(tmp_path / "replica")
        await node.start(feeder)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield feeder, node
        finally:
            await node.stop()


def write(feeder: Feeder, leader: Leader) -> None:
    leader.source.run("INSERT INTO t(x) VALUES (randomblob(500))")
    leader.publish()
    feeder.feed.published()


async def test_from_nothing(tmp_path: Path, leader: Leader) -> None:
    """A snapshot, while the leader writes on; then each transaction; acknowledged all the time."""
    leader.source.fill(3_000)
    leader.publish()
    async with replica(tmp_path, leader) as (feeder, node):
        await eventually(lambda: node.rig.store.applied)
        for _ in range(30):
            write(feeder, leader)
            await asyncio.sleep(0)
        await node.until(leader)
        assert node.rig.image() == leader.source.image()
        assert await feeder.followers.wait(leader.end, 1, PATIENCE_S) == ["fra-1"]
        await eventually(lambda: node.rig.view.leader_position == leader.end)
        assert node.rig.view.lag_transactions() == 0
        assert node.rig.view.path == ("fra-1", "ams-1")
        assert node.bound == [(1, "leader")]
        assert node.rig.view.problem is None


async def test_after_being_away(tmp_path: Path, leader: Leader) -> None:
    """It goes on from where it was, and takes no second snapshot."""
    async with replica(tmp_path, leader) as (feeder, node):
        await node.until(leader)
        for _ in range(3):
            write(feeder, leader)
        await node.until(leader)
    for _ in range(300):
        leader.source.run("INSERT INTO t(x) VALUES (randomblob(500))")
    leader.publish()
    async with replica(tmp_path, leader) as (_, node):
        await node.until(leader)
        assert node.rig.heard("jumped") == []
        assert node.rig.image() == leader.source.image()


async def test_another_branch(tmp_path: Path, leader: Leader) -> None:
    """Its own goes to `lost/`, and a snapshot of the other takes its place."""
    other = leader.forked(tmp_path / "other", 2)
    async with replica(tmp_path, leader) as (feeder, node):
        for _ in range(3):
            write(feeder, leader)
        await node.until(leader)
    async with replica(tmp_path, other) as (feeder, node):
        await node.until(other)
        assert node.rig.image() == other.source.image()
        assert len(node.rig.heard("lost")) == 1
        assert node.bound[-1] == (2, "other")
        write(feeder, other)
        await node.until(other)
        await eventually(lambda: node.rig.view.problem is None)
