"""A replica whose files were damaged, whose disk is full, or which is of another cluster.

It never ends because of that, never answers wrongly, and mends what can be mended by itself.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from petsem.limits import FREE_SPACE_RESERVE_BYTES
from petsem.replication.image import PAGE_SIZE
from petsem.replication.segment import HEADER_BYTES, MAGIC
from petsem.server.address import Address
from petsem.server.datadir import DataDir
from petsem.server.init import init_cluster
from petsem.wire import petsem_pb2 as pb
from tests.support.daemon import Daemon, configure, until
from tests.support.doors import secrets_of, values_of
from tests.support.fleet import Fleet, Member, Ports, fleet
from tests.support.small_disk import small_disk

WRITES: Final = 30


def write(cluster: Fleet, count: int = WRITES, value: str = "x") -> None:
    """So many transactions, and the replicas have them."""
    with cluster.leader.doors() as doors:
        for number in range(count):
            doors.set("acme/web", FIRST=f"{value}{number}")
    for replica in cluster.replicas:
        if replica.daemon.alive:
            replica.has(cluster.position())


def last_record(directory: Path) -> tuple[Path, int, int]:
    """Where the last transaction of a log is: the segment, and the offset and end of its data."""
    segment = max((directory / "ltx").glob("*.seg"))
    held = segment.read_bytes()
    end = len(held.rstrip(b"\0"))
    at = held.rindex(b"LTX1", 0, end)
    assert held[at - HEADER_BYTES : at - HEADER_BYTES + 4] == MAGIC
    return segment, at, end


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file of a node that does not run."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def flip(path: Path, offset: int) -> None:
    """Another bit in one byte."""
    with path.open("rb") as file:
        file.seek(offset)
        (byte,) = file.read(1)
    overwrite(path, offset, bytes([byte ^ 0x10]))


@pytest.mark.parametrize("clean", [True, False])
def test_a_flipped_byte_in_the_log(tmp_path: Path, clean: bool) -> None:
    """It is found at the start and set aside; the replica serves, gets what it lacks from the
    leader, and is in step."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        write(cluster)
        if clean:
            assert replica.daemon.stop() == 0
        else:
            replica.daemon.kill()
        segment, at, _ = last_record(replica.directory)
        flip(segment, at + 150)
        write(cluster, 3, "y")
        replica.daemon.start()
        write(cluster, 3, "z")
        cluster.converged()
        assert replica.logged("log_damaged")
        assert replica.own()["last_error"] is None


