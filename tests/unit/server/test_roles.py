"""Roles: what is refused, and a leader that hears of a newer epoch."""

from __future__ import annotations

import threading

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError
from petsem.model import Role
from petsem.server.datadir import DataDir, NodeState
from petsem.server.mode_change import was_replica
from tests.unit.server.cluster import Cluster


async def test_what_is_not_this_nodes_to_do_is_refused(cluster: Cluster) -> None:
    """The promotion of no node, of another one, one without force, one of a leader, and a loss that
    nobody asked about; the node goes on leading."""
    async with cluster.running() as node:
        await cluster.change(
            "INSERT INTO nodes (id, region, voter, http, grpc, peer, joined_at)"
            " SELECT 'other-1', region, voter, http, grpc, peer, joined_at FROM nodes"
        )
        own = node.identity.node_id
        refusals = []
        for node_id, force in (("nosuch", True), ("other-1", True), (own, False), (own, True)):
            with pytest.raises(PetsemError) as caught:
                await node.roles.promote(node_id, force=force)
            refusals.append(caught.value.code)
        for node_id in ("other-1", own):
            with pytest.raises(PetsemError) as caught:
                node.roles.accept_loss(node_id)
            refusals.append(caught.value.code)
        expected = [Code.NOT_FOUND, Code.INVALID, Code.CONFLICT, Code.CONFLICT]
        assert refusals == [*expected, Code.INVALID, Code.CONFLICT]
        assert node.view.role is Role.LEADER
        await cluster.org("acme", "web")


async def test_a_leader_that_steps_down_and_is_promoted_uses_no_epoch_twice(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one file, in one process, back and forth; what was written is there in the end. A
    promotion goes far beyond what was heard of, and the state is written on the helper alone."""
    threads = set()
    write = DataDir.write_state

    def written(self: DataDir, state: NodeState) -> None:
        threads.add(threading.current_thread().name.rstrip("0123456789"))
        write(self, state)

    monkeypatch.setattr(DataDir, "write_state", written)
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        own, seen = node.identity.node_id, []
        for _ in range(3):
            seen.append(node.writer.position.epoch)
            node.view.epoch_seen = seen[-1] + 4
            await node.roles.step_down("a test says so")
            assert node.view.role is Role.REPLICA
            assert node.datadir.read_state().role == "replica"
            assert was_replica(node.datadir.database)
            done = await node.roles.promote(own, force=True)
            assert done.epoch == seen[-1] + 4 + limits.EPOCHS_SKIPPED
            assert node.datadir.read_state().role == "leader"
            await cluster.set("acme", "web", A=str(done.epoch))
        assert seen == sorted(set(seen))
    assert threads == {"petsem-helper_"}
