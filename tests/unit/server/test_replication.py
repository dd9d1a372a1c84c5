"""The node's part in replication: the upkeep of its log, and where it says that the leader is."""

from __future__ import annotations

import pytest

from petsem.errors import unavailable
from petsem.model import Role
from petsem.server import replication
from petsem.server.cluster_view import LeaderAddresses
from petsem.server.replica.store import ReplicaStore
from tests.support.http_door import eventually
from tests.unit.server.cluster import Cluster


@pytest.mark.parametrize("role", [Role.LEADER, Role.REPLICA])
async def test_the_log_is_trimmed_on_and_on(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    role: Role,
) -> None:
    """Whatever goes wrong once is logged, and tried again."""
    monkeypatch.setattr(replication, "_TRIM_EVERY_S", 0.0)
    errors = [OSError(5, "no"), unavailable("no"), ZeroDivisionError("surprise")]
    seen: list[Exception | None] = []

    def trims() -> None:
        seen.append(errors[len(seen)] if len(seen) < len(errors) else None)
        if seen[-1] is not None:
            raise seen[-1]

    async def of_a_replica(_self: ReplicaStore, *_: object) -> None:
        trims()

    monkeypatch.setattr(replication, "trim", lambda *_: trims())
    monkeypatch.setattr(ReplicaStore, "trim", of_a_replica)
    async with cluster.running() as node:
        if role is Role.REPLICA:
            await node.roles.step_down("a test says so")
        seen.clear()
        await eventually(lambda: len(seen) > len(errors) + 1)
    logged = capsys.readouterr().out
    assert all(type(error).__name__ in logged for error in errors)


async def test_a_leader_knows_where_it_is(cluster: Cluster) -> None:
    """Those who follow it, at whatever distance, learn its addresses from it, and renew their
    certificates there; once it leads no more it says nothing of the kind."""
    async with cluster.running() as node:
        own = node.identity.node_id
        assert node.view.leader == LeaderAddresses(
            own, "127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"
        )
        await node.roles.step_down("a test says so")
        assert node.view.leader is None
