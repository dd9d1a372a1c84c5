"""What a node says of itself, in health and in trouble."""

from __future__ import annotations

import apsw
import pytest

from petsem import __version__
from petsem.crypto.keys import Purpose
from petsem.server.config import load_config
from petsem.server.replica.hearsay import Teller
from petsem.server.replica.roll import READ_EVERY_S
from petsem.server.service.reports import held_keks
from petsem.wire import http
from petsem.wire import petsem_pb2 as pb
from tests.support.following import follow
from tests.unit.server.cluster import Cluster


async def test_a_healthy_leader(cluster: Cluster) -> None:
    """Every number is the node's own; nothing lags, nothing is wrong."""
    async with cluster.running() as node:
        position = node.writer.position
        assert node.status.status() == http.Status(
            cluster=node.identity.cluster_id.hex(),
            nodes=[
                http.NodeStatus(
                    node=node.identity.node_id,
                    region="ams",
                    role="leader",
                    epoch=2,
                    position=str(position),
                    lag_transactions=0,
                    lag_ms=0,
                    last_error=None,
                    version=__version__,
                    ready=True,
                    warnings=[],
                    http="127.0.0.1:7400",
                    grpc="127.0.0.1:7401",
                    heard_ms_ago=0,
                )
            ],
        )
        assert node.status.ready() == []


async def test_the_cluster_s_nodes(cluster: Cluster) -> None:
    """As they joined, with their three addresses."""
    async with cluster.running() as node:
        listed = node.status.nodes()
        assert listed.nodes == [
            http.NodeInfo(
                node=node.identity.node_id,
                region="ams",
                voter=True,
                joined_at="2027-01-15T08:00:00Z",
                http="127.0.0.1:7400",
                grpc="127.0.0.1:7401",
                peer="127.0.0.1:7402",
            )
        ]


@pytest.mark.parametrize(
    ("purpose", "ready", "what"),
    [
        (Purpose.TOKENS, False, "cannot verify the tokens"),
        (Purpose.SECRETS, True, "cannot read or write the values"),
        (Purpose.CLUSTER, True, "cannot verify operators' tokens"),
    ],
)
async def test_a_key_that_is_missing(
    cluster: Cluster, purpose: Purpose, ready: bool, what: str
) -> None:
    """Without `tokens` the node is not ready; any other is a warning. Both name the key's id."""
    missing = cluster.kek(purpose)
    cluster.remove_kek(missing)
    async with cluster.running() as node:
        status = node.status.status().nodes[0]
        assert status.ready is ready
        assert (node.status.ready() == []) is ready
        assert len(status.warnings) == 1
        assert missing in status.warnings[0]
        assert what in status.warnings[0]
        assert str(cluster.datadir.default_keyring) in status.warnings[0]


async def test_a_full_disk_is_a_warning(cluster: Cluster) -> None:
    """Reads go on, so the node stays ready; writes are refused, and the ballast was given back."""
    async with cluster.running() as node:
        node.space.exhausted()
        assert node.status.ready() == []
        warnings = node.status.status().nodes[0].warnings
        assert [text.partition(",")[0] for text in warnings] == [
            "the disk is full",
            "the ballast file is not there",
        ]


async def test_a_keyring_inside_the_directory_is_a_warning(cluster: Cluster) -> None:
    """Whoever copies the directory then has the keys."""
    inside = cluster.directory / "keys.json"
    cluster.datadir.default_keyring.rename(inside)
    config = cluster.datadir.config_file
    config.write_text(config.read_text().replace("[keyring]", '[keyring]\nfile = "keys.json"'))
    assert load_config(cluster.datadir).keyring.file == inside
    async with cluster.running() as node:
        warnings = node.status.status().nodes[0].warnings
        assert len(warnings) == 1
        assert "lies inside the data directory" in warnings[0]


async def test_a_node_that_stops_is_not_ready(cluster: Cluster) -> None:
    """A load balancer learns it before the doors close."""
    async with cluster.running() as node:
        node.status.draining = True
        assert node.status.ready() == ["the node is stopping"]


