"""`petsem check` of a replica, which asks the leader: with real processes, running and stopped."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem.crypto.ca import CertRole
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.image import PAGE_SIZE
from petsem.server.check_leader import NAME
from petsem.server.peer.dial import COMPARE
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf
from tests.support.daemon import run
from tests.support.fleet import Fleet, Member, fleet
from tests.support.peers import Authority, Port, open_port


def told(node: Member) -> tuple[int, str, str]:
    """Exit code of a check, and what it says of the leader."""
    done = run("check", node.directory, "-o", "json")
    assert done.code in (0, 8), done
    ((result, message),) = [
        (each["result"], each["message"])
        for each in json.loads(done.out)["findings"]
        if each["name"] == NAME
    ]
    return done.code, result, message


def write(cluster: Fleet, count: int = 5) -> None:
    """So many transactions on the leader."""
    with cluster.leader.doors() as doors:
        for number in range(count):
            doors.set("acme/web", FIRST=f"x{number}")


def stopped_log(node: Member) -> TransactionLog:
    """The log of a node that is stopped for it."""
    assert node.daemon.stop() == 0
    return TransactionLog.open(node.directory / "ltx")


def flip_last_page(path: Path) -> None:
    """One bit, as a bad disk would: where SQLite does not look, and without a newer mtime."""
    before = path.stat()
    fd = os.open(path, os.O_RDWR)
    try:
        at = before.st_size - PAGE_SIZE // 2
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x10]), at)
    finally:
        os.close(fd)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_replica_that_holds(tmp_path: Path) -> None:
    """It has what the leader has, while it runs, which goes on undisturbed, and when it is stopped
    and the leader is ahead of it."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        write(cluster)
        at = cluster.converged()
        streams = len(replica.logged("following"))
        code, result, message = told(replica)
        assert (code, result) == (0, "ok")
        expected = f"every page is what the leader {cluster.leader.node_id} has at {at}-"
        assert message.startswith(expected)
        write(cluster)
        cluster.converged()
        assert len(replica.logged("following")) == streams
        assert replica.daemon.stop() == 0
        write(cluster)
        code, result, message = told(replica)
        assert (code, result) == (0, "ok")
        assert "every page is what the leader" in message


def test_a_flipped_byte(tmp_path: Path) -> None:
    """Found beside the running node, which has not noticed, and in its place; what the check says
    mends it, though a clean stop has left a table of checksums that the byte is not in."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        flip_last_page(replica.database)
        code, result, message = told(replica)
        assert (code, result) == (8, "problem")
        assert f"are not those that the leader {cluster.leader.node_id} has there" in message
        assert replica.daemon.stop() == 0
        assert told(replica)[:2] == (8, "problem")
        (replica.directory / "checksums").unlink(missing_ok=True)
        replica.daemon.start()
        replica.says("snapshot_applied")
        cluster.converged()
        assert told(replica)[:2] == (0, "ok")


def test_the_leader_is_down(tmp_path: Path) -> None:
    """Another replica answers and does not lead; nothing is proven, and nothing is wrong."""
    with fleet(tmp_path, 2) as cluster:
        cluster.leader.daemon.kill()
        code, result, message = told(cluster.replicas[0])
        assert (code, result) == (0, "skipped")
        assert message.startswith("not compared with the leader: ")


def test_the_leader_s_log_is_younger(tmp_path: Path) -> None:
    """What it no longer knows it cannot compare, and says so."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        assert replica.daemon.stop() == 0
        write(cluster)
        log = stopped_log(cluster.leader)
        log.roll()
        log.close()
        cluster.leader.daemon.start()
        write(cluster)
        log = stopped_log(cluster.leader)
        log.drop_before(log.segments[-1].base.txid)
        log.close()
        cluster.leader.daemon.start()
        code, result, message = told(replica)
        assert (code, result) == (0, "skipped")
        assert "no longer knows" in message


def test_a_removed_node_is_told(tmp_path: Path) -> None:
    """Who is a member no more gets no answer, and hears that rather than that nobody is there."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        assert replica.daemon.stop() == 0
        with cluster.leader.doors() as doors:
            assert doors.cli("node", "remove", replica.node_id, "--yes", replica.node_id).code == 0
        code, result, message = told(replica)
        assert (code, result) == (0, "skipped")
        assert "is not a node of this cluster" in message


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    async with open_port(tmp_path / "node", lambda node: node.replication.methods) as found:
        yield found


async def test_who_may_ask(port: Port) -> None:
    """A member; not whoever holds a join certificate, another cluster's, or was removed."""
    end = port.node.replication.position()
    assert end is not None
    asked = pb.CompareRequest(txid=end.txid)
    member = await port.member("fra-1")
    said = await port.ask(member, COMPARE, asked, pb.CompareResponse)
    assert (said.node, said.leads) == (port.node.identity.node_id, True)
    assert position_from_protobuf(said.found) == end
    guest = port.authority.issue("guest", CertRole.JOIN)
    assert (await port.refused(guest, COMPARE, asked))[0] == "denied"
    stranger = Authority.new(port.own.cluster_id).issue("fra-1", trusts=port.authority.cert)
    assert (await port.refused(stranger, COMPARE, asked))[0] == "unavailable"
    await port.remove("fra-1")
    assert (await port.refused(member, COMPARE, asked))[0] == "denied"
