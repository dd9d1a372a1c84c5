"""The node's part in replication: whom it feeds, whom it follows, by whichever role it has.

Guarantees: the peer port, the followers and the way upstream are there for the whole life of the
node; what changes with the role is whose log they read. It holds the pieces together and decides
nothing about roles (`petsem.server.roles` does).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, TypeVar

import apsw
import grpc
import structlog

from petsem import limits
from petsem.clock import Clock
from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError, unavailable
from petsem.model import Position, Role
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.drivers.log_types import LogError, LogRecord
from petsem.replication.session.branch import Epoch
from petsem.replication.session.follow import Own
from petsem.replication.steps import Reached, nothing
from petsem.server import sql
from petsem.server.binding import Binding
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView, LeaderAddresses
from petsem.server.config import Config
from petsem.server.database import ReadPool, read_position
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.keys import Keys
from petsem.server.peer.dial import peer_channel
from petsem.server.peer.handlers import Method
from petsem.server.peer.identity import OwnCertificate
from petsem.server.peer.renewal import LeaderAt
from petsem.server.replica.candidates import MOST, Candidate, askable, candidates
from petsem.server.replica.comparing import Comparing
from petsem.server.replica.feed import Feed
from petsem.server.replica.feed_files import Files
from petsem.server.replica.follow import Follow
from petsem.server.replica.followers import Followers
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.lost import Lost
from petsem.server.replica.parts import FollowParts
from petsem.server.replica.probe import NOBODY, Led, newest_epoch
from petsem.server.replica.roll import Roll
from petsem.server.replica.roster import Roster
from petsem.server.replica.snapshot_source import SnapshotSource
from petsem.server.replica.store import ReplicaStore
from petsem.server.replica.telling import Listeners
from petsem.server.replica.upkeep import trim
from petsem.server.replica.upstream import Upstream
from petsem.server.space import Space
from petsem.server.store import nodes as rows
from petsem.server.writer import Writer
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

_TRIM_EVERY_S: Final = 30.0
REMOVED: Final = (
    "this node was removed from the cluster, so it answers nothing any more; ask another node. To "
    "have it back, run 'petsem join' in a new directory"
)
T = TypeVar("T")


class CurrentLog:
    """The log of whichever role the node has; empty while it has none."""

    def __init__(self) -> None:
        self.at: TransactionLog | None = None

    @property
    def base(self) -> Position | None:
        return None if self.at is None else self.at.base

    @property
    def end(self) -> Position | None:
        return None if self.at is None else self.at.end

    def read(self, after_txid: int, max_bytes: int) -> list[LogRecord]:
        return self._open().read(after_txid, max_bytes)

    def position_of(self, txid: int) -> Position | None:
        return None if self.at is None else self.at.position_of(txid)

    def quarantine(self, txid: int) -> object:
        return self._open().quarantine(txid)

    def _open(self) -> TransactionLog:
        if self.at is None:
            raise unavailable("the node is changing its role; ask again in a moment")
        return self.at


class Replication:
    """Feed, followers, and what follows."""

    def __init__(
        self,
        *,
        datadir: DataDir,
        identity: NodeIdentity,
        config: Config,
        clock: Clock,
        keys: Keys,
        pool: ReadPool,
        helper: ThreadPoolExecutor,
        writer: Writer,
        view: ClusterView,
        changes: Changes,
        space: Space,
        reached: Reached = nothing,
    ) -> None:
        self._datadir = datadir
        self._identity = identity
        self._config = config
        self._clock = clock
        self._keys = keys
        self._pool = pool
        self._helper = helper
        self._writer = writer
        self._view = view
        self._changes = changes
        self._space = space
        self._reached = reached
        self._epochs_at = -1
        self._epochs: list[Epoch] = []
        self._store: ReplicaStore | None = None
        self._follow: Follow | None = None
        self._trimming: asyncio.Task[None] | None = None
        self.branch_lost: Callable[[], None] = lambda: None
        """Told when a branch of this node's own was given up."""
        self.describe: Callable[[], pb.NodeReport] = self._report
        """How this node is, as the others are told; the status service knows more."""
        self._roster = Roster(pool)
        self.upstream = Upstream(self._dial, lambda: askable(pool, identity, view.leader))
        self.binding = Binding(datadir, view, helper)
        self.hearsay = Hearsay(
            identity.node_id, clock, members=Roll(pool, clock), way=lambda: view.path
        )
        self.followers = Followers(clock, self.epochs, self.hearsay)
        self.log = CurrentLog()
        view.logged = self._logged
        self._comparing = Comparing(identity, view, lambda: self.log.at)
        files = Files(self.log)
        self.feed = Feed(
            identity=identity,
            files=files,
            view=view,
            followers=self.followers,
            hearsay=self.hearsay,
            snapshots=SnapshotSource(
                datadir.database, files, checkpointed=self._checkpointed, position=self.position
            ),
            clock=clock,
            helper=helper,
            position=self.position,
            epochs=self.epochs,
            report=lambda: self.describe(),
        )
        writer.logging.followed = lambda: bool(self.followers.connected)
        writer.logging.published = self._published

    @cached_property
    def certificate(self) -> OwnCertificate:
        """This node's own, for the peer port and for whom it dials."""
        return OwnCertificate(self._datadir, self._identity)

    @property
    def methods(self) -> tuple[Method, ...]:
        """What the peer port answers about this node's data."""
        return self.feed.method, self._comparing.method

    def position(self) -> Position | None:
        """The end of what may be streamed: all that the log has."""
        return self.log.end

    def epochs(self) -> list[Epoch]:
        """The branch of this node's database, ascending."""
        applied = self._writer.position if self._view.role is Role.LEADER else self._view.applied
        at = -1 if applied is None else applied.epoch
        if at != self._epochs_at:
            with contextlib.suppress(apsw.Error, PetsemError), self._pool.reading() as db:
                found = sql.rows(db, "SELECT epoch, first_txid, leader FROM epochs ORDER BY epoch")
                self._epochs = [(epoch, first, leader) for epoch, first, leader in found]
                self._epochs_at = at
        return self._epochs

    async def lead(self) -> None:
        """This node leads: its followers read the log that its writer's capture writes."""
        capture = self._writer.logging.capture
        assert capture is not None
        self.log.at = capture.log
        self._epochs_at = -1
        self._view.leader = None
        with contextlib.suppress(apsw.Error, PetsemError), self._pool.reading() as db:
            row = rows.find(db, self._identity.node_id)
            if row is not None:
                self._view.leader = LeaderAddresses(row.id, row.http, row.grpc, row.peer)
        self._published()
        self._begin_trimming()

    async def follow(self) -> None:
        """This node follows: its own disk first, then whoever has more."""
        state = await self._on_helper(self._datadir.read_state)
        if state.leader_heard_ms is not None:
            self._view.remember_leader(max(0, self._clock.unix_ms() - state.leader_heard_ms))
        self._view.knows(state.bound_epoch)
        self._store = store = await ReplicaStore.open(
            self._datadir,
            helper=self._helper,
            pool=self._pool,
            changes=self._changes,
            view=self._view,
            clock=self._clock,
            space=self._space,
            listeners=Listeners(
                durable=[lambda _: self._moved(durable=True)],
                applied=[lambda _: self._moved(durable=False)],
                jumped=[self._jumped],
                trouble=[self._in_trouble],
                lost=[self._lost],
            ),
            accept_command=f"petsem node accept-loss {self._identity.node_id}",
            reached=self._reached,
        )
        store.start_scan()
        self.log.at = store.log
        self._view.knows(0 if store.log.end is None else store.log.end.epoch)
        self._epochs_at = -1
        parts = FollowParts(
            identity=self._identity,
            disk=store,
            view=self._view,
            clock=self._clock,
            describe=lambda: self.describe(),
            hearsay=self.hearsay,
            bind=self.binding.bind,
            remember=self.binding.remember,
            roster=self._roster,
        )
        self._follow = Follow(parts, self.certificate, self.upstream, self._candidates)
        if store.applied is not None:
            self._look_at_members()
        self._follow.start()
        self._begin_trimming()

    async def leave(self) -> None:
        """The role ends: nobody is followed, and the log is let go of."""
        if self._trimming is not None:
            self._trimming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._trimming
            self._trimming = None
        self.log.at = None
        if self._view.leader is not None and self._view.leader.node == self._identity.node_id:
            self._view.leader = None
        if self._follow is not None:
            await self._follow.stop()
            self._follow = None
        if self._store is not None:
            await self._store.close()
            self._store = None

    def leader_at(self) -> LeaderAt | None:
        """Where the leader's peer port is; None if this node leads, or knows of no leader."""
        leader = self._view.leader
        if self._view.role is Role.LEADER or leader is None or not self._roster.has(leader.node):
            return None
        return LeaderAt(leader.peer, leader.node)

    async def leads_elsewhere(self) -> bool:
        """Whether another node knows of a newer epoch than this one's directory does."""
        bound = (await self._on_helper(self._datadir.read_state)).bound_epoch
        with contextlib.suppress(apsw.Error, PetsemError):
            with self._pool.reading() as db:
                own = read_position(db).epoch
            return (await self.led_elsewhere(own))[0] > max(own, bound)
        return False

    async def led_elsewhere(self, epoch: int) -> Led:
        """The newest epoch that members know which do not follow this node, and whose it is. They
        hear that this node leads in `epoch`."""
        behind = self.followers.behind()
        every = self._candidates(limits.NODES_MAX)
        # An address without a name is no member's.
        members = [each for each in every if each.node_id and each.node_id not in behind]
        if not members:
            return NOBODY
        own = Own(self._identity.node_id, self._identity.cluster_id, None, epoch)
        return await newest_epoch(members, self.certificate, own, self._identity.region)

    def accept_loss(self) -> bool:
        """Let this node give up its own branch, which it saves; False if it has none to give up."""
        return self._follow is not None and self._follow.accept_loss()

    def _logged(self, txid: int) -> Position | None:
        with contextlib.suppress(OSError, LogError):
            return self.log.position_of(txid)
        return None

    def _published(self) -> None:
        """The leader's log has more than before. It is the only voter, so what is on its disk is
        what a failover would find."""
        if self._view.role is Role.LEADER:
            self._view.replicated = self.log.end
        self.feed.published()

    def _moved(self, *, durable: bool) -> None:
        """The disk of this node has more than before."""
        if self._follow is not None:
            self._follow.moved()
        if durable:
            self.feed.published()
        else:
            self._look_at_members()

    def _look_at_members(self) -> None:
        """See who is a member in the data as they are now: this node itself, and whom it follows
        or asks."""
        removed = None if self._roster.has(self._identity.node_id) else REMOVED
        if removed is not None and self._view.removed is None:
            log.error("removed", message=removed)
        if removed != self._view.removed:
            self._view.removed = removed
            # Whoever waits, or watches, looks and sees it.
            self._changes.publish_all()
        if self._follow is not None:
            self._follow.members_changed()

    def _dial(self, node: Candidate) -> grpc.aio.Channel:
        tls, cluster_id = self.certificate.tls, self._identity.cluster_id
        return peer_channel(tls, cluster_id, node.address, node.node_id)

    def _in_trouble(self, _why: str) -> None:
        """Only a snapshot helps: ask for one, also while no transactions come."""
        if self._follow is not None:
            self._follow.again()

    def _jumped(self) -> None:
        self._pool.renew()
        self._epochs_at = -1

    def _lost(self, lost: Lost) -> None:
        self._epochs_at = -1
        self.feed.rolled_back(lost.branch.fork)
        self.branch_lost()

    def _candidates(self, most: int = MOST) -> list[Candidate]:
        upstream = self._config.peer.upstream
        return candidates(self._pool, self._identity, upstream, self._view.leader, most=most)

    async def _checkpointed(self) -> Position:
        if self._view.role is Role.LEADER:
            return await self._writer.checkpointed()
        store = self._store
        if store is None or store.applied is None:
            raise unavailable("this node has no data to make a snapshot of")
        if not store.verified:
            raise unavailable("this node is still checking its pages; ask another one")
        return store.applied

    async def _on_helper(self, call: Callable[..., T], *args: object) -> T:
        """Do it on the helper thread, where the log is written and the state is."""
        return await asyncio.get_running_loop().run_in_executor(self._helper, call, *args)

    def _report(self) -> pb.NodeReport:
        return pb.NodeReport(
            node=self._identity.node_id,
            region=self._identity.region,
            keks=[
                pb.KekIds(purpose=purpose.value, ids=self._keys.keyring.ids(purpose))
                for purpose in Purpose
            ],
        )

    def _look_after_log(self) -> None:
        """On the helper thread, of a leader: a log whose files were deleted begins anew."""
        capture = self._writer.logging.capture
        if capture is not None and capture.log.is_deleted(every_file=True):
            capture.renew()

    def _begin_trimming(self) -> None:
        self._trimming = asyncio.create_task(self._trim(), name="log-retention")

    async def _trim(self) -> None:
        bounds = self._config.log.retention
        while True:
            await asyncio.sleep(_TRIM_EVERY_S)
            transactions, end = self.log.at, self.log.end
            if transactions is None or end is None:
                continue
            floor = self.followers.floor_txid()
            try:
                if self._store is not None:
                    await self._store.trim(floor, bounds)
                else:
                    now_ms = self._clock.unix_ms()
                    await self._on_helper(self._look_after_log)
                    await self._on_helper(trim, transactions, end.txid, floor, now_ms, bounds)
            except (OSError, PetsemError) as e:
                log.warning("log_not_trimmed", error=type(e).__name__)
            except Exception as e:
                # Whatever it was, the log must not grow from now on until the role changes.
                log.error("log_not_trimmed", exc_info=e)
