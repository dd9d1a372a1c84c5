"""`kill -9` inside the steps that a node comes to seldom: a leader that steps down, a log that is
cut or begins anew, a database that shrinks; and inside those of a replica that follows.

Each is a `petsem serve` that ends itself there. The next start goes on, ends byte-identical, and
nothing that was acknowledged is missing.
"""

from __future__ import annotations

import random
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from petsem.replication import steps
from petsem.replication.drivers.log_verify import verify
from tests.integration.test_promote import branches, promote, put
from tests.integration.test_replica_damage import flip, last_record, write
from tests.support import stock
from tests.support.daemon import until
from tests.support.doors import values_of
from tests.support.failing_step import FatalNode
from tests.support.fleet import Fleet, Member, fleet

DELETED = 40
"""Values of some pages each: what the database loses again."""


def fatal(node: Member) -> tuple[Member, FatalNode]:
    """The same node, in a process that ends itself on command."""
    daemon = FatalNode(node.directory)
    return Member(daemon, node.directory, node.operator, node.ports), daemon


def fatal_replica(cluster: Fleet) -> FatalNode:
    """Make the only replica of a cluster that does not run yet such a node; start all."""
    cluster.replicas[0], daemon = fatal(cluster.replicas[0])
    cluster.start()
    cluster.converged()
    return daemon


def killed(daemon: FatalNode) -> None:
    """It ends there, of its own accord."""
    assert daemon.wait() == -signal.SIGKILL, daemon.said()
    assert daemon.died


def whole(cluster: Fleet, **values: str) -> None:
    """All nodes have these values and the same file, and their logs hold."""
    cluster.converged(within_s=30)
    for node in cluster.nodes:
        with node.doors() as doors:
            stored = values_of(doors.fetch("acme/web"))
        assert stored == {name: value.encode() for name, value in values.items()}
    for node in reversed(cluster.nodes):
        assert node.daemon.stop() == 0, node.daemon.said()
        assert verify(node.directory / "ltx").problems == ()


@pytest.mark.parametrize(
    ("step", "times"),
    [
        (steps.LOG_APPEND, 2),
        (steps.LOG_SYNC, 2),
        (steps.APPLY_JOURNAL, 2),
        (steps.APPLY_PAGES, 2),
        (steps.JOURNAL_REMOVAL, 2),
        (steps.SYNC_DATABASE, 1),
    ],
)
def test_a_replica_that_follows(tmp_path: Path, step: str, times: int) -> None:
    """While it is sent transactions, or, at the sync, while it stops in order."""
    with fleet(tmp_path, 1, start=False) as cluster:
        daemon = fatal_replica(cluster)
        daemon.die_before(step, times)
        with cluster.leader.doors() as doors:
            for number in range(times):
                doors.set("acme/web", FIRST=str(number))
                if number + 1 < times:
                    # One after the other, or they are applied as one.
                    cluster.replicas[0].has(cluster.position())
        if step == steps.SYNC_DATABASE:
            daemon.signal(signal.SIGTERM)
        killed(daemon)
        put(cluster.leader, MEANWHILE="1")
        daemon.start()
        whole(cluster, FIRST=str(times - 1), MEANWHILE="1")
        assert "snapshot_begins" not in daemon.log.read_text()


def shrink(cluster: Fleet) -> int:
    """Make the leader's database shorter, by a program that knows nothing of it; what it was."""
    leader, noise = cluster.leader, random.Random(1)
    with leader.doors() as doors:
        doors.furnish("gone", "web")
        for number in range(DELETED):
            doors.set("gone/web", **{f"N{number}": noise.randbytes(20_000)})
        doors.done("DELETE", "/v1/orgs/gone?now=true")
    cluster.converged()
    before = cluster.replicas[0].database.stat().st_size
    stock.ask(stock.commands(leader.database)[0], "VACUUM")
    return before


@pytest.mark.parametrize("step", [steps.APPLY_TRUNCATE, steps.LOG_CUT])
def test_a_replica_whose_database_shrinks(tmp_path: Path, step: str) -> None:
    """Before its file is cut, and before its old log is removed."""
    with fleet(tmp_path, 1, start=False) as cluster:
        daemon = fatal_replica(cluster)
        daemon.die_before(step)
        before = shrink(cluster)
        put(cluster.leader, AFTER="1")
        killed(daemon)
        put(cluster.leader, MEANWHILE="1")
        daemon.start()
        whole(cluster, FIRST="1", AFTER="1", MEANWHILE="1")
        assert cluster.replicas[0].database.stat().st_size < before


@pytest.mark.parametrize("times", [1, 2])
def test_a_log_with_damage_that_is_cut(tmp_path: Path, times: int) -> None:
    """Before the damaged end is cut off, and before what is left is sealed."""
    with fleet(tmp_path, 1, start=False) as cluster:
        daemon = fatal_replica(cluster)
        write(cluster)
        assert daemon.stop() == 0
        segment, at, _ = last_record(daemon.directory)
        flip(segment, at + 150)
        put(cluster.leader, MEANWHILE="1")
        daemon.die_before(steps.LOG_CUT, times)
        daemon.begin()
        killed(daemon)
        daemon.start()
        whole(cluster, FIRST="x29", MEANWHILE="1")


def test_a_leader_whose_log_begins_anew(tmp_path: Path) -> None:
    """Before the old segments are removed."""
    with fleet(tmp_path, 1, start=False) as cluster:
        cluster.leader, daemon = fatal(cluster.leader)
        cluster.start()
        cluster.converged()
        shrink(cluster)
        daemon.die_before(steps.LOG_CUT)
        # It may die before it answers.
        with suppress(httpx.HTTPError), cluster.leader.doors() as doors:
            doors.set("acme/web", AFTER="1")
        killed(daemon)
        daemon.start()
        put(cluster.leader, AFTER="2")
        whole(cluster, FIRST="1", AFTER="2")


def test_a_leader_that_steps_down(tmp_path: Path) -> None:
    """Before it drains: it is a leader still when it starts again, hears of the other one, and
    saves what only it had."""
    with fleet(tmp_path, 1, start=False) as cluster:
        cluster.leader, daemon = fatal(cluster.leader)
        old, (fra,) = cluster.leader, cluster.replicas
        cluster.start()
        cluster.converged()
        daemon.die_before(steps.ROLE_DRAIN)
        fra.daemon.kill()
        put(old, ONLY_HERE="1")
        with old.held():
            fra.daemon.start()
            promote(cluster, fra)
            put(fra, AFTER="1")
        until(lambda: not daemon.alive, "end of the old leader", 30)
        killed(daemon)
        daemon.start()
        whole(cluster, FIRST="1", AFTER="1")
        (branch,) = branches(old)
        assert branch["transactions"] == 1
        assert "ONLY_HERE" in {name for each in branch["versions"] for name in each["secrets"]}
