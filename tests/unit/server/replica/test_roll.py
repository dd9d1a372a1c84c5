"""The members, read once a second."""

from __future__ import annotations

import pytest

from petsem.errors import unavailable
from petsem.server.replica.roll import READ_EVERY_S, Roll
from tests.unit.server.cluster import Cluster


async def test_the_members(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the database has them, at most a second ago; what was known stays while it cannot be
    read."""

    def paused() -> None:
        raise unavailable("not now")

    async with cluster.running() as node:
        own = node.identity.node_id
        roll = Roll(node.pool, node.clock)
        with monkeypatch.context() as patch:
            patch.setattr(node.pool, "reading", paused)
            assert roll() is None
        assert roll() is None
        cluster.clock.advance(READ_EVERY_S)
        assert roll() == {own}
        await cluster.change("DELETE FROM nodes")
        assert roll() == {own}
        cluster.clock.advance(READ_EVERY_S)
        with monkeypatch.context() as patch:
            patch.setattr(node.pool, "reading", paused)
            assert roll() == {own}
        cluster.clock.advance(READ_EVERY_S)
        assert roll() == set()
