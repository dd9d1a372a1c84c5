"""A node that takes up the leader's role, and one whose log cannot be written for a while."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from typing import Never

import pytest

from petsem.errors import Code, PetsemError
from petsem.model import Position
from petsem.replication.drivers.log_files import LogOps
from petsem.server import sql
from petsem.server.writer import Txn
from tests.support.rebuilt import Rebuilt, rebuild, shown
from tests.unit.server.cluster import Cluster


def looked(cluster: Cluster) -> Rebuilt:
    """The log of a node that does not run, which gives the database."""
    found = rebuild(cluster.datadir.log)
    assert found.image == shown(cluster.datadir.database)
    return found


def touch(txn: Txn) -> Position:
    """A job that changes nothing but the position."""
    return txn.position


async def test_each_start_is_in_the_log(cluster: Cluster) -> None:
    """Its epoch's own transaction before anybody writes, then every write."""
    for epoch in (2, 3):
        async with cluster.running() as node:
            capture = node.writer.logging.capture
            assert capture is not None
            end = capture.log.end
            assert end is not None
            assert (end.epoch, end.txid) == (epoch, node.writer.position.txid)
            assert capture.log.synced == end
            assert (await node.writer.submit(touch)).txid == end.txid + 1
        assert (looked(cluster).end.epoch, looked(cluster).end.txid) == (epoch, end.txid + 1)


async def test_the_table_is_saved_and_used(cluster: Cluster) -> None:
    """Nothing is scanned after a clean stop; after another the scan makes the table."""
    async with cluster.running():
        pass
    async with cluster.running() as node:
        capture = node.writer.logging.capture
        assert capture is not None
        assert capture.table.complete
        assert await node.writer.scrub()
    (cluster.directory / "checksums").unlink()
    async with cluster.running() as node:
        capture = node.writer.logging.capture
        assert capture is not None
        await node.writer.submit(touch)
        task = node.scanning._task
        assert task is not None
        await task
        assert capture.table.complete
        assert not node.scanning.damaged
    assert (cluster.directory / "checksums").exists()


async def test_the_log_is_gone(cluster: Cluster) -> None:
    """With its directory: it begins anew at the same position."""
    async with cluster.running():
        pass
    before = looked(cluster).end
    shutil.rmtree(cluster.datadir.log)
    async with cluster.running():
        pass
    assert looked(cluster).files == [(1, before.txid), (before.txid + 1, before.txid + 1)]


async def test_a_log_that_cannot_be_written_refuses_the_start(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, and the next start goes on."""

    def full(_self: LogOps, *_args: object) -> Never:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as disk:
        disk.setattr(LogOps, "write", full)
        disk.setattr(LogOps, "allocate", full)
        with pytest.raises(PetsemError) as caught:
            async with cluster.running():
                pass
        assert caught.value.code is Code.UNAVAILABLE
        assert "transaction log" in str(caught.value)
    async with cluster.running() as node:
        await node.writer.submit(touch)
    looked(cluster)


@pytest.mark.parametrize("broken", [("write",), ("fdatasync", "fsync")])
async def test_the_log_cannot_be_written_while_it_runs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...]
) -> None:
    """What was committed stands; the next write is refused and nothing of it is stored; when the
    disk takes it again all goes on by itself."""
    async with cluster.running() as node:
        await node.writer.submit(touch)
        with monkeypatch.context() as disk:

            def fails(_self: LogOps, *_args: object) -> Never:
                raise OSError(errno.EIO, "no room")

            for step in broken:
                disk.setattr(LogOps, step, fails)
            stored = await node.writer.submit(touch)
            while node.writer.logging.error is None:
                stored = await node.writer.submit(touch)
                await node.writer.scrub()
            with pytest.raises(PetsemError) as caught:
                await node.writer.submit(touch)
            assert caught.value.code is Code.UNAVAILABLE
            assert node.writer.position == stored
            assert node.writer.logging.error is not None
        assert (await node.writer.submit(touch)).txid == stored.txid + 1
        assert node.writer.logging.error is None
        with node.pool.snapshot() as db:
            ((txid,),) = sql.rows(db, "SELECT txid FROM position")
        assert txid == stored.txid + 1
    assert looked(cluster).end.txid == stored.txid + 1


async def test_an_older_database_was_restored(cluster: Cluster) -> None:
    """The branch that only the log has is kept, and its epoch is not used again."""
    async with cluster.running():
        pass
    names: Sequence[str] = ("petsem.db", "petsem.db-wal")
    copies = {name: (cluster.directory / name).read_bytes() for name in names}
    fork = looked(cluster).end
    async with cluster.running() as node:
        await node.writer.submit(touch)
    beyond = looked(cluster).end
    (cluster.directory / "petsem.db-shm").unlink(missing_ok=True)
    for name, content in copies.items():
        (cluster.directory / name).write_bytes(content)
    async with cluster.running() as node:
        await node.writer.submit(touch)
    found = looked(cluster)
    assert found.end.txid == beyond.txid
    assert found.end.epoch > beyond.epoch
    (saved,) = cluster.datadir.lost.iterdir()
    assert saved.name == f"{fork}-to-{beyond}"
