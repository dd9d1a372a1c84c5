"""Who is a node of the cluster: the rows of `nodes`, asked at each call.

Guarantees: a certificate counts only as long as its node has a row, so removing the row ends it.
It remembers nothing between calls; a row is one point read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from petsem.crypto.ca import CertRole
from petsem.errors import Code, PetsemError, conflict
from petsem.server.database import ReadPool
from petsem.server.peer.identity import Caller
from petsem.server.store import nodes as rows


@dataclass(frozen=True, slots=True)
class Member:
    """A caller that is a node of the cluster now."""

    node_id: str
    region: str


class Members:
    """The members, as this node's own database has them. `removed` says if this node is none
    itself: then nobody is one to it."""

    def __init__(self, pool: ReadPool, removed: Callable[[], str | None] = lambda: None) -> None:
        self._pool = pool
        self._removed = removed

    def require(self, caller: Caller) -> Member:
        """The member that calls; `denied` for who is none. `unavailable` if this node cannot tell,
        because it has no data yet."""
        if self._removed() is not None:
            raise conflict("this node was removed from the cluster; ask another one")
        identity = caller.identity
        if identity.role is not CertRole.NODE:
            raise PetsemError(
                Code.DENIED, "a join certificate is for joining only; this needs a node's"
            )
        with self._pool.reading() as db:
            found = rows.find(db, identity.node_id)
        if found is None:
            raise PetsemError(
                Code.DENIED,
                f"{identity.node_id} is not a node of this cluster, or not any more; "
                "invite and join it again",
            )
        return Member(found.id, found.region)
