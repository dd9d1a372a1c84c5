"""Epochs between real nodes: whose they are, and what is believed of who claims one."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from petsem import limits
from petsem.errors import PetsemError
from petsem.model import Position
from petsem.replication.session.feed import PROTOCOL
from petsem.server.datadir import DataDir
from petsem.server.peer.dial import STREAM, error_of, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.wire import petsem_pb2 as pb
from tests.integration.test_promote import APP, branches, is_replica, names, promote, put
from tests.support.daemon import until
from tests.support.fleet import Member, fleet
from tests.support.patience import PATIENCE_S


def lost(node: Member, position: Position) -> None:
    """Whoever reads after `position`, or follows the revocations from there, hears that it is of a
    branch which is gone."""
    with node.doors() as doors:
        path = f"/v1/orgs/acme/apps/web/secrets/values?min_position={position}"
        assert doors.ask("GET", path).error == (409, "conflict", "LOST")
        fence = pb.Position(epoch=position.epoch, txid=position.txid)
        assert doors.fetch(APP, min_position=fence).error == ("ABORTED", "conflict", "LOST")
        path = f"/v1/revocations?after={position}&wait_s=0"
        assert doors.ask("GET", path).error == (409, "conflict", "LOST")


def test_an_old_leader_that_starts_alone_begins_no_epoch_of_another(tmp_path: Path) -> None:
    """It is cut off, and writes as many transactions as the one that was promoted: what it answered
    is lost, and every node says so of each of its positions."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        old.daemon.kill()
        promote(cluster, fra)
        for number in range(3):
            put(fra, AFTER=str(number))
        fra.daemon.kill()
        old.daemon.start()
        forked = [Position.parse(put(old, FORK=str(number))["position"]) for number in range(3)]
        old.daemon.kill()
        fra.daemon.start()
        old.daemon.start()
        cluster.converged()
        assert names(old) == {"FIRST", "AFTER"}
        assert [each["transactions"] for each in branches(old)] == [1 + len(forked)]
        for node in cluster.nodes:
            for position in forked:
                lost(node, position)


def claim(node: Member, member: Member, epoch: int) -> PetsemError:
    """What `node` answers to who shows `member`'s certificate and has heard of that epoch."""

    async def ask() -> PetsemError:
        datadir = DataDir(member.directory)
        identity = datadir.read_identity()
        tls = OwnCertificate(datadir, identity).tls
        channel = peer_channel(tls, identity.cluster_id, f"127.0.0.1:{node.ports.peer}")
        opened: Any = channel.stream_stream(STREAM, None, None)
        call = opened(timeout=PATIENCE_S)
        hello = pb.Hello(
            protocol=PROTOCOL,
            cluster=identity.cluster_id,
            node=identity.node_id,
            schema=1,
            epoch_seen=epoch,
        )
        try:
            await call.write(pb.FromReplica(hello=hello).SerializeToString())
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error_of(error)
        finally:
            call.cancel()
            await channel.close(None)
        raise AssertionError("it was welcomed")

    return asyncio.run(ask())


def test_a_member_that_claims_an_epoch(tmp_path: Path) -> None:
    """One that cannot be is refused, and changes nothing. One that can be makes the leader step
    down; the operator promotes a node, any of them, and all follow it."""
    with fleet(tmp_path, 1) as cluster:
        old, fra = cluster.leader, cluster.replicas[0]
        epoch = cluster.position().epoch
        for far in (epoch + limits.EPOCHS_AHEAD_MAX + 1, limits.EPOCH_MAX):
            assert claim(old, fra, far).code == "invalid"
        put(old, STILL_LEADS="1")
        cluster.converged()
        assert claim(old, fra, epoch + limits.EPOCHS_AHEAD_MAX).code == "conflict"
        until(partial(is_replica, old), "step down of the leader")
        for turn, node in enumerate((fra, old)):
            answer = promote(cluster, node)
            put(node, **{f"AFTER_{turn}": "1"})
            cluster.converged()
        # Beyond the claim, and once more if the first of them had heard of it too.
        assert answer["epoch"] >= epoch + limits.EPOCHS_AHEAD_MAX + limits.EPOCHS_SKIPPED
        assert names(fra) == {"FIRST", "STILL_LEADS", "AFTER_0", "AFTER_1"}
