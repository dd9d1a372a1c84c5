"""Whom a replica dials, and in which order."""

from __future__ import annotations

from pathlib import Path

from petsem.server.address import Address
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.database import ReadPool
from petsem.server.datadir import NodeIdentity
from petsem.server.replica.candidates import MOST, Askable, Candidate, askable, candidates
from tests.unit.server.cluster import Cluster

CONFIGURED = Address("192.0.2.1", 7402)
HEARD = LeaderAddresses("new", "h:1", "h:2", "new:3")


async def _add(cluster: Cluster, name: str, region: str, peer: str) -> None:
    await cluster.change(
        "INSERT INTO nodes VALUES (?, ?, 0, 'x:1', 'x:2', ?, 0)", name, region, peer
    )


async def _add_some(cluster: Cluster) -> None:
    for name, region, peer in (
        ("a-far", "nrt", "far:1"),
        ("b-near", "fra", "near:1"),
        ("me", "fra", "me:1"),
        ("middle", "fra", str(CONFIGURED)),
        ("new", "sin", "new:3"),
    ):
        await _add(cluster, name, region, peer)


async def test_the_order(cluster: Cluster) -> None:
    """The configured one, the leader as last heard and as the database knows it, members of the
    same region, others; each address once, and never the node itself."""
    async with cluster.running() as node:
        leader_peer = cluster.query("SELECT peer FROM nodes")[0][0]
        await _add_some(cluster)
        me = NodeIdentity("me", node.identity.cluster_id, "fra")
        assert candidates(node.pool, me, CONFIGURED, HEARD) == [
            Candidate(str(CONFIGURED), "middle"),
            Candidate("new:3", "new"),
            Candidate(leader_peer, node.identity.node_id),
            Candidate("near:1", "b-near"),
            Candidate("far:1", "a-far"),
        ]
        for number in range(MOST):
            await _add(cluster, f"n{number}", "sin", f"sin:{number}")
        assert len(candidates(node.pool, me, CONFIGURED, HEARD)) == MOST


async def test_who_was_removed(cluster: Cluster) -> None:
    """It is not named any more, though it was heard to lead, and an address that was its is
    nobody's."""
    async with cluster.running() as node:
        await _add_some(cluster)
        await cluster.change("DELETE FROM nodes WHERE id IN ('new', 'middle')")
        me = NodeIdentity("me", node.identity.cluster_id, "fra")
        found = candidates(node.pool, me, CONFIGURED, HEARD)
        assert found[0] == Candidate(str(CONFIGURED))
        assert [each.node_id for each in found[1:]] == [node.identity.node_id, "b-near", "a-far"]
        asked = askable(node.pool, me, HEARD)
        assert asked.leader is not None
        assert asked.leader.node_id == node.identity.node_id
        assert [each.node_id for each in asked.others] == ["b-near", "a-far"]


async def test_whom_to_ask(cluster: Cluster) -> None:
    """The leader as last heard, else as the database has it, and the others, the near ones first;
    a node is not its own leader."""
    async with cluster.running() as node:
        await _add_some(cluster)
        leader = node.identity.node_id
        me = NodeIdentity("me", node.identity.cluster_id, "fra")
        asked = askable(node.pool, me, HEARD)
        assert asked.leader == Candidate("new:3", "new")
        assert [each.node_id for each in asked.others] == ["b-near", "middle", "a-far", leader]
        asked = askable(node.pool, me, None)
        assert asked.leader is not None
        assert asked.leader.node_id == leader
        assert askable(node.pool, node.identity, None).leader is None


def test_without_data(tmp_path: Path) -> None:
    """Only what the configuration names, whoever that is; nobody is asked."""
    pool = ReadPool(tmp_path / "none.db")
    me = NodeIdentity("me", bytes(16), "fra")
    assert candidates(pool, me, CONFIGURED, None) == [Candidate(str(CONFIGURED))]
    assert candidates(pool, me, None, None) == []
    assert askable(pool, me, HEARD) == Askable()
    pool.close()
