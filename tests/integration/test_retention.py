"""A running node keeps as much of its log as its configuration says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from petsem.server import replication
from petsem.server.replica.upkeep import trim
from tests.support.daemon import configure
from tests.support.fake_leader import eventually
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster

HOUR_S = 3600.0


@pytest.mark.parametrize(("hours", "gone"), [(1, True), (8, False)])
async def test_the_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, gone: bool
) -> None:
    """What is two hours old goes where an hour is allowed, and stays where it is eight."""
    looks = 0

    def counted(*given: Any) -> None:
        nonlocal looks
        trim(*given)
        looks += 1

    monkeypatch.setattr(replication, "_TRIM_EVERY_S", 0.001)
    monkeypatch.setattr(replication, "trim", counted)
    cluster = Cluster(tmp_path / "node")
    configure(cluster.directory, "log", transactions_max_age_h=hours)
    async with cluster.running() as node, asyncio.timeout(PATIENCE_S):
        await cluster.org("acme", "web")
        end = node.replication.position()
        assert end is not None
        # First the segment that grows is ended, then it goes.
        cluster.clock.advance(2 * HOUR_S)
        looks = 0
        await eventually(lambda: looks >= 3)
        cluster.clock.advance(2 * HOUR_S)
        looks = 0
        await eventually(lambda: looks >= 3)
        log = node.replication.log
        assert (log.base == end) is gone
        assert log.end == end
