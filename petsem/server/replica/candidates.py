"""Whom a replica may follow, and whom it may ask, best first.

What `petsem.toml` names comes first: an operator who wants one ocean crossing for a region names a
node of that region there. Then the leader, then members that are near. Who is asked is the leader,
then the others.

Guarantees: with data, only members are named; an address of `petsem.toml` that is no member's comes
without a name, and whoever dials it has to find out whose it is.
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
from petsem.server.store.nodes import NodeRow

MOST: Final = 6
"""Tried in one round."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer address (HOST:PORT), and whose it is where that is known."""

    address: str
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Askable:
    """Members that a request may be passed on to: the leader, if it is known and another node, and
    the others, the near ones first."""

    leader: Candidate | None = None
    others: tuple[Candidate, ...] = ()


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
    members, known = _rows(pool, identity)
    owners = {row.peer: row.id for row in members}
    found: dict[str, Candidate] = {}

    def add(address: str, node_id: str | None) -> None:
        if address and node_id != identity.node_id:
            found.setdefault(address, Candidate(address, node_id))

    if configured is not None:
        add(str(configured), owners.get(str(configured)))
    if leader is not None and (not members or leader.node in {row.id for row in members}):
        add(leader.peer, leader.node)
    if known is not None:
        add(known.peer, known.id)
    for row in _nearest(members, identity):
        add(row.peer, row.id)
    return list(found.values())[:most]


def askable(pool: ReadPool, identity: NodeIdentity, leader: LeaderAddresses | None) -> Askable:
    """Whom to ask now. The leader is who was heard to lead last, else who began the last epoch of
    the database."""
    members, known = _rows(pool, identity)
    first: Candidate | None = None
    if leader is not None and any(row.id == leader.node for row in members):
        first = Candidate(leader.peer, leader.node)
    elif known is not None and known.id != identity.node_id:
        first = Candidate(known.peer, known.id)
    others = [
        Candidate(row.peer, row.id)
        for row in _nearest(members, identity)
        if first is None or row.id != first.node_id
    ]
    return Askable(first, tuple(others[:MOST]))


def _rows(pool: ReadPool, identity: NodeIdentity) -> tuple[list[NodeRow], NodeRow | None]:
    """The other members, and the leader as the database has it; nothing without data."""
    try:
        with pool.reading() as db:
            return [row for row in rows.every(db) if row.id != identity.node_id], rows.leader(db)
    except (apsw.Error, PetsemError):
        return [], None


def _nearest(members: list[NodeRow], identity: NodeIdentity) -> list[NodeRow]:
    return sorted(members, key=lambda row: row.region != identity.region)
