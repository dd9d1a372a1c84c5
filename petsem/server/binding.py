"""What a replica binds itself to, and what it remembers of the leader, in `state.json`.

Guarantees: an epoch is bound to the first leader that is heard of in it, durably, before anything
of it is stored; nothing older is taken after that, no other leader in it, and no epoch that a
cluster does not come to. On the helper thread alone, as everything that writes the state, so that
nobody writes between another's two steps.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor

from petsem.errors import conflict, invalid
from petsem.replication.session.branch import was_begun
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import DataDir
from petsem.server.replica.offload import offload


class Binding:
    """Of one data directory."""

    def __init__(self, datadir: DataDir, view: ClusterView, helper: Executor) -> None:
        self._datadir = datadir
        self._view = view
        self._helper = helper

    async def bind(self, epoch: int, leader: str) -> None:
        """Bind an epoch to whose it is. `conflict` if it is over or another's, `invalid` if it
        cannot be; then nothing is remembered."""
        await offload(self._helper, self._bind, epoch, leader)
        self._view.knows(epoch)

    async def remember(self, heard_ms: int) -> None:
        """This node had all of the leader's data at this wall time."""
        await offload(self._helper, self._remember, heard_ms)

    def _bind(self, epoch: int, leader: str) -> None:
        state = self._datadir.read_state()
        if epoch < state.bound_epoch:
            raise conflict(f"epoch {epoch} is over: this node is bound to {state.bound_epoch}")
        if not was_begun(epoch, state.bound_epoch):
            raise invalid(
                f"epoch {epoch} is not one that a cluster comes to from {state.bound_epoch}"
            )
        if epoch == state.bound_epoch:
            if state.bound_leader not in (None, leader):
                raise conflict(f"epoch {epoch} is {state.bound_leader}'s, not {leader}'s")
            if state.bound_leader == leader:
                return
        self._datadir.write_state(
            dataclasses.replace(state, bound_epoch=epoch, bound_leader=leader)
        )

    def _remember(self, heard_ms: int) -> None:
        state = self._datadir.read_state()
        self._datadir.write_state(dataclasses.replace(state, leader_heard_ms=heard_ms))
