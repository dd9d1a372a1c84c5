"""A stock program at the leader's database after `kill -9`: it recovers the WAL, copies it into the
database and deletes it. No acknowledged write is lost, no position is used twice, and the replica
goes on with the leader, whether or not it was there meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.support import stock
from tests.support.doors import values_of
from tests.support.fleet import Fleet, Member, fleet
from tests.support.offline import Disk
from tests.support.rebuilt import wal_of
from tests.support.write_load import WriteLoad, writing

ROUNDS: Final = 2


@pytest.mark.parametrize(
    ("command", "followed"), [(0, True), (1, False)], ids=["module-followed", "shell-alone"]
)
async def test_it_opens_the_database_after_a_kill(
    tmp_path: Path, command: int, followed: bool
) -> None:
    """Under load, twice. Without a follower the log is behind when the leader is killed, and what
    is missing from it is not in a WAL any more."""
    if command and stock.SHELL is None:
        pytest.skip("there is no sqlite3 shell here")
    with fleet(tmp_path) as cluster:
        leader, (replica,) = cluster.leader, cluster.replicas
        async with writing(leader) as load:
            for _ in range(ROUNDS):
                if not followed:
                    await asyncio.to_thread(replica.daemon.kill)
                await load.more(20)
                await asyncio.to_thread(_open_between, leader, command)
                if not followed:
                    await asyncio.to_thread(replica.daemon.start)
            await load.more(20)
        whole(cluster, load)


@pytest.mark.parametrize("followed", [True, False])
async def test_it_writes_after_a_kill(tmp_path: Path, followed: bool) -> None:
    """VACUUM: the database is other pages at the same position."""
    with fleet(tmp_path) as cluster:
        leader, (replica,) = cluster.leader, cluster.replicas
        with leader.doors() as doors:
            doors.furnish("gone", "app")
            doors.set("gone/app", **{f"N{at}": "v" * 20_000 for at in range(20)})
            doors.done("DELETE", "/v1/orgs/gone?now=true")
        async with writing(leader) as load:
            if not followed:
                await asyncio.to_thread(replica.daemon.kill)
            await load.more(20)
            await asyncio.to_thread(_vacuum_between, leader)
            if not followed:
                await asyncio.to_thread(replica.daemon.start)
            await load.more(20)
        whole(cluster, load)


def _open_between(leader: Member, command: int) -> None:
    leader.daemon.kill()
    assert wal_of(leader.database).stat().st_size > 0
    shell = stock.commands(leader.database)[command]
    assert stock.ask(shell, "PRAGMA integrity_check") == ["ok"]
    assert not wal_of(leader.database).exists()
    leader.daemon.start()


def _vacuum_between(leader: Member) -> None:
    leader.daemon.kill()
    before = leader.database.stat().st_size
    stock.ask(stock.commands(leader.database)[0], "VACUUM")
    assert leader.database.stat().st_size < before
    leader.daemon.start()


def whole(cluster: Fleet, load: WriteLoad) -> None:
    """What was acknowledged is on both nodes, each write once and at one position, and the files
    are the same."""
    assert load.retried > 0
    cluster.converged()
    expected = {name: value.encode() for name, value in load.values.items()}
    for node in cluster.nodes:
        with node.doors() as doors:
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"1", **expected}
            # The one before the load was the first.
            assert sorted(load.keys) == list(range(2, fetched.message.version + 1))
    epochs = Disk(cluster.leader.directory).rows("SELECT epoch, first_txid FROM epochs")
    for txid, epoch in load.epochs.items():
        assert epoch == max(number for number, first in epochs if first <= txid)
    for node in reversed(cluster.nodes):
        assert node.daemon.stop() == 0, node.daemon.said()
        assert not node.logged("database_damaged"), node.daemon.said()
