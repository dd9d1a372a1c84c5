"""Feeding followers: the answering side of `Replication.Stream`, on any node that has data.

Guarantees: a follower is of this cluster, is who its certificate says, and is not on this node's
own way to the leader; what it is sent continues what it has, or is a snapshot, or tells it where
its branch left ours. A follower costs the node and the others its share of the bandwidth and a
few tasks, however slow, silent or wrong it is.

It does not decide who leads, and does not write to the log, but for taking damage out of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Final

import structlog

import petsem
from petsem import limits
from petsem.clock import Clock
from petsem.errors import Code, PetsemError, conflict, invalid, unavailable
from petsem.model import Position, Role
from petsem.replication.session.feed import (
    PROTOCOL,
    Branch,
    FeedSession,
    Hello,
    Own,
    Rule,
    State,
    Unfit,
    admit,
)
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import NodeIdentity
from petsem.server.peer.dial import STREAM
from petsem.server.peer.handlers import PeerStream, Send
from petsem.server.peer.membership import Member
from petsem.server.replica.feed_files import Files
from petsem.server.replica.follower_stream import FollowerStream, Supply
from petsem.server.replica.followers import Epochs, Follower, Followers
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.own_word import described, fit
from petsem.server.replica.parts import LOOP
from petsem.server.replica.snapshot_source import SnapshotSource
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf

log = structlog.get_logger(__name__)

_NEVER_MS: Final = 2**32 - 1
"""The age of a leader that was never heard: as old as the field can say."""
_PASSING: Final = frozenset({Rule.LOOP, Rule.TOO_FAR, Rule.DEPOSED})
"""What another time or another node may cure."""


class Feed:
    """The followers' streams of one node.

    `position` is the end of what may be streamed, None without data. `epochs` are the branch's,
    ascending. `report` is how this node itself is, for the status of the others.
    """

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        files: Files,
        view: ClusterView,
        followers: Followers,
        hearsay: Hearsay,
        snapshots: SnapshotSource,
        clock: Clock,
        helper: Executor,
        position: Callable[[], Position | None],
        epochs: Epochs,
        report: Callable[[], pb.NodeReport] | None = None,
        heartbeat_s: float = limits.STREAM_HEARTBEAT_S,
    ) -> None:
        self._identity = identity
        self._files = files
        self._view = view
        self._followers = followers
        self._hearsay = hearsay
        self._clock = clock
        self._position = position
        self._epochs = epochs
        self._report = report
        self._streams: set[FollowerStream] = set()
        self._supply = Supply(
            files=files,
            snapshots=snapshots,
            followers=followers,
            helper=helper,
            branch=self._branch,
            position=position,
            path=self._path,
            heartbeat=self._heartbeat,
            heartbeat_s=heartbeat_s,
        )
        view.way_changed = self._way_changed

    @property
    def method(self) -> PeerStream:
        """For the peer port."""
        return PeerStream(STREAM, pb.FromReplica, self.stream)

    def published(self) -> None:
        """`position` has moved on. On the loop."""
        for stream in self._streams:
            stream.wake()

    def _way_changed(self) -> None:
        """Those who follow this node hear at once which way it goes now: they may be on it."""
        for stream in self._streams:
            stream.beat()

    def rolled_back(self, fork: Position) -> None:
        """This node has dropped what it had after `fork`: so do those who follow it."""
        self._files.forget()
        for stream in self._streams:
            stream.roll_back(fork)

    async def stream(
        self, member: Member, requests: AsyncIterator[pb.FromReplica], send: Send
    ) -> None:
        """Answer one follower, until one of the two has had enough."""
        said = await _first(requests)
        hello = _hello(said)
        try:
            admit(hello, self._own(), member.node_id)
            branch = self._branch()
            if branch is None:
                raise unavailable("this node has no data yet; follow another one")
            follower = Follower(
                member.node_id,
                member.region,
                schema=said.schema,
                epoch_seen=said.epoch_seen,
                keks=tuple((each.purpose, tuple(each.ids)) for each in said.keks),
            )
            session = FeedSession(hello, branch)
            if session.state is State.FILES and session.at is not None:
                follower.durable = session.at
                follower.needs_from = session.at.txid
            stream = FollowerStream(self._supply, session, follower, send)
            welcome = pb.FromLeader(welcome=self._welcome(branch)).SerializeToString()
            if said.asks:
                await send(welcome)
            else:
                await self._serve(stream, welcome, follower, requests, session.state)
        except Unfit as unfit:
            if unfit.rule is Rule.DEPOSED:
                # This node leads no more, and hears of it here first.
                self._view.heard_of(hello.epoch_seen)
            raise _refusal(unfit) from None

    async def _serve(
        self,
        stream: FollowerStream,
        welcome: bytes,
        follower: Follower,
        requests: AsyncIterator[pb.FromReplica],
        state: State,
    ) -> None:
        # Before anything is awaited: what becomes of the branch from here on is news to it.
        self._followers.joined(follower)
        self._streams.add(stream)
        log.info("follower_connected", node=follower.node_id, begins_with=state.name.lower())
        try:
            await stream.run(welcome, requests)
        finally:
            self._streams.discard(stream)
            self._followers.left(follower)
            log.info("follower_left", node=follower.node_id)

    def _path(self) -> tuple[str, ...]:
        return self._view.path or (self._identity.node_id,)

    def _own(self) -> Own:
        leads, end = self._view.role is Role.LEADER, self._position()
        # What a leader has heard of since does not make it the leader of that.
        led = end.epoch if leads and end is not None else None
        return Own(
            node_id=self._identity.node_id,
            cluster_id=self._identity.cluster_id,
            epoch_seen=self._epoch_seen() if led is None else led,
            path=self._path(),
            is_leader=leads,
            epoch_known=max(self._view.epoch_known, 0 if end is None else end.epoch),
        )

    def _epoch_seen(self) -> int:
        end = self._position()
        return max(self._view.epoch_seen, 0 if end is None else end.epoch)

    def _branch(self) -> Branch | None:
        base, end = self._files.log.base, self._position()
        if base is None or end is None:
            return None
        return Branch(base, end, self._epochs(), self._files.position_of)

    def _welcome(self, branch: Branch) -> pb.Welcome:
        leader = self._view.leader
        epochs = branch.epochs[-limits.STREAM_EPOCHS_MAX :]
        return pb.Welcome(
            protocol=PROTOCOL,
            cluster=self._identity.cluster_id,
            node=self._identity.node_id,
            region=self._identity.region,
            version=petsem.__version__,
            epoch_seen=self._epoch_seen(),
            path=self._path(),
            leader_http="" if leader is None else leader.http,
            leader_grpc="" if leader is None else leader.grpc,
            leader_peer="" if leader is None else leader.peer,
            position=position_to_protobuf(branch.end),
            epochs=[pb.Epoch(epoch=e, first_txid=first, leader=who) for e, first, who in epochs],
        )

    def _heartbeat(self, follower: str) -> pb.Heartbeat:
        view, end = self._view, self._position()
        nodes = self._hearsay.downwards(follower)
        if self._report is not None:
            nodes.insert(0, described(self._report))
            nodes[0].node = self._identity.node_id
            fit(nodes[0])
        branch = self._epochs()
        leads = view.role is Role.LEADER
        ago_ms = view.leader_seen_ms_ago()
        ago_ms = _NEVER_MS if ago_ms is None else min(ago_ms, _NEVER_MS)
        # A node that has not heard where the leader is knows that it was here at least.
        position = end if leads else view.leader_position or end
        replicated = view.replicated
        return pb.Heartbeat(
            position=None if position is None else position_to_protobuf(position),
            leader_time_ms=max(0, self._clock.unix_ms() - ago_ms),
            leader_seen_ms_ago=ago_ms,
            epoch_seen=self._epoch_seen(),
            nodes=nodes[: limits.NODES_MAX],
            replicated=None if replicated is None else position_to_protobuf(replicated),
            path=self._path(),
            leader=branch[-1][2] if branch else "",
        )


async def _first(requests: AsyncIterator[pb.FromReplica]) -> pb.Hello:
    try:
        async with asyncio.timeout(limits.STREAM_HELLO_DEADLINE_S):
            async for request in requests:
                if request.WhichOneof("message") == "hello":
                    return request.hello
                break
    except TimeoutError:
        pass
    raise invalid("a follower says hello first")


def _hello(said: pb.Hello) -> Hello:
    resume = None
    if said.HasField("resume"):
        resume = position_from_protobuf(said.resume.at), said.resume.next_page
    return Hello(
        protocol=said.protocol,
        cluster_id=said.cluster,
        node_id=said.node,
        epoch_seen=said.epoch_seen,
        position=position_from_protobuf(said.position) if said.HasField("position") else None,
        resume=resume,
        epochs=tuple((each.epoch, each.first_txid, each.leader) for each in said.epochs),
    )


def _refusal(unfit: Unfit) -> PetsemError:
    message = f"the node cannot follow this one: {unfit.rule.value}"
    if unfit.rule in _PASSING:
        return conflict(message, reason=LOOP if unfit.rule is Rule.LOOP else None)
    if unfit.rule in (Rule.CLUSTER, Rule.NAME):
        return PetsemError(Code.DENIED, message)
    return invalid(message)