def test_a_torn_last_record(tmp_path: Path) -> None:
    """Half of the last transaction in the log is not there: cut, and fetched again."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        write(cluster)
        replica.daemon.kill()
        segment, at, end = last_record(replica.directory)
        half = (at + end) // 2
        overwrite(segment, half, bytes(end - half))
        replica.daemon.start()
        write(cluster, 3, "z")
        cluster.converged()
        assert replica.logged("log_tail_cut")
        assert replica.own()["last_error"] is None


def test_a_flipped_byte_in_the_database(tmp_path: Path) -> None:
    """The background scan finds it, whether or not anybody reads that page, and the pages are
    repaired from the leader although nobody writes."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        assert replica.daemon.stop() == 0
        size = replica.database.stat().st_size
        flip(replica.database, size - PAGE_SIZE // 2)
        replica.daemon.start()
        replica.says("replica_needs_snapshot")
        replica.says("snapshot_applied")
        cluster.converged()
        assert replica.own()["last_error"] is None


def test_a_log_that_is_lost_while_nobody_can_be_asked(tmp_path: Path) -> None:
    """The log is deleted while both nodes run, and both begin another: what a write was told to be
    on the replica's disk is there. Then that is damaged, and the leader gone: boots are answered,
    marked stale, and the leader's next transaction is taken when it is back, without a snapshot."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        for node in cluster.nodes:
            shutil.rmtree(node.directory / "ltx")
        with cluster.leader.doors() as doors:
            body = {"set": {"FIRST": "after"}, "durability": {"replicated": 1}}
            answer = doors.done("PATCH", secrets_of("acme/web"), body)
            assert answer["durability"]["met"], answer
        assert replica.logged("log_deleted")
        assert cluster.leader.logged("log_began_anew")
        at = cluster.converged()
        for node in cluster.nodes:
            node.daemon.kill()
        segment, offset, _ = last_record(replica.directory)
        flip(segment, offset + 150)
        replica.daemon.start()
        assert replica.logged("database_is_whole")
        with replica.doors() as doors:
            fetched = doors.fetch("acme/web")
            assert values_of(fetched) == {"FIRST": b"after"}
            fresh = fetched.message.freshness
            assert (fresh.position.txid, fresh.source) == (at.txid, pb.Source.DISK)
            assert fresh.HasField("leader_seen_ms_ago")
        cluster.leader.daemon.start()
        write(cluster, 1)
        cluster.converged()
        assert not replica.logged("snapshot_applied")
        assert replica.own()["last_error"] is None


def test_an_older_copy_of_the_database(tmp_path: Path) -> None:
    """Somebody restored the file from a copy: the log says so, and the leader has the rest."""
    with fleet(tmp_path, 1) as cluster:
        (replica,) = cluster.replicas
        assert replica.daemon.stop() == 0
        copy = shutil.copy(replica.database, tmp_path / "copy")
        replica.daemon.start()
        write(cluster)
        assert replica.daemon.stop() == 0
        shutil.copy(copy, replica.database)
        replica.daemon.start()
        replica.says("snapshot_applied")
        cluster.converged()
        assert replica.own()["last_error"] is None


def test_a_replica_of_another_cluster(tmp_path: Path) -> None:
    """It gets nothing, keeps what it has, and goes on serving that; the leader hears nothing of
    it."""
    with fleet(tmp_path, 0) as cluster:
        ports = Ports.free()
        directory = tmp_path / "stranger"
        made = init_cluster(
            directory,
            region="fra",
            http=Address("127.0.0.1", ports.http),
            grpc=Address("127.0.0.1", ports.grpc),
            peer=Address("127.0.0.1", ports.peer),
        )
        operator = made.operator_token_file.read_text().strip()
        stranger = Member(Daemon(directory), directory, operator, ports)
        with stranger.daemon, stranger.doors() as doors:
            doors.furnish("own", "app")
            doors.set("own/app", MINE="1")
            at = stranger.position()
        # As an operator's mistake would have it.
        state = DataDir(directory).read_state()
        DataDir(directory).write_state(dataclasses.replace(state, role="replica"))
        configure(directory, "peer", upstream=f"127.0.0.1:{cluster.leader.ports.peer}")
        with stranger.daemon, stranger.doors() as doors:
            until(lambda: stranger.own()["last_error"], "complaint")
            assert stranger.own()["role"] == "replica"
            assert stranger.position() == at
            listed = doors.done("GET", "/v1/orgs/own/apps/app/secrets")
            assert [each["name"] for each in listed["secrets"]] == ["MINE"]
            assert not stranger.logged("following")
        assert not cluster.leader.logged("follower_connected")


def test_a_full_disk(tmp_path: Path) -> None:
    """A replica whose disk is full goes on answering from what it has and says what is wrong; the
    leader writes as before. With space again it catches up by itself."""
    with small_disk(tmp_path, 64) as disk, fleet(tmp_path, 0) as cluster:
        if disk is None:
            pytest.skip("this user may not mount a disk of his own")
        daemon = disk.daemon()
        replica = cluster.join("fra", daemon=daemon, seen=disk.seen / "node", command=disk.run)
        daemon.start()
        cluster.converged()
        disk.fill(FREE_SPACE_RESERVE_BYTES // 2)
        before = replica.position()
        write_only(cluster.leader)
        until(lambda: "disk is full" in str(replica.own()["last_error"]), "complaint")
        assert replica.position() == before
        with replica.doors() as doors:
            assert values_of(doors.fetch("acme/web")) == {"FIRST": b"1"}
            until(lambda: replica.own()["lag_transactions"], "lag")
        disk.clear()
        cluster.converged(within_s=30)
        assert replica.own()["last_error"] is None


def write_only(leader: Member) -> None:
    """Transactions that nobody waits for."""
    with leader.doors() as doors:
        for number in range(5):
            doors.set("acme/web", FIRST=f"w{number}")
