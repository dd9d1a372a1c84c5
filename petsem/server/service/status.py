"""What a node says of itself: status, readiness, and the cluster's nodes.

Guarantees: cheap enough to be asked every second, whatever the size of the database; it names key
ids and never a key. A warning is something that an operator should do; a reason for not being ready
is something for which a load balancer should choose another node. A full disk is only a warning,
because reads go on.
"""

from __future__ import annotations

from typing import Final

import apsw

from petsem import __version__
from petsem.clock import rfc3339
from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError
from petsem.model import Position, Role
from petsem.server.database import ReadPool, read_position
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.freshness import FreshnessSource
from petsem.server.keyring_source import KeyringSource, warn_if_inside
from petsem.server.keys import Keys
from petsem.server.replica.hearsay import Hearsay
from petsem.server.replica.lost_keks import LostKeks
from petsem.server.service.keyring import KeyringService
from petsem.server.service.reports import as_status, held_keks, unheard
from petsem.server.space import Space
from petsem.server.store import keyring as rows
from petsem.server.store import nodes
from petsem.server.store.nodes import NodeRow
from petsem.server.writer import Writer
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_to_protobuf

_CHANGING: Final = "the node is changing its role"
_WITHOUT: Final = {
    Purpose.SECRETS: "it cannot read or write the values that the key protects",
    Purpose.TOKENS: "it cannot verify the tokens of the orgs that the key protects",
    Purpose.CLUSTER: "it cannot verify operators' tokens",
}


