"""Whom a replica dials, and in which order."""

from __future__ import annotations

from petsem.server.address import Address
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.database import ReadPool
from petsem.server.datadir import NodeIdentity
from petsem.server.replica.candidates import MOST, Candidate, candidates
from tests.unit.server.cluster import Cluster

CONFIGURED = Address("192.0.2.1", 7402)


async def _add(cluster: Cluster, name: str, region: str, peer: str) -> None:
    await cluster.change(
        "INSERT INTO nodes VALUES (?, ?, 0, 'x:1', 'x:2', ?, 0)", name, region, peer
    )


async def test_the_order(cluster: Cluster) -> None:
    """The configured one, the leader as last heard and as the database knows it, members of the
    same region, others; each address once, and never the node itself."""
    async with cluster.running() as node:
        leader_peer = cluster.query("SELECT peer FROM nodes")[0][0]
        for name, region, peer in (
            ("a-far", "nrt", "far:1"),
            ("b-near", "fra", "near:1"),
            ("me", "fra", "me:1"),
            ("middle", "fra", str(CONFIGURED)),
        ):
            await _add(cluster, name, region, peer)
        me = NodeIdentity("me", node.identity.cluster_id, "fra")
        heard = LeaderAddresses("new", "h:1", "h:2", "new:3")
        assert candidates(node.pool, me, CONFIGURED, heard) == [
            Candidate(str(CONFIGURED), "middle"),
            Candidate("new:3", "new"),
            Candidate(leader_peer, node.identity.node_id),
            Candidate("near:1", "b-near"),
            Candidate("far:1", "a-far"),
        ]
        for number in range(MOST):
            await _add(cluster, f"n{number}", "sin", f"sin:{number}")
        assert len(candidates(node.pool, me, CONFIGURED, heard)) == MOST


def test_without_data(cluster: Cluster) -> None:
    """Only what the configuration names, whoever that is."""
    pool = ReadPool(cluster.directory / "none.db")
    me = NodeIdentity("me", bytes(16), "fra")
    assert candidates(pool, me, CONFIGURED, None) == [Candidate(str(CONFIGURED))]
    assert candidates(pool, me, None, None) == []
    pool.close()
