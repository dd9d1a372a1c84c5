"""A promotion that cannot lead: the replica is one again, durably, and can be promoted later."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Never

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Role
from petsem.replication import steps
from petsem.replication.drivers.log_verify import verify
from petsem.replication.image import PAGE_SIZE
from petsem.server import in_use, leading, roles
from petsem.server.mode_change import has_wal, was_replica
from petsem.server.node import Node
from petsem.server.replication import Replication
from petsem.server.roles import Roles
from tests.support.http_door import eventually
from tests.support.patience import PATIENCE_S
from tests.unit.server.cluster import Cluster

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
db.execute("SELECT * FROM position").fetchall()
print("held", flush=True)
sys.stdin.read()
"""
STEPS = [
    steps.ROLE_ENTER_WAL,
    steps.ROLE_RECORD,
    steps.ROLE_BEGIN,
    steps.LOG_APPEND,
    steps.LOG_SYNC,
    steps.ROLE_SETTLE,
]


class Stopped(BaseException):
    """The process ends here."""


class Steps:
    """Raises before a step, once it is told which."""

    def __init__(self) -> None:
        self.at: str | None = None
        self.error: Callable[[], BaseException] = lambda: OSError(5, "the disk fails")

    def __call__(self, step: str) -> None:
        if step == self.at:
            self.at = None
            raise self.error()


@asynccontextmanager
async def replica(cluster: Cluster, reached: Steps | None = None) -> AsyncIterator[Node]:
    """A node that led, and is a replica now, with what it had written."""
    async with cluster.running(reached=reached or Steps()) as node:
        await cluster.org("acme", "web")
        await cluster.set("acme", "web", A="1")
        await node.roles.step_down("a test says so")
        assert node.view.role is Role.REPLICA
        yield node


async def refused(node: Node) -> PetsemError:
    """Why the node could not be promoted."""
    with pytest.raises(PetsemError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await node.roles.promote(node.identity.node_id, force=True)
    return caught.value


def is_as_before(node: Node, state: Any) -> None:
    """A replica on a replica's file, bound to what it was, with the data it had."""
    assert node.view.role is Role.REPLICA
    assert node.datadir.read_state() == state
    assert was_replica(node.datadir.database)
    assert not has_wal(node.datadir.database)
    with node.pool.snapshot() as db:
        assert db.execute("SELECT count(*) FROM secrets").fetchall() == [(1,)]


def state_of(node: Node) -> Any:
    """What the directory records, but for what changes with each opening of the database."""
    return node.datadir.read_state()


def open_files(directory: Path) -> int:
    """How many descriptors this process has of what is in there."""
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(each).startswith(f"{directory.resolve()}/") for each in links)


@pytest.mark.parametrize("step", STEPS)
async def test_it_fails_at_a_step(cluster: Cluster, step: str) -> None:
    """It is a replica as before, in the same state; and leads when it is promoted again."""
    reached = Steps()
    async with replica(cluster, reached) as node:
        before, held = state_of(node), open_files(cluster.directory)
        reached.at = step
        said = (await refused(node)).message
        assert reached.at is None
        assert "is a replica again" in said
        # What the error held on to is gone with it.
        gc.collect()
        assert open_files(cluster.directory) <= held
        is_as_before(node, before)
        end = node.replication.position()
        assert end is not None
        done = await node.roles.promote(node.identity.node_id, force=True)
        assert done.epoch == before.bound_epoch + limits.EPOCHS_SKIPPED
        assert node.writer.position.txid == end.txid + 1
        await cluster.set("acme", "web", B="2")
    assert verify(cluster.datadir.log).problems == ()


