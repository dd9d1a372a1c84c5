"""How fresh an answer of this node is.

A read handler needs a reading connection, the keys, and this. What it knows of the leader it has
from the `ClusterView`; it never reaches into the writer or the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from petsem.clock import Clock
from petsem.model import Freshness, Position, Role
from petsem.server.cluster_view import ClusterView
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

HEARD_MS: Final = 3_000
"""A leader that was heard so lately is there: it is heard each second."""


@dataclass(slots=True)
class FreshnessSource:
    """Says of a position that was read in the same transaction as the data how fresh that is.

    On a leader inside its lease nothing lags, and with one voter what it holds is what a failover
    would find. Without a `view` the node leads and is alone.
    """

    node: str
    region: str
    clock: Clock
    view: ClusterView = None  # type: ignore[assignment]
    _leading: pb.Freshness | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.view is None:
            self.view = ClusterView(self.clock, role=Role.LEADER, synced=True)

    @property
    def role(self) -> Role:
        """What this node is now."""
        return self.view.role

    def leader_is_quiet(self) -> bool:
        """Whether this node follows a leader and did not hear it lately."""
        view = self.view
        if view.role is Role.LEADER:
            return False
        ago_ms = view.leader_seen_ms_ago()
        return ago_ms is None or ago_ms > HEARD_MS

    def at(self, position: Position) -> Freshness:
        """The freshness of data read at `position`."""
        view = self.view
        return Freshness(
            node=self.node,
            region=self.region,
            role=view.role,
            position=position,
            server_time_ms=self.clock.unix_ms(),
            lag_ms=_bounded(view.lag_ms()),
            leader_seen_ms_ago=_bounded(view.leader_seen_ms_ago()),
            replicated=position if view.role is Role.LEADER else view.replicated,
        )

    def protobuf(self, position: Position) -> pb.Freshness:
        """The same as a protobuf message."""
        return to_protobuf(self.at(position))

    def encoded(self, position: Position) -> bytes:
        """The same, serialised. On a leader one message is filled in again and again, which is
        several times as fast as making one, and every reply needs it."""
        if self.view.role is not Role.LEADER or position.checksum is not None:
            return self.protobuf(position).SerializeToString()
        message = self._leading
        if message is None:
            message = self._leading = self.protobuf(position)
        for at in (message.position, message.replicated):
            at.epoch = position.epoch
            at.txid = position.txid
        message.server_time_ms = self.clock.unix_ms()
        return message.SerializeToString()


def _bounded(ms: int | None) -> int | None:
    """Within the wire's 32 bits: what is older than 49 days is 49 days old."""
    return None if ms is None else min(ms, 2**32 - 1)


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
