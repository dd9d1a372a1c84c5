"""Roles: what is refused, and a leader that hears of a newer epoch."""

from __future__ import annotations

import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Role
from petsem.server.mode_change import was_replica
from tests.unit.server.cluster import Cluster


async def test_what_is_not_this_nodes_to_do_is_refused(cluster: Cluster) -> None:
    """Another node's promotion, one without force, one of a leader, and a loss that nobody asked
    about; the node goes on leading."""
    async with cluster.running() as node:
        own = node.identity.node_id
        refusals = []
        for node_id, force in (("other-1", True), (own, False), (own, True)):
            with pytest.raises(PetsemError) as caught:
                await node.roles.promote(node_id, force=force)
            refusals.append(caught.value.code)
        for node_id in ("other-1", own):
            with pytest.raises(PetsemError) as caught:
                node.roles.accept_loss(node_id)
            refusals.append(caught.value.code)
        assert refusals == [Code.INVALID, Code.CONFLICT, Code.CONFLICT, Code.INVALID, Code.CONFLICT]
        assert node.view.role is Role.LEADER
        await cluster.org("acme", "web")


async def test_a_leader_that_steps_down_and_is_promoted_uses_no_epoch_twice(
    cluster: Cluster,
) -> None:
    """On one file, in one process, back and forth; what was written is there in the end."""
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
            assert done.epoch == seen[-1] + 5
            assert node.datadir.read_state().role == "leader"
            await cluster.set("acme", "web", A=str(done.epoch))
        assert seen == sorted(set(seen))
