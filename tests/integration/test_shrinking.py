"""A database that shrinks: VACUUM by a stock program, while the leader is stopped or beside it. The
replica's file ends as the leader's canonical image, and as short as that."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from petsem.replication.image import PAGE_SIZE
from tests.support import stock
from tests.support.daemon import until
from tests.support.doors import values_of
from tests.support.fleet import Fleet, Member, fleet

APPS: Final = 3
VALUES: Final = 15
VALUE_BYTES: Final = 60_000
COPIED_PAGES: Final = 1_000
"""Of a WAL with so many frames a stock program copies all into the database at once, and the next
writer begins it anew: then nothing is left there of what it did."""
CUT_PAGES: Final = 500
"""So much shorter at least, of what was put in and deleted."""


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[Fleet]:
    """A leader and a replica with two orgs, of which one was deleted at once: its pages are free,
    and the files as long as they were."""
    noise = random.Random(1)
    with fleet(tmp_path) as cluster:
        with cluster.leader.doors() as doors:
            apps = [f"app-{number}" for number in range(APPS)]
            for org in ("gone", "kept", "more"):
                doors.furnish(org, *apps)
            for app in apps:
                for org in ("gone", "kept"):
                    # Bytes that pack badly: pages of the log as of the file.
                    values = {f"N{at}": noise.randbytes(VALUE_BYTES) for at in range(VALUES)}
                    doors.set(f"{org}/{app}", **values)
            doors.done("DELETE", "/v1/orgs/gone?now=true")
        cluster.converged()
        yield cluster


def vacuum(node: Member, mode: str = "") -> None:
    """By another process, which leaves the WAL as it comes out or copies it as well."""
    statements = ["VACUUM", *([f"PRAGMA wal_checkpoint({mode})"] if mode else [])]
    stock.ask(stock.commands(node.database)[0], *statements)


def pages(node: Member) -> int:
    """Of its file."""
    return node.database.stat().st_size // PAGE_SIZE


def shrunk(cluster: Fleet, before: int) -> None:
    """Every replica has what the leader has, to the end of the file, and the leader is sound."""
    cluster.converged()
    for replica in cluster.replicas:
        assert COPIED_PAGES < pages(replica) <= before - CUT_PAGES
        with replica.doors() as doors:
            assert len(values_of(doors.fetch("kept/app-0"))) == VALUES
    for node in reversed(cluster.nodes):
        assert node.daemon.stop() == 0, node.daemon.said()
        assert not node.logged("database_damaged"), node.daemon.said()


@pytest.mark.parametrize("killed", [False, True])
def test_vacuum_while_the_leader_is_stopped(grown: Fleet, killed: bool) -> None:
    """Nothing of the WAL is left for the start; the size tells that the log is of another file."""
    leader = grown.leader
    before = pages(grown.replicas[0])
    if killed:
        leader.daemon.kill()
    else:
        assert leader.daemon.stop() == 0
    vacuum(leader)
    leader.daemon.start()
    shrunk(grown, before)


def _write(cluster: Fleet) -> None:
    with cluster.leader.doors() as doors:
        doors.set("acme/web", LAST="one")


def _kill(cluster: Fleet) -> None:
    cluster.leader.daemon.kill()
    cluster.leader.daemon.start()


def _stop(cluster: Fleet) -> None:
    assert cluster.leader.daemon.stop() == 0
    cluster.leader.daemon.start()


def _purge(cluster: Fleet) -> None:
    # It empties the WAL.
    with cluster.leader.doors() as doors:
        doors.done("DELETE", "/v1/orgs/more?now=true")


@pytest.mark.parametrize("then", [_write, _kill, _stop, _purge])
def test_vacuum_while_the_leader_runs(grown: Fleet, then: Callable[[Fleet], None]) -> None:
    """The leader learns of it whatever it does next, and begins its log anew."""
    before = pages(grown.replicas[0])
    vacuum(grown.leader)
    then(grown)
    shrunk(grown, before)


def test_vacuum_that_leaves_nothing_in_the_wal(grown: Fleet) -> None:
    """A stock program did all there is to do; only that somebody wrote can be known."""
    before = pages(grown.replicas[0])
    vacuum(grown.leader, "TRUNCATE")
    _write(grown)
    assert grown.leader.logged("database_changed")
    shrunk(grown, before)


def test_a_purge_is_no_stranger(grown: Fleet) -> None:
    """The WAL that the leader itself emptied is followed by files, with no snapshot; and a replica
    that needs one gets it although nobody has written since."""
    leader, (replica,) = grown.leader, grown.replicas
    _purge(grown)
    _write(grown)
    grown.converged()
    assert not leader.logged("database_changed")
    assert not replica.logged("snapshot_begins")
    with leader.doors() as doors:
        doors.furnish("brief")
        doors.done("DELETE", "/v1/orgs/brief?now=true")
    assert replica.daemon.stop() == 0
    replica.database.unlink()
    for path in (replica.directory / "ltx").iterdir():
        path.unlink()
    replica.daemon.start()
    until(lambda: replica.logged("snapshot_begins"), "snapshot", 20)
    grown.converged()
