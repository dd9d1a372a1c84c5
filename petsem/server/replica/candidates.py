"""Whom a replica may follow, best first.

What `petsem.toml` names comes first: an operator who wants one ocean crossing for a region names a
node of that region there. Then the leader, then members that are near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from petsem.errors import PetsemError
from petsem.server.address import Address
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.database import ReadPool
from petsem.server.datadir import NodeIdentity
from petsem.server.store import nodes as rows

MOST: Final = 6
"""Tried in one round."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer address (HOST:PORT), and whose it is where that is known."""

    address: str
    node_id: str | None = None


def candidates(
    pool: ReadPool,
    identity: NodeIdentity,
    configured: Address | None,
    leader: LeaderAddresses | None,
    *,
    most: int = MOST,
) -> list[Candidate]:
    """Whom to dial now: as the configuration, the node's own database and the last word of the
    leader have it. Of these the last two may be missing."""
    try:
        with pool.reading() as db:
            members = [row for row in rows.every(db) if row.id != identity.node_id]
            known = rows.leader(db)
    except (apsw.Error, PetsemError):
        members, known = [], None
    owners = {row.peer: row.id for row in members}
    found: dict[str, Candidate] = {}

    def add(address: str, node_id: str | None) -> None:
        if address and node_id != identity.node_id:
            found.setdefault(address, Candidate(address, node_id))

    if configured is not None:
        add(str(configured), owners.get(str(configured)))
    if leader is not None:
        add(leader.peer, leader.node)
    if known is not None:
        add(known.peer, known.id)
    for row in sorted(members, key=lambda row: row.region != identity.region):
        add(row.peer, row.id)
    return list(found.values())[:most]
