"""The stream's messages between protobuf and the values of the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.message import DecodeError

import petsem
from petsem import limits
from petsem.errors import unavailable
from petsem.model import Position
from petsem.replication.session.follow import PROTOCOL, Broken, Own, Rule
from petsem.replication.session.from_leader import (
    Heartbeat,
    Message,
    Rollback,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Transactions,
    Welcome,
)
from petsem.server.peer.dial import error_of, is_its_own_word
from petsem.server.replica.own_word import described, fit
from petsem.server.replica.parts import FollowParts
from petsem.server.schema import SCHEMA_VERSION
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf, position_to_protobuf

_WRITE_FAILED: Final = "Internal error from Core"
"""What grpc.aio says where a write was the first to notice that the call had ended."""
_UINT32_MAX: Final = 2**32 - 1


def parse(raw: bytes) -> tuple[pb.FromLeader, Message]:
    """The message that `raw` is, in both forms; `Broken` if it is none."""
    try:
        said = pb.FromLeader.FromString(raw)
    except DecodeError:
        raise Broken(Rule.GARBAGE) from None
    return said, _value(said)


def _value(said: pb.FromLeader) -> Message:
    match said.WhichOneof("message"):
        case "transactions":
            return Transactions(said.transactions.epoch, said.transactions.ltx)
        case "heartbeat":
            beat = said.heartbeat
            position = position_from_protobuf(beat.position)
            return Heartbeat(
                position, beat.leader_seen_ms_ago, beat.epoch_seen, tuple(beat.path), beat.leader
            )
        case "pages":
            pages = said.pages
            return SnapshotPages(pages.first_page, pages.count, pages.data)
        case "snapshot":
            begin = said.snapshot
            return SnapshotBegin(
                position_from_protobuf(begin.at), begin.pages, begin.first_page or 1
            )
        case "snapshot_end":
            end = said.snapshot_end
            return SnapshotEnd(position_from_protobuf(end.at), end.ltx, end.more)
        case "rollback":
            return Rollback(position_from_protobuf(said.rollback.fork))
        case "welcome":
            welcome = said.welcome
            at = position_from_protobuf(welcome.position) if welcome.HasField("position") else None
            last = welcome.epochs[-1] if welcome.epochs else None
            return Welcome(
                welcome.protocol,
                welcome.cluster,
                welcome.node,
                welcome.epoch_seen,
                tuple(welcome.path),
                at,
                None if last is None else (last.epoch, last.leader),
                (welcome.leader_http, welcome.leader_grpc, welcome.leader_peer),
            )
    raise Broken(Rule.GARBAGE)


def hello(
    own: Own,
    region: str,
    epochs: Sequence[tuple[int, int, str]],
    keks: Sequence[pb.KekIds],
    *,
    asks: bool = False,
) -> pb.FromReplica:
    """What a follower says first, or who only `asks` for the welcome."""
    message = pb.Hello(
        protocol=PROTOCOL,
        cluster=own.cluster_id,
        node=own.node_id,
        region=region,
        version=petsem.__version__,
        schema=SCHEMA_VERSION,
        keks=keks,
        epoch_seen=own.epoch_seen,
        asks=asks,
        epochs=[
            pb.Epoch(epoch=epoch, first_txid=first, leader=leader)
            for epoch, first, leader in epochs[-limits.STREAM_EPOCHS_MAX :]
        ],
    )
    if own.position is not None:
        message.position.CopyFrom(position_to_protobuf(own.position))
    if own.resume is not None:
        at, next_page = own.resume
        message.resume.CopyFrom(pb.SnapshotAt(at=position_to_protobuf(at), next_page=next_page))
    return pb.FromReplica(hello=message)


def ack(received: Position | None, durable: Position | None, applied: Position | None) -> pb.Ack:
    """How far the follower has come; 0 is nothing."""
    counted = [0 if each is None else each.txid for each in (received, durable, applied)]
    return pb.Ack(
        received=counted[0],
        durable=min(counted[:2]),
        applied=min(counted),
        epoch=0 if durable is None else durable.epoch,
    )


def own_report(parts: FollowParts) -> pb.NodeReport:
    """How this node is, for those towards the leader."""
    report = pb.NodeReport()
    report.CopyFrom(described(parts.describe))
    view, disk = parts.view, parts.disk
    report.node, report.region = parts.identity.node_id, parts.identity.region
    report.version, report.schema = petsem.__version__, SCHEMA_VERSION
    for field, position in ((report.durable, disk.durable), (report.applied, disk.applied)):
        if position is not None:
            field.CopyFrom(position_to_protobuf(position))
    lag_ms = view.lag_ms()
    if lag_ms is not None:
        report.lag_ms = min(lag_ms, _UINT32_MAX)
    report.source = view.path[1] if len(view.path) > 1 else ""
    fit(report)
    return report


def ended(error: grpc.aio.AioRpcError, *, heard: bool) -> Exception:
    """Why a stream ended, from what reading it raised. `heard`: something had been read."""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not is_its_own_word(error):
        return Broken(Rule.SIZE)
    if error.details() == _WRITE_FAILED or (heard and not is_its_own_word(error)):
        return unavailable("the stream broke off")
    return error_of(error)