async def test_a_writer_without_its_database_is_not_ready(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it cannot be opened again, writes fail, and the node says so."""
    async with cluster.running() as node:
        with monkeypatch.context() as patch:
            patch.setattr(node.writer._connection, "_db", None)
            assert node.status.ready() == [
                "the writer cannot open the database; see the node's log"
            ]
        assert node.status.ready() == []


async def test_a_database_that_cannot_be_read_is_not_ready(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness answers, whatever SQLite says."""

    def broken() -> None:
        raise apsw.IOError("disk I/O error")

    async with cluster.running() as node:
        monkeypatch.setattr(node.pool, "reading", broken)
        assert node.status.ready() == ["the database cannot be read; see the node's log"]


async def test_every_node_of_the_cluster(cluster: Cluster) -> None:
    """Those that report here, those that others tell of, and members that nobody hears; nobody
    who is no member, and of this node nothing that others say."""
    async with cluster.running() as node:
        own = node.identity.node_id
        for name in ("fra-1", "nrt-1", "syd-1"):
            await cluster.change(
                "INSERT INTO nodes (id, region, voter, http, grpc, peer, joined_at)"
                " VALUES (?, 'far', 0, 'h', 'g', 'p', 0)",
                name,
            )
        cluster.clock.advance(READ_EVERY_S)
        hearsay = node.replication.hearsay
        direct, told = Teller("fra-1", follows=True), Teller("fra-1", follows=True)
        position = node.writer.position
        at = pb.Position(epoch=position.epoch, txid=position.txid - 1)
        hearsay.take(direct, pb.NodeReport(node="fra-1", applied=at, ready=True, lag_ms=7))
        for name in ("nrt-1", own, "nobody"):
            said = pb.NodeReport(node=name, path=[name], applied=at, lag_ms=0, age_ms=3_000)
            hearsay.take(told, said)
        found = {each.node: each for each in node.status.status().nodes}
        assert list(found) == sorted([own, "fra-1", "nrt-1", "syd-1"])
        assert (found[own].region, found[own].role) == ("ams", "leader")
        assert (found["fra-1"].lag_transactions, found["fra-1"].ready) == (1, True)
        assert (found["nrt-1"].lag_ms, found["nrt-1"].heard_ms_ago) == (0, 3_000)
        assert found["syd-1"].role == "unknown"
        told.open = False
        late = {each.node: each for each in node.status.status().nodes}["nrt-1"]
        assert (late.lag_ms, late.lag_transactions, late.ready) == (None, None, False)


async def test_who_leads_is_known_from_the_data(cluster: Cluster) -> None:
    """On a replica that has heard of no leader since it started: a node that says it leads, or
    follows nobody, is a replica."""
    async with cluster.running() as node:
        own = node.identity.node_id
        await cluster.change(
            "INSERT INTO nodes (id, region, voter, http, grpc, peer, joined_at)"
            " VALUES ('fra-1', 'far', 0, 'h', 'g', 'p', 0)"
        )
        cluster.clock.advance(READ_EVERY_S)
        node.replication.hearsay.take(
            Teller("fra-1", follows=True), pb.NodeReport(node="fra-1", lag_ms=0, ready=True)
        )
        follow(node)
        assert node.status._own()[2] == own
        assert {each.node: each.role for each in node.status.status().nodes}["fra-1"] == "replica"


async def test_a_replica_that_never_had_data(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not ready, and its lag is unknown and not 0. Its database is not looked at."""
    async with cluster.running() as node:
        follow(node, heard_s=None)
        node.freshness.view.synced = False
        monkeypatch.delattr(type(node.pool), "take")
        status = node.status.status().nodes[0]
        assert node.status.ready() == ["this node has not received its data yet"]
        assert (status.role, status.ready) == ("replica", False)
        assert (status.lag_ms, status.lag_transactions, status.position) == (None, None, None)
        assert node.status.warnings()[0] == "this node has not received its data yet"


async def test_a_replica_that_does_not_hear_its_leader(cluster: Cluster) -> None:
    """It stays ready, since it goes on answering, and warns."""
    async with cluster.running() as node:
        follow(node, heard_s=60)
        node.freshness.view.problem = "the log is damaged"
        status = node.status.status().nodes[0]
        assert (status.ready, status.lag_ms, status.last_error) == (
            True, 60_000, "the log is damaged",
        )  # fmt: skip
        assert status.warnings == [
            "the leader is not heard; reads are answered from what was received"
        ]


async def test_a_node_s_report_of_itself(cluster: Cluster) -> None:
    """What `status` shows of it, with the ids of its keys and whom it follows."""
    async with cluster.running() as node:
        own = node.identity.node_id
        position = node.writer.position
        at = pb.Position(epoch=position.epoch, txid=position.txid)
        assert node.status.report() == pb.NodeReport(
            node=own,
            region="ams",
            version=__version__,
            durable=at,
            applied=at,
            lag_ms=0,
            keks=held_keks(node.keys.keyring),
            ready=True,
        )
        follow(node, heard_s=1)
        node.freshness.view.path = (own, "ams-9")
        report = node.status.report()
        assert (report.source, report.lag_ms) == ("ams-9", 1_000)
