"""A node without its ports, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.server.rpc.world import World, world_in


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A node with the org acme, its app web, and one version of two secrets."""
    async with world_in(tmp_path) as found:
        yield found
