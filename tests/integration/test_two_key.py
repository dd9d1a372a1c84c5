"""Two-key boots on real nodes: a stolen host token alone reads nothing, through any door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from petsem.model import Position
from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from petsem.wire import petsem_pb2 as pb
from petsem_client import SyncSecretReader
from tests.support.doors import Doors, fetch_request, narrowed
from tests.support.fleet import Fleet, Member, fleet

pytestmark = pytest.mark.xdist_group("two_key")
"""In one process, so that what is made once for this file is."""

FETCH, WATCH = "/petsem.v1.Secrets/Fetch", "/petsem.v1.Secrets/Watch"
READS = {"FIRST": b"1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("two_key"), 1, proxied=True) as made:
        with made.leader.doors() as doors:
            doors.done("PATCH", "/v1/orgs/acme/settings", {"two_key": True})
        yield made


@pytest.fixture
def host(cluster: Fleet) -> str:
    with cluster.leader.doors() as doors:
        return doors.mint("acme", "action = secrets:read", kind="host")


@pytest.fixture(scope="module")
def asker(cluster: Fleet) -> str:
    with cluster.leader.doors() as doors:
        return doors.mint("acme", "action = machines:boot", kind="service")


def allow(cluster: Fleet, asker: str, host: str, machine: str = "m1", app: str = "acme/web") -> Any:
    """By the command line, from the host's token on stdin."""
    with cluster.leader.doors() as doors:
        command = ("boot", "allow", "-a", app, "--machine", machine, "--host-token-file", "-")
        ran = doors.cli(*command, "-o", "json", token=asker, stdin=host.encode())
    assert ran.code == 0, ran
    return json.loads(ran.out)


def with_discharge(host: str, discharge: str, *caveats: str) -> str:
    """What is sent."""
    root = parse_token(narrowed(host, *caveats)).root
    return encode_token(root, [bind_discharge(root, parse_token(discharge).root)])


def through_each_door(doors: Doors, token: str, machine: str = "m1") -> set[str | None]:
    """The reasons with which the doors refuse to read acme/web, None where they do not."""
    message = fetch_request("acme/web", machine=machine)
    watched = pb.WatchRequest(org="acme", app="web", machine=machine)
    path = f"/v1/orgs/acme/apps/web/secrets/values?machine={machine}"
    found = {
        doors.rpc(FETCH, message, token=token).reason,
        doors.rpc(WATCH, watched, token=token).reason,
        doors.connect(FETCH, message, token=token).reason,
        doors.connect(FETCH, message, token=token).reason,
    }
    error = doors.ask("GET", path, token=token).error
    return found | {None if error is None else error[2]}


def test_a_stolen_host_token(cluster: Fleet, asker: str, host: str) -> None:
    """Alone it reads nothing, on the leader and on a replica; with a discharge, that machine of
    that app; with another host's, nothing."""
    allowed = allow(cluster, asker, host)
    other = allow(cluster, asker, _another(cluster))
    cluster.replicas[0].has(Position.parse(other["position"]))
    for node in cluster.nodes:
        with node.doors() as doors:
            assert through_each_door(doors, host) == {"DISCHARGE_MISSING"}
            whole = with_discharge(host, allowed["discharge"])
            assert through_each_door(doors, whole) == {None}
            assert through_each_door(doors, whole, "m2") == {"CAVEAT"}
            wrong = with_discharge(host, other["discharge"])
            assert through_each_door(doors, wrong) == {"DISCHARGE_MISSING"}


def _another(cluster: Fleet) -> str:
    with cluster.leader.doors() as doors:
        return doors.mint("acme", "action = secrets:read", kind="host")