@pytest.mark.parametrize("step", STEPS)
async def test_the_process_ends_at_a_step_and_the_next_start_cannot_lead_either(
    cluster: Cluster, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts as the replica that it was."""
    reached = Steps()
    reached.error = Stopped
    async with replica(cluster, reached) as node:
        before = state_of(node)
        reached.at = step
        with pytest.raises(Stopped):
            await node.roles.promote(node.identity.node_id, force=True)
        assert node.view.role is Role.UNKNOWN

    def fails(*_: object, **__: object) -> Never:
        raise PetsemError(Code.CORRUPT, "the database is damaged")

    monkeypatch.setattr(roles, "take_up", fails)
    async with cluster.running() as node:
        is_as_before(node, before)
    assert verify(cluster.datadir.log).problems == ()


@pytest.mark.parametrize("step", STEPS)
async def test_the_process_ends_at_a_step_and_the_next_start_goes_on(
    cluster: Cluster, step: str
) -> None:
    """With the promotion, if the role was recorded; nothing is missing in either role."""
    reached = Steps()
    reached.error = Stopped
    async with replica(cluster, reached) as node:
        before = state_of(node)
        reached.at = step
        with pytest.raises(Stopped):
            await node.roles.promote(node.identity.node_id, force=True)
    async with cluster.running() as node:
        if step in (steps.ROLE_ENTER_WAL, steps.ROLE_RECORD):
            is_as_before(node, before)
            return
        assert node.view.role is Role.LEADER
        state = node.datadir.read_state()
        assert (state.undo_epoch, state.undo_leader) == (None, None)
        assert await cluster.get("acme", "web") == {"A": "1"}
    assert verify(cluster.datadir.log).problems == ()


async def test_it_fails_when_it_leads_already(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written meanwhile stays, and the node is a replica that has it."""

    async def fails(_self: Replication) -> Never:
        raise unavailable("no")

    async with replica(cluster) as node:
        with monkeypatch.context() as broken:
            broken.setattr(Replication, "lead", fails)
            assert (await refused(node)).code is Code.UNAVAILABLE
        assert node.view.role is Role.REPLICA
        state = node.datadir.read_state()
        assert (state.role, state.undo_epoch) == ("replica", None)
        with node.pool.snapshot() as db:
            ((epoch,),) = db.execute("SELECT epoch FROM position").fetchall()
        assert epoch == state.bound_epoch
        await node.roles.promote(node.identity.node_id, force=True)
        await cluster.set("acme", "web", B="2")


def break_table(node: Node, table: str) -> None:
    """Overwrite the first page of a table in the file, as a bad disk would."""
    with node.pool.snapshot() as db:
        statement = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        ((root,),) = db.execute(statement, (table,)).fetchall()
    # In a process of its own: closing a descriptor here would drop SQLite's locks.
    script = "import os,sys; f=os.open(sys.argv[1],1); os.pwrite(f,b'x'*999,int(sys.argv[2]))"
    at = (root - 1) * PAGE_SIZE
    subprocess.run([sys.executable, "-c", script, str(node.datadir.database), str(at)], check=True)


async def never(*_: object) -> Never:
    raise AssertionError("it goes on following")


async def test_a_damaged_database_is_not_led(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found before anything is changed, though the node has read those pages before."""
    async with replica(cluster) as node:
        before = state_of(node)
        break_table(node, "nodes")
        with monkeypatch.context() as watched:
            watched.setattr(Roles, "_leave", never)
            error = await refused(node)
        assert (error.code, "petsem check" in error.message) == (Code.CORRUPT, True)
        is_as_before(node, before)


async def test_damage_that_is_met_only_on_the_way(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back does not read more than it has to."""
    async with replica(cluster) as node:
        before = state_of(node)
        monkeypatch.setattr(roles, "check_fit", lambda *_: None)
        break_table(node, "nodes")
        assert (await refused(node)).code is Code.CORRUPT
        is_as_before(node, before)


async def test_there_is_no_epoch_left(cluster: Cluster) -> None:
    """The operator hears it in a sentence, and nothing is written that cannot be read again."""
    async with replica(cluster) as node:
        state = dataclasses.replace(node.datadir.read_state(), bound_epoch=limits.EPOCH_MAX - 9)
        node.datadir.write_state(state)
        error = await refused(node)
        assert (error.code, str(limits.EPOCH_MAX - 9) in error.message) == (Code.CONFLICT, True)
        is_as_before(node, state)


async def test_the_log_cannot_be_written(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is seen before the node stops to follow."""
    async with replica(cluster) as node:
        before = state_of(node)
        monkeypatch.setattr(leading.os, "access", lambda *_: False)
        monkeypatch.setattr(Roles, "_leave", never)
        assert (await refused(node)).code is Code.UNAVAILABLE
        is_as_before(node, before)
        monkeypatch.undo()


async def test_damage_while_the_process_is_gone(cluster: Cluster) -> None:
    """A promotion was cut off before the role was recorded: the start reads no more than a
    replica's does, which mends itself by a snapshot."""
    reached = Steps()
    reached.error = Stopped
    async with replica(cluster, reached) as node:
        before = state_of(node)
        reached.at = steps.ROLE_RECORD
        with pytest.raises(Stopped):
            await node.roles.promote(node.identity.node_id, force=True)
        node.pool.resume()
        break_table(node, "nodes")
        break_table(node, "epochs")
    async with cluster.running() as node:
        is_as_before(node, before)


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that reads in a transaction which it does not end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def waits(said: str) -> int:
    """How often the log says that a change waits."""
    return said.count("role_change_waits")


async def test_a_promotion_that_a_reader_keeps_waiting_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator hears within a bound whom to end, the log once; the node follows on. When the
    reader has gone, it leads."""
    monkeypatch.setattr(in_use, "WAIT_S", 0.3)
    monkeypatch.setattr(in_use, "PAUSE_S", 0.05)
    async with replica(cluster) as node:
        before = state_of(node)
        with reader(node.datadir.database) as process:
            error = await refused(node)
            assert error.code is Code.UNAVAILABLE
            assert f"process {process.pid} has the database open; end that" in error.message
            is_as_before(node, before)
        assert waits(capsys.readouterr().out) == 1
        await node.roles.promote(node.identity.node_id, force=True)
        assert node.view.waits is None


async def test_a_leader_that_a_reader_keeps_from_stepping_down_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everywhere the same, while it answers reads; it is a replica once the reader has gone, and an
    operator who asks for something else meanwhile hears what is so."""
    monkeypatch.setattr(in_use, "WAIT_S", 0.1)
    monkeypatch.setattr(in_use, "PAUSE_S", 0.05)
    monkeypatch.setattr(roles, "_LOOK_S", 0.05)
    async with cluster.running() as node:
        own = node.identity.node_id
        with reader(node.datadir.database) as process:
            node.view.heard_of(9)
            await eventually(lambda: node.view.waits is not None)
            pid = f"process {process.pid}"
            await eventually(lambda: not node.pool._paused)
            status = next(each for each in node.status.status().nodes if each.node == own)
            assert (status.role, status.ready, pid in status.warnings[0]) == (
                "unknown",
                False,
                True,
            )
            assert node.status.ready() == [
                "the node is changing its role, once another process lets it"
            ]
            error = await refused(node)
            assert error.code in (Code.UNAVAILABLE, Code.CONFLICT)
        await eventually(lambda: node.view.role is Role.REPLICA)
        assert node.view.waits is None
    assert waits(capsys.readouterr().out) == 1
    # The same at a start: the node answers reads meanwhile.
    async with cluster.running() as node:
        assert node.view.role is Role.REPLICA
        await node.roles.promote(own, force=True)
    monkeypatch.setattr(Replication, "leads_elsewhere", _elsewhere)
    with reader(cluster.datadir.database) as process:
        async with cluster.running() as node:
            assert (node.view.role, node.view.synced) == (Role.UNKNOWN, True)
            assert node.view.waits is not None
            process.kill()
            await eventually(lambda: node.view.role is Role.REPLICA)


async def _elsewhere(_self: Replication) -> bool:
    return True
