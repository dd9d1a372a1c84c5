"""Who may call: the members, of a node that is one itself."""

from __future__ import annotations

import pytest

from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError
from petsem.server.peer.identity import Caller
from petsem.server.peer.membership import Members
from tests.unit.server.cluster import Cluster


async def test_a_node_that_was_removed_has_no_members(cluster: Cluster) -> None:
    """Whoever follows it or asks it is told to go to another one; it is not that it cannot tell,
    which would leave streams open."""
    removed: list[str] = []
    async with cluster.running() as node:
        own = node.identity
        caller = Caller(Identity(own.cluster_id, own.node_id, CertRole.NODE), 1)
        members = Members(node.pool, lambda: next(iter(removed), None))
        assert members.require(caller).node_id == own.node_id
        removed.append("this node was removed")
        with pytest.raises(PetsemError, match="was removed from the cluster") as refused:
            members.require(caller)
    assert refused.value.code is Code.CONFLICT
