"""A node behind its HTTP application, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.server.api.world import Api
from tests.unit.server.cluster import Cluster


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """The application of a new node, with the org acme and its app web."""
    cluster = Cluster(tmp_path / "node")
    async with cluster.running():
        found = Api(cluster)
        await found.furnish()
        yield found
