"""Rows of nodes and of the invitations by which they joined.

A node's row is its membership: without it, its certificate is worth nothing. An invitation's row
stays for a while after its end, so that a second use is told from an unknown one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from petsem.server import sql


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A member and where it answers."""

    id: str
    region: str
    voter: bool
    http: str
    grpc: str
    peer: str
    joined_at: int


@dataclass(frozen=True, slots=True)
class InvitationRow:
    """A join token that was made; the last three are None until it is used.

    `used_key` is the id of the public key that the new node asked a certificate for.
    """

    id: bytes
    region: str
    created_at: int
    created_by: str
    expires_at: int
    used_at: int | None = None
    used_by: str | None = None
    used_key: bytes | None = None


_NODE: Final = "SELECT id, region, voter, http, grpc, peer, joined_at FROM nodes"


def find(db: apsw.Connection, node_id: str) -> NodeRow | None:
    """The member of that id."""
    found = sql.one(db, f"{_NODE} WHERE id = ?", (node_id,))
    return None if found is None else _node(*found)


def every(db: apsw.Connection) -> list[NodeRow]:
    """All members, by id."""
    return [_node(*row) for row in sql.rows(db, f"{_NODE} ORDER BY id")]


def count(db: apsw.Connection) -> int:
    """How many members there are."""
    return int(sql.rows(db, "SELECT count(*) FROM nodes")[0][0])


def leader(db: apsw.Connection) -> NodeRow | None:
    """The member whose epoch is the last; None if it is one no more."""
    found = sql.one(db, "SELECT leader FROM epochs ORDER BY epoch DESC LIMIT 1")
    return None if found is None else find(db, found[0])


def insert(db: apsw.Connection, node: NodeRow) -> None:
    """Make a member."""
    sql.run(
        db,
        "INSERT INTO nodes (id, region, voter, http, grpc, peer, joined_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (node.id, node.region, int(node.voter), node.http, node.grpc, node.peer, node.joined_at),
    )


def remove(db: apsw.Connection, node_id: str) -> bool:
    """End a membership; whether there was one."""
    return sql.run(db, "DELETE FROM nodes WHERE id = ?", (node_id,)) > 0


def find_invitation(db: apsw.Connection, invitation: bytes) -> InvitationRow | None:
    """The invitation of that id."""
    found = sql.one(
        db,
        "SELECT id, region, created_at, created_by, expires_at, used_at, used_by, used_key"
        " FROM invitations WHERE id = ?",
        (invitation,),
    )
    return None if found is None else InvitationRow(*found)


def insert_invitation(db: apsw.Connection, row: InvitationRow) -> None:
    """Note that somebody may join."""
    sql.run(
        db,
        "INSERT INTO invitations (id, region, created_at, created_by, expires_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (row.id, row.region, row.created_at, row.created_by, row.expires_at),
    )


def use_invitation(
    db: apsw.Connection, invitation: bytes, node_id: str, key_id: bytes, now_ms: int
) -> None:
    """Note who joined by it."""
    sql.run(
        db,
        "UPDATE invitations SET used_at = ?, used_by = ?, used_key = ? WHERE id = ?",
        (now_ms, node_id, key_id, invitation),
    )


def forget_invitations(db: apsw.Connection, ended_before_ms: int) -> None:
    """Remove the rows of those that ended long ago."""
    sql.run(db, "DELETE FROM invitations WHERE expires_at < ?", (ended_before_ms,))


def _node(
    node_id: str, region: str, voter: int, http: str, grpc: str, peer: str, joined_at: int
) -> NodeRow:
    return NodeRow(node_id, region, voter == 1, http, grpc, peer, joined_at)
