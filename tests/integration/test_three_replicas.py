"""A leader with three replicas: they find each other while it is gone, and it when it is back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.fleet import Fleet, Member, fleet

QUIET_S = 3.0
"""Nodes report each second, and what comes of it comes within two."""


@pytest.mark.parametrize("rounds", [1, 4], ids=["once", "again"])
def test_a_leader_that_is_killed_and_comes_back(tmp_path: Path, rounds: int) -> None:
    """The others say at once that they do not know how it is. When it is back, all are in step
    soon, and stay so: no stream ends any more."""
    with fleet(tmp_path, 2) as cluster:
        cluster.join("syd").daemon.start()
        cluster.converged()
        for _ in range(rounds):
            cluster.leader.daemon.kill()
            for replica in cluster.replicas:
                until(lambda node=replica: _is_unknown(cluster, node), "word that it is gone")  # type: ignore[misc]
            # One of them is followed by the others, or by one that is.
            until(lambda: sum(_follows(each) for each in cluster.replicas) == 2, "tree")
            cluster.leader.daemon.start()
            _write(cluster)
            ended = _ended(cluster)
            began_s = time.monotonic()
            while time.monotonic() - began_s < QUIET_S:
                _write(cluster)
            assert _ended(cluster) == ended
            for node in cluster.nodes:
                until(lambda node=node: _hears_all(node), f"ready nodes at {node.node_id}")  # type: ignore[misc]
        cluster.converged()


def _is_unknown(cluster: Fleet, node: Member) -> bool:
    row = node.status()[cluster.leader.node_id]
    return (row["ready"], row["lag_ms"], row["lag_transactions"]) == (False, None, None)


def _follows(node: Member) -> bool:
    return node.own()["source"] is not None


def _hears_all(node: Member) -> bool:
    rows = node.status().values()
    return len(rows) == 4 and all(row["ready"] and row["lag_ms"] is not None for row in rows)


def _write(cluster: Fleet) -> None:
    """One write, which every replica has."""
    with cluster.leader.doors() as doors:
        doors.set("acme/web", FIRST=str(time.monotonic()))
    at = cluster.position()
    for replica in cluster.replicas:
        replica.has(at)


def _ended(cluster: Fleet) -> int:
    """How many streams have."""
    return sum(len(node.logged("follower_left")) for node in cluster.nodes)
