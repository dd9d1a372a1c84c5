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
from petsem.server import sql
from petsem.server.database import ReadPool, read_position
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.freshness import FreshnessSource
from petsem.server.keyring_source import KeyringSource, warn_if_inside
from petsem.server.keys import Keys
from petsem.server.service.keyring import KeyringService
from petsem.server.space import Space
from petsem.server.store import keyring as rows
from petsem.server.writer import Writer
from petsem.wire import http

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
    ) -> None:
        self._datadir = datadir
        self._identity = identity
        self._pool = pool
        self._writer = writer
        self._keys = keys
        self._source = source
        self._keyring = keyring
        self._space = space
        self._freshness = freshness
        self.draining = False
        """Set when the node begins to stop."""

    def ready(self) -> list[str]:
        """Why this node should not be asked; empty if it should."""
        try:
            with self._pool.reading() as db:
                lacking = self._lacking(db)
        except (apsw.Error, PetsemError):
            return ["the database cannot be read; see the node's log"]
        return self._reasons(lacking)

    def warnings(self) -> list[str]:
        """What an operator should look after, with the reasons for not being ready first."""
        with self._pool.reading() as db:
            lacking = self._lacking(db)
        return [*self._reasons(lacking), *self._warnings(lacking)]

    def status(self) -> http.Status:
        """This node, with what is wrong with it."""
        with self._pool.snapshot() as db:
            position = read_position(db)
            lacking = self._lacking(db)
            addresses = sql.one(
                db, "SELECT http, grpc FROM nodes WHERE id = ?", (self._identity.node_id,)
            )
        reasons = self._reasons(lacking)
        freshness = self._freshness.at(position)
        leads = freshness.lag_ms == 0
        node = http.NodeStatus(
            node=self._identity.node_id,
            region=self._identity.region,
            role=freshness.role.name.lower(),  # type: ignore[arg-type]
            epoch=position.epoch,
            position=str(position),
            lag_transactions=0 if leads else None,
            lag_ms=freshness.lag_ms,
            last_error=self._writer.last_error,
            version=__version__,
            ready=not reasons,
            warnings=[*reasons, *self._warnings(lacking)],
            http="" if addresses is None else addresses[0],
            grpc="" if addresses is None else addresses[1],
        )
        return http.Status(cluster=self._identity.cluster_id.hex(), nodes=[node])

    def nodes(self) -> http.NodeList:
        """The cluster's nodes and their addresses."""
        with self._pool.reading() as db:
            found = sql.rows(
                db,
                "SELECT id, region, voter, joined_at, http, grpc, peer FROM nodes ORDER BY id",
            )
        return http.NodeList(
            nodes=[
                http.NodeInfo(
                    node=node_id,
                    region=region,
                    voter=voter == 1,
                    joined_at=rfc3339(joined_at),
                    http=http_address,
                    grpc=grpc_address,
                    peer=peer,
                )
                for node_id, region, voter, joined_at, http_address, grpc_address, peer in found
            ]
        )

    def _reasons(self, lacking: list[tuple[Purpose, str]]) -> list[str]:
        reasons = [message for purpose, message in lacking if purpose is Purpose.TOKENS]
        if self.draining:
            reasons.append("the node is stopping")
        elif not self._writer.running:
            reasons.append("the writer cannot open the database; see the node's log")
        return reasons

    def _lacking(self, db: apsw.Connection) -> list[tuple[Purpose, str]]:
        """KEKs in use that this node does not hold."""
        return [
            (
                purpose,
                f"this node lacks the {purpose} key {kek_id.hex()}: {_WITHOUT[purpose]}; "
                f"add it to {self._source}, then send the node SIGHUP",
            )
            for purpose in Purpose
            for kek_id in rows.keks_in_use(db, purpose)
            if self._keys.keyring.get(purpose, kek_id) is None
        ]

    def _warnings(self, lacking: list[tuple[Purpose, str]]) -> list[str]:
        warnings = [message for purpose, message in lacking if purpose is not Purpose.TOKENS]
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
