"""How fresh an answer of this node is.

A read handler needs a reading connection, the keys, and this. It is told the node's role; it
never reaches into the writer or the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from petsem.clock import Clock
from petsem.model import Freshness, Position, Role
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf


@dataclass(slots=True)
class FreshnessSource:
    """Says of a position that was read in the same transaction as the data how fresh that is.

    On a leader inside its lease nothing lags, and with one voter what it holds is what a failover
    would find.
    """

    node: str
    region: str
    clock: Clock
    role: Role = Role.LEADER
    _leading: pb.Freshness | None = field(default=None, init=False, repr=False, compare=False)

    def at(self, position: Position) -> Freshness:
        """The freshness of data read at `position`."""
        leads = self.role is Role.LEADER
        return Freshness(
            node=self.node,
            region=self.region,
            role=self.role,
            position=position,
            server_time_ms=self.clock.unix_ms(),
            lag_ms=0 if leads else None,
            leader_seen_ms_ago=0 if leads else None,
            replicated=position if leads else None,
        )

    def protobuf(self, position: Position) -> pb.Freshness:
        """The same as a protobuf message."""
        return to_protobuf(self.at(position))

    def encoded(self, position: Position) -> bytes:
        """The same, serialised. On a leader one message is filled in again and again, which is
        several times as fast as making one, and every reply needs it."""
        if self.role is not Role.LEADER or position.checksum is not None:
            return self.protobuf(position).SerializeToString()
        message = self._leading
        if message is None:
            message = self._leading = self.protobuf(position)
        for at in (message.position, message.replicated):
            at.epoch = position.epoch
            at.txid = position.txid
        message.server_time_ms = self.clock.unix_ms()
        return message.SerializeToString()


def to_protobuf(freshness: Freshness) -> pb.Freshness:
    """The message; what is None stays absent."""
    return pb.Freshness(
        node=freshness.node,
        region=freshness.region,
        role=freshness.role,  # type: ignore[arg-type]
        position=position_to_protobuf(freshness.position),
        lag_ms=freshness.lag_ms,
        leader_seen_ms_ago=freshness.leader_seen_ms_ago,
        source=freshness.source,  # type: ignore[arg-type]
        server_time_ms=freshness.server_time_ms,
        replicated=None
        if freshness.replicated is None
        else position_to_protobuf(freshness.replicated),
    )


def to_http(freshness: Freshness) -> http.Freshness:
    """The JSON body; what is None stays absent."""

    def known(value: int | None) -> int | msgspec.UnsetType:
        return msgspec.UNSET if value is None else value

    return http.Freshness(
        node=freshness.node,
        region=freshness.region,
        role=freshness.role.name.lower(),  # type: ignore[arg-type]
        position=str(freshness.position),
        server_time_ms=freshness.server_time_ms,
        source=freshness.source.name.lower(),  # type: ignore[arg-type]
        lag_ms=known(freshness.lag_ms),
        leader_seen_ms_ago=known(freshness.leader_seen_ms_ago),
        replicated=msgspec.UNSET if freshness.replicated is None else str(freshness.replicated),
    )
