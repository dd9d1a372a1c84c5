"""Leaders that change: a replica is promoted, and the old leader comes back with its own branch."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from petsem import limits
from petsem.model import Position
from petsem.replication import steps
from petsem.replication.drivers.log_verify import verify
from tests.support.daemon import Daemon, run, until
from tests.support.dying_node import command
from tests.support.fleet import Fleet, Member, fleet
from tests.support.keep_alive import KeepAlive

APP = "acme/web"
LONG = 1_001
"""Transactions that nobody gives up without being asked."""


def put(node: Member, **values: str) -> Any:
    """One batch, asked of `node`."""
    with node.doors() as doors:
        return doors.set(APP, **values)


def names(node: Member) -> set[str]:
    """The secrets that `node` knows of."""
    with node.doors() as doors:
        listed = doors.done("GET", "/v1/orgs/acme/apps/web/secrets")
    return {each["name"] for each in listed["secrets"]}


def promote(cluster: Fleet, node: Member) -> dict[str, Any]:
    """Make `node` the leader, by the command line, and say so to the test's own records."""
    with node.doors() as doors:
        done = doors.cli("node", "promote", node.node_id, "--force", "-o", "json")
    assert done.code == 0, done
    others = [each for each in cluster.nodes if each is not node]
    cluster.leader, cluster.replicas = node, others
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def alone(cluster: Fleet, **values: str) -> Position:
    """Batches that only the leader has; then it is killed, and the replicas run."""
    for replica in cluster.replicas:
        replica.daemon.kill()
    for name, value in values.items():
        put(cluster.leader, **{name: value})
    end = cluster.position()
    cluster.leader.daemon.kill()
    for replica in cluster.replicas:
        replica.daemon.start()
    return end


def is_replica(node: Member) -> bool:
    """Whether it says so; while its role changes it says nothing."""
    with node.doors() as doors:
        answer = doors.ask("GET", "/v1/status")
    if answer.error is not None:
        assert answer.error[1] == "unavailable", answer
        return False
    roles = {each["node"]: each["role"] for each in answer.body["nodes"]}
    return bool(roles[node.node_id] == "replica")


def branches(node: Member) -> list[dict[str, Any]]:
    """What a node keeps under `lost/`: the lists of names, each beside a log that reads."""
    found = []
    for directory in sorted((node.directory / "lost").iterdir()):
        assert sorted(path.suffix for path in directory.iterdir())[-1] == ".ltx"
        found.append(json.loads((directory / "names.json").read_text()))
    return found


def test_a_replica_leads_and_the_old_leader_becomes_one(tmp_path: Path) -> None:
    """What only the old leader had is under lost/ with its names, and then all are the same."""
    with fleet(tmp_path, 2) as cluster:
        old, fra, nrt = cluster.leader, *cluster.replicas
        end = alone(cluster, ONLY_HERE="1", AND_THIS="2")
        with fra.doors() as doors:
            refused = doors.cli("node", "promote", fra.node_id)
            wrong = doors.cli("node", "promote", nrt.node_id, "--force")
        assert (refused.code, "--force" in refused.err) == (5, True)
        assert (wrong.code, nrt.node_id in wrong.err) == (2, True)

        answer = promote(cluster, fra)
        lost = answer["may_be_lost"]
        promoted = end.epoch + limits.EPOCHS_SKIPPED
        assert (answer["node"], answer["epoch"]) == (fra.node_id, promoted)
        # They were started after it was gone, and never heard how far it had got.
        assert lost["transactions"] in (None, 0)

        put(fra, AFTER="1")
        cluster.converged(nrt)
        put(nrt, THROUGH_A_REPLICA="1")
        old.daemon.start()
        cluster.converged()

        assert is_replica(old)
        expected = {"FIRST", "AFTER", "THROUGH_A_REPLICA"}
        assert names(old) == names(nrt) == names(fra) == expected
        (branch,) = branches(old)
        assert (branch["end"].split("-")[:2], branch["transactions"]) == (
            str(Position(end.epoch, end.txid)).split("-"),
            2,
        )
        listed = {name for each in branch["versions"] for name in each["secrets"]}
        assert {"ONLY_HERE", "AND_THIS"} <= listed
        put(old, BY_THE_OLD_LEADER="1")
        cluster.converged()
        for node in cluster.nodes:
            checked = run("check", node.directory)
            assert checked.code == 0, checked
            assert b"every page is what the log promises" in checked.out
        for node in cluster.nodes:
            assert verify(node.directory / "ltx").problems == ()


@pytest.mark.parametrize(("replicas", "turns"), [(1, 2), (2, 4)])
def test_roles_change_on_one_file_as_often_as_one_likes(
    tmp_path: Path, replicas: int, turns: int
) -> None:
    """A leader that runs hears that another was promoted, from the one that was; nothing that had
    reached the new leader is lost, and nobody is restarted."""
    with fleet(tmp_path, replicas) as cluster:
        written = {"FIRST"}
        for turn in range(turns):
            old, new = cluster.leader, cluster.replicas[turn % replicas]
            cluster.converged()
            epoch = promote(cluster, new)["epoch"]
            name = f"TURN_{turn}"
            put(new, **{name: "1"})
            written.add(name)
            until(partial(is_replica, old), f"step down of {old.node_id}")
            cluster.converged()
            assert cluster.position().epoch == epoch
            assert names(old) == written
        for node in cluster.nodes:
            assert node.daemon.stop() == 0
            assert verify(node.directory / "ltx").problems == ()


