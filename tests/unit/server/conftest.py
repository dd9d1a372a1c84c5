"""What the tests of the server share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.server.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A new cluster of one node that does not run yet."""
    return Cluster(tmp_path / "node")
