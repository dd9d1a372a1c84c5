"""A leader's database and a replica's directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.leader_source import LeaderSource
from tests.unit.server.replica.store_rig import Rig


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[LeaderSource]:
    """With 200 rows."""
    leader = LeaderSource(tmp_path / "leader")
    leader.fill(200)
    yield leader
    leader.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Not opened yet."""
    rig = Rig(tmp_path / "replica")
    yield rig
    rig.helper.shutdown()