def test_two_that_began_the_same_epoch_part(tmp_path: Path) -> None:
    """Two replicas that were promoted, neither hearing of the other, lead in one and the same
    epoch: one of them begins another, the other one follows, and both had their say."""
    with fleet(tmp_path, 2) as cluster:
        fra, nrt = cluster.replicas
        for node in cluster.nodes:
            node.daemon.kill()
        fra.daemon.start()
        epoch = promote(cluster, fra)["epoch"]
        put(fra, IN_FRA="1")
        with fra.held():
            nrt.daemon.start()
            assert promote(cluster, nrt)["epoch"] == epoch
            put(nrt, IN_NRT="1")

        def one_leads() -> Member | None:
            leading = [each for each in (fra, nrt) if not is_replica(each)]
            return leading[0] if len(leading) == 1 else None

        leader = until(one_leads, "single leader")
        loser = fra if leader is nrt else nrt
        cluster.leader, cluster.replicas = leader, [loser]
        cluster.converged()
        assert cluster.position().epoch > epoch
        (gone,) = {"IN_FRA", "IN_NRT"} - names(leader)
        assert names(loser) == names(leader)
        (branch,) = branches(loser)
        assert gone in {name for version in branch["versions"] for name in version["secrets"]}


async def test_a_long_branch_waits_for_the_operator(tmp_path: Path) -> None:
    """It is served, marked, with the very command that gives it up; that saves it first."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        fra.daemon.kill()
        line = KeepAlive(old.ports.http, old.operator)
        for number in range(LONG):
            body = {"set": {"LONG": str(number)}}
            assert (await line.ask("PATCH", "/v1/orgs/acme/apps/web/secrets", body)).status == 200
        line.drop()
        old.daemon.kill()
        fra.daemon.start()
        promote(cluster, fra)
        put(fra, AFTER="1")
        with fra.doors() as doors:
            refused = doors.cli("node", "accept-loss", fra.node_id)
        assert (refused.code, "keeps no branch" in refused.err) == (5, True)

        old.daemon.start()
        told = f"petsem node accept-loss {old.node_id}"

        def alarm() -> dict[str, Any] | None:
            own = old.own()
            said = [*own["warnings"], own["last_error"] or ""]
            return own if any(told in each for each in said) else None

        own = until(alarm, f"alarm with {told!r}: {old.daemon.said()}")
        assert own["role"] == "replica"
        assert names(old) == {"FIRST", "LONG"}
        assert list((old.directory / "lost").iterdir()) == []
        with old.doors() as doors:
            done = doors.cli(*told.split()[1:])
        assert done.code == 0, done
        cluster.converged()
        assert names(old) == {"FIRST", "AFTER"}
        (branch,) = branches(old)
        assert branch["transactions"] == LONG


@pytest.mark.parametrize(
    "step",
    [
        steps.ROLE_TRUNCATE_WAL,
        steps.ROLE_LEAVE_WAL,
        steps.ROLE_NORMALISE,
        steps.ROLE_RECORD,
        steps.SNAPSHOT_STAGE,
        steps.SNAPSHOT_APPLY,
        steps.APPLY_JOURNAL,
        steps.APPLY_PAGES,
        steps.JOURNAL_REMOVAL,
        steps.SYNC_DATABASE,
    ],
)
def test_killed_at_a_step_of_becoming_a_replica_it_goes_on(tmp_path: Path, step: str) -> None:
    """An old leader that comes back dies at that step; the next start does what is left."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        alone(cluster, ONLY_HERE="1")
        promote(cluster, fra)
        put(fra, AFTER="1")
        dying = Daemon(old.directory, command=command(step))
        dying.begin()
        assert dying.wait() == -signal.SIGKILL, dying.said()
        old.daemon.start()
        cluster.converged()
        assert names(old) == {"FIRST", "AFTER"}
        assert [each["transactions"] for each in branches(old)] == [1]


def test_killed_at_one_step_of_becoming_a_replica_after_the_other(tmp_path: Path) -> None:
    """Each start comes one step further than the one before, and dies there."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        alone(cluster, ONLY_HERE="1")
        promote(cluster, fra)
        put(fra, AFTER="1")
        for step in (
            *(steps.ROLE_TRUNCATE_WAL, steps.ROLE_LEAVE_WAL),
            *(steps.ROLE_NORMALISE, steps.ROLE_RECORD),
        ):
            dying = Daemon(old.directory, command=command(step))
            dying.begin()
            assert dying.wait() == -signal.SIGKILL, (step, dying.said())
        old.daemon.start()
        cluster.converged()
        assert names(old) == {"FIRST", "AFTER"}
        assert [each["transactions"] for each in branches(old)] == [1]


@pytest.mark.parametrize(
    "step", [steps.ROLE_ENTER_WAL, steps.ROLE_RECORD, steps.ROLE_BEGIN, steps.ROLE_SETTLE]
)
def test_killed_at_a_step_of_a_promotion_it_leads_or_not(tmp_path: Path, step: str) -> None:
    """Before the role is recorded it is a replica still, after that it leads; nothing is lost."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        old.daemon.kill()
        fra.daemon.kill()
        dying = Daemon(fra.directory, command=command(step))
        dying.start()
        with fra.doors() as doors:
            doors.cli("node", "promote", fra.node_id, "--force")
        assert dying.wait() == -signal.SIGKILL, dying.said()
        fra.daemon.start()
        assert is_replica(fra) is (step in (steps.ROLE_ENTER_WAL, steps.ROLE_RECORD))
        if is_replica(fra):
            promote(cluster, fra)
        cluster.leader, cluster.replicas = fra, [old]
        put(fra, AFTER="1")
        old.daemon.start()
        cluster.converged()
        assert names(old) == {"FIRST", "AFTER"}