class StatusService:
    """Reads with a pool, and asks the parts of the node how they are."""

    def __init__(
        self,
        *,
        datadir: DataDir,
        identity: NodeIdentity,
        pool: ReadPool,
        writer: Writer,
        keys: Keys,
        source: KeyringSource,
        keyring: KeyringService,
        space: Space,
        freshness: FreshnessSource,
        hearsay: Hearsay,
    ) -> None:
        self._lost_keks = LostKeks(datadir)
        self._hearsay = hearsay
        self._datadir = datadir
        self._identity = identity
        self._pool = pool
        self._writer = writer
        self._keys = keys
        self._source = source
        self._keyring = keyring
        self._space = space
        self._freshness = freshness
        self._view = freshness.view
        self.draining = False
        """Set when the node begins to stop."""

    def ready(self) -> list[str]:
        """Why this node should not be asked; empty if it should. Anybody may hear it: no reason
        says where on the machine anything is."""
        if self._view.role is Role.UNKNOWN:
            # Not for which process: that is for operators.
            until = "" if self._view.waits is None else ", once another process lets it"
            return [f"{_CHANGING}{until}"]
        if self._has_nothing():
            return self._reasons([])
        try:
            with self._pool.reading() as db:
                lacking = self._lacking(db, "its keyring")
        except (apsw.Error, PetsemError):
            return ["the database cannot be read; see the node's log"]
        return self._reasons(lacking)

    def warnings(self) -> list[str]:
        """What an operator should look after, with the reasons for not being ready first."""
        if self._has_nothing():
            return [*self._reasons([]), *self._warnings([])]
        with self._pool.reading() as db:
            lacking = self._lacking(db)
        return [*self._reasons(lacking), *self._warnings(lacking)]

    def status(self) -> http.Status:
        """Every node, as far as it is known here, by id; what is wrong with this one."""
        own, members, leader = self._own()
        leader_at = self._leader_at()
        found = {node_id: self._other(row, leader, leader_at) for node_id, row in members.items()}
        found[own.node] = own
        return http.Status(
            cluster=self._identity.cluster_id.hex(),
            nodes=[found[node_id] for node_id in sorted(found)],
        )

    def _other(
        self, row: NodeRow, leader: str | None, leader_at: Position | None
    ) -> http.NodeStatus:
        heard = self._hearsay.of(row.id)
        if heard is None:
            return unheard(row)
        return as_status(
            heard.report,
            row,
            ago_ms=self._hearsay.age_ms(heard),
            heard=self._hearsay.counts(heard),
            leader=leader,
            leader_at=leader_at,
        )

    def report(self) -> pb.NodeReport:
        """This node, as it tells the others each second."""
        own, _, _ = self._own()
        position = None if own.position is None else Position.parse(own.position)
        at = None if position is None else position_to_protobuf(position)
        return pb.NodeReport(
            node=own.node,
            region=own.region,
            version=own.version,
            # What is applied is in the log, or the WAL, before.
            durable=at,
            applied=at,
            lag_ms=None if own.lag_ms is None else min(own.lag_ms, 2**32 - 1),
            last_error=own.last_error or "",
            keks=held_keks(self._keys.keyring),
            lost_keks=self._lost_keks.ids(),
            source=own.source or "",
            ready=own.ready,
            warnings=own.warnings,
        )

    def _own(self) -> tuple[http.NodeStatus, dict[str, NodeRow], str | None]:
        """This node, the members that it knows of, and which one leads."""
        members: dict[str, NodeRow] = {}
        leader = None if self._view.leader is None else self._view.leader.node
        lacking: list[tuple[Purpose, str]] = []
        position: Position | None = None
        applied = self._view.applied
        if self._view.unreadable is not None and applied is not None:
            position = Position(applied.epoch, applied.txid)
        if not self._has_nothing():
            with self._pool.snapshot() as db:
                position = read_position(db)
                lacking = self._lacking(db)
                members = {row.id: row for row in nodes.every(db)}
                known = nodes.leader(db)
                leader = leader or (None if known is None else known.id)
        view = self._view
        row = members.get(self._identity.node_id)
        reasons = self._reasons(lacking)
        own = http.NodeStatus(
            node=self._identity.node_id,
            region=self._identity.region,
            role=view.role.name.lower(),  # type: ignore[arg-type]
            epoch=None if position is None else position.epoch,
            position=None if position is None else str(position),
            lag_transactions=view.lag_transactions(),
            lag_ms=view.lag_ms(),
            last_error=self._last_error(),
            version=__version__,
            ready=not reasons,
            warnings=[*reasons, *self._warnings(lacking)],
            http="" if row is None else row.http,
            grpc="" if row is None else row.grpc,
            source=view.path[1] if len(view.path) > 1 else None,
            heard_ms_ago=0,
        )
        return own, members, self._identity.node_id if view.role is Role.LEADER else leader

    def _leader_at(self) -> Position | None:
        if self._view.role is not Role.LEADER:
            return self._view.leader_position
        with self._pool.reading() as db:
            return read_position(db)

    def _has_nothing(self) -> bool:
        """Whether this node has no data that may be read: its database may not even have tables,
        or others than this program knows."""
        if self._view.role is Role.LEADER:
            return False
        return not self._view.synced or self._view.unreadable is not None

    def _last_error(self) -> str | None:
        return self._view.problem or self._writer.last_error

    def nodes(self) -> http.NodeList:
        """The cluster's nodes and their addresses."""
        with self._pool.reading() as db:
            found = nodes.every(db)
        return http.NodeList(
            nodes=[
                http.NodeInfo(
                    node=row.id,
                    region=row.region,
                    voter=row.voter,
                    joined_at=rfc3339(row.joined_at),
                    http=row.http,
                    grpc=row.grpc,
                    peer=row.peer,
                )
                for row in found
            ]
        )

    def _reasons(self, lacking: list[tuple[Purpose, str]]) -> list[str]:
        reasons = [message for purpose, message in lacking if purpose is Purpose.TOKENS]
        if self._view.removed is not None:
            reasons.insert(0, self._view.removed)
        if self._view.role is Role.UNKNOWN:
            reasons.append(self._view.waits or _CHANGING)
        elif self._view.role is not Role.LEADER and self._view.unreadable is not None:
            reasons.append(self._view.unreadable)
        elif self._has_nothing():
            reasons.append(self._view.lacking)
        if self.draining:
            reasons.append("the node is stopping")
        elif self._view.role is Role.LEADER and not self._writer.running:
            reasons.append("the writer cannot open the database; see the node's log")
        return reasons

    def _lacking(
        self, db: apsw.Connection, keyring: str | None = None
    ) -> list[tuple[Purpose, str]]:
        """KEKs in use that this node does not hold; `keyring` is what to call where they go."""
        keyring = keyring or str(self._source)
        return [
            (
                purpose,
                f"this node lacks the {purpose} key {kek_id.hex()}: {_WITHOUT[purpose]}; "
                f"add it to {keyring}, then send the node SIGHUP",
            )
            for purpose in Purpose
            for kek_id in rows.keks_in_use(db, purpose)
            if self._keys.keyring.get(purpose, kek_id) is None
        ]

    def _warnings(self, lacking: list[tuple[Purpose, str]]) -> list[str]:
        warnings = [message for purpose, message in lacking if purpose is not Purpose.TOKENS]
        if not self._has_nothing() and self._freshness.leader_is_quiet():
            warnings.append("the leader is not heard; reads are answered from what was received")
        if self._view.ignored_upstream is not None:
            warnings.append(self._view.ignored_upstream)
        if self._keyring.last_error is not None:
            warnings.append(f"the keyring was not read again: {self._keyring.last_error}")
        file = self._source.file
        inside = None if file is None else warn_if_inside(self._datadir, file)
        if inside is not None:
            warnings.append(inside)
        if self._space.low:
            warnings.append("the disk is full, so the node takes no writes; free space on it")
        if not self._datadir.ballast.is_file():
            warnings.append(
                "the ballast file is not there, because the disk is or was full; "
                "the node lays it down again when there is room"
            )
        return warnings
