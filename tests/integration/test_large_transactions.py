"""One transaction of tens of MiB on a leader that is killed right after it was acknowledged: what
was acknowledged is there after the restart, and the replica has it, by whatever way it comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from petsem import limits
from petsem.replication.image import PAGE_SIZE
from tests.support import large_node
from tests.support.daemon import Daemon
from tests.support.doors import values_of
from tests.support.fleet import Fleet, Member, fleet
from tests.support.offline import Disk

HELD_PAGES: Final = 4_096
"""Of one transaction, held in memory while it is logged."""


@dataclass(frozen=True)
class Large:
    """So many pages in one commit. `snapshot`: it does not fit one message of the stream."""

    pages: int
    content: str
    snapshot: bool


CASES: Final = {
    "fits-a-message": Large(limits.WAL_PAGES_HELD + 512, "random", snapshot=False),
    "many-pages": Large(2 * HELD_PAGES, "zeros", snapshot=False),
    "many-bytes": Large(HELD_PAGES + 512, "random", snapshot=True),
}


def leading(cluster: Fleet) -> Member:
    """The leader, of the kind that can do much at once, which is not started yet."""
    old = cluster.leader
    daemon = Daemon(old.directory, command=large_node.COMMAND)
    cluster.leader = Member(daemon, old.directory, old.operator, old.ports)
    return cluster.leader


def write(leader: Member, large: Large) -> None:
    """One write, acknowledged, in a transaction of that size; and the leader's end."""
    with leader.doors() as doors:
        large_node.order(leader.directory, large.pages, large.content)
        doors.set("acme/web", LARGE="one")
        leader.daemon.kill()
    assert large_node.obeyed(leader.directory)


def whole(cluster: Fleet, large: Large) -> None:
    """Both have all of it, and the leader is sound."""
    cluster.converged()
    for node in cluster.nodes:
        with node.doors() as doors:
            assert values_of(doors.fetch("acme/web"))["LARGE"] == b"one"
    disk = Disk(cluster.leader.directory)
    assert disk.rows("SELECT sum(length(content)) FROM bulk") == [(large.pages * PAGE_SIZE,)]
    assert disk.rows("PRAGMA integrity_check") == [("ok",)]
    for node in cluster.nodes:
        assert node.daemon.stop() == 0, node.daemon.said()
        assert not node.logged("database_damaged")


@pytest.mark.parametrize("large", CASES.values(), ids=CASES)
def test_a_replica_follows_it(tmp_path: Path, large: Large) -> None:
    """It is connected when it happens: it has it from the stream, or by snapshot where a message
    cannot hold it."""
    with fleet(tmp_path, start=False) as cluster:
        leader = leading(cluster)
        cluster.start()
        cluster.converged()
        (replica,) = cluster.replicas
        write(leader, large)
        leader.daemon.start()
        whole(cluster, large)
        told = replica.daemon.log.read_text()
        assert ("snapshot_begins" in told) == large.snapshot


@pytest.mark.parametrize("large", CASES.values(), ids=CASES)
def test_a_replica_was_away(tmp_path: Path, large: Large) -> None:
    """Nobody follows, so that the log is written later: after the kill it is in the WAL alone, and
    the start logs it."""
    with fleet(tmp_path, start=False) as cluster:
        leader = leading(cluster)
        leader.daemon.start()
        write(leader, large)
        leader.daemon.start()
        cluster.replicas[0].daemon.start()
        whole(cluster, large)