def test_clients(cluster: Fleet, asker: str, host: str, tmp_path: Path) -> None:
    """The command line and the library take the token with its discharge, as it was printed, and
    bind it to what they send."""
    bundle = f"{host},{allow(cluster, asker, host)['discharge']}"
    with cluster.leader.doors() as doors:
        ran = doors.cli("boot", "env", "--format", "json", "--machine", "m1",
                        token=bundle, app="acme/web")  # fmt: skip
        assert (ran.code, json.loads(ran.out)) == (0, {"FIRST": "1"}), ran
        ran = doors.cli("boot", "files", str(tmp_path / "f"), "--machine", "m1",
                        token=bundle, app="acme/web")  # fmt: skip
        assert (ran.code, (tmp_path / "f" / "FIRST").read_bytes()) == (0, b"1"), ran
        ran = doors.cli("boot", "exec", "--machine", "m1", "--", "/usr/bin/env",
                        token=bundle, app="acme/web")  # fmt: skip
        assert (ran.code, b"FIRST=1\n" in ran.out) == (0, True), ran
        ran = doors.cli("boot", "env", "--format", "json", "--machine", "m1",
                        token=host, app="acme/web")  # fmt: skip
        assert (ran.code != 0, ran.out) == (True, b""), ran
    address = f"127.0.0.1:{cluster.leader.ports.grpc}"
    with SyncSecretReader([address], token=bundle) as reader:
        assert dict(reader.fetch("acme/web", machine="m1")) == READS


def test_each_read_is_written_down(cluster: Fleet, asker: str, host: str) -> None:
    """With the grant, who asked for it, and the host's token; no value and no token."""
    allowed = allow(cluster, asker, host, "m7")
    with cluster.leader.doors() as doors:
        whole = with_discharge(host, allowed["discharge"])
        assert through_each_door(doors, whole, "m7") == {None}
        listed = doors.done("GET", "/v1/orgs/acme/tokens")["tokens"]
    ids = {kind: {t["id"] for t in listed if t["kind"] == kind} for kind in ("host", "service")}
    lines = [e for e in cluster.leader.logged("boot_read") if e["machine"] == "m7"]
    # gRPC, Connect twice, the watch, and HTTP.
    assert len(lines) == 5
    for line in lines:
        assert line["grant"] == allowed["grant"]
        assert (line["org"], line["app"], line["machine"]) == ("acme", "web", "m7")
        assert line["host"] in ids["host"]
        assert line["asker"].removeprefix("service:") in ids["service"]
    (said,) = [e for e in cluster.leader.logged("boot_allowed") if e["machine"] == "m7"]
    assert said["grant"] == allowed["grant"]
    assert allowed["discharge"] not in cluster.leader.daemon.said()


def test_a_replica_without_the_grant(cluster: Fleet, asker: str, host: str) -> None:
    """It says that it is behind, never that there is no grant: a client asks elsewhere. A replica
    that can ask upstream does."""
    (replica,) = cluster.replicas
    replica.has(cluster.position())
    cluster.link.up.cut = cluster.link.down.cut = True
    try:
        allowed = allow(cluster, asker, host, "m9")
        whole = with_discharge(host, allowed["discharge"])
        with replica.doors() as doors:
            reply = doors.fetch("acme/web", machine="m9", token=whole)
            assert reply.code == "stale", reply
            assert reply.detail is not None
            need = reply.detail.need
            assert str(Position(need.epoch, need.txid)) == allowed["position"]
        bundle = f"{host},{allowed['discharge']}"
        with SyncSecretReader(_addresses(replica, cluster.leader), token=bundle) as reader:
            assert dict(reader.fetch("acme/web", machine="m9")) == READS
    finally:
        cluster.link.heal()
    replica.has(Position.parse(allowed["position"]))
    with replica.doors() as doors:
        assert through_each_door(doors, whole, "m9") == {None}


def _addresses(*nodes: Member) -> list[str]:
    return [f"127.0.0.1:{node.ports.grpc}" for node in nodes]


def test_a_revoked_asker(cluster: Fleet, host: str) -> None:
    """What he allowed ends with his token, on the leader and on a replica."""
    with cluster.leader.doors() as doors:
        asker = doors.mint("acme", "action = machines:boot", kind="service")
        allowed = allow(cluster, asker, host)
        whole = with_discharge(host, allowed["discharge"])
        assert through_each_door(doors, whole) == {None}
        revoked = doors.cli(
            "token", "revoke", "--org", "acme", "--token-file", "-", stdin=asker.encode()
        )
        assert revoked.code == 0, revoked
        assert through_each_door(doors, whole) == {"CAVEAT"}
    cluster.converged()
    with cluster.replicas[0].doors() as doors:
        assert through_each_door(doors, whole) == {"CAVEAT"}
