"""What a replica binds itself to."""

from __future__ import annotations

from petsem import limits
from petsem.errors import Code, PetsemError
from tests.unit.server.cluster import Cluster


async def test_what_a_node_binds_itself_to(cluster: Cluster) -> None:
    """One leader an epoch, nothing older, and no epoch that a cluster does not come to; what was
    refused is not remembered."""
    async with cluster.running() as node:
        await node.roles.step_down("a test says so")
        bound = node.datadir.read_state().bound_epoch
        far = bound + 3 + 2 * limits.EPOCHS_AHEAD_MAX
        refusals = []
        for epoch, leader in (
            (bound + 3, "fra-1"),
            (bound + 3, "fra-1"),
            (bound + 3, "nrt-1"),
            (bound + 2, "fra-1"),
            (far + 1, "nrt-1"),
            (limits.EPOCH_MAX, "nrt-1"),
        ):
            try:
                await node.replication.binding.bind(epoch, leader)
            except PetsemError as e:
                refusals.append(e.code)
        assert refusals == [Code.CONFLICT, Code.CONFLICT, Code.INVALID, Code.INVALID]
        state = node.datadir.read_state()
        assert (state.bound_epoch, state.bound_leader) == (bound + 3, "fra-1")
        assert (node.view.epoch_known, node.view.epoch_seen) == (bound + 3, bound + 3)
        await node.replication.binding.bind(far, "nrt-1")
        assert node.view.epoch_known == far
