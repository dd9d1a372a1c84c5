"""Whom a node may have to do with."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from petsem.server.database import ReadPool
from petsem.server.replica.roster import Roster
from tests.unit.server.cluster import Cluster


async def test_members_only(cluster: Cluster) -> None:
    """As the rows are now; while they cannot be read, as they were last."""
    async with cluster.running() as node:
        own, pool = node.identity.node_id, ReadPool(cluster.datadir.database)
        roster = Roster(pool)
        await cluster.change("INSERT INTO nodes VALUES ('n2', 'fra', 0, 'x:1', 'x:2', 'x:3', 0)")
        assert (roster.known, roster.has(own), roster.has("n2"), roster.has("n3")) == (
            True, True, True, False,
        )  # fmt: skip
        await cluster.change("DELETE FROM nodes WHERE id = 'n2'")
        assert not roster.has("n2")
        pool.pause("for a moment")
        assert (roster.known, roster.has(own), roster.has("n2"), roster.has("n3")) == (
            True, True, False, False,
        )  # fmt: skip
        pool.close()


def test_without_data(tmp_path: Path) -> None:
    """It cannot tell, and takes anybody; but not because the database is busy."""
    database = tmp_path / "empty.db"
    sqlite3.connect(database).close()
    pool = ReadPool(database)
    roster = Roster(pool)
    assert (roster.known, roster.has("n2")) == (False, True)
    pool.pause("for a moment")
    assert (roster.known, roster.has("n2")) == (False, False)
    pool.close()
